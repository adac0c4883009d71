/* Expressions of the abstract interpreter: names, attributes, indices, and what a call's text refers to. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "import/complex.h"
#include "import/torchscript/archive.h"
#include "import/torchscript/interpreter.h"
#include "import/torchscript/quantized.h"

/* ---- dotted names ----------------------------------------------------------------------------------------------- */

/* "torch.add" of nested attributes whose root is a name; false if there is anything else in it. */
static bool dotted(const ts_expr *e, char *out, size_t size, size_t *length) {
  if (e->kind == TS_ATTR) {
    if (!dotted(e->a, out, size, length)) return false;
    if (*length + 2 > size) return false;
    out[(*length)++] = '.';
  } else if (e->kind != TS_NAME) {
    return false;
  }
  const size_t n = strlen(e->s);
  if (*length + n + 1 > size) return false;
  memcpy(out + *length, e->s, n + 1);
  *length += n;
  return true;
}

static const ts_expr *root_of(const ts_expr *e) {
  while (e->kind == TS_ATTR) e = e->a;
  return e;
}

/* Is this a path from one of the names that no variable can have? */
static bool is_path(const ts_expr *e) {
  const ts_expr *root = root_of(e);
  if (root->kind != TS_NAME) return false;
  return str_eq(root->s, "torch") || str_eq(root->s, "ops") || str_eq(root->s, "__torch__") ||
         str_eq(root->s, "CONSTANTS");
}

static kiln_status eval_constant(interp *it, const char *name, ts_value *out) {
  int64_t at = 0;
  const char *s = name + 1;
  if (*name != 'c' || !*s || strlen(s) > 9)
    return IT_FAIL(it, KILN_INVALID_FILE, "CONSTANTS.%s: there is no such constant", name);
  for (; *s; s++) {
    if (*s < '0' || *s > '9') return IT_FAIL(it, KILN_INVALID_FILE, "CONSTANTS.%s: there is no such constant", name);
    at = 10 * at + (*s - '0');
  }
  if (at >= it->a->n_constants)
    return IT_FAIL(it, KILN_INVALID_FILE, "CONSTANTS.%s: the file has %d constants", name, (int)it->a->n_constants);
  *out = it->a->constants[at];
  return KILN_OK;
}

static kiln_status eval_enum(interp *it, const ts_class *c, const char *member, ts_value *out) {
  const int at = ts_class_attribute(c, member);
  if (at < 0) return IT_FAIL(it, KILN_INVALID_FILE, "%s has no member %s", c->name, member);
  return ts_enum_member(it->a, c, at, out);
}

/* __torch__.pkg.function, __torch__.pkg.Color.RED */
static kiln_status eval_global(interp *it, const char *name, ts_value *out) {
  const char *copy = arena_strdup(it->arena, name);
  if (!copy) return interp_no_memory(it);
  const char *last = strrchr(copy, '.');
  const char *owner = last ? arena_strndup(it->arena, copy, (size_t)(last - copy)) : NULL;
  if (last && !owner) return interp_no_memory(it);
  const ts_class *c;
  if (owner && ts_name_exists(it->a, owner) && ts_class_find(it->a, owner, &c) == KILN_OK) {
    if (c->kind == TSC_ENUM) return eval_enum(it, c, last + 1, out);
    return IT_FAIL(it, KILN_INVALID_FILE, "%s is used as a value", name);
  }
  *out = (ts_value){.kind = TSV_FUNCTION};
  return ts_function_find(it->a, copy, &out->u.function);
}

static kiln_status eval_path(interp *it, const ts_expr *e, ts_value *out) {
  char name[512];
  size_t length = 0;
  if (!dotted(e, name, sizeof name, &length)) return IT_FAIL(it, KILN_INVALID_FILE, "a name that is too long");
  if (str_starts(name, "CONSTANTS.")) return eval_constant(it, name + 10, out);
  if (str_starts(name, "__torch__.")) return eval_global(it, name, out);
  return IT_FAIL(it, KILN_INVALID_FILE, "%s is used as a value", name);
}

/* ---- attributes ------------------------------------------------------------------------------------------------- */

static kiln_status no_attribute(interp *it, const ts_value *owner, const char *name) {
  const bool object = owner->kind == TSV_OBJECT || owner->kind == TSV_NAMEDTUPLE || owner->kind == TSV_ENUM;
  return IT_FAIL(it, KILN_INVALID_FILE, "%s has no attribute %s",
                 object ? owner->u.object->cls->name : interp_kind_name(owner), name);
}

kiln_status interp_attribute_get(interp *it, const ts_value *owner, const char *name, ts_value *out) {
  if (owner->kind == TSV_ENUM && owner->u.object->n_attrs >= 2) {
    const bool is_name = str_eq(name, "name");
    if (!is_name && !str_eq(name, "value")) return no_attribute(it, owner, name);
    *out = owner->u.object->attrs[is_name ? 0 : 1];
    return KILN_OK;
  }
  if (owner->kind != TSV_OBJECT && owner->kind != TSV_NAMEDTUPLE) return no_attribute(it, owner, name);
  ts_object *o = owner->u.object;
  const int at = ts_class_attribute(o->cls, name);
  if (at >= 0 && o->cls->attributes[at].constant && o->cls->kind != TSC_NAMEDTUPLE)
    return interp_eval(it, o->cls->attributes[at].constant, out);
  if (at >= 0 && at < o->n_attrs) {
    *out = o->attrs[at];
    return KILN_OK;
  }
  const ts_function *f = ts_class_method(o->cls, name);
  if (!f) return no_attribute(it, owner, name);
  ts_method *m = ARENA_NEW(it->arena, ts_method);
  if (!m) return interp_no_memory(it);
  *m = (ts_method){o, f};
  *out = (ts_value){.kind = TSV_METHOD, .u = {.method = m}};
  return KILN_OK;
}

kiln_status interp_attribute_set(interp *it, const ts_value *owner, const char *name, ts_value v) {
  if (owner->kind != TSV_OBJECT) return no_attribute(it, owner, name);
  ts_object *o = owner->u.object;
  const int at = ts_class_attribute(o->cls, name);
  if (at < 0 || at >= o->n_attrs || o->cls->attributes[at].constant) return no_attribute(it, owner, name);
  KILN_TRY(interp_note_change(it, TSV_OBJECT, o));
  o->attrs[at] = v;
  return KILN_OK;
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

static kiln_status eval_arguments(interp *it, const ts_expr *e, ts_call *out) {
  *out = (ts_call){.n = e->count, .names = e->names};
  out->args = ARENA_ARRAY(it->arena, ts_value, e->count ? e->count : 1);
  if (!out->args) return interp_no_memory(it);
  for (int i = 0; i < e->count; i++) KILN_TRY(interp_eval(it, e->items[i], &out->args[i]));
  return KILN_OK;
}

static kiln_status new_object(interp *it, const char *name, ts_value *out) {
  const ts_class *c;
  const char *copy = arena_strdup(it->arena, name);
  if (!copy) return interp_no_memory(it);
  KILN_TRY(ts_class_find(it->a, copy, &c));
  *out = (ts_value){.kind = TSV_OBJECT};
  KILN_TRY(interp_charge(it, 1 + c->n_attributes));
  KILN_TRY(ts_object_new(it->a, c, &out->u.object));
  return interp_note_created(it, out->u.object);
}

static kiln_status new_named_tuple(interp *it, const ts_class *c, const ts_expr *e, ts_value *out) {
  ts_call call;
  ts_object *o;
  if (c->kind != TSC_NAMEDTUPLE) return IT_FAIL(it, KILN_INVALID_FILE, "%s is called like a function", c->name);
  KILN_TRY(eval_arguments(it, e, &call));
  KILN_TRY(ts_object_new(it->a, c, &o));
  if (call.n > o->n_attrs)
    return IT_FAIL(it, KILN_INVALID_FILE, "%s has %d fields, given %d", c->name, (int)o->n_attrs, call.n);
  for (int i = 0; i < o->n_attrs; i++) {
    const ts_value *v = interp_arg(&call, i, c->attributes[i].name);
    if (v)
      o->attrs[i] = *v;
    else if (c->attributes[i].constant)
      KILN_TRY(interp_eval(it, c->attributes[i].constant, &o->attrs[i]));
    else
      return IT_FAIL(it, KILN_INVALID_FILE, "%s: field %s is missing", c->name, c->attributes[i].name);
  }
  *out = (ts_value){.kind = TSV_NAMEDTUPLE, .u = {.object = o}};
  return KILN_OK;
}

static kiln_status call_global(interp *it, const char *name, const ts_expr *e, ts_value *out) {
  ts_call call;
  const ts_function *f;
  const char *copy = arena_strdup(it->arena, name);
  if (!copy) return interp_no_memory(it);
  if (str_ends(name, ".__new__"))
    return new_object(it, arena_strndup(it->arena, copy, strlen(copy) - strlen(".__new__")), out);
  const ts_class *c;
  if (ts_name_exists(it->a, copy)) {
    if (ts_class_find(it->a, copy, &c) == KILN_OK) return new_named_tuple(it, c, e, out);
    error_clear();
  }
  KILN_TRY(ts_function_find(it->a, copy, &f));
  KILN_TRY(eval_arguments(it, e, &call));
  return interp_invoke(it, f, NULL, call.n, call.args, call.names, out);
}

static kiln_status call_path(interp *it, const ts_expr *e, ts_value *out) {
  char name[512];
  size_t length = 0;
  ts_call call;
  if (!dotted(e->a, name, sizeof name, &length)) return IT_FAIL(it, KILN_INVALID_FILE, "a name that is too long");
  if (str_starts(name, "__torch__.")) return call_global(it, name, e, out);
  if (!str_starts(name, "torch.") && !str_starts(name, "ops."))
    return IT_FAIL(it, KILN_INVALID_FILE, "%s is called like a function", name);
  KILN_TRY(eval_arguments(it, e, &call));
  call.name = strchr(name, '.') + 1;
  return interp_call_operator(it, &call, out);
}

static kiln_status call_value(interp *it, const ts_value *callee, const ts_expr *e, ts_value *out) {
  ts_call call;
  KILN_TRY(eval_arguments(it, e, &call));
  if (callee->kind == TSV_FUNCTION)
    return interp_invoke(it, callee->u.function, NULL, call.n, call.args, call.names, out);
  if (callee->kind == TSV_METHOD)
    return interp_invoke(it, callee->u.method->function, callee->u.method->self, call.n, call.args, call.names, out);
  return IT_FAIL(it, KILN_INVALID_FILE, "%s is called like a function", interp_kind_name(callee));
}

/* (x).tolist(): an operator written like a method. */
static kiln_status call_operator_on(interp *it, const ts_value *self, const ts_expr *e, ts_value *out) {
  ts_value *args = ARENA_ARRAY(it->arena, ts_value, e->count + 1);
  const char **names = ARENA_ARRAY(it->arena, const char *, e->count + 1);
  if (!args || !names) return interp_no_memory(it);
  args[0] = *self;
  for (int i = 0; i < e->count; i++) {
    KILN_TRY(interp_eval(it, e->items[i], &args[i + 1]));
    names[i + 1] = e->names[i];
  }
  const ts_call call = {e->a->s, e->count + 1, args, names};
  return interp_call_operator(it, &call, out);
}

static kiln_status call_method(interp *it, const ts_expr *e, ts_value *out) {
  ts_value owner, callee;
  KILN_TRY(interp_eval(it, e->a->a, &owner));
  const ts_function *f = owner.kind == TSV_OBJECT || owner.kind == TSV_NAMEDTUPLE || owner.kind == TSV_ENUM
                             ? ts_class_method(owner.u.object->cls, e->a->s)
                             : NULL;
  if (!f) {
    bool handled = false;
    KILN_TRY(quantized_method(it, &owner, e->a->s, out, &handled));
    if (handled) return KILN_OK;
    if (owner.kind != TSV_OBJECT && owner.kind != TSV_NAMEDTUPLE) return call_operator_on(it, &owner, e, out);
    KILN_TRY(interp_attribute_get(it, &owner, e->a->s, &callee));
    return call_value(it, &callee, e, out);
  }
  ts_call call;
  KILN_TRY(eval_arguments(it, e, &call));
  return interp_invoke(it, f, owner.u.object, call.n, call.args, call.names, out);
}

/* ---- words that take types -------------------------------------------------------------------------------------- */

static bool has_type(const ts_value *v, const ts_type *t) {
  switch (t->kind) {
    case TST_ANY:
      return true;
    case TST_TENSOR:
      return v->kind == TSV_TENSOR || v->kind == TSV_QTENSOR;
    case TST_INT:
    case TST_FLOAT:
    case TST_BOOL:
      return interp_is_number(v) && interp_number_type(v) == t->kind;
    case TST_NUMBER:
      return interp_is_number(v);
    case TST_STR:
      return v->kind == TSV_STR;
    case TST_NONE:
      return v->kind == TSV_NONE;
    case TST_DEVICE:
      return v->kind == TSV_DEVICE;
    case TST_OPTIONAL:
      return v->kind == TSV_NONE || has_type(v, t->items[0]);
    case TST_LIST:
      if (v->kind != TSV_LIST) return false;
      if (v->type) return v->type->kind != TST_LIST || v->type->items[0]->kind == t->items[0]->kind;
      return v->u.list->count == 0 || has_type(&v->u.list->items[0], t->items[0]);
    case TST_DICT:
      if (v->kind != TSV_DICT) return false;
      return v->u.dict->count == 0 ||
             (has_type(&v->u.dict->keys[0], t->items[0]) && has_type(&v->u.dict->values[0], t->items[1]));
    case TST_TUPLE:
      if (v->kind != TSV_TUPLE || v->u.list->count != t->count) return false;
      for (int i = 0; i < t->count; i++)
        if (!has_type(&v->u.list->items[i], t->items[i])) return false;
      return true;
    case TST_UNION:
      for (int i = 0; i < t->count; i++)
        if (has_type(v, t->items[i])) return true;
      return false;
    case TST_CLASS:
      return (v->kind == TSV_OBJECT || v->kind == TSV_NAMEDTUPLE || v->kind == TSV_ENUM) && v->u.object->cls == t->cls;
    default:
      return false;
  }
}

static kiln_status eval_isinstance(interp *it, const ts_expr *e, ts_value *out) {
  ts_value v;
  const ts_type *t;
  if (e->count != 2) return IT_FAIL(it, KILN_INVALID_FILE, "isinstance() takes 2 arguments");
  const ts_expr *types = e->items[1];
  const bool many = types->kind == TS_TUPLE || types->kind == TS_LIST;
  KILN_TRY(interp_eval(it, e->items[0], &v));
  *out = of_bool(false);
  for (int i = 0; i < (many ? types->count : 1); i++) {
    const ts_expr *type = many ? types->items[i] : types;
    if (type->kind == TS_NAME && (str_eq(type->s, "list") || str_eq(type->s, "tuple"))) { /* of anything */
      if (v.kind == (*type->s == 'l' ? TSV_LIST : TSV_TUPLE)) *out = of_bool(true);
      continue;
    }
    KILN_TRY(ts_type_resolve(it->a, interp_here(it), type, &t));
    if (has_type(&v, t)) *out = of_bool(true);
  }
  return KILN_OK;
}

/* annotate(T, v), unchecked_cast(T, v): the value; empty lists keep the type for isinstance. */
static kiln_status eval_typed(interp *it, const ts_expr *e, ts_value *out) {
  if (e->count != 2) return IT_FAIL(it, KILN_INVALID_FILE, "%s() takes a type and a value", e->a->s);
  KILN_TRY(interp_eval(it, e->items[1], out));
  const ts_expr *type = e->items[0];
  if (out->kind == TSV_TENSOR && type->kind == TS_NAME) { /* traces: a tensor where a number is wanted */
    value *v = lower_value(&it->b, out->u.tensor);
    if (!v) return interp_no_memory(it);
    const kiln_dtype d = v->type.dtype;
    if (str_eq(type->s, "number"))
      return interp_scalar(it, v, d == KILN_BOOL ? TST_BOOL : dtype_is_float(d) ? TST_FLOAT : TST_INT, out);
    if (str_eq(type->s, "int")) return interp_scalar(it, v, TST_INT, out);
    if (str_eq(type->s, "float")) return interp_scalar(it, v, TST_FLOAT, out);
    if (str_eq(type->s, "bool")) return interp_scalar(it, v, TST_BOOL, out);
  }
  if (out->kind != TSV_LIST || out->u.list->count || out->type || type->kind != TS_INDEX) return KILN_OK;
  return ts_type_resolve(it->a, interp_here(it), type, &out->type);
}

static kiln_status eval_getattr(interp *it, const ts_expr *e, ts_value *out) {
  ts_value owner;
  if (e->count != 2 || e->items[1]->kind != TS_STR)
    return IT_FAIL(it, KILN_INVALID_FILE, "getattr() takes an object and a name");
  KILN_TRY(interp_eval(it, e->items[0], &owner));
  return interp_attribute_get(it, &owner, e->items[1]->s, out);
}

static kiln_status call_word(interp *it, const ts_expr *e, ts_value *out) {
  const char *name = e->a->s;
  ts_call call;
  ts_value callee;
  if (interp_variable(it->frame, name) >= 0) {
    KILN_TRY(interp_eval(it, e->a, &callee));
    return call_value(it, &callee, e, out);
  }
  if (str_eq(name, "annotate") || str_eq(name, "unchecked_cast")) return eval_typed(it, e, out);
  if (str_eq(name, "uninitialized")) {
    *out = (ts_value){.kind = TSV_UNINITIALIZED};
    return KILN_OK;
  }
  if (str_eq(name, "isinstance")) return eval_isinstance(it, e, out);
  if (str_eq(name, "getattr")) return eval_getattr(it, e, out);
  KILN_TRY(eval_arguments(it, e, &call));
  call.name = name;
  return interp_call_operator(it, &call, out);
}

static kiln_status eval_call(interp *it, const ts_expr *e, ts_value *out) {
  if (e->count > 0x10000) return IT_FAIL(it, KILN_INVALID_FILE, "a call with %d arguments", e->count);
  if (e->a->kind == TS_NAME) return call_word(it, e, out);
  if (is_path(e->a)) return call_path(it, e, out);
  if (e->a->kind == TS_ATTR) return call_method(it, e, out);
  ts_value callee;
  KILN_TRY(interp_eval(it, e->a, &callee));
  return call_value(it, &callee, e, out);
}

/* ---- the rest --------------------------------------------------------------------------------------------------- */

static kiln_status eval_name(interp *it, const ts_expr *e, ts_value *out) {
  const int at = interp_variable(it->frame, e->s);
  if (at < 0) return IT_FAIL(it, KILN_INVALID_FILE, "`%s` is used before it is set", e->s);
  *out = it->frame->slots[at];
  return KILN_OK;
}

/* x[i]; of a ModuleList, child number i. */
static kiln_status eval_index(interp *it, const ts_expr *e, ts_value *out) {
  ts_value args[2];
  char name[24];
  KILN_TRY(interp_eval(it, e->a, &args[0]));
  KILN_TRY(interp_eval(it, e->items[0], &args[1]));
  if (args[0].kind == TSV_OBJECT && args[0].u.object->cls->kind == TSC_MODULE) {
    if (args[1].kind == TSV_STR) return interp_attribute_get(it, &args[0], args[1].u.s, out);
    int64_t i = args[1].kind == TSV_INT ? args[1].u.i : DIM_ERROR;
    for (int64_t n = 0; i < 0 && dim_is_const(i);
         n++) { /* from the end: there are as many as there are numbered attributes */
      (void)snprintf(name, sizeof name, "%lld", (long long)n);
      if (ts_class_attribute(args[0].u.object->cls, name) < 0) i = n + i < 0 ? DIM_ERROR : n + i;
    }
    if (!dim_is_const(i))
      return IT_FAIL(it, KILN_UNSUPPORTED, "a module list can only be indexed with what is known at build time");
    (void)snprintf(name, sizeof name, "%lld", (long long)i);
    return interp_attribute_get(it, &args[0], name, out);
  }
  const ts_call call = {.name = "__getitem__", .n = 2, .args = args};
  return interp_call_operator(it, &call, out);
}

static kiln_status eval_many(interp *it, const ts_expr *e, ts_value *out) {
  KILN_TRY(interp_list_new(it, e->kind == TS_TUPLE ? TSV_TUPLE : TSV_LIST, e->count, NULL, out));
  for (int i = 0; i < e->count; i++) KILN_TRY(interp_eval(it, e->items[i], &out->u.list->items[i]));
  return KILN_OK;
}

static kiln_status eval_dict(interp *it, const ts_expr *e, ts_value *out) {
  KILN_TRY(interp_dict_new(it, out));
  for (int i = 0; i + 1 < e->count; i += 2) {
    ts_value key, v;
    KILN_TRY(interp_eval(it, e->items[i], &key));
    KILN_TRY(interp_eval(it, e->items[i + 1], &v));
    KILN_TRY(interp_dict_put(it, out->u.dict, key, v));
  }
  return KILN_OK;
}

static kiln_status eval_operator(interp *it, const char *name, int n, const ts_expr *const *operands, ts_value *out) {
  ts_value args[2];
  const char *names[2] = {NULL, NULL};
  for (int i = 0; i < n; i++) KILN_TRY(interp_eval(it, operands[i], &args[i]));
  const ts_call call = {name, n, args, names};
  return interp_call_operator(it, &call, out);
}

/* A complex number is a tensor of no dimensions, which counts as little as a number does beside tensors that have some. */
static kiln_status eval_complex(interp *it, const ts_expr *e, ts_value *out) {
  ts_value real = of_float(0);
  itensor *parts[2];
  if (e->a) KILN_TRY(interp_eval(it, e->a, &real));
  if (real.kind != TSV_FLOAT && (real.kind != TSV_INT || !dim_is_const(real.u.i)))
    return IT_FAIL(it, KILN_INVALID_FILE, "a complex number whose real part is %s", interp_kind_name(&real));
  const double both[2] = {real.kind == TSV_INT ? (double)real.u.i : real.u.f, e->u.f};
  bool exact = true;
  for (int i = 0; i < 2; i++) exact &= fabs(both[i]) < 1e30 && !(fabs((double)(float)both[i] - both[i]) > 0);
  for (int i = 0; i < 2; i++) {
    value *v = graph_scalar(it->g, exact ? KILN_F32 : KILN_F64, both[i]);
    parts[i] = v ? lower_tensor(&it->a->im, v) : NULL;
  }
  *out = of_tensor(complex_tensor(&it->a->im, parts[0], parts[1]));
  return out->u.tensor ? KILN_OK : interp_no_memory(it);
}

kiln_status interp_eval(interp *it, const ts_expr *e, ts_value *out) {
  switch (e->kind) {
    case TS_NAME:
      return eval_name(it, e, out);
    case TS_INT:
      if (!dim_is_const(e->u.i))
        return IT_FAIL(it, KILN_UNSUPPORTED, "the integer %lld is out of range", (long long)e->u.i);
      *out = of_int(e->u.i);
      return KILN_OK;
    case TS_FLOAT:
      *out = of_float(e->u.f);
      return KILN_OK;
    case TS_COMPLEX:
      return eval_complex(it, e, out);
    case TS_STR:
      *out = of_string(e->s);
      return KILN_OK;
    case TS_TRUE:
    case TS_FALSE:
      *out = of_bool(e->kind == TS_TRUE);
      return KILN_OK;
    case TS_NONE:
      *out = of_none();
      return KILN_OK;
    case TS_ATTR: {
      ts_value owner;
      if (is_path(e)) return eval_path(it, e, out);
      KILN_TRY(interp_eval(it, e->a, &owner));
      return interp_attribute_get(it, &owner, e->s, out);
    }
    case TS_CALL:
      return eval_call(it, e, out);
    case TS_INDEX:
      return eval_index(it, e, out);
    case TS_TUPLE:
    case TS_LIST:
      return eval_many(it, e, out);
    case TS_DICT:
      return eval_dict(it, e, out);
    case TS_NEG:
      return eval_operator(it, "neg", 1, (const ts_expr *const[]){e->a}, out);
  }
  return IT_FAIL(it, KILN_INVALID_FILE, "an expression of unknown kind");
}
