"""What networks cost and how fast they are, side by side in interleaved rounds."""

import csv
import io
import json
import multiprocessing
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import torch

from convnext.evaluate.cost import num_params
from convnext.evaluate.counting import RULES, count
from convnext.evaluate.timing import interleaved, latencies, spread
from convnext.published.throughput import PAIRS, SETTINGS, rows_of, top1_of
from convnext.report.bubble import Bubble, bubble_figure
from convnext.run.bench_network import (
    Cell,
    Dtype,
    Format,
    Mode,
    build,
    inference,
    training,
    training_memory,
)
from convnext.run.folder import command_line, say_line, versions, write_text
from convnext.run.loading import pick_device
from convnext.weights.catalogue import list_weights

__all__ = ["BenchConfig", "bench", "like", "write_rows"]

Row = dict[str, Any]
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What is measured; every combination is one comparison of all networks.

    Attributes:
        networks: (name, image sizes); a size of a network is one line of the table.
        batch_sizes: Images a batch.
        dtypes: Arithmetic.
        memory_formats: Layouts of images and weights.
        modes: "eager", "compiled", "fused".
        device: "cpu", "cuda", ...
        infer: Whether inference is timed.
        train: Whether training is timed, and its peak memory measured.
        rounds: Interleaved rounds.
        seconds: About how long a network runs in one round.
        rule: How operations are counted, a key of `counting.RULES`.

    Raises:
        ValueError: A value is out of its range.
    """

    networks: tuple[tuple[str, int], ...]
    batch_sizes: tuple[int, ...] = (32,)
    dtypes: tuple[Dtype, ...] = ("fp32",)
    memory_formats: tuple[Format, ...] = ("channels_last",)
    modes: tuple[Mode, ...] = ("eager",)
    device: str = "cpu"
    infer: bool = True
    train: bool = True
    rounds: int = 5
    seconds: float = 1.0
    rule: str = "paper"
    published: dict[tuple[str, int], Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.networks:
            raise ValueError("no networks: name some, or --like table1, table2 or table12")
        if min((*self.batch_sizes, self.rounds)) < 1 or self.seconds <= 0:
            raise ValueError("batch sizes and rounds must be at least 1, seconds above 0")
        if self.rule not in RULES:
            raise ValueError(f"unknown rule {self.rule!r}; known: {', '.join(RULES)}")
        if "fused" in self.modes and (self.train or self.device != "cpu"):
            raise ValueError(
                "native code is for inference on CPUs: --phases inference --device cpu"
            )
        if "int8" in self.dtypes and set(self.modes) != {"fused"}:
            raise ValueError("int8 is arithmetic of native code: --engine fused")
        if "tf32" in self.dtypes and not self.device.startswith("cuda"):
            raise ValueError("tf32 is arithmetic of CUDA devices; take fp32 or bf16 on this one")


def like(
    table: str,
    *,
    device: str,
    networks: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    dtypes: Sequence[Dtype] = (),
    **more: Any,
) -> BenchConfig:
    """The settings of a table of the paper, with what it prints for each line.

    Args:
        table: "table1", "table2" or "table12".
        device: Where to measure.
        networks: Only these of its networks; all if empty.
        batch_sizes: Instead of the table's batch size.
        dtypes: Instead of the table's arithmetic. Where the device lacks TF32, fp32 stands in.
        **more: Further fields of `BenchConfig`.

    Raises:
        ValueError: The table has no such network.
    """
    rows, setting = rows_of(table), SETTINGS[table]
    known = list(dict.fromkeys(row.network for row in rows))
    for name in networks:
        if name not in known:
            raise ValueError(f"{table} has no {name!r}; it has {', '.join(known)}")
    own: Any = "fp32" if setting.dtype == "tf32" and device == "cpu" else setting.dtype
    chosen = [row for row in rows if row.network in networks or not networks]
    values: dict[str, Any] = {
        "networks": tuple((row.network, row.size) for row in chosen),
        "batch_sizes": tuple(batch_sizes) or (setting.batch_size,),
        "dtypes": tuple(dtypes) or (own,),
        "memory_formats": (setting.memory_format,),
        "train": setting.training,
        "published": {
            (row.network, row.size): {
                "images_per_second": row.images_per_second,
                "memory_gb": row.memory,
            }
            for row in chosen
        },
    }
    return BenchConfig(device=device, **{**values, **more})


def bench(
    config: BenchConfig,
    *,
    csv_file: Path | None = None,
    json_file: Path | None = None,
    plot: Path | None = None,
    plot_x: str = "gmacs",
    say: Callable[[str], None] = say_line,
) -> list[Row]:
    """Measure and write what was asked for.

    Args:
        config: What is measured.
        csv_file: The table.
        json_file: The table with device, versions and every round.
        plot: The bubble plot of figure 1 as an SVG: accuracy against cost or speed.
        plot_x: "gmacs" or "images_per_second".
        say: Where messages go.

    Returns:
        One row for each network and combination.

    Raises:
        ValueError: There is no such network or device.
        OSError: A file cannot be written.
    """
    pick_device(config.device)
    say(f"counted: {config.rule}: {RULES[config.rule][2]}")
    sizes = {cell: _size(*cell, config.rule) for cell in config.networks}
    rows: list[Row] = []
    combinations = list(
        product(config.batch_sizes, config.dtypes, config.memory_formats, config.modes)
    )
    for number, (batch, dtype, memory_format, mode) in enumerate(combinations, 1):
        say(f"[{number}/{len(combinations)}] batch {batch}, {dtype}, {memory_format}, {mode}")
        cells = [
            Cell(
                network=name,
                size=size,
                batch_size=batch,
                dtype=dtype,
                memory_format=memory_format,
                mode=mode,
                device=config.device,
            )
            for name, size in config.networks
        ]
        rows += _measure(cells, config, sizes)
    _compare(rows, config)
    settings = {"rule": config.rule, "rounds": config.rounds}
    write_rows(rows, config.device, settings, csv_file=csv_file, json_file=json_file, say=say)
    if plot is not None:
        write_text(plot, _plot(rows, plot_x))
        say(f"figure: {plot}")
    return rows


def write_rows(
    rows: list[Row],
    device: str,
    settings: Row,
    *,
    csv_file: Path | None,
    json_file: Path | None,
    say: Callable[[str], None] = say_line,
) -> None:
    """Write a table to the files that are asked for.

    Args:
        rows: The table.
        device: Where it was measured.
        settings: What else belongs beside the rows in JSON.
        csv_file: The table alone.
        json_file: The table with device, versions and every round.
        say: Where messages go.

    Raises:
        OSError: A file cannot be written.
    """
    if csv_file is not None:
        write_text(csv_file, _csv(rows))
        say(f"table: {csv_file}")
    if json_file is not None:
        content = {**environment(device), **settings, "command": command_line(), "rows": rows}
        write_text(json_file, json.dumps(content, indent=1) + "\n")
        say(f"rows with device and versions: {json_file}")


def environment(device: str) -> Row:
    """Device and versions, for the results file."""
    on_cuda = device.startswith("cuda")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(device) if on_cuda else _cpu(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "versions": versions(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _size(network: str, size: int, rule: str) -> Row:
    """Parameters, operations and activations, counted on no device."""
    with torch.device("meta"):
        model = build(network, size)
    try:
        counted = count(model, (3, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{network} does not take images of {size} px: {reason}") from None
    return {
        "params": num_params(model),
        "gmacs": counted.total(rule) / 1e9,
        "mactivations": counted.activations / 1e6,
        "top1": _top1(network, size),
    }


def _top1(network: str, size: int) -> float | None:
    """Published accuracy at this size, trained on ImageNet-1K where there is such a number."""
    if ":" in network:
        return top1_of(network, size)
    found = [w for w in list_weights(network) if w.resolution == size and w.top1 is not None]
    own = [w for w in found if "22K" not in w.data]
    best = max(own or found, key=lambda w: w.top1 or 0.0, default=None)
    return best.top1 if best else None


def _measure(
    cells: list[Cell], config: BenchConfig, sizes: dict[tuple[str, int], Row]
) -> list[Row]:
    """All networks of one combination, in interleaved rounds."""
    rows: list[Row] = [
        {
            "network": cell.network,
            "size": cell.size,
            "batch_size": cell.batch_size,
            "dtype": cell.dtype,
            "memory_format": cell.memory_format,
            "mode": cell.mode,
            **sizes[cell.network, cell.size],
        }
        for cell in cells
    ]
    for row, cell in zip(rows, cells, strict=True):
        row["training_mib"] = _memory(cell) if config.train else None
    phases = [("", inference)] * config.infer + [("training_", training)] * config.train
    for prefix, make in phases:
        torch._dynamo.reset()
        sides = {f"{c.network}@{c.size}": make(c) for c in cells}
        times = interleaved(sides, rounds=config.rounds, seconds=config.seconds)
        for row, cell, (name, side) in zip(rows, cells, sides.items(), strict=True):
            seconds = statistics.median(times[name])
            row[f"{prefix}images_per_second"] = round(cell.batch_size / seconds, 2)
            row[f"{prefix}spread_percent"] = round(spread(times[name]), 1)
            row[f"{prefix}seconds_a_batch"] = times[name]
            if not prefix:
                single = sorted(latencies(side, seconds=config.seconds))
                for p in PERCENTILES:
                    place = min(len(single) - 1, round(p / 100 * (len(single) - 1)))
                    row[f"p{p}_ms"] = round(1e3 * single[place], 2)
    return rows


def _memory(cell: Cell) -> int:
    """Peak memory of training in MiB, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=training_memory, args=(cell, send))
    process.start()
    send.close()
    try:
        answer = receive.recv()
    except EOFError:
        raise ValueError(
            f"training {cell.network} with batches of {cell.batch_size} was killed, for lack of "
            "memory as a rule; take smaller --batch-sizes, or only --phases inference"
        ) from None
    finally:
        process.join()
    if not isinstance(answer, int):
        raise ValueError(f"training {cell.network}: {str(answer).splitlines()[0]}") from None
    return round(answer / 2**20)


def _compare(rows: list[Row], config: BenchConfig) -> None:
    """What the paper prints, and its ratio between paired networks beside the measured one."""
    if not config.published:
        return
    keys = ("batch_size", "dtype", "memory_format", "mode")
    by_name = {(r["network"], r["size"], *(r[k] for k in keys)): r for r in rows}
    for row in rows:
        paper = config.published[row["network"], row["size"]]
        row["paper_images_per_second"] = paper["images_per_second"]
        row["paper_training_gb"] = paper["memory_gb"]
        row["ratio"] = row["paper_ratio"] = row["memory_ratio"] = row["paper_memory_ratio"] = None
        pair = PAIRS.get((row["network"], row["size"]))
        other = by_name.get((pair, row["size"], *(row[k] for k in keys)))
        if other is None:
            continue
        printed = config.published[other["network"], other["size"]]
        if config.infer:
            times = zip(row["seconds_a_batch"], other["seconds_a_batch"], strict=True)
            row["ratio"] = round(statistics.median(b / a for a, b in times), 3)
        if paper["images_per_second"] and printed["images_per_second"]:
            row["paper_ratio"] = round(paper["images_per_second"] / printed["images_per_second"], 3)
        if config.train and other["training_mib"]:
            row["memory_ratio"] = round(row["training_mib"] / other["training_mib"], 3)
        if paper["memory_gb"] and printed["memory_gb"]:
            row["paper_memory_ratio"] = round(paper["memory_gb"] / printed["memory_gb"], 3)


def _csv(rows: list[Row]) -> str:
    names = [key for key in rows[0] if not key.endswith("seconds_a_batch")]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _plot(rows: list[Row], x: str) -> str:
    title = {"gmacs": "GMACs", "images_per_second": "images/s"}[x]
    bubbles = [
        Bubble(
            name=row["network"].rpartition(":")[2],
            family=row["network"].rpartition(":")[2].split("_")[0],
            x=row[x],
            y=row["top1"],
            params=row["params"],
        )
        for row in rows
        if row["top1"] is not None and row.get(x) is not None
    ]
    if not bubbles:
        raise ValueError("nothing to plot: no network here has a published accuracy at its size")
    return bubble_figure(bubbles, x_title=title, y_title="ImageNet-1K top-1 accuracy, %")
