"""config.json of segmentation networks in folders of other libraries: read, and written.

transformers: ``UperNetForSemanticSegmentation.from_pretrained(FOLDER)`` has the same function, in
training except for dropout, which it has not.

segmentation_models_pytorch (smp): ``smp.from_pretrained(FOLDER)``. It has no auxiliary head, its
sides must be multiples of 32, and it enlarges the logits fourfold with their corners aligned, where
the published networks align no corners: the weights are the same, the logits between the grid
points are not. With ``upsampling=1`` its logits at stride 4 are ours.
"""

import re
from pathlib import Path
from typing import Any

from convnext.models.upernet import UPerNetConfig
from convnext.weights.folder import timm_architecture, transformers_fields, transformers_labels
from convnext.weights.reading import read_json
from convnext.weights.segmentation.architecture import USUAL_SCALES
from convnext.weights.systems.layout import SMP
from convnext.weights.systems.system import Stored

__all__ = ["FOLDERS", "check_layout", "read_elsewhere"]

_STAGES = ("stage1", "stage2", "stage3", "stage4")
_UNNAMED = re.compile(r"LABEL_\d+")  # transformers' names of classes without a name


def read_elsewhere(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """What a folder of transformers says, as fields of a card; nothing of other folders.

    Args:
        folder: it may hold a preprocessor_config.json.
        values: of its config.json.

    Raises:
        KeyError, ValueError, TypeError, AttributeError: a value has an unusual form.
    """
    if values.get("model_type") != "upernet":
        return {}
    found: dict[str, Any] = {}
    labels = values.get("id2label", {})
    names = [str(labels[key]) for key in sorted(labels, key=int)]
    if not all(_UNNAMED.fullmatch(name) for name in names):
        found["labels"] = names
    if "pool_scales" in values:
        found["config"] = {"pool_scales": values["pool_scales"]}
    path = folder / "preprocessor_config.json"
    if path.is_file():
        cfg = read_json(path)
        found["preprocessing"] = {"mean": cfg["image_mean"], "std": cfg["image_std"]}
    return found


def _transformers(stored: Stored) -> dict[str, Any]:
    config, body = stored.config, stored.body
    auxiliary = {"auxiliary_channels": config["aux_dim"]} if config["aux_dim"] else {}
    return {
        "architectures": ["UperNetForSemanticSegmentation"],
        "model_type": "upernet",
        "backbone_config": {**transformers_fields(body), "out_features": list(_STAGES)},
        "hidden_size": config["head_dim"],
        "pool_scales": list(config["pool_scales"]),
        "use_auxiliary_head": bool(auxiliary),
        "auxiliary_in_channels": body.channels[2],
        **auxiliary,
        **transformers_labels(stored.labels, stored.num_classes),
    }


def _smp(stored: Stored) -> dict[str, Any]:
    name, arguments = timm_architecture(stored.body)
    return {
        "_model_class": "UPerNet",
        "encoder_name": f"tu-{name}",
        "encoder_depth": 5,
        "encoder_weights": None,
        "decoder_channels": stored.config["head_dim"],
        "decoder_use_norm": "batchnorm",
        "in_channels": stored.body.in_chans,
        "classes": stored.num_classes,
        "activation": None,
        "upsampling": 4,
        "aux_params": None,
        **{k: v for k, v in arguments.items() if k != "in_chans"},
    }


FOLDERS = {"transformers": _transformers, SMP: _smp}


def check_layout(config: UPerNetConfig, layout: str) -> None:
    """Refuse what smp builds otherwise.

    Raises:
        ValueError: the network pools to other scales.
    """
    if layout == SMP and config.pool_scales != USUAL_SCALES:
        raise ValueError(
            f"the layout smp pools to the scales {USUAL_SCALES} only, this network has "
            f"{config.pool_scales}; use 'convnext' or 'transformers'"
        )
