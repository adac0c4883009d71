/* Small helpers for matching in rules. */
#include "passes/match.h"
#include "passes/origin.h"

#include <math.h>
#include <string.h>

#include "ops/ref.h"

node *producer_of(const value *v, const char *op_name) {
  node *n = v ? v->producer : NULL;
  return n && !n->epilogue && strcmp(n->op->name, op_name) == 0 ? n : NULL;
}

bool only_use(const value *v) { return v->uses && !v->uses->next && v->uses->user; }

bool scalar_constant(const value *v, double *out) {
  if (!v || !v->constant || v->constant->packing || constant_is_missing(v->constant)) return false;
  for (int i = 0; i < v->type.rank; i++) {
    if (v->type.dims[i] != 1) return false;
  }
  const tensor t = {.data = (void *)(uintptr_t)v->constant->data, .dtype = v->type.dtype};
  *out = ref_load(&t, 0);
  return true;
}

bool add_constant(const value *v, double c, const value **other) {
  const node *n = producer_of(v, "add");
  for (int i = 0; n && i < 2; i++) {
    double got = 0;
    if (!scalar_constant(node_in(n, i), &got) || fabs(got - c) > 1e-6 * fabs(c)) continue;
    *other = node_in(n, 1 - i);
    return true;
  }
  return false;
}

bool replace(node *n, value *with) {
  if (!with || !type_equal(&with->type, &n->outputs[0]->type)) return false;
  value_replace_uses(n->outputs[0], with);
  return true;
}
