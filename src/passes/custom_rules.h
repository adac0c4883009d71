/* Rewrite rules that users give as texts (kiln/kiln_ext.h). */
#ifndef KILN_PASSES_CUSTOM_RULES_H
#define KILN_PASSES_CUSTOM_RULES_H

#include <kiln/kiln_ext.h>

#include "passes/pass.h"

kiln_status custom_rule_register(const kiln_rule_def *def);
/* One rule that tries all registered ones; its name is NULL if there are none. */
rule custom_rules(void);
/* The registered rule that was applied last in this thread; "" if none was. */
const char *custom_rule_last(void);

#endif
