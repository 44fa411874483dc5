"""pooling: max pooling of spikes from the bits. A window has a spike if one of its places has.

Nothing but the bits is saved. The gradient goes where it would in torch: to the first spike of a window or, without
one, to its first place.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import Prepared
from ..kernel.op import autograd_inside
from ..native import build
from ..native.allocator import huge_pages
from ..native.call import bound, call, threads
from . import row_sums
from .bits import n_bytes
from .graph import define, in_graphs
from .handlers import handles, unpacked
from .operators import as_dense, as_spikes, one_call
from .tensor import SpikeTensor, dense, differentiated, is_last, pack_raw

aten = torch.ops.aten

_SOURCE = (
    row_sums.SOURCE
    + r"""
#define MOST 64  /* places of a window */
#define PART 16  /* outputs at a time: neighbours in a row, or channels of a pixel where these come last */

typedef struct { int64_t bytes, N, C, H, W, OH, OW, KH, KW, sh, sw, ph, pw, dh, dw, last, threads; } sizes;

/* n <= PART bits, `step` apart. */
static inline uint32_t every(const uint8_t *s, int64_t bytes, int64_t at, int64_t n, int64_t step) {
  if (step == 1) return (uint32_t)some_bits(s, bytes, at, n);
  if (step == 2) {
    uint64_t x = some_bits(s, bytes, at, 2 * n) & 0x55555555ULL;
    x = (x | x >> 1) & 0x33333333ULL; x = (x | x >> 2) & 0x0F0F0F0FULL; x = (x | x >> 4) & 0x00FF00FFULL;
    return (uint32_t)((x | x >> 8) & 0xFFFF);
  }
  uint32_t x = 0;
  for (int64_t i = 0; i < n; i++) x |= (uint32_t)(s[(at + i * step) >> 3] >> ((at + i * step) & 7) & 1) << i;
  return x;
}

/* For n outputs from lane `l` of line (h, w): which places of their windows are there, have a spike, and where (of lane
   l) they are, counted from the image. A line is a row of outputs of channel `w`, or the channels of output (h, w). */
static inline int window(const sizes *g, const uint8_t *bits, int64_t image, int64_t h, int64_t w, int64_t l, int64_t n,
                         uint32_t *there, uint32_t *spikes, int64_t *place) {
  const uint32_t all = (1u << n) - 1;
  int found = 0;
  for (int64_t i = 0; i < g->KH; i++) {
    const int64_t y = h * g->sh + i * g->dh - g->ph;
    if (y < 0 || y >= g->H) continue;
    for (int64_t j = 0; j < g->KW; j++) {
      if (g->last) {
        const int64_t x = w * g->sw + j * g->dw - g->pw;
        if (x < 0 || x >= g->W) continue;
        place[found] = (y * g->W + x) * g->C + l;
        there[found] = all;
        spikes[found] = (uint32_t)some_bits(bits, g->bytes, image + place[found], n);
      } else {
        const int64_t x = l * g->sw + j * g->dw - g->pw;
        int64_t first = 0, end = n;  /* of the outputs whose place is in the row */
        if (x < 0 || x + (n - 1) * g->sw >= g->W) {
          while (first < n && x + first * g->sw < 0) first++;
          while (end > first && x + (end - 1) * g->sw >= g->W) end--;
        }
        if (first == end) continue;
        place[found] = (w * g->H + y) * g->W + x;
        there[found] = ((1u << (end - first)) - 1) << first;
        spikes[found] = every(bits, g->bytes, image + place[found] + first * g->sw, end - first, g->sw) << first;
      }
      found++;
    }
  }
  return found;
}

/* For every line of an image and every part of it: some statements, with h, w, l and n. */
#define LINES(...)                                                                                                   \
  for (int64_t a = 0, outer = g->last ? g->OH : g->C, inner = g->last ? g->OW : g->OH; a < outer; a++)                \
    for (int64_t b = 0; b < inner; b++) {                                                                            \
      const int64_t h = g->last ? a : b, w = g->last ? b : a, lanes = g->last ? g->C : g->OW;                        \
      for (int64_t l = 0; l < lanes; l += PART) {                                                                    \
        const int64_t n = least(PART, lanes - l);                                                                    \
        uint32_t there[MOST], spikes[MOST]; int64_t place[MOST];                                                     \
        const int found = window(g, bits, image, h, w, l, n, there, spikes, place);                                  \
        __VA_ARGS__                                                                                                  \
      }                                                                                                              \
    }

/* out: bits of [N][C][OH][OW], or [N][OH][OW][C]. Eight images make whole bytes. */
void max_pool(const uint8_t *bits, uint8_t *out, const sizes *g) {
  #pragma omp parallel for num_threads((int)g->threads) if (g->threads > 1)
  for (int64_t n0 = 0; n0 < g->N; n0 += 8) {
    uint8_t *to = out + n0 / 8 * g->C * g->OH * g->OW;
    uint64_t held = 0; int have = 0;
    for (int64_t m = n0; m < least(n0 + 8, g->N); m++) {
      const int64_t image = m * g->C * g->H * g->W;
      LINES(
        uint32_t any = 0;
        for (int t = 0; t < found; t++) any |= spikes[t];
        held |= (uint64_t)any << have;
        for (have += n; have >= 8; have -= 8, held >>= 8) *to++ = (uint8_t)held;
      )
    }
    if (have) *to = (uint8_t)held;
  }
}

/* dX of the shape of the spikes from G of the shape of the output, both in memory as their bits are. Where windows
   share places, sums are taken in the order of the outputs. I: an integer type as wide as T. */
#define BACKWARD(NAME, T, I)                                                                                         \
typedef I I##_part __attribute__((vector_size(PART * sizeof(I))));                                                   \
typedef I I##_any __attribute__((may_alias));                                                                        \
void NAME(const uint8_t *bits, const T *G, T *dX, const sizes *g) {                                                  \
  const int shared = g->sh < (g->KH - 1) * g->dh + 1 || g->sw < (g->KW - 1) * g->dw + 1;                             \
  const T *const end = G + g->N * g->C * g->OH * g->OW;                                                              \
  const I##_part bit = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};                \
  _Pragma("omp parallel for num_threads((int)g->threads) if (g->threads > 1)")                                       \
  for (int64_t m = 0; m < g->N; m++) {                                                                               \
    const int64_t image = m * g->C * g->H * g->W, step = g->last ? 1 : g->sw;                                        \
    const T *from = G + m * g->C * g->OH * g->OW;                                                                    \
    T *to = dX + image;                                                                                              \
    memset(to, 0, g->C * g->H * g->W * sizeof *to);                                                                  \
    LINES(                                                                                                           \
      uint32_t seen = 0;                                                                                             \
      for (int t = 0; t < found; t++) { const uint32_t s = spikes[t]; spikes[t] = s & ~seen; seen |= s; }            \
      for (int t = 0; t < found; t++) { spikes[t] |= there[t] & ~seen; seen |= there[t]; }                           \
      if (shared) {                                                                                                  \
        for (int i = 0; i < n; i++)                                                                                  \
          for (int t = 0; t < found; t++)                                                                            \
            if (spikes[t] >> i & 1) { to[place[t] + i * step] += from[i]; break; }                                   \
      } else {                                                                                                       \
        I##_part all = {0};                                                                                          \
        if (end - from < PART) memcpy(&all, from, n * sizeof(T)); else memcpy(&all, from, sizeof all);               \
        for (int t = 0; t < found; t++) {                                                                            \
          const I##_part some = ((bit & (I)spikes[t]) != 0) & all;                                                   \
          I##_any *x = (I##_any *)(to + place[t]);                                                                   \
          if (step == 1 && n == PART) { memcpy(x, &some, sizeof some); continue; }                                   \
          I chosen[PART];                                                                                            \
          memcpy(chosen, &some, sizeof some);                                                                        \
          if (there[t] != (1u << n) - 1) {                                                                           \
            for (int i = 0; i < n; i++) if (spikes[t] >> i & 1) x[i * step] = chosen[i];                             \
          } else if (step == 2) for (int i = 0; i < n; i++) x[2 * i] = chosen[i];                                    \
          else for (int i = 0; i < n; i++) x[i * step] = chosen[i];                                                  \
        }                                                                                                            \
      }                                                                                                              \
      from += n;                                                                                                     \
    )                                                                                                                \
  }                                                                                                                  \
}
BACKWARD(backward_4, float, int32_t)
BACKWARD(backward_8, double, int64_t)
BACKWARD(backward_2, uint16_t, uint16_t)
"""
)

_SMALL = 1 << 16  # spikes; below it one thread pools faster than several


class Pool:
    """A max pool of spikes of one shape and layout.

    ``sizes`` are the values of the C struct of that name, or None where the C functions cannot compute the pool.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dtype: torch.dtype,
        pool: Any,
        options: Any,
        n_threads: int,
    ) -> None:
        self.dtype, self.pool, self.options = dtype, pool, dict(options)
        padding, dilations = (several(self.options[name], 1) for name in ("padding", "dilation"))
        self.may_miss = any(padding) and any(d > 1 for d in dilations)  # all of the input, and find -infinity
        like = torch.empty_strided(shape, strides, device="meta")
        contiguous, last = like.is_contiguous(), like.is_contiguous(memory_format=torch.channels_last)
        self.format = torch.contiguous_format if contiguous else torch.channels_last
        out = pool(like, **self.options)
        self.shape, self.sizes = tuple(out.shape), None
        if pool is torch.max_pool3d or not (contiguous or last) or out.numel() == 0:
            return
        self.strides = torch.empty(self.shape, device="meta", memory_format=self.format).stride()
        places = 1 if pool is torch.max_pool1d else 2
        spread = [several(self.options[name], places) for name in ("kernel_size", "stride", "padding", "dilation")]
        if places == 1:  # of height 1
            spread = [[fill, *each] for fill, each in zip((1, 1, 0, 1), spread, strict=True)]
        kernel, stride, _, dilation = spread
        self.shared = any(t < (k - 1) * d + 1 for t, k, d in zip(stride, kernel, dilation, strict=True))
        N, C = (1, shape[0]) if len(shape) == places + 1 else shape[:2]
        high = [1] * (2 - places)
        sizes = [n_bytes(like.numel()), N, C, *high, *shape[-places:], *high, *self.shape[-places:]]
        sizes += [*itertools.chain(*spread), int(not contiguous), n_threads]
        if kernel[0] * kernel[1] <= 64 and build.compiled(_SOURCE) is not None:
            self.sizes = tuple(sizes)

    def call(self, name: str, *tensors: Tensor) -> None:
        """Calls one of the C functions."""
        call(getattr(build.compiled(_SOURCE), name), *tensors, self.sizes)

    def forward(self, s: SpikeTensor) -> SpikeTensor:
        """The pooled spikes."""
        if self.sizes is None or not (s.is_cpu and s.has_bits):
            return pack_raw(self.pool(dense(s), **self.options), check=self.may_miss)
        out = torch.empty(n_bytes(math.prod(self.shape)), dtype=torch.uint8)
        self.call("max_pool", s.bits, out)
        return SpikeTensor(out, self.shape, self.strides, self.dtype)

    def backward(self, s: SpikeTensor, grad: Tensor) -> Tensor:
        """The gradient of the spikes. Where windows share places, torch adds the gradients in half precision."""
        plain = type(grad) is Tensor and grad.dtype == self.dtype and s.is_cpu and s.has_bits
        if plain and self.sizes is not None and not (self.shared and self.dtype.itemsize == 2):
            by_input = huge_pages(torch.empty_strided(s.shape, s.stride(), dtype=s.dtype))
            self.call(f"backward_{s.dtype.itemsize}", s.bits, grad.contiguous(memory_format=self.format), by_input)
            return by_input
        with torch.enable_grad():
            x = dense(s).requires_grad_()
            y = self.pool(x, **self.options)
        return torch.autograd.grad(y, x, grad)[0]


_pools = functools.lru_cache(maxsize=256)(Pool)


def several(value: Any, n: int) -> list[int]:
    """A size for each of n dimensions, from one for all of them or from as many."""
    found = [value] if isinstance(value, int) else list(value)
    return found * n if len(found) == 1 else found


class _MaxPool(torch.autograd.Function):
    """Saves the bits, and finds the largest again in the backward pass."""

    @staticmethod
    def forward(s: Tensor, pool: Pool) -> Tensor:
        assert isinstance(s, SpikeTensor)
        return pool.forward(s)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        s, ctx.pool = inputs
        ctx.save_for_backward(s)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.pool.backward(*ctx.saved_tensors, grad), None


def _pool_of(
    pool: Any, s: SpikeTensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Pool:
    values = {"kernel_size": kernel_size, "stride": stride or kernel_size, "padding": padding, "dilation": dilation}
    options = tuple((name, v if isinstance(v, int) else tuple(v)) for name, v in values.items())
    options = (*options, ("ceil_mode", ceil_mode))
    return _pools(tuple(s.shape), s.stride(), s.dtype, pool, options, threads(s.numel(), at_least=_SMALL))


@handles(nn.MaxPool2d)
def _max_pool2d(layer: nn.MaxPool2d, s: SpikeTensor) -> Prepared | None:
    """A max pool of spikes in that memory."""
    if layer.return_indices:
        return None
    options = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
    pool = _pool_of(torch.max_pool2d, s, *options)
    if pool.sizes is None or not s.is_cpu:
        return None
    out = torch.empty(n_bytes(math.prod(pool.shape)), dtype=torch.uint8)
    run = bound(build.compiled(_SOURCE).max_pool, s.bits, out, pool.sizes)
    return Prepared.writing(SpikeTensor(out, pool.shape, pool.strides, pool.dtype), run, reads=(layer,))


_FUNCTIONS = {F.max_pool1d: torch.max_pool1d, F.max_pool2d: torch.max_pool2d, F.max_pool3d: torch.max_pool3d}


@handles(*_FUNCTIONS, *_FUNCTIONS.values())
def _max_pool(
    func: Any, input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,  # noqa: A002
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    if return_indices or not isinstance(input, SpikeTensor) or torch.compiler.is_compiling():
        return NotImplemented  # what is compiled meets bits below autograd
    pool = _FUNCTIONS.get(func, func)
    plan = _pool_of(pool, input, kernel_size, stride, padding, dilation, ceil_mode)
    return _MaxPool.apply(input, plan) if differentiated(input) else plan.forward(input)  # type: ignore[no-untyped-call]


def _pool_in_graph(func: Any, s: SpikeTensor, *options: Any) -> Any:
    """The pooled spikes as bits, and the places of the largest, which are dead code: the gradient does not use them."""
    if s.ndim not in (3, 4):
        return NotImplemented
    found = one_call(func, s, *options)
    if found is NotImplemented:
        return found
    _, there = found
    like = func(torch.empty_strided(s.shape, s.stride(), dtype=s.dtype, device="meta"), *options)[0]
    last = is_last(s)
    strides = like.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format).stride()
    bits = torch.ops.spikeloom.max_pool(s.bits, s.shape, last, *_pool_options(*options))
    return SpikeTensor(bits, tuple(like.shape), strides, s.dtype), there


def _pool_backward_in_graph(func: Any, grad: Tensor, s: Any, *options: Any) -> Any:
    """The gradient of the spikes, for which the operator finds the largest places again."""
    options = options[:-1]  # without the places
    if not isinstance(s, SpikeTensor) or s.ndim not in (3, 4) or not (s.is_contiguous() or is_last(s)):
        return NotImplemented
    define()
    return torch.ops.spikeloom.max_pool_backward(grad, s.bits, s.shape, is_last(s), *_pool_options(*options))


def _pool_options(
    kernel: list[int], stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> tuple[list[int], list[int], list[int], list[int], bool]:
    return several(kernel, 2), several(stride or kernel, 2), several(padding, 2), several(dilation, 2), ceil_mode


_OPTIONS = "int[] kernel, int[] stride, int[] padding, int[] dilation, bool ceil_mode"


def _pooled_fake(bits: Tensor, size: Any, last: bool, *options: Any) -> Tensor:
    y = F.max_pool2d(bits.new_empty(size, dtype=torch.float32), *options)
    return bits.new_empty(n_bytes(y.numel()))


@in_graphs("max_pool", f"(Tensor bits, SymInt[] size, bool last, {_OPTIONS}) -> Tensor", fake=_pooled_fake)
def _pooled(bits: Tensor, size: list[int], last: bool, *options: Any) -> Tensor:
    s: Any = F.max_pool2d(as_spikes(bits, tuple(size), torch.float32, last), *options)
    found: Tensor = s.bits
    return found.clone() if found.data_ptr() == bits.data_ptr() else found


@in_graphs(
    "max_pool_backward",
    f"(Tensor grad, Tensor bits, SymInt[] size, bool last, {_OPTIONS}) -> Tensor",
    fake=lambda grad, bits, size, last, *options: as_dense(bits, size, grad.dtype, last),
)
def _unpooled(grad: Tensor, bits: Tensor, size: list[int], last: bool, *options: Any) -> Tensor:
    with autograd_inside():
        s = as_spikes(bits, tuple(size), grad.dtype, last).requires_grad_()
        return torch.autograd.grad(F.max_pool2d(s, *options), s, grad)[0]


handles(aten.max_pool2d_with_indices.default, compiled=_pool_in_graph)(unpacked)
handles(aten.max_pool2d_with_indices_backward.default, compiled=_pool_backward_in_graph)(unpacked)
