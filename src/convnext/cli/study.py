"""`convnext roadmap` and `convnext ablate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from convnext.cli.parse import parse
from convnext.cli.tables import print_table

__all__ = ["ablate", "roadmap"]


@dataclass(frozen=True, kw_only=True)
class StudyArguments:
    """What all studies take: data, length, machine."""

    data: str
    """The labelled images: a folder, CSV, tar shards or hf:NAME."""
    out: str = ""
    """Folder of the study; the same command goes on where it stopped."""
    seeds: int = 1
    """Runs of each network, with seeds 0, 1, ..."""
    jobs: int = 0
    """Runs at a time; 0 = one for each CUDA device, else one."""
    image_size: int | None = None
    """Side of the images in pixels; by default as the data."""
    epochs: int | None = None
    """Passes over the data; by default by the number of images."""
    batch_size: int | None = None
    """Images a step; by default by the number of images."""
    lr: float | None = None
    """Peak learning rate; by default by the batch size."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic."""
    workers: int = -1
    """Processes that read images (-1 = fit for this machine)."""
    device: str = "auto"
    """auto, cpu, cuda."""


@dataclass(frozen=True, kw_only=True)
class RoadmapArguments(StudyArguments):
    """Train the steps from ResNet to ConvNeXt under one recipe."""

    regime: Literal["t", "b"] = "t"
    """t: ResNet-50 to ConvNeXt-T; b: ResNet-200 to ConvNeXt-B."""
    steps: tuple[str, ...] = ()
    """Some of the steps: resnet, stage_ratio, ..., separate_downsampling; all by default."""
    width_scale: float = 1.0
    """Factor on every width, such as 0.25, to make the whole road affordable."""


@dataclass(frozen=True, kw_only=True)
class AblateArguments(StudyArguments):
    """Train variants of a network under one recipe."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The network that is varied."""
    variants: str
    """JSON, or a file of it: {"k5": {"kernel_size": 5}, "k7": {"kernel_size": 7}}; the fields are
    those of the network's configuration, and "model" for another network."""


def roadmap(arguments: list[str]) -> int:
    """Train the road."""
    args = parse(RoadmapArguments, arguments, "roadmap")
    from convnext.run.roadmap import roadmap

    recipe, num_train, out = _recipe(args, f"roadmap_{args.regime}_resnet", "roadmap")
    rows = roadmap(
        recipe,
        out,
        num_train=num_train,
        regime=args.regime,
        steps=args.steps,
        seeds=args.seeds,
        width_scale=args.width_scale,
        jobs=args.jobs,
    )
    return _show(rows)


def ablate(arguments: list[str]) -> int:
    """Train variants."""
    args = parse(AblateArguments, arguments, "ablate")
    from convnext.run.ablation import ablate, data_name, variants_from_json

    variants = variants_from_json(args.variants, args.model)
    recipe, _, out = _recipe(args, args.model, "ablation")
    title = f"{args.model} on {data_name(args.data)}"
    return _show(ablate(variants, recipe, out, title=title, seeds=args.seeds, jobs=args.jobs))


def _recipe(args: StudyArguments, model: str, kind: str) -> tuple[Any, int, Path]:
    """One recipe for all networks, the number of training images, and the folder."""
    from convnext.data.config import DataConfig
    from convnext.run.study import study_recipe

    assert isinstance(args.data, str)
    recipe, num_train = study_recipe(
        DataConfig(path=args.data, workers=args.workers),
        model=model,
        image_size=args.image_size,
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        precision=args.precision,
        device=args.device,
    )
    out = Path(args.out) if args.out else Path("runs") / f"{kind}-{Path(args.data).stem}"
    return recipe, num_train, out


def _show(rows: list[dict[str, Any]]) -> int:
    shown = [
        {
            "variant": row["variant"],
            "parameters": row["params"],
            "GMACs": f"{row['gmacs']:.3f}",
            "top-1": row["top1"],
            "±": row["std"],
            "change": row["change"],
            "paper": row["paper_top1"],
            "paper's change": row["paper_change"],
        }
        for row in rows
    ]
    if all(row["paper_top1"] is None for row in rows):
        shown = [{k: v for k, v in row.items() if "paper" not in k} for row in shown]
    return print_table(shown, False, "network in the study")
