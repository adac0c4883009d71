/* Memory runs out at every single allocation, one after the other: while the tables are made, a model is built, saved,
 * loaded, reported and run. Each time the status is KILN_OUT_OF_MEMORY with a text, nothing leaks, and the next attempt
 * works. */
#include <stdlib.h>

#include "base/file.h"
#include "import/aten.h"
#include "ops/op.h"
#include "unit/expect.h"

enum { MOST_TENSORS = 8, ROOM = 256, PLENTY = 1 << 30 };

typedef struct work {
  file_map model;
  const char *target;
  bool profiles;     /* two of them, for dynamic.pt2 */
  char result[1024]; /* bytes of all outputs */
  size_t result_size;
} work;

static kiln_status run_context(kiln_context *c, const kiln_engine *e, work *w) {
  static uint64_t zeros[ROOM];
  kiln_tensor in[MOST_TENSORS] = {0}, out[MOST_TENSORS] = {0};
  kiln_io_info info[MOST_TENSORS];
  const size_t n_in = kiln_engine_input_count(e), n_out = kiln_engine_output_count(e);
  assert_true(n_in <= MOST_TENSORS && n_out <= MOST_TENSORS);
  for (size_t i = 0; i < n_in; i++) {
    KILN_TRY(kiln_engine_input(e, i, &info[i]));
    in[i] = (kiln_tensor){.data = zeros, .ndim = info[i].rank, .shape = info[i].opt};
    in[i].device.type = KILN_DEVICE_CPU;
    kiln_tensor_set_dtype(&in[i], info[i].dtype);
  }
  KILN_TRY(kiln_context_run(c, in, n_in, out, n_out));
  w->result_size = 0;
  for (size_t i = 0; i < n_out; i++) {
    size_t size = kiln_dtype_size(kiln_tensor_get_dtype(&out[i]));
    for (int d = 0; d < out[i].ndim; d++) size *= (size_t)out[i].shape[d];
    assert_true(w->result_size + size <= sizeof w->result);
    memcpy(w->result + w->result_size, (const char *)out[i].data + out[i].byte_offset, size);
    w->result_size += size;
  }
  return KILN_OK;
}

static kiln_status use_engine(const kiln_engine *e, work *w) {
  static const kiln_report reports[] = {KILN_REPORT_GRAPH, KILN_REPORT_PLAN,    KILN_REPORT_MEMORY,
                                        KILN_REPORT_WHY,   KILN_REPORT_SUMMARY, KILN_REPORT_SIGNATURE};
  for (size_t i = 0; i < KILN_COUNT(reports); i++) {
    char *report = NULL;
    KILN_TRY(kiln_engine_report(e, reports[i], &report));
    kiln_free(report);
  }
  const kiln_context_options options = {sizeof options, 2};
  kiln_context *c = NULL;
  KILN_TRY(kiln_context_create_with(e, &options, &c));
  const kiln_status status = run_context(c, e, w);
  kiln_context_destroy(c);
  return status;
}

/* Everything once: build, serialize, load, use. */
static kiln_status do_all(work *w) {
  kiln_build_options options = KILN_BUILD_OPTIONS_INIT;
  kiln_engine *built = NULL, *loaded = NULL;
  void *bytes = NULL;
  size_t size = 0;
  const kiln_input_spec two[] = {
      {.dtype = KILN_DTYPE_COUNT, .rank = 2, .min = {1, 3}, .opt = {2, 3}, .max = {4, 3}},
      {.dtype = KILN_DTYPE_COUNT, .rank = 2, .min = {3, 3}, .opt = {6, 3}, .max = {8, 3}},
  };
  options.target = w->target;
  if (w->profiles) {
    options.inputs = two;
    options.input_count = 1;
    options.profile_count = 2;
  }
  kiln_status status = kiln_engine_build_memory(w->model.data, w->model.size, &options, &built);
  if (status == KILN_OK) status = kiln_engine_serialize(built, &bytes, &size);
  kiln_engine_destroy(built);
  if (status == KILN_OK) status = kiln_engine_load(bytes, size, &loaded);
  if (status == KILN_OK) status = use_engine(loaded, w);
  kiln_engine_destroy(loaded);
  kiln_free(bytes);
  return status;
}

/* The tables of operators and schemas are made on first use and stay. */
static void test_tables(void **state) {
  (void)state;
  static kiln_status (*const makers[])(void) = {ops_init, aten_init};
  for (size_t k = 0; k < KILN_COUNT(makers); k++) {
    kiln_status status = KILN_OUT_OF_MEMORY;
    for (int n = 0; status != KILN_OK; n++) {
      mem_test_fail_after(n);
      status = makers[k]();
      mem_test_fail_after(-1);
      if (status != KILN_OK) expect_failure(status, KILN_OUT_OF_MEMORY, "out of memory");
      assert_true(n < 100000);
    }
  }
}

static void sweep(const char *model, const char *target, bool profiles) {
  char path[512];
  work w = {.target = target, .profiles = profiles};
  snprintf(path, sizeof path, "%s/pt2/%s", KILN_FUZZ_CORPUS, model);
  expect_ok(file_map_open(path, &w.model));
  expect_ok(do_all(&w));
  const work expected = w;
  const int64_t live = mem_test_live_blocks();
  mem_test_fail_after(PLENTY);
  expect_ok(do_all(&w));
  const int64_t count = PLENTY - mem_test_fail_left();
  assert_true(count > 500);
  for (int64_t n = 0; n < count; n++) {
    mem_test_fail_after(n);
    const kiln_status status = do_all(&w);
    mem_test_fail_after(-1);
    if (status == KILN_OK) { /* what failed was optional */
      assert_memory_equal(w.result, expected.result, expected.result_size);
    } else if (status != KILN_OUT_OF_MEMORY || mem_test_live_blocks() != live) {
      fail_msg("%s for %s, allocation %lld of %lld: status %s, %lld blocks leaked, text: %s", model, target,
               (long long)n, (long long)count, kiln_status_name(status), (long long)(mem_test_live_blocks() - live),
               error_text());
    }
    if (status != KILN_OK) assert_true(error_text()[0] != '\0');
  }
  expect_ok(do_all(&w));
  assert_memory_equal(w.result, expected.result, expected.result_size);
  print_message("%s for %s: %lld allocations\n", model, target, (long long)count);
  file_map_close(&w.model);
}

static void test_mix_cpu(void **state) { (void)state, sweep("mix.pt2", "cpu", false); }
static void test_mix_reference(void **state) { (void)state, sweep("mix.pt2", "reference", false); }
static void test_conv_cpu(void **state) { (void)state, sweep("conv.pt2", "cpu", false); }
static void test_dynamic_cpu(void **state) { (void)state, sweep("dynamic.pt2", "cpu", false); }
static void test_profiles_cpu(void **state) { (void)state, sweep("dynamic.pt2", "cpu", true); }

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tables),   cmocka_unit_test(test_mix_cpu),     cmocka_unit_test(test_mix_reference),
      cmocka_unit_test(test_conv_cpu), cmocka_unit_test(test_dynamic_cpu), cmocka_unit_test(test_profiles_cpu),
  };
  return cmocka_run_group_tests_name("allocation failures", tests, NULL, NULL);
}
