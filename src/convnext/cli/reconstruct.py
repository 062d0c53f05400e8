"""`convnext reconstruct`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from convnext.cli.parse import parse

__all__ = ["reconstruct"]


@dataclass(frozen=True, kw_only=True)
class ReconstructArguments:
    """Originals, masks and what a pre-trained network paints."""

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run folder of `convnext train fcmae_...`, or one of its checkpoints."""
    paths: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILES_OR_FOLDERS")
    ]
    """Images and folders of images."""
    out: str = "reconstruction.png"
    """The picture to write."""
    images: int = 6
    """How many images, evenly spaced in the folders."""
    seed: int = 0
    """Of the masks."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""


def reconstruct(arguments: list[str]) -> int:
    """Draw what a pre-trained network paints."""
    args = parse(ReconstructArguments, arguments, "reconstruct")
    from convnext.run.pretraining import reconstruct

    reconstruct(
        args.target,
        [Path(path) for path in args.paths],
        Path(args.out),
        images=args.images,
        seed=args.seed,
        device=args.device,
    )
    return 0
