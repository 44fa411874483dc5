"""Decoders in C: one pass over the words of a file, straight into records.

They take clean files only; where a word makes no sense they give up, and the readers in NumPy, which say what is wrong,
do the work. Without a compiler those do all of it.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...kernel import build
from .recording import EVENT, Events
from .source import Size

_SOURCE = r"""
#include <stdint.h>
#include <string.h>

static inline void put(char *out, int64_t t, uint16_t x, uint16_t y, uint8_t p) { /* EVENT: 13 bytes */
  memcpy(out, &t, 8); memcpy(out + 8, &x, 2); memcpy(out + 10, &y, 2); out[12] = (char)p;
}

typedef struct { int64_t wraps; uint32_t before; int known; } counter;

/* A counter of `bits` bits: a step back by more than half its range is an overflow, and a step ahead undoes one. */
static inline int64_t unwrapped(counter *c, uint32_t now, int bits) {
  const int64_t half = (int64_t)1 << (bits - 1), step = (int64_t)now - c->before;
  if (c->known) c->wraps += step < -half ? 1 : step > half ? -1 : 0;
  c->known = 1; c->before = now;
  return c->wraps * ((int64_t)1 << bits) + now;
}

/* Pairs of 32 bits, address and time. l: x shift, mask, y shift, mask, p shift, mask, bits that words of others have,
   bits that words must have, time first, big-endian, whether time is unwrapped, what is added to it. H 0: any place
   will do. Returns the number of events, or -1. */
int64_t pairs(const char *raw, int64_t n, const int64_t *l, int64_t H, int64_t W, char *out) {
  counter clock = {0, 0, 0};
  char *begin = out;
  for (int64_t i = 0; i < n; i++, raw += 8) {
    uint32_t a, t;
    memcpy(&a, raw + (l[8] ? 4 : 0), 4); memcpy(&t, raw + (l[8] ? 0 : 4), 4);
    if (l[9]) { a = __builtin_bswap32(a); t = __builtin_bswap32(t); }
    const int64_t time = (l[10] ? unwrapped(&clock, t, 32) : (int64_t)t) + l[11];
    if ((a & l[6]) || (a & l[7]) != l[7]) continue;
    const uint32_t x = a >> l[0] & l[1], y = a >> l[2] & l[3];
    if (H && (x >= W || y >= H)) return -1;
    put(out, time, x, y, (a >> l[4] & l[5]) != 0);
    out += 13;
  }
  return (out - begin) / 13;
}

int64_t evt2(const uint32_t *raw, int64_t n, int64_t H, int64_t W, char *out) {
  counter clock = {0, 0, 0};
  int64_t base = 0;
  char *begin = out;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t w = raw[i], kind = w >> 28;
    if (kind <= 1) {
      const uint32_t x = w >> 11 & 2047, y = w & 2047;
      if (!clock.known) continue;
      if (H && (x >= W || y >= H)) return -1;
      put(out, base | (w >> 22 & 63), x, y, kind);
      out += 13;
    } else if (kind == 8) base = unwrapped(&clock, w & 0x0fffffff, 28) * 64;
    else if (kind != 10 && kind != 14 && kind != 15) return -1;
  }
  return (out - begin) / 13;
}

/* Without out, the number of events that there may be. */
int64_t evt3(const uint16_t *raw, int64_t n, int64_t H, int64_t W, char *out) {
  counter clock = {0, 0, 0};
  int64_t base = 0, low = 0, count = 0;
  uint32_t y = 0, x = 0, p = 0; int row = 0, vector = 0;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t w = raw[i], kind = w >> 12, known = row && clock.known;
    if (kind == 2) {
      if (!known) continue;
      if (out) {
        const uint32_t at = w & 2047;
        if (H && (at >= W || y >= H)) return -1;
        put(out + 13 * count, base | low, at, y, w >> 11 & 1);
      }
      count++;
    } else if (kind == 6) { if (clock.known) low = w & 4095; }
    else if (kind == 0) { y = w & 2047; row = 1; }
    else if (kind == 8) {
      if (!clock.known || (w & 4095) != clock.before) { base = unwrapped(&clock, w & 4095, 12) * 4096; low = 0; }
    } else if (kind == 3) { x = w & 2047; p = w >> 11 & 1; vector = 1; }
    else if (kind == 4 || kind == 5) {
      uint32_t bits = w & (kind == 4 ? 0xfff : 0xff);
      if (known && vector) {
        if (!out) count += __builtin_popcount(bits);
        else for (; bits; bits &= bits - 1) {
          const uint32_t at = x + __builtin_ctz(bits);
          if (at > 65535 || (H && (at >= W || y >= H))) return -1;
          put(out + 13 * count++, base | low, at, y, p);
        }
      }
      x += kind == 4 ? 12 : 8;
    } else if (kind != 7 && kind != 10 && kind != 14 && kind != 15) return -1;
  }
  return count;
}
"""


class Layout(NamedTuple):
    """Where the parts of an address are, and how a pair of address and time lies in the file."""

    x: tuple[int, int]
    y: tuple[int, int]
    p: tuple[int, int]
    foreign: int = 0
    needed: int = 0
    time_first: bool = False
    big_endian: bool = False
    unwrap: bool = True


def pairs(raw: NDArray[np.uint8], layout: Layout, size: Size | None, *, offset: int = 0) -> Events | None:
    """Events of pairs of 32 bits; ``offset`` is added to their times."""
    n = len(raw) // 8
    if len(raw) % 8:
        return None
    x, y, p, foreign, needed, *flags = layout
    numbers = (*x, *y, *p, foreign, needed, *map(int, flags), offset)
    return _run("pairs", raw, (n, (ctypes.c_int64 * len(numbers))(*numbers)), size, n)


def evt2(raw: NDArray[np.uint8], size: Size | None) -> Events | None:
    """Events of words of 32 bits."""
    return _run("evt2", raw, (len(raw) // 4,), size, len(raw) // 4) if len(raw) % 4 == 0 else None


def evt3(raw: NDArray[np.uint8], size: Size | None) -> Events | None:
    """Events of words of 16 bits."""
    if len(raw) % 2 or (c := build.compiled(_SOURCE)) is None:
        return None
    room = _call(c.evt3, raw, (len(raw) // 2,), size, None)
    return _run("evt3", raw, (len(raw) // 2,), size, room) if room >= 0 else None


def _run(name: str, raw: NDArray[np.uint8], about: tuple[Any, ...], size: Size | None, room: int) -> Events | None:
    """What a function writes into a new array of so many events; None where it gives up."""
    c = build.compiled(_SOURCE)
    if c is None or not raw.flags.c_contiguous:
        return None
    events = np.empty(room, EVENT)
    found = _call(getattr(c, name), raw, about, size, events)
    return None if found < 0 else events[:found]


def _call(function: Any, raw: NDArray[np.uint8], about: tuple[Any, ...], size: Size | None, out: Events | None) -> int:
    function.restype = ctypes.c_int64
    H, W = size or (0, 0)
    count, *rest = about
    address = None if out is None else out.ctypes.data
    return int(
        function(
            ctypes.c_void_p(raw.ctypes.data), ctypes.c_int64(count), *rest, ctypes.c_int64(H), ctypes.c_int64(W),
            ctypes.c_void_p(address),
        )
    )  # fmt: skip
