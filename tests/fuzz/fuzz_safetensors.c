/* Safetensors: every tensor's bytes lie in the file, and its name is found. */
#include "base/memory.h"
#include "format/safetensors.h"
#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const int64_t before = mem_test_live_blocks();
  safetensors file;
  if (safetensors_open(data, size, &file) == KILN_OK) {
    size_t total = 0;
    for (size_t i = 0; i < file.count; i++) {
      const safetensor *t = &file.tensors[i];
      FUZZ_CHECK(safetensors_find(&file, t->name) == t);
      FUZZ_CHECK(t->rank >= 0 && t->rank <= KILN_MAX_RANK);
      (void)fuzz_touch(t->data, t->size);
      total += t->size;
    }
    FUZZ_CHECK(total < size);
    safetensors_close(&file);
  } else {
    FUZZ_CHECK(error_text()[0] != '\0');
  }
  FUZZ_CHECK(mem_test_live_blocks() == before);
  return 0;
}
