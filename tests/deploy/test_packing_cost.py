"""What packing costs: memory beside the network, and rounding."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convnext.deploy.folding import folded_weights
from convnext.models.registry import build_model

MEBI = 2**20
SCRIPT = """
import sys
from pathlib import Path
import torch
from convnext.deploy.fused import FusedConvNeXt
from convnext.evaluate.cost import peak_memory
from convnext.models.registry import build_model
from convnext.ops.cpu.kernel_sets import kernel_set
with torch.device("meta"):
    model = build_model("convnext_tiny").eval()
model = model.to_empty(device="cpu")
with torch.no_grad():
    for parameter in model.parameters():
        parameter.fill_(0.1)
Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
before = peak_memory(torch.device("cpu"))
fused = FusedConvNeXt(model, kernel_set(int(sys.argv[1])), release=sys.argv[2] == "release")
print(peak_memory(torch.device("cpu")) - before, fused.packed.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="counts as Linux does")
@pytest.mark.parametrize(
    ("kernels", "release", "share"),
    [(0, "keep", 1), (3, "keep", 1), (8, "keep", 1), (0, "release", 0.3), (8, "release", 0.3)],
)
def test_memory_is_that_of_the_packed_weights_and_a_layer(
    kernels: int, release: str, share: float
) -> None:
    command = [sys.executable, "-c", SCRIPT, str(kernels), release]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    more, packed = map(int, answer.stdout.split())
    layer = 4 * 768 * 3072  # bytes of the largest matrix in fp32
    assert packed > 50 * MEBI
    assert more < share * packed + 5 * layer


def test_folding_rounds_like_fp64() -> None:
    model = build_model("convnext_atto", depths=(1, 1), dims=(48, 96)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    block, downsample = model.stages[1].blocks[0], model.stages[1].downsample
    found = [weight.float() for weight in folded_weights(model)][10:]
    model.double()
    scaled = downsample.conv.weight * downsample.norm.weight[:, None, None]
    shift = torch.einsum("nchw,c->n", downsample.conv.weight, downsample.norm.bias)
    first, second = block.pwconv1, block.pwconv2
    exact = [
        scaled.permute(0, 2, 3, 1).flatten(1, 2),
        downsample.conv.bias + shift,
        block.dwconv.weight.flatten(1).t(),
        block.dwconv.bias,
        (first.weight * block.norm.weight)[:, None],
        first.bias + first.weight @ block.norm.bias,
        (second.weight * block.gamma[:, None])[:, None],
        second.bias * block.gamma,
    ]
    for rounded, weight in zip(found, exact, strict=True):
        assert torch.equal(rounded, weight.float())
