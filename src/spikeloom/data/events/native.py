"""All C code of this sub-package, compiled together the first time it is needed. Records are packed: t int64, x uint16,
then y uint16 for cameras, p uint8."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...native import build
from ...native.call import call

_SOURCE = r"""
#include <stdint.h>
#include <string.h>

/* --- decoders --- */

static inline void put(char *out, int64_t t, uint16_t x, uint16_t y, uint8_t p) { /* EVENT: 13 bytes */
  memcpy(out, &t, 8); memcpy(out + 8, &x, 2); memcpy(out + 10, &y, 2); out[12] = (char)p;
}

typedef struct { int64_t wraps; uint32_t before; int known; } counter;

/* A counter of `bits` bits: a step back by more than half its range is an overflow, a step ahead undoes one. */
static inline int64_t unwrapped(counter *c, uint32_t now, int bits) {
  const int64_t half = (int64_t)1 << (bits - 1), step = (int64_t)now - c->before;
  if (c->known) c->wraps += step < -half ? 1 : step > half && c->wraps ? -1 : 0;
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

int64_t evt2(const char *raw, int64_t n, int64_t H, int64_t W, char *out) {
  counter clock = {0, 0, 0};
  int64_t base = 0;
  char *begin = out;
  for (int64_t i = 0; i < n; i++, raw += 4) { /* words begin anywhere in a file, and so anywhere in memory */
    uint32_t w;
    memcpy(&w, raw, 4);
    const uint32_t kind = w >> 28;
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

/* Without out, the number of events that there may be; no more than room are written: a file may change meanwhile. */
int64_t evt3(const char *raw, int64_t n, int64_t room, int64_t H, int64_t W, char *out) {
  counter clock = {0, 0, 0};
  int64_t base = 0, low = 0, count = 0;
  uint32_t y = 0, x = 0, p = 0; int row = 0, vector = 0;
  for (int64_t i = 0; i < n; i++, raw += 2) {
    uint16_t word;
    memcpy(&word, raw, 2);
    const uint32_t w = word, kind = w >> 12, known = row && clock.known;
    if (kind == 2) {
      if (!known) continue;
      if (out) {
        const uint32_t at = w & 2047;
        if (count == room || (H && (at >= W || y >= H))) return -1;
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
          if (count == room || at > 65535 || (H && (at >= W || y >= H))) return -1;
          put(out + 13 * count++, base | low, at, y, p);
        }
      }
      x += kind == 4 ? 12 : 8;
    } else if (kind != 7 && kind != 10 && kind != 14 && kind != 15) return -1;
  }
  return count;
}

/* --- frames --- */

/* Counts events (packed records of `bytes`: t, x, [y,] p) into float frames; frame k holds events edges[k] to
   edges[k+1]-1. Returns an event outside the sensor, or -1. */
int64_t count_frames(const char *events, const int64_t *edges, int64_t frames, int64_t bytes, int64_t H, int64_t W,
                     int64_t threads, float *out) {
  const int camera = bytes == 13;
  int64_t outside = -1;
  #pragma omp parallel for num_threads((int)threads) if (threads > 1)
  for (int64_t k = 0; k < frames; k++) {
    float *frame = out + k * (camera ? 2 * H * W : W);
    for (int64_t i = edges[k]; i < edges[k + 1]; i++) {
      const char *e = events + i * bytes;
      uint16_t x, y = 0;
      memcpy(&x, e + 8, 2);
      if (camera) memcpy(&y, e + 10, 2);
      if (x >= W || y >= H) { outside = i; break; } /* of several, any one: who is told looks for the first */
      const int64_t on = camera ? -(int64_t)(e[12] != 0) : 0; /* no branch: polarities cannot be foretold */
      frame[(on & (H * W)) + y * W + x] += 1.0f;
    }
  }
  return outside;
}

/* The first event that is earlier than the one before it, or n. */
int64_t ascending(const char *events, int64_t n, int64_t bytes) {
  int64_t before, now;
  if (n) memcpy(&before, events, 8);
  for (int64_t i = 1; i < n; i++) {
    memcpy(&now, events + i * bytes, 8);
    if (now < before) return i;
    before = now;
  }
  return n;
}

/* The largest x and y, -1 without events. */
void extent(const char *events, int64_t n, int64_t bytes, int64_t *out) {
  uint16_t top_x = 0, top_y = 0;
  for (int64_t i = 0; i < n; i++, events += bytes) {
    uint16_t x, y = 0;
    memcpy(&x, events + 8, 2);
    if (bytes == 13) memcpy(&y, events + 10, 2);
    top_x = x > top_x ? x : top_x;
    top_y = y > top_y ? y : top_y;
  }
  out[0] = n ? top_x : -1; out[1] = n ? top_y : -1;
}
"""


def library() -> Any:
    """The compiled functions; None without a compiler."""
    return build.compiled(_SOURCE)


def top(events: NDArray[np.void]) -> tuple[int, int] | None:
    """The largest x and y of packed, contiguous records. In one dimension y is 0; without records both are -1; without
    a compiler the result is None."""
    c = library()
    if c is None or not events.flags.c_contiguous:
        return None
    found = np.empty(2, np.int64)
    call(c.extent, events, len(events), events.itemsize, found)
    return int(found[0]), int(found[1])
