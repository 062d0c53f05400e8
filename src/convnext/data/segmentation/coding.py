"""From the values and colours of mask files to classes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convnext.data.config import SegmentationDataConfig
from convnext.data.segmentation.class_list import FILES, ClassList, ignores

IGNORE = -1  # pixels that count for nothing
_UNKNOWN = -2
_DIRECT = 1 << 16  # values below are looked up directly
_MOST = 32_767  # classes that fit into int16
_SHOWN = 5

OBJECTS = ("background", "object")


class _Table(NamedTuple):
    """Codes in ascending order and their classes; without codes, class k is that of the code k."""

    codes: NDArray[np.int64] | None
    targets: NDArray[np.int16]


class MaskError(ValueError):
    """A mask that cannot be used.

    Attributes:
        kind: "missing_mask", "unreadable_mask", "size_mismatch" or "unknown_value".
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Coding:
    """What the values of mask files mean.

    Attributes:
        classes: K names.
        values: the class 0..K-1 of a value, or `IGNORE`.
        colours: the class of a colour 0xRRGGBB, or `IGNORE`; empty where masks have no colours.
        palette: of index images the colours count, not the values.
        instances: values above 0 are objects, all of the class 1.
        assumed: value 0 is ignored because the folders are called like those of ADE20K, and not
            because anybody said so.
        where: what says so, for messages.
    """

    classes: tuple[str, ...]
    values: Mapping[int, int] = field(default_factory=dict)
    colours: Mapping[int, int] = field(default_factory=dict)
    palette: bool = False
    instances: bool = False
    assumed: bool = False
    where: str = ""

    def decode(self, image: Image.Image, name: str) -> NDArray[np.int16]:
        """The classes of a mask as it is stored, (H, W) int16, `IGNORE` for what does not count.

        Raises:
            MaskError: naming the file, the values outside the classes and how many pixels have
                them.
        """
        pixels, coloured = mask_pixels(
            image, name, colours=bool(self.colours), palette=self.palette
        )
        if self.instances:
            return (pixels > 0).astype(np.int16)
        if coloured and not self.colours:
            raise MaskError(_no_colours(name, pixels), "unknown_value")
        mask = _look_up(pixels, self._colour_table if coloured else self._value_table)
        if mask.min() == _UNKNOWN:
            raise MaskError(
                self._unknown(name, pixels[mask == _UNKNOWN], coloured), "unknown_value"
            )
        return mask

    def renumbered(self, classes: Sequence[str]) -> Self:
        """The same with the numbers of another list, which holds every class of this one."""
        places = {i: classes.index(name) for i, name in enumerate(self.classes)} | {IGNORE: IGNORE}
        return replace(
            self,
            classes=tuple(classes),
            values={value: places[number] for value, number in self.values.items()},
            colours={colour: places[number] for colour, number in self.colours.items()},
        )

    @cached_property
    def _value_table(self) -> _Table:
        return _table(self.values)

    @cached_property
    def _colour_table(self) -> _Table:
        return _table(self.colours)

    def _unknown(self, name: str, pixels: NDArray[np.integer], coloured: bool) -> str:
        values, counts = np.unique(pixels, return_counts=True)
        order = np.argsort(-counts)[:_SHOWN]
        shown = ", ".join(
            f"{_text(int(values[k]), coloured)} ({counts[k]} pixels)" for k in order.tolist()
        )
        more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
        what = "colour" if coloured else "value"
        table = self.colours if coloured else self.values
        known = sorted(key for key, number in table.items() if number != IGNORE)
        file = Path(self.where).name
        remedy = f"name it in {file if file in FILES else 'classes.txt'}"
        remedy += "" if coloured else ", list it in ignore_values"
        return (
            f"{name}: {what} {shown}{more} is outside the {len(self.classes)} classes of "
            f"{self.where} ({what}s {_range(known, coloured)}); {remedy}, or correct the mask"
        )


def file_coding(listed: ClassList, config: SegmentationDataConfig, *, reduce: bool) -> Coding:
    """What a file of classes says of masks.

    With `reduce`, value 0 is ignored and line i names value i + 1, unless the first line itself
    says that value 0 is ignored. What the file gives a value or a colour of its own counts even if
    it is among `ignore_values`.

    Raises:
        ValueError: if there are no two classes, or `reduce` meets colours.
    """
    counted = [name for name in listed.names if not ignores(name)]
    number = {name: i for i, name in enumerate(counted)}
    targets = [number.get(name, IGNORE) for name in listed.names]
    values, ignored = listed.values, dict.fromkeys(config.ignore_values, IGNORE)
    if listed.colours:
        if reduce:
            raise ValueError(
                f"{listed.where}: reduce_zero_label = yes, but classes have colours, not values; "
                "name the first one void to ignore it"
            )
        greys = [colour & 255 for colour in listed.colours]
        if all(
            colour == 0x10101 * grey for colour, grey in zip(listed.colours, greys, strict=True)
        ):
            values = tuple(greys)
    if reduce and not listed.explicit and targets[0] != IGNORE:
        values = tuple(value + 1 for value in values)
    table = dict(zip(values, targets, strict=True))
    named = listed.explicit or bool(listed.colours)
    table = ignored | table if named else table | ignored
    if reduce:
        table |= {0: IGNORE}
    return checked(
        Coding(
            tuple(counted),
            table,
            dict(zip(listed.colours, targets, strict=False)),
            palette=bool(listed.colours),
            where=listed.where,
        )
    )


def named_coding(
    names: Sequence[str],
    values: Iterable[int],
    config: SegmentationDataConfig,
    where: str,
    *,
    reduce: bool = False,
    colours: Mapping[int, int] | None = None,
    ignored: Iterable[int] = (),
) -> Coding:
    """Classes with a value each; other values are `ignored`, and so are `config.ignore_values`."""
    table = dict.fromkeys(ignored, IGNORE) | {value: i for i, value in enumerate(values)}
    table |= dict.fromkeys((*config.ignore_values, *((0,) if reduce else ())), IGNORE)
    return checked(Coding(tuple(names), table, colours or {}, where=where))


def checked(coding: Coding) -> Coding:
    """The coding itself.

    Raises:
        ValueError: if it has fewer than two classes, or more than masks can hold.
    """
    found = ", ".join(map(repr, coding.classes)) or "none"
    if len(coding.classes) < 2:
        raise ValueError(
            f"{coding.where}: classes: {found}; segmentation needs at least two. Is a value "
            "ignored that is a class (ignore_values, reduce_zero_label)? Name the classes in "
            "classes.txt, one a line"
        )
    if len(coding.classes) > _MOST:
        raise ValueError(
            f"{coding.where}: {len(coding.classes)} classes, at most {_MOST}; if the values number "
            "objects, set masks = instances"
        )
    return coding


def mask_pixels(
    image: Image.Image, name: str, *, colours: bool = False, palette: bool = False
) -> tuple[NDArray[np.integer], bool]:
    """What a mask file holds: values (H, W), or colours 0xRRGGBB (H, W).

    Args:
        image: as it is stored.
        name: of the file, for messages.
        colours: take a picture for one in colours even if it is grey.
        palette: take an index image for the picture it shows.

    Returns:
        The values, and whether they are colours.

    Raises:
        MaskError: if values are fractions.
    """
    if image.mode in ("LA", "La", "PA"):
        image = image.getchannel(0)
    if image.mode == "P" and palette:
        image = image.convert("RGB")
    pixels: NDArray[np.integer] = np.asarray(image)
    if image.mode == "F":
        fractions = np.asarray(image)
        if not (np.isfinite(fractions).all() and (fractions == np.floor(fractions)).all()):
            raise MaskError(f"{name}: values are fractions; classes are whole", "unreadable_mask")
        pixels = fractions.astype(np.int64)
    if pixels.ndim == 2:
        return (pixels.astype(np.uint8) if pixels.dtype == bool else pixels), False
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    if not colours and (red == green).all() and (green == blue).all():
        return red, False
    return red.astype(np.int32) << 16 | green.astype(np.int32) << 8 | blue, True


def _table(classes: Mapping[int, int]) -> _Table:
    codes = np.array(sorted(classes), np.int64)
    targets = np.array([classes[code] for code in codes.tolist()], np.int16)
    if codes[0] < 0 or codes[-1] >= _DIRECT:
        return _Table(codes, targets)
    direct = np.full(max(256, int(codes[-1]) + 2), _UNKNOWN, np.int16)  # the last one is unknown
    direct[codes] = targets
    return _Table(None, direct)


def _look_up(pixels: NDArray[np.integer], table: _Table) -> NDArray[np.int16]:
    codes, targets = table
    if codes is not None:
        places = np.searchsorted(codes, pixels).clip(max=len(codes) - 1)
        return np.where(codes[places] == pixels, targets[places], np.int16(_UNKNOWN))
    if pixels.dtype != np.uint8:
        last = len(targets) - 1
        pixels = np.where((pixels < 0) | (pixels > last), last, pixels)
    mask: NDArray[np.int16] = targets[pixels]
    return mask


def _text(value: int, coloured: bool) -> str:
    return f"{value >> 16} {value >> 8 & 255} {value & 255}" if coloured else str(value)


def _range(known: list[int], coloured: bool) -> str:
    if not coloured and known and known[-1] - known[0] == len(known) - 1:
        return f"{known[0]} to {known[-1]}"
    shown = ", ".join(_text(value, coloured) for value in known[:_SHOWN]) or "none"
    return shown + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")


def _no_colours(name: str, pixels: NDArray[np.integer]) -> str:
    found = np.unique(pixels)
    shown = ", ".join(_text(value, True) for value in found[:_SHOWN].tolist())
    return (
        f"{name}: a picture in {len(found)} colours ({shown}) where values of classes are "
        'expected; say in classes.txt what the colours mean, one "name r g b" a line'
    )
