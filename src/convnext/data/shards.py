"""WebDataset tar shards, read by offset: any image of any shard at any time."""

import hashlib
import json
import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convnext.data import cache
from convnext.data.decode import is_image_name
from convnext.data.listing import Listing, number_labels, read_class_names, split_of
from convnext.data.source import PackedStrings, Source

_JSON_KEYS = ("label", "class", "cls", "category", "target")
_MAX_OPEN = 64
_MAX_LABEL_BYTES = 1 << 20

# One image of a shard: name inside the shard, offset and size of its bytes, label as written.
Member = tuple[str, int, int, str]


class ShardSource(Source):
    """Images inside uncompressed tar files.

    Args:
        shards: paths of the tar files.
        members: for each shard its images as (name, offset, size, label).
        labels: (N,) int64 in the same order.
    """

    read_block = 64

    def __init__(
        self, shards: list[str], members: list[list[Member]], labels: NDArray[np.int64]
    ) -> None:
        super().__init__(labels)
        self._shards = shards
        self._names = PackedStrings(member[0] for part in members for member in part)
        counts = [len(part) for part in members]
        self._shard = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        spans = [member[1:3] for part in members for member in part]
        self._spans = np.array(spans, np.int64).reshape(-1, 2)
        self._files: OrderedDict[int, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def _name(self, row: int) -> str:
        return f"{self._shards[self._shard[row]]}/{self._names[row]}"

    def _key(self, row: int) -> str:
        return f"{Path(self._shards[self._shard[row]]).name}/{self._names[row]}"

    def _open(self, row: int) -> bytes:
        offset, size = (int(value) for value in self._spans[row])
        # pread has no position of its own, so forked processes may share the descriptor.
        data = os.pread(self._file(int(self._shard[row])), size, offset)
        if len(data) != size:
            raise OSError(f"{self._name(row)}: the shard was cut short after it was indexed")
        return data

    def _file(self, shard: int) -> int:
        if shard not in self._files:
            if len(self._files) >= _MAX_OPEN:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = os.open(self._shards[shard], os.O_RDONLY)
        self._files.move_to_end(shard)
        return self._files[shard]

    def stamps(self) -> NDArray[np.int64] | None:
        """Size and time of the shards, offset and size of the images."""
        times = np.array([Path(path).stat().st_mtime_ns for path in self._shards], np.int64)
        rows = self._rows
        return np.column_stack([times[self._shard[rows]], self._spans[rows]])


def list_shards(shards: Iterable[Path], *, labelled: bool = True) -> Listing:
    """Tar shards as one listing; with `labelled` False every image is of one class.

    A sample is the files with the same name up to the first dot: an image and `.cls` (a number or
    a name), or `.json` with a key "label"; without either the folder inside the shard is the class.

    Raises:
        ValueError: naming the shard, if it is no tar file, compressed, truncated, or a sample has
            no label.
    """
    paths = sorted(shards)
    members = [_index(path) for path in paths]
    if not any(members):
        raise ValueError(f"{paths[0].parent}: no images found in {len(paths)} tar shards")
    if not labelled:
        zeros = np.zeros(sum(map(len, members)), np.int64)
        return Listing(ShardSource([str(path) for path in paths], members, zeros), ("image",))
    for path, part in zip(paths, members, strict=True):
        if bare := next((name for name, _, _, label in part if not label), None):
            raise ValueError(
                f"{path}: sample {bare!r} has no label: expected a .cls or .json file of the same "
                "name, or a class folder"
            )
    written = [member[3] for part in members for member in part]
    names = read_class_names(paths[0].parent) or read_class_names(paths[0].parent.parent)
    labels, classes = number_labels(written, names, str(paths[0].parent))
    return Listing(ShardSource([str(path) for path in paths], members, labels), classes)


def shards_by_split(shards: list[Path]) -> dict[str, list[Path]]:
    """Shards grouped by the split in their file name ("train-0001.tar"), else all as "all"."""
    groups: dict[str, list[Path]] = {}
    for path in shards:
        words = path.stem.lower().replace("_", "-").replace(".", "-").split("-")
        split = next((found for word in words if (found := split_of(word))), "all")
        groups.setdefault(split, []).append(path)
    return groups if "train" in groups else {"all": shards}


def _index(path: Path) -> list[Member]:
    status = path.stat()
    text = f"2:{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    key = hashlib.sha256(os.fsencode(text)).hexdigest()
    stored = cache.load("shards", key)
    if stored is None:
        stored = _read_index(path)
        cache.store("shards", key, stored)
    return [(name, offset, size, label) for name, offset, size, label in stored]


def _read_index(path: Path) -> list[Member]:
    images: dict[str, Member] = {}
    extras: list[tuple[str, Member]] = []
    labels: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile() or member.issparse():
                    continue
                folder, _, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                sample = f"{folder}/{stem}"
                if is_image_name(file):
                    found = (member.name, member.offset_data, member.size, "")
                    if "." in suffix:
                        extras.append((sample, found))
                    else:
                        images.setdefault(sample, found)
                elif suffix in ("cls", "json") and member.size <= _MAX_LABEL_BYTES:
                    content = tar.extractfile(member)
                    assert content is not None, "a regular member has content"
                    label = _label(content.read(), suffix, f"{path}/{member.name}")
                    if label is not None:
                        labels[sample] = label
            end = tar.offset
    except tarfile.ReadError as error:
        raise ValueError(
            f"{path}: not an uncompressed tar file, or truncated ({error}); unpack a compressed "
            "one, fetch a truncated one again"
        ) from error
    with path.open("rb") as file_:
        file_.seek(end)
        if file_.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(f"{path}: the tar file is truncated (no end mark); fetch it again")
    # "7.mask.png" belongs to sample "7"; "holiday.2019.jpg" without a sample is a plain image.
    known = images.keys() | labels.keys()
    images |= {image[0]: image for sample, image in extras if sample not in known}
    return [
        (name, offset, size, labels.get(sample) or _folder_label(name))
        for sample, (name, offset, size, _) in images.items()
    ]


def _label(content: bytes, suffix: str, where: str) -> str | None:
    try:
        text = content.decode("utf-8").strip()
        if suffix == "cls":
            return text or None
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: the label is not readable text ({error})") from error
    found = [data[key] for key in _JSON_KEYS if key in data] if isinstance(data, dict) else []
    return str(found[0]) if found else None


def _folder_label(name: str) -> str:
    """The folder inside the shard, which is the class where nothing else says it; "" without."""
    folder = name.rpartition("/")[0].rpartition("/")[2]
    return "" if folder == "." else folder
