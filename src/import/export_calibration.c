/* int8 layers of .pt2 files: which nodes they are. As kiln/quantization.py chooses them: operators of the program's own graph whose weight
 * is a parameter or buffer that nothing else uses. */
#include <string.h>

#include "import/export_internal.h"

enum { MAX_DEPTH = 64 };

/* The name of a node's argument that is a tensor; NULL: it is none. */
static const char *tensor_name(const json_t *input) {
  return json_string_value(json_object_get(json_object_get(json_object_get(input, "arg"), "as_tensor"), "name"));
}

/* All names in an argument: whatever they stand for, they are uses. */
static kiln_status note_uses(calibration *c, const json_t *v, int depth) {
  const char *name = json_string_value(json_object_get(v, "name"));
  if (depth == MAX_DEPTH) return KILN_FAIL(KILN_INVALID_FILE, "model.json: an argument nests too deep");
  if (name && map_has(&c->weights, name) && !map_put(&c->weights, name, "")) return KILN_NO_MEMORY("import");
  if (json_is_object(v)) {
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)(uintptr_t)v, key, item) KILN_TRY(note_uses(c, item, depth + 1));
  }
  for (size_t i = 0; i < json_array_size(v); i++) KILN_TRY(note_uses(c, json_array_get(v, i), depth + 1));
  return KILN_OK;
}

static kiln_status note_node(calibration *c, const json_t *entry) {
  const char *target = json_string_value(json_object_get(entry, "target"));
  const json_t *inputs = json_object_get(entry, "inputs");
  for (size_t i = 0; i < json_array_size(inputs); i++) {
    const json_t *input = json_array_get(inputs, i);
    const char *name = tensor_name(input), *known = name ? map_get(&c->weights, name) : NULL;
    const bool as_weight = known && i == 1 && target;
    if (as_weight && str_eq(known, target)) continue;
    if (as_weight && str_eq(known, "?")) {
      if (!map_put(&c->weights, name, (void *)(uintptr_t)target)) return KILN_NO_MEMORY("import");
      continue;
    }
    KILN_TRY(note_uses(c, json_object_get(input, "arg"), 0));
  }
  return KILN_OK;
}

kiln_status pt2_note_weights(pt2 *p, const json_t *input_specs, const json_t *g) {
  calibration *c = p->im.calibration;
  const json_t *nodes;
  for (size_t i = 0; i < json_array_size(input_specs); i++) {
    const json_t *spec = json_array_get(input_specs, i), *kind = json_object_get(spec, "parameter");
    if (!kind) kind = json_object_get(spec, "buffer");
    const char *name = json_string_value(json_object_get(json_object_get(kind, "arg"), "name"));
    if (name && !map_put(&c->weights, name, (void *)(uintptr_t) "?")) return KILN_NO_MEMORY("import");
  }
  KILN_TRY(pt2_array(g, "nodes", "graph", &nodes));
  for (size_t i = 0; i < json_array_size(nodes); i++) KILN_TRY(note_node(c, json_array_get(nodes, i)));
  return note_uses(c, json_object_get(g, "outputs"), 0);
}

kiln_status pt2_calibrate(pt2 *p, const json_t *entry, lower_call *call) {
  const json_t *inputs = json_object_get(entry, "inputs");
  const char *x = tensor_name(json_array_get(inputs, 0)), *w = tensor_name(json_array_get(inputs, 1));
  const char *user = w ? map_get(&p->im.calibration->weights, w) : NULL;
  if (!x || !user || !*user || str_eq(x, w) || str_eq(call->schema->name, "aten::_convolution")) return KILN_OK;
  const int axis = calibration_axis(call);
  return axis < 0 ? KILN_OK : calibration_layer(p->im.calibration, call, x, axis);
}
