"""The catalogue of published detectors, and how names of it are resolved."""

import pytest
import torch
from small_detectors import detector, equal

from convnext.models.mask_rcnn import DETECTORS
from convnext.published.detection import detection_rows
from convnext.weights import list_detector_weights
from convnext.weights.detection import create_detector, load_backbone_weights, load_detector
from convnext.weights.detection.layout import from_detector
from convnext.weights.detector_catalogue import default_detector_tag, detector_tags, find_detector
from convnext.weights.labels import coco_labels
from convnext.weights.sources import resolve

PREFIX = "https://dl.fbaipublicfiles.com/convnext/coco/"


def test_every_published_file_is_there_with_its_scores():
    entries = list_detector_weights()
    assert len({entry.url for entry in entries}) == len(entries) == 7
    assert {entry.model for entry in entries} <= set(DETECTORS)
    scores = [(w.model, w.data.split(",")[0], w.box_ap, w.mask_ap) for w in entries]
    rows = detection_rows("table3")
    assert scores == [(r.detector, r.data, r.box_ap[0], r.mask_ap[0]) for r in rows]
    names = ("mask_rcnn_convnext_tiny_1k_3x", "cascade_mask_rcnn_convnext_xlarge_22k_3x")
    assert (entries[0].url, entries[-1].url) == tuple(f"{PREFIX}{name}.pth" for name in names)


def test_tags_and_patterns():
    base = "cascade_mask_rcnn_convnext_base"
    assert detector_tags(base) == ["in1k_coco", "in22k_coco"]
    assert default_detector_tag(base) == "in1k_coco"
    assert default_detector_tag("cascade_mask_rcnn_convnext_large") == "in22k_coco"
    assert [w.tag for w in list_detector_weights(base)] == ["in1k_coco", "in22k_coco"]
    assert len(list_detector_weights("*.in22k_coco")) == 3
    assert "MIT" in find_detector(base, "in1k_coco").notice()


def test_unknown_names_and_tags():
    with pytest.raises(ValueError, match="has no weights 'in1k'; available: in1k_coco"):
        find_detector("mask_rcnn_convnext_tiny", "in1k")
    with pytest.raises(ValueError, match="no published weights for mask_rcnn_convnextv2_base; det"):
        default_detector_tag("mask_rcnn_convnextv2_base")
    with pytest.raises(ValueError, match="unknown detector 'mask_rcnn_convnext_tin'; did you mean"):
        default_detector_tag("mask_rcnn_convnext_tin")


def test_names_of_the_classes():
    labels = coco_labels()
    assert len(set(labels)) == 80
    assert (labels[0], labels[-1], labels[11]) == ("person", "toothbrush", "stop sign")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small file in place of every download; the addresses that were asked for."""
    asked = []
    model = detector(num_classes=80)
    state = from_detector(model.state_dict(), "official", model.backbone.body.config)
    torch.save({"meta": {"epoch": 36}, "state_dict": state}, tmp_path / "a.pth")

    def fetch(url):
        asked.append(url.removeprefix(PREFIX))
        return tmp_path / "a.pth"

    monkeypatch.setattr("convnext.weights.sources.fetch", fetch)
    return model, asked


TINY = "mask_rcnn_convnext_tiny"


@pytest.mark.parametrize("name", [TINY, f"{TINY}.in1k_coco"])
def test_loading_by_name(name, published):
    model, asked = published
    loaded, info = load_detector(name)
    assert asked == ["mask_rcnn_convnext_tiny_1k_3x.pth"]
    assert equal(loaded.state_dict(), model.state_dict())
    assert info.labels == coco_labels()
    assert (info.preprocessing.min_size, info.preprocessing.max_size) == (800, 1333)
    assert (info.licence, info.source) == ("MIT", f"{TINY}.in1k_coco")
    assert load_detector(name, num_classes=2)[1].labels is None


def test_a_published_detector_starts_a_backbone(published):
    model, asked = published
    other = detector(cascade=True)
    with torch.no_grad():
        other.backbone.body.stem.conv.weight.zero_()
    load_backbone_weights(other, f"{TINY}.in1k_coco")
    assert asked == ["mask_rcnn_convnext_tiny_1k_3x.pth"]
    assert equal(other.backbone.state_dict(), model.backbone.state_dict())


def test_sources(published):
    _, asked = published
    base = "cascade_mask_rcnn_convnext_base"
    assert resolve(True, base).system == find_detector(base, "in1k_coco")
    assert resolve("in22k_coco", base).system == find_detector(base, "in22k_coco")
    assert resolve(f"{base}.in22k_coco").entry is None
    assert len(asked) == 3
    for given in (f"{TINY}.in21k", "in21k"):
        with pytest.raises(ValueError, match="has no weights 'in21k'"):
            resolve(given, TINY)
    with pytest.raises(FileNotFoundError, match=r"no such file or folder; see"):
        resolve("nowhere/a.pth", TINY)


def test_another_detector_than_the_published_file_has(published):
    with pytest.raises(ValueError, match="holds a detector on another network, not on convnext_ti"):
        create_detector(TINY, pretrained=True)
