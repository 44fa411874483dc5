"""Hooks and transforms that must see a module run, so that no shortcut may skip its call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_modules

ROWS: Any = "spikeloom.rows"
"""The key of the hook that checks a layer's rows. A number would clash with keys in modules pickled elsewhere."""


class Onlooker:
    """A hook, of one module or of all, that only notes what runs; shortcuts may skip calls in spite of it."""

    only_looks = True

    def __init__(self, look: Callable[..., Any]) -> None:
        self._look = look

    def __call__(self, *seen: Any) -> Any:
        return self._look(*seen)


class StandIn:
    """A forward in a module's instance that does what the class's does, apart from when; it has nothing to see to."""


def has_hooks(module: nn.Module) -> bool:
    """Whether this module has to be called: it has hooks, all modules have, or its instance has a forward of its own.

    The hook that checks its rows and onlookers do not count.
    """
    own = module.__dict__
    before = own["_forward_pre_hooks"]
    return bool(
        (before and (len(before) > 1 or ROWS not in before) and _see_to(before))
        or (own["_forward_hooks"] and _see_to(own["_forward_hooks"]))
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or not isinstance(own.get("forward"), (type(None), StandIn))
        or for_all()
    )


def _see_to(hooks: Mapping[Any, Any]) -> bool:
    """Whether one of these hooks is neither an onlooker nor the one that checks rows, under whatever key."""
    return any(key != ROWS and not getattr(hook, "only_looks", False) for key, hook in hooks.items())


def for_all() -> bool:
    """Whether torch has hooks for all modules that are not onlookers."""
    m = torch_modules
    if not (m._global_forward_hooks or m._global_forward_pre_hooks):
        return bool(m._global_backward_hooks or m._global_backward_pre_hooks)
    hooks = (*m._global_forward_hooks.values(), *m._global_forward_pre_hooks.values())
    backward = m._global_backward_hooks or m._global_backward_pre_hooks
    return bool(backward) or any(not isinstance(hook, Onlooker) for hook in hooks)


def transformed() -> bool:
    """Whether the code runs inside torch.func or forward-mode differentiation."""
    return torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0
