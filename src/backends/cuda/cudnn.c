/* Convolutions by cuDNN's backend graphs: convolution, bias, residual and activation as one graph, whose values in between
 * are virtual, in fp32. Finding and compiling a plan takes long, so each device keeps those that were made; their
 * serialized form lies in the cache folder, and in engine files. The workspace lies in the program's arena, and launches can
 * be captured. */
#include "backends/cuda/cudnn.h"

#include <stdio.h>
#include <string.h>

#include "backends/cuda/internal.h"
#include "base/file.h"
#include "base/memory.h"

enum { MOST_CONFIGS = 16, MOST_DESCRIPTORS = 32, MOST_OPERATIONS = 6, MOST_PLANS = 4 };
static const int64_t workspace_most = 64 << 20;

/* The plans of one graph, best first: those that were asked for, and those before them unless they came from a file. */
struct cudnn_entry {
  char key[320];
  void *plans[MOST_PLANS];
  int64_t workspaces[MOST_PLANS];
  int found, tried; /* plans of the heuristic, and configurations that were looked at for them */
  struct cudnn_entry *next;
};

/* A handle has one stream at a time. Also guards the lists of plans. */
static pthread_mutex_t cudnn_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- the library ------------------------------------------------------------------------------------------------- */

static kiln_status handle_of(device *d, const cuda_cudnn **library, void **out) {
  if (!d || !d->driver) return KILN_FAIL(KILN_INCOMPATIBLE, "cuDNN needs a GPU that is present");
  KILN_TRY(cuda_cudnn_get(library));
  int mode = 0, code = 0;
  KILN_TRY(cuda_enter_relaxed(d, &mode));
  pthread_mutex_lock(&cudnn_lock);
  if (!d->cudnn) code = (*library)->Create(&d->cudnn);
  *out = d->cudnn;
  pthread_mutex_unlock(&cudnn_lock);
  cuda_leave_relaxed(d, mode);
  if (code) return KILN_FAIL(KILN_DEVICE_ERROR, "cuDNN does not start (code %d)", code);
  return KILN_OK;
}

/* A device that only compiles asks its twin: so plans come into the engine's file. */
kiln_status cudnn_needs(device *d) {
  const cuda_cudnn *library = NULL;
  void *handle = NULL;
  return handle_of(d && d->twin ? d->twin : d, &library, &handle);
}

void cudnn_close(device *d) {
  const cuda_cudnn *library = NULL;
  if (!d->cudnn) return;
  const bool here = cuda_cudnn_get(&library) == KILN_OK;
  error_clear();
  for (struct cudnn_entry *e = d->cudnn_plans; e;) {
    struct cudnn_entry *next = e->next;
    for (int i = 0; here && i < MOST_PLANS; i++) {
      if (e->plans[i]) (void)library->Free(e->plans[i]);
    }
    mem_free(e);
    e = next;
  }
  if (here) (void)library->Destroy(d->cudnn);
  d->cudnn_plans = NULL;
  d->cudnn = NULL;
}

bool cudnn_fits(const node *n, const char **why) {
  library_epilogue form;
  if (!cuda_fits_float(n, why)) return false;
  const kiln_dtype dtype = node_in(n, 0)->type.dtype;
  if (dtype == KILN_F32 || n->outputs[0]->type.dtype != dtype) return *why = "not in 16 bits", false;
  if (!library_epilogue_of(n, &form)) return *why = "the epilogue is not a scale, a residual and an activation", false;
  return true;
}

/* ---- graphs ------------------------------------------------------------------------------------------------------ */

/* Descriptors while a graph is made; `code` is the first failure, after which nothing is done. */
typedef struct maker {
  const cuda_cudnn *v;
  void *handle;
  void *all[MOST_DESCRIPTORS];
  int count, code;
} maker;

static void *make(maker *m, int kind) {
  void *out = NULL;
  if (m->code) return NULL;
  if (m->count == MOST_DESCRIPTORS) {
    m->code = -1;
    return NULL;
  }
  m->code = m->v->New(kind, &out);
  if (!m->code) m->all[m->count++] = out;
  return out;
}

static void set(maker *m, void *d, int name, int type, int64_t count, const void *values) {
  if (!m->code) m->code = m->v->Set(d, name, type, count, values);
}
static void finalize(maker *m, void *d) {
  if (!m->code) m->code = m->v->Finalize(d);
}
static void finish(maker *m) {
  for (int i = m->count - 1; i >= 0; i--) (void)m->v->Free(m->all[i]);
  m->count = 0;
}

/* Serialized plans have these numbers, and the order of the operations: whoever changes them makes the form another one. */
enum { GRAPH_FORM = 1 };
enum { ID_X = 1, ID_W, ID_Y, ID_BIAS, ID_SCALE, ID_SHIFT, ID_RESIDUAL, ID_VIRTUAL };

static int data_type(kiln_dtype d) {
  return d == KILN_F16 ? CUDNN_HALF : d == KILN_BF16 ? CUDNN_BFLOAT16 : CUDNN_FLOAT;
}

static void *make_tensor(maker *m, int64_t id, int type, const int64_t sizes[4], const int64_t strides[4],
                         bool is_virtual) {
  void *t = make(m, CUDNN_TENSOR);
  const int64_t alignment = 16;
  set(m, t, CUDNN_TENSOR_TYPE, CUDNN_IS_DATA_TYPE, 1, &type);
  set(m, t, CUDNN_TENSOR_SIZES, CUDNN_IS_INT64, 4, sizes);
  set(m, t, CUDNN_TENSOR_STRIDES, CUDNN_IS_INT64, 4, strides);
  set(m, t, CUDNN_TENSOR_ID, CUDNN_IS_INT64, 1, &id);
  set(m, t, CUDNN_TENSOR_ALIGNMENT, CUDNN_IS_INT64, 1, &alignment);
  if (is_virtual) set(m, t, CUDNN_TENSOR_VIRTUAL, CUDNN_IS_BOOLEAN, 1, &is_virtual);
  finalize(m, t);
  return t;
}

/* Pixels `pitch` apart. */
static void *make_image(maker *m, int64_t id, int type, const int64_t sizes[4], int64_t pitch, bool is_virtual) {
  const int64_t strides[4] = {sizes[2] * sizes[3] * pitch, 1, sizes[3] * pitch, pitch};
  return make_tensor(m, id, type, sizes, strides, is_virtual);
}

static void *make_pointwise(maker *m, int mode, void *x, void *b, void *y) {
  const int precision = CUDNN_FLOAT;
  void *p = make(m, CUDNN_POINTWISE), *o;
  set(m, p, CUDNN_POINTWISE_MODE, CUDNN_IS_POINTWISE_MODE, 1, &mode);
  set(m, p, CUDNN_POINTWISE_PRECISION, CUDNN_IS_DATA_TYPE, 1, &precision);
  finalize(m, p);
  o = make(m, CUDNN_OPERATION_POINTWISE);
  set(m, o, CUDNN_APPLY_POINTWISE, CUDNN_IS_DESCRIPTOR, 1, &p);
  set(m, o, CUDNN_APPLY_X, CUDNN_IS_DESCRIPTOR, 1, &x);
  if (b) set(m, o, CUDNN_APPLY_B, CUDNN_IS_DESCRIPTOR, 1, &b);
  set(m, o, CUDNN_APPLY_Y, CUDNN_IS_DESCRIPTOR, 1, &y);
  finalize(m, o);
  return o;
}

static void *make_convolution(maker *m, const cudnn_conv *c, void *x, void *w, void *y) {
  const int type = CUDNN_FLOAT, mode = CUDNN_CROSS_CORRELATION;
  const int64_t dimensions = 2;
  const float one = 1.0f, zero = 0.0f;
  void *d = make(m, CUDNN_CONVOLUTION), *o;
  set(m, d, CUDNN_CONVOLUTION_TYPE, CUDNN_IS_DATA_TYPE, 1, &type);
  set(m, d, CUDNN_CONVOLUTION_MODE, CUDNN_IS_CONVOLUTION_MODE, 1, &mode);
  set(m, d, CUDNN_CONVOLUTION_DIMENSIONS, CUDNN_IS_INT64, 1, &dimensions);
  set(m, d, CUDNN_CONVOLUTION_DILATIONS, CUDNN_IS_INT64, 2, c->dilation);
  set(m, d, CUDNN_CONVOLUTION_STRIDES, CUDNN_IS_INT64, 2, c->stride);
  set(m, d, CUDNN_CONVOLUTION_PAD, CUDNN_IS_INT64, 2, c->pad);
  set(m, d, CUDNN_CONVOLUTION_PAD_END, CUDNN_IS_INT64, 2, c->pad_end);
  finalize(m, d);
  o = make(m, CUDNN_OPERATION_CONVOLUTION);
  set(m, o, CUDNN_FORWARD_CONVOLUTION, CUDNN_IS_DESCRIPTOR, 1, &d);
  set(m, o, CUDNN_FORWARD_X, CUDNN_IS_DESCRIPTOR, 1, &x);
  set(m, o, CUDNN_FORWARD_W, CUDNN_IS_DESCRIPTOR, 1, &w);
  set(m, o, CUDNN_FORWARD_Y, CUDNN_IS_DESCRIPTOR, 1, &y);
  set(m, o, CUDNN_FORWARD_ALPHA, CUDNN_IS_FLOAT, 1, &one);
  set(m, o, CUDNN_FORWARD_BETA, CUDNN_IS_FLOAT, 1, &zero);
  finalize(m, o);
  return o;
}

static void *make_graph(maker *m, const cudnn_conv *c, const library_epilogue *form) {
  static const int modes[] = {0, CUDNN_RELU, CUDNN_GELU_TANH, CUDNN_GELU, CUDNN_SWISH, CUDNN_SIGMOID};
  const int type = data_type(c->dtype);
  const int64_t w_strides[4] = {c->w[1] * c->w[2] * c->w[3], 1, c->w[3] * c->w[1], c->w[1]};
  const int64_t o = c->y[1], bias_sizes[4] = {1, o, 1, 1}, bias_strides[4] = {o, 1, o, o};
  const int after = c->has_bias + (form->scale ? 2 : 0) + (form->residual > 0) + (form->activation != LIBRARY_NONE);
  void *operations[MOST_OPERATIONS], *values[MOST_OPERATIONS];
  void *x = make_image(m, ID_X, type, c->x, c->pitch_x, false);
  void *w = make_tensor(m, ID_W, type, c->w, w_strides, false);
  for (int i = 0; i <= after; i++) {
    const bool last = i == after;
    values[i] =
        make_image(m, last ? ID_Y : ID_VIRTUAL + i, last ? type : CUDNN_FLOAT, c->y, last ? c->pitch_y : o, !last);
  }
  int64_t n = 0;
  operations[n] = make_convolution(m, c, x, w, values[0]);
  n++;
  if (c->has_bias) {
    void *bias = make_tensor(m, ID_BIAS, type, bias_sizes, bias_strides, false);
    operations[n] = make_pointwise(m, CUDNN_ADD, values[n - 1], bias, values[n]);
    n++;
  }
  if (form->scale) {
    void *scale = make_tensor(m, ID_SCALE, CUDNN_FLOAT, bias_sizes, bias_strides, false);
    void *shift = make_tensor(m, ID_SHIFT, CUDNN_FLOAT, bias_sizes, bias_strides, false);
    operations[n] = make_pointwise(m, CUDNN_MUL, values[n - 1], scale, values[n]);
    n++;
    operations[n] = make_pointwise(m, CUDNN_ADD, values[n - 1], shift, values[n]);
    n++;
  }
  if (form->residual) {
    void *residual = make_image(m, ID_RESIDUAL, type, c->y, c->pitch_r, false);
    operations[n] = make_pointwise(m, CUDNN_ADD, values[n - 1], residual, values[n]);
    n++;
  }
  if (form->activation != LIBRARY_NONE) {
    operations[n] = make_pointwise(m, modes[form->activation], values[n - 1], NULL, values[n]);
    n++;
  }
  void *whole = make(m, CUDNN_GRAPH);
  set(m, whole, CUDNN_GRAPH_HANDLE, CUDNN_IS_HANDLE, 1, &m->handle);
  set(m, whole, CUDNN_GRAPH_OPERATIONS, CUDNN_IS_DESCRIPTOR, n, operations);
  finalize(m, whole);
  return whole;
}

/* ---- plans ------------------------------------------------------------------------------------------------------- */

/* Finishes a plan that has all it is made from; false: cuDNN cannot make it, or it wants too much memory. */
static bool finish_plan(const maker *m, void *plan, int code, void **out, int64_t *workspace) {
  int64_t count = 0;
  if (!code) code = m->v->Finalize(plan);
  if (!code) code = m->v->Get(plan, CUDNN_PLAN_WORKSPACE, CUDNN_IS_INT64, 1, &count, workspace);
  if (code || *workspace < 0 || *workspace > workspace_most) {
    (void)m->v->Free(plan);
    return false;
  }
  *out = plan;
  return true;
}

/* The plan of one engine configuration. */
static bool try_config(const maker *m, void *config, void **out, int64_t *workspace) {
  void *plan = NULL;
  if (m->v->New(CUDNN_PLAN, &plan)) return false;
  int code = m->v->Set(plan, CUDNN_PLAN_HANDLE, CUDNN_IS_HANDLE, 1, &m->handle);
  if (!code) code = m->v->Set(plan, CUDNN_PLAN_CONFIG, CUDNN_IS_DESCRIPTOR, 1, &config);
  return finish_plan(m, plan, code, out, workspace);
}

/* The plan that was serialized as `bytes`. Those of another version of the library are refused by it. */
static bool try_bytes(const maker *m, const void *bytes, size_t size, void **out, int64_t *workspace) {
  void *plan = NULL;
  if (size < 2 || size > INT32_MAX || m->v->New(CUDNN_PLAN, &plan)) return false;
  int code = m->v->Set(plan, CUDNN_PLAN_HANDLE, CUDNN_IS_HANDLE, 1, &m->handle);
  if (!code) code = m->v->Set(plan, CUDNN_PLAN_JSON, CUDNN_IS_CHAR, (int64_t)size, bytes);
  return finish_plan(m, plan, code, out, workspace);
}

/* Release with mem_free; NULL: it cannot be had. */
static void *plan_bytes(const cuda_cudnn *v, void *plan, size_t *out_size) {
  int64_t size = 0, got = 0;
  if (v->Get(plan, CUDNN_PLAN_JSON, CUDNN_IS_CHAR, 0, &size, NULL) || size < 2 || size > INT32_MAX) return NULL;
  char *bytes = mem_calloc((size_t)size + 1, 1);
  if (bytes && (v->Get(plan, CUDNN_PLAN_JSON, CUDNN_IS_CHAR, size, &got, bytes) || got != size)) {
    mem_free(bytes);
    return NULL;
  }
  *out_size = (size_t)size;
  return bytes;
}

/* Makes plans, of the heuristic's configurations in their order, until there is one of this rank. */
static void choose_plan(maker *m, void *whole, int rank, struct cudnn_entry *out) {
  const int mode = CUDNN_MODE_A;
  void *heuristic = make(m, CUDNN_HEURISTIC), *configs[MOST_CONFIGS] = {NULL};
  int64_t count = 0;
  set(m, heuristic, CUDNN_HEURISTIC_GRAPH, CUDNN_IS_DESCRIPTOR, 1, &whole);
  set(m, heuristic, CUDNN_HEURISTIC_MODE, CUDNN_IS_HEURISTIC_MODE, 1, &mode);
  finalize(m, heuristic);
  int made = 0;
  while (!m->code && made < MOST_CONFIGS && !m->v->New(CUDNN_ENGINE_CONFIG, &configs[made])) made++;
  if (!m->code) m->code = m->v->Get(heuristic, CUDNN_HEURISTIC_RESULTS, CUDNN_IS_DESCRIPTOR, made, &count, configs);
  for (; !m->code && out->tried < count && out->tried < made && out->found <= rank; out->tried++) {
    void *plan = NULL;
    int64_t workspace = 0;
    if (!try_config(m, configs[out->tried], &plan, &workspace)) continue;
    const int at = out->found++;
    if (out->plans[at]) { /* from a file already, and in use */
      (void)m->v->Free(plan);
      continue;
    }
    out->plans[at] = plan;
    out->workspaces[at] = workspace;
  }
  for (int i = 0; i < made; i++) (void)m->v->Free(configs[i]);
}

static bool print_key(const cudnn_conv *c, const library_epilogue *form, char *out, size_t room) {
  const long long numbers[] = {c->dtype,
                               c->x[0],
                               c->x[1],
                               c->x[2],
                               c->x[3],
                               c->w[0],
                               c->w[1],
                               c->w[2],
                               c->w[3],
                               c->y[2],
                               c->y[3],
                               c->pitch_x,
                               c->pitch_y,
                               c->pitch_r,
                               c->pad[0],
                               c->pad[1],
                               c->pad_end[0],
                               c->pad_end[1],
                               c->stride[0],
                               c->stride[1],
                               c->dilation[0],
                               c->dilation[1],
                               c->has_bias,
                               form->scale > 0,
                               form->residual > 0,
                               (long long)form->activation};
  size_t at = 0;
  for (size_t i = 0; i < KILN_COUNT(numbers) && at < room; i++)
    at += (size_t)snprintf(out + at, room - at, "%lld ", numbers[i]);
  return at < room;
}

static kiln_status find_entry(device *d, const cudnn_conv *c, const library_epilogue *form, struct cudnn_entry **out) {
  struct cudnn_entry *e = mem_calloc(1, sizeof *e);
  if (!e) return KILN_NO_MEMORY("cuDNN plan");
  if (!print_key(c, form, e->key, sizeof e->key)) {
    mem_free(e);
    return KILN_FAIL(KILN_UNSUPPORTED, "the convolution is too large for cuDNN");
  }
  for (*out = d->cudnn_plans; *out; *out = (*out)->next) {
    if (strcmp((*out)->key, e->key) != 0) continue;
    mem_free(e);
    return KILN_OK;
  }
  e->next = d->cudnn_plans;
  d->cudnn_plans = *out = e;
  return KILN_OK;
}

/* What a serialized plan is found by: it fits one version of the library and one kind of GPU. */
static void file_key(const device *d, const cuda_cudnn *v, const struct cudnn_entry *e, int rank, char out[40]) {
  char line[512];
  snprintf(line, sizeof line, "cudnn %d %d %s %d %d/%s", GRAPH_FORM, v->Version(), d->facts.name, d->facts.sm_count,
           rank, e->key);
  const uint64_t first = hash_bytes(line, strlen(line), 11);
  snprintf(out, 40, "%016llx%016llx", (unsigned long long)first,
           (unsigned long long)hash_bytes(line, strlen(line), ~first));
}

/* From what an engine brings, else from the cache folder. */
static bool restore_plan(const maker *m, device *d, const char *key, void **plan, int64_t *workspace) {
  char path[1200];
  file_map file;
  size_t size = 0;
  pthread_mutex_lock(&d->lock);
  const void *offered = cuda_images_find(d, key, &size); /* stays while the program is made */
  pthread_mutex_unlock(&d->lock);
  if (offered && try_bytes(m, offered, size, plan, workspace)) return true;
  if (!cuda_cache_path(key, "cudnn", path, sizeof path)) return false;
  if (file_map_open(path, &file) != KILN_OK) {
    error_clear();
    return false;
  }
  const bool ok = try_bytes(m, file.data, file.size, plan, workspace);
  file_map_close(&file);
  return ok;
}

static void keep_plan(const cuda_cudnn *v, void *plan, const char *key) {
  char path[1200];
  file_span span = {NULL, 0};
  if (!cuda_cache_path(key, "cudnn", path, sizeof path)) return;
  void *bytes = plan_bytes(v, plan, &span.size);
  span.data = bytes;
  if (bytes && file_write_atomic(path, &span, 1) != KILN_OK) error_clear(); /* a full disk only costs time */
  mem_free(bytes);
}

/* With cudnn_lock held and `d` current. out->plan stays NULL where cuDNN has none of this rank. */
static kiln_status find_plan(device *d, int rank, const cudnn_conv *c, const library_epilogue *form, cudnn_plan *out,
                             char key[40]) {
  struct cudnn_entry *e = NULL;
  maker m = {.v = out->library, .handle = out->handle};
  KILN_TRY(find_entry(d, c, form, &e));
  file_key(d, out->library, e, rank, key);
  if (!e->plans[rank] && e->found <= rank && !restore_plan(&m, d, key, &e->plans[rank], &e->workspaces[rank]) &&
      (e->tried == 0 || e->tried < MOST_CONFIGS)) {
    void *whole = make_graph(&m, c, form);
    choose_plan(&m, whole, rank, e);
    finish(&m);
    if (e->plans[rank]) keep_plan(out->library, e->plans[rank], key);
  }
  out->plan = e->plans[rank];
  out->workspace_bytes = (size_t)e->workspaces[rank];
  return KILN_OK;
}

/* On a device that only compiles: its twin makes the plan, which goes to the images; the kernels are the row's own. */
static kiln_status note_plan(device *d, const cudnn_plan *made, const char *key) {
  size_t size = 0;
  if (!made->plan) return KILN_OK;
  void *bytes = plan_bytes(made->library, made->plan, &size);
  if (!bytes) return KILN_OK;
  const kiln_status status = cuda_images_add(d, key, bytes, size);
  mem_free(bytes);
  return status;
}

kiln_status cudnn_plan_make(kernel_prep *p, const cudnn_conv *given, cudnn_plan *out) {
  library_epilogue form;
  cudnn_conv c = *given;
  const cuda_cudnn *library = NULL;
  char key[40];
  int mode = 0;
  *out = (cudnn_plan){.bias = c.has_bias};
  if (tensor_numel(&p->args.out[0]) == 0 || c.x[1] == 0 || !library_epilogue_of(p->args.node, &form)) return KILN_OK;
  if (!cuda_matrix(&p->args.out[0], &c.pitch_y) || c.pitch_y < c.y[1] || c.pitch_x < c.x[1]) return KILN_OK;
  out->scale = form.scale;
  out->shift = form.shift;
  if (form.scale && (cuda_in_alignment(p, form.scale) < 16 || cuda_in_alignment(p, form.shift) < 16)) return KILN_OK;
  if (form.residual) {
    out->residual = form.residual;
    if (!cuda_matrix(&p->args.in[out->residual], &c.pitch_r) || c.pitch_r < c.y[1] ||
        cuda_in_alignment(p, out->residual) < 16)
      return KILN_OK;
  }
  for (int i = 0; i < (c.has_bias ? 3 : 2); i++) {
    if (cuda_in_alignment(p, i) < 16) return KILN_OK;
  }
  if (cuda_out_alignment(p, 0) < 16) return KILN_OK;
  const int rank = p->kernel->variant - CUDNN_VARIANT;
  device *d = p->device && p->device->twin ? p->device->twin : p->device;
  if (rank >= MOST_PLANS) return KILN_FAIL(KILN_INTERNAL, "%s: there are %d plans", p->kernel->name, MOST_PLANS);
  if (handle_of(d, &library, &out->handle) != KILN_OK) {
    error_clear(); /* the row's `instead` was not asked */
    return KILN_OK;
  }
  out->library = library;
  KILN_TRY(cuda_enter_relaxed(d, &mode));
  pthread_mutex_lock(&cudnn_lock);
  kiln_status status = find_plan(d, rank, &c, &form, out, key);
  if (status == KILN_OK && d != p->device) status = note_plan(p->device, out, key);
  pthread_mutex_unlock(&cudnn_lock);
  cuda_leave_relaxed(d, mode);
  KILN_TRY(status);
  if (!out->plan || d != p->device) {
    out->library = NULL;
    out->plan = NULL;
    return KILN_OK;
  }
  return workspace_reserve(p, out->workspace_bytes, &out->workspace_at);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static int execute(const cudnn_plan *plan, int64_t count, const int64_t *ids, void *const *pointers, void *workspace,
                   void *stream) {
  maker m = {.v = plan->library, .handle = plan->handle};
  void *pack = make(&m, CUDNN_VARIANT_PACK);
  set(&m, pack, CUDNN_PACK_IDS, CUDNN_IS_INT64, count, ids);
  set(&m, pack, CUDNN_PACK_POINTERS, CUDNN_IS_POINTER, count, pointers);
  set(&m, pack, CUDNN_PACK_WORKSPACE, CUDNN_IS_POINTER, 1, &workspace);
  finalize(&m, pack);
  if (!m.code) m.code = m.v->SetStream(m.handle, stream);
  if (!m.code) m.code = m.v->Execute(m.handle, plan->plan, pack);
  finish(&m);
  return m.code;
}

kiln_status cudnn_plan_run(const kernel_args *args, const cudnn_plan *plan, const void *x, const void *w,
                           const void *bias) {
  const int operands[] = {plan->scale, plan->shift, plan->residual};
  int64_t ids[3 + 1 + KILN_COUNT(operands)] = {ID_X, ID_W, ID_Y}, count = 3;
  void *pointers[3 + 1 + KILN_COUNT(operands)] = {(void *)(uintptr_t)x, (void *)(uintptr_t)w, args->out[0].data};
  void *workspace = plan->workspace_bytes ? (char *)args->workspace + plan->workspace_at : NULL;
  int mode = CU_CAPTURE_RELAXED;
  if (plan->bias) {
    ids[count] = ID_BIAS;
    pointers[count++] = (void *)(uintptr_t)bias;
  }
  for (int i = 0; i < (int)KILN_COUNT(operands); i++) {
    if (!operands[i]) continue;
    ids[count] = ID_SCALE + i;
    pointers[count++] = args->in[operands[i]].data;
  }
  /* The library loads a kernel when it is first used, which a capture of its caller would not allow. */
  (void)args->device->driver->ThreadExchangeStreamCaptureMode(&mode);
  pthread_mutex_lock(&cudnn_lock);
  const int code = execute(plan, count, ids, pointers, workspace, args->stream);
  pthread_mutex_unlock(&cudnn_lock);
  (void)args->device->driver->ThreadExchangeStreamCaptureMode(&mode);
  if (code) return KILN_FAIL(KILN_DEVICE_ERROR, "cuDNN fails with code %d (cudnnStatus_t)", code);
  return KILN_OK;
}
