/* Scans along an axis (cumsum, cumprod, cummax, cummin) and sorts (sort, topk). */

#include "base/memory.h"
#include "ops/infer.h"
#include "ops/lowering.h"
#include "ops/op.h"
#include "ops/ref.h"

/* ---- inference --------------------------------------------------------------------------------------------------- */

static kiln_status infer_scan_axis(const node *n) {
  const int rank = in_type(n, 0)->rank;
  const int64_t axis = node_int(n, "axis");
  if (axis < 0 || axis >= (rank ? rank : 1))
    return INFER_FAIL(n, "axis is %lld, expected 0 to %d", (long long)axis, rank ? rank - 1 : 0);
  return KILN_OK;
}

static kiln_status infer_scan(graph *g, node *n) {
  KILN_TRY(infer_scan_axis(n));
  return infer_same(g, n);
}

static kiln_status infer_scan_index(graph *g, node *n) {
  KILN_TRY(infer_scan(g, n));
  const tensor_type *in = in_type(n, 0);
  set_out(n, 1, KILN_I64, in->rank, in->dims);
  return KILN_OK;
}

static kiln_status infer_topk(graph *g, node *n) {
  KILN_TRY(infer_scan_axis(n));
  const tensor_type *in = in_type(n, 0);
  tensor_type out = *in;
  const dim k = node_int(n, "k"), size = in->rank ? in->dims[node_int(n, "axis")] : 1;
  if (dim_compare_le(g->dims, 0, k) == 0 || dim_compare_le(g->dims, k, size) == 0) {
    return INFER_FAIL(n, "k is outside 0 to the size of the axis");
  }
  if (in->rank) out.dims[node_int(n, "axis")] = k;
  set_out(n, 0, out.dtype, out.rank, out.dims);
  set_out(n, 1, KILN_I64, out.rank, out.dims);
  return KILN_OK;
}

/* ---- lines: 1-d runs along the axis
 * ------------------------------------------------------------------------------------------------ */

typedef struct line {
  const tensor *t;
  int64_t at, stride, size;
} line;

/* Calls fn for each line of in and the outputs' lines at the same place. */
typedef kiln_status (*line_fn)(const kernel_args *a, line in, line out, line indices);
static kiln_status each_line(const kernel_args *a, line_fn fn) {
  const tensor *in = &a->in[0], *out = &a->out[0], *indices = a->n_out > 1 ? &a->out[1] : out;
  const int64_t axis = arg_int(a, "axis");
  if (in->rank == 0) {
    return tensor_numel(out) == 0 ? KILN_OK
                                  : fn(a, (line){in, 0, 0, 1}, (line){out, 0, 0, 1}, (line){indices, 0, 0, 1});
  }
  int64_t shape[KILN_MAX_RANK];
  for (int i = 0; i < in->rank; i++) shape[i] = i == axis ? 1 : in->shape[i];
  for (ref_iter it = ref_begin(in->rank, shape); ref_valid(&it); ref_next(&it)) {
    const line from = {in, tensor_offset(in, it.index), in->strides[axis], in->shape[axis]};
    const line to = {out, tensor_offset(out, it.index), out->strides[axis], out->shape[axis]};
    const line at = {indices, tensor_offset(indices, it.index), indices->strides[axis], indices->shape[axis]};
    KILN_TRY(fn(a, from, to, at));
  }
  return KILN_OK;
}

static double line_get(line l, int64_t i) { return ref_load(l.t, l.at + i * l.stride); }
static int64_t line_get_int(line l, int64_t i) { return ref_load_int(l.t, l.at + i * l.stride); }

/* ---- scans ------------------------------------------------------------------------------------------------------- */

static kiln_status cumulate(line in, line out, bool product) {
  double r = product ? 1 : 0;
  uint64_t n = product ? 1 : 0;
  const bool integer = !dtype_is_float(in.t->dtype);
  for (int64_t i = 0; i < in.size; i++) {
    if (integer) {
      const uint64_t x = (uint64_t)line_get_int(in, i);
      n = product ? n * x : n + x;
      ref_store_int(out.t, out.at + i * out.stride, (int64_t)n);
    } else {
      const double x = line_get(in, i);
      r = product ? r * x : r + x;
      ref_store(out.t, out.at + i * out.stride, r);
    }
  }
  return KILN_OK;
}
static kiln_status cumsum_line(const kernel_args *a, line in, line out, line indices) {
  (void)a, (void)indices;
  return cumulate(in, out, false);
}
static kiln_status cumprod_line(const kernel_args *a, line in, line out, line indices) {
  (void)a, (void)indices;
  return cumulate(in, out, true);
}

/* Is x before (after, if not) y in the order of numbers with NaN last? Integers compare as such. */
static bool comes_before(line in, int64_t x, int64_t y) {
  if (!dtype_is_float(in.t->dtype)) return line_get_int(in, x) < line_get_int(in, y);
  const double a = line_get(in, x), b = line_get(in, y);
  return a < b || (b != b && a == a);
}

/* The last one of equal extremes counts, and NaN stays once seen (as PyTorch's cummax_helper). */
static void cumulate_extreme(line in, line out, line indices, bool largest) {
  int64_t best = 0;
  for (int64_t i = 0; i < in.size; i++) {
    const double x = line_get(in, i), b = line_get(in, best);
    const bool nan = dtype_is_float(in.t->dtype) && b != b;
    const bool not_worse = largest ? !comes_before(in, i, best) : !comes_before(in, best, i) || x != x;
    if (nan ? x != x : not_worse) best = i;
    ref_copy_element(in.t, in.at + best * in.stride, out.t, out.at + i * out.stride);
    ref_store_int(indices.t, indices.at + i * indices.stride, best);
  }
}
static kiln_status cummax_line(const kernel_args *a, line in, line out, line indices) {
  (void)a;
  cumulate_extreme(in, out, indices, true);
  return KILN_OK;
}
static kiln_status cummin_line(const kernel_args *a, line in, line out, line indices) {
  (void)a;
  cumulate_extreme(in, out, indices, false);
  return KILN_OK;
}

static kiln_status cumsum_ref(const kernel_args *a) { return each_line(a, cumsum_line); }
static kiln_status cumprod_ref(const kernel_args *a) { return each_line(a, cumprod_line); }
static kiln_status cummax_ref(const kernel_args *a) { return each_line(a, cummax_line); }
static kiln_status cummin_ref(const kernel_args *a) { return each_line(a, cummin_line); }

/* ---- sorts ------------------------------------------------------------------------------------------------------- */

/* Stable merge sort of indices: NaN last ascending, first descending. */
static void merge_sort(line in, bool descending, int64_t *at, int64_t *room, int64_t n) {
  for (int64_t width = 1; width < n; width *= 2) {
    for (int64_t begin = 0; begin < n; begin += 2 * width) {
      const int64_t middle = begin + width < n ? begin + width : n, end = middle + width < n ? middle + width : n;
      int64_t i = begin, k = middle;
      for (int64_t to = begin; to < end; to++) {
        const bool right =
            k < end && (i >= middle || (descending ? comes_before(in, at[i], at[k]) : comes_before(in, at[k], at[i])));
        room[to] = right ? at[k++] : at[i++];
      }
    }
    for (int64_t i = 0; i < n; i++) at[i] = room[i];
  }
}

static kiln_status sort_line(line in, line out, line indices, bool descending) {
  size_t bytes;
  if (!size_mul((size_t)in.size + 1, 2 * sizeof(int64_t), &bytes)) return KILN_NO_MEMORY("sort");
  int64_t *at = mem_alloc(bytes);
  if (!at) return KILN_NO_MEMORY("sort");
  for (int64_t i = 0; i < in.size; i++) at[i] = i;
  merge_sort(in, descending, at, at + in.size, in.size);
  for (int64_t i = 0; i < out.size; i++) {
    ref_copy_element(in.t, in.at + at[i] * in.stride, out.t, out.at + i * out.stride);
    ref_store_int(indices.t, indices.at + i * indices.stride, at[i]);
  }
  mem_free(at);
  return KILN_OK;
}
static kiln_status sort_of(const kernel_args *a, line in, line out, line indices) {
  return sort_line(in, out, indices, arg_bool(a, "descending"));
}
static kiln_status topk_of(const kernel_args *a, line in, line out, line indices) {
  if (out.size > in.size)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "topk: k is %lld, the axis has %lld", (long long)out.size,
                     (long long)in.size);
  return sort_line(in, out, indices, arg_bool(a, "largest"));
}
static kiln_status sort_ref(const kernel_args *a) { return each_line(a, sort_of); }
static kiln_status topk_ref(const kernel_args *a) { return each_line(a, topk_of); }

/* ---- PyTorch ----------------------------------------------------------------------------------------------------- */

static kiln_status input(lower_call *c, value **x, int *axis) {
  KILN_TRY(lowering_tensor(c, "self", x));
  return lowering_axis(c, "dim", (*x)->type.rank, axis);
}

/* Integers are summed as i64 unless dtype says otherwise. */
static kiln_status lower_cumsum(lower_call *c) {
  value *x;
  int axis;
  kiln_dtype dtype;
  KILN_TRY(input(c, &x, &axis));
  KILN_TRY(lowering_dtype(c, "dtype", dtype_is_float(x->type.dtype) ? x->type.dtype : KILN_I64, &dtype));
  x = lower_cast(&c->b, x, dtype);
  call_return(c, 0, build(&c->b, c->schema->op->name, IN(x), ATTRS(A_INT("axis", axis))));
  return KILN_OK;
}

/* log(cumsum(exp(x - max))) + max, with one maximum for the whole axis. */
static kiln_status lower_logcumsumexp(lower_call *c) {
  value *x;
  int axis;
  builder *b = &c->b;
  KILN_TRY(input(c, &x, &axis));
  const int64_t axes[1] = {axis};
  /* In f64, so that terms far below the largest still count: those before it are sums of their own. */
  const kiln_dtype dtype = x->type.dtype;
  x = lower_cast(b, x, KILN_F64);
  LOWER_NEED(c, x);
  value *max = build(b, "amax", IN(x), ATTRS(A_INTS("axes", axes, x->type.rank ? 1 : 0), A_BOOL("keepdim", 1)));
  max = build(b, "where", IN(build(b, "isinf", IN(max), NO_ATTRS), lowering_scalar_like(b, x, 0), max), NO_ATTRS);
  value *e = build(b, "exp", IN(lower_binary(b, "sub", x, max)), NO_ATTRS);
  value *sum = build(b, "cumsum", IN(e), ATTRS(A_INT("axis", axis)));
  value *y = lower_binary(b, "add", build(b, "log", IN(sum), NO_ATTRS), max);
  call_return(c, 0, lower_cast(b, y, dtype_is_float(dtype) ? dtype : KILN_F32));
  return KILN_OK;
}

static kiln_status lower_cummax(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(input(c, &x, &axis));
  node *n = build_node(&c->b, c->schema->op->name, IN(x), ATTRS(A_INT("axis", axis)));
  if (!n) return graph_check(c->b.graph);
  call_return(c, 0, n->outputs[0]);
  call_return(c, 1, n->outputs[1]);
  return KILN_OK;
}

static node *sorted(builder *b, value *x, int axis, bool descending) {
  return build_node(b, "sort", IN(x), ATTRS(A_INT("axis", axis), A_BOOL("descending", descending)));
}

static kiln_status lower_sort(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(input(c, &x, &axis));
  node *n = sorted(&c->b, x, axis, call_bool(c, "descending"));
  if (!n) return graph_check(c->b.graph);
  call_return(c, 0, n->outputs[0]);
  call_return(c, 1, n->outputs[1]);
  return KILN_OK;
}

static kiln_status lower_argsort(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(input(c, &x, &axis));
  node *n = sorted(&c->b, x, axis, call_bool(c, "descending"));
  if (!n) return graph_check(c->b.graph);
  call_return(c, 0, n->outputs[1]);
  return KILN_OK;
}

static kiln_status lower_msort(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, "self", &x));
  node *n = sorted(&c->b, x, 0, false);
  if (!n) return graph_check(c->b.graph);
  call_return(c, 0, n->outputs[0]);
  return KILN_OK;
}

static kiln_status lower_topk(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(input(c, &x, &axis));
  node *n =
      build_node(&c->b, "topk", IN(x),
                 ATTRS(A_INT("k", call_int(c, "k")), A_INT("axis", axis), A_BOOL("largest", call_bool(c, "largest"))));
  if (!n) return graph_check(c->b.graph);
  call_return(c, 0, n->outputs[0]);
  call_return(c, 1, n->outputs[1]);
  return KILN_OK;
}

static kiln_status lower_kthvalue(lower_call *c) {
  value *x;
  int axis;
  builder *b = &c->b;
  KILN_TRY(input(c, &x, &axis));
  const dim k = call_int(c, "k");
  if (dim_is_const(k) && k < 1) return LOWER_FAIL(c, "argument k is %lld, expected 1 or more", (long long)k);
  node *n = sorted(b, x, axis, false);
  if (!n) return graph_check(b->graph);
  for (int i = 0; i < 2; i++) {
    value *v = n->outputs[i];
    if (x->type.rank) {
      v = lowering_select(b, v, axis, dim_sub(b->graph->dims, k, 1));
      if (call_bool(c, "keepdim")) v = lowering_unsqueeze(b, v, axis);
    }
    call_return(c, i, v);
  }
  return KILN_OK;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static const torch_row torch_cumsum[] = {
    {"aten::cumsum(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor", NULL, lower_cumsum},
    {"aten::logcumsumexp(Tensor self, int dim) -> Tensor", NULL, lower_logcumsumexp},
    {NULL, NULL, NULL}};
static const torch_row torch_cumprod[] = {
    {"aten::cumprod(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor", NULL, lower_cumsum},
    {NULL, NULL, NULL}};
static const torch_row torch_cummax[] = {
    {"aten::cummax(Tensor self, int dim) -> (Tensor values, Tensor indices)", NULL, lower_cummax}, {NULL, NULL, NULL}};
static const torch_row torch_cummin[] = {
    {"aten::cummin(Tensor self, int dim) -> (Tensor values, Tensor indices)", NULL, lower_cummax}, {NULL, NULL, NULL}};
static const torch_row torch_sort[] = {
    {"aten::sort(Tensor self, int dim=-1, bool descending=False) -> (Tensor values, Tensor indices)", NULL, lower_sort},
    {"aten::sort.stable(Tensor self, *, bool? stable, int dim=-1, bool descending=False) -> (Tensor values, Tensor "
     "indices)",
     NULL, lower_sort},
    {"aten::argsort(Tensor self, int dim=-1, bool descending=False) -> Tensor", NULL, lower_argsort},
    {"aten::argsort.stable(Tensor self, *, bool stable, int dim=-1, bool descending=False) -> Tensor", NULL,
     lower_argsort},
    {"aten::msort(Tensor self) -> Tensor", NULL, lower_msort},
    {"aten::kthvalue(Tensor self, SymInt k, int dim=-1, bool keepdim=False) -> (Tensor values, Tensor indices)", NULL,
     lower_kthvalue},
    {NULL, NULL, NULL}};
static const torch_row torch_topk[] = {{"aten::topk(Tensor self, SymInt k, int dim=-1, bool largest=True, bool "
                                        "sorted=True) -> (Tensor values, Tensor indices)",
                                        NULL, lower_topk},
                                       {NULL, NULL, NULL}};

#define SCANS                                                                                       \
  "x:f32[N] axis=0 N:1,7,16,17,65", "x:f32[3,5,7] axis=1", "x:f32[3,5,7] axis=2", "x:f32[] axis=0", \
      "x:f32[0,3] axis=1", "x:i64[3,9]=range(-3,3) axis=1", "x:f32[6,9]=inf axis=1", "x:f64[3,9] axis=0"
static const char *const cases_scan[] = {SCANS, "x:f16[3,9] axis=1", NULL};
static const char *const cases_extreme[] = {SCANS, "x:f32[4,30]=range(-3,3) axis=1", NULL};
static const char *const cases_sort[] = {SCANS,
                                         "x:f32[3,65] axis=1 descending=1",
                                         "x:f32[65]=range(-3,3) axis=0",
                                         "x:f32[6,9]=inf axis=1 descending=1",
                                         "x:bool[9]=bool axis=0",
                                         "x:f16[33] axis=0",
                                         NULL};
static const char *const cases_topk[] = {"x:f32[3,65] k=5 axis=1",
                                         "x:f32[3,65] k=65 axis=1 largest=0",
                                         "x:f32[5,7] k=2 axis=0",
                                         "x:i64[3,9]=range(-99,99) k=3 axis=1",
                                         "x:f32[6,9]=inf k=4 axis=1",
                                         "x:f32[4] k=0 axis=0",
                                         "x:f32[] k=1 axis=0",
                                         "x:f16[33] k=3 axis=0",
                                         NULL};

static const op rows[] = {
    {.name = "cumsum",
     .sig = "x -> y",
     .attrs = "axis:int=0",
     .infer = infer_scan,
     .ref = cumsum_ref,
     .torch = torch_cumsum,
     .cases = cases_scan,
     .tolerance = 1e-5f},
    {.name = "cumprod",
     .sig = "x -> y",
     .attrs = "axis:int=0",
     .infer = infer_scan,
     .ref = cumprod_ref,
     .torch = torch_cumprod,
     .cases = cases_scan,
     .tolerance = 1e-5f},
    {.name = "cummax",
     .sig = "x -> values indices",
     .attrs = "axis:int=0",
     .infer = infer_scan_index,
     .ref = cummax_ref,
     .torch = torch_cummax,
     .cases = cases_extreme},
    {.name = "cummin",
     .sig = "x -> values indices",
     .attrs = "axis:int=0",
     .infer = infer_scan_index,
     .ref = cummin_ref,
     .torch = torch_cummin,
     .cases = cases_extreme},
    {.name = "sort",
     .sig = "x -> values indices",
     .attrs = "axis:int=0 descending:bool=0",
     .infer = infer_scan_index,
     .ref = sort_ref,
     .torch = torch_sort,
     .cases = cases_sort},
    {.name = "topk",
     .sig = "x -> values indices",
     .attrs = "k:int axis:int=0 largest:bool=1",
     .infer = infer_topk,
     .ref = topk_ref,
     .torch = torch_topk,
     .cases = cases_topk},
};

OP_FAMILY(ops_sort, rows);
