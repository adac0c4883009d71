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

#endif
