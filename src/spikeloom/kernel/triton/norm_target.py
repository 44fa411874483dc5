"""triton/norm_target: launches the kernels of a batch norm that is joined to a neuron."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..norm import Geometry, NormByTorch
from .launcher import launcher

_PARTS = 256  # most parts of a batch norm's rows, each summed apart


class NormByTriton(NormByTorch):
    """What a target in Triton does for a batch norm."""

    def statistics(self, geometry: Geometry, x: Tensor, first: Tensor) -> Tensor:
        g, code = geometry, _norm_code()
        rows, per_column = g.T * g.outer, g.inner == 1
        width = min(code.TILE, _power_of_two(g.C if per_column else g.inner), 128 if per_column else code.TILE)
        tiles = -(-rows // (code.TILE // width))
        parts = min(_PARTS, tiles)
        sums = torch.empty(parts, 2, g.C, dtype=torch.float64, device=x.device)
        grid = (parts, -(-g.C // width) if per_column else g.C)
        integers = [rows, -(-rows // parts), g.outer, g.stride, g.C, g.inner]
        shape = dict(ROWS=code.TILE // width, WIDTH=width, COLUMNS=per_column, S=_compute(x.dtype))
        launcher(code.statistics, grid, integers, x.device, **shape)([x, first, sums])
        return sums

    def correct(self, geometry: Geometry, x: Tensor, gx: Tensor, slope: Tensor, offset: Tensor) -> None:
        g, code = geometry, _norm_code()
        rows, all_columns = g.T * g.outer, g.C * g.inner
        width = min(code.TILE, _power_of_two(all_columns))
        grid = (-(-rows // (code.TILE // width)), -(-all_columns // width))
        shape = dict(ROWS=code.TILE // width, WIDTH=width, S=_compute(x.dtype))
        integers = [rows, g.outer, g.stride, all_columns, g.inner]
        launcher(code.correct, grid, integers, x.device, **shape)([x, gx, slope, offset])


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


@functools.cache
def _norm_code() -> ModuleType:
    from . import norm as triton_norm

    return triton_norm


def _compute(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32
