"""compiled: runs a neuron's sequence with its generated C kernels."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .._numbers import _UNDECLARED
from . import store
from .build import load
from .emit_c import SEGMENT, Variant, emit_backward, emit_forward, layout
from .program import Program

_ORDERS = {4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}  # channels_last in memory
_SMALL = 1 << 15  # neuron steps below which one thread is faster
_kernels: dict[Any, Kernels | str] = {}


def why_not(neuron: Any, xs: tuple[Tensor, ...], states: tuple[Tensor, ...]) -> str:
    """Why C kernels cannot run these inputs now, whatever the neuron; empty if they can."""
    tensors = [*xs, *states, *neuron.parameters(), *neuron.buffers()]
    if any(t.device.type != "cpu" for t in tensors):
        return f"the input is on {xs[0].device}, C kernels run on cpu"
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return "inside torch.compile, export or jit"
    if torch._C._len_torch_dispatch_stack():
        return "inside a torch dispatch mode"
    if torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0:
        return "inside a torch.func transform or forward-mode differentiation"
    if any(type(t) not in (Tensor, nn.Parameter) for t in tensors):
        return "a tensor subclass"
    if any(x.shape != xs[0].shape for x in xs):
        return "inputs of different shapes"
    if xs[0].dtype.is_complex:
        return f"inputs of {xs[0].dtype}"
    return ""


class Kernels:
    """The program of one kind of neuron, and what was compiled from it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.layout = layout(program)
        self._functions: dict[Any, Any] = {}
        self._constants: dict[Any, tuple[list[Tensor], tuple[int, ...]]] = {}

    def function(self, emit: Any, variant: Variant) -> Any:
        """The compiled function that ``emit_forward`` or ``emit_backward`` prints."""
        key = (emit, variant)
        if key not in self._functions:
            self._functions[key] = load(emit(self.program, variant)).run
        return self._functions[key]

    def params(self, neuron: Any, step: torch.Size, dtype: torch.dtype) -> tuple[list[Tensor], tuple[int, ...]]:
        """The values that the kernels take, by torch from the neuron's numbers, and which are powers of two."""
        modules = (neuron, neuron.surrogate)
        if not all(is_float for module in modules for is_float in module._declared.values()):
            return self._evaluate(neuron, step, dtype), ()
        key = (dtype, *(getattr(m, name).item() for m in modules for name in m._declared))
        if key not in self._constants:
            if len(self._constants) > 100:
                self._constants.clear()
            with torch.inference_mode(False):
                values = self._evaluate(neuron, step, dtype)
            powers = (i for i, v in zip(self.layout.backward_params, values, strict=True) if _power_of_two(v.item()))
            self._constants[key] = values, tuple(i for i in powers if i in self.layout.divisors)
        return self._constants[key]

    def _evaluate(self, neuron: Any, step: torch.Size, dtype: torch.dtype) -> list[Tensor]:
        numbers = {name: neuron.broadcast(name, step, dtype) for name in neuron._declared}
        for name in neuron.surrogate._declared:
            numbers[f"surrogate.{name}"] = neuron.surrogate.broadcast(name, step, dtype)
        wanted = list(self.layout.backward_params)
        values = self.program.evaluate_numbers(numbers, wanted)
        return [values[i].to(dtype) for i in wanted]


def _power_of_two(value: float) -> bool:
    return math.isfinite(value) and abs(math.frexp(value)[0]) == 0.5 and 1e-30 < abs(value) < 1e30


def kernels_of(neuron: Any, inputs: int = 1) -> Kernels | str:
    """The kernels of a neuron, or why there are none."""
    try:
        key = _key(neuron, inputs)
        if key not in _kernels:
            _kernels[key] = _find(neuron, inputs, key)
        return _kernels[key]
    except TypeError as error:
        return f"an attribute that dynamics may read is not hashable: {error}"


def _find(neuron: Any, inputs: int, key: Any) -> Kernels | str:
    """The kernels of a stored program, or of one traced now."""
    name = store.fingerprint(key)
    program = store.read(name) if name else None
    if program is None:
        from .trace import RefusedError, trace  # imports much of torch: only where it is needed

        try:
            program = trace(neuron, ("x",) if inputs == 1 else tuple(f"x{k}" for k in range(inputs)))
        except RefusedError as error:
            return str(error)
        if name:
            store.write(name, program)
    return Kernels(program)


def _key(neuron: Any, inputs: int) -> Any:
    """Everything a program depends on."""
    parts: list[Any] = [inputs]
    for module in (neuron, neuron.surrogate):
        public = tuple(
            (name, value)
            for name, value in module.__dict__.items()
            if name[0] != "_" and name != "training" and not isinstance(value, _UNDECLARED)
        )
        kind: Any = type(module)
        constants = tuple(names.get(name) for names, name in store.plain_globals(kind))
        parts += [type(module), getattr(type(module), "dynamics", None), tuple(module._declared), public, constants]
    key = (*parts, tuple(neuron._rest))
    hash(key)
    return key


@dataclass(frozen=True)
class Plan:
    """How one call lies in memory."""

    kernels: Kernels
    order: tuple[int, ...]
    shape: tuple[int, ...]
    T: int
    dtype: torch.dtype
    repeated: tuple[bool, ...]
    param_shapes: tuple[tuple[int, int], ...]
    exact: tuple[int, ...]
    lengths: bool

    @property
    def N(self) -> int:  # noqa: N802  # the number of neurons
        return math.prod(self.shape)

    def to_memory(self, x: Tensor) -> Tensor:
        """Logical ``[..., step]`` to memory order."""
        lead = x.ndim - len(self.order)
        return x.permute(*range(lead), *(lead + o for o in self.order))

    def to_logical(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`to_memory`."""
        lead = x.ndim - len(self.order)
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return x.permute(*range(lead), *(lead + i for i in inverse))

    def empty(self, *lead: int, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised tensor ``[*lead, step]`` in memory order."""
        return torch.empty((*lead, *(self.shape[o] for o in self.order)), dtype=dtype or self.dtype)

    def variant(self, *, record: bool, wanted: tuple[int, ...] = (), x_grads: tuple[str, ...] = ()) -> Variant:
        """The kernel that this call needs."""
        numbers = zip(self.kernels.layout.backward_params, self.param_shapes, strict=True)
        scalars = tuple(i for i, (size, _) in numbers if size == 1)
        ctype = "double" if self.dtype == torch.float64 else "float"
        return Variant(ctype, self.lengths, scalars, self.exact, record, wanted, x_grads)

    def integers(self, xs: tuple[Tensor, ...], gstride: int, params: tuple[int, ...]) -> Any:
        threads = 1 if self.N * self.T < _SMALL else torch.get_num_threads()
        shapes = dict(zip(self.kernels.layout.backward_params, self.param_shapes, strict=True))
        strides = [0 if r or self.T == 1 else x.stride(0) for x, r in zip(xs, self.repeated, strict=True)]
        values = [self.N, self.T, math.prod(self.shape[1:]), threads, *strides, gstride]
        for i in params:
            values += shapes[i]
        return (ctypes.c_int64 * len(values))(*values)


def run(
    kernels: Kernels,
    neuron: Any,
    xs: tuple[Tensor, ...],
    repeated: tuple[bool, ...],
    T: int,
    states: tuple[Tensor, ...],
    lengths: Tensor | None,
    record: tuple[int, ...],
    dtype: torch.dtype,
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What :func:`spikeloom.kernel.scan` returns. ``xs`` are ``[T, B, *]``, or ``[B, *]`` where ``repeated``."""
    step = xs[0].shape if repeated[0] else xs[0].shape[1:]
    plan, xs, params = _plan(neuron, kernels, xs, repeated, T, step, dtype, lengths)
    states = tuple(plan.to_memory(s).contiguous() for s in states)
    tensors = (*xs, *states, *params)
    saving = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if saving:
        out = _Scan.apply(plan, lengths, record, *tensors)  # type: ignore[no-untyped-call]
    else:
        out, _ = _run_forward(plan, lengths, record, tensors, saving=False)
    n = len(states)
    y, final, recorded = out[0], out[1 : 1 + n], out[1 + n : 1 + n + len(record)]
    return plan.to_logical(y), tuple(map(plan.to_logical, final)), tuple(map(plan.to_logical, recorded))


def _plan(
    neuron: Any,
    kernels: Kernels,
    xs: tuple[Tensor, ...],
    repeated: tuple[bool, ...],
    T: int,
    step: torch.Size,
    dtype: torch.dtype,
    lengths: Tensor | None,
) -> tuple[Plan, tuple[Tensor, ...], tuple[Tensor, ...]]:
    first = xs[0] if repeated[0] else xs[0][0]
    order = tuple(range(len(step)))
    if not first.is_contiguous() and len(step) in _ORDERS:
        last = _ORDERS[len(step)]
        order = last if first.permute(last).is_contiguous() else order
    shapes, params = [], []
    values, exact = kernels.params(neuron, step, dtype)
    for value in values:
        tensor, shape = _param(value, step, order)
        params.append(tensor)
        shapes.append(shape)
    plan = Plan(kernels, order, tuple(step), T, dtype, repeated, tuple(shapes), exact, lengths is not None)
    ready = []
    for x, r in zip(xs, repeated, strict=True):
        x = plan.to_memory(x.to(dtype))
        dense = (x if r else x[0]).is_contiguous() and (r or T == 1 or x.stride(0) == 0 or x.stride(0) >= plan.N)
        ready.append(x if dense else x.contiguous())
    return plan, tuple(ready), tuple(params)


def _param(value: Tensor, step: torch.Size, order: tuple[int, ...]) -> tuple[Tensor, tuple[int, int]]:
    """A number value as the kernel takes it, flat in memory order, with (size, inner)."""
    per_sample = step[1:]
    full = (1,) * (len(per_sample) - value.ndim) + tuple(value.shape)
    varying = [d for d, n in enumerate(full) if n > 1]
    if not varying:
        return value.reshape(1), (1, 1)
    memory = [o - 1 for o in order[1:]]
    if len(varying) == 1:
        d = varying[0]
        after = memory[memory.index(d) + 1 :]
        return value.reshape(-1), (full[d], math.prod(per_sample[k] for k in after))
    flat = value.reshape(full).expand(per_sample).permute(*memory).reshape(-1)
    return flat, (flat.numel(), 1)


def sources(kernels: Kernels, neuron: Any, x: Tensor, dtype: torch.dtype) -> str:
    """C source of the forward and the backward kernel for an input."""
    plan, _, params = _plan(neuron, kernels, (x,), (False,), x.shape[0], x.shape[1:], dtype, None)
    learned = [i for i, p in zip(kernels.layout.backward_params, params, strict=True) if p.requires_grad]
    backward = plan.variant(record=False, wanted=tuple(learned), x_grads=("steps",))
    return emit_forward(kernels.program, plan.variant(record=False)) + emit_backward(kernels.program, backward)


def _pointer(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def _call(function: Any, pointers: list[Tensor | None], integers: Any) -> None:
    function((ctypes.c_void_p * len(pointers))(*map(_pointer, pointers)), integers)


class _Scan(torch.autograd.Function):
    """The forward kernel; tensors are xs, start states and params in memory order.

    Functions with a context in ``forward`` cannot be used by torch.func, which never comes here, and cost less.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, lengths: Tensor | None, record: tuple[int, ...], *tensors: Tensor) -> Any:
        outputs, checkpoints = _run_forward(plan, lengths, record, tensors, saving=True)
        ctx.plan, ctx.lengths, ctx.record = plan, lengths, record
        ctx.save_for_backward(*tensors, *checkpoints)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        args = (ctx.plan, ctx.lengths, ctx.record, ctx.needs_input_grad[3:], len(grads), *grads, *ctx.saved_tensors)
        return (None, None, None, *_ScanBackward.apply(*args))  # type: ignore[no-untyped-call]


def _run_forward(
    plan: Plan, lengths: Tensor | None, record: tuple[int, ...], tensors: tuple[Tensor, ...], *, saving: bool
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """Runs the forward kernel: (out, final states, recordings) and, when saving, the checkpoints."""
    n_x, n_s = len(plan.repeated), len(plan.kernels.program.states)
    xs, states, params = tensors[:n_x], tensors[n_x : n_x + n_s], tensors[n_x + n_s :]
    by_id = dict(zip(plan.kernels.layout.backward_params, params, strict=True))
    out, final = plan.empty(plan.T), [plan.empty() for _ in states]
    recordings = {k: plan.empty(plan.T) for k in record}
    segments = (plan.T - 1) // SEGMENT
    checkpoints = [plan.empty(segments) for _ in states] if saving and segments else []
    kept: list[Tensor | None] = [*checkpoints] if checkpoints else [None] * n_s
    used = plan.kernels.layout.forward_params
    pointers = [*xs, *states, out, *final, *(recordings.get(k) for k in range(n_s)), *kept, lengths]
    pointers += [by_id[i] for i in used]
    function = plan.kernels.function(emit_forward, plan.variant(record=bool(record)))
    _call(function, pointers, plan.integers(xs, 0, used))
    return (out, *final, *(recordings[k] for k in record)), checkpoints


class _ScanBackward(torch.autograd.Function):
    """The backward kernel; it cannot be differentiated again."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, lengths: Tensor | None, record: Any, needs: Any, n_grads: int, *tensors: Any
    ) -> Any:
        ctx.set_materialize_grads(False)
        n_x, n_s, n_p = len(plan.repeated), len(plan.kernels.program.states), len(plan.kernels.layout.backward_params)
        upstream, saved = tensors[:n_grads], tensors[n_grads:]
        xs, states, params = saved[:n_x], saved[n_x : n_x + n_s], saved[n_x + n_s : n_x + n_s + n_p]
        checkpoints: list[Tensor | None] = list(saved[n_x + n_s + n_p :]) or [None] * n_s
        gout, gstride = _upstream(upstream[0])
        g_final = [None if g is None else g.contiguous() for g in upstream[1 : 1 + n_s]]
        g_record: dict[int, Tensor | None] = {
            k: None if g is None else g.contiguous() for k, g in zip(record, upstream[1 + n_s :], strict=True)
        }
        gx = [(plan.empty() if r else plan.empty(plan.T)) if needs[k] else None for k, r in enumerate(plan.repeated)]
        gs = [plan.empty() if needs[n_x + k] else None for k in range(n_s)]
        numbers = plan.kernels.layout.backward_params
        wanted = tuple(
            i for k, i in enumerate(numbers) if needs[n_x + n_s + k] and i in plan.kernels.layout.differentiable
        )
        sums = {i: plan.empty(dtype=torch.float64) for i in wanted}
        pointers = [*xs, *states, *checkpoints, lengths, *params, gout, *g_final]
        pointers += [g_record.get(k) for k in range(n_s)] + [*gx, *gs, *sums.values()]
        x_grads = tuple(
            "none" if g is None else "sum" if r else "steps" for g, r in zip(gx, plan.repeated, strict=True)
        )
        variant = plan.variant(record=any(g is not None for g in g_record.values()), wanted=wanted, x_grads=x_grads)
        _call(plan.kernels.function(emit_backward, variant), pointers, plan.integers(xs, gstride, numbers))
        shapes = dict(zip(numbers, plan.param_shapes, strict=True))
        gp = [
            _reduce(sums[i], shapes[i]).to(p.dtype) if i in sums else None for i, p in zip(numbers, params, strict=True)
        ]
        return (*gx, *gs, *gp)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            "second derivatives are not available from C kernels; run the forward pass in `with sl.backend('eager'):`"
        )


def _upstream(g: Tensor | None) -> tuple[Tensor | None, int]:
    """The output's gradient with dense steps, and its time stride: 0 where it is the same at every step."""
    if g is None:
        return None, 0
    if g.stride(0) == 0 and g.shape[0] > 1:
        return g[0].contiguous(), 0
    n = math.prod(g.shape[1:])
    if not (g[0].is_contiguous() and g.stride(0) >= n):
        g = g.contiguous()
    return g, n if g.shape[0] == 1 else g.stride(0)


def _reduce(per_neuron: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sums the gradient of each neuron to that of a param of (size, inner)."""
    size, inner = shape
    return per_neuron.reshape(-1, size, inner).sum((0, 2))
