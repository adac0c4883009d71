/* The graph: SSA, functional, typed; one form from import to plan.
 *
 * A graph is a tree of blocks. A block has parameters, a list of nodes and results. A node applies an operator (a row
 * of the operator table, ops/op.h) to values, with attributes. Blocks inside nodes:
 *   - the body of a control-flow operator (if, while), which may use values of the blocks around it;
 *   - the `epilogue` of an anchor (a convolution, say): parameter 0 is the anchor's own result, the others are the
 * node's inputs after its `own_inputs`; its one result is the node's output. Isolated: uses its parameters and
 * constants only;
 *   - the body of the `pointwise` operator, isolated as well.
 * Everything is allocated in the graph's arena and freed with it. Not thread-safe while being changed. */
#ifndef KILN_GRAPH_GRAPH_H
#define KILN_GRAPH_GRAPH_H

#include "base/arena.h"
#include "base/map.h"
#include "graph/dim.h"

typedef struct op op;
typedef struct graph graph;
typedef struct block block;
typedef struct node node;
typedef struct value value;
typedef struct constant constant;

typedef struct tensor_type {
  kiln_dtype dtype;
  int32_t rank;
  dim dims[KILN_MAX_RANK];
} tensor_type;

/* ---- Attributes ------------------------------------------------------------------------------------------------- */

typedef enum attr_kind {
  ATTR_NONE = 0, /* absent optional */
  ATTR_INT,      /* `i`; may be a symbolic dim */
  ATTR_FLOAT,    /* `f` */
  ATTR_BOOL,     /* `i`, 0 or 1 */
  ATTR_STR,      /* `s` */
  ATTR_DTYPE,    /* `i`, a kiln_dtype */
  ATTR_INTS,     /* `ints`, `count`; may be symbolic */
  ATTR_FLOATS    /* `floats`, `count` */
} attr_kind;

typedef struct attr {
  attr_kind kind;
  int32_t count;
  union {
    int64_t i;
    double f;
    const char *s;
    const int64_t *ints;
    const double *floats;
  } u;
} attr;

typedef struct named_attr {
  const char *name;
  attr value;
} named_attr;

/* ---- Values ----------------------------------------------------------------------------------------------------- */

/* A key of the model's state dictionary. */
typedef struct weight_name {
  const char *name;
  struct weight_name *next;
} weight_name;

/* A tensor known at build time. `data` has `size` bytes, contiguous row-major in the type's shape unless `packing` is
 * set. */
struct constant {
  const void *data;
  size_t size;
  const char *packing; /* NULL: plain. Else a name such as "gemm_b:32" that backends/packing.h can pack and undo */
  const void *plain;   /* only for packings that are made at load: the plain bytes; `data` is NULL until then */
  size_t plain_size;
  int64_t weight;     /* index of the weight in the engine file that this came from, or -1 */
  weight_name *names; /* of the model's weights that these are the contents of, as imported; NULL: none */
  bool fixed;      /* with names: its contents decided how the model was imported, so no others can take their place */
  uint64_t origin; /* passes/origin.h; 0: not known, or not asked for yet */
  const char *changed;  /* refits: a weight that went into it and has other values now; NULL: none */
  weight_name *missing; /* refits: the weights that its data would have to be made of; borrowed, as `changed` */
  bool owned;           /* data must be freed with mem_free_aligned when the graph is (else: borrowed or arena) */
  value *of;            /* the value that has these contents */
  constant *next;       /* list of all constants of the graph */
};

typedef struct use {
  value *v; /* NULL: absent optional operand */
  node *user;
  int32_t index; /* operand number in user; for block results user is NULL and block is set */
  block *result_of;
  struct use *next, *prev; /* all uses of v */
} use;

struct value {
  uint32_t id;      /* unique in the graph; printed as %id when it has no name */
  const char *name; /* unique in the graph or NULL */
  tensor_type type;
  node *producer;     /* NULL for block parameters and constants */
  int32_t index;      /* which output of the producer, or which parameter of its block */
  constant *constant; /* not NULL for constants, which belong to no block */
  use *uses;
  void *scratch; /* for the pass that runs; no pass may expect a value here */
};

/* Nodes whose path ends so stay in f32 whatever precision is asked for: Fourier transforms, whose sums leave the range of f16. */
#define EXACT_PATH ":fft"

/* ---- Nodes and blocks -------------------------------------------------------------------------------------------- */

struct node {
  const op *op;
  use *inputs; /* n_inputs */
  int32_t n_inputs;
  int32_t own_inputs; /* operands of the operator itself; the rest feed the epilogue */
  value **outputs;
  int32_t n_outputs;
  attr *attrs; /* one for each attribute of the operator's schema, in its order */
  block **blocks;
  int32_t n_blocks;
  block *epilogue;           /* NULL: none */
  const char *tactic;        /* kernel chosen by the plan; NULL before */
  const char **more_tactics; /* of optimization profiles 1, 2, ..., where they are not all the same as the first's */
  int32_t n_more_tactics;
  const char *timing; /* what the tuner measured, for people; NULL: nothing */
  const char *path;   /* module path in the model, "" if unknown */
  const char *source; /* "model.py:17", "" if unknown */
  block *parent;
  node *prev, *next;
  uint32_t id;
  void *scratch;
};

struct block {
  graph *graph;
  node *owner; /* NULL for the graph's own block */
  node *first, *last;
  value **params;
  int32_t n_params;
  use *results;
  int32_t n_results;
};

typedef struct graph_state { /* a mutated buffer: read as a parameter, written back after each run */
  const char *name;
  int32_t param;  /* index among body.params */
  int32_t result; /* index among body.results */
  value *initial; /* a constant */
} graph_state;

struct graph {
  arena arena;
  dim_table *dims;
  block body;        /* params: the model's inputs, then states; results: outputs, then new states */
  int32_t n_inputs;  /* params before the states */
  int32_t n_outputs; /* results before the states */
  const char **input_names, **output_names;
  graph_state *states;
  int32_t n_states;
  named_attr *metadata; /* ATTR_STR only */
  int32_t n_metadata;
  constant *constants;
  graph *source;    /* owned: the graph as it was imported, which borrows constants from this one; NULL: not kept */
  dim (*guards)[2]; /* pairs of sizes that inference had to assume equal; contexts check them for each set of shapes */
  int32_t n_guards;
  const void *kernels; /* plans for devices: compiled code of their kernels, in the arena, or NULL */
  size_t kernels_size;
  uint32_t next_id;
  bool failed; /* sticky: memory ran out or a builder call was wrong; graph_check returns it */
  kiln_status failure;
};

/* ---- Making and changing ----------------------------------------------------------------------------------------- */

kiln_status graph_create(graph **out_graph);
void graph_destroy(graph *g);
/* KILN_OK, or the first failure of the builder calls below. Call it once after building a piece. */
kiln_status graph_check(const graph *g);
kiln_status graph_clone(const graph *g, graph **out_graph); /* constants' data is borrowed from `g` */
kiln_status block_clone(const block *from, block *to); /* an isolated block into an empty one, of any graph; the same */

value *graph_add_param(block *b, const char *name, const tensor_type *type);
/* Constants. `data` is borrowed until the graph is destroyed; _copy and _take copy it / own it (mem_alloc_aligned). */
value *graph_constant(graph *g, const tensor_type *type, const void *data);
value *graph_constant_copy(graph *g, const tensor_type *type, const void *data);
value *graph_constant_take(graph *g, const tensor_type *type, void *data);
value *graph_scalar(graph *g, kiln_dtype dtype, double v);      /* rank 0 */
value *graph_scalar_int(graph *g, kiln_dtype dtype, int64_t v); /* rank 0, exact for i64 */
/* Tells that `v`, if it is a constant, has the contents of the model's weight `name` (copied; once is enough). False when
 * out of memory. */
bool graph_name_constant(graph *g, value *v, const char *name);
/* Tells that the importer looked into `v`, if it is a constant. */
void constant_fix(const value *v);
kiln_status graph_set_metadata(graph *g, const char *key, const char *text);
const char *graph_metadata(const graph *g, const char *key);

/* Where new nodes go. `before` NULL appends to `block`. path/source are copied into new nodes. */
typedef struct builder {
  graph *graph;
  block *block;
  node *before;
  const char *path, *source;
} builder;
builder builder_at_end(block *b);
builder builder_before(node *n); /* takes path and source from n */

/* Adds a node: `op_name` must be a row of the operator table; attributes not given take the schema's default. Infers
 * output types. Returns the node, or NULL after any failure (sticky in the graph; NULL operands that are not optional
 * count as one, so calls may be nested and checked once). */
node *build_node(builder *b, const char *op_name, int n_inputs, value *const *inputs, int n_attrs,
                 const named_attr *attrs);
/* Without inference, for parsers and passes that set the output types themselves. */
node *node_create(builder *b, const op *o, int n_inputs, value *const *inputs, int n_attrs, const named_attr *attrs,
                  int n_outputs);
/* The same for operators with one output: that output, or NULL. */
value *build(builder *b, const char *op_name, int n_inputs, value *const *inputs, int n_attrs, const named_attr *attrs);
/* build(b, "conv", IN(x, w, bias), ATTRS(A_INTS("stride", stride, 2), A_INT("groups", 1))) */
#define IN(...) \
  (int)(sizeof((value *[]){__VA_ARGS__}) / sizeof(value *)), (value *[]) { __VA_ARGS__ }
#define ATTRS(...) \
  (int)(sizeof((named_attr[]){__VA_ARGS__}) / sizeof(named_attr)), (named_attr[]) { __VA_ARGS__ }
#define NO_ATTRS 0, NULL
#define A_INT(n, v)             \
  {                             \
    (n), {                      \
      ATTR_INT, 0, { .i = (v) } \
    }                           \
  }
#define A_FLOAT(n, v)             \
  {                               \
    (n), {                        \
      ATTR_FLOAT, 0, { .f = (v) } \
    }                             \
  }
#define A_BOOL(n, v)             \
  {                              \
    (n), {                       \
      ATTR_BOOL, 0, { .i = (v) } \
    }                            \
  }
#define A_STR(n, v)             \
  {                             \
    (n), {                      \
      ATTR_STR, 0, { .s = (v) } \
    }                           \
  }
#define A_DTYPE(n, v)             \
  {                               \
    (n), {                        \
      ATTR_DTYPE, 0, { .i = (v) } \
    }                             \
  }
#define A_INTS(n, v, c)               \
  {                                   \
    (n), {                            \
      ATTR_INTS, (c), { .ints = (v) } \
    }                                 \
  }
#define A_FLOATS(n, v, c)                 \
  {                                       \
    (n), {                                \
      ATTR_FLOATS, (c), { .floats = (v) } \
    }                                     \
  }

/* Notes that a == b must hold at run time. */
void graph_guard_equal(graph *g, dim a, dim b);

/* Low level: for passes. */
block *graph_new_block(graph *g, node *owner); /* not yet attached */
void node_set_epilogue(node *n, block *epilogue, int n_extra, value *const *extra);
void node_set_input(node *n, int index, value *v);
void node_add_input(node *n, value *v); /* appends */
void block_set_results(block *b, int n, value *const *results);
void node_move_before(node *n, node *before);
void node_remove(node *n); /* outputs must be unused; unlinks its uses and those of its blocks */
void value_replace_uses(value *old, value *replacement);
int value_use_count(const value *v);
node *value_single_user(const value *v); /* NULL if none, several, or a block result */
bool value_is_result(const value *v);
static inline value *node_in(const node *n, int i) { return i < n->n_inputs ? n->inputs[i].v : NULL; }

/* Calls fn for each use of a constant, in all blocks, and for initial states (so several times for one used in several
 * places). */
typedef void (*constant_fn)(void *user, constant *c);
void graph_visit_constants(const graph *g, constant_fn fn, void *user);

/* Attributes by name; the name must be in the schema (asserted in debug builds, zero otherwise). */
const attr *node_attr(const node *n, const char *name);
int64_t node_int(const node *n, const char *name);
double node_float(const node *n, const char *name);
bool node_bool(const node *n, const char *name);
const char *node_str(const node *n, const char *name);
void node_set_attr(node *n, const char *name, attr v); /* copies lists and strings into the arena */
bool attr_equal(const attr *a, const attr *b);

/* ---- Types ------------------------------------------------------------------------------------------------------- */

tensor_type type_of(kiln_dtype dtype, int rank, const dim *dims);
bool type_equal(const tensor_type *a, const tensor_type *b);
bool type_is_static(const tensor_type *t);
bool type_bytes(const tensor_type *t, size_t *out); /* static types; false on overflow */
dim type_numel(graph *g, const tensor_type *t);
bool dtype_is_float(kiln_dtype d);
bool dtype_is_int(kiln_dtype d);                                  /* not bool */
kiln_dtype dtype_promote(kiln_dtype a, kiln_dtype b);             /* PyTorch's table for two dimensioned tensors */
void scalar_store(kiln_dtype dtype, void *data, double v);        /* one element, rounded to dtype */
void type_print(const graph *g, const tensor_type *t, text *out); /* f32[2,s0,4] */

/* ---- Text, checking, inference ----------------------------------------------------------------------------------- */

/* Prints all of `g`. Constants up to `inline_bytes` are written out; others as `= weight N` with N from constant.weight
 * (or a running number if that is -1). graph_parse(graph_print(g)) prints the same text again. */
void graph_print(const graph *g, size_t inline_bytes, text *out);
/* The same with the names of weights, which are never written out, and with those that have no use. */
void graph_print_named(const graph *g, size_t inline_bytes, text *out);
void node_print(const graph *g, const node *n, text *out); /* one line, for messages */

/* Gives weight N: its type is in the text; checks `size` against it unless packed. Returns bytes that outlive the
 * graph. */
typedef kiln_status (*weight_source)(void *user, int64_t index, const tensor_type *type, const char *packing,
                                     const void **out_data, size_t *out_size);
kiln_status graph_parse(const char *bytes, size_t size, weight_source weights, void *user, graph **out_graph);

/* Is the graph well-formed: uses and producers agree, definitions dominate uses, operands and attributes fit the
 * schemas, types are those that inference gives, isolated blocks are isolated, names are unique. */
kiln_status graph_verify(graph *g);
/* Recomputes the output types of one node (also the anchor type inside its epilogue). */
kiln_status node_infer(node *n);

#endif
