/* The CUDA backend's vtable: target names, and one flat list of the kernel rows of all files (CUDA_GROUPS in cuda.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cuda/internal.h"
#include "backends/cuda/packing.h"

#define CUDA_DECLARE(name) extern const kernel name[];
CUDA_GROUPS(CUDA_DECLARE)

enum { CUDA_MAX_ROWS = 1024 };

/* Filled before main: constant initializers cannot join arrays of other files. Never written again. */
static const kernel *cuda_rows[CUDA_MAX_ROWS + 1];

static size_t add_rows(size_t count, const kernel *rows) {
  for (; rows && rows->op && count < CUDA_MAX_ROWS; ++rows) cuda_rows[count++] = rows;
  return count;
}

__attribute__((constructor)) static void collect_rows(void) {
  size_t count = 0;
#define CUDA_ADD(name) count = add_rows(count, name);
  CUDA_GROUPS(CUDA_ADD)
  cuda_rows[count] = NULL;
}

/* "cuda", "cuda:1": the number of a GPU of this machine. */
static bool parse_ordinal(const char *name, int *out) {
  char *end = NULL;
  *out = 0;
  if (str_eq(name, "cuda")) return true;
  if (!str_starts(name, "cuda:") || name[5] < '0' || name[5] > '9') return false;
  const long ordinal = strtol(name + 5, &end, 10);
  *out = (int)ordinal;
  return !*end && ordinal < 1024;
}

/* "cuda" is this machine's GPU 0, "cuda:sm_90" an architecture that need not be here. */
static kiln_status parse_target(const char *name, target *out) {
  cuda_facts facts;
  int ordinal = 0;
  if (str_starts(name, "cuda:sm_")) {
    char *end = NULL;
    const long arch = strtol(name + strlen("cuda:sm_"), &end, 10);
    if (*end == 'a') end++;
    if (*end || arch < 0 || arch > 999 || !cuda_arch_facts((int)arch, &facts))
      return KILN_FAIL(KILN_INVALID_ARGUMENT,
                       "target \"%.40s\": expected cuda, or cuda:sm_80, sm_86, sm_89, sm_90, sm_100 or sm_120", name);
  } else if (parse_ordinal(name, &ordinal)) {
    target any = {.backend = &backend_cuda};
    device *d = NULL;
    KILN_TRY_NOTE(cuda_hooks.open(&any, ordinal, &d),
                  "target \"cuda\" (name an architecture, \"cuda:sm_90\" say, to build for a GPU that is not here)");
    facts = *cuda_device_facts(d);
    cuda_hooks.close(d);
  } else {
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "target \"%.40s\": expected cuda, cuda:1 or cuda:sm_90 and the like", name);
  }
  *out = (target){.backend = &backend_cuda, .isa = facts.arch, .ordinal = ordinal};
  snprintf(out->name, sizeof out->name, "cuda:sm_%d", facts.arch);
  return KILN_OK;
}

const backend backend_cuda = {
    .name = "cuda",
    .parse_target = parse_target,
    .rewrite = cuda_rewrite,
    .kernels = cuda_rows,
    .packings = cuda_packings,
    .device = &cuda_hooks,
};
