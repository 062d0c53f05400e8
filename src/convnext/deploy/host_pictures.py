"""Pictures as exported networks see them, in numpy and Pillow; for the programs beside graphs.

Every pixel is that of the code that the network was trained and scored with.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

__all__ = ["Floats", "Pixels", "fit_size", "normalise", "read_settings", "resize", "to_pixels"]

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def read_settings(file: Path, format: int, what: str) -> dict[str, Any]:
    """The JSON file of an export.

    Args:
        file: beside the graphs.
        format: the version that the caller reads.
        what: the kind of network, for messages.

    Raises:
        ValueError: it is missing, damaged, or of another version.
        OSError: it cannot be read.
    """
    if not file.is_file():
        raise ValueError(f"{file.parent} is no exported {what}: it has no {file.name}")
    try:
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = settings["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if version != format:
        raise ValueError(f"{file} has format {version}, this program reads {format}")
    return settings


def to_pixels(picture: Image.Image | Pixels | str | Path, channels: int) -> Pixels:
    """A picture as a person sees it: upright, over white, 8 bits; (H, W, channels)."""
    if isinstance(picture, np.ndarray):
        array = picture[:, :, None] if picture.ndim == 2 else picture
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != channels:
            raise ValueError(
                f"pixels of shape {picture.shape} and type {picture.dtype}; "
                f"expected (H, W, {channels}) of uint8"
            )
        return array
    if isinstance(picture, str | Path):
        with Image.open(picture) as file:
            return to_pixels(file, channels)
    if channels not in (1, 3):
        raise ValueError(f"pictures have 1 or 3 channels; give {channels} channels as an array")
    image = ImageOps.exif_transpose(picture)
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray(np.clip(np.rint(np.asarray(image) / 257), 0, 255).astype(np.uint8))
    elif "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if channels == 1 and image.mode != "L":
        image = image.convert("RGB")  # palettes and CMYK know their colours, not their greys
    pixels = np.array(image.convert("RGB" if channels == 3 else "L"))
    return pixels.reshape(*pixels.shape[:2], channels)


def fit_size(height: int, width: int, short: float, long: float) -> tuple[int, int]:
    """The size with the short side as given, unless the long side would exceed its limit."""
    factor = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Bilinear without antialiasing, rounded to whole grey levels along one side, then the other.

    Weights are whole numbers, so that every pixel is that of PyTorch's code for uint8.
    """
    if pixels.shape[1] != width:
        pixels = _resize_columns(pixels, width)
    if pixels.shape[0] != height:
        pixels = _resize_columns(pixels.swapaxes(0, 1), height).swapaxes(0, 1)
    return pixels


def _resize_columns(pixels: Pixels, new: int) -> Pixels:
    old = pixels.shape[1]
    place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    left = place.astype(np.int64)
    share = place - left
    # The greatest weight has to fit 16 bits.
    bits = 14 if max(share.max(), 1 - share.min()) * 2**15 + 0.5 >= 2**15 else 15
    right_weight = (share * 2**bits + 0.5).astype(np.int32)[:, None]
    left_weight = ((1 - share) * 2**bits + 0.5).astype(np.int32)[:, None]
    right = np.minimum(left + 1, old - 1)
    total = pixels[:, left] * left_weight
    total += pixels[:, right] * right_weight
    total += 1 << (bits - 1)
    resized: Pixels = np.clip(total >> bits, 0, 255).astype(np.uint8)
    return resized


def normalise(pixels: Pixels, settings: dict[str, Any]) -> Floats:
    """(h, w, C) uint8 to (C, H, W) float32; zeros below and to the right fill up to the divisor."""
    height, width, channels = pixels.shape
    divisor = settings.get("divisor", 1)
    padded = (-(-side // divisor) * divisor for side in (height, width))
    mean = np.float32(255) * np.array(settings["mean"], np.float32)
    scale = 1 / (np.float32(255) * np.array(settings["std"], np.float32))
    image = np.zeros((channels, *padded), np.float32)
    image[:, :height, :width] = ((pixels - mean) * scale).transpose(2, 0, 1)
    return image
