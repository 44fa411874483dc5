"""convolution: spikes through nn.Conv2d as sums of rows of the weight, from the bits.

    Y[n, h, w] = sum over taps (i, j), then channels c with S[n, c, h s + i d - p, w s + j d - p] = 1, of W[i, j, c]

The order of additions depends on the shape alone. Bits are read by pixel (channels_last); those of the ordinary layout
are transposed first.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from ..kernel import build
from . import bits as raw
from .products import DENSE, ROW_SUMS, kept, pays, transposed
from .tensor import HANDLERS, SpikeTensor

_SOURCE = (
    ROW_SUMS
    + r"""
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
      for (int64_t i = 0; i < H * W; i++)
        found[i] = list_spikes(at + i * C, bits + (n * H * W + i) * bytes, bytes);
      for (int64_t p = 0; p < O; p += PANEL)
        for (int64_t oh = 0; oh < OH; oh++)
          for (int64_t ow = 0; ow < OW; ow++) {
            float acc[PANEL];
            memset(acc, 0, sizeof acc);
            for (int64_t i = 0; i < KH; i++) {
              const int64_t h = oh * sh + i * dh - ph;
              if (h < 0 || h >= H) continue;
              for (int64_t j = 0; j < KW; j++) {
                const int64_t w = ow * sw + j * dw - pw;
                if (w < 0 || w >= W) continue;
                sum_rows(acc, weight + (i * KW + j) * C * O + p, O, at + (h * W + w) * C,
                         found[h * W + w], PANEL);
              }
            }
            float *y = Y + ((n * OH + oh) * OW + ow) * O + p;
            if (bias) for (int k = 0; k < PANEL; k++) acc[k] += bias[p + k];
            memcpy(y, acc, sizeof acc);
          }
    }
    free(at); free(found);
  }
}
"""
)


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
    build.compiled(_SOURCE).convolve(*pointers, (ctypes.c_int64 * len(sizes))(*sizes))
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
    suits = (
        isinstance(s, SpikeTensor)
        and (bias is None or type(bias) in DENSE)
        and s.ndim == 4
        and not is_transposed
        and groups == 1
        and s.shape[1] < 1 << 16
        and pays(s, weight, _SOURCE)
        and kept(_taps, weight, 8 * s.shape[0])[1]  # 0 * infinity is NaN
    )
    bits = _by_pixel(s) if suits else None
    if bits is None:
        return NotImplemented
    y = convolve(bits, tuple(s.shape), weight, bias, stride, padding, dilation).permute(0, 3, 1, 2)
    last = s.is_contiguous(memory_format=torch.channels_last) and not s.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format).to(s.dtype)


HANDLERS[torch.ops.aten.convolution.default] = _convolution
