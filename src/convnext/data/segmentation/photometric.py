"""Random brightness, contrast, saturation and hue, in 8 bits as the published networks saw them."""

import numpy as np
from numpy.typing import NDArray

from convnext.data.config import SegmentationAugmentConfig

Channel = NDArray[np.uint8]

_HUES = 180  # steps of the whole circle
_SHIFT = 12  # bits after the point in the tables of division
_SLACK = np.float32(6e-5)  # half the least difference of two colours, above the errors of rounding


def distort(
    pixels: NDArray[np.uint8], augment: SegmentationAugmentConfig, random: np.random.RandomState
) -> NDArray[np.uint8]:
    """Change the colours of an image at random.

    Brightness b: x + b; contrast c: c x, before or after the colours with equal chance; saturation
    and hue by way of HSV of 8 bits (hue in steps of 2 degrees). Each with probability
    `augment.photometric`; values are cut off at 0 and 255 and rounded down to whole ones each time.

    Args:
        pixels: (H, W, 3) or (H, W, 1) uint8; grey has no saturation and hue.
        augment: strengths and probability.
        random: what draws.

    Returns:
        An array of the same form, the same one if nothing was drawn.

    Source: the published configuration of Liu et al. 2022 (Appendix A.3); the order is that of Liu
    et al. 2016, "SSD", section 3.6.
    """

    def drawn() -> bool:
        return bool(random.random_sample() < augment.photometric)

    if drawn():
        pixels = _table(1.0, random.uniform(-augment.brightness, augment.brightness))[pixels]
    first = random.randint(2) == 1
    if first and drawn():
        pixels = _table(random.uniform(*augment.contrast))[pixels]
    if pixels.shape[2] == 3 and drawn():
        hue, saturation, value = to_hsv(pixels)
        pixels = to_rgb(hue, _table(random.uniform(*augment.saturation))[saturation], value)
    most = round(augment.hue)
    if pixels.shape[2] == 3 and drawn() and most:
        hue, saturation, value = to_hsv(pixels)
        turned = (np.arange(_HUES) + random.randint(-most, most)) % _HUES
        pixels = to_rgb(turned.astype(np.uint8)[hue], saturation, value)
    if not first and drawn():
        pixels = _table(random.uniform(*augment.contrast))[pixels]
    return pixels


def _table(factor: float, offset: float = 0.0) -> NDArray[np.uint8]:
    """The values factor x + offset for x = 0..255, cut off and rounded down."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    return values.clip(0, 255).astype(np.uint8)


def to_hsv(pixels: NDArray[np.uint8]) -> tuple[Channel, Channel, Channel]:
    """(H, W, 3) RGB to hue 0..179, saturation 0..255 and value 0..255, each (H, W) uint8.

    V = max(R, G, B), D = V - min(R, G, B), S = 255 D / V; hue = 30 (G - B) / D where R is the
    largest, 60 + 30 (B - R) / D where G is, else 120 + 30 (R - G) / D; to the nearest whole number.

    Source: Smith 1978, "Color gamut transform pairs".
    """
    red, green, blue = (pixels[..., i].astype(np.int16) for i in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    place = np.where(
        value == red,
        green - blue,
        np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    half = 1 << (_SHIFT - 1)
    hue = (place * _PER_SPREAD[spread] + half) >> _SHIFT
    hue += _HUES * (hue < 0)
    saturation = (spread * _PER_VALUE[value] + half) >> _SHIFT
    return hue.astype(np.uint8), saturation.astype(np.uint8), value.astype(np.uint8)


def to_rgb(hue: Channel, saturation: Channel, value: Channel) -> NDArray[np.uint8]:
    """The reverse of `to_hsv`: three channels (H, W) to (H, W, 3) RGB.

    Each colour is V (1 - S k / 255), rounded down, where k depends on the hue: 0 in the third of
    the circle around the colour, 1 in that opposite, linear between them.
    """
    pixels = np.empty((*hue.shape, 3), np.uint8)
    most = value * np.float32(1 / 255) * saturation
    whole = value + _SLACK
    for channel in range(3):
        pixels[..., channel] = whole - most * _LACK[channel][hue]
    return pixels


def _quotients(numerator: float) -> NDArray[np.int32]:
    """The quotients numerator / i for i = 1..255 with 12 bits after the point, 0 for i = 0."""
    steps = np.arange(1, 256)
    return np.concatenate([[0], np.rint((numerator * (1 << _SHIFT)) / steps)]).astype(np.int32)


def _lacks() -> NDArray[np.float32]:
    """The k of `to_rgb` for red, green and blue and each hue, (3, 180)."""
    sixths = np.arange(_HUES) / (_HUES / 6)
    apart = [np.abs((sixths - centre + 3) % 6 - 3) for centre in (0, 2, 4)]
    lacks: NDArray[np.float32] = np.clip(np.stack(apart) - 1, 0, 1).astype(np.float32)
    return lacks


_PER_SPREAD, _PER_VALUE, _LACK = _quotients(_HUES / 6), _quotients(255), _lacks()
