"""Any image file to an upright 8-bit RGB or grey picture."""

import os
import warnings
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

# Only raster formats: Pillow's PostScript and other plug-ins start programs on untrusted files.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"}
)
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Header(NamedTuple):
    """What the first bytes of an image say: size in pixels (after the EXIF turn), colours, form."""

    width: int
    height: int
    mode: str
    format: str


def read_image(
    data: bytes | str | Path, channels: int = 3, *, name: str = "", upright: bool = True
) -> Image.Image:
    """Decode an image file, as a person would see it.

    The format is told by content, not by name. EXIF turns are applied, transparent pixels lie over
    white, 16-bit values are divided by 257 (65535 -> 255), CMYK and palettes become RGB, of an
    animation the first frame is taken.

    Args:
        data: the file's bytes, or its path.
        channels: 3 for mode "RGB", 1 for mode "L".
        name: what to call the image in an error, needed where `data` are bytes.
        upright: apply the EXIF turn.

    Returns:
        A loaded image, at least 1x1.

    Raises:
        ValueError: naming the file, if it is empty, truncated, too large or no image.
        OSError: if the path cannot be read.
    """
    if not isinstance(data, bytes):
        name = name or str(data)
        data = Path(data).read_bytes()
    return _decode(
        data,
        name,
        lambda image: _to_mode(
            _upright(image) if upright else image, "RGB" if channels == 3 else "L"
        ),
    )


def read_raw(data: bytes, *, name: str, upright: bool = False) -> Image.Image:
    """Decode an image file in its own mode, with the values that are stored.

    Args:
        data: the file.
        name: what to call it in an error.
        upright: apply the EXIF turn.

    Raises:
        ValueError: naming the file, as `read_image`.
    """
    return _decode(data, name, _upright if upright else lambda image: image)


def read_turn(data: bytes, *, name: str = "") -> int:
    """The EXIF orientation of an image file, 1 (upright) to 8; 1 where it says none.

    Raises:
        ValueError: naming the file, as `read_header`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        turn = _orientation(_open(data, name))
    return turn if turn in _TURNS else 1


def read_header(data: bytes, *, name: str = "", upright: bool = True) -> Header:
    """Size, mode and format of an image without decoding its pixels.

    Args:
        data: the file, or enough of its first bytes.
        name: what to call it in an error.
        upright: give the size after the EXIF turn.

    Raises:
        ValueError: naming the file, if the first bytes are no image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(data, name)
        width, height = image.size
        # Pillow reports the size of a turned TIFF as it will be after loading.
        if upright and image.format != "TIFF" and _orientation(image) >= 5:
            width, height = height, width
        return Header(width, height, image.mode, image.format or "")


def is_image_name(name: str) -> bool:
    """Whether a file name has the ending of an image format that can be read."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - runs per file, be quick


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # a Pillow may be built without


def _open(data: bytes, name: str) -> Image.Image:
    if not data:
        raise ValueError(f"{name}: the file is empty (0 bytes)")
    try:
        return Image.open(BytesIO(data), formats=_formats())
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(
            f"{name}: larger than the limit of {limit:,} pixels that protects against "
            "decompression bombs; make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: not an image (or of a format that is not read)") from error
    except Exception as error:  # as above: header parsers, too, raise almost any type
        raise ValueError(f"{name}: damaged image ({_reason(error)})") from error


def _decode(data: bytes, name: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    with warnings.catch_warnings():
        # Broken EXIF blocks and odd TIFF tags warn; the pixels are what counts here.
        warnings.simplefilter("ignore")
        image = _open(data, name)
        try:
            image.load()
            return convert(image)
        except Exception as error:  # Pillow's decoders raise almost any type on hostile bytes
            raise ValueError(f"{name}: damaged image ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block of an otherwise sound image: no turn
        return 1
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = Image.fromarray(to_8_bit(np.asarray(image)))
    elif "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    if mode == "L" and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")  # palettes and CMYK know their colours, not their greys
    return image if image.mode == mode else image.convert(mode)


def to_8_bit(pixels: np.ndarray, *, unit: bool | None = None) -> np.ndarray:
    """Whole numbers are taken as 16-bit, fractions as 0..1 if none is above 1, else as 0..255.

    Args:
        pixels: of any shape.
        unit: whether fractions are 0..1; None = as said.
    """
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = np.nan_to_num(pixels, nan=0.0, posinf=255.0, neginf=0.0)
        if unit is None:
            unit = bool(pixels.size and pixels.max() <= 1.0)
        scaled = pixels * 255.0 if unit else pixels
    else:
        scaled = pixels.astype(np.float64) / 257.0
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
