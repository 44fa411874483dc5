"""The one call through which every neuron's sequence runs.

Here it is the plain PyTorch loop, which defines what every faster form has to compute.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn

from .._time import check_lengths, trailing, valid_steps
from ..core import Repeated
from ..native.build import BuildError
from . import compiled, launch, op
from .backend import BackendError, chosen, debugging, note, say_once
from .dtypes import output_dtype, state_dtype
from .norm import Norm, why_not_fused
from .target import Target
from .targets import target_for

States = tuple[Tensor, ...]


class Dynamics(Protocol):
    """What the scan needs of a neuron."""

    def bind(self, step_shape: torch.Size, dtype: torch.dtype) -> Self: ...
    def dynamics(self, *x_and_states: Tensor) -> Tensor | tuple[Tensor, ...]: ...
    def all_numbers(self, step_shape: torch.Size, dtype: torch.dtype) -> list[Tensor]: ...
    def parts(self) -> list[tuple[str, Any]]: ...


def scan(
    neuron: Dynamics,
    xs: tuple[Tensor | Repeated, ...],
    states: States,
    *,
    lengths: Tensor | None = None,
    record: tuple[int, ...] = (),
    norm: nn.Module | None = None,
    as_spikes: launch.AsSpikes | None = None,
) -> tuple[Tensor, States, tuple[Tensor, ...]]:
    """Runs ``neuron.dynamics`` over time.

    Args:
        xs: inputs ``[T, B, *]``, or Repeated; the first gives the shape and dtype of the output.
        states: initial states ``[B, *]``, in dynamics' order, of dtype ``state_dtype(xs[0].dtype)``.
        lengths: valid steps per sample. Past them the state stays, output and recordings are 0.
        record: indices of the states to record.
        norm: a batch norm that x (a single sequence, no lengths) passes first.
        as_spikes: kernels write the output as bits and this makes it of them, where they can; else it is dense.

    Returns ``(spikes [T, B, *], final states, recordings [T, B, *])``.
    """
    first = xs[0].x if isinstance(xs[0], Repeated) else xs[0][0]
    dtype, out_dtype = state_dtype(first.dtype), output_dtype(first.dtype)
    ready = None if torch.compiler.is_compiling() else _kernels(neuron, xs, states)
    if ready is not None:
        why = "" if norm is None else "SPIKELOOM_DEBUG" if debugging() else why_not_fused(norm, cast(Tensor, xs[0]))
        if norm is not None and why:
            xs, norm = (_normalised(norm, xs),), None
        if lengths is not None:
            lengths = check_lengths(lengths, _steps(xs), first.shape[0], device=first.device).contiguous()
        said = f"fused with {type(norm).__name__}" if norm is not None else why and f"not fused: {why}"
        found = _run_kernels(*ready, neuron, xs, states, lengths, record, norm, as_spikes, said)
        if found is not None:
            return found
    if norm is not None:
        xs = (_normalised(norm, xs),)
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        repeated = tuple(isinstance(x, Repeated) for x in xs)
        changes = sum(part._changes for _, part in neuron.parts())
        modes = tuple(part.training for _, part in neuron.parts())
        text = op.program_text(neuron, (changes, modes), repeated, record, first.device.type)
        if text and first.numel():
            if lengths is not None:
                lengths = check_lengths(lengths, _steps(xs), first.shape[0], device=first.device)
            numbers = neuron.all_numbers(first.shape, dtype)
            return op.run(text, numbers, list(_tensors(xs)), states, lengths, _steps(xs))
    bound = neuron.bind(first.shape, dtype)
    with full_precision(first.device):
        if torch.compiler.is_exporting() and lengths is None and not record:
            return _scan_exported(bound, xs, states, dtype, out_dtype)
        return scan_eager(bound, xs, states, dtype, out_dtype, lengths, record)


def _run_kernels(
    target: Target,
    kernels: compiled.Kernels,
    neuron: Dynamics,
    xs: tuple[Tensor | Repeated, ...],
    states: States,
    lengths: Tensor | None = None,
    record: tuple[int, ...] = (),
    norm: nn.Module | None = None,
    as_spikes: launch.AsSpikes | None = None,
    said: str = "",
) -> tuple[Tensor, States, tuple[Tensor, ...]] | None:
    """What :func:`scan` returns, or None where a kernel could not be built. ``said``: what is noted of it."""
    first = _tensors(xs)[0]
    dtype, out_dtype, debug = state_dtype(first.dtype), output_dtype(first.dtype), debugging()
    options: dict[str, Any] = {"dtype": dtype, "lengths": lengths, "record": record}
    options["norm"] = None if norm is None else Norm(norm)
    try:
        with full_precision(first.device):
            found = launch.run(target, kernels, neuron, xs, states, as_spikes=None if debug else as_spikes, **options)
    except BuildError as error:
        name = type(neuron).__name__
        _loop_instead(
            neuron, str(error), f"the kernel of {name} could not be built, it runs as a PyTorch loop: {error}"
        )
        return None
    note(neuron, target.name, said)
    if debug:
        from .check import check_call

        check_call(target, kernels, neuron, xs, states, found, dtype, lengths, record)
    return found if found[0].dtype == out_dtype else (found[0].to(out_dtype), *found[1:])


def _normalised(norm: nn.Module, xs: tuple[Tensor | Repeated, ...]) -> Tensor:
    """What a batch norm makes of all steps."""
    x = cast(Tensor, xs[0])
    y: Tensor = norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return y


def _kernels(
    neuron: Dynamics, xs: tuple[Tensor | Repeated, ...], states: States
) -> tuple[Target, compiled.Kernels] | None:
    """The kernels to run and where, or None for the loop; raises BackendError where kernels were asked for."""
    asked, tensors = chosen(), _tensors(xs)
    if asked == "eager" or not tensors[0].numel():
        note(neuron, "eager", "chosen" if asked == "eager" else "no values")
        return None
    reason = compiled.why_not(neuron, tensors, states)
    if len(xs) > 1 and len({x.x.shape if isinstance(x, Repeated) else x.shape[1:] for x in xs}) > 1:
        reason = "inputs of different shapes"
    if reason:
        _loop_instead(neuron, reason)
        return None
    device = tensors[0].device
    try:
        target = target_for(device, asked)
    except BuildError as error:
        what = f"{'C' if device.type == 'cpu' else 'Triton'} kernels are not available, neurons run as PyTorch loops"
        _loop_instead(neuron, str(error), "" if device.type == "meta" else f"{what}: {error}")
        return None
    kernels = compiled.kernels_of(neuron, len(xs))
    if isinstance(kernels, str):
        _loop_instead(neuron, kernels, f"{kernels}; it runs as a PyTorch loop")
        return None
    return target, kernels


def _loop_instead(neuron: Dynamics, reason: str, said: str = "") -> None:
    """Notes that the PyTorch loop runs, says ``said`` once; raises BackendError where kernels were asked for."""
    if chosen() != "auto":
        raise BackendError(f"{type(neuron).__name__} cannot run on backend {chosen()!r}: {reason}")
    if said:
        say_once(said)
    note(neuron, "eager", reason)


def _tensors(xs: tuple[Tensor | Repeated, ...]) -> tuple[Tensor, ...]:
    return tuple(x.x if isinstance(x, Repeated) else x for x in xs)


def _steps(xs: tuple[Tensor | Repeated, ...]) -> int:
    return xs[0].T if isinstance(xs[0], Repeated) else xs[0].shape[0]


def source(neuron: Dynamics, x: Tensor) -> str:
    """The source of the kernels that run ``neuron`` on ``x`` ``[T, B, *]``: forward, then backward for training.

    C for a CPU, Triton for a GPU or inside ``sl.backend("triton")``. Raises BackendError where there is no kernel.

    >>> import torch
    >>> import spikeloom as sl
    >>> text = sl.kernel.source(sl.LIF(), torch.rand(5, 2, 3))
    >>> "(x_ - u8)" in text
    True
    """
    kernels = compiled.kernels_of(neuron)
    reason = compiled.why_not(neuron, (x,), ())
    if reason or isinstance(kernels, str):
        raise BackendError(f"{type(neuron).__name__} has no kernel for this input: {reason or kernels}")
    try:
        return launch.sources(target_for(x.device), kernels, neuron, x, state_dtype(x.dtype))
    except BuildError as error:
        raise BackendError(f"{type(neuron).__name__} has no kernel for this input: {error}") from error


def one_step(neuron: Dynamics, xs: tuple[Tensor, ...], states: States, as_spikes: Any = None) -> tuple[Tensor, States]:
    """One step of ``neuron.dynamics`` on ``[B, *]``: ``(spikes, states)``; ``as_spikes`` as in :func:`scan`.

    A kernel that runs one step saves the dozen operations of the equation; torch.compile fuses them itself.
    """
    dtype = state_dtype(xs[0].dtype)
    if not torch.compiler.is_compiling():
        sequences = tuple([x.unsqueeze(0) for x in xs])
        ready = _kernels(neuron, sequences, states)
        found = None if ready is None else _run_kernels(*ready, neuron, sequences, states, as_spikes=as_spikes)
        if found is not None:
            return found[0].view(found[0].shape[1:]), found[1]
    with full_precision(xs[0].device):
        spikes, new = _dynamics(neuron.bind(xs[0].shape, dtype), tuple(x.to(dtype) for x in xs), states)
    y = spikes.to(output_dtype(xs[0].dtype))
    return y, _apart(new, (*xs, y))


def prepared_step(
    neuron: Dynamics, x: Tensor, states: States, norm: nn.Module | None, as_spikes: Any
) -> tuple[Tensor, launch.Step] | None:
    """:func:`spikeloom.kernel.launch.step_of`; None where no kernel would run, and for a norm without statistics."""
    if chosen() == "eager" or not x.numel() or compiled.why_not(neuron, (x,), states):
        return None
    if norm is not None and (why_not_fused(norm, x.unsqueeze(0)) or Norm(norm).batch):
        return None
    try:
        target, kernels = target_for(x.device), compiled.kernels_of(neuron)
        if isinstance(kernels, str):
            return None
        joined = None if norm is None else Norm(norm)
        dtype = state_dtype(x.dtype)
        return launch.step_of(target, kernels, neuron, x, dtype=dtype, norm=joined, as_spikes=as_spikes)
    except BuildError:
        return None


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Turns autocast off: states are never computed in a reduced precision."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def scan_eager(
    bound: Dynamics,
    xs: tuple[Tensor | Repeated, ...],
    states: States,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    lengths: Tensor | None,
    record: tuple[int, ...],
) -> tuple[Tensor, States, tuple[Tensor, ...]]:
    T = _steps(xs)
    steps = [(x.x,) * T if isinstance(x, Repeated) else x.unbind(0) for x in xs]
    valid = None
    if lengths is not None:
        first = steps[0][0]
        lengths = check_lengths(lengths, T, first.shape[0], device=first.device)
        valid = trailing(valid_steps(lengths, T), first.ndim + 1).unbind(0)
    outputs: list[Tensor] = []
    recordings: tuple[list[Tensor], ...] = tuple([] for _ in record)
    start = tuple(s.detach() for s in states)
    for t in range(T):
        x_t, before = tuple(x[t].to(dtype) for x in steps), states
        if valid is not None:  # masked before dynamics too: 0 times the gradient of a NaN or an infinity there is NaN
            x_t = tuple(torch.where(valid[t], x, 0) for x in x_t)
            before = tuple(torch.where(valid[t], s, held) for s, held in zip(states, start, strict=True))
        spikes, new = _dynamics(bound, x_t, before)
        seen = new
        if valid is not None:
            spikes = torch.where(valid[t], spikes, 0)
            seen = tuple(torch.where(valid[t], n, 0) for n in new)
            new = tuple(torch.where(valid[t], n, old) for n, old in zip(new, states, strict=True))
        states = new
        outputs.append(spikes.to(out_dtype))
        for recording, i in zip(recordings, record, strict=True):
            recording.append(seen[i])
    last = tuple(x[-1] for x in steps)
    return torch.stack(outputs), _apart(states, last), tuple(torch.stack(r) for r in recordings)


def _scan_exported(
    bound: Dynamics, xs: tuple[Tensor | Repeated, ...], states: States, dtype: torch.dtype, out_dtype: torch.dtype
) -> tuple[Tensor, States, tuple[Tensor, ...]]:
    """The same as a higher-order operator: a loop over a symbolic T cannot be unrolled by torch.export."""
    from torch._higher_order_ops.scan import scan as scan_operator

    sequences = [x.x.expand(x.T, *x.x.shape) if isinstance(x, Repeated) else x for x in xs]

    def step(carry: list[Tensor], x_t: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        spikes, new = _dynamics(bound, tuple(x.to(dtype) for x in x_t), tuple(carry))
        return [n.clone() for n in new], spikes.to(out_dtype, copy=True)

    final, outputs = scan_operator(step, list(states), sequences)
    return outputs, tuple(final), ()


def _dynamics(bound: Dynamics, x_t: tuple[Tensor, ...], states: States) -> tuple[Tensor, States]:
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
