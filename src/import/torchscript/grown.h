/* Lists that grow in a loop whose length is known at run time only: each iteration appends the same number of tensors of one shape. The loop
 * carries one tensor with room for all of them, and the list then has one item of kind TSV_RUN that stands for as many as its first axis is
 * long. */
#ifndef KILN_IMPORT_TORCHSCRIPT_GROWN_H
#define KILN_IMPORT_TORCHSCRIPT_GROWN_H

#include "import/torchscript/control.h"

typedef struct growth { /* of one list, in one loop */
  int each;             /* tensors that an iteration appends; 0: it does not grow */
  tensor_type type;     /* of each */
} growth;

/* What the body made of a list that had `from->count` items when it began: notes it in `g`, and in *out_changed whether that is new. Fails with
 * the place where it is no list that grows in the way above. `symbols`: those of sizes that are not the body's own. */
kiln_status growth_find(interp *it, const ts_saved *from, const ts_saved *to, int symbols, growth *g,
                        bool *out_changed);
/* The tensor before the loop, with room for `total` iterations. */
value *growth_initial(interp *it, const growth *g, dim total);
/* It with what the iteration `counter` appended: the last g->each of `items`. */
kiln_status growth_next(interp *it, const growth *g, value *all, const ts_saved *to, value *counter, value **out);
/* The item that stands for them. `all` NULL: it is not to be read. `counter`: in an iteration; NULL: behind the loop. Memory that the last
 * iteration's items shared with others is shared by it. */
kiln_status growth_item(interp *it, const growth *g, value *all, value *counter, const ts_saved *to, ts_value *out);

/* Is one of the arguments such a list, and the operator not one that takes any items? */
bool grown_takes(const ts_call *c);
kiln_status grown_call(interp *it, const ts_call *c, ts_value *out);

#endif
