"""What rounding to bf16 costs in whole networks, against what it costs in PyTorch.

The kernels run as on a CPU that has them, or emulated where this one does not.
"""

import copy
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.deploy.folding import folded_weights, plan_of
from convnext.deploy.fused import FusedConvNeXt
from convnext.deploy.half_range import HalfRange
from convnext.models.convnext import ConvNeXt, Stem
from convnext.models.registry import build_model, list_models
from convnext.ops.cpu import building
from convnext.ops.cpu import library as loading
from convnext.ops.cpu.features import runs
from convnext.ops.cpu.kernel_sets import KERNEL_SETS, PLAIN, KernelSet
from convnext.ops.cpu.library import Library
from perturbed import perturb

NAMES = list_models("convnext_*") + list_models("convnextv2_*")
NATIVE = [kernels for kernels in KERNEL_SETS if kernels is not PLAIN and kernels.int8 is None]
SETS = [pytest.param(k, id=k.name) for k in NATIVE]
BF16_SETS = [kernels for kernels in NATIVE if kernels.precision == "bf16"]
BF16 = [pytest.param(kernels, id=kernels.name) for kernels in BF16_SETS]
SMALL = {"depths": (1, 2, 2), "dims": (24, 40, 72), "num_classes": 50}

pytestmark = pytest.mark.skipif(
    not building.supported() or not building.compilers(), reason="no compiler for x86-64"
)


@pytest.fixture(autouse=True)
def _through_the_operator(native: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels are called as users call them."""
    monkeypatch.setattr(loading, "_loaded", native)
    monkeypatch.delenv("CONVNEXT_CPU", raising=False)
    torch.manual_seed(3)


def bf16_sets() -> list[KernelSet]:
    """Those that run: all where they are emulated."""
    found = [kernels for kernels in BF16_SETS if runs(kernels)]
    if not found:
        pytest.skip("this CPU has no kernels for bf16")
    return found


def network(name: str = "convnext_atto", **args: object) -> ConvNeXt:
    """A network as after training: none of its scales and shifts is 0 or 1."""
    with torch.device("meta"):  # large ones take seconds to initialise
        model = build_model(name, **args).eval()
    model = model.to_empty(device="cpu")
    perturb(model)
    assert isinstance(model, ConvNeXt)
    return model


def pictures(number: int, height: int, width: int) -> Tensor:
    """Images that differ as photographs do: in colour, in large shapes, and in grain."""
    colours, shapes = torch.randn(number, 3, 1, 1), torch.randn(number, 3, 4, 4)
    return (
        colours + F.interpolate(shapes, (height, width)) + torch.randn(number, 3, height, width) / 2
    )


def error(found: Tensor, exact: Tensor) -> float:
    """Root mean square, relative."""
    assert found.isfinite().all()
    return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def pytorch(model: ConvNeXt, x: Tensor) -> list[Tensor]:
    """Its own answers in bf16: of a converted network, and with autocast."""
    x = x.contiguous(memory_format=torch.channels_last)
    layout = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16):
            mixed = layout(x).float()
        return [layout.bfloat16()(x.bfloat16()).float(), mixed]


def answers(model: ConvNeXt, kernels: KernelSet, x: Tensor) -> tuple[Tensor, Tensor]:
    """Exact ones and ours."""
    with torch.inference_mode():
        return model(x), FusedConvNeXt(model, kernels)(x)


@pytest.mark.parametrize("name", NAMES)
def test_every_network_errs_less_than_pytorch(name: str) -> None:
    model = network(name, depths=(1,) if "isotropic" in name else (1, 1, 1, 1), num_classes=200)
    x = pictures(2 if model.config.dims[-1] < 1024 else 1, 48, 48)
    theirs = pytorch(model, x)
    sets = bf16_sets()
    for kernels in sets[-1:] if model.config.dims[-1] > 1024 else sets:
        fits = kernels.maps != "fp16" or proved_to_fit(model)
        assert fits or not name.startswith("convnext_") or "isotropic" in name  # all of V1
        exact, ours = answers(model, kernels, x)
        assert error(ours, exact) < min(error(t, exact) for t in theirs)


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_errors_do_not_pile_up_with_depth(name: str) -> None:
    model, x = network(name), pictures(2, 32, 32)
    theirs = pytorch(model, x)
    for kernels in bf16_sets():
        exact, ours = answers(model, kernels, x)
        assert 0 < error(ours, exact) < min(error(t, exact) for t in theirs)


@pytest.mark.parametrize("grn", [False, True])
def test_the_top_class_stays_the_same_as_often(grn: bool) -> None:
    model, x = network(**SMALL, grn=grn), pictures(1000, 16, 16)
    theirs = pytorch(model, x)[0]
    for kernels in bf16_sets():
        exact, ours = answers(model, kernels, x)
        changed, changed_theirs = ((t.argmax(1) != exact.argmax(1)).sum() for t in (ours, theirs))
        assert changed <= changed_theirs + 2  # the last few of a thousand are chance


@pytest.mark.parametrize("kernels", BF16)
@pytest.mark.parametrize("grn", [False, True])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 55), (75, 33), (96, 16)])
def test_odd_sizes(kernels: KernelSet, grn: bool, height: int, width: int) -> None:
    model, x = network(**SMALL, grn=grn), pictures(6, height, width)
    exact, ours = answers(model, kernels, x)
    assert error(ours, exact) < error(pytorch(model, x)[0], exact)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("grn", [False, True])
def test_batches_from_1_to_33(kernels: KernelSet, grn: bool) -> None:
    model, x = network(**SMALL, grn=grn), pictures(33, 24, 31)
    fused = FusedConvNeXt(model, kernels)
    with torch.inference_mode():
        exact = model(x)
        bound = 1e-5 if kernels.precision == "fp32" else error(pytorch(model, x)[0], exact)
        for n in (*range(1, 9), 15, 16, 17, 24, 31, 32, 33):
            assert error(fused(x[:n]), exact[:n]) < 1.5 * bound


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("grn", [False, True])
@pytest.mark.parametrize("layer", ["stem.norm", "pwconv1", "pwconv2"])
def test_large_activations(kernels: KernelSet, grn: bool, layer: str) -> None:
    """Residual stream, hidden values, or both grow beyond what fp16 can hold."""
    model, x = network(**SMALL, grn=grn), pictures(4, 48, 48)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if layer in key and not (grn and layer == "pwconv1" and "bias" in key):
                parameter *= 1e5
    with torch.inference_mode():
        assert model.forward_features(x).abs().max() > 1e5 or layer == "stem.norm"
    exact, ours = answers(model, kernels, x)
    bound = 1e-4 if kernels.precision == "fp32" else error(pytorch(model, x)[0], exact)
    assert error(ours, exact) < bound


@pytest.mark.parametrize("seed", [0, 1])
def test_values_just_below_the_limit_of_fp16(seed: int) -> None:
    """As large as a network may make them whose maps are kept in fp16."""
    torch.manual_seed(seed)
    model, x = network(**SMALL), 10 * pictures(8, 64, 64)
    x[1] = 0
    x[1, :, 30, 30] = 1e6
    with torch.no_grad():
        for factor in (2.0**power for power in range(14, -2, -1)):
            larger = copy.deepcopy(model)
            for parameter in cast(Stem, larger.stem).norm.parameters():
                parameter *= factor
            if proved_to_fit(larger):
                break
    assert factor > 2
    theirs = pytorch(larger, x)
    sets = [kernels for kernels in bf16_sets() if kernels.maps == "fp16"]
    if not sets:
        pytest.skip("this CPU does not compute in fp16")
    for kernels in sets:
        exact, ours = answers(larger, kernels, x)
        assert larger.stem(x).abs().max() > 1000
        assert error(ours, exact) < min(error(t, exact) for t in theirs)


def proved_to_fit(model: ConvNeXt) -> bool:
    values = HalfRange(plan_of(model))
    for _ in values.follow(folded_weights(model)):
        pass
    return values.fits
