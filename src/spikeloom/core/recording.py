"""Recording: a state (or u) of all steps, of which a gradient can be asked for, or that says why it cannot.

One tensor ``[T, B, *]`` of all steps cannot be what the steps go on with: each of them depends on those before it. So a
recording remembers the tensors that did go on, its pieces, and ``torch.autograd.grad`` with regard to it is that with
regard to these. A kernel has no such tensors, and what it recorded says so. Whatever is computed of a recording is an
ordinary tensor, and so is a recording where nothing has a gradient, or where a transform or a compiler runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from .._hooks import transformed
from .promise import Promise

Arrange = Callable[[list[Tensor]], Tensor]


class Recording(Tensor):
    """What was recorded of a state, made of ``pieces`` by ``arrange``, or ``refused``: why no gradient can be given."""

    pieces: tuple[Tensor, ...]
    arrange: Arrange
    refused: str

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented if Promise in types else _current[0](func, args, kwargs or {})

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]
        return repr(plain_tensor(self))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return plain_tensor(self).__reduce_ex__(protocol)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    if _current[0] is _run and "torch._dynamo" in sys.modules:
        _current[0] = torch.compiler.disable(_run, reason=_APART)
    if func is torch.autograd.grad:
        return _grad(*args, **kwargs)
    if func in (Tensor.retain_grad, Tensor.register_hook, _GRAD):
        _check(func, args[0])
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


# What is done with a recording is done outside of compiled code, to which torch cannot hand a class of tensors that is
# not its own. Dynamo asks each tensor for its gradient before it compiles anything, by which it comes here.
_APART = "a recording with a gradient is no input of one whole graph; give it recording * 1"
_current: list[Callable[..., Any]] = [_run]
_GRAD = cast(Any, Tensor).grad.__get__


def of_pieces(value: Tensor, pieces: list[Tensor], arrange: Arrange) -> Tensor:
    """``value``, which is ``arrange(pieces)``; its gradient is the pieces' gradients, arranged alike."""
    return _made(value, tuple(pieces), arrange, "")


def without_gradient(value: Tensor, why: str) -> Tensor:
    """``value``, of which no gradient can be asked for; gradients of what is computed of it flow as ever."""
    return _made(value, (), torch.stack, why)


def arranged(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """``function(value)``, which only moves values: it stays a recording if ``value`` is one."""
    if not isinstance(value, Recording):
        return function(value)
    return of_pieces(function(plain_tensor(value)), [value], lambda found: function(found[0]))


def plain_tensor(value: Tensor) -> Tensor:
    """A recording as an ordinary tensor; others as they are."""
    if not isinstance(value, Recording):
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(Tensor)


def _made(value: Tensor, pieces: tuple[Tensor, ...], arrange: Arrange, refused: str) -> Tensor:
    if not (value.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling() or transformed():
        return value
    if torch._C._get_tracing_state() is not None or torch._C._len_torch_dispatch_stack():
        return value
    found = plain_tensor(value).as_subclass(Recording)
    found.pieces, found.arrange, found.refused = pieces, arrange, refused or next(filter(None, map(_why, pieces)), "")
    return found


def _why(value: Tensor) -> str:
    return value.refused if isinstance(value, Recording) else ""


def _check(func: Any, recording: Recording) -> None:
    """Raises where a gradient is asked for in another way than by ``torch.autograd.grad``."""
    if func == _GRAD:  # None where backward(inputs=...) came by without a way here
        with torch._C.DisableTorchFunctionSubclass():
            if not recording.retains_grad:
                return
    raise RuntimeError(
        recording.refused or "the gradient of a recording is that of its steps: torch.autograd.grad(loss, recording)"
    )


def _grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """``torch.autograd.grad``, where recordings are among its arguments."""
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    refused = next(filter(None, map(_why, inputs)), "")
    if refused:
        raise RuntimeError(refused)
    asked = [leaf for x in inputs for leaf in _leaves(x)]
    if is_grads_batched and len(asked) != len(inputs):
        raise RuntimeError("is_grads_batched is not there for recordings; ask for one gradient after the other")
    any_recording = any(isinstance(x, Recording) for x in inputs)
    with torch._C.DisableTorchFunctionSubclass():
        found = torch.autograd.grad(
            outputs, asked, grad_outputs, retain_graph, create_graph, only_inputs,
            True if any_recording else allow_unused, is_grads_batched, materialize_grads and not any_recording,
        )  # fmt: skip
        if not any_recording:
            return found
        left = iter(found)
        grads = [_built(x, left) for x in inputs]
        if materialize_grads:
            return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(inputs, grads, strict=True))
    if not allow_unused and any(g is None for g in grads):
        raise RuntimeError("an output does not depend on a tensor whose gradient is asked for; allow_unused=True")
    return tuple(grads)


def _leaves(x: Any) -> Iterator[Any]:
    if isinstance(x, Recording):
        for piece in x.pieces:
            yield from _leaves(piece)
    elif not isinstance(x, Tensor) or x.requires_grad:
        yield x


def _built(x: Any, found: Iterator[Tensor | None]) -> Tensor | None:
    """The gradient of ``x`` of those that were found of its leaves."""
    if not isinstance(x, Recording):
        return next(found) if not isinstance(x, Tensor) or x.requires_grad else None
    grads = [_built(piece, found) for piece in x.pieces]
    if all(g is None for g in grads):
        return None
    return x.arrange([torch.zeros_like(p) if g is None else g for p, g in zip(x.pieces, grads, strict=True)])
