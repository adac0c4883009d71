/* Loads an engine and runs it, with nothing but libkiln: no Python, no PyTorch.
 *
 *   cc run_engine.c $(pkg-config --cflags --libs kiln) -o run_engine
 *   ./run_engine model.kiln [THREADS]
 *
 * Inputs are zeros at the shapes that the engine was planned for; a real program fills them. */
#include <kiln/kiln.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_IO = 16 };

static int fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, kiln_last_error());
  return 1;
}

/* One input: its memory is ours, its description goes into `tensor`. */
typedef struct input {
  kiln_tensor tensor;
  int64_t shape[KILN_MAX_RANK];
} input;

static int input_create(const kiln_engine *engine, size_t index, input *in) {
  kiln_io_info info;
  if (kiln_engine_input(engine, index, &info) != KILN_OK) return fail("input");
  size_t bytes = kiln_dtype_size(info.dtype);
  for (int32_t i = 0; i < info.rank; i++) {
    in->shape[i] = info.opt[i]; /* any shape between info.min and info.max may be run */
    bytes *= (size_t)info.opt[i];
  }
  in->tensor.data = calloc(bytes + 1, 1);
  in->tensor.device.type = KILN_DEVICE_CPU;
  in->tensor.ndim = info.rank;
  in->tensor.shape = in->shape; /* strides NULL: contiguous */
  kiln_tensor_set_dtype(&in->tensor, info.dtype);
  printf("input  %s: %s, %zu bytes\n", info.name, kiln_dtype_name(info.dtype), bytes);
  return in->tensor.data == NULL;
}

static void print_output(const kiln_engine *engine, size_t index, const kiln_tensor *out) {
  kiln_io_info info;
  if (kiln_engine_output(engine, index, &info) != KILN_OK) return;
  printf("output %s: %s [", info.name, kiln_dtype_name(info.dtype));
  int64_t count = 1;
  for (int32_t i = 0; i < out->ndim; i++) {
    printf(i ? ", %lld" : "%lld", (long long)out->shape[i]);
    count *= out->shape[i];
  }
  printf("]");
  if (info.dtype == KILN_F32) {
    const float *values = out->data;
    for (int64_t i = 0; i < count && i < 4; i++) printf(" %g", (double)values[i]);
  }
  printf("\n");
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: %s ENGINE [THREADS]\n", argv[0]);
    return 2;
  }
  kiln_engine *engine = NULL;
  if (kiln_engine_open(argv[1], &engine) != KILN_OK) return fail("open");

  /* An engine is shared by any number of contexts; a context runs one thing at a time. */
  kiln_context *context = NULL;
  kiln_context_options options = {sizeof options, argc > 2 ? atoi(argv[2]) : 0};
  if (kiln_context_create_with(engine, &options, &context) != KILN_OK) return fail("context");

  const size_t n_in = kiln_engine_input_count(engine), n_out = kiln_engine_output_count(engine);
  input inputs[MAX_IO] = {0};
  kiln_tensor in[MAX_IO], out[MAX_IO];
  if (n_in > MAX_IO || n_out > MAX_IO) return 1;
  for (size_t i = 0; i < n_in; i++) {
    if (input_create(engine, i, &inputs[i]) != 0) return 1;
    in[i] = inputs[i].tensor;
  }
  memset(out, 0, sizeof out); /* data NULL: results lie in the context's memory until its next run */
  if (kiln_context_run(context, in, n_in, out, n_out) != KILN_OK) return fail("run");
  for (size_t i = 0; i < n_out; i++) print_output(engine, i, &out[i]);

  kiln_memory_info memory;
  kiln_context_memory(context, &memory);
  printf("memory: weights %zu, arena %zu bytes\n", memory.weights, memory.arena);

  for (size_t i = 0; i < n_in; i++) free(inputs[i].tensor.data);
  kiln_context_destroy(context);
  kiln_engine_destroy(engine);
  return 0;
}
