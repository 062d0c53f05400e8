"""PIL image to normalised tensor: the training augmentation and the evaluation crop."""

import random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

from convnext.data.config import DataConfig, ImagesConfig

SMALL = 32  # up to this size the images are cropped with padding instead of resized
_MODES = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class Normalise:
    """uint8 image to (C, H, W) float32: (x / 255 - mean) / std per channel."""

    def __init__(self, config: ImagesConfig) -> None:
        self.mean = torch.tensor(config.channel_mean).view(-1, 1, 1)
        self.std = torch.tensor(config.channel_std).view(-1, 1, 1)

    def __call__(self, image: Image.Image) -> Tensor:
        """Convert one image of as many channels as the configuration says."""
        pixels = np.array(image)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)  # (C, H, W)
        tensor = tensor.to(torch.float32, memory_format=torch.contiguous_format)
        return tensor.div_(255).sub_(self.mean).div_(self.std)


class TrainTransform:
    """Random training view of an image, drawn from Python's, numpy's and torch's global generators.

    Random resized crop (area U(0.08, 1), aspect log-uniform 3/4..4/3) -> flip -> RandAugment ->
    normalise -> random erasing (noise N(0, 1), area U(0.02, 1/3), aspect log-uniform 0.3..1/0.3).
    At image_size <= 32 the first step is a random crop of the image padded by 4 black pixels.

    Args:
        config: sizes, normalisation and `augment`.

    Source: Liu et al. 2022, Table 5; RandAugment, erasing and crop box are those of timm, which the
    paper trained with.
    """

    def __init__(self, config: DataConfig) -> None:
        from timm.data.auto_augment import rand_augment_transform
        from timm.data.random_erasing import RandomErasing
        from timm.data.transforms import RandomResizedCropAndInterpolation

        augment = config.augment
        self.size = config.image_size
        self.channels = config.in_chans
        self.augment = augment
        self.mode = _MODES[config.interpolation]
        self.resample = _RESAMPLING[config.interpolation]
        self.crop_box = RandomResizedCropAndInterpolation.get_params
        fill = tuple(min(255, round(255 * value)) for value in config.channel_mean)
        options = {
            "img_mean": fill if config.in_chans == 3 else fill[0],
            "interpolation": self.resample,
        }
        self.policy: Any = None
        if augment.rand_augment:
            self.policy = rand_augment_transform(augment.rand_augment, options)
            for operation in self.policy.ops:
                if operation.name.startswith("Posterize"):
                    operation.aug_fn = _posterize
        self.normalise = Normalise(config)
        self.erase = RandomErasing(augment.erase_prob, mode="pixel", device="cpu")

    def __call__(self, image: Image.Image) -> Tensor:
        """A random view, (C, image_size, image_size) float32."""
        image = self._small_crop(image) if self.size <= SMALL else self._resized_crop(image)
        if random.random() < self.augment.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if random.random() < self.augment.vflip:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        if self.policy is not None:
            image = self.policy(image)
        tensor = self.normalise(image)
        return self.erase(tensor) if self.augment.erase_prob else tensor

    def _resized_crop(self, image: Image.Image) -> Image.Image:
        top, left, height, width = self.crop_box(image, self.augment.scale, self.augment.ratio)
        # In images of a few pixels the drawn box can round to nothing.
        height, width = max(height, 1), max(width, 1)
        top, left = min(top, image.height - height), min(left, image.width - width)
        image = image.crop((left, top, left + width, top + height))
        return image.resize((self.size, self.size), self.resample)

    def _small_crop(self, image: Image.Image) -> Image.Image:
        image = _cover(image, self.size, self.mode)
        image = vision.pad(image, [self.augment.pad])
        top = random.randint(0, image.height - self.size)
        left = random.randint(0, image.width - self.size)
        return image.crop((left, top, left + self.size, top + self.size))


class EvalTransform:
    """The fixed view of an image for evaluation.

    Below 384 px: short side to int(size / crop_pct), central crop. From 384 px on (or with
    crop_mode "squash"): the whole image to size x size, its aspect ratio lost. At 32 px and below
    an image of the right size is left as it is.

    Source: Liu et al. 2022, official evaluation; crop_pct 224/256.
    """

    def __init__(self, config: DataConfig) -> None:
        self.size = config.image_size
        self.channels = config.in_chans
        self.squash = config.squash
        self.short = int(config.image_size / config.crop_pct)
        self.mode = _MODES[config.interpolation]
        self.normalise = Normalise(config)

    def __call__(self, image: Image.Image) -> Tensor:
        """The view, (C, image_size, image_size) float32."""
        if self.size <= SMALL and not self.squash:
            image = vision.center_crop(_cover(image, self.size, self.mode), [self.size])
        elif self.squash:
            image = vision.resize(image, [self.size, self.size], self.mode)
        else:
            image = _narrow(image)
            image = vision.center_crop(vision.resize(image, [self.short], self.mode), [self.size])
        return self.normalise(image)


def train_transform(config: DataConfig) -> TrainTransform:
    """The random training transform: PIL image to (C, H, W) float32."""
    return TrainTransform(config)


def eval_transform(config: DataConfig) -> EvalTransform:
    """The evaluation transform: PIL image to (C, H, W) float32."""
    return EvalTransform(config)


def _posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """Keep the leading bits of every value; none of them is black.

    The policy reaches 0 bits at its highest level (about one image in 700), which Pillow refuses
    since version 13; before, it gave black.
    """
    if bits_to_keep < 1:
        return image.point([0] * (256 * len(image.getbands())))
    return image if bits_to_keep >= 8 else ImageOps.posterize(image, bits_to_keep)


def _cover(image: Image.Image, size: int, mode: InterpolationMode) -> Image.Image:
    """Data sets of tiny images have them in the right size; others are resized to cover it."""
    if image.size == (size, size):
        return image
    covering: Image.Image = vision.center_crop(vision.resize(image, [size], mode), [size])
    return covering


def _narrow(image: Image.Image) -> Image.Image:
    """The middle of a very long image, so that resizing its short side stays cheap.

    A 1 x 3000 image would become 256 x 768000. What is cut off lies far outside the central crop
    and the reach of the resampling filter.
    """
    most, keep = max(image.size), 8 * min(image.size)
    if most <= keep:
        return image
    keep += (most - keep) % 2  # as much on the left as on the right
    if image.width > image.height:
        left = (most - keep) // 2
        return image.crop((left, 0, left + keep, image.height))
    top = (most - keep) // 2
    return image.crop((0, top, image.width, top + keep))
