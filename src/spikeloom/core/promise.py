"""promise: what a batch norm gives before anybody has looked at it.

A neuron that is given a promise computes the norm in its own kernel, from what the norm was given, so that the
normalised tensor is neither written nor saved. Whoever else is given one finds the tensor that was promised:

    functions and methods of torch      get it, computed at the first of them, as a part of the graph
    shapes, dtypes, devices             are known, and nothing is computed
    what torch does not tell of         as ``autograd.Function.apply``, gets its values; the gradient that comes back
                                        goes through the norm to what the norm was given

It is computed from tensors where they lie. Autograd's counts of what is written to them are compared: where one has
moved since the norm was called, looking raises. What moves no count (``.data``) is not noticed, as by autograd.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

Leaf = Tensor | None
Compute = Callable[..., Tensor]

MAKERS: dict[type[nn.Module], Callable[[Any, Any, int], Late | None]] = {}
"""By exact class: what calls a module on its input ``[T * B, *]``, where T is the last argument, and gives what it
promises; None where the module has to run by itself. Calling counts: running statistics move."""


_now = threading.local()
_UNSEEN = (
    "to the output of a batch norm, and torch does not tell the tensor's class of the call; clone the output first, or "
    "make the network with sl.Network(..., fuse=False)"
)


def computing() -> nn.Module | None:
    """The norm whose output is computed now, because somebody looked at it."""
    found: nn.Module | None = getattr(_now, "module", None)
    return found


class Waiting(NamedTuple):
    """The norms that promise in a call."""

    modules: frozenset[nn.Module]
    looked: Callable[[nn.Module], None]
    """Is told of one that has waited in vain."""
    promised: list[weakref.ref[Late]]


class Late:
    """What a promise stands for.

    Args:
        module: the norm.
        leaves: what it was given, and its numbers that may have a gradient.
        norm: what :meth:`spikeloom.TemporalModule.absorb` needs to know of the call.
        compute: makes the output of ``leaves``; it has no other effect.
        looked: who is told what made the tensor necessary; whoever hands the promise out may add to it.
    """

    def __init__(
        self,
        module: nn.Module,
        leaves: tuple[Tensor, *tuple[Leaf, ...]],
        norm: Any,
        compute: Compute,
        looked: list[Callable[[str], None]],
    ) -> None:
        self.module, self.norm, self.leaves, self._compute, self.looked = module, norm, leaves, compute, looked
        self._versions = self._now()
        self.has_graph = torch.is_grad_enabled()
        self._value: Leaf = None
        self._bare: Leaf = None

    @property
    def input(self) -> Tensor:
        """What the norm was given."""
        return self.leaves[0]

    @property
    def may_join(self) -> bool:
        """Whether a neuron may compute it itself: nobody has looked, and the graph would be the same."""
        return self._value is None and (self.has_graph or not torch.is_grad_enabled())

    def check(self) -> None:
        """Raises RuntimeError where something that it is computed of was written to."""
        if self._now() != self._versions:
            raise RuntimeError(
                f"{type(self.module).__name__}({self.input.shape[1]}): its input or a parameter was written to in "
                "place after it was called and before its output was used; give it a copy of the input, or make the "
                "network with sl.Network(..., fuse=False)"
            )

    def value(self, by: str) -> Tensor:
        """The tensor, as a part of the graph; ``by`` says who needs it."""
        if self._value is None:
            self.check()
            _now.module = self.module
            try:
                with torch.inference_mode(False), torch.set_grad_enabled(self.has_graph):
                    self._value = self._compute(*self.leaves)
            finally:
                _now.module = None
            self._made = self._value._version
            for tell in self.looked:
                tell(by)
        return self._value

    def beside(self) -> Tensor:
        """Its values for somebody who only looks on: nobody is told, and a neuron may still join."""
        if self._value is not None:
            return self._value.detach()
        if self._bare is None:
            self.check()
            with torch.no_grad():
                self._bare = self._compute(*self.leaves)
        return self._bare

    def unseen(self, func: Any) -> Tensor:
        """Its values for what is not seen by the class: the gradient comes back without a way through the tensor.

        Raises RuntimeError where the tensor was written to, since the gradient would pass what was written by.
        """
        if self._value is not None and self._value._version != self._made:
            raise RuntimeError(f"{func} is called after something wrote {_UNSEEN}")
        return self.beside()

    def gradients(self, g: Tensor, needed: tuple[bool, ...]) -> tuple[Leaf, ...]:
        """Gradients of the leaves that need one, from that of the tensor."""
        self.check()
        with torch.enable_grad():
            own = [
                None if t is None else t.detach().requires_grad_(n) for t, n in zip(self.leaves, needed, strict=True)
            ]
            y = self._compute(*own)
        found = iter(torch.autograd.grad(y, [t for t in own if t is not None and t.requires_grad], g))
        return tuple(next(found) if n else None for n in needed)

    def _now(self) -> tuple[int, ...]:
        return tuple([t._version for t in self.leaves if t is not None])


class Promise(Tensor):
    """A tensor without memory, of the shape, dtype and device of what is promised; :func:`promise` makes it."""

    late: Late
    node: Any
    """Its place in the graph when it was made."""

    @property
    def is_as_made(self) -> bool:
        """Whether it is still in the graph where the norm put it.

        It is not where an ``autograd.Function`` called the norm and returned what that gave.
        """
        with torch._C.DisableTorchFunctionSubclass():
            return self.grad_fn is self.node

    def tensor(self, by: str) -> Tensor:
        """The tensor that was promised, as a part of the graph; ``by`` says who needs it."""
        if self.is_as_made:
            return self.late.value(by)
        with torch._C.DisableTorchFunctionSubclass():
            return self.view_as(self)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _current[0](func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func._schema.is_mutable:
            raise RuntimeError(f"{func} writes {_UNSEEN}")
        given, options = pytree.tree_map_only(Promise, lambda p: p.late.unseen(func), (args, kwargs or {}))
        return func(*given, **options)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    if _current[0] is _run and "torch._dynamo" in sys.modules:
        _current[0] = torch.compiler.disable(_run, reason=_APART)
    if func in _TELLS:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)
    name = _name(func)
    given, options = pytree.tree_map_only(Promise, lambda p: p.tensor(name), (args, kwargs))
    return func(*given, **options)


# A compiled function leaves its graph there and goes on with the tensor; one of one whole graph raises with the reason.
# Dynamo asks each tensor for its gradient before it compiles anything, by which it comes here.
_APART = "the output of a batch norm that may join a neuron; make the network with sl.Network(..., fuse=False)"
_current: list[Callable[..., Any]] = [_run]
_SEEN = """shape ndim dtype device layout requires_grad is_cuda is_cpu is_sparse is_quantized"""
_ASKED = """size dim ndimension numel nelement __len__ element_size is_floating_point is_complex get_device"""
_TELLS = {
    *(cast(Any, getattr(Tensor, name)).__get__ for name in _SEEN.split()),
    *(getattr(Tensor, name) for name in _ASKED.split()),
}
"""What may be asked of a promise without its values."""


class _Gradient(torch.autograd.Function):
    """The place of a promise in the graph, for the gradient of somebody who got its values alone."""

    @staticmethod
    def forward(ctx: Any, late: Late, *leaves: Leaf) -> Tensor:
        ctx.late = late
        return _empty(late)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Leaf, ...]:
        return None, *ctx.late.gradients(g, ctx.needs_input_grad[1:])


def promise(late: Late) -> Promise:
    """The tensor that stands for ``late``."""
    if late.has_graph and any(t is not None and t.requires_grad for t in late.leaves):
        made: Promise = _Gradient.apply(late, *late.leaves)  # type: ignore[no-untyped-call]
        with torch._C.DisableTorchFunctionSubclass():
            made.node = made.grad_fn
        return made
    return _empty(late)


def kept(tree: Any, by: str) -> Any:
    """A pytree in which every promise is kept."""
    return pytree.tree_map_only(Promise, lambda p: p.tensor(by), tree)


def _empty(late: Late) -> Promise:
    x = late.input
    made: Promise = Tensor._make_wrapper_subclass(Promise, x.shape, strides=x.stride(), dtype=x.dtype, device=x.device)
    made.late, made.node = late, None
    return made


def _name(func: Any) -> str:
    """What a user calls a function: ``add`` for ``Tensor.add``, the attribute for what reads one."""
    name: str = getattr(getattr(func, "__self__", None), "__name__", "") or getattr(func, "__name__", "") or str(func)
    return name.strip("_")
