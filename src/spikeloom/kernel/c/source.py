"""c/source: holds the C that every kernel begins with: types, rows, functions of one number.

``S`` is the type that is computed in, ``IO`` the type of inputs and outputs. The functions of one number are
branch-free, so that loops over them vectorise; where they are not, they are libm's.
"""

from __future__ import annotations

import re

from ..program import OPS

HALF = ("bfloat16", "float16")

_TYPES = {
    "float64": ("double", "double"),
    "float32": ("float", "float"),
    "bfloat16": ("float", "uint16_t"),
    "float16": ("float", "uint16_t"),
}
_CALLED = dict.fromkeys(re.findall(r"\bK_(\w+)\(", " ".join(op.c for op in OPS.values())))  # functions in programs


def prelude(io: str) -> str:
    """The C that comes before the step of a kernel whose inputs and outputs have dtype ``io``."""
    compute, stored = _TYPES[io]
    suffix = "f" if compute == "float" else ""
    own = _CLAMP + (_FLOAT if suffix else _DOUBLE)
    libm = "".join(
        f"static inline S K_{name}(S x) {{ return {name}{suffix}(x); }}\n"
        for name in _CALLED
        if f" K_{name}(" not in own
    )
    rows = _ROWS_HALF.replace("CONVERSIONS", _CONVERSIONS[io]) if io in HALF else _ROWS
    head = _HEAD.replace("STYPE", compute).replace("IOTYPE", stored)
    return head + rows + libm + own + _RUNS


def norm(io: str, block: int, parts: int) -> str:
    """The C of a batch norm's statistics and of their share of the gradient, for inputs of dtype ``io``."""
    return f"#define BLOCK {block}\n#define ROWS {_ROWS_SUMMED}\n#define PARTS {parts}\n{prelude(io)}{_NORM}"


_ROWS_SUMMED = 64  # how many rows are summed in float32 before they join a double: more would lose digits

_HEAD = """
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#define FENCE _mm_sfence()
#else
#define FENCE
#endif
typedef STYPE S;
typedef IOTYPE IO;
#define LOCAL __attribute__((aligned(64)))
#define INLINE static inline __attribute__((always_inline))

/* Copies a row past the cache: what is not read soon must not push out what is. */
static inline void stream(void *to, const void *from, size_t bytes) {
#if defined(__x86_64__)
  size_t head = (16 - ((uintptr_t)to & 15)) & 15;
  head = head < bytes ? head : bytes;
  memcpy(to, from, head);
  char *t = (char *)to + head; const char *f = (const char *)from + head; bytes -= head;
  for (; bytes >= 16; bytes -= 16, t += 16, f += 16)
    _mm_stream_si128((__m128i *)t, _mm_loadu_si128((const __m128i *)f));
  memcpy(t, f, bytes);
#else
  memcpy(to, from, bytes);
#endif
}
"""

_ROWS = """
/* A row of the input as S; where a row of the output is computed; and its way there, if it is not there already. */
static inline const S *get_row(S *buffer, const IO *p, int m) { (void)buffer; (void)m; return p; }
static inline S *row(S *buffer, IO *p, int past) { return past ? buffer : p; }
static inline void put_row(IO *p, const S *row, int m, int past) {
  if (row == p) return;
  if (past) stream(p, row, m * sizeof(S)); else memcpy(p, row, m * sizeof(S));
}
"""

_ROWS_HALF = """
CONVERSIONS
static inline const S *get_row(S *buffer, const IO *p, int m) { widen(buffer, p, m); return buffer; }
static inline S *row(S *buffer, IO *p, int past) { (void)p; (void)past; return buffer; }
static inline void put_row(IO *p, const S *row, int m, int past) {
  if (!past) { narrow(p, row, m); return; }
  IO LOCAL buffer[BLOCK]; narrow(buffer, row, m); stream(p, buffer, m * sizeof(IO));
}
"""

_CONVERSIONS = {
    "bfloat16": """
static inline void widen(float *to, const uint16_t *from, int m) {
  #pragma omp simd
  for (int j = 0; j < m; j++) { union { uint32_t i; float f; } u; u.i = (uint32_t)from[j] << 16; to[j] = u.f; }
}
static inline void narrow(uint16_t *to, const float *from, int m) {  /* to the nearest, ties to even */
  #pragma omp simd
  for (int j = 0; j < m; j++) {
    union { float f; uint32_t i; } u; u.f = from[j];
    uint32_t r = (u.i + 0x7fffu + ((u.i >> 16) & 1u)) >> 16;
    to[j] = (uint16_t)((u.i & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : r);
  }
}
""",
    "float16": """
#if defined(__F16C__)
#include <immintrin.h>
static inline void widen(float *to, const uint16_t *from, int m) {
  int j = 0;
  for (; j + 8 <= m; j += 8) _mm256_storeu_ps(to + j, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + j))));
  for (; j < m; j++) to[j] = _cvtsh_ss(from[j]);
}
static inline void narrow(uint16_t *to, const float *from, int m) {
  int j = 0;
  for (; j + 8 <= m; j += 8) _mm_storeu_si128((__m128i *)(to + j), _mm256_cvtps_ph(_mm256_loadu_ps(from + j), 0));
  for (; j < m; j++) to[j] = _cvtss_sh(from[j], 0);
}
#else
static inline void widen(float *to, const uint16_t *from, int m) {
  for (int j = 0; j < m; j++) { _Float16 h; memcpy(&h, from + j, 2); to[j] = (float)h; }
}
static inline void narrow(uint16_t *to, const float *from, int m) {
  for (int j = 0; j < m; j++) { _Float16 h = (_Float16)from[j]; memcpy(to + j, &h, 2); }
}
#endif
""",
}

_CLAMP = """
static inline S K_clamp(S x, S low, S high) {
  S y = x > low || x != x ? x : low;
  return y < high || y != y ? y : high;
}
"""

# exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2, Taylor polynomial in r; 2^n in two factors, so that
# denormal results are right.
_EXP_FLOAT = """
static inline S K_exp(S x) {
  S c = x > 89.0f ? 89.0f : x; c = c < -104.0f ? -104.0f : c;
  S n = rintf(c * 1.44269504088896341f);
  S r = c - n * 0.693145751953125f; r = r - n * 1.428606765330187045e-6f;
  S p = 1.0f/5040; p = p * r + 1.0f/720; p = p * r + 1.0f/120; p = p * r + 1.0f/24;
  p = p * r + 1.0f/6; p = p * r + 0.5f; p = p * r + 1.0f; p = p * r + 1.0f;
  int32_t k = (int32_t)n, h = k >> 1;
  union { int32_t i; float f; } a, b; a.i = (h + 127) << 23; b.i = (k - h + 127) << 23;
  S y = p * a.f * b.f;
  return x != x ? x : y;
}
"""

# log: x = 2^e m with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh(s), s = (m - 1) / (m + 1): an odd series in s.
# tanh: 1 - 2 / (exp(2 |x|) + 1), and its series where that would cancel.
_FLOAT = (
    _EXP_FLOAT
    + """
static inline S K_log(S x) {
  int tiny = x < 1.17549435e-38f;
  union { S f; uint32_t i; } u; u.f = tiny ? x * 8388608.0f : x;
  int32_t e = (int32_t)(u.i - 0x3f3504f3u) >> 23;
  u.i -= (uint32_t)e << 23;
  S s = (u.f - 1.0f) / (u.f + 1.0f), z = s * s;
  S p = 2.0f/9; p = p * z + 2.0f/7; p = p * z + 2.0f/5; p = p * z + 2.0f/3;
  S k = (S)(e - (tiny ? 23 : 0));
  S y = k * 0.693145751953125f + (2.0f * s + (s * z * p + k * 1.428606765330187045e-6f));
  y = x == INFINITY ? x : y;
  y = x == 0.0f ? -INFINITY : y;
  return x < 0.0f || x != x ? NAN : y;
}
static inline S K_tanh(S x) {
  S a = fabsf(x), z = x * x;
  S large = 1.0f - 2.0f / (K_exp(2.0f * a) + 1.0f);
  S p = -1382.0f/155925; p = p * z + 62.0f/2835; p = p * z - 17.0f/315; p = p * z + 2.0f/15; p = p * z - 1.0f/3;
  S small = a + a * z * p;
  S y = a < 0.35f ? small : large;
  return x < 0.0f ? -y : x == 0.0f ? x : y;
}
"""
)

_DOUBLE = """
static inline S K_exp(S x) {
  S c = x > 710.0 ? 710.0 : x; c = c < -746.0 ? -746.0 : c;
  S n = rint(c * 1.4426950408889634074);
  S r = c - n * 6.93147180369123816490e-01; r = r - n * 1.90821492927058770002e-10;
  S p = 1.0/6227020800.0; p = p * r + 1.0/479001600.0; p = p * r + 1.0/39916800.0; p = p * r + 1.0/3628800.0;
  p = p * r + 1.0/362880.0; p = p * r + 1.0/40320.0; p = p * r + 1.0/5040.0; p = p * r + 1.0/720.0;
  p = p * r + 1.0/120.0; p = p * r + 1.0/24.0; p = p * r + 1.0/6.0; p = p * r + 0.5; p = p * r + 1.0; p = p * r + 1.0;
  int64_t k = (int64_t)n, h = k >> 1;
  union { int64_t i; double f; } a, b; a.i = (h + 1023) << 52; b.i = (k - h + 1023) << 52;
  S y = p * a.f * b.f;
  return x != x ? x : y;
}
"""

_RUNS = """
/* A row of zeros and ones as bits, the first in the lowest one; returns whether there was another value. */
static inline int put_bits(uint8_t *to, const S *row, int m) {
  int wrong = 0;
  for (int b = 0; b < m / 8; b++) {
    unsigned byte = 0;
    for (int j = 0; j < 8; j++) {
      const S y = row[8 * b + j];
      byte |= (unsigned)(y == (S)1) << j;
      wrong |= (y != (S)1) & (y != (S)0);
    }
    to[b] = (uint8_t)byte;
  }
  return wrong;
}

/* Values of a number for one block: size values, each for `inner` neighbours, over and over. */
static void fill(S *out, const S *number, int64_t size, int64_t inner, int64_t first, int n) {
  if (size == 1) { for (int j = 0; j < n; j++) out[j] = number[0]; return; }
  int64_t at = (first / inner) % size, left = inner - first % inner;
  for (int j = 0; j < n && inner == 1; at = 0) {
    int run = size - at < n - j ? (int)(size - at) : n - j;
    memcpy(out + j, number + at, run * sizeof(S));
    j += run;
  }
  for (int j = 0; j < n && inner > 1;) {
    int run = left < n - j ? (int)left : n - j;
    S value = number[at];
    for (int k = 0; k < run; k++) out[j + k] = value;
    j += run; left = inner; at = at + 1 == size ? 0 : at + 1;
  }
}

/* The transpose of fill: adds one block's values to those of the number. */
static void add_runs(double *number, const double *in, int64_t size, int64_t inner, int64_t first, int n) {
  int64_t at = (first / inner) % size, left = inner - first % inner;
  for (int j = 0; j < n && inner == 1; at = 0) {
    int run = size - at < n - j ? (int)(size - at) : n - j;
    for (int k = 0; k < run; k++) number[at + k] += in[j + k];
    j += run;
  }
  for (int j = 0; j < n && inner > 1;) {
    int run = left < n - j ? (int)left : n - j;
    double sum = 0;
    for (int k = 0; k < run; k++) sum += in[j + k];
    number[at] += sum;
    j += run; left = inner; at = at + 1 == size ? 0 : at + 1;
  }
}
"""

_NORM = r"""
#define SIZES \
  const int64_t T = n[0], stride = n[1], outer = n[2], C = n[3], inner = n[4], rows = T * outer; \
  const int threads = (int)n[5], dense = stride == outer * C * inner;
#define ROW(x) ((x) + (dense ? r * C * inner : r / outer * stride + r % outer * C * inner))

/* Per part of the rows and channel: the sums of x - first and of its square. */
void statistics(void **p, const int64_t *n) {
  SIZES
  IO *x = p[0]; S *first = p[1]; double *sums = p[2];
  #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int part = 0; part < PARTS; part++) {
    double *sum = sums + part * 2 * C, *square = sum + C;
    int64_t start = rows * part / PARTS, end = rows * (part + 1) / PARTS;
    S LOCAL buffer[BLOCK]; (void)buffer;
    if (inner == 1) {
      S LOCAL s[BLOCK]; S LOCAL q[BLOCK];
      for (int64_t c = 0; c < C; c += BLOCK) {
        int m = C - c < BLOCK ? (int)(C - c) : BLOCK;
        for (int64_t r0 = start; r0 < end; r0 += ROWS) {
          int64_t r1 = r0 + ROWS < end ? r0 + ROWS : end;
          memset(s, 0, m * sizeof(S)); memset(q, 0, m * sizeof(S));
          for (int64_t r = r0; r < r1; r++) {
            const S *X = get_row(buffer, ROW(x) + c, m);
            #pragma omp simd
            for (int j = 0; j < m; j++) { S d = X[j] - first[c + j]; s[j] += d; q[j] += d * d; }
          }
          for (int j = 0; j < m; j++) { sum[c + j] += s[j]; square[c + j] += q[j]; }
        }
      }
      continue;
    }
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

/* gx += slope x + offset. */
void correct(void **p, const int64_t *n) {
  SIZES
  IO *x = p[0], *gx = p[1]; S *slope = p[2], *offset = p[3];
  #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < rows; r++) {
    IO *to = gx + r * C * inner;
    S LOCAL buffer[BLOCK]; S LOCAL old[BLOCK]; S LOCAL new[BLOCK]; (void)buffer; (void)old;
    for (int64_t c = 0; c < (inner == 1 ? 1 : C); c++) {
      int64_t all = inner == 1 ? C : inner;
      for (int64_t i = 0; i < all; i += BLOCK) {
        int m = all - i < BLOCK ? (int)(all - i) : BLOCK;
        const S *X = get_row(buffer, ROW(x) + c * inner + i, m), *G = get_row(old, to + c * inner + i, m);
        const S *a = slope + i, *b = offset + i;
        if (inner == 1) {
          #pragma omp simd
          for (int j = 0; j < m; j++) new[j] = G[j] + (a[j] * X[j] + b[j]);
        } else {
          S A = slope[c], B = offset[c];
          #pragma omp simd
          for (int j = 0; j < m; j++) new[j] = G[j] + (A * X[j] + B);
        }
        put_row(to + c * inner + i, new, m, 0);
      }
    }
  }
}
"""
