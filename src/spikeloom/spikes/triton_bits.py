"""triton_bits: kernels in Triton that pack, unpack and count bits, and that split matrices for products with them."""

# ruff: noqa: N802  # names as in triton_functions
from __future__ import annotations

import triton
import triton.language as tl

PACKED = 256
"""Bytes that one program of :func:`pack` writes."""
UNPACKED = 512
"""Bytes that one program of :func:`unpack` reads."""
COUNTED = 4096
"""Bytes that one program of :func:`count` reads."""
ALONG = 2048
"""Bits that one program of :func:`count_along` reads at a time."""
COLUMNS, BYTES = 64, 8
"""Columns of a matrix, and bytes of each, that one program of :func:`transpose` writes."""
PARTS = 512
"""Most programs of :func:`largest`, whose results each program of :func:`split` reads."""
BLOCK = 2048
"""Values that programs of :func:`largest` and :func:`split` take at a time."""
ROWS, WIDTH = 8, 256
"""What one program of :func:`join` writes."""
WARPS = {"pack": 2, "unpack": 4, "count": 4, "count_along": 4, "transpose": 4, "largest": 8, "split": 8, "join": 4}


@triton.jit
def K_pack(x, bits, wrong, at, n, CHECK: tl.constexpr, PART: tl.constexpr):
    """Packs the bytes ``at``; with PART there may be fewer than n values."""
    i = at[:, None] * 8 + tl.arange(0, 8)[None, :]
    if PART:
        v = tl.load(x + i, mask=i < n, other=0.0)
    else:
        v = tl.load(x + i)
    if x.dtype.element_ty != tl.float64:
        v = v.to(tl.float32)
    byte = tl.sum((v == 1.0).to(tl.int32) << tl.arange(0, 8)[None, :], 1).to(tl.uint8)
    if PART:
        tl.store(bits + at, byte, mask=at * 8 < n)
    else:
        tl.store(bits + at, byte)
    if CHECK:
        other = ((v != 0.0) & (v != 1.0)).to(tl.int32)
        if tl.max(tl.max(other, 1), 0) > 0:
            tl.store(wrong, 1)


@triton.jit(do_not_specialize=["n"])
def pack(x, bits, wrong, n, BYTES: tl.constexpr, CHECK: tl.constexpr):
    """Writes the bits of n values. With CHECK, ``wrong`` becomes 1 if one is neither 0 nor 1.

    All programs but the last read without a mask: one that compares with n would split wide reads into single values.
    """
    first = tl.program_id(0).to(tl.int64) * BYTES
    at = first + tl.arange(0, BYTES)
    if (first + BYTES) * 8 <= n:
        K_pack(x, bits, wrong, at, n, CHECK, False)
    else:
        K_pack(x, bits, wrong, at, n, CHECK, True)


@triton.jit(do_not_specialize=["n"])
def unpack(bits, x, n, BYTES: tl.constexpr):
    """Writes n values from their bits: 8 from each byte, so that bits may begin anywhere."""
    first = tl.program_id(0).to(tl.int64) * BYTES
    at = first + tl.arange(0, BYTES)
    i = at[:, None] * 8 + tl.arange(0, 8)[None, :]
    one = tl.full([BYTES, 8], 1.0, tl.float32).to(x.dtype.element_ty)
    zero = tl.full([BYTES, 8], 0.0, tl.float32).to(x.dtype.element_ty)
    if (first + BYTES) * 8 <= n:
        byte = tl.load(bits + at).to(tl.int32)
        tl.store(x + i, tl.where(((byte[:, None] >> tl.arange(0, 8)[None, :]) & 1) != 0, one, zero))
    else:
        byte = tl.load(bits + at, mask=at * 8 < n, other=0).to(tl.int32)
        tl.store(x + i, tl.where(((byte[:, None] >> tl.arange(0, 8)[None, :]) & 1) != 0, one, zero), mask=i < n)


@triton.jit
def count(bits, counts, n, BYTES: tl.constexpr):
    """Writes how many bits are 1 in the program's share of n bytes."""
    at = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    x = tl.load(bits + at, mask=at < n, other=0).to(tl.int32)
    x = x - ((x >> 1) & 0x55)
    x = (x & 0x33) + ((x >> 2) & 0x33)
    tl.store(counts + tl.program_id(0), tl.sum((x + (x >> 4)) & 15, 0))


@triton.jit(do_not_specialize=["summed"])
def count_along(bits, counts, summed, inner, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Writes ``counts[o, i]``, the number of ones among the bits ``(o summed + r) inner + i`` for all r."""
    o = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    found = tl.zeros([ROWS, WIDTH], tl.int32)
    start = 0
    while start < summed:
        r = start + tl.arange(0, ROWS)
        at = (o * summed + r)[:, None] * inner + i[None, :]
        byte = tl.load(bits + (at >> 3), mask=(r < summed)[:, None] & (i < inner)[None, :], other=0).to(tl.int32)
        found += (byte >> (at & 7).to(tl.int32)) & 1
        start += ROWS
    tl.store(counts + o * inner + i, tl.sum(found, 0), mask=i < inner)


@triton.jit
def transpose(bits, turned, M, K, COLUMNS: tl.constexpr, BYTES: tl.constexpr):
    """Writes the bits of matrices ``[K, M]`` from those of ``[M, K]``, M a multiple of 8."""
    image = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    j = tl.program_id(2) * BYTES + tl.arange(0, BYTES)
    there = (k < K)[:, None] & (j * 8 < M)[None, :]
    first = (image * M + j * 8)[None, :] * K + k[:, None]
    found = tl.zeros([COLUMNS, BYTES], tl.int32)
    for b in tl.static_range(8):
        at = first + b * K
        byte = tl.load(bits + (at >> 3), mask=there, other=0).to(tl.int32)
        found |= ((byte >> (at & 7).to(tl.int32)) & 1) << b
    tl.store(turned + (image * K + k)[:, None] * (M // 8) + j[None, :], found.to(tl.uint8), mask=there)


@triton.jit(do_not_specialize=["programs"])
def largest(w, most, n, programs, BLOCK: tl.constexpr):
    """Writes the program's largest finite |w|, as the integer of its bits, which are in the same order."""
    found = tl.zeros([BLOCK], tl.int32)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    while start < n:  # older interpreters have no range of what is known when the kernel runs
        i = start + tl.arange(0, BLOCK)
        v = tl.load(w + i, mask=i < n, other=0.0).to(tl.int32, bitcast=True) & 0x7FFFFFFF
        found = tl.maximum(found, tl.where(v < 0x7F800000, v, 0))
        start += programs * BLOCK
    tl.store(most + tl.program_id(0), tl.max(found, 0))


@triton.jit(do_not_specialize=["programs"])
def split(w, most, high, low, back, n, programs, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """Writes ``w = back (high + low / 2^11)`` with two numbers of float16, 11 of w's 24 bits each, and ``back``.

    ``back`` is a power of two by which the largest finite |w| comes to lie between 2^14 and 2^15, near the end of
    float16's range, so that what is 2^-28 of it still has all its bits. Infinity and NaN stay as they are in ``high``.
    """
    k = tl.arange(0, PARTS)
    top = tl.max(tl.load(most + k, mask=k < programs, other=0), 0)
    shift = tl.minimum(141 - (top >> 23), 126)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(w + i, mask=i < n, other=0.0) * ((shift + 127) << 23).to(tl.float32, bitcast=True)
    h = v.to(tl.float16)
    rest = tl.where((v - v) == 0.0, (v - h.to(tl.float32)) * 2048.0, 0.0)
    tl.store(high + i, h, mask=i < n)
    tl.store(low + i, rest.to(tl.float16), mask=i < n)
    if tl.program_id(0) == 0:
        tl.store(back, ((127 - shift) << 23).to(tl.float32, bitcast=True))


@triton.jit(do_not_specialize=["M"])
def join(high, low, back, bias, M, N, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Writes ``back (high + low / 2^11) (+ bias)`` over ``high [M, N]``: a product, from those with both parts."""
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = (m < M)[:, None] & (n < N)[None, :]
    i = m[:, None] * N + n[None, :]
    y = tl.load(high + i, mask=there, other=0.0) + tl.load(low + i, mask=there, other=0.0) * 0.00048828125
    y = y * tl.load(back)
    if bias is not None:
        y += tl.load(bias + n, mask=n < N, other=0.0)[None, :]
    tl.store(high + i, y, mask=there)
