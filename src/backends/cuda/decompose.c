/* What no kernel takes, by operators that have one: attention in f64 or with heads of more than 256, norms in f64. */
#include <math.h>
#include <string.h>

#include "backends/cuda/internal.h"
#include "ops/lowering.h"
#include "passes/pass.h"

static bool replace(node *n, value *with) {
  if (!with) return false;
  value_replace_uses(n->outputs[0], with);
  return true;
}

/* Attention that no kernel takes (heads of more than 256, f64) as products and a softmax. */
static bool attention_by_products(builder *b, node *n) {
  const char *why;
  const tensor_type *y = &n->outputs[0]->type;
  value *q = node_in(n, 0), *k = node_in(n, 1), *v = node_in(n, 2), *mask = node_in(n, 3);
  const int last = y->rank - 1;
  const dim heads = y->dims[last - 2], shared = k->type.dims[k->type.rank - 3];
  if (n->epilogue || cuda_attention_fits(n, &why) || !dim_is_const(heads) || !dim_is_const(shared)) return false;
  /* Queries that share keys below each other: [..., heads, L, -] as [..., shared, heads / shared * L, -]. */
  dim grouped[KILN_MAX_RANK], apart[KILN_MAX_RANK];
  memcpy(grouped, y->dims, sizeof grouped);
  memcpy(apart, y->dims, sizeof apart);
  grouped[last - 2] = shared;
  grouped[last - 1] = dim_mul(b->graph->dims, heads / shared, y->dims[last - 1]);
  apart[last] = grouped[last] = k->type.dims[k->type.rank - 2];
  value *scaled = build(b, "mul", IN(q, lowering_scalar_like(b, q, node_float(n, "scale"))), NO_ATTRS);
  if (heads != shared) {
    dim rows[KILN_MAX_RANK];
    const int rank = q->type.rank;
    memcpy(rows, q->type.dims, sizeof rows);
    rows[rank - 3] = shared;
    rows[rank - 2] = grouped[last - 1];
    scaled = lower_reshape(b, scaled, rank, rows);
  }
  value *scores = build(b, "matmul", IN(scaled, k), ATTRS(A_BOOL("transpose_b", 1)));
  if (heads != shared) scores = lower_reshape(b, scores, y->rank, apart);
  if (!scores) return false;
  value *none = lowering_scalar_like(b, scores, -INFINITY), *zero = lowering_scalar_like(b, scores, 0);
  if (node_bool(n, "causal")) {
    value *rows = lowering_unsqueeze(b, lowering_iota(b, y->dims[last - 1]), 1);
    value *keep = build(b, "ge", IN(rows, lowering_iota(b, apart[last])), NO_ATTRS);
    scores = build(b, "where", IN(keep, scores, none), NO_ATTRS);
  }
  if (mask && mask->type.dtype == KILN_BOOL)
    scores = build(b, "where", IN(mask, scores, none), NO_ATTRS);
  else if (mask)
    scores = build(b, "add", IN(scores, mask), NO_ATTRS);
  value *shares = build(b, "softmax", IN(scores), ATTRS(A_INT("axis", last)));
  if (mask) shares = build(b, "where", IN(build(b, "ne", IN(scores, none), NO_ATTRS), shares, zero), NO_ATTRS);
  if (heads != shared) shares = lower_reshape(b, shares, y->rank, grouped);
  value *result = build(b, "matmul", IN(shares, v), NO_ATTRS);
  return replace(n, heads != shared ? lower_reshape(b, result, y->rank, y->dims) : result);
}

/* x, less its mean over the axes if `centered`, divided by the root of its mean square. */
static value *normalized(builder *b, value *x, const int64_t *axes, int count, double eps, bool centered) {
  if (!x) return NULL;
  if (centered)
    x = lower_binary(b, "sub", x, build(b, "mean", IN(x), ATTRS(A_INTS("axes", axes, count), A_BOOL("keepdim", 1))));
  value *square =
      build(b, "mean", IN(lower_binary(b, "mul", x, x)), ATTRS(A_INTS("axes", axes, count), A_BOOL("keepdim", 1)));
  value *root =
      square ? build(b, "sqrt", IN(lower_binary(b, "add", square, lowering_scalar_like(b, square, eps))), NO_ATTRS)
             : NULL;
  return lower_binary(b, "div", x, root);
}

/* y * gamma + beta, vectors of the dimension `channel`. */
static value *affine(builder *b, value *y, value *gamma, value *beta, int channel) {
  value *factors[2] = {gamma, beta};
  for (int i = 0; y && i < 2; i++) {
    if (!factors[i]) continue;
    dim dims[KILN_MAX_RANK];
    for (int d = 0; d < y->type.rank; d++) dims[d] = d == channel ? factors[i]->type.dims[0] : 1;
    y = lower_binary(b, i == 0 ? "mul" : "add", y,
                     lower_reshape(b, factors[i], y->type.rank - channel, dims + channel));
  }
  return y;
}

static bool in_f64(const node *n) { return n->outputs[0]->type.dtype == KILN_F64 && !n->epilogue; }

static bool rows_in_f64(builder *b, node *n) {
  value *x = node_in(n, 0), *gamma = node_in(n, 1), *beta = n->own_inputs > 2 ? node_in(n, 2) : NULL;
  const int count = (int)node_int(n, "dims"), rank = x->type.rank;
  int64_t axes[KILN_MAX_RANK];
  if (!in_f64(n)) return false;
  for (int i = 0; i < count; i++) axes[i] = rank - count + i;
  value *y = normalized(b, x, axes, count, node_float(n, "eps"), n->op->name[0] == 'l');
  if (gamma) y = lower_binary(b, "mul", y, gamma);
  return replace(n, beta ? lower_binary(b, "add", y, beta) : y);
}

static bool groups_in_f64(builder *b, node *n) {
  value *x = node_in(n, 0);
  const int64_t groups = node_int(n, "groups"), axes[2] = {2, 3};
  if (!in_f64(n) || node_bool(n, "channels_last") || !dim_is_const(x->type.dims[1]) || x->type.rank < 2) return false;
  const dim apart[4] = {x->type.dims[0], groups, x->type.dims[1] / groups,
                        dim_product(b->graph->dims, x->type.dims + 2, x->type.rank - 2)};
  value *y = normalized(b, lower_reshape(b, x, 4, apart), axes, 2, node_float(n, "eps"), true);
  return replace(n, affine(b, lower_reshape(b, y, x->type.rank, x->type.dims), node_in(n, 1), node_in(n, 2), 1));
}

static bool batch_in_f64(builder *b, node *n) {
  value *x = node_in(n, 0), *mean = node_in(n, 1), *var = node_in(n, 2);
  if (!in_f64(n)) return false;
  const int channel = node_bool(n, "channels_last") ? x->type.rank - 1 : 1;
  value *root =
      build(b, "sqrt", IN(lower_binary(b, "add", var, lowering_scalar_like(b, var, node_float(n, "eps")))), NO_ATTRS);
  value *factor = lower_binary(b, "div", lowering_scalar_like(b, var, 1), root);
  value *y = affine(b, x, NULL, build(b, "neg", IN(mean), NO_ATTRS), channel);
  return replace(n, affine(b, affine(b, y, factor, NULL, channel), node_in(n, 3), node_in(n, 4), channel));
}

static const rule rules[] = {
    {"attention by products", "attention", attention_by_products, NULL},
    {"layer norm in f64", "layer_norm", rows_in_f64, NULL},
    {"rms norm in f64", "rms_norm", rows_in_f64, NULL},
    {"group norm in f64", "group_norm", groups_in_f64, NULL},
    {"batch norm in f64", "batch_norm", batch_in_f64, NULL},
};

kiln_status cuda_decompose(graph *g) { return rules_run(g, rules, KILN_COUNT(rules)); }
