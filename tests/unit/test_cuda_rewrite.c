/* What rewriting for GPUs and precision do to a graph, checked with the reference kernels: an attention layer as nn.MultiheadAttention
 * exports it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/cuda/internal.h"
#include "base/memory.h"
#include "ops/ref.h"
#include "passes/pass.h"
#include "runtime/program.h"

static const char layer[] =
    "kiln.graph 1\n"
    "const %0 : f32[8] = {1, 1, 2, 1, 1, 0.5, 1, 1}\n"
    "const %1 : f32[8] = {0, 0, 0, 1, 0, 0, 0, -1}\n"
    "const %2 : f32[24,8] = weight 0\n"
    "const %3 : f32[24] = weight 1\n"
    "const %4 : f32[8,8] = weight 2\n"
    "input \"x\" %x : f32[3,5,8]\n"
    "%8 = layer_norm(%x, %0, %1) {dims=1, eps=1e-05} : f32[3,5,8]\n"
    "%10 = permute(%8) {order=[1, 0, 2]} : f32[5,3,8]\n"
    "%12 = linear(%10, %2, %3) : f32[5,3,24]\n"
    "%66 = reshape(%12) {shape=[1, 5, 3, 3, 8]} : f32[1,5,3,3,8]\n"
    "%18 = permute(%66) {order=[3, 1, 2, 0, 4]} : f32[3,5,3,1,8]\n"
    "%20 = reshape(%18) {shape=[3, 5, 3, 8]} : f32[3,5,3,8]\n"
    "%22 = slice(%20) {axis=0, start=0, end=1} : f32[1,5,3,8]\n"
    "%26 = slice(%20) {axis=0, start=1, end=2} : f32[1,5,3,8]\n"
    "%30 = slice(%20) {axis=0, start=2, end=3} : f32[1,5,3,8]\n"
    "%68 = reshape(%22) {shape=[5, 6, 4]} : f32[5,6,4]\n"
    "%36 = permute(%68) {order=[1, 0, 2]} : f32[6,5,4]\n"
    "%70 = reshape(%26) {shape=[5, 6, 4]} : f32[5,6,4]\n"
    "%40 = permute(%70) {order=[1, 0, 2]} : f32[6,5,4]\n"
    "%72 = reshape(%30) {shape=[5, 6, 4]} : f32[5,6,4]\n"
    "%44 = permute(%72) {order=[1, 0, 2]} : f32[6,5,4]\n"
    "%46 = reshape(%36) {shape=[3, 2, 5, 4]} : f32[3,2,5,4]\n"
    "%48 = reshape(%40) {shape=[3, 2, 5, 4]} : f32[3,2,5,4]\n"
    "%50 = reshape(%44) {shape=[3, 2, 5, 4]} : f32[3,2,5,4]\n"
    "%52 = attention(%46, %48, %50, none) {scale=0.5} : f32[3,2,5,4]\n"
    "%54 = permute(%52) {order=[2, 0, 1, 3]} : f32[5,3,2,4]\n"
    "%78 = reshape(%54) {shape=[5, 3, 8]} : f32[5,3,8]\n"
    "%76 = linear(%78, %4, %1) : f32[5,3,8]\n"
    "%62 = permute(%76) {order=[1, 0, 2]} : f32[3,5,8]\n"
    "%64 = add(%x, %62) : f32[3,5,8]\n"
    "output \"y\" %64\n";

static const char projections[] =
    "kiln.graph 1\n"
    "const %2 : f32[24,8] = weight 0\n"
    "const %3 : f32[24] = weight 1\n"
    "const %4 : f32[8,8] = weight 2\n"
    "const %5 : f32[8] = {1, 0, 2, 1, -1, 0, 3, 1}\n"
    "input \"x\" %x : f32[3,5,8]\n"
    "%10 = linear(%x, %4, %5) : f32[3,5,8]\n"
    "%11 = linear(%x, %4, none) : f32[3,5,8]\n"
    "%12 = linear(%x, %2, %3) : f32[3,5,24]\n"
    "%13 = linear(%x, %4, %5) : f32[3,5,8]\n"
    "%20 = reshape(%10) {shape=[3, 5, 2, 4]} : f32[3,5,2,4]\n"
    "%21 = reshape(%11) {shape=[3, 5, 2, 4]} : f32[3,5,2,4]\n"
    "%22 = reshape(%12) {shape=[3, 5, 2, 12]} : f32[3,5,2,12]\n"
    "%30 = permute(%20) {order=[0, 2, 1, 3]} : f32[3,2,5,4]\n"
    "%31 = permute(%21) {order=[0, 2, 1, 3]} : f32[3,2,5,4]\n"
    "%32 = permute(%22) {order=[0, 2, 1, 3]} : f32[3,2,5,12]\n"
    "%33 = slice(%32) {axis=3, start=4, end=8} : f32[3,2,5,4]\n"
    "%40 = attention(%30, %31, %33, none) {scale=0.5} : f32[3,2,5,4]\n"
    "%41 = permute(%40) {order=[0, 2, 1, 3]} : f32[3,5,2,4]\n"
    "%42 = reshape(%41) {shape=[3, 5, 8]} : f32[3,5,8]\n"
    "%43 = relu(%13) : f32[3,5,8]\n"
    "%44 = add(%42, %43) : f32[3,5,8]\n"
    "output \"y\" %44\n";

/* A chain that reads the product several times. */
static const char gated[] =
    "kiln.graph 1\n"
    "const %2 : f32[24,8] = weight 0\n"
    "const %3 : f32[24] = weight 1\n"
    "const %4 : f32[8,8] = weight 2\n"
    "const %5 : f32[8] = {1, 0, 2, 1, -1, 0, 3, 1}\n"
    "input \"x\" %x : f32[3,5,8]\n"
    "%10 = linear(%x, %4, %5) : f32[3,5,8]\n"
    "%11 = square(%10) : f32[3,5,8]\n"
    "%12 = mul(%11, %10) : f32[3,5,8]\n"
    "%13 = tanh(%12) : f32[3,5,8]\n"
    "%14 = mul(%10, %13) : f32[3,5,8]\n"
    "output \"y\" %14\n";

/* A norm that is computed in f32, and halves rotated as for rotary positions. */
static const char rotary[] =
    "kiln.graph 1\n"
    "input \"x\" %x : f32[3,5,8]\n"
    "%1 = cast(%x) {dtype=f16} : f16[3,5,8]\n"
    "%2 = cast(%1) {dtype=f32} : f32[3,5,8]\n"
    "%3 = rms_norm(%2, none) {dims=1, eps=1e-05} : f32[3,5,8]\n"
    "%4 = cast(%3) {dtype=f16} : f16[3,5,8]\n"
    "%5 = slice(%4) {axis=2, start=4, end=8} : f16[3,5,4]\n"
    "%6 = slice(%4) {axis=2, start=0, end=4} : f16[3,5,4]\n"
    "%7 = neg(%5) : f16[3,5,4]\n"
    "%8 = concat(%7, %6) {axis=2} : f16[3,5,8]\n"
    "%9 = sigmoid(%4) : f16[3,5,8]\n"
    "%10 = mul(%8, %9) : f16[3,5,8]\n"
    "%11 = cast(%10) {dtype=f32} : f32[3,5,8]\n"
    "output \"y\" %11\n";

/* Everything that decompose.c writes in other words: norms in f64, attention in f64 (shared keys, causal, masks of both kinds, queries with
 * nothing to attend to). */
static const char doubles[] =
    "kiln.graph 1\n"
    "const %0 : f64[8] = {1, 1, 2, 1, 1, 0.5, 1, 1}\n"
    "const %1 : f64[8] = {0, 0, 0, 1, 0, 0, 0, -1}\n"
    "const %2 : f64[5] = {1, 2, 0.5, 1, -1}\n"
    "const %3 : f64[5] = {0.5, 0, 0, 1, 2}\n"
    "const %4 : f64[5] = {1, 2, 0.5, 1, 3}\n"
    "const %5 : f64[] = {0.8}\n"
    "input \"x\" %x : f32[3,5,8]\n"
    "%10 = cast(%x) {dtype=f64} : f64[3,5,8]\n"
    "%11 = layer_norm(%10, %0, %1) {dims=1, eps=1e-05} : f64[3,5,8]\n"
    "%12 = rms_norm(%11, none) {dims=2, eps=1e-05} : f64[3,5,8]\n"
    "%13 = group_norm(%12, %2, %3) {groups=5, eps=1e-05} : f64[3,5,8]\n"
    "%14 = add(%13, %10) : f64[3,5,8]\n"
    "%15 = batch_norm(%14, %3, %4, %2, %3) {eps=1e-05} : f64[3,5,8]\n"
    "%20 = reshape(%15) {shape=[1, 3, 5, 8]} : f64[1,3,5,8]\n"
    "%21 = slice(%20) {axis=1, start=0, end=1} : f64[1,1,5,8]\n"
    "%22 = slice(%20) {axis=3, start=0, end=5} : f64[1,3,5,5]\n"
    "%23 = ge(%22, %5) : bool[1,3,5,5]\n"
    "%24 = attention(%20, %21, %21, none) {scale=0.5, causal=true} : f64[1,3,5,8]\n"
    "%25 = attention(%24, %20, %20, %22) {scale=0.3} : f64[1,3,5,8]\n"
    "%26 = attention(%25, %20, %20, %23) {scale=0.7} : f64[1,3,5,8]\n"
    "%30 = reshape(%26) {shape=[3, 5, 8]} : f64[3,5,8]\n"
    "%31 = add(%30, %25) : f64[1,3,5,8]\n"
    "%32 = reshape(%31) {shape=[3, 5, 8]} : f64[3,5,8]\n"
    "%33 = cast(%32) {dtype=f32} : f32[3,5,8]\n"
    "output \"y\" %33\n";

static float weights[24 * 8 + 24 + 8 * 8];

static kiln_status give_weight(void *user, int64_t index, const tensor_type *type, const char *packed_as,
                               const void **out_data, size_t *out_size) {
  static const int64_t at[] = {0, 24 * 8, 24 * 8 + 24};
  (void)user, (void)packed_as;
  assert_in_range(index, 0, 2);
  *out_data = &weights[at[index]];
  return type_bytes(type, out_size) ? KILN_OK : KILN_INTERNAL;
}

static graph *parse_text(const char *source, size_t size) {
  graph *g = NULL;
  uint32_t seed = 5;
  for (size_t i = 0; i < KILN_COUNT(weights); i++) {
    seed = seed * 1664525u + 1013904223u;
    weights[i] = (float)(seed >> 8) / (float)(1 << 23) - 1.0f;
  }
  assert_int_equal(ops_init(), KILN_OK);
  if (graph_parse(source, size, give_weight, NULL, &g) != KILN_OK) fail_msg("%s", error_text());
  return g;
}
static graph *parse(void) { return parse_text(layer, sizeof layer - 1); }

static void run(graph *g, float *out) {
  target t;
  program *p = NULL;
  float x[3 * 5 * 8];
  const int64_t none = 0;
  assert_int_equal(target_parse("reference", &t), KILN_OK);
  if (program_create(g, &t, &none, 1, &p) != KILN_OK) fail_msg("%s", error_text());
  for (size_t i = 0; i < KILN_COUNT(x); i++) x[i] = sinf((float)i * 1.7f);
  tensor param = *program_param(p, 0), result = *program_result(p, 0);
  param.data = x;
  result.data = out;
  void *memory = mem_alloc_aligned(program_arena_bytes(p));
  assert_non_null(memory);
  if (program_run(p, memory, &param, &result, NULL, false) != KILN_OK) fail_msg("%s", error_text());
  mem_free_aligned(memory);
  program_destroy(p);
}

static int count(const graph *g, const char *name) {
  int n = 0;
  for (const node *m = g->body.first; m; m = m->next) n += strcmp(m->op->name, name) == 0;
  return n;
}

static void expect_close(graph *g, graph *other, double bound) {
  float want[3 * 5 * 8], got[3 * 5 * 8];
  double error = 0, norm = 0;
  run(g, want);
  run(other, got);
  for (size_t i = 0; i < KILN_COUNT(want); i++) {
    error += ((double)want[i] - got[i]) * ((double)want[i] - got[i]);
    norm += (double)want[i] * want[i];
  }
  assert_true(sqrt(error / norm) < bound);
}

static void chains_join_a_product_that_they_read_several_times(void **unused) {
  (void)unused;
  graph *before = parse_text(gated, sizeof gated - 1), *after = parse_text(gated, sizeof gated - 1);
  target t;
  assert_int_equal(target_parse("cuda:sm_90", &t), KILN_OK);
  assert_int_equal(cuda_rewrite(&t, after), KILN_OK);
  assert_int_equal(graph_verify(after), KILN_OK);
  assert_non_null(after->body.first);
  assert_ptr_equal(after->body.first, after->body.last); /* the product with all as its epilogue */
  expect_close(before, after, 1e-6);
  graph_destroy(before);
  graph_destroy(after);
}

static void attention_layers_keep_their_meaning_without_turning_batches_around(void **unused) {
  (void)unused;
  graph *before = parse(), *after = parse();
  target t;
  assert_int_equal(target_parse("cuda:sm_90", &t), KILN_OK);
  assert_int_equal(cuda_rewrite(&t, after), KILN_OK);
  assert_int_equal(graph_verify(after), KILN_OK);
  assert_int_equal(count(before, "permute"), 7);
  assert_int_equal(count(after, "permute"), 5);
  assert_int_equal(count(after, "add"), 0); /* in the epilogue of the last product */
  expect_close(before, after, 1e-6);
  graph_destroy(before);
  graph_destroy(after);
}

static void products_of_one_operand_become_one(void **unused) {
  (void)unused;
  graph *before = parse_text(projections, sizeof projections - 1),
        *after = parse_text(projections, sizeof projections - 1);
  target t;
  assert_int_equal(target_parse("cuda:sm_90", &t), KILN_OK);
  assert_int_equal(cuda_rewrite(&t, after), KILN_OK);
  assert_int_equal(graph_verify(after), KILN_OK);
  assert_int_equal(count(before, "linear"), 4);
  assert_int_equal(count(after, "linear"), 2); /* the one with an epilogue stays */
  assert_int_equal(count(after, "concat"), 0); /* of constants: folded */
  assert_int_equal(count(after, "full"), 0);
  expect_close(before, after, 1e-6);
  graph_destroy(before);
  graph_destroy(after);
}

static void norms_between_casts_and_rotated_halves_take_fewer_kernels(void **unused) {
  (void)unused;
  graph *before = parse_text(rotary, sizeof rotary - 1), *after = parse_text(rotary, sizeof rotary - 1);
  target t;
  assert_int_equal(target_parse("cuda:sm_90", &t), KILN_OK);
  assert_int_equal(cuda_rewrite(&t, after), KILN_OK);
  assert_int_equal(graph_verify(after), KILN_OK);
  assert_int_equal(count(after, "concat"), 0);
  assert_int_equal(count(after, "roll"), 1);
  for (const node *n = after->body.first; n; n = n->next) {
    if (strcmp(n->op->name, "rms_norm") == 0) assert_int_equal(node_in(n, 0)->type.dtype, KILN_F16);
  }
  expect_close(before, after, 1e-3);
  graph_destroy(before);
  graph_destroy(after);
}

static void what_no_kernel_takes_keeps_its_meaning_in_other_words(void **unused) {
  (void)unused;
  static const char *const gone[] = {"attention", "layer_norm", "rms_norm", "group_norm", "batch_norm"};
  graph *before = parse_text(doubles, sizeof doubles - 1), *after = parse_text(doubles, sizeof doubles - 1);
  assert_int_equal(cuda_decompose(after), KILN_OK);
  assert_int_equal(graph_verify(after), KILN_OK);
  for (size_t i = 0; i < KILN_COUNT(gone); i++) {
    assert_true(count(before, gone[i]) > 0);
    assert_int_equal(count(after, gone[i]), 0);
  }
  expect_close(before, after, 1e-7);
  graph_destroy(before);
  graph_destroy(after);
}

static void precision_changes_products_and_keeps_inputs_and_outputs(void **unused) {
  (void)unused;
  static const struct {
    const char *precision;
    double bound;
    kiln_dtype product;
  } rows[] = {{"fp32", 1e-9, KILN_F32},
              {"tf32", 1e-9, KILN_F32},
              {"fp16", 3e-3, KILN_F16},
              {"bf16", 2e-2, KILN_BF16},
              {"fp16:linear", 3e-3, KILN_F32}};
  for (size_t i = 0; i < KILN_COUNT(rows); i++) {
    graph *before = parse(), *after = parse();
    assert_int_equal(pass_precision(after, rows[i].precision), KILN_OK);
    assert_int_equal(graph_verify(after), KILN_OK);
    assert_int_equal(after->body.params[0]->type.dtype, KILN_F32);
    assert_int_equal(after->body.results[0].v->type.dtype, KILN_F32);
    for (const node *n = after->body.first; n; n = n->next) {
      if (strcmp(n->op->name, "linear") == 0) assert_int_equal(n->outputs[0]->type.dtype, rows[i].product);
    }
    expect_close(before, after, rows[i].bound);
    graph_destroy(before);
    graph_destroy(after);
  }
}

static void unknown_precisions_are_told(void **unused) {
  (void)unused;
  static const char *const wrong[] = {"fp8", "", "fp16x", "int8:linear"};
  for (size_t i = 0; i < KILN_COUNT(wrong); i++) {
    graph *g = parse();
    assert_int_equal(pass_precision(g, wrong[i]), KILN_INVALID_ARGUMENT);
    assert_non_null(strstr(error_text(), "expected fp32, tf32, fp16 or bf16"));
    graph_destroy(g);
  }
}

static void targets_are_checked(void **unused) {
  (void)unused;
  target t;
  static const char *const wrong[] = {"cuda:sm_", "cuda:sm_75", "cuda:sm_90b", "cuda:one", "cuda:sm_99999999999"};
  for (size_t i = 0; i < KILN_COUNT(wrong); i++) assert_int_equal(target_parse(wrong[i], &t), KILN_INVALID_ARGUMENT);
  assert_int_equal(target_parse("cuda:sm_90a", &t), KILN_OK);
  assert_string_equal(t.name, "cuda:sm_90");
  assert_int_equal(t.isa, 90);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(products_of_one_operand_become_one),
      cmocka_unit_test(chains_join_a_product_that_they_read_several_times),
      cmocka_unit_test(attention_layers_keep_their_meaning_without_turning_batches_around),
      cmocka_unit_test(norms_between_casts_and_rotated_halves_take_fewer_kernels),
      cmocka_unit_test(what_no_kernel_takes_keeps_its_meaning_in_other_words),
      cmocka_unit_test(precision_changes_products_and_keeps_inputs_and_outputs),
      cmocka_unit_test(unknown_precisions_are_told),
      cmocka_unit_test(targets_are_checked),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
