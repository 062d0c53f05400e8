"""`convnext weights`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from convnext.cli.parse import parse
from convnext.cli.tables import FilterArguments, print_table
from convnext.models.registry import unknown

__all__ = ["weights"]


@dataclass(frozen=True, kw_only=True)
class InspectArguments:
    """Which checkpoint to look into."""

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
    """A checkpoint file or folder."""


@dataclass(frozen=True, kw_only=True)
class ConvertArguments:
    """Which checkpoint to convert, to what."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """A checkpoint file or folder, of any layout."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Where to write: a .safetensors or .pth file, or a folder."""
    layout: str = "convnext"
    """Layout to write: convnext, timm, transformers, official, openmmlab, torchvision, fcmae;
    detectors and segmentation networks have the first five, the latter smp besides."""


@dataclass(frozen=True, kw_only=True)
class MergeArguments:
    """Which network to bring into its form for deployment."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """A run folder, a weights folder or a checkpoint file of a SLaK or RepLKNet, or of a detector
    or segmentation network on one."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """The weights folder to write."""


def weights(arguments: list[str]) -> int:
    """List published weights; look into a checkpoint; convert it; merge its branches."""
    actions = {
        "list": _weights_list,
        "inspect": _weights_inspect,
        "convert": _weights_convert,
        "merge": _weights_merge,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: convnext weights {list,inspect,convert,merge} [OPTIONS]")
        return 0 if arguments else 2
    if arguments[0] not in actions:
        raise unknown("action of convnext weights", arguments[0], actions)
    return actions[arguments[0]](arguments[1:])


def _weights_list(arguments: list[str]) -> int:
    args = parse(FilterArguments, arguments, "weights list")
    from convnext.run.listing import weight_table

    return print_table(weight_table(args.pattern), args.json, f"weights match {args.filter!r}")


def _weights_inspect(arguments: list[str]) -> int:
    args = parse(InspectArguments, arguments, "weights inspect")
    from convnext.weights import inspect

    print(inspect(Path(args.file)))
    return 0


def _weights_convert(arguments: list[str]) -> int:
    args = parse(ConvertArguments, arguments, "weights convert")
    from convnext.weights import convert

    print(f"written: {convert(args.source, Path(args.out), args.layout)}")
    return 0


def _weights_merge(arguments: list[str]) -> int:
    args = parse(MergeArguments, arguments, "weights merge")
    from convnext.weights import merge_weights

    print(f"written: {merge_weights(args.source, Path(args.out))}")
    return 0
