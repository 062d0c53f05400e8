"""Name the class of every pixel with an exported graph; needs numpy, Pillow and a runtime.

The runtime is onnxruntime or openvino, whichever the graph is for. This file works where it is and
also, with `host_pictures.py`, beside the graph:

    from segmenter_host import ExportedSegmenter
    classes = ExportedSegmenter("folder with segmenter.json")("street.jpg")  # (H, W)

    python segmenter_host.py street.jpg ... --out maps      (a table of classes, maps as PNG)

The graph computes logits of a window; here is the rest: the size of the image, the windows that
slide over it, the class of highest logit of every pixel.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING or __package__:
    from convnext.deploy.host_pictures import (
        Floats,
        Pixels,
        fit_size,
        normalise,
        read_settings,
        resize,
        to_pixels,
    )
else:  # beside the graph
    from host_pictures import (
        Floats,
        Pixels,
        fit_size,
        normalise,
        read_settings,
        resize,
        to_pixels,
    )

__all__ = ["ExportedSegmenter", "classes_at", "index_image", "starts"]

FORMAT = 1  # of segmenter.json
BAND = 16_000_000  # logits that are resized at a time
Classes = NDArray[np.int32]
Graph = Callable[[Floats], Floats]


class ExportedSegmenter:
    """An exported segmentation network.

    Args:
        folder: holds segmenter.json and the graph.
        threads: 0 = as many as there are cores.
        providers: of onnxruntime, in the order of preference.
        device: of OpenVINO.
        precision: of OpenVINO; "" leaves it to the device, which is faster and less exact.

    Attributes:
        classes: names of the classes, in the order of their numbers.
        settings: what segmenter.json says.

    Raises:
        ValueError: the folder is no exported segmentation network, or one of a later version.
        OSError: a file cannot be read.
        ImportError: the runtime is missing.
    """

    def __init__(
        self,
        folder: str | Path = ".",
        *,
        threads: int = 0,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        device: str = "CPU",
        precision: str = "f32",
    ) -> None:
        self.folder = Path(folder)
        self.settings = read_settings(
            self.folder / "segmenter.json", FORMAT, "segmentation network"
        )
        self.classes: list[str] = self.settings["classes"]
        file = self.folder / self.settings["graph"]
        if file.suffix == ".xml":
            self._graph = _openvino(file, device, threads, precision)
        else:
            self._graph = _onnx(file, providers, threads)

    def __call__(self, picture: Image.Image | Pixels | str | Path) -> Classes:
        """Name the class of every pixel.

        Args:
            picture: a file, a picture of Pillow, or its pixels (H, W, C) uint8, RGB.

        Returns:
            (H, W), numbers of `classes`, at the picture's own size.

        Raises:
            ValueError: pixels of another form.
            OSError: a file is not there or no picture.
        """
        pixels = to_pixels(picture, self.settings["in_chans"])
        height, width = pixels.shape[:2]
        seen = self._fit(pixels)
        if seen.shape != pixels.shape:
            whole = np.concatenate([logits for _, logits in self.bands(seen)], 1)
            return classes_at(whole, height, width)
        found = np.empty((height, width), np.int32)
        for top, logits in self.bands(seen):
            found[top : top + logits.shape[1]] = logits.argmax(0)
        return found

    def run(self, images: Floats) -> Floats:
        """What the graph makes of normalised images: (N, C, H, W) to logits (N, K, H, W)."""
        return self._graph(images)

    def bands(self, pixels: Pixels) -> Iterator[tuple[int, Floats]]:
        """Logits of an image (H, W, C) as it is, in bands of rows from top to bottom.

        Windows slide over the image; where they overlap, the mean counts. Each band, its first row
        and its logits (K, h, W), comes as soon as no further window touches it.
        """
        height, width = pixels.shape[:2]
        window = max(self.settings["window"] or max(height, width), self.settings["min_side"])
        stride = self.settings["stride"] if self.settings["window"] else window
        rows, columns = (starts(side, window, stride) for side in (height, width))
        high, wide = min(window, height), min(window, width)
        across = np.zeros(width, np.float32)  # windows that cover a column
        for left in columns:
            across[left : left + wide] += 1
        sums = np.zeros((len(self.classes), high, width), np.float32)
        down = np.zeros((high, 1), np.float32)
        for top, following in zip(rows, [*rows[1:], height], strict=True):
            for left in columns:
                seen = pixels[top : top + high, left : left + wide]
                sums[:, :, left : left + wide] += self._logits(seen)
            down += 1
            done = following - top  # rows that no further window touches
            yield top, (sums[:, :done] / (down[:done] * across)).astype(np.float32, copy=False)
            for part in (*sums, down):
                part[: high - done] = part[done:].copy()
                part[high - done :] = 0

    def _fit(self, pixels: Pixels) -> Pixels:
        """The image as large as the network wants it."""
        height, width = pixels.shape[:2]
        short, long = self.settings["min_size"], self.settings["max_size"]
        return resize(pixels, *fit_size(height, width, short, long)) if short else pixels

    def _logits(self, pixels: Pixels) -> Floats:
        """A window (h, w, C) to logits (K, h, w); the graph sees it filled up with zeros."""
        height, width = pixels.shape[:2]
        least = self.settings["min_side"]
        missing = (max(least - height, 0), max(least - width, 0))
        image = normalise(pixels, self.settings)
        image = np.pad(image, ((0, 0), (0, missing[0]), (0, missing[1])))
        logits: Floats = self.run(image[None])[0, :, :height, :width]
        return logits


def _onnx(file: Path, providers: Sequence[str], threads: int) -> Graph:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("this graph needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=list(providers))

    def run(images: Floats) -> Floats:
        logits: Floats = session.run(["logits"], {"images": images})[0]
        return logits

    return run


def _openvino(file: Path, device: str, threads: int, precision: str) -> Graph:
    try:
        import openvino
    except ImportError as error:
        raise ImportError("this graph needs openvino: pip install openvino") from error
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads} if threads else {}
    if precision:
        options["INFERENCE_PRECISION_HINT"] = precision
    compiled = openvino.Core().compile_model(file, device, options)

    def run(images: Floats) -> Floats:
        logits: Floats = compiled({"images": images})["logits"]
        return logits

    return run


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows along a side begin; the last one ends at the edge."""
    last = max(length - window, 0)
    return list(dict.fromkeys(min(start, last) for start in range(0, last + stride, stride)))


def classes_at(logits: Floats, height: int, width: int) -> Classes:
    """The class of highest logit of every pixel after bilinear resizing, (height, width).

    Args:
        logits: (K, h, w).
        height: of the result.
        width: of the result.
    """
    above, below, down = _places(logits.shape[1], height)
    left, right, across = _places(logits.shape[2], width)
    found = np.empty((height, width), np.int32)
    step = max(1, BAND // (len(logits) * max(width, logits.shape[2])))
    for top in range(0, height, step):
        band = slice(top, top + step)
        upper, lower = logits[:, above[band]], logits[:, below[band]]
        rows = upper + (lower - upper) * down[band, None]
        found[band] = (rows[..., left] * (1 - across) + rows[..., right] * across).argmax(0)
    return found


def _places(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """The two old places that each new one lies between, and how near it is to the second."""
    place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    first = place.astype(np.int64)
    return first, np.minimum(first + 1, old - 1), (place - first).astype(np.float32)


def index_image(classes: Classes, colours: Sequence[Sequence[int]]) -> Image.Image:
    """An image whose values are the classes; of up to 256 classes with colours."""
    if len(colours) > 256:
        return Image.fromarray(classes.astype(np.uint16))
    image = Image.fromarray(classes.astype(np.uint8))
    image.putpalette(bytes(value for colour in colours for value in colour))
    return image


def main(arguments: Sequence[str]) -> int:
    """Write which classes are in pictures, with the graph that lies beside this file."""
    parser = argparse.ArgumentParser(description="The class of every pixel, and their areas.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    parser.add_argument("--out", type=Path, help="folder for maps of classes as PNG")
    args = parser.parse_args(arguments)
    segmenter = ExportedSegmenter(Path(__file__).parent)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(("image", "class", "pixels", "share"))
    for number, file in enumerate(args.pictures, 1):
        found = segmenter(file)
        counts = np.bincount(found.reshape(-1), minlength=len(segmenter.classes))
        for name, pixels in zip(segmenter.classes, counts.tolist(), strict=True):
            table.writerow((file, name, pixels, f"{pixels / found.size:.6f}"))
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            image = index_image(found, segmenter.settings["colours"])
            image.save(args.out / f"{number:06d}_{Path(file).stem}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
