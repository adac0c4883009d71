/* TorchScript archives: what files of PyTorch hold (tests/fuzz/torchscript_seeds.py says what is in them), and archives
 * made here that must be refused with a text. */
#include <stdlib.h>

#include "base/file.h"
#include "import/torchscript/survey.h"
#include "import/torchscript/torchscript.h"
#include "ops/op.h"
#include "unit/expect.h"
#include "unit/zip_writer.h"

typedef struct opened {
  file_map file;
  graph *g;
  ts_archive a;
} opened;

static void open_seed(const char *name, opened *o) {
  char path[512];
  snprintf(path, sizeof path, "%s/torchscript/%s.pt", KILN_FUZZ_CORPUS, name);
  expect_ok(ops_init());
  expect_ok(file_map_open(path, &o->file));
  expect_ok(graph_create(&o->g));
  assert_true(ts_archive_detect(o->file.data, o->file.size));
  expect_ok(ts_archive_open(&o->a, o->g, o->file.data, o->file.size, name));
}

static void close_seed(opened *o) {
  ts_archive_close(&o->a);
  graph_destroy(o->g);
  file_map_close(&o->file);
}

/* The attribute at a path such as "sub.weight". */
static const ts_value *at(const opened *o, const char *path) {
  const ts_value *v = &o->a.root;
  char name[100];
  for (; *path; path += *path == '.') {
    const size_t n = strcspn(path, ".");
    memcpy(name, path, n);
    name[n] = 0;
    path += n;
    assert_true(v->kind == TSV_OBJECT || v->kind == TSV_NAMEDTUPLE);
    const int i = ts_class_attribute(v->u.object->cls, name);
    if (i < 0) fail_msg("no attribute %s", name);
    v = &v->u.object->attrs[i];
  }
  return v;
}

static void expect_tensor(const ts_value *v, kiln_dtype dtype, int rank, int64_t d0, int64_t d1) {
  assert_int_equal(v->kind, TSV_TENSOR);
  const tensor_type *t = &v->u.tensor->v->type;
  assert_int_equal(t->dtype, dtype);
  assert_int_equal(t->rank, rank);
  if (rank > 0) assert_int_equal(t->dims[0], d0);
  if (rank > 1) assert_int_equal(t->dims[1], d1);
}

static void expect_type(const ts_type *type, const char *expected) {
  text t = {0};
  ts_type_print(type, &t);
  assert_string_equal(t.data, expected);
  text_free(&t);
}

/* ---- what is in a file
 * ------------------------------------------------------------------------------------------------ */

static void reads_attributes(void **state) {
  (void)state;
  opened o;
  open_seed("scripted", &o);
  assert_string_equal(o.a.root.u.object->cls->name, "__torch__.torchscript_seeds.Everything");
  assert_int_equal(o.a.root.u.object->cls->kind, TSC_MODULE);
  assert_int_equal(at(&o, "training")->kind, TSV_BOOL);
  assert_int_equal(at(&o, "training")->u.i, 0);
  assert_int_equal(at(&o, "absent")->kind, TSV_NONE);
  assert_string_equal(at(&o, "device")->u.s, "cpu");
  assert_int_equal(at(&o, "color")->kind, TSV_ENUM);
  assert_string_equal(at(&o, "color")->u.object->attrs[0].u.s, "GREEN");
  assert_int_equal(at(&o, "color")->u.object->attrs[1].u.i, 2);
  const ts_value *strs = at(&o, "strs"), *numbers = at(&o, "numbers");
  expect_type(strs->type, "List[str]");
  assert_int_equal(strs->u.list->count, 2);
  assert_string_equal(strs->u.list->items[1].u.s, "b\u00e9");
  expect_type(numbers->type, "Dict[str, int]");
  assert_string_equal(numbers->u.dict->keys[0].u.s, "x");
  assert_int_equal(numbers->u.dict->values[0].u.i, 1);
  expect_type(at(&o, "ints")->type, "List[int]");
  assert_true(at(&o, "floats")->u.list->items[0].u.f == 1.5);
  expect_type(at(&o, "pair")->type, "Tuple[int, str]");
  assert_string_equal(at(&o, "pair")->u.list->items[1].u.s, "q");
  assert_int_equal(at(&o, "box.items")->u.list->items[0].u.i, 4);
  assert_int_equal(at(&o, "box")->u.object->cls->kind, TSC_CLASS);
  assert_int_equal(at(&o, "point")->kind, TSV_NAMEDTUPLE);
  assert_int_equal(at(&o, "point.n")->u.i, 4);
  assert_int_equal(at(&o, "points")->u.list->items[0].kind, TSV_NAMEDTUPLE);
  assert_string_equal(at(&o, "layers.1")->u.object->path, "layers.1");
  assert_int_equal(o.a.n_constants, 1);
  assert_string_equal(o.a.constants[0].u.s, "b\u00e9d %d");
  assert_int_equal(o.a.version, 4);
  close_seed(&o);
}

static void reads_tensors(void **state) {
  (void)state;
  opened o;
  open_seed("scripted", &o);
  expect_tensor(at(&o, "sub.weight"), KILN_F32, 2, 3, 3);
  assert_ptr_equal(at(&o, "sub.weight")->u.tensor, at(&o, "sub2.weight")->u.tensor); /* shared: writes alias */
  assert_ptr_not_equal(at(&o, "sub.b")->u.tensor, at(&o, "sub2.b")->u.tensor);
  const value *b = at(&o, "sub.b")->u.tensor->v, *weight = at(&o, "sub.weight")->u.tensor->v;
  expect_tensor(at(&o, "sub.b"), KILN_I64, 2, 3, 2);
  static const int64_t transposed[] = {0, 3, 1, 4, 2, 5};
  assert_memory_equal(b->constant->data, transposed, sizeof transposed);
  expect_tensor(at(&o, "view"), KILN_F32, 1, 3, 0);
  assert_memory_equal(at(&o, "view")->u.tensor->v->constant->data, (const float *)weight->constant->data + 3, 12);
  expect_tensor(at(&o, "half"), KILN_F16, 1, 2, 0);
  expect_tensor(at(&o, "truth"), KILN_BOOL, 1, 2, 0);
  expect_tensor(at(&o, "expanded"), KILN_F32, 1, 5, 0);
  static const float ones[] = {1, 1, 1, 1, 1};
  assert_memory_equal(at(&o, "expanded")->u.tensor->v->constant->data, ones, sizeof ones);
  const ts_list *tensors = at(&o, "tensors")->u.list;
  expect_tensor(&tensors->items[1], KILN_F32, 2, 0, 2);
  expect_tensor(&tensors->items[2], KILN_I64, 0, 0, 0);
  assert_int_equal(*(const int64_t *)tensors->items[2].u.tensor->v->constant->data, 3);
  assert_int_equal(o.a.n_parameters, 12);
  assert_string_equal(o.a.parameters[4].path, "sub.weight");
  assert_ptr_equal(o.a.parameters[4].initial, o.a.parameters[6].initial);
  close_seed(&o);
}

static void reads_classes(void **state) {
  (void)state;
  opened o;
  open_seed("scripted", &o);
  const ts_class *sub = at(&o, "sub")->u.object->cls, *color = NULL;
  const int weight = ts_class_attribute(sub, "weight"), b = ts_class_attribute(sub, "b"),
            k = ts_class_attribute(sub, "k");
  assert_true(sub->attributes[weight].is_parameter && !sub->attributes[weight].is_buffer);
  assert_true(!sub->attributes[b].is_parameter && sub->attributes[b].is_buffer);
  assert_int_equal(sub->attributes[k].constant->u.i, 7);
  assert_null(ts_class_method(sub, "absent"));
  expect_ok(ts_class_find(&o.a, "__torch__.torchscript_seeds.Color", &color));
  ts_value red;
  expect_ok(ts_enum_member(&o.a, color, ts_class_attribute(color, "RED"), &red));
  assert_int_equal(red.u.object->attrs[1].u.i, 1);
  const ts_function *tint = NULL, *forward = ts_class_method(o.a.root.u.object->cls, "forward");
  expect_ok(ts_function_find(&o.a, "__torch__.torchscript_seeds.tint", &tint));
  expect_ok(ts_function_params(&o.a, tint));
  expect_type(tint->params[1], "__torch__.torchscript_seeds.Color");
  expect_ok(ts_function_params(&o.a, forward));
  assert_null(forward->params[0]);
  expect_type(forward->params[3], "Optional[List[str]]");
  assert_int_equal(ts_name_kind(&o.a, "__torch__.torchscript_seeds.tint"), TS_DEFINES_FUNCTION);
  assert_int_equal(ts_name_kind(&o.a, "__torch__.torchscript_seeds.Box"), TS_DEFINES_CLASS);
  assert_int_equal(ts_name_kind(&o.a, "__torch__.torchscript_seeds.Absent"), TS_DEFINES_NOTHING);
  assert_false(ts_name_exists(&o.a, "__torch__.absent.Box"));
  expect_failure(ts_class_find(&o.a, "__torch__.absent.Box", &color), KILN_INVALID_FILE,
                 "no class `__torch__.absent.Box`");
  expect_failure(ts_function_find(&o.a, "__torch__.torchscript_seeds.Box", &tint), KILN_INVALID_FILE, "no function");
  close_seed(&o);
}

static void keeps_states_for_setstate(void **state) {
  (void)state;
  opened o;
  open_seed("scripted", &o);
  assert_int_equal(o.a.n_pending, 1);
  const ts_object *s = at(&o, "stateful")->u.object;
  assert_ptr_equal(o.a.pending[0], s);
  assert_int_equal(s->state->kind, TSV_TUPLE);
  assert_int_equal(s->state->u.list->items[1].u.i, 5);
  assert_int_equal(at(&o, "stateful.n")->kind, TSV_UNINITIALIZED);
  close_seed(&o);
}

static void reads_traced_inputs(void **state) {
  (void)state;
  opened o;
  ts_value v;
  open_seed("traced", &o);
  expect_ok(ts_archive_traced_inputs(&o.a, "forward", &v));
  assert_int_equal(v.kind, TSV_LIST);
  expect_tensor(&v.u.list->items[0], KILN_F32, 4, 1, 1);
  expect_ok(ts_archive_traced_inputs(&o.a, "other", &v));
  assert_int_equal(v.kind, TSV_NONE);
  close_seed(&o);
  open_seed("nested", &o);
  expect_ok(ts_archive_traced_inputs(&o.a, "forward", &v));
  assert_int_equal(v.u.list->items[0].kind, TSV_DICT);
  expect_tensor(&v.u.list->items[1].u.list->items[1].u.list->items[0], KILN_F32, 1, 2, 0);
  close_seed(&o);
  open_seed("scripted", &o);
  expect_ok(ts_archive_traced_inputs(&o.a, "forward", &v));
  assert_int_equal(v.kind, TSV_NONE);
  close_seed(&o);
}

static void expect_ints(const ts_value *v, int64_t first, int64_t second) {
  assert_int_equal(v->u.list->count, 2);
  assert_int_equal(v->u.list->items[0].u.i, first);
  assert_int_equal(v->u.list->items[1].u.i, second);
}

static void reads_quantized_tensors(void **state) {
  (void)state;
  opened o;
  open_seed("quantized", &o);
  const ts_qtensor *q = at(&o, "per_tensor")->u.qtensor, *c = at(&o, "per_channel")->u.qtensor;
  assert_int_equal(at(&o, "per_tensor")->kind, TSV_QTENSOR);
  assert_int_equal(q->axis, -1);
  assert_int_equal(q->integers->v->type.dtype, KILN_U8);
  assert_true(*(const double *)q->scale->v->constant->data == 0.1);
  assert_int_equal(*(const int64_t *)q->zero_point->v->constant->data, 2);
  assert_int_equal(c->axis, 1);
  assert_int_equal(c->integers->v->type.dtype, KILN_I8);
  assert_int_equal(c->scale->v->type.dims[0], 2);
  assert_int_equal(at(&o, "conv")->u.object->cls->kind, TSC_BUILTIN);
  assert_int_equal(at(&o, "conv.weight")->kind, TSV_QTENSOR);
  expect_tensor(at(&o, "conv.bias"), KILN_F32, 1, 2, 0);
  expect_ints(at(&o, "conv.stride"), 1, 2);
  expect_ints(at(&o, "conv.padding"), 0, 1);
  expect_ints(at(&o, "conv.dilation"), 1, 1);
  assert_int_equal(at(&o, "conv.groups")->u.i, 1);
  assert_int_equal(at(&o, "conv.transpose")->u.i, 0);
  close_seed(&o);
  open_seed("dynamic", &o);
  assert_int_equal(at(&o, "linear._packed_params._packed_params.weight")->kind, TSV_QTENSOR);
  expect_tensor(at(&o, "linear._packed_params._packed_params.bias"), KILN_F32, 1, 3, 0);
  close_seed(&o);
}

/* The lines of code that hold `part`, and where they came from. */
static void expect_source(opened *o, const char *class_name, const char *method, const char *expected) {
  const ts_class *c = NULL;
  expect_ok(ts_class_find(&o->a, class_name, &c));
  const ts_function *f = ts_class_method(c, method);
  for (const ts_stmt *s = f->def->body; s; s = s->next)
    if (str_eq(ts_source(&o->a, f->file, s->line), expected)) return;
  fail_msg("no statement of %s.%s is from %s", class_name, method, expected);
}

static void finds_source_lines(void **state) {
  (void)state;
  opened o;
  open_seed("scripted", &o);
  expect_source(&o, "__torch__.torchscript_seeds.Sub", "forward", "torchscript_seeds.py:51");
  expect_source(&o, "__torch__.torchscript_seeds.Everything", "forward", "torchscript_seeds.py:103");
  expect_source(&o, "__torch__.torchscript_seeds.Everything", "forward", "torchscript_seeds.py:110");
  const char *line_1 = ts_source(&o.a, "code/__torch__/torchscript_seeds.py", 1);
  assert_string_equal(line_1, "code/__torch__/torchscript_seeds.py:1");
  assert_string_equal(ts_source(&o.a, "code/__torch__/torchscript_seeds.py", 999999),
                      "code/__torch__/torchscript_seeds.py:999999");
  assert_string_equal(ts_source(&o.a, "absent.py", -1), "absent.py:-1");
  close_seed(&o);
  open_seed("traced", &o);
  expect_source(&o, "__torch__.torchscript_seeds.Conv", "forward", "torchscript_seeds.py:127");
  expect_source(&o, "__torch__.torch.nn.modules.conv.Conv2d", "forward",
                "torchscript_seeds.py:127"); /* who called it */
  close_seed(&o);
}

/* ---- descriptions
 * ----------------------------------------------------------------------------------------------------- */

static void describe_seed(const char *name, text *out) {
  char path[512];
  file_map file;
  snprintf(path, sizeof path, "%s/torchscript/%s.pt", KILN_FUZZ_CORPUS, name);
  expect_ok(ops_init());
  expect_ok(file_map_open(path, &file));
  expect_ok(torchscript_describe(file.data, file.size, name, out));
  file_map_close(&file);
}

static void expect_part(const text *t, const char *part) {
  if (!strstr(t->data, part)) fail_msg("'%s' is not in:\n%s", part, t->data);
}

static void describes_files(void **state) {
  (void)state;
  text t = {0};
  describe_seed("scripted", &t);
  expect_part(&t,
              "forward(x: Tensor, n: int = 2, names: Optional[List[str]] = None) -> Tuple[Tensor, int, Tensor, int]");
  expect_part(&t, "f32[3,3]   same as sub.weight");
  expect_part(&t, "aten::poisson, used 2 times, first at torchscript_seeds.py:114");
  expect_part(&t, "aten::kaiser_window, used 1 time, first at torchscript_seeds.py:117");
  text_free(&t);
  describe_seed("traced", &t);
  expect_part(&t, "forward(x = f32[1,1,4,4])");
  expect_part(&t, "all of them are supported");
  text_free(&t);
  describe_seed("frozen", &t);
  expect_part(&t, "constants of the code: 2 tensors, 80 bytes");
  text_free(&t);
}

static void surveys_methods(void **state) {
  (void)state;
  opened o;
  open_seed("scripted", &o);
  const ts_class *c = o.a.root.u.object->cls;
  expect_ok(ts_survey_unsupported(&o.a, ts_class_method(c, "forward")));
  expect_failure(ts_survey_unsupported(&o.a, ts_class_method(c, "other")), KILN_UNSUPPORTED,
                 "2 operators of this model are not supported:\n"
                 "  aten::poisson, used 2 times, first at torchscript_seeds.py:114\n"
                 "  aten::kaiser_window, used 1 time, first at torchscript_seeds.py:117");
  ts_survey s;
  expect_ok(ts_survey_operators(&o.a, ts_class_method(c, "forward"), &s));
  int matmul = 0, linear = 0;
  for (int32_t i = 0; i < s.count; i++) {
    if (str_eq(s.operators[i].name, "aten::matmul")) matmul = (int)s.operators[i].count;
    if (str_eq(s.operators[i].name, "aten::linear")) linear = (int)s.operators[i].count;
  }
  assert_int_equal(matmul, 2); /* one function, called twice */
  assert_int_equal(linear, 2);
  close_seed(&o);
}

/* ---- archives that are refused
 * ---------------------------------------------------------------------------------------- */

#define CODE "class M(Module):\n  __parameters__ = [\"w\", ]\n  __buffers__ = []\n  w : Tensor\n  n : int\n"
#define STR(length, s) "X" length "\0\0\0" s
#define OBJECT \
  "\x80\x02"   \
  "c__torch__\nM\n)\x81}("
#define FLOATS                                           \
  "(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" \
  "0X\x03\0\0\0cpuK\x02tQ"
#define TENSOR(offset, sizes, strides)                                            \
  "ctorch._utils\n_rebuild_tensor_v2\n(" FLOATS "K" offset "(" sizes "t(" strides \
  "t\x89"                                                                         \
  "ccollections\nOrderedDict\n)RtR"
#define GOOD TENSOR("\x00", "K\x02", "K\x01")
#define END "ub."
#define W STR("\x01", "w")
#define N STR("\x01", "n")
#define P(s) (s), sizeof(s) - 1

static kiln_status open_made(const char *code, const char *pickle, size_t size, ts_archive *a, graph *g, text *bytes) {
  const zip_part parts[] = {{"m/version", "3\n", 2},
                            {"m/code/__torch__.py", code, strlen(code)},
                            {"m/data.pkl", pickle, size},
                            {"m/data/0", "\0\0\x80\x3f\0\0\0\x40", 8}};
  zip_write(parts, 4, bytes);
  return ts_archive_open(a, g, bytes->data, bytes->length, "made");
}

static void refuses(const char *code, const char *pickle, size_t size, kiln_status expected, const char *part) {
  graph *g = NULL;
  ts_archive a;
  text bytes = {0};
  expect_ok(ops_init());
  expect_ok(graph_create(&g));
  expect_failure(open_made(code, pickle, size, &a, g, &bytes), expected, part);
  graph_destroy(g);
  text_free(&bytes);
}

static void reads_a_made_archive(void **state) { /* so that the next tests fail for the reason that they name */
  (void)state;
  graph *g = NULL;
  ts_archive a;
  text bytes = {0};
  expect_ok(ops_init());
  expect_ok(graph_create(&g));
  expect_ok(open_made(CODE, P(OBJECT W GOOD N "K\x05" END), &a, g, &bytes));
  assert_int_equal(a.n_parameters, 1);
  assert_true(((const float *)a.parameters[0].initial->constant->data)[1] == 2.0f);
  assert_int_equal(a.root.u.object->attrs[1].u.i, 5);
  ts_archive_close(&a);
  graph_destroy(g);
  text_free(&bytes);
  expect_ok(graph_create(&g)); /* a state in another order than the class, with more than the class has */
  expect_ok(open_made(CODE, P(OBJECT STR("\x01", "z") "N" N "K\x05" W GOOD END), &a, g, &bytes));
  assert_int_equal(a.n_parameters, 1);
  assert_int_equal(a.root.u.object->attrs[1].u.i, 5);
  ts_archive_close(&a);
  graph_destroy(g);
  text_free(&bytes);
}

static void refuses_damaged_data(void **state) {
  (void)state;
  static const struct {
    const char *pickle;
    size_t size;
    kiln_status status;
    const char *part;
  } cases[] = {
      {P(OBJECT W GOOD END), KILN_INVALID_FILE, "`n` is missing: class __torch__.M (code/__torch__.py:1)"},
      {P(OBJECT W "K\x05" N "K\x05" END), KILN_INVALID_FILE, "`w` is an int; its type is Tensor"},
      {P(OBJECT W GOOD N "]" END), KILN_INVALID_FILE, "`n` is a list; its type is int"},
      {P(OBJECT W TENSOR("\x01", "K\x02", "K\x01") N "K\x05" END), KILN_INVALID_FILE,
       "reach over 12 bytes, but data/0 has 8"},
      {P(OBJECT W TENSOR("\x00", "K\xffK\xff", "K\x01K\xff") N "K\x05" END), KILN_INVALID_FILE, "tensor `w`"},
      {P(OBJECT W TENSOR("\x00", "J\x00\x00\x00\x40K\x01", "K\x00K\x00") N "K\x05" END), KILN_INVALID_FILE,
       "far larger"},
      {P(OBJECT W TENSOR("\x00", "J\xff\xff\xff\xff", "K\x01") N "K\x05" END), KILN_INVALID_FILE, "not negative"},
      {P(OBJECT W TENSOR("\x00", "K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01",
                         "K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01") N "K\x05" END),
       KILN_UNSUPPORTED, "9 dimensions"},
      {P("\x80\x02"
         "c__torch__\nOther\n)\x81}b."),
       KILN_INVALID_FILE, "no class `__torch__.Other`"},
      {P("\x80\x02"
         "c__torch__.a.b\nOther\n)\x81}b."),
       KILN_INVALID_FILE, "no class `__torch__.a.b.Other`"},
      {P("\x80\x02"
         "cos\nsystem\n)\x81}b."),
       KILN_INVALID_FILE, "global 'os.system' is not on the list"},
      {P("\x80\x02"
         "c__torch__\nM\n)\x81."),
       KILN_INVALID_FILE, "an object without a state"},
      {P("\x80\x02"
         "c__torch__\nM\n)\x81K\x01"
         "b."),
       KILN_INVALID_FILE, "its state is no dict"},
      {P("\x80\x02K\x01."), KILN_INVALID_FILE, "expected a module"},
      {P("\x80\x02"
         "c__torch__.torch.classes.x\nY\n)\x81}b."),
       KILN_UNSUPPORTED, "C++ classes that Kiln does not know"},
      {P(OBJECT W "cbuiltins\ncomplex\nG\0\0\0\0\0\0\0\0G\0\0\0\0\0\0\0\0\x86R" N "K\x05" END), KILN_UNSUPPORTED,
       "complex number"},
      {P(OBJECT W "ctorch._utils\n_rebuild_sparse_tensor\n)R" N "K\x05" END), KILN_UNSUPPORTED, "sparse tensor"},
      {P(OBJECT W "ctorch.jit._pickle\nrestore_type_tag\n]" STR("\x09", "List[int(") "\x86R" END), KILN_INVALID_FILE,
       "reading `w`"},
      {P(OBJECT W GOOD N), KILN_INVALID_FILE, "cut short"},
  };
  for (size_t i = 0; i < KILN_COUNT(cases); i++)
    refuses(CODE, cases[i].pickle, cases[i].size, cases[i].status, cases[i].part);
}

static void refuses_damaged_code(void **state) {
  (void)state;
  static const struct {
    const char *code;
    kiln_status status;
    const char *part;
  } cases[] = {
      {"class M(Module):\n  w : Banana\n", KILN_UNSUPPORTED, "code/__torch__.py:2: type `Banana` is not supported"},
      {"class M(Module):\n  w : Banana[int]\n", KILN_UNSUPPORTED,
       "code/__torch__.py:2: type `Banana[...]` is not supported"},
      {"class M(Module):\n  w : Dict[int]\n", KILN_INVALID_FILE, "code/__torch__.py:2: Dict[...] takes 2 types, got 1"},
      {"class M(Module):\n  w : 3\n", KILN_INVALID_FILE, "code/__torch__.py:2: expected a type"},
      {"class M(Module):\n  w : __torch__.Absent\n", KILN_INVALID_FILE, "no class `__torch__.Absent`"},
      {"class M(Module):\n  w : Final[int]\n", KILN_INVALID_FILE, "constant `w` has no value"},
      {"class M(Module):\n  w : int\n  w : int\n", KILN_INVALID_FILE, "two attributes `w`"},
      {"class M(Module):\n  __parameters__ = [\"q\", ]\n  w : Tensor\n", KILN_INVALID_FILE,
       "lists `q`, which is no attribute"},
      {"class M(Module):\n  other = 3\n", KILN_INVALID_FILE, "code/__torch__.py:2: a class assigns to `other`"},
      {"class M(Module):\n  return 3\n", KILN_INVALID_FILE, "holds only attributes and methods"},
      {"class M(Module):\n  def f() -> int:\n    return 1\n", KILN_INVALID_FILE, "`f` has no parameter `self`"},
      {"class M(Module):\n  pass\nclass M(Module):\n  pass\n", KILN_INVALID_FILE, "M is defined twice"},
      {"class M(Module):\n  w : Tensor +\n", KILN_INVALID_FILE, "code/__torch__.py:2"},
      {"def M(x: Tensor) -> Tensor:\n  return x\n", KILN_INVALID_FILE, "no class `__torch__.M`"},
      {"class M(Enum):\n  A = 1\n", KILN_INVALID_FILE, "a class that has no objects"},
  };
  for (size_t i = 0; i < KILN_COUNT(cases); i++)
    refuses(cases[i].code, P(OBJECT W GOOD N "K\x05" END), cases[i].status, cases[i].part);
}

/* a.b.c.d ... and List[List[...]] of a length that would exhaust a stack. */
static void refuses_endless_nesting(void **state) {
  (void)state;
  text chain = {0}, lists = {0};
  text_puts(&chain, "class M(Module):\n  w : a");
  text_puts(&lists, "class M(Module):\n  w : ");
  for (int i = 0; i < 100000; i++) text_puts(&chain, ".a");
  for (int i = 0; i < 100; i++) text_puts(&lists, "List[");
  text_puts(&lists, "int");
  for (int i = 0; i < 100; i++) text_puts(&lists, "]");
  text_puts(&chain, "\n");
  text_puts(&lists, "\n");
  refuses(chain.data, P(OBJECT W GOOD END), KILN_INVALID_FILE, "more than 1000 parts in a row");
  refuses(lists.data, P(OBJECT W GOOD END), KILN_INVALID_FILE, "nested more than 64 deep");
  text_free(&chain);
  text_free(&lists);
}

/* Modules in modules, deeper than any model: the stack must hold as far as they are read. */
static void reads_deep_modules(void **state) {
  (void)state;
  static const char code[] = "class M(Module):\n  m : Optional[__torch__.M]\n";
  static const char open[] = "c__torch__\nM\n)\x81}(X\x01\0\0\0m";
  for (int depth = 250; depth <= 2000; depth += 1750) {
    graph *g = NULL;
    ts_archive a;
    text bytes = {0}, pickle = {0};
    text_puts(&pickle, "\x80\x02");
    for (int i = 0; i < depth; i++) text_append(&pickle, open, sizeof open - 1);
    text_puts(&pickle, "N");
    for (int i = 0; i < depth; i++) text_puts(&pickle, "ub");
    text_puts(&pickle, ".");
    expect_ok(ops_init());
    expect_ok(graph_create(&g));
    const kiln_status status = open_made(code, pickle.data, pickle.length, &a, g, &bytes);
    if (depth > 250)
      expect_failure(status, KILN_INVALID_FILE, "nested deeper than");
    else
      expect_ok(status);
    if (status == KILN_OK) ts_archive_close(&a);
    graph_destroy(g);
    text_free(&pickle);
    text_free(&bytes);
  }
}

/* Source ranges as PyTorch wrote them before there was a table of strings, and damaged ones, which count as none. */
static void reads_old_source_ranges(void **state) {
  (void)state;
#define TABLE   \
  "X\x18\0\0\0" \
  "FORMAT_WITH_STRING_TABLE"
#define SOURCE        \
  "(X\x0f\0\0\0"      \
  "def f():\n  x()\n" \
  "X\x0d\0\0\0/home/me/a.pyK\x07t"
  static const struct {
    const char *record;
    size_t size;
    const char *expected;
  } cases[] = {
      {P("\x80\x02((K\x00(" SOURCE "K\x00K\x03ttt."), "a.py:7"},                /* (offset, range) */
      {P("\x80\x02((K\x00(" SOURCE "K\x0bK\x0ettt."), "a.py:8"},                /* that starts in the second line */
      {P("\x80\x02((K\x00K\x05(" SOURCE "K\x02K\x03ttt."), "a.py:7"},           /* (offset, tag, range) */
      {P("\x80\x02((K\x00(" SOURCE "K\xffK\xfftK\x05tt."), "a.py:9"},           /* (offset, range, tag), past the end */
      {P("\x80\x02((K\xff(" SOURCE "K\x00K\x03ttt."), "code/__torch__.py:3"},   /* behind the code */
      {P("\x80\x02(((K\x00(" SOURCE "K\x00K\x03tttt."), "code/__torch__.py:3"}, /* one tuple too many */
      {P("\x80\x02" TABLE ")((K\x00(" SOURCE "K\x00K\x00tK\x05tt\x87."), "a.py:7"},
      {P("\x80\x02" TABLE "X\x04\0\0\0b.py\x85((K\x00((]K\x00"
         "aK\x00K\x01tK\x05K\x05tK\x05tt\x87."),
       "b.py:1"},
      {P("\x80\x02" TABLE ")((K\x00((]K\x63"
         "aK\x63K\x01tK\x05K\x05tK\x05tt\x87."),
       "code/__torch__.py:3"}, /* no such line */
      {P("\x80\x02K\x01."), "code/__torch__.py:3"},
      {P("\x80\x02N"), "code/__torch__.py:3"},
  };
  static const char code[] = "class M(Module):\n  def f(self: __torch__.M) -> int:\n    return 3\n";
  for (size_t i = 0; i < KILN_COUNT(cases); i++) {
    const zip_part parts[] = {{"m/version", "3\n", 2},
                              {"m/code/__torch__.py", code, sizeof code - 1},
                              {"m/code/__torch__.py.debug_pkl", cases[i].record, cases[i].size},
                              {"m/data.pkl", P("\x80\x02"
                                               "c__torch__\nM\n)\x81}b.")}};
    graph *g = NULL;
    ts_archive a;
    text bytes = {0};
    expect_ok(ops_init());
    expect_ok(graph_create(&g));
    zip_write(parts, 4, &bytes);
    expect_ok(ts_archive_open(&a, g, bytes.data, bytes.length, "made"));
    const char *found = ts_source(&a, "code/__torch__.py", 3);
    if (!str_eq(found, cases[i].expected)) fail_msg("case %zu: %s, expected %s", i, found, cases[i].expected);
    ts_archive_close(&a);
    graph_destroy(g);
    text_free(&bytes);
  }
}

/* Every function calls itself or the next one twice: the survey must end, and its counts must not overflow. */
static void survey_of_hostile_code_ends(void **state) {
  (void)state;
  graph *g = NULL;
  ts_archive a;
  text bytes = {0}, code = {0};
  text_puts(&code,
            "class M(Module):\n  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    return __torch__.f0(x)\n");
  for (int i = 0; i < 100; i++)
    text_printf(&code, "def f%d(x: Tensor) -> Tensor:\n  y = torch.relu(__torch__.f%d(x))\n  return __torch__.f%d(y)\n",
                i, i + 1, i + 1);
  text_puts(&code, "def f100(x: Tensor) -> Tensor:\n  return __torch__.f101(x)\n");
  text_puts(&code, "def f101(x: Tensor) -> Tensor:\n  return torch.sin(__torch__.f101(x))\n");
  expect_ok(ops_init());
  expect_ok(graph_create(&g));
  expect_ok(open_made(code.data,
                      P("\x80\x02"
                        "c__torch__\nM\n)\x81}b."),
                      &a, g, &bytes));
  ts_survey s;
  expect_ok(ts_survey_operators(&a, NULL, &s));
  assert_int_equal(s.count, 2);
  assert_string_equal(s.operators[0].name, "aten::relu");
  assert_true(s.operators[0].count >= (int64_t)1 << 50);
  ts_archive_close(&a);
  graph_destroy(g);
  text_free(&bytes);
  text_free(&code);
}

static void tells_files_apart(void **state) {
  (void)state;
  text bytes = {0};
  const zip_part saved[] = {{"m/data.pkl", "x", 1}, {"m/version", "3", 1}};
  zip_write(saved, 2, &bytes);
  assert_false(ts_archive_detect(bytes.data, bytes.length)); /* torch.save: no code */
  assert_false(ts_archive_detect("PK", 2));
  assert_false(ts_archive_detect("", 0));
  text_free(&bytes);
}

/* Memory runs out at each allocation of opening and describing a file. */
static void survives_allocation_failures(void **state) {
  (void)state;
  char path[512];
  file_map file;
  snprintf(path, sizeof path, "%s/torchscript/scripted.pt", KILN_FUZZ_CORPUS);
  expect_ok(ops_init());
  expect_ok(file_map_open(path, &file));
  text t = {0};
  expect_ok(torchscript_describe(file.data, file.size, "scripted", &t));
  text expected = t;
  const int64_t live = mem_test_live_blocks();
  bool done = false;
  for (int64_t n = 0; !done; n++) {
    text out = {0};
    mem_test_fail_after(n);
    const kiln_status status = torchscript_describe(file.data, file.size, "scripted", &out);
    done = mem_test_fail_left() >= 0;
    mem_test_fail_after(-1);
    if (status != KILN_OK && status != KILN_OUT_OF_MEMORY)
      fail_msg("allocation %lld: status %s: %s", (long long)n, kiln_status_name(status), error_text());
    if (done) assert_string_equal(out.data, expected.data);
    text_free(&out);
    if (mem_test_live_blocks() != live) fail_msg("allocation %lld: blocks leak: %s", (long long)n, error_text());
  }
  text_free(&expected);
  file_map_close(&file);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_attributes),        cmocka_unit_test(reads_tensors),
      cmocka_unit_test(reads_classes),           cmocka_unit_test(keeps_states_for_setstate),
      cmocka_unit_test(reads_traced_inputs),     cmocka_unit_test(reads_quantized_tensors),
      cmocka_unit_test(finds_source_lines),      cmocka_unit_test(describes_files),
      cmocka_unit_test(surveys_methods),         cmocka_unit_test(reads_a_made_archive),
      cmocka_unit_test(refuses_damaged_data),    cmocka_unit_test(refuses_damaged_code),
      cmocka_unit_test(refuses_endless_nesting), cmocka_unit_test(reads_deep_modules),
      cmocka_unit_test(reads_old_source_ranges), cmocka_unit_test(survey_of_hostile_code_ends),
      cmocka_unit_test(tells_files_apart),       cmocka_unit_test(survives_allocation_failures),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
