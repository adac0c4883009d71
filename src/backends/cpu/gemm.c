/* The driver around the matrix micro-kernel. C is cut into blocks of rows by blocks of columns, one task each: a
 * block's columns of B stay in L2 while strips of MR rows run over them, and each finished strip gets its epilogue
 * while it is in L1. K is not blocked: with MR rows sharing each line of B, streaming a long panel from L2 is far below
 * what L2 can give. */
#include "backends/cpu/gemm.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

const gemm_isa *gemm_isa_of(int isa) {
  return isa >= ISA_AVX512 ? &gemm_isa_avx512 : isa == ISA_AVX2 ? &gemm_isa_avx2 : &gemm_isa_scalar;
}

static int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- Planning ---------------------------------------------------------------------------------------------------- */

/* Narrow strips wait for each other to have the epilogue together, while they are in L1. */
enum { EPILOGUE_ELEMENTS = 1024 };
enum { GEMM_TASK_FLOPS = 200000 /* about 1.5 us: less is not worth another thread */, GEMM_TASKS_PER_THREAD = 4 };

/* Chooses into how many blocks of rows and columns to cut, so that `threads` threads end together, with few passes over
 * A and B. */
static void gemm_job_split(gemm_job *j, int threads) {
  const int64_t mr = j->isa->mr, nr = j->isa->nr, k = max_i64(1, j->taps * j->kc);
  const int64_t strips = max_i64(1, div_up(j->m, mr)), panels = max_i64(1, div_up(j->n, nr));
  /* Columns of B that fit in half of L2; an epilogue wants the strip of C in L1. */
  int64_t n_max = max_i64(1, (int64_t)(cpu_l2_bytes() / 2 / sizeof(float)) / k / nr);
  n_max = min_i64(n_max, max_i64(1, (j->chain ? 512 : 1024) / nr));
  int64_t n_tasks = div_up(panels, n_max), m_tasks = 1;
  const double flops = 2.0 * (double)j->batches * (double)j->m * (double)j->n * (double)k;
  if (threads > 1 && flops > 2.0 * GEMM_TASK_FLOPS) {
    const int64_t limit = min_i64((int64_t)threads * GEMM_TASKS_PER_THREAD, (int64_t)(flops / GEMM_TASK_FLOPS));
    const int64_t n_least = n_tasks;
    double best = INFINITY;
    for (int64_t nt = n_least; nt <= max_i64(n_least, min_i64(panels, limit)); nt++) {
      for (int64_t mt = 1; mt <= strips; mt++) {
        const int64_t tasks = nt * mt * j->batches;
        if (mt > 1 && tasks > max_i64(limit, n_least * j->batches)) break;
        const double rows = (double)(div_up(strips, mt) * mr), cols = (double)(div_up(panels, nt) * nr);
        /* Time of the last thread to end, in units of one multiplication each; reading A and packing B cost a share of
         * it. */
        const double task = rows * cols + rows * 8.0 + (j->pack ? cols * 24.0 : 0.0) + 256.0;
        const double time = (double)div_up(tasks, threads) * task;
        if (time < best * 0.98) {
          best = time;
          n_tasks = nt;
          m_tasks = mt;
        }
      }
    }
  }
  j->n_block = div_up(panels, n_tasks) * nr;
  j->m_block = div_up(strips, m_tasks) * mr;
  j->fetch_each = (size_t)k * (size_t)j->n_block > cpu_l2_bytes() / sizeof(float) / 2;
  j->n_tasks = div_up(max_i64(j->n, 1), j->n_block);
  j->m_tasks = div_up(max_i64(j->m, 1), j->m_block);
}

/* With so few rows that packing B would cost as much as the product. */
static bool gemm_job_in_place(const gemm_job *j) { return j->pack && j->s_n == 1 && j->m <= 4; }

kiln_status gemm_epilogue(kernel_prep *p, epilogue **out_chain, float *out_lo, float *out_hi) {
  epilogue *chain = NULL;
  if (p->args.node->epilogue) KILN_TRY(epilogue_compile(p, p->args.node->epilogue, &chain));
  /* Clamping by minimum and maximum would ignore a bound that is NaN. */
  if (epilogue_clamp(chain, out_lo, out_hi) && !isnan(*out_lo) && !isnan(*out_hi)) {
    chain = NULL;
  } else {
    *out_lo = -INFINITY;
    *out_hi = INFINITY;
  }
  *out_chain = chain;
  return KILN_OK;
}

kiln_status gemm_job_plan(gemm_job *j, kernel_prep *p) {
  KILN_TRY(gemm_epilogue(p, &j->chain, &j->lo, &j->hi));
  gemm_job_split(j, p->threads > 0 ? p->threads : 1);
  size_t pointers, packed = 0;
  if (!size_mul((size_t)j->taps * (size_t)j->isa->mr, sizeof(float *), &pointers) ||
      (j->pack && !gemm_job_in_place(j) &&
       (!gemm_packed_floats(j->taps * j->kc, j->n_block, j->isa->nr, &packed) ||
        !size_mul(packed, sizeof(float), &packed)))) {
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "%s: scratch memory is too large", p->args.node->op->name);
  }
  j->row_scratch = size_align(j->row_scratch, 64);
  j->scratch_each = size_align(pointers, 64) + j->row_scratch + epilogue_scratch(j->chain) + size_align(packed, 64);
  return KILN_OK;
}

size_t gemm_job_scratch(const gemm_job *j, int threads) {
  const size_t n = threads > 0 ? (size_t)threads : 1;
  return j->scratch_each * n;
}

/* ---- Running ----------------------------------------------------------------------------------------------------- */

static void gemm_rows_plain(const gemm_job *j, int64_t batch, int64_t m0, int mr, const float **a) {
  const float *base = j->a + (j->a_batch ? j->a_batch[batch] : 0) + m0 * j->lda;
  for (int64_t t = 0; t < j->taps; t++) {
    for (int i = 0; i < mr; i++) a[t * mr + i] = base + i * j->lda;
  }
}

/* One strip over columns [n0, n1) of groups that may begin anywhere in a panel. */
static void gemm_strip_grouped(const gemm_job *j, gemm_strip *s, int mr, int64_t n0, int64_t n1) {
  const int64_t nr = j->isa->nr, og = j->n / j->groups;
  const float *b = s->b;
  float *c = s->c;
  for (int64_t at = n0; at < n1;) {
    const int64_t g = at / og, local = j->b_by_group ? at - g * og : at, in_panel = local % nr;
    int64_t cols = min_i64(n1, (g + 1) * og) - at;
    if (in_panel) cols = min_i64(cols, nr - in_panel);
    s->a_offset = g * j->kc;
    s->b = b + local / nr * j->b_panel + in_panel + (j->b_by_group ? g * j->kc * nr : 0);
    s->c = c + (at - n0);
    s->c_col = at;
    s->bias = j->bias ? j->bias + at : NULL;
    s->n = cols;
    j->isa->strip(s, mr);
    at += cols;
  }
  s->b = b;
}

static void gemm_task(void *user, int64_t index, int worker) {
  const gemm_job *j = user;
  const int64_t mi = index % j->m_tasks, ni = index / j->m_tasks % j->n_tasks, batch = index / j->m_tasks / j->n_tasks;
  const int64_t m0 = mi * j->m_block, m1 = min_i64(j->m, m0 + j->m_block);
  const int64_t n0 = ni * j->n_block, n1 = min_i64(j->n, n0 + j->n_block);
  const int64_t nr = j->isa->nr;
  char *scratch = j->scratch + (size_t)worker * j->scratch_each;
  const float **a = (const float **)(void *)scratch;
  scratch += size_align((size_t)j->taps * (size_t)j->isa->mr * sizeof(float *), 64);
  void *row_scratch = scratch;
  scratch += j->row_scratch;
  void *epilogue_scratch_at = scratch;
  scratch += epilogue_scratch(j->chain);

  const float *b = j->b + (j->b_batch ? j->b_batch[batch] : 0);
  float *packed = NULL;
  gemm_strip s = {.a = a,
                  .tap = j->tap,
                  .taps = j->taps,
                  .kc = j->kc,
                  .b_k = nr,
                  .ldc = j->ldc,
                  .n = n1 - n0,
                  .lo = j->lo,
                  .hi = j->hi};
  if (gemm_job_in_place(j)) {
    s.b = b + n0;
    s.b_k = j->s_k;
    s.b_tap = j->s_tap;
    s.b_panel = nr;
  } else if (j->pack) {
    packed = (float *)(void *)scratch;
    s.b = packed;
    s.b_tap = j->kc * nr;
    s.b_panel = j->taps * j->kc * nr;
    for (int64_t panel = n0 / nr; panel * nr < n1; panel++) {
      gemm_pack_panel(b, j->s_tap, j->s_k, j->s_n, j->taps, j->kc, j->n, (int)nr, panel,
                      packed + (panel - n0 / nr) * s.b_panel);
    }
  } else {
    s.b = j->groups > 1 ? b : b + n0 / nr * j->b_panel;
    s.b_tap = j->b_tap;
    s.b_panel = j->b_panel;
  }
  float *c_rows[GEMM_MAX_MR];
  float *c = j->c + (j->c_batch ? j->c_batch[batch] : 0) + n0;
  if (j->groups == 1) s.bias = j->bias ? j->bias + n0 : NULL;
  int64_t finished = m0; /* rows before it have had the epilogue */
  for (int64_t m = m0; m < m1; m += j->isa->mr) {
    const int mr = (int)min_i64(j->isa->mr, m1 - m);
    if (j->rows) {
      j->rows(j, batch, m, mr, a, row_scratch);
    } else {
      gemm_rows_plain(j, batch, m, mr, a);
    }
    s.c = c + m * j->ldc;
    s.fetch = !packed && (m == m0 || j->fetch_each);
    if (j->out_rows) {
      j->out_rows(j, batch, m, mr, c_rows);
      s.c_rows = c_rows;
      s.c_col = n0;
    }
    if (j->groups == 1) {
      j->isa->strip(&s, mr);
    } else {
      gemm_strip_grouped(j, &s, mr, n0, n1);
    }
    if (j->chain && !j->out_rows &&
        (m + mr >= m1 || (m + mr + j->isa->mr - finished) * (n1 - n0) > EPILOGUE_ELEMENTS)) {
      epilogue_apply(j->chain, j->args, c + finished * j->ldc, j->epilogue_row + batch * j->m + finished,
                     m + mr - finished, n0, n1 - n0, j->ldc, epilogue_scratch_at);
      finished = m + mr;
    }
  }
}

void gemm_job_run(const gemm_job *j, pool *workers) {
  if (j->m <= 0 || j->n <= 0 || j->batches <= 0) return;
  pool_run(workers, j->batches * j->m_tasks * j->n_tasks, gemm_task, (void *)(uintptr_t)j);
}

/* ---- Tensors as matrices ----------------------------------------------------------------------------------------- */

bool tensor_as_matrix(const tensor *t, int inner, int64_t *out_pitch) {
  int64_t expect = 1;
  int r = t->rank - 1;
  for (; r >= t->rank - inner; r--) {
    if (t->shape[r] != 1 && t->strides[r] != expect) return false;
    expect *= t->shape[r];
  }
  *out_pitch = expect;
  bool first = true;
  int64_t next = 0;
  for (; r >= 0; r--) {
    if (t->shape[r] == 1) continue;
    if (first) {
      *out_pitch = t->strides[r];
      first = false;
    } else if (t->strides[r] != next) {
      return false;
    }
    next = t->strides[r] * t->shape[r];
  }
  return true;
}

typedef struct copy_job {
  const tensor *t;
  float *plain;
  bool scatter;
  /* Lines of mid x cols elements: the last dimension, and the one before it or the one that is contiguous in the tensor. */
  int64_t lines, mid, cols;
  int mid_at;
  int64_t plain_mid; /* floats between two of mid in `plain` */
  int64_t mid_step, step;
  int64_t per_task;
} copy_job;

/* A block of a mid x cols plane; one side has its columns `step` apart and its rows `mid_step`, the other is
 * contiguous. The inner loop goes along the strided side's shorter step. */
static void copy_block(const copy_job *j, float *strided, float *plain, int64_t m0, int64_t m1, int64_t c0,
                       int64_t c1) {
  if (j->scatter) {
    for (int64_t m = m0; m < m1; m++) {
      for (int64_t c = c0; c < c1; c++) strided[m * j->mid_step + c * j->step] = plain[m * j->plain_mid + c];
    }
  } else if (j->mid_step == 1 && j->cols == 3) { /* an image of 3 channels becomes channels-last */
    for (int64_t m = m0; m < m1; m++) {
      const float a = strided[m], b = strided[m + j->step], c = strided[m + 2 * j->step];
      float *to = plain + m * j->plain_mid;
      to[0] = a;
      to[1] = b;
      to[2] = c;
    }
  } else {
    for (int64_t c = c0; c < c1; c++) {
      for (int64_t m = m0; m < m1; m++) plain[m * j->plain_mid + c] = strided[m * j->mid_step + c * j->step];
    }
  }
}

static void copy_task(void *user, int64_t index, int worker) {
  (void)worker;
  const copy_job *j = user;
  const tensor *t = j->t;
  const int64_t begin = index * j->per_task, end = min_i64(j->lines, begin + j->per_task);
  for (int64_t line = begin; line < end; line++) {
    int64_t rest = line, offset = 0, plain_offset = 0, plain_step = j->cols;
    for (int r = t->rank - 2; r >= 0; r--) {
      if (r != j->mid_at) {
        offset += rest % t->shape[r] * t->strides[r];
        plain_offset += rest % t->shape[r] * plain_step;
        rest /= t->shape[r];
      }
      plain_step *= t->shape[r];
    }
    float *strided = (float *)t->data + offset, *plain = j->plain + plain_offset;
    const int64_t side = j->cols <= 3 ? j->mid
                         : j->plain_mid > j->cols
                             ? 8
                             : 16; /* whole cache lines on both sides; far apart they share few sets */
    for (int64_t m = 0; m < j->mid; m += side) {
      for (int64_t c = 0; c < j->cols; c += 16) {
        copy_block(j, strided, plain, m, min_i64(j->mid, m + side), c, min_i64(j->cols, c + 16));
      }
    }
  }
}

static void copy_run(const tensor *t, float *plain, bool scatter, pool *workers) {
  copy_job j = {.t = t, .plain = plain, .scatter = scatter, .mid = 1, .cols = 1, .step = 1};
  const int64_t count = tensor_numel(t);
  if (count <= 0) return;
  if (t->rank >= 1) {
    j.cols = t->shape[t->rank - 1];
    j.step = t->strides[t->rank - 1];
  }
  j.plain_mid = j.cols;
  j.mid_at = t->rank - 2;
  for (int r = 0; r < t->rank - 2 && j.step != 1 && t->strides[t->rank - 2] != 1; r++) {
    if (t->strides[r] == 1 && t->shape[r] > 4) j.mid_at = r; /* blocks of whole cache lines */
  }
  if (t->rank >= 2) {
    j.mid = t->shape[j.mid_at];
    j.mid_step = t->strides[j.mid_at];
    for (int r = j.mid_at + 1; r < t->rank - 1; r++) j.plain_mid *= t->shape[r];
  }
  j.lines = count / j.cols / j.mid;
  j.per_task = max_i64(1, 16384 / (j.cols * j.mid));
  pool_run(workers, div_up(j.lines, j.per_task), copy_task, &j);
}

void tensor_gather_f32(const tensor *from, float *to, pool *workers) { copy_run(from, to, false, workers); }
void tensor_scatter_f32(const float *from, const tensor *to, pool *workers) {
  copy_run(to, (float *)(uintptr_t)from, true, workers);
}

/* ---- Small things for the kernels' rows -------------------------------------------------------------------------- */

bool node_operand_f32(const node *n, int index) {
  const value *v = node_in(n, index);
  return v && v->type.dtype == KILN_F32;
}

bool gemm_fits_f32(const node *n, const char **why) {
  for (int i = 0; i < n->own_inputs; i++) {
    if (node_in(n, i) && !node_operand_f32(n, i)) {
      *why = "operands are not f32";
      return false;
    }
  }
  for (int i = 0; i < n->n_outputs; i++) {
    if (n->outputs[i]->type.dtype != KILN_F32) {
      *why = "results are not f32";
      return false;
    }
  }
  return epilogue_fits(n, why);
}

const float *gemm_optional(const kernel_args *a, int index) {
  return index < a->node->own_inputs && node_in(a->node, index) ? a->in[index].data : NULL;
}
