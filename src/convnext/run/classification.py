"""Classification: its recipe for the data at hand, its network, its scores."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from convnext.data import Splits, check_images, open_splits, summarise
from convnext.models.backbone import Backbone, BackboneConfig
from convnext.models.convnext import ConvNeXtConfig
from convnext.models.large_kernel import RepLKNetConfig, merge
from convnext.models.registry import is_model, model_config
from convnext.recipes.choose import choose
from convnext.recipes.recipe import Recipe
from convnext.run.conclusion import conclude
from convnext.run.job import Job
from convnext.run.kind import Kind
from convnext.run.loading import load_network, pick_device
from convnext.tasks.classify import ClassifyTask
from convnext.tasks.distillation import Teacher
from convnext.train.protocols import Evaluate
from convnext.weights.architecture import stored_fields
from convnext.weights.checkpoint import Checkpoint, read_checkpoint
from convnext.weights.create import load_pretrained
from convnext.weights.sources import Source, resolve

__all__ = ["CLASSIFICATION", "choose_recipe"]


def choose_recipe(
    base: Recipe,
    *,
    model: str = "",
    image_size: int | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
) -> tuple[Recipe, list[str]]:
    """A recipe fit for the data that `base.images` names, and the reasons for it.

    Args:
        base: Its data configuration says where the images are; its task, what to start from.
        model: Name of the network, if the user has chosen it; so for the other arguments.
        image_size: Side of the images in pixels.
        batch_size: Images a step.
        epochs: Passes over the data.
    """
    summary = summarise(open_splits(base.images), base.images)
    start = base.classify.pretrained
    model_args: dict[str, Any] = {}
    found = read_checkpoint(start) if start and Path(start).expanduser().exists() else None
    if start and not model:
        model, model_args = _network_of(start, found)
    return choose(
        summary,
        data=base.images,
        device=pick_device(base.train.device).type,
        pretrained=start,
        encoder_only=found.is_encoder if found else start.endswith("fcmae"),
        model=model,
        model_args=model_args,
        image_size=image_size,
        batch_size=batch_size,
        epochs=epochs,
    )


def _network_of(weights: str, found: Checkpoint | None) -> tuple[str, dict[str, Any]]:
    """The network that weights are for, as far as they say: its name, and fields that differ.

    Args:
        weights: A name with a tag, or what was read.
        found: Its content, if it is a file or folder.
    """
    if found is None:
        name = weights.partition(".")[0]
        return (name if is_model(name) else ""), {}
    config = found.config
    args: dict[str, Any] = {}
    if not isinstance(config, ConvNeXtConfig) or not config.plain:
        name = _registered(found.name, config) or _registered(found.card.name, config)
        name = name or ("replknet_31b" if isinstance(config, RepLKNetConfig) else "slak_tiny")
        usual_fields = stored_fields(model_config(name))
        fields = {k: v for k, v in stored_fields(config).items() if v != usual_fields[k]}
        return name, {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    name = found.name or ("convnextv2_tiny" if config.grn else "convnext_tiny")
    usual = model_config(name)
    if found.name is None:
        args = {"depths": list(config.depths), "dims": list(config.dims)}
    if config.stem_stride != usual.stem_stride:
        args["stem_stride"] = config.stem_stride
    if bool(config.layer_scale_init_value) != bool(usual.layer_scale_init_value):
        args["layer_scale_init_value"] = config.layer_scale_init_value
    return name, args


def _registered(name: str | None, config: BackboneConfig) -> str:
    """A name under which there is a network of this kind, else ""."""
    if name is None or not is_model(name):
        return ""
    return name if type(model_config(name)) is type(config) else ""


def _build(job: Job, resumed: bool, say: Callable[[str], None]) -> ClassifyTask:
    """Network and loss; with pretrained weights unless a checkpoint will replace them anyway."""
    recipe, splits, config = job.recipe, job.splits, job.recipe.classify
    network: nn.Module | None = None
    if config.pretrained and not resumed:
        # Downloaded once, by the first process, and read by all of them from its cache.
        job.world.from_main(lambda: str(resolve(_source(config.pretrained), config.model).path))
        network = _pretrained(recipe, splits.classes, say)
    task = ClassifyTask(
        config,
        num_classes=len(splits.classes),
        in_chans=recipe.images.in_chans,
        labels=splits.train.labels,
        network=network,
    )
    if config.teacher:  # after the network, whose random start must not depend on it
        task.teacher = _teacher(job, say)
    return task


def _teacher(job: Job, say: Callable[[str], None]) -> Teacher:
    """The network that the recipe names as teacher, on the device of this process.

    Raises:
        ValueError: It is for other classes or other channels than the data have, or no classifier.
        OSError: It cannot be read.
    """
    data, classes, name = job.recipe.images, job.splits.classes, job.recipe.classify.teacher
    try:  # downloaded once, as above
        job.world.from_main(lambda: str(_teacher_source(name).path))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no teacher (--task.teacher): {error}") from None
    loaded = load_network(name, job.world.device)
    network, pre = loaded.network, loaded.preprocessing
    if network.config.in_chans != data.in_chans:
        raise ValueError(
            f"the teacher {name} takes images of {network.config.in_chans} channels, the data have "
            f"{data.in_chans}; set --data.in-chans {network.config.in_chans}, or take another "
            "teacher"
        )
    if len(loaded.labels) != len(classes):
        raise ValueError(
            f"the teacher {name} tells {len(loaded.labels)} classes apart, the data have "
            f"{len(classes)}; fine-tune it on these data first (convnext train --pretrained {name})"
        )
    if loaded.named and loaded.labels != tuple(classes):
        pairs = enumerate(zip(loaded.labels, classes, strict=True))
        i, (theirs, ours) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        raise ValueError(
            f"the teacher {name} was trained for other classes: class {i} is {theirs!r} there and "
            f"{ours!r} in the data; name the folders alike, or take another teacher"
        )
    say(f"teacher {name}: {len(classes)} classes")
    if not loaded.named:
        say("  its classes have no names: they are taken to be the data's, in the same order")
    return Teacher(
        merge(network),  # the same answers with fewer convolutions and norms
        mean=pre.mean,
        std=pre.std,
        student_mean=data.channel_mean,
        student_std=data.channel_std,
    )


def _teacher_source(name: str) -> Source:
    return resolve(True, name) if is_model(name) else resolve(name)


def _source(pretrained: str) -> str | bool:
    return True if pretrained == "true" else pretrained


def _pretrained(recipe: Recipe, classes: Sequence[str], say: Callable[[str], None]) -> Backbone:
    """The pretrained network; its head is kept only if it is for these very classes."""
    config = recipe.classify
    # The recipe decides every field: a resumed run builds the network without the weights.
    fields: dict[str, Any] = stored_fields(
        replace(model_config(config.model), **config.network_args())
    )
    model, info = load_pretrained(
        _source(config.pretrained),
        name=config.model,
        num_classes=len(classes),
        in_chans=recipe.images.in_chans,
        drop_path_rate=config.drop_path_rate,
        **fields,
    )
    network = cast(Backbone, model)
    say(f"weights {info.source}: {info.report}")
    if info.labels is not None and info.labels != tuple(classes):
        network.reset_classifier(len(classes), config.head_init_scale)
        say("  head is new (the weights are for other classes)")
    return network


def _evaluator(job: Job) -> Evaluate | None:
    return job.evaluator() if job.splits.val is not None else None


def _open(recipe: Recipe) -> Splits:
    return check_images(open_splits(recipe.images), recipe.images)


CLASSIFICATION = Kind(
    open=_open,
    build=_build,
    batches=Job.train_batches,
    evaluator=_evaluator,
    conclude=conclude,
)
