/* Attention masks that are computed from positions: `key <= query` over arange, slices and differences of it. With fixed sizes such masks
 * are folded into constants, which attention_patterns.c looks at; with sizes that vary they stay computations. Here an element of the
 * mask is written as an expression of its indices, in a scratch table of dimensions with one symbol for each index: integers are
 * polynomials of indices and sizes, conditions are `polynomial >= 0`. What cannot be written so stays as it is. */
#include "passes/match.h"
#include "passes/rule_files.h"

typedef enum term_kind { TERM_UNKNOWN, TERM_INT, TERM_TRUE, TERM_FALSE, TERM_AT_LEAST_0 } term_kind;

typedef struct term {
  term_kind kind;
  dim d; /* the integer; or what is at least 0 */
} term;

typedef struct prover {
  dim_table *t;
  int fuel; /* values that may still be looked at: graphs share operands */
} prover;

enum { FUEL = 4096 };
static const term unknown = {TERM_UNKNOWN, 0};

static term element(prover *p, const value *v, const dim *at);

static term integer(dim d) { return (term){d == DIM_ERROR ? TERM_UNKNOWN : TERM_INT, d}; }

/* `d` >= 0, decided where it can be. */
static term at_least_0(prover *p, dim d) {
  if (d == DIM_ERROR) return unknown;
  const int sure = dim_compare_le(p->t, 0, d);
  return (term){sure == 1 ? TERM_TRUE : sure == 0 ? TERM_FALSE : TERM_AT_LEAST_0, d};
}

static term negated(prover *p, term x) {
  if (x.kind == TERM_TRUE) return (term){TERM_FALSE, 0};
  if (x.kind == TERM_FALSE) return (term){TERM_TRUE, 0};
  return x.kind == TERM_AT_LEAST_0 ? at_least_0(p, dim_sub(p->t, -1, x.d)) : unknown;
}

static term both(term x, term y) {
  if (x.kind == TERM_FALSE || y.kind == TERM_FALSE) return (term){TERM_FALSE, 0};
  if (x.kind == TERM_TRUE) return y;
  if (y.kind == TERM_TRUE) return x;
  return x.kind == TERM_AT_LEAST_0 && y.kind == TERM_AT_LEAST_0 && x.d == y.d ? x : unknown;
}

/* ---- operators --------------------------------------------------------------------------------------------------- */

/* The operand's element where the result has `at`: as broadcasting puts it. */
static term operand(prover *p, const node *n, int i, const dim *at, int rank) {
  const value *v = node_in(n, i);
  dim own[KILN_MAX_RANK];
  if (!v || v->type.rank > rank) return unknown;
  for (int d = 0; d < v->type.rank; d++) own[d] = v->type.dims[d] == 1 ? 0 : at[rank - v->type.rank + d];
  return element(p, v, own);
}

static term arithmetic(prover *p, const node *n, const dim *at, int rank) {
  const term a = operand(p, n, 0, at, rank), b = operand(p, n, 1, at, rank);
  const char *name = n->op->name;
  if (str_eq(name, "bitwise_and") || str_eq(name, "logical_and")) {
    const bool conditions = n->outputs[0]->type.dtype == KILN_BOOL && a.kind != TERM_INT && b.kind != TERM_INT;
    return conditions ? both(a, b) : unknown;
  }
  if (a.kind != TERM_INT || b.kind != TERM_INT) return unknown;
  if (str_eq(name, "add")) return integer(dim_add(p->t, a.d, b.d));
  if (str_eq(name, "sub")) return integer(dim_sub(p->t, a.d, b.d));
  if (str_eq(name, "mul")) return integer(dim_mul(p->t, a.d, b.d));
  const dim more = dim_sub(p->t, a.d, b.d), less = dim_sub(p->t, b.d, a.d);
  if (str_eq(name, "ge")) return at_least_0(p, more);
  if (str_eq(name, "le")) return at_least_0(p, less);
  if (str_eq(name, "gt")) return negated(p, at_least_0(p, less));
  if (str_eq(name, "lt")) return negated(p, at_least_0(p, more));
  const int same = dim_compare_equal(p->t, a.d, b.d);
  if (same < 0 || !(str_eq(name, "eq") || str_eq(name, "ne"))) return unknown;
  return (term){(same == 1) == str_eq(name, "eq") ? TERM_TRUE : TERM_FALSE, 0};
}

static bool is_arithmetic(const char *name) {
  static const char *const names[] = {"add", "sub", "mul", "ge",          "le",         "gt",
                                      "lt",  "eq",  "ne",  "bitwise_and", "logical_and"};
  for (size_t i = 0; i < KILN_COUNT(names); i++) {
    if (str_eq(name, names[i])) return true;
  }
  return false;
}

/* Between integers, and conditions as numbers. */
static term converted(const node *n, term x) {
  const kiln_dtype from = node_in(n, 0)->type.dtype, to = n->outputs[0]->type.dtype;
  if (to == from) return x;
  if (from == KILN_BOOL && (x.kind == TERM_TRUE || x.kind == TERM_FALSE)) return integer(x.kind == TERM_TRUE);
  if (from != KILN_BOOL && to == KILN_I64) return x;
  if (to == KILN_BOOL && x.kind == TERM_INT && dim_is_const(x.d)) return (term){x.d ? TERM_TRUE : TERM_FALSE, 0};
  return unknown;
}

static term arange_element(prover *p, const node *n, const dim *at) {
  const double start = node_float(n, "start"), step = node_float(n, "step");
  const bool whole = start >= -1e9 && start <= 1e9 && step >= -1e9 && step <= 1e9 && start == (double)(int64_t)start &&
                     step == (double)(int64_t)step;
  if (!whole) return unknown;
  return integer(dim_add(p->t, (int64_t)start, dim_mul(p->t, (int64_t)step, at[0])));
}

/* Reshapes that only add or take away dimensions of size 1. */
static term reshape_element(prover *p, const node *n, const dim *at) {
  const tensor_type *from = &node_in(n, 0)->type, *to = &n->outputs[0]->type;
  dim own[KILN_MAX_RANK];
  int d = 0;
  for (int k = 0; k < from->rank; k++) {
    own[k] = 0;
    if (from->dims[k] == 1) continue;
    while (d < to->rank && to->dims[d] == 1) d++;
    if (d == to->rank || to->dims[d] != from->dims[k]) return unknown;
    own[k] = at[d++];
  }
  while (d < to->rank && to->dims[d] == 1) d++;
  return d == to->rank ? element(p, node_in(n, 0), own) : unknown;
}

static term permute_element(prover *p, const node *n, const dim *at) {
  const attr *order = node_attr(n, "order");
  dim own[KILN_MAX_RANK];
  for (int i = 0; i < order->count; i++) own[order->u.ints[i]] = at[i];
  return element(p, node_in(n, 0), own);
}

static term slice_element(prover *p, const node *n, const dim *at) {
  const int64_t axis = node_int(n, "axis");
  dim own[KILN_MAX_RANK];
  for (int d = 0; d < n->outputs[0]->type.rank; d++) own[d] = at[d];
  const dim start = node_int(n, "start");
  if (dim_compare_le(p->t, 0, start) != 1) return unknown;
  own[axis] = dim_add(p->t, start, dim_mul(p->t, node_int(n, "step"), at[axis]));
  return own[axis] == DIM_ERROR ? unknown : element(p, node_in(n, 0), own);
}

/* Is the value's element a polynomial of its indices, without a case, so that it goes on before its start? */
static bool has_no_cases(const value *v, int depth) {
  static const char *const names[] = {"add", "sub", "expand", "reshape", "cast"};
  if (v->constant) return v->type.rank == 0;
  const node *n = v->producer;
  if (!n || depth == 0) return false;
  if (str_eq(n->op->name, "arange")) return true;
  bool known = false;
  for (size_t i = 0; i < KILN_COUNT(names); i++) known = known || str_eq(n->op->name, names[i]);
  for (int i = 0; known && i < n->n_inputs; i++) known = node_in(n, i) && has_no_cases(node_in(n, i), depth - 1);
  return known;
}

/* Two parts. Where the index may be in both, the first must be one element that goes before the second's as their formula has it. */
static term concat_element(prover *p, const node *n, const dim *at) {
  const int64_t axis = node_int(n, "axis");
  dim own[KILN_MAX_RANK];
  if (n->n_inputs != 2 || n->epilogue) return unknown;
  const dim size = node_in(n, 0)->type.dims[axis];
  for (int d = 0; d < n->outputs[0]->type.rank; d++) own[d] = at[d];
  if (dim_compare_le(p->t, size, at[axis]) == 0) return element(p, node_in(n, 0), own);
  own[axis] = dim_sub(p->t, at[axis], size);
  if (own[axis] == DIM_ERROR) return unknown;
  if (dim_compare_le(p->t, size, at[axis]) == 1) return element(p, node_in(n, 1), own);
  if (size != 1 || !has_no_cases(node_in(n, 1), 8)) return unknown;
  const term rest = element(p, node_in(n, 1), own);
  own[axis] = -1;
  const term before = element(p, node_in(n, 1), own);
  own[axis] = 0;
  const term one = element(p, node_in(n, 0), own);
  const bool same = rest.kind == TERM_INT && before.kind == TERM_INT && one.kind == TERM_INT && before.d == one.d;
  return same ? rest : unknown;
}

/* All dimensions are indexed, in their order. */
static term index_element(prover *p, const node *n, const dim *at) {
  const attr *axes = node_attr(n, "axes");
  const tensor_type *x = &node_in(n, 0)->type;
  dim own[KILN_MAX_RANK];
  if (axes->count != x->rank || n->own_inputs != x->rank + 1) return unknown;
  for (int i = 0; i < axes->count; i++) {
    const term place = operand(p, n, i + 1, at, n->outputs[0]->type.rank);
    if (axes->u.ints[i] != i || place.kind != TERM_INT || dim_compare_le(p->t, 0, place.d) != 1) return unknown;
    own[i] = place.d;
  }
  return element(p, node_in(n, 0), own);
}

static term full_element(const node *n) {
  const double x = node_float(n, "value");
  if (n->outputs[0]->type.dtype == KILN_BOOL) return (term){x != 0 ? TERM_TRUE : TERM_FALSE, 0};
  return x >= -1e9 && x <= 1e9 && x == (double)(int64_t)x ? integer((int64_t)x) : unknown;
}

/* Where tril keeps an element of a matrix of conditions. */
static term below_diagonal(prover *p, const node *n, const dim *at) {
  const int rank = n->outputs[0]->type.rank;
  if (n->outputs[0]->type.dtype != KILN_BOOL || rank < 2) return unknown;
  return at_least_0(p, dim_add(p->t, dim_sub(p->t, at[rank - 2], at[rank - 1]), node_int(n, "diagonal")));
}

static term constant_element(const value *v) {
  double x = 0;
  if (!scalar_constant(v, &x)) return unknown;
  if (v->type.dtype == KILN_BOOL) return (term){x != 0 ? TERM_TRUE : TERM_FALSE, 0};
  return x < -1e9 || x > 1e9 ? unknown : integer((int64_t)x);
}

static term element(prover *p, const value *v, const dim *at) {
  const kiln_dtype t = v->type.dtype;
  if (t != KILN_I64 && t != KILN_I32 && t != KILN_BOOL) return unknown; /* others round, or wrap around early */
  if (v->constant) return constant_element(v);
  const node *n = v->producer;
  if (p->fuel-- <= 0 || !n || n->epilogue || n->n_outputs != 1) return unknown;
  const char *name = n->op->name;
  const int rank = v->type.rank;
  if (is_arithmetic(name)) return arithmetic(p, n, at, rank);
  if (str_eq(name, "arange")) return arange_element(p, n, at);
  if (str_eq(name, "expand") || str_eq(name, "contiguous")) return operand(p, n, 0, at, rank);
  if (str_eq(name, "reshape")) return reshape_element(p, n, at);
  if (str_eq(name, "permute")) return permute_element(p, n, at);
  if (str_eq(name, "slice")) return slice_element(p, n, at);
  if (str_eq(name, "concat")) return concat_element(p, n, at);
  if (str_eq(name, "index")) return index_element(p, n, at);
  if (str_eq(name, "cast")) return converted(n, operand(p, n, 0, at, rank));
  if (str_eq(name, "logical_not") || (str_eq(name, "bitwise_not") && v->type.dtype == KILN_BOOL))
    return negated(p, operand(p, n, 0, at, rank));
  if (str_eq(name, "size")) return integer(node_int(n, "value"));
  if (str_eq(name, "full")) return full_element(n);
  if (str_eq(name, "tril")) /* what is left of `true` */
    return both(below_diagonal(p, n, at), operand(p, n, 0, at, rank));
  if (str_eq(name, "cumsum")) { /* of nothing but zeros */
    const term x = operand(p, n, 0, at, rank);
    return (x.kind == TERM_INT && x.d == 0) || x.kind == TERM_FALSE ? integer(0) : unknown;
  }
  return unknown;
}

/* ---- the mask ---------------------------------------------------------------------------------------------------- */

/* A mask of numbers that are 0 where the condition holds, and leave nothing of a score elsewhere. */
static const value *condition_of(const value *mask) {
  const node *n = producer_of(mask, "where");
  double keep = 1, drop = 0;
  if (mask->type.dtype == KILN_BOOL) return mask;
  if (!n || !scalar_constant(node_in(n, 1), &keep) || !scalar_constant(node_in(n, 2), &drop)) return NULL;
  return keep == 0 && drop < -1e30 && node_in(n, 0)->type.rank == mask->type.rank ? node_in(n, 0) : NULL;
}

/* triu(full(-inf), 1), as torch.nn.Transformer makes masks. */
static bool is_future(const value *mask) {
  const node *n = producer_of(mask, "triu"), *full = n ? producer_of(node_in(n, 0), "full") : NULL;
  const int rank = mask->type.rank;
  return full && rank >= 2 && dtype_is_float(mask->type.dtype) && node_float(full, "value") < -1e30 &&
         node_int(n, "diagonal") == 1 && mask->type.dims[rank - 1] == mask->type.dims[rank - 2] &&
         mask->type.dims[rank - 1] != 1;
}

/* TERM_TRUE: it keeps all; TERM_AT_LEAST_0: what causal attention keeps. */
static term_kind mask_meaning(const dim_table *dims, const value *mask) {
  arena scratch = {0};
  prover p = {.fuel = FUEL};
  dim at[KILN_MAX_RANK];
  const int rank = mask->type.rank;
  term_kind kind = TERM_UNKNOWN;
  bool ready = rank >= 2 && dim_table_clone(dims, &scratch, &p.t) == KILN_OK;
  for (int d = 0; ready && d < rank; d++) {
    int64_t low = 0, high = 0;
    dim_range(dims, mask->type.dims[d], &low, &high);
    at[d] = mask->type.dims[d] == 1 ? 0
                                    : dim_fresh(p.t, "index", 0,
                                                high == DIM_UNBOUNDED ? high
                                                : high > 1            ? high - 1
                                                                      : 0);
    ready = at[d] != DIM_ERROR;
  }
  if (ready) {
    const term x = element(&p, mask, at);
    const bool causal = x.kind == TERM_AT_LEAST_0 && x.d == dim_sub(p.t, at[rank - 2], at[rank - 1]) &&
                        mask->type.dims[rank - 1] != 1 && mask->type.dims[rank - 1] == mask->type.dims[rank - 2];
    kind = x.kind == TERM_TRUE || causal ? x.kind : TERM_UNKNOWN;
  }
  error_clear();
  arena_free(&scratch);
  return kind;
}

static bool positions_mask(builder *b, node *n) {
  const value *mask = node_in(n, 3), *condition = mask && !mask->constant ? condition_of(mask) : NULL;
  const tensor_type *q = &node_in(n, 0)->type, *k = &node_in(n, 1)->type;
  const bool future = mask && is_future(mask);
  if ((!condition && !future) || (condition && condition->constant) || n->epilogue) return false;
  const term_kind kind = future ? TERM_AT_LEAST_0 : mask_meaning(n->parent->graph->dims, condition);
  if (kind == TERM_UNKNOWN) return false;
  if (kind == TERM_AT_LEAST_0 &&
      (mask->type.dims[mask->type.rank - 1] != k->dims[k->rank - 2] || q->dims[q->rank - 2] != k->dims[k->rank - 2]))
    return false;
  return replace(n, build(b, "attention", IN(node_in(n, 0), node_in(n, 1), node_in(n, 2), NULL),
                          ATTRS(A_FLOAT("scale", node_float(n, "scale")),
                                A_BOOL("causal", kind == TERM_AT_LEAST_0 || node_bool(n, "causal")))));
}

#define POSITIONS                                                                 \
  "kiln.graph 1\ninput \"q\" %q : f32[1,2,3,4]\n%p = arange() {start=0, step=1, " \
  "count=3, dtype=i64} : i64[3]\n%i = reshape(%p) {shape=[3, 1]} : i64[3,1]\n"
const rule symbolic_masks_rules[] = {
    {"causal attention by positions", "attention", positions_mask,
     POSITIONS
     "%m = le(%p, %i) : bool[3,3]\n%y = attention(%q, %q, %q, %m) {scale=0.5} : f32[1,2,3,4]\noutput \"y\" %y\n"},
    {"attention whose mask keeps all", "attention", positions_mask,
     POSITIONS "const %c : i64[] = {-1}\n%s = add(%i, %p) : i64[3,3]\n%m = gt(%s, %c) : bool[3,3]\n%y = "
               "attention(%q, %q, %q, "
               "%m) {scale=0.5} : f32[1,2,3,4]\noutput \"y\" %y\n"},
};
const size_t symbolic_masks_rule_count = KILN_COUNT(symbolic_masks_rules);
