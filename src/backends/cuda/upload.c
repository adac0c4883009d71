/* Large weights to the GPU. They lie in a mapped file, whose pages one thread alone would fetch and copy far slower than the GPU takes
 * them: some threads copy parts into pinned memory, each with two places in turn, from where the GPU fetches them meanwhile. */
#include <string.h>

#include "backends/cuda/internal.h"
#include "base/threads.h"

enum { UPLOAD_THREADS = 4, UPLOAD_PART = 1 << 20, UPLOAD_TURNS = 2 };

typedef struct upload_lane { /* of one thread */
  char *pinned[UPLOAD_TURNS];
  void *fetched[UPLOAD_TURNS]; /* marks: the GPU has what lay there */
  bool used[UPLOAD_TURNS];
  int turn;
} upload_lane;

typedef struct upload_job {
  device *d;
  char *to;
  const char *from;
  size_t bytes;
  upload_lane lanes[UPLOAD_THREADS];
  int code; /* the driver's first failure */
} upload_job;

static int copy_part(upload_job *j, upload_lane *lane, size_t at) {
  const cuda_driver *v = j->d->driver;
  const size_t bytes = j->bytes - at < UPLOAD_PART ? j->bytes - at : UPLOAD_PART;
  const int turn = lane->turn;
  lane->turn = (turn + 1) % UPLOAD_TURNS;
  int code = lane->used[turn] ? v->EventSynchronize(lane->fetched[turn]) : CU_SUCCESS;
  if (code) return code;
  memcpy(lane->pinned[turn], j->from + at, bytes);
  code = v->MemcpyHtoDAsync((cu_address)(uintptr_t)(j->to + at), lane->pinned[turn], bytes, j->d->stream);
  lane->used[turn] = true;
  return code ? code : v->EventRecord(lane->fetched[turn], j->d->stream);
}

static void upload_part(void *user, int64_t i, int worker) {
  upload_job *j = user;
  if (__atomic_load_n(&j->code, __ATOMIC_RELAXED)) return;
  int code = -1;
  if (cuda_hooks.enter(j->d) == KILN_OK) {
    code = copy_part(j, &j->lanes[worker], (size_t)i * UPLOAD_PART);
    cuda_hooks.leave(j->d);
  }
  if (code) __atomic_store_n(&j->code, code, __ATOMIC_RELAXED);
}

static kiln_status prepare_lanes(upload_job *j, int threads) {
  for (int t = 0; t < threads; t++) {
    for (int k = 0; k < UPLOAD_TURNS; k++) {
      KILN_TRY(cuda_hooks.host_allocate(j->d, UPLOAD_PART, (void **)&j->lanes[t].pinned[k]));
      KILN_TRY(cuda_hooks.fence_create(j->d, &j->lanes[t].fetched[k]));
    }
  }
  return KILN_OK;
}

static void free_lanes(upload_job *j) {
  for (int t = 0; t < UPLOAD_THREADS; t++) {
    for (int k = 0; k < UPLOAD_TURNS; k++) {
      cuda_hooks.host_release(j->d, j->lanes[t].pinned[k]);
      cuda_hooks.mark_destroy(j->d, j->lanes[t].fetched[k]);
    }
  }
}

kiln_status cuda_upload_large(device *d, void *to, const void *from, size_t bytes) {
  upload_job j = {.d = d, .to = to, .from = from, .bytes = bytes};
  const int threads = cpu_count() < UPLOAD_THREADS ? cpu_count() : UPLOAD_THREADS;
  pool *workers = NULL;
  kiln_status status = prepare_lanes(&j, threads);
  if (status == KILN_OK) status = pool_create(threads, &workers);
  if (status == KILN_OUT_OF_MEMORY) { /* then slowly */
    error_clear();
    status = cuda_hooks.upload(d, d->stream, to, from, bytes);
  } else if (status == KILN_OK) {
    pool_run(workers, (int64_t)((bytes + UPLOAD_PART - 1) / UPLOAD_PART), upload_part, &j);
    const kiln_status done = cuda_hooks.synchronize(d, d->stream); /* before the places go */
    status = j.code ? cuda_check(d, j.code, "copying a weight to the GPU") : done;
  }
  pool_destroy(workers);
  free_lanes(&j);
  return status;
}
