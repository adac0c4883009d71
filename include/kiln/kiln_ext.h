/* kiln_ext.h - custom operators and rewrite rules (docs/extending.md).
 *
 * A plugin is a shared object with one function, kiln_plugin_init, which registers what it has through the table that it is given.
 * It needs this header and nothing else: no link to libkiln, so one file serves the library, the `kiln` program and Python.
 *
 *     #include <kiln/kiln_ext.h>
 *     static kiln_status run(const kiln_op_call *c) {
 *       const float *x = c->inputs[0].data, k = (float)kiln_arg_float(&c->args, "k");
 *       float *y = c->outputs[0].data;
 *       for (int64_t i = 0; i < kiln_elements(&c->outputs[0]); i++) y[i] = k * x[i];
 *       return KILN_OK;
 *     }
 *     kiln_status kiln_plugin_init(const kiln_ext *ext) {
 *       const kiln_op_def scale = {.struct_size = sizeof scale, .schema = "mine::scale(Tensor x, float k=1.0) -> Tensor", .run = run};
 *       return ext->register_op(&scale);
 *     }
 *
 * Names in graph texts: "mine::scale" is `mine.scale`. Engines keep the names of the custom operators that they use, not their code:
 * whoever opens such an engine registers the operators first. What is registered stays for the life of the process. [any thread] */
#ifndef KILN_KILN_EXT_H
#define KILN_KILN_EXT_H

#include "kiln.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KILN_EXT_VERSION 1

/* ---- The arguments of a call that are not tensors ---------------------------------------------------------------- */

typedef struct kiln_argument_functions {
  int64_t (*get_int)(const void *internal, const char *name);
  double (*get_float)(const void *internal, const char *name);
  const char *(*get_text)(const void *internal, const char *name);
  int32_t (*get_ints)(const void *internal, const char *name, const int64_t **out);
  int32_t (*get_floats)(const void *internal, const char *name, const double **out);
  int (*is_given)(const void *internal, const char *name);
  kiln_status (*fail)(kiln_status status, const char *message);
  void (*parallel)(const void *internal, int64_t count, void (*fn)(void *user, int64_t i), void *user);
  int64_t (*dim)(const void *internal, char operation, int64_t a, int64_t b);
} kiln_argument_functions;
typedef struct kiln_arguments {
  const kiln_argument_functions *functions;
  const void *internal;
} kiln_arguments;

/* By the names in the schema. An argument that is None, or that the schema lacks, is 0, NULL or empty; kiln_arg_is_given tells. */
static inline int64_t kiln_arg_int(const kiln_arguments *a,
                                   const char *name) { /* int, bool; ScalarType: a kiln_dtype */
  return a->functions->get_int(a->internal, name);
}
static inline double kiln_arg_float(const kiln_arguments *a, const char *name) { /* float, Scalar */
  return a->functions->get_float(a->internal, name);
}
static inline const char *kiln_arg_text(const kiln_arguments *a, const char *name) {
  return a->functions->get_text(a->internal, name);
}
static inline int32_t kiln_arg_ints(const kiln_arguments *a, const char *name,
                                    const int64_t **out) { /* returns the count */
  return a->functions->get_ints(a->internal, name, out);
}
static inline int32_t kiln_arg_floats(const kiln_arguments *a, const char *name, const double **out) {
  return a->functions->get_floats(a->internal, name, out);
}
static inline int kiln_arg_is_given(const kiln_arguments *a, const char *name) {
  return a->functions->is_given(a->internal, name);
}
/* Returns `status`, and has the failing call of the library say `message`. */
static inline kiln_status kiln_op_fail(const kiln_arguments *a, kiln_status status, const char *message) {
  return a->functions->fail(status, message);
}

/* ---- Running ----------------------------------------------------------------------------------------------------- */

/* One run. Tensors are contiguous, in the order of the schema; data of an absent optional one is NULL. A list of tensors (the last
 * tensor argument only) stands as its tensors. Results do not overlap operands. May be called from several threads. */
typedef struct kiln_op_call {
  kiln_arguments args;
  const kiln_tensor *inputs, *outputs;
  int32_t input_count, output_count;
  void *
      stream; /* run_cuda: a CUstream; enqueue there and return, without waiting or allocating: the call may be captured */
} kiln_op_call;
/* KILN_OK, or a failure, best by kiln_op_fail. */
typedef kiln_status (*kiln_op_run)(const kiln_op_call *call);

static inline int64_t kiln_elements(const kiln_tensor *t) {
  int64_t n = 1;
  for (int32_t i = 0; i < t->ndim; i++) n *= t->shape[i];
  return n;
}
/* fn(user, i) for 0 <= i < count on the threads of the run (on the caller's for run_cuda). */
static inline void kiln_parallel(const kiln_op_call *c, int64_t count, void (*fn)(void *user, int64_t i), void *user) {
  c->args.functions->parallel(c->args.internal, count, fn, user);
}

/* ---- Shapes ------------------------------------------------------------------------------------------------------ */

typedef struct kiln_shape {
  kiln_dtype dtype;
  int32_t rank; /* -1: an absent optional operand */
  int64_t dims
      [KILN_MAX_RANK]; /* a size that varies is a handle below KILN_DIM_HANDLE: copy it, or compute with kiln_dim_* */
} kiln_shape;
#define KILN_DIM_HANDLE (INT64_MIN / 2)

/* `outputs` comes as copies of the first tensor's type. */
typedef struct kiln_shape_call {
  kiln_arguments args;
  const kiln_shape *inputs;
  kiln_shape *outputs;
  int32_t input_count, output_count;
} kiln_shape_call;
typedef kiln_status (*kiln_op_shape)(kiln_shape_call *call);

/* Exact for numbers, symbolic for handles; floordiv and mod round as Python does. */
static inline int64_t kiln_dim_add(const kiln_shape_call *c, int64_t a, int64_t b) {
  return c->args.functions->dim(c->args.internal, '+', a, b);
}
static inline int64_t kiln_dim_sub(const kiln_shape_call *c, int64_t a, int64_t b) {
  return c->args.functions->dim(c->args.internal, '-', a, b);
}
static inline int64_t kiln_dim_mul(const kiln_shape_call *c, int64_t a, int64_t b) {
  return c->args.functions->dim(c->args.internal, '*', a, b);
}
static inline int64_t kiln_dim_floordiv(const kiln_shape_call *c, int64_t a, int64_t b) {
  return c->args.functions->dim(c->args.internal, '/', a, b);
}
static inline int64_t kiln_dim_mod(const kiln_shape_call *c, int64_t a, int64_t b) {
  return c->args.functions->dim(c->args.internal, '%', a, b);
}

/* ---- Operators --------------------------------------------------------------------------------------------------- */

/* A kernel as text: CUDA C++17 without includes, compiled by NVRTC for the GPU and kept in the kernel cache. Before it
 * stands `typedef float x_t;` for each tensor x of the schema (results are called out, or out0, out1, ...); types of 16
 * bits convert to and from float by themselves. */
typedef struct kiln_cuda_kernel {
  const char *source;
  const char *name; /* of the extern "C" __global__ function */
  /* Its parameters, separated by spaces: names of tensors (pointers), and numbers such as float:k int:x_size long:x_dim0*x_dim1
   * double:k bool:flag. NULL: operands (pointers) and other arguments (float: float, int: long long, bool: bool) as the schema has
   * them, then the results, then the number of elements of the first result as long long. */
  const char *arguments;
  /* Expressions of sizes and of integer arguments, with + - * // % max(,) min(,): x_size elements, x_dim0 the first size, x_end1 the
   * last. NULL: as many blocks as give each element of the first result a thread, and 1. */
  const char *grid[3];
  int32_t block[3]; /* threads; 0: 256, and 1 */
  size_t shared;    /* dynamic shared memory of a block */
} kiln_cuda_kernel;

typedef struct kiln_op_def {
  size_t struct_size;
  /* PyTorch's text, as torch.ops.mine.scale.default._schema prints it. Tensor, Tensor?, Tensor[] (last), int, float, bool, str, Scalar,
   * ScalarType, int[], float[], bool[], and `?` of these; results are tensors; no argument may be written. */
  const char *schema;
  kiln_op_run run;              /* CPU; NULL: none */
  kiln_op_run run_cuda;         /* GPU: host code that enqueues work, tensors are device addresses; NULL: none */
  const kiln_cuda_kernel *cuda; /* GPU, instead of run_cuda; NULL: none. Copied */
  kiln_op_shape shape;          /* NULL: results are like the first tensor argument */
  /* 1 (and shape NULL): results are as the model file says, which has it from the operator's fake implementation in
   * PyTorch. Only for .pt2 files and live models, and kernels that trust them. The first registration of an operator
   * decides. */
  int32_t shape_of_model;
  /* Element types that the kernels take for floating-point tensors: "f32 f16"; NULL is "f32", "any" is all. Other models are refused
   * rather than misread. */
  const char *dtypes;
  /* A kernel that is compiled already, instead of cuda->source, which is NULL then: PTX text, a cubin or a fatbin, with its kernel
   * cuda->name. The driver takes it as it is, so it must fit the GPU (PTX: its own or an older architecture). Copied. */
  const void *cuda_image;
  size_t cuda_image_size;
} kiln_op_def;
/* Registering a schema again adds the parts that are not NULL to it, in place of those it had. */
KILN_API kiln_status kiln_op_register(const kiln_op_def *def);

/* ---- Rewrite rules ----------------------------------------------------------------------------------------------- */

/* Where the pattern is found in a model that is built, its last line's results are replaced. One node a line:
 *
 *   pattern      %a = mul(%x, 1.702)              numbers match constants with one element
 *                %s = sigmoid(%a)
 *                %y = mul(%x, %s)                 commutative operators in any order
 *   replacement  %y = mine.quick_gelu(%x) {k=1.702}
 *
 * Values without a line match anything (`const %w`: constants only). Attributes not named have their defaults; {axis=$a} matches any
 * value and gives it to the replacement. `kiln inspect --graph` shows the operators of a model, `kiln ops` all there are. */
typedef struct kiln_rule_def {
  size_t struct_size;
  const char *name;                  /* registering it again replaces the rule */
  const char *pattern, *replacement; /* replacement NULL: removes the rule */
} kiln_rule_def;
KILN_API kiln_status kiln_rule_register(const kiln_rule_def *def);

/* ---- Plugins ----------------------------------------------------------------------------------------------------- */

typedef struct kiln_ext {
  uint32_t version; /* KILN_EXT_VERSION of the library */
  kiln_status (*register_op)(const kiln_op_def *def);
  kiln_status (*register_rule)(const kiln_rule_def *def);
} kiln_ext;
/* The function that a plugin has. */
KILN_PUBLIC kiln_status kiln_plugin_init(const kiln_ext *ext);
/* Loads a shared object and runs its kiln_plugin_init. Its code runs in this process: load only what you trust. */
KILN_API kiln_status kiln_plugin_load(const char *path);
/* Which kernels a registered custom operator has: bit 0 for the CPU, bit 1 for GPUs; -1: "mine::scale" is not registered. */
KILN_PUBLIC int kiln_op_kernels(const char *name);

#ifdef __cplusplus
}
#endif

#endif
