/* Softmax and norms. Where the normalized elements are contiguous ("rows"), a warp or a block keeps a row in registers: one read, one
 * write, sums in f32. Rows that are too long for that are read again for each pass. */
#include <stdio.h>
#include <string.h>

#include "backends/cuda/codegen.h"
#include "backends/cuda/internal.h"

enum { MAX_THREADS = 512, MAX_KEPT = 32 };

/* The frame: LENGTH elements in each of `rows` rows, THREADS threads for each, V neighbours at a time. `body` uses EACH(statement), where
 * v is the element (assignable) and `at` its place in the row, and SUM, MAX. */
static const char row_frame[] =
    "#define PARTS ((LENGTH + THREADS * V - 1) / (THREADS * V))\n"
    "#if KEPT\n"
    "#define EACH(...) _Pragma(\"unroll\") for (int j = 0; j < PARTS; j++) { const int first = (j * THREADS + lane) * "
    "V; if (first < LENGTH)\\\n"
    "  _Pragma(\"unroll\") for (int k = 0; k < V; k++) { float &v = x[j][k]; const int at = first + k; (void)at; "
    "__VA_ARGS__; } }\n"
    "#else\n"
    "#define EACH(...) for (int first = lane * V; first < LENGTH; first += THREADS * V) { float y[V]; load_floats<IN, "
    "V>(y, in + first);\\\n"
    "  _Pragma(\"unroll\") for (int k = 0; k < V; k++) { float &v = y[k]; const int at = first + k; (void)at; "
    "__VA_ARGS__; } }\n"
    "#endif\n"
    "#define SUM(s) block_sum(s, shared, THREADS)\n"
    "#define MAX(s) block_max(s, shared, THREADS)\n"
    "extern \"C\" __global__ void __launch_bounds__(BLOCK) rows(ROW_PARAMS) {\n"
    "  __shared__ float shared[33];\n"
    "  KILN_WAIT;\n"
    "  const int lane = threadIdx.x % THREADS;\n"
    "  const i64 row = (i64)blockIdx.x * (BLOCK / THREADS) + threadIdx.x / THREADS;\n"
    "  if (row >= ROWS) return;\n"
    "  in += row * LENGTH; out += row * LENGTH;\n"
    "#if KEPT\n"
    "  float x[PARTS][V];\n"
    "#pragma unroll\n"
    "  for (int j = 0; j < PARTS; j++) { const int first = (j * THREADS + lane) * V; if (first < LENGTH) "
    "load_floats<IN, V>(x[j], in + first); }\n"
    "#endif\n"
    "  ROW_BODY\n"
    "#if KEPT\n"
    "  EACH(v = ROW_RESULT)\n"
    "#pragma unroll\n"
    "  for (int j = 0; j < PARTS; j++) { const int first = (j * THREADS + lane) * V; if (first < LENGTH) "
    "store_floats<IN, V>(out + first, x[j]); }\n"
    "#else\n"
    "  for (int first = lane * V; first < LENGTH; first += THREADS * V) {\n"
    "    float y[V]; load_floats<IN, V>(y, in + first);\n"
    "#pragma unroll\n"
    "    for (int k = 0; k < V; k++) { float &v = y[k]; const int at = first + k; (void)at; v = ROW_RESULT; }\n"
    "    store_floats<IN, V>(out + first, y); }\n"
    "#endif\n}\n";

static kiln_status prepare_rows(kernel_prep *p, int64_t rows, int64_t length, const char *params, const char *body,
                                const char *result) {
  const kiln_dtype d = p->args.in[0].dtype;
  const int size = (int)kiln_dtype_size(d);
  int v = 16 / size, threads = 32;
  const int align =
      cuda_in_alignment(p, 0) < cuda_out_alignment(p, 0) ? cuda_in_alignment(p, 0) : cuda_out_alignment(p, 0);
  if (length > INT32_MAX / 2)
    return KILN_FAIL(KILN_UNSUPPORTED, "%s over %lld elements", p->args.node->op->name, (long long)length);
  while (v > 1 && (length % v != 0 || v * size > align)) v /= 2;
  /* A warp for a short row; for longer ones as many as keep 8 to 16 elements in each thread. */
  while (threads < MAX_THREADS && threads * 16 < length) threads = threads < 128 ? 128 : threads * 2;
  if (rows < 132 && threads < 256 && length >= threads * 2 * v)
    threads = threads < 128 ? 128 : threads * 2; /* few rows: latency counts */
  const int64_t kept = cuda_div_up(length, (int64_t)threads * v) * v;
  const int per_block = threads < 128 ? 128 : threads;
  text t = {0};
  text_printf(&t,
              "#define LENGTH %lld\n#define ROWS %lldLL\n#define THREADS %d\n#define BLOCK %d\n#define V %d\n#define "
              "KEPT %d\n#define IN %s\n",
              (long long)length, (long long)rows, threads, per_block, v, kept <= MAX_KEPT, cuda_type(d));
  text_printf(&t,
              "#define ROW_PARAMS const IN *in, %sIN *__restrict__ out\n#define ROW_BODY %s\n#define "
              "ROW_RESULT %s\n",
              params, body, result);
  text_puts(&t, row_frame);
  return cuda_simple_prepare(p, "rows", &t, length ? cuda_div_up(rows, per_block / threads) : 0, per_block, 0);
}

/* ---- softmax ------------------------------------------------------------------------------------------------------------------ */

/* Along another axis than the last: a thread walks one line. */
static kiln_status prepare_lines(kernel_prep *p, int axis, bool logarithm) {
  const tensor *in = &p->args.in[0];
  const char *type = cuda_type(in->dtype);
  int64_t shape[KILN_MAX_RANK], strides[KILN_MAX_RANK], lines = 1;
  int n = 0;
  for (int i = 0; i < in->rank; i++) {
    if (i == axis) continue;
    shape[n] = in->shape[i];
    strides[n++] = in->strides[i];
    lines *= in->shape[i];
  }
  const char *real = in->dtype == KILN_F64 ? "double" : "float";
  text t = {0};
  text_printf(&t,
              "#define LOAD(e) ((%s)%s(in[base + (e) * %lldLL]))\n"
              "extern \"C\" __global__ void __launch_bounds__(128) lines(const %s *in, %s *__restrict__ "
              "out) {\n  KILN_WAIT;\n"
              "  const i64 o = (i64)blockIdx.x * 128 + threadIdx.x;\n  if (o >= %lldLL) return;\n",
              real, in->dtype == KILN_F64 ? "" : "to_float", (long long)(in->rank ? in->strides[axis] : 1), type, type,
              (long long)lines);
  cuda_coordinates(&t, "i64", "c", "o", n, shape);
  text_puts(&t, "  const i64 base = ");
  cuda_offset(&t, "c", n, shape, strides);
  text_printf(&t,
              ";\n  const i64 n = %lldLL;\n  %s top = -(%s)KILN_INF, sum = 0;\n"
              "  for (i64 i = 0; i < n; i++) top = k_max(LOAD(i), top);\n"
              "  for (i64 i = 0; i < n; i++) sum += k_exp(LOAD(i) - top);\n"
              "  for (i64 i = 0; i < n; i++) { const %s v = LOAD(i) - top; const %s r = %s; out[base + i * %lldLL] = "
              "%s; }\n}\n",
              (long long)(in->rank ? in->shape[axis] : 1), real, real, real, real,
              logarithm ? "v - k_log(sum)" : "k_exp(v) / sum", (long long)(in->rank ? in->strides[axis] : 1),
              in->dtype == KILN_F64 ? "r" : cuda_text(p, "from_float<%s>(r)", type));
  return cuda_simple_prepare(p, "lines", &t, cuda_div_up(tensor_numel(in) ? lines : 0, 128), 128, 0);
}

static kiln_status prepare_softmax(kernel_prep *p) {
  const tensor *in = &p->args.in[0];
  const int axis = in->rank ? (int)arg_int(&p->args, "axis") : 0;
  const bool logarithm = strcmp(p->args.node->op->name, "log_softmax") == 0;
  if (axis != in->rank - 1 || !cuda_is_float(in->dtype)) return prepare_lines(p, axis, logarithm);
  const int64_t length = in->shape[axis], rows = length ? tensor_numel(in) / length : 0;
  return prepare_rows(p, rows, length, "",
                      "float top = -(float)KILN_INF; EACH(top = k_max(v, top)) top = MAX(top);"
                      " float sum = 0; EACH(sum += __expf(v - top)) sum = SUM(sum); const float scale = 1.0f / sum;"
                      " const float shift = top + __logf(sum); (void)scale; (void)shift;",
                      logarithm ? "v - shift" : "__expf(v - top) * scale");
}

/* ---- layer_norm, rms_norm -------------------------------------------------------------------------------------------------------- */

/* Parameters for gamma and beta, operands of these numbers if they are there; NULL: no memory. */
static const char *vectors(kernel_prep *p, int gamma, int beta) {
  const bool has_gamma = gamma < p->args.n_in && p->args.in[gamma].rank >= 0;
  const bool has_beta = beta < p->args.n_in && p->args.in[beta].rank >= 0;
  return cuda_text(p, "%s%s%s%s%s%s", has_gamma ? "const IN *" : "", has_gamma ? cuda_alias(p, gamma) : "",
                   has_gamma ? "gamma, " : "", has_beta ? "const IN *" : "", has_beta ? cuda_alias(p, beta) : "",
                   has_beta ? "beta, " : "");
}

static kiln_status prepare_layer_norm(kernel_prep *p) {
  const tensor *in = &p->args.in[0];
  const int dims = (int)arg_int(&p->args, "dims");
  const bool rms = strcmp(p->args.node->op->name, "rms_norm") == 0;
  const bool gamma = p->args.n_in > 1 && p->args.in[1].rank >= 0, beta = p->args.n_in > 2 && p->args.in[2].rank >= 0;
  int64_t length = 1;
  for (int i = in->rank - dims; i < in->rank; i++) length *= in->shape[i];
  const int64_t rows = length ? tensor_numel(in) / length : 0;
  const char *params = vectors(p, 1, 2);
  const double eps = arg_float(&p->args, "eps");
  const char *body =
      rms ? cuda_text(p, "float sq = 0; EACH(sq += v * v) const float scale = rsqrtf(SUM(sq) / LENGTH + (float)%.17g);",
                      eps)
          : cuda_text(p,
                      "float sum = 0; EACH(sum += v) const float mean = SUM(sum) / LENGTH;"
                      " float sq = 0; EACH(sq += (v - mean) * (v - mean)) const float scale = rsqrtf(SUM(sq) / LENGTH "
                      "+ (float)%.17g);",
                      eps);
  const char *result = cuda_text(p, "(%s) * scale%s%s", rms ? "v" : "v - mean", gamma ? " * to_float(gamma[at])" : "",
                                 beta ? " + to_float(beta[at])" : "");
  if (!params || !body || !result) return KILN_OUT_OF_MEMORY;
  return prepare_rows(p, rows, length, params, body, result);
}

/* ---- group_norm: a block for each sample and group --------------------------------------------------------------------------------- */

static const char group_frame[] =
    "#define AT(e) (((e) % SIZE + group * SIZE) * C_STRIDE + ((e) / SIZE) * S_STRIDE)\n"
    "extern \"C\" __global__ void __launch_bounds__(512) group(const IN *in, GROUP_PARAMS IN "
    "*__restrict__ out) {\n"
    "  __shared__ float shared[33];\n  KILN_WAIT;\n"
    "  const int group = blockIdx.x % GROUPS;\n"
    "  in += (i64)(blockIdx.x / GROUPS) * N_STRIDE; out += (i64)(blockIdx.x / GROUPS) * N_STRIDE;\n"
    "  const i64 n = (i64)SIZE * SPATIAL;\n"
    "  float sum = 0, sq = 0;\n"
    "  for (i64 e = threadIdx.x; e < n; e += 512) sum += to_float(in[AT(PLACE)]);\n"
    "  const float mean = block_sum(sum, shared, 512) / (float)n;\n"
    "  for (i64 e = threadIdx.x; e < n; e += 512) { const float v = to_float(in[AT(PLACE)]) - mean; sq += v * v; }\n"
    "  const float scale = rsqrtf(block_sum(sq, shared, 512) / (float)n + EPS);\n"
    "  for (i64 e = threadIdx.x; e < n; e += 512) {\n"
    "    const i64 at = AT(PLACE); const int c = (int)(PLACE % SIZE) + group * SIZE; (void)c;\n"
    "    out[at] = from_float<IN>((to_float(in[at]) - mean) * scale GROUP_RESULT); }\n}\n";

static kiln_status prepare_group_norm(kernel_prep *p) {
  const tensor *in = &p->args.in[0];
  const bool last = arg_bool(&p->args, "channels_last");
  const bool gamma = p->args.n_in > 1 && p->args.in[1].rank >= 0, beta = p->args.n_in > 2 && p->args.in[2].rank >= 0;
  const int64_t groups = arg_int(&p->args, "groups"), channels = in->shape[last ? in->rank - 1 : 1];
  int64_t spatial = 1;
  for (int i = 1; i < in->rank; i++) spatial *= i == (last ? in->rank - 1 : 1) ? 1 : in->shape[i];
  const char *params = vectors(p, 1, 2);
  if (!params) return KILN_OUT_OF_MEMORY;
  text t = {0};
  text_printf(&t,
              "#define IN %s\n#define GROUPS %lld\n#define SIZE %lldLL\n#define SPATIAL %lldLL\n#define C_STRIDE "
              "%lldLL\n#define S_STRIDE %lldLL\n"
              "#define N_STRIDE %lldLL\n#define EPS ((float)%.17g)\n#define GROUP_PARAMS %s\n#define GROUP_RESULT "
              "%s %s\n#define PLACE %s\n",
              cuda_type(in->dtype), (long long)groups, (long long)(channels / groups), (long long)spatial,
              (long long)(last ? 1 : spatial), (long long)(last ? channels : 1), (long long)(channels * spatial),
              arg_float(&p->args, "eps"), params, gamma ? "* to_float(gamma[c])" : "",
              beta ? "+ to_float(beta[c])" : "",
              /* neighbours in memory are neighbours of e */ last ? "e" : "((e) / SPATIAL + (e) % SPATIAL * SIZE)");
  text_puts(&t, group_frame);
  return cuda_simple_prepare(p, "group", &t, tensor_numel(in) ? in->shape[0] * groups : 0, 512, 0);
}

/* ---- batch_norm, local_response_norm -------------------------------------------------------------------------------------------------- */

static int64_t stride_behind(const tensor *t, int axis) { return t->strides[axis]; }

static kiln_status prepare_batch_norm(kernel_prep *p) {
  const tensor *in = &p->args.in[0];
  const int axis = arg_bool(&p->args, "channels_last") ? in->rank - 1 : 1;
  const bool gamma = p->args.n_in > 3 && p->args.in[3].rank >= 0, beta = p->args.n_in > 4 && p->args.in[4].rank >= 0;
  const int64_t total = tensor_numel(in);
  const char *type = cuda_type(in->dtype), *params = vectors(p, 3, 4);
  if (!params) return KILN_OUT_OF_MEMORY;
  text t = {0};
  text_printf(&t,
              "#define IN %s\nextern \"C\" __global__ void __launch_bounds__(256) batch(const IN *in, "
              "const IN *mean, "
              "const IN *var, %sIN *__restrict__ out) {\n  KILN_WAIT;\n"
              "  const i64 i = (i64)blockIdx.x * 256 + threadIdx.x;\n  if (i >= %lldLL) return;\n  const i64 c = i / "
              "%lldLL %% %lldLL;\n"
              "  out[i] = from_float<IN>((to_float(in[i]) - to_float(mean[c])) * rsqrtf(to_float(var[c]) + "
              "(float)%.17g)%s%s);\n}\n",
              type, params, (long long)total, (long long)stride_behind(in, axis), (long long)in->shape[axis],
              arg_float(&p->args, "eps"), gamma ? " * to_float(gamma[c])" : "", beta ? " + to_float(beta[c])" : "");
  return cuda_simple_prepare(p, "batch", &t, cuda_div_up(total, 256), 256, 0);
}

static kiln_status prepare_response(kernel_prep *p) {
  const tensor *in = &p->args.in[0];
  const int64_t size = arg_int(&p->args, "size"), total = tensor_numel(in);
  const char *type = cuda_type(in->dtype);
  text t = {0};
  text_printf(&t,
              "#define IN %s\nextern \"C\" __global__ void __launch_bounds__(256) response(const IN *in, "
              "IN *__restrict__ out) {\n"
              "  KILN_WAIT;\n  const i64 i = (i64)blockIdx.x * 256 + threadIdx.x;\n  if (i >= %lldLL) return;\n"
              "  const i64 c = i / %lldLL %% %lldLL;\n  float sum = 0;\n"
              "  for (i64 k = c - %lldLL; k < c - %lldLL + %lldLL; k++)\n"
              "    if (k >= 0 && k < %lldLL) { const float v = to_float(in[i + (k - c) * %lldLL]); sum += v * v; }\n"
              "  out[i] = from_float<IN>(to_float(in[i]) / powf((float)%.17g + (float)%.17g * sum / %lldLL, "
              "(float)%.17g));\n}\n",
              type, (long long)total, (long long)in->strides[1], (long long)in->shape[1], (long long)(size / 2),
              (long long)(size / 2), (long long)size, (long long)in->shape[1], (long long)in->strides[1],
              arg_float(&p->args, "k"), arg_float(&p->args, "alpha"), (long long)size, arg_float(&p->args, "beta"));
  return cuda_simple_prepare(p, "response", &t, cuda_div_up(total, 256), 256, 0);
}

static bool fits_softmax(const node *n, const char **why) {
  return cuda_fits_float(n, why) || n->inputs[0].v->type.dtype == KILN_F64;
}

#define NORM(op_name, fits_fn, prepare_fn) \
  {.op = op_name, .name = "rows.cuda", .isa = 80, .fits = fits_fn, .prepare = prepare_fn, .run = cuda_simple_run},

const kernel cuda_norm_rows[] = {
    NORM("softmax", fits_softmax, prepare_softmax) NORM("log_softmax", fits_softmax, prepare_softmax) NORM(
        "layer_norm", cuda_fits_float, prepare_layer_norm) NORM("rms_norm", cuda_fits_float, prepare_layer_norm)
        NORM("group_norm", cuda_fits_float, prepare_group_norm) NORM("batch_norm", cuda_fits_float, prepare_batch_norm)
            NORM("local_response_norm", cuda_fits_float, prepare_response){.op = NULL},
};
