/* Special functions over double, in the common part of C and CUDA C: this text is compiled into the library and, as it is, put in front of
 * kernels for GPUs. Functions that PyTorch computes in the type of its tensors are computed in double here. */
#ifndef KILN_OPS_SPECIAL_MATH_H
#define KILN_OPS_SPECIAL_MATH_H

#ifdef __CUDACC_RTC__
#define SP static __device__ __noinline__
#define SP_INF __longlong_as_double(0x7ff0000000000000LL)
#define SP_NAN __longlong_as_double(0x7ff8000000000000LL)
#else
#include <math.h>
#define SP static inline
#define SP_INF ((double)INFINITY)
#define SP_NAN ((double)NAN)
#endif
#define SP_PI 3.14159265358979323846

/* Where a recurrence over a degree stops: NaN beyond. */
#define SP_MAX_DEGREE 1000000.0

/* ---- gamma -------------------------------------------------------------------------------------------------------------------- */

SP double sp_lgamma(double x) { return lgamma(x); }

SP double sp_digamma(double x) {
  double result = 0;
  if (x == 0) return copysign(SP_INF, -x);
  if (x < 0) {
    if (x == floor(x)) return SP_NAN;
    result = -SP_PI / tan(SP_PI * (x - floor(x)));
    x = 1 - x;
  }
  for (; x < 12; x += 1) result -= 1 / x;
  const double w = 1 / (x * x);
  const double tail =
      w * (1.0 / 12 - w * (1.0 / 120 - w * (1.0 / 252 - w * (1.0 / 240 - w * (1.0 / 132 - w * 691.0 / 32760)))));
  return result + log(x) - 0.5 / x - tail;
}

/* Hurwitz's zeta function, by Euler and Maclaurin's formula. */
SP double sp_zeta(double s, double q) {
  if (s == 1) return SP_INF;
  if (!(s > 1)) return SP_NAN;
  if (q <= 0) {
    if (q == floor(q)) return SP_INF;
    if (s != floor(s) || q < -SP_MAX_DEGREE) return SP_NAN;
  }
  if (q > 1e8) return (1 / (s - 1) + 1 / (2 * q)) * pow(q, 1 - s);
  double sum = 0;
  int n = 0;
  for (; n < 12 || q <= 12; n++, q += 1) sum += pow(q, -s);
  double term = pow(q, -s), rising = s;
  sum += term * q / (s - 1) + 0.5 * term;
  /* B(2j) / (2j)! */
  const double b[9] = {1.0 / 12,
                       -1.0 / 720,
                       1.0 / 30240,
                       -1.0 / 1209600,
                       1.0 / 47900160,
                       -691.0 / 1307674368000.0,
                       1.0 / 74724249600.0,
                       -3617.0 / 10670622842880000.0,
                       43867.0 / 5109094217170944000.0};
  term /= q;
  for (int j = 0; j < 9; j++) {
    sum += b[j] * rising * term;
    rising *= (s + 2 * j + 1) * (s + 2 * j + 2);
    term /= q * q;
  }
  return sum;
}

/* The n-th derivative of digamma. */
SP double sp_polygamma(double n, double x) {
  if (n == 0) return sp_digamma(x);
  if (n < 0) return SP_NAN;
  return (fmod(n, 2) == 1 ? 1 : -1) * exp(lgamma(n + 1)) * sp_zeta(n + 1, x);
}

SP double sp_gamma_part(double a, double x, int upper) {
  if (x < 0 || a < 0 || x != x || a != a) return SP_NAN;
  if (a == 0) return x > 0 ? !upper : SP_NAN;
  if (x == 0) return upper;
  if (a == SP_INF) return x == SP_INF ? SP_NAN : upper;
  if (x == SP_INF) return !upper;
  const double front = a * log(x) - x - lgamma(a);
  if (x < a + 1) { /* the lower part as a power series */
    double term = 1 / a, sum = term;
    for (int n = 1; n < 20000 && term > sum * 1e-17; n++) sum += term *= x / (a + n);
    const double lower = sum * exp(front);
    return upper ? 1 - lower : lower;
  }
  /* The upper part as a continued fraction, by Lentz's method. */
  double b = x + 1 - a, c = 1e300, d = 1 / b, h = d;
  for (int n = 1; n < 20000; n++) {
    const double k = -n * (n - a);
    b += 2;
    d = k * d + b;
    if (fabs(d) < 1e-300) d = 1e-300;
    c = b + k / c;
    if (fabs(c) < 1e-300) c = 1e-300;
    d = 1 / d;
    h *= d * c;
    if (fabs(d * c - 1) < 1e-16) break;
  }
  const double rest = h * exp(front);
  return upper ? rest : 1 - rest;
}

SP double sp_igamma(double a, double x) { return sp_gamma_part(a, x, 0); }
SP double sp_igammac(double a, double x) { return sp_gamma_part(a, x, 1); }

/* ---- errors -------------------------------------------------------------------------------------------------------------------- */

/* exp(x^2) * erfc(x) */
SP double sp_erfcx(double x) {
  if (x < 25) return exp(x * x) * erfc(x);
  const double w = 1 / (2 * x * x);
  return (1 - w * (1 - 3 * w * (1 - 5 * w * (1 - 7 * w)))) / (x * sqrt(SP_PI));
}

/* y with erfc(y) = q: a start within a few thousandths, then steps of third order. */
SP double sp_erfc_inverse(double q) {
  if (!(q >= 0 && q <= 2)) return SP_NAN;
  if (q == 0) return SP_INF;
  if (q == 2) return -SP_INF;
  const double small = q < 1 ? q : 2 - q, l = log(small * (2 - small)), m = 2 / (SP_PI * 0.147) + l / 2;
  double y = sqrt(sqrt(m * m - l / 0.147) - m);
  for (int i = 0; i < 4; i++) {
    const double error = (erfc(y) - small) / (2 / sqrt(SP_PI) * exp(-y * y));
    y += error / (1 - y * error);
  }
  return q < 1 ? y : -y;
}

SP double sp_erfinv(double x) {
  if (fabs(x) > 0.5) return x > 0 ? sp_erfc_inverse(1 - x) : -sp_erfc_inverse(1 + x);
  double y = x * 0.88622692545275801365;
  for (int i = 0; i < 5; i++) {
    const double error = (erf(y) - x) / (2 / sqrt(SP_PI) * exp(-y * y));
    y -= error / (1 + y * error);
  }
  return y;
}

SP double sp_ndtri(double p) { return -1.41421356237309504880 * sp_erfc_inverse(2 * p); }

SP double sp_log_ndtr(double x) {
  const double t = x * 0.70710678118654752440;
  return x < -1 ? log(sp_erfcx(-t) / 2) - t * t : log1p(-erfc(t) / 2);
}

SP double sp_entr(double x) { return x != x ? x : x > 0 ? -x * log(x) : x == 0 ? 0 : -SP_INF; }
SP double sp_xlog1py(double x, double y) { return y != y ? y : x == 0 ? 0 : x * log1p(y); }

/* ---- Bessel's and Airy's functions -------------------------------------------------------------------------------------------------- */

SP double sp_bessel_j0(double x) { return j0(x); }
SP double sp_bessel_j1(double x) { return j1(x); }
SP double sp_bessel_y0(double x) { return x < 0 ? SP_NAN : x == 0 ? -SP_INF : y0(x); }
SP double sp_bessel_y1(double x) { return x < 0 ? SP_NAN : x == 0 ? -SP_INF : y1(x); }
SP double sp_spherical_bessel_j0(double x) {
  return fabs(x) == SP_INF ? 0 : fabs(x) < 1e-4 ? 1 - x * x / 6 : sin(x) / x;
}

/* exp(-|x|) times the modified function of the first kind, of order 0 or 1. */
SP double sp_bessel_i_scaled(int order, double x) {
  const double t = fabs(x), sign = order == 1 && x < 0 ? -1 : 1;
  double sum = 1, term = 1;
  if (x != x) return x;
  if (t == SP_INF) return 0;
  if (t <= 30) {
    const double w = t * t / 4;
    for (int k = 1; k < 200 && term > sum * 1e-18; k++) sum += term *= w / ((double)k * (k + order));
    return sign * exp(-t) * (order ? sum * t / 2 : sum);
  }
  const double mu = 4.0 * order * order;
  for (int k = 1; k < 40 && fabs(term) > 1e-18; k++) sum += term *= -(mu - (2.0 * k - 1) * (2.0 * k - 1)) / (8 * t * k);
  return sign * sum / sqrt(2 * SP_PI * t);
}

SP double sp_i0(double x) { return sp_bessel_i_scaled(0, x) * exp(fabs(x)); }
SP double sp_i1(double x) { return sp_bessel_i_scaled(1, x) * exp(fabs(x)); }
SP double sp_i0e(double x) { return sp_bessel_i_scaled(0, x); }
SP double sp_i1e(double x) { return sp_bessel_i_scaled(1, x); }

/* exp(x) times the modified function of the second kind: its integral over cosh, where sums of equal steps converge as fast as can be. */
SP double sp_bessel_k_scaled(double order, double x) {
  if (x != x || x < 0) return SP_NAN;
  if (x == 0) return SP_INF;
  const double step = x > 9 ? 0.6 / sqrt(x) : 0.2;
  double sum = 0.5;
  for (int i = 1; i < 2000; i++) {
    const double t = i * step, s = sinh(t / 2), term = exp(-2 * x * s * s) * cosh(order * t);
    sum += term;
    if (term < sum * 1e-18 && x * s * s > 1) break;
  }
  return sum * step;
}

SP double sp_modified_bessel_k0(double x) { return sp_bessel_k_scaled(0, x) * exp(-x); }
SP double sp_modified_bessel_k1(double x) { return sp_bessel_k_scaled(1, x) * exp(-x); }
SP double sp_scaled_modified_bessel_k0(double x) { return sp_bessel_k_scaled(0, x); }
SP double sp_scaled_modified_bessel_k1(double x) { return sp_bessel_k_scaled(1, x); }

SP double sp_airy_ai(double x) {
  if (x != x || fabs(x) == SP_INF) return SP_NAN;
  const double z = 2.0 / 3 * fabs(x) * sqrt(fabs(x));
  if (x > 2) return exp(-z) * sqrt(x / 3) / SP_PI * sp_bessel_k_scaled(1.0 / 3, z);
  if (x >= -7) { /* power series */
    double f = 1, g = x, u = 1, v = x;
    for (int k = 0; k < 80; k++) {
      const double cube = x * x * x;
      f += u *= cube / ((3.0 * k + 2) * (3.0 * k + 3));
      g += v *= cube / ((3.0 * k + 3) * (3.0 * k + 4));
    }
    return 0.355028053887817239260 * f - 0.258819403792806798405 * g;
  }
  double even = 1, odd = 0, u = 1;
  for (int k = 1; k < 20; k++) {
    u *= (6.0 * k - 5) * (6.0 * k - 3) * (6.0 * k - 1) / (216.0 * k * (2.0 * k - 1) * z);
    if (k % 2)
      odd += k % 4 == 1 ? u : -u;
    else
      even += k % 4 == 2 ? -u : u;
    if (u < 1e-17) break;
  }
  return (sin(z + SP_PI / 4) * even - cos(z + SP_PI / 4) * odd) / sqrt(SP_PI * sqrt(-x));
}

/* ---- orthogonal polynomials; degrees are cut to integers, and negative ones give 0 ------------------------------------------------------ */

/* p(k + 1) = 2 x p(k) - p(k - 1) from p(0) = 1 and p(1) = first */
SP double sp_chebyshev(double x, double n, double first) {
  n = trunc(n);
  if (n < 0) return 0;
  if (n == 0) return 1;
  if (!(n <= SP_MAX_DEGREE)) return SP_NAN;
  double before = 1, p = first;
  for (double k = 1; k < n; k += 1) {
    const double next = 2 * x * p - before;
    before = p;
    p = next;
  }
  return p;
}

SP double sp_chebyshev_t(double x, double n) {
  if (trunc(n) > 6 && fabs(x) < 1) return cos(trunc(n) * acos(x));
  return sp_chebyshev(x, n, x);
}
SP double sp_chebyshev_u(double x, double n) { return sp_chebyshev(x, n, 2 * x); }
SP double sp_chebyshev_v(double x, double n) { return sp_chebyshev(x, n, 2 * x - 1); }
SP double sp_chebyshev_w(double x, double n) { return sp_chebyshev(x, n, 2 * x + 1); }
SP double sp_shifted_chebyshev_t(double x, double n) { return sp_chebyshev_t(2 * x - 1, n); }
SP double sp_shifted_chebyshev_u(double x, double n) { return sp_chebyshev_u(2 * x - 1, n); }
SP double sp_shifted_chebyshev_v(double x, double n) { return sp_chebyshev_v(2 * x - 1, n); }
SP double sp_shifted_chebyshev_w(double x, double n) { return sp_chebyshev_w(2 * x - 1, n); }

/* kind: h(ermite, physicists'), e (hermite, probabilists'), l(aguerre), p (Legendre) */
SP double sp_polynomial(int kind, double x, double n) {
  n = trunc(n);
  if (n < 0) return 0;
  if (n == 0) return 1;
  if (!(n <= SP_MAX_DEGREE)) return SP_NAN;
  double before = 1, p = kind == 'h' ? 2 * x : kind == 'l' ? 1 - x : x;
  for (double k = 1; k < n; k += 1) {
    double next;
    if (kind == 'h')
      next = 2 * x * p - 2 * k * before;
    else if (kind == 'e')
      next = x * p - k * before;
    else if (kind == 'l')
      next = ((2 * k + 1 - x) * p - k * before) / (k + 1);
    else
      next = ((2 * k + 1) * x * p - k * before) / (k + 1);
    before = p;
    p = next;
  }
  return p;
}

SP double sp_hermite_h(double x, double n) { return sp_polynomial('h', x, n); }
SP double sp_hermite_he(double x, double n) { return sp_polynomial('e', x, n); }
SP double sp_laguerre_l(double x, double n) { return sp_polynomial('l', x, n); }
SP double sp_legendre_p(double x, double n) { return sp_polynomial('p', x, n); }

/* ---- parts of floats ------------------------------------------------------------------------------------------------------------------ */

SP double sp_mantissa(double x) {
  int e = 0;
  return frexp(x, &e);
}
SP double sp_exponent(double x) {
  int e = 0;
  if (x != x || fabs(x) == SP_INF) return 0;
  (void)frexp(x, &e);
  return e;
}

#endif
