/* Scopes and data-dependent branches.
 *
 * Both sides of a branch run one after the other, each in a block of its own, from the same state: what the first side
 * changed is undone before the second runs. Then whatever differs becomes a result of the `if` node: variables,
 * contents of containers, and the contents of tensors that were written in place (their handles stay the same). */
#include "import/torchscript/control.h"

#include <string.h>

/* ---- containers ------------------------------------------------------------------------------------------------- */

static kiln_status copy_items(interp *it, const ts_value *items, int n, ts_value **out) {
  *out = ARENA_ARRAY(it->arena, ts_value, n ? n : 1);
  if (!*out) return interp_no_memory(it);
  if (n) memcpy(*out, items, (size_t)n * sizeof *items);
  return KILN_OK;
}

kiln_status control_contents(interp *it, ts_value_kind kind, void *container, ts_saved *out) {
  *out = (ts_saved){.kind = kind, .container = container};
  if (kind == TSV_LIST) {
    const ts_list *l = container;
    out->count = l->count;
    return copy_items(it, l->items, l->count, &out->items);
  }
  if (kind == TSV_DICT) {
    const ts_dict *d = container;
    out->count = d->count;
    KILN_TRY(copy_items(it, d->keys, d->count, &out->keys));
    return copy_items(it, d->values, d->count, &out->items);
  }
  const ts_object *o = container;
  out->count = o->n_attrs;
  return copy_items(it, o->attrs, o->n_attrs, &out->items);
}

/* Contents from a ts_saved; its arrays are copied again, since the container may change them. */
kiln_status control_restore(interp *it, const ts_saved *s) {
  if (s->kind == TSV_LIST) {
    ts_list *l = s->container;
    l->count = l->capacity = s->count;
    return copy_items(it, s->items, s->count, &l->items);
  }
  if (s->kind == TSV_DICT) {
    ts_dict *d = s->container;
    d->count = d->capacity = s->count;
    KILN_TRY(copy_items(it, s->keys, s->count, &d->keys));
    return copy_items(it, s->items, s->count, &d->values);
  }
  ts_object *o = s->container;
  return copy_items(it, s->items, s->count, &o->attrs);
}

kiln_status interp_note_change(interp *it, ts_value_kind kind, void *container) {
  ts_scope *s = it->scope;
  if (!s || map_get_number(&s->seen, (uint64_t)(uintptr_t)container)) return KILN_OK;
  if (s->n_saved == s->capacity) {
    const int capacity = s->capacity ? 2 * s->capacity : 8;
    ts_saved *grown = ARENA_ARRAY(it->arena, ts_saved, capacity);
    if (!grown) return interp_no_memory(it);
    if (s->n_saved) memcpy(grown, s->saved, (size_t)s->n_saved * sizeof *grown);
    s->saved = grown;
    s->capacity = capacity;
  }
  KILN_TRY(control_contents(it, kind, container, &s->saved[s->n_saved]));
  s->n_saved++;
  if (!map_put_number(&s->seen, (uint64_t)(uintptr_t)container, (void *)(uintptr_t)s->n_saved))
    return interp_no_memory(it);
  return KILN_OK;
}

enum { CREATED = INT32_MAX };

kiln_status interp_note_created(interp *it, void *container) {
  if (!it->scope) return KILN_OK;
  return map_put_number(&it->scope->seen, (uint64_t)(uintptr_t)container, (void *)(uintptr_t)CREATED)
             ? KILN_OK
             : interp_no_memory(it);
}

/* What may share memory is not undone: it may only refuse too much. */
static void put_handle(const ts_handle *h) {
  itensor *t = h->t;
  struct itensor_link *const links = t->links;
  *t = h->state;
  t->links = links;
  if (h->steps) memcpy(t->steps, h->steps, (size_t)t->n_steps * sizeof(node *));
}

void control_open(interp *it, ts_scope *s) {
  *s = (ts_scope){.outer = it->scope, .serial = it->a->im.handles ? it->a->im.handles->serial : 0};
  it->scope = s;
}

void control_close(interp *it, ts_scope *s) {
  it->scope = s->outer;
  map_free(&s->seen);
  map_free(&s->seen_handles);
}

const ts_saved *control_find(const ts_scope *s, const void *container) {
  const uintptr_t at = (uintptr_t)map_get_number(&s->seen, (uint64_t)(uintptr_t)container);
  return at && at != CREATED ? &s->saved[at - 1] : NULL;
}

kiln_status control_undo(interp *it, const ts_scope *s) {
  for (int i = 0; i < s->n_handles; i++) put_handle(&s->handles[i]);
  for (int i = 0; i < s->n_saved; i++) KILN_TRY(control_restore(it, &s->saved[i]));
  return KILN_OK;
}

/* The same container with other parts. */
kiln_status control_rebuild(interp *it, const ts_value *v, const ts_value *items, int n, ts_value *out) {
  *out = *v;
  if (interp_items(v)) return interp_list_new(it, v->kind, n, items, out);
  if (v->kind == TSV_DICT) {
    KILN_TRY(interp_dict_new(it, out));
    for (int i = 0; i < n; i++) KILN_TRY(interp_dict_put(it, out->u.dict, v->u.dict->keys[i], items[i]));
    return KILN_OK;
  }
  ts_object *o = ARENA_NEW(it->arena, ts_object);
  ts_value *attrs = arena_copy(it->arena, items, (size_t)(n ? n : 1) * sizeof *items);
  if (!o || !attrs) return interp_no_memory(it);
  *o = *v->u.object;
  o->attrs = attrs;
  KILN_TRY(interp_note_created(it, o));
  out->u.object = o;
  return KILN_OK;
}

/* ---- tensor handles --------------------------------------------------------------------------------------------- */

static kiln_status read_handle(interp *it, itensor *t, ts_handle *out) {
  *out = (ts_handle){.t = t, .state = *t};
  if (t->n_steps == 0) return KILN_OK;
  out->steps = arena_copy(it->arena, t->steps, (size_t)t->n_steps * sizeof(node *));
  return out->steps ? KILN_OK : interp_no_memory(it);
}

kiln_status control_note_handle(interp *it, itensor *t) {
  ts_scope *s = it->scope;
  if (!s || t->serial > s->serial || map_get_number(&s->seen_handles, (uint64_t)(uintptr_t)t)) return KILN_OK;
  if (s->n_handles == s->handle_capacity) {
    const int capacity = s->handle_capacity ? 2 * s->handle_capacity : 8;
    ts_handle *grown = ARENA_ARRAY(it->arena, ts_handle, capacity);
    if (!grown) return interp_no_memory(it);
    if (s->n_handles) memcpy(grown, s->handles, (size_t)s->n_handles * sizeof *grown);
    s->handles = grown;
    s->handle_capacity = capacity;
  }
  KILN_TRY(read_handle(it, t, &s->handles[s->n_handles]));
  s->n_handles++;
  if (!map_put_number(&s->seen_handles, (uint64_t)(uintptr_t)t, (void *)(uintptr_t)s->n_handles))
    return interp_no_memory(it);
  return KILN_OK;
}

kiln_status control_set_handles(interp *it, const ts_handle *list, int n) {
  for (int i = 0; i < n; i++) {
    KILN_TRY(control_note_handle(it, list[i].t));
    put_handle(&list[i]);
  }
  return KILN_OK;
}

const ts_handle *control_find_handle(const control_side *side, const itensor *t) {
  const uintptr_t at = (uintptr_t)map_get_number(&side->scope.seen_handles, (uint64_t)(uintptr_t)t);
  return at && (int)at <= side->n_handles ? &side->handles[at - 1] : NULL;
}

/* ---- variables -------------------------------------------------------------------------------------------------- */

kiln_status control_variables(interp *it, control_slots *out) {
  out->count = it->frame->count;
  return copy_items(it, it->frame->slots, it->frame->count, &out->slots);
}

/* Variables that came later are unset again. */
void control_variables_apply(interp *it, const control_slots *s) {
  ts_frame *f = it->frame;
  for (int i = 0; i < f->count; i++) f->slots[i] = i < s->count ? s->slots[i] : control_unset();
}

ts_value control_unset(void) { return (ts_value){.kind = TSV_UNINITIALIZED, .u = {.i = 1}}; }

/* ---- one side --------------------------------------------------------------------------------------------------- */

void control_drop(block *b) {
  block_set_results(b, 0, NULL);
  while (b->last) node_remove(b->last);
}

kiln_status control_start_open(interp *it, control_start *out) { return control_variables(it, &out->slots); }

/* Notes how things stand after the side, and undoes it. */
static kiln_status finish_side(interp *it, control_side *side) {
  KILN_TRY(control_variables(it, &side->slots));
  side->n_handles = side->scope.n_handles;
  side->handles = ARENA_ARRAY(it->arena, ts_handle, side->n_handles ? side->n_handles : 1);
  if (!side->handles) return interp_no_memory(it);
  for (int i = 0; i < side->n_handles; i++) KILN_TRY(read_handle(it, side->scope.handles[i].t, &side->handles[i]));
  side->n_changed = side->scope.n_saved;
  side->changed = ARENA_ARRAY(it->arena, ts_saved, side->n_changed ? side->n_changed : 1);
  if (!side->changed) return interp_no_memory(it);
  for (int i = 0; i < side->n_changed; i++)
    KILN_TRY(control_contents(it, side->scope.saved[i].kind, side->scope.saved[i].container, &side->changed[i]));
  return KILN_OK;
}

kiln_status control_run_side(interp *it, const control_start *start, control_body body, void *user,
                             control_side *side) {
  const builder saved = it->b;
  ts_scope *outer = it->scope;
  ts_frame *frame = it->frame;
  const int depth = it->depth;
  if (!side->block) side->block = graph_new_block(it->g, NULL);
  if (!side->block) return interp_no_memory(it);
  it->b.block = side->block;
  it->b.before = NULL;
  it->regions++;
  control_open(it, &side->scope);
  kiln_status status = body(it, user, side);
  if (status == KILN_OK && it->frame->returned)
    status = IT_FAIL(it, KILN_UNSUPPORTED, "a return inside of a branch or loop that depends on tensor data");
  if (status != KILN_OK && it->raised && graph_check(it->g) == KILN_OK) {
    side->raised = true;
    side->reason = arena_strdup(it->arena, error_text());
    error_clear();
    it->raised = false;
    it->frame = frame;
    it->depth = depth;
    status = side->reason ? KILN_OK : interp_no_memory(it);
  }
  if (status == KILN_OK) status = finish_side(it, side);
  if (status == KILN_OK) status = control_undo(it, &side->scope);
  it->scope = outer;
  it->regions--;
  it->b = saved;
  if (status == KILN_OK) {
    control_variables_apply(it, &start->slots);
  }
  return status;
}

void control_side_free(control_side *side) {
  map_free(&side->scope.seen);
  map_free(&side->scope.seen_handles);
}

/* ---- merging ---------------------------------------------------------------------------------------------------- */

typedef struct pair {
  ts_value v[2]; /* of the two sides; TSV_UNINITIALIZED: that side has none */
} pair;

typedef struct merger {
  interp *it;
  const control_start *start;
  control_side *sides;
  value *condition;
  pair *pairs;
  int n, capacity;
  node *made; /* NULL: pairs are collected; else they are replaced by its outputs, in the same order */
  int next;
  int line;
  const char *what; /* for texts */
} merger;

bool control_identical(const ts_value *x, const ts_value *y) {
  if (x->kind != y->kind) return false;
  switch (x->kind) {
    case TSV_NONE:
    case TSV_UNINITIALIZED:
      return true;
    case TSV_INT:
    case TSV_BOOL:
      return x->u.i == y->u.i;
    case TSV_FLOAT:
      return memcmp(&x->u.f, &y->u.f, sizeof x->u.f) == 0;
    case TSV_STR:
    case TSV_DEVICE:
      return str_eq(x->u.s, y->u.s);
    case TSV_METHOD:
      return x->u.method->self == y->u.method->self && x->u.method->function == y->u.method->function;
    case TSV_ENUM:
      return x->u.object->cls == y->u.object->cls && str_eq(x->u.object->attrs[0].u.s, y->u.object->attrs[0].u.s);
    default:
      return x->u.object == y->u.object;
  }
}

static kiln_status differ(merger *m, const char *why, const ts_value *x, const ts_value *y) {
  return IT_FAIL(m->it, KILN_UNSUPPORTED,
                 "the condition depends on tensor data, but its branches leave %s: %s and %s%s", m->what,
                 interp_kind_name(x), interp_kind_name(y), why);
}

static kiln_status merge(merger *m, const ts_value *x, const ts_value *y, int depth, ts_value *out);

static kiln_status add_pair(merger *m, const ts_value *x, const ts_value *y) {
  if (m->n == m->capacity) {
    const int capacity = m->capacity ? 2 * m->capacity : 16;
    pair *grown = ARENA_ARRAY(m->it->arena, pair, capacity);
    if (!grown) return interp_no_memory(m->it);
    if (m->n) memcpy(grown, m->pairs, (size_t)m->n * sizeof *grown);
    m->pairs = grown;
    m->capacity = capacity;
  }
  m->pairs[m->n++] = (pair){{*x, *y}};
  return KILN_OK;
}

/* The result of the node that stands for this pair. */
static kiln_status take_pair(merger *m, const ts_value *x, const ts_value *y, ts_value *out) {
  value *v = m->made->outputs[m->next++];
  if (x->kind != TSV_TENSOR && y->kind != TSV_TENSOR) {
    *out = (ts_value){.kind = TSV_DATA, .u = {.data = v}};
    return KILN_OK;
  }
  KILN_TRY(interp_new_tensor(m->it, v, out));
  const ts_value *sides[2] = {x, y};
  for (int i = 0; i < 2; i++) /* which of them it is, is not known */
    if (sides[i]->kind == TSV_TENSOR && !handle_link(&m->it->a->im, out->u.tensor, sides[i]->u.tensor))
      return interp_no_memory(m->it);
  return KILN_OK;
}

static kiln_status merge_leaf(merger *m, const ts_value *x, const ts_value *y, ts_value *out) {
  const bool bools = x->kind == TSV_BOOL && y->kind == TSV_BOOL; /* different ones */
  if (bools && !m->made) return KILN_OK;
  if (bools) { /* True in one and False in the other: the condition, or its opposite */
    value *c = lower_reshape(&m->it->b, m->condition, 0, NULL);
    if (c && !x->u.i) c = build(&m->it->b, "logical_not", IN(c), NO_ATTRS);
    if (!c) return interp_no_memory(m->it);
    *out = (ts_value){.kind = TSV_DATA, .u = {.data = c}};
    return KILN_OK;
  }
  return m->made ? take_pair(m, x, y, out) : add_pair(m, x, y);
}

static kiln_status merge_items(merger *m, const ts_value *x, const ts_value *y, int n, int depth, ts_value *out) {
  static const ts_value none = {.kind = TSV_UNINITIALIZED};
  for (int i = 0; i < n; i++) KILN_TRY(merge(m, x ? &x[i] : &none, y ? &y[i] : &none, depth + 1, &out[i]));
  return KILN_OK;
}

static kiln_status merge_lists(merger *m, const ts_value *x, const ts_value *y, int depth, ts_value *out) {
  const ts_value *some = interp_items(x) ? x : y;
  const ts_list *a = interp_items(x), *b = interp_items(y);
  if (a && b && a->count != b->count) return differ(m, " of different lengths", x, y);
  KILN_TRY(interp_list_new(m->it, some->kind, some->u.list->count, NULL, out));
  out->type = some->type;
  return merge_items(m, a ? a->items : NULL, b ? b->items : NULL, some->u.list->count, depth, out->u.list->items);
}

static kiln_status merge_dicts(merger *m, const ts_value *x, const ts_value *y, int depth, ts_value *out) {
  const ts_dict *a = x->kind == TSV_DICT ? x->u.dict : NULL, *b = y->kind == TSV_DICT ? y->u.dict : NULL;
  const ts_dict *some = a ? a : b;
  bool same = !a || !b || a->count == b->count;
  for (int i = 0; a && b && same && i < a->count; i++) same = interp_equal(m->it, &a->keys[i], &b->keys[i], 0) == 1;
  if (!same) return differ(m, " with different keys", x, y);
  KILN_TRY(interp_dict_new(m->it, out));
  for (int i = 0; i < some->count; i++) {
    ts_value v = {.kind = TSV_NONE};
    const ts_value none = {.kind = TSV_UNINITIALIZED};
    KILN_TRY(merge(m, a ? &a->values[i] : &none, b ? &b->values[i] : &none, depth + 1, &v));
    KILN_TRY(interp_dict_put(m->it, out->u.dict, some->keys[i], v));
  }
  return KILN_OK;
}

static bool is_object(const ts_value *v) { return v->kind == TSV_OBJECT || v->kind == TSV_NAMEDTUPLE; }

static kiln_status merge_objects(merger *m, const ts_value *x, const ts_value *y, int depth, ts_value *out) {
  const ts_object *a = is_object(x) ? x->u.object : NULL, *b = is_object(y) ? y->u.object : NULL;
  const ts_object *some = a ? a : b;
  if (a && b && a->cls != b->cls) return differ(m, " of different classes", x, y);
  if (a && b && some->cls->kind == TSC_MODULE) return differ(m, ", two modules", x, y);
  ts_object *o = ARENA_NEW(m->it->arena, ts_object);
  ts_value *attrs = ARENA_ARRAY(m->it->arena, ts_value, some->n_attrs ? some->n_attrs : 1);
  if (!o || !attrs) return interp_no_memory(m->it);
  KILN_TRY(interp_note_created(m->it, o));
  *o = *some;
  o->attrs = attrs;
  *out = a ? *x : *y;
  out->u.object = o;
  return merge_items(m, a ? a->attrs : NULL, b ? b->attrs : NULL, some->n_attrs, depth, attrs);
}

/* Both passes walk the same way, so that the second finds the pairs of the first in the same order. */
static kiln_status merge(merger *m, const ts_value *x, const ts_value *y, int depth, ts_value *out) {
  const bool no_x = x->kind == TSV_UNINITIALIZED, no_y = y->kind == TSV_UNINITIALIZED;
  *out = *x;
  if (depth > TS_MAX_NESTING)
    return IT_FAIL(m->it, KILN_UNSUPPORTED, "values nested more than %d deep", TS_MAX_NESTING);
  if (control_identical(x, y)) return KILN_OK;
  const ts_value *some = no_x ? y : x;
  if (x->kind == TSV_TENSOR && y->kind == TSV_TENSOR) return merge_leaf(m, x, y, out);
  if (interp_is_number(some) && (no_x || no_y)) {
    *out = *some;
    return some->kind == TSV_DATA ? merge_leaf(m, x, y, out) : KILN_OK;
  }
  if (some->kind == TSV_TENSOR && (no_x || no_y)) return merge_leaf(m, x, y, out);
  if (interp_is_number(x) && interp_is_number(y)) {
    if (interp_number_type(x) != interp_number_type(y)) return differ(m, "", x, y);
    return merge_leaf(m, x, y, out);
  }
  if (interp_items(some) && (no_x || no_y || x->kind == y->kind)) return merge_lists(m, x, y, depth, out);
  if (some->kind == TSV_DICT && (no_x || no_y || y->kind == TSV_DICT)) return merge_dicts(m, x, y, depth, out);
  if (is_object(some) && (no_x || no_y || is_object(y))) return merge_objects(m, x, y, depth, out);
  if (no_x || no_y) {
    *out = *some;
    return KILN_OK;
  }
  return differ(m, "", x, y);
}

static bool is_unset(const ts_value *v) { return v->kind == TSV_UNINITIALIZED && v->u.i == 1; }

static const char *variable_name(const ts_frame *f, int slot) {
  for (size_t i = 0; i < f->names.capacity; i++)
    if (f->names.entries[i].used && (uintptr_t)f->names.entries[i].value == (uintptr_t)slot + 1)
      return f->names.entries[i].key;
  return "?";
}

static kiln_status merge_variables(merger *m) {
  ts_frame *f = m->it->frame;
  char room[120];
  for (int i = 0; i < f->count; i++) {
    const ts_value unset = control_unset();
    const ts_value *x = i < m->sides[0].slots.count ? &m->sides[0].slots.slots[i] : &unset;
    const ts_value *y = i < m->sides[1].slots.count ? &m->sides[1].slots.slots[i] : &unset;
    ts_value v = unset;
    if (is_unset(x) || is_unset(y)) { /* used inside of the branch only */
      if (m->made) f->slots[i] = unset;
      continue;
    }
    if (control_identical(x, y)) {
      if (m->made) f->slots[i] = *x;
      continue;
    }
    snprintf(room, sizeof room, "variable `%.80s` different", variable_name(f, i));
    m->what = room;
    KILN_TRY(merge(m, x, y, 0, &v));
    if (m->made) f->slots[i] = v;
  }
  return KILN_OK;
}

/* Contents of a container after one side. */
static kiln_status contents_after(merger *m, int side, const ts_saved *of, ts_saved *out) {
  for (int i = 0; i < m->sides[side].n_changed; i++)
    if (m->sides[side].changed[i].container == of->container) {
      *out = m->sides[side].changed[i];
      return KILN_OK;
    }
  return control_contents(m->it, of->kind, of->container, out);
}

static kiln_status merge_contents(merger *m, const ts_saved *of) {
  ts_saved x, y, made;
  KILN_TRY(contents_after(m, 0, of, &x));
  KILN_TRY(contents_after(m, 1, of, &y));
  m->what = of->kind == TSV_LIST   ? "a list different"
            : of->kind == TSV_DICT ? "a dict different"
                                   : "an attribute different";
  bool same = x.count == y.count;
  for (int i = 0; same && of->kind == TSV_DICT && i < x.count; i++)
    same = interp_equal(m->it, &x.keys[i], &y.keys[i], 0) == 1;
  if (!same)
    return IT_FAIL(m->it, KILN_UNSUPPORTED,
                   "the condition depends on tensor data, but its branches leave a %s with different %s",
                   of->kind == TSV_LIST ? "list" : "dict", of->kind == TSV_LIST ? "lengths" : "keys");
  KILN_TRY(control_contents(m->it, of->kind, of->container, &made));
  made.count = x.count;
  made.keys = x.keys;
  KILN_TRY(copy_items(m->it, x.items, x.count, &made.items));
  for (int i = 0; i < x.count; i++) KILN_TRY(merge(m, &x.items[i], &y.items[i], 0, &made.items[i]));
  if (!m->made) return KILN_OK;
  KILN_TRY(interp_note_change(m->it, of->kind, of->container));
  return control_restore(m->it, &made);
}

static kiln_status merge_containers(merger *m) {
  for (int k = 0; k < 2; k++)
    for (int i = 0; i < m->sides[k].n_changed; i++) {
      const ts_saved *s = &m->sides[k].changed[i];
      if (k == 1 && control_find(&m->sides[0].scope, s->container)) continue;
      KILN_TRY(merge_contents(m, s));
    }
  return KILN_OK;
}

/* A tensor that a side wrote to. */
static kiln_status merge_handle(merger *m, itensor *t) {
  const ts_handle *x = control_find_handle(&m->sides[0], t), *y = control_find_handle(&m->sides[1], t);
  const ts_value v = of_tensor(t);
  uint32_t newest = t->version;
  if (t->base != t) return KILN_OK;
  if ((x && x->state.stale) || (y && y->state.stale)) { /* what it holds is not known from now on */
    KILN_TRY(control_note_handle(m->it, t));
    t->stale |= m->made != NULL;
    return KILN_OK;
  }
  if (!m->made) return (x && x->state.v != t->v) || (y && y->state.v != t->v) ? add_pair(m, &v, &v) : KILN_OK;
  if ((!x || x->state.v == t->v) && (!y || y->state.v == t->v)) return KILN_OK;
  KILN_TRY(control_note_handle(m->it, t));
  if (x && x->state.version > newest) newest = x->state.version;
  if (y && y->state.version > newest) newest = y->state.version;
  t->v = m->made->outputs[m->next++];
  t->version = newest + 1;
  return KILN_OK;
}

static kiln_status merge_written(merger *m) {
  for (int k = 0; k < 2; k++)
    for (int i = 0; i < m->sides[k].n_handles; i++) {
      itensor *t = m->sides[k].handles[i].t;
      if (k == 1 && control_find_handle(&m->sides[0], t)) continue;
      KILN_TRY(merge_handle(m, t));
    }
  return KILN_OK;
}

static kiln_status walk(merger *m) {
  KILN_TRY(merge_variables(m));
  KILN_TRY(merge_containers(m));
  return merge_written(m);
}

/* ---- the node --------------------------------------------------------------------------------------------------- */

/* The value that a side gives for a pair, in its block. */
static kiln_status side_value(interp *it, const ts_value *v, value **out) {
  if (v->kind == TSV_TENSOR) {
    *out = lower_value(&it->b, v->u.tensor);
    return *out ? KILN_OK : interp_no_memory(it);
  }
  return interp_number_tensor(it, v, out);
}

/* Something of that type, for a side that leaves the variable unset. */
static kiln_status any_value(interp *it, const tensor_type *t, value **out) {
  *out = lower_expand(&it->b, graph_scalar(it->g, t->dtype, 0), t->rank, t->dims);
  return *out ? KILN_OK : interp_no_memory(it);
}

typedef struct side_look {
  merger *m;
  int k;
  value *const *other; /* of the other side, where they are known */
  value **out;
} side_look;

static kiln_status look_at_side(interp *it, void *user, control_side *side) {
  const side_look *l = user;
  (void)side;
  for (int i = 0; i < l->m->n; i++) {
    const ts_value *v = &l->m->pairs[i].v[l->k];
    if (l->out[i] || (v->kind == TSV_UNINITIALIZED && !l->other)) continue;
    if (v->kind == TSV_UNINITIALIZED)
      KILN_TRY(any_value(it, &l->other[i]->type, &l->out[i]));
    else
      KILN_TRY(side_value(it, v, &l->out[i]));
  }
  return KILN_OK;
}

static kiln_status side_values(merger *m, int k, value *const *other, value **out) {
  side_look look = {m, k, other, out};
  return control_look(m->it, m->sides[k].block, look_at_side, &look, &m->sides[k]);
}

kiln_status control_look(interp *it, block *b, control_body body, void *user, control_side *side) {
  ts_scope scope;
  const builder saved = it->b;
  it->b.block = b;
  it->b.before = NULL;
  control_open(it, &scope);
  scope.serial = UINT32_MAX; /* the side's own handles, too, are put back */
  kiln_status status = control_set_handles(it, side->handles, side->n_handles);
  if (status == KILN_OK) status = body(it, user, side);
  if (status == KILN_OK) status = control_undo(it, &scope);
  control_close(it, &scope);
  it->b = saved;
  return status;
}

static kiln_status check_pair(merger *m, const value *x, const value *y) {
  bool same = x->type.dtype == y->type.dtype && x->type.rank == y->type.rank;
  for (int d = 0; same && d < x->type.rank; d++)
    same = dim_compare_equal(m->it->g->dims, x->type.dims[d], y->type.dims[d]) != 0;
  if (same) return KILN_OK;
  text t = {0};
  type_print(m->it->g, &x->type, &t);
  text_puts(&t, " and ");
  type_print(m->it->g, &y->type, &t);
  const kiln_status status =
      IT_FAIL(m->it, KILN_UNSUPPORTED,
              "the condition depends on tensor data, but its branches give tensors of different types: %s",
              t.data ? t.data : "");
  text_free(&t);
  return status;
}

static kiln_status make_node(merger *m) {
  interp *it = m->it;
  value **x = ARENA_ARRAY(it->arena, value *, m->n + 1), **y = ARENA_ARRAY(it->arena, value *, m->n + 1);
  if (!x || !y) return interp_no_memory(it);
  KILN_TRY(side_values(m, 0, NULL, x));
  KILN_TRY(side_values(m, 1, x, y));
  KILN_TRY(side_values(m, 0, y, x));
  for (int i = 0; i < m->n; i++) KILN_TRY(check_pair(m, x[i], y[i]));
  node *n = node_create(&it->b, op_find("if"), 1, &m->condition, NO_ATTRS, m->n);
  block **blocks = ARENA_ARRAY(&it->g->arena, block *, 2);
  if (!n || !blocks) return interp_no_memory(it);
  for (int k = 0; k < 2; k++) {
    blocks[k] = m->sides[k].block;
    blocks[k]->owner = n;
    block_set_results(blocks[k], m->n, k ? y : x);
  }
  n->blocks = blocks;
  n->n_blocks = 2;
  KILN_TRY(graph_check(it->g));
  const kiln_status status = node_infer(n);
  if (status != KILN_OK) return error_note(status, __FILE__, __LINE__, "at %s", it->b.source);
  m->made = n;
  return KILN_OK;
}

kiln_status control_merge(interp *it, value *condition, const control_start *start, control_side *sides) {
  merger m = {.it = it, .start = start, .sides = sides, .condition = condition};
  node nothing = {0};
  KILN_TRY(walk(&m));
  if (m.n > 0) {
    KILN_TRY(make_node(&m));
  } else { /* nothing comes out of it but, perhaps, the condition itself */
    for (int k = 0; k < 2; k++) control_drop(sides[k].block);
    m.made = &nothing;
  }
  return walk(&m);
}

/* ---- if --------------------------------------------------------------------------------------------------------- */

static kiln_status run_body(interp *it, void *user, control_side *side) {
  (void)side;
  return interp_run_block(it, user);
}

static kiln_status one_side_raises(interp *it, const ts_stmt *s, control_side *sides) {
  const int k = sides[0].raised ? 0 : 1;
  for (int i = 0; i < 2; i++) control_drop(sides[i].block);
  if (sides[1 - k].raised) {
    it->raised = true;
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s", sides[k].reason);
  }
  interp_note(it, "a branch on tensor data was left out, since an engine cannot raise: %s", sides[k].reason);
  return interp_run_block(it, k == 0 ? s->orelse : s->body);
}

kiln_status interp_if_data(interp *it, const ts_stmt *s, value *condition) {
  control_start start;
  control_side sides[2] = {{0}};
  const int line = it->frame->line;
  KILN_TRY(control_start_open(it, &start));
  kiln_status status = KILN_OK;
  for (int k = 0; k < 2 && status == KILN_OK; k++)
    status = control_run_side(it, &start, run_body, k == 0 ? s->body : s->orelse, &sides[k]);
  it->frame->line = line;
  it->b.source = ts_source(it->a, interp_here(it), line);
  if (status == KILN_OK && (sides[0].raised || sides[1].raised))
    status = one_side_raises(it, s, sides);
  else if (status == KILN_OK)
    status = control_merge(it, condition, &start, sides);
  for (int k = 0; k < 2; k++) control_side_free(&sides[k]);
  return status;
}
