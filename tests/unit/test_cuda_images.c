/* Compiled kernels as bytes, and kernels that do not compile: on a device that is not there. */
#define _GNU_SOURCE /* memmem */
#include <stdlib.h>
#include <sys/stat.h>

#include "backends/cuda/internal.h"
#include "base/file.h"
#include "expect.h"

static device *open_device(bool keep) {
  device *d = NULL;
  expect_ok(cuda_device_offline(90, &d));
  d->keep_images = keep;
  return d;
}

static void add_function(device *d, const char *key, const char *image, size_t bytes) {
  cuda_function *f = mem_calloc(1, sizeof *f);
  assert_non_null(f);
  snprintf(f->key, sizeof f->key, "%s", key);
  f->owns_image = true;
  f->image = mem_alloc(bytes);
  assert_non_null(f->image);
  memcpy(f->image, image, bytes);
  f->image_bytes = bytes;
  f->done = true;
  f->next = d->functions;
  d->functions = f;
}

static const char key_a[] = "0123456789abcdef0123456789abcdef", key_b[] = "fedcba9876543210fedcba9876543210",
                  key_c[] = "00112233445566778899aabbccddeeff";

static void *make(size_t *out_size) {
  device *d = open_device(true);
  void *bytes = NULL;
  add_function(d, key_a, "first", 5);
  add_function(d, key_b, "the second image", 16);
  for (int i = 0; i < 2; i++) expect_ok(cuda_images_add(d, key_c, "a plan", 6)); /* once */
  expect_ok(cuda_hooks.compiled(d, &bytes, out_size));
  cuda_hooks.close(d);
  return bytes;
}

static void images_are_found(void **unused) {
  (void)unused;
  size_t size = 0, found = 0;
  char *bytes = make(&size);
  device *d = open_device(false);
  assert_null(cuda_images_find(d, key_a, &found));
  expect_ok(cuda_hooks.offer(d, bytes, size));
  expect_ok(cuda_hooks.offer(d, bytes, size)); /* another context's */
  const char *image = cuda_images_find(d, key_b, &found);
  assert_non_null(image);
  assert_int_equal(found, 16);
  assert_memory_equal(image, "the second image", 16);
  assert_memory_equal(cuda_images_find(d, key_a, &found), "first", 5);
  assert_memory_equal(cuda_images_find(d, key_c, &found), "a plan", 6);
  assert_int_equal(found, 6);
  assert_int_equal(((const uint32_t *)(const void *)bytes)[1], 3); /* entries */
  assert_null(cuda_images_find(d, "00000000000000000000000000000000", &found));
  cuda_hooks.withdraw(d, bytes);
  assert_non_null(cuda_images_find(d, key_a, &found));
  cuda_hooks.withdraw(d, bytes);
  assert_null(cuda_images_find(d, key_a, &found));
  expect_ok(cuda_hooks.offer(d, bytes, size)); /* not withdrawn: the device does not mind */
  cuda_hooks.close(d);
  mem_free(bytes);
}

/* Every byte changed, every length: what is found lies inside. */
static void damaged_images(void **unused) {
  (void)unused;
  size_t size = 0;
  char *bytes = make(&size);
  for (size_t i = 0; i < size + size; i++) {
    const size_t length = i < size ? i : size;
    char *copy = malloc(length + 1);
    assert_non_null(copy);
    memcpy(copy, bytes, length);
    if (i >= size) copy[i - size] = (char)(copy[i - size] ^ 0x91);
    device *d = open_device(false);
    size_t found = 0;
    expect_ok(cuda_hooks.offer(d, copy, length));
    for (int k = 0; k < 2; k++) {
      const char *image = cuda_images_find(d, k ? key_a : key_b, &found);
      if (image) assert_true(image >= copy && found <= length && (size_t)(image - copy) <= length - found);
    }
    cuda_hooks.close(d);
    free(copy);
  }
  mem_free(bytes);
}

static void kernel_that_does_not_compile(void **unused) {
  (void)unused;
  const cuda_nvrtc *nvrtc = NULL;
  char folder[] = "kiln-log-XXXXXX", *path = NULL;
  if (cuda_nvrtc_get(&nvrtc) != KILN_OK) skip();
  assert_non_null(mkdtemp(folder));
  setenv("KILN_CACHE_DIR", "", 1); /* none: the log goes to the temporary files */
  setenv("TMPDIR", folder, 1);
  arena memory = {0};
  device *d = open_device(true);
  kernel_prep p = {.arena = &memory, .device = d};
  const cuda_function *f = NULL, *g = NULL;
  const cuda_source bad = {.entry = "bad",
                           .text = "extern \"C\" __global__ void bad(float *x) { x[0] = no_such_thing; }\n"},
                    good = {.entry = "good", .text = "extern \"C\" __global__ void good(float *x) { x[0] = 1; }\n"};
  expect_ok(cuda_compile(&p, &bad, &f));
  expect_failure(cuda_hooks.finish_prepare(d, 1), KILN_INTERNAL, "kernel `bad` does not compile for sm_90");
  path = strstr(error_text(), folder);
  assert_non_null(path);
  path[strcspn(path, ")\n")] = 0;
  file_map log;
  expect_ok(file_map_open(path, &log));
  char *whole = malloc(log.size + 1);
  assert_non_null(whole);
  memcpy(whole, log.data, log.size);
  whole[log.size] = 0;
  assert_non_null(strstr(whole, "no_such_thing"));
  assert_non_null(strstr(whole, "error"));
  assert_non_null(strstr(whole, "__global__ void bad"));
  file_map_close(&log);
  remove(path);
  remove(folder);
  free(whole);
  expect_ok(cuda_compile(&p, &good, &g)); /* later ones work */
  expect_ok(cuda_hooks.finish_prepare(d, 1));
  assert_true(g->done && g->image_bytes > 64);
  cuda_hooks.close(d);
  arena_free(&memory);
}

typedef struct watched {
  int calls;
  double last;
  bool end;
} watched;

static kiln_status watch(void *user, double part) {
  watched *w = user;
  assert_true(part > w->last && part <= 1);
  w->last = part;
  w->calls++;
  return w->end ? KILN_FAIL(KILN_INVALID_ARGUMENT, "cancelled by a test") : KILN_OK;
}

static void ask_for(kernel_prep *p, int count, const cuda_function **out) {
  for (int i = 0; i < count; i++) {
    const char *body = cuda_text(p, "extern \"C\" __global__ void k(float *x) { x[0] = %d; }\n", i);
    assert_non_null(body);
    expect_ok(cuda_compile(p, &(cuda_source){.entry = "k", .text = body}, &out[i]));
  }
}

/* Whoever watches hears of each program that its thread compiled, and may end it. */
static void compilation_is_watched(void **unused) {
  (void)unused;
  const cuda_nvrtc *nvrtc = NULL;
  const cuda_function *f[12], *again[12];
  arena memory = {0};
  if (cuda_nvrtc_get(&nvrtc) != KILN_OK) skip();
  setenv("KILN_CACHE_DIR", "", 1);
  device *d = open_device(true);
  kernel_prep p = {.arena = &memory, .device = d};
  watched w = {.end = true};
  cuda_hooks.watch(d, watch, &w);
  ask_for(&p, 12, f);
  expect_failure(cuda_hooks.finish_prepare(d, 1), KILN_INVALID_ARGUMENT, "cancelled by a test");
  assert_int_equal(w.calls, 1);
  assert_true(w.last == 0.5);
  w = (watched){.end = false};
  ask_for(&p, 12, again);
  assert_ptr_equal(f[4], again[4]); /* equal texts are one function */
  expect_ok(cuda_hooks.finish_prepare(d, 1));
  assert_int_equal(w.calls, 1); /* half of them were there */
  assert_true(w.last == 1);
  for (int i = 0; i < 12; i++) assert_true(f[i]->done && f[i]->image_bytes > 64);
  cuda_hooks.close(d);
  arena_free(&memory);
}

/* Kernels that are compiled together share their code, in memory, in engine files and in the cache folder. */
static void code_of_several(void **unused) {
  (void)unused;
  const cuda_nvrtc *nvrtc = NULL;
  const cuda_function *f[6];
  char folder[] = "kiln-cache-XXXXXX", path[1200];
  arena memory = {0};
  void *bytes = NULL;
  size_t size = 0, sum = 0, found = 0;
  if (cuda_nvrtc_get(&nvrtc) != KILN_OK) skip();
  assert_non_null(mkdtemp(folder));
  setenv("KILN_CACHE_DIR", folder, 1);
  device *d = open_device(true);
  kernel_prep p = {.arena = &memory, .device = d};
  ask_for(&p, 6, f);
  expect_ok(cuda_hooks.finish_prepare(d, 1));
  for (int i = 0; i < 6; i++) {
    char name[96];
    cuda_shared_name(f[i], name, sizeof name);
    assert_ptr_equal(f[i]->image, f[0]->image);
    assert_non_null(memmem(f[i]->image, f[i]->image_bytes, name, strlen(name) + 1));
    sum += f[i]->image_bytes;
  }
  expect_ok(cuda_images_make(d, &bytes, &size));
  assert_true(size < sum);
  device *later = open_device(true);
  expect_ok(cuda_images_offer(later, bytes, size));
  const void *first = cuda_images_find(later, f[0]->key, &found);
  for (int i = 0; i < 6; i++) assert_ptr_equal(cuda_images_find(later, f[i]->key, &found), first);
  assert_memory_equal(first, f[0]->image, found);
  cuda_hooks.close(later);
  device *cached = open_device(true);
  kernel_prep q = {.arena = &memory, .device = cached};
  const cuda_function *g[6];
  watched w = {.end = false};
  cuda_hooks.watch(cached, watch, &w);
  ask_for(&q, 6, g);
  expect_ok(cuda_hooks.finish_prepare(cached, 1));
  assert_int_equal(w.calls, 6); /* one by one, as they are found */
  for (int i = 0; i < 6; i++) {
    assert_ptr_equal(g[i]->image, g[0]->image);
    assert_true(cuda_cache_path(f[i]->key, "cubin", path, sizeof path) && remove(path) == 0);
  }
  cuda_hooks.close(cached);
  cuda_hooks.close(d);
  remove(folder);
  mem_free(bytes);
  arena_free(&memory);
  setenv("KILN_CACHE_DIR", "", 1);
}

/* One that does not compile takes no other with it. */
static void one_of_several_is_bad(void **unused) {
  (void)unused;
  const cuda_nvrtc *nvrtc = NULL;
  const cuda_function *f[5], *bad = NULL;
  char folder[] = "kiln-log-XXXXXX";
  arena memory = {0};
  if (cuda_nvrtc_get(&nvrtc) != KILN_OK) skip();
  assert_non_null(mkdtemp(folder));
  setenv("KILN_CACHE_DIR", "", 1);
  setenv("TMPDIR", folder, 1);
  device *d = open_device(true);
  kernel_prep p = {.arena = &memory, .device = d};
  ask_for(&p, 5, f);
  const cuda_source source = {.entry = "bad", .text = "extern \"C\" __global__ void bad() { no_such_thing(); }\n"};
  expect_ok(cuda_compile(&p, &source, &bad));
  expect_failure(cuda_hooks.finish_prepare(d, 1), KILN_INTERNAL, "kernel `bad` does not compile for sm_90");
  char *path = strstr(error_text(), folder);
  assert_non_null(path);
  path[strcspn(path, ")\n")] = 0;
  assert_int_equal(remove(path), 0);
  assert_true(bad->failed && !bad->done);
  for (int i = 0; i < 5; i++) assert_true(f[i]->done && f[i]->image_bytes > 64);
  cuda_hooks.close(d);
  arena_free(&memory);
  assert_int_equal(remove(folder), 0); /* no other log */
}

/* What must not share a program does not, and each kernel is in one. */
static void kinds_are_kept_apart(void **unused) {
  (void)unused;
  enum { COUNT = 60 };
  static const char *const bodies[] = {"x", "extern __shared__ __align__(16) float a[];",
                                       "extern __shared__ __align__(1024) char a[];", "#define K 3\n", "y"};
  cuda_function all[COUNT] = {0}, *list[COUNT];
  int kinds[COUNT];
  for (size_t i = 0; i < COUNT; i++) {
    cuda_function *f = list[i] = &all[i];
    const size_t k = i % KILN_COUNT(bodies), length = strlen(cuda_prelude);
    f->body = length;
    f->text = malloc(length + strlen(bodies[k]) + 1);
    assert_non_null(f->text);
    memcpy(f->text, cuda_prelude, length);
    strcpy(f->text + length, bodies[k]);
    strcpy(f->arch, i % 7 == 0 ? "sm_90a" : "sm_90");
    f->foreign = k == 4 && i % 2 == 0;
  }
  for (int threads = 1; threads <= 64; threads *= 4) {
    for (int apart = 0; apart < 2; apart++) {
      cuda_unit units[COUNT] = {0};
      bool seen[COUNT] = {false};
      const size_t n = cuda_units_make(list, COUNT, threads, apart == 1, kinds, units);
      assert_true(n <= COUNT && (apart == 0 || n == COUNT));
      for (size_t u = 0; u < n; u++) {
        assert_true(units[u].count >= 1 && units[u].count <= CUDA_UNIT_MAX);
        const size_t first = (size_t)(units[u].functions[0] - all);
        for (size_t i = 0; i < units[u].count; i++) {
          const size_t at = (size_t)(units[u].functions[i] - all);
          assert_false(seen[at]);
          seen[at] = true;
          if (i == 0) continue;
          assert_string_equal(all[at].arch, all[first].arch);
          assert_true(at % 5 % 4 == first % 5 % 4 && at % 5 != 3 && !all[at].foreign && !all[first].foreign);
        }
      }
      for (size_t i = 0; i < COUNT; i++) assert_true(seen[i]);
    }
  }
  for (size_t i = 0; i < COUNT; i++) free(all[i].text);
}

/* A text of ours may not use textures; a user's may. */
static void all_of_the_language(void **unused) {
  (void)unused;
  const cuda_nvrtc *nvrtc = NULL;
  const cuda_function *f = NULL;
  arena memory = {0};
  if (cuda_nvrtc_get(&nvrtc) != KILN_OK) skip();
  setenv("KILN_CACHE_DIR", "", 1);
  device *d = open_device(true);
  kernel_prep p = {.arena = &memory, .device = d};
  const char *body =
      "extern \"C\" __global__ void look(cudaTextureObject_t t, float *x) { x[0] = tex2D<float>(t, 0, 0); }\n";
  expect_ok(cuda_compile(&p, &(cuda_source){.entry = "look", .text = body, .foreign = true}, &f));
  expect_ok(cuda_hooks.finish_prepare(d, 2));
  assert_true(f->done && f->image_bytes > 64);
  cuda_hooks.close(d);
  arena_free(&memory);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(images_are_found),
      cmocka_unit_test(damaged_images),
      cmocka_unit_test(kernel_that_does_not_compile),
      cmocka_unit_test(compilation_is_watched),
      cmocka_unit_test(code_of_several),
      cmocka_unit_test(one_of_several_is_bad),
      cmocka_unit_test(kinds_are_kept_apart),
      cmocka_unit_test(all_of_the_language),
  };
  return cmocka_run_group_tests_name("compiled kernels", tests, NULL, NULL);
}
