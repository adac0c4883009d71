/* Runs pointwise programs over whole tensors: the iteration space is collapsed to as few dimensions as all strides
 * allow, cut into tiles of whole rows (or parts of one long row), and each operand is brought into its register in the
 * cheapest way: a pointer into memory, a register filled once, a pattern that is the same for every tile, or a gather
 * row by row. */
#include "backends/cpu/pointwise.h"

#include <string.h>

#include "backends/cpu/kernels.h"
#include "base/cpu_features.h"
#include "base/memory.h"

typedef enum pw_access {
  PW_FILLED,     /* constant of one element: register made in prepare */
  PW_SCALAR,     /* one element: register filled when a task starts */
  PW_PERIODIC,   /* same in every tile: loaded when a task starts */
  PW_CONTIGUOUS, /* element i of the collapsed space is element i of memory */
  PW_ROWS        /* anything else */
} pw_access;

typedef struct pw_plan {
  pw_program *program;
  int32_t rank; /* collapsed; at least 1 */
  int64_t shape[KILN_MAX_RANK];
  int64_t out_strides[KILN_MAX_RANK];
  bool out_contiguous;
  int64_t (*strides)[KILN_MAX_RANK]; /* of each operand */
  pw_access *access;
  int64_t rows, inner;     /* product of all but the last dimension, and the last */
  int64_t tile_rows;       /* whole rows of one tile; 0: rows are longer than a tile */
  int64_t row_parts, part; /* then: tiles of a row, and elements of each but the last */
  int64_t tiles, tasks;
} pw_plan;

/* ---- Prepare ----------------------------------------------------------------------------------------------------- */

static void pw_broadcast_strides(const tensor *t, const tensor *out, int64_t *strides) {
  for (int d = 0; d < out->rank; ++d) {
    const int k = d - (out->rank - t->rank);
    strides[d] = k < 0 || t->shape[k] == 1 ? 0 : t->strides[k];
  }
}

/* Drops dimensions of size 1 and joins neighbours that every operand walks through at one stride. */
static void pw_collapse(pw_plan *plan, const tensor *out) {
  const int n = plan->program->n_operands;
  int rank = 0;
  for (int d = 0; d < out->rank; ++d) {
    if (out->shape[d] == 1) continue;
    bool join = rank > 0 && plan->out_strides[rank - 1] == out->strides[d] * out->shape[d];
    for (int i = 0; i < n && join; ++i) join = plan->strides[i][rank - 1] == plan->strides[i][d] * out->shape[d];
    if (join)
      plan->shape[rank - 1] *= out->shape[d];
    else
      plan->shape[rank++] = out->shape[d];
    plan->out_strides[rank - 1] = out->strides[d];
    for (int i = 0; i < n; ++i) plan->strides[i][rank - 1] = plan->strides[i][d];
  }
  if (rank == 0) {
    plan->shape[0] = tensor_numel(out);
    plan->out_strides[0] = 1;
    for (int i = 0; i < n; ++i) plan->strides[i][0] = 0;
    rank = 1;
  }
  plan->rank = rank;
}

static bool pw_strides_contiguous(const pw_plan *plan, const int64_t *strides) {
  int64_t expected = 1;
  for (int d = plan->rank - 1; d >= 0; --d) {
    if (strides[d] != expected) return false;
    expected *= plan->shape[d];
  }
  return true;
}

static int64_t pw_gcd(int64_t a, int64_t b) {
  while (b) {
    const int64_t r = a % b;
    a = b;
    b = r;
  }
  return a;
}

static void pw_cut_tiles(pw_plan *plan, int threads) {
  const int64_t tile = plan->program->tile;
  plan->rows = 1;
  for (int d = 0; d + 1 < plan->rank; ++d) plan->rows *= plan->shape[d];
  plan->inner = plan->shape[plan->rank - 1];
  if (plan->rows == 0 || plan->inner == 0) {
    plan->tiles = plan->tasks = 0;
    return;
  }
  if (plan->inner > tile / 2) {
    plan->row_parts = (plan->inner + tile - 1) / tile;
    plan->part = (plan->inner + plan->row_parts - 1) / plan->row_parts;
    plan->part = (plan->part + PW_LANES - 1) / PW_LANES * PW_LANES;
    plan->row_parts = (plan->inner + plan->part - 1) / plan->part;
    plan->tiles = plan->rows * plan->row_parts;
  } else { /* a count of rows that makes whole vectors, if one fits */
    const int64_t unit = PW_LANES / pw_gcd(plan->inner, PW_LANES), fit = tile / plan->inner;
    plan->tile_rows = fit >= unit ? fit / unit * unit : fit;
    plan->tiles = (plan->rows + plan->tile_rows - 1) / plan->tile_rows;
  }
  const int64_t work = plan->rows * plan->inner * (plan->program->n_instrs + 1);
  const int64_t wanted = work / 32768 < 4 * (int64_t)threads ? work / 32768 : 4 * (int64_t)threads;
  plan->tasks = wanted < 1 || threads <= 1 ? 1 : wanted < plan->tiles ? wanted : plan->tiles;
}

static pw_access pw_choose_access(const pw_plan *plan, int operand) {
  const pw_operand *o = &plan->program->operands[operand];
  const int64_t *strides = plan->strides[operand];
  if (o->filled) return PW_FILLED;
  if (tensor_numel(o->type) == 1) return PW_SCALAR;
  if (pw_strides_contiguous(plan, strides)) return PW_CONTIGUOUS;
  bool periodic = plan->tile_rows > 0;
  for (int d = 0; d + 1 < plan->rank; ++d) periodic &= strides[d] == 0;
  return periodic ? PW_PERIODIC : PW_ROWS;
}

static kiln_status pw_make_plan(kernel_prep *p, pw_program *g) {
  const tensor *out = &p->args.out[0];
  pw_plan *plan = ARENA_NEW(p->arena, pw_plan);
  if (!plan) return KILN_NO_MEMORY("pointwise plan");
  plan->program = g;
  plan->strides = arena_array(p->arena, (size_t)g->n_operands + 1, sizeof *plan->strides);
  plan->access = ARENA_ARRAY(p->arena, pw_access, g->n_operands + 1);
  if (!plan->strides || !plan->access) return KILN_NO_MEMORY("pointwise plan");
  for (int i = 0; i < g->n_operands; ++i) {
    const tensor *t = g->operands[i].type;
    KILN_TRY(pw_check_broadcast(p->args.node, i, t, out));
    pw_broadcast_strides(t, out, plan->strides[i]);
  }
  pw_collapse(plan, out);
  pw_cut_tiles(plan, p->threads);
  for (int i = 0; i < g->n_operands; ++i) plan->access[i] = pw_choose_access(plan, i);
  plan->out_contiguous = pw_strides_contiguous(plan, plan->out_strides);
  p->state = plan;
  if (!size_mul(g->scratch, (size_t)(p->threads < 1 ? 1 : p->threads), &p->workspace_size))
    return KILN_NO_MEMORY("pointwise workspace");
  return KILN_OK;
}

static kiln_status pw_prepare(kernel_prep *p, int isa) {
  pw_program *g;
  KILN_TRY(pw_compile_node(p, pw_table_of(isa), p->args.node, &g));
  return pw_make_plan(p, g);
}
static kiln_status pw_prepare_scalar(kernel_prep *p) { return pw_prepare(p, ISA_SCALAR); }
static kiln_status pw_prepare_avx2(kernel_prep *p) { return pw_prepare(p, ISA_AVX2); }
static kiln_status pw_prepare_avx512(kernel_prep *p) { return pw_prepare(p, ISA_AVX512); }

/* ---- Run --------------------------------------------------------------------------------------------------------- */

typedef struct pw_tile {
  int64_t row, rows, col, cols;
  int64_t count, padded;
} pw_tile;

static const char *pw_data(const kernel_args *a, const pw_operand *o) {
  return o->arg >= 0 ? a->in[o->arg].data : o->type->data;
}

/* Element offset of the start of row `row`. */
static int64_t pw_row_offset(const pw_plan *plan, const int64_t *strides, int64_t row) {
  int64_t offset = 0;
  for (int d = plan->rank - 2; d >= 0; --d) {
    offset += row % plan->shape[d] * strides[d];
    row /= plan->shape[d];
  }
  return offset;
}

/* Walks `rows` rows from `row`: the offset of each next one without divisions. */
typedef struct pw_walk {
  int64_t index[KILN_MAX_RANK];
  int64_t offset;
} pw_walk;
static pw_walk pw_walk_begin(const pw_plan *plan, const int64_t *strides, int64_t row) {
  pw_walk w = {.offset = pw_row_offset(plan, strides, row)};
  for (int d = plan->rank - 2; d >= 0; --d) {
    w.index[d] = row % plan->shape[d];
    row /= plan->shape[d];
  }
  return w;
}
static inline void pw_walk_next(const pw_plan *plan, const int64_t *strides, pw_walk *w) {
  for (int d = plan->rank - 2; d >= 0; --d) {
    w->offset += strides[d];
    if (++w->index[d] < plan->shape[d]) return;
    w->offset -= strides[d] * plan->shape[d];
    w->index[d] = 0;
  }
}

static void pw_load_rows(const pw_plan *plan, int operand, const char *data, const pw_tile *t, char *reg) {
  const pw_operand *o = &plan->program->operands[operand];
  const int64_t *strides = plan->strides[operand];
  const pw_load_fn load = plan->program->table->load[o->kind][o->type->dtype];
  const size_t from = kiln_dtype_size(o->type->dtype), to = pw_element(o->kind);
  const int64_t step = strides[plan->rank - 1];
  pw_walk w = pw_walk_begin(plan, strides, t->row);
  for (int64_t r = 0; r < t->rows; ++r) {
    load(reg + (size_t)(r * t->cols) * to, data + (w.offset + t->col * step) * (int64_t)from, step, t->cols);
    pw_walk_next(plan, strides, &w);
  }
}

/* The register of one operand for this tile. */
static void *pw_operand_register(const pw_plan *plan, const kernel_args *a, int operand, const pw_tile *t,
                                 char *scratch) {
  const pw_program *g = plan->program;
  const pw_operand *o = &g->operands[operand];
  const char *data = pw_data(a, o);
  const size_t size = kiln_dtype_size(o->type->dtype);
  char *reg = scratch + g->offset[o->reg];
  const bool direct = pw_is_native(o->kind, o->type->dtype) && t->count == t->padded;
  if (plan->access[operand] == PW_CONTIGUOUS) {
    const char *from = data + (size_t)(t->row * plan->inner + t->col) * size;
    if (direct) return (void *)(uintptr_t)from;
    g->table->load[o->kind][o->type->dtype](reg, from, 1, t->count);
  } else if (plan->access[operand] == PW_ROWS) {
    if (direct && t->rows == 1 && plan->strides[operand][plan->rank - 1] == 1) {
      return (void *)(uintptr_t)(data + (pw_row_offset(plan, plan->strides[operand], t->row) + t->col) * (int64_t)size);
    }
    pw_load_rows(plan, operand, data, t, reg);
  }
  return reg;
}

/* What does not change from tile to tile. */
static void pw_start_task(const pw_plan *plan, const kernel_args *a, char *scratch) {
  const pw_program *g = plan->program;
  for (int i = 0; i < g->n_operands; ++i) {
    const pw_operand *o = &g->operands[i];
    char *reg = scratch + g->offset[o->reg];
    if (plan->access[i] == PW_SCALAR) {
      const int64_t most = plan->rows * plan->inner < g->tile ? plan->rows * plan->inner : g->tile;
      g->table->load[o->kind][o->type->dtype](reg, pw_data(a, o), 0, (most + PW_LANES - 1) / PW_LANES * PW_LANES);
    } else if (plan->access[i] == PW_PERIODIC) {
      const pw_tile t = {0, plan->tile_rows < plan->rows ? plan->tile_rows : plan->rows, 0, plan->inner, 0, 0};
      pw_load_rows(plan, i, pw_data(a, o), &t, reg);
    }
  }
}

static void pw_store(const pw_plan *plan, const kernel_args *a, const pw_tile *t, const char *reg) {
  const pw_program *g = plan->program;
  const pw_kind kind = g->kinds[g->result];
  const pw_store_fn store = g->table->store[kind][g->result_dtype];
  const int64_t size = (int64_t)kiln_dtype_size(g->result_dtype);
  char *out = a->out[0].data;
  if (plan->out_contiguous) {
    store(out + (t->row * plan->inner + t->col) * size, 1, reg, t->count);
    return;
  }
  const int64_t step = plan->out_strides[plan->rank - 1];
  pw_walk w = pw_walk_begin(plan, plan->out_strides, t->row);
  for (int64_t r = 0; r < t->rows; ++r) {
    store(out + (w.offset + t->col * step) * size, step, reg + (size_t)(r * t->cols) * pw_element(kind), t->cols);
    pw_walk_next(plan, plan->out_strides, &w);
  }
}

/* Where the program may write its result directly; NULL: to the register. */
static void *pw_direct_result(const pw_plan *plan, const kernel_args *a, const pw_tile *t) {
  const pw_program *g = plan->program;
  if (t->count != t->padded || !pw_is_native(g->kinds[g->result], g->result_dtype)) return NULL;
  const int64_t size = (int64_t)kiln_dtype_size(g->result_dtype);
  if (plan->out_contiguous) return (char *)a->out[0].data + (t->row * plan->inner + t->col) * size;
  if (t->rows != 1 || plan->out_strides[plan->rank - 1] != 1) return NULL;
  return (char *)a->out[0].data + (pw_row_offset(plan, plan->out_strides, t->row) + t->col) * size;
}

static void pw_run_tile(const pw_plan *plan, const kernel_args *a, int64_t index, void **regs, char *scratch) {
  const pw_program *g = plan->program;
  pw_tile t;
  if (plan->tile_rows > 0) {
    t.row = index * plan->tile_rows;
    t.rows = plan->rows - t.row < plan->tile_rows ? plan->rows - t.row : plan->tile_rows;
    t.col = 0;
    t.cols = plan->inner;
  } else {
    t.row = index / plan->row_parts;
    t.rows = 1;
    t.col = index % plan->row_parts * plan->part;
    t.cols = plan->inner - t.col < plan->part ? plan->inner - t.col : plan->part;
  }
  t.count = t.rows * t.cols;
  t.padded = (t.count + PW_LANES - 1) / PW_LANES * PW_LANES;
  for (int i = 0; i < g->n_operands; ++i) {
    const pw_access access = plan->access[i];
    if (access == PW_CONTIGUOUS || access == PW_ROWS) {
      regs[g->operands[i].reg] = pw_operand_register(plan, a, i, &t, scratch);
    }
  }
  void *direct = pw_direct_result(plan, a, &t);
  char *own = scratch + g->offset[g->result];
  regs[g->result] = direct ? direct : own;
  pw_execute(g, regs, t.padded);
  if (!direct) pw_store(plan, a, &t, own);
}

typedef struct pw_job {
  const pw_plan *plan;
  const kernel_args *args;
} pw_job;

static void pw_task(void *user, int64_t task, int worker) {
  const pw_job *job = user;
  const pw_plan *plan = job->plan;
  const pw_program *g = plan->program;
  char *scratch = (char *)job->args->workspace + (size_t)worker * g->scratch;
  void *regs[1024];
  for (int32_t r = 0; r < g->n_regs; ++r) regs[r] = scratch + g->offset[r];
  for (int32_t i = 0; i < g->n_operands; ++i) {
    if (plan->access[i] == PW_FILLED) regs[g->operands[i].reg] = (void *)(uintptr_t)g->operands[i].filled;
  }
  pw_start_task(plan, job->args, scratch);
  const int64_t begin = plan->tiles * task / plan->tasks, end = plan->tiles * (task + 1) / plan->tasks;
  for (int64_t i = begin; i < end; ++i) pw_run_tile(plan, job->args, i, regs, scratch);
}

static kiln_status pw_run(const kernel_args *a) {
  pw_job job = {a->state, a};
  if (job.plan->tasks == 1)
    pw_task(&job, 0, 0);
  else if (job.plan->tasks > 1)
    pool_run(a->pool, job.plan->tasks, pw_task, &job);
  return KILN_OK;
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

#define PW_KERNEL(op_name, isa_name, isa_id) \
  {.op = op_name,                            \
   .name = "pointwise." #isa_name,           \
   .isa = isa_id,                            \
   .fits = pw_node_fits,                     \
   .prepare = pw_prepare_##isa_name,         \
   .run = pw_run,                            \
   .strided_in = KERNEL_STRIDED_ALL,         \
   .strided_out = 1,                         \
   .inplace = 0x7fffffffu},
#include "ops/pointwise_rows.h"
#define PW_ALL(isa) POINTWISE_ROWS(PW_F_##isa, PW_FI_##isa, PW_I_##isa)
#define PW_F_avx512(n, ...) PW_KERNEL(#n, avx512, ISA_AVX512)
#define PW_FI_avx512(n, ...) PW_KERNEL(#n, avx512, ISA_AVX512)
#define PW_I_avx512(n, ...) PW_KERNEL(#n, avx512, ISA_AVX512)
#define PW_F_avx2(n, ...) PW_KERNEL(#n, avx2, ISA_AVX2)
#define PW_FI_avx2(n, ...) PW_KERNEL(#n, avx2, ISA_AVX2)
#define PW_I_avx2(n, ...) PW_KERNEL(#n, avx2, ISA_AVX2)
#define PW_F_scalar(n, ...) PW_KERNEL(#n, scalar, ISA_SCALAR)
#define PW_FI_scalar(n, ...) PW_KERNEL(#n, scalar, ISA_SCALAR)
#define PW_I_scalar(n, ...) PW_KERNEL(#n, scalar, ISA_SCALAR)

const kernel pointwise_kernels_avx512[] = {PW_KERNEL("pointwise", avx512, ISA_AVX512)
                                               PW_KERNEL("cast", avx512, ISA_AVX512) PW_ALL(avx512){.op = NULL}};
const kernel pointwise_kernels_avx2[] = {PW_KERNEL("pointwise", avx2, ISA_AVX2) PW_KERNEL("cast", avx2, ISA_AVX2)
                                             PW_ALL(avx2){.op = NULL}};
const kernel pointwise_kernels_scalar[] = {PW_KERNEL("pointwise", scalar, ISA_SCALAR)
                                               PW_KERNEL("cast", scalar, ISA_SCALAR) PW_ALL(scalar){.op = NULL}};
