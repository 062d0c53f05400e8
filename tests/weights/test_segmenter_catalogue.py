"""The catalogue of published segmentation networks, and how names of it are resolved."""

import io
import json

import pytest
import torch
from small_detectors import equal
from small_segmenters import segmenter

from convnext.cli import main
from convnext.models.upernet import SEGMENTERS
from convnext.published.segmentation import segmentation_rows
from convnext.weights import list_segmenter_weights
from convnext.weights.labels import ade20k_labels
from convnext.weights.segmentation import (
    create_segmenter,
    load_backbone_weights,
    load_segmenter,
    load_segmenter_weights,
)
from convnext.weights.segmentation.layout import from_segmenter
from convnext.weights.segmenter_catalogue import (
    default_segmenter_tag,
    find_segmenter,
    segmenter_tags,
)
from convnext.weights.sources import resolve

PREFIX = "https://dl.fbaipublicfiles.com/convnext/ade20k/"
TINY, BASE = "upernet_convnext_tiny", "upernet_convnext_base"


def test_every_published_file_is_there_with_its_scores():
    entries = list_segmenter_weights()
    assert len({entry.url for entry in entries}) == len(entries) == 6
    assert {entry.model for entry in entries} <= set(SEGMENTERS)
    scores = [
        (w.model, w.data.split(",")[0], w.crop_size, w.miou, w.miou_multi_scale) for w in entries
    ]
    rows = segmentation_rows("table4")
    assert scores == [(r.segmenter, r.data, r.crop, r.miou, r.miou_multi_scale) for r in rows]
    names = ("upernet_convnext_tiny_1k_512x512", "upernet_convnext_xlarge_22k_640x640")
    assert (entries[0].url, entries[-1].url) == tuple(f"{PREFIX}{name}.pth" for name in names)


def test_preprocessing_is_the_published_one():
    found = {tag: find_segmenter(BASE, tag).preprocessing for tag in segmenter_tags(BASE)}
    sizes = {t: (p.min_size, p.max_size, p.window, p.stride) for t, p in found.items()}
    assert sizes == {"in1k_ade20k": (512, 2048, 512, 341), "in22k_ade20k": (640, 2560, 640, 426)}


def test_tags_and_patterns():
    assert segmenter_tags(BASE) == ["in1k_ade20k", "in22k_ade20k"]
    assert default_segmenter_tag(BASE) == "in1k_ade20k"
    assert default_segmenter_tag("upernet_convnext_large") == "in22k_ade20k"
    assert [w.tag for w in list_segmenter_weights(BASE)] == ["in1k_ade20k", "in22k_ade20k"]
    assert len(list_segmenter_weights("*.in22k_ade20k")) == 3
    assert "MIT" in find_segmenter(BASE, "in1k_ade20k").notice()


def test_unknown_names_and_tags():
    with pytest.raises(ValueError, match="has no weights 'in1k'; available: in1k_ade20k"):
        find_segmenter(TINY, "in1k")
    message = "no published weights for upernet_convnextv2_base; segmentation networks that have"
    with pytest.raises(ValueError, match=message):
        default_segmenter_tag("upernet_convnextv2_base")
    message = "unknown segmentation network 'upernet_convnext_tin'; did you mean"
    with pytest.raises(ValueError, match=message):
        default_segmenter_tag("upernet_convnext_tin")


def test_names_of_the_classes():
    labels = ade20k_labels()
    assert len(set(labels)) == len(labels) == 150
    assert labels[:3] == ("wall", "building", "sky")
    known = {12: "person", 20: "car", 44: "chest of drawers", 89: "television receiver"}
    known |= {105: "conveyer belt", 127: "bicycle", 136: "traffic light", 149: "flag"}
    assert {i: labels[i] for i in known} == known


@pytest.fixture
def file():
    """A small network, and a file like the published ones."""
    model = segmenter(num_classes=150)
    state = from_segmenter(model.state_dict(), "official", model.backbone.body.config)
    content = io.BytesIO()
    meta = {"epoch": 127, "iter": 160000, "mmseg_version": "0.11.0"}
    torch.save({"meta": meta, "state_dict": state, "optimizer": {"state": {}}}, content)
    return model, content.getvalue()


@pytest.fixture
def published(file, tmp_path, monkeypatch):
    """A small file in place of every download; the addresses that were asked for."""
    asked = []
    model, content = file
    (tmp_path / "a.pth").write_bytes(content)

    def fetch(url):
        asked.append(url.removeprefix(PREFIX))
        return tmp_path / "a.pth"

    monkeypatch.setattr("convnext.weights.sources.fetch", fetch)
    return model, asked


@pytest.mark.parametrize("name", [TINY, f"{TINY}.in1k_ade20k"])
def test_loading_by_name(name, published):
    model, asked = published
    loaded, info = load_segmenter(name)
    assert asked == ["upernet_convnext_tiny_1k_512x512.pth"]
    assert equal(loaded.state_dict(), model.state_dict())
    assert info.labels == ade20k_labels()
    assert info.preprocessing == find_segmenter(TINY, "in1k_ade20k").preprocessing
    assert (info.licence, info.source) == ("MIT", f"{TINY}.in1k_ade20k")
    assert load_segmenter(name, num_classes=2)[1].labels is None
    assert load_segmenter(name, in_chans=1)[1].preprocessing is None


def test_the_larger_windows_of_the_larger_networks(published):
    _, info = load_segmenter("upernet_convnext_xlarge")
    assert (info.preprocessing.window, info.preprocessing.stride) == (640, 426)


def test_a_published_network_starts_a_backbone_and_a_network(published):
    model, asked = published
    other = segmenter(num_classes=150, aux_dim=0)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    load_backbone_weights(other, f"{TINY}.in1k_ade20k")
    assert equal(other.backbone.state_dict(), model.backbone.state_dict())
    load_segmenter_weights(other, f"{TINY}.in1k_ade20k")
    assert equal(other.decode_head.state_dict(), model.decode_head.state_dict())
    assert asked == ["upernet_convnext_tiny_1k_512x512.pth"] * 2


def test_sources(published):
    _, asked = published
    assert resolve(True, BASE).system == find_segmenter(BASE, "in1k_ade20k")
    assert resolve("in22k_ade20k", BASE).system == find_segmenter(BASE, "in22k_ade20k")
    assert resolve(f"{BASE}.in22k_ade20k").entry is None
    assert len(asked) == 3
    for given in (f"{TINY}.in21k", "in21k"):
        with pytest.raises(ValueError, match="has no weights 'in21k'"):
            resolve(given, TINY)


def test_another_network_than_the_published_file_has(published):
    with pytest.raises(ValueError, match="segmentation network on another network, not on convn"):
        create_segmenter(TINY, pretrained=True)


def test_a_download(file, server):
    model, server.body = file
    loaded, info = load_segmenter(f"{server.url}/upernet.pth")
    assert equal(loaded.state_dict(), model.state_dict())
    assert info.labels is None
    load_segmenter(f"{server.url}/upernet.pth")
    assert len(server.requests) == 1  # the second time from the cache
    server.body = server.body[:9999]
    with pytest.raises(ValueError, match=r"other\.pth.*damaged or truncated"):
        load_segmenter(f"{server.url}/other.pth")
    with pytest.raises(OSError, match="no such file"):
        load_segmenter(f"{server.url}/missing.pth")


def test_the_command_line(file, tmp_path, capsys):
    (tmp_path / "a.pth").write_bytes(file[1])
    assert main(["weights", "list", "upernet", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["mIoU"] for row in rows] == [w.miou for w in list_segmenter_weights()]
    assert rows[3]["multi-scale mIoU"] == 53.1
    assert (rows[3]["pixels"], rows[3]["classes"]) == (640, 150)
    assert "box AP" not in rows[0]
    assert main(["weights", "list", "*convnext_tiny*", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(set(row) == set(rows[0]) for row in rows)
    assert {"top-1", "box AP", "mIoU"} <= set(rows[0])
    assert main(["models", f"{TINY}*", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["weights"] == "in1k_ade20k"
    assert row["GFLOPs at 2048x512"] == "938.677"
    assert main(["weights", "inspect", str(tmp_path / "a.pth")]) == 0
    assert "UPerNet of 16 channels, auxiliary head of 12" in capsys.readouterr().out
    out = str(tmp_path / "folder")
    assert main(["weights", "convert", str(tmp_path / "a.pth"), out, "--layout", "smp"]) == 0
    assert load_segmenter(out)[0].config.aux_dim == 0
