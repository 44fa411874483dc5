"""tensors: how a stream notices that tensors, or what it made of them, are no longer what they were."""

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

from ._numbers import is_plain_float

METHODS = ("forward", "step", "sequence", "_scan", "__call__")
"""What a prepared step stands for."""
_SAMPLED = 32  # values of a weight that are looked at before each step


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
    return Optimisers()  # with the first stream, so that importing this package hooks nothing


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


def own_tensors(module: nn.Module) -> list[Tensor]:
    found = chain(module._parameters.values(), module._buffers.values())
    return [t for t in found if t is not None]


def where(tensor: Tensor | None) -> tuple[Tensor | None, int, int]:
    return (None, 0, 0) if tensor is None else (tensor, tensor.data_ptr(), tensor._version)


class Methods:
    """The methods of a class that a plan stands for."""

    def __init__(self, kind: Any) -> None:
        self._kind, self._read = kind, attrgetter(*(name for name in METHODS if hasattr(kind, name)))
        self._then = self._read(kind)

    def same(self) -> bool:
        """Whether they are what they were."""
        return all(map(is_, self._read(self._kind), self._then))
