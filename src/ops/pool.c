/* Pooling over 1 to 3 spatial dimensions. NaN wins in a maximum, as in PyTorch. */
#include <math.h>

#include "ops/lowering.h"
#include "ops/spatial.h"
#include "ops/spatial_lower.h"

/* ---- inference --------------------------------------------------------------------------------------------------- */

typedef struct pool_spec {
  int64_t kernel[SPATIAL_MAX], stride[SPATIAL_MAX], pad[SPATIAL_MAX], dilation[SPATIAL_MAX];
} pool_spec;

static kiln_status pool_infer(graph *g, node *n, bool dilated) {
  int count, channel, first;
  KILN_TRY(spatial_axes(n, node_bool(n, "channels_last"), &count, &channel, &first));
  const tensor_type *x = in_type(n, 0);
  if (x->dtype == KILN_BOOL) return INFER_FAIL(n, "operand x is bool, expected numbers");
  pool_spec s = {.dilation = {1, 1, 1}};
  KILN_TRY(spatial_ints(n, "kernel", count, 1, s.kernel));
  KILN_TRY(spatial_ints(n, "stride", count, 1, s.stride));
  KILN_TRY(spatial_ints(n, "pad", count, 0, s.pad));
  if (dilated) KILN_TRY(spatial_ints(n, "dilation", count, 1, s.dilation));
  const bool ceil_mode = node_bool(n, "ceil");
  tensor_type out = *x;
  for (int i = 0; i < count; i++) {
    const dim size = x->dims[first + i];
    if (s.pad[i] * 2 > s.dilation[i] * (s.kernel[i] - 1) + 1)
      return INFER_FAIL(n, "attribute pad[%d] is more than half of the kernel", i);
    dim d = infer_window(g, size, s.kernel[i], s.stride[i], s.pad[i], s.pad[i], s.dilation[i], ceil_mode);
    /* The last window must start inside the input or its left padding. */
    if (ceil_mode && !dim_is_const(d) && d != DIM_ERROR) {
      const dim starts = dim_add(g->dims, dim_floordiv(g->dims, dim_add(g->dims, size, s.pad[i] - 1), s.stride[i]), 1);
      const int order = dim_compare_le(g->dims, d, starts);
      if (order != 1) d = order == 0 ? starts : dim_min(g->dims, d, starts);
    }
    if (d == DIM_ERROR) return INFER_FAIL(n, "operand x: the output's size %d cannot be computed", i);
    if (dim_is_const(d) && d < 1) return INFER_FAIL(n, "operand x: dimension %d is smaller than the window", first + i);
    out.dims[first + i] = d;
  }
  n->outputs[0]->type = out;
  if (n->n_outputs > 1) {
    out.dtype = KILN_I64;
    n->outputs[1]->type = out;
  }
  return KILN_OK;
}
static kiln_status max_pool_infer(graph *g, node *n) { return pool_infer(g, n, true); }
static kiln_status avg_pool_infer(graph *g, node *n) {
  KILN_TRY(infer_float(n, 0));
  return pool_infer(g, n, false);
}

static kiln_status adaptive_infer(node *n, bool channels_last) {
  int count, channel, first;
  KILN_TRY(spatial_axes(n, channels_last, &count, &channel, &first));
  tensor_type out = *in_type(n, 0);
  const attr *size = node_attr(n, "size");
  if (size->count != count) return INFER_FAIL(n, "attribute size has %d values, expected %d", (int)size->count, count);
  for (int i = 0; i < count; i++) {
    if (dim_is_const(size->u.ints[i]) && size->u.ints[i] < 0) return INFER_FAIL(n, "attribute size[%d] is negative", i);
    out.dims[first + i] = size->u.ints[i];
  }
  n->outputs[0]->type = out;
  if (n->n_outputs > 1) {
    out.dtype = KILN_I64;
    n->outputs[1]->type = out;
  }
  return KILN_OK;
}
static kiln_status adaptive_avg_infer(graph *g, node *n) {
  (void)g;
  KILN_TRY(infer_float(n, 0));
  return adaptive_infer(n, node_bool(n, "channels_last"));
}
static kiln_status adaptive_max_infer(graph *g, node *n) {
  (void)g;
  return adaptive_infer(n, false);
}

/* ---- reference --------------------------------------------------------------------------------------------------- */

/* One window of x: positions first + step * k, k in [0, count), in each dimension; all inside x. */
typedef struct window {
  int64_t first[SPATIAL_MAX], step[SPATIAL_MAX], count[SPATIAL_MAX];
} window;

static int64_t window_offset(const window *w, const int64_t *k, const spatial *x, int64_t *flat) {
  int64_t at = 0;
  *flat = 0;
  for (int d = 0; d < SPATIAL_MAX; d++) {
    const int64_t i = w->first[d] + w->step[d] * k[d];
    at += i * x->stride[d];
    *flat = *flat * x->size[d] + i;
  }
  return at;
}

static void window_max(const window *w, const tensor *t, const spatial *x, int64_t base, int64_t *best_at,
                       int64_t *best_flat) {
  int64_t k[SPATIAL_MAX] = {0};
  bool any = false;
  double best = 0;
  int64_t best_int = 0;
  const bool floating = dtype_is_float(t->dtype);
  do {
    int64_t flat;
    const int64_t at = base + window_offset(w, k, x, &flat);
    if (floating) {
      const double v = ref_load(t, at);
      if (any && !(v > best) && !isnan(v)) continue;
      best = v;
    } else {
      const int64_t v = ref_load_int(t, at);
      if (any && v <= best_int) continue;
      best_int = v;
    }
    any = true;
    *best_at = at;
    *best_flat = flat;
  } while (spatial_next(w->count, k));
}

static double window_sum(const window *w, const tensor *t, const spatial *x, int64_t base) {
  int64_t k[SPATIAL_MAX] = {0};
  double sum = 0;
  do {
    int64_t flat;
    sum += ref_load(t, base + window_offset(w, k, x, &flat));
  } while (spatial_next(w->count, k));
  return sum;
}

/* Calls `visit` for each output element with its window's data. */
typedef void (*window_of_fn)(const void *spec, const int64_t *o, const spatial *x, window *w);

/* The window of position `o`, cut to x. */
static void pool_window(const void *spec, const int64_t *o, const spatial *x, window *w) {
  const pool_spec *s = spec;
  for (int d = 0; d < SPATIAL_MAX; d++) {
    int64_t first = o[d] * s->stride[d] - s->pad[d], end = first + (s->kernel[d] - 1) * s->dilation[d] + 1;
    if (first < 0) first += (-first + s->dilation[d] - 1) / s->dilation[d] * s->dilation[d];
    if (end > x->size[d]) end = x->size[d];
    w->first[d] = first;
    w->step[d] = s->dilation[d];
    w->count[d] = end > first ? (end - first + s->dilation[d] - 1) / s->dilation[d] : 0;
  }
}

/* Adaptive: from floor(o * in / out) to ceil((o + 1) * in / out). */
static void adaptive_window(const void *spec, const int64_t *o, const spatial *x, window *w) {
  const int64_t *size = spec;
  for (int d = 0; d < SPATIAL_MAX; d++) {
    w->first[d] = o[d] * x->size[d] / size[d];
    w->step[d] = 1;
    w->count[d] = ((o[d] + 1) * x->size[d] + size[d] - 1) / size[d] - w->first[d];
  }
}

static void max_run(const kernel_args *a, bool channels_last, window_of_fn window_of, const void *spec) {
  const spatial x = spatial_of(&a->in[0], channels_last), y = spatial_of(&a->out[0], channels_last);
  if (tensor_numel(&a->out[0]) == 0) return;
  for (int64_t n = 0; n < y.batch; n++)
    for (int64_t c = 0; c < y.channels; c++) {
      int64_t o[SPATIAL_MAX] = {0};
      do {
        window w;
        int64_t best_at = 0, best_flat = 0;
        window_of(spec, o, &x, &w);
        const int64_t at =
            n * y.batch_stride + c * y.channel_stride + o[0] * y.stride[0] + o[1] * y.stride[1] + o[2] * y.stride[2];
        if (spatial_empty(w.count)) {
          ref_store(&a->out[0], at, -INFINITY);
        } else {
          window_max(&w, &a->in[0], &x, n * x.batch_stride + c * x.channel_stride, &best_at, &best_flat);
          ref_copy_element(&a->in[0], best_at, &a->out[0], at);
        }
        if (a->n_out > 1) {
          const spatial z = spatial_of(&a->out[1], channels_last);
          ref_store_int(
              &a->out[1],
              n * z.batch_stride + c * z.channel_stride + o[0] * z.stride[0] + o[1] * z.stride[1] + o[2] * z.stride[2],
              best_flat);
        }
      } while (spatial_next(y.size, o));
    }
}

static pool_spec pool_spec_of(const kernel_args *a, bool dilated) {
  pool_spec s = {.dilation = {1, 1, 1}};
  spatial_attr(a, "kernel", 1, s.kernel);
  spatial_attr(a, "stride", 1, s.stride);
  spatial_attr(a, "pad", 0, s.pad);
  if (dilated) spatial_attr(a, "dilation", 1, s.dilation);
  return s;
}

static kiln_status max_pool_ref(const kernel_args *a) {
  const pool_spec s = pool_spec_of(a, true);
  max_run(a, arg_bool(a, "channels_last"), pool_window, &s);
  return KILN_OK;
}

static kiln_status adaptive_max_ref(const kernel_args *a) {
  int64_t size[SPATIAL_MAX];
  spatial_attr(a, "size", 1, size);
  max_run(a, false, adaptive_window, size);
  return KILN_OK;
}

/* What the sum of the window at `o` is divided by. */
static double avg_divisor(const kernel_args *a, const pool_spec *s, const window *w, const int64_t *o,
                          const spatial *x) {
  const int64_t given = arg_int(a, "divisor");
  if (given) return (double)given;
  int64_t n = 1;
  for (int d = 0; d < x->count; d++) {
    if (!arg_bool(a, "count_include_pad")) {
      n *= w->count[d];
    } else { /* the padding counts, but not what ceil adds beyond it */
      const int64_t first = o[d] * s->stride[d] - s->pad[d];
      const int64_t end = first + s->kernel[d], limit = x->size[d] + s->pad[d];
      n *= (end < limit ? end : limit) - first;
    }
  }
  return (double)n;
}

static kiln_status avg_run(const kernel_args *a, bool adaptive) {
  const bool channels_last = arg_bool(a, "channels_last");
  const spatial x = spatial_of(&a->in[0], channels_last), y = spatial_of(&a->out[0], channels_last);
  pool_spec s = {.dilation = {1, 1, 1}};
  int64_t size[SPATIAL_MAX];
  if (adaptive) {
    spatial_attr(a, "size", 1, size);
  } else {
    s = pool_spec_of(a, false);
  }
  if (tensor_numel(&a->out[0]) == 0) return KILN_OK;
  for (int64_t n = 0; n < y.batch; n++)
    for (int64_t c = 0; c < y.channels; c++) {
      int64_t o[SPATIAL_MAX] = {0};
      do {
        window w;
        if (adaptive) {
          adaptive_window(size, o, &x, &w);
        } else {
          pool_window(&s, o, &x, &w);
        }
        const int64_t at =
            n * y.batch_stride + c * y.channel_stride + o[0] * y.stride[0] + o[1] * y.stride[1] + o[2] * y.stride[2];
        const double inside = (double)(w.count[0] * w.count[1] * w.count[2]);
        const bool empty = spatial_empty(w.count);
        const double sum = empty ? 0 : window_sum(&w, &a->in[0], &x, n * x.batch_stride + c * x.channel_stride);
        ref_store(&a->out[0], at, adaptive ? sum / inside : empty ? 0 : sum / avg_divisor(a, &s, &w, o, &x));
      } while (spatial_next(y.size, o));
    }
  return KILN_OK;
}
static kiln_status avg_pool_ref(const kernel_args *a) { return avg_run(a, false); }
static kiln_status adaptive_avg_ref(const kernel_args *a) { return avg_run(a, true); }

/* ---- PyTorch ----------------------------------------------------------------------------------------------------- */

static const int64_t pool_zeros[SPATIAL_MAX] = {0}, pool_ones[SPATIAL_MAX] = {1, 1, 1};

static kiln_status pool_args(lower_call *c, int count, pool_spec *s) {
  KILN_TRY(spatial_arg(c, "kernel_size", count, NULL, s->kernel));
  KILN_TRY(spatial_arg(c, "stride", count, s->kernel, s->stride));
  return spatial_arg(c, "padding", count, pool_zeros, s->pad);
}

/* The number of spatial dimensions is the digit before "d" in the operator's name. */
static int pool_rank(const lower_call *c) {
  for (const char *s = c->schema->name; *s; s++)
    if (s[0] >= '1' && s[0] <= '3' && s[1] == 'd') return s[0] - '0';
  return 2;
}

static kiln_status pool_input(lower_call *c, int count, value **x, bool *added) {
  KILN_TRY(lowering_tensor(c, "self", x));
  if ((*x)->type.rank != count + 1 && (*x)->type.rank != count + 2)
    return LOWER_FAIL(c, "argument self has %d dimensions, expected %d or %d", (*x)->type.rank, count + 1, count + 2);
  *x = spatial_batched(c, *x, count + 2, added);
  return KILN_OK;
}

static kiln_status lower_max_pool(lower_call *c) {
  const int count = pool_rank(c);
  pool_spec s;
  value *x;
  bool added;
  KILN_TRY(pool_args(c, count, &s));
  KILN_TRY(spatial_arg(c, "dilation", count, pool_ones, s.dilation));
  KILN_TRY(pool_input(c, count, &x, &added));
  /* Two nodes: whichever result is not used disappears with its node. */
#define MAX_POOL_ATTRS                                                                                     \
  ATTRS(A_INTS("kernel", s.kernel, count), A_INTS("stride", s.stride, count), A_INTS("pad", s.pad, count), \
        A_INTS("dilation", s.dilation, count), A_BOOL("ceil", call_bool(c, "ceil_mode")))
  call_return(c, 0, spatial_unbatched(c, build(&c->b, "max_pool", IN(x), MAX_POOL_ATTRS), added));
  if (c->n_results < 2) return KILN_OK;
  const node *n = build_node(&c->b, "max_pool_index", IN(x), MAX_POOL_ATTRS);
  call_return(c, 1, n ? spatial_unbatched(c, n->outputs[1], added) : NULL);
  return KILN_OK;
}

static kiln_status lower_avg_pool(lower_call *c) {
  const int count = pool_rank(c);
  pool_spec s;
  value *x;
  bool added;
  KILN_TRY(pool_args(c, count, &s));
  KILN_TRY(pool_input(c, count, &x, &added));
  const dim divisor = count > 1 && !call_is_none(c, "divisor_override") ? call_int(c, "divisor_override") : 0;
  if (!dim_is_const(divisor)) return LOWER_FAIL(c, "argument divisor_override must be constant");
  value *y = build(&c->b, "avg_pool", IN(x),
                   ATTRS(A_INTS("kernel", s.kernel, count), A_INTS("stride", s.stride, count),
                         A_INTS("pad", s.pad, count), A_BOOL("ceil", call_bool(c, "ceil_mode")),
                         A_BOOL("count_include_pad", call_bool(c, "count_include_pad")), A_INT("divisor", divisor)));
  call_return(c, 0, spatial_unbatched(c, y, added));
  return KILN_OK;
}

static kiln_status lower_adaptive_avg(lower_call *c) {
  const int count = pool_rank(c);
  dim size[SPATIAL_MAX];
  value *x;
  bool added;
  KILN_TRY(call_ints_expand(c, "output_size", count, size));
  KILN_TRY(pool_input(c, count, &x, &added));
  call_return(
      c, 0, spatial_unbatched(c, build(&c->b, "adaptive_avg_pool", IN(x), ATTRS(A_INTS("size", size, count))), added));
  return KILN_OK;
}

static kiln_status lower_adaptive_max(lower_call *c) {
  const int count = pool_rank(c);
  dim size[SPATIAL_MAX];
  value *x;
  bool added;
  KILN_TRY(call_ints_expand(c, "output_size", count, size));
  KILN_TRY(pool_input(c, count, &x, &added));
  const node *n = build_node(&c->b, "adaptive_max_pool_index", IN(x), ATTRS(A_INTS("size", size, count)));
  for (int i = 0; i < 2 && i < c->n_results; i++)
    call_return(c, i, n ? spatial_unbatched(c, n->outputs[i], added) : NULL);
  return KILN_OK;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static const torch_row max_pool_torch[] = {{"aten::max_pool1d(Tensor self, int[1] kernel_size, int[1] stride=[], "
                                            "int[1] padding=[0], int[1] dilation=[1], bool "
                                            "ceil_mode=False) -> Tensor",
                                            NULL, lower_max_pool},
                                           {"aten::max_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], "
                                            "int[2] padding=0, int[2] dilation=1, bool ceil_mode=False) "
                                            "-> Tensor",
                                            NULL, lower_max_pool},
                                           {"aten::max_pool3d(Tensor self, int[3] kernel_size, int[3] stride=[], "
                                            "int[3] padding=0, int[3] dilation=1, bool ceil_mode=False) "
                                            "-> Tensor",
                                            NULL, lower_max_pool},
                                           {NULL, NULL, NULL}};

static const torch_row max_pool_index_torch[] = {{"aten::max_pool1d_with_indices(Tensor self, int[1] kernel_size, "
                                                  "int[1] stride=[], int[1] padding=[0], int[1] dilation=[1], bool "
                                                  "ceil_mode=False) -> (Tensor, Tensor)",
                                                  NULL, lower_max_pool},
                                                 {"aten::max_pool2d_with_indices(Tensor self, int[2] kernel_size, "
                                                  "int[2] stride=[], int[2] padding=0, int[2] dilation=1, bool "
                                                  "ceil_mode=False) -> (Tensor, Tensor)",
                                                  NULL, lower_max_pool},
                                                 {"aten::max_pool3d_with_indices(Tensor self, int[3] kernel_size, "
                                                  "int[3] stride=[], int[3] padding=0, int[3] dilation=1, bool "
                                                  "ceil_mode=False) -> (Tensor, Tensor)",
                                                  NULL, lower_max_pool},
                                                 {NULL, NULL, NULL}};

static const torch_row avg_pool_torch[] = {
    {"aten::avg_pool1d(Tensor self, int[1] kernel_size, int[1] stride=[], int[1] padding=[0], bool ceil_mode=False, "
     "bool "
     "count_include_pad=True) -> Tensor",
     NULL, lower_avg_pool},
    {"aten::avg_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, bool ceil_mode=False, bool "
     "count_include_pad=True, int? divisor_override=None) -> Tensor",
     NULL, lower_avg_pool},
    {"aten::avg_pool3d(Tensor self, int[3] kernel_size, int[3] stride=[], int[3] padding=0, bool ceil_mode=False, bool "
     "count_include_pad=True, int? divisor_override=None) -> Tensor",
     NULL, lower_avg_pool},
    {NULL, NULL, NULL}};

static const torch_row adaptive_avg_torch[] = {
    {"aten::adaptive_avg_pool1d(Tensor self, int[1] output_size) -> Tensor", NULL, lower_adaptive_avg},
    {"aten::adaptive_avg_pool2d(Tensor self, SymInt[2] output_size) -> Tensor", NULL, lower_adaptive_avg},
    {"aten::adaptive_avg_pool3d(Tensor self, SymInt[3] output_size) -> Tensor", NULL, lower_adaptive_avg},
    {"aten::_adaptive_avg_pool2d(Tensor self, SymInt[2] output_size) -> Tensor", NULL, lower_adaptive_avg},
    {"aten::_adaptive_avg_pool3d(Tensor self, SymInt[3] output_size) -> Tensor", NULL, lower_adaptive_avg},
    {NULL, NULL, NULL}};

static const torch_row adaptive_max_torch[] = {
    {"aten::adaptive_max_pool1d(Tensor self, int[1] output_size) -> (Tensor, Tensor)", NULL, lower_adaptive_max},
    {"aten::adaptive_max_pool2d(Tensor self, int[2] output_size) -> (Tensor, Tensor)", NULL, lower_adaptive_max},
    {"aten::adaptive_max_pool3d(Tensor self, int[3] output_size) -> (Tensor, Tensor)", NULL, lower_adaptive_max},
    {"aten::max_unpool2d(Tensor self, Tensor indices, SymInt[2] output_size) -> Tensor", NULL, lower_max_unpool},
    {"aten::max_unpool3d(Tensor self, Tensor indices, SymInt[3] output_size, int[3] stride, int[3] padding) -> Tensor",
     NULL, lower_max_unpool},
    {NULL, NULL, NULL}};

#define MAX_POOL_CASES                                                                                            \
  "x:f32[2,3,W,9] kernel=[3,3] stride=[2,2] pad=[1,1] dilation=[1,1] W:3,8,11,32",                                \
      "x:f32[1,C,7,7] kernel=[2,2] stride=[2,2] pad=[0,0] dilation=[1,1] C:1,8,17",                               \
      "x:f32[1,2,10,11] kernel=[3,2] stride=[2,3] pad=[1,0] dilation=[2,1] ceil=1",                               \
      "x:f32[2,3,20] kernel=[3] stride=[2] pad=[1] dilation=[1] ceil=1",                                          \
      "x:f32[1,2,5,6,7] kernel=[2,3,2] stride=[2,1,2] pad=[1,1,0] dilation=[1,1,2]",                              \
      "x:f32[1,2,6,6]=inf kernel=[3,3] stride=[1,1] pad=[1,1] dilation=[1,1]",                                    \
      "x:f32[2,7,6,5] kernel=[3,3] stride=[2,2] pad=[1,1] dilation=[1,1] channels_last=1",                        \
      "x:f32[1,9,W,C] kernel=[3,2] stride=[2,3] pad=[1,1] dilation=[1,1] ceil=1 channels_last=1 W:5,8 C:1,16,19", \
      "x:f32[1,7,7,4]=inf kernel=[3,3] stride=[1,1] pad=[1,1] dilation=[2,2] channels_last=1",                    \
      "x:f32[2,11,6] kernel=[3] stride=[2] pad=[1] dilation=[1] channels_last=1",                                 \
      "x:f32[1,5,6,7,3] kernel=[2,3,2] stride=[2,1,2] pad=[1,1,0] dilation=[1,1,2] channels_last=1",              \
      "x:f32[0,3,6,6] kernel=[2,2] stride=[2,2] pad=[0,0] dilation=[1,1]",                                        \
      "x:f64[1,2,6,6] kernel=[2,2] stride=[1,1] pad=[0,0] dilation=[1,1]",                                        \
      "x:i64[1,2,6,6]=range(-9,9) kernel=[2,2] stride=[1,1] pad=[0,0] dilation=[1,1]"

static const char *const max_pool_cases[] = {MAX_POOL_CASES, NULL};
static const char *const avg_pool_cases[] = {
    "x:f32[2,3,W,9] kernel=[3,3] stride=[2,2] pad=[1,1] W:3,8,11,32",
    "x:f32[1,2,10,11] kernel=[3,2] stride=[2,3] pad=[1,0] ceil=1",
    "x:f32[1,2,10,11] kernel=[3,2] stride=[2,3] pad=[1,1] ceil=1 count_include_pad=0",
    "x:f32[1,2,10,11] kernel=[3,2] stride=[2,3] pad=[1,1] divisor=5",
    "x:f32[2,3,20] kernel=[4] stride=[3] pad=[2]",
    "x:f32[1,2,5,6,7] kernel=[2,3,2] stride=[2,1,2] pad=[1,1,0]",
    "x:f32[1,2,6,6]=inf kernel=[3,3] stride=[1,1] pad=[1,1]",
    "x:f32[2,7,6,5] kernel=[3,3] stride=[2,2] pad=[1,1] channels_last=1",
    "x:f32[1,9,8,C] kernel=[3,2] stride=[2,3] pad=[1,1] ceil=1 channels_last=1 C:1,16,19",
    "x:f32[1,9,8,5] kernel=[3,3] stride=[1,1] pad=[1,1] count_include_pad=0 channels_last=1",
    "x:f32[1,9,8,5] kernel=[3,3] stride=[2,2] pad=[1,1] divisor=4 channels_last=1",
    "x:f32[2,11,6] kernel=[3] stride=[2] pad=[1] channels_last=1",
    "x:f32[0,3,6,6] kernel=[2,2] stride=[2,2] pad=[0,0]",
    NULL};
static const char *const adaptive_avg_cases[] = {"x:f32[2,C,7,9] size=[1,1] C:1,3,16,33",
                                                 "x:f16[2,7,9,64] size=[1,1] channels_last=1",
                                                 "x:f16[2,7,1024] size=[1]",
                                                 "x:f32[1,2,7,10] size=[3,4]",
                                                 "x:f32[1,2,3,4] size=[6,5]",
                                                 "x:f32[2,3,11] size=[4]",
                                                 "x:f32[1,2,4,5,6] size=[2,3,4]",
                                                 "x:f32[2,6,7,C] size=[1,1] channels_last=1 C:1,5,16,33",
                                                 "x:f32[1,7,10,6] size=[3,4] channels_last=1",
                                                 "x:f32[1,3,4,5] size=[6,5] channels_last=1",
                                                 "x:f32[1,2,5,5]=inf size=[2,2]",
                                                 NULL};
static const char *const adaptive_max_cases[] = {"x:f32[2,3,7,9] size=[1,1]",
                                                 "x:f32[1,2,7,10] size=[3,4]",
                                                 "x:f32[2,3,11] size=[4]",
                                                 "x:f32[1,2,5,5]=inf size=[2,2]",
                                                 "x:f32[2,2,4,5,6] size=[2,3,4]",
                                                 "x:f32[1,3,4,5]=range(-2,2) size=[6,5]",
                                                 NULL};

static const op rows[] = {
    {.name = "max_pool",
     .sig = "x -> y",
     .attrs = "kernel:ints stride:ints pad:ints dilation:ints ceil:bool=0 channels_last:bool=0",
     .flags = OP_ANCHOR,
     .infer = max_pool_infer,
     .ref = max_pool_ref,
     .torch = max_pool_torch,
     .cases = max_pool_cases},
    {.name = "max_pool_index",
     .sig = "x -> y indices",
     .attrs = "kernel:ints stride:ints pad:ints dilation:ints ceil:bool=0 channels_last:bool=0",
     .infer = max_pool_infer,
     .ref = max_pool_ref,
     .torch = max_pool_index_torch,
     .cases = max_pool_cases},
    {.name = "avg_pool",
     .sig = "x -> y",
     .attrs =
         "kernel:ints stride:ints pad:ints ceil:bool=0 count_include_pad:bool=1 divisor:int=0 channels_last:bool=0",
     .flags = OP_ANCHOR,
     .infer = avg_pool_infer,
     .ref = avg_pool_ref,
     .torch = avg_pool_torch,
     .cases = avg_pool_cases,
     .tolerance = 1e-5f},
    {.name = "adaptive_avg_pool",
     .sig = "x -> y",
     .attrs = "size:ints channels_last:bool=0",
     .flags = OP_ANCHOR,
     .infer = adaptive_avg_infer,
     .ref = adaptive_avg_ref,
     .torch = adaptive_avg_torch,
     .cases = adaptive_avg_cases,
     .tolerance = 1e-5f},
    {.name = "adaptive_max_pool_index",
     .sig = "x -> y indices",
     .attrs = "size:ints",
     .infer = adaptive_max_infer,
     .ref = adaptive_max_ref,
     .torch = adaptive_max_torch,
     .cases = adaptive_max_cases},
};

extern const op_family ops_pool;
OP_FAMILY(ops_pool, rows);
