"""c/norm: the C of a batch norm's statistics and of their share of the gradient."""

from __future__ import annotations

from .source import HALF, types

_SUMMED = 64  # how many rows are summed in float32 before they join a double: more would lose digits
_BLOCK = 1024  # the most values of a row that are taken together
_COLUMNS = 64  # columns whose sums stay in registers


def norm(io: str, parts: int) -> str:
    """The C of both for inputs of dtype ``io``, the rows summed in so many parts."""
    rows = _CONVERTED if io in HALF else _IN_PLACE
    sizes = {"BLOCK": _BLOCK, "COLUMNS": _COLUMNS, "SUMMED": _SUMMED, "PARTS": parts}
    return types(io) + "".join(f"#define {name} {value}\n" for name, value in sizes.items()) + rows + _NORM


_IN_PLACE = """
/* A row of x as S; where a row of its gradient is computed; and its way there, if it is not there already. */
INLINE const S *get_row(S *buffer, const IO *p, int m) { (void)buffer; (void)m; return p; }
INLINE S *row(S *buffer, IO *p) { (void)buffer; return p; }
INLINE void put_row(IO *p, const S *row, int m) { (void)p; (void)row; (void)m; }
"""

_CONVERTED = """
INLINE const S *get_row(S *buffer, const IO *p, int m) { widen(buffer, p, m); return buffer; }
INLINE S *row(S *buffer, IO *p) { (void)p; return buffer; }
INLINE void put_row(IO *p, const S *row, int m) { narrow(p, row, m); }
"""

_NORM = r"""
#define SIZES \
  const int64_t T = n[0], stride = n[1], outer = n[2], C = n[3], inner = n[4], rows = T * outer; \
  const int threads = (int)n[5], dense = stride == outer * C * inner;
#define ROW(x) ((x) + (dense ? r * C * inner : r / outer * stride + r % outer * C * inner))

/* Adds to the sums of m columns, over some rows of C values, x - first and its square. */
INLINE void columns(const IO *x, int64_t rows, int64_t C, const S *first, double *sum, double *square, const int m) {
  S LOCAL f[COLUMNS]; S LOCAL s[COLUMNS]; S LOCAL q[COLUMNS]; S LOCAL buffer[COLUMNS]; (void)buffer;
  for (int j = 0; j < m; j++) { f[j] = first[j]; s[j] = 0; q[j] = 0; }
  for (int64_t r = 0; r < rows; r++) {
    const S *X = get_row(buffer, x + r * C, m);
    #pragma omp simd
    for (int j = 0; j < m; j++) { S d = X[j] - f[j]; s[j] += d; q[j] += d * d; }
  }
  for (int j = 0; j < m; j++) { sum[j] += s[j]; square[j] += q[j]; }
}

/* Per part of the rows and channel: the sums of x - first and of its square. */
void statistics(void **p, const int64_t *n) {
  SIZES
  IO *x = p[0]; S *first = p[1]; double *sums = p[2];
  #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int part = 0; part < PARTS; part++) {
    double *sum = sums + part * 2 * C, *square = sum + C;
    memset(sum, 0, 2 * C * sizeof(double));
    int64_t start = rows * part / PARTS, end = rows * (part + 1) / PARTS;
    if (inner == 1) {
      for (int64_t r = start, next; r < end; r = next) {  /* rows of one step, at most SUMMED of them */
        next = r + SUMMED < end ? r + SUMMED : end;
        next = next < (r / outer + 1) * outer ? next : (r / outer + 1) * outer;
        const IO *at = ROW(x); int64_t c = 0;
        for (; c + COLUMNS <= C; c += COLUMNS) columns(at + c, next - r, C, first + c, sum + c, square + c, COLUMNS);
        if (c < C) columns(at + c, next - r, C, first + c, sum + c, square + c, (int)(C - c));
      }
      continue;
    }
    S LOCAL buffer[BLOCK]; (void)buffer;
    for (int64_t r = start; r < end; r++)
      for (int64_t c = 0; c < C; c++)
        for (int64_t i = 0; i < inner; i += BLOCK) {
          int m = inner - i < BLOCK ? (int)(inner - i) : BLOCK;
          const S *X = get_row(buffer, ROW(x) + c * inner + i, m);
          S s = 0, q = 0, f = first[c];
          #pragma omp simd reduction(+ : s, q)
          for (int j = 0; j < m; j++) { S d = X[j] - f; s += d; q += d * d; }
          sum[c] += s; square[c] += q;
        }
  }
}

/* Mean, variance, scale and shift of each channel from x, with sums about a finite value of the channel. */
void moments(void **p, const int64_t *n, const double *eps) {
  SIZES
  IO *x = p[0]; S *first = p[1]; double *sums = p[2]; const S *weight = p[3], *bias = p[4];
  double *mean = p[5], *var = p[6]; S *scale = p[7], *shift = p[8];
  (void)threads; (void)dense; (void)stride;
  for (int64_t c = 0; c < C; c++) {
    S buffer[1]; const S value = *get_row(buffer, x + c * inner, 1);
    first[c] = value - value == 0 ? value : 0;
  }
  statistics(p, n);
  for (int64_t c = 0; c < C; c++) {
    double s = 0, q = 0;
    for (int part = 0; part < PARTS; part++) { s += sums[part * 2 * C + c]; q += sums[part * 2 * C + C + c]; }
    s /= rows * inner; q /= rows * inner;
    const double m = first[c] + s, square = q - s * s, v = square < 0 ? 0 : square;  /* a NaN stays one */
    const double a = 1 / sqrt(v + *eps) * (weight ? weight[c] : 1.0);
    mean[c] = m; var[c] = v; scale[c] = (S)a; shift[c] = (S)((bias ? bias[c] : 0.0) - m * a);
  }
}

/* The running statistics move by the factor d[0] towards mean and variance, the latter times d[1]. */
void track(void **p, const int64_t *n, const double *d) {
  const int64_t C = n[0];
  S *running_mean = p[0], *running_var = p[1]; const double *mean = p[2], *var = p[3];
  for (int64_t c = 0; c < C; c++) {
    running_mean[c] = (S)((1 - d[0]) * running_mean[c] + d[0] * mean[c]);
    running_var[c] = (S)((1 - d[0]) * running_var[c] + d[0] * (var[c] * d[1]));
  }
}

/* From the gradients of scale and shift: those of weight and bias, then slope and offset of the correction. */
void slopes(void **p, const int64_t *n, const double *eps) {
  const int64_t C = n[0], count = n[1];
  const double *g_scale = p[0], *g_shift = p[1], *mean = p[2], *var = p[3]; const S *weight = p[4];
  S *g_weight = p[5], *g_bias = g_weight + C, *slope = g_bias + C, *offset = slope + C;
  for (int64_t c = 0; c < C; c++) {
    const double r = 1 / sqrt(var[c] + *eps), w = weight ? weight[c] : 1;
    const double total = g_scale[c] - mean[c] * g_shift[c];  /* the shift depends on the scale */
    const double steep = -total * w * (r * r * r) / count;
    g_weight[c] = (S)(total * r); g_bias[c] = (S)g_shift[c];
    slope[c] = (S)steep; offset[c] = (S)(-g_shift[c] * w * r / count - steep * mean[c]);
  }
}

/* gx += slope x + offset. */
void correct(void **p, const int64_t *n) {
  SIZES
  IO *x = p[0], *gx = p[1]; S *slope = p[2], *offset = p[3];
  #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < rows; r++) {
    IO *to = gx + r * C * inner;
    S LOCAL buffer[BLOCK]; S LOCAL old[BLOCK]; S LOCAL sum[BLOCK]; (void)buffer; (void)old; (void)sum;
    for (int64_t c = 0; c < (inner == 1 ? 1 : C); c++) {
      int64_t all = inner == 1 ? C : inner;
      for (int64_t i = 0; i < all; i += BLOCK) {
        int m = all - i < BLOCK ? (int)(all - i) : BLOCK;
        const S *X = get_row(buffer, ROW(x) + c * inner + i, m), *G = get_row(old, to + c * inner + i, m);
        const S *a = slope + i, *b = offset + i; S *new = row(sum, to + c * inner + i);
        if (inner == 1) {
          #pragma omp simd
          for (int j = 0; j < m; j++) new[j] = G[j] + (a[j] * X[j] + b[j]);
        } else {
          S A = slope[c], B = offset[c];
          #pragma omp simd
          for (int j = 0; j < m; j++) new[j] = G[j] + (A * X[j] + B);
        }
        put_row(to + c * inner + i, new, m);
      }
    }
  }
}
"""
