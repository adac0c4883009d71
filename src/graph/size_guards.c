/* Conditions on the sizes of inputs, see size_guards.h: a recursive descent over Python's expressions that computes as it reads, since a
 * condition is looked at once for each set of shapes. Integers stay integers; `/`, float() and numbers with a point give floats. */
#include "graph/size_guards.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_NESTING = 100 };

typedef struct number {
  bool real;
  int64_t i;
  double f;
} number;

typedef struct reader {
  const char *s, *end;
  size_of_fn size;
  const void *context;
  int depth;
  bool bad;       /* not the grammar, or a size that there is not */
  bool undefined; /* a division by zero, an overflow */
} reader;

static number read_or(reader *r);

static number of_int(int64_t i) { return (number){.i = i, .f = (double)i}; }
static number of_real(double f) { return (number){.real = true, .f = f}; }
static bool truth(number a) { return a.real ? a.f != 0 : a.i != 0; }

static number bad(reader *r) {
  r->bad = true;
  r->s = r->end;
  return of_int(0);
}
static number undefined(reader *r) {
  r->undefined = true;
  return of_int(0);
}

static void skip(reader *r) {
  while (r->s < r->end && *r->s == ' ') r->s++;
}

static bool take(reader *r, const char *word) {
  const size_t n = strlen(word);
  skip(r);
  if ((size_t)(r->end - r->s) < n || memcmp(r->s, word, n) != 0) return false;
  r->s += n;
  return true;
}

static bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static bool digit(char c) { return c >= '0' && c <= '9'; }

/* A word, which ends where letters end. */
static bool take_word(reader *r, const char *word) {
  const char *before = r->s;
  if (take(r, word) && (r->s == r->end || !(letter(*r->s) || digit(*r->s)))) return true;
  r->s = before;
  return false;
}

static number to_int(reader *r, double f) { return fabs(f) < 0x1p61 ? of_int((int64_t)f) : undefined(r); }

static int64_t floor_div(int64_t a, int64_t b) {
  const int64_t q = a / b;
  return q - (a % b != 0 && (a < 0) != (b < 0));
}

static number divide(reader *r, char sign, number a, number b) {
  if (!truth(b)) return undefined(r);
  if (sign == '/') return of_real(a.f / b.f);
  if (a.real || b.real) {
    const double q = floor(a.f / b.f);
    return of_real(sign == 'd' ? q : a.f - q * b.f);
  }
  if (b.i == -1) return sign == 'd' ? (a.i == INT64_MIN ? undefined(r) : of_int(-a.i)) : of_int(0);
  const int64_t q = floor_div(a.i, b.i);
  return of_int(sign == 'd' ? q : a.i - q * b.i);
}

static number arithmetic(reader *r, char sign, number a, number b) {
  int64_t i = 0;
  if (sign == '/' || sign == 'd' || sign == '%') return divide(r, sign, a, b);
  if (a.real || b.real) return of_real(sign == '+' ? a.f + b.f : sign == '-' ? a.f - b.f : a.f * b.f);
  const bool over = sign == '+'   ? __builtin_add_overflow(a.i, b.i, &i)
                    : sign == '-' ? __builtin_sub_overflow(a.i, b.i, &i)
                                  : __builtin_mul_overflow(a.i, b.i, &i);
  return over ? undefined(r) : of_int(i);
}

static number power(reader *r, number a, number b) {
  if (a.real || b.real || b.i < 0) return of_real(pow(a.f, b.f));
  if (b.i > 64) return undefined(r);
  number p = of_int(1);
  for (int64_t k = 0; k < b.i; k++) p = arithmetic(r, '*', p, a);
  return p;
}

static int compare(number a, number b) {
  if (a.real || b.real) return a.f < b.f ? -1 : a.f > b.f;
  return a.i < b.i ? -1 : a.i > b.i;
}

static number call(reader *r, const char *name, size_t length, const number *a, int n) {
  static const char *const names[] = {"trunc", "int", "floor", "ceil", "round", "sqrt", "float", "abs", "max", "min"};
  size_t k = 0;
  while (k < KILN_COUNT(names) && (strlen(names[k]) != length || memcmp(names[k], name, length) != 0)) k++;
  if (n < 1 || (k < 8 && n != 1)) return bad(r);
  number best = a[0];
  switch (k) {
    case 0:
    case 1:
      return a[0].real ? to_int(r, trunc(a[0].f)) : a[0];
    case 2:
      return a[0].real ? to_int(r, floor(a[0].f)) : a[0];
    case 3:
      return a[0].real ? to_int(r, ceil(a[0].f)) : a[0];
    case 4:
      return a[0].real ? to_int(r, nearbyint(a[0].f)) : a[0];
    case 5:
      return a[0].f < 0 ? undefined(r) : of_real(sqrt(a[0].f));
    case 6:
      return of_real(a[0].f);
    case 7:
      return compare(a[0], of_int(0)) < 0 ? arithmetic(r, '-', of_int(0), a[0]) : a[0];
    case 8:
    case 9:
      for (int i = 1; i < n; i++)
        if (k == 8 ? compare(a[i], best) > 0 : compare(a[i], best) < 0) best = a[i];
      return best;
    default:
      return bad(r);
  }
}

static number read_size(reader *r) {
  char *stop = NULL;
  int64_t at[2] = {0, 0}, n = 0;
  for (int k = 0; k < 2; k++) {
    if (r->s == r->end || !digit(*r->s)) return bad(r);
    at[k] = strtoll(r->s, &stop, 10);
    r->s = stop;
    if (!take(r, k ? "]" : ".")) return bad(r);
  }
  return r->size(r->context, at[0], at[1], &n) ? of_int(n) : bad(r);
}

static number read_number(reader *r) {
  char copy[48], *stop = NULL;
  size_t n = 0;
  bool real = false;
  while (r->s + n < r->end && n + 1 < sizeof copy) {
    const char c = r->s[n];
    const bool exponent = (c == '-' || c == '+') && n && (copy[n - 1] == 'e' || copy[n - 1] == 'E');
    if (!digit(c) && c != '.' && c != 'e' && c != 'E' && !exponent) break;
    real = real || !digit(c);
    copy[n++] = c;
  }
  copy[n] = 0;
  if (!n) return bad(r);
  const double f = strtod(copy, &stop);
  if (*stop || !(fabs(f) < 0x1p61)) return bad(r);
  r->s += n;
  return real ? of_real(f) : of_int(strtoll(copy, NULL, 10));
}

static number read_call(reader *r) {
  const char *name = r->s;
  number a[8];
  int n = 0;
  while (r->s < r->end && (letter(*r->s) || digit(*r->s))) r->s++;
  const size_t length = (size_t)(r->s - name);
  if (length == 4 && memcmp(name, "True", 4) == 0) return of_int(1);
  if (length == 5 && memcmp(name, "False", 5) == 0) return of_int(0);
  if (!take(r, "(")) return bad(r);
  while (!r->bad && !take(r, ")")) {
    if (n == (int)KILN_COUNT(a) || (n && !take(r, ","))) return bad(r);
    a[n++] = read_or(r);
  }
  return r->bad ? of_int(0) : call(r, name, length, a, n);
}

static number read_atom(reader *r) {
  skip(r);
  if (r->s == r->end) return bad(r);
  if (take(r, "[")) return read_size(r);
  if (take(r, "(")) {
    const number a = read_or(r);
    return take(r, ")") ? a : bad(r);
  }
  return letter(*r->s) ? read_call(r) : read_number(r);
}

static number read_unary(reader *r) {
  if (++r->depth > MOST_NESTING) return bad(r);
  number a;
  if (take(r, "-")) {
    a = arithmetic(r, '-', of_int(0), read_unary(r));
  } else {
    a = read_atom(r);
    if (take(r, "**")) a = power(r, a, read_unary(r));
  }
  r->depth--;
  return a;
}

static number read_term(reader *r) {
  number a = read_unary(r);
  while (!r->bad) {
    const char sign = take(r, "//") ? 'd' : take(r, "*") ? '*' : take(r, "/") ? '/' : take(r, "%") ? '%' : 0;
    if (!sign) break;
    a = arithmetic(r, sign, a, read_unary(r));
  }
  return a;
}

static number read_sum(reader *r) {
  number a = read_term(r);
  while (!r->bad) {
    const char sign = take(r, "+") ? '+' : take(r, "-") ? '-' : 0;
    if (!sign) break;
    a = arithmetic(r, sign, a, read_term(r));
  }
  return a;
}

static number read_comparison(reader *r) {
  static const char *const ops[] = {"==", "!=", "<=", ">=", "<", ">"};
  number a = read_sum(r);
  bool all = true, compared = false;
  while (!r->bad) {
    size_t k = 0;
    while (k < KILN_COUNT(ops) && !take(r, ops[k])) k++;
    if (k == KILN_COUNT(ops)) break;
    const number b = read_sum(r);
    const int c = compare(a, b);
    const bool holds[] = {c == 0, c != 0, c <= 0, c >= 0, c<0, c> 0};
    all = all && holds[k];
    compared = true;
    a = b;
  }
  return compared ? of_int(all) : a;
}

static number read_not(reader *r) {
  if (++r->depth > MOST_NESTING) return bad(r);
  const number a = take_word(r, "not") ? of_int(!truth(read_not(r))) : read_comparison(r);
  r->depth--;
  return a;
}

static number read_and(reader *r) {
  number a = read_not(r);
  while (!r->bad && take_word(r, "and")) {
    const bool b = truth(read_not(r));
    a = of_int(truth(a) && b);
  }
  return a;
}

static number read_or(reader *r) {
  if (++r->depth > MOST_NESTING) return bad(r);
  number a = read_and(r);
  while (!r->bad && take_word(r, "or")) {
    const bool b = truth(read_and(r));
    a = of_int(truth(a) || b);
  }
  r->depth--;
  return a;
}

guard_result size_guard_check(const char *guard, size_t length, size_of_fn size, const void *context) {
  reader r = {.s = guard, .end = guard + length, .size = size, .context = context};
  const number a = read_or(&r);
  skip(&r);
  if (r.bad || r.s != r.end) return GUARD_UNREADABLE;
  return !r.undefined && truth(a) ? GUARD_HOLDS : GUARD_FAILS;
}

/* ---- those of a graph -------------------------------------------------------------------------------------------- */

static bool any_size(const void *context, int64_t input, int64_t d, int64_t *out) {
  const graph *g = context;
  *out = 2;
  return input < g->n_inputs && d < g->body.params[input]->type.rank;
}

bool size_guard_readable(const graph *g, const char *guard, size_t length) {
  return size_guard_check(guard, length, any_size, g) != GUARD_UNREADABLE;
}

kiln_status size_guards_validate(const graph *g) {
  const char *at = graph_metadata(g, SIZE_GUARDS_KEY);
  while (at && *at) {
    const size_t n = strcspn(at, "\n");
    if (!size_guard_readable(g, at, n))
      return KILN_FAIL(KILN_INVALID_FILE,
                       "metadata `%s`: `%.*s` is no condition on sizes of inputs, such as [0.1] > [0.2]",
                       SIZE_GUARDS_KEY, n > 200 ? 200 : (int)n, at);
    at += n + (at[n] != 0);
  }
  return KILN_OK;
}

typedef struct tensors {
  const kiln_tensor *all;
  int64_t count;
} tensors;

static bool size_of(const void *context, int64_t input, int64_t d, int64_t *out) {
  const tensors *t = context;
  if (input < 0 || input >= t->count || d < 0 || d >= t->all[input].ndim) return false;
  *out = t->all[input].shape[d];
  return true;
}

/* The condition with names instead of numbers, and the sizes. */
static kiln_status violated(const char *at, size_t n, const tensors *t, const char *const *names) {
  text words = {0}, sizes = {0};
  for (size_t i = 0; i < n; i++) {
    int input = 0, d = 0;
    int64_t size = 0;
    if (at[i] != '[' || sscanf(at + i, "[%d.%d]", &input, &d) != 2 || !size_of(t, input, d, &size)) {
      text_putc(&words, at[i]);
      continue;
    }
    char word[160];
    snprintf(word, sizeof word, "%.100s.shape[%d]", names[input], d);
    text_puts(&words, word);
    if (!sizes.data || !strstr(sizes.data, word))
      text_printf(&sizes, "%s%s is %lld", sizes.length ? ", " : "", word, (long long)size);
    while (i + 1 < n && at[i] != ']') i++;
  }
  const kiln_status status = KILN_FAIL(KILN_INVALID_ARGUMENT,
                                       "%s; the model was captured for sizes with `%s` only, since its Python code "
                                       "decides by them%s. Compile it with an "
                                       "example of such sizes for a second engine",
                                       sizes.data ? sizes.data : "these sizes", words.data ? words.data : "other sizes",
                                       words.data && strstr(words.data, "trunc(")
                                           ? " (int() of a float makes a size constant, torch.sym_int() does not)"
                                           : "");
  text_free(&words);
  text_free(&sizes);
  return status;
}

kiln_status size_guards_enforce(const char *guards, const kiln_tensor *inputs, int32_t count,
                                const char *const *names) {
  const tensors t = {inputs, count};
  for (const char *at = guards; at && *at;) {
    const size_t n = strcspn(at, "\n");
    if (size_guard_check(at, n, size_of, &t) != GUARD_HOLDS) return violated(at, n, &t, names);
    at += n + (at[n] != 0);
  }
  return KILN_OK;
}
