/* Parameters, buffers and constants of a .pt2 file. Entries are raw bytes of whole storages; a tensor is a view of one,
 * given by offset, sizes and strides. Names that describe the same memory (tied weights) give the same handle. */
#include "import/complex.h"
#include "import/export_internal.h"
#include "import/handles.h"
#include "import/stored_tensor.h"
#include "ops/lowering.h"

static kiln_status bad(const stored_tensor *t, const char *what) {
  return KILN_FAIL(KILN_INVALID_FILE, "%s: %s", t->what, what);
}

static kiln_status constant_size(const stored_tensor *t, const json_t *sym_int, int64_t *out) {
  const json_t *v = json_object_get(sym_int, "as_int");
  if (!json_is_integer(v)) return bad(t, "its sizes, strides and offset must be integers ({\"as_int\": n})");
  *out = json_integer_value(v);
  return *out < 0 ? bad(t, "negative size, stride or offset") : KILN_OK;
}

static kiln_status read_layout(pt2 *p, const char *name, const json_t *meta, stored_tensor *t) {
  const json_t *strides;
  KILN_TRY(pt2_tensor_type(p, meta, name, false, &t->type));
  KILN_TRY(pt2_array(meta, "strides", name, &strides));
  if (json_array_size(strides) != (size_t)t->type.rank) return bad(t, "has not as many strides as sizes");
  const json_t *kind = json_object_get(meta, "layout");
  if (kind && json_integer_value(kind) != 7)
    return KILN_FAIL(KILN_UNSUPPORTED, "weight `%s` is sparse; only strided tensors are supported", name);
  KILN_TRY(constant_size(t, json_object_get(meta, "storage_offset"), &t->offset));
  for (int32_t i = 0; i < t->type.rank; i++) {
    if (!dim_is_const(t->type.dims[i]) || t->type.dims[i] < 0) return bad(t, "its sizes must be integers");
    KILN_TRY(constant_size(t, json_array_get(strides, (size_t)i), &t->strides[i]));
  }
  return stored_tensor_measure(t);
}

/* complex32, complex64 and complex128 stand three places after the types of their parts. */
static bool is_complex(const json_t *meta) {
  const json_int_t code = json_integer_value(json_object_get(meta, "dtype"));
  return code >= 9 && code <= 11;
}

/* A complex tensor is stored as one of its parts' type with a last dimension more, of 2. */
static kiln_status complex_layout(pt2 *p, const char *name, const json_t *meta, stored_tensor *t) {
  json_t *parts = json_copy((json_t *)(uintptr_t)meta);
  const json_int_t code = json_integer_value(json_object_get(meta, "dtype"));
  if (!parts || json_object_set_new(parts, "dtype", json_integer(code - 3)) != 0) {
    json_decref(parts);
    return KILN_NO_MEMORY("weights");
  }
  const kiln_status status = read_layout(p, name, parts, t);
  json_decref(parts);
  KILN_TRY(status);
  return stored_tensor_as_pairs(t);
}

static kiln_status complex_handle(pt2 *p, weight *w) {
  w->tensor = complex_unpack(&p->im, &p->b, w->initial);
  KILN_TRY(graph_check(p->graph));
  return w->tensor ? KILN_OK : KILN_NO_MEMORY("weights");
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
  stored_tensor t = {.what = arena_printf(&p->arena, "weight `%s`", name),
                     .entry = arena_printf(&p->arena, "data/%s/%s", kind, file)};
  if (!t.what || !t.entry) return KILN_NO_MEMORY("weights");
  KILN_TRY(is_complex(meta) ? complex_layout(p, name, meta, &t) : read_layout(p, name, meta, &t));
  const char *key = stored_tensor_key(&t, &p->arena);
  if (key && is_complex(meta)) key = arena_printf(&p->arena, "%s, complex", key);
  if (!key) return KILN_NO_MEMORY("weights");
  weight *w = map_get(&p->weight_cache, key);
  if (!w) {
    w = ARENA_NEW(&p->arena, weight);
    if (!w || !map_put(&p->weight_cache, key, w)) return KILN_NO_MEMORY("weights");
    KILN_TRY(stored_tensor_constant(&t, &p->zip, p->graph, &w->initial));
    if (is_complex(meta))
      KILN_TRY(complex_handle(p, w));
    else
      w->tensor = lower_tensor(&p->im, w->initial);
    if (!w->tensor) return KILN_NO_MEMORY("weights");
  }
  if (!from_constants && !graph_name_constant(p->graph, w->initial, name)) return KILN_NO_MEMORY("weights");
  *out = w;
  return KILN_OK;
}

kiln_status pt2_name_weights(pt2 *p) {
  const char *name;
  json_t *entry, *config = json_object_get(p->weights, "config");
  json_object_foreach(config, name, entry) {
    weight *w;
    const kiln_status status = pt2_weight(p, name, false, &w);
    if (status == KILN_OUT_OF_MEMORY) return status;
    if (status != KILN_OK) error_clear(); /* the model does not use it */
  }
  return KILN_OK;
}
