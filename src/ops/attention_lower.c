/* See attention_lower.h. Batch comes first: [B, L, D]. */
#include "ops/attention_lower.h"

#include <math.h>

typedef struct heads {
  value *qkv_w, *qkv_b, *proj_w, *proj_b;
  value *keep; /* bool, broadcastable to [B, H, L, S], or NULL */
  int64_t size, count;
} heads;

static kiln_status heads_args(lower_call *c, const char *count_name, heads *h) {
  KILN_TRY(lowering_tensor(c, "qkv_weight", &h->qkv_w));
  KILN_TRY(lowering_tensor(c, "qkv_bias", &h->qkv_b));
  KILN_TRY(lowering_tensor(c, "proj_weight", &h->proj_w));
  KILN_TRY(lowering_tensor(c, "proj_bias", &h->proj_b));
  const dim size = call_int(c, "embed_dim"), count = call_int(c, count_name);
  if (!dim_is_const(size) || !dim_is_const(count) || count < 1 || size < 1 || size % count)
    return LOWER_FAIL(c, "argument embed_dim must be a constant multiple of the number of heads");
  h->size = size;
  h->count = count;
  h->keep = NULL;
  if (call_is_none(c, "mask")) return KILN_OK;
  value *mask;
  KILN_TRY(lowering_tensor(c, "mask", &mask));
  if (mask->type.dtype != KILN_BOOL) return LOWER_FAIL(c, "argument mask must be bool");
  const dim kind = call_is_none(c, "mask_type") ? 2 : call_int(c, "mask_type");
  if (mask->type.rank != (kind == 2 ? 4 : 2) || kind < 0 || kind > 2)
    return LOWER_FAIL(c, "argument mask has %d dimensions, which does not fit mask_type", mask->type.rank);
  value *keep = build(&c->b, "logical_not", IN(mask), NO_ATTRS);
  if (kind == 1) keep = lowering_unsqueeze(&c->b, lowering_unsqueeze(&c->b, keep, 1), 1); /* [B, 1, 1, S] */
  h->keep = keep;
  return KILN_OK;
}

/* Rows [from * D, (from + 1) * D) of the joint projection, as [B, H, L, D / H]. */
static value *project(builder *b, const heads *h, value *x, int from) {
  const dim start = from * h->size, end = start + h->size;
  value *w = lowering_slice(b, h->qkv_w, 0, start, end, 1), *bias = lowering_slice(b, h->qkv_b, 0, start, end, 1);
  value *y = build(b, "linear", IN(x, w, bias), NO_ATTRS);
  if (!y) return NULL;
  y = lower_reshape(b, y, 4, (dim[]){x->type.dims[0], x->type.dims[1], h->count, h->size / h->count});
  return y ? lower_permute(b, y, 4, (dim[]){0, 2, 1, 3}) : NULL;
}

/* Attention and output projection; `parts` receives q, k and v. */
static value *attend(builder *b, const heads *h, value *q, value *k, value *v, value **parts) {
  const dim batch = q->type.dims[0], length = q->type.dims[1];
  parts[0] = project(b, h, q, 0);
  parts[1] = project(b, h, k, 1);
  parts[2] = project(b, h, v, 2);
  const double scale = 1 / sqrt((double)(h->size / h->count));
  value *y = build(b, "attention", IN(parts[0], parts[1], parts[2], h->keep), ATTRS(A_FLOAT("scale", scale)));
  if (y) y = lower_permute(b, y, 4, (dim[]){0, 2, 1, 3});
  if (y) y = lower_reshape(b, y, 3, (dim[]){batch, length, h->size});
  return build(b, "linear", IN(y, h->proj_w, h->proj_b), NO_ATTRS);
}

kiln_status lower_native_multi_head_attention(lower_call *c) {
  builder *b = &c->b;
  heads h;
  value *q, *k, *v, *parts[3];
  KILN_TRY(lowering_tensor(c, "query", &q));
  KILN_TRY(lowering_tensor(c, "key", &k));
  KILN_TRY(lowering_tensor(c, "value", &v));
  KILN_TRY(heads_args(c, "num_head", &h));
  if (q->type.rank != 3 || k->type.rank != 3 || v->type.rank != 3) return LOWER_FAIL(c, "expected 3 dimensions");
  call_return(c, 0, attend(b, &h, q, k, v, parts));
  if (!call_bool(c, "need_weights")) return KILN_OK;
  value *scores = build(b, "matmul", IN(parts[0], parts[1]), ATTRS(A_BOOL("transpose_b", 1)));
  LOWER_NEED(c, scores);
  scores = lower_binary(b, "mul", scores, lowering_scalar_like(b, scores, 1 / sqrt((double)(h.size / h.count))));
  if (h.keep) scores = build(b, "where", IN(h.keep, scores, lowering_scalar_like(b, scores, -INFINITY)), NO_ATTRS);
  value *weights = build(b, "softmax", IN(scores), ATTRS(A_INT("axis", 3)));
  const int64_t axis = 1;
  if (call_bool(c, "average_attn_weights")) weights = build(b, "mean", IN(weights), ATTRS(A_INTS("axes", &axis, 1)));
  call_return(c, 1, weights);
  return KILN_OK;
}

static value *normalize(lower_call *c, value *x, const char *weight, const char *bias) {
  return build(&c->b, "layer_norm", IN(x, call_tensor(c, weight), call_tensor(c, bias)),
               ATTRS(A_INT("dims", 1), A_FLOAT("eps", call_float(c, "eps"))));
}

kiln_status lower_transformer_encoder_layer(lower_call *c) {
  builder *b = &c->b;
  heads h;
  value *src, *parts[3];
  KILN_TRY(lowering_tensor(c, "src", &src));
  KILN_TRY(heads_args(c, "num_heads", &h));
  if (src->type.rank != 3) return LOWER_FAIL(c, "argument src has %d dimensions, expected 3", src->type.rank);
  const bool first = call_bool(c, "norm_first");
  value *x = first ? normalize(c, src, "norm_weight_1", "norm_bias_1") : src;
  LOWER_NEED(c, x);
  x = lower_binary(b, "add", attend(b, &h, x, x, x, parts), src);
  if (!first) x = normalize(c, x, "norm_weight_1", "norm_bias_1");
  value *kept = x;
  if (first) x = normalize(c, x, "norm_weight_2", "norm_bias_2");
  x = build(b, "linear", IN(x, call_tensor(c, "ffn_weight_1"), call_tensor(c, "ffn_bias_1")), NO_ATTRS);
  x = build(b, call_bool(c, "use_gelu") ? "gelu" : "relu", IN(x), NO_ATTRS);
  x = build(b, "linear", IN(x, call_tensor(c, "ffn_weight_2"), call_tensor(c, "ffn_bias_2")), NO_ATTRS);
  LOWER_NEED(c, x);
  x = lower_binary(b, "add", x, kept);
  call_return(c, 0, first ? x : normalize(c, x, "norm_weight_2", "norm_bias_2"));
  return KILN_OK;
}

/* softmax, but 0 where a whole row is -inf. */
kiln_status lower_safe_softmax(lower_call *c) {
  builder *b = &c->b;
  value *x;
  kiln_dtype dtype;
  int axis;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  KILN_TRY(lowering_dtype(c, "dtype", x->type.dtype, &dtype));
  x = lower_cast(b, x, dtype);
  LOWER_NEED(c, x);
  const int64_t axes = axis;
  value *top = build(b, "amax", IN(x), ATTRS(A_INTS("axes", &axes, 1), A_BOOL("keepdim", 1)));
  value *nothing = lower_binary(b, "eq", top, lowering_scalar_like(b, x, -INFINITY));
  value *y = build(b, "softmax", IN(x), ATTRS(A_INT("axis", axis)));
  call_return(c, 0, build(b, "where", IN(nothing, lowering_scalar_like(b, x, 0), y), NO_ATTRS));
  return KILN_OK;
}
