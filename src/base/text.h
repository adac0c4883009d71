/* Growing text and small string helpers. */
#ifndef KILN_BASE_TEXT_H
#define KILN_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* A NUL-terminated text that grows. Out of memory is sticky in `failed`. Zero-initialized is empty. */
typedef struct text {
  char *data;
  size_t length, capacity;
  bool failed;
} text;

void text_printf(text *t, const char *fmt, ...) KILN_PRINTF(2, 3);
void text_append(text *t, const char *bytes, size_t length);
void text_puts(text *t, const char *s);
void text_putc(text *t, char c);
/* Writes `s` in double quotes with \" \\ \n \t \xHH escapes. */
void text_quote(text *t, const char *s);
void text_free(text *t);
/* Hands the buffer over (release with mem_free / kiln_free) or fails when memory ran out on the way. */
kiln_status text_take(text *t, char **out);

bool str_eq(const char *a, const char *b); /* NULL-safe */
bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);

#endif
