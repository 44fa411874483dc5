"""convolution: spikes through nn.Conv2d as sums of rows of the weight, from the bits.

    Y[n, h, w] = sum over taps (i, j), then channels c with S[n, c, h s + i d - p, w s + j d - p] = 1, of W[i, j, c]

The order of additions depends on the shape alone. Bits are read by pixel (channels_last); those of the ordinary layout
are transposed first.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from ..kernel import build
from . import bits as raw
from .products import DENSE, kept, transposed
from .tensor import HANDLERS, SpikeTensor

MOST = 0.3
"""Spikes per value up to which a convolution is a sum of rows; above, the dense one is faster."""

_SOURCE = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#define PANEL 64
typedef float v8 __attribute__((vector_size(32), aligned(4)));

static inline void sum_rows(v8 *a, const float *W, int64_t O, const uint16_t *list, int n) {
  v8 a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3], a4 = a[4], a5 = a[5], a6 = a[6], a7 = a[7];
  for (int i = 0; i < n; i++) {
    const v8 *w = (const v8 *)(W + (int64_t)list[i] * O);
    a0 += w[0]; a1 += w[1]; a2 += w[2]; a3 += w[3]; a4 += w[4]; a5 += w[5]; a6 += w[6]; a7 += w[7];
  }
  a[0] = a0; a[1] = a1; a[2] = a2; a[3] = a3; a[4] = a4; a[5] = a5; a[6] = a6; a[7] = a7;
}

/* bits[N][H][W][bytes], weight[KH][KW][C][O] with O a multiple of PANEL, Y[N][OH][OW][O]. g: sizes, see below. */
void convolve(const uint8_t *bits, const float *weight, const float *bias, float *Y, const int64_t *g) {
  const int64_t N = g[0], H = g[1], W = g[2], C = g[3], bytes = g[4], O = g[5], OH = g[6], OW = g[7];
  const int64_t KH = g[8], KW = g[9];
  const int64_t sh = g[10], sw = g[11], ph = g[12], pw = g[13], dh = g[14], dw = g[15], threads = g[16];
  #pragma omp parallel num_threads((int)threads) if (threads > 1)
  {
    uint16_t *at = malloc((size_t)H * W * C * sizeof *at);
    int *found = malloc((size_t)H * W * sizeof *found);
    #pragma omp for schedule(dynamic)
    for (int64_t n = 0; n < N; n++) {
      for (int64_t i = 0; i < H * W; i++) {
        const uint8_t *pixel = bits + (n * H * W + i) * bytes;
        uint16_t *to = at + i * C; int count = 0;
        for (int64_t b = 0; b < bytes; b += 8) {
          uint64_t w = 0; memcpy(&w, pixel + b, bytes - b < 8 ? bytes - b : 8);
          while (w) { to[count++] = (uint16_t)(8 * b + __builtin_ctzll(w)); w &= w - 1; }
        }
        found[i] = count;
      }
      for (int64_t p = 0; p < O; p += PANEL)
        for (int64_t oh = 0; oh < OH; oh++)
          for (int64_t ow = 0; ow < OW; ow++) {
            v8 acc[PANEL / 8];
            memset(acc, 0, sizeof acc);
            for (int64_t i = 0; i < KH; i++) {
              const int64_t h = oh * sh + i * dh - ph;
              if (h < 0 || h >= H) continue;
              for (int64_t j = 0; j < KW; j++) {
                const int64_t w = ow * sw + j * dw - pw;
                if (w < 0 || w >= W) continue;
                sum_rows(acc, weight + (i * KW + j) * C * O + p, O, at + (h * W + w) * C, found[h * W + w]);
              }
            }
            float *y = Y + ((n * OH + oh) * OW + ow) * O + p;
            const float *a = (const float *)acc;
            if (bias) for (int k = 0; k < PANEL; k++) y[k] = a[k] + bias[p + k];
            else memcpy(y, acc, sizeof acc);
          }
    }
    free(at); free(found);
  }
}
"""


@functools.cache
def library() -> Any:
    """The compiled function, or None without a compiler."""
    try:
        build.ready()
        return build.load(_SOURCE)
    except build.BuildError:
        return None


def convolve(
    bits: Tensor, size: tuple[int, ...], weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int],
    dilation: list[int],
) -> Tensor:  # fmt: skip
    """``[N, OH, OW, O]`` from bits by pixel, ``size`` being (N, C, H, W) of the spikes; weight ``[O, C, KH, KW]``."""
    (N, C, H, W), (channels, _, KH, KW) = size, weight.shape
    rows, _ = kept(_taps, weight, 8 * N)
    wide, offset = rows.shape[3], None
    if bias is not None:
        offset = rows.new_zeros(wide)
        offset[:channels] = bias
    OH, OW = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip((H, W), padding, dilation, (KH, KW), stride, strict=True)
    )
    Y = torch.empty(N, OH, OW, wide)
    threads = min(N, torch.get_num_threads())
    sizes = [N, H, W, C, raw.size(C), wide, OH, OW, KH, KW, *stride, *padding, *dilation, threads]
    pointers = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in (bits, rows, offset, Y)]
    library().convolve(*pointers, (ctypes.c_int64 * len(sizes))(*sizes))
    return Y[..., :channels]


def _taps(weight: Tensor) -> tuple[Tensor, bool]:
    """``[KH, KW, C, O]`` in float32, O filled up to whole panels, and whether all is finite."""
    channels, C, KH, KW = weight.shape
    rows = weight.new_zeros(KH, KW, C, -(-channels // 64) * 64, dtype=torch.float32)
    rows[..., :channels] = weight.permute(2, 3, 1, 0)
    return rows, bool(weight.sum(dtype=torch.float32).isfinite())


def _by_pixel(s: SpikeTensor) -> Tensor | None:
    """Bits ``[N, H, W, whole bytes]`` of spikes ``[N, C, H, W]``; None where that is not simple."""
    N, C, H, W = s.shape
    if s.is_contiguous(memory_format=torch.channels_last) and C % 8 == 0:
        return s.bits
    if s.is_contiguous() and (H * W) % 8 == 0:
        each = s.bits.view(N, -1)
        return torch.cat([transposed(one, C, H * W) for one in each])
    return None


def _convolution(
    func: Any, s: Any, weight: Any, bias: Any, stride: list[int], padding: list[int], dilation: list[int],
    is_transposed: bool, output_padding: list[int], groups: int,
) -> Any:  # fmt: skip
    pays = (
        isinstance(s, SpikeTensor)
        and type(weight) in DENSE
        and (bias is None or type(bias) in DENSE)
        and s.ndim == 4
        and not is_transposed
        and groups == 1
        and s.dtype in (torch.float32, torch.bfloat16)
        and weight.dtype == s.dtype
        and s.is_cpu
        and s.has_bits
        and s.numel() > 0
        and s.shape[1] < 1 << 16
        and library() is not None
        and s.rate() <= MOST
        and kept(_taps, weight, 8 * s.shape[0])[1]  # 0 * infinity is NaN
    )
    bits = _by_pixel(s) if pays else None
    if bits is None:
        return NotImplemented
    y = convolve(bits, tuple(s.shape), weight, bias, stride, padding, dilation).permute(0, 3, 1, 2)
    last = s.is_contiguous(memory_format=torch.channels_last) and not s.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format).to(s.dtype)


HANDLERS[torch.ops.aten.convolution.default] = _convolution
