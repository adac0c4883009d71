/* Operators without operands: full, arange, eye, and size, which turns a symbolic size into data. */
#include <math.h>
#include <stdlib.h>

#include "ops/infer.h"
#include "ops/lowering.h"
#include "ops/op.h"
#include "ops/ref.h"

/* ---- inference --------------------------------------------------------------------------------------------------- */

static kiln_status infer_created(node *n, int rank, const dim *dims) {
  const int64_t dtype = node_int(n, "dtype");
  if (dtype < 0 || dtype >= KILN_DTYPE_COUNT) return INFER_FAIL(n, "dtype %lld does not exist", (long long)dtype);
  if (rank > KILN_MAX_RANK)
    return INFER_FAIL(n, "shape has %d dimensions, at most %d are possible", rank, KILN_MAX_RANK);
  for (int i = 0; i < rank; i++) {
    if (dims[i] == DIM_ERROR) return INFER_FAIL(n, "size %d cannot be computed", i);
    if (dim_is_const(dims[i]) && dims[i] < 0)
      return INFER_FAIL(n, "size %d is %lld, expected 0 or more", i, (long long)dims[i]);
  }
  set_out(n, 0, (kiln_dtype)dtype, rank, dims);
  return KILN_OK;
}

static kiln_status infer_full(graph *g, node *n) {
  (void)g;
  const attr *shape = node_attr(n, "shape");
  return infer_created(n, shape->count, shape->u.ints);
}

static kiln_status infer_arange(graph *g, node *n) {
  (void)g;
  const dim count = node_int(n, "count");
  return infer_created(n, 1, &count);
}

static kiln_status infer_eye(graph *g, node *n) {
  (void)g;
  const dim dims[2] = {node_int(n, "rows"), node_int(n, "cols")};
  return infer_created(n, 2, dims);
}

static kiln_status infer_size(graph *g, node *n) {
  (void)g;
  if (node_int(n, "value") == DIM_ERROR) return INFER_FAIL(n, "value cannot be computed");
  set_out(n, 0, KILN_I64, 0, NULL);
  return KILN_OK;
}

/* ---- reference --------------------------------------------------------------------------------------------------- */

static kiln_status full_ref(const kernel_args *a) {
  const tensor *out = &a->out[0];
  const double fill = arg_float(a, "value");
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it))
    ref_store(out, tensor_offset(out, it.index), fill);
  return KILN_OK;
}

static kiln_status arange_ref(const kernel_args *a) {
  const tensor *out = &a->out[0];
  const double start = arg_float(a, "start"), step = arg_float(a, "step");
  for (int64_t i = 0; i < out->shape[0]; i++) ref_store(out, i * out->strides[0], start + (double)i * step);
  return KILN_OK;
}

static kiln_status eye_ref(const kernel_args *a) {
  const tensor *out = &a->out[0];
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
    ref_store(out, tensor_offset(out, it.index), it.index[0] == it.index[1]);
  }
  return KILN_OK;
}

static kiln_status size_ref(const kernel_args *a) {
  ref_store_int(&a->out[0], 0, arg_int(a, "value"));
  return KILN_OK;
}

/* ---- PyTorch: full and its relatives ----------------------------------------------------------------------------- */

/* A number argument as a tensor of this shape. Symbolic numbers and integers that a float attribute cannot hold go
 * through a scalar. */
static kiln_status filled(lower_call *c, const char *name, kiln_dtype dtype, int rank, const dim *dims) {
  const ivalue *v = call_arg(c, name);
  const bool exact =
      v->kind != IV_INT || (dim_is_const(v->u.i) && v->u.i < INT64_C(1) << 53 && v->u.i >= -(INT64_C(1) << 53));
  if (v->kind != IV_TENSOR && exact) {
    const double number = v->kind == IV_FLOAT ? v->u.f : (double)v->u.i;
    call_return(c, 0, lowering_full(&c->b, dtype, rank, dims, number));
    return KILN_OK;
  }
  value *scalar;
  KILN_TRY(lowering_tensor(c, name, &scalar));
  call_return(c, 0, lower_expand(&c->b, lower_cast(&c->b, scalar, dtype), rank, dims));
  return KILN_OK;
}

static kiln_dtype dtype_of_number(const ivalue *v) {
  return v->kind == IV_FLOAT ? KILN_F32 : v->kind == IV_BOOL ? KILN_BOOL : v->kind == IV_INT ? KILN_I64 : KILN_F32;
}

/* zeros(size), ones, empty: constant contents. */
static kiln_status sized(lower_call *c, double number) {
  dim dims[KILN_MAX_RANK];
  int rank;
  kiln_dtype dtype;
  KILN_TRY(lowering_sizes(c, "size", dims, &rank));
  KILN_TRY(lowering_dtype(c, "dtype", KILN_F32, &dtype));
  call_return(c, 0, lowering_full(&c->b, dtype, rank, dims, number));
  return KILN_OK;
}
static kiln_status lower_zeros(lower_call *c) { return sized(c, 0); }
static kiln_status lower_ones(lower_call *c) { return sized(c, 1); }

static kiln_status lower_full(lower_call *c) {
  dim dims[KILN_MAX_RANK];
  int rank;
  kiln_dtype dtype;
  KILN_TRY(lowering_sizes(c, "size", dims, &rank));
  KILN_TRY(lowering_dtype(c, "dtype", dtype_of_number(call_arg(c, "fill_value")), &dtype));
  return filled(c, "fill_value", dtype, rank, dims);
}

/* zeros_like(self) and so on. */
static kiln_status like(lower_call *c, double number) {
  value *x;
  kiln_dtype dtype;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_dtype(c, "dtype", x->type.dtype, &dtype));
  call_return(c, 0, lowering_full(&c->b, dtype, x->type.rank, x->type.dims, number));
  return KILN_OK;
}
static kiln_status lower_zeros_like(lower_call *c) { return like(c, 0); }
static kiln_status lower_ones_like(lower_call *c) { return like(c, 1); }

static kiln_status lower_full_like(lower_call *c) {
  value *x;
  kiln_dtype dtype;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_dtype(c, "dtype", x->type.dtype, &dtype));
  return filled(c, "fill_value", dtype, x->type.rank, x->type.dims);
}

static kiln_status lower_zero(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, "self", &x));
  call_return(c, 0, lowering_full(&c->b, x->type.dtype, x->type.rank, x->type.dims, 0));
  return KILN_OK;
}

static kiln_status lower_fill(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, "self", &x));
  return filled(c, "value", x->type.dtype, x->type.rank, x->type.dims);
}

/* self.new_zeros(size): the dtype of self. */
static kiln_status new_sized(lower_call *c, double number) {
  value *x;
  dim dims[KILN_MAX_RANK];
  int rank;
  kiln_dtype dtype;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_sizes(c, "size", dims, &rank));
  KILN_TRY(lowering_dtype(c, "dtype", x->type.dtype, &dtype));
  call_return(c, 0, lowering_full(&c->b, dtype, rank, dims, number));
  return KILN_OK;
}
static kiln_status lower_new_zeros(lower_call *c) { return new_sized(c, 0); }
static kiln_status lower_new_ones(lower_call *c) { return new_sized(c, 1); }

static kiln_status lower_new_full(lower_call *c) {
  value *x;
  dim dims[KILN_MAX_RANK];
  int rank;
  kiln_dtype dtype;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_sizes(c, "size", dims, &rank));
  KILN_TRY(lowering_dtype(c, "dtype", x->type.dtype, &dtype));
  return filled(c, "fill_value", dtype, rank, dims);
}

static kiln_status lower_scalar_tensor(lower_call *c) {
  kiln_dtype dtype;
  KILN_TRY(lowering_dtype(c, "dtype", KILN_F32, &dtype));
  return filled(c, "s", dtype, 0, NULL);
}

/* Here the dtype defaults to the number's own. */
static kiln_status lower_prims_scalar_tensor(lower_call *c) {
  kiln_dtype dtype;
  KILN_TRY(lowering_dtype(c, "dtype", dtype_of_number(call_arg(c, "s")), &dtype));
  return filled(c, "s", dtype, 0, NULL);
}

static kiln_status lower_eye(lower_call *c) {
  kiln_dtype dtype;
  KILN_TRY(lowering_dtype(c, "dtype", KILN_F32, &dtype));
  const dim rows = call_int(c, "n"), cols = str_eq(c->schema->overload, "m") ? call_int(c, "m") : rows;
  call_return(c, 0,
              build(&c->b, "eye", 0, NULL, ATTRS(A_INT("rows", rows), A_INT("cols", cols), A_DTYPE("dtype", dtype))));
  return KILN_OK;
}

/* ---- PyTorch: ranges --------------------------------------------------------------------------------------------- */

static value *arange(builder *b, double start, double step, dim count, kiln_dtype dtype) {
  return build(b, "arange", 0, NULL,
               ATTRS(A_FLOAT("start", start), A_FLOAT("step", step), A_INT("count", count), A_DTYPE("dtype", dtype)));
}

/* All three are integers, start and end maybe symbolic. */
static kiln_status arange_int(lower_call *c, dim start, dim end, dim step, kiln_dtype dtype) {
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  if (!dim_is_const(step) || step == 0 || llabs(step) > INT32_MAX)
    return LOWER_FAIL(c, "argument step must be a constant other than 0");
  const dim span = step > 0 ? dim_sub(t, end, start) : dim_sub(t, start, end), stride = step > 0 ? step : -step;
  dim count = lowering_max(t, dim_floordiv(t, dim_add(t, span, stride - 1), stride), 0);
  const bool plain = dim_is_const(start) && llabs(start) < INT64_C(1) << 53;
  value *v = arange(b, plain ? (double)start : 0, (double)step, count, plain ? dtype : KILN_I64);
  if (!plain) v = lower_cast(b, lower_binary(b, "add", v, lower_size_tensor(b, start)), dtype);
  call_return(c, 0, v);
  return KILN_OK;
}

/* Floats without a fraction beside a symbolic size (arange(n, -n, -1.0)): the integers' arithmetic serves them. */
static bool whole_numbers(const ivalue *start, const ivalue *end, const ivalue *step, dim *out) {
  const ivalue *v[3] = {start, end, step};
  bool symbolic = false;
  for (int i = 0; i < 3; i++) {
    if (v[i]->kind == IV_FLOAT) {
      if (!(fabs(v[i]->u.f) < 1e9) || v[i]->u.f != floor(v[i]->u.f)) return false;
      out[i] = (dim)v[i]->u.f;
    } else {
      out[i] = v[i]->u.i;
      symbolic |= !dim_is_const(out[i]);
    }
  }
  return symbolic;
}

static kiln_status lower_arange(lower_call *c) {
  static const ivalue zero = {.kind = IV_INT}, one = {.kind = IV_INT, .u = {.i = 1}};
  const char *overload = c->schema->overload;
  const ivalue *start = *overload ? call_arg(c, "start") : &zero, *end = call_arg(c, "end");
  const ivalue *step = str_eq(overload, "start_step") ? call_arg(c, "step") : &one;
  const bool integers = start->kind != IV_FLOAT && end->kind != IV_FLOAT && step->kind != IV_FLOAT;
  kiln_dtype dtype;
  KILN_TRY(lowering_dtype(c, "dtype", integers ? KILN_I64 : KILN_F32, &dtype));
  if (integers) return arange_int(c, start->u.i, end->u.i, step->u.i, dtype);
  dim whole[3];
  if (whole_numbers(start, end, step, whole)) return arange_int(c, whole[0], whole[1], whole[2], dtype);
  double from = *overload ? call_float(c, "start") : 0, by = step == &one ? 1 : call_float(c, "step");
  double end_at = call_float(c, "end");
  if (dtype == KILN_I64) { /* i64 ranges are counted in integers, others of integers in double */
    from = trunc(from);
    by = trunc(by);
    end_at = trunc(end_at);
  }
  const double count = ceil((end_at - from) / by);
  if (dtype_is_int(dtype)) {
    from = trunc(from);
    by = trunc(by);
  }
  if (!(count <= (double)INT32_MAX)) return LOWER_FAIL(c, "the range is too long, infinite or has a step of 0");
  call_return(c, 0, arange(&c->b, from, by, count > 0 ? (int64_t)count : 0, dtype));
  return KILN_OK;
}

/* Both halves start from their own end, in the dtype's own arithmetic, as PyTorch does. */
static kiln_status lower_linspace(lower_call *c) {
  const double start = call_float(c, "start"), end = call_float(c, "end");
  const dim steps = call_int(c, "steps");
  kiln_dtype dtype;
  KILN_TRY(lowering_dtype(c, "dtype", KILN_F32, &dtype));
  if (!dim_is_const(steps) || steps < 0 || steps > INT32_MAX)
    return LOWER_FAIL(c, "argument steps must be a constant of 0 or more");
  const tensor_type type = type_of(dtype, 1, &steps);
  tensor t = {.dtype = dtype, .rank = 1, .shape = {steps}, .strides = {1}};
  t.data = arena_array(&c->b.graph->arena, (size_t)steps + 1, sizeof(double));
  if (!t.data) return KILN_NO_MEMORY("linspace");
  const float start_f = (float)start, end_f = (float)end,
              step_f = steps > 1 ? (end_f - start_f) / (float)(steps - 1) : 0;
  const double step = steps > 1 ? (end - start) / (double)(steps - 1) : 0;
  for (int64_t i = 0; i < steps; i++) {
    const int64_t back = steps - 1 - i;
    const float in_float = i < steps / 2 ? start_f + step_f * (float)i : end_f - step_f * (float)back;
    const double in_double = i < steps / 2 ? start + step * (double)i : end - step * (double)back;
    ref_store(&t, i, dtype == KILN_F32 ? (double)in_float : steps == 1 ? start : in_double);
  }
  if (steps == 1) ref_store(&t, 0, start);
  call_return(c, 0, graph_constant(c->b.graph, &type, t.data));
  return KILN_OK;
}

/* Likewise: the exponents are in the dtype's arithmetic (in float for integers), the powers in double. */
static kiln_status lower_logspace(lower_call *c) {
  enum { MAX_STEPS = 1 << 24 };
  const double start = call_float(c, "start"), end = call_float(c, "end"), base = call_float(c, "base");
  const dim steps = call_int(c, "steps");
  kiln_dtype dtype;
  KILN_TRY(lowering_dtype(c, "dtype", KILN_F32, &dtype));
  if (!dim_is_const(steps) || steps < 0 || steps > MAX_STEPS)
    return LOWER_FAIL(c, "argument steps must be a constant from 0 to %d", MAX_STEPS);
  const tensor_type type = type_of(dtype, 1, &steps);
  tensor t = {.dtype = dtype, .rank = 1, .shape = {steps}, .strides = {1}};
  t.data = arena_array(&c->b.graph->arena, (size_t)steps + 1, sizeof(double));
  if (!t.data) return KILN_NO_MEMORY("logspace");
  const bool exact = dtype == KILN_F64, whole = !dtype_is_float(dtype);
  const double from = whole ? trunc(start) : exact ? start : (double)(float)start;
  const double to = whole ? trunc(end) : exact ? end : (double)(float)end;
  const double gap = steps > 1 ? (to - from) / (double)(steps - 1) : 0, step = exact ? gap : (double)(float)gap;
  for (int64_t i = 0; i < steps; i++) {
    double exponent = i < steps / 2 ? from + step * (double)i : to - step * (double)(steps - 1 - i);
    if (steps == 1) exponent = from;
    const double v = pow(base, exact ? exponent : (double)(float)exponent);
    ref_store(&t, i, whole && !(fabs(v) < 9.2e18) ? 0 : v);
  }
  call_return(c, 0, graph_constant(c->b.graph, &type, t.data));
  return KILN_OK;
}

/* Rows and columns of the elements of a triangle, in row-major order, as [2, count]. */
static kiln_status triangle_indices(lower_call *c, bool lower) {
  const dim rows = call_int(c, "row"), cols = call_int(c, "col"), offset = call_int(c, "offset");
  kiln_dtype dtype;
  KILN_TRY(lowering_dtype(c, "dtype", KILN_I64, &dtype));
  if (!dim_is_const(rows) || !dim_is_const(cols) || rows < 0 || cols < 0 || rows > 32768 || cols > 32768) {
    return LOWER_FAIL(c, "row and col must be constants from 0 to 32768");
  }
  dim dims[2] = {2, 0};
  for (int pass = 0; pass < 2; pass++) {
    int64_t *at = pass ? ARENA_ARRAY(&c->b.graph->arena, int64_t, 2 * dims[1] + 1) : NULL, n = 0;
    if (pass && !at) return KILN_NO_MEMORY("triangle indices");
    for (int64_t i = 0; i < rows; i++) {
      for (int64_t k = 0; k < cols; k++) {
        if (lower ? k - i > offset : k - i < offset) continue;
        if (at) at[n] = i;
        if (at) at[dims[1] + n] = k;
        n++;
      }
    }
    dims[1] = n;
    const tensor_type type = type_of(KILN_I64, 2, dims);
    if (at) call_return(c, 0, lower_cast(&c->b, graph_constant(c->b.graph, &type, at), dtype));
  }
  return KILN_OK;
}
static kiln_status lower_tril_indices(lower_call *c) { return triangle_indices(c, true); }
static kiln_status lower_triu_indices(lower_call *c) { return triangle_indices(c, false); }

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static const torch_row torch_full[] = {
    {"prims::scalar_tensor(Scalar s, *, ScalarType? dtype=None, Device? device=None) -> Tensor", NULL,
     lower_prims_scalar_tensor},
    {"aten::zeros(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? "
     "pin_memory=None) -> Tensor",
     NULL, lower_zeros},
    {"aten::ones(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? "
     "pin_memory=None) -> Tensor",
     NULL, lower_ones},
    {"aten::empty.memory_format(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, "
     "bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor",
     NULL, lower_zeros},
    {"aten::empty_strided(SymInt[] size, SymInt[] stride, *, ScalarType? dtype=None, Layout? layout=None, Device? "
     "device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_zeros},
    {"aten::empty_permuted(SymInt[] size, int[] physical_layout, *, ScalarType? dtype=None, Layout? layout=None, "
     "Device? device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_zeros},
    {"aten::full(SymInt[] size, Scalar fill_value, *, ScalarType? dtype=None, Layout? layout=None, Device? "
     "device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_full},
    {"aten::zeros_like(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? "
     "pin_memory=None, MemoryFormat? memory_format=None) -> Tensor",
     NULL, lower_zeros_like},
    {"aten::ones_like(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? "
     "pin_memory=None, MemoryFormat? memory_format=None) -> Tensor",
     NULL, lower_ones_like},
    {"aten::empty_like(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? "
     "pin_memory=None, MemoryFormat? memory_format=None) -> Tensor",
     NULL, lower_zeros_like},
    {"aten::full_like(Tensor self, Scalar fill_value, *, ScalarType? dtype=None, Layout? layout=None, Device? "
     "device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor",
     NULL, lower_full_like},
    {"aten::new_zeros(Tensor self, SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, "
     "bool? pin_memory=None) -> Tensor",
     NULL, lower_new_zeros},
    {"aten::new_ones(Tensor self, SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, "
     "bool? pin_memory=None) -> Tensor",
     NULL, lower_new_ones},
    {"aten::new_empty(Tensor self, SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, "
     "bool? pin_memory=None) -> Tensor",
     NULL, lower_new_zeros},
    {"aten::new_empty_strided(Tensor self, SymInt[] size, SymInt[] stride, *, ScalarType? dtype=None, Layout? "
     "layout=None, Device? device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_new_zeros},
    {"aten::new_full(Tensor self, SymInt[] size, Scalar fill_value, *, ScalarType? dtype=None, Layout? layout=None, "
     "Device? device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_new_full},
    {"aten::zero(Tensor self) -> Tensor", NULL, lower_zero},
    {"aten::fill.Scalar(Tensor self, Scalar value) -> Tensor", NULL, lower_fill},
    {"aten::fill.Tensor(Tensor self, Tensor value) -> Tensor", NULL, lower_fill},
    {"aten::scalar_tensor(Scalar s, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? "
     "pin_memory=None) -> Tensor",
     NULL, lower_scalar_tensor},
    {NULL, NULL, NULL}};

static const torch_row torch_arange[] = {
    {"aten::arange(Scalar end, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? "
     "pin_memory=None) -> Tensor",
     NULL, lower_arange},
    {"aten::arange.start(Scalar start, Scalar end, *, ScalarType? dtype=None, Layout? layout=None, Device? "
     "device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_arange},
    {"aten::arange.start_step(Scalar start, Scalar end, Scalar step=1, *, ScalarType? dtype=None, Layout? layout=None, "
     "Device? device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_arange},
    {"aten::linspace(Scalar start, Scalar end, int steps, *, ScalarType? dtype=None, Layout? layout=None, Device? "
     "device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_linspace},
    {"aten::logspace(Scalar start, Scalar end, int steps, float base=10.0, *, ScalarType? dtype=None, Layout? "
     "layout=None, "
     "Device? device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_logspace},
    {"aten::tril_indices(int row, int col, int offset=0, *, ScalarType? dtype=4, Layout? layout=None, Device? "
     "device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_tril_indices},
    {"aten::triu_indices(int row, int col, int offset=0, *, ScalarType? dtype=4, Layout? layout=None, Device? "
     "device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_triu_indices},
    {NULL, NULL, NULL}};

static const torch_row torch_eye[] = {{"aten::eye(SymInt n, *, ScalarType? dtype=None, Layout? layout=None, Device? "
                                       "device=None, bool? pin_memory=None) -> Tensor",
                                       NULL, lower_eye},
                                      {"aten::eye.m(SymInt n, SymInt m, *, ScalarType? dtype=None, Layout? "
                                       "layout=None, Device? device=None, bool? pin_memory=None) -> Tensor",
                                       NULL, lower_eye},
                                      {NULL, NULL, NULL}};

static const char *const cases_full[] = {"shape=[2,3] value=1.5 dtype=f32", "shape=[] value=-3 dtype=i64",
                                         "shape=[0,4] value=1 dtype=f32",   "shape=[5] value=1 dtype=bool",
                                         "shape=[9] value=0.1 dtype=f16",   NULL};
static const char *const cases_arange[] = {
    "start=0 step=1 count=10 dtype=i64", "start=-1.5 step=0.25 count=17 dtype=f32", "start=5 step=-2 count=4 dtype=i32",
    "start=0 step=1 count=0 dtype=f32", NULL};
static const char *const cases_eye[] = {"rows=3 cols=5 dtype=f32", "rows=4 cols=4 dtype=i64", "rows=0 cols=2 dtype=f32",
                                        NULL};
static const char *const cases_size[] = {"value=7", NULL};

static const op rows[] = {
    {.name = "full",
     .sig = "-> y",
     .attrs = "shape:ints value:float dtype:dtype",
     .infer = infer_full,
     .ref = full_ref,
     .torch = torch_full,
     .cases = cases_full},
    {.name = "arange",
     .sig = "-> y",
     .attrs = "start:float step:float count:int dtype:dtype",
     .infer = infer_arange,
     .ref = arange_ref,
     .torch = torch_arange,
     .cases = cases_arange},
    {.name = "eye",
     .sig = "-> y",
     .attrs = "rows:int cols:int dtype:dtype",
     .infer = infer_eye,
     .ref = eye_ref,
     .torch = torch_eye,
     .cases = cases_eye},
    {.name = "size", .sig = "-> y", .attrs = "value:int", .infer = infer_size, .ref = size_ref, .cases = cases_size},
};

OP_FAMILY(ops_creation, rows);
