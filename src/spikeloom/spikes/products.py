"""products: spikes @ W and the gradient of W from the bits, as sums of rows of W.

    Y[m] = sum over k with S[m, k] = 1 of W[k],     dW[k] = sum over m with S[m, k] = 1 of G[m]

On a CPU the order of additions (see row_sums) depends on the shape alone, so that a row gives the same result in any
batch. On a GPU these are products of a library in half precision (see device), which promises no order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..core import Prepared
from ..native import build
from ..native.allocator import huge_pages
from ..native.call import bound, threads
from . import device, row_sums
from .bits import n_bytes
from .handlers import handles
from .operators import one_call
from .tensor import SpikeTensor

aten = torch.ops.aten

_SOURCE = (
    row_sums.SOURCE
    + r"""
#define DEPTH 512    /* rows of W at a time in events: a panel of them stays in the cache */
#define USES 8       /* of each row of W from which a panel is copied first: its rows may lie far apart */
#define WORDS 2048   /* in tables: so many bits of ROWS rows do */

typedef struct {
  int64_t bytes, stride, M, K, N, columns;
  const uint8_t *bits; const float *W, *bias; float *Y;
} product;

/* Rows of Y as sums so far, or 0; and back, with bias after the last. */
static inline void take(float *acc, const float *y, int64_t width, int64_t k0) {
  if (width < PANEL || !k0) memset(acc, 0, PANEL * sizeof *acc);
  if (k0) memcpy(acc, y, width * sizeof *acc);
}
static inline void give(float *y, float *acc, int64_t width, const float *bias) {
  if (bias) for (int64_t j = 0; j < width; j++) acc[j] += bias[j];
  memcpy(y, acc, width * sizeof *acc);
}

/* n rows from k of a panel of W from p, one after the other, with zeros up to whole panels and `whole` rows. */
static void copy_panel(const product *x, float *to, int64_t k, int64_t n, int64_t p, int64_t width, int64_t whole) {
  if (width < PANEL || n < whole) memset(to, 0, whole * PANEL * sizeof *to);
  if (!x->columns) {
    for (int64_t r = 0; r < n; r++) memcpy(to + r * PANEL, x->W + (k + r) * x->N + p, width * sizeof *to);
    return;
  }
  for (int64_t r0 = 0; r0 < n; r0 += 16)
    for (int64_t j0 = 0; j0 < width; j0 += 16) {
      float block[16][16];
      const int64_t rows = least(16, n - r0), m = least(16, width - j0);
      for (int64_t j = 0; j < m; j++)
        for (int64_t r = 0; r < rows; r++) block[r][j] = x->W[(p + j0 + j) * x->K + k + r0 + r];
      for (int64_t r = 0; r < rows; r++) memcpy(to + (r0 + r) * PANEL + j0, block[r], m * sizeof *to);
    }
}

/* acc[j] += the sums of listed groups of column j of W, whose rows are K apart: few uses are worth no copy. */
static inline __attribute__((always_inline)) void add_in_columns_(float *acc, const float *w, int64_t K,
                                                                  const uint16_t *list, int n, const int m) {
  float a[8];
  for (int q = 0; q < m; q++) a[q] = acc[q];
  for (int i = 0; i < n; i++) {
    const float *group = w + (list[i] >> 4) * 4;
    unsigned v = list[i] & 15;
    float s[8];
    for (int q = 0; q < m; q++) s[q] = group[q * K + __builtin_ctz(v)];
    for (v &= v - 1; v; v &= v - 1)
      for (int q = 0; q < m; q++) s[q] += group[q * K + __builtin_ctz(v)];
    for (int q = 0; q < m; q++) a[q] += s[q];
  }
  for (int q = 0; q < m; q++) acc[q] = a[q];
}
static void add_in_columns(float *acc, const float *w, int64_t K, const uint16_t *list, int n, int64_t width) {
  int64_t j = 0;
  for (; j + 8 <= width; j += 8) add_in_columns_(acc + j, w + j * K, K, list, n, 8);
  for (; j < width; j++) add_in_columns_(acc + j, w + j * K, K, list, n, 1);
}

static void by_events(const product *x, int64_t m0, int64_t rows, int64_t p0, int64_t p1) {
  float *panel = scratch(DEPTH * PANEL * sizeof *panel + ROWS * (DEPTH / 4) * sizeof(uint16_t));
  uint16_t *at = (uint16_t *)(panel + DEPTH * PANEL);
  int found[ROWS];
  for (int64_t k0 = 0; k0 == 0 || k0 < x->K; k0 += DEPTH) {
    const int64_t n = least(DEPTH, x->K - k0);
    int64_t uses = 0;
    for (int64_t r = 0; r < rows; r++)
      uses += found[r] = list_groups(at + r * (DEPTH / 4), x->bits, x->bytes, (m0 + r) * x->stride + k0, n);
    const int in_place = x->columns && 2 * uses < 3 * n, copies = !in_place && (x->columns || uses >= USES * n);
    for (int64_t p = p0; p < p1; p += PANEL) {
      const int64_t width = least(PANEL, x->N - p);
      const float *w = x->W + k0 * x->N + p;
      if (copies) copy_panel(x, panel, k0, n, p, width, n);
      for (int64_t r = 0; r < rows; r++) {
        float acc[PANEL], *y = x->Y + (m0 + r) * x->N + p;
        take(acc, y, width, k0);
        if (in_place) add_in_columns(acc, x->W + p * x->K + k0, x->K, at + r * (DEPTH / 4), found[r], width);
        else if (copies) add_groups(acc, panel, PANEL, at + r * (DEPTH / 4), found[r], width);
        else if (width < PANEL) add_narrow_groups(acc, w, x->N, at + r * (DEPTH / 4), found[r], width);
        else add_groups(acc, w, x->N, at + r * (DEPTH / 4), found[r], PANEL);
        give(y, acc, width, x->bias && k0 + n == x->K ? x->bias + p : 0);
      }
    }
  }
}

static void by_tables(const product *x, int64_t m0, int64_t rows, int64_t p0, int64_t p1) {
  float *T = scratch(((PASS / 4) * 16 + ROWS + PASS) * PANEL * sizeof *T + ROWS * (WORDS / PASS) * sizeof(uint32_t));
  float *acc = T + (PASS / 4) * 16 * PANEL, *part = acc + ROWS * PANEL;
  uint32_t *words = (uint32_t *)(part + PASS * PANEL);
  for (int64_t k0 = 0; k0 == 0 || k0 < x->K; k0 += WORDS) {
    const int64_t n = least(WORDS, x->K - k0);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < n; k += PASS)
        words[k / PASS * ROWS + r] = (uint32_t)some_bits(x->bits, x->bytes, (m0 + r) * x->stride + k0 + k,
                                                         least(PASS, n - k));
    for (int64_t p = p0; p < p1; p += PANEL) {
      const int64_t width = least(PANEL, x->N - p);
      for (int64_t r = 0; r < rows; r++) take(acc + r * PANEL, x->Y + (m0 + r) * x->N + p, width, k0);
      for (int64_t k = 0; k < n; k += PASS) {
        if (width < PANEL || n - k < PASS || x->columns) {
          copy_panel(x, part, k0 + k, least(PASS, n - k), p, width, PASS);
          make_table(T, part, PANEL, width);
        } else make_table(T, x->W + (k0 + k) * x->N + p, x->N, width);
        look_up(acc, T, words + k / PASS * ROWS, rows, width);
      }
      for (int64_t r = 0; r < rows; r++)
        give(x->Y + (m0 + r) * x->N + p, acc + r * PANEL, width, x->bias && k0 + n == x->K ? x->bias + p : 0);
    }
  }
}

/* Y[M][N] = bits[M][K] @ W[K][N] (+ bias[N]); rows of bits are `stride` bits apart; with `columns` W is [N][K]. */
void spikes_times(const uint8_t *bits, const float *W, const float *bias, float *Y, int64_t bytes, int64_t stride,
                  int64_t M, int64_t K, int64_t N, int64_t columns, int64_t threads) {
  const product x = {bytes, stride, M, K, N, columns, bits, W, bias, Y};
  const int64_t panels = up(N, PANEL);
  /* Parts of the work: blocks of rows, then groups of panels, then smaller blocks. */
  const int64_t groups = threads < 2 ? 1 : least(panels, up(2 * threads, up(M, ROWS)));
  const int64_t size = least(ROWS, up(M * groups, threads)), blocks = up(M, size), wide = up(panels, groups) * PANEL;
  #pragma omp parallel for schedule(dynamic) num_threads((int)threads) if (threads > 1)
  for (int64_t i = 0; i < blocks * groups; i++) {
    const int64_t m0 = i / groups * size, rows = least(size, M - m0);
    const int64_t p0 = i % groups * wide, p1 = least(p0 + wide, N);
    const int64_t first = m0 * stride / 8, last = least(up((m0 + rows) * stride, 8), bytes);
    const int64_t ones = count_ones(bits + first, last - first);
    if (p0 < p1) (few(ones, rows * K, rows) ? by_events : by_tables)(&x, m0, rows, p0, p1);
  }
}

/* out[batch][K][M up to whole bytes] = transposes of bits[batch][M][K], in blocks of 8 x 8. */
void transpose(const uint8_t *bits, uint8_t *out, int64_t bytes, int64_t batch, int64_t M, int64_t K, int64_t threads) {
  const int64_t blocks = up(K, 8), stride = up(M, 8);
  #pragma omp parallel for num_threads((int)threads) if (threads > 1)
  for (int64_t i = 0; i < batch * blocks; i++) {
    const int64_t k = i % blocks * 8, n = least(8, K - k), at = i / blocks * M * K + k;
    uint8_t *to = out + (i / blocks * K + k) * stride;
    const int whole = n == 8 && !((at | K) & 7);
    for (int64_t m = 0; m < stride; m++) {
      const int64_t rows = least(8, M - 8 * m), first = at + 8 * m * K;
      uint64_t x = 0;
      if (whole) for (int64_t r = 0; r < rows; r++) x |= (uint64_t)bits[(first + r * K) / 8] << (8 * r);
      else for (int64_t r = 0; r < rows; r++) x |= some_bits(bits, bytes, first + r * K, n) << (8 * r);
      uint64_t t;
      t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAULL; x = x ^ t ^ (t << 7);
      t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCULL; x = x ^ t ^ (t << 14);
      t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ULL; x = x ^ t ^ (t << 28);
      for (int64_t r = 0; r < n; r++) to[r * stride + m] = (uint8_t)(x >> (8 * r));
    }
  }
}
"""
)
DENSE = (Tensor, nn.Parameter)
_ENOUGH = 32  # rows of spikes; with fewer a dense product gives the gradient of a weight, since it writes no less
_SMALL = 1 << 20  # multiplications; below it one thread is faster than several


def library() -> Any:
    """The functions of this module in C, or None without a compiler."""
    return build.compiled(_SOURCE)


def times(bits: Tensor, M: int, K: int, W: Tensor, bias: Tensor | None = None, stride: int = 0) -> Tensor:
    """``bits @ W (+ bias)`` in float32, with W ``[K, N]``, which is contiguous or the transpose of such a tensor.

    Rows of bits are ``stride`` bits apart; 0 stands for K.
    """
    Y = huge_pages(torch.empty(M, W.shape[1], dtype=torch.float32))
    _times_into(Y, bits, K, W, bias, stride)()
    return Y


def _times_into(Y: Tensor, bits: Tensor, K: int, W: Tensor, bias: Tensor | None, stride: int = 0) -> Callable[[], int]:
    (M, N), columns = Y.shape, not W.is_contiguous()
    sizes = (bits.numel(), stride or K, M, K, N, columns, threads(M * K * N, at_least=_SMALL))
    return bound(library().spikes_times, bits, W, bias, Y, *sizes)


@handles(nn.Linear)
def _linear(layer: nn.Linear, s: SpikeTensor) -> Prepared | None:
    """A linear layer on spikes in that memory; weight and bias are copied now."""
    if s.dtype != torch.float32 or not _multiplies(s, layer.weight) or not _finite(layer.weight):
        return None
    W, bias = own(layer.weight.t()), None if layer.bias is None else own(layer.bias)
    Y = torch.empty(s.shape[0], W.shape[1], dtype=torch.float32)
    return Prepared.writing(Y, _times_into(Y, s.bits, s.shape[1], W, bias), reads=(layer,))


def own(tensor: Tensor) -> Tensor:
    """A contiguous copy in float32, in memory of its own."""
    return tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def transposed(bits: Tensor, M: int, K: int, batch: int = 1) -> Tensor:
    """The bits of the transposed matrices of ``[batch, M, K]``: ``[batch, K, M rounded up to whole bytes]``."""
    out, run = transposition(bits, M, K, batch)
    run()
    return out


def transposition(bits: Tensor, M: int, K: int, batch: int = 1) -> tuple[Tensor, Callable[[], int]]:
    """The tensor to which :func:`transposed` writes, and a call that does so from what the bits are at that time."""
    out = torch.empty(batch * K * n_bytes(M), dtype=torch.uint8)
    sizes = (bits.numel(), batch, M, K, threads(batch * M * K, at_least=_SMALL))
    return out, bound(library().transpose, bits, out, *sizes)


def suits(s: SpikeTensor, weight: Any, source: str) -> bool:
    """Whether there are kernels (of a source) for a product of such spikes and such a weight."""
    return (
        type(weight) in DENSE
        and weight.dtype == s.dtype
        and (s.dtype == torch.float32 or (s.dtype == torch.bfloat16 and not _multiplies_bfloat16()))
        and s.is_cpu
        and s.has_bits
        and s.numel() > 0
        and build.compiled(source) is not None
    )


@functools.cache
def _multiplies_bfloat16() -> bool:
    """Whether the processor has tiles (AMX), whose bfloat16 products are faster than sums in float32."""
    ask = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return ask is not None and bool(ask())


def _multiplies(s: Any, other: Any) -> bool:
    """Whether ``s @ other`` is computed from the bits of s."""
    return isinstance(s, SpikeTensor) and s.is_contiguous() and s.ndim == 2 and suits(s, other, _SOURCE)


def _rows_or_columns(W: Tensor) -> tuple[Tensor, bool]:
    """W in float32, contiguous or the transpose of such a tensor, and whether all its values are finite."""
    W = W.float()
    return W if W.t().is_contiguous() else W.contiguous(), _finite(W)


def _finite(W: Tensor) -> bool:
    return bool(W.sum(dtype=torch.float32).isfinite())


def _on_device(a: Any, b: Any, bias: Tensor | None) -> Tensor | None:
    """The product, where Triton computes it; else None."""

    def suitable(s: Any, other: Any) -> bool:
        plain = isinstance(s, SpikeTensor) and s.ndim == 2 and s.is_contiguous() and s.numel() > 0
        return plain and type(other) in DENSE and other.numel() > 0

    if suitable(a, b) and device.pays(a.bits, a.dtype, b, *a.shape) and (bias is None or bias.device == a.device):
        return device.times(a.bits, a.shape[0], a.shape[1], b, bias)
    if bias is None and suitable(b, a) and device.pays(b.bits, b.dtype, a.t(), *b.shape):
        return device.weight_gradient(b.bits, b.shape[0], b.shape[1], a.t())
    return None


@handles(aten.mm.default, compiled=one_call)
def _mm(func: Any, a: Any, b: Any, bias: Tensor | None = None) -> Any:
    found = _on_device(a, b, bias)
    if found is not None:
        return found
    if _multiplies(a, b):
        W, finite = _rows_or_columns(b)
        if finite:  # else 0 * infinity is NaN
            offset = None if bias is None else bias.float().contiguous()
            return times(a.bits, a.shape[0], a.shape[1], W, offset).to(a.dtype)
    elif bias is None and _multiplies(b, a) and len(b) >= _ENOUGH:  # a [N, M] @ bits [M, K] = (bits^T @ a^T)^T
        (M, K), G = b.shape, a.t().float().contiguous()
        if _finite(G):
            return times(transposed(b.bits, M, K), K, M, G, stride=8 * n_bytes(M)).t().to(a.dtype)
    return NotImplemented


@handles(aten.addmm.default, compiled=one_call)
def _addmm(func: Any, bias: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    if type(bias) in DENSE and bias.ndim == 1 and len(bias) == b.shape[1] and beta == 1 and alpha == 1:
        return _mm(func, a, b, bias)
    return NotImplemented
