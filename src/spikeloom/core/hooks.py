"""Hooks: who has to see a module run. What runs layers together or once must not run past them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_modules

ROWS: Any = "spikeloom.rows"
"""The key of the hook that looks at a layer's rows; no number: pickled modules keep those of another process."""


class Onlooker:
    """A hook for all modules that notes which one runs, and is content with those that do run."""

    def __init__(self, look: Callable[..., None]) -> None:
        self._look = look

    def __call__(self, *seen: Any) -> None:
        self._look(*seen)


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody has to see this module run: hooks of its own or for all modules, or a forward of its own.

    The hook that looks at its rows and onlookers are content without.
    """
    before = module._forward_pre_hooks
    return bool(
        (before and (len(before) > 1 or ROWS not in before))
        or module._forward_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or _for_all()
    )


def _for_all() -> bool:
    return (
        any(not isinstance(hook, Onlooker) for hook in torch_modules._global_forward_hooks.values())
        or any(not isinstance(hook, Onlooker) for hook in torch_modules._global_forward_pre_hooks.values())
        or bool(torch_modules._global_backward_hooks or torch_modules._global_backward_pre_hooks)
    )
