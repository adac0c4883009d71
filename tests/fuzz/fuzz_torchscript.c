/* TorchScript files: the archive, its description, and the importer. Checksums are put right first: mutations would end
 * at them. */
#include <string.h>
#include <zlib.h>

#include "base/memory.h"
#include "fuzz/bounded.h"
#include "fuzz/fuzz.h"
#include "import/torchscript/torchscript.h"
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

static void describe(const uint8_t *bytes, size_t size) {
  text t = {0};
  if (torchscript_describe(bytes, size, "fuzz", &t) != KILN_OK) FUZZ_CHECK(error_text()[0] != '\0');
  text_free(&t);
}

static void import(const uint8_t *bytes, size_t size, const char *method) {
  static const kiln_input_spec input = {
      .dtype = KILN_F32, .rank = 2, .min = {2, 3}, .opt = {2, 3}, .max = {2, 3}, .name = NULL};
  kiln_build_options options = KILN_BUILD_OPTIONS_INIT;
  options.inputs = &input;
  options.input_count = 1;
  options.method = method;
  graph *g = NULL;
  if (torchscript_import(bytes, size, "fuzz", &options, &g) != KILN_OK) {
    FUZZ_CHECK(error_text()[0] != '\0');
    return;
  }
  FUZZ_CHECK(graph_verify(g) == KILN_OK);
  graph_destroy(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  bounded_install();
  FUZZ_CHECK(ops_init() == KILN_OK);
  uint8_t *bytes = malloc(size > 0 ? size : 1);
  if (bytes == NULL) return 0;
  if (size > 0) memcpy(bytes, data, size);
  repair(bytes, size);
  if (torchscript_detect(bytes, size)) {
    describe(bytes, size);
    import(bytes, size, NULL);
    import(bytes, size, "other"); /* a second method of a seed; others have no method of this name */
  }
  free(bytes);
  return 0;
}
