"""How masks are read, from training to scores: kept with the weights, said, shared by processes."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from convnext.cli import main
from convnext.data.config import DetectionDataConfig, SegmentationDataConfig
from convnext.models.registry import build_model
from convnext.models.upernet import UPerNet, UPerNetConfig
from convnext.recipes.recipe import Recipe
from convnext.run import choose_detection, choose_segmentation, segmenting
from convnext.run.doctor import doctor
from convnext.run.job import Job
from convnext.run.segmentation import SEGMENTATION
from convnext.run.segmentation_loading import load_trained_segmenter
from convnext.run.segmentation_scoring import eval_batches, score_segments
from convnext.run.segmenting import image_classes, image_logits, segment_picture
from convnext.run.task_choice import choose_task
from convnext.tasks.classify import ClassifyConfig
from convnext.tasks.segment import SegmentConfig
from convnext.train.config import OptimConfig
from convnext.train.parallel import World
from convnext.weights.preprocessing import SegmenterPreprocessing
from convnext.weights.segmentation import load_segmenter, save_segmenter
from shapes import write_coco, write_segmentation

CPU = torch.device("cpu")
TINY = [
    *("--task.body-args", '{"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}'),
    *("--task.model-args", '{"head_dim": 8, "aux_dim": 8}'),
    *("--image-size", "64", "--device", "cpu", "--train.precision", "fp32", "--workers", "0"),
    *("--batch-size", "4", "--epochs", "1"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images whose classes nobody names, and one that is wholly ignored."""
    root = write_segmentation(tmp_path_factory.mktemp("data") / "set", 8, 4, names=False)
    first = root / "masks" / "train" / "train_0000.png"
    Image.new("L", (64, 64), 255).save(first)
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run that ignores the class 3; tests only read it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    more = ("--data.ignore-values", "255", "3")
    assert main(["train", "--data", str(data), "--out", str(out), *TINY, *more]) == 0
    return out


def evaluated(target, data, out, *more):
    args = ["evaluate", str(target), "--data", str(data), "--out", str(out), "--device", "cpu"]
    assert main([*args, "--workers", "0", *more]) == 0
    return json.loads((out / "evaluation.json").read_text())


def test_weights_are_scored_as_in_training(data, run, tmp_path):
    trained = json.loads((run / "evaluation.json").read_text())["val"]
    assert [c["name"] for c in trained["per_class"]] == ["0", "1", "2"]
    scores = evaluated(run / "weights", data, tmp_path / "a")
    assert scores == trained
    fewer = evaluated(run / "weights", data, tmp_path / "b", "--ignore-values", "255", "3", "2")
    assert fewer["per_class"][2]["pixels"] == 0
    assert fewer["num_pixels"] + trained["per_class"][2]["pixels"] == trained["num_pixels"]
    of_run = evaluated(run, data, tmp_path / "c", "--ignore-values", "255", "3")
    assert of_run == trained


def test_options_that_are_for_masks_alone(run, data, tmp_path, capsys):
    args = ["evaluate", str(run / "weights"), "--data", str(data), "--out", str(tmp_path / "e")]
    assert main([*args, "--device", "cpu", "--ignore-values", "255"]) == 2
    assert "value 3" in capsys.readouterr().err
    assert main(["evaluate", "convnext_tiny", "--data", str(data), "--ignore-values"]) == 2
    assert "--ignore-values is not for classifiers" in capsys.readouterr().err


def test_older_weights_and_damaged_ones(run, tmp_path):
    network, info = load_segmenter(run / "weights")
    assert info.extra["reading"] == {
        "masks": "classes",
        "reduce_zero_label": "auto",
        "ignore_values": [255, 3],
        "on_bad_image": "stop",
    }
    save_segmenter(network, tmp_path / "old")
    loaded = load_trained_segmenter(str(tmp_path / "old"), CPU)
    assert loaded.data.ignore_values == (255,)
    for wrong in ({"reading": {"masks": 3}}, {"reading": [1]}):
        save_segmenter(network, tmp_path / "bad", extra=wrong)
        with pytest.raises(ValueError, match=r"bad: what is stored of its masks is damaged"):
            load_trained_segmenter(str(tmp_path / "bad"), CPU)


def test_what_cannot_be_used_is_left_out_as_in_training(data, run, tmp_path, capsys):
    network, info = load_segmenter(run / "weights")
    other = tmp_path / "set"
    shutil.copytree(data, other)
    for name in ("val_0001", "val_0002"):
        file = other / "masks" / "val" / f"{name}.png"
        file.write_bytes(file.read_bytes()[:60])
    skipping = {"reading": {**info.extra["reading"], "on_bad_image": "skip"}}
    kept = {"labels": info.labels, "preprocessing": info.preprocessing}
    save_segmenter(network, tmp_path / "weights", extra=skipping, **kept)
    assert evaluated(tmp_path / "weights", other, tmp_path / "a")["num_images"] == 2
    said = capsys.readouterr().out
    assert "2 images that cannot be used are left out, the first: " in said
    assert "masks/val/val_0001.png" in said


def test_images_that_are_ignored_are_not_said_to_have_trained(run):
    report = (run / "report.html").read_text()
    assert "on 7 images of 3 classes" in report
    assert "training images wholly ignored" in report


def test_a_run_keeps_its_task(run, data, tmp_path, capsys):
    """Whatever the data look like by now, or their place is called."""
    assert isinstance(choose_task("", str(tmp_path), run), SegmentConfig)
    assert isinstance(choose_task("", str(tmp_path), tmp_path / "new"), ClassifyConfig)
    assert isinstance(choose_task("", str(data), tmp_path / "new"), SegmentConfig)
    assert isinstance(choose_task("convnext_tiny", str(data), tmp_path / "new"), ClassifyConfig)
    gone = ["train", "--data", str(tmp_path / "gone"), "--out", str(run), *TINY]
    assert main([*gone, "--data.ignore-values", "255", "3"]) == 2
    assert "gone: no such file or folder" in capsys.readouterr().err


def test_one_process_reads_the_masks_for_all(data):
    """The second process of a run takes what the first one found."""

    class Told(World):
        def from_main(self, compute):
            return np.array([5, 2, 3, 1])

    config = SegmentationDataConfig(path=str(data), workers=0)
    recipe = Recipe(task=SegmentConfig(), data=config, optim=OptimConfig(batch_size=4))
    job = Job(recipe, SEGMENTATION.open(recipe), Told(rank=1, size=2))
    assert SEGMENTATION.batches(job).num_samples == 4  # alone it would find 7


def test_boxes_and_masks_in_one_folder(tmp_path, capsys):
    both = str(write_segmentation(write_coco(tmp_path / "set", 4, 2, size=64), 4, 2))
    _, reasons = choose_detection(DetectionDataConfig(path=both), device="cpu")
    assert reasons[0].startswith("boxes are learnt; there are masks of classes, too: --model uper")
    _, reasons = choose_segmentation(SegmentationDataConfig(path=both), device="cpu")
    assert reasons[0].startswith("masks of classes are learnt; there are boxes, too: --model mask_")
    said = []
    assert doctor(both, workers=0, json=tmp_path / "found.json", say=said.append)
    assert [text.split(": ")[0] for text in said] == ["detection", "segmentation"]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ok"]
    assert found["segmentation"]["counts"]["train images"] == 4
    (tmp_path / "set" / "classes.txt").write_text("a\na\n")
    assert not doctor(both, workers=0, say=said.append)
    assert "class 'a' is named twice" in said[-1]
    only = str(write_segmentation(tmp_path / "only", 4, 2))
    _, reasons = choose_segmentation(SegmentationDataConfig(path=only), device="cpu")
    assert not any("--model" in reason for reason in reasons)


def small_network(num_classes=3):
    shape = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
    body = build_model("convnext_tiny", **shape, features_only=True, num_classes=0)
    config = UPerNetConfig(backbone="convnext_tiny", num_classes=num_classes, head_dim=8, aux_dim=0)
    network = UPerNet(config, body).eval()
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.ndim >= 2:
                torch.nn.init.kaiming_normal_(tensor)
    return network


@pytest.mark.parametrize("size", [(150, 201), (64, 64), (20, 40), (20, 90)])
def test_classes_of_large_images_in_tiles_are_those_of_the_whole(size):
    network, image = small_network(), torch.randn(3, *size)
    data = SegmentationDataConfig(min_size=0, window=64, stride=43)
    with torch.no_grad():
        found = image_classes(network, image, data, 3, size)
        logits = image_logits(network, image, data, 3)
    assert found.dtype == torch.int16
    assert torch.equal(found.long(), logits.argmax(0))


def test_logits_of_images_that_keep_their_size_never_exist_whole(tmp_path, monkeypatch):
    root = write_segmentation(tmp_path / "set", 2, 1, size=180)
    data = SegmentationDataConfig(path=str(root), min_size=0, window=64, stride=43, workers=0)
    network = small_network(4)
    source = SEGMENTATION.open(Recipe(task=SegmentConfig(), data=data)).val
    names = ("a", "b", "c", "d")
    before = score_segments(network, eval_batches(source, data), data, names, CPU)
    monkeypatch.setattr(segmenting, "whole", None)
    after = score_segments(network, eval_batches(source, data), data, names, CPU)
    assert np.array_equal(before.confusion, after.confusion)
    segment_picture(network, source.read(0), data, CPU)
    # Nor is an image seen at once whose logits would be too many.
    at_once = SegmentationDataConfig(path=str(root), min_size=0, window=0, workers=0)
    seen = []

    def counted(images):
        seen.append(tuple(images.shape[2:]))
        return network(images)

    usual = {"window": 64, "stride": 43}
    monkeypatch.setattr(
        segmenting, "SegmentationDataConfig", lambda: SegmentationDataConfig(**usual)
    )
    score_segments(counted, eval_batches(source, at_once), at_once, names, CPU)
    monkeypatch.setattr(segmenting, "WHOLE_BYTES", 4 * 4 * 180 * 180 - 1)
    windowed = score_segments(counted, eval_batches(source, at_once), at_once, names, CPU)
    assert seen[0] == (180, 180)
    assert set(seen[1:]) == {(64, 64)}
    assert np.array_equal(before.confusion, windowed.confusion)


def test_views_of_images_that_are_too_large(tmp_path, monkeypatch, capsys):
    root = write_segmentation(tmp_path / "set", 2, 2, size=90, names=False)
    weights = tmp_path / "weights"
    seen = SegmenterPreprocessing(min_size=0, window=64, stride=43)
    save_segmenter(small_network(4), weights, preprocessing=seen)
    monkeypatch.setattr(segmenting, "VIEW_BYTES", 4 * 4 * 90 * 90 - 1)
    args = ["evaluate", str(weights), "--data", str(root), "--out", str(tmp_path / "e"), "--tta"]
    assert main([*args, "--device", "cpu", "--workers", "0"]) == 2
    message = capsys.readouterr().err
    assert "val_0000.png: 90x90 pixels of 4 classes are too large to be seen" in message
    picture = root / "images" / "val" / "val_0001.png"
    assert main(["predict", str(weights), str(picture), "--tta", "--device", "cpu"]) == 1
    assert "val_0001.png: 90x90 pixels" in capsys.readouterr().err
