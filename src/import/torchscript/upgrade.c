/* Calls in files of older operator versions, as what they meant then (PyTorch's "operator upgraders"):
 *
 *   div of integers, to version 3       rounds towards zero; since then it is the true quotient
 *   full without dtype, to version 4    gives floats also for an int or bool; since then the number's type
 *   linspace, to version 7              `steps` may be left out, or None: 100 */
#include <string.h>

#include "import/torchscript/interpreter.h"

enum { MAX_ARGUMENTS = 32 };

/* Of an argument that is at this position or has this name; -1: it is not given. */
static int argument_at(const ts_call *c, int position, const char *name) {
  for (int i = 0; i < c->n; i++) {
    const char *own = c->names ? c->names[i] : NULL;
    if (own ? str_eq(own, name) : i == position) return i;
  }
  return -1;
}

/* With a named argument more, or another value for it. */
static kiln_status with_argument(interp *it, const ts_call *c, int at, const char *name, ts_value v, ts_call *out) {
  const int n = at < 0 ? c->n + 1 : c->n;
  ts_value *args = ARENA_ARRAY(it->arena, ts_value, n);
  const char **names = ARENA_ARRAY(it->arena, const char *, n);
  if (!args || !names) return interp_no_memory(it);
  for (int i = 0; i < c->n; i++) {
    args[i] = c->args[i];
    names[i] = c->names ? c->names[i] : NULL;
  }
  if (at < 0) names[c->n] = name;
  args[at < 0 ? c->n : at] = v;
  *out = (ts_call){c->name, n, args, names};
  return KILN_OK;
}

static bool is_floating(interp *it, const ts_value *v) {
  const value *x = v->kind == TSV_TENSOR ? lower_value(&it->b, v->u.tensor) : v->kind == TSV_DATA ? v->u.data : NULL;
  if (v->kind == TSV_TENSOR || v->kind == TSV_DATA) return !x || dtype_is_float(x->type.dtype); /* NULL: complex */
  return v->kind == TSV_FLOAT;
}

static kiln_status upgrade_div(interp *it, const ts_call *c, ts_call *out) {
  const int x = argument_at(c, 0, "self"), y = argument_at(c, 1, "other");
  if (x < 0 || y < 0 || argument_at(c, 2, "rounding_mode") >= 0) return KILN_OK;
  if (c->args[x].kind != TSV_TENSOR || is_floating(it, &c->args[x]) || is_floating(it, &c->args[y])) return KILN_OK;
  return with_argument(it, c, -1, "rounding_mode", of_string("trunc"), out);
}

static kiln_status upgrade_full(interp *it, const ts_call *c, ts_call *out) {
  const int fill = argument_at(c, 1, "fill_value"), dtype = argument_at(c, 2, "dtype");
  if (fill < 0 || is_floating(it, &c->args[fill]) || (dtype >= 0 && c->args[dtype].kind != TSV_NONE)) return KILN_OK;
  return with_argument(it, c, dtype, "dtype", of_int(interp_dtype_code(KILN_F32)), out);
}

static kiln_status upgrade_steps(interp *it, const ts_call *c, ts_call *out) {
  const int steps = argument_at(c, 2, "steps");
  if (steps >= 0 && c->args[steps].kind != TSV_NONE) return KILN_OK;
  return with_argument(it, c, steps, "steps", of_int(100), out);
}

kiln_status interp_upgrade(interp *it, const ts_call *c, ts_call *out) {
  static const struct {
    const char *name;
    int64_t last; /* version that has the old meaning */
    kiln_status (*upgrade)(interp *, const ts_call *, ts_call *);
  } rows[] = {
      {"div", 3, upgrade_div}, {"div_", 3, upgrade_div}, {"full", 4, upgrade_full}, {"linspace", 7, upgrade_steps}};
  *out = *c;
  for (size_t i = 0; i < KILN_COUNT(rows); i++) {
    if (it->a->version > rows[i].last || !str_eq(c->name, rows[i].name)) continue;
    return c->n > MAX_ARGUMENTS ? KILN_OK : rows[i].upgrade(it, c, out);
  }
  return KILN_OK;
}
