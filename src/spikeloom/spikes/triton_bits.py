"""triton_bits: packing, unpacking and products of spikes of one bit each, as kernels in Triton."""

# ruff: noqa: N802  # names as in triton_functions
from __future__ import annotations

import triton
import triton.language as tl

from ..kernel.triton.functions import K_bits

BLOCK = 1024
"""The number of values that one program packs or unpacks."""


@triton.jit(do_not_specialize=["n"])
def pack(x, bits, wrong, n, BLOCK: tl.constexpr):
    """Writes the bits of n values; ``wrong`` becomes 1 if one is neither 0 nor 1."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0.0).to(tl.float32)
    place = tl.program_id(0).to(tl.int64) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    tl.store(bits + place, K_bits(v), mask=place * 8 < n)
    if tl.max(((v != 0.0) & (v != 1.0)).to(tl.int32), 0) > 0:
        tl.store(wrong, 1)


@triton.jit(do_not_specialize=["n"])
def unpack(bits, x, n, BLOCK: tl.constexpr):
    """Writes n values from their bits."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    byte = tl.load(bits + (i >> 3), mask=i < n, other=0).to(tl.int32)
    one = ((byte >> (i & 7).to(tl.int32)) & 1).to(tl.float32)
    tl.store(x + i, one.to(x.dtype.element_ty), mask=i < n)


@triton.jit
def K_upper(w):
    """The upper half of a float32, which bfloat16 holds exactly."""
    return (w.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["M"])
def times(
    bits, w, bias, y, M, N, K, depth, s_row, s_column, w_row, w_column, y_row, y_column,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, LONG: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """Writes y[part, M, N] = S @ w (+ bias) over the part's ``depth`` of K; S[i, k] is bit i * s_row + k * s_column.

    A float32 weight is the sum of three numbers of bfloat16, 8 of its 24 bits each, and 0 and 1 are exact in bfloat16:
    three products that add in float32 lose nothing. P is the type of the factors: float32 in the interpreter, which
    cannot multiply in bfloat16. With LONG, indices have 64 bits.
    """
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    part = tl.program_id(2)
    if LONG:
        i = i.to(tl.int64)
        j = j.to(tl.int64)
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    end = tl.minimum((part + 1) * depth, K)
    for k0 in range(part * depth, end, DEPTH):
        k = k0 + tl.arange(0, DEPTH)
        if LONG:
            k = k.to(tl.int64)
        at = i[:, None] * s_row + k[None, :] * s_column
        byte = tl.load(bits + (at >> 3), mask=(i < M)[:, None] & (k < end)[None, :], other=0).to(tl.int32)
        s = ((byte >> (at & 7).to(tl.int32)) & 1).to(tl.float32).to(P)
        there = (k < end)[:, None] & (j < N)[None, :]
        v = tl.load(w + k[:, None] * w_row + j[None, :] * w_column, mask=there, other=0.0)
        if v.dtype == tl.float32:
            high = K_upper(v)
            finite = (v - v) == 0.0  # of infinity and NaN there is nothing to split
            rest = tl.where(finite, v - high, 0.0)
            middle = K_upper(rest)
            acc = tl.dot(s, tl.where(finite, high, v).to(tl.bfloat16).to(P), acc)
            acc = tl.dot(s, middle.to(tl.bfloat16).to(P), acc)
            acc = tl.dot(s, (rest - middle).to(tl.bfloat16).to(P), acc)
        else:
            acc = tl.dot(s, v.to(P), acc)
    if bias is not None:
        acc += tl.load(bias + j, mask=j < N, other=0.0).to(tl.float32)[None, :]
    to = y + (part.to(tl.int64) * M) * N + i[:, None] * y_row + j[None, :] * y_column
    tl.store(to, acc.to(y.dtype.element_ty), mask=(i < M)[:, None] & (j < N)[None, :])
