"""From a ConvNeXt to the plan and the weights of its fused form, in double precision."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from convnext.layers.depthwise import DepthwiseConv2d
from convnext.layers.drop_path import DropPath
from convnext.layers.grn import GRN
from convnext.layers.layer_norm import LayerNorm2d
from convnext.models.backbone import Stage
from convnext.models.convnext import NORM_EPS, Block, ConvNeXt, Downsample, Stem
from convnext.ops.cpu.plan import Plan

__all__ = ["check_network", "folded_weights", "plan_of"]

MAX_STAGES = 8
PARTS = {
    *(nn.ModuleList, nn.Conv2d, nn.Linear, nn.LayerNorm, nn.Identity),
    *(Stem, Stage, Downsample, Block, DepthwiseConv2d, LayerNorm2d, GRN, DropPath),
}


def check_network(network: nn.Module) -> ConvNeXt:
    """Refuse what has no fused form.

    Raises:
        ValueError: Naming what it is, and the remedy.
    """
    if type(network) is not ConvNeXt:
        raise ValueError(
            f"{type(network).__name__} has no fused form; optimize takes ConvNeXt V1, V2 and "
            "isotropic networks (torch.compile is for the others)"
        )
    config = network.config
    if not config.plain:
        raise ValueError(
            f"kernel_size {config.kernel_size} with small_kernel {config.small_kernel} has no "
            "fused form, only plain 7x7 kernels have; use convnext.merge and torch.compile"
        )
    if network.training:
        raise ValueError("the network is in training mode; call eval() before optimize")
    if len(config.dims) > MAX_STAGES:
        raise ValueError(f"{len(config.dims)} stages are too many to fuse, at most {MAX_STAGES}")
    for name, parameter in network.named_parameters():
        if parameter.device.type != "cpu":
            raise ValueError(f"{name} is on {parameter.device}; move the network to the CPU first")
        if parameter.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"{name} is {parameter.dtype}; convert the network with float() first")
    _check_parts(network)
    return network


def plan_of(network: ConvNeXt) -> Plan:
    """Its numbers."""
    config, conv = network.config, cast(Stem, network.stem).conv
    return Plan(
        in_chans=config.in_chans,
        stem_kernel=conv.kernel_size[0],
        stem_stride=conv.stride[0],
        stem_padding=int(conv.padding[0]),
        stem_norm=not config.isotropic,
        grn=config.grn,
        depths=config.depths,
        dims=config.channels,
    )


@torch.no_grad()
def folded_weights(network: ConvNeXt) -> Iterator[Tensor]:
    """The weights of the plan's slots, one at a time.

    With W(γ·x + β) + b = (W·diag γ)x + (Wβ + b), what is linear before and after a product goes
    into its matrix and bias: scale and shift of LayerNorms, layer scale, the shift of GRN.
    """
    stem = cast(Stem, network.stem)
    yield _double(stem.conv.weight).flatten(1)[:, None]  # N, 1, C·k·k
    yield _double(stem.conv.bias)
    if stem.norm is not None:
        yield _double(stem.norm.weight)
        yield _double(stem.norm.bias)
    for module in network.stages:
        stage = cast(Stage, module)
        if stage.downsample is not None:
            yield from _downsample(cast(Downsample, stage.downsample))
        for block in stage.blocks:
            yield from _block(cast(Block, block))


def _downsample(part: Downsample) -> Iterator[Tensor]:
    weight = _double(part.conv.weight)
    shift = torch.einsum("nchw,c->n", weight, _double(part.norm.bias))
    weight = weight * _double(part.norm.weight)[:, None, None]
    yield weight.permute(0, 2, 3, 1).flatten(1, 2)  # N, 4, C
    yield _double(part.conv.bias) + shift


def _block(block: Block) -> Iterator[Tensor]:
    dwconv = cast(nn.Conv2d, block.dwconv)
    yield _double(dwconv.weight).flatten(1).t()  # 49, C
    yield _double(dwconv.bias)
    weight = _double(block.pwconv1.weight)
    yield (weight * _double(block.norm.weight))[:, None]
    yield _double(block.pwconv1.bias) + weight @ _double(block.norm.bias)
    weight, bias = _double(block.pwconv2.weight), _double(block.pwconv2.bias)
    if block.grn is not None:
        yield _double(block.grn.gamma)
        bias = bias + weight @ _double(block.grn.beta)
    if block.gamma is not None:
        gamma = _double(block.gamma)
        weight, bias = weight * gamma[:, None], bias * gamma
    yield weight[:, None]
    yield bias


def _double(parameter: Tensor | None) -> Tensor:
    assert parameter is not None
    return parameter.detach().double()


def _check_parts(network: ConvNeXt) -> None:
    """Refuse a trunk of which a part was replaced, pruned, quantised or hooked."""
    for name, module in network.named_modules():
        if name.startswith(("norm", "head")):
            continue  # these are kept as they are
        if name and type(module) not in PARTS:
            raise ValueError(
                f"{name} is a {type(module).__name__} and no longer the layer that a ConvNeXt has; "
                "optimize folds the original layers only"
            )
        if module._forward_hooks or module._forward_pre_hooks:
            raise ValueError(
                f"{name or 'the network'} has a forward hook, which the fused form would not call; "
                "remove it first (of torch.nn.utils.prune with prune.remove)"
            )
        if isinstance(module, nn.LayerNorm | LayerNorm2d) and module.eps != NORM_EPS:
            raise ValueError(f"{name} has eps {module.eps}; the fused form has {NORM_EPS}")
