/* Lifetimes of buffers, and buffers that become one.
 *
 * The idea: steps run in their order except for jumps, and control flow is nested. So the life of a buffer is the
 * interval from its first to its last step, with one addition: what was written before a loop and is read in it must
 * last until the loop's last step, because the next iteration reads it again. What is written in a loop first does not
 * outlive an iteration: values that do are carried, and carried values are written before the loop. */
#include <string.h>

#include "runtime/program_internal.h"

bool tensor_same_layout(const tensor *a, const tensor *b) {
  return a->rank == b->rank && memcmp(a->shape, b->shape, (size_t)a->rank * sizeof(int64_t)) == 0 &&
         memcmp(a->strides, b->strides, (size_t)a->rank * sizeof(int64_t)) == 0;
}

/* ---- lives ------------------------------------------------------------------------------------------------------- */

static void touch(program *p, int32_t b, int32_t at) {
  if (b < 0) return;
  if (at < p->buffers[b].first) p->buffers[b].first = at;
  if (at > p->buffers[b].last) p->buffers[b].last = at;
}

static int32_t place_count(const step *s) { return s->args.n_in + s->args.n_out; }

void program_lives(program *p) {
  for (int32_t i = 0; i < p->n_buffers; i++) {
    p->buffers[i].first = INT32_MAX;
    p->buffers[i].last = -1;
  }
  for (int32_t i = 0; i < p->n_steps; i++) {
    for (int32_t k = 0; k < place_count(&p->steps[i]); k++) touch(p, p->steps[i].places[k].buffer, i);
  }
  for (int32_t i = 0; i < p->n_finals; i++) touch(p, p->finals[i].from_at.buffer, p->n_steps);
  for (int32_t l = 0; l < p->n_loops; l++) { /* inner loops first: they may lengthen a life into the outer one */
    const loop *x = &p->loops[l];
    for (int32_t i = 0; i < p->n_buffers; i++) {
      buffer *b = &p->buffers[i];
      if (b->first < x->head && b->last >= x->head && b->last < x->back) b->last = x->back;
    }
  }
}

/* ---- merging ----------------------------------------------------------------------------------------------------- */

static void rename_buffer(program *p, int32_t from, int32_t to) {
  for (int32_t i = p->buffers[from].first; i <= p->buffers[from].last && i < p->n_steps; i++) {
    for (int32_t k = 0; k < place_count(&p->steps[i]); k++) {
      if (p->steps[i].places[k].buffer == from) p->steps[i].places[k].buffer = to;
    }
  }
  for (int32_t i = 0; i < p->n_finals; i++) {
    if (p->finals[i].from_at.buffer == from) p->finals[i].from_at.buffer = to;
  }
}

/* `gone` becomes a part of `kept`: afterwards there is one buffer, alive whenever one of them was. */
static void merge(program *p, int32_t kept, int32_t gone) {
  buffer *k = &p->buffers[kept], *g = &p->buffers[gone];
  rename_buffer(p, gone, kept);
  if (g->first < k->first) k->first = g->first;
  if (g->last > k->last) k->last = g->last;
  if (g->kind == BUFFER_RESULT) { /* the one that is left is the caller's result */
    k->kind = g->kind;
    k->index = g->index;
    p->result_buffers[g->index] = kept;
  }
  g->first = INT32_MAX;
  g->last = -1;
}

static bool is_copy(const program *p, const step *s) { return s->kind == STEP_KERNEL && s->node == &p->copy_node; }

/* May step `s` write its only result over operand `k`, which has a buffer of its own? */
static bool may_overwrite(const program *p, const step *s, int32_t k) {
  const place from = s->places[k], out = s->places[s->args.n_in];
  if (k >= 31 || !((s->kernel->inplace >> k) & 1) || from.buffer < 0 || from.offset != 0 || out.offset != 0)
    return false;
  if (p->buffers[from.buffer].bytes != p->buffers[out.buffer].bytes || s->args.in[k].dtype != s->args.out[0].dtype ||
      !tensor_same_layout(&s->args.in[k], &s->args.out[0]))
    return false;
  for (int32_t m = 0; m < s->args.n_in; m++) { /* another operand in the same memory must be the very same tensor */
    if (m == k || s->places[m].buffer != from.buffer) continue;
    if (m >= 31 || !((s->kernel->inplace >> m) & 1) || s->places[m].offset != 0 ||
        !tensor_same_layout(&s->args.in[m], &s->args.in[k]))
      return false;
  }
  return true;
}

/* Could step `s`, which writes buffer `to` first, write into `other` instead? Not if it needs what is there. */
static bool may_write_into(const program *p, const step *s, int32_t to, int32_t other) {
  for (int32_t k = 0; k < s->args.n_out; k++) {
    if (s->places[s->args.n_in + k].buffer == other) return false;
  }
  for (int32_t k = 0; k < s->args.n_in; k++) {
    if (s->places[k].buffer != other) continue;
    if (s->kind != STEP_KERNEL || s->args.n_out != 1 || s->places[s->args.n_in].buffer != to) return false;
    const bool becomes_nothing = is_copy(p, s) && s->places[k].offset == 0 && s->places[1].offset == 0 &&
                                 tensor_same_layout(&s->args.in[0], &s->args.out[0]);
    if (!becomes_nothing && !may_overwrite(p, s, k)) return false;
  }
  return true;
}

static bool untouched_between(const program *p, int32_t b, int32_t after, int32_t before) {
  for (int32_t i = after + 1; i < before; i++) {
    for (int32_t k = 0; k < place_count(&p->steps[i]); k++) {
      if (p->steps[i].places[k].buffer == b) return false;
    }
  }
  return true;
}

/* A copy is not needed if its source, which dies with it, could have been made where the copy goes: nothing may need
 * what is there from the step on that makes the source. Control flow does not matter: the source belongs to the copy's
 * block, so whatever runs in between comes to the copy before it leaves the block. */
static void drop_copy(program *p, int32_t at) {
  const step *s = &p->steps[at];
  const place from = s->places[0], to = s->places[1];
  if (from.buffer < 0 || to.buffer < 0 || from.buffer == to.buffer || from.offset != 0 || to.offset != 0) return;
  const buffer *a = &p->buffers[from.buffer], *b = &p->buffers[to.buffer];
  if (a->kind != BUFFER_ARENA || a->last != at || (b->kind != BUFFER_ARENA && b->kind != BUFFER_RESULT)) return;
  if (a->bytes != b->bytes || !tensor_is_contiguous(&s->args.in[0]) || !tensor_is_contiguous(&s->args.out[0]) ||
      !tensor_same_layout(&s->args.in[0], &s->args.out[0]))
    return;
  if (b->first < at && (!may_write_into(p, &p->steps[a->first], from.buffer, to.buffer) ||
                        !untouched_between(p, to.buffer, a->first, at)))
    return;
  merge(p, to.buffer, from.buffer);
}

/* Lets a step write over an operand that dies with it. */
static void share_in_place(program *p, int32_t at) {
  const step *s = &p->steps[at];
  if (s->kind != STEP_KERNEL || !s->kernel->inplace || s->args.n_out != 1) return;
  const int32_t out = s->places[s->args.n_in].buffer;
  if (out < 0 || p->buffers[out].first != at) return;
  for (int32_t k = 0; k < s->args.n_in; k++) {
    const int32_t from = s->places[k].buffer;
    if (from == out || !may_overwrite(p, s, k)) continue;
    if (p->buffers[from].kind != BUFFER_ARENA || p->buffers[from].last != at) continue;
    merge(p, from, out);
    return;
  }
}

/* ---- copies onto themselves -------------------------------------------------------------------------------------- */

static bool does_nothing(const program *p, const step *s) {
  return is_copy(p, s) && s->places[0].buffer >= 0 && s->places[0].buffer == s->places[1].buffer &&
         s->places[0].offset == s->places[1].offset && tensor_same_layout(&s->args.in[0], &s->args.out[0]);
}

static kiln_status remove_empty_steps(program *p) {
  int32_t *moved = ARENA_ARRAY(&p->arena, int32_t, p->n_steps + 1), n = 0;
  if (!moved) return KILN_NO_MEMORY("program");
  for (int32_t i = 0; i < p->n_steps; i++) {
    moved[i] = n; /* where it, or the step that follows it, is now */
    if (!does_nothing(p, &p->steps[i])) n++;
  }
  moved[p->n_steps] = n;
  if (n == p->n_steps) return KILN_OK;
  for (int32_t i = 0; i < p->n_steps; i++) {
    if (does_nothing(p, &p->steps[i])) continue;
    step *s = &p->steps[moved[i]];
    *s = p->steps[i];
    if (s->kind != STEP_KERNEL) s->target = moved[s->target];
  }
  for (int32_t l = 0; l < p->n_loops; l++) p->loops[l] = (loop){moved[p->loops[l].head], moved[p->loops[l].back]};
  p->n_steps = n;
  program_lives(p);
  return KILN_OK;
}

kiln_status program_share(program *p) {
  for (int32_t i = 0; i < p->n_steps; i++) {
    if (is_copy(p, &p->steps[i])) drop_copy(p, i);
  }
  for (int32_t i = 0; i < p->n_steps; i++) share_in_place(p, i);
  return remove_empty_steps(p);
}
