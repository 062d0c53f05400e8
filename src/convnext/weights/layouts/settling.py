"""What renaming leaves to do: kernels without norm, and networks merged in part."""

import dataclasses

import torch
from torch import Tensor

from convnext.models.large_kernel import RepLKNet, RepLKNetConfig
from convnext.weights.architecture import infer_config
from convnext.weights.layouts.layout import STATISTICS, Converted, StateDict

_EPS = 1e-5  # of nn.BatchNorm2d


def settle(converted: Converted) -> None:
    """Bring what was renamed into a form that our networks have, and note what was computed.

    A large kernel with neither norm nor bias becomes a plain depthwise convolution with a bias of
    zeros. A RepLKNet that was merged in part is merged wholly, which leaves its function the same.

    Raises:
        ValueError: A network that was merged in part is not complete.
    """
    _settle_bare_kernels(converted)
    state = converted.state
    partly = all(any(n.endswith(end) for n in state) for end in (".conv.bias", ".running_var"))
    if partly and "stem.layers.0.conv.weight" in state:
        converted.state = _merged(state)
        converted.done.append("the batch norms left in it were folded: it is merged (merged=True)")


def _settle_bare_kernels(converted: Converted) -> None:
    """SLaK's code can leave out the norm of a kernel, and has no bias then."""
    end, state = ".dwconv.square.conv.weight", converted.state
    bare = []
    for name in [name for name in state if name.endswith(end)]:
        place = name.removesuffix("square.conv.weight")
        beside = ("square.conv.bias", "square.norm.weight", "square.norm.bias", "small.conv.weight")
        if not any(place + other in state for other in beside) and ".large." not in name:
            bare.append(place)
    for place in bare:
        weight = state.pop(f"{place}square.conv.weight")
        state[f"{place}weight"] = weight
        state[f"{place}bias"] = weight.new_zeros(weight.shape[0])
    if bare:
        converted.done.append(f"{len(bare)} depthwise convolutions without norm have zero biases")


def _merged(state: StateDict) -> StateDict:
    """The state of a RepLKNet with its other norms folded; names that it has not stay."""
    whole = _with_identity_norms(state)
    config = infer_config(whole)
    assert isinstance(config, RepLKNetConfig)
    with torch.device("meta"):
        network = RepLKNet(dataclasses.replace(config, features_only="head.weight" not in state))
    try:
        differences = network.load_state_dict(whole, strict=False, assign=True)
    except RuntimeError as error:
        raise ValueError(f"tensors of this re-parameterised RepLKNet do not fit: {error}") from None
    missing = [n for n in differences.missing_keys if not n.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"not a whole re-parameterised RepLKNet: {len(missing)} tensors are missing "
            f"({', '.join(missing[:3])}, ...)"
        )
    return {**network.merged_state(), **{n: state[n] for n in differences.unexpected_keys}}


def _with_identity_norms(state: StateDict) -> StateDict:
    """Give each convolution with a bias a norm that adds it and changes nothing else."""
    result = dict(state)
    for name in [name for name in state if name.endswith(".conv.bias")]:
        place, bias = name.removesuffix("conv.bias") + "norm.", result.pop(name)
        if f"{place}weight" in state:
            raise ValueError(f"{name} and a norm after it cannot be in one RepLKNet")
        ones = torch.ones(bias.shape)
        # in double precision variance and eps add up to 1
        statistics: tuple[Tensor, ...] = (
            torch.zeros(bias.shape),
            ones.double() - _EPS,
            torch.tensor(0),
        )
        result |= {f"{place}weight": ones, f"{place}bias": bias}
        result |= {f"{place}{n}": t for n, t in zip(STATISTICS, statistics, strict=True)}
    return result
