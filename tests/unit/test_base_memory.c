/* Memory, arena, text, map and the error record. */
#include <pthread.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/cpu_features.h"
#include "base/map.h"
#include "base/text.h"
#include "unit/expect.h"

static void test_memory(void **state) {
  (void)state;
  void *a = mem_alloc(0), *b = mem_calloc(3, 5), *c = mem_alloc_aligned(100);
  assert_non_null(a);
  assert_int_equal((uintptr_t)c % 64, 0);
  for (int i = 0; i < 15; i++) assert_int_equal(((char *)b)[i], 0);
  memcpy(b, "0123456789abcd", 15);
  b = mem_realloc(b, 15, 4000);
  assert_string_equal(b, "0123456789abcd");
  assert_int_equal(mem_test_live_blocks(), 3);
  assert_null(mem_calloc(SIZE_MAX / 2, 3));
  assert_null(mem_alloc(SIZE_MAX));
  assert_null(mem_alloc_aligned(SIZE_MAX - 3));
  mem_free(a);
  mem_free(b);
  mem_free_aligned(c);
  mem_free(NULL);
  mem_free_aligned(NULL);
}

static void test_failure_injection(void **state) {
  (void)state;
  mem_test_fail_after(1);
  void *a = mem_alloc(1), *b = mem_alloc(1), *c = mem_alloc(1);
  assert_non_null(a);
  assert_null(b);
  assert_non_null(c);
  mem_free(a);
  mem_free(c);
  mem_test_fail_after(0);
  void *old = NULL;
  assert_null(mem_realloc(old, 0, 10));
  assert_int_equal(mem_test_live_blocks(), 0);
}

static int host_live;
static void *host_allocate(void *user, size_t size) {
  (*(int *)user)++;
  return malloc(size);
}
static void host_release(void *user, void *block) {
  if (block != NULL) (*(int *)user)--;
  free(block);
}

static void test_host_allocator(void **state) {
  (void)state;
  const kiln_allocator host = {host_allocate, host_release, &host_live};
  mem_set_allocator(&host);
  void *block = mem_alloc(10);
  assert_int_equal(host_live, 1);
  mem_free(block);
  assert_int_equal(host_live, 0);
  mem_set_allocator(NULL);
  block = mem_alloc(10);
  assert_int_equal(host_live, 0);
  mem_free(block);
}

static void test_arena(void **state) {
  (void)state;
  arena a = {0};
  char *objects[2000];
  for (size_t i = 0; i < KILN_COUNT(objects); i++) {
    const size_t size = i % 700 == 699 ? 600000 : i % 97;
    objects[i] = arena_alloc(&a, size);
    assert_non_null(objects[i]);
    assert_int_equal((uintptr_t)objects[i] % 16, 0);
    for (size_t k = 0; k < size; k++) assert_int_equal(objects[i][k], 0);
    memset(objects[i], (int)(i & 0x7f), size);
  }
  for (size_t i = 0; i < KILN_COUNT(objects); i++) {
    for (size_t k = 0; k < (i % 700 == 699 ? 600000 : i % 97); k++) assert_int_equal(objects[i][k], (int)(i & 0x7f));
  }
  assert_string_equal(arena_printf(&a, "%d-%s", 42, "x"), "42-x");
  assert_string_equal(arena_strdup(&a, "hello"), "hello");
  assert_string_equal(arena_strndup(&a, "hello", 2), "he");
  arena_free(&a);
  assert_non_null(arena_alloc(&a, 10));
  arena_free(&a);
}

static void test_arena_failure_is_sticky(void **state) {
  (void)state;
  arena a = {0};
  assert_null(arena_array(&a, SIZE_MAX / 2, 8));
  assert_true(a.failed);
  assert_null(arena_alloc(&a, 1));
  arena_free(&a);
  mem_test_fail_after(0);
  assert_null(arena_alloc(&a, 1));
  assert_null(arena_strdup(&a, "x"));
  assert_null(arena_printf(&a, "x"));
  arena_free(&a);
}

static void test_text(void **state) {
  (void)state;
  text t = {0};
  char *out = NULL;
  for (int i = 0; i < 500; i++) text_printf(&t, "%d,", i);
  text_putc(&t, '!');
  text_puts(&t, "end");
  expect_ok(text_take(&t, &out));
  assert_int_equal(strlen(out), 10 * 2 + 90 * 3 + 400 * 4 + 4);
  assert_memory_equal(out, "0,1,2,3", 7);
  mem_free(out);
  text_quote(&t, "a\"b\\c\n\t\x01\xc3\xa9");
  expect_ok(text_take(&t, &out));
  assert_string_equal(out, "\"a\\\"b\\\\c\\n\\t\\x01\xc3\xa9\"");
  mem_free(out);
  expect_ok(text_take(&t, &out)); /* nothing appended: an empty text, not NULL */
  assert_string_equal(out, "");
  mem_free(out);
  mem_test_fail_after(0);
  text_puts(&t, "lost");
  text_puts(&t, "also lost");
  expect_failure(text_take(&t, &out), KILN_OUT_OF_MEMORY, "out of memory");
  assert_true(str_eq(NULL, NULL) && !str_eq(NULL, "a") && str_eq("a", "a"));
  assert_true(str_starts("abc", "ab") && !str_starts("a", "ab") && str_ends("abc", "bc") && !str_ends("c", "bc"));
}

static void test_map(void **state) {
  (void)state;
  enum { COUNT = 5000 };
  static char keys[COUNT][16];
  static int values[COUNT];
  map m = {0};
  assert_null(map_get(&m, "x"));
  for (int i = 0; i < COUNT; i++) {
    snprintf(keys[i], sizeof keys[i], "k%d", i);
    assert_true(map_put(&m, keys[i], &values[i]));
  }
  assert_int_equal(m.count, COUNT);
  for (int i = 0; i < COUNT; i++) assert_ptr_equal(map_get(&m, keys[i]), &values[i]);
  assert_true(map_put(&m, "k7", NULL));
  assert_int_equal(m.count, COUNT);
  assert_true(map_has(&m, "k7"));
  assert_null(map_get(&m, "k7"));
  assert_false(map_has(&m, "absent"));
  map_free(&m);
  for (int i = 0; i < COUNT; i++) assert_true(map_put_number(&m, (uint64_t)i << 32, &values[i]));
  for (int i = 0; i < COUNT; i++) assert_ptr_equal(map_get_number(&m, (uint64_t)i << 32), &values[i]);
  assert_null(map_get_number(&m, 1));
  map_free(&m);
  mem_test_fail_after(0);
  assert_false(map_put(&m, "a", NULL));
  assert_false(map_has(&m, "a"));
  map_free(&m);
  assert_int_equal(hash_bytes("", 0, 0), 0xcbf29ce484222325u);
  assert_int_equal(hash_bytes("a", 1, 0), 0xaf63dc4c8601ec8cu); /* published FNV-1a values */
}

static kiln_status inner(void) { return KILN_FAIL(KILN_INVALID_FILE, "inner %d", 7); }
static kiln_status outer(void) {
  KILN_TRY_NOTE(inner(), "while doing %s", "it");
  return KILN_OK;
}

static void *other_thread(void *argument) {
  *(bool *)argument = error_text()[0] == '\0';
  (void)KILN_FAIL(KILN_INTERNAL, "another");
  return NULL;
}

static void test_error_record(void **state) {
  (void)state;
  assert_int_equal(outer(), KILN_INVALID_FILE);
  assert_string_equal(error_text(), "inner 7\n  while doing it");
  bool was_empty = false;
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, other_thread, &was_empty), 0);
  pthread_join(thread, NULL);
  assert_true(was_empty);
  assert_string_equal(error_text(), "inner 7\n  while doing it");
  (void)KILN_FAIL(KILN_INTERNAL, "again: %s", error_text());
  assert_string_equal(error_text(), "again: inner 7\n  while doing it");
  for (int i = 0; i < 3000; i++) (void)error_note(KILN_INTERNAL, __FILE__, __LINE__, "frame %d", i);
  assert_true(strlen(error_text()) < 8192);
  assert_true(str_ends(error_text(), "..."));
  char *huge = mem_calloc(1, 20001);
  memset(huge, 'x', 20000);
  (void)KILN_FAIL(KILN_INTERNAL, "%s", huge);
  assert_int_equal(strlen(error_text()), 8191);
  assert_true(str_ends(error_text(), "x..."));
  mem_free(huge);
  error_clear();
  assert_string_equal(error_text(), "");
}

static void test_cpu(void **state) {
  (void)state;
  assert_true(cpu_best_isa() < ISA_COUNT);
  assert_string_equal(cpu_isa_name(ISA_AVX2), "avx2");
  assert_true(cpu_l1_bytes() >= 4096 && cpu_l2_bytes() >= cpu_l1_bytes() && cpu_l3_bytes() > 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(test_memory, expect_no_leak),
      cmocka_unit_test_teardown(test_failure_injection, expect_no_leak),
      cmocka_unit_test_teardown(test_host_allocator, expect_no_leak),
      cmocka_unit_test_teardown(test_arena, expect_no_leak),
      cmocka_unit_test_teardown(test_arena_failure_is_sticky, expect_no_leak),
      cmocka_unit_test_teardown(test_text, expect_no_leak),
      cmocka_unit_test_teardown(test_map, expect_no_leak),
      cmocka_unit_test_teardown(test_error_record, expect_no_leak),
      cmocka_unit_test_teardown(test_cpu, expect_no_leak),
  };
  return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
