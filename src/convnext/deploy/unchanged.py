"""Whether a network still is what its configuration says, so that its weights are all of it."""

import torch
from torch import nn

from convnext.layers.depthwise import DepthwiseConv2d
from convnext.layers.drop_path import DropPath
from convnext.models.convnext import ConvNeXt

__all__ = ["check_unchanged"]

REMEDY = "optimize folds the original layers only"
# Besides weights, what the answers of the trunk's layers depend on.
NUMBERS = (
    *("in_channels", "out_channels", "in_features", "out_features", "normalized_shape"),
    *("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "eps"),
)
SAME = {DepthwiseConv2d: nn.Conv2d, DropPath: nn.Identity}  # in evaluation, with the same numbers


def check_unchanged(network: ConvNeXt) -> None:
    """Refuse a trunk of which a part was replaced, patched, pruned, quantised or hooked.

    Norm and head may be anything: they are kept as they are.

    Raises:
        ValueError: Naming the layer and what is not as it was.
    """
    with torch.device("meta"):
        originals = _trunk(ConvNeXt(network.config))
    parts = _trunk(network)
    for name, module in parts.items():  # a layer comes before its parts
        if name not in originals:
            raise ValueError(f"{name} was added; {REMEDY}")
        _check_part(name or "the network", module, originals[name])
    if gone := [name for name in originals if name not in parts]:
        raise ValueError(f"{gone[0]} is gone; {REMEDY}")


def _trunk(network: ConvNeXt) -> dict[str, nn.Module]:
    modules = network.named_modules(remove_duplicate=False)
    return {name: module for name, module in modules if not name.startswith(("norm", "head"))}


def _check_part(name: str, module: nn.Module, original: nn.Module) -> None:
    kind = type(original)
    if type(module) not in (kind, SAME.get(kind)):
        raise ValueError(f"{name} is a {type(module).__name__} and no {kind.__name__}; {REMEDY}")
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(
            f"{name} has a forward hook, which the fused form would not call; "
            "remove it first (of torch.nn.utils.prune with prune.remove)"
        )
    patched = [key for key in vars(module) if callable(getattr(type(module), key, None))]
    if patched:
        raise ValueError(f"{name} has a {patched[0]} of its own; {REMEDY}")
    if not _has_its_own_forward(type(module)):
        raise ValueError(f"{name}: {type(module).__name__}.forward was replaced; {REMEDY}")
    if isinstance(module, DropPath) and module.training and module.rate:
        raise ValueError(f"{name} is in training mode; call eval() on the network before optimize")
    for key in NUMBERS:
        found, wanted = getattr(module, key, None), getattr(original, key, None)
        if found != wanted and type(module) is not nn.Identity:
            raise ValueError(f"{name} has {key} {found} in place of {wanted}; {REMEDY}")
    if _parameters(module) != _parameters(original):
        raise ValueError(
            f"{name} has {_parameters(module)} in place of {_parameters(original)}; {REMEDY}"
        )


def _has_its_own_forward(kind: type) -> bool:
    """Whether that is the function of the class's source: others have another name or module."""
    owner = next(base for base in kind.__mro__ if "forward" in vars(base))
    forward = vars(owner)["forward"]
    place = (getattr(forward, "__module__", ""), getattr(forward, "__qualname__", ""))
    lists_have_none = owner is nn.Module
    return lists_have_none or place == (owner.__module__, f"{owner.__qualname__}.forward")


def _parameters(module: nn.Module) -> str:
    own = module.named_parameters(recurse=False)
    shapes = (f"{key} {tuple(parameter.shape)}" for key, parameter in sorted(own))
    return ", ".join(shapes) or "no parameters"
