"""`convnext export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from convnext.cli.parse import parse

__all__ = ["export"]


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write a detector or a segmentation network as graphs, with a program that runs them in numpy
    and a runtime.
    """

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_OR_WEIGHTS")]
    """A run folder, a checkpoint, a weights folder or file, or a published name."""
    out: str
    """Folder to write."""
    format: Literal["onnx", "openvino"] = "onnx"
    """Of the graphs; detectors have ONNX only."""
    opset: int = 18
    """Version of ONNX's operators, 18 to 21."""
    check: bool = True
    """Run the graphs beside the network and compare."""


def export(arguments: list[str]) -> int:
    """Write a network as graphs."""
    args = parse(ExportArguments, arguments, "export")
    from convnext.run.export import export

    export(args.target, Path(args.out), format=args.format, opset=args.opset, check=args.check)
    return 0
