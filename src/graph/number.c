/* Floating-point numbers as text. Short decimals are converted exactly in double arithmetic (mantissa below 2^53 and a
 * power of ten below 10^23, both exact: W. Clinger, "How to Read Floating Point Numbers Accurately", 1990); others go
 * through strtod. */
#include "graph/number.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

typedef struct decimal {
  uint64_t mantissa;
  int exponent; /* of ten */
  bool exact;   /* all digits are in the mantissa */
} decimal;

static const char *decimal_scan(const char *s, decimal *d) {
  const char *start = s;
  int digits = 0;
  *d = (decimal){0, 0, true};
  bool fraction = false;
  for (;; s++) {
    if (*s == '.' && !fraction) {
      fraction = true;
      continue;
    }
    if (!is_digit(*s)) break;
    digits++;
    if (d->mantissa < UINT64_C(900000000000000)) {
      d->mantissa = d->mantissa * 10 + (uint64_t)(*s - '0');
      d->exponent -= fraction;
    } else {
      d->exact = false;
    }
  }
  if (!digits) return start;
  if (*s != 'e' && *s != 'E') return s;
  const char *e = s + 1;
  const bool negative = *e == '-';
  if (*e == '-' || *e == '+') e++;
  if (!is_digit(*e)) return s;
  int x = 0;
  for (; is_digit(*e); e++) x = x < 100000 ? x * 10 + (*e - '0') : x;
  d->exponent += negative ? -x : x;
  return e;
}

/* strtod wants the locale's decimal point. */
static double slow_read(const char *s, size_t length) {
  const char *point = localeconv()->decimal_point;
  char buffer[512];
  size_t n = 0;
  for (size_t i = 0; i < length && n + 8 < sizeof buffer; i++) {
    if (s[i] != '.') {
      buffer[n++] = s[i];
      continue;
    }
    for (const char *c = point; *c && n + 8 < sizeof buffer; c++) buffer[n++] = *c;
  }
  buffer[n] = 0;
  return strtod(buffer, NULL);
}

bool number_read(const char **cursor, double *out) {
  static const double tens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  const char *s = *cursor;
  const bool negative = *s == '-';
  s += negative;
  double v;
  if (strncmp(s, "inf", 3) == 0 || strncmp(s, "nan", 3) == 0) {
    v = *s == 'i' ? (double)INFINITY : (double)NAN;
    *cursor = s + 3;
  } else {
    decimal d;
    const char *end = decimal_scan(s, &d);
    if (end == s || end - s > 400) return false;
    if (d.exact && d.exponent >= -22 && d.exponent <= 22) {
      v = d.exponent < 0 ? (double)d.mantissa / tens[-d.exponent] : (double)d.mantissa * tens[d.exponent];
    } else {
      v = slow_read(s, (size_t)(end - s));
    }
    *cursor = end;
  }
  *out = negative ? -v : v;
  return true;
}

void number_print(text *out, double v, bool single) {
  if (isnan(v) || isinf(v)) {
    text_puts(out, isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
    return;
  }
  char buffer[64];
  const int last = single ? 9 : 17;
  for (int precision = single ? 6 : 15; precision <= last; precision++) {
    snprintf(buffer, sizeof buffer, "%.*g", precision, v);
    for (char *c = buffer; *c; c++) { /* the locale's point, maybe of several bytes */
      if (is_digit(*c) || *c == '-' || *c == '+' || *c == 'e') continue;
      *c = '.';
      while (c[1] && !is_digit(c[1])) memmove(c + 1, c + 2, strlen(c + 1));
    }
    const char *cursor = buffer;
    double back = 0;
    if (number_read(&cursor, &back) && (single ? (float)back == (float)v : back == v)) break;
  }
  text_puts(out, buffer);
}
