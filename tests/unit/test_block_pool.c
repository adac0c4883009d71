/* The pool of memory that contexts of a GPU share, over a driver that is none: addresses that nothing lies at. */
#include "backends/cuda/block_pool.h"
#include "base/memory.h"
#include "expect.h"

enum { MIB = 1 << 20, MOST = 512 };
static const size_t whole = (size_t)256 * MIB; /* of the driver's memory */

typedef struct fake_driver {
  uint64_t at[MOST];
  size_t bytes[MOST];
  int count, obtained;
  size_t given, room;
} fake_driver;

static int fake_obtain(void *user, size_t bytes, uint64_t *out) {
  fake_driver *f = user;
  static uint64_t next = 1 << 20;
  if (bytes > f->room - f->given) return 2;
  assert_true(f->count < MOST);
  *out = next;
  next += ((uint64_t)bytes + 4095) / 4096 * 4096 + 4096;
  f->at[f->count] = *out;
  f->bytes[f->count++] = bytes;
  f->given += bytes;
  f->obtained++;
  return 0;
}

static void fake_give_back(void *user, uint64_t at, size_t bytes) {
  fake_driver *f = user;
  for (int i = 0; i < f->count; i++) {
    if (f->at[i] != at) continue;
    assert_int_equal(f->bytes[i], bytes);
    f->given -= bytes;
    f->at[i] = f->at[--f->count];
    f->bytes[i] = f->bytes[f->count];
    return;
  }
  fail_msg("memory is given back that is not the driver's");
}

static block_pool make(fake_driver *f) {
  *f = (fake_driver){.room = whole};
  return (block_pool){.obtain = fake_obtain,
                      .give_back = fake_give_back,
                      .user = f,
                      .granule = 2 * MIB,
                      .chunk_most = 16 * MIB,
                      .keep = 8 * MIB};
}

static uint64_t take(block_pool *p, size_t bytes) {
  uint64_t at = 0;
  int code = 0;
  assert_int_equal(block_pool_take(p, bytes, &at, &code), BLOCK_OK);
  assert_int_equal(at % BLOCK_ALIGN, 0);
  return at;
}

static void done(block_pool *p, fake_driver *f) {
  block_pool_clear(p);
  assert_int_equal(f->given, 0);
  assert_int_equal(p->held, 0);
}

static void test_used_again(void **state) {
  (void)state;
  fake_driver f;
  block_pool p = make(&f);
  const uint64_t a = take(&p, 3 * MIB), b = take(&p, 1000);
  assert_int_equal(f.obtained, 1); /* the small one lies behind the large one */
  assert_true(b >= a + 3 * MIB);
  assert_true(block_pool_put(&p, a, false));
  assert_int_equal(take(&p, 3 * MIB), a);
  assert_true(block_pool_put(&p, a, false));
  assert_true(block_pool_put(&p, b, false));
  assert_int_equal(p.used, 0);
  assert_int_equal(f.count, 1);           /* kept: 4 MiB */
  assert_int_equal(take(&p, 4 * MIB), a); /* neighbours became one */
  assert_false(block_pool_put(&p, a + 512, false));
  assert_true(block_pool_put(&p, a, false));
  assert_false(block_pool_put(&p, a, false)); /* twice */
  done(&p, &f);
}

static void test_small_blocks_share(void **state) {
  (void)state;
  fake_driver f;
  block_pool p = make(&f);
  const size_t each = 1180 * 1000; /* a weight of BERT: alone it would take 2 MiB of the driver */
  for (int i = 0; i < 60; i++) (void)take(&p, each);
  assert_true(p.held <= p.used + 16 * MIB);
  assert_true(p.used < 60 * (each + BLOCK_ALIGN));
  done(&p, &f);
}

static void test_idle_bytes_are_bounded(void **state) {
  (void)state;
  fake_driver f;
  block_pool p = make(&f);
  uint64_t at[8];
  for (int i = 0; i < 8; i++) at[i] = take(&p, 20 * MIB);
  for (int i = 0; i < 8; i++) assert_true(block_pool_put(&p, at[i], false));
  assert_int_equal(f.count, 0); /* each is more than stays */
  for (int i = 0; i < 8; i++) at[i] = take(&p, 3 * MIB);
  for (int i = 0; i < 8; i++) assert_true(block_pool_put(&p, at[i], false));
  assert_true(p.held > 0 && p.held <= p.keep);
  block_pool_trim(&p);
  assert_int_equal(p.held, 0);
  done(&p, &f);
}

static void test_limit(void **state) {
  (void)state;
  fake_driver f;
  uint64_t at = 0;
  int code = 0;
  block_pool p = make(&f);
  p.limit = 7 * MIB;
  const uint64_t a = take(&p, 3 * MIB);
  assert_true(block_pool_put(&p, a, false)); /* 4 MiB lie idle, */
  (void)take(&p, 6 * MIB + 600 * 1024);      /* which go for this one */
  assert_true(p.held <= p.limit);
  (void)take(&p, 300 * 1024); /* less than a granule is left */
  assert_true(p.held <= p.limit);
  assert_int_equal(block_pool_take(&p, MIB, &at, &code), BLOCK_OVER_LIMIT);
  assert_int_equal(block_pool_take(&p, SIZE_MAX, &at, &code), BLOCK_OVER_LIMIT);
  (void)take(&p, 0);
  done(&p, &f);
}

static void test_idle_memory_goes_where_the_driver_has_none(void **state) {
  (void)state;
  fake_driver f;
  uint64_t at = 0;
  int code = 0;
  block_pool p = make(&f);
  p.keep = whole;
  uint64_t some[4];
  for (int i = 0; i < 4; i++) some[i] = take(&p, 50 * MIB);
  for (int i = 0; i < 4; i++) assert_true(block_pool_put(&p, some[i], false));
  assert_int_equal(f.given, 200 * MIB);
  (void)take(&p, 120 * MIB);
  assert_int_equal(f.given, 120 * MIB);
  assert_int_equal(block_pool_take(&p, 140 * MIB, &at, &code), BLOCK_REFUSED);
  assert_int_equal(code, 2);
  assert_int_equal(block_pool_take(&p, SIZE_MAX, &at, &code), BLOCK_REFUSED);
  (void)take(&p, 130 * MIB);
  done(&p, &f);
}

static void test_doubtful_blocks_go_to_the_driver(void **state) {
  (void)state;
  fake_driver f;
  block_pool p = make(&f);
  const uint64_t a = take(&p, MIB), b = take(&p, 1000);
  assert_int_equal(f.count, 1);
  assert_true(block_pool_put(&p, a, true));
  const uint64_t c = take(&p, MIB - 512 * 1024 + 512 * 1024); /* not where `a` was */
  assert_true(c >= a + MIB || c + MIB <= a);
  assert_true(block_pool_put(&p, b, false));
  assert_true(block_pool_put(&p, c, false));
  for (int i = 0; i < f.count; i++) assert_true(a < f.at[i] || a >= f.at[i] + f.bytes[i]);
  done(&p, &f);
}

static void test_direct(void **state) {
  (void)state;
  fake_driver f;
  block_pool p = make(&f);
  p.direct = true;
  const uint64_t a = take(&p, 100), b = take(&p, 100);
  assert_int_equal(f.count, 2);
  assert_int_equal(f.given, 2 * BLOCK_ALIGN);
  assert_true(block_pool_put(&p, a, false));
  assert_true(block_pool_put(&p, b, false));
  assert_int_equal(f.count, 0);
  done(&p, &f);
}

typedef struct live_block {
  uint64_t at;
  size_t bytes;
} live_block;

/* Blocks lie inside of the driver's chunks, and never on each other. */
static void check(const fake_driver *f, const live_block *live, int n) {
  for (int i = 0; i < n; i++) {
    bool inside = false;
    for (int k = 0; k < f->count; k++)
      inside |= live[i].at >= f->at[k] && live[i].at + live[i].bytes <= f->at[k] + f->bytes[k];
    assert_true(inside);
    for (int k = 0; k < i; k++)
      assert_true(live[i].at >= live[k].at + live[k].bytes || live[k].at >= live[i].at + live[i].bytes);
  }
}

static void test_at_random(void **state) {
  (void)state;
  fake_driver f;
  block_pool p = make(&f);
  live_block live[64];
  int n = 0;
  uint32_t r = 12345;
  p.limit = (size_t)120 * MIB;
  for (int step = 0; step < 6000; step++) {
    r = r * 1664525u + 1013904223u;
    if (n == 64 || (n && (r >> 28) < 7)) {
      const int i = (int)((r >> 8) % (unsigned)n);
      assert_true(block_pool_put(&p, live[i].at, (r >> 5) % 8 == 0));
      live[i] = live[--n];
    } else {
      uint64_t at = 0;
      int code = 0;
      const size_t bytes = (size_t)(r >> 4) % ((r & 3) ? 5000 : (size_t)9 * MIB);
      const block_result result = block_pool_take(&p, bytes, &at, &code);
      if (result == BLOCK_OK) live[n++] = (live_block){at, bytes};
    }
    assert_true(p.held <= p.limit && p.used <= p.held && p.held == f.given);
    if (step % 50 == 0) check(&f, live, n);
  }
  while (n) assert_true(block_pool_put(&p, live[--n].at, false));
  assert_int_equal(p.used, 0);
  assert_true(p.held <= p.keep);
  done(&p, &f);
}

static void test_the_host_has_no_memory(void **state) {
  (void)state;
  const int64_t before = mem_test_live_blocks();
  for (int at = 0; at < 12; at++) {
    fake_driver f;
    uint64_t got[6] = {0};
    block_pool p = make(&f);
    int code = 0, n = 0;
    mem_test_fail_after(at);
    for (int i = 0; i < 6; i++) {
      const block_result result = block_pool_take(&p, (size_t)(i + 1) * 300000, &got[n], &code);
      assert_true(result == BLOCK_OK || result == BLOCK_NO_HOST);
      n += result == BLOCK_OK;
    }
    mem_test_fail_after(-1);
    for (int i = 0; i < n; i++) assert_true(block_pool_put(&p, got[i], false));
    assert_int_equal(p.used, 0);
    done(&p, &f);
    assert_int_equal(mem_test_live_blocks(), before);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_used_again),
      cmocka_unit_test(test_small_blocks_share),
      cmocka_unit_test(test_idle_bytes_are_bounded),
      cmocka_unit_test(test_limit),
      cmocka_unit_test(test_idle_memory_goes_where_the_driver_has_none),
      cmocka_unit_test(test_doubtful_blocks_go_to_the_driver),
      cmocka_unit_test(test_direct),
      cmocka_unit_test(test_at_random),
      cmocka_unit_test(test_the_host_has_no_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
