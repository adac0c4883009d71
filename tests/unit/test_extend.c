/* Custom operators and rewrite rules through kiln_ext.h: registration, shapes, running, what is refused, kernels as text. */
#include <kiln/kiln_ext.h>
#include <math.h>

#include "backends/cuda/internal.h"
#include "engine_check.h"
#include "ops/custom.h"
#include "passes/custom_rules.h"

/* ---- operators of the tests -------------------------------------------------------------------------------------- */

typedef struct part {
  const kiln_op_call *call;
  int64_t parts;
} part;

static void scale_part(void *user, int64_t i) {
  const part *p = user;
  const float *x = p->call->inputs[0].data, k = (float)kiln_arg_float(&p->call->args, "k");
  float *y = p->call->outputs[0].data;
  const int64_t n = kiln_elements(&p->call->outputs[0]);
  for (int64_t e = n * i / p->parts; e < n * (i + 1) / p->parts; e++) y[e] = k * x[e];
}

static kiln_status scale_run(const kiln_op_call *c) {
  part p = {c, 4};
  if (kiln_arg_float(&c->args, "k") > 100) return kiln_op_fail(&c->args, KILN_INVALID_ARGUMENT, "k is too large");
  kiln_parallel(c, p.parts, scale_part, &p);
  return KILN_OK;
}

static kiln_status pairs_shape(kiln_shape_call *c) {
  const kiln_shape *x = &c->inputs[0];
  const int64_t *axes = NULL;
  if (x->rank < 1) return kiln_op_fail(&c->args, KILN_INVALID_ARGUMENT, "x needs a dimension");
  c->outputs[0].dims[0] = kiln_dim_floordiv(c, kiln_dim_add(c, x->dims[0], 1), 2);
  c->outputs[1].dtype = KILN_I64;
  c->outputs[1].rank = 1;
  c->outputs[1].dims[0] = kiln_arg_ints(&c->args, "axes", &axes);
  return KILN_OK;
}

/* Every second row, times the optional factor; and a copy of the list. */
static kiln_status pairs_run(const kiln_op_call *c) {
  const int64_t *axes = NULL;
  const int32_t count = kiln_arg_ints(&c->args, "axes", &axes);
  const int64_t rows = c->outputs[0].shape[0], row = rows ? kiln_elements(&c->outputs[0]) / rows : 0;
  const float *x = c->inputs[0].data, *factor = c->inputs[1].data;
  float *y = c->outputs[0].data;
  for (int64_t i = 0; i < rows * row; i++) y[i] = x[i / row * 2 * row + i % row] * (factor ? *factor : 1);
  for (int32_t i = 0; i < count; i++) ((int64_t *)c->outputs[1].data)[i] = axes[i];
  return KILN_OK;
}

static const char scale_text[] =
    "extern \"C\" __global__ void scale(const x_t *x, float k, out_t *y, long long n) {\n"
    "  const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;\n"
    "  if (i < n) y[i] = (out_t)(k * (float)x[i]) + x_t(0.0f);\n}\n";

static void register_all(void) {
  const kiln_cuda_kernel cuda = {.source = scale_text, .name = "scale"};
  const kiln_op_def scale = {.struct_size = sizeof scale,
                             .schema = "test::scale(Tensor x, float k=1.0) -> Tensor",
                             .run = scale_run,
                             .cuda = &cuda};
  const kiln_op_def pairs = {
      .struct_size = sizeof pairs,
      .schema = "test::pairs(Tensor x, Tensor? factor=None, *, int[] axes=[]) -> (Tensor, Tensor)",
      .run = pairs_run,
      .shape = pairs_shape};
  expect_ok(kiln_op_register(&scale));
  expect_ok(kiln_op_register(&pairs));
}

static graph *parse(const char *graph_text) {
  graph *g = NULL;
  expect_ok(graph_parse(graph_text, strlen(graph_text), NULL, NULL, &g));
  expect_ok(graph_verify(g));
  return g;
}

/* ---- operators --------------------------------------------------------------------------------------------------- */

/* In every way that engine_check knows, against a graph without the custom operator. */
static void computes_as_any_operator(void **state) {
  (void)state;
  register_all();
  graph *custom = parse(
      "kiln.graph 1\ndim s0 in [1, 9] opt 4\ninput \"x\" %x : f32[s0,6]\n%t = permute(%x) {order=[1, 0]} : f32[6,s0]\n"
      "%s = test.scale(%t) {k=2.5} : f32[6,s0]\n%y = relu(%s) : f32[6,s0]\noutput \"y\" %y\n");
  graph *plain = parse(
      "kiln.graph 1\ndim s0 in [1, 9] opt 4\ninput \"x\" %x : f32[s0,6]\nconst %k : f32[] = {2.5}\n"
      "%t = permute(%x) {order=[1, 0]} : f32[6,s0]\n%s = mul(%t, %k) : f32[6,s0]\n%y = relu(%s) : f32[6,s0]\noutput "
      "\"y\" %y\n");
  for (int64_t n = 1; n <= 9; n += 4) {
    check_io a = check_make(custom, &n, 7), b = check_make(plain, &n, 7);
    check_interpret(custom, &n, &a);
    check_interpret(plain, &n, &b);
    assert_memory_equal(a.results[0].data, b.results[0].data, check_bytes(&b.results[0]));
    const char *targets[] = {"cpu", "reference"};
    for (int t = 0; t < 2; t++) {
      kiln_engine *e = check_engine(custom, targets[t]);
      kiln_context *c = NULL;
      int64_t shape[2] = {n, 6};
      kiln_tensor in = {.data = a.params[0].data, .ndim = 2, .shape = shape}, out = {.data = NULL};
      in.device.type = KILN_DEVICE_CPU;
      kiln_tensor_set_dtype(&in, KILN_F32);
      expect_ok(kiln_context_create(e, &c));
      expect_ok(kiln_context_run(c, &in, 1, &out, 1));
      assert_memory_equal(out.data, b.results[0].data, check_bytes(&b.results[0]));
      kiln_context_destroy(c);
      kiln_engine_destroy(e);
    }
    check_free(&a);
    check_free(&b);
  }
  graph_destroy(custom);
  graph_destroy(plain);
}

static void shapes_are_symbolic(void **state) {
  (void)state;
  register_all();
  graph *g = parse(
      "kiln.graph 1\ndim s0 in [1, 9] opt 4\ninput \"x\" %x : f32[s0,3]\nconst %f : f32[] = {2}\n"
      "%a, %b = test.pairs(%x, %f) {axes=[4, 5]} : f32[(s0 + 1)//2,3], i64[2]\noutput \"a\" %a\noutput \"b\" %b\n");
  const int64_t n = 5;
  check_io io = check_make(g, &n, 3);
  check_interpret(g, &n, &io);
  const float *x = io.params[0].data, *a = io.results[0].data;
  assert_int_equal(io.results[0].shape[0], 3);
  for (int i = 0; i < 9; i++) assert_true(a[i] == 2 * x[i / 3 * 6 + i % 3]);
  assert_int_equal(((int64_t *)io.results[1].data)[1], 5);
  check_free(&io);
  graph_destroy(g);
  const char *wrong =
      "kiln.graph 1\ninput \"x\" %x : f32[]\n%a, %b = test.pairs(%x) {axes=[]} : f32[1], i64[0]\noutput \"a\" %a\n";
  graph *bad = NULL;
  if (graph_parse(wrong, strlen(wrong), NULL, NULL, &bad) == KILN_OK)
    expect_failure(graph_verify(bad), KILN_INVALID_ARGUMENT, "x needs a dimension");
  graph_destroy(bad);
}

static void failures_say_whose_they_are(void **state) {
  (void)state;
  register_all();
  graph *g = parse("kiln.graph 1\ninput \"x\" %x : f32[4]\n%y = test.scale(%x) {k=1000} : f32[4]\noutput \"y\" %y\n");
  const int64_t none = 0;
  check_io io = check_make(g, &none, 3);
  expect_failure(reference_run_graph(g, &none, io.params, io.results), KILN_INVALID_ARGUMENT, "k is too large");
  assert_non_null(strstr(error_text(), "custom operator `test.scale`"));
  check_free(&io);
  graph_destroy(g);
  /* Kernels for f32 are not given other numbers. */
  g = parse("kiln.graph 1\ninput \"x\" %x : f16[4]\n%y = test.scale(%x) {k=2} : f16[4]\noutput \"y\" %y\n");
  io = check_make(g, &none, 3);
  expect_failure(reference_run_graph(g, &none, io.params, io.results), KILN_UNSUPPORTED, "dtypes");
  target t;
  graph *plan = NULL;
  const plan_options options = {0};
  expect_ok(target_parse("cpu", &t));
  expect_failure(plan_create(g, &t, &options, &plan, NULL), KILN_UNSUPPORTED, "no kernel for `test.scale`");
  assert_non_null(strstr(error_text(), "other element types"));
  check_free(&io);
  graph_destroy(g);
}

static void missing_operators_are_named(void **state) {
  (void)state;
  graph *g = NULL;
  const char *with_plugin =
      "kiln.graph 1\nmeta \"kiln.operator.gone.away\" \"libgone.so\"\ninput \"x\" %x : f32[4]\n"
      "%y = gone.away(%x) : f32[4]\noutput \"y\" %y\n";
  const char *without = "kiln.graph 1\ninput \"x\" %x : f32[4]\n%y = gone.away(%x) : f32[4]\noutput \"y\" %y\n";
  expect_failure(graph_parse(with_plugin, strlen(with_plugin), NULL, NULL, &g), KILN_UNSUPPORTED,
                 "load the plugin libgone.so");
  assert_non_null(strstr(error_text(), "`gone.away`"));
  expect_failure(graph_parse(without, strlen(without), NULL, NULL, &g), KILN_UNSUPPORTED, "not registered");
}

static void damaged_types_are_refused(void **state) {
  (void)state;
  const kiln_op_def free_shape = {.struct_size = sizeof free_shape,
                                  .schema = "test::free_shape(Tensor x) -> Tensor",
                                  .run = scale_run,
                                  .shape_of_model = 1};
  expect_ok(kiln_op_register(&free_shape));
  graph_destroy(
      parse("kiln.graph 1\ninput \"x\" %x : f32[4]\n%y = test.free_shape(%x) {type.dtypes=\"f32\", type.ranks=[2], "
            "type.dims=[2, 2]} : f32[2,2]\noutput \"y\" %y\n"));
  const char *const damaged[] = {"{type.dtypes=\"f32\", type.ranks=[2], type.dims=[2]}",
                                 "{type.dtypes=\"f32\", type.ranks=[9], type.dims=[2, 2]}",
                                 "{type.dtypes=\"x\", type.ranks=[2], type.dims=[2, 2]}",
                                 "{type.dtypes=\"f32\", type.ranks=[2], type.dims=[2, -2]}",
                                 "{type.dtypes=\"f32\", type.ranks=[], type.dims=[]}",
                                 ""};
  for (size_t i = 0; i < KILN_COUNT(damaged); i++) {
    char whole[300];
    graph *g = NULL;
    snprintf(whole, sizeof whole,
             "kiln.graph 1\ninput \"x\" %%x : f32[4]\n%%y = test.free_shape(%%x) %s : f32[2,2]\noutput \"y\" %%y\n",
             damaged[i]);
    kiln_status status = graph_parse(whole, strlen(whole), NULL, NULL, &g);
    if (status == KILN_OK) status = graph_verify(g);
    assert_int_not_equal(status, KILN_OK);
    graph_destroy(g);
  }
}

static void bad_registrations_are_refused(void **state) {
  (void)state;
  register_all();
  const struct {
    const char *schema, *part;
  } bad[] = {{"scale(Tensor x) -> Tensor", "mine::scale"},
             {"aten::relu(Tensor x) -> Tensor", "is an operator of Kiln"},
             {"test::scale(Tensor x) -> Tensor", "registered already"},
             {"test::scale(Tensor x, float k=2.0) -> Tensor", "registered already"},
             {"test::w(Tensor(a!) x) -> Tensor", "written to"},
             {"test::w(Tensor[] x, Tensor y) -> Tensor", "last tensor argument"},
             {"test::w(Dict x) -> Tensor", "not supported"},
             {"test::w(Tensor x) -> Tensor[]", "results"},
             {"test::w(Tensor x) -> ()", "results"},
             {"test::w(Tensor x", "expected"},
             {"", "expected"}};
  for (size_t i = 0; i < KILN_COUNT(bad); i++) {
    const kiln_op_def def = {.struct_size = sizeof def, .schema = bad[i].schema, .run = scale_run};
    expect_failure(kiln_op_register(&def), KILN_INVALID_ARGUMENT, bad[i].part);
  }
  const kiln_op_def no_size = {.schema = "test::w(Tensor x) -> Tensor"},
                    types = {.struct_size = sizeof types, .schema = "test::w(Tensor x) -> Tensor", .dtypes = "float"};
  expect_failure(kiln_op_register(&no_size), KILN_INVALID_ARGUMENT, "struct_size");
  expect_failure(kiln_op_register(&types), KILN_INVALID_ARGUMENT, "dtypes");
  expect_failure(kiln_op_register(NULL), KILN_INVALID_ARGUMENT, "struct_size");
  const kiln_op_def same = {.struct_size = sizeof same, .schema = "test::scale(Tensor x, float k=1.) -> Tensor"};
  expect_ok(kiln_op_register(&same));
  assert_int_equal(kiln_op_kernels("test::scale"), 3);
  assert_int_equal(kiln_op_kernels("test::pairs"), 1);
  assert_int_equal(kiln_op_kernels("test::w"), -1);
  expect_failure(kiln_plugin_load("/no/such/file.so"), KILN_IO_ERROR, "/no/such/file.so");
  expect_failure(kiln_plugin_load(NULL), KILN_INVALID_ARGUMENT, "NULL");
}

/* PTX, cubins and fatbins; plugins that were built before these fields were there have a smaller structure. */
static void code_is_looked_at(void **state) {
  (void)state;
  static const char ptx[] = ".version 7.0\n.target sm_80\n.visible .entry f() { ret; }", elf[32] = "\177ELF";
  static const kiln_cuda_kernel f = {.name = "f", .arguments = "x out"}, both = {.source = "int x;", .name = "f"},
                                none = {.arguments = "x"};
  const struct {
    const kiln_cuda_kernel *cuda;
    const void *image;
    size_t size;
    const char *part; /* NULL: it is taken */
  } all[] = {{&f, ptx, sizeof ptx - 1, NULL},    {&f, elf, sizeof elf, NULL},
             {&f, elf, 4, "no PTX text"},        {&f, ptx, 12, "no PTX text"},
             {&f, ptx, 40, "no kernel `f`"},     {&f, ptx, 0, "no PTX text"},
             {&both, ptx, sizeof ptx, "NULL"},   {NULL, ptx, sizeof ptx, "cuda_image needs cuda"},
             {&none, ptx, sizeof ptx, "`NULL`"}, {&f, NULL, 0, "NULL"}};
  for (size_t i = 0; i < KILN_COUNT(all); i++) {
    const kiln_op_def def = {.struct_size = sizeof def,
                             .schema = "test::code(Tensor x) -> Tensor",
                             .cuda = all[i].cuda,
                             .cuda_image = all[i].image,
                             .cuda_image_size = all[i].size};
    if (all[i].part)
      expect_failure(kiln_op_register(&def), KILN_INVALID_ARGUMENT, all[i].part);
    else
      expect_ok(kiln_op_register(&def));
  }
  assert_int_equal(kiln_op_kernels("test::code"), 2);
  const size_t older = offsetof(kiln_op_def, cuda_image);
  const kiln_op_def before = {.struct_size = older, .schema = "test::older(Tensor x) -> Tensor", .run = scale_run};
  expect_ok(kiln_op_register(&before));
}

/* After any allocation has failed, registering the same again works. */
static void registering_survives_out_of_memory(void **state) {
  (void)state;
  for (int i = 0; i < 40; i++) {
    char schema[80];
    snprintf(schema, sizeof schema, "test::memory%d(Tensor x, float k=1.0, int[] axes=[]) -> Tensor", i);
    const kiln_op_def def = {.struct_size = sizeof def, .schema = schema, .run = scale_run};
    mem_test_fail_after(i % 20);
    const kiln_status first = kiln_op_register(&def);
    mem_test_fail_after(-1);
    assert_true(first == KILN_OK || first == KILN_OUT_OF_MEMORY);
    expect_ok(kiln_op_register(&def));
    snprintf(schema, sizeof schema, "test::memory%d", i);
    assert_int_equal(kiln_op_kernels(schema), 1);
  }
}

/* ---- rules ------------------------------------------------------------------------------------------------------- */

static kiln_status add_rule(const char *pattern, const char *replacement) {
  const kiln_rule_def def = {.struct_size = sizeof def, .name = "test", .pattern = pattern, .replacement = replacement};
  return kiln_rule_register(&def);
}

static int count_op(const graph *g, const char *name) {
  int n = 0;
  for (const node *m = g->body.first; m; m = m->next) n += strcmp(m->op->name, name) == 0;
  return n;
}

static const char gelu_like[] =
    "kiln.graph 1\ninput \"x\" %x : f32[2,8]\nconst %c : f32[] = {1.702}\n%a = mul(%c, %x) : f32[2,8]\n"
    "%s = sigmoid(%a) : f32[2,8]\n%y = mul(%s, %x) : f32[2,8]\noutput \"y\" %y\n";

static void rules_replace_what_matches(void **state) {
  (void)state;
  register_all();
  expect_ok(add_rule("%a = mul(%x, 1.702)\n%s = sigmoid(%a)\n%y = mul(%x, %s)  # commutative\n",
                     "%t = test.scale(%x) {k=3}\n%y = add(%t, 1)"));
  graph *g = parse(gelu_like);
  expect_ok(passes_portable(g, true));
  assert_int_equal(count_op(g, "test.scale"), 1);
  assert_int_equal(count_op(g, "sigmoid"), 0);
  assert_non_null(graph_metadata(g, "kiln.operator.test.scale"));
  const int64_t none = 0;
  check_io io = check_make(g, &none, 3);
  check_interpret(g, &none, &io);
  for (int i = 0; i < 16; i++) assert_true(((float *)io.results[0].data)[i] == ((float *)io.params[0].data)[i] * 3 + 1);
  check_free(&io);
  graph_destroy(g);
  expect_ok(add_rule(NULL, NULL)); /* forgotten */
  g = parse(gelu_like);
  expect_ok(passes_portable(g, true));
  assert_int_equal(count_op(g, "test.scale"), 0);
  graph_destroy(g);
}

static void rules_look_at_attributes_and_constants(void **state) {
  (void)state;
  register_all();
  const char *softmax =
      "kiln.graph 1\ninput \"x\" %x : f32[2,8]\ninput \"w\" %w : f32[8]\n%s = softmax(%x) {axis=1} : f32[2,8]\n"
      "%y = mul(%s, %w) : f32[2,8]\noutput \"y\" %y\n";
  const struct {
    const char *pattern, *replacement;
    int found;
  } cases[] = {{"%s = softmax(%x) {axis=1}", "%s = test.scale(%x)", 1},
               {"%s = softmax(%x) {axis=0}", "%s = test.scale(%x)", 0},
               {"%s = softmax(%x) {axis=$a}\n%y = mul(%s, %w)", "%t = softmax(%x) {axis=$a}\n%y = test.scale(%t)", 1},
               {"%s = softmax(%x) {axis=1}\n%y = mul(%s, const %w)", "%y = test.scale(%x)", 0},
               {"%s = softmax(%x) {axis=1}\n%y = mul(%s, %x)", "%y = test.scale(%x)", 0},
               {"%s = softmax(%x) {axis=1}\n%y = mul(%s, 2)", "%y = test.scale(%x)", 0}};
  for (size_t i = 0; i < KILN_COUNT(cases); i++) {
    expect_ok(add_rule(cases[i].pattern, cases[i].replacement));
    graph *g = parse(softmax);
    expect_ok(passes_portable(g, true));
    assert_int_equal(count_op(g, "test.scale"), cases[i].found);
    graph_destroy(g);
  }
  expect_ok(add_rule(NULL, NULL));
}

static void bad_rules_are_refused(void **state) {
  (void)state;
  register_all();
  const struct {
    const char *pattern, *replacement, *part;
  } bad[] = {{"", "%y = relu(%x)", "empty"},
             {"%y = relu(%x)", "", "empty"},
             {"%y = nothing(%x)", "%y = relu(%x)", "an operator"},
             {"%y = relu(%x, %z)", "%y = relu(%x)", "fewer operands"},
             {"%y = add(%x)", "%y = relu(%x)", "more operands"},
             {"%y = permute(%x)", "%y = relu(%x)", "{order=$any}"},
             {"%y = softmax(%x) {axes=1}", "%y = relu(%x)", "attribute of this operator"},
             {"%y = relu(%x)", "%y = relu(%z)", "a value of the pattern"},
             {"%y = relu(%x)", "%z = relu(%y)", "a value of the pattern"},
             {"%y = relu(%x)", "%y = softmax(%x) {axis=$a}", "behind $"},
             {"%z = exp(%x)\n%y = relu(%x)", "%y = relu(%x)", "does not lead"},
             {"%y = relu(%z)\n%z = exp(%y)", "%w = relu(%y)", "used before"},
             {"%y = relu(%x)\n%y = exp(%y)", "%y = relu(%x)", "twice"},
             {"%y = relu(%x) junk", "%y = relu(%x)", "end of the line"},
             {"y = relu(%x)", "%y = relu(%x)", "%name"},
             {"%y = relu(%x)", "%a, %b = test.pairs(%x) {axes=[]}", "different numbers of results"}};
  for (size_t i = 0; i < KILN_COUNT(bad); i++)
    expect_failure(add_rule(bad[i].pattern, bad[i].replacement), KILN_INVALID_ARGUMENT, bad[i].part);
  /* Well formed, but of another type; or without end. */
  graph *g = parse(gelu_like);
  expect_ok(add_rule("%y = sigmoid(%x)", "%y = argmax(%x) {axis=0}"));
  const kiln_status status = passes_portable(g, true);
  assert_int_equal(status, KILN_INVALID_ARGUMENT);
  assert_non_null(strstr(error_text(), "rewrite rule \"test\""));
  graph_destroy(g);
  g = parse(gelu_like);
  expect_ok(add_rule("%y = sigmoid(%x)", "%z = sigmoid(%x)\n%y = relu(%z)"));
  expect_failure(passes_portable(g, true), KILN_INTERNAL, "does its pattern match its own replacement");
  graph_destroy(g);
  expect_ok(add_rule(NULL, NULL));
}

/* ---- kernels as text --------------------------------------------------------------------------------------------- */

static kiln_status compile_for(const char *graph_text, device *d) {
  graph *g = parse(graph_text);
  target t;
  graph *plan = NULL;
  program *p = NULL;
  const plan_options options = {0};
  const int64_t none = 0;
  expect_ok(target_parse("cuda:sm_90", &t));
  expect_ok(plan_create(g, &t, &options, &plan, NULL));
  kiln_status status = program_create_on(plan, &t, d, &none, 1, &p);
  if (status == KILN_OK) status = cuda_hooks.finish_prepare(d, 1);
  program_destroy(p);
  graph_destroy(plan);
  graph_destroy(g);
  return status;
}

static void texts_compile(void **state) {
  (void)state;
  const cuda_nvrtc *nvrtc = NULL;
  device *d = NULL;
  register_all();
  if (cuda_nvrtc_get(&nvrtc) != KILN_OK) {
    print_message("no NVRTC here: kernels as text are not compiled\n");
    skip();
  }
  expect_ok(cuda_device_offline(90, &d));
  const char *model =
      "kiln.graph 1\ninput \"x\" %x : f32[4,5]\n%y = test.scale(%x) {k=2} : f32[4,5]\noutput \"y\" %y\n";
  expect_ok(compile_for(model, d));
  const kiln_op_def any = {
      .struct_size = sizeof any, .schema = "test::scale(Tensor x, float k=1.0) -> Tensor", .dtypes = "any"};
  expect_ok(kiln_op_register(&any));
  expect_ok(compile_for(
      "kiln.graph 1\ninput \"x\" %x : f16[4,5]\n%y = test.scale(%x) {k=2} : f16[4,5]\noutput \"y\" %y\n", d));
  expect_ok(compile_for(
      "kiln.graph 1\ninput \"x\" %x : bf16[4,5]\n%y = test.scale(%x) {k=2} : bf16[4,5]\noutput \"y\" %y\n", d));
  const kiln_cuda_kernel
      broken = {.source = "extern \"C\" __global__ void f(x_t *x) { nothing }", .name = "f", .arguments = "x"},
      size = {.source = "extern \"C\" __global__ void f(x_t *x) {}", .name = "f", .arguments = "x int:x_dim7"},
      grid = {.source = "extern \"C\" __global__ void f(x_t *x) {}", .name = "f", .arguments = "x", .grid = {"0"}};
  const struct {
    const kiln_cuda_kernel *cuda;
    const char *part;
  } bad[] = {{&broken, "does not compile"}, {&size, "x_dim7"}, {&grid, "grid[0] is 0"}};
  for (size_t i = 0; i < KILN_COUNT(bad); i++) {
    const kiln_op_def def = {
        .struct_size = sizeof def, .schema = "test::text(Tensor x) -> Tensor", .cuda = bad[i].cuda};
    expect_ok(kiln_op_register(&def));
    const kiln_status status =
        compile_for("kiln.graph 1\ninput \"x\" %x : f32[4]\n%y = test.text(%x) : f32[4]\noutput \"y\" %y\n", d);
    assert_int_not_equal(status, KILN_OK);
    if (!strstr(error_text(), bad[i].part)) fail_msg("%s lacks %s", error_text(), bad[i].part);
  }
  cuda_hooks.close(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(computes_as_any_operator),    cmocka_unit_test(shapes_are_symbolic),
      cmocka_unit_test(failures_say_whose_they_are), cmocka_unit_test(missing_operators_are_named),
      cmocka_unit_test(damaged_types_are_refused),   cmocka_unit_test(bad_registrations_are_refused),
      cmocka_unit_test(code_is_looked_at),           cmocka_unit_test(registering_survives_out_of_memory),
      cmocka_unit_test(rules_replace_what_matches),  cmocka_unit_test(rules_look_at_attributes_and_constants),
      cmocka_unit_test(bad_rules_are_refused),       cmocka_unit_test(texts_compile),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
