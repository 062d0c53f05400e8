"""Detect objects in image files: any number of them in constant memory."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from convnext.data import iter_files, num_workers
from convnext.data.detection import DetectionFiles
from convnext.evaluate.coco_files import CsvDetections, JsonDetections
from convnext.models.detection.masks import paste
from convnext.models.mask_rcnn import Detections
from convnext.report.drawing import class_colour, draw_detections
from convnext.run.detecting import detect_batch, detect_picture
from convnext.run.detection_loading import LoadedDetector, load_trained
from convnext.run.detection_scoring import mask_rles
from convnext.run.folder import say_line
from convnext.run.loading import pick_device
from convnext.run.prediction import Predicted, whole_file
from convnext.run.scoring import progress

__all__ = ["THRESHOLD", "predict_objects"]

THRESHOLD = 0.5


def predict_objects(
    target: str,
    paths: Sequence[Path],
    *,
    csv: Path | None = None,
    json: Path | None = None,
    draw: Path | None = None,
    threshold: float = THRESHOLD,
    tta: bool = False,
    batch_size: int = 1,
    workers: int = -1,
    device: str = "auto",
    say: Callable[[str], None] = say_line,
) -> Predicted:
    """Find objects; unreadable files are named at the end and the others done.

    Args:
        target: What `load_trained` takes: a run, weights, a checkpoint, a published name.
        paths: Images, and folders that are searched for images.
        csv: A table to write: a row for each object.
        json: A file to write, a list of results in COCO form.
        draw: A folder for the pictures with boxes, masks and names.
        threshold: Least score of an object, 0 to 1.
        tta: See each image at three sizes and mirrored; six times the time.
        batch_size: Images a batch.
        workers: Processes that read images, -1 = fit for this machine.
        device: "auto", "cpu", "cuda", ...
        say: Where objects (without `csv`, `json` and `draw`) and messages go.

    Raises:
        ValueError: A path does not exist, there is no image in it, or the target is no detector.
        OSError: Something cannot be read or written.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must be from 0 to 1")
    if not paths:
        raise ValueError("no images: name files or folders after the weights")
    files = iter_files(paths)  # a path that does not exist is named before anything is loaded
    chosen = pick_device(device)
    loaded = load_trained(target, chosen)
    network = loaded.network
    network.config = replace(network.config, score_threshold=min(threshold, 0.999))
    batches = DetectionFiles(
        files, loaded.data, batch_size=batch_size, workers=num_workers(workers)
    )

    num_images = num_objects = 0
    with ExitStack() as stack:
        sinks = _sinks(stack, loaded, csv, json, draw, say)
        for batch in progress(batches, "detecting"):
            found = _detect(loaded, dict(batch), chosen, tta)
            rows = zip(batch["name"], batch["picture"], found, strict=True)
            for name, picture, detections in rows:
                num_images += 1
                num_objects += len(detections.scores)
                for sink in sinks:
                    sink.add(num_images, name, picture, detections)
        if not num_images and not batches.unreadable:
            raise ValueError(f"no image found in {', '.join(map(str, paths))}")
        for sink in sinks:
            for bad in batches.unreadable:
                sink.unreadable(bad.name, bad.reason)
            sink.close()
    for bad in batches.unreadable:
        print(f"not read: {bad.reason}", file=sys.stderr)
    for path, what in ((csv, "table"), (json, "results"), (draw, "pictures")):
        if path is not None:
            say(f"{what}: {path}")
    say(
        f"{num_objects} objects in {num_images} images, {len(batches.unreadable)} could not be read"
    )
    return Predicted(num_images, tuple(batches.unreadable))


def _detect(
    loaded: LoadedDetector, batch: dict[str, Any], device: torch.device, tta: bool
) -> list[Detections]:
    """The objects of a batch of files."""
    if not tta:
        return detect_batch(loaded.network, batch, device)
    mode = "RGB" if loaded.data.in_chans == 3 else "L"
    pictures = [picture.convert(mode) for picture in batch["picture"]]
    return [detect_picture(loaded.network, picture, loaded.data, device) for picture in pictures]


def _sinks(
    stack: ExitStack,
    loaded: LoadedDetector,
    csv: Path | None,
    json: Path | None,
    draw: Path | None,
    say: Callable[[str], None],
) -> "list[_Sink]":
    """Where answers go; files appear when `stack` ends well."""
    sinks: list[_Sink] = []
    if csv is not None:
        sinks.append(_Csv(stack.enter_context(whole_file(csv)), loaded))
    if json is not None:
        sinks.append(_Json(stack.enter_context(whole_file(json)), loaded))
    if draw is not None:
        draw.mkdir(parents=True, exist_ok=True)
        sinks.append(_Pictures(draw, loaded))
    return sinks or [_Lines(say, loaded)]


class _Sink:
    """Where detections go."""

    def add(self, number: int, name: str, picture: Image.Image, found: Detections) -> None:
        """Take the objects of one image."""
        raise NotImplementedError

    def unreadable(self, name: str, reason: str) -> None:
        """Take a file that could not be read."""

    def close(self) -> None:
        """After the last image."""


def _rles(picture: Image.Image, found: Detections) -> list[dict[str, Any]] | None:
    if found.masks is None:
        return None
    return mask_rles(found, (picture.height, picture.width))


class _Csv(_Sink):
    def __init__(self, file: Any, loaded: LoadedDetector) -> None:
        self._table = CsvDetections(file, loaded.labels)

    def add(self, number: int, name: str, picture: Image.Image, found: Detections) -> None:
        self._table.add(name, found.boxes, found.scores, found.labels, _rles(picture, found))

    def unreadable(self, name: str, reason: str) -> None:
        self._table.unreadable(name, reason)


class _Json(_Sink):
    def __init__(self, file: Any, loaded: LoadedDetector) -> None:
        self._list = JsonDetections(file, loaded.labels, loaded.category_ids)

    def add(self, number: int, name: str, picture: Image.Image, found: Detections) -> None:
        rles = _rles(picture, found)
        self._list.add(name, number, found.boxes, found.scores, found.labels, rles)

    def close(self) -> None:
        self._list.close()


class _Pictures(_Sink):
    """Drawn pictures, numbered as the images come; names of files may repeat in folders."""

    def __init__(self, folder: Path, loaded: LoadedDetector) -> None:
        self._folder, self._labels = folder, loaded.labels

    def add(self, number: int, name: str, picture: Image.Image, found: Detections) -> None:
        labels = found.labels.tolist()
        drawn = draw_detections(
            picture,
            found.boxes.numpy(),
            [self._labels[k] for k in labels],
            found.scores.tolist(),
            _masks(picture, found),
            colours=[class_colour(k) for k in labels],
        )
        drawn.save(self._folder / f"{number:06d}_{Path(name).stem}.png")


def _masks(picture: Image.Image, found: Detections) -> Iterator[Any] | None:
    if found.masks is None:
        return None
    size = (picture.height, picture.width)
    pairs = zip(found.masks, found.boxes, strict=True)
    return (paste(mask, box, size).numpy() for mask, box in pairs)


class _Lines(_Sink):
    def __init__(self, say: Callable[[str], None], loaded: LoadedDetector) -> None:
        self._say, self._labels = say, loaded.labels

    def add(self, number: int, name: str, picture: Image.Image, found: Detections) -> None:
        self._say(f"{name}: {len(found.scores)} objects")
        rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
        for box, score, label in rows:
            corners = ", ".join(f"{v:.0f}" for v in box)
            self._say(f"  {self._labels[label]} {score:.2f} ({corners})")
