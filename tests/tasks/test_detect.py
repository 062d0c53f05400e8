"""The detection task: losses, layers, groups, every recipe at toy size."""

from dataclasses import replace

import pytest
import torch

from convnext.models.mask_rcnn import detector_config
from convnext.recipes import list_recipes
from convnext.tasks.detect import DetectConfig, DetectTask
from convnext.train.config import OptimConfig

TOY_BODY = {"depths": [1, 1, 2, 1], "dims": [4, 8, 12, 16]}
TOY = {
    "fpn_dim": 8,
    "fc_dim": 16,
    "mask_convs": 1,
    "roi_sampled": 16,
    "rpn_per_level": [50, 30],
    "rpn_proposals": [40, 20],
}
DETECT = {n: r for n, r in list_recipes().items() if isinstance(r.task, DetectConfig)}


def toy(config=None, num_classes=3, **fields):
    torch.manual_seed(0)
    config = config or DetectConfig()
    config = replace(config, model_args={**config.model_args, **TOY, **fields}, body_args=TOY_BODY)
    return DetectTask(config, num_classes=num_classes)


def batch(boxes=((5, 6, 40, 50), (20, 10, 60, 30)), num=2, side=64):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), side, side, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[max(y1, 0) : y2, max(x1, 0) : x2] = 1
    return {
        "image": torch.randn(num, 3, side, side),
        "size": torch.tensor([[side, side]] * num),
        "original": torch.tensor([[side, side]] * num),
        "boxes": [boxes] * num,
        "labels": [torch.arange(len(boxes)) % 3] * num,
        "masks": [masks] * num,
    }


@pytest.mark.parametrize("name", DETECT)
def test_every_recipe_takes_two_steps_at_toy_size(name):
    recipe = DETECT[name]
    task = toy(recipe.task).train()
    groups = task.param_groups(recipe.optim)
    for group in groups:
        group["lr"] = recipe.optim.lr * group["lr_scale"]
    optimizer = torch.optim.AdamW(groups)
    before = [p.detach().clone() for p in task.parameters()]
    for _ in range(2):
        data = batch()
        if not recipe.task.masks:
            del data["masks"]
        losses = task(data)
        assert all(torch.isfinite(loss) for loss in losses.values())
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    names = [n for n, _ in task.named_parameters()]
    pairs = zip(names, task.parameters(), before, strict=True)
    moved = {n for n, p, b in pairs if not torch.equal(p, b)}
    for part in ("body.stem", "norm0", "lateral_convs.0", "rpn_cls", "fc_cls", "conv_logits"):
        assert [n for n in moved if part in n] or not [n for n in names if part in n], part


@pytest.mark.parametrize("model", ["mask_rcnn_convnext_tiny", "cascade_mask_rcnn_convnext_tiny"])
def test_without_any_object_every_parameter_has_a_gradient(model):
    task = toy(DetectConfig(model=model)).train()
    losses = task(batch(boxes=()))
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    assert [n for n, p in task.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("model", ["mask_rcnn_convnext_tiny", "cascade_mask_rcnn_convnext_tiny"])
@pytest.mark.parametrize(
    "boxes",
    [
        ((5, 6, 40, 50), (7, 7, 7, 30)),  # no width
        ((5, 6, 40, 50), (9, 9, 30, 9)),  # no height
        ((5, 6, 40, 50), (30, 30, 10, 10)),  # the corners exchanged
        ((-20, -20, 100, 100), (5, 6, 40, 50)),  # beyond the image
        ((0, 0, 0.01, 0.01), (5, 6, 40, 50)),
    ],
)
def test_strange_boxes_leave_the_loss_finite(model, boxes):
    task = toy(DetectConfig(model=model)).train()
    losses = task(batch(boxes=boxes))
    losses["loss"].backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in task.parameters())


@pytest.mark.parametrize("masks", [True, False])
def test_nothing_found_is_empty_of_the_right_shapes(masks):
    task = toy(DetectConfig(masks=masks), score_threshold=0.99).eval()
    with torch.no_grad():
        found = task(batch())["detections"]
    for detections in found:
        assert detections.boxes.shape == (0, 4)
        assert detections.scores.shape == detections.labels.shape == (0,)
        assert (detections.masks is None) == (not masks)
        if masks:
            assert detections.masks.shape == (0, 28, 28)


def test_bf16_keeps_boxes_and_losses_in_fp32():
    task = toy(score_threshold=0.0).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = task(batch())
        losses["loss"].backward()
        task.eval()
        with torch.no_grad():
            found = task(batch())["detections"][0]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert found.boxes.dtype == found.scores.dtype == found.masks.dtype == torch.float32
    fractions = found.boxes.frac().abs()
    assert len(torch.unique(fractions)) > 20  # bf16 knows few numbers between 32 and 64


LAYERS = {  # published rule "layer_wise", num_layers 6 of T and 12 of S to XL
    "mask_rcnn_convnext_tiny": {
        "stem.conv.weight": 0,
        "stages.0.blocks.2.gamma": 1,
        "stages.1.downsample.conv.weight": 2,
        "stages.1.blocks.0.dwconv.weight": 2,
        "stages.2.downsample.norm.weight": 3,
        "stages.2.blocks.2.gamma": 3,
        "stages.2.blocks.3.gamma": 4,
        "stages.2.blocks.8.gamma": 5,
        "stages.3.downsample.conv.bias": 6,
        "stages.3.blocks.2.gamma": 6,
    },
    "cascade_mask_rcnn_convnext_base": {
        "stem.norm.bias": 0,
        "stages.1.blocks.2.gamma": 2,
        "stages.2.downsample.conv.weight": 3,
        "stages.2.blocks.3.gamma": 4,
        "stages.2.blocks.26.gamma": 11,
        "stages.3.downsample.norm.weight": 12,
        "stages.3.blocks.0.gamma": 12,
    },
}


@pytest.mark.parametrize("model", LAYERS)
def test_layers_are_those_of_the_published_rule(model):
    with torch.device("meta"):
        task = DetectTask(DetectConfig(model=model), num_classes=80)
    ids, num_layers = task.layer_ids()
    assert num_layers == max(LAYERS[model].values())
    for name, layer in LAYERS[model].items():
        assert ids[f"backbone.body.{name}"] == layer
    above = [n for n in ids if not n.startswith("backbone.body.")]
    assert "backbone.norm0.weight" in above
    assert {ids[n] for n in above} == {num_layers + 1}
    groups = task.param_groups(OptimConfig(layer_decay=0.7, weight_decay=0.05))
    scales = {group["name"]: group["lr_scale"] for group in groups}
    assert scales[f"layer_{num_layers + 1}_decay"] == 1
    assert scales["layer_0_decay"] == pytest.approx(0.7 ** (num_layers + 1))


# lr, layer decay, drop path, box and mask AP (configurations and README of the published code)
PUBLISHED = {
    "mask_rcnn_convnext_tiny_3x": (1e-4, 0.95, 0.4, (46.2, 41.7)),
    "cascade_mask_rcnn_convnext_tiny_3x": (2e-4, 0.7, 0.4, (50.4, 43.7)),
    "cascade_mask_rcnn_convnext_small_3x": (2e-4, 0.7, 0.6, (51.9, 45.0)),
    "cascade_mask_rcnn_convnext_base_3x": (2e-4, 0.8, 0.7, (52.7, 45.6)),
    "cascade_mask_rcnn_convnext_base_in22k_3x": (1e-4, 0.8, 0.6, (54.0, 46.9)),
    "cascade_mask_rcnn_convnext_large_in22k_3x": (1e-4, 0.7, 0.7, (54.8, 47.6)),
    "cascade_mask_rcnn_convnext_xlarge_in22k_3x": (1e-4, 0.7, 0.8, (55.2, 47.7)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name):
    recipe = DETECT[name]
    found = (recipe.optim.lr, recipe.optim.layer_decay, recipe.task.drop_path_rate)
    assert (*found, recipe.expected_ap) == PUBLISHED[name]
    assert (recipe.optim.batch_size, recipe.optim.epochs) == (16, 36)
    assert recipe.optim.drops == (27 / 36, 33 / 36)
    assert recipe.optim.warmup_epochs * (117_266 // 16) == pytest.approx(500)
    assert recipe.train.sync_batch_norm == name.startswith("cascade")
    short = DETECT[name.removesuffix("3x") + "1x"]
    assert (short.optim.epochs, short.optim.drops) == (12, (8 / 12, 11 / 12))
    assert short.expected_ap is None


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown detector 'mask_rcnn_convnext_tinny'"):
        detector_config("mask_rcnn_convnext_tinny")
    with pytest.raises(ValueError, match=r"unknown field of task\.model_args.*fpn_dim"):
        DetectConfig(model_args={"fpn_dims": 3})
    with pytest.raises(ValueError, match=r"drop_path_rate is 1\.0"):
        DetectConfig(drop_path_rate=1.0)
    with pytest.raises(ValueError, match=r"strides \[2, 4, 8, 16\]; here it needs"):
        DetectTask(DetectConfig(body_args=TOY_BODY | {"stem_stride": 2}), num_classes=3)
