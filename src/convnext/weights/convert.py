"""convert: rewrite a checkpoint in another layout."""

import json
import logging
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from convnext.models.backbone import BackboneConfig
from convnext.models.convnext import ConvNeXtConfig
from convnext.weights.architecture import stored_fields
from convnext.weights.atomic import (
    safetensors_writer,
    text_writer,
    weights_writer,
    write_atomically,
)
from convnext.weights.checkpoint import (
    SECTION,
    Card,
    Checkpoint,
    open_weights,
    to_checkpoint,
    told_by_tensors,
)
from convnext.weights.folder import (
    CONFIG,
    WEIGHTS,
    loads_elsewhere,
    transformers_fields,
    transformers_labels,
    write_folder,
)
from convnext.weights.layouts.layout import Converted
from convnext.weights.layouts.table import from_convnext
from convnext.weights.load_report import summary
from convnext.weights.sources import resolve
from convnext.weights.systems.checkpoint import to_system_checkpoint
from convnext.weights.systems.convert import write_system
from convnext.weights.systems.system import system_of

logger = logging.getLogger(__name__)

WRAPPERS = {"official": "model", "openmmlab": "state_dict"}  # in PyTorch files
FOLDER_LAYOUTS = ("convnext", "timm", "transformers")


def convert(
    source: str | Path,
    target: str | Path,
    layout: str,
    *,
    ema: bool = True,
    allow: Iterable[str] = (),
) -> Path:
    """Rewrite a checkpoint in another layout; the numbers stay bit for bit the same.

    Reading a re-parameterised RepLKNet folds the norms that it still has: that is computed.

    Args:
        source: A file, folder or URL, or ``"MODEL.TAG"`` of the catalogue.
        target: A file ``.safetensors``, ``.pth``, ``.pt`` or ``.bin``, or a folder: one for
            ``timm`` or ``convnext`` is written as by :func:`save_pretrained`, one for
            ``transformers`` holds its own ConvNext or ConvNextV2.
        layout: ``convnext``, ``timm``, ``transformers``, ``official``, ``torchvision``,
            ``openmmlab`` or ``fcmae``. Official ``.pth`` files hold the state dict under ``model``,
            those of ``openmmlab`` and of all detectors and segmentation networks under
            ``state_dict``. A detector is written in ``convnext``, ``official``, ``openmmlab``, or
            with the names that a backbone of ``timm`` or ``transformers`` has inside; a folder of
            it as by :func:`save_detector`. A segmentation network is written in
            ``convnext``, ``official``, ``openmmlab``, ``timm`` (names of the backbone),
            ``transformers`` (its UperNetForSemanticSegmentation) or ``smp``
            (segmentation_models_pytorch), whose folders those libraries open; see
            :mod:`convnext.weights.segmentation.elsewhere`.
        ema: Take averaged weights where a training checkpoint has both.
        allow: Names, or shell-style patterns, of tensors that may be left out because no layout
            knows them.

    Returns:
        The target.

    Raises:
        ValueError: The layout cannot express the network, or there are tensors that it would lose.
        OSError: Something cannot be read or written; nothing half-written is left.
    """
    target = Path(target).expanduser()
    opened = open_weights(resolve(source).path, ema=ema)
    if opened.kind is not None:
        system = system_of(opened.kind)
        read = to_system_checkpoint(system, opened)
        _tell_losses(read.path, read.converted, allow)
        write_system(system, read, target, layout)
        return target
    checkpoint = to_checkpoint(opened)
    _tell_losses(checkpoint.path, checkpoint.converted, allow)
    if not told_by_tensors(checkpoint.config):
        raise ValueError(
            f"{checkpoint.path} holds {checkpoint.name}, which no other layout can express; "
            "copy the file instead"
        )
    if target.suffix == "" or target.is_dir():
        _write_folder(checkpoint, checkpoint.config, target, layout)
    else:
        _write_file(checkpoint, checkpoint.config, target, layout)
    return target


def _tell_losses(path: Path, converted: Converted, allow: Iterable[str]) -> None:
    """Say what was left out and computed in reading; refuse to lose what was not allowed.

    Raises:
        ValueError: There are tensors that no layout knows.
    """
    patterns = tuple(allow)
    lost = [
        name
        for name in converted.unexpected
        if not any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if lost:
        raise ValueError(
            f"{path} has tensors that are not part of a ConvNeXt: {summary(lost)}; "
            "allow leaving them out by name (allow=[...])"
        )
    if converted.dropped:
        logger.info("left out: %s", summary(converted.dropped))
    for word in converted.done:
        logger.info("%s: %s", path, word)


def _write_file(checkpoint: Checkpoint, config: BackboneConfig, target: Path, layout: str) -> None:
    state = from_convnext(checkpoint.state, layout)
    stride = config.stem_stride if isinstance(config, ConvNeXtConfig) else 4
    if layout not in ("convnext", "official") and stride == 2:
        raise ValueError(
            f"the layout {layout} has only stems of stride 4, this network has stride 2"
        )
    metadata = {"format": "pt", SECTION: json.dumps(_card(checkpoint).to_dict())}
    content = {WRAPPERS[layout]: state} if layout in WRAPPERS else state
    write_atomically({target: weights_writer(target, state, metadata, content)})


def _card(checkpoint: Checkpoint) -> Card:
    card = checkpoint.card.to_dict()
    card["name"] = card["name"] or checkpoint.name
    card["config"] = stored_fields(checkpoint.config)
    return Card.from_dict(card)


def _write_folder(
    checkpoint: Checkpoint, config: BackboneConfig, target: Path, layout: str
) -> None:
    if layout not in FOLDER_LAYOUTS:
        raise ValueError(
            f"{target}: the layout {layout} is written to a file (.pth or .safetensors); folders "
            f"are for {', '.join(FOLDER_LAYOUTS)}"
        )
    if layout != "convnext" and not loads_elsewhere(config):
        raise ValueError(
            f"{layout} cannot build this network (isotropic, another stem stride or number of "
            "stages than 4, or other kernels than one of 7x7); use the layout 'convnext'"
        )
    if checkpoint.is_encoder:
        raise ValueError(
            f"{checkpoint.path} holds an encoder without final norm; a folder needs a whole "
            "network. Write a file, or load it by load_pretrained and save that"
        )
    if layout != "transformers":
        write_folder(target, checkpoint.state, config, _card(checkpoint))
        return
    assert loads_elsewhere(config), "refused above"
    state = from_convnext(checkpoint.state, layout)
    text = json.dumps(_transformers_config(checkpoint, config), indent=2, ensure_ascii=False)
    metadata = {"format": "pt", SECTION: json.dumps(_card(checkpoint).to_dict())}
    write_atomically(
        {
            target / WEIGHTS: safetensors_writer(state, metadata),
            target / CONFIG: text_writer(text + "\n"),
        }
    )


def _transformers_config(checkpoint: Checkpoint, config: ConvNeXtConfig) -> dict[str, Any]:
    kind = "V2" if config.grn else ""
    return {
        "architectures": [f"ConvNext{kind}ForImageClassification"],
        **transformers_fields(config),
        **transformers_labels(checkpoint.card.labels, config.num_classes),
    }
