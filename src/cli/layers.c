/* Engines that give every intermediate value. The one part of the program that looks inside the library: it makes the
 * portable graph, adds outputs to it, and plans it like any other. */
#include "cli/layers.h"

#include <stdio.h>

#include "base/memory.h"
#include "engine/engine.h"

/* Values worth comparing: floating-point results in the graph's own block that are not outputs already. */
static bool is_layer(const value *v) { return dtype_is_float(v->type.dtype) && !value_is_result(v); }

static int32_t count_layers(const graph *g) {
  int32_t count = 0;
  for (const node *n = g->body.first; n; n = n->next) {
    for (int32_t i = 0; i < n->n_outputs; i++) count += is_layer(n->outputs[i]);
  }
  return count;
}

static const char *layer_name(graph *g, const node *n, int32_t number) {
  char name[128];
  snprintf(name, sizeof name, "%d.%.24s%s%.80s", (int)number, n->op->name, n->path && *n->path ? "@" : "",
           n->path ? n->path : "");
  return arena_strdup(&g->arena, name);
}

/* Results stay in order: outputs, the new ones, then the states' new values. */
static kiln_status add_layers(graph *g) {
  const int32_t added = count_layers(g), outputs = g->n_outputs, states = g->body.n_results - outputs;
  value **results = ARENA_ARRAY(&g->arena, value *, outputs + added + states + 1);
  const char **names = ARENA_ARRAY(&g->arena, const char *, outputs + added + 1);
  if (!results || !names) return KILN_NO_MEMORY("the list of layers");
  int32_t at = 0;
  for (; at < outputs; at++) {
    results[at] = g->body.results[at].v;
    names[at] = g->output_names[at];
  }
  for (const node *n = g->body.first; n; n = n->next) {
    for (int32_t i = 0; i < n->n_outputs; i++) {
      if (!is_layer(n->outputs[i])) continue;
      results[at] = n->outputs[i];
      names[at] = layer_name(g, n, at - outputs);
      if (!names[at]) return KILN_NO_MEMORY("the name of a layer");
      at++;
    }
  }
  for (int32_t i = 0; i < states; i++) results[at + i] = g->body.results[outputs + i].v;
  for (int32_t i = 0; i < g->n_states; i++) g->states[i].result += added;
  block_set_results(&g->body, at + states, results);
  g->output_names = names;
  g->n_outputs = at;
  return graph_check(g);
}

kiln_status layers_build(const char *path, const kiln_build_options *options, kiln_engine **out_engine) {
  file_map file;
  graph *g = NULL;
  KILN_TRY(file_map_open(path, &file));
  kiln_status status = model_import(file.data, file.size, path, options, &g);
  if (status == KILN_OK) status = add_layers(g);
  target t;
  if (status == KILN_OK) status = target_parse(options->target, &t);
  const kiln_build_options untuned = KILN_BUILD_OPTIONS_INIT; /* layers are compared, not timed */
  if (status == KILN_OK) status = engine_from_graph(g, &t, &untuned, out_engine);
  graph_destroy(g);
  file_map_close(&file);
  return status;
}
