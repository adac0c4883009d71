/* Calibration caches, and layers on the int8 grid. */
#include "import/calibration.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "format/json.h"
#include "import/aten.h"
#include "ops/ref.h"

#define LEVELS 127.0

typedef struct range {
  double limit;
  bool used;
} range;

/* ---- the file --------------------------------------------------------------------------------------------------------- */

static kiln_status read_ranges(calibration *c, const jdoc *doc) {
  jnode root = jdoc_root(doc), ranges, item;
  int64_t version = 0;
  void *at = NULL;
  KILN_TRY(jnode_get_int(&root, "kiln_calibration", &version));
  if (version != 1) return KILN_FAIL(KILN_INVALID_FILE, "its version is %lld, expected 1", (long long)version);
  KILN_TRY(jnode_get_object(&root, "ranges", &ranges));
  while (jnode_next(&ranges, &at, &item)) {
    range *r = ARENA_NEW(&c->arena, range);
    const char *name = arena_strdup(&c->arena, item.key);
    if (!r || !name || !map_put(&c->ranges, name, r)) return KILN_NO_MEMORY("calibration");
    KILN_TRY(jnode_float(&item, &r->limit));
    if (!(r->limit >= 0) || !isfinite(r->limit))
      return KILN_FAIL(KILN_INVALID_FILE, "the range of '%.80s' is negative or not finite", name);
    c->count++;
  }
  return KILN_OK;
}

kiln_status calibration_open(const char *path, calibration *out) {
  file_map file;
  jdoc doc = {0};
  *out = (calibration){.path = path};
  KILN_TRY(file_map_open(path, &file));
  kiln_status status = jdoc_parse(file.data, file.size, path, &doc);
  if (status == KILN_OK) status = read_ranges(out, &doc);
  jdoc_free(&doc);
  file_map_close(&file);
  return status == KILN_OK
             ? KILN_OK
             : error_note(status, __FILE__, __LINE__, "calibration: '%.200s' is no calibration cache of Kiln", path);
}

void calibration_close(calibration *c) {
  map_free(&c->ranges);
  map_free(&c->weights);
  arena_free(&c->arena);
}

kiln_status calibration_finish(const calibration *c) {
  if (c->used == c->count) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_ARGUMENT,
                   "calibration: '%.200s' is of another model: it has ranges for %d values, of which this model has %d",
                   c->path, c->count, c->used);
}

static kiln_status find_range(calibration *c, const char *name, double *out_scale) {
  range *r = map_get(&c->ranges, name);
  if (!r)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "calibration: '%.200s' is of another model: it has no range for '%.100s'",
                     c->path, name);
  if (!r->used) c->used++;
  r->used = true;
  *out_scale = r->limit > 0 ? r->limit / LEVELS : 1.0;
  return KILN_OK;
}

/* ---- weights ------------------------------------------------------------------------------------------------------------ */

typedef struct channels {
  int64_t outer, count, inner;
} channels;

static channels channels_of(const tensor_type *t, int axis) {
  channels c = {1, 1, 1};
  for (int32_t i = 0; i < t->rank; i++) *(i < axis ? &c.outer : i == axis ? &c.count : &c.inner) *= t->dims[i];
  return c;
}

/* One operation's result, in the tensor's type. */
static double as_stored(const tensor *one, double v) {
  ref_store(one, 0, v);
  return ref_load(one, 0);
}

static double channel_scale(const tensor *w, const tensor *one, const channels *c, int64_t channel) {
  double largest = 0;
  for (int64_t o = 0; o < c->outer; o++) {
    for (int64_t i = 0; i < c->inner; i++) {
      const double v = fabs(ref_load(w, (o * c->count + channel) * c->inner + i));
      if (isnan(v)) return 1.0;
      if (v > largest) largest = v;
    }
  }
  const double scale = as_stored(one, largest / LEVELS);
  return scale > 0 ? scale : 1.0;
}

static void round_channel(const tensor *w, const tensor *out, const tensor *one, const channels *c, int64_t channel) {
  const double scale = channel_scale(w, one, c, channel);
  for (int64_t o = 0; o < c->outer; o++) {
    for (int64_t i = 0; i < c->inner; i++) {
      const int64_t at = (o * c->count + channel) * c->inner + i;
      double v = rint(as_stored(one, ref_load(w, at) / scale));
      v = v < -LEVELS ? -LEVELS : v > LEVELS ? LEVELS : v; /* NaN stays */
      ref_store(out, at, v * scale);
    }
  }
}

/* The weight rounded to int8 with a scale for each channel. */
static value *rounded_weight(graph *g, const value *w, int axis) {
  double room = 0;
  const channels c = channels_of(&w->type, axis);
  void *data = mem_alloc_aligned(w->constant->size ? w->constant->size : 1);
  if (!data) return NULL;
  const tensor from = {.data = (void *)(uintptr_t)w->constant->data, .dtype = w->type.dtype};
  const tensor to = {.data = data, .dtype = w->type.dtype}, one = {.data = &room, .dtype = w->type.dtype};
  for (int64_t i = 0; i < c.count; i++) round_channel(&from, &to, &one, &c, i);
  return graph_constant_take(g, &w->type, data);
}

/* ---- layers ------------------------------------------------------------------------------------------------------------- */

static const struct {
  const char *name, *overload;
  int axis;
} layers[] = {
    {"aten::linear", "", 0},
    {"aten::conv1d", "", 0},
    {"aten::conv2d", "", 0},
    {"aten::conv3d", "", 0},
    {"aten::conv1d", "padding", 0},
    {"aten::conv2d", "padding", 0},
    {"aten::conv3d", "padding", 0},
    {"aten::conv_transpose1d", "", 1},
    {"aten::conv_transpose2d", "input", 1},
    {"aten::conv_transpose3d", "input", 1},
};

static value *weight_of(lower_call *call) {
  const ivalue *w = call->schema->n_args > 1 ? &call->args[1] : NULL;
  value *v = w && w->kind == IV_TENSOR ? lower_value(&call->b, w->u.t) : NULL;
  const bool plain = v && v->constant && v->constant->data && !v->constant->packing && dtype_is_float(v->type.dtype);
  return plain ? v : NULL;
}

int calibration_axis(lower_call *call) {
  int axis = -1;
  for (size_t i = 0; i < KILN_COUNT(layers); i++)
    if (str_eq(call->schema->name, layers[i].name) && str_eq(call->schema->overload, layers[i].overload))
      axis = layers[i].axis;
  if (str_eq(call->schema->name, "aten::_convolution")) axis = call_bool(call, "transposed") ? 1 : 0;
  const value *w = axis >= 0 && call->args[0].kind == IV_TENSOR ? weight_of(call) : NULL;
  return w && axis < w->type.rank ? axis : -1;
}

/* One more operator in front of the call. */
static kiln_status run_operator(lower_call *call, const char *name, const char *overload, int n, const ivalue *given,
                                ivalue *out) {
  ivalue args[8] = {{.kind = IV_NONE}};
  const aten_schema *s = aten_find_overload(name, overload);
  if (!s || s->n_args > 8 || n > s->n_args) return KILN_FAIL(KILN_INTERNAL, "calibration: no operator %s", name);
  for (int32_t i = 0; i < s->n_args; i++) args[i] = i < n ? given[i] : s->args[i].fallback;
  lower_call inner = {.im = call->im, .b = call->b, .schema = s, .args = args, .results = out, .n_results = 1};
  return lower_run(&inner);
}

static ivalue of_float(double v) {
  ivalue x = {.kind = IV_FLOAT};
  x.u.f = v;
  return x;
}

kiln_status calibration_layer(calibration *c, lower_call *call, const char *name, int axis) {
  double scale = 1;
  ivalue x = call->args[0], w = {.kind = IV_TENSOR};
  KILN_TRY(find_range(c, name, &scale));
  KILN_TRY(run_operator(call, "aten::mul", "Tensor", 2, (ivalue[]){x, of_float(1.0 / scale)}, &x));
  KILN_TRY(run_operator(call, "aten::round", "", 1, (ivalue[]){x}, &x));
  KILN_TRY(run_operator(call, "aten::clamp", "", 3, (ivalue[]){x, of_float(-LEVELS), of_float(LEVELS)}, &x));
  KILN_TRY(run_operator(call, "aten::mul", "Tensor", 2, (ivalue[]){x, of_float(scale)}, &x));
  const value *weight = weight_of(call);
  constant_fix(weight); /* a refit would bring values that are not rounded */
  value *rounded = rounded_weight(call->b.graph, weight, axis);
  w.u.t = rounded ? lower_tensor(call->im, rounded) : NULL;
  if (!w.u.t) return KILN_NO_MEMORY("calibration");
  call->args[0] = x;
  call->args[1] = w;
  return KILN_OK;
}

/* Freezing merges equal calls, so that they count once. */
struct script_layer {
  const aten_schema *schema;
  const value *operands[3]; /* input, weight, bias */
  int32_t number;
  struct script_layer *next;
};

static kiln_status number_of(calibration *c, lower_call *call, int32_t *out) {
  struct script_layer this = {.schema = call->schema};
  for (int i = 0; i < 3 && i < call->schema->n_args; i++)
    if (call->args[i].kind == IV_TENSOR) this.operands[i] = lower_value(&call->b, call->args[i].u.t);
  if (c->layers == 0) c->calls = NULL; /* the method is run anew */
  for (const struct script_layer *l = c->calls; l; l = l->next) {
    if (l->schema != this.schema || memcmp(l->operands, this.operands, sizeof this.operands) != 0) continue;
    *out = l->number;
    return KILN_OK;
  }
  struct script_layer *made = ARENA_NEW(&c->arena, struct script_layer);
  if (!made) return KILN_NO_MEMORY("calibration");
  this.number = *out = c->layers++;
  this.next = c->calls;
  *made = this;
  c->calls = made;
  return KILN_OK;
}

kiln_status calibration_script_call(calibration *c, lower_call *call) {
  char name[96];
  int32_t number = 0;
  const int axis = calibration_axis(call);
  if (axis < 0) return KILN_OK;
  KILN_TRY(number_of(c, call, &number));
  snprintf(name, sizeof name, "%d:%.60s", (int)number, call->schema->name);
  return calibration_layer(c, call, name, axis);
}
