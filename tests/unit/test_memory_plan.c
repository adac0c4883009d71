/* Properties of the memory planner, on random lives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "plan/memory_plan.h"

static uint32_t state = 12345;
static uint32_t next(void) {
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}

static size_t peak(const memory_block *b, size_t n, int steps) {
  size_t best = 0;
  for (int t = 0; t < steps; t++) {
    size_t live = 0;
    for (size_t i = 0; i < n; i++) live += b[i].first <= t && t <= b[i].last ? b[i].size : 0;
    if (live > best) best = live;
  }
  return best;
}

static void no_two_live_blocks_overlap(void **unused) {
  (void)unused;
  for (int round = 0; round < 300; round++) {
    memory_block b[120];
    const size_t n = 1 + next() % 120;
    for (size_t i = 0; i < n; i++) {
      b[i].first = (int32_t)(next() % 60);
      b[i].last = b[i].first + (int32_t)(next() % 20);
      b[i].size = 1 + next() % 100000;
    }
    size_t total = 0;
    assert_int_equal(memory_plan(b, n, &total), KILN_OK);
    assert_true(total >= peak(b, n, 80));
    for (size_t i = 0; i < n; i++) {
      assert_true(b[i].offset % 64 == 0);
      assert_true(b[i].offset + b[i].size <= total);
      for (size_t k = 0; k < i; k++) {
        const int in_time = b[i].first <= b[k].last && b[k].first <= b[i].last;
        const int in_space = b[i].offset < b[k].offset + b[k].size && b[k].offset < b[i].offset + b[i].size;
        assert_false(in_time && in_space);
      }
    }
  }
}

static void a_chain_of_equal_blocks_needs_two(void **unused) {
  (void)unused;
  memory_block b[10];
  for (int i = 0; i < 10; i++) b[i] = (memory_block){4096, i, i + 1, 0};
  size_t total = 0;
  assert_int_equal(memory_plan(b, 10, &total), KILN_OK);
  assert_int_equal(total, 2 * 4096);
}

static void nothing_needs_nothing(void **unused) {
  (void)unused;
  size_t total = 1;
  assert_int_equal(memory_plan(NULL, 0, &total), KILN_OK);
  assert_int_equal(total, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(no_two_live_blocks_overlap),
                                     cmocka_unit_test(a_chain_of_equal_blocks_needs_two),
                                     cmocka_unit_test(nothing_needs_nothing)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
