"""Solar cells of the package elpv-dataset: 2,624 electroluminescence photographs, 300x300, grey."""

import importlib.util
from pathlib import Path

import numpy as np

from convnext.data.listing import Listing
from convnext.data.source import FileSource
from convnext.data.stratify import stratified_split

CLASSES = ("functional", "defective")
VAL_FRACTION = 0.15
TEST_FRACTION = 0.25
# Part of the definition of the split: scores are comparable only between runs that share it.
_SPLIT_SEED = 0


def list_elpv() -> dict[str, Listing]:
    """The solar cells in a fixed split of 60 % train, 15 % val and 25 % test.

    A cell is "defective" where the experts' defect probability (0, 1/3, 2/3 or 1) is >= 0.5. Within
    each of the 8 strata (4 probabilities x mono- or polycrystalline) the files are ordered by
    sha256("0:" + path in labels.csv); the first 25 % are test, the next 15 % val. The split depends
    on nothing else, in particular not on `DataConfig.split_seed` or the fractions.

    Raises:
        ValueError: with the install command, if the package is missing.

    Source: Deitsch et al. 2019, "Automatic classification of defective photovoltaic module cells in
    electroluminescence images"; data licence CC BY-NC-SA 4.0.
    """
    folder = _package_folder()
    table = folder / "data" / "labels.csv"
    rows = [line.split() for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
    paths = [row[0] for row in rows]
    probability = np.array([float(row[1]) for row in rows])
    labels = (probability >= 0.5).astype(np.int64)
    strata = [f"{row[1]} {row[2]}" for row in rows]
    part = stratified_split(paths, strata, (TEST_FRACTION, VAL_FRACTION), _SPLIT_SEED)
    source = FileSource(str(table.parent), paths, labels)
    return {
        name: Listing(source.subset(np.flatnonzero(part == number)), CLASSES)
        for number, name in enumerate(("train", "test", "val"))
    }


def _package_folder() -> Path:
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise ValueError(
            "the solar cells are in the package elpv-dataset (data licence CC BY-NC-SA 4.0); "
            "run: pip install elpv-dataset"
        )
    return Path(spec.origin).parent
