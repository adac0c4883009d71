/* Small helpers for matching in rules. */
#ifndef KILN_PASSES_MATCH_H
#define KILN_PASSES_MATCH_H

#include "graph/graph.h"

/* The node that makes `v`, if it is this operator and has no epilogue; else NULL. NULL-safe. */
node *producer_of(const value *v, const char *op_name);
/* Is `v` read exactly once, by a node? */
bool only_use(const value *v);
/* A constant with one element, as a number. */
bool scalar_constant(const value *v, double *out);
/* v = other + c for this constant c. */
bool add_constant(const value *v, double c, const value **other);
/* Puts `with` in place of n's one output. False if `with` is NULL or has another type. */
bool replace(node *n, value *with);

#endif
