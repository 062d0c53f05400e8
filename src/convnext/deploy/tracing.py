"""From a module to an ONNX file."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from convnext.ops.dispatch import use

__all__ = ["OPSETS", "Format", "check_format", "write_onnx"]

Format = Literal["onnx", "openvino"]

OPSETS = (18, 21)  # the exporter begins at 18; onnxruntime has no RoiAlign of 22 on CPUs
SINGLE_FILE = 1_800_000_000  # bytes of weights; a file of protobuf ends at 2 GiB
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),  # by way of an ONNX graph
}


def check_format(format: Format, opset: int) -> None:
    """Refuse what cannot be exported before anything is computed.

    Args:
        format: of the graphs.
        opset: version of ONNX's operators.

    Raises:
        ValueError: there is no such format, the opset is out of range, or a package is missing.
    """
    if format not in get_args(Format):
        raise ValueError(f"format {format!r} must be one of {', '.join(get_args(Format))}")
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise ValueError(f"opset {opset} must be {OPSETS[0]} to {OPSETS[1]}")
    missing = [name for name in PACKAGES[format] if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"export needs {', '.join(missing)}: pip install 'convnext[{format}]' has all of it"
        )


def write_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    shapes: Mapping[str, Any],
    file: Path,
    opset: int,
) -> None:
    """Trace a module with the reference operators and write its graph.

    Args:
        module: in evaluation mode, on the CPU.
        inputs: an example for each argument of `forward`, in their order.
        outputs: names of what comes out.
        shapes: for each input which dimensions are free, as `torch.export.export` wants it.
        file: ends with .onnx; weights too large for one file go into one beside it.
        opset: version of the operators.

    Raises:
        ValueError: the module cannot be traced with free dimensions; says why.
        OSError: the file cannot be written.
    """
    example, free = tuple(inputs.values()), tuple(shapes[name] for name in inputs)
    size = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    with torch.no_grad(), use("reference"), _quiet():
        try:
            traced = torch.export.export(module, example, dynamic_shapes=free, strict=False)
            program = torch.onnx.export(
                traced,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=free,
                verbose=False,
            )
        except Exception as error:  # of torch.export, torch.onnx, onnxscript: many types
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f"{file.stem}: this network cannot be exported with free sizes ({reason[0]})"
            ) from error
    assert program is not None, "dynamo gives a program"
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with the names of folders of this machine
    program.save(str(file), external_data=size > SINGLE_FILE)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own deprecated parts and of names of dimensions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
