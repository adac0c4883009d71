/* Pickles: the result can be walked as a tree by recursion, within the promised limits. */
#include "base/memory.h"
#include "base/text.h"
#include "format/pickle.h"
#include "fuzz/fuzz.h"

static size_t walk(const pickle_value *v, unsigned depth) {
  if (v == NULL) return 0;
  FUZZ_CHECK(depth <= 64);
  size_t seen = 1;
  switch (v->kind) {
    case PICKLE_STRING:
    case PICKLE_BYTES:
      FUZZ_CHECK(v->u.s.data[v->u.s.length] == '\0');
      (void)fuzz_touch(v->u.s.data, v->u.s.length);
      break;
    case PICKLE_GLOBAL:
      FUZZ_CHECK(!str_eq(v->u.global.module, "os"));
      break;
    case PICKLE_OBJECT:
    case PICKLE_REDUCE:
      FUZZ_CHECK(v->u.call.callable->kind == PICKLE_GLOBAL && v->u.call.args->kind == PICKLE_TUPLE); /* fall through */
    case PICKLE_PERSID:
      seen += walk(v->u.call.callable, depth + 1) + walk(v->u.call.args, depth + 1);
      seen += walk(v->u.call.kwargs, depth + 1) + walk(v->u.call.state, depth + 1);
      break;
    default:
      break;
  }
  for (size_t i = 0; i < (v->pairs ? 2 * v->count : v->count); i++) seen += walk(v->items[i], depth + 1);
  (void)pickle_get(v, "weight");
  return seen;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const pickle_global allowed[] = {
      {"torch", "*Storage"},          {"torch", "*"},       {"torch._utils", "_rebuild_tensor_v2"},
      {"collections", "OrderedDict"}, {"__torch__.*", "*"}, {"_codecs", "encode"}};
  const pickle_options options = {
      .globals = allowed, .n_globals = KILN_COUNT(allowed), .max_values = 10000, .max_bytes = 1 << 22, .max_depth = 64};
  const int64_t before = mem_test_live_blocks();
  arena a = {0};
  const pickle_value *v;
  if (pickle_parse(data, size, "fuzz", &options, &a, &v) == KILN_OK) {
    FUZZ_CHECK(walk(v, 1) <= 16 * 10000);
  } else {
    FUZZ_CHECK(str_starts(error_text(), "fuzz: "));
  }
  arena_free(&a);
  FUZZ_CHECK(mem_test_live_blocks() == before);
  return 0;
}
