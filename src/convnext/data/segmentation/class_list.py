"""Files that name the classes of a segmentation set: `classes.txt` and its relatives."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FILES = ("classes.txt", "labelmap.txt", "classes.json", "labels.txt", "codes.txt")
IGNORED = frozenset({"void", "ignore", "ignored", "unlabelled", "unlabeled"})

_RGB = re.compile(r"((?P<name>.*?)[\s,;:]+)?(?P<r>\d+)[\s,;]+(?P<g>\d+)[\s,;]+(?P<b>\d+)")
_HEX = re.compile(r"(?P<name>.*?)[\s,;:]+#(?P<hex>[0-9a-fA-F]{6})")
_VALUE = re.compile(r"(?P<value>\d+)[\s,;:]+(?P<name>.*\S)")
_LIST = """one name a line, "name r g b" a line, or "value name" a line"""


@dataclass(frozen=True)
class ClassList:
    """Names as a file gives them, those of what is ignored included.

    Attributes:
        where: the file, for messages.
        names: in the order of the file.
        values: what stands for each in masks: the number of its line from 0, or as written.
        explicit: whether the values are written in the file.
        colours: 0xRRGGBB of each in masks that are pictures; () where the file gives none.
    """

    where: str
    names: tuple[str, ...]
    values: tuple[int, ...]
    explicit: bool = False
    colours: tuple[int, ...] = ()

    @property
    def settles_zero(self) -> bool:
        """Whether the file itself says what value 0 is, so that no form of a set decides it."""
        return bool(self.colours) or (self.explicit and 0 in self.values) or ignores(self.names[0])


def ignores(name: str) -> bool:
    """Whether a class of this name counts for nothing."""
    return name.strip().lower() in IGNORED


def find_class_list(folders: Iterable[Path]) -> ClassList | None:
    """The first file of classes in some folders, read; None if there is none.

    Lines are names, "name r g b" (or with commas, or "name #rrggbb"), or "value name"; of a
    `labelmap.txt` as CVAT writes it, "name:r,g,b::". In the first two forms line i, from 0, names
    value i. A `classes.json` is a list of names.

    Raises:
        ValueError: naming the file, if its lines are not of one form, or a name is there twice.
        OSError: if it cannot be read.
    """
    places = [folder / name for folder in folders for name in FILES]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return None
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text in UTF-8 ({error.reason})") from error
    if file.suffix == ".json":
        return _plain(file, _json(file, text))
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if file.name == "labelmap.txt":
        lines = [re.sub(r":[^:]*:[^:]*$", "", line) for line in lines]
    return _read(file, lines)


def _read(file: Path, lines: list[str]) -> ClassList:
    colours = [_RGB.fullmatch(line) or _HEX.fullmatch(line) for line in lines]
    if any(colours):
        pairs = [_coloured(file, line, m) for line, m in zip(lines, colours, strict=True)]
        names = _checked(file, [name for name, _ in pairs])
        codes = tuple(code for _, code in pairs)
        twice = [name for name, code in pairs if codes.count(code) > 1]
        if twice:
            raise ValueError(f"{file}: {twice[0]!r} and {twice[1]!r} have the same colour")
        return ClassList(str(file), names, tuple(range(len(names))), colours=codes)
    valued = [_VALUE.fullmatch(line) for line in lines]
    if all(valued):
        names = _checked(file, [match["name"] for match in valued if match])
        values = tuple(int(match["value"]) for match in valued if match)
        if len(set(values)) < len(values):
            number = next(value for value in values if values.count(value) > 1)
            raise ValueError(f"{file}: value {number} is named twice")
        return ClassList(str(file), names, values, explicit=True)
    return _plain(file, lines)


def _plain(file: Path, lines: list[str]) -> ClassList:
    names = _checked(file, lines)
    return ClassList(str(file), names, tuple(range(len(names))))


def _coloured(file: Path, line: str, match: re.Match[str] | None) -> tuple[str, int]:
    if match is None:
        raise ValueError(f"{file}: {line!r} has no colour, other lines have; write {_LIST}")
    fields = match.groupdict()
    name = (fields["name"] or "").strip()
    if "hex" in fields:
        return name, int(fields["hex"], 16)
    red, green, blue = (int(fields[key]) for key in "rgb")
    if max(red, green, blue) > 255:
        raise ValueError(f"{file}: {line!r}: the parts of a colour are numbers from 0 to 255")
    return name, red << 16 | green << 8 | blue


def _json(file: Path, text: str) -> list[str]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file}: no JSON file ({error})") from error
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{file}: not a list of names")
    return content


def _checked(file: Path, names: list[str]) -> tuple[str, ...]:
    if not names:
        raise ValueError(f"{file}: no class is named in it; write {_LIST}")
    if not all(names):
        raise ValueError(f"{file}: a class has no name; write {_LIST}")
    counted = [name for name in names if not ignores(name)]
    twice = sorted({name for name in counted if counted.count(name) > 1})
    if twice:
        raise ValueError(f"{file}: class {twice[0]!r} is named twice")
    return tuple(names)
