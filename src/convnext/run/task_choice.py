"""Which task a training command means: what a run began with, a network's name, or the data."""

from pathlib import Path

from convnext.data.detection import is_detection_set
from convnext.data.segmentation import is_segmentation_set
from convnext.models.registry import is_detector_name, is_model, is_segmenter_name
from convnext.recipes.recipe import Recipe
from convnext.run.folder import RunFolder
from convnext.tasks.classify import ClassifyConfig
from convnext.tasks.detect import DetectConfig
from convnext.tasks.pretrain import PretrainConfig
from convnext.tasks.segment import SegmentConfig

__all__ = ["choose_task"]


def choose_task(
    model: str, data: str, out: Path
) -> ClassifyConfig | PretrainConfig | DetectConfig | SegmentConfig:
    """The task of a command that names no recipe.

    A run that began in `out` keeps its task, whatever its data look like by now. Else the name of
    the network decides, and without one the form of the data: boxes before masks, and images in
    folders of classes where there is neither.

    Args:
        model: Name of the network, if given.
        data: Where the images are, if given.
        out: Folder of the run.

    Raises:
        ValueError: The recipe of the run in `out` is damaged.
    """
    run = RunFolder(out)
    if run.stored() is not None:
        return Recipe.from_file(run.recipe_file).task
    if is_segmenter_name(model):
        return SegmentConfig()
    if model and is_model(model):
        return ClassifyConfig()
    if is_detector_name(model) or is_detection_set(data):
        return DetectConfig()
    return SegmentConfig() if is_segmentation_set(data) else ClassifyConfig()
