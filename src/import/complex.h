/* Complex tensors, which the graph does not have: while a model is imported, a handle can be a pair of handles, the real and the
 * imaginary part. Operators that take such handles run on the parts. A complex input or output of the whole model is a real tensor with a last
 * dimension of 2 (graph/complex_io.h). */
#ifndef KILN_IMPORT_COMPLEX_H
#define KILN_IMPORT_COMPLEX_H

#include "import/lower.h"

typedef struct complex_value {
  value *re, *im; /* im NULL: a real tensor */
} complex_value;

/* The dtype argument of a complex type holds -2 - dtype of its parts. */
enum { COMPLEX_DTYPE = -2 };
static inline bool complex_dtype(const ivalue *v, kiln_dtype *out_part) {
  if (v->kind != IV_DTYPE || v->u.i > COMPLEX_DTYPE) return false;
  *out_part = (kiln_dtype)(COMPLEX_DTYPE - v->u.i);
  return true;
}

itensor *complex_tensor(importer *im, itensor *re, itensor *imaginary); /* NULL when out of memory, or given NULL */

/* The border of a graph, where a complex tensor is a real one whose last dimension holds the two parts. NULL: see graph_check, else out of
 * memory. */
itensor *complex_unpack(importer *im, builder *b, value *pairs);
value *complex_pack(builder *b, const itensor *t);
/* lower_value, or for a complex tensor complex_pack. */
value *complex_value_of(builder *b, itensor *t, bool *out_complex);
/* How often it was written. */
uint32_t complex_version(const itensor *t);
/* lower_write for complex tensors too. */
kiln_status complex_write(builder *b, itensor *t, itensor *from);

/* Is some argument of the call complex? Then complex_run runs it instead of its row. */
bool complex_call(const lower_call *c);
bool complex_operator(const aten_schema *schema); /* may that be, or does it make a complex tensor? */
kiln_status complex_run(lower_call *c);

/* The argument, complex or not; a missing one fails. */
kiln_status complex_argument(lower_call *c, const char *name, complex_value *out);
/* Result i is this complex tensor, or a real one if `z.im` is NULL. */
void complex_return(lower_call *c, int i, complex_value z);

/* Rows for real arguments of operators that give complex tensors. */
kiln_status lower_complex(lower_call *c);
kiln_status lower_polar(lower_call *c);
kiln_status lower_view_as_complex(lower_call *c);
kiln_status lower_needs_complex(lower_call *c);
kiln_status lower_eig(lower_call *c);

#endif
