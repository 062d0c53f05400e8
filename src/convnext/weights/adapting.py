"""Changing weights on request: another number of classes, other input channels, another stem."""

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from convnext.models.backbone import Backbone
from convnext.models.large_kernel import RepLKNetConfig
from convnext.weights.layouts.layout import StateDict

STEMS = ("stem.conv.weight", "stem.layers.0.conv.weight")  # the first layer of every network


@dataclass
class Adapted:
    """Weights made to fit.

    Attributes:
        state: Tensors under our names.
        done: What was changed, for the report.
        new: Patterns of the names of the network's tensors that start anew.
    """

    state: StateDict
    done: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


def adapt(state: StateDict, network: Backbone) -> Adapted:
    """Make a state dict in our layout fit a network that was asked for."""
    result = Adapted(dict(state))
    _adapt_head(result, network)
    _adapt_stem(result, network)
    return result


def _adapt_head(result: Adapted, network: Backbone) -> None:
    state, config = result.state, network.config
    norm, head = "norm.weight" in state, state.get("head.weight")
    classes = 0 if head is None else head.shape[0]
    if isinstance(config, RepLKNetConfig) and config.merged and not config.features_only:
        _keep_merged_head(classes, config.num_classes)
    if config.features_only:
        if norm or classes:
            result.done.append("norm and head left out (features_only)")
        _remove(state, "norm.", "head.")
        return
    if not norm and not classes and list(network.norm.parameters()):
        result.done.append("norm is new (the file holds an encoder only)")
        result.new.append("norm.*")
    if classes == config.num_classes:
        return
    _remove(state, "head.")
    if config.num_classes == 0:
        result.done.append(f"head with {classes} classes left out (num_classes=0)")
    else:
        result.done.append(f"head is new ({config.num_classes} classes; the file has {classes})")
        result.new.append("head.*")


def _keep_merged_head(classes: int, asked: int) -> None:
    if classes != asked:
        raise ValueError(
            f"the head of a merged RepLKNet ({classes} classes) holds its last norm and cannot be "
            f"replaced (num_classes={asked}); load the weights that it was merged from"
        )


def _adapt_stem(result: Adapted, network: Backbone) -> None:
    name = next(name for name in STEMS if name in result.state)
    stem = result.state[name]
    channels, kernel = stem.shape[1:3]
    own = network.get_parameter(name)
    in_chans, side = own.shape[1:3]
    if channels != in_chans:
        result.done.append(f"{name} from {channels} to {in_chans} input channels")
        stem = adapt_in_chans(stem, in_chans)
    if kernel != side:
        result.done.append(f"{name} resampled from {kernel}x{kernel} to {side}x{side}")
        stem = resize_stem(stem, side)
    result.state[name] = stem


def _remove(state: StateDict, *prefixes: str) -> None:
    for name in [name for name in state if name.startswith(prefixes)]:
        del state[name]


def adapt_in_chans(weight: Tensor, in_chans: int) -> Tensor:
    """Fit the stem (O, I, k, k) to other input channels.

    One channel: the sum over I, which equals feeding the same grey image to all of them. More:
    the channels repeated in order and scaled by I / in_chans, which keeps the response to a
    constant image.

    Source: the rule that timm applies with ``in_chans``.
    """
    channels = weight.shape[1]
    if in_chans == 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    index = [i % channels for i in range(in_chans)]
    return (weight.float()[:, index] * (channels / in_chans)).to(weight.dtype)


def resize_stem(weight: Tensor, side: int) -> Tensor:
    """Resample the kernels (O, I, k, k) to another side.

    The values are interpolated bilinearly over the kernel's extent and scaled by the ratio of the
    areas, so that the response to a smooth image stays about the same.
    """
    ratio = (weight.shape[2] / side) ** 2
    resized = F.interpolate(weight.float(), size=side, mode="bilinear", align_corners=False)
    return (resized * ratio).to(weight.dtype)
