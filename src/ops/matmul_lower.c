/* tensordot as one batched matrix product, embedding_bag as a sum of looked-up rows.
 *
 * A contraction of two operands sorts the letters into batch (both operands and kept), left (first only), right (second
 * only) and sum (both, not kept). Each operand is permuted to [batch, left, sum] and [batch, sum, right] and flattened
 * to rank 3. */
#include "ops/matmul_lower.h"

enum { ALL_LETTERS = 2 * KILN_MAX_RANK };

typedef struct labelled { /* a value and the letter of each of its dimensions */
  value *v;
  int count;
  int letter[KILN_MAX_RANK];
} labelled;

static int find_letter(const labelled *l, int letter) {
  for (int i = 0; i < l->count; i++)
    if (l->letter[i] == letter) return i;
  return -1;
}

/* Letters of `l` in the order given; new dims are 1. Returns the value permuted so. */
static value *arrange(builder *b, const labelled *l, const int *letters, int count) {
  if (!l->v) return NULL;
  dim order[KILN_MAX_RANK], dims[KILN_MAX_RANK];
  int n = 0;
  for (int i = 0; i < count; i++) {
    const int at = find_letter(l, letters[i]);
    dims[i] = at < 0 ? 1 : l->v->type.dims[at];
    if (at >= 0) order[n++] = at;
  }
  value *v = lower_permute(b, l->v, n, order);
  return n == count ? v : lower_reshape(b, v, count, dims);
}

typedef struct contraction {
  int batch[KILN_MAX_RANK], left[KILN_MAX_RANK], right[KILN_MAX_RANK], sum[KILN_MAX_RANK];
  int n_batch, n_left, n_right, n_sum;
} contraction;

static void sort_letters(const labelled *x, const labelled *y, const bool *keep, contraction *c) {
  *c = (contraction){.n_batch = 0};
  for (int i = 0; i < x->count; i++) {
    const int letter = x->letter[i];
    if (find_letter(y, letter) < 0) {
      c->left[c->n_left++] = letter;
    } else if (keep[letter]) {
      c->batch[c->n_batch++] = letter;
    } else {
      c->sum[c->n_sum++] = letter;
    }
  }
  for (int i = 0; i < y->count; i++)
    if (find_letter(x, y->letter[i]) < 0) c->right[c->n_right++] = y->letter[i];
}

static int append(int *list, int n, const int *more, int count) {
  for (int i = 0; i < count; i++) list[n + i] = more[i];
  return n + count;
}

static dim letters_size(dim_table *t, const labelled *l, const int *letters, int count) {
  dim d = 1;
  for (int i = 0; i < count; i++) d = dim_mul(t, d, l->v->type.dims[find_letter(l, letters[i])]);
  return d;
}

/* A batch or sum letter whose size is 1 in one operand only is broadcast: give it the other's size. */
static void even_sizes(builder *b, labelled *x, const labelled *y) {
  dim dims[KILN_MAX_RANK];
  bool grown = false;
  for (int i = 0; i < x->count; i++) {
    const int at = find_letter(y, x->letter[i]);
    dims[i] = x->v->type.dims[i];
    if (at >= 0 && dims[i] == 1 && y->v->type.dims[at] != 1) {
      dims[i] = y->v->type.dims[at];
      grown = true;
    }
  }
  if (grown) x->v = lower_expand(b, x->v, x->count, dims);
}

/* x and y to one operand that has the letters batch, left, right. */
static kiln_status contract(lower_call *call, labelled *x, labelled *y, const bool *keep) {
  builder *b = &call->b;
  dim_table *t = b->graph->dims;
  even_sizes(b, x, y);
  LOWER_NEED(call, x->v);
  even_sizes(b, y, x);
  LOWER_NEED(call, y->v);
  contraction c;
  sort_letters(x, y, keep, &c);
  if (c.n_batch + c.n_left + c.n_right > KILN_MAX_RANK)
    return LOWER_FAIL(call, "an intermediate result has more than %d dimensions", KILN_MAX_RANK);
  int xs[KILN_MAX_RANK], ys[KILN_MAX_RANK];
  append(xs, append(xs, append(xs, 0, c.batch, c.n_batch), c.left, c.n_left), c.sum, c.n_sum);
  append(ys, append(ys, append(ys, 0, c.batch, c.n_batch), c.sum, c.n_sum), c.right, c.n_right);
  const dim batch = letters_size(t, x, c.batch, c.n_batch), left = letters_size(t, x, c.left, c.n_left);
  const dim sum = letters_size(t, x, c.sum, c.n_sum), right = letters_size(t, y, c.right, c.n_right);
  const int skip = c.n_batch ? 0 : 1; /* no batch: rank 2 */
  value *xv = arrange(b, x, xs, x->count), *yv = arrange(b, y, ys, y->count);
  const dim x_dims[] = {batch, left, sum}, y_dims[] = {batch, sum, right};
  if (xv) xv = lower_reshape(b, xv, 3 - skip, x_dims + skip);
  if (yv) yv = lower_reshape(b, yv, 3 - skip, y_dims + skip);
  value *p = c.n_sum ? matmul_product(b, xv, yv) : lower_binary(b, "mul", xv, yv);
  dim dims[KILN_MAX_RANK];
  labelled out = {.count = 0};
  for (int i = 0; i < c.n_batch; i++) out.letter[out.count++] = c.batch[i];
  for (int i = 0; i < c.n_left; i++) out.letter[out.count++] = c.left[i];
  for (int i = 0; i < c.n_right; i++) out.letter[out.count++] = c.right[i];
  for (int i = 0; i < out.count; i++) {
    const int at = find_letter(x, out.letter[i]);
    dims[i] = at >= 0 ? x->v->type.dims[at] : y->v->type.dims[find_letter(y, out.letter[i])];
  }
  LOWER_NEED(call, p);
  out.v = lower_reshape(b, p, out.count, dims);
  LOWER_NEED(call, out.v);
  *x = out;
  return KILN_OK;
}

kiln_status lower_tensordot(lower_call *c) {
  labelled x = {.v = NULL}, y = {.v = NULL};
  dim x_axes[KILN_MAX_RANK], y_axes[KILN_MAX_RANK];
  KILN_TRY(lowering_tensor(c, "self", &x.v));
  KILN_TRY(lowering_tensor(c, "other", &y.v));
  const int n = call_ints(c, "dims_self", x_axes, KILN_MAX_RANK);
  if (n < 0 || n > KILN_MAX_RANK || call_ints(c, "dims_other", y_axes, KILN_MAX_RANK) != n)
    return LOWER_FAIL(c, "arguments dims_self and dims_other must have one length");
  bool keep[ALL_LETTERS];
  x.count = x.v->type.rank;
  y.count = y.v->type.rank;
  for (int i = 0; i < x.count; i++) keep[x.letter[i] = i] = true;
  for (int i = 0; i < y.count; i++) keep[y.letter[i] = KILN_MAX_RANK + i] = true;
  for (int i = 0; i < n; i++) {
    int ax, ay;
    KILN_TRY(lowering_wrap_axis(c, "dims_self", x_axes[i], x.count, &ax));
    KILN_TRY(lowering_wrap_axis(c, "dims_other", y_axes[i], y.count, &ay));
    keep[ax] = false;
    y.letter[ay] = ax;
  }
  int order[KILN_MAX_RANK];
  int count = 0;
  for (int i = 0; i < x.count; i++)
    if (keep[i]) order[count++] = i;
  for (int i = 0; i < y.count && count < KILN_MAX_RANK; i++)
    if (y.letter[i] >= KILN_MAX_RANK) order[count++] = y.letter[i];
  KILN_TRY(contract(c, &x, &y, keep));
  call_return(c, 0, arrange(&c->b, &x, order, count));
  return KILN_OK;
}

/* ---- embedding_bag ----------------------------------------------------------------------------------------------- */

/* Is item j in bag i? [bags, items]: offsets[i] <= j < offsets[i + 1] (the last bag goes to the end). */
static value *bag_members(lower_call *c, value *offsets, dim items, bool has_last) {
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  const dim count = offsets->type.dims[0];
  value *end = NULL, *begin = offsets;
  if (has_last) {
    begin = lowering_slice(b, offsets, 0, 0, dim_sub(t, count, 1), 1);
    end = lowering_slice(b, offsets, 0, 1, count, 1);
  } else {
    value *last = lowering_unsqueeze(b, lower_cast(b, lower_size_tensor(b, items), offsets->type.dtype), 0);
    end = build(b, "concat", IN(lowering_slice(b, offsets, 0, 1, count, 1), last), ATTRS(A_INT("axis", 0)));
  }
  value *item = lower_cast(b, lowering_unsqueeze(b, lowering_iota(b, items), 0), offsets->type.dtype);
  value *after = lower_binary(b, "le", lowering_unsqueeze(b, begin, 1), item);
  value *before = lower_binary(b, "lt", item, lowering_unsqueeze(b, end, 1));
  return lower_binary(b, "logical_and", after, before);
}

/* Each item is added to the row of its bag; items of no bag go to a row behind the last. [bags, D] */
static value *bag_sums(builder *b, value *members, value *items) {
  dim_table *t = b->graph->dims;
  const dim bags = members->type.dims[0];
  const int64_t axis = 0;
  value *count = lower_cast(b, lower_size_tensor(b, bags), KILN_I64);
  value *bag = lower_cast(b, lowering_unsqueeze(b, lowering_iota(b, bags), 1), KILN_I64);
  value *place = lower_binary(b, "mul", lower_cast(b, members, KILN_I64), lower_binary(b, "sub", bag, count));
  place = place ? build(b, "sum", IN(place), ATTRS(A_INTS("axes", &axis, 1))) : NULL;
  place = lower_binary(b, "add", place, count);
  place = place ? lower_expand(b, lowering_unsqueeze(b, place, 1), 2, items->type.dims) : NULL;
  const dim sums[] = {dim_add(t, bags, 1), items->type.dims[1]};
  value *zeros = lower_expand(b, graph_scalar(b->graph, items->type.dtype, 0), 2, sums);
  if (!place || !zeros) return NULL;
  value *y = build(b, "scatter", IN(zeros, place, items), ATTRS(A_INT("axis", 0), A_STR("reduce", "add")));
  return y ? lowering_slice(b, y, 0, 0, bags, 1) : NULL;
}

/* Rows of each bag are selected (not multiplied by 0: a NaN of another bag must not spread), then summed, averaged or
 * maximized. */
kiln_status lower_embedding_bag(lower_call *c) {
  builder *b = &c->b;
  value *w, *indices, *offsets, *per_sample = call_tensor(c, "per_sample_weights");
  KILN_TRY(lowering_tensor(c, "weight", &w));
  KILN_TRY(lowering_tensor(c, "indices", &indices));
  KILN_TRY(lowering_tensor(c, "offsets", &offsets));
  const dim mode = call_int(c, "mode");
  if (mode < 0 || mode > 2) return LOWER_FAIL(c, "argument mode: expected 0 (sum), 1 (mean) or 2 (max)");
  const ivalue *padding = NULL;
  for (int32_t i = 0; i < c->schema->n_args; i++)
    if (str_eq(c->schema->args[i].name, "padding_idx")) padding = &c->args[i];
  if (indices->type.rank != 1 || offsets->type.rank != 1)
    return LOWER_FAIL(c, "expected indices and offsets of rank 1");
  value *members = bag_members(c, offsets, indices->type.dims[0], call_bool(c, "include_last_offset"));
  value *items = build(b, "embedding", IN(w, indices), NO_ATTRS);
  if (padding && padding->kind == IV_INT &&
      members) { /* -1: none, where the argument is an int; else it counts from the end */
    dim skip = padding->u.i;
    if (str_eq(c->schema->overload, "padding_idx")) skip = lowering_wrap_index(b->graph->dims, skip, w->type.dims[0]);
    if (!dim_is_const(skip)) return LOWER_FAIL(c, "argument padding_idx must be constant");
    value *used = lower_binary(b, "ne", indices, graph_scalar_int(b->graph, indices->type.dtype, skip));
    if (skip >= 0) members = lower_binary(b, "logical_and", members, lowering_unsqueeze(b, used, 0));
  }
  if (per_sample && items) items = lower_binary(b, "mul", items, lowering_unsqueeze(b, per_sample, 1));
  LOWER_NEED(c, members);
  LOWER_NEED(c, items);
  const int64_t axis = 1;
  value *y;
  if (mode < 2 && items->type.dtype == KILN_F32) {
    y = bag_sums(b, members, items);
  } else { /* [bags, items, 1] picks from [1, items, D] */
    value *other = graph_scalar(b->graph, items->type.dtype, mode == 2 ? (double)-__builtin_inff() : 0);
    value *picked =
        build(b, "where", IN(lowering_unsqueeze(b, members, 2), lowering_unsqueeze(b, items, 0), other), NO_ATTRS);
    y = build(b, mode == 2 ? "amax" : "sum", IN(picked), ATTRS(A_INTS("axes", &axis, 1)));
  }
  LOWER_NEED(c, y);
  if (mode) { /* empty bags give 0 */
    value *number = build(b, "sum", IN(lower_cast(b, members, items->type.dtype)),
                          ATTRS(A_INTS("axes", &axis, 1), A_BOOL("keepdim", 1)));
    if (mode == 1) {
      y = lower_binary(b, "div", y, build(b, "clamp", IN(number), ATTRS(A_FLOAT("min", 1))));
    } else {
      value *zero = graph_scalar(b->graph, items->type.dtype, 0);
      y = build(b, "where", IN(lower_binary(b, "gt", number, zero), y, zero), NO_ATTRS);
    }
  }
  call_return(c, 0, y);
  return KILN_OK; /* the other results serve training */
}

/* ---- trilinear forms --------------------------------------------------------------------------------------------- */

/* sum over `sumdim` of i1 * i2 * i3, each with dimensions of 1 put in where its expand list says. */
kiln_status lower_trilinear(lower_call *c) {
  static const char *const names[3][2] = {{"i1", "expand1"}, {"i2", "expand2"}, {"i3", "expand3"}};
  builder *b = &c->b;
  value *product = NULL;
  int rank = 0;
  for (int k = 0; k < 3; k++) {
    value *v;
    dim axes[KILN_MAX_RANK];
    KILN_TRY(lowering_tensor(c, names[k][0], &v));
    const int n = call_ints(c, names[k][1], axes, KILN_MAX_RANK);
    if (n < 0 || v->type.rank + n > KILN_MAX_RANK) return LOWER_FAIL(c, "more than %d dimensions", KILN_MAX_RANK);
    rank = v->type.rank + n;
    bool here[KILN_MAX_RANK] = {false};
    for (int i = 0; i < n; i++) {
      int axis;
      KILN_TRY(lowering_wrap_axis(c, names[k][1], axes[i], rank, &axis));
      here[axis] = true;
    }
    for (int i = 0; i < rank; i++)
      if (here[i]) v = lowering_unsqueeze(b, v, i);
    product = k ? lower_binary(b, "mul", product, v) : v;
  }
  LOWER_NEED(c, product);
  int64_t sums[KILN_MAX_RANK];
  int count;
  KILN_TRY(lowering_axes(c, "sumdim", product->type.rank, false, sums, &count));
  call_return(c, 0, count ? build(b, "sum", IN(product), ATTRS(A_INTS("axes", sums, count))) : product);
  return KILN_OK;
}
