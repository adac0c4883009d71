/* Kernels with one thread for each result (or V neighbouring results), whose place in the operands is computed. */
#ifndef KILN_BACKENDS_CUDA_MAPPED_H
#define KILN_BACKENDS_CUDA_MAPPED_H

#include "backends/cuda/codegen.h"

enum { MAPPED_THREADS = 256 };

/* Starts `entry`: parameters in0.. (those that are present) and out0.., the linear index `i` (returns past the end), coordinates c0.. of
 * result 0 and `to` + k: the offset in result k. `v` neighbours along the last dimension make one thread's work; c of the last
 * dimension is then the first of them. `shape` NULL: that of result 0. */
void mapped_begin(text *t, const kernel_prep *p, const char *entry, int v);
/* Ends it, compiles, and sets p->state. */
kiln_status mapped_end(kernel_prep *p, text *t, const char *entry, int v);

/* How many neighbours along the last dimension one thread may copy at once between result 0 and operand 0, whose last dimensions must be
 * laid out alike. */
int mapped_width(const kernel_prep *p);

/* "const VT x = widened in<operand>[at];" */
void mapped_load(text *t, const kernel_prep *p, int operand, const char *name, const char *at);
/* "out<k>[to<k>] = narrowed v;" */
void mapped_store(text *t, const kernel_prep *p, int k, const char *v);

#endif
