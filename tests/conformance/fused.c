/* Random pointwise programs as the body of `pointwise` nodes and as epilogues of anchors. */
#include "fused.h"

#include <stdio.h>
#include <string.h>

#include "ops/ref.h"
#include "run.h"

/* Operators whose results stay of moderate size, so that errors do not blow up along a chain. */
static const char *const unary[] = {"neg",       "abs",  "relu",      "sigmoid",     "tanh", "sin", "cos", "gelu",
                                    "gelu_tanh", "silu", "hardswish", "hardsigmoid", "atan", "erf", "mish"};
static const char *const binary[] = {"add", "sub", "mul", "maximum", "minimum"};

typedef struct fused {
  uint64_t seed;
  int n_params; /* of the body */
  tensor_type types[4];
  bool epilogue;
  value *extra[4]; /* epilogue: the operands beside the anchor's result */
  int n_extra;
} fused;

static value *pick(uint64_t *state, value *const *values, int count) {
  return values[random_next(state) % (uint64_t)count];
}

/* Fills `body` with up to 6 nodes over its parameters and a constant, the last of which has the shape of parameter
 * 0. */
static kiln_status fill(block *body, uint64_t seed) {
  uint64_t state = seed;
  value *values[16];
  int n = 0;
  builder b = builder_at_end(body);
  for (int i = 0; i < body->n_params; i++) values[n++] = body->params[i];
  values[n++] = graph_scalar(body->graph, body->params[0]->type.dtype, 0.75);
  value *last = body->params[0];
  const int length = 1 + (int)(random_next(&state) % 6);
  for (int i = 0; i < length; i++) {
    const uint64_t kind = random_next(&state) % 8;
    if (kind < 4) {
      last = build(&b, unary[random_next(&state) % KILN_COUNT(unary)], IN(last), NO_ATTRS);
    } else if (kind < 7) {
      last = build(&b, binary[random_next(&state) % KILN_COUNT(binary)], IN(last, pick(&state, values, n)), NO_ATTRS);
    } else {
      /* The larger of two: any other choice would jump where both sides are nearly equal. */
      value *other = pick(&state, values, n);
      value *condition = build(&b, "gt", IN(last, other), NO_ATTRS);
      last = build(&b, "where", IN(condition, last, other), NO_ATTRS);
    }
    KILN_TRY(graph_check(body->graph));
    if (n < 16) values[n++] = last;
  }
  block_set_results(body, 1, &last);
  return graph_check(body->graph);
}

static kiln_status decorate_body(void *user, node *n) {
  const fused *f = user;
  graph *g = n->parent->graph;
  block *body = graph_new_block(g, n);
  if (!body) return graph_check(g);
  for (int i = 0; i < n->n_inputs; i++) graph_add_param(body, NULL, &n->inputs[i].v->type);
  KILN_TRY(fill(body, f->seed));
  n->blocks = ARENA_ARRAY(&g->arena, block *, 1);
  if (!n->blocks) return KILN_NO_MEMORY("body");
  n->blocks[0] = body;
  n->n_blocks = 1;
  return node_infer(n);
}

/* The anchor's result, and one operand of its shape and one of its last axis (constants). */
static kiln_status decorate_epilogue(void *user, node *n) {
  const fused *f = user;
  graph *g = n->parent->graph;
  const tensor_type type = n->outputs[0]->type, row = type_of(type.dtype, 1, &type.dims[type.rank - 1]);
  const tensor_type *const types[2] = {&type, &row};
  value *extra[2];
  uint64_t state = f->seed + 1;
  block *body = graph_new_block(g, n);
  if (!body) return graph_check(g);
  graph_add_param(body, NULL, &type);
  for (int i = 0; i < 2; i++) {
    size_t bytes = 0;
    if (!type_bytes(types[i], &bytes)) return KILN_INTERNAL;
    float *data = arena_alloc(&g->arena, bytes + 1);
    if (!data) return KILN_NO_MEMORY("operand");
    for (size_t k = 0; k < bytes / sizeof *data; k++) data[k] = (float)(random_uniform(&state) * 2 - 1);
    extra[i] = graph_constant(g, types[i], data);
    graph_add_param(body, NULL, types[i]);
  }
  KILN_TRY(fill(body, f->seed));
  node_set_epilogue(n, body, 2, extra);
  KILN_TRY(graph_check(g));
  return node_infer(n);
}

typedef struct fused_session {
  const target *t;
  const op *op;
  decorate_fn decorate;
  int *passed, *failed;
  int rounds;
  case_share share;
} fused_session;

static void run_fused(void *user, const test_case *c) {
  fused_session *s = user;
  for (int round = 0; round < s->rounds; round++) {
    if (!share_takes(&s->share)) continue;
    fused f = {.seed = hash_bytes(c->text, strlen(c->text), (uint64_t)round + 77)};
    prepared p;
    graph *g;
    node *n;
    int param_of[CASE_OPERANDS];
    const kernel *kernels[32];
    if (prepare_case(s->op, c, s->decorate, &f, &p) != KILN_OK || p.status != KILN_OK) {
      fprintf(stderr, "FAIL fused %s: %s\n     %s\n", s->op->name, c->text, kiln_last_error());
      ++*s->failed;
      prepared_free(&p);
      return;
    }
    for (int variant = 0; variant < 4; variant++) {
      const run_options options = {.constants = variant & 1, .strided = variant & 2};
      if (options.constants && c->n_operands < 2) continue;
      if (run_build(s->op, &p, options, s->decorate, &f, &g, &n, param_of) != KILN_OK) continue;
      const int count = backend_tactics(s->t, n, kernels, 32, NULL);
      graph_destroy(g);
      for (int i = 0; i < count; i++) {
        text why = {0};
        const bool ok = run_kernel(s->op, &p, s->t, kernels[i], options, 1e-4, s->decorate, &f, &why);
        ++*(ok ? s->passed : s->failed);
        if (!ok) {
          fprintf(stderr, "FAIL fused %s, %s%s%s, seed %llu: %s\n     %s\n", s->op->name, kernels[i]->name,
                  options.constants ? ", constant operands" : "", options.strided ? ", strided" : "",
                  (unsigned long long)f.seed, c->text, why.data ? why.data : "");
        }
        text_free(&why);
      }
    }
    prepared_free(&p);
  }
}

void fused_run(const target *t, case_share share, int *passed, int *failed) {
  static const char *const bodies[] = {"xs:f32[65]",
                                       "xs:f32[3,5,17] xs:f32[17]",
                                       "xs:f32[4,33] xs:f32[4,1] xs:f32[33]",
                                       "xs:f32[2,3,1000] xs:f32[2,3,1000] xs:f32[]",
                                       "xs:f32[2,8,6,5] xs:f32[8,1,1]",
                                       "xs:f32[0,4] xs:f32[4]"};
  fused_session s = {.t = t, .share = share, .passed = passed, .failed = failed, .rounds = t->backend->device ? 4 : 24};
  const int passed_before = *passed, failed_before = *failed;
  s.op = op_find("pointwise");
  s.decorate = decorate_body;
  for (size_t i = 0; s.op && i < KILN_COUNT(bodies); i++) *failed += case_each(s.op, bodies[i], run_fused, &s);
  s.decorate = decorate_epilogue;
  s.rounds = t->backend->device ? 1 : 3;
  for (int i = 0; i < op_count(); i++) {
    s.op = op_at(i);
    if (!(s.op->flags & OP_ANCHOR)) continue;
    for (const char *const *line = s.op->cases; line && *line; line++) {
      if (!strstr(*line, "i64[") && !strstr(*line, "f16[") && !strstr(*line, "f64[") && !strstr(*line, "=inf"))
        *failed += case_each(s.op, *line, run_fused, &s);
    }
  }
  printf("%-20s %d ok %d failed\n", "fused", *passed - passed_before, *failed - failed_before);
}
