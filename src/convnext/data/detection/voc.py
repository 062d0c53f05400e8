"""Reading Pascal VOC annotations: one XML file of boxes per image."""

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from convnext.data.decode import is_image_name
from convnext.data.detection.collect import Annotated, Box, Collector
from convnext.data.detection.header import header_size
from convnext.data.listing import split_of

ANNOTATIONS = ("Annotations", "annotations", "xmls", "labels")
_IMAGES = ("JPEGImages", "images", "Images", "imgs")
_LISTS = ("ImageSets/Main", "ImageSets", ".")


def find_voc(folder: Path) -> tuple[Path, Path] | None:
    """The folder of XML files and that of their images (it may be the same), if there are any."""
    for annotations in (*(folder / name for name in ANNOTATIONS), folder):
        if any(annotations.glob("*.xml")):
            images = [folder / name for name in _IMAGES if (folder / name).is_dir()]
            return annotations, annotations if annotations == folder else [*images, folder][0]
    return None


def split_lists(folder: Path, places: Iterable[str] = _LISTS) -> dict[str, Path]:
    """The text files that list the images of each split, such as `ImageSets/Main/train.txt`."""
    for place in places:
        files = {file.stem: file for file in sorted((folder / place).glob("*.txt"))}
        found = {s: file for name, file in files.items() if (s := split_of(name)) is not None}
        if "trainval" in files:
            found.setdefault("train", files["trainval"])
        if found:
            return found
    return {}


def read_voc(annotations: Path, images: Path, listed: Path | None = None) -> Annotated:
    """The images of a folder with their XML files as a source; classes in order of their names.

    Corners are pixels counted from 1, both inside: xmin 1 and xmax W span an image of width W.
    Objects marked as difficult are neither trained nor counted, as in VOC's own evaluation.

    Args:
        annotations: folder of `.xml` files.
        images: folder of the images.
        listed: file that names the images, one a line; without it, every XML file counts.

    Raises:
        ValueError: naming the file that is broken or missing.
        OSError: if one cannot be read.

    Source: Everingham et al. 2010; the VOC2012 development kit, section 5.
    """
    pictures = {p.stem: p.name for p in sorted(images.iterdir()) if is_image_name(p.name)}
    collector = Collector(str(listed or annotations), str(images), masks=False, keep_unfit=False)
    stems = (
        sorted(p.stem for p in annotations.glob("*.xml"))
        if listed is None
        else listed_names(listed)
    )
    entries = []
    for stem in stems:
        file = annotations / f"{stem}.xml"
        if not file.is_file():
            collector.note("no_annotation", f"{stem}: there is no {file}")
            continue
        root = _parse(file)
        name = pictures.get(stem) or root.findtext("filename", f"{stem}.jpg").strip()
        height, width = _size(root, images / name)
        row = collector.add_image(name, height, width, len(collector) + 1)
        entries += [(row, file, item) for item in root.iter("object")]
    if listed is None:
        for stem in sorted(pictures.keys() - set(stems)):
            collector.note("not_listed", pictures[stem])
    classes = sorted({_class(item) for _, _, item in entries} - {""})
    label_of = {name: i for i, name in enumerate(classes)}
    for row, file, item in entries:
        _add(collector, row, file, item, label_of)
    if not len(collector):
        raise ValueError(f"{listed or annotations}: no image with an annotation")
    return collector.finish(range(1, len(classes) + 1), classes)


def listed_names(listed: Path) -> list[str]:
    """The stems in a list of images: the first word of each line, without folder and ending."""
    lines = listed.read_text(encoding="utf-8-sig").splitlines()
    names = [line.split()[0] for line in lines if line.strip()]
    return [Path(name).stem if is_image_name(name) else Path(name).name for name in names]


def _parse(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(file.read_bytes())
    except ElementTree.ParseError as error:
        raise ValueError(f"{file}: no readable XML ({error})") from error


def _size(root: ElementTree.Element, image: Path) -> tuple[int, int]:
    """The size of the picture as it was annotated.

    The sizes in XML files are often 0 or wrong, so the image's own counts, turned as the XML says.
    """
    if not image.is_file():
        return _number(root, "size/height"), _number(root, "size/width")
    height, width = header_size(image)
    stated = _number(root, "size/height"), _number(root, "size/width")
    turned = header_size(image, upright=False)
    return stated if stated == turned else (height, width)


def _number(root: ElementTree.Element, path: str) -> int:
    text = root.findtext(path, "").strip()
    return int(text) if text.isdecimal() else 0


def _class(item: ElementTree.Element) -> str:
    return item.findtext("name", "").strip()


def _add(
    collector: Collector,
    row: int,
    file: Path,
    item: ElementTree.Element,
    label_of: dict[str, int],
) -> None:
    name = _class(item)
    try:
        x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{key}", "")) for key in _CORNERS)
    except ValueError:
        collector.note("broken_box", f"{file.name}: object {name!r} lacks a corner, or its number")
        return
    if not name:
        collector.note("broken_label", f"{file.name}: an object without a name")
        return
    # A box of one single pixel is a slip of the mouse: kept as degenerate.
    w, h = (x2 - x1 + 1 if x2 > x1 else 0.0), (y2 - y1 + 1 if y2 > y1 else 0.0)
    difficult = item.findtext("difficult", "0").strip() == "1"
    if difficult:
        collector.note("difficult", f"{file.name}: {name!r}")
    box = Box(label_of[name], (x1 - 1, y1 - 1, w, h), w * h, crowd=difficult)
    collector.add_object(row, box, f"{file.name}: {name!r}")


_CORNERS = ("xmin", "ymin", "xmax", "ymax")
