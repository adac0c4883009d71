/* From pointwise nodes to a register program. Every value of the block gets a register; operands are loaded into theirs
 * (or point into memory directly), results reuse registers that died. Mixed blocks (integers, bool, floats) get
 * conversions where kinds meet: bool is 0/1 in either kind and stays in the kind of the instruction that made it. */
#include <math.h>
#include <string.h>

#include "backends/cpu/pointwise.h"
#include "base/cpu_features.h"
#include "base/memory.h"

enum { PW_REGS_MAX = 1024 };

/* Rows in the order of ops/pointwise_rows.h, which is also that of pw_table.op. */
typedef struct pw_row {
  const char *name;
  bool is_bool; /* of the result */
  bool on_float, on_int;
} pw_row;
enum { SAME = 0, BOOL = 1 };
#define PW_ROW_F(name, arity, result, attrs, flags, tolerance, cases, expression) {#name, result == BOOL, true, false},
#define PW_ROW_FI(name, arity, result, attrs, flags, tolerance, cases, expression, integers) \
  {#name, result == BOOL, true, true},
#define PW_ROW_I(name, arity, result, attrs, flags, tolerance, cases, integers) {#name, result == BOOL, false, true},
#include "ops/pointwise_rows.h"
static const pw_row pw_rows[] = {POINTWISE_ROWS(PW_ROW_F, PW_ROW_FI, PW_ROW_I)};

const pw_table *pw_table_of(int isa) {
  return isa >= ISA_AVX512 ? &pw_table_avx512 : isa >= ISA_AVX2 ? &pw_table_avx2 : &pw_table_scalar;
}

static int pw_row_index(const char *name) {
  for (size_t i = 0; i < KILN_COUNT(pw_rows); ++i) {
    if (strcmp(pw_rows[i].name, name) == 0) return (int)i;
  }
  return -1;
}

/* ---- What fits --------------------------------------------------------------------------------------------------- */

static bool pw_dtype_fits(kiln_dtype d) { return d != KILN_F64 && d < KILN_DTYPE_COUNT; }
static bool pw_float(kiln_dtype d) { return d == KILN_F32 || d == KILN_F16 || d == KILN_BF16; }

/* Kind that the operands of `n` are brought to. `where` decides by its values, not by its condition. False: no loop for
 * it. */
static bool pw_compute_kind(const node *n, int row, const pw_kind *kinds, pw_kind *out) {
  const int first = strcmp(pw_rows[row].name, "where") == 0 ? 1 : 0;
  bool any_float = false, any_int = false, bool_in_float = true;
  for (int i = first; i < n->n_inputs; ++i) {
    const kiln_dtype d = n->inputs[i].v->type.dtype;
    any_float |= pw_float(d);
    any_int |= d != KILN_BOOL && !pw_float(d);
    bool_in_float &= !kinds || kinds[i] == PW_FLOAT;
  }
  if (any_float && any_int) return false; /* operands have one dtype; the importer casts */
  if (any_float)
    *out = PW_FLOAT;
  else if (any_int)
    *out = PW_INT;
  else
    *out = (bool_in_float && pw_rows[row].on_float) || !pw_rows[row].on_int ? PW_FLOAT : PW_INT;
  return *out == PW_FLOAT ? pw_rows[row].on_float : pw_rows[row].on_int;
}

static bool pw_op_fits(const node *n, const char **why) {
  for (int i = 0; i < n->n_inputs; ++i) {
    if (!n->inputs[i].v || !pw_dtype_fits(n->inputs[i].v->type.dtype))
      return *why = "an operand is absent or f64", false;
    if (n->inputs[i].v->constant && n->inputs[i].v->constant->packing) return *why = "a constant is packed", false;
  }
  if (n->n_outputs != 1 || !pw_dtype_fits(n->outputs[0]->type.dtype)) return *why = "the result is f64", false;
  if (n->n_blocks > 0 || n->epilogue) return *why = "has blocks", false;
  if (strcmp(n->op->name, "cast") == 0) return true;
  const int row = pw_row_index(n->op->name);
  pw_kind kind;
  if (row < 0 || n->n_inputs > 3) return *why = "not a pointwise operator", false;
  if (!pw_compute_kind(n, row, NULL, &kind)) return *why = "no loop for these dtypes", false;
  return true;
}

bool pw_block_fits(const block *b, const char **why) {
  int count = 0;
  if (b->n_results != 1) return *why = "not one result", false;
  for (const node *n = b->first; n; n = n->next, ++count) {
    if (!pw_op_fits(n, why)) return false;
  }
  if (count > PW_REGS_MAX / 8 || b->n_params > PW_OPERANDS_MAX / 2) return *why = "too long a chain", false;
  for (int i = 0; i < b->n_params; ++i) {
    if (!pw_dtype_fits(b->params[i]->type.dtype)) return *why = "f64 operand", false;
  }
  return true;
}

bool pw_node_fits(const node *n, const char **why) {
  if (n->n_blocks == 1 && strcmp(n->op->name, "pointwise") == 0) {
    if (n->n_inputs != n->blocks[0]->n_params || n->n_inputs == 0) return *why = "malformed body", false;
    return pw_block_fits(n->blocks[0], why);
  }
  return pw_op_fits(n, why);
}

/* ---- Compiling --------------------------------------------------------------------------------------------------- */

typedef struct pw_compiler {
  arena *arena;
  const kernel_prep *prep;
  pw_program *g;
  int32_t n_values, limit;
  const value **values; /* of the block, with their registers */
  int32_t *regs;
  kiln_dtype *dtypes; /* by register: what it holds */
} pw_compiler;

static kiln_status pw_too_long(void) {
  return KILN_FAIL(KILN_UNSUPPORTED, "pointwise chain: more than %d values; split it", PW_REGS_MAX);
}

static kiln_status pw_new_reg(pw_compiler *c, pw_kind kind, kiln_dtype dtype, int32_t *out) {
  if (c->g->n_regs == c->limit) return pw_too_long();
  c->g->kinds[c->g->n_regs] = kind;
  c->dtypes[c->g->n_regs] = dtype;
  *out = c->g->n_regs++;
  return KILN_OK;
}

static kiln_status pw_emit(pw_compiler *c, pw_fn fn, pw_kind kind, kiln_dtype dtype, int n_in, const int32_t *in,
                           const double *p, int32_t *out) {
  if (!fn) return KILN_FAIL(KILN_UNSUPPORTED, "pointwise chain: no loop for a result of %s", kiln_dtype_name(dtype));
  KILN_TRY(pw_new_reg(c, kind, dtype, out));
  pw_instr *i = &c->g->instrs[c->g->n_instrs++]; /* as many as registers at most */
  i->fn = fn;
  i->out = *out;
  for (int k = 0; k < 3; ++k) i->in[k] = k < n_in ? in[k] : in[0];
  for (int k = 0; k < 4; ++k) i->p[k] = p ? p[k] : 0.0;
  return KILN_OK;
}

static kiln_status pw_bind(pw_compiler *c, const value *v, int32_t reg) {
  if (c->n_values == c->limit) return pw_too_long();
  c->values[c->n_values] = v;
  c->regs[c->n_values++] = reg;
  return KILN_OK;
}

static kiln_status pw_add_operand(pw_compiler *c, int32_t arg, kiln_dtype dtype, const tensor *fixed, int32_t *out) {
  pw_program *g = c->g;
  if (g->n_operands == PW_OPERANDS_MAX) {
    return KILN_FAIL(KILN_UNSUPPORTED, "pointwise chain: more than %d operands; split it", PW_OPERANDS_MAX);
  }
  pw_operand *o = &g->operands[g->n_operands++];
  o->arg = arg;
  o->kind = pw_float(dtype) || dtype == KILN_BOOL ? PW_FLOAT : PW_INT;
  if (fixed) {
    o->constant = *fixed;
    o->type = &o->constant;
  } else if (arg >= 0) {
    o->type = &c->prep->args.in[arg];
  }
  KILN_TRY(pw_new_reg(c, o->kind, dtype, out));
  o->reg = *out;
  return KILN_OK;
}

static kiln_status pw_constant_operand(pw_compiler *c, const value *v, int32_t *out) {
  tensor t = {.data = (void *)(uintptr_t)v->constant->data, .dtype = v->type.dtype, .rank = v->type.rank};
  for (int d = 0; d < t.rank; ++d) t.shape[d] = v->type.dims[d];
  tensor_make_contiguous_strides(&t);
  return pw_add_operand(c, -1, t.dtype, &t, out);
}

static kiln_status pw_value_reg(pw_compiler *c, const value *v, int32_t *out) {
  for (int32_t i = c->n_values; i-- > 0;) {
    if (c->values[i] == v) return *out = c->regs[i], KILN_OK;
  }
  if (!v->constant) return KILN_FAIL(KILN_INTERNAL, "pointwise chain: a value comes from outside of its block");
  KILN_TRY(pw_constant_operand(c, v, out));
  return pw_bind(c, v, *out);
}

static kiln_status pw_to_kind(pw_compiler *c, pw_kind kind, int32_t *reg) {
  if (c->g->kinds[*reg] == kind) return KILN_OK;
  const kiln_dtype d = c->dtypes[*reg];
  const pw_fn fn = kind == PW_FLOAT ? c->g->table->int_to_float : c->g->table->float_to_int[KILN_I64];
  const int32_t in = *reg;
  return pw_emit(c, fn, kind, d, 1, &in, NULL, reg);
}

static kiln_status pw_compile_cast(pw_compiler *c, const node *n, int32_t reg, int32_t *out) {
  const pw_table *t = c->g->table;
  const kiln_dtype from = c->dtypes[reg], to = n->outputs[0]->type.dtype;
  const pw_kind kind = c->g->kinds[reg];
  *out = reg;
  if (to == from) return KILN_OK;
  if (to == KILN_BOOL) return pw_emit(c, t->nonzero[kind], kind, to, 1, &reg, NULL, out);
  if (pw_float(to)) {
    if (kind == PW_INT) KILN_TRY(pw_emit(c, t->int_to_float, PW_FLOAT, KILN_F32, 1, &reg, NULL, out));
    reg = *out;
  } else if (kind == PW_FLOAT) {
    return pw_emit(c, from == KILN_BOOL ? t->float_to_int[KILN_I64] : t->float_to_int[to], PW_INT, to, 1, &reg, NULL,
                   out);
  }
  const bool holds = from == KILN_BOOL || (from == KILN_F16 && to == KILN_F32) || (from == KILN_BF16 && to == KILN_F32);
  if (!holds && t->wrap[to]) return pw_emit(c, t->wrap[to], c->g->kinds[reg], to, 1, &reg, NULL, out);
  if (*out == reg && c->dtypes[reg] != to) { /* the same bits under another type: a copy keeps registers simple */
    return pw_emit(c, t->copy[c->g->kinds[reg]], c->g->kinds[reg], to, 1, &reg, NULL, out);
  }
  return KILN_OK;
}

static kiln_status pw_compile_op(pw_compiler *c, const node *n) {
  int32_t in[3] = {0}, out;
  pw_kind kinds[3];
  const pw_table *t = c->g->table;
  if (n->n_inputs < 1 || n->n_inputs > 3) return KILN_FAIL(KILN_INTERNAL, "%s: not a pointwise operator", n->op->name);
  for (int i = 0; i < n->n_inputs; ++i) {
    KILN_TRY(pw_value_reg(c, n->inputs[i].v, &in[i]));
    kinds[i] = c->g->kinds[in[i]];
  }
  if (strcmp(n->op->name, "cast") == 0) {
    KILN_TRY(pw_compile_cast(c, n, in[0], &out));
    return pw_bind(c, n->outputs[0], out);
  }
  int row = pw_row_index(n->op->name);
  const kiln_dtype to = n->outputs[0]->type.dtype;
  if (row >= 0 && to == KILN_BOOL && strcmp(n->op->name, "bitwise_not") == 0) row = pw_row_index("logical_not");
  pw_kind kind;
  if (row < 0 || !pw_compute_kind(n, row, kinds, &kind)) {
    return KILN_FAIL(KILN_UNSUPPORTED, "%s: no CPU loop for these operands", n->op->name);
  }
  for (int i = 0; i < n->n_inputs; ++i) KILN_TRY(pw_to_kind(c, kind, &in[i]));
  double p[4] = {0};
  const op_schema *schema = op_schema_of(n->op);
  for (int i = 0, k = 0; schema && i < schema->n_attrs && k < 4; ++i) {
    if (n->attrs[i].kind == ATTR_FLOAT) p[k++] = n->attrs[i].u.f;
  }
  KILN_TRY(pw_emit(c, t->op[kind][row], kind, to, n->n_inputs, in, p, &out));
  if (!pw_rows[row].is_bool) {
    const pw_fn fix = to == KILN_BOOL ? t->nonzero[kind] : t->wrap[to];
    const int32_t raw = out;
    if (fix) KILN_TRY(pw_emit(c, fix, kind, to, 1, &raw, NULL, &out));
  }
  return pw_bind(c, n->outputs[0], out);
}

/* Scratch places: operands keep theirs for the whole tile, results of instructions share by last use. */
static kiln_status pw_allocate(pw_compiler *c) {
  pw_program *g = c->g;
  int32_t *last = ARENA_ARRAY(c->arena, int32_t, g->n_regs);
  int32_t *place = ARENA_ARRAY(c->arena, int32_t, g->n_regs);
  int32_t *free_places = ARENA_ARRAY(c->arena, int32_t, 2 * g->n_regs);
  pw_kind *place_kind = ARENA_ARRAY(c->arena, pw_kind, g->n_regs);
  g->offset = ARENA_ARRAY(c->arena, size_t, g->n_regs);
  if (!last || !place || !free_places || !place_kind || !g->offset) return KILN_NO_MEMORY("pointwise program");
  int32_t n_places = 0, n_free = 0;
  for (int32_t r = 0; r < g->n_regs; ++r) place[r] = -1, last[r] = -1;
  for (int32_t i = 0; i < g->n_instrs; ++i) {
    for (int k = 0; k < 3; ++k) last[g->instrs[i].in[k]] = i;
  }
  last[g->result] = g->n_instrs;
  for (int32_t i = 0; i < g->n_operands; ++i) {
    place[g->operands[i].reg] = n_places;
    place_kind[n_places++] = g->operands[i].kind;
    last[g->operands[i].reg] = g->n_instrs;
  }
  for (int32_t i = 0; i < g->n_instrs; ++i) {
    const pw_instr *ins = &g->instrs[i];
    for (int k = 0; k < 3; ++k) { /* freed before the result is placed: loops may work in place */
      const int32_t r = ins->in[k];
      if (last[r] == i && place[r] >= 0) free_places[n_free++] = place[r], last[r] = -1;
    }
    int32_t found = -1;
    for (int32_t f = n_free; f-- > 0 && found < 0;) {
      if (place_kind[free_places[f]] != g->kinds[ins->out]) continue;
      found = free_places[f];
      free_places[f] = free_places[--n_free];
    }
    if (found < 0) place_kind[found = n_places++] = g->kinds[ins->out];
    place[ins->out] = found;
    if (last[ins->out] < 0) last[ins->out] = g->n_instrs; /* never used: keep it simple */
  }
  size_t unit = 0;
  for (int32_t k = 0; k < n_places; ++k) unit += pw_element(place_kind[k]);
  g->tile = PW_TILE;
  while (g->tile > PW_TILE_MIN && unit * (size_t)g->tile > 24u * 1024u) g->tile /= 2;
  size_t at = 0;
  for (int32_t k = 0; k < n_places; ++k) {
    for (int32_t r = 0; r < g->n_regs; ++r) {
      if (place[r] == k) g->offset[r] = at;
    }
    at += pw_element(place_kind[k]) * (size_t)g->tile;
  }
  g->scratch = size_align(at, 64);
  return KILN_OK;
}

/* A constant of one element becomes a whole register once, for all threads. */
static kiln_status pw_fill_constants(pw_compiler *c) {
  pw_program *g = c->g;
  for (int32_t i = 0; i < g->n_operands; ++i) {
    pw_operand *o = &g->operands[i];
    const tensor *t = o->type;
    const void *data = t && o->arg == -1 ? t->data : NULL;
    if (!data || tensor_numel(t) != 1) continue;
    const pw_load_fn load = g->table->load[o->kind][t->dtype];
    void *filled = arena_array(c->arena, (size_t)g->tile, pw_element(o->kind));
    if (!filled) return KILN_NO_MEMORY("pointwise program");
    load(filled, data, 0, g->tile);
    o->filled = filled;
  }
  return KILN_OK;
}

static kiln_status pw_finish(pw_compiler *c, const value *result) {
  pw_program *g = c->g;
  KILN_TRY(pw_value_reg(c, result, &g->result));
  g->result_dtype = result->type.dtype;
  bool from_operand = false;
  for (int32_t i = 0; i < g->n_operands; ++i) from_operand |= g->operands[i].reg == g->result;
  if (from_operand) {
    const int32_t in = g->result;
    KILN_TRY(pw_emit(c, g->table->copy[g->kinds[in]], g->kinds[in], g->result_dtype, 1, &in, NULL, &g->result));
  }
  if (!g->table->store[g->kinds[g->result]][g->result_dtype]) {
    return KILN_FAIL(KILN_UNSUPPORTED, "pointwise chain: cannot store a result of %s",
                     kiln_dtype_name(g->result_dtype));
  }
  KILN_TRY(pw_allocate(c));
  return pw_fill_constants(c);
}

/* Each node needs at most its result, a conversion of each operand, a wrapped result, and a register for each
 * constant. */
static pw_compiler *pw_begin(kernel_prep *p, const pw_table *table, int n_params, const node *first, const node *end) {
  int32_t limit = n_params + 2;
  for (const node *n = first; n != end && limit < PW_REGS_MAX; n = n->next) limit += 2 + 2 * n->n_inputs;
  if (limit > PW_REGS_MAX) limit = PW_REGS_MAX;
  pw_compiler *c = ARENA_NEW(p->arena, pw_compiler);
  pw_program *g = ARENA_NEW(p->arena, pw_program);
  if (!c || !g) return NULL;
  g->table = table;
  g->operands = ARENA_ARRAY(p->arena, pw_operand, PW_OPERANDS_MAX);
  g->instrs = ARENA_ARRAY(p->arena, pw_instr, limit);
  g->kinds = ARENA_ARRAY(p->arena, pw_kind, limit);
  c->limit = limit;
  c->values = ARENA_ARRAY(p->arena, const value *, limit);
  c->regs = ARENA_ARRAY(p->arena, int32_t, limit);
  c->dtypes = ARENA_ARRAY(p->arena, kiln_dtype, limit);
  c->arena = p->arena;
  c->prep = p;
  c->g = g;
  return g->operands && g->instrs && g->kinds && c->values && c->regs && c->dtypes ? c : NULL;
}

kiln_status pw_compile_block(kernel_prep *p, const pw_table *table, const block *b, int first_arg, bool first_is_tile,
                             pw_program **out) {
  pw_compiler *c = pw_begin(p, table, b->n_params, b->first, NULL);
  if (!c) return KILN_NO_MEMORY("pointwise program");
  for (int i = 0; i < b->n_params; ++i) {
    const int arg = first_is_tile ? (i == 0 ? PW_TILE_ARG : first_arg + i - 1) : first_arg + i;
    int32_t reg;
    if (arg >= p->args.n_in) return KILN_FAIL(KILN_INTERNAL, "pointwise chain: operand %d is missing", i);
    KILN_TRY(pw_add_operand(c, arg, b->params[i]->type.dtype, NULL, &reg));
    KILN_TRY(pw_bind(c, b->params[i], reg));
  }
  for (const node *n = b->first; n; n = n->next) KILN_TRY(pw_compile_op(c, n));
  KILN_TRY(pw_finish(c, b->results[0].v));
  *out = c->g;
  return KILN_OK;
}

kiln_status pw_compile_node(kernel_prep *p, const pw_table *table, const node *n, pw_program **out) {
  if (n->n_blocks == 1) return pw_compile_block(p, table, n->blocks[0], 0, false, out);
  pw_compiler *c = pw_begin(p, table, n->n_inputs, n, n->next);
  if (!c) return KILN_NO_MEMORY("pointwise program");
  for (int i = 0; i < n->n_inputs; ++i) {
    const value *v = n->inputs[i].v;
    int32_t reg;
    bool seen = false;
    for (int k = 0; k < i; ++k) seen |= n->inputs[k].v == v; /* x * x */
    if (seen) continue;
    KILN_TRY(pw_add_operand(c, v->constant ? -1 : i, v->type.dtype, v->constant ? &p->args.in[i] : NULL, &reg));
    KILN_TRY(pw_bind(c, v, reg));
  }
  KILN_TRY(pw_compile_op(c, n));
  KILN_TRY(pw_finish(c, n->outputs[0]));
  *out = c->g;
  return KILN_OK;
}

kiln_status pw_check_broadcast(const node *n, int operand, const tensor *t, const tensor *out) {
  bool fits = t->rank <= out->rank;
  for (int d = 0; fits && d < t->rank; ++d) {
    fits = t->shape[d] == 1 || t->shape[d] == out->shape[d + out->rank - t->rank];
  }
  if (fits) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: the sizes of operand %d do not broadcast to those of the result",
                   n->op->name, operand);
}

void pw_execute(const pw_program *g, void *const *regs, int64_t n) {
  for (int32_t i = 0; i < g->n_instrs; ++i) {
    const pw_instr *ins = &g->instrs[i];
    ins->fn(regs[ins->out], regs[ins->in[0]], regs[ins->in[1]], regs[ins->in[2]], n, ins->p);
  }
}
