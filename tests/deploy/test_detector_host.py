"""What the program beside the graphs computes by itself equals what the models' code does."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.ops import nms as torch_nms

from convnext.data.decode import read_image
from convnext.data.detection import transforms
from convnext.deploy import detector_host as host
from convnext.deploy import host_pictures as pictures
from convnext.models.detection import boxes as geometry
from convnext.models.detection import masks
from convnext.models.detection.nms import best_of_classes

RULE = {"score_threshold": 0.05, "most": 40, "nms_iou": 0.5, "soft_nms": False}


def some_boxes(number, seed=0, *shape):
    rng = np.random.default_rng(seed)
    low = rng.random((number, *shape, 2)) * 60
    return np.concatenate([low, low + 5 + 40 * rng.random(low.shape)], -1).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("old", "new"),
    [((60, 41), (97, 75)), ((60, 40), (120, 80)), ((60, 40), (30, 20)), ((9, 50), (9, 1))],
)
def test_resize(old, new, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (*old, channels), np.uint8)
    image = torch.tensor(pixels).permute(2, 0, 1)[None]
    image = image.contiguous(memory_format=torch.channels_last)
    expected = F.interpolate(image, new, mode="bilinear", align_corners=False)
    assert np.array_equal(pictures.resize(pixels, *new), expected[0].permute(1, 2, 0))


@pytest.mark.parametrize("size", [(480, 640), (427, 640), (1, 3000), (799, 1334), (333, 17)])
def test_fit_size(size):
    assert pictures.fit_size(*size, 800, 1333) == transforms.fit_size(*size, 800, 1333)


def test_anchors():
    found = host.anchors((3, 5), 8, 4.0, [0.5, 1.0, 2.0])
    expected = geometry.anchors((3, 5), 8, 4.0, torch.device("cpu"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_decode_and_clip():
    start, deltas = some_boxes(50), np.random.default_rng(1).normal(0, 3, (50, 4))
    deltas = deltas.astype(np.float32)
    moved = host.decode(start, deltas, geometry.MAX_LOG_RATIO)
    size = torch.tensor([70, 90])
    expected = geometry.decode(torch.tensor(start), torch.tensor(deltas), (1.0,) * 4, size)
    np.testing.assert_allclose(host.clip(moved, (70, 90)), expected, rtol=1e-5, atol=1e-4)
    assert moved.dtype == np.float32


def test_nms():
    boxes, scores = some_boxes(300), np.random.default_rng(1).random(300, np.float32)
    boxes[7] = boxes[8] = [5, 5, 5, 5]  # without area
    expected = torch_nms(torch.tensor(boxes), torch.tensor(scores), 0.5)
    assert 10 < len(expected) < 290
    assert host.nms(boxes, scores, 0.5).tolist() == expected.tolist()
    assert host.nms(boxes[:0], scores[:0], 0.5).shape == (0,)


@pytest.mark.parametrize("soft", [False, True])
def test_best_of_classes(soft):
    boxes = some_boxes(80, 0, 3)
    probabilities = np.random.default_rng(1).random((80, 4), np.float32) / 2
    found = host.best_of_classes(boxes, probabilities, RULE | {"soft_nms": soft})
    expected = best_of_classes(
        torch.tensor(boxes), torch.tensor(probabilities), threshold=0.05, most=40, soft=soft
    )
    assert len(found[0]) == 40
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    nothing = host.best_of_classes(boxes, probabilities * 0, RULE)
    assert [part.shape for part in nothing] == [(0, 4), (0,), (0,)]


@pytest.mark.parametrize(
    "box",
    [[3.2, 5.9, 40.1, 30.0], [-9, -9, 80, 70], [0, 0, 0, 5], [58.5, 3, 60, 9], [70, 9, 80, 20]],
)
def test_paste(box):
    grid = np.random.default_rng(0).random((28, 28), np.float32)
    canvas = np.zeros((50, 60), bool)
    host.paste(grid, np.array(box, np.float32), canvas)
    expected = masks.paste(torch.tensor(grid), torch.tensor(box, dtype=torch.float32), (50, 60))
    assert np.array_equal(canvas, expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "I;16", "1"])
def test_any_picture(mode, channels, tmp_path):
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (20, 30), np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (20, 30, 4), np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "a.png", exif=exif)
    expected = np.array(read_image(tmp_path / "a.png", channels)).reshape(30, 20, channels)
    assert np.array_equal(pictures.to_pixels(tmp_path / "a.png", channels), expected)


def test_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"expected .H, W, 3. of uint8"):
        pictures.to_pixels(np.zeros((5, 5, 3), np.float32), 3)
    with pytest.raises(ValueError, match="give 4 channels as an array"):
        pictures.to_pixels(Image.new("RGB", (5, 5)), 4)
    with pytest.raises(ValueError, match="no exported detector"):
        host.OnnxDetector(tmp_path)
    (tmp_path / "detector.json").write_text('{"format": 9}')
    with pytest.raises(ValueError, match="format 9, this program reads 1"):
        host.OnnxDetector(tmp_path)
    (tmp_path / "detector.json").write_text("[]")
    with pytest.raises(ValueError, match="damaged"):
        host.OnnxDetector(tmp_path)
