/* Statements and calls of the abstract interpreter: one frame for each function that runs, with bounds on steps and
 * depth. */
#include "import/torchscript/control.h"

#include <stdio.h>
#include <string.h>

const char *interp_here(const interp *it) { return it->frame ? it->frame->function->file : "the model"; }

void interp_note(interp *it, const char *fmt, ...) {
  char line[512];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  if (++it->n_notes > 100) return;
  text_printf(&it->notes, "%s\n", line);
}

/* ---- variables -------------------------------------------------------------------------------------------------- */

int interp_variable(const ts_frame *f, const char *name) {
  const uintptr_t at = (uintptr_t)map_get(&f->names, name);
  return (int)at - 1;
}

kiln_status interp_set_variable(interp *it, const char *name, ts_value v) {
  ts_frame *f = it->frame;
  int at = interp_variable(f, name);
  if (at < 0) {
    if (f->count == f->capacity) {
      const int capacity = f->capacity ? 2 * f->capacity : 32;
      ts_value *grown = ARENA_ARRAY(it->arena, ts_value, capacity);
      if (!grown) return interp_no_memory(it);
      if (f->count) memcpy(grown, f->slots, (size_t)f->count * sizeof *grown);
      f->slots = grown;
      f->capacity = capacity;
    }
    at = f->count++;
    if (!map_put(&f->names, name, (void *)((uintptr_t)at + 1))) return interp_no_memory(it);
  }
  f->slots[at] = v;
  return KILN_OK;
}

/* ---- statements ------------------------------------------------------------------------------------------------- */

static kiln_status assign_to(interp *it, const ts_expr *target, ts_value v) {
  ts_value owner;
  if (target->kind == TS_NAME) return interp_set_variable(it, target->s, v);
  if (target->kind != TS_ATTR)
    return IT_FAIL(it, KILN_INVALID_FILE, "only variables and attributes can be assigned to");
  KILN_TRY(interp_eval(it, target->a, &owner));
  return interp_attribute_set(it, &owner, target->s, v);
}

static kiln_status unpack(interp *it, const ts_stmt *s, const ts_value *v) {
  const ts_list *l = interp_items(v);
  const ts_value *items = l ? l->items : NULL;
  int n = l ? l->count : -1;
  if (v->kind == TSV_NAMEDTUPLE) {
    items = v->u.object->attrs;
    n = v->u.object->n_attrs;
  }
  if (n != s->count)
    return IT_FAIL(it, n < 0 ? KILN_INVALID_FILE : KILN_INVALID_ARGUMENT,
                   n < 0 ? "%d values expected, got %s" : "provided list must have %d elements, got %s", s->count,
                   n < 0 ? interp_kind_name(v) : "another number");
  for (int i = 0; i < n; i++) {
    if (items[i].kind == TSV_RUN)
      return IT_FAIL(it, KILN_UNSUPPORTED, "a list that grew in a loop on tensor data is taken apart");
    KILN_TRY(assign_to(it, s->targets[i], items[i]));
  }
  return KILN_OK;
}

static kiln_status run_assign(interp *it, const ts_stmt *s) {
  ts_value v;
  KILN_TRY(interp_eval(it, s->value, &v));
  if (!s->unpack && s->count == 1) return assign_to(it, s->targets[0], v);
  return unpack(it, s, &v);
}

/* The truth of a condition: 0 or 1, or -1 with the rank-0 bool in *out_data. */
static kiln_status condition(interp *it, const ts_expr *e, int *out, value **out_data) {
  ts_value v;
  KILN_TRY(interp_eval(it, e, &v));
  if (v.kind == TSV_TENSOR) KILN_TRY(interp_scalar(it, lower_value(&it->b, v.u.tensor), TST_BOOL, &v));
  if (v.kind == TSV_BOOL || (v.kind == TSV_INT && dim_is_const(v.u.i))) {
    *out = v.u.i != 0;
    return KILN_OK;
  }
  if (v.kind != TSV_DATA) return IT_FAIL(it, KILN_INVALID_FILE, "a condition that is %s", interp_kind_name(&v));
  *out = -1;
  *out_data = v.u.data;
  return KILN_OK;
}

static kiln_status run_if(interp *it, const ts_stmt *s) {
  int known = 0;
  value *data = NULL;
  KILN_TRY(condition(it, s->value, &known, &data));
  if (known < 0) return interp_if_data(it, s, data);
  return interp_run_block(it, known ? s->body : s->orelse);
}

static kiln_status check_nodes(interp *it) {
  if (it->g->next_id <= TS_MAX_NODES) return KILN_OK;
  return IT_FAIL(it, KILN_UNSUPPORTED, "unrolled, the model's loops make more than %d operations", TS_MAX_NODES);
}

static kiln_status run_while(interp *it, const ts_stmt *s) {
  for (;;) {
    int known = 0;
    value *data = NULL;
    KILN_TRY(condition(it, s->value, &known, &data));
    if (known < 0) return interp_while_data(it, s, false, NULL);
    if (!known) return KILN_OK;
    KILN_TRY(interp_run_block(it, s->body));
    if (it->frame->returned) return KILN_OK;
    KILN_TRY(check_nodes(it));
    if (++it->steps > TS_MAX_STEPS)
      return IT_FAIL(it, KILN_UNSUPPORTED, "a loop that takes more than %d steps at build time", TS_MAX_STEPS);
  }
}

/* Always `for x in range(n)`. */
static kiln_status run_for(interp *it, const ts_stmt *s) {
  const ts_expr *e = s->value;
  ts_value n;
  if (e->kind != TS_CALL || e->a->kind != TS_NAME || !str_eq(e->a->s, "range") || e->count != 1 ||
      s->targets[0]->kind != TS_NAME)
    return IT_FAIL(it, KILN_INVALID_FILE, "a for loop over something else than range(n)");
  KILN_TRY(interp_eval(it, e->items[0], &n));
  if (n.kind == TSV_DATA || (n.kind == TSV_INT && !dim_is_const(n.u.i))) return interp_while_data(it, s, true, &n);
  if (n.kind != TSV_INT) return IT_FAIL(it, KILN_INVALID_FILE, "range() of %s", interp_kind_name(&n));
  for (int64_t i = 0; i < n.u.i; i++) {
    KILN_TRY(interp_set_variable(it, s->targets[0]->s, of_int(i)));
    KILN_TRY(interp_run_block(it, s->body));
    if (it->frame->returned) return KILN_OK;
    KILN_TRY(check_nodes(it));
    if (++it->steps > TS_MAX_STEPS)
      return IT_FAIL(it, KILN_UNSUPPORTED, "a loop that takes more than %d steps at build time", TS_MAX_STEPS);
  }
  return KILN_OK;
}

/* PyTorch's own context managers switch gradients; a user's class may do anything. */
static kiln_status run_with(interp *it, const ts_stmt *s) {
  ts_value manager, result, none[3] = {{.kind = TSV_NONE}, {.kind = TSV_NONE}, {.kind = TSV_NONE}};
  KILN_TRY(interp_eval(it, s->value, &manager));
  const ts_class *c = manager.kind == TSV_OBJECT ? manager.u.object->cls : NULL;
  const bool user = c && !str_starts(c->name, "__torch__.torch.");
  const ts_function *enter = user ? ts_class_method(c, "__enter__") : NULL,
                    *leave = user ? ts_class_method(c, "__exit__") : NULL;
  if (enter) KILN_TRY(interp_invoke(it, enter, manager.u.object, 0, NULL, NULL, &result));
  KILN_TRY(interp_run_block(it, s->body));
  if (leave) KILN_TRY(interp_invoke(it, leave, manager.u.object, 3, none, NULL, &result));
  return KILN_OK;
}

static kiln_status run_return(interp *it, const ts_stmt *s) {
  it->frame->result = of_none();
  if (s->value) KILN_TRY(interp_eval(it, s->value, &it->frame->result));
  it->frame->returned = true;
  return KILN_OK;
}

static kiln_status run_statement(interp *it, const ts_stmt *s) {
  ts_value v;
  it->frame->line = s->line;
  if (++it->steps > TS_MAX_STEPS)
    return IT_FAIL(it, KILN_UNSUPPORTED, "the model takes more than %d steps at build time", TS_MAX_STEPS);
  switch (s->kind) {
    case TS_ASSIGN:
      return run_assign(it, s);
    case TS_DECLARE:
      if (!s->value) return KILN_OK;
      KILN_TRY(interp_eval(it, s->value, &v));
      return assign_to(it, s->targets[0], v);
    case TS_EXPR:
      return interp_eval(it, s->value, &v);
    case TS_RETURN:
      return run_return(it, s);
    case TS_IF:
      return run_if(it, s);
    case TS_WHILE:
      return run_while(it, s);
    case TS_FOR:
      return run_for(it, s);
    case TS_WITH:
      return run_with(it, s);
    case TS_PASS:
      return KILN_OK;
    default:
      return IT_FAIL(it, KILN_INVALID_FILE, "a definition inside of a function");
  }
}

kiln_status interp_run_block(interp *it, const ts_stmt *body) {
  for (const ts_stmt *s = body; s && !it->frame->returned; s = s->next) KILN_TRY(run_statement(it, s));
  return KILN_OK;
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

static int parameter_index(const ts_stmt *def, int first, const char *name) {
  for (int i = first; i < def->n_params; i++)
    if (str_eq(def->params[i].name, name)) return i;
  return -1;
}

/* Runs in the callee's frame: defaults are evaluated there. */
static kiln_status bind(interp *it, const ts_function *f, ts_object *self, int n, const ts_value *args,
                        const char *const *names) {
  const ts_stmt *def = f->def;
  const int first = self ? 1 : 0;
  bool given[256] = {false};
  if (def->n_params > (int)KILN_COUNT(given))
    return IT_FAIL(it, KILN_UNSUPPORTED, "a function with more than 256 parameters");
  if (def->n_params < first) return IT_FAIL(it, KILN_INVALID_FILE, "method %s has no self", f->name);
  if (self)
    KILN_TRY(interp_set_variable(it, def->params[0].name, (ts_value){.kind = TSV_OBJECT, .u = {.object = self}}));
  for (int i = 0; i < n; i++) {
    const char *name = names ? names[i] : NULL;
    const int at = name ? parameter_index(def, first, name) : first + i;
    if (at < 0 || at >= def->n_params || given[at])
      return IT_FAIL(it, KILN_INVALID_FILE, "%s() takes %d arguments; it was given %d, or one twice", f->name,
                     def->n_params - first, n);
    given[at] = true;
    KILN_TRY(interp_set_variable(it, def->params[at].name, args[i]));
  }
  for (int i = first; i < def->n_params; i++) {
    ts_value v;
    if (given[i]) continue;
    if (!def->params[i].fallback)
      return IT_FAIL(it, KILN_INVALID_FILE, "%s(): argument %s is missing", f->name, def->params[i].name);
    KILN_TRY(interp_eval(it, def->params[i].fallback, &v));
    KILN_TRY(interp_set_variable(it, def->params[i].name, v));
  }
  return KILN_OK;
}

static kiln_status enter(interp *it, const ts_function *f, ts_object *self, int n, const ts_value *args,
                         const char *const *names) {
  KILN_TRY(bind(it, f, self, n, args, names));
  return interp_run_block(it, f->def->body);
}

/* Nodes outlive the archive. */
static const char *lasting_path(interp *it, const ts_object *self) {
  const char *known = map_get_number(&it->paths, (uint64_t)(uintptr_t)self);
  if (known) return known;
  known = arena_strdup(&it->g->arena, self->path);
  return known && map_put_number(&it->paths, (uint64_t)(uintptr_t)self, (void *)(uintptr_t)known) ? known : "";
}

kiln_status interp_invoke(interp *it, const ts_function *f, ts_object *self, int n, const ts_value *args,
                          const char *const *names, ts_value *out) {
  if (it->depth >= TS_MAX_DEPTH)
    return IT_FAIL(it, KILN_UNSUPPORTED,
                   "calls are nested more than %d deep: recursion that does not end at build time?", TS_MAX_DEPTH);
  ts_frame frame = {.caller = it->frame, .function = f, .line = f->def->line, .path = it->frame ? it->frame->path : ""};
  const char *path = it->b.path;
  if (self && self->cls->kind == TSC_MODULE && self->path) frame.path = lasting_path(it, self);
  it->frame = &frame;
  it->b.path = frame.path;
  it->depth++;
  kiln_status status = enter(it, f, self, n, args, names);
  it->depth--;
  it->b.path = path;
  it->frame = frame.caller;
  map_free(&frame.names);
  *out = frame.returned ? frame.result : of_none();
  if (status != KILN_OK && it->frame && it->depth < 8 && !it->raised)
    return error_note(status, __FILE__, __LINE__, "in %s(), called at %s", f->name,
                      ts_source(it->a, interp_here(it), it->frame->line));
  return status;
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static kiln_status add_builtins(interp *it, const ts_builtin *list) {
  for (; list->name; list++) {
    ts_builtin_link *made = ARENA_NEW(it->arena, ts_builtin_link), *last = map_get(&it->builtins, list->name);
    if (!made) return interp_no_memory(it);
    made->fn = list->fn;
    while (last && last->next) last = last->next;
    if (last)
      last->next = made;
    else if (!map_put(&it->builtins, list->name, made))
      return interp_no_memory(it);
  }
  return KILN_OK;
}

static void handle_changes(void *user, itensor *t) {
  interp *it = user;
  if (control_note_handle(it, t) != KILN_OK) it->arena->failed = true; /* sticky: the lowering that changes it fails */
}

kiln_status interp_open(interp *it, ts_archive *a, graph *g) {
  const ts_builtin *const families[] = {ts_builtins_number, ts_builtins_list, ts_builtins_string, ts_builtins_tensor,
                                        ts_builtins_misc};
  *it = (interp){.a = a, .g = g, .arena = &a->arena, .b = builder_at_end(&g->body)};
  a->im.changing = handle_changes;
  a->im.changing_user = it;
  KILN_TRY(aten_init());
  for (size_t i = 0; i < KILN_COUNT(families); i++) KILN_TRY(add_builtins(it, families[i]));
  return KILN_OK;
}

void interp_close(interp *it) {
  it->a->im.changing = NULL;
  map_free(&it->builtins);
  map_free(&it->folded);
  map_free(&it->paths);
  text_free(&it->notes);
}
