/* What the CUDA matrix rows decide without a GPU: weight orders, vector widths, and that their rows fit what they should. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/cuda/gemm.h"
#include "backends/cuda/packing.h"

static tensor_type weight(kiln_dtype dtype, int64_t a, int64_t b, int64_t h, int64_t w) {
  tensor_type t = {.dtype = dtype, .rank = 4};
  t.dims[0] = a, t.dims[1] = b, t.dims[2] = h, t.dims[3] = w;
  return t;
}

/* Every order gives each element its place, and undoing gives the same bytes back. */
static void orders_round_trip(void **state) {
  (void)state;
  for (const packing *p = cuda_packings; p->name; p++) {
    for (int half = 0; half < 2; half++) {
      const int64_t b = strcmp(p->name, PACKING_HWO) == 0 ? 1 : 3;
      const tensor_type type = weight(half ? KILN_F16 : KILN_F32, 5, b, 2, 3);
      const size_t size = half ? 2 : 4, bytes = (size_t)(5 * b * 6) * size;
      size_t packed_bytes = 0;
      assert_true(p->size(&type, &packed_bytes));
      assert_true(packed_bytes >= bytes);
      unsigned char *plain = malloc(bytes), *packed = malloc(packed_bytes), *again = calloc(1, bytes);
      assert_true(plain && packed && again);
      for (size_t i = 0; i < bytes; i++) plain[i] = (unsigned char)(i * 7 + 1);
      memset(packed, 0xee, packed_bytes);
      p->pack(&type, plain, packed);
      p->unpack(&type, packed, again);
      assert_memory_equal(plain, again, bytes);
      free(plain);
      free(packed);
      free(again);
    }
  }
}

static void order_of_elements(void **state) {
  (void)state;
  const tensor_type type = weight(KILN_F32, 2, 3, 1, 2);
  float plain[12], packed[16];
  for (int i = 0; i < 12; i++) plain[i] = (float)i;
  for (const packing *p = cuda_packings; p->name; p++) {
    if (strcmp(p->name, PACKING_OHWI) == 0) {
      const float expected[12] = {0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11};
      p->pack(&type, plain, packed);
      assert_memory_equal(packed, expected, sizeof expected);
    } else if (strcmp(p->name, PACKING_OHW4) == 0) {
      const float expected[16] = {0, 2, 4, 0, 1, 3, 5, 0, 6, 8, 10, 0, 7, 9, 11, 0};
      p->pack(&type, plain, packed);
      assert_memory_equal(packed, expected, sizeof expected);
    } else if (strcmp(p->name, PACKING_HWOI) == 0) {
      const float expected[12] = {0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11};
      p->pack(&type, plain, packed);
      assert_memory_equal(packed, expected, sizeof expected);
    }
  }
}

static void orders_refuse(void **state) {
  (void)state;
  size_t bytes = 0;
  const tensor_type wide = weight(KILN_F16, 2, 4, 3, 3), doubles = weight(KILN_F64, 2, 3, 3, 3);
  tensor_type huge = weight(KILN_F32, INT64_C(1) << 40, INT64_C(1) << 40, 3, 3), flat = weight(KILN_F32, 2, 3, 1, 1);
  flat.rank = 2;
  for (const packing *p = cuda_packings; p->name; p++) {
    assert_false(p->size(&doubles, &bytes));
    assert_false(p->size(&huge, &bytes));
    assert_false(p->size(&flat, &bytes));
    assert_int_equal(p->size(&wide, &bytes), strcmp(p->name, PACKING_OHW4) != 0);
  }
}

static void vectors(void **state) {
  (void)state;
  assert_int_equal(cuda_vector(8, 2, 16, 2, (int64_t[]){64, 768}), 8);
  assert_int_equal(cuda_vector(8, 2, 16, 2, (int64_t[]){64, 20}), 4);
  assert_int_equal(cuda_vector(8, 2, 4, 1, (int64_t[]){64}), 2);
  assert_int_equal(cuda_vector(4, 4, 16, 1, (int64_t[]){147}), 1);
  assert_int_equal(cuda_vector(8, 2, 1, 1, (int64_t[]){64}), 1);
}

static void matrices(void **state) {
  (void)state;
  int64_t pitch = 0;
  tensor t = {.dtype = KILN_F16, .rank = 3, .shape = {2, 5, 8}, .strides = {120, 24, 1}};
  assert_true(cuda_matrix(&t, &pitch));
  assert_int_equal(pitch, 24);
  t.strides[0] = 128; /* rows of the two halves have another distance */
  assert_false(cuda_matrix(&t, &pitch));
  t.shape[0] = 1;
  assert_true(cuda_matrix(&t, &pitch));
  t.strides[2] = 2;
  assert_false(cuda_matrix(&t, &pitch));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(orders_round_trip), cmocka_unit_test(order_of_elements), cmocka_unit_test(orders_refuse),
      cmocka_unit_test(vectors),           cmocka_unit_test(matrices),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
