"""plan: how the tensors of a kind of request lie in memory, decided once and kept with the kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..native.allocator import huge_pages
from .compiled import Kernels, Numbers
from .dtypes import IO, io_dtype
from .request import Request
from .variant import Variant

_ORDERS = {4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}  # channels_last in memory
_MOST = 256  # plans of one program; shapes beyond them are planned anew


@dataclass(frozen=True, eq=False)
class Plan:
    """How the tensors of a kind of request lie in memory."""

    kernels: Kernels
    device: torch.device
    order: tuple[int, ...]
    """Which dimension of the step stands where in memory."""
    shape: tuple[int, ...]
    """Of a step."""
    T: int
    dtype: torch.dtype
    """Of states and of the operands that come from numbers."""
    io: torch.dtype
    """Of inputs and outputs."""
    repeated: tuple[bool, ...]
    """Which inputs are one step."""
    strides: tuple[int, ...]
    """Of the inputs in time."""
    sizes: dict[int, tuple[int, int]]
    """Of each operand that comes from numbers: how many values, and how many adjacent neurons share one."""
    exact: tuple[int, ...]
    """The operands whose reciprocal is exact."""
    inside: tuple[int, ...]
    """The operands that the kernel computes from numbers itself."""
    lengths: bool
    """Whether there are valid steps per sample."""
    rest: tuple[bool, ...]
    """Of each state, whether it is one value at the start."""

    @cached_property
    def N(self) -> int:  # noqa: N802  # the number of neurons
        return math.prod(self.shape)

    @cached_property
    def depends(self) -> dict[str, frozenset[str]]:
        """Of each output, the operands on which it depends differentiably."""
        return self.kernels.layout.depends(self.T)

    @cached_property
    def leaves(self) -> frozenset[str]:
        """The operands on which any output depends differentiably."""
        return frozenset().union(*self.depends.values())

    @cached_property
    def uniform(self) -> bool:
        """Whether all outputs depend on the same operands."""
        return len(set(self.depends.values())) == 1

    @cached_property
    def natural(self) -> bool:
        """Whether memory has the order of the dimensions."""
        return self.order == tuple(range(len(self.order)))

    @cached_property
    def memory_shape(self) -> tuple[int, ...]:
        """One step in memory order."""
        return tuple(self.shape[o] for o in self.order)

    def to_memory(self, x: Tensor) -> Tensor:
        """Logical ``[..., step]`` in memory order."""
        if self.natural:
            return x
        lead = x.ndim - len(self.order)
        return x.permute(*range(lead), *(lead + o for o in self.order))

    def to_logical(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`to_memory`."""
        return x if self.natural else to_logical(x, self.order)

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
        return Variant(IO[self.io], self.lengths, scalars, self.exact, record, wanted, x_grads, packed)


def plan_of(
    kernels: Kernels, request: Request, numbers: Numbers, rest: tuple[bool, ...] = ()
) -> tuple[Plan, dict[str, Tensor | None]]:
    """The plan of a request, and its inputs and the operands of ``numbers`` as the kernels take them.

    Operands that are kept constants are not among them: they are the same at every call, whatever else is.
    """
    xs, step, values = request.tensors, request.step, numbers.values
    key = (request.device, request.T, request.dtype, request.repeated, *numbers[1:], request.lengths is None, rest,
           torch.get_num_threads(), *((x.shape, x.stride(), x.dtype) for x in xs),
           *(() if numbers.kept else [v.shape for v in values.values()]))  # fmt: skip
    plan = kernels.plans.get(key)
    if plan is None:
        plan = _new_plan(kernels, request, numbers, rest)
        if len(kernels.plans) > _MOST:
            kernels.plans.clear()
        kernels.plans[key] = plan
    if not (plan.natural and len(xs) == 1 and xs[0].dtype == plan.io and xs[0].is_contiguous()):
        xs = in_memory(request)[2]
    ready: dict[str, Tensor | None] = dict(zip(kernels.layout.xs, xs, strict=True))
    for name, value in () if numbers.kept else values.items():
        ready[name] = value if value.numel() == 1 else _flat(value, step, plan.order)[0]
    return plan, ready


def _new_plan(kernels: Kernels, request: Request, numbers: Numbers, rest: tuple[bool, ...]) -> Plan:
    order, io, xs = in_memory(request)
    sizes = {
        i: (1, 1) if i in numbers.inside else _flat(numbers.values[name], request.step, order)[1]
        for i, name in kernels.layout.params.items()
    }
    once = (repeated or request.T == 1 for repeated in request.repeated)
    return Plan(
        kernels=kernels,
        device=request.device,
        order=order,
        shape=tuple(request.step),
        T=request.T,
        dtype=request.dtype,
        io=io,
        repeated=request.repeated,
        strides=tuple(0 if one else x.stride(0) for x, one in zip(xs, once, strict=True)),
        sizes=sizes,
        exact=numbers.exact,
        inside=numbers.inside,
        lengths=request.lengths is not None,
        rest=rest or (False,) * len(kernels.layout.start),
    )


def in_memory(request: Request) -> tuple[tuple[int, ...], torch.dtype, tuple[Tensor, ...]]:
    """The order of dimensions in memory, the dtype of inputs and outputs, and the inputs as the kernels take them."""
    xs, repeated, step = request.tensors, request.repeated, request.step
    first = xs[0] if repeated[0] else xs[0][0]
    order = natural = tuple(range(len(step)))
    if not first.is_contiguous() and len(step) in _ORDERS:
        last = _ORDERS[len(step)]
        order = last if first.permute(last).is_contiguous() else order
    io, N = io_dtype(*(x.dtype for x in xs)), math.prod(step)
    ready = []
    for x, r in zip(xs, repeated, strict=True):
        if x.dtype != io:
            x = x.to(io)
        if order != natural:
            x = x.permute(order) if r else x.permute(0, *(1 + o for o in order))
        dense = x.is_contiguous() or (
            not r and x[0].is_contiguous() and (request.T == 1 or x.stride(0) == 0 or x.stride(0) >= N)
        )
        ready.append(x if dense else x.contiguous())
    return order, io, tuple(ready)


def to_logical(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """``[..., step in memory order]`` in the order of the dimensions."""
    lead = x.ndim - len(order)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return x.permute(*range(lead), *(lead + i for i in inverse))


def _flat(value: Tensor, step: torch.Size, order: tuple[int, ...]) -> tuple[Tensor, tuple[int, int]]:
    """An operand that comes from numbers as the kernel takes it, flat in memory order, and its size (see Plan)."""
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
