/* The CUDA backend inside: how a kernel row gets a compiled function, launches it, and asks about the GPU.
 *
 * A row (struct kernel) looks like a CPU row. Its life:
 *   fits     at build time, without a GPU. `isa` of a row is the oldest architecture it runs on (80: all that Kiln
 * supports), `isa_max` the newest (90 for wgmma: sm_90a code runs on nothing else), so fits need not look at the
 * architecture. prepare  when shapes are bound. Everything is concrete now (shapes, strides, attributes; addresses are
 * not): picks tile sizes, makes kernel text and asks for the function with cuda_compile. That returns at once; all
 * functions of a program are compiled together, in parallel, when the last prepare is done. `p->kernel->variant` tells
 * rows that share one prepare apart. run      enqueues on a->stream with cuda_launch and returns; never waits, never
 * allocates, never touches the data. It runs once per launch when timing, and once per CUDA graph when the program is
 * captured, so building launch parameters (tensor maps too) there costs nothing in the steady state. All data pointers
 * in a->in, a->out and a->workspace are device addresses.
 *
 * Kernel text is CUDA C++17 without any #include (headers cost most of the compile time): the prelude (prelude.c)
 * stands in front of it and gives the types f16 and bf16, conversions, vectors and the functions of pointwise
 * expressions. Sizes that matter for speed are written into the text as #defines; equal texts are compiled once per
 * device, and kept as cubins in the cache folder. */
#ifndef KILN_BACKENDS_CUDA_CUDA_H
#define KILN_BACKENDS_CUDA_CUDA_H

#include "backends/backend.h"

/* ---- The GPU ----------------------------------------------------------------------------------------------------- */

typedef struct cuda_facts {
  char name[64]; /* "NVIDIA H100 80GB HBM3"; "sm_90" where no GPU is behind it */
  int arch;      /* 80, 86, 89, 90, 100, 120 */
  int sm_count;
  size_t shared_block; /* most dynamic shared memory of one block (227 KiB on sm_90) */
  size_t shared_sm;    /* of one multiprocessor */
  size_t l2_bytes;
  size_t memory_bytes;
  bool present; /* false: facts of a named architecture; functions are compiled but cannot be launched */
} cuda_facts;

/* `d` is kernel_prep.device or kernel_args.device. */
const cuda_facts *cuda_device_facts(const device *d);

/* ---- Functions --------------------------------------------------------------------------------------------------- */

typedef struct cuda_function cuda_function; /* owned by the device, lives as long as it */

typedef struct cuda_source {
  const char *entry;   /* extern "C" __global__ void <entry>(...) */
  const char *defines; /* put between prelude and text; NULL: none */
  const char *text;    /* copied */
  const char *more;    /* put behind text; NULL: none */
  size_t shared; /* dynamic shared memory of a block; above 48 KiB the limit is raised when the function is loaded */
  bool foreign;  /* a user's text, which may need all of the language; ours needs little, which compiles faster */
  bool specific; /* compile for sm_90a or sm_100a (wgmma, tcgen05, setmaxnreg); else plain sm_NN */
} cuda_source;

/* Returns at once; the function may be launched when all prepares of the program are done. `*out` is never NULL on
 * KILN_OK. */
kiln_status cuda_compile(kernel_prep *p, const cuda_source *source, const cuda_function **out);

typedef struct cuda_launch_config {
  const cuda_function *function;
  unsigned grid[3], block[3]; /* 0 counts as 1 */
  unsigned cluster[3];        /* all 0: none */
  size_t shared;
  bool overlap;  /* programmatic dependent launch: the kernel calls griddepcontrol.wait itself before it reads */
  void **params; /* pointers to the arguments, in order */
} cuda_launch_config;

/* Enqueues on a->stream. Nothing is done for a grid with a dimension of `empty` work: callers skip that themselves. */
kiln_status cuda_launch(const kernel_args *a, const cuda_launch_config *l);

/* cuda_launch_1d(a, f, blocks, threads, shared, &x, &y, ...): arguments by address. */
#define CUDA_PARAMS(...) ((void *[]){__VA_ARGS__, NULL})
kiln_status cuda_launch_1d(const kernel_args *a, const cuda_function *f, int64_t blocks, int threads, size_t shared,
                           void **params);

/* Tensor map for the bulk tensor copy engine (sm_90 and newer), passed by value as `const __grid_constant__ kiln_map`.
 * Sizes and box innermost first; strides in bytes of dimensions 1 and up. `swizzle` is 0, 32, 64 or 128 bytes.
 * Out-of-range elements read 0. */
typedef struct cuda_map {
  _Alignas(64) unsigned char bytes[128];
} cuda_map;
kiln_status cuda_map_tiled(const kernel_args *a, cuda_map *out, const void *base, kiln_dtype dtype, int rank,
                           const int64_t *sizes, const int64_t *strides, const int *box, int swizzle);
/* The same over pixels of a channels-last image [N, D.., H, W, C] (rank 3 to 5): `lower` and `upper` corners of the box
 * of filter origins (width first), elements of C and pixels of one copy. */
kiln_status cuda_map_im2col(const kernel_args *a, cuda_map *out, const void *base, kiln_dtype dtype, int rank,
                            const int64_t *sizes, const int64_t *strides, const int *lower, const int *upper,
                            int channels, int pixels, const int *step, int swizzle);

/* ---- Precision ------------------------------------------------------------------------------------------------------
 * Storage is the tensors' dtype (f32, f16 or bf16): precision="fp16" rewrites the graph before it is planned, so a row
 * never sees an f32 tensor that should be computed in f16. Sums are kept in f32 always. What stays open is what f32
 * matrix products may use: */

typedef enum cuda_math {
  CUDA_MATH_FP32, /* f32 operands: fused multiply-add */
  CUDA_MATH_TF32  /* f32 operands: tensor cores with 10 bits of mantissa */
} cuda_math;
cuda_math cuda_math_of(const node *n);

/* In kernel text: "float", "f16", "bf16", "double", "signed char", "unsigned char", "short", "int", "long long"; bool
 * is "bool". */
const char *cuda_type(kiln_dtype d);
/* Is the operand there, and a weight? */
static inline bool cuda_is_constant(const kernel_prep *p, int operand) {
  return operand < p->args.n_in && p->args.in[operand].rank >= 0 && p->args.in[operand].data != NULL;
}
/* What stands behind the `*` of an operand's parameter. Only of weights the compiler may know that nothing else writes them: the
 * results of kernels that still run when this one is launched are read too (docs/decisions/0014). */
static inline const char *cuda_alias(const kernel_prep *p, int operand) {
  return cuda_is_constant(p, operand) ? "__restrict__ " : "";
}
static inline bool cuda_is_float(kiln_dtype d) { return d == KILN_F32 || d == KILN_F16 || d == KILN_BF16; }
/* For fits: operands that are present and results are f32, f16 or bf16, all the same. */
bool cuda_fits_float(const node *n, const char **why);
kiln_status cuda_decompose(graph *g);                      /* rewrites what no kernel takes */
bool cuda_attention_fits(const node *n, const char **why); /* do the kernels of attention.c take it? */

/* ---- Epilogues ------------------------------------------------------------------------------------------------------
 * Text of the node's epilogue for a result seen as rows of its last dimension: element (row, col) is row *
 * shape[rank-1] + col of the contiguous result. The text defines struct kiln_epi { const void *p[N]; }; last parameter
 * of the kernel, by value template <int V> __device__ void kiln_epilogue(float (&v)[V], const kiln_epi &e, long long
 * row, int col); v: V results from (row, col) on, in one row; col % V == 0
 *     __device__ long long kiln_out_row(long long row);         element offset of a row in the (maybe strided) result
 *     #define KILN_OUT_STEP n                                    stride of the last dimension, normally 1
 * and is the identity for nodes without an epilogue, so kernels always call it. Rows that fuse say .epilogue = true and
 * fits checks cuda_epilogue_fits. The result's dtype is a->out[0].dtype: write it with from_float<T>. */
bool cuda_epilogue_fits(const node *n, const char **why);
kiln_status cuda_epilogue_text(const kernel_prep *p, const char **out_text);
enum { CUDA_EPILOGUE_MAX = 16 };
typedef struct cuda_epilogue_args {
  const void *p[CUDA_EPILOGUE_MAX];
} cuda_epilogue_args;
/* Addresses of the epilogue's operands for the launch. */
void cuda_epilogue_fill(const kernel_args *a, cuda_epilogue_args *out);

/* ---- The list of rows
 * ------------------------------------------------------------------------------------------------- Each kernel file
 * exports one array that ends with a row whose op is NULL, named in CUDA_GROUPS. Where groups share an operator, the
 * group that stands first is better. */
/* clang-format off */
#define CUDA_GROUPS(X) \
  X(cuda_attention_rows) X(cuda_gemm_rows) X(cuda_conv_rows) X(cuda_pointwise_rows) X(cuda_reduce_rows) \
  X(cuda_norm_rows) X(cuda_movement_rows) X(cuda_pool_rows) X(cuda_index_rows) X(cuda_sort_rows) \
  X(cuda_grouped_rows) X(cuda_special_rows) X(cuda_linalg_rows) X(cuda_detection_rows) X(cuda_plain_rows) X(cuda_f64_rows) \
  X(cuda_size_rows)
/* clang-format on */

/* Writes `fmt` into the prepare arena; NULL (and a raised error) when memory is out. */
char *cuda_text(kernel_prep *p, const char *fmt, ...) KILN_PRINTF(2, 3);

#endif
