/* A driver (libcuda.so.1) without a GPU: what the CUDA backend asks of one, over the host's memory. A library of its own, which the loader
 * finds by KILN_CUDA_PATH; the test that loads it sets the knobs. Two GPUs of 64 MiB. */
#include "driver.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cuda/loader.h"

#define FAKE_DECLARE(name, symbol, arguments) int fake_##name arguments __asm__(symbol);
CUDA_DRIVER_SYMBOLS(FAKE_DECLARE)

fake_knobs fake_driver = {.room = (size_t)64 << 20, .broken = -1};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
  void *at;
  size_t bytes;
} given[1024];
static _Thread_local void *stack[16];
static _Thread_local int depth, mode;

/* The GPU that is current fails. */
static int lost(void) {
  return depth && fake_driver.broken >= 0 && stack[depth - 1] == (void *)(uintptr_t)(1 + fake_driver.broken) ? 700 : 0;
}

static int give(size_t bytes, void **out) {
  int code = lost();
  pthread_mutex_lock(&lock);
  if (!code && bytes > fake_driver.room - fake_driver.taken) code = CU_OUT_OF_MEMORY;
  size_t i = 0;
  while (i < 1024 && given[i].at) i++;
  if (!code && (i == 1024 || !(*out = aligned_alloc(512, (bytes + 511) / 512 * 512)))) code = CU_OUT_OF_MEMORY;
  if (!code) {
    given[i].at = *out;
    given[i].bytes = bytes;
    fake_driver.taken += bytes;
    fake_driver.allocations++;
  }
  pthread_mutex_unlock(&lock);
  return code;
}

static int take_back(void *at) {
  int code = 1;
  pthread_mutex_lock(&lock);
  for (size_t i = 0; i < 1024 && code; i++) {
    if (!at || given[i].at != at) continue;
    fake_driver.taken -= given[i].bytes;
    fake_driver.frees++;
    free(at);
    given[i].at = NULL;
    code = 0;
  }
  pthread_mutex_unlock(&lock);
  return code;
}

static int copy(void *to, const void *from, size_t bytes) {
  if (lost()) return lost();
  memcpy(to, from, bytes);
  return 0;
}

static int make(void **out, uintptr_t what) {
  static uintptr_t next = 4096;
  pthread_mutex_lock(&lock);
  *out = (void *)(what + 16 * next++);
  pthread_mutex_unlock(&lock);
  return 0;
}

int fake_Init(unsigned flags) { return (int)flags; }
int fake_DriverGetVersion(int *version) { return *version = 13000, 0; }
int fake_DeviceGetCount(int *count) { return *count = 2, 0; }
int fake_DeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
int fake_DeviceGetName(char *name, int length, int device) {
  (void)device;
  strncpy(name, "no GPU", (size_t)length);
  return 0;
}
int fake_DeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 100000;
  return 0;
}
int fake_DeviceTotalMem(size_t *bytes, int device) { return (void)device, *bytes = fake_driver.room, 0; }
int fake_DevicePrimaryCtxRetain(void **context, int device) { return *context = (void *)(uintptr_t)(1 + device), 0; }
int fake_DevicePrimaryCtxRelease(int device) { return (void)device, 0; }
int fake_CtxPushCurrent(void *context) { return depth < 16 ? (stack[depth++] = context, 0) : 1; }
int fake_CtxPopCurrent(void **context) { return depth ? (*context = stack[--depth], 0) : 201; }
int fake_CtxGetCurrent(void **context) { return *context = depth ? stack[depth - 1] : NULL, 0; }
int fake_CtxSynchronize(void) { return lost(); }
int fake_MemGetInfo(size_t *free_bytes, size_t *total_bytes) {
  *free_bytes = fake_driver.room - fake_driver.taken;
  *total_bytes = fake_driver.room;
  return 0;
}
int fake_MemAlloc(cu_address *address, size_t bytes) {
  void *at = NULL;
  const int code = give(bytes, &at);
  *address = (cu_address)(uintptr_t)at;
  return code;
}
int fake_MemFree(cu_address address) { return take_back((void *)(uintptr_t)address); }
int fake_MemHostAlloc(void **memory, size_t bytes, unsigned flags) { return (void)flags, give(bytes, memory); }
int fake_MemFreeHost(void *memory) { return take_back(memory); }
int fake_MemcpyHtoDAsync(cu_address to, const void *from, size_t bytes, void *stream) {
  return (void)stream, copy((void *)(uintptr_t)to, from, bytes);
}
int fake_MemcpyDtoHAsync(void *to, cu_address from, size_t bytes, void *stream) {
  return (void)stream, copy(to, (const void *)(uintptr_t)from, bytes);
}
int fake_MemcpyDtoDAsync(cu_address to, cu_address from, size_t bytes, void *stream) {
  return (void)stream, copy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes);
}
int fake_MemsetD8Async(cu_address to, unsigned char value, size_t bytes, void *stream) {
  (void)stream;
  memset((void *)(uintptr_t)to, value, bytes);
  return 0;
}
int fake_StreamCreate(void **stream, unsigned flags) {
  return (void)flags, make(stream, depth ? (uintptr_t)stack[depth - 1] : 0);
}
int fake_StreamDestroy(void *stream) { return (void)stream, 0; }
int fake_StreamSynchronize(void *stream) { return (void)stream, lost(); }
int fake_StreamGetCtx(void *stream, void **context) { return *context = (void *)((uintptr_t)stream % 16), 0; }
int fake_ThreadExchangeStreamCaptureMode(int *other) {
  const int now = mode;
  mode = *other;
  *other = now;
  return 0;
}
int fake_StreamIsCapturing(void *stream, int *state) { return (void)stream, *state = 0, 0; }
int fake_StreamBeginCapture(void *stream, int how) { return (void)stream, (void)how, 0; }
int fake_StreamEndCapture(void *stream, void **graph) {
  (void)stream;
  return fake_driver.capture_fails ? (*graph = NULL, 901) : make(graph, 0);
}
int fake_StreamWaitEvent(void *stream, void *event, unsigned flags) {
  return (void)stream, (void)event, (void)flags, 0;
}
int fake_GraphInstantiate(void **exec, void *graph, unsigned long long flags) {
  return (void)graph, (void)flags, make(exec, 0);
}
int fake_GraphLaunch(void *exec, void *stream) { return (void)exec, (void)stream, lost(); }
int fake_GraphUpload(void *exec, void *stream) { return (void)exec, (void)stream, 0; }
int fake_GraphExecDestroy(void *exec) { return (void)exec, 0; }
int fake_GraphDestroy(void *graph) { return (void)graph, 0; }
int fake_EventCreate(void **event, unsigned flags) { return (void)flags, make(event, 0); }
int fake_EventDestroy(void *event) { return (void)event, 0; }
int fake_EventRecord(void *event, void *stream) { return (void)event, (void)stream, lost(); }
int fake_EventSynchronize(void *event) { return (void)event, lost(); }
int fake_EventElapsedTime(float *milliseconds, void *start, void *end) {
  return (void)start, (void)end, *milliseconds = 1, 0;
}
int fake_ModuleLoadData(void **module, const void *image) { return (void)image, make(module, 0); }
int fake_ModuleLoadDataEx(void **module, const void *image, unsigned count, int *options, void **values) {
  (void)image;
  for (unsigned i = 0; i < count && fake_driver.refuses_code; i++) {
    if (options[i] == 5) strcpy(values[i], "ptxas application input, line 7; fatal\n");
  }
  return fake_driver.refuses_code ? fake_driver.refuses_code : make(module, 0);
}
int fake_ModuleUnload(void *module) { return (void)module, 0; }
int fake_ModuleGetFunction(void **function, void *module, const char *name) {
  return (void)module, (void)name, make(function, 0);
}
int fake_FuncSetAttribute(void *function, int attribute, int value) {
  return (void)function, (void)attribute, (void)value, 0;
}
int fake_FuncGetAttribute(int *value, int attribute, void *function) {
  return (void)attribute, (void)function, *value = 0, 0;
}
int fake_LaunchKernelEx(const cu_launch_config *config, void *function, void **params, void **extra) {
  return (void)config, (void)function, (void)params, (void)extra, lost();
}
int fake_PointerGetAttribute(void *value, int attribute, cu_address address) {
  return (void)attribute, (void)address, *(int *)value = 0, 0;
}
int fake_TensorMapEncodeTiled(void *map, int dtype, uint32_t rank, void *address, const uint64_t *sizes,
                              const uint64_t *strides, const uint32_t *box, const uint32_t *steps, int interleave,
                              int swizzle, int l2, int fill) {
  (void)dtype, (void)rank, (void)address, (void)sizes, (void)strides, (void)box, (void)steps;
  (void)interleave, (void)swizzle, (void)l2, (void)fill;
  memset(map, 0, 128);
  return 0;
}
int fake_TensorMapEncodeIm2col(void *map, int dtype, uint32_t rank, void *address, const uint64_t *sizes,
                               const uint64_t *strides, const int *lower, const int *upper, uint32_t channels,
                               uint32_t pixels, const uint32_t *steps, int interleave, int swizzle, int l2, int fill) {
  (void)dtype, (void)rank, (void)address, (void)sizes, (void)strides, (void)lower, (void)upper, (void)channels;
  (void)pixels, (void)steps, (void)interleave, (void)swizzle, (void)l2, (void)fill;
  memset(map, 0, 128);
  return 0;
}
int fake_GetErrorName(int code, const char **name) { return (void)code, *name = "an error of the test", 0; }
int fake_GetErrorString(int code, const char **text) { return (void)code, *text = "as the test wants", 0; }
