"""Which kernels a CPU gets, and what caps them."""

from types import SimpleNamespace

import pytest

from convnext.ops import dispatch
from convnext.ops.cpu import features
from convnext.ops.cpu.features import available, choose, runs
from convnext.ops.cpu.kernel_sets import KERNEL_SETS, PLAIN, Feature
from convnext.ops.cpu.library import UnavailableError


def cpu(monkeypatch, found, amd=False):
    monkeypatch.delenv("CONVNEXT_CPU", raising=False)
    monkeypatch.setattr(features, "library", lambda: SimpleNamespace(features=found))
    monkeypatch.setattr(features, "bf16_is_full_rate", lambda: amd)


AVX512 = Feature.AVX2 | Feature.AVX512
BF16 = AVX512 | Feature.AVX512_BF16
FP16 = Feature.AVX512_FP16
AMX = BF16 | FP16 | Feature.AMX_BF16


@pytest.mark.parametrize(
    ("found", "amd", "auto", "fp32", "bf16"),
    [
        (Feature.AVX2, True, "avx2_fp32", "avx2_fp32", ""),
        (AVX512, False, "avx512_fp32", "avx512_fp32", ""),
        (BF16, False, "avx512_fp32", "avx512_fp32", "avx512_bf16"),
        (BF16, True, "avx512_bf16", "avx512_fp32", "avx512_bf16"),
        (BF16 | Feature.AMX_BF16, False, "amx_bf16", "avx512_fp32", "amx_bf16"),
        (BF16 | FP16, False, "avx512_fp32", "avx512_fp32", "avx512_bf16"),
        (AMX, False, "amx_bf16_half", "avx512_fp32", "amx_bf16_half"),
    ],
)
def test_the_fastest_kernels_of_each_cpu(monkeypatch, found, amd, auto, fp32, bf16):
    cpu(monkeypatch, found, amd)
    assert choose().kernels.name == choose("auto").kernels.name == auto
    assert choose("fp32").kernels.name == fp32
    if bf16:
        assert choose("bf16").kernels.name == bf16
    else:
        with pytest.raises(ValueError, match=r"needs a CPU with AVX512-BF16 or AMX; .* AVX2"):
            choose("bf16")


VNNI = AVX512 | Feature.AVX512_VNNI


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (Feature(0), "plain"),
        (AVX512, "avx2_int8"),
        (AVX512 | Feature.AVX_VNNI, "avx_vnni_int8"),
        (VNNI, "vnni_int8"),
        (VNNI | BF16 | Feature.AMX_BF16, "vnni_int8"),
        (VNNI | BF16 | Feature.AMX_BF16 | Feature.AMX_INT8, "amx_int8"),
        (VNNI | AMX | Feature.AMX_INT8, "amx_int8_half"),
    ],
)
def test_kernels_of_quantised_networks_are_taken_for_these_only(monkeypatch, found, name):
    cpu(monkeypatch, found)
    assert choose("int8").kernels.name == name
    for dtype in ("auto", "fp32"):
        assert choose(dtype).kernels.int8 is None or choose(dtype).kernels is PLAIN


def test_the_variable_caps_the_cpu(monkeypatch):
    cpu(monkeypatch, AMX)
    names = {"avx2": "avx2_fp32", "avx512": "avx512_fp32", "amx": "amx_bf16"}
    for cap, name in {**names, "avx512_fp16": "amx_bf16_half"}.items():
        monkeypatch.setenv("CONVNEXT_CPU", cap)
        assert choose().kernels.name == name
    assert choose(cap="avx2").kernels.name == "avx2_fp32"
    monkeypatch.setenv("CONVNEXT_CPU", "off")
    assert choose() == (PLAIN, "CONVNEXT_CPU=off")
    monkeypatch.setenv("CONVNEXT_CPU", "sse")
    with pytest.raises(ValueError, match="CONVNEXT_CPU='sse' is unknown"):
        choose()
    with pytest.raises(ValueError, match="dtype='int3' is unknown"):
        choose("int3")


def test_a_cpu_without_avx2_has_no_kernels(monkeypatch):
    cpu(monkeypatch, Feature(0))
    with pytest.raises(UnavailableError, match="lacks AVX2"):
        available()
    assert choose().kernels is PLAIN


def test_the_published_operators_have_no_native_code(monkeypatch):
    cpu(monkeypatch, BF16 | Feature.AMX_BF16)
    assert runs(KERNEL_SETS[1])
    with dispatch.use("reference"):
        assert not any(map(runs, KERNEL_SETS))
        assert choose() == (PLAIN, "the published operators were asked for")
        with pytest.raises(ValueError, match="needs native kernels: the published operators"):
            choose("bf16")
