/* Conditions that the sizes of a graph's inputs must meet, because the model's Python code took a branch that is right for such sizes only.
 * Graphs carry them as the metadata "kiln.size_guards", one a line, in the words of Python:
 *
 *   [0.1] > [0.2]
 *   trunc(1.5*float([0.1])) == 12
 *
 * where [i.d] is the size of dimension d of input i. */
#ifndef KILN_GRAPH_SIZE_GUARDS_H
#define KILN_GRAPH_SIZE_GUARDS_H

#include "graph/graph.h"

#define SIZE_GUARDS_KEY "kiln.size_guards"

/* The size of a dimension of an input; false: there is none. */
typedef bool (*size_of_fn)(const void *context, int64_t input, int64_t d, int64_t *out);

typedef enum guard_result { GUARD_HOLDS, GUARD_FAILS, GUARD_UNREADABLE } guard_result;

/* One condition, the first `length` bytes of `guard`. What has no value (a division by zero, an overflow) fails. */
guard_result size_guard_check(const char *guard, size_t length, size_of_fn size, const void *context);

/* Whether it can be read and names sizes that the inputs have. */
bool size_guard_readable(const graph *g, const char *guard, size_t length);
/* The same of all lines of the metadata. */
kiln_status size_guards_validate(const graph *g);
/* Fails with the first condition that these shapes do not meet; `guards` is the metadata, `names` those of the inputs. */
kiln_status size_guards_enforce(const char *guards, const kiln_tensor *inputs, int32_t count, const char *const *names);

#endif
