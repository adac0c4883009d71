/* Running the method, and what of the module it changes: states of the graph.
 *
 * 1. The method runs once with the module as the file has it. If it leaves the module as it was, that is all.
 * 2. Else it runs again with parameters of the graph in place of what changed (tensors, numbers): if each ends with the
 * type that it began with, these are the states.
 * 3. Else the first call differs from all later ones: an attribute gets another shape, or is no longer None. Then the
 * graph has a flag for the first call as a state, and both programs, that of the first call and that of the others, as
 * the sides of an `if`. */
#include <string.h>

#include "base/memory.h"

#include "import/calibration.h"
#include "import/torchscript/control.h"
#include "import/torchscript/method.h"

enum { MAX_STATES = 256, MAX_TRIES = 6 };

typedef struct written { /* a tensor of the module that is written in place */
  itensor *t;
  value *initial;
} written;

typedef struct runner {
  method *m;
  interp *it;
  control_start start;
  control_side sides[2]; /* of the first call; of the others */
  ts_saved *before;      /* contents of the containers that change, as the file has them */
  int n_containers;
  written *tensors;
  int n_tensors;
  map rebuilt;     /* containers of the entry: each run gets copies, so that the entry stays as it is */
  map numbers;     /* names of numbers that are states */
  ts_saved *entry; /* the contents that a run starts with */
  method_state states[MAX_STATES];
  itensor *handles[MAX_STATES]; /* that a run starts with, of states that are tensor attributes */
  int n_states;
  bool collecting;    /* exit_value fills states[].last */
  bool another_shape; /* something changes its type or structure */
  int next;
} runner;

/* ---- running ---------------------------------------------------------------------------------------------------- */

static int parts(const ts_value *v, const ts_value **items) {
  const ts_list *l = interp_items(v);
  *items = l ? l->items : v->kind == TSV_DICT ? v->u.dict->values : NULL;
  if (l) return l->count;
  if (v->kind == TSV_DICT) return v->u.dict->count;
  if (v->kind != TSV_NAMEDTUPLE && (v->kind != TSV_OBJECT || v->u.object->cls->kind == TSC_MODULE)) return -1;
  *items = v->u.object->attrs;
  return v->u.object->n_attrs;
}

/* A copy of what the entry rebuilt; everything else is shared. */
static kiln_status fresh(runner *r, const ts_value *v, ts_value *out) {
  const ts_value *items = NULL;
  const int n = parts(v, &items);
  *out = *v;
  if (n < 0 || !map_get_number(&r->rebuilt, (uint64_t)(uintptr_t)v->u.object)) return KILN_OK;
  ts_value *made = ARENA_ARRAY(r->it->arena, ts_value, n ? n : 1);
  if (!made) return interp_no_memory(r->it);
  for (int i = 0; i < n; i++) KILN_TRY(fresh(r, &items[i], &made[i]));
  return control_rebuild(r->it, v, made, n, out);
}

static kiln_status start_from(runner *r, const ts_saved *entry) {
  ts_saved made = *entry;
  made.items = ARENA_ARRAY(r->it->arena, ts_value, entry->count ? entry->count : 1);
  if (!made.items) return interp_no_memory(r->it);
  for (int i = 0; i < entry->count; i++) KILN_TRY(fresh(r, &entry->items[i], &made.items[i]));
  KILN_TRY(interp_note_change(r->it, entry->kind, entry->container));
  return control_restore(r->it, &made);
}

static kiln_status run_method(interp *it, void *user, control_side *side) {
  runner *r = user;
  ts_value result;
  (void)side;
  for (int i = 0; r->entry && i < r->n_containers; i++) KILN_TRY(start_from(r, &r->entry[i]));
  if (r->entry) {
    for (int i = 0; i < r->n_states; i++) {
      if (i >= r->n_tensors) break; /* written tensors come first */
      KILN_TRY(control_note_handle(it, r->tensors[i].t));
      r->tensors[i].t->v = r->states[i].param;
      r->tensors[i].t->version++;
    }
  }
  KILN_TRY(interp_invoke(it, r->m->function, r->m->self, r->m->n_args, r->m->args, NULL, &result));
  return interp_set_variable(it, "result", result);
}

/* A run that may fail leaves nothing behind. */
static kiln_status attempt(runner *r, control_side *side) {
  interp *it = r->it;
  const int guards = it->g->n_guards;
  ts_frame *frame = it->frame;
  *side = (control_side){0};
  it->steps = 0;
  if (it->a->im.calibration) it->a->im.calibration->layers = 0; /* counted anew in each run */
  const kiln_status status = control_run_side(it, &r->start, run_method, r, side);
  if (status == KILN_OK && !side->raised) return KILN_OK;
  if (status == KILN_OUT_OF_MEMORY || it->g->arena.failed || it->arena->failed)
    return KILN_NO_MEMORY("importing TorchScript");
  if (status != KILN_OK) {
    it->scope = side->scope.outer;
    it->frame = frame;
    it->depth = 0;
    it->regions = 0;
    it->raised = false;
    it->g->failed = false;
    it->g->failure = KILN_OK;
    KILN_TRY(control_undo(it, &side->scope));
    control_variables_apply(it, &r->start.slots);
  }
  control_drop(side->block);
  it->g->n_guards = guards;
  control_side_free(side);
  if (status != KILN_OK) return status;
  return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s", side->reason);
}

static void discard(runner *r, control_side *side, int guards) {
  control_drop(side->block);
  r->it->g->n_guards = guards;
  control_side_free(side);
}

/* Makes the side's effects last: its nodes become the graph's own. */
static kiln_status adopt(runner *r, control_side *side) {
  block *from = side->block, *to = &r->it->g->body;
  for (node *n = from->first; n; n = n->next) n->parent = to;
  if (from->first) {
    from->first->prev = to->last;
    if (to->last)
      to->last->next = from->first;
    else
      to->first = from->first;
    to->last = from->last;
    from->first = from->last = NULL;
  }
  control_variables_apply(r->it, &side->slots);
  KILN_TRY(control_set_handles(r->it, side->handles, side->n_handles));
  for (int i = 0; i < side->n_changed; i++) KILN_TRY(control_restore(r->it, &side->changed[i]));
  control_side_free(side);
  return KILN_OK;
}

/* ---- what changed ----------------------------------------------------------------------------------------------- */

static bool is_argument(const void *container, const ts_value *v, int depth) {
  const ts_list *l = interp_items(v);
  if (depth > TS_MAX_NESTING) return false;
  if (v->kind == TSV_LIST && v->u.list == container) return true;
  if (v->kind == TSV_DICT && v->u.dict == container) return true;
  for (int i = 0; l && i < l->count; i++)
    if (is_argument(container, &l->items[i], depth + 1)) return true;
  return false;
}

static bool same_contents(const ts_saved *a, const ts_saved *b) {
  if (a->count != b->count) return false;
  for (int i = 0; i < a->count; i++)
    if (!control_identical(&a->items[i], &b->items[i]) || (a->keys && !control_identical(&a->keys[i], &b->keys[i])))
      return false;
  return true;
}

static bool is_input(const method *m, const itensor *t) {
  for (int i = 0; i < m->n_leaves; i++) {
    const itensor *input = m->leaves[i].tensor >= 0 ? m->leaves[i].v.u.tensor : NULL;
    if (!input) continue;
    if (input->base == t->base) return true;
    for (int k = 0; k < 2; k++)
      if (input->parts[k] && input->parts[k]->base == t->base) return true;
  }
  return false;
}

static kiln_status find_changes(runner *r, const control_side *side) {
  interp *it = r->it;
  r->before = ARENA_ARRAY(it->arena, ts_saved, side->n_changed + 1);
  r->tensors = ARENA_ARRAY(it->arena, written, side->n_handles + 1);
  if (!r->before || !r->tensors) return interp_no_memory(it);
  r->n_containers = r->n_tensors = 0;
  for (int i = 0; i < side->n_changed; i++) {
    bool skip = same_contents(&side->scope.saved[i], &side->changed[i]);
    for (int k = 0; k < r->m->n_args && !skip; k++) skip = is_argument(side->changed[i].container, &r->m->args[k], 0);
    if (!skip) r->before[r->n_containers++] = side->scope.saved[i];
  }
  for (int i = 0; i < side->n_handles; i++) {
    itensor *t = side->handles[i].t;
    const itensor *before = &side->scope.handles[i].state;
    if (before->base != t || before->v == side->handles[i].state.v || is_input(r->m, t)) continue;
    value *initial = (value *)(uintptr_t)interp_fold(it, before->v);
    if (!initial) return KILN_FAIL(KILN_UNSUPPORTED, "a tensor of the module that is not constant is written in place");
    r->tensors[r->n_tensors++] = (written){t, initial};
  }
  return KILN_OK;
}

/* ---- entry and exit --------------------------------------------------------------------------------------------- */

static kiln_status new_state(runner *r, const char *name, value *initial, const tensor_type *type, value **out) {
  interp *it = r->it;
  if (r->n_states == MAX_STATES)
    return KILN_FAIL(KILN_UNSUPPORTED, "the method changes more than %d attributes", MAX_STATES);
  if (!type_is_static(type))
    return KILN_FAIL(
        KILN_UNSUPPORTED,
        "attribute `%.200s` keeps a tensor whose shape depends on the input's: give that input a fixed shape", name);
  const char *copy = arena_strdup(&it->g->arena, name);
  *out = graph_add_param(&it->g->body, NULL, type);
  if (!copy || !*out || !initial) return interp_no_memory(it);
  r->handles[r->n_states] = NULL;
  r->states[r->n_states++] = (method_state){.name = copy, .initial = initial, .param = *out};
  return KILN_OK;
}

/* Zeros: a state that the first call does not read. */
static kiln_status zeros(interp *it, const tensor_type *type, value **out) {
  size_t bytes = 0;
  if (!type_bytes(type, &bytes) || bytes > (size_t)1 << 30)
    return KILN_FAIL(KILN_UNSUPPORTED, "a state of more than 1 GiB");
  void *data = mem_alloc_aligned(bytes ? bytes : 1);
  if (!data) return KILN_NO_MEMORY("states");
  memset(data, 0, bytes);
  *out = graph_constant_take(it->g, type, data);
  return *out ? KILN_OK : interp_no_memory(it);
}

static kiln_status number_state(runner *r, const char *name, const ts_value *v, bool later, ts_value *out) {
  value *initial, *param;
  const ts_value zero = {.kind = v->kind == TSV_DATA ? (interp_number_type(v) == TST_BOOL    ? TSV_BOOL
                                                        : interp_number_type(v) == TST_FLOAT ? TSV_FLOAT
                                                                                             : TSV_INT)
                                                     : v->kind};
  ts_value start = later || v->kind == TSV_DATA ? zero : *v;
  if (start.kind == TSV_INT && !dim_is_const(start.u.i)) start = of_int(0);
  KILN_TRY(interp_number_tensor(r->it, &start, &initial));
  KILN_TRY(new_state(r, name, initial, &initial->type, &param));
  *out = (ts_value){.kind = TSV_DATA, .u = {.data = param}};
  return KILN_OK;
}

static kiln_status tensor_state(runner *r, const char *name, const ts_value *v, bool later, ts_value *out) {
  value *now = lower_value(&r->it->b, v->u.tensor), *initial = NULL, *param;
  if (!now) return interp_no_memory(r->it);
  if (later) {
    if (type_is_static(&now->type)) KILN_TRY(zeros(r->it, &now->type, &initial));
  } else {
    initial = (value *)(uintptr_t)interp_fold(r->it, now);
    if (!initial) return KILN_FAIL(KILN_UNSUPPORTED, "attribute `%.200s` is not constant before the first call", name);
  }
  KILN_TRY(new_state(r, name, initial ? initial : now, &now->type, &param));
  KILN_TRY(interp_new_tensor(r->it, param, out));
  r->handles[r->n_states - 1] = out->u.tensor;
  return KILN_OK;
}

static const char *child(runner *r, const char *name, const ts_value *container, int i) {
  arena *a = r->it->arena;
  const char *dot = *name ? "." : "";
  if (container->kind == TSV_DICT && container->u.dict->keys[i].kind == TSV_STR)
    return arena_printf(a, "%s%s%s", name, dot, container->u.dict->keys[i].u.s);
  if (container->kind == TSV_OBJECT || container->kind == TSV_NAMEDTUPLE)
    return arena_printf(a, "%s%s%s", name, dot, container->u.object->cls->attributes[i].name);
  return arena_printf(a, "%s%s%d", name, dot, i);
}

/* What a run starts with where the module has `from` and a run left `to`. `later`: all but the first call, which start
 * from what the first left; else `from` is the states' first value. */
static kiln_status enter(runner *r, const char *name, const ts_value *from, const ts_value *to, bool later, int depth,
                         ts_value *out) {
  const ts_value *a = NULL, *b = NULL;
  *out = later ? *to : *from;
  if (control_identical(from, to)) return KILN_OK;
  const int n = parts(from, &a), count = parts(to, &b);
  if (to->kind == TSV_TENSOR && (later || from->kind == TSV_TENSOR)) return tensor_state(r, name, out, later, out);
  if (interp_is_number(to) && (later || interp_is_number(from))) {
    if (!later || to->kind == TSV_DATA || map_has(&r->numbers, name)) return number_state(r, name, out, later, out);
    return KILN_OK;
  }
  if (depth > TS_MAX_NESTING || (count >= 0 && !later && (n != count || from->kind != to->kind))) {
    r->another_shape = true;
    return KILN_OK;
  }
  if (count < 0) {
    r->another_shape |= !later;
    return KILN_OK;
  }
  ts_value *made = ARENA_ARRAY(r->it->arena, ts_value, count ? count : 1);
  if (!made) return interp_no_memory(r->it);
  for (int i = 0; i < count; i++) {
    const ts_value none = of_none();
    const char *key = child(r, name, to, i);
    if (!key) return interp_no_memory(r->it);
    KILN_TRY(enter(r, key, n == count ? &a[i] : &none, &b[i], later, depth + 1, &made[i]));
  }
  KILN_TRY(control_rebuild(r->it, to, made, count, out));
  return map_put_number(&r->rebuilt, (uint64_t)(uintptr_t)out->u.object, r) ? KILN_OK : interp_no_memory(r->it);
}

/* The present contents of a container that a side changed. */
static kiln_status contents_of(runner *r, const control_side *side, const ts_saved *of, ts_saved *out) {
  for (int i = 0; side && i < side->n_changed; i++)
    if (side->changed[i].container == of->container) {
      *out = side->changed[i];
      return KILN_OK;
    }
  return control_contents(r->it, of->kind, of->container, out);
}

static const char *container_name(const ts_saved *s) {
  const ts_object *o = s->container;
  if (s->kind == TSV_OBJECT) return o->path ? o->path : "";
  return s->kind == TSV_LIST ? "list" : "dict";
}

static ts_value as_value(const ts_saved *s) {
  ts_value v = {.kind = s->kind};
  v.u.object = s->container;
  return v;
}

static kiln_status make_entry(runner *r, const control_side *after, bool later) {
  interp *it = r->it;
  r->n_states = 0;
  r->another_shape = false;
  it->g->body.n_params = r->m->n_tensors;
  r->entry = ARENA_ARRAY(it->arena, ts_saved, r->n_containers + 1);
  if (!r->entry) return interp_no_memory(it);
  for (int i = 0; i < r->n_tensors; i++) {
    value *param;
    char name[40];
    const ts_archive *a = it->a;
    snprintf(name, sizeof name, "tensor%d", i);
    const char *path = name;
    for (int32_t k = 0; k < a->n_parameters; k++) {
      const ts_value *v = &a->parameters[k].owner->attrs[a->parameters[k].attribute];
      if (v->kind == TSV_TENSOR && v->u.tensor->base == r->tensors[i].t) path = a->parameters[k].path;
    }
    KILN_TRY(new_state(r, path, r->tensors[i].initial, &r->tensors[i].initial->type, &param));
  }
  for (int i = 0; i < r->n_containers; i++) {
    ts_saved to;
    const ts_saved *from = &r->before[i];
    KILN_TRY(contents_of(r, after, from, &to));
    ts_saved *made = &r->entry[i];
    *made = later ? to : *from;
    if (from->count != to.count) {
      r->another_shape = true;
      if (!later) continue;
    }
    made->items = ARENA_ARRAY(it->arena, ts_value, made->count ? made->count : 1);
    if (!made->items) return interp_no_memory(it);
    const ts_value owner = as_value(from);
    for (int k = 0; k < made->count; k++) {
      const ts_value none = of_none();
      const char *name = from->kind == TSV_OBJECT ? child(r, container_name(from), &owner, k)
                                                  : arena_printf(it->arena, "%s%d.%d", container_name(from), i, k);
      if (!name) return interp_no_memory(it);
      KILN_TRY(
          enter(r, name, from->count == to.count ? &from->items[k] : &none, &to.items[k], later, 0, &made->items[k]));
    }
  }
  return KILN_OK;
}

/* Compares how a run started with how it ended, and fills in the states' last values. Numbers that changed though they
 * are no states become some in the next try. */
static kiln_status leave(runner *r, const char *name, const ts_value *from, const ts_value *to, int depth,
                         bool *again) {
  const ts_value *a = NULL, *b = NULL;
  const bool state = r->next < r->n_states && ((from->kind == TSV_TENSOR && from->u.tensor == r->handles[r->next]) ||
                                               (from->kind == TSV_DATA && from->u.data == r->states[r->next].param));
  if (state) {
    method_state *s = &r->states[r->next++];
    value *last = NULL;
    if (to->kind == TSV_TENSOR && from->kind == TSV_TENSOR)
      last = lower_value(&r->it->b, to->u.tensor);
    else if (interp_is_number(to) && from->kind == TSV_DATA && interp_number_type(to) == interp_number_type(from))
      KILN_TRY(interp_number_tensor(r->it, to, &last));
    s->last = last;
    if (!last && (r->it->g->failed || r->it->arena->failed)) return interp_no_memory(r->it);
    if (!last || !type_equal(&last->type, &s->param->type)) r->another_shape = true;
    return KILN_OK;
  }
  if (control_identical(from, to)) return KILN_OK;
  if (interp_is_number(from) && interp_is_number(to)) {
    const char *copy = arena_strdup(r->it->arena, name);
    if (!copy || !map_put(&r->numbers, copy, r)) return interp_no_memory(r->it);
    *again = true;
    return KILN_OK;
  }
  const int n = parts(from, &a), count = parts(to, &b);
  if (n < 0 || n != count || from->kind != to->kind || depth > TS_MAX_NESTING) {
    r->another_shape = true;
    return KILN_OK;
  }
  for (int i = 0; i < n; i++) {
    const char *key = child(r, name, from, i);
    if (!key) return interp_no_memory(r->it);
    KILN_TRY(leave(r, key, &a[i], &b[i], depth + 1, again));
  }
  return KILN_OK;
}

/* `side` NULL: what the containers hold now. */
static kiln_status compare_exit(runner *r, const control_side *side, bool *again) {
  *again = false;
  r->next = r->n_tensors;
  for (int i = 0; i < r->n_containers; i++) {
    ts_saved to;
    const ts_saved *from = &r->entry[i];
    KILN_TRY(contents_of(r, side, from, &to));
    if (to.count != from->count) {
      r->another_shape = true;
      continue;
    }
    const ts_value owner = as_value(from);
    for (int k = 0; k < to.count; k++) {
      const char *name = from->kind == TSV_OBJECT ? child(r, container_name(from), &owner, k)
                                                  : arena_printf(r->it->arena, "%s%d.%d", container_name(from), i, k);
      if (!name) return interp_no_memory(r->it);
      KILN_TRY(leave(r, name, &from->items[k], &to.items[k], 0, again));
    }
  }
  if (side) return KILN_OK;
  for (int i = 0; i < r->n_tensors; i++) {
    r->states[i].last = lower_value(&r->it->b, r->tensors[i].t);
    if (!r->states[i].last) return interp_no_memory(r->it);
  }
  return KILN_OK;
}

/* Did the run change something that the entry does not cover? Then it is covered the next time. */
static bool covers(const runner *r, const control_side *side) {
  for (int i = 0; i < side->n_changed; i++) {
    bool known = same_contents(&side->scope.saved[i], &side->changed[i]);
    for (int k = 0; k < r->n_containers && !known; k++) known = r->before[k].container == side->changed[i].container;
    for (int k = 0; k < r->m->n_args && !known; k++) known = is_argument(side->changed[i].container, &r->m->args[k], 0);
    if (!known) return false;
  }
  for (int i = 0; i < side->n_handles; i++) {
    const itensor *t = side->handles[i].t, *before = &side->scope.handles[i].state;
    bool known = before->base != t || before->v == side->handles[i].state.v || is_input(r->m, t);
    for (int k = 0; k < r->n_tensors && !known; k++) known = r->tensors[k].t == t;
    for (int k = 0; k < r->n_states && !known; k++) known = r->handles[k] == t; /* an attribute's own state */
    if (!known) return false;
  }
  return true;
}

/* ---- step 2 ----------------------------------------------------------------------------------------------------- */

/* Is there anything that callers will see, but whose contents an in-place write left unknown? */
static kiln_status check_stale(runner *r) {
  const ts_archive *a = r->it->a;
  const char *name = NULL;
  for (int i = 0; i < r->m->n_leaves; i++)
    if (r->m->leaves[i].tensor >= 0 && r->m->leaves[i].v.u.tensor->base->stale) name = r->m->leaves[i].name;
  for (int32_t i = 0; i < a->n_parameters; i++) {
    const ts_value *v = &a->parameters[i].owner->attrs[a->parameters[i].attribute];
    if (v->kind == TSV_TENSOR && v->u.tensor->base->stale) name = a->parameters[i].path;
  }
  if (!name) return KILN_OK;
  return KILN_FAIL(KILN_UNSUPPORTED,
                   "an in-place write may change `%.200s`, depending on a branch or loop on tensor data; clone() it in "
                   "the model before "
                   "it is written",
                   name);
}

static kiln_status finish(runner *r) {
  method *m = r->m;
  KILN_TRY(check_stale(r));
  m->states = arena_copy(r->it->arena, r->states, (size_t)(r->n_states ? r->n_states : 1) * sizeof *r->states);
  m->n_states = r->n_states;
  const int at = interp_variable(r->it->frame, "result");
  if (!m->states) return interp_no_memory(r->it);
  m->result = at >= 0 ? r->it->frame->slots[at] : of_none();
  return KILN_OK;
}

/* One program for all calls. Fails, or sets another_shape, if that is not possible. */
static kiln_status one_program(runner *r) {
  control_side *side = &r->sides[1];
  bool again = false;
  const int guards = r->it->g->n_guards;
  KILN_TRY(make_entry(r, &r->sides[0], false));
  if (r->another_shape) return KILN_OK;
  KILN_TRY(attempt(r, side));
  if (!covers(r, side)) r->another_shape = true;
  if (!r->another_shape) KILN_TRY(compare_exit(r, side, &again));
  if (r->another_shape || again) {
    r->another_shape = true;
    discard(r, side, guards);
    return KILN_OK;
  }
  control_drop(r->sides[0].block);
  KILN_TRY(adopt(r, side));
  KILN_TRY(compare_exit(r, NULL, &again));
  return finish(r);
}

/* ---- step 3 ----------------------------------------------------------------------------------------------------- */

static kiln_status shape_changes(const runner *r) {
  for (int i = 0; i < r->n_states; i++) {
    const method_state *s = &r->states[i];
    if (s->last && type_equal(&s->last->type, &s->param->type)) continue;
    return KILN_FAIL(
        KILN_UNSUPPORTED,
        "attribute `%.200s` has another type or shape after each call, which an engine's state cannot have", s->name);
  }
  return KILN_FAIL(KILN_UNSUPPORTED,
                   "the method changes the structure of the module's attributes with each call (a list that grows?)");
}

static kiln_status two_programs(runner *r) {
  interp *it = r->it;
  control_side *sides = r->sides;
  value *flag;
  bool again = true;
  const int guards = it->g->n_guards;
  for (int tries = 0; again; tries++) {
    KILN_TRY(make_entry(r, &r->sides[0], true));
    r->another_shape = false;
    KILN_TRY(attempt(r, &sides[1]));
    if (!covers(r, &sides[1])) r->another_shape = true;
    KILN_TRY(compare_exit(r, &sides[1], &again));
    if (r->another_shape) return shape_changes(r);
    if (again && tries == MAX_TRIES)
      return KILN_FAIL(KILN_UNSUPPORTED, "numbers among the module's attributes do not settle");
    if (again) discard(r, &sides[1], guards);
  }
  value *first = graph_scalar_int(it->g, KILN_BOOL, 1);
  if (!first) return interp_no_memory(it);
  KILN_TRY(new_state(r, "first_call", first, &first->type, &flag));
  KILN_TRY(control_merge(it, flag, &r->start, sides));
  KILN_TRY(compare_exit(r, NULL, &again));
  r->states[r->n_states - 1].last = graph_scalar_int(it->g, KILN_BOOL, 0);
  if (r->another_shape) return shape_changes(r);
  return finish(r);
}

/* ---- all -------------------------------------------------------------------------------------------------------- */

static kiln_status run_all(runner *r) {
  KILN_TRY(control_start_open(r->it, &r->start));
  KILN_TRY(attempt(r, &r->sides[0]));
  KILN_TRY(find_changes(r, &r->sides[0]));
  if (r->n_containers == 0 && r->n_tensors == 0) {
    KILN_TRY(adopt(r, &r->sides[0]));
    return finish(r);
  }
  const kiln_status status = one_program(r);
  if (status == KILN_OUT_OF_MEMORY || (status == KILN_OK && !r->another_shape)) return status;
  error_clear();
  if (r->it->g->failed) { /* what failed was not built */
    r->it->g->failed = false;
    r->it->g->failure = KILN_OK;
  }
  return two_programs(r);
}

kiln_status method_run(method *m) {
  runner r = {.m = m, .it = m->it};
  ts_frame frame = {.function = m->function, .line = m->function->def->line, .path = ""};
  m->it->frame = &frame;
  const kiln_status status = run_all(&r);
  m->it->frame = NULL;
  map_free(&frame.names);
  map_free(&r.numbers);
  map_free(&r.rebuilt);
  for (int k = 0; k < 2; k++) control_side_free(&r.sides[k]);
  return status;
}
