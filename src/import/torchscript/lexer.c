/* Lexer, see lexer.h. Indentation becomes INDENT and DEDENT tokens as in Python; comments and blank lines vanish. */
#include "import/torchscript/lexer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LEX_FAIL(l, ...) lex_fail((l), __FILE__, __LINE__, __VA_ARGS__)

static kiln_status lex_fail(const ts_lexer *l, const char *file, int line, const char *what) {
  return error_raise(KILN_INVALID_FILE, file, line, "%s:%d: %s", l->name, l->line, what);
}

void ts_lexer_start(ts_lexer *l, arena *a, const char *name, const char *bytes, size_t size) {
  *l = (ts_lexer){.arena = a, .name = name, .at = bytes, .end = bytes + size, .line = 1, .line_start = true};
}

static int peek(const ts_lexer *l, ptrdiff_t k) { return l->end - l->at > k ? (unsigned char)l->at[k] : -1; }
static bool is_alpha(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c >= 0x80; }
static bool is_digit(int c) { return c >= '0' && c <= '9'; }

/* Spaces, comments, and (inside brackets) newlines. */
static void skip_blank(ts_lexer *l) {
  for (;;) {
    const int c = peek(l, 0);
    if (c == ' ' || c == '\t' || c == '\r') {
      l->at++;
    } else if (c == '#') {
      while (l->at < l->end && *l->at != '\n') l->at++;
    } else if (c == '\n' && l->brackets > 0) {
      l->at++;
      l->line++;
    } else {
      return;
    }
  }
}

/* At the start of a line: skips blank lines and measures the indentation of the next one. */
static kiln_status read_indent(ts_lexer *l, ts_token *out, bool *made) {
  int width = 0;
  *made = false;
  for (;;) {
    const char *start = l->at;
    while (peek(l, 0) == ' ') l->at++;
    width = (int)(l->at - start < 100000 ? l->at - start : 100000);
    if (peek(l, 0) == '\t') return LEX_FAIL(l, "a tab where spaces are expected");
    skip_blank(l);
    if (peek(l, 0) != '\n') break;
    l->at++;
    l->line++;
  }
  if (l->at >= l->end) width = 0;
  l->line_start = false;
  const int current = l->depth ? l->indents[l->depth - 1] : 0;
  if (width > current) {
    if (l->depth == TS_MAX_INDENT) return LEX_FAIL(l, "code is nested too deeply");
    l->indents[l->depth++] = width;
    *out = (ts_token){.kind = TOK_INDENT, .line = l->line};
    *made = true;
    return KILN_OK;
  }
  while (l->depth && l->indents[l->depth - 1] > width) {
    l->depth--;
    l->dedents++;
  }
  if ((l->depth ? l->indents[l->depth - 1] : 0) != width) return LEX_FAIL(l, "indentation that matches no block");
  return KILN_OK;
}

static int hex_value(int c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/* One escape after the backslash; returns the byte, or -1. */
static int read_escape(ts_lexer *l) {
  static const char from[] = "ntrabfv\\'\"0", to[] = "\n\t\r\a\b\f\v\\'\"";
  const int c = peek(l, 0);
  if (c < 0) return -1;
  if (c >= '0' && c <= '7') { /* octal, up to three digits */
    int v = 0;
    for (int k = 0; k < 3 && peek(l, 0) >= '0' && peek(l, 0) <= '7'; k++) v = v * 8 + (*l->at++ - '0');
    return v & 255;
  }
  l->at++;
  if (c == 'x') {
    const int hi = hex_value(peek(l, 0)), lo = hex_value(peek(l, 1));
    if (hi < 0 || lo < 0) return -1;
    l->at += 2;
    return hi * 16 + lo;
  }
  const char *known = strchr(from, c);
  return known && (size_t)(known - from) < sizeof to - 1 ? (unsigned char)to[known - from] : -1;
}

/* Bytes up to the closing quote, escapes and all: at least what the string will have. */
static size_t raw_length(const ts_lexer *l, char quote) {
  const char *p = l->at;
  for (; p < l->end && *p != quote && *p != '\n'; p++)
    if (*p == '\\' && p + 1 < l->end) p++;
  return (size_t)(p - l->at);
}

static kiln_status read_string(ts_lexer *l, ts_token *out) {
  const char quote = *l->at++;
  const size_t capacity = raw_length(l, quote);
  size_t length = 0;
  char *text = arena_alloc(l->arena, capacity + 1);
  if (!text) return KILN_NO_MEMORY("TorchScript code");
  for (;;) {
    int c = peek(l, 0);
    if (c < 0 || c == '\n') return LEX_FAIL(l, "a string without an end");
    l->at++;
    if (c == quote) break;
    if (c == '\\' && (c = read_escape(l)) < 0) return LEX_FAIL(l, "an unknown escape in a string");
    if (length < capacity) text[length++] = (char)c;
  }
  text[length] = 0;
  *out = (ts_token){.kind = TOK_STR, .line = l->line, .text = text, .i = (int64_t)length};
  return KILN_OK;
}

static kiln_status read_number(ts_lexer *l, ts_token *out) {
  char digits[64];
  size_t n = 0;
  bool real = false;
  for (int c; (c = peek(l, 0)) >= 0; l->at++) {
    const bool sign = (c == '-' || c == '+') && n && (digits[n - 1] == 'e' || digits[n - 1] == 'E');
    if (!is_digit(c) && c != '.' && c != 'e' && c != 'E' && !sign) break;
    real = real || !is_digit(c);
    if (n == sizeof digits - 1) return LEX_FAIL(l, "a number with too many digits");
    digits[n++] = (char)c;
  }
  digits[n] = 0;
  char *stop = NULL;
  *out = (ts_token){.kind = real ? TOK_FLOAT : TOK_INT, .line = l->line};
  if (real) {
    out->f = strtod(digits, &stop);
  } else {
    out->i = 0;
    for (size_t k = 0; k < n; k++) {
      if (__builtin_mul_overflow(out->i, 10, &out->i) || __builtin_add_overflow(out->i, digits[k] - '0', &out->i))
        return LEX_FAIL(l, "an integer that does not fit in 64 bits");
    }
    stop = digits + n;
  }
  if (*stop) return LEX_FAIL(l, "a malformed number");
  if (peek(l, 0) == 'j') {
    l->at++;
    if (!real) out->f = (double)out->i;
    out->kind = TOK_IMAGINARY;
  }
  return KILN_OK;
}

static kiln_status read_operator(ts_lexer *l, ts_token *out) {
  char c = *l->at++;
  if (c == '-' && peek(l, 0) == '>') {
    l->at++;
    c = '>';
  } else if (!strchr("()[]{}.,:=-+", c)) {
    return LEX_FAIL(l, "a character that serialized TorchScript does not use");
  }
  if (c == '(' || c == '[' || c == '{') l->brackets++;
  if ((c == ')' || c == ']' || c == '}') && --l->brackets < 0)
    return LEX_FAIL(l, "a closing bracket without an opening one");
  *out = (ts_token){.kind = TOK_OP, .line = l->line, .op = c};
  return KILN_OK;
}

kiln_status ts_lexer_next(ts_lexer *l, ts_token *out) {
  if (l->line_start && l->brackets == 0) {
    bool made = false;
    KILN_TRY(read_indent(l, out, &made));
    if (made) return KILN_OK;
  }
  if (l->dedents) {
    l->dedents--;
    *out = (ts_token){.kind = TOK_DEDENT, .line = l->line};
    return KILN_OK;
  }
  skip_blank(l);
  const int c = peek(l, 0);
  if (c < 0) {
    if (l->brackets) return LEX_FAIL(l, "the file ends inside brackets");
    *out = (ts_token){.kind = TOK_END, .line = l->line};
    return KILN_OK;
  }
  if (c == '\n') {
    *out = (ts_token){.kind = TOK_NEWLINE, .line = l->line++};
    l->at++;
    l->line_start = true;
    return KILN_OK;
  }
  if (c == '"' || c == '\'') return read_string(l, out);
  if (is_digit(c) || (c == '.' && is_digit(peek(l, 1)))) return read_number(l, out);
  if (!is_alpha(c)) return read_operator(l, out);
  const char *start = l->at;
  while (is_alpha(peek(l, 0)) || is_digit(peek(l, 0))) l->at++;
  *out = (ts_token){.kind = TOK_NAME, .line = l->line, .text = arena_strndup(l->arena, start, (size_t)(l->at - start))};
  return out->text ? KILN_OK : KILN_NO_MEMORY("TorchScript code");
}
