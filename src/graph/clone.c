/* graph_clone: a deep copy that shares constants' bytes with the original. */
#include <string.h>

#include "base/memory.h"
#include "graph/graph.h"
#include "ops/op.h"

typedef struct cloner {
  graph *to;
  map values; /* id of the old value -> new value */
} cloner;

static value *clone_value(cloner *c, const value *v) {
  if (!v) return NULL;
  value *known = map_get_number(&c->values, v->id);
  if (known || !v->constant) return known;
  value *copy = graph_constant(c->to, &v->type, v->constant->data);
  if (!copy) return NULL;
  copy->name = v->name ? arena_strdup(&c->to->arena, v->name) : NULL;
  copy->constant->size = v->constant->size;
  copy->constant->packing = v->constant->packing;
  copy->constant->plain = v->constant->plain;
  copy->constant->plain_size = v->constant->plain_size;
  copy->constant->weight = v->constant->weight;
  copy->constant->fixed = v->constant->fixed;
  copy->constant->origin = v->constant->origin;
  copy->constant->changed = v->constant->changed;
  copy->constant->missing = v->constant->missing;
  for (const weight_name *n = v->constant->names; n; n = n->next) {
    if (!graph_name_constant(c->to, copy, n->name)) return NULL;
  }
  if (!map_put_number(&c->values, v->id, copy)) return NULL;
  return copy;
}

static kiln_status clone_block(cloner *c, const block *from, block *to);

static kiln_status clone_node(cloner *c, const node *n, block *to) {
  arena *a = &c->to->arena;
  builder b = builder_at_end(to);
  b.path = arena_strdup(a, n->path);
  b.source = arena_strdup(a, n->source);
  value **inputs = ARENA_ARRAY(a, value *, n->n_inputs + 1);
  named_attr *attrs = ARENA_ARRAY(a, named_attr, op_schema_of(n->op)->n_attrs + 1);
  if (!inputs || !attrs) return KILN_NO_MEMORY("copy of a graph");
  for (int32_t i = 0; i < n->n_inputs; i++) {
    inputs[i] = clone_value(c, n->inputs[i].v);
    if (n->inputs[i].v && !inputs[i])
      return graph_check(c->to) != KILN_OK ? graph_check(c->to) : KILN_NO_MEMORY("copy of a graph");
  }
  for (int32_t i = 0; i < op_schema_of(n->op)->n_attrs; i++)
    attrs[i] = (named_attr){op_schema_of(n->op)->attrs[i].name, n->attrs[i]};
  node *copy = node_create(&b, n->op, n->own_inputs, inputs, op_schema_of(n->op)->n_attrs, attrs, n->n_outputs);
  if (!copy) return graph_check(c->to) != KILN_OK ? graph_check(c->to) : KILN_NO_MEMORY("copy of a graph");
  copy->tactic = n->tactic ? arena_strdup(a, n->tactic) : NULL;
  copy->more_tactics = n->n_more_tactics ? ARENA_ARRAY(a, const char *, n->n_more_tactics) : NULL;
  for (int32_t i = 0; copy->more_tactics && i < n->n_more_tactics; i++)
    copy->more_tactics[copy->n_more_tactics++] = arena_strdup(a, n->more_tactics[i]);
  copy->timing = n->timing ? arena_strdup(a, n->timing) : NULL;
  for (int32_t i = 0; i < n->n_outputs; i++) {
    copy->outputs[i]->type = n->outputs[i]->type;
    copy->outputs[i]->name = n->outputs[i]->name ? arena_strdup(a, n->outputs[i]->name) : NULL;
    if (!map_put_number(&c->values, n->outputs[i]->id, copy->outputs[i])) return KILN_NO_MEMORY("copy of a graph");
  }
  if (n->n_blocks) {
    copy->blocks = ARENA_ARRAY(a, block *, n->n_blocks);
    if (!copy->blocks) return KILN_NO_MEMORY("copy of a graph");
    for (int32_t i = 0; i < n->n_blocks; i++) {
      copy->blocks[i] = graph_new_block(c->to, copy);
      if (!copy->blocks[i]) return graph_check(c->to);
      copy->n_blocks++;
      KILN_TRY(clone_block(c, n->blocks[i], copy->blocks[i]));
    }
  }
  if (n->epilogue) {
    block *e = graph_new_block(c->to, copy);
    if (!e) return graph_check(c->to);
    KILN_TRY(clone_block(c, n->epilogue, e));
    node_set_epilogue(copy, e, n->n_inputs - n->own_inputs, inputs + n->own_inputs);
  }
  return graph_check(c->to);
}

static kiln_status clone_block(cloner *c, const block *from, block *to) {
  for (int32_t i = 0; i < from->n_params; i++) {
    const value *p = from->params[i];
    value *copy = graph_add_param(to, p->name, &p->type);
    if (!copy || !map_put_number(&c->values, p->id, copy)) return KILN_NO_MEMORY("copy of a graph");
  }
  for (const node *n = from->first; n; n = n->next) KILN_TRY(clone_node(c, n, to));
  value **results = ARENA_ARRAY(&c->to->arena, value *, from->n_results + 1);
  if (!results) return KILN_NO_MEMORY("copy of a graph");
  for (int32_t i = 0; i < from->n_results; i++) results[i] = clone_value(c, from->results[i].v);
  block_set_results(to, from->n_results, results);
  return graph_check(c->to);
}

static kiln_status clone_frame(cloner *c, const graph *g) {
  graph *to = c->to;
  KILN_TRY(dim_table_clone(g->dims, &to->arena, &to->dims));
  to->next_id = g->next_id;
  KILN_TRY(clone_block(c, &g->body, &to->body));
  to->n_inputs = g->n_inputs;
  to->n_outputs = g->n_outputs;
  to->input_names = ARENA_ARRAY(&to->arena, const char *, g->n_inputs + 1);
  to->output_names = ARENA_ARRAY(&to->arena, const char *, g->n_outputs + 1);
  to->states = ARENA_ARRAY(&to->arena, graph_state, g->n_states + 1);
  if (!to->input_names || !to->output_names || !to->states) return KILN_NO_MEMORY("copy of a graph");
  for (int32_t i = 0; i < g->n_inputs; i++) to->input_names[i] = arena_strdup(&to->arena, g->input_names[i]);
  for (int32_t i = 0; i < g->n_outputs; i++) to->output_names[i] = arena_strdup(&to->arena, g->output_names[i]);
  for (int32_t i = 0; i < g->n_states; i++) {
    to->states[i] = g->states[i];
    to->states[i].name = arena_strdup(&to->arena, g->states[i].name);
    to->states[i].initial = clone_value(c, g->states[i].initial);
  }
  to->n_states = g->n_states;
  for (const constant *k = g->constants; k; k = k->next) { /* weights without a use keep their names */
    if (k->names && !clone_value(c, k->of)) return KILN_NO_MEMORY("copy of a graph");
  }
  for (int32_t i = 0; i < g->n_metadata; i++)
    KILN_TRY(graph_set_metadata(to, g->metadata[i].name, g->metadata[i].value.u.s));
  return graph_check(to);
}

kiln_status graph_clone(const graph *g, graph **out_graph) {
  cloner c = {0};
  KILN_TRY(graph_create(&c.to));
  const kiln_status status = clone_frame(&c, g);
  map_free(&c.values);
  if (status != KILN_OK) {
    graph_destroy(c.to);
    return status;
  }
  *out_graph = c.to;
  return KILN_OK;
}

kiln_status block_clone(const block *from, block *to) {
  cloner c = {.to = to->graph};
  const kiln_status status = clone_block(&c, from, to);
  map_free(&c.values);
  return status;
}
