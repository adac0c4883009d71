/* Operators that the code of a TorchScript file calls, see survey.h.
 *
 * Walks the syntax of each reachable function once, with the types of local variables (annotations, attributes, and
 * results where they are plain to see): they tell which method x.forward(...) is, and which calls have tensors. Then
 * the call graph says how often each function runs. */
#include "import/torchscript/survey.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "import/aten.h"

enum { MAX_NAME = 400, MAX_LISTED = 60, MAX_LOOKED_AT = 100000000 };
#define MOST_CALLS ((int64_t)1 << 50)

typedef struct fact {          /* what is known of a value */
  const ts_type *type;         /* NULL: nothing */
  const ts_function *function; /* it is this function */
  const ts_class *made;        /* it is this class */
} fact;

typedef struct site { /* of an operator or a call of a function, in one function */
  int32_t target;
  int64_t count;
} site;

typedef struct sites {
  site *list;
  int32_t count, capacity;
} sites;

typedef struct unit { /* a function */
  const ts_function *function;
  sites operators, calls;
  int64_t times;   /* that it runs */
  int32_t callers; /* edges into it that are not counted yet */
} unit;

typedef struct walk {
  ts_archive *a;
  unit *units;
  int32_t n_units, units_capacity;
  ts_operator *operators;
  int32_t n_operators, operators_capacity;
  map unit_of, operator_of; /* ts_function* and name to index + 1 */
  map results;              /* ts_stmt* of a def to ts_type* */
  int64_t looked_at;        /* classes, for methods of interfaces */
  /* of the function that is read now */
  int32_t current;
  map names; /* variable -> fact* */
} walk;

static kiln_status no_memory(void) { return KILN_NO_MEMORY("survey of operators"); }

/* Makes room for one more in an array of the arena. */
static kiln_status reserve(ts_archive *a, void **list, int32_t count, int32_t *capacity, size_t each) {
  if (count < *capacity) return KILN_OK;
  const int32_t wanted = *capacity ? *capacity * 2 : 8;
  if (wanted < 0) return no_memory();
  void *grown = arena_array(&a->arena, (size_t)wanted, each);
  if (!grown) return no_memory();
  if (count) memcpy(grown, *list, (size_t)count * each);
  *list = grown;
  *capacity = wanted;
  return KILN_OK;
}

static kiln_status add_site(walk *w, sites *s, int32_t target) {
  for (int32_t i = s->count - 1; i >= 0 && i >= s->count - 64; i--) /* a few of the last: a bound, not a promise */
    if (s->list[i].target == target) {
      s->list[i].count++;
      return KILN_OK;
    }
  KILN_TRY(reserve(w->a, (void **)&s->list, s->count, &s->capacity, sizeof *s->list));
  s->list[s->count++] = (site){target, 1};
  return KILN_OK;
}

/* ---- operators --------------------------------------------------------------------------------------------------- */

static const aten_schema *row_of(const char *name) {
  const aten_schema *const *list = NULL;
  char functional[MAX_NAME];
  const size_t n = strlen(name);
  if (aten_find(name, &list) > 0) return list[0];
  if (n < 2 || n >= sizeof functional || name[n - 1] != '_') return NULL;
  memcpy(functional, name, n - 1);
  functional[n - 1] = 0;
  return aten_find(functional, &list) > 0 ? list[0] : NULL;
}

static kiln_status add_operator(walk *w, const char *name, bool supported, int line) {
  unit *u = &w->units[w->current];
  intptr_t at = (intptr_t)map_get(&w->operator_of, name) - 1;
  if (at < 0) {
    KILN_TRY(reserve(w->a, (void **)&w->operators, w->n_operators, &w->operators_capacity, sizeof *w->operators));
    const char *copy = arena_strdup(&w->a->arena, name);
    at = w->n_operators++;
    if (!copy || !map_put(&w->operator_of, copy, (void *)(at + 1))) return no_memory();
    w->operators[at] = (ts_operator){copy, 0, supported, u->function->file, line};
  }
  return add_site(w, &u->operators, (int32_t)at);
}

/* Bounded: types of tuples that hold one tuple many times are small, but large as trees. */
static bool looks_like_tensor(const ts_type *t, int *budget) {
  if (!t || t->kind == TST_ANY || t->kind == TST_TENSOR || --*budget < 0) return true;
  for (int i = 0; i < t->count; i++)
    if (looks_like_tensor(t->items[i], budget)) return true;
  return false;
}

static bool may_hold_tensor(const ts_type *t) {
  int budget = 200;
  return looks_like_tensor(t, &budget);
}

static const ts_type *tensors(walk *w, int count) {
  const ts_type **items = ARENA_ARRAY(&w->a->arena, const ts_type *, count);
  ts_type *t = ARENA_NEW(&w->a->arena, ts_type);
  if (!items || !t) return NULL;
  for (int i = 0; i < count; i++) items[i] = ts_type_simple(TST_TENSOR);
  *t = (ts_type){.kind = TST_TUPLE, .count = count, .items = items};
  return t;
}

/* Results of operators that are no tensors, or of numbers: enough to tell shape arithmetic from tensors. */
static const ts_type *scalar_result(walk *w, const char *name, const fact *args, int count) {
  static const char *const truths[] = {"aten::eq",     "aten::ne",       "aten::lt",      "aten::gt",
                                       "aten::le",     "aten::ge",       "aten::__not__", "aten::__contains__",
                                       "aten::__is__", "aten::__isnot__"};
  static const char *const ints[] = {"aten::len", "aten::dim",   "aten::numel", "aten::Int",
                                     "aten::ord", "prim::dtype", "aten::stride"};
  static const char *const texts[] = {"aten::format", "aten::percentFormat", "aten::str"};
  if (str_eq(name, "aten::size"))
    return count > 1 ? ts_type_simple(TST_INT) : ts_type_list_of(w->a, ts_type_simple(TST_INT));
  if (str_eq(name, "prim::NumToTensor")) return ts_type_simple(TST_TENSOR);
  if (str_eq(name, "aten::item")) return ts_type_simple(TST_NUMBER);
  for (size_t i = 0; i < KILN_COUNT(ints); i++)
    if (str_eq(name, ints[i])) return ts_type_simple(TST_INT);
  for (size_t i = 0; i < KILN_COUNT(texts); i++)
    if (str_eq(name, texts[i])) return ts_type_simple(TST_STR);
  if (str_starts(name, "prim::is_") || str_starts(name, "aten::is_")) return ts_type_simple(TST_BOOL);
  bool plain = count > 0, all_int = true;
  for (int i = 0; i < count; i++) {
    plain &= !may_hold_tensor(args[i].type);
    all_int &= args[i].type && args[i].type->kind == TST_INT;
  }
  if (!plain) return NULL;
  for (size_t i = 0; i < KILN_COUNT(truths); i++)
    if (str_eq(name, truths[i])) return ts_type_simple(TST_BOOL);
  if (str_eq(name, "aten::__getitem__") && args[0].type->kind == TST_LIST && args[0].type->count)
    return args[0].type->items[0];
  if (!ts_builtin_exists(name)) return NULL; /* zeros(int[]) and its like */
  return ts_type_simple(all_int && !str_ends(name, "::div") ? TST_INT : TST_NUMBER);
}

static kiln_status operator_call(walk *w, const char *name, const fact *args, int count, int line, fact *out) {
  const aten_schema *row = row_of(name);
  const bool builtin = ts_builtin_exists(name), library = !str_starts(name, "aten::") && !str_starts(name, "prim::");
  bool has_tensor = count == 0;
  for (int i = 0; i < count; i++) has_tensor |= may_hold_tensor(args[i].type);
  const bool on_tensor = count > 0 && args[0].type && args[0].type->kind == TST_TENSOR;
  out->type = scalar_result(w, name, args, count);
  const bool plain = out->type || !on_tensor || str_starts(name, "prim::"); /* of those without a row */
  if (!out->type && row)
    out->type = row->returns_list     ? ts_type_list_of(w->a, ts_type_simple(TST_TENSOR))
                : row->n_returns == 1 ? ts_type_simple(TST_TENSOR)
                                      : tensors(w, row->n_returns);
  if (!row && builtin && !library && plain) return KILN_OK;
  if (row && builtin && !has_tensor) return KILN_OK;
  return add_operator(w, name, row || builtin, line);
}

/* ---- functions --------------------------------------------------------------------------------------------------- */

static kiln_status add_unit(walk *w, const ts_function *f, int32_t *out) {
  const intptr_t known = (intptr_t)map_get_number(&w->unit_of, (uint64_t)(uintptr_t)f) - 1;
  if (known >= 0) {
    *out = (int32_t)known;
    return KILN_OK;
  }
  KILN_TRY(reserve(w->a, (void **)&w->units, w->n_units, &w->units_capacity, sizeof *w->units));
  *out = w->n_units++;
  w->units[*out] = (unit){.function = f};
  return map_put_number(&w->unit_of, (uint64_t)(uintptr_t)f, (void *)((intptr_t)*out + 1)) ? KILN_OK : no_memory();
}

/* NULL: not known; whoever runs the code says what is wrong with it. */
static const ts_type *type_named(walk *w, const char *file, const ts_expr *e) {
  const ts_type *t = NULL;
  const kiln_status status = ts_type_resolve(w->a, file, e, &t);
  if (status == KILN_OUT_OF_MEMORY) w->a->arena.failed = true; /* this is said at the end */
  return status == KILN_OK ? t : NULL;
}

static const ts_type *result_of(walk *w, const ts_function *f) {
  if (!f->def->type) return NULL;
  const ts_type *t = map_get_number(&w->results, (uint64_t)(uintptr_t)f->def);
  if (t) return t;
  t = type_named(w, f->file, f->def->type);
  if (!t) t = ts_type_simple(TST_ANY);
  (void)map_put_number(&w->results, (uint64_t)(uintptr_t)f->def, (void *)(uintptr_t)t);
  return t;
}

static kiln_status function_call(walk *w, const ts_function *f, fact *out) {
  int32_t target = 0;
  KILN_TRY(add_unit(w, f, &target));
  out->type = result_of(w, f);
  return add_site(w, &w->units[w->current].calls, target);
}

static const ts_type *type_of_class(walk *w, const ts_class *c) {
  ts_type *t = ARENA_NEW(&w->a->arena, ts_type);
  if (t) *t = (ts_type){.kind = TST_CLASS, .cls = c};
  return t;
}

static kiln_status constructor_call(walk *w, const ts_class *c, fact *out) {
  const ts_function *init = ts_class_method(c, "__init__");
  if (init) KILN_TRY(function_call(w, init, out));
  out->type = type_of_class(w, c);
  return KILN_OK;
}

/* A method of an interface runs as that of any class that has it. */
static kiln_status method_call(walk *w, const ts_class *c, const char *name, fact *out) {
  const ts_function *f = ts_class_method(c, name);
  if (str_ends(c->base, "Interface")) {
    if (f) out->type = result_of(w, f);
    for (size_t i = 0; i < w->a->classes.capacity && w->looked_at < MAX_LOOKED_AT; i++, w->looked_at++) {
      const ts_class *other = w->a->classes.entries[i].used ? w->a->classes.entries[i].value : NULL;
      const ts_function *method = other && other->kind == TSC_MODULE ? ts_class_method(other, name) : NULL;
      fact ignored = {0};
      if (method) KILN_TRY(function_call(w, method, &ignored));
    }
    return KILN_OK;
  }
  return f ? function_call(w, f, out) : KILN_OK;
}

/* ---- expressions ------------------------------------------------------------------------------------------------- */

static kiln_status walk_expr(walk *w, const ts_expr *e, fact *out);

/* a.b.c; false if it is anything else, starts with a variable, or is too long. */
static bool global_name(const walk *w, const ts_expr *e, char *out, size_t size) {
  const char *parts[32];
  int n = 0;
  for (; e->kind == TS_ATTR && n < 31; e = e->a) parts[n++] = e->s;
  if (e->kind != TS_NAME || map_has(&w->names, e->s)) return false;
  parts[n] = e->s;
  size_t at = 0;
  for (; n >= 0; n--) {
    const int length = snprintf(out + at, size - at, n ? "%s." : "%s", parts[n]);
    if (length < 0 || (size_t)length >= size - at) return false;
    at += (size_t)length;
  }
  return true;
}

static kiln_status global_fact(walk *w, const char *name, fact *out) {
  const char *dot = strrchr(name, '.');
  if (!str_starts(name, "__torch__.")) return KILN_OK;
  const ts_definition_kind kind = ts_name_kind(w->a, name);
  if (kind == TS_DEFINES_FUNCTION) return ts_function_find(w->a, name, &out->function);
  if (kind == TS_DEFINES_CLASS) return ts_class_find(w->a, name, &out->made);
  char owner[MAX_NAME]; /* a member of an enum? */
  const int n = snprintf(owner, sizeof owner, "%.*s", (int)(dot - name), name);
  if (n <= 0 || (size_t)n >= sizeof owner || ts_name_kind(w->a, owner) != TS_DEFINES_CLASS) return KILN_OK;
  const ts_class *c = NULL;
  KILN_TRY(ts_class_find(w->a, owner, &c));
  out->type = type_of_class(w, c);
  return KILN_OK;
}

static kiln_status constant_fact(walk *w, const char *name, fact *out) {
  const long index = name[0] == 'c' ? strtol(name + 1, NULL, 10) : -1;
  if (index < 0 || index >= w->a->n_constants) return KILN_OK;
  const ts_value *v = &w->a->constants[index];
  out->type = v->kind == TSV_TENSOR ? ts_type_simple(TST_TENSOR)
              : v->kind == TSV_STR  ? ts_type_simple(TST_STR)
                                    : v->type;
  if (v->kind == TSV_OBJECT) out->type = type_of_class(w, v->u.object->cls);
  return KILN_OK;
}

static kiln_status walk_attribute(walk *w, const ts_expr *e, fact *out) {
  char name[MAX_NAME];
  if (global_name(w, e, name, sizeof name)) {
    if (str_starts(name, "CONSTANTS.")) return constant_fact(w, name + 10, out);
    return global_fact(w, name, out);
  }
  fact base = {0};
  KILN_TRY(walk_expr(w, e->a, &base));
  if (!base.type || base.type->kind != TST_CLASS) return KILN_OK;
  const int at = ts_class_attribute(base.type->cls, e->s);
  if (at >= 0) out->type = base.type->cls->attributes[at].type;
  return KILN_OK;
}

static const ts_type *element(const ts_type *t, int64_t index) {
  if (!t) return NULL;
  if (t->kind == TST_OPTIONAL) t = t->items[0];
  if (t->kind == TST_LIST) return t->count ? t->items[0] : NULL;
  if (t->kind == TST_DICT) return t->count == 2 ? t->items[1] : NULL;
  if (t->kind == TST_TUPLE) return index >= 0 && index < t->count ? t->items[index] : NULL;
  const bool named = t->kind == TST_CLASS && t->cls->kind == TSC_NAMEDTUPLE;
  return named && index >= 0 && index < t->cls->n_attributes ? t->cls->attributes[index].type : NULL;
}

static kiln_status walk_collection(walk *w, const ts_expr *e, fact *out) {
  const ts_type **items = ARENA_ARRAY(&w->a->arena, const ts_type *, e->count ? e->count : 1);
  ts_type *t = ARENA_NEW(&w->a->arena, ts_type);
  if (!items || !t) return no_memory();
  for (int i = 0; i < e->count; i++) {
    fact item = {0};
    KILN_TRY(walk_expr(w, e->items[i], &item));
    items[i] = item.type;
  }
  const int kept = e->kind == TS_TUPLE ? e->count : e->kind == TS_LIST ? 1 : 2;
  *t = (ts_type){.kind = e->kind == TS_TUPLE ? TST_TUPLE : e->kind == TS_LIST ? TST_LIST : TST_DICT, .items = items};
  t->count = e->count < kept ? 0 : kept;
  out->type = t;
  return KILN_OK;
}

/* annotate(T, v), getattr(m, "0"), int(x), range(n) ... */
static kiln_status named_call(walk *w, const ts_expr *e, const char *name, fact *out) {
  static const struct {
    const char *name;
    ts_type_kind kind;
  } casts[] = {{"int", TST_INT}, {"float", TST_FLOAT}, {"bool", TST_BOOL}, {"str", TST_STR}};
  const bool typed = str_eq(name, "annotate") || str_eq(name, "uninitialized") || str_eq(name, "unchecked_cast");
  fact first = {0};
  for (int i = typed ? 1 : 0; i < e->count; i++) {
    fact arg = {0};
    KILN_TRY(walk_expr(w, e->items[i], &arg));
    if (i == 0) first = arg;
  }
  if (typed && e->count > 0) out->type = type_named(w, w->units[w->current].function->file, e->items[0]);
  for (size_t i = 0; i < KILN_COUNT(casts); i++)
    if (str_eq(name, casts[i].name)) out->type = ts_type_simple(casts[i].kind);
  if (str_eq(name, "range")) out->type = ts_type_list_of(w->a, ts_type_simple(TST_INT));
  if (str_eq(name, "sorted")) out->type = first.type;
  if (str_eq(name, "getattr") && e->count == 2 && first.type && first.type->kind == TST_CLASS &&
      e->items[1]->kind == TS_STR) {
    const int at = ts_class_attribute(first.type->cls, e->items[1]->s);
    if (at >= 0) out->type = first.type->cls->attributes[at].type;
  }
  return KILN_OK;
}

static kiln_status walk_arguments(walk *w, const ts_expr *e, fact **out) {
  *out = ARENA_ARRAY(&w->a->arena, fact, e->count ? e->count : 1);
  if (!*out) return no_memory();
  for (int i = 0; i < e->count; i++) KILN_TRY(walk_expr(w, e->items[i], &(*out)[i]));
  return KILN_OK;
}

static kiln_status called_fact(walk *w, const fact *callee, fact *out) {
  if (callee->function) return function_call(w, callee->function, out);
  return callee->made ? constructor_call(w, callee->made, out) : KILN_OK;
}

/* torch.add(...) is aten::add, ops.prim.max(...) prim::max; false: neither. */
static bool operator_name(const char *name, char *out, size_t size) {
  if (str_starts(name, "torch.")) {
    const int n = snprintf(out, size, "aten::%s", name + 6);
    return n > 0 && (size_t)n < size;
  }
  const char *dot = str_starts(name, "ops.") ? strchr(name + 4, '.') : NULL;
  if (!dot) return false;
  const int n = snprintf(out, size, "%.*s::%s", (int)(dot - name - 4), name + 4, dot + 1);
  return n > 0 && (size_t)n < size;
}

static kiln_status walk_call(walk *w, const ts_expr *e, fact *out) {
  char name[MAX_NAME], qualified[MAX_NAME];
  fact *args = NULL, callee = {0};
  if (e->a->kind == TS_NAME && !map_has(&w->names, e->a->s)) return named_call(w, e, e->a->s, out);
  KILN_TRY(walk_arguments(w, e, &args));
  if (global_name(w, e->a, name, sizeof name)) {
    if (str_eq(name, "torch.device")) {
      out->type = ts_type_simple(TST_DEVICE);
      return KILN_OK;
    }
    if (operator_name(name, qualified, sizeof qualified))
      return operator_call(w, qualified, args, e->count, e->line, out);
    KILN_TRY(global_fact(w, name, &callee));
    out->type = callee.type; /* __torch__.Box.__new__(__torch__.Box) */
    return called_fact(w, &callee, out);
  }
  if (e->a->kind == TS_ATTR) {
    KILN_TRY(walk_expr(w, e->a->a, &callee));
    const ts_type *t = callee.type;
    if (t && t->kind == TST_CLASS) return method_call(w, t->cls, e->a->s, out);
    return KILN_OK;
  }
  KILN_TRY(walk_expr(w, e->a, &callee));
  return called_fact(w, &callee, out);
}

static kiln_status walk_expr(walk *w, const ts_expr *e, fact *out) {
  fact part = {0};
  switch (e->kind) {
    case TS_INT:
      out->type = ts_type_simple(TST_INT);
      return KILN_OK;
    case TS_FLOAT:
      out->type = ts_type_simple(TST_FLOAT);
      return KILN_OK;
    case TS_STR:
      out->type = ts_type_simple(TST_STR);
      return KILN_OK;
    case TS_TRUE:
    case TS_FALSE:
      out->type = ts_type_simple(TST_BOOL);
      return KILN_OK;
    case TS_NONE:
      out->type = ts_type_simple(TST_NONE);
      return KILN_OK;
    case TS_NAME: {
      const fact *known = map_get(&w->names, e->s);
      if (known) *out = *known;
      return KILN_OK;
    }
    case TS_NEG:
      return walk_expr(w, e->a, out);
    case TS_ATTR:
      return walk_attribute(w, e, out);
    case TS_CALL:
      return walk_call(w, e, out);
    case TS_INDEX:
      KILN_TRY(walk_expr(w, e->a, &part));
      out->type = element(part.type, e->items[0]->kind == TS_INT ? e->items[0]->u.i : -1);
      return walk_expr(w, e->items[0], &part);
    case TS_TUPLE:
    case TS_LIST:
    case TS_DICT:
      return walk_collection(w, e, out);
    default:
      return KILN_OK;
  }
}

/* ---- statements -------------------------------------------------------------------------------------------------- */

static kiln_status assign(walk *w, const ts_expr *target, fact v) {
  if (target->kind != TS_NAME) {
    fact ignored = {0};
    return walk_expr(w, target, &ignored);
  }
  fact *known = ARENA_NEW(&w->a->arena, fact);
  if (!known) return no_memory();
  *known = v;
  return map_put(&w->names, target->s, known) ? KILN_OK : no_memory();
}

static kiln_status walk_block(walk *w, const ts_stmt *s);

static kiln_status walk_stmt(walk *w, const ts_stmt *s) {
  fact v = {0};
  if (s->kind == TS_DEF || s->kind == TS_CLASS) return KILN_OK;
  if (s->kind == TS_WITH) return walk_block(w, s->body); /* no_grad, autocast: nothing that their methods call runs */
  if (s->value) KILN_TRY(walk_expr(w, s->value, &v));
  if (s->kind == TS_DECLARE && s->type) {
    const ts_type *t = type_named(w, w->units[w->current].function->file, s->type);
    if (t) v.type = t;
  }
  if (s->kind == TS_FOR) v = (fact){.type = element(v.type, -1)};
  for (int i = 0; s->kind != TS_EXPR && i < s->count; i++) {
    const bool whole = s->count == 1 && !s->unpack;
    KILN_TRY(assign(w, s->targets[i], whole ? v : (fact){.type = element(v.type, i)}));
  }
  KILN_TRY(walk_block(w, s->body));
  return walk_block(w, s->orelse);
}

static kiln_status walk_block(walk *w, const ts_stmt *s) {
  for (; s; s = s->next) KILN_TRY(walk_stmt(w, s));
  return KILN_OK;
}

static kiln_status walk_unit(walk *w, int32_t index) {
  const ts_function *f = w->units[index].function;
  w->current = index;
  map_free(&w->names);
  KILN_TRY(ts_function_params(w->a, f));
  for (int i = 0; i < f->def->n_params; i++) {
    fact v = {.type = f->params[i]};
    if (i == 0 && f->owner) v.type = type_of_class(w, f->owner);
    fact *known = ARENA_NEW(&w->a->arena, fact);
    if (!known) return no_memory();
    *known = v;
    if (!map_put(&w->names, f->def->params[i].name, known)) return no_memory();
  }
  return walk_block(w, f->def->body);
}

/* ---- counting ---------------------------------------------------------------------------------------------------- */

static int64_t add_times(int64_t sum, int64_t times, int64_t count) {
  int64_t product;
  if (__builtin_mul_overflow(times, count, &product) || product > MOST_CALLS) product = MOST_CALLS;
  return sum + product > MOST_CALLS ? MOST_CALLS : sum + product;
}

/* Callers before callees; functions that call themselves in a circle, which PyTorch does not write, count once. */
static kiln_status count_all(walk *w) {
  int32_t *ready = ARENA_ARRAY(&w->a->arena, int32_t, w->n_units ? w->n_units : 1);
  if (!ready) return no_memory();
  int32_t n = 0;
  for (int32_t i = 0; i < w->n_units; i++)
    for (int32_t k = 0; k < w->units[i].calls.count; k++) w->units[w->units[i].calls.list[k].target].callers++;
  for (int32_t i = 0; i < w->n_units; i++)
    if (w->units[i].callers == 0) ready[n++] = i;
  for (int32_t at = 0; at < n; at++) {
    const unit *u = &w->units[ready[at]];
    for (int32_t k = 0; k < u->calls.count; k++) {
      unit *callee = &w->units[u->calls.list[k].target];
      callee->times = add_times(callee->times, u->times, u->calls.list[k].count);
      if (--callee->callers == 0) ready[n++] = u->calls.list[k].target;
    }
  }
  for (int32_t i = 0; i < w->n_units; i++) {
    const unit *u = &w->units[i];
    for (int32_t k = 0; k < u->operators.count; k++) {
      ts_operator *o = &w->operators[u->operators.list[k].target];
      o->count = add_times(o->count, u->times ? u->times : 1, u->operators.list[k].count);
    }
  }
  return KILN_OK;
}

static int compare_operators(const void *a, const void *b) {
  const ts_operator *x = a, *y = b;
  return x->count != y->count ? (x->count < y->count) - (x->count > y->count) : strcmp(x->name, y->name);
}

static bool is_method_of_users(const ts_function *f) { return !str_starts(f->name, "__"); }

static kiln_status add_roots(walk *w, const ts_function *root) {
  const ts_class *c = w->a->root.u.object->cls;
  int32_t at = 0;
  if (root) KILN_TRY(add_unit(w, root, &at));
  for (int32_t i = 0; !root && i < c->n_methods; i++)
    if (is_method_of_users(&c->methods[i])) KILN_TRY(add_unit(w, &c->methods[i], &at));
  for (int32_t i = 0; i < w->n_units; i++) w->units[i].times = 1;
  return KILN_OK;
}

static kiln_status survey_all(walk *w, const ts_function *root, ts_survey *out) {
  KILN_TRY(aten_init());
  KILN_TRY(add_roots(w, root));
  for (int32_t i = 0; i < w->n_units; i++) KILN_TRY(walk_unit(w, i));
  KILN_TRY(count_all(w));
  if (w->n_operators) qsort(w->operators, (size_t)w->n_operators, sizeof *w->operators, compare_operators);
  *out = (ts_survey){w->operators, w->n_operators};
  return w->a->arena.failed ? no_memory() : KILN_OK;
}

kiln_status ts_survey_operators(ts_archive *a, const ts_function *root, ts_survey *out) {
  walk w = {.a = a};
  const kiln_status status = survey_all(&w, root, out);
  map_free(&w.unit_of);
  map_free(&w.operator_of);
  map_free(&w.results);
  map_free(&w.names);
  return status;
}

/* One line for each, and how many. */
static kiln_status list_unsupported(ts_archive *a, const ts_function *root, text *out, int *count) {
  ts_survey s = {0};
  *count = 0;
  KILN_TRY(ts_survey_operators(a, root, &s));
  for (int32_t i = 0; i < s.count; i++) {
    const ts_operator *o = &s.operators[i];
    if (o->supported || (*count)++ >= MAX_LISTED) continue;
    const char *place = ts_source(a, o->file, o->line);
    text_printf(out, "\n  %s, used %lld time%s, first at %s", o->name, (long long)o->count, o->count == 1 ? "" : "s",
                place ? place : "?");
  }
  if (*count > MAX_LISTED) text_printf(out, "\n  and %d more", *count - MAX_LISTED);
  return out->failed ? no_memory() : KILN_OK;
}

kiln_status ts_survey_unsupported(ts_archive *a, const ts_function *root) {
  text t = {0};
  int n = 0;
  kiln_status status = list_unsupported(a, root, &t, &n);
  if (status == KILN_OK && n)
    status = KILN_FAIL(KILN_UNSUPPORTED, "%d operator%s of this model %s not supported:%s", n, n == 1 ? "" : "s",
                       n == 1 ? "is" : "are", t.data);
  text_free(&t);
  return status;
}

kiln_status ts_survey_note(ts_archive *a, const ts_function *root, kiln_status status) {
  text record = {0}, list = {0};
  int n = 0;
  text_puts(&record, error_text()); /* looking for more may write to the record */
  const kiln_status found = list_unsupported(a, root, &list, &n);
  if (record.failed) {
    status = no_memory();
  } else {
    status = error_raise(status, __FILE__, __LINE__, "%s", record.data);
    if (found == KILN_OK && n > 1)
      status = error_note(status, __FILE__, __LINE__, "all operators of this method that are not supported: %d%s", n,
                          list.data);
  }
  text_free(&record);
  text_free(&list);
  return status;
}
