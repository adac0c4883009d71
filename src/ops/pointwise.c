/* Pointwise operators: the rows of ops/pointwise_rows.h expanded into reference kernels and operator rows, `cast`, and
 * `pointwise`, the operator that backends fuse chains of the others into. */
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/pointwise_lower.h"
#include "ops/pointwise_rows.h"
#include "ops/ref.h"
#include "ops/scalar_math.h"

/* ---- expressions as functions ------------------------------------------------------------------------------------ */

#define p0 (p[0])
#define p1 (p[1])
#define p2 (p[2])
#define IGNORE_UNUSED (void)x, (void)y, (void)z, (void)p
#define SCALAR(name, expression)                                               \
  static double scalar_##name(double x, double y, double z, const double *p) { \
    IGNORE_UNUSED;                                                             \
    return (double)(expression);                                               \
  }
#define INTEGER(name, expression)                                                   \
  static int64_t integer_##name(int64_t x, int64_t y, int64_t z, const double *p) { \
    IGNORE_UNUSED;                                                                  \
    return (int64_t)(expression);                                                   \
  }
#define F(name, arity, result, attrs, flags, tolerance, cases, expression) SCALAR(name, expression)
#define FI(name, arity, result, attrs, flags, tolerance, cases, expression, integer_expression) \
  SCALAR(name, expression)                                                                      \
  INTEGER(name, integer_expression)
#define I(name, arity, result, attrs, flags, tolerance, cases, integer_expression) INTEGER(name, integer_expression)
POINTWISE_ROWS(F, FI, I)
#undef F
#undef FI
#undef I
#undef p0
#undef p1
#undef p2

/* ---- reference --------------------------------------------------------------------------------------------------- */

enum { MAX_PARAMETERS = 4 };

static void parameters(const kernel_args *a, double p[MAX_PARAMETERS]) {
  const op_schema *schema = op_schema_of(a->node->op);
  int n = 0;
  for (int i = 0; i < schema->n_attrs && n < MAX_PARAMETERS; i++) {
    if (schema->attrs[i].kind == ATTR_FLOAT) p[n++] = a->attrs[i].u.f;
  }
}

/* Elements of `t` for `out`'s last dimensions from `k` on: 1 if they lie side by side as out's do, 0 if it has one for all of them, -1
 * otherwise. */
static int step_behind(const tensor *t, const tensor *out, int k) {
  bool same = true, one = true;
  int64_t expected = 1;
  for (int d = out->rank - 1; d >= k; d--) {
    const int own = d - (out->rank - t->rank);
    const int64_t size = own >= 0 ? t->shape[own] : 1;
    same = same && size == out->shape[d] && (size == 1 || t->strides[own] == expected);
    one = one && size == 1;
    expected *= out->shape[d];
  }
  return same ? 1 : one ? 0 : -1;
}

/* Weights of engines are folded by this: rows of f32 as long as all operands allow, the same numbers as below. False if there are none. */
static bool pointwise_rows(const kernel_args *a, int n, const double *p) {
  const op *o = a->node->op;
  const tensor *out = &a->out[0];
  bool plain = out->dtype == KILN_F32 && o->scalar;
  for (int i = 0; i < n; i++) plain = plain && a->in[i].dtype == KILN_F32;
  int k = out->rank, steps[3] = {0};
  for (bool fits = plain; fits && k > 0;) {
    fits = step_behind(out, out, k - 1) == 1;
    for (int i = 0; i < n; i++) fits = fits && step_behind(&a->in[i], out, k - 1) >= 0;
    k -= fits;
  }
  int64_t row = 1;
  for (int d = k; d < out->rank; d++) row *= out->shape[d];
  if (!plain || row < 8) return false;
  for (int i = 0; i < n; i++) steps[i] = step_behind(&a->in[i], out, k);
  for (ref_iter it = ref_begin(k, out->shape); ref_valid(&it); ref_next(&it)) {
    const float *in[3] = {0};
    int64_t at = 0;
    for (int d = 0; d < k; d++) at += it.index[d] * out->strides[d];
    float *to = (float *)out->data + at;
    for (int i = 0; i < n; i++) {
      const tensor *t = &a->in[i];
      in[i] = t->data;
      for (int d = 0; d < k; d++) {
        const int own = d - (out->rank - t->rank);
        if (own >= 0 && t->shape[own] != 1) in[i] += it.index[d] * t->strides[own];
      }
    }
    for (int64_t j = 0; j < row; j++) {
      double v[3] = {0};
      for (int i = 0; i < n; i++) v[i] = (double)in[i][j * steps[i]];
      to[j] = (float)o->scalar(v[0], v[1], v[2], p);
    }
  }
  return true;
}

static kiln_status pointwise_ref(const kernel_args *a) {
  const op *o = a->node->op;
  const int n = op_schema_of(o)->n_in;
  double p[MAX_PARAMETERS] = {0};
  parameters(a, p);
  const tensor *out = &a->out[0];
  const bool integer = o->integer && !dtype_is_float(a->in[n - 1].dtype);
  if (!integer && !o->scalar) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s takes integers only", o->name);
  if (pointwise_rows(a, n, p)) return KILN_OK;
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
    const int64_t at = tensor_offset(out, it.index);
    if (integer) {
      int64_t v[3] = {0};
      for (int i = 0; i < n; i++) v[i] = ref_load_int(&a->in[i], ref_offset(&a->in[i], &it));
      ref_store_int(out, at, o->integer(v[0], v[1], v[2], p));
    } else {
      double v[3] = {0};
      for (int i = 0; i < n; i++) v[i] = ref_load(&a->in[i], ref_offset(&a->in[i], &it));
      ref_store(out, at, o->scalar(v[0], v[1], v[2], p));
    }
  }
  return KILN_OK;
}

static kiln_status cast_ref(const kernel_args *a) {
  const tensor *in = &a->in[0], *out = &a->out[0];
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
    ref_copy_element(in, ref_offset(in, &it), out, tensor_offset(out, it.index));
  }
  return KILN_OK;
}

/* ---- inference --------------------------------------------------------------------------------------------------- */

static kiln_status infer_pointwise(graph *g, node *n, bool to_bool) {
  const op *o = n->op;
  const int count = op_schema_of(o)->n_in;
  const bool has_condition = count == 3;
  tensor_type out = *in_type(n, count - 1);
  if (!o->integer) KILN_TRY(infer_float(n, count - 1));
  if (!o->scalar && dtype_is_float(out.dtype)) {
    return INFER_FAIL(n, "operands are %s, expected integers or bool", kiln_dtype_name(out.dtype));
  }
  for (int i = 0; i < count; i++) {
    const tensor_type *t = in_type(n, i);
    const kiln_dtype expected = has_condition && i == 0 ? KILN_BOOL : out.dtype;
    if (t->dtype != expected) {
      return INFER_FAIL(n, "operand %d is %s, expected %s", i, kiln_dtype_name(t->dtype), kiln_dtype_name(expected));
    }
    if (i < count - 1) KILN_TRY(infer_broadcast(g, n, t, &out, &out));
  }
  set_out(n, 0, to_bool ? KILN_BOOL : out.dtype, out.rank, out.dims);
  return KILN_OK;
}
static kiln_status infer_pointwise_SAME(graph *g, node *n) { return infer_pointwise(g, n, false); }
static kiln_status infer_pointwise_BOOL(graph *g, node *n) { return infer_pointwise(g, n, true); }

static kiln_status infer_cast(graph *g, node *n) {
  (void)g;
  const tensor_type *t = in_type(n, 0);
  const int64_t dtype = node_int(n, "dtype");
  if (dtype < 0 || dtype >= KILN_DTYPE_COUNT) return INFER_FAIL(n, "dtype %lld does not exist", (long long)dtype);
  set_out(n, 0, (kiln_dtype)dtype, t->rank, t->dims);
  return KILN_OK;
}

/* ---- pointwise: a body of the operators above -------------------------------------------------------------------- */

static kiln_status infer_body(graph *g, node *n) {
  if (n->n_blocks != 1) { /* the body is attached after the node is made */
    tensor_type out = n->n_inputs > 0 ? *in_type(n, 0) : type_of(KILN_F32, 0, NULL);
    for (int i = 1; i < n->n_inputs; i++) KILN_TRY(infer_broadcast(g, n, in_type(n, i), &out, &out));
    n->outputs[0]->type = out;
    return KILN_OK;
  }
  block *body = n->blocks[0];
  if (body->n_params != n->n_inputs || body->n_results != 1) {
    return INFER_FAIL(n, "the body has %d parameters and %d results, expected %d and 1", body->n_params,
                      body->n_results, n->n_inputs);
  }
  for (int i = 0; i < n->n_inputs; i++) body->params[i]->type = *in_type(n, i);
  for (node *m = body->first; m; m = m->next) {
    if (!(m->op->flags & OP_POINTWISE) || m->n_blocks)
      return INFER_FAIL(n, "the body has %s, which is not pointwise", m->op->name);
    KILN_TRY(node_infer(m));
  }
  n->outputs[0]->type = body->results[0].v->type;
  return KILN_OK;
}

/* ---- how PyTorch calls them -------------------------------------------------------------------------------------- */

static const torch_row torch_neg[] = {{"aten::neg(Tensor self) -> Tensor", NULL, lower_unary},
                                      {"aten::negative(Tensor self) -> Tensor", NULL, lower_unary},
                                      {NULL, NULL, NULL}};
static const torch_row torch_abs[] = {{"aten::abs(Tensor self) -> Tensor", NULL, lower_unary},
                                      {"aten::absolute(Tensor self) -> Tensor", NULL, lower_unary},
                                      {NULL, NULL, NULL}};
static const torch_row torch_relu[] = {{"aten::relu(Tensor self) -> Tensor", NULL, lower_unary}, {NULL, NULL, NULL}};
static const torch_row torch_sigmoid[] = {{"aten::sigmoid(Tensor self) -> Tensor", NULL, lower_unary_float},
                                          {"aten::special_expit(Tensor self) -> Tensor", NULL, lower_unary_float},
                                          {"aten::glu(Tensor self, int dim=-1) -> Tensor", NULL, lower_glu},
                                          {NULL, NULL, NULL}};
static const torch_row torch_tanh[] = {{"aten::tanh(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {NULL, NULL, NULL}};
static const torch_row torch_exp[] = {{"aten::exp(Tensor self) -> Tensor", NULL, lower_unary_float},
                                      {NULL, NULL, NULL}};
static const torch_row torch_exp2[] = {{"aten::exp2(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {"aten::special_exp2(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {NULL, NULL, NULL}};
static const torch_row torch_expm1[] = {{"aten::expm1(Tensor self) -> Tensor", NULL, lower_unary_float},
                                        {"aten::special_expm1(Tensor self) -> Tensor", NULL, lower_unary_float},
                                        {NULL, NULL, NULL}};
static const torch_row torch_log[] = {
    {"aten::log(Tensor self) -> Tensor", NULL, lower_unary_float},
    {"aten::logit(Tensor self, float? eps=None) -> Tensor", NULL, lower_logit},
    {"aten::special_logit(Tensor self, float? eps=None) -> Tensor", NULL, lower_logit},
    {NULL, NULL, NULL}};
static const torch_row torch_log2[] = {{"aten::log2(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {NULL, NULL, NULL}};
static const torch_row torch_log10[] = {{"aten::log10(Tensor self) -> Tensor", NULL, lower_unary_float},
                                        {NULL, NULL, NULL}};
static const torch_row torch_log1p[] = {{"aten::log1p(Tensor self) -> Tensor", NULL, lower_unary_float},
                                        {"aten::special_log1p(Tensor self) -> Tensor", NULL, lower_unary_float},
                                        {NULL, NULL, NULL}};
static const torch_row torch_sqrt[] = {{"aten::sqrt(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {"aten::hypot(Tensor self, Tensor other) -> Tensor", NULL, lower_hypot},
                                       {NULL, NULL, NULL}};
static const torch_row torch_rsqrt[] = {{"aten::rsqrt(Tensor self) -> Tensor", NULL, lower_unary_float},
                                        {NULL, NULL, NULL}};
static const torch_row torch_reciprocal[] = {{"aten::reciprocal(Tensor self) -> Tensor", NULL, lower_unary_float},
                                             {NULL, NULL, NULL}};
static const torch_row torch_square[] = {{"aten::square(Tensor self) -> Tensor", NULL, lower_unary},
                                         {NULL, NULL, NULL}};
static const torch_row torch_sin[] = {{"aten::sin(Tensor self) -> Tensor", NULL, lower_unary_float},
                                      {"aten::sinc(Tensor self) -> Tensor", NULL, lower_sinc},
                                      {"aten::special_sinc(Tensor self) -> Tensor", NULL, lower_sinc},
                                      {NULL, NULL, NULL}};
static const torch_row torch_cos[] = {{"aten::cos(Tensor self) -> Tensor", NULL, lower_unary_float},
                                      {NULL, NULL, NULL}};
static const torch_row torch_tan[] = {{"aten::tan(Tensor self) -> Tensor", NULL, lower_unary_float},
                                      {NULL, NULL, NULL}};
static const torch_row torch_asin[] = {{"aten::asin(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {"aten::arcsin(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {NULL, NULL, NULL}};
static const torch_row torch_acos[] = {{"aten::acos(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {"aten::arccos(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {NULL, NULL, NULL}};
static const torch_row torch_atan[] = {{"aten::angle(Tensor self) -> Tensor", NULL, lower_angle},
                                       {"aten::atan(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {"aten::arctan(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {NULL, NULL, NULL}};
static const torch_row torch_sinh[] = {{"aten::sinh(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {NULL, NULL, NULL}};
static const torch_row torch_cosh[] = {{"aten::cosh(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {NULL, NULL, NULL}};
static const torch_row torch_asinh[] = {{"aten::asinh(Tensor self) -> Tensor", NULL, lower_unary_float},
                                        {"aten::arcsinh(Tensor self) -> Tensor", NULL, lower_unary_float},
                                        {NULL, NULL, NULL}};
static const torch_row torch_acosh[] = {{"aten::acosh(Tensor self) -> Tensor", NULL, lower_unary_float},
                                        {"aten::arccosh(Tensor self) -> Tensor", NULL, lower_unary_float},
                                        {NULL, NULL, NULL}};
static const torch_row torch_atanh[] = {{"aten::atanh(Tensor self) -> Tensor", NULL, lower_unary_float},
                                        {"aten::arctanh(Tensor self) -> Tensor", NULL, lower_unary_float},
                                        {NULL, NULL, NULL}};
static const torch_row torch_erf[] = {{"aten::erf(Tensor self) -> Tensor", NULL, lower_unary_float},
                                      {"aten::special_erf(Tensor self) -> Tensor", NULL, lower_unary_float},
                                      {NULL, NULL, NULL}};
static const torch_row torch_erfc[] = {{"aten::erfc(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {"aten::special_erfc(Tensor self) -> Tensor", NULL, lower_unary_float},
                                       {"aten::special_ndtr(Tensor self) -> Tensor", NULL, lower_ndtr},
                                       {NULL, NULL, NULL}};
static const torch_row torch_gelu[] = {
    {"aten::gelu(Tensor self, *, str approximate=\"none\") -> Tensor", NULL, lower_gelu}, {NULL, NULL, NULL}};
static const torch_row torch_gelu_tanh[] = {{NULL, NULL, NULL}};
static const torch_row torch_silu[] = {{"aten::silu(Tensor self) -> Tensor", NULL, lower_unary}, {NULL, NULL, NULL}};
static const torch_row torch_mish[] = {{"aten::mish(Tensor self) -> Tensor", NULL, lower_unary}, {NULL, NULL, NULL}};
static const torch_row torch_hardswish[] = {{"aten::hardswish(Tensor self) -> Tensor", NULL, lower_unary},
                                            {NULL, NULL, NULL}};
static const torch_row torch_hardsigmoid[] = {{"aten::hardsigmoid(Tensor self) -> Tensor", NULL, lower_unary},
                                              {NULL, NULL, NULL}};
static const torch_row torch_selu[] = {{"aten::selu(Tensor self) -> Tensor", NULL, lower_unary}, {NULL, NULL, NULL}};
static const torch_row torch_log_sigmoid[] = {{"aten::log_sigmoid(Tensor self) -> Tensor", NULL, lower_unary},
                                              {NULL, NULL, NULL}};
static const torch_row torch_floor[] = {{"aten::floor(Tensor self) -> Tensor", NULL, lower_unary}, {NULL, NULL, NULL}};
static const torch_row torch_ceil[] = {{"aten::ceil(Tensor self) -> Tensor", NULL, lower_unary}, {NULL, NULL, NULL}};
static const torch_row torch_round[] = {
    {"aten::round(Tensor self) -> Tensor", NULL, lower_unary},
    {"aten::round.decimals(Tensor self, *, int decimals) -> Tensor", NULL, lower_round_decimals},
    {NULL, NULL, NULL}};
static const torch_row torch_trunc[] = {{"aten::trunc(Tensor self) -> Tensor", NULL, lower_unary},
                                        {"aten::fix(Tensor self) -> Tensor", NULL, lower_unary},
                                        {NULL, NULL, NULL}};
static const torch_row torch_frac[] = {{"aten::frac(Tensor self) -> Tensor", NULL, lower_unary}, {NULL, NULL, NULL}};
static const torch_row torch_sign[] = {{"aten::sign(Tensor self) -> Tensor", NULL, lower_unary},
                                       {"aten::sgn(Tensor self) -> Tensor", NULL, lower_unary},
                                       {NULL, NULL, NULL}};
static const torch_row torch_isnan[] = {{"aten::isnan(Tensor self) -> Tensor", NULL, lower_unary}, {NULL, NULL, NULL}};
static const torch_row torch_isinf[] = {{"aten::isinf(Tensor self) -> Tensor", NULL, lower_unary}, {NULL, NULL, NULL}};
static const torch_row torch_logical_not[] = {{"aten::logical_not(Tensor self) -> Tensor", NULL, lower_unary},
                                              {NULL, NULL, NULL}};
static const torch_row torch_bitwise_not[] = {{"aten::bitwise_not(Tensor self) -> Tensor", NULL, lower_bitwise_not},
                                              {NULL, NULL, NULL}};
static const torch_row torch_leaky_relu[] = {
    {"aten::leaky_relu(Tensor self, Scalar negative_slope=0.01) -> Tensor", "leaky_relu(self; slope=negative_slope)",
     NULL},
    {"aten::rrelu(Tensor self, Scalar lower=0.125, Scalar upper=0.33333333333333331, bool training=False, Generator? "
     "generator=None) -> Tensor",
     NULL, lower_rrelu},
    {"aten::rrelu_with_noise_functional(Tensor self, Tensor noise, Scalar lower=0.125, Scalar "
     "upper=0.33333333333333331, bool training=False, Generator? generator=None) -> (Tensor, Tensor noise_out)",
     NULL, lower_rrelu},
    {NULL, NULL, NULL}};
static const torch_row torch_elu[] = {
    {"aten::elu(Tensor self, Scalar alpha=1, Scalar scale=1, Scalar input_scale=1) -> Tensor",
     "elu(self; alpha scale input_scale)", NULL},
    {"aten::celu(Tensor self, Scalar alpha=1.) -> Tensor", NULL, lower_celu},
    {NULL, NULL, NULL}};
static const torch_row torch_softplus[] = {{"aten::softplus(Tensor self, Scalar beta=1, Scalar threshold=20) -> Tensor",
                                            "softplus(self; beta threshold)", NULL},
                                           {NULL, NULL, NULL}};
static const torch_row torch_hardshrink[] = {
    {"aten::hardshrink(Tensor self, Scalar lambd=0.5) -> Tensor", "hardshrink(self; lambda=lambd)", NULL},
    {NULL, NULL, NULL}};
static const torch_row torch_softshrink[] = {
    {"aten::softshrink(Tensor self, Scalar lambd=0.5) -> Tensor", "softshrink(self; lambda=lambd)", NULL},
    {NULL, NULL, NULL}};
static const torch_row torch_threshold[] = {{"aten::threshold(Tensor self, Scalar threshold, Scalar value) -> Tensor",
                                             "threshold(self; threshold value)", NULL},
                                            {NULL, NULL, NULL}};
static const torch_row torch_clamp[] = {
    {"aten::clamp(Tensor self, Scalar? min=None, Scalar? max=None) -> Tensor", NULL, lower_clamp},
    {"aten::clamp.Tensor(Tensor self, Tensor? min=None, Tensor? max=None) -> Tensor", NULL, lower_clamp},
    {"aten::clip(Tensor self, Scalar? min=None, Scalar? max=None) -> Tensor", NULL, lower_clamp},
    {"aten::clip.Tensor(Tensor self, Tensor? min=None, Tensor? max=None) -> Tensor", NULL, lower_clamp},
    {"aten::clamp_min(Tensor self, Scalar min) -> Tensor", NULL, lower_clamp_min},
    {"aten::clamp_min.Tensor(Tensor self, Tensor min) -> Tensor", NULL, lower_clamp_min},
    {"aten::clamp_max(Tensor self, Scalar max) -> Tensor", NULL, lower_clamp_max},
    {"aten::clamp_max.Tensor(Tensor self, Tensor max) -> Tensor", NULL, lower_clamp_max},
    {"aten::hardtanh(Tensor self, Scalar min_val=-1, Scalar max_val=1) -> Tensor", NULL, lower_hardtanh},
    {"aten::relu6(Tensor self) -> Tensor", NULL, lower_relu6},
    {NULL, NULL, NULL}};
static const torch_row torch_add[] = {
    {"aten::add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor", NULL, lower_add_sub},
    {"aten::add.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor", NULL, lower_add_sub},
    {"aten::addcmul(Tensor self, Tensor tensor1, Tensor tensor2, *, Scalar value=1) -> Tensor", NULL, lower_addcmul},
    {"aten::logaddexp(Tensor self, Tensor other) -> Tensor", NULL, lower_logaddexp},
    {"aten::logaddexp2(Tensor self, Tensor other) -> Tensor", NULL, lower_logaddexp2},
    {"aten::lerp.Scalar(Tensor self, Tensor end, Scalar weight) -> Tensor", NULL, lower_lerp},
    {"aten::lerp.Tensor(Tensor self, Tensor end, Tensor weight) -> Tensor", NULL, lower_lerp},
    {NULL, NULL, NULL}};
static const torch_row torch_sub[] = {
    {"aten::sub.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor", NULL, lower_add_sub},
    {"aten::sub.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor", NULL, lower_add_sub},
    {"aten::subtract.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor", NULL, lower_add_sub},
    {"aten::subtract.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor", NULL, lower_add_sub},
    {"aten::rsub.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor", NULL, lower_rsub},
    {"aten::rsub.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor", NULL, lower_rsub},
    {NULL, NULL, NULL}};
static const torch_row torch_mul[] = {{"aten::mul.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                      {"aten::mul.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
                                      {"aten::multiply.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                      {"aten::multiply.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
                                      {"aten::deg2rad(Tensor self) -> Tensor", NULL, lower_deg2rad},
                                      {"aten::rad2deg(Tensor self) -> Tensor", NULL, lower_rad2deg},
                                      {NULL, NULL, NULL}};
static const torch_row torch_div[] = {
    {"aten::div.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two_float},
    {"aten::div.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two_float},
    {"aten::div.Tensor_mode(Tensor self, Tensor other, *, str? rounding_mode) -> Tensor", NULL, lower_div_mode},
    {"aten::div.Scalar_mode(Tensor self, Scalar other, *, str? rounding_mode) -> Tensor", NULL, lower_div_mode},
    {"aten::divide.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two_float},
    {"aten::divide.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two_float},
    {"aten::divide.Tensor_mode(Tensor self, Tensor other, *, str? rounding_mode) -> Tensor", NULL, lower_div_mode},
    {"aten::divide.Scalar_mode(Tensor self, Scalar other, *, str? rounding_mode) -> Tensor", NULL, lower_div_mode},
    {"aten::true_divide.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two_float},
    {"aten::true_divide.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two_float},
    {"aten::addcdiv(Tensor self, Tensor tensor1, Tensor tensor2, *, Scalar value=1) -> Tensor", NULL, lower_addcdiv},
    {NULL, NULL, NULL}};
static const torch_row torch_floor_div[] = {
    {"aten::floor_divide(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::floor_divide.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {NULL, NULL, NULL}};
static const torch_row torch_trunc_div[] = {{NULL, NULL, NULL}};
static const torch_row torch_remainder[] = {
    {"aten::remainder.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::remainder.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {"aten::remainder.Scalar_Tensor(Scalar self, Tensor other) -> Tensor", NULL, lower_two},
    {NULL, NULL, NULL}};
static const torch_row torch_fmod[] = {{"aten::fmod.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                       {"aten::fmod.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
                                       {NULL, NULL, NULL}};
static const torch_row torch_pow[] = {
    {"aten::pow.Tensor_Tensor(Tensor self, Tensor exponent) -> Tensor", NULL, lower_pow},
    {"aten::pow.Tensor_Scalar(Tensor self, Scalar exponent) -> Tensor", NULL, lower_pow},
    {"aten::pow.Scalar(Scalar self, Tensor exponent) -> Tensor", NULL, lower_pow},
    {"aten::float_power.Tensor_Tensor(Tensor self, Tensor exponent) -> Tensor", NULL, lower_float_power},
    {"aten::float_power.Tensor_Scalar(Tensor self, Scalar exponent) -> Tensor", NULL, lower_float_power},
    {"aten::float_power.Scalar(Scalar self, Tensor exponent) -> Tensor", NULL, lower_float_power},
    {NULL, NULL, NULL}};
static const torch_row torch_atan2[] = {{"aten::atan2(Tensor self, Tensor other) -> Tensor", NULL, lower_two_float},
                                        {"aten::arctan2(Tensor self, Tensor other) -> Tensor", NULL, lower_two_float},
                                        {NULL, NULL, NULL}};
static const torch_row torch_maximum[] = {{"aten::maximum(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                          {"aten::max.other(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                          {"aten::fmax(Tensor self, Tensor other) -> Tensor", NULL, lower_fmax_fmin},
                                          {NULL, NULL, NULL}};
static const torch_row torch_minimum[] = {{"aten::minimum(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                          {"aten::min.other(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                          {"aten::fmin(Tensor self, Tensor other) -> Tensor", NULL, lower_fmax_fmin},
                                          {NULL, NULL, NULL}};
static const torch_row torch_eq[] = {{"aten::eq.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                     {"aten::eq.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
                                     {"aten::isposinf(Tensor self) -> Tensor", NULL, lower_isposinf},
                                     {"aten::isneginf(Tensor self) -> Tensor", NULL, lower_isneginf},
                                     {"aten::isclose(Tensor self, Tensor other, float rtol=1.0000000000000001e-05, "
                                      "float atol=1e-08, bool equal_nan=False) -> Tensor",
                                      NULL, lower_isclose},
                                     {NULL, NULL, NULL}};
static const torch_row torch_ne[] = {{"aten::ne.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                     {"aten::ne.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
                                     {"aten::not_equal.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                     {"aten::not_equal.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
                                     {NULL, NULL, NULL}};
static const torch_row torch_lt[] = {{"aten::lt.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                     {"aten::lt.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
                                     {"aten::less.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                     {"aten::less.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
                                     {"aten::isfinite(Tensor self) -> Tensor", NULL, lower_isfinite},
                                     {"aten::signbit(Tensor self) -> Tensor", NULL, lower_signbit},
                                     {NULL, NULL, NULL}};
static const torch_row torch_le[] = {{"aten::le.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                     {"aten::le.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
                                     {"aten::less_equal.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                     {"aten::less_equal.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
                                     {NULL, NULL, NULL}};
static const torch_row torch_gt[] = {{"aten::gt.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                     {"aten::gt.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
                                     {"aten::greater.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                     {"aten::greater.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
                                     {NULL, NULL, NULL}};
static const torch_row torch_ge[] = {
    {"aten::ge.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::ge.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {"aten::greater_equal.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::greater_equal.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {NULL, NULL, NULL}};
static const torch_row torch_logical_and[] = {
    {"aten::logical_and(Tensor self, Tensor other) -> Tensor", NULL, lower_two}, {NULL, NULL, NULL}};
static const torch_row torch_logical_or[] = {{"aten::logical_or(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
                                             {NULL, NULL, NULL}};
static const torch_row torch_logical_xor[] = {
    {"aten::logical_xor(Tensor self, Tensor other) -> Tensor", NULL, lower_two}, {NULL, NULL, NULL}};
static const torch_row torch_bitwise_and[] = {
    {"aten::bitwise_and.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::bitwise_and.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {"aten::bitwise_and.Scalar_Tensor(Scalar self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::__and__.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::__and__.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {NULL, NULL, NULL}};
static const torch_row torch_bitwise_or[] = {
    {"aten::bitwise_or.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::bitwise_or.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {"aten::bitwise_or.Scalar_Tensor(Scalar self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::__or__.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::__or__.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {NULL, NULL, NULL}};
static const torch_row torch_bitwise_xor[] = {
    {"aten::bitwise_xor.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::bitwise_xor.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {"aten::bitwise_xor.Scalar_Tensor(Scalar self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::__xor__.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::__xor__.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {NULL, NULL, NULL}};
static const torch_row torch_shift_left[] = {
    {"aten::bitwise_left_shift.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::bitwise_left_shift.Tensor_Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {"aten::bitwise_left_shift.Scalar_Tensor(Scalar self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::__lshift__.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::__lshift__.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {NULL, NULL, NULL}};
static const torch_row torch_shift_right[] = {
    {"aten::bitwise_right_shift.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::bitwise_right_shift.Tensor_Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {"aten::bitwise_right_shift.Scalar_Tensor(Scalar self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::__rshift__.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_two},
    {"aten::__rshift__.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two},
    {NULL, NULL, NULL}};
static const torch_row torch_prelu[] = {
    {"aten::prelu(Tensor self, Tensor weight) -> Tensor", NULL, lower_prelu},
    {"aten::_prelu_kernel(Tensor self, Tensor weight) -> Tensor", NULL, lower_prelu},
    {NULL, NULL, NULL}};
static const torch_row torch_where[] = {
    {"aten::where.self(Tensor condition, Tensor self, Tensor other) -> Tensor", NULL, lower_where},
    {"aten::where.ScalarSelf(Tensor condition, Scalar self, Tensor other) -> Tensor", NULL, lower_where},
    {"aten::where.ScalarOther(Tensor condition, Tensor self, Scalar other) -> Tensor", NULL, lower_where},
    {"aten::where.Scalar(Tensor condition, Scalar self, Scalar other) -> Tensor", NULL, lower_where},
    {"aten::masked_fill.Scalar(Tensor self, Tensor mask, Scalar value) -> Tensor", NULL, lower_masked_fill},
    {"aten::masked_fill.Tensor(Tensor self, Tensor mask, Tensor value) -> Tensor", NULL, lower_masked_fill},
    {"aten::nan_to_num(Tensor self, float? nan=None, float? posinf=None, float? neginf=None) -> Tensor", NULL,
     lower_nan_to_num},
    {"aten::xlogy.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_xlogy},
    {"aten::xlogy.Scalar_Self(Scalar self, Tensor other) -> Tensor", NULL, lower_xlogy},
    {"aten::xlogy.Scalar_Other(Tensor self, Scalar other) -> Tensor", NULL, lower_xlogy},
    {"aten::special_xlogy(Tensor self, Tensor other) -> Tensor", NULL, lower_xlogy},
    {"aten::special_xlogy.self_scalar(Scalar self, Tensor other) -> Tensor", NULL, lower_xlogy},
    {"aten::special_xlogy.other_scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_xlogy},
    {"aten::heaviside(Tensor self, Tensor values) -> Tensor", NULL, lower_heaviside},
    {"aten::copysign.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_copysign},
    {"aten::copysign.Scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_copysign},
    {NULL, NULL, NULL}};

/* ---- cases ------------------------------------------------------------------------------------------------------- */

#define CASES(name, ...) static const char *const cases_##name[] = {__VA_ARGS__, NULL}
#define SIZES1                                                                                                         \
  "x:f32[N] N:1,7,8,15,16,17,31,33,63,64,65,1000", "x:f32[3,5,7]", "x:f32[]", "x:f32[0,3]", "x:f16[37]", "x:bf16[37]", \
      "x:f64[19]"
#define INTS1 "x:i64[19]=range(-9,9)", "x:i32[3,7]=range(-100,100)", "x:i8[40]=range(-128,127)", "x:u8[40]=range(0,255)"
CASES(FLOAT1, SIZES1, "x:f32[4,9]=inf", "x:f32[65]=uniform(-20,20)");
CASES(ANY1, SIZES1, INTS1, "x:f32[4,9]=inf", "x:f32[65]=uniform(-20,20)");
CASES(FINITE1, SIZES1, "x:f32[65]=uniform(-20,20)");
CASES(POSITIVE1, "x:f32[N]=positive N:1,15,16,17,64,65,1000", "x:f32[3,5,7]=positive", "x:f32[0]", "x:f16[37]=positive",
      "x:f64[19]=positive", "x:f32[4,9]=inf", "x:f32[65]=uniform(-1,1)");
CASES(UNIT1, "x:f32[N]=uniform(-1,1) N:1,15,16,17,64,65,1000", "x:f32[3,5,7]=uniform(-1,1)", "x:f32[0]",
      "x:f16[37]=uniform(-1,1)", "x:f64[19]=uniform(-1,1)", "x:f32[4,9]=inf");
CASES(INT1, INTS1, "x:i64[0]", "x:i32[N]=range(-99,99) N:1,15,16,17,64,65");
CASES(LEAKY_RELU, "x:f32[N] slope=0.01 N:1,7,16,65,1000", "x:f32[4,9]=inf slope=0.2", "x:f16[33] slope=0.1",
      "x:f32[0] slope=0.1");
CASES(ELU, "x:f32[N] alpha=1 N:1,7,16,65,1000", "x:f32[33] alpha=0.5 scale=1.5 input_scale=2", "x:f32[4,9]=inf",
      "x:f16[33]");
CASES(SOFTPLUS, "x:f32[N] N:1,7,16,65,1000", "x:f32[65]=uniform(-40,40) beta=2 threshold=5", "x:f32[4,9]=inf",
      "x:f16[33]");
CASES(SHRINK, "x:f32[N] N:1,7,16,65,1000", "x:f32[33] lambda=1.25", "x:f32[4,9]=inf", "x:f16[33]");
CASES(THRESHOLD, "x:f32[N] threshold=0.1 value=20 N:1,7,16,65", "x:f32[4,9]=inf threshold=0 value=-1",
      "x:i64[33]=range(-9,9) threshold=2 value=5");
CASES(CLAMP, "x:f32[N] min=-0.5 max=0.5 N:1,7,16,65,1000", "x:f32[33] min=0", "x:f32[33] max=0",
      "x:f32[33] min=1 max=-1", "x:f32[4,9]=inf min=-1 max=1", "x:i64[33]=range(-9,9) min=-2 max=3",
      "x:i32[33]=range(-9,9) max=3", "x:u8[33]=range(0,255) min=7", "x:f16[33] min=-1");
#define SHAPES2                                                                                        \
  "x:f32[N] y:f32[N] N:1,7,8,15,16,17,63,65,1000", "x:f32[3,5,7] y:f32[7]", "x:f32[3,5,7] y:f32[5,1]", \
      "x:f32[5,1] y:f32[1,7]", "x:f32[] y:f32[4,3]", "x:f32[33] y:f32[]", "x:f32[2,1,4] y:f32[3,1]",   \
      "x:f32[0,3] y:f32[3]", "x:f16[3,11] y:f16[11]", "x:bf16[37] y:bf16[37]", "x:f64[19] y:f64[1]"
CASES(FLOAT2, SHAPES2, "x:f32[90]=inf y:f32[90]=inf");
CASES(ANY2, SHAPES2, "x:f32[90]=inf y:f32[90]=inf", "x:i64[4,5]=range(-9,9) y:i64[5]=range(-9,9)",
      "x:i32[65]=range(-99,99) y:i32[65]=range(-99,99)", "x:i8[65]=range(-128,127) y:i8[65]=range(-128,127)",
      "x:u8[65]=range(0,255) y:u8[65]=range(0,255)");
CASES(DIVIDE2, "x:f32[N]=uniform(-20,20) y:f32[N]=uniform(-3,3) N:1,15,17,65", "x:f32[3,5,7] y:f32[7]",
      "x:f64[19] y:f64[1]", "x:i64[4,5]=range(-99,99) y:i64[5]=range(1,9)",
      "x:i32[65]=range(-99,99) y:i32[65]=range(-9,-1)", "x:u8[65]=range(0,255) y:u8[65]=range(1,255)");
CASES(POW2, "x:f32[N]=positive y:f32[N]=uniform(-2,2) N:1,15,17,65", "x:f32[3,5,7]=positive y:f32[7]",
      "x:f32[90]=inf y:f32[90]=inf", "x:f64[19]=positive y:f64[1]", "x:i64[4,5]=range(-9,9) y:i64[5]=range(0,6)",
      "x:f32[33] y:f32[33]=range(-3,3)");
CASES(COMPARE2, "x:f32[N]=range(-2,2) y:f32[N]=range(-2,2) N:1,15,16,17,65", SHAPES2, "x:f32[90]=inf y:f32[90]=inf",
      "x:i64[4,5]=range(-3,3) y:i64[5]=range(-3,3)", "x:i32[65]=range(-3,3) y:i32[65]=range(-3,3)",
      "x:bool[65]=bool y:bool[65]=bool");
CASES(INT2, "x:i64[4,5]=range(-99,99) y:i64[5]=range(-99,99)", "x:i32[65]=range(-99,99) y:i32[65]=range(-99,99)",
      "x:bool[65]=bool y:bool[65]=bool", "x:u8[3,5]=range(0,255) y:u8[]=range(0,255)");
CASES(SHIFT2, "x:i64[4,5]=range(-99,99) y:i64[5]=range(0,63)", "x:i32[65]=range(-99,99) y:i32[65]=range(0,31)",
      "x:u8[65]=range(0,255) y:u8[65]=range(0,7)");
CASES(WHERE3, "c:bool[N]=bool x:f32[N] y:f32[N] N:1,7,16,17,65,1000", "c:bool[3,1,5]=bool x:f32[4,5] y:f32[]",
      "c:bool[1,5]=bool x:f32[4,1] y:f32[4,5]", "c:bool[33]=bool x:f32[33]=inf y:f32[33]=inf",
      "c:bool[33]=bool x:i64[33]=range(-9,9) y:i64[33]=range(-9,9)", "c:bool[0]=bool x:f32[0] y:f32[]",
      "c:bool[33]=bool x:f16[33] y:f16[1]");
CASES(CAST, "x:f32[N]=uniform(-100,100) dtype=i32 N:1,15,16,17,65", "x:f32[65] dtype=f16", "x:f32[65] dtype=bf16",
      "x:f16[65] dtype=f32", "x:bf16[65] dtype=f32", "x:f32[65] dtype=f64", "x:f64[65] dtype=f32",
      "x:i64[65]=range(-9,9) dtype=f32", "x:i64[65]=range(-999,999) dtype=i8", "x:f32[65]=inf dtype=bool",
      "x:bool[65]=bool dtype=f32", "x:bool[65]=bool dtype=i64", "x:i32[65]=range(-9,9) dtype=i64",
      "x:i64[3,5]=range(0,2) dtype=bool", "x:u8[65]=range(0,255) dtype=f32", "x:f32[0] dtype=i64",
      "x:f32[4,9]=inf dtype=f16", "x:f32[4,9]=inf dtype=bf16");

/* ---- rows -------------------------------------------------------------------------------------------------------- */

#define SIG_1 "x -> y"
#define SIG_2 "x y -> z"
#define SIG_3 "c x y -> z"
#define ROW(op_name, arity, result, attributes, op_flags, largest_error, case_list)                              \
  .name = #op_name, .sig = SIG_##arity, .attrs = attributes, .flags = OP_POINTWISE | (op_flags),                 \
  .infer = infer_pointwise_##result, .ref = pointwise_ref, .torch = torch_##op_name, .cases = cases_##case_list, \
  .tolerance = (largest_error)
#define F(name, arity, result, attrs, flags, tolerance, cases, text) \
  {ROW(name, arity, result, attrs, flags, tolerance, cases), .expression = #text, .scalar = scalar_##name},
#define FI(name, arity, result, attrs, flags, tolerance, cases, text, integer_text)                                    \
  {ROW(name, arity, result, attrs, flags, tolerance, cases), .expression = #text, .integer_expression = #integer_text, \
   .scalar = scalar_##name, .integer = integer_##name},
#define I(name, arity, result, attrs, flags, tolerance, cases, integer_text)                      \
  {ROW(name, arity, result, attrs, flags, tolerance, cases), .integer_expression = #integer_text, \
   .integer = integer_##name},

static const op rows[] = {
    POINTWISE_ROWS(F, FI, I){.name = "cast",
                             .sig = "x -> y",
                             .attrs = "dtype:dtype",
                             .flags = OP_POINTWISE,
                             .infer = infer_cast,
                             .ref = cast_ref,
                             .cases = cases_CAST},
    {.name = "pointwise", .sig = "xs* -> y", .attrs = "", .flags = OP_POINTWISE, .infer = infer_body},
};

OP_FAMILY(ops_pointwise, rows);
