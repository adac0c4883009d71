/* Gathers and scatters by index tensors. A place outside its axis reads as 0 and is not written (the reference refuses it, which needs a
 * round trip to the host). Scatters are deterministic: one thread makes each result, and takes its sources in order. */
#include <stdio.h>
#include <string.h>

#include "backends/cuda/internal.h"
#include "backends/cuda/mapped.h"

static void put_gathered(text *t, const kernel_prep *p, int axis, long long size) {
  const tensor *x = &p->args.in[0];
  text_printf(t, "  const bool inside = place >= 0 && place < %lldLL;\n", size);
  for (int d = 0; d < x->rank; d++) {
    if (d == axis)
      text_printf(t, "  const i64 s%d = inside ? place : 0; (void)s%d;\n", d, d);
    else
      text_printf(t, "  const i64 s%d = c%d; (void)s%d;\n", d, d, d);
  }
  text_puts(t, "  const i64 from = ");
  cuda_offset(t, "s", x->rank, x->shape, x->strides);
  text_puts(t, ";\n");
}

static void put_taken(text *t, const kernel_prep *p, int v) {
  const char *type = cuda_type(p->args.out[0].dtype);
  text_printf(t, "  vec<%s, %d> r = load_vec<%s, %d>(in0 + (inside ? from : 0));\n", type, v, type, v);
  text_printf(t, "  if (!inside) {\n#pragma unroll\n    for (int k = 0; k < %d; k++) r.v[k] = ", v);
  cuda_narrow(t, p->args.out[0].dtype, "0");
  text_printf(t, "; }\n  store_vec<%s, %d>(out0 + to0, r);\n", type, v);
}

/* Operands that are empty cannot be read at all; results of theirs are then empty too, or all places are outside. */
static kiln_status prepare_embedding(kernel_prep *p) {
  const tensor *w = &p->args.in[0], *at = &p->args.in[1], *out = &p->args.out[0];
  const int size = (int)kiln_dtype_size(w->dtype);
  int v = 16 / size;
  const int64_t width = w->rank > 1 ? w->shape[w->rank - 1] : 1;
  while (v > 1 && (width % v || v * size > cuda_in_alignment(p, 0) || v * size > cuda_out_alignment(p, 0))) v /= 2;
  text t = {0};
  mapped_begin(&t, p, "embedding", v);
  text_puts(&t, "  i64 place = (i64)in1[");
  cuda_offset(&t, "c", at->rank, at->shape, at->strides);
  text_printf(&t, "];\n  const bool inside = place >= 0 && place < %lldLL;\n  const i64 from = place * %lldLL",
              (long long)w->shape[0], (long long)w->strides[0]);
  for (int d = 1; d < w->rank; d++) text_printf(&t, " + c%d * %lldLL", at->rank + d - 1, (long long)w->strides[d]);
  text_puts(&t, ";\n");
  put_taken(&t, p, v);
  (void)out;
  return mapped_end(p, &t, "embedding", v);
}

static kiln_status prepare_gather(kernel_prep *p) {
  const tensor *x = &p->args.in[0], *at = &p->args.in[1];
  const int axis = (int)arg_int(&p->args, "axis");
  const bool select = strcmp(p->args.node->op->name, "index_select") == 0;
  const int v = select && axis != x->rank - 1 ? mapped_width(p) : 1;
  text t = {0};
  mapped_begin(&t, p, "gather", v);
  text_puts(&t, "  const i64 place = (i64)in1[");
  if (select)
    text_printf(&t, "c%d * %lldLL", axis, (long long)at->strides[0]);
  else
    cuda_offset(&t, "c", at->rank, at->shape, at->strides);
  text_puts(&t, "];\n");
  put_gathered(&t, p, axis, (long long)x->shape[axis]);
  put_taken(&t, p, v);
  return mapped_end(p, &t, "gather", v);
}

/* ---- narrow, at a place that only the device knows ---------------------------------------------------------------------------- */

static void put_start(text *t, int input, long long size) {
  text_printf(t, "  i64 start = (i64)in%d[0];\n  if (start < 0) start += %lldLL;\n", input, size);
}

static kiln_status prepare_narrow(kernel_prep *p) {
  const tensor *x = &p->args.in[0];
  const int axis = (int)arg_int(&p->args, "axis"), v = axis != x->rank - 1 ? mapped_width(p) : 1;
  text t = {0};
  mapped_begin(&t, p, "narrow", v);
  put_start(&t, 1, (long long)x->shape[axis]);
  text_printf(&t, "  const i64 place = start + c%d;\n", axis);
  put_gathered(&t, p, axis, (long long)x->shape[axis]);
  put_taken(&t, p, v);
  return mapped_end(p, &t, "narrow", v);
}

/* Each result is an element of x, or of src where that lies over it. */
static kiln_status prepare_narrow_scatter(kernel_prep *p) {
  const tensor *x = &p->args.in[0], *src = &p->args.in[1];
  const int axis = (int)arg_int(&p->args, "axis");
  text t = {0};
  mapped_begin(&t, p, "narrow_scatter", 1);
  put_start(&t, 2, (long long)x->shape[axis]);
  text_printf(&t, "  const i64 place = c%d - start;\n  const bool covered = place >= 0 && place < %lldLL;\n", axis,
              (long long)src->shape[axis]);
  for (int d = 0; d < x->rank; d++) text_printf(&t, "  const i64 s%d = c%d; (void)s%d;\n", d, d, d);
  text_puts(&t, "  const i64 own = ");
  cuda_offset(&t, "s", x->rank, x->shape, x->strides);
  text_puts(&t, ";\n  i64 from = 0;\n  if (covered) from = ");
  for (int d = 0; d < src->rank; d++) {
    text_printf(&t, "%s", d ? " + " : "");
    if (d == axis)
      text_printf(&t, "place * %lldLL", (long long)src->strides[d]);
    else
      text_printf(&t, "c%d * %lldLL", d, (long long)src->strides[d]);
  }
  text_puts(&t, ";\n  out0[to0] = covered ? in1[from] : in0[own];\n");
  return mapped_end(p, &t, "narrow_scatter", 1);
}

/* ---- advanced indexing -------------------------------------------------------------------------------------------------------- */

typedef struct indexing { /* as ops/index.c describes the indexed part */
  const tensor *x, *indices;
  const attr *axes;
  int rank, place, at_rank;
  int64_t shape[KILN_MAX_RANK];
  int kept[KILN_MAX_RANK];
  uint32_t mask;
} indexing;

static indexing indexing_of(const kernel_args *a, int first_index) {
  indexing s = {.x = &a->in[0], .indices = &a->in[first_index], .axes = arg_attr(a, "axes")};
  int64_t at_shape[KILN_MAX_RANK];
  for (int i = 0; i < s.axes->count; i++) {
    s.mask |= 1u << s.axes->u.ints[i];
    if (s.indices[i].rank > s.at_rank) s.at_rank = s.indices[i].rank;
  }
  for (int k = 0; k < s.at_rank; k++) {
    at_shape[k] = 1;
    for (int i = 0; i < s.axes->count; i++) {
      const int from = k - (s.at_rank - s.indices[i].rank);
      if (from >= 0 && s.indices[i].shape[from] != 1) at_shape[k] = s.indices[i].shape[from];
    }
  }
  s.place = s.axes->u.ints[s.axes->count - 1] - s.axes->u.ints[0] == s.axes->count - 1 ? (int)s.axes->u.ints[0] : 0;
  for (int i = 0; i <= s.x->rank; i++) {
    for (int k = 0; i == s.place && k < s.at_rank; k++) s.shape[s.rank++] = at_shape[k];
    if (i == s.x->rank || (s.mask >> i & 1)) continue;
    s.kept[s.rank] = i;
    s.shape[s.rank++] = s.x->shape[i];
  }
  return s;
}

/* Sets `inside` and adds to `at` what the index tensors say, with strides of `x`; the index coordinates are <prefix>place... */
static void put_places(text *t, const indexing *s, const tensor *x, int first_index, const char *prefix) {
  for (int i = 0; i < s->axes->count; i++) {
    const tensor *index = &s->indices[i];
    const int64_t axis = s->axes->u.ints[i];
    bool any = false;
    text_printf(t, "  { i64 place = (i64)in%d[", first_index + i);
    for (int k = 0; k < index->rank; k++) {
      if (index->shape[k] == 1) continue;
      text_printf(t, "%s%s%d * %lldLL", any ? " + " : "", prefix, s->place + s->at_rank - index->rank + k,
                  (long long)index->strides[k]);
      any = true;
    }
    text_printf(t,
                "%s]; if (place < 0) place += %lldLL;\n    inside = inside && place >= 0 && place < %lldLL; at += "
                "place * %lldLL; }\n",
                any ? "" : "0", (long long)x->shape[axis], (long long)x->shape[axis], (long long)x->strides[axis]);
  }
}

static kiln_status prepare_index(kernel_prep *p) {
  const indexing s = indexing_of(&p->args, 1);
  text t = {0};
  mapped_begin(&t, p, "index_of", 1);
  text_puts(&t, "  bool inside = true; i64 at = 0;\n");
  put_places(&t, &s, s.x, 1, "c");
  for (int k = 0; k < s.rank; k++) {
    if (k < s.place || k >= s.place + s.at_rank)
      text_printf(&t, "  at += c%d * %lldLL;\n", k, (long long)s.x->strides[s.kept[k]]);
  }
  text_puts(&t, "  const i64 from = at;\n");
  put_taken(&t, p, 1);
  return mapped_end(p, &t, "index_of", 1);
}

/* A thread for each place along the axes that are kept: copies its part of x, then puts its values in order. */
static kiln_status prepare_index_put(kernel_prep *p) {
  const indexing s = indexing_of(&p->args, 2);
  const tensor *out = &p->args.out[0], *values = &p->args.in[1];
  const bool accumulate = arg_bool(&p->args, "accumulate");
  int64_t kept_shape[KILN_MAX_RANK], kept_x[KILN_MAX_RANK], kept_out[KILN_MAX_RANK], own_shape[KILN_MAX_RANK],
      own_x[KILN_MAX_RANK], own_out[KILN_MAX_RANK], threads = 1, own = 1, puts = 1;
  int kept = 0, owned = 0;
  for (int k = 0; k < s.rank; k++) {
    if (k >= s.place && k < s.place + s.at_rank) {
      puts *= s.shape[k];
      continue;
    }
    kept_shape[kept] = s.shape[k];
    kept_x[kept] = s.x->strides[s.kept[k]];
    kept_out[kept++] = out->strides[s.kept[k]];
    threads *= s.shape[k];
  }
  for (int i = 0; i < s.x->rank; i++) {
    if (!(s.mask >> i & 1)) continue;
    own_shape[owned] = s.x->shape[i];
    own_x[owned] = s.x->strides[i];
    own_out[owned++] = out->strides[i];
    own *= s.x->shape[i];
  }
  text t = {0};
  const char *type = cuda_type(out->dtype);
  text_printf(&t,
              "extern \"C\" __global__ void __launch_bounds__(64) index_put(const %s *in0, const %s "
              "*in1",
              type, type);
  for (int i = 0; i < s.axes->count; i++) text_printf(&t, ", const %s *in%d", cuda_type(s.indices[i].dtype), 2 + i);
  text_printf(
      &t,
      ", %s *out) {\n  KILN_WAIT;\n  const i64 i = (i64)blockIdx.x * 64 + threadIdx.x;\n  if (i >= %lldLL) return;\n",
      type, (long long)threads);
  cuda_coordinates(&t, "i64", "k", "i", kept, kept_shape);
  text_puts(&t, "  const i64 x_base = ");
  cuda_offset(&t, "k", kept, kept_shape, kept_x);
  text_puts(&t, ", out_base = ");
  cuda_offset(&t, "k", kept, kept_shape, kept_out);
  text_printf(&t, ";\n  for (i64 e = 0; e < %lldLL; e++) {\n", (long long)own);
  cuda_coordinates(&t, "i64", "o", "e", owned, own_shape);
  text_puts(&t, "    out[out_base + ");
  cuda_offset(&t, "o", owned, own_shape, own_out);
  text_puts(&t, "] = in0[x_base + ");
  cuda_offset(&t, "o", owned, own_shape, own_x);
  text_printf(&t,
              "];\n  }\n  for (i64 e = 0; e < %lldLL; e++) {\n    bool inside = true; i64 at = out_base, from = 0;\n",
              (long long)puts);
  cuda_coordinates(&t, "i64", "p", "e", s.at_rank, &s.shape[s.place]);
  for (int k = 0; k < s.at_rank; k++)
    text_printf(&t, "    const i64 q%d = p%d; (void)q%d;\n", s.place + k, k, s.place + k);
  put_places(&t, &s, out, 2, "q");
  for (int k = 0, n = 0; k < s.rank; k++) {
    const bool index = k >= s.place && k < s.place + s.at_rank;
    const int from = k - (s.rank - values->rank);
    if (from >= 0 && values->shape[from] != 1)
      text_printf(&t, "    from += %s%d * %lldLL;\n", index ? "q" : "k", index ? k : n,
                  (long long)values->strides[from]);
    n += !index;
  }
  text_puts(&t, "    if (!inside) continue;\n    out[at] = ");
  if (!accumulate) {
    text_puts(&t, "in1[from];\n  }\n}\n");
  } else {
    if (cuda_is_float(out->dtype))
      text_printf(&t, "from_float<%s>(to_float(out[at]) + to_float(in1[from]));\n  }\n}\n", type);
    else
      text_printf(&t, "(%s)(out[at] + in1[from]);\n  }\n}\n", type);
  }
  return cuda_simple_prepare(p, "index_put", &t, cuda_div_up(threads, 64), 64, 0);
}

/* ---- scatter --------------------------------------------------------------------------------------------------------------------- */

static const char *scatter_step(const char *reduce) {
  if (strcmp(reduce, "add") == 0 || strcmp(reduce, "mean") == 0) return "acc = (VT)(acc + x);";
  if (strcmp(reduce, "multiply") == 0) return "acc = (VT)(acc * x);";
  if (strcmp(reduce, "amax") == 0) return "acc = k_max(x, acc);";
  if (strcmp(reduce, "amin") == 0) return "acc = k_min(x, acc);";
  return "acc = x;";
}

/* A thread for each result looks through the indices of its line. */
static kiln_status prepare_scatter(kernel_prep *p) {
  const tensor *x = &p->args.in[0], *at = &p->args.in[1], *src = &p->args.in[2], *out = &p->args.out[0];
  const int axis = (int)arg_int(&p->args, "axis");
  const char *reduce = arg_attr(&p->args, "reduce")->u.s;
  const bool none = strcmp(reduce, "none") == 0, self = none || arg_bool(&p->args, "include_self"),
             mean = strcmp(reduce, "mean") == 0;
  text t = {0};
  text_printf(&t, "typedef %s VT;\n", cuda_value_type(out->dtype));
  mapped_begin(&t, p, "scatter", 1);
  text_puts(&t, "  const i64 x_at = ");
  cuda_offset(&t, "c", x->rank, x->shape, x->strides);
  text_puts(&t, ";\n");
  mapped_load(&t, p, 0, "own", "x_at");
  text_puts(&t, "  VT acc = own; i64 found = 0;\n  if (true");
  for (int d = 0; d < at->rank; d++) {
    if (d != axis && at->shape[d] < out->shape[d]) text_printf(&t, " && c%d < %lldLL", d, (long long)at->shape[d]);
  }
  text_printf(&t, ") for (i64 k = 0; k < %lldLL; k++) {\n", (long long)at->shape[axis]);
  for (int d = 0; d < at->rank; d++) {
    if (d == axis)
      text_printf(&t, "    const i64 s%d = k; (void)s%d;\n", d, d);
    else
      text_printf(&t, "    const i64 s%d = c%d; (void)s%d;\n", d, d, d);
  }
  text_puts(&t, "    if ((i64)in1[");
  cuda_offset(&t, "s", at->rank, at->shape, at->strides);
  text_printf(&t, "] != c%d) continue;\n    const i64 from = ", axis);
  cuda_offset(&t, "s", src->rank, src->shape, src->strides);
  text_puts(&t, ";\n");
  mapped_load(&t, p, 2, "x", "from");
  text_printf(&t, "    %s { %s }\n    found++;\n  }\n", self ? "" : "if (found == 0) acc = x; else",
              scatter_step(reduce));
  if (mean) {
    text_printf(&t, "  if (found) { const VT n = (VT)(found + %d);", self ? 1 : 0);
    text_puts(&t,
              dtype_is_float(out->dtype) ? " acc = acc / n; }\n" : " acc = (VT)k_ifloor_div((i64)acc, (i64)n); }\n");
  }
  mapped_store(&t, p, 0, "acc");
  return mapped_end(p, &t, "scatter", 1);
}

#define INDEX(op_name, prepare_fn)   \
  {.op = op_name,                    \
   .name = "index.cuda",             \
   .isa = 80,                        \
   .prepare = prepare_fn,            \
   .run = cuda_simple_run,           \
   .strided_in = KERNEL_STRIDED_ALL, \
   .strided_out = KERNEL_STRIDED_ALL},
#define INDEX_TIGHT(op_name, prepare_fn) \
  {.op = op_name, .name = "index.cuda", .isa = 80, .prepare = prepare_fn, .run = cuda_simple_run},

const kernel cuda_index_rows[] = {
    INDEX_TIGHT("embedding", prepare_embedding) INDEX("index_select", prepare_gather) INDEX("gather", prepare_gather)
        INDEX("index", prepare_index) INDEX("index_put", prepare_index_put) INDEX("scatter", prepare_scatter)
            INDEX("narrow", prepare_narrow) INDEX("narrow_scatter", prepare_narrow_scatter){.op = NULL},
};
