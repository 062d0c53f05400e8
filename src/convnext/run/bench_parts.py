"""What detectors and segmentation networks cost and how fast they are, beside the papers' numbers.

`bench_detection` and `bench_segmentation` say what differs between the two.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from convnext.evaluate.part_cost import PartCost
from convnext.evaluate.timing import interleaved, spread
from convnext.run.bench_network import DTYPES, Dtype, Format, tf32
from convnext.run.folder import say_line
from convnext.run.loading import pick_device

__all__ = ["PartBench", "Printed", "System", "bench_parts", "networks_of"]

Row = dict[str, Any]
Size = tuple[int, int]
GIGA = 1e9


@dataclass(frozen=True, kw_only=True)
class Printed:
    """What a paper prints about a network.

    Attributes:
        network: name of ours.
        size: height and width of the image that it is about.
        columns: its numbers.
    """

    network: str
    size: Size
    columns: Row


@dataclass(frozen=True, kw_only=True)
class System:
    """What is built on backbones.

    Attributes:
        noun: what one is called, and the column of their names.
        size: height and width of the image, where no table says.
        parts: columns, and the names of the parts that they are of.
        printed: the lines of a paper's table, of all with "".
        build: a network with new weights, by its name.
        count: its cost for an image.
        infer: inference of a network in a batch (N, C, H, W).
        counted: what is counted, in words; "{size}" stands for the image.
        timed: likewise what is timed.
    """

    noun: str
    size: Size
    parts: dict[str, str]
    printed: Callable[[str], list[Printed]]
    build: Callable[[str], nn.Module]
    count: Callable[[nn.Module, Size], PartCost]
    infer: Callable[[Any, Tensor], object]
    counted: str
    timed: str


@dataclass(frozen=True, kw_only=True)
class PartBench:
    """What is counted and measured.

    Attributes:
        networks: their names.
        table: with the numbers of this table of a paper only; "" takes those of all.
        size: height and width of the image; None takes those of the tables.
        infer: whether inference is timed.
        batch_size: images a batch.
        dtypes: arithmetic of inference; bf16 and fp16 by autocast.
        memory_format: layout of images and weights.
        device: "cpu", "cuda", ...
        rounds: interleaved rounds.
        seconds: about how long a network runs in one round.

    Raises:
        ValueError: a value is out of its range.
    """

    networks: tuple[str, ...]
    table: str = ""
    size: Size | None = None
    infer: bool = False
    batch_size: int = 1
    dtypes: tuple[Dtype, ...] = ("fp32",)
    memory_format: Format = "channels_last"
    device: str = "cpu"
    rounds: int = 5
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if not self.networks:
            raise ValueError("no networks: name some")
        if min(self.batch_size, self.rounds) < 1 or self.seconds <= 0:
            raise ValueError("batch sizes and rounds must be at least 1, seconds above 0")
        if "tf32" in self.dtypes and not self.device.startswith("cuda"):
            raise ValueError("tf32 is arithmetic of CUDA devices; take fp32 or bf16 on this one")


def networks_of(system: System, table: str, names: Sequence[str]) -> tuple[str, ...]:
    """The networks of a table of a paper, or those of them that are named; without a table all.

    Raises:
        ValueError: the table has no such network.
    """
    if not table:
        return tuple(names)
    known = tuple(dict.fromkeys(row.network for row in system.printed(table)))
    for name in names:
        if name not in known:
            raise ValueError(f"{table} has no {name!r}; it has {', '.join(known)}")
    return tuple(names) or known


def bench_parts(
    system: System, config: PartBench, *, say: Callable[[str], None] = say_line
) -> list[Row]:
    """Count networks as the papers do, and time them if that was asked for.

    Args:
        system: what they are.
        config: what is measured.
        say: where messages go.

    Returns:
        One row for each arithmetic, network, size and line of a paper about it.

    Raises:
        ValueError: there is no such network or device, or it does not take images of this size.
    """
    pick_device(config.device)
    counted = {
        (name, size): _count(system, name, size)
        for name in dict.fromkeys(config.networks)
        for size in _sizes(system, name, config)
    }
    sizes = " or ".join(dict.fromkeys(_across(size) for _, size in counted))
    say(f"counted: {system.counted.format(size=sizes)}")
    if not config.infer:
        return [row for cell, cost in counted.items() for row in _lines(system, cell, cost, config)]
    say(f"timed: {system.timed}")
    rows = []
    for dtype in config.dtypes:
        sides = {
            f"{name}@{_across(size)}": _inference(system, name, size, dtype, config)
            for name, size in counted
        }
        times = interleaved(sides, rounds=config.rounds, seconds=config.seconds)
        for (cell, cost), taken in zip(counted.items(), times.values(), strict=True):
            measured = {
                "batch_size": config.batch_size,
                "dtype": dtype,
                "images_per_second": round(config.batch_size / statistics.median(taken), 3),
                "spread_percent": round(spread(taken), 1),
                "seconds_a_batch": taken,
            }
            rows += [row | measured for row in _lines(system, cell, cost, config)]
    return rows


def _across(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _sizes(system: System, name: str, config: PartBench) -> list[Size]:
    """The sizes that the papers have of a network, or the one that was asked for."""
    if config.size:
        return [config.size]
    printed = [row.size for row in system.printed(config.table) if row.network == name]
    return list(dict.fromkeys(printed)) or [system.size]


def _count(system: System, name: str, size: Size) -> PartCost:
    with torch.device("meta"):
        model = system.build(name)
    return system.count(model, size)


def _lines(system: System, cell: tuple[str, Size], cost: PartCost, config: PartBench) -> list[Row]:
    """A row for each line of the papers about a network, or one without their numbers."""
    name, size = cell
    own = {
        system.noun: name,
        "size": _across(size),
        "params": cost.params,
        "gflops": round(cost.flops / GIGA, 3),
        **{word: round(cost.parts.get(part, 0) / GIGA, 3) for word, part in system.parts.items()},
    }
    printed = [p for p in system.printed(config.table) if (p.network, p.size) == cell]
    unknown = dict.fromkeys(system.printed("")[0].columns)
    return [own | columns for columns in [line.columns for line in printed] or [unknown]]


def _inference(
    system: System, name: str, size: Size, dtype: Dtype, config: PartBench
) -> Callable[[], object]:
    """Inference of a network with new weights in a batch of noise."""
    torch.manual_seed(0)
    model = system.build(name).eval().to(config.device)
    images = torch.randn(config.batch_size, 3, *size).to(config.device)
    if config.memory_format == "channels_last":
        model.to(memory_format=cast(Any, torch.channels_last))
        images = images.to(memory_format=torch.channels_last)
    kind: Literal["cuda", "cpu"] = "cuda" if config.device.startswith("cuda") else "cpu"
    low = dtype in ("bf16", "fp16")

    def infer() -> object:
        autocast = torch.autocast(kind, dtype=DTYPES[dtype], enabled=low)
        with torch.inference_mode(), tf32(dtype), autocast:
            return system.infer(model, images)

    return infer
