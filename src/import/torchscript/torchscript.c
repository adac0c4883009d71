/* The importer of TorchScript files: archive, inputs, one run of the method, outputs. */
#include "import/torchscript/torchscript.h"

#include <string.h>

#include "import/calibration.h"
#include "import/torchscript/method.h"
#include "import/torchscript/survey.h"

bool torchscript_detect(const void *bytes, size_t size) { return ts_archive_detect(bytes, size); }

kiln_status method_restore(interp *it) {
  ts_archive *a = it->a;
  for (int32_t i = 0; i < a->n_pending; i++) {
    ts_object *o = a->pending[i];
    const ts_function *f = ts_class_method(o->cls, "__setstate__");
    ts_value result;
    if (!f || !o->state) continue;
    const ts_value state = *o->state;
    o->state = NULL;
    KILN_TRY(interp_invoke(it, f, o, 1, &state, NULL, &result));
  }
  return a->n_pending ? ts_archive_collect(a) : KILN_OK;
}

static kiln_status find_method(interp *it, const char *name, ts_object **out_self, const ts_function **out) {
  const ts_value *root = &it->a->root;
  text t = {0};
  if (root->kind != TSV_OBJECT)
    return KILN_FAIL(KILN_INVALID_FILE, "the archive holds %s, not a module", interp_kind_name(root));
  *out_self = root->u.object;
  *out = ts_class_method((*out_self)->cls, name);
  if (*out) return KILN_OK;
  for (int32_t i = 0; i < (*out_self)->cls->n_methods; i++)
    text_printf(&t, i ? ", %s" : "%s", (*out_self)->cls->methods[i].name);
  const kiln_status status = KILN_FAIL(KILN_INVALID_ARGUMENT, "the module has no method `%.100s`; it has: %.800s", name,
                                       t.data ? t.data : "none");
  text_free(&t);
  return status;
}

/* Modules keep their weights under the names that state_dict() tells. */
static kiln_status name_weights(const interp *it) {
  for (int32_t i = 0; i < it->a->n_parameters; i++) {
    const ts_parameter *p = &it->a->parameters[i];
    if (p->owner->attrs[p->attribute].kind != TSV_TENSOR) continue;
    if (!graph_name_constant(it->g, p->initial, p->path)) return KILN_NO_MEMORY("names of weights");
  }
  return KILN_OK;
}

static kiln_status import_method(interp *it, const kiln_build_options *options) {
  method m = {.it = it, .options = options, .name = options && options->method ? options->method : "forward"};
  KILN_TRY(method_restore(it));
  KILN_TRY(name_weights(it));
  KILN_TRY(find_method(it, m.name, &m.self, &m.function));
  KILN_TRY(ts_function_params(it->a, m.function));
  KILN_TRY(method_inputs(&m));
  const kiln_status status = method_run(&m);
  if (status == KILN_UNSUPPORTED && strstr(error_text(), "operator ")) return ts_survey_note(it->a, m.function, status);
  return status == KILN_OK ? method_finish(&m) : status;
}

static kiln_status import_into(ts_archive *a, graph *g, const void *bytes, size_t size, const char *origin,
                               const kiln_build_options *options, calibration *ranges) {
  interp it;
  KILN_TRY(aten_init());
  KILN_TRY(ts_archive_open(a, g, bytes, size, origin));
  a->im.calibration = ranges;
  kiln_status status = interp_open(&it, a, g);
  if (status == KILN_OK) status = import_method(&it, options);
  if (status == KILN_OK && ranges) status = calibration_finish(ranges);
  interp_close(&it);
  return status == KILN_OK ? graph_check(g) : status;
}

kiln_status torchscript_import(const void *bytes, size_t size, const char *origin, const kiln_build_options *options,
                               graph **out) {
  ts_archive a = {0};
  graph *g = NULL;
  calibration ranges = {0};
  const char *cache = options ? options->calibration_cache : NULL;
  KILN_TRY(graph_create(&g));
  kiln_status status = cache ? calibration_open(cache, &ranges) : KILN_OK;
  if (status == KILN_OK)
    status = import_into(&a, g, bytes, size, origin ? origin : "the model", options, cache ? &ranges : NULL);
  ts_archive_close(&a);
  calibration_close(&ranges);
  if (status != KILN_OK) {
    graph_destroy(g);
    return error_note(status, __FILE__, __LINE__, "importing %s", origin ? origin : "a model from memory");
  }
  *out = g;
  return KILN_OK;
}
