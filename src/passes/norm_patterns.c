/* Operators that models write out by hand, or that torch.export decomposes, put together again: linear layers,
 * activations, normalizations. One fused operator reads its input once. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "ops/ref.h"
#include "passes/match.h"
#include "passes/rule_files.h"

/* ---- linear layers ----------------------------------------------------------------------------------------------- */

static bool swaps_last_two(const node *p, int rank) {
  const attr *order = node_attr(p, "order");
  for (int i = 0; i < rank; i++) {
    const int64_t expected = i == rank - 1 ? rank - 2 : i == rank - 2 ? rank - 1 : i;
    if (order->u.ints[i] != expected) return false;
  }
  return order->count == rank && rank >= 2;
}

/* matmul(a, transpose(b)) -> matmul(a, b, transpose_b) */
static bool matmul_transposed(builder *b, node *n) {
  const node *p = producer_of(node_in(n, 1), "permute");
  if (!p || node_bool(n, "transpose_b") || !swaps_last_two(p, p->outputs[0]->type.rank) || n->epilogue) return false;
  value *out = build(b, "matmul", IN(node_in(n, 0), node_in(p, 0)), ATTRS(A_BOOL("transpose_b", 1)));
  return replace(n, out);
}

/* matmul(x, expand(w)) -> matmul(x, w) where only batch dimensions were expanded, and x has them: matmul broadcasts by
 * itself */
static bool matmul_expanded(builder *b, node *n) {
  const node *e = producer_of(node_in(n, 1), "expand");
  const tensor_type *x = &node_in(n, 0)->type, *out = &n->outputs[0]->type;
  if (!e || n->epilogue || x->rank != out->rank) return false;
  const tensor_type *thin = &node_in(e, 0)->type, *wide = &e->outputs[0]->type;
  if (thin->rank < 2 || memcmp(x->dims, out->dims, (size_t)(out->rank - 2) * sizeof(dim)) != 0) return false;
  if (memcmp(thin->dims + thin->rank - 2, wide->dims + wide->rank - 2, 2 * sizeof(dim)) != 0) return false;
  return replace(n, build(b, "matmul", IN(node_in(n, 0), node_in(e, 0)),
                          ATTRS(A_BOOL("transpose_b", node_bool(n, "transpose_b")))));
}

/* matmul(x, w) with a constant w of two dimensions (and perhaps some of size 1 before them) -> linear(x, w^T) */
static bool matmul_to_linear(builder *b, node *n) {
  value *w = node_in(n, 1);
  const int rank = w->type.rank;
  if (!w->constant || w->constant->packing || n->epilogue || node_in(n, 0)->type.rank != n->outputs[0]->type.rank)
    return false;
  for (int i = 0; i < rank - 2; i++) {
    if (w->type.dims[i] != 1) return false;
  }
  if (rank > 2) w = build(b, "reshape", IN(w), ATTRS(A_INTS("shape", w->type.dims + rank - 2, 2)));
  if (w && !node_bool(n, "transpose_b")) w = build(b, "permute", IN(w), ATTRS(A_INTS("order", ((dim[]){1, 0}), 2)));
  return w && replace(n, build(b, "linear", IN(node_in(n, 0), w, NULL), NO_ATTRS));
}

/* reshape(linear(x)) -> linear(reshape(x)) where only the dimensions in front of the last one change: nothing then
 * stands between the layer and what may be fused into it. */
static bool linear_through_reshape(builder *b, node *n) {
  const node *layer = producer_of(node_in(n, 0), "linear");
  const tensor_type *out = &n->outputs[0]->type;
  if (!layer || !only_use(layer->outputs[0]) || out->rank < 1) return false;
  const tensor_type *w = &node_in(layer, 1)->type;
  if (out->dims[out->rank - 1] != w->dims[0]) return false;
  dim dims[KILN_MAX_RANK];
  for (int i = 0; i < out->rank; i++) dims[i] = i == out->rank - 1 ? w->dims[1] : out->dims[i];
  b->path = layer->path;
  b->source = layer->source;
  value *x = build(b, "reshape", IN(node_in(layer, 0)), ATTRS(A_INTS("shape", dims, out->rank)));
  return x && replace(n, build(b, "linear", IN(x, node_in(layer, 1), node_in(layer, 2)), NO_ATTRS));
}

/* ---- activations ------------------------------------------------------------------------------------------------- */

/* x * sigmoid(x) -> silu(x) */
static bool to_silu(builder *b, node *n) {
  for (int i = 0; i < 2; i++) {
    const node *s = producer_of(node_in(n, i), "sigmoid");
    if (s && node_in(s, 0) == node_in(n, 1 - i)) return replace(n, build(b, "silu", IN(node_in(s, 0)), NO_ATTRS));
  }
  return false;
}

/* Factors of a product tree of single-use muls; constants are multiplied into *scale. Returns how many others there
 * are, or -1. */
static int factors(const value *v, double *scale, value **out, int max, int depth) {
  double c = 0;
  if (scalar_constant(v, &c)) {
    *scale *= c;
    return 0;
  }
  const node *m = producer_of(v, "mul"), *d = producer_of(v, "div"), *square = producer_of(v, "square");
  if (square && depth > 0 && max >= 2) {
    out[0] = out[1] = node_in(square, 0);
    return 2;
  }
  if (d && scalar_constant(node_in(d, 1), &c) && c != 0 && depth > 0 && depth < 6) {
    *scale /= c;
    return factors(node_in(d, 0), scale, out, max, depth + 1);
  }
  if (!m || depth >= 6 || (depth > 0 && !only_use(v))) {
    if (max < 1) return -1;
    out[0] = (value *)(uintptr_t)v;
    return 1;
  }
  const int a = factors(node_in(m, 0), scale, out, max, depth + 1);
  if (a < 0) return -1;
  const int k = factors(node_in(m, 1), scale, out + a, max - a, depth + 1);
  return k < 0 ? -1 : a + k;
}

/* Constants are rounded to the type of what they meet. */
static bool near(double a, double b, kiln_dtype d) {
  const double precision = d == KILN_F16 ? 1e-3 : d == KILN_BF16 ? 8e-3 : 1e-5;
  return fabs(a - b) <= precision * fabs(b);
}

/* v = x / sqrt(2) */
static bool is_scaled(const value *v, const value *x, double expected) {
  double scale = 1;
  value *f[2];
  return factors(v, &scale, f, 2, 1) == 1 && f[0] == x && near(scale, expected, x->type.dtype);
}

/* 0.5 * x * (1 + erf(x / sqrt(2))) -> gelu(x) */
static bool is_erf_gate(const value *v, const value *x) {
  const value *e = NULL;
  if (!add_constant(v, 1.0, &e)) return false;
  const node *erf_node = producer_of(e, "erf");
  return erf_node && is_scaled(node_in(erf_node, 0), x, 0.70710678118654752);
}

/* 1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)) */
static bool is_tanh_gate(const value *v, const value *x) {
  const value *e = NULL;
  double scale = 1;
  value *f[2];
  if (!add_constant(v, 1.0, &e)) return false;
  const node *t = producer_of(e, "tanh");
  if (!t || factors(node_in(t, 0), &scale, f, 2, 1) != 1 || !near(scale, 0.79788456080286536, x->type.dtype))
    return false;
  const node *sum = producer_of(f[0], "add");
  for (int i = 0; sum && i < 2; i++) {
    double c = 1;
    value *cube[4];
    if (node_in(sum, i) != x) continue;
    const int count = factors(node_in(sum, 1 - i), &c, cube, 4, 1);
    if (!near(c, 0.044715, x->type.dtype)) return false;
    if (count == 3) return cube[0] == x && cube[1] == x && cube[2] == x;
    const node *p = count == 1 ? producer_of(cube[0], "pow") : NULL;
    double exponent = 0;
    return p && node_in(p, 0) == x && scalar_constant(node_in(p, 1), &exponent) && exponent == 3;
  }
  return false;
}

static bool to_gelu(builder *b, node *n) {
  double scale = 1;
  value *f[2];
  if (factors(n->outputs[0], &scale, f, 2, 0) != 2 || !near(scale, 0.5, KILN_F32)) return false;
  for (int i = 0; i < 2; i++) {
    if (is_erf_gate(f[i], f[1 - i])) return replace(n, build(b, "gelu", IN(f[1 - i]), NO_ATTRS));
    if (is_tanh_gate(f[i], f[1 - i])) return replace(n, build(b, "gelu_tanh", IN(f[1 - i]), NO_ATTRS));
  }
  return false;
}

/* ---- normalizations ---------------------------------------------------------------------------------------------- */

/* mean over the last dimension, kept */
static const value *mean_last(const value *v) {
  const node *m = producer_of(v, "mean");
  if (!m || !node_bool(m, "keepdim")) return NULL;
  const attr *axes = node_attr(m, "axes");
  return axes->count == 1 && axes->u.ints[0] == node_in(m, 0)->type.rank - 1 ? node_in(m, 0) : NULL;
}

static const value *square_of(const value *v) {
  const node *p = producer_of(v, "pow"), *q = producer_of(v, "square"), *m = producer_of(v, "mul");
  double exponent = 0;
  if (q) return node_in(q, 0);
  if (p && scalar_constant(node_in(p, 1), &exponent) && exponent == 2) return node_in(p, 0);
  return m && node_in(m, 0) == node_in(m, 1) ? node_in(m, 0) : NULL;
}

/* rsqrt(mean(x^2) + eps) */
static bool inverse_rms(const value *v, const value **x, double *eps) {
  const node *r = producer_of(v, "rsqrt");
  const node *sum = r ? producer_of(node_in(r, 0), "add") : NULL;
  for (int i = 0; sum && i < 2; i++) {
    const value *squares = mean_last(node_in(sum, i));
    if (squares && scalar_constant(node_in(sum, 1 - i), eps)) return (*x = square_of(squares)) != NULL;
  }
  return false;
}

static value *rms_norm(builder *b, const value *x, value *gamma, double eps) {
  return build(b, "rms_norm", IN((value *)(uintptr_t)x, gamma), ATTRS(A_INT("dims", 1), A_FLOAT("eps", eps)));
}

/* x * rsqrt(mean(x^2) + eps) -> rms_norm(x) */
static bool to_rms_norm(builder *b, node *n) {
  for (int i = 0; i < 2; i++) {
    const value *x = NULL;
    double eps = 0;
    if (inverse_rms(node_in(n, i), &x, &eps) && node_in(n, 1 - i) == x && type_equal(&x->type, &n->outputs[0]->type))
      return replace(n, rms_norm(b, x, NULL, eps));
  }
  return false;
}

/* x - mean(x) */
static value *centered(const value *v) {
  const node *d = producer_of(v, "sub");
  return d && mean_last(node_in(d, 1)) == node_in(d, 0) ? node_in(d, 0) : NULL;
}

/* Is v the mean of (x - mean(x))^2 over the last dimension? */
static bool is_variance(const value *v, const value *x) {
  const value *squares = mean_last(v), *d = squares ? square_of(squares) : NULL;
  if (d) return centered(d) == x;
  const node *var = producer_of(v, "var");
  const attr *axes = var ? node_attr(var, "axes") : NULL;
  return var && node_in(var, 0) == x && node_float(var, "correction") == 0 && node_bool(var, "keepdim") &&
         axes->count == 1 && axes->u.ints[0] == x->type.rank - 1;
}

static bool is_variance_plus_eps(const value *v, const value *x, double *eps) {
  const node *sum = producer_of(v, "add");
  for (int i = 0; sum && i < 2; i++) {
    if (scalar_constant(node_in(sum, i), eps) && is_variance(node_in(sum, 1 - i), x)) return true;
  }
  return false;
}

static value *layer_norm(builder *b, value *x, value *gamma, value *beta, double eps) {
  return build(b, "layer_norm", IN(x, gamma, beta), ATTRS(A_INT("dims", 1), A_FLOAT("eps", eps)));
}

/* (x - mean(x)) / sqrt(var(x) + eps), also with rsqrt -> layer_norm(x) */
static bool to_layer_norm(builder *b, node *n) {
  const bool div = strcmp(n->op->name, "div") == 0;
  for (int i = 0; i < (div ? 1 : 2); i++) {
    value *x = centered(node_in(n, i));
    const node *root = producer_of(node_in(n, 1 - i), div ? "sqrt" : "rsqrt");
    double eps = 0;
    if (x && root && is_variance_plus_eps(node_in(root, 0), x, &eps) && type_equal(&x->type, &n->outputs[0]->type))
      return replace(n, layer_norm(b, x, NULL, NULL, eps));
  }
  return false;
}

/* A constant that has one number for each place of the last dimension of `v`: as a vector, else NULL. */
static value *gain_vector(builder *b, const value *v, value *c) {
  if (!c || !c->constant || c->constant->packing || c->type.rank < 1 || c->type.rank > v->type.rank ||
      c->type.dtype != v->type.dtype)
    return NULL;
  const dim last = c->type.dims[c->type.rank - 1];
  if (last != v->type.dims[v->type.rank - 1]) return NULL;
  for (int i = 0; i < c->type.rank - 1; i++) {
    if (c->type.dims[i] != 1) return NULL;
  }
  return c->type.rank == 1 ? c : build(b, "reshape", IN(c), ATTRS(A_INTS("shape", &last, 1)));
}

/* norm(x) * gamma -> norm(x, gamma), for rms_norm and layer_norm */
static bool norm_gains(builder *b, node *n) {
  for (int i = 0; i < 2; i++) {
    const value *v = node_in(n, i);
    const node *m = v->producer;
    const bool rms = m && strcmp(m->op->name, "rms_norm") == 0;
    if (!m || (!rms && strcmp(m->op->name, "layer_norm") != 0) || m->epilogue || !only_use(v) ||
        node_int(m, "dims") != 1)
      continue;
    if (node_in(m, 1) || (!rms && node_in(m, 2))) continue;
    value *gamma = gain_vector(b, v, node_in(n, 1 - i));
    if (!gamma) continue;
    return replace(n, rms ? rms_norm(b, node_in(m, 0), gamma, node_float(m, "eps"))
                          : layer_norm(b, node_in(m, 0), gamma, NULL, node_float(m, "eps")));
  }
  return false;
}

/* layer_norm(x, gamma) + beta -> layer_norm(x, gamma, beta) */
static bool norm_shift(builder *b, node *n) {
  for (int i = 0; i < 2; i++) {
    const value *v = node_in(n, i);
    const node *m = producer_of(v, "layer_norm");
    value *beta =
        m && only_use(v) && !node_in(m, 2) && node_int(m, "dims") == 1 ? gain_vector(b, v, node_in(n, 1 - i)) : NULL;
    if (beta) return replace(n, layer_norm(b, node_in(m, 0), node_in(m, 1), beta, node_float(m, "eps")));
  }
  return false;
}

#define X23 "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n"

const rule norm_patterns_rules[] = {
    {"matmul(transpose)", "matmul", matmul_transposed,
     X23 "%t = permute(%x) {order=[1, 0]} : f32[3,2]\n%y = matmul(%x, %t) : f32[2,2]\noutput \"y\" %y\n"},
    {"matmul(expand)", "matmul", matmul_expanded,
     "kiln.graph 1\ninput \"x\" %x : f32[2,3,4]\ninput \"w\" %w : f32[4,5]\n%e = expand(%w) {shape=[2, 4, 5]} : "
     "f32[2,4,5]\n"
     "%y = matmul(%x, %e) : f32[2,3,5]\noutput \"y\" %y\n"},
    {"matmul to linear", "matmul", matmul_to_linear,
     "kiln.graph 1\nconst %w : f32[3,2] = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}\ninput \"x\" %x : f32[2,3]\n"
     "%y = matmul(%x, %w) : f32[2,2]\noutput \"y\" %y\n"},
    {"linear through reshape", "reshape", linear_through_reshape,
     "kiln.graph 1\nconst %w : f32[2,3] = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}\ninput \"x\" %x : f32[2,4,3]\n"
     "%f = reshape(%x) {shape=[8, 3]} : f32[8,3]\n%l = linear(%f, %w, none) : f32[8,2]\n%y = reshape(%l) {shape=[2, 4, "
     "2]} : f32[2,4,2]\n"
     "output \"y\" %y\n"},
    {"silu", "mul", to_silu, X23 "%s = sigmoid(%x) : f32[2,3]\n%y = mul(%x, %s) : f32[2,3]\noutput \"y\" %y\n"},
    {"gelu", "mul", to_gelu,
     "kiln.graph 1\nconst %h : f32[] = {0.5}\nconst %r : f32[] = {0.70710677}\nconst %one : f32[] = {1.0}\ninput \"x\" "
     "%x : f32[2,3]\n"
     "%a = mul(%x, %h) : f32[2,3]\n%b = mul(%x, %r) : f32[2,3]\n%c = erf(%b) : f32[2,3]\n%d = add(%c, %one) : "
     "f32[2,3]\n"
     "%y = mul(%a, %d) : f32[2,3]\noutput \"y\" %y\n"},
    {"gelu of tanh", "mul", to_gelu,
     "kiln.graph 1\nconst %h : f32[] = {0.5}\nconst %c : f32[] = {0.044715}\nconst %r : f32[] = {0.7978846}\nconst "
     "%one : f32[] = {1.0}\ninput \"x\" %x : f32[2,3]\n%s = square(%x) : f32[2,3]\n%q = mul(%s, %x) : f32[2,3]\n%k = "
     "mul(%q, %c) : f32[2,3]\n%a = add(%x, %k) : f32[2,3]\n%m = mul(%a, %r) : f32[2,3]\n%t = tanh(%m) : f32[2,3]\n%g "
     "= add(%t, %one) : f32[2,3]\n%b = mul(%x, %h) : f32[2,3]\n%y = mul(%b, %g) : f32[2,3]\noutput \"y\" %y\n"},
    {"rms_norm", "mul", to_rms_norm,
     "kiln.graph 1\nconst %two : f32[] = {2.0}\nconst %e : f32[] = {1e-05}\ninput \"x\" %x : f32[2,3]\n%s = pow(%x, "
     "%two) : f32[2,3]\n"
     "%m = mean(%s) {axes=[1], keepdim=true} : f32[2,1]\n%a = add(%m, %e) : f32[2,1]\n%r = rsqrt(%a) : f32[2,1]\n"
     "%y = mul(%x, %r) : f32[2,3]\noutput \"y\" %y\n"},
    {"rms_norm gain", "mul", norm_gains,
     "kiln.graph 1\nconst %g : f32[3] = {1.0, 2.0, 3.0}\ninput \"x\" %x : f32[2,3]\n%n = rms_norm(%x, none) {dims=1, "
     "eps=1e-05} : f32[2,3]\n"
     "%y = mul(%g, %n) : f32[2,3]\noutput \"y\" %y\n"},
    {"batched matmul to linear", "matmul", matmul_to_linear,
     "kiln.graph 1\nconst %w : f32[1,3,2] = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}\ninput \"x\" %x : f32[4,2,3]\n"
     "%y = matmul(%x, %w) : f32[4,2,2]\noutput \"y\" %y\n"},
    {"layer_norm", "div", to_layer_norm,
     "kiln.graph 1\nconst %e : f32[] = {1e-05}\ninput \"x\" %x : f32[2,3]\n%m = mean(%x) {axes=[1], keepdim=true} : "
     "f32[2,1]\n"
     "%d = sub(%x, %m) : f32[2,3]\n%s = mul(%d, %d) : f32[2,3]\n%v = mean(%s) {axes=[1], keepdim=true} : f32[2,1]\n"
     "%a = add(%e, %v) : f32[2,1]\n%r = sqrt(%a) : f32[2,1]\n%y = div(%d, %r) : f32[2,3]\noutput \"y\" %y\n"},
    {"layer_norm of var", "mul", to_layer_norm,
     "kiln.graph 1\nconst %e : f32[] = {1e-05}\ninput \"x\" %x : f32[2,3]\n%m = mean(%x) {axes=[1], keepdim=true} : "
     "f32[2,1]\n"
     "%d = sub(%x, %m) : f32[2,3]\n%v = var(%x) {axes=[1], correction=0, keepdim=true} : f32[2,1]\n"
     "%a = add(%v, %e) : f32[2,1]\n%r = rsqrt(%a) : f32[2,1]\n%y = mul(%d, %r) : f32[2,3]\noutput \"y\" %y\n"},
    {"layer_norm gain", "mul", norm_gains,
     "kiln.graph 1\nconst %g : f32[1,3] = {1.0, 2.0, 3.0}\ninput \"x\" %x : f32[2,3]\n"
     "%n = layer_norm(%x, none, none) {dims=1, eps=1e-05} : f32[2,3]\n%y = mul(%n, %g) : f32[2,3]\noutput \"y\" %y\n"},
    {"layer_norm shift", "add", norm_shift,
     "kiln.graph 1\nconst %g : f32[3] = {1.0, 2.0, 3.0}\ninput \"x\" %x : f32[2,3]\n"
     "%n = layer_norm(%x, %g, none) {dims=1, eps=1e-05} : f32[2,3]\n%y = add(%n, %g) : f32[2,3]\noutput \"y\" %y\n"},
};
const size_t norm_patterns_rule_count = KILN_COUNT(norm_patterns_rules);
