/* The abstract interpreter of TorchScript methods, from the inside: what its files share.
 *
 * Scalars, strings, lists, dicts and objects are computed as PyTorch would; tensor operators become nodes where `b`
 * points. What is known only at run time is a TSV_DATA scalar. A data-dependent branch or loop is a scope: variables,
 * containers and tensor handles changed inside are recorded, undone, and merged (control.c). */
#ifndef KILN_IMPORT_TORCHSCRIPT_INTERPRETER_H
#define KILN_IMPORT_TORCHSCRIPT_INTERPRETER_H

#include "import/aten.h"
#include "import/torchscript/module.h"

/* A file can ask for any amount of work; these bound it. */
enum {
  TS_MAX_STEPS = 2000000,   /* statements executed */
  TS_MAX_DEPTH = 200,       /* of calls */
  TS_MAX_ITEMS = 1 << 20,   /* of one list */
  TS_MAX_WORK = 64 << 20,   /* list items and string bytes made in all */
  TS_MAX_STRING = 16 << 20, /* bytes of one string */
  TS_MAX_NESTING = 64,      /* of lists in lists, when compared, printed or flattened */
  TS_MAX_NODES = 400000,    /* of the graph: unrolled loops */
  TS_MAX_ARGS = 64
};

typedef struct ts_frame {
  struct ts_frame *caller;
  const ts_function *function;
  const char *path; /* of the module whose method runs */
  map names;        /* variable -> slot + 1 */
  ts_value *slots;
  int count, capacity;
  ts_value result;
  bool returned;
  int line; /* of the statement that runs */
} ts_frame;

typedef struct ts_saved { /* contents of a list, dict or object when a scope first changed it */
  ts_value_kind kind;     /* TSV_LIST, TSV_DICT or TSV_OBJECT */
  void *container;
  ts_value *keys, *items;
  int count;
} ts_saved;

typedef struct ts_handle { /* a tensor handle's state when a scope first changed it */
  itensor *t;
  itensor state;
  node **steps;
} ts_handle;

typedef struct ts_scope {
  struct ts_scope *outer;
  uint32_t serial; /* of the newest tensor handle when it was opened */
  map seen;        /* container -> index in saved + 1 */
  ts_saved *saved;
  int n_saved, capacity;
  map seen_handles; /* itensor* -> index in handles + 1 */
  ts_handle *handles;
  int n_handles, handle_capacity;
} ts_scope;

typedef struct interp {
  ts_archive *a;
  graph *g;
  arena *arena;
  builder b;
  ts_frame *frame;
  ts_scope *scope; /* the innermost; every change of a container is noted there */
  int regions;     /* data-dependent branches and loops around */
  int depth;
  int64_t steps, work;
  bool raised;  /* the failure on its way is an exception of the model */
  map builtins; /* name -> ts_builtin_link* */
  map paths;    /* module -> its path, in the graph's arena */
  map folded;   /* value id -> constant, or NULL: cannot be */
  text notes;   /* what the user should know, for the import report */
  int n_notes;
} interp;

#define IT_FAIL(it, status, ...) \
  TS_FAIL((it)->a, (status), interp_here((it)), (it)->frame ? (it)->frame->line : 0, __VA_ARGS__)
const char *interp_here(const interp *it); /* file that runs */
/* "out of memory", or the sticky failure of the graph. */
kiln_status interp_out_of_memory(interp *it);
static inline kiln_status interp_no_memory(interp *it) { return error_is_set(interp_out_of_memory(it)); }
void interp_note(interp *it, const char *fmt, ...) KILN_PRINTF(2, 3);

/* ---- interpreter.c ---- */

kiln_status interp_open(interp *it, ts_archive *a, graph *g);
void interp_close(interp *it);
kiln_status interp_run_block(interp *it, const ts_stmt *body);
/* Runs a method or function with positional values; missing ones take their defaults. */
kiln_status interp_invoke(interp *it, const ts_function *f, ts_object *self, int n, const ts_value *args,
                          const char *const *names, ts_value *out);
int interp_variable(const ts_frame *f, const char *name); /* slot, or -1 */
kiln_status interp_set_variable(interp *it, const char *name, ts_value v);

/* ---- expressions.c ---- */

kiln_status interp_eval(interp *it, const ts_expr *e, ts_value *out);
kiln_status interp_attribute_get(interp *it, const ts_value *owner, const char *name, ts_value *out);
kiln_status interp_attribute_set(interp *it, const ts_value *owner, const char *name, ts_value v);

/* ---- scalars.c ---- */

ts_value of_none(void);
ts_value of_int(dim i);
ts_value of_float(double f);
ts_value of_bool(bool b);
ts_value of_string(const char *s);
ts_value of_tensor(itensor *t);
const char *interp_kind_name(const ts_value *v);
bool interp_is_number(const ts_value *v); /* int, float, bool, or data */
/* The static type of a number: TST_INT, TST_FLOAT, TST_BOOL. */
ts_type_kind interp_number_type(const ts_value *v);
/* A fresh handle for `v`; fails when `v` is NULL. */
kiln_status interp_new_tensor(interp *it, value *v, ts_value *out);
/* A scalar from a tensor of one element, of Python type `type`: a number if it can be known now. */
kiln_status interp_scalar(interp *it, value *v, ts_type_kind type, ts_value *out);
/* The rank-0 value of a number (i64, f64 or bool). */
kiln_status interp_number_tensor(interp *it, const ts_value *v, value **out);
/* Constant, or size expression, that an i64 (or bool) value is known to be. */
bool interp_known_dim(interp *it, value *v, dim *out);
/* Python's index that is data: negative ones count from the end. */
value *interp_wrap_index(interp *it, value *index, dim size);
const value *interp_fold(interp *it, value *v); /* the constant that `v` is, or NULL */
kiln_status interp_charge(interp *it, int64_t items);

/* ---- containers.c ---- */

kiln_status interp_list_new(interp *it, ts_value_kind kind, int n, const ts_value *items, ts_value *out);
kiln_status interp_list_resize(interp *it, ts_list *l, int count); /* notes the change; new items are None */
kiln_status interp_dict_new(interp *it, ts_value *out);
int interp_dict_find(interp *it, const ts_dict *d, const ts_value *key);
kiln_status interp_dict_put(interp *it, ts_dict *d, ts_value key, ts_value v);
kiln_status interp_dict_remove(interp *it, ts_dict *d, int at);
/* 1: equal, 0: not, -1: known at run time only. */
int interp_equal(interp *it, const ts_value *x, const ts_value *y, int depth);
/* As Python's str() of it; quotes: as repr(). */
void interp_print(interp *it, const ts_value *v, bool quotes, int depth, text *out);
kiln_status interp_text_value(interp *it, text *t, ts_value *out); /* takes t */
const ts_list *interp_items(const ts_value *v);                    /* of a list, tuple; NULL: something else */

/* ---- calls.c ---- */

typedef struct ts_call {
  const char *name; /* "add", "prim.NumToTensor", "quantized.linear" */
  int n;
  ts_value *args;
  const char **names; /* NULL: positional */
} ts_call;

/* torch.X(...) and ops.NS.X(...). */
kiln_status interp_call_operator(interp *it, const ts_call *c, ts_value *out);
/* The call as it was meant in the file's version of operators (upgrade.c). */
kiln_status interp_upgrade(interp *it, const ts_call *c, ts_call *out);
/* One operator through its schemas ("aten::add"); positional arguments. */
kiln_status interp_aten(interp *it, const char *name, int n, const ts_value *args, ts_value *out);
/* Sets *out_found to whether there is any operator of this name. */
kiln_status interp_call_schema(interp *it, const char *qualified, const ts_call *c, bool *out_found, ts_value *out);
kiln_dtype interp_dtype(int64_t code); /* of c10::ScalarType; KILN_DTYPE_COUNT: Kiln has none such */
int64_t interp_dtype_code(kiln_dtype d);

/* ---- builtins*.c ---- */

typedef kiln_status (*ts_builtin_fn)(interp *it, const ts_call *c, ts_value *out, bool *out_handled);
typedef struct ts_builtin {
  const char *name;
  ts_builtin_fn fn; /* leaves *out_handled false where the arguments are not its own: tensors go to the schemas */
} ts_builtin;
typedef struct ts_builtin_link { /* all of one name, in the order in which they are asked */
  ts_builtin_fn fn;
  struct ts_builtin_link *next;
} ts_builtin_link;
extern const ts_builtin ts_builtins_number[], ts_builtins_list[], ts_builtins_string[], ts_builtins_tensor[],
    ts_builtins_misc[];
/* int(), float() of numbers and tensors. */
kiln_status interp_convert_number(interp *it, const ts_call *c, ts_value *out, bool *out_handled);
/* Start, step and number of items of slice(x, start, end, step) of n items. */
kiln_status interp_slice_bounds(interp *it, const ts_call *c, int64_t n, int64_t *start, int64_t *step, int64_t *count);
const ts_value *interp_arg(const ts_call *c, int at, const char *name); /* NULL: not given */
/* Integer argument that must be known; `fallback` where it is not given or None. */
kiln_status interp_arg_int(interp *it, const ts_call *c, int at, const char *name, int64_t fallback, int64_t *out);

/* ---- control.c ---- */

/* Called when a list, dict or object is made (its changes need no undoing), and before one is changed. */
kiln_status interp_note_created(interp *it, void *container);
kiln_status interp_note_change(interp *it, ts_value_kind kind, void *container);
kiln_status interp_if_data(interp *it, const ts_stmt *s, value *condition);
kiln_status interp_while_data(interp *it, const ts_stmt *s, bool is_for, const ts_value *trip);

#endif
