"""triton/target: kernels in Triton, on whatever device its driver has: GPUs, or a CPU in its interpreter."""

from __future__ import annotations

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
from .emit import arrays, emit_backward, emit_forward, pointers
from .form import Form, Tile, most_steps, steps_for, tile
from .launcher import launcher as launcher
from .norm_target import NormByTriton


@dataclass(frozen=True)
class TritonTarget(NormByTriton):
    """Kernels in Triton, which compiles them when they are first launched and keeps them on the disk."""

    block: int = 0
    """Neurons of one program, and of one thread below; 0 for what :mod:`.form` says of the program."""
    per_thread: int = 0
    segment: int = 0
    """Steps between the states that are kept, and unrolled in the backward kernel; 0 for what :mod:`.form` says."""

    name = "triton"
    inside = True

    def ready(self, device: torch.device) -> None:
        why = problem(device.type)
        if why:
            raise BuildError(why)

    def segment_at_any(self, program: Program, io: torch.dtype) -> int:
        return self.segment or most_steps(program, io)

    def segment_of(self, plan: Plan) -> int:
        return self.segment or steps_for(plan.T, _most_steps(plan))

    def tile(self, plan: Plan, *, backward: bool) -> Tile:
        """How much of the work of a plan one program takes."""
        chosen = _tile(plan, backward)
        return Tile(self.block or chosen.block, self.per_thread or chosen.per_thread)

    def sources(self, plan: Plan, forward: Variant, backward: Variant) -> str:
        program, segment = plan.kernels.program, self.segment_of(plan)
        return emit_forward(program, forward, self.form(plan, forward, segment, kept=segment < plan.T)) + emit_backward(
            program, backward, self.form(plan, backward, segment, kept=segment < plan.T, backward=True)
        )

    def packs(self, program: Program) -> bool:
        """Where the output is binary by what computes it: asking the device would have to wait for it."""
        out = program.outputs[0]
        return any(node.id == out and node.op == "to_float" for node in program.nodes)

    def form(
        self, plan: Plan, variant: Variant, segment: int, *, kept: bool, backward: bool = False, ends: bool = False
    ) -> Form:
        """What a kernel of a plan is printed for."""
        block, left = self.tile(plan, backward=backward).block, plan.T % segment if backward else 0
        columns, size = self.columns(plan) if variant.wanted else (0, 0)
        many = block // columns * size if columns else block  # neurons of the programs that take the same rows
        return Form(
            block,
            segment,
            whole=plan.N % many == 0 and not left and not plan.lengths,
            kept=kept,
            ends=ends,
            rest=plan.rest,
            inside=plan.inside,
            runs=tuple(self.run(plan.sizes[i], block, columns) for i in variant.wanted),
            columns=columns,
        )

    def forward(self, plan: Plan, variant: Variant, segment: int, kept: bool) -> Launch:
        return self._launch(plan, variant, self.form(plan, variant, segment, kept=kept), [*plan.strides])

    def backward(self, plan: Plan, variant: Variant, segment: int, gstride: int, ends: bool) -> Launch:
        form = self.form(plan, variant, segment, kept=segment < plan.T, backward=True, ends=ends)
        return self._launch(plan, variant, form, [*plan.strides, gstride], backward=True)

    def _launch(
        self, plan: Plan, variant: Variant, form: Form, strides: list[int], *, backward: bool = False
    ) -> Launch:
        layout, programs = plan.kernels.layout, self.programs(plan, form.block, form.columns)
        if programs * form.block >= 2**31:
            raise BuildError(f"a step of {plan.N} neurons is larger than what Triton kernels count, 2^31")
        run = plan.kernels.function(_Made(form, backward), variant)
        order = pointers(layout, variant, form, backward=backward)
        integers = [plan.N, plan.T, *([math.prod(plan.shape[1:])] if plan.lengths else []), *strides]
        for i in arrays(layout, variant, backward=backward):
            integers += plan.sizes[i]
        warps = self.tile(plan, backward=backward).warps(_warp_size())
        launch = launcher(run, (programs,), integers, plan.device, num_warps=warps)

        def by_name(operands: Operands) -> None:
            launch([operands[name] for name in order])

        return by_name

    def columns(self, plan: Plan) -> tuple[int, int]:
        """How many adjacent neurons of a row a backward kernel takes that sums a gradient over rows, and how many a row
        has: where a param has one value for each neuron of a row, as in channels last. (0, 0) where none has, or where
        they are no multiple of 8: then each neuron keeps its gradient.

        32 of them are 64 bytes of each row in half precision, and of a block of 256 eight rows are summed.
        """
        sizes = {size for size, inner in plan.sizes.values() if size > 1 and inner == 1}
        size = sizes.pop() if len(sizes) == 1 else 0
        columns = math.gcd(size, 32)
        return (columns, size) if size and 8 <= columns < self.tile(plan, backward=True).block else (0, 0)

    def run(self, shape: tuple[int, int], block: int, columns: int = 0) -> int:
        """How many adjacent neurons share one gradient sum; 0 where each of the ``columns`` has one. It has few
        distinct values, because each compiles another kernel.
        """
        size, inner = shape
        if size == 1:
            return block
        if inner == 1 and columns:
            return 0
        return next((run for run in (block, 64, 16) if inner % run == 0), 1)

    def programs(self, plan: Plan, block: int, columns: int) -> int:
        """Programs of a kernel."""
        if not columns:
            return -(-plan.N // block)
        size = self.columns(plan)[1]
        return -(-plan.N // (block // columns * size)) * (size // columns)

    def sums(self, plan: Plan, param: int) -> Tensor:
        shape, dtype = _sums(self, plan, param)
        return torch.empty(shape, dtype=dtype, device=plan.device)


@functools.lru_cache(maxsize=1024)
def _most_steps(plan: Plan) -> int:
    return most_steps(plan.kernels.program, plan.io)


@functools.lru_cache(maxsize=1024)
def _tile(plan: Plan, backward: bool) -> Tile:
    sums = any(size > 1 for size, _ in plan.sizes.values())
    return tile(plan.kernels.program, plan.io, plan.T, backward=backward, sums=sums)


@functools.lru_cache(maxsize=1024)
def _sums(target: TritonTarget, plan: Plan, param: int) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of the parts of a gradient."""
    (size, inner), block, (columns, _) = plan.sizes[param], target.tile(plan, backward=True).block, target.columns(plan)
    run, programs = target.run((size, inner), block, columns), target.programs(plan, block, columns)
    shape = plan.N // (size * inner), size, inner // max(1, run)
    if size == 1 or not run:
        shape = programs * (columns or 1) // size if size > 1 else programs, size, 1
    return shape, plan.dtype if run == 1 else torch.float64


TRITON = TritonTarget()


@dataclass(frozen=True)
class _Made:
    """Makes the function of a form, which is part of what it is kept by."""

    form: Form
    backward: bool

    def __call__(self, program: Program, variant: Variant) -> Any:
        return load((emit_backward if self.backward else emit_forward)(program, variant, self.form))


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
