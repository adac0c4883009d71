/* JSON: walks the whole document with cursors, and asks each node for everything it is not. */
#include "base/memory.h"
#include "base/text.h"
#include "format/json.h"
#include "fuzz/fuzz.h"

static void walk(const jnode *n) {
  const char *s;
  int64_t i;
  double f;
  bool b;
  jnode child;
  const jkind kind = jnode_kind(n);
  FUZZ_CHECK((jnode_string(n, &s) == KILN_OK) == (kind == JSTRING));
  FUZZ_CHECK((jnode_int(n, &i) == KILN_OK) == (kind == JINT));
  FUZZ_CHECK((jnode_float(n, &f) == KILN_OK) == (kind == JINT || kind == JFLOAT));
  FUZZ_CHECK((jnode_bool(n, &b) == KILN_OK) == (kind == JBOOL));
  FUZZ_CHECK(jnode_at(n, jnode_count(n), &child) != KILN_OK);
  FUZZ_CHECK(str_starts(error_text(), "fuzz: $"));
  if (kind == JARRAY) {
    for (size_t k = 0; k < jnode_count(n); k++) {
      FUZZ_CHECK(jnode_at(n, k, &child) == KILN_OK);
      walk(&child);
    }
  }
  void *iterator = NULL;
  size_t members = 0;
  while (jnode_next(n, &iterator, &child)) {
    jnode again;
    members++;
    FUZZ_CHECK(jnode_get(n, child.key, &again) == KILN_OK && again.value == child.value);
    walk(&child);
  }
  FUZZ_CHECK(kind != JOBJECT || members == jnode_count(n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  jdoc doc;
  if (jdoc_parse(data, size, "fuzz", &doc) == KILN_OK) {
    const jnode root = jdoc_root(&doc);
    walk(&root);
    jdoc_free(&doc);
  } else {
    FUZZ_CHECK(str_starts(error_text(), "fuzz: "));
  }
  return 0;
}
