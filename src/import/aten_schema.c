/* Parses the schema strings of the operator table's torch rows, in PyTorch's own syntax, and indexes them by name.
 *
 *   schema  := name [ '.' overload ] '(' [ arg { ',' arg } ] ')' '->' returns
 *   arg     := '*' | type name [ '=' default ]
 *   type    := word [ '(' alias ')' ] { '[' [ number ] ']' | '?' }
 *
 * Defaults are numbers, quoted strings, lists, None, True, False, and the bare words of enums (contiguous_format, Mean,
 * long). */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "import/aten.h"
#include "ops/custom.h"

enum { MAX_ARGS = 64, MAX_ITEMS = 16 };

typedef struct overloads { /* of one name */
  const aten_schema *const *list;
  int count;
} overloads;

static struct {
  arena arena;
  aten_schema **schemas; /* sorted by name, so that the overloads of one name are neighbours */
  int count;
  map by_name; /* name -> overloads */
  bool ready;
} index_;
static pthread_mutex_t index_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- one schema --------------------------------------------------------------------------------- */

typedef struct parser {
  const char *s; /* where we are */
  const char *whole;
  arena *arena;
} parser;

#define SCHEMA_FAIL(p, what) \
  KILN_FAIL(KILN_INTERNAL, "operator schema \"%s\": %s at \"%.30s\"", (p)->whole, (what), (p)->s)

static void skip_space(parser *p) {
  while (*p->s == ' ') p->s++;
}

static bool take(parser *p, char c) {
  skip_space(p);
  if (*p->s != c) return false;
  p->s++;
  return true;
}

static bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static size_t word_length(const char *s) {
  size_t n = 0;
  while (is_word(s[n])) n++;
  return n;
}

static bool word_is(const char *s, size_t n, const char *expected) {
  return strlen(expected) == n && memcmp(s, expected, n) == 0;
}

/* A type without its alias annotation; *written is set for (a!). */
static kiln_status parse_type(parser *p, const char **out, bool *written) {
  char type[48];
  skip_space(p);
  size_t n = word_length(p->s);
  if (n == 0 || n > 20) return SCHEMA_FAIL(p, "expected a type");
  memcpy(type, p->s, n);
  p->s += n;
  *written = false;
  if (*p->s == '(') {
    for (; *p->s && *p->s != ')'; p->s++) *written |= *p->s == '!';
    if (*p->s != ')') return SCHEMA_FAIL(p, "unclosed alias annotation");
    p->s++;
  }
  while (*p->s == '[' || *p->s == '?') {
    if (n > 36) return SCHEMA_FAIL(p, "type too long");
    if (*p->s == '?') {
      type[n++] = *p->s++;
      continue;
    }
    type[n++] = *p->s++;
    while (*p->s >= '0' && *p->s <= '9') {
      if (n > 40) return SCHEMA_FAIL(p, "type too long");
      type[n++] = *p->s++;
    }
    if (*p->s != ']') return SCHEMA_FAIL(p, "expected ]");
    type[n++] = *p->s++;
  }
  *out = arena_strndup(p->arena, type, n);
  return *out ? KILN_OK : KILN_NO_MEMORY("operator schemas");
}

/* Bare words that stand for enum values; all importers translate to these. */
static bool parse_word(const char *s, size_t n, ivalue *out) {
  static const struct {
    const char *word;
    ivalue_kind kind;
    int64_t i;
  } words[] = {
      {"None", IV_NONE, 0},
      {"True", IV_BOOL, 1},
      {"False", IV_BOOL, 0},
      {"Mean", IV_INT, 1},
      {"contiguous_format", IV_NONE, 0},
      {"preserve_format", IV_NONE, 0},
      {"strided", IV_NONE, 0},
      {"long", IV_DTYPE, KILN_I64},
      {"float", IV_DTYPE, KILN_F32},
  };
  for (size_t i = 0; i < KILN_COUNT(words); i++) {
    if (!word_is(s, n, words[i].word)) continue;
    *out = (ivalue){.kind = words[i].kind};
    if (words[i].kind != IV_NONE) out->u.i = words[i].i;
    return true;
  }
  return false;
}

static kiln_status parse_number(parser *p, ivalue *out) {
  char *end_int = NULL, *end_float = NULL;
  const long long i = strtoll(p->s, &end_int, 10);
  const double f = strtod(p->s, &end_float);
  if (end_float == p->s) return SCHEMA_FAIL(p, "expected a default value");
  if (end_int == end_float) {
    *out = (ivalue){.kind = IV_INT};
    out->u.i = i;
  } else {
    *out = (ivalue){.kind = IV_FLOAT};
    out->u.f = f;
  }
  p->s = end_float;
  return KILN_OK;
}

static kiln_status parse_default(parser *p, ivalue *out) {
  skip_space(p);
  const char c = *p->s;
  if (c == '"' || c == '\'') {
    const char *start = ++p->s;
    while (*p->s && *p->s != c) p->s++;
    if (!*p->s) return SCHEMA_FAIL(p, "unclosed string");
    *out = (ivalue){.kind = IV_STR};
    out->u.s = arena_strndup(p->arena, start, (size_t)(p->s - start));
    p->s++;
    return out->u.s ? KILN_OK : KILN_NO_MEMORY("operator schemas");
  }
  if (c == '[') {
    ivalue items[MAX_ITEMS];
    int32_t n = 0;
    p->s++;
    while (!take(p, ']')) {
      if (n == MAX_ITEMS) return SCHEMA_FAIL(p, "list too long");
      skip_space(p);
      const size_t w = word_length(p->s);
      if (parse_word(p->s, w, &items[n]))
        p->s += w;
      else
        KILN_TRY(parse_number(p, &items[n]));
      n++;
      if (!take(p, ',') && *p->s != ']') return SCHEMA_FAIL(p, "expected , or ]");
    }
    *out = (ivalue){.kind = IV_LIST, .count = n};
    out->u.items = n ? arena_copy(p->arena, items, (size_t)n * sizeof *items) : NULL;
    return n && !out->u.items ? KILN_NO_MEMORY("operator schemas") : KILN_OK;
  }
  const size_t w = word_length(p->s);
  if (parse_word(p->s, w, out)) {
    p->s += w;
    return KILN_OK;
  }
  return parse_number(p, out);
}

/* PyTorch prints dtypes in defaults as its own numbers (c10::ScalarType). */
static kiln_status dtype_default(parser *p, ivalue *v) {
  static const struct {
    int64_t code;
    kiln_dtype dtype;
  } codes[] = {{0, KILN_U8},  {1, KILN_I8},  {2, KILN_I16}, {3, KILN_I32},   {4, KILN_I64},
               {5, KILN_F16}, {6, KILN_F32}, {7, KILN_F64}, {11, KILN_BOOL}, {15, KILN_BF16}};
  for (size_t i = 0; i < KILN_COUNT(codes); i++) {
    if (v->u.i != codes[i].code) continue;
    *v = (ivalue){.kind = IV_DTYPE};
    v->u.i = codes[i].dtype;
    return KILN_OK;
  }
  return SCHEMA_FAIL(p, "a dtype number that Kiln lacks");
}

static kiln_status parse_args(parser *p, aten_schema *schema) {
  aten_arg args[MAX_ARGS];
  int32_t n = 0;
  bool keyword = false;
  if (!take(p, '(')) return SCHEMA_FAIL(p, "expected (");
  while (!take(p, ')')) {
    if (take(p, '*')) {
      keyword = true;
    } else {
      if (n == MAX_ARGS) return SCHEMA_FAIL(p, "too many arguments");
      aten_arg *a = &args[n++];
      *a = (aten_arg){.keyword_only = keyword};
      KILN_TRY(parse_type(p, &a->type, &a->written));
      skip_space(p);
      const size_t w = word_length(p->s);
      if (w == 0) return SCHEMA_FAIL(p, "expected an argument name");
      a->name = arena_strndup(p->arena, p->s, w);
      if (!a->name) return KILN_NO_MEMORY("operator schemas");
      p->s += w;
      if (take(p, '=')) {
        a->has_default = true;
        KILN_TRY(parse_default(p, &a->fallback));
        if (str_starts(a->type, "ScalarType") && a->fallback.kind == IV_INT) KILN_TRY(dtype_default(p, &a->fallback));
      }
    }
    if (!take(p, ',') && *p->s != ')') return SCHEMA_FAIL(p, "expected , or )");
  }
  schema->args = arena_copy(p->arena, args, (size_t)n * sizeof *args);
  schema->n_args = n;
  return schema->args || n == 0 ? KILN_OK : KILN_NO_MEMORY("operator schemas");
}

static kiln_status parse_returns(parser *p, aten_schema *schema) {
  if (!take(p, '-') || *p->s != '>') return SCHEMA_FAIL(p, "expected ->");
  p->s++;
  const bool tuple = take(p, '(');
  while (!(tuple && take(p, ')'))) {
    const char *type;
    bool written;
    KILN_TRY(parse_type(p, &type, &written));
    schema->n_returns++;
    schema->returns_list |= strchr(type, '[') != NULL;
    if (!tuple) break;
    skip_space(p);
    p->s += word_length(p->s); /* results may have names */
    if (!take(p, ',') && *p->s != ')') return SCHEMA_FAIL(p, "expected , or )");
  }
  skip_space(p);
  return *p->s ? SCHEMA_FAIL(p, "text after the results") : KILN_OK;
}

kiln_status aten_schema_parse(arena *a, const torch_row *row, const op *o, aten_schema *schema) {
  parser p = {row->schema, row->schema, a};
  *schema = (aten_schema){.op = o, .row = row};
  size_t n = 0;
  while (is_word(p.s[n]) || p.s[n] == ':') n++;
  schema->name = arena_strndup(a, p.s, n);
  p.s += n;
  if (take(&p, '.')) {
    n = word_length(p.s);
    schema->overload = arena_strndup(a, p.s, n);
    p.s += n;
  } else {
    schema->overload = "";
  }
  if (!schema->name || !schema->overload) return KILN_NO_MEMORY("operator schemas");
  KILN_TRY(parse_args(&p, schema));
  KILN_TRY(parse_returns(&p, schema));
  if ((row->map != NULL) == (row->lower != NULL)) return SCHEMA_FAIL(&p, "exactly one of map and lower must be set");
  return KILN_OK;
}

/* ---- the index ---------------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b) {
  const aten_schema *x = *(aten_schema *const *)a, *y = *(aten_schema *const *)b;
  int c = strcmp(x->name, y->name);
  if (!c) c = strcmp(x->overload, y->overload);
  return c ? c : (x > y) - (x < y); /* all stand in one array, in the order of the table */
}

static kiln_status index_names(void) {
  for (int i = 0, j; i < index_.count; i = j) {
    for (j = i + 1; j < index_.count && str_eq(index_.schemas[i]->name, index_.schemas[j]->name);) j++;
    overloads *o = ARENA_NEW(&index_.arena, overloads);
    if (!o) return KILN_NO_MEMORY("operator schemas");
    o->list = (const aten_schema *const *)&index_.schemas[i];
    o->count = j - i;
    if (!map_put(&index_.by_name, index_.schemas[i]->name, o)) return KILN_NO_MEMORY("operator schemas");
  }
  return KILN_OK;
}

static kiln_status build_index(void) {
  KILN_TRY(ops_init());
  int n = 0;
  for (int i = 0; i < op_count(); i++)
    for (const torch_row *r = op_at(i)->torch; r && r->schema; r++) n++;
  index_.schemas = ARENA_ARRAY(&index_.arena, aten_schema *, n ? n : 1);
  aten_schema *all = ARENA_ARRAY(&index_.arena, aten_schema, n ? n : 1);
  if (!index_.schemas || !all) return KILN_NO_MEMORY("operator schemas");
  for (int i = 0; i < op_count(); i++) {
    for (const torch_row *r = op_at(i)->torch; r && r->schema; r++) {
      aten_schema *s = &all[index_.count];
      KILN_TRY(aten_schema_parse(&index_.arena, r, op_at(i), s));
      index_.schemas[index_.count++] = s;
    }
  }
  qsort(index_.schemas, (size_t)index_.count, sizeof *index_.schemas, compare_names);
  return index_names();
}

kiln_status aten_init(void) {
  if (__atomic_load_n(&index_.ready, __ATOMIC_ACQUIRE)) return KILN_OK;
  pthread_mutex_lock(&index_lock);
  kiln_status status = KILN_OK;
  if (!index_.ready) {
    status = build_index();
    if (status == KILN_OK) {
      __atomic_store_n(&index_.ready, true, __ATOMIC_RELEASE);
    } else { /* out of memory may pass: the next call tries again */
      map_free(&index_.by_name);
      arena_free(&index_.arena);
      memset(&index_, 0, sizeof index_);
    }
  }
  pthread_mutex_unlock(&index_lock);
  return status;
}

int aten_count(void) { return aten_init() == KILN_OK ? index_.count : 0; }
const aten_schema *aten_at(int index) { return index_.schemas[index]; }

int aten_find(const char *name, const aten_schema *const **out) {
  if (aten_init() != KILN_OK) return 0;
  const overloads *o = map_get(&index_.by_name, name);
  if (!o) return custom_find_schemas(name, out);
  *out = o->list;
  return o->count;
}

const aten_schema *aten_find_overload(const char *name, const char *overload) {
  const aten_schema *const *list = NULL;
  const int n = aten_find(name, &list);
  if (str_eq(overload, "default")) overload = "";
  for (int i = 0; i < n; i++)
    if (str_eq(list[i]->overload, overload)) return list[i];
  return NULL;
}

/* Python's `a |= b` is __ior__, in place of __or__. */
static const aten_schema *resolve_python(const char *name, const char *overload) {
  static const char *const forms[][2] = {{"aten::__iand__", "aten::__and__"},
                                         {"aten::__ior__", "aten::__or__"},
                                         {"aten::__ixor__", "aten::__xor__"},
                                         {"aten::__ilshift__", "aten::__lshift__"},
                                         {"aten::__irshift__", "aten::__rshift__"}};
  for (size_t i = 0; i < KILN_COUNT(forms); i++)
    if (str_eq(name, forms[i][0])) return aten_find_overload(forms[i][1], overload);
  return NULL;
}

/* Methods that give the tensor itself another shape. Programs refer to the result of such a call from then on, never to
 * the argument, so they are the view that their functional form makes. */
static bool only_reshapes(const char *functional) {
  static const char *const names[] = {"aten::squeeze", "aten::unsqueeze", "aten::transpose",
                                      "aten::t",       "aten::swapaxes",  "aten::swapdims"};
  for (size_t i = 0; i < KILN_COUNT(names); i++)
    if (str_eq(functional, names[i])) return true;
  return false;
}

/* The overload of the functional form that computes what the in-place form's `overload` does: mostly the one of its name. */
static const char *functional_overload(const char *functional, const char *overload) {
  static const char *const others[][3] = {
      {"aten::transpose", "", "int"},
      {"aten::floor_divide", "Tensor", ""},
      {"aten::pow", "Scalar", "Tensor_Scalar"}, /* pow.Scalar raises a number to a tensor */
      {"aten::pow", "Tensor", "Tensor_Tensor"},
      {"aten::float_power", "Scalar", "Tensor_Scalar"},
      {"aten::float_power", "Tensor", "Tensor_Tensor"}};
  if (str_eq(overload, "default")) overload = "";
  for (size_t i = 0; i < KILN_COUNT(others); i++)
    if (str_eq(functional, others[i][0]) && str_eq(overload, others[i][1])) return others[i][2];
  return overload;
}

const aten_schema *aten_resolve(const char *name, const char *overload, bool *out_in_place) {
  *out_in_place = false;
  const size_t n = strlen(name);
  const bool trailing = n > 2 && name[n - 1] == '_' && name[n - 2] != '_';
  const aten_schema *s = resolve_python(name, overload);
  if (s) {
    *out_in_place = true;
    return s;
  }
  s = aten_find_overload(name, overload);
  if (s && (s->op->flags & OP_CUSTOM)) return s;
  if (s || !trailing || n > 100) {
    *out_in_place = s && trailing;
    return s;
  }
  char functional[104];
  memcpy(functional, name, n - 1);
  functional[n - 1] = 0;
  s = aten_find_overload(functional, functional_overload(functional, overload));
  if (s && (s->op->flags & OP_CUSTOM)) return NULL; /* a name that only looks like the in-place form */
  *out_in_place = s != NULL && !only_reshapes(functional);
  return s;
}

/* ---- kinds -------------------------------------------------------------------------------------- */

static bool element_accepts(const char *type, size_t n, const ivalue *v) {
  if (n > 0 && type[n - 1] == '?') {
    if (v->kind == IV_NONE) return true;
    n--;
  }
  if (n > 0 && type[n - 1] == ']') { /* a list, or (with a fixed size) one value for all */
    size_t open = n - 1;
    while (open > 0 && type[open] != '[') open--;
    if (v->kind != IV_LIST) return n - open > 2 && element_accepts(type, open, v);
    for (int32_t i = 0; i < v->count; i++)
      if (!element_accepts(type, open, &v->u.items[i])) return false;
    return true;
  }
  if (word_is(type, n, "Tensor"))
    return v->kind == IV_TENSOR || v->kind == IV_INT || v->kind == IV_FLOAT || v->kind == IV_BOOL ||
           v->kind == IV_COMPLEX;
  if (word_is(type, n, "int") || word_is(type, n, "SymInt")) return v->kind == IV_INT || v->kind == IV_BOOL;
  if (word_is(type, n, "float")) return v->kind == IV_FLOAT || v->kind == IV_INT || v->kind == IV_BOOL;
  if (word_is(type, n, "Scalar"))
    return v->kind == IV_INT || v->kind == IV_FLOAT || v->kind == IV_BOOL || v->kind == IV_COMPLEX;
  if (word_is(type, n, "bool")) return v->kind == IV_BOOL || v->kind == IV_INT;
  if (word_is(type, n, "str")) return v->kind == IV_STR;
  if (word_is(type, n, "ScalarType")) return v->kind == IV_DTYPE;
  /* Device, Layout, MemoryFormat, Generator, Dimname...: nothing that a lowering looks at. */
  return true;
}

bool aten_type_accepts(const char *type, const ivalue *v) { return element_accepts(type, strlen(type), v); }
