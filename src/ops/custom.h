/* Custom operators: rows of the operator table that users register while the process runs (kiln/kiln_ext.h).
 *
 * An operator is never removed. What it can do (its kernels and shape function) stands in an immutable record that is replaced as a
 * whole when more is registered, so readers need no lock. */
#ifndef KILN_OPS_CUSTOM_H
#define KILN_OPS_CUSTOM_H

#include <kiln/kiln_ext.h>

#include "import/aten.h"
#include "ops/op.h"

typedef struct custom_impl {
  kiln_op_run run, run_cuda;
  kiln_op_shape shape;
  bool shape_of_model;
  bool has_cuda;         /* `cuda` is set */
  kiln_cuda_kernel cuda; /* own copies */
  const void *image;     /* instead of cuda.source: PTX with a zero behind it, a cubin or a fatbin */
  size_t image_size;
  const char *dtypes; /* "f32" */
} custom_impl;

typedef struct custom_op {
  op row; /* first: an `op *` with OP_CUSTOM is a custom_op */
  op_schema schema;
  aten_schema aten;
  torch_row torch[2];
  const char *library; /* the plugin that registered it, "" if none did */
  const custom_impl *impl;
  struct custom_op *next;
} custom_op;

static inline const custom_op *custom_of(const op *o) { return (const custom_op *)(const void *)o; }
const custom_impl *custom_impl_of(const op *o);

kiln_status custom_register(const kiln_op_def *def);
/* What registers from now on in this thread is of this plugin; NULL: of none. */
void custom_set_library(const char *name);

/* Leaves in the graph's metadata that it uses this operator, if that is a custom one, and which plugin had it. */
kiln_status custom_note(graph *g, const op *o);

const op *custom_find(const char *name);                                   /* "mine.scale" */
int custom_find_schemas(const char *name, const aten_schema *const **out); /* "mine::scale", as aten_find */

/* The call's arguments as plugins see them. `tensors` of kernel calls have room for n_in + n_out. */
enum { CUSTOM_MAX_TENSORS = 64, CUSTOM_MAX_RESULTS = 8 };
typedef struct custom_call {
  kiln_op_call call;
  kiln_tensor tensors[CUSTOM_MAX_TENSORS];
  const kernel_args *kernel; /* NULL while shapes are inferred */
  graph *graph;              /* the other way round */
  const node *node;
  const attr *attrs;
} custom_call;
kiln_status custom_call_fill(custom_call *c, const kernel_args *a);
extern const kiln_argument_functions custom_argument_functions;
/* Runs a function of the user's and says whose failure it is. */
kiln_status custom_run(const node *n, kiln_op_run function, const kiln_op_call *call);
kiln_status custom_ref(const kernel_args *a); /* ops of the row: the CPU kernel on tensors of any strides */
const attr *custom_attr(const op *o, const attr *attrs, const char *name); /* NULL: it has no such argument */
bool custom_parse_dtype(const char **at, kiln_dtype *out);                 /* the next of "f32 f16" */
/* Are all floating-point operands and results of a type that the operator's kernels take? */
bool custom_dtypes_fit(const node *n, const char **why);
/* Sizes and integer arguments by the names that launch expressions use, in a table whose values are *out_values. */
kiln_status custom_names(arena *a, const kernel_args *args, dim_table **out_table, int64_t **out_values);
/* "x" -> its tensor, "out" or "out0" -> a result; NULL if there is none. */
const tensor *custom_tensor(const kernel_args *a, const char *name, size_t length);

#endif
