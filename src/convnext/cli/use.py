"""`convnext evaluate`, `predict`, `doctor` and `demo`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from convnext.cli.parse import parse

__all__ = ["demo", "doctor", "evaluate", "predict"]

Target = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_OR_WEIGHTS")]


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """What is evaluated, on what."""

    target: Target
    """A run folder, a weights folder, a checkpoint file, or a model name such as
    convnext_tiny.in1k."""
    data: str = ""
    """The labelled images: a folder, CSV, tar shards or hf:NAME; empty = the run's own data."""
    split: Literal["auto", "train", "val", "test", "all"] = "auto"
    """Which part of the data; auto = test if there is one, else val, else everything; for detectors
    on other data than their own val first (most test parts come without boxes)."""
    out: str = ""
    """Folder for evaluation.json and report.html; empty = in the run folder, else in runs/."""
    batch_size: int | None = None
    """Images a batch; by default 64, of detectors 1 (padding to a larger neighbour is felt)."""
    workers: int = -1
    """Processes that read images (-1 = fit for this machine)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    knn: bool = False
    """Judge the frozen features instead, by nearest neighbours; for weights without a head."""
    linear: bool = False
    """Likewise, by a linear classifier on the frozen features."""
    image_size: int | None = None
    """Side of the images for --knn and --linear, in pixels; by default as the weights say."""
    tta: bool = False
    """Detectors: see each image at three sizes and mirrored; six times the time."""


def evaluate(arguments: list[str]) -> int:
    """Score a classifier on labelled images, or a detector on annotated ones."""
    args = parse(EvaluateArguments, arguments, "evaluate")
    if args.knn or args.linear:
        return _probe(args)
    from convnext.run import detects, evaluate, evaluate_objects

    if detects(args.target):
        evaluate_objects(
            args.target,
            data=args.data,
            split=args.split,
            out=Path(args.out) if args.out else None,
            tta=args.tta,
            batch_size=args.batch_size or 1,
            workers=args.workers,
            device=args.device,
        )
        return 0
    _only_detectors(args.target, tta=args.tta)
    evaluate(
        args.target,
        data=args.data,
        split=args.split,
        out=Path(args.out) if args.out else None,
        batch_size=args.batch_size or 64,
        workers=args.workers,
        device=args.device,
    )
    return 0


def _only_detectors(target: str, **options: bool) -> None:
    """Refuse options that mean nothing for a classifier."""
    for name, given in options.items():
        if given:
            raise ValueError(f"--{name} is for detectors; {target} is a classifier")


def _probe(args: EvaluateArguments) -> int:
    from convnext.run.probing import probe

    probe(
        args.target,
        data=args.data,
        out=Path(args.out) if args.out else None,
        use_knn=args.knn,
        use_linear=args.linear,
        image_size=args.image_size,
        batch_size=args.batch_size or 64,
        workers=args.workers,
        device=args.device,
    )
    return 0


@dataclass(frozen=True, kw_only=True)
class PredictArguments:
    """What is predicted, for which files, and where the answers go."""

    target: Target
    """A run folder, a weights folder, a checkpoint file, or a model name such as
    convnext_tiny.in1k."""
    paths: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILES_OR_FOLDERS")
    ]
    """Images and folders of images (searched with their subfolders)."""
    csv: str = ""
    """Write the predictions to this CSV file."""
    json: str = ""
    """Write the predictions to this file: one JSON object a line, of detectors a list of results
    in COCO form."""
    topk: int = 5
    """How many classes to give for each image."""
    cam: str = ""
    """Folder for pictures that show what spoke for the predicted class (Grad-CAM)."""
    draw: str = ""
    """Detectors: folder for the pictures with boxes, masks and names."""
    threshold: float | None = None
    """Detectors: least score of an object, by default 0.5."""
    tta: bool = False
    """Detectors: see each image at three sizes and mirrored; six times the time."""
    batch_size: int | None = None
    """Images a batch; by default 64, of detectors 1 (padding to a larger neighbour is felt)."""
    workers: int = -1
    """Processes that read images (-1 = fit for this machine)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""


def predict(arguments: list[str]) -> int:
    """Classify images, or find objects in them; status 1 when some could not be read."""
    args = parse(PredictArguments, arguments, "predict")
    from convnext.run import detects, predict

    if detects(args.target):
        return _predict_objects(args)
    _only_detectors(
        args.target, draw=bool(args.draw), threshold=args.threshold is not None, tta=args.tta
    )
    outcome = predict(
        args.target,
        [Path(path) for path in args.paths],
        csv=Path(args.csv) if args.csv else None,
        json=Path(args.json) if args.json else None,
        cam=Path(args.cam) if args.cam else None,
        topk=args.topk,
        batch_size=args.batch_size or 64,
        workers=args.workers,
        device=args.device,
    )
    return 1 if outcome.unreadable else 0


def _predict_objects(args: PredictArguments) -> int:
    from convnext.run.detection_prediction import THRESHOLD, predict_objects

    if args.cam:
        raise ValueError(f"--cam is for classifiers; {args.target} is a detector (--draw FOLDER)")
    outcome = predict_objects(
        args.target,
        [Path(path) for path in args.paths],
        csv=Path(args.csv) if args.csv else None,
        json=Path(args.json) if args.json else None,
        draw=Path(args.draw) if args.draw else None,
        threshold=THRESHOLD if args.threshold is None else args.threshold,
        tta=args.tta,
        batch_size=args.batch_size or 1,
        workers=args.workers,
        device=args.device,
    )
    return 1 if outcome.unreadable else 0


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """Which images to examine."""

    data: str
    """A folder, CSV, tar shards or hf:NAME; or images with boxes in COCO, Pascal VOC or YOLO
    form."""
    workers: int = -1
    """Processes that read images (-1 = all cores)."""
    json: str = ""
    """Write the findings to this JSON file."""


def doctor(arguments: list[str]) -> int:
    """Check images before training; status 1 when something is wrong."""
    args = parse(DoctorArguments, arguments, "doctor")
    from convnext.run.doctor import doctor

    json = Path(args.json) if args.json else None
    return 0 if doctor(args.data, workers=args.workers, json=json) else 1


@dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """What is demonstrated, and where it goes."""

    what: Annotated[
        tyro.conf.Positional[Literal["classification", "detection"]],
        tyro.conf.arg(metavar="[{classification,detection}]"),
    ] = "classification"
    """classification: solar cells of elpv-dataset; detection: trees of deepforest."""
    out: str = ""
    """Folder of the run; empty = in runs/."""
    seed: int = 0
    """Seed of the weights, the order of the images and their augmentation."""


def demo(arguments: list[str]) -> int:
    """Train on real photographs and report."""
    args = parse(DemoArguments, arguments, "demo")
    from convnext.run.demo import demo, demo_detection

    if args.what == "detection":
        demo_detection(Path(args.out or "runs/demo_detection"), seed=args.seed)
    else:
        demo(Path(args.out or "runs/demo"), seed=args.seed)
    return 0
