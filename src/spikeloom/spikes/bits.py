"""bits: spikes as one bit each in a flat uint8 tensor. The first spike is the lowest bit; bits past the last are 0."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..native import build
from ..native.call import call, threads
from . import device
from .graph import define, in_graphs

COUNT_ONES = r"""
#include <stdint.h>
#include <string.h>

static int64_t count_ones(const uint8_t *s, int64_t bytes) {
  int64_t n = 0, i = 0;
  for (; i + 8 <= bytes; i += 8) { uint64_t w; memcpy(&w, s + i, 8); n += __builtin_popcountll(w); }
  for (; i < bytes; i++) n += __builtin_popcount(s[i]);
  return n;
}
"""
"""C that the sources of products share."""

_SOURCE = (
    COUNT_ONES
    + r"""
/* Returns 1 if every value is 0 or 1. A byte of bits for 8 values; half precision is compared as integers. */
#define PACK(NAME, T, ZERO, ONE)                                                              \
int64_t NAME(const T *x, uint8_t *bits, int64_t n, int64_t threads) {                         \
  int bad = 0;                                                                                \
  _Pragma("omp parallel for reduction(| : bad) num_threads((int)threads) if (threads > 1)")   \
  for (int64_t b = 0; b < (n + 7) / 8; b++) {                                                 \
    unsigned byte = 0; int wrong = 0; int m = n - 8 * b < 8 ? (int)(n - 8 * b) : 8;           \
    for (int j = 0; j < m; j++) {                                                             \
      const T v = x[8 * b + j];                                                               \
      const int one = v == (ONE);                                                             \
      wrong |= !one && !(ZERO);                                                               \
      byte |= (unsigned)one << j;                                                             \
    }                                                                                         \
    bits[b] = (uint8_t)byte; bad |= wrong;                                                    \
  }                                                                                           \
  return !bad;                                                                                \
}
PACK(pack_float32, float, v == 0.0f, 1.0f)
PACK(pack_float64, double, v == 0.0, 1.0)
PACK(pack_bfloat16, uint16_t, (v & 0x7fff) == 0, 0x3f80)
PACK(pack_float16, uint16_t, (v & 0x7fff) == 0, 0x3c00)

#define UNPACK(NAME, T, ONE)                                                                  \
void NAME(const uint8_t *bits, T *x, int64_t n, int64_t threads) {                            \
  T table[256][8];                                                                            \
  for (int i = 0; i < 256; i++) for (int j = 0; j < 8; j++) table[i][j] = (i >> j) & 1 ? (ONE) : 0; \
  _Pragma("omp parallel for num_threads((int)threads) if (threads > 1)")                      \
  for (int64_t b = 0; b < n / 8; b++) memcpy(x + 8 * b, table[bits[b]], sizeof table[0]);     \
  for (int64_t i = n / 8 * 8; i < n; i++) x[i] = (bits[i >> 3] >> (i & 7)) & 1 ? (ONE) : 0;   \
}
UNPACK(unpack_float32, float, 1.0f)
UNPACK(unpack_float64, double, 1.0)
UNPACK(unpack_bfloat16, uint16_t, 0x3f80)
UNPACK(unpack_float16, uint16_t, 0x3c00)

int64_t count(const uint8_t *bits, int64_t bytes) { return count_ones(bits, bytes); }
"""
)
DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_SMALL = 1 << 16  # values; below it one thread packs and unpacks faster than several


def n_bytes(n: int) -> int:
    """The number of bytes that n spikes take."""
    return -(-n // 8)


def pack_bits(x: Tensor, *, check: bool) -> tuple[Tensor, tuple[int, ...]]:
    """The bits of a tensor of zeros and ones in memory order, and the strides by which they lie there.

    The strides are those of x, unless its layout leaves out or repeats places of memory. With ``check``, this raises
    ValueError if a value is neither 0 nor 1, for which it waits for a device; without, only 1 becomes a spike.
    """
    if _is_traced(x):
        if not (x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))):
            x = x.contiguous()
        define()
        return torch.ops.spikeloom.pack(x, x.stride(), check), x.stride()
    if not fills_memory(x.shape, x.stride()):
        x = x.contiguous()
    if check and x.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "pack: while a CUDA graph is captured, nobody can look whether all values are 0 or 1; "
            'sl.pack(x, check=False) takes them as they are, and a network with spikes="dense" packs nothing'
        )
    bits, binary = _pack_flat(x.as_strided((x.numel(),), (1,), x.storage_offset()), check=check)
    if not binary:
        wrong = x[(x != 0) & (x != 1)]
        raise ValueError(
            f"pack: {len(wrong)} of {x.numel()} values are neither 0 nor 1, the first is {wrong[0].item():g}; what has "
            "a sign, several levels or a factor stay dense"
        )
    return bits, x.stride()


def _pack_flat(x: Tensor, *, check: bool) -> tuple[Tensor, bool]:
    """The bits of a flat tensor, and whether all its values are 0 or 1, which is True where nobody looks."""
    n = x.numel()
    found = device.pack(x, n_bytes(n), check=check)
    if found is not None:
        return found
    c = library() if x.is_cpu and type(x) is Tensor else None
    if c is None or x.dtype not in DTYPES:
        ones = x == 1
        binary = not check or bool((ones | (x == 0)).all())
        padded = torch.cat([ones, ones.new_zeros(8 * n_bytes(n) - n)]).view(-1, 8).to(torch.uint8)
        place = torch.arange(8, dtype=torch.uint8, device=x.device)
        return (padded << place).sum(1, dtype=torch.uint8), binary
    bits = torch.empty(n_bytes(n), dtype=torch.uint8)
    binary = bool(call(getattr(c, f"pack_{DTYPES[x.dtype]}"), x, bits, n, threads(n, at_least=_SMALL)))
    return bits, binary or not check


def unpack_bits(bits: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """The n spikes as a flat tensor of a floating dtype."""
    found = None if _is_traced(bits) else device.unpack(bits, n, dtype)
    if found is not None:
        return found
    c = library() if not _is_traced(bits) and bits.is_cpu else None
    if c is None or dtype not in DTYPES:
        place = torch.arange(8, dtype=torch.uint8, device=bits.device)
        return ((bits.unsqueeze(1) >> place) & 1).reshape(-1)[:n].to(dtype)
    x = torch.empty(n, dtype=dtype)
    call(getattr(c, f"unpack_{DTYPES[dtype]}"), bits, x, n, threads(n, at_least=_SMALL))
    return x


def count_bits(bits: Tensor) -> int:
    """How many bits are 1."""
    c = library() if bits.is_cpu and bits.is_contiguous() and type(bits) is Tensor else None
    return int(n_ones(bits)) if c is None else call(c.count, bits, bits.numel())


def n_ones(bits: Tensor) -> Tensor:
    """How many bits are 1, as a number of int64 on their device, for which nobody waits."""
    found = device.count(bits)
    if found is not None:
        return found
    if bits.is_cpu and library() is not None and type(bits) is Tensor and bits.is_contiguous():
        return torch.tensor(count_bits(bits))
    return unpack_bits(bits.contiguous(), 8 * bits.numel(), torch.float32).sum(dtype=torch.int64)


def fills_memory(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether a layout takes each place of its memory once."""
    if 0 in shape:
        return True
    expected = 1
    for stride, n in sorted((stride, n) for stride, n in zip(strides, shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= n
    return expected == math.prod(shape)


def library() -> Any:
    """The functions of this module in C, or None without a compiler."""
    return build.compiled(_SOURCE)


@in_graphs(
    "pack",
    "(Tensor x, SymInt[] strides, bool check) -> Tensor",
    fake=lambda x, strides, check: x.new_empty(n_bytes(x.numel()), dtype=torch.uint8),
)
def _pack_in_graph(x: Tensor, strides: list[int], check: bool) -> Tensor:
    if x.stride() != tuple(strides):
        x = torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x)
    return pack_bits(x, check=check)[0]


def _is_traced(x: Tensor) -> bool:
    """Whether there are no values to look at: in what torch.compile or export trace."""
    return torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter)
