/* Objects of torch.classes.quantized: weights that PyTorch packs for its kernels. Their states are those of
 * ATen/native/quantized: LinearPackedParamsBase is (weight, bias); ConvNdPackedParamsBase is
 *   version 2: ("2", [numbers, weight], [bias])   numbers: a tensor of i16
 *   version 3: (3, numbers, [None, weight, bias])  numbers: a list of ints
 * with numbers: rank, stride, padding, dilation, output_padding (rank of each), groups, flags (bit 0: transposed).
 * CellParamsBase, of dynamically quantized LSTMs and GRUs, is
 *   ("quantized_dynamic", [b_ih, b_hh], [], [reduce_range], [w_ih, w_hh])   the last two are LinearPackedParamsBase */
#include <string.h>

#include "base/text.h"
#include "import/torchscript/archive.h"

static kiln_status bad(const ts_reader *r, const char *where, const char *what) {
  return KILN_FAIL(KILN_INVALID_FILE, "%s: packed parameters `%.200s`: %s", r->entry, where, what);
}

static bool is_weight(const ts_value *v) { return v->kind == TSV_QTENSOR || v->kind == TSV_TENSOR; }
static bool is_bias(const ts_value *v) { return v->kind == TSV_TENSOR || v->kind == TSV_NONE; }

static kiln_status linear(ts_reader *r, const ts_value *state, const char *where, ts_object *o) {
  const ts_list *l = state->u.list;
  if (l->count != 2 || !is_weight(&l->items[0]) || !is_bias(&l->items[1]))
    return bad(r, where, "expected (weight, bias)");
  o->attrs[0] = l->items[0];
  o->attrs[1] = l->items[1];
  return KILN_OK;
}

enum { MAX_NUMBERS = 3 + 4 * 3 };

static kiln_status numbers_of(ts_reader *r, const ts_value *v, const char *where, int64_t *out, int *count) {
  *count = 0;
  if (v->kind == TSV_LIST) {
    for (; *count < v->u.list->count && *count < MAX_NUMBERS; (*count)++) {
      if (v->u.list->items[*count].kind != TSV_INT) return bad(r, where, "its numbers must be ints");
      out[*count] = v->u.list->items[*count].u.i;
    }
    return KILN_OK;
  }
  const value *t = v->kind == TSV_TENSOR ? v->u.tensor->v : NULL;
  if (!t || t->type.dtype != KILN_I16 || t->type.rank != 1 || t->type.dims[0] > MAX_NUMBERS)
    return bad(r, where, "its numbers must be a short tensor of i16");
  constant_fix(t);
  for (; *count < (int)t->type.dims[0]; (*count)++) {
    int16_t n;
    memcpy(&n, (const char *)t->constant->data + 2 * (size_t)*count, sizeof n);
    out[*count] = n;
  }
  return KILN_OK;
}

static kiln_status int_list(ts_archive *a, const int64_t *numbers, int count, ts_value *out) {
  *out = (ts_value){.kind = TSV_LIST, .type = ts_type_list_of(a, ts_type_simple(TST_INT))};
  if (!out->type) return KILN_NO_MEMORY("types");
  KILN_TRY(ts_list_new(a, count, &out->u.list));
  for (int i = 0; i < count; i++) {
    out->u.list->items[i].kind = TSV_INT;
    out->u.list->items[i].u.i = numbers[i];
  }
  return KILN_OK;
}

/* weight and bias, wherever this version has them; false: not there. */
static bool conv_tensors(const ts_list *l, const ts_value **numbers, const ts_value **weight, const ts_value **bias) {
  const ts_value *v = l->items;
  if (l->count != 3) return false;
  if (v[0].kind == TSV_STR && str_eq(v[0].u.s, "2") && v[1].kind == TSV_LIST && v[1].u.list->count == 2 &&
      v[2].kind == TSV_LIST && v[2].u.list->count == 1) {
    *numbers = &v[1].u.list->items[0];
    *weight = &v[1].u.list->items[1];
    *bias = &v[2].u.list->items[0];
    return true;
  }
  if (v[0].kind == TSV_INT && v[0].u.i == 3 && v[1].kind == TSV_LIST && v[2].kind == TSV_LIST &&
      v[2].u.list->count == 3) {
    *numbers = &v[1];
    *weight = &v[2].u.list->items[1];
    *bias = &v[2].u.list->items[2];
    return true;
  }
  return false;
}

static kiln_status conv(ts_reader *r, const ts_value *state, const char *where, ts_object *o) {
  const ts_value *numbers = NULL, *weight = NULL, *bias = NULL;
  int64_t n[MAX_NUMBERS] = {0};
  int count;
  if (!conv_tensors(state->u.list, &numbers, &weight, &bias))
    return KILN_FAIL(KILN_UNSUPPORTED,
                     "%s: packed parameters `%.200s` of a version that Kiln does not know (2 and 3 are read)", r->entry,
                     where);
  if (!is_weight(weight) || !is_bias(bias)) return bad(r, where, "expected a weight and a bias");
  KILN_TRY(numbers_of(r, numbers, where, n, &count));
  const int rank = count > 0 && n[0] > 0 && n[0] <= 3 ? (int)n[0] : 0;
  if (!rank || count != 3 + 4 * rank) return bad(r, where, "its numbers are damaged");
  o->attrs[0] = *weight;
  o->attrs[1] = *bias;
  for (int i = 0; i < 4; i++) KILN_TRY(int_list(r->a, n + 1 + i * rank, rank, &o->attrs[2 + i]));
  o->attrs[6] = (ts_value){.kind = TSV_INT};
  o->attrs[6].u.i = n[1 + 4 * rank];
  o->attrs[7] = (ts_value){.kind = TSV_BOOL};
  o->attrs[7].u.i = n[2 + 4 * rank] & 1;
  return KILN_OK;
}

static kiln_status cell(ts_reader *r, const ts_value *state, const char *where, ts_object *o) {
  const ts_list *l = state->u.list;
  if (l->count != 5 || l->items[0].kind != TSV_STR || !str_eq(l->items[0].u.s, "quantized_dynamic"))
    return KILN_FAIL(KILN_UNSUPPORTED,
                     "%s: packed parameters `%.200s`: only cells of kind quantized_dynamic are supported", r->entry,
                     where);
  const ts_value *biases = &l->items[1], *weights = &l->items[4];
  if (biases->kind != TSV_LIST || biases->u.list->count != 2 || weights->kind != TSV_LIST ||
      weights->u.list->count != 2)
    return bad(r, where, "expected two biases and two weights");
  for (int i = 0; i < 2; i++) {
    const ts_value *w = &weights->u.list->items[i], *b = &biases->u.list->items[i];
    if (w->kind != TSV_OBJECT || !str_ends(w->u.object->cls->name, ".LinearPackedParamsBase") || !is_bias(b))
      return bad(r, where, "expected two biases and two weights");
    o->attrs[i] = *w;
    o->attrs[2 + i] = *b;
  }
  return KILN_OK;
}

kiln_status ts_packed_read(ts_reader *r, const char *qualified, const pickle_value *state, const char *where,
                           ts_value *out) {
  const ts_class *c = NULL;
  ts_value v = {0};
  KILN_TRY(ts_class_builtin(r->a, qualified, &c));
  KILN_TRY(ts_value_read(r, state, where, NULL, &v));
  if (v.kind != TSV_TUPLE) return bad(r, where, "its state must be a tuple");
  out->kind = TSV_OBJECT;
  KILN_TRY(ts_object_new(r->a, c, &out->u.object));
  const char *name = strrchr(qualified, '.') + 1;
  if (str_eq(name, "LinearPackedParamsBase")) return linear(r, &v, where, out->u.object);
  if (str_starts(name, "Conv")) return conv(r, &v, where, out->u.object);
  return cell(r, &v, where, out->u.object);
}
