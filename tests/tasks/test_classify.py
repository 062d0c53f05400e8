import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from convnext.tasks.classify import ClassifyConfig, ClassifyTask
from convnext.train.config import OptimConfig

TINY = {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 24]}
NUM_CLASSES = 4


def tiny_task(labels=None, **fields):
    config = ClassifyConfig(model="convnext_atto", model_args=TINY, **fields)
    return ClassifyTask(config, num_classes=NUM_CLASSES, labels=labels)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return {"image": torch.randn(6, 3, 32, 32), "label": torch.tensor([0, 1, 2, 3, 1, 1])}


def test_the_loss_without_mixing_is_label_smoothing_cross_entropy(batch):
    task = tiny_task(mixup=0.0, cutmix=0.0, smoothing=0.1)
    expected = LabelSmoothingCrossEntropy(0.1)(task.network(batch["image"]), batch["label"])
    torch.testing.assert_close(task(batch)["loss"], expected)


def test_the_loss_without_smoothing_is_cross_entropy(batch):
    task = tiny_task(mixup=0.0, cutmix=0.0, smoothing=0.0)
    expected = F.cross_entropy(task.network(batch["image"]), batch["label"])
    torch.testing.assert_close(task(batch)["loss"], expected)


def test_the_loss_with_mixing_is_soft_target_cross_entropy(batch):
    task = tiny_task(mixup=0.8, cutmix=1.0, smoothing=0.1)
    np.random.seed(3)
    images, targets = task.mixup(batch["image"].clone(), batch["label"])
    expected = SoftTargetCrossEntropy()(task.network(images), targets)
    np.random.seed(3)
    torch.testing.assert_close(task(batch)["loss"], expected)


def test_evaluation_neither_mixes_nor_smooths(batch):
    task = tiny_task(mixup=0.8, cutmix=1.0, smoothing=0.1).eval()
    before = batch["image"].clone()
    expected = F.cross_entropy(task.network(batch["image"]), batch["label"])
    found = task(batch)
    torch.testing.assert_close(found["loss"], expected)
    assert torch.equal(found["logits"], task.network(before))


def test_balanced_class_weights_are_a_weighted_sum_over_the_number_of_images(batch):
    labels = np.array([0] * 10 + [1] * 2 + [2] * 4 + [3] * 4)
    task = tiny_task(labels, mixup=0.0, cutmix=0.0, smoothing=0.0, class_weights="balanced")
    weights = torch.tensor([20 / 4 / n for n in (10, 2, 4, 4)])
    logp = task.network(batch["image"]).log_softmax(1)
    nll = -logp[torch.arange(6), batch["label"]]
    expected = (weights[batch["label"]] * nll).sum() / 6
    torch.testing.assert_close(task(batch)["loss"], expected)


def test_every_parameter_is_in_one_group_and_norms_and_biases_do_not_decay():
    task = ClassifyTask(
        ClassifyConfig(model="convnextv2_atto", model_args=TINY), num_classes=NUM_CLASSES
    )
    names = {id(p): n for n, p in task.network.named_parameters()}
    groups = task.param_groups(OptimConfig(weight_decay=0.3))
    decayed = {names[id(p)] for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    kept = {names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert decayed | kept == set(names.values())
    assert not decayed & kept
    assert decayed == {
        n for n in names.values() if n.endswith("weight") and "norm" not in n and "grn" not in n
    }


@pytest.mark.parametrize(("rule", "stem", "last"), [("single", 4, 1), ("group", 13, 1)])
def test_layer_decay_scales_the_learning_rate_by_depth(rule, stem, last):
    task = tiny_task()
    names = {id(p): n for n, p in task.network.named_parameters()}
    groups = task.param_groups(OptimConfig(layer_decay=0.5, layer_decay_rule=rule))
    scale = {names[id(p)]: g["lr_scale"] for g in groups for p in g["params"]}
    assert scale["head.weight"] == 1.0
    assert math.isclose(scale["stem.conv.weight"], 0.5**stem)
    assert math.isclose(scale["stages.3.blocks.0.pwconv1.weight"], 0.5**last)


def test_a_redrawn_head_is_almost_zero():
    torch.manual_seed(0)
    head = tiny_task(redraw_head=True).network.head
    assert 0.5e-5 < head.weight.std() < 4e-5
    assert not head.bias.any()


def test_the_blocks_are_the_units_of_sharding():
    task = tiny_task()
    assert len(task.shard_modules()) == 4
    assert all(type(m).__name__ == "Block" for m in task.shard_modules())


def test_configuration_reaches_the_network():
    network = tiny_task(
        stem_stride=2, layer_scale_init_value=0.5, drop_path_rate=0.25, grad_checkpointing=True
    ).network
    assert network.config.stem_stride == 2
    assert network.config.drop_path_rate == 0.25
    assert float(network.stages[0].blocks[0].gamma.detach()[0]) == 0.5
    assert network.stages[0].grad_checkpointing


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"smoothing": 1.0}, "task.smoothing is 1.0"),
        ({"mixup": -0.1}, "task.mixup is -0.1"),
        ({"drop_path_rate": 1.5}, "task.drop_path_rate is 1.5"),
    ],
)
def test_bad_values_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        ClassifyConfig(**fields)
