"""Folders of weights that this package, timm and transformers all load.

``model.safetensors`` holds the tensors under timm's names, ``config.json`` what timm and
transformers want to know, and a section ``convnext`` with what only we need. Networks that they
cannot build (isotropic, another stem stride, number of stages or depthwise kernel) are stored under
our own names, and the architecture gets a name that timm refuses instead of loading it wrongly.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor

import convnext
from convnext.models.backbone import BackboneConfig
from convnext.models.convnext import ConvNeXtConfig
from convnext.weights.architecture import model_name, stored_fields
from convnext.weights.atomic import safetensors_writer, text_writer, write_atomically
from convnext.weights.checkpoint import SECTION, Card, is_convnext
from convnext.weights.layouts.ours import OURS
from convnext.weights.layouts.table import to_timm_shapes
from convnext.weights.layouts.timm import TIMM
from convnext.weights.preprocessing import Preprocessing

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def loads_elsewhere(config: BackboneConfig) -> TypeGuard[ConvNeXtConfig]:
    """Whether timm and transformers can build a network of this configuration."""
    if not isinstance(config, ConvNeXtConfig) or not is_convnext(config):
        return False
    return not config.isotropic and config.stem_stride == 4 and len(config.depths) == 4


def timm_architecture(config: BackboneConfig) -> tuple[str, dict[str, Any]]:
    """Timm's name of a network and the arguments that it needs besides.

    ``num_classes`` is never among the arguments: transformers would get it twice.
    """
    if not loads_elsewhere(config):
        return f"{model_name(config) or 'network'}_only_in_convnext", {}
    # transformers drops arguments that are None, so layer scale can only be absent by starting
    # from a V2 network, which has none.
    scaled = config.layer_scale_init_value > 0
    base = config if scaled else dataclasses.replace(config, grn=True)
    name = model_name(base)
    args: dict[str, Any] = {}
    if name is None:
        name = "convnextv2_tiny" if base.grn else "convnext_tiny"
        args = {"depths": list(config.depths), "dims": list(config.channels)}
    if base.grn and not config.grn:
        args["use_grn"] = False
    if config.grn and scaled:
        args["ls_init_value"] = config.layer_scale_init_value
    if config.in_chans != 3:
        args["in_chans"] = config.in_chans
    return name, args


def transformers_fields(config: ConvNeXtConfig) -> dict[str, Any]:
    """What transformers' configuration of a ConvNext or ConvNextV2 holds."""
    values: dict[str, Any] = {
        "model_type": "convnextv2" if config.grn else "convnext",
        "depths": list(config.depths),
        "hidden_sizes": list(config.channels),
        "num_stages": len(config.depths),
        "num_channels": config.in_chans,
        "patch_size": config.stem_stride,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "drop_path_rate": 0.0,
    }
    if not config.grn:
        values["layer_scale_init_value"] = config.layer_scale_init_value
    return values


def transformers_labels(labels: Sequence[str] | None, num_classes: int) -> dict[str, Any]:
    """Names of the classes as transformers' configurations hold them, with its own for unknown."""
    names = labels or [f"LABEL_{i}" for i in range(num_classes)]
    return {
        "id2label": {str(i): label for i, label in enumerate(names)},
        "label2id": {label: i for i, label in enumerate(names)},
    }


def write_folder(
    directory: Path, state: Mapping[str, Tensor], config: BackboneConfig, card: Card
) -> None:
    """Write tensors in our layout and their card; each file is complete or absent.

    Raises:
        OSError: No space or no permission; nothing half-written is left.
        ValueError: ``card.extra`` cannot be written as JSON.
    """
    architecture, args = timm_architecture(config)
    fields = stored_fields(config)
    if loads_elsewhere(config):
        tensors = to_timm_shapes(TIMM.write(state), architecture)
    elif isinstance(config, ConvNeXtConfig):
        tensors = OURS.write(state)
    else:
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        fields |= {"num_classes": config.num_classes, "in_chans": config.in_chans}
    section = {"version": convnext.__version__, **card.to_dict(), "config": fields}
    values = _config_values(architecture, args, config, card)
    # Labels stand outside our section, where timm and transformers look for them.
    own = {k: v for k, v in section.items() if k not in ("labels", "descriptions")}
    try:
        text = json.dumps({**values, SECTION: own}, indent=2, ensure_ascii=False, allow_nan=False)
        metadata = {"format": "pt", SECTION: json.dumps(section)}
    except (TypeError, ValueError) as error:
        raise ValueError(f"extra cannot be written as JSON: {error}") from error
    write_atomically(
        {
            directory / WEIGHTS: safetensors_writer(tensors, metadata),
            directory / CONFIG: text_writer(text + "\n"),
        }
    )


def _config_values(
    architecture: str, args: dict[str, Any], config: BackboneConfig, card: Card
) -> dict[str, Any]:
    chans = config.in_chans
    usual = Preprocessing()
    pre = card.preprocessing or Preprocessing(
        mean=usual.mean if chans == 3 else (sum(usual.mean) / 3,) * chans,
        std=usual.std if chans == 3 else (sum(usual.std) / 3,) * chans,
    )
    pretrained_cfg = {
        "tag": "convnext",
        "custom_load": False,
        "input_size": [chans, pre.image_size, pre.image_size],
        "fixed_input_size": False,
        "interpolation": pre.interpolation,
        "crop_pct": pre.crop_pct,
        "crop_mode": "squash" if pre.squashes else "center",
        "mean": list(pre.mean),
        "std": list(pre.std),
        "num_classes": config.num_classes,
        "first_conv": "stem.0",
        "classifier": "head.fc",
    }
    if card.licence:
        pretrained_cfg["license"] = card.licence
    values: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": config.num_classes,
        "num_features": config.channels[-1],
        "global_pool": "avg",
        "model_args": args,
        "pretrained_cfg": pretrained_cfg,
    }
    if card.labels is not None:
        values["label_names"] = list(card.labels)
    if card.descriptions:
        values["label_descriptions"] = card.descriptions
    return values
