"""From `DataConfig.path` to train, validation and test sources with one list of classes."""

import glob
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from convnext.data.config import DataConfig, ImagesConfig
from convnext.data.elpv import list_elpv
from convnext.data.folders import list_class_folders, split_folders
from convnext.data.huggingface import list_huggingface
from convnext.data.listing import Listing, match_classes
from convnext.data.shards import list_shards, shards_by_split
from convnext.data.source import UNLABELLED, Source
from convnext.data.stratify import stratified_split
from convnext.data.tables import list_table, table_files

_ARCHIVES = (".zip", ".tgz", ".gz", ".xz", ".bz2", ".zst", ".7z", ".rar")


S = TypeVar("S", bound=Source, default=Source)


@dataclass(frozen=True)
class Splits(Generic[S]):
    """The parts of a data set; labels of all of them number `classes`.

    Attributes:
        skipped: names of unreadable images that were left out (see `check_images`).
    """

    train: S
    val: S | None
    test: S | None
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def named(self) -> dict[str, S]:
        """The splits there are, by name."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: source for name, source in parts.items() if source is not None}


@dataclass(frozen=True)
class Finding:
    """Something about the data a person should know: `kind` is one word, `files` are examples."""

    kind: str
    message: str
    files: tuple[str, ...] = ()


def open_splits(config: DataConfig) -> Splits:
    """Open train, validation and test as the data define them, or as a seeded stratified split.

    Splits that the data bring (folders, tables, shard names, a column `split`) are kept. A missing
    validation split is taken from the training images: of each class the share `val_fraction`; the
    same for a test split where the data bring no split at all.

    Raises:
        ValueError: naming the folder, file, class or label, if the data are missing or contradict
            themselves.
        OSError: if they may not be read.
    """
    splits, problems, _ = assemble(config)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise ValueError(problems[0].message + more)
    return splits


def open_for_evaluation(
    config: DataConfig,
    split: Literal["auto", "train", "val", "test", "all"] = "auto",
    classes: tuple[str, ...] | None = None,
) -> tuple[Source, tuple[str, ...], str]:
    """One source to measure a model on.

    "auto" is the test split if the data bring one, else their validation split, else everything;
    no image is held out here. With `classes` (those of the model) labels number that list.

    Returns:
        The source, its classes, and the name of the split it is.

    Raises:
        ValueError: if there is no such split, or the data have classes the model does not know.
    """
    parts = find_parts(config)
    if split == "auto":
        split = next(name for name in ("test", "val", "all", "train") if name in parts)
    if split not in parts:
        raise ValueError(f"{config.path}: no split {split!r}; found: {', '.join(parts)}")
    listing = parts[split]
    if unlabelled := _unlabelled(listing):
        raise ValueError(f"{config.path}: nothing to measure, {unlabelled[0]} has no label")
    if classes is None:
        return listing.source, listing.classes, split
    labels, unknown = match_classes(listing, classes)
    if unknown:
        raise ValueError(
            f"{config.path}: {_some(unknown)} not among the {len(classes)} classes of the model "
            f"({_some(classes)}); rename the folders, or use the data's own model"
        )
    return listing.source.relabelled(labels), classes, split


def assemble(config: DataConfig) -> tuple[Splits, list[Finding], Mapping[str, Listing]]:
    """The splits, every contradiction found in them, and the listings as they were read.

    Images whose class is unknown to the training split are left out of the splits returned.
    """
    parts = find_parts(config)
    base = parts.get("train", parts.get("all"))
    if base is None:
        raise ValueError(f"{config.path}: no training images; found only: {', '.join(parts)}")
    problems = [_empty(config, name) for name in base.empty]
    if len(base.classes) < 2:
        problems.append(
            Finding(
                "one_class",
                f"{config.path}: only one class ({_some(base.classes)}); "
                "a classifier needs images of at least two",
            )
        )
    sources: dict[str, Source] = {}
    for name, listing in parts.items():
        labels, unknown = match_classes(listing, base.classes)
        unlabelled = _unlabelled(listing)
        if unlabelled:
            text = f"{config.path}: {len(unlabelled)} images of the {name} split have no label"
            problems.append(Finding("unlabelled", f"{text}, the first: {unlabelled[0]}"))
        if unknown:
            problems.append(
                Finding(
                    "unknown_class",
                    f"{config.path}: the {name} split has classes that the training split lacks: "
                    f"{_some(unknown)}; training has {_some(base.classes)}",
                )
            )
        source = listing.source.relabelled(labels)
        sources[name] = (
            source if (labels >= 0).all() else source.subset(np.flatnonzero(labels >= 0))
        )
    return divide(sources, base.classes, config), problems, parts


def find_parts(config: DataConfig) -> dict[str, Listing]:
    """The listings of a path: {"all": ...}, or some of "train", "val" and "test".

    Raises:
        ValueError: if there is nothing at the path, or nothing that is understood.
    """
    text = config.path
    if not text:
        raise ValueError("no data given; name a folder of class folders, a table or tar shards")
    if text == "elpv":
        return list_elpv()
    if text.startswith("hf:"):
        return list_huggingface(text.removeprefix("hf:"))
    path = Path(text).expanduser()
    if any(sign in text for sign in "*?[") and not path.exists():
        return _list_glob(text)
    if not path.exists():
        raise ValueError(f"{text}: no such file or folder")
    if path.suffix.lower() in _ARCHIVES and path.is_file():
        raise ValueError(f"{text}: a compressed archive; unpack it first and give the folder")
    if path.suffix.lower() == ".tar":
        return {"all": list_shards([path])}
    if tables := table_files(path):
        return _list_tables(tables)
    if path.is_file():
        raise ValueError(f"{text}: not a folder, a table (.csv, .tsv, .parquet) or a tar file")
    return _list_folder(path)


def _list_glob(text: str) -> dict[str, Listing]:
    shards = sorted(Path(name) for name in glob.glob(text, recursive=True))  # noqa: PTH207 - absolute globs
    if not shards:
        raise ValueError(f"{text}: no file matches")
    wrong = [path for path in shards if path.suffix.lower() != ".tar"]
    if wrong:
        raise ValueError(f"{wrong[0]}: a pattern must match .tar shards only")
    return {split: list_shards(group) for split, group in shards_by_split(shards).items()}


def _list_tables(tables: Mapping[str, Path]) -> dict[str, Listing]:
    parts: dict[str, Listing] = {}
    for split, table in tables.items():
        listed = list_table(table)
        parts |= {split: listed["all"]} if "all" in listed else listed
    return parts


def _list_folder(path: Path) -> dict[str, Listing]:
    folders = split_folders(path)
    if "train" not in folders and not ({"val", "test"} & folders.keys()):
        shards = sorted(path.glob("*.tar"))
        if not shards:
            return {"all": list_class_folders(path)}
        return {split: list_shards(group) for split, group in shards_by_split(shards).items()}
    parts = {}
    for split, folder in folders.items():
        shards = sorted(folder.glob("*.tar"))
        parts[split] = list_shards(shards) if shards else list_class_folders(folder)
    return parts


def divide(sources: Mapping[str, S], classes: tuple[str, ...], config: ImagesConfig) -> Splits[S]:
    """Sources by name ("all", or "train" and others) as splits; what is missing is held out."""
    whole = sources.get("train", sources.get("all"))
    assert whole is not None, "checked by the caller"
    val, test = sources.get("val"), sources.get("test")
    fractions = (
        config.test_fraction if test is None and "all" in sources else 0.0,
        config.val_fraction if val is None else 0.0,
    )
    if not any(fractions):
        return Splits(whole, val, test, classes)
    keys = [whole.key(i) for i in range(len(whole))]
    parts = stratified_split(keys, whole.labels.tolist(), fractions, config.split_seed)
    taken = [_part(whole, parts, number) for number in range(3)]
    train = taken[0]
    assert train is not None, "each class keeps a training image"
    return Splits(train, val or taken[2], test or taken[1], classes)


def _part(source: S, parts: NDArray[np.int64], number: int) -> S | None:
    rows = np.flatnonzero(parts == number)
    return source.subset(rows) if len(rows) else None


def without(
    splits: Splits[S], bad: Mapping[str, NDArray[np.int64]], names: tuple[str, ...]
) -> Splits[S]:
    """The splits without some images: positions per split, and their names for `skipped`.

    Raises:
        ValueError: naming the class that has no training image left.
    """
    parts: dict[str, S | None] = {}
    for name, source in splits.named().items():
        keep = np.setdiff1d(np.arange(len(source)), bad.get(name, np.empty(0, np.int64)))
        parts[name] = source.subset(keep) if len(keep) else None
    train = parts["train"]
    before = splits.train.class_counts(len(splits.classes))
    after = train.class_counts(len(splits.classes)) if train else np.zeros_like(before)
    if (lost := np.flatnonzero((before > 0) & (after == 0))).size or train is None:
        name = splits.classes[int(lost[0])] if lost.size else ""
        raise ValueError(f"class {name!r}: no readable training image is left in it")
    return replace(splits, train=train, val=parts.get("val"), test=parts.get("test"), skipped=names)


def _unlabelled(listing: Listing) -> list[str]:
    rows = np.flatnonzero(listing.source.labels == UNLABELLED)
    return [listing.source.name(int(row)) for row in rows]


def _empty(config: DataConfig, name: str) -> Finding:
    return Finding(
        "empty_class",
        f"{config.path}: class folder {name!r} holds no images; fill it or remove it",
    )


def _some(names: tuple[str, ...], limit: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
