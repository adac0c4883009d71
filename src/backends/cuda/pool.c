/* Pooling, resize and grid_sample: a thread makes one result, or V neighbouring channels of one place where channels are contiguous. */
#include <stdio.h>
#include <string.h>

#include "backends/cuda/internal.h"
#include "backends/cuda/mapped.h"
#include "ops/spatial.h"

static bool channels_last_of(const kernel_prep *p) {
  return op_attr_index(p->args.node->op, "channels_last") >= 0 && arg_bool(&p->args, "channels_last");
}

/* Channels that one thread makes. */
static int channel_width(const kernel_prep *p, const spatial *x, const spatial *y) {
  const kiln_dtype d = p->args.in[0].dtype;
  const int size = (int)kiln_dtype_size(d);
  if (x->channel_stride != 1 || y->channel_stride != 1 || !cuda_is_float(d) || p->args.n_out > 1) return 1;
  int v = 16 / size;
  while (v > 1 && (v * size > cuda_in_alignment(p, 0) || v * size > cuda_out_alignment(p, 0) || x->channels % v))
    v /= 2;
  while (v > 1 && (x->batch_stride % v || y->batch_stride % v)) v /= 2;
  for (int i = 0; i < SPATIAL_MAX; i++) {
    while (v > 1 && (x->stride[i] % v || y->stride[i] % v)) v /= 2;
  }
  while (v > 1 && x->channels / v * y->size[0] * y->size[1] * y->size[2] * y->batch < 132 * 128) v /= 2;
  return v;
}

/* Starts a kernel over results: coordinates n, c (the first of V channels), o0 o1 o2; `base` is the offset of (n, c) in the operand and `to`
 * that of the result. Channels run fastest where they are contiguous. */
static int64_t put_places(text *t, const kernel_prep *p, const char *entry, const spatial *x, const spatial *y, int v) {
  const int64_t items = y->batch * y->channels / v * y->size[0] * y->size[1] * y->size[2];
  const char *type = items + MAPPED_THREADS < INT32_MAX ? "u32" : "i64";
  const bool last = y->channel_stride == 1;
  text_printf(t,
              "#define V %d\ntypedef %s VT;\ntypedef %s IN;\nextern \"C\" __global__ void __launch_bounds__(%d) "
              "%s(const IN *in",
              v, cuda_value_type(p->args.in[0].dtype), cuda_type(p->args.in[0].dtype), MAPPED_THREADS, entry);
  if (p->args.n_in > 1) text_printf(t, ", const %s *in1", cuda_type(p->args.in[1].dtype));
  for (int k = 0; k < p->args.n_out; k++) text_printf(t, ", %s *out%d", cuda_type(p->args.out[k].dtype), k);
  text_printf(t, ") {\n  KILN_WAIT;\n  const %s i = (%s)blockIdx.x * %d + threadIdx.x;\n  if (i >= %lldLL) return;\n",
              type, type, MAPPED_THREADS, (long long)items);
  const int64_t with_last[5] = {y->batch, y->size[0], y->size[1], y->size[2], y->channels / v};
  const int64_t with_first[5] = {y->batch, y->channels / v, y->size[0], y->size[1], y->size[2]};
  cuda_coordinates(t, type, "g", "i", 5, last ? with_last : with_first);
  text_printf(t, "  const i64 n = g0, c = (i64)g%d * V, o0 = g%d, o1 = g%d, o2 = g%d;\n", last ? 4 : 1, last ? 1 : 2,
              last ? 2 : 3, last ? 3 : 4);
  text_printf(t, "  const i64 base = n * %lldLL + c * %lldLL; (void)o0; (void)o1; (void)o2;\n",
              (long long)x->batch_stride, (long long)x->channel_stride);
  text_printf(t, "  const i64 to = n * %lldLL + c * %lldLL + o0 * %lldLL + o1 * %lldLL + o2 * %lldLL;\n",
              (long long)y->batch_stride, (long long)y->channel_stride, (long long)y->stride[0],
              (long long)y->stride[1], (long long)y->stride[2]);
  return items;
}

static kiln_status finish_places(kernel_prep *p, text *t, const char *entry, int64_t items) {
  text_puts(t, "}\n");
  return cuda_simple_prepare(p, entry, t, cuda_div_up(items, MAPPED_THREADS), MAPPED_THREADS, 0);
}

/* For each dimension: first<d>, count<d> and step<d> of the window. */
static void put_window(text *t, const kernel_prep *p, const spatial *x, const spatial *y, bool adaptive, bool dilated) {
  int64_t kernel_size[SPATIAL_MAX], stride[SPATIAL_MAX], pad[SPATIAL_MAX], dilation[SPATIAL_MAX] = {1, 1, 1};
  if (!adaptive) {
    spatial_attr(&p->args, "kernel", 1, kernel_size);
    spatial_attr(&p->args, "stride", 1, stride);
    spatial_attr(&p->args, "pad", 0, pad);
    if (dilated) spatial_attr(&p->args, "dilation", 1, dilation);
  }
  for (int d = 0; d < SPATIAL_MAX; d++) {
    const long long size = (long long)x->size[d], step = (long long)dilation[d];
    if (adaptive) {
      text_printf(t,
                  "  const int first%d = (int)(o%d * %lldLL / %lldLL), count%d = (int)(((o%d + 1) * %lldLL + %lldLL) / "
                  "%lldLL) - first%d;\n",
                  d, d, size, (long long)y->size[d], d, d, size, (long long)y->size[d] - 1, (long long)y->size[d], d);
      continue;
    }
    text_printf(t,
                "  int first%d = (int)(o%d * %lldLL - %lldLL), end%d = first%d + %lld;\n"
                "  if (first%d < 0) first%d += (-first%d + %lld) / %lld * %lld;\n  if (end%d > %lld) end%d = %lld;\n"
                "  const int count%d = end%d > first%d ? (end%d - first%d + %lld) / %lld : 0;\n",
                d, d, (long long)stride[d], (long long)pad[d], d, d, (long long)(kernel_size[d] - 1) * step + 1, d, d,
                d, step - 1, step, step, d, size, d, size, d, d, d, d, d, step - 1, step);
  }
  for (int d = 0; d < SPATIAL_MAX; d++) text_printf(t, "  const int step%d = %lld;\n", d, (long long)dilation[d]);
}

/* Loops over the window; x[V] are the elements at (p0, p1, p2). */
static void put_window_loop(text *t, const kernel_prep *p, const spatial *x, const char *body) {
  text_puts(t,
            "  for (int k0 = 0; k0 < count0; k0++) for (int k1 = 0; k1 < count1; k1++) for (int k2 = 0; k2 < count2; "
            "k2++) {\n"
            "    const i64 p0 = first0 + k0 * step0, p1 = first1 + k1 * step1, p2 = first2 + k2 * step2;\n");
  text_printf(t, "    const IN *at = in + base + p0 * %lldLL + p1 * %lldLL + p2 * %lldLL;\n    VT x[V];\n",
              (long long)x->stride[0], (long long)x->stride[1], (long long)x->stride[2]);
  text_puts(t, cuda_is_float(p->args.in[0].dtype) ? "    load_floats<IN, V>(x, at);\n" : "    x[0] = (VT)*at;\n");
  text_printf(t, "#pragma unroll\n    for (int k = 0; k < V; k++) { %s }\n  }\n", body);
}

static void put_result(text *t, const kernel_prep *p, const char *name) {
  if (cuda_is_float(p->args.out[0].dtype))
    text_printf(t, "  store_floats<IN, V>(out0 + to, %s);\n", name);
  else
    text_printf(t, "  out0[to] = (IN)%s[0];\n", name);
}

/* ---- pools ------------------------------------------------------------------------------------------------------------------ */

static kiln_status prepare_max(kernel_prep *p) {
  const bool adaptive = strcmp(p->args.node->op->name, "adaptive_max_pool_index") == 0, last = channels_last_of(p);
  const spatial x = spatial_of(&p->args.in[0], last), y = spatial_of(&p->args.out[0], last);
  const bool integer = !dtype_is_float(p->args.in[0].dtype);
  const int v = channel_width(p, &x, &y);
  text t = {0};
  const int64_t items = put_places(&t, p, "max_pool", &x, &y, v);
  put_window(&t, p, &x, &y, adaptive, true);
  text_printf(
      &t,
      "  VT best[V]; i64 place = 0; bool any = false;\n#pragma unroll\n  for (int k = 0; k < V; k++) best[k] = %s;\n",
      integer ? "0" : "-(VT)KILN_INF");
  char body[300];
  snprintf(body, sizeof body,
           "const bool take = !any || x[k] > best[k] || x[k] != x[k]; if (take) { best[k] = x[k]; place = (p0 * %lldLL "
           "+ p1) * %lldLL + p2; }"
           " any = any || V == 1;",
           (long long)x.size[1], (long long)x.size[2]);
  /* Several channels at once: -inf is where they start, so the first element needs no mark. */
  put_window_loop(&t, p, &x, v == 1 ? body : "best[k] = k_max(x[k], best[k]);");
  put_result(&t, p, "best");
  if (p->args.n_out > 1) {
    const spatial z = spatial_of(&p->args.out[1], last);
    text_printf(&t, "  out1[n * %lldLL + c * %lldLL + o0 * %lldLL + o1 * %lldLL + o2 * %lldLL] = place;\n",
                (long long)z.batch_stride, (long long)z.channel_stride, (long long)z.stride[0], (long long)z.stride[1],
                (long long)z.stride[2]);
  }
  text_puts(&t, "  (void)place; (void)any;\n");
  return finish_places(p, &t, "max_pool", items);
}

static void put_divisor(text *t, const kernel_prep *p, const spatial *x) {
  int64_t kernel_size[SPATIAL_MAX], stride[SPATIAL_MAX], pad[SPATIAL_MAX];
  const long long given = arg_int(&p->args, "divisor");
  spatial_attr(&p->args, "kernel", 1, kernel_size);
  spatial_attr(&p->args, "stride", 1, stride);
  spatial_attr(&p->args, "pad", 0, pad);
  text_printf(t, "  VT n_in = %lld;\n", given ? given : 1);
  for (int d = 0; d < x->count && !given; d++) {
    if (!arg_bool(&p->args, "count_include_pad")) {
      text_printf(t, "  n_in *= (VT)count%d;\n", d);
    } else {
      text_printf(
          t,
          "  { const i64 a = o%d * %lldLL - %lldLL, e = a + %lldLL, m = %lldLL; n_in *= (VT)((e < m ? e : m) - a); }\n",
          d, (long long)stride[d], (long long)pad[d], (long long)kernel_size[d], (long long)(x->size[d] + pad[d]));
    }
  }
}

static kiln_status prepare_avg(kernel_prep *p) {
  const bool adaptive = strcmp(p->args.node->op->name, "adaptive_avg_pool") == 0, last = channels_last_of(p);
  const spatial x = spatial_of(&p->args.in[0], last), y = spatial_of(&p->args.out[0], last);
  if (adaptive && y.size[0] * y.size[1] * y.size[2] == 1) { /* of everything: many threads for each result */
    const int first = p->args.in[0].rank - x.count - (last ? 1 : 0);
    return cuda_mean_prepare(p, ((1u << x.count) - 1) << first);
  }
  const int v = channel_width(p, &x, &y);
  text t = {0};
  if (adaptive && tensor_numel(&p->args.out[0]) == 0) return cuda_simple_prepare(p, "avg_pool", &t, 0, 1, 0);
  const int64_t items = put_places(&t, p, "avg_pool", &x, &y, v);
  put_window(&t, p, &x, &y, adaptive, false);
  text_puts(&t, "  VT sum[V];\n#pragma unroll\n  for (int k = 0; k < V; k++) sum[k] = 0;\n");
  put_window_loop(&t, p, &x, "sum[k] += x[k];");
  if (adaptive)
    text_puts(&t, "  const VT n_in = (VT)((i64)count0 * count1 * count2);\n");
  else
    put_divisor(&t, p, &x);
  text_printf(&t, "#pragma unroll\n  for (int k = 0; k < V; k++) sum[k] = %s;\n",
              adaptive ? "sum[k] / n_in" : "count0 && count1 && count2 ? sum[k] / n_in : (VT)0");
  put_result(&t, p, "sum");
  return finish_places(p, &t, "avg_pool", items);
}

/* ---- resize -------------------------------------------------------------------------------------------------------------------- */

/* Positions and weights are `real`: double where the image is f64. */
static const char taps_text[] =
    "FN int clamp_index(real v, int size) { return !(v > 0) ? 0 : v >= (real)(size - 1) ? size - 1 : (int)v; }\n"
    "FN real cubic_near(real x) { return (((real)-0.75 + 2) * x - ((real)-0.75 + 3)) * x * x + 1; }\n"
    "FN real cubic_far(real x) { return (((real)-0.75 * x + 5 * (real)0.75) * x - 8 * (real)0.75) * x + 4 * "
    "(real)0.75; }\n"
    "FN void cubic_weights(real f, real *w) { w[0] = cubic_far(f + 1); w[1] = cubic_near(f); w[2] = cubic_near(1 - "
    "f); w[3] = cubic_far(2 - f); }\n";

static void put_taps_text(text *t, const kernel_prep *p) {
  text_printf(t, "typedef %s real;\n", p->args.in[0].dtype == KILN_F64 ? "double" : "float");
  text_puts(t, taps_text);
}

/* at<d>[] and w<d>[] of one dimension; returns how many taps. */
static int put_taps(text *t, const kernel_prep *p, int d, const spatial *x, const spatial *y) {
  const char *mode = d < x->count ? arg_attr(&p->args, "mode")->u.s : "nearest";
  const double given = d < x->count ? arg_attr(&p->args, "scales")->u.floats[d] : 0;
  const int64_t in = x->size[d], out = y->size[d];
  if (mode[0] == 'n') {
    const bool exact = strcmp(mode, "nearest_exact") == 0;
    const float scale = given > 0 ? (float)(1.0 / given) : (float)in / (float)out;
    if (in == out && !exact)
      text_printf(t, "  const int at%d[1] = {(int)o%d}; const real w%d[1] = {1};\n", d, d, d);
    else
      text_printf(t,
                  "  const int at%d[1] = {clamp_index(floorf(__fmul_rn((float)o%d%s, (float)%.17g)), %lld)}; const "
                  "real w%d[1] = {1};\n",
                  d, d, exact ? " + 0.5f" : "", (double)scale, (long long)in, d);
    return 1;
  }
  const bool align = arg_bool(&p->args, "align_corners");
  const double step = align ? (out > 1 ? (double)(in - 1) / (double)(out - 1) : 0)
                      : given > 0 && !(in == out && mode[0] == 'l') ? 1.0 / given
                                                                    : (double)in / (double)out;
  if (align)
    text_printf(t, "  real pos%d = (real)%.17g * (real)o%d;\n", d, step, d);
  else
    text_printf(t, "  real pos%d = (real)%.17g * ((real)o%d + (real)0.5) - (real)0.5;\n", d, step, d);
  if (mode[0] == 'c') {
    text_printf(t,
                "  const real fl%d = floor(pos%d); real w%d[4]; cubic_weights(pos%d - fl%d, w%d); int at%d[4];\n"
                "  for (int k = 0; k < 4; k++) at%d[k] = clamp_index(fl%d + k - 1, %lld);\n",
                d, d, d, d, d, d, d, d, d, (long long)in);
    return 4;
  }
  text_printf(t,
              "  if (pos%d < 0) pos%d = 0;\n  const int low%d = clamp_index(floor(pos%d), %lld);\n"
              "  const real fr%d = fmin(fmax(pos%d - (real)low%d, (real)0), (real)1);\n"
              "  const int at%d[2] = {low%d, low%d + (low%d < %lld ? 1 : 0)}; const real w%d[2] = {1 - fr%d, fr%d};\n",
              d, d, d, d, (long long)in, d, d, d, d, d, d, d, (long long)in - 1, d, d, d);
  return 2;
}

static kiln_status prepare_resize(kernel_prep *p) {
  const bool last = channels_last_of(p);
  const spatial x = spatial_of(&p->args.in[0], last), y = spatial_of(&p->args.out[0], last);
  const bool copy = arg_attr(&p->args, "mode")->u.s[0] == 'n';
  const int v = channel_width(p, &x, &y);
  int taps[SPATIAL_MAX];
  text t = {0};
  put_taps_text(&t, p);
  if (spatial_empty(x.size) && tensor_numel(&p->args.out[0]) > 0)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "resize: operand x has an empty spatial dimension");
  const int64_t items = put_places(&t, p, "resize", &x, &y, v);
  for (int d = 0; d < SPATIAL_MAX; d++) taps[d] = put_taps(&t, p, d, &x, &y);
  text_puts(&t, "  VT sum[V];\n#pragma unroll\n  for (int k = 0; k < V; k++) sum[k] = 0;\n");
  for (int d = 0; d < SPATIAL_MAX; d++)
    text_printf(&t, "#pragma unroll\n  for (int k%d = 0; k%d < %d; k%d++)%s", d, d, taps[d], d,
                d == SPATIAL_MAX - 1 ? " {\n" : "\n");
  text_printf(&t,
              "    const IN *at = in + base + at0[k0] * %lldLL + at1[k1] * %lldLL + at2[k2] * %lldLL;\n    VT e[V];\n",
              (long long)x.stride[0], (long long)x.stride[1], (long long)x.stride[2]);
  text_puts(&t, cuda_is_float(p->args.in[0].dtype) ? "    load_floats<IN, V>(e, at);\n" : "    e[0] = (VT)*at;\n");
  text_printf(&t,
              "    const real w = w0[k0] * w1[k1] * w2[k2]; (void)w;\n#pragma unroll\n    for (int k = 0; k < V; k++) "
              "sum[k] %s;\n  }\n",
              copy ? "= e[k]" : "+= (VT)w * e[k]");
  put_result(&t, p, "sum");
  return finish_places(p, &t, "resize", items);
}

/* ---- grid_sample ------------------------------------------------------------------------------------------------------------------ */

static const char grid_text[] =
    "FN real reflect(real v, int twice_low, int twice_high) {\n"
    "  if (twice_low == twice_high) return 0;\n"
    "  const real low = twice_low * (real)0.5, span = (twice_high - twice_low) * (real)0.5;\n"
    "  v = fabs(v - low);\n  const real extra = fmod(v, span), flips = floor(v / span);\n"
    "  return fmod(flips, (real)2) == 0 ? extra + low : span - extra + low; }\n"
    "FN real grid_pad(real v, int size) {\n"
    "  if (PADDING == 'r') v = ALIGN ? reflect(v, 0, 2 * (size - 1)) : reflect(v, -1, 2 * size - 1);\n"
    "  if (PADDING == 'z') return v;\n  return fmin((real)(size - 1), fmax(v, (real)0)); }\n"
    "FN int grid_index(real v, int size) { return v >= 0 && v < (real)size ? (int)v : -1; }\n"
    "FN void grid_taps(real g, int size, int *at, real *w) {\n"
    "  real v = ALIGN ? (g + 1) * (real)0.5 * (size - 1) : ((g + 1) * size - 1) * (real)0.5;\n"
    "  if (MODE == 'c') { const real fl = floor(v); cubic_weights(v - fl, w);\n"
    "    for (int k = 0; k < 4; k++) at[k] = grid_index(grid_pad(fl + k - 1, size), size); return; }\n"
    "  v = grid_pad(v, size);\n"
    "  if (MODE == 'n') { w[0] = 1; at[0] = grid_index(rint(v), size); return; }\n"
    "  const real low = floor(v);\n  w[0] = low + 1 - v; w[1] = v - low; at[0] = grid_index(low, size); at[1] = "
    "grid_index(low + 1, size); }\n";

static kiln_status prepare_grid(kernel_prep *p) {
  const tensor *grid = &p->args.in[1];
  const spatial x = spatial_of(&p->args.in[0], false), y = spatial_of(&p->args.out[0], false);
  const char mode = arg_attr(&p->args, "mode")->u.s[0];
  const int taps = mode == 'c' ? 4 : mode == 'n' ? 1 : 2;
  text t = {0};
  put_taps_text(&t, p);
  text_printf(&t, "#define MODE '%c'\n#define PADDING '%c'\n#define ALIGN %d\n", mode,
              arg_attr(&p->args, "padding")->u.s[0], arg_bool(&p->args, "align_corners"));
  text_puts(&t, p->args.in[0].dtype == KILN_F64 ? "#define READ(x) (x)\n" : "#define READ(x) to_float(x)\n");
  text_puts(&t, grid_text);
  const int64_t items = put_places(&t, p, "grid_sample", &x, &y, 1);
  text_printf(&t, "  const i64 ga = n * %lldLL", (long long)grid->strides[0]);
  for (int d = 0; d < x.count; d++) text_printf(&t, " + o%d * %lldLL", d, (long long)grid->strides[1 + d]);
  text_puts(&t, ";\n");
  for (int d = 0; d < SPATIAL_MAX; d++) {
    if (d < x.count)
      text_printf(&t, "  int at%d[4]; real w%d[4]; grid_taps(READ(in1[ga + %lldLL]), %lld, at%d, w%d);\n", d, d,
                  (long long)((x.count - 1 - d) * grid->strides[grid->rank - 1]), (long long)x.size[d], d, d);
    else
      text_printf(&t, "  const int at%d[1] = {0}; const real w%d[1] = {1};\n", d, d);
  }
  text_printf(&t,
              "  real sum = 0;\n  for (int k0 = 0; k0 < %d; k0++) for (int k1 = 0; k1 < %d; k1++) for (int k2 = 0; k2 "
              "< %d; k2++)\n",
              x.count > 0 ? taps : 1, x.count > 1 ? taps : 1, x.count > 2 ? taps : 1);
  text_printf(&t,
              "    if (at0[k0] >= 0 && at1[k1] >= 0 && at2[k2] >= 0)\n"
              "      sum += w0[k0] * w1[k1] * w2[k2] * READ(in[base + at0[k0] * %lldLL + at1[k1] * %lldLL + "
              "at2[k2] * %lldLL]);\n"
              "  out0[to] = %s;\n",
              (long long)x.stride[0], (long long)x.stride[1], (long long)x.stride[2],
              p->args.in[0].dtype == KILN_F64 ? "sum" : "from_float<IN>(sum)");
  return finish_places(p, &t, "grid_sample", items);
}

static bool fits_any(const node *n, const char **why) {
  if (n->inputs[0].v->type.dtype == KILN_BOOL) return *why = "bool", false;
  return true;
}
static bool fits_real(const node *n, const char **why) {
  return cuda_fits_float(n, why) || n->inputs[0].v->type.dtype == KILN_F64;
}
static bool fits_resize(const node *n, const char **why) { return node_str(n, "mode")[0] == 'n' || fits_real(n, why); }

#define POOL(op_name, fits_fn, prepare_fn) \
  {.op = op_name,                          \
   .name = "pool.cuda",                    \
   .isa = 80,                              \
   .fits = fits_fn,                        \
   .prepare = prepare_fn,                  \
   .run = cuda_simple_run,                 \
   .strided_in = KERNEL_STRIDED_ALL,       \
   .strided_out = KERNEL_STRIDED_ALL},

const kernel cuda_pool_rows[] = {
    POOL("max_pool", fits_any, prepare_max) POOL("max_pool_index", fits_any, prepare_max)
        POOL("adaptive_max_pool_index", fits_any, prepare_max) POOL("avg_pool", fits_real, prepare_avg)
            POOL("adaptive_avg_pool", fits_real, prepare_avg) POOL("resize", fits_resize, prepare_resize)
                POOL("grid_sample", fits_real, prepare_grid){.op = NULL},
};
