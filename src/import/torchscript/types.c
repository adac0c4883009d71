/* Types of TorchScript: from annotations, as texts. */
#include <string.h>

#include "base/text.h"
#include "import/torchscript/archive.h"

enum { MAX_TYPE_DEPTH = 64, MAX_NAME = 1000 };

static const ts_type simple[] = {
    [TST_ANY] = {.kind = TST_ANY},       [TST_TENSOR] = {.kind = TST_TENSOR},   [TST_INT] = {.kind = TST_INT},
    [TST_FLOAT] = {.kind = TST_FLOAT},   [TST_COMPLEX] = {.kind = TST_COMPLEX}, [TST_BOOL] = {.kind = TST_BOOL},
    [TST_STR] = {.kind = TST_STR},       [TST_NONE] = {.kind = TST_NONE},       [TST_NUMBER] = {.kind = TST_NUMBER},
    [TST_DEVICE] = {.kind = TST_DEVICE}, [TST_LAYOUT] = {.kind = TST_LAYOUT},
};

static const ts_type *const any_twice[] = {&simple[TST_ANY], &simple[TST_ANY]};
static const ts_type composed[] = {
    {.kind = TST_OPTIONAL, .count = 1, .items = any_twice}, {.kind = TST_LIST, .count = 1, .items = any_twice},
    {.kind = TST_DICT, .count = 2, .items = any_twice},     {.kind = TST_TUPLE},
    {.kind = TST_UNION, .count = 1, .items = any_twice},    {.kind = TST_CLASS},
};

const ts_type *ts_type_simple(ts_type_kind kind) {
  return kind <= TST_LAYOUT ? &simple[kind] : &composed[kind - TST_OPTIONAL];
}

static kiln_status type_new(ts_archive *a, ts_type_kind kind, int count, const ts_type *const *items,
                            const ts_type **out) {
  ts_type *t = ARENA_NEW(&a->arena, ts_type);
  if (!t) return KILN_NO_MEMORY("types");
  *t = (ts_type){.kind = kind, .count = count};
  if (count > 0) {
    t->items = arena_copy(&a->arena, items, (size_t)count * sizeof *items);
    if (!t->items) return KILN_NO_MEMORY("types");
  }
  *out = t;
  return KILN_OK;
}

const ts_type *ts_type_list_of(ts_archive *a, const ts_type *item) {
  const ts_type *t = NULL;
  return type_new(a, TST_LIST, 1, &item, &t) == KILN_OK ? t : NULL;
}

/* ---- from annotations -------------------------------------------------------------------------------------------- */

/* Names that PyTorch prints for types. Dtypes and memory formats are ints in code; a Stream or a Generator may be
 * named, though no value of it reaches a model that Kiln can run. */
static const struct {
  const char *name;
  ts_type_kind kind;
} names[] = {
    {"Tensor", TST_TENSOR},    {"int", TST_INT},         {"float", TST_FLOAT},      {"bool", TST_BOOL},
    {"str", TST_STR},          {"NoneType", TST_NONE},   {"None", TST_NONE},        {"complex", TST_COMPLEX},
    {"number", TST_NUMBER},    {"Scalar", TST_NUMBER},   {"Device", TST_DEVICE},    {"Layout", TST_LAYOUT},
    {"Any", TST_ANY},          {"AnyListType", TST_ANY}, {"AnyTupleType", TST_ANY}, {"AnyEnumType", TST_ANY},
    {"AnyClassType", TST_ANY}, {"ScalarType", TST_INT},  {"MemoryFormat", TST_INT}, {"QScheme", TST_INT},
    {"Generator", TST_ANY},    {"Stream", TST_ANY},      {"Storage", TST_ANY},      {"Capsule", TST_ANY},
    {"PyObject", TST_ANY},     {"Dimname", TST_STR},     {"SymInt", TST_INT},       {"SymFloat", TST_FLOAT},
    {"SymBool", TST_BOOL},
};

/* a.b.c as text; false if it is none, or too long. */
static bool dotted(const ts_expr *e, char *out, size_t size) {
  const ts_expr *parts[64];
  int n = 0;
  for (; e->kind == TS_ATTR; e = e->a) {
    if (n == 63) return false;
    parts[n++] = e;
  }
  if (e->kind != TS_NAME) return false;
  size_t at = 0;
  for (const char *s = e->s;; s = parts[n]->s) {
    const size_t length = strlen(s);
    if (length + 2 > size - at) return false;
    memcpy(out + at, s, length);
    at += length;
    if (n == 0) break;
    out[at++] = '.';
    n--;
  }
  out[at] = 0;
  return true;
}

static kiln_status resolve(ts_archive *a, const char *file, const ts_expr *e, int depth, const ts_type **out);

static kiln_status class_type(ts_archive *a, const char *file, const ts_expr *e, const char *name,
                              const ts_type **out) {
  const ts_class *c = NULL;
  const kiln_status status = ts_class_find(a, name, &c);
  if (status != KILN_OK) return error_note(status, __FILE__, __LINE__, "named at %s:%d", file, e->line);
  ts_type *t = map_get(&a->types, c->name);
  if (!t) {
    t = ARENA_NEW(&a->arena, ts_type);
    if (!t) return KILN_NO_MEMORY("types");
    *t = (ts_type){.kind = TST_CLASS, .cls = c};
    if (!map_put(&a->types, c->name, t)) return KILN_NO_MEMORY("types");
  }
  *out = t;
  return KILN_OK;
}

static kiln_status named_type(ts_archive *a, const char *file, const ts_expr *e, const ts_type **out) {
  char name[MAX_NAME];
  if (!dotted(e, name, sizeof name)) return TS_FAIL(a, KILN_INVALID_FILE, file, e->line, "this is no name of a type");
  for (size_t i = 0; i < KILN_COUNT(names); i++) {
    if (!str_eq(name, names[i].name)) continue;
    *out = &simple[names[i].kind];
    return KILN_OK;
  }
  const ts_type_kind bare = str_eq(name, "List") ? TST_LIST : str_eq(name, "Dict") ? TST_DICT : TST_ANY;
  if (bare != TST_ANY) {
    *out = ts_type_simple(bare);
    return KILN_OK;
  }
  if (str_starts(name, "__torch__.")) return class_type(a, file, e, name, out);
  return TS_FAIL(a, KILN_UNSUPPORTED, file, e->line, "type `%.200s` is not supported", name);
}

/* List[X], Tuple[X, Y], Tuple[()], ... */
static kiln_status composed_type(ts_archive *a, const char *file, const ts_expr *e, int depth, const ts_type **out) {
  static const struct {
    const char *name;
    ts_type_kind kind;
    int count; /* of items; -1: any number; 0: stands for its item */
  } generics[] = {{"Optional", TST_OPTIONAL, 1}, {"List", TST_LIST, 1},    {"Dict", TST_DICT, 2},
                  {"Tuple", TST_TUPLE, -1},      {"Union", TST_UNION, -1}, {"Final", TST_ANY, 0},
                  {"Future", TST_ANY, 0},        {"Await", TST_ANY, 0}};
  const char *name = e->a->kind == TS_NAME ? e->a->s : "";
  int g = 0;
  while (g < (int)KILN_COUNT(generics) && !str_eq(name, generics[g].name)) g++;
  if (g == (int)KILN_COUNT(generics))
    return TS_FAIL(a, KILN_UNSUPPORTED, file, e->line, "type `%.100s[...]` is not supported", name);
  const ts_expr *const *items = (const ts_expr *const *)e->items;
  const int count = e->count == 1 && items[0]->kind == TS_TUPLE && items[0]->count == 0 ? 0 : e->count; /* Tuple[()] */
  const int wanted = generics[g].count ? generics[g].count : 1;
  if (wanted > 0 && count != wanted)
    return TS_FAIL(a, KILN_INVALID_FILE, file, e->line, "%s[...] takes %d types, got %d", name, wanted, count);
  const ts_type **types = ARENA_ARRAY(&a->arena, const ts_type *, count ? count : 1);
  if (!types) return KILN_NO_MEMORY("types");
  for (int i = 0; i < count; i++) KILN_TRY(resolve(a, file, items[i], depth + 1, &types[i]));
  if (generics[g].count == 0) {
    *out = types[0];
    return KILN_OK;
  }
  return type_new(a, generics[g].kind, count, types, out);
}

static kiln_status resolve(ts_archive *a, const char *file, const ts_expr *e, int depth, const ts_type **out) {
  if (depth > MAX_TYPE_DEPTH)
    return TS_FAIL(a, KILN_INVALID_FILE, file, e->line, "a type is nested more than %d deep", MAX_TYPE_DEPTH);
  switch (e->kind) {
    case TS_NAME:
    case TS_ATTR:
      return named_type(a, file, e, out);
    case TS_NONE:
      *out = &simple[TST_NONE];
      return KILN_OK;
    case TS_INDEX:
      return composed_type(a, file, e, depth, out);
    default:
      return TS_FAIL(a, KILN_INVALID_FILE, file, e->line, "expected a type");
  }
}

kiln_status ts_type_resolve(ts_archive *a, const char *file, const ts_expr *annotation, const ts_type **out) {
  return resolve(a, file, annotation, 0, out);
}

kiln_status ts_type_parse(ts_archive *a, const char *annotation, const ts_type **out) {
  *out = map_get(&a->types, annotation);
  if (*out) return KILN_OK;
  ts_stmt *s = NULL;
  const char *key = arena_strdup(&a->arena, annotation);
  if (!key) return KILN_NO_MEMORY("types");
  KILN_TRY(ts_parse(&a->arena, "a type tag of data.pkl", key, strlen(key), &s));
  if (!s || s->next || s->kind != TS_EXPR)
    return KILN_FAIL(KILN_INVALID_FILE, "a type tag of data.pkl: `%.200s` is no type", annotation);
  KILN_TRY(resolve(a, "a type tag of data.pkl", s->value, 0, out));
  if (!map_put(&a->types, key, (void *)(uintptr_t)*out)) return KILN_NO_MEMORY("types");
  return KILN_OK;
}

/* ---- to text ----------------------------------------------------------------------------------------------------- */

static void print(const ts_type *t, int depth, text *out) {
  static const char *const kinds[] = {"Any",    "Tensor", "int",    "float",    "complex", "bool", "str",   "None",
                                      "number", "Device", "Layout", "Optional", "List",    "Dict", "Tuple", "Union"};
  if (!t || depth > MAX_TYPE_DEPTH) {
    text_puts(out, "?");
    return;
  }
  if (t->kind == TST_CLASS) {
    text_puts(out, t->cls ? t->cls->name : "class");
    return;
  }
  text_puts(out, kinds[t->kind]);
  if (t->kind < TST_OPTIONAL) return;
  text_puts(out, t->count ? "[" : "[()");
  for (int i = 0; i < t->count; i++) {
    if (i) text_puts(out, ", ");
    print(t->items[i], depth + 1, out);
  }
  text_puts(out, "]");
}

void ts_type_print(const ts_type *t, text *out) { print(t, 0, out); }
