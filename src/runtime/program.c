/* Running a bound program: point the tensors at this run's memory, then call the kernels in order. */
#include "runtime/program.h"

#include <string.h>

#include "base/memory.h"
#include "ops/ref.h"
#include "runtime/host_steps.h"
#include "runtime/stages.h"

void program_destroy(program *p) {
  if (!p) return;
  stage_exit_free(p->exit);
  const device_hooks *h = p->device ? p->target->backend->device : NULL;
  for (int32_t i = 0; h && i < p->n_constants; i++) h->constant_release(p->device, p->constants[i]);
  for (int32_t i = 0; h && i < p->n_steps; i++) host_step_free(p, &p->steps[i]);
  for (int i = 0; h && i < 2; i++) h->mark_destroy(p->device, p->marks[i]);
  arena_free(&p->arena);
  mem_free(p);
}

size_t program_arena_bytes(const program *p) { return p->arena_bytes; }
const tensor *program_param(const program *p, int index) { return &p->params[index]; }
const tensor *program_result(const program *p, int index) {
  return p->exit ? stage_declared(p, index) : &p->results[index];
}

/* Steps count through all stages of the last run. */
size_t program_step_count(const program *p) {
  size_t n = 0;
  for (; p; p = stage_following(p)) n += (size_t)p->n_steps;
  return n;
}

static const program *program_of_step(const program *p, size_t *index) {
  while (*index >= (size_t)p->n_steps) {
    *index -= (size_t)p->n_steps;
    p = stage_following(p);
  }
  return p;
}

const node *program_step(const program *p, size_t index, double *seconds, double *flops, double *bytes) {
  p = program_of_step(p, &index);
  const step *s = &p->steps[index];
  /* Of one run: steps of a loop run often, those of a branch not always. */
  const double times = p->profiled_runs ? (double)s->executions / (double)p->profiled_runs : 1;
  *seconds = s->seconds;
  *flops = s->flops * times;
  *bytes = s->bytes * times;
  return s->node;
}

const char *program_step_kernel(const program *p, size_t index) {
  p = program_of_step(p, &index);
  return p->steps[index].kernel ? p->steps[index].kernel->name : "jump";
}

void program_profile_clear(program *p) {
  for (; p; p = stage_following(p)) {
    p->profiled_runs = 0;
    for (int32_t i = 0; i < p->n_steps; i++) {
      p->steps[i].seconds = 0;
      p->steps[i].executions = 0;
    }
  }
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

/* Both without gaps, and their dimensions in the same order? */
static bool dense_alike(const tensor *a, const tensor *b) {
  int64_t span = 1;
  for (int d = 0; d < a->rank; d++) {
    if (a->shape[d] > 1 && a->strides[d] != b->strides[d]) return false;
    span += a->shape[d] > 0 ? (a->shape[d] - 1) * a->strides[d] : 0;
  }
  return span == tensor_numel(a);
}

/* On a device: a plain copy, or a kernel that is prepared for this copy alone. */
kiln_status program_copy(program *p, const tensor *from, const tensor *to, void *stream) {
  const device_hooks *h = p->target->backend->device;
  tensor in = *from, out = *to;
  if ((tensor_is_contiguous(from) && tensor_is_contiguous(to)) || dense_alike(from, to))
    return h->copy(p->device, stream, out.data, in.data, (size_t)tensor_numel(&in) * kiln_dtype_size(in.dtype));
  arena a = {0};
  kernel_args args = {.node = &p->copy_node,
                      .attrs = p->copy_node.attrs,
                      .in = &in,
                      .n_in = 1,
                      .out = &out,
                      .n_out = 1,
                      .symbols = p->symbols,
                      .device = p->device,
                      .stream = stream};
  kernel_prep prep = {.args = args, .arena = &a, .threads = 1, .device = p->device, .kernel = p->copy_kernel};
  kiln_status status = p->copy_kernel->prepare(&prep);
  if (status == KILN_OK) status = h->finish_prepare(p->device, 1);
  args.state = prep.state;
  if (status == KILN_OK) status = p->copy_kernel->run(&args);
  arena_free(&a);
  return status;
}

static kiln_status copy_tensor(program *p, const tensor *from, const tensor *to, pool *workers) {
  tensor in = *from, out = *to;
  const kernel_args args = {.node = &p->copy_node,
                            .attrs = p->copy_node.attrs,
                            .in = &in,
                            .n_in = 1,
                            .out = &out,
                            .n_out = 1,
                            .pool = workers,
                            .symbols = p->symbols};
  /* Kernels that need a prepared state cannot be used for shapes that come and go. */
  return p->copy_kernel->prepare ? p->copy_node.op->ref(&args) : p->copy_kernel->run(&args);
}

static void apply_patches(program *p, char *memory) {
  if (p->last_arena != memory) {
    for (int32_t i = 0; i < p->n_arena_patches; i++) {
      const patch *x = &p->arena_patches[i];
      *x->pointer = memory + p->buffers[x->at.buffer].offset + x->at.offset;
    }
    p->last_arena = memory;
  }
  for (int32_t i = 0; i < p->n_patches; i++) {
    const patch *x = &p->patches[i];
    const buffer *b = &p->buffers[x->at.buffer];
    const int32_t external = b->kind == BUFFER_PARAM ? b->index : p->n_params + b->index;
    *x->pointer = (char *)(uintptr_t)p->externals[external] + x->at.offset;
  }
}

/* Chooses this run's memory for params and results; strided inputs are copied to their staging area. */
static kiln_status set_externals(program *p, char *memory, const tensor *params, tensor *results, pool *workers) {
  for (int32_t i = 0; i < p->n_params; i++) {
    p->externals[i] = params[i].data;
    if (tensor_is_contiguous(&params[i])) continue;
    tensor staged = p->params[i];
    staged.data = memory + p->param_staging[i];
    KILN_TRY(copy_tensor(p, &params[i], &staged, workers));
    p->externals[i] = staged.data;
  }
  for (int32_t i = 0; i < p->n_results; i++) {
    const bool direct = results[i].data && tensor_is_contiguous(&results[i]);
    p->externals[p->n_params + i] = direct ? results[i].data : memory + p->result_staging[i];
  }
  return KILN_OK;
}

static kiln_status finish_results(program *p, tensor *results, pool *workers) {
  for (int32_t i = 0; i < p->n_finals; i++) {
    const final_copy *f = &p->finals[i];
    tensor to = p->results[f->result];
    to.data = (void *)(uintptr_t)p->externals[p->n_params + f->result];
    KILN_TRY(copy_tensor(p, &f->from, &to, workers));
  }
  for (int32_t i = 0; i < p->n_results; i++) {
    tensor made = p->results[i];
    made.data = (void *)(uintptr_t)p->externals[p->n_params + i];
    if (!results[i].data) {
      results[i] = made;
    } else if (made.data != results[i].data) {
      KILN_TRY(copy_tensor(p, &made, &results[i], workers));
    }
  }
  return KILN_OK;
}

static kiln_status run_step(step *s, pool *workers) {
  s->args.pool = workers;
  const kiln_status status = s->kernel->run(&s->args);
  if (status != KILN_OK)
    return error_note(status, __FILE__, __LINE__, "running `%s` (%s at %s)", s->node->op->name, s->node->path,
                      s->node->source);
  return KILN_OK;
}

kiln_status program_run_steps(program *p, void *memory, const tensor *params, tensor *results, pool *workers,
                              bool profile) {
  KILN_TRY(set_externals(p, memory, params, results, workers));
  apply_patches(p, memory);
  for (int32_t i = 0; i < p->n_steps;) {
    step *s = &p->steps[i];
    if (s->kind == STEP_JUMP) {
      i = s->target;
    } else if (s->kind == STEP_JUMP_IF_FALSE) {
      i = ref_load(&s->args.in[0], 0) != 0 ? i + 1 : s->target;
    } else {
      const double start = profile ? time_now() : 0;
      KILN_TRY(run_step(s, workers));
      if (profile) s->seconds += time_now() - start;
      s->executions += profile;
      i++;
    }
  }
  p->profiled_runs += profile;
  return finish_results(p, results, workers);
}

kiln_status program_run(program *p, void *memory, const tensor *params, tensor *results, pool *workers, bool profile) {
  return p->exit ? stage_run(p, memory, params, results, workers, profile)
                 : program_run_steps(p, memory, params, results, workers, profile);
}

/* ---- on a device ------------------------------------------------------------------------------------------------- */

bool program_has_jumps(const program *p) {
  for (int32_t i = 0; i < p->n_steps; i++) {
    if (p->steps[i].kind != STEP_KERNEL || p->steps[i].host) return true;
  }
  return p->exit != NULL;
}

bool program_is_stage(const program *p) { return p->exit != NULL; }
int32_t program_param_count(const program *p) { return p->n_params; }
int32_t program_result_count(const program *p) { return p->n_results; }
const tensor *program_own_result(const program *p, int index) { return &p->results[index]; }
const void **program_externals(program *p) { return p->externals; }

int program_constants(program *p, program_constant *out, int max) {
  int n = 0;
  for (int32_t i = 0; i < p->n_steps; i++) {
    step *s = &p->steps[i];
    for (int32_t k = 0; k < s->args.n_in && k < s->node->n_inputs && n < max; k++) {
      const value *v = node_in(s->node, k);
      if (v && v->constant && s->args.in[k].data) out[n++] = (program_constant){&s->args.in[k].data, v->constant->size};
    }
  }
  return n;
}

size_t program_staging(const program *p, bool result, int index) {
  return result ? p->result_staging[index] : p->param_staging[index];
}

/* Waits for the stream and reads the condition of a jump. */
static kiln_status read_condition(program *p, const step *s, bool *out) {
  const device_hooks *h = p->target->backend->device;
  const tensor *in = &s->args.in[0];
  int64_t scalar = 0;
  tensor here = {.data = &scalar, .dtype = in->dtype};
  KILN_TRY(h->download(p->device, p->stream, &scalar, in->data, kiln_dtype_size(in->dtype)));
  KILN_TRY(h->synchronize(p->device, p->stream));
  *out = ref_load(&here, 0) != 0;
  return KILN_OK;
}

static kiln_status launch_step(program *p, step *s, bool profile) {
  const device_hooks *h = p->target->backend->device;
  double seconds = 0;
  s->args.stream = p->stream;
  if (profile) KILN_TRY(h->mark(p->device, p->marks[0], p->stream));
  KILN_TRY(s->host ? host_step_run(p, s) : run_step(s, NULL));
  if (!profile) return KILN_OK;
  KILN_TRY(h->mark(p->device, p->marks[1], p->stream));
  KILN_TRY(h->seconds_between(p->device, p->marks[0], p->marks[1], &seconds));
  s->seconds += seconds;
  return KILN_OK;
}

kiln_status program_launch(program *p, void *memory, const void *const *externals, void *stream, bool profile) {
  const device_hooks *h = p->target->backend->device;
  p->stream = stream;
  for (int i = 0; profile && i < 2; i++) {
    if (!p->marks[i]) KILN_TRY(h->mark_create(p->device, &p->marks[i]));
  }
  for (int32_t i = 0; i < p->n_params + p->n_results; i++) p->externals[i] = externals[i];
  apply_patches(p, memory);
  for (int32_t i = 0; i < p->n_steps;) {
    step *s = &p->steps[i];
    bool go = false;
    if (s->kind == STEP_KERNEL) {
      KILN_TRY(launch_step(p, s, profile));
      i++;
    } else if (s->kind == STEP_JUMP) {
      i = s->target;
    } else {
      KILN_TRY(read_condition(p, s, &go));
      i = go ? i + 1 : s->target;
    }
  }
  for (int32_t i = 0; i < p->n_finals; i++) {
    final_copy *f = &p->finals[i];
    tensor to = p->results[f->result];
    to.data = (void *)(uintptr_t)externals[p->n_params + f->result];
    const kernel_args args = {.node = &p->copy_node,
                              .attrs = p->copy_node.attrs,
                              .in = &f->from,
                              .n_in = 1,
                              .out = &to,
                              .n_out = 1,
                              .state = f->state,
                              .symbols = p->symbols,
                              .device = p->device,
                              .stream = stream};
    KILN_TRY(p->copy_kernel->run(&args));
  }
  return KILN_OK;
}

/* ---- reports ----------------------------------------------------------------------------------------------------- */

static double tensor_bytes(const tensor *t) {
  return t->rank < 0 ? 0 : (double)tensor_numel(t) * (double)kiln_dtype_size(t->dtype);
}

/* 2 operations for each multiply-add; transcendental functions count as nothing. */
void step_estimate(step *s) {
  const kernel_args *a = &s->args;
  for (int32_t i = 0; i < a->n_in; i++) s->bytes += tensor_bytes(&a->in[i]);
  for (int32_t i = 0; i < a->n_out; i++) s->bytes += tensor_bytes(&a->out[i]);
  const char *op_name = s->node->op->name;
  const double out = a->n_out ? (double)tensor_numel(&a->out[0]) : 0;
  if (strcmp(op_name, "conv") == 0) {
    const tensor *w = &a->in[1];
    const bool transposed = arg_bool(a, "transposed");
    const double per = (double)tensor_numel(w) / (double)(w->shape[0] ? w->shape[0] : 1);
    s->flops = 2 * per * (transposed ? (double)tensor_numel(&a->in[0]) : out);
  } else if (strcmp(op_name, "linear") == 0) {
    s->flops = 2 * out * (double)a->in[1].shape[1];
  } else if (strcmp(op_name, "matmul") == 0) {
    s->flops = 2 * out * (double)a->in[0].shape[a->in[0].rank - 1];
  } else if (strcmp(op_name, "attention") == 0) {
    const tensor *q = &a->in[0], *k = &a->in[1];
    s->flops = 2 * (double)k->shape[k->rank - 2] * ((double)tensor_numel(q) + out);
  } else {
    s->flops = out;
  }
}

void program_print_memory(const program *p, text *out) {
  text_printf(out, "arena %zu bytes, %d steps\n", p->arena_bytes, (int)p->n_steps);
  text_puts(out, "    offset       bytes   steps\n");
  for (int32_t i = 0; i < p->n_buffers; i++) {
    const buffer *b = &p->buffers[i];
    if (b->kind != BUFFER_ARENA || b->last < b->first) continue;
    const node *n = p->steps[b->first].node;
    text_printf(out, "%10zu  %10lld   %d..%d  %s %s\n", b->offset, (long long)b->bytes, (int)b->first, (int)b->last,
                n->op->name, n->path);
  }
}
