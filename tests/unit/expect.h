/* Shared by the unit tests of base and format: cmocka, and a check of a failure's status and text. */
#ifndef KILN_TESTS_EXPECT_H
#define KILN_TESTS_EXPECT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
/* after those four, as cmocka wants it */
#include <cmocka.h>

#include "base/memory.h"
#include "base/status.h"

static inline void expect_ok_at(kiln_status status, const char *file, int line) {
  if (status == KILN_OK) return;
  print_error("failed: %s\n", error_text());
  _fail(file, line);
}
#define expect_ok(call) expect_ok_at((call), __FILE__, __LINE__)

/* The call fails with `code`, and its text contains `part`. */
static inline void expect_failure_at(kiln_status status, kiln_status code, const char *part, const char *file,
                                     int line) {
  if (status == code && strstr(error_text(), part) != NULL) return;
  print_error("status %d, expected %d; text '%s' should contain '%s'\n", (int)status, (int)code,
              status == KILN_OK ? "" : error_text(), part);
  _fail(file, line);
}
#define expect_failure(call, code, part) expect_failure_at((call), (code), (part), __FILE__, __LINE__)

/* No block is left: for teardown of each test. */
static inline int expect_no_leak(void **state) {
  (void)state;
  mem_test_fail_after(-1);
  return mem_test_live_blocks() == 0 ? 0 : (print_error("%lld blocks leaked\n", (long long)mem_test_live_blocks()), -1);
}

#endif
