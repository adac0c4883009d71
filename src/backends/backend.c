/* The list of backends, targets by name, and the tactics of a node. */
#include "backends/backend.h"

#include <string.h>

#include "backends/custom.h"
#include "runtime/program.h"

static const backend *const backends[] = {&backend_cpu, &backend_cuda, &backend_reference};

const backend *backend_find(const char *name) {
  for (size_t i = 0; i < KILN_COUNT(backends); i++) {
    if (str_eq(backends[i]->name, name)) return backends[i];
  }
  return NULL;
}

kiln_status target_parse(const char *name, target *out) {
  if (!name) name = "cpu";
  const char *colon = strchr(name, ':');
  const size_t length = colon ? (size_t)(colon - name) : strlen(name);
  for (size_t i = 0; i < KILN_COUNT(backends); i++) {
    if (strlen(backends[i]->name) == length && memcmp(backends[i]->name, name, length) == 0)
      return backends[i]->parse_target(name, out);
  }
  return KILN_FAIL(KILN_INVALID_ARGUMENT,
                   "unknown target `%.40s`: expected cpu, cpu:avx512, cpu:avx2, cpu:scalar, cuda, cuda:sm_90 (and the "
                   "like) or reference",
                   name);
}

const packing *packing_find(const char *name) {
  for (size_t i = 0; i < KILN_COUNT(backends); i++) {
    for (const packing *p = backends[i]->packings; p && p->name; p++) {
      if (str_eq(p->name, name)) return p;
    }
  }
  return NULL;
}

/* ---- the reference kernel ---------------------------------------------------------------------------------------- */

static kiln_status run_reference(const kernel_args *a) {
  return reference_run_node(a->node, a->attrs, a->in, a->n_in, a->out, a->n_out, a->symbols);
}

const kernel reference_kernel = {.op = "*",
                                 .name = "reference",
                                 .run = run_reference,
                                 .strided_in = KERNEL_STRIDED_ALL,
                                 .strided_out = KERNEL_STRIDED_ALL,
                                 .epilogue = true};

/* ---- tactics ----------------------------------------------------------------------------------------------------- */

static bool kernel_allowed(const target *t, const node *n, const kernel *k, text *why) {
  const char *reason = NULL;
  if (k->isa > t->isa || (k->isa_max && t->isa > k->isa_max)) return false;
  if (n->epilogue && !k->epilogue) {
    reason = "it takes no epilogue";
  } else if (k->fits && !k->fits(n, &reason)) {
    reason = reason ? reason : "it does not fit";
  } else {
    return true;
  }
  if (why) text_printf(why, "%s %s (%s): not %s, %s\n", n->op->name, n->path, n->source, k->name, reason);
  return false;
}

int backend_tactics(const target *t, const node *n, const kernel **out, int max, text *why) {
  int count = 0;
  if (n->op->flags & OP_CUSTOM) {
    for (const kernel *const *k = t->backend->device ? custom_device_kernels : custom_host_kernels; *k; k++)
      if (count < max && kernel_allowed(t, n, *k, why)) out[count++] = *k;
    return count;
  }
  for (const kernel *const *k = t->backend->kernels; k && *k; k++) {
    if (count < max && str_eq((*k)->op, n->op->name) && kernel_allowed(t, n, *k, why)) out[count++] = *k;
  }
  if (t->backend->device) return count; /* a host's kernel cannot reach the device's memory */
  if (count < max && (n->op->ref || n->n_blocks)) out[count++] = &reference_kernel;
  return count;
}

const kernel *kernel_find(const char *op_name, const char *kernel_name) {
  if (str_eq(kernel_name, reference_kernel.name)) return &reference_kernel;
  const kernel *custom = strchr(op_name, '.') ? custom_kernel_find(kernel_name) : NULL;
  if (custom) return custom;
  for (size_t i = 0; i < KILN_COUNT(backends); i++) {
    for (const kernel *const *k = backends[i]->kernels; k && *k; k++) {
      if (str_eq((*k)->op, op_name) && str_eq((*k)->name, kernel_name)) return *k;
    }
  }
  return NULL;
}
