/* Engine files: load, report, run on zeros where the shapes are small, take the weights out and in. Checksums are put right
 * first. */
#include <string.h>
#include <zlib.h>

#include "base/memory.h"
#include "engine/engine.h"
#include "fuzz/bounded.h"
#include "fuzz/fuzz.h"

enum { SECTION = 24, LARGEST_INPUT = 4096, MOST_TENSORS = 16, LARGEST_WEIGHT = 1 << 16, MOST_WEIGHTS = 64 };

static uint64_t number(const uint8_t *p, int width) {
  uint64_t n = 0;
  for (int i = 0; i < width; i++) n |= (uint64_t)p[i] << (8 * i);
  return n;
}

static void put(uint8_t *p, uint64_t n, int width) {
  for (int i = 0; i < width; i++) p[i] = (uint8_t)(n >> (8 * i));
}

static void repair(uint8_t *bytes, size_t size) {
  const int sections = size > 12 && bytes[8] == 1 ? 5 : 6; /* of version 1, of version 2 */
  const size_t header = 24 + SECTION * (size_t)sections;
  if (size < header) return;
  memcpy(bytes, "KILNENG", 8);
  put(bytes + 16, size, 8);
  for (int i = 0; i < sections; i++) {
    uint8_t *s = bytes + 24 + SECTION * i;
    const uint64_t offset = number(s, 8), length = number(s + 8, 8);
    if (offset <= size && length <= size - offset) put(s + 16, crc32_z(0, bytes + offset, (size_t)length), 4);
  }
  put(bytes + 12, 0, 4);
  put(bytes + 12, crc32_z(0, bytes, header), 4);
}

static void run_small(const kiln_engine *e) {
  static uint64_t zeros[LARGEST_INPUT];
  kiln_tensor in[MOST_TENSORS], out[MOST_TENSORS];
  kiln_io_info info[MOST_TENSORS];
  const size_t n_in = kiln_engine_input_count(e), n_out = kiln_engine_output_count(e);
  if (n_in > MOST_TENSORS || n_out > MOST_TENSORS) return;
  memset(in, 0, sizeof in);
  memset(out, 0, sizeof out);
  for (size_t i = 0; i < n_in; i++) {
    FUZZ_CHECK(kiln_engine_input(e, i, &info[i]) == KILN_OK);
    double count = 1;
    for (int d = 0; d < info[i].rank; d++) count *= (double)info[i].min[d];
    if (count > LARGEST_INPUT) return;
    in[i].data = zeros;
    in[i].device.type = KILN_DEVICE_CPU;
    in[i].ndim = info[i].rank;
    in[i].shape = info[i].min;
    kiln_tensor_set_dtype(&in[i], info[i].dtype);
  }
  const kiln_context_options options = {sizeof options, 1};
  kiln_context *c = NULL;
  if (kiln_context_create_with(e, &options, &c) != KILN_OK) return;
  for (int round = 0; round < 2; round++) {
    for (size_t i = 0; i < n_out; i++) out[i].data = NULL;
    if (kiln_context_run(c, in, n_in, out, n_out) != KILN_OK) break;
    for (size_t i = 0; i < n_out; i++) {
      size_t bytes = kiln_dtype_size(kiln_tensor_get_dtype(&out[i]));
      for (int d = 0; d < out[i].ndim; d++) bytes *= (size_t)out[i].shape[d];
      (void)fuzz_touch((const char *)out[i].data + out[i].byte_offset, bytes);
    }
  }
  kiln_context_destroy(c);
}

/* Zeros for all weights, if they are small. */
static void refit_small(kiln_engine *e) {
  static uint64_t zeros[LARGEST_WEIGHT / 8];
  static kiln_weight_info info[MOST_WEIGHTS];
  static kiln_tensor tensors[MOST_WEIGHTS];
  const char *names[MOST_WEIGHTS];
  const size_t n = kiln_engine_weight_count(e);
  if (n > MOST_WEIGHTS) return;
  for (size_t i = 0; i < n; i++) {
    if (kiln_engine_weight(e, i, &info[i]) != KILN_OK)
      return; /* what is required is found by building, which may fail */
    size_t bytes = kiln_dtype_size(info[i].dtype);
    for (int d = 0; d < info[i].rank; d++) {
      if (info[i].shape[d] < 0 || !size_mul(bytes, (size_t)info[i].shape[d], &bytes)) return;
    }
    if (bytes > sizeof zeros) return;
    names[i] = info[i].name;
    tensors[i] =
        (kiln_tensor){.data = zeros, .device = {KILN_DEVICE_CPU, 0}, .ndim = info[i].rank, .shape = info[i].shape};
    kiln_tensor_set_dtype(&tensors[i], info[i].dtype);
  }
  if (kiln_engine_refit(e, names, tensors, n) == KILN_OK) run_small(e);
}

static void strip_and_refit(kiln_engine *e) {
  kiln_engine *stripped = NULL;
  if (kiln_engine_strip(e, &stripped) == KILN_OK) refit_small(stripped);
  kiln_engine_destroy(stripped);
  refit_small(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const kiln_report reports[] = {KILN_REPORT_GRAPH, KILN_REPORT_PLAN, KILN_REPORT_MEMORY, KILN_REPORT_SUMMARY};
  bounded_install();
  uint8_t *bytes = aligned_alloc(64, (size + 64) / 64 * 64);
  if (bytes == NULL) return 0;
  if (size > 0) memcpy(bytes, data, size);
  repair(bytes, size);
  kiln_engine *e = NULL;
  if (kiln_engine_load(bytes, size, &e) == KILN_OK) {
    const kiln_status verified = kiln_engine_verify(e);
    (void)verified; /* either answer is right */
    for (size_t i = 0; i < sizeof reports / sizeof reports[0]; i++) {
      char *report = NULL;
      if (kiln_engine_report(e, reports[i], &report) == KILN_OK) kiln_free(report);
    }
    run_small(e);
    strip_and_refit(e);
    kiln_engine_destroy(e);
  } else {
    FUZZ_CHECK(kiln_last_error()[0] != '\0');
  }
  free(bytes);
  return 0;
}
