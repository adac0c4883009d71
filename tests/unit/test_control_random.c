/* Random programs with loops and branches in each other, run in every way and compared. They carry, swap, view, join
 * and capture values at random, so that a buffer that is overwritten too early, or a pass that moves a value out of its
 * block, shows as a wrong number. Conditions hang on integers only: those are exact on every backend.
 *
 * A failure prints the graph; KILN_RANDOM_SEED and KILN_RANDOM_COUNT run more of them. */
#include "engine_check.h"

enum { MAX_VALUES = 160, MAX_CARRIED = 5, MAX_DEPTH = 3 };

typedef enum kind { MATRIX, VECTOR, NUMBER, FLAG, KINDS } kind; /* f32[s,4], f32[4], i64[], bool[] */

typedef struct maker {
  graph *g;
  uint32_t random;
  value *values[KINDS][MAX_VALUES]; /* visible here */
  int counts[KINDS];
  int nodes;
} maker;

static tensor_type type_of_kind(const maker *m, kind k) {
  const dim s = dim_find_symbol(m->g->dims, "s");
  if (k == MATRIX) return type_of(KILN_F32, 2, (dim[]){s, 4});
  if (k == VECTOR) return type_of(KILN_F32, 1, (dim[]){4});
  return type_of(k == NUMBER ? KILN_I64 : KILN_BOOL, 0, NULL);
}

static int below(maker *m, int n) { return (int)(check_random(&m->random) % (uint32_t)n); }

static void keep(maker *m, kind k, value *v) {
  if (v && m->counts[k] < MAX_VALUES) m->values[k][m->counts[k]++] = v;
}

/* Newer values are likelier. */
static value *pick(maker *m, kind k) {
  const int n = m->counts[k], back = below(m, 3) ? 4 : n;
  return m->values[k][n - 1 - below(m, back < n ? back : n)];
}

static value *vector_constant(maker *m) {
  float data[4];
  const tensor_type type = type_of_kind(m, VECTOR);
  for (int i = 0; i < 4; i++) data[i] = (float)below(m, 2001) / 1000 - 1;
  return graph_constant_copy(m->g, &type, data);
}

static value *weight_constant(maker *m) {
  float data[16];
  const tensor_type type = type_of(KILN_F32, 2, (dim[]){4, 4});
  for (int i = 0; i < 16; i++) data[i] = (float)below(m, 1001) / 1000 - 0.5f;
  return graph_constant_copy(m->g, &type, data);
}

static value *bounded(builder *b, value *v) { /* loops must not blow values up */
  return build(b, "clamp", IN(v), ATTRS(A_FLOAT("min", -3), A_FLOAT("max", 3)));
}

static value *rotated(builder *b, value *v, int64_t axis, int64_t at, int64_t size) {
  value *tail = build(b, "slice", IN(v), ATTRS(A_INT("axis", axis), A_INT("start", at), A_INT("end", size)));
  value *head = build(b, "slice", IN(v), ATTRS(A_INT("axis", axis), A_INT("start", 0), A_INT("end", at)));
  return build(b, "concat", IN(tail, head), ATTRS(A_INT("axis", axis)));
}

/* 0, 1 or 2: two of four columns can start there. */
static value *column(maker *m, builder *b) {
  return build(b, "remainder", IN(pick(m, NUMBER), graph_scalar_int(m->g, KILN_I64, 3)), NO_ATTRS);
}

static value *two_columns(maker *m, builder *b, value *x) {
  return build(b, "narrow", IN(x, column(m, b)), ATTRS(A_INT("axis", 1), A_INT("length", 2)));
}

static value *make_matrix(maker *m, builder *b) {
  static const char *const unary[] = {"relu", "neg", "tanh", "sigmoid", "abs", "contiguous"};
  static const char *const binary[] = {"add", "sub", "mul", "maximum", "minimum"};
  value *x = pick(m, MATRIX);
  switch (below(m, 11)) {
    case 0:
    case 1:
      return build(b, unary[below(m, KILN_COUNT(unary))], IN(x), NO_ATTRS);
    case 2:
    case 3:
      return bounded(b, build(b, binary[below(m, KILN_COUNT(binary))], IN(x, pick(m, MATRIX)), NO_ATTRS));
    case 4:
      return bounded(b, build(b, binary[below(m, KILN_COUNT(binary))], IN(x, pick(m, VECTOR)), NO_ATTRS));
    case 5:
      return build(b, "linear", IN(x, weight_constant(m), below(m, 2) ? pick(m, VECTOR) : NULL), NO_ATTRS);
    case 6:
      return rotated(b, x, 1, 1 + below(m, 3), 4);
    case 7: { /* a view of a view */
      const dim s = type_of_kind(m, MATRIX).dims[0];
      value *flat = build(b, "permute", IN(x), ATTRS(A_INTS("order", ((int64_t[]){1, 0}), 2)));
      value *back = build(b, "permute", IN(flat), ATTRS(A_INTS("order", ((int64_t[]){1, 0}), 2)));
      value *pairs = build(b, "reshape", IN(back), ATTRS(A_INTS("shape", ((int64_t[]){s, 2, 2}), 3)));
      value *turned = build(b, "permute", IN(pairs), ATTRS(A_INTS("order", ((int64_t[]){0, 2, 1}), 3)));
      return build(b, "reshape", IN(turned), ATTRS(A_INTS("shape", ((int64_t[]){s, 4}), 2)));
    }
    case 8:
    case 9: /* a write at a place that is known at run time */
      return build(b, "narrow_scatter", IN(x, two_columns(m, b, pick(m, MATRIX)), column(m, b)),
                   ATTRS(A_INT("axis", 1)));
    default:
      return build(b, "where", IN(pick(m, FLAG), x, pick(m, MATRIX)), NO_ATTRS);
  }
}

static value *make_vector(maker *m, builder *b) {
  switch (below(m, 6)) {
    case 0:
      return vector_constant(m);
    case 1:
      return build(b, "mean", IN(pick(m, MATRIX)), ATTRS(A_INTS("axes", ((int64_t[]){0}), 1)));
    case 2:
      return bounded(b, build(b, "add", IN(pick(m, VECTOR), pick(m, VECTOR)), NO_ATTRS));
    case 3:
      return rotated(b, pick(m, VECTOR), 0, 1 + below(m, 3), 4);
    case 4:
      return build(b, "softmax", IN(pick(m, VECTOR)), ATTRS(A_INT("axis", 0)));
    default: {
      value *mixed =
          build(b, "mul", IN(pick(m, VECTOR), build(b, "cast", IN(pick(m, NUMBER)), ATTRS(A_DTYPE("dtype", KILN_F32)))),
                NO_ATTRS);
      return bounded(b, mixed);
    }
  }
}

static value *make_number(maker *m, builder *b) {
  value *x = pick(m, NUMBER), *seven = graph_scalar_int(m->g, KILN_I64, 7);
  switch (below(m, 4)) {
    case 0:
      return graph_scalar_int(m->g, KILN_I64, below(m, 6));
    case 1:
      return build(b, "where", IN(pick(m, FLAG), x, pick(m, NUMBER)), NO_ATTRS);
    default:
      return build(b, "remainder", IN(build(b, below(m, 2) ? "add" : "mul", IN(x, pick(m, NUMBER)), NO_ATTRS), seven),
                   NO_ATTRS);
  }
}

static value *make_flag(maker *m, builder *b) {
  if (!below(m, 4)) return build(b, "logical_and", IN(pick(m, FLAG), pick(m, FLAG)), NO_ATTRS);
  return build(b, below(m, 2) ? "lt" : "ne", IN(pick(m, NUMBER), pick(m, NUMBER)), NO_ATTRS);
}

static value *make_kind(maker *m, builder *b, kind k) {
  m->nodes++;
  switch (k) {
    case MATRIX:
      return make_matrix(m, b);
    case VECTOR:
      return make_vector(m, b);
    case NUMBER:
      return make_number(m, b);
    default:
      return make_flag(m, b);
  }
}

static void make_nodes(maker *m, builder *b, int count, int depth);

static block *open_block(maker *m, node *n, int n_params, const kind *kinds, builder *inside) {
  block *made = graph_new_block(m->g, n);
  for (int i = 0; i < n_params; i++) {
    const tensor_type type = type_of_kind(m, kinds[i]);
    keep(m, kinds[i], graph_add_param(made, NULL, &type));
  }
  *inside = builder_at_end(made);
  return made;
}

static void attach(maker *m, node *n, block *first, block *second) {
  n->blocks = ARENA_ARRAY(&m->g->arena, block *, 2);
  n->blocks[0] = first;
  n->blocks[1] = second;
  n->n_blocks = 2;
  expect_ok(graph_check(m->g));
  expect_ok(node_infer(n));
}

static void make_if(maker *m, builder *b, int depth) {
  kind kinds[MAX_CARRIED], in_kinds[MAX_CARRIED];
  value *operands[MAX_CARRIED + 1], *results[MAX_CARRIED];
  block *blocks[2];
  const int n_in = below(m, 3), n_out = 1 + below(m, 3);
  operands[0] = pick(m, FLAG);
  for (int i = 0; i < n_in; i++) operands[i + 1] = pick(m, in_kinds[i] = (kind)below(m, KINDS));
  for (int i = 0; i < n_out; i++) kinds[i] = (kind)below(m, KINDS);
  node *n = node_create(b, op_find("if"), n_in + 1, operands, NO_ATTRS, n_out);
  assert_non_null(n);
  for (int k = 0; k < 2; k++) {
    const maker saved = *m;
    builder inside;
    blocks[k] = open_block(m, n, n_in, in_kinds, &inside);
    make_nodes(m, &inside, below(m, 5), depth + 1);
    for (int i = 0; i < n_out; i++) results[i] = pick(m, kinds[i]);
    block_set_results(blocks[k], n_out, results);
    memcpy(m->counts, saved.counts, sizeof m->counts); /* what the block made is not visible outside */
  }
  attach(m, n, blocks[0], blocks[1]);
  for (int i = 0; i < n_out; i++) keep(m, kinds[i], n->outputs[i]);
}

/* Value 0 is a counter, so that every loop ends; the condition may end it earlier. */
static void make_while(maker *m, builder *b, int depth) {
  kind kinds[MAX_CARRIED] = {NUMBER};
  value *operands[MAX_CARRIED], *results[MAX_CARRIED];
  const int count = 1 + below(m, MAX_CARRIED);
  operands[0] = graph_scalar_int(m->g, KILN_I64, 0);
  for (int i = 1; i < count; i++) operands[i] = pick(m, kinds[i] = (kind)below(m, KINDS));
  value *limit = below(m, 3) ? graph_scalar_int(m->g, KILN_I64, below(m, 4)) : pick(m, NUMBER);
  if (!limit->constant && depth > 0)
    limit = graph_scalar_int(m->g, KILN_I64, 2); /* numbers stay below 7, but 7^3 is much */
  node *n = node_create(b, op_find("while"), count, operands, NO_ATTRS, count);
  assert_non_null(n);

  const maker saved = *m;
  builder inside;
  block *condition = open_block(m, n, count, kinds, &inside);
  if (below(m, 3) == 0) make_nodes(m, &inside, below(m, 3), MAX_DEPTH);
  value *more = build(&inside, "lt", IN(condition->params[0], limit), NO_ATTRS);
  if (below(m, 3) == 0) {
    value *odd = build(&inside, "ne", IN(pick(m, NUMBER), graph_scalar_int(m->g, KILN_I64, 3)), NO_ATTRS);
    more = build(&inside, "logical_and", IN(more, odd), NO_ATTRS);
  }
  block_set_results(condition, 1, &more);
  memcpy(m->counts, saved.counts, sizeof m->counts);

  block *body = open_block(m, n, count, kinds, &inside);
  make_nodes(m, &inside, 1 + below(m, 6), depth + 1);
  results[0] = build(&inside, "add", IN(body->params[0], graph_scalar_int(m->g, KILN_I64, 1)), NO_ATTRS);
  for (int i = 1; i < count; i++) results[i] = pick(m, kinds[i]);
  block_set_results(body, count, results);
  memcpy(m->counts, saved.counts, sizeof m->counts);
  attach(m, n, condition, body);
  for (int i = 0; i < count; i++) keep(m, kinds[i], n->outputs[i]);
}

static void make_nodes(maker *m, builder *b, int count, int depth) {
  for (int i = 0; i < count; i++) {
    const int choice = below(m, 10);
    if (choice < 2 && depth < MAX_DEPTH && m->nodes < 60) {
      if (choice == 0) {
        make_if(m, b, depth);
      } else {
        make_while(m, b, depth);
      }
      continue;
    }
    const kind k = choice < 6 ? MATRIX : choice < 7 ? VECTOR : choice < 9 ? NUMBER : FLAG;
    keep(m, k, make_kind(m, b, k));
  }
}

static void name_ends(maker *m) {
  static const char *const names[] = {"a", "b", "c", "d", "e", "f", "h", "i"};
  graph *g = m->g;
  g->input_names = ARENA_ARRAY(&g->arena, const char *, 8);
  g->output_names = ARENA_ARRAY(&g->arena, const char *, 8);
  memcpy(g->input_names, names, sizeof names);
  memcpy(g->output_names, names, sizeof names);
}

/* The sum of the first rows, as many as a number says: a size that depends on data. */
static value *sum_of_first(maker *m, builder *b) {
  value *x = pick(m, MATRIX), *limit = pick(m, NUMBER);
  value *rows = build(
      b, "arange", 0, NULL,
      ATTRS(A_FLOAT("start", 0), A_FLOAT("step", 1), A_INT("count", x->type.dims[0]), A_DTYPE("dtype", KILN_I64)));
  value *places = build(b, "nonzero", IN(build(b, "lt", IN(rows, limit), NO_ATTRS)), NO_ATTRS);
  if (!places) return NULL;
  value *index = build(b, "reshape", IN(places), ATTRS(A_INTS("shape", places->type.dims, 1)));
  value *picked = build(b, "index_select", IN(x, index), ATTRS(A_INT("axis", 0)));
  return bounded(b, build(b, "sum", IN(picked), ATTRS(A_INTS("axes", ((int64_t[]){0}), 1))));
}

/* Inputs: two matrices, a vector, two numbers; a matrix or number is kept as a state. */
static graph *make_program(uint32_t seed) {
  maker m = {.random = seed * 2654435761u + 1};
  expect_ok(graph_create(&m.g));
  graph *g = m.g;
  (void)dim_symbol(g->dims, "s", 1, 8);
  static const kind inputs[] = {MATRIX, MATRIX, VECTOR, NUMBER, NUMBER};
  for (size_t i = 0; i < KILN_COUNT(inputs); i++) {
    const tensor_type type = type_of_kind(&m, inputs[i]);
    keep(&m, inputs[i], graph_add_param(&g->body, NULL, &type));
  }
  g->n_inputs = (int32_t)KILN_COUNT(inputs);
  g->n_states = 1;
  g->states = ARENA_ARRAY(&g->arena, graph_state, 1);
  const kind kept = below(&m, 2) ? VECTOR : NUMBER;
  value *initial = kept == VECTOR ? vector_constant(&m) : graph_scalar_int(g, KILN_I64, 2);
  keep(&m, kept, graph_add_param(&g->body, NULL, &initial->type));
  builder b = builder_at_end(&g->body);
  keep(&m, FLAG, build(&b, "lt", IN(pick(&m, NUMBER), pick(&m, NUMBER)), NO_ATTRS));
  make_nodes(&m, &b, 2 + below(&m, 4), 0);
  if (below(&m, 3) == 0) keep(&m, VECTOR, sum_of_first(&m, &b));
  make_while(&m, &b, 0);
  if (below(&m, 3) == 0) keep(&m, VECTOR, sum_of_first(&m, &b));
  make_nodes(&m, &b, below(&m, 4), 0);
  value *results[5] = {pick(&m, MATRIX), pick(&m, MATRIX), pick(&m, VECTOR), pick(&m, NUMBER), pick(&m, kept)};
  block_set_results(&g->body, 5, results);
  g->n_outputs = 4;
  g->states[0] = (graph_state){"state", g->n_inputs, g->n_outputs, initial};
  name_ends(&m);
  expect_ok(graph_check(g));
  expect_ok(graph_verify(g));
  return g;
}

static void random_programs_agree(void **unused) {
  (void)unused;
  const char *first = getenv("KILN_RANDOM_SEED"), *count = getenv("KILN_RANDOM_COUNT");
  const uint32_t from = first ? (uint32_t)atoi(first) : 1, n = count ? (uint32_t)atoi(count) : 250;
  static const char *const targets[] = {"cpu", "cpu", "reference", "cpu:scalar"};
  for (uint32_t seed = from; seed < from + n; seed++) {
    graph *g = make_program(seed);
    if (first) print_message("seed %u\n", seed);
    const int64_t symbols[4] = {1 + seed % 5, DIM_ERROR, DIM_ERROR, DIM_ERROR};
    check_all_ways(g, targets[seed % 4], symbols, seed, 2);
    graph_destroy(g);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(random_programs_agree)};
  return cmocka_run_group_tests_name("random control flow", tests, NULL, NULL);
}
