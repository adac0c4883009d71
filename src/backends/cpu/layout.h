/* Channels-last layout rules of the CPU backend. */
#ifndef KILN_BACKENDS_CPU_LAYOUT_H
#define KILN_BACKENDS_CPU_LAYOUT_H

#include "passes/pass.h"

extern const rule cpu_layout_rules[];
extern const size_t cpu_layout_rule_count;

#endif
