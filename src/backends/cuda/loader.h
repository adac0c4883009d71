/* NVIDIA's libraries, found at run time. No header of theirs is needed: what Kiln calls is declared here, in the C types of the
 * published ABI. A library that is missing costs nothing until it is asked for; the text then says what to install. */
#ifndef KILN_BACKENDS_CUDA_LOADER_H
#define KILN_BACKENDS_CUDA_LOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* ---- Driver (libcuda) --------------------------------------------------------------------------------------------- */

typedef uint64_t cu_address;
typedef struct cu_launch_attribute { /* CUlaunchAttribute */
  int id;
  char pad[4];
  union {
    char bytes[64];
    unsigned cluster[3];
    int overlap;
  } value;
} cu_launch_attribute;
enum { CU_ATTRIBUTE_CLUSTER = 4, CU_ATTRIBUTE_OVERLAP = 6 };
typedef struct cu_launch_config { /* CUlaunchConfig */
  unsigned grid[3], block[3], shared;
  void *stream;
  cu_launch_attribute *attributes;
  unsigned n_attributes;
} cu_launch_config;

enum {
  CU_SUCCESS = 0,
  CU_OUT_OF_MEMORY = 2,
  CU_NO_DEVICE = 100,
  CU_INVALID_IMAGE = 200,
  CU_NO_BINARY = 209,
  CU_INVALID_PTX = 218,
  CU_UNSUPPORTED_PTX = 222,
  CU_NOT_READY = 600
};
enum { CU_CAPTURE_RELAXED = 2, CU_EVENT_DISABLE_TIMING = 2 };

/* X(result, name without cu, symbol, arguments) */
#define CUDA_DRIVER_SYMBOLS(X)                                                                                         \
  X(Init, "cuInit", (unsigned flags))                                                                                  \
  X(DriverGetVersion, "cuDriverGetVersion", (int *version))                                                            \
  X(DeviceGetCount, "cuDeviceGetCount", (int *count))                                                                  \
  X(DeviceGet, "cuDeviceGet", (int *device, int ordinal))                                                              \
  X(DeviceGetName, "cuDeviceGetName", (char *name, int length, int device))                                            \
  X(DeviceGetAttribute, "cuDeviceGetAttribute", (int *value, int attribute, int device))                               \
  X(DeviceTotalMem, "cuDeviceTotalMem_v2", (size_t * bytes, int device))                                               \
  X(DevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (void **context, int device))                                  \
  X(DevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (int device))                                             \
  X(CtxPushCurrent, "cuCtxPushCurrent_v2", (void *context))                                                            \
  X(CtxPopCurrent, "cuCtxPopCurrent_v2", (void **context))                                                             \
  X(CtxGetCurrent, "cuCtxGetCurrent", (void **context))                                                                \
  X(CtxSynchronize, "cuCtxSynchronize", (void))                                                                        \
  X(MemGetInfo, "cuMemGetInfo_v2", (size_t * free_bytes, size_t * total_bytes))                                        \
  X(MemAlloc, "cuMemAlloc_v2", (cu_address * address, size_t bytes))                                                   \
  X(MemFree, "cuMemFree_v2", (cu_address address))                                                                     \
  X(MemHostAlloc, "cuMemHostAlloc", (void **memory, size_t bytes, unsigned flags))                                     \
  X(MemFreeHost, "cuMemFreeHost", (void *memory))                                                                      \
  X(MemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", (cu_address to, const void *from, size_t bytes, void *stream))            \
  X(MemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", (void *to, cu_address from, size_t bytes, void *stream))                  \
  X(MemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2", (cu_address to, cu_address from, size_t bytes, void *stream))             \
  X(MemsetD8Async, "cuMemsetD8Async", (cu_address to, unsigned char value, size_t bytes, void *stream))                \
  X(StreamCreate, "cuStreamCreate", (void **stream, unsigned flags))                                                   \
  X(StreamDestroy, "cuStreamDestroy_v2", (void *stream))                                                               \
  X(StreamSynchronize, "cuStreamSynchronize", (void *stream))                                                          \
  X(StreamGetCtx, "cuStreamGetCtx", (void *stream, void **context))                                                    \
  X(ThreadExchangeStreamCaptureMode, "cuThreadExchangeStreamCaptureMode", (int *mode))                                 \
  X(StreamIsCapturing, "cuStreamIsCapturing", (void *stream, int *state))                                              \
  X(StreamBeginCapture, "cuStreamBeginCapture_v2", (void *stream, int mode))                                           \
  X(StreamEndCapture, "cuStreamEndCapture", (void *stream, void **graph))                                              \
  X(StreamWaitEvent, "cuStreamWaitEvent", (void *stream, void *event, unsigned flags))                                 \
  X(GraphInstantiate, "cuGraphInstantiateWithFlags", (void **exec, void *graph, unsigned long long flags))             \
  X(GraphLaunch, "cuGraphLaunch", (void *exec, void *stream))                                                          \
  X(GraphUpload, "cuGraphUpload", (void *exec, void *stream))                                                          \
  X(GraphExecDestroy, "cuGraphExecDestroy", (void *exec))                                                              \
  X(GraphDestroy, "cuGraphDestroy", (void *graph))                                                                     \
  X(EventCreate, "cuEventCreate", (void **event, unsigned flags))                                                      \
  X(EventDestroy, "cuEventDestroy_v2", (void *event))                                                                  \
  X(EventRecord, "cuEventRecord", (void *event, void *stream))                                                         \
  X(EventSynchronize, "cuEventSynchronize", (void *event))                                                             \
  X(EventElapsedTime, "cuEventElapsedTime", (float *milliseconds, void *start, void *end))                             \
  X(ModuleLoadData, "cuModuleLoadData", (void **module, const void *image))                                            \
  X(ModuleLoadDataEx, "cuModuleLoadDataEx",                                                                            \
    (void **module, const void *image, unsigned count, int *options, void **values))                                   \
  X(ModuleUnload, "cuModuleUnload", (void *module))                                                                    \
  X(ModuleGetFunction, "cuModuleGetFunction", (void **function, void *module, const char *name))                       \
  X(FuncSetAttribute, "cuFuncSetAttribute", (void *function, int attribute, int value))                                \
  X(FuncGetAttribute, "cuFuncGetAttribute", (int *value, int attribute, void *function))                               \
  X(LaunchKernelEx, "cuLaunchKernelEx", (const cu_launch_config *config, void *function, void **params, void **extra)) \
  X(PointerGetAttribute, "cuPointerGetAttribute", (void *value, int attribute, cu_address address))                    \
  X(TensorMapEncodeTiled, "cuTensorMapEncodeTiled",                                                                    \
    (void *map, int dtype, uint32_t rank, void *address, const uint64_t *sizes, const uint64_t *strides,               \
     const uint32_t *box, const uint32_t *steps, int interleave, int swizzle, int l2, int fill))                       \
  X(TensorMapEncodeIm2col, "cuTensorMapEncodeIm2col",                                                                  \
    (void *map, int dtype, uint32_t rank, void *address, const uint64_t *sizes, const uint64_t *strides,               \
     const int *lower, const int *upper, uint32_t channels, uint32_t pixels, const uint32_t *steps, int interleave,    \
     int swizzle, int l2, int fill))                                                                                   \
  X(GetErrorName, "cuGetErrorName", (int code, const char **name))                                                     \
  X(GetErrorString, "cuGetErrorString", (int code, const char **text))

typedef struct cuda_driver {
#define CUDA_MEMBER(name, symbol, arguments) int(*name) arguments;
  CUDA_DRIVER_SYMBOLS(CUDA_MEMBER)
} cuda_driver;

/* The driver, initialized. Fails with what to install where there is none or no GPU; asked again, it answers the same. [any thread] */
kiln_status cuda_driver_get(const cuda_driver **out);

/* ---- NVRTC ---------------------------------------------------------------------------------------------------------- */

#define CUDA_NVRTC_SYMBOLS(X)                                                                          \
  X(Version, "nvrtcVersion", (int *major, int *minor))                                                 \
  X(CreateProgram, "nvrtcCreateProgram",                                                               \
    (void **program, const char *text, const char *name, int headers, const char *const *header_texts, \
     const char *const *header_names))                                                                 \
  X(CompileProgram, "nvrtcCompileProgram", (void *program, int options, const char *const *texts))     \
  X(GetCUBINSize, "nvrtcGetCUBINSize", (void *program, size_t *bytes))                                 \
  X(GetCUBIN, "nvrtcGetCUBIN", (void *program, char *bytes))                                           \
  X(GetProgramLogSize, "nvrtcGetProgramLogSize", (void *program, size_t *bytes))                       \
  X(GetProgramLog, "nvrtcGetProgramLog", (void *program, char *text))                                  \
  X(DestroyProgram, "nvrtcDestroyProgram", (void **program))

typedef struct cuda_nvrtc {
  CUDA_NVRTC_SYMBOLS(CUDA_MEMBER)
} cuda_nvrtc;
kiln_status cuda_nvrtc_get(const cuda_nvrtc **out);

/* ---- cuBLASLt, optional ------------------------------------------------------------------------------------------------ */

/* Descriptors are opaque words that the caller keeps: the sizes are those of cublasLt.h of CUDA 12 and 13. */
typedef struct cublaslt_matmul {
  uint64_t data[32]; /* cublasLtMatmulDescOpaque_t */
} cublaslt_matmul;
typedef struct cublaslt_layout {
  uint64_t data[8]; /* cublasLtMatrixLayoutOpaque_t */
} cublaslt_layout;
typedef struct cublaslt_preference {
  uint64_t data[8]; /* cublasLtMatmulPreferenceOpaque_t */
} cublaslt_preference;
typedef struct cublaslt_algorithm {
  uint64_t data[8]; /* cublasLtMatmulAlgo_t */
} cublaslt_algorithm;
typedef struct cublaslt_found { /* cublasLtMatmulHeuristicResult_t */
  cublaslt_algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
} cublaslt_found;
enum { CUBLAS_COMPUTE_F32 = 68, CUBLAS_COMPUTE_TF32 = 77 };               /* cublasComputeType_t */
enum { CUBLAS_TYPE_F32 = 0, CUBLAS_TYPE_F16 = 2, CUBLAS_TYPE_BF16 = 14 }; /* cudaDataType_t */
enum {                                                                    /* cublasLtMatmulDescAttributes_t */
       CUBLASLT_TRANSPOSE_A = 3,
       CUBLASLT_TRANSPOSE_B = 4,
       CUBLASLT_EPILOGUE = 7,
       CUBLASLT_BIAS_POINTER = 8
};
enum {
  CUBLASLT_EPILOGUE_NONE = 1,
  CUBLASLT_EPILOGUE_RELU = 2,
  CUBLASLT_EPILOGUE_BIAS = 4,
  CUBLASLT_EPILOGUE_GELU = 32
};
enum { CUBLASLT_BATCH_COUNT = 5, CUBLASLT_BATCH_STRIDE = 6 }; /* cublasLtMatrixLayoutAttribute_t */
enum { /* cublasLtMatmulPreferenceAttributes_t; alignments are of A, B, C, D */
       CUBLASLT_WORKSPACE_BYTES = 1,
       CUBLASLT_ALIGNMENT_A = 5
};

#define CUDA_CUBLASLT_SYMBOLS(X)                                                                                     \
  X(Create, "cublasLtCreate", (void **handle))                                                                       \
  X(Destroy, "cublasLtDestroy", (void *handle))                                                                      \
  X(MatmulInit, "cublasLtMatmulDescInit_internal", (cublaslt_matmul * m, size_t bytes, int compute, int scale))      \
  X(MatmulSet, "cublasLtMatmulDescSetAttribute", (cublaslt_matmul * m, int what, const void *value, size_t bytes))   \
  X(LayoutInit, "cublasLtMatrixLayoutInit_internal",                                                                 \
    (cublaslt_layout * l, size_t bytes, int type, uint64_t rows, uint64_t columns, int64_t pitch))                   \
  X(LayoutSet, "cublasLtMatrixLayoutSetAttribute", (cublaslt_layout * l, int what, const void *value, size_t bytes)) \
  X(PreferenceInit, "cublasLtMatmulPreferenceInit_internal", (cublaslt_preference * p, size_t bytes))                \
  X(PreferenceSet, "cublasLtMatmulPreferenceSetAttribute",                                                           \
    (cublaslt_preference * p, int what, const void *value, size_t bytes))                                            \
  X(Heuristic, "cublasLtMatmulAlgoGetHeuristic",                                                                     \
    (void *handle, const cublaslt_matmul *m, const cublaslt_layout *a, const cublaslt_layout *b,                     \
     const cublaslt_layout *c, const cublaslt_layout *d, const cublaslt_preference *p, int wanted,                   \
     cublaslt_found *found, int *count))                                                                             \
  X(Matmul, "cublasLtMatmul",                                                                                        \
    (void *handle, const cublaslt_matmul *m, const void *alpha, const void *a, const cublaslt_layout *at,            \
     const void *b, const cublaslt_layout *bt, const void *beta, const void *c, const cublaslt_layout *ct, void *d,  \
     const cublaslt_layout *dt, const cublaslt_algorithm *algorithm, void *workspace, size_t bytes, void *stream))

typedef struct cuda_cublaslt {
  CUDA_CUBLASLT_SYMBOLS(CUDA_MEMBER)
} cuda_cublaslt;
/* ---- cuDNN 9, optional: the backend graph API ------------------------------------------------------------------------ */

enum { /* cudnnBackendDescriptorType_t */
       CUDNN_POINTWISE = 0,
       CUDNN_CONVOLUTION = 1,
       CUDNN_ENGINE_CONFIG = 3,
       CUDNN_HEURISTIC = 4,
       CUDNN_PLAN = 5,
       CUDNN_OPERATION_CONVOLUTION = 10,
       CUDNN_OPERATION_POINTWISE = 13,
       CUDNN_GRAPH = 15,
       CUDNN_VARIANT_PACK = 16,
       CUDNN_TENSOR = 17
};
enum { /* cudnnBackendAttributeType_t */
       CUDNN_IS_HANDLE = 0,
       CUDNN_IS_DATA_TYPE = 1,
       CUDNN_IS_BOOLEAN = 2,
       CUDNN_IS_INT64 = 3,
       CUDNN_IS_FLOAT = 4,
       CUDNN_IS_POINTER = 6,
       CUDNN_IS_CONVOLUTION_MODE = 7,
       CUDNN_IS_HEURISTIC_MODE = 8,
       CUDNN_IS_POINTWISE_MODE = 14,
       CUDNN_IS_DESCRIPTOR = 15,
       CUDNN_IS_CHAR = 24
};
enum { /* cudnnBackendAttributeName_t */
       CUDNN_POINTWISE_MODE = 0,
       CUDNN_POINTWISE_PRECISION = 1,
       CUDNN_CONVOLUTION_TYPE = 100,
       CUDNN_CONVOLUTION_MODE = 101,
       CUDNN_CONVOLUTION_DILATIONS = 102,
       CUDNN_CONVOLUTION_STRIDES = 103,
       CUDNN_CONVOLUTION_PAD_END = 104,
       CUDNN_CONVOLUTION_PAD = 105,
       CUDNN_CONVOLUTION_DIMENSIONS = 106,
       CUDNN_HEURISTIC_MODE = 200,
       CUDNN_HEURISTIC_GRAPH = 201,
       CUDNN_HEURISTIC_RESULTS = 202,
       CUDNN_PLAN_HANDLE = 400,
       CUDNN_PLAN_CONFIG = 401,
       CUDNN_PLAN_WORKSPACE = 402,
       CUDNN_PLAN_JSON = 405,
       CUDNN_FORWARD_ALPHA = 700,
       CUDNN_FORWARD_BETA = 701,
       CUDNN_FORWARD_CONVOLUTION = 702,
       CUDNN_FORWARD_W = 703,
       CUDNN_FORWARD_X = 704,
       CUDNN_FORWARD_Y = 705,
       CUDNN_APPLY_POINTWISE = 750,
       CUDNN_APPLY_X = 751,
       CUDNN_APPLY_B = 752,
       CUDNN_APPLY_Y = 753,
       CUDNN_GRAPH_HANDLE = 800,
       CUDNN_GRAPH_OPERATIONS = 801,
       CUDNN_TENSOR_ALIGNMENT = 900,
       CUDNN_TENSOR_TYPE = 901,
       CUDNN_TENSOR_SIZES = 902,
       CUDNN_TENSOR_STRIDES = 903,
       CUDNN_TENSOR_ID = 906,
       CUDNN_TENSOR_VIRTUAL = 907,
       CUDNN_PACK_IDS = 1000,
       CUDNN_PACK_POINTERS = 1001,
       CUDNN_PACK_WORKSPACE = 1003
};
enum { CUDNN_FLOAT = 0, CUDNN_HALF = 2, CUDNN_BFLOAT16 = 9 }; /* cudnnDataType_t */
enum {
  CUDNN_ADD = 0,
  CUDNN_MUL = 1,
  CUDNN_RELU = 100,
  CUDNN_SIGMOID = 102,
  CUDNN_GELU = 104,
  CUDNN_SWISH = 106,
  CUDNN_GELU_TANH = 107
};
enum { CUDNN_CROSS_CORRELATION = 1, CUDNN_MODE_A = 3 };

#define CUDA_CUDNN_SYMBOLS(X)                                                                                   \
  X(Create, "cudnnCreate", (void **handle))                                                                     \
  X(Destroy, "cudnnDestroy", (void *handle))                                                                    \
  X(SetStream, "cudnnSetStream", (void *handle, void *stream))                                                  \
  X(Version, "cudnnGetVersion", (void))                                                                         \
  X(New, "cudnnBackendCreateDescriptor", (int kind, void **out))                                                \
  X(Free, "cudnnBackendDestroyDescriptor", (void *descriptor))                                                  \
  X(Finalize, "cudnnBackendFinalize", (void *descriptor))                                                       \
  X(Set, "cudnnBackendSetAttribute", (void *descriptor, int name, int type, int64_t count, const void *values)) \
  X(Get, "cudnnBackendGetAttribute",                                                                            \
    (void *descriptor, int name, int type, int64_t wanted, int64_t *count, void *values))                       \
  X(Execute, "cudnnBackendExecute", (void *handle, void *plan, void *pack))

typedef struct cuda_cudnn {
  CUDA_CUDNN_SYMBOLS(CUDA_MEMBER)
} cuda_cudnn;
kiln_status cuda_cudnn_get(const cuda_cudnn **out);

/* KILN_CUDA_WITHOUT, a list such as "cublaslt,cudnn", makes libraries count as missing. */
kiln_status cuda_cublaslt_get(const cuda_cublaslt **out);

#endif
