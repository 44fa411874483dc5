"""Activation checkpointing inside a network: a part is computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from .call import Call, activate, active
from .kept import Kept
from .layers import run_layers, runs_layers

KEEPERS: list[Callable[[], Callable[[], AbstractContextManager[Any]]]] = []
"""What else the second computation must find as the first did: called before, each gives what makes a context of it."""


def checkpoint(module: nn.Module, *args: Any) -> Any:
    """``module(*args)``, of which only the inputs are kept: the backward pass computes it once more.

    Gradients are exact. The second computation sees what the first did: the steps, the incoming states, random numbers
    (torch's, numpy's, Python's), autocast and backend, and the module with its buffers, attributes, hooks and training
    flags, whatever the first one or anybody since has changed of them. What it changes itself is lost: it commits no
    state and updates no running statistics. Hooks are called in both; what they or the module keep elsewhere, in a
    global say, is neither put back nor kept from a second change. Use it in the forward of a model inside a
    :class:`Network`; in an ``nn.Sequential`` write :class:`Checkpoint`. On spikes of one bit each (``Network(...,
    spikes="packed")``) next to nothing is kept. ``torch.utils.checkpoint`` does not know of time and raises there.

    Raises TypeError for what is no module and RuntimeError in the backward pass where parameters were changed in place
    since, as torch does without it.

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
    if not isinstance(module, nn.Module):
        raise TypeError(f"checkpoint: expected a module, got {type(module).__name__}; make what it calls a submodule")
    call = active()
    if not torch.is_grad_enabled():
        return _run(module, args, call)
    before = None if call is None else call.snapshot()
    kept, contexts = Kept(module), [keep() for keep in KEEPERS]
    done = False

    def run(*inputs: Any) -> Any:
        nonlocal done
        if not done:
            done = True
            y = _run(module, inputs, call)
            kept.settle()
            return y
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            stack.enter_context(kept.put_back())
            again = None if before is None else before.snapshot()
            if again is not None:
                stack.enter_context(activate(again))
            return _run(module, inputs, again)

    once_more = torch.compiler.disable(run)  # torch's own lets Dynamo in again, which compiles but the first time
    return torch_checkpoint(once_more, *args, use_reentrant=False)


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
