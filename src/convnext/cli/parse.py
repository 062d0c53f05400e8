"""From arguments to dataclasses."""

import contextlib
import dataclasses
import io
import json
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import tyro

from convnext.models.registry import unknown

__all__ = ["parse"]

T = TypeVar("T")


def parse(kind: type[T], arguments: list[str], command: str, *, also: Sequence[str] = ()) -> T:
    """The arguments of a command as a dataclass.

    Args:
        kind: Dataclass with the options as fields.
        arguments: What follows the command.
        command: Its name, for messages.
        also: Further options that exist in another spelling.

    Raises:
        ValueError: An option does not exist, the nearest one is named; or a value does not fit.
        SystemExit: Help was asked for.
    """
    known = {*_options(kind), *also, "--help"}
    for argument in arguments:
        option = "--" + argument[2:].partition("=")[0].replace("_", "-")
        if argument.startswith("--") and option not in known:
            raise unknown("option", argument.partition("=")[0], sorted(known))
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_json_rule)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            value, left = tyro.cli(
                kind,
                args=arguments,
                prog=f"convnext {command}",
                registry=registry,
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise  # help
        raise ValueError(f"{_plain(complaint.getvalue())}; see convnext {command} --help") from None
    if left:
        raise ValueError(f"unexpected argument {left[0]!r}; see convnext {command} --help")
    return value


def _plain(box: str) -> str:
    """The words of a message that was drawn as a box with a title, as one line."""
    lines = [re.sub(r"[^\x20-\x7e]+|-{3,}", " ", line).strip() for line in box.splitlines()]
    text = " ".join([line for line in lines if line][1:])
    text = re.split(r"Argument helptext:|For full helptext|Usage:", text)[0]
    return re.sub(r"\s+", " ", text).strip().removesuffix(".")


def _json_rule(info: Any) -> Any:
    """Dictionaries are given as JSON."""
    if info.type != dict[str, Any]:
        return None

    def read(arguments: list[str]) -> dict[str, Any]:
        try:
            value = json.loads(arguments[0])
        except json.JSONDecodeError as error:
            raise ValueError(f"no valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise ValueError('expected a JSON object such as {"depths": [2, 2, 6, 2]}')
        return value

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    )


def _options(kind: Any, prefix: str = "--") -> Iterator[str]:
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if tyro.conf.Positional in getattr(hint, "__metadata__", ()):
            continue
        option = name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            yield from _options(hint, f"{prefix}{option}.")
        else:
            yield prefix + option
            if hint is bool:
                yield f"{prefix}no-{option}"
