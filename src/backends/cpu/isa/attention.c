/* Attention without the matrix of scores (Dao et al., "FlashAttention", arXiv 2205.14135): for a block of queries, keys
 * are taken a block at a time; scores, softmax and the weighted sum of values stay in cache, and a running maximum and
 * sum rescale what was summed before (Milakov and Gimelshein, "Online normalizer calculation for softmax").
 *
 * Keys are packed once per head into panels [E][ATT_NR] (transposed), queries into groups [E][ATT_MR] (scaled), so that
 * both products are outer-product micro-kernels with ATT_MR x ATT_NR sums in registers. Values are read in place. With
 * one or two queries (decoding) packing would cost more than it saves: keys are then read row by row. */
#include "backends/cpu/kernels.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/simd/f32.h"
#include "base/memory.h"

#if defined(KILN_ISA_avx512)
enum { ATT_MR = 12, ATT_STEP = 4 };
#elif defined(KILN_ISA_avx2)
enum { ATT_MR = 6, ATT_STEP = 2 };
#else
enum { ATT_MR = 4, ATT_STEP = 4 };
#endif
enum {
  ATT_NR = 2 * VF,
  ATT_QUERIES = 48,
  ATT_KEYS = 128,
  ATT_LD = ATT_KEYS + ATT_KEYS / 2
}; /* ATT_LD: floats of a row of scores */

typedef struct att_plan {
  int64_t heads, kv_heads, group, batch;
  int64_t l, s, e, ev;
  int64_t padded; /* keys, to whole panels */
  int64_t q_block, q_blocks, key_block;
  int64_t ev_ld; /* floats from row to row of the sums */
  double scale;
  bool causal, direct; /* direct: few queries */
  bool shared;         /* keys of all heads are packed first, then blocks of queries are the units of work */
  bool pack_values;
  size_t at_values, at_queries, at_sums, at_scores, at_state,
      thread_bytes;                 /* in a thread's workspace; packed keys come first */
  size_t head_floats, shared_bytes; /* packed keys and values of one head; of all */
} att_plan;

typedef struct att_job {
  const att_plan *p;
  const kernel_args *a;
  char *threads; /* their workspaces */
} att_job;

/* Operands of one head. */
typedef struct att_head {
  const float *q, *k, *v;
  const char *mask;
  float *y;
} att_head;

static int64_t att_stride(const tensor *t, int from_last) { return t->strides[t->rank - from_last]; }

/* Offset of the matrix of batch `b` (of the output's) and head `h`. */
static int64_t att_offset(const tensor *t, const tensor *y, int64_t b, int64_t h, int64_t heads) {
  const int skip = y->rank - t->rank;
  int64_t at = 0;
  for (int d = y->rank - 4; d >= 0; --d) {
    const int64_t i = b % y->shape[d];
    b /= y->shape[d];
    if (d >= skip && t->shape[d - skip] != 1) at += i * t->strides[d - skip];
  }
  const int hd = t->rank - 3;
  if (hd >= 0 && t->shape[hd] != 1) at += h / (heads / t->shape[hd]) * t->strides[hd];
  return at;
}

static att_head att_select(const att_job *j, int64_t b, int64_t h) {
  const kernel_args *a = j->a;
  const tensor *y = &a->out[0], *m = a->n_in > 3 && a->in[3].data ? &a->in[3] : NULL;
  const int64_t heads = j->p->heads;
  att_head out = {.q = (const float *)a->in[0].data + att_offset(&a->in[0], y, b, h, heads),
                  .k = (const float *)a->in[1].data + att_offset(&a->in[1], y, b, h, heads),
                  .v = (const float *)a->in[2].data + att_offset(&a->in[2], y, b, h, heads),
                  .y = (float *)y->data + att_offset(y, y, b, h, heads)};
  if (m) out.mask = (const char *)m->data + att_offset(m, y, b, h, heads) * (int64_t)kiln_dtype_size(m->dtype);
  return out;
}

/* ---- Packing ----------------------------------------------------------------------------------------------------- */

#if !defined(KILN_ISA_scalar)
/* r[i] = rows[i][0..8): its transpose in place. */
VF_INLINE void att_transpose(__m256 *r) {
  __m256 t[8];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  __m256 u[8];
  for (int i = 0; i < 2; ++i) {
    u[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
    u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

/* to[e * ld + j] = x[j * row + e] * scale for j < 8 and e < n; rows from `rows` on repeat the last one. Writes 8 floats
 * for each e in rising order, so that what spills over a smaller ld is overwritten by the next e, or lies after the
 * last. */
static void att_pack_eight(const float *x, int64_t row, int64_t rows, int64_t n, float scale, float *to, int64_t ld) {
  const float *from[8];
  const __m256 factor = _mm256_set1_ps(scale);
  for (int64_t j = 0; j < 8; ++j) from[j] = x + (j < rows ? j : rows - 1) * row;
  int64_t e = 0;
  for (; e + 8 <= n; e += 8) {
    __m256 r[8];
    for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from[i] + e);
    att_transpose(r);
    for (int i = 0; i < 8; ++i) _mm256_storeu_ps(to + (e + i) * ld, _mm256_mul_ps(r[i], factor));
  }
  for (; e < n; ++e) {
    for (int64_t j = 0; j < 8; ++j) to[e * ld + j] = from[j][e] * scale;
  }
}
#endif

/* One panel: to[e * ATT_NR + j] = k[key + j][e]. What stands for keys after the last one is finite or not, but never
 * read: their scores are overwritten. */
static void att_pack_panel(const att_plan *p, const float *k, int64_t row, int64_t step, int64_t key,
                           float *restrict to) {
  const int64_t n = p->s - key < ATT_NR ? p->s - key : ATT_NR;
#if !defined(KILN_ISA_scalar)
  if (step == 1) {
    for (int64_t j = 0; j < ATT_NR; j += 8) {
      if (j < n) {
        att_pack_eight(k + (key + j) * row, row, n - j, p->e, 1.0f, to + j, ATT_NR);
      } else {
        for (int64_t e = 0; e < p->e; ++e) _mm256_storeu_ps(to + e * ATT_NR + j, _mm256_setzero_ps());
      }
    }
    return;
  }
#endif
  for (int64_t e = 0; e < p->e; ++e) {
    for (int64_t j = 0; j < n; ++j) to[e * ATT_NR + j] = k[(key + j) * row + e * step];
    for (int64_t j = n; j < ATT_NR; ++j) to[e * ATT_NR + j] = 0.0f;
  }
}

/* Keys (and values, if their elements are not neighbours) of one head; values follow keys. */
static void att_pack_head(const att_job *j, const att_head *h, float *to) {
  const att_plan *p = j->p;
  const tensor *k = &j->a->in[1], *v = &j->a->in[2];
  for (int64_t key = 0; key < p->s; key += ATT_NR) {
    att_pack_panel(p, h->k, att_stride(k, 2), att_stride(k, 1), key, to + key * p->e);
  }
  if (!p->pack_values) return;
  float *values = to + p->padded * p->e;
  for (int64_t s = 0; s < p->s; ++s) {
    for (int64_t c = 0; c < p->ev; ++c) values[s * p->ev + c] = h->v[s * att_stride(v, 2) + c * att_stride(v, 1)];
  }
}

/* Queries [first, first + rows) in groups: to[(g * e + i) * ATT_MR + r], scaled. Rows after the last hold anything. */
static void att_pack_queries(const att_job *j, const att_head *h, int64_t first, int64_t rows, float *restrict to) {
  const att_plan *p = j->p;
  const int64_t row = att_stride(&j->a->in[0], 2), step = att_stride(&j->a->in[0], 1);
  const float scale = (float)p->scale;
  for (int64_t g = 0; g < rows; g += ATT_MR) {
    const int64_t n = rows - g < ATT_MR ? rows - g : ATT_MR;
    const float *x = h->q + (first + g) * row;
#if !defined(KILN_ISA_scalar)
    if (step == 1) {
      att_pack_eight(x, row, n, p->e, scale, to, ATT_MR);
      if (ATT_MR > 8 && n > 8) att_pack_eight(x + 4 * row, row, n - 4, p->e, scale, to + 4, ATT_MR); /* rows 4 to 11 */
      to += p->e * ATT_MR;
      continue;
    }
#endif
    for (int64_t e = 0; e < p->e; ++e) {
      for (int64_t r = 0; r < n; ++r) to[e * ATT_MR + r] = x[r * row + e * step] * scale;
      for (int64_t r = n; r < ATT_MR; ++r) to[e * ATT_MR + r] = 0.0f;
    }
    to += p->e * ATT_MR;
  }
}

/* ---- Micro-kernels ----------------------------------------------------------------------------------------------- */

/* s[r][0..vectors * VF) = q[.][r] . k[.][0..vectors * VF) */
VF_INLINE void att_scores_rows(const float *q, const float *k, int64_t e, float *s, const int rows, const int vectors) {
  vf sum[ATT_MR][2];
  for (int r = 0; r < rows; ++r) sum[r][0] = sum[r][1] = vf_zero();
  for (int64_t i = 0; i < e; ++i) {
    const vf k0 = vf_load(k + i * ATT_NR), k1 = vectors == 2 ? vf_load(k + i * ATT_NR + VF) : k0;
    for (int r = 0; r < rows; ++r) {
      const vf x = vf_set1(q[i * ATT_MR + r]);
      sum[r][0] = vf_fma(x, k0, sum[r][0]);
      if (vectors == 2) sum[r][1] = vf_fma(x, k1, sum[r][1]);
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int n = 0; n < vectors; ++n) vf_store(s + r * ATT_LD + n * VF, sum[r][n]);
  }
}

/* o[r][0..2 VF) = o * c[r] + sum over keys of s[r][key] * v[key][0..2 VF), where only `lanes` columns exist. */
VF_INLINE void att_values_rows(const float *s, const float *v, int64_t row, int64_t keys, float *o, int64_t o_ld,
                               const float *c, const int rows, const int vectors, vm tail) {
  vf sum[ATT_MR][2];
  for (int r = 0; r < rows; ++r) {
    const vf x = vf_set1(c[r]);
    for (int n = 0; n < vectors; ++n) sum[r][n] = vf_mul(vf_load(o + r * o_ld + n * VF), x);
  }
  for (int64_t i = 0; i < keys; ++i) {
    const vf v0 = vectors == 2 ? vf_load(v + i * row) : vf_load_mask(v + i * row, tail);
    const vf v1 = vectors == 2 ? vf_load(v + i * row + VF) : v0;
    for (int r = 0; r < rows; ++r) {
      const vf x = vf_set1(s[r * ATT_LD + i]);
      sum[r][0] = vf_fma(x, v0, sum[r][0]);
      if (vectors == 2) sum[r][1] = vf_fma(x, v1, sum[r][1]);
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int n = 0; n < vectors; ++n) vf_store(o + r * o_ld + n * VF, sum[r][n]);
  }
}

/* A count of rows rounded up to ATT_STEP; what the spare rows hold is never read. `keys`: how many of the panel's are
 * wanted. */
static void att_scores(const float *q, const float *k, int64_t e, float *s, int64_t rows, int64_t keys) {
#define ATT_SCORES(count)                    \
  do {                                       \
    if (keys > VF)                           \
      att_scores_rows(q, k, e, s, count, 2); \
    else                                     \
      att_scores_rows(q, k, e, s, count, 1); \
  } while (0)
  if (rows > 2 * ATT_STEP)
    ATT_SCORES(ATT_MR);
  else if (rows > ATT_STEP)
    ATT_SCORES((2 * ATT_STEP < ATT_MR ? 2 * ATT_STEP : ATT_MR));
  else
    ATT_SCORES(ATT_STEP);
}

static void att_values(const float *s, const float *v, int64_t row, int64_t keys, int64_t ev, float *o, int64_t o_ld,
                       const float *c, int64_t rows) {
  int64_t n = 0;
  const vm all = vf_tail(VF);
#define ATT_VALUES(count)                                                                                      \
  do {                                                                                                         \
    for (; n + 2 * VF <= ev; n += 2 * VF) att_values_rows(s, v + n, row, keys, o + n, o_ld, c, count, 2, all); \
    for (; n < ev; n += VF) {                                                                                  \
      att_values_rows(s, v + n, row, keys, o + n, o_ld, c, count, 1, vf_tail(ev - n < VF ? ev - n : VF));      \
    }                                                                                                          \
  } while (0)
  if (rows > 2 * ATT_STEP)
    ATT_VALUES(ATT_MR);
  else if (rows > ATT_STEP)
    ATT_VALUES((2 * ATT_STEP < ATT_MR ? 2 * ATT_STEP : ATT_MR));
  else
    ATT_VALUES(ATT_STEP);
}

/* ---- Softmax of a block of scores -------------------------------------------------------------------------------- */

static void att_mask_row(const att_job *j, const char *mask, int64_t query, int64_t key, int64_t keys,
                         float *restrict s) {
  const tensor *m = &j->a->in[3];
  const int64_t row = m->rank >= 2 && m->shape[m->rank - 2] != 1 ? att_stride(m, 2) : 0;
  const int64_t step = m->rank >= 1 && m->shape[m->rank - 1] != 1 ? att_stride(m, 1) : 0;
  if (m->dtype == KILN_BOOL) {
    const uint8_t *restrict x = (const uint8_t *)mask + query * row + key * step;
    if (step == 1) { /* apart, so that the loop vectorizes */
      for (int64_t i = 0; i < keys; ++i) s[i] = x[i] ? s[i] : -INFINITY;
    } else {
      for (int64_t i = 0; i < keys; ++i) s[i] = x[i * step] ? s[i] : -INFINITY;
    }
  } else {
    const float *restrict x = (const float *)(const void *)mask + query * row + key * step;
    if (step == 1) {
      for (int64_t i = 0; i < keys; ++i) s[i] += x[i];
    } else {
      for (int64_t i = 0; i < keys; ++i) s[i] += x[i * step];
    }
  }
}

/* Scores of `rows` queries become weights; factor: what was summed before must be multiplied by it. `padded` (a
 * multiple of VF) floats of each row are read, -inf where there is nothing to see. Rows go side by side because each is
 * a chain of dependent steps. */
VF_INLINE void att_soften(float *s, int64_t padded, float *maximum, float *total, float *factor, const int rows) {
  vf m[4], sum[4];
  for (int r = 0; r < rows; ++r) m[r] = vf_set1(-INFINITY), sum[r] = vf_zero();
  for (int64_t i = 0; i < padded; i += VF) {
    for (int r = 0; r < rows; ++r) m[r] = vf_max(vf_load(s + r * ATT_LD + i), m[r]);
  }
  for (int r = 0; r < rows; ++r) {
    float top = vf_reduce_max(m[r]);
    if (top < maximum[r]) top = maximum[r];
    const float shift = top == -INFINITY ? 0.0f : top; /* nothing to attend to yet: weights of 0 */
    factor[r] = maximum[r] == top ? 1.0f : maximum[r] == -INFINITY ? 0.0f : expf(maximum[r] - shift);
    maximum[r] = top;
    m[r] = vf_set1(shift);
  }
  for (int64_t i = 0; i < padded; i += VF) {
    for (int r = 0; r < rows; ++r) {
      const vf w = vf_exp_nonpositive(vf_sub(vf_load(s + r * ATT_LD + i), m[r]));
      vf_store(s + r * ATT_LD + i, w);
      sum[r] = vf_add(sum[r], w);
    }
  }
  for (int r = 0; r < rows; ++r) total[r] = total[r] * factor[r] + vf_reduce_add(sum[r]);
}

/* ---- A block of queries ------------------------------------------------------------------------------------------ */

typedef struct att_block {
  const att_head *head;
  const float *keys, *values;
  int64_t value_row;
  int64_t first, rows; /* queries */
  float *queries, *sums, *scores, *maximum, *total;
} att_block;

/* One group of up to ATT_MR queries with one block of keys. */
static void att_group(const att_job *j, const att_block *b, int64_t g, int64_t key, int64_t keys) {
  const att_plan *p = j->p;
  const int64_t rows = b->rows - g < ATT_MR ? b->rows - g : ATT_MR, last = b->first + g + rows - 1;
  float factors[ATT_MR] = {0};
  if (p->causal && key > last) return;
  if (p->causal && key + keys > last + 1) keys = last + 1 - key; /* later keys are masked for all of the group */
  const int64_t padded = (keys + VF - 1) / VF * VF;
  for (int64_t n = 0; n < keys; n += ATT_NR) {
    att_scores(b->queries + g * p->e, b->keys + (key + n) * p->e, p->e, b->scores + n, rows, keys - n);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t query = b->first + g + i;
    int64_t visible = keys;
    if (p->causal && key + visible > query + 1) visible = query + 1 > key ? query + 1 - key : 0;
    if (b->head->mask) att_mask_row(j, b->head->mask, query, key, visible, b->scores + i * ATT_LD);
    for (int64_t k = visible; k < padded; ++k) b->scores[i * ATT_LD + k] = -INFINITY;
  }
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4)
    att_soften(b->scores + r * ATT_LD, padded, b->maximum + g + r, b->total + g + r, factors + r, 4);
  for (; r < rows; ++r)
    att_soften(b->scores + r * ATT_LD, padded, b->maximum + g + r, b->total + g + r, factors + r, 1);
  att_values(b->scores, b->values + key * b->value_row, b->value_row, keys, p->ev, b->sums + g * p->ev_ld, p->ev_ld,
             factors, rows);
}

static void att_finish(const att_job *j, const att_block *b) {
  const att_plan *p = j->p;
  const int64_t row = att_stride(&j->a->out[0], 2), step = att_stride(&j->a->out[0], 1);
  for (int64_t r = 0; r < b->rows; ++r) {
    const float *o = b->sums + r * p->ev_ld;
    float *y = b->head->y + (b->first + r) * row;
    const float inverse = b->total[r] == 0.0f ? 0.0f : 1.0f / b->total[r];
    const bool nothing = b->total[r] == 0.0f;
    if (step == 1 && !nothing) {
      const vf x = vf_set1(inverse);
      for (int64_t c = 0; c < p->ev; c += VF)
        vf_store_n(y + c, p->ev - c < VF ? p->ev - c : VF, vf_mul(vf_load(o + c), x));
    } else {
      for (int64_t c = 0; c < p->ev; ++c) y[c * step] = nothing ? 0.0f : o[c] * inverse;
    }
  }
}

/* Queries of block `index` of one head; `packed` has its keys. */
static void att_query_block(const att_job *j, const att_head *h, const float *packed, int64_t index, char *space) {
  const att_plan *p = j->p;
  att_block b = {.head = h, .keys = packed, .first = index * p->q_block};
  b.rows = p->l - b.first < p->q_block ? p->l - b.first : p->q_block;
  b.values = p->pack_values ? packed + p->padded * p->e : h->v;
  b.value_row = p->pack_values ? p->ev : att_stride(&j->a->in[2], 2);
  b.queries = (float *)(void *)(space + p->at_queries);
  b.sums = (float *)(void *)(space + p->at_sums);
  b.scores = (float *)(void *)(space + p->at_scores);
  b.maximum = (float *)(void *)(space + p->at_state);
  b.total = b.maximum + p->q_block;
  att_pack_queries(j, h, b.first, b.rows, b.queries);
  memset(b.sums, 0, (size_t)(p->q_block * p->ev_ld) * sizeof(float));
  for (int64_t r = 0; r < p->q_block; ++r) b.maximum[r] = -INFINITY, b.total[r] = 0.0f;
  for (int64_t key = 0; key < p->s; key += p->key_block) {
    if (p->causal && key > b.first + b.rows - 1) break;
    const int64_t keys = p->s - key < p->key_block ? p->s - key : p->key_block;
    for (int64_t g = 0; g < b.rows; g += ATT_MR) att_group(j, &b, g, key, keys);
  }
  att_finish(j, &b);
}

/* ---- Units of work ----------------------------------------------------------------------------------------------- */

/* A head of keys with all its queries. */
static void att_heads(void *user, int64_t begin, int64_t end, int worker) {
  const att_job *j = user;
  const att_plan *p = j->p;
  char *space = j->threads + (size_t)worker * p->thread_bytes;
  float *packed = (float *)(void *)space;
  for (int64_t u = begin; u < end; ++u) {
    for (int64_t i = 0; i < p->group; ++i) {
      const att_head h = att_select(j, u / p->kv_heads, u % p->kv_heads * p->group + i);
      if (i == 0) att_pack_head(j, &h, packed);
      for (int64_t q = 0; q < p->q_blocks; ++q) att_query_block(j, &h, packed, q, space);
    }
  }
}

static void att_pack_all(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const att_job *j = user;
  const att_plan *p = j->p;
  for (int64_t u = begin; u < end; ++u) {
    const att_head h = att_select(j, u / p->kv_heads, u % p->kv_heads * p->group);
    att_pack_head(j, &h, (float *)j->a->workspace + (size_t)u * p->head_floats);
  }
}

static void att_blocks(void *user, int64_t begin, int64_t end, int worker) {
  const att_job *j = user;
  const att_plan *p = j->p;
  char *space = j->threads + (size_t)worker * p->thread_bytes;
  for (int64_t u = begin; u < end; ++u) {
    const int64_t head = u / p->q_blocks, b = head / p->heads, h = head % p->heads;
    const int64_t q = p->causal ? p->q_blocks - 1 - u % p->q_blocks : u % p->q_blocks; /* long ones first */
    const att_head selected = att_select(j, b, h);
    att_query_block(j, &selected, (float *)j->a->workspace + (size_t)(b * p->kv_heads + h / p->group) * p->head_floats,
                    q, space);
  }
}

/* ---- Few queries ------------------------------------------------------------------------------------------------- */

VF_INLINE float att_dot(const float *x, const float *k, int64_t n) {
  vf s = vf_zero(), s1 = s;
  int64_t i = 0;
  for (; i + 2 * VF <= n; i += 2 * VF) {
    s = vf_fma(vf_load(x + i), vf_load(k + i), s);
    s1 = vf_fma(vf_load(x + i + VF), vf_load(k + i + VF), s1);
  }
  for (; i < n; i += VF) {
    const vm tail = vf_tail(n - i < VF ? n - i : VF);
    s = vf_fma(vf_load_mask(x + i, tail), vf_load_mask(k + i, tail), s);
  }
  return vf_reduce_add(vf_add(s, s1));
}

/* One query of one head; elements of q, k and v are neighbours. */
static void att_direct(void *user, int64_t begin, int64_t end, int worker) {
  const att_job *j = user;
  const att_plan *p = j->p;
  float *s = (float *)(void *)(j->threads + (size_t)worker * p->thread_bytes), *o = s + p->padded;
  const int64_t k_row = att_stride(&j->a->in[1], 2), v_row = att_stride(&j->a->in[2], 2),
                q_row = att_stride(&j->a->in[0], 2);
  for (int64_t u = begin; u < end; ++u) {
    const int64_t query = u % p->l, head = u / p->l;
    const att_head h = att_select(j, head / p->heads, head % p->heads);
    const float *q = h.q + query * q_row;
    const int64_t visible = p->causal && query + 1 < p->s ? query + 1 : p->s;
    for (int64_t i = 0; i < visible; ++i) s[i] = att_dot(q, h.k + i * k_row, p->e) * (float)p->scale;
    if (h.mask) att_mask_row(j, h.mask, query, 0, visible, s);
    float maximum = -INFINITY, total = 0.0f, factor;
    const int64_t padded = (visible + VF - 1) / VF * VF;
    for (int64_t i = visible; i < padded; ++i) s[i] = -INFINITY;
    att_soften(s, padded, &maximum, &total, &factor, 1);
    for (int64_t c = 0; c < p->ev; c += 4 * VF) {
      const int64_t width = p->ev - c < 4 * VF ? p->ev - c : 4 * VF;
      vf sum[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
      vm tails[4];
      for (int n = 0; n < 4; ++n) {
        const int64_t left = width - n * VF;
        tails[n] = vf_tail(left < 0 ? 0 : left < VF ? left : VF);
      }
      for (int64_t i = 0; i < visible; ++i) {
        const vf w = vf_set1(s[i]);
        for (int n = 0; n < 4; ++n) {
          if (n * VF < width) sum[n] = vf_fma(w, vf_load_mask(h.v + i * v_row + c + n * VF, tails[n]), sum[n]);
        }
      }
      for (int n = 0; n < 4; ++n) vf_store(o + c + n * VF, sum[n]);
    }
    const int64_t step = att_stride(&j->a->out[0], 1);
    float *y = h.y + query * att_stride(&j->a->out[0], 2);
    const float inverse = 1.0f / total;
    for (int64_t c = 0; c < p->ev; ++c) y[c * step] = total == 0.0f ? 0.0f : o[c] * inverse;
  }
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static bool att_add(size_t *at, int64_t floats, size_t *out_place) {
  size_t bytes;
  *out_place = *at;
  return floats >= 0 && size_mul((size_t)floats, sizeof(float), &bytes) && size_add(size_align(bytes, 64), *at, at);
}

static bool att_place(att_plan *p, int threads, size_t *out_bytes) {
  size_t at = 0, unused;
  bool ok = true;
  const int64_t values = p->pack_values ? p->s * p->ev : 0;
  if (p->direct) {
    ok = att_add(&at, p->padded + (p->ev + 4 * VF), &unused);
  } else {
    p->head_floats = size_align((size_t)(p->padded * p->e + values), 16);
    if (!p->shared) ok = att_add(&at, (int64_t)p->head_floats, &unused);
    ok = ok && att_add(&at, p->q_block * p->e + 8, &p->at_queries) &&
         att_add(&at, p->q_block * p->ev_ld, &p->at_sums) && att_add(&at, ATT_MR * ATT_LD, &p->at_scores) &&
         att_add(&at, 2 * p->q_block, &p->at_state);
  }
  p->thread_bytes = at;
  if (p->shared) {
    ok = ok && size_mul(p->head_floats * sizeof(float), (size_t)(p->batch * p->kv_heads), &p->shared_bytes);
  }
  size_t all;
  return ok && size_mul(at, (size_t)threads, &all) && size_add(all, p->shared_bytes, out_bytes);
}

/* Sizes that inference may have had to assume equal. */
static kiln_status att_check_sizes(const kernel_args *a) {
  const tensor *q = &a->in[0], *k = &a->in[1], *v = &a->in[2], *y = &a->out[0];
  const tensor *m = a->n_in > 3 && a->node->inputs[3].v ? &a->in[3] : NULL;
  const int64_t heads = q->shape[q->rank - 3], s = k->shape[k->rank - 2];
  bool fit = q->shape[q->rank - 1] == k->shape[k->rank - 1] && s == v->shape[v->rank - 2] &&
             heads == y->shape[y->rank - 3] && q->shape[q->rank - 2] == y->shape[y->rank - 2] &&
             v->shape[v->rank - 1] == y->shape[y->rank - 1];
  for (int i = 0; i < 3; ++i) {
    const tensor *t = &a->in[i];
    fit = fit && t->shape[t->rank - 3] > 0 && heads % t->shape[t->rank - 3] == 0;
    for (int d = 0; fit && d < t->rank - 3; ++d)
      fit = t->shape[d] == 1 || t->shape[d] == y->shape[d + y->rank - t->rank];
  }
  for (int d = 0; fit && m && d < m->rank; ++d) {
    const int to = d + y->rank - m->rank;
    fit = m->shape[d] == 1 || m->shape[d] == (to == y->rank - 1 ? s : y->shape[to]);
  }
  if (fit) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_ARGUMENT, "attention: the sizes of q, k, v and the mask do not fit together");
}

static kiln_status att_prepare(kernel_prep *k) {
  att_plan *p = ARENA_NEW(k->arena, att_plan);
  if (!p) return KILN_NO_MEMORY("attention");
  const tensor *q = &k->args.in[0], *key = &k->args.in[1], *v = &k->args.in[2], *y = &k->args.out[0];
  p->heads = y->shape[y->rank - 3];
  p->kv_heads = key->shape[key->rank - 3];
  p->l = q->shape[q->rank - 2];
  p->s = key->shape[key->rank - 2];
  p->e = q->shape[q->rank - 1];
  p->ev = v->shape[v->rank - 1];
  p->scale = arg_float(&k->args, "scale");
  p->causal = arg_bool(&k->args, "causal");
  p->batch = 1;
  for (int d = 0; d < y->rank - 3; ++d) p->batch *= y->shape[d];
  k->state = p;
  if (tensor_numel(y) == 0) return KILN_OK;
  KILN_TRY(att_check_sizes(&k->args));
  if (p->kv_heads < 1 || p->heads % p->kv_heads != 0 || v->shape[v->rank - 3] != p->kv_heads) {
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "attention: %lld query heads are not a multiple of %lld key heads",
                     (long long)p->heads, (long long)p->kv_heads);
  }
  p->group = p->heads / p->kv_heads;
  p->padded = (p->s + ATT_NR - 1) / ATT_NR * ATT_NR;
  p->pack_values = p->ev > 1 && att_stride(v, 1) != 1;
  p->direct = p->l * p->group < 4 && !p->pack_values && att_stride(key, 1) == 1 && att_stride(q, 1) == 1;
  const int64_t blocks =
      (p->l + ATT_QUERIES + ATT_MR) / (ATT_QUERIES + ATT_MR); /* even ones, not a full one and a rest */
  p->q_block = ((p->l + blocks - 1) / blocks + ATT_MR - 1) / ATT_MR * ATT_MR;
  p->q_blocks = (p->l + p->q_block - 1) / p->q_block;
  p->key_block = p->padded <= ATT_LD ? p->padded : ATT_KEYS;
  if (p->key_block == 0) p->key_block = ATT_NR;
  p->ev_ld = (p->ev + VF - 1) / VF * VF;
  const int threads = k->threads < 1 ? 1 : k->threads;
  const int64_t units = p->batch * p->kv_heads;
  p->shared = !p->direct && threads > 1 && p->q_blocks * p->group > 1 && units % threads != 0 && units < 8 * threads;
  if (!att_place(p, threads, &k->workspace_size)) return KILN_NO_MEMORY("attention workspace");
  return KILN_OK;
}

static kiln_status att_run(const kernel_args *a) {
  const att_plan *p = a->state;
  if (tensor_numel(&a->out[0]) == 0) return KILN_OK;
  att_job j = {p, a, (char *)a->workspace + p->shared_bytes};
  const int64_t row_cost = p->s * (p->e + p->ev) / 8 + 1;
  if (p->direct) {
    cpu_parallel(a->pool, p->batch * p->heads * p->l, row_cost, att_direct, &j);
  } else if (p->shared) {
    cpu_parallel(a->pool, p->batch * p->kv_heads, p->s * p->e, att_pack_all, &j);
    cpu_parallel(a->pool, p->batch * p->heads * p->q_blocks, row_cost * p->q_block, att_blocks, &j);
  } else {
    cpu_parallel(a->pool, p->batch * p->kv_heads, row_cost * p->l * p->group, att_heads, &j);
  }
  return KILN_OK;
}

static bool att_fits(const node *n, const char **why) {
  for (int i = 0; i < 3; ++i) {
    if (!n->inputs[i].v || n->inputs[i].v->type.dtype != KILN_F32) return *why = "q, k or v is not f32", false;
  }
  const value *mask = node_in(n, 3);
  if (mask && mask->type.dtype != KILN_F32 && mask->type.dtype != KILN_BOOL)
    return *why = "mask is neither f32 nor bool", false;
  return true;
}

const kernel KERNEL(attention_kernels)[] = {
    CPU_ROW(.op = "attention", .name = "attention.flash." CPU_ISA_NAME, .fits = att_fits, .prepare = att_prepare,
            .run = att_run, .strided_in = KERNEL_STRIDED_ALL, .strided_out = 1),
    {.op = NULL},
};
