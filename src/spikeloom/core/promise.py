"""promise: what a batch norm gives before anybody has looked at it.

A neuron that is given a promise computes the norm in its own kernel, from what the norm was given, so that the
normalised tensor is neither written nor saved. Whoever else is given one finds the tensor that was promised:

    functions and methods of torch      get it, computed at the first of them, as a part of the graph
    shapes, dtypes, devices             are known, and nothing is computed
    what torch does not tell of         as ``autograd.Function.apply``, gets its values; the gradient that comes back
                                        goes through the norm to what the norm was given, and raises where it should
                                        have met what was done with the tensor on its way: a hook, something in place

It is computed from tensors where they lie. Autograd's counts of what is written to them are compared: where one has
moved since the norm was called, looking raises. What moves no count (``.data``) is not noticed, as by autograd.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def checkpoint_hooks() -> Any:
    """The hooks by which torch's checkpoint counts what is saved, or None where it does not run."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks if hooks is not None and getattr(hooks[0], "__module__", "") == "torch.utils.checkpoint" else None


@contextmanager
def _outside_checkpoints() -> Iterator[None]:
    """What was promised before a checkpoint is no part of it, and is not computed again with it."""
    taken = []
    try:
        while (hooks := checkpoint_hooks()) is not None:
            torch._C._autograd._pop_saved_tensors_default_hooks()
            taken.append(hooks)
        yield
    finally:
        for hooks in reversed(taken):
            torch._C._autograd._push_saved_tensors_default_hooks(*hooks)


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
        self._made: tuple[int, Any] = (0, None)  # version and place in the graph of the value when it was computed
        self._written = 0  # the version of the value that promises were told of
        self._in_doubt = False

    @property
    def input(self) -> Tensor:
        """What the norm was given."""
        return self.leaves[0]

    @property
    def may_join(self) -> bool:
        """Whether a neuron may compute it itself: nobody has looked, and the graph would be the same."""
        return self.waits and (self.has_graph or not torch.is_grad_enabled())

    @property
    def waits(self) -> bool:
        """Whether nobody has looked."""
        return self._value is None

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
                with torch.inference_mode(False), torch.set_grad_enabled(self.has_graph), _outside_checkpoints():
                    self._value = self._compute(*self.leaves)
            finally:
                _now.module = None
            self._written, self._made = self._value._version, (self._value._version, self._value.grad_fn)
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
        if self._is_changed():
            raise RuntimeError(f"{func} is called after something wrote {_UNSEEN}")
        return self.beside()

    def looked_at(self) -> bool:
        """Notes that a function of torch looked; whether the tensor was written to since the last did."""
        if self._value is None:
            return False
        # autograd.Function calls its forward like this, and its gradient would pass by what changed the tensor
        self._in_doubt |= not torch.is_grad_enabled() and self._is_changed()
        before, self._written = self._written, self._value._version
        return before != self._written

    def _is_changed(self) -> bool:
        """Whether the tensor is no longer what the norm gave, or no longer at that place in the graph."""
        return self._value is not None and self._made != (self._value._version, self._value.grad_fn)

    def gradients(self, g: Tensor, needed: tuple[bool, ...]) -> tuple[Leaf, ...]:
        """Gradients of the leaves that need one, from that of the tensor."""
        self.check()
        value = self._value
        if self._in_doubt or (value is not None and (value._backward_hooks or value.retains_grad)):
            raise RuntimeError(
                f"{type(self.module).__name__}({self.input.shape[1]}): its output has a hook, retains its gradient or "
                "was changed in place, and was given to an autograd.Function, whose gradient does not pass by that; "
                "clone the output first, or make the network with sl.Network(..., fuse=False)"
            )
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
    if func in _TELLS and (args[0].late.waits or not args[0].is_as_made):
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)
    name, looked = _name(func), []

    def taken(p: Promise) -> Tensor:
        looked.append(p)
        return p.tensor(name)

    given, options = pytree.tree_map_only(Promise, taken, (args, kwargs))
    found = func(*given, **options)
    for p in looked:
        if p.late.looked_at():  # so that autograd, where it has saved the promise, finds that it was written to
            torch.autograd.graph.increment_version(p)
    return found


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
    torch._C._set_throw_on_mutable_data_ptr(made)  # an extension that takes an address would read at none
    return made


def _name(func: Any) -> str:
    """What a user calls a function: ``add`` for ``Tensor.add``, the attribute for what reads one."""
    name: str = getattr(getattr(func, "__self__", None), "__name__", "") or getattr(func, "__name__", "") or str(func)
    return name.strip("_")
