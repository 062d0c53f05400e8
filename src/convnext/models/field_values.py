"""Plain values, as JSON has them, for the fields of configurations: checked against their types."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

__all__ = ["checked_fields", "from_dict"]


def from_dict(kind: type[Any], values: Mapping[str, Any], where: str = "") -> Any:
    """A dataclass of type `kind` from plain values; absent fields keep their defaults.

    Raises:
        ValueError: A field is unknown, the nearest name is given; or its value has the wrong type.
    """
    return kind(**checked_fields(kind, values, where))


def checked_fields(kind: type[Any], values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Fields of a dataclass from plain values, with lists brought back to tuples.

    Args:
        kind: The dataclass.
        values: By name of the field.
        where: What stands before a name in messages, such as "task.".

    Raises:
        ValueError: A field is unknown, the nearest name is given; or its value has the wrong type.
    """
    hints = typing.get_type_hints(kind)
    fields = {}
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {where + near[0]!r}?" if near else f"known: {', '.join(hints)}"
            raise ValueError(f"unknown field {where + key!r}; {hint}")
        fields[key] = _value(hints[key], value, where + key)
    return fields


def _value(kind: Any, value: Any, where: str) -> Any:
    """Check a value against a field's type, and bring lists back to tuples."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if isinstance(value, dict):
            return from_dict(typing.cast(type[Any], kind), value, where + ".")
    elif kind is Any:
        return value
    elif origin is typing.Literal:
        if value in options:
            return value
        kind = " | ".join(repr(o) for o in options)
    elif origin in (typing.Union, types.UnionType):
        kinds = [option for option in options if dataclasses.is_dataclass(option)]
        if kinds and isinstance(value, dict):  # the one that has most of the fields
            nearest = max(kinds, key=lambda k: len(value.keys() & typing.get_type_hints(k).keys()))
            return _value(nearest, value, where)
        for option in options:
            try:
                return _value(option, value, where)
            except ValueError:
                continue
    elif origin is tuple:
        if isinstance(value, list | tuple):
            element = options[0]
            if options[-1] is Ellipsis:
                return tuple(_value(element, v, where) for v in value)
            if len(value) == len(options):
                pairs = zip(options, value, strict=True)
                return tuple(_value(o, v, where) for o, v in pairs)
    elif origin is dict:
        if isinstance(value, dict):
            return value
    elif kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif kind is types.NoneType:
        if value is None:
            return None
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    shown = kind.__name__ if isinstance(kind, type) and origin is None else kind
    raise ValueError(f"{where} is {_short(value)}; expected {shown}")


def _short(value: Any) -> str:
    """A value for a message of one line."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:90]}... ({type(value).__name__})"
