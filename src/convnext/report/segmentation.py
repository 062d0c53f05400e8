"""A segmenter's scores: the headline and the table of classes."""

from convnext.evaluate.segmentation_result import SegmentationResult
from convnext.report.data import ReportData
from convnext.report.overlay import palette
from convnext.report.text import esc, integer, name_cell, percent, quantity, shorten

__all__ = ["region_table", "segmentation_headline"]

MAX_ROWS = 1000
HARDEST = 3


def number(value: float | None) -> str:
    """A score with one decimal; a dash for None."""
    return "–" if value is None else f"{value:.1f}"


def segmentation_headline(data: ReportData, result: SegmentationResult) -> str:
    """The mIoU, bars of the other scores beside it, a sentence and tiles."""
    scored = sum(iou is not None for iou in result.iou)
    classes = f"{integer(scored)} class{'' if scored == 1 else 'es'}"
    return (
        '<section class="headline"><div class="big">'
        f'<div class="number">{number(result.miou)}</div>'
        f"<div>mIoU ({esc(data.split)})</div>"
        f'<div class="muted">mean over {classes}, %</div></div>'
        f'<div class="scale">{_bars(result)}<p>{_sentence(result)}</p></div>'
        f'</section><div class="tiles">{_tiles(result)}</div>'
    )


def _bars(result: SegmentationResult) -> str:
    rows = (
        ("pixels right", result.pixel_accuracy),
        ("mean accuracy", result.mean_accuracy),
        ("mean Dice", result.mean_dice),
        ("IoU, weighted by pixels", result.frequency_weighted_iou),
    )
    cells = "".join(
        f'<span class="muted next">{words}</span>'
        f'<span class="bar next"><i style="width:{value:.1f}%"></i></span>'
        f'<b class="next">{number(value)}</b>'
        for words, value in rows
        if value is not None
    )
    return f'<div class="bars">{cells}</div>'


def _sentence(result: SegmentationResult) -> str:
    if not result.num_pixels:
        return f"No pixel of the {integer(result.num_images)} images counts."
    largest = max(range(result.num_classes), key=lambda k: result.pixels[k])
    share = 100 * result.pixels[largest] / result.num_pixels
    name = esc(shorten(result.class_names[largest], 20))
    text = (
        f"{percent(result.pixel_accuracy)} of the pixels are right; always saying “{name}” would "
        f"be right for {percent(share)}."
    )
    there = [k for k in _hardest_first(result) if result.pixels[k]]
    if len(there) > HARDEST:
        hardest = ", ".join(
            f"{esc(shorten(result.class_names[k], 16))} ({number(result.iou[k])})"
            for k in there[:HARDEST]
        )
        text += f" Hardest by IoU: {hardest}."
    return text


def _tiles(result: SegmentationResult) -> str:
    pixels, ignored = result.num_pixels, result.ignored
    absent = sum(not n for n in result.pixels)
    share = 100 * ignored / (pixels + ignored) if ignored else 0.0
    tiles = (
        ("Images", integer(result.num_images), "all evaluated"),
        (
            "Classes",
            integer(result.num_classes),
            f"{integer(absent)} without a pixel" if absent else "all of them in the images",
        ),
        ("Pixels", quantity(pixels) if pixels >= 1000 else integer(pixels), "that count"),
        ("Ignored", percent(share), "of all pixels count for nothing"),
    )
    return "".join(
        f'<div class="tile"><div class="muted">{esc(name)}</div><div class="value">{esc(value)}'
        f'</div><div class="muted small">{esc(note)}</div></div>'
        for name, value, note in tiles
    )


def region_table(result: SegmentationResult) -> str:
    """Scores of each class, the hardest first; the 1,000 of lowest IoU if there are more."""
    colours = palette(result.num_classes).tolist()
    iou, order = result.iou, _hardest_first(result)
    note = ""
    if len(order) > MAX_ROWS:
        note = (
            f"<p>The {integer(MAX_ROWS)} classes with the lowest IoU of "
            f"{integer(result.num_classes)}; the JSON file beside this report has all of them.</p>"
        )
    columns = ("IoU %", "Dice %", "accuracy %", "pixels", "% of pixels", "% said")
    head = "<th>class</th>" + "".join(f'<th class="num">{name}</th>' for name in columns)
    dice, accuracy, total = result.dice, result.accuracy, max(result.num_pixels, 1)
    body = ""
    for k in order[:MAX_ROWS]:
        cells = _score(iou[k], meter=True) + _score(dice[k]) + _score(accuracy[k], meter=True)
        cells += f'<td class="num" data-value="{result.pixels[k]}">{integer(result.pixels[k])}</td>'
        cells += _score(100 * result.pixels[k] / total, digits=2)
        cells += _score(100 * result.said[k] / total, digits=2)
        body += f"<tr>{name_cell(result.class_names[k], tuple(colours[k]))}{cells}</tr>"
    return (
        f'{note}<div class="scroll tall"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _hardest_first(result: SegmentationResult) -> list[int]:
    """Classes by IoU; those without pixels come after all others, and last those never said."""
    order = {
        k: (not result.pixels[k], 101.0 if iou is None else iou) for k, iou in enumerate(result.iou)
    }
    return sorted(order, key=lambda k: order[k])


def _score(value: float | None, *, meter: bool = False, digits: int = 1) -> str:
    order = -1.0 if value is None else value
    css, share = (" meter", f' style="--share:{max(order, 0):.1f}%"') if meter else ("", "")
    text = "–" if value is None else f"{value:.{digits}f}"
    return f'<td class="num{css}" data-value="{order}"{share}>{text}</td>'
