"""Judge a frozen encoder on labelled images: k nearest neighbours, linear classifier."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convnext.data import EvalBatches, Source, eval_dataset, num_workers, open_splits
from convnext.data.config import DataConfig
from convnext.evaluate.classification import ClassificationMetrics
from convnext.evaluate.probe import knn, linear_probe, standardised
from convnext.models.backbone import Backbone
from convnext.run.folder import RunFolder, say_line, versions, write_text
from convnext.run.loading import data_config, load_encoder, pick_device
from convnext.run.scoring import progress

__all__ = ["probe"]


def probe(
    target: str,
    *,
    data: str,
    out: Path | None = None,
    use_knn: bool = True,
    use_linear: bool = True,
    image_size: int | None = None,
    batch_size: int = 64,
    workers: int = -1,
    device: str = "auto",
    say: Callable[[str], None] = say_line,
) -> dict[str, Any]:
    """Score frozen features: the mean of the last map over positions, standardised.

    Neighbours and the linear classifier come from the training images, unaugmented; the test images
    are scored, or the validation images where there are none.

    Args:
        target: A run, a weights folder or file, or a published name; with or without a head.
        data: Labelled images.
        out: Folder for `probe.json`; by default in the run, else in `runs/`.
        use_knn: Score by the 20 nearest neighbours.
        use_linear: Score by a linear classifier.
        image_size: Side of the images in pixels; by default as the weights say.
        batch_size: Images a batch.
        workers: Processes that read images, -1 = fit for this machine.
        device: "auto", "cpu", "cuda", ...
        say: Where messages go.

    Returns:
        The content of `probe.json`.

    Raises:
        ValueError: The data have no part to score, or the weights cannot be loaded.
        OSError: Something cannot be read or written.
    """
    chosen = pick_device(device)
    network, preprocessing = load_encoder(target, chosen)
    config = data_config(preprocessing, network.config.in_chans, path=data, workers=workers)
    if image_size is not None:
        config = DataConfig(**{**vars(config), "image_size": image_size})
    splits = open_splits(config)
    parts = splits.named()
    name = next((n for n in ("test", "val") if n in parts), None)
    if name is None:
        raise ValueError(f"{data}: no validation or test images to score")
    train, labels = _features(network, parts["train"], config, batch_size, "training images")
    queries, truth = _features(network, parts[name], config, batch_size, f"{name} images")
    train, queries = standardised(train, queries)
    classes = splits.classes
    result: dict[str, Any] = {"weights": target, "data": data, "split": name}
    result |= {"train_images": len(train), "images": len(queries), "classes": len(classes)}
    scores: dict[str, Tensor] = {}
    if use_knn:
        scores["knn"] = knn(train, labels, queries, num_classes=len(classes)).log()
    if use_linear:
        scores["linear"], strength = linear_probe(train, labels, queries, num_classes=len(classes))
        result["linear_strength"] = strength
    for kind, values in scores.items():
        metrics = ClassificationMetrics(len(classes), classes, calibration=False)
        metrics.update(values.clamp_min(-1e4).float(), truth, torch.arange(len(truth)))
        found = metrics.compute()
        result[kind] = found.scalars()
        low, high = found.top1_interval
        say(
            f"{kind}: top-1 {found.top1:.2f} % (95 % interval {low:.1f} to {high:.1f}) of "
            f"{len(truth)} {name} images; always saying {classes[found.majority_class]!r} would "
            f"reach {found.majority_top1:.2f} %"
        )
    out = out or _default_out(target)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**result, "versions": versions()}, indent=2)
    write_text(out / "probe.json", text + "\n")
    say(f"scores: {out / 'probe.json'}")
    return result


def _features(
    network: Backbone, source: Source, config: DataConfig, batch_size: int, title: str
) -> tuple[Tensor, Tensor]:
    """Pooled last maps (N, C) in fp32 on the CPU, and labels (N,)."""
    device = next(network.parameters()).device
    batches = EvalBatches(
        eval_dataset(source, config), batch_size=batch_size, workers=num_workers(config.workers)
    )
    features, labels = [], []
    with torch.inference_mode():
        for batch in progress(batches, title, total=len(batches)):
            images = batch["image"].to(device, memory_format=torch.channels_last)
            features.append(network.forward_features(images).float().mean((-2, -1)).cpu())
            labels.append(batch["label"])
    return torch.cat(features).clone(), torch.cat(labels)


def _default_out(target: str) -> Path:
    run = RunFolder(Path(target).expanduser())
    if run.recipe_file.is_file():
        return run.path / "probe"
    return Path("runs") / f"probe-{Path(target).name}"
