"""`optimize` against the networks themselves, with every set of kernels.

What cannot run natively on this CPU computes from its packed weights in plain PyTorch.
"""

import copy
import gc
import io
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import convnext
from convnext.deploy.folding import folded_weights, plan_of
from convnext.deploy.fused import FusedConvNeXt, optimize
from convnext.models.convnext import ConvNeXt
from convnext.models.registry import build_model, list_models
from convnext.ops import dispatch
from convnext.ops.cpu import library
from convnext.ops.cpu.features import choose, runs
from convnext.ops.cpu.kernel_sets import KERNEL_SETS, PLAIN
from perturbed import perturb

NAMES = list_models("convnext_*") + list_models("convnextv2_*")
SETS = [pytest.param(kernels, id=kernels.name) for kernels in KERNEL_SETS]
FP32 = [pytest.param(kernels, id=kernels.name) for kernels in KERNEL_SETS if kernels.group == 1]
TINY = {"depths": (1, 2), "dims": (24, 40)}


def network(name="convnext_atto", **args):
    """A network none of whose parameters is 0 or 1, as after training."""
    with torch.device("meta"):  # large ones take seconds to initialise
        model = build_model(name, **args).eval()
    model = model.to_empty(device="cpu")
    perturb(model)
    return model


def error(got, want):
    """Largest error, relative to the largest value."""
    assert got.shape == want.shape
    assert got.dtype == torch.float32
    assert got.isfinite().all()
    return float((got.double() - want.double()).abs().max() / want.abs().max())


def tolerance(kernels):
    return 2e-5 if kernels.precision == "fp32" else 5e-2


@torch.inference_mode()
def agree(model, kernels, x):
    fused, bound = FusedConvNeXt(model, kernels), tolerance(kernels)
    assert error(fused(x), model(x)) < bound
    assert error(fused.forward_features(x), model.forward_features(x)) < bound


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_of_every_network_has_the_shapes_of_its_weights(name):
    with torch.device("meta"):
        model = build_model(name)
    slots = list(plan_of(model).slots())
    assert [slot.shape for slot in slots] == [tuple(w.shape) for w in folded_weights(model)]


@pytest.mark.parametrize("name", NAMES)
def test_every_width_of_the_family(name):
    depths = (1,) if "isotropic" in name else (1, 1, 1, 1)
    model = network(name, depths=depths, num_classes=7)
    agree(model, choose("fp32").kernels, torch.randn(1, 3, 48, 64))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto", "convnext_isotropic_small"])
def test_whole_networks(name, kernels):
    args = {"depths": (2,)} if "isotropic" in name else {}
    agree(network(name, **args), kernels, torch.randn(2, 3, 64, 80))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("grn", [False, True])
@pytest.mark.parametrize(
    ("batch", "height", "width"),
    [(1, 8, 8), (2, 9, 31), (3, 64, 8), (1, 37, 53), (5, 24, 24), (16, 16, 16), (33, 17, 40)],
)
def test_images_of_any_size_and_number(kernels, grn, batch, height, width):
    model = network(**TINY, grn=grn)
    agree(model, kernels, torch.randn(batch, 3, height, width))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("in_chans", [1, 5])
def test_stems_and_channels(kernels, stem_stride, in_chans):
    model = network(**TINY, stem_stride=stem_stride, in_chans=in_chans)
    agree(model, kernels, torch.randn(2, in_chans, 26, 23))


@pytest.mark.parametrize("kernels", SETS)
def test_no_layer_scale_and_no_classes(kernels):
    model = network(**TINY, layer_scale_init_value=0.0, num_classes=0)
    agree(model, kernels, torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("kernels", SETS)
def test_images_in_any_memory_and_precision(kernels):
    fused = FusedConvNeXt(network(**TINY), kernels)
    x = torch.randn(2, 3, 40, 48)
    want = fused(x)
    wide = torch.zeros(4, 5, 80, 96)
    wide[::2, 1:4, ::2, 1::2] = x
    for other in (
        x.contiguous(memory_format=torch.channels_last),
        wide[::2, 1:4, ::2, 1::2],
        x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        x.double(),
    ):
        torch.testing.assert_close(fused(other), want)
    half = x.bfloat16()
    torch.testing.assert_close(fused(half), fused(half.float()))
    one = x[:1, :1, :1, :1].expand(2, 3, 40, 48)
    torch.testing.assert_close(fused(one), fused(one.contiguous()))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("out_indices", [None, (0,), (1,), (1, 0)])
def test_features_only(kernels, out_indices):
    model = network(**TINY, features_only=True, out_indices=out_indices)
    fused, x = FusedConvNeXt(model, kernels), torch.randn(2, 3, 43, 36)
    with torch.inference_mode():
        got, want = fused(x), model(x)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert error(a, b) < tolerance(kernels)
        assert a.is_contiguous(memory_format=torch.channels_last)
    assert fused.feature_info == model.feature_info


@pytest.mark.parametrize("kernels", SETS)
def test_no_images(kernels):
    fused = FusedConvNeXt(network(**TINY), kernels)
    assert fused(torch.zeros(0, 3, 32, 32)).shape == (0, 1000)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("grn", [False, True])
def test_nan_stays_in_its_image(kernels, grn):
    fused = FusedConvNeXt(network(**TINY, grn=grn), kernels)
    x = torch.randn(3, 3, 40, 40)
    want = fused(x)
    x[1, 0, 5, 7] = torch.nan
    got = fused(x)
    assert got[1].isnan().all()
    torch.testing.assert_close(got[[0, 2]], want[[0, 2]])


@pytest.mark.parametrize("kernels", FP32)
def test_large_activations_do_not_overflow(kernels):
    model = network(**TINY)
    agree(model, kernels, torch.randn(2, 3, 32, 32) * 1e4)


@pytest.mark.parametrize("kernels", SETS)
def test_any_number_of_threads(kernels):
    fused, before = FusedConvNeXt(network(**TINY), kernels), torch.get_num_threads()
    batches = [torch.randn(n, 3, 40, 56) for n in (1, 2, 5)]
    try:
        torch.set_num_threads(1)
        want = [fused(x) for x in batches]
        for threads in (2, 3):
            torch.set_num_threads(threads)
            for x, alone in zip(batches, want, strict=True):
                torch.testing.assert_close(fused(x), alone, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kernels", SETS)
def test_several_threads_call_at_once(kernels):
    fused = FusedConvNeXt(network(**TINY), kernels)
    batches = [torch.randn(1 + i % 3, 3, 24 + 8 * (i % 4), 40) for i in range(24)]
    with torch.inference_mode():
        want = [fused(x) for x in batches]

    def call(x):
        with torch.inference_mode():
            return fused(x)

    with ThreadPoolExecutor(4) as pool:
        for got, alone in zip(pool.map(call, batches), want, strict=True):
            torch.testing.assert_close(got, alone)


@pytest.mark.parametrize("kernels", SETS)
def test_export_and_compile(kernels):
    fused, x = FusedConvNeXt(network(**TINY), kernels), torch.randn(2, 3, 40, 56)
    want = fused(x)
    program = torch.export.export(fused, (x,))
    torch.testing.assert_close(program.module()(x), want)
    sizes = {0: torch.export.Dim("n", max=64), 2: torch.export.Dim("h", min=8, max=512)}
    anything = torch.export.export(fused, (x,), dynamic_shapes=({**sizes},))
    y = torch.randn(3, 3, 64, 56)
    torch.testing.assert_close(anything.module()(y), fused(y))
    torch.compiler.reset()  # for networks of all sets of kernels it would give up
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), want)


@pytest.mark.slow
def test_the_default_compiler_takes_it():
    fused, x = optimize(network(**TINY)), torch.randn(2, 3, 40, 56)
    torch.compiler.reset()
    compiled = torch.compile(fused, fullgraph=True)
    torch.testing.assert_close(compiled(x), fused(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernels", [p for p in SETS if p not in FP32])
@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_bf16_errs_less_than_pytorch_in_bf16(name, kernels):
    if not runs(kernels):  # plain PyTorch rounds nothing but weights
        pytest.skip("emulated in tests/native/test_accuracy.py")
    model, x = network(name), torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        exact = model(x)
        ours = FusedConvNeXt(model, kernels)(x) - exact
        theirs = model.bfloat16()(x.bfloat16()).float() - exact
    assert 0 < ours.square().mean() < theirs.square().mean()


def test_half_weights_are_computed_in_fp32():
    model = network(**TINY)
    half = copy.deepcopy(model).bfloat16()
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert error(optimize(half, "fp32")(x), half.float()(x)) < 2e-5


@pytest.mark.parametrize("old", SETS)
@pytest.mark.parametrize("new", SETS)
def test_a_state_dict_goes_from_kernels_to_kernels(old, new):
    model, x = network(**TINY), torch.randn(2, 3, 32, 32)
    source, target = FusedConvNeXt(model, old), FusedConvNeXt(network(**TINY), new)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))
    assert target.kernels == new
    lossy = "bf16" in (old.precision, new.precision)
    torch.testing.assert_close(target(x), source(x), rtol=0, atol=0.1 if lossy else 1e-4)
    if old == new:
        assert torch.equal(target.packed, source.packed)


@pytest.mark.parametrize("kernels", SETS)
def test_weights_at_any_address(kernels):
    fused, x = FusedConvNeXt(network(**TINY), kernels), torch.randn(2, 3, 32, 32)
    want, packed = fused(x), fused.packed
    odd = torch.empty(len(packed) + 4, dtype=torch.uint8)[4:].copy_(packed)
    fused.packed = odd
    torch.testing.assert_close(fused(x), want)
    fused.load_state_dict({**fused.state_dict(), "packed": odd}, assign=True)
    assert fused.packed.data_ptr() % 64 == 0
    torch.testing.assert_close(fused(x), want)


def test_packed_weights_of_unknown_kernels_are_refused():
    target = optimize(network(**TINY))
    state = target.state_dict()
    del state["_extra_state"]
    with pytest.raises(ValueError, match="packed comes without _extra_state"):
        target.load_state_dict(state, strict=False)
    del state["packed"]
    target.load_state_dict(state, strict=False)


def test_a_foreign_state_dict_is_refused():
    target = optimize(network(**TINY))
    other = optimize(network(depths=(1, 1), dims=(24, 40)))
    with pytest.raises(ValueError, match="do not fit"):
        target.load_state_dict(other.state_dict())


@pytest.mark.parametrize("kernels", SETS)
def test_copies_and_pickles(kernels, monkeypatch):
    fused, x = FusedConvNeXt(network(**TINY), kernels), torch.randn(1, 3, 32, 32)
    want = fused(x)
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):  # noqa: S301
        torch.testing.assert_close(other(x), want, rtol=0, atol=tolerance(kernels))
    monkeypatch.setenv("CONVNEXT_CPU", "off")
    there = pickle.loads(pickle.dumps(fused))  # noqa: S301
    assert there.kernels is PLAIN
    torch.testing.assert_close(there(x), want, rtol=0, atol=0.1 if kernels.group > 1 else 1e-4)


def test_the_original_is_not_kept():
    model = network(**TINY)
    number = sum(p.numel() for p in model.parameters())
    fused = FusedConvNeXt(model, PLAIN)
    kept = fused.packed.numel() + 4 * sum(p.numel() for p in fused.parameters())
    assert kept < 4 * 1.1 * number
    last = weakref.ref(model.head.weight)
    del model
    gc.collect()
    assert last() is None


def test_networks_without_a_fused_form_are_refused():
    tiny = network(**TINY)
    with pytest.raises(ValueError, match="training mode"):
        optimize(copy.deepcopy(tiny).train())
    with pytest.raises(ValueError, match="Linear has no fused form"):
        optimize(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"kernel_size .* has no fused form"):
        optimize(build_model("slak_tiny", depths=(1, 1, 1, 1), width_factor=0.1).eval())
    with pytest.raises(ValueError, match="float64"):
        optimize(copy.deepcopy(tiny).double())
    with pytest.raises(ValueError, match="is on meta"):
        optimize(copy.deepcopy(tiny).to("meta"))
    with pytest.raises(ValueError, match="dtype='int4'"):
        optimize(tiny, "int4")
    hooked = copy.deepcopy(tiny)
    hooked.stages[0].blocks[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"stages\.0\.blocks\.0 has a forward hook"):
        optimize(hooked)
    other = copy.deepcopy(tiny)
    other.stages[1].blocks[0].pwconv1 = nn.Sequential(nn.Linear(40, 160))
    with pytest.raises(ValueError, match=r"pwconv1 is a Sequential"):
        optimize(other)


def test_an_optimized_network_is_not_optimized_again():
    fused = optimize(network(**TINY))
    with pytest.raises(ValueError, match=f"already optimized, for {fused.kernels.name}"):
        optimize(fused)


def test_the_published_operators_run_in_plain_pytorch(monkeypatch):
    model, x = network(**TINY), torch.randn(1, 3, 32, 32)
    fused = optimize(model, "fp32")
    want = fused(x)

    def refuse():
        raise AssertionError

    monkeypatch.setattr("convnext.ops.cpu.fused.library", refuse)
    with dispatch.use("reference"):
        assert error(fused(x), want) < 2e-5
        assert optimize(model).kernels is PLAIN


def test_a_compiled_network_refuses_small_images_as_it_does():
    fused = optimize(network(**TINY))
    torch.compiler.reset()  # other tests have compiled the same for many sizes
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    for shape in ((1, 3, 7, 32), (1, 3, 32, 2)):
        with pytest.raises(ValueError, match=r"does not fit: .* H and W at least 8"):
            compiled(torch.zeros(shape))


def test_what_an_optimized_network_cannot_do():
    fused = optimize(network(**TINY))
    assert fused.eval() is fused
    for change in (
        lambda: fused.train(),
        lambda: fused.half(),
        lambda: fused.to("meta"),
        lambda: fused.reset_classifier(3),
        lambda: fused.layer_ids("single"),
        lambda: fused.requires_grad_(),
    ):
        with pytest.raises(ValueError, match="an optimized network cannot"):
            change()
    assert fused.to(torch.float32).to(memory_format=torch.channels_last) is fused
    assert fused.requires_grad_(False) is fused
    fused.share_memory()
    assert fused(torch.zeros(1, 3, 32, 32)).isfinite().all()
    with pytest.raises(ValueError, match="H and W at least 8"):
        fused(torch.zeros(1, 3, 7, 32))
    with pytest.raises(ValueError, match="take"):
        fused(torch.zeros(1, 3, 32, 32, device="meta"))


def test_the_public_name():
    model = network(**TINY)
    assert isinstance(model, ConvNeXt)
    fused = convnext.optimize(model)
    x = torch.randn(1, 3, 32, 32)
    features = fused.forward_features(x)
    torch.testing.assert_close(fused.forward_head(features), fused(x), rtol=1e-4, atol=1e-4)
    pre = fused.forward_head(features, pre_logits=True)
    assert pre.shape == (1, 40)


def test_a_change_of_the_native_interface_is_an_error(monkeypatch):
    if choose("fp32").kernels is PLAIN:
        pytest.skip("no native kernels on this machine")
    fused = optimize(network(**TINY), "fp32")
    monkeypatch.setattr(library, "VERSION", 99)
    with pytest.raises(RuntimeError, match="refuse"):
        fused(torch.zeros(1, 3, 32, 32))
