"""convolution_source: convolutions of spikes and the gradients of their weights in C."""

from . import row_sums

SOURCE = (
    row_sums.SOURCE
    + r"""
typedef struct {
  int64_t bytes, stride;  /* of the bits; from a pixel to the next, or from a channel to the next */
  int64_t N, H, W, C, O, OH, OW, KH, KW, sh, sw, ph, pw, dh, dw;
  int64_t last;           /* whether Y or G is [N][OH][OW][O] and not [N][O][OH][OW] */
  int64_t threads;
} sizes;

/* Some output rows of some images. */
typedef struct { int64_t n0, images, oh0, ohs, hs, Wp; } tile;

/* Where the bits of a pixel of the tile's input with its padding begin; -1 in the padding. */
static inline int64_t pixel(const sizes *g, const tile *t, int64_t im, int64_t hp, int64_t wp) {
  const int64_t h = t->oh0 * g->sh + hp - g->ph, w = wp - g->pw;
  if (h < 0 || h >= g->H || w < 0 || w >= g->W) return -1;
  return (((t->n0 + im) * g->H + h) * g->W + w) * g->stride;
}

static void put(const sizes *g, const tile *t, float *Y, const float *acc, const float *bias, int64_t p) {
  const int64_t width = least(PANEL, g->O - p), run = t->ohs * g->OW;
  for (int64_t im = 0; im < t->images; im++) {
    const float *from = acc + im * run * PANEL;
    const int64_t n = t->n0 + im, first = t->oh0 * g->OW;
    float b[PANEL] = {0};
    if (bias) memcpy(b, bias + p, width * sizeof *b);
    if (g->last) {
      for (int64_t r = 0; r < run; r++) {
        float *y = Y + (n * g->OH * g->OW + first + r) * g->O + p;
        for (int64_t j = 0; j < width; j++) y[j] = from[r * PANEL + j] + b[j];
      }
      continue;
    }
    for (int64_t r0 = 0; r0 < run; r0 += 16)
      for (int64_t j = 0; j < width; j++) {
        float *y = Y + (n * g->O + p + j) * g->OH * g->OW + first + r0;
        const int64_t m = least(16, run - r0);
        for (int64_t r = 0; r < m; r++) y[r] = from[(r0 + r) * PANEL + j] + b[j];
      }
  }
}

static void by_events(const sizes *g, const tile *t, const uint8_t *bits, const float *weight, const float *bias,
                      float *Y, int64_t p0, int64_t p1) {
  const int64_t Cp = up(g->C, 4) * 4, Op = up(g->O, PANEL) * PANEL, run = t->ohs * g->OW;
  const int64_t pixels = t->images * t->hs * t->Wp;
  float *acc = scratch((t->images * run * PANEL + pixels) * sizeof(float) + pixels * (Cp / 4) * sizeof(uint16_t));
  int *found = (int *)(acc + t->images * run * PANEL);
  uint16_t *at = (uint16_t *)(found + pixels);
  for (int64_t im = 0, i = 0; im < t->images; im++)
    for (int64_t hp = 0; hp < t->hs; hp++)
      for (int64_t wp = 0; wp < t->Wp; wp++, i++) {
        const int64_t from = pixel(g, t, im, hp, wp);
        found[i] = from < 0 ? 0 : list_groups(at + i * (Cp / 4), bits, g->bytes, from, g->C);
      }
  for (int64_t p = p0; p < p1; p += PANEL) {
    const int64_t width = least(PANEL, g->O - p);
    memset(acc, 0, t->images * run * PANEL * sizeof *acc);
    for (int64_t im = 0; im < t->images; im++)
      for (int64_t oh = 0; oh < t->ohs; oh++)
        for (int64_t ow = 0; ow < g->OW; ow++)
          for (int64_t i = 0; i < g->KH; i++)
            for (int64_t j = 0; j < g->KW; j++) {
              const int64_t k = (im * t->hs + oh * g->sh + i * g->dh) * t->Wp + ow * g->sw + j * g->dw;
              if (found[k])
                add_groups(acc + (im * run + oh * g->OW + ow) * PANEL, weight + (i * g->KW + j) * Cp * Op + p, Op,
                           at + k * (Cp / 4), found[k], width);
            }
    put(g, t, Y, acc, bias, p);
  }
}

/* words[pass][output]: all bits that an output sees, tap by tap, channels filled up to whole groups. */
static void gather(const sizes *g, const tile *t, const uint8_t *bits, uint32_t *words, int64_t rows, uint32_t *grid) {
  const int64_t Cp = up(g->C, 4) * 4, pixels = t->images * t->hs * t->Wp;
  for (int64_t im = 0, i = 0; im < t->images; im++)
    for (int64_t hp = 0; hp < t->hs; hp++)
      for (int64_t wp = 0; wp < t->Wp; wp++, i++) {
        const int64_t from = pixel(g, t, im, hp, wp);
        for (int64_t c = 0; c < g->C; c += PASS)
          grid[c / PASS * pixels + i]
            = from < 0 ? 0 : (uint32_t)some_bits(bits, g->bytes, from + c, least(PASS, g->C - c));
      }
  memset(words, 0, up(g->KH * g->KW * Cp, PASS) * rows * sizeof *words);
  for (int64_t i = 0; i < g->KH; i++)
    for (int64_t j = 0; j < g->KW; j++)
      for (int64_t c = 0; c < g->C; c += PASS) {
        const int64_t b = (i * g->KW + j) * Cp + c, shift = b % PASS, more = shift + least(PASS, Cp - c) > PASS;
        for (int64_t im = 0; im < t->images; im++)
          for (int64_t oh = 0; oh < t->ohs; oh++) {
            uint32_t *to = words + b / PASS * rows + (im * t->ohs + oh) * g->OW;
            const uint32_t *x = grid + c / PASS * pixels
                                + (im * t->hs + oh * g->sh + i * g->dh) * t->Wp + j * g->dw;
            for (int64_t ow = 0; ow < g->OW; ow++) to[ow] |= x[ow * g->sw] << shift;
            if (more) for (int64_t ow = 0; ow < g->OW; ow++) to[rows + ow] |= x[ow * g->sw] >> (PASS - shift);
          }
      }
}

static void by_tables(const sizes *g, const tile *t, const uint8_t *bits, const float *weight, const float *bias,
                      float *Y, int64_t p0, int64_t p1) {
  const int64_t passes = up(g->KH * g->KW * up(g->C, 4) * 4, PASS), Op = up(g->O, PANEL) * PANEL;
  const int64_t rows = t->images * t->ohs * g->OW;
  const int64_t grid = t->images * t->hs * t->Wp * up(g->C, PASS);
  float *T = scratch(((PASS / 4) * 16 + rows) * PANEL * sizeof *T + (passes * rows + grid) * sizeof(uint32_t));
  float *acc = T + (PASS / 4) * 16 * PANEL;
  uint32_t *words = (uint32_t *)(acc + rows * PANEL);
  gather(g, t, bits, words, rows, words + passes * rows);
  for (int64_t p = p0; p < p1; p += PANEL) {
    const int64_t width = least(PANEL, g->O - p);
    memset(acc, 0, rows * PANEL * sizeof *acc);
    for (int64_t k = 0; k < passes; k++) {
      make_table(T, weight + k * PASS * Op + p, Op, width);
      look_up(acc, T, words + k * rows, rows, width);
    }
    put(g, t, Y, acc, bias, p);
  }
}

/* bits: [N][H][W] pixels of C bits; weight[KH][KW][C up to groups][O up to panels], then zeros up to whole passes. */
void convolve(const uint8_t *bits, const float *weight, const float *bias, float *Y, const sizes *g) {
  const int64_t out = g->OH * g->OW, panels = up(g->O, PANEL);
  const int64_t most = ROWS / out < 1 ? 1 : ROWS / out, share = up(g->N, g->threads);
  const int64_t images = least(most, share), ohs = out > ROWS ? least(g->OH, ROWS / g->OW + 1) : g->OH;
  const int64_t parts = up(g->OH, ohs), tiles = up(g->N, images) * parts;
  const int64_t groups = g->threads < 2 ? 1 : least(panels, up(2 * g->threads, tiles)), wide = up(panels, groups);
  #pragma omp parallel for schedule(dynamic) num_threads((int)g->threads) if (g->threads > 1)
  for (int64_t i = 0; i < tiles * groups; i++) {
    const int64_t n0 = i / groups / parts * images, oh0 = i / groups % parts * ohs;
    const int64_t p0 = i % groups * wide * PANEL, p1 = least(p0 + wide * PANEL, panels * PANEL);
    const tile t = {n0, least(images, g->N - n0), oh0, least(ohs, g->OH - oh0),
                    (least(ohs, g->OH - oh0) - 1) * g->sh + (g->KH - 1) * g->dh + 1, g->W + 2 * g->pw};
    const int64_t each = g->H * g->W * g->stride, first = n0 * each / 8;
    const int64_t ones = count_ones(bits + first, least(up((n0 + t.images) * each, 8), g->bytes) - first);
    const int64_t pixels = t.images * g->H * g->W;  /* each of which takes as long as three spikes besides */
    const int use_events = few(ones + 3 * pixels, pixels * g->C, t.images * t.ohs * g->OW);
    if (p0 < p1) (use_events ? by_events : by_tables)(g, &t, bits, weight, bias, Y, p0, p1);
  }
}

/* The bits of a channel with its padding, of every sh-th row and sw-th column from (a, b): Hs rows of Ws bits. */
static void plane(const sizes *g, const uint8_t *bits, int64_t from, int64_t a, int64_t b, int64_t Ws, uint8_t *to) {
  for (int64_t h = 0; h < g->H; h++) {
    const int64_t hp = h + g->ph;
    if (hp % g->sh != a) continue;
    for (int64_t w = 0; w < g->W; w += 32) {
      uint64_t x = some_bits(bits, g->bytes, from + h * g->W + w, least(32, g->W - w));
      if (g->sw == 1) {
        const int64_t q = hp / g->sh * Ws + w + g->pw;
        uint64_t old;
        memcpy(&old, to + q / 8, 8);
        old |= x << (q & 7);
        memcpy(to + q / 8, &old, 8);
      } else
        for (; x; x &= x - 1) {
          const int64_t wp = w + __builtin_ctzll(x) + g->pw, q = hp / g->sh * Ws + wp / g->sw;
          if (wp % g->sw == b) to[q / 8] |= (uint8_t)(1 << (q & 7));
        }
    }
  }
}

/* PASS outputs from place q of a grid of rows of Ws, and PANEL channels from p, of G; 0 where there is none. */
static void outputs(const sizes *g, const float *G, int64_t n, int64_t q, int64_t Ws, int64_t p, float *to) {
  const int64_t width = least(PANEL, g->O - p), out = g->OH * g->OW;
  memset(to, 0, PASS * PANEL * sizeof *to);
  for (int64_t r = 0; r < PASS;) {
    const int64_t oh = (q + r) / Ws, ow = (q + r) % Ws, n_r = least(PASS - r, Ws - ow);
    if (oh >= g->OH) return;
    const int64_t m = least(n_r, g->OW - ow), at = oh * g->OW + ow;
    if (g->last)
      for (int64_t k = 0; k < m; k++)
        memcpy(to + (r + k) * PANEL, G + (n * out + at + k) * g->O + p, width * sizeof *to);
    else
      for (int64_t j = 0; j < width; j++) {
        const float *x = G + (n * g->O + p + j) * out + at;
        for (int64_t k = 0; k < m; k++) to[(r + k) * PANEL + j] = x[k];
      }
    r += n_r;
  }
}

/* dW[O][C][KH][KW]; bits: [N][C] channels of H * W bits. Images are added in `chunks` parts, which are added then.
   Returns 0 without memory. */
int64_t weight_gradient(const uint8_t *bits, const float *G, float *dW, const sizes *g) {
  const int64_t Hs = up(g->H + 2 * g->ph, g->sh), Ws = up(g->W + 2 * g->pw, g->sw), each = Hs * Ws / 8 + 16;
  const int64_t phases = g->sh * g->sw, rows = g->KH * g->KW * g->C, panels = up(g->O, PANEL);
  const int64_t length = (g->OH - 1) * Ws + g->OW, chunks = least(g->N, up(4, panels)), images = up(g->N, chunks);
  const int sparse = 12 * count_ones(bits, g->bytes) < g->N * g->C * g->H * g->W;
  const int64_t size = least(least(rows, 2 * ROWS), up(rows, up(2 * g->threads, panels * chunks)) + 128);
  const int64_t blocks = up(rows, size);
  uint8_t *planes = calloc(g->N * phases * g->C, each);
  float *parts = malloc(chunks * rows * panels * PANEL * sizeof *parts);
  if (!planes || !parts) { free(planes); free(parts); return 0; }
  #pragma omp parallel num_threads((int)g->threads) if (g->threads > 1)
  {
    #pragma omp for
    for (int64_t i = 0; i < g->N * phases * g->C; i++) {
      const int64_t n = i / g->C / phases, phase = i / g->C % phases, c = i % g->C;
      plane(g, bits, (n * g->C + c) * g->stride, phase / g->sw, phase % g->sw, Ws, planes + i * each);
    }
    #pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < chunks * blocks * panels; i++) {
      const int64_t chunk = i / panels / blocks, p = i % panels * PANEL, width = least(PANEL, g->O - p);
      const int64_t r0 = i / panels % blocks * size, m = least(size, rows - r0);
      float *T = scratch(((PASS / 4) * 16 + PASS) * PANEL * sizeof *T + size * (sizeof(uint32_t) + 8));
      float *part = T + (PASS / 4) * 16 * PANEL, *acc = parts + ((chunk * panels + i % panels) * rows + r0) * PANEL;
      int64_t *from = (int64_t *)(part + PASS * PANEL);  /* where the bits of a row begin, within an image */
      uint32_t *words = (uint32_t *)(from + size);
      for (int64_t r = 0; r < m; r++) {
        const int64_t tap = (r0 + r) / g->C, c = (r0 + r) % g->C, h = tap / g->KW * g->dh, w = tap % g->KW * g->dw;
        const int64_t phase = h % g->sh * g->sw + w % g->sw;
        from[r] = 8 * (phase * g->C + c) * each + h / g->sh * Ws + w / g->sw;
      }
      memset(acc, 0, m * PANEL * sizeof *acc);
      for (int64_t n = chunk * images; n < least(g->N, (chunk + 1) * images); n++) {
        const uint8_t *image = planes + n * phases * g->C * each;
        for (int64_t q = 0; q < length; q += PASS) {
          uint32_t any = 0;
          for (int64_t r = 0; r < m; r++) {
            uint64_t x;
            memcpy(&x, image + (from[r] + q) / 8, 8);
            any |= words[r] = (uint32_t)(x >> ((from[r] + q) & 7));
          }
          if (!any) continue;
          outputs(g, G, n, q, Ws, p, part);
          make_table(T, part, PANEL, width);
          (sparse ? look_up_few : look_up)(acc, T, words, m, width);
        }
      }
    }
    #pragma omp for
    for (int64_t i = 0; i < panels * g->C; i++) {
      const int64_t panel = i / g->C, c = i % g->C, taps = g->KH * g->KW, width = least(PANEL, g->O - panel * PANEL);
      for (int64_t tap = 0; tap < taps; tap++) {
        float sum[PANEL];
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
          const float *x = parts + ((chunk * panels + panel) * rows + tap * g->C + c) * PANEL;
          for (int64_t j = 0; j < PANEL; j++) sum[j] = chunk ? sum[j] + x[j] : x[j];
        }
        for (int64_t j = 0; j < width; j++) dW[((panel * PANEL + j) * g->C + c) * taps + tap] = sum[j];
      }
    }
  }
  free(planes); free(parts);
  return 1;
}

/* to[tap][c up to groups][o up to panels] = weight[o][c][tap]. */
void by_taps(const float *weight, float *to, int64_t O, int64_t C, int64_t taps, int64_t threads) {
  const int64_t Cp = up(C, 4) * 4, Op = up(O, PANEL) * PANEL;
  #pragma omp parallel for num_threads((int)threads) if (threads > 1)
  for (int64_t c = 0; c < Cp; c++)
    for (int64_t tap = 0; tap < taps; tap++) {
      float *row = to + (tap * Cp + c) * Op;
      if (c >= C) memset(row, 0, Op * sizeof *row);
      else {
        for (int64_t o = 0; o < O; o++) row[o] = weight[(o * C + c) * taps + tap];
        memset(row + O, 0, (Op - O) * sizeof *row);
      }
    }
}
"""
)
