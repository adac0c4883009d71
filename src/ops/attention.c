/* Scaled dot-product attention, and dropout, which is nothing at inference. */
#include <math.h>

#include "base/memory.h"
#include "ops/attention_lower.h"
#include "ops/lowering.h"
#include "ops/spatial.h"

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* Heads of k and v divide those of q; sizes before the heads broadcast. */
static kiln_status attention_heads(graph *g, node *n, tensor_type *batch) {
  const tensor_type *q = in_type(n, 0), *k = in_type(n, 1), *v = in_type(n, 2);
  tensor_type qb = *q, kb = *k, vb = *v;
  qb.rank -= 3;
  kb.rank -= 3;
  vb.rank -= 3;
  KILN_TRY(infer_broadcast(g, n, &qb, &kb, batch));
  kb = *batch;
  KILN_TRY(infer_broadcast(g, n, &kb, &vb, batch));
  const dim heads = q->dims[q->rank - 3], shared = k->dims[k->rank - 3];
  KILN_TRY(infer_same_dim(g, n, "heads of k and v", shared, v->dims[v->rank - 3]));
  if (dim_is_const(heads) && dim_is_const(shared)) {
    if (shared < 1 || heads % shared)
      return INFER_FAIL(n, "operand q has %lld heads, not a multiple of the %lld of k", (long long)heads,
                        (long long)shared);
  } else {
    KILN_TRY(infer_same_dim(g, n, "heads of q and k", heads, shared));
  }
  return KILN_OK;
}

static kiln_status attention_infer(graph *g, node *n) {
  KILN_TRY(infer_float(n, 0));
  for (int i = 0; i < 3; i++) KILN_TRY(infer_rank_between(n, i, 3, KILN_MAX_RANK));
  const tensor_type *q = in_type(n, 0), *k = in_type(n, 1), *v = in_type(n, 2);
  if (k->dtype != q->dtype || v->dtype != q->dtype) return INFER_FAIL(n, "operands q, k and v have different dtypes");
  KILN_TRY(infer_same_dim(g, n, "last sizes of q and k", q->dims[q->rank - 1], k->dims[k->rank - 1]));
  KILN_TRY(infer_same_dim(g, n, "lengths of k and v", k->dims[k->rank - 2], v->dims[v->rank - 2]));
  tensor_type out = *q;
  KILN_TRY(attention_heads(g, n, &out));
  const int rank = out.rank + 3;
  out.dims[rank - 3] = q->dims[q->rank - 3];
  out.dims[rank - 2] = q->dims[q->rank - 2];
  out.dims[rank - 1] = k->dims[k->rank - 2];
  if (n->inputs[3].v) {
    const tensor_type *m = in_type(n, 3);
    if (m->dtype != KILN_BOOL && m->dtype != q->dtype)
      return INFER_FAIL(n, "operand mask must be bool or of q's dtype");
    if (m->rank > rank) return INFER_FAIL(n, "operand mask has more dimensions than the scores");
    for (int i = 0; i < m->rank; i++)
      if (m->dims[i] != 1)
        KILN_TRY(infer_same_dim(g, n, "sizes of mask and scores", m->dims[i], out.dims[rank - m->rank + i]));
  }
  out.dims[rank - 1] = v->dims[v->rank - 1];
  set_out(n, 0, q->dtype, rank, out.dims);
  return KILN_OK;
}

/* Offset of the matrix of head `index[rank - 3]` of an operand with that or fewer heads. */
static int64_t head_offset(const tensor *t, const int64_t *index, int rank, int64_t heads) {
  int64_t at = 0;
  const int skip = rank - t->rank;
  for (int i = 0; i < t->rank - 3; i++)
    if (t->shape[i] != 1) at += index[i + skip] * t->strides[i];
  const int h = t->rank - 3;
  return at + index[rank - 3] / (heads / t->shape[h]) * t->strides[h];
}

static void matrix_load(const tensor *t, int64_t at, double *out) {
  const int64_t n = t->shape[t->rank - 2], e = t->shape[t->rank - 1];
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < e; j++)
      out[i * e + j] = ref_load(t, at + i * t->strides[t->rank - 2] + j * t->strides[t->rank - 1]);
}

typedef struct attention_row {
  const double *q, *k, *v; /* one query; all keys and values of the head */
  double *scores;
  int64_t length, e, ev;
  double scale;
} attention_row;

/* softmax(scores) @ v for one query. Masked scores are -inf; if all are, the result is 0. */
static void attention_row_run(const attention_row *r, const tensor *y, int64_t at, int64_t step) {
  double top = -INFINITY, sum = 0;
  bool nan = false;
  for (int64_t j = 0; j < r->length; j++) {
    nan = nan || isnan(r->scores[j]);
    if (r->scores[j] > top) top = r->scores[j];
  }
  const bool nothing = !nan && top == -INFINITY;
  for (int64_t j = 0; j < r->length; j++) {
    r->scores[j] = nan ? NAN : nothing ? 0 : exp(r->scores[j] - top);
    sum += r->scores[j];
  }
  for (int64_t c = 0; c < r->ev; c++) {
    double out = 0;
    for (int64_t j = 0; j < r->length && !nothing; j++) out += r->scores[j] * r->v[j * r->ev + c];
    ref_store(y, at + c * step, nothing ? 0 : out / sum);
  }
}

static void attention_scores(const kernel_args *a, const attention_row *r, int64_t *index, int rank, bool causal) {
  const tensor *mask = a->in[3].data ? &a->in[3] : NULL;
  for (int64_t j = 0; j < r->length; j++) {
    double s = 0;
    for (int64_t e = 0; e < r->e; e++) s += r->q[e] * r->k[j * r->e + e];
    s *= r->scale;
    if (mask) {
      int64_t at = 0;
      const int skip = rank - mask->rank;
      for (int i = 0; i < mask->rank; i++)
        if (mask->shape[i] != 1) at += (i + skip == rank - 1 ? j : index[i + skip]) * mask->strides[i];
      if (mask->dtype == KILN_BOOL) {
        if (!ref_load_int(mask, at)) s = -INFINITY;
      } else {
        s += ref_load(mask, at);
      }
    }
    r->scores[j] = causal && j > index[rank - 2] ? -INFINITY : s;
  }
}

static kiln_status attention_ref(const kernel_args *a) {
  const tensor *q = &a->in[0], *k = &a->in[1], *v = &a->in[2], *y = &a->out[0];
  const int rank = y->rank;
  const int64_t heads = y->shape[rank - 3], l = q->shape[q->rank - 2];
  attention_row r = {.length = k->shape[k->rank - 2], .e = q->shape[q->rank - 1], .ev = v->shape[v->rank - 1]};
  r.scale = arg_float(a, "scale");
  const bool causal = arg_bool(a, "causal");
  if (tensor_numel(y) == 0) return KILN_OK;
  const size_t nq = (size_t)(l * r.e), nk = (size_t)(r.length * r.e), nv = (size_t)(r.length * r.ev);
  double *buffer = mem_calloc(nq + nk + nv + (size_t)r.length + 1, sizeof(double));
  if (!buffer) return KILN_NO_MEMORY("reference kernel");
  double *queries = buffer, *keys = buffer + nq, *values = keys + nk;
  r.k = keys;
  r.v = values;
  r.scores = values + nv;
  for (ref_iter it = ref_begin(rank - 2, y->shape); ref_valid(&it); ref_next(&it)) {
    matrix_load(q, head_offset(q, it.index, rank, heads), queries);
    matrix_load(k, head_offset(k, it.index, rank, heads), keys);
    matrix_load(v, head_offset(v, it.index, rank, heads), values);
    int64_t index[KILN_MAX_RANK] = {0};
    for (int i = 0; i < rank - 2; i++) index[i] = it.index[i];
    for (int64_t i = 0; i < l; i++) {
      index[rank - 2] = i;
      index[rank - 1] = 0;
      r.q = queries + i * r.e;
      attention_scores(a, &r, index, rank, causal);
      attention_row_run(&r, y, tensor_offset(y, index), y->strides[rank - 1]);
    }
  }
  mem_free(buffer);
  return KILN_OK;
}

/* ---- PyTorch ----------------------------------------------------------------------------------------------------- */

static value *head_axis(builder *b, value *v) { return v && v->type.rank == 2 ? lowering_unsqueeze(b, v, 0) : v; }

/* PyTorch broadcasts any size-1 dimension of q, k and v before the last two; the row does so before the heads only. */
static value *with_heads(builder *b, value *v, dim heads) {
  if (!v) return NULL;
  const int rank = v->type.rank;
  if (v->type.dims[rank - 3] != 1 || heads == 1) return v;
  dim dims[KILN_MAX_RANK];
  for (int i = 0; i < rank; i++) dims[i] = v->type.dims[i];
  dims[rank - 3] = heads;
  return lower_expand(b, v, rank, dims);
}

static kiln_status attention_emit(lower_call *c, const char *mask_name, value **out) {
  builder *b = &c->b;
  value *q, *k, *v, *mask = mask_name ? call_tensor(c, mask_name) : NULL;
  KILN_TRY(lowering_tensor(c, "query", &q));
  KILN_TRY(lowering_tensor(c, "key", &k));
  KILN_TRY(lowering_tensor(c, "value", &v));
  if (call_float(c, "dropout_p") != 0)
    return LOWER_FAIL(c, "argument dropout_p is not 0: export the model in eval() mode");
  if (q->type.rank < 2 || k->type.rank < 2 || v->type.rank < 2) return LOWER_FAIL(c, "expected at least 2 dimensions");
  const bool flat = q->type.rank == 2 && k->type.rank == 2 && v->type.rank == 2;
  q = head_axis(b, q);
  k = head_axis(b, k);
  v = head_axis(b, v);
  LOWER_NEED(c, q);
  LOWER_NEED(c, k);
  LOWER_NEED(c, v);
  const dim e = q->type.dims[q->type.rank - 1];
  double scale = call_float(c, "scale");
  if (call_is_none(c, "scale")) {
    if (!dim_is_const(e)) return LOWER_FAIL(c, "argument query: its last size must be constant");
    scale = 1 / sqrt((double)e);
  }
  const dim heads = k->type.dims[k->type.rank - 3];
  if (q->type.dims[q->type.rank - 3] == 1) q = with_heads(b, q, heads);
  if (k->type.dims[k->type.rank - 3] != v->type.dims[v->type.rank - 3]) {
    v = with_heads(b, v, heads);
    if (v) k = with_heads(b, k, v->type.dims[v->type.rank - 3]);
  }
  if (mask && q && mask->type.dtype != KILN_BOOL) mask = lower_cast(b, mask, q->type.dtype);
  value *y = build(b, "attention", IN(q, k, v, mask),
                   ATTRS(A_FLOAT("scale", scale), A_BOOL("causal", call_bool(c, "is_causal"))));
  *out = y && flat ? lowering_squeeze(b, y, 0) : y;
  return KILN_OK;
}

static kiln_status lower_attention_named(lower_call *c, const char *mask) {
  value *y = NULL;
  KILN_TRY(attention_emit(c, mask, &y));
  call_return(c, 0, y);
  return KILN_OK;
}
static kiln_status lower_attention(lower_call *c) { return lower_attention_named(c, "attn_mask"); }
static kiln_status lower_attention_bias(lower_call *c) { return lower_attention_named(c, "attn_bias"); }
static kiln_status lower_attention_plain(lower_call *c) { return lower_attention_named(c, NULL); }
static kiln_status lower_attention_math(lower_call *c) {
  if (!call_is_none(c, "dropout_mask"))
    return LOWER_FAIL(c, "argument dropout_mask is set: export the model in eval() mode");
  return lower_attention_named(c, "attn_mask");
}

static kiln_status lower_dropout(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, "input", &x));
  if (!call_is_none(c, "train") && call_bool(c, "train") && call_float(c, "p") != 0)
    return LOWER_FAIL(c, "dropout is on: export the model in eval() mode");
  call_return(c, 0, x);
  if (c->n_results > 1) call_return(c, 1, lowering_full(&c->b, KILN_BOOL, x->type.rank, x->type.dims, 1));
  return KILN_OK;
}

static const torch_row attention_torch[] = {
    {"aten::scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float "
     "dropout_p=0., bool "
     "is_causal=False, *, float? scale=None, bool enable_gqa=False) -> Tensor",
     NULL, lower_attention},
    {"aten::_scaled_dot_product_flash_attention_for_cpu(Tensor query, Tensor key, Tensor value, float dropout_p=0., "
     "bool "
     "is_causal=False, *, Tensor? attn_mask=None, float? scale=None) -> (Tensor output, Tensor logsumexp)",
     NULL, lower_attention},
    {"aten::_scaled_dot_product_efficient_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_bias, bool "
     "compute_log_sumexp, float dropout_p=0., bool is_causal=False, *, float? scale=None) -> (Tensor output, Tensor "
     "log_sumexp, Tensor "
     "philox_seed, Tensor philox_offset)",
     NULL, lower_attention_bias},
    {"aten::_scaled_dot_product_flash_attention(Tensor query, Tensor key, Tensor value, float dropout_p=0., bool "
     "is_causal=False, bool "
     "return_debug_mask=False, *, float? scale=None) -> (Tensor output, Tensor logsumexp, Tensor cum_seq_q, Tensor "
     "cum_seq_k, SymInt "
     "max_q, SymInt max_k, Tensor rng_state, Tensor unused, Tensor debug_attn_mask)",
     NULL, lower_attention_plain},
    {"aten::_scaled_dot_product_cudnn_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_bias, bool "
     "compute_log_sumexp, "
     "float dropout_p=0., bool is_causal=False, bool return_debug_mask=False, *, float? scale=None) -> (Tensor output, "
     "Tensor "
     "logsumexp, Tensor cum_seq_q, Tensor cum_seq_k, SymInt max_q, SymInt max_k, Tensor philox_seed, Tensor "
     "philox_offset, Tensor "
     "debug_attn_mask)",
     NULL, lower_attention_bias},
    {"aten::_scaled_dot_product_attention_math(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float "
     "dropout_p=0., bool "
     "is_causal=False, Tensor? dropout_mask=None, *, float? scale=None, bool enable_gqa=False) -> (Tensor, Tensor)",
     NULL, lower_attention_math},
    {"aten::_native_multi_head_attention(Tensor query, Tensor key, Tensor value, int embed_dim, int num_head, Tensor "
     "qkv_weight, Tensor qkv_bias, Tensor proj_weight, Tensor proj_bias, Tensor? mask=None, bool need_weights=True, "
     "bool "
     "average_attn_weights=True, int? mask_type=None) -> (Tensor, Tensor)",
     NULL, lower_native_multi_head_attention},
    {"aten::_transformer_encoder_layer_fwd(Tensor src, int embed_dim, int num_heads, Tensor qkv_weight, Tensor "
     "qkv_bias, "
     "Tensor proj_weight, Tensor proj_bias, bool use_gelu, bool norm_first, float eps, Tensor norm_weight_1, Tensor "
     "norm_bias_1, Tensor norm_weight_2, Tensor norm_bias_2, Tensor ffn_weight_1, Tensor ffn_bias_1, Tensor "
     "ffn_weight_2, "
     "Tensor ffn_bias_2, Tensor? mask=None, int? mask_type=None) -> Tensor",
     NULL, lower_transformer_encoder_layer},
    {"aten::_safe_softmax(Tensor self, int dim, ScalarType? dtype=None) -> Tensor", NULL, lower_safe_softmax},
    {"aten::dropout(Tensor input, float p, bool train) -> Tensor", NULL, lower_dropout},
    {"aten::feature_dropout(Tensor input, float p, bool train) -> Tensor", NULL, lower_dropout},
    {"aten::alpha_dropout(Tensor input, float p, bool train) -> Tensor", NULL, lower_dropout},
    {"aten::feature_alpha_dropout(Tensor input, float p, bool train) -> Tensor", NULL, lower_dropout},
    {"aten::native_dropout(Tensor input, float p, bool? train) -> (Tensor, Tensor)", NULL, lower_dropout},
    {NULL, NULL, NULL}};

static const char *const attention_cases[] = {
    "q:f32[2,3,L,16] k:f32[2,3,9,16] v:f32[2,3,9,16] scale=0.25 L:1,5,16,33",
    "q:f32[1,2,7,E] k:f32[1,2,11,E] v:f32[1,2,11,E] scale=0.2 E:1,8,24,32,64,65",
    "q:f32[1,2,9,8] k:f32[1,2,S,8] v:f32[1,2,S,8] scale=0.35 causal=1 S:1,5,9,64,130",
    "q:f32[2,6,5,8] k:f32[2,2,7,8] v:f32[2,2,7,8] scale=0.35",
    "q:f32[2,4,5,8] k:f32[2,1,7,8] v:f32[2,1,7,8] scale=0.35 causal=1",
    "q:f32[1,2,5,8] k:f32[1,2,7,8] v:f32[1,2,7,5] scale=0.35",
    "q:f32[2,2,5,8] k:f32[2,2,7,8] v:f32[2,2,7,8] mask:f32[5,7] scale=0.35",
    "q:f32[2,2,5,8] k:f32[2,2,7,8] v:f32[2,2,7,8] mask:bool[2,1,1,7] scale=0.35",
    "q:f32[2,2,5,8] k:f32[2,2,7,8] v:f32[2,2,7,8] mask:bool[2,2,5,7] scale=0.35",
    "q:f32[3,5,8] k:f32[3,7,8] v:f32[3,7,8] scale=0.35",
    "q:f32[2,2,3,5,8] k:f32[2,2,3,7,8] v:f32[2,2,3,7,8] scale=0.35",
    "q:f32[0,2,5,8] k:f32[0,2,7,8] v:f32[0,2,7,8] scale=0.35",
    "q:f32[1,2,5,8] k:f32[1,2,0,8] v:f32[1,2,0,8] scale=0.35",
    "q:f32[1,2,3,8]=inf k:f32[1,2,7,8] v:f32[1,2,7,8] scale=0.35",
    "q:f64[1,2,5,8] k:f64[1,2,7,8] v:f64[1,2,7,8] mask:f64[5,7] scale=0.35",
    NULL};

static const op rows[] = {{
    .name = "attention",
    .sig = "q k v mask? -> y",
    .attrs = "scale:float causal:bool=0",
    .flags = OP_ANCHOR,
    .infer = attention_infer,
    .ref = attention_ref,
    .torch = attention_torch,
    .cases = attention_cases,
    .tolerance = 1e-4f,
}};

extern const op_family ops_attention;
OP_FAMILY(ops_attention, rows);
