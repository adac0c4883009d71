/* Origins: what computation made a constant of the model's weights, as a number that depends on the computation alone.
 *
 * A refit that is given some weights does not have the others where a build folded them into something else: the engine has only what
 * was made of them. Such weights are constants without data, "missing", and what is folded of them is missing too, but its origin is
 * known. In the end a missing constant gets the data that the version before has under the same origin, which is right if no weight that
 * went into it has other values now. */
#ifndef KILN_PASSES_ORIGIN_H
#define KILN_PASSES_ORIGIN_H

#include "graph/graph.h"

bool constant_is_missing(const constant *c);
/* 0: not known, as of a large constant that is no weight. */
uint64_t origin_of(constant *c);
/* Notes on `made`, an output of `n`, whose inputs are constants, where it comes from. */
void origin_note(graph *g, const node *n, int32_t output, constant *made);
/* The same for `made`, which has the elements of `from` in another type. */
void origin_note_cast(constant *from, constant *made);

#endif
