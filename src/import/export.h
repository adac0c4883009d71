/* torch.export archives (.pt2, schema 8.17 to 8.20) to graphs.
 *
 * Metadata that the graph keeps:
 *   torch.in_spec, torch.out_spec   PyTorch's treespec texts: how inputs and outputs nest
 *   torch.arg_names                 JSON list of forward's argument names, if the file has them
 *   torch.inputs                    JSON list, one object for each flattened user input: {"name": "x", "tensor": 0}
 * (index among the graph's inputs) or {"name": "flag", "value": true} (a constant that the export baked in)
 *   torch.outputs                   JSON list, one for each flattened user output: {"tensor": 0}, {"int": 1} (a rank-0
 * i64 output to be read as a Python int), {"float": 1}, {"bool": 1} or {"value": null} torch.mutated_inputs JSON list
 * of {"input": i, "output": j}: the model wrote to input i; its new contents are output j torch.version of the
 * exporter */
#ifndef KILN_IMPORT_EXPORT_H
#define KILN_IMPORT_EXPORT_H

#include "graph/graph.h"

/* Is this a zip archive that holds models/...json, as torch.export.save writes? */
bool export_detect(const void *bytes, size_t size);
/* `origin` names the file in texts. The graph borrows its weights from `bytes`. Unsupported operators are all listed in
 * one KILN_UNSUPPORTED text, with counts, module paths and source lines. */
kiln_status export_import(const void *bytes, size_t size, const char *origin, graph **out);
/* The same with layers in int8, by the ranges of a calibration cache; NULL: without. */
kiln_status export_import_calibrated(const void *bytes, size_t size, const char *origin, const char *calibration_cache,
                                     graph **out);

/* Is "aten::sym_size.int" (or such) an operator on sizes, or a check, that exported programs may have? They have no
 * schema row. */
bool export_takes_size_operator(const char *name);

#endif
