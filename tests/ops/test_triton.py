"""GPU kernels: with Triton's interpreter on the CPU, compiled for a GPU, and on one."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

INTERPRET = """
import json, torch
from convnext.ops.depthwise import same_conv, weight_grad as exact_weight_grad
from convnext.ops.triton import depthwise

def error(got, want):
    return ((got.double() - want).abs().max() / want.abs().max()).item()

cases = {}
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for n, c, h, w, k_h, k_w in [(2, 5, 9, 7, 5, 5), (9, 3, 3, 5, 3, 9), (1, 70, 5, 18, 7, 3)]:
        x, g = (torch.randn(n, c, h, w, dtype=dtype) for _ in range(2))
        k, b = torch.randn(c, 1, k_h, k_w, dtype=dtype), torch.randn(c, dtype=dtype)
        y = depthwise.conv(x, k, b)
        assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
        forward = error(y, same_conv(x.double(), k.double(), b.double()))
        d = depthwise.weight_grad(g, x, k_h, k_w)
        assert d.shape == k.shape and d.dtype == torch.float32
        backward = error(d, exact_weight_grad(g.double(), x.double(), k.double()))
        cases[f"{dtype} {n, c, h, w, k_h, k_w}"] = (forward, backward)
print(json.dumps(cases))
"""


def python(code: str, **environment: str) -> str:
    """What a new interpreter prints; Triton reads its environment when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_interpreted_kernels_equal_the_reference():
    cases = json.loads(python(INTERPRET, TRITON_INTERPRET="1"))
    assert len(cases) == 9
    for name, (forward, backward) in cases.items():
        rounding = {"float32": 1e-6, "bfloat16": 1e-2, "float16": 1e-3}[name[6:].split()[0]]
        assert forward < rounding, name
        assert backward < 1e-6, name  # sums and result are fp32


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from convnext.ops.triton import depthwise

sizes = {"has_bias": True, "rows": depthwise.ROWS, "block_w": depthwise.BLOCK_W,
         "block_c": depthwise.BLOCK_C, "taps": depthwise.TAPS}
for kernel in (depthwise._conv, depthwise._weight_grad):
    signature = {name: "constexpr" if name in sizes else "i32" for name in kernel.arg_names}
    signature |= {name: "*bf16" for name in kernel.arg_names if name.endswith("_ptr")}
    if "out_ptr" in signature:
        signature["out_ptr"] = "*fp32"
    constants = {name: sizes[name] for name in kernel.arg_names if name in sizes}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert ".entry" in compiled.asm["ptx"]
    print(compiled.metadata.shared)
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu(tmp_path):
    shared = python(COMPILE, TRITON_CACHE_DIR=str(tmp_path)).split()
    assert len(shared) == 2
    assert max(map(int, shared)) < 48 * 1024  # bytes a block may have without asking


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", [(31, 31), (51, 5), (5, 51)])
def test_on_a_gpu(dtype, kernel):
    from convnext.ops.depthwise import depthwise_conv2d, same_conv

    x = torch.randn(2, 100, 28, 20, device="cuda", dtype=dtype, requires_grad=True)
    weight = torch.randn(100, 1, *kernel, device="cuda", dtype=dtype, requires_grad=True)
    bias = torch.randn(100, device="cuda", dtype=dtype, requires_grad=True)
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    out, want = depthwise_conv2d(x, weight, bias), same_conv(*exact)
    grad = torch.randn_like(out)
    grads = torch.autograd.grad(out, (x, weight, bias), grad)
    wanted = torch.autograd.grad(want, exact, grad.double())
    for a, b in [(out, want), *zip(grads, wanted, strict=True)]:
        assert (a.double() - b).abs().max() <= 1e-2 * b.abs().max()
