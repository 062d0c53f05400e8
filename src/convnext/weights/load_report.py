"""Loading a state dict into a network, with a report of every difference."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import Tensor, nn

Shape = tuple[int, ...]
_SHOWN = 6


@dataclass
class LoadReport:
    """What happened to each tensor.

    Attributes:
        layout: Layout that the file has.
        wrappers: What was around the state dict in the file.
        matched: Tensors that were loaded.
        missing: Tensors of the network that the file has not; they keep their new values.
        unexpected: Tensors of the file that the network has not.
        reshaped: Name -> shape in the file and shape of the network, where they only differ by
            how the layout stores the same numbers.
        mismatched: Name -> shape in the file and shape of the network, where they do not fit.
        dropped: Tensors of the file that no classifier needs (decoder of pre-training).
        adapted: What was changed on request: new head, other input channels.
    """

    layout: str = "convnext"
    wrappers: tuple[str, ...] = ()
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    mismatched: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        wrappers = f" in {' > '.join(self.wrappers)}" if self.wrappers else ""
        lines = [f"layout {self.layout}{wrappers}: {len(self.matched)} tensors matched"]
        for word in ("missing", "unexpected", "reshaped", "mismatched", "dropped", "adapted"):
            entries = getattr(self, word)
            if isinstance(entries, dict):
                entries = [f"{name} {a} -> {b}" for name, (a, b) in entries.items()]
            if entries:
                lines.append(f"  {word}: {summary(entries)}")
        return "\n".join(lines)


def summary(names: list[str]) -> str:
    """The first few names and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f", and {more} more" if more > 0 else "")


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    report: LoadReport,
    *,
    source: str,
    allow: Iterable[str] = (),
) -> None:
    """Copy tensors in our layout into a network and complete the report.

    Args:
        model: The network.
        state: Tensors under our names.
        report: Its lists are filled.
        source: Name of the file, for messages.
        allow: Names, or shell-style patterns of names, that may be missing, unexpected or of
            another shape. A tensor of another shape is then left as the network has it.

    Raises:
        ValueError: There is a difference whose name is not allowed; nothing is loaded then.
    """
    allow = tuple(allow)
    own = model.state_dict()
    fitting = {}
    for name, tensor in state.items():
        if name not in own:
            report.unexpected.append(name)
        elif tensor.shape != own[name].shape:
            report.mismatched[name] = (tuple(tensor.shape), tuple(own[name].shape))
        else:
            fitting[name] = tensor
    report.matched += fitting
    report.missing += [name for name in own if name not in state]
    problems = []
    for word in ("missing", "unexpected", "mismatched"):
        entries = getattr(report, word)
        bad = [name for name in entries if not any(fnmatchcase(name, p) for p in allow)]
        if isinstance(entries, dict):
            bad = [
                f"{name} {entries[name][0]} in the file, {entries[name][1]} here" for name in bad
            ]
        if bad:
            problems.append(f"{word}: {summary(bad)}")
    if problems:
        raise ValueError(
            f"{source} (layout {report.layout}) does not fit the network; {'; '.join(problems)}. "
            "Check the model's name with `convnext weights inspect`, or allow differences by name "
            f"(allow=[...]); {len(report.matched)} tensors would match"
        )
    model.load_state_dict(fitting, strict=False)
