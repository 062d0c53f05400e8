"""The inner loops as they were compiled: what costs most must not be diluted.

A compiler may keep sums in memory, or make several instructions of one, and every result stays
right. So the instructions of the loops that take most of the time are counted.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from convnext.ops.cpu import building

LIBRARY = building.SOURCES / building.library_name()
PRODUCTS = re.compile(r"vfmadd|vdpbf16ps|vpdpbusd|vpmaddwd|vpaddd .*ymm")
SPILL = re.compile(r"vmov\w+ +%[xyz]mm\d+,-?(0x)?[0-9a-f]*\(%r[sb]p\)")
# what the names of functions contain: products of a loop in one of them
LOOPS = {
    "multiply_rows<DotFp32, 8, 4, 6>": 48,
    "multiply_rows<DotFp32, 16, 2, 12>": 48,
    "multiply_rows<DotBf16, 16, 2, 12>": 48,
    "multiply_rows<DotInt8, 16, 2, 12>": 48,
    "multiply_rows<DotInt8, 8, 4, 6>": 48,
    "multiply_rows<DotInt16, 8, 4, 6>": 96,
    # the depthwise convolution, which may be inlined
    "<Avx2Kernels": 49,
    "<Avx512Kernels<DotFp32>": 98,
    "<Avx512Kernels<DotBf16>": 98,
    "<AmxKernels": 98,
}

pytestmark = pytest.mark.skipif(
    shutil.which("objdump") is None or not LIBRARY.is_file(),
    reason="needs objdump and kernels that were compiled when the package was installed",
)


@pytest.fixture(scope="module")
def functions() -> dict[str, list[tuple[int, str]]]:
    """Of each function its instructions with their addresses."""
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", LIBRARY]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    text = text.replace("convnext::(anonymous namespace)::", "")
    found: dict[str, list[tuple[int, str]]] = {}
    for block in text.split("\n\n"):
        head, *lines = block.strip().split("\n")
        name = re.match(r"[0-9a-f]+ <(?:void )?(.*)>:$", head)
        pairs = (line.split(":\t", 1) for line in lines if ":\t" in line)
        if name:
            code = [(int(address, 16), instruction) for address, instruction in pairs]
            found.setdefault(name[1].split("(")[0], code)
    return found


def innermost(code: list[tuple[int, str]]) -> Iterator[list[str]]:
    """Loops without a loop inside: from the target of a jump back to the jump."""
    jumps = []
    for address, instruction in code:
        jump = re.match(r"j\w+ +([0-9a-f]+)", instruction)
        if jump and code[0][0] <= int(jump[1], 16) < address:
            jumps.append((int(jump[1], 16), address))
    for start, end in jumps:
        if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in jumps):
            yield [instruction for address, instruction in code if start <= address <= end]


@pytest.mark.parametrize("name", LOOPS)
def test_mostly_products_and_no_spilled_sums(
    functions: dict[str, list[tuple[int, str]]], name: str
) -> None:
    loops = [
        loop
        for function, code in functions.items()
        if name in function
        for loop in innermost(code)
        if sum(map(bool, map(PRODUCTS.search, loop))) == LOOPS[name]
    ]
    assert loops
    for loop in loops:
        assert len(loop) < 2.1 * LOOPS[name]
        assert not any(map(SPILL.search, loop))
