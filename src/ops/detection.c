/* Detection: which boxes a greedy suppression keeps, and features of regions; torchvision's nms and roi_align. */
#include "ops/detection_math.h"

#include "base/memory.h"
#include "ops/infer.h"
#include "ops/lowering.h"
#include "ops/ref.h"

/* ---- suppress: boxes [N, 4], best first, to bool [N] ------------------------------------------------------------------ */

static kiln_status suppress_infer(graph *g, node *n) {
  KILN_TRY(infer_rank_between(n, 0, 2, 2));
  KILN_TRY(infer_float(n, 0));
  const tensor_type *boxes = in_type(n, 0);
  if (dim_compare_equal(g->dims, boxes->dims[1], 4) == 0) return INFER_FAIL(n, "operand boxes: expected rows of 4");
  set_out(n, 0, KILN_BOOL, 1, boxes->dims);
  return KILN_OK;
}

static kiln_status suppress_ref(const kernel_args *a) {
  const tensor *in = &a->in[0], *keep = &a->out[0];
  const int64_t count = in->shape[0];
  const double limit = arg_float(a, "limit");
  size_t bytes;
  if (in->shape[1] != 4)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "suppress: rows of %lld, expected 4", (long long)in->shape[1]);
  if (!size_mul((size_t)count + 1, 4 * sizeof(double), &bytes)) return KILN_NO_MEMORY("boxes");
  double *boxes = mem_alloc(bytes);
  if (!boxes) return KILN_NO_MEMORY("boxes");
  for (int64_t i = 0; i < count; i++) {
    for (int64_t k = 0; k < 4; k++) boxes[4 * i + k] = ref_load(in, i * in->strides[0] + k * in->strides[1]);
    ref_store_int(keep, i * keep->strides[0], 1);
  }
  for (int64_t i = 0; i < count; i++) {
    if (!ref_load_int(keep, i * keep->strides[0])) continue;
    for (int64_t j = i + 1; j < count; j++) {
      if (det_overlap(boxes + 4 * i, boxes + 4 * j, limit)) ref_store_int(keep, j * keep->strides[0], 0);
    }
  }
  mem_free(boxes);
  return KILN_OK;
}

/* Boxes by falling score, those that are kept, and their places in the original order. */
static kiln_status lower_nms(lower_call *c) {
  value *boxes, *scores;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "dets", &boxes));
  KILN_TRY(lowering_tensor(c, "scores", &scores));
  if (scores->type.rank != 1) return LOWER_FAIL(c, "argument scores: expected one dimension");
  node *sorted = build_node(b, "sort", IN(scores), ATTRS(A_INT("axis", 0), A_BOOL("descending", true)));
  if (!sorted) return lowering_missing(c, "scores");
  value *order = sorted->outputs[1];
  value *best = build(b, "index_select", IN(boxes, order), ATTRS(A_INT("axis", 0)));
  value *keep = build(b, "suppress", IN(best), ATTRS(A_FLOAT("limit", call_float(c, "iou_threshold"))));
  value *places = build(b, "nonzero", IN(keep), NO_ATTRS);
  LOWER_NEED(c, places);
  places = lowering_squeeze(b, places, 1);
  call_return(c, 0, build(b, "index_select", IN(order, places), ATTRS(A_INT("axis", 0))));
  return KILN_OK;
}

static const torch_row suppress_torch[] = {
    {"torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor", NULL, lower_nms},
    {NULL, NULL, NULL}};

/* ---- roi_align ---------------------------------------------------------------------------------------------------------- */

static kiln_status roi_infer(graph *g, node *n) {
  KILN_TRY(infer_rank_between(n, 0, 4, 4));
  KILN_TRY(infer_rank_between(n, 1, 2, 2));
  KILN_TRY(infer_float(n, 0));
  const tensor_type *x = in_type(n, 0), *rois = in_type(n, 1);
  if (rois->dtype != x->dtype) return INFER_FAIL(n, "operands have different dtypes");
  if (dim_compare_equal(g->dims, rois->dims[1], 5) == 0) return INFER_FAIL(n, "operand rois: expected rows of 5");
  const dim height = node_int(n, "height"), width = node_int(n, "width");
  if (!dim_is_const(height) || !dim_is_const(width) || height < 1 || width < 1)
    return INFER_FAIL(n, "height and width must be at least 1");
  set_out(n, 0, x->dtype, 4, (dim[]){rois->dims[0], x->dims[1], height, width});
  return KILN_OK;
}

typedef struct region {
  const tensor *x;
  int64_t base; /* of the image and channel */
  det_side rows, columns;
} region;

static double region_mean(const region *r) {
  const tensor *x = r->x;
  const int64_t height = x->shape[2], width = x->shape[3];
  const double count = (double)r->rows.count * (double)r->columns.count;
  double sum = 0;
  for (int64_t i = 0; i < r->rows.count; i++) {
    long long y0, y1, x0, x1;
    double wy, wx;
    if (!det_places(r->rows.start + (double)i * r->rows.step, height, &y0, &y1, &wy)) continue;
    for (int64_t j = 0; j < r->columns.count; j++) {
      if (!det_places(r->columns.start + (double)j * r->columns.step, width, &x0, &x1, &wx)) continue;
      const int64_t top = r->base + y0 * x->strides[2], bottom = r->base + y1 * x->strides[2];
      const int64_t left = x0 * x->strides[3], right = x1 * x->strides[3];
      sum += (1 - wy) * ((1 - wx) * ref_load(x, top + left) + wx * ref_load(x, top + right)) +
             wy * ((1 - wx) * ref_load(x, bottom + left) + wx * ref_load(x, bottom + right));
    }
  }
  return sum / (count > 1 ? count : 1);
}

static kiln_status roi_ref(const kernel_args *a) {
  const tensor *x = &a->in[0], *rois = &a->in[1], *y = &a->out[0];
  const double scale = arg_float(a, "scale");
  const int64_t sampling = arg_int(a, "sampling"), height = arg_int(a, "height"), width = arg_int(a, "width");
  const int aligned = arg_bool(a, "aligned");
  if (rois->shape[1] != 5)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "roi_align: rows of %lld, expected 5", (long long)rois->shape[1]);
  for (int64_t k = 0; k < y->shape[0]; k++) {
    double roi[5];
    for (int i = 0; i < 5; i++) roi[i] = ref_load(rois, k * rois->strides[0] + i * rois->strides[1]);
    if (!(roi[0] >= 0 && roi[0] < (double)x->shape[0]))
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "roi_align: region %lld is of image %g, there are %lld", (long long)k,
                       roi[0], (long long)x->shape[0]);
    for (int64_t c = 0; c < y->shape[1]; c++) {
      for (int64_t e = 0; e < height * width; e++) {
        const region r = {.x = x,
                          .base = (int64_t)roi[0] * x->strides[0] + c * x->strides[1],
                          .rows = det_bin(roi[2], roi[4], scale, e / width, height, sampling, aligned),
                          .columns = det_bin(roi[1], roi[3], scale, e % width, width, sampling, aligned)};
        const int64_t to[4] = {k, c, e / width, e % width};
        ref_store(y, tensor_offset(y, to), region_mean(&r));
      }
    }
  }
  return KILN_OK;
}

static kiln_status lower_roi_align(lower_call *c) {
  value *x, *rois;
  KILN_TRY(lowering_tensor(c, "input", &x));
  KILN_TRY(lowering_tensor(c, "rois", &rois));
  call_return(
      c, 0,
      build(&c->b, "roi_align", IN(x, rois),
            ATTRS(A_INT("height", call_int(c, "pooled_height")), A_INT("width", call_int(c, "pooled_width")),
                  A_INT("sampling", call_int(c, "sampling_ratio")), A_FLOAT("scale", call_float(c, "spatial_scale")),
                  A_BOOL("aligned", call_bool(c, "aligned")))));
  return KILN_OK;
}

static const torch_row roi_torch[] = {
    {"torchvision::roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt "
     "pooled_width, int sampling_ratio, bool aligned) -> Tensor",
     NULL, lower_roi_align},
    {NULL, NULL, NULL}};

static const char *const suppress_cases[] = {"boxes:f32[N,4]=uniform(0,9) limit=0.3 N:1,2,65,300",
                                             "boxes:f64[40,4]=uniform(0,9) limit=0.1", "boxes:f32[0,4] limit=0.5",
                                             NULL};
static const char *const roi_cases[] = {
    "x:f32[1,3,9,11] rois:f32[4,5]=uniform(0,0.9) height=2 width=3 sampling=2 scale=7.0",
    "x:f32[1,2,9,11] rois:f32[4,5]=uniform(0,0.9) height=3 width=3 scale=9.0 aligned=1",
    "x:f64[1,2,5,6] rois:f64[3,5]=uniform(0,0.5) height=1 width=1 scale=11.0",
    "x:f32[2,3,5,5] rois:f32[0,5] height=7 width=7", NULL};

static const op rows[] = {
    {.name = "suppress",
     .sig = "boxes -> keep",
     .attrs = "limit:float",
     .infer = suppress_infer,
     .ref = suppress_ref,
     .torch = suppress_torch,
     .cases = suppress_cases},
    {.name = "roi_align",
     .sig = "x rois -> y",
     .attrs = "height:int width:int sampling:int=0 scale:float=1 aligned:bool=0",
     .infer = roi_infer,
     .ref = roi_ref,
     .torch = roi_torch,
     .cases = roi_cases,
     .tolerance = 1e-4f},
};

extern const op_family ops_detection;
OP_FAMILY(ops_detection, rows);
