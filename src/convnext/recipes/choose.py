"""A recipe fit for the data at hand.

ConvNeXt's ImageNet recipe takes 1.28 million images, batches of 4096 and 93,000 steps. On a few
hundred or thousand images it learns nothing: warm-up alone outlasts the run, a layer scale of
1e-6 keeps every block shut, the average of 0.9999 still holds the random start, and mixup,
RandAugment and tight crops hide what little there is to see. The rules below replace what
depends on scale; each says in plain words what it did.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from convnext.data.config import DataConfig
from convnext.data.summary import DataSummary
from convnext.models.backbone import BackboneConfig
from convnext.models.convnext import ConvNeXtConfig
from convnext.models.large_kernel import RepLKNetConfig
from convnext.models.registry import model_config
from convnext.recipes.imagenet import RECIPES as IMAGENET
from convnext.recipes.large_kernel import RECIPES as LARGE_KERNEL
from convnext.recipes.recipe import Recipe
from convnext.tasks.classify import ClassifyConfig
from convnext.train.config import OptimConfig, TrainConfig

__all__ = ["choose"]

# Below this many images a run is too short for the ImageNet recipe as it stands.
IMAGENET_SCALE = 500_000
# From 1e-6 the blocks would not open in a short run.
OPEN_LAYER_SCALE = 0.1
# Of more blocks than these, a layer decay of 0.8 for each would leave the first ones as they are.
DEEP = 18
# A third of atto's cost: a network that two CPU cores train in minutes.
CPU_NETWORK = {"depths": [2, 2, 4, 2], "dims": [32, 64, 128, 256]}


@dataclass
class _Plan:
    """What has been decided so far, and why."""

    summary: DataSummary
    cpu: bool
    pretrained: str
    encoder_only: bool
    reasons: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.reasons.append(text)


def choose(
    summary: DataSummary,
    *,
    data: DataConfig,
    device: str = "cpu",
    pretrained: str = "",
    encoder_only: bool = False,
    model: str = "",
    model_args: dict[str, Any] | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
) -> tuple[Recipe, list[str]]:
    """Choose network, batch, learning rate, epochs and augmentation for a data set.

    Args:
        summary: Counts, sizes and colours of the data.
        data: Where the data is; only what depends on its scale is replaced.
        device: "cpu", or an accelerator's type, for which larger networks are chosen.
        pretrained: Weights to start from: "true", a tag, a path or a URL; "" = from scratch.
        encoder_only: Whether those weights are of pre-training without labels: they have no head,
            and more to learn.
        model: Name of the network, when the user or the weights decide it; likewise the next ones.
        model_args: Further fields of its configuration.
        image_size: Side of the images in pixels.
        batch_size: Images a step.
        epochs: Passes over the data.

    Returns:
        The recipe, and one sentence for each decision.
    """
    plan = _Plan(summary, cpu=device == "cpu", pretrained=pretrained, encoder_only=encoder_only)
    n = summary.num_train
    plan.say(
        f"{n:,} training images in {len(summary.classes)} classes, "
        f"{summary.median_width}x{summary.median_height} px (median)"
        + (", grey" if summary.grey else "")
    )
    task, size = _network(plan, model, model_args, image_size)
    data = replace(data, image_size=size, in_chans=_channels(plan))
    if n >= IMAGENET_SCALE and not pretrained:
        return _imagenet(plan, task, data)
    batch = batch_size or _batch(plan)
    epochs = epochs or _epochs(plan, batch)
    steps = epochs * max(1, n // batch)
    plan.say(f"{epochs} epochs of {n // batch} steps with batches of {batch}: {steps:,} steps")
    optim = _optim(plan, task, batch, epochs, steps)
    task, data = _regularise(plan, task, data)
    task, data = _balance(plan, task, data)
    recipe = Recipe(
        name="auto",
        task=task,
        data=data,
        optim=optim,
        train=_engine(plan, epochs, steps),
        source="chosen for the data",
        notes="; ".join(plan.reasons),
    )
    return recipe, plan.reasons


def _network(
    plan: _Plan, model: str, model_args: dict[str, Any] | None, image_size: int | None
) -> tuple[ClassifyConfig, int]:
    """The network, its stem and the image size."""
    n, side = plan.summary.num_train, min(plan.summary.median_width, plan.summary.median_height)
    size, stride = _resolution(image_size or side, plan.cpu)
    size = image_size or size
    args: dict[str, Any] = model_args or {}
    if model:
        plan.say(f"network {model}, as you or the weights say")
    elif plan.pretrained:
        model = "convnextv2_atto" if plan.cpu else "convnext_tiny"
        plan.say(f"network {model}: the size with published weights that fits this device")
    elif plan.cpu:
        model, args = "convnextv2_atto", dict(CPU_NETWORK)
        plan.say("network: a slimmer convnextv2_atto, because this machine has no accelerator")
    else:
        model = _by_images(n)
        plan.say(f"network {model}: larger ones overfit on {n:,} images")
    if plan.pretrained:
        size = image_size or max(size, 128)
        plan.say(f"pretrained weights ({plan.pretrained}), images of {size} px")
        return ClassifyConfig(
            model=model,
            pretrained=plan.pretrained,
            head_init_scale=0.001,
            model_args=model_args or {},
        ), size
    return _from_scratch(plan, model, args, size, stride, given=image_size is not None)


def _from_scratch(
    plan: _Plan, model: str, args: dict[str, Any], size: int, stride: int, *, given: bool
) -> tuple[ClassifyConfig, int]:
    """A network without weights: its stem, kernels and layer scale; the user may give the size."""
    n = plan.summary.num_train
    plan.say(
        "from scratch; pretrained weights would help much on so few images: add --pretrained"
        if n < 100_000
        else "from scratch (--pretrained starts from published weights)"
    )
    config = model_config(model)
    if not isinstance(config, ConvNeXtConfig) or config.isotropic:
        size = size if given else max(size, 64)
        plan.say(f"images of {size} px: the stem of {model} has no smaller stride")
        args = _cropped_kernels(plan, config, args, size, config.reductions[0])
        return ClassifyConfig(model=model, model_args=args), size
    small = stride != 4
    why = f": at stride 4 too little would be left of {size} px" if small else ""
    plan.say(f"images of {size} px, stem stride {stride}{why}")
    args = _cropped_kernels(plan, config, args, size, stride)
    scale = None
    if 0 < config.layer_scale_init_value < 0.1 and n < IMAGENET_SCALE:
        scale = OPEN_LAYER_SCALE
        plan.say("layer scale starts at 0.1: from 1e-6 the blocks would not open in a short run")
    return ClassifyConfig(
        model=model,
        layer_scale_init_value=scale,
        stem_stride=stride if small else None,
        model_args=args,
    ), size


def _cropped_kernels(
    plan: _Plan, config: BackboneConfig, args: dict[str, Any], size: int, stride: int
) -> dict[str, Any]:
    """Large kernels without the taps that never meet a map of H positions: 2H - 1 remain."""
    if not isinstance(config, ConvNeXtConfig | RepLKNetConfig):
        return args
    if plan.summary.num_train >= IMAGENET_SCALE or {"kernel_size", "depths"} & args.keys():
        return args
    sizes, small = config.kernel_sizes, args.get("small_kernel", config.small_kernel)
    maps = [math.ceil(size / (stride * 2**i)) for i in range(len(sizes))]
    cropped = [
        min(kernel, max(2 * side - 1, small)) for kernel, side in zip(sizes, maps, strict=True)
    ]
    if max(sizes) <= 7 or cropped == list(sizes):
        return args
    plan.say(f"kernels {cropped} instead of {list(sizes)}: longer ones never meet {size} px")
    return {**args, "kernel_size": cropped}


def _resolution(side: int, cpu: bool) -> tuple[int, int]:
    """Image size and stem stride: the last map should keep at least 2 x 2 positions."""
    if side <= 40:
        return 32, 2 if cpu else 1
    if side <= 96:
        return 64, 2
    if side <= 160 or cpu:
        return 128, 4
    return 224, 4


def _by_images(n: int) -> str:
    for limit, name in ((3_000, "convnextv2_atto"), (30_000, "convnextv2_pico")):
        if n < limit:
            return name
    return "convnextv2_nano" if n < 150_000 else "convnextv2_tiny"


def _channels(plan: _Plan) -> int:
    if plan.summary.grey and not plan.pretrained:
        plan.say("one input channel, because the images are grey")
        return 1
    return 3


def _batch(plan: _Plan) -> int:
    """A power of two that leaves about eight steps an epoch, or more."""
    n = plan.summary.num_train
    cap = 64 if n < 5_000 else 128 if plan.cpu or n < 50_000 else 512
    return min(cap, n, 1 << int(math.log2(max(n / 8, 4))))


def _epochs(plan: _Plan, batch: int) -> int:
    """As many as a budget of steps allows: few images need many epochs."""
    budget = 2_500 if plan.cpu else 20_000
    if plan.pretrained:
        budget //= 2
    return min(300, max(10, round(budget / max(1, plan.summary.num_train // batch))))


def _optim(plan: _Plan, task: ClassifyConfig, batch: int, epochs: int, steps: int) -> OptimConfig:
    depths = task.model_args.get("depths", model_config(task.model).depths)
    grouped = len(depths) == 4 and sum(depths) > DEEP
    warmup = min(max(steps // 20, 50), steps // 5)
    warmup_epochs = round(warmup * epochs / steps, 3)
    if plan.pretrained:
        # An encoder that never saw labels has more to learn: measured in docs/log.md, the larger
        # rate gains two points over the smaller one.
        lr, decay = (1.4e-3, 0.9) if plan.encoder_only else (3e-4, 0.8)
        lr *= math.sqrt(batch / 64)
        by = f"{decay} for each of 12 groups of blocks" if grouped else f"{decay}"
        plan.say(f"learning rate {lr:.2g}, smaller for shallower layers (layer decay {by})")
    else:
        lr, decay = min(1e-3 * math.sqrt(batch / 64), 4e-3), 1.0
        plan.say(f"learning rate {lr:.2g}: the paper's 4e-3 is for batches of 4096")
    plan.say(f"warm-up of {warmup} steps; the paper's 20 epochs would be too long here")
    return OptimConfig(
        lr=float(f"{lr:.3g}"),
        weight_decay=0.05,
        batch_size=batch,
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        layer_decay=decay,
        layer_decay_rule="group" if grouped and plan.pretrained else "single",
        clip_grad=1.0,
    )


def _regularise(
    plan: _Plan, task: ClassifyConfig, data: DataConfig
) -> tuple[ClassifyConfig, DataConfig]:
    """Augmentation that leaves something to learn from."""
    n = plan.summary.num_train
    if n < 20_000 or plan.cpu:
        task = replace(task, mixup=0.0, cutmix=0.0, drop_path_rate=0.05)
        augment = replace(
            data.augment,
            rand_augment="rand-m5-mstd0.5-inc1",
            scale=(0.35, 1.0),
            erase_prob=0.1,
        )
        plan.say("mild augmentation (RandAugment 5, crops from 35 % of the area), no mixup")
    else:
        task = replace(task, mixup=0.2, cutmix=1.0, drop_path_rate=0.1)
        augment = replace(data.augment, scale=(0.2, 1.0))
        plan.say("RandAugment 9, crops from 20 % of the area, light mixup")
    return task, replace(data, augment=augment)


def _balance(
    plan: _Plan, task: ClassifyConfig, data: DataConfig
) -> tuple[ClassifyConfig, DataConfig]:
    counts = [c for c in plan.summary.class_counts if c > 0]
    ratio = max(counts) / min(counts)
    if ratio >= 20:
        plan.say(
            f"balanced sampling: the largest class has {ratio:.0f} times the smallest's images"
        )
        return task, replace(data, sampling="balanced")
    if ratio >= 3:
        plan.say(f"class weights: the largest class has {ratio:.1f} times the smallest's images")
        return replace(task, class_weights="balanced"), data
    return task, data


def _engine(plan: _Plan, epochs: int, steps: int) -> TrainConfig:
    """Averaging that has time to forget the random start; about forty evaluations."""
    every = max(1, epochs // 40)
    if steps < 500:
        plan.say("no weight averaging: the run is too short for it")
        return TrainConfig(ema_decay=None, eval_every_epochs=every)
    decay = min(0.9999, float(f"{1 - 20 / steps:.4f}"))
    plan.say(f"weights averaged over the last {1 / (1 - decay):,.0f} steps (EMA {decay})")
    return TrainConfig(ema_decay=decay, ema_warmup=True, eval_every_epochs=every)


def _imagenet(plan: _Plan, task: ClassifyConfig, data: DataConfig) -> tuple[Recipe, list[str]]:
    """Enough images for the published recipe."""
    base = {**IMAGENET, **LARGE_KERNEL}.get(f"{task.model}_in1k", IMAGENET["convnext_tiny_in1k"])
    plan.say("enough images for the published ImageNet recipe, which is used as it stands")
    task = replace(
        base.classify, model=task.model, stem_stride=task.stem_stride, model_args=task.model_args
    )
    data = replace(base.images, path=data.path, image_size=data.image_size, in_chans=data.in_chans)
    return replace(
        base,
        name="auto",
        task=task,
        data=data,
        expected_top1=None,
        notes="; ".join(plan.reasons),
    ), plan.reasons
