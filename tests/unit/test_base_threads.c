/* Thread pool: every task exactly once, also after sleeps, nested, from several threads, and with more threads than
 * cores. */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/threads.h"
#include "unit/expect.h"

enum { LARGEST = 5000 };

typedef struct tally {
  atomic_int seen[LARGEST];
  atomic_int bad_worker;
  pool *p;
  int nested;
} tally;

static void count_task(void *user, int64_t i, int worker) {
  tally *t = user;
  atomic_fetch_add(&t->seen[i], 1);
  if (worker < 0 || worker >= pool_threads(t->p)) atomic_fetch_add(&t->bad_worker, 1);
}

static void check_run(pool *p, int64_t count) {
  static tally t;
  memset(&t, 0, sizeof t);
  t.p = p;
  pool_run(p, count, count_task, &t);
  for (int64_t i = 0; i < LARGEST; i++) assert_int_equal(atomic_load(&t.seen[i]), i < count ? 1 : 0);
  assert_int_equal(atomic_load(&t.bad_worker), 0);
}

static void nap(long microseconds) {
  const struct timespec t = {0, microseconds * 1000};
  nanosleep(&t, NULL);
}

static void test_every_task_once(void **state) {
  (void)state;
  static const int threads[] = {1, 2, 3, 7};
  for (size_t k = 0; k < KILN_COUNT(threads); k++) {
    pool *p = NULL;
    expect_ok(pool_create(threads[k], &p));
    assert_int_equal(pool_threads(p), threads[k]);
    for (int round = 0; round < 100; round++) {
      check_run(p, round * 53 % LARGEST);
      if (round % 20 == 0) nap(round % 40 == 0 ? 200 : 20); /* parked workers, spinning workers */
    }
    pool_destroy(p);
  }
  check_run(NULL, 100);
  pool_destroy(NULL);
}

static void test_no_allocation(void **state) {
  (void)state;
  pool *p = NULL;
  expect_ok(pool_create(3, &p));
  const int64_t before = mem_test_total_allocations();
  for (int i = 0; i < 50; i++) check_run(p, 300);
  assert_int_equal(mem_test_total_allocations(), before);
  pool_destroy(p);
}

static void nested_task(void *user, int64_t i, int worker) {
  tally *t = user;
  (void)i, (void)worker;
  tally *inner = test_calloc(1, sizeof *inner);
  inner->p = t->p;
  pool_run(t->p, 100, count_task, inner);
  for (int k = 0; k < 100; k++) atomic_fetch_add(&t->seen[k], atomic_load(&inner->seen[k]));
  test_free(inner);
}

static void test_nested(void **state) {
  (void)state;
  pool *p = NULL;
  static tally t;
  memset(&t, 0, sizeof t);
  expect_ok(pool_create(1, &p)); /* cmocka's allocator is not thread-safe, so the tasks run here */
  t.p = p;
  pool_run(p, 40, nested_task, &t);
  for (int k = 0; k < 100; k++) assert_int_equal(atomic_load(&t.seen[k]), 40);
  pool_destroy(p);
}

typedef struct deep {
  pool *p;
  atomic_int sum;
} deep;

static void add_one(void *user, int64_t i, int worker) {
  (void)i, (void)worker;
  atomic_fetch_add(&((deep *)user)->sum, 1);
}

static void run_inner(void *user, int64_t i, int worker) {
  (void)i, (void)worker;
  deep *d = user;
  pool_run(d->p, 10, add_one, d);
}

static void *from_other_thread(void *user) {
  for (int i = 0; i < 300; i++) pool_run(((deep *)user)->p, 8, run_inner, user);
  return NULL;
}

static void test_nested_and_shared(void **state) {
  (void)state;
  pool *p = NULL;
  expect_ok(pool_create(3, &p));
  deep d = {.p = p};
  pthread_t others[2];
  for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&others[i], NULL, from_other_thread, &d), 0);
  from_other_thread(&d);
  for (int i = 0; i < 2; i++) pthread_join(others[i], NULL);
  assert_int_equal(atomic_load(&d.sum), 3 * 300 * 80);
  pool_destroy(p);
}

static void test_range_split(void **state) {
  (void)state;
  for (int64_t n = 0; n < 70; n++) {
    for (int64_t parts = 1; parts < 9; parts++) {
      int64_t expected = 0;
      for (int64_t part = 0; part < parts; part++) {
        int64_t begin, end;
        range_split(n, parts, 8, part, &begin, &end);
        assert_int_equal(begin, expected);
        assert_true(end >= begin && (end == n || end % 8 == 0));
        expected = end;
      }
      assert_int_equal(expected, n);
    }
  }
}

static void test_out_of_memory(void **state) {
  (void)state;
  for (int n = 0; n < 2; n++) {
    pool *p = NULL;
    mem_test_fail_after(n);
    expect_failure(pool_create(2, &p), KILN_OUT_OF_MEMORY, "thread pool");
    assert_null(p);
  }
}

static void test_clock(void **state) {
  (void)state;
  const double before = time_now();
  nap(1000);
  assert_true(time_now() - before >= 0.001);
  assert_true(cpu_count() >= 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(test_every_task_once, expect_no_leak),
      cmocka_unit_test_teardown(test_no_allocation, expect_no_leak),
      cmocka_unit_test_teardown(test_nested, expect_no_leak),
      cmocka_unit_test_teardown(test_nested_and_shared, expect_no_leak),
      cmocka_unit_test_teardown(test_range_split, expect_no_leak),
      cmocka_unit_test_teardown(test_out_of_memory, expect_no_leak),
      cmocka_unit_test_teardown(test_clock, expect_no_leak),
  };
  return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
