/* Thread pool. A job is published in the pool itself, then opened; workers join while it is open and take chunks from
 * one atomic counter. The caller works too, closes the job when the counter is spent, and waits only for the workers
 * that had joined: a worker still asleep costs nothing. Idle workers spin for 50 microseconds, then park on a futex. */
#define _GNU_SOURCE
#include "base/threads.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#include "base/memory.h"

#define SPIN_SECONDS 50e-6
enum { LARGEST_POOL = 1024 };
/* `joined` holds these flags and, below them, the number of workers inside the job. */
#define JOB_OPEN 0x80000000u
#define JOB_CALLER_SLEEPS 0x40000000u

typedef struct worker {
  pool *owner;
  pthread_t thread;
  int index;
} worker;

struct pool {
  _Alignas(64) _Atomic uint32_t generation; /* rises with each job; workers park on it */
  _Atomic uint32_t parked;
  _Alignas(64) _Atomic uint32_t joined; /* the caller parks on it */
  _Alignas(64) _Atomic int64_t next;
  _Alignas(64) pool_fn fn;
  void *user;
  int64_t count, chunk;
  _Atomic bool busy, stop;
  int threads, started;
  worker *workers;
};

double time_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int cpu_count(void) {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  const long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n > 0 && n < INT_MAX ? (int)n : 1;
}

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Sleeps while *word is `expected`; may wake early. */
static void park(_Atomic uint32_t *word, uint32_t expected) {
#ifdef __linux__
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
#else
  const struct timespec nap = {0, 50000};
  if (atomic_load(word) == expected) nanosleep(&nap, NULL);
#endif
}

static void unpark(_Atomic uint32_t *word, int how_many) {
#ifdef __linux__
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, how_many, NULL, NULL, 0);
#else
  (void)word, (void)how_many;
#endif
}

/* Spins until *word differs from `value` or the time is up; returns the last value seen. */
static uint32_t spin_while(_Atomic uint32_t *word, uint32_t value) {
  const double end = time_now() + SPIN_SECONDS;
  do {
    for (int i = 0; i < 32; i++) {
      const uint32_t now = atomic_load_explicit(word, memory_order_acquire);
      if (now != value) return now;
      relax();
    }
  } while (time_now() < end);
  return value;
}

static void take_chunks(pool *p, int index) {
  for (;;) {
    const int64_t begin = atomic_fetch_add_explicit(&p->next, p->chunk, memory_order_relaxed);
    if (begin >= p->count) return;
    const int64_t end = begin + p->chunk < p->count ? begin + p->chunk : p->count;
    for (int64_t i = begin; i < end; i++) p->fn(p->user, i, index);
  }
}

static void join_job(pool *p, int index) {
  uint32_t state = atomic_load_explicit(&p->joined, memory_order_relaxed);
  do {
    if ((state & JOB_OPEN) == 0) return;
  } while (!atomic_compare_exchange_weak_explicit(&p->joined, &state, state + 1, memory_order_acquire,
                                                  memory_order_relaxed));
  take_chunks(p, index);
  const uint32_t before = atomic_fetch_sub_explicit(&p->joined, 1, memory_order_release);
  if (before == (JOB_CALLER_SLEEPS | 1u)) unpark(&p->joined, 1);
}

static void *worker_main(void *argument) {
  const worker *w = argument;
  pool *p = w->owner;
  uint32_t seen = 0;
  for (;;) {
    uint32_t now = spin_while(&p->generation, seen);
    if (now == seen) {
      atomic_fetch_add(&p->parked, 1);
      while ((now = atomic_load(&p->generation)) == seen) park(&p->generation, seen);
      atomic_fetch_sub(&p->parked, 1);
    }
    seen = now;
    if (atomic_load(&p->stop)) return NULL;
    join_job(p, w->index);
  }
}

kiln_status pool_create(int threads, pool **out_pool) {
  if (threads <= 0) threads = cpu_count();
  if (threads > LARGEST_POOL) threads = LARGEST_POOL;
  pool *p = mem_alloc_aligned(sizeof *p);
  if (p == NULL) return KILN_NO_MEMORY("thread pool");
  memset(p, 0, sizeof *p);
  p->threads = threads;
  p->workers = mem_calloc((size_t)threads, sizeof *p->workers);
  if (p->workers == NULL) return pool_destroy(p), KILN_NO_MEMORY("thread pool");
  for (int i = 0; i < threads - 1; i++) {
    worker *w = &p->workers[i];
    w->owner = p;
    w->index = i + 1;
    const int error = pthread_create(&w->thread, NULL, worker_main, w);
    if (error != 0) {
      pool_destroy(p);
      return KILN_FAIL(error == EAGAIN ? KILN_OUT_OF_MEMORY : KILN_IO_ERROR,
                       "cannot start thread %d of %d (system error %d); ask for fewer threads", i + 2, threads, error);
    }
    p->started++;
  }
  *out_pool = p;
  return KILN_OK;
}

void pool_destroy(pool *p) {
  if (p == NULL) return;
  atomic_store(&p->stop, true);
  atomic_fetch_add(&p->generation, 1);
  unpark(&p->generation, INT_MAX);
  for (int i = 0; i < p->started; i++) pthread_join(p->workers[i].thread, NULL);
  mem_free(p->workers);
  mem_free_aligned(p);
}

int pool_threads(const pool *p) { return p != NULL ? p->threads : 1; }

static void wait_for_workers(pool *p) {
  uint32_t state = atomic_fetch_and_explicit(&p->joined, ~JOB_OPEN, memory_order_acq_rel) & ~JOB_OPEN;
  const double end = time_now() + SPIN_SECONDS;
  while (state != 0 && time_now() < end) {
    for (int i = 0; i < 32 && state != 0; i++) {
      relax();
      state = atomic_load_explicit(&p->joined, memory_order_acquire);
    }
  }
  if (state == 0) return;
  state = atomic_fetch_or(&p->joined, JOB_CALLER_SLEEPS) | JOB_CALLER_SLEEPS;
  while ((state & ~JOB_CALLER_SLEEPS) != 0) {
    park(&p->joined, state);
    state = atomic_load_explicit(&p->joined, memory_order_acquire);
  }
  atomic_store_explicit(&p->joined, 0, memory_order_relaxed);
}

void pool_run(pool *p, int64_t count, pool_fn fn, void *user) {
  if (count <= 0) return;
  bool free_before = false;
  if (p == NULL || p->started == 0 || count == 1 || !atomic_compare_exchange_strong(&p->busy, &free_before, true)) {
    for (int64_t i = 0; i < count; i++) fn(user, i, 0);
    return;
  }
  p->fn = fn;
  p->user = user;
  p->count = count;
  p->chunk = count / ((int64_t)p->threads * 16);
  if (p->chunk < 1) p->chunk = 1;
  atomic_store_explicit(&p->next, 0, memory_order_relaxed);
  atomic_store_explicit(&p->joined, JOB_OPEN, memory_order_release);
  atomic_fetch_add(&p->generation, 1);
  if (atomic_load(&p->parked) > 0) unpark(&p->generation, count - 1 < p->started ? (int)(count - 1) : p->started);
  take_chunks(p, 0);
  wait_for_workers(p);
  atomic_store(&p->busy, false);
}
