/* Which inputs and outputs are complex tensors to the model. The graph has real ones: a last dimension more, of 2, holds the real and
 * the imaginary part. Graphs carry it as the metadata "kiln.complex", such as "i0,o0,o2". */
#ifndef KILN_GRAPH_COMPLEX_IO_H
#define KILN_GRAPH_COMPLEX_IO_H

#include "graph/graph.h"

/* Floats with a last dimension of 2 only, whatever the metadata says. */
bool graph_input_is_complex(const graph *g, int32_t index);
bool graph_output_is_complex(const graph *g, int32_t index);
/* Adds one; role is 'i' or 'o'. */
kiln_status graph_mark_complex(graph *g, char role, int32_t index);
/* "c64[2,s0]" of the f32[2,s0,2] that stands for it. */
void complex_type_print(const graph *g, const tensor_type *t, text *out);

#endif
