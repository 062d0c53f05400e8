"""Object detection and instance segmentation: detector, losses and parameter groups."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

from torch import Tensor, nn

from convnext.models.backbone import Backbone, Stage
from convnext.models.field_values import checked_fields
from convnext.models.map_backbone import check_body_args
from convnext.models.mask_rcnn import MaskRCNN, MaskRCNNConfig, Target, detector_config
from convnext.models.registry import build_model, unknown
from convnext.train.config import OptimConfig
from convnext.train.param_groups import build_param_groups

__all__ = ["DetectConfig", "DetectTask"]

NO_DECAY = (".bias", ".gamma", ".beta")
BLOCKS_A_LAYER = 3  # of the third stage
# Fields of the detector that others of the task, or the data, decide.
DECIDED = ("backbone", "cascade", "masks", "num_classes", "in_chans", "drop_path_rate")


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """The detector of a run.

    Raises:
        ValueError: A value is out of its range.
    """

    model: str = "mask_rcnn_convnext_tiny"
    """Name of the detector: mask_rcnn_NETWORK or cascade_mask_rcnn_NETWORK; NETWORK may be any
    network with four stages, or timm:NAME."""
    pretrained: str = ""
    """Weights to start from: "" = none, "true" = the backbone's default tag, a tag, a path or a URL
    of a backbone or of a detector."""
    masks: bool = True
    """Learn masks too; without them the detector is a Faster R-CNN."""
    drop_path_rate: float = 0.0
    """Probability of dropping the deepest residual branch; grows linearly from 0 with depth."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Further fields of the detector's configuration, as JSON: {"fpn_dim": 128}."""
    body_args: dict[str, Any] = field(default_factory=dict)
    """Fields of the backbone's configuration, as JSON: {"depths": [2, 2, 6, 2]}."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(
                f"task.drop_path_rate is {self.drop_path_rate}; it must be at least 0, below 1"
            )
        known = [f.name for f in fields(MaskRCNNConfig) if f.name not in DECIDED]
        for name in self.model_args:
            if name not in known:
                raise unknown("field of task.model_args", name, known)
        try:
            MaskRCNNConfig(**checked_fields(MaskRCNNConfig, self.model_args))
        except ValueError as error:
            raise ValueError(f"task.model_args: {error}") from None
        check_body_args(self.model.partition("mask_rcnn_")[2], self.body_args, "task.body_args")

    @property
    def pairs_images(self) -> bool:
        """Whether the images of a batch are mixed in pairs."""
        return False

    def network_config(self, num_classes: int, in_chans: int = 3) -> MaskRCNNConfig:
        """The configuration of the detector."""
        return replace(
            detector_config(self.model),
            **{
                "num_classes": num_classes,
                "in_chans": in_chans,
                "drop_path_rate": self.drop_path_rate,
                "masks": self.masks,
                **self.model_args,
            },
        )

    def body(self, in_chans: int = 3) -> nn.Module:
        """The backbone with new weights."""
        return build_model(
            detector_config(self.model).backbone,
            in_chans=in_chans,
            drop_path_rate=self.drop_path_rate,
            features_only=True,
            num_classes=0,
            **self.body_args,
        )


class DetectTask(nn.Module):
    """A detector and its losses.

    Args:
        config: What the detector is.
        num_classes: Classes of objects.
        in_chans: Channels of the images.
        body: The network below the pyramid, if it is not to be a new one of ours.

    Source: ConvNeXt, section 4 and appendix A.3.
    """

    def __init__(
        self,
        config: DetectConfig,
        *,
        num_classes: int,
        in_chans: int = 3,
        body: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.network = MaskRCNN(
            config.network_config(num_classes, in_chans), body or config.body(in_chans)
        )
        if config.grad_checkpointing:
            cast(Any, self.network.backbone.body).set_grad_checkpointing(True)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The loss of a batch and its parts, or in evaluation mode the `detections`.

        Args:
            batch: `image` (N, C, H, W) and `size` (N, 2); for the loss also lists of `boxes`,
                `labels` and, where masks are learnt, `masks`; else `original` (N, 2).
        """
        images, sizes = batch["image"], batch["size"]
        if not self.training:
            return {"detections": self.network(images, sizes, originals=batch["original"])}
        masks: list[Tensor | None] = [None] * len(images)
        if self.config.masks:
            masks = batch["masks"]
        targets = [
            Target(boxes, labels, mask)
            for boxes, labels, mask in zip(batch["boxes"], batch["labels"], masks, strict=True)
        ]
        losses: dict[str, Tensor] = self.network(images, sizes, targets)
        return {"loss": sum(losses.values()), **losses}

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
        """Depth of every parameter, and the number of layers, for layer-wise decay.

        The stem is 0, the first two stages 1 and 2, every three blocks of the third one layer, the
        fourth stage the last layer; a downsampling layer belongs to what follows. All else,
        also the norms of the backbone's maps, lies above. That makes 6 layers of a third stage of
        9 blocks and 12 of one of 27.

        Raises:
            ValueError: The backbone is none of ours, so that its layers are not known.

        Source: ConvNeXt appendix A.3, the published rule "layer_wise".
        """
        body = self.network.backbone.body
        if not isinstance(body, Backbone):
            raise ValueError(
                f"optim.layer_decay needs the layers of {self.config.model}, which are not known; "
                "set --optim.layer-decay 1"
            )
        third = body.config.depths[2]
        num_layers = 3 + -(-third // BLOCKS_A_LAYER)
        below = "backbone.body."
        ids = {
            name: _layer_id(name.removeprefix(below), num_layers)
            if name.startswith((below + "stem.", below + "stages."))
            else num_layers + 1
            for name, _ in self.network.named_parameters()
        }
        return ids, num_layers

    def shard_modules(self) -> list[nn.Module]:
        """The parts that FSDP shards one by one: residual blocks and the heads of boxes."""
        body = self.network.backbone.body
        stages = getattr(body, "stages", ())
        blocks = [b for s in stages if isinstance(s, Stage) for b in s.blocks]
        return [*blocks, *self.network.roi_head.box_heads, *self.network.roi_head.mask_heads]


def _layer_id(name: str, num_layers: int) -> int:
    """Layer of a parameter of the backbone by its name there."""
    if name.startswith("stem."):
        return 0
    _, stage, kind, block = name.split(".")[:4]
    if stage == "2":
        return 3 + (int(block) // BLOCKS_A_LAYER if kind == "blocks" else 0)
    return {"0": 1, "1": 2, "3": num_layers}[stage]
