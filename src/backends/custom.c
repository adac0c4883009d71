/* Kernels of custom operators: the functions that a plugin registered, on contiguous tensors. */
#include "backends/custom.h"

#include "ops/custom.h"

static bool host_fits(const node *n, const char **why) {
  if (!custom_impl_of(n->op)->run) {
    *why = "it was registered without a kernel for the CPU";
    return false;
  }
  return custom_dtypes_fit(n, why);
}

static bool device_fits(const node *n, const char **why) {
  if (!custom_impl_of(n->op)->run_cuda) {
    *why = "it was registered without a function for GPUs";
    return false;
  }
  return custom_dtypes_fit(n, why);
}

static kiln_status run_host(const kernel_args *a) {
  custom_call c;
  KILN_TRY(custom_call_fill(&c, a));
  return custom_run(a->node, custom_impl_of(a->node->op)->run, &c.call);
}

static kiln_status run_device(const kernel_args *a) {
  custom_call c;
  KILN_TRY(custom_call_fill(&c, a));
  return custom_run(a->node, custom_impl_of(a->node->op)->run_cuda, &c.call);
}

static const kernel host_kernel = {.op = "*", .name = "plugin", .fits = host_fits, .run = run_host};
static const kernel device_kernel = {.op = "*", .name = "plugin.cuda", .fits = device_fits, .run = run_device};
const kernel *const custom_host_kernels[] = {&host_kernel, NULL};
const kernel *const custom_device_kernels[] = {&device_kernel, &custom_cuda_text_kernel, NULL};

const kernel *custom_kernel_find(const char *kernel_name) {
  if (str_eq(kernel_name, host_kernel.name)) return &host_kernel;
  for (const kernel *const *k = custom_device_kernels; *k; k++)
    if (str_eq(kernel_name, (*k)->name)) return *k;
  return NULL;
}

const char *custom_refusal(const target *t, const node *n) {
  const custom_impl *impl = custom_impl_of(n->op);
  const bool any = t->backend->device ? impl->run_cuda || impl->has_cuda : impl->run != NULL;
  const char *why = NULL;
  if (!any)
    return t->backend->device ? "which was registered without a kernel for GPUs"
                              : "which was registered without a kernel for CPUs";
  return custom_dtypes_fit(n, &why) ? "which its kernels do not take"
                                    : "which was registered for other element types (dtypes)";
}
