/* Program: a planned graph bound to concrete shapes; a list of steps over one arena. Made when a context sees new input
 * shapes, then run any number of times without allocating. */
#ifndef KILN_RUNTIME_PROGRAM_H
#define KILN_RUNTIME_PROGRAM_H

#include "backends/backend.h"

typedef struct program program;

/* Binds `g` (planned: every node has a tactic or runs its reference kernel) at these symbol values. `threads` is what
 * kernels may assume in prepare. The graph must outlive the program. */
kiln_status program_create(graph *g, const target *t, const int64_t *symbols, int threads, program **out_program);
/* The same on a device (NULL: the host), to which the constants are copied. */
kiln_status program_create_on(graph *g, const target *t, device *d, const int64_t *symbols, int threads,
                              program **out_program);
/* And with the tactics of one of the plan's optimization profiles, and parameters that lie dense in memory but with their
 * dimensions in another order (channels last, say): strides of each, or NULL. */
kiln_status program_create_profile(graph *g, int32_t profile, const target *t, device *d, const int64_t *symbols,
                                   const int64_t (*strides)[KILN_MAX_RANK], int threads, program **out_program);
void program_destroy(program *p);

size_t program_arena_bytes(
    const program *p); /* activations and workspace; 64-byte aligned memory of this size is needed to run */
/* Concrete tensors of the graph's parameters and results at the bound shapes (data pointers unset). */
const tensor *program_param(const program *p, int index);
const tensor *program_result(const program *p, int index);

/* Runs all steps. `params[i]` have data and strides (any); `results[i]` with data set get the result (any strides),
 * with data NULL are pointed at arena memory. */
kiln_status program_run(program *p, void *arena, const tensor *params, tensor *results, pool *workers, bool profile);

/* Devices: enqueues all steps on `stream`, with the device current. `externals` are addresses of contiguous tensors on
 * the device, multiples of 16, one for each parameter and then each result. Only programs without jumps may be
 * captured. */
kiln_status program_launch(program *p, void *arena, const void *const *externals, void *stream, bool profile);
bool program_has_jumps(const program *p); /* or anything else that the host must decide or do in between */
/* Ends where a size is measured (stages.h)? Then program_launch runs its own part; its own results are what the next stage reads. */
bool program_is_stage(const program *p);
int32_t program_param_count(const program *p);
int32_t program_result_count(const program *p);
const tensor *program_own_result(const program *p, int index);
const void **program_externals(program *p); /* room for the addresses that program_launch takes */
/* Operands of steps that are constants, up to `max`: the tuner turns them over. */
typedef struct program_constant {
  void **pointer; /* launches read the address here */
  size_t bytes;
} program_constant;
int program_constants(program *p, program_constant *out, int max);
/* Where a parameter or result may be put for a run, as bytes behind `arena`. */
size_t program_staging(const program *p, bool result, int index);
/* Copies between tensors of the device, any strides. */
kiln_status program_copy(program *p, const tensor *from, const tensor *to, void *stream);

size_t program_step_count(const program *p);
const node *program_step(const program *p, size_t index, double *seconds, double *flops, double *bytes);
const char *program_step_kernel(const program *p, size_t index);
void program_profile_clear(program *p);
/* Text: one line per buffer with offset, size, life. */
void program_print_memory(const program *p, text *out);

/* The node's attributes with every symbolic size evaluated, in `a`. */
kiln_status attrs_bind(arena *a, const graph *g, const node *n, const int64_t *symbols, const attr **out);

/* Runs one node's reference kernel on plain tensors: for constant folding and tests. Executes blocks (epilogue, control
 * flow) too; blocks of control flow must then not use values from outside. */
kiln_status reference_run_node(const node *n, const attr *attrs, tensor *in, int n_in, tensor *out, int n_out,
                               const int64_t *symbols);
/* Interprets a whole graph with the reference kernels: the truth for tests. `params` and `results` have data and
 * strides, one for each of the body's. */
kiln_status reference_run_graph(const graph *g, const int64_t *symbols, const tensor *params, const tensor *results);

#endif
