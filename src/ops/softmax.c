/* softmax and log_softmax along one axis. */
#include <math.h>

#include "ops/infer.h"
#include "ops/lowering.h"
#include "ops/op.h"
#include "ops/ref.h"

static kiln_status infer_softmax(graph *g, node *n) {
  KILN_TRY(infer_float(n, 0));
  const int rank = in_type(n, 0)->rank;
  const int64_t axis = node_int(n, "axis");
  if (axis < 0 || axis >= (rank ? rank : 1))
    return INFER_FAIL(n, "axis is %lld, expected 0 to %d", (long long)axis, rank ? rank - 1 : 0);
  return infer_same(g, n);
}

/* exp(x - max) / sum(exp(x - max)), or its logarithm. A row of -inf gives NaN, as PyTorch. */
static void softmax_row(const tensor *in, int64_t from, int64_t in_stride, const tensor *out, int64_t to,
                        int64_t out_stride, int64_t size, bool logarithm) {
  double max = -(double)INFINITY, sum = 0;
  for (int64_t i = 0; i < size; i++) {
    const double x = ref_load(in, from + i * in_stride);
    if (x > max) max = x;
  }
  for (int64_t i = 0; i < size; i++) sum += exp(ref_load(in, from + i * in_stride) - max);
  for (int64_t i = 0; i < size; i++) {
    const double d = ref_load(in, from + i * in_stride) - max;
    ref_store(out, to + i * out_stride, logarithm ? d - log(sum) : exp(d) / sum);
  }
}

static kiln_status softmax(const kernel_args *a, bool logarithm) {
  const tensor *in = &a->in[0], *out = &a->out[0];
  const int64_t axis = arg_int(a, "axis");
  if (in->rank == 0) {
    softmax_row(in, 0, 0, out, 0, 0, 1, logarithm);
    return KILN_OK;
  }
  int64_t shape[KILN_MAX_RANK];
  for (int i = 0; i < in->rank; i++) shape[i] = i == axis ? 1 : in->shape[i];
  for (ref_iter it = ref_begin(in->rank, shape); ref_valid(&it); ref_next(&it)) {
    softmax_row(in, tensor_offset(in, it.index), in->strides[axis], out, tensor_offset(out, it.index),
                out->strides[axis], in->shape[axis], logarithm);
  }
  return KILN_OK;
}
static kiln_status softmax_ref(const kernel_args *a) { return softmax(a, false); }
static kiln_status log_softmax_ref(const kernel_args *a) { return softmax(a, true); }

/* softmax(x, dim, dtype): the input is cast first. */
static kiln_status lower_softmax(lower_call *c) {
  value *x;
  kiln_dtype dtype;
  int axis;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_dtype(c, "dtype", x->type.dtype, &dtype));
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  x = lowering_float(&c->b, lower_cast(&c->b, x, dtype));
  call_return(c, 0, build(&c->b, c->schema->op->name, IN(x), ATTRS(A_INT("axis", axis))));
  return KILN_OK;
}

static kiln_status lower_internal_softmax(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  if (call_bool(c, "half_to_float")) x = lower_cast(&c->b, x, KILN_F32);
  call_return(c, 0, build(&c->b, c->schema->op->name, IN(x), ATTRS(A_INT("axis", axis))));
  return KILN_OK;
}

static const torch_row torch_softmax[] = {
    {"aten::softmax.int(Tensor self, int dim, ScalarType? dtype=None) -> Tensor", NULL, lower_softmax},
    {"aten::_softmax(Tensor self, int dim, bool half_to_float) -> Tensor", NULL, lower_internal_softmax},
    {"aten::special_softmax(Tensor self, int dim, ScalarType? dtype=None) -> Tensor", NULL, lower_softmax},
    {NULL, NULL, NULL}};
static const torch_row torch_log_softmax[] = {
    {"aten::log_softmax.int(Tensor self, int dim, ScalarType? dtype=None) -> Tensor", NULL, lower_softmax},
    {"aten::_log_softmax(Tensor self, int dim, bool half_to_float) -> Tensor", NULL, lower_internal_softmax},
    {"aten::special_log_softmax(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor", NULL, lower_softmax},
    {NULL, NULL, NULL}};

static const char *const cases_softmax[] = {"x:f32[3,N] axis=1 N:1,7,8,15,16,17,31,33,63,64,65,1000",
                                            "x:f32[2,3,5,33] axis=3",
                                            "x:f32[3,9,5] axis=1",
                                            "x:f32[17,65] axis=0",
                                            "x:f32[2,65]=uniform(-90,90) axis=1",
                                            "x:f32[6,9]=inf axis=1",
                                            "x:f32[] axis=0",
                                            "x:f32[0,3] axis=1",
                                            "x:f32[3,0] axis=1",
                                            "x:f16[3,65] axis=1",
                                            "x:bf16[3,65] axis=1",
                                            "x:f64[3,65] axis=1",
                                            NULL};

static const op rows[] = {
    {.name = "softmax",
     .sig = "x -> y",
     .attrs = "axis:int=0",
     .infer = infer_softmax,
     .ref = softmax_ref,
     .torch = torch_softmax,
     .cases = cases_softmax,
     .tolerance = 2e-6f},
    {.name = "log_softmax",
     .sig = "x -> y",
     .attrs = "axis:int=0",
     .infer = infer_softmax,
     .ref = log_softmax_ref,
     .torch = torch_log_softmax,
     .cases = cases_softmax,
     .tolerance = 1e-5f},
};

OP_FAMILY(ops_softmax, rows);
