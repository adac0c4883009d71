/* Error record: one bounded text per thread, innermost frame first. Never allocates, so it works when memory is out. */
#ifndef KILN_BASE_STATUS_H
#define KILN_BASE_STATUS_H

#include <kiln/kiln.h>
#include <stdarg.h>
#include <stdbool.h>

#define KILN_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define KILN_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Starts the thread's record with this text and returns `code`. `file` is __FILE__; only its part after src/ is
 * kept. */
kiln_status error_raise(kiln_status code, const char *file, int line, const char *fmt, ...) KILN_PRINTF(4, 5);
/* Adds a frame ("importing node conv_3 (aten::conv2d) at model.py:17") and returns `code` unchanged. */
kiln_status error_note(kiln_status code, const char *file, int line, const char *fmt, ...) KILN_PRINTF(4, 5);
/* Text of the record without source places of Kiln itself; same as kiln_last_error(). */
const char *error_text(void);
void error_clear(void);

/* error_raise and error_note never return KILN_OK. Telling the compiler so keeps it from warning that outputs may be
 * unset. */
static inline kiln_status error_is_set(kiln_status code) {
  if (code == KILN_OK) __builtin_unreachable();
  return code;
}

#define KILN_FAIL(code, ...) error_is_set(error_raise((code), __FILE__, __LINE__, __VA_ARGS__))
#define KILN_NO_MEMORY(what) KILN_FAIL(KILN_OUT_OF_MEMORY, "out of memory: %s", (what))

/* Returns early on failure. Only where nothing is held: an arena frees itself. */
#define KILN_TRY(expr)                                      \
  do {                                                      \
    const kiln_status kiln_try_status = (expr);             \
    if (kiln_try_status != KILN_OK) return kiln_try_status; \
  } while (0)

/* Same, and says what we were doing. Use at every module boundary, not in every function. */
#define KILN_TRY_NOTE(expr, ...)                                                                         \
  do {                                                                                                   \
    const kiln_status kiln_try_status = (expr);                                                          \
    if (kiln_try_status != KILN_OK) return error_note(kiln_try_status, __FILE__, __LINE__, __VA_ARGS__); \
  } while (0)

/* Where something is held: one label, one exit, `status` declared KILN_OK at the top. */
#define KILN_GOTO(label, expr)         \
  do {                                 \
    status = (expr);                   \
    if (status != KILN_OK) goto label; \
  } while (0)

#endif
