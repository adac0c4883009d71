/* The CPU backend's vtable: target names, and one flat list of the kernel rows of all files (kernels.h). */
#include <stdio.h>
#include <string.h>

#include "backends/cpu/kernels.h"
#include "backends/cpu/rewrite.h"
#include "base/cpu_features.h"
#include "base/text.h"

enum { CPU_MAX_ROWS = 2048 };

/* Filled before main: constant initializers cannot join arrays of other files. Never written again. */
static const kernel *cpu_rows[CPU_MAX_ROWS + 1];

static size_t cpu_add_rows(size_t count, const kernel *rows) {
  for (; rows->op && count < CPU_MAX_ROWS; ++rows) cpu_rows[count++] = rows;
  return count;
}

__attribute__((constructor)) static void cpu_collect_rows(void) {
  size_t count = 0;
#define CPU_ADD_AVX512(name) count = cpu_add_rows(count, name##_avx512);
#define CPU_ADD_AVX2(name) count = cpu_add_rows(count, name##_avx2);
#define CPU_ADD_SCALAR(name) count = cpu_add_rows(count, name##_scalar);
#define CPU_ADD_PLAIN(name) count = cpu_add_rows(count, name);
  CPU_ISA_GROUPS(CPU_ADD_AVX512)
  CPU_ISA_GROUPS(CPU_ADD_AVX2)
  CPU_PLAIN_GROUPS(CPU_ADD_PLAIN)
  CPU_ISA_GROUPS(CPU_ADD_SCALAR)
  cpu_rows[count] = NULL;
}

static kiln_status cpu_parse_target(const char *name, target *out) {
  int isa = -1;
  if (str_eq(name, "cpu")) isa = (int)cpu_best_isa();
  for (int i = 0; i < ISA_COUNT && isa < 0; ++i) {
    if (str_starts(name, "cpu:") && str_eq(name + 4, cpu_isa_name((cpu_isa)i))) isa = i;
  }
  if (isa < 0) {
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "target \"%s\": expected cpu, cpu:avx512, cpu:avx2 or cpu:scalar", name);
  }
  if (isa > (int)cpu_best_isa()) {
    return KILN_FAIL(KILN_INCOMPATIBLE, "target \"%s\": this processor has at most %s; use target \"cpu\"", name,
                     cpu_isa_name(cpu_best_isa()));
  }
  *out = (target){.backend = &backend_cpu, .isa = isa};
  snprintf(out->name, sizeof out->name, "cpu:%s", cpu_isa_name((cpu_isa)isa));
  return KILN_OK;
}

bool cpu_fits_f32(const node *n, const char **why) {
  for (int i = 0; i < n->n_inputs; ++i) {
    if (n->inputs[i].v && n->inputs[i].v->type.dtype != KILN_F32) return *why = "an operand is not f32", false;
  }
  for (int i = 0; i < n->n_outputs; ++i) {
    if (n->outputs[i]->type.dtype != KILN_F32) return *why = "a result is not f32", false;
  }
  return true;
}

const backend backend_cpu = {
    .name = "cpu",
    .parse_target = cpu_parse_target,
    .rewrite = cpu_rewrite,
    .kernels = cpu_rows,
    .packings = cpu_packings,
};
