"""launch: runs a request with kernels, forward and for autograd.

Every tensor that a kernel reads or writes is an operand with a name, see :class:`spikeloom.kernel.variant.Layout`.
What autograd saves are operands by name, and gradients go back by the names of their operands.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .compiled import Kernels
from .norm import Geometry, Moments, Norm, in_one, running
from .plan import Plan, in_memory, plan_of, to_logical
from .request import AsSpikes, Found, Request, is_one_value
from .target import Launch, Operands, Target

Step = Callable[[Tensor, list[Tensor]], list[Tensor]]
"""Runs one step: takes the input and the states, returns the new states."""


class Job(NamedTuple):
    """A call of kernels without the tensors that autograd sees: what its backward pass has to know."""

    target: Target
    plan: Plan
    segment: int
    """How many steps lie between two states that are kept."""
    outputs: tuple[str, ...]
    """Names of the output, the final states and the recordings that are asked for."""
    as_spikes: AsSpikes | None = None
    joined: tuple[Norm, Moments] | None = None
    """A batch norm, whose scale and shift come from the moments."""
    constants: Mapping[str, Tensor] = {}
    """Operands that nobody writes to and that have no gradient."""


def run(target: Target, kernels: Kernels, neuron: Any, request: Request) -> Found:
    """The answer to a request by kernels; where it has a norm, it is one :func:`with_moments`."""
    layout, norm, moments, lengths = kernels.layout, request.norm, request.moments, request.lengths
    joined = None if norm is None or moments is None else (norm, moments)
    affine = () if moments is None else moments[-2:]
    numbers = kernels.operands(neuron, request.step, request.dtype, affine, inside=target.inside)
    rest = tuple(map(is_one_value, request.states))
    plan, operands = plan_of(kernels, request, numbers, rest)
    for name, state, one in zip(layout.start, request.states, plan.rest, strict=True):
        if one and target.inside:  # such a kernel reads a value of any dtype
            operands[name] = state.as_strided((), ())
        else:
            state = state.as_strided((), ()) if one else plan.to_memory(state)
            operands[name] = state.to(request.dtype).contiguous()
    operands["lens"] = None if lengths is None else lengths.contiguous()
    if joined is not None:
        operands.update(weight=joined[0].weight, bias=joined[0].bias)
    outputs = ("out", *layout.final, *[layout.recorded[k] for k in request.record])
    job = Job(target, plan, target.segment_of(plan), outputs, request.as_spikes, joined, numbers.constants)
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad and name in plan.leaves for name, t in operands.items()
    ):
        found = _Scan.apply(job, tuple(operands), *operands.values())  # type: ignore[no-untyped-call]
    else:
        made = forward(job, operands, saving=False)
        found = [made[name] for name in outputs]
    y, *others = found if plan.natural else map(plan.to_logical, found)
    n = len(request.states)
    return y if y.dtype == request.out_dtype else y.to(request.out_dtype), tuple(others[:n]), tuple(others[n:])


def with_moments(target: Target, request: Request) -> Request:
    """The request with the moments for its norm, if it has one, and with x as they were taken from it.

    The batch norm ran with that: its running statistics have moved.
    """
    if request.norm is None:
        return request
    order, _, (x,) = in_memory(request)
    moments = target.moments(request.norm, Geometry.of(x, order), x, order)
    return request._replace(tensors=(to_logical(x, order),), moments=moments)


def step_of(target: Target, kernels: Kernels, neuron: Any, request: Request) -> tuple[Tensor, Step] | None:
    """How to run a step of inputs like those of a request for one, without gradient, over and over: the tensor that
    each step writes its output to, and what runs one.

    The norm of the request, if it has one, has statistics of its own. None where x would have to be copied.
    """
    (x,), (at,), norm = request.tensors, kernels.layout.xs, request.norm
    affine = () if norm is None else running(norm, request.dtype)[-2:]
    numbers = kernels.operands(neuron, request.step, request.dtype, affine, inside=target.inside)
    plan, operands = plan_of(kernels, request, numbers)
    ready = operands[at]
    if ready is None or ready.data_ptr() != x.data_ptr():
        return None
    bits, segment = request.as_spikes is not None, target.segment_of(plan)
    launch, packs = _forward_kernel(target, plan, segment, record=False, bits=bits, kept=False)
    out = torch.empty(plan.N // 8, dtype=torch.uint8, device=plan.device) if packs else plan.empty(dtype=plan.io)
    y = request.as_spikes(out, plan.memory_shape, plan.io) if packs and request.as_spikes is not None else out
    start, final = kernels.layout.start, kernels.layout.final
    fixed: Operands = {**kernels.layout.may_lack, **numbers.constants, **operands, "out": out, "lens": None}

    def run(x: Tensor, states: list[Tensor]) -> list[Tensor]:
        operands, new = {**fixed, at: x}, [plan.empty() for _ in final]
        for before, after, state, made in zip(start, final, states, new, strict=True):
            operands[before], operands[after] = plan.to_memory(state.to(plan.dtype)).contiguous(), made
        launch(operands)
        return new if plan.natural else [plan.to_logical(s) for s in new]

    return plan.to_logical(y), run


def sources(target: Target, kernels: Kernels, neuron: Any, request: Request) -> str:
    """The source of the forward and the backward kernel for a request."""
    numbers = kernels.operands(neuron, request.step, request.dtype)
    plan, _ = plan_of(kernels, request, numbers)
    learned = tuple(i for i, name in kernels.layout.params.items() if numbers.values[name].requires_grad)
    backward = plan.variant(record=False, wanted=learned, x_grads=("steps",))
    return target.sources(plan, plan.variant(record=False), backward)


class _Scan(torch.autograd.Function):
    """The kernels as a function of the operands ``names`` that autograd differentiates.

    Functions with a context in ``forward`` cannot be used by torch.func, which never comes here, and cost less.
    """

    @staticmethod
    def forward(ctx: Any, job: Job, names: tuple[str, ...], *tensors: Tensor | None) -> Any:
        operands = dict(zip(names, tensors, strict=True))
        made = forward(job, operands, saving=True)
        if not job.plan.uniform:
            needs = _needed(ctx, names)
            constant = [made[name] for name in job.outputs if job.plan.depends[name].isdisjoint(needs)]
            ctx.mark_non_differentiable(*constant)
        operands.pop("bias", None)  # which no gradient needs
        operands.update((name, made[name]) for name in job.plan.kernels.layout.kept if name in made)
        ctx.job, ctx.names, ctx.saved = job, names, tuple(operands)
        ctx.save_for_backward(*operands.values())
        ctx.set_materialize_grads(False)
        return tuple([made[name] for name in job.outputs])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        job, names, gradient = ctx.job, ctx.names, ctx.job.plan.kernels.layout.gradient
        needs = _needed(ctx, names)
        given = (*(gradient[name] for name in job.outputs), *ctx.saved)

        def run_kernel(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
            found = backward(job, dict(zip(given, tensors, strict=True)), needs)
            return tuple([found.get(name) for name in names])

        tensors = (*grads, *ctx.saved_tensors)
        if not torch.is_grad_enabled():  # nobody asks for second derivatives, and what refuses them costs as much again
            return (None, None, *run_kernel(*tensors))
        return (None, None, *Once.apply(run_kernel, *tensors))  # type: ignore[no-untyped-call]


def _needed(ctx: Any, names: tuple[str, ...]) -> set[str]:
    """The operands that autograd wants a gradient of."""
    return {name for name, needed in zip(names, ctx.needs_input_grad[2:], strict=True) if needed}


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


@functools.lru_cache(maxsize=1024)
def _forward_kernel(
    target: Target, plan: Plan, segment: int, *, record: bool, bits: bool, kept: bool
) -> tuple[Launch, bool]:
    """The forward kernel of a plan, and whether it writes bits: where they are asked for and a step is whole bytes."""
    packs = bits and plan.N % 8 == 0 and target.packs(plan.kernels.program)
    return target.forward(plan, plan.variant(record=record, packed=packs), segment, kept), packs


@functools.lru_cache(maxsize=1024)
def _backward_kernel(
    job: tuple[Target, Plan, int],
    gstride: int,
    *,
    record: bool,
    wanted: tuple[int, ...],
    x_grads: tuple[str, ...],
    ends: bool,
) -> Launch:
    """The backward kernel of a plan; the arguments are those of Plan.variant and Target.backward."""
    target, plan, segment = job
    return target.backward(plan, plan.variant(record=record, wanted=wanted, x_grads=x_grads), segment, gstride, ends)


@functools.lru_cache(maxsize=1024)
def _reached(plan: Plan, outputs: tuple[str, ...]) -> frozenset[str]:
    """The operands that get a gradient from those of some outputs."""
    return frozenset(plan.kernels.layout.active.intersection(chain.from_iterable(plan.depends[o] for o in outputs)))


def forward(job: Job, operands: Operands, *, saving: bool) -> dict[str, Tensor]:
    """Runs the forward kernel; returns by name the outputs of a job and, when saving, the states that are kept."""
    plan, layout = job.plan, job.plan.kernels.layout
    record = job.outputs[1 + len(layout.final) :]
    segments = (plan.T - 1) // job.segment if saving and layout.kept else 0
    launch, packs = _forward_kernel(
        job.target, plan, job.segment, record=bool(record), bits=job.as_spikes is not None, kept=segments > 0
    )
    if packs:
        out = torch.empty(plan.T * plan.N // 8, dtype=torch.uint8, device=plan.device)
    else:
        out = plan.empty(plan.T, dtype=plan.io)
    made = {"out": out}
    for name in layout.final:
        made[name] = plan.empty()
    for name in record:
        made[name] = plan.empty(plan.T)
    for name in layout.kept if segments else ():
        made[name] = plan.empty(segments)
    launch({**layout.may_lack, **job.constants, **operands, **made})
    if packs and job.as_spikes is not None:
        made["out"] = job.as_spikes(out, (plan.T, *plan.memory_shape), plan.io)
    return made


def backward(job: Job, operands: Operands, needs: set[str]) -> dict[str, Tensor]:
    """Runs the backward kernel; returns the gradients of those of ``needs`` that have one, by the operand's name.

    ``operands`` are those of the forward kernel, the states that it kept, and the upstream gradients.
    """
    plan, layout, target = job.plan, job.plan.kernels.layout, job.target
    gradient = layout.gradient
    upstream = {name: g for name in job.outputs if (g := operands[gradient[name]]) is not None}
    reached = _reached(plan, tuple(upstream))
    needs = needs & reached
    given: Operands = {**layout.may_lack, **job.constants, **operands}
    for name, g in upstream.items():
        given[gradient[name]] = g if name == "out" else g.contiguous()
    given["gout"], gstride = _upstream(operands["gout"], plan.io)
    found = {name: plan.empty() for name in layout.start if name in needs}
    x_grads = []
    for name, repeated in zip(layout.xs, plan.repeated, strict=True):
        x_grads.append("none" if name not in needs else "sum" if repeated else "steps")
        if name in needs:
            found[name] = plan.empty() if repeated else plan.empty(plan.T, dtype=plan.io)
    norm = job.joined[0] if job.joined is not None and reached.issuperset(layout.norm) else None
    through = norm is not None and (norm.batch or not needs.isdisjoint(("weight", "bias")))
    asked = needs.union(layout.norm) if through else needs
    sums = {i: target.sums(plan, i) for i, name in layout.params.items() if name in asked}
    for name, g in found.items():
        given[gradient[name]] = g
    for i, g in sums.items():
        given[gradient[layout.params[i]]] = g
    recorded = not upstream.keys().isdisjoint(layout.recorded)
    ends = not upstream.keys().isdisjoint(layout.final) or not needs.isdisjoint(layout.start)
    launch = _backward_kernel(
        (target, plan, job.segment), gstride, record=recorded, wanted=tuple(sums), x_grads=tuple(x_grads), ends=ends
    )
    launch(given)
    parts = {layout.params[i]: g for i, g in sums.items()}
    if through:
        found.update(_through_norm(job, operands, parts, found.get(layout.xs[0])))
    for name in needs & parts.keys():
        found[name] = _like(operands[name], in_one(parts[name]))
    for name, repeated in zip(layout.xs, plan.repeated, strict=True):
        if repeated and name in found:
            found[name] = found[name].to(plan.io)
    return found


def _through_norm(job: Job, operands: Operands, parts: dict[str, Tensor], gx: Tensor | None) -> dict[str, Tensor]:
    """The gradients of a batch norm's weight and bias; corrects the gradient of x where the moments are those of x.

    ``parts`` are those of the gradients of scale and shift.
    """
    assert job.joined is not None
    (norm, moments), layout, target = job.joined, job.plan.kernels.layout, job.target
    x, (g_scale, g_shift) = operands[layout.xs[0]], [parts[name] for name in layout.norm]
    correction = norm.batch and gx is not None
    *found, slope, offset = target.slopes(norm, moments, g_scale, g_shift, correction=correction)
    if correction and gx is not None and x is not None and slope is not None and offset is not None:
        target.correct(Geometry.of(x, job.plan.order), x, gx, slope, offset)  # gx is dense, x has its own time stride
    pairs = zip(("weight", "bias"), (norm.weight, norm.bias), found, strict=True)
    return {name: _like(p, g) for name, p, g in pairs if p is not None and g is not None}


def _like(number: Tensor | None, g: Tensor) -> Tensor:
    """A gradient in the shape and dtype of what it belongs to."""
    assert number is not None
    return g.reshape(number.shape).to(number.dtype)


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
