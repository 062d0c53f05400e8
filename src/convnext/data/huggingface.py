"""Hugging Face data sets as sources: a name on the hub, or a folder written by save_to_disk."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convnext.data.listing import Listing, number_labels, split_of
from convnext.data.source import UNLABELLED, Source

_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category")


class HuggingFaceSource(Source):
    """The image column of a `datasets.Dataset`, as encoded bytes."""

    def __init__(self, dataset: Any, column: str, title: str, labels: NDArray[np.int64]) -> None:
        super().__init__(labels)
        self._dataset = dataset
        self._column = column
        self._title = title

    def _name(self, row: int) -> str:
        return f"{self._title}[{row}]"

    def _open(self, row: int) -> bytes:
        value = self._dataset[row][self._column]
        if value is None:
            return b""
        data = value["bytes"]
        return bytes(data) if data is not None else Path(value["path"]).read_bytes()


def list_huggingface(spec: str) -> dict[str, Listing]:
    """A data set by hub name or folder as a listing per split, or {"all": ...}.

    Raises:
        ValueError: if the package `datasets` is missing, the set cannot be loaded, or it has no
            image or label column.
    """
    loaded = _load(spec)
    if not isinstance(loaded, dict):
        return {"all": _listing(loaded, f"hf:{spec}")}
    parts: dict[str, Listing] = {}
    for name, dataset in loaded.items():
        split = split_of(str(name))
        if split is None:
            continue
        listing = _listing(dataset, f"hf:{spec}/{name}")
        # Test splits on the hub often come without labels; nothing can be measured on them.
        if split == "train" or (listing.source.labels != UNLABELLED).any():
            parts[split] = listing
    if not parts:
        raise ValueError(f"hf:{spec}: no split named train, val or test; found {', '.join(loaded)}")
    return parts


def _load(spec: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"hf:{spec}: needs the package datasets; run: pip install 'convnext[hf]'"
        ) from error
    folder = Path(spec)
    saved = [folder / name for name in ("dataset_dict.json", "state.json")]
    try:
        if any(path.is_file() for path in saved):
            return datasets.load_from_disk(spec)
        return datasets.load_dataset(spec)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"hf:{spec}: cannot be loaded ({reason[0] if reason else type(error).__name__}); "
            "give a data set's name (needs the network the first time) or a folder written by "
            "save_to_disk"
        ) from error


def _listing(dataset: Any, title: str) -> Listing:
    import datasets

    images = [n for n, f in dataset.features.items() if isinstance(f, datasets.Image)]
    named = [n for n, f in dataset.features.items() if isinstance(f, datasets.ClassLabel)]
    named += [name for name in _LABEL_NAMES if name in dataset.features]
    if not images or not named:
        raise ValueError(
            f"{title}: needs an image and a label column; found: "
            + ", ".join(f"{name} ({kind})" for name, kind in dataset.features.items())
        )
    values = list(dataset[named[0]])
    feature = dataset.features[named[0]]
    if isinstance(feature, datasets.ClassLabel):
        classes = tuple(feature.names)
        written = [UNLABELLED if value is None else value for value in values]
        labels = np.array(written, np.int64)
        if len(labels) and labels.max() >= len(classes):
            raise ValueError(f"{title}: label {labels.max()} is out of range 0..{len(classes) - 1}")
    else:
        labels, classes = number_labels([str(value) for value in values], None, title)
    encoded = dataset.select_columns([images[0]]).cast_column(
        images[0], datasets.Image(decode=False)
    )
    return Listing(HuggingFaceSource(encoded, images[0], title, labels), classes)
