"""Reliability diagram and calibration in words."""

from convnext.evaluate.result import ClassificationResult
from convnext.report.svg import Frame, axes, nice_ticks, picture
from convnext.report.text import integer

HEIGHT = 300  # about square inside the margins
TICKS = (0, 20, 40, 60, 80, 100)


def reliability_diagram(result: ClassificationResult) -> str:
    """Accuracy over confidence in bins, its gap to the diagonal, and how many images lie where."""
    frame = Frame(x_range=(0.0, 100.0), y_range=(0.0, 100.0), height=HEIGHT)
    bars = []
    for b in result.reliability:
        if b.accuracy is None or b.confidence is None:
            continue
        x, wide = frame.x(100 * b.low) + 1, frame.x(100 * b.high) - frame.x(100 * b.low) - 2
        acc, conf = frame.y(100 * b.accuracy), frame.y(100 * b.confidence)
        said = (
            f"{integer(b.count)} images: confidence {100 * b.confidence:.1f} %, "
            f"accuracy {100 * b.accuracy:.1f} %"
        )
        bars.append(
            f"<g><title>{said}</title>"
            f'<rect class="hit bar" x="{x:.1f}" y="{acc:.1f}" width="{wide:.1f}" '
            f'height="{frame.y(0) - acc:.1f}"/>'
            f'<rect class="gap" x="{x:.1f}" y="{min(acc, conf):.1f}" width="{wide:.1f}" '
            f'height="{abs(acc - conf):.1f}"/></g>'
        )
    diagonal = (
        f'<line class="diagonal" x1="{frame.x(0):.1f}" y1="{frame.y(0):.1f}" '
        f'x2="{frame.x(100):.1f}" y2="{frame.y(100):.1f}"/>'
    )
    content = (
        axes(frame, x_ticks=TICKS, y_ticks=TICKS, x_title="confidence, %", y_title="accuracy, %")
        + "".join(bars)
        + diagonal
    )
    legend = (
        '<span class="key c-val">accuracy</span>'
        '<span class="key c-gap">gap to the confidence</span>'
    )
    return (
        f"<figure><figcaption><b>Reliability</b>{legend}</figcaption>"
        f"{picture(frame, 'Reliability diagram', content)}</figure>"
        f"<figure><figcaption><b>Images by confidence</b></figcaption>{_counts(result)}</figure>"
    )


def _counts(result: ClassificationResult) -> str:
    most = max(b.count for b in result.reliability)
    frame = Frame(
        x_range=(0.0, 100.0), y_range=(0.0, 106 * most / result.num_images), height=HEIGHT
    )
    bars = "".join(
        f'<rect class="count-bar" x="{frame.x(100 * b.low) + 1:.1f}" '
        f'y="{frame.y(100 * b.count / result.num_images):.1f}" '
        f'width="{frame.x(100 * b.high) - frame.x(100 * b.low) - 2:.1f}" '
        f'height="{frame.y(0) - frame.y(100 * b.count / result.num_images):.1f}">'
        f"<title>{integer(b.count)} images</title></rect>"
        for b in result.reliability
        if b.count
    )
    content = axes(
        frame,
        x_ticks=TICKS,
        y_ticks=nice_ticks(*frame.y_range, 5),
        x_title="confidence, %",
        y_title="share of images, %",
    )
    return picture(frame, "Histogram of the confidence", content + bars)


def calibration_words(result: ClassificationResult) -> str:
    """What the calibration numbers mean, in plain sentences (HTML)."""
    text = (
        f"Confidence and accuracy differ by <b>{100 * result.ece:.1f} points</b> on average "
        "(expected calibration error, 15 bins of equal width)."
    )
    fit = result.temperature
    if fit is None:
        return f"<p>{text}</p>"
    meaning = (
        "the network is surer than it should be"
        if fit.temperature > 1.05
        else "the network is less sure than it could be"
        if fit.temperature < 0.95
        else "the confidence is already about right"
    )
    limit = ""
    if fit.at_limit:
        reason = (
            "the confidence says little about who is right"
            if fit.temperature > 1
            else "there are too few mistakes"
        )
        limit = f" The fit ended at its limit: {reason}."
    text += (
        f" Dividing the logits by a temperature <b>T = {fit.temperature:.2f}</b> "
        f"({meaning}), fitted on {integer(fit.num_fit)} of these images, changes the error on the "
        f"other {integer(fit.num_measured)} from {100 * fit.ece_before:.1f} to "
        f"{100 * fit.ece_after:.1f} points and their loss from {fit.loss_before:.3f} to "
        f"{fit.loss_after:.3f}.{limit} A temperature changes no prediction. With few images the "
        "error is overestimated, because each bin is noisy."
    )
    return f"<p>{text}</p>"
