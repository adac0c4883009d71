/* Context: checks a caller's tensors against the engine, binds programs for the shapes it sees, and runs them. */
#ifndef KILN_RUNTIME_CONTEXT_H
#define KILN_RUNTIME_CONTEXT_H

#include "engine/engine.h"
#include "runtime/device_run.h"
#include "runtime/program.h"

enum { CONTEXT_PROGRAMS = 8 }; /* shapes that stay bound; the least recently used makes room */

typedef struct bound_program {
  program *program;
  int64_t *symbols;
  uint64_t last_use;
  int32_t profile;
  device_graphs graphs;
  int64_t (*strides)[KILN_MAX_RANK]; /* GPU engines: how the inputs lie */
  bool captured;                     /* a caller's graph has its kernels, and reads its weights */
} bound_program;

/* What callers' graphs still use: kept until the context goes. */
typedef struct retired {
  program *program; /* or */
  void *memory;
  size_t bytes;
  struct retired *next;
  kiln_engine *engine; /* whose weights the program reads, or NULL */
} retired;

enum { STEADY_NEAR = 7 };
typedef struct steady { /* what steady.c compares; `ready`: the last run was of that kind */
  bool ready;
  int32_t n_inputs, n_outputs, n_states;
  const void **externals; /* of the run in progress; the words are behind them */
  int64_t *words;
  const void *near[STEADY_NEAR]; /* what a run reads beside that, to be fetched in time */
} steady;

struct kiln_context {  /* first what each call reads */
  kiln_engine *handle; /* the caller's, which may get other weights */
  kiln_engine *engine; /* the version of it that this context runs, */
  uint64_t generation; /* and its number */
  device_run *gpu;     /* NULL: runs on the host */
  program *current;
  bound_program *bound; /* that `current` is of */
  steady steady;
  bool profile; /* steps are timed */
  pool *workers;
  int64_t (*strides)[KILN_MAX_RANK]; /* GPU engines: of the inputs of this call */
  bound_program programs[CONTEXT_PROGRAMS];
  int64_t *symbols; /* scratch for solving */
  char *symbol_known;
  uint64_t clock;
  void *arena;
  size_t arena_bytes;
  bool arena_captured; /* a caller's graph has addresses in the arena */
  bool arena_lent;     /* and the caller's kernels may read outputs there */
  retired *retired;
  tensor *params, *results; /* inputs and states; outputs and states */
  int64_t (*lent_shapes)[2][KILN_MAX_RANK];
  void **state_now, **state_next; /* one pair for each mutated buffer, swapped after each run */
  size_t state_bytes;
  int32_t threads;
  int32_t wanted; /* optimization profile that the caller chose; -1: the one that fits best */
  int32_t chosen; /* for the sizes of this call */
};

#endif
