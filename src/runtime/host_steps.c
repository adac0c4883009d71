/* Steps on the CPU in a program on a device, see host_steps.h. */
#include "runtime/host_steps.h"

#include <string.h>

#include "backends/custom.h"
#include "base/memory.h"

typedef struct host_step {
  kernel_args args; /* of the CPU's kernel */
  size_t *at;       /* of in[], out[], workspace: bytes behind `memory`; SIZE_MAX: a constant, or absent */
  char *memory;     /* pinned; made in the first run */
  size_t bytes;
} host_step;

bool host_kernel(const target *t, const kernel *k) {
  if (!t->backend->device) return false;
  for (const kernel *const *row = t->backend->kernels; row && *row; row++) {
    if (*row == k) return false;
  }
  for (const kernel *const *row = custom_device_kernels; *row; row++) {
    if (*row == k) return false;
  }
  return true;
}

const kernel *host_kernel_here(const kernel *k) {
  target cpu;
  if (k == &reference_kernel) return k;
  if (target_parse("cpu", &cpu) != KILN_OK) {
    error_clear();
    return &reference_kernel;
  }
  return k->isa <= cpu.isa && !k->packing ? k : &reference_kernel;
}

static size_t bytes_of(const tensor *t) {
  return t->rank < 0 ? 0 : (size_t)tensor_numel(t) * kiln_dtype_size(t->dtype);
}

/* The kernel's operands: those that are constant are where they are, the others get a place in `memory`. */
static void place_tensors(host_step *h, const step *s) {
  const int32_t n_in = s->args.n_in;
  for (int32_t i = 0; i < n_in + s->args.n_out; i++) {
    tensor *t = i < n_in ? &h->args.in[i] : &h->args.out[i - n_in];
    const value *v = i < n_in && i < s->node->n_inputs ? s->node->inputs[i].v : NULL;
    h->at[i] = SIZE_MAX;
    t->data = NULL;
    if (t->rank < 0) continue;
    if (v && v->constant && v->constant->data && !v->constant->packing) {
      t->data = (void *)(uintptr_t)v->constant->data;
      continue;
    }
    h->at[i] = h->bytes;
    h->bytes += size_align(bytes_of(t), 64);
  }
}

kiln_status host_step_prepare(program *p, step *s) {
  host_step *h = s->host = ARENA_NEW(&p->arena, host_step);
  if (!h) return KILN_NO_MEMORY("program");
  h->args = s->args;
  h->args.in = arena_copy(&p->arena, s->args.in, (size_t)s->args.n_in * sizeof(tensor));
  h->args.out = arena_copy(&p->arena, s->args.out, (size_t)s->args.n_out * sizeof(tensor));
  h->at = ARENA_ARRAY(&p->arena, size_t, s->args.n_in + s->args.n_out + 1);
  if ((s->args.n_in && !h->args.in) || (s->args.n_out && !h->args.out) || !h->at) return KILN_NO_MEMORY("program");
  h->args.device = NULL;
  h->args.stream = NULL;
  place_tensors(h, s);
  if (s->kernel->prepare) {
    kernel_prep prep = {.args = h->args, .arena = &p->arena, .threads = p->threads, .kernel = s->kernel};
    KILN_TRY_NOTE(s->kernel->prepare(&prep), "preparing kernel %s of `%s` (%s), which runs on the CPU", s->kernel->name,
                  s->node->op->name, s->node->path);
    h->args.state = prep.state;
    h->args.workspace_size = prep.workspace_size;
  }
  h->at[s->args.n_in + s->args.n_out] = h->bytes;
  h->bytes += size_align(h->args.workspace_size, 64);
  return KILN_OK;
}

static kiln_status reserve(program *p, host_step *h, int32_t n_in, int32_t n_out) {
  void *memory = NULL;
  if (h->memory) return KILN_OK;
  KILN_TRY(p->target->backend->device->host_allocate(p->device, h->bytes ? h->bytes : 64, &memory));
  h->memory = memory;
  for (int32_t i = 0; i < n_in + n_out; i++) {
    tensor *t = i < n_in ? &h->args.in[i] : &h->args.out[i - n_in];
    if (h->at[i] != SIZE_MAX) t->data = h->memory + h->at[i];
  }
  if (h->args.workspace_size) h->args.workspace = h->memory + h->at[n_in + n_out];
  return KILN_OK;
}

kiln_status host_step_run(program *p, step *s) {
  const device_hooks *hooks = p->target->backend->device;
  host_step *h = s->host;
  const int32_t n_in = s->args.n_in, n_out = s->args.n_out;
  KILN_TRY(reserve(p, h, n_in, n_out));
  for (int32_t i = 0; i < n_in; i++) {
    if (h->at[i] == SIZE_MAX) continue;
    KILN_TRY(hooks->download(p->device, p->stream, h->args.in[i].data, s->args.in[i].data, bytes_of(&h->args.in[i])));
  }
  KILN_TRY(hooks->synchronize(p->device, p->stream));
  const kiln_status status = s->kernel->run(&h->args);
  if (status != KILN_OK)
    return error_note(status, __FILE__, __LINE__, "running `%s` (%s at %s) on the CPU", s->node->op->name,
                      s->node->path, s->node->source);
  for (int32_t i = 0; i < n_out; i++)
    KILN_TRY(hooks->upload(p->device, p->stream, s->args.out[i].data, h->args.out[i].data, bytes_of(&h->args.out[i])));
  return hooks->synchronize(p->device, p->stream); /* now `memory` may go or be used again */
}

void host_step_free(program *p, step *s) {
  if (!s->host || !s->host->memory) return;
  p->target->backend->device->host_release(p->device, s->host->memory);
  s->host->memory = NULL;
}
