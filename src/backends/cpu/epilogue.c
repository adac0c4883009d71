/* Epilogues run the pointwise engine's programs over tiles of an anchor's output. A tile that is one run of memory is
 * worked on in place; any other is packed into the program's register first, so that loops are long whatever the tile's
 * width. */
#include "backends/cpu/epilogue.h"

#include <math.h>
#include <string.h>

#include "backends/cpu/pointwise.h"
#include "base/cpu_features.h"
#include "base/memory.h"

typedef enum ep_access {
  EP_TILE,    /* the anchor's values */
  EP_FILLED,  /* constant of one element */
  EP_SCALAR,  /* one element */
  EP_COLUMNS, /* the same for every row */
  EP_ROWS     /* anything else */
} ep_access;

struct epilogue {
  pw_program *program;
  int32_t tile_operand; /* -1: the chain ignores the anchor's value */
  bool is_clamp;
  float lo, hi;
  int32_t rank; /* of the rows' index space */
  int64_t shape[KILN_MAX_RANK];
  int64_t (*strides)[KILN_MAX_RANK]; /* over rows, of each operand */
  int64_t *column_stride;
  ep_access *access;
};

bool epilogue_fits(const node *n, const char **why) {
  if (!n->epilogue) return true;
  if (n->epilogue->n_params < 1 || n->epilogue->n_params != 1 + n->n_inputs - n->own_inputs) {
    return *why = "malformed epilogue", false;
  }
  if (n->n_outputs != 1 || n->outputs[0]->type.dtype != KILN_F32)
    return *why = "the epilogue's result is not f32", false;
  if (n->epilogue->params[0]->type.dtype != KILN_F32) return *why = "the anchor's result is not f32", false;
  return pw_block_fits(n->epilogue, why);
}

static int epilogue_isa(const node *n) {
  int isa = (int)cpu_best_isa();
  const char *dot = n->tactic ? strrchr(n->tactic, '.') : NULL;
  for (int i = 0; dot && i < isa; ++i) {
    if (strcmp(dot + 1, cpu_isa_name((cpu_isa)i)) == 0) return i;
  }
  return isa;
}

/* Recognizes chains of relu and clamp that end in one interval. */
static bool epilogue_find_clamp(const block *b, float *lo, float *hi) {
  const value *v = b->params[0];
  *lo = -INFINITY;
  *hi = INFINITY;
  for (const node *n = b->first; n; n = n->next) {
    if (n->n_inputs != 1 || n->inputs[0].v != v) return false;
    float low, high;
    if (strcmp(n->op->name, "relu") == 0)
      low = 0.0f, high = INFINITY;
    else if (strcmp(n->op->name, "clamp") == 0)
      low = (float)node_float(n, "min"), high = (float)node_float(n, "max");
    else
      return false;
    if (!(low <= high) || low > *hi || high < *lo) return false;
    if (low > *lo) *lo = low;
    if (high < *hi) *hi = high;
    v = n->outputs[0];
  }
  return b->n_results == 1 && b->results[0].v == v;
}

/* Row dimensions that all operands walk through at one stride are joined. */
static void epilogue_collapse(epilogue *e, const tensor *out) {
  const pw_program *g = e->program;
  int64_t full[KILN_MAX_RANK];
  int rank = 0;
  for (int d = 0; d + 1 < out->rank; ++d) {
    if (out->shape[d] == 1) continue;
    bool join = rank > 0;
    for (int i = 0; i < g->n_operands; ++i) {
      const tensor *t = g->operands[i].type;
      const int k = t ? d - (out->rank - t->rank) : -1;
      full[0] = k < 0 || t->shape[k] == 1 ? 0 : t->strides[k];
      if (rank > 0) join &= e->strides[i][rank - 1] == full[0] * out->shape[d];
    }
    if (join)
      e->shape[rank - 1] *= out->shape[d];
    else
      e->shape[rank++] = out->shape[d];
    for (int i = 0; i < g->n_operands; ++i) {
      const tensor *t = g->operands[i].type;
      const int k = t ? d - (out->rank - t->rank) : -1;
      e->strides[i][rank - 1] = k < 0 || t->shape[k] == 1 ? 0 : t->strides[k];
    }
  }
  e->rank = rank;
}

kiln_status epilogue_compile(kernel_prep *p, const block *chain, epilogue **out) {
  *out = NULL;
  if (!chain) return KILN_OK;
  epilogue *e = ARENA_NEW(p->arena, epilogue);
  if (!e) return KILN_NO_MEMORY("epilogue");
  const pw_table *table = pw_table_of(epilogue_isa(p->args.node));
  KILN_TRY(pw_compile_block(p, table, chain, p->args.node->own_inputs, true, &e->program));
  const pw_program *g = e->program;
  e->is_clamp = epilogue_find_clamp(chain, &e->lo, &e->hi);
  e->strides = arena_array(p->arena, (size_t)g->n_operands + 1, sizeof *e->strides);
  e->column_stride = ARENA_ARRAY(p->arena, int64_t, g->n_operands + 1);
  e->access = ARENA_ARRAY(p->arena, ep_access, g->n_operands + 1);
  if (!e->strides || !e->column_stride || !e->access) return KILN_NO_MEMORY("epilogue");
  const tensor *to = &p->args.out[0];
  for (int i = 0; i < g->n_operands; ++i) {
    if (g->operands[i].arg != PW_TILE_ARG) KILN_TRY(pw_check_broadcast(p->args.node, i, g->operands[i].type, to));
  }
  epilogue_collapse(e, to);
  e->tile_operand = -1;
  for (int i = 0; i < g->n_operands; ++i) {
    const pw_operand *o = &g->operands[i];
    if (o->arg == PW_TILE_ARG) {
      e->access[i] = EP_TILE;
      e->tile_operand = i;
      continue;
    }
    const tensor *t = o->type;
    e->column_stride[i] = t->rank < 1 || t->shape[t->rank - 1] == 1 ? 0 : t->strides[t->rank - 1];
    bool same_rows = true;
    for (int d = 0; d < e->rank; ++d) same_rows &= e->strides[i][d] == 0;
    e->access[i] = o->filled ? EP_FILLED : tensor_numel(t) == 1 ? EP_SCALAR : same_rows ? EP_COLUMNS : EP_ROWS;
  }
  *out = e;
  return KILN_OK;
}

bool epilogue_clamp(const epilogue *e, float *lo, float *hi) {
  *lo = e ? e->lo : -INFINITY;
  *hi = e ? e->hi : INFINITY;
  return !e || e->is_clamp;
}

size_t epilogue_scratch(const epilogue *e) { return e ? e->program->scratch : 0; }

/* ---- Apply ------------------------------------------------------------------------------------------------------- */

typedef struct ep_chunk {
  int64_t row, rows, col, cols;
  int64_t count, padded;
} ep_chunk;

static int64_t epilogue_row_offset(const epilogue *e, const int64_t *strides, int64_t row) {
  int64_t offset = 0;
  for (int d = e->rank - 1; d > 0; --d) {
    offset += row % e->shape[d] * strides[d];
    row /= e->shape[d];
  }
  return e->rank > 0 ? offset + row * strides[0] : offset;
}

static void *epilogue_operand(const epilogue *e, const kernel_args *a, int operand, const ep_chunk *c, bool first,
                              char *reg) {
  const pw_program *g = e->program;
  const pw_operand *o = &g->operands[operand];
  const pw_load_fn load = g->table->load[o->kind][o->type->dtype];
  const char *data = o->arg >= 0 ? a->in[o->arg].data : o->type->data;
  const size_t size = kiln_dtype_size(o->type->dtype), row_bytes = (size_t)c->cols * pw_element(o->kind);
  const int64_t step = e->column_stride[operand];
  const bool direct = pw_is_native(o->kind, o->type->dtype) && c->rows == 1 && c->count == c->padded && step == 1;
  if (e->access[operand] == EP_SCALAR) {
    if (first) load(reg, data, 0, c->padded);
    return reg;
  }
  if (e->access[operand] == EP_COLUMNS) {
    const char *from = data + c->col * step * (int64_t)size;
    if (direct) return (void *)(uintptr_t)from;
    if (!first) return reg;
    load(reg, from, step, c->cols);
    for (int64_t r = 1; r < c->rows; ++r) memcpy(reg + (size_t)r * row_bytes, reg, row_bytes);
    return reg;
  }
  const int64_t *strides = e->strides[operand];
  int64_t offset = epilogue_row_offset(e, strides, c->row) + c->col * step;
  const bool one_run =
      step == 1 && e->rank == 1 && strides[0] == c->cols; /* whole rows of an operand laid out as the output */
  if (direct || (one_run && pw_is_native(o->kind, o->type->dtype) && c->count == c->padded)) {
    return (void *)(uintptr_t)(data + offset * (int64_t)size);
  }
  for (int64_t r = 0; r < c->rows; ++r) {
    load(reg + (size_t)r * row_bytes, data + offset * (int64_t)size, step, c->cols);
    if (e->rank <= 1)
      offset += e->rank == 1 ? strides[0] : 0;
    else if (r + 1 < c->rows)
      offset = epilogue_row_offset(e, strides, c->row + r + 1) + c->col * step;
  }
  return reg;
}

static void epilogue_chunk(const epilogue *e, const kernel_args *a, float *tile, int64_t ld, const ep_chunk *c,
                           bool first, void **regs, char *scratch) {
  const pw_program *g = e->program;
  const bool in_place = c->count == c->padded && (c->rows == 1 || ld == c->cols);
  const size_t row_bytes = (size_t)c->cols * sizeof(float);
  for (int i = 0; i < g->n_operands; ++i) {
    const pw_operand *o = &g->operands[i];
    char *reg = scratch + g->offset[o->reg];
    if (e->access[i] == EP_FILLED) continue;
    if (e->access[i] != EP_TILE) {
      regs[o->reg] = epilogue_operand(e, a, i, c, first, reg);
    } else if (in_place) {
      regs[o->reg] = tile;
    } else {
      for (int64_t r = 0; r < c->rows; ++r) memcpy(reg + (size_t)r * row_bytes, tile + r * ld, row_bytes);
      regs[o->reg] = reg;
    }
  }
  char *result = scratch + g->offset[g->result];
  regs[g->result] = in_place ? (void *)tile : (void *)result;
  pw_execute(g, regs, c->padded);
  if (in_place) return;
  for (int64_t r = 0; r < c->rows; ++r) memcpy(tile + r * ld, result + (size_t)r * row_bytes, row_bytes);
}

void epilogue_apply(const epilogue *e, const kernel_args *a, float *tile, int64_t row0, int64_t rows, int64_t col0,
                    int64_t cols, int64_t ld, void *scratch) {
  if (!e || rows <= 0 || cols <= 0) return;
  const pw_program *g = e->program;
  void *regs[1024];
  char *space = scratch;
  for (int32_t r = 0; r < g->n_regs; ++r) regs[r] = space + g->offset[r];
  for (int32_t i = 0; i < g->n_operands; ++i) {
    if (g->operands[i].filled) regs[g->operands[i].reg] = (void *)(uintptr_t)g->operands[i].filled;
  }
  const int64_t width = cols < g->tile ? cols : g->tile;
  for (int64_t c0 = 0; c0 < cols; c0 += width) {
    const int64_t part = cols - c0 < width ? cols - c0 : width;
    const int64_t height = g->tile / part < rows ? g->tile / part : rows;
    for (int64_t r0 = 0; r0 < rows; r0 += height) {
      ep_chunk c = {row0 + r0, rows - r0 < height ? rows - r0 : height, col0 + c0, part, 0, 0};
      c.count = c.rows * c.cols;
      c.padded = (c.count + PW_LANES - 1) / PW_LANES * PW_LANES;
      epilogue_chunk(e, a, tile + r0 * ld + c0, ld, &c, r0 == 0, regs, space);
    }
  }
}
