/* The kernel rows of all custom operators (ops/custom.h): what they run, the node's operator says. */
#ifndef KILN_BACKENDS_CUSTOM_H
#define KILN_BACKENDS_CUSTOM_H

#include "backends/backend.h"

extern const kernel *const custom_host_kernels[], *const custom_device_kernels[]; /* end with NULL */
const kernel *custom_kernel_find(const char *kernel_name);

/* Why no kernel takes the node, for texts. */
const char *custom_refusal(const target *t, const node *n);

extern const kernel custom_cuda_text_kernel; /* cuda/custom.c */

#endif
