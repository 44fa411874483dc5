"""c/loops: the C around a step, which takes blocks of neurons through all steps, forward and backward.

Nothing here knows an equation. In these texts ``emit`` fills the holes in capitals (``$STEP``) and repeats lines.
A line with ``$s`` stands once for each state, with the state's number in place of ``$s``; where there is no state it is
left out. The other names are repeated in the same way:

- ``$x``: inputs; ``$stepwise`` and ``$summed``: those with a gradient for each step, and with one for all together;
- ``$recorded``: states of which a recording, or the gradient of a recording, may be asked for;
- ``$scalar`` and ``$array``: params with one value and with several; ``$divisor`` and ``$divisors``: those of either
  kind that something is divided by;
- ``$wanted``: params whose gradient is computed;
- ``$kept``, ``$held`` and ``$again``: what the transposed step has of its step, see :mod:`spikeloom.kernel.c.kept`:
  values, states and inputs.

A block of neurons goes through a segment of steps in chunks: CHUNK neurons take all steps of the segment while their
states are in registers, and the block's rows are read and written as streams. For this the compiler has to see loops of
constant count over local arrays, with nothing between them that is decided or called. Where a block has fewer neurons
left than a chunk, their rows are copied before and after.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_BLOCKS = """
void run(void **p, const int64_t *n) {
  $ARGUMENTS
  const int64_t N = n[0], T = n[1], per = n[2], threads = n[3], size = n[4], group = n[5];
  const int64_t blocks = (N + size - 1) / size, groups = (blocks + group - 1) / group;
  #pragma omp parallel for schedule(static) num_threads((int)threads) if (threads > 1)
  for (int64_t part = 0; part < groups; part++)
  for (int64_t block = part * group; block < blocks && block < (part + 1) * group; block++) {
    const int64_t i0 = block * size;
    const int m = N - i0 < size ? (int)(N - i0) : (int)size, whole = (m + CHUNK - 1) / CHUNK * CHUNK;
    const S q$scalar = P$scalar[0];
    S LOCAL number$array[BLOCK]; fill(number$array, P$array, shape$array[0], shape$array[1], i0, whole);
    const S inverse$divisor = (S)1 / q$divisor;
    S LOCAL reciprocal$divisors[BLOCK];
    for (int j = 0; j < whole; j++) reciprocal$divisors[j] = (S)1 / number$divisors[j];
    $LENGTHS
    S LOCAL state$s[BLOCK];
    IO LOCAL copyx$x[SEGMENT * CHUNK] = {0};
"""

_CHUNKS = """
      const int steps = T - t0 < SEGMENT ? (int)(T - t0) : SEGMENT;
      for (int o = 0; o < m; o += CHUNK) {
        const int c = m - o < CHUNK ? m - o : CHUNK; const int64_t at = t0 * N + i0 + o;
        const S *q$array = number$array + o;
        const S *inverse$divisors = reciprocal$divisors + o;
        $UNTIL
        const Rows xs$x = source(x$x + t0 * xstride$x + i0 + o, STEP(xstride$x, IO), copyx$x, sizeof(IO), steps, c);
        S LOCAL v$s[CHUNK]; move(v$s, state$s + o);
"""

FORWARD = (
    _BLOCKS
    + """
    char LOCAL copy[SEGMENT * OUT(CHUNK)];
    S LOCAL copyrec$recorded[SEGMENT * CHUNK];
    load(state$s, s0_$s, i0, m, start$s);
    for (int64_t t0 = 0; t0 < T; t0 += SEGMENT) {
      if (ck_$s && t0) memcpy(ck_$s + (t0 / SEGMENT - 1) * N + i0, state$s, m * sizeof(S));
"""
    + _CHUNKS
    + """
        const Rows ys = target(out + OUT(at), OUT(N), copy, OUT(CHUNK), c);
        const Rows recs$recorded = target(AT(rec_$recorded, at), STEP(N, S), copyrec$recorded, STEP(CHUNK, S), c);
        for (int t = 0; t < steps; t++) {
          S LOCAL X$x[CHUNK]; get_row(X$x, ROW(xs$x, t));
          S LOCAL R$recorded[CHUNK];
          S LOCAL Y[CHUNK];
          #pragma omp simd
          for (int j = 0; j < CHUNK; j++) {
            const int on = $ON;
            const Step new = $STEP;
            Y[j] = on ? new.y : (S)0;
            R$recorded[j] = on ? new.s$recorded : (S)0;
            v$s[j] = on ? new.s$s : v$s[j];
          }
          $PUT
          move(ROW(recs$recorded, t), R$recorded);
        }
        move(state$s + o, v$s);
        if (c == CHUNK) continue;
        copy_rows(out + OUT(at), OUT(N), copy, OUT(CHUNK), steps, OUT(c));
        copy_rows(AT(rec_$recorded, at), STEP(N, S), copyrec$recorded, STEP(CHUNK, S), steps, STEP(c, S));
      }
    }
    memcpy(sT_$s + i0, state$s, m * sizeof(S));
    FENCE;
  }
}
"""
)

BACKWARD = (
    _BLOCKS
    + """
    IO LOCAL copyg[SEGMENT * CHUNK] = {0};
    IO LOCAL copygx$stepwise[SEGMENT * CHUNK];
    S LOCAL copygr$recorded[SEGMENT * CHUNK] = {0};
    S LOCAL carried$s[BLOCK]; load(carried$s, gT_$s, i0, m, 1);
    S LOCAL sum$summed[BLOCK]; load(sum$summed, 0, 0, m, 1);
    double LOCAL total$wanted[BLOCK] = {0};
    for (int64_t t0 = (T - 1) / SEGMENT * SEGMENT; t0 >= 0; t0 -= SEGMENT) {
      load(state$s, t0 ? ck_$s + (t0 / SEGMENT - 1) * N : s0_$s, i0, m, t0 ? 1 : start$s);
"""
    + _CHUNKS
    + """
        /* The states of the segment are computed again. */
        S LOCAL h$held[SEGMENT][CHUNK];
        S LOCAL kept$kept[SEGMENT][CHUNK];
        for (int t = 0; t < $LAST; t++) {
          S LOCAL X$x[CHUNK]; get_row(X$x, ROW(xs$x, t));
          S LOCAL K$kept[CHUNK];
          move(h$held[t], v$held);
          #pragma omp simd
          for (int j = 0; j < CHUNK; j++) {
            const int on = $ON;
            const States new = $STATES;
            K$kept[j] = new.u$kept;
            v$s[j] = on ? new.s$s : v$s[j];
          }
          move(kept$kept[t], K$kept);
        }
        $HELD
        /* The transposed steps. Gradients of numbers add up in S within a segment, in double across. */
        const Rows gys = source(AT(gout, t0 * gstride + i0 + o), STEP(gstride, IO), copyg, sizeof(IO), steps, c);
        const Rows grecs$recorded = source(AT(grec_$recorded, at), STEP(N, S), copygr$recorded, sizeof(S), steps, c);
        const Rows gxs$stepwise = target(gx$stepwise + at, STEP(N, IO), copygx$stepwise, STEP(CHUNK, IO), c);
        S LOCAL g$s[CHUNK]; move(g$s, carried$s + o);
        S LOCAL add$summed[CHUNK]; move(add$summed, sum$summed + o);
        S LOCAL part$wanted[CHUNK] = {0};
        for (int t = steps - 1; t >= 0; t--) {
          S LOCAL X$again[CHUNK]; get_row(X$again, ROW(xs$again, t));
          S LOCAL V$held[CHUNK]; move(V$held, h$held[t]);
          S LOCAL K$kept[CHUNK]; move(K$kept, kept$kept[t]);
          S LOCAL GY[CHUNK]; get_row(GY, ROW(gys, t));
          S LOCAL GR$recorded[CHUNK]; move(GR$recorded, ROW(grecs$recorded, t));
          S LOCAL GX$stepwise[CHUNK];
          #pragma omp simd
          for (int j = 0; j < CHUNK; j++) {
            const int on = $ON;
            const Transposed d = $TRANSPOSED;
            GX$stepwise[j] = on ? d.x$stepwise : (S)0;
            add$summed[j] += on ? d.x$summed : (S)0;
            g$s[j] = $CARRIED;
            part$wanted[j] += on ? d.p$wanted : (S)0;
          }
          put_row(ROW(gxs$stepwise, t), GX$stepwise);
        }
        move(carried$s + o, g$s);
        move(sum$summed + o, add$summed);
        for (int j = 0; j < CHUNK; j++) total$wanted[o + j] += part$wanted[j];
        if (c == CHUNK) continue;
        copy_rows(gx$stepwise + at, STEP(N, IO), copygx$stepwise, STEP(CHUNK, IO), steps, STEP(c, IO));
      }
    }
    if (gs0_$s) memcpy(gs0_$s + i0, carried$s, m * sizeof(S));
    memcpy(gx$summed + i0, sum$summed, m * sizeof(S));
    add_runs(gp$wanted + part * shape$wanted[0], total$wanted, shape$wanted[0], shape$wanted[1], i0, m);
    FENCE;
  }
}
"""
)


def filled(loop: str, holes: Mapping[str, str], each: Mapping[str, Iterable[int]]) -> str:
    """The C of a loop. ``each`` says for which numbers the lines with a name are repeated."""
    for name, text in holes.items():
        loop = loop.replace(f"${name}", text)
    lines: list[str] = []
    for line in filter(str.strip, loop.split("\n")):
        names = set(re.findall(r"\$(\w+)", line))
        lines += [re.sub(r"\$\w+", str(k), line) for k in each[names.pop()]] if names else [line]
    return "\n".join(lines)
