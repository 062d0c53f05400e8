"""Boxes, masks and names on pictures of any size and mode."""

import numpy as np
import pytest
from PIL import Image

from convnext.report.drawing import class_colour, draw_detections
from convnext.report.labels import LabelPlacer, font_for, ink_on, printable

RED, GREEN = (255, 0, 0), (0, 255, 0)


def grey(width, height, mode="RGB"):
    return Image.new("RGB", (width, height), (90, 90, 90)).convert(mode)


def test_a_frame_lies_where_the_box_is_and_only_there():
    picture = grey(600, 500)
    drawn = np.asarray(draw_detections(picture, [[100, 50, 300, 200]], [""], colours=[RED]))
    red = (drawn == RED).all(axis=2)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (50, 199, 100, 299)
    assert not red[60:190, 110:290].any()
    assert (np.asarray(picture) == 90).all()
    assert (drawn[60:190, 110:290] == 90).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_any_mode(mode):
    drawn = draw_detections(grey(40, 30, "RGB" if mode == "I;16" else mode), [[1, 1, 9, 9]], ["a"])
    assert drawn.mode == "RGB"


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (64, 48), (479, 20), (480, 480), (2500, 1200)])
def test_small_pictures_are_enlarged_by_whole_factors(size):
    boxes = [[0, 0, *size], [size[0] / 2, 0, size[0], size[1] / 3]]
    masks = [np.ones(size[::-1], bool), np.zeros(size[::-1], bool)]
    drawn = draw_detections(grey(*size), boxes, ["whole picture", "part"], [0.9, 0.1], masks)
    assert max(drawn.size) >= 480
    assert drawn.width % size[0] == drawn.height % size[1] == 0
    assert max(drawn.size) < 960 or drawn.size == size


def test_boxes_outside_or_without_area_do_no_harm():
    boxes = [
        *([-50, -50, -3, -3], [900, 10, 950, 40], [30, 30, 30, 30], [50, 40, 20, 10]),
        *([-1e9, 100, 1e9, 120], [599.9, 499.9, 700, 700], [float("nan"), 0, 9, 9]),
    ]
    drawn = np.asarray(draw_detections(grey(600, 500), boxes, [""] * 7, colours=[RED] * 7))
    red = (drawn == RED).all(axis=2)
    assert red[100].all()  # cut at both sides
    assert red[499, 599]
    assert red[30, 30]
    assert not red[:25].any()


def test_masks_are_a_veil_with_an_edge():
    mask = np.zeros((500, 600), bool)
    mask[100:200, 50:150] = True
    drawn = draw_detections(grey(600, 500), [[50, 100, 150, 200]], [""], None, [mask], veil=0.5)
    colours = np.asarray(drawn)[105:195, 55:145]
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 1
    assert (np.asarray(drawn)[210:] == 90).all()
    (inside,) = np.unique(colours.reshape(-1, 3), axis=0)
    assert not (inside == 90).all()


def test_mismatches_are_named():
    picture, box = grey(600, 500), [[1, 1, 9, 9]]
    mask = np.ones((500, 600), bool)
    for arguments in (
        {"names": []},
        {"names": ["a"], "scores": [1, 2]},
        {"names": ["a"], "colours": []},
        {"names": ["a"], "masks": []},
        {"names": ["a"], "masks": [mask, mask]},
        {"names": ["a"], "masks": [mask.T]},
    ):
        with pytest.raises(ValueError, match=r"for 1 boxes|than the 1 boxes|for a picture of"):
            draw_detections(picture, box, **arguments)
    assert draw_detections(picture, np.zeros((0, 4)), [], [], []).size == (600, 500)


def test_names_of_any_script_are_written():
    names = ["美洲豹", "Größe", "भैंस", "قطة", "🐈", "a\x00b\n\tc", "\udcff", " ", "x" * 500]
    boxes = [[10 + 60 * i, 100, 50 + 60 * i, 140] for i in range(len(names))]
    drawn = draw_detections(grey(600, 500), boxes, names, [0.5] * len(names))
    assert drawn.size == (600, 500)
    assert printable("a\x00b\n\tc \udcff") == "a\ufffdb c \ufffd"
    assert font_for("Größe", 14) is font_for("Größe", 14)


def test_labels_cover_no_other_label_and_stay_inside():
    image = grey(300, 200)
    placer = LabelPlacer(image, 14)
    written = [placer.write("person 0.93", (20, 20, 60, 60), RED) for _ in range(30)]
    assert 4 <= sum(written) < 30
    areas = placer._taken
    for i, (x1, y1, x2, y2) in enumerate(areas):
        assert x1 >= 0 <= y1
        assert x2 <= 300
        assert y2 <= 200
        assert all(x2 <= a[0] or a[2] <= x1 or y2 <= a[1] or a[3] <= y1 for a in areas[:i])
    assert not placer.write("far too long", (200, 100, 210, 110), RED, larger=False)
    assert placer.write("far too long", (200, 100, 210, 110), RED)


def test_letters_fit_into_their_label():
    image = Image.new("RGB", (400, 100), RED)
    LabelPlacer(image, 14).write("Ágjy 0.5", (50.4, 40.6, 120.2, 90.7), GREEN)
    pixels = np.asarray(image)
    letters = (pixels[..., 0] < 128) & (pixels[..., 1] < 128)
    ground = ~letters & ~(pixels == RED).all(axis=2)
    rows, columns = np.flatnonzero(letters.any(axis=1)), np.flatnonzero(letters.any(axis=0))
    outer_rows, outer = np.flatnonzero(ground.any(axis=1)), np.flatnonzero(ground.any(axis=0))
    assert outer_rows[0] < rows[0] <= rows[-1] < outer_rows[-1]
    assert outer[0] < columns[0] <= columns[-1] < outer[-1]


def test_classes_have_colours_of_their_own_with_readable_ink():
    colours = [class_colour(label) for label in range(90)]
    assert len(set(colours)) == 90
    assert all(0 <= c <= 255 for colour in colours for c in colour)
    assert ink_on((255, 255, 0)) == (0, 0, 0)
    assert ink_on((0, 0, 160)) == (255, 255, 255)
    # Without colours each name has one, the same in every picture.
    one, other = (
        draw_detections(grey(600, 500), [[9, 9, 99, 99]], [name]) for name in ("cat", "dog")
    )
    assert one.getpixel((9, 50)) != other.getpixel((9, 50))
    again = draw_detections(grey(600, 500), [[9, 9, 99, 99]], ["cat"])
    assert one.getpixel((9, 50)) == again.getpixel((9, 50))
