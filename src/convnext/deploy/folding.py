"""From a ConvNeXt to the plan and the weights of its fused form."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from convnext.deploy.unchanged import check_unchanged
from convnext.models.backbone import Stage
from convnext.models.convnext import Block, ConvNeXt, Downsample, Stem
from convnext.ops.cpu.plan import MAX_STAGES, Plan

__all__ = ["check_network", "folded_weights", "plan_of"]

SLICE = 2**19  # elements of a matrix that are converted to fp64 together


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
    check_unchanged(network)
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
def folded_weights(network: ConvNeXt, *, release: bool = False) -> Iterator[Tensor]:
    """The weights of the plan's slots, one at a time: matrices and taps in fp32, vectors in fp64.

    With W(γ·x + β) + b = (W·diag γ)x + (Wβ + b), what is linear before and after a product goes
    into its matrix and bias: scale and shift of LayerNorms, layer scale, the shift of GRN. Each
    element of a matrix is multiplied once, so that fp32 rounds it as often as fp64 would.

    Args:
        network: One that `check_network` accepts.
        release: Whether each layer's own memory is freed when its weights have been taken; nothing
            can be computed with the network afterwards.
    """
    stem = cast(Stem, network.stem)
    yield _single(stem.conv.weight).flatten(1)[:, None]  # N, 1, C·k·k
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
            if release:
                block.to("meta")


def _downsample(part: Downsample) -> Iterator[Tensor]:
    weight = _single(part.conv.weight).permute(0, 2, 3, 1).flatten(1, 2)  # N, 4, C
    yield weight * _single(part.norm.weight)
    shift = _product(weight.flatten(0, 1), part.norm.bias)  # of each place of the kernel
    yield _double(part.conv.bias) + shift.view(-1, 4).sum(1)


def _block(block: Block) -> Iterator[Tensor]:
    dwconv = cast(nn.Conv2d, block.dwconv)
    yield _single(dwconv.weight).flatten(1).t()  # 49, C
    yield _double(dwconv.bias)
    weight = _single(block.pwconv1.weight)
    yield (weight * _single(block.norm.weight))[:, None]
    yield _double(block.pwconv1.bias) + _product(weight, block.norm.bias)
    weight, bias = _single(block.pwconv2.weight), _double(block.pwconv2.bias)
    if block.grn is not None:
        yield _double(block.grn.gamma)
        bias = bias + _product(weight, block.grn.beta)
    if block.gamma is not None:
        weight, bias = weight * _single(block.gamma)[:, None], bias * _double(block.gamma)
    yield weight[:, None]
    yield bias


def _product(weight: Tensor, vector: Tensor | None) -> Tensor:
    """W v in fp64; of the matrix only some rows at a time, which stay in the cache."""
    right = _double(vector)
    rows = max(1, SLICE // weight.shape[1])
    starts = range(0, len(weight), rows)
    return torch.cat([weight[i : i + rows].double() @ right for i in starts])


def _single(parameter: Tensor | None) -> Tensor:
    assert parameter is not None
    return parameter.detach().float()


def _double(parameter: Tensor | None) -> Tensor:
    assert parameter is not None
    return parameter.detach().double()
