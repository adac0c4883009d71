/* What a model needs and Kiln lacks, all at once. Operators without a row are found before anything is built. Calls
 * that a row refuses are found on the way: their results become stand-ins of the type that the file gives, so that the
 * rest of the model is looked at too; the import then ends with the whole list. */
#include <string.h>

#include "import/export_internal.h"

enum { MAX_NAME = 200, MAX_LISTED = 60 };

typedef struct lacking {
  const char *what; /* an operator, or the reason why a call was refused */
  int count;
  bool is_operator;
  const char *path, *source; /* of the first */
} lacking;

struct survey {
  lacking list[MAX_LISTED];
  int n, more; /* more: distinct ones that found no room */
  bool calls;  /* some are refused calls */
  bool collected;
  map seen, used; /* used: names that some node or the end of the graph takes, once `collected` */
};

kiln_status pt2_survey_create(pt2 *p) {
  p->survey = ARENA_NEW(&p->arena, survey);
  return p->survey ? KILN_OK : KILN_NO_MEMORY("import");
}

void pt2_survey_free(pt2 *p) {
  if (!p->survey) return;
  map_free(&p->survey->seen);
  map_free(&p->survey->used);
}

static kiln_status add(survey *u, lacking found) {
  lacking *known = map_get(&u->seen, found.what);
  if (known) {
    known->count++;
    return KILN_OK;
  }
  if (u->n == MAX_LISTED) {
    u->more++;
    return KILN_OK;
  }
  u->list[u->n] = found;
  u->calls |= !found.is_operator;
  return map_put(&u->seen, found.what, &u->list[u->n++]) ? KILN_OK : KILN_NO_MEMORY("import");
}

/* ---- numbers drawn for nothing ------------------------------------------------------------------ */

/* Layers that may be left out in training draw a number first, which nothing takes in inference. */
static bool is_drawn(const char *target) {
  static const char *const names[] = {"rand",    "rand_like",    "randn",    "randn_like",
                                      "randint", "randint_like", "bernoulli"};
  if (!str_starts(target, "torch.ops.aten.")) return false;
  target += strlen("torch.ops.aten.");
  const size_t n = strcspn(target, ".");
  for (size_t i = 0; i < KILN_COUNT(names); i++)
    if (strlen(names[i]) == n && strncmp(target, names[i], n) == 0) return true;
  return false;
}

/* All strings under "name" and "as_name" in `v`. */
static kiln_status collect_names(survey *u, json_t *v, int depth) {
  const char *key;
  json_t *item;
  size_t i;
  if (depth > 8 * PT2_MAX_SUBGRAPHS) return KILN_FAIL(KILN_INVALID_FILE, "model.json: nested too deep");
  json_object_foreach(v, key, item) {
    const char *name = str_eq(key, "name") || str_eq(key, "as_name") ? json_string_value(item) : NULL;
    if (name && !map_put(&u->used, name, u)) return KILN_NO_MEMORY("import");
    KILN_TRY(collect_names(u, item, depth + 1));
  }
  json_array_foreach(v, i, item) KILN_TRY(collect_names(u, item, depth + 1));
  return KILN_OK;
}

static kiln_status collect_used(survey *u, const json_t *g) {
  const json_t *nodes;
  if (u->collected) return KILN_OK;
  KILN_TRY(pt2_array(g, "nodes", "graph", &nodes));
  for (size_t i = 0; i < json_array_size(nodes); i++)
    KILN_TRY(collect_names(u, json_object_get(json_array_get(nodes, i), "inputs"), 0));
  KILN_TRY(collect_names(u, json_object_get(g, "outputs"), 0));
  u->collected = true;
  return KILN_OK;
}

/* Only in the outermost graph, whose names are all that is collected. */
static kiln_status drawn_for_nothing(pt2 *p, const json_t *g, const json_t *entry, int depth, bool *out) {
  survey *u = p->survey;
  *out = false;
  if (depth > 0) return KILN_OK;
  KILN_TRY(collect_used(u, g));
  const json_t *outputs = json_object_get(entry, "outputs");
  for (size_t i = 0; i < json_array_size(outputs); i++) {
    const char *name =
        json_string_value(json_object_get(json_object_get(json_array_get(outputs, i), "as_tensor"), "name"));
    if (!name || map_get(&u->used, name)) return KILN_OK;
  }
  *out = true;
  return KILN_OK;
}

static kiln_status look(pt2 *p, const json_t *g, int depth) {
  const json_t *nodes;
  if (depth > PT2_MAX_SUBGRAPHS)
    return KILN_FAIL(KILN_INVALID_FILE, "model.json: subgraphs are nested more than %d deep", PT2_MAX_SUBGRAPHS);
  KILN_TRY(pt2_array(g, "nodes", "graph", &nodes));
  for (size_t i = 0; i < json_array_size(nodes); i++) {
    const json_t *entry = json_array_get(nodes, i), *inputs;
    lacking l = {.count = 1, .is_operator = true};
    KILN_TRY(pt2_string(entry, "target", "node", &l.what));
    bool idle = false;
    if (is_drawn(l.what)) KILN_TRY(drawn_for_nothing(p, g, entry, depth, &idle));
    if (!idle && !pt2_is_supported(l.what)) {
      KILN_TRY(aten_init()); /* no row, or no table? */
      pt2_place(p, entry, &l.path, &l.source);
      KILN_TRY(add(p->survey, l));
    }
    KILN_TRY(pt2_array(entry, "inputs", "node", &inputs));
    for (size_t k = 0; k < json_array_size(inputs); k++) {
      const json_t *sub = json_object_get(json_object_get(json_array_get(inputs, k), "arg"), "as_graph");
      if (sub) KILN_TRY(look(p, json_object_get(sub, "graph"), depth + 1));
    }
  }
  return KILN_OK;
}

kiln_status pt2_survey_operators(pt2 *p, const json_t *g) { return look(p, g, 0); }

kiln_status pt2_survey_report(pt2 *p) {
  const survey *u = p->survey;
  text t = {0};
  if (u->n == 0) return KILN_OK;
  for (int i = 0; i < u->n; i++) {
    const lacking *l = &u->list[i];
    const char *name = str_starts(l->what, "torch.ops.") ? l->what + 10 : l->what;
    text_printf(&t, "\n  %.*s, ", l->is_operator ? MAX_NAME : 600, name);
    text_printf(&t, l->is_operator ? "used %d time%s" : "%d time%s", l->count, l->count == 1 ? "" : "s");
    if (*l->path || *l->source)
      text_printf(&t, ", first in %s%s%s", *l->path ? l->path : "the model", *l->source ? " at " : "", l->source);
  }
  if (u->more) text_printf(&t, "\n  and %d more", u->more);
  const int n = u->n + u->more;
  const char *noun = u->calls ? "use" : "operator";
  const kiln_status status =
      t.failed ? KILN_NO_MEMORY("import")
               : KILN_FAIL(KILN_UNSUPPORTED, "%d %s%s of %s %s not supported:%s", n, noun, n == 1 ? "" : "s",
                           u->calls ? "operators in this model" : "this model", n == 1 ? "is" : "are", t.data);
  text_free(&t);
  return status;
}

/* ---- stand-ins ----------------------------------------------------------------------------- */

static kiln_status stand_in_tensor(pt2 *p, scope *s, const json_t *named) {
  const char *name;
  tensor_type type;
  KILN_TRY(pt2_string(named, "name", "output", &name));
  const json_t *meta = json_object_get(json_object_get(s->graph, "tensor_values"), name);
  if (!meta || pt2_lookup(s, name)) return KILN_INVALID_FILE;
  KILN_TRY(pt2_tensor_type(p, meta, name, true, &type));
  block *nowhere = graph_new_block(p->graph, NULL);
  value *v = nowhere ? graph_add_param(nowhere, NULL, &type) : NULL;
  ivalue t = {.kind = IV_TENSOR};
  t.u.t = v ? lower_tensor(&p->im, v) : NULL;
  return t.u.t ? pt2_define(p, s, name, t) : KILN_OUT_OF_MEMORY;
}

static kiln_status stand_in(pt2 *p, scope *s, const json_t *output) {
  const char *kind;
  const json_t *v;
  KILN_TRY(pt2_union(output, "output", &kind, &v));
  if (str_eq(kind, "as_none")) return KILN_OK;
  if (str_eq(kind, "as_tensor")) return stand_in_tensor(p, s, v);
  if (str_eq(kind, "as_tensors")) {
    for (size_t i = 0; i < json_array_size(v); i++) KILN_TRY(stand_in_tensor(p, s, json_array_get(v, i)));
    return KILN_OK;
  }
  const char *name = json_string_value(json_object_get(v, "as_name"));
  const json_t *size = name ? json_object_get(json_object_get(s->graph, "sym_int_values"), name) : NULL;
  ivalue i = {.kind = IV_INT};
  if (!size || pt2_lookup(s, name)) return KILN_UNSUPPORTED;
  KILN_TRY(pt2_size(p, size, true, &i.u.i));
  return pt2_define(p, s, name, i);
}

bool pt2_skip_node(pt2 *p, scope *s, const json_t *entry, const char *target) {
  graph *g = p->graph;
  if (g->arena.failed || p->arena.failed) return false;
  if (pt2_is_supported(target)) { /* else it is on the list */
    const char *reason = error_text(), *end = strchr(reason, '\n');
    lacking l = {arena_strndup(&p->arena, reason, end ? (size_t)(end - reason) : strlen(reason)), 1, false, p->b.path,
                 p->b.source};
    if (!l.what || add(p->survey, l) != KILN_OK) return false;
  }
  g->failed = false; /* what failed was not built */
  g->failure = KILN_OK;
  const json_t *outputs = json_object_get(entry, "outputs");
  for (size_t i = 0; i < json_array_size(outputs); i++)
    if (stand_in(p, s, json_array_get(outputs, i)) != KILN_OK) return false;
  return true;
}
