/* The one list of portable passes, in order. */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "passes/custom_rules.h"
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

/* Those of users come first, so that they see what the model has. */
static kiln_status run_rules(graph *g) {
  rule rules[MAX_RULES];
  rules[0] = custom_rules();
  const size_t n = rules[0].name ? 1 : 0;
  const kiln_status status = rules_run(g, rules, n + portable_rules(rules + n, MAX_RULES - n));
  if (status != KILN_INTERNAL || !*custom_rule_last()) return status;
  return error_note(status, __FILE__, __LINE__,
                    "the rewrite rule \"%.80s\" was applied last: does its pattern match its own replacement?",
                    custom_rule_last());
}
static kiln_status fold(graph *g) { return pass_constant_fold(g, (size_t)1 << 16); }

typedef struct pass_row {
  const char *name;
  kiln_status (*run)(graph *g);
} pass_row;

/* Patterns that folding and merging make visible are found in the next round: rounds repeat until one changes nothing.
 * Rules come before folding, so that a constant that is only expanded for its user is not written out large. */
static const pass_row first[] = {{"dead", pass_dead_code}, {"cse", pass_cse}};
static const pass_row round_passes[] = {
    {"rules", run_rules}, {"fold", fold}, {"cse", pass_cse}, {"dead", pass_dead_code}};
enum { MAX_ROUNDS = 6 };

static uint64_t block_hash(const block *b, uint64_t h) {
  for (const node *n = b->first; n; n = n->next) {
    h = hash_bytes(&n->id, sizeof n->id, h);
    for (int32_t i = 0; i < n->n_inputs; i++) h = hash_bytes(&n->inputs[i].v, sizeof n->inputs[i].v, h);
    for (int32_t i = 0; i < n->n_blocks; i++) h = block_hash(n->blocks[i], h);
  }
  for (int32_t i = 0; i < b->n_results; i++) h = hash_bytes(&b->results[i].v, sizeof b->results[i].v, h);
  return h;
}

static kiln_status run_passes(graph *g, const pass_row *rows, size_t count, bool verify) {
  for (size_t i = 0; i < count; i++) {
    KILN_TRY_NOTE(rows[i].run(g), "in pass `%s`", rows[i].name);
    pass_dump(g, rows[i].name);
    if (verify) KILN_TRY_NOTE(graph_verify(g), "after pass `%s`", rows[i].name);
  }
  return KILN_OK;
}

kiln_status passes_portable(graph *g, bool verify) {
  pass_dump(g, "import");
  KILN_TRY(run_passes(g, first, KILN_COUNT(first), verify));
  for (int i = 0; i < MAX_ROUNDS; i++) {
    const uint64_t before = block_hash(&g->body, 0);
    KILN_TRY(run_passes(g, round_passes, KILN_COUNT(round_passes), verify));
    if (block_hash(&g->body, 0) == before) break;
  }
  return KILN_OK;
}
