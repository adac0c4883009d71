/* Archives: every entry is found by its name and its contents can be read, or fails with a text. */
#include "base/memory.h"
#include "format/zip.h"
#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const int64_t before = mem_test_live_blocks();
  zip z;
  if (zip_open(data, size, &z) == KILN_OK) {
    for (size_t i = 0; i < z.count; i++) {
      const zip_entry *e = &z.entries[i];
      FUZZ_CHECK(zip_find(&z, e->name) == e);
      FUZZ_CHECK(zip_find(&z, zip_short_name(&z, e)) != NULL);
      arena a = {0};
      const void *bytes;
      size_t length;
      if (zip_read(e, &a, &bytes, &length) == KILN_OK) {
        FUZZ_CHECK(length == e->size);
        (void)fuzz_touch(bytes, length);
      } else {
        FUZZ_CHECK(error_text()[0] != '\0');
      }
      arena_free(&a);
    }
    zip_close(&z);
  } else {
    FUZZ_CHECK(error_text()[0] != '\0');
  }
  FUZZ_CHECK(mem_test_live_blocks() == before);
  return 0;
}
