"""Telling the forms of segmentation sets apart by looking, and finding their splits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convnext.data.config import SegmentationDataConfig
from convnext.data.decode import is_image_name, read_raw
from convnext.data.detection.header import header_size
from convnext.data.detection.voc import listed_names, split_lists
from convnext.data.folders import subfolders
from convnext.data.listing import split_of
from convnext.data.segmentation.class_list import ClassList, find_class_list
from convnext.data.segmentation.coding import IGNORE, Coding, mask_pixels, named_coding
from convnext.data.segmentation.names import (
    ADE20K,
    CITYSCAPES,
    CITYSCAPES_IDS,
    VOC,
    VOC_COLOURS,
)
from convnext.data.segmentation.pairs import File, Pairs, files_in, pair

IMAGES = ("images", "image", "imgs", "img")
MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "semantic", "gt")
_BESIDE = ("annot", "_labels", "_label", "_masks", "_mask", "_annotations", "_annotation", "_gt")
_CITYSCAPES_VALUES = 34
_SAMPLE = 5
_FLAT = 0.5  # of the pixels of a mask, most are like their neighbour; of a photograph, few
# Of folders whose names may be those of classes, `face` and `face_mask`, more is asked:
_VERY_FLAT = 0.75
_MOST_CODES = 256  # a picture on white is flat, too, but has many colours

# The classes of a form that has its own, given the configuration and whether value 0 is left out.
Standard = Callable[[SegmentationDataConfig, bool], Coding]


@dataclass(frozen=True)
class Layout:
    """Where the images and masks of a set are, and what says what its classes are.

    Attributes:
        root: folder that paths start from.
        parts: {"all": ...}, or some of "train", "val" and "test".
        listed: the names that a file gives.
        standard: the classes of the form, used where no file names them.
        reduce: whether masks of this form have value 0 for what is ignored.
        dummies: whether masks of the test split are fillers.
        named: whether the folders are called like those of images and masks; else they may be
            classes.
    """

    root: Path
    parts: dict[str, Pairs]
    listed: ClassList | None = None
    standard: Standard | None = None
    reduce: bool = False
    dummies: bool = False
    named: bool = True


def find_layout(path: Path) -> Layout | None:
    """The segmentation set at a folder, None where there are no images with masks.

    Raises:
        ValueError: naming the files that contradict each other.
        OSError: if a folder may not be read.
    """
    if not path.is_dir():
        return None
    for find in (_cityscapes, _voc, _plain, _splits, _beside):
        layout = find(path)
        if layout is not None and layout.parts:
            return layout
    return None


def looks_like_masks(layout: Layout) -> bool:
    """Whether a few of the masks look like masks, of even areas, and not like photographs.

    Folders of classes may be called `images` and `masks`, too.
    """
    pairs = [
        place
        for part in layout.parts.values()
        for place in zip(part.images, part.masks, strict=True)
        if place[1]
    ]
    found = [
        _looks_like_mask(layout.root / mask, None if layout.named else layout.root / image)
        for image, mask in pairs[:: max(1, len(pairs) // _SAMPLE)]
    ]
    return float(np.mean(found)) > 0.5


def has_mask_folder(path: Path) -> bool:
    """Whether a folder that is called like one of masks holds files that look like masks.

    Raises:
        OSError: if a folder may not be read.
    """
    children = subfolders(path)
    names = {child.name for child in children}
    places = [child / name for child in (path, *children) for name in MASKS]
    places += [path / name for name in ("gtFine", "SegmentationClass")]
    beside = [child for child in children if _before(child.name) in names]
    for place in (place for place in (*places, *beside) if place.is_dir()):
        files = [path / file.path for file in files_in(path, place)]
        taken = files[:: max(1, len(files) // _SAMPLE)]
        looks = [_looks_like_mask(file, file if place in beside else None) for file in taken]
        if looks and float(np.mean(looks)) > 0.5:
            return True
    return False


def _before(name: str) -> str:
    """`face` of `face_mask`; "" of what has no such ending."""
    return next((name.removesuffix(end) for end in _BESIDE if name.endswith(end)), "")


def _looks_like_mask(file: Path, image: Path | None) -> bool:
    """Whether a file looks like a mask, and beyond doubt like that of an image where it is given.

    Beyond doubt: of its size, of few colours, of even areas.
    """
    try:
        pixels, _ = mask_pixels(read_raw(file.read_bytes(), name=str(file)), str(file))
        if image is not None and sorted(header_size(image)) != sorted(pixels.shape):
            return False
    except (OSError, ValueError):
        return False
    if pixels.shape[1] < 2:
        return True
    flat = (pixels[:, 1:] == pixels[:, :-1]).mean()
    if image is None:
        return bool(flat > _FLAT)
    return bool(flat > _VERY_FLAT) and len(np.unique(pixels)) <= _MOST_CODES


def _plain(path: Path) -> Layout | None:
    """`images/` beside `masks/` or the like, ADE20K among them."""
    for images in (path / name for name in IMAGES):
        for masks in (path / name for name in MASKS):
            truths = files_in(path, masks) if images.is_dir() and masks.is_dir() else []
            if truths and (parts := pair(files_in(path, images), truths, path)):
                listed = find_class_list((path, masks))
                ade20k = masks.name == "annotations" and all(
                    (folder / "training").is_dir() for folder in (images, masks)
                )
                if ade20k:
                    return Layout(path, parts, listed, _ade20k, reduce=True)
                return Layout(path, parts, listed)
    return None


def _splits(path: Path) -> Layout | None:
    """`train/images/` beside `train/masks/` or the like."""
    parts: dict[str, Pairs] = {}
    for child in subfolders(path):
        split = split_of(child.name)
        inside = _plain(child) if split is not None else None
        if split is None or inside is None or "all" not in inside.parts:
            continue
        if split in parts:
            raise ValueError(f"{path}: two folders look like the {split} split; keep one")
        part = inside.parts["all"]
        parts[split] = Pairs(
            tuple(f"{child.name}/{name}" for name in part.images),
            tuple(name and f"{child.name}/{name}" for name in part.masks),
            tuple(f"{child.name}/{name}" for name in part.lone),
        )
    children = (path / name for name in ("train", "training"))
    return Layout(path, parts, find_class_list((path, *children))) if parts else None


def _beside(path: Path) -> Layout | None:
    """`train/` beside `trainannot/`, `pictures/` beside `pictures_masks/`, and the like."""
    folders = {child.name: child for child in subfolders(path)}
    pairs = []
    for name, folder in folders.items():
        beside = [folders[name + ending] for ending in _BESIDE if name + ending in folders]
        pairs += [(folder, masks) for masks in beside[:1]]
    if not pairs:  # nor is a list of classes there one of ours
        return None
    named = [(images, masks) for images, masks in pairs if split_of(images.name)]
    images: list[File] = []
    masks: list[File] = []
    for first, second in named or pairs:
        for files, folder in ((images, first), (masks, second)):
            found = files_in(path, folder, split_of(first.name))
            files += [file._replace(folder=f"{first.name}/{file.folder}") for file in found]
    parts = pair(images, masks, path)
    return Layout(path, parts, find_class_list((path,)), named=bool(named)) if parts else None


def _voc(path: Path) -> Layout | None:
    """Pascal VOC: lists in `ImageSets/Segmentation` say which images have masks."""
    images, masks = path / "JPEGImages", path / "SegmentationClass"
    if not (images.is_dir() and masks.is_dir()):
        return None
    listed = find_class_list((path,))
    lists = split_lists(path, ("ImageSets/Segmentation", "ImageSets"))
    if not lists:
        found = pair(files_in(path, images), files_in(path, masks), path)
        return Layout(path, {split: _masked(p) for split, p in found.items()}, listed, _voc_coding)
    files = ({p.stem: p for p in folder.iterdir()} for folder in (images, masks))
    pictures, truths = (
        {stem: f"{p.parent.name}/{p.name}" for stem, p in found.items() if is_image_name(p.name)}
        for found in files
    )
    parts = {}
    for split, file in lists.items():
        stems = listed_names(file)
        names = tuple(pictures.get(stem, f"{images.name}/{stem}.jpg") for stem in stems)
        parts[split] = Pairs(names, tuple(truths.get(stem, "") for stem in stems))
    parts = {split: part for split, part in parts.items() if part.found}
    return Layout(path, parts, listed, _voc_coding)


def _cityscapes(path: Path) -> Layout | None:
    """Cityscapes: masks of ids or of training ids; the test split comes with fillers."""
    pictures, truths = path / "leftImg8bit", path / "gtFine"
    if not (pictures.is_dir() and truths.is_dir()):
        return None
    images = [
        file._replace(stem=file.stem.removesuffix("_leftImg8bit"))
        for file in files_in(path, pictures)
        if file.split is not None
    ]
    kinds = []
    for ending in ("_gtFine_labelTrainIds", "_gtFine_labelIds"):
        kinds.append(
            [
                file._replace(stem=file.stem.removesuffix(ending))
                for file in files_in(path, truths)
                if file.stem.endswith(ending)
            ]
        )
    train = len(kinds[0]) >= len(kinds[1])
    parts = pair(images, kinds[0] if train else kinds[1], path)
    coding = _cityscapes_train_ids if train else _cityscapes_ids
    return Layout(path, parts, None, coding, dummies=True)


def _masked(part: Pairs) -> Pairs:
    """Only the images that have a mask."""
    kept = [place for place in zip(part.images, part.masks, strict=True) if place[1]]
    images, masks = zip(*kept, strict=True)
    return Pairs(images, masks, part.lone)


def _ade20k(config: SegmentationDataConfig, reduce: bool) -> Coding:
    values = range(1, 151) if reduce else range(150)
    return named_coding(ADE20K, values, config, "ADE20K", reduce=reduce)


def _voc_coding(config: SegmentationDataConfig, reduce: bool) -> Coding:
    first = int(reduce)  # without the background
    colours = {key: max(i - first, IGNORE) for key, i in VOC_COLOURS.items()}
    values = range(first, len(VOC))
    return named_coding(VOC[first:], values, config, "Pascal VOC", reduce=reduce, colours=colours)


def _cityscapes_ids(config: SegmentationDataConfig, reduce: bool) -> Coding:
    ignored = range(_CITYSCAPES_VALUES)
    return named_coding(CITYSCAPES, CITYSCAPES_IDS, config, "Cityscapes", ignored=ignored)


def _cityscapes_train_ids(config: SegmentationDataConfig, reduce: bool) -> Coding:
    return named_coding(CITYSCAPES, range(len(CITYSCAPES)), config, "Cityscapes", reduce=reduce)
