/* Floating-point numbers as text, independent of the process's locale: what the printer writes reads back to the same
 * bits. */
#ifndef KILN_GRAPH_NUMBER_H
#define KILN_GRAPH_NUMBER_H

#include "base/text.h"

/* Shortest decimal that reads back as `v`, or as (float)v if `single`; also `inf`, `-inf`, `nan` (sign and payload are
 * lost). */
void number_print(text *out, double v, bool single);
/* Reads such a number at *cursor (NUL-terminated text) and moves it. */
bool number_read(const char **cursor, double *out);

#endif
