/* Lists, tuples, dicts and strings of the interpreter: PyTorch's semantics, with sharing; changes are noted for the
 * scopes around. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "import/torchscript/interpreter.h"

const ts_list *interp_items(const ts_value *v) {
  return v->kind == TSV_LIST || v->kind == TSV_TUPLE ? v->u.list : NULL;
}

kiln_status interp_list_new(interp *it, ts_value_kind kind, int n, const ts_value *items, ts_value *out) {
  if (n > TS_MAX_ITEMS) return IT_FAIL(it, KILN_UNSUPPORTED, "a list of more than %d items", TS_MAX_ITEMS);
  KILN_TRY(interp_charge(it, n + 1));
  ts_list *l = ARENA_NEW(it->arena, ts_list);
  ts_value *room = ARENA_ARRAY(it->arena, ts_value, n ? n : 1);
  if (!l || !room) return interp_no_memory(it);
  if (kind == TSV_LIST) KILN_TRY(interp_note_created(it, l));
  if (n && items) memcpy(room, items, (size_t)n * sizeof *room);
  l->items = room;
  l->count = n;
  l->capacity = n ? n : 1;
  *out = (ts_value){.kind = kind, .u = {.list = l}};
  return KILN_OK;
}

kiln_status interp_list_resize(interp *it, ts_list *l, int count) {
  KILN_TRY(interp_note_change(it, TSV_LIST, l));
  if (count > TS_MAX_ITEMS) return IT_FAIL(it, KILN_UNSUPPORTED, "a list of more than %d items", TS_MAX_ITEMS);
  if (count > l->count) KILN_TRY(interp_charge(it, count - l->count));
  if (count > l->capacity) {
    const int capacity = count < 8 ? 8 : 2 * count;
    ts_value *grown = ARENA_ARRAY(it->arena, ts_value, capacity);
    if (!grown) return interp_no_memory(it);
    if (l->count) memcpy(grown, l->items, (size_t)l->count * sizeof *grown);
    l->items = grown;
    l->capacity = capacity;
  }
  for (int i = l->count; i < count; i++) l->items[i] = of_none();
  l->count = count;
  return KILN_OK;
}

/* ---- dicts ------------------------------------------------------------------------------------------------------ */

kiln_status interp_dict_new(interp *it, ts_value *out) {
  ts_dict *d = ARENA_NEW(it->arena, ts_dict);
  if (!d) return interp_no_memory(it);
  KILN_TRY(interp_note_created(it, d));
  *out = (ts_value){.kind = TSV_DICT, .u = {.dict = d}};
  return interp_charge(it, 1);
}

int interp_dict_find(interp *it, const ts_dict *d, const ts_value *key) {
  for (int i = 0; i < d->count; i++)
    if (interp_equal(it, &d->keys[i], key, 0) == 1) return i;
  return -1;
}

kiln_status interp_dict_put(interp *it, ts_dict *d, ts_value key, ts_value v) {
  if (key.kind == TSV_DATA) return IT_FAIL(it, KILN_UNSUPPORTED, "a dict's key that depends on tensor data");
  int at = interp_dict_find(it, d, &key);
  KILN_TRY(interp_charge(it, 1 + d->count / 16)); /* searching is linear */
  KILN_TRY(interp_note_change(it, TSV_DICT, d));
  if (at < 0) {
    if (d->count == TS_MAX_ITEMS) return IT_FAIL(it, KILN_UNSUPPORTED, "a dict of more than %d items", TS_MAX_ITEMS);
    if (d->count == d->capacity) {
      const int capacity = d->capacity ? 2 * d->capacity : 8;
      ts_value *keys = ARENA_ARRAY(it->arena, ts_value, capacity), *values = ARENA_ARRAY(it->arena, ts_value, capacity);
      if (!keys || !values) return interp_no_memory(it);
      if (d->count) {
        memcpy(keys, d->keys, (size_t)d->count * sizeof *keys);
        memcpy(values, d->values, (size_t)d->count * sizeof *values);
      }
      d->keys = keys;
      d->values = values;
      d->capacity = capacity;
    }
    at = d->count++;
    d->keys[at] = key;
  }
  d->values[at] = v;
  return KILN_OK;
}

kiln_status interp_dict_remove(interp *it, ts_dict *d, int at) {
  KILN_TRY(interp_note_change(it, TSV_DICT, d));
  for (int i = at + 1; i < d->count; i++) {
    d->keys[i - 1] = d->keys[i];
    d->values[i - 1] = d->values[i];
  }
  d->count--;
  return KILN_OK;
}

/* ---- equality --------------------------------------------------------------------------------------------------- */

static int all_equal(interp *it, const ts_value *x, const ts_value *y, int n, int depth) {
  int result = 1;
  for (int i = 0; i < n; i++) {
    const int same = interp_equal(it, &x[i], &y[i], depth + 1);
    if (same == 0) return 0;
    if (same < 0) result = -1;
  }
  return result;
}

static const char *enum_name(const ts_value *v) {
  return v->u.object->n_attrs > 0 && v->u.object->attrs[0].kind == TSV_STR ? v->u.object->attrs[0].u.s : "";
}

static int numbers_equal(interp *it, const ts_value *x, const ts_value *y) {
  if (x->kind == TSV_DATA || y->kind == TSV_DATA) return x->kind == y->kind && x->u.data == y->u.data ? 1 : -1;
  if (x->kind != TSV_FLOAT && y->kind != TSV_FLOAT) return dim_compare_equal(it->g->dims, x->u.i, y->u.i);
  const ts_value *i = x->kind == TSV_FLOAT ? y : x;
  if (i->kind != TSV_FLOAT && !dim_is_const(i->u.i)) return -1;
  const double a = x->kind == TSV_FLOAT ? x->u.f : (double)x->u.i, b = y->kind == TSV_FLOAT ? y->u.f : (double)y->u.i;
  return a == b;
}

static int dicts_equal(interp *it, const ts_dict *x, const ts_dict *y, int depth) {
  int result = 1;
  if (x->count != y->count) return 0;
  for (int i = 0; i < x->count; i++) {
    const int at = interp_dict_find(it, y, &x->keys[i]);
    if (at < 0) return 0;
    const int same = interp_equal(it, &x->values[i], &y->values[at], depth + 1);
    if (same == 0) return 0;
    if (same < 0) result = -1;
  }
  return result;
}

int interp_equal(interp *it, const ts_value *x, const ts_value *y, int depth) {
  if (depth > TS_MAX_NESTING) return -1;
  if (interp_is_number(x) && interp_is_number(y)) return numbers_equal(it, x, y);
  const ts_list *a = interp_items(x), *b = interp_items(y);
  if (a && b) return a == b ? 1 : a->count != b->count ? 0 : all_equal(it, a->items, b->items, a->count, depth);
  if (x->kind != y->kind) return 0;
  switch (x->kind) {
    case TSV_NONE:
      return 1;
    case TSV_STR:
    case TSV_DEVICE:
      return str_eq(x->u.s, y->u.s);
    case TSV_TENSOR:
      return x->u.tensor == y->u.tensor ? 1 : -1;
    case TSV_DICT:
      return dicts_equal(it, x->u.dict, y->u.dict, depth);
    case TSV_ENUM:
      return x->u.object->cls == y->u.object->cls && str_eq(enum_name(x), enum_name(y));
    case TSV_NAMEDTUPLE:
      return x->u.object == y->u.object ||
             (x->u.object->cls == y->u.object->cls &&
              all_equal(it, x->u.object->attrs, y->u.object->attrs, x->u.object->n_attrs, depth));
    case TSV_OBJECT:
      return x->u.object == y->u.object;
    case TSV_FUNCTION:
      return x->u.function == y->u.function;
    default:
      return -1;
  }
}

/* ---- printing --------------------------------------------------------------------------------------------------- */

/* Python's repr of a float: the shortest text that reads back the same. */
static void print_float(double f, text *out) {
  char room[40];
  if (isnan(f) || isinf(f)) {
    text_puts(out, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
    return;
  }
  for (int digits = 1; digits <= 17; digits++) {
    snprintf(room, sizeof room, "%.*g", digits, f);
    double back = 0;
    if (sscanf(room, "%lf", &back) == 1 && back == f) break;
  }
  const double size = fabs(f);
  if (strchr(room, 'e') && size >= 1e-4 && size < 1e16) snprintf(room, sizeof room, "%.0f", f);
  text_puts(out, room);
  if (!strpbrk(room, ".e")) text_puts(out, ".0");
}

static void print_many(interp *it, const ts_value *items, int n, char open, char close, int depth, text *out) {
  text_putc(out, open);
  for (int i = 0; i < n; i++) {
    if (i) text_puts(out, ", ");
    interp_print(it, &items[i], true, depth + 1, out);
  }
  if (n == 1 && open == '(') text_putc(out, ',');
  text_putc(out, close);
}

void interp_print(interp *it, const ts_value *v, bool quotes, int depth, text *out) {
  if (depth > TS_MAX_NESTING || out->length > TS_MAX_STRING) {
    text_puts(out, "...");
    return;
  }
  switch (v->kind) {
    case TSV_NONE:
      text_puts(out, "None");
      break;
    case TSV_INT:
      dim_print(it->g->dims, v->u.i, out);
      break;
    case TSV_BOOL:
      text_puts(out, v->u.i ? "True" : "False");
      break;
    case TSV_FLOAT:
      print_float(v->u.f, out);
      break;
    case TSV_STR:
      text_printf(out, quotes ? "'%s'" : "%s", v->u.s);
      break;
    case TSV_DEVICE:
      text_puts(out, v->u.s);
      break;
    case TSV_LIST:
      print_many(it, v->u.list->items, v->u.list->count, '[', ']', depth, out);
      break;
    case TSV_TUPLE:
      print_many(it, v->u.list->items, v->u.list->count, '(', ')', depth, out);
      break;
    case TSV_DICT:
      text_putc(out, '{');
      for (int i = 0; i < v->u.dict->count; i++) {
        if (i) text_puts(out, ", ");
        interp_print(it, &v->u.dict->keys[i], true, depth + 1, out);
        text_puts(out, ": ");
        interp_print(it, &v->u.dict->values[i], true, depth + 1, out);
      }
      text_putc(out, '}');
      break;
    case TSV_ENUM:
      text_printf(out, "%s.%s", v->u.object->cls->name, enum_name(v));
      break;
    default: /* what a run would print is not known yet */
      text_printf(out, "<%s>", interp_kind_name(v));
  }
}

kiln_status interp_text_value(interp *it, text *t, ts_value *out) {
  kiln_status status = KILN_OK;
  const char *copy = t->failed ? NULL : arena_strndup(it->arena, t->data ? t->data : "", t->length);
  const size_t length = t->length;
  text_free(t);
  if (!copy) return interp_no_memory(it);
  *out = of_string(copy);
  if (length > TS_MAX_STRING) status = IT_FAIL(it, KILN_UNSUPPORTED, "a string of more than %d bytes", TS_MAX_STRING);
  if (status == KILN_OK) status = interp_charge(it, (int64_t)(length / 16) + 1);
  return status;
}
