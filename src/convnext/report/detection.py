"""A detector's scores: the headline, the table of classes, and its errors by kind."""

from collections.abc import Mapping, Sequence

from convnext.evaluate.coco_result import ClassAP, CocoAP, DetectionResult
from convnext.evaluate.detection_errors import (
    CROWD,
    FOUND,
    RIGHT,
    DetectionErrors,
)
from convnext.report.data import ReportData
from convnext.report.precision import spark
from convnext.report.text import esc, integer, name_cell, percent

__all__ = ["class_table", "detection_headline", "error_bars"]

MAX_ROWS = 1000
MAX_PAIRS = 8
ROWS = (
    *(("AP", "AP"), ("AP50", "IoU .50"), ("AP75", "IoU .75")),
    *(("APs", "small, < 32² px"), ("APm", "medium"), ("APl", "large, > 96² px")),
)


def number(value: float | None) -> str:
    """A score with one decimal; a dash for None."""
    return "–" if value is None else f"{value:.1f}"


def detection_headline(data: ReportData, result: DetectionResult) -> str:
    """The AP of boxes, bars of its parts beside that of masks, a sentence and tiles."""
    classes = _classes(sum(score.num_objects > 0 for score in result.per_class))
    return (
        '<section class="headline"><div class="big">'
        f'<div class="number">{number(result.box.AP)}</div>'
        f"<div>box AP ({esc(data.split)})</div>"
        f'<div class="muted">mean over IoU .50 to .95 and {classes}</div></div>'
        f'<div class="scale">{_bars(result.box, result.mask)}<p>{_sentence(data, result)}</p></div>'
        f'</section><div class="tiles">{_tiles(data, result)}</div>'
    )


def _bars(box: CocoAP, mask: CocoAP | None) -> str:
    """AP by threshold and size, a bar each for boxes and masks; what does not exist is left out."""
    cells = ""
    for name, words in ROWS:
        values = [(getattr(box, name), "c-box")]
        if mask is not None:
            values.append((getattr(mask, name), "c-mask"))
        values = [(value, css) for value, css in values if value is not None]
        for place, (value, css) in enumerate(values):
            first = " next" if place == 0 else ""
            label = esc(words) if place == 0 else ""
            cells += (
                f'<span class="muted{first}">{label}</span>'
                f'<span class="bar{first}"><i class="{css}" style="width:{value:.1f}%"></i></span>'
                f'<b class="{first.strip()}">{number(value)}</b>'
            )
    legend = '<span class="key c-val">boxes</span> <span class="key c-mask">masks</span>'
    return f'<div class="bars">{cells}</div>' + (f"<div>{legend}</div>" if mask else "")


def _sentence(data: ReportData, result: DetectionResult) -> str:
    if not result.num_objects:
        return f"The {integer(result.num_images)} images hold no objects, so nothing can be found."
    if not result.num_detections:
        return "The network detects nothing at all."
    if data.errors is None:
        return ""
    errors = data.errors
    return (
        f"With detections of score {errors.threshold:.2f} or more, "
        f"{integer(errors.objects[FOUND])} of the {integer(result.num_objects)} objects are found "
        f"({percent(_scaled(errors.recall))}), and {percent(_scaled(errors.precision))} of the "
        "detections are right, at IoU .50."
        + (" That threshold gives the best balance (F1) here." if errors.best else "")
    )


def _classes(count: int) -> str:
    return f"{integer(count)} class{'' if count == 1 else 'es'}"


def _scaled(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _tiles(data: ReportData, result: DetectionResult) -> str:
    tiles = []
    if result.mask is not None:
        tiles.append(("Mask AP", number(result.mask.AP), "mean over IoU .50 to .95"))
    tiles.append(("AR", number(result.box.AR100), "mean recall of boxes"))
    if data.errors is not None:
        errors = data.errors
        at = f"at score {errors.threshold:.2f}"
        tiles.append(("Found", percent(_scaled(errors.recall)), f"of the objects, {at}"))
        tiles.append(("Right", percent(_scaled(errors.precision)), f"of the detections, {at}"))
    crowds = f", {integer(result.num_crowds)} crowds" if result.num_crowds else ""
    unseen = f"{integer(result.num_unseen)} not seen" if result.num_unseen else "all evaluated"
    tiles += [
        ("Images", integer(result.num_images), unseen),
        ("Objects", integer(result.num_objects), f"{_classes(result.num_classes)}{crowds}"),
        ("Detections", integer(result.num_detections), "of any score"),
    ]
    return "".join(
        f'<div class="tile"><div class="muted">{esc(name)}</div><div class="value">{esc(value)}'
        f'</div><div class="muted small">{esc(note)}</div></div>'
        for name, value, note in tiles
    )


def class_table(result: DetectionResult) -> str:
    """Scores of each class in the order of the classes; the 1,000 of lowest AP if more."""
    rows = list(enumerate(result.per_class))
    note = ""
    if len(rows) > MAX_ROWS:
        rows.sort(key=lambda row: 101.0 if row[1].box.AP is None else row[1].box.AP)
        rows = rows[:MAX_ROWS]
        note = (
            f"<p>The {integer(MAX_ROWS)} classes with the lowest AP of "
            f"{integer(result.num_classes)}; the JSON file beside this report has all of them.</p>"
        )
    columns = ["objects", "detections", "AP", "AP50", "AP75", "AR"]
    if result.mask is not None:
        columns += ["mask AP", "mask AP50"]
    head = "<th>class</th>" + "".join(f'<th class="num">{name}</th>' for name in columns)
    body = "".join(_class_row(result, label, score) for label, score in rows)
    return (
        f'{note}<div class="scroll tall"><table class="sortable"><thead><tr>{head}'
        f"<th>precision over recall</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


def _class_row(result: DetectionResult, label: int, score: ClassAP) -> str:
    cells = "".join(
        f'<td class="num" data-value="{value}">{integer(value)}</td>'
        for value in (score.num_objects, score.num_detections)
    )
    box, mask = score.box, score.mask
    values = [(box.AP, True), (box.AP50, False), (box.AP75, False), (box.AR100, False)]
    if mask is not None:
        values += [(mask.AP, True), (mask.AP50, False)]
    for value, meter in values:
        share = f' style="--share:{value or 0:.1f}%"' if meter else ""
        cells += (
            f'<td class="num{" meter" if meter else ""}" '
            f'data-value="{-1 if value is None else value}"{share}>{number(value)}</td>'
        )
    order = -1 if box.AP50 is None else box.AP50
    curve = f'<td data-value="{order}">{spark(result.box_curves, label)}</td>'
    return f"<tr>{name_cell(score.name)}{cells}{curve}</tr>"


def error_bars(errors: DetectionErrors, class_names: Sequence[str]) -> str:
    """What became of the objects, what the detections are, and classes taken for others."""
    parts = [
        _kinds("Objects", errors.objects, good=FOUND),
        _kinds("Detections", errors.detections, good=RIGHT),
    ]
    note = (
        f'<p class="muted">Boxes at IoU .50, detections of score {errors.threshold:.2f} or more. '
        "Badly placed: IoU .10 to .50. Detections inside a region marked as a crowd count neither "
        "way.</p>"
    )
    return f'{note}<div class="split">{"".join(parts)}{_confused(errors, class_names)}</div>'


def _kinds(title: str, counts: Mapping[str, int], *, good: str) -> str:
    total = sum(counts.values())
    cells = ""
    for kind, n in counts.items():
        if not n and kind == CROWD:
            continue
        css = "c-box" if kind == good else "none" if kind == CROWD else "miss"
        share = 100 * n / total if total else 0.0
        cells += (
            f'<span class="next">{esc(kind)}</span>'
            f'<span class="bar next"><i class="{css}" style="width:{share:.1f}%"></i></span>'
            f'<b class="next">{integer(n)}</b>'
        )
    return f'<div><h3>{title}: {integer(total)}</h3><div class="bars">{cells}</div></div>'


def _confused(errors: DetectionErrors, class_names: Sequence[str]) -> str:
    """Pairs of classes, the most frequent first; empty text without any."""
    if not errors.confused or not class_names:
        return ""
    rows = "".join(
        f"<tr>{name_cell(class_names[true])}{name_cell(class_names[said])}"
        f'<td class="num">{integer(n)}</td></tr>'
        for true, said, n in errors.confused[:MAX_PAIRS]
    )
    return (
        '<div class="pairs"><h3>Taken for another class</h3><div class="scroll"><table><thead><tr>'
        '<th>is</th><th>was called</th><th class="num">times</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div>"
    )
