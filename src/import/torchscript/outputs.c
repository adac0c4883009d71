/* What the method returned, flattened: outputs of the graph, its states, and the metadata that tells callers how all of
 * it nests. */
#include <math.h>
#include <string.h>

#include "format/json.h"
#include "graph/complex_io.h"
#include "import/complex.h"
#include "import/torchscript/method.h"

typedef struct writer {
  method *m;
  interp *it;
  value **results;
  const char **names;
  int n, capacity;
  text outputs, spec;
  int leaves;
} writer;

static void write_string(text *t, const char *s) {
  text_putc(t, '"');
  for (; *s; s++) {
    const unsigned char c = (unsigned char)*s;
    if (c == '"' || c == '\\')
      text_printf(t, "\\%c", c);
    else if (c < 32)
      text_printf(t, "\\u%04x", c);
    else
      text_putc(t, (char)c);
  }
  text_putc(t, '"');
}

/* A number, text or None that is fixed; Python's json reads NaN and Infinity. */
static void write_constant(text *t, const ts_value *v) {
  switch (v->kind) {
    case TSV_INT:
      text_printf(t, "%lld", (long long)v->u.i);
      break;
    case TSV_BOOL:
      text_puts(t, v->u.i ? "true" : "false");
      break;
    case TSV_FLOAT:
      if (isnan(v->u.f) || isinf(v->u.f))
        text_puts(t, isnan(v->u.f) ? "NaN" : v->u.f > 0 ? "Infinity" : "-Infinity");
      else
        text_printf(t, "%.17g%s", v->u.f, v->u.f == floor(v->u.f) && fabs(v->u.f) < 1e15 ? ".0" : "");
      break;
    case TSV_STR:
    case TSV_DEVICE:
      write_string(t, v->u.s);
      break;
    default:
      text_puts(t, "null");
  }
}

static const char leaf_spec[] = "{\"type\": null, \"context\": null, \"children_spec\": []}";

/* ---- results ---------------------------------------------------------------------------------------------------- */

static kiln_status add_result(writer *w, value *v, const char *name) {
  if (!v || !name) return interp_no_memory(w->it);
  if (w->n == w->capacity) {
    const int capacity = w->capacity ? 2 * w->capacity : 16;
    value **results = ARENA_ARRAY(w->it->arena, value *, capacity);
    const char **names = ARENA_ARRAY(&w->it->g->arena, const char *, capacity);
    if (!results || !names) return interp_no_memory(w->it);
    if (w->n) {
      memcpy(results, w->results, (size_t)w->n * sizeof(value *));
      memcpy(names, w->names, (size_t)w->n * sizeof(char *));
    }
    w->results = results;
    w->names = names;
    w->capacity = capacity;
  }
  w->results[w->n] = v;
  w->names[w->n++] = name;
  return KILN_OK;
}

static kiln_status output_leaf(writer *w, const ts_value *v, const char *name) {
  interp *it = w->it;
  value *x = NULL;
  if (w->leaves++) text_puts(&w->outputs, ", ");
  text_puts(&w->spec, leaf_spec);
  if (!*name) name = "output";
  if (v->kind == TSV_TENSOR) {
    bool is_complex;
    x = complex_value_of(&it->b, v->u.tensor, &is_complex);
    if (is_complex) KILN_TRY(graph_mark_complex(it->g, 'o', w->n));
    text_printf(&w->outputs, "{\"tensor\": %d}", w->n);
    return add_result(w, x, name);
  }
  if (v->kind == TSV_DATA || (v->kind == TSV_INT && !dim_is_const(v->u.i))) {
    const ts_type_kind type = interp_number_type(v);
    KILN_TRY(interp_number_tensor(it, v, &x));
    text_printf(&w->outputs, "{\"%s\": %d}", type == TST_INT ? "int" : type == TST_BOOL ? "bool" : "float", w->n);
    return add_result(w, x, name);
  }
  if (v->kind == TSV_RUN)
    return KILN_FAIL(KILN_UNSUPPORTED,
                     "output %s is a list that grows in a loop whose length is known at run time only: return "
                     "torch.stack of it",
                     name);
  if (v->kind == TSV_QTENSOR)
    return KILN_FAIL(KILN_UNSUPPORTED, "output %s is a quantized tensor: call dequantize() in the model", name);
  if (v->kind == TSV_OBJECT || v->kind == TSV_FUNCTION || v->kind == TSV_METHOD || v->kind == TSV_UNINITIALIZED)
    return KILN_FAIL(KILN_UNSUPPORTED, "output %s is %s, which an engine cannot return", name, interp_kind_name(v));
  const ts_value fixed = v->kind == TSV_ENUM ? v->u.object->attrs[1] : *v;
  text_puts(&w->outputs, "{\"value\": ");
  write_constant(&w->outputs, &fixed);
  text_putc(&w->outputs, '}');
  return KILN_OK;
}

static kiln_status output(writer *w, const ts_value *v, const char *name, int depth);

static const char *item_name(writer *w, const char *prefix, const char *key, int index) {
  arena *a = &w->it->g->arena;
  if (key) return *prefix ? arena_printf(a, "%s.%s", prefix, key) : arena_strdup(a, key);
  return *prefix ? arena_printf(a, "%s.%d", prefix, index) : arena_printf(a, "output%d", index);
}

static kiln_status output_items(writer *w, const ts_value *items, int n, const char *name, int depth) {
  text_puts(&w->spec, "\"children_spec\": [");
  for (int i = 0; i < n; i++) {
    const char *child = item_name(w, name, NULL, i);
    if (!child) return interp_no_memory(w->it);
    if (i) text_puts(&w->spec, ", ");
    KILN_TRY(output(w, &items[i], child, depth + 1));
  }
  text_puts(&w->spec, "]}");
  return KILN_OK;
}

static kiln_status output_dict(writer *w, const ts_dict *d, const char *name, int depth) {
  text keys = {0};
  text_putc(&keys, '[');
  for (int i = 0; i < d->count; i++) {
    if (i) text_puts(&keys, ", ");
    if (d->keys[i].kind == TSV_TENSOR) {
      text_free(&keys);
      return KILN_FAIL(KILN_UNSUPPORTED, "output %s is a dict whose keys are tensors", *name ? name : "of the method");
    }
    write_constant(&keys, &d->keys[i]);
  }
  text_putc(&keys, ']');
  text_puts(&w->spec, "{\"type\": \"builtins.dict\", \"context\": ");
  write_string(&w->spec, keys.data ? keys.data : "[]");
  w->spec.failed |= keys.failed;
  text_free(&keys);
  text_puts(&w->spec, ", \"children_spec\": [");
  for (int i = 0; i < d->count; i++) {
    text t = {0};
    interp_print(w->it, &d->keys[i], false, 0, &t);
    const char *child = t.data ? item_name(w, name, t.data, 0) : NULL;
    text_free(&t);
    if (!child) return interp_no_memory(w->it);
    if (i) text_puts(&w->spec, ", ");
    KILN_TRY(output(w, &d->values[i], child, depth + 1));
  }
  text_puts(&w->spec, "]}");
  return KILN_OK;
}

/* Named tuples come out as tuples: their Python class is not known to the file's reader. */
static kiln_status output(writer *w, const ts_value *v, const char *name, int depth) {
  const ts_list *l = interp_items(v);
  if (depth > TS_MAX_NESTING) return KILN_FAIL(KILN_UNSUPPORTED, "outputs are nested too deep");
  if (v->kind == TSV_DICT) return output_dict(w, v->u.dict, name, depth);
  if (!l && v->kind != TSV_NAMEDTUPLE) return output_leaf(w, v, name);
  text_printf(&w->spec, "{\"type\": \"builtins.%s\", \"context\": \"null\", ", v->kind == TSV_LIST ? "list" : "tuple");
  if (l) return output_items(w, l->items, l->count, name, depth);
  return output_items(w, v->u.object->attrs, v->u.object->n_attrs, name, depth);
}

/* ---- metadata --------------------------------------------------------------------------------------------------- */

static kiln_status set_text(writer *w, const char *key, text *t) {
  const kiln_status status =
      t->failed ? KILN_NO_MEMORY("import") : graph_set_metadata(w->it->g, key, t->data ? t->data : "");
  text_free(t);
  return status;
}

/* The treespec of one argument. */
static void input_spec(const ts_value *v, text *t) {
  const ts_list *l = interp_items(v);
  if (v->kind == TSV_DICT) {
    text keys = {0};
    text_putc(&keys, '[');
    for (int i = 0; i < v->u.dict->count; i++) {
      if (i) text_puts(&keys, ", ");
      write_constant(&keys, &v->u.dict->keys[i]);
    }
    text_putc(&keys, ']');
    text_puts(t, "{\"type\": \"builtins.dict\", \"context\": ");
    write_string(t, keys.data ? keys.data : "[]");
    t->failed |= keys.failed;
    text_free(&keys);
  } else if (l || v->kind == TSV_NAMEDTUPLE) {
    text_printf(t, "{\"type\": \"builtins.%s\", \"context\": \"null\"", v->kind == TSV_LIST ? "list" : "tuple");
  } else {
    text_puts(t, leaf_spec);
    return;
  }
  const ts_value *items = l ? l->items : v->kind == TSV_DICT ? v->u.dict->values : v->u.object->attrs;
  const int n = l ? l->count : v->kind == TSV_DICT ? v->u.dict->count : v->u.object->n_attrs;
  text_puts(t, ", \"children_spec\": [");
  for (int i = 0; i < n; i++) {
    if (i) text_puts(t, ", ");
    input_spec(&items[i], t);
  }
  text_puts(t, "]}");
}

static kiln_status inputs_metadata(writer *w) {
  const method *m = w->m;
  text t = {0}, names = {0}, spec = {0};
  text_putc(&t, '[');
  for (int i = 0; i < m->n_leaves; i++) {
    const method_leaf *leaf = &m->leaves[i];
    text_puts(&t, i ? ", {\"name\": " : "{\"name\": ");
    write_string(&t, leaf->name);
    if (leaf->tensor >= 0) {
      text_printf(&t, ", \"tensor\": %d}", leaf->tensor);
    } else {
      text_puts(&t, ", \"value\": ");
      write_constant(&t, &leaf->v);
      text_putc(&t, '}');
    }
  }
  text_putc(&t, ']');
  text_putc(&names, '[');
  text_puts(&spec,
            "[1, {\"type\": \"builtins.tuple\", \"context\": \"null\", \"children_spec\": [{\"type\": "
            "\"builtins.tuple\", \"context\": "
            "\"null\", \"children_spec\": [");
  for (int i = 0; i < m->n_args; i++) {
    if (i) text_puts(&names, ", ");
    if (i) text_puts(&spec, ", ");
    write_string(&names, m->function->def->params[i + 1].name);
    input_spec(&m->args[i], &spec);
  }
  text_putc(&names, ']');
  text_puts(&spec, "]}, {\"type\": \"builtins.dict\", \"context\": \"[]\", \"children_spec\": []}]}]");
  kiln_status status = set_text(w, "torch.inputs", &t);
  if (status == KILN_OK) status = set_text(w, "torch.arg_names", &names);
  if (status == KILN_OK) status = set_text(w, "torch.in_spec", &spec);
  text_free(&names);
  text_free(&spec);
  return status;
}

/* Inputs that the method wrote to: their new contents are outputs too. */
static kiln_status mutated_inputs(writer *w) {
  text t = {0};
  kiln_status status = KILN_OK;
  for (int i = 0; i < w->m->n_leaves && status == KILN_OK; i++) {
    const method_leaf *leaf = &w->m->leaves[i];
    bool is_complex;
    if (leaf->tensor < 0 || complex_version(leaf->v.u.tensor) == 0) continue;
    text_printf(&t, "%s{\"input\": %d, \"output\": %d}", t.length ? ", " : "[", leaf->tensor, w->n);
    value *v = complex_value_of(&w->it->b, leaf->v.u.tensor, &is_complex);
    if (is_complex) KILN_TRY(graph_mark_complex(w->it->g, 'o', w->n));
    status = add_result(w, v, arena_printf(&w->it->g->arena, "new_%s", leaf->name));
  }
  if (t.length) text_putc(&t, ']');
  if (status == KILN_OK && t.length) status = set_text(w, "torch.mutated_inputs", &t);
  text_free(&t);
  return status;
}

/* ---- all -------------------------------------------------------------------------------------------------------- */

static kiln_status input_names(writer *w) {
  graph *g = w->it->g;
  const method *m = w->m;
  g->n_inputs = m->n_tensors;
  g->input_names = ARENA_ARRAY(&g->arena, const char *, m->n_tensors + 1);
  if (!g->input_names) return interp_no_memory(w->it);
  for (int i = 0; i < m->n_leaves; i++)
    if (m->leaves[i].tensor >= 0) g->input_names[m->leaves[i].tensor] = m->leaves[i].name;
  return KILN_OK;
}

static kiln_status set_states(writer *w) {
  graph *g = w->it->g;
  const method *m = w->m;
  g->n_outputs = w->n;
  g->output_names = w->names;
  g->states = ARENA_ARRAY(&g->arena, graph_state, m->n_states + 1);
  if (!g->states) return interp_no_memory(w->it);
  for (int i = 0; i < m->n_states; i++) {
    const method_state *s = &m->states[i];
    g->states[i] = (graph_state){.name = s->name, .param = m->n_tensors + i, .result = w->n, .initial = s->initial};
    KILN_TRY(add_result(w, s->last, ""));
  }
  g->n_states = m->n_states;
  block_set_results(&g->body, w->n, w->results);
  return graph_check(g);
}

static kiln_status write_all(writer *w) {
  text_putc(&w->outputs, '[');
  text_puts(&w->spec, "[1, ");
  KILN_TRY(output(w, &w->m->result, "", 0));
  text_putc(&w->outputs, ']');
  text_putc(&w->spec, ']');
  KILN_TRY(set_text(w, "torch.outputs", &w->outputs));
  KILN_TRY(set_text(w, "torch.out_spec", &w->spec));
  KILN_TRY(inputs_metadata(w));
  KILN_TRY(mutated_inputs(w));
  KILN_TRY(input_names(w));
  if (w->it->notes.length) KILN_TRY(graph_set_metadata(w->it->g, "kiln.import_notes", w->it->notes.data));
  return set_states(w);
}

kiln_status method_finish(method *m) {
  writer w = {.m = m, .it = m->it};
  const kiln_status status = write_all(&w);
  text_free(&w.outputs);
  text_free(&w.spec);
  return status;
}
