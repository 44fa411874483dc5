"""handlers: which operators, functions and layers take spikes as bits, and how. Everything else gets dense tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from torch._ops import OpOverload, OpOverloadPacket

_Function = Callable[..., Any]


class Handler(NamedTuple):
    """How one operator, function or layer takes spikes."""

    bits: _Function
    compiled: _Function | None


HANDLERS: dict[Any, Handler] = {}
"""All of them, by what they take over; :func:`handles` adds to it."""


def handles(*what: Any, compiled: _Function | None = None) -> Callable[[_Function], _Function]:
    """Registers a function that computes with the bits of spikes, in place of a dense tensor. Use it as a decorator.

    Args:
        what: whose calls with spikes the function takes over. The kind decides how the function is called:

            * an operator of torch with its overload (``torch.ops.aten.mm.default``): ``handler(operator, *args,
              **kwargs)``, below autograd, so that torch's formula of the gradient runs on its result;
            * a function of torch (``torch.nn.functional.max_pool2d``): ``handler(function, *args, **kwargs)``, above
              autograd, for what brings a gradient of its own;
            * a class of layers (``torch.nn.Linear``): ``handler(layer, spikes)`` gives the
              :class:`spikeloom.core.Prepared` step by which a stream runs the layer on spikes in that memory.
        compiled: what takes an operator's place in a graph of ``torch.compile``, where bits have no values; it gets
            the same arguments. :func:`spikeloom.spikes.one_call` keeps the call on bits, and autograd saves them.
            With None the handler itself has to do without values, as views can. An operator with a compiled form
            counts as a computation, which ``sl.explain`` lists.

    A handler returns NotImplemented (None for a layer) for arguments that it does not take: the spikes are unpacked.
    What it returns has to be what the dense tensors give. Raises TypeError for other kinds of ``what``, and ValueError
    for one that another function handles.

    >>> import torch
    >>> import spikeloom as sl
    >>> @sl.spikes.handles(torch.ops.aten.count_nonzero.default)
    ... def count_nonzero(operator, s, dim=None):
    ...     return torch.tensor(s.count()) if dim is None else NotImplemented
    >>> torch.count_nonzero(sl.pack(torch.tensor([0.0, 1.0, 1.0])))
    tensor(2)
    """
    for one in what:
        if isinstance(one, OpOverloadPacket) or not callable(one):
            raise TypeError(
                f"handles: expected an operator with its overload (torch.ops.aten.mm.default), a function or a class "
                f"of layers, got {type(one).__name__} {one}"
            )

    def register(function: _Function) -> _Function:
        for one in what:
            there = HANDLERS.get(one)
            if there is not None and _name(there.bits) != _name(function):  # a notebook may define it again
                raise ValueError(f"handles: {one} is handled by {_name(there.bits)} already")
            HANDLERS[one] = Handler(function, compiled)
        return function

    return register


def unpacked(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """The handler of what has nothing to gain from bits outside of graphs."""
    return NotImplemented


@functools.cache
def operator_named(name: str) -> Any:
    """The handled operator of a name such as ``aten::mm``."""
    return next(op for op in HANDLERS if isinstance(op, OpOverload) and op.name() == name)


def _name(function: _Function) -> str:
    return f"{function.__module__}.{function.__qualname__}"
