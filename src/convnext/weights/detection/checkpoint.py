"""What a file or folder says about a detector, in our terms."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convnext.models.backbone import BackboneConfig
from convnext.models.mask_rcnn import MaskRCNNConfig
from convnext.models.registry import is_model, model_config
from convnext.weights.architecture import (
    base_name,
    described,
    infer_config,
    model_name,
    stored_fields,
)
from convnext.weights.checkpoint import SECTION, Opened, open_weights, told_by_tensors
from convnext.weights.detection.architecture import infer_detector
from convnext.weights.detection.layout import BODY, split, to_detector
from convnext.weights.layouts.layout import Converted, Layout, StateDict
from convnext.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from convnext.weights.reading import read_json
from convnext.weights.timm_backbone import TIMM

__all__ = [
    "DetectorCard",
    "DetectorCheckpoint",
    "DetectorPreprocessing",
    "is_detector",
    "to_detector_checkpoint",
]

DETECTION = "detection"  # the task, as the section of config.json says it


@dataclass(frozen=True, kw_only=True)
class DetectorPreprocessing:
    """What images need before a detector sees them.

    They are resized, keeping their shape, so that the short side has `min_size` pixels, or the long
    one `max_size` if that is smaller; bilinear, without antialiasing.

    Attributes:
        min_size: short side in pixels.
        max_size: limit of the long side in pixels.
        mean: subtracted from each channel, in units of pixel value / 255.
        std: divides each channel, same units.

    Raises:
        ValueError: a value is out of its range.

    Source: ConvNeXt appendix A.3 and the published test configuration.
    """

    min_size: int = 800
    max_size: int = 1333
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))  # JSON has lists only
        object.__setattr__(self, "std", tuple(self.std))
        if not 1 <= self.min_size <= self.max_size:
            raise ValueError(
                f"min_size {self.min_size} must be at least 1 and at most max_size {self.max_size}"
            )
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean {self.mean} and std {self.std} need one value per channel each")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive")


@dataclass(frozen=True, kw_only=True)
class DetectorCard:
    """What a file says about a detector besides the values of its weights.

    Attributes:
        name: name of the detector.
        config: fields of its configuration.
        body: fields of its body's configuration.
        labels: names of the classes, in the order of the labels.
        preprocessing: what images need.
        licence: licence of the weights.
        extra: anything else that was saved with them.
    """

    name: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    preprocessing: DetectorPreprocessing | None = None
    licence: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"task": DETECTION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DetectorCard":
        """Read :meth:`to_dict` back; entries of later versions are ignored."""
        known = {f.name for f in dataclasses.fields(cls)}
        found = {k: v for k, v in values.items() if k in known}
        if found.get("labels") is not None:
            found["labels"] = tuple(map(str, found["labels"]))
        if found.get("preprocessing") is not None:
            found["preprocessing"] = DetectorPreprocessing(**found["preprocessing"])
        return cls(**found)


@dataclass(frozen=True)
class DetectorCheckpoint:
    """Weights of a detector under our names, and where they come from.

    Attributes:
        path: the file that holds the tensors.
        layout: layout that its body had.
        wrappers: what was around the state dict.
        extra: entries beside it.
        converted: tensors under our names, with what was reshaped, dropped or not known.
        config: the detector that they fit.
        body: configuration of its body; None if it is a network of timm.
        name: name of the body in the registry, or None.
        card: what the file says about itself.
    """

    path: Path
    layout: Layout
    wrappers: tuple[str, ...]
    extra: tuple[str, ...]
    converted: Converted
    config: MaskRCNNConfig
    body: BackboneConfig | None
    name: str | None
    card: DetectorCard

    @property
    def state(self) -> StateDict:
        """Tensors under our names."""
        return self.converted.state

    @property
    def body_fields(self) -> dict[str, Any]:
        """What `build_detector` needs to know about the body besides its name."""
        return dict(stored_fields(self.body)) if self.body is not None else {}


def is_detector(path: str | Path) -> bool:
    """Whether a file or folder of weights holds a detector; not what kind of one.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no checkpoint of weights.
    """
    return open_weights(path).is_detector


def to_detector_checkpoint(opened: Opened) -> DetectorCheckpoint:
    """What an opened file says about a detector, in our terms.

    Raises:
        ValueError: it is no detector of this package; the message names the file.
    """
    file = opened.file
    if not opened.is_detector:
        raise ValueError(
            f"{file} holds no detector: it has neither rpn_head nor roi_head. To start a detector "
            "from a classifier or an encoder, use load_backbone_weights (--pretrained)"
        )
    card = _card(opened)
    try:
        backbone = str(card.config.get("backbone", ""))
        told = not backbone.startswith(TIMM) and (
            not is_model(backbone) or told_by_tensors(model_config(backbone))
        )
        layout, converted = to_detector(split(opened.unwrapped.state), known_body=told)
        body = _told(converted.state, card) if told else _stored(backbone, card)
        name = (model_name(body) if body is not None else None) if told else backbone
        config = infer_detector(
            converted.state,
            backbone=name or _built_from(body, backbone),
            in_chans=body.in_chans if body is not None else _stored_chans(card),
            stored=card.config,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error
    return DetectorCheckpoint(
        path=file,
        layout=layout,
        wrappers=opened.unwrapped.wrappers,
        extra=opened.unwrapped.extra,
        converted=converted,
        config=config,
        body=body,
        name=name,
        card=card,
    )


def _told(state: StateDict, card: DetectorCard) -> BackboneConfig:
    """Configuration of a body that its tensors tell, in the words of its card."""
    body = {k.removeprefix(BODY): v for k, v in state.items() if k.startswith(BODY)}
    inferred = infer_config(body)
    name = model_name(inferred)
    usual = described(inferred, stored_fields(model_config(name)) if name else {})
    starts = ("head_init_scale", "layer_scale_init_value")
    changes = {k: v for k, v in card.body.items() if k in starts and bool(getattr(usual, k, None))}
    return described(dataclasses.replace(usual, **changes), card.body)


def _stored(name: str, card: DetectorCard) -> BackboneConfig | None:
    """Configuration of a body that only its card tells; None of a network of timm."""
    if name.startswith(TIMM):
        return None
    usual: BackboneConfig = model_config(name)
    return dataclasses.replace(usual, **card.body, in_chans=_stored_chans(card))


def _stored_chans(card: DetectorCard) -> int:
    return int(card.config.get("in_chans", 3))


def _built_from(body: BackboneConfig | None, stored: str) -> str:
    """Name of a network of the same kind, for a body that has no name of its own."""
    assert body is not None, "networks of timm have a name"
    same_kind = is_model(stored) and type(model_config(stored)) is type(body)
    return stored if same_kind else base_name(body)


def _card(opened: Opened) -> DetectorCard:
    """The card of a folder, of a safetensors file, or what mmcv wrote beside the weights."""
    path = opened.file.parent / "config.json"
    try:
        if opened.folder and path.is_file():
            values = read_json(path)
            section = values.get(SECTION, {})
            labels = values.get("label_names", section.get("labels"))
            return DetectorCard.from_dict({**section, "labels": labels})
        path = opened.file
        if SECTION in opened.metadata:
            return DetectorCard.from_dict(json.loads(opened.metadata[SECTION]))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return DetectorCard(labels=_classes_of(opened.content))


def _classes_of(content: object) -> tuple[str, ...] | None:
    """Names of classes in the `meta` of OpenMMLab's files, of which there are several forms."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping):
        return None
    inside = meta.get("dataset_meta")
    for place in (inside if isinstance(inside, Mapping) else {}, meta):
        names = place.get("classes", place.get("CLASSES"))
        if isinstance(names, list | tuple) and names:
            return tuple(map(str, names))
    return None
