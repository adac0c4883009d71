/* Conditions on sizes in .pt2 files (guards_code): torch.export follows one branch where Python code compares sizes, and writes down which
 * sizes that is right for, as text:
 *
 *   math.trunc(1.5*torch.sym_float(L['x'].size()[1])) == 12
 *
 * Most are no choice of the model but of PyTorch's own checks (whether a tensor would be contiguous), which change no result; PyTorch refuses
 * such sizes, Kiln need not. The Python package, which knows where each was asked, writes "True" in front of those of the model alone.
 * Of other files' the forms that such checks give are left out. */
#include <ctype.h>
#include <string.h>

#include "graph/size_guards.h"
#include "import/export_internal.h"

/* L['args'][0] -> args_0, as torch.export names placeholders. False: something else. */
static bool input_name(const char **at, char *out, size_t room) {
  const char *s = *at + 1;
  size_t n = 0;
  while (*s == '[') {
    const char quote = s[1] == '\'' || s[1] == '"' ? s[1] : 0, *key = s + 1 + (quote != 0);
    const char *end = strchr(key, quote ? quote : ']');
    if (!end || (quote && end[1] != ']') || n + (size_t)(end - key) + 2 > room) return false;
    if (n) out[n++] = '_';
    for (; key < end; key++) {
      if (isalnum((unsigned char)*key))
        out[n++] = (char)tolower((unsigned char)*key);
      else if (n && out[n - 1] != '_')
        out[n++] = '_';
    }
    s = end + 1 + (quote != 0);
  }
  out[n] = 0;
  *at = s;
  return n > 0;
}

static int32_t find_input(const graph *g, const char *name) {
  for (int32_t i = 0; i < g->n_inputs; i++) {
    const char *p = g->input_names[i];
    size_t k = 0;
    while (p && p[k] && tolower((unsigned char)p[k]) == name[k]) k++;
    if (p && !p[k] && !name[k]) return i;
  }
  return -1;
}

static bool convert_size(const graph *g, const char **at, text *out) {
  char name[256];
  int d = 0, used = 0;
  if (!input_name(at, name, sizeof name)) return false;
  const int32_t i = find_input(g, name);
  if (i < 0 || (sscanf(*at, ".size()[%d]%n", &d, &used) != 1 && sscanf(*at, ".shape[%d]%n", &d, &used) != 1) || !used)
    return false;
  text_printf(out, "[%d.%d]", (int)i, d);
  *at += used;
  return true;
}

/* In the words of size_guards.h. False: of something else than sizes. */
static bool convert(const graph *g, const char *guard, text *out) {
  static const char *const prefixes[] = {"math.", "torch._sym_", "torch.sym_", "torch."};
  for (const char *s = guard; *s;) {
    size_t k = 0;
    while (k < KILN_COUNT(prefixes) && !str_starts(s, prefixes[k])) k++;
    if (k < KILN_COUNT(prefixes)) {
      s += strlen(prefixes[k]);
    } else if (s[0] == 'L' && s[1] == '[') {
      if (!convert_size(g, &s, out)) return false;
    } else if (*s == '\n') {
      return false;
    } else {
      text_putc(out, *s++);
    }
  }
  return true;
}

static bool is_plain(const char *s) { return !strpbrk(s, "*/%+-("); }

/* [0.1] % 4 != 0, or padding that is more than nothing. */
static bool is_of_remainder(const char *s) {
  return strchr(s, '%') && (str_ends(s, " != 0") || str_ends(s, " > 0") || str_ends(s, " >= 1") ||
                            str_starts(s, "0 < ") || str_starts(s, "1 <= "));
}

/* Whether sizes that do not meet this may give another result. Code that compares sizes has a general branch and shortcuts, such as not
 * padding what needs no padding, or not resizing to the size that is there. Of sizes that are right for a shortcut the general branch, which
 * asked for `!=` or for a remainder, is right too. Where two sizes, or a size and a number, are compared as they are, nobody knows. */
static bool matters(const char *guard) {
  if (strstr(guard, " == ")) return true;
  return strstr(guard, " != ") ? is_plain(guard) : !is_of_remainder(guard);
}

/* Products by more than a sign. */
static bool multiplies(const char *s) {
  for (const char *at = strchr(s, '*'); at; at = strchr(at + 1, '*'))
    if (at - s < 4 || strncmp(at - 4, "(-1)", 4) != 0) return true;
  return false;
}

/* Whether it may be of the model's own code, see above. */
static bool may_be_own(const char *guard) {
  if (strstr(guard, "max(") || strstr(guard, "min(") || strstr(guard, " and ") || strstr(guard, " or ")) return false;
  if (strstr(guard, " == ")) return true;
  const char *differ = strstr(guard, " != "), *first = strchr(guard, '[');
  if (differ) return is_plain(guard) && first && first < differ && strchr(differ, '[');
  const bool of_one = str_ends(guard, " > 1") || str_ends(guard, " >= 2") || str_ends(guard, " > 0") ||
                      str_starts(guard, "1 < ") || str_starts(guard, "2 <= ");
  return !multiplies(guard) && (is_plain(guard) || !of_one);
}

kiln_status pt2_size_guards(pt2 *p, const json_t *program) {
  const json_t *guards = json_object_get(program, "guards_code");
  text lines = {0};
  bool known = false;
  for (size_t i = 0; i < json_array_size(guards) && !lines.failed; i++) {
    const char *guard = json_string_value(json_array_get(guards, i));
    text t = {0};
    if (guard && i == 0 && str_eq(guard, "True"))
      known = true;
    else if (guard && convert(p->graph, guard, &t) && t.data && (known || may_be_own(t.data)) && matters(t.data) &&
             size_guard_readable(p->graph, t.data, t.length)) /* else with functions that are not known */
      text_printf(&lines, "%s%s", lines.length ? "\n" : "", t.data);
    lines.failed = lines.failed || t.failed;
    text_free(&t);
  }
  kiln_status status = lines.failed ? KILN_NO_MEMORY("import") : KILN_OK;
  if (status == KILN_OK && lines.data) status = graph_set_metadata(p->graph, SIZE_GUARDS_KEY, lines.data);
  text_free(&lines);
  return status;
}
