/* Nodes of .pt2 graphs that compute with sizes (_operator.add, aten.sym_size, torch.sym_max...), and nodes that only
 * check something at run time, which Kiln drops: the ranges of the symbols are checked when a context binds its shapes.
 *
 * Ints are dims. Comparisons are folded with the symbols' ranges. Floats that depend on a symbol become rank-0 f64
 * tensors. */
#include <math.h>
#include <string.h>

#include "import/export.h"
#include "import/export_internal.h"
#include "import/sympy.h"
#include "ops/ref.h"

typedef struct operands {
  pt2 *p;
  ivalue v[3];
  int n;
  const char *output; /* name of the result; NULL: none */
  const json_t *graph;
} operands;

typedef kiln_status (*symbol_fn)(operands *a, ivalue *out);

static ivalue int_value(dim d) {
  ivalue v = {.kind = IV_INT};
  v.u.i = d;
  return v;
}
static ivalue bool_value(int known) { /* 1, 0 or -1: unknown */
  ivalue v = {.kind = IV_BOOL};
  v.u.i = known < 0 ? BOOL_UNKNOWN : known;
  return v;
}
static ivalue float_value(double f) {
  ivalue v = {.kind = IV_FLOAT};
  v.u.f = f;
  return v;
}

static dim_table *table(const operands *a) { return a->p->graph->dims; }
static bool is_int(const ivalue *v) { return v->kind == IV_INT || (v->kind == IV_BOOL && v->u.i != BOOL_UNKNOWN); }
static bool ints(const operands *a) {
  for (int i = 0; i < a->n; i++)
    if (!is_int(&a->v[i])) return false;
  return true;
}
/* A number that is known now. */
static bool number(const ivalue *v, double *out) {
  if (v->kind == IV_FLOAT)
    *out = v->u.f;
  else if (is_int(v) && dim_is_const(v->u.i))
    *out = (double)v->u.i;
  else
    return false;
  return true;
}

static kiln_status need(const operands *a, int n) {
  return a->n == n ? KILN_OK : KILN_FAIL(KILN_INVALID_FILE, "model.json: expected %d arguments, got %d", n, a->n);
}

static kiln_status dim_result(dim d, ivalue *out) {
  if (d == DIM_ERROR) return dim_failure();
  *out = int_value(d);
  return KILN_OK;
}

/* The file says which expression each symbolic int is: the way out for operators that are not computed here. */
static kiln_status from_file(operands *a, ivalue *out) {
  const json_t *e = a->output ? json_object_get(json_object_get(a->graph, "sym_int_values"), a->output) : NULL;
  if (!e)
    return KILN_FAIL(KILN_UNSUPPORTED, "arithmetic on sizes that is not supported, with a result that is no integer");
  *out = (ivalue){.kind = IV_INT};
  return pt2_size(a->p, e, false, &out->u.i);
}

/* Floats that depend on sizes. */
static kiln_status float_binary(operands *a, const char *op_name, ivalue *out) {
  value *v[2];
  for (int i = 0; i < 2; i++) {
    v[i] = lower_cast(&a->p->b, pt2_number_tensor(a->p, &a->v[i]), KILN_F64);
    if (!v[i]) return KILN_FAIL(KILN_UNSUPPORTED, "arithmetic on sizes with an operand that is no number");
  }
  *out = (ivalue){.kind = IV_TENSOR};
  value *r = lower_binary(&a->p->b, op_name, v[0], v[1]);
  out->u.t = r ? lower_tensor(&a->p->im, r) : NULL;
  return out->u.t ? KILN_OK : graph_check(a->p->graph) != KILN_OK ? graph_check(a->p->graph) : KILN_NO_MEMORY("import");
}

static kiln_status arithmetic(operands *a, dim (*exact)(dim_table *, dim, dim), const char *op_name, ivalue *out) {
  KILN_TRY(need(a, 2));
  if (ints(a)) return dim_result(exact(table(a), a->v[0].u.i, a->v[1].u.i), out);
  double x, y;
  if (number(&a->v[0], &x) && number(&a->v[1], &y)) {
    switch (op_name[0]) {
      case 'a':
        *out = float_value(x + y);
        return KILN_OK;
      case 's':
        *out = float_value(x - y);
        return KILN_OK;
      case 'm':
        if (op_name[1] == 'u')
          *out = float_value(x * y);
        else
          *out = float_value(op_name[1] == 'a' ? (x > y ? x : y) : (x < y ? x : y));
        return KILN_OK;
      default:
        break;
    }
  }
  return float_binary(a, op_name, out);
}

static kiln_status do_add(operands *a, ivalue *out) { return arithmetic(a, dim_add, "add", out); }
static kiln_status do_sub(operands *a, ivalue *out) { return arithmetic(a, dim_sub, "sub", out); }
static kiln_status do_mul(operands *a, ivalue *out) { return arithmetic(a, dim_mul, "mul", out); }
static kiln_status do_floordiv(operands *a, ivalue *out) { return arithmetic(a, dim_floordiv, "floor_div", out); }
static kiln_status do_mod(operands *a, ivalue *out) { return arithmetic(a, dim_mod, "remainder", out); }
static kiln_status do_max(operands *a, ivalue *out) { return arithmetic(a, dim_max, "maximum", out); }
static kiln_status do_min(operands *a, ivalue *out) { return arithmetic(a, dim_min, "minimum", out); }

static kiln_status do_truediv(operands *a, ivalue *out) {
  KILN_TRY(need(a, 2));
  double x, y;
  if (number(&a->v[0], &x) && number(&a->v[1], &y)) {
    if (y == 0) return KILN_FAIL(KILN_INVALID_FILE, "model.json: division by zero");
    *out = float_value(x / y);
    return KILN_OK;
  }
  return float_binary(a, "div", out);
}

static kiln_status do_pow(operands *a, ivalue *out) {
  KILN_TRY(need(a, 2));
  double x, y;
  if (ints(a) && dim_is_const(a->v[1].u.i) && a->v[1].u.i >= 0 && a->v[1].u.i <= 16) {
    dim d = 1;
    for (int64_t i = 0; i < a->v[1].u.i; i++) d = dim_mul(table(a), d, a->v[0].u.i);
    return dim_result(d, out);
  }
  if (number(&a->v[0], &x) && number(&a->v[1], &y)) {
    *out = float_value(pow(x, y));
    return KILN_OK;
  }
  return float_binary(a, "pow", out);
}

static kiln_status do_neg(operands *a, ivalue *out) {
  KILN_TRY(need(a, 1));
  a->v[1] = a->v[0];
  a->v[0] = int_value(0);
  a->n = 2;
  return do_sub(a, out);
}
static kiln_status do_same(operands *a, ivalue *out) {
  KILN_TRY(need(a, 1));
  *out = a->v[0];
  return KILN_OK;
}

static kiln_status do_float(operands *a, ivalue *out) {
  KILN_TRY(need(a, 1));
  double x;
  if (a->v[0].kind == IV_TENSOR) return do_same(a, out);
  if (number(&a->v[0], &x)) {
    *out = float_value(x);
    return KILN_OK;
  }
  value *v = lower_cast(&a->p->b, pt2_number_tensor(a->p, &a->v[0]), KILN_F64);
  *out = (ivalue){.kind = IV_TENSOR};
  out->u.t = v ? lower_tensor(&a->p->im, v) : NULL;
  return out->u.t ? KILN_OK : KILN_FAIL(KILN_UNSUPPORTED, "sym_float of something that is no number");
}

/* int(x), trunc, floor and ceil of a float: known, or the file's own expression. */
static kiln_status round_by(operands *a, double (*f)(double), ivalue *out) {
  double x;
  KILN_TRY(need(a, 1));
  if (is_int(&a->v[0])) return do_same(a, out);
  if (!number(&a->v[0], &x)) return from_file(a, out);
  x = f(x);
  if (!(fabs(x) < 0x1p61)) return KILN_FAIL(KILN_INVALID_FILE, "model.json: %g is no integer", x);
  *out = int_value((int64_t)x);
  return KILN_OK;
}
static kiln_status do_trunc(operands *a, ivalue *out) { return round_by(a, trunc, out); }
static kiln_status do_floor(operands *a, ivalue *out) { return round_by(a, floor, out); }
static kiln_status do_ceil(operands *a, ivalue *out) { return round_by(a, ceil, out); }
static kiln_status do_sqrt(operands *a, ivalue *out) {
  double x;
  KILN_TRY(need(a, 1));
  if (number(&a->v[0], &x)) {
    *out = float_value(sqrt(x));
    return KILN_OK;
  }
  a->v[1] = float_value(0.5);
  a->n = 2;
  return float_binary(a, "pow", out);
}

/* ---- comparisons: 1, 0, -1 unknown -------------------------------------------------------------- */

static int negate(int known) { return known < 0 ? -1 : !known; }

static kiln_status compare(operands *a, bool equal, bool swap, bool not, ivalue *out) {
  KILN_TRY(need(a, 2));
  const ivalue *x = &a->v[swap], *y = &a->v[!swap];
  double f, g;
  int known = -1;
  if (is_int(x) && is_int(y))
    known = equal ? dim_compare_equal(table(a), x->u.i, y->u.i) : dim_compare_le(table(a), x->u.i, y->u.i);
  else if (number(x, &f) && number(y, &g))
    known = equal ? f == g : f <= g;
  *out = bool_value(not ? negate(known) : known);
  return KILN_OK;
}
static kiln_status do_eq(operands *a, ivalue *out) { return compare(a, true, false, false, out); }
static kiln_status do_ne(operands *a, ivalue *out) { return compare(a, true, false, true, out); }
static kiln_status do_le(operands *a, ivalue *out) { return compare(a, false, false, false, out); }
static kiln_status do_ge(operands *a, ivalue *out) { return compare(a, false, true, false, out); }
static kiln_status do_gt(operands *a, ivalue *out) { return compare(a, false, false, true, out); }
static kiln_status do_lt(operands *a, ivalue *out) { return compare(a, false, true, true, out); }

static int known_bool(const ivalue *v) {
  if (v->kind == IV_BOOL) return v->u.i == BOOL_UNKNOWN ? -1 : v->u.i != 0;
  return v->kind == IV_INT && dim_is_const(v->u.i) ? v->u.i != 0 : -1;
}
static kiln_status do_not(operands *a, ivalue *out) {
  KILN_TRY(need(a, 1));
  *out = bool_value(negate(known_bool(&a->v[0])));
  return KILN_OK;
}
static kiln_status do_and(operands *a, ivalue *out) {
  KILN_TRY(need(a, 2));
  const int x = known_bool(&a->v[0]), y = known_bool(&a->v[1]);
  *out = bool_value(x == 0 || y == 0 ? 0 : x == 1 && y == 1 ? 1 : -1);
  return KILN_OK;
}
static kiln_status do_or(operands *a, ivalue *out) {
  KILN_TRY(need(a, 2));
  const int x = known_bool(&a->v[0]), y = known_bool(&a->v[1]);
  *out = bool_value(x == 1 || y == 1 ? 1 : x == 0 && y == 0 ? 0 : -1);
  return KILN_OK;
}
static kiln_status do_ite(operands *a, ivalue *out) {
  KILN_TRY(need(a, 3));
  const ivalue *v = a->v;
  const int c = known_bool(&v[0]);
  if (c < 0 && v[0].kind == IV_INT && is_int(&v[1]) && is_int(&v[2])) { /* of an item: 0 or 1 */
    dim_table *t = table(a);
    return dim_result(dim_add(t, v[2].u.i, dim_mul(t, v[0].u.i, dim_sub(t, v[1].u.i, v[2].u.i))), out);
  }
  if (c < 0) return from_file(a, out);
  *out = v[c ? 1 : 2];
  return KILN_OK;
}

/* ---- sizes of tensors --------------------------------------------------------------------------- */

static kiln_status size_operand(operands *a, value **out) {
  itensor *t = a->n > 0 && a->v[0].kind == IV_TENSOR ? a->v[0].u.t : NULL;
  *out = t ? lower_value(&a->p->b, t->parts[0] ? t->parts[0] : t) : NULL; /* of a complex tensor: as its parts */
  return *out ? KILN_OK : KILN_FAIL(KILN_INVALID_FILE, "model.json: the first argument is not a tensor");
}
static kiln_status do_size(operands *a, ivalue *out) {
  value *v;
  KILN_TRY(size_operand(a, &v));
  KILN_TRY(need(a, 2));
  int64_t axis = a->v[1].kind == IV_INT ? a->v[1].u.i : INT64_MAX;
  if (axis < 0) axis += v->type.rank;
  if (axis < 0 || axis >= v->type.rank)
    return KILN_FAIL(KILN_INVALID_FILE, "model.json: dim is outside a tensor of rank %d", v->type.rank);
  *out = int_value(v->type.dims[axis]);
  return KILN_OK;
}
static kiln_status do_numel(operands *a, ivalue *out) {
  value *v;
  KILN_TRY(size_operand(a, &v));
  return dim_result(type_numel(a->p->graph, &v->type), out);
}

/* .item() of a tensor: a number if it is a constant. */
static kiln_status do_item(operands *a, ivalue *out) {
  value *v;
  KILN_TRY(size_operand(a, &v));
  while (v->producer && v->producer->op->flags & OP_VIEW) v = node_in(v->producer, 0);
  size_t size;
  if (!v->constant || !type_bytes(&v->type, &size) || size != kiln_dtype_size(v->type.dtype))
    return KILN_FAIL(
        KILN_UNSUPPORTED,
        "the model reads a number out of a tensor (.item(), int(x), or a branch on values): results may not decide "
        "Python control flow or sizes");
  constant_fix(v);
  const tensor t = {.data = (void *)(uintptr_t)v->constant->data, .dtype = v->type.dtype};
  if (dtype_is_float(v->type.dtype))
    *out = float_value(ref_load(&t, 0));
  else if (v->type.dtype == KILN_BOOL)
    *out = bool_value(ref_load_int(&t, 0) != 0);
  else
    *out = int_value(ref_load_int(&t, 0));
  return KILN_OK;
}

static kiln_status do_nothing(operands *a, ivalue *out) {
  (void)a;
  *out = (ivalue){.kind = IV_NONE};
  return KILN_OK;
}

/* ---- the table ---------------------------------------------------------------------------------- */

static const struct {
  const char *target;
  symbol_fn run; /* NULL: a check; dropped without looking at its arguments */
} targets[] = {
    {"_operator.add", do_add},
    {"_operator.sub", do_sub},
    {"_operator.mul", do_mul},
    {"_operator.floordiv", do_floordiv},
    {"_operator.mod", do_mod},
    {"_operator.truediv", do_truediv},
    {"_operator.pow", do_pow},
    {"_operator.neg", do_neg},
    {"_operator.pos", do_same},
    {"_operator.eq", do_eq},
    {"_operator.ne", do_ne},
    {"_operator.le", do_le},
    {"_operator.ge", do_ge},
    {"_operator.lt", do_lt},
    {"_operator.gt", do_gt},
    {"_operator.and_", do_and},
    {"_operator.or_", do_or},
    {"_operator.not_", do_not},
    {"math.trunc", do_trunc},
    {"math.floor", do_floor},
    {"math.ceil", do_ceil},
    {"math.sqrt", do_sqrt},
    {"torch.sym_not", do_not},
    {"torch.sym_max", do_max},
    {"torch.sym_min", do_min},
    {"torch.sym_int", do_trunc},
    {"torch.sym_float", do_float},
    {"torch.sym_ite", do_ite},
    {"torch.sym_sqrt", do_sqrt},
    {"torch._sym_sqrt", do_sqrt},
    {"torch.ops.aten.sym_size.int", do_size},
    {"torch.ops.aten.sym_numel.default", do_numel},
    {"torch.ops.aten.item.default", do_item},
    {"torch.ops.aten._local_scalar_dense.default", do_item},
    {"torch.ops.aten._assert_scalar.default", NULL},
    {"torch.ops.aten._assert_async.default", NULL},
    {"torch.ops.aten._assert_async.msg", NULL},
    {"torch.ops.aten._assert_tensor_metadata.default", NULL},
    {"torch.ops.aten.sym_constrain_range.default", NULL},
    {"torch.ops.aten.sym_constrain_range_for_size.default", NULL},
    {"torch.ops.aten._functional_assert_async.msg", do_nothing},
};

bool pt2_is_symbol_target(const char *target) {
  for (size_t i = 0; i < KILN_COUNT(targets); i++)
    if (str_eq(target, targets[i].target)) return true;
  return false;
}

bool export_takes_size_operator(const char *name) {
  char target[128];
  if (strncmp(name, "aten::", 6) != 0) return false;
  const int length =
      snprintf(target, sizeof target, "torch.ops.aten.%s%s", name + 6, strchr(name, '.') ? "" : ".default");
  return length > 0 && (size_t)length < sizeof target && pt2_is_symbol_target(target);
}

static kiln_status read_operands(pt2 *p, scope *s, const json_t *entry, operands *a) {
  const json_t *inputs;
  KILN_TRY(pt2_array(entry, "inputs", "node", &inputs));
  *a = (operands){.p = p, .graph = s->graph};
  if (json_array_size(inputs) > KILN_COUNT(a->v)) return KILN_FAIL(KILN_INVALID_FILE, "model.json: too many arguments");
  for (size_t i = 0; i < json_array_size(inputs); i++) {
    const json_t *arg = json_object_get(json_array_get(inputs, i), "arg");
    /* A truth value that is still open may be an argument here, and only here. */
    const json_t *named = json_object_get(arg, "as_sym_bool");
    const char *name = json_string_value(json_object_get(named, "as_name"));
    const ivalue *known = name ? pt2_lookup(s, name) : NULL;
    if (known)
      a->v[i] = *known;
    else
      KILN_TRY(pt2_argument(p, s, arg, &a->v[i]));
    a->n++;
  }
  return KILN_OK;
}

/* Name of output 0: {"as_sym_int": {"as_name": "add"}} and the like, or {"as_tensor": {"name": ...}}. */
static kiln_status output_name(const json_t *entry, const char **out) {
  const json_t *outputs, *v;
  const char *kind;
  *out = NULL;
  KILN_TRY(pt2_array(entry, "outputs", "node", &outputs));
  if (json_array_size(outputs) == 0) return KILN_OK;
  KILN_TRY(pt2_union(json_array_get(outputs, 0), "output", &kind, &v));
  *out = json_string_value(json_object_get(v, str_eq(kind, "as_tensor") ? "name" : "as_name"));
  return KILN_OK;
}

kiln_status pt2_symbol_node(pt2 *p, scope *s, const json_t *entry, const char *target) {
  symbol_fn run = NULL;
  for (size_t i = 0; i < KILN_COUNT(targets); i++)
    if (str_eq(target, targets[i].target)) run = targets[i].run;
  if (!run) return KILN_OK;
  operands a;
  ivalue result = {.kind = IV_NONE};
  KILN_TRY(read_operands(p, s, entry, &a));
  KILN_TRY(output_name(entry, &a.output));
  KILN_TRY(run(&a, &result));
  return a.output ? pt2_define(p, s, a.output, result) : KILN_OK;
}
