"""Image classification: network, loss, mixing of images and parameter groups."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from convnext.data.mixup import Mixup
from convnext.data.sampling import class_weights
from convnext.models.backbone import Backbone, Stage
from convnext.models.registry import build_model
from convnext.tasks.distillation import Teacher, nkd_loss
from convnext.train.config import OptimConfig
from convnext.train.param_groups import build_param_groups

__all__ = ["ClassifyConfig", "ClassifyTask"]

# Beside parameters of one dimension. Source: ConvNeXt; V2 adds GRN's γ and β.
NO_DECAY = (".bias", ".gamma", ".beta")


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """The network and the loss of a classification run.

    Raises:
        ValueError: A value is out of its range.
    """

    model: str = "convnext_tiny"
    """Name of the network; `convnext models` lists them."""
    pretrained: str = ""
    """Weights to start from: "" = none, "true" = the default tag, a tag, a path or a URL."""
    drop_path_rate: float = 0.0
    """Probability of dropping the deepest residual branch; grows linearly from 0 with depth."""
    layer_scale_init_value: float | None = None
    """Start value of the layer scale (0 = no layer scale, None = as the model defines)."""
    head_init_scale: float = 1.0
    """Factor on the freshly drawn weights of the head."""
    redraw_head: bool = False
    """Draw the head anew (normal, std 2e-5, no bias) even where the loaded weights have one."""
    stem_stride: int | None = None
    """Stride of the stem: 4, or 2 or 1 for small images (None = as the model defines)."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Further fields of the network's configuration, as JSON: {"depths": [2, 2, 6, 2]}."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    smoothing: float = 0.1
    """Label smoothing, 0 to below 1."""
    mixup: float = 0.8
    """Alpha of mixup; 0 = off."""
    cutmix: float = 1.0
    """Alpha of CutMix; 0 = off."""
    class_weights: Literal["none", "balanced"] = "none"
    """"balanced" weights the loss of each class by the inverse of its frequency."""
    teacher: str = ""
    """Network whose answers are learnt besides the labels: a run, weights MODEL.TAG, a file, a
    URL. "" = none."""
    teacher_gamma: float = 1.5
    """Weight of what the teacher says about the classes that are not the label."""
    teacher_temperature: float = 1.0
    """Temperature at which those classes are compared; above 1 the small ones count more."""
    label_weight: float = 1.0
    """Weight of the loss against the labels, beside a teacher's; 0 = only the teacher's."""

    def __post_init__(self) -> None:
        for name, low, high in (("smoothing", 0.0, 1.0), ("drop_path_rate", 0.0, 1.0)):
            value = getattr(self, name)
            if not low <= value < high:
                raise ValueError(f"task.{name} is {value}; it must be at least {low}, below {high}")
        for name in ("mixup", "cutmix", "head_init_scale", "teacher_gamma", "label_weight"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"task.{name} is {value}; it must not be negative (0 = off)")
        if self.teacher_temperature <= 0:
            raise ValueError(
                f"task.teacher_temperature is {self.teacher_temperature}; it must be above 0"
            )
        if self.label_weight != 1.0 and not self.teacher:
            raise ValueError(
                f"task.label_weight is {self.label_weight} without a task.teacher; name a teacher "
                "(--task.teacher), or leave the weight at 1"
            )

    @property
    def pairs_images(self) -> bool:
        """Whether the images of a batch are mixed in pairs, so that their number must be even."""
        return bool(self.mixup or self.cutmix)

    def network_args(self) -> dict[str, Any]:
        """The overrides that `build_model` and `create_model` take for this configuration."""
        args = dict(self.model_args)
        if self.head_init_scale != 1.0:
            args["head_init_scale"] = self.head_init_scale
        for name in ("layer_scale_init_value", "stem_stride"):
            if (value := getattr(self, name)) is not None:
                args[name] = value
        return {k: tuple(v) if isinstance(v, list) else v for k, v in args.items()}


class ClassifyTask(nn.Module):
    """A network that is trained to tell classes apart.

    loss = - 1/N Σ_i Σ_k w_k t_ik log softmax(z_i)_k, with the targets t of mixup or CutMix
    (smoothing folded in), else the smoothed label (1-s) y + s/K, and the class weights w.

    With a teacher loss = label_weight · (the above) + nkd_loss, see `distillation`. The teacher
    sees the very images that the student sees, after mixup or CutMix; there NKD takes as label
    the class with the largest target, as its authors' code does, and knows neither smoothing nor
    class weights.

    Attributes:
        teacher: The teacher, set after construction; needed to train where the configuration
            names one, never to evaluate.

    Args:
        config: The network and the loss.
        num_classes: Number of classes K.
        in_chans: Channels of the images.
        labels: (num_images,) labels of the training images; needed for balanced weights.
        network: A network that is used instead of a freshly built one.

    Source: "A ConvNet for the 2020s", table 5; ConvNeXt V2, tables 9-13.
    """

    teacher: Teacher | None = None

    def __init__(
        self,
        config: ClassifyConfig,
        *,
        num_classes: int,
        in_chans: int = 3,
        labels: NDArray[np.int64] | None = None,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        if network is None:
            network = build_model(
                config.model,
                num_classes=num_classes,
                in_chans=in_chans,
                drop_path_rate=config.drop_path_rate,
                **config.network_args(),
            )
        self.network = cast(Backbone, network)
        if config.grad_checkpointing:
            self.network.set_grad_checkpointing(True)
        if config.redraw_head:
            head = cast(nn.Linear, self.network.head)
            nn.init.trunc_normal_(head.weight, std=2e-5)
            nn.init.zeros_(head.bias)
        self.mixup = (
            Mixup(config.mixup, config.cutmix, config.smoothing, num_classes)
            if config.mixup or config.cutmix
            else None
        )
        weights = None
        if config.class_weights == "balanced":
            assert labels is not None, "balanced class weights need the training labels"
            weights = torch.from_numpy(class_weights(labels, num_classes)).float()
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of a batch of `image` (N, C, H, W) and `label` (N,).

        In evaluation mode also the `logits` (N, K): sharded weights are gathered in here only.
        With a teacher also the parts `label_loss` and `teacher_loss`.
        """
        images, target = batch["image"], batch["label"]
        smoothing = self.config.smoothing if self.training else 0.0
        if self.training and self.mixup is not None:
            images, target = self.mixup(images, target)
            smoothing = 0.0  # already in the target
        logits = self.network(images).float()
        loss = F.cross_entropy(
            logits, target, weight=self.weights, label_smoothing=smoothing, reduction="sum"
        )
        loss = loss / len(logits)
        if not self.training:
            return {"loss": loss, "logits": logits}
        return self._distil(images, logits, target, loss) if self.config.teacher else {"loss": loss}

    def _distil(
        self, images: Tensor, logits: Tensor, target: Tensor, label_loss: Tensor
    ) -> dict[str, Tensor]:
        """The loss with the teacher's part, and both parts."""
        config = self.config
        assert self.teacher is not None, "a task that distils is given its teacher"
        teacher_loss = nkd_loss(
            logits,
            self.teacher(images),
            target.argmax(1) if target.ndim == 2 else target,
            gamma=config.teacher_gamma,
            temperature=config.teacher_temperature,
        )
        return {
            "loss": config.label_weight * label_loss + teacher_loss,
            "label_loss": label_loss,
            "teacher_loss": teacher_loss,
        }

    def param_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Every parameter exactly once, with its weight decay and its learning-rate scale."""
        layer_ids: dict[str, int] | None = None
        num_layers = 0
        if optim.layer_decay != 1.0:
            layer_ids, num_layers = self.network.layer_ids(optim.layer_decay_rule)
        return build_param_groups(
            self.network.named_parameters(),
            weight_decay=optim.weight_decay,
            no_decay=NO_DECAY,
            layer_ids=layer_ids,
            num_layers=num_layers,
            layer_decay=optim.layer_decay,
        )

    def shard_modules(self) -> list[nn.Module]:
        """The parts that FSDP shards one by one: the residual blocks."""
        return [block for stage in self.network.stages for block in cast(Stage, stage).blocks]
