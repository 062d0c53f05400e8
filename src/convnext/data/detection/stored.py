"""Annotation files that take long to read are kept in read form between runs."""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from convnext.data.cache import cache_dir
from convnext.data.detection.collect import Annotated
from convnext.data.detection.source import DetectionSource, PackedBytes, Table
from convnext.data.splits import Finding

_VERSION = 1  # changes when what is stored, or how annotations are understood, does
_LONG = 3.0  # seconds; what is read faster is not stored


def read_stored(file: Path, masks: bool, read: Callable[[], Annotated]) -> Annotated:
    """What `read` makes of a file; from the cache, if the file has not changed since.

    Args:
        file: the annotation file.
        masks: whether masks are read; such results are kept apart.
        read: reads the file.
    """
    status = file.stat()
    facts = (_VERSION, str(file.resolve()), status.st_size, status.st_mtime_ns, masks)
    key = hashlib.sha256(json.dumps(facts).encode("utf-8", "surrogateescape")).hexdigest()
    place = cache_dir() / "detection" / f"{key}.npz"
    with suppress(OSError, ValueError, KeyError, TypeError, BadZipFile):
        found = _load(place)
        if found.source.path(0).is_file():  # else the images have moved
            return found
    start = time.monotonic()
    result = read()
    if time.monotonic() - start > _LONG:
        _store(place, result)
    return result


def _load(place: Path) -> Annotated:
    with place.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        arrays: dict[str, Any] = dict(stored)
    about = json.loads(arrays.pop("about").tobytes())
    rles = None
    if "rle_ends" in arrays:
        rles = PackedBytes.of(arrays.pop("rle_ends"), arrays.pop("rle_bytes"))
    table = Table(**arrays, rles=rles)
    source = DetectionSource(about["root"], about["paths"], table, tuple(about["category_ids"]))
    found = {
        kind: tuple(Finding(f["kind"], f["message"], tuple(f["files"])) for f in about[kind])
        for kind in ("errors", "warnings")
    }
    return Annotated(source, tuple(about["classes"]), **found)


def _store(place: Path, result: Annotated) -> None:
    """Write atomically; a cache that cannot be written is no error."""
    source, table = result.source, result.source.table
    about = {
        "root": source.root,
        "paths": [source.key(i) for i in range(len(source))],
        "category_ids": source.category_ids,
        "classes": result.classes,
        "errors": [asdict(found) for found in result.errors],
        "warnings": [asdict(found) for found in result.warnings],
    }
    arrays = {f.name: getattr(table, f.name) for f in fields(table) if f.name != "rles"}
    if table.rles is not None:
        arrays |= {"rle_ends": table.rles.ends, "rle_bytes": table.rles.bytes}
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as file:
            np.savez(file, **arrays)
        Path(file.name).replace(place)
