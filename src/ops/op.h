/* One operator: everything the project knows about it, except faster kernels. A backend names the operators that it has
 * kernels for, never the other way round.
 *
 * Reference kernels are plain loops over any dtype and any strides, accumulating in double (or int64): the definition
 * that all other kernels are tested against. */
#ifndef KILN_OPS_OP_H
#define KILN_OPS_OP_H

#include "base/threads.h"
#include "graph/graph.h"

/* ---- What a kernel sees (reference kernels and every backend's) -------------------------------------------------- */

typedef struct tensor { /* concrete */
  void *data;           /* NULL: absent optional operand */
  kiln_dtype dtype;
  int32_t rank;
  int64_t shape[KILN_MAX_RANK];
  int64_t strides[KILN_MAX_RANK]; /* in elements */
  const char *packing;            /* as in constant */
} tensor;

typedef struct kernel_args {
  const node *node;  /* operator, names, blocks; symbolic attributes must be read from `attrs` */
  const attr *attrs; /* as node->attrs, with every dim evaluated */
  tensor *in;
  int32_t n_in;
  tensor *out;
  int32_t n_out;
  void *state;            /* what the kernel's prepare made for these shapes; NULL for reference kernels */
  void *workspace;        /* 64-byte aligned, of the size that prepare asked for */
  size_t workspace_size;  /* in all (not per thread) */
  pool *pool;             /* may be NULL: run in the caller's thread */
  const int64_t *symbols; /* values of the graph's symbols at these shapes */
  struct device *device;  /* NULL: the host; else all data are its addresses */
  void *stream;           /* of the device */
} kernel_args;

/* Attributes of a running kernel by name. */
const attr *arg_attr(const kernel_args *a, const char *name);
int64_t arg_int(const kernel_args *a, const char *name);
double arg_float(const kernel_args *a, const char *name);
bool arg_bool(const kernel_args *a, const char *name);

int64_t tensor_numel(const tensor *t);
bool tensor_is_contiguous(const tensor *t);
void tensor_make_contiguous_strides(tensor *t);

/* ---- Inference --------------------------------------------------------------------------------------------------- */

/* Sets n->outputs[i]->type from the inputs' types and attributes, or fails with a text that names the operand and what
 * was expected. Helpers are in ops/infer.h. */
typedef kiln_status (*infer_fn)(graph *g, node *n);
/* Returns KILN_OK or (for data-dependent failures such as an index out of range) an error. */
typedef kiln_status (*ref_fn)(const kernel_args *a);
/* Writes the same as simpler operators before `n` with `b`, and returns the replacement of its outputs in out[]. */
typedef kiln_status (*decompose_fn)(builder *b, node *n, value **out);

/* ---- How frameworks call it -------------------------------------------------------------------------------------- */

struct lower_call; /* import/lower.h */
/* `schema` is the framework operator's own signature in PyTorch's syntax, with overload name: argument names, types and
 * defaults come from it. Exactly one of `map` and `lower` is set. `map` is for calls that translate argument by
 * argument: "softmax(self; axis=dim)"   operands by argument name in the operator's order, `-` for an absent optional
 * operand; after ';' attribute=argument, or just the name where both are the same. In-place forms ("relu_") need no
 * rows of their own: they are the functional form and a write to argument 0. */
typedef struct torch_row {
  const char *schema; /* "aten::softmax.int(Tensor self, int dim, ScalarType? dtype=None) -> Tensor" */
  const char *map;
  kiln_status (*lower)(struct lower_call *call);
} torch_row;

/* ---- The row ----------------------------------------------------------------------------------------------------- */

enum {                           /* op.flags */
       OP_POINTWISE = 1 << 0,    /* each output element depends on the (broadcast) input elements at its place only */
       OP_VIEW = 1 << 1,         /* output is the input's memory with another shape, strides or offset: see view */
       OP_CONTROL_FLOW = 1 << 2, /* has blocks that the runtime executes */
       OP_RANDOM = 1 << 3,       /* never folded or merged */
       OP_COMMUTATIVE = 1 << 4,
       OP_ANCHOR = 1 << 5,         /* backends may fuse an epilogue into it */
       OP_DATA_DEPENDENT = 1 << 6, /* output shape has symbols that are known after it ran */
       OP_CUSTOM = 1 << 7,         /* registered while the process runs: ops/custom.h */
};

struct op {
  const char *name;  /* "softmax"; stored in engine files, never reused for another meaning */
  const char *sig;   /* "x w b? -> y": operands, `?` optional, `xs*` any number (last); results, `ys*` any number */
  const char *attrs; /* "stride:ints dilation:ints groups:int=1 layout:str=\"nchw\"": kinds int float bool str dtype
                        ints floats, `?` optional */
  uint32_t flags;
  infer_fn infer;
  ref_fn ref;
  decompose_fn decompose; /* optional */
  /* OP_VIEW: shape, strides and data of out from in (concrete). False: needs a copy (say, reshape of a strided
   * tensor). */
  bool (*view)(const kernel_args *a, const tensor *in, tensor *out);
  /* OP_POINTWISE: a C expression in x, y, z (operands as float or, for `integer_expression`, int64_t) and p0, p1, p2
   * (the float attributes in order), over the functions of ops/scalar_math.h; and the same compiled for double and
   * int64. */
  const char *expression, *integer_expression;
  double (*scalar)(double x, double y, double z, const double *p);
  int64_t (*integer)(int64_t x, int64_t y, int64_t z, const double *p);
  const torch_row *torch; /* ends with a row whose schema is NULL; NULL: none */
  const char *const
      *cases; /* conformance cases (tests/conformance reads them, syntax in docs/operators.md); ends with NULL */
  /* OP_DATA_DEPENDENT: the value of the symbol that the node defines (op_defined_size), from its operands. `out` is not
   * there yet, and attributes are the node's own. */
  kiln_status (*measure)(const kernel_args *a, int64_t *out_size);
  float tolerance; /* largest |error| of an f32 kernel relative to 1 + |ref|; 0: must be equal bit for bit */
};

/* Parsed sig/attrs, made once when the registry starts. */
typedef struct op_operand {
  const char *name;
  bool optional, variadic;
} op_operand;
typedef struct op_attr {
  const char *name;
  attr_kind kind;
  bool optional, has_default;
  attr fallback;
} op_attr;
typedef struct op_schema {
  const op *op;
  op_operand *in, *out;
  int32_t n_in, n_out;
  op_attr *attrs;
  int32_t n_attrs;
} op_schema;

/* The registry: families are listed in ops/registry.c, rows in each family's file. Parsed on first use [any thread]. */
kiln_status ops_init(
    void); /* KILN_INTERNAL names a row that does not parse; called by every public entry point that needs it */
const op *op_find(const char *name);
const op_schema *op_schema_of(const op *o);
int op_count(void);
const op *op_at(int index);
/* The size that a data-dependent node makes known: its attribute `size`, or the first size of its first result. */
dim op_defined_size(const node *n);
int op_attr_index(const op *o, const char *name); /* -1 if there is none */

typedef struct op_family {
  const op *rows;
  size_t count;
} op_family;
#define OP_FAMILY(name, array) const op_family name = {(array), KILN_COUNT(array)}

#endif
