"""Preprocessing: what must happen to an image before a network sees it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SQUASH_FROM = 384  # from this size on the published networks are evaluated without a crop

Interpolation = Literal["bicubic", "bilinear"]
CropMode = Literal["auto", "center", "squash"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Evaluation preprocessing that belongs to a set of weights.

    ``center``: resize the short side to int(image_size / crop_pct), crop the centre.
    ``squash``: resize both sides to image_size, which loses the aspect ratio.
    ``auto``: squash from 384 px on, else center.

    Attributes:
        image_size: Side of the square the network sees, in pixels.
        mean: Subtracted from each channel, in units of pixel value / 255.
        std: Divides each channel, same units.
        interpolation: Filter of the resize.
        crop_pct: Share of the short side that the crop keeps, in (0, 1].
        crop_mode: As above.

    Raises:
        ValueError: A value is out of its range.

    Source: ConvNeXt appendix A, evaluation code of the published repository.
    """

    image_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 0.875
    crop_mode: CropMode = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if self.image_size < 1:
            raise ValueError(f"image_size {self.image_size} must be at least 1")
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean {self.mean} and std {self.std} need one value per channel each")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct {self.crop_pct} must be above 0 and at most 1")
        for name, words in (("interpolation", Interpolation), ("crop_mode", CropMode)):
            value, known = getattr(self, name), get_args(words)
            if value not in known:
                raise ValueError(f"{name} {value!r} must be one of {', '.join(known)}")

    @property
    def squashes(self) -> bool:
        """Whether the image is resized to a square without a crop."""
        if self.crop_mode == "auto":
            return self.image_size >= SQUASH_FROM
        return self.crop_mode == "squash"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``Preprocessing(**values)`` reads them back."""
        return asdict(self)
