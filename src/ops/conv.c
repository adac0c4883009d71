/* Convolution and transposed convolution of 1 to 3 spatial dimensions: one code path over coordinate arrays. */
#include "base/memory.h"
#include "ops/spatial.h"
#include "ops/spatial_lower.h"

/* ---- row --------------------------------------------------------------------------------------------------------- */

typedef struct conv_spec {
  int64_t stride[SPATIAL_MAX], pad[SPATIAL_MAX], pad_end[SPATIAL_MAX], dilation[SPATIAL_MAX], output_pad[SPATIAL_MAX];
} conv_spec;

static kiln_status conv_channels(graph *g, node *n, int channel, int64_t groups, bool transposed, dim *out_channels) {
  const tensor_type *x = in_type(n, 0), *w = in_type(n, 1);
  if (groups < 1 || groups > INT32_MAX) return INFER_FAIL(n, "attribute groups must be positive");
  int64_t places = 1;
  for (int i = 0; i < w->rank; i++) {
    if (!dim_is_const(w->dims[i]) || w->dims[i] < (i < 2 ? 0 : 1) || w->dims[i] > (1 << 30))
      return INFER_FAIL(n, "operand w: the weight's dimension %d must be a positive constant", i);
    if (i >= 2 && (places *= w->dims[i]) > (1 << 30)) return INFER_FAIL(n, "operand w: the kernel has too many places");
  }
  if (w->dims[0] % groups)
    return INFER_FAIL(n, "operand w: %lld channels do not divide into %lld groups", (long long)w->dims[0],
                      (long long)groups);
  const dim in_channels = transposed ? w->dims[0] : w->dims[1] * groups;
  KILN_TRY(infer_same_dim(g, n, "channels of x and w", x->dims[channel], in_channels));
  *out_channels = transposed ? w->dims[1] * groups : w->dims[0];
  if (n->inputs[2].v) {
    KILN_TRY(infer_rank_between(n, 2, 1, 1));
    if (in_type(n, 2)->dtype != x->dtype) return INFER_FAIL(n, "operands x and b have different dtypes");
    KILN_TRY(infer_same_dim(g, n, "size of b and output channels", in_type(n, 2)->dims[0], *out_channels));
  }
  return KILN_OK;
}

static kiln_status conv_infer(graph *g, node *n) {
  const bool channels_last = node_bool(n, "channels_last"), transposed = node_bool(n, "transposed");
  int count, channel, first;
  KILN_TRY(infer_float(n, 0));
  KILN_TRY(spatial_axes(n, channels_last, &count, &channel, &first));
  const tensor_type *x = in_type(n, 0), *w = in_type(n, 1);
  KILN_TRY(infer_rank_between(n, 1, count + 2, count + 2));
  if (w->dtype != x->dtype) return INFER_FAIL(n, "operands x and w have different dtypes");
  conv_spec s;
  KILN_TRY(spatial_ints(n, "stride", count, 1, s.stride));
  KILN_TRY(spatial_ints(n, "pad", count, 0, s.pad));
  KILN_TRY(spatial_ints(n, "pad_end", count, 0, s.pad_end));
  KILN_TRY(spatial_ints(n, "dilation", count, 1, s.dilation));
  KILN_TRY(spatial_ints(n, "output_pad", count, 0, s.output_pad));
  dim dims[KILN_MAX_RANK];
  dims[0] = x->dims[0];
  KILN_TRY(conv_channels(g, n, channel, node_int(n, "groups"), transposed, &dims[channel]));
  for (int i = 0; i < count; i++) {
    const dim size = x->dims[first + i], kernel = w->dims[2 + i];
    if (transposed) { /* (size - 1) * stride - pads + dilation * (kernel - 1) + output_pad + 1 */
      dim d = dim_mul(g->dims, dim_sub(g->dims, size, 1), s.stride[i]);
      d = dim_add(g->dims, d, s.dilation[i] * (kernel - 1) + s.output_pad[i] + 1 - s.pad[i] - s.pad_end[i]);
      dims[first + i] = d;
    } else {
      dims[first + i] = infer_window(g, size, kernel, s.stride[i], s.pad[i], s.pad_end[i], s.dilation[i], false);
    }
    if (dims[first + i] == DIM_ERROR)
      return INFER_FAIL(n, "operand x: size of dimension %d cannot be computed", first + i);
    if (dim_is_const(dims[first + i]) && dims[first + i] < 0)
      return INFER_FAIL(n, "operand x: dimension %d is smaller than the kernel", first + i);
  }
  set_out(n, 0, x->dtype, x->rank, dims);
  return KILN_OK;
}

/* Sum over kernel positions and channels of one group for output position `o`. Transposed: position o gets x[i] * w[k]
 * where o + pad = i * stride + k * dilation. */
typedef struct conv_loops {
  spatial x; /* strides of the buffer of doubles: [N, C, spatial] whatever the layout */
  const double *data, *weight;
  conv_spec spec;
  bool transposed;
  int64_t kernel[SPATIAL_MAX], kernel_count;
  int64_t group_in, group_out; /* channels per group */
} conv_loops;

static double conv_at(const conv_loops *c, int64_t n, int64_t channel, const int64_t *o) {
  const int64_t group = channel / c->group_out, within = channel % c->group_out;
  const double *x = c->data + n * c->x.batch_stride + group * c->group_in * c->x.channel_stride;
  /* w[channel][ci][k], transposed w[group * group_in + ci][within][k] */
  const double *w = c->weight + (c->transposed ? (group * c->group_in * c->group_out + within) * c->kernel_count
                                               : channel * c->group_in * c->kernel_count);
  const int64_t w_step = c->transposed ? c->group_out * c->kernel_count : c->kernel_count;
  int64_t k[SPATIAL_MAX] = {0}, position = 0;
  double sum = 0;
  if (c->group_in == 0) return 0;
  do {
    int64_t offset = 0;
    bool inside = true;
    for (int d = 0; d < SPATIAL_MAX && inside; d++) {
      int64_t i;
      if (c->transposed) {
        i = o[d] + c->spec.pad[d] - k[d] * c->spec.dilation[d];
        inside = i >= 0 && i % c->spec.stride[d] == 0;
        i /= c->spec.stride[d];
      } else {
        i = o[d] * c->spec.stride[d] - c->spec.pad[d] + k[d] * c->spec.dilation[d];
      }
      inside = inside && i >= 0 && i < c->x.size[d];
      offset += i * c->x.stride[d];
    }
    if (inside)
      for (int64_t ci = 0; ci < c->group_in; ci++)
        sum += x[ci * c->x.channel_stride + offset] * w[ci * w_step + position];
    position++;
  } while (spatial_next(c->kernel, k));
  return sum;
}

static kiln_status conv_ref(const kernel_args *a) {
  const bool channels_last = arg_bool(a, "channels_last");
  const spatial y = spatial_of(&a->out[0], channels_last);
  conv_loops c = {
      .x = spatial_of(&a->in[0], channels_last), .transposed = arg_bool(a, "transposed"), .kernel_count = 1};
  spatial_attr(a, "stride", 1, c.spec.stride);
  spatial_attr(a, "pad", 0, c.spec.pad);
  spatial_attr(a, "dilation", 1, c.spec.dilation);
  const int64_t groups = arg_int(a, "groups");
  for (int i = 0; i < SPATIAL_MAX; i++) {
    c.kernel[i] = i < c.x.count ? a->in[1].shape[2 + i] : 1;
    c.kernel_count *= c.kernel[i];
  }
  c.group_in = c.x.channels / groups;
  c.group_out = y.channels / groups;
  if (tensor_numel(&a->out[0]) == 0) return KILN_OK;
  /* The buffer is row-major in x's own order: dense strides of that. */
  tensor dense = a->in[0];
  tensor_make_contiguous_strides(&dense);
  c.x = spatial_of(&dense, channels_last);
  double *x = NULL, *w = NULL;
  kiln_status status = ref_to_doubles(&a->in[0], &x);
  if (status == KILN_OK) status = ref_to_doubles(&a->in[1], &w);
  if (status == KILN_OK) {
    c.data = x;
    c.weight = w;
    const tensor *b = a->n_in > 2 && a->in[2].data ? &a->in[2] : NULL;
    for (int64_t n = 0; n < y.batch; n++)
      for (int64_t ch = 0; ch < y.channels; ch++) {
        const double bias = b ? ref_load(b, ch * b->strides[0]) : 0;
        int64_t o[SPATIAL_MAX] = {0};
        do {
          const int64_t at =
              n * y.batch_stride + ch * y.channel_stride + o[0] * y.stride[0] + o[1] * y.stride[1] + o[2] * y.stride[2];
          ref_store(&a->out[0], at, conv_at(&c, n, ch, o) + bias);
        } while (spatial_next(y.size, o));
      }
  }
  mem_free(x);
  mem_free(w);
  return status;
}

/* ---- PyTorch ----------------------------------------------------------------------------------------------------- */

static kiln_status conv_emit(lower_call *c, int count, const conv_spec *s, bool transposed) {
  value *x = call_tensor(c, "input"), *w = call_tensor(c, "weight"), *b = call_tensor(c, "bias");
  KILN_TRY(graph_check(c->b.graph));
  if (!x || !w) return LOWER_FAIL(c, "needs an input and a weight");
  const dim groups = call_int(c, "groups");
  bool added;
  x = spatial_batched(c, x, count + 2, &added);
  value *y = build(
      &c->b, "conv", IN(x, w, b),
      ATTRS(A_INTS("stride", s->stride, count), A_INTS("pad", s->pad, count), A_INTS("pad_end", s->pad_end, count),
            A_INTS("dilation", s->dilation, count), A_INTS("output_pad", s->output_pad, count), A_INT("groups", groups),
            A_BOOL("transposed", transposed)));
  call_return(c, 0, spatial_unbatched(c, y, added));
  return KILN_OK;
}

/* Spatial dimensions, from the weight's rank. */
static kiln_status conv_rank(lower_call *c, int *out) {
  const value *w = call_tensor(c, "weight");
  *out = w ? w->type.rank - 2 : 0;
  if (*out < 1 || *out > SPATIAL_MAX) return LOWER_FAIL(c, "argument weight: expected rank 3, 4 or 5");
  return KILN_OK;
}

static const int64_t conv_zeros[SPATIAL_MAX] = {0}, conv_ones[SPATIAL_MAX] = {1, 1, 1};

static kiln_status conv_args(lower_call *c, int *count, conv_spec *s) {
  *s = (conv_spec){.stride = {0}};
  KILN_TRY(conv_rank(c, count));
  KILN_TRY(spatial_arg(c, "stride", *count, conv_ones, s->stride));
  return spatial_arg(c, "dilation", *count, conv_ones, s->dilation);
}

static kiln_status lower_conv(lower_call *c) {
  conv_spec s;
  int count;
  KILN_TRY(conv_args(c, &count, &s));
  KILN_TRY(spatial_arg(c, "padding", count, conv_zeros, s.pad));
  for (int i = 0; i < count; i++) s.pad_end[i] = s.pad[i];
  return conv_emit(c, count, &s, false);
}

static kiln_status lower_conv_padding(lower_call *c) {
  conv_spec s;
  int count;
  KILN_TRY(conv_args(c, &count, &s));
  const char *padding = call_str(c, "padding");
  if (str_eq(padding, "same")) { /* an odd total pads more at the end */
    const value *w = call_tensor(c, "weight");
    for (int i = 0; i < count; i++) {
      if (!dim_is_const(w->type.dims[2 + i]))
        return LOWER_FAIL(c, "argument weight: the kernel's size must be constant");
      const int64_t total = s.dilation[i] * (w->type.dims[2 + i] - 1);
      s.pad[i] = total / 2;
      s.pad_end[i] = total - s.pad[i];
    }
  } else if (!str_eq(padding, "valid")) {
    return LOWER_FAIL(c, "argument padding: expected \"same\" or \"valid\"");
  }
  return conv_emit(c, count, &s, false);
}

static kiln_status lower_conv_transpose(lower_call *c) {
  conv_spec s;
  int count;
  KILN_TRY(conv_args(c, &count, &s));
  KILN_TRY(spatial_arg(c, "padding", count, conv_zeros, s.pad));
  KILN_TRY(spatial_arg(c, "output_padding", count, conv_zeros, s.output_pad));
  for (int i = 0; i < count; i++) s.pad_end[i] = s.pad[i];
  return conv_emit(c, count, &s, true);
}

static kiln_status lower_convolution(lower_call *c) {
  return call_bool(c, "transposed") ? lower_conv_transpose(c) : lower_conv(c);
}

#define CONV_ARGS(n, ones, zeros)                                                                                \
  "(Tensor input, Tensor weight, Tensor? bias=None, SymInt[" n "] stride=" ones ", SymInt[" n "] padding=" zeros \
  ", SymInt[" n "] dilation=" ones ", SymInt groups=1) -> Tensor"
#define CONV_PADDING_ARGS(n, ones)                                                                                   \
  "(Tensor input, Tensor weight, Tensor? bias=None, SymInt[" n "] stride=" ones ", str padding=\"valid\", SymInt[" n \
  "] dilation=" ones ", SymInt groups=1) -> Tensor"
#define CONV_TRANSPOSE_ARGS(n, ones, zeros)                                                                      \
  "(Tensor input, Tensor weight, Tensor? bias=None, SymInt[" n "] stride=" ones ", SymInt[" n "] padding=" zeros \
  ", SymInt[" n "] output_padding=" zeros ", SymInt groups=1, SymInt[" n "] dilation=" ones ") -> Tensor"

static const torch_row conv_torch[] = {
    {"aten::conv1d" CONV_ARGS("1", "[1]", "[0]"), NULL, lower_conv},
    {"aten::conv2d" CONV_ARGS("2", "[1, 1]", "[0, 0]"), NULL, lower_conv},
    {"aten::conv3d" CONV_ARGS("3", "[1, 1, 1]", "[0, 0, 0]"), NULL, lower_conv},
    {"aten::conv1d.padding" CONV_PADDING_ARGS("1", "[1]"), NULL, lower_conv_padding},
    {"aten::conv2d.padding" CONV_PADDING_ARGS("2", "[1, 1]"), NULL, lower_conv_padding},
    {"aten::conv3d.padding" CONV_PADDING_ARGS("3", "[1, 1, 1]"), NULL, lower_conv_padding},
    {"aten::conv_transpose1d" CONV_TRANSPOSE_ARGS("1", "[1]", "[0]"), NULL, lower_conv_transpose},
    {"aten::conv_transpose2d.input" CONV_TRANSPOSE_ARGS("2", "[1, 1]", "[0, 0]"), NULL, lower_conv_transpose},
    {"aten::conv_transpose3d.input" CONV_TRANSPOSE_ARGS("3", "[1, 1, 1]", "[0, 0, 0]"), NULL, lower_conv_transpose},
    {"aten::convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] "
     "dilation, "
     "bool transposed, SymInt[] output_padding, SymInt groups) -> Tensor",
     NULL, lower_convolution},
    {"aten::_convolution.deprecated(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, "
     "SymInt[] dilation, "
     "bool transposed, int[] output_padding, SymInt groups, bool benchmark, bool deterministic, bool cudnn_enabled) -> "
     "Tensor",
     NULL, lower_convolution},
    {"aten::_convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] "
     "dilation, bool "
     "transposed, SymInt[] output_padding, SymInt groups, bool benchmark, bool deterministic, bool cudnn_enabled, bool "
     "allow_tf32) "
     "-> Tensor",
     NULL, lower_convolution},
    {"aten::im2col(Tensor self, int[2] kernel_size, int[2] dilation, int[2] padding, int[2] stride) -> Tensor", NULL,
     lower_im2col},
    {"aten::col2im(Tensor self, SymInt[2] output_size, int[2] kernel_size, int[2] dilation, int[2] padding, int[2] "
     "stride) -> Tensor",
     NULL, lower_col2im},
    {NULL, NULL, NULL}};

/* ---- cases ------------------------------------------------------------------------------------------------------- */

#define PLAIN_2D "pad_end=[1,1] output_pad=[0,0]"
static const char *const conv_cases[] = {
    "x:f32[2,3,8,9] w:f32[4,3,3,3] b:f32[4] stride=[1,1] pad=[1,1] dilation=[1,1] " PLAIN_2D,
    "x:f32[1,C,7,7] w:f32[8,C,1,1] b:f32[8] stride=[1,1] pad=[0,0] pad_end=[0,0] dilation=[1,1] output_pad=[0,0] "
    "C:1,3,16,17,33",
    "x:f32[2,C,11,13] w:f32[C,1,3,3] b:f32[C] stride=[2,2] pad=[1,1] dilation=[1,1] groups=C " PLAIN_2D
    " C:1,7,8,16,19",
    "x:f32[1,6,10,9] w:f32[8,3,3,2] stride=[2,1] pad=[1,0] pad_end=[2,1] dilation=[1,2] output_pad=[0,0] groups=2",
    "x:f32[1,3,32,W] w:f32[16,3,7,7] b:f32[16] stride=[2,2] pad=[3,3] pad_end=[3,3] dilation=[1,1] output_pad=[0,0] "
    "W:16,31,33",
    "x:f32[1,O,9,9] w:f32[O,O,3,3] b:f32[O] stride=[1,1] pad=[1,1] dilation=[1,1] " PLAIN_2D " O:4,8,31,32",
    "x:f32[1,4,12,12] w:f32[4,4,3,3] stride=[1,1] pad=[3,3] pad_end=[3,3] dilation=[3,3] output_pad=[0,0]",
    "x:f32[2,20,N,7] w:f32[6,20,3,3] b:f32[6] stride=[1,1] pad=[9,5] pad_end=[9,5] dilation=[9,5] output_pad=[0,0] "
    "N:5,9,12",
    "x:f32[1,20,6,9] w:f32[6,10,5,3] stride=[2,3] pad=[8,9] pad_end=[8,9] dilation=[4,9] output_pad=[0,0] groups=2",
    "x:f32[1,20,2,3] w:f32[6,20,3,2] b:f32[6] stride=[1,1] pad=[9,0] pad_end=[9,0] dilation=[6,1] output_pad=[0,0]",
    "x:f32[0,3,8,8] w:f32[4,3,3,3] stride=[1,1] pad=[1,1] dilation=[1,1] " PLAIN_2D,
    "x:f32[1,2,6,6]=inf w:f32[3,2,3,3] stride=[1,1] pad=[1,1] dilation=[1,1] " PLAIN_2D,
    "x:f64[1,3,6,7] w:f64[4,3,3,3] b:f64[4] stride=[1,1] pad=[1,1] dilation=[1,1] " PLAIN_2D,
    "x:f32[2,T,5] w:f32[6,5,3] b:f32[6] stride=[1] pad=[1] pad_end=[1] dilation=[1] output_pad=[0] channels_last=1 "
    "T:3,16,50",
    "x:f32[2,8,9,5] w:f32[4,5,3,3] b:f32[4] stride=[1,1] pad=[1,1] dilation=[1,1] channels_last=1 " PLAIN_2D,
    "x:f32[2,4,T] w:f32[6,4,5] b:f32[6] stride=[2] pad=[2] pad_end=[2] dilation=[1] output_pad=[0] T:5,16,41",
    "x:f32[1,4,20] w:f32[6,4,3] b:f32[6] stride=[1] pad=[8] pad_end=[0] dilation=[4] output_pad=[0]",
    "x:f32[1,3,5,6,7] w:f32[4,3,3,2,3] b:f32[4] stride=[1,2,1] pad=[1,0,1] pad_end=[1,0,1] dilation=[1,1,2] "
    "output_pad=[0,0,0]",
    "x:f32[2,4,5,6] w:f32[4,3,3,3] b:f32[3] stride=[2,2] pad=[1,1] dilation=[1,1] pad_end=[1,1] output_pad=[1,1] "
    "transposed=1",
    "x:f32[1,6,5,4] w:f32[6,2,2,2] b:f32[4] stride=[2,2] pad=[0,0] pad_end=[0,0] dilation=[1,1] output_pad=[0,0] "
    "groups=2 "
    "transposed=1",
    "x:f32[1,4,9] w:f32[4,5,4] stride=[3] pad=[1] pad_end=[1] dilation=[2] output_pad=[2] transposed=1",
    "x:f32[1,2,3,4,3] w:f32[2,3,2,3,2] stride=[2,1,2] pad=[0,1,0] pad_end=[0,1,0] dilation=[1,1,1] output_pad=[0,0,0] "
    "transposed=1",
    "x:f32[1,5,6,4] w:f32[4,3,3,3] b:f32[3] stride=[2,2] pad=[1,1] pad_end=[1,1] dilation=[1,1] output_pad=[1,0] "
    "transposed=1 "
    "channels_last=1",
    /* channels last: what the fast kernels see */
    "x:f32[2,7,6,C] w:f32[9,C,1,1] b:f32[9] stride=[1,1] pad=[0,0] pad_end=[0,0] dilation=[1,1] output_pad=[0,0] "
    "channels_last=1 "
    "C:1,4,15,16,17,64",
    "x:f32[1,9,8,5] w:f32[O,5,3,3] b:f32[O] stride=[1,1] pad=[1,1] dilation=[1,1] channels_last=1 " PLAIN_2D
    " O:1,3,8,16,31,48,65",
    "x:f32[1,16,W,16] w:f32[16,16,3,3] stride=[1,1] pad=[1,1] dilation=[1,1] channels_last=1 " PLAIN_2D
    " W:1,2,4,5,7,12",
    "x:f32[1,15,W,3] w:f32[20,3,7,7] b:f32[20] stride=[2,2] pad=[3,3] pad_end=[3,3] dilation=[1,1] output_pad=[0,0] "
    "channels_last=1 "
    "W:7,13,16",
    "x:f32[2,9,10,C] w:f32[C,1,3,3] b:f32[C] stride=[1,1] pad=[1,1] dilation=[1,1] groups=C channels_last=1 " PLAIN_2D
    " C:2,7,8,16,33",
    "x:f32[1,11,10,C] w:f32[C,1,5,5] b:f32[C] stride=[2,2] pad=[2,2] pad_end=[2,2] dilation=[1,1] output_pad=[0,0] "
    "groups=C "
    "channels_last=1 C:3,16,40",
    "x:f32[1,9,9,6] w:f32[12,1,3,3] stride=[1,1] pad=[0,0] pad_end=[0,0] dilation=[2,2] output_pad=[0,0] groups=6 "
    "channels_last=1",
    "x:f32[2,8,9,12] w:f32[10,6,3,2] b:f32[10] stride=[2,1] pad=[1,0] pad_end=[2,1] dilation=[1,2] output_pad=[0,0] "
    "groups=2 "
    "channels_last=1",
    "x:f32[1,10,11,7] w:f32[9,7,3,3] stride=[1,1] pad=[4,2] pad_end=[4,2] dilation=[4,2] output_pad=[0,0] "
    "channels_last=1",
    "x:f32[1,12,16,3] w:f32[24,3,4,4] b:f32[24] stride=[4,4] pad=[0,0] pad_end=[0,0] dilation=[1,1] output_pad=[0,0] "
    "channels_last=1",
    "x:f32[1,3,3,2] w:f32[4,2,3,3] stride=[1,1] pad=[0,0] pad_end=[0,0] dilation=[1,1] output_pad=[0,0] "
    "channels_last=1",
    "x:f32[0,6,6,2] w:f32[4,2,3,3] stride=[1,1] pad=[1,1] dilation=[1,1] channels_last=1 " PLAIN_2D,
    "x:f32[1,6,7,3]=inf w:f32[4,3,3,3] b:f32[4] stride=[1,1] pad=[1,1] dilation=[1,1] channels_last=1 " PLAIN_2D,
    "x:f32[1,T,8] w:f32[8,8,3] b:f32[8] stride=[1] pad=[6] pad_end=[0] dilation=[3] output_pad=[0] channels_last=1 "
    "T:1,5,33",
    "x:f32[1,40,C] w:f32[C,1,9] stride=[1] pad=[4] pad_end=[4] dilation=[1] output_pad=[0] groups=C channels_last=1 "
    "C:5,16",
    "x:f32[1,5,6,7,3] w:f32[4,3,3,2,3] b:f32[4] stride=[1,2,1] pad=[1,0,1] pad_end=[1,0,1] dilation=[1,1,2] "
    "output_pad=[0,0,0] "
    "channels_last=1",
    "x:f32[1,7,5,16] w:f32[16,8,2,2] b:f32[8] stride=[2,2] pad=[0,0] pad_end=[0,0] dilation=[1,1] output_pad=[0,0] "
    "transposed=1 "
    "channels_last=1",
    "x:f32[2,5,4,6] w:f32[6,4,3,2] b:f32[8] stride=[2,3] pad=[1,0] pad_end=[1,0] dilation=[2,1] output_pad=[1,2] "
    "groups=2 "
    "transposed=1 channels_last=1",
    "x:f32[1,6,5,4] w:f32[4,1,4,4] stride=[2,2] pad=[1,1] pad_end=[1,1] dilation=[1,1] output_pad=[0,0] groups=4 "
    "transposed=1 "
    "channels_last=1",
    "x:f32[1,9,4] w:f32[4,5,4] stride=[3] pad=[1] pad_end=[1] dilation=[2] output_pad=[2] transposed=1 channels_last=1",
    "x:f32[1,3,4,3,2] w:f32[2,3,2,3,2] b:f32[3] stride=[2,1,2] pad=[0,1,0] pad_end=[0,1,0] dilation=[1,1,1] "
    "output_pad=[0,0,0] "
    "transposed=1 channels_last=1",
    NULL};

static const op rows[] = {{
    .name = "conv",
    .sig = "x w b? -> y",
    .attrs = "stride:ints pad:ints pad_end:ints dilation:ints groups:int=1 transposed:bool=0 output_pad:ints "
             "channels_last:bool=0",
    .flags = OP_ANCHOR,
    .infer = conv_infer,
    .ref = conv_ref,
    .torch = conv_torch,
    .cases = conv_cases,
    .tolerance = 1e-4f,
}};

extern const op_family ops_conv;
OP_FAMILY(ops_conv, rows);
