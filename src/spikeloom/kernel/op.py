"""op: a neuron's sequence as one operator, which is what ``torch.compile`` sees of it.

The operator's string is the program itself, so that a compiled graph means the same in another process. The numbers of
the neuron are tensors to it, so that changing one recompiles nothing. It makes contiguous tensors of all that it is
given.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..native.build import BuildError
from . import compiled, launch, store
from .backend import chosen
from .compiled import Kernels, Numbers
from .dtypes import io_dtype, output_dtype, state_dtype
from .plan import plan_of
from .request import Found, Request
from .target import Operands, Target
from .targets import TARGETS, target_for


def program_text(neuron: Any, repeated: tuple[bool, ...], record: tuple[int, ...], device: str, *, u: bool) -> str:
    """The program that Dynamo writes into a graph as an operator, or an empty string where it has to unroll the loop.

    ``repeated`` says which inputs are one step and ``record`` which states to record; both are part of the text. ``u``:
    see Request.
    """
    if chosen() == "eager" or torch._C._functorch.maybe_current_level() is not None:
        return ""
    try:
        target = target_for(torch.device(device))
    except BuildError:
        return ""
    kernels = compiled.kernels_of(neuron, len(repeated), u=u)
    if isinstance(kernels, str):
        return ""
    define()
    return json.dumps([store.dumps(kernels.program), list(repeated), list(record), target.name])


@functools.cache
def _read(text: str) -> tuple[Kernels, tuple[bool, ...], tuple[int, ...], Target]:
    program, repeated, record, target = json.loads(text)
    return Kernels(store.loads(program)), tuple(repeated), record, TARGETS[target]


def _job(
    text: str,
    xs: list[Tensor],
    states: list[Tensor],
    numbers: list[Tensor],
    lengths: Tensor | None,
    T: int,
) -> tuple[launch.Job, Operands]:
    """The call of kernels that an operator stands for, and its operands."""
    kernels, repeated, record, target = _read(text)
    layout, step = kernels.layout, xs[0].shape if repeated[0] else xs[0].shape[1:]
    request = Request(tuple(x.contiguous() for x in xs), repeated, T, step, tuple(states), lengths, record)
    plan, operands = plan_of(kernels, request, Numbers(kernels.evaluate(numbers, request.dtype)))
    operands.update(zip(layout.start, [s.contiguous() for s in states], strict=True), lens=lengths)
    segment = target.segment_at_any(kernels.program, plan.io)
    segment = target.segment_of(plan) if segment >= T else segment  # in a graph T may have any value
    return launch.Job(target, plan, segment, ("out", *layout.final, *(layout.recorded[k] for k in record))), operands


def _scan(
    program: str, xs: list[Tensor], states: list[Tensor], numbers: list[Tensor], lengths: Tensor | None, T: int
) -> list[Tensor]:
    job, operands = _job(program, xs, states, numbers, lengths, T)
    made, kept = launch.forward(job, operands, saving=True), job.plan.kernels.layout.kept
    return [made[name] if name in made else job.plan.empty(0) for name in (*job.outputs, *kept)]


def _scan_fake(program: str, xs: Any, states: Any, numbers: Any, lengths: Any, T: Any) -> list[Tensor]:
    kernels, repeated, record, target = _read(program)
    step = xs[0].shape if repeated[0] else xs[0].shape[1:]
    dtype = state_dtype(xs[0].dtype)
    out = output_dtype(xs[0].dtype)
    if any(x.dtype != xs[0].dtype for x in xs):
        out = dtype
    new = functools.partial(xs[0].new_empty, dtype=dtype)
    segment = target.segment_at_any(kernels.program, io_dtype(*(x.dtype for x in xs)))
    return [
        xs[0].new_empty((T, *step), dtype=out),
        *(new(step) for _ in states),
        *(new((T, *step)) for _ in record),
        *(new(((T - 1) // segment, *step)) for _ in states),
    ]


@contextmanager
def autograd_inside() -> Iterator[None]:
    """Autograd inside an operator, where it is switched off: what depends on numbers alone is torch's to derive."""
    with torch._C._PreserveDispatchKeyGuard(), torch.enable_grad():
        for key in (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView):
            torch._C._dispatch_tls_set_dispatch_key_excluded(key, False)
        yield


def _scan_backward(
    program: str,
    xs: list[Tensor],
    states: list[Tensor],
    numbers: list[Tensor],
    checkpoints: list[Tensor],
    lengths: Tensor | None,
    T: int,
    upstream: list[Tensor],
    present: list[bool],
) -> list[Tensor]:
    """Gradients of xs, states and numbers; zeros where there is none."""
    with autograd_inside():
        leaves = [n.detach().requires_grad_() for n in numbers]
        job, operands = _job(program, xs, states, leaves, lengths, T)
    layout = job.plan.kernels.layout
    if (T - 1) // job.segment:
        operands.update(zip(layout.kept, checkpoints, strict=True))
    given = iter(upstream)
    grads = {layout.gradient[name]: next(given) if p else None for name, p in zip(job.outputs, present, strict=True)}
    values = {name: v for name, v in operands.items() if name in layout.params.values() and v is not None}
    operands.update((name, value.detach()) for name, value in values.items())
    found = launch.backward(job, {**operands, **grads}, {*layout.xs, *layout.start, *values})
    active = [(v, found[name]) for name, v in values.items() if name in found and v.requires_grad]
    number_grads: Any = [None] * len(leaves)
    if active:
        ends, total = zip(*active, strict=True)
        with autograd_inside():
            number_grads = torch.autograd.grad(ends, leaves, total, allow_unused=True)
    wanted = [*xs, *states, *numbers]
    return [
        torch.zeros_like(w, memory_format=torch.contiguous_format) if g is None else g.to(w.dtype).contiguous()
        for g, w in zip((*map(found.get, (*layout.xs, *layout.start)), *number_grads), wanted, strict=True)
    ]


def _scan_backward_fake(program: str, xs: Any, states: Any, numbers: Any, *rest: Any) -> list[Tensor]:
    return [w.new_empty(w.shape) for w in (*xs, *states, *numbers)]


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    program, xs, states, numbers, lengths, T = inputs
    outs = len(output) - len(states)
    ctx.options = program, T, outs, (len(xs), len(states), len(numbers), len(states))
    ctx.save_for_backward(lengths, *xs, *states, *numbers, *output[outs:])


def _gradient(ctx: Any, grads: Any) -> Any:
    program, T, outs, sizes = ctx.options
    lengths, *saved = ctx.saved_tensors
    upstream = grads[:outs]
    given, present = [g for g in upstream if g is not None], [g is not None for g in upstream]
    found = torch.ops.spikeloom.scan_backward(program, *_cut(saved, sizes), lengths, T, given, present)
    return None, *_cut(found, sizes[:3]), None, None


def _cut(tensors: list[Tensor], sizes: tuple[int, ...]) -> list[list[Tensor]]:
    """Lists of these sizes."""
    left = iter(tensors)
    return [list(islice(left, size)) for size in sizes]


@functools.cache
def define() -> None:
    """Registers the operators, once, when they are first needed."""
    schema = "(str program, Tensor[] xs, Tensor[] states, Tensor[] numbers, "
    options = "Tensor? lengths, SymInt T"
    scan = torch.library.custom_op("spikeloom::scan", _scan, mutates_args=(), schema=f"{schema}{options}) -> Tensor[]")
    scan.register_fake(_scan_fake)
    backward = torch.library.custom_op(
        "spikeloom::scan_backward", _scan_backward, mutates_args=(),
        schema=f"{schema}Tensor[] checkpoints, {options}, Tensor[] upstream, bool[] present) -> Tensor[]",
    )  # fmt: skip
    backward.register_fake(_scan_backward_fake)
    scan.register_autograd(_gradient, setup_context=_setup)


def run(text: str, numbers: list[Tensor], request: Request) -> Found:
    """The answer to a request by the operator; for traced code."""
    states = list(request.start)
    found = torch.ops.spikeloom.scan(text, list(request.tensors), states, numbers, request.lengths, request.T)
    n = 1 + len(states)
    return found[0], tuple(found[1:n]), tuple(found[n : len(found) - len(states)])
