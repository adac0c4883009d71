/* Loops whose length is known at run time only.
 *
 * What the body changes is found by running it: first from the values before the loop, then with parameters in place of
 * all that changed, until nothing else does. Numbers and tensors that change are carried by the `while` node; a list or
 * an attribute that changes is carried by its parts, so that it must keep its structure, but for lists that grow (grown.h). */
#include <string.h>

#include "import/torchscript/grown.h"

enum { MAX_PASSES = 16, MAX_CARRIED = 512 };

typedef struct loop {
  interp *it;
  const ts_stmt *s;
  bool is_for;
  bool counting; /* a while loop that is only to tell how many iterations there are: `trip` is then its result */
  bool grows;    /* a list grows in a while loop: it must be counted first */
  value *trip;   /* for: how many times */
  dim total;     /* the same as a size; DIM_ERROR: not asked for yet */
  int symbols;   /* that there were before the loop */
  control_start start;
  map carried;          /* paths of the leaves that change */
  ts_saved *containers; /* contents before the loop of those that the body changes */
  growth *growths;      /* one for each */
  int n_containers, capacity;
  value *counter;    /* while the end of an iteration is looked at */
  itensor **written; /* tensors that the body writes to */
  int n_written, written_capacity;
  control_side body;
  bool changed;   /* the last pass found more */
  value **values; /* that stand for the carried leaves, in the order of the walk */
  int n_values, next;
} loop;

/* Does the node count its iterations? */
static bool has_counter(const loop *l) { return l->is_for || l->counting; }

/* ---- leaves ----------------------------------------------------------------------------------------------------- */

static bool is_leaf(const ts_value *v) { return v->kind == TSV_TENSOR || interp_is_number(v); }

static int parts(const ts_value *v, const ts_value **items) {
  const ts_list *l = interp_items(v);
  *items = l ? l->items : v->kind == TSV_DICT ? v->u.dict->values : NULL;
  if (l) return l->count;
  if (v->kind == TSV_DICT) return v->u.dict->count;
  if (v->kind != TSV_NAMEDTUPLE && (v->kind != TSV_OBJECT || v->u.object->cls->kind == TSC_MODULE)) return -1;
  *items = v->u.object->attrs;
  return v->u.object->n_attrs;
}

static bool is_unset(const ts_value *v) { return v->kind == TSV_UNINITIALIZED && v->u.i == 1; }

static const char *sub_path(loop *l, const char *path, int i) { return arena_printf(l->it->arena, "%s.%d", path, i); }

static kiln_status mark_leaf(loop *l, const char *path) {
  if (map_has(&l->carried, path)) return KILN_OK;
  const char *copy = arena_strdup(l->it->arena, path);
  if (!copy || !map_put(&l->carried, copy, l)) return interp_no_memory(l->it);
  if (l->carried.count > MAX_CARRIED)
    return IT_FAIL(l->it, KILN_UNSUPPORTED, "a loop that changes more than %d values", MAX_CARRIED);
  l->changed = true;
  return KILN_OK;
}

/* Finds the leaves that differ between the start of an iteration and its end. */
static kiln_status mark(loop *l, const char *path, const ts_value *from, const ts_value *to, int depth) {
  const ts_value *a = NULL, *b = NULL;
  if (control_identical(from, to)) return KILN_OK;
  const bool none = from->kind == TSV_UNINITIALIZED;
  if (is_leaf(to) && (none || is_leaf(from))) {
    const bool same = none || (from->kind == TSV_TENSOR) == (to->kind == TSV_TENSOR);
    if (same && (none || from->kind == TSV_TENSOR || interp_number_type(from) == interp_number_type(to)))
      return mark_leaf(l, path);
  }
  const int n = parts(from, &a), count = parts(to, &b);
  if (count < 0 || depth > TS_MAX_NESTING || (!none && (n != count || from->kind != to->kind)))
    return IT_FAIL(l->it, KILN_UNSUPPORTED, "a loop whose length is known at run time only changes %s to %s%s",
                   interp_kind_name(from), interp_kind_name(to), n >= 0 && count >= 0 ? " of another length" : "");
  for (int i = 0; i < count; i++) {
    const ts_value unset = {.kind = TSV_UNINITIALIZED};
    const char *key = sub_path(l, path, i);
    if (!key) return interp_no_memory(l->it);
    KILN_TRY(mark(l, key, none ? &unset : &a[i], &b[i], depth + 1));
  }
  return KILN_OK;
}

/* Is this path, or one below it, carried? */
static bool any_below(const loop *l, const char *path) {
  const size_t n = strlen(path);
  if (map_has(&l->carried, path)) return true;
  for (size_t i = 0; i < l->carried.capacity; i++) {
    const map_entry *e = &l->carried.entries[i];
    if (e->used && strncmp(e->key, path, n) == 0 && e->key[n] == '.') return true;
  }
  return false;
}

/* `start` with its carried leaves replaced by the next of l->values, or (values NULL) counted. `like` tells the
 * structure of what is unset before the loop. */
static kiln_status build_value(loop *l, const char *path, const ts_value *start, const ts_value *like, int depth,
                               ts_value *out) {
  interp *it = l->it;
  *out = *start;
  if (!any_below(l, path)) return KILN_OK;
  if (map_has(&l->carried, path)) {
    value *v = l->values[l->next++];
    const bool is_tensor = start->kind == TSV_TENSOR || (start->kind == TSV_UNINITIALIZED && like->kind == TSV_TENSOR);
    *out = (ts_value){.kind = TSV_DATA, .u = {.data = v}};
    if (!is_tensor) return KILN_OK;
    KILN_TRY(interp_new_tensor(it, v, out));
    const ts_value *others[2] = {start, like}; /* that it may be: from before the loop, or from the last iteration */
    for (int i = 0; i < 2; i++)
      if (others[i]->kind == TSV_TENSOR && !handle_link(&it->a->im, out->u.tensor, others[i]->u.tensor))
        return interp_no_memory(it);
    return KILN_OK;
  }
  const ts_value *some = start->kind == TSV_UNINITIALIZED ? like : start, *items = NULL, *likes = NULL;
  const int n = parts(some, &items), n_like = parts(like, &likes);
  ts_value *made = ARENA_ARRAY(it->arena, ts_value, n > 0 ? n : 1);
  if (!made || n < 0 || depth > TS_MAX_NESTING) return interp_no_memory(it);
  for (int i = 0; i < n; i++) {
    const ts_value unset = {.kind = TSV_UNINITIALIZED};
    const char *key = sub_path(l, path, i);
    if (!key) return interp_no_memory(it);
    KILN_TRY(build_value(l, key, start->kind == TSV_UNINITIALIZED ? &unset : &items[i],
                         n_like == n ? &likes[i] : &items[i], depth + 1, &made[i]));
  }
  return control_rebuild(it, some, made, n, out);
}

/* The values before the loop of the carried leaves, appended to l->values. */
static kiln_status initial_values(loop *l, const char *path, const ts_value *start, const ts_value *like, int depth) {
  interp *it = l->it;
  value *v = NULL;
  if (!any_below(l, path)) return KILN_OK;
  if (map_has(&l->carried, path)) {
    const ts_value *from = start->kind == TSV_UNINITIALIZED ? like : start;
    if (from->kind == TSV_TENSOR)
      v = start->kind == TSV_TENSOR ? lower_value(&it->b, start->u.tensor) : like->u.tensor->v;
    else
      KILN_TRY(
          interp_number_tensor(it, from->kind == TSV_INT && start != from ? &(ts_value){.kind = TSV_INT} : from, &v));
    if (v && start->kind == TSV_UNINITIALIZED)
      v = lower_expand(&it->b, graph_scalar(it->g, v->type.dtype, 0), v->type.rank, v->type.dims);
    if (!v) return interp_no_memory(it);
    l->values[l->n_values++] = v;
    return KILN_OK;
  }
  const ts_value *some = start->kind == TSV_UNINITIALIZED ? like : start, *items = NULL, *likes = NULL;
  const int n = parts(some, &items), n_like = parts(like, &likes);
  for (int i = 0; i < n && depth <= TS_MAX_NESTING; i++) {
    const ts_value unset = {.kind = TSV_UNINITIALIZED};
    const char *key = sub_path(l, path, i);
    if (!key) return interp_no_memory(it);
    KILN_TRY(initial_values(l, key, start->kind == TSV_UNINITIALIZED ? &unset : &items[i],
                            n_like == n ? &likes[i] : &items[i], depth + 1));
  }
  return KILN_OK;
}

/* The values at the end of an iteration, in the body's block. */
static kiln_status next_values(loop *l, const char *path, const ts_value *start, const ts_value *to, int depth,
                               value **out) {
  interp *it = l->it;
  if (!any_below(l, path)) return KILN_OK;
  if (map_has(&l->carried, path)) {
    if (to->kind == TSV_TENSOR)
      out[l->next] = lower_value(&it->b, to->u.tensor);
    else
      KILN_TRY(interp_number_tensor(it, to, &out[l->next]));
    return out[l->next++] ? KILN_OK : interp_no_memory(it);
  }
  const ts_value *items = NULL;
  const int n = parts(to, &items);
  for (int i = 0; i < n && depth <= TS_MAX_NESTING; i++) {
    const char *key = sub_path(l, path, i);
    if (!key) return interp_no_memory(it);
    KILN_TRY(next_values(l, key, start, &items[i], depth + 1, out));
  }
  return KILN_OK;
}

/* ---- everything that may change --------------------------------------------------------------------------------- */

static const ts_saved *after_contents(const loop *l, const ts_saved *of) {
  for (int i = 0; i < l->body.n_changed; i++)
    if (l->body.changed[i].container == of->container) return &l->body.changed[i];
  return of;
}

static const ts_value *after_slot(const loop *l, int i) {
  return i < l->body.slots.count ? &l->body.slots.slots[i] : &l->start.slots.slots[i];
}

/* Walks over handles, variables and containers in one order; `how` tells what to do with each carried place. */
typedef enum walk_kind { WALK_INITIAL, WALK_ENTRY, WALK_NEXT } walk_kind;

static kiln_status walk_value(loop *l, walk_kind how, const char *path, const ts_value *start, const ts_value *to,
                              ts_value *out, value **next) {
  if (how == WALK_INITIAL) return initial_values(l, path, start, to, 0);
  if (how == WALK_NEXT) return next_values(l, path, start, to, 0, next);
  return build_value(l, path, start, to, 0, out);
}

static kiln_status walk_handles(loop *l, walk_kind how, value **next) {
  interp *it = l->it;
  for (int i = 0; i < l->n_written; i++) {
    itensor *t = l->written[i];
    if (how == WALK_INITIAL) {
      value *v = lower_value(&it->b, t);
      if (!v) return interp_no_memory(it);
      l->values[l->n_values++] = v;
    } else if (how == WALK_NEXT) {
      next[l->next] = lower_value(&it->b, t);
      if (!next[l->next++]) return interp_no_memory(it);
    } else {
      KILN_TRY(control_note_handle(it, t));
      t->v = l->values[l->next++];
      t->version += 1000; /* above whatever the body counted */
    }
  }
  return KILN_OK;
}

/* How many iterations, as a size. */
static kiln_status total_of(loop *l, dim *out) {
  interp *it = l->it;
  dim n;
  if (l->total == DIM_ERROR && interp_known_dim(it, l->trip, &n)) l->total = dim_max(it->g->dims, n, 0);
  if (l->total == DIM_ERROR) {
    value *count = lower_binary(&it->b, "maximum", l->trip, graph_scalar_int(it->g, KILN_I64, 0));
    l->total = dim_fresh(it->g->dims, "length", 0, DIM_UNBOUNDED);
    if (!build(&it->b, "data_size", IN(count), ATTRS(A_INT("size", l->total)))) return interp_no_memory(it);
    l->symbols = dim_symbol_count(it->g->dims);
  }
  *out = l->total;
  return *out == DIM_ERROR ? interp_no_memory(it) : KILN_OK;
}

/* The tensor that a list that grows is carried by. */
static kiln_status walk_growth(loop *l, walk_kind how, const growth *g, const ts_saved *start, const ts_saved *to,
                               ts_saved *made, value **next) {
  interp *it = l->it;
  dim total;
  if (l->counting && how != WALK_ENTRY) return KILN_OK;
  if (how == WALK_INITIAL) {
    KILN_TRY(total_of(l, &total));
    l->values[l->n_values] = growth_initial(it, g, total);
    return l->values[l->n_values++] ? KILN_OK : interp_no_memory(it);
  }
  if (how == WALK_NEXT) {
    value *all = to->count > start->count && to->items[start->count].kind == TSV_RUN
                     ? lower_value(&it->b, to->items[start->count].u.run->tensor)
                     : NULL;
    return all ? growth_next(it, g, all, to, l->counter, &next[l->next++]) : interp_no_memory(it);
  }
  ((ts_list *)start->container)->grown = true;
  value *all = l->counting ? NULL : l->values[l->next++];
  KILN_TRY(growth_item(it, g, all, l->counter, to, &made->items[start->count]));
  made->count = start->count + 1;
  return KILN_OK;
}

static kiln_status walk_containers(loop *l, walk_kind how, value **next) {
  interp *it = l->it;
  for (int i = 0; i < l->n_containers; i++) {
    const ts_saved *start = &l->containers[i], *to = after_contents(l, start);
    ts_saved made = *start;
    made.items = ARENA_ARRAY(it->arena, ts_value, start->count + 1);
    if (!made.items) return interp_no_memory(it);
    if (start->count) memcpy(made.items, start->items, (size_t)start->count * sizeof *made.items);
    if (l->growths[i].each) {
      KILN_TRY(walk_growth(l, how, &l->growths[i], start, to, &made, next));
    } else if (to->count != start->count)
      return IT_FAIL(it, KILN_UNSUPPORTED,
                     "a loop whose length is known at run time only changes the length of a %s (a list that grows?)",
                     start->kind == TSV_DICT ? "dict" : "list");
    for (int k = 0; k < start->count && !l->growths[i].each; k++) {
      const char *path = arena_printf(it->arena, "c%d.%d", i, k);
      if (!path) return interp_no_memory(it);
      KILN_TRY(walk_value(l, how, path, &start->items[k], &to->items[k], &made.items[k], next));
    }
    if (how != WALK_ENTRY) continue;
    KILN_TRY(interp_note_change(it, start->kind, start->container));
    KILN_TRY(control_restore(it, &made));
  }
  return KILN_OK;
}

static kiln_status walk(loop *l, walk_kind how, value **next) {
  interp *it = l->it;
  KILN_TRY(walk_handles(l, how, next));
  for (int i = 0; i < l->start.slots.count; i++) {
    ts_value made = l->start.slots.slots[i];
    char path[24];
    snprintf(path, sizeof path, "v%d", i);
    if (!any_below(l, path)) continue;
    KILN_TRY(walk_value(l, how, path, &l->start.slots.slots[i], after_slot(l, i), &made, next));
    if (how == WALK_ENTRY) it->frame->slots[i] = made;
  }
  return walk_containers(l, how, next);
}

/* ---- passes ----------------------------------------------------------------------------------------------------- */

static kiln_status find_containers(loop *l) {
  interp *it = l->it;
  for (int i = 0; i < l->body.n_changed; i++) {
    bool known = false;
    for (int k = 0; k < l->n_containers && !known; k++)
      known = l->containers[k].container == l->body.changed[i].container;
    if (known) continue;
    if (l->n_containers == l->capacity) {
      const int capacity = l->capacity ? 2 * l->capacity : 8;
      ts_saved *grown = ARENA_ARRAY(it->arena, ts_saved, capacity);
      if (!grown) return interp_no_memory(it);
      growth *growths = ARENA_ARRAY(it->arena, growth, capacity);
      if (!growths) return interp_no_memory(it);
      memset(growths, 0, (size_t)capacity * sizeof *growths);
      if (l->n_containers) memcpy(grown, l->containers, (size_t)l->n_containers * sizeof *grown);
      if (l->n_containers) memcpy(growths, l->growths, (size_t)l->n_containers * sizeof *growths);
      l->growths = growths;
      l->containers = grown;
      l->capacity = capacity;
    }
    l->containers[l->n_containers++] = l->body.scope.saved[i];
  }
  return KILN_OK;
}

static kiln_status find_written(loop *l) {
  for (int i = 0; i < l->body.n_handles; i++) {
    itensor *t = l->body.handles[i].t;
    const itensor *before = &l->body.scope.handles[i].state;
    bool known = before->base != t || before->v == l->body.handles[i].state.v;
    for (int k = 0; k < l->n_written && !known; k++) known = l->written[k] == t;
    if (known) continue;
    if (l->n_written == l->written_capacity) {
      const int capacity = l->written_capacity ? 2 * l->written_capacity : 8;
      itensor **grown = ARENA_ARRAY(l->it->arena, itensor *, capacity);
      if (!grown) return interp_no_memory(l->it);
      if (l->n_written) memcpy(grown, l->written, (size_t)l->n_written * sizeof(itensor *));
      l->written = grown;
      l->written_capacity = capacity;
    }
    l->written[l->n_written++] = t;
    l->changed = true;
  }
  return KILN_OK;
}

/* A list is longer than before. Its new items must not be memory that the loop writes to, since it has copies of them. */
static kiln_status find_growth(loop *l, const ts_saved *from, const ts_saved *to, growth *g) {
  interp *it = l->it;
  bool changed = false;
  if (!has_counter(l)) {
    l->grows = true;
    return IT_FAIL(it, KILN_UNSUPPORTED, "a list that grows in a while loop on tensor data");
  }
  KILN_TRY(growth_find(it, from, to, l->symbols, g, &changed));
  l->changed |= changed;
  for (int i = to->count - g->each; i < to->count; i++)
    for (int k = 0; k < l->n_written; k++)
      if (to->items[i].u.tensor->base == l->written[k]->base)
        return IT_FAIL(it, KILN_UNSUPPORTED,
                       "a loop appends a tensor to a list that it also writes in place; append its clone()");
  return KILN_OK;
}

/* Compares the end of the iteration with its start, in `entry_slots` and l->body.entry. */
static kiln_status find_changes(loop *l, const control_slots *entry_slots, const ts_saved *entry) {
  interp *it = l->it;
  const int known = l->n_containers;
  KILN_TRY(find_containers(l));
  l->changed = l->n_containers > known;
  KILN_TRY(find_written(l));
  for (int i = 0; i < l->start.slots.count; i++) {
    char path[24];
    const ts_value *from = i < entry_slots->count ? &entry_slots->slots[i] : &l->start.slots.slots[i];
    if (is_unset(from) || is_unset(after_slot(l, i))) continue;
    snprintf(path, sizeof path, "v%d", i);
    KILN_TRY(mark(l, path, from, after_slot(l, i), 0));
  }
  for (int i = 0; i < l->n_containers; i++) {
    const ts_saved *from = i < known ? &entry[i] : &l->containers[i], *to = after_contents(l, &l->containers[i]);
    if (from->kind == TSV_LIST && from->count != to->count) {
      KILN_TRY(find_growth(l, from, to, &l->growths[i]));
      continue;
    }
    if (l->growths[i].each)
      return IT_FAIL(it, KILN_UNSUPPORTED,
                     "a loop whose length is known at run time only appends to a list only at times");
    for (int k = 0; k < from->count && from->count == to->count; k++) {
      const char *path = arena_printf(it->arena, "c%d.%d", i, k);
      if (!path) return interp_no_memory(it);
      KILN_TRY(mark(l, path, &from->items[k], &to->items[k], 0));
    }
  }
  return KILN_OK;
}

typedef struct pass {
  loop *l;
  value *counter;      /* for: the parameter that counts */
  control_slots entry; /* what the iteration started with */
  ts_saved *containers;
} pass;

static kiln_status set_counter(loop *l, value *counter) {
  return interp_set_variable(l->it, l->s->targets[0]->s, (ts_value){.kind = TSV_DATA, .u = {.data = counter}});
}

static kiln_status run_iteration(interp *it, void *user, control_side *side) {
  pass *p = user;
  loop *l = p->l;
  (void)side;
  l->next = 0;
  l->counter = p->counter;
  KILN_TRY(walk(l, WALK_ENTRY, NULL));
  if (l->is_for && l->s->kind == TS_FOR) KILN_TRY(set_counter(l, p->counter));
  KILN_TRY(control_variables(it, &p->entry));
  p->containers = ARENA_ARRAY(it->arena, ts_saved, l->n_containers + 1);
  if (!p->containers) return interp_no_memory(it);
  for (int i = 0; i < l->n_containers; i++)
    KILN_TRY(control_contents(it, l->containers[i].kind, l->containers[i].container, &p->containers[i]));
  return interp_run_block(it, l->s->body);
}

/* Parameters for the counter and each carried leaf become l->values. */
static kiln_status add_params(loop *l, block *b, value *const *initial, int n, value **out_counter) {
  const tensor_type counter = {KILN_I64, 0, {0}};
  if (has_counter(l) && !(*out_counter = graph_add_param(b, NULL, &counter))) return interp_no_memory(l->it);
  l->values = ARENA_ARRAY(l->it->arena, value *, n + 1);
  if (!l->values) return interp_no_memory(l->it);
  for (int i = 0; i < n; i++) {
    l->values[i] = graph_add_param(b, NULL, &initial[i]->type);
    if (!l->values[i]) return interp_no_memory(l->it);
  }
  return KILN_OK;
}

static kiln_status initials(loop *l, value ***out, int *out_n) {
  l->values = ARENA_ARRAY(l->it->arena, value *, l->carried.count + (size_t)l->n_written + (size_t)l->n_containers + 1);
  if (!l->values) return interp_no_memory(l->it);
  l->n_values = 0;
  KILN_TRY(walk(l, WALK_INITIAL, NULL));
  *out = l->values;
  *out_n = l->n_values;
  return KILN_OK;
}

/* One iteration in a block of its own; l->changed tells whether more must be carried. */
static kiln_status run_pass(loop *l, pass *p, value *const *initial, int n) {
  interp *it = l->it;
  block *b = graph_new_block(it->g, NULL);
  if (!b) return interp_no_memory(it);
  *p = (pass){.l = l};
  control_side_free(&l->body);
  const control_side last = l->body;
  KILN_TRY(add_params(l, b, initial, n, &p->counter));
  control_side side = {.block = b};
  l->body.n_changed = last.n_changed; /* the walk looks at the last iteration's end for what is unset before */
  const kiln_status status = control_run_side(it, &l->start, run_iteration, p, &side);
  l->body = side;
  KILN_TRY(status);
  return l->body.raised ? KILN_OK : find_changes(l, &p->entry, p->containers);
}

/* ---- the node --------------------------------------------------------------------------------------------------- */

static kiln_status check_types(loop *l, value *const *initial, value *const *next, int n) {
  for (int i = 0; i < n; i++) {
    const tensor_type *a = &initial[i]->type, *b = &next[i]->type;
    bool same = a->dtype == b->dtype && a->rank == b->rank;
    for (int d = 0; same && d < a->rank; d++) same = dim_compare_equal(l->it->g->dims, a->dims[d], b->dims[d]) != 0;
    if (same) continue;
    text t = {0};
    type_print(l->it->g, a, &t);
    text_puts(&t, " to ");
    type_print(l->it->g, b, &t);
    const kiln_status status =
        IT_FAIL(l->it, KILN_UNSUPPORTED, "a loop whose length is known at run time only changes a tensor from %s",
                t.data ? t.data : "");
    text_free(&t);
    return status;
  }
  return KILN_OK;
}

/* The condition's block, from parameters of its own. */
static kiln_status run_condition(interp *it, void *user, control_side *side) {
  pass *p = user;
  loop *l = p->l;
  ts_value v;
  value *result;
  if (l->is_for) {
    result = lower_binary(&it->b, "lt", p->counter, l->trip);
  } else {
    l->next = 0;
    l->counter = p->counter;
    KILN_TRY(walk(l, WALK_ENTRY, NULL));
    KILN_TRY(interp_eval(it, l->s->value, &v));
    if (v.kind == TSV_TENSOR) KILN_TRY(interp_scalar(it, lower_value(&it->b, v.u.tensor), TST_BOOL, &v));
    KILN_TRY(interp_number_tensor(it, &v, &result));
    if (result->type.dtype != KILN_BOOL)
      return IT_FAIL(it, KILN_INVALID_FILE, "a condition that is %s", interp_kind_name(&v));
  }
  if (!result) return interp_no_memory(it);
  block_set_results(side->block, 1, &result);
  return KILN_OK;
}

typedef struct body_look {
  loop *l;
  value *counter;
  value **results;
} body_look;

static kiln_status look_at_body(interp *it, void *user, control_side *side) {
  const body_look *look = user;
  loop *l = look->l;
  (void)side;
  l->next = 0;
  l->counter = look->counter;
  KILN_TRY(walk(l, WALK_NEXT, look->results + (has_counter(l) ? 1 : 0)));
  if (!has_counter(l)) return KILN_OK;
  look->results[0] = lower_binary(&it->b, "add", look->counter, graph_scalar_int(it->g, KILN_I64, 1));
  return look->results[0] ? KILN_OK : interp_no_memory(it);
}

static kiln_status finish_body(loop *l, const pass *p, value *const *initial, int n) {
  interp *it = l->it;
  const int first = has_counter(l) ? 1 : 0;
  body_look look = {l, p->counter, ARENA_ARRAY(it->arena, value *, n + 1)};
  if (!look.results) return interp_no_memory(it);
  KILN_TRY(control_look(it, l->body.block, look_at_body, &look, &l->body));
  KILN_TRY(check_types(l, initial, look.results + first, n));
  block_set_results(l->body.block, n + first, look.results);
  return graph_check(it->g);
}

static kiln_status make_node(loop *l, block *cond, value *const *initial, int n, node **out) {
  interp *it = l->it;
  const int first = has_counter(l) ? 1 : 0;
  value **operands = ARENA_ARRAY(it->arena, value *, n + 1);
  block **blocks = ARENA_ARRAY(&it->g->arena, block *, 2);
  if (!operands || !blocks) return interp_no_memory(it);
  if (has_counter(l)) operands[0] = graph_scalar_int(it->g, KILN_I64, 0);
  for (int i = 0; i < n; i++) operands[first + i] = initial[i];
  node *made = node_create(&it->b, op_find("while"), n + first, operands, NO_ATTRS, n + first);
  if (!made) return interp_no_memory(it);
  blocks[0] = cond;
  blocks[1] = l->body.block;
  blocks[0]->owner = blocks[1]->owner = made;
  made->blocks = blocks;
  made->n_blocks = 2;
  *out = made;
  const kiln_status status = node_infer(made);
  return status == KILN_OK ? KILN_OK : error_note(status, __FILE__, __LINE__, "at %s", it->b.source);
}

static kiln_status finish_loop(loop *l, pass *p, value *const *initial, int n) {
  interp *it = l->it;
  const int first = has_counter(l) ? 1 : 0;
  pass condition = {.l = l};
  control_side side = {.block = graph_new_block(it->g, NULL)};
  node *made;
  if (!side.block) return interp_no_memory(it);
  if (n + first == 0)
    return IT_FAIL(it, KILN_UNSUPPORTED,
                   "a loop on tensor data that changes nothing: it would never run, or never end");
  KILN_TRY(finish_body(l, p, initial, n));
  KILN_TRY(add_params(l, side.block, initial, n, &condition.counter));
  const kiln_status status = control_run_side(it, &l->start, run_condition, &condition, &side);
  control_side_free(&side);
  KILN_TRY(status);
  if (side.raised) return IT_FAIL(it, KILN_UNSUPPORTED, "a loop's condition that raises: %s", side.reason);
  KILN_TRY(make_node(l, side.block, initial, n, &made));
  if (l->counting) { /* nothing else of it counts */
    l->trip = made->outputs[0];
    return KILN_OK;
  }
  l->values = made->outputs + first;
  l->next = 0;
  l->counter = NULL;
  KILN_TRY(walk(l, WALK_ENTRY, NULL));
  for (int i = l->start.slots.count; i < it->frame->count; i++) it->frame->slots[i] = control_unset();
  for (int i = 0; i < l->body.n_handles; i++) {
    if (!l->body.handles[i].state.stale) continue;
    KILN_TRY(control_note_handle(it, l->body.handles[i].t));
    l->body.handles[i].t->stale = true;
  }
  return KILN_OK;
}

static kiln_status run_loop(loop *l) {
  interp *it = l->it;
  const int line = it->frame->line;
  pass p = {0};
  value **initial = NULL;
  int n = 0;
  KILN_TRY(control_start_open(it, &l->start));
  for (int i = 0;; i++) {
    if (i == MAX_PASSES)
      return IT_FAIL(it, KILN_UNSUPPORTED, "what a loop changes is not found after %d passes", MAX_PASSES);
    const int guards = it->g->n_guards;
    KILN_TRY(initials(l, &initial, &n));
    KILN_TRY(run_pass(l, &p, initial, n));
    it->frame->line = line;
    if (l->body.raised) {
      control_drop(l->body.block);
      interp_note(it, "a loop on tensor data was left out, since its body raises and an engine cannot: %s",
                  l->body.reason);
      return KILN_OK;
    }
    if (!l->changed) break;
    control_drop(l->body.block);
    it->g->n_guards = guards;
  }
  it->b.source = ts_source(it->a, interp_here(it), line);
  return finish_loop(l, &p, initial, n);
}

static kiln_status run_and_free(loop *l) {
  const kiln_status status = run_loop(l);
  map_free(&l->carried);
  control_side_free(&l->body);
  return status;
}

static loop new_loop(interp *it, const ts_stmt *s) {
  return (loop){.it = it, .s = s, .total = DIM_ERROR, .symbols = dim_symbol_count(it->g->dims)};
}

/* A while loop in which lists grow: once to count the iterations, and then as a loop over so many. */
static kiln_status count_and_run(interp *it, const ts_stmt *s) {
  const int line = it->frame->line;
  loop count = new_loop(it, s);
  count.counting = true;
  KILN_TRY(run_and_free(&count));
  it->frame->line = line;
  if (!count.trip) return KILN_OK; /* its body raises */
  loop l = new_loop(it, s);
  l.is_for = true;
  l.trip = count.trip;
  return run_and_free(&l);
}

kiln_status interp_while_data(interp *it, const ts_stmt *s, bool is_for, const ts_value *trip) {
  loop l = new_loop(it, s);
  const int guards = it->g->n_guards, line = it->frame->line;
  l.is_for = is_for;
  if (is_for) KILN_TRY(interp_number_tensor(it, trip, &l.trip));
  const kiln_status status = run_loop(&l);
  map_free(&l.carried);
  if (status != KILN_OK && l.grows && l.body.block) control_drop(l.body.block);
  control_side_free(&l.body);
  if (status == KILN_OK || !l.grows) return status;
  error_clear();
  it->g->n_guards = guards;
  it->frame->line = line;
  return count_and_run(it, s);
}
