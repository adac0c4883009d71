/* Gathers and scatters by index tensors: runs of bytes are moved, whatever the dtype. Indices are checked before they
 * are used; one out of range is an error that names it. Work is split over outputs; the first bad index of any thread
 * is reported. */
#include <stdatomic.h>
#include <string.h>

#include "backends/cpu/kernels.h"
#include "backends/cpu/parallel.h"
#include "base/memory.h"

typedef struct index_job {
  const kernel_args *a;
  int64_t outer, count, size, inner; /* x is [outer, size, inner bytes], count indices */
  bool wraps;
  _Atomic int64_t bad; /* an index out of range, if `failed` */
  atomic_bool failed;
} index_job;

static int64_t index_load(const tensor *t, int64_t i) {
  return t->dtype == KILN_I64 ? ((const int64_t *)t->data)[i] : ((const int32_t *)t->data)[i];
}

static kiln_status index_failure(const kernel_args *a, int64_t given, int64_t size) {
  return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: index %lld is outside an axis of size %lld", a->node->op->name,
                   (long long)given, (long long)size);
}

/* ---- embedding, index_select ------------------------------------------------------------------------------------- */

static void index_rows(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  index_job *j = user;
  const char *x = j->a->in[0].data;
  char *y = j->a->out[0].data;
  for (int64_t u = begin; u < end; ++u) {
    const int64_t i = index_load(&j->a->in[1], u % j->count);
    if (i < 0 || i >= j->size) {
      atomic_store(&j->bad, i);
      atomic_store(&j->failed, true);
      return;
    }
    memcpy(y + u * j->inner, x + (u / j->count * j->size + i) * j->inner, (size_t)j->inner);
  }
}

static kiln_status index_rows_run(const kernel_args *a, int64_t axis) {
  const tensor *x = &a->in[0];
  index_job j = {.a = a, .outer = 1, .count = tensor_numel(&a->in[1]), .size = x->shape[axis]};
  j.inner = (int64_t)kiln_dtype_size(x->dtype);
  for (int d = 0; d < x->rank; ++d) {
    if (d < axis) j.outer *= x->shape[d];
    if (d > axis) j.inner *= x->shape[d];
  }
  if (j.inner > 0) cpu_parallel(a->pool, j.outer * j.count, j.inner / 16 + 4, index_rows, &j);
  return j.failed ? index_failure(a, j.bad, j.size) : KILN_OK;
}

static kiln_status embedding_run(const kernel_args *a) { return index_rows_run(a, 0); }
static kiln_status index_select_run(const kernel_args *a) { return index_rows_run(a, arg_int(a, "axis")); }

/* ---- gather ------------------------------------------------------------------------------------------------------ */

#define INDEX_GATHER(type)                              \
  do {                                                  \
    type *o = (type *)a->out[0].data + u * n;           \
    const type *from = (const type *)x->data + base;    \
    for (int64_t i = 0; i < n; ++i) {                   \
      const int64_t k = index_load(indices, u * n + i); \
      if (k < 0 || k >= j->size) {                      \
        atomic_store(&j->bad, k);                       \
        atomic_store(&j->failed, true);                 \
        return;                                         \
      }                                                 \
      o[i] = from[k * stride + i * step];               \
    }                                                   \
  } while (0)

/* Units are rows of the indices along the last axis. */
static void index_gather_rows(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  index_job *j = user;
  const kernel_args *a = j->a;
  const tensor *x = &a->in[0], *indices = &a->in[1];
  const int axis = (int)arg_int(a, "axis"), last = x->rank - 1;
  const int64_t n = j->inner, stride = x->rank ? x->strides[axis] : 0,
                step = axis == last || last < 0 ? 0 : x->strides[last];
  for (int64_t u = begin; u < end; ++u) {
    int64_t base = 0, rest = u;
    for (int d = last - 1; d >= 0; --d) {
      if (d != axis) base += rest % indices->shape[d] * x->strides[d];
      rest /= indices->shape[d];
    }
    switch (kiln_dtype_size(x->dtype)) {
      case 1:
        INDEX_GATHER(uint8_t);
        break;
      case 2:
        INDEX_GATHER(uint16_t);
        break;
      case 4:
        INDEX_GATHER(uint32_t);
        break;
      default:
        INDEX_GATHER(uint64_t);
        break;
    }
  }
}

/* What inference could only assume of symbolic sizes: except along `axis`, `inner` fits in `outer`. */
static kiln_status index_check_sizes(const kernel_args *a, const tensor *inner, const tensor *outer, int64_t axis) {
  for (int d = 0; d < inner->rank; ++d) {
    if (d == axis || inner->shape[d] <= outer->shape[d]) continue;
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: indices have %lld places along axis %d, the tensor has %lld",
                     a->node->op->name, (long long)inner->shape[d], d, (long long)outer->shape[d]);
  }
  return KILN_OK;
}

static kiln_status gather_run(const kernel_args *a) {
  const tensor *x = &a->in[0], *indices = &a->in[1];
  if (tensor_numel(indices) == 0) return KILN_OK;
  KILN_TRY(index_check_sizes(a, indices, x, arg_int(a, "axis")));
  index_job j = {.a = a, .size = x->rank ? x->shape[arg_int(a, "axis")] : 1};
  j.inner = indices->rank ? indices->shape[indices->rank - 1] : 1;
  cpu_parallel(a->pool, tensor_numel(indices) / j.inner, 2 * j.inner + 8, index_gather_rows, &j);
  return j.failed ? index_failure(a, j.bad, j.size) : KILN_OK;
}

/* ---- index, index_put -------------------------------------------------------------------------------------------- */

/* Advanced indexing of x: the indexed part is [before..., at..., after...], or [at..., kept...] if the indexed axes are
 * not neighbours. */
typedef struct adv_plan {
  int64_t at_count; /* elements of the broadcast index shape */
  int32_t at_rank, n_before, n_after;
  int64_t at_shape[KILN_MAX_RANK];
  int64_t before[KILN_MAX_RANK], before_strides[KILN_MAX_RANK];
  int64_t after[KILN_MAX_RANK], after_strides[KILN_MAX_RANK];
  int64_t before_count, after_count;
  bool run; /* `after` is one run of memory */
} adv_plan;

static kiln_status adv_prepare(kernel_prep *k, int first_index, const tensor *strides_of) {
  adv_plan *p = ARENA_NEW(k->arena, adv_plan);
  if (!p) return KILN_NO_MEMORY("index");
  const kernel_args *a = &k->args;
  const tensor *x = &a->in[0], *indices = &a->in[first_index];
  const attr *axes = arg_attr(a, "axes");
  uint32_t mask = 0;
  for (int i = 0; i < axes->count; ++i) {
    mask |= 1u << axes->u.ints[i];
    if (indices[i].rank > p->at_rank) p->at_rank = indices[i].rank;
  }
  p->at_count = p->before_count = p->after_count = 1;
  for (int d = 0; d < p->at_rank; ++d) {
    p->at_shape[d] = 1;
    for (int i = 0; i < axes->count; ++i) {
      const int from = d - (p->at_rank - indices[i].rank);
      if (from >= 0 && indices[i].shape[from] != 1) p->at_shape[d] = indices[i].shape[from];
    }
    p->at_count *= p->at_shape[d];
  }
  for (int d = 0; d < p->at_rank; ++d) {
    for (int i = 0; i < axes->count; ++i) {
      const int from = d - (p->at_rank - indices[i].rank);
      if (from < 0 || indices[i].shape[from] == 1 || indices[i].shape[from] == p->at_shape[d]) continue;
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: index tensors do not broadcast together: sizes %lld and %lld",
                       a->node->op->name, (long long)indices[i].shape[from], (long long)p->at_shape[d]);
    }
  }
  const bool neighbours = axes->u.ints[axes->count - 1] - axes->u.ints[0] == axes->count - 1;
  for (int d = 0; d < x->rank; ++d) {
    if (mask >> d & 1u) continue;
    if (neighbours && d < axes->u.ints[0]) {
      p->before[p->n_before] = x->shape[d], p->before_strides[p->n_before++] = strides_of->strides[d];
      p->before_count *= x->shape[d];
    } else {
      p->after[p->n_after] = x->shape[d], p->after_strides[p->n_after++] = strides_of->strides[d];
      p->after_count *= x->shape[d];
    }
  }
  int64_t expected = 1;
  p->run = true;
  for (int d = p->n_after - 1; d >= 0; --d) {
    p->run &= p->after_strides[d] == expected || p->after[d] == 1;
    expected *= p->after[d];
  }
  k->state = p;
  if (p->at_count < 0 || !size_mul((size_t)p->at_count, sizeof(int64_t), &k->workspace_size))
    return KILN_NO_MEMORY("index");
  return KILN_OK;
}

/* offsets[i]: what element i of the index shape adds to the place in x. */
static kiln_status adv_offsets(const kernel_args *a, const adv_plan *p, int first_index, const tensor *strides_of,
                               int64_t *offsets) {
  const attr *axes = arg_attr(a, "axes");
  for (int64_t n = 0; n < p->at_count; ++n) offsets[n] = 0;
  for (int i = 0; i < axes->count; ++i) {
    const tensor *t = &a->in[first_index + i];
    const int64_t axis = axes->u.ints[i], size = a->in[0].shape[axis];
    for (int64_t n = 0; n < p->at_count; ++n) {
      int64_t at = 0, rest = n;
      for (int d = p->at_rank - 1; d >= 0; --d) {
        const int from = d - (p->at_rank - t->rank);
        if (from >= 0 && t->shape[from] != 1) at += rest % p->at_shape[d] * t->strides[from];
        rest /= p->at_shape[d];
      }
      const int64_t given = index_load(t, at), k = given < 0 ? given + size : given;
      if (k < 0 || k >= size) return index_failure(a, given, size);
      offsets[n] += k * strides_of->strides[axis];
    }
  }
  return KILN_OK;
}

static int64_t adv_before(const adv_plan *p, int64_t index) {
  int64_t at = 0;
  for (int d = p->n_before - 1; d >= 0; --d) {
    at += index % p->before[d] * p->before_strides[d];
    index /= p->before[d];
  }
  return at;
}
static int64_t adv_after(const adv_plan *p, int64_t index) {
  if (p->run) return index;
  int64_t at = 0;
  for (int d = p->n_after - 1; d >= 0; --d) {
    at += index % p->after[d] * p->after_strides[d];
    index /= p->after[d];
  }
  return at;
}

typedef struct adv_job {
  const kernel_args *a;
  const adv_plan *p;
  const int64_t *offsets;
  size_t size;
} adv_job;

static void adv_rows(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const adv_job *j = user;
  const adv_plan *p = j->p;
  const char *x = j->a->in[0].data;
  char *y = j->a->out[0].data;
  for (int64_t u = begin; u < end; ++u) {
    const int64_t from = adv_before(p, u / p->at_count) + j->offsets[u % p->at_count];
    char *to = y + (size_t)(u * p->after_count) * j->size;
    if (p->run) {
      memcpy(to, x + from * (int64_t)j->size, (size_t)p->after_count * j->size);
    } else {
      for (int64_t i = 0; i < p->after_count; ++i) {
        memcpy(to + (size_t)i * j->size, x + (from + adv_after(p, i)) * (int64_t)j->size, j->size);
      }
    }
  }
}

static kiln_status index_prepare(kernel_prep *k) { return adv_prepare(k, 1, &k->args.in[0]); }
static kiln_status index_run(const kernel_args *a) {
  const adv_plan *p = a->state;
  if (tensor_numel(&a->out[0]) == 0) return KILN_OK;
  adv_job j = {a, p, a->workspace, kiln_dtype_size(a->in[0].dtype)};
  KILN_TRY(adv_offsets(a, p, 1, &a->in[0], a->workspace));
  cpu_parallel(a->pool, p->before_count * p->at_count, p->after_count / 4 + 8, adv_rows, &j);
  return KILN_OK;
}

static kiln_status index_put_prepare(kernel_prep *k) { return adv_prepare(k, 2, &k->args.out[0]); }

/* One thread: of equal places the last value counts, and sums are taken in order. Values broadcast to the indexed
 * part. */
static kiln_status index_put_run(const kernel_args *a) {
  const adv_plan *p = a->state;
  const tensor *v = &a->in[1];
  const size_t size = kiln_dtype_size(v->dtype);
  char *y = a->out[0].data;
  const bool accumulate = arg_bool(a, "accumulate");
  if (y != a->in[0].data) memcpy(y, a->in[0].data, (size_t)tensor_numel(&a->out[0]) * size);
  if (p->before_count * p->at_count * p->after_count == 0) return KILN_OK;
  KILN_TRY(adv_offsets(a, p, 2, &a->out[0], a->workspace));
  const int64_t *offsets = a->workspace;
  const int rank = p->n_before + p->at_rank + p->n_after;
  int64_t shape[2 * KILN_MAX_RANK], strides[2 * KILN_MAX_RANK];
  for (int d = 0; d < rank; ++d) {
    shape[d] = d < p->n_before                ? p->before[d]
               : d < p->n_before + p->at_rank ? p->at_shape[d - p->n_before]
                                              : p->after[d - p->n_before - p->at_rank];
    const int from = d - (rank - v->rank);
    strides[d] = from < 0 || v->shape[from] == 1 ? 0 : v->strides[from];
    if (from >= 0 && v->shape[from] != 1 && v->shape[from] != shape[d]) {
      return KILN_FAIL(KILN_INVALID_ARGUMENT,
                       "index_put: the values have %lld places along axis %d, the indexed part has %lld",
                       (long long)v->shape[from], from, (long long)shape[d]);
    }
  }
  for (int64_t u = 0; u < p->before_count * p->at_count; ++u) {
    const int64_t to = adv_before(p, u / p->at_count) + offsets[u % p->at_count];
    for (int64_t i = 0; i < p->after_count; ++i) {
      int64_t from = 0, rest = u * p->after_count + i;
      for (int d = rank - 1; d >= 0; --d) from += rest % shape[d] * strides[d], rest /= shape[d];
      char *o = y + (to + adv_after(p, i)) * (int64_t)size;
      const char *x = (const char *)v->data + from * (int64_t)size;
      if (!accumulate)
        memcpy(o, x, size);
      else if (v->dtype == KILN_F32)
        *(float *)(void *)o += *(const float *)(const void *)x;
      else
        *(uint64_t *)(void *)o += *(const uint64_t *)(const void *)x;
    }
  }
  return KILN_OK;
}

static bool index_put_fits(const node *n, const char **why) {
  const kiln_dtype d = n->inputs[0].v->type.dtype;
  if (node_bool(n, "accumulate") && d != KILN_F32 && d != KILN_I64)
    return *why = "accumulates neither f32 nor i64", false;
  return true;
}

/* ---- scatter, slice_scatter -------------------------------------------------------------------------------------- */

/* `count` elements of src from element `from` on go to y, near element `to`, where indices say from element n on. */
static kiln_status scatter_line(const kernel_args *a, int64_t count, int64_t n, int64_t from, int64_t to, bool add) {
  const tensor *indices = &a->in[1], *src = &a->in[2], *y = &a->out[0];
  const size_t size = kiln_dtype_size(y->dtype);
  const int64_t axis = arg_int(a, "axis"), last = y->rank - 1, limit = y->rank ? y->shape[axis] : 1;
  const int64_t pitch = y->rank ? y->strides[axis] : 0;
  const int64_t step = y->rank && axis != last ? y->strides[last] : 0, src_step = y->rank ? src->strides[last] : 0;
  const int64_t index_step = y->rank ? indices->strides[last] : 0; /* 0: the same index for all, as index_add has */
  const int64_t first = index_load(indices, n);
  if (step == 1 && src_step == 1 && (index_step == 0 || count == 1)) {
    if (first < 0 || first >= limit) return index_failure(a, first, limit);
    char *o = (char *)y->data + (to + first * pitch) * (int64_t)size;
    const char *x = (const char *)src->data + from * (int64_t)size;
    if (!add) {
      memcpy(o, x, (size_t)count * size);
    } else if (y->dtype == KILN_F32) {
      float *sums = (float *)(void *)o;
      for (int64_t i = 0; i < count; ++i) sums[i] += ((const float *)(const void *)x)[i];
    } else {
      uint64_t *sums = (uint64_t *)(void *)o;
      for (int64_t i = 0; i < count; ++i) sums[i] += ((const uint64_t *)(const void *)x)[i];
    }
    return KILN_OK;
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t k = index_load(indices, n + i * index_step);
    if (k < 0 || k >= limit) return index_failure(a, k, limit);
    char *o = (char *)y->data + (to + k * pitch + i * step) * (int64_t)size;
    const char *x = (const char *)src->data + (from + i * src_step) * (int64_t)size;
    if (!add)
      memcpy(o, x, size);
    else if (y->dtype == KILN_F32)
      *(float *)(void *)o += *(const float *)(const void *)x;
    else
      *(uint64_t *)(void *)o += *(const uint64_t *)(const void *)x;
  }
  return KILN_OK;
}

static kiln_status scatter_run(const kernel_args *a) {
  const tensor *indices = &a->in[1], *src = &a->in[2], *y = &a->out[0];
  const size_t size = kiln_dtype_size(y->dtype);
  const int64_t axis = arg_int(a, "axis"), count = tensor_numel(indices);
  const bool add = strcmp(arg_attr(a, "reduce")->u.s, "add") == 0;
  if (count > 0) {
    KILN_TRY(index_check_sizes(a, indices, y, axis));
    KILN_TRY(index_check_sizes(a, indices, src, -1));
  }
  if (y->data != a->in[0].data) memcpy(y->data, a->in[0].data, (size_t)tensor_numel(y) * size);
  const int64_t columns = y->rank ? indices->shape[y->rank - 1] : 1;
  for (int64_t n = 0; n < count; n += columns) {
    int64_t to = 0, from = 0, index = 0, rest = n / columns;
    for (int d = y->rank - 2; d >= 0; --d) {
      const int64_t i = rest % indices->shape[d];
      rest /= indices->shape[d];
      if (d != axis) to += i * y->strides[d];
      from += i * src->strides[d];
      index += i * indices->strides[d];
    }
    KILN_TRY(scatter_line(a, columns, index, from, to, add));
  }
  return KILN_OK;
}

static bool scatter_fits(const node *n, const char **why) {
  const kiln_dtype d = n->inputs[0].v->type.dtype;
  const char *mode = node_str(n, "reduce");
  if (strcmp(mode, "none") == 0) return true;
  if (strcmp(mode, "add") != 0 || (d != KILN_F32 && d != KILN_I64))
    return *why = "reduces other than by adding f32 or i64", false;
  if (!node_bool(n, "include_self")) return *why = "leaves out what was there", false;
  return true;
}

/* src goes into y, which has x's contents, at `start`, every `step` places. */
static kiln_status scatter_slice(const kernel_args *a, int64_t axis, int64_t start, int64_t step) {
  const tensor *src = &a->in[1], *y = &a->out[0];
  int64_t outer = 1, inner = (int64_t)kiln_dtype_size(y->dtype);
  for (int d = 0; d < y->rank; ++d) {
    if (d < axis) outer *= y->shape[d];
    if (d > axis) inner *= y->shape[d];
  }
  if (y->data != a->in[0].data) memcpy(y->data, a->in[0].data, (size_t)tensor_numel(y) * kiln_dtype_size(y->dtype));
  const int64_t count = src->shape[axis], size = y->shape[axis];
  if (inner == 0 || count == 0) return KILN_OK;
  if (start < 0 || step < 1 || count > (size - start + step - 1) / step) {
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: %lld places from %lld do not fit in an axis of size %lld",
                     a->node->op->name, (long long)count, (long long)start, (long long)size);
  }
  for (int64_t o = 0; o < outer; ++o) {
    char *to = (char *)y->data + (o * size + start) * inner;
    const char *from = (const char *)src->data + o * count * inner;
    if (step == 1) {
      memcpy(to, from, (size_t)(count * inner));
    } else {
      for (int64_t i = 0; i < count; ++i) memcpy(to + i * step * inner, from + i * inner, (size_t)inner);
    }
  }
  return KILN_OK;
}

static kiln_status slice_scatter_run(const kernel_args *a) {
  return scatter_slice(a, arg_int(a, "axis"), arg_int(a, "start"), arg_int(a, "step"));
}

/* ---- narrow, narrow_scatter -------------------------------------------------------------------------------------- */

static kiln_status narrow_start(const kernel_args *a, const tensor *start, int64_t length, int64_t size, int64_t *out) {
  const int64_t given = index_load(start, 0);
  *out = given < 0 ? given + size : given;
  if (*out >= 0 && *out <= size && length <= size - *out) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: %lld places from %lld are not within an axis of size %lld",
                   a->node->op->name, (long long)length, (long long)given, (long long)size);
}

static kiln_status narrow_run(const kernel_args *a) {
  const tensor *x = &a->in[0], *y = &a->out[0];
  const int64_t axis = arg_int(a, "axis"), size = x->shape[axis], length = y->shape[axis];
  int64_t outer = 1, inner = (int64_t)kiln_dtype_size(x->dtype), start = 0;
  for (int d = 0; d < x->rank; ++d) {
    if (d < axis) outer *= x->shape[d];
    if (d > axis) inner *= x->shape[d];
  }
  KILN_TRY(narrow_start(a, &a->in[1], length, size, &start));
  if (inner == 0 || length == 0) return KILN_OK;
  for (int64_t o = 0; o < outer; ++o)
    memcpy((char *)y->data + o * length * inner, (const char *)x->data + (o * size + start) * inner,
           (size_t)(length * inner));
  return KILN_OK;
}

static kiln_status narrow_scatter_run(const kernel_args *a) {
  const int64_t axis = arg_int(a, "axis");
  int64_t start = 0;
  KILN_TRY(narrow_start(a, &a->in[2], a->in[1].shape[axis], a->out[0].shape[axis], &start));
  return scatter_slice(a, axis, start, 1);
}

/* ---- nonzero ----------------------------------------------------------------------------------------------------- */

static bool element_set(const tensor *x, int64_t i) {
  switch (x->dtype) {
    case KILN_BOOL:
    case KILN_U8:
    case KILN_I8:
      return ((const uint8_t *)x->data)[i] != 0;
    case KILN_I32:
      return ((const int32_t *)x->data)[i] != 0;
    case KILN_I64:
      return ((const int64_t *)x->data)[i] != 0;
    default:
      return ((const float *)x->data)[i] != 0;
  }
}

static bool nonzero_fits(const node *n, const char **why) {
  const tensor_type *x = &n->inputs[0].v->type;
  if (x->rank == 0) return *why = "x has no dimensions", false;
  if (x->dtype == KILN_F32 || x->dtype == KILN_BOOL || x->dtype == KILN_U8 || x->dtype == KILN_I8 ||
      x->dtype == KILN_I32 || x->dtype == KILN_I64)
    return true;
  return *why = "x is a float of another width or i16", false;
}

/* Places in row-major order: one row of indices for each. */
static kiln_status nonzero_run(const kernel_args *a) {
  const tensor *x = &a->in[0], *y = &a->out[0];
  const int32_t rank = x->rank;
  const int64_t inner = x->shape[rank - 1], total = tensor_numel(x), planned = y->shape[0];
  int64_t index[KILN_MAX_RANK] = {0}, *out = y->data, found = 0;
  for (int64_t row = 0; row < total; row += inner) {
    for (int64_t i = 0; i < inner; ++i) {
      if (!element_set(x, row + i)) continue;
      if (found++ < planned) {
        for (int32_t d = 0; d < rank - 1; ++d) *out++ = index[d];
        *out++ = i;
      }
    }
    for (int32_t d = rank - 2; d >= 0 && ++index[d] == x->shape[d]; --d) index[d] = 0;
  }
  if (found == planned) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_ARGUMENT, "nonzero: %lld elements, %lld were planned", (long long)found,
                   (long long)planned);
}

const kernel index_kernels[] = {
    {.op = "embedding", .name = "embedding.copy", .run = embedding_run},
    {.op = "index_select", .name = "index_select.copy", .run = index_select_run},
    {.op = "gather", .name = "gather.copy", .run = gather_run},
    {.op = "index", .name = "index.copy", .prepare = index_prepare, .run = index_run},
    {.op = "index_put",
     .name = "index_put.copy",
     .fits = index_put_fits,
     .prepare = index_put_prepare,
     .run = index_put_run,
     .inplace = 1},
    {.op = "scatter", .name = "scatter.copy", .fits = scatter_fits, .run = scatter_run, .strided_in = 2, .inplace = 1},
    {.op = "slice_scatter", .name = "slice_scatter.copy", .run = slice_scatter_run, .inplace = 1},
    {.op = "nonzero", .name = "nonzero.scan", .fits = nonzero_fits, .run = nonzero_run},
    {.op = "narrow", .name = "narrow.copy", .run = narrow_run},
    {.op = "narrow_scatter", .name = "narrow_scatter.copy", .run = narrow_scatter_run, .inplace = 1},
    {.op = NULL},
};
