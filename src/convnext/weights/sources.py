"""From what a user gives as weights (True, tag, file, folder, URL) to a file on this machine."""

import logging
from dataclasses import dataclass
from pathlib import Path

from convnext.models.registry import is_detector_name, is_model, is_segmenter_name
from convnext.weights.catalogue import CC_BY_NC, Weights, default_tag, find, tags
from convnext.weights.detector_catalogue import DETECTOR_CATALOGUE, DetectorWeights
from convnext.weights.download import fetch
from convnext.weights.segmenter_catalogue import SEGMENTER_CATALOGUE, SegmenterWeights
from convnext.weights.systems.catalogue import Catalogue, SystemWeights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where weights are.

    Attributes:
        path: File or folder on this machine.
        entry: Entry of the catalogue if they are published weights of a classifier or encoder.
        system: Likewise of a detector or a segmentation network.
        text: What the user gave, for messages.
    """

    path: Path
    entry: Weights | None
    text: str
    system: SystemWeights | None = None


def resolve(given: str | Path | bool, model: str | None = None) -> Source:
    """Find weights, and download them if they are not here yet.

    Args:
        given: ``True`` for the default tag of the model, a tag, ``"MODEL.TAG"``, a file, a folder,
            or an http(s) URL (``#sha256=...`` at its end is checked).
        model: Name of the network or system that a tag belongs to.

    Raises:
        OSError: No such file, no network, no space.
        ValueError: Unknown tag (the known ones are named), or a wrong hash.
    """
    if given is True:
        if model is None:
            raise ValueError("pretrained=True needs the name of a model that has published weights")
        return _published(_find(model, _default_tag(model)))
    text = str(given)
    if text.startswith(("http://", "https://")):
        return Source(fetch(text), None, text)
    if model is not None and text in _tags(model):
        return _published(_find(model, text))  # a folder of that name can be given as ./NAME
    path = Path(text).expanduser()
    if path.exists():
        return Source(path, None, text)
    name, _, tag = text.partition(".")
    known = _systems(name) is not None or (is_model(name) and model in (None, name))
    if known and tag and "/" not in text:
        return _published(_find(name, tag))
    if model is not None and not path.suffix and "/" not in text:
        _find(model, text)  # raises, naming the tags that there are
    raise FileNotFoundError(
        f"{text}: no such file or folder"
        + ("" if "/" in text or path.suffix else ", and no MODEL.TAG of the catalogue")
        + "; see `convnext weights list` for published weights"
    )


def _systems(model: str) -> Catalogue[DetectorWeights] | Catalogue[SegmenterWeights] | None:
    """The catalogue for the kind of system that has this name; None of a lone network."""
    if is_detector_name(model):
        return DETECTOR_CATALOGUE
    return SEGMENTER_CATALOGUE if is_segmenter_name(model) else None


def _tags(model: str) -> list[str]:
    systems = _systems(model)
    return tags(model) if systems is None else systems.tags(model)


def _find(model: str, tag: str) -> Weights | SystemWeights:
    systems = _systems(model)
    return find(model, tag) if systems is None else systems.find(model, tag)


def _default_tag(model: str) -> str:
    systems = _systems(model)
    return default_tag(model) if systems is None else systems.default_tag(model)


def _published(entry: Weights | SystemWeights) -> Source:
    path = fetch(entry.url)
    if entry.licence == CC_BY_NC:
        logger.warning(entry.notice())
    else:
        logger.info(entry.notice())
    text = f"{entry.model}.{entry.tag}"
    if isinstance(entry, SystemWeights):
        return Source(path, None, text, entry)
    return Source(path, entry, text)
