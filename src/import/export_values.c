/* Arguments of .pt2 nodes: the 31 kinds of the schema's Argument union to ivalues, tensor types, and names. */
#include <math.h>
#include <string.h>

#include "import/complex.h"
#include "import/export_internal.h"
#include "import/sympy.h"

/* ---- JSON --------------------------------------------------------------------------------------- */

static kiln_status missing(const char *key, const char *what, const char *expected) {
  return KILN_FAIL(KILN_INVALID_FILE, "model.json: %s: `%s` is missing or no %s", what, key, expected);
}

kiln_status pt2_object(const json_t *parent, const char *key, const char *what, const json_t **out) {
  *out = json_object_get(parent, key);
  return json_is_object(*out) ? KILN_OK : missing(key, what, "object");
}

kiln_status pt2_array(const json_t *parent, const char *key, const char *what, const json_t **out) {
  *out = json_object_get(parent, key);
  return json_is_array(*out) ? KILN_OK : missing(key, what, "list");
}

kiln_status pt2_string(const json_t *parent, const char *key, const char *what, const char **out) {
  *out = json_string_value(json_object_get(parent, key));
  return *out ? KILN_OK : missing(key, what, "string");
}

kiln_status pt2_union(const json_t *object, const char *what, const char **out_kind, const json_t **out_value) {
  if (!json_is_object(object) || json_object_size(object) != 1)
    return KILN_FAIL(KILN_INVALID_FILE, "model.json: %s: expected an object with one key, such as {\"as_int\": 1}",
                     what);
  void *iterator = json_object_iter((json_t *)(uintptr_t)object);
  *out_kind = json_object_iter_key(iterator);
  *out_value = json_object_iter_value(iterator);
  return KILN_OK;
}

/* ---- dtypes ------------------------------------------------------------------------------------- */

static const struct {
  const char *name;
  kiln_dtype dtype;
} dtypes[] = {
    /* by the code of torch._export.serde.schema.ScalarType */
    [1] = {"uint8", KILN_U8},
    [2] = {"int8", KILN_I8},
    [3] = {"int16", KILN_I16},
    [4] = {"int32", KILN_I32},
    [5] = {"int64", KILN_I64},
    [6] = {"float16", KILN_F16},
    [7] = {"float32", KILN_F32},
    [8] = {"float64", KILN_F64},
    [9] = {"complex32", KILN_DTYPE_COUNT},
    [10] = {"complex64", KILN_DTYPE_COUNT},
    [11] = {"complex128", KILN_DTYPE_COUNT},
    [12] = {"bool", KILN_BOOL},
    [13] = {"bfloat16", KILN_BF16},
    [28] = {"uint16", KILN_DTYPE_COUNT},
    [29] = {"float8_e4m3fn", KILN_DTYPE_COUNT},
    [30] = {"float8_e5m2", KILN_DTYPE_COUNT},
    [31] = {"float8_e4m3fnuz", KILN_DTYPE_COUNT},
    [32] = {"float8_e5m2fnuz", KILN_DTYPE_COUNT},
    [33] = {"float8_e8m0fnu", KILN_DTYPE_COUNT},
    [34] = {"uint32", KILN_DTYPE_COUNT},
    [35] = {"uint64", KILN_DTYPE_COUNT},
};

kiln_dtype pt2_dtype(int64_t code) {
  return code > 0 && code < (int64_t)KILN_COUNT(dtypes) && dtypes[code].name ? dtypes[code].dtype : KILN_DTYPE_COUNT;
}
const char *pt2_dtype_name(int64_t code) {
  return code > 0 && code < (int64_t)KILN_COUNT(dtypes) && dtypes[code].name ? dtypes[code].name : "unknown";
}

/* ---- names -------------------------------------------------------------------------------------- */

kiln_status pt2_define(pt2 *p, scope *s, const char *name, ivalue v) {
  if (map_has(&s->values, name)) return KILN_FAIL(KILN_INVALID_FILE, "model.json: `%s` is defined twice", name);
  ivalue *copy = arena_copy(&p->arena, &v, sizeof v);
  return copy && map_put(&s->values, name, copy) ? KILN_OK : KILN_NO_MEMORY("importing a graph");
}

const ivalue *pt2_lookup(const scope *s, const char *name) { return map_get(&s->values, name); }

static kiln_status find(const scope *s, const char *name, ivalue *out) {
  const ivalue *v = pt2_lookup(s, name);
  if (!v) return KILN_FAIL(KILN_INVALID_FILE, "model.json: `%s` is used before it is defined", name);
  *out = *v;
  return KILN_OK;
}

static kiln_status find_named(const scope *s, const json_t *object, const char *kind, ivalue *out) {
  const char *name;
  KILN_TRY(pt2_string(object, "name", kind, &name));
  return find(s, name, out);
}

/* ---- sizes and types ---------------------------------------------------------------------------- */

/* schema.SymInt: {"as_int": 3} or {"as_expr": {"expr_str": "...", "hint": ...}}. */
kiln_status pt2_size(pt2 *p, const json_t *sym_int, bool create, dim *out) {
  const char *kind;
  const json_t *v;
  KILN_TRY(pt2_union(sym_int, "size", &kind, &v));
  if (str_eq(kind, "as_int") && json_is_integer(v)) {
    *out = json_integer_value(v);
    if (*out < 0 || !dim_is_const(*out) || *out > INT64_MAX / 4)
      return KILN_FAIL(KILN_INVALID_FILE, "model.json: a size of %lld", (long long)*out);
    return KILN_OK;
  }
  if (!str_eq(kind, "as_expr")) return KILN_FAIL(KILN_INVALID_FILE, "model.json: a size of unknown kind `%.40s`", kind);
  const char *word;
  KILN_TRY(pt2_string(v, "expr_str", "size", &word));
  KILN_TRY(sympy_parse(p->graph->dims, word, create, out));
  const json_t *hint = json_object_get(json_object_get(v, "hint"), "as_int");
  const int symbol = dim_symbol_index(p->graph->dims, *out);
  if (create && symbol >= 0 && json_is_integer(hint)) {
    int64_t min, max, opt;
    const int64_t h = json_integer_value(hint);
    dim_symbol_range(p->graph->dims, symbol, &min, &max, &opt);
    if (h >= min && h <= max) dim_symbol_set_range(p->graph->dims, symbol, min, max, h);
  }
  return KILN_OK;
}

kiln_status pt2_tensor_type(pt2 *p, const json_t *meta, const char *name, bool create, tensor_type *out) {
  bool is_complex;
  KILN_TRY(pt2_value_type(p, meta, name, create, out, &is_complex));
  return is_complex ? KILN_FAIL(KILN_UNSUPPORTED, "tensor `%s`: complex numbers are not supported here", name)
                    : KILN_OK;
}

kiln_status pt2_value_type(pt2 *p, const json_t *meta, const char *name, bool create, tensor_type *out,
                           bool *out_complex) {
  const json_t *dtype = json_object_get(meta, "dtype"), *sizes;
  if (!json_is_integer(dtype))
    return KILN_FAIL(KILN_INVALID_FILE, "model.json: tensor `%s`: `dtype` is missing or no integer", name);
  KILN_TRY(pt2_array(meta, "sizes", name, &sizes));
  const json_int_t code = json_integer_value(dtype);
  *out_complex = code >= 9 && code <= 11; /* three places after the types of their parts */
  *out = (tensor_type){.dtype = pt2_dtype(*out_complex ? code - 3 : code)};
  if (out->dtype == KILN_DTYPE_COUNT)
    return KILN_FAIL(KILN_UNSUPPORTED, "tensor `%s`: dtype %s is not supported", name, pt2_dtype_name(code));
  if (json_array_size(sizes) > KILN_MAX_RANK)
    return KILN_FAIL(KILN_UNSUPPORTED, "tensor `%s`: %zu dimensions, Kiln has at most %d", name, json_array_size(sizes),
                     KILN_MAX_RANK);
  out->rank = (int32_t)json_array_size(sizes);
  for (int32_t i = 0; i < out->rank; i++)
    KILN_TRY_NOTE(pt2_size(p, json_array_get(sizes, (size_t)i), create, &out->dims[i]),
                  "in dimension %d of tensor `%s`", i, name);
  return KILN_OK;
}

value *pt2_number_tensor(pt2 *p, const ivalue *v) {
  switch (v->kind) {
    case IV_TENSOR:
      return lower_value(&p->b, v->u.t);
    case IV_INT:
      return lower_size_tensor(&p->b, v->u.i);
    case IV_BOOL:
      return v->u.i == BOOL_UNKNOWN ? NULL : graph_scalar_int(p->graph, KILN_BOOL, v->u.i != 0);
    case IV_FLOAT:
      return graph_scalar(p->graph, KILN_F64, v->u.f);
    default:
      return NULL;
  }
}

/* ---- the Argument union ------------------------------------------------------------------------- */

typedef kiln_status (*convert_fn)(pt2 *p, scope *s, const json_t *v, ivalue *out);

static kiln_status wrong(const char *expected) {
  return KILN_FAIL(KILN_INVALID_FILE, "model.json: argument: expected %s", expected);
}

static kiln_status to_none(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  (void)p, (void)s, (void)v;
  *out = (ivalue){.kind = IV_NONE};
  return KILN_OK;
}
static kiln_status to_device(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  (void)p, (void)s, (void)v;
  *out = (ivalue){.kind = IV_DEVICE};
  return KILN_OK;
}
static kiln_status to_layout(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  (void)p, (void)s;
  if (!json_is_integer(v)) return wrong("a layout number");
  if (json_integer_value(v) != 7) return KILN_FAIL(KILN_UNSUPPORTED, "sparse layouts are not supported");
  *out = (ivalue){.kind = IV_LAYOUT};
  return KILN_OK;
}
static kiln_status to_int(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  (void)p, (void)s;
  if (!json_is_integer(v)) return wrong("an integer");
  int64_t i = json_integer_value(v);
  if (!dim_is_const(i)) i = DIM_EXPRESSION; /* INT64_MIN as "from the start": any number that far below does */
  *out = (ivalue){.kind = IV_INT};
  out->u.i = i;
  return KILN_OK;
}
static kiln_status to_bool(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  (void)p, (void)s;
  if (!json_is_boolean(v)) return wrong("true or false");
  *out = (ivalue){.kind = IV_BOOL};
  out->u.i = json_is_true(v);
  return KILN_OK;
}
static kiln_status to_float(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  (void)p, (void)s;
  const char *word = json_string_value(v);
  *out = (ivalue){.kind = IV_FLOAT};
  if (json_is_number(v))
    out->u.f = json_number_value(v);
  else if (str_eq(word, "Infinity"))
    out->u.f = HUGE_VAL;
  else if (str_eq(word, "-Infinity"))
    out->u.f = -HUGE_VAL;
  else if (str_eq(word, "NaN"))
    out->u.f = (double)NAN;
  else
    return wrong("a number, \"Infinity\", \"-Infinity\" or \"NaN\"");
  return KILN_OK;
}
/* {"real": 0.0, "imag": 2.0} */
static kiln_status to_complex(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  ivalue *parts = ARENA_ARRAY(&p->arena, ivalue, 2);
  if (!parts) return KILN_NO_MEMORY("importing a complex number");
  if (!json_is_object(v)) return wrong("an object with real and imag");
  KILN_TRY(to_float(p, s, json_object_get(v, "real"), &parts[0]));
  KILN_TRY(to_float(p, s, json_object_get(v, "imag"), &parts[1]));
  *out = (ivalue){.kind = IV_COMPLEX, .count = 2};
  out->u.items = parts;
  return KILN_OK;
}
static kiln_status to_string(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  (void)p, (void)s;
  if (!json_is_string(v)) return wrong("a string");
  *out = (ivalue){.kind = IV_STR};
  out->u.s = json_string_value(v);
  return KILN_OK;
}
static kiln_status to_dtype(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  (void)p, (void)s;
  if (!json_is_integer(v)) return wrong("a dtype number");
  const kiln_dtype d = pt2_dtype(json_integer_value(v));
  *out = (ivalue){.kind = IV_DTYPE};
  out->u.i = d == KILN_DTYPE_COUNT ? -1 : (int64_t)d;
  static const kiln_dtype parts[] = {KILN_F16, KILN_F32, KILN_F64}; /* of complex32, complex64, complex128 */
  if (json_integer_value(v) >= 9 && json_integer_value(v) <= 11)
    out->u.i = COMPLEX_DTYPE - (int64_t)parts[json_integer_value(v) - 9];
  return KILN_OK;
}
static kiln_status to_tensor(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  (void)p;
  KILN_TRY(find_named(s, v, "as_tensor", out));
  return out->kind == IV_LIST ? wrong("a tensor, not a list of them") : KILN_OK;
}
/* SymIntArgument and the like: {"as_name": "s"} or a literal. */
static kiln_status to_symbol(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  const char *kind;
  const json_t *content;
  KILN_TRY(pt2_union(v, "symbolic argument", &kind, &content));
  if (str_eq(kind, "as_int")) return to_int(p, s, content, out);
  if (str_eq(kind, "as_float")) return to_float(p, s, content, out);
  if (str_eq(kind, "as_bool")) return to_bool(p, s, content, out);
  if (!str_eq(kind, "as_name") || !json_is_string(content)) return wrong("as_name, as_int, as_float or as_bool");
  KILN_TRY(find(s, json_string_value(content), out));
  if (out->kind != IV_BOOL || out->u.i != BOOL_UNKNOWN) return KILN_OK;
  return KILN_FAIL(KILN_UNSUPPORTED,
                   "`%s` compares sizes that the input's ranges leave open, and the model branches on it",
                   json_string_value(content));
}
/* Items of bool are numbers, 0 or 1, for torch.sym_ite; elsewhere they would decide what the model does. */
static kiln_status to_truth(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  KILN_TRY(to_symbol(p, s, v, out));
  if (out->kind != IV_INT || dim_is_const(out->u.i)) return KILN_OK;
  return KILN_FAIL(KILN_UNSUPPORTED,
                   "a truth value out of a tensor (.item(), or a branch on values) is an argument: use "
                   "torch.where or torch.cond");
}
static kiln_status to_optional_tensor(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  const char *kind;
  const json_t *content;
  KILN_TRY(pt2_union(v, "optional tensor", &kind, &content));
  if (str_eq(kind, "as_none")) return to_none(p, s, content, out);
  return str_eq(kind, "as_tensor") ? to_tensor(p, s, content, out) : wrong("as_tensor or as_none");
}

static kiln_status to_list(pt2 *p, scope *s, const json_t *v, convert_fn item, ivalue *out) {
  if (!json_is_array(v)) return wrong("a list");
  const size_t n = json_array_size(v);
  if (n > INT32_MAX) return wrong("a shorter list");
  ivalue *items = ARENA_ARRAY(&p->arena, ivalue, n ? n : 1);
  if (!items) return KILN_NO_MEMORY("importing a list");
  for (size_t i = 0; i < n; i++) KILN_TRY(item(p, s, json_array_get(v, i), &items[i]));
  *out = (ivalue){.kind = IV_LIST, .count = (int32_t)n};
  out->u.items = items;
  return KILN_OK;
}
static kiln_status to_ints(pt2 *p, scope *s, const json_t *v, ivalue *out) { return to_list(p, s, v, to_int, out); }
static kiln_status to_floats(pt2 *p, scope *s, const json_t *v, ivalue *out) { return to_list(p, s, v, to_float, out); }
static kiln_status to_tensors(pt2 *p, scope *s, const json_t *v, ivalue *out) {
  return to_list(p, s, v, to_tensor, out);
}

static const struct {
  const char *kind;
  convert_fn convert;
  bool list; /* of what `convert` reads */
} conversions[] = {
    {"as_none", to_none, false},
    {"as_tensor", to_tensor, false},
    {"as_tensors", to_tensor, true},
    {"as_int", to_int, false},
    {"as_ints", to_int, true},
    {"as_float", to_float, false},
    {"as_floats", to_float, true},
    {"as_complex", to_complex, false},
    {"as_string", to_string, false},
    {"as_strings", to_string, true},
    {"as_sym_int", to_symbol, false},
    {"as_sym_ints", to_symbol, true},
    {"as_scalar_type", to_dtype, false},
    {"as_memory_format", to_none, false}, /* values have no memory format: layouts are chosen later */
    {"as_layout", to_layout, false},
    {"as_device", to_device, false},
    {"as_bool", to_bool, false},
    {"as_bools", to_bool, true},
    {"as_sym_bool", to_truth, false},
    {"as_sym_bools", to_truth, true},
    {"as_optional_tensors", to_optional_tensor, true},
    {"as_sym_float", to_symbol, false},
    {"as_sym_floats", to_symbol, true},
    {"as_optional_tensor", to_optional_tensor, false},
    {"as_nested_tensors", to_tensors, true},
    {"as_int_lists", to_ints, true},
    {"as_float_lists", to_floats, true},
};

kiln_status pt2_argument(pt2 *p, scope *s, const json_t *arg, ivalue *out) {
  const char *kind;
  const json_t *v;
  KILN_TRY(pt2_union(arg, "argument", &kind, &v));
  for (size_t i = 0; i < KILN_COUNT(conversions); i++) {
    if (!str_eq(kind, conversions[i].kind)) continue;
    return conversions[i].list ? to_list(p, s, v, conversions[i].convert, out) : conversions[i].convert(p, s, v, out);
  }
  static const char *const foreign[] = {"as_graph", "as_custom_obj", "as_operator", "as_string_to_argument"};
  for (size_t i = 0; i < KILN_COUNT(foreign); i++)
    if (str_eq(kind, foreign[i]))
      return KILN_FAIL(KILN_UNSUPPORTED, "arguments of kind `%s` are not supported here", kind);
  return KILN_FAIL(KILN_INVALID_FILE, "model.json: argument of unknown kind `%.40s`", kind);
}
