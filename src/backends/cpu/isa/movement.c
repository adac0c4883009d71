/* Moving elements: one strided copy does nearly all (copies of views, permutations, concat, tile, pad, roll, flip). It
 * drops and joins dimensions until the shape is as simple as the strides allow, and then copies runs, fills runs,
 * transposes blocks of a plane in which one side is contiguous for reading and the other for writing, or goes element
 * by element. */
#include "backends/cpu/isa/copy.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/simd/f32.h"
#include "base/memory.h"
#include "base/text.h"
#include "ops/ref.h"

enum { COPY_RUN = 65536, COPY_BLOCK = 16 };

typedef struct copy_job {
  copy_space s; /* normalized: `to` strides descending */
  char *to;
  const char *from;
  int64_t size;  /* of an element */
  int32_t other; /* transposes: the dimension whose `from` stride is 1; -1: no transpose */
  int32_t outer; /* dimensions that units run over, first ones */
  int64_t parts; /* of the rest, in each unit */
  int64_t block; /* transposes: steps along the other dimension in a unit */
} copy_job;

/* ---- Normalizing ------------------------------------------------------------------------------------------------- */

static int64_t copy_abs(int64_t x) { return x < 0 ? -x : x; }

/* False: nothing to copy. */
static bool copy_normalize(copy_space *s) {
  copy_space t = {.rank = 0};
  for (int d = 0; d < s->rank; ++d) {
    if (s->shape[d] == 0) return false;
    if (s->shape[d] == 1) continue;
    int at = t.rank++;
    for (; at > 0 && copy_abs(t.to[at - 1]) < copy_abs(s->to[d]); --at) {
      t.shape[at] = t.shape[at - 1], t.to[at] = t.to[at - 1], t.from[at] = t.from[at - 1];
    }
    t.shape[at] = s->shape[d], t.to[at] = s->to[d], t.from[at] = s->from[d];
  }
  s->rank = 0;
  for (int d = 0; d < t.rank; ++d) {
    const int last = s->rank - 1;
    if (last >= 0 && s->to[last] == t.to[d] * t.shape[d] && s->from[last] == t.from[d] * t.shape[d]) {
      s->shape[last] *= t.shape[d];
    } else {
      s->shape[s->rank++] = t.shape[d];
    }
    s->to[s->rank - 1] = t.to[d];
    s->from[s->rank - 1] = t.from[d];
  }
  if (s->rank == 0) {
    s->rank = 1;
    s->shape[0] = s->to[0] = s->from[0] = 1;
  }
  return true;
}

static void copy_offsets(const copy_job *j, int64_t index, int64_t *to, int64_t *from) {
  *to = *from = 0;
  for (int d = j->outer - 1; d >= 0; --d) {
    if (d == j->other) continue;
    const int64_t i = index % j->s.shape[d];
    index /= j->s.shape[d];
    *to += i * j->s.to[d];
    *from += i * j->s.from[d];
  }
}

/* ---- Runs -------------------------------------------------------------------------------------------------------- */

#define COPY_ELEMENTS(type)                                              \
  do {                                                                   \
    type *o = (type *)(void *)to;                                        \
    const type *x = (const type *)(const void *)from;                    \
    if (to_step == 1 && from_step == 1) {                                \
      for (int64_t i = 0; i < n; ++i) o[i] = x[i];                       \
    } else if (to_step == 1 && from_step == 0) {                         \
      const type v = x[0];                                               \
      for (int64_t i = 0; i < n; ++i) o[i] = v;                          \
    } else {                                                             \
      for (int64_t i = 0; i < n; ++i) o[i * to_step] = x[i * from_step]; \
    }                                                                    \
  } while (0)

static void copy_run(char *restrict to, int64_t to_step, const char *restrict from, int64_t from_step, int64_t n,
                     int64_t size) {
  if (to_step == 1 && from_step == 1 && n * size >= 256) {
    memcpy(to, from, (size_t)(n * size));
    return;
  }
  switch (size) {
    case 1:
      COPY_ELEMENTS(uint8_t);
      break;
    case 2:
      COPY_ELEMENTS(uint16_t);
      break;
    case 4:
      COPY_ELEMENTS(uint32_t);
      break;
    default:
      COPY_ELEMENTS(uint64_t);
      break;
  }
}

/* A unit is one part of one run along the last dimension. */
static void copy_run_parts(const copy_job *j, int64_t begin, int64_t end) {
  const int last = j->s.rank - 1;
  for (int64_t u = begin; u < end; ++u) {
    int64_t to, from, first, stop;
    copy_offsets(j, u / j->parts, &to, &from);
    range_split(j->s.shape[last], j->parts, 64, u % j->parts, &first, &stop);
    to += first * j->s.to[last];
    from += first * j->s.from[last];
    copy_run(j->to + to * j->size, j->s.to[last], j->from + from * j->size, j->s.from[last], stop - first, j->size);
  }
}

/* Whole runs: offsets are stepped, as a division for each short run would cost more than the run. */
static void copy_runs(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const copy_job *j = user;
  if (j->parts > 1) {
    copy_run_parts(j, begin, end);
    return;
  }
  const int last = j->s.rank - 1;
  int64_t index[COPY_MAX_RANK], to = 0, from = 0, rest = begin;
  for (int d = last - 1; d >= 0; --d) {
    index[d] = rest % j->s.shape[d];
    rest /= j->s.shape[d];
    to += index[d] * j->s.to[d];
    from += index[d] * j->s.from[d];
  }
  for (int64_t u = begin; u < end; ++u) {
    copy_run(j->to + to * j->size, j->s.to[last], j->from + from * j->size, j->s.from[last], j->s.shape[last], j->size);
    for (int d = last - 1; d >= 0; --d) {
      to += j->s.to[d];
      from += j->s.from[d];
      if (++index[d] < j->s.shape[d]) break;
      to -= j->s.to[d] * j->s.shape[d];
      from -= j->s.from[d] * j->s.shape[d];
      index[d] = 0;
    }
  }
}

/* ---- Transposes -------------------------------------------------------------------------------------------------- */

#if !defined(KILN_ISA_scalar)
/* 8 x 8 floats: o[c * to_row + r] = x[r * from_row + c]. */
VF_INLINE void copy_transpose_8x8(float *o, int64_t to_row, const float *x, int64_t from_row) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(x + i * from_row);
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
    r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(o + i * to_row, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(o + (i + 4) * to_row, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}
#endif

/* Elements [a0, a1) across and [b0, b1) along. */
#define COPY_TRANSPOSE(type, a0, a1, b0, b1)                                         \
  do {                                                                               \
    type *o = (type *)(void *)to;                                                    \
    const type *x = (const type *)(const void *)from;                                \
    for (int64_t a = (a0); a < (a1); ++a) {                                          \
      for (int64_t b = (b0); b < (b1); ++b) o[a * to_row + b] = x[b * from_row + a]; \
    }                                                                                \
  } while (0)

/* Few planes into pixels (an RGB image, say): loops with a known step vectorize. */
VF_INLINE void copy_interleave(uint32_t *restrict o, const uint32_t *restrict x, int64_t from_row, const int64_t planes,
                               int64_t n) {
  for (int64_t a = 0; a < n; ++a) {
    for (int64_t b = 0; b < planes; ++b) o[a * planes + b] = x[b * from_row + a];
  }
}

/* `along` elements are contiguous in `to` and from_row apart in `from`; `across` are contiguous in `from` and to_row
 * apart in `to`. */
static void copy_transpose_block(char *restrict to, int64_t to_row, const char *restrict from, int64_t from_row,
                                 int64_t along, int64_t across, int64_t size) {
#if !defined(KILN_ISA_scalar)
  if (size == 4 && along >= 8 && across >= 8) {
    const int64_t whole_a = across & ~(int64_t)7, whole_b = along & ~(int64_t)7;
    for (int64_t a = 0; a < whole_a; a += 8) {
      for (int64_t b = 0; b < whole_b; b += 8) {
        copy_transpose_8x8((float *)(void *)to + a * to_row + b, to_row,
                           (const float *)(const void *)from + b * from_row + a, from_row);
      }
    }
    COPY_TRANSPOSE(uint32_t, 0, whole_a, whole_b, along);
    COPY_TRANSPOSE(uint32_t, whole_a, across, 0, along);
    return;
  }
#endif
  if (size == 4 && to_row == along && along >= 2 && along <= 4) {
    uint32_t *o = (uint32_t *)(void *)to;
    const uint32_t *x = (const uint32_t *)(const void *)from;
    if (along == 2)
      copy_interleave(o, x, from_row, 2, across);
    else if (along == 3)
      copy_interleave(o, x, from_row, 3, across);
    else
      copy_interleave(o, x, from_row, 4, across);
    return;
  }
  switch (size) {
    case 1:
      COPY_TRANSPOSE(uint8_t, 0, across, 0, along);
      break;
    case 2:
      COPY_TRANSPOSE(uint16_t, 0, across, 0, along);
      break;
    case 4:
      COPY_TRANSPOSE(uint32_t, 0, across, 0, along);
      break;
    default:
      COPY_TRANSPOSE(uint64_t, 0, across, 0, along);
      break;
  }
}

/* A unit is a strip of `block` steps along the other dimension, all of the last one. */
static void copy_planes(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const copy_job *j = user;
  const int last = j->s.rank - 1;
  const int64_t n = j->s.shape[last], m = j->s.shape[j->other], to_row = j->s.to[j->other], from_row = j->s.from[last];
  for (int64_t u = begin; u < end; ++u) {
    int64_t to, from;
    copy_offsets(j, u / j->parts, &to, &from);
    const int64_t a = u % j->parts * j->block, across = m - a < j->block ? m - a : j->block;
    for (int64_t b = 0; b < n; b += COPY_BLOCK) {
      const int64_t along = n - b < COPY_BLOCK ? n - b : COPY_BLOCK;
      copy_transpose_block(j->to + (to + a * to_row + b) * j->size, to_row,
                           j->from + (from + a + b * from_row) * j->size, from_row, along, across, j->size);
    }
  }
}

void KERNEL(copy_strided)(pool *p, void *to, const void *from, int64_t size, const copy_space *space) {
  copy_job j = {.s = *space, .to = to, .from = from, .size = size, .other = -1};
  if (!copy_normalize(&j.s)) return;
  const int last = j.s.rank - 1;
  int64_t units = 1;
  j.outer = last;
  if (j.s.to[last] == 1 && j.s.from[last] != 1 && j.s.from[last] != 0) {
    for (int d = last - 1; d >= 0 && j.other < 0; --d) {
      if (j.s.from[d] == 1 && j.s.shape[d] >= 4) j.other = d;
    }
  }
  for (int d = 0; d < last; ++d) {
    if (d != j.other) units *= j.s.shape[d];
  }
  if (j.other >= 0) {
    j.block = j.s.shape[last] <= 4 ? 64 * COPY_BLOCK : COPY_BLOCK; /* longer strips where rows are short */
    j.parts = (j.s.shape[j.other] + j.block - 1) / j.block;
    cpu_parallel(p, units * j.parts, j.s.shape[last] * j.block / 2, copy_planes, &j);
    return;
  }
  const int64_t bytes = j.s.shape[last] * size;
  j.parts = units >= 16 ? 1 : (bytes + COPY_RUN - 1) / COPY_RUN;
  cpu_parallel(p, units * j.parts, j.s.shape[last] / j.parts / 2 + 8, copy_runs, &j);
}

/* ---- Kernels ----------------------------------------------------------------------------------------------------- */

static int64_t element_size(const tensor *t) { return (int64_t)kiln_dtype_size(t->dtype); }

/* to[...] = from[...], same shape. */
static void copy_tensor(const kernel_args *a, const tensor *to, const tensor *from) {
  copy_space s = {.rank = to->rank};
  for (int d = 0; d < to->rank; ++d) s.shape[d] = to->shape[d], s.to[d] = to->strides[d], s.from[d] = from->strides[d];
  KERNEL(copy_strided)(a->pool, to->data, from->data, element_size(to), &s);
}

static kiln_status contiguous_run(const kernel_args *a) {
  copy_tensor(a, &a->out[0], &a->in[0]);
  return KILN_OK;
}

/* Views that the runtime could not make one of: copy the view, or for a reshape of a strided tensor, in row-major
 * order, which takes an intermediate shape that both sides can be cut into. */
static kiln_status view_copy_run(const kernel_args *a) {
  tensor view = a->out[0];
  const bool is_view = a->node->op->view(a, &a->in[0], &view);
  if (tensor_numel(is_view ? &view : &a->in[0]) != tensor_numel(&a->out[0])) {
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: %lld elements do not fill a result of %lld", a->node->op->name,
                     (long long)tensor_numel(is_view ? &view : &a->in[0]), (long long)tensor_numel(&a->out[0]));
  }
  if (is_view) {
    copy_tensor(a, &a->out[0], &view);
    return KILN_OK;
  }
  if (!tensor_is_contiguous(&a->out[0])) return a->node->op->ref(a);
  tensor same = a->in[0];
  same.data = a->out[0].data;
  tensor_make_contiguous_strides(&same);
  copy_tensor(a, &same, &a->in[0]);
  return KILN_OK;
}

static void *offset_data(const tensor *t, int64_t elements) { return (char *)t->data + elements * element_size(t); }

static kiln_status concat_run(const kernel_args *a) {
  const int64_t axis = arg_int(a, "axis");
  int64_t start = 0;
  for (int32_t i = 0; i < a->n_in; ++i) {
    tensor to = a->out[0];
    bool fits = start + a->in[i].shape[axis] <= to.shape[axis];
    for (int d = 0; d < to.rank; ++d) fits &= d == axis || a->in[i].shape[d] == to.shape[d];
    if (!fits)
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "concat: operand %d has other sizes than the result beside axis %d", i,
                       (int)axis);
    if (tensor_numel(&a->in[i]) > 0) {
      to.data = offset_data(&to, start * to.strides[axis]);
      to.shape[axis] = a->in[i].shape[axis];
      copy_tensor(a, &to, &a->in[i]);
    }
    start += a->in[i].shape[axis];
  }
  return KILN_OK;
}

static kiln_status tile_run(const kernel_args *a) {
  const tensor *x = &a->in[0], *y = &a->out[0];
  copy_space s = {.rank = 0};
  for (int d = 0; d < x->rank; ++d) {
    const int64_t repeats = x->shape[d] ? y->shape[d] / x->shape[d] : 0;
    s.shape[s.rank] = repeats, s.to[s.rank] = x->shape[d] * y->strides[d], s.from[s.rank++] = 0;
    s.shape[s.rank] = x->shape[d], s.to[s.rank] = y->strides[d], s.from[s.rank++] = x->strides[d];
  }
  if (tensor_numel(y) > 0) KERNEL(copy_strided)(a->pool, y->data, x->data, element_size(x), &s);
  return KILN_OK;
}

static kiln_status flip_run(const kernel_args *a) {
  tensor x = a->in[0];
  bool flipped[KILN_MAX_RANK] = {false};
  const attr *axes = arg_attr(a, "axes");
  if (tensor_numel(&x) == 0) return KILN_OK;
  for (int i = 0; i < axes->count; ++i) flipped[axes->u.ints[i]] = !flipped[axes->u.ints[i]];
  for (int d = 0; d < x.rank; ++d) {
    if (!flipped[d]) continue;
    x.data = offset_data(&x, (x.shape[d] - 1) * x.strides[d]);
    x.strides[d] = -x.strides[d];
  }
  copy_tensor(a, &a->out[0], &x);
  return KILN_OK;
}

/* Each rolled axis falls into two pieces; all combinations are copied. */
static kiln_status roll_run(const kernel_args *a) {
  const tensor *x = &a->in[0], *y = &a->out[0];
  const attr *axes = arg_attr(a, "axes"), *shifts = arg_attr(a, "shifts");
  int64_t shift[KILN_MAX_RANK] = {0};
  if (tensor_numel(x) == 0) return KILN_OK;
  for (int i = 0; i < axes->count; ++i) {
    const int64_t d = axes->u.ints[i], size = x->shape[d];
    shift[d] = (shift[d] + (shifts->u.ints[i] % size + size) % size) % size;
  }
  for (unsigned mask = 0; mask < 1u << x->rank; ++mask) {
    tensor from = *x, to = *y;
    bool empty = false;
    for (int d = 0; d < x->rank; ++d) {
      const bool wrapped = mask >> d & 1u;
      const int64_t kept = x->shape[d] - shift[d];
      from.shape[d] = to.shape[d] = wrapped ? shift[d] : kept;
      empty |= to.shape[d] == 0;
      if (wrapped)
        from.data = offset_data(&from, kept * x->strides[d]);
      else
        to.data = offset_data(&to, shift[d] * y->strides[d]);
    }
    if (!empty) copy_tensor(a, &to, &from);
  }
  return KILN_OK;
}

/* The constant around the copied middle: two slabs for each axis. */
static void pad_borders(const kernel_args *a, const int64_t *before, const int64_t *after, const void *element) {
  tensor rest = a->out[0];
  tensor fill = rest;
  fill.data = (void *)(uintptr_t)element;
  for (int d = 0; d < rest.rank; ++d) fill.strides[d] = 0;
  for (int d = 0; d < rest.rank; ++d) {
    const int64_t low = before[d] > 0 ? before[d] : 0, high = after[d] > 0 ? after[d] : 0, size = rest.shape[d];
    tensor slab = rest;
    slab.shape[d] = low < size ? low : size;
    if (slab.shape[d] > 0) copy_tensor(a, &slab, &fill);
    slab = rest;
    slab.shape[d] = high < size - low ? high : size - low;
    if (slab.shape[d] > 0) {
      slab.data = offset_data(&slab, (size - slab.shape[d]) * rest.strides[d]);
      copy_tensor(a, &slab, &fill);
    }
    if (low) rest.data = offset_data(&rest, low * rest.strides[d]);
    rest.shape[d] = size - low - high;
    if (rest.shape[d] <= 0) return;
  }
}

static kiln_status pad_run(const kernel_args *a) {
  const int64_t *before = arg_attr(a, "before")->u.ints, *after = arg_attr(a, "after")->u.ints;
  tensor from = a->in[0], to = a->out[0];
  if (tensor_numel(&to) == 0) return KILN_OK;
  uint64_t element[2] = {0};
  const tensor one = {.data = element, .dtype = to.dtype};
  ref_store(&one, 0, arg_float(a, "value"));
  pad_borders(a, before, after, element);
  bool empty = tensor_numel(&from) == 0;
  for (int d = 0; d < to.rank; ++d) {
    const int64_t low = before[d], high = after[d];
    if (low > 0)
      to.data = offset_data(&to, low * to.strides[d]);
    else if (!empty)
      from.data = offset_data(&from, -low * from.strides[d]);
    to.shape[d] = a->in[0].shape[d] + (low < 0 ? low : 0) + (high < 0 ? high : 0);
    empty |= to.shape[d] <= 0;
  }
  if (!empty) copy_tensor(a, &to, &from);
  return KILN_OK;
}

static bool pad_fits(const node *n, const char **why) {
  if (!str_eq(node_str(n, "mode"), "constant")) return *why = "not constant padding", false;
  return true;
}

typedef struct triangle_job {
  const tensor *x, *y;
  int64_t diagonal, size;
  bool lower;
} triangle_job;

static void triangle_rows(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const triangle_job *j = user;
  const int64_t columns = j->y->shape[j->y->rank - 1], rows = j->y->shape[j->y->rank - 2];
  for (int64_t u = begin; u < end; ++u) {
    int64_t split = u % rows + j->diagonal + (j->lower ? 1 : 0); /* lower keeps [0, split), upper [split, columns) */
    split = split < 0 ? 0 : split > columns ? columns : split;
    const int64_t at = u * columns * j->size, cut = split * j->size, width = columns * j->size;
    char *y = (char *)j->y->data + at;
    const char *x = (const char *)j->x->data + at;
    if (j->lower) {
      memmove(y, x, (size_t)cut);
      memset(y + cut, 0, (size_t)(width - cut));
    } else {
      memset(y, 0, (size_t)cut);
      memmove(y + cut, x + cut, (size_t)(width - cut));
    }
  }
}

static kiln_status triangle_run(const kernel_args *a) {
  const tensor *y = &a->out[0];
  const int64_t limit = y->shape[y->rank - 1] + y->shape[y->rank - 2], columns = y->shape[y->rank - 1];
  int64_t diagonal = arg_int(a, "diagonal");
  diagonal = diagonal > limit ? limit : diagonal < -limit ? -limit : diagonal;
  triangle_job j = {&a->in[0], y, diagonal, element_size(y), strcmp(a->node->op->name, "tril") == 0};
  if (tensor_numel(y) > 0) cpu_parallel(a->pool, tensor_numel(y) / columns, columns / 4 + 8, triangle_rows, &j);
  return KILN_OK;
}

static kiln_status full_run(const kernel_args *a) {
  uint64_t element[2] = {0};
  const tensor one = {.data = element, .dtype = a->out[0].dtype};
  ref_store(&one, 0, arg_float(a, "value"));
  tensor fill = a->out[0];
  fill.data = element;
  for (int d = 0; d < fill.rank; ++d) fill.strides[d] = 0;
  if (tensor_numel(&fill) > 0) copy_tensor(a, &a->out[0], &fill);
  return KILN_OK;
}

#define MOVE_ROW(op_name, function, ...)                                                                              \
  CPU_ROW(.op = #op_name, .name = #op_name "." CPU_ISA_NAME, .run = function##_run, .strided_in = KERNEL_STRIDED_ALL, \
          .strided_out = 1, __VA_ARGS__)

const kernel KERNEL(movement_kernels)[] = {
    MOVE_ROW(contiguous, contiguous, .fits = NULL),
    MOVE_ROW(reshape, view_copy, .fits = NULL),
    MOVE_ROW(permute, view_copy, .fits = NULL),
    MOVE_ROW(expand, view_copy, .fits = NULL),
    MOVE_ROW(slice, view_copy, .fits = NULL),
    MOVE_ROW(diagonal, view_copy, .fits = NULL),
    MOVE_ROW(concat, concat, .fits = NULL),
    MOVE_ROW(tile, tile, .fits = NULL),
    MOVE_ROW(flip, flip, .fits = NULL),
    MOVE_ROW(roll, roll, .fits = NULL),
    MOVE_ROW(pad, pad, .fits = pad_fits),
    MOVE_ROW(full, full, .fits = NULL),
    CPU_ROW(.op = "tril", .name = "tril." CPU_ISA_NAME, .run = triangle_run, .inplace = 1),
    CPU_ROW(.op = "triu", .name = "triu." CPU_ISA_NAME, .run = triangle_run, .inplace = 1),
    {.op = NULL},
};
