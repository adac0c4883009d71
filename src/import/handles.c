/* Tensor handles: PyTorch's views and in-place writes over a graph that has neither.
 *
 * A handle is a base (it owns a value) or a view (its parent's value, seen through a chain of view nodes). A write to
 * any of them gives the base a new value and moves the base's version on; a view whose version is older replays its
 * nodes on the base's newest value when it is next read. Writing through a view runs the chain backwards: the written
 * slice is scattered into the value that it was sliced from, a reshape is undone by a reshape, and so on up to the
 * base. */
#include "import/handles.h"

#include <string.h>

#include "base/memory.h"
#include "import/aten.h"
#include "ops/op.h"
#include "ops/ref.h"

enum { MAX_VALUES = 8000000 };

itensor *lower_tensor(importer *im, value *v) {
  itensor *t = ARENA_NEW(im->arena, itensor);
  if (!t) return NULL;
  t->base = t;
  t->v = v;
  t->im = im;
  t->older = im->handles;
  t->serial = t->older ? t->older->serial + 1 : 0;
  im->handles = t;
  return t;
}

/* View nodes, those at a place that is known at run time, and the index_select that unfold and as_strided are made of.
 */
static bool is_step(const node *n) {
  return (n->op->flags & OP_VIEW) || str_eq(n->op->name, "index_select") || str_eq(n->op->name, "narrow");
}

/* The chain of view nodes from `from` to `to`; -1 if there is anything else between them. */
static int view_chain(const value *from, value *to, node **steps, int max) {
  int n = 0;
  for (value *v = to; v != from; v = node_in(v->producer, 0)) {
    if (!v->producer || !is_step(v->producer) || n == max) return -1;
    steps[n++] = v->producer;
  }
  for (int i = 0; i < n / 2; i++) {
    node *swap = steps[i];
    steps[i] = steps[n - 1 - i];
    steps[n - 1 - i] = swap;
  }
  return n;
}

int handle_strides(const itensor *t, int64_t *out) {
  const node *steps[HANDLE_MAX_DEPTH];
  const itensor *h = t;
  int n = 0;
  for (; h->base != h; h = h->parent)
    for (int i = h->n_steps - 1; i >= 0; i--) {
      if (n == HANDLE_MAX_DEPTH || !h->steps[i]->op->view) return -1;
      steps[n++] = h->steps[i];
    }
  if (!type_is_static(&h->v->type)) return -1;
  tensor in = {.dtype = h->v->type.dtype, .rank = h->v->type.rank};
  for (int i = 0; i < in.rank; i++) in.shape[i] = h->v->type.dims[i];
  tensor_make_contiguous_strides(&in);
  while (n-- > 0) {
    const kernel_args args = {.node = steps[n], .attrs = steps[n]->attrs};
    const tensor_type *type = &steps[n]->outputs[0]->type;
    tensor view = {.dtype = type->dtype, .rank = type->rank};
    if (!type_is_static(type)) return -1;
    for (int i = 0; i < view.rank; i++) view.shape[i] = type->dims[i];
    if (!steps[n]->op->view(&args, &in, &view)) return 0;
    in = view;
  }
  memcpy(out, in.strides, sizeof in.strides);
  return 1;
}

itensor *handle_view(importer *im, itensor *parent, value *v) {
  node *steps[HANDLE_MAX_STEPS];
  const int n = view_chain(parent->v, v, steps, HANDLE_MAX_STEPS);
  itensor *t = lower_tensor(im, v);
  if (!t || n < 0) return t; /* a copy: PyTorch's reshape of what cannot be viewed, for instance */
  t->steps = n ? arena_copy(im->arena, steps, (size_t)n * sizeof *steps) : NULL;
  if (n && !t->steps) return NULL;
  t->n_steps = n;
  t->parent = parent;
  t->depth = parent->depth + 1;
  t->base = parent->base;
  t->version = t->base->version;
  int64_t strides[KILN_MAX_RANK];
  if (handle_strides(t, strides) == 0) { /* a reshape that no strides can express: a copy */
    t->base = t;
    t->parent = NULL;
    t->n_steps = t->depth = 0;
    t->version = 0;
  }
  return t;
}

bool handle_become(importer *im, itensor *t, const itensor *view) {
  for (int i = 0; t->parts[0] && view->parts[0] && i < 2; i++) t->parts[i] = view->parts[i];
  if (view->parent != t) return true;
  itensor *old = ARENA_NEW(im->arena, itensor); /* takes t's place for all that was made from it */
  if (!old) return false;
  *old = *t;
  if (t->base == t) old->base = old;
  for (itensor *h = im->handles; h; h = h->older) {
    if (h == t) continue;
    if (h->parent == t) h->parent = old;
    if (h->base == t) h->base = old;
  }
  old->older = t->older; /* beside t, as old as it */
  itensor *const older = old;
  const uint32_t serial = t->serial;
  *t = *view;
  t->older = older;
  t->serial = serial;
  for (itensor_link *l = old->links; l; l = l->next)
    for (itensor_link *k = l->other->links; k; k = k->next)
      if (k->other == t) k->other = old;
  t->links = NULL;
  return true;
}

/* The same view operator on another input. */
static node *replay(builder *b, const node *n, value *x) {
  graph *g = b->graph;
  if (g->next_id > MAX_VALUES && !g->failed) { /* a small file can ask for ever more of them */
    g->failed = true;
    g->failure = KILN_FAIL(KILN_UNSUPPORTED,
                           "the model writes to views so often that its graph would have over %d values", MAX_VALUES);
  }
  const op_schema *schema = op_schema_of(n->op);
  named_attr attrs[16];
  int count = 0;
  for (int i = 0; i < schema->n_attrs && i < (int)KILN_COUNT(attrs); i++)
    attrs[count++] = (named_attr){schema->attrs[i].name, n->attrs[i]};
  value *operands[2] = {x, n->n_inputs > 1 ? node_in(n, 1) : NULL};
  return build_node(b, n->op->name, n->n_inputs > 1 ? 2 : 1, operands, count, attrs);
}

static void changing(itensor *t) {
  if (t->im->changing) t->im->changing(t->im->changing_user, t);
}

/* Brings the view's steps up to date; its value is the last one's output. */
static bool refresh(builder *b, itensor *t) {
  if (t->base == t || t->version == t->base->version) return true;
  value *v = lower_value(b, t->parent);
  if (!v) return false;
  changing(t);
  for (int i = 0; i < t->n_steps; i++) {
    node *n = replay(b, t->steps[i], v);
    if (!n) return false;
    t->steps[i] = n;
    v = n->outputs[0];
  }
  t->v = v;
  t->version = t->base->version;
  return true;
}

bool handle_link(importer *im, itensor *a, itensor *b) {
  itensor *const ends[2] = {a->base, b->base};
  for (int i = 0; i < 2; i++) {
    itensor_link *l = ARENA_NEW(im->arena, itensor_link);
    if (!l) return false;
    *l = (itensor_link){ends[1 - i], ends[i]->links};
    ends[i]->links = l;
  }
  return true;
}

bool lower_is_base(const itensor *t) { return t->base == t; }

value *lower_value(builder *b, itensor *t) {
  graph *g = b->graph;
  if (t && t->base->stale && !g->failed) {
    g->failed = true;
    g->failure =
        KILN_FAIL(KILN_UNSUPPORTED,
                  "a tensor is read after an in-place write to another that may be the same one, depending on a branch "
                  "or loop on tensor data; clone() it in the model before it is written");
  }
  if (t && t->parts[0] && !g->failed) {
    g->failed = true;
    g->failure =
        KILN_FAIL(KILN_UNSUPPORTED,
                  "complex tensors are supported between operators that take them, but not in branches and loops; "
                  "use torch.view_as_real");
  }
  return t && !g->failed && refresh(b, t) ? t->v : NULL;
}

/* ---- writing ------------------------------------------------------------------------------------ */

static kiln_status failed(const graph *g, const char *what) {
  const kiln_status status = graph_check(g);
  return status != KILN_OK ? status : KILN_NO_MEMORY(what);
}

static kiln_status undo_expand(builder *b, const tensor_type *in, value *w, value **out) {
  graph *g = b->graph;
  const int added = w->type.rank - in->rank;
  bool repeats = added < 0;
  for (int i = 0; i < w->type.rank && !repeats; i++) {
    const dim from = i < added ? 1 : in->dims[i - added];
    repeats = from != w->type.dims[i] && dim_compare_equal(g->dims, from, w->type.dims[i]) == 0;
  }
  if (repeats)
    return KILN_FAIL(KILN_UNSUPPORTED,
                     "unsupported operation: more than one element of the written-to tensor refers to a single memory "
                     "location (a write to an expanded tensor); clone() the tensor in the model before writing to it");
  *out = lower_reshape(b, w, in->rank, in->dims);
  return KILN_OK;
}

/* index_put at rows i and columns i + offset. */
value *lower_diagonal_scatter(builder *b, value *x, value *src, int64_t offset, int axis1, int axis2) {
  if (!x || !src) return NULL;
  const int rank = x->type.rank;
  int axes[2] = {axis1, axis2};
  const dim length = src->type.dims[rank - 2];
  value *index[2];
  for (int i = 0; i < 2; i++) {
    const int64_t start = i == 0 ? (offset < 0 ? -offset : 0) : (offset > 0 ? offset : 0);
    index[i] = build(
        b, "arange", 0, NULL,
        ATTRS(A_FLOAT("start", (double)start), A_FLOAT("step", 1), A_INT("count", length), A_DTYPE("dtype", KILN_I64)));
  }
  if (axes[0] > axes[1]) {
    const int a = axes[0];
    axes[0] = axes[1], axes[1] = a;
    value *v = index[0];
    index[0] = index[1], index[1] = v;
  }
  /* The diagonal is src's last axis; advanced indexing puts it first, or at axes[0] when the two axes are
   * neighbours. */
  const int place = axes[1] == axes[0] + 1 ? axes[0] : 0;
  dim order[KILN_MAX_RANK];
  for (int i = 0, next = 0; i < rank - 1; i++) order[i] = i == place ? rank - 2 : next++;
  const int64_t attr_axes[2] = {axes[0], axes[1]};
  return build(b, "index_put", IN(x, lower_permute(b, src, rank - 1, order), index[0], index[1]),
               ATTRS(A_INTS("axes", attr_axes, 2)));
}

/* `w` is what the output of view node `n` shall be: what must its input be then? */
static kiln_status undo(builder *b, const node *n, value *w, value **out) {
  value *x = node_in(n, 0);
  const char *name = n->op->name;
  if (str_eq(name, "reshape")) {
    *out = lower_reshape(b, w, x->type.rank, x->type.dims);
  } else if (str_eq(name, "permute")) {
    const attr *order = node_attr(n, "order");
    dim inverse[KILN_MAX_RANK] = {0};
    for (int i = 0; i < order->count && i < KILN_MAX_RANK; i++) inverse[order->u.ints[i] & (KILN_MAX_RANK - 1)] = i;
    *out = lower_permute(b, w, x->type.rank, inverse);
  } else if (str_eq(name, "slice")) {
    *out = build(b, "slice_scatter", IN(x, w),
                 ATTRS(A_INT("axis", node_int(n, "axis")), A_INT("start", node_int(n, "start")),
                       A_INT("end", node_int(n, "end")), A_INT("step", node_int(n, "step"))));
  } else if (str_eq(name, "expand")) {
    return undo_expand(b, &x->type, w, out);
  } else if (str_eq(name, "index_select")) { /* whose places are distinct, else PyTorch refuses the write */
    const int64_t axis = node_int(n, "axis");
    *out = build(b, "index_put", IN(x, w, node_in(n, 1)), ATTRS(A_INTS("axes", &axis, 1)));
  } else if (str_eq(name, "narrow")) {
    *out = build(b, "narrow_scatter", IN(x, w, node_in(n, 1)), ATTRS(A_INT("axis", node_int(n, "axis"))));
  } else if (str_eq(name, "diagonal")) {
    *out = lower_diagonal_scatter(b, x, w, node_int(n, "offset"), (int)node_int(n, "axis1"), (int)node_int(n, "axis2"));
  } else {
    return KILN_FAIL(KILN_UNSUPPORTED, "a write to a view made by %s is not supported", name);
  }
  return *out ? KILN_OK : failed(b->graph, "written view");
}

/* Whatever may share memory with `t`, directly or through others, is not known any more. */
static void spread_stale(itensor *t) {
  itensor *work = t;
  t->next_stale = NULL;
  while (work) {
    const itensor *now = work;
    work = now->next_stale;
    for (const itensor_link *l = now->links; l; l = l->next) {
      itensor *o = l->other;
      if (o == t || o->stale) continue;
      changing(o);
      o->stale = true;
      o->next_stale = work;
      work = o;
    }
  }
}

/* Replaces t's contents by `v`, which has its type. */
static kiln_status set_contents(builder *b, itensor *t, value *v) {
  if (t->base == t) {
    spread_stale(t);
    changing(t);
    t->v = v;
    t->version++;
    return KILN_OK;
  }
  if (!refresh(b, t)) return failed(b->graph, "view");
  value *w = v;
  for (int i = t->n_steps - 1; i >= 0; i--) KILN_TRY(undo(b, t->steps[i], w, &w));
  KILN_TRY(set_contents(b, t->parent, w));
  return KILN_OK;
}

kiln_status lower_write(builder *b, itensor *t, value *v) {
  value *old = lower_value(b, t);
  if (!old || !v) return failed(b->graph, "written tensor");
  if (v == old) return KILN_OK;
  v = lower_expand(b, lower_cast(b, v, old->type.dtype), old->type.rank, old->type.dims);
  if (!v) return failed(b->graph, "written tensor");
  return set_contents(b, t, v);
}

/* ---- small builders ----------------------------------------------------------------------------- */

static bool same_dims(graph *g, const tensor_type *t, int rank, const dim *dims) {
  if (t->rank != rank) return false;
  for (int i = 0; i < rank; i++)
    if (t->dims[i] != dims[i] && dim_compare_equal(g->dims, t->dims[i], dims[i]) != 1) return false;
  return true;
}

value *lower_cast(builder *b, value *v, kiln_dtype dtype) {
  if (!v || v->type.dtype == dtype) return v;
  if (v->constant && v->type.rank == 0 && !v->constant->packing &&
      !v->constant->names) { /* Python numbers: no node for them */
    const tensor from = {.data = (void *)(uintptr_t)v->constant->data, .dtype = v->type.dtype};
    if (dtype_is_float(v->type.dtype)) {
      if (dtype_is_float(dtype)) return graph_scalar(b->graph, dtype, ref_load(&from, 0));
    } else if (dtype_is_float(dtype)) {
      return graph_scalar(b->graph, dtype, (double)ref_load_int(&from, 0));
    } else {
      const int64_t i = ref_load_int(&from, 0);
      return graph_scalar_int(b->graph, dtype, dtype == KILN_BOOL ? i != 0 : i);
    }
  }
  return build(b, "cast", IN(v), ATTRS(A_DTYPE("dtype", dtype)));
}

value *lower_reshape(builder *b, value *v, int rank, const dim *dims) {
  if (!v || same_dims(b->graph, &v->type, rank, dims)) return v;
  return build(b, "reshape", IN(v), ATTRS(A_INTS("shape", dims, rank)));
}

value *lower_permute(builder *b, value *v, int rank, const dim *order) {
  bool identity = true;
  for (int i = 0; i < rank; i++) identity &= order[i] == i;
  if (!v || identity) return v;
  return build(b, "permute", IN(v), ATTRS(A_INTS("order", order, rank)));
}

value *lower_expand(builder *b, value *v, int rank, const dim *dims) {
  if (!v || same_dims(b->graph, &v->type, rank, dims)) return v;
  if (v->type.rank > rank) { /* assignment drops leading ones: x[0] = ones(1, 3) */
    const int extra = v->type.rank - rank;
    for (int i = 0; i < extra; i++)
      if (v->type.dims[i] != 1) return build(b, "expand", IN(v), ATTRS(A_INTS("shape", dims, rank)));
    v = lower_reshape(b, v, rank, v->type.dims + extra);
    if (!v || same_dims(b->graph, &v->type, rank, dims)) return v;
  }
  return build(b, "expand", IN(v), ATTRS(A_INTS("shape", dims, rank)));
}

value *lower_binary(builder *b, const char *op_name, value *x, value *y) {
  return build(b, op_name, IN(x, y), NO_ATTRS);
}

/* PyTorch weighs operands by how much they say about the wanted type: tensors with dimensions, then rank-0 tensors,
 * then Python numbers. A lighter operand decides only if its category (bool < integer < float) is higher.
 * (at::native::result_type) */
static int category(kiln_dtype d) { return d == KILN_BOOL ? 0 : dtype_is_int(d) ? 1 : 2; }

static kiln_dtype combine(int heavy, int light) {
  if (heavy < 0) return (kiln_dtype)light;
  if (light < 0 || category((kiln_dtype)light) <= category((kiln_dtype)heavy)) return (kiln_dtype)heavy;
  return dtype_promote((kiln_dtype)heavy, (kiln_dtype)light);
}

void lower_promote(builder *b, value **x, bool x_is_scalar, value **y, bool y_is_scalar) {
  if (!*x || !*y) return;
  int kinds[3] = {-1, -1, -1}; /* dimensioned, rank 0, number */
  value *const v[2] = {*x, *y};
  const bool scalar[2] = {x_is_scalar, y_is_scalar};
  for (int i = 0; i < 2; i++) {
    const int k = scalar[i] ? 2 : v[i]->type.rank == 0 ? 1 : 0;
    kiln_dtype d = v[i]->type.dtype;
    if (k == 2 && dtype_is_float(d)) d = KILN_F32; /* numbers come as f64, but count as the default dtype */
    kinds[k] = kinds[k] < 0 ? (int)d : (int)dtype_promote((kiln_dtype)kinds[k], d);
  }
  const kiln_dtype light = kinds[1] < 0 && kinds[2] < 0 ? KILN_BOOL : combine(kinds[1], kinds[2]);
  const kiln_dtype result = kinds[0] < 0 ? light : combine(kinds[0], (int)light);
  *x = lower_cast(b, *x, result);
  *y = lower_cast(b, *y, result);
}

value *lower_size_tensor(builder *b, dim d) {
  if (dim_is_const(d)) return graph_scalar_int(b->graph, KILN_I64, d);
  return build(b, "size", 0, NULL, ATTRS(A_INT("value", d)));
}
