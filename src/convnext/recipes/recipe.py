"""The recipe: everything that decides a run, as one frozen value with a JSON form."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from convnext.data.config import DataConfig, DetectionDataConfig, SegmentationDataConfig
from convnext.models.field_values import from_dict
from convnext.tasks.classify import ClassifyConfig
from convnext.tasks.detect import DetectConfig
from convnext.tasks.pretrain import PretrainConfig
from convnext.tasks.segment import SegmentConfig
from convnext.train.config import OptimConfig, TrainConfig

__all__ = ["Recipe", "differences", "from_dict", "to_dict"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, on which data, how. Variants: `dataclasses.replace`."""

    name: str = "custom"
    """Name of the recipe."""
    task: ClassifyConfig | PretrainConfig | DetectConfig | SegmentConfig = field(
        default_factory=ClassifyConfig
    )
    """Network and loss."""
    data: DataConfig | DetectionDataConfig | SegmentationDataConfig = field(
        default_factory=DataConfig
    )
    """Images and augmentation."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Engine: precision, averaging, checkpoints."""
    source: str = ""
    """Table that the values come from."""
    expected_top1: float | None = None
    """Published top-1 accuracy in percent."""
    expected_ap: tuple[float, float] | None = None
    """Published average precision of boxes and of masks, in percent."""
    expected_miou: tuple[float | None, float | None] | None = None
    """Published mean IoU in percent, of testing at one scale and at several."""
    cost: str = ""
    """What the run took where it was published."""
    notes: str = ""
    """What a reader should know besides."""

    @property
    def classify(self) -> ClassifyConfig:
        """The task of a recipe that trains a classifier.

        Raises:
            ValueError: It does something else.
        """
        if not isinstance(self.task, ClassifyConfig):
            raise ValueError(f"the recipe {self.name} does not train a classifier")
        return self.task

    @property
    def images(self) -> DataConfig:
        """The images of a recipe that classifies or pre-trains.

        Raises:
            ValueError: It detects or segments.
        """
        if not isinstance(self.data, DataConfig):
            raise ValueError(f"the recipe {self.name} is for images with boxes or masks")
        return self.data

    @property
    def detect(self) -> tuple[DetectConfig, DetectionDataConfig]:
        """Detector and images of a recipe that detects.

        Raises:
            ValueError: It does something else.
        """
        if not isinstance(self.task, DetectConfig) or not isinstance(
            self.data, DetectionDataConfig
        ):
            raise ValueError(f"the recipe {self.name} does not train a detector")
        return self.task, self.data

    @property
    def segment(self) -> tuple[SegmentConfig, SegmentationDataConfig]:
        """Network and images of a recipe that segments.

        Raises:
            ValueError: It does something else.
        """
        if not isinstance(self.task, SegmentConfig) or not isinstance(
            self.data, SegmentationDataConfig
        ):
            raise ValueError(f"the recipe {self.name} does not train a segmentation network")
        return self.task, self.data

    def to_json(self) -> str:
        """The recipe as indented JSON; `from_json` reads it back unchanged."""
        return json.dumps(to_dict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """A recipe from its JSON.

        Raises:
            ValueError: The text is no JSON, or a field is unknown or has the wrong type.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"the recipe is no valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError("the recipe must be a JSON object")
        recipe = from_dict(cls, values)
        assert isinstance(recipe, cls)
        return recipe

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """A recipe from a `recipe.json`; what a run wrote beside the recipe is skipped.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file holds no recipe; the message names the file.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("it holds no JSON object")
            recipe = from_dict(cls, values.get("recipe", values))
        except ValueError as error:
            raise ValueError(f"{path} is no recipe: {error}") from None
        assert isinstance(recipe, cls)
        return recipe


def to_dict(value: Any) -> Any:
    """A dataclass as plain dictionaries, lists and numbers, for JSON."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_dict(v) for v in value]
    if isinstance(value, dict):
        return {k: to_dict(v) for k, v in value.items()}
    return value


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """The fields in which two configurations differ, as "optim.lr: 0.004 -> 0.001"."""
    if dataclasses.is_dataclass(old) and type(old) is type(new):
        found = []
        for f in dataclasses.fields(old):
            found += differences(
                getattr(old, f.name), getattr(new, f.name), f"{prefix}.{f.name}".lstrip(".")
            )
        return found
    return [] if old == new else [f"{prefix}: {old!r} -> {new!r}"]
