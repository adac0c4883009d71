/* Running on a device: where inputs and outputs are, which stream, and programs as graphs that are launched in one
 * piece. */
#ifndef KILN_RUNTIME_DEVICE_RUN_H
#define KILN_RUNTIME_DEVICE_RUN_H

#include "runtime/program.h"

enum { DEVICE_GRAPHS = 6, DEVICE_SEEN = 8, DEVICE_GRAPH_AGE = 64 };

/* A captured program for one set of addresses. */
typedef struct device_graph {
  const void **externals;
  void *exec;
  uint64_t last_use;
  bool launched; /* at least once */
} device_graph;

typedef struct device_graphs { /* of one bound program */
  device_graph graphs[DEVICE_GRAPHS];
  uint64_t seen[DEVICE_SEEN]; /* hashes of addresses that ran once and are not captured yet */
  int next_seen, last;        /* `last`: the graph that ran last */
} device_graphs;

typedef struct device_run { /* first what each run reads */
  const device_hooks *hooks;
  device *device;
  void *stream;      /* its own; captures happen here */
  void *user_stream; /* where runs are enqueued; `stream` unless the caller gave one */
  void *last_stream; /* of the last run, whose memory the next one uses again */
  void *mark;        /* the end of the last run, */
  bool marked;       /* if it is set yet */
  bool wanders;      /* runs were on different streams: each leaves its mark */
  bool ran;          /* is there one? */
  bool plain;        /* launches kernels one by one: KILN_CUDA_GRAPHS is 0 */
  bool captured;     /* did the last run become part of a caller's graph? */
  int32_t n_externals;
  uint64_t clock;
  char *pinned;
  size_t pinned_bytes;
  bool pinned_busy; /* an upload may still read it */
  const void **externals;
  bool *host_in, *host_out; /* of this run's tensors: in host memory? */
} device_run;

/* Is the caller capturing the stream that runs go to? */
kiln_status device_run_capturing(device_run *r, bool *out);
/* Waits for the last run. The device is current. */
kiln_status device_run_wait(device_run *r);
/* The same, from outside of runs: before memory goes that the last one may still use. */
kiln_status device_run_settle(device_run *r);
/* From now on runs go to `stream`, if it is one of this device. */
kiln_status device_run_set_stream(device_run *r, void *stream);

kiln_status device_run_create(const target *t, int ordinal, int32_t n_params, int32_t n_results, device_run **out);
void device_run_destroy(device_run *r); /* waits for what is running */
/* Forgets a program's graphs: their memory moves, or the program goes. */
void device_graphs_clear(device_run *r, device_graphs *g);

/* One run. params and results as for program_run, with host_in and host_out set; results without data get memory of `r`
 * or of the arena. Returns when the work is enqueued, or done if a tensor is on the host. */
kiln_status device_run_program(device_run *r, program *p, device_graphs *g, void *arena, const graph *plan,
                               const tensor *params, tensor *results, bool profile);

/* The same for addresses that have a graph, where nothing else is to be done: else *out_done is false, and nothing has happened. */
kiln_status device_run_again(device_run *r, device_graphs *g, const void *const *externals, bool *out_done);

/* Copies between tensors of the device, after what runs; and between tensors of the host. */
kiln_status device_run_copy(device_run *r, program *p, const tensor *from, const tensor *to);
void device_run_copy_host(const tensor *from, const tensor *to);

#endif
