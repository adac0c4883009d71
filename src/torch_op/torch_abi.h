/* PyTorch's stable C ABI, as far as the operators need it: own prototypes (the official headers are C++), looked up at
 * run time in the libtorch that the process has loaded. Nothing here needs PyTorch to compile or to link, and one
 * binary serves 2.11 and later. */
#ifndef KILN_TORCH_OP_TORCH_ABI_H
#define KILN_TORCH_OP_TORCH_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef int32_t torch_error;  /* 0: done */
typedef uint64_t torch_value; /* one slot of an operator's stack: a number, or a handle that its holder owns */
typedef struct torch_tensor_opaque *torch_tensor;
typedef struct torch_library_opaque *torch_library;
typedef struct torch_list_opaque *torch_list;
typedef struct torch_string_opaque *torch_string;
/* Takes its arguments from stack[0, n_args), owns them, and leaves its results in stack[0, n_results). */
typedef void (*torch_kernel)(torch_value *stack, uint64_t n_args, uint64_t n_results);

/* The version of the ABI that these prototypes were written for, 2.11.0. Newer libtorch adapts to it. */
#define TORCH_ABI_VERSION UINT64_C(0x020b000000000000)

/* result, name, parameters. Getters lend. A list of tensors holds handles as plain numbers: reading an item gives the handle itself,
 * and deleting the list leaves the handles to whoever has them. */
#define TORCH_FUNCTIONS(X)                                                                                             \
  X(torch_error, aoti_torch_library_init_fragment,                                                                     \
    (const char *name, const char *file, uint32_t line, torch_library *out))                                           \
  X(torch_error, aoti_torch_library_init_impl,                                                                         \
    (const char *name, const char *key, const char *file, uint32_t line, torch_library *out))                          \
  X(torch_error, aoti_torch_library_def, (torch_library self, const char *schema))                                     \
  X(torch_error, torch_library_impl, (torch_library self, const char *name, torch_kernel fn, uint64_t abi))            \
  X(torch_error, torch_new_list_reserve_size, (size_t size, torch_list * out))                                         \
  X(torch_error, torch_list_size, (torch_list self, size_t * out))                                                     \
  X(torch_error, torch_list_get_item, (torch_list self, size_t index, torch_value * out))                              \
  X(torch_error, torch_list_push_back, (torch_list self, torch_value item))                                            \
  X(torch_error, torch_delete_list, (torch_list self))                                                                 \
  X(torch_error, torch_delete_string, (torch_string self))                                                             \
  X(torch_error, torch_get_num_threads, (uint32_t * out))                                                              \
  X(torch_error, aoti_torch_get_data_ptr, (torch_tensor self, void **out))                                             \
  X(torch_error, aoti_torch_get_dim, (torch_tensor self, int64_t * out))                                               \
  X(torch_error, aoti_torch_get_numel, (torch_tensor self, int64_t * out))                                             \
  X(torch_error, aoti_torch_get_sizes, (torch_tensor self, int64_t * *out))                                            \
  X(torch_error, aoti_torch_get_strides, (torch_tensor self, int64_t * *out))                                          \
  X(torch_error, aoti_torch_get_dtype, (torch_tensor self, int32_t * out))                                             \
  X(torch_error, aoti_torch_get_device_type, (torch_tensor self, int32_t * out))                                       \
  X(torch_error, aoti_torch_get_device_index, (torch_tensor self, int32_t * out))                                      \
  X(torch_error, aoti_torch_is_contiguous, (torch_tensor self, bool *out))                                             \
  X(torch_error, aoti_torch_empty_strided,                                                                             \
    (int64_t rank, const int64_t *sizes, const int64_t *strides, int32_t dtype, int32_t device, int32_t index,         \
     torch_tensor *out))                                                                                               \
  X(torch_error, aoti_torch_copy_, (torch_tensor to, torch_tensor from, int32_t non_blocking))                         \
  X(torch_error, aoti_torch_new_tensor_handle, (torch_tensor self, torch_tensor * out))                                \
  X(torch_error, aoti_torch_delete_tensor_object, (torch_tensor self))                                                 \
  X(torch_error, torch_from_blob,                                                                                      \
    (void *data, int64_t rank, const int64_t *sizes, const int64_t *strides, int64_t offset, int32_t dtype,            \
     int32_t device, int32_t index, torch_tensor *out, int32_t layout, const uint8_t *metadata, int64_t metadata_size, \
     void (*deleter)(void *data, void *user), void *user))                                                             \
  X(void, aoti_torch_check, (bool ok, const char *function, const char *file, uint32_t line, const char *text))        \
  X(int32_t, aoti_torch_device_type_cpu, (void))                                                                       \
  X(int32_t, aoti_torch_device_type_cuda, (void))                                                                      \
  X(int32_t, aoti_torch_layout_strided, (void))                                                                        \
  X(int32_t, aoti_torch_dtype_float32, (void))                                                                         \
  X(int32_t, aoti_torch_dtype_float64, (void))                                                                         \
  X(int32_t, aoti_torch_dtype_float16, (void))                                                                         \
  X(int32_t, aoti_torch_dtype_bfloat16, (void))                                                                        \
  X(int32_t, aoti_torch_dtype_int8, (void))                                                                            \
  X(int32_t, aoti_torch_dtype_uint8, (void))                                                                           \
  X(int32_t, aoti_torch_dtype_int16, (void))                                                                           \
  X(int32_t, aoti_torch_dtype_int32, (void))                                                                           \
  X(int32_t, aoti_torch_dtype_int64, (void))                                                                           \
  X(int32_t, aoti_torch_dtype_bool, (void))                                                                            \
  X(int32_t, aoti_torch_dtype_complex32, (void))                                                                       \
  X(int32_t, aoti_torch_dtype_complex64, (void))                                                                       \
  X(int32_t, aoti_torch_dtype_complex128, (void))

#define TORCH_POINTER(result, name, parameters) result(*name) parameters;
typedef struct torch_abi {
  TORCH_FUNCTIONS(TORCH_POINTER)
  torch_error (*aoti_torch_get_current_cuda_stream)(int32_t device, void **out); /* NULL: this PyTorch has no CUDA */
  int32_t cpu, cuda, strided;
  int32_t dtypes[16];    /* PyTorch's code of each kiln_dtype */
  int32_t complexes[16]; /* and of the complex numbers with such parts; -1: there are none */
} torch_abi;
#undef TORCH_POINTER

/* Fixed once torch_abi_find has succeeded. */
extern torch_abi torch;
/* Looks everything up. NULL, or a static text that says what is missing. */
const char *torch_abi_find(void);

#endif
