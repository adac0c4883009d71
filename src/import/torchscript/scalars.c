/* Scalars of the interpreter, and what becomes of them when tensors come in: a number of the build becomes a rank-0
 * constant, and an element of a tensor becomes a number again if it is a constant or a size; else it stays a rank-0
 * value (TSV_DATA). */
#include <string.h>

#include "base/memory.h"
#include "import/torchscript/interpreter.h"
#include "ops/ref.h"
#include "runtime/program.h"

enum { FOLD_ELEMENTS = 1 << 16, FOLD_DEPTH = 64 };

ts_value of_none(void) { return (ts_value){.kind = TSV_NONE}; }
ts_value of_int(dim i) { return (ts_value){.kind = TSV_INT, .u = {.i = i}}; }
ts_value of_float(double f) { return (ts_value){.kind = TSV_FLOAT, .u = {.f = f}}; }
ts_value of_bool(bool b) { return (ts_value){.kind = TSV_BOOL, .u = {.i = b}}; }
ts_value of_string(const char *s) { return (ts_value){.kind = TSV_STR, .u = {.s = s}}; }
ts_value of_tensor(itensor *t) { return (ts_value){.kind = TSV_TENSOR, .u = {.tensor = t}}; }

const char *interp_kind_name(const ts_value *v) {
  static const char *const names[] = {[TSV_NONE] = "None",
                                      [TSV_UNINITIALIZED] = "an unset value",
                                      [TSV_TENSOR] = "a tensor",
                                      [TSV_INT] = "an int",
                                      [TSV_FLOAT] = "a float",
                                      [TSV_BOOL] = "a bool",
                                      [TSV_DATA] = "a number that is known at run time only",
                                      [TSV_STR] = "a string",
                                      [TSV_LIST] = "a list",
                                      [TSV_TUPLE] = "a tuple",
                                      [TSV_DICT] = "a dict",
                                      [TSV_OBJECT] = "an object",
                                      [TSV_NAMEDTUPLE] = "a named tuple",
                                      [TSV_ENUM] = "an enum member",
                                      [TSV_DEVICE] = "a device",
                                      [TSV_QTENSOR] = "a quantized tensor",
                                      [TSV_FUNCTION] = "a function",
                                      [TSV_METHOD] = "a method",
                                      [TSV_RUN] = "an item of a list that grew in a loop on tensor data"};
  return (size_t)v->kind < KILN_COUNT(names) && names[v->kind] ? names[v->kind] : "a value";
}

bool interp_is_number(const ts_value *v) {
  return v->kind == TSV_INT || v->kind == TSV_FLOAT || v->kind == TSV_BOOL || v->kind == TSV_DATA;
}

ts_type_kind interp_number_type(const ts_value *v) {
  if (v->kind == TSV_DATA) {
    const kiln_dtype d = v->u.data->type.dtype;
    return d == KILN_BOOL ? TST_BOOL : dtype_is_float(d) ? TST_FLOAT : TST_INT;
  }
  return v->kind == TSV_FLOAT ? TST_FLOAT : v->kind == TSV_BOOL ? TST_BOOL : TST_INT;
}

kiln_status interp_out_of_memory(interp *it) {
  const kiln_status status = graph_check(it->g);
  return status != KILN_OK ? status : KILN_NO_MEMORY("importing TorchScript");
}

kiln_status interp_charge(interp *it, int64_t items) {
  it->work += items;
  if (it->work <= TS_MAX_WORK) return KILN_OK;
  return IT_FAIL(it, KILN_UNSUPPORTED, "the model's lists and strings take more than %d items at build time",
                 TS_MAX_WORK);
}

kiln_status interp_new_tensor(interp *it, value *v, ts_value *out) {
  itensor *t = v ? lower_tensor(&it->a->im, v) : NULL;
  if (!t) return interp_no_memory(it);
  *out = of_tensor(t);
  return KILN_OK;
}

/* ---- what is known of a value ----------------------------------------------------------------------------------- */

static bool foldable(const node *n) {
  size_t bytes = 0;
  if ((n->op->flags & (OP_CONTROL_FLOW | OP_RANDOM | OP_DATA_DEPENDENT)) || n->n_blocks || n->epilogue || !n->op->ref ||
      n->n_outputs != 1 || n->n_inputs > 16)
    return false;
  if (!type_is_static(&n->outputs[0]->type) || !type_bytes(&n->outputs[0]->type, &bytes) || bytes > FOLD_ELEMENTS)
    return false;
  for (int32_t i = 0; i < op_schema_of(n->op)->n_attrs; i++) {
    const attr *a = &n->attrs[i];
    if (a->kind == ATTR_INT && !dim_is_const(a->u.i)) return false;
    for (int32_t k = 0; a->kind == ATTR_INTS && k < a->count; k++)
      if (!dim_is_const(a->u.ints[k])) return false;
  }
  return true;
}

static tensor constant_tensor(const value *v) {
  tensor t = {.data = (void *)(uintptr_t)v->constant->data, .dtype = v->type.dtype, .rank = v->type.rank};
  for (int i = 0; i < t.rank; i++) t.shape[i] = v->type.dims[i];
  tensor_make_contiguous_strides(&t);
  return t;
}

/* The node's output, computed by its reference kernel; NULL if that fails. */
static value *evaluate(interp *it, const node *n, const value *const *inputs) {
  tensor in[16], made;
  const tensor_type *type = &n->outputs[0]->type;
  size_t bytes = 0;
  (void)type_bytes(type, &bytes); /* checked by foldable */
  for (int32_t i = 0; i < n->n_inputs; i++) {
    in[i] = (tensor){.rank = -1};
    constant_fix(inputs[i]);
    if (inputs[i]) in[i] = constant_tensor(inputs[i]);
  }
  made = (tensor){.dtype = type->dtype, .rank = type->rank, .data = mem_alloc_aligned(bytes ? bytes : 1)};
  if (!made.data) return NULL;
  for (int i = 0; i < type->rank; i++) made.shape[i] = type->dims[i];
  tensor_make_contiguous_strides(&made);
  const int64_t none = 0;
  if (reference_run_node(n, n->attrs, in, n->n_inputs, &made, 1, &none) != KILN_OK) {
    error_clear();
    mem_free_aligned(made.data);
    return NULL;
  }
  return graph_constant_take(it->g, type, made.data);
}

static const value *fold(interp *it, value *v, int depth) {
  if (v->constant) return v->constant->packing ? NULL : v;
  if (!v->producer || depth > FOLD_DEPTH || !foldable(v->producer)) return NULL;
  if (it->folded.count) {
    const value *known = map_get_number(&it->folded, v->id);
    if (known) return known == v ? NULL : known;
  }
  const node *n = v->producer;
  const value *inputs[16], *result = v; /* itself: cannot be folded */
  bool all = true;
  for (int32_t i = 0; i < n->n_inputs && all; i++) {
    inputs[i] = n->inputs[i].v ? fold(it, n->inputs[i].v, depth + 1) : NULL;
    all = inputs[i] || !n->inputs[i].v;
  }
  if (all) {
    const value *made = evaluate(it, n, inputs);
    if (made) result = made;
  }
  (void)map_put_number(&it->folded, v->id, (void *)(uintptr_t)result); /* only saves work */
  return result == v ? NULL : result;
}

const value *interp_fold(interp *it, value *v) { return fold(it, v, 0); }

static bool is_op(const node *n, const char *name) { return str_eq(n->op->name, name); }

static bool known_dim(interp *it, value *v, int depth, dim *out) {
  const node *n = v->producer;
  dim_table *t = it->g->dims;
  dim x, y;
  if (v->constant) {
    const tensor c = constant_tensor(v);
    if (v->constant->packing || dtype_is_float(v->type.dtype) || tensor_numel(&c) != 1) return false;
    constant_fix(v);
    *out = ref_load_int(&c, 0);
    return dim_is_const(*out);
  }
  if (!n || depth > FOLD_DEPTH || dtype_is_float(v->type.dtype)) return false;
  if (is_op(n, "size")) {
    *out = node_int(n, "value");
    return true;
  }
  if (is_op(n, "cast") || is_op(n, "reshape") || is_op(n, "expand")) {
    if (v->type.dtype == KILN_BOOL) return false;
    return known_dim(it, node_in(n, 0), depth + 1, out);
  }
  if (n->n_inputs != 2 || !known_dim(it, node_in(n, 0), depth + 1, &x) || !known_dim(it, node_in(n, 1), depth + 1, &y))
    return false;
  if (is_op(n, "add"))
    *out = dim_add(t, x, y);
  else if (is_op(n, "sub"))
    *out = dim_sub(t, x, y);
  else if (is_op(n, "mul"))
    *out = dim_mul(t, x, y);
  else if (is_op(n, "floor_div") && y != 0)
    *out = dim_floordiv(t, x, y);
  else if (is_op(n, "remainder") && y != 0)
    *out = dim_mod(t, x, y);
  else if (is_op(n, "maximum"))
    *out = dim_max(t, x, y);
  else if (is_op(n, "minimum"))
    *out = dim_min(t, x, y);
  else
    return false;
  if (*out == DIM_ERROR) error_clear();
  return *out != DIM_ERROR;
}

bool interp_known_dim(interp *it, value *v, dim *out) {
  const tensor_type *t = &v->type;
  for (int i = 0; i < t->rank; i++)
    if (t->dims[i] != 1) return false;
  return known_dim(it, v, 0, out);
}

/* ---- tensors and numbers ---------------------------------------------------------------------------------------- */

static ts_value constant_number(const value *c, ts_type_kind type) {
  constant_fix(c);
  const tensor t = constant_tensor(c);
  if (type == TST_FLOAT) return of_float(ref_load(&t, 0));
  const bool is_float = dtype_is_float(c->type.dtype);
  if (type == TST_BOOL) return of_bool(is_float ? ref_load(&t, 0) != 0 : ref_load_int(&t, 0) != 0);
  if (!is_float) return of_int(ref_load_int(&t, 0));
  const double f = ref_load(&t, 0);
  return of_int(f >= -4e18 && f <= 4e18 ? (int64_t)f : DIM_EXPRESSION);
}

kiln_status interp_scalar(interp *it, value *v, ts_type_kind type, ts_value *out) {
  dim d;
  if (!v) return interp_no_memory(it);
  const dim count = type_numel(it->g, &v->type);
  if (dim_compare_equal(it->g->dims, count, 1) == 0)
    return IT_FAIL(it, KILN_INVALID_ARGUMENT, "a tensor with other than one element cannot be converted to a number");
  const value *c = interp_fold(it, v);
  if (c) {
    *out = constant_number(c, type);
    if (out->kind != TSV_INT || dim_is_const(out->u.i)) return KILN_OK;
    return IT_FAIL(it, KILN_UNSUPPORTED, "the integer %lld is out of range", (long long)out->u.i);
  }
  if (type == TST_INT && interp_known_dim(it, v, &d)) {
    *out = of_int(d);
    return KILN_OK;
  }
  value *x = lower_reshape(&it->b, v, 0, NULL);
  const kiln_dtype dtype = type == TST_FLOAT ? KILN_F64 : type == TST_BOOL ? KILN_BOOL : KILN_I64;
  if (x && type == TST_BOOL && x->type.dtype != KILN_BOOL) {
    value *zero = graph_scalar(it->g, x->type.dtype, 0);
    x = zero ? lower_binary(&it->b, "ne", x, zero) : NULL;
  } else if (x && type == TST_INT && dtype_is_float(x->type.dtype)) {
    x = lower_cast(&it->b, build(&it->b, "trunc", IN(x), NO_ATTRS), dtype);
  } else {
    x = lower_cast(&it->b, x, dtype);
  }
  if (!x) return interp_no_memory(it);
  *out = (ts_value){.kind = TSV_DATA, .u = {.data = x}};
  return KILN_OK;
}

kiln_status interp_number_tensor(interp *it, const ts_value *v, value **out) {
  switch (v->kind) {
    case TSV_INT:
      *out = lower_size_tensor(&it->b, v->u.i);
      break;
    case TSV_BOOL:
      *out = graph_scalar_int(it->g, KILN_BOOL, v->u.i != 0);
      break;
    case TSV_FLOAT:
      *out = graph_scalar(it->g, KILN_F64, v->u.f);
      break;
    case TSV_DATA:
      *out = v->u.data;
      break;
    default:
      return IT_FAIL(it, KILN_INVALID_FILE, "expected a number, got %s", interp_kind_name(v));
  }
  return *out ? KILN_OK : interp_no_memory(it);
}

value *interp_wrap_index(interp *it, value *index, dim size) {
  value *n = lower_size_tensor(&it->b, size), *zero = graph_scalar_int(it->g, KILN_I64, 0);
  if (!n || !zero) return NULL;
  value *negative = lower_binary(&it->b, "lt", index, zero), *from_end = lower_binary(&it->b, "add", index, n);
  return build(&it->b, "where", IN(negative, from_end, index), NO_ATTRS);
}

/* ---- dtypes ----------------------------------------------------------------------------------------------------- */

static const struct {
  int64_t code; /* c10::ScalarType */
  kiln_dtype dtype;
} dtype_codes[] = {{0, KILN_U8},  {1, KILN_I8},  {2, KILN_I16}, {3, KILN_I32},   {4, KILN_I64},
                   {5, KILN_F16}, {6, KILN_F32}, {7, KILN_F64}, {11, KILN_BOOL}, {15, KILN_BF16}};

kiln_dtype interp_dtype(int64_t code) {
  for (size_t i = 0; i < KILN_COUNT(dtype_codes); i++)
    if (dtype_codes[i].code == code) return dtype_codes[i].dtype;
  return KILN_DTYPE_COUNT;
}

int64_t interp_dtype_code(kiln_dtype d) {
  for (size_t i = 0; i < KILN_COUNT(dtype_codes); i++)
    if (dtype_codes[i].dtype == d) return dtype_codes[i].code;
  return -1;
}
