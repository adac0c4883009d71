/* Stages: a size that depends on data ends a program (docs/decisions/0006). The nodes up to the one that defines the
 * size are one program; when they have run, the size is measured, and the rest, beginning with that node, is a program
 * of its own in which one more symbol is known. A program keeps the few that followed it last, so that sizes that come
 * again need no binding. */
#include "runtime/stages.h"

#include <string.h>

#include "base/memory.h"

enum { KEPT = 4, MAX_STAGES = 64 };

typedef struct follower {
  program *program;
  void *memory;
  uint64_t last_use;
} follower;

struct stage_exit {
  value **values;  /* the next stage's parameters */
  int32_t *source; /* each one's place: parameter n of this stage, or (~n) result n */
  int32_t count;
  tensor *params, *results; /* of this run: the next stage's, this stage's */
  kernel_args measure;
  int32_t *operands; /* of the measured node: index in `values`, or -1 */
  int symbol;        /* that the node defines, or -1 */
  int64_t *symbols;
  follower kept[KEPT];
  program *current; /* what followed in the last run */
  uint64_t clock;
  tensor *declared; /* the graph's results; sizes that are not known yet are -1 */
  void *scratch;    /* devices: the measured operands, in host memory */
  size_t scratch_bytes;
};

/* ---- what crosses ------------------------------------------------------------------------------------------------ */

const node *stage_barrier(const graph *g, const node *first) {
  for (const node *n = first ? first->next : g->body.first; n; n = n->next) {
    if (n->op->flags & OP_DATA_DEPENDENT) return n;
  }
  return NULL;
}

typedef struct crossing {
  program *p;
  stage_exit *x;
  int32_t *at; /* value id -> 1 + index among the values that cross */
  int32_t capacity;
  bool failed;
} crossing;

/* `v` is read behind the barrier. Values that are not known here are made there. */
static void cross(crossing *c, value *v) {
  program *p = c->p;
  if (!v || v->constant || !p->slots[v->id].known || c->at[v->id] || c->failed) return;
  if (v->producer && v->producer->parent != &p->graph->body) return;
  int32_t source = -1;
  for (int32_t i = 0; i < p->n_params && source < 0; i++) source = p->param_values[i] == v ? i : -1;
  if (c->x->count == c->capacity) {
    const int32_t wanted = c->capacity * 2 + 16;
    value **values = ARENA_ARRAY(&p->arena, value *, wanted), **results = ARENA_ARRAY(&p->arena, value *, wanted);
    int32_t *sources = ARENA_ARRAY(&p->arena, int32_t, wanted);
    if (!values || !results || !sources) {
      c->failed = true;
      return;
    }
    if (c->x->count) {
      memcpy(values, c->x->values, (size_t)c->x->count * sizeof *values);
      memcpy(sources, c->x->source, (size_t)c->x->count * sizeof *sources);
      if (p->n_results) memcpy(results, p->result_values, (size_t)p->n_results * sizeof *results);
    }
    c->x->values = values;
    c->x->source = sources;
    p->result_values = results;
    c->capacity = wanted;
  }
  if (source < 0) {
    p->result_values[p->n_results] = v;
    source = ~p->n_results++;
  }
  c->x->source[c->x->count] = source;
  c->x->values[c->x->count++] = v;
  c->at[v->id] = c->x->count;
}

static void cross_block(crossing *c, const block *b, const node *from) {
  for (const node *n = from; n; n = n->next) {
    for (int32_t i = 0; i < n->n_inputs; i++) cross(c, n->inputs[i].v);
    for (int32_t i = 0; i < n->n_blocks; i++) cross_block(c, n->blocks[i], n->blocks[i]->first);
  }
  for (int32_t i = 0; i < b->n_results; i++) cross(c, b->results[i].v);
}

/* The measured node's operands: from what crosses, or constants. */
static kiln_status prepare_measure(program *p, stage_exit *x, const int32_t *at) {
  const node *n = p->barrier;
  kernel_args *a = &x->measure;
  if (!n->op->measure)
    return KILN_FAIL(KILN_UNSUPPORTED,
                     "`%s` (%s at %s) has a result whose size depends on data in a way that engines cannot measure",
                     n->op->name, n->path, n->source);
  *a = (kernel_args){.node = n, .attrs = n->attrs, .n_in = n->n_inputs, .symbols = p->symbols};
  a->in = ARENA_ARRAY(&p->arena, tensor, n->n_inputs + 1);
  x->operands = ARENA_ARRAY(&p->arena, int32_t, n->n_inputs + 1);
  if (!a->in || !x->operands) return KILN_NO_MEMORY("program");
  for (int32_t i = 0; i < n->n_inputs; i++) {
    const value *v = n->inputs[i].v;
    x->operands[i] = v && !v->constant ? at[v->id] - 1 : -1;
    a->in[i].rank = -1;
    if (v && v->constant) KILN_TRY(program_constant_tensor(p, v, &a->in[i]));
    if (v && v->constant && p->device) a->in[i].data = (void *)(uintptr_t)v->constant->data; /* measured on the host */
    if (v && !v->constant && x->operands[i] < 0)
      return KILN_FAIL(KILN_INTERNAL, "`%s`: an operand is used before it is made", n->op->name);
  }
  x->symbol = dim_symbol_index(p->graph->dims, op_defined_size(n));
  return KILN_OK;
}

static kiln_status declare_results(program *p, stage_exit *x) {
  const block *b = &p->graph->body;
  x->declared = ARENA_ARRAY(&p->arena, tensor, b->n_results + 1);
  if (!x->declared) return KILN_NO_MEMORY("program");
  for (int32_t i = 0; i < b->n_results; i++) {
    const tensor_type *type = &b->results[i].v->type;
    tensor *t = &x->declared[i];
    *t = (tensor){.dtype = type->dtype, .rank = type->rank};
    for (int d = 0; d < t->rank; d++) {
      if (!dim_eval(p->graph->dims, type->dims[d], p->symbols, &t->shape[d])) t->shape[d] = -1;
    }
    tensor_make_contiguous_strides(t);
  }
  return KILN_OK;
}

kiln_status stage_exit_bind(program *p) {
  const graph *g = p->graph;
  stage_exit *x = ARENA_NEW(&p->arena, stage_exit);
  crossing c = {.p = p, .x = x, .at = ARENA_ARRAY(&p->arena, int32_t, g->next_id + 1)};
  if (!x || !c.at) return KILN_NO_MEMORY("program");
  if (p->stage >= MAX_STAGES)
    return KILN_FAIL(KILN_UNSUPPORTED, "the model has more than %d operators with a result whose size depends on data",
                     MAX_STAGES);
  p->exit = x;
  p->result_values = NULL;
  p->n_results = 0;
  cross_block(&c, &g->body, p->barrier);
  if (c.failed) return KILN_NO_MEMORY("program");
  x->params = ARENA_ARRAY(&p->arena, tensor, x->count + 1);
  x->results = ARENA_ARRAY(&p->arena, tensor, p->n_results + 1);
  x->symbols = ARENA_ARRAY(&p->arena, int64_t, dim_symbol_count(g->dims) + 1);
  if (!x->params || !x->results || !x->symbols) return KILN_NO_MEMORY("program");
  KILN_TRY(prepare_measure(p, x, c.at));
  return declare_results(p, x);
}

static void drop(follower *f) {
  program *p = f->program;
  if (p && p->device)
    p->target->backend->device->release(p->device, f->memory, program_arena_bytes(p));
  else
    mem_free_aligned(f->memory);
  program_destroy(p);
  *f = (follower){0};
}

void stage_exit_free(stage_exit *x) {
  for (int i = 0; x && i < KEPT; i++) drop(&x->kept[i]);
  if (x) mem_free_aligned(x->scratch);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static size_t bytes_of(const tensor *t) { return (size_t)tensor_numel(t) * kiln_dtype_size(t->dtype); }

/* Copies the operands that are on the device to the host: measuring waits for what makes them. They are dense. */
static kiln_status fetch_operands(program *p, stage_exit *x, void *stream) {
  const device_hooks *h = p->target->backend->device;
  size_t bytes = 0;
  for (int32_t i = 0; i < p->barrier->n_inputs; i++) {
    if (x->operands[i] >= 0) bytes += size_align(bytes_of(&x->measure.in[i]), 64);
  }
  if (bytes > x->scratch_bytes) {
    mem_free_aligned(x->scratch);
    x->scratch_bytes = 0;
    if (!(x->scratch = mem_alloc_aligned(bytes))) return KILN_NO_MEMORY("measuring a size");
    x->scratch_bytes = bytes;
  }
  char *at = x->scratch;
  for (int32_t i = 0; i < p->barrier->n_inputs; i++) {
    tensor *t = &x->measure.in[i];
    if (x->operands[i] < 0) continue;
    KILN_TRY(h->download(p->device, stream, at, t->data, bytes_of(t)));
    t->data = at;
    at += size_align(bytes_of(t), 64);
  }
  return h->synchronize(p->device, stream);
}

static kiln_status measure(program *p, stage_exit *x, void *stream) {
  const graph *g = p->graph;
  const node *n = p->barrier;
  int64_t size = 0, min = 0, max = 0, opt = 0;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    if (x->operands[i] >= 0) x->measure.in[i] = x->params[x->operands[i]];
  }
  if (p->device) KILN_TRY(fetch_operands(p, x, stream));
  const kiln_status status = n->op->measure(&x->measure, &size);
  if (status != KILN_OK)
    return error_note(status, __FILE__, __LINE__, "measuring the result of `%s` (%s at %s)", n->op->name, n->path,
                      n->source);
  memcpy(x->symbols, p->symbols, (size_t)dim_symbol_count(g->dims) * sizeof *x->symbols);
  if (x->symbol < 0) return KILN_OK; /* a constant: its kernel checks it */
  dim_symbol_range(g->dims, x->symbol, &min, &max, &opt);
  int64_t *known = &x->symbols[x->symbol];
  if (size < min || size > max || (*known != DIM_ERROR && *known != size))
    return KILN_FAIL(KILN_INVALID_ARGUMENT,
                     "`%s` (%s at %s): the data gives a size of %lld, which the model does not allow", n->op->name,
                     n->path, n->source, (long long)size);
  *known = size;
  return KILN_OK;
}

static kiln_status find_follower(program *p, stage_exit *x, follower **out) {
  const size_t bytes = (size_t)dim_symbol_count(p->graph->dims) * sizeof(int64_t);
  follower *oldest = &x->kept[0];
  for (int i = 0; i < KEPT; i++) {
    follower *f = &x->kept[i];
    if (f->program && memcmp(f->program->symbols, x->symbols, bytes) == 0) {
      *out = f;
      return KILN_OK;
    }
    if (!f->program || (oldest->program && f->last_use < oldest->last_use)) oldest = f;
  }
  x->current = NULL;
  drop(oldest);
  KILN_TRY(guards_hold(p->graph, x->symbols));
  KILN_TRY(program_create_stage(p, p->barrier, x->values, x->count, x->symbols, &oldest->program));
  const size_t needed = program_arena_bytes(oldest->program);
  kiln_status status = KILN_OK;
  if (p->device) {
    status = p->target->backend->device->allocate(p->device, needed, "the arena of a later stage", &oldest->memory);
  } else if (!(oldest->memory = mem_alloc_aligned(needed))) {
    status = KILN_FAIL(KILN_OUT_OF_MEMORY, "no memory for an arena of %zu bytes", needed);
  }
  if (status != KILN_OK) {
    drop(oldest);
    return status;
  }
  *out = oldest;
  return KILN_OK;
}

kiln_status stage_advance(program *p, const tensor *params, const tensor *results, void *stream, bool profile,
                          stage_start *out) {
  stage_exit *x = p->exit;
  follower *f = NULL;
  for (int32_t i = 0; i < x->count; i++)
    x->params[i] = x->source[i] >= 0 ? params[x->source[i]] : results[~x->source[i]];
  KILN_TRY(measure(p, x, stream));
  KILN_TRY(find_follower(p, x, &f));
  f->last_use = ++x->clock;
  if (profile && x->current != f->program) program_profile_clear(f->program);
  x->current = f->program;
  *out = (stage_start){f->program, f->memory, x->params};
  return KILN_OK;
}

kiln_status stage_run(program *p, void *memory, const tensor *params, tensor *results, pool *workers, bool profile) {
  stage_exit *x = p->exit;
  stage_start next;
  for (int32_t i = 0; i < p->n_results; i++) x->results[i] = (tensor){0};
  KILN_TRY(program_run_steps(p, memory, params, x->results, workers, profile));
  KILN_TRY(stage_advance(p, params, x->results, NULL, profile, &next));
  return program_run(next.program, next.memory, next.params, results, workers, profile);
}

tensor *stage_results(const program *p) { return p->exit->results; }
program *stage_following(const program *p) { return p->exit ? p->exit->current : NULL; }
const tensor *stage_declared(const program *p, int index) { return &p->exit->declared[index]; }

/* ---- sizes that must be equal ------------------------------------------------------------------------------------ */

kiln_status guards_hold(const graph *g, const int64_t *symbols) {
  bool all_known = true;
  for (int i = 0; i < dim_symbol_count(g->dims); i++) all_known = all_known && symbols[i] != DIM_ERROR;
  for (int32_t i = 0; i < g->n_guards; i++) {
    int64_t a = 0, b = 0;
    const bool known =
        dim_eval(g->dims, g->guards[i][0], symbols, &a) && dim_eval(g->dims, g->guards[i][1], symbols, &b);
    if (known ? a == b : !all_known) continue;
    text t = {0};
    dim_print(g->dims, g->guards[i][0], &t);
    text_puts(&t, " and ");
    dim_print(g->dims, g->guards[i][1], &t);
    const kiln_status status = KILN_FAIL(
        KILN_INVALID_ARGUMENT, "the model needs the sizes %s to be equal; with these inputs they are %lld and %lld",
        t.data ? t.data : "?", (long long)a, (long long)b);
    text_free(&t);
    return status;
  }
  return KILN_OK;
}
