/* Steps of a program on a device that run on the CPU, where the engine was built with allow_host_fallback: operands are copied to the
 * host, the CPU's kernel runs, results are copied back. All their tensors are contiguous. */
#ifndef KILN_RUNTIME_HOST_STEPS_H
#define KILN_RUNTIME_HOST_STEPS_H

#include "runtime/program_internal.h"

/* Does this kernel of a program on a device run on the CPU? */
bool host_kernel(const target *t, const kernel *k);
/* The row, or the reference kernel where this machine's CPU cannot run it. */
const kernel *host_kernel_here(const kernel *k);

/* When shapes are bound: prepares the CPU's kernel. */
kiln_status host_step_prepare(program *p, step *s);
kiln_status host_step_run(program *p, step *s);
void host_step_free(program *p, step *s);

#endif
