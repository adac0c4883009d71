/* One method on its way into the graph: inputs.c makes its arguments, state.c runs it, outputs.c says what comes out.
 */
#ifndef KILN_IMPORT_TORCHSCRIPT_METHOD_H
#define KILN_IMPORT_TORCHSCRIPT_METHOD_H

#include "import/torchscript/interpreter.h"

enum { METHOD_MAX_LEAVES = 1024 };

typedef struct method_leaf { /* of the flattened arguments */
  const char *name;          /* "x", "x.0", "d.key" */
  ts_value v;                /* a tensor: the handle of its graph input; else a constant */
  int32_t tensor;            /* index among the graph's inputs, or -1 */
} method_leaf;

typedef struct method_state { /* something of the module that a run changes: a state of the graph */
  const char *name;
  value *initial, *param, *last;
} method_state;

typedef struct method {
  interp *it;
  const kiln_build_options *options;
  const char *name;
  ts_object *self;
  const ts_function *function;
  ts_value *args; /* without self */
  int n_args;
  method_leaf leaves[METHOD_MAX_LEAVES];
  int n_leaves;
  int32_t n_tensors;
  ts_value result;
  method_state *states;
  int n_states;
} method;

/* Objects with __setstate__ get their state, as torch.jit.load would do it. */
kiln_status method_restore(interp *it);
kiln_status method_inputs(method *m);
kiln_status method_run(method *m);    /* state.c */
kiln_status method_finish(method *m); /* outputs.c */

#endif
