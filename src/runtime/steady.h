/* Runs like the one before: on a GPU, with tensors of the same shapes, strides and places, at addresses for which there is a graph. They
 * need no more than a comparison and a launch. What is compared lies packed, since after a wait for the GPU the processor's caches are
 * others'. */
#ifndef KILN_RUNTIME_STEADY_H
#define KILN_RUNTIME_STEADY_H

#include "runtime/context.h"

kiln_status steady_create(kiln_context *c);
void steady_free(kiln_context *c);
/* After a run: may the next one go this way? */
void steady_note(kiln_context *c, const kiln_tensor *inputs, const kiln_tensor *outputs);
/* Are these like the last run's inputs, and is the same program bound? */
bool steady_same_inputs(const kiln_context *c, const kiln_tensor *inputs);
/* kiln_context_prepare for inputs like the last run's; false: they are not. */
bool steady_prepare(const kiln_context *c, const kiln_tensor *inputs, size_t input_count, kiln_tensor *outputs,
                    size_t output_count);
/* Runs, if it can: else *out_done is false, and nothing has happened. */
kiln_status steady_run(kiln_context *c, const kiln_tensor *inputs, size_t input_count, const kiln_tensor *outputs,
                       size_t output_count, bool *out_done);

#endif
