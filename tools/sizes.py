"""Size gates: no source file over 500 lines, median under 180, no function over 60 (kernels 80)."""

import ast
import statistics
import sys
from pathlib import Path

MAX_FILE, MAX_MEDIAN, MAX_FUNCTION, MAX_KERNEL = 500, 180, 60, 80


def function_lengths(path: Path) -> list[tuple[str, int]]:
    """Name and number of lines of every function in a file, its docstring not counted."""
    lengths = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            doc = body[0] if ast.get_docstring(node) else None
            doc_lines = (doc.end_lineno or 0) - doc.lineno + 1 if doc else 0
            lengths.append((node.name, (node.end_lineno or 0) - node.lineno + 1 - doc_lines))
    return lengths


def main() -> int:
    root = Path(__file__).resolve().parents[1] / "src"
    problems, sizes = [], []
    for path in sorted(root.rglob("*.py")):
        lines = len(path.read_text().splitlines())
        sizes.append(lines)
        if lines > MAX_FILE:
            problems.append(f"{path.relative_to(root)}: {lines} lines, at most {MAX_FILE}")
        limit = MAX_KERNEL if {"triton", "cpu"} & set(path.parts) else MAX_FUNCTION
        problems += [
            f"{path.relative_to(root)}: {name} has {length} lines, at most {limit}"
            for name, length in function_lengths(path)
            if length > limit
        ]
    median = statistics.median(sizes)
    if median > MAX_MEDIAN:
        problems.append(f"the median file has {median} lines, at most {MAX_MEDIAN}")
    print("\n".join(problems) or f"sizes: {len(sizes)} files, median {median:.0f} lines")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
