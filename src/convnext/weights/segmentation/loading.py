"""Segmentation networks with weights from anywhere."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from convnext.models.upernet import UPerNet, UPerNetConfig
from convnext.weights.checkpoint import open_weights
from convnext.weights.preprocessing import SegmenterPreprocessing
from convnext.weights.segmentation.system import SYSTEM
from convnext.weights.systems.body import build_system
from convnext.weights.systems.kinds import SEGMENTER
from convnext.weights.systems.loading import (
    SystemInfo,
    create_system,
    load_system,
    load_system_weights,
)

__all__ = [
    "SegmenterInfo",
    "build_segmenter",
    "create_segmenter",
    "is_segmenter",
    "load_segmenter",
    "load_segmenter_weights",
]

SegmenterInfo: TypeAlias = SystemInfo[SegmenterPreprocessing]


def build_segmenter(config: UPerNetConfig, body: Mapping[str, Any] | None = None) -> UPerNet:
    """A segmentation network with new weights, see `build_system`."""
    return build_system(SYSTEM, config, body)


def create_segmenter(
    segmenter: str | UPerNetConfig,
    *,
    pretrained: bool | str | Path = False,
    backbone_weights: bool | str | Path = False,
    body: Mapping[str, Any] | None = None,
    **changes: Any,
) -> UPerNet:
    """Build a segmentation network, with new or with pretrained weights.

    Args:
        segmenter: "upernet_" and the name of a network, which may be "timm:" and timm's name of
            one; or a configuration.
        pretrained: weights of a whole segmentation network: ``True`` for the published ones, a tag,
            a file, a folder, a URL.
        backbone_weights: weights of the network below alone, see `load_backbone_weights`.
        body: fields of that network's configuration where they are not those of its name.
        **changes: fields of the configuration, such as ``num_classes=3``. With pretrained weights
            another number of classes starts new last layers.

    Raises:
        ValueError: unknown name or field, or weights that do not fit; says which tensors.
        OSError: a file cannot be read, or there is no network.
    """
    return create_system(
        SYSTEM,
        segmenter,
        pretrained=pretrained,
        backbone_weights=backbone_weights,
        body=body,
        changes=changes,
    )


def load_segmenter(
    source: str | Path,
    *,
    ema: bool = True,
    allow: Iterable[str] = (),
    **changes: Any,
) -> tuple[UPerNet, SegmenterInfo]:
    """Load a segmentation network of any known layout.

    Args:
        source: a file, a folder (also of transformers or segmentation_models_pytorch), a URL, or
            ``"SEGMENTER"`` or ``"SEGMENTER.TAG"`` of the catalogue.
        ema: take averaged weights where a checkpoint has both.
        allow: names, or shell-style patterns of names, of tensors that may be missing, unexpected
            or of another shape.
        **changes: fields of the configuration that are to differ from the file's: another
            ``num_classes`` starts new last layers, other ``in_chans`` adapt the stem, ``aux_dim=0``
            leaves the auxiliary head out, and a width gives one to weights without it.

    Returns:
        The network, in training mode as every new module (call ``.eval()`` to predict), and what is
        known about the weights.

    Raises:
        ValueError: the file holds no segmentation network of this package, or weights do not fit;
            says what.
        OSError: a file cannot be read, or there is no network.
    """
    return load_system(SYSTEM, source, ema=ema, allow=allow, changes=changes)


def load_segmenter_weights(
    model: UPerNet, source: str | Path | bool, *, ema: bool = True, allow: Iterable[str] = ()
) -> SegmenterInfo:
    """Load the weights of a whole segmentation network into one that is there.

    Args:
        model: it is changed. If it has no auxiliary head, that of the file is left out.
        source: as in `load_segmenter`; also a tag of the network, or True for its published
            weights.
        ema: as in `load_segmenter`.
        allow: as in `load_segmenter`. With `PREDICTORS` those stay new where the file has another
            number of classes, with `AUXILIARY` that head where the file has none.

    Raises:
        ValueError: the weights do not fit; says what differs.
        OSError: a file cannot be read, or there is no network.
    """
    return load_system_weights(SYSTEM, model, source, ema=ema, allow=allow)


def is_segmenter(path: str | Path) -> bool:
    """Whether a file or folder of weights holds a segmentation network; not what kind of one.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no checkpoint of weights.
    """
    return open_weights(path).kind == SEGMENTER
