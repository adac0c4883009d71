/* See spatial.h. */
#include "ops/spatial.h"

#include "base/memory.h"

kiln_status spatial_ints(const node *n, const char *name, int count, int64_t min, int64_t *out) {
  const attr *a = node_attr(n, name);
  if (a->kind != ATTR_INTS || a->count != count)
    return INFER_FAIL(n, "attribute %s has %d values, expected %d", name, (int)a->count, count);
  for (int i = 0; i < count; i++) {
    if (!dim_is_const(a->u.ints[i]) || a->u.ints[i] < min || a->u.ints[i] > (1 << 30))
      return INFER_FAIL(n, "attribute %s[%d] must be a constant of at least %lld", name, i, (long long)min);
    out[i] = a->u.ints[i];
  }
  return KILN_OK;
}

kiln_status spatial_axes(const node *n, bool channels_last, int *out_count, int *out_channel, int *out_first) {
  KILN_TRY(infer_rank_between(n, 0, 3, 2 + SPATIAL_MAX));
  *out_count = in_type(n, 0)->rank - 2;
  *out_channel = channels_last ? in_type(n, 0)->rank - 1 : 1;
  *out_first = channels_last ? 1 : 2;
  return KILN_OK;
}

spatial spatial_of(const tensor *t, bool channels_last) {
  spatial s = {.count = t->rank - 2, .batch = t->shape[0], .batch_stride = t->strides[0]};
  const int channel = channels_last ? t->rank - 1 : 1, first = channels_last ? 1 : 2;
  s.channels = t->shape[channel];
  s.channel_stride = t->strides[channel];
  for (int i = 0; i < SPATIAL_MAX; i++) {
    s.size[i] = i < s.count ? t->shape[first + i] : 1;
    s.stride[i] = i < s.count ? t->strides[first + i] : 0;
  }
  return s;
}

void spatial_attr(const kernel_args *a, const char *name, int64_t fill, int64_t *out) {
  const attr *v = arg_attr(a, name);
  for (int i = 0; i < SPATIAL_MAX; i++) out[i] = i < v->count ? v->u.ints[i] : fill;
}

bool spatial_next(const int64_t *size, int64_t *index) {
  for (int i = SPATIAL_MAX - 1; i >= 0; i--) {
    if (++index[i] < size[i]) return true;
    index[i] = 0;
  }
  return false;
}

kiln_status ref_to_doubles(const tensor *t, double **out) {
  *out = NULL;
  if (!t->data) return KILN_OK;
  size_t bytes = 0;
  if (!size_mul((size_t)tensor_numel(t), sizeof(double), &bytes)) return KILN_NO_MEMORY("reference kernel");
  double *values = mem_alloc(bytes);
  if (!values) return KILN_NO_MEMORY("reference kernel");
  for (ref_iter it = ref_begin(t->rank, t->shape); ref_valid(&it); ref_next(&it))
    values[it.linear] = ref_load(t, tensor_offset(t, it.index));
  *out = values;
  return KILN_OK;
}

void ref_from_doubles(const double *values, const tensor *t) {
  for (ref_iter it = ref_begin(t->rank, t->shape); ref_valid(&it); ref_next(&it))
    ref_store(t, tensor_offset(t, it.index), values[it.linear]);
}

value *spatial_batched(lower_call *c, value *x, int rank, bool *added) {
  *added = x && x->type.rank == rank - 1;
  if (!*added) return x;
  dim dims[KILN_MAX_RANK] = {1};
  for (int i = 0; i < x->type.rank; i++) dims[i + 1] = x->type.dims[i];
  return lower_reshape(&c->b, x, rank, dims);
}

value *spatial_unbatched(lower_call *c, value *y, bool added) {
  return y && added ? lower_reshape(&c->b, y, y->type.rank - 1, y->type.dims + 1) : y;
}

kiln_status spatial_arg(lower_call *c, const char *name, int count, const int64_t *fallback, int64_t *out) {
  if (call_is_none(c, name) || call_list_count(c, name) == 0) {
    for (int i = 0; fallback && i < count; i++) out[i] = fallback[i];
    return fallback ? KILN_OK : LOWER_FAIL(c, "argument %s is empty", name);
  }
  KILN_TRY(call_ints_expand(c, name, count, out));
  for (int i = 0; i < count; i++)
    if (!dim_is_const(out[i])) return LOWER_FAIL(c, "argument %s must not depend on an input's size", name);
  return KILN_OK;
}
