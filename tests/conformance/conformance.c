/* Operator conformance: every row's cases, with every kernel of every backend, against the row's reference kernel; with
 * operands as inputs and as constants, contiguous and strided. Then random pointwise bodies and epilogues. conformance
 * [-v] [operator ...] Prints one line for each operator and kernel, and `N passed, N failed`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fused.h"
#include "ops/ref.h"
#include "run.h"

enum { MAX_KERNELS = 32 };

typedef struct tally {
  const char *kernel;
  int passed, failed;
} tally;

typedef struct session {
  const op *op;
  target targets[2];
  int n_targets;
  tally tallies[2 * MAX_KERNELS];
  int n_tallies;
  int cases, bad_cases;
} session;

static tally *tally_of(session *s, const char *name) {
  for (int i = 0; i < s->n_tallies; i++) {
    if (strcmp(s->tallies[i].kernel, name) == 0) return &s->tallies[i];
  }
  if (s->n_tallies == (int)KILN_COUNT(s->tallies)) return &s->tallies[0];
  s->tallies[s->n_tallies] = (tally){.kernel = name};
  return &s->tallies[s->n_tallies++];
}

static void check(session *s, const prepared *p, const target *t, const kernel *k, run_options options) {
  text why = {0};
  const char *name = k ? k->name : "view";
  const bool ok = run_kernel(s->op, p, t, k, options, s->op->tolerance, NULL, NULL, &why);
  tally *count = tally_of(s, name);
  if (ok) {
    count->passed++;
  } else {
    count->failed++;
    fprintf(stderr, "FAIL %s, %s%s%s: %s\n     %s\n", s->op->name, name, options.constants ? ", constant operands" : "",
            options.strided ? ", strided" : "", p->c->text, why.data ? why.data : "");
  }
  text_free(&why);
}

static void check_variant(session *s, const prepared *p, const target *t, run_options options) {
  graph *g;
  node *n;
  int param_of[CASE_OPERANDS];
  const kernel *kernels[MAX_KERNELS];
  if ((s->op->flags & OP_VIEW) && s->op->view) {
    check(s, p, t, NULL, options);
    return;
  }
  if (run_build(s->op, p, options, NULL, NULL, &g, &n, param_of) != KILN_OK) return;
  const int count = backend_tactics(t, n, kernels, MAX_KERNELS, NULL);
  graph_destroy(g);
  for (int i = 0; i < count; i++) check(s, p, t, kernels[i], options);
}

static void run_case(void *user, const test_case *c) {
  session *s = user;
  prepared p;
  s->cases++;
  const kiln_status status = prepare_case(s->op, c, NULL, NULL, &p);
  if (status != KILN_OK) {
    s->bad_cases++;
    fprintf(stderr, "FAIL %s: %s\n     %s\n", s->op->name, c->text, kiln_last_error());
  } else {
    for (int t = 0; t < s->n_targets; t++) {
      for (int variant = 0; variant < 4; variant++) {
        const run_options options = {.constants = variant & 1, .strided = variant & 2};
        if (options.constants && c->n_operands < 2) continue;
        check_variant(s, &p, &s->targets[t], options);
      }
    }
  }
  prepared_free(&p);
}

static bool selected(const char *name, int argc, char **argv) {
  bool any = false;
  for (int i = 1; i < argc; i++) {
    if (argv[i][0] == '-') continue;
    any = true;
    if (strcmp(argv[i], name) == 0) return true;
  }
  return !any;
}

static void run_operator(session *s, int *passed, int *failed) {
  s->n_tallies = s->cases = s->bad_cases = 0;
  for (const char *const *line = s->op->cases; line && *line; line++)
    s->bad_cases += case_each(s->op, *line, run_case, s);
  printf("%-20s %4d cases", s->op->name, s->cases);
  for (int i = 0; i < s->n_tallies; i++) {
    const tally *t = &s->tallies[i];
    if (t->failed) {
      printf("  %s %d ok %d FAILED", t->kernel, t->passed, t->failed);
    } else {
      printf("  %s %d ok", t->kernel, t->passed);
    }
    *passed += t->passed;
    *failed += t->failed;
  }
  if (s->cases == 0) printf("  -");
  printf("\n");
  *failed += s->bad_cases;
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  session s = {0};
  int passed = 0, failed = 0;
  if (ops_init() != KILN_OK || target_parse("cpu", &s.targets[0]) != KILN_OK ||
      target_parse("reference", &s.targets[1]) != KILN_OK) {
    fprintf(stderr, "%s\n", kiln_last_error());
    return 1;
  }
  s.n_targets = 2;
  for (int i = 0; i < op_count(); i++) {
    s.op = op_at(i);
    if (selected(s.op->name, argc, argv)) run_operator(&s, &passed, &failed);
  }
  if (selected("fused", argc, argv)) fused_run(&s.targets[0], &passed, &failed);
  printf("%d passed, %d failed\n", passed, failed);
  return failed ? 1 : 0;
}
