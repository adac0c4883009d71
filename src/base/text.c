/* Growing text: capacity doubles; a failed allocation drops what follows and is reported by text_take. */
#include "base/text.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

/* Makes room for `more` bytes and the NUL. */
static bool reserve(text *t, size_t more) {
  if (t->failed) return false;
  size_t needed;
  if (!size_add(t->length, more, &needed) || !size_add(needed, 1, &needed)) {
    t->failed = true;
    return false;
  }
  if (needed <= t->capacity) return true;
  size_t capacity = t->capacity < 64 ? 64 : t->capacity;
  while (capacity < needed) {
    if (!size_mul(capacity, 2, &capacity)) capacity = needed;
  }
  char *data = mem_realloc(t->data, t->length, capacity);
  if (data == NULL) {
    t->failed = true;
    return false;
  }
  t->data = data;
  t->capacity = capacity;
  t->data[t->length] = '\0';
  return true;
}

void text_append(text *t, const char *bytes, size_t length) {
  if (!reserve(t, length)) return;
  if (length > 0) memcpy(t->data + t->length, bytes, length);
  t->length += length;
  t->data[t->length] = '\0';
}

void text_puts(text *t, const char *s) { text_append(t, s, strlen(s)); }
void text_putc(text *t, char c) { text_append(t, &c, 1); }

void text_printf(text *t, const char *fmt, ...) {
  va_list args, again;
  va_start(args, fmt);
  va_copy(again, args);
  const int length = vsnprintf(NULL, 0, fmt, args);
  va_end(args);
  if (length < 0) {
    t->failed = true;
  } else if (reserve(t, (size_t)length)) {
    vsnprintf(t->data + t->length, (size_t)length + 1, fmt, again);
    t->length += (size_t)length;
  }
  va_end(again);
}

void text_quote(text *t, const char *s) {
  text_putc(t, '"');
  for (; *s != '\0'; s++) {
    const unsigned char c = (unsigned char)*s;
    if (c == '"' || c == '\\') {
      text_putc(t, '\\');
      text_putc(t, *s);
    } else if (c == '\n') {
      text_puts(t, "\\n");
    } else if (c == '\t') {
      text_puts(t, "\\t");
    } else if (c < 0x20 || c == 0x7f) {
      text_printf(t, "\\x%02x", c);
    } else {
      text_putc(t, *s);
    }
  }
  text_putc(t, '"');
}

void text_free(text *t) {
  mem_free(t->data);
  *t = (text){0};
}

kiln_status text_take(text *t, char **out) {
  if (!t->failed) reserve(t, 0);
  if (t->failed) {
    text_free(t);
    return KILN_NO_MEMORY("text");
  }
  *out = t->data;
  *t = (text){0};
  return KILN_OK;
}

bool str_eq(const char *a, const char *b) { return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0); }

bool str_starts(const char *s, const char *prefix) {
  return s != NULL && prefix != NULL && strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix) {
  if (s == NULL || suffix == NULL) return false;
  const size_t length = strlen(s), end = strlen(suffix);
  return length >= end && memcmp(s + length - end, suffix, end) == 0;
}
