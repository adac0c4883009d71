/* The .pt2 importer on small archives made here: what a good one gives, and that hostile ones give a text and no
 * crash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/memory.h"
#include "base/text.h"
#include "import/export.h"
#include "ops/op.h"

/* ---- a zip writer ------------------------------------------------------------------------------- */

typedef struct entry {
  const char *name;
  const void *data;
  size_t size;
} entry;

static void put(text *t, uint32_t v, int bytes) {
  for (int i = 0; i < bytes; i++) text_putc(t, (char)(v >> (8 * i) & 255));
}

static void header(text *t, const entry *e, uint32_t crc, bool central, uint32_t offset) {
  text_append(t, central ? "PK\1\2" : "PK\3\4", 4);
  if (central) put(t, 20, 2);
  put(t, 20, 2), put(t, 0, 2), put(t, 0, 2), put(t, 0, 4); /* version, flags, method, time */
  put(t, crc, 4), put(t, (uint32_t)e->size, 4), put(t, (uint32_t)e->size, 4);
  put(t, (uint32_t)strlen(e->name), 2), put(t, 0, 2);
  if (central) put(t, 0, 2), put(t, 0, 2), put(t, 0, 2), put(t, 0, 4), put(t, offset, 4);
  text_puts(t, e->name);
}

static void make_zip(const entry *entries, int n, text *out) {
  text directory = {0};
  for (int i = 0; i < n; i++) {
    const uint32_t crc = (uint32_t)crc32(0, entries[i].data, (uInt)entries[i].size);
    header(&directory, &entries[i], crc, true, (uint32_t)out->length);
    header(out, &entries[i], crc, false, 0);
    text_append(out, entries[i].data, entries[i].size);
  }
  const uint32_t start = (uint32_t)out->length;
  text_append(out, directory.data, directory.length);
  text_append(out, "PK\5\6", 4);
  put(out, 0, 4), put(out, (uint32_t)n, 2), put(out, (uint32_t)n, 2), put(out, (uint32_t)directory.length, 4),
      put(out, start, 4), put(out, 0, 2);
  text_free(&directory);
}

/* ---- a model: y = relu(x + w), count += 1 ------------------------------------------------------- */

#define META(sizes, strides)                                                        \
  "{\"dtype\": 7, \"sizes\": [" sizes                                               \
  "], \"requires_grad\": false, \"device\": {\"type\": \"cpu\", \"index\": null}, " \
  "\"strides\": [" strides "], \"storage_offset\": {\"as_int\": 0}, \"layout\": 7}"
#define SYM "{\"as_expr\": {\"expr_str\": \"Symbol('s0', positive=True, integer=True)\", \"hint\": {\"as_int\": 4}}}"
#define I(n) "{\"as_int\": " #n "}"
#define TENSOR(name) "{\"as_tensor\": {\"name\": \"" name "\"}}"
#define ARG(name, arg) "{\"name\": \"" name "\", \"arg\": " arg ", \"kind\": 1}"

static const char model_json[] =
    "{\"graph_module\": {\"graph\": {\"inputs\": [" TENSOR("p_w") ", " TENSOR("b_count") ", " TENSOR("x") "], \"outputs\": [" TENSOR("relu") "],"
    "\"nodes\": ["
    "{\"target\": \"torch.ops.aten.add.Tensor\", \"inputs\": [" ARG("self", TENSOR("x")) ", " ARG("other", TENSOR("p_w")) "],"
    " \"outputs\": [" TENSOR("add") "], \"metadata\": {\"stack_trace\": \"File \\\"/home/u/model.py\\\", line 7, in forward\\n  x + w\\n"
    "  File \\\"/lib/torch/nn/functional.py\\\", line 9, in f\", \"nn_module_stack\": \"L__self__,,M;L__self__block,block.0,B\"}, \"name\": \"add\"},"
    "{\"target\": \"torch.ops.aten.relu.default\", \"inputs\": [" ARG("self", TENSOR("add")) "], \"outputs\": [" TENSOR("relu") "],"
    " \"metadata\": {}, \"name\": \"relu\"},"
    "{\"target\": \"torch.ops.aten.add_.Tensor\", \"inputs\": [" ARG("self", TENSOR("b_count")) ", " ARG("other", I(1)) "],"
    " \"outputs\": [" TENSOR("add_") "], \"metadata\": {}, \"name\": \"add_\"}],"
    "\"tensor_values\": {\"p_w\": " META(I(3), I(1)) ", \"b_count\": " META("", "") ", \"x\": " META(SYM "," I(3), I(3) "," I(1)) ","
    " \"add\": " META(SYM "," I(3), I(3) "," I(1)) ", \"relu\": " META(SYM "," I(3), I(3) "," I(1)) ", \"add_\": " META("", "") "},"
    "\"sym_int_values\": {}, \"sym_bool_values\": {}, \"is_single_tensor_return\": false, \"custom_obj_values\": {}, \"sym_float_values\": {}},"
    "\"signature\": {\"input_specs\": ["
    "{\"parameter\": {\"arg\": {\"name\": \"p_w\"}, \"parameter_name\": \"w\"}},"
    "{\"buffer\": {\"arg\": {\"name\": \"b_count\"}, \"buffer_name\": \"count\", \"persistent\": true}},"
    "{\"user_input\": {\"arg\": " TENSOR("x") "}}],"
    "\"output_specs\": [{\"user_output\": {\"arg\": " TENSOR("relu") "}}]},"
    "\"module_call_graph\": [{\"fqn\": \"\", \"signature\": {\"inputs\": [], \"outputs\": [], \"in_spec\": \"[1, {}]\","
    " \"out_spec\": \"[1, {\\\"type\\\": null, \\\"context\\\": null, \\\"children_spec\\\": []}]\", \"forward_arg_names\": [\"x\"]}}],"
    "\"metadata\": {}}, \"opset_version\": {\"aten\": 10}, \"range_constraints\": {\"s0\": {\"min_val\": 2, \"max_val\": 8}},"
    "\"schema_version\": {\"major\": 8, \"minor\": 20}, \"torch_version\": \"2.13.0\"}";

static const char weights_json[] =
    "{\"config\": {\"w\": {\"path_name\": \"weight_0\", \"is_param\": true, \"use_pickle\": false, \"tensor_meta\": " META(I(3), I(1)) "},"
    "\"count\": {\"path_name\": \"weight_1\", \"is_param\": false, \"use_pickle\": false, \"tensor_meta\": " META("", "") "}}}";

static const float weight_w[3] = {1, 2, 3}, weight_count[1] = {5};

/* `text` with `from` replaced by `to` (NULL: unchanged). Fails the test if `from` is not there. */
static char *replaced(const char *original, const char *from, const char *to) {
  text t = {0};
  const char *at = from ? strstr(original, from) : NULL;
  if (from && !at) fail_msg("the model does not contain %s", from);
  if (at) {
    text_append(&t, original, (size_t)(at - original));
    text_puts(&t, to);
    text_puts(&t, at + strlen(from));
  } else {
    text_puts(&t, original);
  }
  char *out = NULL;
  assert_int_equal(text_take(&t, &out), KILN_OK);
  return out;
}

static void make_archive(const char *model, const char *weights, text *out) {
  const entry entries[] = {
      {"m/models/model.json", model, strlen(model)},
      {"m/data/weights/model_weights_config.json", weights, strlen(weights)},
      {"m/data/constants/model_constants_config.json", "{\"config\": {}}", 14},
      {"m/data/weights/weight_0", weight_w, sizeof weight_w},
      {"m/data/weights/weight_1", weight_count, sizeof weight_count},
      {"m/byteorder", "little", 6},
  };
  make_zip(entries, sizeof entries / sizeof *entries, out);
}

static kiln_status import_with(const char *model_from, const char *model_to, const char *weights_from,
                               const char *weights_to, graph **g, text *zip) {
  char *model = replaced(model_json, model_from, model_to), *weights = replaced(weights_json, weights_from, weights_to);
  make_archive(model, weights, zip);
  kiln_free(model);
  kiln_free(weights);
  *g = NULL;
  return export_import(zip->data, zip->length, "m.pt2", g);
}

/* ---- a good file -------------------------------------------------------------------------------- */

static node *find_node(graph *g, const char *op_name) {
  for (node *n = g->body.first; n; n = n->next)
    if (strcmp(n->op->name, op_name) == 0) return n;
  return NULL;
}

static void a_good_file(void **state) {
  (void)state;
  graph *g;
  text zip = {0};
  if (import_with(NULL, NULL, NULL, NULL, &g, &zip) != KILN_OK) fail_msg("%s", error_text());
  assert_true(export_detect(zip.data, zip.length));
  assert_int_equal(g->n_inputs, 1);
  assert_int_equal(g->n_outputs, 1);
  assert_string_equal(g->input_names[0], "x");
  assert_string_equal(g->output_names[0], "output");
  const tensor_type *x = &g->body.params[0]->type;
  assert_int_equal(x->rank, 2);
  assert_int_equal(x->dims[1], 3);
  const int s0 = dim_symbol_index(g->dims, x->dims[0]);
  int64_t min, max, opt;
  assert_true(s0 >= 0);
  dim_symbol_range(g->dims, s0, &min, &max, &opt);
  assert_int_equal(min, 0); /* torch.export means "any" by 2 */
  assert_int_equal(max, 8);
  assert_int_equal(opt, 4);
  /* the buffer that is counted up is a state, and starts at 5 */
  assert_int_equal(g->n_states, 1);
  assert_string_equal(g->states[0].name, "count");
  assert_int_equal(g->states[0].param, 1);
  assert_int_equal(g->states[0].result, 1);
  assert_true(*(const float *)g->states[0].initial->constant->data == 5.0f);
  assert_ptr_equal(g->body.results[0].v->producer, find_node(g, "relu"));
  /* weights are not copied */
  node *add = find_node(g, "add");
  assert_non_null(add);
  const value *w = node_in(add, 1);
  const char *data = w->constant->data;
  if (((uintptr_t)zip.data & 3) == 0 && data >= zip.data && data < zip.data + zip.length)
    assert_memory_equal(data, weight_w, sizeof weight_w);
  assert_string_equal(add->path, "block.0");
  assert_string_equal(add->source, "model.py:7");
  assert_string_equal(graph_metadata(g, "torch.inputs"), "[{\"name\": \"x\", \"tensor\": 0}]");
  assert_string_equal(graph_metadata(g, "torch.outputs"), "[{\"tensor\": 0}]");
  assert_string_equal(graph_metadata(g, "torch.arg_names"), "[\"x\"]");
  assert_int_equal(graph_verify(g), KILN_OK);
  graph_destroy(g);
  text_free(&zip);
}

static void literals(void **state) {
  (void)state;
  graph *g;
  text zip = {0};
  if (import_with(
          "{\"user_output\": {\"arg\": " TENSOR("relu") "}}",
          "{\"user_output\": {\"arg\": " TENSOR("relu") "}}, {\"user_output\": {\"arg\": {\"as_none\": true}}},"
                                                        "{\"user_output\": {\"arg\": {\"as_float\": \"Infinity\"}}}, "
                                                        "{\"user_output\": {\"arg\": {\"as_string\": \"a\\\"b\"}}}",
          NULL, NULL, &g, &zip) != KILN_OK)
    fail_msg("%s", error_text());
  assert_string_equal(graph_metadata(g, "torch.outputs"),
                      "[{\"tensor\": 0}, {\"value\": null}, {\"value\": Infinity}, {\"value\": \"a\\\"b\"}]");
  graph_destroy(g);
  text_free(&zip);
}

/* ---- hostile files ------------------------------------------------------------------------------ */

static const struct {
  const char *from, *to;
  bool weights; /* replace in the weights' config, not in the model */
  kiln_status code;
  const char *says;
} hostile[] = {
    {"\"major\": 8", "\"major\": 7", false, KILN_UNSUPPORTED, "export schema 7.20 (torch 2.13.0)"},
    {"\"minor\": 20", "\"minor\": 2", false, KILN_UNSUPPORTED, "8.17 to 8.20"},
    {"\"major\": 8", "\"major\": \"8\"", false, KILN_INVALID_FILE, "schema_version"},
    {"\"graph_module\"", "\"graph_modul\"", false, KILN_INVALID_FILE, "`graph_module` is missing"},
    {"\"signature\": {", "\"signatur\": {", false, KILN_INVALID_FILE, "`signature` is missing"},
    {"\"nodes\": [", "\"nodez\": [", false, KILN_INVALID_FILE, "`nodes` is missing"},
    {"\"input_specs\": [", "\"input_spec\": [", false, KILN_INVALID_FILE, "`input_specs` is missing"},
    {"\"range_constraints\": {", "\"range_constraint\": {", false, KILN_INVALID_FILE, "`range_constraints` is missing"},
    {"\"min_val\": 2, \"max_val\": 8", "\"min_val\": 9, \"max_val\": 8", false, KILN_INVALID_FILE, "empty range"},
    {ARG("self", TENSOR("add")), ARG("self", TENSOR("relu")), false, KILN_INVALID_FILE,
     "`relu` is used before it is defined"},
    {"\"outputs\": [" TENSOR("relu") "], \"metadata\"", "\"outputs\": [" TENSOR("add") "], \"metadata\"", false,
     KILN_INVALID_FILE, "defined twice"},
    {"aten.relu.default", "aten.no_such.default", false, KILN_UNSUPPORTED, "aten.no_such.default, used 1 time"},
    {"aten.add.Tensor", "aten.no_such.Tensor", false, KILN_UNSUPPORTED, "first in block.0 at model.py:7"},
    {"\"torch.ops.aten.relu.default\"", "7", false, KILN_INVALID_FILE, "`target` is missing or no string"},
    {ARG("self", TENSOR("add")), "", false, KILN_INVALID_FILE, "argument self is missing"},
    {ARG("self", TENSOR("add")), ARG("wrong", TENSOR("add")), false, KILN_INVALID_FILE, "no argument `wrong`"},
    {ARG("self", TENSOR("add")), ARG("self", TENSOR("add")) "," ARG("self", TENSOR("add")), false, KILN_INVALID_FILE,
     "twice argument `self`"},
    {ARG("self", TENSOR("add")), ARG("self", "{\"as_string\": \"add\"}"), false, KILN_INVALID_FILE,
     "expected Tensor, got a string"},
    {ARG("self", TENSOR("add")), ARG("self", "{\"as_wrong\": 1}"), false, KILN_INVALID_FILE, "unknown kind `as_wrong`"},
    {ARG("self", TENSOR("add")), ARG("self", "{\"as_tensor\": 1}"), false, KILN_INVALID_FILE, "`name` is missing"},
    {ARG("self", TENSOR("add")), ARG("self", "{}"), false, KILN_INVALID_FILE, "one key"},
    {ARG("self", TENSOR("add")), ARG("self", "{\"as_complex\": {\"real\": 1}}"), false, KILN_INVALID_FILE,
     "a number, "},
    {ARG("other", I(1)), ARG("other", "{\"as_int\": \"1\"}"), false, KILN_INVALID_FILE, "expected an integer"},
    {ARG("other", I(1)), ARG("other", "{\"as_int\": 99999999999999999999}"), false, KILN_INVALID_FILE, ""},
    {"\"relu\": " META(SYM "," I(3), I(3) "," I(1)), "\"relu\": " META(SYM "," I(4), I(3) "," I(1)), false,
     KILN_INVALID_FILE, "result `relu` would be f32[s0,3]"},
    {"\"x\": " META(SYM "," I(3), I(3) "," I(1)), "\"x\": " META(I(-4) "," I(3), I(3) "," I(1)), false,
     KILN_INVALID_FILE, "a size of -4"},
    {"\"x\": " META(SYM "," I(3), I(3) "," I(1)), "\"x\": " META(I(9223372036854775807) "," I(3), I(3) "," I(1)), false,
     KILN_INVALID_FILE, "a size of"},
    {"\"x\": {\"dtype\": 7", "\"x\": {\"dtype\": 10", false, KILN_UNSUPPORTED,
     "complex tensors are not supported here"},
    {"\"x\": {\"dtype\": 7", "\"x\": {\"dtype\": 99", false, KILN_UNSUPPORTED, "dtype unknown"},
    {"\"x\": {\"dtype\": 7", "\"x\": {\"dtype\": null", false, KILN_INVALID_FILE, "`dtype` is missing"},
    {"Symbol('s0', positive=True, integer=True)", "Symbol('s0", false, KILN_INVALID_FILE, "unclosed quote"},
    {"{\"user_input\": {\"arg\": " TENSOR("x") "}}", "{\"token\": {\"arg\": {\"name\": \"x\"}}}", false,
     KILN_UNSUPPORTED, "`token`"},
    {"{\"user_input\": {\"arg\": " TENSOR("x") "}}", "{\"user_input\": {\"arg\": " TENSOR("y") "}}", false,
     KILN_INVALID_FILE, "no entry in tensor_values"},
    {"{\"user_input\": {\"arg\": " TENSOR("x") "}}",
     "{\"user_input\": {\"arg\": {\"as_sym_int\": {\"as_name\": \"n\"}}}}", false, KILN_UNSUPPORTED, "Python number"},
    {"{\"user_output\": {\"arg\": " TENSOR("relu") "}}", "{\"user_output\": {\"arg\": " TENSOR("nix") "}}", false,
     KILN_INVALID_FILE, "`nix` is used before"},
    {"{\"user_output\": {\"arg\": " TENSOR("relu") "}}",
     "{\"buffer_mutation\": {\"arg\": {\"name\": \"relu\"}, \"buffer_name\": \"q\"}}", false, KILN_INVALID_FILE,
     "no buffer `q`"},
    {"{\"user_output\": {\"arg\": " TENSOR("relu") "}}", "{\"loss_output\": {\"arg\": {\"name\": \"relu\"}}}", false,
     KILN_UNSUPPORTED, "loss_output"},
    {"\"parameter_name\": \"w\"", "\"parameter_name\": \"v\"", false, KILN_INVALID_FILE,
     "`v` is missing from the archive's weights"},
    {"weight_0", "weight_7", true, KILN_INVALID_FILE, "no entry data/weights/weight_7"},
    {"weight_0", "../../x", true, KILN_INVALID_FILE, "no entry"},
    {META(I(3), I(1)), META(I(4), I(1)), true, KILN_INVALID_FILE, "reach over 16 bytes"},
    {META(I(3), I(1)), META(I(3), I(2)), true, KILN_INVALID_FILE, "reach over 20 bytes"},
    {META(I(3), I(1)), META(I(3), I(-1)), true, KILN_INVALID_FILE, "negative"},
    {META(I(3), I(1)), META(I(-3), I(1)), true, KILN_INVALID_FILE, "a size of -3"},
    {META(I(3), I(1)), META(I(3), ""), true, KILN_INVALID_FILE, "as many strides as sizes"},
    {META(I(3), I(1)), META(I(2305843009213693951), I(0)), true, KILN_INVALID_FILE, "overflow"},
    {META(I(3), I(1)), META(I(100000000000), I(0)), true, KILN_INVALID_FILE, "far larger than its bytes"},
    {META(I(3), I(1)), META(I(4000000000) "," I(4000000000), I(4000000000) "," I(4000000000)), true, KILN_INVALID_FILE,
     "overflow"},
    {META(I(3), I(1)), META(SYM, I(1)), true, KILN_INVALID_FILE, ""},
    {"\"storage_offset\": {\"as_int\": 0}", "\"storage_offset\": {\"as_int\": -1}", true, KILN_INVALID_FILE,
     "negative"},
    {"\"storage_offset\": {\"as_int\": 0}", "\"storage_offset\": {\"as_int\": 1}", true, KILN_INVALID_FILE,
     "reach over 16 bytes"},
    {"\"storage_offset\": {\"as_int\": 0}", "\"storage_offset\": {\"as_int\": 4611686018427387904}", true,
     KILN_INVALID_FILE, "overflow"},
    {"\"use_pickle\": false", "\"use_pickle\": true", true, KILN_UNSUPPORTED, "pickled object"},
    {"\"layout\": 7", "\"layout\": 1", true, KILN_UNSUPPORTED, "sparse"},
    {"{\"config\": {", "{\"config\": [", true, KILN_INVALID_FILE, ""},
    {"{\"config\":", "{\"konfig\":", true, KILN_INVALID_FILE, "`config` is missing"},
    {"{\"graph_module\"", "[\"graph_module\"", false, KILN_INVALID_FILE, ""},
};

static void hostile_files(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
    graph *g;
    text zip = {0};
    const bool w = hostile[i].weights;
    const kiln_status status =
        import_with(w ? NULL : hostile[i].from, hostile[i].to, w ? hostile[i].from : NULL, hostile[i].to, &g, &zip);
    if (status != hostile[i].code || !strstr(error_text(), hostile[i].says))
      fail_msg("%s -> %s: %s: \"%s\", expected %s and \"%s\"", hostile[i].from, hostile[i].to, kiln_status_name(status),
               status ? error_text() : "", kiln_status_name(hostile[i].code), hostile[i].says);
    assert_non_null(strstr(error_text(), "importing m.pt2"));
    text_free(&zip);
  }
}

/* Files cut at any place, and files with any one byte of the JSON changed, must not crash; most must fail. */
static void damaged_files(void **state) {
  (void)state;
  text zip = {0};
  make_archive(model_json, weights_json, &zip);
  for (size_t size = 0; size < zip.length; size += 7) {
    graph *g = NULL;
    assert_int_not_equal(export_import(zip.data, size, "cut", &g), KILN_OK);
    assert_null(g);
  }
  text_free(&zip);
  char *model = replaced(model_json, NULL, NULL);
  for (size_t i = 0; i < strlen(model_json); i++) {
    graph *g = NULL;
    text one = {0};
    model[i] = (char)(model[i] == '"' ? ' ' : model[i] ^ 1);
    make_archive(model, weights_json, &one);
    if (export_import(one.data, one.length, "flipped", &g) == KILN_OK) graph_destroy(g);
    model[i] = model_json[i];
    text_free(&one);
  }
  kiln_free(model);
}

/* Chains of views are followed by recursion: a file must not choose how deep. */
static void deep_views(void **state) {
  (void)state;
  static const int depths[] = {100, 100000};
  for (int k = 0; k < 2; k++) {
    text nodes = {0}, zip = {0};
    graph *g;
    for (int i = 0; i < depths[k]; i++) {
      char from[24] = "x";
      if (i) snprintf(from, sizeof from, "v%d", i - 1);
      text_printf(
          &nodes,
          "{\"target\": \"torch.ops.aten.alias.default\", \"inputs\": [{\"name\": \"self\", \"arg\": {\"as_tensor\": "
          "{\"name\": \"%s\"}}}], \"outputs\": [{\"as_tensor\": {\"name\": \"v%d\"}}], \"metadata\": {}},",
          from, i);
    }
    text_puts(&nodes, "{\"target\": \"torch.ops.aten.relu.default\"");
    const kiln_status status =
        import_with("{\"target\": \"torch.ops.aten.relu.default\"", nodes.data, NULL, NULL, &g, &zip);
    if (k == 0) {
      assert_int_equal(status, KILN_OK);
      graph_destroy(g);
    } else {
      assert_int_equal(status, KILN_UNSUPPORTED);
      assert_non_null(strstr(error_text(), "nested more than"));
    }
    text_free(&nodes);
    text_free(&zip);
  }
}

static void not_an_export(void **state) {
  (void)state;
  graph *g = NULL;
  text zip = {0};
  const entry other = {"m/other.txt", "hello", 5};
  make_zip(&other, 1, &zip);
  assert_false(export_detect(zip.data, zip.length));
  assert_false(export_detect("PK", 2));
  assert_false(export_detect("", 0));
  assert_int_equal(export_import(zip.data, zip.length, "other", &g), KILN_INVALID_FILE);
  assert_non_null(strstr(error_text(), "models/model.json"));
  text_free(&zip);
  /* big-endian weights */
  const entry big[] = {{"m/models/model.json", model_json, sizeof model_json - 1}, {"m/byteorder", "big", 3}};
  make_zip(big, 2, &zip);
  assert_int_equal(export_import(zip.data, zip.length, "big", &g), KILN_UNSUPPORTED);
  text_free(&zip);
}

/* Each allocation fails once: an error, no leak. */
static void out_of_memory(void **state) {
  (void)state;
  text zip = {0};
  make_archive(model_json, weights_json, &zip);
  graph *g = NULL;
  assert_int_equal(export_import(zip.data, zip.length, "m.pt2", &g), KILN_OK); /* tables that stay are made now */
  graph_destroy(g);
  const int64_t before = mem_test_live_blocks();
  bool done = false;
  for (int64_t n = 0; !done; n++) {
    assert_true(n < 20000);
    mem_test_fail_after(n);
    g = NULL;
    const kiln_status status = export_import(zip.data, zip.length, "m.pt2", &g);
    mem_test_fail_after(-1);
    done = status == KILN_OK;
    if (done)
      graph_destroy(g);
    else if (status != KILN_OUT_OF_MEMORY)
      fail_msg("allocation %lld: %s: %s", (long long)n, kiln_status_name(status), error_text());
    assert_int_equal(mem_test_live_blocks(), before);
  }
  text_free(&zip);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_good_file),   cmocka_unit_test(literals),   cmocka_unit_test(hostile_files),
      cmocka_unit_test(damaged_files), cmocka_unit_test(deep_views), cmocka_unit_test(not_an_export),
      cmocka_unit_test(out_of_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
