/* The graph parser: what it accepts prints to a text that it accepts again, and that prints the same. */
#include <string.h>

#include "base/memory.h"
#include "fuzz/bounded.h"
#include "fuzz/fuzz.h"
#include "graph/graph.h"
#include "ops/op.h"

enum { LARGEST_WEIGHT = 1 << 16 };

static kiln_status give_weight(void *user, int64_t index, const tensor_type *type, const char *packing,
                               const void **out_data, size_t *out_size) {
  static const uint64_t zeros[LARGEST_WEIGHT / 8];
  (void)user;
  size_t size;
  if (index < 0 || packing != NULL || !type_bytes(type, &size) || size > sizeof zeros) {
    return KILN_FAIL(KILN_INVALID_FILE, "no such weight");
  }
  *out_data = zeros;
  *out_size = size;
  return KILN_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  bounded_install();
  FUZZ_CHECK(ops_init() == KILN_OK);
  graph *g = NULL, *again = NULL;
  if (graph_parse((const char *)data, size, give_weight, NULL, &g) != KILN_OK) {
    FUZZ_CHECK(error_text()[0] != '\0');
    return 0;
  }
  text first = {0}, second = {0};
  (void)graph_verify(g);
  graph_print(g, 64, &first);
  if (!first.failed) {
    const kiln_status status = graph_parse(first.data, first.length, give_weight, NULL, &again);
    if (status != KILN_OK) fprintf(stderr, "%s\n%s\n", error_text(), first.data);
    FUZZ_CHECK(status == KILN_OK || status == KILN_OUT_OF_MEMORY);
    if (status == KILN_OK) {
      graph_print(again, 64, &second);
      FUZZ_CHECK(second.failed ||
                 (first.length == second.length && memcmp(first.data, second.data, first.length) == 0));
      graph_destroy(again);
    }
  }
  text_free(&first);
  text_free(&second);
  graph_destroy(g);
  return 0;
}
