"""The graph of a segmentation network and the program beside it say what the network says."""

import copy
import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from wave_detectors import new_detector, new_segmenter, picture

from convnext.cli import main
from convnext.data.config import SegmentationDataConfig
from convnext.deploy import ExportedSegmenter, export_segmenter, segmenter_host, tracing
from convnext.deploy.checking import compare_segmenter
from convnext.deploy.host_pictures import normalise
from convnext.models.segmentation.views import classes_at
from convnext.run.segmenting import image_logits, segment_picture
from convnext.weights.detection import save_detector
from convnext.weights.preprocessing import SegmenterPreprocessing
from convnext.weights.segmentation import save_segmenter

FORMATS = ["onnx", "openvino"]
CASES = [("convnextv2_tiny", "onnx"), ("convnextv2_tiny", "openvino"), ("slak_tiny", "onnx")]
SIZES = [(1, 101, 167), (2, 32, 32), (3, 33, 95), (1, 64, 300), (2, 160, 64), (1, 259, 131)]
CPU = torch.device("cpu")


def settings_of(folder):
    return json.loads((folder / "segmenter.json").read_text(encoding="utf-8"))


def expected_classes(model, pixels, folder):
    told = settings_of(folder)
    names = ("min_size", "max_size", "window", "stride", "mean", "std", "in_chans")
    data = SegmentationDataConfig(**{name: told[name] for name in names})
    shown = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return segment_picture(model, shown, data, CPU)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_any_size_and_number(segmenter, case):
    model, folder = segmenter(*case)
    host = ExportedSegmenter(folder, threads=1)
    for number, size in enumerate(SIZES):
        generator = np.random.default_rng(number)
        images = generator.standard_normal((size[0], 3, *size[1:]), np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(images)).numpy()
        found = host.run(images)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5 * np.ptp(expected)


# Enlarged and made smaller, of its own size, one window only, and smaller than a window may be.
@pytest.mark.parametrize("size", [(50, 90), (150, 200), (70, 100), (70, 64), (9, 200)])
@pytest.mark.parametrize("format", FORMATS)
def test_classes_of_a_picture(segmenter, format, size):
    model, folder = segmenter(format=format)
    pixels = picture(*size)
    found = ExportedSegmenter(folder)(pixels)
    expected = expected_classes(model, pixels, folder)
    assert found.shape == size
    assert len(np.unique(expected)) > (size[0] > 9)
    assert (found != expected).mean() < 1e-3  # where two classes are equal up to rounding


def test_windows_of_small_pictures(segmenter):
    model, folder = segmenter()
    pixels = picture(9, 150)
    data = SegmentationDataConfig(window=64, stride=40)
    image = torch.from_numpy(normalise(pixels, settings_of(folder)))
    with torch.no_grad():
        expected = image_logits(model, image, data, 5).numpy()
    bands = [logits for _, logits in ExportedSegmenter(folder).bands(pixels)]
    assert np.abs(np.concatenate(bands, 1) - expected).max() < 1e-5 * np.ptp(expected)


@pytest.mark.parametrize("window", [0, 32, 48])
def test_pictures_keep_their_size_where_they_should(segmenter, window, tmp_path):
    model, folder = segmenter()
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    told = settings_of(folder) | {"min_size": 0, "window": window, "stride": 20}
    (tmp_path / "segmenter.json").write_text(json.dumps(told))
    pixels = picture(83, 130)
    found = ExportedSegmenter(tmp_path)(pixels)
    assert (found != expected_classes(model, pixels, tmp_path)).mean() < 1e-3


def test_grey(segmenter, tmp_path, monkeypatch):
    _, folder = segmenter()
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    told = settings_of(folder) | {"in_chans": 1, "mean": [0.4], "std": [0.3]}
    (tmp_path / "segmenter.json").write_text(json.dumps(told))
    model = new_segmenter("convnextv2_tiny", in_chans=1)
    host = ExportedSegmenter(tmp_path)
    monkeypatch.setattr(
        host, "run", lambda images: model(torch.from_numpy(images)).detach().numpy()
    )
    pixels = picture(80, 96)[:, :, :1]
    assert (host(pixels) != expected_classes(model, pixels, tmp_path)).mean() < 1e-3


def test_resized_logits():
    logits = np.random.default_rng(0).standard_normal((4, 19, 23), np.float32)
    for size in [(40, 51), (19, 23), (7, 90), (1, 1)]:
        expected = classes_at(torch.from_numpy(logits), size).numpy()
        found = segmenter_host.classes_at(logits, *size)
        assert (found != expected).mean() < 1e-3
    assert segmenter_host.starts(100, 64, 41) == [0, 36]
    assert segmenter_host.starts(64, 64, 41) == segmenter_host.starts(10, 64, 41) == [0]
    assert segmenter_host.starts(146, 64, 41) == [0, 41, 82]


def test_what_is_told(segmenter):
    _, folder = segmenter()
    told = settings_of(folder)
    assert told["classes"] == ["sky", "Straße", "木", "4", "5"]
    assert (told["window"], told["stride"], told["ignore"]) == (64, 40, 255)
    assert len(told["colours"]) == 5
    onnx = pytest.importorskip("onnx")
    content = (folder / "segmenter.onnx").read_bytes()
    assert b"/convnext/" not in content
    graph = onnx.load_from_string(content)
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 18)]
    assert not {n.domain for n in graph.graph.node} - {""}
    shape = graph.graph.output[0].type.tensor_type.shape.dim
    assert [bool(d.dim_param) for d in shape] == [True, False, True, True]


def test_weights_of_openvino_are_whole(segmenter):
    _, folder = segmenter(format="openvino")
    _, other = segmenter()
    assert {f.name for f in folder.iterdir()} == {
        *("segmenter.xml", "segmenter.bin", "segmenter.json"),
        *("segmenter_host.py", "host_pictures.py"),
    }
    assert "f16" not in (folder / "segmenter.xml").read_text()
    size = (other / "segmenter.onnx").stat().st_size
    assert (folder / "segmenter.bin").stat().st_size > 0.6 * size


@pytest.mark.parametrize("format", FORMATS)
def test_compare(segmenter, format):
    model, folder = segmenter(format=format)
    assert compare_segmenter(model, folder).small
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.decode_head.conv_seg.bias[0] += 1
    assert not compare_segmenter(other, folder).small


@pytest.mark.parametrize("format", FORMATS)
def test_alone_beside_the_graph(segmenter, format, tmp_path):
    model, folder = segmenter(format=format)
    Image.fromarray(picture(50, 90)).save(tmp_path / "wave.png")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import segmenter_host\n"
        "assert segmenter_host.main(sys.argv[2:]) == 0\n"
        "assert not {'torch', 'convnext'} & set(sys.modules)\n"
    )
    arguments = [str(tmp_path / "wave.png"), "--out", str(tmp_path / "maps")]
    command = [sys.executable, "-I", "-c", program, str(folder), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    expected = expected_classes(model, picture(50, 90), folder)
    with Image.open(tmp_path / "maps" / "000001_wave.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[3:6] == [40, 0, 255]
        found = np.array(image)
    assert (found != expected).mean() < 1e-3
    rows = list(csv.DictReader(io.StringIO(ran.stdout)))
    assert [row["class"] for row in rows] == settings_of(folder)["classes"]
    assert [int(row["pixels"]) for row in rows] == np.bincount(
        found.reshape(-1), minlength=5
    ).tolist()
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-4)


def test_more_classes_than_colours():
    classes = np.arange(300, dtype=np.int32).reshape(15, 20)
    image = segmenter_host.index_image(classes, [[0, 0, 0]] * 300)
    assert np.array_equal(np.array(image), classes)


def test_command(segmenter, segmenter_traced_before, tmp_path, capsys):
    pytest.importorskip("openvino", reason="the extra convnext[openvino] is not installed")
    model, folder = segmenter()
    told = settings_of(folder)
    names = ("min_size", "max_size", "window", "stride")
    seen = SegmenterPreprocessing(**{name: told[name] for name in names})
    save_segmenter(model, tmp_path / "weights", labels=told["classes"], preprocessing=seen)
    out = tmp_path / "a" / "graph"
    for format in FORMATS:
        arguments = ["export", str(tmp_path / "weights"), "--out", str(out), "--format", format]
        assert main(arguments) == 0
        said = capsys.readouterr().out
        assert "logits differ by" in said
        assert "segmenter_host.py" in said
        graph = {"onnx": {"segmenter.onnx"}, "openvino": {"segmenter.xml", "segmenter.bin"}}[format]
        files = {"segmenter.json", "segmenter_host.py", "host_pictures.py", *graph}
        assert {f.name for f in out.iterdir()} == files  # none of the other format
        now = settings_of(out)
        for name in ("title", "colours", "graph", "versions"):
            assert now.pop(name)
        assert now == {name: told[name] for name in now}
    assert [f.name for f in out.parent.iterdir()] == [out.name]


def test_command_refuses(segmenter, tmp_path, capsys):
    pytest.importorskip("openvino", reason="the extra convnext[openvino] is not installed")
    save_detector(new_detector("convnextv2_tiny"), tmp_path / "detector")
    arguments = ["export", str(tmp_path / "detector"), "--format", "openvino"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "detectors are exported as onnx, not openvino" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_refuses(tmp_path, monkeypatch):
    model = new_segmenter("convnextv2_tiny")
    out = tmp_path / "out"
    if tracing.find_spec("onnxscript"):
        with pytest.raises(ValueError, match="2 labels for a network with 5 classes"):
            export_segmenter(model, out, labels=["a", "b"])
        with pytest.raises(ValueError, match="1 colours for a network with 5 classes"):
            export_segmenter(model, out, colours=[[0, 0, 0]])
        grey = SegmenterPreprocessing(mean=(0.5,), std=(0.2,))
        with pytest.raises(ValueError, match="1 channels, the network has 3"):
            export_segmenter(model, out, preprocessing=grey)
    with pytest.raises(ValueError, match="format 'tflite' must be one of onnx, openvino"):
        export_segmenter(model, out, format="tflite")
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    for format in FORMATS:
        with pytest.raises(ValueError, match=rf"pip install 'convnext\[{format}\]'"):
            export_segmenter(model, out, format=format)
    assert not out.exists()
    with pytest.raises(ValueError, match="no exported segmentation network"):
        ExportedSegmenter(tmp_path)
