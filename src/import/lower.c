/* Runs one call of a framework operator: checks the arguments against the schema, then lets the row's `map` text or
 * `lower` function build nodes, then applies in-place semantics. */
#include <stdio.h>
#include <string.h>

#include "import/aten.h"
#include "import/complex.h"
#include "import/handles.h"

/* ---- arguments ---------------------------------------------------------------------------------- */

static const ivalue none;

static int arg_index(const aten_schema *s, const char *name, size_t length) {
  for (int32_t i = 0; i < s->n_args; i++)
    if (strlen(s->args[i].name) == length && memcmp(s->args[i].name, name, length) == 0) return i;
  return -1;
}

static void fail_graph(graph *g, kiln_status status) {
  if (g->failed) return;
  g->failed = true;
  g->failure = status;
}

const ivalue *call_arg(const lower_call *c, const char *name) {
  const int i = arg_index(c->schema, name, strlen(name));
  if (i >= 0) return &c->args[i];
  fail_graph(c->b.graph,
             KILN_FAIL(KILN_INTERNAL, "%s: the lowering asks for `%s`, which its schema lacks", c->schema->name, name));
  return &none;
}

static value *ivalue_tensor(lower_call *c, const ivalue *v) {
  switch (v->kind) {
    case IV_TENSOR:
      return lower_value(&c->b, v->u.t);
    case IV_INT:
      return lower_size_tensor(&c->b, v->u.i);
    case IV_BOOL:
      return graph_scalar_int(c->b.graph, KILN_BOOL, v->u.i != 0);
    case IV_FLOAT:
      return graph_scalar(c->b.graph, KILN_F64, v->u.f);
    default:
      return NULL;
  }
}

value *call_tensor(lower_call *c, const char *name) { return ivalue_tensor(c, call_arg(c, name)); }
bool call_is_none(const lower_call *c, const char *name) { return call_arg(c, name)->kind == IV_NONE; }

dim call_int(const lower_call *c, const char *name) {
  const ivalue *v = call_arg(c, name);
  if (v->kind == IV_LIST) return v->count == 1 ? v->u.items[0].u.i : 0;
  return v->kind == IV_INT || v->kind == IV_BOOL || v->kind == IV_DTYPE ? v->u.i : 0;
}

double call_float(const lower_call *c, const char *name) {
  const ivalue *v = call_arg(c, name);
  if (v->kind == IV_FLOAT) return v->u.f;
  if (v->kind != IV_INT && v->kind != IV_BOOL) return 0;
  if (dim_is_const(v->u.i)) return (double)v->u.i;
  fail_graph(c->b.graph, KILN_FAIL(KILN_UNSUPPORTED,
                                   "%s: argument %s: a number that depends on the input's shape is not supported here",
                                   c->schema->name, name));
  return 0;
}

bool call_bool(const lower_call *c, const char *name) {
  const ivalue *v = call_arg(c, name);
  return (v->kind == IV_BOOL || v->kind == IV_INT) && v->u.i != 0;
}

const char *call_str(const lower_call *c, const char *name) {
  const ivalue *v = call_arg(c, name);
  return v->kind == IV_STR ? v->u.s : NULL;
}

int call_ints(const lower_call *c, const char *name, dim *out, int max) {
  const ivalue *v = call_arg(c, name);
  if (v->kind == IV_NONE) return 0;
  const ivalue *items = v->kind == IV_LIST ? v->u.items : v;
  const int32_t n = v->kind == IV_LIST ? v->count : 1;
  if (n > max) return -1;
  for (int32_t i = 0; i < n; i++) out[i] = items[i].kind == IV_INT || items[i].kind == IV_BOOL ? items[i].u.i : 0;
  return n;
}

kiln_status call_ints_expand(const lower_call *c, const char *name, int n, dim *out) {
  dim given[16];
  const int count = n <= (int)KILN_COUNT(given) ? call_ints(c, name, given, KILN_COUNT(given)) : -1;
  if (count != 1 && count != n)
    return LOWER_FAIL((lower_call *)(uintptr_t)c, "argument %s: expected 1 or %d values, got %d", name, n,
                      call_list_count(c, name));
  for (int i = 0; i < n; i++) out[i] = given[count == 1 ? 0 : i];
  return KILN_OK;
}

int call_tensors(lower_call *c, const char *name, value **out, int max) {
  const ivalue *v = call_arg(c, name);
  if (v->kind != IV_LIST) return 0;
  if (v->count > max) return -1;
  for (int32_t i = 0; i < v->count; i++) out[i] = ivalue_tensor(c, &v->u.items[i]);
  return v->count;
}

int call_list_count(const lower_call *c, const char *name) {
  const ivalue *v = call_arg(c, name);
  return v->kind == IV_LIST ? v->count : v->kind == IV_NONE ? 0 : 1;
}

/* ---- results ------------------------------------------------------------------------------------ */

static ivalue tensor_result(lower_call *c, itensor *t) {
  ivalue r = {.kind = IV_TENSOR};
  r.u.t = t;
  if (t) return r;
  fail_graph(c->b.graph, KILN_NO_MEMORY("tensor handle"));
  return none;
}

void call_return_ivalue(lower_call *c, int i, ivalue v) {
  if (i >= 0 && i < c->n_results)
    c->results[i] = v;
  else
    fail_graph(c->b.graph,
               KILN_FAIL(KILN_INTERNAL, "%s: the lowering sets result %d of %d", c->schema->name, i, c->n_results));
}

void call_return(lower_call *c, int i, value *v) {
  if (v) call_return_ivalue(c, i, tensor_result(c, lower_tensor(c->im, v)));
}

/* A view only of handles: a Python number has no memory. */
static itensor *view_of(lower_call *c, const char *name, value *v) {
  const ivalue *base = call_arg(c, name);
  if (base->kind == IV_TENSOR && base->u.t->depth >= HANDLE_MAX_DEPTH)
    fail_graph(c->b.graph, KILN_FAIL(KILN_UNSUPPORTED, "%s: views of views are nested more than %d deep",
                                     c->schema->name, HANDLE_MAX_DEPTH));
  return base->kind == IV_TENSOR ? handle_view(c->im, base->u.t, v) : lower_tensor(c->im, v);
}

void call_return_view(lower_call *c, int i, const char *name, value *v) {
  if (v) call_return_ivalue(c, i, tensor_result(c, view_of(c, name, v)));
}

static void return_list(lower_call *c, int i, const char *name, int count, value *const *items) {
  ivalue list = {.kind = IV_LIST, .count = count};
  list.u.items = ARENA_ARRAY(c->im->arena, ivalue, count ? count : 1);
  if (!list.u.items) {
    fail_graph(c->b.graph, KILN_NO_MEMORY("tensor list"));
    return;
  }
  for (int k = 0; k < count; k++) {
    if (!items[k]) return;
    list.u.items[k] = tensor_result(c, name ? view_of(c, name, items[k]) : lower_tensor(c->im, items[k]));
  }
  call_return_ivalue(c, i, list);
}

void call_return_list(lower_call *c, int i, int count, value *const *items) { return_list(c, i, NULL, count, items); }
void call_return_view_list(lower_call *c, int i, const char *name, int count, value *const *items) {
  return_list(c, i, name, count, items);
}

kiln_status lower_fail(lower_call *c, const char *file, int line, const char *fmt, ...) {
  char reason[512];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(reason, sizeof reason, fmt, ap);
  va_end(ap);
  if (graph_check(c->b.graph) != KILN_OK) return graph_check(c->b.graph); /* the first reason counts */
  return error_raise(KILN_UNSUPPORTED, file, line, "%s: %s", c->schema->name, reason);
}

/* ---- map ---------------------------------------------------------------------------------------- */

/* The pieces of "softmax(self; axis=dim)", one at a time. */
typedef struct map_cursor {
  const char *s;
  bool attributes; /* after ';' */
} map_cursor;

typedef struct map_item {
  const char *left, *right; /* attribute and argument; the same for operands */
  size_t left_length, right_length;
} map_item;

static bool map_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

static size_t map_take(const char **s, const char **word) {
  while (**s == ' ') (*s)++;
  *word = *s;
  while (map_word(**s)) (*s)++;
  return (size_t)(*s - *word);
}

static bool map_open(const char *form, map_cursor *out, const char **name, size_t *length) {
  const char *s = form;
  *length = map_take(&s, name);
  if (*length == 0 || *s != '(') return false;
  *out = (map_cursor){s + 1, false};
  return true;
}

/* 1: an item, 0: the end, -1: syntax error. */
static int map_next(map_cursor *m, map_item *out) {
  for (;; m->s++) {
    if (*m->s == ';')
      m->attributes = true;
    else if (*m->s != ',' && *m->s != ' ')
      break;
  }
  if (*m->s == ')') return m->s[1] ? -1 : 0;
  out->left_length = map_take(&m->s, &out->left);
  if (out->left_length == 0) return -1;
  out->right = out->left;
  out->right_length = out->left_length;
  if (*m->s != '=') return 1;
  m->s++;
  out->right_length = map_take(&m->s, &out->right);
  return out->right_length > 0 && m->attributes ? 1 : -1;
}

static int attr_index_n(const op *o, const char *name, size_t length) {
  char word[48];
  if (length >= sizeof word) return -1;
  memcpy(word, name, length);
  word[length] = 0;
  return op_attr_index(o, word);
}

/* Axes count from the end when negative; attributes hold them normalized. */
static dim wrap_axis(dim axis, int rank) { return dim_is_const(axis) && axis < 0 ? axis + (rank ? rank : 1) : axis; }

static bool attr_from_list(lower_call *c, const op_attr *a, const ivalue *v, int rank, attr *out) {
  const bool axes = str_eq(a->name, "axes");
  const int32_t n = v->kind == IV_LIST ? v->count : v->kind == IV_NONE ? rank : 1;
  if (v->kind == IV_NONE && !axes) return false;
  int64_t *ints = ARENA_ARRAY(&c->b.graph->arena, int64_t, n ? n : 1);
  double *floats = (double *)(void *)ints; /* both have 8 bytes; one is used */
  if (!ints) return false;
  for (int32_t i = 0; i < n; i++) {
    const ivalue *item = v->kind == IV_LIST ? &v->u.items[i] : v;
    if (v->kind == IV_NONE)
      ints[i] = i;
    else if (a->kind == ATTR_INTS)
      ints[i] = axes ? wrap_axis(item->u.i, rank) : item->u.i;
    else
      floats[i] = item->kind == IV_FLOAT ? item->u.f : (double)item->u.i;
  }
  *out = (attr){a->kind, n, {.ints = ints}};
  if (a->kind == ATTR_FLOATS) out->u.floats = floats;
  return true;
}

static bool attr_from(lower_call *c, const op_attr *a, const ivalue *v, int rank, attr *out) {
  const bool integer = v->kind == IV_INT || v->kind == IV_BOOL;
  *out = (attr){.kind = a->kind};
  switch (a->kind) {
    case ATTR_INT:
      if (v->kind == IV_LIST && v->count == 1) v = &v->u.items[0];
      if (v->kind != IV_INT && v->kind != IV_BOOL) return false;
      out->u.i = str_eq(a->name, "axis") ? wrap_axis(v->u.i, rank) : v->u.i;
      return true;
    case ATTR_BOOL:
      out->u.i = integer && v->u.i != 0;
      return integer;
    case ATTR_FLOAT:
      out->u.f = v->kind == IV_FLOAT ? v->u.f : integer ? (double)v->u.i : 0;
      return v->kind == IV_FLOAT || (integer && dim_is_const(v->u.i));
    case ATTR_STR:
      out->u.s = v->u.s;
      return v->kind == IV_STR;
    case ATTR_DTYPE:
      out->u.i = v->u.i;
      return v->kind == IV_DTYPE && v->u.i >= 0;
    case ATTR_INTS:
    case ATTR_FLOATS:
      return attr_from_list(c, a, v, rank, out);
    default:
      return false;
  }
}

enum { MAP_OPERANDS = 16, MAP_ATTRS = 24 };

static kiln_status map_operand(lower_call *c, const map_item *item, value **operands, int *n) {
  if (*n == MAP_OPERANDS) return KILN_FAIL(KILN_INTERNAL, "%s: too many operands in its map", c->schema->name);
  if (item->left_length == 1 && item->left[0] == '-') {
    operands[(*n)++] = NULL;
    return KILN_OK;
  }
  const int i = arg_index(c->schema, item->left, item->left_length);
  if (i < 0) return KILN_FAIL(KILN_INTERNAL, "%s: its map names no argument at \"%s\"", c->schema->name, item->left);
  const ivalue *v = &c->args[i];
  if (v->kind != IV_LIST) {
    operands[(*n)++] = ivalue_tensor(c, v);
    return KILN_OK;
  }
  for (int32_t k = 0; k < v->count; k++) { /* a list: the variadic operand, which is last */
    if (*n == MAP_OPERANDS)
      return LOWER_FAIL(c, "more than %d tensors in argument %s", MAP_OPERANDS, c->schema->args[i].name);
    operands[(*n)++] = ivalue_tensor(c, &v->u.items[k]);
  }
  return KILN_OK;
}

static kiln_status map_attr(lower_call *c, const map_item *item, int rank, named_attr *attrs, int *n) {
  const op *o = c->schema->op;
  const int at = attr_index_n(o, item->left, item->left_length);
  const int i = arg_index(c->schema, item->right, item->right_length);
  if (at < 0 || i < 0 || *n == MAP_ATTRS)
    return KILN_FAIL(KILN_INTERNAL, "%s: its map names no attribute or argument at \"%s\"", c->schema->name,
                     item->left);
  const op_attr *a = &op_schema_of(o)->attrs[at];
  const ivalue *v = &c->args[i];
  if (v->kind == IV_NONE && !str_eq(a->name, "axes")) { /* absent: the attribute's own default */
    if (!a->has_default && !a->optional) return LOWER_FAIL(c, "argument %s must be given", c->schema->args[i].name);
    return KILN_OK;
  }
  attrs[*n].name = a->name;
  if (!attr_from(c, a, v, rank, &attrs[*n].value))
    return LOWER_FAIL(c, "argument %s: this kind of value is not supported", c->schema->args[i].name);
  (*n)++;
  return KILN_OK;
}

static kiln_status run_map(lower_call *c) {
  map_cursor m;
  const char *name;
  size_t length;
  value *operands[MAP_OPERANDS];
  named_attr attrs[MAP_ATTRS];
  int n = 0, n_attrs = 0, more;
  map_item item;
  const char *first = NULL; /* argument of operand 0 */
  if (!map_open(c->schema->row->map, &m, &name, &length))
    return KILN_FAIL(KILN_INTERNAL, "%s: bad map", c->schema->name);
  while ((more = map_next(&m, &item)) == 1) {
    if (m.attributes) {
      KILN_TRY(map_attr(c, &item, n > 0 && operands[0] ? operands[0]->type.rank : 0, attrs, &n_attrs));
    } else {
      if (n == 0) {
        const int i = arg_index(c->schema, item.left, item.left_length);
        first = i >= 0 ? c->schema->args[i].name : NULL;
      }
      KILN_TRY(map_operand(c, &item, operands, &n));
    }
  }
  if (more < 0) return KILN_FAIL(KILN_INTERNAL, "%s: bad map", c->schema->name);
  KILN_TRY(graph_check(c->b.graph));
  const op *o = c->schema->op;
  if ((o->flags & OP_POINTWISE) && n == 2 && operands[0] && operands[1])
    lower_promote(&c->b, &operands[0], call_arg(c, first)->kind != IV_TENSOR, &operands[1], false);
  node *made = build_node(&c->b, o->name, n, operands, n_attrs, attrs);
  if (!made) return graph_check(c->b.graph);
  const bool view = (o->flags & OP_VIEW) && first && !str_ends(c->schema->name, "_copy");
  for (int i = 0; i < made->n_outputs && i < c->n_results; i++) {
    if (view)
      call_return_view(c, i, first, made->outputs[i]);
    else
      call_return(c, i, made->outputs[i]);
  }
  return KILN_OK;
}

kiln_status lower_check_row(const aten_schema *s) {
  map_cursor m;
  const char *name;
  size_t length;
  int n = 0, more;
  map_item item;
  const op_schema *schema = op_schema_of(s->op);
  const char *bad = NULL;
  bool in_place;
  const aten_schema *first = aten_find_overload(s->name, s->overload);
  if (first != s && aten_resolve(s->name, s->overload, &in_place) != s)
    return KILN_FAIL(KILN_INTERNAL, "operator table: %s.%s stands in two rows: %s and %s", s->name, s->overload,
                     first ? first->op->name : "?", s->op->name);
  if (!s->row->map) return KILN_OK;
  if (!map_open(s->row->map, &m, &name, &length))
    bad = "is not of the form op(operands; attributes)";
  else if (strlen(s->op->name) != length || memcmp(s->op->name, name, length) != 0)
    bad = "names another operator";
  else if (s->n_returns > schema->n_out)
    bad = "has fewer results than the schema";
  while (!bad && (more = map_next(&m, &item)) != 0) {
    if (more < 0) {
      bad = "has a syntax error";
    } else if (m.attributes) {
      if (attr_index_n(s->op, item.left, item.left_length) < 0)
        bad = "names an attribute that the operator lacks";
      else if (arg_index(s, item.right, item.right_length) < 0)
        bad = "names an argument that the schema lacks";
    } else {
      const bool variadic = schema->n_in > 0 && schema->in[schema->n_in - 1].variadic;
      if (n >= schema->n_in && !variadic)
        bad = "has more operands than the operator";
      else if (item.left_length == 1 && item.left[0] == '-')
        bad = schema->in[n].optional ? NULL : "leaves a required operand out";
      else if (arg_index(s, item.left, item.left_length) < 0)
        bad = "names an argument that the schema lacks";
      n++;
    }
  }
  for (int i = n; !bad && i < schema->n_in; i++)
    if (!schema->in[i].optional) bad = "lacks a required operand";
  if (!bad) return KILN_OK;
  return KILN_FAIL(KILN_INTERNAL, "operator table: %s.%s of row %s: map \"%s\" %s", s->name, s->overload, s->op->name,
                   s->row->map, bad);
}

/* ---- run ---------------------------------------------------------------------------------------- */

static const char *kind_name(const ivalue *v) {
  static const char *const names[] = {"None",   "a tensor", "an int",   "a float",  "a bool",          "a string",
                                      "a list", "a dtype",  "a device", "a layout", "a complex number"};
  return names[v->kind];
}

static kiln_status check_args(lower_call *c) {
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    const aten_arg *a = &c->schema->args[i];
    if (!aten_type_accepts(a->type, &c->args[i]))
      return KILN_FAIL(KILN_INVALID_FILE, "%s: argument %s: expected %s, got %s", c->schema->name, a->name, a->type,
                       kind_name(&c->args[i]));
    if (a->written && i > 0)
      return KILN_FAIL(KILN_UNSUPPORTED, "%s.%s: variants that write to `%s` are not supported", c->schema->name,
                       c->schema->overload, a->name);
  }
  return KILN_OK;
}

/* The functional result becomes the contents of argument 0, and the call's result is that same tensor. */
static kiln_status finish_in_place(lower_call *c) {
  ivalue *self = &c->args[0];
  if (c->n_results == 0) return KILN_OK;
  if (self->kind != IV_TENSOR)
    return KILN_FAIL(KILN_INVALID_FILE, "%s_: its first argument is not a tensor", c->schema->name);
  if (c->results[0].kind == IV_TENSOR) {
    value *v = lower_value(&c->b, c->results[0].u.t);
    if (v) KILN_TRY(lower_write(&c->b, self->u.t, v));
  }
  c->results[0] = *self;
  return graph_check(c->b.graph);
}

kiln_status lower_run(lower_call *call) {
  KILN_TRY(graph_check(call->b.graph));
  KILN_TRY(check_args(call));
  for (int32_t i = 0; i < call->n_results; i++) call->results[i] = none;
  if (complex_call(call)) return complex_run(call);
  KILN_TRY(call->schema->row->map ? run_map(call) : call->schema->row->lower(call));
  KILN_TRY(graph_check(call->b.graph));
  if (call->im->arena->failed) return KILN_NO_MEMORY("import");
  if (call->in_place) return finish_in_place(call);
  return KILN_OK;
}
