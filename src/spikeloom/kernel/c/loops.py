"""c/loops: the C around a step, which takes blocks of neurons through all steps, forward and backward.

Nothing here knows an equation. In these texts ``emit`` fills the holes in capitals (``$STEP``) and repeats lines.
A line with ``$s`` stands once for each state, with the state's number in place of ``$s``; where there is no state it is
left out. The other names are repeated in the same way:

- ``$x``: inputs; ``$stepwise`` and ``$summed``: those with a gradient for each step, and with one for all together;
- ``$recorded``: states of which a recording, or the gradient of a recording, may be asked for;
- ``$scalar`` and ``$array``: params with one value and with several; ``$divisor`` and ``$divisors``: those of either
  kind that something is divided by;
- ``$wanted``: params whose gradient is computed;
- ``$kept``: values of a step that are kept for its transposed step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_BLOCKS = """
void run(void **p, const int64_t *n) {
  $ARGUMENTS
  const int64_t N = n[0], T = n[1], per = n[2], threads = n[3], size = n[4], group = n[5], past = n[6];
  const int64_t blocks = (N + size - 1) / size, chunks = (blocks + group - 1) / group;
  #pragma omp parallel for schedule(static) num_threads((int)threads) if (threads > 1)
  for (int64_t chunk = 0; chunk < chunks; chunk++)
  for (int64_t block = chunk * group; block < blocks && block < (chunk + 1) * group; block++) {
    const int64_t i0 = block * size; const int m = N - i0 < size ? (int)(N - i0) : (int)size;
    S LOCAL nowhere[BLOCK]; S LOCAL Y_[BLOCK];
    S LOCAL X_$x[BLOCK];
    const S q$scalar = P$scalar[0];
    S LOCAL q$array[BLOCK]; fill(q$array, P$array, shape$array[0], shape$array[1], i0, m);
    const S inverse$divisor = (S)1 / q$divisor;
    S LOCAL inverse$divisors[BLOCK]; for (int j = 0; j < m; j++) inverse$divisors[j] = (S)1 / q$divisors[j];
    $UNTIL
"""

FORWARD = (
    _BLOCKS
    + """
    S LOCAL v$s[BLOCK]; memcpy(v$s, s0_$s + i0, m * sizeof(S));
    for (int64_t t = 0; t < T; t++) {
      if (ck_$s && t && t % SEGMENT == 0) memcpy(ck_$s + (t / SEGMENT - 1) * N + i0, v$s, m * sizeof(S));
      const S *X$x = get_row(X_$x, x$x + t * xstride$x + i0, m);
      S *R$recorded = rec_$recorded ? rec_$recorded + t * N + i0 : nowhere;
      S *Y = $ROW;
      #pragma omp simd
      for (int j = 0; j < m; j++) {
        const int on = $ON;
        const Step new = $STEP;
        Y[j] = on ? new.y : (S)0;
        R$recorded[j] = on ? new.s$recorded : (S)0;
        v$s[j] = on ? new.s$s : v$s[j];
      }
      $PUT
    }
    memcpy(sT_$s + i0, v$s, m * sizeof(S));
    FENCE;
  }
}
"""
)

BACKWARD = (
    _BLOCKS
    + """
    S LOCAL zero[BLOCK]; memset(zero, 0, sizeof zero);
    S LOCAL h$s[SEGMENT][BLOCK]; S LOCAL g$s[BLOCK];
    if (gT_$s) memcpy(g$s, gT_$s + i0, m * sizeof(S)); else memset(g$s, 0, sizeof g$s);
    S LOCAL kept$kept[SEGMENT][BLOCK];
    S LOCAL GX_$stepwise[BLOCK];
    S LOCAL sum$summed[BLOCK]; memset(sum$summed, 0, sizeof sum$summed);
    S LOCAL part$wanted[BLOCK]; double LOCAL total$wanted[BLOCK]; memset(total$wanted, 0, sizeof total$wanted);
    for (int64_t segment = (T - 1) / SEGMENT; segment >= 0; segment--) {
      const int64_t t0 = segment * SEGMENT, t1 = t0 + SEGMENT < T ? t0 + SEGMENT : T;
      /* The states of the segment are computed again. */
      memcpy(h$s[0], (segment ? ck_$s + (segment - 1) * N : s0_$s) + i0, m * sizeof(S));
      for (int64_t t = t0; t < $LAST; t++) {
        const S *X$x = get_row(X_$x, x$x + t * xstride$x + i0, m);
        const S *V$s = h$s[t - t0]; S *W$s = t + 1 == t1 ? nowhere : h$s[t - t0 + 1];
        #pragma omp simd
        for (int j = 0; j < m; j++) {
          const int on = $ON;
          const States new = $STATES;
          W$s[j] = on ? new.s$s : V$s[j];
          kept$kept[t - t0][j] = new.u$kept;
        }
      }
      /* The transposed steps. Gradients of numbers add up in S within a segment, in double across. */
      memset(part$wanted, 0, sizeof part$wanted);
      for (int64_t t = t1 - 1; t >= t0; t--) {
        const S *X$x = get_row(X_$x, x$x + t * xstride$x + i0, m);
        const S *V$s = h$s[t - t0];
        const S *GY = gout ? get_row(Y_, gout + t * gstride + i0, m) : zero;
        const S *GR$recorded = grec_$recorded ? grec_$recorded + t * N + i0 : zero;
        S *GX$stepwise = row(GX_$stepwise, gx$stepwise + t * N + i0, past);
        #pragma omp simd
        for (int j = 0; j < m; j++) {
          const int on = $ON;
          const Transposed d = $TRANSPOSED;
          GX$stepwise[j] = on ? d.x$stepwise : (S)0;
          sum$summed[j] += on ? d.x$summed : (S)0;
          g$s[j] = $CARRIED;
          part$wanted[j] += on ? d.p$wanted : (S)0;
        }
        put_row(gx$stepwise + t * N + i0, GX$stepwise, m, past);
      }
      for (int j = 0; j < m; j++) total$wanted[j] += part$wanted[j];
    }
    if (gs0_$s) memcpy(gs0_$s + i0, g$s, m * sizeof(S));
    memcpy(gx$summed + i0, sum$summed, m * sizeof(S));
    add_runs(gp$wanted + block / group * shape$wanted[0], total$wanted, shape$wanted[0], shape$wanted[1], i0, m);
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
