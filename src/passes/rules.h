/* The portable rewrite rules, from all rule files. */
#ifndef KILN_PASSES_RULES_H
#define KILN_PASSES_RULES_H

#include "passes/pass.h"

extern const rule portable_rules[];
extern const size_t portable_rule_count;

#endif
