"""Detectors and their graphs, which take seconds to trace."""

import shutil
import sys
from pathlib import Path

import pytest

from convnext.deploy import detector as exporting
from convnext.deploy import export_detector

sys.path.insert(0, str(Path(__file__).parent))  # for wave_detectors

from wave_detectors import LABELS, PRE, new_detector


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

    def copy(module, inputs, outputs, *, shapes, file, opset):
        shutil.copyfile(simple[1] / file.name, file)

    monkeypatch.setattr(exporting, "write_onnx", copy)
