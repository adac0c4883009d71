/* Text of pointwise chains and epilogues, see codegen.h. Inside a chain floats stay f32 (f64 for f64) and integers are 64 bits wide, as in
 * the CPU's chains; rounding happens at casts and at the end. */
#include "backends/cuda/codegen.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backends/cuda/internal.h"
#include "base/memory.h"
#include "ops/ref.h"

/* ---- types ---------------------------------------------------------------------------------------------------------- */

const char *cuda_type(kiln_dtype d) {
  static const char *const names[KILN_DTYPE_COUNT] = {
      [KILN_F32] = "float",      [KILN_F64] = "double",       [KILN_F16] = "f16",   [KILN_BF16] = "bf16",
      [KILN_I8] = "signed char", [KILN_U8] = "unsigned char", [KILN_I16] = "short", [KILN_I32] = "int",
      [KILN_I64] = "long long",  [KILN_BOOL] = "bool"};
  return names[d];
}

const char *cuda_value_type(kiln_dtype d) {
  if (cuda_is_float(d)) return "float";
  return d == KILN_F64 ? "double" : d == KILN_BOOL ? "bool" : "i64";
}

void cuda_widen(text *t, kiln_dtype d, const char *element) {
  if (cuda_is_float(d))
    text_printf(t, "to_float(%s)", element);
  else
    text_printf(t, "(%s)(%s)", cuda_value_type(d), element);
}

void cuda_narrow(text *t, kiln_dtype d, const char *v) {
  if (cuda_is_float(d))
    text_printf(t, "from_float<%s>(%s)", cuda_type(d), v);
  else
    text_printf(t, "(%s)(%s)", cuda_type(d), v);
}

bool cuda_fits_float(const node *n, const char **why) {
  kiln_dtype d = KILN_DTYPE_COUNT;
  for (int i = 0; i < n->n_inputs + n->n_outputs; ++i) {
    const value *v = i < n->n_inputs ? n->inputs[i].v : n->outputs[i - n->n_inputs];
    if (!v || (i >= n->own_inputs && i < n->n_inputs)) continue;
    if (!cuda_is_float(v->type.dtype)) return *why = "an operand or result is not f32, f16 or bf16", false;
    if (d != KILN_DTYPE_COUNT && d != v->type.dtype) return *why = "operands and results differ in type", false;
    d = v->type.dtype;
  }
  return true;
}

cuda_math cuda_math_of(const node *n) {
  const char *precision = graph_metadata(n->parent->graph, "kiln.precision");
  if (n->path && str_ends(n->path, EXACT_PATH)) return CUDA_MATH_FP32;
  return precision && strcmp(precision, "fp32") != 0 ? CUDA_MATH_TF32 : CUDA_MATH_FP32;
}

void cuda_literal(text *t, kiln_dtype d, double v, int64_t i) {
  if (d == KILN_BOOL) {
    text_puts(t, i ? "true" : "false");
  } else if (!cuda_is_float(d) && d != KILN_F64) {
    if (i == INT64_MIN)
      text_puts(t, "(-9223372036854775807LL-1)");
    else
      text_printf(t, "%lldLL", (long long)i);
  } else if (isnan(v)) {
    text_printf(t, "((%s)KILN_NAN)", cuda_value_type(d));
  } else if (isinf(v)) {
    text_printf(t, "((%s)%sKILN_INF)", cuda_value_type(d), v < 0 ? "-" : "");
  } else {
    text_printf(t, "((%s)%.17g)", cuda_value_type(d), v);
  }
}

/* ---- what fits --------------------------------------------------------------------------------------------------------- */

typedef enum chain_kind { CHAIN_FLOAT, CHAIN_DOUBLE, CHAIN_INT } chain_kind;

static bool chain_kind_of(const node *n, chain_kind *out) {
  const int first = strcmp(n->op->name, "where") == 0 ? 1 : 0;
  bool any_float = false, any_double = false, any_int = false;
  for (int i = first; i < n->n_inputs; ++i) {
    const kiln_dtype d = n->inputs[i].v->type.dtype;
    any_float |= cuda_is_float(d);
    any_double |= d == KILN_F64;
    any_int |= dtype_is_int(d);
  }
  if (any_double)
    *out = CHAIN_DOUBLE;
  else if (any_float)
    *out = CHAIN_FLOAT;
  else if (any_int)
    *out = CHAIN_INT;
  else
    *out = n->op->integer_expression ? CHAIN_INT : CHAIN_FLOAT;
  return *out == CHAIN_INT ? n->op->integer_expression != NULL : n->op->expression != NULL;
}

static bool constant_is_inline(const value *v) {
  return v->constant && !v->constant->packing && v->type.rank == 0 && v->constant->data;
}

static bool op_fits(const node *n, const char **why) {
  chain_kind kind;
  if (n->n_outputs != 1 || n->n_blocks || n->epilogue) return *why = "has blocks", false;
  if (n->n_inputs < 1 || n->n_inputs > 3) return *why = "not a pointwise operator", false;
  for (int i = 0; i < n->n_inputs; ++i) {
    if (!n->inputs[i].v) return *why = "an operand is absent", false;
    if (n->inputs[i].v->constant && n->inputs[i].v->constant->packing) return *why = "a constant is packed", false;
  }
  if (strcmp(n->op->name, "cast") == 0) return true;
  if (!(n->op->flags & OP_POINTWISE)) return *why = "not a pointwise operator", false;
  if (!chain_kind_of(n, &kind)) return *why = "no expression for these types", false;
  return true;
}

bool cuda_block_fits(const block *b, const char **why) {
  int count = 0;
  if (b->n_results != 1) return *why = "not one result", false;
  for (const node *n = b->first; n; n = n->next, ++count) {
    if (!op_fits(n, why)) return false;
    for (int i = 0; i < n->n_inputs; ++i) {
      if (n->inputs[i].v->constant && !constant_is_inline(n->inputs[i].v))
        return *why = "a constant inside is no scalar", false;
    }
  }
  if (count > 128 || b->n_params > CUDA_SPACE_TENSORS - 4) return *why = "too long a chain", false;
  return true;
}

bool cuda_chain_fits(const node *n, const char **why) {
  if (n->n_blocks == 1 && strcmp(n->op->name, "pointwise") == 0) {
    if (n->n_inputs != n->blocks[0]->n_params || n->n_inputs == 0) return *why = "malformed body", false;
    return cuda_block_fits(n->blocks[0], why);
  }
  return op_fits(n, why);
}

/* ---- expressions ----------------------------------------------------------------------------------------------------------- */

typedef struct emitter {
  text *t;
  const block *block;
  const char *const *params;
  const char *unique;
} emitter;

/* The name of what node `n` of the block computes. By its place and not by the value's id: equal chains have equal texts, which are
 * compiled once. */
static void name_of(const emitter *e, const node *n, char *out) {
  int place = 0;
  for (const node *at = e->block->first; at && at != n; at = at->next) place++;
  snprintf(out, 64, "%s_v%d", e->unique, place);
}

/* The variable (or literal) that holds `v`. */
static void put_value(emitter *e, const value *v, int operand) {
  if (e->block) {
    for (int i = 0; i < e->block->n_params; ++i) {
      if (e->block->params[i] == v) {
        text_puts(e->t, e->params[i]);
        return;
      }
    }
  } else {
    text_puts(e->t, e->params[operand]);
    return;
  }
  if (v->constant) {
    const tensor c = {.data = (void *)(uintptr_t)v->constant->data, .dtype = v->type.dtype};
    const bool is_float = dtype_is_float(v->type.dtype);
    cuda_literal(e->t, v->type.dtype, is_float ? ref_load(&c, 0) : 0, is_float ? 0 : ref_load_int(&c, 0));
    return;
  }
  char name[64];
  name_of(e, v->producer, name);
  text_puts(e->t, name);
}

static void put_cast(emitter *e, const node *n) {
  const kiln_dtype from = n->inputs[0].v->type.dtype, to = n->outputs[0]->type.dtype;
  if (to == KILN_F16 || to == KILN_BF16) {
    const bool stored = e->block && n->outputs[0] == e->block->results[0].v && value_use_count(n->outputs[0]) == 1;
    if (from == to || (stored && from == KILN_F32)) { /* storing rounds */
      put_value(e, n->inputs[0].v, 0);
      return;
    }
    text_printf(e->t, "to_float(from_float<%s>((float)(", cuda_type(to));
    put_value(e, n->inputs[0].v, 0);
    text_puts(e->t, ")))");
  } else if (to == KILN_BOOL) {
    text_puts(e->t, "(");
    put_value(e, n->inputs[0].v, 0);
    text_puts(e->t, ") != 0");
  } else if (to == KILN_F32 || to == KILN_F64 || to == KILN_I64) {
    text_printf(e->t, "(%s)(", cuda_value_type(to));
    put_value(e, n->inputs[0].v, 0);
    text_puts(e->t, ")");
  } else {
    text_printf(e->t, "(i64)(%s)(i64)(", cuda_type(to));
    put_value(e, n->inputs[0].v, 0);
    text_puts(e->t, ")");
  }
}

static void put_parameters(emitter *e, const node *n, chain_kind kind) {
  const op_schema *schema = op_schema_of(n->op);
  for (int i = 0, k = 0; schema && i < schema->n_attrs && k < 4; ++i) {
    if (n->attrs[i].kind != ATTR_FLOAT) continue;
    text_printf(e->t, " const %s p%d = ", kind == CHAIN_FLOAT ? "float" : "double", k++);
    cuda_literal(e->t, kind == CHAIN_FLOAT ? KILN_F32 : KILN_F64, n->attrs[i].u.f, 0);
    text_puts(e->t, "; (void)p");
    text_printf(e->t, "%d;", k - 1);
  }
}

static void put_node(emitter *e, const node *n, const char *name) {
  static const char *const letters[] = {"x", "y", "z"};
  static const char *const types[] = {[CHAIN_FLOAT] = "float", [CHAIN_DOUBLE] = "double", [CHAIN_INT] = "i64"};
  const kiln_dtype to = n->outputs[0]->type.dtype;
  text_printf(e->t, "  %s %s; {", cuda_value_type(to), name);
  if (strcmp(n->op->name, "cast") == 0) {
    text_printf(e->t, " %s = ", name);
    put_cast(e, n);
    text_puts(e->t, "; }\n");
    return;
  }
  chain_kind kind = CHAIN_FLOAT;
  (void)chain_kind_of(n, &kind);
  text_printf(e->t, " typedef %s KT;", types[kind]);
  for (int i = 0; i < n->n_inputs; ++i) {
    text_printf(e->t, " const KT %s = (KT)(", letters[i]);
    put_value(e, n->inputs[i].v, i);
    text_puts(e->t, ");");
  }
  put_parameters(e, n, kind);
  const char *expression = kind == CHAIN_INT ? n->op->integer_expression : n->op->expression;
  if (to == KILN_BOOL && strcmp(n->op->name, "bitwise_not") == 0) expression = "x == 0";
  const bool half = to == KILN_F16 || to == KILN_BF16;
  if (kind == CHAIN_FLOAT && strcmp(n->op->name, "gelu") == 0) expression = half ? "k_gelu_16(x)" : "k_gelu(x)";
  if (kind == CHAIN_FLOAT && half && strcmp(n->op->name, "gelu_tanh") == 0) expression = "k_gelu_tanh_16(x)";
  if (to == KILN_BOOL)
    text_printf(e->t, " %s = (%s) != 0; }\n", name, expression);
  else if (dtype_is_int(to) && to != KILN_I64)
    text_printf(e->t, " %s = (i64)(%s)(i64)(%s); }\n", name, cuda_type(to), expression);
  else
    text_printf(e->t, " %s = (%s)(%s); }\n", name, cuda_value_type(to), expression);
}

void cuda_block_emit(text *t, const block *b, const char *const *params, const char *unique, char *result) {
  emitter e = {t, b, params, unique};
  for (const node *n = b->first; n; n = n->next) {
    char name[64];
    name_of(&e, n, name);
    put_node(&e, n, name);
  }
  text r = {0};
  e.t = &r;
  put_value(&e, b->results[0].v, 0);
  snprintf(result, 64, "%s", r.data ? r.data : "");
  if (r.failed) t->failed = true;
  text_free(&r);
}

void cuda_chain_emit(text *t, const node *n, const char *const *params, const char *unique, char *result) {
  if (n->n_blocks == 1) {
    cuda_block_emit(t, n->blocks[0], params, unique, result);
    return;
  }
  emitter e = {t, NULL, params, unique};
  snprintf(result, 64, "%s_r", unique);
  put_node(&e, n, result);
}

/* ---- index arithmetic --------------------------------------------------------------------------------------------------------- */

void cuda_broadcast_strides(const tensor *t, int rank, const int64_t *shape, int64_t *out) {
  (void)shape;
  for (int d = 0; d < rank; ++d) {
    const int k = d - (rank - t->rank);
    out[d] = k < 0 || t->shape[k] == 1 ? 0 : t->strides[k];
  }
}

void cuda_space_collapse(cuda_space *s) {
  int rank = 0;
  s->total = 1;
  for (int d = 0; d < s->rank; ++d) {
    s->total *= s->shape[d];
    if (s->shape[d] == 1) continue;
    bool join = rank > 0;
    for (int i = 0; i < s->n && join; ++i) join = s->strides[i][rank - 1] == s->strides[i][d] * s->shape[d];
    if (join)
      s->shape[rank - 1] *= s->shape[d];
    else
      s->shape[rank++] = s->shape[d];
    for (int i = 0; i < s->n; ++i) s->strides[i][rank - 1] = s->strides[i][d];
  }
  if (rank == 0) {
    s->shape[0] = 1;
    for (int i = 0; i < s->n; ++i) s->strides[i][0] = 1;
    rank = 1;
  }
  s->rank = rank;
}

void cuda_offset(text *t, const char *prefix, int rank, const int64_t *shape, const int64_t *strides) {
  bool any = false;
  for (int d = 0; d < rank; ++d) {
    if (strides[d] == 0 || shape[d] == 1) continue;
    text_printf(t, "%s(i64)%s%d*%lldLL", any ? "+" : "", prefix, d, (long long)strides[d]);
    any = true;
  }
  if (!any) text_puts(t, "0");
}

void cuda_coordinates(text *t, const char *type, const char *prefix, const char *index, int rank,
                      const int64_t *shape) {
  if (rank == 0) return;
  text_printf(t, "  %s %srest = (%s)(%s);\n", type, prefix, type, index);
  for (int d = rank - 1; d > 0; --d)
    text_printf(t, "  const %s %s%d = %srest %% %lldu; %srest /= %lldu;\n", type, prefix, d, prefix,
                (long long)shape[d], prefix, (long long)shape[d]);
  text_printf(t, "  const %s %s0 = %srest; (void)%s0;\n", type, prefix, prefix, prefix);
}

static int alignment_of(const void *data, int64_t offset, bool known) {
  const uint64_t at = data ? (uint64_t)(uintptr_t)data : known ? (uint64_t)offset : 1;
  int n = 16;
  while (n > 1 && at % (uint64_t)n != 0) n /= 2;
  return n;
}

int cuda_in_alignment(const kernel_prep *p, int i) {
  const void *data = p->args.in[i].data;
  return alignment_of(data, p->offsets ? p->offsets[i] : -1, p->offsets && p->offsets[i] >= 0);
}
int cuda_out_alignment(const kernel_prep *p, int i) {
  const int64_t at = p->offsets ? p->offsets[p->args.n_in + i] : -1;
  return alignment_of(p->args.out[i].data, at, at >= 0);
}

kiln_status cuda_text_keep(kernel_prep *p, text *t, const char **out) {
  const char *kept = t->failed ? NULL : arena_strdup(p->arena, t->data ? t->data : "");
  text_free(t);
  if (!kept) return KILN_NO_MEMORY("kernel text");
  *out = kept;
  return KILN_OK;
}

/* ---- kernels whose arguments are the addresses of their tensors --------------------------------------------------------------------- */

kiln_status cuda_simple_prepare(kernel_prep *p, const char *entry, text *t, int64_t blocks, int threads,
                                size_t shared) {
  const char *kept = NULL;
  KILN_TRY(cuda_text_keep(p, t, &kept));
  cuda_simple *s = ARENA_NEW(p->arena, cuda_simple);
  if (!s) return KILN_NO_MEMORY("kernel");
  s->blocks = blocks;
  s->threads = threads;
  s->shared = shared;
  s->n_out = p->args.n_out;
  if (p->args.n_in + p->args.n_out > CUDA_SPACE_TENSORS)
    return KILN_FAIL(KILN_UNSUPPORTED, "a kernel with %d operands", (int)p->args.n_in);
  for (int i = 0; i < p->args.n_in; ++i) {
    if (p->args.in[i].rank >= 0) s->in[s->n_in++] = i;
  }
  p->state = s;
  if (blocks <= 0) return KILN_OK; /* nothing to do for empty results */
  return cuda_compile(p, &(cuda_source){.entry = entry, .text = kept, .shared = shared}, &s->f);
}

kiln_status cuda_simple_run(const kernel_args *a) {
  const cuda_simple *s = a->state;
  void *params[CUDA_SPACE_TENSORS + 1];
  int n = 0;
  if (s->blocks <= 0) return KILN_OK;
  for (int i = 0; i < s->n_in; ++i) params[n++] = &a->in[s->in[i]].data;
  for (int i = 0; i < s->n_out; ++i) params[n++] = &a->out[i].data;
  return cuda_launch_1d(a, s->f, s->blocks, s->threads, s->shared, params);
}
