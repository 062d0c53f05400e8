"""Masked pre-training: images, score, panels of what it paints, and the encoder's weights."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from convnext.data import (
    DataConfig,
    EvalBatches,
    Source,
    Splits,
    check_images,
    eval_dataset,
    eval_transform,
    iter_files,
    num_workers,
    open_images,
    read_image,
    summarise,
)
from convnext.evaluate.cam import seen_image
from convnext.models.fcmae import CELL, patches, unpatch
from convnext.ops.masked import random_mask
from convnext.recipes.fcmae import fit_pretraining
from convnext.recipes.recipe import Recipe, from_dict, to_dict
from convnext.report.data import ReportData
from convnext.report.html import write_report
from convnext.run.conclusion import load_best
from convnext.run.folder import RunFolder, command_line, say_line, versions, write_text
from convnext.run.job import Job
from convnext.run.kind import Kind, Say
from convnext.run.loading import pick_device, preprocessing_of
from convnext.tasks.pretrain import PretrainConfig, PretrainTask
from convnext.train import checkpoint
from convnext.train.batch import to_device
from convnext.train.engine import FitResult
from convnext.train.hooks import Hook, Record
from convnext.train.protocols import Evaluate, Task
from convnext.weights.checkpoint import Card
from convnext.weights.folder import write_folder

__all__ = [
    "PRETRAINING",
    "choose_pretraining",
    "fixed_masks",
    "panel",
    "reconstruct",
    "reconstructions",
]

PANELS = "reconstructions"
SHOWN = 6  # images of a panel


def choose_pretraining(
    recipe: Recipe,
    base: Recipe,
    *,
    image_size: int | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
) -> tuple[Recipe, list[str]]:
    """A named recipe of pre-training made fit for the data that `base` names, with reasons."""
    data = replace(base.images, val_fraction=recipe.images.val_fraction)
    recipe, reasons = fit_pretraining(
        recipe,
        summarise(open_images(data), data),
        device=pick_device(base.train.device).type,
        image_size=image_size,
        batch_size=batch_size,
        epochs=epochs,
    )
    return replace(recipe, data=replace(recipe.images, path=base.images.path)), reasons


def _build(job: Job, resumed: bool, say: Say) -> PretrainTask:
    config = job.recipe.task
    assert isinstance(config, PretrainConfig)
    size = job.recipe.images.image_size
    if size % CELL:
        raise ValueError(
            f"image_size {size} cannot be cut into cells of {CELL} px; take "
            f"{max(CELL, round(size / CELL) * CELL)}"
        )
    random_mask(1, (size // CELL, size // CELL), config.mask_ratio)  # says if nothing is visible
    return PretrainTask(config, in_chans=job.recipe.images.in_chans)


def fixed_masks(first: int, images: Tensor, ratio: float) -> Tensor:
    """Masks of images that are the same in every evaluation: by the number of the batch."""
    grid = (images.shape[-2] // CELL, images.shape[-1] // CELL)
    generator = torch.Generator().manual_seed(first)
    return random_mask(len(images), grid, ratio, generator=generator).to(images.device)


def _loss(module: nn.Module, batches: EvalBatches, job: Job) -> float:
    """Mean loss over the images of all processes, each with its own fixed mask."""
    config = job.recipe.task
    assert isinstance(config, PretrainConfig)
    total = torch.zeros(2, dtype=torch.float64)
    for number, batch in enumerate(batches):
        on_device = to_device(dict(batch), job.world.device, channels_last=True)
        images = on_device["image"]
        mask = fixed_masks(number, images, config.mask_ratio)
        counts = batch["index"] >= 0
        # Every process goes through the network as often, also with padding alone.
        loss = module({"image": images, "mask": mask})["loss"]
        if counts.any():
            total += torch.tensor([float(loss) * int(counts.sum()), int(counts.sum())])
    total = job.world.mean(total.to(job.world.device)).cpu()
    return float(total[0] / total[1].clamp_min(1e-9))


def _evaluator(job: Job) -> Evaluate | None:
    if job.splits.val is None:
        return None
    batches = _eval_batches(job, job.splits.val)

    def evaluate(module: nn.Module) -> dict[str, float]:
        loss = _loss(module, batches, job)
        return {"score": -loss, "loss": loss}

    return evaluate


def _eval_batches(job: Job, source: Source) -> EvalBatches:
    recipe, world = job.recipe, job.world
    return EvalBatches(
        eval_dataset(source, recipe.images),
        batch_size=recipe.train.micro_batch or max(1, recipe.optim.batch_size // world.size),
        world=world.size,
        rank=world.rank,
        workers=num_workers(recipe.images.workers),
    )


def _some_images(source: Source, data: DataConfig) -> Tensor:
    """A few images, evenly spaced, as the network sees them."""
    dataset = eval_dataset(source, data)
    spots = range(0, len(source), max(1, len(source) // SHOWN))
    return torch.stack([dataset[i]["image"] for i in list(spots)[:SHOWN]])


class _Panels(Hook):
    """A picture of reconstructions at every evaluation."""

    def __init__(self, job: Job, task: PretrainTask, folder: Path) -> None:
        self._images = _some_images(job.splits.val or job.splits.train, job.recipe.images)
        self._job, self._task, self._folder = job, task, folder / PANELS

    def on_record(self, record: Record) -> None:
        if record["kind"] != "eval" or record.get("weights") != "model":
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        picture = panel(self._task, self._images, self._job.recipe.images)
        picture.save(self._folder / f"step_{record['step']:08d}.png")


def _hooks(job: Job, task: Task, folder: Path) -> list[Hook]:
    assert isinstance(task, PretrainTask)
    sharded = job.world.size > 1 and job.recipe.train.parallel == "fsdp"
    return [] if sharded else [_Panels(job, task, folder)]


@torch.no_grad()
def reconstructions(task: PretrainTask, images: Tensor, mask: Tensor) -> Tensor:
    """What the network paints, as normalised images (N, C, H, W); visible cells are the originals.

    Where pixels were normalised in each cell, the cell's own mean and deviation bring them back.
    """
    network = task.network
    was_training = task.training
    task.eval()
    prediction = network(images, mask).prediction.float()
    task.train(was_training)
    grid = network.grid(images)
    painted = unpatch(prediction, grid)
    if task.config.norm_pix:
        variance, mean = torch.var_mean(patches(images.float()), dim=-1, keepdim=True)
        painted = unpatch(prediction * (variance + 1e-6).sqrt() + mean, grid)
    hidden = mask.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)[:, None]
    return torch.where(hidden, painted, images.float())


def panel(task: PretrainTask, images: Tensor, data: DataConfig, *, seed: int = 0) -> Image.Image:
    """Original, masked and reconstruction side by side, an image a row."""
    config = task.config
    device = next(task.parameters()).device
    mask = fixed_masks(seed, images, config.mask_ratio)
    painted = reconstructions(task, images.to(device), mask.to(device)).cpu()
    hidden = mask.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
    rows = []
    for image, found, covered in zip(images, painted, hidden, strict=True):
        original = seen_image(image, data.channel_mean, data.channel_std)
        masked = Image.composite(
            Image.new("RGB", original.size, (128, 128, 128)),
            original,
            Image.fromarray((covered.byte() * 255).numpy()),
        )
        rows.append([original, masked, seen_image(found, data.channel_mean, data.channel_std)])
    width, height = rows[0][0].size
    gap = 4
    sheet = Image.new(
        "RGB", (3 * (width + gap) - gap, len(rows) * (height + gap) - gap), (255, 255, 255)
    )
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * (width + gap), y * (height + gap)))
    return sheet


def reconstruct(
    target: str,
    paths: Sequence[Path],
    out: Path,
    *,
    images: int = SHOWN,
    seed: int = 0,
    device: str = "auto",
    say: Callable[[str], None] = say_line,
) -> Path:
    """Draw originals, masks and reconstructions of any images.

    Args:
        target: A run of pre-training, or one of its checkpoints.
        paths: Images, and folders that are searched for images.
        out: The picture to write (.png).
        images: How many images, evenly spaced.
        seed: Of the masks.
        device: "auto", "cpu", "cuda", ...
        say: Where messages go.

    Returns:
        The picture's path.

    Raises:
        ValueError: The target has no decoder, or there is no image.
        OSError: Something cannot be read or written.
    """
    files = list(iter_files(paths))
    if not files or images < 1:
        raise ValueError(f"no image found in {', '.join(map(str, paths))}")
    task, data = _load(target, pick_device(device))
    number = min(images, len(files))
    chosen = [files[i * len(files) // number] for i in range(number)]
    transform = eval_transform(data)
    tensors = [transform(read_image(Path(name), data.in_chans)) for name in chosen]
    out.parent.mkdir(parents=True, exist_ok=True)
    panel(task, torch.stack(tensors), data, seed=seed).save(out)
    say(f"panel: {out}")
    return out


def _load(target: str, device: torch.device) -> tuple[PretrainTask, DataConfig]:
    """The whole autoencoder of a run, with its decoder."""
    path = Path(target).expanduser()
    if path.is_dir() and (path / "checkpoints").is_dir():
        places = path / "checkpoints"
        best = places / checkpoint.BEST
        found = best if best.is_file() else checkpoint.latest(places)
        if found is None:
            raise ValueError(f"{target} has no checkpoint yet; let it train first")
        path = found
    if path.parent.name != "checkpoints" or not path.is_file():
        raise ValueError(
            f"{target} has no decoder to paint with: published FCMAE weights and weights folders "
            "are encoders only; give a run folder of `convnext train fcmae_...`"
        )
    saved = checkpoint.load(path)
    if "encoder" not in saved["recipe"]["task"]:
        raise ValueError(f"{target} is a classifier; it paints nothing")
    data: DataConfig = from_dict(DataConfig, saved["recipe"]["data"])
    config: PretrainConfig = from_dict(PretrainConfig, saved["recipe"]["task"])
    task = PretrainTask(config, in_chans=data.in_chans)
    task.load_state_dict(saved.get("ema") or saved["task"])
    return task.to(device).eval(), data


def _conclude(job: Job, folder: RunFolder, fit: FitResult, say: Say) -> dict[str, float]:
    """The loss of the best weights, the encoder's weights, a last panel."""
    config = job.recipe.task
    assert isinstance(config, PretrainConfig)
    task = PretrainTask(config, in_chans=job.recipe.images.in_chans)
    load_best(task, fit, job.world)
    losses = {}
    for name, source in job.splits.named().items():
        if name != "train":
            with torch.no_grad():
                losses[name] = _loss(task, _eval_batches(job, source), job)
    job.world.from_main(lambda: _write(job, folder, fit, task, losses))
    for name, loss in losses.items():
        say(f"{name}: loss {loss:.4f} of {len(job.splits.named()[name])} images")
    say(f"encoder: {folder.weights_dir} (fine-tune: --pretrained {folder.weights_dir})")
    say(f"panels:  {folder.path / PANELS}")
    say(f"report:  {folder.report_file}")
    return losses


def _write(
    job: Job, folder: RunFolder, fit: FitResult, task: PretrainTask, losses: dict[str, float]
) -> None:
    encoder = task.network.encoder
    folder.weights_dir.mkdir(exist_ok=True)
    write_folder(
        folder.weights_dir,
        encoder.state_dict(),
        encoder.config,
        Card(
            name=task.config.encoder,
            preprocessing=preprocessing_of(job.recipe.images),
            extra={"recipe": job.recipe.name, "losses": losses, "pretraining": "fcmae"},
        ),
    )
    values: dict[str, Any] = {"step": fit.step, "loss": losses}
    write_text(folder.path / "evaluation.json", json.dumps(values, indent=2) + "\n")
    write_report(_report(job, folder, fit, losses, _example(job, task)), folder.report_file)


def _example(job: Job, task: PretrainTask) -> bytes:
    """The last panel, as PNG bytes; those of the run stay in its folder."""
    source = job.splits.val or job.splits.train
    picture = panel(task, _some_images(source, job.recipe.images), job.recipe.images)
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _report(
    job: Job, folder: RunFolder, fit: FitResult, losses: dict[str, float], example: bytes
) -> ReportData:
    recipe, parts = job.recipe, job.splits.named()
    assert isinstance(recipe.task, PretrainConfig)
    facts = {
        "recipe": recipe.name,
        "encoder": recipe.task.encoder,
        "data": recipe.images.path,
        "images": ", ".join(f"{name} {len(part):,}" for name, part in parts.items()),
        "effective batch": str(recipe.optim.batch_size),
        "seed": str(recipe.train.seed),
        "device": f"{job.world.size} x {job.world.device}",
    }
    facts |= {f"loss on {name}": f"{loss:.4f}" for name, loss in losses.items()}
    stored = folder.stored() or {}
    return ReportData(
        title=f"{recipe.name} on {Path(recipe.images.path).name or recipe.images.path}",
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        description=(
            f"{recipe.task.encoder}, pre-trained without labels on {len(parts['train']):,} images "
            f"for {recipe.optim.length} ({fit.step:,} steps): "
            f"{100 * recipe.task.mask_ratio:g} % of each image is hidden and painted. The loss is "
            "the squared error of hidden pixels, normalised in each cell; 1 is what painting the "
            "cell's mean would reach."
        ),
        history=folder.history(),
        pictures=[("original, masked, painted", example)],
        facts=facts,
        command=stored.get("command", command_line()),
        cost={"train_seconds": fit.seconds},
        recipe=to_dict(recipe),
        versions=versions(),
    )


def _open(recipe: Recipe) -> Splits:
    return check_images(open_images(recipe.images), recipe.images)


PRETRAINING = Kind(
    open=_open,
    build=_build,
    batches=Job.train_batches,
    evaluator=_evaluator,
    hooks=_hooks,
    conclude=_conclude,
)
