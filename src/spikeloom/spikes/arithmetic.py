"""arithmetic: products of spikes with spikes, value by value, what is left of 1, sums and means, from their bits."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..native import build
from ..native.call import call, threads
from . import device
from .bits import COUNT_ONES, n_ones
from .handlers import handles
from .tensor import SpikeTensor, dense, from_bits, pack_raw

aten = torch.ops.aten

_SOURCE = (
    COUNT_ONES
    + r"""
#define WORD 56            /* bits that one read gives wherever they begin */
#define BLOCK (8 * WORD)   /* columns at a time: about a line of the cache */

static inline uint64_t bits_at(const uint8_t *s, int64_t bytes, int64_t at, int64_t n) {
  const int64_t first = at >> 3, left = bytes - first;
  uint64_t w = 0;
  memcpy(&w, s + first, left < 8 ? left : 8);
  return w >> (at & 7) & ((1ULL << n) - 1);
}

static int32_t count_run(const uint8_t *s, int64_t bytes, int64_t at, int64_t n) {
  if (at % 8 == 0 && n % 8 == 0) return (int32_t)count_ones(s + at / 8, n / 8);
  int32_t found = 0;
  for (int64_t k = 0; k < n; k += WORD)
    found += __builtin_popcountll(bits_at(s, bytes, at + k, n - k < WORD ? n - k : WORD));
  return found;
}

/* out[o][i] = the number of ones among the bits (o R + r) inner + i, r < R. A byte becomes eight counters of a byte. */
void count_along(const uint8_t *s, int32_t *out, int64_t bytes, int64_t outer, int64_t R, int64_t inner,
                 int64_t threads) {
  if (inner == 1) {
    _Pragma("omp parallel for num_threads((int)threads) if (threads > 1)")
    for (int64_t o = 0; o < outer; o++) out[o] = count_run(s, bytes, o * R, R);
    return;
  }
  uint64_t spread[256];
  for (int b = 0; b < 256; b++) {
    spread[b] = 0;
    for (int j = 0; j < 8; j++) spread[b] |= (uint64_t)(b >> j & 1) << 8 * j;
  }
  const int64_t blocks = (inner + BLOCK - 1) / BLOCK;
  _Pragma("omp parallel for num_threads((int)threads) if (threads > 1)")
  for (int64_t p = 0; p < outer * blocks; p++) {
    const int64_t o = p / blocks, i0 = p % blocks * BLOCK, width = inner - i0 < BLOCK ? inner - i0 : BLOCK;
    int32_t *y = out + o * inner + i0;
    for (int64_t i = 0; i < width; i++) y[i] = 0;
    for (int64_t r0 = 0; r0 < R; r0 += 255) {
      uint64_t counters[BLOCK / 8] = {0};
      for (int64_t r = r0; r < R && r < r0 + 255; r++)
        for (int64_t i = 0; i < width; i += WORD) {
          const uint64_t w = bits_at(s, bytes, (o * R + r) * inner + i0 + i, width - i < WORD ? width - i : WORD);
          for (int b = 0; b < WORD / 8; b++) counters[i / 8 + b] += spread[w >> 8 * b & 255];
        }
      for (int64_t i = 0; i < width; i++) y[i] += counters[i / 8] >> 8 * (i % 8) & 255;
    }
  }
}
"""
)
_SMALL = 1 << 18  # spikes; below it one thread counts faster than several


def _times(func: Any, a: Any, b: Any) -> Any:
    """The spikes that both have, as spikes: of bits that lie alike, or of rows of whole bytes, that is an AND."""
    if not (isinstance(a, SpikeTensor) and isinstance(b, SpikeTensor) and a.dtype == b.dtype):
        return NotImplemented
    if a.shape == b.shape and a.stride() == b.stride():
        return SpikeTensor(a.bits & b.bits, tuple(a.shape), a.stride(), a.dtype)
    shape, same = tuple(torch.broadcast_shapes(a.shape, b.shape)), 0
    while same < min(a.ndim, b.ndim) and a.shape[-1 - same] == b.shape[-1 - same]:
        same += 1
    row = math.prod(shape[len(shape) - same :])
    if row % 8 or not row or not (a.is_contiguous() and b.is_contiguous()):
        return pack_raw(func(dense(a), dense(b)))
    rows = [s.bits.view(*s.shape[: s.ndim - same], row // 8) for s in (a, b)]
    return from_bits((rows[0] & rows[1]).view(-1), shape, a.dtype)


handles(aten.mul.Tensor, compiled=_times)(_times)


def _one_minus(func: Any, s: Any, other: Any, alpha: Any = 1) -> Any:
    """``1 - s``, which are spikes where s has none: ``x * (1 - s)`` of an IAND shortcut is an AND of bits."""
    if not (isinstance(s, SpikeTensor) and s.has_bits and s.dtype.is_floating_point) or other != 1 or alpha != 1:
        return NotImplemented
    bits, rest = ~s.bits, s.numel() % 8
    if rest:  # there are no bits after the last spike
        bits[-1:].bitwise_and_((1 << rest) - 1)
    return SpikeTensor(bits, tuple(s.shape), s.stride(), s.dtype)


handles(aten.rsub.Scalar, compiled=_one_minus)(_one_minus)


class _Along(NamedTuple):
    """Sums over adjacent dimensions, in the order in which they lie in memory: of ``[outer, summed, inner]``."""

    outer: int
    summed: int
    inner: int
    order: list[int]
    """The dimensions in that order."""

    @classmethod
    def of(cls, s: SpikeTensor, dims: set[int]) -> _Along | None:
        """None where others lie between the dimensions that are summed."""
        order = sorted(range(s.ndim), key=lambda d: s.stride()[d], reverse=True)
        kept = [d not in dims for d in order if s.shape[d] > 1]
        changes = sum(a != b for a, b in itertools.pairwise(kept))
        if changes > 2 or (changes == 2 and not kept[0]):
            return None
        first = next((k for k, d in enumerate(order) if d in dims and s.shape[d] > 1), 0)
        last = max((k for k, d in enumerate(order) if d in dims and s.shape[d] > 1), default=-1)
        sizes = [s.shape[d] for d in order]
        return cls(math.prod(sizes[:first]), math.prod(sizes[first : last + 1]), math.prod(sizes[last + 1 :]), order)


def _counts(s: SpikeTensor, dims: set[int], *, keepdim: bool) -> Tensor | None:
    """How many spikes there are along some dimensions, in int32; None where that takes the spikes themselves."""
    along = _Along.of(s, dims) if s.numel() and s.has_bits and s.numel() < 2**31 * 8 else None
    if along is None or along.summed >= 2**31:
        return None
    sizes = along[:3]
    found = device.count_along(s.bits, *sizes)
    if found is None:
        c = build.compiled(_SOURCE) if s.is_cpu else None
        if c is None:
            return None
        found = torch.empty(along.outer * along.inner, dtype=torch.int32)
        call(c.count_along, s.bits, found, s.bits.numel(), *sizes, threads(s.numel(), at_least=_SMALL))
    lie = [1 if d in dims else s.shape[d] for d in along.order]
    counts = found.view(lie).permute([along.order.index(d) for d in range(s.ndim)])
    return counts if keepdim else counts.squeeze(tuple(dims))


def _dims(s: SpikeTensor, dim: list[int] | None) -> set[int]:
    """The dimensions that are meant, from 0 on; none where torch has to say what is wrong with them."""
    given = list(dim or range(s.ndim))
    dims = {d % s.ndim for d in given if -s.ndim <= d < s.ndim}
    return dims if len(dims) == len(given) else set()


@handles(aten.sum.dim_IntList)
def _sum_along(func: Any, s: Any, dim: Any, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    dims = _dims(s, dim)
    counts = _counts(s, dims, keepdim=keepdim) if dims else None
    return NotImplemented if counts is None else counts.to(dtype or s.dtype)


@handles(aten.mean.dim)
def _mean_along(func: Any, s: Any, dim: Any, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    dims, dtype = _dims(s, dim), dtype or s.dtype
    counts = _counts(s, dims, keepdim=keepdim) if dims and dtype.is_floating_point else None
    if counts is None:
        return NotImplemented
    exact = dtype if s.is_cpu or dtype == torch.float64 else torch.float32  # on a CPU torch rounds the sum, too
    return (counts.to(exact) / math.prod(s.shape[d] for d in dims)).to(dtype)


@handles(aten.sum.default)
def _sum(func: Any, s: SpikeTensor, *, dtype: torch.dtype | None = None) -> Any:
    return n_ones(s.bits).to(dtype or s.dtype) if s.has_bits else NotImplemented


@handles(aten.mean.default)
def _mean(func: Any, s: SpikeTensor, *, dtype: torch.dtype | None = None) -> Any:
    if s.numel() == 0 or not s.has_bits:
        return NotImplemented
    dtype = dtype or s.dtype
    exact = torch.float64 if s.is_cpu or dtype == torch.float64 else torch.float32
    return (n_ones(s.bits).to(exact) / s.numel()).to(dtype)
