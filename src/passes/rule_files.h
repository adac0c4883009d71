/* The rule files: one line in the list is all that a new file needs. */
#ifndef KILN_PASSES_RULE_FILES_H
#define KILN_PASSES_RULE_FILES_H

#include "passes/pass.h"

#define RULE_FILES(FILE)   \
  FILE(control)            \
  FILE(canonicalize)       \
  FILE(arithmetic)         \
  FILE(fold)               \
  FILE(norm_patterns)      \
  FILE(attention_patterns) \
  FILE(symbolic_masks)

#define DECLARE(name)               \
  extern const rule name##_rules[]; \
  extern const size_t name##_rule_count;
RULE_FILES(DECLARE)
#undef DECLARE

/* All portable rules, in the order in which they are tried. Returns how many there are; `out` gets at most `max`. */
size_t portable_rules(rule *out, size_t max);

#endif
