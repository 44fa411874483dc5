"""averaging: average pooling of spikes from the bits, which are counted, where channels come last in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..native import build
from ..native.allocator import huge_pages
from ..native.call import call, threads
from . import row_sums
from .handlers import handles
from .operators import one_call
from .pooling import several
from .tensor import SpikeTensor, is_last

aten = torch.ops.aten

_SOURCE = (
    row_sums.SOURCE
    + r"""
#define PART 16  /* channels at a time */

typedef struct { int64_t bytes, N, C, H, W, OH, OW, KH, KW, sh, sw, divisor, threads; } sizes;

/* out [N][OH][OW][C]: the sum over each window of bits [N][H][W][C], by the divisor. I: an integer as wide as T. */
#define AVERAGE(NAME, T, I)                                                                                          \
typedef I I##_part __attribute__((vector_size(PART * sizeof(I))));                                                   \
typedef T T##_part __attribute__((vector_size(PART * sizeof(T))));                                                   \
void NAME(const uint8_t *bits, T *out, const sizes *g) {                                                             \
  const I##_part bit = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};                \
  _Pragma("omp parallel for num_threads((int)g->threads) if (g->threads > 1)")                                       \
  for (int64_t m = 0; m < g->N; m++) {                                                                               \
    T *to = out + m * g->OH * g->OW * g->C;                                                                          \
    for (int64_t h = 0; h < g->OH; h++)                                                                              \
      for (int64_t w = 0; w < g->OW; w++) {                                                                          \
        const int64_t first = ((m * g->H + h * g->sh) * g->W + w * g->sw) * g->C;                                    \
        for (int64_t l = 0; l < g->C; l += PART) {                                                                   \
          const int64_t n = least(PART, g->C - l);                                                                   \
          I##_part sum = {0};                                                                                        \
          for (int64_t i = 0; i < g->KH; i++)                                                                        \
            for (int64_t j = 0; j < g->KW; j++)                                                                      \
              sum -= (bit & (I)some_bits(bits, g->bytes, first + (i * g->W + j) * g->C + l, n)) != 0;                \
          const T##_part y = __builtin_convertvector(sum, T##_part) / (T)g->divisor;                                 \
          if (n == PART) memcpy(to, &y, sizeof y); else memcpy(to, &y, n * sizeof(T));                               \
          to += n;                                                                                                   \
        }                                                                                                            \
      }                                                                                                              \
  }                                                                                                                  \
}
AVERAGE(average_4, float, int32_t)
AVERAGE(average_8, double, int64_t)
"""
)

_SMALL = 1 << 16  # spikes; below it one thread pools faster than several


@handles(aten.avg_pool2d.default, compiled=one_call)
def _average(
    func: Any, s: SpikeTensor, kernel_size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Any:  # fmt: skip
    """Averages of whole windows; others are left to torch."""
    kernel, steps = several(kernel_size, 2), several(stride or kernel_size, 2)
    fits = s.ndim == 4 and s.has_bits and s.is_cpu and is_last(s) and s.dtype in (torch.float32, torch.float64)
    if not fits or any(several(padding, 2)) or ceil_mode or s.numel() == 0:
        return NotImplemented
    if divisor_override == 0 or min(*kernel, *steps) < 1:
        return NotImplemented  # which is an error
    library = build.compiled(_SOURCE)
    N, C, *size = s.shape
    places = [(n - k) // step + 1 for n, k, step in zip(size, kernel, steps, strict=True)]
    if library is None or min(places) < 1:
        return NotImplemented
    divisor = divisor_override or kernel[0] * kernel[1]
    out: Tensor = torch.empty((N, C, *places), dtype=s.dtype, memory_format=torch.channels_last)
    numbers = (len(s.bits), N, C, *size, *places, *kernel, *steps, divisor, threads(s.numel(), at_least=_SMALL))
    call(getattr(library, f"average_{s.dtype.itemsize}"), s.bits, huge_pages(out), numbers)
    return out
