/* Parameters, buffers and constants of a .pt2 file. Entries are raw bytes of whole storages; a tensor is a view of one,
 * given by offset, sizes and strides. Contiguous ones are borrowed from the file's bytes, others copied. Names that
 * describe the same memory (tied weights) give the same handle. */
#include <string.h>

#include "base/memory.h"
#include "import/export_internal.h"

typedef struct layout {
  const char *name; /* of the tensor, for texts */
  tensor_type type;
  int64_t strides[KILN_MAX_RANK];
  int64_t offset;
  int64_t numel;
  int64_t reach; /* elements of storage that it touches, from 0 */
} layout;

static kiln_status bad(const layout *l, const char *what) {
  return KILN_FAIL(KILN_INVALID_FILE, "weight `%s`: %s", l->name, what);
}

static kiln_status constant_size(const layout *l, const json_t *sym_int, int64_t *out) {
  const json_t *v = json_object_get(sym_int, "as_int");
  if (!json_is_integer(v)) return bad(l, "its sizes, strides and offset must be integers ({\"as_int\": n})");
  *out = json_integer_value(v);
  return *out < 0 ? bad(l, "negative size, stride or offset") : KILN_OK;
}

static kiln_status read_layout(pt2 *p, const json_t *meta, layout *l) {
  const json_t *strides;
  KILN_TRY(pt2_tensor_type(p, meta, l->name, false, &l->type));
  KILN_TRY(pt2_array(meta, "strides", l->name, &strides));
  if (json_array_size(strides) != (size_t)l->type.rank) return bad(l, "has not as many strides as sizes");
  const json_t *kind = json_object_get(meta, "layout");
  if (kind && json_integer_value(kind) != 7)
    return KILN_FAIL(KILN_UNSUPPORTED, "weight `%s` is sparse; only strided tensors are supported", l->name);
  KILN_TRY(constant_size(l, json_object_get(meta, "storage_offset"), &l->offset));
  l->numel = 1;
  l->reach = l->offset;
  bool overflow = false;
  for (int32_t i = 0; i < l->type.rank; i++) {
    int64_t span;
    if (!dim_is_const(l->type.dims[i])) return bad(l, "its sizes must be integers");
    KILN_TRY(constant_size(l, json_array_get(strides, (size_t)i), &l->strides[i]));
    overflow |= __builtin_mul_overflow(l->numel, l->type.dims[i], &l->numel);
    overflow |= __builtin_mul_overflow(l->strides[i], l->type.dims[i] > 0 ? l->type.dims[i] - 1 : 0, &span);
    overflow |= __builtin_add_overflow(l->reach, span, &l->reach);
  }
  overflow |= __builtin_add_overflow(l->reach, 1, &l->reach);
  if (overflow || l->numel > INT64_MAX / 16 || l->reach > INT64_MAX / 16)
    return bad(l, "its sizes and strides overflow");
  if (l->numel == 0) l->reach = 0;
  return KILN_OK;
}

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

static kiln_status make_value(pt2 *p, const layout *l, const char *path, value **out) {
  const void *data;
  size_t size, needed;
  const size_t item = kiln_dtype_size(l->type.dtype);
  const zip_entry *e = zip_find(&p->zip, path);
  if (!e) return KILN_FAIL(KILN_INVALID_FILE, "weight `%s`: the archive has no entry %.200s", l->name, path);
  /* Stored entries are used in place, so only compressed ones need the arena, which lives as long as the graph. */
  KILN_TRY_NOTE(zip_read(e, &p->graph->arena, &data, &size), "reading weight `%s`", l->name);
  const char *bytes = data;
  if (!size_mul((size_t)l->reach, item, &needed) || needed > size)
    return KILN_FAIL(KILN_INVALID_FILE, "weight `%s`: its sizes and strides reach over %zu bytes, but %.200s has %zu",
                     l->name, needed, path, size);
  const char *start = bytes + (size_t)l->offset * item;
  if (is_contiguous(l) && ((uintptr_t)start % item) == 0) {
    *out = graph_constant(p->graph, &l->type, l->numel ? start : (const char *)"");
  } else {
    /* A stride of 0 lets few bytes stand for many: refuse what would blow up memory. */
    if (l->numel > (int64_t)(size / item) * 1024 + (1 << 20))
      return bad(l, "an expanded tensor that is far larger than its bytes");
    void *copy = mem_alloc_aligned((size_t)l->numel * item);
    if (!copy) return KILN_NO_MEMORY("weights");
    copy_strided(l, bytes, copy);
    *out = graph_constant_take(p->graph, &l->type, copy);
  }
  return *out ? KILN_OK : graph_check(p->graph);
}

static char *cache_key(pt2 *p, const layout *l, const char *path) {
  text t = {0};
  text_printf(&t, "%s@%d:%lld", path, (int)l->type.dtype, (long long)l->offset);
  for (int32_t i = 0; i < l->type.rank; i++)
    text_printf(&t, ":%lld*%lld", (long long)l->type.dims[i], (long long)l->strides[i]);
  char *key = t.failed ? NULL : arena_strdup(&p->arena, t.data);
  text_free(&t);
  return key;
}

kiln_status pt2_weight(pt2 *p, const char *name, bool from_constants, weight **out) {
  const char *kind = from_constants ? "constants" : "weights";
  const json_t *config, *meta;
  const char *file;
  KILN_TRY(pt2_object(from_constants ? p->constants : p->weights, "config",
                      from_constants ? "model_constants_config.json" : "model_weights_config.json", &config));
  const json_t *entry = json_object_get(config, name);
  if (!json_is_object(entry)) return KILN_FAIL(KILN_INVALID_FILE, "`%s` is missing from the archive's %s", name, kind);
  KILN_TRY(pt2_string(entry, "path_name", name, &file));
  if (json_is_true(json_object_get(entry, "use_pickle")))
    return KILN_FAIL(
        KILN_UNSUPPORTED,
        "`%s` is stored as a pickled object (a tensor subclass, or a custom object); export the model with plain "
        "tensors",
        name);
  KILN_TRY(pt2_object(entry, "tensor_meta", name, &meta));
  layout l = {.name = name};
  KILN_TRY(read_layout(p, meta, &l));
  const char *path = arena_printf(&p->arena, "data/%s/%s", kind, file);
  const char *key = path ? cache_key(p, &l, path) : NULL;
  if (!key) return KILN_NO_MEMORY("weights");
  weight *w = map_get(&p->weight_cache, key);
  if (!w) {
    w = ARENA_NEW(&p->arena, weight);
    if (!w || !map_put(&p->weight_cache, key, w)) return KILN_NO_MEMORY("weights");
    KILN_TRY(make_value(p, &l, path, &w->initial));
    w->tensor = lower_tensor(&p->im, w->initial);
    if (!w->tensor) return KILN_NO_MEMORY("weights");
  }
  *out = w;
  return KILN_OK;
}
