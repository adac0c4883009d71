/* Scopes of the abstract interpreter: how things stand, so that they can be put back, and what a branch or a loop's
 * body changed. */
#ifndef KILN_IMPORT_TORCHSCRIPT_CONTROL_H
#define KILN_IMPORT_TORCHSCRIPT_CONTROL_H

#include <stdio.h>

#include "import/torchscript/interpreter.h"

typedef struct control_slots { /* variables of the running frame */
  ts_value *slots;
  int count;
} control_slots;

typedef struct control_start { /* before a branch */
  control_slots slots;
} control_start;

typedef struct control_side { /* after one side of it; all of this is undone */
  block *block;
  ts_scope scope;
  control_slots slots;
  ts_handle *handles; /* those that it changed, in the order of scope.handles */
  int n_handles;
  ts_saved *changed; /* contents of the containers that it changed */
  int n_changed;
  bool raised; /* it ends with an exception */
  const char *reason;
} control_side;

typedef kiln_status (*control_body)(interp *it, void *user, control_side *side);

kiln_status control_start_open(interp *it, control_start *out);
/* Runs `body` with nodes going to side->block (made if NULL), and undoes all its effects. */
kiln_status control_run_side(interp *it, const control_start *start, control_body body, void *user, control_side *side);
/* Makes the `if` node of two sides that ran from `start`, and merges what they changed. */
kiln_status control_merge(interp *it, value *condition, const control_start *start, control_side *sides);
/* Runs `body` with tensors as the side left them and nodes going to `b`; then all is as before. */
kiln_status control_look(interp *it, block *b, control_body body, void *user, control_side *side);
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
/* Notes the present state of a handle in the scope, so that it can be put back. */
kiln_status control_note_handle(interp *it, itensor *t);
/* Puts handles into these states; within a scope, what they were is noted. */
kiln_status control_set_handles(interp *it, const ts_handle *list, int n);
/* The state in which the side left the handle, or NULL: as it was. */
const ts_handle *control_find_handle(const control_side *side, const itensor *t);
kiln_status control_variables(interp *it, control_slots *out);
void control_variables_apply(interp *it, const control_slots *s);
ts_value control_unset(void);
bool control_identical(const ts_value *x, const ts_value *y);

#endif
