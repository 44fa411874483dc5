"""watch: whether a module, and what was made of its tensors, is still what it was."""

from __future__ import annotations

import functools
import struct
from collections import deque
from collections.abc import Iterable
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from .._hooks import for_all
from .._numbers import Declared, is_plain_float

METHODS = ("forward", "step", "sequence", "__call__")
"""What a prepared step stands for."""
_HOOKS = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
_SAMPLED = 32  # values of a weight that are looked at before each step; more are slower and show smaller writes


class Watch:
    """A module and all modules inside it, as they were: tensors, numbers, children, classes, methods, hooks, modes.

    Tensors are compared by identity, address and version, numbers of neurons by value, and the steps of optimisers are
    counted, since fused ones move no version. ``modules``: the module first, then what is inside. Hooks of the first
    are not looked at: its step is called, which runs none.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self._modules, self._kinds = modules, list(map(type, modules))
        self._children = [(m._modules, list(m._modules.values())) for m in modules if m._modules]
        tables = [table for m in modules for table in (m._parameters, m._buffers)]
        self._tensors = [(table, name, *_place(t)) for table in tables for name, t in table.items()]
        self._ids = frozenset(id(t) for table in tables for t in table.values())
        self._optimisers, self._optimised = optimisers(), optimisers().steps
        self._numbers = Numbers([t for m in modules if isinstance(m, Declared) for t in m.own_numbers()])
        self._own = [m.__dict__ for m in modules]
        self._hooks = [own[name] for own in self._own[1:] for name in _HOOKS]
        self._before = [own["_forward_pre_hooks"] for own in self._own[1:]]  # with the hook that looks at rows
        self._looking = list(map(len, self._before))
        self._methods = [Methods(kind) for kind in {*self._kinds}]

    def holds(self) -> bool:
        """Whether all is still as it was."""
        for table, name, tensor, address, version in self._tensors:
            if table.get(name) is not tensor:
                return False
            if tensor is not None and (tensor.data_ptr() != address or tensor._version != version):
                return False
        if any(self._hooks) or for_all() or list(map(len, self._before)) != self._looking:
            return False
        for own in self._own:
            if own["training"] or not own.keys().isdisjoint(METHODS):
                return False
        return (
            self._numbers.hold()
            and not self._was_stepped()
            and list(map(type, self._modules)) == self._kinds
            and all(list(now.values()) == then for now, then in self._children)
            and all(methods.same() for methods in self._methods)
        )

    def _was_stepped(self) -> bool:
        now = self._optimisers.steps
        if now != self._optimised and self._optimisers.stepped(self._optimised, self._ids):
            return True
        self._optimised = now
        return False


class Optimisers:
    """Whose parameters were stepped lately, told by a hook that torch calls after each step of every optimiser."""

    def __init__(self) -> None:
        self.steps = 0
        self._lately: deque[frozenset[int]] = deque(maxlen=32)
        register_optimizer_step_post_hook(self._note)

    def _note(self, optimiser: Any, args: Any, kwargs: Any) -> None:
        self._lately.append(frozenset(id(p) for group in optimiser.param_groups for p in group["params"]))
        self.steps += 1

    def stepped(self, since: int, tensors: frozenset[int]) -> bool:
        """Whether any of the tensors (by id) was stepped after that many steps."""
        lately = list(self._lately)
        missed = self.steps - since
        return missed > len(lately) or any(not tensors.isdisjoint(ids) for ids in lately[len(lately) - missed :])


@functools.cache
def optimisers() -> Optimisers:
    """Those of this process. The first stream makes it, so that importing this package hooks nothing."""
    return Optimisers()


class Numbers:
    """The values that numbers had, whoever writes to them in whatever way."""

    def __init__(self, numbers: Iterable[Tensor]) -> None:
        numbers = list(numbers)
        self._floats = [n for n in numbers if is_plain_float(n)]
        self._bits = self._now()
        self._others = [(n, n.detach().clone()) for n in numbers if not is_plain_float(n)]

    def _now(self) -> bytes:
        return struct.pack(f"{len(self._floats)}d", *[n.item() for n in self._floats])

    def hold(self) -> bool:
        """Whether they have them still."""
        same = self._now() == self._bits
        return same and all(n.dtype == then.dtype and torch.equal(n, then) for n, then in self._others)


class Sample:
    """Some values of each weight, which show most of the writes that move no version."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        suited = (
            t.detach() for t in tensors if t.dtype == torch.float32 and t.is_cpu and t.numel() and t.is_contiguous()
        )
        self._views = [t.view(-1)[:: -(-t.numel() // _SAMPLED)] for t in suited]
        self._then = torch.cat(self._views) if self._views else None

    def holds(self) -> bool:
        """Whether these values are what they were."""
        return self._then is None or torch.equal(torch.cat(self._views), self._then)


class Methods:
    """The methods of a class that a prepared step stands for."""

    def __init__(self, kind: Any) -> None:
        self._kind, self._read = kind, attrgetter(*(name for name in METHODS if hasattr(kind, name)))
        self._then = self._read(kind)

    def same(self) -> bool:
        """Whether they are what they were."""
        return all(map(is_, self._read(self._kind), self._then))


def all_inside(module: nn.Module) -> list[nn.Module]:
    """A module and all modules inside it, in order; one that stands in several places is there as often."""
    found = [module]
    for child in module._modules.values():
        if child is not None:
            found += all_inside(child)
    return found


def own_tensors(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a module itself."""
    return [t for t in chain(module._parameters.values(), module._buffers.values()) if t is not None]


def _place(tensor: Tensor | None) -> tuple[Tensor | None, int, int]:
    return (None, 0, 0) if tensor is None else (tensor, tensor.data_ptr(), tensor._version)
