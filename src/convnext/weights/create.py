"""create_model and load_pretrained: networks with weights from anywhere."""

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from convnext.models.backbone import BackboneConfig
from convnext.models.registry import build_model, model_config
from convnext.weights.adapting import adapt
from convnext.weights.architecture import (
    base_name,
    described,
    differences,
    is_merged,
    model_name,
    same_network,
    stored_fields,
)
from convnext.weights.catalogue import Weights
from convnext.weights.checkpoint import Checkpoint, read_checkpoint
from convnext.weights.labels import imagenet_labels
from convnext.weights.load_report import LoadReport, load_state
from convnext.weights.preprocessing import Preprocessing
from convnext.weights.sources import resolve

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainedInfo:
    """What is known about loaded weights besides their values.

    Attributes:
        source: The tag, file, folder or URL that was given.
        name: Name of the network, None if no named one has these blocks.
        labels: Names of the classes in the order of the outputs; None if unknown or if the head
            was replaced.
        descriptions: Longer words for labels.
        preprocessing: What images need; None if unknown.
        licence: Licence of the weights, if known.
        extra: Anything else that was saved with the weights.
        report: What happened to each tensor.
    """

    source: str
    name: str | None
    labels: tuple[str, ...] | None
    descriptions: dict[str, str] = field(default_factory=dict)
    preprocessing: Preprocessing | None
    licence: str | None
    extra: dict[str, Any] = field(default_factory=dict)
    report: LoadReport


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    drop_path_rate: float = 0.0,
    pretrained: bool | str | Path = False,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **config_overrides: Any,
) -> nn.Module:
    """Build a network, with new or with pretrained weights.

    Args:
        name: A name of :func:`convnext.list_models`.
        num_classes: Outputs of the head; 0 for pooled features. By default as the weights have, or
            1000. Another number than the weights have gives a new head.
        in_chans: Input channels; by default as the weights have, or 3. For another number than the
            weights have, the stem is adapted: summed for 1, repeated and rescaled else.
        drop_path_rate: Stochastic depth of the last block, in [0, 1).
        pretrained: ``False``; ``True`` for the default published weights; a tag of the catalogue
            (``"in22k_ft_in1k_384"``); a checkpoint file in any known layout; a folder; a URL.
        features_only: Return the list of stage outputs (N, C_i, H_i, W_i) instead of logits.
        out_indices: Which stages to return with ``features_only``; all by default.
        **config_overrides: Any other field of the network's configuration.

    Raises:
        ValueError: Unknown name, tag or argument, or weights that do not fit; says which tensors.
        OSError: A file cannot be read, or there is no network.
    """
    if pretrained is False:
        return build_model(
            name,
            num_classes=1000 if num_classes is None else num_classes,
            in_chans=3 if in_chans is None else in_chans,
            drop_path_rate=drop_path_rate,
            features_only=features_only,
            out_indices=out_indices,
            **config_overrides,
        )
    model, info = load_pretrained(
        pretrained,
        name=name,
        num_classes=num_classes,
        in_chans=in_chans,
        drop_path_rate=drop_path_rate,
        features_only=features_only,
        out_indices=out_indices,
        **config_overrides,
    )
    logger.info("%s: %s", info.source, info.report)
    return model


def load_pretrained(
    source: str | Path | bool,
    *,
    name: str | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    drop_path_rate: float = 0.0,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    ema: bool = True,
    allow: Iterable[str] = (),
    **config_overrides: Any,
) -> tuple[nn.Module, PretrainedInfo]:
    """Load weights of any known layout, and build the network that they fit.

    Args:
        source: A file, a folder, a URL, ``"MODEL.TAG"`` or, together with ``name``, a tag.
        name: The network; found out from the tensors by default.
        num_classes: As in :func:`create_model`.
        in_chans: As in :func:`create_model`.
        drop_path_rate: As in :func:`create_model`.
        features_only: As in :func:`create_model`.
        out_indices: As in :func:`create_model`.
        ema: Take averaged weights where a training checkpoint has both.
        allow: Names, or shell-style patterns of names, of tensors that may be missing, unexpected
            or of another shape.
        **config_overrides: Other fields of the network's configuration.

    Returns:
        The network, in training mode as every new module (call ``.eval()`` to predict), and what
        is known about the weights.

    Raises:
        ValueError: The weights do not fit, the file is merged and the network not or the reverse,
            or the file is no ConvNeXt or RepLKNet; says what differs.
        OSError: A file cannot be read, or there is no network.
    """
    if name is not None:
        model_config(name)  # an unknown name is refused before anything is downloaded
    found = resolve(source, name)
    checkpoint = read_checkpoint(found.path, ema=ema)
    config = _checked(name, checkpoint, config_overrides, found.text)
    fields = {**stored_fields(config), **config_overrides}
    model: Any = build_model(
        name or checkpoint.name or base_name(config),
        num_classes=checkpoint.config.num_classes if num_classes is None else num_classes,
        in_chans=checkpoint.config.in_chans if in_chans is None else in_chans,
        drop_path_rate=drop_path_rate,
        features_only=features_only,
        out_indices=out_indices,
        **fields,
    )
    adapted = adapt(checkpoint.state, model)
    converted = checkpoint.converted
    report = LoadReport(
        layout=checkpoint.layout.title,
        wrappers=checkpoint.wrappers,
        unexpected=list(converted.unexpected),
        reshaped=dict(converted.reshaped),
        dropped=list(converted.dropped),
        adapted=[*converted.done, *adapted.done],
    )
    load_state(model, adapted.state, report, source=found.text, allow=[*allow, *adapted.new])
    return model, _info(found.text, found.entry, checkpoint, model.config, report)


def _checked(
    name: str | None, checkpoint: Checkpoint, overrides: dict[str, Any], source: str
) -> BackboneConfig:
    """The checkpoint's configuration, if it is of the network that was asked for.

    Raises:
        ValueError: It is another network, and which; or one merged and the other not.
    """
    have = checkpoint.config
    asked = have if name is None else model_config(name)
    fields = {f.name for f in dataclasses.fields(asked)}
    asked = dataclasses.replace(asked, **{k: v for k, v in overrides.items() if k in fields})
    if name is not None and not same_network(asked, have):
        what = checkpoint.name or f"a network with depths={have.depths}, channels={have.channels}"
        raise ValueError(
            f"{source} holds weights of {what}, not of {name}{_differences(asked, have, name)}; "
            "ask for the model that the file has, or load it without a name by load_pretrained"
        )
    if is_merged(have) and not is_merged(asked):
        raise ValueError(
            f"{source} holds a merged network, which has no branches to train: build it with "
            "merged=True, or load the file of the network that it was merged from"
        )
    if is_merged(asked) and not is_merged(have):
        raise ValueError(
            f"{source} holds a network with its branches: load it without merged=True and merge it "
            "by convnext.merge(network)"
        )
    return have if name is None else described(have, stored_fields(asked))


def _differences(asked: BackboneConfig, have: BackboneConfig, name: str) -> str:
    """What of two networks with the same kind of blocks differs, kernels first."""
    found = differences(have, asked) if type(asked) is type(have) else {}
    kernels = found.keys() & {"kernel_size", "large kernels", "small_kernel"}
    if not kernels:
        return ""
    text = ", ".join(f"{w} {a} in the file and {b} in {name}" for w, (a, b) in found.items())
    if found.get("large kernels") == ("square", "strips"):
        text += (
            ". Files with square kernels (lkb_origin) were once shared as SLaK's; "
            "decomposed=False builds their network"
        )
    return f" ({text})"


def _info(
    source: str,
    entry: Weights | None,
    checkpoint: Checkpoint,
    config: BackboneConfig,
    report: LoadReport,
) -> PretrainedInfo:
    card = checkpoint.card
    labels, descriptions = card.labels, card.descriptions
    if entry is not None and labels is None:
        labels, descriptions = imagenet_labels(entry.num_classes)
    if labels is not None and len(labels) != config.num_classes:
        labels, descriptions = None, {}
    return PretrainedInfo(
        source=source,
        name=card.name or model_name(config),
        labels=labels,
        descriptions=descriptions,
        preprocessing=entry.preprocessing if entry else card.preprocessing,
        licence=entry.licence if entry else card.licence,
        extra=card.extra,
        report=report,
    )
