/* The device object of the CUDA backend over a driver without a GPU (driver/driver.c): memory with a limit, what errors say, which GPU
 * they end, and threads that take and give back at once. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

#include "kiln/kiln_ext.h"
/* before cmocka, whose `fail` is a macro */
#include "backends/cuda/internal.h"
#include "driver/driver.h"
#include "engine/engine.h"
#include "expect.h"
#include "runtime/program.h"

enum { MIB = 1 << 20 };
static const device_hooks *const h = &cuda_hooks;
static fake_knobs *knobs;
static const target any_target = {.name = "cuda:sm_90", .isa = 90};

static device *open_device(int ordinal) {
  device *d = NULL;
  expect_ok(h->open(&any_target, ordinal, &d));
  return d;
}

static void *allocate(device *d, size_t bytes) {
  void *out = NULL;
  expect_ok(h->allocate(d, bytes, "a test", &out));
  return out;
}

static int64_t at_start; /* the operator table stays */
static int nothing_taken(void **state) {
  (void)state;
  unsetenv("KILN_CUDA_MEMORY_LIMIT");
  unsetenv("KILN_CUDA_MEMORY_POOL");
  unsetenv("KILN_CUDA_MEMORY_KEEP");
  knobs->broken = -1;
  if (knobs->taken) return print_error("%zu bytes are not given back\n", knobs->taken), -1;
  mem_test_fail_after(-1);
  return mem_test_live_blocks() == at_start ? 0 : (print_error("blocks leaked\n"), -1);
}

static void memory_is_pooled(void **unused) {
  (void)unused;
  device *d = open_device(0);
  const int before = knobs->allocations;
  void *a = allocate(d, 300), *b = allocate(d, 700000);
  assert_int_equal(knobs->allocations, before + 1);
  h->release(d, a, 300);
  h->release(d, b, 700000);
  assert_ptr_equal(allocate(d, 900000), a);
  assert_int_equal(knobs->allocations, before + 1);
  h->in_doubt(d, true);
  h->release(d, a, 900000);
  h->in_doubt(d, false);
  assert_int_equal(knobs->taken, 0); /* the driver has it, and waits */
  (void)allocate(d, 5 * MIB);        /* what is left goes with the device */
  h->close(d);
}

static void host_memory_is_pooled(void **unused) {
  (void)unused;
  device *d = open_device(0);
  void *a = NULL, *b = NULL;
  expect_ok(h->host_allocate(d, 100000, &a));
  h->host_release(d, a);
  const int before = knobs->allocations;
  expect_ok(h->host_allocate(d, 90000, &b));
  assert_ptr_equal(a, b);
  assert_int_equal(knobs->allocations, before);
  expect_failure(h->host_allocate(d, 100 * MIB, &a), KILN_OUT_OF_MEMORY, "104857600 bytes of pinned memory");
  h->host_release(d, b);
  h->close(d);
}

static void limits(void **unused) {
  (void)unused;
  void *out = NULL;
  setenv("KILN_CUDA_MEMORY_LIMIT", "8", 1);
  device *d = open_device(0);
  void *a = allocate(d, 3 * MIB);
  h->release(d, a, 3 * MIB); /* lies idle, and goes for the next one */
  a = allocate(d, 7 * MIB);
  expect_failure(h->allocate(d, 2 * MIB, "the arena of activations", &out), KILN_OUT_OF_MEMORY,
                 "GPU 0: the arena of activations needs 2097152 bytes, but 8388608 of the limit of 8388608 bytes "
                 "(KILN_CUDA_MEMORY_LIMIT) are in use: raise the limit");
  expect_failure(h->allocate(d, SIZE_MAX, "a weight", &out), KILN_OUT_OF_MEMORY, "a weight needs");
  h->release(d, a, 7 * MIB);
  a = allocate(d, 8 * MIB);
  h->release(d, a, 8 * MIB);
  h->close(d);
}

static void driver_has_none(void **unused) {
  (void)unused;
  void *out = NULL;
  device *d = open_device(0);
  void *a = allocate(d, 40 * MIB);
  expect_failure(h->allocate(d, 30 * MIB, "a weight", &out), KILN_OUT_OF_MEMORY,
                 "GPU 0: a weight needs 31457280 bytes, but only 25165824 of 67108864 bytes are free (Kiln holds "
                 "41943040; what PyTorch keeps unused, torch.cuda.empty_cache() gives back)");
  h->release(d, a, 40 * MIB);
  a = allocate(d, 60 * MIB);
  h->release(d, a, 60 * MIB);
  h->close(d);
}

static void one_by_one(void **unused) {
  (void)unused;
  setenv("KILN_CUDA_MEMORY_POOL", "0", 1);
  device *d = open_device(0);
  const int before = knobs->allocations;
  void *a = allocate(d, 300), *b = allocate(d, 300);
  assert_int_equal(knobs->allocations, before + 2);
  h->release(d, a, 300);
  h->release(d, b, 300);
  assert_int_equal(knobs->taken, 0);
  h->close(d);
}

/* An illegal address ends the GPU where it was, and no other; memory of it is the driver's affair. */
static void a_lost_gpu(void **unused) {
  (void)unused;
  void *out = NULL;
  device *first = open_device(0), *second = open_device(1);
  void *a = allocate(second, 100);
  knobs->broken = 0;
  expect_ok(h->enter(first));
  expect_failure(h->synchronize(first, NULL), KILN_DEVICE_ERROR, "an error of the test");
  h->leave(first);
  knobs->broken = -1;
  expect_failure(h->allocate(first, 10, "a weight", &out), KILN_DEVICE_ERROR, "GPU 0 was lost by an earlier error");
  expect_failure(h->enter(first), KILN_DEVICE_ERROR, "only a new process");
  expect_ok(h->enter(second));
  expect_ok(h->synchronize(second, NULL));
  h->leave(second);
  (void)allocate(second, 100);
  h->release(second, a, 100);
  h->close(first);
  h->close(second);
}

static void constants_are_counted(void **unused) {
  (void)unused;
  static const char bytes[5000] = "a weight", others[100] = "another";
  device *d = open_device(0);
  void *a = NULL, *b = NULL, *c = NULL;
  expect_ok(h->constant(d, bytes, sizeof bytes, &a));
  expect_ok(h->constant(d, bytes, sizeof bytes, &b));
  expect_ok(h->constant(d, others, sizeof others, &c));
  assert_ptr_equal(a, b);
  assert_memory_equal(a, bytes, sizeof bytes);
  assert_int_equal(h->constant_bytes(d), sizeof bytes + sizeof others);
  h->constant_release(d, bytes);
  assert_memory_equal(a, bytes, sizeof bytes);
  h->constant_release(d, bytes);
  h->constant_release(d, others);
  assert_int_equal(h->constant_bytes(d), 0);
  h->close(d);
}

/* Large weights go in parts, by several threads. */
static void large_constants(void **unused) {
  (void)unused;
  device *d = open_device(0);
  const size_t bytes = 11 * MIB + 12345;
  unsigned char *from = malloc(bytes);
  void *there = NULL;
  assert_non_null(from);
  for (size_t i = 0; i < bytes; i++) from[i] = (unsigned char)(i * 2654435761u >> 13);
  expect_ok(h->constant(d, from, bytes, &there));
  assert_memory_equal(there, from, bytes);
  h->constant_release(d, from);
  h->close(d);
  knobs->room = 13 * MIB; /* enough for the weight, not for the places that it goes through */
  d = open_device(0);
  expect_ok(h->constant(d, from, bytes, &there));
  assert_memory_equal(there, from, bytes);
  h->constant_release(d, from);
  h->close(d);
  knobs->room = 64 * MIB;
  free(from);
}

static void streams_and_captures(void **unused) {
  (void)unused;
  device *first = open_device(0), *second = open_device(1);
  void *stream = NULL, *exec = NULL;
  expect_ok(h->stream_create(second, &stream));
  expect_ok(h->stream_check(second, stream));
  expect_failure(h->stream_check(first, stream), KILN_INVALID_ARGUMENT, "not one of GPU 0");
  knobs->capture_fails = true;
  expect_failure(h->capture_end(second, stream, true, &exec), KILN_DEVICE_ERROR, "ending a capture");
  (void)KILN_FAIL(KILN_UNSUPPORTED, "why the capture was given up");
  expect_ok(h->capture_end(second, stream, false, &exec));
  assert_non_null(strstr(error_text(), "why the capture was given up"));
  knobs->capture_fails = false;
  expect_ok(h->capture_end(second, stream, true, &exec));
  assert_non_null(exec);
  error_clear();
  h->stream_destroy(second, stream);
  h->close(first);
  h->close(second);
}

/* What only compiles has the facts of the machine's GPU, and holds that as long as it lives: plans of libraries are made there. */
static void a_compiler(void **unused) {
  (void)unused;
  device *d = NULL;
  expect_ok(h->open_compiler(&any_target, &d));
  assert_string_equal(h->info(d).name, "no GPU");
  assert_false(h->info(d).present);
  assert_non_null(d->twin);
  assert_true(h->info(d->twin).present);
  void *a = allocate(d->twin, 100);
  device *same = open_device(0);
  assert_ptr_equal(same, d->twin);
  h->close(d);
  h->release(same, a, 100);
  h->close(same);
  static const target other = {.name = "cuda:sm_80", .isa = 80};
  expect_ok(h->open_compiler(&other, &d)); /* the GPU here is another one */
  assert_null(d->twin);
  h->close(d);
}

static void *take_and_give(void *user) {
  unsigned r = (unsigned)(uintptr_t)user;
  static const char weight[3000] = "of all threads";
  for (int i = 0; i < 400; i++) {
    device *d = NULL;
    void *a = NULL, *b = NULL;
    r = r * 1664525u + 1013904223u;
    const size_t bytes = (r >> 8) % 300000 + 1;
    if (h->open(&any_target, (int)(r >> 31), &d) != KILN_OK) return user;
    if (h->allocate(d, bytes, "a thread", &a) != KILN_OK || h->constant(d, weight, sizeof weight, &b) != KILN_OK)
      return user;
    memset(a, (int)(r & 255), bytes);
    if (memcmp(b, weight, sizeof weight) != 0) return user;
    for (size_t k = 0; k < bytes; k++) {
      if (((unsigned char *)a)[k] != (r & 255)) return user;
    }
    h->release(d, a, bytes);
    h->constant_release(d, weight);
    h->close(d);
  }
  return NULL;
}

static void threads(void **unused) {
  (void)unused;
  pthread_t all[4];
  for (uintptr_t i = 0; i < 4; i++) assert_int_equal(pthread_create(&all[i], NULL, take_and_give, (void *)(i + 1)), 0);
  for (int i = 0; i < 4; i++) {
    void *failed = NULL;
    assert_int_equal(pthread_join(all[i], &failed), 0);
    assert_null(failed);
  }
}

/* The driver's GPUs are of another architecture than the engine: it is planned again, once. */
static void an_engine_for_another_architecture(void **unused) {
  (void)unused;
  const char *source = "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n%y = relu(%x) : f32[2,3]\noutput \"y\" %y\n";
  graph *g = NULL;
  target t, native, again;
  kiln_engine *e = NULL;
  expect_ok(graph_parse(source, strlen(source), NULL, NULL, &g));
  expect_ok(target_parse("cuda:sm_80", &t));
  expect_ok(engine_from_graph(g, &t, NULL, &e));
  graph_destroy(g);
  assert_true(engine_is_foreign(e, 1, &native));
  assert_string_equal(native.name, "cuda:sm_90");
  expect_ok(engine_adapt(e, &native));
  assert_false(engine_is_foreign(e, 1, &again));
  uint64_t first = 0, second = 0;
  kiln_engine *now = engine_current(e, &first);
  assert_string_equal(kiln_engine_target(now), "cuda:sm_90");
  engine_leave(e, now);
  expect_ok(engine_adapt(e, &native));
  now = engine_current(e, &second);
  engine_leave(e, now);
  assert_int_equal(first, second);
  kiln_engine_destroy(e);
}

/* A kernel that a user compiled, which the driver does not take: the text says what of it, and nothing of NVRTC. */
static void code_of_users(void **unused) {
  (void)unused;
  static const struct {
    int code;
    const char *part;
  } all[] = {{218, "cannot compile this PTX: its text has an error, or its .target is newer"},
             {222, "made by a CUDA that is newer than the driver"},
             {209, "no code for this GPU: compile it for that architecture too"},
             {200, "not PTX, a cubin or a fatbin for this GPU"},
             {1, "an error of the test"}};
  const char *source = "kiln.graph 1\ninput \"x\" %x : f32[4]\n%y = test.code(%x) : f32[4]\noutput \"y\" %y\n";
  const int64_t none = 0;
  graph *g = NULL;
  kiln_engine *e = NULL;
  program *p = NULL;
  target t;
  expect_ok(graph_parse(source, strlen(source), NULL, NULL, &g));
  expect_ok(target_parse("cuda:sm_90", &t));
  expect_ok(engine_from_graph(g, &t, NULL, &e));
  graph_destroy(g);
  device *d = open_device(0);
  for (size_t i = 0; i < KILN_COUNT(all); i++) {
    knobs->refuses_code = all[i].code;
    expect_failure(program_create_on(e->plan, &t, d, &none, 1, &p), KILN_DEVICE_ERROR, all[i].part);
    assert_non_null(strstr(error_text(), "custom operator `test.code`, kernel `f`"));
    assert_null(strstr(error_text(), "NVRTC"));
    if (i < 4) assert_non_null(strstr(error_text(), "ptxas application input, line 7; fatal"));
  }
  knobs->refuses_code = 0;
  expect_ok(program_create_on(e->plan, &t, d, &none, 1, &p));
  program_destroy(p);
  h->close(d);
  kiln_engine_destroy(e);
}

static kiln_status register_code(void) {
  static const char ptx[] = ".version 7.0\n.target sm_80\n.visible .entry f() { ret; }";
  static const kiln_cuda_kernel f = {.name = "f", .arguments = "x out"};
  const kiln_op_def def = {.struct_size = sizeof def,
                           .schema = "test::code(Tensor x) -> Tensor",
                           .cuda = &f,
                           .cuda_image = ptx,
                           .cuda_image_size = sizeof ptx};
  return kiln_op_register(&def);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(an_engine_for_another_architecture, nothing_taken),
      cmocka_unit_test_teardown(memory_is_pooled, nothing_taken),
      cmocka_unit_test_teardown(host_memory_is_pooled, nothing_taken),
      cmocka_unit_test_teardown(limits, nothing_taken),
      cmocka_unit_test_teardown(driver_has_none, nothing_taken),
      cmocka_unit_test_teardown(one_by_one, nothing_taken),
      cmocka_unit_test_teardown(constants_are_counted, nothing_taken),
      cmocka_unit_test_teardown(large_constants, nothing_taken),
      cmocka_unit_test_teardown(streams_and_captures, nothing_taken),
      cmocka_unit_test_teardown(a_compiler, nothing_taken),
      cmocka_unit_test_teardown(code_of_users, nothing_taken),
      cmocka_unit_test_teardown(threads, nothing_taken),
      cmocka_unit_test_teardown(a_lost_gpu, nothing_taken),
  };
  void *driver = dlopen(FAKE_DRIVER_FOLDER "/libcuda.so.1", RTLD_NOW);
  knobs = driver ? dlsym(driver, "fake_driver") : NULL;
  if (!knobs) return fprintf(stderr, "%s\n", dlerror()), 1;
  setenv("KILN_CUDA_PATH", FAKE_DRIVER_FOLDER, 1);
  if (ops_init() != KILN_OK || register_code() != KILN_OK) return 1;
  at_start = mem_test_live_blocks();
  return cmocka_run_group_tests_name("a GPU as an object", tests, NULL, NULL);
}
