/* kiln.h - build inference engines from PyTorch models, and run them.
 *
 * Holds for every function below:
 *   - Functions that can fail return kiln_status; KILN_OK is 0. Outputs are written only on KILN_OK.
 *     kiln_last_error() then has a text that says what failed, where, and what to do.
 *   - *_build, *_load, *_open and *_create hand the caller one object; give it to its *_destroy, which accepts NULL.
 *   - Accessors lend: the pointer they return lives as long as the object it came from. Inputs are copied unless
 *     the comment says "borrows".
 *   - One thread at a time per object, unless marked [any thread]. Nothing here aborts, exits or prints.
 *   - Sizes are in bytes, shapes and strides in elements, times in seconds, unless the name says otherwise. */
#ifndef KILN_KILN_H
#define KILN_KILN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(KILN_BUILD_SHARED) || defined(__GNUC__)
#define KILN_PUBLIC __attribute__((visibility("default")))
#else
#define KILN_PUBLIC
#endif
#ifdef __GNUC__
#define KILN_MUST_USE __attribute__((warn_unused_result))
#else
#define KILN_MUST_USE
#endif
#define KILN_API KILN_PUBLIC KILN_MUST_USE

#define KILN_VERSION_MAJOR 0
#define KILN_VERSION_MINOR 1
#define KILN_VERSION_PATCH 0
#define KILN_MAX_RANK 8

typedef enum kiln_status {
  KILN_OK = 0,
  KILN_INVALID_ARGUMENT, /* the caller broke a documented rule: wrong shape, dtype, count, NULL, unknown option */
  KILN_INVALID_FILE,     /* a model or engine file is damaged or hostile */
  KILN_UNSUPPORTED,      /* valid, but Kiln cannot do it; the text names every operator concerned */
  KILN_OUT_OF_MEMORY,
  KILN_INCOMPATIBLE, /* engine file of a newer format version, or no plan can be made for this machine */
  KILN_DEVICE_ERROR, /* a driver failed; the device object is now unusable */
  KILN_IO_ERROR,     /* the operating system refused to read or write a file */
  KILN_INTERNAL      /* a bug in Kiln; please report the text */
} kiln_status;

/* The failure of this thread's last failed kiln_* call: the innermost reason first, then one line per frame; "" if
 * none failed yet. Lives until the next failure on this thread. [any thread] */
KILN_PUBLIC const char *kiln_last_error(void);
/* "KILN_OK", "KILN_INVALID_FILE", ... [any thread] */
KILN_PUBLIC const char *kiln_status_name(kiln_status status);
/* "0.1.0" of the library that is running. [any thread] */
KILN_PUBLIC const char *kiln_version(void);

/* ---- Memory ---------------------------------------------------------------------------------------------------- */

/* Every allocation of the library goes through these, except those of the JSON reader (jansson) while a .pt2 file is
 * imported. `allocate` returns memory aligned to max_align_t or NULL. */
typedef struct kiln_allocator {
  void *(*allocate)(void *user, size_t size);
  void (*release)(void *user, void *block); /* block may be NULL */
  void *user;
} kiln_allocator;
/* Must be called before any other function; NULL restores malloc and free. Not thread-safe. */
KILN_PUBLIC void kiln_set_allocator(const kiln_allocator *allocator);
/* Releases a string or buffer that the library handed out with the words "release with kiln_free". */
KILN_PUBLIC void kiln_free(void *block);

/* ---- Tensors: the memory layout is DLPack's DLTensor (dlpack.h, version 1), so one can be cast to the other ------ */

typedef enum kiln_dtype {
  KILN_F32 = 0,
  KILN_F64,
  KILN_F16,
  KILN_BF16,
  KILN_I8,
  KILN_U8,
  KILN_I16,
  KILN_I32,
  KILN_I64,
  KILN_BOOL, /* one byte, 0 or 1 */
  KILN_DTYPE_COUNT
} kiln_dtype;

/* DLPack device types that Kiln knows. */
enum { KILN_DEVICE_CPU = 1, KILN_DEVICE_CUDA = 2 };

typedef struct kiln_tensor {
  void *data;
  struct {
    int32_t type, id;
  } device;
  int32_t ndim; /* 0..KILN_MAX_RANK */
  struct {
    uint8_t code, bits; /* DLPack: 0 int, 1 unsigned, 2 float, 4 bfloat, 6 bool */
    uint16_t lanes;     /* 1 */
  } dtype;
  int64_t *shape;
  int64_t *strides; /* in elements; NULL means row-major contiguous */
  uint64_t byte_offset;
} kiln_tensor;

/* Fills code/bits/lanes of `tensor` for `dtype`. */
KILN_PUBLIC void kiln_tensor_set_dtype(kiln_tensor *tensor, kiln_dtype dtype);
/* Reads them back; KILN_DTYPE_COUNT if Kiln has no such type. */
KILN_PUBLIC kiln_dtype kiln_tensor_get_dtype(const kiln_tensor *tensor);
/* "f32", "i64", ... as used in texts and on the command line; size of one element in bytes. [any thread] */
KILN_PUBLIC const char *kiln_dtype_name(kiln_dtype dtype);
KILN_PUBLIC size_t kiln_dtype_size(kiln_dtype dtype);

/* ---- Building -------------------------------------------------------------------------------------------------- */

/* One input's shape range. A dimension with min == max is static. Files that carry symbolic dimensions (.pt2) need no
 * spec; where one is given it may only narrow the file's ranges. */
typedef struct kiln_input_spec {
  const char *name; /* NULL: by position */
  kiln_dtype dtype; /* KILN_DTYPE_COUNT: as the model says */
  int32_t rank;
  int64_t min[KILN_MAX_RANK], opt[KILN_MAX_RANK], max[KILN_MAX_RANK];
  const char *constant; /* NULL: a tensor. Else this argument of a TorchScript method is no tensor and is fixed to this
                           value: "3", "0.5", "true", "none", or a text in single quotes; the shape is not looked at */
  int is_complex; /* a complex tensor of this shape, whose parts have the dtype; see kiln_engine_input_is_complex */
} kiln_input_spec;

/* Called now and then during long work, from the building thread: what is being done, and how much of it, 0..1.
 * Returning non-zero cancels; the call then fails with KILN_INVALID_ARGUMENT ("cancelled"). */
typedef int (*kiln_progress_fn)(void *user, const char *stage, double fraction);

typedef struct kiln_build_options {
  size_t struct_size;       /* sizeof(kiln_build_options): later versions add fields at the end */
  const char *target;       /* "cpu" (best ISA of this machine), "cpu:avx512", "cpu:avx2", "cpu:scalar", "reference";
                               "cuda" (the GPU of this machine), "cuda:1" (another one of it), "cuda:sm_80" to
                               "cuda:sm_120" (one that need not be here); NULL is "cpu" */
  const char *precision;    /* "fp32"; GPUs: "tf32", "fp16", "bf16" of an fp32 model, maybe with operators or module
                               paths that stay in fp32, "fp16:softmax,head*"; NULL is "fp32" */
  double tune_seconds;      /* time budget of the tuner; 0 takes the heuristic choice */
  const char *tactic_cache; /* path read and updated by the tuner; NULL keeps nothing */
  const kiln_input_spec *inputs;
  size_t input_count;
  int32_t threads; /* that the tuner assumes; 0: one per core */
  kiln_progress_fn progress;
  void *progress_user;
  const char *method;          /* TorchScript: the method to build; NULL is "forward" */
  const char *const *metadata; /* key, value, key, value, ..., NULL: kept for kiln_engine_metadata; NULL: none. The key
                                  "kiln.shared_dims" names sizes of inputs that must be the same in each run, as pairs of
                                  input.dimension: "0.0=1.0,0.1=1.1" */
  int32_t allow_host_fallback; /* GPUs: operators that have no kernel there run on the CPU, with copies of their tensors
                                  to and fro. 0: the build fails and lists them all */
  size_t profile_count; /* more than 1: `inputs` has input_count specs for each optimization profile, one profile after
                                  another, the same inputs in the same order. Kernels are chosen for the opt shapes of each;
                                  sizes that no profile contains are refused at run time. At most 64 */
  const char
      *calibration_cache; /* path of a cache of int8 ranges that Python wrote: convolutions and linear layers take
                                    values rounded to int8 (docs/torch2trt.md); NULL: they do not */
} kiln_build_options;
#define KILN_BUILD_OPTIONS_INIT \
  { sizeof(kiln_build_options), NULL, NULL, 0.0, NULL, NULL, 0, 0, NULL, NULL, NULL, NULL, 0, 0, NULL }

typedef struct kiln_engine kiln_engine;   /* immutable but for its weights, see kiln_engine_refit; shareable between
                                             contexts and threads [any thread] */
typedef struct kiln_context kiln_context; /* one execution's buffers and state */

/* Builds an engine from a model file (torch.export .pt2, told by content). `options` may be NULL. */
KILN_API kiln_status kiln_engine_build(const char *path, const kiln_build_options *options, kiln_engine **out_engine);
/* The same from memory. Borrows `bytes` during the call only. */
KILN_API kiln_status kiln_engine_build_memory(const void *bytes, size_t size, const kiln_build_options *options,
                                              kiln_engine **out_engine);

/* ---- Engine files ---------------------------------------------------------------------------------------------- */

/* Reads an engine from memory. Borrows `bytes` (8-byte aligned; 64 for best speed) until the engine is destroyed. */
KILN_API kiln_status kiln_engine_load(const void *bytes, size_t size, kiln_engine **out_engine);
/* Maps an engine file. Weights are paged in on demand and never copied. The file must not change meanwhile. */
KILN_API kiln_status kiln_engine_open(const char *path, kiln_engine **out_engine);
/* Writes to a temporary name beside `path` and renames: `path` is either the old file or the complete new one. */
KILN_API kiln_status kiln_engine_save(const kiln_engine *engine, const char *path);
/* The bytes that kiln_engine_save would write. Release with kiln_free. */
KILN_API kiln_status kiln_engine_serialize(const kiln_engine *engine, void **out_bytes, size_t *out_size);
/* Checks the weights' checksums (kiln_engine_load checks all the rest, but not these, to stay fast). */
KILN_API kiln_status kiln_engine_verify(const kiln_engine *engine);
/* Contexts keep their engine alive: it is freed when the last of them is destroyed. */
KILN_PUBLIC void kiln_engine_destroy(kiln_engine *engine);

/* ---- What an engine is ----------------------------------------------------------------------------------------- */

typedef struct kiln_io_info {
  const char *name;
  kiln_dtype dtype;
  int32_t rank;
  int64_t min[KILN_MAX_RANK], max[KILN_MAX_RANK]; /* equal where static; INT64_MAX: no upper bound */
  int64_t opt[KILN_MAX_RANK];                     /* the shape the plan was tuned for */
} kiln_io_info;

KILN_PUBLIC size_t kiln_engine_input_count(const kiln_engine *engine);  /* [any thread] */
KILN_PUBLIC size_t kiln_engine_output_count(const kiln_engine *engine); /* [any thread] */
KILN_API kiln_status kiln_engine_input(const kiln_engine *engine, size_t index, kiln_io_info *out_info);
KILN_API kiln_status kiln_engine_output(const kiln_engine *engine, size_t index, kiln_io_info *out_info);
/* 1: the model takes (gives) a complex tensor here. Engines have it as a real one, dense or not, with a last dimension more, of 2: the
 * real part and the imaginary part, as complex numbers lie in memory, so that the data of complex64 are those of f32[..., 2].
 * [any thread] */
KILN_PUBLIC int kiln_engine_input_is_complex(const kiln_engine *engine, size_t index);
KILN_PUBLIC int kiln_engine_output_is_complex(const kiln_engine *engine, size_t index);
/* Optimization profiles: 1 for an engine that was built without any. kiln_engine_input tells the range that spans them, and
 * the opt shape of the first. [any thread] */
KILN_PUBLIC size_t kiln_engine_optimization_profile_count(const kiln_engine *engine);
KILN_API kiln_status kiln_engine_optimization_profile_input(const kiln_engine *engine, size_t profile, size_t index,
                                                            kiln_io_info *out_info);
/* Free-form strings that importers leave, such as "torch.in_spec"; NULL if there is no such key. [any thread] */
KILN_PUBLIC const char *kiln_engine_metadata(const kiln_engine *engine, const char *key);
/* Mutated buffers that a context keeps from run to run; 0 for most models. [any thread] */
KILN_PUBLIC size_t kiln_engine_state_count(const kiln_engine *engine);
/* The target that the engine was planned for, "cpu:avx512". On a GPU of another architecture the first context plans it again. [any
 * thread] */
KILN_PUBLIC const char *kiln_engine_target(const kiln_engine *engine);
/* The GPU that contexts use unless they are told another: 1 for an engine that this process built for "cuda:1", else 0.
 * [any thread] */
KILN_PUBLIC int kiln_engine_device(const kiln_engine *engine);

typedef enum kiln_report {
  KILN_REPORT_GRAPH,   /* the portable graph, as text that the tests' parser reads */
  KILN_REPORT_PLAN,    /* the planned graph with the tactic of each kernel */
  KILN_REPORT_MEMORY,  /* arena layout at the opt shapes */
  KILN_REPORT_WHY,     /* which kernels were refused, and why */
  KILN_REPORT_SUMMARY, /* inputs, outputs, operators with counts, weights */
  KILN_REPORT_SIGNATURE /* one line: "(f32[s0,16]) -> (f32[s0,4]); 1<=s0<=64", sizes as expressions of the inputs' sizes */
} kiln_report;
/* Text for people. Release *out_text with kiln_free. */
KILN_API kiln_status kiln_engine_report(const kiln_engine *engine, kiln_report what, char **out_text);
/* The same of a model file, without building it; lists unsupported operators with their source lines. */
KILN_API kiln_status kiln_model_report(const char *path, kiln_report what, char **out_text);

/* ---- Other weights --------------------------------------------------------------------------------------------- */

/* A weight of the model by one of its names: a key of the state dictionary, such as "encoder.layer.0.fc.weight". */
typedef struct kiln_weight_info {
  const char *name;
  kiln_dtype dtype;
  int32_t rank;
  int64_t shape[KILN_MAX_RANK];
  int used;     /* 0: the model has it, but computes nothing from it */
  int required; /* each refit must give it: the engine has no form of it that can be kept. Others may be left out, and
                   stay as they are */
  int fixed; /* its values decided what the engine computes (a size, a branch): a refit must give the same, or none */
} kiln_weight_info;

/* The names that kiln_engine_refit takes; 0 for engines that cannot be refitted. Tied weights have one entry for each of
 * their names. [any thread] */
KILN_PUBLIC size_t kiln_engine_weight_count(const kiln_engine *engine);
KILN_API kiln_status kiln_engine_weight(const kiln_engine *engine, size_t index, kiln_weight_info *out_info);
/* Gives an engine other weights in place, such as those of another checkpoint, without the model: tensors[i] becomes the
 * weight names[i]. Everything that was made of the weights is made again - folded batch norms, merged and packed matrices,
 * constant subgraphs, other precisions -, exactly as a build from a model with these weights would, but with the tactics
 * that were chosen at the build. Tensors are in host memory, of the weight's dtype and shape, with any strides; they are
 * borrowed during the call. Weights that are not given keep their values, also where the engine has them only as a part of
 * something else; if another part of that is given with other values, the error names both. Names that
 * the engine lacks, wrong types and missing weights are all told at once (KILN_INVALID_ARGUMENT), and then, as after any
 * other failure, nothing has changed.
 * Contexts may run meanwhile, on other threads: a run that has begun ends with the old weights, and a context takes the new
 * ones with its next run, which binds its shapes anew; no run sees a mixture. Buffers that a context keeps from run to run
 * stay as they are until kiln_context_reset. The old weights are freed when the last context has changed over. Memory for a
 * second set is needed meanwhile. kiln_engine_save and kiln_engine_serialize write the new weights. Two refits of one
 * engine at once are safe; the later one stays. [any thread] */
KILN_API kiln_status kiln_engine_refit(kiln_engine *engine, const char *const *names, const kiln_tensor *tensors,
                                       size_t count);
/* The same with the tensors of a .safetensors file, by their names there. */
KILN_API kiln_status kiln_engine_refit_file(kiln_engine *engine, const char *path);
/* A copy without weights, for files that are shipped apart from them: it keeps the graphs, the plan with its tactics, and
 * the few constants that no state dictionary has. It tells of its inputs and outputs, but contexts are refused until
 * kiln_engine_refit has given it all weights. Numbers that the model's code had in it are kept. */
KILN_API kiln_status kiln_engine_strip(const kiln_engine *engine, kiln_engine **out_stripped);
/* 0: stripped, and not refitted since. [any thread] */
KILN_PUBLIC int kiln_engine_has_weights(const kiln_engine *engine);

/* ---- Tuning in place --------------------------------------------------------------------------------------------- */

/* Times the tactics of an engine on this machine, as a build with `tune_seconds` and `tactic_cache` does, and takes over what
 * is fastest: for engines that were built elsewhere with heuristics, or for another GPU of the same architecture. Of
 * `options` (NULL: 60 seconds, no cache) only tune_seconds, tactic_cache, threads and progress count. Contexts take the new
 * plan with their next run; kiln_engine_save and kiln_engine_serialize write it. After a failure nothing has changed.
 * KILN_INCOMPATIBLE: the engine's GPU is not here. [any thread] */
KILN_API kiln_status kiln_engine_tune(kiln_engine *engine, const kiln_build_options *options);

/* ---- Running --------------------------------------------------------------------------------------------------- */

typedef struct kiln_context_options {
  size_t struct_size;
  int32_t threads; /* that one run may use, the caller's included; 0: one per core */
} kiln_context_options;

KILN_API kiln_status kiln_context_create(const kiln_engine *engine, kiln_context **out_context);
/* `options` may be NULL. */
KILN_API kiln_status kiln_context_create_with(const kiln_engine *engine, const kiln_context_options *options,
                                              kiln_context **out_context);
/* The same on GPU number `device` (as the process sees them), for engines whose target is a GPU; the others take 0. */
KILN_API kiln_status kiln_context_create_on(const kiln_engine *engine, int device, const kiln_context_options *options,
                                            kiln_context **out_context);
/* Fixes the input shapes of the next runs: checks them, plans memory, and writes each output's ndim and dtype and,
 * where its shape pointer is not NULL (room for KILN_MAX_RANK), its shape; a size that depends on the inputs' data is
 * -1, and such an output must be run with data NULL. Input data pointers are not read. Costs nothing when the shapes
 * are those of the last call. `outputs` may be NULL. */
KILN_API kiln_status kiln_context_prepare(kiln_context *context, const kiln_tensor *inputs, size_t input_count,
                                          kiln_tensor *outputs, size_t output_count);
/* Which optimization profile the next runs take; -1, as at first: of those that contain a run's sizes the one whose opt sizes
 * are nearest to them. Sizes outside the profile are refused. */
KILN_API kiln_status kiln_context_set_optimization_profile(kiln_context *context, int index);
/* The one that the last prepared shapes took; -1: there are none yet. */
KILN_PUBLIC int kiln_context_optimization_profile(const kiln_context *context);
/* Runs once, to the end. Inputs may have any strides. An output whose data is NULL is made to point at memory of the
 * context (contiguous, its shape and strides pointers lent too), valid until the next call; otherwise its shape must be
 * right and the result is written there (any strides). Output memory must not overlap input memory. No allocation and
 * no lock once a shape has been seen. */
KILN_API kiln_status kiln_context_run(kiln_context *context, const kiln_tensor *inputs, size_t input_count,
                                      kiln_tensor *outputs, size_t output_count);
/* GPU engines: runs are enqueued on this stream (a CUstream of the context's device; NULL is the default stream) from now on, and
 * kiln_context_run returns without waiting for them, unless a tensor is in host memory. Without this call a context has a stream of
 * its own. A run on a new stream waits for the last run on the old one. While the stream is being captured by the caller, runs
 * become part of that graph; the shapes must have been prepared. */
KILN_API kiln_status kiln_context_set_stream(kiln_context *context, void *stream);
/* Copies a tensor to another of the same shape and type, both in host memory or both on the context's GPU, any strides; there on
 * the context's stream. For what kiln_context_run lends. */
KILN_API kiln_status kiln_context_copy(kiln_context *context, const kiln_tensor *from, const kiln_tensor *to);
/* Puts mutated buffers (an LSTM's state, say) back to their values in the model. */
KILN_PUBLIC void kiln_context_reset(kiln_context *context);
KILN_PUBLIC void kiln_context_destroy(kiln_context *context);

typedef struct kiln_memory_info {
  size_t weights; /* bytes of weights, shared by all contexts */
  size_t arena;   /* this context's activations at the shapes last prepared */
  size_t state;   /* mutated buffers */
} kiln_memory_info;
KILN_PUBLIC void kiln_context_memory(const kiln_context *context, kiln_memory_info *out_info);

typedef struct kiln_step_info {
  const char *op, *tactic, *name; /* name: the module path in the model, "" if unknown */
  double seconds;                 /* total over the profiled runs */
  double flops, bytes;            /* estimate for one run; 0 if unknown */
} kiln_step_info;
/* Starts (1) or stops (0) timing each step of each run; starting clears the sums. */
KILN_PUBLIC void kiln_context_profile(kiln_context *context, int enable);
KILN_PUBLIC size_t kiln_context_step_count(const kiln_context *context);
KILN_API kiln_status kiln_context_step(const kiln_context *context, size_t index, kiln_step_info *out_info);

/* ---- Operator table -------------------------------------------------------------------------------------------- */

/* Coverage as text or JSON: every operator, the names it answers to, and the backends' kernels. Release with
 * kiln_free. */
KILN_API kiln_status kiln_ops_report(int json, char **out_text);
/* Whether the importers take this operator of PyTorch: "aten::add.Tensor", "aten::linear" (the overload without a name). A
 * model may still be refused for arguments that are not supported. [any thread] */
KILN_PUBLIC int kiln_operator_supported(const char *name);
/* 1: it takes complex tensors too, or makes them. */
KILN_PUBLIC int kiln_operator_takes_complex(const char *name);

#ifdef __cplusplus
}
#endif
#endif
