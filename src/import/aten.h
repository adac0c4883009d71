/* The index of all torch_row schemas of the operator table, and what importers share besides lower.h. */
#ifndef KILN_IMPORT_ATEN_H
#define KILN_IMPORT_ATEN_H

#include "import/lower.h"

/* Parses every torch_row of the operator table on the first call [any thread]. KILN_INTERNAL names a row that does not
 * parse; aten_find and aten_find_overload call it and find nothing when it fails. */
kiln_status aten_init(void);
int aten_count(void);
const aten_schema *aten_at(int index);

/* The row that a call of name.overload runs: its own, or for "aten::relu_" that of "aten::relu" with *out_in_place set.
 * NULL if no row answers. */
const aten_schema *aten_resolve(const char *name, const char *overload, bool *out_in_place);

/* Parses one schema in PyTorch's syntax, into memory of `a`; `row` and `o` are kept. */
kiln_status aten_schema_parse(arena *a, const torch_row *row, const op *o, aten_schema *schema);

/* Does an argument of this value fit a schema type? Used before lowering; also turns the value into the form that the
 * type promises (a lone int for int[] stays as it is: call_ints takes both). */
bool aten_type_accepts(const char *type, const ivalue *v);

/* Is this row the only one of its name and overload, and its `map` consistent with the operator's sig and attrs?
 * KILN_INTERNAL says what is wrong. */
kiln_status lower_check_row(const aten_schema *schema);

#endif
