"""One or several training processes behind the same few calls, on PyTorch's own engine."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..base.device import choose_device

TIMEOUT = timedelta(minutes=30)
"""How long one process waits for the others; torchrun ends the rest of a group earlier when one of it dies."""


@dataclass(frozen=True)
class Processes:
    """The processes of this run, seen from one of them. rank: its number; world: how many; device: what it computes on."""

    rank: int
    world: int
    device: torch.device
    messages: Any = None  # the group in which Python objects travel; None: the only one there is

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_gather(self, value: Any) -> list[Any]:
        """Every process's value, in rank order, in every process."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value, group=self.messages)
        return values

    def highest(self, value: int) -> int:
        """The highest of all processes' values. It does not wait for what a GPU is still doing."""
        if self.world == 1:
            return value
        box = torch.tensor(value)
        distributed.all_reduce(box, distributed.ReduceOp.MAX, group=self.messages)
        return int(box)

    def broadcast_state(self, module: nn.Module) -> None:
        """Give every process the parameters and buffers of process 0's module."""
        if self.world > 1:
            for tensor in module.state_dict(keep_vars=True).values():
                distributed.broadcast(tensor.detach(), src=0)

    def synchronise_batch_norms(self, model: nn.Module) -> nn.Module:
        """The model with batch norms that all processes share: on GPUs, where PyTorch can; else as it is."""
        if self.world == 1 or self.device.type != "cuda":
            return model
        # timm's converter: torch's own drops the activation that timm's BatchNormAct2d carries.
        return convert_sync_batchnorm(model)

    def parallelise(self, model: nn.Module) -> nn.Module:
        """The model, on this process's device, so that its gradients are averaged over the processes."""
        if self.world == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def close(self) -> None:
        if self.world > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def started_by_torchrun() -> bool:
    """Whether this process is one of several that `torchrun` (or `launch`) started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ and "MASTER_ADDR" in os.environ


def join_processes(device: str) -> Processes:
    """Join the group that torchrun's environment describes, or be alone. NCCL for CUDA, gloo for the CPU."""
    if not started_by_torchrun():
        return Processes(0, 1, choose_device(device))
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if world == 1:
        return Processes(0, 1, chosen)
    if chosen.type != "cuda":
        distributed.init_process_group("gloo", timeout=TIMEOUT)
        return Processes(rank, world, chosen)
    torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl", timeout=TIMEOUT, device_id=chosen)
    # Messages go over the CPU: through NCCL every one of them would wait for the GPU's queue.
    return Processes(rank, world, chosen, distributed.new_group(backend="gloo", timeout=TIMEOUT))
