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
from .launcher import launcher

_LANE = 32  # values that one lane of a tile sums in float32 before they join a double: more would lose digits
_MOST = 65535  # parts, of which each is a row of programs
_PROGRAMS = 4096  # of the statistics where a row has many values of each channel, if there is work for so many
_PARTS = 256  # parts of the rows where it has one
_TILE = 1024  # values of a tile of x where a row has many of each channel, 8 for each thread of 4 warps
_COLUMNS = 8192  # the same where it has one: 32 for each thread of 8 warps
_WIDEST = 128  # channels of a program there
_FINISHED = 2048  # doubles of a tile of parts


class NormByTriton:
    """What a target in Triton does for a batch norm, see :class:`spikeloom.kernel.norm.NormKernels`."""

    def moments(self, norm: Norm, geometry: Geometry, x: Tensor, order: tuple[int, ...]) -> Moments:
        g, count = geometry, norm.count if norm.tracks else None
        if not norm.batch:
            return self._finish(norm, x, (None, None), (g.C, 1, 1, 0))
        sums, parts = self._statistics(g, x, count)
        n = g.T * g.outer * g.inner
        average = norm.momentum is None and count is not None
        return self._finish(norm, x, (sums, count), (g.C, g.inner, parts, n), average=average)

    def _statistics(self, geometry: Geometry, x: Tensor, count: Tensor | None) -> tuple[Tensor, int]:
        """Sums of x and of its square, about the first value of each channel, for each of so many parts:
        ``[parts, 2, C]`` doubles, and one more, what the count of batches will be.
        """
        g, rows, per_column = geometry, geometry.T * geometry.outer, geometry.inner == 1
        if rows >= 2**31 - 2**16:
            raise BuildError(f"a batch norm over {rows} rows is larger than what Triton kernels count, 2^31")
        width = min(_power_of_two(g.C if per_column else g.inner), _WIDEST if per_column else _TILE)
        height = min((_COLUMNS if per_column else _TILE) // width, _power_of_two(rows))
        tiles = -(-rows // height) * (1 if per_column else -(-g.inner // width))
        per_part = min(_LANE, -(-tiles // (_PARTS if per_column else -(-_PROGRAMS // g.C))))
        per_part = max(per_part, -(-tiles // _MOST))
        parts = -(-tiles // per_part)
        sums = torch.empty(parts * 2 * g.C + 1, dtype=torch.float64, device=x.device)
        grid = (-(-g.C // width) if per_column else g.C, parts)
        integers = [rows, per_part, g.outer, g.stride, g.C, g.inner]
        shape = dict(ROWS=height, WIDTH=width, COLUMNS=per_column, DENSE=g.dense, S=_compute(x.dtype))
        warps = 8 if height * width > _TILE else 4
        launcher(_code().statistics, grid, integers, x.device, **shape, num_warps=warps)([x, sums, count])
        return sums, parts

    def _finish(
        self,
        norm: Norm,
        x: Tensor,
        seen: tuple[Tensor | None, Tensor | None],
        sizes: tuple[int, int, int, int],
        *,
        average: bool = False,
    ) -> Moments:
        """The moments from the sums (or, without them, from the running statistics), which the running ones follow."""
        (sums, count), (C, _, parts, n) = seen, sizes
        moves = sums is None or norm.tracks
        running = [norm.running_mean, norm.running_var] if moves else [None, None]
        ready = [None if t is None else t.contiguous() for t in running]
        mean, var = (torch.empty(C, dtype=torch.float64, device=x.device) for _ in range(2))
        scale, shift = (torch.empty(C, dtype=state_dtype(x.dtype), device=x.device) for _ in range(2))
        height = min(_PARTS, _power_of_two(parts))
        width = min(_FINISHED // height, 64, _power_of_two(C))
        integers = [*sizes, _bits(norm.eps), _bits(norm.momentum or 0.0)]
        shape = dict(ROWS=height, WIDTH=width, AVERAGE=average, S=_compute(x.dtype))
        launch = launcher(_code().finish, (-(-C // width),), integers, x.device, **shape)
        launch([x, sums, _dense(norm.weight), _dense(norm.bias), *ready, count, mean, var, scale, shift])
        if sums is not None:
            for old, new in zip(running, ready, strict=True):
                if old is not None and new is not None and new is not old:
                    old.data.copy_(new)  # it has strides
            if count is not None:
                moved(count)
        return Moments(mean, var, n, scale, shift)

    def slopes(
        self, norm: Norm, moments: Moments, g_scale: Tensor, g_shift: Tensor, *, correction: bool
    ) -> tuple[Tensor | None, ...]:
        (M, C, K), like = g_scale.shape, moments.scale
        g_weight, g_bias = (None if p is None else torch.empty_like(p, memory_format=torch.contiguous_format)
                            for p in (norm.weight, norm.bias))  # fmt: skip
        slope, offset = (torch.empty_like(like) if correction else None for _ in range(2))
        per_column = K == 1
        width = min(_power_of_two(C), 4) if per_column else min(_power_of_two(K), 256)
        height = min(_power_of_two(M), 2 * _FINISHED // width)
        integers = [M, C, K, moments.n, _bits(norm.eps)]
        shape = dict(ROWS=height, WIDTH=width, COLUMNS=per_column, S=_compute(like.dtype))
        warps = 8 if height * width > _FINISHED else 4
        grid = (-(-C // width) if per_column else C,)
        launch = launcher(_code().slopes, grid, integers, like.device, **shape, num_warps=warps)
        given = [g_scale, g_shift, moments.mean, moments.var, _dense(norm.weight)]
        launch([*given, g_weight, g_bias, slope, offset])
        return g_weight, g_bias, slope, offset

    def correct(self, geometry: Geometry, x: Tensor, gx: Tensor, slope: Tensor, offset: Tensor) -> None:
        g, rows, per_column = geometry, geometry.T * geometry.outer, geometry.inner == 1
        width = min(_power_of_two(g.C if per_column else g.inner), _WIDEST if per_column else _TILE)
        height = min(_TILE // width, _power_of_two(rows))
        across = -(-(g.C if per_column else g.inner) // width)
        grid = (-(-rows // height) * across * (1 if per_column else g.C),)
        shape = dict(ROWS=height, WIDTH=width, COLUMNS=per_column, DENSE=g.dense, S=_compute(x.dtype))
        integers = [rows, g.outer, g.stride, g.C, g.inner]
        launcher(_code().correct, grid, integers, x.device, **shape)([x, gx, slope, offset])


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
