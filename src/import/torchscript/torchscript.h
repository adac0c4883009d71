/* TorchScript files (.pt, .ts of torch.jit.save; traced or scripted) to graphs.
 *
 * A method is executed by an abstract interpreter: scalars, lists, strings and shapes are computed at build time,
 * tensor operators become nodes, `if` and `while` on tensor data become regions. The graph's metadata is that of
 * export.h where it applies (torch.arg_names, torch.inputs, torch.outputs, torch.in_spec, torch.out_spec), so that
 * callers need not know which file a graph came from. */
#ifndef KILN_IMPORT_TORCHSCRIPT_TORCHSCRIPT_H
#define KILN_IMPORT_TORCHSCRIPT_TORCHSCRIPT_H

#include "graph/graph.h"

bool torchscript_detect(const void *bytes, size_t size);

/* Shapes of the inputs come from options->inputs (min/opt/max make symbolic sizes), else from the traced_inputs.pkl of
 * a traced file; without either, KILN_INVALID_ARGUMENT lists the inputs and shows how to pass them. options->method
 * names the method (NULL: forward). Unsupported operators are all listed in one KILN_UNSUPPORTED text with the user's
 * own source lines. */
kiln_status torchscript_import(const void *bytes, size_t size, const char *origin, const kiln_build_options *options,
                               graph **out);

/* For `kiln inspect`: methods with their inputs, parameters with shapes, operators with counts, and which are
 * unsupported, as text. */
kiln_status torchscript_describe(const void *bytes, size_t size, const char *origin, text *out);

#endif
