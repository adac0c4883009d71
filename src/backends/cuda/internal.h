/* Parts of the CUDA backend that its own files share and kernel rows do not need. */
#ifndef KILN_BACKENDS_CUDA_INTERNAL_H
#define KILN_BACKENDS_CUDA_INTERNAL_H

#include <pthread.h>

#include "backends/cuda/block_pool.h"
#include "backends/cuda/cuda.h"
#include "backends/cuda/loader.h"

/* Compiled code: a cubin of one kernel, or of a few that were compiled together. */
typedef struct cuda_code {
  uint64_t hash;
  size_t bytes;
  void *data;   /* of devices that keep images */
  void *module; /* loaded; NULL: not yet */
  struct cuda_code *next;
} cuda_code;

struct cuda_function {
  char key[40]; /* hash of text, options and compiler */
  char entry[64];
  char *text;    /* whole translation unit; freed when compiled */
  size_t body;   /* where what follows the prelude begins in it */
  char arch[16]; /* "sm_90a" */
  size_t shared;
  void *module; /* of code that a user gave */
  void *handle;
  void *image; /* of devices that keep images: a cuda_code's, or its own */
  size_t image_bytes;
  bool owns_image;
  bool failed;  /* not tried again until it is asked for again */
  bool foreign; /* as in cuda_source */
  bool done;    /* compiled (and loaded, on a present device) */
  kiln_status status;
  struct cuda_function *next;
};

typedef struct device_constant {
  const void *host;
  void *memory;
  size_t bytes;
  int references;
} device_constant;

struct device {              /* first what each call reads */
  const cuda_driver *driver; /* NULL: not present */
  void *context, *stream;
  int poisoned; /* code of a sticky error, or 0 */
  int ordinal, references, handle;
  cuda_facts facts;
  void *cublaslt, *cudnn;          /* handles; NULL: not asked for */
  struct cudnn_entry *cudnn_plans; /* made so far */
  pthread_mutex_t lock;
  struct cuda_images *images; /* offered */
  bool keep_images;
  device *twin;                   /* of one that only compiles: this machine's GPU of the same kind, or NULL */
  pthread_mutex_t constants_lock; /* held while a weight is uploaded; taken before `lock` */
  cuda_function *functions;
  map function_index;
  pthread_mutex_t codes_lock; /* taken after `lock`, by the threads that compile */
  cuda_code *codes;
  bool
      apart; /* what is compiled next is for the tuner, of which engines take little: one kernel in each piece of code */
  kiln_status (*progress)(void *user, double part); /* of compiling; NULL: nobody asks */
  void *progress_user;
  device_constant *constants;
  size_t n_constants, constant_capacity, constant_bytes;
  pthread_mutex_t memory_lock; /* taken last */
  block_pool memory, pinned;   /* of the GPU, and of the host where copies are fast */
  struct device *next;
};

/* KILN_OK, or an error that says what was tried; sticky codes poison the device. */
kiln_status cuda_check(device *d, int code, const char *what);

/* enter and leave of the device, which nest, for the backend's own files. */
kiln_status cuda_enter_relaxed(device *d, int *out_mode);
void cuda_leave_relaxed(device *d, int mode);

/* A device of facts alone, for compiling kernel text without a GPU. */
kiln_status cuda_device_offline(int arch, device **out);
bool cuda_arch_facts(int arch, cuda_facts *out);

/* units.c: kernels that NVRTC compiles as one program, because each program costs as much as a small kernel. */
enum { CUDA_UNIT_MAX = 8 };
typedef struct cuda_unit {
  cuda_function *functions[CUDA_UNIT_MAX];
  size_t count, cost;
} cuda_unit;
/* Shares out `list` (long texts first); `kinds` and `units` (zeroed) have room for n. `apart`: each is one of its own. */
size_t cuda_units_make(cuda_function *const *list, size_t n, int threads, bool apart, int *kinds, cuda_unit *units);
kiln_status cuda_unit_text(const cuda_unit *u, text *out);             /* of two or more */
void cuda_shared_name(const cuda_function *f, char *out, size_t room); /* of its entry in code of several */

extern const device_hooks cuda_hooks;
extern const char cuda_prelude[];

/* upload.c: with several threads; the device is current. Returns when the bytes are there. */
kiln_status cuda_upload_large(device *d, void *to, const void *from, size_t bytes);

/* images.c: compiled code as one block of bytes. */
kiln_status cuda_images_make(device *d, void **out_bytes, size_t *out_size);
kiln_status cuda_images_offer(device *d, const void *bytes, size_t size);
void cuda_images_withdraw(device *d, const void *bytes);
const void *cuda_images_first(const device *d); /* of those that are offered */
/* The code for this key in what is offered (d->lock is held); NULL: none. */
const void *cuda_images_find(const device *d, const char *key, size_t *out_size);

/* Bytes that are kept with the images of a device that only compiles. */
kiln_status cuda_images_add(device *d, const char *key, const void *bytes, size_t size);

/* A file of the cache folder; false: there is none. */
bool cuda_cache_path(const char *key, const char *suffix, char *out, size_t room);
kiln_status cuda_functions_compile(device *d, int threads);
void cuda_functions_free(device *d);
void cuda_libraries_close(device *d); /* optional ones that it has used */

kiln_status cuda_rewrite(const target *t, graph *g);

#endif
