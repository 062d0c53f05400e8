"""Put a report together and write it: one file that loads nothing from anywhere."""

import contextlib
import os
import string
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from convnext.report.curves import curves, has_objects, has_pixels
from convnext.report.data import ReportData
from convnext.report.detection import class_table, detection_headline, error_bars
from convnext.report.gallery import (
    data_uri,
    detection_gallery,
    gallery,
    segmentation_gallery,
)
from convnext.report.matrix import (
    MAX_CLASSES,
    Confusion,
    confused_pairs,
    confusion_matrix,
    of_images,
    of_pixels,
)
from convnext.report.precision import precision_curves
from convnext.report.reliability import calibration_words, reliability_diagram
from convnext.report.score import headline
from convnext.report.segmentation import region_table, segmentation_headline
from convnext.report.tables import cost_table, facts_table, per_class_table, recipe_table
from convnext.report.text import esc

FEW_CLASSES = 5
Section = tuple[str, str, str]  # anchor, title, content


def write_report(data: ReportData, path: Path) -> None:
    """Write the report as one self-contained HTML file.

    The file appears whole or not at all: it is written under a temporary name beside its
    destination, synced and renamed.

    Raises:
        OSError: The file cannot be written.
    """
    text = render(data).encode("utf-8")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a report is readable by whom the umask allows.
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def render(data: ReportData) -> str:
    """The report's HTML."""
    builders: tuple[Callable[[ReportData], Section], ...] = (
        _curves,
        _regions,
        _confusion,
        _classes,
        _calibration,
        _mistakes,
        _correct,
        _precision,
        _objects,
        _errors,
        _detections,
        _segments,
        _pictures,
        _cost,
        _run,
    )
    sections = [section for build in builders if (section := build(data))[2]]
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections)
    files = resources.files("convnext.report")
    page = string.Template(files.joinpath("page.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=esc(data.title),
        created=esc(data.created),
        description=f"<p>{esc(data.description)}</p>" if data.description else "",
        style=files.joinpath("style.css").read_text(encoding="utf-8"),
        headline=_headline(data),
        links=links,
        sections="".join(
            f'<section id="{anchor}"><h2>{title}</h2>{content}</section>'
            for anchor, title, content in sections
        ),
    )


def _headline(data: ReportData) -> str:
    text = headline(data, data.result) if data.result else ""
    text += detection_headline(data, data.detection) if data.detection else ""
    return text + (segmentation_headline(data, data.segmentation) if data.segmentation else "")


def _curves(data: ReportData) -> Section:
    drawn = curves(data.history)
    measured = "AP" if has_objects(data.history) else "mIoU" if has_pixels(data.history) else ""
    if measured:
        words = "The losses are measured on augmented images while the weights change, "
        words += f"{measured} on plain"
        note = f'<p class="muted">{words} validation images.</p>'
    else:
        note = (
            '<p class="muted">The training loss is measured on augmented images while the weights '
            "change, the validation loss on plain ones; the two need not meet.</p>"
        )
    return "curves", "Learning curves", drawn + note if drawn else ""


def _confusion(data: ReportData) -> Section:
    title = "Confusion"
    found: Confusion | None = of_images(data.result) if data.result else None
    if data.segmentation and data.segmentation.num_classes > 1:
        found = of_pixels(data.segmentation)
    if found is None:
        return "confusion", title, ""
    drawn = confusion_matrix(found)
    if data.result and data.result.num_classes <= FEW_CLASSES:  # then there is room beside it
        beside = per_class_table(data.result)
    else:
        beside = confused_pairs(found, 10 if drawn else 40)
    if drawn:
        numbers = ", numbers in percent" if found.unit == "pixels" else ""
        note = (
            '<p class="muted">Rows are true classes, columns what the network said. Colour is the '
            f'share of the row{numbers}: <span class="key c-val">right</span> '
            '<span class="key c-gap">wrong</span>.</p>'
        )
    else:
        note = (
            f'<p class="muted">With more than {MAX_CLASSES} classes the pairs below say more than '
            "a matrix.</p>"
        )
    return "confusion", title, note + f'<div class="split">{drawn}{beside}</div>'


def _classes(data: ReportData) -> Section:
    if data.result is None or data.result.num_classes <= FEW_CLASSES:
        return "classes", "Per class", ""
    return "classes", "Per class", per_class_table(data.result)


def _calibration(data: ReportData) -> Section:
    if data.result is None:
        return "calibration", "Calibration", ""
    content = calibration_words(data.result) + reliability_diagram(data.result)
    return "calibration", "Calibration", f'<div class="panels">{content}</div>'


def _mistakes(data: ReportData) -> Section:
    note = (
        '<p class="muted">The wrong answers the network was surest of. Left: the image as the '
        "network saw it; right: where it found what it said (Grad-CAM, lighter is stronger).</p>"
    )
    drawn = gallery(data.mistakes)
    return "mistakes", "Most confident mistakes", note + drawn if drawn else ""


def _correct(data: ReportData) -> Section:
    note = '<p class="muted">A sample of the right answers, not a selection.</p>'
    drawn = gallery(data.correct)
    return "correct", "Right answers", note + drawn if drawn else ""


def _precision(data: ReportData) -> Section:
    drawn = precision_curves(data.detection) if data.detection else ""
    note = (
        '<p class="muted">Precision is the share of right detections, recall the share of found '
        "objects, while the score threshold falls from left to right; the area below is AP. Means "
        "over the classes.</p>"
    )
    return "precision", "Precision and recall", drawn + note if drawn else ""


def _objects(data: ReportData) -> Section:
    return "objects", "Per class", class_table(data.detection) if data.detection else ""


def _errors(data: ReportData) -> Section:
    if data.errors is None:
        return "errors", "Errors", ""
    names = data.detection.class_names if data.detection else ()
    return "errors", "Errors", error_bars(data.errors, names)


def _detections(data: ReportData) -> Section:
    from_score = f" with a score of {data.errors.threshold:.2f} or more" if data.errors else ""
    note = (
        '<p class="muted">The images with most errors. Left: the objects that are there, those '
        f"not found in orange. Right: the detections{from_score}, wrong ones in orange.</p>"
    )
    drawn = detection_gallery(data.detections)
    return "detections", "Worst images", note + drawn if drawn else ""


def _regions(data: ReportData) -> Section:
    note = (
        '<p class="muted">The hardest classes first. IoU: pixels that are right, of those that are '
        "of the class or were called so. Accuracy: of those that are of the class. Classes without "
        "a pixel come last.</p>"
    )
    drawn = region_table(data.segmentation) if data.segmentation else ""
    return "regions", "Per class", note + drawn if drawn else ""


def _segments(data: ReportData) -> Section:
    note = (
        '<p class="muted">The images of lowest mIoU. Left: the image; middle: its true classes; '
        "right: what the network said. The number behind a class is its IoU in this image. "
        '<i class="chip ignored"></i>Pixels that do not count.</p>'
    )
    drawn = segmentation_gallery(data.segments)
    return "segments", "Worst images", note + drawn if drawn else ""


def _pictures(data: ReportData) -> Section:
    drawn = "".join(
        f'<figure><img src="{data_uri(image)}" alt="{esc(caption)}" style="max-width:100%">'
        f'<figcaption class="muted">{esc(caption)}</figcaption></figure>'
        for caption, image in data.pictures
    )
    return "pictures", "Pictures", drawn


def _cost(data: ReportData) -> Section:
    return "cost", "Cost", cost_table(data.cost) if data.cost else ""


def _run(data: ReportData) -> Section:
    content = facts_table(data.facts)
    if data.command:
        content += f"<h3>Command</h3><pre><code>{esc(data.command)}</code></pre>"
    if data.recipe:
        content += (
            f"<details><summary>Resolved recipe</summary>{recipe_table(data.recipe)}</details>"
        )
    if data.versions:
        content += f"<details><summary>Versions</summary>{facts_table(data.versions)}</details>"
    return "run", "Run", content
