/* Common subexpressions: nodes that apply the same operator to the same values with the same attributes become one, and
 * so do constants with the same bytes. */
#include <string.h>

#include "base/map.h"
#include "base/memory.h"
#include "passes/origin.h"
#include "passes/pass.h"

uint64_t attr_hash(const attr *a, uint64_t seed) {
  seed = hash_bytes(&a->kind, sizeof a->kind, seed);
  switch (a->kind) {
    case ATTR_NONE:
      return seed;
    case ATTR_STR:
      return hash_bytes(a->u.s, strlen(a->u.s), seed);
    case ATTR_INTS:
      return hash_bytes(a->u.ints, (size_t)a->count * sizeof(int64_t), seed);
    case ATTR_FLOATS:
      return hash_bytes(a->u.floats, (size_t)a->count * sizeof(double), seed);
    default:
      return hash_bytes(&a->u, sizeof a->u, seed);
  }
}

static uint64_t node_hash(const node *n) {
  uint64_t h = hash_bytes(&n->op, sizeof n->op, 0);
  for (int32_t i = 0; i < n->n_inputs; i++) h = hash_bytes(&n->inputs[i].v, sizeof n->inputs[i].v, h);
  for (int32_t i = 0; i < op_schema_of(n->op)->n_attrs; i++) h = attr_hash(&n->attrs[i], h);
  return h;
}

static bool node_same(const node *a, const node *b) {
  if (a->op != b->op || a->n_inputs != b->n_inputs) return false;
  for (int32_t i = 0; i < a->n_inputs; i++) {
    if (a->inputs[i].v != b->inputs[i].v) return false;
  }
  for (int32_t i = 0; i < op_schema_of(a->op)->n_attrs; i++) {
    if (!attr_equal(&a->attrs[i], &b->attrs[i])) return false;
  }
  return true;
}

static bool is_plain(const node *n) {
  return !(n->op->flags & (OP_CONTROL_FLOW | OP_RANDOM | OP_DATA_DEPENDENT)) && !n->n_blocks && !n->epilogue;
}

/* What the blocks around have computed before is visible too. */
typedef struct scope {
  map seen;
  const struct scope *outer;
} scope;

static node *find_same(const scope *s, uint64_t h, const node *n) {
  for (; s; s = s->outer) {
    node *earlier = map_get_number(&s->seen, h);
    if (earlier && node_same(earlier, n)) return earlier;
  }
  return NULL;
}

static kiln_status cse_nodes(block *b, const scope *outer) {
  scope here = {.outer = outer};
  kiln_status status = KILN_OK;
  for (node *n = b->first; n && status == KILN_OK;) {
    node *next = n->next;
    for (int32_t i = 0; i < n->n_blocks && (n->op->flags & OP_CONTROL_FLOW) && status == KILN_OK; i++)
      status = cse_nodes(n->blocks[i], &here);
    if (status == KILN_OK && is_plain(n)) {
      const uint64_t h = node_hash(n);
      const node *earlier = find_same(&here, h, n);
      if (earlier) {
        for (int32_t i = 0; i < n->n_outputs; i++) value_replace_uses(n->outputs[i], earlier->outputs[i]);
        node_remove(n);
      } else if (!map_get_number(&here.seen, h) && !map_put_number(&here.seen, h, n)) {
        status = KILN_NO_MEMORY("common subexpressions");
      }
    }
    n = next;
  }
  map_free(&here.seen);
  return status;
}

enum {
  SMALL_CONSTANT = 1 << 16
}; /* comparing larger ones costs more than it saves; tied weights share one value already */

static kiln_status cse_constants(map *seen, block *b) {
  for (node *n = b->first; n; n = n->next) {
    for (int32_t i = 0; i < n->n_inputs; i++) {
      value *v = n->inputs[i].v;
      if (!v || !v->constant || v->constant->packing || v->constant->size > SMALL_CONSTANT) continue;
      if (constant_is_missing(v->constant)) continue;
      uint64_t h = hash_bytes(v->constant->data, v->constant->size, (uint64_t)v->type.dtype + 1);
      h = hash_bytes(v->type.dims, (size_t)v->type.rank * sizeof(dim), h + (uint64_t)v->type.rank);
      value *earlier = map_get_number(seen, h);
      if (!earlier) {
        if (!map_put_number(seen, h, v)) return KILN_NO_MEMORY("common subexpressions");
      } else if (earlier != v && type_equal(&earlier->type, &v->type) &&
                 memcmp(earlier->constant->data, v->constant->data, v->constant->size) == 0) {
        node_set_input(n, i, earlier);
      }
    }
    for (int32_t i = 0; i < n->n_blocks; i++) KILN_TRY(cse_constants(seen, n->blocks[i]));
  }
  return KILN_OK;
}

kiln_status pass_cse(graph *g) {
  map seen = {0};
  const kiln_status status = cse_constants(&seen, &g->body);
  map_free(&seen);
  KILN_TRY(status);
  return cse_nodes(&g->body, NULL);
}
