/* Finding NVIDIA's libraries: what the process has loaded already (torch brings them), then KILN_CUDA_PATH, then the `nvidia-*` wheels beside
 * torch or beside this package, then the system. Each library is one row of names and one table of symbols. */
#define _GNU_SOURCE
#include "backends/cuda/loader.h"

#include <dlfcn.h>
#include <glob.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

typedef struct symbol_row {
  const char *symbol;
  size_t offset;
} symbol_row;

typedef struct library_row {
  const char *title;
  const char *const *names; /* file names, newest first; ends with NULL */
  const char *advice;
  const symbol_row *symbols;
  size_t n_symbols;
} library_row;

#define DRIVER_ROW(name, symbol, arguments) {symbol, offsetof(cuda_driver, name)},
static const symbol_row driver_symbols[] = {CUDA_DRIVER_SYMBOLS(DRIVER_ROW)};
#define NVRTC_ROW(name, symbol, arguments) {symbol, offsetof(cuda_nvrtc, name)},
static const symbol_row nvrtc_symbols[] = {CUDA_NVRTC_SYMBOLS(NVRTC_ROW)};

#define CUBLASLT_ROW(name, symbol, arguments) {symbol, offsetof(cuda_cublaslt, name)},
static const symbol_row cublaslt_symbols[] = {CUDA_CUBLASLT_SYMBOLS(CUBLASLT_ROW)};

#define CUDNN_ROW(name, symbol, arguments) {symbol, offsetof(cuda_cudnn, name)},
static const symbol_row cudnn_symbols[] = {CUDA_CUDNN_SYMBOLS(CUDNN_ROW)};

static const char *const driver_names[] = {"libcuda.so.1", NULL};
static const char *const nvrtc_names[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so", NULL};

static const library_row driver_row = {"the NVIDIA driver (libcuda.so.1)", driver_names,
                                       "install the NVIDIA driver, version 525 or newer", driver_symbols,
                                       KILN_COUNT(driver_symbols)};
static const library_row nvrtc_row = {
    "NVRTC (libnvrtc.so.12 or .13)", nvrtc_names,
    "install it with `pip install nvidia-cuda-nvrtc`, or set KILN_CUDA_PATH to a CUDA installation", nvrtc_symbols,
    KILN_COUNT(nvrtc_symbols)};

static const char *const cublaslt_names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so", NULL};
static const library_row cublaslt_row = {
    "cuBLASLt (libcublasLt.so.12 or .13)", cublaslt_names,
    "install it with `pip install nvidia-cublas` (CUDA 12: nvidia-cublas-cu12), or set KILN_CUDA_PATH to a CUDA "
    "installation",
    cublaslt_symbols, KILN_COUNT(cublaslt_symbols)};

static const char *const cudnn_names[] = {"libcudnn.so.9", NULL};
static const library_row cudnn_row = {"cuDNN 9 (libcudnn.so.9)", cudnn_names,
                                      "install it with `pip install nvidia-cudnn-cu13` (CUDA 12: nvidia-cudnn-cu12), "
                                      "or set KILN_CUDA_PATH to where it is",
                                      cudnn_symbols, KILN_COUNT(cudnn_symbols)};

/* ---- places --------------------------------------------------------------------------------------------------------------- */

static void *open_in_folders(const char *pattern, const char *name) {
  char path[2048];
  glob_t found;
  void *handle = NULL;
  if (snprintf(path, sizeof path, "%s/%s", pattern, name) >= (int)sizeof path) return NULL;
  if (glob(path, 0, NULL, &found) != 0) return NULL;
  for (size_t i = 0; i < found.gl_pathc && !handle; i++) handle = dlopen(found.gl_pathv[i], RTLD_NOW | RTLD_GLOBAL);
  globfree(&found);
  return handle;
}

static void *open_under(const char *root, size_t length, const char *name) {
  static const char *const below[] = {"", "/lib64", "/lib", "/targets/x86_64-linux/lib", "/*/lib", "/nvidia/*/lib"};
  char pattern[1024];
  void *handle = NULL;
  for (size_t i = 0; i < KILN_COUNT(below) && !handle; i++) {
    if (snprintf(pattern, sizeof pattern, "%.*s%s", (int)length, root, below[i]) < (int)sizeof pattern)
      handle = open_in_folders(pattern, name);
  }
  return handle;
}

static void *open_in_setting(const char *name) {
  const char *list = getenv("KILN_CUDA_PATH");
  void *handle = NULL;
  while (list && *list && !handle) {
    const size_t length = strcspn(list, ":");
    if (length) handle = open_under(list, length, name);
    list += length + (list[length] == ':');
  }
  return handle;
}

/* `.../site-packages/torch/lib/libtorch_cpu.so` or `.../site-packages/kiln/_kiln.so`: the wheels are in `.../site-packages/nvidia`. */
typedef struct neighbour {
  char root[1024];
} neighbour;

static int find_torch(struct dl_phdr_info *info, size_t size, void *user) {
  (void)size;
  neighbour *n = user;
  const char *at = info->dlpi_name ? strstr(info->dlpi_name, "/torch/lib/libtorch") : NULL;
  if (!at || (size_t)(at - info->dlpi_name) >= sizeof n->root) return 0;
  memcpy(n->root, info->dlpi_name, (size_t)(at - info->dlpi_name));
  n->root[at - info->dlpi_name] = 0;
  return 1;
}

static void *open_beside_packages(const char *name) {
  neighbour n = {{0}};
  char pattern[1100];
  dl_iterate_phdr(find_torch, &n);
  if (!*n.root) {
    Dl_info self;
    if (!dladdr((const void *)(uintptr_t)cuda_driver_get, &self) || !self.dli_fname || !*self.dli_fname) return NULL;
    if (snprintf(n.root, sizeof n.root, "%s", self.dli_fname) >= (int)sizeof n.root) return NULL;
    for (int up = 0; up < 2; up++) {
      char *slash = strrchr(n.root, '/');
      if (!slash) return NULL;
      *slash = 0;
    }
  }
  if (snprintf(pattern, sizeof pattern, "%s/nvidia/*/lib", n.root) >= (int)sizeof pattern) return NULL;
  return open_in_folders(pattern, name);
}

static void *open_library(const library_row *row) {
  void *handle = NULL;
  for (int i = 0; row->names[i] && !handle; i++) handle = dlopen(row->names[i], RTLD_NOW | RTLD_NOLOAD);
  for (int i = 0; row->names[i] && !handle; i++) handle = open_in_setting(row->names[i]);
  for (int i = 0; row->names[i] && !handle; i++) handle = open_beside_packages(row->names[i]);
  for (int i = 0; row->names[i] && !handle; i++) handle = dlopen(row->names[i], RTLD_NOW);
  for (int i = 0; row->names[i] && !handle; i++)
    handle = open_under("/usr/local/cuda", strlen("/usr/local/cuda"), row->names[i]);
  return handle;
}

static kiln_status load(const library_row *row, void *table) {
  void *handle = open_library(row);
  if (!handle) return KILN_FAIL(KILN_INCOMPATIBLE, "%s was not found: %s", row->title, row->advice);
  for (size_t i = 0; i < row->n_symbols; i++) {
    void *address = dlsym(handle, row->symbols[i].symbol);
    if (!address)
      return KILN_FAIL(KILN_INCOMPATIBLE, "%s is too old: it has no %s; %s", row->title, row->symbols[i].symbol,
                       row->advice);
    memcpy((char *)table + row->symbols[i].offset, &address, sizeof address);
  }
  return KILN_OK;
}

/* ---- one of each ------------------------------------------------------------------------------------------------------------ */

typedef struct library_state {
  bool tried;
  kiln_status status;
  char text[400]; /* why not */
} library_state;

static pthread_mutex_t loader_lock = PTHREAD_MUTEX_INITIALIZER;

static void note_failure(library_state *s, kiln_status status) {
  s->status = status;
  if (status == KILN_OK) return;
  snprintf(s->text, sizeof s->text, "%.390s", error_text());
  char *end = strchr(s->text, '\n');
  if (end) *end = 0;
}

static cuda_driver driver;
static library_state driver_state;

static kiln_status start_driver(void) {
  KILN_TRY(load(&driver_row, &driver));
  const int code = driver.Init(0);
  int count = 0;
  if (code == CU_NO_DEVICE || (code == CU_SUCCESS && driver.DeviceGetCount(&count) == CU_SUCCESS && count == 0))
    return KILN_FAIL(
        KILN_INCOMPATIBLE,
        "this machine has no NVIDIA GPU that the driver can use (look at CUDA_VISIBLE_DEVICES and nvidia-smi)");
  if (code != CU_SUCCESS)
    return KILN_FAIL(
        KILN_INCOMPATIBLE,
        "the NVIDIA driver does not start (code %d): install one that fits this kernel, and look at nvidia-smi", code);
  return KILN_OK;
}

kiln_status cuda_driver_get(const cuda_driver **out) {
  pthread_mutex_lock(&loader_lock);
  if (!driver_state.tried) note_failure(&driver_state, start_driver());
  driver_state.tried = true;
  pthread_mutex_unlock(&loader_lock);
  if (driver_state.status != KILN_OK) return KILN_FAIL(driver_state.status, "%s", driver_state.text);
  *out = &driver;
  return KILN_OK;
}

static cuda_nvrtc nvrtc;
static library_state nvrtc_state;

/* NVRTC opens this one by its bare name, which is found only where it is loaded already or in the system's folders. */
static void load_builtins(void) {
  Dl_info self;
  char folder[1024];
  void *version = NULL;
  memcpy(&version, &nvrtc.Version, sizeof version);
  if (!dladdr(version, &self) || !self.dli_fname) return;
  const char *slash = strrchr(self.dli_fname, '/');
  const size_t length = slash ? (size_t)(slash - self.dli_fname) : 0;
  if (!length || length >= sizeof folder) return;
  memcpy(folder, self.dli_fname, length);
  folder[length] = 0;
  (void)open_in_folders(folder, "libnvrtc-builtins.so.[0-9]*");
}

kiln_status cuda_nvrtc_get(const cuda_nvrtc **out) {
  pthread_mutex_lock(&loader_lock);
  if (!nvrtc_state.tried) note_failure(&nvrtc_state, load(&nvrtc_row, &nvrtc));
  if (!nvrtc_state.tried && nvrtc_state.status == KILN_OK) load_builtins();
  nvrtc_state.tried = true;
  pthread_mutex_unlock(&loader_lock);
  if (nvrtc_state.status != KILN_OK) return KILN_FAIL(nvrtc_state.status, "%s", nvrtc_state.text);
  *out = &nvrtc;
  return KILN_OK;
}

/* ---- optional ones ----------------------------------------------------------------------------------------------------------- */

/* Is `name` in the list KILN_CUDA_WITHOUT? */
static bool left_out(const char *name) {
  const char *list = getenv("KILN_CUDA_WITHOUT");
  const size_t wanted = strlen(name);
  while (list && *list) {
    const size_t length = strcspn(list, ",");
    if (length == wanted && memcmp(list, name, length) == 0) return true;
    list += length + (list[length] == ',');
  }
  return false;
}

static kiln_status load_optional(library_state *s, const library_row *row, const char *name, void *table) {
  if (left_out(name)) return KILN_FAIL(KILN_INCOMPATIBLE, "%s is left out by KILN_CUDA_WITHOUT", row->title);
  pthread_mutex_lock(&loader_lock);
  if (!s->tried) note_failure(s, load(row, table));
  s->tried = true;
  pthread_mutex_unlock(&loader_lock);
  return s->status == KILN_OK ? KILN_OK : KILN_FAIL(s->status, "%s", s->text);
}

static cuda_cublaslt cublaslt;
static library_state cublaslt_state;

kiln_status cuda_cublaslt_get(const cuda_cublaslt **out) {
  KILN_TRY(load_optional(&cublaslt_state, &cublaslt_row, "cublaslt", &cublaslt));
  *out = &cublaslt;
  return KILN_OK;
}

static cuda_cudnn cudnn;
static library_state cudnn_state;

kiln_status cuda_cudnn_get(const cuda_cudnn **out) {
  KILN_TRY(load_optional(&cudnn_state, &cudnn_row, "cudnn", &cudnn));
  *out = &cudnn;
  return KILN_OK;
}
