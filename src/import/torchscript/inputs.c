/* Arguments of the method: tensors become inputs of the graph, the rest is fixed.
 *
 * What an argument is comes from its annotation; which shape a tensor has, from the caller's specifications (by name,
 * or by position among the tensors), else from the example inputs that a traced file keeps. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "graph/complex_io.h"
#include "import/complex.h"
#include "import/torchscript/method.h"

typedef struct reader {
  method *m;
  interp *it;
  bool *used;   /* for each specification */
  text missing; /* arguments that nothing is known of */
  int n_missing;
} reader;

static const kiln_input_spec *specs(const reader *r) { return r->m->options ? r->m->options->inputs : NULL; }
static size_t spec_count(const reader *r) { return r->m->options ? r->m->options->input_count : 0; }

/* The specification of this leaf; nameless ones count tensors. */
static const kiln_input_spec *find_spec(reader *r, const char *name, bool is_tensor) {
  for (size_t i = 0; i < spec_count(r); i++) {
    const kiln_input_spec *s = &specs(r)[i];
    if (s->name ? !str_eq(s->name, name) : !is_tensor || (int32_t)i != r->m->n_tensors) continue;
    r->used[i] = true;
    return s;
  }
  return NULL;
}

/* Is there anything about this argument or a part of it? */
static bool is_specified(const reader *r, const char *name, bool is_tensor) {
  const size_t n = strlen(name);
  for (size_t i = 0; i < spec_count(r); i++) {
    const char *s = specs(r)[i].name;
    if (!s && is_tensor && (int32_t)i == r->m->n_tensors) return true;
    if (s && strncmp(s, name, n) == 0 && (s[n] == 0 || s[n] == '.')) return true;
  }
  return false;
}

static kiln_status add_leaf(reader *r, const char *name, ts_value v, int32_t index) {
  method *m = r->m;
  if (m->n_leaves == METHOD_MAX_LEAVES)
    return KILN_FAIL(KILN_UNSUPPORTED, "the method has more than %d inputs", METHOD_MAX_LEAVES);
  m->leaves[m->n_leaves++] = (method_leaf){name, v, index};
  return KILN_OK;
}

static void note_missing(reader *r, const char *name, const ts_type *t) {
  text_printf(&r->missing, "%s%s: ", r->n_missing++ ? ", " : "", name);
  ts_type_print(t, &r->missing);
}

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

static kiln_status spec_dim(reader *r, const kiln_input_spec *s, const char *name, int d, dim *out) {
  dim_table *t = r->it->g->dims;
  const int64_t min = s->min[d], opt = s->opt[d], max = s->max[d];
  if (min < 0 || min > opt || opt > max || !dim_is_const(max))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "input \"%s\", dimension %d: min %lld, opt %lld, max %lld are not in order",
                     name, d, (long long)min, (long long)opt, (long long)max);
  *out = min;
  if (min == max) return KILN_OK;
  const char *symbol = arena_printf(&r->it->g->arena, "s%d", dim_symbol_count(t));
  if (!symbol) return KILN_NO_MEMORY("inputs");
  *out = dim_symbol(t, symbol, min, max);
  if (*out == DIM_ERROR) return KILN_NO_MEMORY("inputs");
  dim_symbol_set_range(t, dim_symbol_index(t, *out), min, max, opt);
  return KILN_OK;
}

static kiln_status tensor_type_of(reader *r, const char *name, const ts_value *sample, tensor_type *out, bool *known,
                                  bool *is_complex) {
  const kiln_input_spec *s = find_spec(r, name, true);
  const itensor *given = sample && sample->kind == TSV_TENSOR ? sample->u.tensor : NULL;
  const tensor_type *like = given ? &(given->parts[0] ? given->parts[0] : given)->v->type : NULL;
  *known = s || like;
  *is_complex = given && given->parts[0];
  if (!s) {
    if (like) *out = *like;
    return KILN_OK;
  }
  if (s->dtype != KILN_DTYPE_COUNT) *is_complex = s->is_complex != 0;
  if (s->constant)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "input \"%s\" is a tensor and cannot be fixed to \"%.60s\"", name,
                     s->constant);
  if (s->rank < 0 || s->rank > KILN_MAX_RANK)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "input \"%s\": %d dimensions, at most %d are possible", name, (int)s->rank,
                     KILN_MAX_RANK);
  out->dtype = s->dtype != KILN_DTYPE_COUNT ? s->dtype : like ? like->dtype : KILN_F32;
  out->rank = s->rank;
  for (int d = 0; d < s->rank; d++) KILN_TRY(spec_dim(r, s, name, d, &out->dims[d]));
  return KILN_OK;
}

static bool is_identifier(const char *s) {
  for (const char *c = s; *c; c++)
    if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || *c == '_' || (c > s && *c >= '0' && *c <= '9')))
      return false;
  return *s != 0;
}

static kiln_status read_tensor(reader *r, const ts_type *t, const char *name, const ts_value *sample, ts_value *out) {
  tensor_type type = {0};
  bool known = false, is_complex = false;
  KILN_TRY(tensor_type_of(r, name, sample, &type, &known, &is_complex));
  if (!known) {
    note_missing(r, name, t);
    r->m->n_tensors++; /* keeps positions */
    *out = of_none();
    return KILN_OK;
  }
  if (is_complex && (type.rank == KILN_MAX_RANK || !dtype_is_float(type.dtype) || type.dtype == KILN_BF16))
    return KILN_FAIL(KILN_INVALID_ARGUMENT,
                     "input \"%s\": complex tensors have at most %d dimensions and parts of f32, f64 or f16", name,
                     KILN_MAX_RANK - 1);
  if (is_complex) {
    type.dims[type.rank++] = 2;
    KILN_TRY(graph_mark_complex(r->it->g, 'i', r->m->n_tensors));
  }
  value *param = graph_add_param(&r->it->g->body, is_identifier(name) ? name : NULL, &type);
  if (is_complex) {
    *out = of_tensor(param ? complex_unpack(&r->it->a->im, &r->it->b, param) : NULL);
    if (!out->u.tensor) return interp_no_memory(r->it);
  } else {
    KILN_TRY(interp_new_tensor(r->it, param, out));
  }
  return add_leaf(r, name, *out, r->m->n_tensors++);
}

/* ---- constants -------------------------------------------------------------------------------------------------- */

static kiln_status bad_constant(const char *name, const char *s, const char *expected) {
  return KILN_FAIL(KILN_INVALID_ARGUMENT, "argument \"%s\": \"%.80s\" is not %s", name, s, expected);
}

static kiln_status parse_constant(reader *r, const ts_type *t, const char *name, const char *s, ts_value *out) {
  char *end = NULL;
  const size_t n = strlen(s);
  errno = 0;
  if (t->kind == TST_OPTIONAL) {
    if (str_eq(s, "none") || str_eq(s, "None")) {
      *out = of_none();
      return KILN_OK;
    }
    return parse_constant(r, t->items[0], name, s, out);
  }
  switch (t->kind) {
    case TST_INT:
      *out = of_int(strtoll(s, &end, 10));
      return end == s || *end || errno || !dim_is_const(out->u.i) ? bad_constant(name, s, "an int") : KILN_OK;
    case TST_FLOAT:
      *out = of_float(strtod(s, &end));
      return end == s || *end ? bad_constant(name, s, "a float") : KILN_OK;
    case TST_BOOL:
      *out = of_bool(str_eq(s, "true") || str_eq(s, "True") || str_eq(s, "1"));
      if (!out->u.i && !str_eq(s, "false") && !str_eq(s, "False") && !str_eq(s, "0"))
        return bad_constant(name, s, "true or false");
      return KILN_OK;
    case TST_STR: {
      const bool quoted = n >= 2 && s[0] == '\'' && s[n - 1] == '\'';
      const char *copy = arena_strndup(r->it->arena, quoted ? s + 1 : s, quoted ? n - 2 : n);
      if (!copy) return KILN_NO_MEMORY("inputs");
      *out = of_string(copy);
      return KILN_OK;
    }
    case TST_DEVICE:
      *out = (ts_value){.kind = TSV_DEVICE, .u = {.s = "cpu"}};
      return KILN_OK;
    default:
      return bad_constant(name, s, "possible: only int, float, bool, str and None can be fixed");
  }
}

/* ---- all kinds -------------------------------------------------------------------------------------------------- */

static kiln_status read_value(reader *r, const ts_type *t, const char *name, const ts_value *sample, int depth,
                              ts_value *out);

static kiln_status read_scalar(reader *r, const ts_type *t, const char *name, const ts_value *sample, ts_value *out) {
  const kiln_input_spec *s = find_spec(r, name, false);
  if (s && s->constant) {
    KILN_TRY(parse_constant(r, t, name, s->constant, out));
  } else if (sample && sample->kind != TSV_TENSOR) {
    *out = *sample;
  } else if (t->kind == TST_DEVICE) {
    *out = (ts_value){.kind = TSV_DEVICE, .u = {.s = "cpu"}};
  } else {
    note_missing(r, name, t);
    *out = of_none();
  }
  return add_leaf(r, name, *out, -1);
}

static const char *child_name(reader *r, const char *name, const char *key, int index) {
  return key ? arena_printf(&r->it->g->arena, "%s.%s", name, key)
             : arena_printf(&r->it->g->arena, "%s.%d", name, index);
}

static kiln_status read_many(reader *r, const ts_type *t, const char *name, const ts_value *sample, int count,
                             int depth, ts_value *out) {
  const ts_list *samples = sample ? interp_items(sample) : NULL;
  KILN_TRY(interp_list_new(r->it, t->kind == TST_TUPLE ? TSV_TUPLE : TSV_LIST, count, NULL, out));
  if (t->kind == TST_LIST) out->type = t;
  for (int i = 0; i < count; i++) {
    const char *child = child_name(r, name, NULL, i);
    if (!child) return KILN_NO_MEMORY("inputs");
    KILN_TRY(read_value(r, t->kind == TST_TUPLE ? t->items[i] : t->items[0], child,
                        samples && i < samples->count ? &samples->items[i] : NULL, depth + 1, &out->u.list->items[i]));
  }
  return KILN_OK;
}

/* As many items as are specified ("x.0", "x.1", ...) or were traced. */
static kiln_status read_list(reader *r, const ts_type *t, const char *name, const ts_value *sample, int depth,
                             ts_value *out) {
  const ts_list *samples = sample ? interp_items(sample) : NULL;
  int count = 0;
  for (;; count++) {
    const char *child = child_name(r, name, NULL, count);
    if (!child) return KILN_NO_MEMORY("inputs");
    if (count == METHOD_MAX_LEAVES || !is_specified(r, child, false)) break;
  }
  if (count == 0 && samples) count = samples->count;
  if (count == 0) note_missing(r, name, t);
  return read_many(r, t, name, sample, count, depth, out);
}

static kiln_status read_dict(reader *r, const ts_type *t, const char *name, const ts_value *sample, int depth,
                             ts_value *out) {
  const size_t n = strlen(name);
  const ts_dict *samples = sample && sample->kind == TSV_DICT ? sample->u.dict : NULL;
  const int before = r->n_missing;
  KILN_TRY(interp_dict_new(r->it, out));
  if (t->items[0]->kind != TST_STR)
    return KILN_FAIL(KILN_UNSUPPORTED, "argument %s: only dicts with str keys can be inputs", name);
  for (size_t i = 0; i < spec_count(r); i++) {
    const char *s = specs(r)[i].name;
    if (!s || strncmp(s, name, n) != 0 || s[n] != '.') continue;
    const char *dot = strchr(s + n + 1, '.');
    const char *key = arena_strndup(&r->it->g->arena, s + n + 1, dot ? (size_t)(dot - s) - n - 1 : strlen(s + n + 1));
    const ts_value k = of_string(key);
    ts_value v;
    if (!key) return KILN_NO_MEMORY("inputs");
    if (interp_dict_find(r->it, out->u.dict, &k) >= 0) continue;
    const char *child = child_name(r, name, key, 0);
    if (!child) return KILN_NO_MEMORY("inputs");
    KILN_TRY(read_value(r, t->items[1], child, NULL, depth + 1, &v));
    KILN_TRY(interp_dict_put(r->it, out->u.dict, k, v));
  }
  const int traced = samples && out->u.dict->count == 0 ? samples->count : 0;
  for (int i = 0; i < traced; i++) {
    ts_value v;
    const char *child = child_name(r, name, samples->keys[i].kind == TSV_STR ? samples->keys[i].u.s : "?", 0);
    if (!child) return KILN_NO_MEMORY("inputs");
    KILN_TRY(read_value(r, t->items[1], child, &samples->values[i], depth + 1, &v));
    KILN_TRY(interp_dict_put(r->it, out->u.dict, samples->keys[i], v));
  }
  if (out->u.dict->count == 0 && r->n_missing == before) note_missing(r, name, t);
  return KILN_OK;
}

static kiln_status read_named_tuple(reader *r, const ts_class *c, const char *name, const ts_value *sample, int depth,
                                    ts_value *out) {
  ts_object *o = ARENA_NEW(r->it->arena, ts_object);
  ts_value *attrs = ARENA_ARRAY(r->it->arena, ts_value, c->n_attributes ? c->n_attributes : 1);
  if (!o || !attrs) return KILN_NO_MEMORY("inputs");
  *o = (ts_object){.cls = c, .attrs = attrs, .path = "", .n_attrs = c->n_attributes};
  const ts_object *like = sample && sample->kind == TSV_NAMEDTUPLE ? sample->u.object : NULL;
  for (int i = 0; i < c->n_attributes; i++) {
    const char *child = child_name(r, name, c->attributes[i].name, 0);
    if (!child) return KILN_NO_MEMORY("inputs");
    KILN_TRY(read_value(r, c->attributes[i].type, child, like ? &like->attrs[i] : NULL, depth + 1, &attrs[i]));
  }
  *out = (ts_value){.kind = TSV_NAMEDTUPLE, .u = {.object = o}};
  return KILN_OK;
}

static bool holds_tensors(const ts_type *t) {
  if (t->kind == TST_TENSOR || t->kind == TST_CLASS) return true;
  for (int i = 0; i < t->count; i++)
    if (holds_tensors(t->items[i])) return true;
  return false;
}

static kiln_status read_optional(reader *r, const ts_type *t, const char *name, const ts_value *sample, int depth,
                                 ts_value *out) {
  const bool is_tensor = holds_tensors(t);
  if (is_specified(r, name, is_tensor)) {
    const kiln_input_spec *s = find_spec(r, name, is_tensor);
    if (!s || !s->constant || (!str_eq(s->constant, "none") && !str_eq(s->constant, "None")))
      return read_value(r, t->items[0], name, sample, depth + 1, out);
  } else if (sample && sample->kind != TSV_NONE) {
    return read_value(r, t->items[0], name, sample, depth + 1, out);
  }
  *out = of_none();
  return add_leaf(r, name, *out, -1);
}

static kiln_status read_value(reader *r, const ts_type *t, const char *name, const ts_value *sample, int depth,
                              ts_value *out) {
  if (depth > TS_MAX_NESTING) return KILN_FAIL(KILN_UNSUPPORTED, "argument %.100s is nested too deep", name);
  switch (t->kind) {
    case TST_TENSOR:
      return read_tensor(r, t, name, sample, out);
    case TST_INT:
    case TST_FLOAT:
    case TST_BOOL:
    case TST_STR:
    case TST_DEVICE:
      return read_scalar(r, t, name, sample, out);
    case TST_OPTIONAL:
      return read_optional(r, t, name, sample, depth, out);
    case TST_TUPLE:
      return read_many(r, t, name, sample, t->count, depth, out);
    case TST_LIST:
      return read_list(r, t, name, sample, depth, out);
    case TST_DICT:
      return read_dict(r, t, name, sample, depth, out);
    case TST_NONE:
      *out = of_none();
      return add_leaf(r, name, *out, -1);
    case TST_CLASS:
      if (t->cls->kind == TSC_NAMEDTUPLE) return read_named_tuple(r, t->cls, name, sample, depth, out);
      break;
    default:
      break;
  }
  text text_of = {0};
  ts_type_print(t, &text_of);
  const kiln_status status = KILN_FAIL(KILN_UNSUPPORTED, "argument %s: inputs of type %.200s are not supported", name,
                                       text_of.data ? text_of.data : "?");
  text_free(&text_of);
  return status;
}

/* ---- the method's parameters ------------------------------------------------------------------------------------ */

static kiln_status read_default(reader *r, const ts_param *p, ts_value *out) {
  ts_frame frame = {.function = r->m->function, .line = r->m->function->def->line, .path = ""};
  r->it->frame = &frame;
  const kiln_status status = interp_eval(r->it, p->fallback, out);
  r->it->frame = NULL;
  map_free(&frame.names);
  return status;
}

static kiln_status read_parameter(reader *r, int at, const ts_value *sample, ts_value *out) {
  const ts_function *f = r->m->function;
  const ts_param *p = &f->def->params[at];
  const ts_type *t = f->params[at];
  const char *name = arena_strdup(&r->it->g->arena, p->name);
  if (!name) return KILN_NO_MEMORY("inputs");
  if (!p->fallback || is_specified(r, name, holds_tensors(t)) || (sample && sample->kind != TSV_NONE))
    return read_value(r, t, name, sample, 0, out);
  KILN_TRY(read_default(r, p, out));
  return add_leaf(r, name, *out, -1);
}

static kiln_status describe_missing(reader *r) {
  const ts_stmt *def = r->m->function->def;
  text example = {0}, all = {0};
  for (int i = 1; i < def->n_params; i++) {
    const ts_type *t = r->m->function->params[i];
    text_printf(&all, "%s%s: ", i > 1 ? ", " : "", def->params[i].name);
    ts_type_print(t, &all);
    if (def->params[i].fallback) continue;
    if (t->kind == TST_TENSOR)
      text_printf(&example, " --input %s=1x3x224x224:f32", def->params[i].name);
    else if (holds_tensors(t) && t->kind != TST_OPTIONAL)
      text_printf(&example, " --input %s.%s=1x3x224x224:f32", def->params[i].name, t->kind == TST_DICT ? "KEY" : "0");
    else if (t->kind != TST_OPTIONAL)
      text_printf(&example, " --constant %s=VALUE", def->params[i].name);
  }
  const kiln_status status = KILN_FAIL(KILN_INVALID_ARGUMENT,
                                       "TorchScript keeps no shapes, so they must be given for: %.600s. %s takes "
                                       "(%.600s). For example: kiln build MODEL%.400s (sizes that "
                                       "vary: --min and --max)",
                                       r->missing.data ? r->missing.data : "", r->m->name, all.data ? all.data : "",
                                       example.data ? example.data : "");
  text_free(&example);
  text_free(&all);
  return status;
}

static kiln_status check_used(reader *r) {
  for (size_t i = 0; i < spec_count(r); i++) {
    text known = {0};
    if (r->used[i]) continue;
    const ts_stmt *def = r->m->function->def;
    for (int k = 0; k < r->m->n_leaves && !r->n_missing; k++)
      text_printf(&known, k ? ", %s" : "%s", r->m->leaves[k].name);
    for (int k = 1; k < def->n_params && r->n_missing; k++)
      text_printf(&known, k > 1 ? ", %s" : "%s", def->params[k].name);
    const kiln_status status =
        KILN_FAIL(KILN_INVALID_ARGUMENT, "the model has no input \"%.100s\"; it has: %.1000s",
                  specs(r)[i].name ? specs(r)[i].name : "(by position)", known.data ? known.data : "none");
    text_free(&known);
    return status;
  }
  return KILN_OK;
}

static kiln_status read_all(reader *r) {
  method *m = r->m;
  const ts_stmt *def = m->function->def;
  ts_value traced;
  KILN_TRY(ts_archive_traced_inputs(r->it->a, m->name, &traced));
  const ts_list *samples = interp_items(&traced);
  m->n_args = def->n_params - 1;
  m->args = ARENA_ARRAY(r->it->arena, ts_value, m->n_args + 1);
  r->used = ARENA_ARRAY(r->it->arena, bool, spec_count(r) + 1);
  if (!m->args || !r->used) return KILN_NO_MEMORY("inputs");
  for (int i = 0; i < m->n_args; i++)
    KILN_TRY(read_parameter(r, i + 1, samples && i < samples->count ? &samples->items[i] : NULL, &m->args[i]));
  KILN_TRY(check_used(r));
  return r->n_missing ? describe_missing(r) : KILN_OK;
}

kiln_status method_inputs(method *m) {
  reader r = {.m = m, .it = m->it};
  const kiln_status status = read_all(&r);
  text_free(&r.missing);
  return status;
}
