"""norm: a batch norm before a neuron, joined to its kernel.

The norm is an affine prologue of the neuron's program, ``scale * x + shift`` with one scale and shift per channel, so
the normalised tensor is neither written nor saved. Its statistics and the correction that they owe to the gradient of x
are kernels of their own, because torch's take longer than the neuron::

    mean, var of x over T, B and space;  r = 1 / sqrt(var + eps)
    scale = weight r,  shift = bias - mean scale
    dL/dx = scale g + slope x + offset    (g: gradient of the normalised x)
    slope = -dL/dscale weight r^3 / n,    offset = -dL/dshift scale / n - slope mean

Ioffe and Szegedy, Batch Normalization, 2015.
"""

from __future__ import annotations

import ctypes
import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import c_source
from .build import load
from .emit_c import BLOCK

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DIMS: dict[type, tuple[int, ...]] = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
_ROWS = 64  # rows that are summed in float32 before they join a double
_PARTS = 64  # parts of the rows, each summed apart: the number of threads changes nothing


def why_not_fused(module: nn.Module, x: Tensor) -> str:
    """Why a batch norm cannot join the kernel of a neuron on ``x`` ``[T, B, C, *]``; empty if it can."""
    if type(module) not in KINDS:
        return f"{type(module).__name__} is no batch norm of torch.nn"
    if x.ndim - 1 not in _DIMS[type(module)] or x.shape[2] != module.num_features:
        return "the batch norm does not fit the input"
    if module.training and x.numel() == x.shape[2]:
        return "one value per channel"
    owned = [*module.parameters(), *module.buffers()]
    if any(t.device.type != "cpu" or type(t) not in (Tensor, nn.Parameter) for t in owned):
        return "the batch norm is not on cpu"
    return ""


class Norm:
    """A batch norm of torch.nn as the kernels see it."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.weight: Tensor | None = module.weight
        self.bias: Tensor | None = module.bias
        self.batch: bool = module.training or module.running_mean is None
        """Whether statistics are those of the batch."""

    def affine(self, moments: tuple[Tensor, Tensor, int] | None) -> tuple[Tensor, Tensor]:
        """Scale and shift per channel in float64; part of the graph unless they come from the batch."""
        module = self.module
        with torch.set_grad_enabled(torch.is_grad_enabled() and moments is None):
            mean = moments[0] if moments else module.running_mean.double()
            var = moments[1] if moments else module.running_var.double()
            scale = (var + module.eps).rsqrt()
            if self.weight is not None:
                scale = scale * self.weight.double()
            shift = -mean * scale if self.bias is None else self.bias.double() - mean * scale
        return scale, shift

    def track(self, moments: tuple[Tensor, Tensor, int]) -> None:
        """Updates the running statistics as torch does: the variance with n - 1."""
        module, (mean, var, n) = self.module, moments
        if not (module.training and module.track_running_stats) or module.running_mean is None:
            return
        module.num_batches_tracked.add_(1)
        factor = 1.0 / float(module.num_batches_tracked) if module.momentum is None else module.momentum
        for running, new in ((module.running_mean, mean), (module.running_var, var * (n / max(1, n - 1)))):
            running.copy_((1 - factor) * running.double() + factor * new)


def gradients(
    mean: Tensor, var: Tensor, n: int, norm: Norm, g_scale: Tensor, g_shift: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From dL/dscale and dL/dshift: gradients of weight and bias, then slope and offset of x's correction."""
    r = (var + norm.module.eps).rsqrt()
    weight = 1.0 if norm.weight is None else norm.weight.detach().double()
    total = g_scale - mean * g_shift  # the shift depends on the scale
    slope = -total * weight * r**3 / n
    return total * r, g_shift, slope, -g_shift * weight * r / n - slope * mean


def statistics(x: Tensor, order: tuple[int, ...], io: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance per channel, float64, of ``x`` ``[T, step in memory order]``, and the values of each."""
    geometry = _geometry(x, order)
    first = _channels(x.detach(), order)
    sums = torch.zeros(_PARTS, 2, geometry.C, dtype=torch.float64)
    _call(_functions(_name(io)).statistics, geometry, x, first, sums)
    n = geometry.T * geometry.outer * geometry.inner
    total = sums.sum(0) / n
    return first.double() + total[0], (total[1] - total[0].square()).clamp_(min=0.0), n


def correct(gx: Tensor, x: Tensor, slope: Tensor, offset: Tensor, order: tuple[int, ...], io: torch.dtype) -> None:
    """``gx += slope x + offset``, in place; gx is dense, x has its own time stride."""
    compute = torch.float64 if io == torch.float64 else torch.float32
    _call(_functions(_name(io)).correct, _geometry(x, order), x, gx, slope.to(compute), offset.to(compute))


@dataclass(frozen=True)
class _Geometry:
    """``x`` in memory: T steps, ``stride`` apart, of ``[outer, C, inner]``."""

    T: int
    stride: int
    outer: int
    C: int
    inner: int


def _geometry(x: Tensor, order: tuple[int, ...]) -> _Geometry:
    shape, at = x.shape[1:], order.index(1)
    outer, inner = math.prod(shape[:at]), math.prod(shape[at + 1 :])
    dense = math.prod(shape)
    return _Geometry(x.shape[0], x.stride(0) if x.shape[0] > 1 else dense, outer, shape[at], inner)


def _channels(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """One value of each channel: sums are taken about it, so that a large mean cancels nothing."""
    first, at = x[0], order.index(1)
    index = tuple(slice(None) if d == at else 0 for d in range(first.ndim))
    return first[index].to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous()


def _name(io: torch.dtype) -> str:
    return str(io).removeprefix("torch.")


def _call(function: Any, geometry: _Geometry, *tensors: Tensor) -> None:
    g = geometry
    threads = 1 if g.T * g.outer * g.C * g.inner < 1 << 15 else torch.get_num_threads()
    values = (g.T, g.stride, g.outer, g.C, g.inner, threads)
    pointers = (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))
    function(pointers, (ctypes.c_int64 * len(values))(*values))


@functools.cache
def _functions(io: str) -> ctypes.CDLL:
    head = f"#define BLOCK {BLOCK}\n#define ROWS {_ROWS}\n#define PARTS {_PARTS}\n{c_source.prelude(io)}"
    return load(head + _SOURCE)


_SOURCE = r"""
#define SIZES \
  const int64_t T = n[0], stride = n[1], outer = n[2], C = n[3], inner = n[4], rows = T * outer; \
  const int threads = (int)n[5], dense = stride == outer * C * inner;
#define ROW(x) ((x) + (dense ? r * C * inner : r / outer * stride + r % outer * C * inner))

/* Per part of the rows and channel: the sums of x - first and of its square. */
void statistics(void **p, const int64_t *n) {
  SIZES
  IO *x = p[0]; S *first = p[1]; double *sums = p[2];
  #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int part = 0; part < PARTS; part++) {
    double *sum = sums + part * 2 * C, *square = sum + C;
    int64_t start = rows * part / PARTS, end = rows * (part + 1) / PARTS;
    S LOCAL buffer[BLOCK]; (void)buffer;
    if (inner == 1) {
      S LOCAL s[BLOCK]; S LOCAL q[BLOCK];
      for (int64_t c = 0; c < C; c += BLOCK) {
        int m = C - c < BLOCK ? (int)(C - c) : BLOCK;
        for (int64_t r0 = start; r0 < end; r0 += ROWS) {
          int64_t r1 = r0 + ROWS < end ? r0 + ROWS : end;
          memset(s, 0, m * sizeof(S)); memset(q, 0, m * sizeof(S));
          for (int64_t r = r0; r < r1; r++) {
            const S *X = get_row(buffer, ROW(x) + c, m);
            #pragma omp simd
            for (int j = 0; j < m; j++) { S d = X[j] - first[c + j]; s[j] += d; q[j] += d * d; }
          }
          for (int j = 0; j < m; j++) { sum[c + j] += s[j]; square[c + j] += q[j]; }
        }
      }
      continue;
    }
    for (int64_t r = start; r < end; r++)
      for (int64_t c = 0; c < C; c++)
        for (int64_t i = 0; i < inner; i += BLOCK) {
          int m = inner - i < BLOCK ? (int)(inner - i) : BLOCK;
          const S *X = get_row(buffer, ROW(x) + c * inner + i, m);
          S s = 0, q = 0, f = first[c];
          #pragma omp simd reduction(+ : s, q)
          for (int j = 0; j < m; j++) { S d = X[j] - f; s += d; q += d * d; }
          sum[c] += s; square[c] += q;
        }
  }
}

/* gx += slope x + offset. */
void correct(void **p, const int64_t *n) {
  SIZES
  IO *x = p[0], *gx = p[1]; S *slope = p[2], *offset = p[3];
  #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < rows; r++) {
    IO *to = gx + r * C * inner;
    S LOCAL buffer[BLOCK]; S LOCAL old[BLOCK]; S LOCAL new[BLOCK]; (void)buffer; (void)old;
    for (int64_t c = 0; c < (inner == 1 ? 1 : C); c++) {
      int64_t all = inner == 1 ? C : inner;
      for (int64_t i = 0; i < all; i += BLOCK) {
        int m = all - i < BLOCK ? (int)(all - i) : BLOCK;
        const S *X = get_row(buffer, ROW(x) + c * inner + i, m), *G = get_row(old, to + c * inner + i, m);
        const S *a = slope + i, *b = offset + i;
        if (inner == 1) {
          #pragma omp simd
          for (int j = 0; j < m; j++) new[j] = G[j] + (a[j] * X[j] + b[j]);
        } else {
          S A = slope[c], B = offset[c];
          #pragma omp simd
          for (int j = 0; j < m; j++) new[j] = G[j] + (A * X[j] + B);
        }
        put_row(to + c * inner + i, new, m, 0);
      }
    }
  }
}
"""
