/* Runs every CPU kernel row of an operator, in several ways (1 and 3 threads, permuted strides, in place), against the
 * operator's reference kernel. */
#ifndef KILN_TESTS_CPU_CHECK_H
#define KILN_TESTS_CPU_CHECK_H

/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backends/backend.h"
#include "base/cpu_features.h"
#include "base/memory.h"
#include "ops/ref.h"
#include "runtime/program.h"

typedef enum check_fill { FILL_NORMAL, FILL_SPECIAL, FILL_POSITIVE, FILL_RANGE } check_fill;
typedef struct check_in {
  kiln_dtype dtype;
  int rank;
  int64_t shape[KILN_MAX_RANK];
  check_fill fill;
  double lo, hi;    /* FILL_RANGE: integers in [lo, hi) */
  bool is_constant; /* the kernel may see its data in prepare */
  bool absent;
} check_in;

static uint64_t check_seed = 88172645463325252ull;
static inline double check_random(void) { /* [0, 1) */
  check_seed ^= check_seed << 13;
  check_seed ^= check_seed >> 7;
  check_seed ^= check_seed << 17;
  return (double)(check_seed >> 11) * 0x1p-53;
}
static inline double check_normal(void) {
  double s = -6.0;
  for (int i = 0; i < 12; ++i) s += check_random();
  return s;
}

/* Memory of `t` with the dims laid out in reversed order if `permuted`, and one spare element between innermost
 * runs. */
static inline void check_allocate(tensor *t, bool permuted) {
  int64_t n = 1;
  if (!permuted) {
    tensor_make_contiguous_strides(t);
    n = tensor_numel(t);
  } else {
    for (int d = 0; d < t->rank; ++d) {
      t->strides[d] = n;
      n *= t->shape[d] + (d == 0 ? 1 : 0);
    }
  }
  t->data = mem_alloc_aligned((size_t)(n > 0 ? n : 1) * kiln_dtype_size(t->dtype));
  assert_non_null(t->data);
  memset(t->data, 0x55, (size_t)(n > 0 ? n : 1) * kiln_dtype_size(t->dtype));
}

static inline void check_fill_tensor(tensor *t, const check_in *spec) {
  static const double specials[] = {NAN, INFINITY, -INFINITY, -0.0, 0.0, 1e-40, 3e38, -3e38, 100.0, -100.0, 0.5, -0.5};
  for (ref_iter it = ref_begin(t->rank, t->shape); ref_valid(&it); ref_next(&it)) {
    double v = check_normal();
    if (spec->fill == FILL_POSITIVE) v = fabs(v) + 0.1;
    if (spec->fill == FILL_SPECIAL && check_random() < 0.4) v = specials[(int)(check_random() * 12.0)];
    if (spec->fill == FILL_RANGE) v = floor(spec->lo + check_random() * (spec->hi - spec->lo));
    if (t->dtype == KILN_BOOL) v = check_random() < 0.5;
    ref_store(t, tensor_offset(t, it.index), v);
  }
}

static inline void check_copy(const tensor *from, const tensor *to) {
  for (ref_iter it = ref_begin(to->rank, to->shape); ref_valid(&it); ref_next(&it)) {
    ref_copy_element(from, tensor_offset(from, it.index), to, tensor_offset(to, it.index));
  }
}

static inline void check_equal(const char *what, const tensor *got, const tensor *want, double tolerance) {
  for (ref_iter it = ref_begin(want->rank, want->shape); ref_valid(&it); ref_next(&it)) {
    const double g = ref_load(got, tensor_offset(got, it.index)), w = ref_load(want, tensor_offset(want, it.index));
    const bool same = g == w || (isnan(g) && isnan(w)) || fabs(g - w) <= tolerance * (1.0 + fabs(w));
    if (!same) fail_msg("%s: element %lld is %.9g, expected %.9g", what, (long long)it.linear, g, w);
  }
}

typedef struct check_case {
  graph *g;
  node *n;
  tensor in[16], out[4], want[4];
  int n_in, n_out;
  double tolerance;
} check_case;

/* One node over parameters (or constants) of the given types, its inputs filled and the reference's results. */
static inline void check_finish(check_case *c, node *n, const check_in *in, int n_in, double tolerance) {
  assert_int_equal(graph_check(c->g), KILN_OK);
  assert_non_null(n);
  c->n = n;
  c->n_in = n_in;
  c->n_out = n->n_outputs;
  c->tolerance = tolerance;
  for (int i = 0; i < n->n_outputs; ++i) {
    tensor *t = &c->want[i];
    t->dtype = n->outputs[i]->type.dtype;
    t->rank = n->outputs[i]->type.rank;
    for (int d = 0; d < t->rank; ++d) t->shape[d] = n->outputs[i]->type.dims[d];
    check_allocate(t, false);
    c->out[i] = *t;
  }
  (void)in;
  const kiln_status status = reference_run_node(n, n->attrs, c->in, n_in, c->want, c->n_out, NULL);
  if (status != KILN_OK) fail_msg("reference of %s: %s", n->op->name, error_text());
}

static inline value *check_input(check_case *c, int i, const check_in *spec) {
  if (spec->absent) {
    c->in[i].rank = -1;
    return NULL;
  }
  tensor *t = &c->in[i];
  t->dtype = spec->dtype;
  t->rank = spec->rank;
  memcpy(t->shape, spec->shape, sizeof t->shape);
  check_allocate(t, false);
  check_fill_tensor(t, spec);
  const tensor_type type = type_of(spec->dtype, spec->rank, spec->shape);
  return spec->is_constant ? graph_constant(c->g, &type, t->data) : graph_add_param(&c->g->body, NULL, &type);
}

static inline void check_free(check_case *c) {
  for (int i = 0; i < c->n_in; ++i) {
    if (c->in[i].data) mem_free_aligned(c->in[i].data);
  }
  for (int i = 0; i < c->n_out; ++i) mem_free_aligned(c->want[i].data);
  graph_destroy(c->g);
}

/* One run of one kernel. `permute`: bits of operands with odd strides. */
static inline kiln_status check_run(const check_case *c, const kernel *k, int threads, uint32_t permute,
                                    bool permute_out, bool inplace) {
  char what[160];
  snprintf(what, sizeof what, "%s (%d threads, strides %x, out %d, in place %d)", k->name, threads, permute,
           permute_out, inplace);
  tensor in[16], out[4];
  arena memory = {0};
  pool *workers = NULL;
  if (threads > 1) assert_int_equal(pool_create(threads, &workers), KILN_OK);
  for (int i = 0; i < c->n_in; ++i) {
    in[i] = c->in[i];
    if (!in[i].data || c->n->inputs[i].v->constant) continue;
    check_allocate(&in[i], permute >> i & 1u);
    check_copy(&c->in[i], &in[i]);
  }
  for (int i = 0; i < c->n_out; ++i) {
    out[i] = c->want[i];
    if (inplace && i == 0)
      out[0] = in[0];
    else
      check_allocate(&out[i], permute_out);
  }
  kernel_prep p = {
      .args = {.node = c->n, .attrs = c->n->attrs, .in = in, .n_in = c->n_in, .out = out, .n_out = c->n_out},
      .arena = &memory,
      .threads = threads};
  void *saved[16];
  for (int i = 0; i < c->n_in; ++i) { /* not valid in prepare */
    saved[i] = in[i].data;
    if (in[i].data && !c->n->inputs[i].v->constant) in[i].data = (void *)(uintptr_t)1;
  }
  kiln_status status = k->prepare ? k->prepare(&p) : KILN_OK;
  if (status != KILN_OK) fail_msg("%s: prepare: %s", what, error_text());
  for (int i = 0; i < c->n_in; ++i) in[i].data = saved[i];
  void *workspace = mem_alloc_aligned(p.workspace_size + 64);
  memset((char *)workspace + p.workspace_size, 0x77, 64);
  kernel_args a = p.args;
  a.state = p.state;
  a.workspace = workspace;
  a.workspace_size = p.workspace_size;
  a.pool = workers;
  for (int round = 0; round < 2 && status == KILN_OK; ++round) { /* twice: state must not be used up */
    if (round == 1 && inplace) break;
    status = k->run(&a);
  }
  for (int i = 0; i < 64; ++i) assert_int_equal(((unsigned char *)workspace)[p.workspace_size + (size_t)i], 0x77);
  if (status == KILN_OK) {
    for (int i = 0; i < c->n_out; ++i) check_equal(what, &out[i], &c->want[i], c->tolerance);
  }
  mem_free_aligned(workspace);
  for (int i = 0; i < c->n_in; ++i) {
    if (in[i].data && !c->n->inputs[i].v->constant) mem_free_aligned(in[i].data);
  }
  for (int i = 0; i < c->n_out; ++i) {
    if (!(inplace && i == 0)) mem_free_aligned(out[i].data);
  }
  pool_destroy(workers);
  arena_free(&memory);
  return status;
}

/* All rows of the node's operator that fit; at least `min_rows` must. */
static inline void check_kernels(check_case *c, int min_rows) {
  int rows = 0;
  for (const kernel *const *k = backend_cpu.kernels; *k; ++k) {
    const char *why = "";
    if (strcmp((*k)->op, c->n->op->name) != 0 || (*k)->isa > (int)cpu_best_isa()) continue;
    if ((*k)->fits && !(*k)->fits(c->n, &why)) continue;
    ++rows;
    assert_int_equal(check_run(c, *k, 1, 0, false, false), KILN_OK);
    assert_int_equal(check_run(c, *k, 3, 0, false, false), KILN_OK);
    if ((*k)->strided_in) assert_int_equal(check_run(c, *k, 3, (*k)->strided_in, false, false), KILN_OK);
    if ((*k)->strided_in & 1u) assert_int_equal(check_run(c, *k, 1, 1, false, false), KILN_OK);
    if ((*k)->strided_out) assert_int_equal(check_run(c, *k, 2, 0, true, false), KILN_OK);
    const bool same = c->n_in > 0 && c->in[0].data && c->in[0].dtype == c->want[0].dtype &&
                      c->in[0].rank == c->want[0].rank &&
                      memcmp(c->in[0].shape, c->want[0].shape, (size_t)c->in[0].rank * sizeof(int64_t)) == 0;
    if (((*k)->inplace & 1u) && same && !c->n->inputs[0].v->constant) {
      assert_int_equal(check_run(c, *k, 2, 0, false, true), KILN_OK);
    }
  }
  if (rows < min_rows) fail_msg("%s: %d kernels took the node, expected at least %d", c->n->op->name, rows, min_rows);
}

static inline void check_op(const char *op_name, int n_in, const check_in *in, int n_attrs, const named_attr *attrs,
                            double tolerance) {
  check_case c = {0};
  value *inputs[16] = {0};
  assert_int_equal(graph_create(&c.g), KILN_OK);
  for (int i = 0; i < n_in; ++i) inputs[i] = check_input(&c, i, &in[i]);
  builder b = builder_at_end(&c.g->body);
  node *n = build_node(&b, op_name, n_in, inputs, n_attrs, attrs);
  if (!n) fail_msg("%s: %s", op_name, error_text());
  check_finish(&c, n, in, n_in, tolerance);
  check_kernels(&c, 1);
  check_free(&c);
}
#define INS(...) \
  (int)(sizeof((check_in[]){__VA_ARGS__}) / sizeof(check_in)), (check_in[]) { __VA_ARGS__ }
#define F32(...)                                                                                                  \
  {                                                                                                               \
    KILN_F32, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}, FILL_NORMAL, 0, 0, false, \
        false                                                                                                     \
  }
#define F32_SPECIAL(...)                                                                                           \
  {                                                                                                                \
    KILN_F32, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}, FILL_SPECIAL, 0, 0, false, \
        false                                                                                                      \
  }
#define F32_POSITIVE(...)                                                                                           \
  {                                                                                                                 \
    KILN_F32, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}, FILL_POSITIVE, 0, 0, false, \
        false                                                                                                       \
  }
#define DT(dtype, lo, hi, ...) \
  { dtype, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}, FILL_RANGE, lo, hi, false, false }
#define NONE \
  { KILN_F32, 0, {0}, FILL_NORMAL, 0, 0, false, true }

#endif
