/* Scopes of the abstract interpreter: how things stand, so that they can be put back, and what a branch or a loop's
 * body changed. */
#ifndef KILN_IMPORT_TORCHSCRIPT_CONTROL_H
#define KILN_IMPORT_TORCHSCRIPT_CONTROL_H

#include <stdio.h>

#include "import/torchscript/interpreter.h"

typedef struct control_handle {
  itensor *t;
  value *v;
  uint32_t version;
  node **steps;
} control_handle;

typedef struct control_handles_state { /* of all handles that there were */
  control_handle *list;
  int count;
} control_handles_state;

typedef struct control_slots { /* variables of the running frame */
  ts_value *slots;
  int count;
} control_slots;

typedef struct control_start { /* before a branch */
  control_slots slots;
  control_handles_state handles;
} control_start;

typedef struct control_side { /* after one side of it; all of this is undone */
  block *block;
  ts_scope scope;
  control_slots slots;
  control_handles_state handles;
  ts_saved *changed; /* contents of the containers that it changed */
  int n_changed;
  bool raised; /* it ends with an exception */
  const char *reason;
} control_side;

typedef kiln_status (*control_body)(interp *it, void *user, control_side *side);

kiln_status control_start_open(interp *it, control_start *out);
/* Runs `body` with nodes going to side->block (made if NULL), and undoes all its effects. */
kiln_status control_run_side(interp *it, const control_start *start, control_body body, void *user, control_side *side);
/* Makes the `if` node of two sides that ran from `start`, and merges what they changed. `serial`: of the newest handle
 * then. */
kiln_status control_merge(interp *it, value *condition, const control_start *start, control_side *sides,
                          uint32_t serial);
void control_side_free(control_side *side);
void control_drop(block *b); /* removes its nodes */

void control_open(interp *it, ts_scope *s);
void control_close(interp *it, ts_scope *s); /* what changed stays */
kiln_status control_undo(interp *it, const ts_scope *s);
const ts_saved *control_find(const ts_scope *s, const void *container); /* what it was, or NULL */
kiln_status control_contents(interp *it, ts_value_kind kind, void *container, ts_saved *out);
kiln_status control_restore(interp *it, const ts_saved *s);
/* A container like v with other parts. */
kiln_status control_rebuild(interp *it, const ts_value *v, const ts_value *items, int n, ts_value *out);
kiln_status control_handles(interp *it, control_handles_state *out);
kiln_status control_handles_again(interp *it, const control_handles_state *of, control_handles_state *out);
void control_handles_apply(const control_handles_state *s);
kiln_status control_variables(interp *it, control_slots *out);
void control_variables_apply(interp *it, const control_slots *s);
ts_value control_unset(void);
bool control_identical(const ts_value *x, const ts_value *y);

#endif
