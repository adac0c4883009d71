/* Origins of constants: of large weights their names, of others their bytes (weights that are equal are merged, and which of them stays
 * is no matter then), of folded nodes operator, attributes and operands. */
#include "passes/origin.h"

#include <string.h>

#include "base/map.h"
#include "ops/op.h"
#include "passes/pass.h"

enum { SMALL = 1 << 16 };      /* bytes; engines keep originals up to this size, and passes compare them */
enum { MAX_HASHED = 1 << 20 }; /* of a constant that is no weight; larger ones have no origin */
enum { OF_NAME = 1, OF_BYTES, OF_NODE, OF_CAST };

bool constant_is_missing(const constant *c) { return !c->data && c->size && !c->packing; }

static uint64_t hash_number(uint64_t number, uint64_t seed) { return hash_bytes(&number, sizeof number, seed); }

static uint64_t hash_type(const tensor_type *t, uint64_t seed) {
  seed = hash_number((uint64_t)t->dtype << 8 | (uint64_t)t->rank, seed);
  return hash_bytes(t->dims, (size_t)t->rank * sizeof(dim), seed);
}

/* Tied weights have several names, in any order. */
static uint64_t hash_names(const weight_name *names) {
  uint64_t least = UINT64_MAX;
  for (const weight_name *n = names; n; n = n->next) {
    const uint64_t h = hash_bytes(n->name, strlen(n->name), OF_NAME);
    if (h < least) least = h;
  }
  return least;
}

uint64_t origin_of(constant *c) {
  if (c->origin || c->packing) return c->origin;
  if (c->names && (c->size > SMALL || !c->data))
    c->origin = hash_names(c->names);
  else if (c->data && c->size <= MAX_HASHED)
    c->origin = hash_bytes(c->data, c->size, hash_type(&c->of->type, OF_BYTES));
  return c->origin;
}

/* Both may lack something: the names of both. */
static void add_missing(graph *g, constant *made, const constant *from) {
  const weight_name *names = from->missing;
  for (; names; names = names->next) {
    bool known = false;
    for (const weight_name *m = made->missing; m; m = m->next) known = known || str_eq(m->name, names->name);
    weight_name *n = known ? NULL : ARENA_NEW(&g->arena, weight_name);
    if (!n) continue; /* of an error's text only; whether something is missing, the data tells */
    *n = (weight_name){names->name, made->missing};
    made->missing = n;
  }
}

void origin_note(graph *g, const node *n, int32_t output, constant *made) {
  uint64_t h = hash_bytes(n->op->name, strlen(n->op->name), OF_NODE);
  bool known = true;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    constant *c = n->inputs[i].v ? n->inputs[i].v->constant : NULL;
    const uint64_t origin = c ? origin_of(c) : 0;
    known = known && (origin || !n->inputs[i].v);
    h = hash_number(origin, h);
    if (!c) continue;
    if (!made->changed) made->changed = c->changed;
    add_missing(g, made, c);
  }
  for (int32_t i = 0; i < op_schema_of(n->op)->n_attrs; i++) h = attr_hash(&n->attrs[i], h);
  h = hash_type(&made->of->type, h);
  made->origin = known ? hash_number((uint64_t)output, h) : 0;
}

void origin_note_cast(constant *from, constant *made) {
  const uint64_t origin = origin_of(from);
  made->origin = origin ? hash_number(origin, hash_type(&made->of->type, OF_CAST)) : 0;
  made->changed = from->changed;
  made->missing = from->missing;
}
