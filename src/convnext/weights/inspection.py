"""inspect: say what a checkpoint is."""

from dataclasses import dataclass
from pathlib import Path

from convnext.models.backbone import BackboneConfig
from convnext.models.convnext import ConvNeXtConfig
from convnext.models.large_kernel import RepLKNetConfig
from convnext.weights.checkpoint import Checkpoint, is_convnext, open_weights, to_checkpoint
from convnext.weights.layouts.layout import STATISTICS
from convnext.weights.load_report import summary
from convnext.weights.sources import resolve
from convnext.weights.systems.checkpoint import to_system_checkpoint
from convnext.weights.systems.inspection import SystemInspection, describe_system
from convnext.weights.systems.system import system_of

NOTABLE_ZEROS = 0.01  # share of all parameters from which on a network counts as sparse


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a checkpoint file is; ``str()`` prints it for people.

    Attributes:
        path: The file.
        num_bytes: Its size.
        layout: Layout of its tensor names.
        model: Name of the network, None if no named one has these blocks.
        config: Configuration that the tensors fit.
        num_parameters: Numbers in the tensors, statistics of batch norms not counted.
        num_zeros: Zeros among the weights of convolutions and linear layers.
        num_classes: Outputs of the head; 0 if it has none.
        in_chans: Input channels.
        has_norm: Whether the final norm is there (encoders of pre-training have none).
        dtypes: Types of the tensors.
        wrappers: What was around the state dict, outermost first.
        extra: Other entries that were beside it.
        unexpected: Tensors that the layout does not know.
        dropped: Tensors that no classifier needs (decoder of pre-training).
        labels: Names of the classes, if stored.
        licence: Licence, if stored.
    """

    path: Path
    num_bytes: int
    layout: str
    model: str | None
    config: BackboneConfig
    num_parameters: int
    num_zeros: int
    num_classes: int
    in_chans: int
    has_norm: bool
    dtypes: tuple[str, ...]
    wrappers: tuple[str, ...]
    extra: tuple[str, ...]
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...]
    labels: tuple[str, ...] | None
    licence: str | None

    def __str__(self) -> str:
        c = self.config
        parts = [f"depths {c.depths}", f"dims {c.channels}"]
        if isinstance(c, ConvNeXtConfig):
            parts += [word for word, there in (("GRN", c.grn), ("isotropic", c.isotropic)) if there]
            parts += ["layer scale"] if c.layer_scale_init_value else []
            parts += [f"stem stride {c.stem_stride}"] if not c.isotropic else []
        parts += _kernels(c)
        head = f"{self.num_classes}" if self.num_classes else "none (no head)"
        lines = {
            "file": f"{self.path} ({self.num_bytes / 1e6:.1f} MB)",
            "layout": self.layout,
            "model": self.model or "no named network has these blocks",
            "network": ", ".join(parts),
            "parameters": self._parameters(),
            "classes": head,
            "channels": str(self.in_chans),
            "final norm": "" if self.has_norm else "none (an encoder only)",
            "wrappers": " > ".join(self.wrappers),
            "labels": summary(list(self.labels or ())),
            "licence": self.licence or "",
            "beside it": summary(list(self.extra)),
            "not known": summary(list(self.unexpected)),
            "not needed": summary(list(self.dropped)),
        }
        return "\n".join(f"{word:<11} {text}" for word, text in lines.items() if text)

    def _parameters(self) -> str:
        total, zeros = self.num_parameters, self.num_zeros
        text = f"{total:,} ({', '.join(self.dtypes)})"
        if zeros <= NOTABLE_ZEROS * total:
            return text
        return f"{text}; {_short(total - zeros)} non-zero of {_short(total)}"


def _kernels(config: BackboneConfig) -> list[str]:
    """Words for depthwise kernels that are not 7x7, and for their branches."""
    if is_convnext(config) or not isinstance(config, ConvNeXtConfig | RepLKNetConfig):
        return []
    small, strips = config.small_kernel, isinstance(config, ConvNeXtConfig) and config.decomposed
    parts = [f"kernels {config.kernel_sizes}", f"in strips {small} wide" if strips else "square"]
    if small and not config.merged:
        parts += [f"small kernel {small}"] if small < max(config.kernel_sizes) else ["with norms"]
    return parts + (["merged"] if config.merged else [])


def _short(number: int) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number:,}"


def inspect(path: str | Path, *, ema: bool = True) -> Inspection | SystemInspection:
    """Say what a checkpoint is: layout, network, classes, channels, wrappers, types, extras.

    Of a detector or a segmentation network what it is made of.

    Args:
        path: A file, folder or URL, or ``"MODEL.TAG"`` of the catalogue.
        ema: Look at averaged weights where the file has both.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no checkpoint of a ConvNeXt.
    """
    opened = open_weights(resolve(path).path, ema=ema)
    if opened.kind is not None:
        system = system_of(opened.kind)
        return describe_system(system, to_system_checkpoint(system, opened))
    return describe(to_checkpoint(opened))


def describe(checkpoint: Checkpoint) -> Inspection:
    """The inspection of a checkpoint that was read already."""
    state = {
        name: tensor for name, tensor in checkpoint.state.items() if not name.endswith(STATISTICS)
    }
    weights = [tensor for tensor in state.values() if tensor.ndim > 1]
    return Inspection(
        path=checkpoint.path,
        num_bytes=checkpoint.path.stat().st_size,
        layout=checkpoint.layout.title,
        model=checkpoint.name,
        config=checkpoint.config,
        num_parameters=sum(tensor.numel() for tensor in state.values()),
        num_zeros=sum(tensor.numel() - int(tensor.count_nonzero()) for tensor in weights),
        num_classes=checkpoint.config.num_classes,
        in_chans=checkpoint.config.in_chans,
        has_norm=not checkpoint.is_encoder,
        dtypes=tuple(sorted({str(t.dtype).removeprefix("torch.") for t in state.values()})),
        wrappers=checkpoint.wrappers,
        extra=checkpoint.extra,
        unexpected=tuple(checkpoint.converted.unexpected),
        dropped=tuple(checkpoint.converted.dropped),
        labels=checkpoint.card.labels,
        licence=checkpoint.card.licence,
    )
