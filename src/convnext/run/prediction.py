"""Classify image files: any number of them in constant memory."""

import csv as csv_format
import json as json_format
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, TextIO

import torch
from torch import Tensor

from convnext.data import FileBatches, eval_transform, iter_files, num_workers
from convnext.data.files import Unreadable
from convnext.evaluate.cam import grad_cam, overlay, seen_image
from convnext.run.calibrating import calibration_images, check_calibration
from convnext.run.engines import WORTHWHILE, Engine, running
from convnext.run.folder import say_line
from convnext.run.loading import Loaded, data_config, load_network, pick_device
from convnext.run.scoring import progress

__all__ = ["Predicted", "predict", "whole_file"]


@dataclass(frozen=True)
class Predicted:
    """How a prediction ended.

    Attributes:
        num_images: Images that were classified.
        unreadable: Files that could not be read, with the reason.
    """

    num_images: int
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True)
class Answer:
    """The classes of one image, most probable first."""

    name: str
    classes: tuple[tuple[str, str, float], ...]  # label, description, probability


class Sink(Protocol):
    """Where answers go."""

    def __call__(self, answer: Answer) -> None:
        """Take the classes of one image."""

    def unreadable(self, bad: Unreadable) -> None:
        """Take a file that could not be read."""


def predict(
    target: str,
    paths: Sequence[Path],
    *,
    csv: Path | None = None,
    json: Path | None = None,
    cam: Path | None = None,
    topk: int = 5,
    batch_size: int = 64,
    workers: int = -1,
    device: str = "auto",
    engine: Engine = "auto",
    calibrate: Path | None = None,
    say: Callable[[str], None] = say_line,
) -> Predicted:
    """Classify images; unreadable files are named at the end and the others done.

    Args:
        target: What `load_network` takes: a run, weights, a checkpoint, a published name.
        paths: Images, and folders that are searched for images.
        csv: A table to write: file, label and confidence of each of the top classes, error.
        json: A file to write: one JSON object a line.
        cam: A folder for pictures of what spoke for the first class (Grad-CAM).
        topk: Classes for each image.
        batch_size: Images a batch.
        workers: Processes that read images, -1 = fit for this machine.
        device: "auto", "cpu", "cuda", ...
        engine: What computes the answers, see `engines.running`.
        calibrate: A folder of images for the engine "int8".
        say: Where answers (without `csv` and `json`) and messages go.

    Raises:
        ValueError: A path does not exist, there is no image in it, or the target is no classifier,
            or the engine cannot run it.
        OSError: Something cannot be read or written.
    """
    rest = _files(paths, topk)  # a path that does not exist is named before anything is loaded
    few = list(islice(rest, WORTHWHILE))
    check_calibration(engine, calibrate)
    chosen = pick_device(device)
    loaded = load_network(target, chosen)
    images_seen = calibration_images(loaded, calibrate, workers)
    run = running(loaded.network, engine, images_seen, images=len(few), release=cam is None)
    channels = loaded.network.config.in_chans
    config = data_config(loaded.preprocessing, channels, path="", workers=workers)
    batches = FileBatches(
        chain(few, rest),
        eval_transform(config),
        batch_size=batch_size,
        channels=channels,
        workers=num_workers(workers),
    )
    with ExitStack() as stack:
        sinks: list[Sink] = []
        if csv is not None:
            sinks.append(CsvSink(stack.enter_context(whole_file(csv)), loaded, topk))
        if json is not None:
            sinks.append(JsonSink(stack.enter_context(whole_file(json))))
        sinks = sinks or [Lines(say)]
        num_images = 0
        for batch in progress(batches, "predicting"):
            images: Tensor = batch["image"].to(chosen, memory_format=torch.channels_last)
            probabilities = _probabilities(run.logits, images)
            if cam is not None:
                _write_cams(loaded, images, batch["name"], probabilities.argmax(1), num_images, cam)
            for answer in _answers(loaded, probabilities, batch["name"], topk):
                num_images += 1
                for sink in sinks:
                    sink(answer)
        if not num_images and not batches.unreadable:
            raise ValueError(f"no image found in {', '.join(map(str, paths))}")
        for bad in batches.unreadable:
            for sink in sinks:
                sink.unreadable(bad)
    for bad in batches.unreadable:
        print(f"not read: {bad.reason}", file=sys.stderr)
    for path, what in ((csv, "table"), (json, "answers"), (cam, "pictures")):
        if path is not None:
            say(f"{what}: {path}")
    say(f"{num_images} images classified, {len(batches.unreadable)} could not be read")
    return Predicted(num_images, tuple(batches.unreadable))


def _files(paths: Sequence[Path], topk: int) -> Iterator[str]:
    if topk < 1:
        raise ValueError(f"topk is {topk}; it must be at least 1")
    if not paths:
        raise ValueError("no images: name files or folders after the weights")
    return iter_files(paths)


@torch.inference_mode()
def _probabilities(logits: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Of each image for each class, (N, K), on the CPU."""
    return logits(images).float().softmax(dim=1).cpu()


def _answers(
    loaded: Loaded, probabilities: Tensor, names: Sequence[str], topk: int
) -> Iterator[Answer]:
    values, classes = probabilities.topk(min(topk, probabilities.shape[1]), dim=1)
    for name, row, chosen in zip(names, values.tolist(), classes.tolist(), strict=True):
        labels = [loaded.labels[k] for k in chosen]
        found = [
            (label, loaded.descriptions.get(label, ""), value)
            for label, value in zip(labels, row, strict=True)
        ]
        yield Answer(name, tuple(found))


def _write_cams(
    loaded: Loaded, images: Tensor, names: Sequence[str], said: Tensor, start: int, folder: Path
) -> None:
    """One overlay for each image, numbered as the answers are."""
    folder.mkdir(parents=True, exist_ok=True)
    pre = loaded.preprocessing
    for number, (name, image, cam) in enumerate(
        zip(names, images, grad_cam(loaded.network, images, said), strict=True), start + 1
    ):
        picture = overlay(seen_image(image, pre.mean, pre.std), cam)
        picture.save(folder / f"{number:06d}_{Path(name).stem}.png")


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name only when it is complete."""
    part = path.with_name(f"{path.name}.part")
    try:
        # File names that are no UTF-8 keep their bytes.
        with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class CsvSink:
    """A table with one row for each file."""

    def __init__(self, file: TextIO, loaded: Loaded, topk: int) -> None:
        self._described = bool(loaded.descriptions)
        self._width = min(topk, len(loaded.labels))
        words = (
            ("label", "description", "confidence")
            if self._described
            else (
                "label",
                "confidence",
            )
        )
        self._writer = csv_format.writer(file)
        columns = [f"{word}_{k}" for k in range(1, self._width + 1) for word in words]
        self._num_columns = len(columns)
        self._writer.writerow(["file", *columns, "error"])

    def __call__(self, answer: Answer) -> None:
        """Write the row of an image."""
        cells: list[str] = []
        for label, description, value in answer.classes:
            cells += [label, description] if self._described else [label]
            cells.append(f"{value:.6f}")
        self._writer.writerow([answer.name, *cells, ""])

    def unreadable(self, bad: Unreadable) -> None:
        """Write a row that holds the error only."""
        self._writer.writerow([bad.name, *[""] * self._num_columns, bad.reason])


class JsonSink:
    """One JSON object a line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def _write(self, values: dict[str, Any]) -> None:
        self._file.write(json_format.dumps(values, ensure_ascii=False) + "\n")

    def __call__(self, answer: Answer) -> None:
        """Write the object of an image."""
        classes = [
            {"label": label, "confidence": round(value, 6)}
            | ({"description": description} if description else {})
            for label, description, value in answer.classes
        ]
        self._write({"file": answer.name, "classes": classes})

    def unreadable(self, bad: Unreadable) -> None:
        """Write an object with the error."""
        self._write({"file": bad.name, "error": bad.reason})


class Lines:
    """Readable lines for a terminal."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def __call__(self, answer: Answer) -> None:
        """Say the classes of an image."""
        words = (f"{text or label} {100 * value:.1f} %" for label, text, value in answer.classes)
        self._say(f"{answer.name}: {', '.join(words)}")

    def unreadable(self, bad: Unreadable) -> None:
        """Unreadable files are named at the end."""
