"""loop: a sequence as a loop in PyTorch, which defines what every faster form has to compute."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .._time import trailing, valid_steps
from .._tracing import has_autocast
from ..core.recording import of_pieces
from .marked import marked
from .request import Found, Request, States


def scan_eager(bound: Any, request: Request) -> Found:
    """Runs the steps of a request one by one; ``bound`` is a neuron's view from ``bind``."""
    bound = marked(bound) if request.u else bound
    dtype, out_dtype, states = request.dtype, request.out_dtype, request.start
    sequences = [request.steps_of(k) for k in range(len(request.tensors))]
    valid = None
    if request.lengths is not None:
        valid = trailing(valid_steps(request.lengths, request.T), len(request.step) + 1).unbind(0)
    outputs: list[Tensor] = []
    recordings: tuple[list[Tensor], ...] = tuple([] for _ in request.record)
    pieces: tuple[list[Tensor], ...] = tuple([] for _ in request.record)
    start = tuple(s.detach() for s in states)
    for t in range(request.T):
        x_t, before = tuple(x[t].to(dtype) for x in sequences), states
        if valid is not None:  # masked before dynamics too: 0 times the gradient of a NaN or an infinity there is NaN
            x_t = tuple(torch.where(valid[t], x, 0) for x in x_t)
            before = tuple(torch.where(valid[t], s, held) for s, held in zip(states, start, strict=True))
        spikes, new = _dynamics(bound, x_t, before)
        seen = went_on = new
        if valid is not None:
            spikes = torch.where(valid[t], spikes, 0)
            seen = tuple(torch.where(valid[t], n, 0) for n in new)
            new = tuple(torch.where(valid[t], n, old) for n, old in zip(new, states, strict=True))
        states = new
        outputs.append(spikes.to(out_dtype))
        for recording, those, i in zip(recordings, pieces, request.record, strict=True):
            recording.append(seen[i])
            those.append(went_on[i])
    last = tuple(x[-1] for x in sequences)
    recorded = [of_pieces(torch.stack(r), p, torch.stack) for r, p in zip(recordings, pieces, strict=True)]
    return torch.stack(outputs), _apart(states, last), tuple(recorded)


def step_eager(bound: Any, request: Request) -> tuple[Tensor, States]:
    """Runs a request for one step; returns the spikes ``[B, *]`` and the new states."""
    bound = marked(bound) if request.u else bound
    x_t = tuple([x[0] for x in request.tensors])
    spikes, new = _dynamics(bound, tuple([x.to(request.dtype) for x in x_t]), request.start)
    y = spikes.to(request.out_dtype)
    return y, _apart(new, (*x_t, y))


def scan_exported(bound: Any, request: Request) -> Found:
    """The loop as one higher-order operator: ``torch.export`` cannot unroll a loop over a symbolic T."""
    from torch._higher_order_ops.scan import scan as scan_operator

    dtype, out_dtype = request.dtype, request.out_dtype
    pairs = zip(request.tensors, request.repeated, strict=True)
    sequences = [x.expand(request.T, *x.shape) if repeated else x for x, repeated in pairs]
    if not request.states:  # the operator wants something to carry; without it the steps are so many samples
        spikes, _ = _dynamics(bound, tuple(x.flatten(0, 1).to(dtype) for x in sequences), ())
        return spikes.to(out_dtype).unflatten(0, sequences[0].shape[:2]), (), ()

    def step(carry: list[Tensor], x_t: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        spikes, new = _dynamics(bound, tuple(x.to(dtype) for x in x_t), tuple(carry))
        return [n.clone() for n in new], spikes.to(out_dtype, copy=True)

    final, outputs = scan_operator(step, list(request.start), sequences)
    return outputs, tuple(final), ()


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Turns autocast off: states are never computed in a reduced precision."""
    kind = device.type
    if has_autocast(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _dynamics(bound: Any, x_t: tuple[Tensor, ...], states: States) -> tuple[Tensor, States]:
    versions = _versions((*x_t, *states))
    out = bound.dynamics(*x_t, *states)
    if _versions((*x_t, *states)) != versions:
        raise ValueError(
            f"{type(bound).__name__}.dynamics changed x or a state in place; write v = v + x, not v += x or v.add_(x)"
        )
    out = (out,) if isinstance(out, Tensor) else out
    if len(out) != 1 + len(states):
        raise ValueError(
            f"{type(bound).__name__}.dynamics returned {len(out)} values, expected {1 + len(states)}: the output and "
            f"{len(states)} new states, in the order of self.states(...)"
        )
    for tensor in out:
        if tensor.shape != x_t[0].shape:
            raise ValueError(
                f"{type(bound).__name__}.dynamics returned shape {list(tensor.shape)} for a step of shape "
                f"{list(x_t[0].shape)}; outputs and states must have the shape of the step"
            )
    return out[0], out[1:]


def _apart(states: States, others: tuple[Tensor, ...]) -> States:
    """``states`` that share no memory with ``others``: a layer that works in place must not change a state."""
    return tuple(s.clone() if any(s is other for other in others) else s for s in states)


def _versions(tensors: tuple[Tensor, ...]) -> list[int] | None:
    if torch.compiler.is_compiling():
        return None
    return [-1 if t.is_inference() else t._version for t in tensors]  # inference tensors count no changes
