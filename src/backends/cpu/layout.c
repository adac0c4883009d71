/* Channels-last: convolutions compute on [N, spatial..., C]. Each one is wrapped in two permutes, and the permute
 * behind it then sinks through whatever follows until it meets the permute in front of the next one, and both vanish.
 *
 * "Back" permutes are those from channels-last to PyTorch's order, "front" permutes the inverse. Back permutes only
 * move down and front permutes only up, so the rules settle. */
#include "backends/cpu/layout.h"

#include <string.h>

#include "base/cpu_features.h"

enum { MAX_OPERANDS = 64 };

/* order[] of a back permute: [0, r-1, 1, 2, ...]; of a front permute: [0, 2, 3, ..., 1]. */
static void back_order(int rank, dim *order) {
  order[0] = 0;
  order[1] = rank - 1;
  for (int i = 2; i < rank; i++) order[i] = i - 1;
}
static void front_order(int rank, dim *order) {
  order[0] = 0;
  order[rank - 1] = 1;
  for (int i = 1; i < rank - 1; i++) order[i] = i + 1;
}
/* Where axis `i` of PyTorch's order is in channels-last. */
static int64_t axis_to_last(int rank, int64_t i) { return i == 0 ? 0 : i == 1 ? rank - 1 : i - 1; }

static bool is_op(const node *n, const char *name) { return n && strcmp(n->op->name, name) == 0; }

static bool order_is(const node *n, void (*make)(int, dim *)) {
  const int rank = n->outputs[0]->type.rank;
  if (rank < 3) return false;
  dim order[KILN_MAX_RANK];
  make(rank, order);
  const attr *a = node_attr(n, "order");
  return a->count == rank && memcmp(a->u.ints, order, (size_t)rank * sizeof *order) == 0;
}

/* The channels-last value behind `v`, or NULL. */
static value *behind_back(const value *v) {
  node *n = v ? v->producer : NULL;
  return is_op(n, "permute") && order_is(n, back_order) ? node_in(n, 0) : NULL;
}

static value *to_last(builder *b, value *v) {
  value *known = behind_back(v);
  if (known) return known;
  dim order[KILN_MAX_RANK];
  front_order(v->type.rank, order);
  return build(b, "permute", IN(v), ATTRS(A_INTS("order", order, v->type.rank)));
}

static value *to_torch(builder *b, value *v) {
  if (!v) return NULL;
  dim order[KILN_MAX_RANK];
  back_order(v->type.rank, order);
  return build(b, "permute", IN(v), ATTRS(A_INTS("order", order, v->type.rank)));
}

/* A copy of `n` with other inputs; its attributes may then be changed. */
static node *rebuild(builder *b, node *n, value *const *inputs) {
  const op_schema *s = op_schema_of(n->op);
  named_attr attrs[24];
  for (int32_t i = 0; i < s->n_attrs; i++) attrs[i] = (named_attr){s->attrs[i].name, n->attrs[i]};
  return node_create(b, n->op, n->n_inputs, inputs, s->n_attrs, attrs, n->n_outputs);
}

static bool finish(builder *b, node *n, node *copy) {
  if (!copy) return false;
  const kiln_status status = node_infer(copy);
  if (status != KILN_OK) {
    node_remove(copy);
    return false;
  }
  value *out = to_torch(b, copy->outputs[0]);
  if (!out) return false;
  value_replace_uses(n->outputs[0], out);
  return true;
}

static bool same_operands(node *n, value **inputs) {
  if (n->n_inputs > MAX_OPERANDS) return false;
  for (int32_t i = 0; i < n->n_inputs; i++) inputs[i] = n->inputs[i].v;
  return true;
}

/* ---- rules ------------------------------------------------------------------------------------------------------- */

/* conv(x) -> back(conv_last(front(x))) */
static bool wrap_conv(builder *b, node *n) {
  value *inputs[MAX_OPERANDS];
  const value *x = node_in(n, 0);
  if (node_bool(n, "channels_last") || n->epilogue || !dtype_is_float(x->type.dtype) || x->type.dtype == KILN_F64 ||
      x->type.rank < 3 || !same_operands(n, inputs))
    return false;
  inputs[0] = to_last(b, inputs[0]);
  node *copy = rebuild(b, n, inputs);
  if (copy) node_set_attr(copy, "channels_last", (attr){ATTR_BOOL, 0, {.i = 1}});
  return finish(b, n, copy);
}

/* pool(back(x)) -> back(pool_last(x)), and likewise for everything that has a channels_last attribute */
static bool sink_layout_op(builder *b, node *n) {
  value *inputs[MAX_OPERANDS];
  value *x = behind_back(node_in(n, 0));
  if (!x || n->n_outputs != 1 || n->epilogue || node_bool(n, "channels_last") || !same_operands(n, inputs))
    return false;
  inputs[0] = x;
  node *copy = rebuild(b, n, inputs);
  if (copy) node_set_attr(copy, "channels_last", (attr){ATTR_BOOL, 0, {.i = 1}});
  return finish(b, n, copy);
}

/* At rank 3 the two orders are one, so that a permute put before an operand looks like one to be sunk. There, only
 * fewer permutes than before are worth a step, or two operands would be turned for ever. */
static bool worth_sinking(int rank, int backs, int others) { return backs > 0 && (rank > 3 || backs > others); }

/* pointwise(back(x), ...) -> back(pointwise(x, ...)) */
static bool sink_pointwise(builder *b, node *n) {
  value *inputs[MAX_OPERANDS];
  if (!(n->op->flags & OP_POINTWISE) || n->n_outputs != 1 || n->n_blocks || !same_operands(n, inputs)) return false;
  const int rank = n->outputs[0]->type.rank;
  int backs = 0, others = 0;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    if (behind_back(inputs[i]))
      backs++;
    else if (inputs[i] && inputs[i]->type.rank > 0 && !inputs[i]->constant)
      others++;
  }
  if (rank < 3 || !worth_sinking(rank, backs, others)) return false;
  for (int32_t i = 0; i < n->n_inputs;
       i++) { /* ranks must agree, except for scalars; [C, 1, 1] gains its batch dimension */
    value *v = inputs[i];
    if (!v || v->type.rank == 0) continue;
    if (v->type.rank < rank) {
      dim dims[KILN_MAX_RANK];
      const int missing = rank - v->type.rank;
      for (int d = 0; d < rank; d++) dims[d] = d < missing ? 1 : v->type.dims[d - missing];
      inputs[i] = v = build(b, "reshape", IN(v), ATTRS(A_INTS("shape", dims, rank)));
    }
    inputs[i] = v ? to_last(b, v) : NULL;
  }
  return finish(b, n, rebuild(b, n, inputs));
}

static bool sink_axis(builder *b, node *n) { /* slice, flip...: one input, one `axis` */
  value *x = behind_back(node_in(n, 0));
  if (!x || n->n_inputs != 1 || n->n_outputs != 1) return false;
  node *copy = rebuild(b, n, &x);
  if (copy) node_set_attr(copy, "axis", (attr){ATTR_INT, 0, {.i = axis_to_last(x->type.rank, node_int(n, "axis"))}});
  return finish(b, n, copy);
}

/* concat where most inputs are back permutes */
static bool sink_concat(builder *b, node *n) {
  value *inputs[MAX_OPERANDS];
  if (!same_operands(n, inputs)) return false;
  int backs = 0;
  for (int32_t i = 0; i < n->n_inputs; i++) backs += behind_back(inputs[i]) != NULL;
  const int rank = n->outputs[0]->type.rank;
  if (backs * 2 < n->n_inputs || !worth_sinking(rank, backs, n->n_inputs - backs)) return false;
  for (int32_t i = 0; i < n->n_inputs; i++) inputs[i] = to_last(b, inputs[i]);
  node *copy = rebuild(b, n, inputs);
  if (copy) node_set_attr(copy, "axis", (attr){ATTR_INT, 0, {.i = axis_to_last(rank, node_int(n, "axis"))}});
  return finish(b, n, copy);
}

static bool sink_pad(builder *b, node *n) {
  value *x = behind_back(node_in(n, 0));
  if (!x) return false;
  node *copy = rebuild(b, n, &x);
  static const char *const names[] = {"before", "after"};
  for (int k = 0; copy && k < 2; k++) {
    const attr *old = node_attr(n, names[k]);
    dim moved[KILN_MAX_RANK] = {0};
    if (old->count != x->type.rank) {
      node_remove(copy);
      return false;
    }
    for (int i = 0; i < old->count; i++) moved[axis_to_last(x->type.rank, i)] = old->u.ints[i];
    node_set_attr(copy, names[k], (attr){ATTR_INTS, old->count, {.ints = moved}});
  }
  return finish(b, n, copy);
}

static bool by_value(const int64_t *a, int count, int64_t v) {
  for (int i = 0; i < count; i++) {
    if (a[i] == v) return true;
  }
  return false;
}

/* Reductions: with keepdim the back permute sinks; without, it vanishes if the axes that stay keep their order. */
static bool sink_reduce(builder *b, node *n) {
  value *x = behind_back(node_in(n, 0));
  if (!x) return false;
  const int rank = x->type.rank;
  const attr *axes = node_attr(n, "axes");
  const bool keep = node_bool(n, "keepdim"), channels = axes->count == 0 || by_value(axes->u.ints, axes->count, 1);
  bool spatial_left = false;
  for (int i = 2; i < rank; i++)
    spatial_left = spatial_left || (axes->count && !by_value(axes->u.ints, axes->count, i));
  if (!keep && !channels && spatial_left) return false;
  dim moved[KILN_MAX_RANK];
  for (int i = 0; i < axes->count; i++) moved[i] = axis_to_last(rank, axes->u.ints[i]);
  node *copy = rebuild(b, n, &x);
  if (!copy) return false;
  node_set_attr(copy, "axes", (attr){ATTR_INTS, axes->count, {.ints = moved}});
  if (keep) return finish(b, n, copy);
  if (node_infer(copy) != KILN_OK) {
    node_remove(copy);
    return false;
  }
  value_replace_uses(n->outputs[0], copy->outputs[0]);
  return true;
}

/* permute(permute(x)) -> permute(x), or x */
static bool merge_permutes(builder *b, node *n) {
  node *inner = node_in(n, 0)->producer;
  if (!is_op(inner, "permute")) return false;
  const attr *outer_order = node_attr(n, "order"), *inner_order = node_attr(inner, "order");
  dim order[KILN_MAX_RANK];
  bool identity = true;
  for (int i = 0; i < outer_order->count; i++) {
    order[i] = inner_order->u.ints[outer_order->u.ints[i]];
    identity = identity && order[i] == i;
  }
  value *x = node_in(inner, 0);
  value *merged = identity ? x : build(b, "permute", IN(x), ATTRS(A_INTS("order", order, outer_order->count)));
  if (!merged) return false;
  value_replace_uses(n->outputs[0], merged);
  return true;
}

/* A permute that only moves axes of size 1 is a reshape. */
static bool permute_of_ones(builder *b, node *n) {
  const value *x = node_in(n, 0);
  const attr *order = node_attr(n, "order");
  int64_t last = -1;
  for (int i = 0; i < order->count; i++) {
    if (x->type.dims[order->u.ints[i]] == 1) continue;
    if (order->u.ints[i] < last) return false;
    last = order->u.ints[i];
  }
  value *out = build(b, "reshape", IN(node_in(n, 0)), ATTRS(A_INTS("shape", n->outputs[0]->type.dims, order->count)));
  if (!out) return false;
  value_replace_uses(n->outputs[0], out);
  return true;
}

/* Flattened spatial axes: permute[0,2,1](reshape[N,C,HW](back(x))) -> reshape[N,HW,C](x) */
static bool flatten_spatial(builder *b, node *n) {
  node *r = node_in(n, 0)->producer;
  if (!order_is(n, front_order) || n->outputs[0]->type.rank != 3 || !is_op(r, "reshape")) return false;
  value *x = behind_back(node_in(r, 0));
  const tensor_type *flat = &r->outputs[0]->type;
  if (!x || x->type.rank < 4 || x->type.dims[0] != flat->dims[0] || x->type.dims[x->type.rank - 1] != flat->dims[1])
    return false;
  value *out = build(b, "reshape", IN(x), ATTRS(A_INTS("shape", n->outputs[0]->type.dims, 3)));
  if (!out) return false;
  value_replace_uses(n->outputs[0], out);
  return true;
}

/* And the way back: reshape[N,C,H,W](permute[0,2,1](x)) -> back(reshape[N,H,W,C](x)), which then sinks. */
static bool unflatten_spatial(builder *b, node *n) {
  const tensor_type *out_type = &n->outputs[0]->type;
  node *p = node_in(n, 0)->producer;
  if (out_type->rank < 4 || !is_op(p, "permute") || p->outputs[0]->type.rank != 3 || !order_is(p, back_order))
    return false;
  const tensor_type *x = &node_in(p, 0)->type;
  if (x->dims[0] != out_type->dims[0] || x->dims[2] != out_type->dims[1]) return false;
  dim dims[KILN_MAX_RANK];
  for (int i = 0; i < out_type->rank; i++) dims[axis_to_last(out_type->rank, i)] = out_type->dims[i];
  value *out = to_torch(b, build(b, "reshape", IN(node_in(p, 0)), ATTRS(A_INTS("shape", dims, out_type->rank))));
  if (!out) return false;
  value_replace_uses(n->outputs[0], out);
  return true;
}

/* pointwise(reshape(x)) -> reshape(pointwise(x)), and the same for permute, where x is the only operand that is no
 * scalar: the operator then stands next to what makes x and can be fused into it. */
static bool sink_view(builder *b, node *n) {
  value *inputs[MAX_OPERANDS];
  int at = -1;
  if (!(n->op->flags & OP_POINTWISE) || n->n_outputs != 1 || n->n_blocks || !same_operands(n, inputs)) return false;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    if (!inputs[i] || inputs[i]->type.rank == 0) continue;
    if (at >= 0 && inputs[i] != inputs[at]) return false;
    at = at < 0 ? i : at;
  }
  node *view = at < 0 ? NULL : inputs[at]->producer;
  if ((!is_op(view, "reshape") && !is_op(view, "permute")) || value_single_user(inputs[at]) == NULL) return false;
  const node *maker = node_in(view, 0)->producer;
  if (!maker || !(maker->op->flags & OP_ANCHOR)) return false;
  value *moved = inputs[at];
  for (int32_t i = 0; i < n->n_inputs; i++) inputs[i] = inputs[i] == moved ? node_in(view, 0) : inputs[i];
  node *copy = rebuild(b, n, inputs);
  if (!copy || node_infer(copy) != KILN_OK) return false;
  const char *name = is_op(view, "reshape") ? "shape" : "order";
  value *out = build(b, view->op->name, IN(copy->outputs[0]), ATTRS({name, *node_attr(view, name)}));
  if (!out) return false;
  value_replace_uses(n->outputs[0], out);
  return true;
}

const rule cpu_layout_rules[] = {
    {"merge permutes", "permute", merge_permutes, NULL},
    {"permute of ones", "permute", permute_of_ones, NULL},
    {"flatten spatial", "permute", flatten_spatial, NULL},
    {"unflatten spatial", "reshape", unflatten_spatial, NULL},
    {"channels-last conv", "conv", wrap_conv, NULL},
    {"channels-last max_pool", "max_pool", sink_layout_op, NULL},
    {"channels-last avg_pool", "avg_pool", sink_layout_op, NULL},
    {"channels-last adaptive_avg_pool", "adaptive_avg_pool", sink_layout_op, NULL},
    {"channels-last resize", "resize", sink_layout_op, NULL},
    {"channels-last batch_norm", "batch_norm", sink_layout_op, NULL},
    {"channels-last group_norm", "group_norm", sink_layout_op, NULL},
    {"channels-last slice", "slice", sink_axis, NULL},
    {"channels-last concat", "concat", sink_concat, NULL},
    {"channels-last pad", "pad", sink_pad, NULL},
    {"channels-last mean", "mean", sink_reduce, NULL},
    {"channels-last sum", "sum", sink_reduce, NULL},
    {"channels-last amax", "amax", sink_reduce, NULL},
    {"channels-last pointwise", NULL, sink_pointwise, NULL},
    {"view behind pointwise", NULL, sink_view, NULL},
};
const size_t cpu_layout_rule_count = KILN_COUNT(cpu_layout_rules);
