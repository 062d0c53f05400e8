"""`convnext export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from convnext.cli.parse import parse

__all__ = ["export"]


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write a detector as ONNX graphs, with a program that needs numpy and onnxruntime only."""

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_OR_WEIGHTS")]
    """A run folder, a checkpoint, a weights folder or file, or a published name."""
    out: str
    """Folder to write."""
    opset: int = 18
    """Version of ONNX's operators, 18 to 21."""
    check: bool = True
    """Run the graphs beside the network and compare."""


def export(arguments: list[str]) -> int:
    """Write a network as graphs."""
    args = parse(ExportArguments, arguments, "export")
    from convnext.run.export import export

    export(args.target, Path(args.out), opset=args.opset, check=args.check)
    return 0
