"""Windows against loops that follow the definition, views against whole-image formulas."""

import pytest
import torch
from torch.nn import functional as F

from convnext.models.segmentation import sliding, views
from convnext.models.segmentation.sliding import Windows, num_predictions, slide, whole
from convnext.models.segmentation.views import classes_at, mean_probabilities

CLASSES = 4


def predict(images):
    """Logits that depend on the whole window."""
    total = images.mean((2, 3), keepdim=True)
    return torch.cat([images * total, images.cumsum(2), images.flip(3)[:, :1]], 1)[:, :CLASSES]


def reader(image):
    return lambda top, left, height, width: image[:, top : top + height, left : left + width]


def naive(image, size, stride):
    """The published loop over windows."""
    _, h, w = image.shape
    total, count = torch.zeros(CLASSES, h, w), torch.zeros(h, w)
    for i in range(max(h - size + stride - 1, 0) // stride + 1):
        for j in range(max(w - size + stride - 1, 0) // stride + 1):
            bottom, right = min(i * stride + size, h), min(j * stride + size, w)
            place = slice(max(bottom - size, 0), bottom), slice(max(right - size, 0), right)
            total[:, *place] += predict(image[None, :, *place])[0]
            count[place] += 1
    return total / count


@pytest.mark.parametrize("memory", [2**30, 4 * CLASSES * 32 * 80, 1])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "size", "stride"),
    [
        (100, 300, 32, 10),
        (33, 200, 32, 32),
        (20, 90, 32, 17),
        (200, 20, 32, 9),
        (64, 64, 64, 10),
        (97, 101, 31, 30),
        (50, 50, 20, 1),
    ],
)
def test_tiles_are_the_mean_over_windows(monkeypatch, memory, batch, height, width, size, stride):
    monkeypatch.setattr(sliding, "SUM_BYTES", memory)
    image, seen = torch.randn(2, height, width), []

    def counted(images):
        seen.append(len(images))
        return predict(images)

    windows = Windows(size, stride)
    tiles = slide(counted, reader(image), (height, width), windows, CLASSES, batch=batch)
    found = whole(tiles, (height, width))
    torch.testing.assert_close(found, naive(image, size, stride), rtol=1e-4, atol=1e-4)
    assert max(seen) <= batch
    assert len(seen) == num_predictions((height, width), windows, CLASSES, batch=batch)


def test_tiles_cover_each_pixel_once():
    covered = torch.zeros(90, 70)
    for tile in slide(predict, reader(torch.randn(2, 90, 70)), (90, 70), Windows(32, 20), CLASSES):
        height, width = tile.logits.shape[1:]
        covered[tile.top : tile.top + height, tile.left : tile.left + width] += 1
    assert torch.equal(covered, torch.ones(90, 70))


def test_a_part_that_leaves_no_gap_is_asked_for():
    for size, stride in ((0, 1), (32, 0), (32, 33)):
        with pytest.raises(ValueError, match=f"window {size} with stride {stride}"):
            Windows(size, stride)


def test_the_last_window_is_moved_back():
    assert Windows(512, 341).along(1024) == [range(512), range(341, 853), range(512, 1024)]
    assert Windows(512, 341).along(512) == [range(512)]
    assert Windows(512, 341).along(300) == [range(300)]


@pytest.mark.parametrize("memory", [2**26, 4 * 5 * 61 * 3])
@pytest.mark.parametrize(("have", "want"), [((20, 30), (45, 61)), ((64, 50), (33, 17))])
def test_classes_in_bands_are_those_of_the_whole(monkeypatch, memory, have, want):
    monkeypatch.setattr(views, "BAND_BYTES", memory)
    logits = torch.randn(5, *have)
    expected = F.interpolate(logits[None], want, mode="bilinear")[0].argmax(0)
    found = classes_at(logits, want)
    assert found.dtype == torch.int16
    assert (found != expected).float().mean() < 1e-3  # of equal logits either may win
    assert torch.equal(classes_at(logits, have), logits.argmax(0).short())


def test_views_are_averaged_as_probabilities():
    image = torch.randn(1, 2, 24, 20)
    seen = [image[0], F.interpolate(image, (36, 30), mode="bilinear")[0]]
    total = 0
    for view in seen:
        for mirrored in (False, True):
            logits = predict(view.flip(-1)[None] if mirrored else view[None])
            p = F.interpolate(logits, (40, 33), mode="bilinear").softmax(1)[0]
            total = total + (p.flip(-1) if mirrored else p)
    torch.testing.assert_close(mean_probabilities(predict, seen, (40, 33)), total / 4)
