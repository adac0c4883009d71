/* Pickles of a TorchScript archive to values: modules, class instances, enums, lists, dicts, tensors.
 *
 * What the pickle shares stays shared: a list, dict or object that two attributes hold is one. Types come from the
 * classes' annotations and from the tags that PyTorch puts on lists and dicts; they make tuples into NamedTuples. */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "import/torchscript/archive.h"

enum {
  MAX_DEPTH = 600, /* of the pickle; a module in a module takes two */
  MAX_VALUES = 8 << 20,
  MAX_PICKLED = 4 << 20,
  MAX_PICKLE_BYTES = 1 << 30,
  MAX_PATH_BYTES = 64 << 20
};

static const pickle_global globals[] = {
    {"__torch__", "*"},
    {"__torch__.*", "*"},
    {"collections", "OrderedDict"},
    {"torch", "*Storage"},
    {"torch", "device"},
    {"torch", "per_tensor_affine"},
    {"torch", "per_channel_affine"},
    {"torch", "per_channel_affine_float_qparams"},
    {"torch._utils", "_rebuild_*"},
    {"torch.jit._pickle", "restore_type_tag"},
    {"torch.jit._pickle", "build_*"},
    {"builtins", "complex"},
};

const char *ts_value_kind_name(ts_value_kind kind) {
  static const char *const names[] = {"None",           "an uninitialized value",
                                      "a tensor",       "an int",
                                      "a float",        "a bool",
                                      "run-time data",  "a string",
                                      "a list",         "a tuple",
                                      "a dict",         "an object",
                                      "a named tuple",  "an enum",
                                      "a device",       "a quantized tensor",
                                      "a function",     "a method",
                                      "items of a loop"};
  return (size_t)kind < KILN_COUNT(names) ? names[kind] : "unknown";
}

kiln_status ts_list_new(ts_archive *a, int count, ts_list **out) {
  ts_list *l = ARENA_NEW(&a->arena, ts_list);
  if (!l) return KILN_NO_MEMORY("values");
  if (count > 0 && !(l->items = ARENA_ARRAY(&a->arena, ts_value, count))) return KILN_NO_MEMORY("values");
  l->count = l->capacity = count;
  *out = l;
  return KILN_OK;
}

kiln_status ts_object_new(ts_archive *a, const ts_class *c, ts_object **out) {
  ts_object *o = ARENA_NEW(&a->arena, ts_object);
  if (!o) return KILN_NO_MEMORY("values");
  o->cls = c;
  o->n_attrs = c->kind == TSC_ENUM ? 2 : c->n_attributes;
  o->attrs = ARENA_ARRAY(&a->arena, ts_value, o->n_attrs ? o->n_attrs : 1);
  if (!o->attrs) return KILN_NO_MEMORY("values");
  for (int32_t i = 0; i < o->n_attrs; i++) o->attrs[i].kind = TSV_UNINITIALIZED;
  *out = o;
  return KILN_OK;
}

static kiln_status bad(const ts_reader *r, const char *where, const char *what) {
  return KILN_FAIL(KILN_INVALID_FILE, "%s: `%.200s`: %s", r->entry, where, what);
}

/* ---- collections ------------------------------------------------------------------------------------------------- */

static const ts_type *item_type(const ts_type *t, int i) {
  if (!t) return NULL;
  if (t->kind == TST_LIST) return t->count == 1 ? t->items[0] : NULL;
  if (t->kind == TST_TUPLE || t->kind == TST_DICT) return i < t->count ? t->items[i] : NULL;
  if (t->kind == TST_CLASS && t->cls->kind == TSC_NAMEDTUPLE) return t->cls->attributes[i].type;
  return NULL;
}

static kiln_status read_items(ts_reader *r, const pickle_value *p, const char *where, const ts_type *type,
                              ts_value *out) {
  if (p->count > INT32_MAX / 2) return bad(r, where, "too many items");
  KILN_TRY(ts_list_new(r->a, (int)p->count, &out->u.list));
  for (size_t i = 0; i < p->count; i++)
    KILN_TRY(ts_value_read(r, p->items[i], where, item_type(type, (int)i), &out->u.list->items[i]));
  return KILN_OK;
}

static kiln_status read_list(ts_reader *r, const pickle_value *p, const char *where, const ts_type *type,
                             ts_value *out) {
  out->kind = TSV_LIST;
  out->type = type && type->kind == TST_LIST ? type : NULL;
  return read_items(r, p, where, out->type, out);
}

static kiln_status read_tuple(ts_reader *r, const pickle_value *p, const char *where, const ts_type *type,
                              ts_value *out) {
  if (type && type->kind == TST_CLASS && type->cls->kind == TSC_NAMEDTUPLE) {
    if (p->count != (size_t)type->cls->n_attributes)
      return bad(r, where, "a named tuple with another number of fields");
    out->kind = TSV_NAMEDTUPLE;
    KILN_TRY(ts_object_new(r->a, type->cls, &out->u.object));
    for (size_t i = 0; i < p->count; i++)
      KILN_TRY(ts_value_read(r, p->items[i], where, item_type(type, (int)i), &out->u.object->attrs[i]));
    return KILN_OK;
  }
  out->kind = TSV_TUPLE;
  out->type = type && type->kind == TST_TUPLE ? type : NULL;
  if (out->type && (size_t)type->count != p->count)
    return bad(r, where, "a tuple with another number of items than its type");
  return read_items(r, p, where, out->type, out);
}

static kiln_status read_dict(ts_reader *r, const pickle_value *p, const char *where, const ts_type *type,
                             ts_value *out) {
  if (p->count > INT32_MAX / 2) return bad(r, where, "too many items");
  ts_dict *d = ARENA_NEW(&r->a->arena, ts_dict);
  const size_t room = p->count ? p->count : 1;
  if (d) d->keys = ARENA_ARRAY(&r->a->arena, ts_value, room);
  if (d) d->values = ARENA_ARRAY(&r->a->arena, ts_value, room);
  if (!d || !d->keys || !d->values) return KILN_NO_MEMORY("values");
  d->count = d->capacity = (int)p->count;
  out->kind = TSV_DICT;
  out->type = type && type->kind == TST_DICT ? type : NULL;
  out->u.dict = d;
  for (int i = 0; i < d->count; i++) {
    KILN_TRY(ts_value_read(r, p->items[2 * i], where, item_type(out->type, 0), &d->keys[i]));
    KILN_TRY(ts_value_read(r, p->items[2 * i + 1], where, item_type(out->type, 1), &d->values[i]));
    const ts_value_kind k = d->keys[i].kind;
    if (k != TSV_STR && k != TSV_INT && k != TSV_FLOAT && k != TSV_BOOL && k != TSV_TENSOR)
      return bad(r, where, "a dict whose keys are neither strings, numbers nor tensors");
  }
  return KILN_OK;
}

/* ---- objects ----------------------------------------------------------------------------------------------------- */

static kiln_status class_of(ts_reader *r, const pickle_value *callable, const char *where, const ts_class **out) {
  char name[1000];
  const int n = snprintf(name, sizeof name, "%s.%s", callable->u.global.module, callable->u.global.name);
  if (n < 0 || (size_t)n >= sizeof name) return bad(r, where, "the name of its class is too long");
  KILN_TRY_NOTE(ts_class_find(r->a, name, out), "reading `%.200s` of %s", where, r->entry);
  return KILN_OK;
}

/* "encoder.layer" and "weight" to one path. Bounded: long names of modules in modules would add up without end. */
static kiln_status path_of(ts_reader *r, const char *where, const char *name, const char **out) {
  *out = name;
  if (!*where) return KILN_OK;
  r->path_bytes += strlen(where) + strlen(name);
  if (r->path_bytes > MAX_PATH_BYTES) return bad(r, where, "the paths of modules are too long");
  *out = arena_printf(&r->a->arena, "%s.%s", where, name);
  return *out ? KILN_OK : KILN_NO_MEMORY("values");
}

/* What a state has for an attribute, or NULL. States list them in the order of the class: *next is where it is looked
 * for first; a look-up by name is the exception. */
static kiln_status find_state(const pickle_value *state, const char *name, size_t *next, map *by_name,
                              const pickle_value **out) {
  if (*next < state->count && state->items[2 * *next]->kind == PICKLE_STRING &&
      str_eq(state->items[2 * *next]->u.s.data, name)) {
    *out = state->items[2 * (*next)++ + 1];
    return KILN_OK;
  }
  const bool indexed = by_name->capacity > 0;
  for (size_t k = 0; !indexed && k < state->count; k++) {
    const pickle_value *key = state->items[2 * k];
    if (key->kind == PICKLE_STRING && !map_put(by_name, key->u.s.data, state->items[2 * k + 1]))
      return KILN_NO_MEMORY("values");
  }
  *out = map_get(by_name, name);
  return KILN_OK;
}

static kiln_status read_attribute(ts_reader *r, ts_object *o, int32_t i, const pickle_value *found, const char *where) {
  const ts_attribute *at = &o->cls->attributes[i];
  const char *path = NULL;
  KILN_TRY(path_of(r, where, at->name, &path));
  if (found) return ts_value_read(r, found, path, at->type, &o->attrs[i]);
  return KILN_FAIL(KILN_INVALID_FILE,
                   "%s: `%.200s` is missing: class %.200s (%s:%d) has an attribute `%.100s`, the file no value",
                   r->entry, path, o->cls->name, o->cls->file, o->cls->def->line, at->name);
}

static kiln_status read_attributes(ts_reader *r, ts_object *o, const pickle_value *state, const char *where) {
  size_t next = 0;
  map by_name = {0};
  kiln_status status = KILN_OK;
  for (int32_t i = 0; i < o->n_attrs && status == KILN_OK; i++) {
    const pickle_value *found = NULL;
    if (o->cls->attributes[i].constant) continue;
    status = find_state(state, o->cls->attributes[i].name, &next, &by_name, &found);
    if (status == KILN_OK) status = read_attribute(r, o, i, found, where);
  }
  map_free(&by_name);
  return status;
}

static kiln_status add_pending(ts_archive *a, ts_object *o) {
  if ((a->n_pending & (a->n_pending - 1)) == 0) { /* full at each power of two */
    ts_object **grown = ARENA_ARRAY(&a->arena, ts_object *, a->n_pending ? a->n_pending * 2 : 1);
    if (!grown) return KILN_NO_MEMORY("values");
    if (a->n_pending) memcpy(grown, a->pending, (size_t)a->n_pending * sizeof *grown);
    a->pending = grown;
  }
  a->pending[a->n_pending++] = o;
  return KILN_OK;
}

/* The argument of __setstate__, whose annotation gives its type. */
static kiln_status read_state(ts_reader *r, const ts_function *set, const pickle_value *state, const char *where,
                              ts_object *o) {
  ts_value *v = ARENA_NEW(&r->a->arena, ts_value);
  if (!v) return KILN_NO_MEMORY("values");
  KILN_TRY(ts_function_params(r->a, set));
  if (set->def->n_params != 2) return bad(r, where, "its class's __setstate__ does not take one state");
  KILN_TRY(ts_value_read(r, state, where, set->params[1], v));
  o->state = v;
  return add_pending(r->a, o);
}

static kiln_status read_object(ts_reader *r, const pickle_value *p, const char *where, ts_value *out) {
  const pickle_value *callable = p->u.call.callable, *state = p->u.call.state;
  const ts_class *c = NULL;
  if (str_eq(callable->u.global.module, "collections")) { /* OrderedDict() of tensors' hooks: no value of a model */
    out->kind = TSV_NONE;
    return KILN_OK;
  }
  KILN_TRY(class_of(r, callable, where, &c));
  if (!state) return bad(r, where, "an object without a state");
  if (c->kind == TSC_BUILTIN) return ts_packed_read(r, c->name, state, where, out);
  if (c->kind != TSC_MODULE && c->kind != TSC_CLASS) return bad(r, where, "an object of a class that has no objects");
  out->kind = TSV_OBJECT;
  KILN_TRY(ts_object_new(r->a, c, &out->u.object));
  out->u.object->path = c->kind == TSC_MODULE ? where : NULL;
  const ts_function *set = ts_class_method(c, "__setstate__");
  if (set) return read_state(r, set, state, where, out->u.object);
  if (state->kind != PICKLE_DICT) return bad(r, where, "its state is no dict, and its class has no __setstate__");
  return read_attributes(r, out->u.object, state, where);
}

/* ---- enums ------------------------------------------------------------------------------------------------------- */

static bool literal(const ts_expr *e, ts_value *out) {
  bool negative = false;
  for (; e->kind == TS_NEG; e = e->a) negative = !negative;
  *out = (ts_value){0};
  switch (e->kind) {
    case TS_INT:
      out->kind = TSV_INT;
      out->u.i = negative ? -e->u.i : e->u.i;
      return e->u.i > DIM_EXPRESSION;
    case TS_FLOAT:
      out->kind = TSV_FLOAT;
      out->u.f = negative ? -e->u.f : e->u.f;
      return true;
    case TS_STR:
      out->kind = TSV_STR;
      out->u.s = e->s;
      return !negative;
    default:
      return false;
  }
}

kiln_status ts_enum_member(ts_archive *a, const ts_class *c, int index, ts_value *out) {
  const ts_attribute *m = &c->attributes[index];
  *out = (ts_value){.kind = TSV_ENUM};
  KILN_TRY(ts_object_new(a, c, &out->u.object));
  ts_value *attrs = out->u.object->attrs;
  attrs[0] = (ts_value){.kind = TSV_STR};
  attrs[0].u.s = m->name;
  if (literal(m->constant, &attrs[1])) return KILN_OK;
  return TS_FAIL(a, KILN_INVALID_FILE, c->file, m->constant->line,
                 "the value of an enum's member must be a number or a string");
}

static bool same_literal(const ts_value *v, const pickle_value *p) {
  if (v->kind == TSV_INT) return p->kind == PICKLE_INT && p->u.i == v->u.i;
  if (v->kind == TSV_FLOAT) return p->kind == PICKLE_FLOAT && p->u.f >= v->u.f && p->u.f <= v->u.f;
  return p->kind == PICKLE_STRING && str_eq(p->u.s.data, v->u.s);
}

static kiln_status read_enum(ts_reader *r, const ts_class *c, const pickle_value *args, const char *where,
                             ts_value *out) {
  if (args->count != 1) return bad(r, where, "an enum without a value");
  for (int i = 0; i < c->n_attributes; i++) {
    ts_value v;
    if (!c->attributes[i].constant || !literal(c->attributes[i].constant, &v) || !same_literal(&v, args->items[0]))
      continue;
    return ts_enum_member(r->a, c, i, out);
  }
  return bad(r, where, "an enum's value that its class does not have");
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static bool is_call_of(const pickle_value *p, const char *name) {
  return str_eq(p->u.call.callable->u.global.name, name);
}

static kiln_status read_tagged(ts_reader *r, const pickle_value *args, const char *where, ts_value *out) {
  const ts_type *type = NULL;
  if (args->count != 2 || args->items[1]->kind != PICKLE_STRING) return bad(r, where, "a type tag without its type");
  KILN_TRY_NOTE(ts_type_parse(r->a, args->items[1]->u.s.data, &type), "reading `%.200s` of %s", where, r->entry);
  if (type->kind != TST_LIST && type->kind != TST_DICT)
    return bad(r, where, "a type tag on what is neither a list nor a dict");
  return ts_value_read(r, args->items[0], where, type, out);
}

/* build_intlist([1, 2]) and its like. */
static kiln_status read_built(ts_reader *r, const pickle_value *p, const char *where, ts_value *out) {
  static const char *const names[] = {"build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"};
  static const ts_type_kind kinds[] = {TST_INT, TST_FLOAT, TST_BOOL, TST_TENSOR};
  for (size_t i = 0; i < KILN_COUNT(names); i++) {
    if (!is_call_of(p, names[i])) continue;
    const pickle_value *args = p->u.call.args;
    const ts_type *list = ts_type_list_of(r->a, ts_type_simple(kinds[i]));
    if (!list) return KILN_NO_MEMORY("types");
    if (args->count != 1 || args->items[0]->kind != PICKLE_LIST) return bad(r, where, "a list without its items");
    return read_list(r, args->items[0], where, list, out);
  }
  return KILN_FAIL(KILN_UNSUPPORTED, "%s: `%.200s`: %.100s is not supported", r->entry, where,
                   p->u.call.callable->u.global.name);
}

static kiln_status read_device(ts_reader *r, const pickle_value *args, const char *where, ts_value *out) {
  if (args->count < 1 || args->items[0]->kind != PICKLE_STRING) return bad(r, where, "a device without a name");
  out->kind = TSV_DEVICE;
  out->u.s = args->items[0]->u.s.data;
  return KILN_OK;
}

static kiln_status read_call(ts_reader *r, const pickle_value *p, const char *where, ts_value *out) {
  const pickle_value *callable = p->u.call.callable, *args = p->u.call.args;
  const char *module = callable->u.global.module, *name = callable->u.global.name;
  if (str_starts(module, "__torch__")) {
    const ts_class *c = NULL;
    KILN_TRY(class_of(r, callable, where, &c));
    if (c->kind == TSC_ENUM) return read_enum(r, c, args, where, out);
    const ts_type type = {.kind = TST_CLASS, .cls = c};
    if (c->kind == TSC_NAMEDTUPLE) return read_tuple(r, args, where, &type, out);
    return bad(r, where, "calls a class that is neither an enum nor a named tuple");
  }
  if (str_eq(name, "_rebuild_tensor_v2")) return ts_tensor_read(r, args, where, out);
  if (str_eq(name, "_rebuild_qtensor")) return ts_qtensor_read(r, args, where, out);
  if (str_eq(name, "restore_type_tag")) return read_tagged(r, args, where, out);
  if (str_eq(name, "device")) return read_device(r, args, where, out);
  if (str_eq(name, "complex"))
    return KILN_FAIL(KILN_UNSUPPORTED, "%s: `%.200s` is a complex number; Kiln has none", r->entry, where);
  if (strstr(name, "sparse"))
    return KILN_FAIL(KILN_UNSUPPORTED, "%s: `%.200s` is a sparse tensor; call to_dense() on it before saving", r->entry,
                     where);
  if (str_starts(name, "_rebuild_"))
    return KILN_FAIL(KILN_UNSUPPORTED, "%s: `%.200s`: a tensor made by %.100s is not supported", r->entry, where, name);
  return read_built(r, p, where, out);
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

/* Does the value's kind fit its declared type? Only what would mislead whoever reads it later. */
static bool fits(const ts_type *t, const ts_value *v) {
  if (!t) return true;
  switch (t->kind) {
    case TST_TENSOR:
      return v->kind == TSV_TENSOR || v->kind == TSV_QTENSOR || v->kind == TSV_NONE;
    case TST_INT:
      return v->kind == TSV_INT || v->kind == TSV_BOOL;
    case TST_FLOAT:
      return v->kind == TSV_FLOAT || v->kind == TSV_INT;
    case TST_BOOL:
      return v->kind == TSV_BOOL;
    case TST_STR:
      return v->kind == TSV_STR;
    case TST_NONE:
      return v->kind == TSV_NONE;
    case TST_DEVICE:
      return v->kind == TSV_DEVICE;
    case TST_OPTIONAL:
      return v->kind == TSV_NONE || fits(t->items[0], v);
    case TST_LIST:
      return v->kind == TSV_LIST;
    case TST_DICT:
      return v->kind == TSV_DICT;
    case TST_TUPLE:
      return v->kind == TSV_TUPLE || v->kind == TSV_NAMEDTUPLE;
    case TST_CLASS:
      return v->kind == TSV_OBJECT || v->kind == TSV_ENUM || v->kind == TSV_NAMEDTUPLE;
    default:
      return true;
  }
}

static kiln_status read_shared(ts_reader *r, const pickle_value *p, const char *where, const ts_type *type,
                               ts_value *out) {
  const uint64_t key = (uint64_t)(uintptr_t)p;
  ts_value *known = map_get_number(&r->seen, key);
  if (known && p->kind != PICKLE_TUPLE) {
    *out = *known;
    return KILN_OK;
  }
  if (p->kind == PICKLE_TUPLE) return read_tuple(r, p, where, type, out);
  if (p->kind == PICKLE_LIST) KILN_TRY(read_list(r, p, where, type, out));
  if (p->kind == PICKLE_DICT) KILN_TRY(read_dict(r, p, where, type, out));
  if (p->kind == PICKLE_OBJECT) KILN_TRY(read_object(r, p, where, out));
  if (p->kind == PICKLE_REDUCE) KILN_TRY(read_call(r, p, where, out));
  known = ARENA_NEW(&r->a->arena, ts_value);
  if (!known || !map_put_number(&r->seen, key, known)) return KILN_NO_MEMORY("values");
  *known = *out;
  return KILN_OK;
}

kiln_status ts_value_read(ts_reader *r, const pickle_value *p, const char *where, const ts_type *type, ts_value *out) {
  *out = (ts_value){0};
  if (r->values++ >= MAX_VALUES) return bad(r, where, "the file unfolds to too many values");
  const ts_type *inner = type && type->kind == TST_OPTIONAL ? type->items[0] : type;
  switch (p->kind) {
    case PICKLE_NONE:
      break;
    case PICKLE_BOOL:
      out->kind = TSV_BOOL;
      out->u.i = p->u.b;
      break;
    case PICKLE_INT:
      if (p->u.i < DIM_EXPRESSION) return bad(r, where, "an integer that is too negative");
      out->kind = TSV_INT;
      out->u.i = p->u.i;
      break;
    case PICKLE_FLOAT:
      out->kind = TSV_FLOAT;
      out->u.f = p->u.f;
      break;
    case PICKLE_STRING:
      out->kind = TSV_STR;
      out->u.s = p->u.s.data;
      break;
    case PICKLE_TUPLE:
    case PICKLE_LIST:
    case PICKLE_DICT:
    case PICKLE_OBJECT:
    case PICKLE_REDUCE:
      if (r->depth >= MAX_DEPTH) return bad(r, where, "nested too deep");
      r->depth++;
      KILN_TRY(read_shared(r, p, where, inner, out));
      r->depth--;
      break;
    default:
      return KILN_FAIL(KILN_INVALID_FILE, "%s: `%.200s` is %s", r->entry, where, pickle_kind_name(p->kind));
  }
  if (fits(type, out)) return KILN_OK;
  text t = {0};
  ts_type_print(type, &t);
  const kiln_status status = KILN_FAIL(KILN_INVALID_FILE, "%s: `%.200s` is %s; its type is %.200s", r->entry, where,
                                       ts_value_kind_name(out->kind), t.data ? t.data : "");
  text_free(&t);
  return status;
}

kiln_status ts_pickle_read(ts_archive *a, const char *entry, const char *storages, ts_value *out) {
  const zip_entry *e = NULL;
  const void *bytes = NULL;
  size_t size = 0;
  const pickle_value *p = NULL;
  const pickle_options options = {.globals = globals,
                                  .n_globals = KILN_COUNT(globals),
                                  .lone_arguments = true,
                                  .max_depth = MAX_DEPTH,
                                  .max_values = MAX_PICKLED,
                                  .max_bytes = MAX_PICKLE_BYTES};
  KILN_TRY(zip_require(&a->zip, entry, &e));
  KILN_TRY(zip_read(e, &a->arena, &bytes, &size));
  KILN_TRY(pickle_parse(bytes, size, entry, &options, &a->arena, &p));
  ts_reader r = {.a = a, .entry = entry, .storages = storages};
  const kiln_status status = ts_value_read(&r, p, "", NULL, out);
  map_free(&r.seen);
  return status;
}
