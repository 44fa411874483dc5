"""products: spikes @ W and the gradient of W from the bits: sums of rows of W, in the order of the rows.

    Y[m] = sum over k with S[m, k] = 1 of W[k],     dW[k] = sum over m with S[m, k] = 1 of G[m]

The order of additions depends on the shape alone, so that a row gives the same bits in any batch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..kernel import build
from . import bits as raw
from .tensor import HANDLERS, SpikeTensor

aten = torch.ops.aten
MOST = 0.3
"""Spikes per value up to which a product is a sum of rows; above, the dense product is faster."""

ROW_SUMS = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#define PANEL 64

/* Eight numbers, which need not be aligned: in registers, unlike an array. */
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));

/* Places of the spikes in a row of bits; returns how many. */
static inline int list_spikes(uint16_t *to, const uint8_t *row, int64_t bytes) {
  int n = 0;
  for (int64_t b = 0; b < bytes; b += 8) {
    uint64_t w = 0; memcpy(&w, row + b, bytes - b < 8 ? bytes - b : 8);
    while (w) { to[n++] = (uint16_t)(8 * b + __builtin_ctzll(w)); w &= w - 1; }
  }
  return n;
}

/* Adds rows of W, of N numbers each, to acc, one after the other: `width` of their numbers. */
static inline void sum_rows(float *acc, const float *W, int64_t N, const uint16_t *list, int n, int64_t width) {
  if (width == PANEL) {
    v8 *to = (v8 *)acc;
    v8 a0 = to[0], a1 = to[1], a2 = to[2], a3 = to[3], a4 = to[4], a5 = to[5], a6 = to[6], a7 = to[7];
    for (int i = 0; i < n; i++) {
      const v8 *w = (const v8 *)(W + (int64_t)list[i] * N);
      a0 += w[0]; a1 += w[1]; a2 += w[2]; a3 += w[3]; a4 += w[4]; a5 += w[5]; a6 += w[6]; a7 += w[7];
    }
    to[0] = a0; to[1] = a1; to[2] = a2; to[3] = a3; to[4] = a4; to[5] = a5; to[6] = a6; to[7] = a7;
    return;
  }
  for (int i = 0; i < n; i++) {
    const float *w = W + (int64_t)list[i] * N;
    for (int64_t j = 0; j < width; j++) acc[j] += w[j];
  }
}
"""
"""C that products and convolutions share."""

_SOURCE = (
    ROW_SUMS
    + r"""
#define ROWS 128
#define DEPTH 512

/* Y[M][N] = bits[M][K] @ W[K][N] (+ bias[N]); rows of bits are whole bytes. W is taken by blocks of DEPTH rows and
   panels of columns, which stay in the cache for all rows of a block of bits. */
void spikes_times(const uint8_t *bits, const float *W, const float *bias, float *Y,
                  int64_t M, int64_t K, int64_t N, int64_t threads) {
  const int64_t bytes = K / 8, share = (M + threads - 1) / threads, size = share < ROWS ? share : ROWS;
  #pragma omp parallel for schedule(dynamic) num_threads((int)threads) if (threads > 1)
  for (int64_t block = 0; block < (M + size - 1) / size; block++) {
    const int64_t m0 = block * size, rows = M - m0 < size ? M - m0 : size;
    uint16_t *at = malloc((size_t)rows * DEPTH * sizeof *at);
    int found[ROWS];
    for (int64_t k0 = 0; k0 == 0 || k0 < K; k0 += DEPTH) {
      const int64_t end = k0 + DEPTH < K ? k0 + DEPTH : K;
      for (int64_t r = 0; r < rows; r++)
        found[r] = list_spikes(at + r * DEPTH, bits + (m0 + r) * bytes + k0 / 8, (end - k0) / 8);
      for (int64_t p = 0; p < N; p += PANEL) {
        const int64_t width = N - p < PANEL ? N - p : PANEL;
        for (int64_t r = 0; r < rows; r++) {
          float *y = Y + (m0 + r) * N + p, acc[PANEL];
          memset(acc, 0, sizeof acc);
          if (k0) memcpy(acc, y, width * sizeof(float));
          sum_rows(acc, W + k0 * N + p, N, at + r * DEPTH, found[r], width);
          if (bias && end == K) for (int64_t j = 0; j < width; j++) acc[j] += bias[p + j];
          memcpy(y, acc, width * sizeof(float));
        }
      }
    }
    free(at);
  }
}

/* out[K][stride bytes] = transpose of bits[M][K / 8 bytes], in blocks of 8 x 8; stride = M rounded up to bytes. */
void transpose(const uint8_t *bits, uint8_t *out, int64_t M, int64_t K, int64_t threads) {
  const int64_t bytes = K / 8, stride = (M + 7) / 8;
  #pragma omp parallel for num_threads((int)threads) if (threads > 1)
  for (int64_t b = 0; b < bytes; b++)
    for (int64_t m = 0; m < stride; m++) {
      uint64_t x = 0;
      for (int r = 0; r < 8 && 8 * m + r < M; r++) x |= (uint64_t)bits[(8 * m + r) * bytes + b] << (8 * r);
      uint64_t t;
      t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAULL; x = x ^ t ^ (t << 7);
      t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCULL; x = x ^ t ^ (t << 14);
      t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ULL; x = x ^ t ^ (t << 28);
      for (int r = 0; r < 8; r++) out[(8 * b + r) * stride + m] = (uint8_t)(x >> (8 * r));
    }
}
"""
)
DENSE = (Tensor, nn.Parameter)
_FEW = 64  # rows of spikes below which what was made of a weight is kept
_SMALL = 1 << 20  # multiplications below which one thread is faster


def times(bits: Tensor, M: int, K: int, W: Tensor, bias: Tensor | None = None) -> Tensor:
    """``bits @ W (+ bias)`` with W ``[K, N]`` in float32, contiguous; K is a multiple of 8."""
    N = W.shape[1]
    Y = torch.empty(M, N)
    threads = 1 if M * K * N < _SMALL else torch.get_num_threads()
    pointers = [ctypes.c_void_p(t.data_ptr()) if t is not None else None for t in (bits, W, bias, Y)]
    build.compiled(_SOURCE).spikes_times(*pointers, *(ctypes.c_int64(n) for n in (M, K, N, threads)))
    return Y


def transposed(bits: Tensor, M: int, K: int) -> Tensor:
    """Bits of the transpose, ``[K, M rounded up to whole bytes]``."""
    out = torch.empty(K * raw.size(M), dtype=torch.uint8)
    threads = 1 if M * K < _SMALL else torch.get_num_threads()
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (bits, out)]
    build.compiled(_SOURCE).transpose(*pointers, *(ctypes.c_int64(n) for n in (M, K, threads)))
    return out


def pays(s: SpikeTensor, weight: Any, source: str) -> bool:
    """Whether there are kernels (of a source) for a product of such spikes and such a weight, and few enough spikes."""
    return (
        type(weight) in DENSE
        and s.dtype in (torch.float32, torch.bfloat16)
        and weight.dtype == s.dtype
        and s.is_cpu
        and s.has_bits
        and s.numel() > 0
        and build.compiled(source) is not None
        and s.rate() <= MOST
    )


def _multiplies(s: Any, other: Any) -> bool:
    """Whether ``s @ other`` is computed from the bits of s."""
    rows = isinstance(s, SpikeTensor) and s.is_contiguous() and s.ndim == 2 and s.shape[1] % 8 == 0
    return rows and pays(s, other, _SOURCE)


_kept: dict[Any, tuple[StorageWeakRef, int, Any]] = {}


def kept(make: Callable[[Tensor], Any], W: Tensor, M: int) -> Any:
    """``make(W)``, remembered until W changes where the product is small (M rows of spikes)."""
    if M >= _FEW or W.is_inference():
        return make(W)
    key = (make, W.data_ptr(), W.shape, W.stride(), W.dtype)
    found = _kept.get(key)
    if found is None or found[0].expired() or found[1] != W._version:
        if len(_kept) >= 64:
            _kept.clear()
        _kept[key] = found = (StorageWeakRef(W.untyped_storage()), W._version, make(W))
    return found[2]


def _rows(W: Tensor) -> tuple[Tensor, bool]:
    """W in float32 with its rows in memory, and whether it is finite."""
    return W.float().contiguous(), bool(W.sum(dtype=torch.float32).isfinite())


def _mm(func: Any, a: Any, b: Any, bias: Tensor | None = None) -> Any:
    if _multiplies(a, b):
        W, finite = kept(_rows, b, a.shape[0])
        if finite:  # else 0 * infinity is NaN
            offset = None if bias is None else bias.float().contiguous()
            return times(a.bits, a.shape[0], a.shape[1], W, offset).to(a.dtype)
    elif bias is None and _multiplies(b, a):  # a [N, M] @ bits [M, K] = (bits^T @ a^T)^T
        (M, K), G = b.shape, a.t().float()
        missing = -M % 8
        if missing:
            G = torch.cat([G, G.new_zeros(missing, G.shape[1])])
        if bool(G.sum().isfinite()):
            return times(transposed(b.bits, M, K), K, M + missing, G.contiguous()).t().to(a.dtype)
    return NotImplemented


def _addmm(func: Any, bias: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    if type(bias) in DENSE and bias.ndim == 1 and len(bias) == b.shape[1] and beta == 1 and alpha == 1:
        return _mm(func, a, b, bias)
    return NotImplemented


HANDLERS[aten.mm.default] = _mm
HANDLERS[aten.addmm.default] = _addmm
