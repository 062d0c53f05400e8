"""Name the class of every pixel of image files: any number of them, of any size."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from convnext.data import iter_files, num_workers
from convnext.data.files import ReadFiles, Unreadable
from convnext.data.segmentation.raster import LARGE, Raster, has_rasterio, is_geotagged
from convnext.data.segmentation.scene import Scene, open_scene, read_scene
from convnext.run.folder import say_line
from convnext.run.loading import pick_device
from convnext.run.prediction import Predicted, whole_file
from convnext.run.scoring import progress
from convnext.run.segmentation_loading import LoadedSegmenter, load_trained_segmenter
from convnext.run.segmentation_sinks import CsvAreas, Lines, Maps, Pictures, Segmented, Sink
from convnext.run.segmenting import Labels, segment_picture, segment_windows

__all__ = ["predict_segments"]

LOGIT_BYTES = 2**30  # of an image that keeps its size; of a larger one they never exist whole


def predict_segments(
    target: str,
    paths: Sequence[Path],
    *,
    csv: Path | None = None,
    masks: Path | None = None,
    draw: Path | None = None,
    full_size: bool = False,
    tta: bool = False,
    image_size: int | None = None,
    workers: int = -1,
    device: str = "auto",
    say: Callable[[str], None] = say_line,
) -> Predicted:
    """Segment images; unreadable files are named at the end and the others done.

    Images are resized as in evaluation, and the classes are those of the original's pixels. TIFF
    files with coordinates give maps with the same coordinates, if rasterio is installed, and areas
    in square metres, if their coordinates are those of a projection.

    Args:
        target: What `load_trained_segmenter` takes: a run, weights, a checkpoint, a published name.
        paths: Images, and folders that are searched for images.
        csv: A table to write: image, class, pixels, share, area_m2, error; a row for each class.
        masks: A folder for maps of classes: PNG, of rasters with coordinates GeoTIFF.
        draw: A folder for the pictures with the classes' colours over them.
        full_size: See every pixel through windows and resize nothing, in constant memory.
        tta: See each image at six sizes and mirrored.
        image_size: Short side of the images in pixels, 0 = their own size; by default that of the
            weights.
        workers: Processes that read images, -1 = fit for this machine.
        device: "auto", "cpu", "cuda", ...
        say: Where classes (without `csv`, `masks` and `draw`) and messages go.

    Raises:
        ValueError: A path does not exist, there is no image in it, the target is no segmentation
            network, or `full_size` comes with `tta` or `image_size`.
        OSError: Something cannot be read or written.
    """
    _check(paths, full_size, tta, image_size)
    files = iter_files(paths)  # a path that does not exist is named before anything is loaded
    loaded = load_trained_segmenter(target, pick_device(device))
    if image_size is not None:
        loaded = replace(loaded, data=loaded.data.at_short_side(image_size))
    channels = loaded.data.in_chans
    batches = ReadFiles(
        _without(files, [out for out in (masks, draw) if out is not None and _below(out, paths)]),
        partial(read_scene, channels=channels),
        _only,
        batch_size=1,
        workers=num_workers(workers),
    )
    predictor = _Predictor(loaded, full_size, tta, _Once(say))
    unreadable = batches.unreadable
    done = 0
    with ExitStack() as stack:
        sinks = _sinks(stack, loaded.labels, csv, masks, draw, say)
        for name, image in progress(batches, "segmenting"):
            try:
                if not has_rasterio() and is_geotagged(Path(name)):
                    predictor.hint(
                        "coordinates",
                        f"{name} has coordinates, which its map will lack; "
                        "pip install 'convnext[geo]' keeps them",
                    )
                with open_scene(name, image, channels) as scene:
                    predictor.segment(scene, done + 1, sinks)
            except ValueError as error:  # the pixels of a raster are read here
                unreadable.append(Unreadable(name, str(error)))
            else:
                done += 1
        if not done and not unreadable:
            raise ValueError(f"no image found in {', '.join(map(str, paths))}")
        for bad in unreadable:
            for sink in sinks:
                sink.unreadable(bad)
    for bad in unreadable:
        print(f"not read: {bad.reason}", file=sys.stderr)
    for path, what in ((csv, "table"), (masks, "maps"), (draw, "pictures")):
        if path is not None:
            say(f"{what}: {path}")
    say(f"{done} images segmented, {len(unreadable)} could not be read")
    return Predicted(done, tuple(unreadable))


def _check(paths: Sequence[Path], full_size: bool, tta: bool, image_size: int | None) -> None:
    """Refuse no images, and arguments that contradict each other."""
    if full_size and tta:
        raise ValueError(
            "views at other sizes (tta) resize images; leave one of them and full_size"
        )
    if full_size and image_size is not None:
        raise ValueError("image_size resizes images, and full_size does not; leave one of them")
    if not paths:
        raise ValueError("no images: name files or folders after the weights")


def _below(folder: Path, paths: Sequence[Path]) -> bool:
    return any(path.resolve() in folder.resolve().parents for path in paths)


def _without(files: Iterator[str], folders: Sequence[Path]) -> Iterator[str]:
    """The files that are not in certain folders: what is written below the images is no image."""
    skipped = {folder.resolve() for folder in folders}
    for file in files:
        if not skipped or Path(file).resolve().parent not in skipped:
            yield file


def _only(names: list[str], images: list[Image.Image | None]) -> tuple[str, Image.Image | None]:
    return names[0], images[0]


def _sinks(
    stack: ExitStack,
    labels: Sequence[str],
    csv: Path | None,
    masks: Path | None,
    draw: Path | None,
    say: Callable[[str], None],
) -> list[Sink]:
    """Where answers go; the table appears when `stack` ends well."""
    sinks: list[Sink] = []
    if csv is not None:
        sinks.append(CsvAreas(stack.enter_context(whole_file(csv)), labels))
    for folder, kind in ((masks, Maps), (draw, Pictures)):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            sinks.append(kind(folder, labels))
    return sinks or [Lines(say, labels)]


class _Once:
    """Says of the first file what holds for others too."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: set[str] = set()

    def __call__(self, kind: str, message: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._say(message)


@dataclass(frozen=True)
class _Predictor:
    """How each image is segmented."""

    loaded: LoadedSegmenter
    full_size: bool
    tta: bool
    hint: _Once

    def segment(self, scene: Scene, number: int, sinks: Sequence[Sink]) -> None:
        """Segment one image and tell the sinks, which keep nothing of it if that fails."""
        counts = np.zeros(len(self.loaded.labels), np.int64)
        with ExitStack() as stack:
            painters = [p for sink in sinks if (p := sink.painter(scene, number, stack))]
            for part in self._parts(scene):
                classes = part.classes
                absent = scene.missing(part.top, part.left, *classes.shape)
                if absent is not None:
                    classes = np.where(absent, np.int16(-1), classes)
                counts += np.bincount(classes[classes >= 0], minlength=len(counts))
                for paint in painters:
                    paint(part.top, part.left, classes)
        area = scene.pixel_area if isinstance(scene, Raster) else None
        for sink in sinks:
            sink.add(Segmented(scene.name, tuple(counts.tolist()), area))

    def _parts(self, scene: Scene) -> Iterator[Labels]:
        """The classes of an image in one part or in many."""
        network, data = self.loaded.network, self.loaded.data
        device = next(network.parameters()).device
        if self.full_size or (not self.tta and self._keeps_large(scene)):
            tiles = segment_windows(network, scene.read, scene.size, data, device)
            yield from progress(tiles, Path(scene.name).name)
            return
        self._hints(scene)
        picture, name = scene.picture(), scene.name
        classes = segment_picture(network, picture, data, device, views=self.tta, name=name)
        yield Labels(0, 0, classes)

    def _keeps_large(self, scene: Scene) -> bool:
        """Whether an image keeps its size and its logits should not exist whole."""
        pixels = scene.size[0] * scene.size[1]
        return not self.loaded.data.min_size and 4 * len(self.loaded.labels) * pixels > LOGIT_BYTES

    def _hints(self, scene: Scene) -> None:
        height, width = scene.size
        data = self.loaded.data
        if height * width > LARGE and data.min_size:
            self.hint(
                "size",
                f"{scene.name}: its {width}x{height} pixels are resized to about {data.min_size} "
                "along the short side; --full-size sees every pixel",
            )
