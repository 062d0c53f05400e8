"""The segmentation task: losses by their definition, rates by the published rule."""

import pytest
import torch
from torch.nn import functional as F

from convnext.models.upernet import UPerNetConfig
from convnext.tasks.segment import SegmentConfig, SegmentTask, balanced_weights, check_batch
from convnext.train.config import OptimConfig
from convnext.train.param_groups import check_complete

SMALL = {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}


def task(num_classes=5, weights=None, **values):
    config = SegmentConfig(
        model="upernet_convnext_tiny",
        body_args=SMALL,
        model_args={"head_dim": 16, "aux_dim": 8, "dropout": 0.0},
        **values,
    )
    return SegmentTask(config, num_classes=num_classes, class_weights=weights)


@pytest.fixture
def batch():
    mask = torch.randint(0, 5, (2, 64, 96), dtype=torch.int16)
    mask[:, :20] = -1
    return {"image": torch.randn(2, 3, 64, 96), "mask": mask}


def plain(model, batch, weight=None):
    """Sums of the cross-entropy of both heads."""
    main, auxiliary = model.network.heads(batch["image"])
    return [
        F.cross_entropy(
            F.interpolate(logits, (64, 96), mode="bilinear"),
            batch["mask"].long(),
            weight,
            ignore_index=-1,
            reduction="sum",
        )
        for logits in (main, auxiliary)
    ]


def test_the_published_loss_is_the_mean_over_all_pixels(batch):
    model = task().train()
    found = model(batch)
    main, auxiliary = (part / batch["mask"].numel() for part in plain(model, batch))
    torch.testing.assert_close(found["decode.loss_seg"], main)
    torch.testing.assert_close(found["aux.loss_seg"], 0.4 * auxiliary)
    torch.testing.assert_close(found["loss"], main + 0.4 * auxiliary)


def test_the_mean_over_labelled_pixels(batch):
    model = task(loss_mean="labelled", aux_weight=1.0).train()
    found = model(batch)
    labelled = (batch["mask"] >= 0).sum()
    expected = sum(part / labelled for part in plain(model, batch))
    torch.testing.assert_close(found["loss"], expected)


def test_class_weights(batch):
    weights = torch.tensor([1.0, 2.0, 0.5, 10.0, 1.0])
    model = task(weights=weights, class_weights="balanced", loss_mean="labelled").train()
    main, _ = plain(model, batch, weights)
    mass = weights[batch["mask"][batch["mask"] >= 0].long()].sum()
    torch.testing.assert_close(model(batch)["decode.loss_seg"], main / mass)
    assert "class_weights" in model.state_dict()  # a resumed run has them


def test_balanced_weights_are_the_median_over_the_share():
    weights = balanced_weights([100, 50, 0, 200, 1])
    torch.testing.assert_close(weights, torch.tensor([0.75, 1.5, 1.0, 0.375, 10.0]))
    torch.testing.assert_close(balanced_weights([999_000, 1_000])[1], torch.tensor(10.0))
    torch.testing.assert_close(balanced_weights([0, 0]), torch.ones(2))


def test_dice_is_added_for_both_heads(batch):
    found = task(dice_weight=0.5).train()(batch)
    parts = {name: part for name, part in found.items() if name != "loss"}
    names = ("decode.loss_seg", "decode.loss_dice", "aux.loss_seg", "aux.loss_dice")
    assert parts.keys() == set(names)
    torch.testing.assert_close(found["loss"], torch.stack(list(parts.values())).sum())
    assert 0 < parts["decode.loss_dice"] <= 0.5


@pytest.mark.parametrize("loss_mean", ["all", "labelled"])
def test_wholly_ignored_crops_are_no_loss_and_no_nan(batch, loss_mean):
    model = task(loss_mean=loss_mean, dice_weight=1.0).train()
    loss = model({**batch, "mask": torch.full_like(batch["mask"], -1)})["loss"]
    assert loss == 0
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_evaluation_gives_logits_of_the_images_size(batch):
    model = task().eval()
    with torch.no_grad():
        assert model({"image": batch["image"]})["logits"].shape == (2, 5, 64, 96)


def test_one_image_is_refused_with_the_remedy(batch):
    one = {name: value[:1] for name, value in batch.items()}
    with pytest.raises(ValueError, match=r"batch of one image.*--train\.micro-batch"):
        task().train()(one)


@pytest.mark.parametrize(
    ("scales", "size", "images", "fits"),
    [
        ((1, 2), (512, 512), 1, False),
        ((1, 2), (512, 512), 2, True),
        ((2, 3), (512, 512), 1, True),
        ((2, 3), (32, 63), 1, False),
        ((), (32, 64), 1, True),
    ],
)
def test_a_batch_norm_needs_two_values(scales, size, images, fits):
    config = UPerNetConfig(pool_scales=scales)
    if fits:
        check_batch(config, images, size)
        return
    with pytest.raises(ValueError, match="batch of one image"):
        check_batch(config, images, size)


def test_training_goes_through_the_compiled_network(batch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    usual = task().train()
    torch.manual_seed(0)
    compiled = task().train()
    compiled.network.compile(backend=backend)
    losses = [model(batch)["loss"] for model in (usual, compiled)]
    assert len(graphs) == 1
    torch.testing.assert_close(*losses)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("third", "num_layers", "stem"), [(9, 6, 0.9**7), (27, 12, 0.9**13), (2, 4, 0.9**5)]
)
def test_rates_fall_stage_by_stage(third, num_layers, stem):
    config = SegmentConfig(body_args={**SMALL, "depths": [1, 1, third, 1]})
    with torch.device("meta"):
        model = SegmentTask(config, num_classes=3)
    ids, found = model.layer_ids()
    assert found == num_layers
    body = "backbone.body."
    assert {ids[f"{body}stages.{i}.downsample.conv.weight"] for i in (1, 2, 3)} == {0}
    assert ids[f"{body}stem.conv.weight"] == 0
    last = third - 1
    blocks = [f"{body}stages.{i}.blocks.{last if i == 2 else 0}.gamma" for i in range(4)]
    assert [ids[name] for name in blocks] == [1, 2, 3, 4]
    assert ids["backbone.norm3.weight"] == ids["decode_head.conv_seg.bias"] == num_layers + 1
    groups = model.param_groups(OptimConfig(layer_decay=0.9))
    check_complete(groups, model)
    scales = {group["name"]: group["lr_scale"] for group in groups}
    assert scales["layer_0_decay"] == pytest.approx(stem)
    assert scales[f"layer_{num_layers + 1}_no_decay"] == 1.0
    for group in groups:
        assert group["weight_decay"] == (0.0 if group["name"].endswith("no_decay") else 0.05)


def test_a_backbone_without_known_stages_has_no_layers():
    from convnext.weights.timm_backbone import TimmBackbone

    config = SegmentConfig(model="upernet_timm:resnet18")
    model = SegmentTask(config, num_classes=3, body=TimmBackbone("resnet18"))
    with pytest.raises(ValueError, match=r"--optim\.layer-decay 1"):
        model.param_groups(OptimConfig(layer_decay=0.9))
    check_complete(model.param_groups(OptimConfig()), model)


def test_checkpointing_changes_nothing(batch):
    torch.manual_seed(0)
    usual = task().train()
    torch.manual_seed(0)
    again = task(grad_checkpointing=True).train()
    losses = [model(batch)["loss"] for model in (usual, again)]
    for loss in losses:
        loss.backward()
    assert losses[0] == losses[1]
    pairs = zip(usual.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"aux_weight": -1.0}, "aux_weight"),
        ({"dice_weight": -0.1}, "dice_weight"),
        ({"model_args": {"head_dims": 3}}, "did you mean head_dim"),
        ({"model_args": {"num_classes": 3}}, "unknown field"),
        ({"model_args": {"head_dim": "96"}}, "task.model_args: head_dim is '96'; expected int"),
        ({"model_args": {"head_dim": [96]}}, "head_dim"),
        ({"model_args": {"pool_scales": 3}}, r"pool_scales is 3; expected tuple\[int, \.\.\.\]"),
        ({"model_args": {"dropout": None}}, "dropout is None; expected float"),
        ({"model_args": {"head_dim": -1}}, "task.model_args: head_dim -1 must be at least 1"),
        ({"body_args": {"depths": 3}}, "task.body_args: depths is 3"),
        ({"body_args": {"depths": [1, 1]}}, "task.body_args: depths"),
        ({"body_args": {"dephts": [1, 1, 1, 1]}}, "did you mean depths"),
        ({"body_args": {"num_classes": 3}}, "unknown field of task.body_args"),
    ],
)
def test_wrong_values_are_named(values, text):
    with pytest.raises(ValueError, match=text):
        SegmentConfig(**values)


def test_parts_to_shard_are_there_once():
    modules = task().shard_modules()
    assert len({id(m) for m in modules}) == len(modules) == 5 + 1 + 3 + 1
