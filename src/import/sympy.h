/* Reads the symbolic sizes of .pt2 files: sympy's srepr texts, such as "Add(Symbol('s27', positive=True, integer=True),
 * Integer(-2))". */
#ifndef KILN_IMPORT_SYMPY_H
#define KILN_IMPORT_SYMPY_H

#include "graph/dim.h"

/* `create`: a symbol that the table lacks is made, with no upper bound; otherwise it is KILN_UNSUPPORTED. */
kiln_status sympy_parse(dim_table *t, const char *expression, bool create, dim *out);

/* What a DIM_ERROR that has just come back means: out of memory, or a file that asks for too much. The text is in the
 * record. */
kiln_status dim_failure(void);

#endif
