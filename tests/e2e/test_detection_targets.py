"""What a target of the command line is taken for, and what is known about a detector."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from convnext.cli import main
from convnext.models.mask_rcnn import MaskRCNN, MaskRCNNConfig
from convnext.models.registry import build_model
from convnext.run import target
from convnext.run.detection_loading import load_trained
from convnext.run.target import kind_of_target
from convnext.weights import save_pretrained
from convnext.weights.detection import save_detector
from convnext.weights.labels import coco_category_ids, coco_labels
from convnext.weights.systems.kinds import DETECTOR, SEGMENTER
from shapes import CATEGORY_IDS, write_coco

SHAPE = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
WIDTHS = {"fpn_dim": 8, "fc_dim": 8, "mask_convs": 1, "masks": False, "score_threshold": 0.0}
ENDS = ("/model.safetensors", ".pth")
TRAIN = [
    *("--task.body-args", json.dumps({k: list(v) for k, v in SHAPE.items()})),
    *("--task.model-args", '{"fpn_dim": 8, "fc_dim": 8, "roi_sampled": 32}', "--epochs", "1"),
    *("--image-size", "64", "--device", "cpu", "--workers", "0", "--batch-size", "4"),
    *("--data.on-bad-image", "skip"),
]
CPU = torch.device("cpu")


def detector(num_classes=3):
    body = build_model("convnext_tiny", **SHAPE, features_only=True, num_classes=0)
    config = MaskRCNNConfig(backbone="convnext_tiny", num_classes=num_classes, **WIDTHS)
    return MaskRCNN(config, body)


@pytest.fixture
def weights(tmp_path):
    """A folder with a detector and a classifier, each in a folder and as a PyTorch file."""
    root = tmp_path / "weights"
    classifier = build_model("convnext_tiny", **SHAPE, num_classes=3)
    save_detector(detector(), root / "detector", labels="abc", extra={"category_ids": [4, 7, 9]})
    save_pretrained(classifier, root / "classifier")
    for name in ("detector", "classifier"):
        torch.save(load_file(root / name / "model.safetensors"), root / f"{name}.pth")
    return root


@pytest.fixture
def served(weights, tmp_path, monkeypatch):
    """The address of that folder, and the paths that were asked for."""
    monkeypatch.setenv("CONVNEXT_HOME", str(tmp_path / "downloads"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=weights))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_detector_by_its_address(served):
    address, asked = served
    names = [f"{kind}{end}" for kind in ("detector", "classifier") for end in ENDS]
    assert [kind_of_target(f"{address}/{name}") for name in names] == [
        DETECTOR,
        DETECTOR,
        None,
        None,
    ]
    assert load_trained(f"{address}/{names[0]}", CPU).category_ids == (4, 7, 9)
    assert len(asked) == len(names)  # each was downloaded once
    with pytest.raises(OSError, match="no such file"):
        kind_of_target(f"{address}/nothing.pth")


def test_of_files_that_list_their_tensors_the_list_is_enough(weights, monkeypatch):
    assert kind_of_target("mask_rcnn_convnext_tiny.in1k_coco") is DETECTOR
    assert kind_of_target("upernet_convnext_tiny.in1k_ade20k") is SEGMENTER
    assert kind_of_target("convnext_tiny.in1k") is None
    wrapped = load_file(weights / "detector" / "model.safetensors")
    save_file({f"module.{k}": v for k, v in wrapped.items()}, weights / "wrapped.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(target, "open_weights", None)  # it reads the tensors
        assert kind_of_target(str(weights / "detector")) is DETECTOR
        assert kind_of_target(str(weights / "wrapped.safetensors")) is DETECTOR
        assert kind_of_target(str(weights / "classifier" / "model.safetensors")) is None
    start = (weights / "wrapped.safetensors").read_bytes()[:999]
    for content in (b"", b"version https://git-lfs", start):
        (weights / "broken.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.safetensors"):
            kind_of_target(str(weights / "broken.safetensors"))


def test_numbers_of_classes(tmp_path):
    assert len(coco_category_ids()) == len(coco_labels()) == 80
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert set(coco_category_ids()) == set(range(1, 91)) - gaps
    assert dict(zip(coco_category_ids(), coco_labels(), strict=True))[90] == "toothbrush"
    cases = [
        ("abc", [4, 7, 9], (4, 7, 9)),
        ("abc", [4, 7], None),
        ("abc", [4, 7, "9"], None),
        ("abc", None, None),
        (coco_labels(), None, coco_category_ids()),
        (coco_labels(), list(range(80)), tuple(range(80))),
    ]
    for number, (labels, stored, expected) in enumerate(cases):
        folder = tmp_path / str(number)
        extra = {"category_ids": stored} if stored else {}
        save_detector(detector(len(labels)), folder, labels=tuple(labels), extra=extra)
        assert load_trained(str(folder), CPU).category_ids == expected


def test_predictions_have_the_numbers_of_the_annotations(weights, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    out = tmp_path / "o.json"
    args = ["predict", str(weights / "detector"), str(tmp_path / "a.png"), "--json", str(out)]
    assert main([*args, "--threshold", "0", "--device", "cpu"]) == 0
    found = {(entry["category_id"], entry["category"]) for entry in json.loads(out.read_text())}
    assert found
    assert found <= {(4, "a"), (7, "b"), (9, "c")}


def test_a_run_that_left_out_images(tmp_path):
    """Its weights know the numbers of its classes; its scores come again without those images."""
    data, out, again = (tmp_path / name for name in ("data", "run", "again"))
    write_coco(data, 5, 3, size=64, masks=False)
    for name in ("train/train_0001.png", "val/val_0001.png"):
        (data / name).write_bytes((data / name).read_bytes()[:200])
    assert main(["train", "--data", str(data), "--out", str(out), *TRAIN]) == 0
    assert load_trained(str(out), CPU).category_ids == CATEGORY_IDS
    assert main(["evaluate", str(out), "--out", str(again), "--device", "cpu"]) == 0
    scores = json.loads((again / "evaluation.json").read_text())
    assert scores["num_images"] == 2
    assert scores["box"] == json.loads((out / "evaluation.json").read_text())["val"]["box"]
