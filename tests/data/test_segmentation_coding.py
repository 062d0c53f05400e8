"""From mask files to classes: kinds of files, lists of classes, what is outside them."""

import pickle

import numpy as np
import pytest
from PIL import Image

from convnext.data import SegmentationAugmentConfig, SegmentationDataConfig
from convnext.data.segmentation import IGNORE, MaskError
from convnext.data.segmentation.class_list import find_class_list
from convnext.data.segmentation.coding import Coding, file_coding, mask_pixels, named_coding
from convnext.data.segmentation.names import ADE20K, CITYSCAPES, CITYSCAPES_IDS, VOC, VOC_COLOURS

CONFIG = SegmentationDataConfig()
THREE = named_coding(("a", "b", "c"), range(3), CONFIG, "the test")
VALUES = np.array([[0, 1, 2], [2, 255, 0]])
CLASSES = np.array([[0, 1, 2], [2, IGNORE, 0]])


def stored(tmp_path, image, suffix=".png", **options):
    path = tmp_path / f"mask{suffix}"
    image.save(path, **options)
    with Image.open(path) as again:
        again.load()
        return again


def palette_image():
    image = Image.fromarray(VALUES.astype(np.uint8))
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0] + 759 * [50])
    return image


def grey(values, dtype):
    return Image.fromarray(np.asarray(values).astype(dtype))


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (grey(VALUES, np.uint8), ".png"),
        (palette_image(), ".png"),
        (grey(VALUES, np.uint16), ".png"),
        (grey(VALUES, np.uint16), ".tif"),
        (grey(VALUES, np.int32), ".tif"),
        (grey(VALUES, np.float32), ".tif"),
        (grey(VALUES, np.uint8).convert("LA"), ".png"),
        (grey(np.stack(3 * [VALUES], -1), np.uint8), ".png"),
        (grey(np.stack(3 * [VALUES], -1), np.uint8).convert("RGBA"), ".png"),
    ],
)
def test_kinds_of_index_files(tmp_path, image, suffix):
    mask = THREE.decode(stored(tmp_path, image, suffix), "mask.png")
    assert mask.dtype == np.int16
    assert np.array_equal(mask, CLASSES)


def test_one_bit(tmp_path):
    image = stored(tmp_path, grey([[0, 255]], np.uint8).convert("1"))
    assert image.mode == "1"
    assert THREE.decode(image, "m").tolist() == [[0, 1]]


def test_large_and_sparse_values():
    coding = named_coding(("x", "y", "z"), (7, 70_000, 16_000_000), CONFIG, "the test")
    values = np.array([[7, 70_000], [16_000_000, 255]])
    assert coding.decode(grey(values, np.int32), "m").tolist() == [[0, 1], [2, IGNORE]]
    with pytest.raises(MaskError, match=r"m: value 8 \(1 pixels\) is outside"):
        coding.decode(grey([[8, 7]], np.int32), "m")
    with pytest.raises(MaskError, match=r"value -5 \(1 pixels\)"):
        THREE.decode(grey([[-5, 1]], np.int32), "m")
    with pytest.raises(MaskError, match=r"value 65535 \(2 pixels\)"):
        THREE.decode(grey([[65535, 65535]], np.uint16), "m")


def test_values_outside_the_classes_are_counted():
    message = (
        r"m: value 9 \(3 pixels\), 3 \(1 pixels\) is outside the 3 classes of the test "
        r"\(values 0 to 2\); name it in classes.txt, list it in ignore_values, or correct the mask"
    )
    with pytest.raises(MaskError, match=message) as error:
        THREE.decode(grey([[9, 9, 3, 0, 9, 255]], np.uint8), "m")
    assert error.value.kind == "unknown_value"
    again = pickle.loads(pickle.dumps(error.value))  # noqa: S301
    assert (str(again), again.kind) == (str(error.value), "unknown_value")
    with pytest.raises(MaskError, match=r"and 2 more is outside"):
        THREE.decode(grey([[9, 10, 11, 12, 13, 14, 15]], np.uint8), "m")


def test_fractions_are_no_classes():
    with pytest.raises(MaskError, match="m: values are fractions"):
        THREE.decode(grey([[0.5, 1]], np.float32), "m")


def test_colours_without_a_list_of_them():
    picture = grey([[[0, 0, 0], [128, 0, 0], [128, 0, 7]]], np.uint8)
    with pytest.raises(MaskError, match=r"3 colours \(0 0 0, 128 0 0, 128 0 7\).*name r g b"):
        THREE.decode(picture, "m")


def test_instances():
    coding = Coding(("background", "object"), instances=True)
    for values, dtype in (([[0, 1, 255]], np.uint8), ([[0, 7, 65535]], np.uint16)):
        assert coding.decode(grey(values, dtype), "m").tolist() == [[0, 1, 1]]
    colours = grey([[[0, 0, 0], [0, 0, 7], [200, 1, 7]]], np.uint8)
    assert coding.decode(colours, "m").tolist() == [[0, 1, 1]]


def listed(tmp_path, text, name="classes.txt", **options):
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = find_class_list((tmp_path / "nothing", tmp_path))
    reduce = options.pop("reduce", False)
    return file_coding(found, SegmentationDataConfig(**options), reduce=reduce)


@pytest.mark.parametrize("name", ["classes.txt", "labels.txt", "codes.txt", "classes.json"])
def test_a_list_of_names(tmp_path, name):
    text = '["sky", "void", "roαd"]' if name == "classes.json" else "\ufeffsky\nVOID\nroαd\n\n"
    coding = listed(tmp_path, text, name)
    assert coding.classes == ("sky", "roαd")
    assert coding.values == {0: 0, 1: IGNORE, 2: 1, 255: IGNORE}
    assert not coding.colours


@pytest.mark.parametrize("word", ["void", "Ignore", "unlabelled", "unlabeled"])
def test_names_that_mean_nothing(tmp_path, word):
    assert listed(tmp_path, f"{word}\na\nb\n").values[0] == IGNORE


@pytest.mark.parametrize(
    "lines",
    [
        "sea water 0 0 255\nvoid 0 0 0\nland 10 200 0",
        "sea water,0,0,255\nvoid,0,0,0\nland,10,200,0",
        "sea water #0000ff\nvoid #000000\nland #0AC800",
        "sea water; 0; 0; 255\nvoid\t0\t0\t0\nland 10, 200, 0",
    ],
)
def test_a_list_of_colours(tmp_path, lines):
    coding = listed(tmp_path, lines)
    assert coding.classes == ("sea water", "land")
    assert coding.colours == {0x0000FF: 0, 0: IGNORE, 0x0AC800: 1}
    picture = grey([[[0, 0, 255], [0, 0, 0], [10, 200, 0]]], np.uint8)
    wanted = [[0, IGNORE, 1]]
    assert coding.decode(picture, "m").tolist() == wanted
    assert coding.decode(picture.convert("RGBA"), "m").tolist() == wanted
    indexed = picture.quantize(3)
    assert coding.decode(indexed, "m").tolist() == wanted  # the palette, in whatever order
    assert coding.decode(grey([[0, 1, 2]], np.uint8), "m").tolist() == wanted
    with pytest.raises(MaskError, match=r"colour 0 1 255 \(2 pixels\).*\(colours 0 0 255, 10 200"):
        coding.decode(grey([[[0, 1, 255], [0, 1, 255]]], np.uint8), "m")
    with pytest.raises(ValueError, match="reduce_zero_label = yes, but classes have colours"):
        listed(tmp_path, lines, reduce=True)


def test_colours_that_are_greys(tmp_path):
    """White may be a class, although 255 is ignored where nobody names it."""
    coding = listed(tmp_path, "paper 255 255 255\nink 0 0 0\nline 128 128 128")
    assert coding.decode(grey([[255, 0, 128]], np.uint8), "m").tolist() == [[0, 1, 2]]
    triple = grey([[3 * [255], 3 * [0], 3 * [128]]], np.uint8)
    assert coding.decode(triple, "m").tolist() == [[0, 1, 2]]


def test_labelmap_of_cvat(tmp_path):
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar: big:250,1,2::\n"
    coding = listed(tmp_path, text, "labelmap.txt")
    assert coding.classes == ("background", "car: big")
    assert coding.colours == {0: 0, 0xFA0102: 1}


def test_values_that_are_written_down(tmp_path):
    coding = listed(tmp_path, "0 unlabeled\n7: road\n24, person\n255 rider\n")
    assert coding.classes == ("road", "person", "rider")
    assert coding.values == {0: IGNORE, 7: 0, 24: 1, 255: 2}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "", "no class is named"),
        ("classes.txt", "a\nb\na\n", "class 'a' is named twice"),
        ("classes.txt", "a 0 0 0\nb\n", "'b' has no colour, other lines have"),
        ("classes.txt", "a 0 0 300\nb 1 1 1\n", "'a 0 0 300': the parts of a colour"),
        ("classes.txt", "a 0 0 0\nb 0 0 0\n", "'a' and 'b' have the same colour"),
        ("classes.txt", "7 a\n7 b\n", "value 7 is named twice"),
        ("classes.txt", "#000000 is black", "no class is named"),
        ("classes.txt", "0 0 0\n", "a class has no name"),
        ("classes.json", "{", "no JSON file"),
        ("classes.json", '{"a": 1}', "not a list of names"),
    ],
)
def test_broken_lists(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message) as error:
        listed(tmp_path, text, name)
    assert name in str(error.value)


def test_lists_in_another_coding(tmp_path):
    (tmp_path / "classes.txt").write_bytes("a\nü\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes\.txt: not a text in UTF-8"):
        find_class_list((tmp_path,))
    assert find_class_list((tmp_path / "none",)) is None


def test_reduced(tmp_path):
    coding = listed(tmp_path, "wall\nfloor\n", reduce=True)
    assert coding.values == {0: IGNORE, 1: 0, 2: 1, 255: IGNORE}
    named = listed(tmp_path, "void\nwall\nfloor\n", reduce=True)  # says itself what 0 is
    assert named.values == coding.values


def test_ignored_values(tmp_path):
    coding = listed(tmp_path, "a\nb\nc\n", ignore_values=(1, 9))
    assert coding.classes == ("a", "b", "c")
    assert coding.values == {0: 0, 1: IGNORE, 2: 2, 9: IGNORE}


def test_one_class_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"classes: 'road'; segmentation needs at least two"):
        listed(tmp_path, "void\nroad\n")
    with pytest.raises(ValueError, match=r"40000 classes, at most 32767.*masks = instances"):
        named_coding([str(i) for i in range(40_000)], range(40_000), CONFIG, "the test")


def test_renumbered():
    other = THREE.renumbered(("z", "c", "a", "b"))
    assert other.decode(grey(VALUES, np.uint8), "m").tolist() == [[2, 3, 1], [1, IGNORE, 2]]


def test_published_lists():
    assert (len(ADE20K), len(set(ADE20K)), ADE20K[0], ADE20K[-1]) == (150, 150, "wall", "flag")
    assert ADE20K[ADE20K.index("crt screen") + 1] == "plate"
    assert len(CITYSCAPES) == len(CITYSCAPES_IDS) == len(set(CITYSCAPES)) == 19
    assert dict(zip(CITYSCAPES_IDS, CITYSCAPES, strict=True))[24] == "person"
    assert len(VOC) == 21
    colours = {value: colour for colour, value in VOC_COLOURS.items()}
    assert [colours[i] for i in (0, 1, 2, 15, 20, -1)] == [
        *(0x000000, 0x800000, 0x008000, 0xC08080, 0x004080, 0xE0E0C0)
    ]


def test_pixels_of_a_palette():
    pixels, coloured = mask_pixels(palette_image(), "m")
    assert not coloured
    assert np.array_equal(pixels, VALUES)
    pixels, coloured = mask_pixels(palette_image(), "m", colours=True, palette=True)
    assert coloured
    assert pixels[0].tolist() == [0x090909, 0xC80000, 0x00C800]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hflip": 2}, "augment.hflip = 2"),
        ({"photometric": -0.1}, "augment.photometric"),
        ({"scale": (0, 1)}, "augment.scale"),
        ({"scale": (2, 1)}, "augment.scale"),
        ({"cat_max_ratio": 0}, "augment.cat_max_ratio"),
        ({"contrast": (-1, 1)}, "augment.contrast"),
        ({"saturation": (2, 1)}, "augment.saturation"),
        ({"brightness": 300}, "augment.brightness"),
        ({"hue": 91}, "augment.hue"),
    ],
)
def test_augmentation_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        SegmentationAugmentConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_size": -1}, "min_size = -1"),
        ({"max_size": 500}, "max_size = 500: give at least min_size, 512"),
        ({"min_size": 0, "max_size": 0}, "max_size = 0"),
        ({"crop_size": 0}, "crop_size = 0"),
        ({"window": -1}, "window = -1"),
        ({"stride": 0}, "stride = 0"),
        ({"stride": 600}, "stride = 600: give 1 to window, 512"),
        ({"in_chans": 2}, "in_chans"),
    ],
)
def test_data_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        SegmentationDataConfig(**change)
    SegmentationDataConfig(window=0, stride=600)
