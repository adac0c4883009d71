/* Runs one node with one kernel on given data and compares with the reference. */
#ifndef KILN_TESTS_CONFORMANCE_RUN_H
#define KILN_TESTS_CONFORMANCE_RUN_H

#include "backends/backend.h"
#include "case.h"

enum { RUN_OUTPUTS = 4 };

typedef struct run_options {
  bool constants; /* operands after the first are constants of the graph */
  bool strided;   /* parameters and results have odd strides */
  bool compile;   /* bind only: for devices that are not here */
} run_options;

typedef struct prepared { /* operand data and the reference's results */
  const test_case *c;
  tensor in[CASE_OPERANDS];
  tensor out[RUN_OUTPUTS];
  int n_out;
  kiln_status status; /* of the reference: an error is then expected from every kernel */
} prepared;

/* Changes a fresh node before it is planned (adds an epilogue, a body); NULL: nothing. */
typedef kiln_status (*decorate_fn)(void *user, node *n);

/* One node in a graph of its own. `param_of` tells for each operand the parameter's number, or -1. */
kiln_status run_build(const op *o, const prepared *p, run_options options, decorate_fn decorate, void *user,
                      graph **out_graph, node **out_node, int param_of[CASE_OPERANDS]);

kiln_status prepare_case(const op *o, const test_case *c, decorate_fn decorate, void *user, prepared *out);
void prepared_free(prepared *p);

/* The device that kernels of `t` run on (or are compiled for, where it is not here); NULL for the host. */
kiln_status run_open_device(const target *t, bool compile);
void run_close_device(void);

/* True if the kernel's results are the reference's within the tolerance; else `why` says where not. */
bool run_kernel(const op *o, const prepared *p, const target *t, const kernel *k, run_options options, double tolerance,
                decorate_fn decorate, void *user, text *why);

#endif
