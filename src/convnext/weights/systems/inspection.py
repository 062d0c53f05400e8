"""What a checkpoint of a system is, for people."""

from dataclasses import dataclass
from pathlib import Path

from convnext.weights.layouts.layout import STATISTICS
from convnext.weights.load_report import summary
from convnext.weights.systems.body import system_name
from convnext.weights.systems.checkpoint import SystemCheckpoint
from convnext.weights.systems.system import C, M, P, System, SystemConfig

__all__ = ["SystemInspection", "describe_system"]


@dataclass(frozen=True, kw_only=True)
class SystemInspection:
    """What a checkpoint file of a system is; ``str()`` prints it for people.

    Attributes:
        word: what kind of system it is.
        path: the file.
        num_bytes: its size.
        layout: layout of the names of its body.
        model: name of the system, None if none has these parts.
        backbone: name of the network below, None if no named one has these blocks.
        config: configuration that the tensors fit.
        parts: the parts above the network, in words.
        num_parameters: numbers in the tensors, statistics of batch norms not counted.
        dtypes: types of the tensors.
        wrappers: what was around the state dict, outermost first.
        extra: other entries that were beside it.
        unexpected: tensors that the layout does not know.
        dropped: tensors that no such system needs.
        labels: names of the classes, if stored.
        licence: licence, if stored.
    """

    word: str
    path: Path
    num_bytes: int
    layout: str
    model: str | None
    backbone: str | None
    config: SystemConfig
    parts: str
    num_parameters: int
    dtypes: tuple[str, ...]
    wrappers: tuple[str, ...]
    extra: tuple[str, ...]
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...]
    labels: tuple[str, ...] | None
    licence: str | None

    def __str__(self) -> str:
        lines = {
            "file": f"{self.path} ({self.num_bytes / 1e6:.1f} MB)",
            "layout": self.layout,
            "model": self.model or f"no named {self.word} has these parts",
            "backbone": self.backbone or "no named network has these blocks",
            "parts": self.parts,
            "parameters": f"{self.num_parameters:,} ({', '.join(self.dtypes)})",
            "classes": str(self.config.num_classes),
            "channels": str(self.config.in_chans),
            "wrappers": " > ".join(self.wrappers),
            "labels": summary(list(self.labels or ())),
            "licence": self.licence or "",
            "beside it": summary(list(self.extra)),
            "not known": summary(list(self.unexpected)),
            "not needed": summary(list(self.dropped)),
        }
        return "\n".join(f"{word:<11} {text}" for word, text in lines.items() if text)


def describe_system(
    system: System[C, M, P], checkpoint: SystemCheckpoint[C, P]
) -> SystemInspection:
    """The inspection of a checkpoint that was read already."""
    tensors = {k: t for k, t in checkpoint.state.items() if not k.endswith(STATISTICS)}
    return SystemInspection(
        word=system.kind.word,
        path=checkpoint.path,
        num_bytes=checkpoint.path.stat().st_size,
        layout=checkpoint.layout.title,
        model=system_name(system, checkpoint.config, checkpoint.body),
        backbone=checkpoint.name,
        config=checkpoint.config,
        parts=system.describe(checkpoint.config),
        num_parameters=sum(t.numel() for t in tensors.values()),
        dtypes=tuple(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()})),
        wrappers=checkpoint.wrappers,
        extra=checkpoint.extra,
        unexpected=tuple(checkpoint.converted.unexpected),
        dropped=tuple(checkpoint.converted.dropped),
        labels=checkpoint.card.labels,
        licence=checkpoint.card.licence,
    )
