"""FCMAE: a ConvNeXt that sees the visible cells of an image and paints the hidden ones.

Source: Woo et al., ConvNeXt V2, CVPR 2023, section 3.1 and appendix.

    image --stem--> [stages, visible cells only] --1x1--> + mask token --block--> --1x1--> pixels

The encoder is the plain network of `models/convnext.py`. It runs in one of two ways with the same
result: *sparse* on rows of visible positions, *dense* on whole maps, hidden positions zeroed.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convnext.layers.depthwise import DepthwiseConv2d
from convnext.models.backbone import Stage, init_linear
from convnext.models.convnext import Block, ConvNeXt, ConvNeXtConfig
from convnext.models.registry import build_model, model_config
from convnext.ops.masked import Visible, masked_depthwise, random_mask

__all__ = ["CELL", "FCMAE", "FCMAEConfig", "Masked", "patches", "unpatch"]

CELL = 32  # side of a cell in pixels: the stride of the last stage
EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class FCMAEConfig:
    """Encoder, decoder and loss.

    Attributes:
        encoder: Name of a ConvNeXt, V1 or V2, with four stages and a stem of stride 4.
        in_chans: Input channels.
        mask_ratio: Share of the cells that is hidden.
        decoder_depth: Blocks of the decoder.
        decoder_dim: Width of the decoder.
        norm_pix: Let the loss compare with pixels normalised in each cell.
        execution: "sparse", "dense", or "auto": sparse, where the mask hides anything.

    Raises:
        ValueError: A value is out of its range, or the encoder is of another kind.
    """

    encoder: str = "convnextv2_atto"
    in_chans: int = 3
    mask_ratio: float = 0.6
    decoder_depth: int = 1
    decoder_dim: int = 512
    norm_pix: bool = True
    execution: Literal["auto", "sparse", "dense"] = "auto"

    def __post_init__(self) -> None:
        config = model_config(self.encoder)
        fits = isinstance(config, ConvNeXtConfig) and config.plain
        if not fits or config.reductions[-1] != CELL:
            raise ValueError(
                f"encoder {self.encoder!r} must be a ConvNeXt V1 or V2 whose last map has stride "
                f"{CELL}, such as convnextv2_tiny"
            )
        if not 0.0 <= self.mask_ratio < 1.0:
            raise ValueError(f"mask_ratio {self.mask_ratio} must be in [0, 1); the paper's is 0.6")
        if min(self.decoder_depth, self.decoder_dim, self.in_chans) < 1:
            raise ValueError("decoder_depth, decoder_dim and in_chans must be at least 1")
        if self.execution not in ("auto", "sparse", "dense"):
            raise ValueError(f"execution {self.execution!r} must be auto, sparse or dense")


@dataclass(frozen=True)
class Masked:
    """What came of a batch.

    Attributes:
        loss: Mean over hidden cells of the mean squared error of their pixels.
        mask: (N, rows, columns) bool, True where hidden.
        prediction: (N, cells, CELL² · in_chans) normalised pixels of each cell, channels fastest.
    """

    loss: Tensor
    mask: Tensor
    prediction: Tensor


class FCMAE(nn.Module):
    """Masked autoencoder on images (N, in_chans, H, W), H and W multiples of 32.

    The encoder starts as the plain network does, with a standard deviation of 0.02 throughout; the
    published code draws its convolutions with a deviation near 0.88.
    """

    def __init__(self, config: FCMAEConfig) -> None:
        super().__init__()
        self.config = config
        network = build_model(config.encoder, num_classes=0, in_chans=config.in_chans)
        self.encoder = cast(ConvNeXt, network)
        # The final norm is that of the classifier: pre-training neither uses nor trains it.
        self.encoder.norm = nn.Identity()
        width, dim = self.encoder.num_features, config.decoder_dim
        self.proj = nn.Conv2d(width, dim, kernel_size=1)
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.decoder = nn.ModuleList(
            [Block(dim, 0.0, 0.0, grn=True) for _ in range(config.decoder_depth)]
        )
        self.pred = nn.Conv2d(dim, CELL * CELL * config.in_chans, kernel_size=1)
        for part in (self.proj, self.decoder, self.pred):
            for module in part.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    init_linear(module)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Masked:
        """Hide cells (those of ``mask``, else random ones), paint them, and compare."""
        grid = self.grid(images)
        if mask is None:
            mask = random_mask(len(images), grid, self.config.mask_ratio, device=images.device)
        prediction = self.decode(self.encode(images, mask), mask)
        return Masked(self.loss(images, prediction, mask), mask, prediction)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of cells.

        Raises:
            ValueError: The images do not fit the network.
        """
        height, width = images.shape[-2:]
        if images.ndim != 4 or images.shape[1] != self.config.in_chans:
            raise ValueError(
                f"images of shape {tuple(images.shape)} do not fit: expected (N, "
                f"{self.config.in_chans}, H, W)"
            )
        if height % CELL or width % CELL or not height or not width:
            raise ValueError(
                f"images of {height} x {width} px cannot be cut into cells of {CELL} px; take "
                f"multiples of {CELL}, such as {max(CELL, round(height / CELL) * CELL)} x "
                f"{max(CELL, round(width / CELL) * CELL)}"
            )
        return height // CELL, width // CELL

    def encode(self, images: Tensor, mask: Tensor) -> Tensor:
        """The last map (N, C, rows, columns) of the visible cells, zero at hidden ones.

        Args:
            images: (N, in_chans, H, W).
            mask: (N, rows, columns) bool, True where hidden.

        Raises:
            ValueError: The mask does not fit the images.
        """
        if mask.shape != (len(images), *self.grid(images)):
            raise ValueError(f"a mask of shape {tuple(mask.shape)} does not fit the images")
        execution = self.config.execution
        if execution == "auto":
            execution = "sparse" if self.config.mask_ratio > 0 else "dense"
        encode = encode_sparse if execution == "sparse" else encode_dense
        return encode(self.encoder, images, mask)

    def decode(self, features: Tensor, mask: Tensor) -> Tensor:
        """(N, C, rows, columns) to predictions (N, cells, CELL² · in_chans)."""
        x = self.proj(features)
        token = self.mask_token.to(x.dtype)[:, None, None]
        x = torch.where(mask[:, None], token, x)
        for block in self.decoder:
            x = block(x)
        return cast(Tensor, self.pred(x)).flatten(2).transpose(1, 2)

    def loss(self, images: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        """Squared error, averaged over the pixels of a cell, then over the hidden cells.

        With ``norm_pix`` a cell's target is (t - mean) / sqrt(variance + 1e-6), variance unbiased.
        """
        target = patches(images.float())
        if self.config.norm_pix:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - mean) / (variance + EPS).sqrt()
        error = (prediction.float() - target).square().mean(-1)  # N, cells
        hidden = mask.flatten(1)
        return (error * hidden).sum() / hidden.sum().clamp_min(1)


def patches(images: Tensor) -> Tensor:
    """(N, C, H, W) to the pixels of each cell, (N, cells, CELL² · C), channels fastest."""
    n, c, h, w = images.shape
    cut = images.reshape(n, c, h // CELL, CELL, w // CELL, CELL)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, CELL * CELL * c)


def unpatch(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patches`: (N, cells, CELL² · C) to (N, C, H, W)."""
    n, rows, columns = len(cells), *grid
    cut = cells.reshape(n, rows, columns, CELL, CELL, -1)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, rows * CELL, columns * CELL)


def encode_sparse(network: ConvNeXt, images: Tensor, mask: Tensor) -> Tensor:
    """The plain network on visible positions alone.

    Stem and downsampling never look beyond a cell, so they see cells as images of their own;
    blocks see all rows of an image, and their convolution finds the neighbours.

    Args:
        network: V1 or V2.
        images: (N, in_chans, H, W).
        mask: (N, rows, columns) bool, True where hidden, as many visible in each image.

    Returns:
        (N, C, rows, columns), zero where hidden.
    """
    n, c, _, _ = images.shape
    cells = images.reshape(n, c, mask.shape[1], CELL, mask.shape[2], CELL)
    cells = cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, c, CELL, CELL)
    x = network.stem(cells[~mask.flatten()])  # visible cells, C, 8, 8
    at = None
    for stage in network.stages:
        assert isinstance(stage, Stage)
        if stage.downsample is not None:
            x = stage.downsample(x)
        num_cells, channels, side, _ = x.shape
        at = Visible.of(mask, side)
        # rows of an image as a map of one column: (N, C, rows, 1)
        rows = x.permute(0, 2, 3, 1).reshape(n, -1, 1, channels).permute(0, 3, 1, 2)
        for block in stage.blocks:
            assert isinstance(block, Block)
            rows = _run(stage, block, rows, mix=partial(_mix, block, at))
        x = rows.permute(0, 2, 3, 1).reshape(num_cells, side, side, channels).permute(0, 3, 1, 2)
    assert at is not None, "a network has stages"
    return at.scatter(x.flatten(1))  # the last cells are single positions


def _run(stage: Stage, block: nn.Module, x: Tensor, **how: Any) -> Tensor:
    """A block called as a module, so that its hooks (sharded weights) run."""
    if stage.grad_checkpointing and torch.is_grad_enabled():
        return cast(Tensor, checkpoint(block, x, use_reentrant=False, **how))
    return cast(Tensor, block(x, **how))


def _mix(block: Block, at: Visible, rows: Tensor) -> Tensor:
    """The block's depthwise convolution over the visible neighbours; (N, C, R, 1) in and out."""
    n, channels = rows.shape[:2]
    conv = block.dwconv
    assert isinstance(conv, DepthwiseConv2d)
    assert conv.bias is not None
    flat = rows.permute(0, 2, 3, 1).reshape(-1, channels)
    mixed = masked_depthwise(flat, conv.weight, conv.bias, at)
    return mixed.view(n, -1, 1, channels).permute(0, 3, 1, 2)


def encode_dense(network: ConvNeXt, images: Tensor, mask: Tensor) -> Tensor:
    """The same on whole maps: hidden positions are computed and thrown away.

    x is zero at hidden positions before every convolution; the branch is zeroed before it is added
    (norms and biases make zeros into something else); GRN's statistics are those of visible ones.
    """
    keep = (~mask)[:, None].to(images.dtype)  # N, 1, rows, columns
    x: Tensor = network.stem(images)
    for stage in network.stages:
        assert isinstance(stage, Stage)
        if stage.downsample is not None:
            x = stage.downsample(x)
        side = x.shape[-1] // mask.shape[2]
        here = keep.repeat_interleave(side, 2).repeat_interleave(side, 3).to(x.dtype)
        x = x * here
        visible = here.permute(0, 2, 3, 1)
        for block in stage.blocks:
            x = _run(stage, block, x, keep=visible)
    return x
