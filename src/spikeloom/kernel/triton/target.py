"""triton/target: kernels in Triton, on whatever device its driver has: GPUs, or a CPU in its interpreter."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import linecache
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ...native.build import BuildError
from ..norm import Geometry, NormByTorch
from ..plan import Plan
from ..program import Program
from ..target import Launch, Operands
from ..variant import Variant
from .emit import emit_backward, emit_forward

_PARTS = 256  # most parts of a batch norm's rows, each summed apart


@dataclass(frozen=True)
class TritonTarget(NormByTorch):
    """Kernels in Triton, which compiles them when they are first launched and keeps them on the disk."""

    block: int = 256
    """Neurons of one program."""
    segment: int = 8
    """Steps between the states that are kept, and unrolled in the backward kernel."""
    per_thread: int = 2
    """Neurons of one thread: more read wider, and take more registers."""

    name = "triton"

    def warps(self, size: int, dtype: torch.dtype) -> int:
        """Warps of one program, for a device with ``size`` threads in a warp; a double takes two registers."""
        per_thread = max(1, self.per_thread // (2 if dtype == torch.float64 else 1))
        return max(1, self.block // (per_thread * size))

    def ready(self, device: torch.device) -> None:
        why = problem(device.type)
        if why:
            raise BuildError(why)

    def sources(self, plan: Plan, forward: Variant, backward: Variant) -> str:
        program, sizes = plan.kernels.program, (self.block, self.segment)
        return emit_forward(program, forward, *sizes) + emit_backward(program, self.summing(plan, backward), *sizes)

    def packs(self, program: Program) -> bool:
        """Where the output is binary by what computes it: asking the device would have to wait for it."""
        out = program.outputs[0]
        return any(node.id == out and node.op == "to_float" for node in program.nodes)

    def forward(self, plan: Plan, record: bool, packed: bool) -> Launch:
        run = plan.kernels.function(self._forward, plan.variant(record=record, packed=packed))
        layout = plan.kernels.layout
        return self._launch(run, layout.forward, plan, [*plan.strides], layout.forward_params)

    def backward(self, plan: Plan, gstride: int, variant: Variant) -> Launch:
        run = plan.kernels.function(self._backward, self.summing(plan, variant))
        layout = plan.kernels.layout
        return self._launch(
            run, layout.backward(variant.wanted), plan, [*plan.strides, gstride], layout.backward_params
        )

    def _forward(self, program: Program, variant: Variant) -> Any:
        return load(emit_forward(program, variant, self.block, self.segment))

    def _backward(self, program: Program, variant: Variant) -> Any:
        return load(emit_backward(program, variant, self.block, self.segment))

    def _launch(
        self, run: Any, order: tuple[str, ...], plan: Plan, strides: list[int], params: tuple[int, ...]
    ) -> Launch:
        if 2**31 - self.block < plan.N:
            raise BuildError(f"a step of {plan.N} neurons is larger than what Triton kernels count, 2^31")
        integers = [plan.N, plan.T, math.prod(plan.shape[1:]), *strides]
        for i in params:
            if plan.sizes[i][0] > 1:
                integers += plan.sizes[i]
        grid, warps = (-(-plan.N // self.block),), self.warps(_warp_size(), plan.dtype)
        launch = launcher(run, grid, integers, plan.device, num_warps=warps)

        def by_name(operands: Operands) -> None:
            launch([operands[name] for name in order])

        return by_name

    def summing(self, plan: Plan, variant: Variant) -> Variant:
        """The variant of a backward kernel with what it has to sum."""
        return dataclasses.replace(variant, runs=tuple(self.run(plan.sizes[i]) for i in variant.wanted))

    def run(self, shape: tuple[int, int]) -> int:
        """How many adjacent neurons share one gradient sum. It has few distinct values, because each compiles another
        kernel.
        """
        size, inner = shape
        if size == 1 or inner % self.block == 0:
            return self.block
        return 16 if inner % 16 == 0 else 1

    def sums(self, plan: Plan, param: int) -> Tensor:
        run = self.run(plan.sizes[param])
        dtype = torch.float64 if run > 1 else plan.dtype
        return torch.empty(-(-plan.N // run), dtype=dtype, device=plan.device)

    def total(self, plan: Plan, param: int, sums: Tensor) -> Tensor:
        size, inner = plan.sizes[param]
        if size == 1:
            return sums.sum().reshape(1)
        return sums.view(-1, size, inner // self.run((size, inner))).sum((0, 2), dtype=torch.float64)

    def statistics(self, geometry: Geometry, x: Tensor, first: Tensor) -> Tensor:
        g, code = geometry, _norm_code()
        rows, per_column = g.T * g.outer, g.inner == 1
        width = min(code.TILE, _power_of_two(g.C if per_column else g.inner), 128 if per_column else code.TILE)
        tiles = -(-rows // (code.TILE // width))
        parts = min(_PARTS, tiles)
        sums = torch.empty(parts, 2, g.C, dtype=torch.float64, device=x.device)
        grid = (parts, -(-g.C // width) if per_column else g.C)
        integers = [rows, -(-rows // parts), g.outer, g.stride, g.C, g.inner]
        shape = dict(ROWS=code.TILE // width, WIDTH=width, COLUMNS=per_column, S=_compute(x.dtype))
        launcher(code.statistics, grid, integers, x.device, **shape)([x, first, sums])
        return sums

    def correct(self, geometry: Geometry, x: Tensor, gx: Tensor, slope: Tensor, offset: Tensor) -> None:
        g, code = geometry, _norm_code()
        rows, all_columns = g.T * g.outer, g.C * g.inner
        width = min(code.TILE, _power_of_two(all_columns))
        grid = (-(-rows // (code.TILE // width)), -(-all_columns // width))
        shape = dict(ROWS=code.TILE // width, WIDTH=width, S=_compute(x.dtype))
        integers = [rows, g.outer, g.stride, all_columns, g.inner]
        launcher(code.correct, grid, integers, x.device, **shape)([x, gx, slope, offset])


TRITON = TritonTarget()


_Launcher = Callable[[list[Tensor | None]], None]


def load(source: str) -> Any:
    """The function ``run`` of a generated module. Triton reads its text again, so it must be where Python looks."""
    name = f"<spikeloom kernel {hashlib.sha256(source.encode()).hexdigest()[:32]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": "spikeloom.kernel.generated"}
    exec(compile(source, name, "exec"), namespace)
    return namespace["run"]


def launcher(run: Any, grid: tuple[int, ...], integers: list[int], device: torch.device, **options: Any) -> _Launcher:
    """What launches a kernel on tensors, which come before the integers; it raises BuildError where Triton fails."""
    kernel = run[grid]
    other = _elsewhere(device)

    def launch(tensors: list[Tensor | None]) -> None:
        try:  # without fused multiply-add, or the backward pass would not see the forward pass's states
            kernel(*tensors, *integers, enable_fp_fusion=False, **options)
        except Exception as error:  # Triton has no class for all that can go wrong in its compiler and drivers
            said = f"Triton failed with {type(error).__name__}: {error}"
            raise BuildError(f"{said}; `with sl.backend('eager'):` runs the PyTorch loop") from error

    def launch_there(tensors: list[Tensor | None]) -> None:
        if other.current_device() == device.index:
            return launch(tensors)
        with other.device(device.index):
            return launch(tensors)

    return launch if other is None else launch_there


@functools.cache
def _elsewhere(device: torch.device) -> Any:
    """The module of torch that chooses among several devices of a kind, where there are several."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    return module if module is not None and module.device_count() > 1 else None


@functools.cache
def _warp_size() -> int:
    import triton

    try:
        return int(triton.runtime.driver.active.get_current_target().warp_size)
    except Exception:  # the interpreter has no driver
        return 32


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


@functools.cache
def _norm_code() -> ModuleType:
    from . import norm as triton_norm

    return triton_norm


def _compute(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32


USUAL = ("cuda", "xpu")
"""Kinds of devices that Triton drives where it is whole; others run loops, of which nobody need be warned."""


@functools.cache
def problem(kind: str) -> str:
    """Why Triton has no kernels for a kind of device."""
    try:
        import triton

        from .functions import K_exp
    except ImportError as error:
        if kind not in ("cpu", *USUAL):
            return f"there are no kernels for {kind} without a Triton that drives it"
        return f"Triton cannot be imported ({error}); it comes with torch for GPUs, or: pip install triton"
    if type(K_exp).__name__ == "InterpretedFunction":
        return ""
    if kind == "cpu":
        return "Triton runs on GPUs; its interpreter runs on a CPU, with TRITON_INTERPRET=1 set before Python starts"
    try:
        driven = triton.runtime.driver.active.get_active_torch_device().type
    except Exception as error:  # whatever a driver says that is not there
        return f"Triton has no driver for {kind}" + (f": {error}" if kind in USUAL else "")
    return "" if driven == kind else f"the input is on {kind}, Triton drives {driven}"
