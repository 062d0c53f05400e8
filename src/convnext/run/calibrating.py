"""Images from a folder, by which a classifier is calibrated for products of 8-bit integers."""

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from convnext.data import FileBatches, eval_transform, iter_files, num_workers
from convnext.evaluate.result import ClassificationResult
from convnext.run.engines import Engine
from convnext.run.loading import Loaded, data_config

__all__ = ["accuracy_drop", "calibration_images", "check_calibration"]

MOST = 256  # images; more change the ranges no further
BATCH = 32


def check_calibration(engine: Engine, folder: Path | None) -> None:
    """Refuse an engine without the images that it needs, or images without that engine.

    Raises:
        ValueError: Says what is missing.
    """
    if engine == "int8" and folder is None:
        raise ValueError(
            "engine int8 needs --calibrate FOLDER: some 100 images such as the network will see"
        )
    if engine != "int8" and folder is not None:
        raise ValueError(f"--calibrate is for --engine int8, not for {engine}")


def calibration_images(loaded: Loaded, folder: Path | None, workers: int) -> Iterator[Tensor]:
    """Batches of images from all over a folder, as the network takes them; labels do not matter.

    Raises:
        ValueError: There is no such folder, or no image in it that can be read.
    """
    if folder is None:
        return
    files = list(iter_files([folder]))
    channels = loaded.network.config.in_chans
    config = data_config(loaded.preprocessing, channels, path="", workers=workers)
    batches = FileBatches(
        [files[i * len(files) // MOST] for i in range(MOST)] if len(files) > MOST else files,
        eval_transform(config),
        batch_size=BATCH,
        channels=channels,
        workers=num_workers(workers),
    )
    found = False
    for batch in batches:
        found = True
        yield batch["image"]
    if not found:
        reason = f": {batches.unreadable[0].reason}" if batches.unreadable else ""
        raise ValueError(f"no image in {folder} to calibrate with{reason}")


def accuracy_drop(
    exact: ClassificationResult,
    quantised: ClassificationResult,
    report: str,
    say: Callable[[str], None],
) -> dict[str, str]:
    """What 8 bits cost on labelled images, said and as facts for a report.

    Args:
        exact: Scores in fp32.
        quantised: Scores in 8 bits.
        report: Of the calibration.
        say: Where all of it goes.
    """
    facts = {
        "top-1 in fp32": f"{exact.top1:.2f} %",
        "top-1 in int8": f"{quantised.top1:.2f} %, {exact.top1 - quantised.top1:+.2f} points lost",
    }
    say("\n".join([report, *(f"{what}: {value}" for what, value in facts.items())]))
    return facts
