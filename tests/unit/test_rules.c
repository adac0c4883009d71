/* Every rewrite rule on its sample: it must fire, and the result must be the same graph to the reference kernels. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "ops/ref.h"
#include "passes/rule_files.h"
#include "runtime/program.h"

/* All results of `g` on inputs from a fixed seed, as doubles. */
static size_t run_graph(graph *g, double *out, size_t max) {
  target t;
  program *p = NULL;
  tensor params[8], results[8] = {{0}};
  const int64_t none = 0;
  assert_int_equal(target_parse("reference", &t), KILN_OK);
  assert_int_equal(program_create(g, &t, &none, 1, &p), KILN_OK);
  uint32_t seed = 7;
  for (int i = 0; i < g->body.n_params; i++) {
    params[i] = *program_param(p, i);
    const int64_t n = tensor_numel(&params[i]);
    params[i].data = mem_alloc_aligned((size_t)n * 8 + 8);
    for (int64_t k = 0; k < n; k++) {
      seed = seed * 1664525u + 1013904223u;
      ref_store(&params[i], k, (double)(seed >> 8) / (1 << 22) - 2.0);
    }
  }
  void *memory = mem_alloc_aligned(program_arena_bytes(p));
  assert_int_equal(program_run(p, memory, params, results, NULL, false), KILN_OK);
  size_t count = 0;
  for (int i = 0; i < g->body.n_results; i++) {
    for (int64_t k = 0; k < tensor_numel(&results[i]) && count < max; k++) out[count++] = ref_load(&results[i], k);
  }
  for (int i = 0; i < g->body.n_params; i++) mem_free_aligned(params[i].data);
  mem_free_aligned(memory);
  program_destroy(p);
  return count;
}

static void every_rule_changes_its_sample_and_keeps_its_meaning(void **unused) {
  (void)unused;
  rule rules[128];
  const size_t n = portable_rules(rules, 128);
  assert_true(n > 10 && n < 128);
  for (size_t i = 0; i < n; i++) {
    graph *before = NULL, *after = NULL;
    double a[256], b[256];
    const char *sample = rules[i].sample;
    assert_non_null(sample);
    if (graph_parse(sample, strlen(sample), NULL, NULL, &before) != KILN_OK ||
        graph_parse(sample, strlen(sample), NULL, NULL, &after) != KILN_OK)
      fail_msg("rule `%s`: its sample does not parse: %s", rules[i].name, error_text());
    if (rules_run(after, &rules[i], 1) != KILN_OK) fail_msg("rule `%s`: %s", rules[i].name, error_text());
    if (pass_constant_fold(after, 1 << 16) != KILN_OK || pass_dead_code(after) != KILN_OK ||
        graph_verify(after) != KILN_OK)
      fail_msg("rule `%s`: %s", rules[i].name, error_text());
    text x = {0}, y = {0};
    graph_print(before, 64, &x);
    graph_print(after, 64, &y);
    if (strcmp(x.data, y.data) == 0) fail_msg("rule `%s` did not fire on its sample", rules[i].name);
    const size_t count = run_graph(before, a, 256);
    assert_int_equal(run_graph(after, b, 256), count);
    assert_true(count > 0);
    for (size_t k = 0; k < count; k++) {
      if (!(fabs(a[k] - b[k]) <= 2e-6 * (1 + fabs(a[k]))))
        fail_msg("rule `%s`: element %zu was %g, is %g", rules[i].name, k, a[k], b[k]);
    }
    text_free(&x);
    text_free(&y);
    graph_destroy(before);
    graph_destroy(after);
  }
}

static void printed_graphs_print_the_same_again(void **unused) {
  (void)unused;
  rule rules[128];
  const size_t n = portable_rules(rules, 128);
  for (size_t i = 0; i < n; i++) {
    graph *g = NULL, *again = NULL;
    text x = {0}, y = {0};
    assert_int_equal(graph_parse(rules[i].sample, strlen(rules[i].sample), NULL, NULL, &g), KILN_OK);
    graph_print(g, 64, &x);
    assert_int_equal(graph_parse(x.data, x.length, NULL, NULL, &again), KILN_OK);
    graph_print(again, 64, &y);
    assert_string_equal(x.data, y.data);
    text_free(&x);
    text_free(&y);
    graph_destroy(g);
    graph_destroy(again);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_rule_changes_its_sample_and_keeps_its_meaning),
                                     cmocka_unit_test(printed_graphs_print_the_same_again)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
