/* See spatial_lower.h. */
#include "ops/spatial_lower.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "ops/spatial.h"

/* A constant of `dtype` from doubles in row-major order. */
static value *constant_of(builder *b, kiln_dtype dtype, int rank, const int64_t *shape, const double *values) {
  const tensor_type type = type_of(dtype, rank, shape);
  size_t bytes;
  if (!type_bytes(&type, &bytes)) return NULL;
  void *data = mem_alloc_aligned(bytes ? bytes : 1);
  if (!data) return NULL;
  tensor t = {.data = data, .dtype = dtype, .rank = rank};
  for (int i = 0; i < rank; i++) t.shape[i] = shape[i];
  tensor_make_contiguous_strides(&t);
  for (int64_t i = 0, n = tensor_numel(&t); i < n; i++) ref_store(&t, i, values[i]);
  return graph_constant_take(b->graph, &type, data);
}

/* ---- unfold and fold --------------------------------------------------------------------------------------------- */

typedef struct patch_spec {
  int64_t kernel[2], dilation[2], pad[2], stride[2];
} patch_spec;

static kiln_status patch_args(lower_call *c, patch_spec *s, value **x, int rank, bool *added) {
  KILN_TRY(lowering_tensor(c, "self", x));
  KILN_TRY(spatial_arg(c, "kernel_size", 2, NULL, s->kernel));
  KILN_TRY(spatial_arg(c, "dilation", 2, NULL, s->dilation));
  KILN_TRY(spatial_arg(c, "padding", 2, NULL, s->pad));
  KILN_TRY(spatial_arg(c, "stride", 2, NULL, s->stride));
  for (int d = 0; d < 2; d++)
    if (s->kernel[d] < 1 || s->kernel[d] > 1024 || s->dilation[d] < 1 || s->stride[d] < 1 || s->pad[d] < 0)
      return LOWER_FAIL(c, "expected positive kernel_size, dilation and stride");
  if ((*x)->type.rank != rank && (*x)->type.rank != rank - 1)
    return LOWER_FAIL(c, "argument self has %d dimensions, expected %d or %d", (*x)->type.rank, rank - 1, rank);
  *x = spatial_batched(c, *x, rank, added);
  LOWER_NEED(c, *x);
  return KILN_OK;
}

/* How many windows fit along dimension d of `size`. */
static dim patch_count(dim_table *t, const patch_spec *s, int d, dim size) {
  const dim span = dim_add(t, size, 2 * s->pad[d] - s->dilation[d] * (s->kernel[d] - 1) - 1);
  return dim_add(t, dim_floordiv(t, span, s->stride[d]), 1);
}

/* [N, C, H, W] to [N, C * kh * kw, windows]: one strided slice for each place in the kernel. */
kiln_status lower_im2col(lower_call *c) {
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  patch_spec s;
  value *x;
  bool added;
  KILN_TRY(patch_args(c, &s, &x, 4, &added));
  const int64_t places = s.kernel[0] * s.kernel[1];
  if (places > 1024) return LOWER_FAIL(c, "argument kernel_size: more than 1024 places are not supported");
  const dim batch = x->type.dims[0], channels = x->type.dims[1];
  const dim oh = patch_count(t, &s, 0, x->type.dims[2]), ow = patch_count(t, &s, 1, x->type.dims[3]);
  if (s.pad[0] || s.pad[1]) {
    const int64_t pads[] = {0, 0, s.pad[0], s.pad[1]};
    x = build(b, "pad", IN(x), ATTRS(A_INTS("before", pads, 4), A_INTS("after", pads, 4)));
  }
  value **parts = ARENA_ARRAY(c->im->arena, value *, places);
  if (!parts) return KILN_NO_MEMORY("lowering aten::im2col");
  const dim span_h = dim_add(t, dim_mul(t, dim_sub(t, oh, 1), s.stride[0]), 1);
  const dim span_w = dim_add(t, dim_mul(t, dim_sub(t, ow, 1), s.stride[1]), 1);
  for (int64_t i = 0; i < places; i++) {
    const int64_t y0 = i / s.kernel[1] * s.dilation[0], x0 = i % s.kernel[1] * s.dilation[1];
    value *v = lowering_slice(b, x, 2, y0, dim_add(t, span_h, y0), s.stride[0]);
    v = lowering_slice(b, v, 3, x0, dim_add(t, span_w, x0), s.stride[1]);
    LOWER_NEED(c, v);
    parts[i] = lower_reshape(b, v, 5, (dim[]){batch, channels, 1, oh, ow});
    LOWER_NEED(c, parts[i]);
  }
  value *all = places == 1 ? parts[0] : build(b, "concat", (int)places, parts, ATTRS(A_INT("axis", 2)));
  LOWER_NEED(c, all);
  value *y = lower_reshape(b, all, 3, (dim[]){batch, dim_mul(t, channels, places), dim_mul(t, oh, ow)});
  call_return(c, 0, spatial_unbatched(c, y, added));
  return KILN_OK;
}

/* The inverse: a transposed convolution whose kernel puts input channel (c, i, j) at place (i, j) of channel c. */
kiln_status lower_col2im(lower_call *c) {
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  patch_spec s;
  value *x;
  bool added;
  dim size[2];
  KILN_TRY(patch_args(c, &s, &x, 3, &added));
  KILN_TRY(call_ints_expand(c, "output_size", 2, size));
  const int64_t places = s.kernel[0] * s.kernel[1];
  const dim rows_n = x->type.dims[1];
  if (!dim_is_const(rows_n) || rows_n % places || !dim_is_const(size[0]) || !dim_is_const(size[1]))
    return LOWER_FAIL(c, "channels must be a constant multiple of the kernel's places, and output_size constant");
  const dim oh = patch_count(t, &s, 0, size[0]), ow = patch_count(t, &s, 1, size[1]);
  if (oh < 1 || ow < 1 || rows_n * places > (1 << 24)) return LOWER_FAIL(c, "these sizes are not supported");
  double *eye = mem_calloc((size_t)(rows_n * places), sizeof(double));
  if (!eye) return KILN_NO_MEMORY("lowering aten::col2im");
  for (int64_t i = 0; i < rows_n; i++) eye[i * places + i % places] = 1;
  value *w = constant_of(b, x->type.dtype, 4, (int64_t[]){rows_n, 1, s.kernel[0], s.kernel[1]}, eye);
  mem_free(eye);
  if (!w) return KILN_NO_MEMORY("lowering aten::col2im");
  x = lower_reshape(b, x, 4, (dim[]){x->type.dims[0], rows_n, oh, ow});
  int64_t extra[2];
  for (int d = 0; d < 2; d++) {
    const int64_t covered = ((d ? ow : oh) - 1) * s.stride[d] + s.dilation[d] * (s.kernel[d] - 1) + 1;
    extra[d] = size[d] + 2 * s.pad[d] - covered;
  }
  value *y = build(b, "conv", IN(x, w, NULL),
                   ATTRS(A_INTS("stride", s.stride, 2), A_INTS("pad", s.pad, 2), A_INTS("pad_end", s.pad, 2),
                         A_INTS("dilation", s.dilation, 2), A_INTS("output_pad", extra, 2),
                         A_INT("groups", rows_n / places), A_BOOL("transposed", 1)));
  call_return(c, 0, spatial_unbatched(c, y, added));
  return KILN_OK;
}

/* ---- antialiased resizing ---------------------------------------------------------------------------------------- */

static double triangle(double x) {
  x = fabs(x);
  return x < 1 ? 1 - x : 0;
}
static double keys(double x) { /* a = -0.5, as PIL */
  x = fabs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/* Row o holds the weights of all inputs for output o (aten/native/cpu/UpSampleKernel.cpp,
 * compute_indices_min_size_weights_aa). */
static void antialias_weights(double *w, int64_t in, int64_t out, double scale, bool cubic) {
  const double support = (cubic ? 2 : 1) * (scale >= 1 ? scale : 1), inverse = scale >= 1 ? 1 / scale : 1;
  for (int64_t o = 0; o < out; o++) {
    const double center = scale * ((double)o + 0.5);
    const double first = fmax(trunc(center - support + 0.5), 0), end = fmin(trunc(center + support + 0.5), (double)in);
    double total = 0;
    for (int64_t i = (int64_t)first; i < (int64_t)end; i++) {
      const double x = ((double)i - center + 0.5) * inverse;
      total += w[o * in + i] = cubic ? keys(x) : triangle(x);
    }
    for (int64_t i = (int64_t)first; i < (int64_t)end && total != 0; i++) w[o * in + i] /= total;
  }
}

static kiln_status antialias_matrix(lower_call *c, kiln_dtype dtype, int64_t in, int64_t out, double factor, bool cubic,
                                    value **matrix) {
  const bool corners = call_bool(c, "align_corners");
  if (in < 1 || out < 1 || in > (1 << 15) || out > (1 << 15))
    return LOWER_FAIL(c, "sizes above 32768 are not supported");
  const double scale = corners      ? (out > 1 ? (double)(in - 1) / (double)(out - 1) : 0)
                       : factor > 0 ? 1 / factor
                                    : (double)in / (double)out;
  double *w = mem_calloc((size_t)(in * out), sizeof(double));
  if (!w) return KILN_NO_MEMORY("weights of an antialiased resize");
  antialias_weights(w, in, out, scale, cubic);
  *matrix = constant_of(&c->b, dtype, 2, (int64_t[]){out, in}, w);
  mem_free(w);
  return *matrix ? KILN_OK : KILN_NO_MEMORY("weights of an antialiased resize");
}

/* Both passes are products with constant matrices. */
static kiln_status antialias_emit(lower_call *c, value *x, const dim *size, const double *factor) {
  builder *b = &c->b;
  if (x->type.rank != 4) return LOWER_FAIL(c, "the input has %d dimensions, expected 4", x->type.rank);
  for (int d = 0; d < 2; d++)
    if (!dim_is_const(size[d]) || !dim_is_const(x->type.dims[2 + d]))
      return LOWER_FAIL(c, "needs constant spatial sizes");
  const bool cubic = strstr(c->schema->name, "cubic") != NULL;
  value *h, *w;
  KILN_TRY(antialias_matrix(c, x->type.dtype, x->type.dims[2], size[0], factor[0], cubic, &h));
  KILN_TRY(antialias_matrix(c, x->type.dtype, x->type.dims[3], size[1], factor[1], cubic, &w));
  value *y = build(b, "matmul", IN(h, build(b, "linear", IN(x, w, NULL), NO_ATTRS)), NO_ATTRS);
  call_return(c, 0, y);
  return KILN_OK;
}

kiln_status lower_upsample_antialias(lower_call *c) {
  value *x;
  dim size[2];
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(call_ints_expand(c, "output_size", 2, size));
  const double factor[2] = {call_is_none(c, "scales_h") ? 0 : call_float(c, "scales_h"),
                            call_is_none(c, "scales_w") ? 0 : call_float(c, "scales_w")};
  return antialias_emit(c, x, size, factor);
}

kiln_status lower_upsample_antialias_vec(lower_call *c) {
  value *x;
  dim size[2];
  double factor[2] = {0};
  KILN_TRY(lowering_tensor(c, "input", &x));
  if (!call_is_none(c, "output_size")) {
    KILN_TRY(call_ints_expand(c, "output_size", 2, size));
    return antialias_emit(c, x, size, factor);
  }
  const ivalue *f = call_arg(c, "scale_factors");
  if (!f || f->kind != IV_LIST || f->count != 2 || x->type.rank != 4)
    return LOWER_FAIL(c, "argument scale_factors: expected 2 numbers");
  for (int d = 0; d < 2; d++) {
    factor[d] = f->u.items[d].kind == IV_FLOAT ? f->u.items[d].u.f : (double)f->u.items[d].u.i;
    if (!(factor[d] > 0) || factor[d] > 1e6 || !dim_is_const(x->type.dims[2 + d]))
      return LOWER_FAIL(c, "needs constant spatial sizes");
    size[d] = (dim)floor((double)x->type.dims[2 + d] * factor[d]);
  }
  return antialias_emit(c, x, size, factor);
}

/* ---- affine grid ------------------------------------------------------------------------------------------------- */

/* grid[n, p, :] = theta[n] @ (base point p, 1), base points in [-1, 1]; x is the last dimension. */
kiln_status lower_affine_grid(lower_call *c) {
  builder *b = &c->b;
  value *theta;
  dim size[5];
  KILN_TRY(lowering_tensor(c, "theta", &theta));
  const int n = call_ints(c, "size", size, 5), spatial_n = n - 2;
  if (n != 4 && n != 5) return LOWER_FAIL(c, "argument size: expected 4 or 5 sizes");
  int64_t points = 1;
  for (int i = 2; i < n; i++) {
    if (!dim_is_const(size[i]) || size[i] < 1 || size[i] > (1 << 20))
      return LOWER_FAIL(c, "argument size: needs constant spatial sizes");
    points *= size[i];
    if (points > (1 << 26)) return LOWER_FAIL(c, "argument size: too large");
  }
  const bool corners = call_bool(c, "align_corners");
  double *base = mem_alloc((size_t)(points * (spatial_n + 1)) * sizeof(double));
  if (!base) return KILN_NO_MEMORY("lowering aten::affine_grid_generator");
  for (int64_t p = 0; p < points; p++) {
    int64_t rest = p;
    for (int d = 0; d < spatial_n; d++) {
      const int64_t count = size[n - 1 - d], at = rest % count;
      rest /= count;
      const double line = count > 1 ? -1 + 2.0 * (double)at / (double)(count - 1) : 0;
      base[p * (spatial_n + 1) + d] = corners ? line : line * (double)(count - 1) / (double)count;
    }
    base[p * (spatial_n + 1) + spatial_n] = 1;
  }
  value *points_of = constant_of(b, theta->type.dtype, 2, (int64_t[]){points, spatial_n + 1}, base);
  mem_free(base);
  if (!points_of) return KILN_NO_MEMORY("lowering aten::affine_grid_generator");
  value *y = build(b, "matmul", IN(points_of, theta), ATTRS(A_BOOL("transpose_b", 1)));
  dim dims[5] = {size[0]};
  for (int i = 0; i < spatial_n; i++) dims[1 + i] = size[2 + i];
  dims[1 + spatial_n] = spatial_n;
  call_return(c, 0, y ? lower_reshape(b, y, n, dims) : NULL);
  return KILN_OK;
}

/* ---- max_unpool -------------------------------------------------------------------------------------------------- */

/* Puts each value at the place in its plane that its index names, zeros elsewhere. */
kiln_status lower_max_unpool(lower_call *c) {
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  value *x, *indices;
  dim size[SPATIAL_MAX];
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "indices", &indices));
  const int count = strstr(c->schema->name, "3d") ? 3 : 2, lead = x->type.rank - count;
  if (lead < 1 || lead > 2)
    return LOWER_FAIL(c, "argument self has %d dimensions, expected %d or %d", x->type.rank, count + 1, count + 2);
  KILN_TRY(call_ints_expand(c, "output_size", count, size));
  const dim from = dim_product(t, x->type.dims + lead, count), to = dim_product(t, size, count);
  dim flat[3], out[KILN_MAX_RANK];
  for (int i = 0; i < lead; i++) flat[i] = out[i] = x->type.dims[i];
  for (int i = 0; i < count; i++) out[lead + i] = size[i];
  flat[lead] = from;
  x = lower_reshape(b, x, lead + 1, flat);
  indices = lower_reshape(b, indices, lead + 1, flat);
  LOWER_NEED(c, x);
  flat[lead] = to;
  value *zeros = lowering_full(b, x->type.dtype, lead + 1, flat, 0);
  value *y = build(b, "scatter", IN(zeros, indices, x), ATTRS(A_INT("axis", lead)));
  call_return(c, 0, y ? lower_reshape(b, y, lead + count, out) : NULL);
  return KILN_OK;
}
