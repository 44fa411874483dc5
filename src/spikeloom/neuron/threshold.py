"""What an equation does with ``v_threshold``, found by a step whose operations say what came of the threshold."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..surrogate import Surrogate
from .base import Dynamics, Neuron

_SUMS = {"add": (1, 1), "__radd__": (1, 1), "sub": (1, -1), "subtract": (1, -1), "rsub": (-1, 1), "__rsub__": (-1, 1)}
_SAME = {"neg": -1.0, "negative": -1.0} | dict.fromkeys(
    ("to", "float", "double", "detach", "clone", "contiguous", "expand", "expand_as", "reshape", "view"), 1.0
)
_SHAPES = ("zeros_like", "ones_like", "empty_like", "new_zeros", "new_ones")
_FACTS = ("__get__", "size", "dim", "numel", "is_floating_point")


class _Traces(TorchFunctionMode):
    """Follows a tensor ``t`` through operations: a result is ``c t`` plus what does not depend on t, or something else.

    ``factor`` is c, 0 for tensors that do not depend on t and NaN for something else.
    """

    def __init__(self, followed: Tensor) -> None:
        super().__init__()
        self.found = {id(followed): 1.0}
        self.alive: list[Any] = [followed]  # or an id might be used again
        self.read = ""

    def factor(self, value: Any) -> float:
        return self.found.get(id(value), 0.0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [self.factor(t) for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if any(given):
            name = getattr(func, "__name__", "")
            tensors = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
            factor = self._of(name, args, kwargs, given)
            self.alive += tensors
            self.found.update((id(t), factor) for t in tensors if factor)
            if not tensors and name not in _FACTS:
                self.read = name
        return result

    def _of(self, name: str, args: Any, kwargs: Any, given: list[float]) -> float:
        if name in _SHAPES:
            return 0.0
        if name in _SUMS and len(args) == 2 and not kwargs:
            return sum(sign * self.factor(a) for sign, a in zip(_SUMS[name], args, strict=True))
        if name in _SAME and not any(given[1:]):
            return _SAME[name] * given[0]
        return math.nan


def moves_with_threshold(neuron: Dynamics, features: int) -> str:
    """What of a neuron changes with ``v_threshold`` besides when it fires; empty if nothing does.

    Empty says: the neuron fires where ``h - v_threshold`` is at least 0, once a step, and uses it nowhere else.
    """
    core = neuron.core()
    name = type(core).__name__
    if type(core).fire is not Neuron.fire:
        return f"{name} has a fire of its own"
    if type(core.surrogate).forward is not Surrogate.forward or not core.surrogate.spiking:
        return f"{name} does not fire by a step function, but by {core.surrogate!r}"
    x = torch.zeros(_step_shape(neuron, features), dtype=torch.float64)
    rest = neuron.initial_state(x)
    changed = _at_rest_with_another_threshold(neuron, x)
    states = [state for state in rest if not torch.equal(rest[state], changed[state])]
    if states:
        return f"the state {states[0]!r} at rest depends on v_threshold"

    view = neuron.bind(x.shape, x.dtype)
    inner: Any = view
    while "neuron" in inner.__dict__:
        inner = inner.__dict__["neuron"]
    threshold = inner.v_threshold.clone()
    traces, fired, spikes = _Traces(threshold), [], torch.ones_like(x)

    def fire(u: Tensor) -> Tensor:
        fired.append(traces.factor(u))
        return spikes

    inner.__dict__.update(v_threshold=threshold, fire=fire)
    with torch.no_grad(), traces:
        out = view.dynamics(x, *rest.values())
    values = dict(zip(("output", *rest), out if isinstance(out, tuple) else (out,), strict=False))
    if fired != [-1.0]:
        return f"{name} does not fire where h - v_threshold is at least 0, once a step"
    for what, value in values.items():
        if traces.factor(value) != 0.0:
            soft = ": a soft reset subtracts the threshold; take reset='hard'" if core.reset == "soft" else ""
            return f"the {'output' if what == 'output' else f'state {what!r}'} depends on v_threshold{soft}"
    return f"dynamics reads values of v_threshold by {traces.read}" if traces.read else ""


def _step_shape(neuron: Dynamics, features: int) -> tuple[int, ...]:
    """The shape of a step of one sample that all numbers fit."""
    numbers = [n for _, part in neuron.parts() for n in part.own_numbers() if n.ndim > 1]
    each = list(torch.broadcast_shapes(*(n.shape for n in numbers))) if numbers else [features]
    return (1, features, *each[1:])


def _at_rest_with_another_threshold(neuron: Dynamics, x: Tensor) -> dict[str, Tensor]:
    other = copy.deepcopy(neuron)
    core = other.core()
    threshold = core.v_threshold.detach().double() + 1.0
    core._forget("v_threshold")
    core.numbers(v_threshold=threshold)
    return other.initial_state(x)
