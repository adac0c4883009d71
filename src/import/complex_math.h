/* Elementary functions of complex numbers, in terms of real operators. Values are NULL where something failed, as with build(). */
#ifndef KILN_IMPORT_COMPLEX_MATH_H
#define KILN_IMPORT_COMPLEX_MATH_H

#include "import/complex.h"

typedef complex_value (*complex_function)(builder *b, complex_value z);

/* The function of an operator of one tensor ("sin", "log1p"); NULL: none. */
complex_function complex_function_find(const char *name);

value *complex_abs(builder *b, complex_value z);                              /* no overflow on the way */
complex_value complex_multiply(builder *b, complex_value x, complex_value y); /* `im` may be NULL */
complex_value complex_divide(builder *b, complex_value x, complex_value y);   /* likewise */
/* x to the power y, of broadcast floats; 0 to the power 0 is 1. */
complex_value complex_power(builder *b, complex_value x, complex_value y);
complex_value complex_from_polar(builder *b, value *length, value *turn);

#endif
