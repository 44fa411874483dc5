"""The C that takes lengths and positions from files, under the address and undefined-behaviour sanitizers.

A program of its own reads inputs, each into memory of just its size, and calls each decoder: one byte read or written
beyond it ends the program.
"""

import struct
import subprocess

import numpy as np
import pytest

from spikeloom.data.events import aedat, native, prophesee
from spikeloom.native import build
from spikeloom.spikes import bits

pytestmark = [pytest.mark.full, pytest.mark.skipif(build.compiler() is None, reason="no C compiler")]

MAIN = r"""
#include <stdio.h>
#include <stdlib.h>

static char *exactly(const void *from, int64_t n) { /* at an odd address, as after a header of an odd length */
  char *made = malloc(n + 1);
  memcpy(made + 1, from, n);
  return made + 1;
}

/* An input: kind, bytes, H, W, then 12 numbers of a layout, then the bytes. */
int main(void) {
  int64_t head[16], total = 0;
  while (fread(head, 8, 16, stdin) == 16) {
    const int64_t kind = head[0], n = head[1], H = head[2], W = head[3];
    char *all = malloc(n + 1);
    if (fread(all, 1, n, stdin) != (size_t)n) return 3;
    char *raw = exactly(all, n);
    if (kind == 0) {
      char *out = malloc(n / 8 * 13 + 1);
      total += pairs(raw, n / 8, head + 4, H, W, out);
      free(out);
    } else if (kind == 1) {
      char *out = malloc(n / 4 * 13 + 1);
      total += evt2(raw, n / 4, H, W, out);
      free(out);
    } else if (kind == 2) {
      const int64_t room = evt3(raw, n / 2, 0, H, W, NULL), less = room > 2 ? room / 2 : 0;
      if (room >= 0) {
        char *out = malloc(room * 13 + 1), *small = malloc(less * 13 + 1);
        total += evt3(raw, n / 2, room, H, W, out);
        if (evt3(raw, n / 2, less, H, W, small) > less) return 4; /* a file that grew meanwhile */
        free(out); free(small);
      }
    } else if (kind == 3 && H > 0 && W > 0) {
      const int64_t size = head[4], events = n / size, edges[3] = {0, events / 2, events};
      float *frames = calloc(2 * 2 * H * W, 4);
      int64_t top[2];
      total += count_frames(raw, edges, 2, size, H, W, 1, frames) + ascending(raw, events, size);
      extent(raw, events, size, top);
      free(frames);
    } else if (kind == 4) {
      float *x = malloc(8 * n * 4 + 4);
      unpack_float32((const uint8_t *)raw, x, 8 * n - (n > 0 ? head[4] : 0), 1);
      total += count_ones((const uint8_t *)raw, n);
      free(x);
    }
    free(raw - 1); free(all);
  }
  printf("%lld\n", (long long)total);
  return 0;
}
"""
LAYOUTS = [aedat._DVS128_WORDS, aedat._DAVIS_WORDS, aedat._EVENTS_3, prophesee._DAT_1, prophesee._DAT_2]


def numbers(layout, offset):
    """A layout as the C takes it."""
    x, y, p, foreign, needed, *flags = layout
    return [*x, *y, *p, foreign, needed, *map(int, flags), offset]


def inputs(count):
    """Words of every kind that a decoder knows, others among them, at the limits of the sensor and beyond."""
    draw = np.random.default_rng(0)
    for k in range(count):
        kind, n = k % 5, int(draw.integers(0, 400))
        H, W = ((0, 0), (180, 240), (1, 1), (720, 1280))[int(draw.integers(4))]
        about = [0] * 12
        raw = bytearray(draw.bytes(n))
        if kind == 0:
            about = numbers(LAYOUTS[int(draw.integers(5))], int(draw.choice([0, 2**62 - 2**31, 1 << 31])))
        if kind == 1:
            words = draw.choice([0, 1, 8, 10, 14, 15, 5], n // 4 + 1, p=[0.4, 0.3, 0.2, 0.04, 0.03, 0.02, 0.01])
            raw = bytearray((words.astype("<u4") << 28 | draw.integers(0, 1 << 28, len(words)).astype("<u4")).tobytes())
        if kind == 2:
            words = draw.choice(
                [0, 2, 3, 4, 5, 6, 8, 15, 1], n // 2 + 1, p=[0.2, 0.2, 0.2, 0.12, 0.1, 0.1, 0.05, 0.02, 0.01]
            )
            raw = bytearray((words.astype("<u2") << 12 | draw.integers(0, 4096, len(words)).astype("<u2")).tobytes())
        if kind == 3:
            about[0] = int(draw.choice([11, 13]))
            raw = raw[: len(raw) // about[0] * about[0]]
        if kind == 4:
            about[0] = int(draw.integers(8))
        yield struct.pack("<16q", kind, len(raw), H, W, *about) + bytes(raw)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sanitized")
    (folder / "a.c").write_text(native._SOURCE + bits._SOURCE + MAIN)
    flags = [
        "-std=gnu11",
        "-O1",
        "-g",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-Wno-unknown-pragmas",
    ]
    done = subprocess.run(
        [build.compiler(), *flags, "-o", str(folder / "a"), str(folder / "a.c"), "-lm"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and ("san" in done.stderr.lower()):
        pytest.skip("the compiler has no sanitizers")
    assert not done.returncode, done.stderr
    return folder / "a"


def test_no_decoder_leaves_its_memory(program):
    done = subprocess.run([program], input=b"".join(inputs(100_000)), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert int(done.stdout) != 0


def test_the_sanitizer_sees_what_is_wrong(program):
    """Records that are said to be shorter than they are read: else the test above would say nothing."""
    wrong = struct.pack("<16q", 3, 8, 4, 4, 8, *[0] * 11) + bytes(8)
    done = subprocess.run([program], input=wrong, capture_output=True, check=False)
    assert b"heap-buffer-overflow" in done.stderr
