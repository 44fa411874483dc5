"""Hooks and transforms: who has to see a module run. What runs layers together or once must not run past them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_modules

ROWS: Any = "spikeloom.rows"
"""The key of the hook that looks at a layer's rows; no number: pickled modules keep those of another process."""


class Onlooker:
    """A hook, of one module or for all, that notes what runs, and is content with those that do run."""

    def __init__(self, look: Callable[..., Any]) -> None:
        self._look = look

    def __call__(self, *seen: Any) -> Any:
        return self._look(*seen)


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody has to see this module run: hooks of its own or for all modules, or a forward of its own.

    The hook that looks at its rows and onlookers are content without.
    """
    own = module.__dict__
    before = own["_forward_pre_hooks"]
    return bool(
        (before and (len(before) > 1 or ROWS not in before) and _see_to(before))
        or (own["_forward_hooks"] and _see_to(own["_forward_hooks"]))
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
        or for_all()
    )


def _see_to(hooks: Mapping[Any, Any]) -> bool:
    """Whether one of some hooks does more than look on."""
    return any(key != ROWS and not isinstance(hook, Onlooker) for key, hook in hooks.items())


def for_all() -> bool:
    """Whether hooks for all modules are there of somebody who does more than look on."""
    m = torch_modules
    if not (m._global_forward_hooks or m._global_forward_pre_hooks):
        return bool(m._global_backward_hooks or m._global_backward_pre_hooks)
    hooks = (*m._global_forward_hooks.values(), *m._global_forward_pre_hooks.values())
    backward = m._global_backward_hooks or m._global_backward_pre_hooks
    return bool(backward) or any(not isinstance(hook, Onlooker) for hook in hooks)


def transformed() -> bool:
    """Whether torch.func or forward-mode differentiation looks at what runs now."""
    return torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0
