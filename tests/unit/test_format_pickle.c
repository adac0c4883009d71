/* Pickle machine: what Python and PyTorch wrote, every opcode, and hostile programs. */
#include <stdlib.h>

#include "base/file.h"
#include "base/text.h"
#include "format/pickle.h"
#include "unit/expect.h"

static const pickle_global allowed[] = {{"torch", "*Storage"},
                                        {"torch._utils", "_rebuild_tensor_v2"},
                                        {"collections", "OrderedDict"},
                                        {"__torch__*", "*"},
                                        {"_codecs", "encode"}};

static pickle_options limits(void) { return (pickle_options){.globals = allowed, .n_globals = KILN_COUNT(allowed)}; }

static kiln_status parse(const void *bytes, size_t size, arena *a, const pickle_value **v) {
  const pickle_options options = limits();
  void *copy = malloc(size + !size); /* exact size, for the sanitizer */
  memcpy(copy, bytes, size);
  const kiln_status status = pickle_parse(copy, size, "p", &options, a, v);
  free(copy); /* the result does not point into it */
  return status;
}

static void load(const char *name, file_map *m) {
  char path[512];
  snprintf(path, sizeof path, "%s/pickle/%s", KILN_FUZZ_CORPUS, name);
  expect_ok(file_map_open(path, m));
}

static void test_plain_values(void **state) {
  (void)state;
  static const char *const names[] = {"plain2.pkl", "plain4.pkl"};
  for (size_t k = 0; k < KILN_COUNT(names); k++) {
    file_map m;
    arena a = {0};
    const pickle_value *root;
    load(names[k], &m);
    expect_ok(parse(m.data, m.size, &a, &root));
    file_map_close(&m);
    const pickle_value *values = pickle_get(root, "values");
    assert_int_equal(values->kind, PICKLE_LIST);
    assert_int_equal(values->count, 16);
    static const int64_t ints[] = {1, -1, 300, 70000, (int64_t)1 << 40, -((int64_t)1 << 40)};
    for (size_t i = 0; i < KILN_COUNT(ints); i++) {
      assert_int_equal(values->items[i]->kind, PICKLE_INT);
      assert_int_equal(values->items[i]->u.i, ints[i]);
    }
    assert_true(values->items[6]->kind == PICKLE_FLOAT && values->items[6]->u.f == 2.5);
    assert_int_equal(values->items[7]->kind, PICKLE_NONE);
    assert_true(values->items[8]->kind == PICKLE_BOOL && values->items[8]->u.b);
    assert_string_equal(values->items[9]->u.s.data, "text");
    if (k == 1) { /* protocol 2 has no bytes: it calls _codecs.encode */
      assert_int_equal(values->items[10]->kind, PICKLE_BYTES);
      assert_string_equal(values->items[10]->u.s.data, "bytes");
    } else {
      assert_int_equal(values->items[10]->kind, PICKLE_REDUCE);
      assert_true(pickle_is_global(values->items[10]->u.call.callable, "_codecs", "encode"));
    }
    for (size_t i = 0; i < 5; i++) {
      assert_int_equal(values->items[11 + i]->kind, PICKLE_TUPLE);
      assert_int_equal(values->items[11 + i]->count, i);
      for (size_t e = 0; e < i; e++) assert_int_equal(values->items[11 + i]->items[e]->u.i, e + 1);
    }
    assert_ptr_equal(pickle_get(root, "again"), values);
    assert_int_equal(pickle_get(pickle_get(root, "nested"), "x")->depth, 3);
    assert_null(pickle_get(root, "absent"));
    arena_free(&a);
  }
}

static void test_state_dict(void **state) {
  (void)state;
  file_map m;
  arena a = {0};
  const pickle_value *root;
  load("state_dict.pkl", &m);
  expect_ok(parse(m.data, m.size, &a, &root));
  assert_int_equal(root->kind, PICKLE_REDUCE);
  assert_true(pickle_is_global(root->u.call.callable, "collections", "OrderedDict"));
  const pickle_value *weight = pickle_get(root, "linear.weight");
  assert_true(pickle_is_global(weight->u.call.callable, "torch._utils", "_rebuild_tensor_v2"));
  const pickle_value *args = weight->u.call.args, *id = args->items[0];
  assert_int_equal(id->kind, PICKLE_PERSID);
  assert_string_equal(id->u.call.args->items[0]->u.s.data, "storage");
  assert_true(pickle_is_global(id->u.call.args->items[1], "torch", "FloatStorage"));
  assert_int_equal(id->u.call.args->items[4]->u.i, 9);
  assert_int_equal(args->items[2]->items[0]->u.i, 3);
  assert_non_null(pickle_get(root->u.call.state, "_metadata"));
  arena_free(&a);
  file_map_close(&m);
}

static void test_script_module(void **state) {
  (void)state;
  file_map m;
  arena a = {0};
  const pickle_value *root;
  load("script.pkl", &m);
  expect_ok(parse(m.data, m.size, &a, &root));
  assert_int_equal(root->kind, PICKLE_OBJECT);
  assert_true(str_starts(root->u.call.callable->u.global.module, "__torch__"));
  const pickle_value *training = pickle_get(root->u.call.state, "training");
  assert_true(training->kind == PICKLE_BOOL && !training->u.b);
  const pickle_value *linear = pickle_get(root->u.call.state, "linear");
  assert_int_equal(linear->kind, PICKLE_OBJECT);
  assert_int_equal(pickle_get(linear->u.call.state, "weight")->kind, PICKLE_REDUCE);
  arena_free(&a);
  file_map_close(&m);
}

static void test_truncated_and_flipped(void **state) {
  (void)state;
  static const char *const names[] = {"plain2.pkl", "plain4.pkl", "script.pkl", "state_dict.pkl"};
  for (size_t k = 0; k < KILN_COUNT(names); k++) {
    file_map m;
    load(names[k], &m);
    for (size_t size = 0; size < m.size; size++) {
      arena a = {0};
      const pickle_value *v;
      expect_failure(parse(m.data, size, &a, &v), KILN_INVALID_FILE, "cut short");
      arena_free(&a);
    }
    uint8_t *bytes = malloc(m.size);
    memcpy(bytes, m.data, m.size);
    for (size_t bit = 0; bit < 8 * m.size; bit++) {
      arena a = {0};
      const pickle_value *v;
      bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
      if (parse(bytes, m.size, &a, &v) != KILN_OK) assert_true(str_starts(error_text(), "p: pickle, byte "));
      bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
      arena_free(&a);
    }
    free(bytes);
    file_map_close(&m);
  }
}

#define P(literal) literal, sizeof(literal) - 1

static void test_single_opcodes(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t size;
    pickle_kind kind;
    int64_t number; /* an int's value; else the count or length */
  } cases[] = {
      {P("K\x07."), PICKLE_INT, 7},
      {P("M\x01\x02."), PICKLE_INT, 513},
      {P("J\xff\xff\xff\xff."), PICKLE_INT, -1},
      {P("\x8a\x00."), PICKLE_INT, 0},
      {P("\x8a\x01\xff."), PICKLE_INT, -1},
      {P("\x8a\x02\xff\x00."), PICKLE_INT, 255},
      {P("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f."), PICKLE_INT, INT64_MAX},
      {P("\x8b\x01\x00\x00\x00\x80."), PICKLE_INT, -128},
      {P("U\x02hi."), PICKLE_STRING, 2},
      {P("T\x02\x00\x00\x00hi."), PICKLE_STRING, 2},
      {P("\x8d\x02\x00\x00\x00\x00\x00\x00\x00hi."), PICKLE_STRING, 2},
      {P("\x8e\x02\x00\x00\x00\x00\x00\x00\x00\x00\xff."), PICKLE_BYTES, 2},
      {P("B\x01\x00\x00\x00\xff."), PICKLE_BYTES, 1},
      {P("(K\x01K\x02l."), PICKLE_LIST, 2},
      {P("(K\x01K\x02"
         "d."),
       PICKLE_DICT, 1},
      {P("]K\x01"
         "a."),
       PICKLE_LIST, 1},
      {P("}K\x01K\x02s."), PICKLE_DICT, 1},
      {P("](K\x01K\x02K\x03"
         "eK\x04"
         "a."),
       PICKLE_LIST, 4},
      {P("K\x01K\x02"
         "0."),
       PICKLE_INT, 1},
      {P("K\x01(K\x02K\x03"
         "1."),
       PICKLE_INT, 1},
      {P("K\x05"
         "2\x86."),
       PICKLE_TUPLE, 2},
      {P("K\x05r\x07\x00\x00\x00j\x07\x00\x00\x00\x86."), PICKLE_TUPLE, 2},
      {P("K\x05\x94h\x00\x86."), PICKLE_TUPLE, 2},
      {P("ccollections\nOrderedDict\n)R(U\x01"
         "aK\x01u."),
       PICKLE_REDUCE, 1},
      {P("\x8c\x0b"
         "collections\x8c\x0bOrderedDict\x93)}\x92."),
       PICKLE_OBJECT, 0},
      {P("\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00K\x01."), PICKLE_INT, 1},
      {P("K\x07Q."), PICKLE_PERSID, 0},
      {P("(t."), PICKLE_TUPLE, 0}, /* nothing was ever on the stack */
      {P("(l."), PICKLE_LIST, 0},
  };
  for (size_t i = 0; i < KILN_COUNT(cases); i++) {
    arena a = {0};
    const pickle_value *v;
    expect_ok(parse(cases[i].bytes, cases[i].size, &a, &v));
    assert_int_equal(v->kind, cases[i].kind);
    const bool is_text = v->kind == PICKLE_STRING || v->kind == PICKLE_BYTES;
    assert_int_equal(v->kind == PICKLE_INT ? v->u.i
                     : is_text             ? (int64_t)v->u.s.length
                                           : (int64_t)v->count,
                     cases[i].number);
    arena_free(&a);
  }
}

static void test_hostile(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t size;
    const char *text;
  } cases[] = {
      {P(""), "byte 0: cut short"},
      {P("."), "ends with 0 values"},
      {P("K\x01K\x02."), "ends with 2 values and 0 marks"},
      {P("K\x01(."), "ends with 1 values and 1 marks"},
      {P("K\x01.x"), "1 bytes follow the end"},
      {P("\x80\x06."), "protocol 6; those up to 5"},
      {P("cos\nsystem\n(U\x02lstR."), "global 'os.system' is not on the list"},
      {P("c__builtin__\neval\n."), "global '__builtin__.eval' is not on the list"},
      {P("\x8c\x02os\x8c\x06system\x93."), "global 'os.system' is not on the list"},
      {P("ctorch\nload\n."), "global 'torch.load' is not on the list"},
      {P("ctorch._utils\n_rebuild_tensor_v2x\n."), "is not on the list"},
      {P("K\x01K\x02\x93."), "a global named by an int and an int"},
      {P("cos\nsys"), "cut short inside the name"},
      {P("K\x01)R."), "calls an int; expected a global"},
      {P("K\x01)\x81."), "calls an int; expected a global"},
      {P("ccollections\nOrderedDict\n]R."), "calls 'OrderedDict' with a list; expected a tuple"},
      {P("ccollections\nOrderedDict\n)]\x92."), "expected a tuple of arguments"},
      {P("K\x01K\x02"
         "b."),
       "sets the state of an int"},
      {P("ccollections\nOrderedDict\n)RNbNb."), "sets the state of an object twice"},
      {P("\x85."), "the stack is empty"},
      {P("K\x01(\x85."), "the stack is empty"}, /* below the mark */
      {P("0."), "the stack is empty"},
      {P("(0."), "the stack is empty"},
      {P("2."), "the stack is empty"},
      {P("q\x00."), "the stack is empty"},
      {P("t."), "no mark on the stack"},
      {P("K\x01"
         "e."),
       "no mark on the stack"},
      {P("(K\x01"
         "e."),
       "the stack is empty"},
      {P("K\x01(K\x02"
         "e."),
       "cannot append to an int"},
      {P(")K\x02"
         "a."),
       "cannot append to a tuple"},
      {P("]K\x01K\x02s."), "cannot set items of a list"},
      {P("}K\x01"
         "a."),
       "cannot append to a dict"},
      {P("}(K\x01u."), "a key without a value"},
      {P("(K\x01"
         "d."),
       "a dict with a key but no value"},
      {P("ccollections\nOrderedDict\n)RK\x01"
         "aK\x02K\x03s."),
       "cannot set items of a call"},
      {P("h\x05."), "memo number 5 was never stored"},
      {P("j\xff\xff\xff\xff."), "memo number 4294967295 was never stored"},
      {P("K\x01r\xff\xff\xff\xff."), "memo number 4294967295 is out of range"},
      {P("X\xff\xff\xff\xff"
         "a."),
       "cut short"},
      {P("\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
         "a."),
       "cut short"},
      {P("U\x02\xff\xfe."), "not UTF-8"},
      {P("U\x03"
         "a\0b."),
       "not UTF-8, or has a NUL"},
      {P("U\x01\xc3."), "not UTF-8"},
      {P("\x8a\x09\x01\x02\x03\x04\x05\x06\x07\x08\x09."), "an integer of 9 bytes"},
      {P("\x8b\xff\xff\xff\xff."), "only 64-bit integers"},
      {P("I5\n."), "opcode 0x49"},
      {P("\x82\x01."), "opcode 0x82"},
      {P("]q\x00h\x00"
         "a."),
       "a list contains itself"},
      {P("}q\x00K\x01h\x00s."), "a dict contains itself"},
      {P("]q\x00(h\x00t\x85"
         "a."),
       "a list contains itself"},
      {P("ccollections\nOrderedDict\n)Rq\x00h\x00"
         "b."),
       "a call contains itself"},
  };
  for (size_t i = 0; i < KILN_COUNT(cases); i++) {
    arena a = {0};
    const pickle_value *v;
    expect_failure(parse(cases[i].bytes, cases[i].size, &a, &v), KILN_INVALID_FILE, cases[i].text);
    arena_free(&a);
  }
}

static void expect_refused(const text *t, const pickle_options *options, const char *part) {
  arena a = {0};
  const pickle_value *v;
  expect_failure(pickle_parse(t->data, t->length, "p", options, &a, &v), KILN_INVALID_FILE, part);
  arena_free(&a);
}

static void test_limits(void **state) {
  (void)state;
  pickle_options options = limits();
  text t = {0};
  for (int i = 0; i < 100000; i++) text_puts(&t, "]"); /* deep nesting */
  for (int i = 0; i < 99999; i++) text_puts(&t, "a");
  text_putc(&t, '.');
  expect_refused(&t, &options, "nested deeper than 256");
  options.max_values = 1000;
  expect_refused(&t, &options, "more than the allowed 1000 values");
  options = limits();
  options.max_bytes = 100000;
  expect_refused(&t, &options, "more than the allowed 100000 bytes");
  options = limits();
  t.length = 0;
  text_puts(&t, "]"); /* 60 levels of lists that each hold the last one twice: 2^60 when unfolded */
  for (int i = 0; i < 60; i++) text_puts(&t, "2\x86");
  text_putc(&t, '.');
  expect_refused(&t, &options, "refused as a bomb");
  options.max_depth = 10;
  expect_refused(&t, &options, "nested deeper than 10");
  options = limits();
  t.length = 0;
  for (int i = 0; i < 20000; i++) text_puts(&t, "("); /* marks alone */
  text_putc(&t, '.');
  expect_refused(&t, &options, "ends with 0 values and 20000 marks");
  text_free(&t);
}

static void test_wide_and_deep_enough(void **state) {
  (void)state;
  text t = {0};
  for (int i = 0; i < 256; i++) text_puts(&t, "]");
  for (int i = 0; i < 255; i++) text_puts(&t, "a");
  text_putc(&t, '.');
  arena a = {0};
  const pickle_value *v;
  expect_ok(parse(t.data, t.length, &a, &v));
  assert_int_equal(v->depth, 256);
  t.length = 0;
  text_puts(&t, "](");
  for (int i = 0; i < 100000; i++) text_puts(&t, "N");
  text_puts(&t, "e.");
  expect_ok(parse(t.data, t.length, &a, &v));
  assert_int_equal(v->count, 100000);
  assert_int_equal(v->walk, 100001);
  arena_free(&a);
  text_free(&t);
}

static void test_out_of_memory(void **state) {
  (void)state;
  file_map m;
  load("state_dict.pkl", &m);
  kiln_status status = KILN_OUT_OF_MEMORY;
  for (int n = 0; status != KILN_OK; n++) {
    arena a = {0};
    const pickle_value *v;
    mem_test_fail_after(n);
    status = parse(m.data, m.size, &a, &v);
    mem_test_fail_after(-1);
    if (status != KILN_OK) expect_failure(status, KILN_OUT_OF_MEMORY, "out of memory");
    arena_free(&a);
    assert_true(n < 10000); /* every object of the arena counts */
  }
  file_map_close(&m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(test_plain_values, expect_no_leak),
      cmocka_unit_test_teardown(test_state_dict, expect_no_leak),
      cmocka_unit_test_teardown(test_script_module, expect_no_leak),
      cmocka_unit_test_teardown(test_truncated_and_flipped, expect_no_leak),
      cmocka_unit_test_teardown(test_single_opcodes, expect_no_leak),
      cmocka_unit_test_teardown(test_hostile, expect_no_leak),
      cmocka_unit_test_teardown(test_limits, expect_no_leak),
      cmocka_unit_test_teardown(test_wide_and_deep_enough, expect_no_leak),
      cmocka_unit_test_teardown(test_out_of_memory, expect_no_leak),
  };
  return cmocka_run_group_tests_name("pickle", tests, NULL, NULL);
}
