/* Rewrite rules as texts: one node a line, `%y = op(%x, 0.5, none) {attribute=value}`. The last line of a pattern is its root; matching
 * walks from there against the data flow, with a set of bindings (values for names, attributes for $names) that is copied where a
 * commutative operator offers two ways. Parsed rules are immutable and never freed, so that a build may use one while it is replaced. */
#include "passes/custom_rules.h"

#include <ctype.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "ops/custom.h"
#include "passes/match.h"

enum { MAX_LINES = 32, MAX_OPERANDS = 16, MAX_NAMES = 64, MAX_SET = 24, MAX_LIST = 16 };

typedef enum operand_kind { OPERAND_NAME, OPERAND_NUMBER, OPERAND_NONE } operand_kind;
typedef struct operand {
  operand_kind kind;
  int name; /* index into rule_text.names */
  bool constant;
  double number;
  bool integer; /* written without a point */
} operand;

typedef struct setting { /* one attribute */
  int attribute;         /* index in the schema */
  int variable;          /* -1: `value` */
  attr value;
} setting;

typedef struct line {
  const op *op;
  int results[CUSTOM_MAX_RESULTS], n_results; /* names */
  operand operands[MAX_OPERANDS];
  int n_operands;
  setting settings[MAX_SET];
  int n_settings;
} line;

typedef struct side { /* pattern or replacement */
  line lines[MAX_LINES];
  int n;
} side;

typedef struct text_rule {
  const char *name;
  side pattern, replacement;
  const char *names[MAX_NAMES], *variables[MAX_NAMES];
  int n_names, n_variables;
  int line_of[MAX_NAMES], result_of[MAX_NAMES]; /* where a pattern's name is made; -1: it matches anything */
  bool removed;
  struct text_rule *next;
} text_rule;

static struct {
  pthread_mutex_t lock;
  arena arena;
  text_rule *first;
} rules = {.lock = PTHREAD_MUTEX_INITIALIZER};
static _Thread_local const char *last_applied;

const char *custom_rule_last(void) { return last_applied ? last_applied : ""; }

/* ---- reading ---------------------------------------------------------------------------------------------------- */

typedef struct rule_reader {
  text_rule *rule;
  const char *start, *at;
  const char *what; /* "pattern" */
  bool is_pattern;
  bool known[MAX_NAMES]; /* names that a replacement's operands may be */
} rule_reader;

static kiln_status expected(const rule_reader *r, const char *what) {
  int row = 1;
  for (const char *c = r->start; c < r->at; c++) row += *c == '\n';
  return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s, line %d, at \"%.20s\": expected %s", r->what, row, r->at, what);
}

static void spaces(rule_reader *r) {
  while (*r->at == ' ' || *r->at == '\t' || *r->at == '\r') r->at++;
}

static bool take(rule_reader *r, char c) {
  spaces(r);
  if (*r->at != c) return false;
  r->at++;
  return true;
}

static bool take_word(rule_reader *r, const char *word) {
  spaces(r);
  const size_t n = strlen(word);
  if (strncmp(r->at, word, n) != 0 || isalnum((unsigned char)r->at[n]) || r->at[n] == '_' || r->at[n] == '.')
    return false;
  r->at += n;
  return true;
}

static size_t word_length(const char *s) {
  size_t n = 0;
  while (isalnum((unsigned char)s[n]) || s[n] == '_' || s[n] == '.') n++;
  return n;
}

/* The index of a name in a list, added if it is new; -1: no room or no memory. */
static int intern(const char **list, int *count, const char *s, size_t length) {
  for (int i = 0; i < *count; i++)
    if (strlen(list[i]) == length && memcmp(list[i], s, length) == 0) return i;
  if (*count == MAX_NAMES) return -1;
  list[*count] = arena_strndup(&rules.arena, s, length);
  return list[*count] ? (*count)++ : -1;
}

static kiln_status read_name(rule_reader *r, int *out) {
  const size_t n = word_length(r->at);
  if (n == 0) return expected(r, "a name behind %");
  *out = intern(r->rule->names, &r->rule->n_names, r->at, n);
  if (*out < 0) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: more than %d names", r->what, MAX_NAMES);
  r->at += n;
  return KILN_OK;
}

static kiln_status read_operand(rule_reader *r, operand *out) {
  *out = (operand){.kind = OPERAND_NONE};
  if (take_word(r, "none")) return KILN_OK;
  out->constant = take_word(r, "const");
  if (take(r, '%')) {
    out->kind = OPERAND_NAME;
    KILN_TRY(read_name(r, &out->name));
    if (!r->is_pattern && !r->known[out->name])
      return expected(r, "a value of the pattern (not its result), or of a line above");
    return KILN_OK;
  }
  char *end = NULL;
  out->kind = OPERAND_NUMBER;
  out->number = strtod(r->at, &end);
  if (end == r->at || out->constant) return expected(r, "%name, a number or none");
  out->integer = strcspn(r->at, ".eEnN") >= (size_t)(end - r->at);
  r->at = end;
  return KILN_OK;
}

/* One attribute's value, of the kind that the schema asks for. */
static kiln_status read_number(rule_reader *r, bool real, int64_t *out_int, double *out_float) {
  char *end = NULL;
  spaces(r);
  if (real)
    *out_float = strtod(r->at, &end);
  else
    *out_int = strtoll(r->at, &end, 10);
  if (end == r->at) return expected(r, "a number");
  r->at = end;
  return KILN_OK;
}

static kiln_status read_list(rule_reader *r, attr *out) {
  int64_t ints[MAX_LIST];
  double floats[MAX_LIST];
  const bool real = out->kind == ATTR_FLOATS;
  if (!take(r, '[')) return expected(r, "[");
  while (!take(r, ']')) {
    if (out->count == MAX_LIST) return expected(r, "a shorter list");
    if (out->count && !take(r, ',')) return expected(r, ", or ]");
    KILN_TRY(read_number(r, real, &ints[out->count], &floats[out->count]));
    out->count++;
  }
  const size_t bytes = ((size_t)out->count + 1) * 8;
  void *kept = arena_alloc(&rules.arena, bytes);
  if (!kept) return KILN_NO_MEMORY("rule");
  if (out->count) memcpy(kept, real ? (const void *)floats : (const void *)ints, (size_t)out->count * 8);
  if (real)
    out->u.floats = kept;
  else
    out->u.ints = kept;
  return KILN_OK;
}

static kiln_status read_value(rule_reader *r, attr_kind kind, attr *out) {
  *out = (attr){.kind = kind};
  spaces(r);
  switch (kind) {
    case ATTR_BOOL:
      out->u.i = take_word(r, "true");
      return out->u.i || take_word(r, "false") ? KILN_OK : expected(r, "true or false");
    case ATTR_INT:
      return read_number(r, false, &out->u.i, NULL);
    case ATTR_FLOAT:
      return read_number(r, true, NULL, &out->u.f);
    case ATTR_STR: {
      const char *end = *r->at == '"' ? strchr(r->at + 1, '"') : NULL;
      if (!end) return expected(r, "a text in quotes");
      out->u.s = arena_strndup(&rules.arena, r->at + 1, (size_t)(end - r->at - 1));
      r->at = end + 1;
      return out->u.s ? KILN_OK : KILN_NO_MEMORY("rule");
    }
    case ATTR_DTYPE:
      for (int d = 0; d < KILN_DTYPE_COUNT; d++) {
        if (!take_word(r, kiln_dtype_name((kiln_dtype)d))) continue;
        out->u.i = d;
        return KILN_OK;
      }
      return expected(r, "an element type");
    case ATTR_INTS:
    case ATTR_FLOATS:
      return read_list(r, out);
    default:
      return expected(r, "a value");
  }
}

static kiln_status read_setting(rule_reader *r, line *l) {
  char name[64];
  spaces(r);
  const size_t n = word_length(r->at);
  if (n == 0 || n >= sizeof name) return expected(r, "an attribute");
  memcpy(name, r->at, n);
  name[n] = 0;
  setting *s = &l->settings[l->n_settings];
  s->attribute = op_attr_index(l->op, name);
  if (s->attribute < 0) return expected(r, "an attribute of this operator");
  if (l->n_settings++ == MAX_SET - 1) return expected(r, "fewer attributes");
  r->at += n;
  if (!take(r, '=')) return expected(r, "=");
  s->variable = -1;
  if (!take(r, '$')) return read_value(r, op_schema_of(l->op)->attrs[s->attribute].kind, &s->value);
  const int known = r->rule->n_variables;
  const size_t length = word_length(r->at);
  s->variable = length ? intern(r->rule->variables, &r->rule->n_variables, r->at, length) : -1;
  if (s->variable < 0 || (!r->is_pattern && s->variable >= known))
    return expected(r, "a name that the pattern has behind $");
  r->at += length;
  return KILN_OK;
}

static kiln_status read_op(rule_reader *r, line *l) {
  char name[120];
  spaces(r);
  const size_t n = word_length(r->at);
  if (n == 0 || n >= sizeof name) return expected(r, "an operator");
  memcpy(name, r->at, n);
  name[n] = 0;
  l->op = op_find(name);
  if (!l->op || (l->op->flags & OP_CONTROL_FLOW))
    return expected(r, "an operator (`kiln ops` lists them; custom ones: mine.scale)");
  r->at += n;
  return KILN_OK;
}

/* Every attribute has a value: a default, or one that the line gives. */
static kiln_status check_line(const rule_reader *r, const line *l) {
  const op_schema *s = op_schema_of(l->op);
  const bool variadic = s->n_in && s->in[s->n_in - 1].variadic;
  if (l->n_operands > s->n_in && !variadic) return expected(r, "fewer operands");
  for (int i = l->n_operands; i < s->n_in; i++)
    if (!s->in[i].optional) return expected(r, "more operands");
  if (l->n_results != s->n_out)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: `%s` has %d results", r->what, l->op->name, s->n_out);
  for (int i = 0; i < s->n_attrs; i++) {
    bool given = s->attrs[i].has_default || s->attrs[i].optional;
    for (int k = 0; k < l->n_settings; k++) given |= l->settings[k].attribute == i;
    if (!given)
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: `%s`: attribute `%s` has no default and must be named: {%s=$any}",
                       r->what, l->op->name, s->attrs[i].name, s->attrs[i].name);
  }
  return KILN_OK;
}

static kiln_status read_line(rule_reader *r, line *l) {
  *l = (line){0};
  do {
    if (!take(r, '%')) return expected(r, "%name");
    if (l->n_results == CUSTOM_MAX_RESULTS) return expected(r, "fewer results");
    KILN_TRY(read_name(r, &l->results[l->n_results++]));
  } while (take(r, ','));
  if (!take(r, '=')) return expected(r, "=");
  KILN_TRY(read_op(r, l));
  if (!take(r, '(')) return expected(r, "(");
  while (!take(r, ')')) {
    if (l->n_operands == MAX_OPERANDS) return expected(r, "fewer operands");
    if (l->n_operands && !take(r, ',')) return expected(r, ", or )");
    KILN_TRY(read_operand(r, &l->operands[l->n_operands++]));
  }
  if (take(r, '{')) {
    while (!take(r, '}')) {
      if (l->n_settings && !take(r, ',')) return expected(r, ", or }");
      KILN_TRY(read_setting(r, l));
    }
  }
  spaces(r);
  if (*r->at && *r->at != '\n' && *r->at != '#') return expected(r, "the end of the line");
  return check_line(r, l);
}

static kiln_status read_side(rule_reader *r, side *out) {
  for (;;) {
    spaces(r);
    if (*r->at == '#')
      while (*r->at && *r->at != '\n') r->at++;
    if (*r->at == '\n') {
      r->at++;
      continue;
    }
    if (!*r->at) break;
    if (out->n == MAX_LINES) return expected(r, "fewer lines");
    line *l = &out->lines[out->n];
    KILN_TRY(read_line(r, l));
    for (int i = 0; !r->is_pattern && i < l->n_results; i++) r->known[l->results[i]] = true;
    for (int i = 0; r->is_pattern && i < l->n_results; i++) {
      if (r->rule->line_of[l->results[i]] >= 0)
        return KILN_FAIL(KILN_INVALID_ARGUMENT, "pattern: a name is defined twice");
      r->rule->line_of[l->results[i]] = out->n;
      r->rule->result_of[l->results[i]] = i;
    }
    out->n++;
  }
  return out->n ? KILN_OK : KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: it is empty", r->what);
}

/* Names must be made before they are used, and all lines lead to the root. */
static kiln_status check_pattern(const text_rule *t) {
  bool used[MAX_LINES] = {false};
  used[t->pattern.n - 1] = true;
  for (int i = t->pattern.n - 1; i >= 0; i--) {
    const line *l = &t->pattern.lines[i];
    if (!used[i]) return KILN_FAIL(KILN_INVALID_ARGUMENT, "pattern: line %d does not lead to the last one", i + 1);
    for (int k = 0; k < l->n_operands; k++) {
      const int made = l->operands[k].kind == OPERAND_NAME ? t->line_of[l->operands[k].name] : -1;
      if (made >= i)
        return KILN_FAIL(KILN_INVALID_ARGUMENT, "pattern: %%%s is used before it is made",
                         t->names[l->operands[k].name]);
      if (made >= 0) used[made] = true;
    }
  }
  if (t->replacement.lines[t->replacement.n - 1].n_results != t->pattern.lines[t->pattern.n - 1].n_results)
    return KILN_FAIL(KILN_INVALID_ARGUMENT,
                     "the last lines of pattern and replacement have different numbers of results");
  return KILN_OK;
}

static kiln_status read_rule(const kiln_rule_def *def, text_rule **out) {
  text_rule *t = ARENA_NEW(&rules.arena, text_rule);
  if (!t || !(t->name = arena_strdup(&rules.arena, def->name))) return KILN_NO_MEMORY("rule");
  for (int i = 0; i < MAX_NAMES; i++) t->line_of[i] = -1;
  t->removed = !def->replacement;
  *out = t;
  if (t->removed) return KILN_OK;
  if (!def->pattern) return KILN_FAIL(KILN_INVALID_ARGUMENT, "the pattern is NULL");
  rule_reader r = {.rule = t, .start = def->pattern, .at = def->pattern, .what = "pattern", .is_pattern = true};
  KILN_TRY(read_side(&r, &t->pattern));
  r = (rule_reader){.rule = t, .start = def->replacement, .at = def->replacement, .what = "replacement"};
  const line *root = &t->pattern.lines[t->pattern.n - 1];
  for (int i = 0; i < t->n_names; i++) r.known[i] = true;
  for (int i = 0; i < root->n_results; i++) r.known[root->results[i]] = false;
  KILN_TRY(read_side(&r, &t->replacement));
  return check_pattern(t);
}

/* ---- registering ------------------------------------------------------------------------------------------------ */

/* A rule of this name gives way; others keep their places. */
static void put(text_rule *t) {
  text_rule **at = &rules.first;
  while (*at && strcmp((*at)->name, t->name) != 0) at = &(*at)->next;
  t->next = *at ? (*at)->next : NULL;
  __atomic_store_n(at, t, __ATOMIC_RELEASE);
}

kiln_status custom_rule_register(const kiln_rule_def *def) {
  text_rule *t = NULL;
  if (!def || def->struct_size != sizeof *def)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "rule: struct_size is %zu, expected %zu", def ? def->struct_size : 0,
                     sizeof *def);
  if (!def->name || !*def->name) return KILN_FAIL(KILN_INVALID_ARGUMENT, "rule: it has no name");
  KILN_TRY(ops_init());
  pthread_mutex_lock(&rules.lock);
  const kiln_status status = read_rule(def, &t);
  if (status == KILN_OK) put(t);
  rules.arena.failed = false; /* memory may come back */
  pthread_mutex_unlock(&rules.lock);
  return status == KILN_OK ? KILN_OK
                           : error_note(status, __FILE__, __LINE__, "registering rewrite rule \"%.80s\"", def->name);
}

/* ---- matching --------------------------------------------------------------------------------------------------- */

typedef struct bindings {
  value *values[MAX_NAMES];
  const attr *variables[MAX_NAMES];
} bindings;

typedef struct matcher {
  const text_rule *rule;
  const node *nodes[MAX_LINES]; /* by line of the pattern */
  bindings b;
} matcher;

static bool match_line(matcher *m, int at, const node *n);

static bool match_operand(matcher *m, const operand *o, value *v) {
  double number = 0;
  if (o->kind == OPERAND_NONE) return !v;
  if (!v || (o->constant && !v->constant)) return false;
  if (o->kind == OPERAND_NUMBER)
    return scalar_constant(v, &number) && fabs(number - o->number) <= 1e-6 * fabs(o->number);
  const int made = m->rule->line_of[o->name];
  if (m->b.values[o->name]) return m->b.values[o->name] == v;
  if (made >= 0 && (!v->producer || v->index != m->rule->result_of[o->name] || !match_line(m, made, v->producer)))
    return false;
  m->b.values[o->name] = v;
  return true;
}

static bool match_operands(matcher *m, const line *l, const node *n, bool swapped) {
  for (int i = 0; i < l->n_operands; i++) {
    const int k = swapped && i < 2 ? 1 - i : i;
    if (k >= n->n_inputs ? l->operands[i].kind != OPERAND_NONE : !match_operand(m, &l->operands[i], n->inputs[k].v))
      return false;
  }
  for (int i = l->n_operands; i < n->n_inputs; i++)
    if (n->inputs[i].v) return false;
  return true;
}

static bool match_settings(matcher *m, const line *l, const node *n) {
  const op_schema *s = op_schema_of(n->op);
  for (int i = 0; i < s->n_attrs; i++) {
    const setting *given = NULL;
    for (int k = 0; k < l->n_settings; k++)
      if (l->settings[k].attribute == i) given = &l->settings[k];
    const attr none = {.kind = ATTR_NONE}, *expected_value = given                     ? &given->value
                                                             : s->attrs[i].has_default ? &s->attrs[i].fallback
                                                                                       : &none;
    if (given && given->variable >= 0) {
      const attr **bound = &m->b.variables[given->variable];
      if (!*bound) *bound = &n->attrs[i];
      expected_value = *bound;
    }
    if (str_starts(s->attrs[i].name, "type.")) continue; /* follows from the operands */
    if (!attr_equal(&n->attrs[i], expected_value)) return false;
  }
  return true;
}

static bool match_line(matcher *m, int at, const node *n) {
  const line *l = &m->rule->pattern.lines[at];
  if (m->nodes[at]) return m->nodes[at] == n;
  if (n->op != l->op || n->epilogue || n->n_blocks || n->n_outputs != l->n_results) return false;
  const matcher before = *m;
  for (int way = 0; way < ((n->op->flags & OP_COMMUTATIVE) && l->n_operands == 2 && n->n_inputs == 2 ? 2 : 1); way++) {
    *m = before;
    m->nodes[at] = n;
    if (match_settings(m, l, n) && match_operands(m, l, n, way == 1)) return true;
  }
  *m = before;
  return false;
}

/* ---- replacing -------------------------------------------------------------------------------------------------- */

static value *number_value(builder *b, const operand *o, kiln_dtype like) {
  if (o->integer && !dtype_is_float(like)) return graph_scalar_int(b->graph, like, (int64_t)o->number);
  return graph_scalar(b->graph, dtype_is_float(like) || o->integer ? like : KILN_F32, o->number);
}

/* Numbers take the type of the first tensor beside them. */
static node *build_line(builder *b, const line *l, bindings *bound, kiln_dtype otherwise) {
  value *in[MAX_OPERANDS];
  named_attr attrs[MAX_SET];
  kiln_dtype like = otherwise;
  for (int i = l->n_operands - 1; i >= 0; i--)
    if (l->operands[i].kind == OPERAND_NAME) like = bound->values[l->operands[i].name]->type.dtype;
  for (int i = 0; i < l->n_operands; i++) {
    const operand *o = &l->operands[i];
    in[i] = o->kind == OPERAND_NONE     ? NULL
            : o->kind == OPERAND_NUMBER ? number_value(b, o, like)
                                        : bound->values[o->name];
  }
  const op_schema *s = op_schema_of(l->op);
  for (int i = 0; i < l->n_settings; i++)
    attrs[i] =
        (named_attr){s->attrs[l->settings[i].attribute].name,
                     l->settings[i].variable < 0 ? l->settings[i].value : *bound->variables[l->settings[i].variable]};
  if (custom_note(b->graph, l->op) != KILN_OK) return NULL;
  return build_node(b, l->op->name, l->n_operands, in, l->n_settings, attrs);
}

static kiln_status replace_root(builder *b, node *root, matcher *m) {
  const side *r = &m->rule->replacement, *p = &m->rule->pattern;
  const node *last = NULL;
  for (int i = 0; i < p->n; i++) /* also results that the pattern does not use */
    for (int k = 0; m->nodes[i] && k < p->lines[i].n_results; k++)
      m->b.values[p->lines[i].results[k]] = m->nodes[i]->outputs[k];
  for (int i = 0; i < r->n; i++) {
    last = build_line(b, &r->lines[i], &m->b, root->outputs[0]->type.dtype);
    if (!last) {
      const kiln_status status = graph_check(b->graph);
      return status != KILN_OK ? status : KILN_NO_MEMORY("rule");
    }
    for (int k = 0; k < r->lines[i].n_results; k++) m->b.values[r->lines[i].results[k]] = last->outputs[k];
  }
  for (int32_t i = 0; last && i < root->n_outputs; i++) {
    if (type_equal(&last->outputs[i]->type, &root->outputs[i]->type)) continue;
    text t = {0};
    type_print(b->graph, &last->outputs[i]->type, &t);
    text_puts(&t, ", the pattern gives ");
    type_print(b->graph, &root->outputs[i]->type, &t);
    const kiln_status status =
        KILN_FAIL(KILN_INVALID_ARGUMENT, "the replacement gives %s", t.data ? t.data : "another type");
    text_free(&t);
    return status;
  }
  for (int32_t i = 0; last && i < root->n_outputs; i++) value_replace_uses(root->outputs[i], last->outputs[i]);
  return KILN_OK;
}

static bool apply_all(builder *b, node *n) {
  for (const text_rule *t = __atomic_load_n(&rules.first, __ATOMIC_ACQUIRE); t; t = t->next) {
    matcher m = {.rule = t};
    if (t->removed || t->pattern.lines[t->pattern.n - 1].op != n->op || !match_line(&m, t->pattern.n - 1, n)) continue;
    last_applied = t->name;
    const kiln_status status = replace_root(b, n, &m);
    if (status == KILN_OK) return true;
    b->graph->failed = true;
    b->graph->failure = error_note(status, __FILE__, __LINE__, "in rewrite rule \"%.80s\", at `%s` (%s at %s)", t->name,
                                   n->op->name, n->path, n->source);
    return false;
  }
  return false;
}

rule custom_rules(void) {
  last_applied = NULL;
  return (rule){.name = __atomic_load_n(&rules.first, __ATOMIC_ACQUIRE) ? "custom" : NULL, .apply = apply_all};
}
