"""Checkpoint: everything that a file or folder says about a network, in our terms."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convnext.models.backbone import BackboneConfig
from convnext.models.convnext import ConvNeXtConfig
from convnext.models.large_kernel import RepLKNetConfig
from convnext.models.registry import is_model, model_config
from convnext.weights.architecture import described, infer_config, model_name, stored_fields
from convnext.weights.layouts.layout import Converted, Layout, StateDict
from convnext.weights.layouts.ours import OTHER_NETWORK
from convnext.weights.layouts.table import to_convnext
from convnext.weights.preprocessing import Preprocessing
from convnext.weights.reading import read_file, read_json
from convnext.weights.systems.kinds import Kind, kind_of
from convnext.weights.unwrapping import Unwrapped, unwrap

SECTION = "convnext"  # our part of config.json, and of the metadata of a safetensors file
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_PIL_FILTERS = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a file says about its weights besides their values.

    Attributes:
        name: Name of the network.
        config: Fields of its configuration.
        labels: Names of the classes, in the order of the outputs.
        descriptions: Longer words for labels.
        preprocessing: What images need.
        licence: Licence of the weights.
        extra: Anything else that was saved with them.
    """

    name: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    descriptions: dict[str, str] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    licence: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Card":
        """Read :meth:`to_dict` back; entries of later versions are ignored."""
        known = {f.name for f in dataclasses.fields(cls)}
        values = {k: v for k, v in values.items() if k in known}
        if values.get("labels") is not None:
            values["labels"] = tuple(map(str, values["labels"]))
        if values.get("preprocessing") is not None:
            values["preprocessing"] = Preprocessing(**values["preprocessing"])
        return cls(**values)


@dataclass(frozen=True)
class Checkpoint:
    """Weights in our layout, and where they come from.

    Attributes:
        path: The file that holds the tensors.
        layout: Layout that it had.
        wrappers: What was around the state dict.
        extra: Entries beside it.
        converted: Tensors under our names, with what was reshaped, dropped or not known.
        config: The network that they fit.
        name: Its name in the registry, or None.
        card: What the file says about itself.
    """

    path: Path
    layout: Layout
    wrappers: tuple[str, ...]
    extra: tuple[str, ...]
    converted: Converted
    config: BackboneConfig
    name: str | None
    card: Card

    @property
    def state(self) -> StateDict:
        """Tensors under our names."""
        return self.converted.state

    @property
    def is_encoder(self) -> bool:
        """Whether the final norm and the head are missing; a merged head may hold the norm."""
        return not {"norm.weight", "head.weight"} & set(self.state)


@dataclass(frozen=True)
class Opened:
    """A file of weights whose tensors have their own names still.

    Attributes:
        file: The file that holds the tensors.
        folder: Whether a folder was given, which may hold a card beside the file.
        content: All that is in the file.
        metadata: Of a safetensors file.
        unwrapped: The bare state dict.
    """

    file: Path
    folder: bool
    content: object
    metadata: dict[str, str]
    unwrapped: Unwrapped

    @property
    def kind(self) -> Kind | None:
        """The kind of system whose heads are among the tensors; None of a lone network."""
        return kind_of(self.unwrapped.state)


def open_weights(path: str | Path, *, ema: bool = True) -> Opened:
    """Open a file, or the file of a folder, and find the tensors in it.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no checkpoint of weights.
    """
    path = Path(path).expanduser()
    folder = path.is_dir()
    file = weight_file(path) if folder else path
    content, metadata = read_file(file)
    return Opened(file, folder, content, metadata, unwrap(content, file, ema=ema))


def read_checkpoint(path: str | Path, *, ema: bool = True) -> Checkpoint:
    """Read a checkpoint of any known layout.

    Args:
        path: A safetensors or PyTorch file; a folder of ours, of timm or transformers, or of a run.
        ema: Prefer averaged weights where the file has both.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no checkpoint of a ConvNeXt; the message names the file.
    """
    opened = open_weights(path, ema=ema)
    if kind := opened.kind:
        raise ValueError(
            f"{opened.file} holds a {kind.word}, not a network that classifies; load it by "
            f"convnext.{kind.loader}, or start a {kind.word} from it"
        )
    return to_checkpoint(opened)


def to_checkpoint(opened: "Opened") -> Checkpoint:
    """What an opened file says about a network, in our terms.

    Raises:
        ValueError: It is no checkpoint of a ConvNeXt; the message names the file.
    """
    file, unwrapped = opened.file, opened.unwrapped
    card = _folder_card(file.parent) if opened.folder else _file_card(file, opened.metadata)
    config: BackboneConfig
    name: str | None
    if card.name and is_model(card.name) and not told_by_tensors(model_config(card.name)):
        layout, converted, name = OTHER_NETWORK, Converted(dict(unwrapped.state)), card.name
        config = _stored(file, model_config(card.name), card.config)
    else:
        try:
            layout, converted = to_convnext(unwrapped.state)
            inferred = infer_config(converted.state)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        name = model_name(inferred)
        config = described(inferred, stored_fields(model_config(name)) if name else {})
        config = _with_stored(file, config, card.config)
    return Checkpoint(
        path=file,
        layout=layout,
        wrappers=unwrapped.wrappers,
        extra=unwrapped.extra,
        converted=converted,
        config=config,
        name=name,
        card=card,
    )


def is_convnext(config: BackboneConfig) -> bool:
    """Whether this is the family that other libraries know too."""
    return isinstance(config, ConvNeXtConfig) and config.plain


def told_by_tensors(config: BackboneConfig) -> bool:
    """Whether names and shapes of the tensors tell what network it is."""
    return isinstance(config, ConvNeXtConfig | RepLKNetConfig)


def _stored(file: Path, usual: BackboneConfig, stored: dict[str, Any]) -> BackboneConfig:
    """The configuration written beside the weights of a network that only this package has."""
    try:
        return dataclasses.replace(usual, **stored)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: the configuration stored with it is wrong: {error}") from error


def weight_file(folder: Path) -> Path:
    """The file with the weights in a folder, or in the folder ``weights`` of a run.

    Raises:
        FileNotFoundError: There is none.
    """
    for place in (folder, folder / "weights"):
        for name in WEIGHT_FILES:
            if (place / name).is_file():
                return place / name
    raise FileNotFoundError(
        f"{folder} holds no {' or '.join(WEIGHT_FILES)}; give a checkpoint file, a folder written "
        "by save_pretrained, or the folder of a finished run"
    )


def _with_stored(file: Path, config: BackboneConfig, stored: dict[str, Any]) -> BackboneConfig:
    """Add what shapes cannot tell: stem stride 2, start values for new parts, words for widths."""
    changes: dict[str, Any] = {k: stored[k] for k in stored if k == "head_init_scale"}
    try:
        if isinstance(config, ConvNeXtConfig):
            if config.layer_scale_init_value and stored.get("layer_scale_init_value"):
                changes["layer_scale_init_value"] = stored["layer_scale_init_value"]
            stride = stored.get("stem_stride", config.stem_stride)
            if stride not in {4: (2, 4)}.get(config.stem_stride, (config.stem_stride,)):
                raise ValueError(f"stem_stride {stride} does not fit the stem's kernel")
            changes["stem_stride"] = stride
        return described(dataclasses.replace(config, **changes), stored)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: the configuration stored with it is wrong: {error}") from error


def _file_card(file: Path, metadata: dict[str, str]) -> Card:
    if SECTION not in metadata:
        return Card()
    try:
        return Card.from_dict(json.loads(metadata[SECTION]))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: its metadata are damaged: {error}") from error


def _folder_card(folder: Path) -> Card:
    path = folder / "config.json"
    if not path.is_file():
        return Card()
    values = read_json(path)
    try:
        if "id2label" in values:
            return _transformers_card(folder, values)
        return _timm_card(values)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _timm_card(values: dict[str, Any]) -> Card:
    """The card of a folder of timm, which ours are too."""
    names = values.get("label_names")
    cfg = values.get("pretrained_cfg", {})
    described = values.get("label_descriptions")
    found: dict[str, Any] = {
        "labels": names,
        "descriptions": described if isinstance(described, dict) else {},
        "licence": cfg.get("license"),
    }
    if "mean" in cfg and "input_size" in cfg:
        found["preprocessing"] = {
            "image_size": cfg["input_size"][-1],
            "mean": cfg["mean"],
            "std": cfg["std"],
            "interpolation": cfg.get("interpolation", "bicubic"),
            "crop_pct": cfg.get("crop_pct", 0.875),
            "crop_mode": cfg.get("crop_mode") or "center",
        }
    # Our own section knows more, but labels that someone edited by hand count.
    ours = {k: v for k, v in values.get(SECTION, {}).items() if v is not None}
    return Card.from_dict({**found, **ours})


def _transformers_card(folder: Path, values: dict[str, Any]) -> Card:
    labels = values["id2label"]
    found: dict[str, Any] = {"labels": [labels[key] for key in sorted(labels, key=int)]}
    path = folder / "preprocessor_config.json"
    if path.is_file():
        cfg = read_json(path)
        size = cfg["size"].get("shortest_edge", cfg["size"].get("height"))
        found["preprocessing"] = {
            "image_size": size,
            "mean": cfg["image_mean"],
            "std": cfg["image_std"],
            "interpolation": _PIL_FILTERS.get(cfg.get("resample", 3), "bicubic"),
            "crop_pct": cfg.get("crop_pct", 0.875),
            "crop_mode": "auto",
        }
    return Card.from_dict(found)
