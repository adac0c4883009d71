/* Normalizations: batch (with given statistics), layer, RMS, group and local response; instance norm is group norm with
 * one channel in each group. */
#include <float.h>
#include <math.h>

#include "ops/lowering.h"
#include "ops/spatial.h"

/* ---- inference --------------------------------------------------------------------------------------------------- */

/* Operands from `first` on are vectors of one value per channel, of x's dtype. */
static kiln_status infer_vectors(graph *g, node *n, int first, dim channels) {
  for (int i = first; i < n->own_inputs; i++) {
    if (!n->inputs[i].v) continue;
    KILN_TRY(infer_rank_between(n, i, 1, 1));
    if (in_type(n, i)->dtype != in_type(n, 0)->dtype) return INFER_FAIL(n, "operand %d has another dtype than x", i);
    KILN_TRY(infer_same_dim(g, n, "channels and the size of a per-channel operand", channels, in_type(n, i)->dims[0]));
  }
  return KILN_OK;
}

static kiln_status batch_norm_infer(graph *g, node *n) {
  KILN_TRY(infer_float(n, 0));
  KILN_TRY(infer_rank_between(n, 0, 2, KILN_MAX_RANK));
  const tensor_type *x = in_type(n, 0);
  KILN_TRY(infer_vectors(g, n, 1, x->dims[node_bool(n, "channels_last") ? x->rank - 1 : 1]));
  return infer_same(g, n);
}

static kiln_status layer_norm_infer(graph *g, node *n) {
  KILN_TRY(infer_float(n, 0));
  const tensor_type *x = in_type(n, 0);
  const int64_t dims = node_int(n, "dims");
  if (dims < 1 || dims > x->rank)
    return INFER_FAIL(n, "attribute dims is %lld for an operand x of rank %d", (long long)dims, x->rank);
  for (int i = 1; i < n->own_inputs; i++) {
    if (!n->inputs[i].v) continue;
    const tensor_type *t = in_type(n, i);
    KILN_TRY(infer_rank_between(n, i, (int)dims, (int)dims));
    if (t->dtype != x->dtype) return INFER_FAIL(n, "operand %d has another dtype than x", i);
    for (int d = 0; d < (int)dims; d++)
      KILN_TRY(infer_same_dim(g, n, "normalized sizes of x and a scale or shift", x->dims[x->rank - (int)dims + d],
                              t->dims[d]));
  }
  return infer_same(g, n);
}

static kiln_status group_norm_infer(graph *g, node *n) {
  KILN_TRY(infer_float(n, 0));
  KILN_TRY(infer_rank_between(n, 0, 2, KILN_MAX_RANK));
  const tensor_type *x = in_type(n, 0);
  const dim channels = x->dims[node_bool(n, "channels_last") ? x->rank - 1 : 1];
  const int64_t groups = node_int(n, "groups");
  if (!dim_is_const(groups) || groups < 1) return INFER_FAIL(n, "attribute groups must be a positive constant");
  if (!dim_is_const(channels) || channels % groups)
    return INFER_FAIL(n, "operand x: its channels must be a constant that %lld groups divide", (long long)groups);
  KILN_TRY(infer_vectors(g, n, 1, channels));
  return infer_same(g, n);
}

static kiln_status local_response_norm_infer(graph *g, node *n) {
  KILN_TRY(infer_float(n, 0));
  KILN_TRY(infer_rank_between(n, 0, 2, KILN_MAX_RANK));
  if (node_int(n, "size") < 1) return INFER_FAIL(n, "attribute size must be positive");
  return infer_same(g, n);
}

/* ---- reference --------------------------------------------------------------------------------------------------- */

/* Value `i` of a vector operand, `absent` if it is not given. */
static double vector_at(const kernel_args *a, int operand, int64_t i, double absent) {
  if (operand >= a->n_in || !a->in[operand].data) return absent;
  return ref_load(&a->in[operand], i * a->in[operand].strides[0]);
}

static kiln_status batch_norm_ref(const kernel_args *a) {
  const tensor *x = &a->in[0], *y = &a->out[0];
  const int channel = arg_bool(a, "channels_last") ? x->rank - 1 : 1;
  const double eps = arg_float(a, "eps");
  for (ref_iter it = ref_begin(x->rank, x->shape); ref_valid(&it); ref_next(&it)) {
    const int64_t c = it.index[channel];
    const double v =
        (ref_load(x, tensor_offset(x, it.index)) - vector_at(a, 1, c, 0)) / sqrt(vector_at(a, 2, c, 1) + eps);
    ref_store(y, tensor_offset(y, it.index), v * vector_at(a, 3, c, 1) + vector_at(a, 4, c, 0));
  }
  return KILN_OK;
}

/* Layer and RMS norm over the last `dims` dimensions. */
static kiln_status rows_norm_ref(const kernel_args *a, bool rms) {
  const tensor *x = &a->in[0], *y = &a->out[0];
  const int dims = (int)arg_int(a, "dims"), outer = x->rank - dims;
  const double eps = arg_float(a, "eps");
  const tensor *gamma = a->in[1].data ? &a->in[1] : NULL;
  const tensor *beta = !rms && a->in[2].data ? &a->in[2] : NULL;
  for (ref_iter it = ref_begin(outer, x->shape); ref_valid(&it); ref_next(&it)) {
    int64_t x_at = 0, y_at = 0;
    for (int i = 0; i < outer; i++) {
      x_at += it.index[i] * x->strides[i];
      y_at += it.index[i] * y->strides[i];
    }
    tensor row = {.data = x->data, .dtype = x->dtype, .rank = dims},
           out = {.data = y->data, .dtype = y->dtype, .rank = dims};
    for (int i = 0; i < dims; i++) {
      row.strides[i] = x->strides[outer + i];
      out.strides[i] = y->strides[outer + i];
    }
    double mean = 0, spread = 0;
    ref_iter in = ref_begin(dims, x->shape + outer);
    const double count = (double)in.count;
    if (!rms)
      for (; ref_valid(&in); ref_next(&in)) mean += ref_load(x, x_at + tensor_offset(&row, in.index));
    mean /= count;
    for (in = ref_begin(dims, x->shape + outer); ref_valid(&in); ref_next(&in)) {
      const double d = ref_load(x, x_at + tensor_offset(&row, in.index)) - mean;
      spread += d * d;
    }
    const double scale = 1 / sqrt(spread / count + eps);
    for (in = ref_begin(dims, x->shape + outer); ref_valid(&in); ref_next(&in)) {
      double v = (ref_load(x, x_at + tensor_offset(&row, in.index)) - mean) * scale;
      if (gamma) v *= ref_load(gamma, tensor_offset(gamma, in.index));
      if (beta) v += ref_load(beta, tensor_offset(beta, in.index));
      ref_store(y, y_at + tensor_offset(&out, in.index), v);
    }
  }
  return KILN_OK;
}
static kiln_status layer_norm_ref(const kernel_args *a) { return rows_norm_ref(a, false); }
static kiln_status rms_norm_ref(const kernel_args *a) { return rows_norm_ref(a, true); }

/* Mean and 1/sqrt(var + eps) of group `group` of sample `sample`. */
static void group_statistics(const tensor *x, int channel, int64_t sample, int64_t first, int64_t count, double eps,
                             double *mean, double *scale) {
  int64_t shape[KILN_MAX_RANK];
  for (int i = 0; i < x->rank; i++) shape[i] = i == 0 ? 1 : i == channel ? count : x->shape[i];
  double sum = 0, spread = 0;
  ref_iter it = ref_begin(x->rank, shape);
  const double n = (double)it.count;
  const int64_t at = sample * x->strides[0] + first * x->strides[channel];
  for (; ref_valid(&it); ref_next(&it)) sum += ref_load(x, at + tensor_offset(x, it.index));
  *mean = sum / n;
  for (it = ref_begin(x->rank, shape); ref_valid(&it); ref_next(&it)) {
    const double d = ref_load(x, at + tensor_offset(x, it.index)) - *mean;
    spread += d * d;
  }
  *scale = 1 / sqrt(spread / n + eps);
}

static kiln_status group_norm_ref(const kernel_args *a) {
  const tensor *x = &a->in[0], *y = &a->out[0];
  const int channel = arg_bool(a, "channels_last") ? x->rank - 1 : 1;
  const int64_t groups = arg_int(a, "groups"), size = x->shape[channel] / groups;
  const double eps = arg_float(a, "eps");
  if (tensor_numel(x) == 0) return KILN_OK;
  for (int64_t n = 0; n < x->shape[0]; n++)
    for (int64_t group = 0; group < groups; group++) {
      double mean, scale;
      group_statistics(x, channel, n, group * size, size, eps, &mean, &scale);
      int64_t shape[KILN_MAX_RANK];
      for (int i = 0; i < x->rank; i++) shape[i] = i == 0 ? 1 : i == channel ? size : x->shape[i];
      for (ref_iter it = ref_begin(x->rank, shape); ref_valid(&it); ref_next(&it)) {
        int64_t index[KILN_MAX_RANK];
        for (int i = 0; i < x->rank; i++) index[i] = it.index[i];
        index[0] = n;
        const int64_t c = index[channel] += group * size;
        const double v = (ref_load(x, tensor_offset(x, index)) - mean) * scale;
        ref_store(y, tensor_offset(y, index), v * vector_at(a, 1, c, 1) + vector_at(a, 2, c, 0));
      }
    }
  return KILN_OK;
}

/* y = x / (k + alpha / size * sum of squares of the channels around)^beta; size/2 channels before, (size-1)/2 after. */
static kiln_status local_response_norm_ref(const kernel_args *a) {
  const tensor *x = &a->in[0], *y = &a->out[0];
  const int64_t size = arg_int(a, "size");
  const double alpha = arg_float(a, "alpha"), beta = arg_float(a, "beta"), k = arg_float(a, "k");
  for (ref_iter it = ref_begin(x->rank, x->shape); ref_valid(&it); ref_next(&it)) {
    const int64_t at = tensor_offset(x, it.index), c = it.index[1];
    double sum = 0;
    const int64_t before = size / 2 < c ? size / 2 : c,
                  after = (size - 1) / 2 < x->shape[1] - 1 - c ? (size - 1) / 2 : x->shape[1] - 1 - c;
    for (int64_t other = c - before; other <= c + after; other++) {
      const double v = ref_load(x, at + (other - c) * x->strides[1]);
      sum += v * v;
    }
    ref_store(y, tensor_offset(y, it.index), ref_load(x, at) / pow(k + alpha * sum / (double)size, beta));
  }
  return KILN_OK;
}

/* ---- PyTorch ----------------------------------------------------------------------------------------------------- */

/* Statistics and parameters may be f32 where x is f16 or bf16: PyTorch then computes in f32. Brings all to one dtype;
 * *restore is the dtype of the result. */
static void same_dtype(builder *b, kiln_dtype *restore, value **v, int count) {
  *restore = v[0] ? v[0]->type.dtype : KILN_F32;
  bool mixed = false;
  for (int i = 1; i < count; i++) mixed = mixed || (v[i] && v[0] && v[i]->type.dtype != *restore);
  if (!mixed) return;
  kiln_dtype wide = *restore;
  for (int i = 1; i < count; i++)
    if (v[i]) wide = dtype_promote(wide, v[i]->type.dtype);
  for (int i = 0; i < count; i++)
    if (v[i]) v[i] = lower_cast(b, v[i], wide);
}

static value *restored(builder *b, value *y, kiln_dtype dtype) { return y ? lower_cast(b, y, dtype) : NULL; }

static bool has_arg(const lower_call *c, const char *name) {
  for (int32_t i = 0; i < c->schema->n_args; i++)
    if (str_eq(c->schema->args[i].name, name)) return true;
  return false;
}

/* 1 / sqrt(v + eps) */
static value *inverse_root(builder *b, value *v, double eps) {
  return build(b, "rsqrt", IN(lower_binary(b, "add", v, lowering_scalar_like(b, v, eps))), NO_ATTRS);
}

/* running = (1 - momentum) * running + momentum * v, written to the argument if it is given. */
static kiln_status update_running(lower_call *c, const char *name, value *v) {
  if (call_is_none(c, name)) return KILN_OK;
  const double momentum = call_float(c, "momentum");
  builder *b = &c->b;
  value *old = call_tensor(c, name);
  if (old && v) v = lower_cast(b, v, old->type.dtype);
  value *kept = lower_binary(b, "mul", old, lowering_scalar_like(b, old, 1 - momentum));
  value *next = lower_binary(b, "add", kept, lower_binary(b, "mul", v, lowering_scalar_like(b, v, momentum)));
  LOWER_NEED(c, next);
  return lower_write(b, call_arg(c, name)->u.t, next);
}

/* Statistics of the batch, as in training or without running statistics. */
static kiln_status batch_statistics(lower_call *c, value *x, value **mean, value **var) {
  builder *b = &c->b;
  int64_t axes[KILN_MAX_RANK];
  int count = 0;
  for (int i = 0; i < x->type.rank; i++)
    if (i != 1) axes[count++] = i;
  *mean = build(b, "mean", IN(x), ATTRS(A_INTS("axes", axes, count)));
  *var = build(b, "var", IN(x), ATTRS(A_INTS("axes", axes, count), A_FLOAT("correction", 0)));
  if (has_arg(c, "running_mean") && !call_is_none(c, "running_mean")) {
    KILN_TRY(update_running(c, "running_mean", *mean));
    KILN_TRY(update_running(c, "running_var",
                            build(b, "var", IN(x), ATTRS(A_INTS("axes", axes, count), A_FLOAT("correction", 1)))));
  }
  return KILN_OK;
}

static kiln_status batch_norm_emit(lower_call *c, bool training, const char *eps_name) {
  builder *b = &c->b;
  value *v[5] = {NULL};
  KILN_TRY(lowering_tensor(c, "input", &v[0]));
  if (v[0]->type.rank < 2) return LOWER_FAIL(c, "argument input: expected at least 2 dimensions");
  v[3] = call_tensor(c, "weight");
  v[4] = call_tensor(c, "bias");
  const double eps = call_float(c, eps_name);
  const bool statistics = has_arg(c, "running_mean") && !call_is_none(c, "running_mean");
  kiln_dtype dtype = v[0]->type.dtype;
  if (training || !statistics) {
    same_dtype(b, &dtype, v, 5);
    LOWER_NEED(c, v[0]);
    KILN_TRY(batch_statistics(c, v[0], &v[1], &v[2]));
  } else {
    KILN_TRY(lowering_tensor(c, "running_mean", &v[1]));
    KILN_TRY(lowering_tensor(c, "running_var", &v[2]));
    same_dtype(b, &dtype, v, 5);
  }
  value *y = build(b, "batch_norm", IN(v[0], v[1], v[2], v[3], v[4]), ATTRS(A_FLOAT("eps", eps)));
  call_return(c, 0, restored(b, y, dtype));
  if (c->n_results < 3) return KILN_OK;
  /* save_mean and save_invstd are empty when the statistics are given */
  value *mean = v[1], *rstd = NULL;
  if (training || !statistics) {
    rstd = inverse_root(b, v[2], eps);
  } else {
    mean = rstd = lowering_full(b, dtype, 1, (dim[]){0}, 0);
  }
  call_return(c, 1, mean);
  call_return(c, 2, rstd);
  if (c->n_results > 3) call_return(c, 3, lowering_full(b, KILN_U8, 1, (dim[]){0}, 0)); /* cuDNN's reserve */
  return KILN_OK;
}

static kiln_status lower_batch_norm(lower_call *c) { return batch_norm_emit(c, call_bool(c, "training"), "eps"); }
static kiln_status lower_batch_norm_cudnn(lower_call *c) {
  if (call_bool(c, "training")) return LOWER_FAIL(c, "export the model in eval() mode");
  return batch_norm_emit(c, false, "epsilon");
}
static kiln_status lower_batch_norm_eval(lower_call *c) { return batch_norm_emit(c, false, "eps"); }
static kiln_status lower_batch_norm_update(lower_call *c) { return batch_norm_emit(c, true, "eps"); }

/* How many trailing dimensions are normalized. */
static kiln_status normalized_dims(lower_call *c, const value *x, int *out) {
  *out = call_list_count(c, "normalized_shape");
  if (*out < 1 || *out > x->type.rank)
    return LOWER_FAIL(c, "argument normalized_shape: expected 1 to %d sizes", x->type.rank);
  dim sizes[KILN_MAX_RANK];
  if (call_ints(c, "normalized_shape", sizes, KILN_MAX_RANK) != *out)
    return LOWER_FAIL(c, "argument normalized_shape: expected sizes");
  for (int i = 0; i < *out; i++)
    if (dim_compare_equal(c->b.graph->dims, sizes[i], x->type.dims[x->type.rank - *out + i]) == 0)
      return LOWER_FAIL(c, "argument normalized_shape differs from the input's last sizes");
  return KILN_OK;
}

static kiln_status lower_layer_norm(lower_call *c) {
  builder *b = &c->b;
  value *v[3] = {NULL};
  int dims;
  KILN_TRY(lowering_tensor(c, "input", &v[0]));
  KILN_TRY(normalized_dims(c, v[0], &dims));
  v[1] = call_tensor(c, "weight");
  v[2] = call_tensor(c, "bias");
  kiln_dtype dtype;
  same_dtype(b, &dtype, v, 3);
  const double eps = call_float(c, "eps");
  value *y = build(b, "layer_norm", IN(v[0], v[1], v[2]), ATTRS(A_INT("dims", dims), A_FLOAT("eps", eps)));
  call_return(c, 0, restored(b, y, dtype));
  if (c->n_results < 3) return KILN_OK;
  LOWER_NEED(c, v[0]);
  int64_t axes[KILN_MAX_RANK];
  for (int i = 0; i < dims; i++) axes[i] = v[0]->type.rank - dims + i;
  call_return(c, 1, build(b, "mean", IN(v[0]), ATTRS(A_INTS("axes", axes, dims), A_BOOL("keepdim", 1))));
  value *var =
      build(b, "var", IN(v[0]), ATTRS(A_INTS("axes", axes, dims), A_BOOL("keepdim", 1), A_FLOAT("correction", 0)));
  call_return(c, 2, inverse_root(b, var, eps));
  return KILN_OK;
}

static kiln_status lower_rms_norm(lower_call *c) {
  builder *b = &c->b;
  value *v[2] = {NULL};
  int dims;
  KILN_TRY(lowering_tensor(c, "input", &v[0]));
  KILN_TRY(normalized_dims(c, v[0], &dims));
  v[1] = call_tensor(c, "weight");
  kiln_dtype dtype;
  same_dtype(b, &dtype, v, 2);
  LOWER_NEED(c, v[0]);
  const double eps = !call_is_none(c, "eps")        ? call_float(c, "eps")
                     : v[0]->type.dtype == KILN_F64 ? DBL_EPSILON
                                                    : (double)FLT_EPSILON;
  value *y = build(b, "rms_norm", IN(v[0], v[1]), ATTRS(A_INT("dims", dims), A_FLOAT("eps", eps)));
  call_return(c, 0, restored(b, y, dtype));
  if (c->n_results < 2) return KILN_OK;
  int64_t axes[KILN_MAX_RANK];
  for (int i = 0; i < dims; i++) axes[i] = v[0]->type.rank - dims + i;
  value *square = build(b, "square", IN(v[0]), NO_ATTRS);
  call_return(
      c, 1,
      inverse_root(b, build(b, "mean", IN(square), ATTRS(A_INTS("axes", axes, dims), A_BOOL("keepdim", 1))), eps));
  return KILN_OK;
}

static kiln_status group_norm_emit(lower_call *c, int64_t groups) {
  builder *b = &c->b;
  value *v[3] = {NULL};
  KILN_TRY(lowering_tensor(c, "input", &v[0]));
  if (v[0]->type.rank < 2) return LOWER_FAIL(c, "argument input: expected at least 2 dimensions");
  v[1] = call_tensor(c, "weight");
  v[2] = call_tensor(c, "bias");
  kiln_dtype dtype;
  same_dtype(b, &dtype, v, 3);
  LOWER_NEED(c, v[0]);
  const double eps = call_float(c, "eps");
  value *y = build(b, "group_norm", IN(v[0], v[1], v[2]), ATTRS(A_INT("groups", groups), A_FLOAT("eps", eps)));
  call_return(c, 0, restored(b, y, dtype));
  if (c->n_results < 3) return KILN_OK;
  dim_table *t = b->graph->dims;
  const tensor_type *x = &v[0]->type;
  const dim rest = dim_floordiv(t, dim_product(t, x->dims + 1, x->rank - 1), groups);
  value *rows_of = lower_reshape(b, v[0], 3, (dim[]){x->dims[0], groups, rest});
  const int64_t axis = 2;
  call_return(c, 1, build(b, "mean", IN(rows_of), ATTRS(A_INTS("axes", &axis, 1))));
  call_return(
      c, 2,
      inverse_root(b, build(b, "var", IN(rows_of), ATTRS(A_INTS("axes", &axis, 1), A_FLOAT("correction", 0))), eps));
  return KILN_OK;
}

static kiln_status lower_group_norm(lower_call *c) {
  const dim groups = call_int(c, has_arg(c, "group") ? "group" : "num_groups");
  if (!dim_is_const(groups)) return LOWER_FAIL(c, "the number of groups must be constant");
  return group_norm_emit(c, groups);
}

static kiln_status lower_instance_norm(lower_call *c) {
  if (!call_bool(c, "use_input_stats")) return batch_norm_emit(c, false, "eps");
  if (!call_is_none(c, "running_mean"))
    return LOWER_FAIL(c, "updating running statistics is not supported: export the model in eval() mode");
  value *x;
  KILN_TRY(lowering_tensor(c, "input", &x));
  if (x->type.rank < 2 || !dim_is_const(x->type.dims[1]))
    return LOWER_FAIL(c, "argument input: the number of channels must be constant");
  return group_norm_emit(c, x->type.dims[1]);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static const torch_row batch_norm_torch[] = {
    {"aten::batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool "
     "training, float "
     "momentum, float eps, bool cudnn_enabled) -> Tensor",
     NULL, lower_batch_norm},
    {"aten::_native_batch_norm_legit_no_training(Tensor input, Tensor? weight, Tensor? bias, Tensor running_mean, "
     "Tensor running_var, "
     "float momentum, float eps) -> (Tensor, Tensor, Tensor)",
     NULL, lower_batch_norm_eval},
    {"aten::native_batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, "
     "bool training, "
     "float momentum, float eps) -> (Tensor, Tensor, Tensor)",
     NULL, lower_batch_norm},
    {"aten::_native_batch_norm_legit(Tensor input, Tensor? weight, Tensor? bias, Tensor(a!) running_mean, Tensor(b!) "
     "running_var, bool "
     "training, float momentum, float eps) -> (Tensor, Tensor, Tensor)",
     NULL, lower_batch_norm},
    {"aten::_native_batch_norm_legit.no_stats(Tensor input, Tensor? weight, Tensor? bias, bool training, float "
     "momentum, float eps) -> "
     "(Tensor, Tensor, Tensor)",
     NULL, lower_batch_norm_update},
    {"aten::_batch_norm_with_update(Tensor input, Tensor? weight, Tensor? bias, Tensor(a!) running_mean, Tensor(b!) "
     "running_var, float "
     "momentum, float eps) -> (Tensor, Tensor, Tensor, Tensor)",
     NULL, lower_batch_norm_update},
    {"aten::cudnn_batch_norm(Tensor input, Tensor weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, "
     "bool training, float "
     "exponential_average_factor, float epsilon) -> (Tensor, Tensor, Tensor, Tensor)",
     NULL, lower_batch_norm_cudnn},
    {NULL, NULL, NULL}};

static const torch_row layer_norm_torch[] = {
    {"aten::layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float "
     "eps=1.0000000000000001e-05, bool cudnn_enable=True) -> Tensor",
     NULL, lower_layer_norm},
    {"aten::native_layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight, Tensor? bias, float eps) -> "
     "(Tensor, Tensor, "
     "Tensor)",
     NULL, lower_layer_norm},
    {NULL, NULL, NULL}};

static const torch_row rms_norm_torch[] = {
    {"aten::rms_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, float? eps=None) -> Tensor", NULL,
     lower_rms_norm},
    {"aten::_fused_rms_norm(Tensor input, int[] normalized_shape, Tensor? weight, float? eps) -> (Tensor, Tensor)",
     NULL, lower_rms_norm},
    {NULL, NULL, NULL}};

static const torch_row group_norm_torch[] = {{"aten::group_norm(Tensor input, int num_groups, Tensor? weight=None, "
                                              "Tensor? bias=None, float eps=1.0000000000000001e-05, bool "
                                              "cudnn_enabled=True) -> Tensor",
                                              NULL, lower_group_norm},
                                             {"aten::native_group_norm(Tensor input, Tensor? weight, Tensor? bias, "
                                              "SymInt N, SymInt C, SymInt HxW, int group, float eps) -> "
                                              "(Tensor, Tensor, Tensor)",
                                              NULL, lower_group_norm},
                                             {"aten::instance_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? "
                                              "running_mean, Tensor? running_var, bool use_input_stats, "
                                              "float momentum, float eps, bool cudnn_enabled) -> Tensor",
                                              NULL, lower_instance_norm},
                                             {NULL, NULL, NULL}};

static const char *const batch_norm_cases[] = {
    "x:f32[2,C,5,7] mean:f32[C] var:f32[C]=positive gamma:f32[C] beta:f32[C] eps=1e-5 C:1,3,16,33",
    "x:f32[3,4] mean:f32[4] var:f32[4]=positive eps=1e-3",
    "x:f32[2,5,6,4] mean:f32[4] var:f32[4]=positive gamma:f32[4] beta:f32[4] eps=1e-5 channels_last=1",
    "x:f32[0,4,3] mean:f32[4] var:f32[4]=positive eps=1e-5",
    "x:f32[2,3,4,3,2]=inf mean:f32[3] var:f32[3]=positive gamma:f32[3] beta:f32[3] eps=1e-5",
    "x:f64[2,3,4] mean:f64[3] var:f64[3]=positive gamma:f64[3] beta:f64[3] eps=1e-5",
    NULL};
static const char *const layer_norm_cases[] = {
    "x:f32[3,N] gamma:f32[N] beta:f32[N] dims=1 eps=1e-5 N:1,7,8,31,64,65,300",
    "x:f32[2,3,5,8] gamma:f32[5,8] beta:f32[5,8] dims=2 eps=1e-12",
    "x:f32[4,33] dims=1 eps=1e-5",
    "x:f32[2,4,17] gamma:f32[17] dims=1 eps=1e-5",
    "x:f32[0,8] gamma:f32[8] beta:f32[8] dims=1 eps=1e-5",
    "x:f32[3,9]=inf gamma:f32[9] beta:f32[9] dims=1 eps=1e-5",
    "x:f64[3,9] gamma:f64[9] beta:f64[9] dims=1 eps=1e-5",
    NULL};
static const char *const rms_norm_cases[] = {"x:f32[3,N] gamma:f32[N] dims=1 eps=1e-6 N:1,7,8,31,64,65,300",
                                             "x:f32[2,3,5,8] gamma:f32[5,8] dims=2 eps=1e-6",
                                             "x:f32[4,33] dims=1 eps=1e-5",
                                             "x:f32[0,8] gamma:f32[8] dims=1 eps=1e-5",
                                             "x:f32[3,9]=inf gamma:f32[9] dims=1 eps=1e-5",
                                             NULL};
static const char *const group_norm_cases[] = {
    "x:f32[2,12,5,7] gamma:f32[12] beta:f32[12] groups=3 eps=1e-5",
    "x:f32[2,C,9,8] gamma:f32[C] beta:f32[C] groups=1 eps=1e-5 C:1,3,16",
    "x:f32[2,6,4,5] groups=6 eps=1e-5",
    "x:f32[3,8,10] gamma:f32[8] beta:f32[8] groups=4 eps=1e-5",
    "x:f32[2,5,3,8] gamma:f32[8] beta:f32[8] groups=4 eps=1e-5 channels_last=1",
    "x:f32[0,4,5] groups=2 eps=1e-5",
    "x:f32[2,4,5]=inf groups=2 eps=1e-5",
    NULL};
static const char *const local_response_norm_cases[] = {
    "x:f32[2,7,3,4] size=3 alpha=1e-4 beta=0.75 k=1",  "x:f32[2,5,6] size=4 alpha=0.1 beta=0.5 k=2",
    "x:f32[1,9,17,19] size=5 alpha=0.2 beta=0.75 k=1", "x:f32[2,3,5,2,3] size=9 alpha=0.3 beta=1.5 k=0.5",
    "x:f32[1,4,9]=inf size=3 alpha=0.1 beta=0.75 k=1", NULL};

static const op rows[] = {
    {.name = "batch_norm",
     .sig = "x mean var gamma? beta? -> y",
     .attrs = "eps:float channels_last:bool=0",
     .flags = OP_ANCHOR,
     .infer = batch_norm_infer,
     .ref = batch_norm_ref,
     .torch = batch_norm_torch,
     .cases = batch_norm_cases,
     .tolerance = 1e-4f},
    {.name = "layer_norm",
     .sig = "x gamma? beta? -> y",
     .attrs = "dims:int eps:float",
     .flags = OP_ANCHOR,
     .infer = layer_norm_infer,
     .ref = layer_norm_ref,
     .torch = layer_norm_torch,
     .cases = layer_norm_cases,
     .tolerance = 1e-4f},
    {.name = "rms_norm",
     .sig = "x gamma? -> y",
     .attrs = "dims:int eps:float",
     .flags = OP_ANCHOR,
     .infer = layer_norm_infer,
     .ref = rms_norm_ref,
     .torch = rms_norm_torch,
     .cases = rms_norm_cases,
     .tolerance = 1e-4f},
    {.name = "group_norm",
     .sig = "x gamma? beta? -> y",
     .attrs = "groups:int eps:float channels_last:bool=0",
     .flags = OP_ANCHOR,
     .infer = group_norm_infer,
     .ref = group_norm_ref,
     .torch = group_norm_torch,
     .cases = group_norm_cases,
     .tolerance = 1e-4f},
    {.name = "local_response_norm",
     .sig = "x -> y",
     .attrs = "size:int alpha:float beta:float k:float",
     .infer = local_response_norm_infer,
     .ref = local_response_norm_ref,
     .cases = local_response_norm_cases,
     .tolerance = 1e-5f},
};

extern const op_family ops_norm;
OP_FAMILY(ops_norm, rows);
