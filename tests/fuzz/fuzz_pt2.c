/* The importer of .pt2 files. Checksums are put right first: mutations would end at them. */
#include <string.h>
#include <zlib.h>

#include "base/memory.h"
#include "engine/engine.h"
#include "fuzz/bounded.h"
#include "fuzz/fuzz.h"
#include "ops/op.h"

static uint32_t number(const uint8_t *p, int width) {
  uint32_t n = 0;
  for (int i = 0; i < width; i++) n |= (uint32_t)p[i] << (8 * i);
  return n;
}

/* Each stored entry's checksum in the central directory becomes that of its bytes. */
static void repair(uint8_t *bytes, size_t size) {
  for (size_t at = 0; at + 46 <= size; at++) {
    uint8_t *p = bytes + at;
    if (memcmp(p, "PK\1\2", 4) != 0) continue;
    const size_t length = number(p + 20, 4), header = number(p + 42, 4);
    if (header > size || size - header < 30) continue;
    const size_t data = header + 30 + number(bytes + header + 26, 2) + number(bytes + header + 28, 2);
    if (data > size || length > size - data) continue;
    const uint32_t crc = (uint32_t)crc32(0, bytes + data, (uInt)length);
    for (int i = 0; i < 4; i++) p[16 + i] = (uint8_t)(crc >> (8 * i));
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  bounded_install();
  FUZZ_CHECK(ops_init() == KILN_OK);
  uint8_t *bytes = malloc(size > 0 ? size : 1);
  if (bytes == NULL) return 0;
  if (size > 0) memcpy(bytes, data, size);
  repair(bytes, size);
  const size_t before = bounded_used;
  graph *g = NULL;
  if (model_import(bytes, size, "fuzz", NULL, &g) == KILN_OK) {
    FUZZ_CHECK(graph_verify(g) == KILN_OK);
    text t = {0};
    graph_print(g, 16, &t);
    text_free(&t);
    graph_destroy(g);
  } else {
    FUZZ_CHECK(error_text()[0] != '\0');
  }
  free(bytes);
  (void)before; /* operator tables are made on first use and stay */
  return 0;
}
