"""Activation checkpointing inside a network: a part is computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from .call import Call, activate, active
from .layers import run_layers, runs_layers


def checkpoint(module: nn.Module, *args: Any) -> Any:
    """``module(*args)``, of which only the inputs are kept: the backward pass computes it once more.

    Gradients are exact. The second computation sees the steps, the incoming states and the random numbers of the first;
    it commits no state and updates no running statistics of batch norm. Use it in the forward of a model inside a
    :class:`Network`; in an ``nn.Sequential`` write :class:`Checkpoint`. On spikes of one bit each (``Network(...,
    spikes="packed")``) next to nothing is kept. ``torch.utils.checkpoint`` does not know of time and raises there.

    >>> import torch
    >>> import spikeloom as sl
    >>> class Deep(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.first, self.second = (torch.nn.Sequential(torch.nn.Linear(8, 8), sl.LIF()) for _ in range(2))
    ...     def forward(self, x):
    ...         return sl.memory.checkpoint(self.second, sl.memory.checkpoint(self.first, x))
    >>> sl.Network(Deep())(torch.rand(5, 2, 8)).shape
    torch.Size([5, 2, 8])
    """
    call = active()
    before = None if call is None else call.snapshot()
    done = False

    def run(*inputs: Any) -> Any:
        nonlocal done
        if not done:
            done = True
            return _run(module, inputs, call)
        with _own_buffers(module):
            if before is None:
                return module(*inputs)
            again = before.snapshot()
            with activate(again):
                return _run(module, inputs, again)

    return torch_checkpoint(run, *args, use_reentrant=False)


class Checkpoint(nn.Module):
    """A module that is computed again in the backward pass, see :func:`checkpoint`.

    >>> import torch
    >>> import spikeloom as sl
    >>> block = torch.nn.Sequential(torch.nn.Linear(4, 8), sl.LIF())
    >>> net = sl.Network(sl.memory.Checkpoint(block), torch.nn.Linear(8, 2))
    >>> net(torch.rand(5, 3, 4)).shape, list(net.temporal_modules().values())
    (torch.Size([5, 3, 2]), ['0.module.1'])
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any) -> Any:
        """``module(*args)``."""
        return checkpoint(self.module, *args)


def _run(module: nn.Module, inputs: tuple[Any, ...], call: Call | None) -> Any:
    """As a network runs its body: neighbours in a Sequential may run as one."""
    if (
        call is not None
        and not call.stepping
        and len(inputs) == 1
        and isinstance(inputs[0], Tensor)
        and runs_layers(module)
    ):
        return run_layers(module, inputs[0], call)
    return module(*inputs)


@contextmanager
def _own_buffers(module: nn.Module) -> Iterator[None]:
    """Inside, buffers are copies: what is written to them (running statistics) is lost."""
    kept = [(m, name, b) for m in module.modules() for name, b in m._buffers.items() if b is not None]
    for owner, name, buffer in kept:
        owner._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for owner, name, buffer in kept:
            owner._buffers[name] = buffer
