"""`convnext recipes` and `convnext models`, and how tables are printed."""

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from convnext.cli.parse import parse

__all__ = ["FilterArguments", "models", "print_table", "recipes"]


@dataclass(frozen=True, kw_only=True)
class FilterArguments:
    """Which names to list."""

    filter: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATTERN")] = "*"
    """Shell-style pattern or a part of the name: 'convnextv2_*', tiny."""
    json: bool = False
    """Print JSON instead of a table."""

    @property
    def pattern(self) -> str:
        """The pattern, where a bare word stands for every name that contains it."""
        return self.filter if re.search(r"[*?\[]", self.filter) else f"*{self.filter}*"


def recipes(arguments: list[str]) -> int:
    """List the recipes: network, source, expected accuracy, effective batch."""
    args = parse(FilterArguments, arguments, "recipes")
    from convnext.run.listing import recipe_table

    return print_table(recipe_table(args.pattern), args.json, f"recipe matches {args.filter!r}")


def models(arguments: list[str]) -> int:
    """List the networks: parameters, multiply-accumulates, published accuracy."""
    args = parse(FilterArguments, arguments, "models")
    from convnext.run.listing import model_table

    return print_table(model_table(args.pattern), args.json, f"model matches {args.filter!r}")


def print_table(rows: list[dict[str, Any]], as_json: bool, none: str) -> int:
    """Print rows as an aligned table or as JSON; numbers stand to the right."""
    if not rows:
        raise ValueError(f"no {none}")
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    texts = [list(rows[0]), *([_cell(v) for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    numeric = [any(isinstance(row[k], int | float) for row in rows) for k in rows[0]]
    for line in texts:
        cells = zip(line, widths, numeric, strict=True)
        print("  ".join(t.rjust(w) if right else t.ljust(w) for t, w, right in cells).rstrip())
    return 0


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
