"""`convnext bench`."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from convnext.cli.parse import parse
from convnext.cli.tables import print_table
from convnext.models.registry import is_detector_name, is_segmenter_name

if TYPE_CHECKING:
    from convnext.run.bench import BenchConfig

__all__ = ["bench"]


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Cost and speed of networks, side by side."""

    networks: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAMES")] = ()
    """Names of ours (convnext_tiny), merged:NAME (slak_tiny with its branches merged), timm:NAME,
    torchvision:NAME; or of detectors (mask_rcnn_convnext_tiny) or segmentation networks
    (upernet_convnext_tiny), counted as in the papers, and timed with --phases inference."""
    like: Literal["", "table1", "table2", "table12", "table3", "table4", "v2table6", "v2table7"] = (
        ""
    )
    """Settings and networks of a table of the paper, with its numbers beside ours; NAMES choose
    some of its networks. Table 3, and table 6 of V2, are of detectors; table 4, and table 7 of V2,
    of segmentation networks."""
    sizes: tuple[int, ...] = ()
    """Sides of the images in pixels; 224 by default, detectors have 1280x800, segmentation networks
    2048x512."""
    batch_sizes: tuple[int, ...] = ()
    """Images a batch; 32 by default, or as the table."""
    dtypes: tuple[Literal["fp32", "tf32", "bf16", "fp16", "int8"], ...] = ()
    """Arithmetic; fp32 by default, or as the table. int8 with --engine fused."""
    formats: tuple[Literal["contiguous", "channels_last"], ...] = ()
    """Layouts of images and weights in memory; channels_last by default, or as the table."""
    modes: tuple[Literal["eager", "compiled", "fused"], ...] = ()
    """Layer by layer, the default; with torch.compile; in native code, for inference of ours on a
    CPU."""
    engine: Literal["", "auto", "fused", "compile", "eager"] = ""
    """In place of --modes, as predict and evaluate have it. auto = fused where all NAMES have that
    form, in fp32 on a CPU that it is for; else eager."""
    profile: bool = False
    """Also the time of every part in native code (--engine fused)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    phases: tuple[Literal["inference", "training"], ...] = ()
    """What is timed; of training also the peak memory. Both by default, or as the table; of
    detectors and segmentation networks nothing by default."""
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


PART_COLUMNS = {
    "detector": "detector",
    "segmenter": "network",
    "data": "pre-trained",
    "size": "px",
    "dtype": "dtype",
    "batch_size": "batch",
    "params": "M params",
    "gflops": "GFLOPs",
    "backbone": "backbone",
    "neck": "neck",
    "rpn": "RPN",
    "box_heads": "box heads",
    "mask_heads": "mask heads",
    "head": "head",
    "images_per_second": "img/s",
    "spread_percent": "± %",
    "paper_params": "paper's M",
    "paper_gflops": "paper's GFLOPs",
    "paper_images_per_second": "paper's img/s",
    "box_ap": "paper's box AP",
    "mask_ap": "mask AP",
    "miou": "paper's mIoU",
    "miou_multi_scale": "at several scales",
}
PROFILE_COLUMNS = {
    "stage": "stage",
    "part": "part",
    "ms": "ms, all threads",
    "percent": "%",
    "gflops": "GFLOP",
    "gflops_per_second": "GFLOP/s a thread",
}
OPERATIONS = ("gflops", "backbone", "neck", "rpn", "box_heads", "mask_heads", "head")
DETECTION_TABLES = ("table3", "v2table6")
SEGMENTATION_TABLES = ("table4", "v2table7")


def bench(arguments: list[str]) -> int:
    """Measure, and print the table."""
    args = parse(BenchArguments, arguments, "bench")
    noun = _noun(args)
    if noun:
        return _bench_parts(args, noun)
    from convnext.run.bench import BenchConfig, bench, like
    from convnext.run.loading import pick_device

    device = str(pick_device(args.device))
    modes = _modes(args, device)
    more: dict[str, Any] = {
        "modes": modes,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "rule": args.count,
    }
    if args.formats:
        more["memory_formats"] = args.formats
    if args.phases:
        more["infer"], more["train"] = ("inference" in args.phases, "training" in args.phases)
    elif "fused" in modes:
        more["train"] = False
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
            networks=tuple((name, size) for name in args.networks for size in args.sizes or (224,)),
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
    status = print_table(
        [{COLUMNS[key]: _cell(key, row.get(key)) for key in shown} for row in rows],
        False,
        "network to measure",
    )
    return _profile(config) if args.profile and not status else status


def _modes(args: BenchArguments, device: str) -> tuple[str, ...]:
    """The modes that the options mean."""
    if args.modes and args.engine:
        raise ValueError("--engine stands in place of --modes: give one of the two")
    modes: tuple[str, ...] = args.modes or ("eager",)
    if args.engine == "auto":
        from convnext.run.bench_network import has_fused_form
        from convnext.run.engines import engine_of_this_machine

        able = device == "cpu" and not {*args.dtypes, *args.phases} - {"fp32", "inference"}
        able = able and not args.like and all(map(has_fused_form, args.networks))
        fused = able and engine_of_this_machine().startswith("fused")
        modes = ("fused",) if fused else ("eager",)
    elif args.engine:
        modes = ({"compile": "compiled"}.get(args.engine, args.engine),)
    if args.profile and modes != ("fused",):
        raise ValueError("--profile looks into native code: add --engine fused")
    return modes


def _profile(config: "BenchConfig") -> int:
    """The time of every part, network by network."""
    from convnext.run.bench_profile import profile_network

    status = 0
    for name, size in config.networks:
        for batch, dtype in product(config.batch_sizes, config.dtypes):
            print(f"\n{name}, {size} px, batch {batch}, {dtype}")
            rows = profile_network(name, size, batch, dtype)
            cells = [{PROFILE_COLUMNS[key]: row[key] for key in PROFILE_COLUMNS} for row in rows]
            status |= print_table(cells, False, "part to measure")
    return status


def _noun(args: BenchArguments) -> str:
    """What systems on backbones are meant, "detectors" or "segmentation networks"; "" if none."""
    kinds = {"detectors": is_detector_name, "segmentation networks": is_segmenter_name}
    found = {
        next((noun for noun, matches in kinds.items() if matches(name)), "")
        for name in args.networks
    }
    if len(found) > 1:
        raise ValueError(
            "detectors, segmentation networks and networks that classify are counted by rules of "
            "their own: bench them apart"
        )
    if not args.like:
        return found.pop() if found else ""
    if args.like in DETECTION_TABLES:
        return "detectors"
    return "segmentation networks" if args.like in SEGMENTATION_TABLES else ""


def _bench_parts(args: BenchArguments, noun: str) -> int:
    from convnext.run.bench import write_rows
    from convnext.run.bench_parts import PartBench, bench_parts, networks_of
    from convnext.run.loading import pick_device

    if (
        "training" in args.phases
        or args.plot
        or args.count != "paper"
        or args.modes
        or args.engine
        or args.profile
        or "int8" in args.dtypes
    ):
        raise ValueError(
            f"of {noun} only --phases inference is timed, without --modes, --engine, --profile, "
            "--plot, --count and int8"
        )
    if max(map(len, (args.sizes, args.batch_sizes, args.formats))) > 1:
        raise ValueError(f"{noun} take one of each: --sizes, --batch-sizes, --formats")
    if noun == "detectors":
        from convnext.run.bench_detection import DETECTION

        system = DETECTION
    else:
        from convnext.run.bench_segmentation import SEGMENTATION

        system = SEGMENTATION
    more: dict[str, Any] = {"dtypes": args.dtypes} if args.dtypes else {}
    more |= {"size": (args.sizes[0], args.sizes[0])} if args.sizes else {}
    more |= {"batch_size": args.batch_sizes[0]} if args.batch_sizes else {}
    more |= {"memory_format": args.formats[0]} if args.formats else {}
    config = PartBench(
        networks=networks_of(system, args.like, args.networks),
        table=args.like,
        infer="inference" in args.phases,
        device=str(pick_device(args.device)),
        rounds=args.rounds,
        seconds=args.seconds,
        **more,
    )
    rows = bench_parts(system, config)
    write_rows(
        rows,
        config.device,
        {"rounds": config.rounds},
        csv_file=Path(args.csv) if args.csv else None,
        json_file=Path(args.json) if args.json else None,
    )
    columns = PART_COLUMNS
    shown = [key for key in columns if any(row.get(key) is not None for row in rows)]
    cells = [{columns[key]: _cell(key, row.get(key)) for key in shown} for row in rows]
    return print_table(cells, False, f"{system.noun} to measure")


def _cell(key: str, value: Any) -> Any:
    if key == "params":
        return round(value / 1e6, 1)
    if value is not None and key in ("gmacs", "mactivations", *OPERATIONS):
        return round(value, 2)
    return value
