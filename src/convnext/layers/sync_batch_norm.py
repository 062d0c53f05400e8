"""Batch norm over the samples of all processes, on every device."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

__all__ = ["SyncBatchNorm2d", "synced"]


class _Sum(Function):
    """Sum of a tensor over all processes; so is the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with mean and variance over all processes in training.

    Processes may hold different numbers of samples, also none. Statistics are in fp32 at least.
    Unlike `nn.SyncBatchNorm` it runs on the CPU too; without other processes it is `BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W) over N, H and W."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        shape = (1, -1, 1, 1)
        number = exact.new_tensor([x.numel() / x.shape[1]])
        sums: Tensor = _Sum.apply(torch.cat([exact.sum((0, 2, 3)), number]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = exact - mean.reshape(shape)
        squares: Tensor = _Sum.apply(centred.square().sum((0, 2, 3)))
        variance = squares / count
        self._follow(mean, variance * count / (count - 1).clamp(min=1))
        result = centred * (variance + self.eps).rsqrt().reshape(shape)
        if self.affine:
            result = result * self.weight.reshape(shape) + self.bias.reshape(shape)
        return result.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as `nn.BatchNorm2d` does."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        share = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            if share is None:
                share = 1 / float(self.num_batches_tracked)
        assert share is not None, "a momentum, or batches that are counted"
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


def synced(module: nn.Module) -> nn.Module:
    """Replace every `nn.BatchNorm2d` in a module; parameters and buffers stay the same objects."""
    if type(module) is nn.BatchNorm2d:
        norm = SyncBatchNorm2d.__new__(SyncBatchNorm2d)
        norm.__dict__.update(module.__dict__)
        return norm
    for name, child in module.named_children():
        new = synced(child)
        if new is not child:
            setattr(module, name, new)
    return module
