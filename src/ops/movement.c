/* Operators that move elements without computing: concat, pad, tile, flip, roll, tril, triu, and the plain copy. */
#include <string.h>

#include "ops/infer.h"
#include "ops/lowering.h"
#include "ops/op.h"
#include "ops/ref.h"

/* ---- contiguous -------------------------------------------------------------------------------------------------- */

static void copy_item(char *to, const char *from, size_t size) {
  switch (size) { /* known sizes are single moves */
    case 1:
      memcpy(to, from, 1);
      break;
    case 2:
      memcpy(to, from, 2);
      break;
    case 4:
      memcpy(to, from, 4);
      break;
    case 8:
      memcpy(to, from, 8);
      break;
    default:
      memcpy(to, from, size);
      break;
  }
}

/* Elements of `in` to where `out` has them, from its element `start` on: in runs that are contiguous in both, as long as possible. */
static void copy_elements(const tensor *in, const tensor *out, int64_t start) {
  const size_t item = kiln_dtype_size(in->dtype);
  int64_t run = 1;
  int rank = in->rank;
  for (; rank > 0; rank--) {
    const int k = rank - 1;
    if (in->shape[k] != 1 && (in->strides[k] != run || out->strides[k] != run)) break;
    run *= in->shape[k];
  }
  if (run == 0) return;
  for (ref_iter it = ref_begin(rank, in->shape); ref_valid(&it); ref_next(&it)) {
    int64_t from = 0, to = start;
    for (int k = 0; k < rank; k++) {
      from += it.index[k] * in->strides[k];
      to += it.index[k] * out->strides[k];
    }
    copy_item((char *)out->data + to * (int64_t)item, (const char *)in->data + from * (int64_t)item,
              (size_t)run * item);
  }
}

static kiln_status contiguous_ref(const kernel_args *a) {
  const tensor *in = &a->in[0], *out = &a->out[0];
  if (in->dtype == out->dtype) {
    copy_elements(in, out, 0);
    return KILN_OK;
  }
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
    ref_copy_element(in, tensor_offset(in, it.index), out, tensor_offset(out, it.index));
  }
  return KILN_OK;
}

/* ---- concat ------------------------------------------------------------------------------------------------------ */

static kiln_status infer_own_axis(const node *n, int rank, int *out) {
  const int64_t axis = node_int(n, "axis");
  if (axis < 0 || axis >= rank) return INFER_FAIL(n, "axis is %lld, expected 0 to %d", (long long)axis, rank - 1);
  *out = (int)axis;
  return KILN_OK;
}

static kiln_status infer_concat(graph *g, node *n) {
  if (n->n_inputs < 1) return INFER_FAIL(n, "no operands, expected one or more");
  int axis = 0;
  KILN_TRY(infer_own_axis(n, in_type(n, 0)->rank, &axis));
  tensor_type out = *in_type(n, 0);
  for (int i = 1; i < n->n_inputs; i++) {
    const tensor_type *t = in_type(n, i);
    if (t->dtype != out.dtype || t->rank != out.rank) {
      return INFER_FAIL(n, "operand %d is %s with %d dimensions, expected %s with %d", i, kiln_dtype_name(t->dtype),
                        t->rank, kiln_dtype_name(out.dtype), out.rank);
    }
    for (int k = 0; k < out.rank; k++) {
      if (k != axis) KILN_TRY(infer_same_dim(g, n, "sizes beside the concatenated axis", t->dims[k], out.dims[k]));
    }
    out.dims[axis] = dim_add(g->dims, out.dims[axis], t->dims[axis]);
  }
  n->outputs[0]->type = out;
  return KILN_OK;
}

static kiln_status concat_ref(const kernel_args *a) {
  const int64_t axis = arg_int(a, "axis");
  tensor *out = &a->out[0];
  int64_t start = 0;
  for (int i = 0; i < a->n_in; i++) {
    copy_elements(&a->in[i], out, start * out->strides[axis]);
    start += a->in[i].shape[axis];
  }
  return KILN_OK;
}

/* ---- pad --------------------------------------------------------------------------------------------------------- */

typedef enum pad_mode { PAD_CONSTANT, PAD_REFLECT, PAD_REPLICATE, PAD_CIRCULAR, PAD_UNKNOWN } pad_mode;
static pad_mode pad_mode_of(const char *s) {
  static const char *const names[] = {"constant", "reflect", "replicate", "circular"};
  int i = 0;
  while (i < PAD_UNKNOWN && !str_eq(s, names[i])) i++;
  return (pad_mode)i;
}

static kiln_status infer_pad(graph *g, node *n) {
  dim_table *t = g->dims;
  tensor_type out = *in_type(n, 0);
  const attr *before = node_attr(n, "before"), *after = node_attr(n, "after");
  const pad_mode mode = pad_mode_of(node_str(n, "mode"));
  if (mode == PAD_UNKNOWN)
    return INFER_FAIL(n, "mode \"%s\" is none of constant, reflect, replicate, circular", node_str(n, "mode"));
  if (before->count != out.rank || after->count != out.rank)
    return INFER_FAIL(n, "before and after need %d entries each", out.rank);
  for (int i = 0; i < out.rank; i++) {
    const dim size = out.dims[i], left = before->u.ints[i], right = after->u.ints[i];
    if (mode != PAD_CONSTANT && (left != 0 || right != 0)) {
      /* reflect needs padding below the size, circular at most the size, replicate one element */
      const dim limit = mode == PAD_REFLECT ? dim_sub(t, size, 1) : size;
      const bool fits = mode == PAD_REPLICATE
                            ? size != 0
                            : dim_compare_le(t, left, limit) != 0 && dim_compare_le(t, right, limit) != 0;
      if (!fits || dim_compare_le(t, 0, left) == 0 || dim_compare_le(t, 0, right) == 0) {
        return INFER_FAIL(n, "the padding of axis %d is negative or larger than the input allows", i);
      }
    }
    out.dims[i] = dim_add(t, dim_add(t, size, left), right);
    if (dim_is_const(out.dims[i]) && out.dims[i] < 0) return INFER_FAIL(n, "the padded size of axis %d is negative", i);
  }
  n->outputs[0]->type = out;
  return KILN_OK;
}

/* Place in the input of place `i` (relative to the input's start), or -1 for the constant. */
static int64_t pad_source(pad_mode mode, int64_t i, int64_t size) {
  if (i >= 0 && i < size) return i;
  switch (mode) {
    case PAD_REFLECT:
      return i < 0 ? -i : 2 * (size - 1) - i;
    case PAD_REPLICATE:
      return i < 0 ? 0 : size - 1;
    case PAD_CIRCULAR:
      return i < 0 ? i + size : i - size;
    default:
      return -1;
  }
}

/* One row of the result, of the row of x that starts at `from`, or filled if that is negative. */
static void pad_row(pad_mode mode, const tensor *in, int64_t from, const tensor *out, int64_t to, int64_t before,
                    double fill) {
  const int last = out->rank - 1;
  const int64_t size = in->shape[last], step = in->strides[last], out_step = out->strides[last];
  const int64_t start = before > 0 ? before : 0,
                end = before + size < out->shape[last] ? before + size : out->shape[last];
  const size_t item = kiln_dtype_size(in->dtype);
  for (int64_t i = 0; i < out->shape[last]; i++) {
    if (i == start && end > start && from >= 0 && step == 1 && out_step == 1) { /* what lies inside, at once */
      memcpy((char *)out->data + (size_t)(to + i) * item, (const char *)in->data + (size_t)(from + i - before) * item,
             (size_t)(end - start) * item);
      i = end - 1;
      continue;
    }
    const int64_t at = from >= 0 ? pad_source(mode, i - before, size) : -1;
    if (at >= 0)
      ref_copy_element(in, from + at * step, out, to + i * out_step);
    else
      ref_store(out, to + i * out_step, fill);
  }
}

static kiln_status pad_ref(const kernel_args *a) {
  const tensor *in = &a->in[0], *out = &a->out[0];
  const int64_t *before = arg_attr(a, "before")->u.ints, *after = arg_attr(a, "after")->u.ints;
  const pad_mode mode = pad_mode_of(arg_attr(a, "mode")->u.s);
  const double fill = arg_float(a, "value");
  for (int i = 0; i < in->rank; i++) { /* what inference could not know of symbolic sizes */
    const int64_t limit = mode == PAD_REFLECT ? in->shape[i] - 1 : mode == PAD_CIRCULAR ? in->shape[i] : INT64_MAX;
    const bool none = before[i] == 0 && after[i] == 0;
    if (mode != PAD_CONSTANT && !none && (before[i] > limit || after[i] > limit || in->shape[i] < 1)) {
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "pad: axis %d of size %lld is too small for its padding", i,
                       (long long)in->shape[i]);
    }
  }
  if (out->rank == 0) {
    ref_copy_element(in, 0, out, 0);
    return KILN_OK;
  }
  const int last = out->rank - 1;
  int64_t rows[KILN_MAX_RANK] = {0};
  memcpy(rows, out->shape, sizeof rows);
  rows[last] = out->shape[last] > 0;
  for (ref_iter it = ref_begin(out->rank, rows); ref_valid(&it); ref_next(&it)) {
    int64_t from = 0;
    bool inside = true;
    for (int i = 0; inside && i < last; i++) {
      const int64_t at = pad_source(mode, it.index[i] - before[i], in->shape[i]);
      inside = at >= 0;
      from += at * in->strides[i];
    }
    pad_row(mode, in, inside ? from : -1, out, tensor_offset(out, it.index), before[last], fill);
  }
  return KILN_OK;
}

/* ---- tile, flip, roll -------------------------------------------------------------------------------------------- */

static kiln_status infer_tile(graph *g, node *n) {
  const attr *repeats = node_attr(n, "repeats");
  tensor_type out = *in_type(n, 0);
  if (repeats->count != out.rank) return INFER_FAIL(n, "repeats has %d entries, expected %d", repeats->count, out.rank);
  for (int i = 0; i < out.rank; i++) {
    const dim r = repeats->u.ints[i];
    if (dim_is_const(r) && r < 0) return INFER_FAIL(n, "repeats[%d] is %lld, expected 0 or more", i, (long long)r);
    out.dims[i] = dim_mul(g->dims, out.dims[i], r);
  }
  n->outputs[0]->type = out;
  return KILN_OK;
}

static kiln_status tile_ref(const kernel_args *a) {
  const tensor *in = &a->in[0], *out = &a->out[0];
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
    int64_t from = 0;
    for (int i = 0; i < in->rank; i++) from += it.index[i] % in->shape[i] * in->strides[i];
    ref_copy_element(in, from, out, tensor_offset(out, it.index));
  }
  return KILN_OK;
}

static kiln_status infer_axes_list(graph *g, node *n) {
  const attr *axes = node_attr(n, "axes");
  const int rank = in_type(n, 0)->rank;
  for (int i = 0; i < axes->count; i++) {
    const int64_t axis = axes->u.ints[i];
    if (axis < 0 || axis >= rank)
      return INFER_FAIL(n, "axes[%d] is %lld, expected 0 to %d", i, (long long)axis, rank - 1);
  }
  return infer_same(g, n);
}

static kiln_status flip_ref(const kernel_args *a) {
  const tensor *in = &a->in[0], *out = &a->out[0];
  const attr *axes = arg_attr(a, "axes");
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
    int64_t index[KILN_MAX_RANK];
    memcpy(index, it.index, sizeof index);
    for (int i = 0; i < axes->count; i++) {
      const int64_t axis = axes->u.ints[i];
      index[axis] = in->shape[axis] - 1 - index[axis];
    }
    ref_copy_element(in, tensor_offset(in, index), out, tensor_offset(out, it.index));
  }
  return KILN_OK;
}

static kiln_status infer_roll(graph *g, node *n) {
  if (node_attr(n, "shifts")->count != node_attr(n, "axes")->count)
    return INFER_FAIL(n, "shifts and axes have different lengths");
  return infer_axes_list(g, n);
}

static kiln_status roll_ref(const kernel_args *a) {
  const tensor *in = &a->in[0], *out = &a->out[0];
  const attr *axes = arg_attr(a, "axes"), *shifts = arg_attr(a, "shifts");
  for (ref_iter it = ref_begin(in->rank, in->shape); ref_valid(&it); ref_next(&it)) {
    int64_t index[KILN_MAX_RANK];
    memcpy(index, it.index, sizeof index);
    for (int i = 0; i < axes->count; i++) {
      const int64_t axis = axes->u.ints[i], size = in->shape[axis];
      const int64_t shift = (shifts->u.ints[i] % size + size) % size;
      index[axis] = (index[axis] + shift) % size;
    }
    ref_copy_element(in, tensor_offset(in, it.index), out, tensor_offset(out, index));
  }
  return KILN_OK;
}

/* ---- tril, triu -------------------------------------------------------------------------------------------------- */

static kiln_status infer_triangle(graph *g, node *n) {
  KILN_TRY(infer_rank_between(n, 0, 2, KILN_MAX_RANK));
  return infer_same(g, n);
}

static kiln_status triangle(const kernel_args *a, bool lower) {
  const tensor *in = &a->in[0], *out = &a->out[0];
  const int64_t diagonal = arg_int(a, "diagonal");
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
    const int64_t row = it.index[out->rank - 2], column = it.index[out->rank - 1];
    const bool keep = lower ? column - row <= diagonal : column - row >= diagonal;
    const int64_t to = tensor_offset(out, it.index);
    if (keep) {
      ref_copy_element(in, tensor_offset(in, it.index), out, to);
    } else {
      ref_store(out, to, 0);
    }
  }
  return KILN_OK;
}
static kiln_status tril_ref(const kernel_args *a) { return triangle(a, true); }
static kiln_status triu_ref(const kernel_args *a) { return triangle(a, false); }

/* ---- PyTorch: copies that a functional graph does not need ------------------------------------------------------- */

static kiln_status self_tensor(lower_call *c, value **out) { return lowering_tensor(c, c->schema->args[0].name, out); }

/* A new tensor with the same contents: values are immutable here, so the same value under a fresh handle. */
static kiln_status lower_copy(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  call_return(c, 0, x);
  return KILN_OK;
}

static kiln_status lower_alias(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  call_return_view(c, 0, c->schema->args[0].name, x);
  return KILN_OK;
}

/* contiguous() is the tensor itself if that owns its memory, and a copy of a view. */
static kiln_status lower_contiguous(lower_call *c) {
  const ivalue *self = call_arg(c, "self");
  return self && self->kind == IV_TENSOR && lower_is_base(self->u.t) ? lower_alias(c) : lower_copy(c);
}

/* ---- PyTorch: concat --------------------------------------------------------------------------------------------- */

/* The tensors of a list, promoted to one dtype. */
static kiln_status tensors(lower_call *c, value ***out, int *out_count) {
  const char *name = c->schema->args[0].name;
  const int count = call_list_count(c, name);
  if (count < 1) return LOWER_FAIL(c, "argument %s is an empty list", name);
  value **list = ARENA_ARRAY(c->im->arena, value *, count);
  if (!list) return KILN_NO_MEMORY("tensor list");
  if (call_tensors(c, name, list, count) != count)
    return LOWER_FAIL(c, "argument %s: expected a list of tensors", name);
  kiln_dtype dtype = KILN_BOOL;
  for (int i = 0; i < count; i++) {
    LOWER_NEED(c, list[i]);
    dtype = i == 0 ? list[i]->type.dtype : dtype_promote(dtype, list[i]->type.dtype);
  }
  for (int i = 0; i < count; i++) list[i] = lower_cast(&c->b, list[i], dtype);
  KILN_TRY(graph_check(c->b.graph));
  *out = list;
  *out_count = count;
  return KILN_OK;
}

static value *concat(builder *b, int count, value **list, int axis) {
  if (count == 1) return list[0];
  return build(b, "concat", count, list, ATTRS(A_INT("axis", axis)));
}

static kiln_status lower_cat(lower_call *c) {
  value **list;
  int count, kept = 0, axis;
  KILN_TRY(tensors(c, &list, &count));
  /* PyTorch skips tensors of shape [0] whatever the others' rank (a legacy rule). */
  for (int i = 0; i < count; i++) {
    const tensor_type *t = &list[i]->type;
    if (!(t->rank == 1 && t->dims[0] == 0)) list[kept++] = list[i];
  }
  if (kept == 0) kept = 1;
  if (list[0]->type.rank == 0) return LOWER_FAIL(c, "tensors without dimensions cannot be concatenated");
  KILN_TRY(lowering_axis(c, "dim", list[0]->type.rank, &axis));
  call_return(c, 0, concat(&c->b, kept, list, axis));
  return KILN_OK;
}

static kiln_status lower_stack(lower_call *c) {
  value **list;
  int count, axis;
  KILN_TRY(tensors(c, &list, &count));
  KILN_TRY(lowering_axis(c, "dim", list[0]->type.rank + 1, &axis));
  for (int i = 0; i < count; i++) list[i] = lowering_unsqueeze(&c->b, list[i], axis);
  call_return(c, 0, concat(&c->b, count, list, axis));
  return KILN_OK;
}

/* hstack, vstack, dstack, column_stack: at least `rank` dimensions each, then cat. */
static kiln_status stack_at(lower_call *c, int rank, int axis) {
  value **list;
  int count;
  KILN_TRY(tensors(c, &list, &count));
  for (int i = 0; i < count; i++) {
    while (list[i] && list[i]->type.rank < rank)
      list[i] = lowering_unsqueeze(&c->b, list[i], list[i]->type.rank == 2 ? 2 : 0);
  }
  LOWER_NEED(c, list[0]);
  call_return(c, 0, concat(&c->b, count, list, axis));
  return KILN_OK;
}
static kiln_status lower_vstack(lower_call *c) { return stack_at(c, 2, 0); }
static kiln_status lower_dstack(lower_call *c) { return stack_at(c, 3, 2); }
static kiln_status lower_hstack(lower_call *c) {
  value **list;
  int count;
  KILN_TRY(tensors(c, &list, &count));
  return stack_at(c, 1, list[0]->type.rank > 1 ? 1 : 0);
}
static kiln_status lower_column_stack(lower_call *c) {
  value **list;
  int count;
  KILN_TRY(tensors(c, &list, &count));
  for (int i = 0; i < count; i++) {
    const dim column[2] = {type_numel(c->b.graph, &list[i]->type), 1};
    if (list[i]->type.rank < 2) list[i] = lower_reshape(&c->b, list[i], 2, column);
  }
  call_return(c, 0, concat(&c->b, count, list, 1));
  return KILN_OK;
}

static kiln_status lower_meshgrid(lower_call *c) {
  value **list;
  int count;
  KILN_TRY(tensors(c, &list, &count));
  if (count > KILN_MAX_RANK) return LOWER_FAIL(c, "more than %d tensors", KILN_MAX_RANK);
  const bool xy = str_eq(c->schema->overload, "indexing") && str_eq(call_str(c, "indexing"), "xy") && count > 1;
  dim dims[KILN_MAX_RANK];
  for (int i = 0; i < count; i++) {
    const int at = xy && i < 2 ? 1 - i : i;
    dims[at] = type_numel(c->b.graph, &list[i]->type);
  }
  for (int i = 0; i < count; i++) {
    dim own[KILN_MAX_RANK];
    const int at = xy && i < 2 ? 1 - i : i;
    for (int k = 0; k < count; k++) own[k] = k == at ? dims[k] : 1;
    list[i] = lower_expand(&c->b, lower_reshape(&c->b, list[i], count, own), count, dims);
  }
  call_return_list(c, 0, count, list);
  return KILN_OK;
}

static kiln_status lower_broadcast_tensors(lower_call *c) {
  const int count = call_list_count(c, "tensors");
  value **list = ARENA_ARRAY(c->im->arena, value *, count + 1);
  if (!list) return KILN_NO_MEMORY("tensor list");
  if (call_tensors(c, "tensors", list, count) != count)
    return LOWER_FAIL(c, "argument tensors: expected a list of tensors");
  for (int i = 0; i < count; i++) LOWER_NEED(c, list[i]);
  lowering_broadcast(&c->b, count, list);
  call_return_list(c, 0, count, list);
  return KILN_OK;
}

/* ---- PyTorch: pad ------------------------------------------------------------------------------------------------ */

/* A negative padding cuts off. */
static void take_negative(dim *padding, dim *crop) {
  if (!dim_is_const(*padding) || *padding >= 0) return;
  *crop = -*padding;
  *padding = 0;
}

static value *cropped(builder *b, value *v, const dim *before, const dim *after) {
  for (int i = 0; v && i < v->type.rank; i++) {
    if (!before[i] && !after[i]) continue;
    v = lowering_slice(b, v, i, before[i], dim_sub(b->graph->dims, v->type.dims[i], after[i]), 1);
  }
  return v;
}

/* PyTorch lists pairs from the last axis backwards. */
static kiln_status pad(lower_call *c, const char *pads_name, const char *mode, double fill) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  const int rank = x->type.rank;
  dim pads[2 * KILN_MAX_RANK], before[KILN_MAX_RANK] = {0}, after[KILN_MAX_RANK] = {0};
  const int count = call_ints(c, pads_name, pads, 2 * KILN_MAX_RANK);
  if (count < 0 || count % 2 || count / 2 > rank) {
    return LOWER_FAIL(c, "argument %s: expected pairs for at most %d axes", pads_name, rank);
  }
  dim crop_before[KILN_MAX_RANK] = {0}, crop_after[KILN_MAX_RANK] = {0};
  const bool fills = str_eq(mode, "constant"), circular = str_eq(mode, "circular");
  bool any = false;
  for (int i = 0; i < count / 2; i++) {
    const int axis = rank - 1 - i;
    before[axis] = pads[2 * i];
    after[axis] = pads[2 * i + 1];
    if (!fills) {
      take_negative(&before[axis], &crop_before[axis]);
      take_negative(&after[axis], &crop_after[axis]);
    }
    any = any || before[axis] != 0 || after[axis] != 0;
  }
  if (circular) x = cropped(&c->b, x, crop_before, crop_after); /* what is left wraps around */
  value *y = !any ? x
                  : build(&c->b, "pad", IN(x),
                          ATTRS(A_INTS("before", before, rank), A_INTS("after", after, rank), A_STR("mode", mode),
                                A_FLOAT("value", fill)));
  call_return(c, 0, circular ? y : cropped(&c->b, y, crop_before, crop_after));
  return KILN_OK;
}

static kiln_status lower_pad(lower_call *c) {
  const char *mode = call_str(c, "mode");
  if (pad_mode_of(mode) == PAD_UNKNOWN) return LOWER_FAIL(c, "argument mode \"%s\" is not supported", mode ? mode : "");
  return pad(c, "pad", mode, call_is_none(c, "value") ? 0 : call_float(c, "value"));
}
static kiln_status lower_constant_pad(lower_call *c) { return pad(c, "pad", "constant", call_float(c, "value")); }
static kiln_status lower_reflection_pad(lower_call *c) { return pad(c, "padding", "reflect", 0); }
static kiln_status lower_replication_pad(lower_call *c) { return pad(c, "padding", "replicate", 0); }
static kiln_status lower_circular_pad(lower_call *c) { return pad(c, "pad", "circular", 0); }

/* ---- PyTorch: repeats -------------------------------------------------------------------------------------------- */

static kiln_status lower_repeat(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  const char *name = c->schema->args[1].name;
  dim repeats[KILN_MAX_RANK], full[KILN_MAX_RANK], dims[KILN_MAX_RANK];
  int count;
  KILN_TRY(lowering_sizes(c, name, repeats, &count));
  const int own = x->type.rank, rank = count > own ? count : own;
  if (count < own && str_eq(name, "repeats"))
    return LOWER_FAIL(c, "argument repeats has %d entries, expected %d or more", count, own);
  bool one = true;
  for (int i = 0; i < rank; i++) {
    full[i] = i < rank - count ? 1 : repeats[i - (rank - count)];
    dims[i] = i < rank - own ? 1 : x->type.dims[i - (rank - own)];
    one = one && full[i] == 1;
  }
  value *y = lower_reshape(&c->b, x, rank, dims);
  call_return(c, 0, one ? y : build(&c->b, "tile", IN(y), ATTRS(A_INTS("repeats", full, rank))));
  return KILN_OK;
}

static kiln_status lower_repeat_interleave(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  int axis = 0;
  if (call_is_none(c, "dim") || x->type.rank == 0) {
    const dim count = type_numel(b->graph, &x->type);
    x = lower_reshape(b, x, 1, &count);
    LOWER_NEED(c, x);
  } else {
    KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  }
  const int rank = x->type.rank;
  if (rank >= KILN_MAX_RANK) return LOWER_FAIL(c, "the input has %d dimensions, expected fewer", rank);
  const dim repeats = call_int(c, "repeats");
  dim dims[KILN_MAX_RANK], joined[KILN_MAX_RANK];
  for (int i = 0; i <= rank; i++) dims[i] = i <= axis ? x->type.dims[i] : i == axis + 1 ? repeats : x->type.dims[i - 1];
  for (int i = 0; i < rank; i++) joined[i] = i == axis ? dim_mul(t, x->type.dims[i], repeats) : x->type.dims[i];
  value *y = lower_expand(b, lowering_unsqueeze(b, x, axis + 1), rank + 1, dims);
  call_return(c, 0, lower_reshape(b, y, rank, joined));
  return KILN_OK;
}

/* ---- PyTorch: flip, roll, rot90 ---------------------------------------------------------------------------------- */

static value *flip(builder *b, value *x, int count, const int64_t *axes) {
  return count == 0 ? x : build(b, "flip", IN(x), ATTRS(A_INTS("axes", axes, count)));
}

static kiln_status lower_flip(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  int64_t axes[KILN_MAX_RANK];
  int count;
  KILN_TRY(lowering_axes(c, "dims", x->type.rank, false, axes, &count));
  call_return(c, 0, flip(&c->b, x, count, axes));
  return KILN_OK;
}

static kiln_status flip_one(lower_call *c, int64_t axis) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  if (x->type.rank <= axis) return LOWER_FAIL(c, "the input has %d dimensions, expected more", x->type.rank);
  call_return(c, 0, flip(&c->b, x, 1, &axis));
  return KILN_OK;
}
static kiln_status lower_flipud(lower_call *c) { return flip_one(c, 0); }
static kiln_status lower_fliplr(lower_call *c) { return flip_one(c, 1); }

static kiln_status lower_roll(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  builder *b = &c->b;
  dim shifts[KILN_MAX_RANK];
  int64_t axes[KILN_MAX_RANK];
  int count, axis_count;
  KILN_TRY(lowering_sizes(c, "shifts", shifts, &count));
  KILN_TRY(lowering_axes(c, "dims", x->type.rank, false, axes, &axis_count));
  if (axis_count == 0 && call_list_count(c, "dims") == 0) { /* rolls the flattened tensor */
    const dim total = type_numel(b->graph, &x->type);
    axes[0] = 0;
    value *y = build(b, "roll", IN(lower_reshape(b, x, 1, &total)),
                     ATTRS(A_INTS("shifts", shifts, count), A_INTS("axes", axes, 1)));
    call_return(c, 0, lower_reshape(b, y, x->type.rank, x->type.dims));
    return KILN_OK;
  }
  call_return(c, 0,
              axis_count == 0
                  ? x
                  : build(b, "roll", IN(x), ATTRS(A_INTS("shifts", shifts, count), A_INTS("axes", axes, axis_count))));
  return KILN_OK;
}

static kiln_status lower_rot90(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  builder *b = &c->b;
  int64_t axes[KILN_MAX_RANK];
  dim order[KILN_MAX_RANK];
  int count;
  KILN_TRY(lowering_axes(c, "dims", x->type.rank, false, axes, &count));
  if (count != 2) return LOWER_FAIL(c, "argument dims needs two axes");
  for (int i = 0; i < x->type.rank; i++) order[i] = i == axes[0] ? axes[1] : i == axes[1] ? axes[0] : i;
  const int64_t turns = ((call_int(c, "k") % 4) + 4) % 4;
  if (turns == 2) {
    x = flip(b, x, 2, axes);
  } else if (turns == 1) {
    x = lower_permute(b, flip(b, x, 1, &axes[1]), x->type.rank, order);
  } else if (turns == 3) {
    x = lower_permute(b, flip(b, x, 1, &axes[0]), x->type.rank, order);
  }
  call_return(c, 0, x);
  return KILN_OK;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static const torch_row torch_contiguous[] = {
    {"aten::contiguous(Tensor(a) self, *, MemoryFormat memory_format=0) -> Tensor(a)", NULL, lower_contiguous},
    {"aten::clone(Tensor self, *, MemoryFormat? memory_format=None) -> Tensor", NULL, lower_copy},
    {"aten::alias_copy(Tensor self) -> Tensor", NULL, lower_copy},
    {"aten::detach_copy(Tensor self) -> Tensor", NULL, lower_copy},
    {"aten::lift_fresh_copy(Tensor self) -> Tensor", NULL, lower_copy},
    {"aten::alias(Tensor(a) self) -> Tensor(a)", NULL, lower_alias},
    {"aten::detach(Tensor(a) self) -> Tensor(a)", NULL, lower_alias},
    {"aten::lift_fresh(Tensor(a) self) -> Tensor(a)", NULL, lower_alias},
    {"aten::positive(Tensor(a) self) -> Tensor(a)", NULL, lower_alias},
    {NULL, NULL, NULL}};

static const torch_row torch_concat[] = {
    {"aten::cat(Tensor[] tensors, int dim=0) -> Tensor", NULL, lower_cat},
    {"aten::concat(Tensor[] tensors, int dim=0) -> Tensor", NULL, lower_cat},
    {"aten::concatenate(Tensor[] tensors, int dim=0) -> Tensor", NULL, lower_cat},
    {"aten::stack(Tensor[] tensors, int dim=0) -> Tensor", NULL, lower_stack},
    {"aten::hstack(Tensor[] tensors) -> Tensor", NULL, lower_hstack},
    {"aten::vstack(Tensor[] tensors) -> Tensor", NULL, lower_vstack},
    {"aten::dstack(Tensor[] tensors) -> Tensor", NULL, lower_dstack},
    {"aten::column_stack(Tensor[] tensors) -> Tensor", NULL, lower_column_stack},
    {"aten::meshgrid(Tensor[] tensors) -> Tensor[]", NULL, lower_meshgrid},
    {"aten::meshgrid.indexing(Tensor[] tensors, *, str indexing) -> Tensor[]", NULL, lower_meshgrid},
    {"aten::broadcast_tensors(Tensor[] tensors) -> Tensor[]", NULL, lower_broadcast_tensors},
    {NULL, NULL, NULL}};

static const torch_row torch_pad[] = {
    {"aten::pad(Tensor self, SymInt[] pad, str mode=\"constant\", float? value=None) -> Tensor", NULL, lower_pad},
    {"aten::constant_pad_nd(Tensor self, SymInt[] pad, Scalar value=0) -> Tensor", NULL, lower_constant_pad},
    {"aten::reflection_pad1d(Tensor self, SymInt[2] padding) -> Tensor", NULL, lower_reflection_pad},
    {"aten::reflection_pad2d(Tensor self, SymInt[4] padding) -> Tensor", NULL, lower_reflection_pad},
    {"aten::reflection_pad3d(Tensor self, SymInt[6] padding) -> Tensor", NULL, lower_reflection_pad},
    {"aten::replication_pad1d(Tensor self, SymInt[2] padding) -> Tensor", NULL, lower_replication_pad},
    {"aten::replication_pad2d(Tensor self, SymInt[4] padding) -> Tensor", NULL, lower_replication_pad},
    {"aten::replication_pad3d(Tensor self, SymInt[6] padding) -> Tensor", NULL, lower_replication_pad},
    {"aten::_pad_circular(Tensor self, SymInt[] pad) -> Tensor", NULL, lower_circular_pad},
    {NULL, NULL, NULL}};

static const torch_row torch_tile[] = {{"aten::repeat(Tensor self, SymInt[] repeats) -> Tensor", NULL, lower_repeat},
                                       {"aten::tile(Tensor self, SymInt[] dims) -> Tensor", NULL, lower_repeat},
                                       {"aten::repeat_interleave.self_int(Tensor self, SymInt repeats, int? dim=None, "
                                        "*, SymInt? output_size=None) -> Tensor",
                                        NULL, lower_repeat_interleave},
                                       {NULL, NULL, NULL}};

static const torch_row torch_flip[] = {
    {"aten::flip(Tensor self, int[] dims) -> Tensor", NULL, lower_flip},
    {"aten::flipud(Tensor self) -> Tensor", NULL, lower_flipud},
    {"aten::fliplr(Tensor self) -> Tensor", NULL, lower_fliplr},
    {"aten::rot90(Tensor self, int k=1, int[] dims=[0, 1]) -> Tensor", NULL, lower_rot90},
    {NULL, NULL, NULL}};

static const torch_row torch_roll[] = {
    {"aten::roll(Tensor self, SymInt[1] shifts, int[1] dims=[]) -> Tensor", NULL, lower_roll}, {NULL, NULL, NULL}};
static const torch_row torch_tril[] = {
    {"aten::tril(Tensor self, SymInt diagonal=0) -> Tensor", "tril(self; diagonal)", NULL}, {NULL, NULL, NULL}};
static const torch_row torch_triu[] = {
    {"aten::triu(Tensor self, SymInt diagonal=0) -> Tensor", "triu(self; diagonal)", NULL}, {NULL, NULL, NULL}};

static const char *const cases_contiguous[] = {
    "x:f32[3,5]", "x:f32[2,3,4,5]", "x:f16[3,5,7]", "x:i64[9]=range(-9,9)",    "x:bool[5]=bool",
    "x:f32[]",    "x:f32[0,4]",     "x:f32[65,33]", "x:u8[3,17]=range(0,255)", NULL};
static const char *const cases_concat[] = {"xs:f32[2,3] xs:f32[2,5] axis=1",
                                           "xs:f32[2,3] xs:f32[4,3] xs:f32[1,3] axis=0",
                                           "xs:f32[2,3,4] axis=1",
                                           "xs:i64[3]=range(-9,9) xs:i64[0]=range(0,1) axis=0",
                                           "xs:f16[2,3,5] xs:f16[2,1,5] axis=1",
                                           "xs:f32[1,8,7,7] xs:f32[1,24,7,7] axis=1",
                                           NULL};
static const char *const cases_pad[] = {"x:f32[3,5] before=[1,2] after=[0,3]",
                                        "x:f32[3,5] before=[0,-1] after=[-1,2] value=1.5",
                                        "x:f32[2,3,5,6] before=[0,0,1,2] after=[0,0,2,1] mode=\"reflect\"",
                                        "x:f32[2,3,5] before=[0,0,4] after=[0,0,4] mode=\"reflect\"",
                                        "x:f32[2,3,5,6] before=[0,0,3,7] after=[0,0,2,9] mode=\"replicate\"",
                                        "x:f32[2,5,6] before=[0,5,2] after=[0,1,6] mode=\"circular\"",
                                        "x:i64[4]=range(-9,9) before=[2] after=[1] value=7",
                                        "x:bool[4]=bool before=[1] after=[1] value=1",
                                        "x:f16[3,5] before=[1,1] after=[1,1]",
                                        "x:f32[0,3] before=[2,0] after=[0,0]",
                                        NULL};
static const char *const cases_tile[] = {"x:f32[2,3] repeats=[2,3]", "x:f32[1,5] repeats=[4,1]",
                                         "x:i64[3]=range(-9,9) repeats=[0]", "x:f16[2,3,2] repeats=[1,2,2]", NULL};
static const char *const cases_flip[] = {
    "x:f32[7] axes=[0]",   "x:f32[3,4,5] axes=[0,2]", "x:i64[3,4]=range(-9,9) axes=[1]",
    "x:f16[3,4] axes=[0]", "x:f32[0,3] axes=[0]",     NULL};
static const char *const cases_roll[] = {"x:f32[7] shifts=[2] axes=[0]",
                                         "x:f32[4,5] shifts=[-1,3] axes=[0,1]",
                                         "x:f32[2,8,8,3] shifts=[-4,-4] axes=[1,2]",
                                         "x:i64[5]=range(-9,9) shifts=[12] axes=[0]",
                                         "x:f32[0,3] shifts=[1] axes=[0]",
                                         NULL};
static const char *const cases_triangle[] = {"x:f32[5,5]",
                                             "x:f32[2,3,7] diagonal=1",
                                             "x:f32[7,3] diagonal=-2",
                                             "x:i64[4,4]=range(1,9) diagonal=9",
                                             "x:bool[6,6]=bool",
                                             "x:f32[4,4]=inf",
                                             "x:f32[0,3]",
                                             NULL};

static const op rows[] = {
    {.name = "contiguous",
     .sig = "x -> y",
     .attrs = "",
     .infer = infer_same,
     .ref = contiguous_ref,
     .torch = torch_contiguous,
     .cases = cases_contiguous},
    {.name = "concat",
     .sig = "xs* -> y",
     .attrs = "axis:int",
     .infer = infer_concat,
     .ref = concat_ref,
     .torch = torch_concat,
     .cases = cases_concat},
    {.name = "pad",
     .sig = "x -> y",
     .attrs = "before:ints after:ints mode:str=\"constant\" value:float=0",
     .infer = infer_pad,
     .ref = pad_ref,
     .torch = torch_pad,
     .cases = cases_pad},
    {.name = "tile",
     .sig = "x -> y",
     .attrs = "repeats:ints",
     .infer = infer_tile,
     .ref = tile_ref,
     .torch = torch_tile,
     .cases = cases_tile},
    {.name = "flip",
     .sig = "x -> y",
     .attrs = "axes:ints",
     .infer = infer_axes_list,
     .ref = flip_ref,
     .torch = torch_flip,
     .cases = cases_flip},
    {.name = "roll",
     .sig = "x -> y",
     .attrs = "shifts:ints axes:ints",
     .infer = infer_roll,
     .ref = roll_ref,
     .torch = torch_roll,
     .cases = cases_roll},
    {.name = "tril",
     .sig = "x -> y",
     .attrs = "diagonal:int=0",
     .infer = infer_triangle,
     .ref = tril_ref,
     .torch = torch_tril,
     .cases = cases_triangle},
    {.name = "triu",
     .sig = "x -> y",
     .attrs = "diagonal:int=0",
     .infer = infer_triangle,
     .ref = triu_ref,
     .torch = torch_triu,
     .cases = cases_triangle},
};

OP_FAMILY(ops_movement, rows);
