"""`convnext analyse`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from convnext.cli.parse import parse

__all__ = ["analyse"]


@dataclass(frozen=True, kw_only=True)
class AnalyseArguments:
    """Receptive field, feature diversity and feature maps of trained networks."""

    targets: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUNS_OR_WEIGHTS")
    ]
    """Run folders, weights folders, checkpoint files, or names such as convnext_tiny.in1k."""
    data: str
    """A folder of images, labelled or not."""
    out: str = "runs/analysis"
    """Folder for numbers and pictures."""
    what: tuple[Literal["receptive_field", "diversity", "maps"], ...] = (
        "receptive_field",
        "diversity",
        "maps",
    )
    """Which analyses."""
    images: int = 50
    """How many images, evenly spaced in the folder."""
    receptive_size: int = 1024
    """Side of the images for the receptive field, in pixels."""
    batch_size: int = 8
    """Images at a time."""
    workers: int = -1
    """Processes that read images (-1 = fit for this machine)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""


def analyse(arguments: list[str]) -> int:
    """Look inside networks."""
    args = parse(AnalyseArguments, arguments, "analyse")
    from convnext.run.analysis import analyse

    if not args.targets:
        raise ValueError("no network: name a run, weights, or a published name")
    analyse(
        args.targets,
        args.data,
        Path(args.out),
        what=args.what,
        num_images=args.images,
        receptive_size=args.receptive_size,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
    )
    return 0
