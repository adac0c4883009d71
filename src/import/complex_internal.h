/* What complex.c, which carries complex tensors, and complex_rules.c, which knows what operators do to them, share. */
#ifndef KILN_IMPORT_COMPLEX_INTERNAL_H
#define KILN_IMPORT_COMPLEX_INTERNAL_H

#include "import/complex.h"
#include "import/handles.h"

enum { COMPLEX_MAX_ARGS = 64, COMPLEX_MAX_PARTS = 64, COMPLEX_MAX_RESULTS = 16 };

typedef kiln_status (*complex_rule)(lower_call *c);
complex_rule complex_rule_find(const char *name); /* "add"; NULL: the operator takes no complex tensors */

static inline bool complex_is(const ivalue *v) {
  return v->kind == IV_COMPLEX || (v->kind == IV_TENSOR && v->u.t->parts[0]);
}
/* How many complex tensors and numbers are among the arguments? */
int complex_count(const lower_call *c);
kiln_status complex_no_memory(const lower_call *c);
void complex_return_tensor(lower_call *c, int i, itensor *t);

/* The call's row with part pick[n] in place of the n-th complex argument. Real arguments that `lift` names (in spaces, " value ", or NULL)
 * count as complex numbers, without being counted: part pick[0] of them, which is 0 for the imaginary one. */
kiln_status complex_run_parts(lower_call *c, const int *pick, const char *lift, ivalue *results);
/* The same to the real and to the imaginary part. */
kiln_status complex_by_parts(lower_call *c, const char *lift);
/* One value of a real operator's row run on these parts. */
kiln_status complex_run_values(lower_call *c, int first, int second, value **out);

#endif
