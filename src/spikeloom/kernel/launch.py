"""launch: runs a neuron's sequence with its kernels: memory layout, arguments, autograd."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..native.allocator import huge_pages
from .compiled import Kernels
from .norm import correct, gradients, statistics
from .program import NORM
from .request import AsSpikes, Found, Request
from .target import Launch, Target
from .variant import Variant

_ORDERS = {4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}  # channels_last in memory
_IO = {torch.float64: "float64", torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
Step = Callable[[Tensor, list[Tensor]], list[Tensor]]
"""From the input and the states, the new states."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How calls of one kind lie in memory; kept with the kernels, by everything that it depends on."""

    kernels: Kernels
    target: Target
    device: torch.device
    order: tuple[int, ...]
    shape: tuple[int, ...]
    T: int
    dtype: torch.dtype
    """Of states and params."""
    io: torch.dtype
    """Of inputs and outputs."""
    repeated: tuple[bool, ...]
    strides: tuple[int, ...]
    """Of xs in time."""
    sizes: dict[int, tuple[int, int]]
    """(size, inner) of each param."""
    exact: tuple[int, ...]
    lengths: bool
    threads: int

    @cached_property
    def N(self) -> int:  # noqa: N802  # the number of neurons
        return math.prod(self.shape)

    @cached_property
    def packs(self) -> bool:
        """Whether the forward kernel can write bits: a step must be whole bytes."""
        return self.N % 8 == 0 and self.target.packs(self.kernels.program)

    @cached_property
    def natural(self) -> bool:
        """Whether memory has the order of the dimensions."""
        return self.order == tuple(range(len(self.order)))

    @cached_property
    def memory_shape(self) -> tuple[int, ...]:
        """One step in memory order."""
        return tuple(self.shape[o] for o in self.order)

    def to_memory(self, x: Tensor) -> Tensor:
        """Logical ``[..., step]`` to memory order."""
        if self.natural:
            return x
        lead = x.ndim - len(self.order)
        return x.permute(*range(lead), *(lead + o for o in self.order))

    def to_logical(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`to_memory`."""
        if self.natural:
            return x
        lead = x.ndim - len(self.order)
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return x.permute(*range(lead), *(lead + i for i in inverse))

    def empty(self, *lead: int, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised tensor ``[*lead, step]`` in memory order."""
        made = torch.empty((*lead, *self.memory_shape), dtype=dtype or self.dtype, device=self.device)
        if self.device.type == "cpu":
            huge_pages(made)
        return made

    def variant(
        self, *, record: bool, wanted: tuple[int, ...] = (), x_grads: tuple[str, ...] = (), packed: bool = False
    ) -> Variant:
        """The kernel that a call needs."""
        scalars = tuple(i for i, (size, _) in self.sizes.items() if size == 1)
        return Variant(_IO[self.io], self.lengths, scalars, self.exact, record, wanted, x_grads, packed)

    @functools.lru_cache(maxsize=64)  # noqa: B019  # plans live as long as the process, like their kernels
    def forward(self, record: bool, packed: bool) -> Launch:
        """The forward kernel."""
        return self.target.forward(self, record, packed)

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def backward(self, gstride: int, record: bool, wanted: tuple[int, ...], x_grads: tuple[str, ...]) -> Launch:
        """The backward kernel; ``gstride``: of the output's gradient in time."""
        return self.target.backward(self, gstride, self.variant(record=record, wanted=wanted, x_grads=x_grads))


def run(target: Target, kernels: Kernels, neuron: Any, request: Request) -> Found:
    """The answer to a request by kernels."""
    norm, moments = request.norm, None
    learned: tuple[Tensor | None, ...] = (None, None)
    constants: tuple[Tensor, ...] = ()
    if norm is not None:
        kernels = kernels.normed
        if norm.batch:
            order, _, tensors = layout_of(request)
            moments = statistics(target, tensors[0], order)
            logical = tensors[0].permute(0, *(1 + order.index(d) for d in range(len(order))))
            request = dataclasses.replace(request, tensors=(logical,))
            learned = (norm.weight, norm.bias)
        constants = norm.affine(moments)
    values, exact = kernels.params(neuron, request.step, request.dtype, constants)
    plan, ready, params = plan_of(target, kernels, request, values, exact)
    args = (*ready, *(plan.to_memory(s).contiguous() for s in request.states), *params)
    lengths = None if request.lengths is None else request.lengths.contiguous()
    record, as_spikes = request.record, request.as_spikes
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (*args, *learned)):
        saved = None if norm is None or moments is None else (*moments, norm)
        out = _Scan.apply(plan, lengths, record, as_spikes, saved, *learned, *args)  # type: ignore[no-untyped-call]
    else:
        out, _ = forward(plan, lengths, record, args, saving=False, as_spikes=as_spikes)
    if norm is not None and moments is not None:
        norm.track(moments)
    n = len(request.states)
    y, final, recorded = out[0], out[1 : 1 + n], out[1 + n : 1 + n + len(record)]
    if not plan.natural:
        y, final, recorded = (
            plan.to_logical(y),
            tuple(map(plan.to_logical, final)),
            tuple(map(plan.to_logical, recorded)),
        )
    return y if y.dtype == request.out_dtype else y.to(request.out_dtype), final, recorded


def step_of(target: Target, kernels: Kernels, neuron: Any, request: Request) -> tuple[Tensor, Step] | None:
    """A step of inputs like those of a request for one, without gradient: where each step writes its output, and what
    runs it.

    Its norm, if there is one, has statistics of its own. None where x would have to be copied.
    """
    x, as_spikes = request.tensors[0], request.as_spikes
    constants: tuple[Tensor, ...] = ()
    if request.norm is not None:
        kernels, constants = kernels.normed, request.norm.affine(None)
    values, exact = kernels.params(neuron, request.step, request.dtype, constants)
    plan, ready, params = plan_of(target, kernels, request, values, exact)
    if ready[0].data_ptr() != x.data_ptr():
        return None
    by_id = dict(zip(kernels.layout.backward_params, params, strict=True))
    n_s, packs = len(kernels.program.states), as_spikes is not None and plan.packs
    out = torch.empty(plan.N // 8, dtype=torch.uint8, device=plan.device) if packs else plan.empty(dtype=plan.io)
    after = [*(None for _ in range(2 * n_s + 1)), *(by_id[i] for i in kernels.layout.forward_params)]
    launch = plan.forward(False, packs)
    y = as_spikes(out, plan.memory_shape, plan.io) if as_spikes is not None and packs else out

    def run(x: Tensor, states: list[Tensor]) -> list[Tensor]:
        new = [plan.empty() for _ in states]
        if plan.natural:
            launch([x, *[s.contiguous() for s in states], out, *new, *after])
            return new
        launch([x, *[plan.to_memory(s).contiguous() for s in states], out, *new, *after])
        return [plan.to_logical(s) for s in new]

    return plan.to_logical(y), run


def plan_of(
    target: Target, kernels: Kernels, request: Request, values: list[Tensor], exact: tuple[int, ...]
) -> tuple[Plan, tuple[Tensor, ...], list[Tensor]]:
    """The plan of a request, its inputs and its params as the kernels take them."""
    xs, repeated, T, step, dtype = request.tensors, request.repeated, request.T, request.step, request.dtype
    threads, ragged = torch.get_num_threads(), request.lengths is not None
    key = (target, request.device, T, dtype, repeated, exact, ragged, threads,
           *((x.shape, x.stride(), x.dtype) for x in xs), *(v.shape for v in values))  # fmt: skip
    plan = kernels.plans.get(key)
    if plan is None:
        order, io, ready = layout_of(request)
        shapes = (_param(value, step, order)[1] for value in values)
        sizes = dict(zip(kernels.layout.backward_params, shapes, strict=True))
        strides = tuple(0 if r or T == 1 else x.stride(0) for x, r in zip(ready, repeated, strict=True))
        plan = Plan(
            kernels, target, request.device, order, tuple(step), T, dtype, io, repeated, strides, sizes, exact, ragged,
            threads,
        )  # fmt: skip
        if len(kernels.plans) > 256:
            kernels.plans.clear()
        kernels.plans[key] = plan
    else:
        ready = xs
        if not (plan.natural and len(xs) == 1 and xs[0].dtype == plan.io and xs[0].is_contiguous()):
            _, _, ready = layout_of(request)
    params = [v if v.numel() == 1 else _param(v, step, plan.order)[0] for v in values]
    return plan, ready, params


def sources(target: Target, kernels: Kernels, neuron: Any, request: Request) -> str:
    """Source of the forward and the backward kernel for an input."""
    values, exact = kernels.params(neuron, request.step, request.dtype)
    plan, _, _ = plan_of(target, kernels, request, values, exact)
    learned = tuple(i for i, p in zip(kernels.layout.backward_params, values, strict=True) if p.requires_grad)
    backward = plan.variant(record=False, wanted=learned, x_grads=("steps",))
    return target.sources(plan, plan.variant(record=False), backward)


def layout_of(request: Request) -> tuple[tuple[int, ...], torch.dtype, tuple[Tensor, ...]]:
    """Order of dimensions in memory, dtype of inputs and outputs, and the inputs as the kernels take them."""
    xs, repeated, T, step = request.tensors, request.repeated, request.T, request.step
    first = xs[0] if repeated[0] else xs[0][0]
    order = natural = tuple(range(len(step)))
    if not first.is_contiguous() and len(step) in _ORDERS:
        last = _ORDERS[len(step)]
        order = last if first.permute(last).is_contiguous() else order
    same = xs[0].dtype in _IO and all(x.dtype == xs[0].dtype for x in xs)
    io, N = xs[0].dtype if same else request.dtype, math.prod(step)
    ready = []
    for x, r in zip(xs, repeated, strict=True):
        if x.dtype != io:
            x = x.to(io)
        if order != natural:
            x = x.permute(order) if r else x.permute(0, *(1 + o for o in order))
        dense = x.is_contiguous() or (
            not r and x[0].is_contiguous() and (T == 1 or x.stride(0) == 0 or x.stride(0) >= N)
        )
        ready.append(x if dense else x.contiguous())
    return order, io, tuple(ready)


def _param(value: Tensor, step: torch.Size, order: tuple[int, ...]) -> tuple[Tensor, tuple[int, int]]:
    """A number value as the kernel takes it, flat in memory order, with (size, inner)."""
    if value.numel() == 1:
        return value, (1, 1)
    per_sample = step[1:]
    full = (1,) * (len(per_sample) - value.ndim) + tuple(value.shape)
    varying = [d for d, n in enumerate(full) if n > 1]
    memory = [o - 1 for o in order[1:]]
    if len(varying) == 1:
        d = varying[0]
        after = memory[memory.index(d) + 1 :]
        return value.reshape(-1), (full[d], math.prod(per_sample[k] for k in after))
    flat = value.reshape(full).expand(per_sample).permute(*memory).reshape(-1)
    return flat, (flat.numel(), 1)


class _Scan(torch.autograd.Function):
    """The forward kernel; tensors are xs, start states and params in memory order.

    ``norm``: mean and variance of the batch (doubles) and the Norm whose program this is, where x decides its scale and
    shift; ``weight`` and ``bias`` are its parameters.

    Functions with a context in ``forward`` cannot be used by torch.func, which never comes here, and cost less.
    """

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, lengths: Tensor | None, record: tuple[int, ...], as_spikes: AsSpikes | None, norm: Any,
        weight: Any, bias: Any, *tensors: Tensor,
    ) -> Any:  # fmt: skip
        outputs, checkpoints = forward(plan, lengths, record, tensors, saving=True, as_spikes=as_spikes)
        ctx.plan, ctx.lengths, ctx.record, ctx.norm = plan, lengths, record, norm
        ctx.save_for_backward(weight, *tensors, *checkpoints)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        weight, *saved = ctx.saved_tensors
        needs = ctx.needs_input_grad[5:]

        def run_kernel(*tensors: Any) -> Any:
            upstream, (weight, *saved) = tensors[: len(grads)], tensors[len(grads) :]
            return backward(ctx.plan, ctx.lengths, ctx.record, ctx.norm, needs, upstream, weight, tuple(saved))

        return (None, None, None, None, None, *Once.apply(run_kernel, *grads, weight, *saved))  # type: ignore[no-untyped-call]


class Once(torch.autograd.Function):
    """Runs a function of tensors; it cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], *tensors: Any) -> Any:
        ctx.set_materialize_grads(False)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            "second derivatives are not available from kernels; run the forward pass in `with sl.backend('eager'):`"
        )


def forward(
    plan: Plan,
    lengths: Tensor | None,
    record: tuple[int, ...],
    tensors: tuple[Tensor, ...],
    *,
    saving: bool,
    as_spikes: AsSpikes | None = None,
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """Runs the forward kernel: (out, final states, recordings) and, when saving, the checkpoints."""
    n_x, n_s = len(plan.repeated), len(plan.kernels.program.states)
    xs, states, params = tensors[:n_x], tensors[n_x : n_x + n_s], tensors[n_x + n_s :]
    by_id = dict(zip(plan.kernels.layout.backward_params, params, strict=True))
    if not plan.packs:
        as_spikes = None
    if as_spikes is None:
        out = plan.empty(plan.T, dtype=plan.io)
    else:
        out = torch.empty(plan.T * plan.N // 8, dtype=torch.uint8, device=plan.device)
    final = [plan.empty() for _ in states]
    recordings = {k: plan.empty(plan.T) for k in record}
    segments = (plan.T - 1) // plan.target.segment
    checkpoints = [plan.empty(segments) for _ in states] if saving and segments else []
    kept: list[Tensor | None] = [*checkpoints] if checkpoints else [None] * n_s
    used = plan.kernels.layout.forward_params
    pointers = [*xs, *states, out, *final, *(recordings.get(k) for k in range(n_s)), *kept, lengths]
    pointers += [by_id[i] for i in used]
    plan.forward(bool(record), as_spikes is not None)(pointers)
    if as_spikes is not None:
        out = as_spikes(out, (plan.T, *plan.memory_shape), plan.io)
    return (out, *final, *(recordings[k] for k in record)), checkpoints


def backward(
    plan: Plan, lengths: Tensor | None, record: tuple[int, ...], norm: Any, needs: tuple[bool, ...],
    upstream: tuple[Tensor | None, ...], weight: Tensor | None, saved: tuple[Tensor, ...],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Runs the backward kernel: gradients of the norm's weight and bias, of xs, start states and params."""
    program, numbers = plan.kernels.program, plan.kernels.layout.backward_params
    n_x, n_s, n_p = len(plan.repeated), len(program.states), len(numbers)
    needs_weight, needs_bias, needs = needs[0], needs[1], needs[2:]
    xs, states, params = saved[:n_x], saved[n_x : n_x + n_s], saved[n_x + n_s : n_x + n_s + n_p]
    checkpoints: list[Tensor | None] = list(saved[n_x + n_s + n_p :]) or [None] * n_s
    gout, gstride = _upstream(upstream[0], plan.io)
    g_final = [None if g is None else g.contiguous() for g in upstream[1 : 1 + n_s]]
    g_record: dict[int, Tensor | None] = {
        k: None if g is None else g.contiguous() for k, g in zip(record, upstream[1 + n_s :], strict=True)
    }
    gx = [
        (plan.empty() if r else plan.empty(plan.T, dtype=plan.io)) if needs[k] else None
        for k, r in enumerate(plan.repeated)
    ]
    gs = [plan.empty() if needs[n_x + k] else None for k in range(n_s)]
    at_norm = tuple(len(program.inputs) - 1 - n_s - k for k in (2, 1)) if norm else ()  # the last two numbers
    asked = {i for k, i in enumerate(numbers) if needs[n_x + n_s + k]} | set(at_norm)
    wanted = [i for i in numbers if i in asked and i in plan.kernels.layout.differentiable]
    sums = {i: plan.target.sums(plan, i) for i in wanted}
    pointers = [*xs, *states, *checkpoints, lengths, *params, gout, *g_final]
    pointers += [g_record.get(k) for k in range(n_s)] + [*gx, *gs, *sums.values()]
    x_grads = tuple("none" if g is None else "sum" if r else "steps" for g, r in zip(gx, plan.repeated, strict=True))
    recorded = any(g is not None for g in g_record.values())
    plan.backward(gstride, recorded, tuple(sums), x_grads)(pointers)
    totals = {i: plan.target.total(plan, i, s) for i, s in sums.items()}
    g_weight = g_bias = None
    if norm:
        assert program.numbers[-2:] == NORM
        g_weight, g_bias, slope, offset = gradients(norm[:3], norm[3].eps, weight, *(totals[i] for i in at_norm))
        if gx[0] is not None:
            correct(plan.target, gx[0], xs[0], slope, offset, plan.order)
        g_weight = g_weight.to(weight.dtype) if needs_weight and weight is not None else None
        g_bias = g_bias.to(norm[3].bias.dtype) if needs_bias else None
    gx = [g if g is None or not r else g.to(plan.io) for g, r in zip(gx, plan.repeated, strict=True)]
    gp = [totals[i].reshape(p.shape).to(p.dtype) if i in totals and needs[n_x + n_s + k] else None
          for k, (i, p) in enumerate(zip(numbers, params, strict=True))]  # fmt: skip
    return (g_weight, g_bias, *gx, *gs, *gp)


def _upstream(g: Tensor | None, dtype: torch.dtype) -> tuple[Tensor | None, int]:
    """The output's gradient with dense steps, and its time stride: 0 where it is the same at every step."""
    if g is None:
        return None, 0
    if g.dtype != dtype:
        g = g.to(dtype)
    if g.stride(0) == 0 and g.shape[0] > 1:
        return g[0].contiguous(), 0
    n = math.prod(g.shape[1:])
    if not g.is_contiguous() and not (g[0].is_contiguous() and g.stride(0) >= n):
        g = g.contiguous()
    return g, n if g.shape[0] == 1 else g.stride(0)
