"""Preprocessing: what must happen to an image before a network or a system on one sees it."""

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


@dataclass(frozen=True, kw_only=True)
class FitPreprocessing:
    """What images need before a system on a backbone sees them.

    They are resized, keeping their shape, so that the short side has `min_size` pixels, or the long
    one `max_size` if that is smaller; bilinear, without antialiasing.

    Attributes:
        min_size: short side in pixels.
        max_size: limit of the long side in pixels.
        mean: subtracted from each channel, in units of pixel value / 255.
        std: divides each channel, same units.

    Raises:
        ValueError: a value is out of its range.

    Source: ConvNeXt appendix A.3 and the published test configurations.
    """

    min_size: int = 800
    max_size: int = 1333
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))  # JSON has lists only
        object.__setattr__(self, "std", tuple(self.std))
        self._check_sizes()
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean {self.mean} and std {self.std} need one value per channel each")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive")

    def _check_sizes(self) -> None:
        if not 1 <= self.min_size <= self.max_size:
            raise ValueError(
                f"min_size {self.min_size} must be at least 1 and at most max_size {self.max_size}"
            )


@dataclass(frozen=True, kw_only=True)
class DetectorPreprocessing(FitPreprocessing):
    """What images need before a detector sees them, see `FitPreprocessing`."""


@dataclass(frozen=True, kw_only=True)
class SegmenterPreprocessing(FitPreprocessing):
    """What images need before a segmentation network sees them, see `FitPreprocessing`.

    Attributes:
        min_size: short side in pixels; 0: images keep their own size.
        max_size: limit of the long side in pixels.
        window: side of the square window that slides over the image; 0: the whole image at once.
        stride: pixels from one window to the next.
        mean: subtracted from each channel, in units of pixel value / 255.
        std: divides each channel, same units.

    Raises:
        ValueError: a value is out of its range.
    """

    min_size: int = 512
    max_size: int = 2048
    window: int = 512
    stride: int = 341

    def _check_sizes(self) -> None:
        if not 0 <= self.min_size <= self.max_size or self.max_size < 1:
            raise ValueError(
                f"min_size {self.min_size} must be 0 (images keep their own size) or more, and at "
                f"most max_size {self.max_size}"
            )
        if self.window < 0 or self.stride < 1 or self.stride > (self.window or self.stride):
            raise ValueError(
                f"window {self.window} must be 0 (the whole image) or more, and stride "
                f"{self.stride} from 1 to the window, or there are gaps"
            )
