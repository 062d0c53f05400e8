"""Colours of classes, maps over pictures, and maps as images."""

import numpy as np
import pytest
from PIL import Image

from convnext.report import overlay as module
from convnext.report.overlay import IGNORED_COLOUR, index_image, overlay, palette


def grey(size, value=100):
    return Image.new("RGB", (size[1], size[0]), (value,) * 3)


def test_colours_stay_and_are_apart():
    many = palette(512)
    assert many.shape == (512, 3)
    assert many.dtype == np.uint8
    for number in (1, 5, 21, 150):
        np.testing.assert_array_equal(palette(number), many[:number])
    assert len(np.unique(many, axis=0)) == 512
    lab = module._oklab(many[:20].astype(float))
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    assert apart[~np.eye(20, dtype=bool)].min() > 0.1
    np.testing.assert_array_equal(palette(600)[512:], many[:88])
    palette(3)[:] = 0  # a caller's copy
    np.testing.assert_array_equal(palette(3), many[:3])


def test_colours_of_neighbours_are_neither_grey_nor_dark():
    lab = module._oklab(palette(256).astype(float))
    assert (np.hypot(lab[:, 1], lab[:, 2]) > 0.06).all()
    assert (lab[:, 0] > 0.45).all()


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_inside_a_region_colour_and_picture_are_mixed(alpha):
    mask = np.zeros((20, 30), np.int16)
    mask[:, 15:] = 1
    drawn = np.asarray(overlay(grey(mask.shape), mask, palette(2), alpha)).astype(float)
    for column, colour in ((3, palette(2)[0]), (25, palette(2)[1])):
        expected = 100 + alpha * (colour.astype(float) - 100)
        assert np.abs(drawn[10, column] - expected).max() <= 1
    for column, colour in ((14, palette(2)[0]), (15, palette(2)[1])):  # the line between them
        assert np.abs(drawn[10, column] - (100 + 0.95 * (colour - 100.0))).max() <= 1


def test_what_does_not_count_is_hatched_in_grey():
    drawn = np.asarray(overlay(grey((40, 40), 20), np.full((40, 40), -1), palette(3)))
    assert (drawn[..., 0] == drawn[..., 2]).all()
    values, counts = np.unique(drawn, return_counts=True)
    assert len(values) == 2
    assert 20 < values[0] < values[1] < IGNORED_COLOUR[0]
    assert 0.8 < counts[0] / counts[1] < 1.25


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64])
def test_strips_join_without_a_seam(monkeypatch, kind):
    random = np.random.default_rng(0)
    mask = np.kron(random.integers(0, 4, (9, 7)), np.ones((5, 6), int)).astype(kind)
    if kind is not np.uint8:
        mask[10:22, 4:30] = -1
    picture = Image.fromarray(random.integers(0, 256, (*mask.shape, 3), dtype=np.uint8))
    whole = overlay(picture, mask, palette(4))
    for strip in (1, 3 * mask.shape[1], 1000):
        monkeypatch.setattr(module, "STRIP", strip)
        assert overlay(picture, mask, palette(4)).tobytes() == whole.tobytes()
    assert picture.size == whole.size


def test_lines_grow_with_the_picture():
    mask = np.zeros((3000, 3000), np.uint8)
    mask[:, 1500:] = 1
    row = np.asarray(overlay(grey(mask.shape), mask, palette(2), 0.0))[1500]
    assert (row != 100).any(axis=1).sum() == 4


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_pictures_of_any_mode(mode):
    mask = np.zeros((4, 5), np.int16)
    drawn = overlay(grey(mask.shape).convert(mode), mask, palette(1), 1.0)
    assert drawn.mode == "RGB"
    assert drawn.getpixel((2, 2)) == tuple(palette(1)[0].tolist())


def test_maps_that_do_not_fit():
    with pytest.raises(ValueError, match=r"a map of \(4, 5\) for a picture of \(5, 4\)"):
        overlay(grey((5, 4)), np.zeros((4, 5), np.int16), palette(2))
    with pytest.raises(ValueError, match="holds class 2, but there are 2 colours"):
        overlay(grey((4, 5)), np.full((4, 5), 2), palette(2))


def test_images_of_class_numbers(tmp_path):
    mask = np.array([[0, 1, 2], [3, -1, 10]], np.int16)
    path = tmp_path / "mask.png"
    index_image(mask, 11).save(path)
    with Image.open(path) as image:
        assert image.mode == "P"
        values = np.asarray(image)
        colours = np.asarray(image.convert("RGB"))
    assert values.tolist() == [[0, 1, 2], [3, 255, 10]]
    np.testing.assert_array_equal(colours[0], palette(3))
    assert tuple(colours[1, 1]) == IGNORED_COLOUR
    many = np.array([[0, 300, -1]], np.int32)
    index_image(many, 301).save(path)
    with Image.open(path) as image:
        assert image.mode == "I;16"
        assert np.asarray(image).tolist() == [[0, 300, 65535]]
    full = np.arange(256).reshape(16, 16)
    np.testing.assert_array_equal(np.asarray(index_image(full, 256)), full)


def test_numbers_that_mean_two_things_are_refused():
    with pytest.raises(ValueError, match=r"class 2, outside 0\.\.1"):
        index_image(np.array([[2]]), 2)
    with pytest.raises(ValueError, match="class 255 cannot be told"):
        index_image(np.array([[255, -1]]), 256)
    assert np.asarray(index_image(np.array([[254, -1]]), 256)).tolist() == [[254, 255]]
