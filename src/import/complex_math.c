/* Elementary functions of complex numbers, see complex_math.h. Inverse functions are those of W. Kahan, "Branch Cuts for Complex Elementary
 * Functions" (1987), which are right on the cuts too. */
#include "import/complex_math.h"

#include "ops/lowering.h"

static value *un(builder *b, const char *name, value *x) { return build(b, name, IN(x), NO_ATTRS); }
static value *bin(builder *b, const char *name, value *x, value *y) {
  if (!x || !y) return NULL;
  lower_promote(b, &x, false, &y, false);
  return lower_binary(b, name, x, y);
}
static value *num(builder *b, const value *like, double v) { return like ? lowering_scalar_like(b, like, v) : NULL; }
static value *times(builder *b, value *x, double v) { return bin(b, "mul", x, num(b, x, v)); }
static value *plus(builder *b, value *x, double v) { return bin(b, "add", x, num(b, x, v)); }
static value *choose(builder *b, value *condition, value *x, value *y) {
  return build(b, "where", IN(condition, x, y), NO_ATTRS);
}
static complex_value pair(value *re, value *im) { return (complex_value){re, im}; }
static complex_value scale(builder *b, complex_value z, double v) { return pair(times(b, z.re, v), times(b, z.im, v)); }
/* i z, and -i z */
static complex_value turn(builder *b, complex_value z) { return pair(un(b, "neg", z.im), z.re); }
static complex_value turn_back(builder *b, complex_value z) { return pair(z.im, un(b, "neg", z.re)); }
static complex_value from_real(builder *b, complex_value z, double v) { return pair(plus(b, z.re, v), z.im); }
static complex_value negative(builder *b, complex_value z) { return pair(un(b, "neg", z.re), un(b, "neg", z.im)); }

/* larger sqrt(1 + (smaller / larger)^2): no square overflows. */
value *complex_abs(builder *b, complex_value z) {
  value *x = un(b, "abs", z.re), *y = un(b, "abs", z.im);
  value *larger = bin(b, "maximum", x, y), *smaller = bin(b, "minimum", x, y);
  value *ratio = bin(b, "div", smaller, larger);
  value *length = bin(b, "mul", larger, un(b, "sqrt", plus(b, un(b, "square", ratio), 1)));
  value *plain = bin(b, "logical_or", bin(b, "eq", larger, num(b, larger, 0)), un(b, "isinf", larger));
  return choose(b, plain, larger, length);
}

complex_value complex_from_polar(builder *b, value *length, value *angle) {
  return pair(bin(b, "mul", length, un(b, "cos", angle)), bin(b, "mul", length, un(b, "sin", angle)));
}

complex_value complex_multiply(builder *b, complex_value x, complex_value y) {
  if (!x.im && !y.im) return pair(bin(b, "mul", x.re, y.re), NULL);
  if (!y.im) return pair(bin(b, "mul", x.re, y.re), bin(b, "mul", x.im, y.re));
  if (!x.im) return pair(bin(b, "mul", x.re, y.re), bin(b, "mul", x.re, y.im));
  return pair(bin(b, "sub", bin(b, "mul", x.re, y.re), bin(b, "mul", x.im, y.im)),
              bin(b, "add", bin(b, "mul", x.re, y.im), bin(b, "mul", x.im, y.re)));
}

/* x conj(y) / |y|^2 */
complex_value complex_divide(builder *b, complex_value x, complex_value y) {
  if (!y.im) return pair(bin(b, "div", x.re, y.re), x.im ? bin(b, "div", x.im, y.re) : NULL);
  value *norm = bin(b, "add", un(b, "square", y.re), un(b, "square", y.im));
  const complex_value z = complex_multiply(b, x, pair(y.re, un(b, "neg", y.im)));
  return pair(bin(b, "div", z.re, norm), bin(b, "div", z.im, norm));
}

static complex_value inverse(builder *b, complex_value z) { return complex_divide(b, pair(num(b, z.re, 1), NULL), z); }

static complex_value exponential(builder *b, complex_value z) {
  return complex_from_polar(b, un(b, "exp", z.re), z.im);
}
static complex_value exponential2(builder *b, complex_value z) {
  return exponential(b, scale(b, z, 0.69314718055994531));
}

/* expm1(x) cos y - 2 sin^2(y / 2), and e^x sin y */
static complex_value exponential_less_one(builder *b, complex_value z) {
  value *half = un(b, "square", un(b, "sin", times(b, z.im, 0.5)));
  return pair(bin(b, "sub", bin(b, "mul", un(b, "expm1", z.re), un(b, "cos", z.im)), times(b, half, 2)),
              bin(b, "mul", un(b, "exp", z.re), un(b, "sin", z.im)));
}

static complex_value logarithm(builder *b, complex_value z) {
  return pair(un(b, "log", complex_abs(b, z)), bin(b, "atan2", z.im, z.re));
}
static complex_value logarithm2(builder *b, complex_value z) { return scale(b, logarithm(b, z), 1.4426950408889634); }
static complex_value logarithm10(builder *b, complex_value z) { return scale(b, logarithm(b, z), 0.43429448190325183); }

/* Near 1, log |1 + z| is log1p(x (2 + x) + y^2) / 2. */
static complex_value logarithm_of_one_more(builder *b, complex_value z) {
  const complex_value whole = from_real(b, z, 1);
  value *grown = bin(b, "add", bin(b, "mul", z.re, plus(b, z.re, 2)), un(b, "square", z.im));
  value *near = times(b, un(b, "log1p", grown), 0.5), *far = un(b, "log", complex_abs(b, whole));
  value *small = bin(b, "lt", complex_abs(b, z), num(b, z.re, 0.5));
  return pair(choose(b, small, near, far), bin(b, "atan2", whole.im, whole.re));
}

/* With t = sqrt((|x| + |z|) / 2): t + i y / 2t, or for negative x: |y| / 2t + i t with the sign of y. */
static complex_value root(builder *b, complex_value z) {
  value *t = un(b, "sqrt", times(b, bin(b, "add", un(b, "abs", z.re), complex_abs(b, z)), 0.5));
  value *zero = bin(b, "eq", t, num(b, t, 0)), *right = bin(b, "ge", z.re, num(b, z.re, 0));
  value *other = choose(b, zero, z.im, bin(b, "div", z.im, times(b, t, 2)));
  /* y / 2t has the sign of y, also of -0; so has t times its sign */
  value *angle = bin(b, "atan2", z.im, num(b, z.im, -1)); /* pi or -pi, never 0 */
  value *below = bin(b, "lt", angle, num(b, z.im, 0));
  return pair(choose(b, right, t, un(b, "abs", other)), choose(b, right, other, choose(b, below, un(b, "neg", t), t)));
}
static complex_value inverse_root(builder *b, complex_value z) { return inverse(b, root(b, z)); }

static complex_value square(builder *b, complex_value z) {
  value *product = bin(b, "mul", z.re, z.im);
  return pair(bin(b, "sub", un(b, "square", z.re), un(b, "square", z.im)), bin(b, "add", product, product));
}

static complex_value sine(builder *b, complex_value z) {
  return pair(bin(b, "mul", un(b, "sin", z.re), un(b, "cosh", z.im)),
              bin(b, "mul", un(b, "cos", z.re), un(b, "sinh", z.im)));
}
static complex_value cosine(builder *b, complex_value z) {
  return pair(bin(b, "mul", un(b, "cos", z.re), un(b, "cosh", z.im)),
              un(b, "neg", bin(b, "mul", un(b, "sin", z.re), un(b, "sinh", z.im))));
}
static complex_value sine_hyperbolic(builder *b, complex_value z) { return turn_back(b, sine(b, turn(b, z))); }
static complex_value cosine_hyperbolic(builder *b, complex_value z) { return cosine(b, turn(b, z)); }

/* (tan x / cosh^2 y + i tanh y (1 + tan^2 x)) / (1 + tan^2 x tanh^2 y) */
static complex_value tangent(builder *b, complex_value z) {
  value *t = un(b, "tan", z.re), *h = un(b, "tanh", z.im), *t2 = un(b, "square", t);
  value *below = plus(b, bin(b, "mul", t2, un(b, "square", h)), 1);
  value *narrow = un(b, "square", un(b, "reciprocal", un(b, "cosh", z.im)));
  return pair(bin(b, "div", bin(b, "mul", t, narrow), below), bin(b, "div", bin(b, "mul", h, plus(b, t2, 1)), below));
}
static complex_value tangent_hyperbolic(builder *b, complex_value z) { return turn_back(b, tangent(b, turn(b, z))); }

/* sqrt(1 - z) and sqrt(1 + z) */
static void roots(builder *b, complex_value z, complex_value *less, complex_value *more) {
  *less = root(b, from_real(b, negative(b, z), 1));
  *more = root(b, from_real(b, z, 1));
}

/* Im(conj(x) y) */
static value *crossed(builder *b, complex_value x, complex_value y) {
  return bin(b, "sub", bin(b, "mul", x.re, y.im), bin(b, "mul", x.im, y.re));
}

static complex_value arc_sine(builder *b, complex_value z) {
  complex_value less, more;
  roots(b, z, &less, &more);
  return pair(bin(b, "atan2", z.re, complex_multiply(b, less, more).re), un(b, "asinh", crossed(b, less, more)));
}
static complex_value arc_cosine(builder *b, complex_value z) {
  complex_value less, more;
  roots(b, z, &less, &more);
  return pair(times(b, bin(b, "atan2", less.re, more.re), 2), un(b, "asinh", crossed(b, more, less)));
}
static complex_value area_cosine(builder *b, complex_value z) {
  const complex_value less = root(b, from_real(b, z, -1)), more = root(b, from_real(b, z, 1));
  value *re = bin(b, "add", bin(b, "mul", less.re, more.re), bin(b, "mul", less.im, more.im));
  return pair(un(b, "asinh", re), times(b, bin(b, "atan2", less.im, more.re), 2));
}
static complex_value area_sine(builder *b, complex_value z) { return turn_back(b, arc_sine(b, turn(b, z))); }

static complex_value area_tangent(builder *b, complex_value z) {
  value *x = un(b, "abs", z.re), *one_less = plus(b, un(b, "neg", x), 1), *y2 = un(b, "square", z.im);
  value *grown = bin(b, "div", times(b, x, 4), bin(b, "add", un(b, "square", one_less), y2));
  value *wide = bin(b, "sub", bin(b, "mul", one_less, plus(b, x, 1)), y2);
  value *re = times(b, un(b, "log1p", grown), 0.25), *left = bin(b, "lt", z.re, num(b, z.re, 0));
  return pair(choose(b, left, un(b, "neg", re), re), times(b, bin(b, "atan2", times(b, z.im, 2), wide), 0.5));
}
static complex_value arc_tangent(builder *b, complex_value z) { return turn_back(b, area_tangent(b, turn(b, z))); }

static complex_value sigmoid(builder *b, complex_value z) {
  return inverse(b, from_real(b, exponential(b, negative(b, z)), 1));
}
static complex_value silu(builder *b, complex_value z) { return complex_multiply(b, z, sigmoid(b, z)); }

/* sin(pi z) / pi z, and 1 at 0 */
static complex_value cardinal_sine(builder *b, complex_value z) {
  const complex_value w = scale(b, z, 3.14159265358979323846), y = complex_divide(b, sine(b, w), w);
  value *none = bin(b, "logical_and", bin(b, "eq", z.re, num(b, z.re, 0)), bin(b, "eq", z.im, num(b, z.im, 0)));
  return pair(choose(b, none, num(b, z.re, 1), y.re), choose(b, none, num(b, z.im, 0), y.im));
}

complex_function complex_function_find(const char *name) {
  static const struct {
    const char *name;
    complex_function run;
  } table[] = {
      {"acos", arc_cosine},
      {"acosh", area_cosine},
      {"arccos", arc_cosine},
      {"arccosh", area_cosine},
      {"arcsin", arc_sine},
      {"arcsinh", area_sine},
      {"arctan", arc_tangent},
      {"arctanh", area_tangent},
      {"asin", arc_sine},
      {"asinh", area_sine},
      {"atan", arc_tangent},
      {"atanh", area_tangent},
      {"cos", cosine},
      {"cosh", cosine_hyperbolic},
      {"exp", exponential},
      {"exp2", exponential2},
      {"expm1", exponential_less_one},
      {"log", logarithm},
      {"log10", logarithm10},
      {"log1p", logarithm_of_one_more},
      {"log2", logarithm2},
      {"reciprocal", inverse},
      {"rsqrt", inverse_root},
      {"sigmoid", sigmoid},
      {"silu", silu},
      {"sin", sine},
      {"sinc", cardinal_sine},
      {"sinh", sine_hyperbolic},
      {"sqrt", root},
      {"square", square},
      {"tan", tangent},
      {"tanh", tangent_hyperbolic},
  };
  for (size_t i = 0; i < KILN_COUNT(table); i++)
    if (str_eq(table[i].name, name)) return table[i].run;
  return NULL;
}

complex_value complex_power(builder *b, complex_value x, complex_value y) {
  value *length = x.im ? complex_abs(b, x) : un(b, "abs", x.re);
  value *angle = bin(b, "atan2", x.im ? x.im : num(b, x.re, 0), x.re);
  value *log_length = un(b, "log", length), *size, *angle_out;
  if (y.im) {
    const complex_value w = complex_multiply(b, pair(log_length, angle), y);
    size = un(b, "exp", w.re);
    angle_out = w.im;
  } else {
    size = bin(b, "pow", length, y.re);
    angle_out = bin(b, "mul", angle, y.re);
  }
  const complex_value z = complex_from_polar(b, size, angle_out);
  /* 0 to the power 0 is 1, to others 0: log 0 is no number to go on with */
  value *nothing = bin(b, "eq", length, num(b, length, 0)), *first = bin(b, "eq", y.re, num(b, y.re, 0));
  if (y.im) first = bin(b, "logical_and", first, bin(b, "eq", y.im, num(b, y.im, 0)));
  value *zero = num(b, z.re, 0);
  return pair(choose(b, nothing, choose(b, first, num(b, z.re, 1), zero), z.re), choose(b, nothing, zero, z.im));
}
