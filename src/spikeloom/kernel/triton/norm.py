"""triton/norm: holds the kernels in Triton of a batch norm that is joined to a neuron.

``x`` has ``rows`` = T * outer rows of ``[C, inner]``; row r begins at ``r // outer * stride + r % outer * C * inner``,
or at ``r * C * inner`` where x is DENSE. ``S`` is the type that is computed in. Numbers that are one per channel are
doubles until they are stored, and every sum is taken in one order, whatever the device.

No number is an argument, because floats would arrive in float32: eps and the momentum come as the bits of a double.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def start_of(r, outer, stride, width, DENSE: tl.constexpr):
    """The places at which rows of x begin."""
    start = r.to(tl.int64) * width
    if not DENSE:
        start = (r // outer).to(tl.int64) * stride + (r % outer).to(tl.int64) * width
    return start


@triton.jit
def finite(value):
    """The value, or 0 for one that is not finite: sums are taken about it, so that a large mean cancels nothing."""
    return tl.where(tl.abs(value) < float("inf"), value, 0.0)


@triton.jit
def from_bits(bits):
    """The double that has the bits of an integer."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit(do_not_specialize=["rows", "per_part", "outer"])  # they change with the batch
def statistics(
    x, sums, count, rows, per_part, outer, stride, C, inner,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, DENSE: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """Sums x, less the first value of its channel, and its square for each channel and each part of it.

    With COLUMNS a program takes WIDTH channels of one value each, otherwise one channel. A part is ``per_part`` tiles
    of ROWS and WIDTH: lanes sum them in S, then all lanes join a double. Behind the sums stands what the count of
    batches will be: ``finish`` writes it, and none of its programs may read what another one writes.
    """
    part = tl.program_id(1)
    if COLUMNS:
        column = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
        about = finite(tl.load(x + column, mask=column < C, other=0.0).to(S))[None, :]
        across = 1
        width = C
    else:
        channel = tl.program_id(0)
        about = finite(tl.load(x + channel * inner).to(S))
        across = (inner + WIDTH - 1) // WIDTH
        width = C * inner
    some = tl.zeros([ROWS, WIDTH], S)
    squares = tl.zeros([ROWS, WIDTH], S)
    tiles = (rows + ROWS - 1) // ROWS * across
    for tile in range(part * per_part, tl.minimum((part + 1) * per_part, tiles)):
        r = tile // across * ROWS + tl.arange(0, ROWS)
        if COLUMNS:
            there = (r < rows)[:, None] & (column < C)[None, :]
            place = start_of(r, outer, stride, width, DENSE)[:, None] + column[None, :]
        else:
            i = tile % across * WIDTH + tl.arange(0, WIDTH)
            there = (r < rows)[:, None] & (i < inner)[None, :]
            place = start_of(r, outer, stride, width, DENSE)[:, None] + (channel * inner + i)[None, :]
        d = tl.where(there, tl.load(x + place, mask=there, other=0.0).to(S) - about, 0.0)
        some += d
        squares += d * d
    total = tl.sum(some.to(tl.float64), 0)
    square = tl.sum(squares.to(tl.float64), 0)
    if COLUMNS:
        tl.store(sums + part * 2 * C + column, total, mask=column < C)
        tl.store(sums + (part * 2 + 1) * C + column, square, mask=column < C)
    else:
        tl.store(sums + part * 2 * C + channel, tl.sum(total, 0))
        tl.store(sums + (part * 2 + 1) * C + channel, tl.sum(square, 0))
    if count is not None:
        once = (part == 0) & (tl.program_id(0) == 0)
        tl.store(sums + tl.num_programs(1) * 2 * C, tl.load(count).to(tl.float64) + 1.0, mask=once)


@triton.jit(do_not_specialize=["C", "inner", "parts", "n", "eps", "factor"])
def finish(
    x, sums, weight, bias, running_mean, running_var, count, mean, var, scale, shift,
    C, inner, parts, n, eps, factor,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, AVERAGE: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """Mean, variance, scale and shift of each channel from its sums; running statistics and the count of batches move.

    The factor by which they move is 1 / count with AVERAGE. Without sums, mean and variance are the running ones.
    """
    c = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    there = c < C
    if sums is not None:
        total = tl.zeros([WIDTH], tl.float64)
        square = tl.zeros([WIDTH], tl.float64)
        for first in range(0, parts, ROWS):
            part = first + tl.arange(0, ROWS)
            mask = (part < parts)[:, None] & there[None, :]
            place = sums + part[:, None] * 2 * C + c[None, :]
            total += tl.sum(tl.load(place, mask=mask, other=0.0), 0)
            square += tl.sum(tl.load(place + C, mask=mask, other=0.0), 0)
        about = finite(tl.load(x + c * inner, mask=there, other=0.0).to(S)).to(tl.float64)
        values = n.to(tl.float64)
        away = total / values
        m = about + away
        v = square / values - away * away
        v = tl.where(v < 0.0, 0.0, v)  # a NaN stays one
        seen = 1.0
        if count is not None:
            seen = tl.load(sums + parts * 2 * C)
            tl.store(count, seen.to(count.dtype.element_ty), mask=tl.program_id(0) == 0)
        if running_mean is not None:
            by = from_bits(factor)
            if AVERAGE:
                by = 1.0 / seen
            old = tl.load(running_mean + c, mask=there, other=0.0).to(S).to(tl.float64)
            new = (1.0 - by) * old + by * m
            tl.store(running_mean + c, new.to(S).to(running_mean.dtype.element_ty), mask=there)
            old = tl.load(running_var + c, mask=there, other=0.0).to(S).to(tl.float64)
            new = (1.0 - by) * old + by * (v * (values / (values - 1.0)))
            tl.store(running_var + c, new.to(S).to(running_var.dtype.element_ty), mask=there)
    else:
        m = tl.load(running_mean + c, mask=there, other=0.0).to(S).to(tl.float64)
        v = tl.load(running_var + c, mask=there, other=1.0).to(S).to(tl.float64)
    a = 1.0 / tl.sqrt(v + from_bits(eps))
    if weight is not None:
        a = a * tl.load(weight + c, mask=there, other=0.0).to(S).to(tl.float64)
    b = -m * a
    if bias is not None:
        b = tl.load(bias + c, mask=there, other=0.0).to(S).to(tl.float64) - m * a
    tl.store(mean + c, m, mask=there)
    tl.store(var + c, v, mask=there)
    tl.store(scale + c, a.to(S), mask=there)
    tl.store(shift + c, b.to(S), mask=there)


@triton.jit(do_not_specialize=["M", "C", "K", "n", "eps"])
def slopes(
    g_scale, g_shift, mean, var, weight, g_weight, g_bias, slope, offset, M, C, K, n, eps,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """From dL/dscale and dL/dshift: gradients of weight and bias, slope and offset of the correction.

    The two are sums over M and K of ``[M, C, K]``. With COLUMNS K is 1 and a program takes WIDTH channels, otherwise
    one channel.
    """
    if COLUMNS:
        c = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
        across = 1
    else:
        c = tl.program_id(0) + tl.arange(0, 1)
        across = (K + WIDTH - 1) // WIDTH
    there = c < C
    scales = tl.zeros([ROWS, WIDTH], tl.float64)
    shifts = tl.zeros([ROWS, WIDTH], tl.float64)
    for tile in range(0, (M + ROWS - 1) // ROWS * across):
        row = tile // across * ROWS + tl.arange(0, ROWS)
        if COLUMNS:
            mask = (row < M)[:, None] & there[None, :]
            place = row.to(tl.int64)[:, None] * C + c[None, :]
        else:
            k = tile % across * WIDTH + tl.arange(0, WIDTH)
            mask = (row < M)[:, None] & (k < K)[None, :]
            place = (row.to(tl.int64) * C + tl.program_id(0))[:, None] * K + k[None, :]
        scales += tl.load(g_scale + place, mask=mask, other=0.0).to(tl.float64)
        shifts += tl.load(g_shift + place, mask=mask, other=0.0).to(tl.float64)
    by_scale = tl.sum(scales, 0)
    by_shift = tl.sum(shifts, 0)
    if not COLUMNS:
        by_scale = tl.zeros([1], tl.float64) + tl.sum(by_scale, 0)
        by_shift = tl.zeros([1], tl.float64) + tl.sum(by_shift, 0)
    m = tl.load(mean + c, mask=there, other=0.0)
    r = 1.0 / tl.sqrt(tl.load(var + c, mask=there, other=1.0) + from_bits(eps))
    total = by_scale - m * by_shift  # the shift depends on the scale
    if g_weight is not None:
        tl.store(g_weight + c, (total * r).to(S).to(g_weight.dtype.element_ty), mask=there)
    if g_bias is not None:
        tl.store(g_bias + c, by_shift.to(S).to(g_bias.dtype.element_ty), mask=there)
    if slope is not None:
        w = r / n.to(tl.float64)
        if weight is not None:
            w = w * tl.load(weight + c, mask=there, other=0.0).to(S).to(tl.float64)
        steep = -total * w * r * r
        tl.store(slope + c, steep.to(S), mask=there)
        tl.store(offset + c, (-by_shift * w - steep * m).to(S), mask=there)


@triton.jit(do_not_specialize=["rows", "outer"])
def correct(
    x, gx, slope, offset, rows, outer, stride, C, inner,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, DENSE: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """gx += slope x + offset, in tiles as those of the statistics; gx is dense."""
    if COLUMNS:
        across = (C + WIDTH - 1) // WIDTH
        tile = tl.program_id(0) // across
        i = tl.program_id(0) % across * WIDTH + tl.arange(0, WIDTH)
        columns = i < C
        a = tl.load(slope + i, mask=columns, other=0.0)[None, :]
        b = tl.load(offset + i, mask=columns, other=0.0)[None, :]
        width = C
    else:
        across = (inner + WIDTH - 1) // WIDTH
        channel = tl.program_id(0) % C
        tile = tl.program_id(0) // C // across
        i = tl.program_id(0) // C % across * WIDTH + tl.arange(0, WIDTH)
        columns = i < inner
        i += channel * inner
        a = tl.load(slope + channel)
        b = tl.load(offset + channel)
        width = C * inner
    r = tile * ROWS + tl.arange(0, ROWS)
    there = (r < rows)[:, None] & columns[None, :]
    value = tl.load(x + start_of(r, outer, stride, width, DENSE)[:, None] + i[None, :], mask=there, other=0.0).to(S)
    to = gx + r.to(tl.int64)[:, None] * width + i[None, :]
    new = tl.load(to, mask=there, other=0.0).to(S) + (a * value + b)
    tl.store(to, new.to(gx.dtype.element_ty), mask=there)
