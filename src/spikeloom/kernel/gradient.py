"""gradient: warns of a user's neuron through which no gradient passes."""

from __future__ import annotations

import warnings
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from .._hooks import transformed
from .backend import chosen
from .compiled import Kernels, kernels_of
from .request import Request

_seen: WeakKeyDictionary[type, WeakSet[type]] = WeakKeyDictionary()
"""What was looked at: classes of neurons inside, by the class outside."""


def warn_of_no_gradient(neuron: Any, request: Request, y: Tensor) -> None:
    """Warns once per class if inputs require a gradient and the output ``y`` can never pass one on to them.

    Neurons that come with spikeloom say so in their docstrings.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return
    inner = type(neuron.core())
    if inner in _seen.get(type(neuron), ()) or not _trains(request):
        return
    passes = not _is_of_a_user(neuron) or _passes(neuron, request, y)
    if passes is None:
        return
    _seen.setdefault(type(neuron), WeakSet()).add(inner)
    if not passes:
        warnings.warn(
            f"{type(neuron).__name__}: no gradient passes from its output to its input, so that nothing before it is "
            "trained: a comparison such as (v > 1).float() has none, nor has what was detached; write "
            "self.fire(v - 1), which has a surrogate gradient",
            stacklevel=2,
        )


def _trains(request: Request) -> bool:
    norm = request.norm
    given = request.tensors if norm is None else (*request.tensors, norm.weight, norm.bias)
    inside = transformed() or torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state() is not None
    return any(x is not None and x.requires_grad for x in given) and not inside


def _is_of_a_user(neuron: Any) -> bool:
    """Whether the equation, or that of the neuron inside an option, was not written here."""
    classes = (next(c for c in type(n).__mro__ if "dynamics" in vars(c)) for n in (neuron, neuron.core()))
    return any(c.__module__.partition(".")[0] != "spikeloom" for c in classes)


def _passes(neuron: Any, request: Request, y: Tensor) -> bool | None:
    """Whether the output depends differentiably on an input; None where these steps cannot tell.

    What goes from state to state before it reaches the output is there after as many steps as there are states.
    """
    steps = 1 + len(request.states)
    kernels = "" if chosen() == "eager" else kernels_of(neuron, len(request.tensors))
    if isinstance(kernels, Kernels):
        return not kernels.layout.depends(steps)["out"].isdisjoint(kernels.layout.xs)
    reached = _reaches(y, request.tensors)
    return reached if reached or steps <= request.T else None


def _reaches(y: Tensor, xs: tuple[Tensor, ...]) -> bool:
    """Whether the graph of ``y`` leads to one of ``xs``."""
    wanted = [x if x.grad_fn is None else x.grad_fn for x in xs]
    todo, seen = [y.grad_fn], set[Any]()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        if any(node is x or getattr(node, "variable", None) is x for x in wanted):
            return True
        seen.add(node)
        todo += [after for after, _ in node.next_functions]
    return False
