/* Operator conformance: every row's cases, with every kernel of every backend, against the row's reference kernel; with
 * operands as inputs and as constants, contiguous and strided. Then random pointwise bodies and epilogues.
 *   conformance [-t target] [-c] [-h] [-q] [-s i/n] [operator ...]
 * -t runs one target only; -h in f16; -q few cases of each operator; -s every n-th case, from the i-th on, so that n processes
 * share the work; -c compiles kernels of a GPU (that need not be here), each operator's first case only. Prints one line for
 * each operator and kernel, and `N passed, N failed`. */
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
  bool compile, half, quick;
  case_share share;
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
  const bool ok = run_kernel(s->op, p, t, k, options, s->half ? 4e-3 : s->op->tolerance, NULL, NULL, &why);
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
  if (!share_takes(&s->share)) return;
  s->cases++;
  const kiln_status status = prepare_case(s->op, c, NULL, NULL, &p);
  if (status != KILN_OK) {
    s->bad_cases++;
    fprintf(stderr, "FAIL %s: %s\n     %s\n", s->op->name, c->text, kiln_last_error());
  } else {
    for (int t = 0; t < s->n_targets; t++) {
      for (int variant = 0; variant < (!s->compile ? 4 : s->half ? 2 : 1); variant++) {
        const run_options options = {.constants = variant & 1, .strided = variant & 2, .compile = s->compile};
        if (options.constants && c->n_operands < 2) continue;
        if (variant == 1 && s->targets[t].backend->device) continue; /* each variant is compiled anew there */
        check_variant(s, &p, &s->targets[t], options);
      }
    }
  }
  prepared_free(&p);
}

static bool selected(const char *name, int argc, char **argv) {
  bool any = false;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "-t") == 0 || strcmp(argv[i], "-s") == 0) {
      i++;
      continue;
    }
    if (argv[i][0] == '-') continue;
    any = true;
    if (strcmp(argv[i], name) == 0) return true;
  }
  return !any;
}

/* The case in f16. */
static int half_case(session *s, const char *line) {
  char half[1024];
  snprintf(half, sizeof half, "%s", line);
  for (char *at = half; (at = strstr(at, ":f32["));) memcpy(at, ":f16[", 5);
  return case_each(s->op, half, run_case, s);
}

/* Shapes that the kernels for large matrices take; -h runs them. */
#define CONV_ATTRIBUTES "dilation=[1,1] output_pad=[0,0] channels_last=1"
static const struct {
  const char *op, *line;
} large_cases[] = {
    {"linear", "x:f32[3,40,72] w:f32[136,72] b:f32[136]"},
    {"linear", "x:f32[200,264] w:f32[96,264]"},
    {"matmul", "a:f32[130,136] b:f32[136,72]"},
    {"matmul", "a:f32[2,130,136] b:f32[2,72,136] transpose_b=1"},
    {"conv", "x:f32[2,9,10,64] w:f32[72,64,3,3] b:f32[72] stride=[1,1] pad=[1,1] pad_end=[1,1] " CONV_ATTRIBUTES},
    {"conv", "x:f32[2,19,17,72] w:f32[64,72,3,3] stride=[2,2] pad=[1,1] pad_end=[0,1] " CONV_ATTRIBUTES},
    {"conv", "x:f32[2,12,12,64] w:f32[136,64,1,1] b:f32[136] stride=[1,1] pad=[0,0] pad_end=[0,0] " CONV_ATTRIBUTES},
    {"conv", "x:f32[2,19,17,3] w:f32[24,3,3,3] b:f32[24] stride=[2,2] pad=[1,1] pad_end=[0,1] " CONV_ATTRIBUTES},
    {"conv",
     "x:f32[1,9,20,24] w:f32[24,1,5,5] b:f32[24] groups=24 stride=[1,1] pad=[2,2] pad_end=[2,2] " CONV_ATTRIBUTES},
    {"conv",
     "x:f32[1,5,6,16] w:f32[16,24,2,2] b:f32[24] transposed=1 stride=[2,2] pad=[0,0] pad_end=[0,0] " CONV_ATTRIBUTES},
    {"attention", "q:f32[2,4,200,64] k:f32[2,4,200,64] v:f32[2,4,200,64] scale=0.125"},
    {"attention", "q:f32[1,4,130,128] k:f32[1,2,140,128] v:f32[1,2,140,72] scale=0.1 causal=1"},
    /* enough blocks for kernels of many queries */
    {"attention", "q:f32[7,8,200,64] k:f32[7,8,200,64] v:f32[7,8,200,64] scale=0.125"},
    {"attention", "q:f32[2,3,8,260,64] k:f32[2,3,8,260,64] v:f32[2,3,8,260,64] scale=0.125 causal=1"},
    {"attention", "q:f32[7,8,140,128] k:f32[7,4,150,128] v:f32[7,4,150,72] scale=0.1 causal=1"},
    {"attention", "q:f32[7,8,140,64] k:f32[7,8,150,64] v:f32[7,8,150,64] mask:f32[140,150] scale=0.1"},
    /* large products with rows of every alignment */
    {"linear", "x:f32[700,72] w:f32[288,72] b:f32[288]"},
    {"linear", "x:f32[700,72] w:f32[2049,72] b:f32[2049]"},
    {"linear", "x:f32[700,72] w:f32[2050,72]"},
};

static void run_operator(session *s, int *passed, int *failed) {
  s->n_tallies = s->cases = s->bad_cases = 0;
  for (const char *const *line = s->op->cases;
       line && *line && !(s->compile && s->cases) && !(s->quick && line - s->op->cases >= 3); line++)
    s->bad_cases += s->half ? half_case(s, *line) : case_each(s->op, *line, run_case, s);
  for (size_t i = 0; s->half && i < KILN_COUNT(large_cases); i++) {
    if (strcmp(large_cases[i].op, s->op->name) == 0) s->bad_cases += half_case(s, large_cases[i].line);
  }
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
  session s = {.share = {0, 1, 0}};
  int passed = 0, failed = 0;
  const char *first = "cpu", *second = "reference";
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "-c") == 0) s.compile = true;
    if (strcmp(argv[i], "-h") == 0) s.half = true;
    if (strcmp(argv[i], "-q") == 0) s.quick = true;
    if (strcmp(argv[i], "-t") == 0 && i + 1 < argc) first = argv[i + 1], second = NULL;
    if (strcmp(argv[i], "-s") == 0 &&
        (i + 1 == argc || sscanf(argv[i + 1], "%d/%d", &s.share.index, &s.share.count) != 2 || s.share.count < 1 ||
         s.share.index < 0 || s.share.index >= s.share.count)) {
      fprintf(stderr, "-s takes i/n with 0 <= i < n\n");
      return 2;
    }
  }
  if (ops_init() != KILN_OK || target_parse(first, &s.targets[0]) != KILN_OK ||
      (second && target_parse(second, &s.targets[1]) != KILN_OK) ||
      run_open_device(&s.targets[0], s.compile) != KILN_OK) {
    fprintf(stderr, "%s\n", kiln_last_error());
    return 1;
  }
  s.n_targets = second ? 2 : 1;
  for (int i = 0; i < op_count(); i++) {
    s.op = op_at(i);
    if (selected(s.op->name, argc, argv)) run_operator(&s, &passed, &failed);
  }
  if (!s.compile && selected("fused", argc, argv)) fused_run(&s.targets[0], s.share, &passed, &failed);
  run_close_device();
  printf("%d passed, %d failed\n", passed, failed);
  return failed ? 1 : 0;
}
