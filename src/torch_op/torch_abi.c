/* Finds libtorch in this process, see torch_abi.h. */
#define _GNU_SOURCE
#include "torch_op/torch_abi.h"

#include <dlfcn.h>
#include <kiln/kiln.h>
#include <stdio.h>
#include <string.h>

torch_abi torch;

static char text[256];

/* `out` is a function pointer; POSIX wants it written through memory. */
static bool find(void *library, const char *name, void *out, size_t size) {
  void *symbol = dlsym(library, name);
  memcpy(out, &symbol, size);
  if (symbol) return true;
  snprintf(text, sizeof text,
           "the loaded PyTorch has no %s in its stable C ABI; Kiln's operators need PyTorch 2.11 or newer", name);
  return false;
}

static void find_codes(torch_abi *a) {
  a->cpu = a->aoti_torch_device_type_cpu();
  a->cuda = a->aoti_torch_device_type_cuda();
  a->strided = a->aoti_torch_layout_strided();
  a->dtypes[KILN_F32] = a->aoti_torch_dtype_float32();
  a->dtypes[KILN_F64] = a->aoti_torch_dtype_float64();
  a->dtypes[KILN_F16] = a->aoti_torch_dtype_float16();
  a->dtypes[KILN_BF16] = a->aoti_torch_dtype_bfloat16();
  a->dtypes[KILN_I8] = a->aoti_torch_dtype_int8();
  a->dtypes[KILN_U8] = a->aoti_torch_dtype_uint8();
  a->dtypes[KILN_I16] = a->aoti_torch_dtype_int16();
  a->dtypes[KILN_I32] = a->aoti_torch_dtype_int32();
  a->dtypes[KILN_I64] = a->aoti_torch_dtype_int64();
  a->dtypes[KILN_BOOL] = a->aoti_torch_dtype_bool();
  for (int i = 0; i < 16; i++) a->complexes[i] = -1;
  a->complexes[KILN_F16] = a->aoti_torch_dtype_complex32();
  a->complexes[KILN_F32] = a->aoti_torch_dtype_complex64();
  a->complexes[KILN_F64] = a->aoti_torch_dtype_complex128();
}
_Static_assert(KILN_DTYPE_COUNT == 10, "find_codes and torch_abi.dtypes list all dtypes");

const char *torch_abi_find(void) {
  torch_abi found;
  memset(&found, 0, sizeof found);
  /* The name as in PyTorch's own packages; else whatever the program has linked. */
  void *library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  if (!library) library = RTLD_DEFAULT;
  if (library == RTLD_DEFAULT && !dlsym(library, "aoti_torch_library_def")) {
    return "PyTorch is not loaded in this process: load libtorch (in Python: import torch) before Kiln's operators are "
           "registered";
  }
#define FIND(result, name, parameters) \
  if (!find(library, #name, &found.name, sizeof found.name)) return text;
  TORCH_FUNCTIONS(FIND)
#undef FIND
  void *cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  void *stream = cuda ? dlsym(cuda, "aoti_torch_get_current_cuda_stream") : NULL;
  memcpy(&found.aoti_torch_get_current_cuda_stream, &stream, sizeof stream);
  find_codes(&found);
  torch = found;
  return NULL;
}
