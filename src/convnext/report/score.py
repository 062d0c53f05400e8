"""The headline: the score, its interval, the majority-class baseline, and the other numbers."""

from convnext.evaluate.result import ClassificationResult
from convnext.report.data import ReportData
from convnext.report.text import THIN, esc, integer, percent, shorten


def headline(data: ReportData, result: ClassificationResult) -> str:
    """Big number, scale with the baseline, one sentence, and tiles of the other scores."""
    digits = 1 if result.num_images < 10_000 else 2
    low, high = result.top1_interval
    return (
        '<section class="headline"><div class="big"><div class="number">'
        f'{result.top1:.{digits}f}<span class="sign">{THIN}%</span></div>'
        f"<div>top-1 accuracy ({esc(data.split)})</div>"
        f'<div class="muted">95{THIN}% interval {low:.{digits}f} to {high:.{digits}f}</div></div>'
        f'<div class="scale">{_scale(result)}<p>{_sentence(data, result)}</p></div></section>'
        f'<div class="tiles">{_tiles(result, digits)}</div>'
    )


def _sentence(data: ReportData, result: ClassificationResult) -> str:
    right = round(result.top1 * result.num_images / 100)
    name = result.class_names[result.majority_class]
    above = result.top1 - result.majority_top1
    if result.top1_interval[0] > result.majority_top1:
        verdict = f"the network is {above:.1f} points above that"
    elif result.top1_interval[1] < result.majority_top1:
        verdict = f"the network is {-above:.1f} points <em>below</em> that"
    else:
        verdict = "the network is <em>not clearly better</em> than that: the interval includes it"
    return (
        f"Of {integer(result.num_images)} images ({esc(data.split)}), {integer(right)} were named "
        f"correctly. Always answering <q>{esc(name)}</q>, the most frequent class, would be right "
        f"for {percent(result.majority_top1)}; {verdict}."
    )


def _scale(result: ClassificationResult) -> str:
    """Score, interval and baseline from 0 to 100 %: positions in percent, text in fixed size."""
    low, high = result.top1_interval
    score, base = result.top1, result.majority_top1
    name = shorten(result.class_names[result.majority_class], 14)
    label = f"always “{name}” {percent(base)}"
    content = (
        '<rect class="track" x="0" y="28" width="100%" height="18" rx="3"/>'
        f'<rect class="hit" x="0" y="28" width="{score:.2f}%" height="18" rx="3"/>'
        f"{_line('whisker', low, high, 37, 37)}"
        f"{_line('whisker', low, low, 32, 42)}{_line('whisker', high, high, 32, 42)}"
        f"{_line('baseline', base, base, 20, 54)}"
        f"{_text('note', score, 16, f'this network {percent(score)}')}"
        f"{_text('c-base', base, 68, label)}"
    )
    content += "".join(_text("tick", v, 90, f"{v}{THIN}%", edge=10) for v in (0, 25, 50, 75, 100))
    said = esc(f"Top-1 {percent(score)}, {label}")
    return f'<svg width="100%" height="94" role="img" aria-label="{said}">{content}</svg>'


def _line(css: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{css}" x1="{x1:.2f}%" x2="{x2:.2f}%" y1="{y1}" y2="{y2}"/>'


def _text(css: str, x: float, y: float, text: str, *, edge: float = 28) -> str:
    """Centred text, but near an edge (in percent) anchored so that it stays in the picture."""
    anchor = "start" if x < edge else "end" if x > 100 - edge else "middle"
    return f'<text class="{css}" x="{x:.2f}%" y="{y}" text-anchor="{anchor}">{esc(text)}</text>'


def _tiles(result: ClassificationResult, digits: int) -> str:
    tiles = [
        ("Balanced accuracy", percent(result.balanced_accuracy, digits), "mean recall per class"),
        ("Macro F1", f"{result.macro_f1:.3f}", "mean over the classes"),
    ]
    if result.num_classes > result.k:
        tiles.append((f"Top-{result.k}", percent(result.top5, digits), "truth among the best five"))
    if result.roc_auc is not None:
        positive = f"positive: {shorten(result.class_names[1], 12)}"
        tiles.append(("ROC AUC", f"{result.roc_auc:.3f}", positive))
    if result.average_precision is not None:
        tiles.append(("Average precision", f"{result.average_precision:.3f}", positive))
    tiles += [
        ("Loss", f"{result.loss:.3f}", "cross-entropy, nats"),
        ("Calibration error", percent(100 * result.ece), "confidence against accuracy"),
        ("Images", integer(result.num_images), f"{integer(result.num_classes)} classes"),
    ]
    return "".join(
        f'<div class="tile"><div class="muted">{esc(name)}</div><div class="value">{esc(value)}'
        f'</div><div class="muted small">{esc(note)}</div></div>'
        for name, value, note in tiles
    )
