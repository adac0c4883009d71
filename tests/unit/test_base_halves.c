/* Rounding many floats to f16 and bf16: the processor's instructions against the arithmetic of single elements. */
#include <math.h>
#include <stdlib.h>

#include "base/halves.h"
#include "ops/ref.h"
#include "unit/expect.h"

static float from_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

static float clamped(float x, float most) { return isnan(x) || isinf(x) ? x : x > most ? most : x < -most ? -most : x; }

/* Every sign, exponent and the upper bits of the mantissa, with lower bits around each way to round. */
static const uint32_t low[] = {0,      1,      0x7ff,  0x800,  0xfff,  0x1000, 0x1001, 0x1fff,
                               0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001, 0xffff, 0x5555};
enum { LOW = sizeof low / sizeof *low, COUNT = 65536 * LOW };

static float *all_kinds(void) {
  float *in = malloc(COUNT * sizeof *in);
  assert_non_null(in);
  for (uint32_t high = 0; high < 65536; high++) {
    for (uint32_t k = 0; k < LOW; k++) in[high * LOW + k] = from_bits(high << 16 | low[k]);
  }
  return in;
}

static void check(void (*convert)(const float *, uint16_t *, size_t), uint16_t (*one)(float), float most) {
  float *in = all_kinds();
  uint16_t *out = malloc(COUNT * sizeof *out), single = 0;
  assert_non_null(out);
  convert(in, out, COUNT);
  for (size_t i = 0; i < COUNT; i++) {
    convert(&in[i], &single, 1); /* as on processors without such instructions */
    const uint16_t expected = one(clamped(in[i], most));
    if (out[i] != expected || single != expected)
      fail_msg("%a: 0x%04x together, 0x%04x alone, expected 0x%04x", (double)in[i], out[i], single, expected);
  }
  free(in);
  free(out);
}

static void test_f16(void **state) {
  (void)state;
  check(floats_to_f16, float_to_half, 65504.0f);
}
static void test_bf16(void **state) {
  (void)state;
  check(floats_to_bf16, float_to_bf16, from_bits(0x7f7f0000));
}

/* Nothing is written beyond the end, and addresses need no alignment beyond their type's. */
static void test_lengths(void **state) {
  (void)state;
  float in[64];
  for (int i = 0; i < 64; i++) in[i] = (float)i * 0.37f;
  for (size_t n = 0; n < 50; n++) {
    uint16_t out[64], wide[64];
    memset(out, 0xab, sizeof out);
    memset(wide, 0xab, sizeof wide);
    floats_to_f16(in + 1, out + 3, n);
    floats_to_bf16(in + 1, wide + 3, n);
    for (size_t i = 0; i < 60; i++) {
      assert_int_equal(out[3 + i], i < n ? float_to_half(in[1 + i]) : 0xabab);
      assert_int_equal(wide[3 + i], i < n ? float_to_bf16(in[1 + i]) : 0xabab);
    }
    assert_int_equal(out[2], 0xabab);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_f16),
      cmocka_unit_test(test_bf16),
      cmocka_unit_test(test_lengths),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
