/* Kernel text to functions: NVRTC, with a cache in memory (one function for equal texts) and one of cubins on disk. Functions are
 * requested one by one while a program is prepared, and compiled together in parallel at the end. */
#define _GNU_SOURCE /* memmem */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/cuda/internal.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/threads.h"

char *cuda_text(kernel_prep *p, const char *fmt, ...) {
  va_list args, again;
  va_start(args, fmt);
  va_copy(again, args);
  const int length = vsnprintf(NULL, 0, fmt, args);
  va_end(args);
  char *out = length < 0 ? NULL : arena_alloc(p->arena, (size_t)length + 1);
  if (out) vsnprintf(out, (size_t)length + 1, fmt, again);
  va_end(again);
  if (!out) (void)KILN_NO_MEMORY("kernel text");
  return out;
}

/* ---- the cache folder ---------------------------------------------------------------------------------------------- */

static bool make_folder(const char *path) { return mkdir(path, 0700) == 0 || errno == EEXIST; }

/* KILN_CACHE_DIR, else XDG_CACHE_HOME/kiln, else ~/.cache/kiln; false: none, everything is compiled anew. */
static bool cache_folder(char *out, size_t room) {
  const char *own = getenv("KILN_CACHE_DIR"), *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  int n = -1;
  if (own) {
    if (!*own) return false; /* set to nothing: off */
    n = snprintf(out, room, "%s", own);
  } else if (base && *base) {
    n = snprintf(out, room, "%s/kiln", base);
    if (!make_folder(base)) return false;
  } else if (home && *home) {
    n = snprintf(out, room, "%s/.cache", home);
    if (n < 0 || (size_t)n >= room || !make_folder(out)) return false;
    n = snprintf(out, room, "%s/.cache/kiln", home);
  }
  return n > 0 && (size_t)n < room && make_folder(out);
}

bool cuda_cache_path(const char *key, const char *suffix, char *out, size_t room) {
  char folder[1024];
  if (!cache_folder(folder, sizeof folder)) return false;
  const int n = snprintf(out, room, "%s/%s.%s", folder, key, suffix);
  return n > 0 && (size_t)n < room;
}

/* Where the text and log of a kernel that does not compile are kept: without a cache folder among the temporary files. */
static bool log_path(const cuda_function *f, char *out, size_t room) {
  if (cuda_cache_path(f->key, "log.txt", out, room)) return true;
  const char *folder = getenv("TMPDIR");
  const int n = snprintf(out, room, "%s/kiln-%s.log.txt", folder && *folder ? folder : "/tmp", f->key);
  return n > 0 && (size_t)n < room;
}

/* ---- NVRTC ------------------------------------------------------------------------------------------------------------ */

static kiln_status keep_log(const cuda_nvrtc *v, void *program, const cuda_function *f) {
  size_t bytes = 0;
  char path[1200] = "";
  (void)v->GetProgramLogSize(program, &bytes);
  char *log = mem_calloc(1, bytes + 1);
  if (!log) return KILN_NO_MEMORY("compiler log");
  if (bytes) (void)v->GetProgramLog(program, log);
  if (log_path(f, path, sizeof path)) {
    const file_span spans[] = {{log, strlen(log)}, {"\n\n", 2}, {f->text, strlen(f->text)}};
    if (file_write_atomic(path, spans, 3) != KILN_OK) path[0] = 0;
  }
  const kiln_status status =
      KILN_FAIL(KILN_INTERNAL, "kernel `%s` does not compile for %s: %.300s%s%s%s", f->entry, f->arch, log,
                *path ? " (all of it, and the kernel's text, are in " : "", path, *path ? ")" : "");
  mem_free(log);
  return status;
}

enum { NVRTC_INVALID_OPTION = 5 };
static atomic_bool no_minimal; /* an old NVRTC, which has no such option */

/* Without what only users' texts may need (textures, launches by kernels): a sixth of what a small kernel takes. */
static int compile_program(const cuda_nvrtc *v, void *program, const cuda_function *f) {
  char arch[40];
  snprintf(arch, sizeof arch, "--gpu-architecture=%s", f->arch);
  const char *const options[] = {arch, "-std=c++17", "-default-device", "--minimal"};
  if (!f->foreign && !atomic_load(&no_minimal)) {
    const int code = v->CompileProgram(program, 4, options);
    if (code != NVRTC_INVALID_OPTION) return code;
  }
  const int code = v->CompileProgram(program, 3, options);
  if (code != NVRTC_INVALID_OPTION && !f->foreign) atomic_store(&no_minimal, true);
  return code;
}

/* `source` for the architecture of `f`. */
static kiln_status compile_text(const cuda_function *f, const char *source, char **out, size_t *out_bytes) {
  const cuda_nvrtc *v = NULL;
  void *program = NULL;
  size_t bytes = 0;
  KILN_TRY(cuda_nvrtc_get(&v));
  if (v->CreateProgram(&program, source, f->entry, 0, NULL, NULL) != 0)
    return KILN_FAIL(KILN_INTERNAL, "NVRTC takes no program");
  kiln_status status = KILN_OK;
  char *image = NULL;
  const int code = compile_program(v, program, f);
  if (code == NVRTC_INVALID_OPTION) {
    status =
        KILN_FAIL(KILN_INCOMPATIBLE,
                  "this NVRTC cannot compile for %s: install a newer one (pip install -U nvidia-cuda-nvrtc)", f->arch);
  } else if (code != 0) {
    status = source == f->text ? keep_log(v, program, f)
                               : KILN_FAIL(KILN_INTERNAL, "kernels do not compile together for %s", f->arch);
  } else if (v->GetCUBINSize(program, &bytes) != 0 || bytes == 0) {
    status = KILN_FAIL(KILN_INTERNAL, "NVRTC made no code for `%s`", f->entry);
  } else if (!(image = mem_alloc(bytes))) {
    status = KILN_NO_MEMORY("kernel code");
  } else if (v->GetCUBIN(program, image) != 0) {
    status = KILN_FAIL(KILN_INTERNAL, "NVRTC lost the code of `%s`", f->entry);
  }
  (void)v->DestroyProgram(&program);
  if (status != KILN_OK) {
    mem_free(image);
    return status;
  }
  *out = image;
  *out_bytes = bytes;
  return KILN_OK;
}

/* ---- loading ------------------------------------------------------------------------------------------------------------- */

enum { FUNCTION_MAX_DYNAMIC_SHARED = 8, FUNCTION_WIDE_CLUSTERS = 14 }; /* CUfunction_attribute in cuda.h */

/* The code with these bytes: known, or new. d->codes_lock is held. */
static kiln_status code_get(device *d, const void *image, size_t bytes, cuda_code **out) {
  const uint64_t hash = hash_bytes(image, bytes, 1);
  cuda_code *c = d->codes;
  while (c && !(c->hash == hash && c->bytes == bytes)) c = c->next;
  if (!c) {
    if (!(c = mem_calloc(1, sizeof *c))) return KILN_NO_MEMORY("kernel code");
    c->hash = hash;
    c->bytes = bytes;
    c->next = d->codes;
    d->codes = c;
  }
  if (d->keep_images && !c->data) {
    if (!(c->data = mem_alloc(bytes))) return KILN_NO_MEMORY("kernel code");
    memcpy(c->data, image, bytes);
  }
  if (d->driver && !c->module)
    KILN_TRY(cuda_check(d, d->driver->ModuleLoadData(&c->module, image), "loading a kernel"));
  *out = c;
  return KILN_OK;
}

/* Alone in its code it has its own name. (Which of the two is read from the code, not asked of the driver: checkers report such questions.) */
static kiln_status find_entry(device *d, cuda_function *f, void *module, const void *image, size_t bytes) {
  char name[96];
  cuda_shared_name(f, name, sizeof name);
  const char *known = memmem(image, bytes, name, strlen(name) + 1) ? name : f->entry;
  KILN_TRY(cuda_check(d, d->driver->ModuleGetFunction(&f->handle, module, known), "finding a kernel"));
  if (f->shared > 48 * 1024)
    KILN_TRY(cuda_check(d, d->driver->FuncSetAttribute(f->handle, FUNCTION_MAX_DYNAMIC_SHARED, (int)f->shared),
                        "raising shared memory"));
  if (d->facts.arch >= 90) /* clusters of 16 blocks, where a GPU has them; others are not affected */
    (void)d->driver->FuncSetAttribute(f->handle, FUNCTION_WIDE_CLUSTERS, 1);
  return KILN_OK;
}

/* An image of code: loaded where there is a GPU, and kept where images are asked for. */
static kiln_status take_image(device *d, cuda_function *f, const void *image, size_t bytes) {
  cuda_code *c = NULL;
  if (d->driver) KILN_TRY(cuda_hooks.enter(d));
  pthread_mutex_lock(&d->codes_lock);
  kiln_status status = code_get(d, image, bytes, &c);
  pthread_mutex_unlock(&d->codes_lock);
  if (status == KILN_OK && c->data && !f->image) {
    f->image = c->data;
    f->image_bytes = bytes;
  }
  if (status == KILN_OK && d->driver) status = find_entry(d, f, c->module, image, bytes);
  if (d->driver) cuda_hooks.leave(d);
  return status;
}

static bool take_known(device *d, cuda_function *f, const void *image, size_t bytes) {
  const bool plausible = bytes > 64 && memcmp(image, "\177ELF", 4) == 0;
  const bool ok = plausible && take_image(d, f, image, bytes) == KILN_OK;
  if (plausible && !ok) error_clear();
  return ok;
}

static bool load_cached(device *d, cuda_function *f, const char *path) {
  file_map file;
  if (file_map_open(path, &file) != KILN_OK) {
    error_clear();
    return false;
  }
  const bool ok = take_known(d, f, file.data, file.size);
  file_map_close(&file);
  return ok;
}

/* From what an engine brings, else from the cache folder. */
static bool function_find(device *d, cuda_function *f) {
  char path[1200];
  size_t bytes = 0;
  const void *offered = cuda_images_find(d, f->key, &bytes);
  if (offered && take_known(d, f, offered, bytes)) return true;
  return cuda_cache_path(f->key, "cubin", path, sizeof path) && load_cached(d, f, path);
}

/* One file, with a name for each kernel in it. A full disk only costs time. */
static void keep_in_cache(const cuda_unit *u, const void *image, size_t bytes) {
  char first[1200], path[1200];
  const file_span span = {image, bytes};
  for (size_t i = 0; i < u->count; i++) {
    if (!cuda_cache_path(u->functions[i]->key, "cubin", i ? path : first, sizeof path)) return;
    if (i && (link(first, path) == 0 || errno == EEXIST)) continue;
    if (file_write_atomic(i ? path : first, &span, 1) != KILN_OK) error_clear();
  }
}

/* Compiles what nobody has. */
static kiln_status unit_make(device *d, const cuda_unit *u) {
  const cuda_function *f = u->functions[0];
  text whole = {0};
  char *image = NULL;
  size_t bytes = 0;
  kiln_status status = u->count > 1 ? cuda_unit_text(u, &whole) : KILN_OK;
  if (status == KILN_OK) status = compile_text(f, u->count > 1 ? whole.data : f->text, &image, &bytes);
  text_free(&whole);
  for (size_t i = 0; i < u->count && status == KILN_OK; i++) status = take_image(d, u->functions[i], image, bytes);
  if (status == KILN_OK) keep_in_cache(u, image, bytes);
  mem_free(image);
  return status;
}

/* ---- all that is pending --------------------------------------------------------------------------------------------------- */

typedef struct compile_batch {
  device *device;
  cuda_function **functions;
  bool *found;
  cuda_unit *units;
  size_t count;
  atomic_size_t done;
  atomic_int ended;     /* the status of whoever watches */
  char why_ended[512];  /* of the thread that waits; error texts are per thread: carried over */
  pthread_mutex_t lock; /* of `why` */
  char why[512];        /* of the first failure */
} compile_batch;

static void tell(compile_batch *b, size_t count, int worker) {
  const device *d = b->device;
  const size_t done = atomic_fetch_add(&b->done, count) + count;
  if (worker != 0 || !d->progress) return;
  const kiln_status status = d->progress(d->progress_user, (double)done / (double)b->count);
  if (status == KILN_OK) return;
  snprintf(b->why_ended, sizeof b->why_ended, "%.500s", error_text());
  atomic_store(&b->ended, (int)status);
}

static void find_one(void *user, int64_t i, int worker) {
  compile_batch *b = user;
  b->found[i] = atomic_load(&b->ended) == KILN_OK && function_find(b->device, b->functions[i]);
  if (b->found[i]) tell(b, 1, worker);
}

static void fail_unit(compile_batch *b, const cuda_unit *u, kiln_status status) {
  for (size_t i = 0; i < u->count; i++) u->functions[i]->status = status;
  pthread_mutex_lock(&b->lock);
  if (!b->why[0]) snprintf(b->why, sizeof b->why, "%.500s", error_text());
  pthread_mutex_unlock(&b->lock);
}

static void compile_one(void *user, int64_t i, int worker) {
  compile_batch *b = user;
  const cuda_unit *u = &b->units[i];
  if (atomic_load(&b->ended) != KILN_OK) {
    for (size_t k = 0; k < u->count; k++) u->functions[k]->status = KILN_INTERNAL; /* not looked at: it was ended */
    return;
  }
  kiln_status status = unit_make(b->device, u);
  if (status != KILN_OK && u->count > 1) { /* then one by one, which says whose fault it is */
    error_clear();
    for (size_t k = 0; k < u->count; k++) {
      const cuda_unit one = {.functions = {u->functions[k]}, .count = 1};
      if ((status = unit_make(b->device, &one)) != KILN_OK) fail_unit(b, &one, status);
    }
  } else if (status != KILN_OK) {
    fail_unit(b, u, status);
  }
  tell(b, u->count, worker);
}

/* Long texts take long: they go first, so that no thread is left with one at the end. */
static int by_length(const void *a, const void *b) {
  const cuda_function *const *x = a, *const *y = b;
  const size_t of_x = strlen((*x)->text), of_y = strlen((*y)->text);
  return of_x < of_y ? 1 : of_x > of_y ? -1 : strcmp((*x)->key, (*y)->key);
}
static int by_cost(const void *a, const void *b) {
  const cuda_unit *x = a, *y = b;
  return x->cost < y->cost ? 1 : x->cost > y->cost ? -1 : strcmp(x->functions[0]->key, y->functions[0]->key);
}

/* Those that are not found, in units. */
static kiln_status compile_rest(compile_batch *b, pool *workers, int threads) {
  cuda_function **rest = mem_calloc(b->count, sizeof *rest);
  int *kinds = mem_calloc(b->count, sizeof *kinds);
  b->units = mem_calloc(b->count, sizeof *b->units);
  kiln_status status = rest && kinds && b->units ? KILN_OK : KILN_NO_MEMORY("compiling kernels");
  size_t n = 0;
  for (size_t i = 0; i < b->count && status == KILN_OK; i++) {
    if (!b->found[i]) rest[n++] = b->functions[i];
  }
  if (status == KILN_OK && n) {
    qsort(rest, n, sizeof *rest, by_length);
    const size_t units = cuda_units_make(rest, n, threads, b->device->apart, kinds, b->units);
    qsort(b->units, units, sizeof *b->units, by_cost);
    pool_run(workers, (int64_t)units, compile_one, b);
  }
  mem_free(rest);
  mem_free(kinds);
  mem_free(b->units);
  return status;
}

static kiln_status compile_batch_run(device *d, cuda_function **list, size_t count, int threads) {
  compile_batch b = {.device = d, .functions = list, .count = count, .lock = PTHREAD_MUTEX_INITIALIZER};
  pool *workers = NULL;
  b.found = mem_calloc(count, sizeof *b.found);
  kiln_status status = b.found ? KILN_OK : KILN_NO_MEMORY("compiling kernels");
  if ((size_t)threads > count) threads = (int)count;
  for (size_t i = 0; i < count; i++) list[i]->status = KILN_OK;
  if (status == KILN_OK) status = pool_create(threads, &workers);
  if (status == KILN_OK) {
    pool_run(workers, (int64_t)count, find_one, &b);
    status = compile_rest(&b, workers, threads);
  }
  pool_destroy(workers);
  mem_free(b.found);
  KILN_TRY(status);
  const kiln_status ended = (kiln_status)atomic_load(&b.ended);
  for (size_t i = 0; i < count; i++) {
    cuda_function *f = list[i];
    f->done = f->status == KILN_OK;
    f->failed = !f->done;
    if (f->failed && status == KILN_OK) status = f->status;
    if (f->done) {
      mem_free(f->text);
      f->text = NULL;
    }
  }
  if (ended != KILN_OK) return KILN_FAIL(ended, "%s", b.why_ended);
  return status == KILN_OK ? KILN_OK : KILN_FAIL(status, "%s", b.why);
}

kiln_status cuda_functions_compile(device *d, int threads) {
  size_t count = 0;
  kiln_status status = KILN_OK;
  pthread_mutex_lock(&d->lock);
  for (const cuda_function *f = d->functions; f; f = f->next) count += !f->done && !f->failed;
  cuda_function **list = count ? mem_calloc(count, sizeof *list) : NULL;
  if (count && !list) status = KILN_NO_MEMORY("compiling kernels");
  if (list) {
    size_t n = 0;
    for (cuda_function *f = d->functions; f; f = f->next) {
      if (!f->done && !f->failed) list[n++] = f;
    }
  }
  /* The lock stays held: a second program that asks for the same functions waits until they are there. */
  if (list) status = compile_batch_run(d, list, count, threads < 1 ? 1 : threads);
  d->apart = false;
  pthread_mutex_unlock(&d->lock);
  mem_free(list);
  return status;
}

void cuda_functions_free(device *d) {
  for (cuda_function *f = d->functions; f;) {
    cuda_function *next = f->next;
    if (f->module && d->driver && !d->poisoned) (void)d->driver->ModuleUnload(f->module);
    mem_free(f->text);
    if (f->owns_image) mem_free(f->image);
    mem_free(f);
    f = next;
  }
  for (cuda_code *c = d->codes; c;) {
    cuda_code *next = c->next;
    if (c->module && d->driver && !d->poisoned) (void)d->driver->ModuleUnload(c->module);
    mem_free(c->data);
    mem_free(c);
    c = next;
  }
  d->functions = NULL;
  d->codes = NULL;
}

/* ---- requests ----------------------------------------------------------------------------------------------------------------- */

static kiln_status function_new(device *d, const char *key, const cuda_source *s, char *whole, const char *arch,
                                cuda_function **out) {
  cuda_function *f = mem_calloc(1, sizeof *f);
  if (!f) return KILN_NO_MEMORY("kernel");
  snprintf(f->key, sizeof f->key, "%s", key);
  snprintf(f->arch, sizeof f->arch, "%s", arch);
  snprintf(f->entry, sizeof f->entry, "%s", s->entry);
  f->text = whole;
  f->body = strlen(cuda_prelude);
  f->shared = s->shared;
  f->foreign = s->foreign;
  if (!map_put(&d->function_index, f->key, f)) {
    mem_free(f);
    return KILN_NO_MEMORY("kernel");
  }
  f->next = d->functions;
  d->functions = f;
  *out = f;
  return KILN_OK;
}

kiln_status cuda_compile(kernel_prep *p, const cuda_source *s, const cuda_function **out) {
  device *d = p->device;
  char key[40], arch[16];
  text whole = {0};
  char *taken = NULL;
  if (!d) return KILN_FAIL(KILN_INTERNAL, "kernel `%s` is prepared without a device", s->entry);
  if (strlen(s->entry) >= sizeof((cuda_function *)0)->entry)
    return KILN_FAIL(KILN_INTERNAL, "kernel name `%s` is too long", s->entry);
  snprintf(arch, sizeof arch, "sm_%d%s", d->facts.arch, s->specific ? "a" : "");
  text_puts(&whole, cuda_prelude);
  if (s->defines) text_puts(&whole, s->defines);
  text_puts(&whole, s->text);
  if (s->more) text_puts(&whole, s->more);
  KILN_TRY(text_take(&whole, &taken));
  const size_t length = strlen(taken);
  const uint64_t seed = hash_bytes(arch, strlen(arch), s->shared + 1);
  snprintf(key, sizeof key, "%016llx%016llx", (unsigned long long)hash_bytes(taken, length, seed),
           (unsigned long long)hash_bytes(s->entry, strlen(s->entry), hash_bytes(taken, length, ~seed)));
  pthread_mutex_lock(&d->lock);
  cuda_function *f = map_get(&d->function_index, key);
  kiln_status status = KILN_OK;
  if (f) {
    f->failed = false;
    mem_free(taken);
  } else {
    status = function_new(d, key, s, taken, arch, &f);
    if (status != KILN_OK) mem_free(taken);
  }
  pthread_mutex_unlock(&d->lock);
  if (status == KILN_OK) *out = f;
  return status;
}

/* ---- launching ------------------------------------------------------------------------------------------------------------------ */

kiln_status cuda_launch(const kernel_args *a, const cuda_launch_config *l) {
  device *d = a->device;
  cu_launch_attribute attributes[2];
  cu_launch_config c = {.shared = (unsigned)l->shared, .stream = a->stream, .attributes = attributes};
  for (int i = 0; i < 3; i++) {
    c.grid[i] = l->grid[i] ? l->grid[i] : 1;
    c.block[i] = l->block[i] ? l->block[i] : 1;
  }
  memset(attributes, 0, sizeof attributes);
  if (l->cluster[0]) {
    cu_launch_attribute *x = &attributes[c.n_attributes++];
    x->id = CU_ATTRIBUTE_CLUSTER;
    for (int i = 0; i < 3; i++) x->value.cluster[i] = l->cluster[i] ? l->cluster[i] : 1;
  }
  if (l->overlap) {
    attributes[c.n_attributes].id = CU_ATTRIBUTE_OVERLAP;
    attributes[c.n_attributes++].value.overlap = 1;
  }
  if (!l->function->handle) return KILN_FAIL(KILN_INTERNAL, "kernel `%s` is not compiled", l->function->entry);
  const int code = d->driver->LaunchKernelEx(&c, l->function->handle, l->params, NULL);
  return code == CU_SUCCESS ? KILN_OK : cuda_check(d, code, l->function->entry);
}

kiln_status cuda_launch_1d(const kernel_args *a, const cuda_function *f, int64_t blocks, int threads, size_t shared,
                           void **params) {
  if (blocks <= 0) return KILN_OK;
  if (blocks > INT32_MAX)
    return KILN_FAIL(KILN_UNSUPPORTED, "kernel `%s`: a grid of %lld blocks", f->entry, (long long)blocks);
  const cuda_launch_config l = {.function = f,
                                .grid = {(unsigned)blocks, 1, 1},
                                .block = {(unsigned)threads, 1, 1},
                                .shared = shared,
                                .overlap = a->device->facts.arch >= 90,
                                .params = params};
  return cuda_launch(a, &l);
}

/* ---- tensor maps ------------------------------------------------------------------------------------------------------------------ */

static int map_dtype(kiln_dtype d) {
  switch (d) { /* CUtensorMapDataType */
    case KILN_F16:
      return 6;
    case KILN_F32:
      return 7;
    case KILN_BF16:
      return 9;
    case KILN_U8:
    case KILN_I8:
      return 0;
    case KILN_I32:
      return 3;
    default:
      return -1;
  }
}
static int map_swizzle(int bytes) { return bytes == 32 ? 1 : bytes == 64 ? 2 : bytes == 128 ? 3 : 0; }

enum { MAP_L2_256 = 3 };

kiln_status cuda_map_tiled(const kernel_args *a, cuda_map *out, const void *base, kiln_dtype dtype, int rank,
                           const int64_t *sizes, const int64_t *strides, const int *box, int swizzle) {
  uint64_t global[5], steps[5];
  uint32_t boxes[5], ones[5];
  if (rank < 1 || rank > 5 || map_dtype(dtype) < 0)
    return KILN_FAIL(KILN_INTERNAL, "no tensor map of rank %d of %s", rank, kiln_dtype_name(dtype));
  for (int i = 0; i < rank; i++) {
    global[i] = (uint64_t)sizes[i];
    boxes[i] = (uint32_t)box[i];
    ones[i] = 1;
    if (i) steps[i - 1] = (uint64_t)strides[i];
  }
  void *address = (void *)(uintptr_t)base;
  return cuda_check(
      a->device,
      a->device->driver->TensorMapEncodeTiled(out->bytes, map_dtype(dtype), (uint32_t)rank, address, global, steps,
                                              boxes, ones, 0, map_swizzle(swizzle), MAP_L2_256, 0),
      "making a tensor map");
}

kiln_status cuda_map_im2col(const kernel_args *a, cuda_map *out, const void *base, kiln_dtype dtype, int rank,
                            const int64_t *sizes, const int64_t *strides, const int *lower, const int *upper,
                            int channels, int pixels, const int *step, int swizzle) {
  uint64_t global[5], steps[5];
  uint32_t ones[5];
  if (rank < 3 || rank > 5 || map_dtype(dtype) < 0)
    return KILN_FAIL(KILN_INTERNAL, "no image map of rank %d of %s", rank, kiln_dtype_name(dtype));
  for (int i = 0; i < rank; i++) {
    global[i] = (uint64_t)sizes[i];
    ones[i] = step ? (uint32_t)step[i] : 1;
    if (i) steps[i - 1] = (uint64_t)strides[i];
  }
  void *address = (void *)(uintptr_t)base;
  return cuda_check(a->device,
                    a->device->driver->TensorMapEncodeIm2col(
                        out->bytes, map_dtype(dtype), (uint32_t)rank, address, global, steps, lower, upper,
                        (uint32_t)channels, (uint32_t)pixels, ones, 0, map_swizzle(swizzle), MAP_L2_256, 0),
                    "making an image map");
}
