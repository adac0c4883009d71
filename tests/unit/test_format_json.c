/* JSON cursors: values, paths in errors, and texts that must be refused. */
#include <stdlib.h>

#include "base/text.h"
#include "format/json.h"
#include "unit/expect.h"

static kiln_status parse(const char *s, jdoc *doc) { return jdoc_parse(s, strlen(s), "doc", doc); }

static void test_values(void **state) {
  (void)state;
  jdoc doc;
  expect_ok(parse(
      "{\"s\": \"t\\u00e9x\", \"i\": -5, \"f\": 2.5, \"b\": true, \"n\": null, \"a\": [1, [2]], \"o\": {\"x\": 9}}",
      &doc));
  const jnode root = jdoc_root(&doc);
  const char *s;
  int64_t i;
  double f;
  bool b;
  jnode n, element, inner;
  expect_ok(jnode_get_string(&root, "s", &s));
  assert_string_equal(s, "t\xc3\xa9x");
  expect_ok(jnode_get_int(&root, "i", &i));
  assert_int_equal(i, -5);
  expect_ok(jnode_get_float(&root, "f", &f));
  assert_true(f == 2.5);
  expect_ok(jnode_get_float(&root, "i", &f));
  assert_true(f == -5.0);
  expect_ok(jnode_get_bool(&root, "b", &b));
  assert_true(b);
  assert_false(jnode_find(&root, "n", &n));
  assert_false(jnode_find(&root, "absent", &n));
  expect_ok(jnode_get(&root, "n", &n));
  assert_true(jnode_is(&n, JNULL));
  expect_ok(jnode_get_array(&root, "a", &n));
  assert_int_equal(jnode_count(&n), 2);
  expect_ok(jnode_at(&n, 1, &element));
  expect_ok(jnode_at(&element, 0, &inner));
  expect_ok(jnode_int(&inner, &i));
  assert_int_equal(i, 2);
  expect_ok(jnode_get_object(&root, "o", &n));
  expect_ok(jnode_get_int(&n, "x", &i));
  assert_int_equal(i, 9);
  static const char *const keys[] = {"s", "i", "f", "b", "n", "a", "o"};
  void *iterator = NULL;
  size_t k = 0;
  while (jnode_next(&root, &iterator, &n)) assert_string_equal(n.key, keys[k++]);
  assert_int_equal(k, 7);
  jdoc_free(&doc);
}

static void test_paths(void **state) {
  (void)state;
  jdoc doc;
  expect_ok(parse("{\"nodes\": [{}, {\"target\": null, \"inputs\": {\"a\": 1}}]}", &doc));
  const jnode root = jdoc_root(&doc);
  jnode nodes, node, child;
  const char *s;
  int64_t i;
  bool b;
  expect_ok(jnode_get_array(&root, "nodes", &nodes));
  expect_ok(jnode_at(&nodes, 1, &node));
  expect_failure(jnode_get_string(&node, "target", &s), KILN_INVALID_FILE,
                 "doc: $.nodes[1].target: expected a string, found null");
  expect_failure(jnode_get_array(&node, "inputs", &child), KILN_INVALID_FILE,
                 "$.nodes[1].inputs: expected an array, found an object");
  expect_failure(jnode_get_int(&node, "x", &i), KILN_INVALID_FILE, "doc: $.nodes[1]: member 'x' is missing");
  expect_failure(jnode_at(&nodes, 2, &child), KILN_INVALID_FILE, "$.nodes: element 2 is missing: it has only 2");
  expect_failure(jnode_bool(&root, &b), KILN_INVALID_FILE, "doc: $: expected a boolean, found an object");
  expect_failure(jnode_get_bool(&nodes, "x", &b), KILN_INVALID_FILE, "$.nodes: expected an object, found an array");
  expect_failure(JNODE_FAIL(&node, "what %d", 3), KILN_INVALID_FILE, "doc: $.nodes[1]: what 3");
  jdoc_free(&doc);
}

static void test_long_path(void **state) {
  (void)state;
  text t = {0};
  for (int i = 0; i < 100; i++) text_printf(&t, "{\"a_rather_long_member_name_number_%d\":", i);
  text_puts(&t, "1");
  for (int i = 0; i < 100; i++) text_puts(&t, "}");
  jdoc doc;
  expect_ok(parse(t.data, &doc));
  jnode chain[101];
  chain[0] = jdoc_root(&doc);
  for (int i = 0; i < 100; i++) {
    void *iterator = NULL;
    assert_true(jnode_next(&chain[i], &iterator, &chain[i + 1]));
  }
  const char *s;
  expect_failure(jnode_string(&chain[100], &s), KILN_INVALID_FILE, "doc: $....a_rather_long_member_name_number_68.");
  expect_failure(jnode_string(&chain[100], &s), KILN_INVALID_FILE, "expected a string, found an integer");
  jdoc_free(&doc);
  text_free(&t);
}

static void test_refused(void **state) {
  (void)state;
  static const struct {
    const char *json, *text;
  } cases[] = {
      {"", "doc: not valid JSON at line 1, column 0"},
      {"{", "line 1, column 1"},
      {"{\n \"a\": tru}", "line 2, column 9"},
      {"[1,]", "not valid JSON"},
      {"{\"a\": 1, \"a\": 2}", "duplicate object key"},
      {"[1] x", "end of file expected"},
      {"[NaN]", "not valid JSON"},
      {"[1e999]", "real number overflow"},
      {"[9223372036854775808]", "too big integer"},
      {"[\"\\u0000\"]", "\\u0000 is not allowed"},
      {"[\"\xff\"]", "unable to decode byte 0xff"},
      {"[\"\xed\xa0\x80\"]", "unable to decode byte"},
      {"[\"a\nb\"]", "unexpected newline"},
      {"'a'", "not valid JSON"},
      {"]", "not valid JSON"},
  };
  for (size_t i = 0; i < KILN_COUNT(cases); i++) {
    jdoc doc;
    expect_failure(parse(cases[i].json, &doc), KILN_INVALID_FILE, cases[i].text);
  }
  jdoc doc;
  expect_failure(jdoc_parse("[1]\0", 4, "doc", &doc), KILN_INVALID_FILE, "end of file expected");
}

static void nested(int depth, const char *open, const char *close, text *t) {
  for (int i = 0; i < depth; i++) text_puts(t, open);
  text_puts(t, "0");
  for (int i = 0; i < depth; i++) text_puts(t, close);
}

static void test_nesting(void **state) {
  (void)state;
  text t = {0};
  jdoc doc;
  nested(512, "[", "]", &t);
  expect_ok(parse(t.data, &doc));
  jdoc_free(&doc);
  text_free(&t);
  nested(513, "[", "]", &t);
  expect_failure(parse(t.data, &doc), KILN_INVALID_FILE, "doc: line 1: JSON nested deeper than 512");
  text_free(&t);
  nested(100000, "\n{\"a\":", "}", &t);
  expect_failure(parse(t.data, &doc), KILN_INVALID_FILE, "doc: line 514: JSON nested deeper than 512");
  text_free(&t);
  for (int i = 0; i < 600; i++) text_puts(&t, "[\"[{\\\"[\", ["); /* brackets in strings do not count */
  expect_failure(parse(t.data, &doc), KILN_INVALID_FILE, "deeper than 512");
  text_free(&t);
  text_puts(&t, "[");
  for (int i = 0; i < 600; i++) text_puts(&t, "\"[{\\\"[\",");
  text_puts(&t, "0]");
  expect_ok(parse(t.data, &doc));
  jdoc_free(&doc);
  text_free(&t);
}

static void test_truncated(void **state) {
  (void)state;
  static const char whole[] = "{\"a\": [1, -2.5, \"x\\n\\u00e9\", true, false, null], \"b\": {\"c\": {}}}";
  for (size_t size = 0; size + 1 < sizeof whole; size++) {
    char *copy = malloc(size + !size);
    memcpy(copy, whole, size);
    jdoc doc;
    expect_failure(jdoc_parse(copy, size, "doc", &doc), KILN_INVALID_FILE, "doc: not valid JSON at line 1");
    free(copy);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(test_values, expect_no_leak),
      cmocka_unit_test_teardown(test_paths, expect_no_leak),
      cmocka_unit_test_teardown(test_long_path, expect_no_leak),
      cmocka_unit_test_teardown(test_refused, expect_no_leak),
      cmocka_unit_test_teardown(test_nesting, expect_no_leak),
      cmocka_unit_test_teardown(test_truncated, expect_no_leak),
  };
  return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
