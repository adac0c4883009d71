/* Products of rows with one of several matrices each (mixtures of experts): rows come sorted by matrix, and `offsets`
 * says where each one's end. */
#include <string.h>

#include "ops/infer.h"
#include "ops/lowering.h"
#include "ops/matmul_lower.h"
#include "ops/ref.h"

static kiln_status grouped_infer(graph *g, node *n) {
  KILN_TRY(infer_rank_between(n, 0, 2, 2));
  KILN_TRY(infer_rank_between(n, 1, 3, 3));
  KILN_TRY(infer_rank_between(n, 2, 1, 1));
  KILN_TRY(infer_float(n, 0));
  const tensor_type *x = in_type(n, 0), *w = in_type(n, 1), *offsets = in_type(n, 2);
  if (w->dtype != x->dtype) return INFER_FAIL(n, "operands x and w have different dtypes");
  if (offsets->dtype != KILN_I32 && offsets->dtype != KILN_I64)
    return INFER_FAIL(n, "operand offsets is %s, expected i32 or i64", kiln_dtype_name(offsets->dtype));
  KILN_TRY(infer_same_dim(g, n, "second sizes of x and w", x->dims[1], w->dims[1]));
  KILN_TRY(infer_same_dim(g, n, "sizes of offsets and of the first dimension of w", offsets->dims[0], w->dims[0]));
  set_out(n, 0, x->dtype, 2, (dim[]){x->dims[0], w->dims[2]});
  return KILN_OK;
}

static kiln_status grouped_ref(const kernel_args *a) {
  const tensor *x = &a->in[0], *w = &a->in[1], *offsets = &a->in[2], *y = &a->out[0];
  const int64_t rows_n = y->shape[0], columns = y->shape[1], k = x->shape[1], groups = w->shape[0];
  int64_t row = 0;
  for (int64_t e = 0; e <= groups; e++) { /* the last: rows of no matrix */
    const int64_t end = e < groups ? ref_load_int(offsets, e * offsets->strides[0]) : rows_n;
    if (end < row || end > rows_n)
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "grouped_matmul: offsets[%lld] is %lld, expected %lld to %lld",
                       (long long)e, (long long)end, (long long)row, (long long)rows_n);
    for (; row < end; row++)
      for (int64_t c = 0; c < columns; c++) {
        double sum = 0;
        for (int64_t i = 0; e < groups && i < k; i++)
          sum += ref_load(x, row * x->strides[0] + i * x->strides[1]) *
                 ref_load(w, e * w->strides[0] + i * w->strides[1] + c * w->strides[2]);
        ref_store(y, row * y->strides[0] + c * y->strides[1], sum);
      }
  }
  return KILN_OK;
}

/* ---- PyTorch ----------------------------------------------------------------------------------------------------- */

static kiln_status lower_grouped(lower_call *c, const char *x_name, const char *w_name) {
  value *x, *w, *offsets = call_tensor(c, "offs");
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, x_name, &x));
  KILN_TRY(lowering_tensor(c, w_name, &w));
  value *y = NULL;
  if (!offsets && x->type.rank == 3 && w->type.rank == 3) {
    y = matmul_product(b, x, w);
  } else if (offsets && x->type.rank == 2 && w->type.rank == 3) {
    y = build(b, "grouped_matmul", IN(x, w, offsets), NO_ATTRS);
  } else {
    return LOWER_FAIL(c, "arguments of ranks %d and %d %s offsets: expected ranks 2 and 3 with, or 3 and 3 without",
                      x->type.rank, w->type.rank, offsets ? "with" : "without");
  }
  call_return(c, 0, y);
  return KILN_OK;
}

static kiln_status lower_grouped_mm(lower_call *c) {
  if (!call_is_none(c, "bias")) return LOWER_FAIL(c, "argument bias is not supported");
  kiln_dtype dtype;
  KILN_TRY(lower_grouped(c, "self", "mat2"));
  KILN_TRY(lowering_dtype(c, "out_dtype", KILN_BOOL, &dtype));
  if (dtype != KILN_BOOL) return LOWER_FAIL(c, "argument out_dtype is not supported");
  return KILN_OK;
}

static kiln_status lower_grouped_fallback(lower_call *c) { return lower_grouped(c, "input", "weight"); }

static const torch_row grouped_torch[] = {
    {"aten::_grouped_mm(Tensor self, Tensor mat2, Tensor? offs=None, Tensor? bias=None, ScalarType? out_dtype=None) -> "
     "Tensor",
     NULL, lower_grouped_mm},
    /* transformers' own operator for the same, where PyTorch's does not do. */
    {"transformers::grouped_mm_fallback(Tensor input, Tensor weight, Tensor offs) -> Tensor", NULL,
     lower_grouped_fallback},
    {NULL, NULL, NULL}};

static const char *const grouped_cases[] = {"x:f32[12,K] w:f32[1,K,9] offsets:i32[1]=range(12,12) K:1,7,40",
                                            "x:f32[M,16] w:f32[3,16,N] offsets:i64[3]=range(2,2) M:2,5,33 N:4,33",
                                            "x:f32[9,5] w:f32[4,5,3] offsets:i32[4]=range(0,0)",
                                            "x:f32[0,4] w:f32[2,4,3] offsets:i32[2]=range(0,0)",
                                            "x:f32[6,0] w:f32[2,0,3] offsets:i32[2]=range(6,6)",
                                            "x:f64[6,5] w:f64[2,5,3] offsets:i32[2]=range(4,4)",
                                            NULL};

static const op rows[] = {
    {.name = "grouped_matmul",
     .sig = "x w offsets -> y",
     .attrs = "",
     .infer = grouped_infer,
     .ref = grouped_ref,
     .torch = grouped_torch,
     .cases = grouped_cases,
     .tolerance = 1e-4f},
};

extern const op_family ops_grouped;
OP_FAMILY(ops_grouped, rows);
