/* The one list of portable passes, in order. */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "passes/pass.h"
#include "passes/rule_files.h"

void pass_dump(const graph *g, const char *name) {
  static int number; /* of dumps in this process; only a file name depends on it */
  const char *folder = getenv("KILN_DUMP");
  if (!folder || !*folder) return;
  char path[1024];
  text t = {0};
  graph_print(g, 64, &t);
  snprintf(path, sizeof path, "%s/%02d-%s.txt", folder, __atomic_fetch_add(&number, 1, __ATOMIC_RELAXED), name);
  const file_span span = {t.data ? t.data : "", t.length};
  if (file_write_atomic(path, &span, 1) != KILN_OK) error_clear(); /* dumps are a help, no reason to fail */
  text_free(&t);
}

enum { MAX_RULES = 128 };

size_t portable_rules(rule *out, size_t max) {
  size_t n = 0;
#define ADD(name) \
  for (size_t i = 0; i < name##_rule_count && n < max; i++) out[n++] = name##_rules[i];
  RULE_FILES(ADD)
#undef ADD
  return n;
}

static kiln_status run_rules(graph *g) {
  rule rules[MAX_RULES];
  return rules_run(g, rules, portable_rules(rules, MAX_RULES));
}
static kiln_status fold(graph *g) { return pass_constant_fold(g, (size_t)1 << 16); }

typedef struct pass_row {
  const char *name;
  kiln_status (*run)(graph *g);
} pass_row;

static const pass_row passes[] = {
    {"dead", pass_dead_code}, {"fold", fold},      {"cse", pass_cse},
    {"rules", run_rules},     {"fold", fold},      {"cse", pass_cse},
    {"rules", run_rules}, /* patterns that folding and merging made visible */
    {"fold", fold},           {"dead", pass_dead_code},
};

kiln_status passes_portable(graph *g, bool verify) {
  pass_dump(g, "import");
  for (size_t i = 0; i < KILN_COUNT(passes); i++) {
    KILN_TRY_NOTE(passes[i].run(g), "in pass `%s`", passes[i].name);
    pass_dump(g, passes[i].name);
    if (verify) KILN_TRY_NOTE(graph_verify(g), "after pass `%s`", passes[i].name);
  }
  return KILN_OK;
}
