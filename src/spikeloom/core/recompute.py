"""Activation checkpointing inside a network: a part is computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from .call import Call, activate, active
from .joining import promising
from .kept import Kept
from .layers import run_layers, runs_layers
from .promise import kept as all_kept

KEEPERS: list[Callable[[], Callable[[], AbstractContextManager[Any]]]] = []
"""Each is called before the first computation and returns a function that makes a context for the second one."""


def checkpoint(module: nn.Module, *args: Any) -> Any:
    """``module(*args)``, of which only the inputs are kept: the backward pass computes it once more.

    Gradients are exact. The second computation sees what the first did: the steps, the incoming states, random numbers
    (torch's, numpy's, Python's), autocast and backend, and the module's buffers, attributes, hooks and training flags,
    even where they have changed since. Its own changes are lost: it commits no state and updates no running statistics.
    Both computations call hooks; what hooks or the module write elsewhere, say to a global, is not put back.
    Use this in the forward of a model inside a :class:`Network`; in an ``nn.Sequential`` write :class:`Checkpoint`.
    With packed spikes (``Network(..., spikes="packed")``) the inputs that are kept take one bit per spike.
    ``torch.utils.checkpoint`` does not know of time and raises inside a network.

    An argument that is no module raises TypeError. As in torch, the backward pass raises RuntimeError where parameters
    were changed in place since the forward pass.

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
    call, args = active(), all_kept(args, "checkpoint")
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
                stack.enter_context(promising(again))
            return _run(module, inputs, again)

    once_more = torch.compiler.disable(run)  # torch's checkpoint lets in Dynamo, which compiles only the first run
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
        """The result of ``module(*args)``."""
        return checkpoint(self.module, *args)


def _run(module: nn.Module, inputs: tuple[Any, ...], call: Call | None) -> Any:
    """Runs a module as a network runs its body: neighbours in a Sequential may run as one."""
    if (
        call is not None
        and not call.stepping
        and len(inputs) == 1
        and isinstance(inputs[0], Tensor)
        and runs_layers(module)
    ):
        return run_layers(module, inputs[0], call)
    return module(*inputs)
