"""Inference on a CPU: `convnext.optimize` against the fastest engines there are.

Each engine lives in a process of its own, so that its threads, memory and settings are its own, and
times itself. A round lets each run once, in turn, the others asleep; ratios are taken within a
round. All have the same weights: random ones, with norms, biases and layer scales as far from their
initial values as training takes them, so that the errors mean something.
"""

import argparse
import ctypes
import json
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

import convnext
from convnext.deploy.fused import FusedConvNeXt
from convnext.evaluate.cost import peak_memory
from convnext.evaluate.timing import ratio
from convnext.ops.dispatch import use
from int8_peers import onnxruntime_int8, openvino_int8

CASES = (
    ("convnext_tiny", 16),
    ("convnext_tiny", 1),
    ("convnext_base", 16),
    ("convnext_base", 1),
    ("convnext_atto", 16),
    ("convnext_large", 16),
    ("convnextv2_tiny", 16),
    ("convnextv2_base", 16),
    ("convnext_isotropic_small", 16),
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OURS, PEERS, PROTOTYPE = "fused", ("compile", "openvino"), "prototype"
# Of int8; and ours in floating point, the fastest that the CPU has.
INT8_PEERS, FLOAT = ("onnxruntime", "openvino"), "fused_float"
Engine = Callable[[], Tensor]  # logits in fp32


class Fused:
    """An optimized network, which knows its kernels."""

    def __init__(self, network: FusedConvNeXt, batch: Tensor) -> None:
        self._network, self._batch, self.kernels = network, batch, network.kernels.name

    def __call__(self) -> Tensor:
        return cast(Tensor, self._network(self._batch)).float()


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = convnext.create_model(name).eval()
    for key, p in model.named_parameters():
        leaf = key.split(".")[-1]
        if leaf == "gamma":
            p.data.uniform_(0.1, 1)
        elif leaf == "bias":
            p.data.normal_(std=0.2)
        elif p.ndim == 1 or ".grn." in key:
            p.data.uniform_(0.5, 1.5)
        else:
            p.data.normal_(std=p[0].numel() ** -0.5)
    return model


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def fused(model: nn.Module, batch: Tensor, precision: str) -> Engine:
    calibration = [batch] if precision == "int8" else None
    run = convnext.optimize(model, dtype=precision, calibration=calibration)
    return Fused(run, batch)


def fused_float(model: nn.Module, batch: Tensor, precision: str) -> Engine:
    return fused(model, batch, "auto")


def compiled(model: nn.Module, batch: Tensor, precision: str) -> Engine:
    import torch._inductor.config

    torch._inductor.config.freezing = True
    last = torch.channels_last
    run = torch.compile(model.to(DTYPES[precision], memory_format=last))
    batch = batch.to(DTYPES[precision], memory_format=last)
    return lambda: run(batch).float()


def onnxruntime(model: nn.Module, batch: Tensor, precision: str) -> Engine:
    return onnxruntime_int8(model, batch)


def openvino(model: nn.Module, batch: Tensor, precision: str) -> Engine:
    if precision == "int8":
        return openvino_int8(model, batch)
    import openvino as ov

    settings = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision),
        "PERFORMANCE_HINT": "LATENCY",  # one request on all threads: the faster way at any batch
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    # Traced from the operations as published; the tracer warns of checks of shapes.
    with warnings.catch_warnings(), use("reference"):
        warnings.simplefilter("ignore")
        graph = ov.convert_model(model, example_input=batch, input=[tuple(batch.shape)])
    request = ov.Core().compile_model(graph, "CPU", settings).create_infer_request()
    return lambda: torch.from_numpy(next(iter(request.infer([batch.numpy()]).values())))


def prototype(model: nn.Module, batch: Tensor, library: str) -> Engine:
    """A C library for convnext_tiny alone: `cnx_create(weights)`, `cnx_forward(...)`."""
    native = ctypes.CDLL(str(Path(library).resolve()))
    if native.cnx_init():
        raise OSError(f"the system does not let {library} use the tiles of AMX")
    # Its weights, in this order, are never freed; it copies what it needs.
    parts = [part.detach().contiguous() for part in _prototype_weights(model)]
    native.cnx_create.restype = ctypes.c_void_p
    pointers = (ctypes.c_void_p * len(parts))(*(part.data_ptr() for part in parts))
    context = ctypes.c_void_p(native.cnx_create(pointers))
    out, threads = torch.empty(len(batch), 1000), torch.get_num_threads()

    def run() -> Tensor:
        sizes = (ctypes.c_void_p(batch.data_ptr()), len(batch), ctypes.c_void_p(out.data_ptr()))
        native.cnx_forward(context, *sizes, threads)
        return out

    return run


def _prototype_weights(model: Any) -> list[Tensor]:
    def both(*modules: nn.Module) -> list[Any]:
        return [p for module in modules for p in (module.weight, module.bias)]

    parts = both(model.stem.conv, model.stem.norm)
    for stage in model.stages:
        if stage.downsample is not None:
            parts += both(stage.downsample.norm, stage.downsample.conv)
        for b in stage.blocks:
            parts += [*both(b.dwconv, b.norm, b.pwconv1, b.pwconv2), b.gamma]
    return parts + both(model.norm, model.head)


def serve(
    pipe: Connection, engine: str, name: str, batch: int, precision: str, threads: int, library: str
) -> None:
    """In a process of its own: build, answer with logits, MiB and kernels; then a round for each
    message.
    """
    torch.set_num_threads(threads)
    model, inputs = network(name), images(batch)
    build: dict[str, Callable[[nn.Module, Tensor, str], Engine]] = {
        "fused": fused,
        "fused_float": fused_float,
        "compile": compiled,
        "onnxruntime": onnxruntime,
        "openvino": openvino,
        "prototype": prototype,
    }
    with torch.inference_mode():
        run = build[engine](model, inputs, library if engine == PROTOTYPE else precision)
        del model
        for _ in range(3):
            logits = run()
        kernels = run.kernels if isinstance(run, Fused) else ""
        pipe.send((logits.numpy().copy(), peak_memory(torch.device("cpu")) / 2**20, kernels))
        while seconds := pipe.recv():
            times, start, used = [], time.perf_counter(), time.process_time()
            while not times or time.perf_counter() - start < seconds:
                before = time.perf_counter()
                run()
                times.append(time.perf_counter() - before)
            busy = (time.process_time() - used) / (time.perf_counter() - start)
            pipe.send((statistics.median(times), busy))


def rounds(
    pipes: dict[str, Connection], count: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds a batch, and cores in use, of each engine round by round; the order rotates."""
    times: dict[str, list[float]] = {engine: [] for engine in pipes}
    cores: dict[str, list[float]] = {engine: [] for engine in pipes}
    names = list(pipes)
    for turn in range(count):
        first = turn % len(names)
        for engine in names[first:] + names[:first]:
            pipes[engine].send(seconds)
            median, busy = pipes[engine].recv()
            times[engine].append(median)
            cores[engine].append(busy)
    return times, cores


def native_precision() -> str:
    """bf16 where the CPU multiplies it, else fp32."""
    return "bf16" if "bf16" in Path("/proc/cpuinfo").read_text() else "fp32"


def case(name: str, batch: int, precision: str, arguments: argparse.Namespace) -> dict[str, Any]:
    peers = INT8_PEERS if precision == "int8" else PEERS
    engines = [OURS, *peers, *([FLOAT] if precision == "int8" else [])]
    if arguments.prototype and name == "convnext_tiny":
        engines.append(PROTOTYPE)
    with torch.inference_mode():
        exact = network(name)(images(batch)).numpy()
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    row: dict[str, Any] = {"model": name, "batch": batch, "precision": precision}
    row |= {"threads": arguments.threads, "openvino": version("openvino")}
    for engine in engines:
        pipes[engine], theirs = context.Pipe()
        settings = (engine, name, batch, precision, arguments.threads, str(arguments.prototype))
        context.Process(target=serve, args=(theirs, *settings), daemon=True).start()
        theirs.close()  # a process that fails then ends the wait for it
        logits, mib, kernels = pipes[engine].recv()
        if engine == OURS:
            row["kernels"] = kernels
        row[f"{engine}_mib"] = round(mib)
        row[f"{engine}_error"] = float(f"{np.std(logits - exact) / np.std(exact):.2g}")
    times, cores = rounds(pipes, arguments.rounds, arguments.seconds)
    for pipe in pipes.values():
        pipe.send(0)
    for engine in engines:
        row[f"{engine}_images_per_second"] = round(batch / statistics.median(times[engine]), 2)
        row[f"{engine}_cores"] = round(statistics.median(cores[engine]), 2)
    row |= ratios(times, "peers", peers)
    for other in engines[1:]:
        row |= ratios(times, other, (other,))
    return row


def ratios(
    times: dict[str, list[float]], name: str, others: tuple[str, ...]
) -> dict[str, float | list[float]]:
    """Median and range over the rounds of (fastest of the others) / ours; above 1 we win."""
    each = [
        min(times[other][turn] for other in others) / own for turn, own in enumerate(times[OURS])
    ]
    middle = round(ratio(times, (OURS,), others), 3)
    return {
        f"ratio_to_{name}": middle,
        f"range_to_{name}": [round(min(each), 3), round(max(each), 3)],
    }


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Images/s, ratios, peak memory, and root-mean-square error of logits against fp32 eager."""
    rows = []
    torch.set_num_threads(arguments.threads)
    chosen = arguments.cases or [f"{name}:{batch}" for name, batch in CASES]
    precision = arguments.precision or native_precision()
    for text in chosen:
        name, _, batch = text.partition(":")
        row = case(name, int(batch or 16), precision, arguments)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows
