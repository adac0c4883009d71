/* Special functions: the rows of ops/special_rows.h over the functions of ops/special_math.h, and how PyTorch calls them. */
#include "ops/special_math.h"

#include "ops/infer.h"
#include "ops/pointwise_lower.h"
#include "ops/ref.h"
#include "ops/special_rows.h"

/* ---- by name --------------------------------------------------------------------------------------------------------- */

#define U(name, cases, calls) \
  static double function_##name(double x, double y) { return (void)y, sp_##name(x); }
#define B(name, cases, calls) \
  static double function_##name(double x, double y) { return sp_##name(x, y); }
SPECIAL_ROWS(U, B)
#undef U
#undef B

typedef double (*special_function)(double x, double y);

static special_function function_of(const char *name) {
  static const struct {
    const char *name;
    special_function f;
  } list[] = {
#define ROW(name, cases, calls) {#name, function_##name},
      SPECIAL_ROWS(ROW, ROW)
#undef ROW
  };
  for (size_t i = 0; i < KILN_COUNT(list); i++) {
    if (str_eq(list[i].name, name)) return list[i].f;
  }
  return NULL;
}

static kiln_status special_ref(const kernel_args *a) {
  const special_function f = function_of(a->node->op->name);
  const tensor *out = &a->out[0];
  for (ref_iter it = ref_begin(out->rank, out->shape); f && ref_valid(&it); ref_next(&it)) {
    const double x = ref_load(&a->in[0], ref_offset(&a->in[0], &it));
    const double y = a->n_in > 1 ? ref_load(&a->in[1], ref_offset(&a->in[1], &it)) : 0;
    ref_store(out, tensor_offset(out, it.index), f(x, y));
  }
  return KILN_OK;
}

static kiln_status special_infer(graph *g, node *n) {
  tensor_type out = *in_type(n, 0);
  for (int i = 0; i < n->n_inputs; i++) {
    KILN_TRY(infer_float(n, i));
    if (in_type(n, i)->dtype != out.dtype) return INFER_FAIL(n, "operands have different dtypes");
    KILN_TRY(infer_broadcast(g, n, in_type(n, i), &out, &out));
  }
  set_out(n, 0, out.dtype, out.rank, out.dims);
  return KILN_OK;
}

/* ---- PyTorch --------------------------------------------------------------------------------------------------------- */

static kiln_status lower_frexp(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, "self", &x));
  call_return(c, 0, build(&c->b, "mantissa", IN(x), NO_ATTRS));
  call_return(c, 1, lower_cast(&c->b, build(&c->b, "exponent", IN(x), NO_ATTRS), KILN_I32));
  return KILN_OK;
}

static kiln_status lower_polygamma(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, "self", &x));
  const dim n = call_int(c, "n");
  if (!dim_is_const(n) || n < 0) return LOWER_FAIL(c, "argument n must be a number of at least 0");
  x = lowering_float(&c->b, x);
  LOWER_NEED(c, x);
  call_return(c, 0, build(&c->b, "polygamma", IN(lowering_scalar_like(&c->b, x, (double)n), x), NO_ATTRS));
  return KILN_OK;
}

/* log of the multivariate gamma function: a sum over gamma at steps of one half */
static kiln_status lower_mvlgamma(lower_call *c) {
  value *x, *sum;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  const dim p = call_int(c, "p");
  if (!dim_is_const(p) || p < 1 || p > 64) return LOWER_FAIL(c, "argument p must be 1 to 64");
  x = lowering_float(b, x);
  LOWER_NEED(c, x);
  sum = lowering_scalar_like(b, x, (double)p * (double)(p - 1) / 4 * log(SP_PI));
  for (dim i = 0; i < p; i++) {
    value *part = lower_binary(b, "sub", x, lowering_scalar_like(b, x, (double)i / 2));
    sum = lower_binary(b, "add", sum, build(b, "lgamma", IN(part), NO_ATTRS));
  }
  call_return(c, 0, sum);
  return KILN_OK;
}

#define CALL1(name) {"aten::" name "(Tensor self) -> Tensor", NULL, lower_unary_float},
#define CALLX(name) {"aten::" name "(Tensor x) -> Tensor", NULL, lower_unary_float},
#define CALL2(name) {"aten::" name "(Tensor self, Tensor other) -> Tensor", NULL, lower_two_float},
#define CALLS(name)                                                                                       \
  CALL2(name){"aten::" name ".other_scalar(Tensor self, Scalar other) -> Tensor", NULL, lower_two_float}, \
      {"aten::" name ".self_scalar(Scalar self, Tensor other) -> Tensor", NULL, lower_two_float},
#define CALLN(name)                                                                     \
  {"aten::" name "(Tensor x, Tensor n) -> Tensor", NULL, lower_two_float},              \
      {"aten::" name ".n_scalar(Tensor x, Scalar n) -> Tensor", NULL, lower_two_float}, \
      {"aten::" name ".x_scalar(Scalar x, Tensor n) -> Tensor", NULL, lower_two_float},
#define CALL_FREXP {"aten::frexp.Tensor(Tensor self) -> (Tensor mantissa, Tensor exponent)", NULL, lower_frexp},
#define CALL_POLYGAMMA(name) {"aten::" name "(int n, Tensor self) -> Tensor", NULL, lower_polygamma},
#define CALL_MVLGAMMA                                                     \
  {"aten::mvlgamma(Tensor self, int p) -> Tensor", NULL, lower_mvlgamma}, \
      {"aten::special_multigammaln(Tensor self, int p) -> Tensor", NULL, lower_mvlgamma},

#define CALLS_OF(name, cases, calls) static const torch_row torch_##name[] = {calls{NULL, NULL, NULL}};
SPECIAL_ROWS(CALLS_OF, CALLS_OF)

static const char *const any_cases[] = {"x:f32[N] N:1,7,65", "x:f64[3,5]", "x:f16[9]", "x:f32[0]", "x:f32[]", NULL};
static const char *const positive_cases[] = {"x:f32[N]=positive N:1,7,65", "x:f64[3,5]=positive", "x:f32[0,2]", NULL};
static const char *const unit_cases[] = {"x:f32[N]=uniform(-0.99,0.99) N:1,65", "x:f64[33]=uniform(-0.99,0.99)", NULL};
static const char *const probability_cases[] = {"x:f32[N]=uniform(0.01,0.99) N:1,65", NULL};
static const char *const positive2_cases[] = {"x:f32[N]=positive y:f32[N]=positive N:1,7,65",
                                              "x:f64[3,1]=positive y:f64[5]=positive", NULL};
static const char *const polygamma_cases[] = {"x:f32[5,1]=range(0,4) y:f32[9]=uniform(0.5,9)", NULL};
static const char *const zeta_cases[] = {"x:f32[9]=uniform(1.1,6) y:f32[9]=uniform(0.2,9)", NULL};
static const char *const degree_cases[] = {"x:f32[9]=uniform(-1,1) y:f32[6,1]=range(0,9)",
                                           "x:f64[9]=uniform(-1,1) y:f64[]=range(3,5)", NULL};
#define SPECIAL_ANY any_cases
#define SPECIAL_POSITIVE positive_cases
#define SPECIAL_UNIT unit_cases
#define SPECIAL_PROBABILITY probability_cases
#define SPECIAL_POSITIVE2 positive2_cases
#define SPECIAL_POLYGAMMA polygamma_cases
#define SPECIAL_ZETA zeta_cases
#define SPECIAL_DEGREE degree_cases

#define OP(op_name, op_sig, op_cases) \
  {.name = #op_name,                  \
   .sig = op_sig,                     \
   .attrs = "",                       \
   .infer = special_infer,            \
   .ref = special_ref,                \
   .torch = torch_##op_name,          \
   .cases = op_cases,                 \
   .tolerance = 1e-5f},
#define U(name, cases, calls) OP(name, "x -> y", cases)
#define B(name, cases, calls) OP(name, "x y -> z", cases)
static const op rows[] = {SPECIAL_ROWS(U, B)};

extern const op_family ops_special;
OP_FAMILY(ops_special, rows);
