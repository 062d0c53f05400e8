"""Grad-CAM: which part of an image speaks for a class, and a picture of it."""

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn


def grad_cam(model: nn.Module, images: Tensor, class_index: Tensor | None = None) -> Tensor:
    """Grad-CAM on the last feature map of a network.

    With the map ``A = forward_features(x)`` and the logit ``y_c = forward_head(A)_c``:
    ``w_k = mean_hw dy_c / dA_khw``, ``cam = relu(sum_k w_k A_k)``, resized bilinearly to the image
    and divided by its maximum. The network runs in evaluation mode and in full precision; only its
    head is differentiated, so that memory is that of a forward pass.

    Args:
        model: Network with ``forward_features`` (to ``(N, C, h, w)``) and ``forward_head``.
        images: ``(N, in_chans, H, W)`` on the network's device.
        class_index: ``(N,)`` class to explain; default: the predicted one.

    Returns:
        ``(N, H, W)`` float32 in 0..1; all 0 where nothing speaks for the class.

    Raises:
        ValueError: For a network without the two methods or a class outside its head.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2.
    """
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        raise ValueError(
            f"Grad-CAM needs a network with forward_features and forward_head, "
            f"{type(model).__name__} has not both"
        )
    network = cast(Any, model)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
            with torch.no_grad():
                features = network.forward_features(images)
            features = features.detach().requires_grad_()
            with torch.enable_grad():
                logits = network.forward_head(features)
                chosen = _chosen_logits(logits, class_index)
                (gradient,) = torch.autograd.grad(chosen.sum(), features)
    finally:
        model.train(was_training)
    weight = gradient.float().mean(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
    cam = (weight * features.detach().float()).sum(dim=1, keepdim=True).relu()  # (N, 1, h, w)
    cam = F.interpolate(cam, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    peak = cam.amax(dim=(1, 2), keepdim=True)
    return torch.where(peak > 0, cam / peak.clamp_min(torch.finfo(cam.dtype).tiny), 0.0)


def _chosen_logits(logits: Tensor, class_index: Tensor | None) -> Tensor:
    if class_index is None:
        class_index = logits.argmax(dim=1)
    class_index = class_index.to(logits.device).long().clone()  # autograd refuses inference tensors
    if (bad := (class_index < 0) | (class_index >= logits.shape[1])).any():
        raise ValueError(
            f"class {int(class_index[bad][0])} is outside 0..{logits.shape[1] - 1}, "
            "the classes of this network"
        )
    return logits.gather(1, class_index[:, None])


def seen_image(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Image.Image:
    """The picture a network saw: a normalised tensor turned back into an RGB image.

    Args:
        image: ``(C, H, W)`` with 1 or 3 channels, ``(pixel / 255 - mean) / std``.
        mean: One value a channel.
        std: One value a channel.
    """
    scale, shift = (torch.tensor(v).reshape(-1, 1, 1) for v in (std, mean))
    pixels = (image.detach().float().cpu() * scale + shift).clamp(0, 1) * 255
    array = pixels.round().byte().expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array)


def overlay(image: Image.Image, cam: Tensor | npt.NDArray[Any]) -> Image.Image:
    """Lay a class activation map over the picture it explains.

    The picture is greyed; colour, its lightness and its opacity all grow with the map, so that the
    overlay reads the same on a screen, in print and with any colour vision.

    Args:
        image: The picture as the network saw it (see `seen_image`), any mode.
        cam: ``(h, w)`` in 0..1; resized to the picture.

    Returns:
        RGB image of the picture's size.
    """
    values = np.asarray(torch.as_tensor(cam).detach().float().cpu())
    resized = Image.fromarray(values).resize(image.size, Image.Resampling.BILINEAR)
    strength = np.clip(np.asarray(resized), 0, 1)  # (H, W)
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    colour = colormap()[(strength * 255).round().astype(np.intp)]  # (H, W, 3)
    opacity = 0.75 * np.sqrt(strength)[..., None]
    mixed = (1 - opacity) * grey + opacity * colour
    return Image.fromarray(mixed.round().astype(np.uint8))


def colormap() -> npt.NDArray[np.uint8]:
    """256 RGB colours from dark violet over red to pale yellow, ``(256, 3)``.

    Lightness rises linearly in OKLab, a space in which equal steps look equal; hue turns from
    290 to 465 (= 105) degrees, and chroma peaks in between.

    Source: Ottosson, "A perceptual color space for image processing", 2020 (the two matrices).
    """
    t = np.linspace(0, 1, 256)
    lightness, hue = 0.25 + 0.70 * t, np.deg2rad(290 + 175 * t)
    chroma = 0.09 + 0.12 * np.sin(np.pi * t)
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    to_lms = np.array(
        [
            [1.0, 0.3963377774, 0.2158037573],
            [1.0, -0.1055613458, -0.0638541728],
            [1.0, -0.0894841775, -1.2914855480],
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ to_lms.T) ** 3 @ to_rgb.T, 0, 1)
    gamma = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table: npt.NDArray[np.uint8] = (gamma * 255).round().astype(np.uint8)
    return table
