/* Copies that take each result from a computed place: pad, tile, flip, roll, triangles, concat, slice_scatter. */
#include <stdio.h>
#include <string.h>

#include "backends/cuda/internal.h"
#include "backends/cuda/mapped.h"

/* ---- the frame ---------------------------------------------------------------------------------------------------------- */

void mapped_begin(text *t, const kernel_prep *p, const char *entry, int v) {
  const tensor *out = &p->args.out[0];
  const int64_t items = tensor_numel(out) / v;
  const char *type = items + MAPPED_THREADS < INT32_MAX ? "u32" : "i64";
  int64_t shape[KILN_MAX_RANK];
  bool comma = false;
  text_printf(t, "extern \"C\" __global__ void __launch_bounds__(%d) %s(", MAPPED_THREADS, entry);
  for (int k = 0; k < p->args.n_in; k++) {
    if (p->args.in[k].rank < 0) continue;
    text_printf(t, "%sconst %s *in%d", comma ? ", " : "", cuda_type(p->args.in[k].dtype), k);
    comma = true;
  }
  for (int k = 0; k < p->args.n_out; k++) {
    text_printf(t, "%s%s *out%d", comma ? ", " : "", cuda_type(p->args.out[k].dtype), k);
    comma = true;
  }
  text_printf(t, ") {\n  KILN_WAIT;\n  const %s i = (%s)blockIdx.x * %d + threadIdx.x;\n  if (i >= %lldLL) return;\n",
              type, type, MAPPED_THREADS, (long long)items);
  memcpy(shape, out->shape, sizeof shape);
  if (out->rank) shape[out->rank - 1] /= v;
  cuda_coordinates(t, type, "g", "i", out->rank, shape);
  for (int d = 0; d < out->rank; d++)
    text_printf(t, "  const i64 c%d = (i64)g%d * %d;\n", d, d, d == out->rank - 1 ? v : 1);
  for (int k = 0; k < p->args.n_out; k++) {
    text_printf(t, "  const i64 to%d = ", k);
    cuda_offset(t, "c", out->rank, out->shape, p->args.out[k].strides);
    text_printf(t, "; (void)to%d;\n", k);
  }
}

kiln_status mapped_end(kernel_prep *p, text *t, const char *entry, int v) {
  text_puts(t, "}\n");
  return cuda_simple_prepare(p, entry, t, cuda_div_up(tensor_numel(&p->args.out[0]) / v, MAPPED_THREADS),
                             MAPPED_THREADS, 0);
}

int mapped_width(const kernel_prep *p) {
  const tensor *out = &p->args.out[0], *in = &p->args.in[0];
  const int size = (int)kiln_dtype_size(out->dtype), a = cuda_in_alignment(p, 0), b = cuda_out_alignment(p, 0);
  if (out->rank < 1 || in->rank != out->rank || in->dtype != out->dtype) return 1;
  int v = 16 / size;
  while (v > 1 && (v * size > a || v * size > b)) v /= 2;
  for (int d = 0; d < out->rank; d++) {
    const bool last = d == out->rank - 1;
    if (last && (out->strides[d] != 1 || in->strides[d] != 1)) return 1;
    while (v > 1 && (last ? out->shape[d] % v || in->shape[d] % v : out->strides[d] % v || in->strides[d] % v)) v /= 2;
  }
  return v;
}

void mapped_load(text *t, const kernel_prep *p, int operand, const char *name, const char *at) {
  char element[400];
  const kiln_dtype d = p->args.in[operand].dtype;
  if (snprintf(element, sizeof element, "in%d[%s]", operand, at) >= (int)sizeof element) t->failed = true;
  text_printf(t, "  const %s %s = ", cuda_value_type(d), name);
  cuda_widen(t, d, element);
  text_puts(t, ";\n");
}

void mapped_store(text *t, const kernel_prep *p, int k, const char *v) {
  text_printf(t, "  out%d[to%d] = ", k, k);
  cuda_narrow(t, p->args.out[k].dtype, v);
  text_puts(t, ";\n");
}

/* Copies V elements from `from` (an i64), or the fill where `inside` is false. */
static void put_copy(text *t, const kernel_prep *p, int v, const char *fill) {
  const char *type = cuda_type(p->args.out[0].dtype);
  if (fill) {
    text_printf(t, "  if (!inside) { const %s f = ", type);
    cuda_narrow(t, p->args.out[0].dtype, fill);
    text_printf(t, ";\n#pragma unroll\n    for (int k = 0; k < %d; k++) out0[to0 + k] = f;\n    return; }\n", v);
  }
  text_printf(t, "  store_vec<%s, %d>(out0 + to0, load_vec<%s, %d>(in0 + from));\n", type, v, type, v);
}

static void put_offset_of(text *t, const kernel_prep *p, const char *prefix) {
  const tensor *in = &p->args.in[0];
  text_puts(t, "  const i64 from = ");
  cuda_offset(t, prefix, in->rank, in->shape, in->strides);
  text_puts(t, ";\n");
}

/* ---- pad ------------------------------------------------------------------------------------------------------------------ */

static kiln_status prepare_pad(kernel_prep *p) {
  const tensor *in = &p->args.in[0], *out = &p->args.out[0];
  const int64_t *before = arg_attr(&p->args, "before")->u.ints, *after = arg_attr(&p->args, "after")->u.ints;
  const char *mode = arg_attr(&p->args, "mode")->u.s;
  const bool fills = strcmp(mode, "constant") == 0;
  int v = mapped_width(p);
  if (in->rank && (before[in->rank - 1] || after[in->rank - 1])) v = 1;
  for (int i = 0; i < in->rank; i++) { /* what inference could not know of symbolic sizes */
    const int64_t size = in->shape[i], limit = strcmp(mode, "reflect") == 0    ? size - 1
                                               : strcmp(mode, "circular") == 0 ? size
                                                                               : INT64_MAX;
    if (!fills && (before[i] || after[i]) && (before[i] > limit || after[i] > limit || size < 1))
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "pad: axis %d of size %lld is too small for its padding", i,
                       (long long)size);
  }
  text t = {0}, fill = {0};
  mapped_begin(&t, p, "pad", v);
  text_puts(&t, "  bool inside = true; (void)inside;\n");
  for (int i = 0; i < in->rank; i++) {
    const long long size = (long long)in->shape[i];
    text_printf(&t, "  i64 s%d = c%d - %lldLL;\n", i, i, (long long)before[i]);
    if (before[i] == 0 && after[i] == 0) continue;
    if (fills)
      text_printf(&t, "  inside = inside && s%d >= 0 && s%d < %lldLL;\n", i, i, size);
    else if (strcmp(mode, "reflect") == 0)
      text_printf(&t, "  s%d = s%d < 0 ? -s%d : s%d >= %lldLL ? %lldLL - s%d : s%d;\n", i, i, i, i, size,
                  2 * (size - 1), i, i);
    else if (strcmp(mode, "replicate") == 0)
      text_printf(&t, "  s%d = s%d < 0 ? 0 : s%d >= %lldLL ? %lldLL : s%d;\n", i, i, i, size, size - 1, i);
    else
      text_printf(&t, "  s%d = s%d < 0 ? s%d + %lldLL : s%d >= %lldLL ? s%d - %lldLL : s%d;\n", i, i, i, size, i, size,
                  i, size, i);
  }
  put_offset_of(&t, p, "s");
  const double v_fill = arg_float(&p->args, "value");
  cuda_literal(&fill, out->dtype, v_fill, (int64_t)(v_fill >= -0x1p62 && v_fill <= 0x1p62 ? v_fill : 0));
  put_copy(&t, p, v, fills ? (fill.data ? fill.data : "0") : NULL);
  t.failed |= fill.failed;
  text_free(&fill);
  return mapped_end(p, &t, "pad", v);
}

/* ---- tile, flip, roll, triangles ----------------------------------------------------------------------------------------------- */

static kiln_status prepare_tile(kernel_prep *p) {
  const tensor *in = &p->args.in[0];
  const int v = mapped_width(p);
  text t = {0};
  if (tensor_numel(&p->args.out[0]) == 0) return cuda_simple_prepare(p, "tile", &t, 0, 1, 0);
  mapped_begin(&t, p, "tile", v);
  for (int i = 0; i < in->rank; i++)
    text_printf(&t, "  const i64 s%d = c%d %% %lldLL;\n", i, i, (long long)in->shape[i]);
  put_offset_of(&t, p, "s");
  put_copy(&t, p, v, NULL);
  return mapped_end(p, &t, "tile", v);
}

static kiln_status prepare_flip(kernel_prep *p) {
  const tensor *in = &p->args.in[0];
  const attr *axes = arg_attr(&p->args, "axes");
  uint32_t mask = 0;
  for (int i = 0; i < axes->count; i++) mask ^= 1u << axes->u.ints[i];
  const int v = in->rank && mask >> (in->rank - 1) ? 1 : mapped_width(p);
  text t = {0};
  mapped_begin(&t, p, "flip", v);
  for (int i = 0; i < in->rank; i++) {
    if (mask >> i & 1)
      text_printf(&t, "  const i64 s%d = %lldLL - c%d;\n", i, (long long)in->shape[i] - 1, i);
    else
      text_printf(&t, "  const i64 s%d = c%d; (void)s%d;\n", i, i, i);
  }
  put_offset_of(&t, p, "s");
  put_copy(&t, p, v, NULL);
  return mapped_end(p, &t, "flip", v);
}

static kiln_status prepare_roll(kernel_prep *p) {
  const tensor *in = &p->args.in[0];
  const attr *axes = arg_attr(&p->args, "axes"), *shifts = arg_attr(&p->args, "shifts");
  int64_t shift[KILN_MAX_RANK] = {0};
  for (int i = 0; i < axes->count; i++) {
    const int64_t axis = axes->u.ints[i], size = in->shape[axis] ? in->shape[axis] : 1;
    shift[axis] = ((shift[axis] + shifts->u.ints[i]) % size + size) % size;
  }
  const int v = in->rank && shift[in->rank - 1] ? 1 : mapped_width(p);
  text t = {0};
  mapped_begin(&t, p, "roll", v);
  for (int i = 0; i < in->rank; i++) /* result c comes from c - shift */
    text_printf(&t, "  const i64 s%d = c%d >= %lldLL ? c%d - %lldLL : c%d + %lldLL; (void)s%d;\n", i, i,
                (long long)shift[i], i, (long long)shift[i], i, (long long)(in->shape[i] - shift[i]), i);
  put_offset_of(&t, p, "s");
  put_copy(&t, p, v, NULL);
  return mapped_end(p, &t, "roll", v);
}

static kiln_status prepare_triangle(kernel_prep *p) {
  const int rank = p->args.out[0].rank;
  const bool lower = strcmp(p->args.node->op->name, "tril") == 0;
  text t = {0};
  mapped_begin(&t, p, "triangle", 1);
  text_printf(&t, "  const bool inside = c%d - c%d %s %lldLL;\n", rank - 1, rank - 2,
              lower ? "<=" : ">=", (long long)arg_int(&p->args, "diagonal"));
  put_offset_of(&t, p, "c");
  put_copy(&t, p, 1, "0");
  return mapped_end(p, &t, "triangle", 1);
}

/* ---- concat, slice_scatter -------------------------------------------------------------------------------------------------------- */

static kiln_status prepare_concat(kernel_prep *p) {
  const int64_t axis = arg_int(&p->args, "axis");
  const char *type = cuda_type(p->args.out[0].dtype);
  int64_t at = 0;
  if (p->args.n_in + 1 > CUDA_SPACE_TENSORS)
    return KILN_FAIL(KILN_UNSUPPORTED, "concat of %d tensors", (int)p->args.n_in);
  text t = {0};
  mapped_begin(&t, p, "concat", 1);
  for (int k = 0; k < p->args.n_in; k++) {
    const tensor *in = &p->args.in[k];
    text_printf(&t, "  if (c%d >= %lldLL && c%d < %lldLL) {", (int)axis, (long long)at, (int)axis,
                (long long)(at + in->shape[axis]));
    for (int d = 0; d < in->rank; d++)
      text_printf(&t, " const i64 s%d = c%d - %lldLL; (void)s%d;", d, d, d == axis ? (long long)at : 0LL, d);
    text_printf(&t, " out0[to0] = (%s)in%d[", type, k);
    cuda_offset(&t, "s", in->rank, in->shape, in->strides);
    text_puts(&t, "]; return; }\n");
    at += in->shape[axis];
  }
  return mapped_end(p, &t, "concat", 1);
}

static kiln_status prepare_slice_scatter(kernel_prep *p) {
  const tensor *in = &p->args.in[0], *src = &p->args.in[1];
  const int axis = (int)arg_int(&p->args, "axis");
  const long long start = arg_int(&p->args, "start"), step = arg_int(&p->args, "step"), count = src->shape[axis];
  text t = {0};
  mapped_begin(&t, p, "slice_scatter", 1);
  text_printf(&t, "  const i64 k = c%d - %lldLL;\n  if (k >= 0 && k %% %lldLL == 0 && k / %lldLL < %lldLL) {", axis,
              start, step, step, count);
  for (int d = 0; d < in->rank; d++) {
    if (d == axis)
      text_printf(&t, " const i64 s%d = k / %lldLL; (void)s%d;", d, step, d);
    else
      text_printf(&t, " const i64 s%d = c%d; (void)s%d;", d, d, d);
  }
  text_puts(&t, " out0[to0] = in1[");
  cuda_offset(&t, "s", src->rank, src->shape, src->strides);
  text_puts(&t, "]; return; }\n  out0[to0] = in0[");
  cuda_offset(&t, "c", in->rank, in->shape, in->strides);
  text_puts(&t, "];\n");
  return mapped_end(p, &t, "slice_scatter", 1);
}

#define MOVE(op_name, prepare_fn)    \
  {.op = op_name,                    \
   .name = "move.cuda",              \
   .isa = 80,                        \
   .prepare = prepare_fn,            \
   .run = cuda_simple_run,           \
   .strided_in = KERNEL_STRIDED_ALL, \
   .strided_out = KERNEL_STRIDED_ALL},

const kernel cuda_movement_rows[] = {
    MOVE("pad", prepare_pad) MOVE("tile", prepare_tile) MOVE("flip", prepare_flip) MOVE("roll", prepare_roll)
        MOVE("tril", prepare_triangle) MOVE("triu", prepare_triangle) MOVE("concat", prepare_concat)
            MOVE("slice_scatter", prepare_slice_scatter){.op = NULL},
};
