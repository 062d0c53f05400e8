"""Masks: every form of them against pycocotools, broken ones, and the view of them in a batch."""

import contextlib
import io
import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from convnext.data.detection.rle import decode_mask, decode_masks, encode_mask, run_lengths


def annotated(coco, entry):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy, in pycocotools 2.0
        return coco.annToMask(entry)


@pytest.mark.parametrize(
    ("file", "most"),
    [("coco_mini/annotations/instances_val.json", 400), ("nuclei/instances_val.json", 400)],
)
def test_masks_are_those_of_pycocotools(real_images, file, most):
    """Polygons, uncompressed run lengths of crowds and compressed ones."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(real_images / file))
    forms = set()
    for entry in list(coco.anns.values())[:most]:
        image = coco.imgs[entry["image_id"]]
        height, width = image["height"], image["width"]
        form = entry["segmentation"]
        forms.add("polygon" if isinstance(form, list) else type(form["counts"]).__name__)
        counts = encode_mask(form, height, width)
        assert counts is not None
        assert (decode_mask(counts, height, width) == annotated(coco, entry)).all()
    assert forms == ({"polygon", "list"} if "coco" in file else {"str"})


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_run_lengths_and_views_of_random_masks(data):
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    random = np.random.RandomState(data.draw(st.integers(0, 1000)))
    masks = (random.rand(3, height, width) < data.draw(st.sampled_from([0.02, 0.5, 1]))).astype(
        np.uint8
    )
    rles = [coco_mask.encode(np.asfortranarray(mask))["counts"] for mask in masks]
    for mask, rle in zip(masks, rles, strict=True):
        runs = run_lengths(rle)
        flat = np.repeat(np.arange(len(runs)) % 2, runs)
        assert (mask == flat.reshape(width, height).T).all()
        assert encode_mask({"size": [height, width], "counts": runs.tolist()}, height, width) == rle
    rows = np.sort(random.randint(0, height, 30))[:: random.choice([1, -1])]
    columns = np.sort(random.randint(0, width, 17))[:: random.choice([1, -1])]
    out = np.zeros((3, 30, 17), np.uint8)
    decode_masks(rles, (height, width), (rows, columns), out)
    assert (out == masks[:, rows][:, :, columns]).all()


@pytest.mark.parametrize("form", [None, []])
def test_no_mask(form):
    assert encode_mask(form, 4, 5) is None


GOOD = coco_mask.encode(np.asfortranarray(np.eye(6, 8, dtype=np.uint8)))["counts"].decode()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ([[1, 1, 5, 5]], "three points"),
        ([[]], "three points"),
        ([[1, 1, 5, 1, 5]], "a list of numbers"),
        ([["a", "b"] * 3], "a list of numbers"),
        ([[1, 1, 5, 1, float("nan"), 5]], "far outside"),
        ([[1, 1, 1e9, 1, 5, 5]], "far outside"),
        ("text", "a list of polygons or run lengths"),
        ({"size": [8, 6], "counts": GOOD}, r"of size \[8, 6\]"),
        ({"counts": GOOD}, "of size None"),
        ({"size": [6, 8]}, "no run lengths"),
        ({"size": [6, 8], "counts": [40, 9]}, "do not add up to 6 x 8"),
        ({"size": [6, 8], "counts": [50, -2]}, "do not add up to 6 x 8"),
        ({"size": [6, 8], "counts": ["x"]}, "whole numbers"),
        ({"size": [6, 8], "counts": GOOD[:-1]}, "do not add up|break off"),
        ({"size": [6, 8], "counts": GOOD + "1"}, "do not add up"),
        ({"size": [6, 8], "counts": "é" + GOOD}, "do not add up|characters"),
        ({"size": [6, 8], "counts": "o" * 40}, "break off|too large"),
        ({"size": [6, 8], "counts": ""}, "characters"),
    ],
)
def test_broken_masks_are_refused(form, message):
    with pytest.raises(ValueError, match=message):
        encode_mask(form, 6, 8)


def test_good_masks_of_the_same_size_pass():
    assert encode_mask({"size": [6, 8], "counts": GOOD}, 6, 8) == GOOD.encode()
    as_bytes = json.loads(json.dumps({"size": [6, 8], "counts": GOOD}))
    assert encode_mask(as_bytes, 6, 8) == GOOD.encode()
    outside = encode_mask([[-3, -3, 4, -3, 4, 4, -3, 4]], 6, 8)
    assert coco_mask.area({"size": [6, 8], "counts": outside}) == 16
