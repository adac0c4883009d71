/* A GPU as one shared object of the process: its primary context (which torch uses too, so pointers and streams are common), memory with
 * a limit, uploaded constants, streams, events and graphs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cuda/internal.h"
#include "base/memory.h"

static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static device *devices;

/* ---- errors ------------------------------------------------------------------------------------------------------- */

/* Codes after which the context is lost: uncorrectable memory, illegal accesses, timeouts, failed asserts, failed launches. */
static bool code_is_sticky(int code) {
  return code == 214 || code == 220 || code == 226 || code == 700 || code == 702 || code == 709 || code == 710 ||
         (code >= 714 && code <= 719);
}

/* What to do, where the driver's own text does not say it. */
static const char *advice_on(int code) {
  if (code >= 900 && code <= 908)
    return "; a stream of this process is being captured: call the engine once with these shapes before the capture";
  if (code == CU_NO_BINARY || code == CU_INVALID_PTX || code == CU_UNSUPPORTED_PTX || code == CU_INVALID_IMAGE)
    return "; the driver is older than the NVRTC library that made this code: install a newer driver, or an older "
           "nvidia-cuda-nvrtc";
  return "";
}

kiln_status cuda_check(device *d, int code, const char *what) {
  if (code == CU_SUCCESS) return KILN_OK;
  const char *name = NULL, *explained = NULL;
  if (d->driver) {
    (void)d->driver->GetErrorName(code, &name);
    (void)d->driver->GetErrorString(code, &explained);
  }
  if (code_is_sticky(code)) __atomic_store_n(&d->poisoned, code, __ATOMIC_RELAXED);
  if (code == CU_OUT_OF_MEMORY) return KILN_FAIL(KILN_OUT_OF_MEMORY, "%s: GPU %d is out of memory", what, d->ordinal);
  return KILN_FAIL(KILN_DEVICE_ERROR, "%s on GPU %d (%s): %s, %s%s", what, d->ordinal, d->facts.name,
                   name ? name : "unknown error", explained ? explained : "no text", advice_on(code));
}

static bool is_lost(const device *d) { return __atomic_load_n(&d->poisoned, __ATOMIC_RELAXED) != 0; }

static kiln_status check_alive(device *d) {
  const int code = __atomic_load_n(&d->poisoned, __ATOMIC_RELAXED);
  if (code)
    return KILN_FAIL(KILN_DEVICE_ERROR,
                     "GPU %d was lost by an earlier error (code %d): only a new process can use it again", d->ordinal,
                     code);
  if (!d->driver) return KILN_FAIL(KILN_INCOMPATIBLE, "%s is not present in this machine", d->facts.name);
  return KILN_OK;
}

/* Allocations, new kernels and waiting must not break a capture that another thread of the process has under way: the driver allows them
 * to threads in the relaxed mode. Calls of enter nest. */
static _Thread_local int entered, outer_mode;

static kiln_status hook_enter(device *d) {
  KILN_TRY(check_alive(d));
  KILN_TRY(cuda_check(d, d->driver->CtxPushCurrent(d->context), "making the context current"));
  if (entered++ == 0) {
    outer_mode = CU_CAPTURE_RELAXED;
    (void)d->driver->ThreadExchangeStreamCaptureMode(&outer_mode);
  }
  return KILN_OK;
}

static void hook_leave(device *d) {
  void *context = NULL;
  if (--entered == 0) (void)d->driver->ThreadExchangeStreamCaptureMode(&outer_mode);
  (void)d->driver->CtxPopCurrent(&context);
}

static bool hook_current(device *d) {
  void *context = NULL;
  return !is_lost(d) && d->driver && d->driver->CtxGetCurrent(&context) == CU_SUCCESS && context == d->context;
}

kiln_status cuda_enter_relaxed(device *d, int *out_mode) {
  *out_mode = 0;
  return hook_enter(d);
}
void cuda_leave_relaxed(device *d, int mode) {
  (void)mode;
  hook_leave(d);
}

/* ---- facts ---------------------------------------------------------------------------------------------------------- */

bool cuda_arch_facts(int arch, cuda_facts *out) {
  static const cuda_facts rows[] = {
      {"sm_80", 80, 108, 163 * 1024, 164 * 1024, (size_t)40 << 20, (size_t)40 << 30, false},
      {"sm_86", 86, 84, 99 * 1024, 100 * 1024, (size_t)6 << 20, (size_t)24 << 30, false},
      {"sm_89", 89, 128, 99 * 1024, 100 * 1024, (size_t)72 << 20, (size_t)24 << 30, false},
      {"sm_90", 90, 132, 227 * 1024, 228 * 1024, (size_t)50 << 20, (size_t)80 << 30, false},
      {"sm_100", 100, 148, 227 * 1024, 228 * 1024, (size_t)126 << 20, (size_t)180 << 30, false},
      {"sm_120", 120, 170, 99 * 1024, 100 * 1024, (size_t)96 << 20, (size_t)32 << 30, false},
  };
  for (size_t i = 0; i < KILN_COUNT(rows); i++) {
    if (rows[i].arch != arch) continue;
    *out = rows[i];
    return true;
  }
  return false;
}

enum { /* CUdevice_attribute */
       ATTRIBUTE_SM_COUNT = 16,
       ATTRIBUTE_L2 = 38,
       ATTRIBUTE_MAJOR = 75,
       ATTRIBUTE_MINOR = 76,
       ATTRIBUTE_SHARED_SM = 81,
       ATTRIBUTE_SHARED_BLOCK = 97
};

static kiln_status read_facts(device *d) {
  const cuda_driver *v = d->driver;
  int major = 0, minor = 0, sms = 0, l2 = 0, shared_sm = 0, shared_block = 0;
  cuda_facts *f = &d->facts;
  KILN_TRY(cuda_check(d, v->DeviceGetName(f->name, (int)sizeof f->name, d->handle), "asking the GPU's name"));
  KILN_TRY(cuda_check(d, v->DeviceGetAttribute(&major, ATTRIBUTE_MAJOR, d->handle), "asking the GPU's architecture"));
  KILN_TRY(cuda_check(d, v->DeviceGetAttribute(&minor, ATTRIBUTE_MINOR, d->handle), "asking the GPU's architecture"));
  KILN_TRY(cuda_check(d, v->DeviceGetAttribute(&sms, ATTRIBUTE_SM_COUNT, d->handle), "asking the GPU's size"));
  KILN_TRY(cuda_check(d, v->DeviceGetAttribute(&l2, ATTRIBUTE_L2, d->handle), "asking the GPU's cache"));
  KILN_TRY(cuda_check(d, v->DeviceGetAttribute(&shared_sm, ATTRIBUTE_SHARED_SM, d->handle),
                      "asking the GPU's shared memory"));
  KILN_TRY(cuda_check(d, v->DeviceGetAttribute(&shared_block, ATTRIBUTE_SHARED_BLOCK, d->handle),
                      "asking the GPU's shared memory"));
  KILN_TRY(cuda_check(d, v->DeviceTotalMem(&f->memory_bytes, d->handle), "asking the GPU's memory"));
  f->arch = major * 10 + minor;
  f->sm_count = sms;
  f->l2_bytes = (size_t)l2;
  f->shared_sm = (size_t)shared_sm;
  f->shared_block = (size_t)shared_block;
  f->present = true;
  if (f->arch < 80)
    return KILN_FAIL(KILN_INCOMPATIBLE, "%s has compute capability %d.%d; Kiln needs 8.0 or newer", f->name, major,
                     minor);
  return KILN_OK;
}

/* ---- opening ----------------------------------------------------------------------------------------------------------- */

static void prepare_pools(device *d);

static void device_free(device *d) {
  if (d->driver && d->context) {
    if (hook_enter(d) == KILN_OK) {
      cuda_functions_free(d);
      cuda_libraries_close(d);
      if (d->stream) (void)d->driver->StreamDestroy(d->stream);
      block_pool_clear(&d->memory);
      block_pool_clear(&d->pinned);
      hook_leave(d);
    } else {
      error_clear();
    }
    (void)d->driver->DevicePrimaryCtxRelease(d->handle);
  }
  block_pool_clear(&d->memory); /* of a GPU that is lost: the lists alone */
  block_pool_clear(&d->pinned);
  cuda_functions_free(d);
  mem_free(d->constants);
  while (d->images) cuda_images_withdraw(d, cuda_images_first(d));
  map_free(&d->function_index);
  pthread_mutex_destroy(&d->lock);
  pthread_mutex_destroy(&d->codes_lock);
  pthread_mutex_destroy(&d->constants_lock);
  pthread_mutex_destroy(&d->memory_lock);
  mem_free(d);
}

static kiln_status start_device(device *d) {
  int count = 0;
  KILN_TRY(cuda_driver_get(&d->driver));
  KILN_TRY(cuda_check(d, d->driver->DeviceGetCount(&count), "counting GPUs"));
  if (d->ordinal < 0 || d->ordinal >= count)
    return KILN_FAIL(KILN_INVALID_ARGUMENT,
                     "there is no GPU %d: this process can use %d (CUDA_VISIBLE_DEVICES decides)", d->ordinal, count);
  KILN_TRY(cuda_check(d, d->driver->DeviceGet(&d->handle, d->ordinal), "opening the GPU"));
  KILN_TRY(read_facts(d));
  KILN_TRY(cuda_check(d, d->driver->DevicePrimaryCtxRetain(&d->context, d->handle), "making a context"));
  KILN_TRY(hook_enter(d));
  const kiln_status status = cuda_check(d, d->driver->StreamCreate(&d->stream, 1), "making a stream");
  hook_leave(d);
  return status;
}

static kiln_status device_new(int ordinal, device **out) {
  device *d = mem_calloc(1, sizeof *d);
  if (!d) return KILN_NO_MEMORY("device");
  d->ordinal = ordinal;
  d->references = 1;
  prepare_pools(d);
  pthread_mutex_init(&d->lock, NULL);
  pthread_mutex_init(&d->codes_lock, NULL);
  pthread_mutex_init(&d->memory_lock, NULL);
  pthread_mutex_init(&d->constants_lock, NULL);
  *out = d;
  return KILN_OK;
}

static void hook_close(device *d);

static kiln_status hook_open(const target *t, int ordinal, device **out) {
  kiln_status status = KILN_OK;
  pthread_mutex_lock(&devices_lock);
  device *d = devices;
  while (d && d->ordinal != ordinal) d = d->next;
  if (d) {
    d->references++;
  } else {
    status = device_new(ordinal, &d);
    if (status == KILN_OK) status = start_device(d);
    if (status != KILN_OK && d) {
      device_free(d);
      d = NULL;
    }
    if (d) {
      d->next = devices;
      devices = d;
    }
  }
  pthread_mutex_unlock(&devices_lock);
  if (status != KILN_OK) return status;
  if (t->isa && t->isa != d->facts.arch) {
    const int arch = d->facts.arch;
    hook_close(d);
    return KILN_FAIL(KILN_INCOMPATIBLE,
                     "the engine was built for sm_%d, GPU %d is sm_%d: build it again for target \"cuda\"", t->isa,
                     ordinal, arch);
  }
  *out = d;
  return KILN_OK;
}

static void hook_close(device *d) {
  if (!d) return;
  pthread_mutex_lock(&devices_lock);
  const bool last = --d->references == 0;
  for (device **at = &devices; last && *at; at = &(*at)->next) {
    if (*at != d) continue;
    *at = d->next;
    break;
  }
  pthread_mutex_unlock(&devices_lock);
  if (!last) return;
  device *twin = d->twin;
  device_free(d);
  hook_close(twin);
}

kiln_status cuda_device_offline(int arch, device **out) {
  device *d = NULL;
  cuda_facts facts;
  if (!cuda_arch_facts(arch, &facts))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "sm_%d is no architecture that Kiln knows", arch);
  KILN_TRY(device_new(-1 - arch, &d));
  d->facts = facts;
  *out = d;
  return KILN_OK;
}

/* The facts of this machine's GPU decide what the kernels are, if it is of the right kind: then their code fits it. */
static kiln_status hook_open_compiler(const target *t, device **out) {
  device *here = NULL;
  KILN_TRY(cuda_device_offline(t->isa, out));
  (*out)->keep_images = true;
  if (hook_open(t, t->ordinal, &here) != KILN_OK) {
    error_clear();
    return KILN_OK;
  }
  (*out)->facts = here->facts;
  (*out)->facts.present = false;
  (*out)->twin = here;
  return KILN_OK;
}

const cuda_facts *cuda_device_facts(const device *d) { return &d->facts; }
static int hook_ordinal(const device *d) { return d->ordinal; }
static device_info hook_info(const device *d) {
  return (device_info){d->facts.name, d->facts.l2_bytes, d->driver != NULL};
}

/* ---- memory ---------------------------------------------------------------------------------------------------------------- */

static int obtain_memory(void *user, size_t bytes, uint64_t *out) {
  return ((device *)user)->driver->MemAlloc(out, bytes);
}
/* The driver waits for what still uses it. */
static void return_memory(void *user, uint64_t at, size_t bytes) {
  (void)bytes;
  const device *d = user;
  if (!is_lost(d)) (void)d->driver->MemFree(at);
}
static int obtain_pinned(void *user, size_t bytes, uint64_t *out) {
  void *memory = NULL;
  const int code = ((device *)user)->driver->MemHostAlloc(&memory, bytes, 0);
  *out = (uint64_t)(uintptr_t)memory;
  return code;
}
static void return_pinned(void *user, uint64_t at, size_t bytes) {
  (void)bytes;
  const device *d = user;
  if (!is_lost(d)) (void)d->driver->MemFreeHost((void *)(uintptr_t)at);
}

/* A number of MiB. */
static size_t setting_of(const char *name, size_t otherwise) {
  const char *setting = getenv(name);
  const long long mib = setting && *setting ? atoll(setting) : -1;
  return mib >= 0 && mib < (1LL << 40) ? (size_t)mib << 20 : otherwise;
}

static void prepare_pools(device *d) {
  const size_t keep = setting_of("KILN_CUDA_MEMORY_KEEP", (size_t)16 << 20);
  const char *setting = getenv("KILN_CUDA_MEMORY_POOL");
  d->memory = (block_pool){.obtain = obtain_memory,
                           .give_back = return_memory,
                           .user = d,
                           .granule = (size_t)2 << 20,
                           .chunk_most = (size_t)16 << 20,
                           .keep = keep,
                           .limit = setting_of("KILN_CUDA_MEMORY_LIMIT", 0),
                           .direct = setting && strcmp(setting, "0") == 0};
  d->pinned = (block_pool){.obtain = obtain_pinned,
                           .give_back = return_pinned,
                           .user = d,
                           .granule = (size_t)64 << 10,
                           .chunk_most = (size_t)1 << 20,
                           .keep = keep};
}

typedef struct taken_block {
  block_result result;
  int code; /* the driver's */
  uint64_t at;
  size_t held; /* by the pool, afterwards */
} taken_block;

static kiln_status take_block(device *d, block_pool *p, size_t bytes, taken_block *out) {
  KILN_TRY(hook_enter(d));
  pthread_mutex_lock(&d->memory_lock);
  out->result = block_pool_take(p, bytes, &out->at, &out->code);
  out->held = p->held;
  pthread_mutex_unlock(&d->memory_lock);
  hook_leave(d);
  return KILN_OK;
}

/* What this thread releases may still be in use. */
static _Thread_local int doubts;

static void put_block(device *d, block_pool *p, void *memory) {
  const bool alive = hook_enter(d) == KILN_OK;
  if (!alive) error_clear();
  pthread_mutex_lock(&d->memory_lock);
  (void)block_pool_put(p, (uint64_t)(uintptr_t)memory, doubts > 0);
  pthread_mutex_unlock(&d->memory_lock);
  if (alive) hook_leave(d);
}

static void hook_in_doubt(device *d, bool on) {
  (void)d;
  doubts += on ? 1 : -1;
}

static kiln_status no_memory(device *d, size_t bytes, const char *what, size_t held) {
  size_t free_bytes = 0, total_bytes = 0;
  KILN_TRY(hook_enter(d));
  (void)d->driver->MemGetInfo(&free_bytes, &total_bytes);
  hook_leave(d);
  return KILN_FAIL(KILN_OUT_OF_MEMORY,
                   "GPU %d: %s needs %zu bytes, but only %zu of %zu bytes are free (Kiln holds %zu; what PyTorch keeps "
                   "unused, torch.cuda.empty_cache() gives back)",
                   d->ordinal, what, bytes, free_bytes, total_bytes, held);
}

static kiln_status hook_allocate(device *d, size_t bytes, const char *what, void **out) {
  taken_block b = {0};
  KILN_TRY(take_block(d, &d->memory, bytes, &b));
  if (b.result == BLOCK_NO_HOST) return KILN_NO_MEMORY("GPU memory");
  if (b.result == BLOCK_OVER_LIMIT)
    return KILN_FAIL(
        KILN_OUT_OF_MEMORY,
        "GPU %d: %s needs %zu bytes, but %zu of the limit of %zu bytes (KILN_CUDA_MEMORY_LIMIT) are in use: raise the "
        "limit, close engines, call from fewer threads at once, or with smaller shapes",
        d->ordinal, what, bytes, b.held, d->memory.limit);
  if (b.code == CU_OUT_OF_MEMORY) return no_memory(d, bytes, what, b.held);
  KILN_TRY(cuda_check(d, b.code, "allocating memory"));
  *out = (void *)(uintptr_t)b.at;
  return KILN_OK;
}

static void hook_release(device *d, void *memory, size_t bytes) {
  (void)bytes;
  if (memory && d->driver) put_block(d, &d->memory, memory);
}

static kiln_status hook_host_allocate(device *d, size_t bytes, void **out) {
  taken_block b = {0};
  if (!d->driver) { /* compile side */
    *out = mem_alloc_aligned(bytes ? bytes : 1);
    return *out ? KILN_OK : KILN_NO_MEMORY("pinned memory");
  }
  KILN_TRY(take_block(d, &d->pinned, bytes, &b));
  if (b.result == BLOCK_NO_HOST || b.code == CU_OUT_OF_MEMORY)
    return KILN_FAIL(KILN_OUT_OF_MEMORY,
                     "no memory for %zu bytes of pinned memory, through which tensors of the host go", bytes);
  KILN_TRY(cuda_check(d, b.code, "allocating pinned memory"));
  *out = (void *)(uintptr_t)b.at;
  return KILN_OK;
}

static void hook_host_release(device *d, void *memory) {
  if (!d->driver) mem_free_aligned(memory);
  if (memory && d->driver) put_block(d, &d->pinned, memory);
}

/* ---- copies ------------------------------------------------------------------------------------------------------------------ */

static kiln_status hook_upload(device *d, void *stream, void *to, const void *from, size_t bytes) {
  if (!bytes) return KILN_OK;
  return cuda_check(d, d->driver->MemcpyHtoDAsync((cu_address)(uintptr_t)to, from, bytes, stream),
                    "copying to the GPU");
}
static kiln_status hook_download(device *d, void *stream, void *to, const void *from, size_t bytes) {
  if (!bytes) return KILN_OK;
  return cuda_check(d, d->driver->MemcpyDtoHAsync(to, (cu_address)(uintptr_t)from, bytes, stream),
                    "copying from the GPU");
}
static kiln_status hook_copy(device *d, void *stream, void *to, const void *from, size_t bytes) {
  if (!bytes) return KILN_OK;
  const int code = d->driver->MemcpyDtoDAsync((cu_address)(uintptr_t)to, (cu_address)(uintptr_t)from, bytes, stream);
  return cuda_check(d, code, "copying on the GPU");
}
static kiln_status hook_synchronize(device *d, void *stream) {
  return cuda_check(d, d->driver->StreamSynchronize(stream), "running on the GPU");
}

static bool hook_owns(device *d, const void *memory) {
  int ordinal = -1; /* CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL */
  return d->driver->PointerGetAttribute(&ordinal, 9, (cu_address)(uintptr_t)memory) == CU_SUCCESS &&
         ordinal == d->ordinal;
}

/* ---- constants ----------------------------------------------------------------------------------------------------------------- */

static device_constant *find_constant(device *d, const void *host) {
  for (size_t i = 0; i < d->n_constants; i++) {
    if (d->constants[i].host == host) return &d->constants[i];
  }
  return NULL;
}

enum { LARGE_CONSTANT = 8 << 20 };

static kiln_status upload_constant(device *d, const void *host, size_t bytes, void **out) {
  KILN_TRY(hook_allocate(d, bytes, "a weight", out));
  KILN_TRY(hook_enter(d));
  kiln_status status =
      bytes >= LARGE_CONSTANT ? cuda_upload_large(d, *out, host, bytes) : hook_upload(d, d->stream, *out, host, bytes);
  if (status == KILN_OK) status = hook_synchronize(d, d->stream);
  hook_leave(d);
  if (status != KILN_OK) hook_release(d, *out, bytes);
  return status;
}

static kiln_status reserve_constants(device *d) {
  if (d->n_constants < d->constant_capacity) return KILN_OK;
  const size_t wanted = d->constant_capacity ? 2 * d->constant_capacity : 256;
  device_constant *grown = mem_realloc(d->constants, d->constant_capacity * sizeof *grown, wanted * sizeof *grown);
  if (!grown) return KILN_NO_MEMORY("device constants");
  d->constants = grown;
  d->constant_capacity = wanted;
  return KILN_OK;
}

static kiln_status add_constant(device *d, const void *host, size_t bytes, void **out) {
  device_constant *found = find_constant(d, host);
  if (found && found->bytes >= bytes) {
    found->references++;
    *out = found->memory;
    return KILN_OK;
  }
  KILN_TRY(reserve_constants(d));
  KILN_TRY(upload_constant(d, host, bytes, out));
  d->constants[d->n_constants++] = (device_constant){host, *out, bytes, 1};
  d->constant_bytes += bytes;
  return KILN_OK;
}

/* Linear search: engines have hundreds of constants, and each is looked up once per bound shape. A second context that wants the same
 * weight waits for its upload. */
static kiln_status hook_constant(device *d, const void *host, size_t bytes, void **out) {
  if (!d->driver) { /* compile side: any address will do */
    *out = (void *)(uintptr_t)4096;
    return KILN_OK;
  }
  pthread_mutex_lock(&d->constants_lock);
  const kiln_status status = add_constant(d, host, bytes, out);
  pthread_mutex_unlock(&d->constants_lock);
  return status;
}

static void hook_constant_release(device *d, const void *host) {
  if (!d->driver) return;
  pthread_mutex_lock(&d->constants_lock);
  device_constant *found = find_constant(d, host);
  void *memory = NULL;
  size_t bytes = 0;
  if (found && --found->references == 0) {
    memory = found->memory;
    d->constant_bytes -= found->bytes;
    bytes = found->bytes;
    *found = d->constants[--d->n_constants];
  }
  pthread_mutex_unlock(&d->constants_lock);
  hook_release(d, memory, bytes);
}

static size_t hook_constant_bytes(device *d) {
  pthread_mutex_lock(&d->constants_lock);
  const size_t bytes = d->constant_bytes;
  pthread_mutex_unlock(&d->constants_lock);
  return bytes;
}

/* ---- streams, marks, graphs --------------------------------------------------------------------------------------------------------- */

static kiln_status hook_stream_create(device *d, void **out) {
  KILN_TRY(hook_enter(d));
  const int code = d->driver->StreamCreate(out, 1);
  hook_leave(d);
  return cuda_check(d, code, "making a stream");
}
static void hook_stream_destroy(device *d, void *stream) {
  if (!stream || is_lost(d) || hook_enter(d) != KILN_OK) return;
  (void)d->driver->StreamSynchronize(stream);
  (void)d->driver->StreamDestroy(stream);
  hook_leave(d);
}

/* Streams below 3 are the default ones, of whatever device is current. */
static kiln_status hook_stream_check(device *d, void *stream) {
  void *context = NULL;
  KILN_TRY(check_alive(d));
  if ((uintptr_t)stream < 3) return KILN_OK;
  const int code = d->driver->StreamGetCtx(stream, &context);
  if (code != CU_SUCCESS) return cuda_check(d, code, "asking a stream for its GPU");
  if (context != d->context)
    return KILN_FAIL(KILN_INVALID_ARGUMENT,
                     "the stream is not one of GPU %d, on which this context runs: give a stream of that GPU",
                     d->ordinal);
  return KILN_OK;
}

static kiln_status hook_capturing(device *d, void *stream, bool *out) {
  int state = 0;
  KILN_TRY(cuda_check(d, d->driver->StreamIsCapturing(stream, &state), "asking a stream"));
  *out = state != 0;
  return KILN_OK;
}
static kiln_status hook_capture_begin(device *d, void *stream) {
  return cuda_check(d, d->driver->StreamBeginCapture(stream, 1 /* this thread's calls only */), "starting a capture");
}
/* A capture that is dropped has failed already: its own error is the one to tell. */
static kiln_status hook_capture_end(device *d, void *stream, bool keep, void **out_graph) {
  void *captured = NULL, *exec = NULL;
  kiln_status status = KILN_OK;
  const int code = d->driver->StreamEndCapture(stream, &captured);
  if (keep) {
    status = cuda_check(d, code, "ending a capture");
    if (status == KILN_OK) status = cuda_check(d, d->driver->GraphInstantiate(&exec, captured, 0), "making a graph");
    if (status == KILN_OK) *out_graph = exec;
  }
  if (captured) (void)d->driver->GraphDestroy(captured);
  return status;
}
static kiln_status hook_graph_launch(device *d, void *exec, void *stream) {
  return cuda_check(d, d->driver->GraphLaunch(exec, stream), "launching a graph");
}
static void hook_graph_destroy(device *d, void *exec) {
  if (!exec || is_lost(d) || hook_enter(d) != KILN_OK) return;
  (void)d->driver->GraphExecDestroy(exec);
  hook_leave(d);
}

static kiln_status hook_mark_create(device *d, void **out) {
  return cuda_check(d, d->driver->EventCreate(out, 0), "making an event");
}
static kiln_status hook_fence_create(device *d, void **out) {
  return cuda_check(d, d->driver->EventCreate(out, CU_EVENT_DISABLE_TIMING), "making an event");
}
static kiln_status hook_fence_wait(device *d, void *fence) {
  return cuda_check(d, d->driver->EventSynchronize(fence), "running on the GPU");
}
static void hook_mark_destroy(device *d, void *mark) {
  if (mark && !is_lost(d)) (void)d->driver->EventDestroy(mark);
}
static kiln_status hook_mark(device *d, void *mark, void *stream) {
  return cuda_check(d, d->driver->EventRecord(mark, stream), "recording an event");
}
static kiln_status hook_mark_wait(device *d, void *mark, void *stream) {
  return cuda_check(d, d->driver->StreamWaitEvent(stream, mark, 0), "waiting for an event");
}
static kiln_status hook_seconds(device *d, void *start, void *end, double *out) {
  float milliseconds = 0;
  KILN_TRY(cuda_check(d, d->driver->EventSynchronize(end), "running on the GPU"));
  KILN_TRY(cuda_check(d, d->driver->EventElapsedTime(&milliseconds, start, end), "reading an event"));
  *out = (double)milliseconds * 1e-3;
  return KILN_OK;
}

/* The thread that tunes prepares many programs and compiles them together; what other threads run must not wait for that. */
static _Thread_local int deferred;

static kiln_status hook_finish_prepare(device *d, int threads) {
  return deferred > 0 ? KILN_OK : cuda_functions_compile(d, threads);
}
static void hook_defer(device *d, bool on) {
  deferred += on ? 1 : -1;
  if (!on || !d->driver) return;
  pthread_mutex_lock(&d->lock);
  d->apart = true;
  pthread_mutex_unlock(&d->lock);
}

static void hook_watch(device *d, kiln_status (*progress)(void *user, double part), void *user) {
  pthread_mutex_lock(&d->lock);
  d->progress = progress;
  d->progress_user = user;
  pthread_mutex_unlock(&d->lock);
}

const device_hooks cuda_hooks = {
    .open = hook_open,
    .close = hook_close,
    .dlpack_type = KILN_DEVICE_CUDA,
    .ordinal = hook_ordinal,
    .info = hook_info,
    .enter = hook_enter,
    .leave = hook_leave,
    .current = hook_current,
    .allocate = hook_allocate,
    .release = hook_release,
    .in_doubt = hook_in_doubt,
    .host_allocate = hook_host_allocate,
    .host_release = hook_host_release,
    .constant = hook_constant,
    .constant_release = hook_constant_release,
    .constant_bytes = hook_constant_bytes,
    .stream_create = hook_stream_create,
    .stream_destroy = hook_stream_destroy,
    .upload = hook_upload,
    .download = hook_download,
    .copy = hook_copy,
    .synchronize = hook_synchronize,
    .finish_prepare = hook_finish_prepare,
    .defer = hook_defer,
    .watch = hook_watch,
    .open_compiler = hook_open_compiler,
    .compiled = cuda_images_make,
    .offer = cuda_images_offer,
    .withdraw = cuda_images_withdraw,
    .owns = hook_owns,
    .stream_check = hook_stream_check,
    .capturing = hook_capturing,
    .capture_begin = hook_capture_begin,
    .capture_end = hook_capture_end,
    .graph_launch = hook_graph_launch,
    .graph_destroy = hook_graph_destroy,
    .mark_create = hook_mark_create,
    .fence_create = hook_fence_create,
    .fence_wait = hook_fence_wait,
    .mark_destroy = hook_mark_destroy,
    .mark = hook_mark,
    .mark_wait = hook_mark_wait,
    .seconds_between = hook_seconds,
};
