/* Canonical forms: nodes that do nothing vanish, chains of views become one. */
#include <string.h>

#include "passes/rule_files.h"

static bool forward(node *n, value *v) {
  if (!v || !type_equal(&v->type, &n->outputs[0]->type)) return false;
  value_replace_uses(n->outputs[0], v);
  return true;
}

static bool identity(builder *b, node *n) {
  (void)b;
  return forward(n, node_in(n, 0));
}

static bool identity_permute(builder *b, node *n) {
  const attr *order = node_attr(n, "order");
  (void)b;
  for (int32_t i = 0; i < order->count; i++) {
    if (order->u.ints[i] != i) return false;
  }
  return forward(n, node_in(n, 0));
}

/* Where only the values of max(dim) or min(dim) are read, no positions need to be found. On short axes the CPU's kernel with
 * positions is the faster one. */
static bool extreme_value(builder *b, node *n) {
  const value *x = node_in(n, 0);
  if (n->outputs[1]->uses || !x || x->type.rank < 1 || !dtype_is_float(x->type.dtype)) return false;
  enum { SHORT = 64 };
  const int64_t axis = node_int(n, "axis");
  if (axis < 0 || axis >= x->type.rank || !dim_is_const(x->type.dims[axis]) || x->type.dims[axis] < SHORT) return false;
  value *out = build(b, strcmp(n->op->name, "max_index") == 0 ? "amax" : "amin", IN(node_in(n, 0)),
                     ATTRS(A_INTS("axes", &axis, 1), A_BOOL("keepdim", node_bool(n, "keepdim"))));
  return forward(n, out);
}

static bool reshape_of_reshape(builder *b, node *n) {
  const node *inner = node_in(n, 0)->producer;
  if (!inner || strcmp(inner->op->name, "reshape") != 0) return false;
  value *out = build(b, "reshape", IN(node_in(inner, 0)), ATTRS({"shape", *node_attr(n, "shape")}));
  if (!out) return false;
  value_replace_uses(n->outputs[0], out);
  return true;
}

static bool permute_of_permute(builder *b, node *n) {
  const node *inner = node_in(n, 0)->producer;
  if (!inner || strcmp(inner->op->name, "permute") != 0) return false;
  const attr *outer_order = node_attr(n, "order"), *inner_order = node_attr(inner, "order");
  dim order[KILN_MAX_RANK];
  for (int32_t i = 0; i < outer_order->count; i++) order[i] = inner_order->u.ints[outer_order->u.ints[i]];
  value *out = build(b, "permute", IN(node_in(inner, 0)), ATTRS(A_INTS("order", order, outer_order->count)));
  if (!out) return false;
  value_replace_uses(n->outputs[0], out);
  return true;
}

/* relu(narrow(x)) -> narrow(relu(x)), the same numbers: roundings gather at the end of a chain, where storing does them. */
static bool narrow_last(builder *b, node *n) {
  const value *x = node_in(n, 0);
  const node *cast = x->producer;
  if (!cast || strcmp(cast->op->name, "cast") != 0 || value_single_user(x) == NULL || value_is_result(x)) return false;
  value *wide = node_in(cast, 0);
  if (wide->type.dtype != KILN_F32 || kiln_dtype_size(x->type.dtype) != 2 || !dtype_is_float(x->type.dtype))
    return false;
  value *out = build(b, "relu", IN(wide), NO_ATTRS);
  out = out ? build(b, "cast", IN(out), ATTRS(A_DTYPE("dtype", x->type.dtype))) : NULL;
  if (!out) return false;
  value_replace_uses(n->outputs[0], out);
  return true;
}

const rule canonicalize_rules[] = {
    {"identity reshape", "reshape", identity,
     "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n%y = reshape(%x) {shape=[2, 3]} : f32[2,3]\noutput \"y\" %y\n"},
    {"identity cast", "cast", identity,
     "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n%y = cast(%x) {dtype=f32} : f32[2,3]\noutput \"y\" %y\n"},
    {"narrow last", "relu", narrow_last,
     "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n%h = cast(%x) {dtype=f16} : f16[2,3]\n%y = relu(%h) : f16[2,3]\noutput "
     "\"y\" %y\n"},
    {"identity expand", "expand", identity,
     "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n%y = expand(%x) {shape=[2, 3]} : f32[2,3]\noutput \"y\" %y\n"},
    {"identity contiguous", "contiguous", identity,
     "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n%y = contiguous(%x) : f32[2,3]\noutput \"y\" %y\n"},
    {"identity slice", "slice", identity,
     "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n%y = slice(%x) {axis=1, start=0, end=3} : f32[2,3]\noutput \"y\" "
     "%y\n"}, /* same type means that nothing is cut */
    {"identity permute", "permute", identity_permute,
     "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n%y = permute(%x) {order=[0, 1]} : f32[2,3]\noutput \"y\" %y\n"},
    {"maximum without its place", "max_index", extreme_value,
     "kiln.graph 1\ninput \"x\" %x : f32[2,64]\n%y, %i = max_index(%x) {axis=1} : f32[2], i64[2]\noutput \"y\" %y\n"},
    {"minimum without its place", "min_index", extreme_value,
     "kiln.graph 1\ninput \"x\" %x : f32[70,3]\n%y, %i = min_index(%x) {axis=0, keepdim=true} : f32[1,3], i64[1,3]\n"
     "output \"y\" %y\n"},
    {"reshape of reshape", "reshape", reshape_of_reshape,
     "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n%z = reshape(%x) {shape=[6]} : f32[6]\n%y = reshape(%z) {shape=[3, "
     "2]} : f32[3,2]\noutput \"y\" %y\n"},
    {"permute of permute", "permute", permute_of_permute,
     "kiln.graph 1\ninput \"x\" %x : f32[2,3,4]\n%z = permute(%x) {order=[1, 2, 0]} : f32[3,4,2]\n"
     "%y = permute(%z) {order=[2, 1, 0]} : f32[2,4,3]\noutput \"y\" %y\n"},
};
const size_t canonicalize_rule_count = KILN_COUNT(canonicalize_rules);
