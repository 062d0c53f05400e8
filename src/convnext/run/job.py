"""What a run works with: its recipe and its opened data, in one process."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from convnext.data import (
    EvalBatches,
    Splits,
    TrainBatches,
    eval_dataset,
    num_workers,
    train_dataset,
)
from convnext.data.source import Source
from convnext.evaluate.result import ClassificationResult
from convnext.recipes.recipe import Recipe
from convnext.run.scoring import score
from convnext.train.parallel import World
from convnext.train.protocols import Batches

__all__ = ["Job"]

EVAL_BATCH = 1.5  # images of an evaluation batch for each of a micro-batch


@dataclass(frozen=True)
class Job:
    """A recipe with its opened data, in one process of a run."""

    recipe: Recipe
    splits: Splits
    world: World

    def train_batches(self) -> Batches:
        """The training images in batches of the recipe's effective size."""
        recipe, world = self.recipe, self.world
        batches = TrainBatches(
            train_dataset(self.splits.train, recipe.images, recipe.train.seed),
            batch_size=recipe.optim.batch_size,
            micro_batch=recipe.train.micro_batch,
            world=world.size,
            rank=world.rank,
            seed=recipe.train.seed,
            workers=num_workers(recipe.images.workers),
            sampling=recipe.images.sampling,
            even=recipe.task.pairs_images,
        )
        return cast(Batches, batches)  # a TypedDict is a dict for all but the checker

    def eval_batches(self, source: Source) -> EvalBatches:
        """Labelled images as they are, in batches a little larger than in training."""
        recipe, world = self.recipe, self.world
        most = recipe.train.micro_batch or recipe.optim.batch_size // world.size
        return EvalBatches(
            eval_dataset(source, recipe.images),
            batch_size=max(1, min(256, int(EVAL_BATCH * most))),
            world=world.size,
            rank=world.rank,
            workers=num_workers(recipe.images.workers),
        )

    def evaluator(self) -> Callable[[nn.Module], dict[str, float]]:
        """What the engine calls to score weights on the validation images."""
        assert self.splits.val is not None
        batches = self.eval_batches(self.splits.val)

        def evaluate(module: nn.Module) -> dict[str, float]:
            result = self.score(module, batches, calibration=False)
            return {
                # On small sets many evaluations tie; the loss tells them apart.
                "score": result.top1 - min(result.loss, 100.0) / 1e6,
                "top1": result.top1,
                "top5": result.top5,
                "loss": result.loss,
                "balanced_accuracy": result.balanced_accuracy,
            }

        return evaluate

    def score(
        self,
        task: nn.Module,
        batches: EvalBatches,
        *,
        calibration: bool,
        title: str = "evaluating",
    ) -> ClassificationResult:
        """Scores of a task's weights over all processes."""

        def logits(batch: dict[str, Any]) -> Tensor:
            scores: Tensor = task(batch)["logits"]
            return scores

        return score(
            logits,
            batches,
            self.splits.classes,
            self.world.device,
            calibration=calibration,
            channels_last=self.recipe.train.channels_last,
            title=title,
            show=self.world.is_main,
        )
