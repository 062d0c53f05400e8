"""Huge or geotagged rasters, through the optional package rasterio: read and written in parts."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convnext.data.decode import to_8_bit

__all__ = [
    "LARGE",
    "ClassRaster",
    "Raster",
    "has_rasterio",
    "is_geotagged",
    "is_raster",
    "open_raster",
]

LARGE = 25_000_000  # pixels from which on a raster is read in parts
# GDAL has others that follow addresses in files.
DRIVERS = {
    "GTiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JP2OpenJPEG": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
}
BLOCK = 256
CACHE = 256 * 2**20  # bytes of blocks that GDAL keeps
SAMPLE = 512  # pixels along a side that tell what fractions mean
GEOTAGS = (33550, 33922, 34264, 34735)  # pixel scale, tie points, transformation, keys


def has_rasterio() -> bool:
    """Whether the package is installed."""
    return find_spec("rasterio") is not None


def is_raster(path: Path) -> bool:
    """Whether a file is to be read in parts: a raster with coordinates, large, or of many bands.

    Without rasterio no file is.

    Raises:
        OSError: it cannot be read.
    """
    driver = _driver(path)
    if driver is None or not has_rasterio():
        return False
    import rasterio

    try:
        with _quiet(), rasterio.open(path, driver=driver) as dataset:
            many = dataset.count > 4 or (dataset.count > 1 and dataset.dtypes[0] != "uint8")
            large = dataset.width * dataset.height > LARGE
            return bool(many or large or _placed(dataset))
    except rasterio.errors.RasterioError:
        return False  # whoever reads it as a picture says what is wrong


def _driver(path: Path) -> str | None:
    """What reads a file, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(12)
    return next((name for name, starts in DRIVERS.items() if start.startswith(starts)), None)


def is_geotagged(path: Path) -> bool:
    """Whether a file is a TIFF with coordinates; needs no rasterio.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("TIFF",)) as image:
                tags: Any = image.getexif()
                return any(tag in tags for tag in GEOTAGS)
    except Exception:  # Pillow's header parsers raise almost any type
        return False


def _placed(dataset: Any) -> bool:
    """Whether a raster has coordinates."""
    return dataset.crs is not None or not dataset.transform.is_identity or bool(dataset.gcps[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Rasters without coordinates are no cause for a warning."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def open_raster(path: Path, channels: int) -> "Iterator[Raster]":
    """A raster to read in parts.

    Args:
        path: a file of which `is_raster` is true.
        channels: 3 or 1, the colours that are wanted.

    Raises:
        ValueError: naming the file, if it is damaged.
    """
    import rasterio

    try:
        with _quiet():
            opened = rasterio.open(path, driver=_driver(path))
    except rasterio.errors.RasterioError as error:
        raise ValueError(f"{path}: damaged image ({error})") from error
    with rasterio.Env(GDAL_CACHEMAX=CACHE), opened as dataset:
        yield Raster(str(path), dataset, channels)


class Raster:
    """A raster as a `Scene`.

    Of three or more bands the first three are red, green and blue; of one or two the first is grey
    (or a palette's index). An alpha band is no colour. As in training, and not stretched by what
    each file holds: 16 bits are divided by 257 (65535 -> 255), fractions are taken as 0..1 if none
    of a sample is above 1, else as 0..255.

    Args:
        name: of the file.
        dataset: an open one of rasterio.
        channels: 3 or 1.

    Attributes:
        name: of the file.
        size: height and width in pixels.
        pixel_area: square metres of a pixel in the plane of the projection; None without one.
    """

    def __init__(self, name: str, dataset: Any, channels: int) -> None:
        from rasterio.enums import ColorInterp

        self.name = name
        self.size: tuple[int, int] = (dataset.height, dataset.width)
        self.dataset = dataset
        self.pixel_area = _pixel_area(dataset)
        self._channels = channels
        kinds = zip(dataset.indexes, dataset.colorinterp, strict=True)
        colours = [index for index, kind in kinds if kind != ColorInterp.alpha]
        self._bands = colours[:3] if len(colours) >= 3 else (colours or [1])[:1]
        self._palette: NDArray[np.uint8] | None = None
        if dataset.colorinterp[self._bands[0] - 1] == ColorInterp.palette:
            self._palette = _palette(dataset.colormap(self._bands[0]))
        self._whole = all("all_valid" in {flag.name for flag in f} for f in dataset.mask_flag_enums)
        self._unit: bool | None = None

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """See `Scene`."""
        window = ((top, top + height), (left, left + width))
        return self._colours(self._read(self._bands, window=window))

    def missing(self, top: int, left: int, height: int, width: int) -> NDArray[np.bool_] | None:
        """See `Scene`; pixels of the value for no data, or transparent ones."""
        if self._whole:
            return None
        window = ((top, top + height), (left, left + width))
        with self._named():
            absent: NDArray[np.bool_] = self.dataset.dataset_mask(window=window) == 0
        return absent if absent.any() else None

    def picture(self) -> Image.Image:
        """See `Scene`."""
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        if limit and self.size[0] * self.size[1] > limit:
            raise ValueError(
                f"{self.name}: {self.size[1]}x{self.size[0]} pixels are more than can be resized "
                f"at once ({limit:,}); see them through windows (--full-size)"
            )
        return self._image(self.read(0, 0, *self.size))

    def reduced(self, factor: int) -> Image.Image:
        """See `Scene`."""
        from rasterio.enums import Resampling

        shape = tuple(-(-side // factor) for side in self.size)
        kind = Resampling.average if self._palette is None else Resampling.nearest
        pixels = self._read(self._bands, out_shape=(len(self._bands), *shape), resampling=kind)
        return self._image(self._colours(pixels))

    def _image(self, pixels: NDArray[np.uint8]) -> Image.Image:
        return Image.fromarray(pixels[:, :, 0] if self._channels == 1 else pixels)

    def _read(self, bands: Sequence[int], **how: Any) -> NDArray[Any]:
        with self._named():
            pixels: NDArray[Any] = self.dataset.read(bands, **how)
        return pixels

    @contextmanager
    def _named(self) -> Iterator[None]:
        from rasterio.errors import RasterioError

        try:
            yield
        except RasterioError as error:
            raise ValueError(f"{self.name}: damaged image ({error})") from error

    def _colours(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Bands (b, h, w) to (h, w, C) uint8."""
        if self._palette is not None:
            shown = self._palette[np.minimum(pixels[0], len(self._palette) - 1)]
        else:
            shown = self._in_8_bit(pixels).transpose(1, 2, 0)
        if shown.shape[2] == self._channels:
            return np.ascontiguousarray(shown)
        if self._channels == 3:
            return np.repeat(shown, 3, axis=2)
        return np.asarray(Image.fromarray(shown).convert("L"))[:, :, None]

    def _in_8_bit(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        if pixels.dtype == np.uint8:
            return pixels
        if np.issubdtype(pixels.dtype, np.complexfloating):
            raise ValueError(f"{self.name}: pixels are complex numbers, no colours")
        if not np.issubdtype(pixels.dtype, np.floating):
            return to_8_bit(pixels)
        if self._unit is None:
            shape = tuple(min(SAMPLE, side) for side in self.size)
            sample = self._read(self._bands, out_shape=(len(self._bands), *shape), masked=True)
            self._unit = not np.nan_to_num(np.ma.filled(sample, 0)).max() > 1
        return to_8_bit(pixels, unit=self._unit)


def _palette(colours: dict[int, tuple[int, ...]]) -> NDArray[np.uint8]:
    """(n, 3) of the colour table of a band."""
    table = np.zeros((max(colours) + 1, 3), np.uint8)
    for index, colour in colours.items():
        table[index] = colour[:3]
    return table


def _pixel_area(dataset: Any) -> float | None:
    if dataset.crs is None or not dataset.crs.is_projected or dataset.transform.is_identity:
        return None
    metres = float(dataset.crs.linear_units_factor[1])
    return abs(float(dataset.transform.determinant)) * metres**2


class ClassRaster:
    """A map of classes as a GeoTIFF with the coordinates of another raster, written in parts.

    One band in compressed tiles: bytes with a table of colours up to 255 classes, else 16 bits. The
    largest value stands for no data; names of the classes are tags of the band. The file appears
    under its name when it is complete: every pixel has been written once and read back.

    Args:
        path: of the file.
        like: the raster that it is a map of.
        colours: (K, 3) uint8.
        names: of the K classes.
    """

    def __init__(
        self, path: Path, like: Raster, colours: NDArray[np.uint8], names: Sequence[str]
    ) -> None:
        import rasterio

        self._path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        small = len(names) <= 255
        self._dtype: Any = np.uint8 if small else np.uint16
        self._sum = 0  # of all values written
        source = like.dataset
        with _quiet():
            self._file = rasterio.open(
                self._part,
                "w",
                driver="GTiff",
                height=like.size[0],
                width=like.size[1],
                count=1,
                dtype=self._dtype,
                nodata=np.iinfo(self._dtype).max,
                tiled=True,
                blockxsize=BLOCK,
                blockysize=BLOCK,
                compress="LZW",
                bigtiff="IF_SAFER",
            )
        if source.crs is not None:
            self._file.crs = source.crs
        if not source.transform.is_identity:
            self._file.transform = source.transform
        elif source.gcps[0]:
            self._file.gcps = source.gcps
        if small:
            table = {i: (*colour, 255) for i, colour in enumerate(colours.tolist())}
            self._file.write_colormap(1, table)
        self._file.update_tags(1, **{f"class_{i}": name for i, name in enumerate(names)})

    def write(self, top: int, left: int, classes: NDArray[np.integer]) -> None:
        """Write a part (h, w) that was not yet written; negative classes are no data.

        Raises:
            OSError: there is no space.
        """
        height, width = classes.shape
        window = ((top, top + height), (left, left + width))
        values = np.where(classes < 0, np.iinfo(self._dtype).max, classes).astype(self._dtype)
        self._file.write(values, 1, window=window)
        self._sum += int(values.sum(dtype=np.int64))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Give the file its name, or leave nothing after an error."""
        try:
            self._file.close()
            if kind is None:
                self._check()
                self._part.replace(self._path)
        finally:
            self._part.unlink(missing_ok=True)

    def _check(self) -> None:
        """GDAL does not say that blocks could not be written when a file is closed: read them."""
        import rasterio

        found = -1
        with suppress(rasterio.errors.RasterioError), _quiet(), rasterio.open(self._part) as file:
            blocks = (file.read(1, window=window) for _, window in file.block_windows(1))
            found = sum(int(block.sum(dtype=np.int64)) for block in blocks)
        if found != self._sum:
            raise OSError(
                f"cannot write {self._path}: what was written cannot be read back; free some "
                "space or choose another folder"
            )
