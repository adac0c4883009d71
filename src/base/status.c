/* The error record: one thread-local text of bounded size. Frames are formatted into a second buffer first, because
 * callers may pass error_text() itself as an argument. */
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RECORD_SIZE = 8192 };

static _Thread_local char record[RECORD_SIZE];
static _Thread_local char frame[RECORD_SIZE];
static _Thread_local size_t record_length;

static const char *place_in_sources(const char *file) {
  const char *kept = file;
  for (const char *p = file; (p = strstr(p, "src/")) != NULL; p += 4) kept = p + 4;
  return kept;
}

/* Formats one frame; returns its length. KILN_ERROR_PLACES=1 adds where in Kiln's sources it came from. */
static size_t format_frame(const char *file, int line, const char *fmt, va_list args) {
  const int wanted = vsnprintf(frame, sizeof frame, fmt, args);
  if (wanted < 0) {
    memcpy(frame, "(unprintable)", sizeof "(unprintable)");
    return strlen(frame);
  }
  size_t length = (size_t)wanted;
  if (length >= sizeof frame) {
    length = sizeof frame - 1;
    /* NOLINTNEXTLINE(bugprone-not-null-terminated-result): the zero behind these three is vsnprintf's */
    memcpy(frame + length - 3, "...", 3);
  }
  const char *places = getenv("KILN_ERROR_PLACES");
  if (places != NULL && places[0] == '1') {
    const int more = snprintf(frame + length, sizeof frame - length, " [%s:%d]", place_in_sources(file), line);
    if (more > 0 && (size_t)more < sizeof frame - length) length += (size_t)more;
  }
  return length;
}

static void append_to_record(const char *bytes, size_t length) {
  const size_t room = sizeof record - 1 - record_length;
  const bool cut = length > room;
  if (cut) length = room;
  memcpy(record + record_length, bytes, length);
  record_length += length;
  if (cut) memcpy(record + record_length - 3, "...", 3);
  record[record_length] = '\0';
}

kiln_status error_raise(kiln_status code, const char *file, int line, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  const size_t length = format_frame(file, line, fmt, args);
  va_end(args);
  record_length = 0;
  append_to_record(frame, length);
  return code != KILN_OK ? code : KILN_INTERNAL;
}

kiln_status error_note(kiln_status code, const char *file, int line, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  const size_t length = format_frame(file, line, fmt, args);
  va_end(args);
  if (record_length > 0) append_to_record("\n  ", 3);
  append_to_record(frame, length);
  return code != KILN_OK ? code : KILN_INTERNAL;
}

const char *error_text(void) { return record; }

void error_clear(void) {
  record_length = 0;
  record[0] = '\0';
}
