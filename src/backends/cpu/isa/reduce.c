/* Reductions of contiguous tensors over any axes. After joining neighbouring axes of one sort, the last axis is either
 * reduced (rows are summed with vectors along them) or kept (vectors run over outputs, and steps along the reduced axes
 * are added to them). Long sums are taken in blocks, so that rounding errors grow with the square root of the length at
 * most. */
#include "backends/cpu/kernels.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/simd/f32.h"
#include "base/memory.h"

typedef enum red_kind {
  RED_SUM,
  RED_MEAN,
  RED_PROD,
  RED_MAX,
  RED_MIN,
  RED_VAR,
  RED_ABS,
  RED_SQUARE,
  RED_ABSMAX,
  RED_ANY,
  RED_ALL
} red_kind;
enum { RED_BLOCK = 2048, RED_STEPS = 32, RED_LANES = 4 * VF };

typedef struct red_job {
  red_kind kind;
  bool last_reduced;
  int32_t n_kept, n_reduced; /* joined axes; without the last one, which `inner` is */
  int64_t kept[KILN_MAX_RANK], kept_strides[KILN_MAX_RANK];
  int64_t reduced[KILN_MAX_RANK], reduced_strides[KILN_MAX_RANK];
  int64_t inner, outputs, count; /* count: elements of one output */
  double correction;
  const void *x;
  void *y;
  kiln_dtype dtype;
} red_job;

/* ---- Walking ----------------------------------------------------------------------------------------------------- */

static int64_t red_kept_offset(const red_job *j, int64_t index) {
  int64_t at = 0;
  for (int d = j->n_kept - 1; d >= 0; --d) {
    at += index % j->kept[d] * j->kept_strides[d];
    index /= j->kept[d];
  }
  return at;
}

typedef struct red_walk {
  int64_t index[KILN_MAX_RANK], offset, left;
} red_walk;
static red_walk red_begin(const red_job *j, int64_t base) {
  red_walk w = {.offset = base, .left = 1};
  for (int d = 0; d < j->n_reduced; ++d) w.left *= j->reduced[d];
  return w;
}
static inline void red_next(const red_job *j, red_walk *w) {
  --w->left;
  for (int d = j->n_reduced - 1; d >= 0; --d) {
    w->offset += j->reduced_strides[d];
    if (++w->index[d] < j->reduced[d]) return;
    w->offset -= j->reduced_strides[d] * j->reduced[d];
    w->index[d] = 0;
  }
}

/* ---- Vectors ----------------------------------------------------------------------------------------------------- */

VF_INLINE float red_identity(const red_kind k) {
  return k == RED_PROD ? 1.0f : k == RED_MAX ? -INFINITY : k == RED_MIN ? INFINITY : 0.0f;
}
/* Extremes keep a NaN that they have met: vf_max(a, b) is b if either is NaN. */
VF_INLINE vf red_add(const red_kind k, vf sum, vf x, vf mean) {
  switch (k) {
    case RED_PROD:
      return vf_mul(sum, x);
    case RED_MAX:
      return vf_select(vf_eq(sum, sum), vf_max(sum, x), sum);
    case RED_MIN:
      return vf_select(vf_eq(sum, sum), vf_min(sum, x), sum);
    case RED_VAR:
      return vf_fma(vf_sub(x, mean), vf_sub(x, mean), sum);
    case RED_ABS:
      return vf_add(sum, vf_abs(x));
    case RED_SQUARE:
      return vf_fma(x, x, sum);
    case RED_ABSMAX:
      return vf_select(vf_eq(sum, sum), vf_max(sum, vf_abs(x)), sum);
    default:
      return vf_add(sum, x);
  }
}
/* Joins two partial results. */
VF_INLINE vf red_join(const red_kind k, vf a, vf b) {
  switch (k) {
    case RED_PROD:
      return vf_mul(a, b);
    case RED_MAX:
    case RED_ABSMAX:
      return vf_select(vf_eq(a, a), vf_max(a, b), a);
    case RED_MIN:
      return vf_select(vf_eq(a, a), vf_min(a, b), a);
    default:
      return vf_add(a, b);
  }
}
static double red_join_scalar(red_kind k, double a, double b) {
  switch (k) {
    case RED_PROD:
      return a * b;
    case RED_MAX:
    case RED_ABSMAX:
      return a != a ? a : b > a || b != b ? b : a;
    case RED_MIN:
      return a != a ? a : b < a || b != b ? b : a;
    default:
      return a + b;
  }
}

VF_INLINE double red_row_of(const red_kind k, const float *x, int64_t n, float mean) {
  double total = (double)red_identity(k);
  const vf m = vf_set1(mean), none = vf_set1(red_identity(k));
  for (int64_t b = 0; b < n; b += RED_BLOCK) {
    const int64_t end = n - b < RED_BLOCK ? n : b + RED_BLOCK;
    vf s = none, s1 = none, s2 = none, s3 = none;
    int64_t i = b;
    for (; i + 4 * VF <= end; i += 4 * VF) {
      s = red_add(k, s, vf_load(x + i), m);
      s1 = red_add(k, s1, vf_load(x + i + VF), m);
      s2 = red_add(k, s2, vf_load(x + i + 2 * VF), m);
      s3 = red_add(k, s3, vf_load(x + i + 3 * VF), m);
    }
    for (; i < end; i += VF) {
      const vm tail = vf_tail(end - i < VF ? end - i : VF);
      s = vf_select(tail, red_add(k, s, vf_load_mask(x + i, tail), m), s);
    }
    float lanes[VF];
    vf_store(lanes, red_join(k, red_join(k, s, s1), red_join(k, s2, s3)));
    for (int l = 0; l < VF; ++l) total = red_join_scalar(k, total, (double)lanes[l]);
  }
  return total;
}

#define RED_DISPATCH(kind, call) \
  switch (kind) {                \
    case RED_PROD:               \
      call(RED_PROD);            \
      break;                     \
    case RED_MAX:                \
      call(RED_MAX);             \
      break;                     \
    case RED_MIN:                \
      call(RED_MIN);             \
      break;                     \
    case RED_VAR:                \
      call(RED_VAR);             \
      break;                     \
    case RED_ABS:                \
      call(RED_ABS);             \
      break;                     \
    case RED_SQUARE:             \
      call(RED_SQUARE);          \
      break;                     \
    case RED_ABSMAX:             \
      call(RED_ABSMAX);          \
      break;                     \
    default:                     \
      call(RED_SUM);             \
      break;                     \
  }

static double red_row(red_kind kind, const float *x, int64_t n, float mean) {
  double r = 0.0;
#define RED_ROW(k) r = red_row_of(k, x, n, mean)
  RED_DISPATCH(kind, RED_ROW)
  return r;
}

static float red_finish(const red_job *j, double total) {
  if (j->kind == RED_MEAN) return (float)(total / (double)j->count);
  if (j->kind == RED_VAR) return (float)(total / fmax(0.0, (double)j->count - j->correction));
  return j->kind == RED_SQUARE ? (float)sqrt(total) : (float)total;
}

/* Last axis reduced: one output at a time. */
static void red_rows(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const red_job *j = user;
  float *y = j->y;
  for (int64_t u = begin; u < end; ++u) {
    const float *x = (const float *)j->x + red_kept_offset(j, u);
    double total = (double)red_identity(j->kind), mean = 0.0;
    if (j->kind == RED_VAR) {
      for (red_walk w = red_begin(j, 0); w.left > 0; red_next(j, &w))
        mean += red_row(RED_SUM, x + w.offset, j->inner, 0.0f);
      mean /= (double)j->count;
    }
    for (red_walk w = red_begin(j, 0); w.left > 0; red_next(j, &w)) {
      total = red_join_scalar(j->kind, total, red_row(j->kind, x + w.offset, j->inner, (float)mean));
    }
    y[u] = red_finish(j, total);
  }
}

/* Up to RED_LANES neighbouring outputs; sums of RED_STEPS steps are added up apart. */
VF_INLINE void red_lanes_of(const red_kind k, const red_job *j, const float *x, int64_t lanes, const float *mean,
                            float *out) {
  const vf none = vf_set1(red_identity(k));
  vf total[4] = {none, none, none, none}, m[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
  vm tail[4];
  const int vectors = (int)((lanes + VF - 1) / VF);
  for (int v = 0; v < 4; ++v) {
    const int64_t left = lanes - v * VF;
    tail[v] = vf_tail(left < 0 ? 0 : left < VF ? left : VF);
    if (mean) m[v] = vf_load(mean + v * VF);
  }
  red_walk w = red_begin(j, 0);
  while (w.left > 0) {
    vf s[4] = {none, none, none, none};
    if (vectors == 4 && lanes == RED_LANES) {
      for (int n = 0; n < RED_STEPS && w.left > 0; ++n, red_next(j, &w)) {
        for (int v = 0; v < 4; ++v) s[v] = red_add(k, s[v], vf_load(x + w.offset + v * VF), m[v]);
      }
    } else {
      for (int n = 0; n < RED_STEPS && w.left > 0; ++n, red_next(j, &w)) {
        for (int v = 0; v < vectors; ++v) s[v] = red_add(k, s[v], vf_load_mask(x + w.offset + v * VF, tail[v]), m[v]);
      }
    }
    for (int v = 0; v < 4; ++v) total[v] = red_join(k, total[v], s[v]);
  }
  for (int v = 0; v < 4; ++v) vf_store(out + v * VF, total[v]);
}

static void red_lanes(red_kind kind, const red_job *j, const float *x, int64_t lanes, const float *mean, float *out) {
#define RED_LANE(k) red_lanes_of(k, j, x, lanes, mean, out)
  RED_DISPATCH(kind, RED_LANE)
}

static void red_columns(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const red_job *j = user;
  const int64_t blocks = (j->inner + RED_LANES - 1) / RED_LANES;
  float out[RED_LANES], mean[RED_LANES];
  for (int64_t u = begin; u < end; ++u) {
    const int64_t first = u % blocks * RED_LANES, lanes = j->inner - first < RED_LANES ? j->inner - first : RED_LANES;
    const float *x = (const float *)j->x + red_kept_offset(j, u / blocks) + first;
    float *y = (float *)j->y + u / blocks * j->inner + first;
    if (j->kind == RED_VAR) {
      red_lanes(RED_SUM, j, x, lanes, NULL, mean);
      for (int64_t l = 0; l < lanes; ++l) mean[l] /= (float)j->count;
      for (int64_t l = lanes; l < RED_LANES; ++l) mean[l] = 0.0f;
    }
    red_lanes(j->kind, j, x, lanes, j->kind == RED_VAR ? mean : NULL, out);
    for (int64_t l = 0; l < lanes; ++l) y[l] = red_finish(j, (double)out[l]);
  }
}

/* ---- Integers and bool: plain loops ------------------------------------------------------------------------------ */

static int64_t red_int_load(kiln_dtype d, const void *x, int64_t i) {
  switch (d) {
    case KILN_I64:
      return ((const int64_t *)x)[i];
    case KILN_I32:
      return ((const int32_t *)x)[i];
    case KILN_I16:
      return ((const int16_t *)x)[i];
    case KILN_I8:
      return ((const int8_t *)x)[i];
    case KILN_F32:
      return ((const float *)x)[i] != 0.0f;
    default:
      return ((const uint8_t *)x)[i];
  }
}
static void red_int_store(kiln_dtype d, void *y, int64_t i, int64_t v) {
  switch (d) {
    case KILN_I64:
      ((int64_t *)y)[i] = v;
      break;
    case KILN_I32:
      ((int32_t *)y)[i] = (int32_t)v;
      break;
    case KILN_I16:
      ((int16_t *)y)[i] = (int16_t)v;
      break;
    case KILN_I8:
      ((int8_t *)y)[i] = (int8_t)v;
      break;
    case KILN_BOOL:
      ((uint8_t *)y)[i] = v != 0;
      break;
    default:
      ((uint8_t *)y)[i] = (uint8_t)v;
      break;
  }
}

static void red_integers(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const red_job *j = user;
  const int64_t steps = j->last_reduced ? j->inner : 1;
  const kiln_dtype to = j->kind == RED_ANY || j->kind == RED_ALL ? KILN_BOOL : j->dtype;
  for (int64_t u = begin; u < end; ++u) {
    const int64_t base = j->last_reduced ? red_kept_offset(j, u) : red_kept_offset(j, u / j->inner) + u % j->inner;
    uint64_t sum = 0, product = 1;
    int64_t max = INT64_MIN, min = INT64_MAX;
    bool any = false, all = true;
    for (red_walk w = red_begin(j, base); w.left > 0; red_next(j, &w)) {
      for (int64_t i = 0; i < steps; ++i) {
        const int64_t v = red_int_load(j->dtype, j->x, w.offset + i);
        sum += (uint64_t)v;
        product *= (uint64_t)v;
        max = v > max ? v : max;
        min = v < min ? v : min;
        any |= v != 0;
        all &= v != 0;
      }
    }
    const int64_t r = j->kind == RED_SUM    ? (int64_t)sum
                      : j->kind == RED_PROD ? (int64_t)product
                      : j->kind == RED_MAX  ? max
                      : j->kind == RED_MIN  ? min
                      : j->kind == RED_ANY  ? any
                                            : all;
    red_int_store(to, j->y, u, r);
  }
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static red_kind red_kind_of(const kernel_args *a) {
  static const struct {
    const char *op;
    red_kind kind;
  } kinds[] = {{"sum", RED_SUM},  {"mean", RED_MEAN}, {"prod", RED_PROD}, {"amax", RED_MAX},
               {"amin", RED_MIN}, {"var", RED_VAR},   {"any", RED_ANY},   {"all", RED_ALL}};
  for (size_t i = 0; i < KILN_COUNT(kinds); ++i) {
    if (strcmp(a->node->op->name, kinds[i].op) == 0) return kinds[i].kind;
  }
  const double p = arg_float(a, "p");
  return p == 2.0 ? RED_SQUARE : p == 1.0 ? RED_ABS : RED_ABSMAX;
}

static kiln_status red_prepare(kernel_prep *p) {
  red_job *j = ARENA_NEW(p->arena, red_job);
  if (!j) return KILN_NO_MEMORY("reduction");
  const tensor *x = &p->args.in[0];
  const attr *axes = arg_attr(&p->args, "axes");
  uint32_t mask = 0;
  for (int i = 0; i < axes->count; ++i) mask |= 1u << axes->u.ints[i];
  int64_t shape[KILN_MAX_RANK], strides[KILN_MAX_RANK], stride = 1;
  bool reduced[KILN_MAX_RANK];
  int n = 0; /* joined axes, last first */
  for (int d = x->rank - 1; d >= 0; --d) {
    const bool r = mask >> d & 1u;
    if (x->shape[d] != 1) {
      if (n > 0 && reduced[n - 1] == r) {
        shape[n - 1] *= x->shape[d];
      } else {
        shape[n] = x->shape[d], strides[n] = stride, reduced[n++] = r;
      }
    }
    stride *= x->shape[d];
  }
  j->kind = red_kind_of(&p->args);
  j->correction = j->kind == RED_VAR ? arg_float(&p->args, "correction") : 0.0;
  j->dtype = x->dtype;
  j->last_reduced = n > 0 && reduced[0];
  j->inner = n > 0 ? shape[0] : 1;
  j->count = j->last_reduced ? j->inner : 1;
  for (int i = n - 1; i > 0; --i) {
    if (reduced[i]) {
      j->reduced[j->n_reduced] = shape[i], j->reduced_strides[j->n_reduced++] = strides[i];
      j->count *= shape[i];
    } else {
      j->kept[j->n_kept] = shape[i], j->kept_strides[j->n_kept++] = strides[i];
    }
  }
  j->outputs = tensor_numel(&p->args.out[0]);
  p->state = j;
  return KILN_OK;
}

static kiln_status red_run(const kernel_args *a) {
  red_job j = *(const red_job *)a->state;
  if (j.outputs == 0) return KILN_OK;
  if (j.count == 0 && (j.kind == RED_MAX || j.kind == RED_MIN)) {
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: nothing to take the extreme of (an axis has size 0)",
                     a->node->op->name);
  }
  j.x = a->in[0].data;
  j.y = a->out[0].data;
  const int64_t blocks = (j.inner + RED_LANES - 1) / RED_LANES;
  if (j.dtype != KILN_F32 || j.kind == RED_ANY || j.kind == RED_ALL)
    cpu_parallel(a->pool, j.outputs, 4 * j.count, red_integers, &j);
  else if (j.last_reduced)
    cpu_parallel(a->pool, j.outputs, j.count, red_rows, &j);
  else
    cpu_parallel(a->pool, j.outputs / j.inner * blocks, j.count * RED_LANES, red_columns, &j);
  return KILN_OK;
}

static bool red_fits(const node *n, const char **why) {
  const kiln_dtype d = n->inputs[0].v->type.dtype;
  const char *name = n->op->name;
  if (d == KILN_F32) {
    const bool norm = strcmp(name, "norm") == 0;
    const double p = norm ? node_float(n, "p") : 2.0;
    if (p != 1.0 && p != 2.0 && p != (double)INFINITY) return *why = "not norm 1, 2 or inf", false;
    return true;
  }
  if (d == KILN_F64 || d == KILN_F16 || d == KILN_BF16) return *why = "not f32 or integers", false;
  return true; /* mean, var and norm have float operands only */
}

/* ---- Places of extremes ------------------------------------------------------------------------------------------ */

typedef struct ext_job {
  int64_t outer, n, inner;
  bool largest;
  kiln_dtype dtype;
  const void *x;
  void *values;
  int64_t *indices;
} ext_job;

/* The first extreme, or the first NaN. `sign` -1 turns minima into maxima. */
static int64_t ext_row_f32(const float *x, int64_t n, int64_t step, bool largest) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; ++i) {
    const float v = x[i * step], b = x[best * step];
    if (b != b) break;
    if (v != v || (largest ? v > b : v < b)) best = i;
  }
  return best;
}
static int64_t ext_row_int(kiln_dtype d, const void *x, int64_t base, int64_t n, int64_t step, bool largest) {
  int64_t best = 0, b = red_int_load(d, x, base);
  for (int64_t i = 1; i < n; ++i) {
    const int64_t v = red_int_load(d, x, base + i * step);
    if (largest ? v > b : v < b) best = i, b = v;
  }
  return best;
}

/* Contiguous f32 rows: the extreme by vectors, then its first place. */
static int64_t ext_row_vector(const float *x, int64_t n, bool largest) {
  const float top = (float)red_row(largest ? RED_MAX : RED_MIN, x, n, 0.0f);
  if (top != top) return ext_row_f32(x, n, 1, largest);
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    float found = 0.0f;
    for (int64_t k = 0; k < 64; ++k) found = x[i + k] == top ? 1.0f : found;
    if (found != 0.0f) break;
  }
  while (i < n && x[i] != top) ++i;
  return i < n ? i : 0;
}

static void ext_units(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const ext_job *j = user;
  for (int64_t u = begin; u < end; ++u) {
    const int64_t base = u / j->inner * j->n * j->inner + u % j->inner;
    int64_t best;
    if (j->dtype == KILN_F32) {
      const float *x = (const float *)j->x + base;
      best = j->inner == 1 && j->n >= 64 ? ext_row_vector(x, j->n, j->largest)
                                         : ext_row_f32(x, j->n, j->inner, j->largest);
      if (j->values) ((float *)j->values)[u] = x[best * j->inner];
    } else {
      best = ext_row_int(j->dtype, j->x, base, j->n, j->inner, j->largest);
      if (j->values) red_int_store(j->dtype, j->values, u, red_int_load(j->dtype, j->x, base + best * j->inner));
    }
    j->indices[u] = best;
  }
}

static kiln_status ext_run(const kernel_args *a) {
  const tensor *x = &a->in[0];
  const int64_t axis = arg_int(a, "axis");
  const char *name = a->node->op->name;
  ext_job j = {1, 1, 1, strcmp(name, "argmax") == 0 || strcmp(name, "max_index") == 0, x->dtype, x->data, NULL, NULL};
  for (int64_t d = 0; d < x->rank; ++d) {
    if (d < axis)
      j.outer *= x->shape[d];
    else if (d == axis)
      j.n = x->shape[d];
    else
      j.inner *= x->shape[d];
  }
  if (a->n_out > 1) j.values = a->out[0].data;
  j.indices = a->out[a->n_out - 1].data;
  if (tensor_numel(&a->out[0]) == 0) return KILN_OK;
  if (j.n == 0) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: axis %lld has size 0", name, (long long)axis);
  cpu_parallel(a->pool, j.outer * j.inner, 2 * j.n, ext_units, &j);
  return KILN_OK;
}

static bool ext_fits(const node *n, const char **why) {
  const kiln_dtype d = n->inputs[0].v->type.dtype;
  if (d == KILN_F64 || d == KILN_F16 || d == KILN_BF16) return *why = "not f32 or integers", false;
  return true;
}

#define RED_ROW_OF(op_name) \
  CPU_ROW(.op = #op_name, .name = #op_name "." CPU_ISA_NAME, .fits = red_fits, .prepare = red_prepare, .run = red_run)
#define EXT_ROW_OF(op_name) CPU_ROW(.op = #op_name, .name = #op_name "." CPU_ISA_NAME, .fits = ext_fits, .run = ext_run)

const kernel KERNEL(reduce_kernels)[] = {
    RED_ROW_OF(sum),    RED_ROW_OF(mean),      RED_ROW_OF(prod),      RED_ROW_OF(amax), RED_ROW_OF(amin),
    RED_ROW_OF(var),    RED_ROW_OF(norm),      RED_ROW_OF(any),       RED_ROW_OF(all),  EXT_ROW_OF(argmax),
    EXT_ROW_OF(argmin), EXT_ROW_OF(max_index), EXT_ROW_OF(min_index), {.op = NULL},
};
