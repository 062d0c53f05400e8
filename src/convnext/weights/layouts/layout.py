"""The mechanism of key tables: rows that translate the names of tensors both ways.

A row pairs our name of a tensor with another layout's. In both, ``{i}`` is the stage, ``{j}`` the
block, ``{2i}`` and ``{2i+1}`` numbers computed from the stage, ``*`` is weight or bias, and ``**``
any tensor of a batch norm.
Shapes are brought to ours by what the name says (vectors are 1-D, pointwise weights 2-D), so that
1x1 convolutions and (1, 1, 1, C) vectors need no rule of their own.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

StateDict = dict[str, Tensor]

_FIELD = re.compile(r"\{(2?)([ij])(\+1)?\}|(\*\*?)")
_LEAF = "leaf"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # buffers of a batch norm
_LEAVES = {"*": "weight|bias", "**": "|".join(("weight", "bias", *STATISTICS))}


@dataclass(frozen=True)
class Row:
    """One line of a key table.

    Attributes:
        ours: Our name.
        theirs: The other layout's name. A name that ends in ``.kernel`` is a sparse kernel.
        shape: Shape in which the other layout stores the tensor, -1 for the free axis; None if
            as ours.
    """

    ours: str
    theirs: str
    shape: tuple[int, ...] | None = None


@dataclass
class Converted:
    """Result of a translation.

    Attributes:
        state: Tensors under the new names.
        reshaped: Old name -> (shape before, shape after), where the shape changed.
        dropped: Tensors that the layout is known to hold but that no classifier needs.
        unexpected: Names that the table does not know.
        done: What had to be computed besides, for the report.
    """

    state: StateDict = field(default_factory=dict)
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """A way of naming the tensors of a network.

    Attributes:
        name: Word of the command line; several tables may share one.
        title: What it is, for people.
        rows: The key table; the first row that fits counts.
        dropped: Beginnings of names that are not part of the classifier.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    dropped: tuple[str, ...] = ()

    def ours(self, key: str) -> str | None:
        """Our name of their key, or None."""
        return _translate(self.rows, key, to_ours=True)[0]

    def read(self, state: Mapping[str, Tensor]) -> Converted:
        """Translate to our names and shapes.

        Raises:
            ValueError: A tensor has a shape that cannot be ours.
        """
        result = Converted()
        for key, tensor in state.items():
            name = self.ours(key)
            if name is None:
                known = key.startswith(self.dropped) if self.dropped else False
                (result.dropped if known else result.unexpected).append(key)
                continue
            if name in result.state:
                raise ValueError(f"two tensors are named {name} in our layout, one is {key}")
            ours = _our_shape(key, name, tensor)
            if ours.shape != tensor.shape:
                result.reshaped[key] = (tuple(tensor.shape), tuple(ours.shape))
            result.state[name] = ours
        return result

    def write(self, state: Mapping[str, Tensor]) -> StateDict:
        """Translate our names to this layout's.

        Raises:
            ValueError: This layout has no name for a tensor.
        """
        result = {}
        for name, tensor in state.items():
            key, row = _translate(self.rows, name, to_ours=False)
            if key is None or row is None:
                raise ValueError(f"the layout {self.title} has no place for {name}")
            if key.endswith(".kernel"):
                tensor = _to_kernel(tensor)
            if row.shape is not None:
                tensor = tensor.reshape(row.shape)
            result[key] = tensor.contiguous()
        return result


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts, end = [], 0
    for n, found in enumerate(_FIELD.finditer(template)):
        parts.append(re.escape(template[end : found.start()]))
        leaves = _LEAVES.get(found[4] or "")
        parts.append(f"(?P<{_LEAF}>{leaves})" if leaves else rf"(?P<f{n}>0|[1-9]\d*)")
        end = found.end()
    return re.compile("".join(parts) + re.escape(template[end:]) + r"\Z")


@cache
def _numbers(template: str) -> tuple[tuple[str, str, int, int], ...]:
    """Of each number in a template: group, letter, factor and offset."""
    return tuple(
        (f"f{n}", found[2], 2 if found[1] else 1, 1 if found[3] else 0)
        for n, found in enumerate(_FIELD.finditer(template))
        if not found[4]
    )


def _match(template: str, key: str) -> dict[str, str] | None:
    """Values of the fields if the key fits the template."""
    found = _pattern(template).match(key)
    if found is None:
        return None
    values = {"leaf": found[_LEAF]} if _LEAF in found.groupdict() else {}
    for group, letter, factor, offset in _numbers(template):
        number, rest = divmod(int(found[group]) - offset, factor)
        if rest or number < 0:
            return None
        values[letter] = str(number)
    return values


def _fill(template: str, values: Mapping[str, str]) -> str:
    def number(found: re.Match[str]) -> str:
        if found[4]:
            return values["leaf"]
        return str(int(values[found[2]]) * (2 if found[1] else 1) + (1 if found[3] else 0))

    return _FIELD.sub(number, template)


def _translate(
    rows: tuple[Row, ...], key: str, *, to_ours: bool
) -> tuple[str, Row] | tuple[None, None]:
    for row in rows:
        source, target = (row.theirs, row.ours) if to_ours else (row.ours, row.theirs)
        values = _match(source, key)
        if values is not None:
            return _fill(target, values), row
    return None, None


def conv_norm_rows(ours: str, theirs: str) -> tuple[Row, Row]:
    """Rows of a convolution and its batch norm, which elsewhere is called ``bn``."""
    return Row(f"{ours}.conv.*", f"{theirs}.conv.*"), Row(f"{ours}.norm.**", f"{theirs}.bn.**")


def rank(name: str) -> int:
    """Axes of one of our tensors: 4 convolution, 2 linear, 0 a counter, 1 everything else."""
    if name.endswith(".num_batches_tracked"):
        return 0
    if not name.endswith(".weight"):
        return 1
    module = name.split(".")[-2]
    ranks = {"conv": 4, "dwconv": 4, "conv_seg": 4, "pwconv1": 2, "pwconv2": 2, "head": 2}
    return ranks.get(module, 1)


def _our_shape(key: str, name: str, tensor: Tensor) -> Tensor:
    if key.endswith(".kernel"):
        tensor = _from_kernel(key, tensor)
    want = rank(name)
    if tensor.ndim == want:
        return tensor
    if want == 1 and tensor.ndim > 1 and tensor.numel() == max(tensor.shape):
        return tensor.flatten()
    if want == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    raise ValueError(f"{key} has shape {tuple(tensor.shape)}; {name} needs {want} axes")


def _from_kernel(key: str, kernel: Tensor) -> Tensor:
    """(k², in, out) or, depthwise, (k², C) to (out, in, k, k); the row index runs fastest."""
    side = math.isqrt(kernel.shape[0]) if kernel.ndim in (2, 3) else 0
    if side == 0 or side * side != kernel.shape[0]:
        raise ValueError(f"{key} has shape {tuple(kernel.shape)}; expected (k*k, in, out)")
    if kernel.ndim == 2:
        kernel = kernel[:, None, :]
    out = kernel.permute(2, 1, 0).reshape(kernel.shape[2], kernel.shape[1], side, side)
    return out.transpose(2, 3).contiguous()


def _to_kernel(weight: Tensor) -> Tensor:
    """The inverse of :func:`_from_kernel`; weights with one input channel are depthwise."""
    flat = weight.transpose(2, 3).flatten(2).permute(2, 1, 0)  # k², in, out
    return torch.squeeze(flat, 1) if weight.shape[1] == 1 else flat
