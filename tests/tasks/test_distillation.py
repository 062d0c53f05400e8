"""The NKD loss against a naive loop, and a teacher that leaves no trace in the task."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convnext.models.registry import build_model
from convnext.tasks.classify import ClassifyConfig, ClassifyTask
from convnext.tasks.distillation import Teacher, nkd_loss
from convnext.train.config import OptimConfig
from convnext.train.ema import Ema
from convnext.train.param_groups import check_complete

TINY = {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 24]}
NUM_CLASSES = 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def naive(student, teacher, label, gamma, tau):
    """The formula of the paper, class by class, in Python's numbers."""
    total = 0.0
    for s, t, target in zip(student.tolist(), teacher.tolist(), label.tolist(), strict=True):
        p_s = [math.exp(z) / sum(map(math.exp, s)) for z in s]
        p_t = [math.exp(z) / sum(map(math.exp, t)) for z in t]
        total -= p_t[target] * math.log(p_s[target])
        others = [i for i in range(len(s)) if i != target]
        q_s = {i: math.exp(s[i] / tau) / sum(math.exp(s[j] / tau) for j in others) for i in others}
        q_t = {i: math.exp(t[i] / tau) / sum(math.exp(t[j] / tau) for j in others) for i in others}
        total -= gamma * tau**2 * sum(q_t[i] * math.log(q_s[i]) for i in others)
    return total / len(label)


def logits(n=5, k=7, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, k, generator=generator, dtype=torch.float64)


LABEL = torch.tensor([0, 6, 3, 3, 1])


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_the_loss_is_the_formula(gamma, tau):
    student, teacher = logits(), logits(seed=1)
    found = nkd_loss(student, teacher, LABEL, gamma=gamma, temperature=tau)
    assert float(found) == pytest.approx(naive(student, teacher, LABEL, gamma, tau), rel=1e-12)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_its_gradient_is_that_of_the_formula(tau):
    student, teacher = logits().requires_grad_(), logits(seed=1).requires_grad_()
    nkd_loss(student, teacher, LABEL, gamma=1.5, temperature=tau).backward()
    assert teacher.grad is None
    step = 1e-5
    for i, k in np.ndindex(*student.shape):
        ends = []
        for sign in (1, -1):
            moved = student.detach().clone()
            moved[i, k] += sign * step
            ends.append(naive(moved, teacher.detach(), LABEL, 1.5, tau))
        assert float(student.grad[i, k]) == pytest.approx((ends[0] - ends[1]) / 2 / step, abs=1e-8)


def test_gradcheck():
    teacher = logits(seed=1)
    assert torch.autograd.gradcheck(
        lambda z: nkd_loss(z, teacher, LABEL, gamma=1.5, temperature=2.0), logits().requires_grad_()
    )


def gradient(student, teacher, gamma):
    student = student.clone().requires_grad_()
    nkd_loss(student, teacher, LABEL, gamma=gamma, temperature=3.0).backward()
    return student.grad


def test_a_student_like_its_teacher_is_pulled_by_the_label_alone():
    teacher = logits()
    # agreement on the other classes is all that counts: shift them, and move the label at will
    student = teacher + 1.7
    student[torch.arange(5), LABEL] = torch.linspace(-3, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(
        gradient(student, teacher, 1.5), gradient(student, teacher, 0.0), rtol=0, atol=1e-14
    )
    # and the label's part is T_t (S - y) / N: not zero, even for equal logits
    trust = teacher.softmax(1)[torch.arange(5), LABEL][:, None]
    expected = trust * (teacher.softmax(1) - F.one_hot(LABEL, 7)) / 5
    torch.testing.assert_close(gradient(teacher, teacher, 1.5), expected, rtol=0, atol=1e-14)


def test_extreme_logits_and_two_classes_give_finite_numbers():
    for k, scale in ((2, 1.0), (5, 1e4)):
        student = logits(3, k, scale=scale).float().requires_grad_()
        label = torch.tensor([0, 1, 1])
        loss = nkd_loss(student, logits(3, k, 1, scale).float(), label, gamma=1, temperature=1)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(student.grad).all()


def network(seed=1, num_classes=NUM_CLASSES, **fields):
    torch.manual_seed(seed)
    return build_model("convnext_atto", num_classes=num_classes, **(TINY | fields))


def distilling_task(teacher=None, **fields):
    torch.manual_seed(0)
    config = ClassifyConfig(model="convnext_atto", model_args=TINY, teacher="given", **fields)
    task = ClassifyTask(config, num_classes=NUM_CLASSES)
    task.teacher = teacher or Teacher(network())
    return task


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return {"image": torch.randn(6, 3, 32, 32), "label": torch.tensor([0, 1, 2, 3, 1, 1])}


def test_without_mixing_the_loss_is_that_of_the_labels_plus_the_teachers(batch):
    task = distilling_task(
        mixup=0.0, cutmix=0.0, smoothing=0.1, teacher_gamma=1.2, teacher_temperature=3.0
    )
    z, t = task.network(batch["image"]), task.teacher(batch["image"])
    hard = F.cross_entropy(z, batch["label"], label_smoothing=0.1)
    soft = nkd_loss(z, t, batch["label"], gamma=1.2, temperature=3.0)
    found = task(batch)
    torch.testing.assert_close(found["loss"], hard + soft)
    torch.testing.assert_close(found["label_loss"], hard)
    torch.testing.assert_close(found["teacher_loss"], soft)
    task.config = replace(task.config, label_weight=0.25)
    torch.testing.assert_close(task(batch)["loss"], hard / 4 + soft)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_with_mixing_the_teacher_sees_the_mixed_images_and_the_label_is_the_larger_part(
    mixup, cutmix, batch
):
    task = distilling_task(mixup=mixup, cutmix=cutmix, smoothing=0.1)
    np.random.seed(3)
    images, targets = task.mixup(batch["image"].clone(), batch["label"])
    z = task.network(images)
    hard = -(targets * z.log_softmax(1)).sum(1).mean()
    soft = nkd_loss(z, task.teacher(images), targets.argmax(1), gamma=1.5, temperature=1.0)
    np.random.seed(3)
    torch.testing.assert_close(task(batch)["loss"], hard + soft)


def test_evaluation_asks_no_teacher(batch):
    task = distilling_task()
    task.teacher = None
    found = task.eval()(batch)
    torch.testing.assert_close(
        found["loss"], F.cross_entropy(task.network(batch["image"]), batch["label"])
    )
    with pytest.raises(AssertionError, match="given its teacher"):
        task.train()(batch)


def test_the_teacher_is_no_part_of_the_task():
    task, plain = distilling_task(), distilling_task()
    plain.teacher = None
    assert task.state_dict().keys() == plain.state_dict().keys()
    for named in ("named_parameters", "named_buffers", "named_modules"):
        assert [n for n, _ in getattr(task, named)()] == [n for n, _ in getattr(plain, named)()]
    groups = task.param_groups(OptimConfig())
    check_complete(groups, task)
    teachers = {id(p) for p in task.teacher.network.parameters()}
    assert not teachers & {id(p) for group in groups for p in group["params"]}


def test_copies_share_the_teacher():
    task = distilling_task()
    ema = Ema(task, 0.9)
    assert ema.module.teacher is task.teacher
    assert copy.deepcopy(task).teacher is task.teacher
    assert sum(1 for _ in ema.module.parameters()) == sum(1 for _ in task.parameters())


def test_the_teacher_stays_as_it_is(batch):
    teacher = Teacher(network(drop_path_rate=0.9, small_kernel=3))  # with batch norms
    before = {k: v.clone() for k, v in teacher.network.state_dict().items()}
    task = distilling_task(teacher)
    task.train()
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    for _ in range(2):
        task({k: v.clone() for k, v in batch.items()})["loss"].backward()
        optimizer.step()
    assert not teacher.network.training
    assert all(p.grad is None for p in teacher.network.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.network.state_dict().items())


def test_the_student_comes_to_agree_with_its_teacher(batch):
    task = distilling_task(mixup=0.0, cutmix=0.0, label_weight=0.0, layer_scale_init_value=0.1)
    task.teacher.network.head.weight.mul_(50)  # a teacher with opinions
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        losses.append(task(batch)["loss"])
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]


def test_images_are_normalised_anew_for_a_teacher_with_other_statistics():
    pixels = torch.rand(2, 3, 32, 32)
    half = (0.5, 0.5, 0.5)

    def normalised(mean, std):
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    model = network()
    same = {"student_mean": MEAN, "student_std": STD}
    other = Teacher(model, mean=half, std=half, **same)
    torch.testing.assert_close(other(normalised(MEAN, STD)), model(normalised(half, half)))
    alike = Teacher(model, mean=MEAN, std=STD, **same)
    assert torch.equal(alike(normalised(MEAN, STD)), model(normalised(MEAN, STD)))


def test_the_teacher_runs_under_the_callers_autocast(batch):
    teacher = Teacher(network())
    seen = []
    teacher.network.head.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        found = teacher(batch["image"])
    assert seen == [torch.bfloat16]
    assert found.dtype == torch.float32
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"teacher": "x", "teacher_gamma": -1.0}, "task.teacher_gamma is -1.0"),
        ({"teacher": "x", "teacher_temperature": 0.0}, "task.teacher_temperature is 0.0"),
        ({"teacher": "x", "label_weight": -0.5}, "task.label_weight is -0.5"),
        ({"label_weight": 0.5}, r"without a task.teacher; name a teacher \(--task.teacher\)"),
    ],
)
def test_bad_values_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        ClassifyConfig(**fields)
