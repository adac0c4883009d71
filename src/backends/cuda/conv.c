/* Convolutions on GPUs: depthwise, implicit matrix product (1x1: a plain one), transposed without overlap as products
 * that scatter, and a kernel of one thread for each result for everything else. */
#include <string.h>

#include "backends/cuda/cublaslt.h"
#include "backends/cuda/cudnn.h"
#include "backends/cuda/gemm.h"
#include "backends/cuda/packing.h"
#include "backends/cuda/texts.h"
#include "base/memory.h"

/* Sizes as of a 3-d convolution: missing leading dimensions are 1 (kernel 1, stride 1, no padding). */
typedef struct conv_shape {
  int64_t batch, in_channels, out_channels, groups;
  int64_t in[3], out[3], kernel[3], stride[3], pad[3], pad_end[3], dilation[3], taps;
  bool channels_last;
} conv_shape;

typedef struct conv_state {
  gemm_plan plan;
  dense_copy x, w;
  bool bias;
  cublaslt_plan library; /* of the libraries' rows */
  cudnn_plan graph;
  const cuda_function *function; /* depthwise, direct */
  int64_t blocks, total;
  int threads;
  size_t shared;
} conv_state;

static void read_ints(const kernel_args *a, const char *name, int count, int64_t fill, int64_t out[3]) {
  const attr *v = arg_attr(a, name);
  for (int i = 0; i < 3; i++) {
    const int at = i - (3 - count);
    out[i] = at >= 0 && at < v->count ? v->u.ints[at] : fill;
  }
}

static void conv_shape_of(const kernel_args *a, conv_shape *s) {
  const tensor *x = &a->in[0], *w = &a->in[1], *y = &a->out[0];
  const int count = x->rank - 2;
  const bool last = arg_bool(a, "channels_last");
  const int first = last ? 1 : 2, channel = last ? x->rank - 1 : 1;
  *s = (conv_shape){.batch = x->shape[0],
                    .in_channels = x->shape[channel],
                    .out_channels = y->shape[channel],
                    .groups = arg_int(a, "groups"),
                    .taps = 1,
                    .channels_last = last};
  for (int i = 0; i < 3; i++) {
    const int at = i - (3 - count);
    s->in[i] = at >= 0 ? x->shape[first + at] : 1;
    s->out[i] = at >= 0 ? y->shape[first + at] : 1;
    s->kernel[i] = at >= 0 ? w->shape[2 + at] : 1;
    s->taps *= s->kernel[i];
  }
  read_ints(a, "stride", count, 1, s->stride);
  read_ints(a, "pad", count, 0, s->pad);
  read_ints(a, "pad_end", count, 0, s->pad_end);
  read_ints(a, "dilation", count, 1, s->dilation);
}

/* The weight [O, I, k...] in the order that a kernel reads. */
static tensor weight_view(const tensor *w, int order_o, int order_i) {
  tensor v = *w;
  for (int r = 0, at = 0; r < w->rank; r++) {
    int to;
    if (r == 0)
      to = order_o < 0 ? w->rank + order_o : order_o;
    else if (r == 1)
      to = order_i < 0 ? w->rank + order_i : order_i;
    else {
      while (at == (order_o < 0 ? w->rank + order_o : order_o) || at == (order_i < 0 ? w->rank + order_i : order_i))
        at++;
      to = at++;
    }
    v.shape[to] = w->shape[r];
    v.strides[to] = w->strides[r];
  }
  return v;
}

/* Weights that do not come packed as `name` are brought into that order first. */
static kiln_status prepare_weight(kernel_prep *p, const char *name, int order_o, int order_i, dense_copy *out) {
  const tensor *w = &p->args.in[1];
  *out = (dense_copy){0};
  if (str_eq(w->packing, name)) return KILN_OK;
  const tensor v = weight_view(w, order_o, order_i);
  if (tensor_is_contiguous(&v)) return KILN_OK;
  return dense_copy_prepare(p, &v, out);
}

/* ---- Implicit matrix product ------------------------------------------------------------------------------------- */

static const char *conv_macros(kernel_prep *p, const conv_shape *s, int64_t channels) {
  if (channels < 1) channels = 1; /* nothing is read then */
  return cuda_text(
      p,
      "#define CONV_C %lld\n#define IMG_H %lld\n#define IMG_W %lld\n#define OUT_H %lld\n#define OUT_W %lld\n"
      "#define KERNEL_H %lld\n#define KERNEL_W %lld\n#define STRIDE_H %lld\n#define STRIDE_W %lld\n"
      "#define PAD_H %lld\n#define PAD_W %lld\n#define DILATION_H %lld\n#define DILATION_W %lld\n",
      (long long)channels, (long long)s->in[1], (long long)s->in[2], (long long)s->out[1], (long long)s->out[2],
      (long long)s->kernel[1], (long long)s->kernel[2], (long long)s->stride[1], (long long)s->stride[2],
      (long long)s->pad[1], (long long)s->pad[2], (long long)s->dilation[1], (long long)s->dilation[2]);
}

/* x as pixels with one pitch, and how wide its channels can be read. */
static kiln_status prepare_image(kernel_prep *p, conv_state *state, int64_t channels, int64_t *pitch, int *vector,
                                 bool *aligned) {
  const tensor *x = &p->args.in[0];
  const int size = (int)kiln_dtype_size(x->dtype);
  int align = cuda_in_alignment(p, 0);
  if (!cuda_matrix(x, pitch)) {
    KILN_TRY(dense_copy_prepare(p, x, &state->x));
    *pitch = x->shape[x->rank - 1];
    align = 16;
  }
  *aligned = align == 16;
  *vector = cuda_vector(16 / size, size, align, 2, (int64_t[]){channels, *pitch});
  return KILN_OK;
}

static bool plain_product(const conv_shape *s) {
  if (s->groups != 1 || s->taps != 1) return false;
  for (int i = 0; i < 3; i++) {
    if (s->stride[i] != 1 || s->pad[i] != 0 || s->in[i] != s->out[i]) return false;
  }
  return true;
}

/* The same for cuDNN; `q` has the operands' pitches. */
static kiln_status plan_graph(kernel_prep *p, const conv_shape *s, const gemm_problem *q, conv_state *state) {
  cudnn_conv c = {.dtype = q->dtype, .pitch_x = q->lda, .has_bias = q->has_bias};
  const int64_t x[] = {s->batch, s->in_channels, s->in[1], s->in[2]};
  const int64_t w[] = {s->out_channels, s->in_channels / s->groups, s->kernel[1], s->kernel[2]};
  const int64_t y[] = {s->batch, s->out_channels, s->out[1], s->out[2]};
  memcpy(c.x, x, sizeof x);
  memcpy(c.w, w, sizeof w);
  memcpy(c.y, y, sizeof y);
  for (int i = 0; i < 2; i++) {
    c.pad[i] = s->pad[1 + i];
    c.pad_end[i] = s->pad_end[1 + i];
    c.stride[i] = s->stride[1 + i];
    c.dilation[i] = s->dilation[1 + i];
  }
  return cudnn_plan_make(p, &c, &state->graph);
}

static kiln_status igemm_prepare(kernel_prep *p) {
  conv_shape s;
  conv_shape_of(&p->args, &s);
  const tensor *w = &p->args.in[1];
  const int size = (int)kiln_dtype_size(w->dtype);
  const int64_t in = s.in_channels / s.groups, out = s.out_channels / s.groups;
  conv_state *state = ARENA_NEW(p->arena, conv_state);
  if (!state) return KILN_NO_MEMORY("convolution");
  p->state = state;
  state->bias = node_in(p->args.node, 2) != NULL;
  gemm_problem q = {.dtype = w->dtype,
                    .m = s.batch * s.out[1] * s.out[2],
                    .n = out,
                    .k = in * s.taps,
                    .batches = s.groups,
                    .ldb = in * s.taps,
                    .a_offset = "0LL",
                    .b_offset = "0LL",
                    .bias_offset = "0LL",
                    .out_row = "row",
                    .out_col = "col",
                    .has_bias = state->bias,
                    .bias_constant = cuda_is_constant(p, 2),
                    .a_elements = tensor_numel(&p->args.in[0])};
  KILN_TRY(prepare_image(p, state, in, &q.lda, &q.vec_a, &q.a_aligned));
  KILN_TRY(prepare_weight(p, PACKING_OHWI, 0, -1, &state->w));
  q.b_constant = w->data != NULL && !state->w.function;
  const int w_align = state->w.function ? 16 : cuda_in_alignment(p, 1);
  q.b_aligned = w_align == 16;
  q.vec_b = cuda_vector(16 / size, size, w_align, 1, &q.k);
  q.vec_c = cuda_bias_vector(p, 2, cuda_result_vector(p, 8, out));
  if (s.groups > 1) {
    q.a_offset = cuda_text(p, "(long long)(z) * %lldLL", (long long)in);
    q.b_offset = cuda_text(p, "(long long)(z) * %lldLL", (long long)(out * q.k));
    q.bias_offset = cuda_text(p, "(long long)(z) * %lldLL", (long long)out);
    q.out_col = cuda_text(p, "(z) * %lldLL + (col)", (long long)out);
    if (!q.a_offset || !q.b_offset || !q.bias_offset || !q.out_col) return KILN_NO_MEMORY("convolution");
  }
  gemm_image image;
  if (!plain_product(&s)) {
    image = (gemm_image){.macros = conv_macros(p, &s, in),
                         .images = s.batch,
                         .height = s.in[1],
                         .width = s.in[2],
                         .channels = in,
                         .taps = s.taps};
    if (!image.macros) return KILN_NO_MEMORY("convolution");
    for (int d = 0; d < 2; d++) {
      image.pad[d] = s.pad[1 + d];
      image.pad_end[d] = s.pad_end[1 + d];
      image.stride[d] = s.stride[1 + d];
      image.reach[d] = s.dilation[1 + d] * (s.kernel[1 + d] - 1);
    }
    q.image = &image;
  }
  int rank = p->kernel->variant;
  if (rank >= CUDNN_VARIANT) {
    KILN_TRY(plan_graph(p, &s, &q, state));
    if (state->graph.library) return KILN_OK;
    rank = 0;
  } else if (rank >= CUBLASLT_VARIANT) {
    if (!q.image) KILN_TRY(cublaslt_plan_make(p, &q, NULL, &state->library));
    if (state->library.library) return KILN_OK;
    rank = 0;
  }
  return gemm_plan_make(p, &q, rank, &state->plan);
}

static const attr *node_ints(const node *n, const char *name) {
  const int i = op_attr_index(n->op, name);
  return i < 0 ? NULL : &n->attrs[i];
}

static bool all_ints(const node *n, const char *name, int64_t expected) {
  const attr *a = node_ints(n, name);
  for (int i = 0; a && i < a->count; i++) {
    if (a->u.ints[i] != expected) return false;
  }
  return true;
}

static kiln_status product_run(const kernel_args *a) {
  conv_state *s = a->state;
  const void *x, *w, *bias = s->bias ? a->in[2].data : NULL;
  if (!s->plan.function && !s->library.library && !s->graph.library) return KILN_OK;
  KILN_TRY(dense_copy_run(a, &s->x, 0, &x));
  KILN_TRY(dense_copy_run(a, &s->w, 1, &w));
  if (s->library.library) return cublaslt_plan_run(a, &s->library, x, w, bias);
  if (s->graph.library) return cudnn_plan_run(a, &s->graph, x, w, bias);
  return gemm_plan_run(a, &s->plan, x, w, bias);
}

static bool fits_layout(const node *n, bool transposed, const char **why) {
  if (!node_bool(n, "channels_last")) {
    *why = "not channels_last";
    return false;
  }
  if (node_bool(n, "transposed") != transposed) {
    *why = transposed ? "not transposed" : "transposed";
    return false;
  }
  if (node_in(n, 0)->type.rank > 4) {
    *why = "three spatial dimensions";
    return false;
  }
  return cuda_fits_float(n, why) && cuda_epilogue_fits(n, why);
}

static bool igemm_fits(const node *n, const char **why) { return fits_layout(n, false, why); }

/* Windows of one pixel. */
static bool library_fits(const node *n, const char **why) {
  if (!fits_layout(n, false, why) || !cublaslt_fits(n, why)) return false;
  const tensor_type *w = &node_in(n, 1)->type;
  *why = "not a window of one pixel in one group";
  if (node_int(n, "groups") != 1) return false;
  for (int i = 2; i < w->rank; i++) {
    if (w->dims[i] != 1) return false;
  }
  *why = "strides or padding";
  if (!all_ints(n, "stride", 1) || !all_ints(n, "pad", 0) || !all_ints(n, "pad_end", 0)) return false;
  *why = NULL;
  return true;
}

static bool graph_fits(const node *n, const char **why) { return fits_layout(n, false, why) && cudnn_fits(n, why); }

/* ---- Few channels: pixels padded to four channels, so that they are read whole ----------------------------------- */

/* The image with four channels, the last ones zero, in workspace. */
static kiln_status pad_image(kernel_prep *p, dense_copy *out) {
  const tensor *x = &p->args.in[0];
  const int64_t channels = x->shape[x->rank - 1], pixels = channels ? tensor_numel(x) / channels : 0;
  const char *type = cuda_type(x->dtype), *kept = NULL;
  size_t bytes;
  *out = (dense_copy){.blocks = cuda_div_up(pixels, 256)};
  if (!size_mul((size_t)pixels, 4 * kiln_dtype_size(x->dtype), &bytes))
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "the image is too large");
  KILN_TRY(workspace_reserve(p, bytes, &out->at));
  text t = {0};
  text_printf(&t,
              "extern \"C\" __global__ void __launch_bounds__(256) pad_channels(const %s *in, %s *out) {\n"
              "  KILN_WAIT;\n  const i64 i = (i64)blockIdx.x * 256 + threadIdx.x;\n  if (i >= %lldLL) return;\n",
              type, type, (long long)pixels);
  cuda_coordinates(&t, "i64", "c", "i", x->rank - 1, x->shape);
  text_puts(&t, "  in += ");
  cuda_offset(&t, "c", x->rank - 1, x->shape, x->strides);
  text_printf(&t,
              ";\n  float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};\n  for (int c = 0; c < %lld; c++) v[c] = to_float(in[c * "
              "%lldLL]);\n",
              (long long)channels, (long long)x->strides[x->rank - 1]);
  text_printf(&t, "  store_floats<%s, 4>(out + i * 4, v);\n}\n", type);
  KILN_TRY(cuda_text_keep(p, &t, &kept));
  return cuda_compile(p, &(cuda_source){.entry = "pad_channels", .text = kept}, &out->function);
}

static kiln_status padded_prepare(kernel_prep *p) {
  conv_shape s;
  conv_shape_of(&p->args, &s);
  const tensor *w = &p->args.in[1];
  const int size = (int)kiln_dtype_size(w->dtype);
  conv_state *state = ARENA_NEW(p->arena, conv_state);
  if (!state) return KILN_NO_MEMORY("convolution");
  p->state = state;
  state->bias = node_in(p->args.node, 2) != NULL;
  if (!str_eq(w->packing, PACKING_OHW4)) return KILN_FAIL(KILN_INTERNAL, "conv.padded: the weight is not packed");
  if (tensor_numel(&p->args.out[0]) == 0) return KILN_OK;
  KILN_TRY(pad_image(p, &state->x));
  gemm_image image = {.macros = conv_macros(p, &s, 4),
                      .images = s.batch,
                      .height = s.in[1],
                      .width = s.in[2],
                      .channels = 4,
                      .taps = s.taps};
  if (!image.macros) return KILN_NO_MEMORY("convolution");
  const gemm_problem q = {.dtype = w->dtype,
                          .m = s.batch * s.out[1] * s.out[2],
                          .n = s.out_channels,
                          .k = 4 * s.taps,
                          .batches = 1,
                          .lda = 4,
                          .ldb = 4 * s.taps,
                          .a_offset = "0LL",
                          .b_offset = "0LL",
                          .bias_offset = "0LL",
                          .out_row = "row",
                          .out_col = "col",
                          .has_bias = state->bias,
                          .bias_constant = cuda_is_constant(p, 2),
                          .b_constant = w->data != NULL,
                          .vec_a = 4,
                          .vec_b = cuda_vector(16 / size, size, cuda_in_alignment(p, 1), 1, (int64_t[]){4 * s.taps}),
                          .vec_c = cuda_bias_vector(p, 2, cuda_result_vector(p, 8, s.out_channels)),
                          .image = &image,
                          .a_elements = s.batch * s.in[1] * s.in[2] * 4};
  return gemm_plan_make(p, &q, p->kernel->variant, &state->plan);
}

static bool padded_fits(const node *n, const char **why) {
  if (!fits_layout(n, false, why)) return false;
  const value *w = node_in(n, 1);
  if (node_int(n, "groups") != 1 || w->type.dims[1] > 3 || w->type.dims[1] < 1) {
    *why = "not one to three channels";
    return false;
  }
  if (!w->constant) {
    *why = "the weight is not constant";
    return false;
  }
  return true;
}

/* ---- The same with the image read in place, for few outputs ------------------------------------------------------ */

enum { STEM_ROWS = 8, STEM_COLUMNS = 16, STEM_THREADS = 128 }; /* TH, TW, THREADS of conv_stem.cu */

static size_t stem_shared(int64_t outputs, int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w) {
  const int64_t quads = cuda_div_up(kernel_w, 4);
  const int64_t patch = ((STEM_ROWS - 1) * stride_h + kernel_h) * ((STEM_COLUMNS - 1) * stride_w + quads * 4);
  return (size_t)(kernel_h * quads * outputs * 4 + patch) * 8;
}

static kiln_status stem_compile(kernel_prep *p, const conv_shape *s, conv_state *state) {
  const cuda_facts *gpu = cuda_device_facts(p->device);
  const tensor *x = &p->args.in[0], *y = &p->args.out[0];
  const char *epilogue = NULL, *front = NULL, *macros = conv_macros(p, s, s->in_channels);
  if (!macros) return KILN_NO_MEMORY("convolution");
  KILN_TRY(cuda_epilogue_text(p, &epilogue));
  const int h = x->rank - 3, v = x->rank - 2;
  state->shared = stem_shared(s->out_channels, s->kernel[1], s->kernel[2], s->stride[1], s->stride[2]);
  /* Blocks of a multiprocessor, by the registers that sums and pixels on their way take. */
  const size_t weights = (size_t)(s->kernel[1] * cuda_div_up(s->kernel[2], 4) * s->out_channels) * 32;
  const size_t pixels = (state->shared - weights) / 8 / STEM_THREADS;
  const int resident = s->out_channels == 32 || (s->out_channels == 64 && pixels < 4) ? 4 : 3;
  text t = {0};
  text_printf(&t, "#define BIAS_CONST %d\n", cuda_is_constant(p, 2));
  text_printf(&t, "#define PDL 1\n#define IN_TYPE %s\n#define OUT_TYPE %s\n#define BIAS_TYPE %s\n#define HAS_BIAS %d\n",
              cuda_mx_type(x->dtype), cuda_mx_type(y->dtype), cuda_mx_type(x->dtype), state->bias);
  text_printf(&t, "#define MIN_CTAS %d\n", resident);
  text_printf(&t,
              "#define B_CONST 1\n#define IN_C %lld\n#define OUT_C %lld\n#define X_N %lldLL\n#define X_C %lldLL\n"
              "#define X_H %lldLL\n#define X_W %lldLL\n",
              (long long)s->in_channels, (long long)s->out_channels, (long long)x->strides[0],
              (long long)x->strides[x->rank - 1], (long long)(h > 0 ? x->strides[h] : 0), (long long)x->strides[v]);
  text_puts(&t,
            "#define EPILOGUE_PARAMS , const kiln_epi epi\n#define EPILOGUE(v, z, row, col) kiln_epilogue(v, epi, row, "
            "col);\n#define C_AT(z, row, col) (kiln_out_row(row) + (long long)(col) * KILN_OUT_STEP)\n");
  text_puts(&t, macros);
  text_puts(&t, epilogue);
  text_puts(&t, cuda_text_matrix_common);
  KILN_TRY(cuda_text_keep(p, &t, &front));
  state->threads = STEM_THREADS;
  state->total = s->batch * cuda_div_up(s->out[1], STEM_ROWS) * cuda_div_up(s->out[2], STEM_COLUMNS);
  const int64_t room = (int64_t)(gpu->shared_sm / (state->shared + 1024));
  state->blocks = (gpu->sm_count > 0 ? gpu->sm_count : 132) * (room < 1 ? 1 : room > resident ? resident : room);
  if (state->blocks > state->total) state->blocks = state->total;
  const cuda_source source = {
      .entry = "kiln_conv_stem", .defines = front, .text = cuda_text_conv_stem, .shared = state->shared};
  return cuda_compile(p, &source, &state->function);
}

static kiln_status stem_prepare(kernel_prep *p) {
  conv_shape s;
  conv_shape_of(&p->args, &s);
  const int64_t tiles = s.batch * cuda_div_up(s.out[1], STEM_ROWS) * cuda_div_up(s.out[2], STEM_COLUMNS);
  const bool wide = cuda_bias_vector(p, 2, cuda_result_vector(p, 8, s.out_channels)) == 8;
  if (!wide || cuda_in_alignment(p, 1) < 8 || tiles > INT32_MAX / 2 || tensor_numel(&p->args.out[0]) == 0 ||
      s.in[1] > INT32_MAX / 8 || s.in[2] > INT32_MAX / 8)
    return padded_prepare(p);
  conv_state *state = ARENA_NEW(p->arena, conv_state);
  if (!state) return KILN_NO_MEMORY("convolution");
  p->state = state;
  state->bias = node_in(p->args.node, 2) != NULL;
  if (!str_eq(p->args.in[1].packing, PACKING_OHW4))
    return KILN_FAIL(KILN_INTERNAL, "conv.stem: the weight is not packed");
  return stem_compile(p, &s, state);
}

static kiln_status stem_run(const kernel_args *a) {
  const conv_state *s = a->state;
  if (!s->function) return product_run(a);
  const void *bias = s->bias ? a->in[2].data : NULL;
  int tiles = (int)s->total;
  cuda_epilogue_args epilogue;
  cuda_epilogue_fill(a, &epilogue);
  const cuda_launch_config launch = {
      .function = s->function,
      .grid = {(unsigned)s->blocks, 1, 1},
      .block = {(unsigned)s->threads, 1, 1},
      .shared = s->shared,
      .overlap = cuda_device_facts(a->device)->arch >= 90,
      .params = CUDA_PARAMS(&a->in[0].data, &a->in[1].data, &a->out[0].data, &bias, &tiles, &epilogue),
  };
  return cuda_launch(a, &launch);
}

static bool stem_fits(const node *n, const char **why) {
  if (!padded_fits(n, why)) return false;
  const tensor_type *w = &node_in(n, 1)->type;
  const attr *stride = node_ints(n, "stride");
  const int last = w->rank - 1;
  *why = "not 32, 64 or 96 outputs in 16 bits";
  if (w->dims[0] % 32 != 0 || w->dims[0] > 96 || w->dims[0] < 32) return false;
  if (w->dtype == KILN_F32 || n->outputs[0]->type.dtype == KILN_F32) return false;
  *why = "the window or its steps";
  if (!all_ints(n, "dilation", 1) || !stride || w->rank < 3 || w->rank > 4) return false;
  int64_t size[2] = {1, 1}, step[2] = {1, 1};
  for (int d = 0; d < w->rank - 2; d++) {
    size[1 - d] = w->dims[last - d];
    step[1 - d] = stride->u.ints[stride->count - 1 - d];
    if (size[1 - d] < 1 || size[1 - d] > 11 || step[1 - d] < 1 || step[1 - d] > 4) return false;
  }
  if (stem_shared(w->dims[0], size[0], size[1], step[0], step[1]) > 96 * 1024) return false;
  *why = NULL;
  return true;
}

/* ---- Transposed without overlap: one product whose columns are all places of the window; results are scattered --- */

static kiln_status scatter_prepare(kernel_prep *p) {
  conv_shape s;
  conv_shape_of(&p->args, &s);
  const tensor *w = &p->args.in[1];
  const int size = (int)kiln_dtype_size(w->dtype);
  conv_state *state = ARENA_NEW(p->arena, conv_state);
  if (!state) return KILN_NO_MEMORY("convolution");
  p->state = state;
  state->bias = node_in(p->args.node, 2) != NULL;
  gemm_problem q = {.dtype = w->dtype,
                    .m = s.batch * s.in[1] * s.in[2],
                    .n = s.out_channels * s.taps,
                    .k = s.in_channels,
                    .batches = 1,
                    .ldb = s.in_channels,
                    .a_offset = "0LL",
                    .b_offset = "0LL",
                    .bias_offset = "0LL",
                    .bias_period = s.out_channels,
                    .has_bias = state->bias,
                    .bias_constant = cuda_is_constant(p, 2),
                    .a_elements = tensor_numel(&p->args.in[0])};
  KILN_TRY(prepare_image(p, state, s.in_channels, &q.lda, &q.vec_a, &q.a_aligned));
  KILN_TRY(prepare_weight(p, PACKING_HWOI, -1, -2, &state->w));
  q.b_constant = w->data != NULL && !state->w.function;
  q.out_col = cuda_text(p, "(col) %% %lld", (long long)s.out_channels);
  q.out_row = cuda_text(
      p,
      "((long long)(row) / %lldLL * %lldLL + (long long)(row) / %lldLL %% %lldLL * %lldLL + (col) / %lldLL) * %lldLL + "
      "(long long)(row) %% %lldLL * %lldLL + (col) / %lldLL %% %lldLL",
      (long long)(s.in[1] * s.in[2]), (long long)s.out[1], (long long)s.in[2], (long long)s.in[1],
      (long long)s.stride[1], (long long)(s.out_channels * s.kernel[2]), (long long)s.out[2], (long long)s.in[2],
      (long long)s.stride[2], (long long)s.out_channels, (long long)s.kernel[2]);
  if (!q.out_col || !q.out_row) return KILN_NO_MEMORY("convolution");
  const int w_align = state->w.function ? 16 : cuda_in_alignment(p, 1);
  q.b_aligned = w_align == 16;
  q.vec_b = cuda_vector(16 / size, size, w_align, 1, &q.k);
  q.vec_c = cuda_bias_vector(p, 2, cuda_result_vector(p, 8, s.out_channels));
  return gemm_plan_make(p, &q, p->kernel->variant, &state->plan);
}

static bool scatter_fits(const node *n, const char **why) {
  if (!fits_layout(n, true, why)) return false;
  const tensor_type *w = &node_in(n, 1)->type;
  const attr *stride = node_ints(n, "stride");
  *why = "windows overlap, or groups, padding or dilation";
  if (node_int(n, "groups") != 1 || !all_ints(n, "pad", 0) || !all_ints(n, "pad_end", 0) ||
      !all_ints(n, "output_pad", 0) || !all_ints(n, "dilation", 1))
    return false;
  for (int i = 0; i < w->rank - 2; i++) {
    const int64_t step = stride && i < stride->count ? stride->u.ints[i] : 1;
    if (!dim_is_const(w->dims[2 + i]) || w->dims[2 + i] != step) return false;
  }
  *why = NULL;
  return true;
}

/* ---- Depthwise --------------------------------------------------------------------------------------------------- */

typedef struct depthwise_way {
  int vec, px, py, threads;
} depthwise_way;

/* Many outputs to a thread save reads; few of them give more threads. Orders are from timings on an H100. */
static depthwise_way choose_depthwise(const cuda_facts *gpu, const conv_shape *s, int vec, int rank) {
  static const depthwise_way ways[] = {{8, 1, 1, 128}, {4, 2, 2, 128}, {8, 2, 1, 128},
                                       {4, 4, 1, 128}, {4, 8, 1, 128}, {2, 7, 2, 128}};
  static const char orders[6][7] = {"012435", "123450", "105243", "543120", "021435", "453120"};
  const int64_t sms = gpu->sm_count > 0 ? gpu->sm_count : 132;
  const int64_t vectors = s->batch * s->out[1] * s->out[2] * s->out_channels / 8; /* of 8 results */
  const int kind = s->taps <= 9 ? 0 : s->taps <= 25 ? 2 : 4, many = vectors > sms * 512;
  const char *order = orders[kind + many];
  if (kind == 4 && many && s->out[2] >= 28) order = orders[3];
  depthwise_way w = ways[order[rank % 6] - '0'];
  if (w.vec > vec) w.vec = vec;
  return w;
}

static kiln_status depthwise_prepare(kernel_prep *p) {
  conv_shape s;
  conv_shape_of(&p->args, &s);
  const tensor *x = &p->args.in[0];
  conv_state *state = ARENA_NEW(p->arena, conv_state);
  if (!state) return KILN_NO_MEMORY("convolution");
  p->state = state;
  state->bias = node_in(p->args.node, 2) != NULL;
  state->total = s.batch;
  if (tensor_numel(&p->args.out[0]) == 0) return KILN_OK;
  int64_t pitch;
  int vec;
  bool aligned;
  KILN_TRY(prepare_image(p, state, s.in_channels, &pitch, &vec, &aligned));
  KILN_TRY(prepare_weight(p, PACKING_HWO, -1, -2, &state->w));
  const int size = (int)kiln_dtype_size(x->dtype), w_align = state->w.function ? 16 : cuda_in_alignment(p, 1);
  while (vec > 1 && vec * size > w_align) vec /= 2;
  const int wide = cuda_bias_vector(p, 2, cuda_result_vector(p, 8, s.out_channels));
  const depthwise_way way =
      choose_depthwise(cuda_device_facts(p->device), &s, vec < wide ? vec : wide, p->kernel->variant);
  const char *epilogue = NULL, *front = NULL;
  KILN_TRY(cuda_epilogue_text(p, &epilogue));
  const char *macros = conv_macros(p, &s, s.in_channels);
  if (!macros) return KILN_NO_MEMORY("convolution");
  text t = {0};
  text_printf(&t, "#define BIAS_CONST %d\n", cuda_is_constant(p, 2));
  text_printf(&t, "#define PDL 1\n#define IN_TYPE %s\n#define OUT_TYPE %s\n#define BIAS_TYPE %s\n#define HAS_BIAS %d\n",
              cuda_mx_type(x->dtype), cuda_mx_type(p->args.out[0].dtype), cuda_mx_type(x->dtype), state->bias);
  text_printf(&t,
              "#define CHANNELS %lld\n#define X_PIXEL %lldLL\n#define X_IMAGE %lldLL\n#define VEC %d\n#define PX "
              "%d\n#define PY %d\n#define THREADS %d\n",
              (long long)s.in_channels, (long long)pitch, (long long)(pitch * s.in[1] * s.in[2]), way.vec, way.px,
              way.py, way.threads);
  state->threads = way.threads;
  state->blocks = cuda_div_up(
      s.batch * cuda_div_up(s.out[1], way.py) * cuda_div_up(s.out[2], way.px) * (s.in_channels / way.vec), way.threads);
  text_printf(&t, "#define B_CONST %d\n#define INDEX %s\n", p->args.in[1].data != NULL && !state->w.function,
              state->blocks < INT32_MAX / way.threads ? "int" : "long long");
  text_puts(
      &t,
      "#define EPILOGUE_PARAMS , const kiln_epi epi\n#define EPILOGUE(v, row, col) kiln_epilogue(v, epi, row, col);\n"
      "#define Y_AT(row, col) (kiln_out_row(row) + (long long)(col) * KILN_OUT_STEP)\n");
  text_puts(&t, macros);
  text_puts(&t, epilogue);
  text_puts(&t, cuda_text_matrix_common);
  KILN_TRY(cuda_text_keep(p, &t, &front));
  return cuda_compile(p, &(cuda_source){.entry = "kiln_depthwise", .defines = front, .text = cuda_text_depthwise},
                      &state->function);
}

static kiln_status depthwise_run(const kernel_args *a) {
  const conv_state *s = a->state;
  const void *x, *w, *bias = s->bias ? a->in[2].data : NULL;
  void *y = a->out[0].data;
  int batch = (int)s->total;
  if (!s->function) return KILN_OK;
  KILN_TRY(dense_copy_run(a, &s->x, 0, &x));
  KILN_TRY(dense_copy_run(a, &s->w, 1, &w));
  cuda_epilogue_args epilogue;
  cuda_epilogue_fill(a, &epilogue);
  return cuda_launch_1d(a, s->function, s->blocks, s->threads, 0, CUDA_PARAMS(&x, &w, &y, &bias, &batch, &epilogue));
}

static bool depthwise_fits(const node *n, const char **why) {
  if (!fits_layout(n, false, why)) return false;
  const tensor_type *w = &node_in(n, 1)->type;
  if (w->dims[0] != node_int(n, "groups") || w->dims[1] != 1) {
    *why = "not depthwise";
    return false;
  }
  int64_t taps = 1;
  for (int i = 2; i < w->rank; i++) taps *= w->dims[i];
  if (taps > 121) { /* the loops are unrolled */
    *why = "the window is too large";
    return false;
  }
  return true;
}

/* ---- Everything else --------------------------------------------------------------------------------------------- */

static void put_strides(text *t, const conv_shape *s, const tensor *x, const tensor *w, bool transposed) {
  static const char *const axes[] = {"D", "H", "W"};
  const int count = x->rank - 2, first = s->channels_last ? 1 : 2, channel = s->channels_last ? x->rank - 1 : 1;
  for (int i = 0; i < 3; i++) {
    const int at = i - (3 - count);
    text_printf(t,
                "#define IN_%s %lld\n#define OUT_%s %lld\n#define KERNEL_%s %lld\n#define STRIDE_%s %lld\n#define "
                "PAD_%s %lld\n",
                axes[i], (long long)s->in[i], axes[i], (long long)s->out[i], axes[i], (long long)s->kernel[i], axes[i],
                (long long)s->stride[i], axes[i], (long long)s->pad[i]);
    text_printf(t, "#define DILATION_%s %lld\n#define X_%s %lldLL\n#define W_%s %lldLL\n", axes[i],
                (long long)s->dilation[i], axes[i], (long long)(at >= 0 ? x->strides[first + at] : 0), axes[i],
                (long long)(at >= 0 ? w->strides[2 + at] : 0));
  }
  const int64_t in = s->in_channels / s->groups, out = s->out_channels / s->groups;
  text_printf(
      t, "#define X_N %lldLL\n#define X_C %lldLL\n#define OUT_C %lld\n#define GROUP_IN %lld\n#define GROUP_OUT %lld\n",
      (long long)x->strides[0], (long long)x->strides[channel], (long long)s->out_channels, (long long)in,
      (long long)out);
  text_printf(t, "#define TRANSPOSED %d\n#define W_O %lldLL\n#define W_I %lldLL\n#define W_G %lldLL\n", transposed,
              (long long)w->strides[transposed ? 1 : 0], (long long)w->strides[transposed ? 0 : 1],
              (long long)(w->strides[0] * (transposed ? in : out)));
}

static kiln_status direct_prepare(kernel_prep *p) {
  conv_shape s;
  conv_shape_of(&p->args, &s);
  const tensor *x = &p->args.in[0], *w = &p->args.in[1], *y = &p->args.out[0];
  conv_state *state = ARENA_NEW(p->arena, conv_state);
  if (!state) return KILN_NO_MEMORY("convolution");
  p->state = state;
  state->bias = node_in(p->args.node, 2) != NULL;
  state->total = tensor_numel(y);
  if (state->total == 0) return KILN_OK;
  const char *epilogue = NULL, *front = NULL;
  KILN_TRY(cuda_epilogue_text(p, &epilogue));
  text t = {0};
  text_printf(&t, "#define BIAS_CONST %d\n", cuda_is_constant(p, 2));
  text_printf(&t, "#define PDL 1\n#define IN_TYPE %s\n#define OUT_TYPE %s\n#define BIAS_TYPE %s\n#define HAS_BIAS %d\n",
              cuda_mx_type(x->dtype), cuda_mx_type(y->dtype), cuda_mx_type(x->dtype), state->bias);
  put_strides(&t, &s, x, w, arg_bool(&p->args, "transposed"));
  if (s.channels_last)
    text_puts(&t,
              "#define OUT_ROW(n, c, d, h, w) ((((long long)(n) * OUT_D + (d)) * OUT_H + (h)) * OUT_W + (w))\n"
              "#define OUT_COL(c, w) (c)\n");
  else if (x->rank == 3)
    text_puts(&t, "#define OUT_ROW(n, c, d, h, w) ((long long)(n) * OUT_C + (c))\n#define OUT_COL(c, w) (w)\n");
  else
    text_puts(&t,
              "#define OUT_ROW(n, c, d, h, w) ((((long long)(n) * OUT_C + (c)) * OUT_D + (d)) * OUT_H + (h))\n"
              "#define OUT_COL(c, w) (w)\n");
  text_puts(&t,
            "#define EPILOGUE_PARAMS , const kiln_epi epi\n"
            "#define EPILOGUE(v, n, c, d, h, w) kiln_epilogue(v, epi, OUT_ROW(n, c, d, h, w), OUT_COL(c, w));\n"
            "#define Y_AT(n, c, d, h, w) (kiln_out_row(OUT_ROW(n, c, d, h, w)) + (long long)OUT_COL(c, w) * "
            "KILN_OUT_STEP)\n");
  text_puts(&t, epilogue);
  text_puts(&t, cuda_text_matrix_common);
  KILN_TRY(cuda_text_keep(p, &t, &front));
  state->threads = 256;
  state->blocks = cuda_div_up(state->total, 256);
  return cuda_compile(p, &(cuda_source){.entry = "kiln_conv_direct", .defines = front, .text = cuda_text_conv_direct},
                      &state->function);
}

static kiln_status direct_run(const kernel_args *a) {
  const conv_state *s = a->state;
  const void *bias = s->bias ? a->in[2].data : NULL;
  long long total = s->total;
  if (!s->function) return KILN_OK;
  cuda_epilogue_args epilogue;
  cuda_epilogue_fill(a, &epilogue);
  return cuda_launch_1d(a, s->function, s->blocks, s->threads, 0,
                        CUDA_PARAMS(&a->in[0].data, &a->in[1].data, &a->out[0].data, &bias, &total, &epilogue));
}

static bool direct_fits(const node *n, const char **why) {
  const value *bias = node_in(n, 2);
  if (n->outputs[0]->type.dtype == KILN_F64 && node_in(n, 0)->type.dtype == KILN_F64 &&
      node_in(n, 1)->type.dtype == KILN_F64 && (!bias || bias->type.dtype == KILN_F64)) {
    *why = "epilogues in f64";
    return !n->epilogue;
  }
  return cuda_fits_float(n, why) && cuda_epilogue_fits(n, why);
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

#define DEPTHWISE(suffix, rank)     \
  {.op = "conv",                    \
   .name = "conv.depthwise" suffix, \
   .isa = 80,                       \
   .fits = depthwise_fits,          \
   .prepare = depthwise_prepare,    \
   .run = depthwise_run,            \
   .strided_in = 1,                 \
   .strided_out = 1,                \
   .epilogue = true,                \
   .pack_operand = 1,               \
   .packing = PACKING_HWO,          \
   .variant = rank},
#define PADDED(suffix, rank)     \
  {.op = "conv",                 \
   .name = "conv.padded" suffix, \
   .isa = 80,                    \
   .fits = padded_fits,          \
   .prepare = padded_prepare,    \
   .run = product_run,           \
   .strided_in = 1,              \
   .strided_out = 1,             \
   .epilogue = true,             \
   .pack_operand = 1,            \
   .packing = PACKING_OHW4,      \
   .variant = rank},
#define IGEMM(suffix, rank)     \
  {.op = "conv",                \
   .name = "conv.igemm" suffix, \
   .isa = 80,                   \
   .fits = igemm_fits,          \
   .prepare = igemm_prepare,    \
   .run = product_run,          \
   .strided_in = 1,             \
   .strided_out = 1,            \
   .epilogue = true,            \
   .pack_operand = 1,           \
   .packing = PACKING_OHWI,     \
   .variant = rank},
#define LIBRARY(library, suffix, fits_, rank) \
  {.op = "conv",                              \
   .name = "conv." #library suffix,           \
   .isa = 80,                                 \
   .fits = fits_,                             \
   .prepare = igemm_prepare,                  \
   .run = product_run,                        \
   .strided_in = 1,                           \
   .strided_out = 1,                          \
   .epilogue = true,                          \
   .pack_operand = 1,                         \
   .packing = PACKING_OHWI,                   \
   .needs = library##_needs,                  \
   .instead = "conv.igemm",                   \
   .variant = rank},
#define CUBLASLT(suffix, rank) LIBRARY(cublaslt, suffix, library_fits, CUBLASLT_VARIANT + (rank))
#define CUDNN(suffix, rank) LIBRARY(cudnn, suffix, graph_fits, CUDNN_VARIANT + (rank))
/* clang-format off */
const kernel cuda_conv_rows[] = {
    DEPTHWISE("", 0) DEPTHWISE(".2nd", 1) DEPTHWISE(".3rd", 2) DEPTHWISE(".4th", 3) DEPTHWISE(".5th", 4) DEPTHWISE(".6th", 5)
    {.op = "conv", .name = "conv.stem", .isa = 80, .fits = stem_fits, .prepare = stem_prepare, .run = stem_run, .strided_in = 1,
     .strided_out = 1, .epilogue = true, .pack_operand = 1, .packing = PACKING_OHW4},
    PADDED("", 0) PADDED(".2nd", 1) PADDED(".3rd", 2) PADDED(".4th", 3)
    IGEMM("", 0) IGEMM(".2nd", 1) IGEMM(".3rd", 2) IGEMM(".4th", 3) IGEMM(".5th", 4) IGEMM(".6th", 5) IGEMM(".7th", 6)
    IGEMM(".8th", 7) IGEMM(".9th", 8) IGEMM(".10th", 9)
    {.op = "conv", .name = "conv.scatter", .isa = 80, .fits = scatter_fits, .prepare = scatter_prepare, .run = product_run,
     .strided_in = 1, .strided_out = 1, .epilogue = true, .pack_operand = 1, .packing = PACKING_HWOI},
    {.op = "conv", .name = "conv.direct", .isa = 80, .fits = direct_fits, .prepare = direct_prepare, .run = direct_run,
     .strided_in = 1, .strided_out = 1, .epilogue = true},
    CUBLASLT("", 0) CUBLASLT(".2nd", 1) CUBLASLT(".3rd", 2) CUBLASLT(".4th", 3)
    CUBLASLT(".5th", 4) CUBLASLT(".6th", 5) CUBLASLT(".7th", 6) CUBLASLT(".8th", 7)
    CUDNN("", 0) CUDNN(".2nd", 1) CUDNN(".3rd", 2)
    {.op = NULL},
};
