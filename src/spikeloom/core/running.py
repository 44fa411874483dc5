"""Running: which module of a network runs now, by its path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules import module as hooks

from .._hooks import Onlooker
from .places import named
from .promise import computing

Now = Callable[[], tuple[str, nn.Module] | None]


@contextmanager
def running(net: nn.Module) -> Iterator[Now]:
    """Gives what tells the path and the module that runs now, the innermost one of ``net``; None outside. A batch norm
    runs when its output is computed, wherever it was promised.

    Paths are those of states and recordings. What an equation is made of goes by the path of its neuron. By hooks for
    all modules, which see those that run by themselves; whoever joins layers is content with them.
    """
    paths = named(net)
    now: list[nn.Module] = []

    def begin(module: nn.Module, args: Any) -> None:
        if module in paths:
            now.append(module)

    def end(module: nn.Module, args: Any, output: Any) -> None:
        while module in paths and now and now.pop() is not module:  # one that raised was left without an end
            pass

    handles = [
        hooks.register_module_forward_pre_hook(Onlooker(begin)),
        hooks.register_module_forward_hook(Onlooker(end)),
    ]
    try:
        yield lambda: next(((paths[m], m) for m in (computing(), *now[-1:]) if m is not None and m in paths), None)
    finally:
        for handle in handles:
            handle.remove()
