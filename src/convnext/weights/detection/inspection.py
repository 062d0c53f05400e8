"""What a checkpoint of a detector is, for people."""

from dataclasses import dataclass
from pathlib import Path

from convnext.models.mask_rcnn import MaskRCNNConfig
from convnext.weights.detection.architecture import detector_name
from convnext.weights.detection.checkpoint import DetectorCheckpoint
from convnext.weights.layouts.layout import STATISTICS
from convnext.weights.load_report import summary

__all__ = ["DetectorInspection", "describe_detector"]


@dataclass(frozen=True, kw_only=True)
class DetectorInspection:
    """What a checkpoint file of a detector is; ``str()`` prints it for people.

    Attributes:
        path: the file.
        num_bytes: its size.
        layout: layout of the names of its body.
        model: name of the detector, None if none has these parts.
        backbone: name of the network below, None if no named one has these blocks.
        config: configuration that the tensors fit.
        num_parameters: numbers in the tensors, statistics of batch norms not counted.
        dtypes: types of the tensors.
        wrappers: what was around the state dict, outermost first.
        extra: other entries that were beside it.
        unexpected: tensors that the layout does not know.
        dropped: tensors that no detector needs.
        labels: names of the classes, if stored.
        licence: licence, if stored.
    """

    path: Path
    num_bytes: int
    layout: str
    model: str | None
    backbone: str | None
    config: MaskRCNNConfig
    num_parameters: int
    dtypes: tuple[str, ...]
    wrappers: tuple[str, ...]
    extra: tuple[str, ...]
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...]
    labels: tuple[str, ...] | None
    licence: str | None

    def __str__(self) -> str:
        c = self.config
        kind = "Cascade Mask R-CNN" if c.cascade else "Mask R-CNN"
        parts = [f"{kind} of {c.fpn_dim} channels", f"linear layers of {c.fc_dim}"]
        parts += [] if c.masks else ["no masks"]
        lines = {
            "file": f"{self.path} ({self.num_bytes / 1e6:.1f} MB)",
            "layout": self.layout,
            "model": self.model or "no named detector has these parts",
            "backbone": self.backbone or "no named network has these blocks",
            "detector": ", ".join(parts),
            "parameters": f"{self.num_parameters:,} ({', '.join(self.dtypes)})",
            "classes": str(c.num_classes),
            "channels": str(c.in_chans),
            "wrappers": " > ".join(self.wrappers),
            "labels": summary(list(self.labels or ())),
            "licence": self.licence or "",
            "beside it": summary(list(self.extra)),
            "not known": summary(list(self.unexpected)),
            "not needed": summary(list(self.dropped)),
        }
        return "\n".join(f"{word:<11} {text}" for word, text in lines.items() if text)


def describe_detector(checkpoint: DetectorCheckpoint) -> DetectorInspection:
    """The inspection of a checkpoint that was read already."""
    tensors = {k: t for k, t in checkpoint.state.items() if not k.endswith(STATISTICS)}
    return DetectorInspection(
        path=checkpoint.path,
        num_bytes=checkpoint.path.stat().st_size,
        layout=checkpoint.layout.title,
        model=detector_name(checkpoint.config, checkpoint.body),
        backbone=checkpoint.name,
        config=checkpoint.config,
        num_parameters=sum(t.numel() for t in tensors.values()),
        dtypes=tuple(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()})),
        wrappers=checkpoint.wrappers,
        extra=checkpoint.extra,
        unexpected=tuple(checkpoint.converted.unexpected),
        dropped=tuple(checkpoint.converted.dropped),
        labels=checkpoint.card.labels,
        licence=checkpoint.card.licence,
    )
