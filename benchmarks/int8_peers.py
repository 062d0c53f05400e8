"""What ONNX Runtime and OpenVINO make of a network in 8 bits, for the benchmark of CPU inference.

Both run one graph: static quantisation of its matrix products by ONNX Runtime's tools, a scale for
each output channel of the weights and for each tensor of activations, calibrated on the images that
are timed.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convnext.ops.dispatch import use

Engine = Callable[[], Tensor]  # logits in fp32


class _Once:
    """The calibration reader of one batch."""

    def __init__(self, batch: Tensor) -> None:
        self._rest = [{"images": batch.numpy()}]

    def get_next(self) -> dict[str, Any] | None:
        return self._rest.pop() if self._rest else None


def _quantised(model: nn.Module, batch: Tensor, folder: str) -> str:
    """The file of the graph."""
    from onnxruntime import quantization

    exact, ready, file = (str(Path(folder) / f"{name}.onnx") for name in ("exact", "ready", "int8"))
    with warnings.catch_warnings(), use("reference"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (batch,), dynamo=True, opset_version=18, input_names=["images"], verbose=False
        )
        assert program is not None
        program.save(exact)
    quantization.quant_pre_process(exact, ready, skip_symbolic_shape=True)
    quantization.quantize_static(
        ready,
        file,
        _Once(batch),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm"],  # with all operators both are slower
        # without VNNI sums of two products must fit 16 bits
        reduce_range="vnni" not in Path("/proc/cpuinfo").read_text(),
    )
    return file


def onnxruntime_int8(model: nn.Module, batch: Tensor) -> Engine:
    """Logits by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        session = onnxruntime.InferenceSession(
            _quantised(model, batch, folder), options, providers=["CPUExecutionProvider"]
        )
    images = batch.numpy()
    return lambda: torch.from_numpy(session.run(None, {"images": images})[0])


def openvino_int8(model: nn.Module, batch: Tensor) -> Engine:
    """Logits by OpenVINO."""
    import openvino as ov

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # of what is not quantised
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    with tempfile.TemporaryDirectory() as folder:
        compiled = ov.Core().compile_model(_quantised(model, batch, folder), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: torch.from_numpy(next(iter(request.infer([batch.numpy()]).values())))
