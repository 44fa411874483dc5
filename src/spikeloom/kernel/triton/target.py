"""triton/target: kernels in Triton, on whatever device its driver has: GPUs, or a CPU in its interpreter."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import linecache
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...native.build import BuildError
from ..plan import Plan
from ..program import Program
from ..target import Launch, Operands
from ..variant import Variant
from .emit import emit_backward, emit_forward
from .launcher import launcher as launcher
from .norm_target import NormByTriton


@dataclass(frozen=True)
class TritonTarget(NormByTriton):
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


TRITON = TritonTarget()


def load(source: str) -> Any:
    """The function ``run`` of a generated module. Triton reads its text again, so it must be where Python looks."""
    name = f"<spikeloom kernel {hashlib.sha256(source.encode()).hexdigest()[:32]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": "spikeloom.kernel.generated"}
    exec(compile(source, name, "exec"), namespace)
    return namespace["run"]


@functools.cache
def _warp_size() -> int:
    import triton

    try:
        return int(triton.runtime.driver.active.get_current_target().warp_size)
    except Exception:  # the interpreter has no driver
        return 32


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
