/* Tensors of a TorchScript archive. A storage is an entry of raw bytes; a tensor is a view of one. The same
 * view of the same storage is one handle, so that parameters which modules share alias. */
#include <stdio.h>
#include <string.h>

#include "import/complex.h"
#include "import/stored_tensor.h"
#include "import/torchscript/archive.h"

enum { LARGEST_NAME = 512 }; /* of a tensor, in texts */

static kiln_status bad(const stored_tensor *t, const char *what) {
  return KILN_FAIL(KILN_INVALID_FILE, "%s: %s", t->what, what);
}

/* `name` has LARGEST_NAME bytes. */
static void name_tensor(const ts_reader *r, const char *where, char *name, stored_tensor *t) {
  snprintf(name, LARGEST_NAME, "%.250s: tensor `%.200s`", r->entry, where);
  t->what = name;
}

/* ---- layouts ----------------------------------------------------------------------------------------------------- */

static kiln_status storage_type(const stored_tensor *t, const char *name, bool quantized, kiln_dtype *out,
                                bool *is_complex) {
  static const struct {
    const char *name;
    kiln_dtype dtype;
    bool quantized, is_complex;
  } known[] = {
      {"FloatStorage", KILN_F32, false, false},        {"DoubleStorage", KILN_F64, false, false},
      {"HalfStorage", KILN_F16, false, false},         {"BFloat16Storage", KILN_BF16, false, false},
      {"LongStorage", KILN_I64, false, false},         {"IntStorage", KILN_I32, false, false},
      {"ShortStorage", KILN_I16, false, false},        {"CharStorage", KILN_I8, false, false},
      {"ByteStorage", KILN_U8, false, false},          {"BoolStorage", KILN_BOOL, false, false},
      {"QInt8Storage", KILN_I8, true, false},          {"QUInt8Storage", KILN_U8, true, false},
      {"QInt32Storage", KILN_I32, true, false},        {"ComplexFloatStorage", KILN_F32, false, true},
      {"ComplexDoubleStorage", KILN_F64, false, true}, {"ComplexHalfStorage", KILN_F16, false, true},
  };
  for (size_t i = 0; i < KILN_COUNT(known); i++) {
    if (!str_eq(name, known[i].name) || known[i].quantized != quantized) continue;
    *out = known[i].dtype;
    *is_complex = known[i].is_complex;
    return KILN_OK;
  }
  return KILN_FAIL(KILN_UNSUPPORTED, "%s: Kiln has no tensors of %.100s", t->what, name);
}

/* ('storage', torch.FloatStorage, '0', 'cpu', 9) */
static kiln_status read_storage(const ts_reader *r, const pickle_value *p, bool quantized, stored_tensor *t,
                                bool *is_complex) {
  const pickle_value *id = p->kind == PICKLE_PERSID ? p->u.call.args : NULL;
  if (!id || id->kind != PICKLE_TUPLE || id->count < 5 || id->items[0]->kind != PICKLE_STRING ||
      !str_eq(id->items[0]->u.s.data, "storage") || id->items[1]->kind != PICKLE_GLOBAL ||
      id->items[2]->kind != PICKLE_STRING)
    return bad(t, "a storage that is not described as PyTorch does");
  const char *key = id->items[2]->u.s.data;
  if (strlen(key) > 200) return bad(t, "the name of its storage is too long");
  KILN_TRY(storage_type(t, id->items[1]->u.global.name, quantized, &t->type.dtype, is_complex));
  t->entry = arena_printf(&r->a->arena, "%s/%s", r->storages ? r->storages : "", key);
  return t->entry ? KILN_OK : KILN_NO_MEMORY("tensors");
}

static kiln_status read_layout(const pickle_value *args, stored_tensor *t) {
  const pickle_value *sizes = args->items[2], *strides = args->items[3];
  if (args->items[1]->kind != PICKLE_INT || sizes->kind != PICKLE_TUPLE || strides->kind != PICKLE_TUPLE ||
      strides->count != sizes->count || args->items[1]->u.i < 0)
    return bad(t, "offset, sizes or strides are damaged");
  if (sizes->count > KILN_MAX_RANK)
    return KILN_FAIL(KILN_UNSUPPORTED, "%s has %zu dimensions; at most %d are supported", t->what, sizes->count,
                     KILN_MAX_RANK);
  t->offset = args->items[1]->u.i;
  t->type.rank = (int32_t)sizes->count;
  for (int32_t i = 0; i < t->type.rank; i++) {
    const pickle_value *size = sizes->items[i], *stride = strides->items[i];
    if (size->kind != PICKLE_INT || stride->kind != PICKLE_INT || size->u.i < 0 || stride->u.i < 0)
      return bad(t, "sizes and strides must be integers that are not negative");
    t->type.dims[i] = size->u.i;
    t->strides[i] = stride->u.i;
  }
  return stored_tensor_measure(t);
}

/* A value that only tells a type. */
static kiln_status shape_only(const ts_reader *r, const stored_tensor *t, itensor **out) {
  block *nowhere = graph_new_block(r->a->im.graph, NULL);
  value *v = nowhere ? graph_add_param(nowhere, NULL, &t->type) : NULL;
  *out = v ? lower_tensor(&r->a->im, v) : NULL;
  return *out ? KILN_OK : KILN_NO_MEMORY("tensors");
}

static kiln_status complex_handle(const ts_reader *r, const stored_tensor *t, itensor **out) {
  importer *im = &r->a->im;
  builder b = builder_at_end(&im->graph->body);
  value *v = NULL;
  if (!r->storages) {
    stored_tensor part = *t;
    itensor *parts[2];
    part.type.rank--;
    for (int i = 0; i < 2; i++) KILN_TRY(shape_only(r, &part, &parts[i]));
    *out = complex_tensor(im, parts[0], parts[1]);
    return *out ? KILN_OK : KILN_NO_MEMORY("tensors");
  }
  const char *key = stored_tensor_key(t, &r->a->arena);
  if (key) key = arena_printf(&r->a->arena, "%s, complex", key);
  if (!key) return KILN_NO_MEMORY("tensors");
  *out = map_get(&r->a->tensors, key);
  if (*out) return KILN_OK;
  KILN_TRY(stored_tensor_constant(t, &r->a->zip, im->graph, &v));
  *out = complex_unpack(im, &b, v);
  KILN_TRY(graph_check(im->graph));
  return *out && map_put(&r->a->tensors, key, *out) ? KILN_OK : KILN_NO_MEMORY("tensors");
}

static kiln_status handle(const ts_reader *r, const stored_tensor *t, itensor **out) {
  if (!r->storages) return shape_only(r, t, out);
  const char *key = stored_tensor_key(t, &r->a->arena);
  if (!key) return KILN_NO_MEMORY("tensors");
  *out = map_get(&r->a->tensors, key);
  if (*out) return KILN_OK;
  value *v = NULL;
  KILN_TRY(stored_tensor_constant(t, &r->a->zip, r->a->im.graph, &v));
  *out = lower_tensor(&r->a->im, v);
  if (!*out || !map_put(&r->a->tensors, key, *out)) return KILN_NO_MEMORY("tensors");
  return KILN_OK;
}

/* (storage, offset, sizes, strides, requires_grad, hooks) */
kiln_status ts_tensor_read(ts_reader *r, const pickle_value *args, const char *where, ts_value *out) {
  stored_tensor t = {0};
  char name[LARGEST_NAME];
  name_tensor(r, where, name, &t);
  if (args->count < 4) return bad(&t, "described with too few arguments");
  bool is_complex = false;
  KILN_TRY(read_storage(r, args->items[0], false, &t, &is_complex));
  KILN_TRY(read_layout(args, &t));
  out->kind = TSV_TENSOR;
  if (!is_complex) return handle(r, &t, &out->u.tensor);
  KILN_TRY(stored_tensor_as_pairs(&t));
  return complex_handle(r, &t, &out->u.tensor);
}

/* ---- quantized --------------------------------------------------------------------------------------------------- */

static kiln_status scalar_tensor(ts_reader *r, value *v, itensor **out) {
  *out = v ? lower_tensor(&r->a->im, v) : NULL;
  return *out ? KILN_OK : KILN_NO_MEMORY("tensors");
}

static kiln_status channel_tensor(ts_reader *r, const pickle_value *p, const char *where, const stored_tensor *t,
                                  int64_t channels, itensor **out) {
  ts_value v = {0};
  KILN_TRY(ts_value_read(r, p, where, ts_type_simple(TST_TENSOR), &v));
  if (v.kind != TSV_TENSOR || !v.u.tensor->v || v.u.tensor->v->type.rank != 1 ||
      v.u.tensor->v->type.dims[0] != channels)
    return bad(t, "scales and zero points of its channels must be one for each channel");
  *out = v.u.tensor;
  return KILN_OK;
}

/* (torch.per_tensor_affine, scale, zero_point) or (torch.per_channel_affine, scales, zero_points, axis) */
static kiln_status read_quantizer(ts_reader *r, const pickle_value *p, const char *where, const stored_tensor *t,
                                  ts_qtensor *q) {
  if (p->kind != PICKLE_TUPLE || p->count < 3 || p->items[0]->kind != PICKLE_GLOBAL)
    return bad(t, "how it is quantized is damaged");
  const char *scheme = p->items[0]->u.global.name;
  graph *g = r->a->im.graph;
  if (str_eq(scheme, "per_tensor_affine")) {
    if (p->items[1]->kind != PICKLE_FLOAT || p->items[2]->kind != PICKLE_INT)
      return bad(t, "its scale must be a float, its zero point an int");
    q->axis = -1;
    KILN_TRY(scalar_tensor(r, graph_scalar(g, KILN_F64, p->items[1]->u.f), &q->scale));
    return scalar_tensor(r, graph_scalar_int(g, KILN_I64, p->items[2]->u.i), &q->zero_point);
  }
  const pickle_value *axis = p->count == 4 ? p->items[3] : NULL;
  if (!axis || axis->kind != PICKLE_INT || axis->u.i < 0 || axis->u.i >= t->type.rank)
    return bad(t, "the axis of its channels is no axis");
  q->axis = (int32_t)axis->u.i;
  KILN_TRY(channel_tensor(r, p->items[1], where, t, t->type.dims[q->axis], &q->scale));
  return channel_tensor(r, p->items[2], where, t, t->type.dims[q->axis], &q->zero_point);
}

/* (storage, offset, sizes, strides, quantizer, requires_grad, hooks) */
kiln_status ts_qtensor_read(ts_reader *r, const pickle_value *args, const char *where, ts_value *out) {
  stored_tensor t = {0};
  char name[LARGEST_NAME];
  name_tensor(r, where, name, &t);
  if (args->count < 5) return bad(&t, "described with too few arguments");
  bool is_complex = false;
  KILN_TRY(read_storage(r, args->items[0], true, &t, &is_complex));
  KILN_TRY(read_layout(args, &t));
  ts_qtensor *q = ARENA_NEW(&r->a->arena, ts_qtensor);
  if (!q) return KILN_NO_MEMORY("tensors");
  KILN_TRY(handle(r, &t, &q->integers));
  KILN_TRY(read_quantizer(r, args->items[4], where, &t, q));
  out->kind = TSV_QTENSOR;
  out->u.qtensor = q;
  return KILN_OK;
}
