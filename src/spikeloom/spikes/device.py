"""device: bits and their products where Triton computes: on GPUs, and in its interpreter where it is asked for.

A float32 product of spikes is two products on matrix units of half precision, which torch's exact product leaves idle:
0 and 1 are exact in float16, and a float32 number is the sum of two of float16 to 22 of its 24 bits, times a power of
two for the whole matrix (see triton_bits). What is not finite stays so in the first part, where 0 times it is NaN as
ever. The order of additions is that of the GPU's library, which may depend on the size of a batch.

Nothing here waits for the device or copies to it, but the check of :func:`pack`; nothing is kept between calls.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..kernel.backend import chosen, say_once
from ..kernel.triton import target as triton_target
from ..native.build import BuildError

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_LEAST = 1 << 32  # multiplications, for which a dense float32 product takes 0.18 ms of an H200
_GRID = 65535  # most programs along the second and the third dimension of a grid
_USES = 256  # of each split value, and terms of each sum: to split one or to join one costs as much as 120 additions


def available(bits: Tensor) -> bool:
    """Whether Triton works on a tensor now."""
    name = chosen()
    if type(bits) is not Tensor or (name != "triton" if bits.is_cpu else name not in ("auto", "triton")):
        return False
    return not triton_target.problem(bits.device.type)


def pack(x: Tensor, size: int, *, check: bool) -> tuple[Tensor, bool] | None:
    """The bits of a flat tensor, and whether all values are 0 or 1. None where there is no kernel for it.

    The check waits for the device; without it, the second value is True.
    """
    if x.dtype not in _FLOATS or x.numel() == 0 or not available(x):
        return None
    bits, code = torch.empty(size, dtype=torch.uint8, device=x.device), _code()
    wrong = torch.zeros(1, dtype=torch.int32, device=x.device) if check else None
    if not _run("pack", (_up(size, code.PACKED),), [x, bits, wrong], [x.numel()], BYTES=code.PACKED, CHECK=check):
        return None
    return bits, wrong is None or not wrong.item()


def unpack(bits: Tensor, n: int, dtype: torch.dtype) -> Tensor | None:
    """The n spikes as a flat tensor. None where there is no kernel for it."""
    if dtype not in _FLOATS or n == 0 or not available(bits):
        return None
    x, code = torch.empty(n, dtype=dtype, device=bits.device), _code()
    return x if _run("unpack", (_up(n, 8 * code.UNPACKED),), [bits, x], [n], BYTES=code.UNPACKED) else None


def count(bits: Tensor) -> Tensor | None:
    """How many bits are 1, as a number on the device. None where there is no kernel for it."""
    if not bits.is_contiguous() or bits.numel() == 0 or not available(bits):
        return None
    code = _code()
    counts = torch.empty(_up(bits.numel(), code.COUNTED), dtype=torch.int32, device=bits.device)
    done = _run("count", (counts.numel(),), [bits, counts], [bits.numel()], BYTES=code.COUNTED)
    return counts.sum() if done else None


def count_along(bits: Tensor, outer: int, summed: int, inner: int) -> Tensor | None:
    """How many bits of ``[outer, summed, inner]`` are 1 along the second, ``[outer * inner]`` in int32, or None."""
    if not bits.is_contiguous() or bits.numel() == 0 or not available(bits):
        return None
    code, width = _code(), min(256, 1 << (inner - 1).bit_length())
    counts = torch.empty(outer * inner, dtype=torch.int32, device=bits.device)
    grid = (outer, _up(inner, width))
    if grid[1] > _GRID:
        return None
    shape = {"ROWS": code.ALONG // width, "WIDTH": width}
    return counts if _run("count_along", grid, [bits, counts], [summed, inner], **shape) else None


def transposed(bits: Tensor, M: int, K: int, batch: int) -> Tensor | None:
    """The bits of matrices ``[batch, K, M]`` from those of ``[batch, M, K]``, M a multiple of 8, or None."""
    if bits.numel() == 0 or not available(bits):
        return None
    code, turned = _code(), torch.empty_like(bits)
    grid = (batch, _up(K, code.COLUMNS), _up(M // 8, code.BYTES))
    if max(grid[1:]) > _GRID:
        return None
    shape = {"COLUMNS": code.COLUMNS, "BYTES": code.BYTES}
    return turned if _run("transpose", grid, [bits, turned], [M, K], **shape) else None


def pays(bits: Tensor, dtype: torch.dtype, other: Tensor, M: int, K: int) -> bool:
    """Whether a product of bits ``[M, K]`` is expected to be faster than a dense one of the same precision.

    ``other`` is what is split: W ``[K, N]``, or G ``[M, N]`` for the gradient of W. On an H200, 16384 x 2048 x 2048,
    the product takes 0.53 ms and the gradient 0.49, where dense ones take 2.8 in float32 and 0.43 to 0.57 in TF32; in
    half precision nothing beats the dense product of unpacked spikes. Of smaller products the launches take longer than
    is saved, of few rows or short sums the passes over the operands (both are estimates from these times); where rows
    do not begin at multiples of 16 bytes the library is slower. Inside ``sl.backend("triton")`` all float32 products
    run here, where torch has the call.
    """
    if dtype != torch.float32 or other.dtype != dtype or other.device != bits.device or not available(bits):
        return False
    if not _multiplies(bits.device):
        return False
    if chosen() == "triton":
        return True
    N = other.shape[1]
    return min(M, K) >= _USES and M * K * N >= _LEAST and K % 8 == N % 8 == 0 and _is_exact()


def _is_exact() -> bool:
    """Whether products in float32 are to be float32, and float16 products add in float32."""
    matmul = torch.backends.cuda.matmul
    precision = getattr(matmul, "fp32_precision", None)  # since torch 2.9; the older question fails where it was set
    exact = torch.get_float32_matmul_precision() == "highest" if precision is None else precision in ("none", "ieee")
    return exact and not getattr(matmul, "allow_fp16_accumulation", False)


def times(bits: Tensor, M: int, K: int, W: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """``bits [M, K] @ W [K, N] (+ bias)`` in float32. None where Triton failed."""
    parts, spikes = _split(W), unpack(bits, M * K, torch.float16)
    if parts is None or spikes is None:
        return None
    high, low, back = parts
    spikes = spikes.view(M, K)
    return _joined(_multiply(spikes, high), _multiply(spikes, low), back, bias)


def weight_gradient(bits: Tensor, M: int, K: int, G: Tensor) -> Tensor | None:
    """``G [M, N]^T @ bits [M, K]``, which is ``[N, K]``, in float32. None where Triton failed."""
    parts, spikes = _split(G), unpack(bits, M * K, torch.float16)
    if parts is None or spikes is None:
        return None
    high, low, back = parts
    spikes = spikes.view(M, K)
    return _joined(_multiply(high.t(), spikes), _multiply(low.t(), spikes), back, None)


def _split(W: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Two parts of a matrix in float16, and the number by which their sum is to be multiplied; see triton_bits."""
    if not W.is_contiguous() and not W.t().is_contiguous():
        W = W.contiguous()
    code, n = _code(), W.numel()
    programs = min(code.PARTS, _up(n, code.BLOCK))
    most = torch.empty(programs, dtype=torch.int32, device=W.device)
    high, low = (torch.empty_like(W, dtype=torch.float16) for _ in range(2))
    back = torch.empty((), dtype=torch.float32, device=W.device)
    done = _run("largest", (programs,), [W, most], [n, programs], BLOCK=code.BLOCK) and _run(
        "split", (_up(n, code.BLOCK),), [W, most, high, low, back], [n, programs], PARTS=code.PARTS, BLOCK=code.BLOCK
    )
    return (high, low, back) if done else None


def _joined(high: Tensor, low: Tensor, back: Tensor, bias: Tensor | None) -> Tensor | None:
    """The product, in the memory of the first of the two that it is made of."""
    (M, N), code = high.shape, _code()
    grid = (_up(M, code.ROWS), _up(N, code.WIDTH))
    bias = None if bias is None else bias.float().contiguous()
    done = _run("join", grid, [high, low, back, bias], [M, N], ROWS=code.ROWS, WIDTH=code.WIDTH)
    return high if done else None


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """The product of matrices in float16, added and returned in float32."""
    if a.is_cpu:  # where torch has no such product, and this is Triton's interpreter
        return torch.mm(a.float(), b.float())
    return torch.mm(a, b, out_dtype=torch.float32)


@functools.cache
def _multiplies(device: torch.device) -> bool:
    """Whether torch has that product: since 2.8 on GPUs of NVIDIA's. It is asked for once."""
    if device.type == "cpu":
        return True
    half = torch.empty(16, 16, dtype=torch.float16, device=device)
    try:
        torch.mm(half, half, out_dtype=torch.float32)
    except (TypeError, RuntimeError):
        return False
    return True


def _up(n: int, size: int) -> int:
    """How many blocks of a size it takes to hold n."""
    return -(-n // size)


_failed: set[str] = set()


def _run(name: str, grid: tuple[int, ...], tensors: list[Tensor | None], integers: list[int], **options: Any) -> bool:
    """Launches a kernel and returns True. Where Triton fails, this logs the error once and never tries it again."""
    if name in _failed:
        return False
    device = next(t.device for t in tensors if t is not None)
    code = _code()
    try:
        options = {"num_warps": code.WARPS[name], **options}
        triton_target.launcher(getattr(code, name), grid, integers, device, **options)(tensors)
    except BuildError as error:
        _failed.add(name)
        say_once(f"spikes of one bit are unpacked instead of used as they are: {error}")
        return False
    return True


@functools.cache
def _code() -> ModuleType:
    from . import triton_bits

    return triton_bits
