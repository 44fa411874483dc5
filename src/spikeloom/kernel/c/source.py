"""c/source: holds the C that every kernel begins with: types, rows, functions of one number.

``S`` is the type that is computed in, ``IO`` the type of inputs and outputs. The functions of one number are
branch-free, so that loops over them vectorise; where they are not, they are libm's.
"""

from __future__ import annotations

import re

from ..program import OPS

HALF = ("bfloat16", "float16")

_TYPES = {
    "float64": ("double", "double", "int64_t"),
    "float32": ("float", "float", "int32_t"),
    "bfloat16": ("float", "uint16_t", "int32_t"),
    "float16": ("float", "uint16_t", "int32_t"),
}
_CALLED = dict.fromkeys(re.findall(r"\bK_(\w+)\(", " ".join(op.c for op in OPS.values())))  # functions in programs


def types(io: str) -> str:
    """The C that every kernel begins with whose inputs and outputs have dtype ``io``: types, vectors, conversions."""
    compute, stored, whole = _TYPES[io]
    head = _HEAD.replace("STYPE", compute).replace("IOTYPE", stored).replace("WHOLE", whole)
    return head + _CONVERSIONS.get(io, "")


def prelude(io: str, packed: bool = False) -> str:
    """The C that comes before the step of a kernel; its inputs and outputs have dtype ``io``, or the latter are bits.

    The kernel defines before it: BLOCK, SEGMENT, VECTORS (how many of them a chunk should be) and PAST (whether rows
    are written past the cache; they then begin at multiples of 64 bytes).
    """
    suffix = "" if io == "float64" else "f"
    own = _CLAMP + (_FLOAT if suffix else _DOUBLE)
    libm = "".join(
        f"static inline S K_{name}(S x) {{ return {name}{suffix}(x); }}\n"
        for name in _CALLED
        if f" K_{name}(" not in own
    )
    rows = (
        _ROWS
        + (_CONVERTED if io in HALF else _IN_PLACE)
        + (_BITS.replace("pS", "ps" if suffix else "pd") if packed else _DENSE)
    )
    return types(io) + rows + libm + own + _RUNS


_HEAD = """
#include <math.h>
#include <stdint.h>
#include <string.h>
typedef STYPE S;
typedef IOTYPE IO;
typedef WHOLE Whole;  /* an integer as wide as S */
#define LOCAL __attribute__((aligned(64)))
#define INLINE static inline __attribute__((always_inline))
#define AT(p, k) ((p) ? (p) + (k) : 0)

/* The bytes of the widest vector, and how many vectors are in registers. */
#if defined(__AVX512F__)
#define WIDE 64
#define REGISTERS 32
#elif defined(__AVX__)
#define WIDE 32
#define REGISTERS 16
#elif defined(__SSE2__)
#define WIDE 16
#define REGISTERS 16
#else
#define WIDE 16
#define REGISTERS 32
#endif
#define LANES ((int)(WIDE / sizeof(S)))
typedef S Vector __attribute__((vector_size(WIDE), aligned(sizeof(S)), may_alias));

/* Writes a vector past the cache, to an address that is a multiple of its size: what is not read soon must not push out
   what is, and an ordinary store would first read what it overwrites. */
typedef long long Past __attribute__((vector_size(WIDE), may_alias));
#if defined(__clang__)
#define STREAM(to, from) __builtin_nontemporal_store(from, to)
#elif WIDE == 64
#define STREAM(to, from) __builtin_ia32_movntdq512(to, from)
#elif WIDE == 32
#define STREAM(to, from) __builtin_ia32_movntdq256(to, from)
#elif defined(__SSE2__)
#define STREAM(to, from) __builtin_ia32_movntdq(to, from)
#else
#define STREAM(to, from) (*(to) = (from))
#endif
#if defined(__SSE2__)
#define FENCE __builtin_ia32_sfence()
#else
#define FENCE
#endif
"""

_ROWS = """
/* Neurons that take the steps of a segment together: whole vectors of S and of IO, and whole bytes of bits. */
#define MOST(a, b) ((a) > (b) ? (a) : (b))
#define CHUNK MOST(8, MOST(VECTORS * LANES, (int)(WIDE / sizeof(IO))))

/* The rows of a chunk, one for each step: where the first lies, and how many bytes further the next one does. */
typedef struct { char *first; int64_t step; } Rows;
#define ROW(rows, t) ((void *)((rows).first + (t) * (rows).step))

#define STEP(n, type) ((n) * (int64_t)sizeof(type))  /* the bytes of so many values */

/* Copies so many bytes of each row, if there is somewhere to copy to. */
static void copy_rows(void *to, int64_t tostep, const void *from, int64_t fromstep, int steps, int64_t bytes) {
  for (int t = 0; to && t < steps; t++) memcpy((char *)to + t * tostep, (const char *)from + t * fromstep, bytes);
}

/* Rows to read, of c neurons: in place if these are a whole chunk, else in a copy. Where there are none, zeros. */
INLINE Rows source(const void *rows, int64_t step, void *copy, int64_t bytes, int steps, int c) {
  if (!rows) return (Rows){copy, 0};
  if (c == CHUNK) return (Rows){(char *)rows, step};
  copy_rows(copy, CHUNK * bytes, rows, step, steps, c * bytes);
  return (Rows){copy, CHUNK * bytes};
}

/* Rows to write, of c neurons: in place if these are a whole chunk, else in a copy, from which they are copied. */
INLINE Rows target(void *rows, int64_t step, void *copy, int64_t copystep, int c) {
  return rows && c == CHUNK ? (Rows){rows, step} : (Rows){copy, copystep};
}

/* The numbers of a block, from the i0th on, with zeros up to the end of its last chunk; zeros alone where there are
   none, and with a stride of 0 the first one for all. */
static void load(S *to, const S *from, int64_t i0, int m, int64_t stride) {
  const S one = from && !stride ? *from : (S)0;
  if (from && stride) memcpy(to, from + i0, m * sizeof(S));
  for (int j = from && stride ? m : 0; j < (m + CHUNK - 1) / CHUNK * CHUNK; j++) to[j] = one;
}

/* The numbers of a chunk, from memory to registers or back. */
INLINE void move(void *to, const void *from) {
  for (int k = 0; k < CHUNK; k += LANES) *(Vector *)((S *)to + k) = *(const Vector *)((const S *)from + k);
}
"""

_IN_PLACE = """
INLINE void get_row(S *to, const void *row) { move(to, row); }
INLINE void put_row(void *row, const S *from) {
#if PAST
  for (int k = 0; k < CHUNK; k += LANES) STREAM((Past *)((S *)row + k), *(const Past *)(from + k));
#else
  move(row, from);
#endif
}
"""

_CONVERTED = """
INLINE void get_row(S *to, const void *row) { widen(to, row, CHUNK); }
INLINE void put_row(void *row, const S *from) {
#if PAST
  IO LOCAL narrowed[CHUNK]; narrow(narrowed, from, CHUNK);
  for (int k = 0; k < CHUNK; k += WIDE / sizeof(IO)) STREAM((Past *)((IO *)row + k), *(const Past *)(narrowed + k));
#else
  narrow(row, from, CHUNK);
#endif
}
"""

_DENSE = """
#define OUT(n) STEP(n, IO)  /* the bytes of so many outputs */
"""

_BITS = """
#define OUT(n) ((n) / 8)

/* The outputs of a chunk as bits, the first in the lowest one; returns whether one of those that count is neither 0 nor
   1. Each bit of `count` says so of an output. */
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define EQUAL(y, value) _mm512_cmp_pS_mask(_mm512_loadu_pS(y), _mm512_set1_pS(value), _CMP_EQ_OQ)
#elif defined(__AVX__)
#define EQUAL(y, value) \\
  (unsigned)_mm256_movemask_pS(_mm256_cmp_pS(_mm256_loadu_pS(y), _mm256_set1_pS(value), _CMP_EQ_OQ))
#else
INLINE unsigned equal(const S *y, S value) {
  unsigned bits = 0;
  for (int j = 0; j < LANES; j++) bits |= (unsigned)(y[j] == value) << j;
  return bits;
}
#define EQUAL(y, value) equal(y, value)
#endif
INLINE int put_bits(void *to, const S *y, uint64_t count) {
  uint64_t one = 0, zero = 0;
  for (int k = 0; k < CHUNK; k += LANES) {
    one |= (uint64_t)EQUAL(y + k, 1) << k;
    zero |= (uint64_t)EQUAL(y + k, 0) << k;
  }
  memcpy(to, &one, CHUNK / 8);
  return (count & ~(one | zero)) != 0;
}
"""

_CONVERSIONS = {
    "bfloat16": """
INLINE void widen(float *to, const uint16_t *from, const int m) {
  #pragma omp simd
  for (int j = 0; j < m; j++) { union { uint32_t i; float f; } u; u.i = (uint32_t)from[j] << 16; to[j] = u.f; }
}
INLINE void narrow(uint16_t *to, const float *from, const int m) {  /* to the nearest, ties to even */
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
INLINE void widen(float *to, const uint16_t *from, const int m) {
  int j = 0;
#if defined(__AVX512F__)
  for (; j + 16 <= m; j += 16)
    _mm512_storeu_ps(to + j, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from + j))));
#endif
  for (; j + 8 <= m; j += 8) _mm256_storeu_ps(to + j, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + j))));
  for (; j < m; j++) to[j] = _cvtsh_ss(from[j]);
}
INLINE void narrow(uint16_t *to, const float *from, const int m) {
  int j = 0;
#if defined(__AVX512F__)
  for (; j + 16 <= m; j += 16)
    _mm256_storeu_si256((__m256i *)(to + j), _mm512_cvtps_ph(_mm512_loadu_ps(from + j), 0));
#endif
  for (; j + 8 <= m; j += 8) _mm_storeu_si128((__m128i *)(to + j), _mm256_cvtps_ph(_mm256_loadu_ps(from + j), 0));
  for (; j < m; j++) to[j] = _cvtss_sh(from[j], 0);
}
#else
INLINE void widen(float *to, const uint16_t *from, const int m) {
  for (int j = 0; j < m; j++) { _Float16 h; memcpy(&h, from + j, 2); to[j] = (float)h; }
}
INLINE void narrow(uint16_t *to, const float *from, const int m) {
  for (int j = 0; j < m; j++) { _Float16 h = (_Float16)from[j]; memcpy(to + j, &h, 2); }
}
#endif
""",
}

_CLAMP = """
/* a * b + c, rounded once where the processor does that as fast: PyTorch computes what follows otherwise anyway. */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FMA(a, b, c) (sizeof(S) == 4 ? (S)__builtin_fmaf(a, b, c) : (S)__builtin_fma(a, b, c))
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
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
  S r = FMA(n, -0.693145751953125f, c); r = FMA(n, -1.428606765330187045e-6f, r);
  S p = 1.0f/5040; p = FMA(p, r, 1.0f/720); p = FMA(p, r, 1.0f/120); p = FMA(p, r, 1.0f/24);
  p = FMA(p, r, 1.0f/6); p = FMA(p, r, 0.5f); p = FMA(p, r, 1.0f); p = FMA(p, r, 1.0f);
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
  S p = 2.0f/9; p = FMA(p, z, 2.0f/7); p = FMA(p, z, 2.0f/5); p = FMA(p, z, 2.0f/3);
  S k = (S)(e - (tiny ? 23 : 0));
  S y = k * 0.693145751953125f + (2.0f * s + (s * z * p + k * 1.428606765330187045e-6f));
  y = x == INFINITY ? x : y;
  y = x == 0.0f ? -INFINITY : y;
  return x < 0.0f || x != x ? NAN : y;
}
static inline S K_tanh(S x) {
  S a = fabsf(x), z = x * x;
  S large = 1.0f - 2.0f / (K_exp(2.0f * a) + 1.0f);
  S p = -1382.0f/155925; p = FMA(p, z, 62.0f/2835); p = FMA(p, z, -17.0f/315); p = FMA(p, z, 2.0f/15);
  p = FMA(p, z, -1.0f/3);
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
  S r = FMA(n, -6.93147180369123816490e-01, c); r = FMA(n, -1.90821492927058770002e-10, r);
  S p = 1.0/6227020800.0; p = FMA(p, r, 1.0/479001600.0); p = FMA(p, r, 1.0/39916800.0); p = FMA(p, r, 1.0/3628800.0);
  p = FMA(p, r, 1.0/362880.0); p = FMA(p, r, 1.0/40320.0); p = FMA(p, r, 1.0/5040.0); p = FMA(p, r, 1.0/720.0);
  p = FMA(p, r, 1.0/120.0); p = FMA(p, r, 1.0/24.0); p = FMA(p, r, 1.0/6.0); p = FMA(p, r, 0.5); p = FMA(p, r, 1.0);
  p = FMA(p, r, 1.0);
  int64_t k = (int64_t)n, h = k >> 1;
  union { int64_t i; double f; } a, b; a.i = (h + 1023) << 52; b.i = (k - h + 1023) << 52;
  S y = p * a.f * b.f;
  return x != x ? x : y;
}
"""

_RUNS = """
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
  if (size == 1) { inner = left = n; at = 0; }
  for (int j = 0; j < n && inner == 1; at = 0) {
    int run = size - at < n - j ? (int)(size - at) : n - j;
    for (int k = 0; k < run; k++) number[at + k] += in[j + k];
    j += run;
  }
  for (int j = 0; j < n && inner > 1;) {
    int run = left < n - j ? (int)left : n - j;
    double sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (int k = 0; k < run; k++) sum += in[j + k];
    number[at] += sum;
    j += run; left = inner; at = at + 1 == size ? 0 : at + 1;
  }
}
"""
