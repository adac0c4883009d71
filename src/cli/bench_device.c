/* Benchmarks on a GPU, see bench_device.h. Events around each run time it, so that waiting and copying from the host do not count. */
#include "bench_device.h"

#include <string.h>

#include "runtime/context.h"

bool bench_on_device(const kiln_context *context) { return context->gpu != NULL; }

static bool upload(device_run *r, const cli_tensor *from, kiln_tensor *to) {
  void *there = NULL;
  kiln_status status = r->hooks->allocate(r->device, from->bytes, "an input", &there);
  if (status == KILN_OK) {
    to->data = there;
    to->device.type = r->hooks->dlpack_type;
    to->device.id = r->hooks->ordinal(r->device);
    status = r->hooks->enter(r->device);
  }
  if (status == KILN_OK) {
    status = r->hooks->upload(r->device, r->stream, there, from->tensor.data, from->bytes);
    if (status == KILN_OK) status = r->hooks->synchronize(r->device, r->stream);
    r->hooks->leave(r->device);
  }
  return status == KILN_OK || (cli_fail(), false);
}

bool bench_device_inputs(kiln_context *context, const cli_tensor *inputs, size_t n_in, kiln_tensor *out) {
  for (size_t i = 0; i < n_in; i++) {
    out[i] = inputs[i].tensor;
    out[i].data = NULL;
  }
  for (size_t i = 0; i < n_in; i++) {
    if (!upload(context->gpu, &inputs[i], &out[i])) return false;
  }
  return true;
}

void bench_device_free(kiln_context *context, const cli_tensor *inputs, size_t n_in, kiln_tensor *tensors) {
  const device_run *r = context ? context->gpu : NULL;
  for (size_t i = 0; r && i < n_in; i++) {
    if (tensors[i].device.type == r->hooks->dlpack_type) r->hooks->release(r->device, tensors[i].data, inputs[i].bytes);
  }
}

static kiln_status run_marked(kiln_context *context, const kiln_tensor *in, size_t n_in, kiln_tensor *out, size_t n_out,
                              void *const *marks, double *host_seconds) {
  device_run *r = context->gpu;
  memset(out, 0, n_out * sizeof *out);
  KILN_TRY(r->hooks->mark(r->device, marks[0], r->user_stream));
  const double start = cli_now();
  KILN_TRY(kiln_context_run(context, in, n_in, out, n_out));
  *host_seconds = cli_now() - start;
  return r->hooks->mark(r->device, marks[1], r->user_stream);
}

static kiln_status run_batch(kiln_context *context, const kiln_tensor *in, size_t n_in, kiln_tensor *out, size_t n_out,
                             int count, void **marks, double *device_seconds, double *host_seconds) {
  device_run *r = context->gpu;
  for (int i = 0; i < 2 * count; i++) KILN_TRY(r->hooks->mark_create(r->device, &marks[i]));
  for (int i = 0; i < count; i++) KILN_TRY(run_marked(context, in, n_in, out, n_out, &marks[2 * i], &host_seconds[i]));
  for (int i = 0; i < count; i++)
    KILN_TRY(r->hooks->seconds_between(r->device, marks[2 * i], marks[2 * i + 1], &device_seconds[i]));
  return KILN_OK;
}

bool bench_device_runs(kiln_context *context, const kiln_tensor *in, size_t n_in, kiln_tensor *out, size_t n_out,
                       int count, double *device_seconds, double *host_seconds) {
  device_run *r = context->gpu;
  void *marks[2 * BENCH_BATCH] = {NULL};
  if (r->hooks->enter(r->device) != KILN_OK) return cli_fail(), false;
  const kiln_status status = run_batch(context, in, n_in, out, n_out, count, marks, device_seconds, host_seconds);
  if (status != KILN_OK) cli_fail();
  for (int i = 0; i < 2 * count; i++) r->hooks->mark_destroy(r->device, marks[i]);
  r->hooks->leave(r->device);
  return status == KILN_OK;
}
