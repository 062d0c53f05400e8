"""Products of 8-bit integers, emulated, against exact ones."""

import ctypes
from pathlib import Path

import pytest
import torch
from parts import aligned, compile_part, emulated, needs_compiler
from torch import Tensor

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return emulated("int8_parts.cpp", tmp_path_factory.mktemp("int8"))


# name: columns of a panel, and integers in 32 bits
PANELS = {"madd": (16, 2), "avx_vnni": (16, 4), "vnni": (32, 4), "amx": (32, 4)}


def _packed(w: Tensor, name: str) -> Tensor:
    """(columns, k): [panel][word][columns][group]; [panel][k tile][half][four][columns][4]."""
    (columns, k), (panel, group) = w.shape, PANELS[name]
    if name == "amx":
        w = torch.nn.functional.pad(w, (0, -k % 64))
        return aligned(w.view(columns // 32, 2, 16, -1, 16, 4).permute(0, 3, 1, 4, 2, 5))
    w = w.to({2: torch.int16, 4: torch.int8}[group])
    return aligned(w.view(columns // panel, panel, k // group, group).transpose(1, 2))


@pytest.mark.parametrize("name", PANELS)
@pytest.mark.parametrize("rows", [1, 13, 16, 17, 75])
@pytest.mark.parametrize(
    ("panels", "k", "part"),
    [(1, 32, 64), (3, 96, 128), (2, 416, 192), (4, 64, 64), (2, 2560, 1280)],
)
def test_product_is_exact(
    library: ctypes.CDLL, name: str, rows: int, panels: int, k: int, part: int
) -> None:
    g = torch.Generator().manual_seed(rows + panels + k)
    columns = panels * PANELS[name][0]
    a = torch.randint(0, 256, (rows, k), generator=g, dtype=torch.uint8)
    w = torch.randint(-128, 128, (columns, k), generator=g, dtype=torch.int8)
    a[0], w[0] = 255, -128  # the largest sums that there are
    start = aligned(torch.randint(-(2**30), 2**30, (columns,), generator=g, dtype=torch.int32))
    packed = _packed(w, name)
    partial = aligned(torch.zeros(panels, -(-rows // 16) * 512))
    out = aligned(torch.zeros(rows, columns, dtype=torch.int32))
    status = getattr(library, f"convnext_test_{name}")(
        *(ctypes.c_void_p(x.data_ptr()) for x in (a, packed, start)),
        *(ctypes.c_int64(n) for n in (rows, panels, k, part)),
        *(ctypes.c_void_p(x.data_ptr()) for x in (partial, out)),
    )
    assert status == 0  # every row of every panel once
    assert torch.equal(out.long(), a.long() @ w.long().T + start.long())


def test_real_instructions_assemble(tmp_path: Path) -> None:
    compile_part("int8_parts.cpp", tmp_path / "real.o", "-c", "-march=sapphirerapids")
