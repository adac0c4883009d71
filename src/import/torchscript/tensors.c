/* Tensors of a TorchScript archive. A storage is an entry of raw bytes; a tensor is a view of one. Contiguous ones are
 * borrowed from the file, others copied. The same view of the same storage is one handle, so that parameters which
 * modules share alias. */
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "import/torchscript/archive.h"

typedef struct layout {
  const char *where; /* names the tensor in texts */
  const char *key;   /* of the storage: the entry's name */
  tensor_type type;
  int64_t strides[KILN_MAX_RANK];
  int64_t offset;
  int64_t numel;
  int64_t reach; /* elements of storage that it touches, from 0 */
} layout;

static kiln_status bad(const ts_reader *r, const char *where, const char *what) {
  return KILN_FAIL(KILN_INVALID_FILE, "%s: tensor `%.200s`: %s", r->entry, where, what);
}

/* ---- layouts ----------------------------------------------------------------------------------------------------- */

static kiln_status storage_type(const ts_reader *r, const char *name, const char *where, bool quantized,
                                kiln_dtype *out) {
  static const struct {
    const char *name;
    kiln_dtype dtype;
    bool quantized;
  } known[] = {
      {"FloatStorage", KILN_F32, false},     {"DoubleStorage", KILN_F64, false}, {"HalfStorage", KILN_F16, false},
      {"BFloat16Storage", KILN_BF16, false}, {"LongStorage", KILN_I64, false},   {"IntStorage", KILN_I32, false},
      {"ShortStorage", KILN_I16, false},     {"CharStorage", KILN_I8, false},    {"ByteStorage", KILN_U8, false},
      {"BoolStorage", KILN_BOOL, false},     {"QInt8Storage", KILN_I8, true},    {"QUInt8Storage", KILN_U8, true},
      {"QInt32Storage", KILN_I32, true},
  };
  for (size_t i = 0; i < KILN_COUNT(known); i++) {
    if (!str_eq(name, known[i].name) || known[i].quantized != quantized) continue;
    *out = known[i].dtype;
    return KILN_OK;
  }
  return KILN_FAIL(KILN_UNSUPPORTED, "%s: tensor `%.200s`: Kiln has no tensors of %.100s", r->entry, where, name);
}

/* ('storage', torch.FloatStorage, '0', 'cpu', 9) */
static kiln_status read_storage(const ts_reader *r, const pickle_value *p, bool quantized, layout *l) {
  const pickle_value *id = p->kind == PICKLE_PERSID ? p->u.call.args : NULL;
  if (!id || id->kind != PICKLE_TUPLE || id->count < 5 || id->items[0]->kind != PICKLE_STRING ||
      !str_eq(id->items[0]->u.s.data, "storage") || id->items[1]->kind != PICKLE_GLOBAL ||
      id->items[2]->kind != PICKLE_STRING)
    return bad(r, l->where, "a storage that is not described as PyTorch does");
  const char *key = id->items[2]->u.s.data;
  if (strlen(key) > 200) return bad(r, l->where, "the name of its storage is too long");
  KILN_TRY(storage_type(r, id->items[1]->u.global.name, l->where, quantized, &l->type.dtype));
  l->key = arena_printf(&r->a->arena, "%s/%s", r->storages ? r->storages : "", key);
  return l->key ? KILN_OK : KILN_NO_MEMORY("tensors");
}

static kiln_status read_layout(const ts_reader *r, const pickle_value *args, layout *l) {
  const pickle_value *sizes = args->items[2], *strides = args->items[3];
  if (args->items[1]->kind != PICKLE_INT || sizes->kind != PICKLE_TUPLE || strides->kind != PICKLE_TUPLE ||
      strides->count != sizes->count || args->items[1]->u.i < 0)
    return bad(r, l->where, "offset, sizes or strides are damaged");
  if (sizes->count > KILN_MAX_RANK)
    return KILN_FAIL(KILN_UNSUPPORTED, "%s: tensor `%.200s` has %zu dimensions; at most %d are supported", r->entry,
                     l->where, sizes->count, KILN_MAX_RANK);
  l->offset = l->reach = args->items[1]->u.i;
  l->numel = 1;
  l->type.rank = (int32_t)sizes->count;
  bool overflow = false;
  for (int32_t i = 0; i < l->type.rank; i++) {
    const pickle_value *size = sizes->items[i], *stride = strides->items[i];
    int64_t span;
    if (size->kind != PICKLE_INT || stride->kind != PICKLE_INT || size->u.i < 0 || stride->u.i < 0)
      return bad(r, l->where, "sizes and strides must be integers that are not negative");
    l->type.dims[i] = size->u.i;
    l->strides[i] = stride->u.i;
    overflow |= __builtin_mul_overflow(l->numel, size->u.i, &l->numel);
    overflow |= __builtin_mul_overflow(stride->u.i, size->u.i > 0 ? size->u.i - 1 : 0, &span);
    overflow |= __builtin_add_overflow(l->reach, span, &l->reach);
  }
  overflow |= __builtin_add_overflow(l->reach, 1, &l->reach);
  if (overflow || l->numel > INT64_MAX / 16 || l->reach > INT64_MAX / 16)
    return bad(r, l->where, "its sizes and strides overflow");
  if (l->numel == 0) l->reach = 0;
  return KILN_OK;
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

static bool is_contiguous(const layout *l) {
  int64_t expected = 1;
  for (int32_t i = l->type.rank - 1; i >= 0; i--) {
    if (l->type.dims[i] != 1 && l->strides[i] != expected) return false;
    expected *= l->type.dims[i];
  }
  return true;
}

static void copy_strided(const layout *l, const char *from, char *to) {
  const size_t item = kiln_dtype_size(l->type.dtype);
  int64_t index[KILN_MAX_RANK] = {0};
  int64_t at = l->offset;
  for (int64_t n = 0; n < l->numel; n++) {
    memcpy(to, from + (size_t)at * item, item);
    to += item;
    for (int32_t i = l->type.rank - 1; i >= 0; i--) {
      at += l->strides[i];
      if (++index[i] < l->type.dims[i]) break;
      at -= l->strides[i] * l->type.dims[i];
      index[i] = 0;
    }
  }
}

static kiln_status make_constant(const ts_reader *r, const layout *l, value **out) {
  graph *g = r->a->im.graph;
  const void *data = "";
  size_t size = 0, needed;
  const size_t item = kiln_dtype_size(l->type.dtype);
  const zip_entry *e = zip_find(&r->a->zip, l->key);
  if (!e && l->numel) return bad(r, l->where, "the archive has no entry for its storage");
  /* Stored entries are used in place, so only compressed ones need the arena, which lives as long as the graph. */
  if (e) KILN_TRY_NOTE(zip_read(e, &g->arena, &data, &size), "reading tensor `%.200s`", l->where);
  if (!size_mul((size_t)l->reach, item, &needed) || needed > size)
    return KILN_FAIL(KILN_INVALID_FILE,
                     "%s: tensor `%.200s`: its sizes and strides reach over %zu bytes, but %.200s has %zu", r->entry,
                     l->where, needed, l->key, size);
  const char *start = l->numel ? (const char *)data + (size_t)l->offset * item : "";
  if (is_contiguous(l) && ((uintptr_t)start % item == 0 || !l->numel)) {
    *out = graph_constant(g, &l->type, start);
  } else {
    /* A stride of 0 lets few bytes stand for many: refuse what would blow up memory. */
    if (l->numel > (int64_t)(size / item) * 1024 + (1 << 20))
      return bad(r, l->where, "an expanded tensor that is far larger than its bytes");
    void *copy = mem_alloc_aligned((size_t)l->numel * item);
    if (!copy) return KILN_NO_MEMORY("tensors");
    copy_strided(l, data, copy);
    *out = graph_constant_take(g, &l->type, copy);
  }
  return *out ? KILN_OK : graph_check(g);
}

static char *cache_key(const ts_reader *r, const layout *l) {
  text t = {0};
  text_printf(&t, "%s@%d:%lld", l->key, (int)l->type.dtype, (long long)l->offset);
  for (int32_t i = 0; i < l->type.rank; i++)
    text_printf(&t, ":%lld*%lld", (long long)l->type.dims[i], (long long)l->strides[i]);
  char *key = t.failed ? NULL : arena_strdup(&r->a->arena, t.data);
  text_free(&t);
  return key;
}

/* A value that only tells a type. */
static kiln_status shape_only(const ts_reader *r, const layout *l, itensor **out) {
  block *nowhere = graph_new_block(r->a->im.graph, NULL);
  value *v = nowhere ? graph_add_param(nowhere, NULL, &l->type) : NULL;
  *out = v ? lower_tensor(&r->a->im, v) : NULL;
  return *out ? KILN_OK : KILN_NO_MEMORY("tensors");
}

static kiln_status handle(const ts_reader *r, const layout *l, itensor **out) {
  if (!r->storages) return shape_only(r, l, out);
  const char *key = cache_key(r, l);
  if (!key) return KILN_NO_MEMORY("tensors");
  *out = map_get(&r->a->tensors, key);
  if (*out) return KILN_OK;
  value *v = NULL;
  KILN_TRY(make_constant(r, l, &v));
  *out = lower_tensor(&r->a->im, v);
  if (!*out || !map_put(&r->a->tensors, key, *out)) return KILN_NO_MEMORY("tensors");
  return KILN_OK;
}

/* (storage, offset, sizes, strides, requires_grad, hooks) */
kiln_status ts_tensor_read(ts_reader *r, const pickle_value *args, const char *where, ts_value *out) {
  layout l = {.where = where};
  if (args->count < 4) return bad(r, where, "described with too few arguments");
  KILN_TRY(read_storage(r, args->items[0], false, &l));
  KILN_TRY(read_layout(r, args, &l));
  out->kind = TSV_TENSOR;
  return handle(r, &l, &out->u.tensor);
}

/* ---- quantized --------------------------------------------------------------------------------------------------- */

static kiln_status scalar_tensor(ts_reader *r, value *v, itensor **out) {
  *out = v ? lower_tensor(&r->a->im, v) : NULL;
  return *out ? KILN_OK : KILN_NO_MEMORY("tensors");
}

static kiln_status channel_tensor(ts_reader *r, const pickle_value *p, const char *where, int64_t channels,
                                  itensor **out) {
  ts_value v = {0};
  KILN_TRY(ts_value_read(r, p, where, ts_type_simple(TST_TENSOR), &v));
  if (v.kind != TSV_TENSOR || v.u.tensor->v->type.rank != 1 || v.u.tensor->v->type.dims[0] != channels)
    return bad(r, where, "scales and zero points of its channels must be one for each channel");
  *out = v.u.tensor;
  return KILN_OK;
}

/* (torch.per_tensor_affine, scale, zero_point) or (torch.per_channel_affine, scales, zero_points, axis) */
static kiln_status read_quantizer(ts_reader *r, const pickle_value *p, const layout *l, ts_qtensor *q) {
  if (p->kind != PICKLE_TUPLE || p->count < 3 || p->items[0]->kind != PICKLE_GLOBAL)
    return bad(r, l->where, "how it is quantized is damaged");
  const char *scheme = p->items[0]->u.global.name;
  graph *g = r->a->im.graph;
  if (str_eq(scheme, "per_tensor_affine")) {
    if (p->items[1]->kind != PICKLE_FLOAT || p->items[2]->kind != PICKLE_INT)
      return bad(r, l->where, "its scale must be a float, its zero point an int");
    q->axis = -1;
    KILN_TRY(scalar_tensor(r, graph_scalar(g, KILN_F64, p->items[1]->u.f), &q->scale));
    return scalar_tensor(r, graph_scalar_int(g, KILN_I64, p->items[2]->u.i), &q->zero_point);
  }
  const pickle_value *axis = p->count == 4 ? p->items[3] : NULL;
  if (!axis || axis->kind != PICKLE_INT || axis->u.i < 0 || axis->u.i >= l->type.rank)
    return bad(r, l->where, "the axis of its channels is no axis");
  q->axis = (int32_t)axis->u.i;
  KILN_TRY(channel_tensor(r, p->items[1], l->where, l->type.dims[q->axis], &q->scale));
  return channel_tensor(r, p->items[2], l->where, l->type.dims[q->axis], &q->zero_point);
}

/* (storage, offset, sizes, strides, quantizer, requires_grad, hooks) */
kiln_status ts_qtensor_read(ts_reader *r, const pickle_value *args, const char *where, ts_value *out) {
  layout l = {.where = where};
  if (args->count < 5) return bad(r, where, "described with too few arguments");
  KILN_TRY(read_storage(r, args->items[0], true, &l));
  KILN_TRY(read_layout(r, args, &l));
  ts_qtensor *q = ARENA_NEW(&r->a->arena, ts_qtensor);
  if (!q) return KILN_NO_MEMORY("tensors");
  KILN_TRY(handle(r, &l, &q->integers));
  KILN_TRY(read_quantizer(r, args->items[4], &l, q));
  out->kind = TSV_QTENSOR;
  out->u.qtensor = q;
  return KILN_OK;
}
