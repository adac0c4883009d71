/* Resizing by interpolation, sampling on a grid, and the rearrangements between channels and pixels. Positions are
 * computed as PyTorch's CPU kernels do (aten/native/UpSample.h and GridSamplerUtils.h). */
#include <math.h>
#include <string.h>

#include "ops/grid.h"
#include "ops/lowering.h"
#include "ops/spatial.h"
#include "ops/spatial_lower.h"

/* ---- resize ------------------------------------------------------------------------------------------------------ */

static kiln_status resize_infer(graph *g, node *n) {
  (void)g;
  int count, channel, first;
  KILN_TRY(spatial_axes(n, node_bool(n, "channels_last"), &count, &channel, &first));
  const char *mode = node_str(n, "mode");
  const bool nearest = str_eq(mode, "nearest") || str_eq(mode, "nearest_exact");
  if (!nearest && !str_eq(mode, "linear") && !str_eq(mode, "cubic"))
    return INFER_FAIL(n, "attribute mode is \"%s\", expected nearest, nearest_exact, linear or cubic", mode);
  if (!nearest) KILN_TRY(infer_float(n, 0));
  const attr *size = node_attr(n, "size"), *scales = node_attr(n, "scales");
  if (size->count != count || scales->count != count)
    return INFER_FAIL(n, "attributes size and scales have %d and %d values, expected %d", (int)size->count,
                      (int)scales->count, count);
  tensor_type out = *in_type(n, 0);
  for (int i = 0; i < count; i++) {
    if (dim_is_const(size->u.ints[i]) && size->u.ints[i] < 1)
      return INFER_FAIL(n, "attribute size[%d] must be positive", i);
    if (dim_is_const(out.dims[first + i]) && out.dims[first + i] < 1)
      return INFER_FAIL(n, "operand x has an empty spatial dimension");
    if (!(scales->u.floats[i] >= 0) || isinf(scales->u.floats[i]))
      return INFER_FAIL(n, "attribute scales[%d] must not be negative", i);
    out.dims[first + i] = size->u.ints[i];
  }
  n->outputs[0]->type = out;
  return KILN_OK;
}

static int64_t clamp_index(double v, int64_t size) {
  if (!(v > 0)) return 0;
  return v >= (double)(size - 1) ? size - 1 : (int64_t)v;
}

/* Keys' cubic convolution with A = -0.75. */
static double cubic_near(double x) { return ((-0.75 + 2) * x - (-0.75 + 3)) * x * x + 1; }
static double cubic_far(double x) { return ((-0.75 * x + 5 * 0.75) * x - 8 * 0.75) * x + 4 * 0.75; }

static void cubic_taps(double position, int64_t size, taps *t) {
  const double base = floor(position), f = position - base;
  t->count = 4;
  t->weight[0] = cubic_far(f + 1);
  t->weight[1] = cubic_near(f);
  t->weight[2] = cubic_near(1 - f);
  t->weight[3] = cubic_far(2 - f);
  for (int i = 0; i < 4; i++) t->at[i] = clamp_index(base + i - 1, size);
}

typedef struct resize_axis {
  const char *mode;
  bool align_corners, single; /* single: positions in float, as PyTorch for all types but f64 */
  int64_t in, out;
  double scale; /* output size / input size, 0: from the sizes */
} resize_axis;

static void nearest_taps(const resize_axis *r, int64_t o, taps *t) {
  /* In float whatever the type: which neighbor wins depends on its rounding. */
  const float scale = r->scale > 0 ? (float)(1.0 / r->scale) : (float)r->in / (float)r->out;
  const bool exact = str_eq(r->mode, "nearest_exact");
  const float position = exact ? ((float)o + 0.5f) * scale : (float)o * scale;
  t->count = 1;
  t->weight[0] = 1;
  t->at[0] = r->out == r->in && !exact ? o : clamp_index((double)floorf(position), r->in);
}

static double resize_step(const resize_axis *r) {
  if (r->align_corners) return r->out > 1 ? (double)(r->in - 1) / (double)(r->out - 1) : 0;
  if (r->in == r->out && r->mode[0] == 'l')
    return 1; /* as PyTorch: a size that stays is not resized, whatever the scale */
  return r->scale > 0 ? 1.0 / r->scale : (double)r->in / (double)r->out;
}

static void resize_taps(const resize_axis *r, int64_t o, taps *t) {
  if (r->mode[0] == 'n') {
    nearest_taps(r, o, t);
    return;
  }
  const double step = r->single ? (double)(float)resize_step(r) : resize_step(r);
  double position = r->align_corners ? step * (double)o : step * ((double)o + 0.5) - 0.5;
  if (r->mode[0] == 'c') {
    cubic_taps(position, r->in, t);
    return;
  }
  if (position < 0) position = 0;
  const int64_t low = clamp_index(floor(position), r->in);
  const double f = fmin(fmax(position - (double)low, 0), 1);
  t->count = 2;
  t->at[0] = low;
  t->at[1] = low + (low < r->in - 1 ? 1 : 0);
  t->weight[0] = 1 - f;
  t->weight[1] = f;
}

static kiln_status resize_ref(const kernel_args *a) {
  const bool channels_last = arg_bool(a, "channels_last");
  const spatial x = spatial_of(&a->in[0], channels_last), y = spatial_of(&a->out[0], channels_last);
  const attr *scales = arg_attr(a, "scales");
  resize_axis axis[SPATIAL_MAX];
  for (int d = 0; d < SPATIAL_MAX; d++)
    axis[d] = (resize_axis){d < x.count ? arg_attr(a, "mode")->u.s : "nearest",
                            arg_bool(a, "align_corners"),
                            a->in[0].dtype != KILN_F64,
                            x.size[d],
                            y.size[d],
                            d < x.count ? scales->u.floats[d] : 0};
  const bool copy = axis[0].mode[0] == 'n';
  if (tensor_numel(&a->out[0]) == 0) return KILN_OK;
  if (spatial_empty(x.size))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "resize: operand x has an empty spatial dimension");
  int64_t o[SPATIAL_MAX] = {0};
  do {
    taps t[SPATIAL_MAX];
    for (int d = 0; d < SPATIAL_MAX; d++) resize_taps(&axis[d], o[d], &t[d]);
    const int64_t y_at = o[0] * y.stride[0] + o[1] * y.stride[1] + o[2] * y.stride[2];
    const int64_t counts[SPATIAL_MAX] = {t[0].count, t[1].count, t[2].count};
    for (int64_t n = 0; n < y.batch; n++)
      for (int64_t c = 0; c < y.channels; c++) {
        const int64_t base = n * x.batch_stride + c * x.channel_stride,
                      at = n * y.batch_stride + c * y.channel_stride + y_at;
        int64_t k[SPATIAL_MAX] = {0};
        double sum = 0;
        int64_t source = 0;
        do {
          source = base;
          double weight = 1;
          for (int d = 0; d < SPATIAL_MAX; d++) {
            source += t[d].at[k[d]] * x.stride[d];
            weight *= t[d].weight[k[d]];
          }
          sum += copy ? 0 : weight * ref_load(&a->in[0], source);
        } while (spatial_next(counts, k));
        if (copy) {
          ref_copy_element(&a->in[0], source, &a->out[0], at);
        } else {
          ref_store(&a->out[0], at, sum);
        }
      }
  } while (spatial_next(y.size, o));
  return KILN_OK;
}

/* ---- grid_sample ------------------------------------------------------------------------------------------------- */

static kiln_status grid_infer(graph *g, node *n) {
  int count, channel, first;
  KILN_TRY(spatial_axes(n, false, &count, &channel, &first));
  KILN_TRY(infer_float(n, 0));
  const tensor_type *x = in_type(n, 0);
  if (count < 2) return INFER_FAIL(n, "operand x must have 4 or 5 dimensions");
  KILN_TRY(infer_rank_between(n, 1, x->rank, x->rank));
  const tensor_type *grid = in_type(n, 1);
  if (grid->dtype != x->dtype) return INFER_FAIL(n, "operands x and grid have different dtypes");
  KILN_TRY(infer_same_dim(g, n, "batch sizes of x and grid", x->dims[0], grid->dims[0]));
  KILN_TRY(infer_same_dim(g, n, "coordinates of grid", grid->dims[x->rank - 1], count));
  const char *mode = node_str(n, "mode"), *padding = node_str(n, "padding");
  if (!str_eq(mode, "linear") && !str_eq(mode, "nearest") && !(str_eq(mode, "cubic") && count == 2))
    return INFER_FAIL(n, "attribute mode is \"%s\", expected linear, nearest or (2 spatial dimensions) cubic", mode);
  if (!str_eq(padding, "zeros") && !str_eq(padding, "border") && !str_eq(padding, "reflection"))
    return INFER_FAIL(n, "attribute padding is \"%s\", expected zeros, border or reflection", padding);
  tensor_type out = *x;
  for (int i = 0; i < count; i++) {
    if (dim_is_const(x->dims[2 + i]) && x->dims[2 + i] < 1)
      return INFER_FAIL(n, "operand x has an empty spatial dimension");
    out.dims[2 + i] = grid->dims[1 + i];
  }
  n->outputs[0]->type = out;
  return KILN_OK;
}

/* Mirrors v into [low, high] (twice the bounds, so that half pixels are integers). */
static double reflect(double v, int64_t twice_low, int64_t twice_high) {
  if (twice_low == twice_high) return 0;
  const double low = (double)twice_low / 2, span = (double)(twice_high - twice_low) / 2;
  v = fabs(v - low);
  const double extra = fmod(v, span), flips = floor(v / span);
  return fmod(flips, 2) == 0 ? extra + low : span - extra + low;
}

/* Applies border or reflection padding to a coordinate in pixels. */
static double grid_pad(const grid_axis *g, double v) {
  if (g->padding == 'r') v = g->align_corners ? reflect(v, 0, 2 * (g->size - 1)) : reflect(v, -1, 2 * g->size - 1);
  if (g->padding == 'z') return v;
  return fmin((double)(g->size - 1), fmax(v, 0)); /* fmax: NaN becomes 0 */
}

/* Position for a tap at integer coordinate v: -1 outside. */
static int64_t grid_index(const grid_axis *g, double v) { return v >= 0 && v < (double)g->size ? (int64_t)v : -1; }

void grid_taps(const grid_axis *g, char mode, double coordinate, taps *t) {
  const double size = (double)g->size;
  double v = g->align_corners ? (coordinate + 1) / 2 * (size - 1) : ((coordinate + 1) * size - 1) / 2;
  if (mode == 'c') {
    cubic_taps(v, INT64_MAX, t);
    for (int i = 0; i < 4; i++) t->at[i] = grid_index(g, grid_pad(g, floor(v) + i - 1));
    return;
  }
  v = grid_pad(g, v);
  if (mode == 'n') {
    t->count = 1;
    t->weight[0] = 1;
    t->at[0] = grid_index(g, nearbyint(v));
    return;
  }
  const double low = floor(v);
  t->count = 2;
  t->weight[0] = low + 1 - v;
  t->weight[1] = v - low;
  t->at[0] = grid_index(g, low);
  t->at[1] = grid_index(g, low + 1);
}

static double grid_read(const tensor *t, const spatial *x, int64_t base, const taps *tap) {
  const int64_t counts[SPATIAL_MAX] = {tap[0].count, tap[1].count, tap[2].count};
  int64_t k[SPATIAL_MAX] = {0};
  double sum = 0;
  do {
    int64_t at = base;
    double weight = 1;
    bool inside = true;
    for (int d = 0; d < SPATIAL_MAX; d++) {
      inside = inside && tap[d].at[k[d]] >= 0;
      at += tap[d].at[k[d]] * x->stride[d];
      weight *= tap[d].weight[k[d]];
    }
    if (inside) sum += weight * ref_load(t, at);
  } while (spatial_next(counts, k));
  return sum;
}

static kiln_status grid_ref(const kernel_args *a) {
  const tensor *grid = &a->in[1];
  const spatial x = spatial_of(&a->in[0], false), y = spatial_of(&a->out[0], false);
  const char mode = arg_attr(a, "mode")->u.s[0];
  if (tensor_numel(&a->out[0]) == 0) return KILN_OK;
  for (int64_t n = 0; n < y.batch; n++) {
    int64_t o[SPATIAL_MAX] = {0};
    do {
      taps t[SPATIAL_MAX];
      int64_t grid_at = n * grid->strides[0];
      for (int d = 0; d < x.count; d++) grid_at += o[d] * grid->strides[1 + d];
      for (int d = 0; d < SPATIAL_MAX; d++) t[d] = (taps){1, {0}, {1}};
      for (int d = 0; d < x.count; d++) { /* the last coordinate (z) belongs to the first dimension */
        const grid_axis g = {x.size[d], arg_bool(a, "align_corners"), arg_attr(a, "padding")->u.s[0]};
        grid_taps(&g, mode, ref_load(grid, grid_at + (x.count - 1 - d) * grid->strides[grid->rank - 1]), &t[d]);
      }
      for (int64_t c = 0; c < y.channels; c++)
        ref_store(
            &a->out[0],
            n * y.batch_stride + c * y.channel_stride + o[0] * y.stride[0] + o[1] * y.stride[1] + o[2] * y.stride[2],
            grid_read(&a->in[0], &x, n * x.batch_stride + c * x.channel_stride, t));
    } while (spatial_next(y.size, o));
  }
  return KILN_OK;
}

/* ---- PyTorch: upsample ------------------------------------------------------------------------------------------- */

static const char *upsample_mode(const lower_call *c) {
  const char *name = c->schema->name;
  if (strstr(name, "nearest_exact")) return "nearest_exact";
  if (strstr(name, "nearest")) return "nearest";
  return strstr(name, "cubic") ? "cubic" : "linear";
}

/* floor(size * scale), in doubles as PyTorch computes it. */
static kiln_status scaled_size(lower_call *c, dim size, double scale, dim *out) {
  if (!(scale > 0) || scale > 1e6) return LOWER_FAIL(c, "argument scale_factors: expected positive numbers");
  *out = dim_scale(c->b.graph->dims, size, scale, DIM_FLOOR);
  return *out == DIM_ERROR ? LOWER_FAIL(c, "argument scale_factors: %g: %s", scale, error_text()) : KILN_OK;
}

static kiln_status upsample_emit(lower_call *c, const char *input, const dim *size, const double *scales) {
  value *x;
  KILN_TRY(lowering_tensor(c, input, &x));
  const int count = x->type.rank - 2;
  const char *mode = upsample_mode(c);
  const bool align = mode[0] != 'n' && call_bool(c, "align_corners");
  call_return(c, 0,
              build(&c->b, "resize", IN(x),
                    ATTRS(A_INTS("size", size, count), A_STR("mode", mode), A_BOOL("align_corners", align),
                          A_FLOATS("scales", scales, count))));
  return KILN_OK;
}

static kiln_status upsample_input(lower_call *c, const char *name, int *count) {
  value *x;
  KILN_TRY(lowering_tensor(c, name, &x));
  *count = x->type.rank - 2;
  if (*count < 1 || *count > SPATIAL_MAX)
    return LOWER_FAIL(c, "argument %s has %d dimensions, expected 3 to 5", name, x->type.rank);
  return KILN_OK;
}

static kiln_status lower_upsample(lower_call *c) {
  static const char *const names[SPATIAL_MAX][SPATIAL_MAX] = {
      {"scales", NULL, NULL}, {"scales_h", "scales_w", NULL}, {"scales_d", "scales_h", "scales_w"}};
  int count;
  dim size[SPATIAL_MAX];
  double scales[SPATIAL_MAX] = {0};
  KILN_TRY(upsample_input(c, "self", &count));
  if (call_list_count(c, "output_size") != count)
    return LOWER_FAIL(c, "argument output_size: expected %d sizes", count);
  KILN_TRY(call_ints_expand(c, "output_size", count, size));
  for (int i = 0; i < count; i++)
    if (!call_is_none(c, names[count - 1][i])) scales[i] = call_float(c, names[count - 1][i]);
  return upsample_emit(c, "self", size, scales);
}

static kiln_status lower_upsample_vec(lower_call *c) {
  int count;
  dim size[SPATIAL_MAX];
  double scales[SPATIAL_MAX] = {0};
  KILN_TRY(upsample_input(c, "input", &count));
  if (!call_is_none(c, "output_size")) {
    if (call_list_count(c, "output_size") != count)
      return LOWER_FAIL(c, "argument output_size: expected %d sizes", count);
    KILN_TRY(call_ints_expand(c, "output_size", count, size));
    return upsample_emit(c, "input", size, scales);
  }
  const ivalue *factors = call_arg(c, "scale_factors");
  if (!factors || factors->kind != IV_LIST || factors->count != count)
    return LOWER_FAIL(c, "argument scale_factors: expected %d numbers", count);
  const value *x = call_tensor(c, "input");
  for (int i = 0; i < count; i++) {
    const ivalue *f = &factors->u.items[i];
    if (f->kind != IV_FLOAT && f->kind != IV_INT) return LOWER_FAIL(c, "argument scale_factors: expected numbers");
    scales[i] = f->kind == IV_FLOAT ? f->u.f : (double)f->u.i;
    KILN_TRY(scaled_size(c, x->type.dims[2 + i], scales[i], &size[i]));
  }
  return upsample_emit(c, "input", size, scales);
}

/* ---- PyTorch: grid_sampler --------------------------------------------------------------------------------------- */

static kiln_status lower_grid_sampler(lower_call *c) {
  static const char *const modes[] = {"linear", "nearest", "cubic"}, *const paddings[] = {"zeros", "border",
                                                                                          "reflection"};
  const dim mode = call_int(c, "interpolation_mode"), padding = call_int(c, "padding_mode");
  if (!dim_is_const(mode) || mode < 0 || mode > 2)
    return LOWER_FAIL(c, "argument interpolation_mode: expected 0, 1 or 2");
  if (!dim_is_const(padding) || padding < 0 || padding > 2)
    return LOWER_FAIL(c, "argument padding_mode: expected 0, 1 or 2");
  call_return(c, 0,
              build(&c->b, "grid_sample", IN(call_tensor(c, "input"), call_tensor(c, "grid")),
                    ATTRS(A_STR("mode", modes[mode]), A_STR("padding", paddings[padding]),
                          A_BOOL("align_corners", call_bool(c, "align_corners")))));
  return KILN_OK;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

#define UP_1D "(Tensor self, SymInt[1] output_size, "
#define UP_2D "(Tensor self, SymInt[2] output_size, "
#define UP_3D "(Tensor self, SymInt[3] output_size, "
#define S_1D "float? scales=None) -> Tensor"
#define S_2D "float? scales_h=None, float? scales_w=None) -> Tensor"
#define S_3D "float? scales_d=None, float? scales_h=None, float? scales_w=None) -> Tensor"
#define ALIGN "bool align_corners, "
#define VEC ".vec(Tensor input, SymInt[]? output_size, float[]? scale_factors) -> Tensor"
#define VEC_ALIGN ".vec(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors) -> Tensor"
#define GRID "(Tensor input, Tensor grid, int interpolation_mode, int padding_mode, bool align_corners) -> Tensor"

static const torch_row resize_torch[] = {
    {"aten::upsample_nearest1d" UP_1D S_1D, NULL, lower_upsample},
    {"aten::upsample_nearest2d" UP_2D S_2D, NULL, lower_upsample},
    {"aten::upsample_nearest3d" UP_3D S_3D, NULL, lower_upsample},
    {"aten::_upsample_nearest_exact1d" UP_1D S_1D, NULL, lower_upsample},
    {"aten::_upsample_nearest_exact2d" UP_2D S_2D, NULL, lower_upsample},
    {"aten::_upsample_nearest_exact3d" UP_3D S_3D, NULL, lower_upsample},
    {"aten::upsample_linear1d" UP_1D ALIGN S_1D, NULL, lower_upsample},
    {"aten::upsample_bilinear2d" UP_2D ALIGN S_2D, NULL, lower_upsample},
    {"aten::upsample_trilinear3d" UP_3D ALIGN S_3D, NULL, lower_upsample},
    {"aten::upsample_bicubic2d" UP_2D ALIGN S_2D, NULL, lower_upsample},
    {"aten::upsample_nearest1d" VEC, NULL, lower_upsample_vec},
    {"aten::upsample_nearest2d" VEC, NULL, lower_upsample_vec},
    {"aten::upsample_nearest3d" VEC, NULL, lower_upsample_vec},
    {"aten::_upsample_nearest_exact1d" VEC, NULL, lower_upsample_vec},
    {"aten::_upsample_nearest_exact2d" VEC, NULL, lower_upsample_vec},
    {"aten::_upsample_nearest_exact3d" VEC, NULL, lower_upsample_vec},
    {"aten::upsample_linear1d" VEC_ALIGN, NULL, lower_upsample_vec},
    {"aten::upsample_bilinear2d" VEC_ALIGN, NULL, lower_upsample_vec},
    {"aten::upsample_trilinear3d" VEC_ALIGN, NULL, lower_upsample_vec},
    {"aten::upsample_bicubic2d" VEC_ALIGN, NULL, lower_upsample_vec},
    {"aten::_upsample_bilinear2d_aa" UP_2D ALIGN S_2D, NULL, lower_upsample_antialias},
    {"aten::_upsample_bicubic2d_aa" UP_2D ALIGN S_2D, NULL, lower_upsample_antialias},
    {"aten::_upsample_bilinear2d_aa" VEC_ALIGN, NULL, lower_upsample_antialias_vec},
    {"aten::_upsample_bicubic2d_aa" VEC_ALIGN, NULL, lower_upsample_antialias_vec},
    {NULL, NULL, NULL}};

static const torch_row grid_torch[] = {
    {"aten::grid_sampler" GRID, NULL, lower_grid_sampler},
    {"aten::grid_sampler_2d" GRID, NULL, lower_grid_sampler},
    {"aten::grid_sampler_3d" GRID, NULL, lower_grid_sampler},
    {"aten::affine_grid_generator(Tensor theta, SymInt[] size, bool align_corners) -> Tensor", NULL, lower_affine_grid},
    {NULL, NULL, NULL}};

static const char *const resize_cases[] = {
    "x:f32[2,3,W,9] size=[10,18] mode=\"nearest\" scales=[0,0] W:1,5,8",
    "x:f32[1,C,4,4] size=[8,8] mode=\"nearest\" scales=[2,2] C:1,8,17",
    "x:f32[1,2,7,5] size=[4,9] mode=\"nearest_exact\" scales=[0,0]",
    "x:f32[2,3,W,9] size=[10,18] mode=\"linear\" scales=[0,0] W:1,5,8",
    "x:f32[1,2,7,5] size=[4,9] mode=\"linear\" align_corners=1 scales=[0,0]",
    "x:f32[1,2,7,5] size=[10,7] mode=\"linear\" scales=[1.5,1.5]",
    "x:f32[1,2,7,5] size=[10,9] mode=\"cubic\" scales=[0,0]",
    "x:f32[1,2,7,5] size=[4,9] mode=\"cubic\" align_corners=1 scales=[0,0]",
    "x:f32[2,3,11] size=[20] mode=\"linear\" scales=[0]",
    "x:f32[1,2,3,4,5] size=[6,3,7] mode=\"linear\" scales=[0,0,0]",
    "x:f32[1,2,3,4,5] size=[6,3,7] mode=\"nearest\" scales=[0,0,0]",
    "x:f32[1,6,5,4] size=[12,10] mode=\"linear\" scales=[2,2] channels_last=1",
    "x:f32[1,6,5,4] size=[12,10] mode=\"nearest\" scales=[2,2] channels_last=1",
    "x:f32[1,7,5,C] size=[4,9] mode=\"linear\" align_corners=1 scales=[0,0] channels_last=1 C:1,16,17",
    "x:f32[1,7,5,C] size=[4,9] mode=\"nearest_exact\" scales=[0,0] channels_last=1 C:1,16,17",
    "x:f32[1,7,5,6] size=[10,9] mode=\"cubic\" scales=[0,0] channels_last=1",
    "x:f32[2,11,3] size=[20] mode=\"linear\" scales=[0] channels_last=1",
    "x:f32[1,3,4,5,2] size=[6,3,7] mode=\"linear\" scales=[0,0,0] channels_last=1",
    "x:f32[0,2,3,4] size=[6,8] mode=\"linear\" scales=[0,0]",
    NULL};
static const char *const grid_cases[] = {
    "x:f32[2,3,5,6] grid:f32[2,4,7,2]=uniform(-1.3,1.3) mode=\"linear\" padding=\"zeros\"",
    "x:f32[2,3,5,6] grid:f32[2,4,7,2]=uniform(-1.3,1.3) mode=\"linear\" padding=\"border\" align_corners=1",
    "x:f32[2,3,5,6] grid:f32[2,4,7,2]=uniform(-3,3) mode=\"linear\" padding=\"reflection\"",
    "x:f32[2,3,5,6] grid:f32[2,4,7,2]=uniform(-1.3,1.3) mode=\"nearest\" padding=\"zeros\"",
    "x:f32[2,3,5,6] grid:f32[2,4,7,2]=uniform(-1.3,1.3) mode=\"cubic\" padding=\"border\"",
    "x:f32[1,2,3,4,5] grid:f32[1,2,3,4,3]=uniform(-1.3,1.3) mode=\"linear\" padding=\"zeros\"",
    "x:f32[1,2,3,4,5] grid:f32[1,2,3,4,3]=uniform(-1.3,1.3) mode=\"nearest\" padding=\"border\" align_corners=1",
    "x:f32[2,3,9,11] grid:f32[2,10,13,2]=uniform(-1.3,1.3) mode=\"cubic\" padding=\"zeros\" align_corners=1",
    "x:f32[1,2,5,6]=inf grid:f32[1,10,13,2]=uniform(-1.3,1.3) mode=\"linear\" padding=\"zeros\"",
    "x:f32[1,2,5,6] grid:f32[1,3,4,2]=inf mode=\"linear\" padding=\"border\"",
    "x:f32[1,2,5,6] grid:f32[1,3,4,2]=inf mode=\"linear\" padding=\"zeros\"",
    "x:f64[1,2,5,6] grid:f64[1,3,4,2]=uniform(-1.3,1.3) mode=\"linear\" padding=\"zeros\"",
    NULL};

static const op rows[] = {
    {.name = "resize",
     .sig = "x -> y",
     .attrs = "size:ints mode:str align_corners:bool=0 scales:floats channels_last:bool=0",
     .flags = OP_ANCHOR,
     .infer = resize_infer,
     .ref = resize_ref,
     .torch = resize_torch,
     .cases = resize_cases,
     .tolerance = 1e-4f},
    {.name = "grid_sample",
     .sig = "x grid -> y",
     .attrs = "mode:str padding:str align_corners:bool=0",
     .infer = grid_infer,
     .ref = grid_ref,
     .torch = grid_torch,
     .cases = grid_cases,
     .tolerance = 1e-4f},
};

extern const op_family ops_resize;
OP_FAMILY(ops_resize, rows);
