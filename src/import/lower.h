/* Lowering: one call of a framework operator becomes nodes of the graph.
 *
 * Importers (export.c now, TorchScript next) turn their files into lower_calls; the operator rows' torch_row tables say
 * what each call means. Tensors in here are handles with PyTorch's aliasing: a view knows its base, and writing to a
 * view writes the base (functionalization). Handles give their current SSA value through lower_value. */
#ifndef KILN_IMPORT_LOWER_H
#define KILN_IMPORT_LOWER_H

#include "graph/graph.h"
#include "ops/op.h"

typedef struct importer importer;
typedef struct itensor itensor; /* a tensor handle; see lower_value */

typedef enum ivalue_kind {
  IV_NONE = 0,
  IV_TENSOR,
  IV_INT,    /* `i`, maybe symbolic */
  IV_FLOAT,  /* `f` */
  IV_BOOL,   /* `i` */
  IV_STR,    /* `s` */
  IV_LIST,   /* also tuples: `items`, `count` */
  IV_DTYPE,  /* `i`, a kiln_dtype (already translated from the framework's code), or -1: a type that Kiln lacks */
  IV_DEVICE, /* ignored by lowerings */
  IV_LAYOUT,
  IV_COMPLEX /* a Python number: `items` has two floats */
} ivalue_kind;

typedef struct ivalue {
  ivalue_kind kind;
  int32_t count;
  union {
    itensor *t;
    dim i;
    double f;
    const char *s;
    struct ivalue *items;
  } u;
} ivalue;

typedef struct aten_arg {
  const char *name;
  const char *type; /* "Tensor", "Tensor?", "Tensor[]", "int", "SymInt[2]", "Scalar", "bool", "float?", "str",
                       "ScalarType?" ... */
  bool has_default, keyword_only, written; /* written: Tensor(a!) */
  ivalue fallback;
} aten_arg;

typedef struct aten_schema { /* a torch_row's schema, parsed */
  const char *name;          /* "aten::softmax" */
  const char *overload;      /* "int" or "" */
  aten_arg *args;
  int32_t n_args, n_returns;
  bool returns_list; /* "Tensor[]" */
  const op *op;      /* the row it stands in */
  const torch_row *row;
} aten_schema;

typedef struct lower_call {
  importer *im;
  builder b; /* where nodes go; carries module path and source line */
  const aten_schema *schema;
  ivalue *args;    /* one for each argument of the schema, defaults filled in, kinds checked against the schema */
  ivalue *results; /* room for n_results; set by the lowering */
  int32_t n_results;
  bool in_place; /* result 0 is written to argument 0 after the lowering, and is that tensor; see aten_resolve */
  const tensor_type *result_types; /* custom operators: what the file says that they are; NULL: it does not */
  int32_t n_result_types;
} lower_call;

/* Arguments by name. The typed forms return 0/NULL/absent for None; a wrong kind is an error caught before lowering. */
const ivalue *call_arg(const lower_call *c, const char *name);
value *call_tensor(lower_call *c, const char *name); /* the current SSA value; a Scalar becomes a rank-0 constant */
bool call_is_none(const lower_call *c, const char *name);
dim call_int(const lower_call *c, const char *name);
double call_float(const lower_call *c, const char *name); /* a symbolic int is refused: the call then fails */
bool call_bool(const lower_call *c, const char *name);
const char *call_str(const lower_call *c, const char *name);
int call_ints(const lower_call *c, const char *name, dim *out,
              int max); /* returns the count, -1: more than max; a lone int counts as a list of 1 */
/* int lists that PyTorch expands: one value stands for all `n`. */
kiln_status call_ints_expand(const lower_call *c, const char *name, int n, dim *out);
int call_tensors(lower_call *c, const char *name, value **out, int max); /* Tensor[]; -1: more than max */
int call_list_count(const lower_call *c, const char *name);
/* Result i is this value (a new tensor, no alias). */
void call_return(lower_call *c, int i, value *v);
/* Result i is a view of argument `name`: `v` was computed from it by view operators only. Writes to either are seen by
 * both; the inverse is found from v's producers (slice -> slice_scatter, and so on), so build `v` from view rows. */
void call_return_view(lower_call *c, int i, const char *name, value *v);
void call_return_list(lower_call *c, int i, int count, value *const *items);
void call_return_view_list(lower_call *c, int i, const char *name, int count, value *const *items);
void call_return_ivalue(lower_call *c, int i, ivalue v);
/* "aten::conv2d: argument padding: ..." with module path and source line. */
#define LOWER_FAIL(c, ...) lower_fail((c), __FILE__, __LINE__, __VA_ARGS__)
kiln_status lower_fail(lower_call *c, const char *file, int line, const char *fmt, ...) KILN_PRINTF(4, 5);

/* Small builders that many lowerings need (all NULL-propagating, as build()). */
value *lower_cast(builder *b, value *v, kiln_dtype dtype);             /* no node if it already has it */
value *lower_reshape(builder *b, value *v, int rank, const dim *dims); /* dims without -1 */
value *lower_permute(builder *b, value *v, int rank, const dim *order);
value *lower_expand(builder *b, value *v, int rank, const dim *dims);
value *lower_binary(builder *b, const char *op_name, value *x, value *y); /* operands already promoted */
/* PyTorch's result type of x op y, where rank-0 tensors and Python scalars weigh less; casts both. */
void lower_promote(builder *b, value **x, bool x_is_scalar, value **y, bool y_is_scalar);
/* A rank-0 tensor of a symbolic size, for SymInt arithmetic that must become tensor data (i64). */
value *lower_size_tensor(builder *b, dim d);

/* ---- The importers' side ----------------------------------------------------------------------------------------- */

/* All schemas with this name ("aten::softmax"); sets *out to an array. 0 if no row answers to it. */
int aten_find(const char *name, const aten_schema *const **out);
const aten_schema *aten_find_overload(const char *name, const char *overload);

kiln_status lower_run(lower_call *call);       /* checks kinds, runs the row, applies in-place and view semantics */
itensor *lower_tensor(importer *im, value *v); /* a fresh handle */
bool lower_is_base(const itensor *t);          /* owns its value: no view */
value *lower_value(builder *b, itensor *t);    /* brings a view up to date if its base was written */
kiln_status lower_write(builder *b, itensor *t, value *v); /* copy_ semantics: v is broadcast and cast to t's type */

struct importer {
  graph *graph;
  arena *arena;                             /* for handles, as long as the import */
  itensor *handles;                         /* the newest */
  void (*changing)(void *user, itensor *t); /* NULL, or called before a handle's state changes */
  void *changing_user;
  struct fourier_table *tables; /* what Fourier transforms have made, for the next ones that need the same */
  size_t table_bytes;
  struct calibration *calibration; /* int8 ranges (calibration.h); NULL: none */
};

#endif
