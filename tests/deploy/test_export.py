"""Graphs and the program beside them find what the detector finds."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from wave_detectors import LABELS, PRE, detected, new_detector, picture

from convnext.cli import main
from convnext.deploy import OnnxDetector, export_detector, tracing
from convnext.deploy.checking import compare_detector
from convnext.deploy.graphs import pool
from convnext.models.detection import pooling
from convnext.weights.detection import save_detector
from convnext.weights.preprocessing import DetectorPreprocessing

SIZES = [(150, 200), (90, 260)]  # seen as 96 x 128 and 64 x 160, traced with 128 x 160
GRAPHS = ("dense.onnx", "roi.onnx", "mask.onnx")


@pytest.fixture(params=["simple", "cascade"])
def case(request):
    return request.getfixturevalue(request.param)


def assert_same(found, model, pixels):
    expected, masks = detected(model, pixels)
    assert len(expected.boxes) > 20
    assert len(set(expected.labels.tolist())) > 1
    assert found["labels"].tolist() == expected.labels.tolist()
    np.testing.assert_allclose(found["boxes"], expected.boxes, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found["scores"], expected.scores, rtol=0, atol=1e-4)
    if masks is None:
        assert found["masks"] is None
    else:
        assert masks.any()
        assert (found["masks"] != masks).sum() <= 5


@pytest.mark.parametrize("size", SIZES)
def test_detections(case, size):
    model, folder = case
    assert_same(OnnxDetector(folder)(picture(*size)), model, picture(*size))


def test_without_masks(simple, traced_before, tmp_path):
    (tmp_path / "mask.onnx").write_text("of an earlier export")
    (tmp_path / "other.onnx").write_text("not ours")
    model = new_detector("convnextv2_tiny", masks=False)
    model.load_state_dict(simple[0].state_dict(), strict=False)
    export_detector(model, tmp_path, preprocessing=PRE)
    assert not (tmp_path / "mask.onnx").exists()
    assert (tmp_path / "other.onnx").exists()
    host = OnnxDetector(tmp_path)
    assert host.classes == ["0", "1", "2"]
    assert_same(host(picture(*SIZES[0])), model, picture(*SIZES[0]))


def test_nothing_found(simple, tmp_path):
    _, folder = simple
    for file in (*GRAPHS, "detector.json"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    settings = json.loads((tmp_path / "detector.json").read_text())
    settings["detection"]["score_threshold"] = 1.0
    (tmp_path / "detector.json").write_text(json.dumps(settings))
    found = OnnxDetector(tmp_path)(picture(40, 50))
    assert found["boxes"].shape == (0, 4)
    assert found["masks"].shape == (0, 40, 50)


@pytest.mark.parametrize("number", [0, 1, 9])
def test_free_sizes(case, number):
    model, folder = case
    host = OnnxDetector(folder)
    rng = np.random.default_rng(0)
    images, size = rng.standard_normal((3, 3, 64, 96), np.float32), (64, 90)
    found = host.run("dense", images=images)
    with torch.no_grad():
        levels, _ = model.dense(torch.tensor(images))
    np.testing.assert_allclose(found["p3"], levels[1], rtol=0, atol=1e-4)
    low = rng.random((number, 2)) * 40
    boxes = np.concatenate([low, low + 1 + rng.random((number, 2)) * 30], 1)
    rois = np.concatenate([rng.integers(0, 3, (number, 1)), boxes], 1).astype(np.float32)
    maps = {name: found[name] for name in ("p2", "p3", "p4", "p5")}
    scored = host.run("roi", **maps, rois=rois, sizes=np.array([size] * 3, np.float32))
    assert scored["probabilities"].shape == (number, 4)
    masks = host.run("mask", **maps, rois=rois, labels=np.zeros(number, np.int64))["masks"]
    assert masks.shape == (number, 28, 28)
    own = [torch.tensor(rois[rois[:, 0] == i, 1:]) for i in range(3)]
    with torch.no_grad():
        expected, _ = model.roi_head.scores(levels[:-1], torch.tensor([size] * 3), own)
    order = np.argsort(rois[:, 0], kind="stable")
    np.testing.assert_allclose(
        scored["probabilities"][order], torch.cat(expected), rtol=0, atol=1e-4
    )


def test_reading_from_levels():
    torch.manual_seed(0)
    levels = [torch.randn(2, 4, 256 // s, 320 // s) for s in (1, 2, 4, 8)]
    low = torch.rand(300, 2) * 600
    boxes = torch.cat([low, low + 700 * torch.rand(300, 2) ** 3], 1)
    edges = [[0, 0, s, s] for s in (0.0, 111.9, 112, 112.1, 224, 448, 1000)]
    boxes = torch.cat([boxes, torch.tensor(edges), torch.tensor([[50.0, 60, 50, 90]])])
    rois = torch.cat([torch.arange(len(boxes))[:, None] % 2, boxes], 1)
    expected = pooling.pool(levels, rois, 7)
    torch.testing.assert_close(pool(levels, rois, 7), expected, rtol=0, atol=1e-6)


def test_graphs_are_portable(case):
    onnx = pytest.importorskip("onnx")
    for file in GRAPHS:
        content = (case[1] / file).read_bytes()
        assert b"/convnext/" not in content  # no names of source files
        graph = onnx.load_from_string(content)
        assert [(o.domain, o.version) for o in graph.opset_import] == [("", 18)]
        assert not {n.domain for n in graph.graph.node} - {""}
        for node in graph.graph.node:
            if node.op_type == "RoiAlign":
                told = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                assert told["coordinate_transformation_mode"] == b"half_pixel"
                assert told["sampling_ratio"] == 0


def test_compare(case):
    model, folder = case
    assert compare_detector(model, folder).small
    other = copy.deepcopy(model)
    with torch.no_grad():
        head = other.roi_head.bbox_head
        (head[-1] if other.config.cascade else head).fc_reg.bias += 0.1
    assert not compare_detector(other, folder).small


def test_alone_beside_the_graphs(simple, tmp_path):
    model, folder = simple
    Image.fromarray(picture(*SIZES[0])).save(tmp_path / "wave.png")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import detector_host\n"
        "assert detector_host.main(sys.argv[2:]) == 0\n"
        "assert not {'torch', 'convnext'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-I", "-c", program, str(folder), str(tmp_path / "wave.png")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    objects = json.loads(ran.stdout)["objects"]
    expected, _ = detected(model, picture(*SIZES[0]))
    assert [o["class"] for o in objects] == [LABELS[k] for k in expected.labels]
    np.testing.assert_allclose([o["box"] for o in objects], expected.boxes, rtol=0, atol=1e-3)


def test_command(simple, traced_before, tmp_path, capsys):
    model, folder = simple
    save_detector(model, tmp_path / "weights", labels=LABELS, preprocessing=PRE)
    out = tmp_path / "a" / "graphs"
    assert main(["export", str(tmp_path / "weights"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "boxes differ by" in said
    assert str(out) in said
    ours, theirs = (json.loads((f / "detector.json").read_text()) for f in (out, folder))
    assert ours.pop("title")
    assert ours == {k: v for k, v in theirs.items() if k != "title"}
    names = {*GRAPHS, "detector.json", "detector_host.py", "host_pictures.py"}
    assert {f.name for f in out.iterdir()} == names
    assert [f.name for f in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["convnext_tiny"], "only detectors and segmentation networks can be"),
        (["nowhere/at/all"], "only detectors and segmentation networks can be"),
        (["mask_rcnn_convnext_tiny", "--opset", "15"], "opset 15 must be 18 to 21"),
    ],
)
def test_command_refuses(arguments, complaint, tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="the extra convnext[onnx] is not installed")
    assert main(["export", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_refuses(tmp_path, monkeypatch):
    model = new_detector("convnextv2_tiny")
    if tracing.find_spec("onnxscript"):
        with pytest.raises(ValueError, match="2 labels for a network with 3 classes"):
            export_detector(model, tmp_path / "out", labels=["a", "b"])
        grey = DetectorPreprocessing(mean=(0.5,), std=(0.2,))
        with pytest.raises(ValueError, match="1 channels, the network has 3"):
            export_detector(model, tmp_path / "out", preprocessing=grey)
        with pytest.raises(ValueError, match="multiples of 32"):
            export_detector(model, tmp_path / "out", example_size=(32, 100))
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="is no folder"):
            export_detector(model, tmp_path / "file")
        windows = new_detector("convnextv2_tiny")
        windows.backbone.other = type("WindowAttention", (torch.nn.Module,), {})()
        with pytest.raises(ValueError, match="cannot be traced with free sizes"):
            export_detector(windows, tmp_path / "out")
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'convnext\[onnx\]'"):
        export_detector(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
