/* The reference backend: every node runs its operator's reference kernel. The truth for tests, and slow. */
#include <stdio.h>

#include "backends/backend.h"

static kiln_status parse_target(const char *name, target *out) {
  if (!str_eq(name, "reference"))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "unknown target `%.40s`: did you mean `reference`?", name);
  *out = (target){.backend = &backend_reference};
  snprintf(out->name, sizeof out->name, "reference");
  return KILN_OK;
}

const backend backend_reference = {.name = "reference", .parse_target = parse_target};
