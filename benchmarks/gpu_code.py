"""What a GPU would be given: kernels in Triton compiled for it, without having it. ``python -m benchmarks.gpu_code``.

For each neuron and kernel: steps per segment, neurons of a program and of a thread, seconds to compile, registers of a
thread, bytes spilled, width of the reads from memory, fused multiply-adds (there must be none). By Triton's own
compiler, and the assembler of the GPU's maker that comes with it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import spikeloom as sl
from spikeloom.kernel import Request
from spikeloom.kernel.compiled import kernels_of
from spikeloom.kernel.plan import Plan, plan_of
from spikeloom.kernel.triton.emit import emit_backward, emit_forward
from spikeloom.kernel.triton.form import Form
from spikeloom.kernel.triton.target import TRITON, TritonTarget, load
from spikeloom.kernel.variant import Variant

from .common import machine
from .neuron_layer import TwoStates

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
POINTERS = {torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
NEURONS = {
    "LIF": lambda: sl.LIF(),
    "PLIF, learnable": lambda: sl.PLIF(),
    "LIF, tau learnable per channel": lambda: sl.LIF(tau=nn.Parameter(torch.full((64,), 2.0))),
    "two states, an exponential": lambda: TwoStates(64),
    "Izhikevich": lambda: sl.Izhikevich(),
}


def catalogue() -> dict[str, Callable[[], sl.Neuron]]:
    """Every neuron of the catalogue that has a kernel and needs nothing to be made."""
    found = {}
    for name in sl.neurons():
        make = getattr(sl, name, None)
        try:
            neuron = make()
        except (TypeError, ValueError):
            continue
        if name not in NEURONS and isinstance(neuron, sl.Neuron) and not isinstance(kernels_of(neuron), str):
            found[name] = make
    return found


def compile_for(
    neuron: sl.Neuron,
    T: int,
    shape: tuple[int, ...],
    io: torch.dtype,
    device: str,
    target: TritonTarget,
    *,
    everything: bool = False,
    packed: bool = False,
) -> dict[str, dict[str, Any]]:
    """``{"forward": ..., "backward": ...}``: what the compiler made of the kernels of a training step.

    ``everything``: with lengths, recordings, a gradient of the start states and a static input; ``packed``: spikes as
    bits. Constants are numbers on a device, which kernels compute with, and states start at rest.
    """
    kernels = kernels_of(neuron)
    if isinstance(kernels, str):
        raise SystemExit(kernels)
    x = torch.empty(T, *shape, dtype=io)
    request = Request.of((x,), (), lengths=torch.full(shape[:1], T) if everything else None)
    given = neuron.all_numbers(request.step, request.dtype)
    numbers = kernels.of_tensors(given, request.dtype, inside=True)
    rest = (not everything,) * len(kernels.layout.start)
    plan, _ = plan_of(kernels, request, numbers, rest)
    learned = {name for name, value in numbers.values.items() if value.requires_grad}
    wanted = tuple(i for i, name in kernels.layout.params.items() if name in learned)
    rows = {}
    for backward in (False, True):
        if backward:
            x_grads = ("sum" if everything else "steps",)
            variant = plan.variant(record=everything, wanted=wanted, x_grads=x_grads)
        else:
            variant = plan.variant(record=everything, packed=packed)
        segment = target.segment_of(plan)
        form = target.form(plan, variant, segment, kept=segment < T, backward=backward, ends=everything)
        rows["backward" if backward else "forward"] = _compile(plan, variant, form, device, target, backward)
    return rows


def _compile(
    plan: Plan, variant: Variant, form: Form, device: str, target: TritonTarget, backward: bool
) -> dict[str, Any]:
    emit = emit_backward if backward else emit_forward
    run = load(emit(plan.kernels.program, variant, form))
    doubles = {i for i, run in zip(variant.wanted, form.runs, strict=True) if run != 1}
    signature, aligned = {}, {}
    for k, name in enumerate(run.arg_names):
        kind = name.rstrip("0123456789")
        if kind == "lens":
            signature[name] = "*i64"
        elif kind == "out" and variant.packed:
            signature[name] = "*u8"
        elif kind == "gx" and "sum" in variant.x_grads:
            signature[name] = POINTERS[plan.dtype]
        elif kind in ("x", "out", "gout", "gx"):
            signature[name] = POINTERS[plan.io]
        elif kind == "R" or (kind == "s0_" and form.rest[int(name[3:])]):
            signature[name] = POINTERS[torch.float64]
        elif kind == "gp" and int(name[2:]) in doubles:
            signature[name] = "*fp64"
        elif kind in ("N", "T", "per", "xstride", "gstride", "size", "inner"):
            signature[name] = "i32"
        else:
            signature[name] = POINTERS[plan.dtype]
        if kind not in ("T", "per", "size", "inner"):
            aligned[(k,)] = [["tt.divisibility", 16]]
    tile = target.tile(plan, backward=backward)
    found = _assemble(run, signature, {}, aligned, device, tile.warps(TARGETS[device][2]))
    return {"segment": form.segment, "block": tile.block, "neurons per thread": tile.per_thread, **found}


def compile_norm(device: str, dtype: torch.dtype = torch.float16) -> dict[str, dict[str, Any]]:
    """What the compiler made of the kernels of a batch norm, for inputs of one dtype and 128 channels."""
    import triton.language as tl

    from spikeloom.kernel.triton import norm as triton_norm

    S, compute = (tl.float64, "*fp64") if dtype == torch.float64 else (tl.float32, "*fp32")
    kinds = dict.fromkeys(("sums", "g_scale", "g_shift", "mean", "var"), "*fp64") | {"eps": "i64", "factor": "i64"}
    numbers = ("weight", "bias", "running_mean", "running_var", "g_weight", "g_bias", "scale", "shift", "slope",
               "offset")  # fmt: skip
    kinds |= dict.fromkeys(numbers, compute) | {"x": POINTERS[dtype], "gx": POINTERS[dtype], "count": "*i64"}
    rows, wide, finished = {}, {"ROWS": 64, "WIDTH": 128}, {"ROWS": 256, "WIDTH": 8, "S": S}
    one, per_column = {"ROWS": 1, "WIDTH": 1024, "S": S}, {"ROWS": 1024, "WIDTH": 4, "COLUMNS": True, "S": S}
    for name, run, options, warps in (
        ("statistics", triton_norm.statistics, {**one, "COLUMNS": False, "DENSE": True}, 4),
        ("statistics, short rows", triton_norm.statistics,
         {"ROWS": 64, "WIDTH": 64, "S": S, "COLUMNS": False, "DENSE": True}, 8),
        ("statistics, channels last", triton_norm.statistics,
         {**wide, "S": S, "COLUMNS": True, "DENSE": True}, 8),
        ("finish", triton_norm.finish, {**finished, "AVERAGE": False}, 4),
        ("finish, average of all batches", triton_norm.finish, {**finished, "AVERAGE": True}, 4),
        ("finish, running statistics", triton_norm.finish,
         {**finished, "AVERAGE": False, "x": None, "sums": None, "count": None}, 4),
        ("slopes", triton_norm.slopes, {"ROWS": 64, "WIDTH": 4, "COLUMNS": False, "S": S}, 4),
        ("slopes, channels last", triton_norm.slopes, per_column, 8),
        ("correct", triton_norm.correct, {**one, "COLUMNS": False, "DENSE": True}, 4),
        ("correct, channels last", triton_norm.correct,
         {"ROWS": 8, "WIDTH": 128, "S": S, "COLUMNS": True, "DENSE": True}, 4),
    ):  # fmt: skip
        rows[name] = _written(run, kinds, options, device, warps)
    return rows


def compile_spikes(device: str) -> dict[str, dict[str, Any]]:
    """What the compiler made of the kernels that pack, unpack and count bits, and that split and join products."""
    from spikeloom.spikes import triton_bits as code

    kinds = {"bits": "*u8", "x": "*fp16", "wrong": "*i32", "counts": "*i32", "most": "*i32", "n": "i64", "w": "*fp32"}
    joined = dict.fromkeys(("high", "low", "back", "bias"), "*fp32")
    packed, unpacked, block = {"BYTES": code.PACKED}, {"BYTES": code.UNPACKED}, {"BLOCK": code.BLOCK}
    tile = {"ROWS": code.ROWS, "WIDTH": code.WIDTH}
    parts = {**kinds, "high": "*fp16", "low": "*fp16", "back": "*fp32"}
    rows = {
        "pack": (code.pack, kinds, {**packed, "CHECK": False, "wrong": None}),
        "pack, checked": (code.pack, {**kinds, "x": "*fp32"}, {**packed, "CHECK": True}),
        "unpack": (code.unpack, kinds, unpacked),
        "unpack, bfloat16": (code.unpack, {**kinds, "x": "*bf16"}, unpacked),
        "unpack, float32": (code.unpack, {**kinds, "x": "*fp32"}, unpacked),
        "count": (code.count, kinds, {"BYTES": code.COUNTED}),
        "count along rows": (code.count_along, kinds, {"ROWS": 8, "WIDTH": 256}),
        "transpose": (code.transpose, {**kinds, "turned": "*u8"}, {"COLUMNS": code.COLUMNS, "BYTES": code.BYTES}),
        "largest": (code.largest, kinds, block),
        "split": (code.split, parts, {**block, "PARTS": code.PARTS}),
        "join": (code.join, joined, tile),
        "join, no bias": (code.join, joined, {**tile, "bias": None}),
    }
    return {
        name: _written(run, types, options, device, code.WARPS[run.fn.__name__])
        for name, (run, types, options) in rows.items()
    }


def _written(run: Any, kinds: dict[str, str], options: dict[str, Any], device: str, warps: int) -> dict[str, Any]:
    """A kernel that is not generated: the types of its tensors (others are integers), and its constants."""
    signature = {n: "constexpr" if n in options else kinds.get(n, "i32") for n in run.arg_names}
    constants = {(run.arg_names.index(n),): value for n, value in options.items()}
    aligned = {(k,): [["tt.divisibility", 16]] for k, n in enumerate(run.arg_names) if n not in options}
    return _assemble(run, signature, constants, aligned, device, warps)


def _assemble(run: Any, signature: Any, constants: Any, aligned: Any, device: str, warps: int) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    start = time.perf_counter()
    made = triton.compile(
        ASTSource(fn=run, signature=signature, constexprs=constants, attrs=aligned),
        target=GPUTarget(*TARGETS[device]),
        options={"num_warps": warps, "enable_fp_fusion": False},
    )
    found: dict[str, Any] = {"seconds": time.perf_counter() - start}
    if "ptx" in made.asm:
        return {**found, **_read_ptx(made.asm["ptx"], TARGETS[device][1])}
    text = made.asm["amdgcn"]

    def field(name: str) -> int:
        return int(re.findall(rf"\.{name}:\s+(\d+)", text)[-1])

    reads = [int(n or 1) for n in re.findall(r"global_load_[a-z]+\d*(?:x(\d))?", text)]
    fused = len(re.findall(r"\bv_(?:pk_)?(?:fma|fmac|mad)_f", text))
    divisions = len(re.findall(r"\bv_div_fixup_f", text))  # a correctly rounded division is made of five
    return {
        **found,
        "registers": field("vgpr_count"),
        "spilled": field("vgpr_spill_count"),
        "read": max(reads, default=0),
        "fused": fused - 5 * divisions,
    }


def _read_ptx(text: str, arch: Any) -> dict[str, Any]:
    from triton.backends.nvidia.compiler import get_ptxas

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(text)
        name = f"sm_{arch}a" if arch == 90 else f"sm_{arch}"
        command = [get_ptxas(arch).path, "-v", "--fmad=false", f"--gpu-name={name}", str(path), "-o", f"{path}.out"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {
        "registers": int(re.findall(r"Used (\d+) registers", said)[0]),
        "spilled": sum(int(n) for n in re.findall(r"(\d+) bytes spill", said)),
        "read": max((int(n or 1) for n in re.findall(r"ld\.global(?:\.\w+)*?(?:\.v(\d))?\.b\d+", text)), default=0),
        "fused": len(re.findall(r"\bfma\.rn\.f", text)),
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown."""
    columns = list(rows[0])
    cells = [[f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in cells)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_code", description=__doc__)
    parser.add_argument("--device", choices=TARGETS, default="sm_90")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the result files")
    args = parser.parse_args()
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # seconds are those of a first time
    rows = []
    for name, make in {**NEURONS, **catalogue()}.items():
        for io in (torch.float32, torch.float16):
            for kernel, found in compile_for(make(), 32, (16, 64, 32, 32), io, args.device, TRITON).items():
                rows.append({"neuron": name, "io": str(io).removeprefix("torch."), "kernel": kernel, **found})
                print(rows[-1], flush=True)
    norms = []
    for io in (torch.float32, torch.float16):
        for kernel, found in compile_norm(args.device, io).items():
            norms.append({"io": str(io).removeprefix("torch."), "kernel": kernel, **found})
            print(norms[-1], flush=True)
    lines = [f"# Kernels for {args.device}", "", "; ".join(f"{k} {v}" for k, v in machine().items()), ""]
    lines += ["Compiled, not run: no GPU was there. `spilled` in bytes, `read` in values of one thread at a time.", ""]
    lines += [
        *table(rows),
        "",
        "The kernels of a batch norm before a neuron, which takes four of them a training step:",
        "",
    ]
    lines += table(norms)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"gpu-code-{args.device}.md").write_text("\n".join(lines) + "\n")
    (args.out / f"gpu-code-{args.device}.json").write_text(
        json.dumps({"machine": machine(), "rows": rows, "batch norm": norms}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
