/* Safetensors: good files, and headers that lie. */
#include <stdlib.h>

#include "format/safetensors.h"
#include "unit/expect.h"

enum { DATA = 32 };

/* A file of this header and DATA bytes 0, 1, 2...; of exactly its size. Freed by the caller. */
static uint8_t *make(const char *header, size_t *size) {
  const size_t length = strlen(header);
  uint8_t *bytes = malloc(8 + length + DATA);
  for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)length >> (8 * i));
  memcpy(bytes + 8, header, length);
  for (int i = 0; i < DATA; i++) bytes[8 + length + (size_t)i] = (uint8_t)i;
  *size = 8 + length + DATA;
  return bytes;
}

static const char good[] =
    "{\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]},"
    "\"__metadata__\":{\"format\":\"pt\",\"k\":\"v\"},"
    "\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
    "\"e\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[24,24]}}";

static void test_good(void **state) {
  (void)state;
  size_t size;
  uint8_t *bytes = make(good, &size);
  safetensors file;
  expect_ok(safetensors_open(bytes, size, &file));
  assert_int_equal(file.count, 3);
  const safetensor *w = safetensors_find(&file, "w"), *b = safetensors_find(&file, "b"),
                   *e = safetensors_find(&file, "e");
  assert_ptr_equal(w, &file.tensors[0]);
  assert_int_equal(w->dtype, KILN_F32);
  assert_int_equal(w->rank, 2);
  assert_int_equal(w->shape[1], 3);
  assert_int_equal(w->size, 24);
  assert_int_equal(((const uint8_t *)w->data)[5], 5);
  assert_int_equal(b->dtype, KILN_BF16);
  assert_int_equal(((const uint8_t *)b->data)[0], 24);
  assert_int_equal(e->size, 0);
  assert_null(safetensors_find(&file, "__metadata__"));
  assert_int_equal(file.n_metadata, 2);
  assert_string_equal(file.metadata[3], "v");
  safetensors_close(&file);
  free(bytes);
}

#define ONE(dtype, shape, offsets) "{\"w\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void test_foreign_dtype(void **state) {
  (void)state;
  size_t size;
  uint8_t *bytes = make(ONE("\"F8_E4M3\"", "[32]", "[0,32]"), &size);
  safetensors file;
  expect_ok(safetensors_open(bytes, size, &file));
  assert_int_equal(file.tensors[0].dtype, KILN_DTYPE_COUNT);
  assert_string_equal(file.tensors[0].dtype_name, "F8_E4M3");
  safetensors_close(&file);
  free(bytes);
}

static void test_hostile(void **state) {
  (void)state;
  static const struct {
    const char *header, *text;
  } cases[] = {
      {"[]", "$: expected an object, found an array"},
      {"{", "not valid JSON"},
      {"{}", "32 bytes of data belong to no tensor"},
      {"{\"w\":1}", "$.w: expected an object"},
      {ONE("\"F33\"", "[8]", "[0,32]"), "$.w.dtype: unknown data type 'F33'"},
      {ONE("7", "[8]", "[0,32]"), "$.w.dtype: expected a string"},
      {ONE("\"F32\"", "8", "[0,32]"), "$.w.shape: expected an array"},
      {ONE("\"F32\"", "[8.0]", "[0,32]"), "$.w.shape[0]: expected an integer, found a number"},
      {ONE("\"F32\"", "[-8]", "[0,32]"), "$.w.shape[0]: negative size -8"},
      {ONE("\"F32\"", "[4]", "[0,32]"), "$.w.data_offsets: 32 bytes, but its type and shape need 16"},
      {ONE("\"F32\"", "[8]", "[0,33]"), "$.w.data_offsets: [0, 33] is not inside the file's 32 bytes"},
      {ONE("\"F32\"", "[8]", "[-1,31]"), "[-1, 31] is not inside"},
      {ONE("\"F32\"", "[8]", "[32,0]"), "[32, 0] is not inside"},
      {ONE("\"F32\"", "[0]", "[9223372036854775807,9223372036854775807]"), "is not inside"},
      {ONE("\"F32\"", "[8]", "[0]"), "$.w.data_offsets: expected [begin, end]"},
      {ONE("\"F32\"", "[9223372036854775807,9223372036854775807]", "[0,32]"), "the product of the sizes overflows"},
      {ONE("\"F32\"", "[1,1,1,1,1,1,1,1,8]", "[0,32]"), "9 dimensions; at most 8"},
      {ONE("\"F4\"", "[63]", "[0,32]"), "do not fill whole bytes"},
      {ONE("\"F32\"", "[7]", "[0,28]"), "4 bytes of data belong to no tensor"},
      {ONE("\"F32\"", "[7]", "[4,32]"), "the data of 'w' do not follow directly on those of the beginning"},
      {"{\"w\":{\"shape\":[8],\"data_offsets\":[0,32]}}", "$.w: member 'dtype' is missing"},
      {"{\"w\":{\"dtype\":\"F32\",\"shape\":[8]}}", "$.w: member 'data_offsets' is missing"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[20],\"data_offsets\":[0,20]},\"b\":{\"dtype\":\"U8\",\"shape\":[20],\"data_"
       "offsets\":[12,32]}}",
       "the data of 'b' overlap those of 'a'"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[32],\"data_offsets\":[0,32]},\"b\":{\"dtype\":\"U8\",\"shape\":[32],\"data_"
       "offsets\":[0,32]}}",
       "the data of 'b' overlap those of 'a'"},
      {"{\"a\":{},\"a\":{}}", "duplicate object key"},
      {"{\"__metadata__\":{\"a\":1}}", "$.__metadata__.a: expected a string"},
      {"{\"__metadata__\":[]}", "$.__metadata__: expected an object"},
  };
  for (size_t i = 0; i < KILN_COUNT(cases); i++) {
    size_t size;
    safetensors file;
    uint8_t *bytes = make(cases[i].header, &size);
    expect_failure(safetensors_open(bytes, size, &file), KILN_INVALID_FILE, cases[i].text);
    free(bytes);
  }
}

static void test_truncated_and_lengths(void **state) {
  (void)state;
  size_t size;
  safetensors file;
  uint8_t *bytes = make(good, &size);
  for (size_t cut = 0; cut < size; cut++) {
    uint8_t *copy = malloc(cut + !cut);
    memcpy(copy, bytes, cut);
    assert_int_equal(safetensors_open(copy, cut, &file), KILN_INVALID_FILE);
    free(copy);
  }
  memset(bytes, 0xff, 8);
  expect_failure(safetensors_open(bytes, size, &file), KILN_INVALID_FILE, "a header of 18446744073709551615 bytes");
  memset(bytes, 0, 8);
  expect_failure(safetensors_open(bytes, size, &file), KILN_INVALID_FILE, "not valid JSON");
  free(bytes);
}

static void test_out_of_memory(void **state) {
  (void)state;
  size_t size;
  safetensors file;
  uint8_t *bytes = make(good, &size);
  kiln_status status = KILN_OUT_OF_MEMORY;
  for (int n = 0; status != KILN_OK; n++) {
    mem_test_fail_after(n);
    status = safetensors_open(bytes, size, &file);
    mem_test_fail_after(-1);
    if (status != KILN_OK) expect_failure(status, KILN_OUT_OF_MEMORY, "out of memory");
    assert_true(n < 50);
  }
  safetensors_close(&file);
  free(bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(test_good, expect_no_leak),
      cmocka_unit_test_teardown(test_foreign_dtype, expect_no_leak),
      cmocka_unit_test_teardown(test_hostile, expect_no_leak),
      cmocka_unit_test_teardown(test_truncated_and_lengths, expect_no_leak),
      cmocka_unit_test_teardown(test_out_of_memory, expect_no_leak),
  };
  return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
