/* Parts of a program that bind.c makes and program.c runs. */
#ifndef KILN_RUNTIME_PROGRAM_INTERNAL_H
#define KILN_RUNTIME_PROGRAM_INTERNAL_H

#include "runtime/program.h"

typedef enum buffer_kind {
  BUFFER_ARENA,    /* placed by the memory planner */
  BUFFER_PARAM,    /* the caller's input */
  BUFFER_RESULT,   /* the caller's output */
  BUFFER_CONSTANT, /* pointers are fixed */
} buffer_kind;

typedef struct buffer {
  buffer_kind kind;
  int32_t index; /* which param or result */
  int64_t bytes;
  int32_t first, last; /* steps in which it is live */
  size_t offset;       /* in the arena */
} buffer;

typedef struct place { /* where a tensor's element 0 is */
  int32_t buffer;
  int64_t offset; /* bytes */
} place;

typedef struct slot { /* a value at the bound shapes */
  bool known;
  place at;
  tensor t;
} slot;

typedef enum step_kind { STEP_KERNEL, STEP_JUMP, STEP_JUMP_IF_FALSE } step_kind;

typedef struct step {
  step_kind kind;
  const node *node;
  const kernel *kernel;
  kernel_args args;
  place *places; /* of in[], then out[], then the workspace */
  int32_t target;
  double seconds, flops, bytes; /* flops and bytes: of one execution */
  int64_t executions;           /* while profiling on the host */
  struct host_step *host;       /* devices: runs on the CPU, with copies; see host_steps.h */
} step;

typedef struct loop { /* steps `head` (the condition) to `back` (the jump to `head`) */
  int32_t head, back;
} loop;

typedef struct patch { /* a pointer that changes from run to run */
  void **pointer;
  place at;
} patch;

typedef struct final_copy { /* a result that no step could write in place */
  tensor from;
  place from_at;
  int32_t result;
  void *state; /* of the copy kernel, on devices */
} final_copy;

typedef struct stage_exit stage_exit;

struct program {
  arena arena;
  graph *graph;
  const node *first,
      *barrier; /* nodes that this program runs: from the first (NULL: the start) to before the barrier */
  int32_t stage;
  value *const *param_values;
  value **result_values;
  int32_t n_params, n_results;
  stage_exit *exit; /* what happens at the barrier */
  const target *target;
  int64_t *symbols;
  int threads;
  int32_t profile; /* whose tactics it runs */
  step *steps;
  int32_t n_steps, step_capacity;
  buffer *buffers;
  int32_t n_buffers, buffer_capacity;
  loop *loops; /* inner ones before the ones around them */
  int32_t n_loops, loop_capacity;
  slot *slots; /* by value id, while binding */
  uint32_t n_slots;
  tensor *params, *results; /* at the bound shapes */
  int32_t *param_buffers;
  int32_t *result_buffers; /* -1: written by a final copy only */
  size_t *param_staging,
      *result_staging; /* arena offsets for strided inputs and for outputs that the caller does not provide */
  patch *patches;      /* external pointers */
  int32_t n_patches;
  patch *arena_patches;
  int32_t n_arena_patches;
  final_copy *finals;
  int32_t n_finals;
  int64_t profiled_runs;  /* on the host */
  const void **externals; /* this run's params, then results */
  void *last_arena;
  size_t arena_bytes;
  const int64_t (*param_strides)[KILN_MAX_RANK]; /* while binding; NULL: contiguous */
  device *device;                                /* NULL: the host */
  void *stream;                                  /* of the run in progress */
  const void **constants;                        /* host addresses that the device keeps copies of */
  int32_t n_constants;
  void *marks[2]; /* for profiling */
  node copy_node; /* stands for the copies that binding inserts */
  const kernel *copy_kernel;
};

bool tensor_same_layout(const tensor *a, const tensor *b); /* shape and strides */
/* Sets the life of each buffer. Values from before a loop that the loop reads live to its end. */
void program_lives(program *p);
/* Merges buffers: copies that need not be, and steps that may write over an operand that dies with them. Lives stay
 * right. */
kiln_status program_share(program *p);

/* Nodes from `first` on, with the values of `params` given. */
kiln_status program_create_stage(const program *before, const node *first, value *const *params, int32_t n_params,
                                 const int64_t *symbols, program **out_program);
kiln_status program_run_steps(program *p, void *memory, const tensor *params, tensor *results, pool *workers,
                              bool profile); /* this program alone */
kiln_status program_constant_tensor(program *p, const value *v, tensor *out);

void step_estimate(step *s); /* fills flops and bytes */

#endif
