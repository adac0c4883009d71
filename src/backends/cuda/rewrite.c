/* Rewriting for GPUs: the CPU's layouts and fusion serve both (channels-last convolutions, epilogues, chains); what a kernel takes is
 * asked of this backend's rows. Before that, permutes of attention layers are moved out of the way: PyTorch's nn.MultiheadAttention
 * turns [batch, length, features] around in front of its products and merges batch and heads, which would cost copies; attention
 * kernels read any strides, so all of it can be views. */
#include <string.h>

#include "backends/cpu/rewrite.h"
#include "backends/cuda/internal.h"
#include "ops/lowering.h"
#include "passes/pass.h"

static bool is_op(const node *n, const char *name) { return n && strcmp(n->op->name, name) == 0; }

static bool read_once(const value *v) { return value_use_count(v) == 1 && !value_is_result(v); }

static value *reshape(builder *b, value *v, int rank, const dim *dims) {
  return v ? build(b, "reshape", IN(v), ATTRS(A_INTS("shape", dims, rank))) : NULL;
}
static value *permute(builder *b, value *v, int rank, const dim *order) {
  return v ? build(b, "permute", IN(v), ATTRS(A_INTS("order", order, rank))) : NULL;
}

static bool replace(node *n, value *with) {
  if (!with) return false;
  value_replace_uses(n->outputs[0], with);
  return true;
}

/* The permute behind operand 0, if it leaves the last dimension where it is. */
static const node *rows_permute(const node *n, const int64_t **order, int *rank) {
  const node *p = node_in(n, 0) ? node_in(n, 0)->producer : NULL;
  if (!is_op(p, "permute") || p->epilogue) return NULL;
  const attr *a = node_attr(p, "order");
  if (a->count < 3 || a->u.ints[a->count - 1] != a->count - 1) return NULL;
  *order = a->u.ints;
  *rank = a->count;
  return p;
}

/* linear(permute(x)) -> permute(linear(x)) */
static bool permute_behind_linear(builder *b, node *n) {
  const int64_t *order;
  int rank;
  const node *p = rows_permute(n, &order, &rank);
  if (!p || n->epilogue || n->own_inputs != 3) return false;
  return replace(
      n, permute(b, build(b, "linear", IN(node_in(p, 0), node_in(n, 1), node_in(n, 2)), NO_ATTRS), rank, order));
}

/* reshape(permute(x)) where the reshape only splits the last dimension and puts ones in front -> permute(reshape(x)) */
static bool permute_behind_split(builder *b, node *n) {
  const int64_t *order;
  int rank;
  const node *p = rows_permute(n, &order, &rank);
  if (!p) return false;
  const tensor_type *from = &p->outputs[0]->type, *to = &n->outputs[0]->type, *x = &node_in(p, 0)->type;
  const int lead = to->rank > 0 && to->dims[0] == 1 && from->dims[0] != 1 ? 1 : 0;
  const int tail = to->rank - lead - (rank - 1);
  if (tail < 2 && !(tail == 1 && lead)) return false;
  for (int i = 0; i + 1 < rank; i++) {
    if (to->dims[lead + i] != from->dims[i]) return false;
  }
  dim dims[KILN_MAX_RANK], turned[KILN_MAX_RANK];
  for (int i = 0; i < to->rank; i++) {
    const bool row = i >= lead && i < lead + rank - 1;
    dims[i] = row ? x->dims[i - lead] : to->dims[i];
    turned[i] = row ? lead + order[i - lead] : i;
  }
  return replace(n, permute(b, reshape(b, node_in(p, 0), to->rank, dims), to->rank, turned));
}

/* reshape[q0, q1, q2 * q3](permute(x)) with q0 behind q1 in x -> permute[1, 0, 2](reshape[q1, q0, q2 * q3](permute'(x))) */
static bool heads_behind_merge(builder *b, node *n) {
  const node *p = node_in(n, 0)->producer;
  const tensor_type *to = &n->outputs[0]->type;
  if (!is_op(p, "permute") || to->rank != 3 || p->outputs[0]->type.rank != 4) return false;
  const attr *a = node_attr(p, "order");
  const tensor_type *from = &p->outputs[0]->type;
  if (a->u.ints[0] < a->u.ints[1] || to->dims[0] != from->dims[0] || to->dims[1] != from->dims[1]) return false;
  if (a->u.ints[3] != 3) return false;
  const dim order[4] = {a->u.ints[1], a->u.ints[0], a->u.ints[2], a->u.ints[3]};
  const dim dims[3] = {to->dims[1], to->dims[0], to->dims[2]}, back[3] = {1, 0, 2};
  return replace(n, permute(b, reshape(b, permute(b, node_in(p, 0), 4, order), 3, dims), 3, back));
}

/* reshape[b, c, a, d](permute[1, 0, 2](reshape[a, b * c, d](x))) -> permute[1, 2, 0, 3](reshape[a, b, c, d](x)) */
static bool unmerge_heads(builder *b, node *n) {
  const node *p = node_in(n, 0)->producer;
  const tensor_type *to = &n->outputs[0]->type;
  if (!is_op(p, "permute") || to->rank != 4 || p->outputs[0]->type.rank != 3) return false;
  const attr *a = node_attr(p, "order");
  const node *r = node_in(p, 0)->producer;
  const tensor_type *from = &p->outputs[0]->type;
  if (a->u.ints[0] != 1 || a->u.ints[1] != 0 || !is_op(r, "reshape")) return false;
  if (from->dims[1] != to->dims[2] || from->dims[2] != to->dims[3]) return false;
  const dim dims[4] = {to->dims[2], to->dims[0], to->dims[1], to->dims[3]}, order[4] = {1, 2, 0, 3};
  return replace(n, permute(b, reshape(b, node_in(r, 0), 4, dims), 4, order));
}

/* Do all readers of `v` only split its last dimension? Then `v` may be columns of a wider matrix. */
static bool only_split(const value *v) {
  const tensor_type *t = &v->type;
  if (!v->uses || t->rank < 1) return false;
  for (const use *u = v->uses; u; u = u->next) {
    if (u->result_of || !is_op(u->user, "reshape") || u->user->epilogue) return false;
    const tensor_type *to = &u->user->outputs[0]->type;
    int64_t tail = 1;
    int r = to->rank;
    while (r > 0 && tail < t->dims[t->rank - 1] && dim_is_const(to->dims[r - 1])) tail *= to->dims[--r];
    if (tail != t->dims[t->rank - 1]) return false;
  }
  return true;
}

/* A product with constant weights whose result could be a part of a wider product's. */
static bool joinable(const node *n, const value *x) {
  const value *w = node_in(n, 1), *bias = node_in(n, 2);
  return is_op(n, "linear") && !n->epilogue && node_in(n, 0) == x && w->constant && !w->constant->packing &&
         (!bias || (bias->constant && !bias->constant->packing)) && only_split(n->outputs[0]);
}

/* Products of one operand by several weights, the queries, keys and values of attention say, become one product and views of its
 * result. Only where nothing but reshapes reads them: what is computed from a result alone goes into its product's epilogue. */
static bool join_products(builder *b, node *n) {
  enum { MOST = 8 };
  value *x = node_in(n, 0), *bias = NULL, *weights = node_in(n, 1);
  node *others[MOST];
  int count = 0;
  bool any_bias = node_in(n, 2) != NULL;
  if (!joinable(n, x)) return false;
  for (use *u = x->uses; u && count < MOST; u = u->next) {
    node *m = u->user;
    if (u->result_of || m == n || m->parent != n->parent || !joinable(m, x)) continue;
    if (node_in(m, 1)->type.dtype != weights->type.dtype) continue;
    others[count++] = m;
    any_bias = any_bias || node_in(m, 2);
  }
  if (count == 0) return false;
  for (int i = -1; i < count; i++) {
    node *m = i < 0 ? n : others[i];
    if (i >= 0) weights = weights ? build(b, "concat", IN(weights, node_in(m, 1)), ATTRS(A_INT("axis", 0))) : NULL;
    if (!any_bias) continue;
    value *own = node_in(m, 2);
    if (!own) own = lowering_full(b, node_in(m, 1)->type.dtype, 1, node_in(m, 1)->type.dims, 0);
    bias = i < 0 ? own : bias && own ? build(b, "concat", IN(bias, own), ATTRS(A_INT("axis", 0))) : NULL;
  }
  value *y = weights && (bias || !any_bias) ? build(b, "linear", IN(x, weights, bias), NO_ATTRS) : NULL;
  int64_t at = 0;
  for (int i = -1; i < count && y; i++) {
    node *m = i < 0 ? n : others[i];
    const int64_t width = node_in(m, 1)->type.dims[0];
    if (!replace(m, build(b, "slice", IN(y),
                          ATTRS(A_INT("axis", y->type.rank - 1), A_INT("start", at), A_INT("end", at + width)))))
      return false;
    at += width;
  }
  return y != NULL;
}

/* cast(norm(cast(x))) from and to one type of 16 bits, as models write norms that compute in f32: the kernels do that anyway. */
static bool norm_between_casts(builder *b, node *n) {
  const node *norm = node_in(n, 0)->producer;
  if (n->epilogue || !(is_op(norm, "rms_norm") || is_op(norm, "layer_norm")) || norm->epilogue) return false;
  const node *wide = node_in(norm, 0)->producer;
  const kiln_dtype to = n->outputs[0]->type.dtype;
  if (!is_op(wide, "cast") || wide->epilogue || node_in(norm, 0)->type.dtype != KILN_F32) return false;
  if ((to != KILN_F16 && to != KILN_BF16) || node_in(wide, 0)->type.dtype != to || !read_once(norm->outputs[0]))
    return false;
  for (int i = 1; i < norm->n_inputs; i++) {
    if (node_in(norm, i)) return false;
  }
  b->path = norm->path;
  b->source = norm->source;
  return replace(n, build(b, norm->op->name, IN(node_in(wide, 0)),
                          ATTRS({"dims", *node_attr(norm, "dims")}, {"eps", *node_attr(norm, "eps")})));
}

/* concat(-x[half..], x[..half]) of the last dimension, which rotary positions need, as x rolled by a half times constant signs: one
 * kernel that moves, while the signs go into the chain that reads it. */
static bool rotated_half(builder *b, node *n) {
  const node *minus = node_in(n, 0)->producer, *low = n->n_inputs == 2 ? node_in(n, 1)->producer : NULL;
  const tensor_type *t = &n->outputs[0]->type;
  const int last = t->rank - 1;
  if (!low || n->epilogue || !is_op(minus, "neg") || minus->epilogue || !is_op(low, "slice")) return false;
  const node *high = node_in(minus, 0)->producer;
  if (!is_op(high, "slice") || node_in(high, 0) != node_in(low, 0) || !read_once(minus->outputs[0])) return false;
  if (node_int(n, "axis") != last || node_int(low, "axis") != last || node_int(high, "axis") != last) return false;
  value *x = node_in(low, 0);
  if (node_int(low, "step") != 1 || node_int(high, "step") != 1) return false;
  if (!dim_is_const(t->dims[last]) || t->dims[last] < 2 || t->dims[last] % 2 != 0 || t->dims[last] > 1024) return false;
  const int64_t half = t->dims[last] / 2;
  if (!type_equal(&x->type, t) || !dtype_is_float(t->dtype) || t->dtype == KILN_F64) return false;
  if (low->outputs[0]->type.dims[last] != half || node_int(low, "start") != 0 || node_int(high, "start") != half)
    return false;
  const dim parts = half;
  value *ones = lowering_full(b, t->dtype, 1, &parts, 1), *minuses = lowering_full(b, t->dtype, 1, &parts, -1);
  value *signs = ones && minuses ? build(b, "concat", IN(minuses, ones), ATTRS(A_INT("axis", 0))) : NULL;
  const int64_t shift = half, axis = last;
  value *rolled = build(b, "roll", IN(x), ATTRS(A_INTS("shifts", &shift, 1), A_INTS("axes", &axis, 1)));
  return signs && rolled && replace(n, build(b, "mul", IN(rolled, signs), NO_ATTRS));
}

static const rule rules[] = {
    {"join products", "linear", join_products, NULL},
    {"norm between casts", "cast", norm_between_casts, NULL},
    {"rotated half", "concat", rotated_half, NULL},
    {"permute behind linear", "linear", permute_behind_linear, NULL},
    {"unmerge heads", "reshape", unmerge_heads, NULL},
    {"permute behind split", "reshape", permute_behind_split, NULL},
    {"heads behind merge", "reshape", heads_behind_merge, NULL},
};

kiln_status cuda_rewrite(const target *t, graph *g) {
  KILN_TRY(cuda_decompose(g));
  KILN_TRY(rules_run(g, rules, KILN_COUNT(rules)));
  KILN_TRY(pass_dead_code(g));
  KILN_TRY(pass_constant_fold(g, (size_t)1 << 16)); /* joined weights; biases of 0 */
  return cpu_rewrite(t, g);
}
