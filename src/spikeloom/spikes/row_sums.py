"""row_sums: C that products share: sums of rows of a weight, chosen by bits.

Bits are taken four at a time, in order, and the result is the sum over groups of four of the sum of their rows:

    Y = sum over g of ( sum over b < 4 with bit 4 g + b set of W[4 g + b] )

There are two ways to that sum, with the same additions in the same order and so the same result:

- **events**: list the groups that have a spike, and add their rows;
- **tables**: of each group the 16 possible sums of its rows once, then one look-up for four bits, whatever they are: a
  quarter of a dense product's additions for any share of spikes (the method of the four Russians).

Which is faster depends on the share of spikes and on the number of rows that a table serves.
"""

from .bits import COUNT_ONES

SOURCE = (
    COUNT_ONES
    + r"""
#include <stdlib.h>

#define PANEL 64   /* columns of W at a time */
#define ROWS 512   /* rows of bits at a time: sums of so many panels stay in the cache */
#define PASS 32    /* rows of W at a time in tables, 8 groups: 32 KB of tables */
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define AT(p) (*(vec *)(p))
#define EACH _Pragma("GCC unroll 8") for (int q = 0; q < vecs; q++)
#define INLINE static inline __attribute__((always_inline))
/* Calls f(..., vecs) with a constant number of vectors that holds `width` columns. */
#define BY_WIDTH(width, f, ...)                                                       \
  do {                                                                                \
    if ((width) > 32) f(__VA_ARGS__, 64 / LANES);                                     \
    else if ((width) > 16) f(__VA_ARGS__, 32 / LANES);                                \
    else f(__VA_ARGS__, 16 / LANES);                                                  \
  } while (0)

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Memory of this thread, at least so many bytes. */
static void *scratch(size_t bytes) {
  static _Thread_local void *own; static _Thread_local size_t size;
  if (size < bytes) { free(own); size = (bytes + 63) / 64 * 64; own = aligned_alloc(64, size); }
  return own;
}

/* 57 bits or more from bit `at` of a string of so many bytes; past its end they are 0. */
static inline uint64_t bits_at(const uint8_t *s, int64_t bytes, int64_t at) {
  const int64_t first = at >> 3, left = bytes - first;
  uint64_t w = 0;
  if (left >= 8) memcpy(&w, s + first, 8);
  else if (left > 0) memcpy(&w, s + first, left);
  return w >> (at & 7);
}

/* n <= 57 of them, in the lowest bits. */
static inline uint64_t some_bits(const uint8_t *s, int64_t bytes, int64_t at, int64_t n) {
  return bits_at(s, bytes, at) & ((1ULL << n) - 1);
}

/* Whether so many spikes of so many bits are few enough for events. Making a table costs as much as 20 look-ups. */
static inline int few(int64_t ones, int64_t bits, int64_t rows) { return 32 * ones * rows < 5 * bits * (rows + 20); }

/* The lowest bit of each group of four that has a spike. */
static inline uint64_t with_spikes(uint64_t w) {
  const uint64_t two = w | w >> 1;
  return (two | two >> 2) & 0x1111111111111111ULL;
}

/* Lists the groups with spikes among n bits: 16 * group + its bits. Returns how many. */
static inline int list_groups(uint16_t *to, const uint8_t *s, int64_t bytes, int64_t at, int64_t n) {
  int found = 0;
  for (int64_t i = 0; i < n; i += 56) {
    const uint64_t w = some_bits(s, bytes, at + i, least(n - i, 56));
    for (uint64_t any = with_spikes(w); any; any &= any - 1) {
      const int b = __builtin_ctzll(any);
      to[found++] = (uint16_t)((i + b) * 4 + (w >> b & 15));
    }
  }
  return found;
}

/* acc += the sums of listed groups of W's rows of N numbers; rows may be read as far as whole vectors reach. */
INLINE void add_groups_(float *acc, const float *W, int64_t N, const uint16_t *list, int n, const int vecs) {
  vec a[PANEL / LANES];
  EACH a[q] = AT(acc + q * LANES);
  for (int i = 0; i < n; i++) {
    const float *w = W + (int64_t)(list[i] >> 4) * 4 * N;
    unsigned v = list[i] & 15;
    const float *row = w + __builtin_ctz(v) * N;
    v &= v - 1;
    if (__builtin_expect(!v, 1)) {
      EACH a[q] += AT(row + q * LANES);
    } else {
      vec s[PANEL / LANES];
      EACH s[q] = AT(row + q * LANES);
      do {
        row = w + __builtin_ctz(v) * N;
        v &= v - 1;
        EACH s[q] += AT(row + q * LANES);
      } while (v);
      EACH a[q] += s[q];
    }
  }
  EACH AT(acc + q * LANES) = a[q];
}
static void add_groups(float *acc, const float *W, int64_t N, const uint16_t *list, int n, int64_t width) {
  BY_WIDTH(width, add_groups_, acc, W, N, list, n);
}

/* The same for a part of a panel, of whose rows nothing more may be read. */
static void add_narrow_groups(float *acc, const float *W, int64_t N, const uint16_t *list, int n, int64_t width) {
  for (int i = 0; i < n; i++) {
    const float *w = W + (int64_t)(list[i] >> 4) * 4 * N;
    float sum[PANEL]; int first = 1;
    for (unsigned v = list[i] & 15; v; v &= v - 1, first = 0) {
      const float *row = w + __builtin_ctz(v) * N;
      for (int64_t j = 0; j < width; j++) sum[j] = first ? row[j] : sum[j] + row[j];
    }
    for (int64_t j = 0; j < width; j++) acc[j] += sum[j];
  }
}

/* T[group][bits][PANEL] = the sums of PASS rows of W, of stride N, by groups. */
INLINE void make_table_(float *restrict T, const float *restrict W, int64_t N, const int vecs) {
  for (int g = 0; g < PASS / 4; g++)
    EACH {
      const float *w = W + 4 * g * N + q * LANES;
      float *t = T + g * 16 * PANEL + q * LANES;
      const vec none = {0}, w0 = AT(w), w1 = AT(w + N), w2 = AT(w + 2 * N), w3 = AT(w + 3 * N);
      const vec w01 = w0 + w1, w02 = w0 + w2, w12 = w1 + w2, w012 = w01 + w2;
      const vec sums[16] = {none, w0, w1, w01, w2, w02, w12, w012,
                            w3, w0 + w3, w1 + w3, w01 + w3, w2 + w3, w02 + w3, w12 + w3, w012 + w3};
      _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) AT(t + i * PANEL) = sums[i];
    }
}
static void make_table(float *T, const float *W, int64_t N, int64_t width) {
  BY_WIDTH(width, make_table_, T, W, N);
}

/* acc[r] += the sums that the bits of words[r] choose. */
INLINE void look_up_(float *restrict acc, const float *restrict T, const uint32_t *words, int64_t rows,
                     const int vecs) {
  for (int64_t r = 0; r < rows; r++, acc += PANEL) {
    const uint32_t w = words[r];
    vec a[PANEL / LANES];
    EACH a[q] = AT(acc + q * LANES);
    _Pragma("GCC unroll 8") for (int g = 0; g < PASS / 4; g++) {
      const float *t = T + (16 * g + (w >> 4 * g & 15)) * PANEL;
      EACH a[q] += AT(t + q * LANES);
    }
    EACH AT(acc + q * LANES) = a[q];
  }
}
static void look_up(float *acc, const float *T, const uint32_t *words, int64_t rows, int64_t width) {
  BY_WIDTH(width, look_up_, acc, T, words, rows);
}

/* The same where most words are 0 or nearly. */
INLINE void look_up_few_(float *restrict acc, const float *restrict T, const uint32_t *words, int64_t rows,
                         const int vecs) {
  for (int64_t r = 0; r < rows; r++) {
    const uint32_t w = words[r];
    if (!w) continue;
    float *to = acc + r * PANEL;
    vec a[PANEL / LANES];
    EACH a[q] = AT(to + q * LANES);
    for (uint64_t any = with_spikes(w); any; any &= any - 1) {
      const int b = __builtin_ctzll(any);
      const float *t = T + (4 * b + (w >> b & 15)) * PANEL;
      EACH a[q] += AT(t + q * LANES);
    }
    EACH AT(to + q * LANES) = a[q];
  }
}
static void look_up_few(float *acc, const float *T, const uint32_t *words, int64_t rows, int64_t width) {
  BY_WIDTH(width, look_up_few_, acc, T, words, rows);
}
"""
)
