/* Lists that grew in a loop on tensor data, see grown.h. */
#include "import/torchscript/grown.h"

#include <string.h>

#include "ops/lowering.h"

/* ---- in the loop ------------------------------------------------------------------------------------------------- */

/* Does a size follow from the first `symbols` symbols? */
static bool known_outside(const dim_table *t, dim d, int symbols) {
  int64_t result, values[64];
  const int n = dim_symbol_count(t);
  if (dim_is_const(d)) return true;
  if (n > (int)KILN_COUNT(values)) return dim_symbol_index(t, d) >= 0 && dim_symbol_index(t, d) < symbols;
  for (int i = 0; i < n; i++) values[i] = i < symbols ? 7 : DIM_ERROR;
  return dim_eval(t, d, values, &result);
}

static kiln_status item_type(interp *it, const ts_value *v, int symbols, tensor_type *out) {
  if (v->kind != TSV_TENSOR || v->u.tensor->parts[0])
    return IT_FAIL(it, KILN_UNSUPPORTED,
                   "a list that grows in a loop whose length is known at run time only, of which an item is %s: it can "
                   "hold real tensors",
                   v->kind == TSV_TENSOR ? "complex" : interp_kind_name(v));
  const value *x = v->u.tensor->v; /* the iteration is over: only its type counts */
  if (!x) return interp_no_memory(it);
  if (x->type.rank == KILN_MAX_RANK)
    return IT_FAIL(it, KILN_UNSUPPORTED, "a list that grows in a loop, of tensors with more than %d dimensions",
                   KILN_MAX_RANK - 1);
  *out = x->type;
  for (int i = 0; i < x->type.rank; i++)
    if (!known_outside(it->g->dims, x->type.dims[i], symbols))
      return IT_FAIL(
          it, KILN_UNSUPPORTED,
          "a list that grows in a loop whose length is known at run time only: its items' shapes change from "
          "iteration to iteration");
  return KILN_OK;
}

kiln_status growth_find(interp *it, const ts_saved *from, const ts_saved *to, int symbols, growth *g,
                        bool *out_changed) {
  const int each = to->count - from->count;
  *out_changed = false;
  for (int i = 0; i < from->count && i < to->count; i++)
    if (!control_identical(&from->items[i], &to->items[i]))
      return IT_FAIL(it, KILN_UNSUPPORTED,
                     "a loop whose length is known at run time only changes items of a list that it also appends to");
  if (each < 1 || (g->each && g->each != each))
    return IT_FAIL(it, KILN_UNSUPPORTED,
                   "a loop whose length is known at run time only takes items from a list, or appends now more and now "
                   "fewer; an engine needs the same number of them in each iteration");
  for (int i = 0; i < each; i++) {
    tensor_type type;
    KILN_TRY(item_type(it, &to->items[from->count + i], symbols, &type));
    if (i == 0) {
      *out_changed = !g->each || !type_equal(&g->type, &type);
      g->type = type;
    } else if (!type_equal(&g->type, &type)) {
      return IT_FAIL(it, KILN_UNSUPPORTED,
                     "a list that grows in a loop whose length is known at run time only, by tensors of different "
                     "types or shapes");
    }
  }
  g->each = each;
  return KILN_OK;
}

value *growth_initial(interp *it, const growth *g, dim total) {
  dim dims[KILN_MAX_RANK] = {dim_mul(it->g->dims, total, g->each)};
  for (int i = 0; i < g->type.rank; i++) dims[i + 1] = g->type.dims[i];
  return lowering_full(&it->b, g->type.dtype, g->type.rank + 1, dims, 0);
}

static value *filled(interp *it, const growth *g, value *counter) {
  if (g->each == 1) return counter;
  return lower_binary(&it->b, "mul", counter, graph_scalar_int(it->g, KILN_I64, g->each));
}

kiln_status growth_next(interp *it, const growth *g, value *all, const ts_saved *to, value *counter, value **out) {
  value **items = ARENA_ARRAY(it->arena, value *, g->each);
  if (!items) return interp_no_memory(it);
  for (int i = 0; i < g->each; i++) {
    const ts_value *v = &to->items[to->count - g->each + i];
    value *x = v->kind == TSV_TENSOR ? lower_value(&it->b, v->u.tensor) : NULL;
    items[i] = x ? lowering_unsqueeze(&it->b, x, 0) : NULL;
    if (!items[i]) return interp_no_memory(it);
  }
  value *src = g->each == 1 ? items[0] : build(&it->b, "concat", g->each, items, ATTRS(A_INT("axis", 0)));
  *out = build(&it->b, "narrow_scatter", IN(all, src, filled(it, g, counter)), ATTRS(A_INT("axis", 0)));
  return *out ? KILN_OK : interp_no_memory(it);
}

kiln_status growth_item(interp *it, const growth *g, value *all, value *counter, const ts_saved *to, ts_value *out) {
  ts_run *run = ARENA_NEW(it->arena, ts_run);
  ts_value v;
  if (!run) return interp_no_memory(it);
  *run = (ts_run){NULL, counter ? filled(it, g, counter) : NULL};
  if (counter && !run->filled) return interp_no_memory(it);
  *out = (ts_value){.kind = TSV_RUN, .u = {.run = run}};
  if (!all) return KILN_OK;
  KILN_TRY(interp_new_tensor(it, all, &v));
  run->tensor = v.u.tensor;
  for (int i = 0; i < g->each && i < to->count; i++) {
    const ts_value *item = &to->items[to->count - 1 - i];
    if (item->kind == TSV_TENSOR && !handle_link(&it->a->im, run->tensor, item->u.tensor)) return interp_no_memory(it);
  }
  return KILN_OK;
}

/* ---- behind it --------------------------------------------------------------------------------------------------- */

static const ts_list *grown_list(const ts_value *v) {
  const ts_list *l = v->kind == TSV_LIST && v->u.list->grown ? v->u.list : NULL;
  for (int i = 0; l && i < l->count; i++)
    if (l->items[i].kind == TSV_RUN) return l;
  return NULL;
}

bool grown_takes(const ts_call *c) {
  if (str_eq(c->name, "append")) return false;
  for (int i = 0; i < c->n; i++)
    if (grown_list(&c->args[i]) || c->args[i].kind == TSV_RUN) return true;
  return false;
}

static kiln_status run_value(interp *it, const ts_value *run, value **out) {
  *out = NULL;
  if (!run->u.run->tensor)
    return IT_FAIL(
        it, KILN_UNSUPPORTED,
        "a while loop on tensor data reads items of a list that it appends to; keep the last one in a variable");
  *out = lower_value(&it->b, run->u.run->tensor);
  return *out ? KILN_OK : interp_no_memory(it);
}

/* Items that are known to be there, and a number that is not known before the run (or NULL). */
static kiln_status length(interp *it, const ts_list *l, dim *out, value **out_more) {
  *out = 0;
  *out_more = NULL;
  for (int i = 0; i < l->count; i++) {
    value *v = NULL;
    dim n = 1;
    if (l->items[i].kind == TSV_RUN && l->items[i].u.run->filled) {
      v = l->items[i].u.run->filled;
      *out_more = *out_more ? lower_binary(&it->b, "add", *out_more, v) : v;
      continue;
    }
    if (l->items[i].kind == TSV_RUN) {
      KILN_TRY(run_value(it, &l->items[i], &v));
      n = v->type.dims[0];
    }
    *out = dim_add(it->g->dims, *out, n);
  }
  return *out == DIM_ERROR ? interp_no_memory(it) : KILN_OK;
}

static const ts_run *open_run(const ts_list *l) {
  for (int i = 0; i < l->count; i++)
    if (l->items[i].kind == TSV_RUN && l->items[i].u.run->filled) return l->items[i].u.run;
  return NULL;
}

static kiln_status run_tensor(interp *it, const ts_value *run, ts_value *out) {
  value *v;
  KILN_TRY(run_value(it, run, &v));
  if (run->u.run->filled)
    return IT_FAIL(it, KILN_UNSUPPORTED, "a loop on tensor data takes all of a list that it appends to, so far");
  *out = of_tensor(run->u.run->tensor);
  return KILN_OK;
}

/* All items in one tensor, one after another along a new first axis. */
static kiln_status stacked(interp *it, const ts_list *l, ts_value *out) {
  ts_value list;
  KILN_TRY(interp_list_new(it, TSV_LIST, l->count, l->items, &list));
  for (int i = 0; i < l->count; i++) {
    ts_value *v = &list.u.list->items[i], args[2] = {*v, of_int(0)};
    if (v->kind == TSV_RUN)
      KILN_TRY(run_tensor(it, v, v));
    else
      KILN_TRY(interp_aten(it, "aten::unsqueeze", 2, args, v));
  }
  *out = list.u.list->items[0];
  return l->count == 1 ? KILN_OK : interp_aten(it, "aten::cat", 2, (ts_value[]){list, of_int(0)}, out);
}

static kiln_status rank_of_items(interp *it, const ts_list *l, int *out) {
  for (int i = 0; i < l->count; i++) {
    value *v;
    if (l->items[i].kind != TSV_RUN) continue;
    KILN_TRY(run_value(it, &l->items[i], &v));
    *out = v->type.rank - 1;
  }
  return KILN_OK;
}

static kiln_status do_stack(interp *it, const ts_call *c, ts_value *out) {
  int64_t axis;
  int rank = 0;
  ts_value all;
  KILN_TRY(interp_arg_int(it, c, 1, "dim", 0, &axis));
  KILN_TRY(rank_of_items(it, c->args[0].u.list, &rank));
  if (axis < 0) axis += rank + 1;
  if (axis < 0 || axis > rank) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "stack(): dim is out of range");
  KILN_TRY(stacked(it, c->args[0].u.list, &all));
  value *v = lower_value(&it->b, all.u.tensor);
  return v ? interp_new_tensor(it, lowering_move_axis(&it->b, v, 0, (int)axis), out) : interp_no_memory(it);
}

/* The items of a run one behind the other along `axis`. */
static kiln_status run_in_a_row(interp *it, const ts_value *run, int axis, ts_value *out) {
  ts_value all;
  dim dims[KILN_MAX_RANK];
  KILN_TRY(run_tensor(it, run, &all));
  value *v = lower_value(&it->b, all.u.tensor);
  v = v ? lowering_move_axis(&it->b, v, 0, axis) : NULL;
  if (!v) return interp_no_memory(it);
  const int rank = v->type.rank - 1;
  for (int i = 0; i < rank; i++) dims[i] = v->type.dims[i < axis ? i : i + 1];
  dims[axis] = dim_mul(it->g->dims, v->type.dims[axis], v->type.dims[axis + 1]);
  return interp_new_tensor(it, lower_reshape(&it->b, v, rank, dims), out);
}

static kiln_status do_cat(interp *it, const ts_call *c, ts_value *out) {
  const ts_list *l = c->args[0].u.list;
  ts_value list;
  int64_t axis;
  int rank = 0;
  KILN_TRY(interp_arg_int(it, c, 1, "dim", 0, &axis));
  KILN_TRY(rank_of_items(it, l, &rank));
  if (axis < 0) axis += rank;
  if (axis < 0 || axis >= rank) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "cat(): dim is out of range");
  KILN_TRY(interp_list_new(it, TSV_LIST, l->count, l->items, &list));
  for (int i = 0; i < l->count; i++)
    if (l->items[i].kind == TSV_RUN) KILN_TRY(run_in_a_row(it, &l->items[i], (int)axis, &list.u.list->items[i]));
  *out = list.u.list->items[0];
  return l->count == 1 ? KILN_OK : interp_aten(it, "aten::cat", 2, (ts_value[]){list, of_int(axis)}, out);
}

/* An item of a list that consists of what the loop has appended up to now; negative indices count from there. */
static kiln_status item_in_loop(interp *it, const ts_list *l, const ts_value *index, ts_value *out) {
  value *all, *at;
  if (l->count != 1 || (index->kind != TSV_INT && index->kind != TSV_DATA))
    return IT_FAIL(it, KILN_UNSUPPORTED, "a loop on tensor data reads items of a list that it appends to");
  KILN_TRY(run_value(it, &l->items[0], &all));
  KILN_TRY(interp_number_tensor(it, index, &at));
  value *zero = graph_scalar_int(it->g, KILN_I64, 0);
  value *from_end = lower_binary(&it->b, "add", at, l->items[0].u.run->filled);
  at = build(&it->b, "where", IN(lower_binary(&it->b, "lt", at, zero), from_end, at), NO_ATTRS);
  if (!at) return interp_no_memory(it);
  const ts_value args[3] = {of_tensor(l->items[0].u.run->tensor), of_int(0), {.kind = TSV_DATA, .u = {.data = at}}};
  const ts_call select = {"select", 3, (ts_value *)(uintptr_t)args, NULL};
  return interp_call_operator(it, &select, out);
}

/* Known items before and behind the run, else a row of all. */
static kiln_status do_getitem(interp *it, const ts_call *c, ts_value *out) {
  const ts_list *l = c->args[0].u.list;
  const ts_value *index = &c->args[1];
  if (index->kind == TSV_INT && dim_is_const(index->u.i)) {
    const int64_t i = index->u.i, step = i < 0 ? -1 : 1;
    int64_t at = i < 0 ? l->count - 1 : 0, left = i < 0 ? -1 - i : i;
    while (at >= 0 && at < l->count && l->items[at].kind != TSV_RUN && left > 0) {
      at += step;
      left--;
    }
    if (at >= 0 && at < l->count && l->items[at].kind != TSV_RUN) {
      *out = l->items[at];
      return KILN_OK;
    }
  }
  ts_value all;
  if (open_run(l)) return item_in_loop(it, l, index, out);
  KILN_TRY(stacked(it, l, &all));
  const ts_value args[3] = {all, of_int(0), *index};
  const ts_call select = {"select", 3, (ts_value *)(uintptr_t)args, NULL};
  return interp_call_operator(it, &select, out);
}

static kiln_status do_reverse(interp *it, const ts_call *c, ts_value *out) {
  ts_list *l = c->args[0].u.list;
  ts_value all, axes;
  const ts_value zero = of_int(0);
  KILN_TRY(stacked(it, l, &all));
  KILN_TRY(interp_list_new(it, TSV_LIST, 1, &zero, &axes));
  KILN_TRY(interp_aten(it, "aten::flip", 2, (ts_value[]){all, axes}, &all));
  ts_run *run = ARENA_NEW(it->arena, ts_run);
  if (!run) return interp_no_memory(it);
  *run = (ts_run){.tensor = all.u.tensor};
  KILN_TRY(interp_list_resize(it, l, 1));
  l->items[0] = (ts_value){.kind = TSV_RUN, .u = {.run = run}};
  *out = of_none();
  return KILN_OK;
}

kiln_status grown_call(interp *it, const ts_call *c, ts_value *out) {
  const bool first = c->n > 0 && grown_list(&c->args[0]);
  dim n;
  value *more;
  if (first && str_eq(c->name, "stack")) return do_stack(it, c, out);
  if (first && (str_eq(c->name, "cat") || str_eq(c->name, "concat") || str_eq(c->name, "concatenate")))
    return do_cat(it, c, out);
  if (first && c->n == 2 && str_eq(c->name, "__getitem__")) return do_getitem(it, c, out);
  if (first && c->n == 1 && str_eq(c->name, "reverse")) return do_reverse(it, c, out);
  if (first && str_eq(c->name, "len")) {
    KILN_TRY(length(it, c->args[0].u.list, &n, &more));
    *out = of_int(n);
    if (!more) return KILN_OK;
    *out = (ts_value){.kind = TSV_DATA};
    out->u.data = lower_binary(&it->b, "add", more, lower_size_tensor(&it->b, n));
    return out->u.data ? KILN_OK : interp_no_memory(it);
  }
  return IT_FAIL(
      it, KILN_UNSUPPORTED,
      "%s() of a list that grew in a loop whose length is known at run time only: such lists can be given to "
      "torch.stack and torch.cat, appended to, reversed, counted and indexed",
      c->name);
}
