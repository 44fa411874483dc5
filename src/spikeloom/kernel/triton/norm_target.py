"""triton/norm_target: launches the kernels of a batch norm that is joined to a neuron.

A training step takes four of them: statistics and finish when the norm is called, slopes and correct in the backward
pass. Nothing else runs on the device: what is one number per channel is computed inside.
"""

from __future__ import annotations

import functools
import struct
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ...native.build import BuildError
from ..dtypes import state_dtype
from ..norm import Geometry, Moments, Norm, moved
from .launcher import Launcher, launcher

_LANE = 32  # values that one lane of a tile sums in float32 before they join a double: more would lose digits
_MOST = 65535  # parts, of which each is a row of programs
_PROGRAMS = 4096  # of the statistics where a row has many values of each channel, if there is work for so many
_PARTS = 256  # parts of the rows where it has one
_TILE = 1024  # values of a tile of x where a row has many of each channel, 8 for each thread of 4 warps
_SHORT = 4096  # of the statistics where few values of a channel are side by side: smaller tiles are start and end
_BROAD = 256  # with so many side by side, norm and neuron took an H200 .38 ms in such tiles and .24 in smaller ones
_COLUMNS = 8192  # the same where a row has one value of each channel: 32 for each thread of 8 warps
_WIDEST = 128  # channels of a program there
_FINISHED = 2048  # doubles of a tile of parts


class NormByTriton:
    """What a target in Triton does for a batch norm, see :class:`spikeloom.kernel.norm.NormKernels`."""

    def moments(self, norm: Norm, geometry: Geometry, x: Tensor, order: tuple[int, ...]) -> Moments:
        g, count = geometry, norm.count if norm.tracks else None
        if not norm.batch:
            return _finish(norm, x, None, None, (g.C, 1, 1, 0))
        parts, launch = _statistics(g, x.dtype, x.device)
        sums = torch.empty(parts * 2 * g.C + 1, dtype=torch.float64, device=x.device)
        launch([x, sums, count])
        return _finish(norm, x, sums, count, (g.C, g.inner, parts, g.T * g.outer * g.inner))

    def slopes(
        self, norm: Norm, moments: Moments, g_scale: Tensor, g_shift: Tensor, *, correction: bool
    ) -> tuple[Tensor | None, ...]:
        like, (weight, bias) = moments.scale, (norm.weight, norm.bias)
        g_weight = None if weight is None else torch.empty_like(weight, memory_format=torch.contiguous_format)
        g_bias = None if bias is None else torch.empty_like(bias, memory_format=torch.contiguous_format)
        slope = torch.empty_like(like) if correction else None
        offset = torch.empty_like(like) if correction else None
        launch = _slopes(tuple(g_scale.shape), moments.n, float(norm.eps), like.dtype, like.device)
        given = [g_scale, g_shift, moments.mean, moments.var, _dense(weight)]
        launch([*given, g_weight, g_bias, slope, offset])
        return g_weight, g_bias, slope, offset

    def correct(self, geometry: Geometry, x: Tensor, gx: Tensor, slope: Tensor, offset: Tensor) -> None:
        _correct(geometry, x.dtype, x.device)([x, gx, slope, offset])


def _finish(
    norm: Norm, x: Tensor, sums: Tensor | None, count: Tensor | None, sizes: tuple[int, int, int, int]
) -> Moments:
    """The moments from the sums, which the running statistics follow, or from these where there are no sums.

    ``sizes``: channels, values side by side of one channel, parts of the sums, values of each channel.
    """
    C, device, dtype = sizes[0], x.device, state_dtype(x.dtype)
    running = (norm.running_mean, norm.running_var) if sums is None or norm.tracks else (None, None)
    ready = [None if t is None else t.contiguous() for t in running]
    mean = torch.empty(C, dtype=torch.float64, device=device)
    var = torch.empty(C, dtype=torch.float64, device=device)
    scale, shift = torch.empty(C, dtype=dtype, device=device), torch.empty(C, dtype=dtype, device=device)
    average = norm.momentum is None and count is not None
    launch = _finishing(sizes, float(norm.eps), float(norm.momentum or 0.0), average, x.dtype, device)
    launch([x, sums, _dense(norm.weight), _dense(norm.bias), *ready, count, mean, var, scale, shift])
    if sums is not None:
        for old, new in zip(running, ready, strict=True):
            if old is not None and new is not None and new is not old:
                old.data.copy_(new)  # it has strides
        if count is not None:
            moved(count)
    return Moments(mean, var, sizes[3], scale, shift)


# Launches, by all that they depend on.


@functools.lru_cache(maxsize=1024)
def _statistics(geometry: Geometry, dtype: torch.dtype, device: torch.device) -> tuple[int, Launcher]:
    """What sums x and its square, about the first value of each channel, for each of so many parts:
    ``[parts, 2, C]`` doubles, and one more, what the count of batches will be.
    """
    g, rows, per_column = geometry, geometry.T * geometry.outer, geometry.inner == 1
    if rows >= 2**31 - 2**16:
        raise BuildError(f"a batch norm over {rows} rows is larger than what Triton kernels count, 2^31")
    width = min(_power_of_two(g.C if per_column else g.inner), _WIDEST if per_column else _TILE)
    values = _COLUMNS if per_column else _SHORT if width < _BROAD else _TILE
    height = min(values // width, _power_of_two(rows))
    tiles = -(-rows // height) * (1 if per_column else -(-g.inner // width))
    per_part = min(_LANE, -(-tiles // (_PARTS if per_column else -(-_PROGRAMS // g.C))))
    per_part = max(per_part, -(-tiles // _MOST))
    parts = -(-tiles // per_part)
    grid = (-(-g.C // width) if per_column else g.C, parts)
    integers = [rows, per_part, g.outer, g.stride, g.C, g.inner]
    shape = dict(ROWS=height, WIDTH=width, COLUMNS=per_column, DENSE=g.dense, S=_compute(dtype))
    warps = 8 if height * width > _TILE else 4
    return parts, launcher(_code().statistics, grid, integers, device, **shape, num_warps=warps)


@functools.lru_cache(maxsize=1024)
def _finishing(
    sizes: tuple[int, int, int, int],
    eps: float,
    momentum: float,
    average: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Launcher:
    C, _, parts, _ = sizes
    height = min(_PARTS, _power_of_two(parts))
    width = min(_FINISHED // height, 64, _power_of_two(C))
    shape = dict(ROWS=height, WIDTH=width, AVERAGE=average, S=_compute(dtype))
    integers = [*sizes, _bits(eps), _bits(momentum)]
    return launcher(_code().finish, (-(-C // width),), integers, device, **shape)


@functools.lru_cache(maxsize=1024)
def _slopes(sizes: tuple[int, ...], n: int, eps: float, dtype: torch.dtype, device: torch.device) -> Launcher:
    M, C, K = sizes
    per_column = K == 1
    width = min(_power_of_two(C), 4) if per_column else min(_power_of_two(K), 256)
    height = min(_power_of_two(M), 2 * _FINISHED // width)
    shape = dict(ROWS=height, WIDTH=width, COLUMNS=per_column, S=_compute(dtype))
    warps = 8 if height * width > _FINISHED else 4
    grid = (-(-C // width) if per_column else C,)
    return launcher(_code().slopes, grid, [M, C, K, n, _bits(eps)], device, **shape, num_warps=warps)


@functools.lru_cache(maxsize=1024)
def _correct(geometry: Geometry, dtype: torch.dtype, device: torch.device) -> Launcher:
    g, rows, per_column = geometry, geometry.T * geometry.outer, geometry.inner == 1
    width = min(_power_of_two(g.C if per_column else g.inner), _WIDEST if per_column else _TILE)
    height = min(_TILE // width, _power_of_two(rows))
    across = -(-(g.C if per_column else g.inner) // width)
    grid = (-(-rows // height) * across * (1 if per_column else g.C),)
    shape = dict(ROWS=height, WIDTH=width, COLUMNS=per_column, DENSE=g.dense, S=_compute(dtype))
    return launcher(_code().correct, grid, [rows, g.outer, g.stride, g.C, g.inner], device, **shape)


def _bits(value: float) -> int:
    """The bits of a double as an integer, which a kernel gets as it is."""
    return int(struct.unpack("q", struct.pack("d", value))[0])


def _dense(number: Tensor | None) -> Tensor | None:
    return None if number is None else number.detach().contiguous()


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


@functools.cache
def _code() -> ModuleType:
    from . import norm as triton_norm

    return triton_norm


def _compute(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32
