/* Parses conformance cases and fills operands. */
#include "case.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "ops/ref.h"

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

uint64_t random_next(uint64_t *state) { /* splitmix64 */
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

double random_uniform(uint64_t *state) { return (double)(random_next(state) >> 11) * 0x1p-53; }

static double random_normal(uint64_t *state) {
  const double u = 1 - random_uniform(state), v = random_uniform(state);
  return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static double generate(const case_operand *spec, uint64_t *state) {
  static const double specials[] = {NAN, INFINITY, -INFINITY, -0.0, 0.0};
  switch (spec->generator) {
    case GEN_SPECIAL: {
      const uint64_t pick = random_next(state) % 10;
      return pick < KILN_COUNT(specials) ? specials[pick] : random_normal(state);
    }
    case GEN_RANGE:
      return spec->low + (double)(random_next(state) % (uint64_t)(spec->high - spec->low + 1));
    case GEN_UNIFORM:
      return spec->low + (spec->high - spec->low) * random_uniform(state);
    case GEN_POSITIVE:
      return fabs(random_normal(state)) + 0.05;
    case GEN_BOOL:
      return (double)(random_next(state) & 1);
    default:
      return random_normal(state);
  }
}

void tensor_generate(const case_operand *spec, uint64_t seed, const tensor *t) {
  uint64_t state = seed;
  for (ref_iter it = ref_begin(t->rank, t->shape); ref_valid(&it); ref_next(&it)) {
    ref_store(t, tensor_offset(t, it.index), generate(spec, &state));
  }
}

bool tensor_allocate(tensor *t, bool strided) {
  size_t count = 1, bytes;
  tensor_make_contiguous_strides(t);
  for (int i = 0; i < t->rank; i++) {
    if (strided) t->strides[i] = (int64_t)count * (i == 0 ? 2 : 1);
    count *= (size_t)(t->shape[i] > 0 ? t->shape[i] : 1) * (strided && i == 0 ? 2 : 1);
  }
  if (!size_mul(count, kiln_dtype_size(t->dtype), &bytes)) return false;
  t->data = mem_alloc_aligned(bytes);
  if (t->data) memset(t->data, 0x5a, bytes);
  return t->data != NULL;
}

void tensor_copy(const tensor *from, const tensor *to) {
  for (ref_iter it = ref_begin(to->rank, to->shape); ref_valid(&it); ref_next(&it)) {
    ref_copy_element(from, tensor_offset(from, it.index), to, tensor_offset(to, it.index));
  }
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

static bool is_size_list(const char *word) {
  return isupper((unsigned char)word[0]) && word[1] == ':' && isdigit((unsigned char)word[2]);
}
static bool is_word_char(char ch) { return isalnum((unsigned char)ch) || ch == '_' || ch == '"'; }

/* `text` without its size list for `letter`, and with `value` in place of that letter. */
static void substitute(const char *source, const char *list, char letter, const char *size, int size_length, char *out,
                       size_t room) {
  size_t n = 0;
  for (const char *s = source; *s && n + 24 < room; s++) {
    if (s == list) {
      while (s[1] && s[1] != ' ') s++;
      continue;
    }
    const bool alone = *s == letter && (s == source || !is_word_char(s[-1])) && !is_word_char(s[1]);
    if (alone) {
      n += (size_t)snprintf(out + n, room - n, "%.*s", size_length, size);
    } else {
      out[n++] = *s;
    }
  }
  out[n] = 0;
}

static bool parse_list(const char *s, attr_kind kind, int64_t *ints, double *floats, int *count) {
  *count = 0;
  if (*s++ != '[') return false;
  while (*s && *s != ']') {
    char *end;
    if (*count == CASE_LIST) return false;
    if (kind == ATTR_INTS) {
      ints[*count] = strtoll(s, &end, 10);
    } else {
      floats[*count] = strtod(s, &end);
    }
    if (end == s) return false;
    (*count)++;
    s = *end == ',' ? end + 1 : end;
  }
  return *s == ']';
}

static bool parse_dtype(const char *s, size_t length, kiln_dtype *out) {
  for (int d = 0; d < KILN_DTYPE_COUNT; d++) {
    const char *name = kiln_dtype_name((kiln_dtype)d);
    if (strlen(name) == length && memcmp(name, s, length) == 0) {
      *out = (kiln_dtype)d;
      return true;
    }
  }
  return false;
}

static bool parse_generator(const char *s, case_operand *o) {
  static const struct {
    const char *name;
    generator g;
  } names[] = {{"inf", GEN_SPECIAL},
               {"range", GEN_RANGE},
               {"uniform", GEN_UNIFORM},
               {"positive", GEN_POSITIVE},
               {"bool", GEN_BOOL}};
  if (!*s) return true;
  if (*s++ != '=') return false;
  for (size_t i = 0; i < KILN_COUNT(names); i++) {
    const size_t n = strlen(names[i].name);
    if (strncmp(s, names[i].name, n) != 0) continue;
    o->generator = names[i].g;
    if (names[i].g != GEN_RANGE && names[i].g != GEN_UNIFORM) return s[n] == 0;
    return sscanf(s + n, "(%lf,%lf)", &o->low, &o->high) == 2;
  }
  return false;
}

/* x:f32[2,3]=range(0,4) */
static bool parse_operand(const char *word, case_operand *o) {
  const char *colon = strchr(word, ':'), *bracket = colon ? strchr(colon, '[') : NULL,
             *close = bracket ? strchr(bracket, ']') : NULL;
  int count;
  double floats[CASE_LIST];
  int64_t shape[CASE_LIST];
  memset(o, 0, sizeof *o);
  if (!close || (size_t)(colon - word) >= sizeof o->name) return false;
  memcpy(o->name, word, (size_t)(colon - word));
  if (!parse_dtype(colon + 1, (size_t)(bracket - colon - 1), &o->t.dtype)) return false;
  if (!parse_list(bracket, ATTR_INTS, shape, floats, &count) || count > KILN_MAX_RANK) return false;
  o->t.rank = count;
  for (int i = 0; i < count; i++) o->t.shape[i] = shape[i];
  return parse_generator(close + 1, o);
}

static bool parse_attr(const op *o, const char *word, test_case *c) {
  const char *equals = strchr(word, '=');
  if (!equals || c->n_attrs == CASE_ATTRS) return false;
  const op_schema *schema = op_schema_of(o);
  const char *source = equals + 1;
  const int k = c->n_attrs;
  for (int i = 0; i < schema->n_attrs; i++) {
    const op_attr *a = &schema->attrs[i];
    if (strlen(a->name) != (size_t)(equals - word) || strncmp(a->name, word, strlen(a->name)) != 0) continue;
    attr *v = &c->attrs[k].value;
    char *end = NULL;
    c->attrs[k].name = a->name;
    *v = (attr){.kind = a->kind};
    kiln_dtype dtype;
    switch (a->kind) {
      case ATTR_INT:
      case ATTR_BOOL:
        v->u.i = strtoll(source, &end, 10);
        break;
      case ATTR_FLOAT:
        v->u.f = strtod(source, &end);
        break;
      case ATTR_DTYPE:
        if (!parse_dtype(source, strlen(source), &dtype)) return false;
        v->u.i = dtype;
        break;
      case ATTR_STR:
        if (source[0] != '"' || strlen(source) < 2 || strlen(source) - 2 >= sizeof c->strings[k]) return false;
        memcpy(c->strings[k], source + 1, strlen(source) - 2);
        v->u.s = c->strings[k];
        break;
      default:
        if (!parse_list(source, a->kind, c->ints[k], c->floats[k], &v->count)) return false;
        if (a->kind == ATTR_INTS) v->u.ints = c->ints[k];
        if (a->kind == ATTR_FLOATS) v->u.floats = c->floats[k];
    }
    if (end && (end == source || *end)) return false;
    c->n_attrs++;
    return true;
  }
  return false;
}

/* Orders the operands as the signature does; absent optional ones become rank -1. */
static bool place_operands(const op *o, const case_operand *given, int n, test_case *c) {
  const op_schema *schema = op_schema_of(o);
  int used = 0;
  c->n_operands = 0;
  for (int i = 0; i < schema->n_in; i++) {
    int found = 0;
    for (int k = 0; k < n; k++) {
      if (strcmp(given[k].name, schema->in[i].name) != 0 || c->n_operands == CASE_OPERANDS) continue;
      c->operands[c->n_operands++] = given[k];
      found++;
    }
    used += found;
    if (found > 1 && !schema->in[i].variadic) return false;
    if (found == 0 && !schema->in[i].variadic) {
      if (!schema->in[i].optional) return false;
      c->operands[c->n_operands++].t.rank = -1;
    }
  }
  while (c->n_operands > 0 && c->operands[c->n_operands - 1].t.rank < 0) c->n_operands--;
  return used == n;
}

static bool parse_case(const op *o, const char *source, test_case *c) {
  case_operand given[CASE_OPERANDS];
  char copy[512];
  int n = 0;
  memset(c, 0, sizeof *c);
  snprintf(c->text, sizeof c->text, "%s", source);
  snprintf(copy, sizeof copy, "%s", source);
  char *save = NULL;
  for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
    const char *colon = strchr(word, ':'), *equals = strchr(word, '=');
    if (colon && (!equals || colon < equals)) {
      if (n == CASE_OPERANDS || !parse_operand(word, &given[n++])) return false;
    } else if (!parse_attr(o, word, c)) {
      return false;
    }
  }
  return place_operands(o, given, n, c);
}

int case_each(const op *o, const char *source, case_fn fn, void *user) {
  const char *list = NULL;
  for (const char *s = source; *s; s++) {
    if ((s == source || s[-1] == ' ') && is_size_list(s)) list = s;
  }
  if (list) {
    int bad = 0;
    for (const char *s = list + 2; isdigit((unsigned char)*s);) {
      char with_size[512];
      int length = 0;
      while (isdigit((unsigned char)s[length])) length++;
      substitute(source, list, list[0], s, length, with_size, sizeof with_size);
      bad += case_each(o, with_size, fn, user);
      s += length + (s[length] == ',');
    }
    return bad;
  }
  test_case *c = malloc(sizeof *c);
  if (!c || !parse_case(o, source, c)) {
    fprintf(stderr, "FAIL %s: this case does not parse: %s\n", o->name, source);
    free(c);
    return 1;
  }
  fn(user, c);
  free(c);
  return 0;
}
