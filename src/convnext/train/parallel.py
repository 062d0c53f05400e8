"""One process or many: start, wrap, agree, gather."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from convnext.train.protocols import Task

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among all processes of the run.

    Attributes:
        rank: 0..size-1 over all nodes; rank 0 writes files and logs.
        local_rank: index of the process, and of its CUDA device, on its node.
        size: number of processes.
        device: where this process computes.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean of a tensor over all processes."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def most(self, number: int) -> int:
        """The largest number over all processes."""
        if self.size == 1:
            return number
        largest = torch.tensor(number, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest)

    def from_main(self, compute: Callable[[], T]) -> T:
        """Run `compute` on rank 0 and give its result, or raise its exception, everywhere."""
        if self.size == 1:
            return compute()
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[0] = compute()
            except (ValueError, OSError) as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        result: T = box[0]
        return result


class Vote:
    """Lets all processes stop at the same step though the signal reaches them at different ones.

    A vote is cast at each step and counted at the next, in the background and on the CPU, so
    that nobody waits for a device.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._pending: tuple[Tensor, dist.Work | None] | None = None

    def any(self, flag: int) -> int:
        """The highest flag of any process: of now when alone, else of the previous call."""
        if self._world.size == 1:
            return flag
        result = 0
        if self._pending is not None:
            tensor, work = self._pending
            if work is not None:
                work.wait()
            result = int(tensor.item())
        ballot = torch.tensor(flag)
        self._pending = (ballot, dist.all_reduce(ballot, dist.ReduceOp.MAX, async_op=True))
        return result

    def close(self) -> None:
        """Let the last vote end: a process that exits in the middle of one is aborted by gloo."""
        if self._pending is not None and self._pending[1] is not None:
            with suppress(RuntimeError):  # another process is gone, which torchrun reports
                self._pending[1].wait()
        self._pending = None


def setup(device: str = "auto") -> World:
    """Find the processes that torchrun or SLURM started and connect with them.

    torchrun sets RANK, LOCAL_RANK and WORLD_SIZE; srun sets SLURM_PROCID, SLURM_LOCALID and
    SLURM_STEP_NUM_TASKS, from which the address of the first process is worked out unless
    MASTER_ADDR and MASTER_PORT are set. Without either this is the only process. CUDA tensors
    travel by NCCL, CPU tensors by gloo.

    Args:
        device: "auto" (CUDA if there is any), "cpu", "cuda" or "cuda:1".

    Raises:
        ValueError: a device that is unknown or not there.
    """
    rank, local_rank, size = _place()
    chosen = _device(device, local_rank)
    if size > 1:
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "cpu:gloo"
        dist.init_process_group(backend, rank=rank, world_size=size)
    return World(rank, local_rank, size, chosen)


def cleanup(world: World) -> None:
    """Leave the group of processes."""
    if world.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def wrap(task: Task, world: World, parallel: str) -> nn.Module:
    """Make the task's gradients the mean over all processes.

    Args:
        task: with "fsdp" it is sharded in place.
        world: with one process the task is returned as it is.
        parallel: "ddp" or "fsdp".
    """
    assert isinstance(task, nn.Module)
    if world.size == 1:
        return task
    if parallel == "fsdp":
        shard(task, world)
        return task
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(task, device_ids=devices, gradient_as_bucket_view=True)


def shard(task: Task, world: World) -> None:
    """Split a task's parameters over all processes (FSDP2), unit by unit."""
    assert isinstance(task, nn.Module)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for module in task.shard_modules():
        fully_shard(module, mesh=mesh)
    fully_shard(task, mesh=mesh)


def broadcast(module: nn.Module, world: World) -> None:
    """Give every process the weights and buffers of rank 0."""
    if world.size > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor's whole value on the CPU, as a copy.

    Of a sharded tensor all processes must ask, and only rank 0 gets more than a stub: a copy for
    each process would not fit into the memory of one machine.
    """
    tensor = whole(tensor)
    if dist.is_initialized() and dist.get_rank() != 0:
        return torch.empty(0)
    return tensor.to("cpu", copy=True).contiguous()


def whole(tensor: Tensor) -> Tensor:
    """A tensor's whole value on its device, on every process; of a sharded one all must ask."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Of a sharded tensor the part of this process, without communication; others as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(reference: Tensor, value: Tensor) -> Tensor:
    """A whole CPU tensor in the place, type, layout and sharding of `reference`."""
    result = torch.empty_like(reference, requires_grad=False)
    copy_into(result, value)
    return result


@torch.no_grad()
def copy_into(target: Tensor, value: Tensor) -> None:
    """Copy a whole CPU tensor into `target`, of a sharded one only this process's part."""
    if isinstance(target, DTensor):
        value = distribute_tensor(
            value.to(target.device), target.device_mesh, target.placements, src_data_rank=None
        )
    target.copy_(value)


def _place() -> tuple[int, int, int]:
    env = os.environ
    if "WORLD_SIZE" in env:
        return int(env.get("RANK", "0")), int(env.get("LOCAL_RANK", "0")), int(env["WORLD_SIZE"])
    size = int(env.get("SLURM_STEP_NUM_TASKS", "1"))
    if size == 1 or "SLURM_PROCID" not in env:
        return 0, 0, 1
    env.setdefault("MASTER_ADDR", first_host(env["SLURM_STEP_NODELIST"]))
    env.setdefault("MASTER_PORT", str(20000 + int(env.get("SLURM_JOB_ID", "0")) % 20000))
    return int(env["SLURM_PROCID"]), int(env.get("SLURM_LOCALID", "0")), size


def first_host(nodes: str) -> str:
    """First name of a SLURM node list: "gpu[07-09,12],login1" gives "gpu07"."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", nodes)
    if match is None:
        raise ValueError(f"SLURM_STEP_NODELIST={nodes!r} names no node: set MASTER_ADDR")
    return "".join(part or "" for part in match.groups())


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name!r} is unknown: auto, cpu or cuda") from None
    if device.type == "cuda":
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        found = torch.cuda.device_count()
        if (device.index or 0) >= found:
            raise ValueError(f"device={device}: this machine has {found} CUDA devices; try cpu")
    return device
