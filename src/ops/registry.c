/* The operator registry: lists families, parses every row's signature once, and finds rows by name. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/map.h"
#include "ops/custom.h"
#include "ops/families.h"
#include "ops/op.h"

static const op_family *const families[] = {
#define FAMILY(name) &name,
    OP_FAMILIES(FAMILY)
#undef FAMILY
};

static struct {
  arena arena;
  op_schema *schemas;
  int count;
  map by_name;
  kiln_status status;
} registry;

/* ---- parsing sig and attrs --------------------------------------------------------------------------------------- */

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t'; }

/* The next word of *cursor, or NULL at the end. Lists and strings have no spaces in them. */
static const char *next_word(const char **cursor, size_t *length) {
  const char *s = *cursor;
  while (is_space(*s)) s++;
  const char *start = s;
  while (*s && !is_space(*s)) s++;
  *cursor = s;
  *length = (size_t)(s - start);
  return *length ? start : NULL;
}

static kiln_status parse_operands(const char **cursor, op_operand **out, int32_t *out_count) {
  op_operand list[16];
  int32_t n = 0;
  size_t length = 0;
  for (const char *w; (w = next_word(cursor, &length)) != NULL;) {
    if (length == 2 && w[0] == '-' && w[1] == '>') break;
    if (n == 16) return KILN_FAIL(KILN_INTERNAL, "more than 16 operands");
    op_operand *o = &list[n++];
    *o = (op_operand){0};
    const char last = w[length - 1];
    o->optional = last == '?' || last == '*';
    o->variadic = last == '*';
    o->name = arena_strndup(&registry.arena, w, length - (o->optional ? 1 : 0));
    if (!o->name) return KILN_NO_MEMORY("operator table");
  }
  *out = arena_copy(&registry.arena, list, (size_t)n * sizeof *list);
  *out_count = n;
  return *out ? KILN_OK : KILN_NO_MEMORY("operator table");
}

static bool parse_kind(const char *word, size_t length, attr_kind *out) {
  static const struct {
    const char *name;
    attr_kind kind;
  } kinds[] = {{"int", ATTR_INT},     {"float", ATTR_FLOAT}, {"bool", ATTR_BOOL},    {"str", ATTR_STR},
               {"dtype", ATTR_DTYPE}, {"ints", ATTR_INTS},   {"floats", ATTR_FLOATS}};
  for (size_t i = 0; i < KILN_COUNT(kinds); i++) {
    if (strlen(kinds[i].name) == length && memcmp(kinds[i].name, word, length) == 0) {
      *out = kinds[i].kind;
      return true;
    }
  }
  return false;
}

static kiln_status parse_default(op_attr *a, const char *s) {
  a->has_default = true;
  a->fallback.kind = a->kind;
  char *end = NULL;
  switch (a->kind) {
    case ATTR_INT:
      a->fallback.u.i = strtoll(s, &end, 10);
      break;
    case ATTR_BOOL:
      a->fallback.u.i = strtoll(s, &end, 10) != 0;
      break;
    case ATTR_FLOAT:
      a->fallback.u.f = strtod(s, &end);
      break; /* also inf and -inf */
    case ATTR_STR: {
      const size_t n = strlen(s);
      if (n < 2 || s[0] != '"' || s[n - 1] != '"') return KILN_FAIL(KILN_INTERNAL, "a string default needs quotes");
      a->fallback.u.s = arena_strndup(&registry.arena, s + 1, n - 2);
      return a->fallback.u.s ? KILN_OK : KILN_NO_MEMORY("operator table");
    }
    case ATTR_DTYPE:
      for (int d = 0; d < KILN_DTYPE_COUNT; d++) {
        if (str_eq(kiln_dtype_name((kiln_dtype)d), s)) {
          a->fallback.u.i = d;
          return KILN_OK;
        }
      }
      return KILN_FAIL(KILN_INTERNAL, "unknown dtype `%s`", s);
    case ATTR_INTS:
    case ATTR_FLOATS:
      if (!str_eq(s, "[]")) return KILN_FAIL(KILN_INTERNAL, "the only list default is []");
      a->fallback.u.ints = arena_alloc(&registry.arena, sizeof(int64_t));
      return a->fallback.u.ints ? KILN_OK : KILN_NO_MEMORY("operator table");
    default:
      break;
  }
  return end && !*end ? KILN_OK : KILN_FAIL(KILN_INTERNAL, "bad default `%s`", s);
}

static kiln_status parse_attr(const char *word, size_t length, op_attr *a) {
  const char *colon = memchr(word, ':', length);
  if (!colon) return KILN_FAIL(KILN_INTERNAL, "attribute `%.*s` has no kind", (int)length, word);
  a->name = arena_strndup(&registry.arena, word, (size_t)(colon - word));
  const char *kind = colon + 1, *end = word + length, *equals = memchr(kind, '=', (size_t)(end - kind));
  const char *kind_end = equals ? equals : end;
  if (kind_end > kind && kind_end[-1] == '?') {
    a->optional = true;
    kind_end--;
  }
  if (!a->name) return KILN_NO_MEMORY("operator table");
  if (!parse_kind(kind, (size_t)(kind_end - kind), &a->kind))
    return KILN_FAIL(KILN_INTERNAL, "attribute `%s` has an unknown kind", a->name);
  if (!equals) return KILN_OK;
  const char *value_text = arena_strndup(&registry.arena, equals + 1, (size_t)(end - equals - 1));
  return value_text ? parse_default(a, value_text) : KILN_NO_MEMORY("operator table");
}

static kiln_status parse_schema(const op *o, op_schema *s) {
  s->op = o;
  const char *cursor = o->sig;
  KILN_TRY(parse_operands(&cursor, &s->in, &s->n_in));
  KILN_TRY(parse_operands(&cursor, &s->out, &s->n_out));
  op_attr list[24];
  size_t length = 0;
  cursor = o->attrs ? o->attrs : "";
  for (const char *w; (w = next_word(&cursor, &length)) != NULL;) {
    if (s->n_attrs == 24) return KILN_FAIL(KILN_INTERNAL, "more than 24 attributes");
    list[s->n_attrs] = (op_attr){0};
    KILN_TRY(parse_attr(w, length, &list[s->n_attrs++]));
  }
  s->attrs = arena_copy(&registry.arena, list, (size_t)s->n_attrs * sizeof *list);
  return s->attrs ? KILN_OK : KILN_NO_MEMORY("operator table");
}

/* ---- start ------------------------------------------------------------------------------------------------------- */

static kiln_status registry_fill(void) {
  for (size_t f = 0; f < KILN_COUNT(families); f++) registry.count += (int)families[f]->count;
  registry.schemas = ARENA_ARRAY(&registry.arena, op_schema, registry.count);
  if (!registry.schemas) return KILN_NO_MEMORY("operator table");
  int at = 0;
  for (size_t f = 0; f < KILN_COUNT(families); f++) {
    for (size_t i = 0; i < families[f]->count; i++, at++) {
      const op *o = &families[f]->rows[i];
      KILN_TRY_NOTE(parse_schema(o, &registry.schemas[at]), "parsing the row of operator `%s`", o->name);
      if (map_has(&registry.by_name, o->name)) return KILN_FAIL(KILN_INTERNAL, "operator `%s` has two rows", o->name);
      if (!map_put(&registry.by_name, o->name, &registry.schemas[at])) return KILN_NO_MEMORY("operator table");
    }
  }
  return KILN_OK;
}

/* On failure everything is undone, so that a later call may succeed (memory may have come back). */
kiln_status ops_init(void) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static bool ready;
  if (__atomic_load_n(&ready, __ATOMIC_ACQUIRE)) return KILN_OK;
  pthread_mutex_lock(&lock);
  kiln_status status = KILN_OK;
  if (!ready) {
    status = registry_fill();
    if (status == KILN_OK) {
      __atomic_store_n(&ready, true, __ATOMIC_RELEASE);
    } else {
      arena_free(&registry.arena);
      map_free(&registry.by_name);
      registry.count = 0;
    }
  }
  pthread_mutex_unlock(&lock);
  return status;
}

static const op_schema *schema_find(const char *name) {
  return ops_init() == KILN_OK ? map_get(&registry.by_name, name) : NULL;
}

const op *op_find(const char *name) {
  const op_schema *s = schema_find(name);
  return s ? s->op : custom_find(name);
}

/* Rows of one family are neighbours and so are their schemas: no look-up by name is needed. */
const op_schema *op_schema_of(const op *o) {
  int at = 0;
  if (o->flags & OP_CUSTOM) return &custom_of(o)->schema;
  for (size_t f = 0; f < KILN_COUNT(families); f++) {
    const op_family *family = families[f];
    if (o >= family->rows && o < family->rows + family->count) return &registry.schemas[at + (o - family->rows)];
    at += (int)family->count;
  }
  return NULL;
}

int op_count(void) { return ops_init() == KILN_OK ? registry.count : 0; }
const op *op_at(int index) { return registry.schemas[index].op; }

dim op_defined_size(const node *n) {
  const int at = op_attr_index(n->op, "size");
  if (at >= 0) return n->attrs[at].u.i;
  return n->n_outputs > 0 && n->outputs[0]->type.rank > 0 ? n->outputs[0]->type.dims[0] : DIM_ERROR;
}

int op_attr_index(const op *o, const char *name) {
  const op_schema *s = op_schema_of(o);
  for (int32_t i = 0; i < s->n_attrs; i++) {
    if (str_eq(s->attrs[i].name, name)) return i;
  }
  return -1;
}
