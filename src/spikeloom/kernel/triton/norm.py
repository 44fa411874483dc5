"""triton/norm: holds the kernels in Triton of a batch norm's statistics and of their share of the gradient.

``x`` has ``rows`` = T * outer rows of ``[C, inner]``; row r begins at ``r // outer * stride + r % outer * C * inner``.
"""

from __future__ import annotations

import triton
import triton.language as tl

TILE = 1024
"""How many values one program holds at a time. More of them take more registers."""


@triton.jit
def start_of(r, outer, stride, width):
    """The places at which rows of x begin."""
    return (r // outer).to(tl.int64) * stride + (r % outer).to(tl.int64) * width


@triton.jit(do_not_specialize=["rows", "per_part", "outer"])  # they change with the batch
def statistics(
    x, first, sums, rows, per_part, outer, stride, C, inner,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """Sums x - first and its square for each part of the rows and each channel, in float64 across tiles.

    With COLUMNS a program takes WIDTH channels of one value each, otherwise one channel.
    """
    part = tl.program_id(0)
    end = tl.minimum((part + 1) * per_part, rows)
    if COLUMNS:
        column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
        about = tl.load(first + column, mask=column < C, other=0.0)[None, :]
        total = tl.zeros([WIDTH], tl.float64)
        square = tl.zeros([WIDTH], tl.float64)
        for r0 in range(part * per_part, end, ROWS):
            r = r0 + tl.arange(0, ROWS)
            there = (r < end)[:, None] & (column < C)[None, :]
            place = start_of(r, outer, stride, C)[:, None] + column[None, :]
            d = tl.where(there, tl.load(x + place, mask=there, other=0.0).to(S) - about, 0.0)
            total += tl.sum(d, 0).to(tl.float64)
            square += tl.sum(d * d, 0).to(tl.float64)
        tl.store(sums + (part * 2) * C + column, total, mask=column < C)
        tl.store(sums + (part * 2 + 1) * C + column, square, mask=column < C)
    else:
        c = tl.program_id(1)
        about = tl.load(first + c)
        total = tl.zeros([1], tl.float64)
        square = tl.zeros([1], tl.float64)
        for r0 in range(part * per_part, end, ROWS):
            r = r0 + tl.arange(0, ROWS)
            rows_at = start_of(r, outer, stride, C * inner) + c * inner
            for i0 in range(0, inner, WIDTH):
                i = i0 + tl.arange(0, WIDTH)
                there = (r < end)[:, None] & (i < inner)[None, :]
                place = rows_at[:, None] + i[None, :]
                d = tl.where(there, tl.load(x + place, mask=there, other=0.0).to(S) - about, 0.0)
                total += tl.sum(tl.sum(d, 1), 0).to(tl.float64)
                square += tl.sum(tl.sum(d * d, 1), 0).to(tl.float64)
        one = tl.arange(0, 1)
        tl.store(sums + (part * 2) * C + c + one, total)
        tl.store(sums + (part * 2 + 1) * C + c + one, square)


@triton.jit(do_not_specialize=["rows", "outer"])
def correct(
    x, gx, slope, offset, rows, outer, stride, width, inner,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """gx += slope x + offset."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = (r < rows)[:, None] & (column < width)[None, :]
    a = tl.load(slope + column // inner, mask=column < width, other=0.0)[None, :]
    b = tl.load(offset + column // inner, mask=column < width, other=0.0)[None, :]
    value = tl.load(x + start_of(r, outer, stride, width)[:, None] + column[None, :], mask=there, other=0.0).to(S)
    to = gx + r.to(tl.int64)[:, None] * width + column[None, :]
    new = tl.load(to, mask=there, other=0.0).to(S) + (a * value + b)
    tl.store(to, new.to(gx.dtype.element_ty), mask=there)
