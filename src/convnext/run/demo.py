"""The demonstration: real photographs, a network from scratch, an honest score, a report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from convnext.data import open_splits
from convnext.evaluate.result import ClassificationResult
from convnext.recipes.demo import DEMO
from convnext.run.folder import say_line
from convnext.run.training import train

__all__ = ["demo"]


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
