/* Factorizations of one matrix in double, row by row in memory, in the common part of C and CUDA C: on the host one thread runs them; on a
 * GPU a block of threads shares one matrix. LA_EACH loops are shared between threads, everything else is done by all of them alike, and
 * LA_SYNC stands between writes and the reads of others. `d` holds the operands' sizes: rows and columns of the first one, columns of the
 * second one, size of the first result's last dimension, and size of the second operand's last dimension but one (or the only one). */
#ifndef KILN_OPS_LINALG_MATH_H
#define KILN_OPS_LINALG_MATH_H

#ifdef __CUDACC_RTC__
#define LA static __device__ __noinline__
#define LA_EACH(i, low, high) for (long long i = (low) + (long long)threadIdx.x; i < (high); i += blockDim.x)
#define LA_SYNC __syncthreads()
#define LA_FIRST (threadIdx.x == 0)
#else
#include <math.h>
#define LA static inline
#define LA_EACH(i, low, high) for (long long i = (low); i < (high); i++)
#define LA_SYNC (void)0
#define LA_FIRST 1
#endif

/* a = P L U with partial pivoting (flag 1); x: L below the diagonal and U, y: pivots from 1, z: 0 or the first zero pivot. */
LA void la_lu(const long long *d, int flags, const double *a, const double *b, double *x, double *y, double *z) {
  const long long m = d[0], n = d[1], r = m < n ? m : n;
  long long zero = 0;
  (void)b;
  LA_EACH(e, 0, m * n) x[e] = a[e];
  LA_SYNC;
  for (long long j = 0; j < r; j++) {
    long long p = j;
    for (long long i = j + 1; flags && i < m; i++) p = fabs(x[i * n + j]) > fabs(x[p * n + j]) ? i : p;
    LA_SYNC;
    LA_EACH(c, 0, n) {
      const double t = x[j * n + c];
      x[j * n + c] = x[p * n + c];
      x[p * n + c] = t;
    }
    if (LA_FIRST) y[j] = (double)(p + 1);
    LA_SYNC;
    const double pivot = x[j * n + j];
    if (pivot == 0) {
      if (!zero) zero = j + 1;
    } else {
      LA_EACH(i, j + 1, m) {
        const double f = x[i * n + j] / pivot;
        x[i * n + j] = f;
        for (long long c = j + 1; c < n; c++) x[i * n + c] -= f * x[j * n + c];
      }
    }
    LA_SYNC;
  }
  if (LA_FIRST) z[0] = (double)zero;
}

/* Pivots (from 1) to the order in which they leave the rows. */
LA void la_pivot_order(const long long *d, int flags, const double *a, const double *b, double *x, double *y,
                       double *z) {
  (void)flags, (void)b, (void)y, (void)z;
  LA_EACH(i, 0, d[3]) x[i] = (double)i;
  LA_SYNC;
  for (long long i = 0; LA_FIRST && i < d[1] && i < d[3]; i++) {
    const long long p = (long long)a[i] - 1;
    if (p < 0 || p >= d[3]) continue;
    const double t = x[i];
    x[i] = x[p];
    x[p] = t;
  }
}

/* a = x x^T from the lower triangle; y: 0 or the first row that is not positive. */
LA void la_cholesky(const long long *d, int flags, const double *a, const double *b, double *x, double *y, double *z) {
  const long long n = d[0];
  long long failed = 0;
  (void)flags, (void)b, (void)z;
  LA_EACH(e, 0, n * n) x[e] = 0;
  LA_SYNC;
  for (long long j = 0; j < n && !failed; j++) {
    double sum = a[j * n + j];
    for (long long k = 0; k < j; k++) sum -= x[j * n + k] * x[j * n + k];
    if (!(sum > 0)) failed = j + 1;
    const double root = sqrt(sum);
    LA_SYNC;
    if (LA_FIRST && !failed) x[j * n + j] = root;
    LA_EACH(i, j + 1, failed ? 0 : n) {
      double s = a[i * n + j];
      for (long long k = 0; k < j; k++) s -= x[i * n + k] * x[j * n + k];
      x[i * n + j] = s / root;
    }
    LA_SYNC;
  }
  if (LA_FIRST) y[0] = (double)failed;
}

/* a x = b with a triangular (flag 1: upper; flag 2: ones on the diagonal) */
LA void la_solve_triangular(const long long *d, int flags, const double *a, const double *b, double *x, double *y,
                            double *z) {
  const long long n = d[0], k = d[2];
  (void)y, (void)z;
  LA_EACH(c, 0, k) {
    for (long long step = 0; step < n; step++) {
      const long long i = flags & 1 ? n - 1 - step : step;
      const long long low = flags & 1 ? i + 1 : 0, high = flags & 1 ? n : i;
      double s = b[i * k + c];
      for (long long j = low; j < high; j++) s -= a[i * n + j] * x[j * k + c];
      x[i * k + c] = flags & 2 ? s : s / a[i * n + i];
    }
  }
}

/* Householder's reflections, as LAPACK stores them: x holds R and the vectors, y their factors. */
LA void la_qr_factor(const long long *d, int flags, const double *a, const double *b, double *x, double *y, double *z) {
  const long long m = d[0], n = d[1], r = m < n ? m : n;
  (void)flags, (void)b, (void)z;
  LA_EACH(e, 0, m * n) x[e] = a[e];
  LA_SYNC;
  for (long long j = 0; j < r; j++) {
    const double alpha = x[j * n + j];
    double rest = 0;
    for (long long i = j + 1; i < m; i++) rest += x[i * n + j] * x[i * n + j];
    const double beta = -copysign(sqrt(alpha * alpha + rest), alpha), tau = rest == 0 ? 0 : (beta - alpha) / beta;
    LA_SYNC;
    if (LA_FIRST) {
      y[j] = tau;
      if (rest != 0) x[j * n + j] = beta;
    }
    LA_EACH(i, j + 1, rest != 0 ? m : 0) x[i * n + j] /= alpha - beta;
    LA_SYNC;
    LA_EACH(c, j + 1, n) {
      double w = x[j * n + c];
      for (long long i = j + 1; i < m; i++) w += x[i * n + j] * x[i * n + c];
      x[j * n + c] -= tau * w;
      for (long long i = j + 1; i < m; i++) x[i * n + c] -= tau * w * x[i * n + j];
    }
    LA_SYNC;
  }
}

/* The first columns of the product of such reflections. */
LA void la_householder(const long long *d, int flags, const double *a, const double *b, double *x, double *y,
                       double *z) {
  const long long m = d[0], n = d[1], k = d[3], r = d[4];
  (void)flags, (void)y, (void)z;
  LA_EACH(c, 0, k) {
    for (long long i = 0; i < m; i++) x[i * k + c] = i == c;
    for (long long j = r - 1; j >= 0; j--) {
      double w = x[j * k + c];
      for (long long i = j + 1; i < m; i++) w += a[i * n + j] * x[i * k + c];
      x[j * k + c] -= b[j] * w;
      for (long long i = j + 1; i < m; i++) x[i * k + c] -= b[j] * w * a[i * n + j];
    }
  }
}

/* Rotates columns p and q of a matrix of `rows` rows and `n` columns. */
LA void la_rotate(double *v, long long rows, long long n, long long p, long long q, double c, double s) {
  for (long long i = 0; i < rows; i++) {
    const double vp = v[i * n + p], vq = v[i * n + q];
    v[i * n + p] = c * vp - s * vq;
    v[i * n + q] = s * vp + c * vq;
  }
}

LA void la_swap_columns(double *v, long long rows, long long n, long long p, long long q) {
  for (long long i = 0; i < rows; i++) {
    const double t = v[i * n + p];
    v[i * n + p] = v[i * n + q];
    v[i * n + q] = t;
  }
}

/* x: eigenvalues of the symmetric matrix whose lower triangle a holds, rising; y: vectors; z: room for a copy. By Jacobi's rotations. */
LA void la_eigh(const long long *d, int flags, const double *a, const double *b, double *x, double *y, double *z) {
  const long long n = d[0];
  (void)flags, (void)b;
  if (!LA_FIRST) return;
  for (long long i = 0; i < n; i++) {
    for (long long j = 0; j < n; j++) {
      z[i * n + j] = a[i >= j ? i * n + j : j * n + i];
      y[i * n + j] = i == j;
    }
  }
  for (int sweep = 0, moved = 1; moved && sweep < 60; sweep++) {
    moved = 0;
    for (long long p = 0; p < n; p++) {
      for (long long q = p + 1; q < n; q++) {
        const double off = z[p * n + q], dp = z[p * n + p], dq = z[q * n + q];
        if (!(fabs(off) > 1e-17 * sqrt(fabs(dp * dq)) && fabs(off) > 1e-300)) continue;
        if (fabs(off) <= 1e-18 * (fabs(dp) + fabs(dq))) continue;
        const double theta = (dq - dp) / (2 * off), t = copysign(1 / (fabs(theta) + sqrt(theta * theta + 1)), theta);
        const double c = 1 / sqrt(t * t + 1), s = t * c;
        moved = 1;
        la_rotate(z, n, n, p, q, c, s);
        for (long long k = 0; k < n; k++) {
          const double zp = z[p * n + k], zq = z[q * n + k];
          z[p * n + k] = c * zp - s * zq;
          z[q * n + k] = s * zp + c * zq;
        }
        z[p * n + q] = z[q * n + p] = 0;
        la_rotate(y, n, n, p, q, c, s);
      }
    }
  }
  for (long long i = 0; i < n; i++) x[i] = z[i * n + i];
  for (long long i = 0; i < n; i++) {
    long long least = i;
    for (long long j = i + 1; j < n; j++) least = x[j] < x[least] ? j : least;
    const double t = x[i];
    x[i] = x[least];
    x[least] = t;
    if (least != i) la_swap_columns(y, n, n, i, least);
  }
}

/* a = x diag(y) z^T for at least as many rows as columns, y falling: rotations of columns until all are orthogonal. */
LA void la_svd(const long long *d, int flags, const double *a, const double *b, double *x, double *y, double *z) {
  const long long m = d[0], n = d[1];
  (void)flags, (void)b;
  if (!LA_FIRST) return;
  for (long long e = 0; e < m * n; e++) x[e] = a[e];
  for (long long e = 0; e < n * n; e++) z[e] = e / n == e % n;
  for (int sweep = 0, moved = 1; moved && sweep < 60; sweep++) {
    moved = 0;
    for (long long p = 0; p < n; p++) {
      for (long long q = p + 1; q < n; q++) {
        double pp = 0, qq = 0, pq = 0;
        for (long long i = 0; i < m; i++) {
          pp += x[i * n + p] * x[i * n + p];
          qq += x[i * n + q] * x[i * n + q];
          pq += x[i * n + p] * x[i * n + q];
        }
        if (!(fabs(pq) > 1e-15 * sqrt(pp * qq) && fabs(pq) > 1e-300)) continue;
        const double theta = (qq - pp) / (2 * pq), t = copysign(1 / (fabs(theta) + sqrt(theta * theta + 1)), theta);
        const double c = 1 / sqrt(t * t + 1), s = t * c;
        moved = 1;
        la_rotate(x, m, n, p, q, c, s);
        la_rotate(z, n, n, p, q, c, s);
      }
    }
  }
  for (long long j = 0; j < n; j++) {
    double sum = 0;
    for (long long i = 0; i < m; i++) sum += x[i * n + j] * x[i * n + j];
    y[j] = sqrt(sum);
  }
  for (long long j = 0; j < n; j++) {
    long long most = j;
    for (long long k = j + 1; k < n; k++) most = y[k] > y[most] ? k : most;
    const double t = y[j];
    y[j] = y[most];
    y[most] = t;
    if (most != j) {
      la_swap_columns(x, m, n, j, most);
      la_swap_columns(z, n, n, j, most);
    }
  }
  for (long long j = 0; j < n; j++) {
    const int lost = !(y[j] > 1e-14 * y[0]); /* a direction that the matrix does not give: any that is orthogonal */
    for (long long i = 0; i < m && !lost; i++) x[i * n + j] /= y[j];
    double best = 0;
    for (long long unit = 0; lost && unit < m && best < 0.25 / (double)m; unit++) {
      for (long long i = 0; i < m; i++) x[i * n + j] = i == unit;
      for (int again = 0; again < 2; again++) {
        for (long long k = 0; k < j; k++) {
          double dot = 0;
          for (long long i = 0; i < m; i++) dot += x[i * n + k] * x[i * n + j];
          for (long long i = 0; i < m; i++) x[i * n + j] -= dot * x[i * n + k];
        }
      }
      best = 0;
      for (long long i = 0; i < m; i++) best += x[i * n + j] * x[i * n + j];
    }
    for (long long i = 0; i < m && lost; i++) x[i * n + j] /= best > 0 ? sqrt(best) : 1;
  }
}

/* Complex numbers are pairs. The unitary rotation that makes v[q, k] 0 by v[p, k], from both sides: rows p and q, then columns, and the
 * columns of `u`. `f` and `g` are what stands for v[p, k] and v[q, k]. */
LA void la_rotate_pairs(double *v, double *u, long long n, long long p, long long q, const double *f, const double *g) {
  const double r = sqrt(f[0] * f[0] + f[1] * f[1] + g[0] * g[0] + g[1] * g[1]);
  if (!(r > 0)) return;
  const double cr = f[0] / r, ci = f[1] / r, sr = g[0] / r, si = g[1] / r;
  for (long long j = 0; j < n; j++) {
    double *a = v + 2 * (p * n + j), *b = v + 2 * (q * n + j);
    const double ar = a[0], ai = a[1], br = b[0], bi = b[1];
    a[0] = cr * ar + ci * ai + sr * br + si * bi;
    a[1] = cr * ai - ci * ar + sr * bi - si * br;
    b[0] = cr * br - ci * bi - sr * ar + si * ai;
    b[1] = cr * bi + ci * br - sr * ai - si * ar;
  }
  for (int which = 0; which < 2; which++) {
    double *m = which ? u : v;
    for (long long i = 0; i < n; i++) {
      double *a = m + 2 * (i * n + p), *b = m + 2 * (i * n + q);
      const double ar = a[0], ai = a[1], br = b[0], bi = b[1];
      a[0] = cr * ar - ci * ai + sr * br - si * bi;
      a[1] = cr * ai + ci * ar + sr * bi + si * br;
      b[0] = cr * br + ci * bi - sr * ar - si * ai;
      b[1] = cr * bi - ci * br - sr * ai + si * ar;
    }
  }
}

LA double la_size(const double *v) { return sqrt(v[0] * v[0] + v[1] * v[1]); }

/* The eigenvalue of the 2 x 2 matrix at `at` on v's diagonal that is nearer to its last element. */
LA void la_shift(const double *v, long long n, long long at, double *out) {
  const double *a = v + 2 * (at * n + at), *b = a + 2, *c = a + 2 * n, *d = c + 2;
  const double hr = (a[0] - d[0]) / 2, hi = (a[1] - d[1]) / 2; /* d + h - and + sqrt(h^2 + bc) */
  const double qr = hr * hr - hi * hi + b[0] * c[0] - b[1] * c[1], qi = 2 * hr * hi + b[0] * c[1] + b[1] * c[0];
  const double size = sqrt(sqrt(qr * qr + qi * qi)), turn = atan2(qi, qr) / 2;
  double rr = size * cos(turn), ri = size * sin(turn);
  if (hr * rr + hi * ri > 0) {
    rr = -rr;
    ri = -ri;
  }
  out[0] = d[0] + hr + rr;
  out[1] = d[1] + hi + ri;
}

/* v to an upper triangle by unitary rotations, which u collects. Returns whether that ended. */
LA int la_schur(double *v, double *u, long long n) {
  long long low, high = n - 1, steps = 0, tries = 0;
  for (long long k = 0; k + 2 < n; k++) /* to Hessenberg's form */
    for (long long i = n - 1; i > k + 1; i--) {
      const double f[2] = {v[2 * ((i - 1) * n + k)], v[2 * ((i - 1) * n + k) + 1]};
      const double g[2] = {v[2 * (i * n + k)], v[2 * (i * n + k) + 1]};
      if (g[0] != 0 || g[1] != 0) la_rotate_pairs(v, u, n, i - 1, i, f, g);
      v[2 * (i * n + k)] = v[2 * (i * n + k) + 1] = 0;
    }
  while (high > 0) {
    for (low = high; low > 0; low--) {
      double *h = v + 2 * (low * n + low - 1);
      if (la_size(h) > 1e-16 * (la_size(v + 2 * ((low - 1) * n + low - 1)) + la_size(v + 2 * (low * n + low))))
        continue;
      h[0] = h[1] = 0;
      break;
    }
    if (low == high) {
      high--;
      tries = 0;
      continue;
    }
    if (++steps > 60 * n) return 0;
    double shift[2];
    la_shift(v, n, high - 1, shift);
    if (++tries % 10 == 0) shift[0] += la_size(v + 2 * (high * n + high - 1)); /* out of a cycle */
    for (long long k = low; k < high; k++) {
      const long long from = k > low ? k - 1 : k;
      double f[2] = {v[2 * (k * n + from)], v[2 * (k * n + from) + 1]};
      const double g[2] = {v[2 * ((k + 1) * n + from)], v[2 * ((k + 1) * n + from) + 1]};
      if (k == low) {
        f[0] -= shift[0];
        f[1] -= shift[1];
      }
      la_rotate_pairs(v, u, n, k, k + 1, f, g);
      if (k > low) v[2 * ((k + 1) * n + from)] = v[2 * ((k + 1) * n + from) + 1] = 0;
    }
  }
  return 1;
}

/* x: eigenvalues of a + bi, y: vectors of length 1 whose largest element is real, in columns, z: room for the matrix; all pairs. */
LA void la_eig(const long long *d, int flags, const double *a, const double *b, double *x, double *y, double *z) {
  const long long n = d[0];
  double norm = 0, most_of_all = 0;
  const double lost = sqrt(-1.0);
  int real = 1;
  (void)flags;
  if (!LA_FIRST) return;
  for (long long e = 0; e < n * n; e++) most_of_all = fmax(most_of_all, fmax(fabs(a[e]), fabs(b[e])));
  const double unit = most_of_all > 0 && most_of_all <= 1.7e308 ? most_of_all : 1; /* no square overflows */
  for (long long e = 0; e < n * n; e++) {
    z[2 * e] = a[e] / unit;
    z[2 * e + 1] = b[e] / unit;
    y[2 * e] = e / n == e % n;
    y[2 * e + 1] = 0;
    real = real && b[e] == 0;
    norm += fabs(z[2 * e]) + fabs(z[2 * e + 1]);
  }
  const int done = la_schur(z, y, n);
  for (long long i = 0; i < n; i++) {
    double *w = x + 2 * i;
    w[0] = done ? z[2 * (i * n + i)] : lost;
    w[1] = done ? z[2 * (i * n + i) + 1] : lost;
    if (real && fabs(w[1]) <= 1e-14 * norm) w[1] = 0;
  }
  for (long long e = n - 1; e >= 0; e--) { /* of the triangle, from below; columns are needed until their own turn */
    for (long long i = e - 1; i >= 0; i--) {
      double *v = z + 2 * (i * n + e), sr = v[0], si = v[1];
      for (long long j = i + 1; j < e; j++) {
        const double *t = z + 2 * (i * n + j), *k = z + 2 * (j * n + e);
        sr += t[0] * k[0] - t[1] * k[1];
        si += t[0] * k[1] + t[1] * k[0];
      }
      double dr = x[2 * e] - x[2 * i], di = x[2 * e + 1] - x[2 * i + 1];
      if (sqrt(dr * dr + di * di) <= 1e-16 * norm) {
        dr = norm > 0 ? 1e-16 * norm : 1;
        di = 0;
      }
      const double square = dr * dr + di * di;
      v[0] = (sr * dr + si * di) / square;
      v[1] = (si * dr - sr * di) / square;
    }
  }
  for (long long e = n - 1; e >= 0; e--) {
    double sum = 0, most = 0, pr = 1, pi = 0;
    for (long long i = 0; i < n; i++) {
      double *v = y + 2 * (i * n + e), sr = v[0], si = v[1];
      for (long long k = 0; k < e; k++) {
        const double *q = y + 2 * (i * n + k), *t = z + 2 * (k * n + e);
        sr += q[0] * t[0] - q[1] * t[1];
        si += q[0] * t[1] + q[1] * t[0];
      }
      v[0] = sr;
      v[1] = si;
      sum += sr * sr + si * si;
      if (sr * sr + si * si > most) {
        most = sr * sr + si * si;
        pr = sr;
        pi = si;
      }
    }
    const double scale = sum > 0 ? 1 / (sqrt(sum) * sqrt(pr * pr + pi * pi)) : 1;
    for (long long i = 0; i < n; i++) {
      double *v = y + 2 * (i * n + e);
      const double vr = v[0], vi = v[1];
      v[0] = done ? (vr * pr + vi * pi) * scale : lost;
      v[1] = done ? (vi * pr - vr * pi) * scale : lost;
    }
  }
  for (long long e = 0; e < 2 * n; e++) x[e] *= unit;
}

#endif
