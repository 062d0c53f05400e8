"""`convnext bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from convnext.cli.parse import parse
from convnext.cli.tables import print_table

__all__ = ["bench"]


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Cost and speed of networks, side by side."""

    networks: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAMES")] = ()
    """Names of ours (convnext_tiny), merged:NAME (slak_tiny with its branches merged), timm:NAME,
    torchvision:NAME."""
    like: Literal["", "table1", "table2", "table12"] = ""
    """Settings and networks of a table of the paper, with its numbers beside ours; NAMES choose
    some of its networks."""
    sizes: tuple[int, ...] = (224,)
    """Sides of the images in pixels."""
    batch_sizes: tuple[int, ...] = ()
    """Images a batch; 32 by default, or as the table."""
    dtypes: tuple[Literal["fp32", "tf32", "bf16", "fp16"], ...] = ()
    """Arithmetic; fp32 by default, or as the table."""
    formats: tuple[Literal["contiguous", "channels_last"], ...] = ()
    """Layouts of images and weights in memory; channels_last by default, or as the table."""
    modes: tuple[Literal["eager", "compiled"], ...] = ("eager",)
    """With or without torch.compile."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    phases: tuple[Literal["inference", "training"], ...] = ()
    """What is timed; of training also the peak memory. Both by default, or as the table."""
    count: Literal["paper", "modules", "fvcore", "operations"] = "paper"
    """How operations are counted; the rule is explained when it runs."""
    rounds: int = 5
    """Interleaved rounds; the table gives the median and the spread."""
    seconds: float = 1.0
    """About how long a network runs in one round."""
    csv: str = ""
    """Write the table to this file."""
    json: str = ""
    """Write rows, rounds, device and versions to this file."""
    plot: str = ""
    """Write accuracy against cost or speed, as bubbles, to this SVG file."""
    plot_x: Literal["gmacs", "images_per_second"] = "gmacs"
    """Horizontal axis of the plot."""


COLUMNS = {
    "network": "network",
    "size": "px",
    "batch_size": "batch",
    "dtype": "dtype",
    "memory_format": "format",
    "mode": "mode",
    "params": "M params",
    "gmacs": "GMACs",
    "mactivations": "M act.",
    "images_per_second": "img/s",
    "spread_percent": "± %",
    "p50_ms": "p50 ms",
    "p90_ms": "p90 ms",
    "p99_ms": "p99 ms",
    "training_images_per_second": "train img/s",
    "training_mib": "train MiB",
    "top1": "top-1",
    "ratio": "ratio",
    "paper_images_per_second": "paper img/s",
    "paper_ratio": "paper's ratio",
    "memory_ratio": "memory ratio",
    "paper_memory_ratio": "paper's",
}


def bench(arguments: list[str]) -> int:
    """Measure, and print the table."""
    args = parse(BenchArguments, arguments, "bench")
    from convnext.run.bench import BenchConfig, bench, like
    from convnext.run.loading import pick_device

    device = str(pick_device(args.device))
    more: dict[str, Any] = {
        "modes": args.modes,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "rule": args.count,
    }
    if args.formats:
        more["memory_formats"] = args.formats
    if args.phases:
        more["infer"], more["train"] = ("inference" in args.phases, "training" in args.phases)
    if args.like:
        config = like(
            args.like,
            device=device,
            networks=args.networks,
            batch_sizes=args.batch_sizes,
            dtypes=args.dtypes,
            **more,
        )
    else:
        config = BenchConfig(
            networks=tuple((name, size) for name in args.networks for size in args.sizes),
            batch_sizes=args.batch_sizes or (32,),
            dtypes=args.dtypes or ("fp32",),
            device=device,
            **more,
        )
    rows = bench(
        config,
        csv_file=Path(args.csv) if args.csv else None,
        json_file=Path(args.json) if args.json else None,
        plot=Path(args.plot) if args.plot else None,
        plot_x=args.plot_x,
    )
    shown = [key for key in COLUMNS if any(row.get(key) is not None for row in rows)]
    return print_table(
        [{COLUMNS[key]: _cell(key, row.get(key)) for key in shown} for row in rows],
        False,
        "network to measure",
    )


def _cell(key: str, value: Any) -> Any:
    if key == "params":
        return round(value / 1e6, 1)
    if key in ("gmacs", "mactivations"):
        return round(value, 2)
    return value
