"""Tables: scores per class, facts, cost, recipe."""

from collections.abc import Callable, Mapping
from typing import Any

from convnext.evaluate.result import ClassificationResult, ClassScore
from convnext.report.text import duration, esc, fraction, integer, name_cell, plain, quantity

MAX_ROWS = 1000


def per_class_table(result: ClassificationResult) -> str:
    """Scores of each class, in the order of the classes; the 1,000 lowest F1 if there are more."""
    scores = list(result.per_class)
    note = ""
    if len(scores) > MAX_ROWS:
        scores = sorted(scores, key=lambda s: 2.0 if s.f1 is None else s.f1)[:MAX_ROWS]
        note = (
            f"<p>The {integer(MAX_ROWS)} classes with the lowest F1 of "
            f"{integer(result.num_classes)}; the JSON file beside this report has all of them.</p>"
        )
    columns = ("images", "predicted", "precision %", "recall %", "F1 %")
    head = "<th>class</th>" + "".join(f'<th class="num">{name}</th>' for name in columns)
    rows = "".join(_class_row(score) for score in scores)
    return (
        f'{note}<div class="scroll tall"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _class_row(score: ClassScore) -> str:
    cells = "".join(
        f'<td class="num" data-value="{value}">{integer(value)}</td>'
        for value in (score.count, score.predicted)
    )
    for value in (score.precision, score.recall, score.f1):
        share = 0.0 if value is None else value
        cells += (
            f'<td class="num meter" data-value="{-1 if value is None else value}" '
            f'style="--share:{100 * share:.1f}%">{fraction(value)}</td>'
        )
    return f"<tr>{name_cell(score.name)}{cells}</tr>"


def cost_table(cost: Mapping[str, Any]) -> str:
    """Cost in readable units; unknown entries are shown as they are."""
    shape = cost.get("input_shape")
    at = f" at {' × '.join(str(n) for n in shape)}" if shape else ""
    batch = f", batches of {cost['batch_size']}" if "batch_size" in cost else ""
    known: dict[str, tuple[str, Callable[[Any], str]]] = {
        "params": ("Parameters", quantity),
        "macs": ("MACs of one image", lambda v: quantity(v) + at),
        "images_per_second": ("Inference", lambda v: f"{quantity(v)} images/s{batch}"),
        "train_seconds": ("Training time", duration),
        "peak_memory": ("Peak memory", lambda v: quantity(v, "B")),
        "device": ("Measured on", str),
    }
    rows = {name: text(cost[key]) for key, (name, text) in known.items() if key in cost}
    sparse = ("nonzero_params", "nonzero_macs")
    if sparse[0] in cost and cost[sparse[0]] != cost.get("params"):
        rows["Not zero"] = " parameters, ".join(quantity(cost[key]) for key in sparse) + (
            " MACs: what sparse code could do with; the figures above are what is computed"
        )
    others = set(cost) - set(known) - {"input_shape", "batch_size", *sparse}
    rows |= {key.replace("_", " ").capitalize(): plain(cost[key]) for key in sorted(others)}
    return facts_table(rows)


def facts_table(facts: Mapping[str, str]) -> str:
    """Names and values side by side; empty text without any."""
    rows = "".join(
        f'<div><dt>{esc(name)}</dt><dd dir="auto">{esc(value)}</dd></div>'
        for name, value in facts.items()
    )
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def recipe_table(recipe: Mapping[str, Any]) -> str:
    """The recipe by groups: plain fields first, then each nested group under its name."""
    top = {key: plain(value) for key, value in recipe.items() if not isinstance(value, Mapping)}
    parts = [facts_table(top)]
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            parts.append(f"<h3>{esc(key)}</h3>{facts_table(_flat(value))}")
    return "".join(parts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested fields with dotted names, as the command line takes them."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = "none" if isinstance(value, Mapping) else plain(value)
    return flat
