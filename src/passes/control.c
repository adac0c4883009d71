/* Rules for `if` and `while`: what is decided already goes away, blocks see outside values themselves instead of
 * getting them as operands (so that constants are constants inside), and what a loop computes again and again is
 * computed once before it. */
#include <string.h>

#include "ops/ref.h"
#include "passes/match.h"
#include "passes/rule_files.h"

static bool known_flag(const value *v, bool *out) {
  double number = 0;
  if (!scalar_constant(v, &number)) return false;
  *out = number != 0;
  return true;
}

/* A node like `n` that takes over its blocks. `n` is left without them, for the driver to remove. */
static node *take_blocks(builder *b, node *n, int n_inputs, value *const *inputs, int n_outputs) {
  node *made = node_create(b, n->op, n_inputs, inputs, NO_ATTRS, n_outputs);
  if (!made) return NULL;
  made->blocks = n->blocks;
  made->n_blocks = n->n_blocks;
  for (int32_t i = 0; i < made->n_blocks; i++) made->blocks[i]->owner = made;
  n->blocks = NULL;
  n->n_blocks = 0;
  return made;
}

/* Keeps the parameters or results that `keep` says, in their order. */
static void keep_params(block *b, const bool *keep) {
  int32_t n = 0;
  for (int32_t i = 0; i < b->n_params; i++) {
    if (!keep[i]) continue;
    b->params[n] = b->params[i];
    b->params[n]->index = n;
    n++;
  }
  b->n_params = n;
}

static bool keep_results(block *b, const bool *keep) {
  value **results = ARENA_ARRAY(&b->graph->arena, value *, b->n_results + 1);
  if (!results) return false;
  int n = 0;
  for (int32_t i = 0; i < b->n_results; i++) {
    if (keep[i]) results[n++] = b->results[i].v;
  }
  block_set_results(b, n, results);
  return graph_check(b->graph) == KILN_OK;
}

/* ---- if ---------------------------------------------------------------------------------------------------------- */

/* The block that a constant condition chooses takes the node's place. */
static bool decided_if(builder *b, node *n) {
  bool which = false;
  (void)b;
  if (n->n_blocks != 2 || !known_flag(node_in(n, 0), &which)) return false;
  block *chosen = n->blocks[which ? 0 : 1];
  for (int32_t i = 0; i < n->n_outputs; i++) {
    if (!type_equal(&chosen->results[i].v->type, &n->outputs[i]->type)) return false;
  }
  for (int32_t i = 0; i < chosen->n_params; i++) value_replace_uses(chosen->params[i], node_in(n, i + 1));
  while (chosen->first) node_move_before(chosen->first, n);
  for (int32_t i = 0; i < n->n_outputs; i++) value_replace_uses(n->outputs[i], chosen->results[i].v);
  return true;
}

/* Operands become values that the blocks see for themselves. */
static bool if_operands(builder *b, node *n) {
  if (n->n_blocks != 2 || n->n_inputs < 2) return false;
  value *condition = node_in(n, 0);
  for (int k = 0; k < 2; k++) {
    block *x = n->blocks[k];
    for (int32_t i = 0; i < x->n_params; i++) value_replace_uses(x->params[i], node_in(n, i + 1));
    x->n_params = 0;
  }
  node *made = take_blocks(b, n, 1, &condition, n->n_outputs);
  if (!made || node_infer(made) != KILN_OK) return false;
  for (int32_t i = 0; i < n->n_outputs; i++) value_replace_uses(n->outputs[i], made->outputs[i]);
  return true;
}

/* Results that nobody uses, or that are the same in both blocks: such a value is from outside, as no block sees into
 * the other. */
static bool if_results(builder *b, node *n) {
  bool *keep = n->n_blocks == 2 ? ARENA_ARRAY(&b->graph->arena, bool, n->n_outputs + 1) : NULL;
  bool replaced = false;
  int kept = 0;
  if (!keep) return false;
  for (int32_t i = 0; i < n->n_outputs; i++) {
    value *v = n->blocks[0]->results[i].v;
    if (n->outputs[i]->uses && v == n->blocks[1]->results[i].v && type_equal(&v->type, &n->outputs[i]->type)) {
      value_replace_uses(n->outputs[i], v);
      replaced = true;
    }
    keep[i] = n->outputs[i]->uses != NULL;
    kept += keep[i];
  }
  if (kept == n->n_outputs || kept == 0) return replaced; /* without any it is dead */
  value **inputs = ARENA_ARRAY(&b->graph->arena, value *, n->n_inputs);
  if (!inputs || !keep_results(n->blocks[0], keep) || !keep_results(n->blocks[1], keep)) return false;
  for (int32_t i = 0; i < n->n_inputs; i++) inputs[i] = node_in(n, i);
  node *made = take_blocks(b, n, n->n_inputs, inputs, kept);
  if (!made || node_infer(made) != KILN_OK) return false;
  for (int32_t i = 0, k = 0; i < n->n_outputs; i++) {
    if (keep[i]) value_replace_uses(n->outputs[i], made->outputs[k++]);
  }
  return true;
}

/* ---- while ------------------------------------------------------------------------------------------------------- */

/* A loop that never runs. */
static bool idle_while(builder *b, node *n) {
  bool again = true;
  (void)b;
  if (n->n_blocks != 2 || !known_flag(n->blocks[0]->results[0].v, &again) || again) return false;
  for (int32_t i = 0; i < n->n_outputs; i++) value_replace_uses(n->outputs[i], node_in(n, i));
  return true;
}

static bool only_result(const value *param, const block *body, int32_t i) {
  for (const use *u = param->uses; u; u = u->next) {
    if (u->result_of != body || u->index != i) return false;
  }
  return true;
}

/* Is the carried value always the operand; or does nobody look at it? */
static bool carried_for_nothing(const node *n, int32_t i, bool *out_fixed) {
  const block *condition = n->blocks[0], *body = n->blocks[1];
  const value *next = body->results[i].v;
  *out_fixed = next == body->params[i] || next == node_in(n, i);
  return *out_fixed || (!n->outputs[i]->uses && !condition->params[i]->uses && only_result(body->params[i], body, i));
}

/* Such values are not carried; one that does not change is used from outside. */
static bool while_operands(builder *b, node *n) {
  if (n->n_blocks != 2 || n->n_outputs != n->n_inputs) return false;
  bool *keep = ARENA_ARRAY(&b->graph->arena, bool, n->n_inputs + 1), fixed = false;
  value **inputs = ARENA_ARRAY(&b->graph->arena, value *, n->n_inputs + 1);
  int kept = 0;
  if (!keep || !inputs) return false;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    keep[i] = !carried_for_nothing(n, i, &fixed);
    if (keep[i]) inputs[kept++] = node_in(n, i);
  }
  if (kept == n->n_inputs) return false;
  if (kept == 0) { /* one stays: a loop that carries nothing never runs or never ends, which is not decided here */
    if (n->n_inputs == 1) return false;
    keep[0] = true;
    inputs[kept++] = node_in(n, 0);
  }
  for (int32_t i = 0; i < n->n_inputs; i++) {
    if (keep[i] || !carried_for_nothing(n, i, &fixed) || !fixed) continue;
    for (int k = 0; k < 2; k++) value_replace_uses(n->blocks[k]->params[i], node_in(n, i));
    value_replace_uses(n->outputs[i], node_in(n, i));
  }
  if (!keep_results(n->blocks[1], keep)) return false;
  for (int k = 0; k < 2; k++) keep_params(n->blocks[k], keep);
  node *made = take_blocks(b, n, kept, inputs, kept);
  if (!made || node_infer(made) != KILN_OK) return false;
  for (int32_t i = 0, k = 0; i < n->n_outputs; i++) {
    if (keep[i]) value_replace_uses(n->outputs[i], made->outputs[k++]);
  }
  return true;
}

/* Operators beside pointwise ones and views that cannot fail at run time: a loop may run zero times, or stop before it
 * comes to them. */
static const char *const safe[] = {
    "contiguous", "concat",     "tile",      "flip",   "roll", "tril",    "triu",        "full",       "arange",
    "size",       "eye",        "linear",    "matmul", "conv", "softmax", "log_softmax", "layer_norm", "rms_norm",
    "group_norm", "batch_norm", "attention", "sum",    "mean", "var",     "any",         "all",        "prod",
    "norm",       "cumsum",     "cumprod",   "lstm",   "gru",  "rnn",     "avg_pool",    "max_pool",   "identity"};

static bool can_move_out(const node *n, const block *loop) {
  if (n->n_blocks || n->epilogue || (n->op->flags & (OP_CONTROL_FLOW | OP_RANDOM | OP_DATA_DEPENDENT))) return false;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    const value *v = n->inputs[i].v;
    if (!v || v->constant) continue;
    if (v->producer ? v->producer->parent == loop : v->index < loop->n_params && loop->params[v->index] == v)
      return false;
  }
  if (n->op->flags & (OP_POINTWISE | OP_VIEW)) return true;
  for (size_t i = 0; i < KILN_COUNT(safe); i++) {
    if (str_eq(safe[i], n->op->name)) return true;
  }
  return false;
}

/* Loop-invariant code goes before the loop. Blocks of an `if` inside stay as they are: they may not run at all. */
static bool invariant_code(builder *b, node *n) {
  bool changed = false;
  (void)b;
  for (int32_t k = 0; k < n->n_blocks; k++) {
    for (node *m = n->blocks[k]->first; m;) {
      node *next = m->next;
      if (can_move_out(m, n->blocks[k])) {
        node_move_before(m, n);
        changed = true;
      }
      m = next;
    }
  }
  return changed;
}

#define HEAD                                                                                                          \
  "kiln.graph 1\nconst %yes : bool[] = {1}\nconst %no : bool[] = {0}\nconst %zero : i64[] = {0}\nconst %one : i64[] " \
  "= {1}\n"                                                                                                           \
  "const %three : i64[] = {3}\ninput \"x\" %x : f32[3]\ninput \"p\" %p : bool[]\n"
#define COUNT_TO_THREE(params) \
  "  block(%ci : i64[]" params ") {\n    %go = lt(%ci, %three) : bool[]\n    return %go\n  }\n"

const rule control_rules[] = {
    {"decided if", "if", decided_if,
     HEAD "%y = if(%yes, %x) : f32[3]\n  block(%a : f32[3]) {\n    %b = neg(%a) : f32[3]\n    return %b\n  }\n"
          "  block(%c : f32[3]) {\n    return %c\n  }\noutput \"y\" %y\n"},
    {"operands of if", "if", if_operands,
     HEAD "%y = if(%p, %x) : f32[3]\n  block(%a : f32[3]) {\n    %b = neg(%a) : f32[3]\n    return %b\n  }\n"
          "  block(%c : f32[3]) {\n    return %c\n  }\noutput \"y\" %y\n"},
    {"results of if", "if", if_results,
     HEAD "%y, %z, %w = if(%p) : f32[3], f32[3], f32[3]\n  block() {\n    %b = neg(%x) : f32[3]\n    return %x, %b, "
          "%b\n  }\n"
          "  block() {\n    return %x, %x, %x\n  }\noutput \"y\" %y\noutput \"z\" %z\n"},
    {"idle while", "while", idle_while,
     HEAD "%y = while(%x) : f32[3]\n  block(%a : f32[3]) {\n    return %no\n  }\n"
          "  block(%c : f32[3]) {\n    %b = neg(%c) : f32[3]\n    return %b\n  }\noutput \"y\" %y\n"},
    {"operands of while", "while", while_operands,
     HEAD "%i, %y, %z, %w = while(%zero, %x, %x, %x) : i64[], f32[3], f32[3], f32[3]\n" COUNT_TO_THREE(
         ", %c1 : f32[3], %c2 : f32[3], %c3 : f32[3]") "  block(%bi : i64[], %b1 : f32[3], %b2 : f32[3], %b3 : f32[3]) "
                                                       "{\n    %n = add(%bi, %one) : i64[]\n"
                                                       "    %s = add(%b1, %b2) : f32[3]\n    %t = neg(%b1) : f32[3]\n  "
                                                       "  return %n, %s, %b2, %t\n  }\n"
                                                       "output \"y\" %y\noutput \"z\" %z\n"},
    {"invariant code", "while", invariant_code,
     HEAD "%i, %y = while(%zero, %x) : i64[], f32[3]\n" COUNT_TO_THREE(
         ", %c1 : f32[3]") "  block(%bi : i64[], %b1 : f32[3]) {\n    %n = add(%bi, %one) : i64[]\n    %t = exp(%x) : "
                           "f32[3]\n"
                           "    %s = add(%b1, %t) : f32[3]\n    return %n, %s\n  }\noutput \"y\" %y\n"},
};
const size_t control_rule_count = KILN_COUNT(control_rules);
