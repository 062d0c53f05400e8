"""Masked pre-training: FCMAE as a task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn

from convnext.models.backbone import Stage
from convnext.models.fcmae import FCMAE, FCMAEConfig
from convnext.train.config import OptimConfig
from convnext.train.param_groups import build_param_groups

__all__ = ["PretrainConfig", "PretrainTask"]

# GRN's γ and β and the mask token are not decayed; the published code decays them.
NO_DECAY = (".bias", ".gamma", ".beta", "mask_token")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Encoder, mask, decoder and loss of masked pre-training.

    Raises:
        ValueError: A value is out of its range, or the encoder is of another kind.
    """

    encoder: str = "convnextv2_atto"
    """Network to pre-train: a ConvNeXt V1 or V2 with the 4x4 stem."""
    mask_ratio: float = 0.6
    """Share of the 32-pixel cells that is hidden."""
    decoder_depth: int = 1
    """Blocks of the decoder."""
    decoder_dim: int = 512
    """Width of the decoder."""
    norm_pix: bool = True
    """Compare with pixels normalised in each cell."""
    execution: Literal["auto", "sparse", "dense"] = "auto"
    """sparse: compute visible cells only; dense: everything, hidden cells zeroed."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self) -> None:
        self.network_config(in_chans=3)  # says what is wrong with a value

    @property
    def pairs_images(self) -> bool:
        """Whether the images of a batch are mixed in pairs."""
        return False

    def network_config(self, in_chans: int) -> FCMAEConfig:
        """The configuration of the network."""
        return FCMAEConfig(
            encoder=self.encoder,
            in_chans=in_chans,
            mask_ratio=self.mask_ratio,
            decoder_depth=self.decoder_depth,
            decoder_dim=self.decoder_dim,
            norm_pix=self.norm_pix,
            execution=self.execution,
        )


class PretrainTask(nn.Module):
    """A masked autoencoder and its loss.

    Args:
        config: Encoder, mask, decoder and loss.
        in_chans: Channels of the images.

    Source: ConvNeXt V2, section 3.1, table 8.
    """

    def __init__(self, config: PretrainConfig, *, in_chans: int = 3) -> None:
        super().__init__()
        self.config = config
        self.network = FCMAE(config.network_config(in_chans))
        if config.grad_checkpointing:
            self.network.encoder.set_grad_checkpointing(True)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of a batch of `image` (N, C, H, W), with `mask` (N, rows, columns) if given."""
        return {"loss": self.network(batch["image"], batch.get("mask")).loss}

    def param_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Every parameter exactly once, with its weight decay."""
        return build_param_groups(
            self.network.named_parameters(), weight_decay=optim.weight_decay, no_decay=NO_DECAY
        )

    def shard_modules(self) -> list[nn.Module]:
        """The parts that FSDP shards one by one: the residual blocks."""
        stages = [cast(Stage, stage) for stage in self.network.encoder.stages]
        return [*(block for stage in stages for block in stage.blocks), *self.network.decoder]
