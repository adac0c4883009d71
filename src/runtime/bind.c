/* Binding: a planned graph and concrete shapes become a program.
 *
 * The idea: every value gets a place (buffer + byte offset + strides) before any kernel is prepared. Views cost
 * nothing, they are places inside another value's buffer; the inputs of a concat are written where the concat wants
 * them when their kernels can write strided; a kernel that needs contiguous operands gets a copy. Then lifetimes of
 * buffers follow from the steps, and the memory planner places them (lives.c). Control flow is a flat list of steps
 * with jumps. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "ops/ref.h"
#include "plan/memory_plan.h"
#include "runtime/host_steps.h"
#include "runtime/stages.h"

/* ---- growing arrays ---------------------------------------------------------------------------------------------- */

static bool grow(arena *a, void **items, int32_t count, int32_t *capacity, size_t size) {
  if (count < *capacity) return true;
  const int32_t wanted = *capacity ? *capacity * 2 : 64;
  void *grown = arena_array(a, (size_t)wanted, size);
  if (!grown) return false;
  if (count) memcpy(grown, *items, (size_t)count * size);
  *items = grown;
  *capacity = wanted;
  return true;
}

static int32_t buffer_new(program *p, buffer_kind kind, int32_t index, int64_t bytes) {
  if (!grow(&p->arena, (void **)&p->buffers, p->n_buffers, &p->buffer_capacity, sizeof *p->buffers)) return -1;
  p->buffers[p->n_buffers] = (buffer){kind, index, bytes, INT32_MAX, -1, 0};
  return p->n_buffers++;
}

static step *step_new(program *p, step_kind kind) {
  if (!grow(&p->arena, (void **)&p->steps, p->n_steps, &p->step_capacity, sizeof *p->steps)) return NULL;
  step *s = &p->steps[p->n_steps++];
  *s = (step){.kind = kind};
  return s;
}

/* ---- concrete types ---------------------------------------------------------------------------------------------- */

static kiln_status tensor_bind(program *p, const tensor_type *type, tensor *out, int64_t *out_bytes) {
  *out = (tensor){.dtype = type->dtype, .rank = type->rank};
  size_t bytes = kiln_dtype_size(type->dtype);
  for (int i = 0; i < type->rank; i++) {
    int64_t n = 0;
    if (!dim_eval(p->graph->dims, type->dims[i], p->symbols, &n) || n < 0) {
      text t = {0};
      type_print(p->graph, type, &t);
      const kiln_status status = KILN_FAIL(
          KILN_INVALID_ARGUMENT, "at these input shapes a tensor of type %s has no valid size in dimension %d",
          t.data ? t.data : "?", i);
      text_free(&t);
      return status;
    }
    out->shape[i] = n;
    if (!size_mul(bytes, (size_t)n, &bytes)) bytes = SIZE_MAX;
  }
  if (bytes > (size_t)1 << 46) return KILN_FAIL(KILN_INVALID_ARGUMENT, "a tensor would need %zu bytes or more", bytes);
  tensor_make_contiguous_strides(out);
  *out_bytes = (int64_t)bytes;
  return KILN_OK;
}

/* Attributes with every symbolic size evaluated. */
kiln_status attrs_bind(arena *a, const graph *g, const node *n, const int64_t *symbols, const attr **out) {
  const int32_t count = op_schema_of(n->op)->n_attrs;
  attr *bound = arena_copy(a, n->attrs, (size_t)count * sizeof *bound);
  if (!bound) return KILN_NO_MEMORY("program");
  for (int32_t i = 0; i < count; i++) {
    bool ok = true;
    if (bound[i].kind == ATTR_INT) {
      ok = dim_eval(g->dims, bound[i].u.i, symbols, &bound[i].u.i);
    } else if (bound[i].kind == ATTR_INTS && bound[i].count) {
      int64_t *list = ARENA_ARRAY(a, int64_t, bound[i].count);
      if (!list) return KILN_NO_MEMORY("program");
      for (int32_t k = 0; ok && k < bound[i].count; k++)
        ok = dim_eval(g->dims, n->attrs[i].u.ints[k], symbols, &list[k]);
      bound[i].u.ints = list;
    }
    if (!ok)
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s %s: attribute `%s` has no value at these input shapes", n->op->name,
                       n->path, op_schema_of(n->op)->attrs[i].name);
  }
  *out = bound;
  return KILN_OK;
}

/* ---- slots ------------------------------------------------------------------------------------------------------- */

static kiln_status slot_of(program *p, const value *v, slot **out) {
  slot *s = &p->slots[v->id];
  if (!s->known) {
    if (!v->constant) return KILN_FAIL(KILN_INTERNAL, "value %u is used before it is made", v->id);
    int64_t bytes = 0;
    KILN_TRY(tensor_bind(p, &v->type, &s->t, &bytes));
    s->t.data = (void *)(uintptr_t)v->constant->data;
    if (p->device) {
      const size_t stored = v->constant->packing ? v->constant->size : (size_t)bytes;
      KILN_TRY(p->target->backend->device->constant(p->device, v->constant->data, stored, &s->t.data));
      p->constants[p->n_constants++] = v->constant->data;
    }
    s->t.packing = v->constant->packing;
    s->at = (place){-1, 0};
    s->known = true;
  }
  *out = s;
  return KILN_OK;
}

/* What the plan chose for the program's optimization profile. */
static const char *tactic_of(const program *p, const node *n) {
  return p->profile > 0 && p->profile <= n->n_more_tactics ? n->more_tactics[p->profile - 1] : n->tactic;
}

static const kernel *kernel_of(const program *p, const node *n) {
  const char *tactic = tactic_of(p, n);
  const kernel *k = tactic ? kernel_find(n->op->name, tactic) : NULL;
  return k ? k : &reference_kernel;
}

static bool takes_strided(uint32_t mask, int index) { return index >= 31 ? mask >> 31 : (mask >> index) & 1; }

/* What runs on the CPU beside a device takes and gives contiguous tensors only. */
static bool reads_strided(const program *p, const node *n, int index) {
  const kernel *k = kernel_of(p, n);
  return takes_strided(k->strided_in, index) && !host_kernel(p->target, k);
}
static bool writes_strided(const program *p, const node *n, int index) {
  const kernel *k = kernel_of(p, n);
  return takes_strided(k->strided_out, index) && !host_kernel(p->target, k);
}

static bool node_is_view(const node *n) { return (n->op->flags & OP_VIEW) && n->op->view && !n->epilogue; }

/* A concat that is only places and copies. */
static bool node_is_concat(const node *n) { return strcmp(n->op->name, "concat") == 0 && !n->epilogue; }

/* Can every reader of `v` take any strides? Readers that are views do not count. */
static bool readers_take_strided(const program *p, const value *v) {
  for (const use *u = v->uses; u; u = u->next) {
    if (u->result_of || node_is_concat(u->user)) continue;
    if (node_is_view(u->user) || !reads_strided(p, u->user, u->index)) return false;
  }
  return true;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static kiln_status step_arrays(program *p, step *s, int n_in, int n_out) {
  s->args.in = ARENA_ARRAY(&p->arena, tensor, n_in + 1);
  s->args.out = ARENA_ARRAY(&p->arena, tensor, n_out + 1);
  s->places = ARENA_ARRAY(&p->arena, place, n_in + n_out + 1);
  if (!s->args.in || !s->args.out || !s->places) return KILN_NO_MEMORY("program");
  s->args.n_in = n_in;
  s->args.n_out = n_out;
  for (int i = 0; i <= n_in + n_out; i++) s->places[i] = (place){-1, 0};
  return KILN_OK;
}

static kiln_status add_copy(program *p, const slot *from, const slot *to, const node *why) {
  step *s = step_new(p, STEP_KERNEL);
  if (!s) return KILN_NO_MEMORY("program");
  KILN_TRY(step_arrays(p, s, 1, 1));
  (void)why;
  s->node = &p->copy_node;
  s->kernel = p->copy_kernel;
  s->args.node = &p->copy_node;
  s->args.in[0] = from->t;
  s->args.out[0] = to->t;
  s->places[0] = from->at;
  s->places[1] = to->at;
  return KILN_OK;
}

static kiln_status contiguous_copy(program *p, const slot *from, const node *why, slot *out) {
  *out = *from;
  tensor_make_contiguous_strides(&out->t);
  const int64_t bytes = tensor_numel(&from->t) * (int64_t)kiln_dtype_size(from->t.dtype);
  out->at = (place){buffer_new(p, BUFFER_ARENA, 0, bytes), 0};
  out->t.data = NULL;
  if (out->at.buffer < 0) return KILN_NO_MEMORY("program");
  return add_copy(p, from, out, why);
}

/* Places the inputs of `n` (a concat) inside its output where their producers can write there. `out` is the output's
 * slot. */
static void place_concat_inputs(program *p, const node *n, const slot *out) {
  const int64_t axis = node_int(n, "axis");
  int64_t at = 0;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    const value *v = n->inputs[i].v;
    int64_t size = 0;
    if (!dim_eval(p->graph->dims, v->type.dims[axis], p->symbols, &size)) return;
    slot *s = &p->slots[v->id];
    const node *m = v->producer;
    const bool can = m && !s->known && m->parent == n->parent && !node_is_view(m) &&
                     strcmp(m->op->name, "while") != 0 && m->n_outputs == 1 && strcmp(m->op->name, "concat") != 0 &&
                     writes_strided(p, m, 0) && readers_take_strided(p, v);
    if (can) {
      int64_t bytes = 0;
      if (tensor_bind(p, &v->type, &s->t, &bytes) != KILN_OK) return;
      for (int d = 0; d < s->t.rank; d++) s->t.strides[d] = out->t.strides[d];
      s->at =
          (place){out->at.buffer, out->at.offset + at * out->t.strides[axis] * (int64_t)kiln_dtype_size(out->t.dtype)};
      s->known = true;
    }
    at += size;
  }
}

static bool is_prefix(const node *n, const node *of) {
  if (!node_is_concat(of) || of->parent != n->parent || of->n_inputs <= n->n_inputs ||
      node_int(of, "axis") != node_int(n, "axis"))
    return false;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    if (n->inputs[i].v != of->inputs[i].v) return false;
  }
  return true;
}

/* A concat whose inputs are the first of a later one's lies inside that one's output: dense blocks make such chains. */
static bool place_in_longer(program *p, const node *n) {
  slot *out = &p->slots[n->outputs[0]->id];
  if (!readers_take_strided(p, n->outputs[0])) return false;
  for (const use *u = n->inputs[0].v->uses; u; u = u->next) {
    if (u->result_of || u->user == n || !is_prefix(n, u->user)) continue;
    const slot *longer = &p->slots[u->user->outputs[0]->id];
    if (!longer->known || longer->at.buffer < 0) continue;
    for (int d = 0; d < out->t.rank; d++) out->t.strides[d] = longer->t.strides[d];
    out->at = longer->at;
    return true;
  }
  return false;
}

/* How many of the inputs an earlier concat has put where `n` wants them. */
static int32_t already_placed(const program *p, const node *n) {
  const slot *out = &p->slots[n->outputs[0]->id];
  int32_t most = 0;
  for (const use *u = n->inputs[0].v->uses; u; u = u->next) {
    if (u->result_of || u->user == n || u->user->n_inputs <= most || !node_is_concat(u->user)) continue;
    if (!is_prefix(u->user, n)) continue;
    const slot *in = &p->slots[u->user->outputs[0]->id];
    if (in->known && in->at.buffer == out->at.buffer && in->at.offset == out->at.offset) most = u->user->n_inputs;
  }
  return most;
}

/* Gives concat outputs their buffers before their inputs' producers are reached. */
static kiln_status place_concats(program *p, const node *first, const node *last) {
  for (const node *n = last; n; n = n != first ? n->prev : NULL) {
    if (!node_is_concat(n)) continue;
    slot *out = &p->slots[n->outputs[0]->id];
    int64_t bytes = 0;
    if (out->known) continue;
    KILN_TRY(tensor_bind(p, &n->outputs[0]->type, &out->t, &bytes));
    if (!place_in_longer(p, n)) {
      out->at = (place){buffer_new(p, BUFFER_ARENA, 0, bytes), 0};
      if (out->at.buffer < 0) return KILN_NO_MEMORY("program");
    }
    out->known = true;
    place_concat_inputs(p, n, out);
  }
  return KILN_OK;
}

static kiln_status bind_view(program *p, const node *n) {
  slot *in = NULL;
  KILN_TRY(slot_of(p, n->inputs[0].v, &in));
  slot *out = &p->slots[n->outputs[0]->id];
  int64_t bytes = 0;
  KILN_TRY(tensor_bind(p, &n->outputs[0]->type, &out->t, &bytes));
  kernel_args args = {.node = n, .in = &in->t, .n_in = 1, .out = &out->t, .n_out = 1, .symbols = p->symbols};
  KILN_TRY(attrs_bind(&p->arena, p->graph, n, p->symbols, &args.attrs));
  slot source = *in;
  /* The view function moves `data`; a base of 1 stands for addresses that are not known yet, and keeps NULL for
   * "absent". */
  char *const base = (char *)(uintptr_t)4096;
  source.t.data = base;
  if (!n->op->view(&args, &source.t, &out->t)) {
    KILN_TRY(contiguous_copy(p, in, n, &source));
    source.t.data = base;
    out = &p->slots[n->outputs[0]->id];
    if (!n->op->view(&args, &source.t, &out->t))
      return KILN_FAIL(KILN_INTERNAL, "%s: no view of a contiguous tensor", n->op->name);
  }
  const int64_t moved = (int64_t)((uintptr_t)out->t.data - (uintptr_t)base);
  out->at = (place){source.at.buffer, source.at.offset + moved};
  out->t.data = source.at.buffer < 0 ? (char *)in->t.data + moved : NULL;
  out->known = true;
  return KILN_OK;
}

/* All concat inputs that already are where the output wants them need no step of their own; the rest are copied there.
 */
static kiln_status bind_concat(program *p, const node *n) {
  const slot out = p->slots[n->outputs[0]->id];
  const int64_t axis = node_int(n, "axis"), element = (int64_t)kiln_dtype_size(out.t.dtype);
  const int32_t placed = already_placed(p, n);
  int64_t at = 0;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    slot *in = NULL;
    KILN_TRY(slot_of(p, n->inputs[i].v, &in));
    slot part = out;
    memcpy(part.t.shape, in->t.shape, sizeof part.t.shape);
    part.at.offset = out.at.offset + at * out.t.strides[axis] * element;
    at += in->t.shape[axis];
    const bool there =
        in->at.buffer == part.at.buffer && in->at.offset == part.at.offset && tensor_same_layout(&in->t, &part.t);
    if (!there && i >= placed) KILN_TRY(add_copy(p, in, &part, n));
  }
  return KILN_OK;
}

static kiln_status bind_block(program *p, const block *b);

/* Copies a block's results into the outputs of its `if`. */
static kiln_status bind_branch(program *p, const block *b, const node *n) {
  KILN_TRY(bind_block(p, b));
  for (int32_t i = 0; i < b->n_results; i++) {
    slot *from = NULL;
    KILN_TRY(slot_of(p, b->results[i].v, &from));
    slot *to = &p->slots[n->outputs[i]->id];
    if (!to->known) {
      int64_t bytes = 0;
      KILN_TRY(tensor_bind(p, &n->outputs[i]->type, &to->t, &bytes));
      to->at = (place){buffer_new(p, BUFFER_ARENA, 0, bytes), 0};
      if (to->at.buffer < 0) return KILN_NO_MEMORY("program");
      to->known = true;
    }
    KILN_TRY(add_copy(p, from, to, n));
  }
  return KILN_OK;
}

static kiln_status add_jump(program *p, const node *n, int32_t to) {
  step *s = step_new(p, STEP_JUMP);
  if (!s) return KILN_NO_MEMORY("program");
  s->node = n;
  s->target = to;
  return step_arrays(p, s, 0, 0);
}

/* `out_step`: its target is still to be set. */
static kiln_status add_jump_if_false(program *p, const node *n, const value *condition, int32_t *out_step) {
  slot *c = NULL;
  KILN_TRY(slot_of(p, condition, &c));
  step *s = step_new(p, STEP_JUMP_IF_FALSE);
  if (!s) return KILN_NO_MEMORY("program");
  KILN_TRY(step_arrays(p, s, 1, 0));
  s->node = n;
  s->args.in[0] = c->t;
  s->places[0] = c->at;
  *out_step = p->n_steps - 1;
  return KILN_OK;
}

static kiln_status bind_if(program *p, const node *n) {
  int32_t branch = 0;
  KILN_TRY(add_jump_if_false(p, n, n->inputs[0].v, &branch));
  for (int k = 0; k < 2; k++) { /* block parameters are the operands after the condition */
    for (int32_t i = 0; i < n->blocks[k]->n_params; i++) {
      slot *from = NULL;
      KILN_TRY(slot_of(p, n->inputs[1 + i].v, &from));
      p->slots[n->blocks[k]->params[i]->id] = *from;
    }
  }
  KILN_TRY(bind_branch(p, n->blocks[0], n));
  KILN_TRY(add_jump(p, n, 0));
  const int32_t jump = p->n_steps - 1;
  p->steps[branch].target = p->n_steps;
  KILN_TRY(bind_branch(p, n->blocks[1], n));
  p->steps[jump].target = p->n_steps;
  return KILN_OK;
}

/* Each carried value has one buffer for the whole loop: the parameters of both blocks and the node's results are all
 * there. The buffers are `*out_first` and the ones after it. */
static kiln_status bind_carried(program *p, const node *n, int32_t *out_first) {
  for (int32_t i = 0; i < n->n_outputs; i++) {
    slot *from = NULL, to = {.known = true};
    int64_t bytes = 0;
    KILN_TRY(slot_of(p, n->inputs[i].v, &from));
    KILN_TRY(tensor_bind(p, &n->outputs[i]->type, &to.t, &bytes));
    to.at = (place){buffer_new(p, BUFFER_ARENA, 0, bytes), 0};
    if (to.at.buffer < 0) return KILN_NO_MEMORY("program");
    if (i == 0) *out_first = to.at.buffer;
    KILN_TRY(add_copy(p, from, &to, n));
    p->slots[n->outputs[i]->id] = to;
    for (int k = 0; k < 2; k++) p->slots[n->blocks[k]->params[i]->id] = to;
  }
  return KILN_OK;
}

typedef struct carry { /* one assignment at the end of the body */
  slot from;
  int32_t waits; /* pending assignments that still read the buffer to be written */
  bool pending;
} carry;

static bool same_place(const slot *a, const slot *b) {
  return a->at.buffer == b->at.buffer && a->at.offset == b->at.offset && tensor_same_layout(&a->t, &b->t);
}

static int32_t carried_index(const slot *s, int32_t first, int32_t count) {
  return s->at.buffer >= first && s->at.buffer < first + count ? s->at.buffer - first : -1;
}

/* The body's results may be carried values themselves (a swap, say), or views of them: the assignments act as if all
 * were done at once. Those whose target nobody reads any more go first; a cycle is opened with a copy. */
static kiln_status bind_assignments(program *p, const node *n, int32_t first) {
  const int32_t count = n->n_outputs;
  carry *carries = ARENA_ARRAY(&p->arena, carry, count + 1);
  if (!carries) return KILN_NO_MEMORY("program");
  int32_t left = 0;
  for (int32_t i = 0; i < count; i++) {
    slot *from = NULL;
    KILN_TRY(slot_of(p, n->blocks[1]->results[i].v, &from));
    carries[i].from = *from;
    carries[i].pending = !same_place(from, &p->slots[n->outputs[i]->id]);
    if (!carries[i].pending) continue;
    left++;
    const int32_t source = carried_index(from, first, count);
    if (source >= 0) carries[source].waits++;
  }
  while (left > 0) {
    int32_t pick = -1;
    for (int32_t i = 0; i < count && (pick < 0 || carries[pick].waits); i++) {
      if (carries[i].pending && (pick < 0 || !carries[i].waits)) pick = i;
    }
    carry *c = &carries[pick];
    for (int32_t i = 0; i < count && c->waits; i++) { /* whoever still reads the target gets a copy of it */
      carry *reader = &carries[i];
      if (!reader->pending || carried_index(&reader->from, first, count) != pick) continue;
      const slot from = reader->from;
      KILN_TRY(contiguous_copy(p, &from, n, &reader->from));
      c->waits--;
    }
    const int32_t source = carried_index(&c->from, first, count);
    KILN_TRY(add_copy(p, &c->from, &p->slots[n->outputs[pick]->id], n));
    if (source >= 0) carries[source].waits--;
    c->pending = false;
    left--;
  }
  return KILN_OK;
}

/* Copies of the first values; then, at `head`, the condition, a jump behind the loop, the body, the assignments, a jump
 * to `head`. */
static kiln_status bind_while(program *p, const node *n) {
  int32_t first = -1, leave = 0;
  KILN_TRY(bind_carried(p, n, &first));
  const int32_t head = p->n_steps;
  KILN_TRY(bind_block(p, n->blocks[0]));
  KILN_TRY(add_jump_if_false(p, n, n->blocks[0]->results[0].v, &leave));
  KILN_TRY(bind_block(p, n->blocks[1]));
  KILN_TRY(bind_assignments(p, n, first));
  KILN_TRY(add_jump(p, n, head));
  p->steps[leave].target = p->n_steps;
  if (!grow(&p->arena, (void **)&p->loops, p->n_loops, &p->loop_capacity, sizeof *p->loops))
    return KILN_NO_MEMORY("program");
  p->loops[p->n_loops++] = (loop){head, p->n_steps - 1};
  return KILN_OK;
}

static kiln_status bind_control(program *p, const node *n) {
  if (strcmp(n->op->name, "if") == 0) return bind_if(p, n);
  if (strcmp(n->op->name, "while") == 0) return bind_while(p, n);
  return KILN_FAIL(KILN_UNSUPPORTED, "control flow `%s` at %s cannot be executed", n->op->name, n->source);
}

/* A result that is only read through a permutation which keeps the last dimension (heads back to features after
 * attention, say) is laid out so that the permuted tensor is contiguous, if the kernel can write that: what follows
 * then needs no copy. */
static void lay_out_for_permute(const program *p, const node *n, tensor *t) {
  const node *user = n->n_outputs == 1 ? value_single_user(n->outputs[0]) : NULL;
  if (!user || !writes_strided(p, n, 0) || strcmp(user->op->name, "permute") != 0 || user->epilogue) return;
  const attr *order = node_attr(user, "order");
  if (order->count != t->rank || t->rank < 2 || order->u.ints[t->rank - 1] != t->rank - 1) return;
  int64_t stride = 1;
  for (int d = t->rank - 1; d >= 0; d--) {
    t->strides[order->u.ints[d]] = stride;
    stride *= t->shape[order->u.ints[d]];
  }
}

/* Once for each process: engines run without the library, only slower. */
static void note_missing(const kernel *k) {
  static int noted;
  if (__atomic_exchange_n(&noted, 1, __ATOMIC_RELAXED)) return;
  fprintf(stderr, "kiln: note: kernel %s, which the tuner chose, cannot be used: %s. %s runs in its place\n", k->name,
          error_text(), k->instead);
}

/* A row whose library is not here is replaced by one that needs none. */
static const kernel *kernel_here(const program *p, const kernel *k) {
  if (!k->needs || k->needs(p->device) == KILN_OK) return k;
  const kernel *own = kernel_find(k->op, k->instead);
  if (p->device && p->target->backend->device->info(p->device).present) note_missing(k);
  error_clear();
  return own ? own : k;
}

/* Files name tactics and packings apart: a kernel must not read a weight that is stored for another one. */
static kiln_status check_packing(const node *n, const kernel *k, int32_t index, const char *packed) {
  if (!packed || (index == k->pack_operand && str_eq(packed, k->packing))) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_FILE, "kernel %s of `%s` (%s) cannot read a weight that is packed as `%s`", k->name,
                   n->op->name, n->source, packed);
}

static kiln_status bind_kernel(program *p, const node *n) {
  const bool host = host_kernel(p->target, kernel_of(p, n)) && p->device;
  const kernel *k = host ? host_kernel_here(kernel_of(p, n)) : kernel_here(p, kernel_of(p, n));
  const bool chosen =
      !p->device || (n->tactic && kernel_find(n->op->name, tactic_of(p, n))); /* the plan allows the CPU */
  if (k == &reference_kernel && (!chosen || (!n->op->ref && !n->n_blocks)))
    return KILN_FAIL(KILN_UNSUPPORTED, "no kernel for `%s` (%s at %s)", n->op->name, n->path, n->source);
  slot *operands = ARENA_ARRAY(&p->arena, slot, n->n_inputs + 1);
  if (!operands) return KILN_NO_MEMORY("program");
  for (int32_t i = 0; i < n->n_inputs; i++) {
    if (!n->inputs[i].v) continue;
    slot *in = NULL;
    KILN_TRY(slot_of(p, n->inputs[i].v, &in));
    KILN_TRY(check_packing(n, k, i, in->t.packing));
    operands[i] = *in;
    if (!reads_strided(p, n, i) && !tensor_is_contiguous(&in->t)) KILN_TRY(contiguous_copy(p, in, n, &operands[i]));
  }
  step *s = step_new(p, STEP_KERNEL);
  if (!s) return KILN_NO_MEMORY("program");
  KILN_TRY(step_arrays(p, s, n->n_inputs, n->n_outputs));
  s->node = n;
  s->kernel = k;
  s->args.node = n;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    s->places[i] = operands[i].known ? operands[i].at : (place){-1, 0};
    s->args.in[i] = operands[i].t;
    if (!operands[i].known) s->args.in[i].rank = -1;
  }
  for (int32_t i = 0; i < n->n_outputs; i++) {
    slot *out = &p->slots[n->outputs[i]->id];
    if (!out->known) {
      int64_t bytes = 0;
      KILN_TRY(tensor_bind(p, &n->outputs[i]->type, &out->t, &bytes));
      lay_out_for_permute(p, n, &out->t);
      out->at = (place){buffer_new(p, BUFFER_ARENA, 0, bytes), 0};
      if (out->at.buffer < 0) return KILN_NO_MEMORY("program");
      out->known = true;
    }
    s->args.out[i] = out->t;
    s->places[n->n_inputs + i] = out->at;
  }
  return KILN_OK;
}

static kiln_status bind_node(program *p, const node *n) {
  if ((n->op->flags & OP_DATA_DEPENDENT) && n != p->first)
    return KILN_FAIL(
        KILN_UNSUPPORTED,
        "`%s` (%s at %s) has a result whose size depends on data, which engines cannot run inside branches and loops",
        n->op->name, n->path, n->source);
  if (n->op->flags & OP_CONTROL_FLOW) return bind_control(p, n);
  if (node_is_view(n)) return bind_view(p, n);
  if (node_is_concat(n)) return bind_concat(p, n);
  return bind_kernel(p, n);
}

/* Nodes from `first` on; `behind` (NULL: none) is the first that is not bound. */
static kiln_status bind_nodes(program *p, const node *first, const node *behind, const node *last) {
  if (!first || first == behind) return KILN_OK;
  KILN_TRY(place_concats(p, first, behind ? behind->prev : last));
  for (const node *n = first; n && n != behind; n = n->next)
    KILN_TRY_NOTE(bind_node(p, n), "binding `%s` %s (%s)", n->op->name, n->path, n->source);
  return KILN_OK;
}

static kiln_status bind_block(program *p, const block *b) { return bind_nodes(p, b->first, NULL, b->last); }

/* ---- parameters and results -------------------------------------------------------------------------------------- */

static kiln_status bind_params(program *p) {
  p->params = ARENA_ARRAY(&p->arena, tensor, p->n_params + 1);
  p->param_buffers = ARENA_ARRAY(&p->arena, int32_t, p->n_params + 1);
  p->param_staging = ARENA_ARRAY(&p->arena, size_t, p->n_params + 1);
  if (!p->params || !p->param_buffers || !p->param_staging) return KILN_NO_MEMORY("program");
  for (int32_t i = 0; i < p->n_params; i++) {
    slot *s = &p->slots[p->param_values[i]->id];
    int64_t bytes = 0;
    KILN_TRY(tensor_bind(p, &p->param_values[i]->type, &s->t, &bytes));
    if (p->param_strides && i < p->graph->n_inputs) memcpy(s->t.strides, p->param_strides[i], sizeof s->t.strides);
    p->params[i] = s->t;
    p->param_buffers[i] = buffer_new(p, BUFFER_PARAM, i, bytes);
    if (p->param_buffers[i] < 0) return KILN_NO_MEMORY("program");
    s->at = (place){p->param_buffers[i], 0};
    s->known = true;
  }
  return KILN_OK;
}

/* The last stage's results are the graph's, those of the others are what crosses their barrier. */
static kiln_status choose_results(program *p) {
  const block *b = &p->graph->body;
  if (p->barrier) {
    KILN_TRY(stage_exit_bind(p));
  } else {
    p->result_values = ARENA_ARRAY(&p->arena, value *, b->n_results + 1);
    if (!p->result_values) return KILN_NO_MEMORY("program");
    for (int32_t i = 0; i < b->n_results; i++) p->result_values[i] = b->results[i].v;
    p->n_results = b->n_results;
  }
  p->results = ARENA_ARRAY(&p->arena, tensor, p->n_results + 1);
  p->result_buffers = ARENA_ARRAY(&p->arena, int32_t, p->n_results + 1);
  p->result_staging = ARENA_ARRAY(&p->arena, size_t, p->n_results + 1);
  p->externals = ARENA_ARRAY(&p->arena, const void *, p->n_params + p->n_results + 1);
  p->finals = ARENA_ARRAY(&p->arena, final_copy, p->n_results + 1);
  if (!p->results || !p->result_buffers || !p->result_staging || !p->externals || !p->finals)
    return KILN_NO_MEMORY("program");
  return KILN_OK;
}

/* A result whose value has an arena buffer of its own becomes that buffer; others are copied at the end. */
static kiln_status bind_results(program *p) {
  KILN_TRY(choose_results(p));
  for (int32_t i = 0; i < p->n_results; i++) {
    slot *s = NULL;
    KILN_TRY(slot_of(p, p->result_values[i], &s));
    p->results[i] = s->t;
    p->results[i].data = NULL;
    p->results[i].packing = NULL;
    tensor_make_contiguous_strides(&p->results[i]);
    const int64_t bytes = tensor_numel(&s->t) * (int64_t)kiln_dtype_size(s->t.dtype);
    buffer *own = s->at.buffer >= 0 ? &p->buffers[s->at.buffer] : NULL;
    if (own && own->kind == BUFFER_ARENA && s->at.offset == 0 && own->bytes == bytes && tensor_is_contiguous(&s->t)) {
      own->kind = BUFFER_RESULT;
      own->index = i;
      p->result_buffers[i] = s->at.buffer;
    } else {
      p->result_buffers[i] = -1;
      p->finals[p->n_finals++] = (final_copy){s->t, s->at, i, NULL};
    }
  }
  return KILN_OK;
}

/* ---- preparation ------------------------------------------------------------------------------------------------- */

/* Addresses of the step's tensors relative to their buffers, which start at multiples of 64. */
static const int64_t *step_offsets(program *p, const step *s) {
  const int n = s->args.n_in + s->args.n_out;
  int64_t *offsets = ARENA_ARRAY(&p->arena, int64_t, n + 1);
  for (int k = 0; offsets && k < n; k++) offsets[k] = s->places[k].buffer < 0 ? -1 : s->places[k].offset;
  return offsets;
}

/* Results that are copied at the end: on a device the copies are kernels that must be compiled too. */
static kiln_status prepare_finals(program *p) {
  for (int32_t i = 0; p->device && i < p->n_finals; i++) {
    final_copy *f = &p->finals[i];
    tensor from = f->from, to = p->results[f->result];
    kernel_args args = {
        .node = &p->copy_node, .attrs = p->copy_node.attrs, .in = &from, .n_in = 1, .out = &to, .n_out = 1};
    const int64_t offsets[2] = {f->from_at.buffer < 0 ? -1 : f->from_at.offset, 0};
    kernel_prep prep = {
        .args = args, .arena = &p->arena, .device = p->device, .offsets = offsets, .kernel = p->copy_kernel};
    KILN_TRY(p->copy_kernel->prepare(&prep));
    f->state = prep.state;
  }
  return p->device ? p->target->backend->device->finish_prepare(p->device, p->threads) : KILN_OK;
}

static kiln_status prepare_steps(program *p) {
  for (int32_t i = 0; i < p->n_steps; i++) {
    step *s = &p->steps[i];
    if (s->kind != STEP_KERNEL) continue;
    s->args.symbols = p->symbols;
    if (s->node == &p->copy_node) {
      s->args.attrs = p->copy_node.attrs;
    } else {
      KILN_TRY(attrs_bind(&p->arena, p->graph, s->node, p->symbols, &s->args.attrs));
    }
    if (p->device && host_kernel(p->target, s->kernel)) {
      KILN_TRY(host_step_prepare(p, s));
    } else if (s->kernel->prepare) {
      s->args.device = p->device;
      kernel_prep prep = {
          .args = s->args, .arena = &p->arena, .threads = p->threads, .device = p->device, .kernel = s->kernel};
      if (p->device && !(prep.offsets = step_offsets(p, s))) return KILN_NO_MEMORY("program");
      KILN_TRY_NOTE(s->kernel->prepare(&prep), "preparing kernel %s of `%s` (%s)", s->kernel->name, s->node->op->name,
                    s->node->path);
      s->args.state = prep.state;
      s->args.workspace_size = prep.workspace_size;
      if (prep.workspace_size) {
        const int32_t b = buffer_new(p, BUFFER_ARENA, 0, (int64_t)prep.workspace_size);
        if (b < 0) return KILN_NO_MEMORY("program");
        s->places[s->args.n_in + s->args.n_out] = (place){b, 0};
        p->buffers[b].first = p->buffers[b].last = i;
      }
    }
    step_estimate(s);
  }
  return KILN_OK;
}

static kiln_status place_buffers(program *p) {
  memory_block *blocks = ARENA_ARRAY(&p->arena, memory_block, p->n_buffers + 1);
  int32_t *index = ARENA_ARRAY(&p->arena, int32_t, p->n_buffers + 1);
  if (!blocks || !index) return KILN_NO_MEMORY("program");
  size_t n = 0, total = 0;
  for (int32_t i = 0; i < p->n_buffers; i++) {
    const buffer *b = &p->buffers[i];
    if (b->kind != BUFFER_ARENA || b->last < b->first || b->bytes == 0) continue;
    blocks[n] = (memory_block){(size_t)b->bytes, b->first, b->last, 0};
    index[n++] = i;
  }
  KILN_TRY(memory_plan(blocks, n, &total));
  for (size_t i = 0; i < n; i++) p->buffers[index[i]].offset = blocks[i].offset;
  /* Staging areas lie behind the planned part; their pages are never touched unless they are needed. */
  total = size_align(total, 64);
  for (int32_t i = 0; i < p->n_params; i++) {
    p->param_staging[i] = total;
    total = size_align(total + (size_t)p->buffers[p->param_buffers[i]].bytes, 64);
  }
  for (int32_t i = 0; i < p->n_results; i++) {
    p->result_staging[i] = total;
    total = size_align(total + (size_t)tensor_numel(&p->results[i]) * kiln_dtype_size(p->results[i].dtype), 64);
  }
  p->arena_bytes = total ? total : 64;
  return KILN_OK;
}

static void add_patch(program *p, void **pointer, place at) {
  if (at.buffer < 0) return;
  const buffer_kind kind = p->buffers[at.buffer].kind;
  if (kind == BUFFER_ARENA) {
    p->arena_patches[p->n_arena_patches++] = (patch){pointer, at};
  } else {
    p->patches[p->n_patches++] = (patch){pointer, at};
  }
}

static kiln_status collect_patches(program *p) {
  int32_t n = p->n_finals;
  for (int32_t i = 0; i < p->n_steps; i++) n += p->steps[i].args.n_in + p->steps[i].args.n_out + 1;
  p->patches = ARENA_ARRAY(&p->arena, patch, n + 1);
  p->arena_patches = ARENA_ARRAY(&p->arena, patch, n + 1);
  if (!p->patches || !p->arena_patches) return KILN_NO_MEMORY("program");
  for (int32_t i = 0; i < p->n_steps; i++) {
    step *s = &p->steps[i];
    for (int32_t k = 0; k < s->args.n_in; k++) add_patch(p, &s->args.in[k].data, s->places[k]);
    for (int32_t k = 0; k < s->args.n_out; k++) add_patch(p, &s->args.out[k].data, s->places[s->args.n_in + k]);
    add_patch(p, &s->args.workspace, s->places[s->args.n_in + s->args.n_out]);
  }
  for (int32_t i = 0; i < p->n_finals; i++) add_patch(p, &p->finals[i].from.data, p->finals[i].from_at);
  return KILN_OK;
}

static kiln_status program_bind(program *p) {
  p->slots = ARENA_ARRAY(&p->arena, slot, p->graph->next_id + 1);
  p->constants = ARENA_ARRAY(&p->arena, const void *, p->graph->next_id + 1);
  p->copy_node.op = op_find("contiguous");
  p->copy_node.path = p->copy_node.source = "";
  p->copy_node.attrs = ARENA_NEW(&p->arena, attr);
  if (!p->slots || !p->constants || !p->copy_node.attrs) return KILN_NO_MEMORY("program");
  if (!p->copy_node.op) return KILN_FAIL(KILN_INTERNAL, "there is no operator `contiguous`");
  KILN_TRY(bind_params(p));
  KILN_TRY(bind_nodes(p, p->first ? p->first : p->graph->body.first, p->barrier, p->graph->body.last));
  KILN_TRY(bind_results(p));
  program_lives(p);
  KILN_TRY(program_share(p));
  KILN_TRY(prepare_steps(p));
  KILN_TRY(prepare_finals(p));
  KILN_TRY(place_buffers(p));
  return collect_patches(p);
}

/* The target's best kernel for plain copies of any strides. */
static const kernel *find_copy_kernel(const target *t) {
  const kernel *const *rows = t->backend ? t->backend->kernels : NULL;
  for (; rows && *rows; rows++) {
    if (strcmp((*rows)->op, "contiguous") == 0 && (*rows)->isa <= t->isa && takes_strided((*rows)->strided_in, 0) &&
        takes_strided((*rows)->strided_out, 0))
      return *rows;
  }
  return &reference_kernel;
}

kiln_status program_create(graph *g, const target *t, const int64_t *symbols, int threads, program **out_program) {
  return program_create_on(g, t, NULL, symbols, threads, out_program);
}

/* The nodes of `g` from `first` (NULL: the start) to the next whose result depends on data. */
static kiln_status create(const program *like, const node *first, value *const *params, int32_t n_params,
                          const int64_t *symbols, program **out_program) {
  program *p = mem_calloc(1, sizeof *p);
  if (!p) return KILN_NO_MEMORY("program");
  p->graph = like->graph;
  p->target = like->target;
  p->device = like->device;
  p->param_strides = first ? NULL : like->param_strides;
  p->threads = like->threads;
  p->profile = like->profile;
  p->copy_kernel = like->copy_kernel;
  p->stage = like->stage;
  p->first = first;
  p->barrier = stage_barrier(p->graph, first);
  p->param_values = params;
  p->n_params = n_params;
  const int n = dim_symbol_count(p->graph->dims);
  p->symbols = arena_alloc(&p->arena, (size_t)(n + 1) * sizeof *p->symbols);
  kiln_status status = p->symbols ? KILN_OK : KILN_NO_MEMORY("program");
  if (status == KILN_OK) {
    if (n) memcpy(p->symbols, symbols, (size_t)n * sizeof *symbols);
    status = program_bind(p);
  }
  if (status != KILN_OK) {
    program_destroy(p);
    return status;
  }
  *out_program = p;
  return KILN_OK;
}

kiln_status program_create_on(graph *g, const target *t, device *d, const int64_t *symbols, int threads,
                              program **out_program) {
  return program_create_profile(g, 0, t, d, symbols, NULL, threads, out_program);
}

kiln_status program_create_profile(graph *g, int32_t profile, const target *t, device *d, const int64_t *symbols,
                                   const int64_t (*strides)[KILN_MAX_RANK], int threads, program **out_program) {
  KILN_TRY(ops_init());
  const program like = {.graph = g,
                        .target = t,
                        .device = d,
                        .param_strides = strides,
                        .profile = profile,
                        .threads = threads < 1 ? 1 : threads,
                        .copy_kernel = find_copy_kernel(t)};
  return create(&like, NULL, g->body.params, g->body.n_params, symbols, out_program);
}

kiln_status program_create_stage(const program *before, const node *first, value *const *params, int32_t n_params,
                                 const int64_t *symbols, program **out_program) {
  KILN_TRY(create(before, first, params, n_params, symbols, out_program));
  (*out_program)->stage = before->stage + 1;
  return KILN_OK;
}

kiln_status program_constant_tensor(program *p, const value *v, tensor *out) {
  slot *s = NULL;
  KILN_TRY(slot_of(p, v, &s));
  *out = s->t;
  return KILN_OK;
}
