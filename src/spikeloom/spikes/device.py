"""device: bits and their products where Triton computes: on GPUs, and in its interpreter where it is asked for."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..kernel.backend import chosen, say_once
from ..kernel.triton import target as triton_target
from ..native.build import BuildError

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
TILE = (128, 64, 32)
"""Rows, columns and depth of what a program multiplies at a time. Larger tiles spill registers of an A100."""
WARPS = 8
_LONG = 2**31  # from this index on, int32 overflows
_PROGRAMS = 512  # about as many programs share the gradient of a weight; fewer may leave a GPU idle


def available(bits: Tensor) -> bool:
    """Whether Triton works on a tensor now."""
    name = chosen()
    if type(bits) is not Tensor or (name != "triton" if bits.is_cpu else name not in ("auto", "triton")):
        return False
    return not triton_target.problem(bits.device.type)


def pack(x: Tensor, size: int) -> tuple[Tensor, bool] | None:
    """The bits of a contiguous tensor, and whether all values are 0 or 1. None where there is no kernel for it."""
    if x.dtype not in _FLOATS or x.numel() == 0 or not available(x):
        return None
    bits = torch.empty(size, dtype=torch.uint8, device=x.device)
    wrong = torch.zeros(1, dtype=torch.int32, device=x.device)
    code = _code()
    fine = _run(code.pack, (_up(x.numel(), code.BLOCK),), [x, bits, wrong], [x.numel()], BLOCK=code.BLOCK)
    return (bits, not wrong.item()) if fine else None


def unpack(bits: Tensor, n: int, dtype: torch.dtype) -> Tensor | None:
    """The n spikes as a flat tensor. None where there is no kernel for it."""
    if dtype not in _FLOATS or n == 0 or not available(bits):
        return None
    x, code = torch.empty(n, dtype=dtype, device=bits.device), _code()
    return x if _run(code.unpack, (_up(n, code.BLOCK),), [bits, x], [n], BLOCK=code.BLOCK) else None


def pays(bits: Tensor, dtype: torch.dtype, other: Tensor) -> bool:
    """Whether a product from bits is expected to be faster than a dense one.

    In float32 the kernel computes three products in bfloat16, on matrix units that torch's exact product leaves idle.
    Products in TF32, bfloat16 and float16 use these units anyway. Nobody has measured that yet; inside
    ``sl.backend("triton")`` the kernel runs wherever there is one.
    """
    if dtype not in _FLOATS or other.dtype != dtype or other.device != bits.device or not available(bits):
        return False
    return chosen() == "triton" or (dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest")


def times(bits: Tensor, M: int, K: int, W: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """``bits [M, K] @ W [K, N] (+ bias)`` in W's dtype, with sums in float32. None where Triton failed.

    The order of additions depends on K and N alone, so that a row gives the same result in any batch.
    """
    y = W.new_empty(M, W.shape[1])
    return y if _times(bits, (M, K), (K, 1), W, bias, y, (y.stride(0), 1), K) else None


def weight_gradient(bits: Tensor, M: int, K: int, G: Tensor) -> Tensor | None:
    """``(bits [M, K]^T @ G [M, N])^T``, which is ``[N, K]``; None where Triton failed. Sums are in float32."""
    N, (rows, width, step) = G.shape[1], TILE
    tiles = _up(K, rows) * _up(N, width)
    parts = max(1, min(_PROGRAMS // tiles, M // (8 * step)))
    depth = _up(_up(M, parts), step) * step
    parts = _up(M, depth)
    y = G.new_empty(parts, N, K, dtype=torch.float32 if parts > 1 else G.dtype)
    done = _times(bits, (K, M), (1, K), G, None, y, (1, K), depth)
    return None if not done else y[0] if parts == 1 else y.sum(0).to(G.dtype)


def _up(n: int, size: int) -> int:
    """How many blocks of a size it takes to hold n."""
    return -(-n // size)


def _times(
    bits: Tensor,
    shape: tuple[int, int],
    strides: tuple[int, int],
    W: Tensor,
    bias: Tensor | None,
    y: Tensor,
    y_strides: tuple[int, int],
    depth: int,
) -> bool:
    import triton.language as tl

    (M, K), N, (rows, width, step) = shape, W.shape[1], TILE
    grid = (_up(M, rows), _up(N, width), y.shape[0] if y.ndim == 3 else 1)
    long = max(8 * bits.numel(), y.numel(), *(n * s for n, s in zip(W.shape, W.stride(), strict=True))) >= _LONG
    integers = [M, N, K, depth, *strides, *W.stride(), *y_strides]
    factors = tl.float32 if bits.is_cpu else tl.float16 if W.dtype == torch.float16 else tl.bfloat16
    options = dict(ROWS=rows, WIDTH=width, DEPTH=step, LONG=long, P=factors)
    return _run(_code().times, grid, [bits, W, bias, y], integers, num_warps=WARPS, **options)


_failed: set[Any] = set()


def _run(kernel: Any, grid: tuple[int, ...], tensors: list[Tensor | None], integers: list[int], **options: Any) -> bool:
    """Launches a kernel and returns True. Where Triton fails, this logs the error once and never tries it again."""
    if kernel in _failed:
        return False
    device = next(t.device for t in tensors if t is not None)
    try:
        triton_target.launcher(kernel, grid, integers, device, **options)(tensors)
    except BuildError as error:
        _failed.add(kernel)
        say_once(f"spikes of one bit are unpacked instead of used as they are: {error}")
        return False
    return True


@functools.cache
def _code() -> ModuleType:
    from . import triton_bits

    return triton_bits
