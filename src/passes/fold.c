/* Folding of per-channel arithmetic into the weights in front of it.
 *
 * An affine map per output channel behind a convolution or linear layer, y = s * (W x + b) + t, is the same layer with
 * weights s * W and bias s * b + t. Batch norm with constant statistics is such a map: s = gamma / sqrt(var + eps), t =
 * beta - mean * s. The new weights are written as ordinary nodes and evaluated by constant folding. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "ops/ref.h"
#include "passes/rule_files.h"

static bool is_op(const node *n, const char *name) { return n && strcmp(n->op->name, name) == 0; }
static bool is_constant(const value *v) { return v && v->constant && !v->constant->packing; }

/* The conv or linear that makes `v`, if nobody else reads `v` and its weights are constant. */
static node *layer_behind(const value *v) {
  node *n = v ? v->producer : NULL;
  if ((!is_op(n, "conv") && !is_op(n, "linear")) || n->epilogue || value_single_user(v) == NULL || value_is_result(v))
    return NULL;
  if (!is_constant(node_in(n, 1)) || (node_in(n, 2) && !is_constant(node_in(n, 2)))) return NULL;
  return dtype_is_float(v->type.dtype) ? n : NULL;
}

/* Which axis of the layer's output has the channels, and how many there are. */
static int channel_axis(const node *layer) {
  if (is_op(layer, "linear")) return layer->outputs[0]->type.rank - 1;
  return node_bool(layer, "channels_last") ? layer->outputs[0]->type.rank - 1 : 1;
}
static int64_t channel_count(const node *layer) {
  const tensor_type *w = &node_in(layer, 1)->type;
  if (is_op(layer, "conv") && node_bool(layer, "transposed")) return w->dims[1] * node_int(layer, "groups");
  return w->dims[0];
}

static value *reshape(builder *b, value *v, int rank, const dim *dims) {
  return v ? build(b, "reshape", IN(v), ATTRS(A_INTS("shape", dims, rank))) : NULL;
}
static value *binary(builder *b, const char *op_name, value *x, value *y) {
  return x && y ? build(b, op_name, IN(x, y), NO_ATTRS) : NULL;
}
static value *cast_to(builder *b, value *v, kiln_dtype d) {
  return v ? build(b, "cast", IN(v), ATTRS(A_DTYPE("dtype", d))) : NULL;
}
static value *double_of(builder *b, value *v) { return cast_to(b, v, KILN_F64); }

/* Weights with each output channel scaled by s[C]. Transposed convolutions have [I, O/groups, k...]: input channels of
 * group g feed output channels of group g, so the weight is seen as [groups, I/groups, O/groups, k...]. */
static value *scale_weight(builder *b, const node *layer, value *s) {
  const kiln_dtype d = node_in(layer, 1)->type.dtype, wide = d == KILN_F64 ? KILN_F64 : KILN_F32; /* rounds once */
  value *w = cast_to(b, node_in(layer, 1), wide);
  s = cast_to(b, s, wide);
  if (!w || !s) return NULL;
  dim shape[KILN_MAX_RANK + 1], scale[KILN_MAX_RANK + 1];
  const int rank = w->type.rank;
  if (!is_op(layer, "conv") || !node_bool(layer, "transposed")) {
    for (int i = 0; i < rank; i++) scale[i] = i == 0 ? w->type.dims[0] : 1;
    return cast_to(b, binary(b, "mul", w, reshape(b, s, rank, scale)), d);
  }
  const int64_t groups = node_int(layer, "groups");
  shape[0] = groups;
  shape[1] = w->type.dims[0] / groups;
  scale[0] = groups;
  scale[1] = 1;
  for (int i = 1; i < rank; i++) {
    shape[i + 1] = w->type.dims[i];
    scale[i + 1] = i == 1 ? w->type.dims[1] : 1;
  }
  value *split = binary(b, "mul", reshape(b, w, rank + 1, shape), reshape(b, s, rank + 1, scale));
  return cast_to(b, reshape(b, split, rank, w->type.dims), d);
}

/* layer with weights `w` and bias `bias` (either may be the old one). */
static value *build_layer(builder *b, const node *layer, value *w, value *bias) {
  const op_schema *s = op_schema_of(layer->op);
  named_attr attrs[24];
  for (int32_t i = 0; i < s->n_attrs; i++) attrs[i] = (named_attr){s->attrs[i].name, layer->attrs[i]};
  b->path = layer->path;
  b->source = layer->source;
  return w ? build(b, layer->op->name, IN(node_in(layer, 0), w, bias), s->n_attrs, attrs) : NULL;
}

/* The same in place of `n`. */
static bool replace_layer(builder *b, node *n, const node *layer, value *w, value *bias) {
  value *out = build_layer(b, layer, w, bias);
  if (!out) return false;
  value_replace_uses(n->outputs[0], out);
  return true;
}

/* s and t of a batch_norm node, in double so that folding rounds once. */
static bool norm_affine(builder *b, const node *n, value **s, value **t) {
  for (int i = 1; i < 5; i++) {
    if (node_in(n, i) && !is_constant(node_in(n, i))) return false;
  }
  graph *g = b->graph;
  value *var = double_of(b, node_in(n, 2)), *mean = double_of(b, node_in(n, 1));
  value *scale =
      build(b, "rsqrt", IN(binary(b, "add", var, graph_scalar(g, KILN_F64, node_float(n, "eps")))), NO_ATTRS);
  if (node_in(n, 3)) scale = binary(b, "mul", scale, double_of(b, node_in(n, 3)));
  value *shift = scale ? build(b, "neg", IN(binary(b, "mul", mean, scale)), NO_ATTRS) : NULL;
  if (node_in(n, 4)) shift = binary(b, "add", shift, double_of(b, node_in(n, 4)));
  *s = scale;
  *t = shift;
  return scale && shift;
}

/* Weights of 16 bits were rounded once by whoever made them; scaled, they would be again, which alone makes errors a fifth
 * larger. A scale beside them costs nothing in an epilogue. */
static bool rounds_again(const node *layer) { return kiln_dtype_size(node_in(layer, 1)->type.dtype) == 2; }

/* batch_norm(layer(x)) -> layer(x) with other weights */
static bool fold_norm(builder *b, node *n) {
  node *layer = layer_behind(node_in(n, 0));
  value *s = NULL, *t = NULL;
  if (!layer || rounds_again(layer) ||
      channel_axis(layer) != (node_bool(n, "channels_last") ? n->outputs[0]->type.rank - 1 : 1))
    return false;
  if (!norm_affine(b, n, &s, &t)) return false;
  const kiln_dtype d = n->outputs[0]->type.dtype;
  value *bias = t;
  if (node_in(layer, 2)) bias = binary(b, "add", binary(b, "mul", double_of(b, node_in(layer, 2)), s), t);
  return replace_layer(b, n, layer, scale_weight(b, layer, s), cast_to(b, bias, d));
}

/* batch_norm(x) alone -> x * s + t, in f32 at least */
static bool norm_to_affine(builder *b, node *n) {
  const tensor_type *type = &n->outputs[0]->type;
  const node *layer = layer_behind(node_in(n, 0));
  value *s = NULL, *t = NULL;
  if (!dtype_is_float(type->dtype) || (layer && !rounds_again(layer)) || !norm_affine(b, n, &s, &t)) return false;
  const kiln_dtype wide = type->dtype == KILN_F64 ? KILN_F64 : KILN_F32;
  dim shape[KILN_MAX_RANK];
  const int axis = node_bool(n, "channels_last") ? type->rank - 1 : 1;
  for (int i = 0; i < type->rank; i++) shape[i] = i == axis ? s->type.dims[0] : 1;
  s = reshape(b, cast_to(b, s, wide), type->rank, shape);
  t = reshape(b, cast_to(b, t, wide), type->rank, shape);
  value *out = binary(b, "add", binary(b, "mul", cast_to(b, node_in(n, 0), wide), s), t);
  out = cast_to(b, out, type->dtype);
  if (!out) return false;
  value_replace_uses(n->outputs[0], out);
  return true;
}

/* ---- constants per channel --------------------------------------------------------------------------------------- */

/* `c` broadcast along everything but the channel axis of the layer's output: then as [C], else NULL. */
static value *per_channel(builder *b, const node *layer, value *c) {
  const tensor_type *out = &layer->outputs[0]->type;
  const int axis = channel_axis(layer);
  if (!is_constant(c) || c->type.dtype != out->dtype || c->type.rank > out->rank || !dim_is_const(out->dims[axis]))
    return NULL;
  const int64_t channels = channel_count(layer);
  bool all = false;
  for (int i = 0; i < c->type.rank; i++) {
    const int at = i + out->rank - c->type.rank;
    if (c->type.dims[i] == 1) continue;
    if (at != axis || c->type.dims[i] != channels) return NULL;
    all = true;
  }
  if (all) return reshape(b, c, 1, (dim[]){channels});
  return build(b, "expand", IN(reshape(b, c, 1, (dim[]){1})), ATTRS(A_INTS("shape", ((dim[]){channels}), 1)));
}

/* The operand of `n` that is a layer, and the other one. */
static node *layer_operand(node *n, value **other) {
  for (int i = 0; i < 2; i++) {
    node *layer = layer_behind(node_in(n, i));
    if (layer && type_equal(&layer->outputs[0]->type, &n->outputs[0]->type)) {
      *other = node_in(n, 1 - i);
      return layer;
    }
  }
  return NULL;
}

/* layer(x) + c -> layer(x) with bias b + c */
static bool fold_add(builder *b, node *n) {
  value *other = NULL;
  node *layer = layer_operand(n, &other);
  if (!layer || !is_constant(other)) return false;
  value *c = per_channel(b, layer, other);
  if (!c) return false;
  if (node_in(layer, 2)) c = binary(b, "add", node_in(layer, 2), c);
  return c && replace_layer(b, n, layer, node_in(layer, 1), c);
}

static bool is_one_number(const value *v) {
  for (int i = 0; i < v->type.rank; i++) {
    if (v->type.dims[i] != 1) return false;
  }
  return true;
}

/* layer(x) * c -> layer(x) with weights W * c and bias b * c. One number for all channels is mostly the scale of an attention's
 * queries, a power of two; without it three products are one. */
static bool fold_mul(builder *b, node *n) {
  value *other = NULL;
  node *layer = layer_operand(n, &other);
  if (!layer || !is_constant(other) || (rounds_again(layer) && !is_one_number(other))) return false;
  value *c = per_channel(b, layer, other);
  if (!c) return false;
  value *bias = node_in(layer, 2) ? binary(b, "mul", node_in(layer, 2), c) : NULL;
  return replace_layer(b, n, layer, scale_weight(b, layer, c), bias);
}

/* ---- layers side by side ------------------------------------------------------------------------------------------ */

/* Constant, or about to be: what rules of this sweep made of weights is evaluated after it. */
static bool is_weight(const value *v, int depth) {
  static const char *const ops[] = {"add", "mul", "cast", "reshape", "slice", "slice_scatter"};
  if (is_constant(v)) return true;
  const node *n = v ? v->producer : NULL;
  bool known = false;
  for (size_t i = 0; n && i < KILN_COUNT(ops); i++) known = known || is_op(n, ops[i]);
  if (!known || n->epilogue || depth == 0) return false;
  for (int i = 0; i < n->n_inputs; i++) {
    if (!is_weight(node_in(n, i), depth - 1)) return false;
  }
  return true;
}

static node *layer_to_merge(const value *v) {
  enum { DEPTH = 24 };
  node *n = v ? v->producer : NULL;
  if ((!is_op(n, "conv") && !is_op(n, "linear")) || n->epilogue || !value_single_user(v) || value_is_result(v) ||
      !is_weight(node_in(n, 1), DEPTH) || (node_in(n, 2) && !is_weight(node_in(n, 2), DEPTH)))
    return NULL;
  return !rounds_again(n) && dtype_is_float(v->type.dtype) ? n : NULL;
}

/* Is each place of `small`'s window one of `large`'s? Then where small's first is, along each spatial axis. */
static bool window_within(const node *large, const node *small, int64_t first[KILN_MAX_RANK]) {
  const tensor_type *to = &node_in(large, 1)->type, *from = &node_in(small, 1)->type;
  for (int i = 0; i + 2 < to->rank; i++) {
    const int64_t dilation = node_attr(large, "dilation")->u.ints[i];
    const int64_t before = node_attr(large, "pad")->u.ints[i] - node_attr(small, "pad")->u.ints[i];
    if (node_attr(large, "stride")->u.ints[i] != node_attr(small, "stride")->u.ints[i] || before < 0 || dilation < 1 ||
        before % dilation != 0 || (from->dims[i + 2] > 1 && dilation != node_attr(small, "dilation")->u.ints[i]))
      return false;
    first[i] = before / dilation;
    if (first[i] + from->dims[i + 2] > to->dims[i + 2]) return false;
  }
  return true;
}

/* `large` plus `small` at first[], axis by axis from `axis` on. */
static value *add_window(builder *b, value *large, value *small, const int64_t *first, int axis) {
  if (!large || axis == large->type.rank) return binary(b, "add", large, small);
  const dim start = first[axis - 2], end = start + small->type.dims[axis];
  if (start == 0 && end == large->type.dims[axis]) return add_window(b, large, small, first, axis + 1);
  value *part = build(b, "slice", IN(large), ATTRS(A_INT("axis", axis), A_INT("start", start), A_INT("end", end)));
  part = add_window(b, part, small, first, axis + 1);
  return part ? build(b, "slice_scatter", IN(large, part),
                      ATTRS(A_INT("axis", axis), A_INT("start", start), A_INT("end", end), A_INT("step", 1)))
              : NULL;
}

/* The layer that is the sum of two, of which `large` has the larger window; NULL if there is none. */
static value *merged_layer(builder *b, const node *large, const node *small) {
  int64_t first[KILN_MAX_RANK] = {0};
  if (large->op != small->op || node_in(large, 0) != node_in(small, 0) ||
      !type_equal(&large->outputs[0]->type, &small->outputs[0]->type) ||
      node_in(large, 1)->type.dtype != node_in(small, 1)->type.dtype)
    return NULL;
  if (is_op(large, "conv") &&
      (node_bool(large, "transposed") || node_bool(small, "transposed") ||
       node_int(large, "groups") != node_int(small, "groups") ||
       node_bool(large, "channels_last") != node_bool(small, "channels_last") || !window_within(large, small, first)))
    return NULL;
  value *bias = node_in(large, 2), *more = node_in(small, 2);
  if (bias && more) bias = binary(b, "add", bias, more);
  value *w = add_window(b, node_in(large, 1), node_in(small, 1), first, 2);
  return build_layer(b, large, w, bias ? bias : more);
}

static value *merged_layers(builder *b, const node *one, const node *two) {
  value *out = one && two ? merged_layer(b, one, two) : NULL;
  return out || !one || !two ? out : merged_layer(b, two, one);
}

/* layer(x) + layer'(x) -> layer(x) with the sum of both weights, also where something else is added between them: branches of
 * networks that are trained so and meant to be merged (RepVGG, "RepVGG: Making VGG-style ConvNets Great Again", Ding 2021). A smaller
 * window goes into the larger one. */
static bool merge_layers(builder *b, node *n) {
  const tensor_type *type = &n->outputs[0]->type;
  value *out = merged_layers(b, layer_to_merge(node_in(n, 0)), layer_to_merge(node_in(n, 1)));
  for (int i = 0; !out && i < 2; i++) {
    const value *v = node_in(n, i);
    const node *sum = v ? v->producer : NULL, *layer = layer_to_merge(node_in(n, 1 - i));
    if (!layer || !is_op(sum, "add") || sum->epilogue || !value_single_user(v) || value_is_result(v)) continue;
    for (int k = 0; !out && k < 2; k++) {
      value *rest = node_in(sum, 1 - k);
      if (!rest || !type_equal(&rest->type, type)) continue;
      out = merged_layers(b, layer_to_merge(node_in(sum, k)), layer);
      if (out) out = binary(b, "add", rest, out);
    }
  }
  if (!out || !type_equal(&out->type, type)) return false;
  value_replace_uses(n->outputs[0], out);
  return true;
}

/* conv(pad0(x)) -> conv(x) with more padding */
static bool fold_pad(builder *b, node *n) {
  node *p = node_in(n, 0)->producer;
  if (!is_op(p, "pad") || strcmp(node_str(p, "mode"), "constant") != 0 || node_float(p, "value") != 0 ||
      node_bool(n, "transposed"))
    return false;
  const attr *before = node_attr(p, "before"), *after = node_attr(p, "after");
  const attr *pad = node_attr(n, "pad"), *pad_end = node_attr(n, "pad_end");
  const int rank = node_in(n, 0)->type.rank, first = node_bool(n, "channels_last") ? 1 : 2;
  dim starts[KILN_MAX_RANK], ends[KILN_MAX_RANK];
  if (before->count != rank || after->count != rank || pad->count != rank - 2 || pad_end->count != rank - 2)
    return false;
  for (int i = 0; i < rank; i++) {
    const bool spatial = i >= first && i < first + rank - 2;
    const int64_t lo = before->u.ints[i], hi = after->u.ints[i];
    if (!dim_is_const(lo) || !dim_is_const(hi) || lo < 0 || hi < 0 || (!spatial && (lo || hi))) return false;
    if (spatial) {
      starts[i - first] = pad->u.ints[i - first] + lo;
      ends[i - first] = pad_end->u.ints[i - first] + hi;
    }
  }
  const op_schema *s = op_schema_of(n->op);
  named_attr attrs[24];
  for (int32_t i = 0; i < s->n_attrs; i++) {
    attrs[i] = (named_attr){s->attrs[i].name, n->attrs[i]};
    if (strcmp(s->attrs[i].name, "pad") == 0) attrs[i].value.u.ints = starts;
    if (strcmp(s->attrs[i].name, "pad_end") == 0) attrs[i].value.u.ints = ends;
  }
  value *out = build(b, "conv", IN(node_in(p, 0), node_in(n, 1), node_in(n, 2)), s->n_attrs, attrs);
  if (!out) return false;
  value_replace_uses(n->outputs[0], out);
  return true;
}

const rule fold_rules[] = {
    {"layer+batch_norm", "batch_norm", fold_norm,
     "kiln.graph 1\nconst %w : f32[2,1,1,1] = {2.0, -3.0}\nconst %m : f32[2] = {0.5, 1.0}\nconst %v : f32[2] = {1.0, "
     "4.0}\n"
     "input \"x\" %x : f32[1,1,3,2]\n%c = conv(%x, %w, none) {stride=[1, 1], pad=[0, 0], pad_end=[0, 0], dilation=[1, "
     "1], "
     "output_pad=[0, 0]} : f32[1,2,3,2]\n%y = batch_norm(%c, %m, %v, none, none) {eps=1e-05} : f32[1,2,3,2]\noutput "
     "\"y\" %y\n"},
    {"batch_norm alone", "batch_norm", norm_to_affine,
     "kiln.graph 1\nconst %m : f32[2] = {0.5, 1.0}\nconst %v : f32[2] = {1.0, 4.0}\ninput \"x\" %x : f32[2,2,3]\n"
     "%y = batch_norm(%x, %m, %v, %v, %m) {eps=1e-05} : f32[2,2,3]\noutput \"y\" %y\n"},
    {"layer+constant", "add", fold_add,
     "kiln.graph 1\nconst %w : f32[2,3] = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}\nconst %c : f32[2] = {0.5, 1.0}\ninput \"x\" "
     "%x : f32[4,3]\n"
     "%l = linear(%x, %w, none) : f32[4,2]\n%y = add(%c, %l) : f32[4,2]\noutput \"y\" %y\n"},
    {"layer*constant", "mul", fold_mul,
     "kiln.graph 1\nconst %w : f32[2,3] = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}\nconst %c : f32[] = {0.5}\ninput \"x\" %x : "
     "f32[4,3]\n"
     "%l = linear(%x, %w, none) : f32[4,2]\n%y = mul(%l, %c) : f32[4,2]\noutput \"y\" %y\n"},
    {"layer+layer", "add", merge_layers,
     "kiln.graph 1\nconst %w : f32[1,1,3] = {2.0, -3.0, 1.0}\nconst %u : f32[1,1,1] = {0.5}\nconst %c : f32[1] = "
     "{4.0}\n"
     "input \"x\" %x : f32[1,1,5]\ninput \"z\" %z : f32[1,1,5]\n"
     "%a = conv(%x, %w, none) {stride=[1], pad=[1], pad_end=[1], dilation=[1], output_pad=[0]} : f32[1,1,5]\n"
     "%b = conv(%x, %u, %c) {stride=[1], pad=[0], pad_end=[0], dilation=[1], output_pad=[0]} : f32[1,1,5]\n"
     "%s = add(%z, %b) : f32[1,1,5]\n%y = add(%s, %a) : f32[1,1,5]\noutput \"y\" %y\n"},
    {"pad+conv", "conv", fold_pad,
     "kiln.graph 1\nconst %w : f32[1,1,3] = {2.0, -3.0, 1.0}\ninput \"x\" %x : f32[1,1,5]\n"
     "%p = pad(%x) {before=[0, 0, 1], after=[0, 0, 2]} : f32[1,1,8]\n%y = conv(%p, %w, none) {stride=[1], pad=[1], "
     "pad_end=[0], "
     "dilation=[1], output_pad=[0]} : f32[1,1,7]\noutput \"y\" %y\n"},
};
const size_t fold_rule_count = KILN_COUNT(fold_rules);
