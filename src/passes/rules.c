/* Joins the rule files. Rules of all files are tried in this order at each node. */
#include <string.h>

#include "passes/rules.h"

/* ---- canonicalize: nodes that do nothing, and chains of views ---------------------------------------------------------------- */

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

const rule portable_rules[] = {
    {"identity reshape", "reshape", identity, NULL},
    {"identity cast", "cast", identity, NULL},
    {"identity expand", "expand", identity, NULL},
    {"identity contiguous", "contiguous", identity, NULL},
    {"identity slice", "slice", identity, NULL}, /* same type means that nothing is cut */
    {"identity permute", "permute", identity_permute, NULL},
    {"reshape of reshape", "reshape", reshape_of_reshape, NULL},
    {"permute of permute", "permute", permute_of_permute, NULL},
};
const size_t portable_rule_count = KILN_COUNT(portable_rules);
