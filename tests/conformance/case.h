/* Conformance cases: their text (docs/operators.md), and operand data from generators. */
#ifndef KILN_TESTS_CONFORMANCE_CASE_H
#define KILN_TESTS_CONFORMANCE_CASE_H

#include "ops/op.h"

typedef enum generator { GEN_NORMAL, GEN_SPECIAL, GEN_RANGE, GEN_UNIFORM, GEN_POSITIVE, GEN_BOOL } generator;

typedef struct case_operand {
  char name[32];
  tensor t; /* shape and dtype; no data */
  generator generator;
  double low, high;
} case_operand;

enum { CASE_OPERANDS = 24, CASE_ATTRS = 24, CASE_LIST = 16 };

typedef struct test_case {
  char text[512]; /* with sizes put in for letters */
  int n_operands; /* in the order of the operator's signature; an absent optional one has rank -1 */
  case_operand operands[CASE_OPERANDS];
  int n_attrs;
  named_attr attrs[CASE_ATTRS];
  char strings[CASE_ATTRS][64];
  int64_t ints[CASE_ATTRS][CASE_LIST];
  double floats[CASE_ATTRS][CASE_LIST];
} test_case;

/* Calls fn for each size in the case's text. A text that does not parse is reported on stderr; returns how many
 * were. */
typedef void (*case_fn)(void *user, const test_case *c);
int case_each(const op *o, const char *source, case_fn fn, void *user);

/* Memory for `t`, whose shape is set: contiguous, or with the axes laid out in reverse order and gaps between elements.
 * The caller frees t->data with mem_free_aligned. */
bool tensor_allocate(tensor *t, bool strided);
void tensor_generate(const case_operand *spec, uint64_t seed, const tensor *t);
void tensor_copy(const tensor *from, const tensor *to);
uint64_t random_next(uint64_t *state);
double random_uniform(uint64_t *state); /* [0, 1) */

#endif
