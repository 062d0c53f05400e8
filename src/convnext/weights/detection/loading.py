"""Detectors with weights from anywhere."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from convnext.models.mask_rcnn import MaskRCNN, MaskRCNNConfig
from convnext.weights.checkpoint import open_weights
from convnext.weights.detection.system import SYSTEM
from convnext.weights.preprocessing import DetectorPreprocessing
from convnext.weights.systems.kinds import DETECTOR
from convnext.weights.systems.loading import (
    SystemInfo,
    create_system,
    load_system,
    load_system_weights,
)

__all__ = [
    "DetectorInfo",
    "create_detector",
    "is_detector",
    "load_detector",
    "load_detector_weights",
]

DetectorInfo: TypeAlias = SystemInfo[DetectorPreprocessing]


def create_detector(
    detector: str | MaskRCNNConfig,
    *,
    pretrained: bool | str | Path = False,
    backbone_weights: bool | str | Path = False,
    body: Mapping[str, Any] | None = None,
    **changes: Any,
) -> MaskRCNN:
    """Build a detector, with new or with pretrained weights.

    Args:
        detector: "mask_rcnn_" or "cascade_mask_rcnn_" and the name of a network, which may be
            "timm:" and timm's name of one; or a configuration.
        pretrained: weights of a whole detector: ``True`` for the published ones, a tag, a file, a
            folder, a URL.
        backbone_weights: weights of the network below alone, see `load_backbone_weights`.
        body: fields of that network's configuration where they are not those of its name.
        **changes: fields of the configuration, such as ``num_classes=3``. With pretrained weights
            another number of classes starts new predictors.

    Raises:
        ValueError: unknown name or field, or weights that do not fit; says which tensors.
        OSError: a file cannot be read, or there is no network.
    """
    return create_system(
        SYSTEM,
        detector,
        pretrained=pretrained,
        backbone_weights=backbone_weights,
        body=body,
        changes=changes,
    )


def load_detector(
    source: str | Path,
    *,
    ema: bool = True,
    allow: Iterable[str] = (),
    **changes: Any,
) -> tuple[MaskRCNN, DetectorInfo]:
    """Load a detector of any known layout.

    Args:
        source: a file, a folder, a URL, or ``"DETECTOR"`` or ``"DETECTOR.TAG"`` of the catalogue.
        ema: take averaged weights where a checkpoint has both.
        allow: names, or shell-style patterns of names, of tensors that may be missing, unexpected
            or of another shape.
        **changes: fields of the configuration that are to differ from the file's: another
            ``num_classes`` starts new predictors, other ``in_chans`` adapt the stem,
            ``masks=False`` leaves the mask heads out.

    Returns:
        The detector, in training mode as every new module (call ``.eval()`` to detect), and what is
        known about the weights.

    Raises:
        ValueError: the file holds no detector of this package, or weights do not fit; says what.
        OSError: a file cannot be read, or there is no network.
    """
    return load_system(SYSTEM, source, ema=ema, allow=allow, changes=changes)


def load_detector_weights(
    model: MaskRCNN, source: str | Path | bool, *, ema: bool = True, allow: Iterable[str] = ()
) -> DetectorInfo:
    """Load the weights of a whole detector into one that is there.

    Args:
        model: it is changed.
        source: as in `load_detector`; also a tag of the detector, or True for its published
            weights.
        ema: as in `load_detector`.
        allow: as in `load_detector`. With `PREDICTORS` those stay new where the file has another
            number of classes.

    Raises:
        ValueError: the weights do not fit; says what differs.
        OSError: a file cannot be read, or there is no network.
    """
    return load_system_weights(SYSTEM, model, source, ema=ema, allow=allow)


def is_detector(path: str | Path) -> bool:
    """Whether a file or folder of weights holds a detector; not what kind of one.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no checkpoint of weights.
    """
    return open_weights(path).kind == DETECTOR
