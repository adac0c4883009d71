/* Fourier transforms as products with constant matrices.
 *
 * A transform of n elements is a product with the n x n matrix of exp(-2 pi i j k / n); of real elements, onesided, with half of it.
 * Longer ones are split, n = n1 n2 (Cooley and Tukey): with j = j1 n2 + j2 and k = k1 + n1 k2,
 *   X[k1 + n1 k2] = sum over j2 of w_n2^(j2 k2) w_n^(j2 k1) (sum over j1 of w_n1^(j1 k1) x[j1 n2 + j2]).
 * All are operators that every backend has, and matrices and phases become weights. */
#include "import/fourier.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "ops/lowering.h"

/* Lengths up to which one matrix does it; of prime lengths, up to which it is still sensible. */
enum { DIRECT_REAL = 512, DIRECT_COMPLEX = 128, DIRECT_PRIME = 2048, MAX_LENGTH = 1 << 20, MAX_OVERLAP = 64 };

/* ---- tables ------------------------------------------------------------------------------------- */

typedef enum table_kind { TABLE_COMPLEX, TABLE_REAL, TABLE_BACK, TABLE_COSINES, TABLE_SINES } table_kind;

/* What a table holds; the same ones are made once. */
typedef struct fourier_table {
  table_kind kind;
  kiln_dtype dtype;
  bool inverse;
  int64_t rows, columns, n;
  double scale;
  value *v;
  struct fourier_table *next;
} fourier_table;

/* A small file must not ask for any amount of memory. */
enum { MAX_TABLE_BYTES = 1 << 29 };

/* cos and sin of 2 pi t / n, exact where they are 0 or 1. */
static void phase(int64_t t, int64_t n, double *out) {
  const double angle = 2 * 3.14159265358979323846 * (double)t / (double)n;
  out[0] = 4 * t == n || 4 * t == 3 * n ? 0 : 2 * t == n ? -1 : cos(angle);
  out[1] = t == 0 || 2 * t == n ? 0 : 4 * t == n ? 1 : 4 * t == 3 * n ? -1 : sin(angle);
}

/* Element [row, column] of a table, of cos and sin of the multiples of 2 pi / n. */
static double element(const fourier_table *t, const double *phases, int64_t row, int64_t column) {
  const int64_t n = t->n, bins = t->columns / 2;
  const double sign = t->inverse ? 1 : -1;
  switch (t->kind) {
    case TABLE_COMPLEX:
    case TABLE_REAL: { /* [re, im of bins] from [re, im of n], or from n real ones */
      const int64_t half = t->rows / 2, k = row % half, j = column % n;
      const double *p = phases + 2 * (j * k % n);
      const bool imaginary = row >= half, from_imaginary = column >= n;
      if (imaginary == from_imaginary) return t->scale * p[0];
      return t->scale * (imaginary ? sign : -sign) * p[1];
    }
    case TABLE_BACK: { /* n real elements from [re, im of bins] */
      const int64_t k = column % bins;
      const double *p = phases + 2 * (row * k % n), weight = t->scale * (k == 0 || 2 * k == n ? 1 : 2);
      return column < bins ? weight * p[0] : -weight * p[1];
    }
    default: {
      const double *p = phases + 2 * (row * column % n);
      return t->kind == TABLE_COSINES ? p[0] : sign * p[1];
    }
  }
}

static kiln_status fill(const fourier_table *t, void *data) {
  double *phases = mem_alloc_aligned((size_t)t->n * 2 * sizeof(double));
  if (!phases) return KILN_NO_MEMORY("Fourier transform");
  for (int64_t i = 0; i < t->n; i++) phase(i, t->n, phases + 2 * i);
  for (int64_t row = 0, at = 0; row < t->rows; row++)
    for (int64_t column = 0; column < t->columns; column++, at++) {
      const double v = element(t, phases, row, column);
      if (t->dtype == KILN_F32)
        ((float *)data)[at] = (float)v;
      else
        ((double *)data)[at] = v;
    }
  mem_free_aligned(phases);
  return KILN_OK;
}

static kiln_status no_value(const lower_call *c) {
  KILN_TRY(graph_check(c->b.graph));
  return KILN_NO_MEMORY("Fourier transform");
}

/* The table as a matrix that is a constant. */
static kiln_status find_table(lower_call *c, fourier_table wanted, value **out) {
  importer *im = c->im;
  size_t bytes;
  for (fourier_table *t = im->tables; t; t = t->next) {
    if (t->kind != wanted.kind || t->dtype != wanted.dtype || t->inverse != wanted.inverse || t->rows != wanted.rows ||
        t->columns != wanted.columns || t->n != wanted.n || fabs(t->scale - wanted.scale) > 0)
      continue;
    *out = t->v;
    return KILN_OK;
  }
  if (!size_mul((size_t)wanted.rows, (size_t)wanted.columns, &bytes) ||
      !size_mul(bytes, kiln_dtype_size(wanted.dtype), &bytes) || bytes > MAX_TABLE_BYTES - im->table_bytes)
    return LOWER_FAIL(c, "the Fourier transforms of this model need more than %d MB of tables", MAX_TABLE_BYTES >> 20);
  void *data = mem_alloc_aligned(bytes ? bytes : 1);
  if (!data) return KILN_NO_MEMORY("Fourier transform");
  const kiln_status status = fill(&wanted, data);
  const dim shape[2] = {wanted.rows, wanted.columns};
  const tensor_type type = type_of(wanted.dtype, 2, shape);
  wanted.v = status == KILN_OK ? graph_constant_take(c->b.graph, &type, data) : NULL;
  if (!wanted.v) mem_free_aligned(data);
  KILN_TRY(status);
  wanted.next = im->tables;
  fourier_table *made = arena_copy(im->arena, &wanted, sizeof wanted);
  if (!wanted.v || !made) return no_value(c);
  im->tables = made;
  im->table_bytes += bytes;
  *out = wanted.v;
  return KILN_OK;
}

/* Marks what is built from here on as part of the transform. */
static kiln_status mark(lower_call *c) {
  const char *path = c->b.path ? c->b.path : "";
  if (str_ends(path, EXACT_PATH)) return KILN_OK;
  c->b.path = arena_printf(&c->b.graph->arena, "%s%s", path, EXACT_PATH);
  return c->b.path ? KILN_OK : KILN_NO_MEMORY("Fourier transform");
}

/* ---- one axis, the last ------------------------------------------------------------------------- */

static value *last_slice(lower_call *c, value *x, dim start, dim end) {
  return x ? lowering_slice(&c->b, x, x->type.rank - 1, start, end, 1) : NULL;
}

static value *side_by_side(lower_call *c, value *x, value *y) {
  return x && y ? build(&c->b, "concat", IN(x, y), ATTRS(A_INT("axis", x->type.rank - 1))) : NULL;
}

/* The first `bins` elements of the transform of n, scaled, by one product. */
static kiln_status direct(lower_call *c, complex_value *z, int64_t n, int64_t bins, bool inverse, double scale) {
  value *w, *x = z->im ? side_by_side(c, z->re, z->im) : z->re;
  KILN_TRY(find_table(c,
                      (fourier_table){.kind = z->im ? TABLE_COMPLEX : TABLE_REAL,
                                      .dtype = z->re->type.dtype,
                                      .inverse = inverse,
                                      .rows = 2 * bins,
                                      .columns = z->im ? 2 * n : n,
                                      .n = n,
                                      .scale = scale},
                      &w));
  value *y = x ? build(&c->b, "linear", IN(x, w, NULL), NO_ATTRS) : NULL;
  *z = (complex_value){last_slice(c, y, 0, bins), last_slice(c, y, bins, 2 * bins)};
  return z->re && z->im ? KILN_OK : no_value(c);
}

/* z times exp(-+ 2 pi i row column / n) in its last two dimensions. */
static kiln_status twist(lower_call *c, complex_value *z, int64_t rows, int64_t columns, bool inverse) {
  value *v[2];
  builder *b = &c->b;
  for (int i = 0; i < 2; i++)
    KILN_TRY(find_table(c,
                        (fourier_table){.kind = i ? TABLE_SINES : TABLE_COSINES,
                                        .dtype = z->re->type.dtype,
                                        .inverse = inverse,
                                        .rows = rows,
                                        .columns = columns,
                                        .n = rows * columns,
                                        .scale = 1},
                        &v[i]));
  *z =
      (complex_value){lower_binary(b, "sub", lower_binary(b, "mul", z->re, v[0]), lower_binary(b, "mul", z->im, v[1])),
                      lower_binary(b, "add", lower_binary(b, "mul", z->re, v[1]), lower_binary(b, "mul", z->im, v[0]))};
  return z->re && z->im ? KILN_OK : no_value(c);
}

/* The largest factor of n up to its square root. */
static int64_t factor(int64_t n) {
  int64_t best = 1;
  for (int64_t f = 2; f * f <= n; f++)
    if (n % f == 0) best = f;
  return best;
}

static value *swap_last(lower_call *c, value *x) {
  return x ? lowering_move_axis(&c->b, x, x->type.rank - 1, x->type.rank - 2) : NULL;
}

static void each(lower_call *c, complex_value *z, value *(*change)(lower_call *c, value *x)) {
  z->re = change(c, z->re);
  if (z->im) z->im = change(c, z->im);
}

static void shape_both(lower_call *c, complex_value *z, int rank, const dim *dims) {
  z->re = lower_reshape(&c->b, z->re, rank, dims);
  if (z->im) z->im = lower_reshape(&c->b, z->im, rank, dims);
}

/* The transform along the last dimension but one, of n elements: the matrix from the left. */
static kiln_status columns(lower_call *c, complex_value *z, int64_t n, bool inverse) {
  value *w, *x = z->re;
  const int axis = x->type.rank - 2;
  if (z->im) x = build(&c->b, "concat", IN(z->re, z->im), ATTRS(A_INT("axis", axis)));
  KILN_TRY(find_table(c,
                      (fourier_table){.kind = z->im ? TABLE_COMPLEX : TABLE_REAL,
                                      .dtype = z->re->type.dtype,
                                      .inverse = inverse,
                                      .rows = 2 * n,
                                      .columns = z->im ? 2 * n : n,
                                      .n = n,
                                      .scale = 1},
                      &w));
  value *y = x ? build(&c->b, "matmul", IN(w, x), NO_ATTRS) : NULL;
  if (!y) return no_value(c);
  *z = (complex_value){lowering_slice(&c->b, y, axis, 0, n, 1), lowering_slice(&c->b, y, axis, n, 2 * n, 1)};
  return z->re && z->im ? KILN_OK : no_value(c);
}

/* The whole transform along the last axis, of n elements. Recurs about log log n deep. */
static kiln_status transform(lower_call *c, complex_value *z, int64_t n, bool inverse, double scale) {
  const int64_t n1 = factor(n), n2 = n / n1;
  if (n <= DIRECT_COMPLEX || n1 == 1) {
    if (n > DIRECT_PRIME)
      return LOWER_FAIL(c, "a length with the prime factor %lld is not supported: at most %d", (long long)n,
                        DIRECT_PRIME);
    return direct(c, z, n, n, inverse, scale);
  }
  const tensor_type given = z->re->type;
  const int rank = given.rank;
  dim all = 1;
  for (int i = 0; i < rank - 1; i++) all = dim_mul(c->b.graph->dims, all, given.dims[i]);
  const dim split[3] = {all, n1, n2};
  shape_both(c, z, 3, split);
  LOWER_NEED(c, z->re);
  KILN_TRY(columns(c, z, n1, inverse)); /* [.., k1, j2] */
  KILN_TRY(twist(c, z, n1, n2, inverse));
  KILN_TRY(transform(c, z, n2, inverse, scale));
  each(c, z, swap_last); /* [.., k2, k1] */
  shape_both(c, z, rank, given.dims);
  return z->re && z->im ? KILN_OK : no_value(c);
}

static kiln_status real_transform(lower_call *c, value *x, int64_t n, int64_t bins, double scale, complex_value *out) {
  *out = (complex_value){x, NULL};
  if (n <= DIRECT_REAL) return direct(c, out, n, bins, false, scale);
  KILN_TRY(transform(c, out, n, false, scale));
  out->re = last_slice(c, out->re, 0, bins);
  out->im = last_slice(c, out->im, 0, bins);
  return out->re && out->im ? KILN_OK : no_value(c);
}

/* The last axis' n / 2 + 1 bins to n real elements. */
static kiln_status to_real(lower_call *c, complex_value z, int64_t n, double scale, value **out) {
  const int64_t bins = n / 2 + 1;
  if (n <= DIRECT_REAL) {
    value *w, *x = side_by_side(c, z.re, z.im);
    KILN_TRY(find_table(c,
                        (fourier_table){.kind = TABLE_BACK,
                                        .dtype = z.re->type.dtype,
                                        .inverse = true,
                                        .rows = n,
                                        .columns = 2 * bins,
                                        .n = n,
                                        .scale = scale},
                        &w));
    *out = x ? build(&c->b, "linear", IN(x, w, NULL), NO_ATTRS) : NULL;
    return *out ? KILN_OK : no_value(c);
  }
  const int64_t axis = z.re->type.rank - 1;
  value *rest[2] = {last_slice(c, z.re, 1, n - bins + 1), last_slice(c, z.im, 1, n - bins + 1)};
  for (int i = 0; i < 2; i++) rest[i] = build(&c->b, "flip", IN(rest[i]), ATTRS(A_INTS("axes", &axis, 1)));
  complex_value full = {side_by_side(c, z.re, rest[0]),
                        side_by_side(c, z.im, build(&c->b, "neg", IN(rest[1]), NO_ATTRS))};
  if (!full.re || !full.im) return no_value(c);
  KILN_TRY(transform(c, &full, n, true, scale));
  *out = full.re;
  return KILN_OK;
}

typedef enum norm { NORM_NONE = 0, NORM_ROOT, NORM_FULL } norm; /* as in ATen's fft_norm_mode */

/* ---- lengths that vary --------------------------------------------------------------------------- */

/* cos and sin of 2 pi j k / n, each [n, bins] (j, k), computed in f64 where n is known. */
static kiln_status matrices_at_run_time(lower_call *c, kiln_dtype dtype, dim n, dim bins, value *out[2]) {
  builder *b = &c->b;
  value *size = lower_size_tensor(b, n), *j = lowering_iota(b, n), *k = lowering_iota(b, bins);
  if (!size || !j || !k) return no_value(c);
  value *turns = lower_binary(b, "mul", lowering_unsqueeze(b, j, 1), k);
  turns = lower_cast(b, lower_binary(b, "remainder", turns, size), KILN_F64); /* exact: not turns / n of large angles */
  if (!turns) return no_value(c);
  value *angle = lower_binary(b, "mul", turns, lowering_scalar_like(b, turns, 2 * 3.14159265358979323846));
  angle = lower_binary(b, "div", angle, lower_cast(b, size, KILN_F64));
  if (!angle) return no_value(c);
  out[0] = lower_cast(b, build(b, "cos", IN(angle), NO_ATTRS), dtype);
  out[1] = lower_cast(b, build(b, "sin", IN(angle), NO_ATTRS), dtype);
  return out[0] && out[1] ? KILN_OK : no_value(c);
}

/* 1, 1 / sqrt(n) or 1 / n of a length that is known when the model runs. */
static value *scaled_at_run_time(lower_call *c, value *x, dim n, norm mode) {
  builder *b = &c->b;
  value *size = lower_cast(b, lower_size_tensor(b, n), KILN_F64);
  if (mode == NORM_ROOT && size) size = build(b, "sqrt", IN(size), NO_ATTRS);
  return size && x ? lower_binary(b, "div", x, lower_cast(b, size, x->type.dtype)) : NULL;
}

/* The first `bins` elements of the transform along the last axis: n * bins products, however n factors. */
static kiln_status direct_at_run_time(lower_call *c, complex_value *z, dim bins, bool inverse, norm mode) {
  builder *b = &c->b;
  const dim n = z->re->type.dims[z->re->type.rank - 1], row[2] = {1, n}, flat[1] = {bins};
  const bool vector = z->re->type.rank == 1; /* products need two dimensions */
  value *w[2];
  if (vector) shape_both(c, z, 2, row);
  LOWER_NEED(c, z->re);
  KILN_TRY(matrices_at_run_time(c, z->re->type.dtype, n, bins, w));
  value *re_cos = build(b, "matmul", IN(z->re, w[0]), NO_ATTRS),
        *re_sin = build(b, "matmul", IN(z->re, w[1]), NO_ATTRS);
  if (!re_cos || !re_sin) return no_value(c);
  if (!inverse) re_sin = build(b, "neg", IN(re_sin), NO_ATTRS);
  complex_value y = {re_cos, re_sin};
  if (z->im) {
    value *im_cos = build(b, "matmul", IN(z->im, w[0]), NO_ATTRS);
    value *im_sin = build(b, "matmul", IN(z->im, w[1]), NO_ATTRS);
    y.re = im_sin ? lower_binary(b, inverse ? "sub" : "add", re_cos, im_sin) : NULL;
    y.im = im_cos && re_sin ? lower_binary(b, "add", re_sin, im_cos) : NULL;
  }
  if (mode != NORM_NONE)
    y = (complex_value){scaled_at_run_time(c, y.re, n, mode), scaled_at_run_time(c, y.im, n, mode)};
  *z = y;
  if (vector && y.re && y.im) shape_both(c, z, 1, flat);
  return z->re && z->im ? KILN_OK : no_value(c);
}

/* ---- any axes ----------------------------------------------------------------------------------- */

static kiln_status length_of(lower_call *c, dim size, int64_t *out) {
  if (!dim_is_const(size)) return LOWER_FAIL(c, "the transformed dimensions must have fixed sizes");
  if (size < 1 || size > MAX_LENGTH)
    return LOWER_FAIL(c, "a transformed dimension has %lld elements, expected 1 to %d", (long long)size, MAX_LENGTH);
  *out = size;
  return KILN_OK;
}

static double scale_of(norm mode, double count) {
  return mode == NORM_NONE ? 1 : 1 / (mode == NORM_ROOT ? sqrt(count) : count);
}

/* Halves are computed in float. */
static complex_value widened(lower_call *c, complex_value z) {
  const kiln_dtype dtype = z.re && z.re->type.dtype == KILN_F64 ? KILN_F64 : KILN_F32;
  return (complex_value){lower_cast(&c->b, z.re, dtype), z.im ? lower_cast(&c->b, z.im, dtype) : NULL};
}

static complex_value narrowed(lower_call *c, complex_value z, kiln_dtype given) {
  const kiln_dtype dtype = dtype_is_float(given) ? given : KILN_F32;
  return (complex_value){lower_cast(&c->b, z.re, dtype), z.im ? lower_cast(&c->b, z.im, dtype) : NULL};
}

static void scale_both(lower_call *c, complex_value *z, double scale) {
  if (scale == 1 || !z->re || !z->im) return;
  z->re = lower_binary(&c->b, "mul", z->re, lowering_scalar_like(&c->b, z->re, scale));
  z->im = lower_binary(&c->b, "mul", z->im, lowering_scalar_like(&c->b, z->im, scale));
}

/* z moved so that `axis` is last, or back. */
static void move(lower_call *c, complex_value *z, int axis, bool back) {
  const int last = z->re ? z->re->type.rank - 1 : 0;
  z->re = lowering_move_axis(&c->b, z->re, back ? last : axis, back ? axis : last);
  if (z->im) z->im = lowering_move_axis(&c->b, z->im, back ? last : axis, back ? axis : last);
}

/* `scale` is that of the lengths that are known; one that varies brings its own. */
static kiln_status along(lower_call *c, complex_value *z, int axis, bool inverse, double scale, norm mode) {
  int64_t n = 0;
  if (!z->re) return no_value(c);
  const dim size = z->re->type.dims[axis];
  if (dim_is_const(size)) KILN_TRY(length_of(c, size, &n));
  move(c, z, axis, false);
  if (!z->re) return no_value(c);
  if (dim_is_const(size)) {
    KILN_TRY(transform(c, z, n, inverse, scale));
  } else {
    KILN_TRY(direct_at_run_time(c, z, size, inverse, mode));
    scale_both(c, z, scale);
  }
  move(c, z, axis, true);
  return z->re && z->im ? KILN_OK : no_value(c);
}

typedef struct plan {
  int axes[KILN_MAX_RANK], count;
  norm mode;
} plan;

/* How many elements are transformed, of the lengths that are known. */
static kiln_status total(lower_call *c, const complex_value *z, const plan *p, int count, double *out) {
  *out = 1;
  for (int i = 0; i < count; i++) {
    int64_t n = 0;
    if (!dim_is_const(z->re->type.dims[p->axes[i]])) continue;
    KILN_TRY(length_of(c, z->re->type.dims[p->axes[i]], &n));
    *out *= (double)n;
  }
  return KILN_OK;
}

/* Complex to complex, all axes. */
static kiln_status all_axes(lower_call *c, complex_value *z, const plan *p, bool inverse) {
  double count;
  if (p->count == 0 && !z->im) z->im = lowering_full(&c->b, z->re->type.dtype, z->re->type.rank, z->re->type.dims, 0);
  KILN_TRY(total(c, z, p, p->count, &count));
  for (int i = p->count - 1; i >= 0; i--)
    KILN_TRY(along(c, z, p->axes[i], inverse, i == 0 ? scale_of(p->mode, count) : 1, p->mode));
  return KILN_OK;
}

/* Real to complex: the last axis onesided, then the others. */
static kiln_status from_real(lower_call *c, complex_value *z, const plan *p, bool onesided) {
  double count;
  int64_t n = 0;
  KILN_TRY(total(c, z, p, p->count, &count));
  const int axis = p->axes[p->count - 1];
  const dim size = z->re->type.dims[axis];
  if (dim_is_const(size)) KILN_TRY(length_of(c, size, &n));
  move(c, z, axis, false);
  if (!z->re) return no_value(c);
  if (dim_is_const(size)) {
    KILN_TRY(real_transform(c, z->re, n, onesided ? n / 2 + 1 : n, scale_of(p->mode, count), z));
  } else {
    dim_table *t = c->b.graph->dims;
    KILN_TRY(direct_at_run_time(c, z, onesided ? dim_add(t, dim_floordiv(t, size, 2), 1) : size, false, p->mode));
    scale_both(c, z, scale_of(p->mode, count));
  }
  move(c, z, axis, true);
  for (int i = p->count - 2; i >= 0; i--) KILN_TRY(along(c, z, p->axes[i], false, 1, p->mode));
  return z->re && z->im ? KILN_OK : no_value(c);
}

/* Complex to real: the others first, then the last axis, whose result has n elements. */
static kiln_status back_to_real(lower_call *c, complex_value *z, const plan *p, dim size) {
  double count;
  int64_t n = 0, bins = 0;
  KILN_TRY(length_of(c, size, &n));
  KILN_TRY(total(c, z, p, p->count - 1, &count));
  for (int i = 0; i < p->count - 1; i++) KILN_TRY(along(c, z, p->axes[i], true, 1, p->mode));
  const int axis = p->axes[p->count - 1];
  if (!z->im) z->im = lowering_full(&c->b, z->re->type.dtype, z->re->type.rank, z->re->type.dims, 0);
  move(c, z, axis, false);
  if (!z->re || !z->im) return no_value(c);
  KILN_TRY(length_of(c, z->re->type.dims[z->re->type.rank - 1], &bins));
  if (bins < n / 2 + 1) return LOWER_FAIL(c, "%lld elements are not enough for %lld", (long long)bins, (long long)n);
  z->re = last_slice(c, z->re, 0, n / 2 + 1);
  z->im = last_slice(c, z->im, 0, n / 2 + 1);
  if (!z->re || !z->im) return no_value(c);
  KILN_TRY(to_real(c, *z, n, scale_of(p->mode, count * (double)n), &z->re));
  z->im = NULL;
  move(c, z, axis, true);
  return z->re ? KILN_OK : no_value(c);
}

/* ---- aten::_fft_* ------------------------------------------------------------------------------- */

static kiln_status read_plan(lower_call *c, complex_value *z, plan *p, kiln_dtype *given) {
  int64_t axes[KILN_MAX_RANK];
  KILN_TRY(mark(c));
  KILN_TRY(complex_argument(c, "self", z));
  KILN_TRY(lowering_axes(c, "dim", z->re->type.rank, false, axes, &p->count));
  for (int i = 0; i < p->count; i++) p->axes[i] = (int)axes[i];
  const dim mode = call_int(c, "normalization");
  if (mode < NORM_NONE || mode > NORM_FULL) return LOWER_FAIL(c, "argument normalization is not 0, 1 or 2");
  p->mode = (norm)mode;
  *given = z->re->type.dtype;
  *z = widened(c, *z);
  return z->re ? KILN_OK : no_value(c);
}

kiln_status lower_fft_r2c(lower_call *c) {
  complex_value z;
  plan p;
  kiln_dtype given;
  KILN_TRY(read_plan(c, &z, &p, &given));
  if (p.count == 0 || z.im) return LOWER_FAIL(c, "expected a real tensor and at least one axis");
  KILN_TRY(from_real(c, &z, &p, call_bool(c, "onesided")));
  complex_return(c, 0, narrowed(c, z, given));
  return KILN_OK;
}

kiln_status lower_fft_c2r(lower_call *c) {
  complex_value z;
  plan p;
  kiln_dtype given;
  KILN_TRY(read_plan(c, &z, &p, &given));
  if (p.count == 0) return LOWER_FAIL(c, "expected at least one axis");
  KILN_TRY(back_to_real(c, &z, &p, call_int(c, "last_dim_size")));
  complex_return(c, 0, narrowed(c, z, given));
  return KILN_OK;
}

kiln_status lower_fft_c2c(lower_call *c) {
  complex_value z;
  plan p;
  kiln_dtype given;
  KILN_TRY(read_plan(c, &z, &p, &given));
  KILN_TRY(all_axes(c, &z, &p, !call_bool(c, "forward")));
  complex_return(c, 0, narrowed(c, z, given));
  return KILN_OK;
}

/* ---- torch.fft ---------------------------------------------------------------------------------- */

/* Cut, or filled up with zeros, to n elements. */
static value *resized(lower_call *c, value *x, int axis, dim n) {
  dim_table *t = c->b.graph->dims;
  if (!x || x->type.dims[axis] == n) return x;
  if (dim_compare_le(t, n, x->type.dims[axis]) == 1) return lowering_slice(&c->b, x, axis, 0, n, 1);
  if (!dim_is_const(x->type.dims[axis])) return NULL;
  dim before[KILN_MAX_RANK] = {0}, after[KILN_MAX_RANK] = {0};
  after[axis] = dim_sub(t, n, x->type.dims[axis]);
  return build(&c->b, "pad", IN(x),
               ATTRS(A_INTS("before", before, x->type.rank), A_INTS("after", after, x->type.rank)));
}

static kiln_status resize_both(lower_call *c, complex_value *z, int axis, dim n) {
  z->re = resized(c, z->re, axis, n);
  if (z->im) z->im = resized(c, z->im, axis, n);
  if (z->re) return KILN_OK;
  return graph_check(c->b.graph) != KILN_OK ? no_value(c)
                                            : LOWER_FAIL(c, "the transformed dimensions must have fixed sizes");
}

/* Which axes, and how many elements of each (-1: as many as there are). fft_fft has n and dim, fft_fft2 and fft_fftn s and dim. */
static kiln_status read_axes(lower_call *c, int rank, plan *p, dim *sizes) {
  const bool one = c->schema->args[1].name[0] == 'n';
  const char *name = c->schema->args[1].name;
  int64_t axes[KILN_MAX_RANK];
  int given = 0;
  if (rank == 0) return LOWER_FAIL(c, "expected a tensor with dimensions");
  if (!call_is_none(c, name)) given = call_ints(c, name, sizes, KILN_MAX_RANK);
  if (given < 0 || given > rank) return LOWER_FAIL(c, "argument %s has more sizes than the tensor dimensions", name);
  KILN_TRY(lowering_axes(c, "dim", rank, false, axes, &p->count));
  if (!one && call_is_none(c, "dim") && given > 0) { /* the last ones */
    p->count = given;
    for (int i = 0; i < given; i++) axes[i] = rank - given + i;
  }
  if (given && given != p->count) return LOWER_FAIL(c, "arguments %s and dim have different lengths", name);
  for (int i = 0; i < p->count; i++) {
    p->axes[i] = (int)axes[i];
    if (!given) sizes[i] = -1;
  }
  return p->count ? KILN_OK : LOWER_FAIL(c, "expected at least one axis");
}

static kiln_status read_norm(lower_call *c, bool inverse, norm *out) {
  const char *word = call_str(c, "norm");
  if (!word || str_eq(word, "backward"))
    *out = inverse ? NORM_FULL : NORM_NONE;
  else if (str_eq(word, "forward"))
    *out = inverse ? NORM_NONE : NORM_FULL;
  else if (str_eq(word, "ortho"))
    *out = NORM_ROOT;
  else
    return LOWER_FAIL(c, "argument norm is \"%s\", expected \"forward\", \"backward\" or \"ortho\"", word);
  return KILN_OK;
}

/* fft, ifft, rfft, irfft, and the same of 2 and n dimensions. */
kiln_status lower_fft(lower_call *c) {
  const char *kind = c->schema->name + strlen("aten::fft_");
  const bool real = str_starts(kind, "rfft"), to_reals = str_starts(kind, "irfft"), inverse = kind[0] == 'i';
  complex_value z;
  plan p;
  dim sizes[KILN_MAX_RANK];
  KILN_TRY(mark(c));
  KILN_TRY(complex_argument(c, "self", &z));
  const kiln_dtype given = z.re->type.dtype;
  KILN_TRY(read_axes(c, z.re->type.rank, &p, sizes));
  KILN_TRY(read_norm(c, inverse, &p.mode));
  z = widened(c, z);
  const int last = p.count - 1;
  dim_table *t = c->b.graph->dims;
  if (!z.re) return no_value(c);
  if (real && z.im) return LOWER_FAIL(c, "expected a real tensor");
  dim result = sizes[last] >= 0 ? sizes[last] : dim_mul(t, dim_sub(t, z.re->type.dims[p.axes[last]], 1), 2);
  if (to_reals && sizes[last] >= 0) sizes[last] = dim_add(t, dim_floordiv(t, result, 2), 1);
  for (int i = 0; i < p.count; i++)
    if (sizes[i] >= 0) KILN_TRY(resize_both(c, &z, p.axes[i], sizes[i]));
  if (real)
    KILN_TRY(from_real(c, &z, &p, true));
  else if (to_reals)
    KILN_TRY(back_to_real(c, &z, &p, result));
  else
    KILN_TRY(all_axes(c, &z, &p, inverse));
  complex_return(c, 0, narrowed(c, z, given));
  return KILN_OK;
}

/* ---- short-time transforms ---------------------------------------------------------------------- */

typedef struct frames {
  int64_t n, hop;
  value *window; /* [n] */
  value *x;      /* stft: [batch, length] */
  bool added;    /* the batch */
} frames;

static kiln_status read_frames(lower_call *c, kiln_dtype dtype, frames *f) {
  KILN_TRY(length_of(c, call_int(c, "n_fft"), &f->n));
  KILN_TRY(length_of(c, call_is_none(c, "hop_length") ? f->n / 4 : call_int(c, "hop_length"), &f->hop));
  int64_t width = 0;
  KILN_TRY(length_of(c, call_is_none(c, "win_length") ? f->n : call_int(c, "win_length"), &width));
  if (width > f->n) return LOWER_FAIL(c, "argument win_length is larger than n_fft");
  const dim shape[1] = {width};
  f->window = call_is_none(c, "window") ? lowering_full(&c->b, dtype, 1, shape, 1) : call_tensor(c, "window");
  f->window = lower_cast(&c->b, f->window, dtype);
  if (!f->window) return no_value(c);
  if (f->window->type.rank != 1 || f->window->type.dims[0] != width)
    return LOWER_FAIL(c, "argument window has not win_length elements");
  if (width < f->n) {
    const dim before[1] = {(f->n - width) / 2}, after[1] = {f->n - width - (f->n - width) / 2};
    f->window = build(&c->b, "pad", IN(f->window), ATTRS(A_INTS("before", before, 1), A_INTS("after", after, 1)));
  }
  return f->window ? KILN_OK : no_value(c);
}

/* Frames of many hops: elements gathered at their places. */
static value *gathered(lower_call *c, value *x, const frames *f, dim count) {
  builder *b = &c->b;
  const dim column[2] = {count, 1}, all = dim_mul(b->graph->dims, count, f->n),
            shape[3] = {x->type.dims[0], count, f->n};
  value *starts = build(
      b, "arange", 0, NULL,
      ATTRS(A_FLOAT("start", 0), A_FLOAT("step", (double)f->hop), A_INT("count", count), A_DTYPE("dtype", KILN_I64)));
  value *at = lower_binary(b, "add", lower_reshape(b, starts, 2, column), lowering_iota(b, f->n));
  value *taken = build(b, "index_select", IN(x, lower_reshape(b, at, 1, &all)), ATTRS(A_INT("axis", 1)));
  return lower_reshape(b, taken, 3, shape);
}

/* [batch, length] to [batch, count, n]: with the signal in rows of one hop, frame i is rows i, i + 1, ... side by side. */
static value *windows(lower_call *c, value *x, const frames *f) {
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  const int64_t parts = (f->n + f->hop - 1) / f->hop;
  const dim count = dim_add(t, dim_floordiv(t, dim_sub(t, x->type.dims[1], f->n), f->hop), 1);
  const dim rows = dim_add(t, count, parts - 1), none[2] = {0, 0}, more[2] = {0, f->hop},
            shape[3] = {x->type.dims[0], rows, f->hop};
  value *list[MAX_OVERLAP];
  if (parts > MAX_OVERLAP) return lower_binary(b, "mul", gathered(c, x, f, count), f->window);
  x = build(b, "pad", IN(x),
            ATTRS(A_INTS("before", none, 2), A_INTS("after", more, 2))); /* the last row may be short */
  x = x ? lowering_slice(b, x, 1, 0, dim_mul(t, rows, f->hop), 1) : NULL;
  x = lower_reshape(b, x, 3, shape);
  for (int64_t r = 0; r < parts; r++) list[r] = x ? lowering_slice(b, x, 1, r, dim_add(t, count, r), 1) : NULL;
  value *y = build(b, "concat", (int)parts, list, ATTRS(A_INT("axis", 2)));
  return y ? lower_binary(b, "mul", lowering_slice(b, y, 2, 0, f->n, 1), f->window) : NULL;
}

static bool has_argument(const lower_call *c, const char *name) {
  for (int32_t i = 0; i < c->schema->n_args; i++)
    if (str_eq(c->schema->args[i].name, name)) return true;
  return false;
}

static kiln_status centered(lower_call *c, frames *f) {
  const dim before[2] = {0, f->n / 2};
  if (!has_argument(c, "center") || !call_bool(c, "center")) return KILN_OK;
  const char *mode = call_str(c, "pad_mode");
  if (!str_eq(mode, "reflect") && !str_eq(mode, "constant") && !str_eq(mode, "replicate") && !str_eq(mode, "circular"))
    return LOWER_FAIL(c, "argument pad_mode \"%s\" is not supported", mode ? mode : "");
  if (str_eq(mode, "reflect")) {
    dim_table *t = c->b.graph->dims;
    const dim size = f->x->type.dims[1], half = f->n / 2;
    const int64_t axis = 1;
    if (dim_compare_le(t, half + 1, size) == 0) return LOWER_FAIL(c, "the signal is too short to be reflected");
    value *ends[2] = {lowering_slice(&c->b, f->x, 1, 1, half + 1, 1),
                      lowering_slice(&c->b, f->x, 1, dim_sub(t, size, half + 1), dim_sub(t, size, 1), 1)};
    for (int i = 0; i < 2; i++) ends[i] = build(&c->b, "flip", IN(ends[i]), ATTRS(A_INTS("axes", &axis, 1)));
    f->x = build(&c->b, "concat", IN(ends[0], f->x, ends[1]), ATTRS(A_INT("axis", 1)));
    return f->x ? KILN_OK : no_value(c);
  }
  f->x = build(&c->b, "pad", IN(f->x),
               ATTRS(A_INTS("before", before, 2), A_INTS("after", before, 2), A_STR("mode", mode)));
  return f->x ? KILN_OK : no_value(c);
}

kiln_status lower_stft(lower_call *c) {
  frames f = {0};
  complex_value z;
  KILN_TRY(mark(c));
  KILN_TRY(complex_argument(c, "self", &z));
  z = (complex_value){lowering_float(&c->b, z.re), z.im};
  if (!z.re) return no_value(c);
  if (z.im || z.re->type.rank < 1 || z.re->type.rank > 2 ||
      (z.re->type.dtype != KILN_F32 && z.re->type.dtype != KILN_F64))
    return LOWER_FAIL(c, "expected a real tensor of 1 or 2 dimensions, float32 or float64");
  if (call_bool(c, "align_to_window")) return LOWER_FAIL(c, "argument align_to_window is not supported");
  f.added = z.re->type.rank == 1;
  f.x = f.added ? lowering_unsqueeze(&c->b, z.re, 0) : z.re;
  KILN_TRY(read_frames(c, z.re->type.dtype, &f));
  KILN_TRY(centered(c, &f));
  if (dim_compare_le(c->b.graph->dims, f.n, f.x->type.dims[1]) == 0)
    return LOWER_FAIL(c, "the signal is shorter than n_fft");
  value *x = windows(c, f.x, &f);
  if (!x) return no_value(c);
  const bool onesided = call_is_none(c, "onesided") || call_bool(c, "onesided");
  KILN_TRY(real_transform(c, x, f.n, onesided ? f.n / 2 + 1 : f.n,
                          call_bool(c, "normalized") ? 1 / sqrt((double)f.n) : 1, &z));
  each(c, &z, swap_last);
  if (f.added) z = (complex_value){lowering_squeeze(&c->b, z.re, 0), lowering_squeeze(&c->b, z.im, 0)};
  if (!z.re || !z.im) return no_value(c);
  if (call_bool(c, "return_complex")) {
    complex_return(c, 0, z);
    return KILN_OK;
  }
  const int rank = z.re->type.rank;
  call_return(c, 0,
              build(&c->b, "concat", IN(lowering_unsqueeze(&c->b, z.re, rank), lowering_unsqueeze(&c->b, z.im, rank)),
                    ATTRS(A_INT("axis", rank))));
  return KILN_OK;
}

/* Adds up frames [batch, count, n] at their places: part r of `hop` elements of frame i goes to place i + r. */
static value *overlapped(lower_call *c, value *x, const frames *f) {
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  if (!x) return NULL;
  const int64_t parts = (f->n + f->hop - 1) / f->hop;
  const dim batch = x->type.dims[0], count = x->type.dims[1], places = dim_add(t, count, parts - 1);
  const dim none[3] = {0}, filled[3] = {0, 0, parts * f->hop - f->n}, line[2] = {batch, dim_mul(t, places, f->hop)};
  value *sum = NULL;
  if (filled[2]) x = build(b, "pad", IN(x), ATTRS(A_INTS("before", none, 3), A_INTS("after", filled, 3)));
  for (int64_t r = 0; r < parts; r++) {
    const dim before[3] = {0, r, 0}, after[3] = {0, parts - 1 - r, 0};
    value *part = x ? lowering_slice(b, x, 2, r * f->hop, (r + 1) * f->hop, 1) : NULL;
    value *moved = build(b, "pad", IN(part), ATTRS(A_INTS("before", before, 3), A_INTS("after", after, 3)));
    sum = sum ? lower_binary(b, "add", sum, moved) : moved;
  }
  sum = lower_reshape(b, sum, 2, line);
  const dim end = dim_add(t, dim_mul(t, dim_sub(t, count, 1), f->hop), f->n);
  return sum ? lowering_slice(b, sum, 1, 0, end, 1) : NULL;
}

/* The part of [batch, all] that is wanted: without the padding of a centered transform, or of the length asked for. */
static kiln_status cut(lower_call *c, const frames *f, value *y, dim *start, dim *end, dim *missing) {
  dim_table *t = c->b.graph->dims;
  const dim all = y->type.dims[1];
  *start = call_bool(c, "center") ? f->n / 2 : 0;
  *end = call_bool(c, "center") ? dim_sub(t, all, f->n / 2) : all;
  *missing = 0;
  if (call_is_none(c, "length")) return KILN_OK;
  *end = dim_add(t, *start, call_int(c, "length"));
  const int fits = dim_compare_le(t, *end, all);
  if (fits < 0) return LOWER_FAIL(c, "argument length is not known to fit the signal");
  if (fits == 1) return KILN_OK;
  *missing = dim_sub(t, *end, all);
  *end = all;
  return KILN_OK;
}

kiln_status lower_istft(lower_call *c) {
  frames f = {0};
  complex_value z;
  dim start, end, missing;
  builder *b = &c->b;
  KILN_TRY(mark(c));
  KILN_TRY(complex_argument(c, "self", &z));
  if (!z.im || z.re->type.rank < 2 || z.re->type.rank > 3 || call_bool(c, "return_complex"))
    return LOWER_FAIL(c, "expected a complex tensor of 2 or 3 dimensions, for a real signal");
  f.added = z.re->type.rank == 2;
  if (f.added) z = (complex_value){lowering_unsqueeze(b, z.re, 0), lowering_unsqueeze(b, z.im, 0)};
  if (!z.re || !z.im) return no_value(c);
  const kiln_dtype dtype = z.re->type.dtype;
  KILN_TRY(read_frames(c, dtype, &f));
  const int64_t bins = f.n / 2 + 1;
  if (z.re->type.dims[1] != bins || f.n / f.hop > MAX_OVERLAP ||
      (!call_is_none(c, "onesided") && !call_bool(c, "onesided")))
    return LOWER_FAIL(c, "expected n_fft / 2 + 1 = %lld bins, and n_fft of at most %d hops", (long long)bins,
                      MAX_OVERLAP);
  const dim one[3] = {1, 1, f.n}, each_frame[3] = {1, z.re->type.dims[2], f.n};
  value *x;
  each(c, &z, swap_last); /* [batch, count, bins] */
  if (!z.re || !z.im) return no_value(c);
  KILN_TRY(to_real(c, z, f.n, call_bool(c, "normalized") ? 1 / sqrt((double)f.n) : 1 / (double)f.n, &x));
  value *y = overlapped(c, lower_binary(b, "mul", x, f.window), &f);
  value *square = lower_reshape(b, build(b, "square", IN(f.window), NO_ATTRS), 3, one);
  value *envelope = overlapped(c, lower_expand(b, square, 3, each_frame), &f);
  if (!y || !envelope) return no_value(c);
  KILN_TRY(cut(c, &f, y, &start, &end, &missing));
  y = lower_binary(b, "div", lowering_slice(b, y, 1, start, end, 1), lowering_slice(b, envelope, 1, start, end, 1));
  if (y && missing != 0) y = resized(c, y, 1, dim_add(b->graph->dims, y->type.dims[1], missing));
  call_return(c, 0, f.added ? lowering_squeeze(b, y, 0) : y);
  return KILN_OK;
}
