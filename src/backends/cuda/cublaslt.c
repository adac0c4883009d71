/* Matrix products by cuBLASLt. Its matrices are column-major, so a row-major C = A B^T is asked for as C^T = B A^T: the
 * weight is the library's first operand. The residual of an epilogue is its matrix C, with beta 1; the bias and a relu or
 * gelu (of tanh) are its epilogue. Descriptors lie in the program's arena, for the library lets callers keep them; so does
 * the workspace that the algorithm wants, and launches can be captured. */
#include "backends/cuda/cublaslt.h"

#include <string.h>

#include "backends/cuda/cudnn.h"
#include "backends/cuda/internal.h"

enum { WORKSPACE_MOST = 32 << 20 }; /* what NVIDIA recommends on Hopper */

/* ---- the library ------------------------------------------------------------------------------------------------- */

/* The device's handle, made on first use; the device destroys it. */
static kiln_status handle_of(device *d, const cuda_cublaslt **library, void **out) {
  if (!d || !d->driver) return KILN_FAIL(KILN_INCOMPATIBLE, "cuBLASLt needs a GPU that is present");
  KILN_TRY(cuda_cublaslt_get(library));
  int mode = 0, code = 0;
  KILN_TRY(cuda_enter_relaxed(d, &mode));
  pthread_mutex_lock(&d->lock);
  if (!d->cublaslt) code = (*library)->Create(&d->cublaslt);
  *out = d->cublaslt;
  pthread_mutex_unlock(&d->lock);
  cuda_leave_relaxed(d, mode);
  if (code) return KILN_FAIL(KILN_DEVICE_ERROR, "cuBLASLt does not start (code %d)", code);
  return KILN_OK;
}

void cublaslt_close(device *d) {
  const cuda_cublaslt *library = NULL;
  if (!d->cublaslt) return;
  if (cuda_cublaslt_get(&library) == KILN_OK) (void)library->Destroy(d->cublaslt);
  error_clear();
  d->cublaslt = NULL;
}

void cuda_libraries_close(device *d) {
  cudnn_close(d);
  cublaslt_close(d);
}

kiln_status cublaslt_needs(device *d) {
  const cuda_cublaslt *library = NULL;
  void *handle = NULL;
  return handle_of(d, &library, &handle);
}

/* ---- epilogues --------------------------------------------------------------------------------------------------- */

static bool same_dtype(const node *n, const value *v) { return v->type.dtype == n->outputs[0]->type.dtype; }

static library_activation activation_of(const node *n) {
  static const char *const names[] = {[LIBRARY_RELU] = "relu",
                                      [LIBRARY_GELU_TANH] = "gelu_tanh",
                                      [LIBRARY_GELU] = "gelu",
                                      [LIBRARY_SILU] = "silu",
                                      [LIBRARY_SIGMOID] = "sigmoid"};
  for (int i = LIBRARY_RELU; i < (int)KILN_COUNT(names); i++) {
    if (str_eq(n->op->name, names[i])) return (library_activation)i;
  }
  return LIBRARY_NONE;
}

/* Which operand of `n` the parameter `v` of its epilogue is; 0: none. */
static int operand_of(const node *n, const value *v) {
  for (int i = 1; i < n->epilogue->n_params; i++) {
    if (n->epilogue->params[i] == v) return n->own_inputs + i - 1;
  }
  return 0;
}

static bool per_channel(const node *n, const value *v) {
  const tensor_type *t = &v->type, *y = &n->outputs[0]->type;
  if (t->dtype != KILN_F32 || t->rank < 1 || t->dims[t->rank - 1] != y->dims[y->rank - 1]) return false;
  for (int i = 0; i < t->rank - 1; i++) {
    if (t->dims[i] != 1) return false;
  }
  return true;
}

/* One step of an epilogue, `m` applied to the result so far and `other`. */
static bool library_step(const node *n, const node *m, const value *other, library_epilogue *out) {
  const bool wide = m->outputs[0]->type.dtype == KILN_F32 && n->outputs[0]->type.dtype != KILN_F32;
  const int operand = other ? operand_of(n, other) : 0;
  if (str_eq(m->op->name, "cast")) return !out->residual && (!wide || !out->activation);
  if (str_eq(m->op->name, "mul") && wide && operand && !out->scale && !out->activation && per_channel(n, other)) {
    out->scale = operand;
  } else if (str_eq(m->op->name, "add") && wide && operand && out->scale && !out->shift && !out->activation &&
             per_channel(n, other)) {
    out->shift = operand;
  } else if (str_eq(m->op->name, "add") && !wide && operand && !out->residual && !out->activation &&
             type_equal(&other->type, &n->outputs[0]->type)) {
    out->residual = operand;
  } else if (m->n_inputs == 1 && !out->activation && activation_of(m)) {
    out->activation = activation_of(m);
  } else {
    return false;
  }
  return true;
}

/* [cast mul(scale) add(shift) [activation] cast] [add(residual)] [activation] */
bool library_epilogue_of(const node *n, library_epilogue *out) {
  *out = (library_epilogue){0};
  const block *e = n->epilogue;
  if (!e) return true;
  const value *now = e->params[0];
  if (e->n_results != 1 || !same_dtype(n, now)) return false;
  for (const node *m = e->first; m; m = m->next) {
    const value *x = node_in(m, 0), *y = node_in(m, 1);
    if (m->n_outputs != 1 || m->n_inputs > 2 || (x != now && y != now) || x == y) return false;
    if (!library_step(n, m, x == now ? y : x, out)) return false;
    now = m->outputs[0];
  }
  return e->results[0].v == now && same_dtype(n, now) && !out->scale == !out->shift &&
         (out->scale > 0) + (out->shift > 0) + (out->residual > 0) == n->n_inputs - n->own_inputs;
}

bool cublaslt_fits(const node *n, const char **why) {
  library_epilogue form;
  if (!cuda_fits_float(n, why)) return false;
  if (n->outputs[0]->type.dtype != node_in(n, 0)->type.dtype) return *why = "the result is of another type", false;
  if (!library_epilogue_of(n, &form) || form.scale || form.activation > LIBRARY_GELU_TANH)
    return *why = "the epilogue is not a residual, and a relu or gelu of tanh", false;
  return true;
}

/* ---- planning ---------------------------------------------------------------------------------------------------- */

static int library_type(kiln_dtype d) {
  return d == KILN_F16 ? CUBLAS_TYPE_F16 : d == KILN_BF16 ? CUBLAS_TYPE_BF16 : CUBLAS_TYPE_F32;
}

/* Rows of `t` that follow each other with one pitch; of a batch, the rows of one matrix. */
static bool pitch_of(const tensor *t, const cublaslt_batch *batch, int64_t columns, int64_t *out) {
  if (!batch) return cuda_matrix(t, out);
  if (t->rank < 2 || (t->strides[t->rank - 1] != 1 && columns != 1)) return false;
  *out = t->shape[t->rank - 2] == 1 ? columns : t->strides[t->rank - 2];
  return true;
}

typedef struct layouts {
  const cuda_cublaslt *library;
  int64_t batches;
  int type;
} layouts;

static int layout_init(const layouts *s, cublaslt_layout *l, int64_t rows, int64_t columns, int64_t pitch,
                       int64_t stride) {
  const int count = (int)s->batches;
  int code = s->library->LayoutInit(l, sizeof *l, s->type, (uint64_t)rows, (uint64_t)columns, pitch);
  if (!code && count > 1) code = s->library->LayoutSet(l, CUBLASLT_BATCH_COUNT, &count, sizeof count);
  if (!code && count > 1) code = s->library->LayoutSet(l, CUBLASLT_BATCH_STRIDE, &stride, sizeof stride);
  return code;
}

static int describe(kernel_prep *p, const gemm_problem *q, const library_epilogue *form, cublaslt_plan *out) {
  const cuda_cublaslt *v = out->library;
  const bool tf32 = q->dtype == KILN_F32 && cuda_math_of(p->args.node) == CUDA_MATH_TF32;
  const int transposed = 1, plain = 0;
  const int activations[] = {0, CUBLASLT_EPILOGUE_RELU, CUBLASLT_EPILOGUE_GELU};
  const int epilogue = activations[form->activation] | (q->has_bias ? CUBLASLT_EPILOGUE_BIAS : 0);
  const int chosen = epilogue ? epilogue : CUBLASLT_EPILOGUE_NONE;
  int code =
      v->MatmulInit(&out->matmul, sizeof out->matmul, tf32 ? CUBLAS_COMPUTE_TF32 : CUBLAS_COMPUTE_F32, CUBLAS_TYPE_F32);
  if (!code) code = v->MatmulSet(&out->matmul, CUBLASLT_TRANSPOSE_A, q->b_kn ? &plain : &transposed, sizeof(int));
  if (!code) code = v->MatmulSet(&out->matmul, CUBLASLT_TRANSPOSE_B, &plain, sizeof plain);
  if (!code) code = v->MatmulSet(&out->matmul, CUBLASLT_EPILOGUE, &chosen, sizeof chosen);
  return code;
}

static int choose(const cublaslt_plan *out, int rank, const uint32_t alignments[4], cublaslt_found *found) {
  const cuda_cublaslt *v = out->library;
  cublaslt_preference preference;
  cublaslt_found all[CUBLASLT_ALGORITHMS];
  const size_t most = WORKSPACE_MOST;
  int count = 0;
  memset(all, 0, sizeof all);
  int code = v->PreferenceInit(&preference, sizeof preference);
  if (!code) code = v->PreferenceSet(&preference, CUBLASLT_WORKSPACE_BYTES, &most, sizeof most);
  for (int i = 0; i < 4 && !code; i++)
    code = v->PreferenceSet(&preference, CUBLASLT_ALIGNMENT_A + i, &alignments[i], sizeof alignments[i]);
  if (!code)
    code = v->Heuristic(out->handle, &out->matmul, &out->a, &out->b, &out->c, &out->d, &preference, CUBLASLT_ALGORITHMS,
                        all, &count);
  if (code) return code;
  if (rank >= count || all[rank].state) return -1;
  *found = all[rank];
  return 0;
}

/* 0, or why the library cannot do it. */
static int plan_with_library(kernel_prep *p, const gemm_problem *q, const cublaslt_batch *batch,
                             const library_epilogue *form, int64_t pitch_c, int64_t pitch_d, int64_t stride_c,
                             cublaslt_plan *out, cublaslt_found *found) {
  const layouts s = {out->library, q->batches, library_type(q->dtype)};
  const uint32_t alignments[4] = {(uint32_t)cuda_in_alignment(p, 1), (uint32_t)cuda_in_alignment(p, 0),
                                  form->residual ? (uint32_t)cuda_in_alignment(p, out->residual) : 16u,
                                  (uint32_t)cuda_out_alignment(p, 0)};
  const int64_t rows_b = q->b_kn ? q->n : q->k, columns_b = q->b_kn ? q->k : q->n;
  int code = describe(p, q, form, out);
  if (!code) code = layout_init(&s, &out->a, rows_b, columns_b, q->ldb, batch ? batch->b : 0);
  if (!code) code = layout_init(&s, &out->b, q->k, q->m, q->lda, batch ? batch->a : 0);
  if (!code) code = layout_init(&s, &out->c, q->n, q->m, pitch_c, stride_c);
  if (!code) code = layout_init(&s, &out->d, q->n, q->m, pitch_d, batch ? batch->d : 0);
  return code ? code : choose(out, p->kernel->variant - CUBLASLT_VARIANT, alignments, found);
}

kiln_status cublaslt_plan_make(kernel_prep *p, const gemm_problem *q, const cublaslt_batch *batch, cublaslt_plan *out) {
  library_epilogue form;
  cublaslt_found found = {0};
  int64_t pitch_c = 0, pitch_d = 0;
  const cuda_cublaslt *library = NULL;
  const tensor *y = &p->args.out[0];
  *out = (cublaslt_plan){.residual = -1, .bias = q->has_bias};
  if (q->m == 0 || q->n == 0 || q->k == 0 || q->batches == 0 || q->batches > INT32_MAX) return KILN_OK;
  if (!library_epilogue_of(p->args.node, &form) || form.activation > LIBRARY_GELU_TANH || y->dtype != q->dtype ||
      (q->batches > 1 && !batch))
    return KILN_OK;
  if (q->batches > 1 && (form.residual || q->has_bias)) return KILN_OK;
  if (!pitch_of(y, q->batches > 1 ? batch : NULL, q->n, &pitch_d) || pitch_d < q->n) return KILN_OK;
  pitch_c = pitch_d;
  if (form.residual) out->residual = form.residual;
  if (form.residual && (!cuda_matrix(&p->args.in[out->residual], &pitch_c) || pitch_c < q->n)) return KILN_OK;
  if (q->m > 1 && q->lda < q->k) return KILN_OK; /* rows that overlap */
  if (handle_of(p->device, &library, &out->handle) != KILN_OK) {
    error_clear(); /* the row's `instead` was not asked */
    return KILN_OK;
  }
  int mode = 0;
  KILN_TRY(cuda_enter_relaxed(p->device, &mode));
  out->library = library;
  const int code = plan_with_library(p, q, q->batches > 1 ? batch : NULL, &form, pitch_c, pitch_d,
                                     q->batches > 1 ? batch->d : 0, out, &found);
  cuda_leave_relaxed(p->device, mode);
  if (code) {
    out->library = NULL;
    return KILN_OK;
  }
  out->algorithm = found.algorithm;
  out->workspace_bytes = found.workspace;
  return workspace_reserve(p, found.workspace, &out->workspace_at);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

kiln_status cublaslt_plan_run(const kernel_args *args, cublaslt_plan *plan, const void *a, const void *b,
                              const void *bias) {
  const float one = 1.0f, zero = 0.0f;
  void *y = args->out[0].data, *workspace = plan->workspace_bytes ? (char *)args->workspace + plan->workspace_at : NULL;
  const void *c = plan->residual >= 0 ? args->in[plan->residual].data : y;
  device *d = args->device;
  int mode = CU_CAPTURE_RELAXED, code = 0;
  if (plan->bias) code = plan->library->MatmulSet(&plan->matmul, CUBLASLT_BIAS_POINTER, &bias, sizeof bias);
  /* The library loads a kernel when it is first used, which a capture of its caller would not allow. */
  (void)d->driver->ThreadExchangeStreamCaptureMode(&mode);
  if (!code)
    code = plan->library->Matmul(plan->handle, &plan->matmul, &one, b, &plan->a, a, &plan->b,
                                 plan->residual >= 0 ? &one : &zero, c, &plan->c, y, &plan->d, &plan->algorithm,
                                 workspace, plan->workspace_bytes, args->stream);
  (void)d->driver->ThreadExchangeStreamCaptureMode(&mode);
  if (code) return KILN_FAIL(KILN_DEVICE_ERROR, "cuBLASLt fails with code %d (cublasStatus_t)", code);
  return KILN_OK;
}
