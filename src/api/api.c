/* kiln.h: what is not implemented beside its subject. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/engine.h"
#include "graph/complex_io.h"
#include "import/aten.h"
#include "import/complex.h"
#include "import/export.h"

#define STRING(x) STRING_(x)
#define STRING_(x) #x

const char *kiln_last_error(void) { return error_text(); }
const char *kiln_version(void) {
  return STRING(KILN_VERSION_MAJOR) "." STRING(KILN_VERSION_MINOR) "." STRING(KILN_VERSION_PATCH);
}

const char *kiln_status_name(kiln_status status) {
  static const char *const names[] = {"KILN_OK",           "KILN_INVALID_ARGUMENT", "KILN_INVALID_FILE",
                                      "KILN_UNSUPPORTED",  "KILN_OUT_OF_MEMORY",    "KILN_INCOMPATIBLE",
                                      "KILN_DEVICE_ERROR", "KILN_IO_ERROR",         "KILN_INTERNAL"};
  return (size_t)status < KILN_COUNT(names) ? names[status] : "unknown status";
}

void kiln_set_allocator(const kiln_allocator *allocator) { mem_set_allocator(allocator); }
void kiln_free(void *memory) { mem_free(memory); }

/* ---- engines ----------------------------------------------------------------------------------------------------- */

size_t kiln_engine_input_count(const kiln_engine *e) { return e ? (size_t)e->plan->n_inputs : 0; }
size_t kiln_engine_output_count(const kiln_engine *e) { return e ? (size_t)e->plan->n_outputs : 0; }

static void fill_info(const graph *g, const char *name, const tensor_type *type, kiln_io_info *out) {
  *out = (kiln_io_info){.name = name, .dtype = type->dtype, .rank = type->rank};
  for (int32_t d = 0; d < type->rank; d++) {
    dim_range(g->dims, type->dims[d], &out->min[d], &out->max[d]);
    out->opt[d] = dim_hint(g->dims, type->dims[d]);
  }
}

kiln_status kiln_engine_input(const kiln_engine *e, size_t index, kiln_io_info *out) {
  if (!e || !out) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", e ? "out_info" : "engine");
  if (index >= kiln_engine_input_count(e))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "input %zu of %zu", index, kiln_engine_input_count(e));
  fill_info(e->plan, e->plan->input_names[index], &e->plan->body.params[index]->type, out);
  return KILN_OK;
}

kiln_status kiln_engine_output(const kiln_engine *e, size_t index, kiln_io_info *out) {
  if (!e || !out) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", e ? "out_info" : "engine");
  if (index >= kiln_engine_output_count(e))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "output %zu of %zu", index, kiln_engine_output_count(e));
  fill_info(e->plan, e->plan->output_names[index], &e->plan->body.results[index].v->type, out);
  return KILN_OK;
}

int kiln_engine_input_is_complex(const kiln_engine *e, size_t index) {
  return e && index < kiln_engine_input_count(e) && graph_input_is_complex(e->plan, (int32_t)index);
}
int kiln_engine_output_is_complex(const kiln_engine *e, size_t index) {
  return e && index < kiln_engine_output_count(e) && graph_output_is_complex(e->plan, (int32_t)index);
}

size_t kiln_engine_optimization_profile_count(const kiln_engine *e) { return e ? (size_t)e->profiles.count : 0; }

kiln_status kiln_engine_optimization_profile_input(const kiln_engine *e, size_t profile_index, size_t index,
                                                   kiln_io_info *out) {
  KILN_TRY(kiln_engine_input(e, index, out));
  if (profile_index >= kiln_engine_optimization_profile_count(e))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "optimization profile %zu of %zu", profile_index,
                     kiln_engine_optimization_profile_count(e));
  const size_profile *p = &e->profiles.all[profile_index];
  for (int32_t d = 0; d < out->rank && e->profiles.declared; d++) {
    if (!dim_eval(e->plan->dims, e->plan->body.params[index]->type.dims[d], p->symbols, &out->opt[d])) out->opt[d] = 1;
  }
  for (int32_t i = 0; i < p->n_ranges; i++) {
    const profile_range *r = &p->ranges[i];
    if ((size_t)r->input != index) continue;
    out->min[r->dim] = r->min;
    out->max[r->dim] = r->max;
  }
  return KILN_OK;
}

const char *kiln_engine_metadata(const kiln_engine *e, const char *key) {
  return e && key ? graph_metadata(e->plan, key) : NULL;
}
size_t kiln_engine_state_count(const kiln_engine *e) { return e ? (size_t)e->plan->n_states : 0; }
const char *kiln_engine_target(const kiln_engine *e) { return e ? e->target.name : ""; }
int kiln_engine_device(const kiln_engine *e) { return e ? e->target.ordinal : 0; }

/* ---- operator table ---------------------------------------------------------------------------------------------- */

static int kernels_of(const backend *b, const op *o) {
  int count = 0;
  for (const kernel *const *k = b->kernels; k && *k; k++) count += str_eq((*k)->op, o->name);
  return count;
}

static void print_op(const op *o, int json, text *t) {
  const int cpu = kernels_of(&backend_cpu, o), cuda = kernels_of(&backend_cuda, o);
  const bool none = (o->flags & (OP_VIEW | OP_CONTROL_FLOW)) != 0; /* these need no kernels */
  int names = 0;
  if (json) {
    text_puts(t, "{\"name\": ");
    text_quote(t, o->name);
    text_printf(t, ", \"cpu_kernels\": %d, \"cuda_kernels\": %d, \"reference\": %s, \"cuda\": %s, \"torch\": [", cpu,
                cuda, o->ref || (o->flags & OP_CONTROL_FLOW) ? "true" : "false", cuda || none ? "true" : "false");
  } else {
    text_printf(t, "%-28s %4d %5d  ", o->name, cpu, cuda);
  }
  for (const torch_row *r = o->torch; r && r->schema; r++, names++) {
    const size_t length = strcspn(r->schema, "(");
    if (names) text_puts(t, json ? ", " : " ");
    if (json) text_putc(t, '"');
    text_append(t, r->schema, length);
    if (json) text_putc(t, '"');
  }
  text_puts(t, json ? "]}" : "\n");
}

kiln_status kiln_ops_report(int json, char **out_text) {
  if (!out_text) return KILN_FAIL(KILN_INVALID_ARGUMENT, "out_text is NULL");
  text t = {0};
  KILN_TRY(ops_init());
  text_puts(&t, json ? "[" : "operator             kernels: cpu  cuda  answers to\n");
  for (int i = 0; i < op_count(); i++) {
    if (json && i) text_puts(&t, ",\n ");
    print_op(op_at(i), json, &t);
  }
  if (json) text_puts(&t, "]\n");
  const kiln_status status = text_take(&t, out_text);
  text_free(&t);
  return status;
}

/* "aten::add" of "aten::add.Tensor", and "Tensor". */
static const char *split_name(const char *name, char base[128]) {
  const char *dot = name ? strchr(name, '.') : NULL;
  const size_t length = !name ? 0 : dot ? (size_t)(dot - name) : strlen(name);
  if (!length || length >= 128) return NULL;
  memcpy(base, name, length);
  base[length] = 0;
  return dot ? dot + 1 : "";
}

int kiln_operator_supported(const char *name) {
  char base[128];
  bool in_place;
  const char *overload = split_name(name, base);
  return overload && (aten_resolve(base, overload, &in_place) != NULL || export_takes_size_operator(name));
}

int kiln_operator_takes_complex(const char *name) {
  char base[128];
  bool in_place;
  const char *overload = split_name(name, base);
  const aten_schema *schema = overload ? aten_resolve(base, overload, &in_place) : NULL;
  return schema && complex_operator(schema);
}
