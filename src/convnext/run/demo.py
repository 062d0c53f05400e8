"""The demonstrations: real photographs, a network from scratch, an honest score, a report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from convnext.data import open_splits
from convnext.data.detection.deepforest import write_trees
from convnext.evaluate.coco_result import DetectionResult
from convnext.evaluate.result import ClassificationResult
from convnext.recipes.demo import DEMO, DEMO_DETECTION
from convnext.run.detection_conclusion import summary_line
from convnext.run.detection_prediction import predict_objects
from convnext.run.folder import say_line
from convnext.run.training import train

__all__ = ["demo", "demo_detection"]


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
