/* Operators on lists, tuples and dicts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "import/torchscript/interpreter.h"

static ts_list *list_arg(const ts_call *c) {
  return c->n > 0 && c->args[0].kind == TSV_LIST ? c->args[0].u.list : NULL;
}
static ts_dict *dict_arg(const ts_call *c) {
  return c->n > 0 && c->args[0].kind == TSV_DICT ? c->args[0].u.dict : NULL;
}

/* A known index into n items, counted from the end if negative. */
static kiln_status wrap_index(interp *it, const ts_value *v, int n, int *out) {
  if (v->kind != TSV_INT && v->kind != TSV_BOOL)
    return IT_FAIL(it, KILN_UNSUPPORTED, "an index that is %s", interp_kind_name(v));
  if (!dim_is_const(v->u.i))
    return IT_FAIL(it, KILN_UNSUPPORTED, "an index into a list that depends on the input's shape");
  const int64_t i = v->u.i < 0 ? v->u.i + n : v->u.i;
  if (i < 0 || i >= n)
    return IT_FAIL(it, KILN_INVALID_ARGUMENT, "list index %lld is out of range: the list has %d items",
                   (long long)v->u.i, n);
  *out = (int)i;
  return KILN_OK;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* Item number `index` (data) of a list of numbers or of tensors with one shape: all of them in one tensor, and a
 * gather. */
static kiln_status item_at_data(interp *it, const ts_list *l, const ts_value *index, ts_value *out) {
  ts_value stacked, at, items, dim0 = of_int(0);
  ts_type_kind type = TST_TENSOR;
  if (l->count == 0) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "an index into an empty list");
  KILN_TRY(interp_list_new(it, TSV_LIST, l->count, l->items, &items));
  for (int i = 0; i < l->count; i++) {
    ts_value *v = &items.u.list->items[i];
    const ts_type_kind t = interp_is_number(v) ? interp_number_type(v) : v->kind == TSV_TENSOR ? TST_TENSOR : TST_ANY;
    if (t == TST_ANY || (i > 0 && t != type))
      return IT_FAIL(it, KILN_UNSUPPORTED, "an index that depends on tensor data, into a list that holds %s",
                     interp_kind_name(v));
    type = t;
    value *x;
    if (t == TST_TENSOR) continue;
    KILN_TRY(interp_number_tensor(it, v, &x));
    KILN_TRY(interp_new_tensor(it, x, v));
  }
  value *wrapped = interp_wrap_index(it, index->u.data, l->count);
  KILN_TRY(interp_new_tensor(it, lower_reshape(&it->b, wrapped, 1, (dim[]){1}), &at));
  KILN_TRY(interp_aten(it, "aten::stack", 2, (ts_value[]){items, dim0}, &stacked));
  KILN_TRY(interp_aten(it, "aten::index_select", 3, (ts_value[]){stacked, dim0, at}, out));
  KILN_TRY(interp_aten(it, "aten::squeeze", 2, (ts_value[]){*out, dim0}, out));
  return type == TST_TENSOR ? KILN_OK : interp_scalar(it, lower_value(&it->b, out->u.tensor), type, out);
}

static kiln_status dict_get(interp *it, const ts_dict *d, const ts_value *key, ts_value *out) {
  text t = {0};
  const int at = interp_dict_find(it, d, key);
  if (at >= 0) {
    *out = d->values[at];
    return KILN_OK;
  }
  interp_print(it, key, true, 0, &t);
  const kiln_status status = IT_FAIL(it, KILN_INVALID_ARGUMENT, "the dict has no key %.200s", t.data ? t.data : "");
  text_free(&t);
  return status;
}

static kiln_status do_getitem(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (c->n != 2) return KILN_OK;
  const ts_value *v = &c->args[0], *index = &c->args[1];
  const ts_list *l = interp_items(v);
  int at;
  *handled = l || v->kind == TSV_NAMEDTUPLE || v->kind == TSV_DICT;
  if (v->kind == TSV_DICT) return dict_get(it, v->u.dict, index, out);
  if (l && index->kind == TSV_DATA) return item_at_data(it, l, index, out);
  if (l) {
    KILN_TRY(wrap_index(it, index, l->count, &at));
    *out = l->items[at];
  } else if (*handled) {
    KILN_TRY(wrap_index(it, index, v->u.object->n_attrs, &at));
    *out = v->u.object->attrs[at];
  }
  return KILN_OK;
}

static kiln_status do_len(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  (void)it;
  if (c->n != 1) return KILN_OK;
  const ts_list *l = interp_items(&c->args[0]);
  const ts_dict *d = dict_arg(c);
  if (l || d) *out = of_int(l ? l->count : d->count);
  *handled = l || d;
  return KILN_OK;
}

static kiln_status do_contains(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (c->n != 2) return KILN_OK;
  const ts_list *l = interp_items(&c->args[0]);
  const ts_dict *d = dict_arg(c);
  if (!l && !d) return KILN_OK;
  *handled = true;
  *out = of_bool(d && interp_dict_find(it, d, &c->args[1]) >= 0);
  ts_value any = of_bool(false);
  for (int i = 0; l && i < l->count; i++) {
    ts_value same;
    const ts_value pair[2] = {l->items[i], c->args[1]};
    const ts_call eq = {"eq", 2, (ts_value *)(uintptr_t)pair, NULL};
    KILN_TRY(interp_call_operator(it, &eq, &same));
    if (same.kind == TSV_BOOL && same.u.i) {
      *out = of_bool(true);
      return KILN_OK;
    }
    if (same.kind == TSV_TENSOR) return IT_FAIL(it, KILN_UNSUPPORTED, "a search for a tensor in a list");
    const ts_value both[2] = {any, same};
    const ts_call either = {"__or__", 2, (ts_value *)(uintptr_t)both, NULL};
    KILN_TRY(interp_call_operator(it, &either, &any));
  }
  if (l) *out = any;
  return KILN_OK;
}

static kiln_status do_count(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const ts_list *l = list_arg(c);
  if (!l || c->n != 2) return KILN_OK;
  int64_t n = 0;
  for (int i = 0; i < l->count; i++) {
    const int same = interp_equal(it, &l->items[i], &c->args[1], 0);
    if (same < 0) return KILN_OK;
    if (same && str_eq(c->name, "index")) {
      *out = of_int(i);
      *handled = true;
      return KILN_OK;
    }
    n += same;
  }
  *handled = true;
  if (str_eq(c->name, "index"))
    return IT_FAIL(it, KILN_INVALID_ARGUMENT, "the list does not hold the value that is looked for");
  *out = of_int(n);
  return KILN_OK;
}

/* ---- changing --------------------------------------------------------------------------------------------------- */

static kiln_status do_append(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_list *l = list_arg(c);
  if (!l || c->n != 2) return KILN_OK;
  *handled = true;
  KILN_TRY(interp_list_resize(it, l, l->count + 1));
  l->items[l->count - 1] = c->args[1];
  *out = c->args[0];
  return KILN_OK;
}

/* Items of a list, keys of a dict, elements of a tensor's first axis, characters of a string. */
static kiln_status sequence_of(interp *it, const ts_value *v, ts_value *out) {
  const ts_list *l = interp_items(v);
  if (l) return interp_list_new(it, TSV_LIST, l->count, l->items, out);
  if (v->kind == TSV_DICT) return interp_list_new(it, TSV_LIST, v->u.dict->count, v->u.dict->keys, out);
  if (v->kind == TSV_TENSOR) return interp_aten(it, "aten::unbind", 2, (ts_value[]){*v, of_int(0)}, out);
  if (v->kind != TSV_STR) return IT_FAIL(it, KILN_INVALID_FILE, "list() of %s", interp_kind_name(v));
  const size_t n = strlen(v->u.s);
  KILN_TRY(interp_list_new(it, TSV_LIST, n > TS_MAX_ITEMS ? TS_MAX_ITEMS + 1 : (int)n, NULL, out));
  for (size_t i = 0; i < n; i++) {
    const char *s = arena_strndup(it->arena, v->u.s + i, 1);
    if (!s) return interp_no_memory(it);
    out->u.list->items[i] = of_string(s);
  }
  return KILN_OK;
}

static kiln_status extend(interp *it, ts_list *l, const ts_list *more) {
  const int n = l->count, count = more->count; /* they may be the same list */
  if (count > TS_MAX_ITEMS - n) return IT_FAIL(it, KILN_UNSUPPORTED, "a list of more than %d items", TS_MAX_ITEMS);
  KILN_TRY(interp_list_resize(it, l, n + count));
  if (count) memmove(l->items + n, more->items, (size_t)count * sizeof *l->items);
  return KILN_OK;
}

static kiln_status do_extend(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_list *l = list_arg(c);
  const ts_list *more = c->n == 2 ? interp_items(&c->args[1]) : NULL;
  if (!l || !more) return KILN_OK;
  *handled = true;
  *out = str_eq(c->name, "add_") ? c->args[0] : of_none();
  return extend(it, l, more);
}

static kiln_status do_setitem(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_list *l = list_arg(c);
  ts_dict *d = dict_arg(c);
  int at;
  if (c->n != 3 || (!l && !d)) return KILN_OK;
  *handled = true;
  *out = c->args[0];
  if (d) return interp_dict_put(it, d, c->args[1], c->args[2]);
  KILN_TRY(wrap_index(it, &c->args[1], l->count, &at));
  KILN_TRY(interp_note_change(it, TSV_LIST, l));
  l->items[at] = c->args[2];
  return KILN_OK;
}

static kiln_status list_remove_at(interp *it, ts_list *l, int at) {
  KILN_TRY(interp_note_change(it, TSV_LIST, l));
  for (int i = at + 1; i < l->count; i++) l->items[i - 1] = l->items[i];
  l->count--;
  return KILN_OK;
}

static kiln_status do_delete(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_list *l = list_arg(c);
  ts_dict *d = dict_arg(c);
  int at;
  if (c->n != 2 || (!l && !d)) return KILN_OK;
  *handled = true;
  *out = of_none();
  if (l) {
    KILN_TRY(wrap_index(it, &c->args[1], l->count, &at));
    return list_remove_at(it, l, at);
  }
  KILN_TRY(dict_get(it, d, &c->args[1], out));
  *out = of_none();
  return interp_dict_remove(it, d, interp_dict_find(it, d, &c->args[1]));
}

static kiln_status dict_pop(interp *it, ts_dict *d, const ts_call *c, ts_value *out) {
  const int at = c->n > 1 ? interp_dict_find(it, d, &c->args[1]) : -1;
  if (at < 0 && c->n == 3) {
    *out = c->args[2];
    return KILN_OK;
  }
  if (at < 0) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "pop: the dict has no such key");
  *out = d->values[at];
  return interp_dict_remove(it, d, at);
}

static kiln_status do_pop(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_list *l = list_arg(c);
  ts_dict *d = dict_arg(c);
  const ts_value last = of_int(-1);
  int at;
  *handled = l || d;
  if (d) return dict_pop(it, d, c, out);
  if (!l) return KILN_OK;
  KILN_TRY(wrap_index(it, c->n > 1 ? &c->args[1] : &last, l->count, &at));
  *out = l->items[at];
  return list_remove_at(it, l, at);
}

static kiln_status do_popitem(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_dict *d = dict_arg(c);
  if (!d) return KILN_OK;
  *handled = true;
  if (d->count == 0) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "popitem: the dict is empty");
  const ts_value pair[2] = {d->keys[d->count - 1], d->values[d->count - 1]};
  KILN_TRY(interp_dict_remove(it, d, d->count - 1));
  return interp_list_new(it, TSV_TUPLE, 2, pair, out);
}

static kiln_status do_insert(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_list *l = list_arg(c);
  if (!l || c->n != 3 || c->args[1].kind != TSV_INT || !dim_is_const(c->args[1].u.i)) return KILN_OK;
  int64_t at = c->args[1].u.i;
  *handled = true;
  if (at < 0) at += l->count;
  if (at < 0) at = 0;
  if (at > l->count) at = l->count;
  KILN_TRY(interp_list_resize(it, l, l->count + 1));
  for (int i = l->count - 1; i > at; i--) l->items[i] = l->items[i - 1];
  l->items[at] = c->args[2];
  *out = of_none();
  return KILN_OK;
}

static kiln_status do_remove(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_list *l = list_arg(c);
  if (!l || c->n != 2) return KILN_OK;
  *handled = true;
  *out = of_none();
  for (int i = 0; i < l->count; i++) {
    const int same = interp_equal(it, &l->items[i], &c->args[1], 0);
    if (same < 0) return IT_FAIL(it, KILN_UNSUPPORTED, "list.remove() that depends on tensor data");
    if (same) return list_remove_at(it, l, i);
  }
  return IT_FAIL(it, KILN_INVALID_ARGUMENT, "list.remove(x): x is not in the list");
}

static kiln_status do_reverse(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_list *l = list_arg(c);
  if (!l) return KILN_OK;
  *handled = true;
  *out = of_none();
  KILN_TRY(interp_note_change(it, TSV_LIST, l));
  for (int i = 0, k = l->count - 1; i < k; i++, k--) {
    const ts_value v = l->items[i];
    l->items[i] = l->items[k];
    l->items[k] = v;
  }
  return KILN_OK;
}

static kiln_status do_clear(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_list *l = list_arg(c);
  ts_dict *d = dict_arg(c);
  *handled = l || d;
  *out = of_none();
  if (l) return interp_list_resize(it, l, 0);
  if (!d) return KILN_OK;
  KILN_TRY(interp_note_change(it, TSV_DICT, d));
  d->count = 0;
  return KILN_OK;
}

/* ---- sorting ---------------------------------------------------------------------------------------------------- */

/* Less than, by value or through the class's __lt__. */
static kiln_status less(interp *it, const ts_value *x, const ts_value *y, bool *out) {
  ts_value r;
  const ts_value pair[2] = {*x, *y};
  const ts_list *a = interp_items(x), *b = interp_items(y);
  const ts_function *f = x->kind == TSV_OBJECT ? ts_class_method(x->u.object->cls, "__lt__") : NULL;
  if (a && b) {
    for (int i = 0; i < a->count && i < b->count; i++) {
      const int same = interp_equal(it, &a->items[i], &b->items[i], 0);
      if (same == 0) return less(it, &a->items[i], &b->items[i], out);
    }
    *out = a->count < b->count;
    return KILN_OK;
  }
  if (f) {
    KILN_TRY(interp_invoke(it, f, x->u.object, 1, y, NULL, &r));
  } else {
    const ts_call lt = {"lt", 2, (ts_value *)(uintptr_t)pair, NULL};
    KILN_TRY(interp_call_operator(it, &lt, &r));
  }
  if (r.kind != TSV_BOOL) return IT_FAIL(it, KILN_UNSUPPORTED, "a sort that depends on tensor data or on shapes");
  *out = r.u.i != 0;
  return KILN_OK;
}

/* Stable; merges runs of growing length. */
static kiln_status sort_items(interp *it, ts_value *items, int n, bool reverse) {
  ts_value *room = ARENA_ARRAY(it->arena, ts_value, n ? n : 1);
  if (!room) return interp_no_memory(it);
  KILN_TRY(interp_charge(it, n));
  for (int64_t run = 1; run < n; run *= 2) {
    for (int64_t start = 0; start < n; start += 2 * run) {
      const int64_t middle = start + run < n ? start + run : n, end = start + 2 * run < n ? start + 2 * run : n;
      int64_t a = start, b = middle;
      for (int64_t k = start; k < end; k++) {
        bool right = a == middle;
        if (a < middle && b < end)
          KILN_TRY(reverse ? less(it, &items[a], &items[b], &right) : less(it, &items[b], &items[a], &right));
        room[k] = right ? items[b++] : items[a++];
      }
    }
    memcpy(items, room, (size_t)n * sizeof *items);
  }
  return KILN_OK;
}

static bool reverse_arg(const ts_call *c) {
  const ts_value *v = interp_arg(c, 1, "reverse");
  return v && v->kind == TSV_BOOL && v->u.i;
}

static kiln_status do_sort(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_list *l = list_arg(c);
  if (!l) return KILN_OK;
  *handled = true;
  *out = of_none();
  KILN_TRY(interp_note_change(it, TSV_LIST, l));
  return sort_items(it, l->items, l->count, reverse_arg(c));
}

static kiln_status do_sorted(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (c->n < 1 || c->args[0].kind == TSV_TENSOR) return KILN_OK;
  *handled = true;
  KILN_TRY(sequence_of(it, &c->args[0], out));
  return sort_items(it, out->u.list->items, out->u.list->count, reverse_arg(c));
}

/* ---- making ----------------------------------------------------------------------------------------------------- */

static kiln_status do_list(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (c->n != 1) return KILN_OK;
  *handled = true;
  return sequence_of(it, &c->args[0], out);
}

static kiln_status do_copy(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const ts_list *l = list_arg(c);
  const ts_dict *d = dict_arg(c);
  *handled = l || d;
  if (l) return interp_list_new(it, TSV_LIST, l->count, l->items, out);
  if (!d) return KILN_OK;
  KILN_TRY(interp_dict_new(it, out));
  for (int i = 0; i < d->count; i++) KILN_TRY(interp_dict_put(it, out->u.dict, d->keys[i], d->values[i]));
  return KILN_OK;
}

static kiln_status do_add(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (c->n != 2) return KILN_OK;
  const ts_list *a = interp_items(&c->args[0]), *b = interp_items(&c->args[1]);
  if (!a || !b) return KILN_OK;
  *handled = true;
  KILN_TRY(interp_list_new(it, c->args[0].kind, a->count, a->items, out));
  return extend(it, out->u.list, b);
}

static kiln_status do_mul(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (c->n != 2) return KILN_OK;
  const int at = interp_items(&c->args[0]) ? 0 : 1;
  const ts_list *l = interp_items(&c->args[at]);
  const ts_value *n = &c->args[1 - at];
  if (!l || n->kind != TSV_INT) return KILN_OK;
  *handled = true;
  if (!dim_is_const(n->u.i)) return IT_FAIL(it, KILN_UNSUPPORTED, "a list whose length depends on the input's shape");
  const int64_t times = n->u.i < 0 ? 0 : n->u.i;
  if (times > TS_MAX_ITEMS || times * l->count > TS_MAX_ITEMS)
    return IT_FAIL(it, KILN_UNSUPPORTED, "a list of more than %d items", TS_MAX_ITEMS);
  KILN_TRY(interp_list_new(it, c->args[at].kind, (int)times * l->count, NULL, out));
  for (int64_t i = 0; i < times; i++)
    if (l->count) memcpy(out->u.list->items + i * l->count, l->items, (size_t)l->count * sizeof *l->items);
  return KILN_OK;
}

/* Python's slice bounds for n items: how many items there are, from *start on. */
kiln_status interp_slice_bounds(interp *it, const ts_call *c, int64_t n, int64_t *start, int64_t *step,
                                int64_t *count) {
  int64_t from, to;
  *count = 0;
  KILN_TRY(interp_arg_int(it, c, 3, "step", 1, step));
  if (*step == 0 || *step == DIM_EXPRESSION) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "slice step cannot be zero");
  KILN_TRY(interp_arg_int(it, c, 1, "start", *step > 0 ? 0 : INT64_MAX, &from));
  KILN_TRY(interp_arg_int(it, c, 2, "end", *step > 0 ? INT64_MAX : -n - 1, &to));
  const int64_t low = *step > 0 ? 0 : -1, high = *step > 0 ? n : n - 1;
  if (from < 0) from += n;
  if (to < 0) to += n;
  from = from < low ? low : from > high ? high : from;
  to = to < low ? low : to > high ? high : to;
  *start = from;
  if (*step > 0 && to > from) *count = (to - from - 1) / *step + 1;
  if (*step < 0 && to < from) *count = (from - to - 1) / -*step + 1;
  return KILN_OK;
}

static kiln_status do_slice(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const ts_list *l = c->n > 0 ? interp_items(&c->args[0]) : NULL;
  int64_t start, step, count;
  if (!l) return KILN_OK;
  *handled = true;
  KILN_TRY(interp_slice_bounds(it, c, l->count, &start, &step, &count));
  KILN_TRY(interp_list_new(it, c->args[0].kind, (int)count, NULL, out));
  for (int64_t i = 0; i < count; i++) out->u.list->items[i] = l->items[start + i * step];
  return KILN_OK;
}

/* sum, any and all of a list. */
static kiln_status do_reduce(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const ts_list *l = list_arg(c);
  if (!l || c->n != 1 || (l->count && !interp_is_number(&l->items[0]))) return KILN_OK;
  const bool sum = str_eq(c->name, "sum"), all = str_eq(c->name, "all");
  *handled = true;
  *out = sum ? of_int(0) : of_bool(all);
  for (int i = 0; i < l->count; i++) {
    ts_value item = l->items[i];
    if (!sum) {
      const ts_call to_bool = {"bool", 1, &item, NULL};
      ts_value b;
      KILN_TRY(interp_call_operator(it, &to_bool, &b));
      item = b;
    }
    ts_value pair[2] = {*out, item};
    const ts_call call = {sum ? "add" : all ? "__and__" : "__or__", 2, pair, NULL};
    KILN_TRY(interp_call_operator(it, &call, out));
  }
  return KILN_OK;
}

/* ---- dicts ------------------------------------------------------------------------------------------------------ */

static kiln_status do_view(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const ts_dict *d = dict_arg(c);
  if (!d || c->n != 1) return KILN_OK;
  *handled = true;
  if (str_eq(c->name, "keys")) return interp_list_new(it, TSV_LIST, d->count, d->keys, out);
  if (str_eq(c->name, "values")) return interp_list_new(it, TSV_LIST, d->count, d->values, out);
  KILN_TRY(interp_list_new(it, TSV_LIST, d->count, NULL, out));
  for (int i = 0; i < d->count; i++) {
    const ts_value pair[2] = {d->keys[i], d->values[i]};
    KILN_TRY(interp_list_new(it, TSV_TUPLE, 2, pair, &out->u.list->items[i]));
  }
  return KILN_OK;
}

static kiln_status do_get(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_dict *d = dict_arg(c);
  if (!d || c->n < 2) return KILN_OK;
  const int at = interp_dict_find(it, d, &c->args[1]);
  const ts_value *fallback = interp_arg(c, 2, "default_value");
  *handled = true;
  *out = at >= 0 ? d->values[at] : fallback ? *fallback : of_none();
  return at < 0 && str_eq(c->name, "setdefault") ? interp_dict_put(it, d, c->args[1], *out) : KILN_OK;
}

static kiln_status do_update(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_dict *d = dict_arg(c);
  if (!d || c->n != 2 || c->args[1].kind != TSV_DICT) return KILN_OK;
  const ts_dict *from = c->args[1].u.dict;
  *handled = true;
  *out = of_none();
  for (int i = 0; i < from->count; i++) KILN_TRY(interp_dict_put(it, d, from->keys[i], from->values[i]));
  return KILN_OK;
}

/* dict(), or dict(pairs). */
static kiln_status do_dict(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const ts_list *pairs = c->n == 1 ? interp_items(&c->args[0]) : NULL;
  if (c->n > 0 && !pairs) return dict_arg(c) ? do_copy(it, c, out, handled) : KILN_OK;
  *handled = true;
  KILN_TRY(interp_dict_new(it, out));
  for (int i = 0; pairs && i < pairs->count; i++) {
    const ts_list *pair = interp_items(&pairs->items[i]);
    if (!pair || pair->count != 2) return IT_FAIL(it, KILN_INVALID_FILE, "dict() of something else than pairs");
    KILN_TRY(interp_dict_put(it, out->u.dict, pair->items[0], pair->items[1]));
  }
  return KILN_OK;
}

const ts_builtin ts_builtins_list[] = {{"__getitem__", do_getitem},
                                       {"len", do_len},
                                       {"__contains__", do_contains},
                                       {"count", do_count},
                                       {"index", do_count},
                                       {"append", do_append},
                                       {"extend", do_extend},
                                       {"add_", do_extend},
                                       {"_set_item", do_setitem},
                                       {"Delete", do_delete},
                                       {"pop", do_pop},
                                       {"popitem", do_popitem},
                                       {"insert", do_insert},
                                       {"remove", do_remove},
                                       {"reverse", do_reverse},
                                       {"clear", do_clear},
                                       {"sort", do_sort},
                                       {"sorted", do_sorted},
                                       {"list", do_list},
                                       {"copy", do_copy},
                                       {"add", do_add},
                                       {"mul", do_mul},
                                       {"slice", do_slice},
                                       {"sum", do_reduce},
                                       {"any", do_reduce},
                                       {"all", do_reduce},
                                       {"keys", do_view},
                                       {"values", do_view},
                                       {"items", do_view},
                                       {"get", do_get},
                                       {"setdefault", do_get},
                                       {"update", do_update},
                                       {"dict", do_dict},
                                       {NULL, NULL}};
