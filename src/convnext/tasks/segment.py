"""Semantic segmentation: network, losses and parameter groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from convnext.layers.sync_batch_norm import SyncBatchNorm2d
from convnext.models.backbone import Backbone, Stage
from convnext.models.field_values import checked_fields
from convnext.models.map_backbone import REDUCTIONS, check_body_args
from convnext.models.registry import build_model, unknown
from convnext.models.segmentation.losses import IGNORE, cross_entropy, dice, summed_loss
from convnext.models.upernet import UPerNet, UPerNetConfig, segmenter_config
from convnext.train.config import OptimConfig
from convnext.train.param_groups import build_param_groups

__all__ = ["SegmentConfig", "SegmentTask", "balanced_weights", "check_batch"]

NO_DECAY = (".bias", ".gamma", ".beta")
BLOCKS_A_LAYER = 3  # of the third stage
MOST_WEIGHT = 10.0  # of a rare class
# Fields of the network that others of the task, or the data, decide.
DECIDED = ("backbone", "num_classes", "in_chans", "drop_path_rate")


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """The segmentation network of a run, and its losses.

    Raises:
        ValueError: A value is out of its range.

    Source: ConvNeXt, section 4 and appendix A.3.
    """

    model: str = "upernet_convnext_tiny"
    """Name of the network: upernet_NETWORK; NETWORK may be any network with four stages, or
    timm:NAME."""
    pretrained: str = ""
    """Weights to start from: "" = none, "true" = the backbone's default tag, a tag, a path or a URL
    of a backbone, a detector or a segmentation network."""
    drop_path_rate: float = 0.0
    """Probability of dropping the deepest residual branch; grows linearly from 0 with depth."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Further fields of the network's configuration, as JSON: {"head_dim": 128}."""
    body_args: dict[str, Any] = field(default_factory=dict)
    """Fields of the backbone's configuration, as JSON: {"depths": [2, 2, 6, 2]}."""
    aux_weight: float = 0.4
    """Weight of the auxiliary head's loss."""
    dice_weight: float = 0.0
    """Weight of a Dice loss beside the cross-entropy, for classes of few pixels."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weights of the cross-entropy by the classes' shares of the training pixels."""
    loss_mean: Literal["all", "labelled"] = "all"
    """Pixels that the cross-entropy is the mean over: all, as published, where ignored pixels make
    it smaller; or those with a label."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(
                f"task.drop_path_rate is {self.drop_path_rate}; it must be at least 0, below 1"
            )
        for name in ("aux_weight", "dice_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"task.{name} is {getattr(self, name)}; it must not be negative")
        known = [f.name for f in fields(UPerNetConfig) if f.name not in DECIDED]
        for name in self.model_args:
            if name not in known:
                raise unknown("field of task.model_args", name, known)
        try:
            UPerNetConfig(**checked_fields(UPerNetConfig, self.model_args))
        except ValueError as error:
            raise ValueError(f"task.model_args: {error}") from None
        check_body_args(self.model.removeprefix("upernet_"), self.body_args, "task.body_args")

    @property
    def pairs_images(self) -> bool:
        """Whether the images of a batch are mixed in pairs."""
        return False

    def network_config(self, num_classes: int, in_chans: int = 3) -> UPerNetConfig:
        """The configuration of the network."""
        return replace(
            segmenter_config(self.model),
            **{
                "num_classes": num_classes,
                "in_chans": in_chans,
                "drop_path_rate": self.drop_path_rate,
                **self.model_args,
            },
        )

    def body(self, in_chans: int = 3) -> nn.Module:
        """The backbone with new weights."""
        return build_model(
            segmenter_config(self.model).backbone,
            in_chans=in_chans,
            drop_path_rate=self.drop_path_rate,
            features_only=True,
            num_classes=0,
            **self.body_args,
        )


def balanced_weights(pixels: Sequence[int]) -> Tensor:
    """Weights of classes by their pixels, at most 10; 1 for classes without pixels.

        w_c = median(pixels) / pixels_c, over the classes that occur

    Args:
        pixels: (K,), of each class in the training data.

    Returns:
        (K,) float32.

    Source: after the median-frequency balancing of Eigen and Fergus, ICCV 2015, section 4.3.2, who
    count a class's pixels relative to the images that hold it; here they are counted over all.
    """
    counts = torch.tensor(pixels, dtype=torch.float64)
    present = counts > 0
    weights = torch.ones_like(counts)
    if present.any():
        weights[present] = (counts[present].quantile(0.5) / counts[present]).clamp(max=MOST_WEIGHT)
    return weights.float()


def check_batch(config: UPerNetConfig, images: int, size: Sequence[int]) -> None:
    """Refuse batches that leave a batch norm a single value of a channel, which has no variance.

    Args:
        config: of the network.
        images: that are normalised together, over all processes.
        size: height and width of the crops.

    Raises:
        ValueError: the batch is too small.
    """
    parts = [scale * scale for scale in config.pool_scales]
    deepest = (size[0] // REDUCTIONS[-1]) * (size[1] // REDUCTIONS[-1])
    if images * min([max(1, deepest), *parts]) > 1:
        return
    raise ValueError(
        "a batch of one image: the batch norm behind the pyramid's global mean needs two at "
        "least; set --train.micro-batch and --optim.batch-size to 2 or more for each process, "
        "or --train.sync-batch-norm with several processes"
    )


class SegmentTask(nn.Module):
    """A segmentation network and its losses.

    Args:
        config: What the network is.
        num_classes: Classes of pixels.
        in_chans: Channels of the images.
        body: The network below the heads, if it is not to be a new one of ours.
        class_weights: (num_classes,), weights of the cross-entropy.

    Source: ConvNeXt, section 4 and appendix A.3.
    """

    class_weights: Tensor
    # What helps where memory does not suffice, for messages.
    training_memory = (
        "smaller crops (--data.crop-size), --task.grad-checkpointing, a narrower head "
        "(--task.model-args '{\"head_dim\": 256}') or a smaller network"
    )
    evaluation_memory = "smaller windows (--data.window) or smaller images (--image-size)"

    def __init__(
        self,
        config: SegmentConfig,
        *,
        num_classes: int,
        in_chans: int = 3,
        body: nn.Module | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.network = UPerNet(
            config.network_config(num_classes, in_chans), body or config.body(in_chans)
        )
        if class_weights is None:
            class_weights = torch.ones(num_classes)
        self.register_buffer("class_weights", class_weights)
        if config.grad_checkpointing:
            cast(Any, self.network.backbone.body).set_grad_checkpointing(True)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The loss of a batch and its parts, or in evaluation mode the `logits` (N, K, H, W).

        Args:
            batch: `image` (N, C, H, W); for the loss also `mask` (N, H, W), whole numbers 0..K-1 or
                IGNORE.

        Raises:
            ValueError: The loss of one image is asked for, which batch norm cannot learn from.
        """
        images = batch["image"]
        if not self.training:
            return {"logits": self.network(images)}
        check_batch(self.network.config, len(images) * self._processes(), images.shape[2:])
        main, auxiliary = self.network(images)  # a call, which compiling replaces
        labels = batch["mask"].long()
        losses = self._losses("decode", main, labels)
        if auxiliary is not None:
            parts = self._losses("aux", auxiliary, labels)
            losses |= {name: self.config.aux_weight * part for name, part in parts.items()}
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _processes(self) -> int:
        """How many processes the batch norms take their statistics over."""
        synced = isinstance(self.network.decode_head.bottleneck.bn, SyncBatchNorm2d)
        return dist.get_world_size() if synced and dist.is_initialized() else 1

    def _losses(self, head: str, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The parts of one head's loss, under their published names."""
        weight = self.class_weights if self.config.class_weights == "balanced" else None
        total = summed_loss(logits, labels, lambda x, y: cross_entropy(x, y, weight))
        found: dict[str, Tensor] = {f"{head}.loss_seg": total / self._norm(labels, weight)}
        if self.config.dice_weight:
            mean = summed_loss(logits, labels, dice) / len(labels)
            found[f"{head}.loss_dice"] = self.config.dice_weight * mean
        return found

    def _norm(self, labels: Tensor, weight: Tensor | None) -> Tensor | int:
        """What the sum of the cross-entropy is divided by."""
        if self.config.loss_mean == "all":
            return labels.numel()
        counts = labels != IGNORE
        if weight is None:
            return counts.sum().clamp(min=1)
        return (weight[labels.clamp(min=0)] * counts).sum().clamp(min=1)

    def param_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Every parameter exactly once, with its weight decay and its learning-rate scale."""
        layer_ids: dict[str, int] | None = None
        num_layers = 0
        if optim.layer_decay != 1.0:
            layer_ids, num_layers = self.layer_ids()
        return build_param_groups(
            self.network.named_parameters(),
            weight_decay=optim.weight_decay,
            no_decay=NO_DECAY,
            layer_ids=layer_ids,
            num_layers=num_layers,
            layer_decay=optim.layer_decay,
        )

    def layer_ids(self) -> tuple[dict[str, int], int]:
        """Depth of every parameter, and the number of layers, for stage-wise decay.

        The stem and all downsampling layers are 0, the blocks of stage s (from 0) are s + 1. All
        else, also the norms of the backbone's maps, lies above the 6 layers of a third stage of 9
        blocks, or the 12 of one of 27; so the rate jumps from the fourth stage to the heads.

        Raises:
            ValueError: The backbone is none of ours, so that its stages are not known.

        Source: ConvNeXt appendix A.3, the published rule "stage_wise".
        """
        body = self.network.backbone.body
        if not isinstance(body, Backbone):
            raise ValueError(
                f"optim.layer_decay needs the stages of {self.config.model}, which are not known; "
                "set --optim.layer-decay 1"
            )
        num_layers = 3 + -(-body.config.depths[2] // BLOCKS_A_LAYER)
        ids = {
            name: _layer_id(name.removeprefix("backbone.body."), num_layers)
            for name, _ in self.network.named_parameters()
        }
        return ids, num_layers

    def shard_modules(self) -> list[nn.Module]:
        """The parts that FSDP shards one by one: residual blocks and the head's convolutions."""
        body, head = self.network.backbone.body, self.network.decode_head
        stages = getattr(body, "stages", ())
        blocks = [b for s in stages if isinstance(s, Stage) for b in s.blocks]
        return [*blocks, head.bottleneck, *head.fpn_convs, head.fpn_bottleneck]


def _layer_id(name: str, num_layers: int) -> int:
    """Layer of a parameter by its name in the backbone."""
    if name.startswith("stem."):
        return 0
    if not name.startswith("stages."):
        return num_layers + 1
    _, stage, kind = name.split(".")[:3]
    return int(stage) + 1 if kind == "blocks" else 0
