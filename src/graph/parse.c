/* The text form of graphs, read (docs/graph-text.md). One pass over a NUL-terminated copy; values are found through
 * hash maps, so reading is linear. Everything is checked here that later stages rely on: names, arities, attribute
 * kinds, types. The text may come from a stranger's engine file. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "graph/graph.h"
#include "graph/number.h"
#include "graph/profiles.h"
#include "ops/op.h"
#include "ops/ref.h"

enum { MAX_DEPTH = 64, MAX_LIST = 4096, MAX_NAMES = 4096, MAX_INLINE = 1 << 16 };

typedef struct reader {
  const char *start, *at;
  graph *g;
  map names;   /* "name" -> value */
  map numbers; /* id + 1 -> value */
  weight_source weights;
  void *user;
  uint32_t next_id;
  int depth;
} reader;

/* ---- words ------------------------------------------------------------------------------------------------------- */

static kiln_status read_fail(const reader *r, const char *expected) {
  int line = 1, column = 1;
  for (const char *c = r->start; c < r->at; c++) {
    column = *c == '\n' ? 1 : column + 1;
    line += *c == '\n';
  }
  return KILN_FAIL(KILN_INVALID_FILE, "graph text, line %d, column %d: expected %s", line, column, expected);
}

/* Spaces within a line; newlines separate statements. */
static void skip_spaces(reader *r) {
  while (*r->at == ' ' || *r->at == '\t' || *r->at == '\r') r->at++;
}

static void skip_lines(reader *r) {
  for (;;) {
    skip_spaces(r);
    if (*r->at == '#') {
      while (*r->at && *r->at != '\n') r->at++;
    }
    if (*r->at != '\n') return;
    r->at++;
  }
}

static bool take(reader *r, const char *word) {
  skip_spaces(r);
  const size_t n = strlen(word);
  if (strncmp(r->at, word, n) != 0) return false;
  if (isalpha((unsigned char)word[0]) && (isalnum((unsigned char)r->at[n]) || r->at[n] == '_')) return false;
  r->at += n;
  return true;
}

static kiln_status expect(reader *r, const char *word) {
  if (take(r, word)) return KILN_OK;
  char what[40];
  text t = {0};
  text_printf(&t, "`%.20s`", word);
  what[0] = 0;
  if (t.data) memcpy(what, t.data, t.length < sizeof what ? t.length + 1 : sizeof what);
  what[sizeof what - 1] = 0;
  text_free(&t);
  return read_fail(r, what);
}

static kiln_status end_of_line(reader *r) {
  skip_spaces(r);
  if (*r->at != '\n' && *r->at) return read_fail(r, "the end of the line");
  return KILN_OK;
}

static kiln_status read_word(reader *r, const char **out) {
  skip_spaces(r);
  const char *s = r->at;
  while (isalnum((unsigned char)*s) || *s == '_' || *s == '.') s++;
  if (s == r->at) return read_fail(r, "a name");
  *out = arena_strndup(&r->g->arena, r->at, (size_t)(s - r->at));
  r->at = s;
  return *out ? KILN_OK : KILN_NO_MEMORY("graph text");
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

static kiln_status read_string(reader *r, const char **out) {
  KILN_TRY(expect(r, "\""));
  const char *end = r->at;
  while (*end && *end != '"' && *end != '\n') end += *end == '\\' && end[1] ? 2 : 1;
  if (*end != '"') return read_fail(r, "a closing quote");
  char *copy = arena_alloc(&r->g->arena, (size_t)(end - r->at) + 1);
  if (!copy) return KILN_NO_MEMORY("graph text");
  size_t n = 0;
  while (r->at < end) {
    char c = *r->at++;
    if (c == '\\') {
      c = *r->at++;
      if (c == 'n') {
        c = '\n';
      } else if (c == 't') {
        c = '\t';
      } else if (c == 'x') {
        const int hi = r->at + 1 < end ? hex_digit(r->at[0]) : -1, lo = hi >= 0 ? hex_digit(r->at[1]) : -1;
        if (lo < 0 || hi * 16 + lo == 0) return read_fail(r, "two hexadecimal digits");
        c = (char)(hi * 16 + lo);
        r->at += 2;
      } else if (c != '"' && c != '\\') {
        return read_fail(r, "a known escape");
      }
    }
    copy[n++] = c;
  }
  r->at = end + 1;
  *out = copy;
  return KILN_OK;
}

static kiln_status read_int(reader *r, int64_t *out) {
  skip_spaces(r);
  const bool negative = *r->at == '-';
  const char *s = r->at + negative;
  int64_t v = 0;
  if (!isdigit((unsigned char)*s)) return read_fail(r, "an integer");
  for (; isdigit((unsigned char)*s); s++) {
    const int digit = negative ? -(*s - '0') : *s - '0'; /* downwards, so that INT64_MIN is read too */
    if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, digit, &v))
      return read_fail(r, "an integer of 64 bits");
  }
  r->at = s;
  *out = v;
  return KILN_OK;
}

static kiln_status read_dtype(reader *r, kiln_dtype *out) {
  for (int d = 0; d < KILN_DTYPE_COUNT; d++) {
    if (take(r, kiln_dtype_name((kiln_dtype)d))) {
      *out = (kiln_dtype)d;
      return KILN_OK;
    }
  }
  return read_fail(r, "an element type");
}

static kiln_status read_dim(reader *r, dim *out) {
  skip_spaces(r);
  const kiln_status status = dim_parse(r->g->dims, &r->at, out);
  if (status == KILN_OUT_OF_MEMORY) return status;
  return status == KILN_OK ? KILN_OK : read_fail(r, "a size");
}

static kiln_status read_type(reader *r, tensor_type *out) {
  *out = (tensor_type){KILN_F32, 0, {0}};
  KILN_TRY(read_dtype(r, &out->dtype));
  KILN_TRY(expect(r, "["));
  while (!take(r, "]")) {
    if (out->rank == KILN_MAX_RANK) return read_fail(r, "at most 8 dimensions");
    if (out->rank) KILN_TRY(expect(r, ","));
    dim *d = &out->dims[out->rank++];
    KILN_TRY(read_dim(r, d));
    if (dim_is_const(*d) && *d < 0) return read_fail(r, "a size that is not negative");
  }
  return KILN_OK;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

typedef struct value_name {
  const char *name; /* NULL: a number */
  uint32_t id;
} value_name;

static kiln_status read_value_name(reader *r, value_name *out) {
  KILN_TRY(expect(r, "%"));
  *out = (value_name){0};
  if (*r->at == '"') return read_string(r, &out->name);
  if (!isdigit((unsigned char)*r->at)) return read_word(r, &out->name);
  int64_t id = 0;
  KILN_TRY(read_int(r, &id));
  if (id >= INT32_MAX / 2) return read_fail(r, "a smaller number");
  out->id = (uint32_t)id;
  return KILN_OK;
}

/* Enters `v` under its name. Numbers are kept as ids, so that the text prints the same again. */
static kiln_status define(reader *r, const value_name *n, value *v) {
  if (!v) return graph_check(r->g);
  const bool known = n->name ? map_has(&r->names, n->name) : map_get_number(&r->numbers, (uint64_t)n->id + 1) != NULL;
  if (known) return read_fail(r, "a name that is not taken");
  v->name = n->name;
  if (!n->name) {
    v->id = n->id;
    if (n->id >= r->next_id) r->next_id = n->id + 1;
  }
  const bool ok = n->name ? map_put(&r->names, n->name, v) : map_put_number(&r->numbers, (uint64_t)n->id + 1, v);
  return ok ? KILN_OK : KILN_NO_MEMORY("graph text");
}

static kiln_status read_operand(reader *r, value **out) {
  *out = NULL;
  if (take(r, "none")) return KILN_OK;
  value_name n;
  KILN_TRY(read_value_name(r, &n));
  *out = n.name ? map_get(&r->names, n.name) : map_get_number(&r->numbers, (uint64_t)n.id + 1);
  return *out ? KILN_OK : read_fail(r, "a value that is defined above");
}

/* ---- constants --------------------------------------------------------------------------------------------------- */

static kiln_status read_element(reader *r, const tensor *t, int64_t i) {
  skip_spaces(r);
  if (!dtype_is_float(t->dtype)) {
    int64_t v = 0;
    KILN_TRY(read_int(r, &v));
    ref_store_int(t, i, v);
    return KILN_OK;
  }
  if (r->at[0] == '0' && r->at[1] == 'x') { /* the bits of a NaN */
    uint64_t bits = 0;
    r->at += 2;
    for (int k = 0; k < 16 && hex_digit(*r->at) >= 0; k++) bits = bits << 4 | (uint64_t)hex_digit(*r->at++);
    const size_t size = kiln_dtype_size(t->dtype);
    memcpy((char *)t->data + (size_t)i * size, &bits, size);
    return KILN_OK;
  }
  double v = 0;
  if (!number_read(&r->at, &v)) return read_fail(r, "a number");
  ref_store(t, i, v);
  return KILN_OK;
}

static kiln_status read_inline(reader *r, const tensor_type *type, value **out) {
  size_t bytes = 0;
  if (!type_bytes(type, &bytes) || bytes > MAX_INLINE) return read_fail(r, "a small constant of static shape");
  tensor t = {.dtype = type->dtype, .data = mem_alloc_aligned(bytes ? bytes : 1)};
  if (!t.data) return KILN_NO_MEMORY("graph text");
  const int64_t count = (int64_t)(bytes / kiln_dtype_size(type->dtype));
  kiln_status status = expect(r, "{");
  for (int64_t i = 0; i < count && status == KILN_OK; i++) {
    if (i) status = expect(r, ",");
    if (status == KILN_OK) status = read_element(r, &t, i);
  }
  if (status == KILN_OK) status = expect(r, "}");
  if (status != KILN_OK) {
    mem_free_aligned(t.data);
    return status;
  }
  *out = graph_constant_take(r->g, type, t.data);
  return *out ? KILN_OK : graph_check(r->g);
}

static kiln_status read_weight(reader *r, const tensor_type *type, value **out) {
  int64_t index = 0;
  const char *packed = NULL;
  const void *data = NULL;
  size_t size = 0, bytes = 0;
  KILN_TRY(read_int(r, &index));
  if (take(r, "packed")) KILN_TRY(read_string(r, &packed));
  if (!type_bytes(type, &bytes)) return read_fail(r, "a weight of static shape");
  if (!r->weights) return read_fail(r, "an inline constant, as no weights belong to this text");
  KILN_TRY(r->weights(r->user, index, type, packed, &data, &size));
  if (!packed && size != bytes)
    return KILN_FAIL(KILN_INVALID_FILE, "weight %lld has %zu bytes, its type needs %zu", (long long)index, size, bytes);
  *out = graph_constant(r->g, type, data);
  if (!*out) return graph_check(r->g);
  (*out)->constant->size = size;
  (*out)->constant->packing = packed;
  (*out)->constant->weight = index;
  (*out)->constant->fixed = take(r, "fixed");
  for (int i = 0; take(r, "named"); i++) {
    const char *name = NULL;
    KILN_TRY(read_string(r, &name));
    if (i == MAX_NAMES) return read_fail(r, "fewer names");
    if (!graph_name_constant(r->g, *out, name)) return KILN_NO_MEMORY("graph text");
  }
  return KILN_OK;
}

static kiln_status read_constant(reader *r) {
  value_name n;
  tensor_type type;
  value *v = NULL;
  KILN_TRY(read_value_name(r, &n));
  KILN_TRY(expect(r, ":"));
  KILN_TRY(read_type(r, &type));
  KILN_TRY(expect(r, "="));
  KILN_TRY(take(r, "weight") ? read_weight(r, &type, &v) : read_inline(r, &type, &v));
  return define(r, &n, v);
}

/* ---- nodes ------------------------------------------------------------------------------------------------------- */

static kiln_status read_list(reader *r, attr *a) {
  int64_t ints[64], *list = ints;
  double *floats = (double *)(void *)ints;
  int capacity = 64;
  KILN_TRY(expect(r, "["));
  while (!take(r, "]")) {
    if (a->count) KILN_TRY(expect(r, ","));
    if (a->count == capacity) {
      if (capacity >= MAX_LIST) return read_fail(r, "a shorter list");
      int64_t *grown = ARENA_ARRAY(&r->g->arena, int64_t, capacity * 2);
      if (!grown) return KILN_NO_MEMORY("graph text");
      memcpy(grown, list, (size_t)capacity * sizeof *list);
      list = grown;
      floats = (double *)(void *)grown;
      capacity *= 2;
    }
    if (a->kind == ATTR_INTS) {
      KILN_TRY(read_dim(r, &list[a->count]));
    } else {
      double v = 0;
      skip_spaces(r);
      if (!number_read(&r->at, &v)) return read_fail(r, "a number");
      memcpy(&floats[a->count], &v, sizeof v);
    }
    a->count++;
  }
  a->u.ints = arena_copy(&r->g->arena, list, (size_t)a->count * sizeof *list);
  return a->u.ints ? KILN_OK : KILN_NO_MEMORY("graph text");
}

static kiln_status read_attr_value(reader *r, attr *a) {
  switch (a->kind) {
    case ATTR_INT:
      return read_dim(r, &a->u.i);
    case ATTR_FLOAT:
      skip_spaces(r);
      return number_read(&r->at, &a->u.f) ? KILN_OK : read_fail(r, "a number");
    case ATTR_BOOL:
      if (take(r, "true")) {
        a->u.i = 1;
        return KILN_OK;
      }
      a->u.i = 0;
      return take(r, "false") ? KILN_OK : read_fail(r, "true or false");
    case ATTR_STR:
      return read_string(r, &a->u.s);
    case ATTR_DTYPE: {
      kiln_dtype d = KILN_F32;
      KILN_TRY(read_dtype(r, &d));
      a->u.i = d;
      return KILN_OK;
    }
    default:
      return read_list(r, a);
  }
}

static kiln_status read_attrs(reader *r, const op *o, named_attr *attrs, int *count) {
  const op_schema *s = op_schema_of(o);
  *count = 0;
  if (!take(r, "{")) return KILN_OK;
  while (!take(r, "}")) {
    const char *name = NULL;
    if (*count) KILN_TRY(expect(r, ","));
    KILN_TRY(read_word(r, &name));
    const int at = op_attr_index(o, name);
    if (at < 0 || *count == s->n_attrs) return read_fail(r, "an attribute that the operator has");
    attr a = {.kind = s->attrs[at].kind};
    KILN_TRY(expect(r, "="));
    if (take(r, "none")) {
      a.kind = ATTR_NONE;
    } else {
      KILN_TRY(read_attr_value(r, &a));
    }
    attrs[(*count)++] = (named_attr){s->attrs[at].name, a};
  }
  return KILN_OK;
}

typedef struct list {
  value **items;
  int count, capacity;
} list;

static kiln_status list_add(reader *r, list *l, value *v) {
  if (l->count == l->capacity) {
    if (l->capacity >= MAX_LIST) return read_fail(r, "a shorter list");
    value **grown = ARENA_ARRAY(&r->g->arena, value *, l->capacity ? l->capacity * 2 : 8);
    if (!grown) return KILN_NO_MEMORY("graph text");
    if (l->count) memcpy(grown, l->items, (size_t)l->count * sizeof *grown);
    l->items = grown;
    l->capacity = l->capacity ? l->capacity * 2 : 8;
  }
  l->items[l->count++] = v;
  return KILN_OK;
}

static kiln_status read_body(reader *r, block *b, list *results);

/* `epilogue(%a : type, %b : type = %x) { ... }` or `block(...) { ... }`; `extra` collects what the parameters are bound
 * to. */
static kiln_status read_block(reader *r, block *b, list *extra) {
  KILN_TRY(expect(r, "("));
  while (!take(r, ")")) {
    value_name n;
    tensor_type type;
    value *bound = NULL;
    if (b->n_params) KILN_TRY(expect(r, ","));
    if (b->n_params == MAX_LIST) return read_fail(r, "fewer parameters");
    KILN_TRY(read_value_name(r, &n));
    KILN_TRY(expect(r, ":"));
    KILN_TRY(read_type(r, &type));
    if (extra && b->n_params > 0) {
      KILN_TRY(expect(r, "="));
      KILN_TRY(read_operand(r, &bound));
      if (!bound) return read_fail(r, "a value");
      KILN_TRY(list_add(r, extra, bound));
    }
    KILN_TRY(define(r, &n, graph_add_param(b, NULL, &type)));
  }
  list results = {0};
  KILN_TRY(expect(r, "{"));
  KILN_TRY(read_body(r, b, &results));
  KILN_TRY(expect(r, "}"));
  block_set_results(b, results.count, results.items);
  return graph_check(r->g);
}

static kiln_status read_node_blocks(reader *r, node *n) {
  graph *g = r->g;
  skip_lines(r);
  if (take(r, "epilogue")) {
    list extra = {0};
    block *e = graph_new_block(g, n);
    if (!e) return graph_check(g);
    KILN_TRY(read_block(r, e, &extra));
    if (e->n_params < 1 || e->n_results != 1 || n->n_outputs != 1)
      return read_fail(r, "an epilogue with a parameter and one result");
    node_set_epilogue(n, e, extra.count, extra.items);
    skip_lines(r);
  }
  while (take(r, "block")) {
    block **grown = ARENA_ARRAY(&g->arena, block *, n->n_blocks + 1);
    block *b = graph_new_block(g, n);
    if (!grown || !b) return KILN_NO_MEMORY("graph text");
    if (n->n_blocks == 8) return read_fail(r, "fewer blocks");
    for (int32_t i = 0; i < n->n_blocks; i++) grown[i] = n->blocks[i];
    grown[n->n_blocks] = b;
    n->blocks = grown;
    KILN_TRY(read_block(r, b, NULL));
    n->n_blocks++;
    skip_lines(r);
  }
  return graph_check(g);
}

static kiln_status check_arity(reader *r, const op *o, int n_in, int n_out) {
  const op_schema *s = op_schema_of(o);
  const bool any_in = s->n_in && s->in[s->n_in - 1].variadic, any_out = s->n_out && s->out[s->n_out - 1].variadic;
  if (any_in ? n_in < s->n_in - 1 : n_in != s->n_in) return read_fail(r, "as many operands as the operator has");
  if (any_out ? n_out < s->n_out - 1 : n_out != s->n_out) return read_fail(r, "as many results as the operator has");
  return KILN_OK;
}

/* One for each further optimization profile. */
static kiln_status read_more_tactics(reader *r, node *n) {
  const char *names[MAX_PROFILES];
  while (take(r, "or")) {
    if (n->n_more_tactics == MAX_PROFILES - 1) return read_fail(r, "fewer tactics");
    KILN_TRY(read_string(r, &names[n->n_more_tactics++]));
  }
  if (!n->n_more_tactics) return KILN_OK;
  n->more_tactics = arena_copy(&r->g->arena, names, (size_t)n->n_more_tactics * sizeof *names);
  if (n->more_tactics) return KILN_OK;
  n->n_more_tactics = 0;
  return KILN_NO_MEMORY("graph");
}

/* What follows the attributes: result types, tactics, module path and source. */
static kiln_status read_tail(reader *r, node *n, const value_name *names) {
  KILN_TRY(n->n_outputs ? expect(r, ":") : KILN_OK);
  for (int32_t i = 0; i < n->n_outputs; i++) {
    if (i) KILN_TRY(expect(r, ","));
    KILN_TRY(read_type(r, &n->outputs[i]->type));
  }
  if (take(r, "tactic")) {
    KILN_TRY(read_string(r, &n->tactic));
    KILN_TRY(read_more_tactics(r, n));
  }
  if (take(r, "timed")) KILN_TRY(read_string(r, &n->timing));
  if (take(r, "@")) {
    KILN_TRY(read_string(r, &n->path));
    skip_spaces(r);
    if (*r->at == '"') KILN_TRY(read_string(r, &n->source));
  }
  KILN_TRY(end_of_line(r));
  KILN_TRY(read_node_blocks(r, n));
  for (int32_t i = 0; i < n->n_outputs; i++) KILN_TRY(define(r, &names[i], n->outputs[i]));
  return KILN_OK;
}

/* Names with a dot are those of custom operators, which a file uses but does not have (ops/custom.c notes where they were from). */
static kiln_status missing_custom(const reader *r, const char *name) {
  char key[160];
  const int n = snprintf(key, sizeof key, "kiln.operator.%s", name);
  const char *library = n > 0 && (size_t)n < sizeof key ? graph_metadata(r->g, key) : NULL;
  return KILN_FAIL(KILN_UNSUPPORTED,
                   "the custom operator `%.100s` is needed, but not registered in this process: %s%.200s first "
                   "(kiln.load_plugin in Python, kiln_plugin_load in C, kiln --plugin FILE), or register it again",
                   name, library && *library ? "load the plugin " : "load the plugin that has it",
                   library ? library : "");
}

static kiln_status read_node(reader *r, block *b) {
  value_name names[256];
  named_attr attrs[24];
  list inputs = {0};
  int n_out = 0, n_attrs = 0;
  const char *op_name = NULL;
  if (!take(r, "()")) {
    do {
      if (n_out == 256) return read_fail(r, "at most 256 results");
      KILN_TRY(read_value_name(r, &names[n_out++]));
    } while (take(r, ","));
  }
  KILN_TRY(expect(r, "="));
  KILN_TRY(read_word(r, &op_name));
  const op *o = op_find(op_name);
  if (!o && strchr(op_name, '.')) return missing_custom(r, op_name);
  if (!o) return read_fail(r, "an operator that this version knows");
  KILN_TRY(expect(r, "("));
  while (!take(r, ")")) {
    value *v = NULL;
    if (inputs.count) KILN_TRY(expect(r, ","));
    KILN_TRY(read_operand(r, &v));
    KILN_TRY(list_add(r, &inputs, v));
  }
  KILN_TRY(read_attrs(r, o, attrs, &n_attrs));
  KILN_TRY(check_arity(r, o, inputs.count, n_out));
  builder at = builder_at_end(b);
  node *n = node_create(&at, o, inputs.count, inputs.items, n_attrs, attrs, n_out);
  if (!n) return graph_check(r->g) != KILN_OK ? graph_check(r->g) : KILN_NO_MEMORY("graph text");
  return read_tail(r, n, names);
}

/* Nodes up to something that is none; in inner blocks, a `return` line ends them. */
static kiln_status read_body(reader *r, block *b, list *results) {
  if (++r->depth > MAX_DEPTH) return read_fail(r, "fewer blocks inside each other");
  for (;;) {
    skip_lines(r);
    if (*r->at != '%' && *r->at != '(') break;
    KILN_TRY(read_node(r, b));
  }
  r->depth--;
  if (!results) return KILN_OK;
  KILN_TRY(expect(r, "return"));
  skip_spaces(r);
  while (*r->at == '%') {
    value *v = NULL;
    KILN_TRY(read_operand(r, &v));
    KILN_TRY(list_add(r, results, v));
    if (!take(r, ",")) break;
    skip_spaces(r);
  }
  skip_lines(r);
  return KILN_OK;
}

/* ---- the frame --------------------------------------------------------------------------------------------------- */

static kiln_status read_symbol(reader *r) {
  const char *name = NULL;
  int64_t bounds[2], opt = 0;
  KILN_TRY(read_word(r, &name));
  KILN_TRY(expect(r, "in"));
  KILN_TRY(expect(r, "["));
  for (int i = 0; i < 2; i++) {
    if (i) KILN_TRY(expect(r, ","));
    if (take(r, "-inf")) {
      bounds[i] = -DIM_UNBOUNDED;
    } else if (take(r, "inf")) {
      bounds[i] = DIM_UNBOUNDED;
    } else {
      KILN_TRY(read_int(r, &bounds[i]));
    }
  }
  KILN_TRY(expect(r, "]"));
  KILN_TRY(expect(r, "opt"));
  KILN_TRY(read_int(r, &opt));
  if (bounds[0] > bounds[1] || opt < bounds[0] || opt > bounds[1]) return read_fail(r, "min <= opt <= max");
  if (dim_symbol_count(r->g->dims) >= MAX_LIST || dim_find_symbol(r->g->dims, name) != DIM_ERROR)
    return read_fail(r, "a new symbol");
  const dim d = dim_symbol(r->g->dims, name, bounds[0], bounds[1]);
  if (d == DIM_ERROR) return KILN_NO_MEMORY("graph text");
  dim_symbol_set_range(r->g->dims, dim_symbol_index(r->g->dims, d), bounds[0], bounds[1], opt);
  return KILN_OK;
}

static kiln_status read_meta(reader *r) {
  const char *key = NULL, *s = NULL;
  KILN_TRY(read_string(r, &key));
  KILN_TRY(read_string(r, &s));
  if (r->g->n_metadata > 256) return read_fail(r, "fewer meta lines");
  return graph_set_metadata(r->g, key, s);
}

typedef struct frame {
  const char *inputs[MAX_LIST], *outputs[MAX_LIST], *updates[MAX_LIST];
  graph_state states[MAX_LIST];
  list results;
  int n_updates;
} frame;

static kiln_status read_param(reader *r, frame *f, bool state) {
  graph *g = r->g;
  const char *io_name = NULL;
  value_name n;
  tensor_type type;
  KILN_TRY(read_string(r, &io_name));
  KILN_TRY(read_value_name(r, &n));
  KILN_TRY(expect(r, ":"));
  KILN_TRY(read_type(r, &type));
  if (g->body.n_params >= MAX_LIST - 1 || (!state && g->n_states))
    return read_fail(r, "inputs before states, and fewer of them");
  if (state) {
    graph_state *s = &f->states[g->n_states];
    KILN_TRY(expect(r, "="));
    KILN_TRY(read_operand(r, &s->initial));
    if (!s->initial || !s->initial->constant || s->initial->constant->packing || !type_equal(&s->initial->type, &type))
      return read_fail(r, "a constant of the state's type");
    s->name = io_name;
    s->param = g->body.n_params;
    g->n_states++;
  } else {
    f->inputs[g->n_inputs++] = io_name;
  }
  return define(r, &n, graph_add_param(&g->body, NULL, &type));
}

static kiln_status read_result(reader *r, frame *f, bool update) {
  graph *g = r->g;
  const char *io_name = NULL;
  value *v = NULL;
  KILN_TRY(read_string(r, &io_name));
  KILN_TRY(read_operand(r, &v));
  if (!v || f->results.count >= MAX_LIST - 1 || (!update && f->n_updates))
    return read_fail(r, "a value; outputs before updates");
  if (update) {
    if (f->n_updates >= g->n_states || !type_equal(&v->type, &f->states[f->n_updates].initial->type))
      return read_fail(r, "an update of a state, with its type");
    f->states[f->n_updates++].result = f->results.count;
  } else {
    f->outputs[g->n_outputs++] = io_name;
  }
  return list_add(r, &f->results, v);
}

static kiln_status read_lines(reader *r, frame *f) {
  KILN_TRY(expect(r, "kiln.graph"));
  int64_t version = 0;
  KILN_TRY(read_int(r, &version));
  if (version != 1)
    return KILN_FAIL(KILN_INCOMPATIBLE, "graph text of version %lld, this library reads 1", (long long)version);
  for (;;) {
    KILN_TRY(end_of_line(r));
    skip_lines(r);
    if (*r->at == '%' || *r->at == '(') KILN_TRY(read_body(r, &r->g->body, NULL));
    if (!*r->at) return KILN_OK;
    if (take(r, "meta")) {
      KILN_TRY(read_meta(r));
    } else if (take(r, "dim")) {
      KILN_TRY(read_symbol(r));
    } else if (take(r, "const")) {
      KILN_TRY(read_constant(r));
    } else if (take(r, "input")) {
      KILN_TRY(read_param(r, f, false));
    } else if (take(r, "state")) {
      KILN_TRY(read_param(r, f, true));
    } else if (take(r, "output")) {
      KILN_TRY(read_result(r, f, false));
    } else if (take(r, "update")) {
      KILN_TRY(read_result(r, f, true));
    } else {
      return read_fail(r, "meta, dim, const, input, state, a node, output or update");
    }
  }
}

/* Values with names got fresh ids while reading; they must not collide with the numbers of others. */
static void renumber(reader *r) {
  graph *g = r->g;
  uint32_t next = r->next_id > g->next_id ? r->next_id : g->next_id;
  for (size_t i = 0; i < r->names.capacity; i++) {
    map_entry *e = &r->names.entries[i];
    if (e->used) ((value *)e->value)->id = next++;
  }
  g->next_id = next;
}

static kiln_status read_graph(reader *r) {
  graph *g = r->g;
  frame *f = mem_calloc(1, sizeof *f);
  if (!f) return KILN_NO_MEMORY("graph text");
  kiln_status status = read_lines(r, f);
  if (status == KILN_OK && f->n_updates != g->n_states) status = read_fail(r, "an update for each state");
  if (status == KILN_OK) {
    block_set_results(&g->body, f->results.count, f->results.items);
    g->input_names = arena_copy(&g->arena, f->inputs, (size_t)(g->n_inputs + 1) * sizeof *f->inputs);
    g->output_names = arena_copy(&g->arena, f->outputs, (size_t)(g->n_outputs + 1) * sizeof *f->outputs);
    g->states = arena_copy(&g->arena, f->states, (size_t)(g->n_states + 1) * sizeof *f->states);
    status = graph_check(g);
    renumber(r);
  }
  mem_free(f);
  return status;
}

kiln_status graph_parse(const char *bytes, size_t size, weight_source weights, void *user, graph **out_graph) {
  reader r = {.weights = weights, .user = user};
  KILN_TRY(ops_init());
  KILN_TRY(graph_create(&r.g));
  r.start = r.at = arena_strndup(&r.g->arena, bytes, size);
  kiln_status status = r.at ? read_graph(&r) : KILN_NO_MEMORY("graph text");
  if (status == KILN_OK) status = graph_verify(r.g);
  map_free(&r.names);
  map_free(&r.numbers);
  if (status != KILN_OK) {
    graph_destroy(r.g);
    return status;
  }
  *out_graph = r.g;
  return KILN_OK;
}
