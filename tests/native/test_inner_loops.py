"""The inner loops as they were compiled: what costs most must not be diluted.

A compiler may keep sums in memory, or make several instructions of one, and every result stays
right. So the instructions of the loops that take most of the time are counted. What GCC 12 makes of
them is known; another release may need another form of the source, and then this says so.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from convnext.ops.cpu import building

Code = list[tuple[int, str]]  # instructions with their addresses

PRODUCTS = re.compile(r"vfmadd|vdpbf16ps|vpdpbusd|vpmaddwd|vpaddd .*ymm")
SPILL = re.compile(r"vmov\w+ +%[xyz]mm\d+,-?(0x)?[0-9a-f]*\(%r[sb]p\)")
MATRIX = re.compile(r"multiply_rows<Dot(\w+), (\d+), (\d+), (\d+)>")  # lanes, words, rows
# what names of functions contain: multiplications in a round of the depthwise convolution, which
# may be inlined
DEPTHWISE = {
    "<Avx2Kernels": 49,
    "<Avx2Int8Kernels": 49,
    "<AvxVnniInt8Kernels": 49,
    "<Avx512Kernels<DotFp32>": 98,
    "<Avx512Kernels<DotBf16>": 98,
    "<VnniInt8Kernels": 98,
    "<AmxKernels<Bf16": 98,
    "<AmxKernels<Half": 98,
    "<AmxInt8Kernels<Bf16": 98,
    "<AmxInt8Kernels<Half": 98,
}

pytestmark = pytest.mark.skipif(
    shutil.which("objdump") is None or not building.supported() or not building.compilers(),
    reason="needs objdump and a compiler for x86-64",
)


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Code]]:
    """All of the library, those with their own copy in several kernel sets several times."""
    library = building.SOURCES / building.library_name()
    if not library.is_file():  # the sources changed since the package was installed
        library = tmp_path_factory.mktemp("native") / "kernels.so"
        building.build(library)
    return _disassembled(library)


def _disassembled(library: Path) -> list[tuple[str, Code]]:
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", library]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = []
    for block in text.replace("convnext::(anonymous namespace)::", "").split("\n\n"):
        head, *lines = block.strip().split("\n")
        name = re.match(r"[0-9a-f]+ <(?:void )?(.*)>:$", head)
        pairs = (line.split(":\t", 1) for line in lines if ":\t" in line)
        if name:
            code = [(int(address, 16), instruction) for address, instruction in pairs]
            found.append((name[1], code))
    return found


def innermost(code: Code) -> Iterator[list[str]]:
    """Loops without a loop inside: from the target of a jump back to the jump."""
    jumps = []
    for address, instruction in code:
        jump = re.match(r"j\w+ +([0-9a-f]+)", instruction)
        if jump and code[0][0] <= int(jump[1], 16) < address:
            jumps.append((int(jump[1], 16), address))
    for start, end in jumps:
        if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in jumps):
            yield [instruction for address, instruction in code if start <= address <= end]


def loops_with(code: Code, products: int) -> list[list[str]]:
    return [
        loop
        for loop in innermost(code)
        if sum(PRODUCTS.search(line) is not None for line in loop) == products
    ]


def test_products_of_matrices(functions: list[tuple[str, Code]]) -> None:
    kinds = set()
    for name, code in functions:
        kind = MATRIX.match(name)
        if not kind or not name.endswith(")"):
            continue
        step, rows = int(kind[3]), int(kind[4])
        products = 2 * rows * step * (2 if kind[1] == "Int16" else 1)  # a sum of its own there
        loops = loops_with(code, products)
        assert loops, name
        for loop in loops:
            assert not any(map(SPILL.search, loop)), name
            assert len(loop) <= products + (rows + 2) * step + 16, name  # loads, and the round
        kinds.add((kind[1], kind[2]))
    assert kinds == {
        *(("Fp32", "8"), ("Fp32", "16"), ("Bf16", "16")),
        *(("Int16", "8"), ("Int8", "8"), ("Int8", "16")),
    }


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_convolution(functions: list[tuple[str, Code]], name: str) -> None:
    codes = [code for function, code in functions if name in function]
    if not codes and "Half" in name:
        pytest.skip("the compiler does not know AVX512-FP16")
    loops = [loop for code in codes for loop in loops_with(code, DEPTHWISE[name])]
    assert loops
    for loop in loops:
        assert not any(map(SPILL.search, loop))
        assert len(loop) < 2.1 * DEPTHWISE[name]
