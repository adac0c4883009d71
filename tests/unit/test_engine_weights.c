/* Weights whose packing cannot be undone: engine files have them plain and once, the first context makes the packed
 * form. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "unit/expect.h"

enum { CHANNELS = 32, SIDE = 28, WEIGHTS = CHANNELS * CHANNELS * 9, PIXELS = CHANNELS * SIDE * SIDE };

static float some_float(size_t i) { return (float)((i * 2654435761u >> 8) % 2001) / 1000.0f - 1.0f; }

/* Two 3x3 convolutions with the same weights. Winograd's algorithm wins at this size. */
static graph *convolutions(const float *weights) {
  static const dim one[] = {1, 1}, none[] = {0, 0};
  graph *g = NULL;
  expect_ok(ops_init());
  expect_ok(graph_create(&g));
  const tensor_type x_type = type_of(KILN_F32, 4, (dim[]){1, CHANNELS, SIDE, SIDE});
  const tensor_type w_type = type_of(KILN_F32, 4, (dim[]){CHANNELS, CHANNELS, 3, 3});
  value *y = graph_add_param(&g->body, "x", &x_type), *w = graph_constant(g, &w_type, weights);
  builder b = builder_at_end(&g->body);
  for (int i = 0; i < 2; i++)
    y = build(&b, "conv", IN(y, w, NULL),
              ATTRS(A_INTS("stride", one, 2), A_INTS("pad", one, 2), A_INTS("pad_end", one, 2),
                    A_INTS("dilation", one, 2), A_INTS("output_pad", none, 2)));
  expect_ok(graph_check(g));
  block_set_results(&g->body, 1, &y);
  g->n_inputs = g->n_outputs = 1;
  g->input_names = ARENA_ARRAY(&g->arena, const char *, 1);
  g->output_names = ARENA_ARRAY(&g->arena, const char *, 1);
  g->input_names[0] = "x";
  g->output_names[0] = "y";
  w->constant->weight = 0;
  return g;
}

static void write_engine(const char *target_name, const float *weights, void **out_bytes, size_t *out_size) {
  target t;
  graph *g = convolutions(weights), *plan = NULL;
  const plan_options options = {0};
  expect_ok(target_parse(target_name, &t));
  expect_ok(plan_create(g, &t, &options, &plan, NULL));
  expect_ok(engine_write(g, plan, &t, "", out_bytes, out_size));
  graph_destroy(plan);
  graph_destroy(g);
}

typedef struct user {
  kiln_engine *engine;
  float x[PIXELS], y[PIXELS];
  kiln_status status;
  size_t weights;
} user;

static void *use_engine(void *argument) {
  user *u = argument;
  int64_t shape[4] = {1, CHANNELS, SIDE, SIDE};
  kiln_context *c = NULL;
  for (size_t i = 0; i < PIXELS; i++) u->x[i] = some_float(i + 7);
  kiln_tensor in = {.data = u->x, .device = {KILN_DEVICE_CPU, 0}, .ndim = 4, .shape = shape}, out = in;
  kiln_tensor_set_dtype(&in, KILN_F32);
  kiln_tensor_set_dtype(&out, KILN_F32);
  out.data = u->y;
  const kiln_context_options options = {sizeof options, 2};
  u->status = kiln_context_create_with(u->engine, &options, &c);
  if (u->status == KILN_OK) u->status = kiln_context_run(c, &in, 1, &out, 1);
  if (u->status == KILN_OK) {
    kiln_memory_info info;
    kiln_context_memory(c, &info);
    u->weights = info.weights;
  }
  kiln_context_destroy(c);
  return NULL;
}

static void weights_are_stored_plain_and_made_by_the_first_context(void **state) {
  (void)state;
  static float weights[WEIGHTS];
  static user users[3];
  void *bytes = NULL;
  size_t size = 0;
  pthread_t threads[2];
  for (size_t i = 0; i < WEIGHTS; i++) weights[i] = some_float(i);
  expect_ok(ops_init()); /* the table of operators stays */
  const int64_t live = mem_test_live_blocks();

  write_engine("reference", weights, &bytes, &size);
  expect_ok(engine_open_bytes(bytes, size, bytes, NULL, &users[2].engine));
  use_engine(&users[2]);
  assert_int_equal(users[2].status, KILN_OK);
  kiln_engine_destroy(users[2].engine);

  write_engine("cpu", weights, &bytes, &size);
  assert_true(size < sizeof weights + 16384);
  kiln_engine *e = NULL;
  expect_ok(engine_open_bytes(bytes, size, bytes, NULL, &e));
  expect_ok(kiln_engine_verify(e));
  assert_int_equal(e->n_weights, 1);
  assert_string_equal(e->weights[0].packing, "");
  char *report = NULL;
  expect_ok(kiln_engine_report(e, KILN_REPORT_PLAN, &report));
  assert_non_null(strstr(report, "packed \"winograd:"));
  kiln_free(report);
  expect_ok(kiln_engine_report(e, KILN_REPORT_MEMORY, &report)); /* needs no data */
  kiln_free(report);
  assert_int_equal(engine_weight_bytes(e), sizeof weights);

  for (int i = 0; i < 2; i++) {
    users[i].engine = e;
    assert_int_equal(pthread_create(&threads[i], NULL, use_engine, &users[i]), 0);
  }
  for (int i = 0; i < 2; i++) {
    assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(users[i].status, KILN_OK);
    assert_int_equal(users[i].weights, sizeof weights + sizeof weights * 36 / 9);
    float worst = 0, most = 0;
    for (size_t k = 0; k < PIXELS; k++) {
      worst = fmaxf(worst, fabsf(users[i].y[k] - users[2].y[k]));
      most = fmaxf(most, fabsf(users[2].y[k]));
    }
    assert_true(most > 1.0f && worst <= 1e-4f * most);
  }
  kiln_engine_destroy(e);
  assert_int_equal(mem_test_live_blocks(), live);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(weights_are_stored_plain_and_made_by_the_first_context),
  };
  return cmocka_run_group_tests_name("weights of engines", tests, NULL, NULL);
}
