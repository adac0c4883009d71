/* kiln bench of engines for GPUs: inputs lie on the GPU, and runs are timed there. */
#ifndef KILN_CLI_BENCH_DEVICE_H
#define KILN_CLI_BENCH_DEVICE_H

#include "cli.h"

/* Does the context run on a GPU? */
bool bench_on_device(const kiln_context *context);
/* Copies `inputs` to the context's GPU: `out[i]` is the copy, to be given to bench_device_free. False with a message. */
bool bench_device_inputs(kiln_context *context, const cli_tensor *inputs, size_t n_in, kiln_tensor *out);
void bench_device_free(kiln_context *context, const cli_tensor *inputs, size_t n_in, kiln_tensor *tensors);
/* `count` runs, one behind the other: the GPU's seconds of each, and the host's until the run was enqueued. False with a message. */
enum { BENCH_BATCH = 32 };
bool bench_device_runs(kiln_context *context, const kiln_tensor *in, size_t n_in, kiln_tensor *out, size_t n_out,
                       int count, double *device_seconds, double *host_seconds);

#endif
