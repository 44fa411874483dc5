"""The processes of a run: a single one, or those that torchrun started."""

from __future__ import annotations

import atexit
import gc
import os
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from .settings import UserError

_T = TypeVar("_T")


def choose_device(name: str) -> torch.device:
    """The device of a name. ``auto`` is the first GPU (under torchrun the one of this process), or the CPU.

    >>> import spikeloom as sl
    >>> sl.runs.choose_device("cpu")
    device(type='cpu')
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device meta has no values
    except (RuntimeError, AssertionError) as problem:
        reason = str(problem).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here: {reason}", setting="device") from problem
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", local)
    return device


class Processes:
    """This process among all of a run. In a run of one process nothing is exchanged."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.device = device
        self._started = self.world > 1 and not dist.is_initialized()
        if self._started:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            # Networks in DistributedDataParallel hold the group, in cycles. They are freed before the interpreter ends:
            # threads of a group that end later ask for its lock, and then the process sometimes aborts.
            atexit.register(gc.collect)
        self._group: Any = dist.new_group(backend="gloo") if self.world > 1 else None  # exchanges numbers on the CPU

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def close(self) -> None:
        """Leaves the group that the constructor joined."""
        self._group = None
        if self._started:
            dist.destroy_process_group()

    def wrap(self, net: nn.Module) -> nn.Module:
        """The network on its device, in DistributedDataParallel where there are several processes."""
        net = net.to(self.device)
        if self.world == 1:
            return net
        return nn.parallel.DistributedDataParallel(net)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, on the CPU."""
        total = values.detach().cpu()
        if self.world > 1:
            total = total.clone()
            dist.all_reduce(total, group=self._group)
        return total

    def any(self, flag: int) -> int:
        """The largest of all processes' flags."""
        if self.world == 1:
            return flag
        largest = torch.tensor(flag)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._group)
        return int(largest)

    def gather(self, value: _T) -> list[_T]:
        """Every process's value, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self._group)
        return values


def unwrap(net: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(2, 3), sl.LIF())
    >>> sl.runs.unwrap(net) is net  # one process has nothing around it
    True
    """
    return net.module if isinstance(net, nn.parallel.DistributedDataParallel) else net
