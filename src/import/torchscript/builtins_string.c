/* Operators on strings. Texts are bytes, as in TorchScript. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "import/torchscript/interpreter.h"

static const char *string_arg(const ts_call *c, int at) {
  return c->n > at && c->args[at].kind == TSV_STR ? c->args[at].u.s : NULL;
}

static kiln_status slice_of(interp *it, const char *s, size_t n, ts_value *out) {
  text t = {0};
  text_append(&t, s, n);
  return interp_text_value(it, &t, out);
}

/* ---- formatting ------------------------------------------------------------------------------------------------- */

static kiln_status do_format(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0);
  text t = {0};
  int next = 1;
  if (!s) return KILN_OK;
  *handled = true;
  while (*s) {
    const char *place = strstr(s, "{}");
    if (!place || next >= c->n) break;
    text_append(&t, s, (size_t)(place - s));
    interp_print(it, &c->args[next++], false, 0, &t);
    s = place + 2;
  }
  text_puts(&t, s);
  return interp_text_value(it, &t, out);
}

/* One conversion of "%5.2f"; *format stands behind it afterwards. */
static bool percent(interp *it, const char **format, const ts_value *v, text *t) {
  char spec[32];
  size_t n = strspn(*format, "%-+ #0123456789.");
  const char kind = (*format)[n];
  if (n > 20 || !kind) return false;
  memcpy(spec, *format, n);
  *format += n + 1;
  const bool real = interp_is_number(v) && (v->kind == TSV_FLOAT || (v->kind != TSV_DATA && dim_is_const(v->u.i)));
  const int64_t i = v->kind == TSV_FLOAT ? (int64_t)v->u.f : v->u.i;
  if (strchr("di", kind) && real) {
    text_printf(t, "%lld", (long long)i);
    return true;
  }
  if (strchr("eEfFgG", kind) && real) {
    int precision = 6;
    const char *dot = memchr(spec, '.', n);
    if (dot) precision = atoi(dot + 1);
    if (precision < 0 || precision > 60) precision = 60;
    const double f = v->kind == TSV_FLOAT ? v->u.f : (double)v->u.i;
    switch (kind) {
      case 'e':
        text_printf(t, "%.*e", precision, f);
        break;
      case 'E':
        text_printf(t, "%.*E", precision, f);
        break;
      case 'g':
      case 'G':
        text_printf(t, "%.*g", precision, f);
        break;
      default:
        text_printf(t, "%.*f", precision, f);
    }
    return true;
  }
  if (kind == 'c' && real)
    text_putc(t, (char)i);
  else
    interp_print(it, v, kind == 'r', 0, t);
  return true;
}

static kiln_status do_percent_format(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0);
  text t = {0};
  int next = 0;
  if (!s || c->n < 2) return KILN_OK;
  const ts_list *l = interp_items(&c->args[1]);
  const ts_value *items = l ? l->items : c->args + 1;
  const int n = l ? l->count : c->n - 1;
  *handled = true;
  while (*s) {
    if (*s != '%') {
      text_putc(&t, *s++);
    } else if (s[1] == '%') {
      text_putc(&t, '%');
      s += 2;
    } else if (next >= n || !percent(it, &s, &items[next], &t)) {
      text_free(&t);
      return IT_FAIL(it, KILN_INVALID_ARGUMENT, "not enough arguments for the format string");
    } else {
      next++;
    }
  }
  return interp_text_value(it, &t, out);
}

static kiln_status do_str(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  text t = {0};
  if (c->n != 1) return KILN_OK;
  *handled = true;
  interp_print(it, &c->args[0], false, 0, &t);
  return interp_text_value(it, &t, out);
}

static kiln_status do_parse(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0);
  char *end = NULL;
  if (!s) return interp_convert_number(it, c, out, handled);
  *handled = true;
  errno = 0;
  if (str_eq(c->name, "int")) {
    const long long i = strtoll(s, &end, 10);
    *out = of_int(i);
    if (end == s || *end || errno || !dim_is_const(i)) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "int('%.60s')", s);
    return KILN_OK;
  }
  *out = of_float(strtod(s, &end));
  return end == s || *end ? IT_FAIL(it, KILN_INVALID_ARGUMENT, "float('%.60s')", s) : KILN_OK;
}

/* ---- parts ------------------------------------------------------------------------------------------------------ */

static kiln_status do_add(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *a = string_arg(c, 0), *b = string_arg(c, 1);
  text t = {0};
  if (!a || !b) return KILN_OK;
  *handled = true;
  text_puts(&t, a);
  text_puts(&t, b);
  return interp_text_value(it, &t, out);
}

static kiln_status do_mul(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0);
  text t = {0};
  if (!s || c->n != 2 || c->args[1].kind != TSV_INT || !dim_is_const(c->args[1].u.i)) return KILN_OK;
  *handled = true;
  for (int64_t i = 0; i < c->args[1].u.i && *s && t.length <= TS_MAX_STRING && !t.failed; i++) text_puts(&t, s);
  return interp_text_value(it, &t, out);
}

static kiln_status do_getitem(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0);
  int64_t i;
  if (!s || c->n != 2) return KILN_OK;
  *handled = true;
  KILN_TRY(interp_arg_int(it, c, 1, "index", 0, &i));
  const int64_t n = (int64_t)strlen(s);
  if (i < 0) i += n;
  if (i < 0 || i >= n) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "string index out of range");
  return slice_of(it, s + i, 1, out);
}

static kiln_status do_slice(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0);
  int64_t start, step, count;
  text t = {0};
  if (!s) return KILN_OK;
  *handled = true;
  KILN_TRY(interp_slice_bounds(it, c, (int64_t)strlen(s), &start, &step, &count));
  for (int64_t i = 0; i < count; i++) text_putc(&t, s[start + i * step]);
  return interp_text_value(it, &t, out);
}

static kiln_status do_len(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  (void)it;
  const char *s = string_arg(c, 0);
  *handled = s != NULL;
  if (s) *out = of_int((int64_t)strlen(s));
  return KILN_OK;
}

static kiln_status do_contains(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  (void)it;
  const char *s = string_arg(c, 0), *part = string_arg(c, 1);
  *handled = s && part;
  if (*handled) *out = of_bool(strstr(s, part) != NULL);
  return KILN_OK;
}

static kiln_status do_join(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0);
  const ts_list *l = c->n == 2 ? interp_items(&c->args[1]) : NULL;
  text t = {0};
  if (!s || !l) return KILN_OK;
  *handled = true;
  for (int i = 0; i < l->count; i++) {
    if (i) text_puts(&t, s);
    if (l->items[i].kind == TSV_STR) text_puts(&t, l->items[i].u.s);
  }
  return interp_text_value(it, &t, out);
}

static kiln_status push(interp *it, ts_value *list, const char *s, size_t n) {
  ts_value v;
  KILN_TRY(slice_of(it, s, n, &v));
  KILN_TRY(interp_list_resize(it, list->u.list, list->u.list->count + 1));
  list->u.list->items[list->u.list->count - 1] = v;
  return KILN_OK;
}

static const char spaces[] = " \t\n\r\v\f";

static kiln_status split_spaces(interp *it, const char *s, int64_t max, ts_value *out) {
  for (;;) {
    s += strspn(s, spaces);
    if (!*s) return KILN_OK;
    const size_t n = max-- == 0 ? strlen(s) : strcspn(s, spaces);
    KILN_TRY(push(it, out, s, n));
    s += n;
  }
}

static kiln_status do_split(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0);
  const ts_value *separator = interp_arg(c, 1, "separator");
  int64_t max;
  if (!s) return KILN_OK;
  *handled = true;
  KILN_TRY(interp_arg_int(it, c, 2, "max", -1, &max));
  KILN_TRY(interp_list_new(it, TSV_LIST, 0, NULL, out));
  if (str_eq(c->name, "splitlines")) separator = &(ts_value){.kind = TSV_STR, .u = {.s = "\n"}};
  if (!separator || separator->kind == TSV_NONE) return split_spaces(it, s, max, out);
  const char *by = separator->kind == TSV_STR ? separator->u.s : "";
  if (!*by) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "empty separator");
  for (;;) {
    const char *next = max-- == 0 ? NULL : strstr(s, by);
    if (!next && str_eq(c->name, "splitlines") && !*s) return KILN_OK;
    KILN_TRY(push(it, out, s, next ? (size_t)(next - s) : strlen(s)));
    if (!next) return KILN_OK;
    s = next + strlen(by);
  }
}

static kiln_status do_strip(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0), *set = string_arg(c, 1);
  if (!s) return KILN_OK;
  if (!set) set = spaces;
  size_t n = strlen(s);
  *handled = true;
  if (c->name[0] != 'r') {
    const size_t skip = strspn(s, set);
    s += skip;
    n -= skip;
  }
  while (c->name[0] != 'l' && n > 0 && strchr(set, s[n - 1])) n--;
  return slice_of(it, s, n, out);
}

/* ---- letters ---------------------------------------------------------------------------------------------------- */

static bool is_lower(char ch) { return ch >= 'a' && ch <= 'z'; }
static bool is_upper(char ch) { return ch >= 'A' && ch <= 'Z'; }
static bool is_digit(char ch) { return ch >= '0' && ch <= '9'; }
static bool is_space(char ch) { return ch && strchr(spaces, ch); }
static char to_upper(char ch) { return is_lower(ch) ? (char)(ch - 32) : ch; }
static char to_lower(char ch) { return is_upper(ch) ? (char)(ch + 32) : ch; }

static kiln_status do_case(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0), *how = c->name;
  text t = {0};
  if (!s || c->n != 1) return KILN_OK;
  *handled = true;
  bool start = true;
  for (; *s; s++) {
    char ch = *s;
    if (str_eq(how, "upper"))
      ch = to_upper(ch);
    else if (str_eq(how, "lower"))
      ch = to_lower(ch);
    else if (str_eq(how, "swapcase"))
      ch = is_lower(ch) ? to_upper(ch) : to_lower(ch);
    else
      ch = start ? to_upper(ch) : to_lower(ch);
    start = str_eq(how, "title") && !is_lower(*s) && !is_upper(*s);
    text_putc(&t, ch);
  }
  return interp_text_value(it, &t, out);
}

static bool char_is(const char *how, char ch) {
  if (str_eq(how, "isdigit") || str_eq(how, "isdecimal") || str_eq(how, "isnumeric")) return is_digit(ch);
  if (str_eq(how, "isspace")) return is_space(ch);
  if (str_eq(how, "isalpha")) return is_lower(ch) || is_upper(ch);
  return is_lower(ch) || is_upper(ch) || is_digit(ch);
}

static kiln_status do_is(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  (void)it;
  const char *s = string_arg(c, 0);
  if (!s) return KILN_OK;
  const bool lower = str_eq(c->name, "islower"), upper = str_eq(c->name, "isupper");
  bool all = *s != 0, letter = false;
  for (; *s; s++) {
    letter |= is_lower(*s) || is_upper(*s);
    all &= lower ? !is_upper(*s) : upper ? !is_lower(*s) : char_is(c->name, *s);
  }
  *handled = true;
  *out = of_bool(all && (letter || !(lower || upper)));
  return KILN_OK;
}

static kiln_status do_ord(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0);
  if (str_eq(c->name, "ord")) {
    if (!s) return KILN_OK;
    *handled = true;
    *out = of_int((unsigned char)*s);
    return KILN_OK;
  }
  int64_t i;
  *handled = true;
  KILN_TRY(interp_arg_int(it, c, 0, "i", 0, &i));
  if (i < 1 || i > 127) return IT_FAIL(it, KILN_UNSUPPORTED, "chr(%lld)", (long long)i);
  const char one[2] = {(char)i, 0};
  return slice_of(it, one, 1, out);
}

/* ---- searching -------------------------------------------------------------------------------------------------- */

static int64_t find_in(const char *s, int64_t n, const char *part, int64_t from, int64_t to, bool last) {
  const int64_t m = (int64_t)strlen(part);
  int64_t found = -1;
  if (to > n) to = n;
  for (int64_t i = from < 0 ? 0 : from; i + m <= to; i++) {
    if (memcmp(s + i, part, (size_t)m) != 0) continue;
    found = i;
    if (!last) break;
  }
  return found;
}

static kiln_status do_find(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0), *part = string_arg(c, 1);
  int64_t from, to;
  if (!s || !part) return KILN_OK;
  const int64_t n = (int64_t)strlen(s);
  *handled = true;
  KILN_TRY(interp_arg_int(it, c, 2, "start", 0, &from));
  KILN_TRY(interp_arg_int(it, c, 3, "end", INT64_MAX, &to));
  if (from < 0) from += n;
  if (to < 0) to += n;
  if (str_eq(c->name, "count")) {
    int64_t found = 0, at;
    const int64_t m = (int64_t)strlen(part);
    while (m && (at = find_in(s, n, part, from, to, false)) >= 0) {
      found++;
      from = at + m;
    }
    *out = of_int(m ? found : n + 1);
    return KILN_OK;
  }
  const int64_t at = find_in(s, n, part, from, to, c->name[0] == 'r');
  if (at < 0 && strstr(c->name, "index")) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "substring not found");
  *out = of_int(at);
  return KILN_OK;
}

static kiln_status do_ends(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  (void)it;
  const char *s = string_arg(c, 0), *part = string_arg(c, 1);
  if (!s || !part || c->n != 2) return KILN_OK;
  *handled = true;
  *out = of_bool(str_eq(c->name, "startswith") ? str_starts(s, part) : str_ends(s, part));
  return KILN_OK;
}

static kiln_status do_replace(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0), *old = string_arg(c, 1), *by = string_arg(c, 2);
  int64_t max;
  text t = {0};
  if (!s || !old || !by) return KILN_OK;
  *handled = true;
  KILN_TRY(interp_arg_int(it, c, 3, "max", -1, &max));
  while (*s && *old && max-- != 0 && t.length <= TS_MAX_STRING) {
    const char *at = strstr(s, old);
    if (!at) break;
    text_append(&t, s, (size_t)(at - s));
    text_puts(&t, by);
    s = at + strlen(old);
  }
  text_puts(&t, s);
  return interp_text_value(it, &t, out);
}

static kiln_status do_justify(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0), *fill = string_arg(c, 2);
  int64_t width;
  text t = {0};
  if (!s) return KILN_OK;
  const bool zeros = str_eq(c->name, "zfill");
  *handled = true;
  KILN_TRY(interp_arg_int(it, c, 1, "width", 0, &width));
  const int64_t n = (int64_t)strlen(s), room = width > n ? width - n : 0;
  if (room > TS_MAX_STRING) return IT_FAIL(it, KILN_UNSUPPORTED, "a string of more than %d bytes", TS_MAX_STRING);
  const bool left = str_eq(c->name, "ljust"), center = str_eq(c->name, "center");
  const int64_t before = left ? 0 : center ? (room + (room & width & 1)) / 2 : room;
  const char with = zeros ? '0' : fill && *fill ? *fill : ' ';
  if (zeros && (*s == '-' || *s == '+')) text_putc(&t, *s++);
  for (int64_t i = 0; i < before; i++) text_putc(&t, with);
  text_puts(&t, s);
  for (int64_t i = before; i < room; i++) text_putc(&t, with);
  return interp_text_value(it, &t, out);
}

static kiln_status do_partition(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *s = string_arg(c, 0), *by = string_arg(c, 1);
  if (!s || !by) return KILN_OK;
  const bool last = c->name[0] == 'r';
  const int64_t n = (int64_t)strlen(s), at = *by ? find_in(s, n, by, 0, n, last) : -1;
  ts_value parts[3] = {of_string(last ? "" : s), of_string(""), of_string(last ? s : "")};
  *handled = true;
  if (at >= 0) {
    KILN_TRY(slice_of(it, s, (size_t)at, &parts[0]));
    parts[1] = of_string(by);
    parts[2] = of_string(s + at + strlen(by));
  }
  return interp_list_new(it, TSV_TUPLE, 3, parts, out);
}

const ts_builtin ts_builtins_string[] = {{"format", do_format},
                                         {"percentFormat", do_percent_format},
                                         {"str", do_str},
                                         {"int", do_parse},
                                         {"float", do_parse},
                                         {"add", do_add},
                                         {"mul", do_mul},
                                         {"__getitem__", do_getitem},
                                         {"slice", do_slice},
                                         {"len", do_len},
                                         {"__contains__", do_contains},
                                         {"join", do_join},
                                         {"split", do_split},
                                         {"splitlines", do_split},
                                         {"strip", do_strip},
                                         {"lstrip", do_strip},
                                         {"rstrip", do_strip},
                                         {"upper", do_case},
                                         {"lower", do_case},
                                         {"swapcase", do_case},
                                         {"title", do_case},
                                         {"capitalize", do_case},
                                         {"isdigit", do_is},
                                         {"isdecimal", do_is},
                                         {"isnumeric", do_is},
                                         {"isspace", do_is},
                                         {"isalpha", do_is},
                                         {"isalnum", do_is},
                                         {"islower", do_is},
                                         {"isupper", do_is},
                                         {"ord", do_ord},
                                         {"chr", do_ord},
                                         {"find", do_find},
                                         {"rfind", do_find},
                                         {"index", do_find},
                                         {"rindex", do_find},
                                         {"count", do_find},
                                         {"startswith", do_ends},
                                         {"endswith", do_ends},
                                         {"replace", do_replace},
                                         {"zfill", do_justify},
                                         {"ljust", do_justify},
                                         {"rjust", do_justify},
                                         {"center", do_justify},
                                         {"partition", do_partition},
                                         {"rpartition", do_partition},
                                         {NULL, NULL}};
