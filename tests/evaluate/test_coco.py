"""COCO metrics against pycocotools read from files, against hand-made cases, and over processes."""

import copy
import json
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detection_cases import found, made, noisy, reference, scored

from convnext.evaluate.coco import CocoMetrics
from convnext.evaluate.coco_masks import decode_mask, encode_masks, mask_area


@pytest.fixture(scope="module")
def coco_mini():
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini" / "annotations"
    if not path.is_dir():
        pytest.skip("no folder of real images beside the repository")
    return path / "instances_val.json"


@pytest.fixture(scope="module")
def mini_result(coco_mini):
    truth = json.loads(coco_mini.read_text())
    kept = copy.deepcopy(truth)
    result = scored(truth, noisy(truth))
    assert truth == kept  # nothing was written into it
    return truth, result


def test_all_numbers_are_those_of_pycocotools_on_real_annotations(mini_result, coco_mini):
    truth, result = mini_result
    assert sum(a["iscrowd"] for a in truth["annotations"]) == result.num_crowds == 5
    assert 20 < result.box.AP < 80
    assert 15 < result.mask.AP < 80
    # The lists are what a user would hand to pycocotools: through JSON and back.
    boxes, masks = json.loads(json.dumps([result.results, result.mask_results]))
    assert set(masks[0]) == {"image_id", "category_id", "segmentation", "score"}  # no bbox
    assert list(astuple(result.box)) == reference(str(coco_mini), boxes, "bbox")
    assert list(astuple(result.mask)) == reference(str(coco_mini), masks, "segm")
    assert result.num_unseen == 0


def test_faster_coco_eval_gives_equal_digits(mini_result):
    pytest.importorskip("faster_coco_eval")
    truth, slow = mini_result
    fast = scored(truth, noisy(truth), backend="faster-coco-eval")
    assert (slow.backend, fast.backend) == ("pycocotools", "faster-coco-eval")
    for one, other in ((fast.box, slow.box), (fast.mask, slow.mask)):
        assert astuple(one) == pytest.approx(astuple(other), abs=1e-10)
    assert fast.results == slow.results
    for one, other in zip(fast.per_class, slow.per_class, strict=True):
        assert astuple(one.box) == pytest.approx(astuple(other.box), abs=1e-10)
        assert astuple(one.mask) == pytest.approx(astuple(other.mask), abs=1e-10)
    for curve in ("box_curves", "mask_curves"):
        one, other = getattr(fast, curve), getattr(slow, curve)
        np.testing.assert_allclose(one.precision, other.precision, atol=1e-12)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-12)


def test_many_boxes_of_one_class_are_cut_at_a_hundred_alike(tmp_path):
    random = np.random.default_rng(3)
    corners = random.uniform(0, 400, (130, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 120, (130, 2))], 1).round(1)
    truth = made(boxes=[(1, 7, *b) for b in boxes.tolist()], image_size=(520, 520), categories=(7,))
    scores = np.sort(random.random(130))[::-1]
    moved = boxes + random.normal(0, 3, (130, 4))
    said = [(0, score, *box) for score, box in zip(scores, moved, strict=True)]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    for backend in ("pycocotools", "faster-coco-eval"):
        result = scored(truth, [found(1, *said)], masks=False, backend=backend)
        wanted = reference(str(path), result.results, "bbox")
        assert list(astuple(result.box)) == pytest.approx(wanted, abs=1e-10)
        assert result.box.AR1 < result.box.AR10 < result.box.AR100 < 100


@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
class TestByHand:
    def test_iou_decides_at_each_threshold(self, backend):
        # 100 x 50 against the same moved by 20: IoU 80 / 120 = .667, so .5, .55, .6, .65 of ten.
        truth = made(boxes=[(1, 1, 0, 0, 100, 50)], image_size=(200, 200))
        result = scored(truth, [found(1, (0, 0.9, 20, 0, 120, 50))], masks=False, backend=backend)
        assert [result.box.AP, result.box.APm] == pytest.approx([40, 40])
        assert (pytest.approx(100), 0) == (result.box.AP50, result.box.AP75)
        assert (result.box.APs, result.box.APl) == (None, None)
        assert result.box.APm == pytest.approx(40)

    def test_a_false_positive_above_halves_precision(self, backend):
        truth = made(boxes=[(1, 1, 0, 0, 40, 40), (1, 1, 50, 50, 90, 90)])
        rows = [(0, 0.9, 0, 0, 40, 40), (0, 0.8, 0, 60, 30, 99), (0, 0.7, 50, 50, 90, 90)]
        result = scored(truth, [found(1, *rows)], masks=False, backend=backend)
        # Precision 1 up to recall .5 (51 of 101 points), 2/3 beyond.
        assert pytest.approx(100 * (51 + 50 * 2 / 3) / 101) == result.box.AP50
        curve = result.box_curves.mean(iou=0.5)
        assert curve[:51].tolist() == pytest.approx([1] * 51)
        assert curve[51:].tolist() == pytest.approx([2 / 3] * 50)
        assert result.box_curves.scores[0, 0, [10, 90]] == pytest.approx([0.9, 0.7])
        assert result.box_curves.recall[[0, 1, 100]].tolist() == [0, 0.01, 1]

    def test_a_crowd_takes_any_number_of_detections(self, backend):
        truth = made(boxes=[(1, 1, 0, 0, 40, 40), (1, 1, 50, 50, 100, 100)])
        truth["annotations"][1] |= {"iscrowd": 1}
        rows = [(0, 0.9, 60, 60, 70, 70), (0, 0.8, 80, 80, 95, 95), (0, 0.7, 0, 0, 40, 40)]
        result = scored(truth, [found(1, *rows)], masks=False, backend=backend)
        assert pytest.approx(100) == result.box.AP
        assert (result.num_objects, result.num_crowds) == (1, 1)

    def test_absent_classes_take_no_part_in_means(self, backend):
        truth = made(boxes=[(1, 5, 0, 0, 40, 40)], categories=(9, 5, 2))
        rows = [(1, 0.9, 0, 0, 40, 40), (2, 0.99, 0, 0, 40, 40)]
        result = scored(truth, [found(1, *rows)], masks=False, backend=backend)
        assert pytest.approx(100) == result.box.AP
        assert [c.box.AP for c in result.per_class] == [None, pytest.approx(100), None]
        assert [c.num_objects for c in result.per_class] == [0, 1, 0]
        assert [c.num_detections for c in result.per_class] == [0, 1, 1]
        assert [r["category_id"] for r in result.results] == [5, 9]  # labels count categories by id
        assert result.box_curves.of_class(0, iou=0.5) is None
        assert result.box_curves.of_class(1, iou=0.75).tolist() == pytest.approx([1] * 101)

    def test_no_detections_are_zero_and_silent(self, backend, capsys):
        truth = made(boxes=[(1, 1, 0, 0, 40, 40)], images=2)
        result = scored(truth, [], backend=backend)
        assert result.box.AP == result.mask.AP == result.box.AR100 == 0
        assert result.box.APs is None
        assert (result.num_unseen, result.num_detections) == (2, 0)
        assert result.results == result.mask_results == []
        assert result.scalars()["ap"] == 0
        assert capsys.readouterr() == ("", "")

    def test_no_objects_at_all(self, backend):
        truth = made(boxes=[], images=3)
        result = scored(truth, [found(2, (0, 0.9, 1, 1, 5, 5))], masks=False, backend=backend)
        assert result.box.AP is None
        assert result.scalars() == {}
        assert result.box_curves.mean(iou=0.5) is None
        json.dumps(result.to_json(), allow_nan=False)

    def test_annotation_ids_do_not_matter(self, backend):
        # pycocotools takes the number 0 for "not matched", and keeps one of two equal ids.
        boxes = [(1, 1, 0, 0, 40, 40), (1, 1, 50, 50, 90, 90)]
        for ids in ((0, 1), (4, 4), (10**12, 7)):
            truth = made(boxes=boxes)
            for entry, number in zip(truth["annotations"], ids, strict=True):
                entry["id"] = number
            rows = [(0, 0.9, *boxes[0][2:]), (0, 0.8, *boxes[1][2:])]
            result = scored(truth, [found(1, *rows)], masks=False, backend=backend)
            assert pytest.approx(100) == result.box.AP

    def test_a_box_without_area_is_a_miss(self, backend):
        truth = made(boxes=[(1, 1, 0, 0, 40, 40)])
        rows = [(0, 0.9, 10, 10, 10, 10), (0, 0.8, -20, -20, -5, 300)]
        result = scored(truth, [found(1, *rows)], masks=False, backend=backend)
        assert result.box.AP == 0

    def test_size_of_masks_is_their_own(self, backend):
        # An L of 900 pixels in a box of 60 x 60: small as a mask, medium as a box.
        truth = made(boxes=[(1, 1, 0, 0, 60, 60)])
        outline = np.zeros((100, 100), bool)
        outline[:60, :8] = outline[52:60, :60] = True
        rle = encode_masks(outline[None])[0]
        truth["annotations"][0] |= {"segmentation": rle, "area": 896.0}
        box = (np.array([[0, 0, 60, 60]], np.float32), np.float32([0.9]), np.array([0]), [rle])
        result = scored(truth, [(1, *box)], backend=backend)
        assert mask_area(rle) == outline.sum() == 896
        assert result.mask.APs == pytest.approx(100)
        assert result.mask.APm is None


def test_areas_and_crowd_flags_may_be_missing():
    truth = made(boxes=[(1, 1, 0, 0, 40, 40)])
    for name in ("area", "iscrowd"):
        del truth["annotations"][0][name]
    result = scored(truth, [found(1, (0, 0.9, 0, 0, 40, 40))], masks=False)
    assert result.box.APm == pytest.approx(100)
    masks = CocoMetrics(truth, ["a"], masks=True)
    assert masks.compute().mask.APm == 0


def test_order_of_images_and_batches_does_not_matter(coco_mini):
    truth = json.loads(coco_mini.read_text())
    detections = list(noisy(truth, seed=1, masks=False))
    forward = scored(truth, detections, masks=False)
    backward = scored(truth, detections[::-1], masks=False)
    assert forward.to_json() == backward.to_json()
    assert forward.results == backward.results


def test_results_are_json(mini_result):
    _, result = mini_result
    values = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert values["box"]["AP"] == result.box.AP
    assert len(values["per_class"]) == 80
    assert len(values["box_curves"]["mean_50"]) == 101
    scalars = result.scalars()
    assert scalars["ap"] == result.box.AP
    assert scalars["mask_apl"] == result.mask.APl
    assert {"ap50", "ap75", "ar1", "ar100", "arl", "mask_ap50"} <= set(scalars)


def test_clear_errors():
    truth = made(boxes=[(1, 1, 0, 0, 40, 40)])
    with pytest.raises(ValueError, match="2 class names for 1 categories"):
        CocoMetrics(truth, ["a", "b"], masks=False)
    metrics = CocoMetrics(truth, ["a"], masks=False)
    one = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0.5])
    with pytest.raises(ValueError, match="image id 5 is not in the ground truth"):
        metrics.update(5, *one, torch.tensor([0]))
    for label in (-1, 1):
        with pytest.raises(ValueError, match=f"label {label} for image id 1 is outside 0..0"):
            metrics.update(1, *one, torch.tensor([label]))
    with pytest.raises(ValueError, match="NaN or infinity for image id 1"):
        metrics.update(1, one[0] * torch.nan, one[1], torch.tensor([0]))
    masks = CocoMetrics(truth, ["a"], masks=True)
    with pytest.raises(ValueError, match="no masks for 1 detections of image id 1"):
        masks.update(1, *one, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"a mask of \(9, 9\) for image id 1 of \(100, 100\)"):
        masks.update(1, *one, torch.tensor([0]), encode_masks(np.ones((1, 9, 9))))
    with pytest.raises(ValueError, match="nothing to evaluate"):
        CocoMetrics(truth | {"images": [], "annotations": []}, ["a"], masks=False).compute()
    with pytest.raises(ValueError, match="no backend 'slow'"):
        CocoMetrics(truth, ["a"], masks=False, backend="slow")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 3}, "annotation 1 has category id 3"),
        ({"image_id": 9}, "annotation 1 belongs to image id 9"),
        ({"segmentation": None}, "annotation 1 has no mask: score boxes only"),
        ({"segmentation": []}, "annotation 1 has no mask"),
        ({"segmentation": [[1, 2, 3, 4]]}, "fewer than three corners"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, r"its size is \[9, 9\]"),
        ({"segmentation": {"size": [100, 100], "counts": [5, 5]}}, "its runs cover 10 pixels"),
        ({"segmentation": {"size": [100, 100]}}, "mask of annotation 1 is broken"),
    ],
)
def test_a_broken_ground_truth_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        CocoMetrics(made(boxes=[(1, 1, 0, 0, 40, 40)], **change), ["a"], masks=True)


def test_masks_survive_the_coding():
    masks = np.random.default_rng(0).random((3, 37, 21)) < 0.4
    rles = encode_masks(masks)
    for mask, rle in zip(masks, rles, strict=True):
        assert rle["size"] == [37, 21]
        assert (decode_mask(rle) == mask).all()
        assert (decode_mask(rle | {"counts": rle["counts"].decode()}) == mask).all()
        assert mask_area(rle) == mask.sum()
    assert encode_masks(np.zeros((0, 5, 5))) == []
    large = np.zeros((3, 700, 900), bool)  # long runs, long differences, none, and only one
    large[0, 3:690, 5:880] = large[0, 0, 890:] = large[1] = True
    for mask, rle in zip(large, encode_masks(large), strict=True):
        assert (decode_mask(rle) == mask).all()


def shared_set():
    random = np.random.default_rng(5)
    corners = random.integers(0, 60, (40, 2))
    sizes = random.integers(5, 40, (40, 2))
    rows = [
        (int(random.integers(1, 10)), int(random.integers(1, 4)), *c, *(c + s))
        for c, s in zip(corners.tolist(), sizes, strict=True)
    ]
    rows = [tuple(float(v) if i > 1 else v for i, v in enumerate(row)) for row in rows]
    truth = made(boxes=rows, images=9, categories=(1, 2, 3))
    return truth, list(noisy(truth, seed=2))


def score_part(images):
    truth, detections = shared_set()
    result = scored(truth, [d for d in detections if d[0] in images])
    return json.dumps([result.to_json(), result.results, result.mask_results])


def rank_main(rank, folder):
    method = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=3)
    share = {0: (9, 1, 4, 7, 2), 1: (), 2: (3, 8, 5, 6)}[rank]  # the second rank has none
    (folder / f"{rank}.json").write_text(score_part(share))
    dist.destroy_process_group()


def test_three_processes_agree_with_one_to_the_last_bit(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(3)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0, 0]
    alone = score_part(range(1, 10))
    assert json.loads(alone)[0]["box"]["AP"] > 10
    for rank in range(3):
        assert (tmp_path / f"{rank}.json").read_text() == alone


if __name__ == "__main__":
    rank_main(int(sys.argv[2]), Path(sys.argv[1]))
