"""Networks and their graphs, which take seconds to trace."""

import shutil
import sys
from pathlib import Path

import pytest

from convnext.deploy import detector as exporting
from convnext.deploy import export_detector, export_segmenter
from convnext.deploy import segmenter as segmenter_exporting
from convnext.weights.preprocessing import SegmenterPreprocessing

sys.path.insert(0, str(Path(__file__).parent))  # for wave_detectors

from wave_detectors import LABELS, PRE, new_detector, new_segmenter


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A detector and its graphs by the name of its body; each is traced once."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra convnext[onnx] is not installed")
    done = {}

    def get(backbone, **config):
        if backbone not in done:
            model = new_detector(backbone, **config)
            folder = tmp_path_factory.mktemp(backbone)
            done[backbone] = (
                model,
                export_detector(model, folder, labels=LABELS, preprocessing=PRE),
            )
        return done[backbone]

    return get


@pytest.fixture(scope="session")
def simple(exported):
    return exported("convnextv2_tiny")


@pytest.fixture(scope="session")
def cascade(exported):
    return exported("slak_tiny", cascade=True)


@pytest.fixture
def traced_before(simple, monkeypatch):
    """Instead of tracing, which takes seconds, copy the graphs of the same detector."""

    monkeypatch.setattr(exporting, "write_onnx", copy_of(simple[1]))


def copy_of(folder):
    """What to trace with where the same network's graphs are in a folder."""

    def copy(module, inputs, outputs, *, shapes, file, opset):
        shutil.copyfile(folder / file.name, file)

    return copy


SEEN = SegmenterPreprocessing(min_size=70, max_size=160, window=64, stride=40)
CLASSES = ["sky", "Straße", "木", "4", "5"]


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory):
    """A segmentation network and its graph by the name of its body and a format."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra convnext[onnx] is not installed")
    models, done = {}, {}

    def get(backbone="convnextv2_tiny", format="onnx"):
        if format == "openvino":
            pytest.importorskip("openvino", reason="the extra convnext[openvino] is not installed")
        model = models.setdefault(backbone, new_segmenter(backbone))
        if (backbone, format) not in done:
            folder = tmp_path_factory.mktemp(f"{backbone}_{format}")
            settings = {"labels": CLASSES, "preprocessing": SEEN, "format": format}
            settings["colours"] = [[40 * i, 0, 255] for i in range(5)]
            with pytest.MonkeyPatch.context() as patch:
                if format == "openvino":  # by way of the graph that is there
                    copy = copy_of(get(backbone)[1])
                    patch.setattr(segmenter_exporting, "write_onnx", copy)
                export_segmenter(model, folder, **settings)
            done[backbone, format] = folder
        return model, done[backbone, format]

    return get


@pytest.fixture
def segmenter_traced_before(segmenter, monkeypatch):
    """As `traced_before`."""
    monkeypatch.setattr(segmenter_exporting, "write_onnx", copy_of(segmenter()[1]))
