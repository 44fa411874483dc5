"""c/target: kernels in C, on CPUs."""

from __future__ import annotations

import ctypes
import functools
import math
import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...native import build
from ...native.build import BuildError
from ...native.call import addresses, integers, threads
from ..dtypes import state_dtype
from ..norm import Geometry, Moments, Norm, NormByTorch, in_one
from ..plan import Plan
from ..program import Program
from ..target import Launch, Operands
from ..variant import Variant
from .emit import BLOCK, GROUPS, SEGMENT, emit_backward, emit_forward
from .norm import norm

_SMALL = 1 << 15  # neuron steps below which one thread is faster
_LARGE = 1 << 23  # bytes of an output above which it goes past the cache
_PARTS = 64  # parts of a batch norm's rows, each summed apart: the number of threads changes nothing


class CTarget(NormByTorch):
    """Kernels in C, built by the system's compiler."""

    name = "c"
    inside = False

    def segment_at_any(self, program: Program, io: torch.dtype) -> int:
        return SEGMENT

    def segment_of(self, plan: Plan) -> int:
        return SEGMENT

    def ready(self, device: torch.device) -> None:
        if device.type != "cpu":
            raise BuildError(f"the input is on {device}, C kernels run on cpu")
        build.ready()

    def sources(self, plan: Plan, forward: Variant, backward: Variant) -> str:
        program = plan.kernels.program
        return emit_forward(program, _past(plan, forward)) + emit_backward(program, _past(plan, backward))

    def packs(self, program: Program) -> bool:
        return True

    def forward(self, plan: Plan, variant: Variant, segment: int, kept: bool) -> Launch:
        function, layout = plan.kernels.function(_forward, _past(plan, variant)), plan.kernels.layout
        numbers = _integers(plan, 0, layout.forward_params)
        if variant.packed:
            return _checked(_launch(function, (*layout.forward, "flag"), numbers))
        return _launch(function, layout.forward, numbers)

    def backward(self, plan: Plan, variant: Variant, segment: int, gstride: int, ends: bool) -> Launch:
        function, layout = plan.kernels.function(_backward, _past(plan, variant)), plan.kernels.layout
        return _launch(function, layout.backward(variant.wanted), _integers(plan, gstride, layout.backward_params))

    def sums(self, plan: Plan, param: int) -> Tensor:
        return torch.zeros(_blocks(plan.N)[2], plan.sizes[param][0], 1, dtype=torch.float64, device="cpu")

    def statistics(self, geometry: Geometry, x: Tensor, first: Tensor) -> Tensor:
        sums = _sums(geometry)
        _call_norm(_norm(x.dtype).statistics, geometry, x, first, sums)
        return sums

    def measured(self, norm: Norm, geometry: Geometry, x: Tensor, order: tuple[int, ...]) -> Moments:
        if not _plain(norm, x.dtype):
            return super().measured(norm, geometry, x, order)
        compute, C = state_dtype(x.dtype), geometry.C
        mean, var = torch.empty(2, C, dtype=torch.float64, device="cpu").unbind()
        first, scale, shift = torch.empty(3, C, dtype=compute, device="cpu").unbind()
        tensors = (x, first, _sums(geometry), norm.weight, norm.bias, mean, var, scale, shift)
        _call_norm(_norm(x.dtype).moments, geometry, *tensors, doubles=(norm.eps,))
        return Moments(mean, var, geometry.T * geometry.outer * geometry.inner, scale, shift)

    def track(self, norm: Norm, moments: Moments, factor: float) -> None:
        mean, var, n = moments[:3]
        if norm.running_mean is None or not _plain(norm, norm.running_mean.dtype):
            super().track(norm, moments, factor)
            return
        tensors, doubles = (norm.running_mean, norm.running_var, mean, var), (factor, n / max(1, n - 1))
        _call(_norm(norm.running_mean.dtype).track, tensors, (mean.numel(),), doubles)

    def slopes(
        self, norm: Norm, moments: Moments, g_scale: Tensor, g_shift: Tensor, *, correction: bool
    ) -> tuple[Tensor | None, ...]:
        mean, var, n, compute = *moments[:3], moments.scale.dtype
        if not _plain(norm, compute):
            return super().slopes(norm, moments, g_scale, g_shift, correction=correction)
        made = torch.empty(4, mean.numel(), dtype=compute, device="cpu")
        tensors = (in_one(g_scale), in_one(g_shift), mean, var, norm.weight, made)
        _call(_norm(compute).slopes, tensors, (mean.numel(), n), (norm.eps,))
        return made.unbind()

    def correct(self, geometry: Geometry, x: Tensor, gx: Tensor, slope: Tensor, offset: Tensor) -> None:
        _call_norm(_norm(x.dtype).correct, geometry, x, gx, slope, offset)


C = CTarget()


def _forward(program: Program, variant: Variant) -> Any:
    return build.load(emit_forward(program, variant)).run


def _backward(program: Program, variant: Variant) -> Any:
    return build.load(emit_backward(program, variant)).run


def _launch(function: Any, order: tuple[str, ...], numbers: Any) -> Launch:
    pointers, ordered = addresses(len(order)), operator.itemgetter(*order)

    def launch(operands: Operands) -> None:
        function(pointers(ordered(operands)), numbers)

    return launch


def _checked(launch: Launch) -> Launch:
    """A kernel that writes bits, and says whether all outputs were 0 or 1."""

    def checked(operands: Operands) -> None:
        flag = torch.zeros(1, dtype=torch.int32, device="cpu")
        launch({**operands, "flag": flag})
        if flag.item():
            raise ValueError(
                "a neuron whose spikes are packed into bits gave an output that is neither 0 nor 1; with "
                "is_binary = False in its class its outputs stay dense"
            )

    return checked


def _past(plan: Plan, variant: Variant) -> Variant:
    """The variant that writes past the cache, where its rows are large and begin at multiples of a vector."""
    row = plan.N * plan.io.itemsize
    return replace(variant, past=row * plan.T > _LARGE and row % 64 == 0 and not variant.packed)


def _integers(plan: Plan, gstride: int, params: tuple[int, ...]) -> Any:
    count = threads(plan.N * plan.T, at_least=_SMALL)
    size, per_group, _ = _blocks(plan.N)
    values = [plan.N, plan.T, math.prod(plan.shape[1:]), count, size, per_group, *plan.strides, gstride]
    values += [0 if one else 1 for one in plan.rest]
    for i in params:
        values += plan.sizes[i]
    return integers(*values)


@functools.lru_cache(maxsize=256)
def _blocks(n: int) -> tuple[int, int, int]:
    """Neurons per block, blocks per group, groups: by the number of neurons alone, so that threads change no sum."""
    size = min(BLOCK, max(256, -(-n // (32 * 64)) * 64))
    blocks = -(-n // size)
    per_group = -(-blocks // GROUPS)
    return size, per_group, -(-blocks // per_group)


@functools.cache
def _norm(dtype: torch.dtype) -> Any:
    return build.load(norm(str(dtype).removeprefix("torch."), _PARTS))


def _call_norm(function: Any, geometry: Geometry, *tensors: Tensor | None, doubles: tuple[float, ...] = ()) -> None:
    g = geometry
    count = threads(g.T * g.outer * g.C * g.inner, at_least=_SMALL)
    _call(function, tensors, (g.T, g.stride, g.outer, g.C, g.inner, count), doubles)


def _call(
    function: Any, tensors: tuple[Tensor | None, ...], numbers: tuple[int, ...], doubles: tuple[float, ...]
) -> None:
    function(addresses(len(tensors))(tensors), integers(*numbers), (ctypes.c_double * len(doubles))(*doubles))


def _sums(geometry: Geometry) -> Tensor:
    return torch.empty(_PARTS, 2, geometry.C, dtype=torch.float64, device="cpu")


def _plain(norm: Norm, dtype: torch.dtype) -> bool:
    """Whether the numbers of a batch norm lie as C reads them: dense, and of the type that is computed in."""
    numbers = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return all(n is None or (n.dtype == state_dtype(dtype) and n.is_contiguous()) for n in numbers)
