/* softmax(q k^T * scale + mask) v -> attention(q, k, v, mask), in the forms that models written with matmul leave, and
 * in the longer ones that torch.export's decompositions leave: batched products over flattened heads, and a softmax
 * that is made 0 where all is masked. What attention itself can do is then taken out of its operands: scales, repeated
 * heads, causal masks. */
#include <math.h>
#include <string.h>

#include "ops/ref.h"
#include "passes/match.h"
#include "passes/origin.h"
#include "passes/rule_files.h"

/* ---- products over flattened batches ----------------------------------------------------------------------------- */

static bool same_dims(const dim *a, const dim *b, int count) { return memcmp(a, b, (size_t)count * sizeof *a) == 0; }

/* `v` with the batch dimensions of `out` in place of its first. Chains of reshapes become one, often none. */
static value *unflatten(builder *b, value *v, const tensor_type *out) {
  dim dims[KILN_MAX_RANK];
  for (int i = 0; i < out->rank - 2; i++) dims[i] = out->dims[i];
  for (int i = 0; i < 2; i++) dims[out->rank - 2 + i] = v->type.dims[1 + i];
  return build(b, "reshape", IN(v), ATTRS(A_INTS("shape", dims, out->rank)));
}

/* reshape(matmul(a, b)) that splits the batch -> matmul(reshape(a), reshape(b)) */
static bool unflatten_matmul(builder *b, node *n) {
  const tensor_type *out = &n->outputs[0]->type;
  const node *m = producer_of(node_in(n, 0), "matmul");
  if (!m || out->rank < 4 || m->outputs[0]->type.rank != 3 || !only_use(m->outputs[0])) return false;
  value *x = node_in(m, 0), *y = node_in(m, 1);
  if (!same_dims(m->outputs[0]->type.dims + 1, out->dims + out->rank - 2, 2)) return false;
  if (x->type.rank != 3 || y->type.rank != 3 || x->type.dims[0] != y->type.dims[0] || y->constant) return false;
  if (!producer_of(x, "reshape") && !producer_of(y, "reshape")) return false; /* nothing to undo */
  b->path = m->path;
  b->source = m->source;
  x = unflatten(b, x, out);
  y = unflatten(b, y, out);
  return x && y && replace(n, build(b, "matmul", IN(x, y), ATTRS(A_BOOL("transpose_b", node_bool(m, "transpose_b")))));
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* What stands between q k^T and the softmax. */
typedef struct scores {
  const node *product; /* matmul */
  value *mask;         /* float, added after scaling; NULL: none */
  double scale;
} scores;

/* Walks up from the softmax's operand through one added mask and through scalings. */
static bool find_scores(const value *v, scores *out) {
  *out = (scores){.scale = 1};
  for (int step = 0; step < 6 && v; step++) {
    const node *n = v->producer;
    double c = 0;
    if (!n || n->epilogue || (step > 0 && !only_use(v)))
      return false; /* the caller has looked at the first value's uses */
    if (strcmp(n->op->name, "matmul") == 0) {
      out->product = n;
      return true;
    }
    if (strcmp(n->op->name, "div") == 0 && scalar_constant(node_in(n, 1), &c) && c != 0) {
      out->scale /= c;
      v = node_in(n, 0);
    } else if (strcmp(n->op->name, "mul") == 0 &&
               (scalar_constant(node_in(n, 1), &c) || scalar_constant(node_in(n, 0), &c))) {
      out->scale *= c;
      v = node_in(n, scalar_constant(node_in(n, 1), &c) ? 0 : 1);
    } else if (strcmp(n->op->name, "add") == 0 && !out->mask && out->scale == 1) {
      const int product =
          node_in(n, 0)->producer && only_use(node_in(n, 0)) ? 0 : 1; /* tried below; the other is the mask */
      out->mask = node_in(n, 1 - product);
      v = node_in(n, product);
      if (!type_equal(&v->type, &n->outputs[0]->type)) return false;
    } else {
      return false;
    }
  }
  return false;
}

static const node *the_producer(const value *v, const char *op_name) {
  const node *n = producer_of(v, op_name);
  return n && only_use(v) ? n : NULL;
}

/* The softmax that gives `v`: v itself, or v = where(not any(not (x == -inf)), 0, softmax(x)), which is PyTorch's
 * softmax of masked scores and what attention does anyway. Nobody else may read what stands in between. */
static const node *find_softmax(const value *v) {
  const node *plain = the_producer(v, "softmax");
  if (plain) return only_use(node_in(plain, 0)) ? plain : NULL;
  const node *select = the_producer(v, "where");
  const node *soft = select ? the_producer(node_in(select, 2), "softmax") : NULL;
  const node *nothing = soft ? the_producer(node_in(select, 0), "logical_not") : NULL;
  const node *any = nothing ? the_producer(node_in(nothing, 0), "any") : NULL;
  const node *some = any ? the_producer(node_in(any, 0), "logical_not") : NULL;
  const node *masked = some ? the_producer(node_in(some, 0), "eq") : NULL;
  double zero = 1, low = 0;
  if (!masked || !scalar_constant(node_in(select, 1), &zero) || zero != 0) return NULL;
  if (node_in(masked, 0) != node_in(soft, 0) || !scalar_constant(node_in(masked, 1), &low) || !isinf(low) || low > 0)
    return NULL;
  const attr *axes = node_attr(any, "axes");
  if (axes->count != 1 || axes->u.ints[0] != node_int(soft, "axis") || !node_bool(any, "keepdim")) return NULL;
  return value_use_count(node_in(soft, 0)) == 2 && !value_is_result(node_in(soft, 0)) ? soft : NULL;
}

static bool attention_fits(const value *q, const value *k, const value *v, const value *mask, int rank,
                           bool k_transposed) {
  if (q->type.rank != rank || k->type.rank != rank || v->type.rank != rank || !dtype_is_float(q->type.dtype) ||
      q->type.dtype == KILN_F64)
    return false;
  /* no broadcasting between heads here */
  if (!same_dims(q->type.dims, k->type.dims, rank - 2) || !same_dims(k->type.dims, v->type.dims, rank - 2))
    return false;
  if (k->type.dims[k_transposed ? rank - 2 : rank - 1] != v->type.dims[rank - 2]) return false;
  return !mask || (mask->type.rank <= rank && mask->type.dtype == q->type.dtype);
}

/* matmul(softmax(scores), v) */
static bool to_attention(builder *b, node *n) {
  const node *soft = find_softmax(node_in(n, 0));
  scores s;
  if (!soft || n->epilogue || node_bool(n, "transpose_b")) return false;
  const int rank = soft->outputs[0]->type.rank;
  if (rank < 3 || node_int(soft, "axis") != rank - 1 || !find_scores(node_in(soft, 0), &s)) return false;
  value *q = node_in(s.product, 0), *k = node_in(s.product, 1), *v = node_in(n, 1);
  const bool transposed = node_bool(s.product, "transpose_b");
  if (!attention_fits(q, k, v, s.mask, rank, transposed)) return false;
  if (!transposed) { /* k is given as [..., E, S] */
    dim order[KILN_MAX_RANK];
    for (int i = 0; i < rank; i++) order[i] = i < rank - 2 ? i : rank - 1 - (i - (rank - 2));
    k = build(b, "permute", IN(k), ATTRS(A_INTS("order", order, rank)));
  }
  return k &&
         replace(n, build(b, "attention", IN(q, k, v, s.mask), ATTRS(A_FLOAT("scale", s.scale), A_BOOL("causal", 0))));
}

static value *with_operands(builder *b, const node *n, value *q, value *k, value *v, value *mask, double scale,
                            bool causal) {
  return q && k && v
             ? build(b, n->op->name, IN(q, k, v, mask), ATTRS(A_FLOAT("scale", scale), A_BOOL("causal", causal)))
             : NULL;
}

/* ---- windows with a mask each ------------------------------------------------------------------------------------ */

/* x and c in v = x * c */
static value *scaled_value(const value *v, double *c) {
  const node *m = producer_of(v, "mul");
  for (int k = 0; m && k < 2; k++) {
    if (scalar_constant(node_in(m, k), c) && type_equal(&node_in(m, 1 - k)->type, &v->type)) return node_in(m, 1 - k);
  }
  return NULL;
}

/* reshape(reshape(x) + mask), whose inner reshape splits the first dimension and whose outer one joins it again: x; the sum and the
 * mask. */
static value *windowed(const value *v, const node **sum, value **mask) {
  const node *join = the_producer(v, "reshape");
  *sum = join ? the_producer(node_in(join, 0), "add") : NULL;
  for (int i = 0; *sum && i < 2; i++) {
    const node *split = the_producer(node_in(*sum, i), "reshape");
    const tensor_type *wide = &(*sum)->outputs[0]->type;
    if (!split || !type_equal(&node_in(*sum, i)->type, wide)) continue;
    value *x = node_in(split, 0);
    if (wide->rank != x->type.rank + 1 || !type_equal(&x->type, &v->type)) continue;
    if (!same_dims(wide->dims + 2, x->type.dims + 1, x->type.rank - 1)) continue;
    *mask = node_in(*sum, 1 - i);
    return x;
  }
  return NULL;
}

/* v [N * W, ...] as [N, W, ...] */
static value *split_windows(builder *b, value *v, const tensor_type *wide) {
  dim dims[KILN_MAX_RANK] = {wide->dims[0], wide->dims[1]};
  for (int i = 1; i < v->type.rank; i++) dims[1 + i] = v->type.dims[i];
  return build(b, "reshape", IN(v), ATTRS(A_INTS("shape", dims, v->type.rank + 1)));
}

/* Attention of shifted windows (Swin): scores [N * W, heads, L, L] are split for a moment to add a mask for each of W windows. */
static bool window_attention(builder *b, node *n) {
  const node *soft = find_softmax(node_in(n, 0)), *sum = NULL;
  value *mask = NULL, *x = soft ? windowed(node_in(soft, 0), &sum, &mask) : NULL;
  scores s;
  if (!x || n->epilogue || node_bool(n, "transpose_b")) return false;
  const int rank = x->type.rank;
  if (rank < 3 || rank >= KILN_MAX_RANK || node_int(soft, "axis") != rank - 1 || !find_scores(x, &s)) return false;
  value *q = node_in(s.product, 0), *k = node_in(s.product, 1), *v = node_in(n, 1);
  const bool transposed = node_bool(s.product, "transpose_b");
  if (!attention_fits(q, k, v, s.mask, rank, transposed) || mask->type.dtype != q->type.dtype) return false;
  if (s.mask && s.mask->type.rank == rank && (!dim_is_const(s.mask->type.dims[0]) || s.mask->type.dims[0] != 1))
    return false;
  const tensor_type *wide = &sum->outputs[0]->type;
  double c = 1;
  value *bare = scaled_value(q, &c);
  if (!transposed) { /* k is given as [..., E, S] */
    dim order[KILN_MAX_RANK];
    for (int i = 0; i < rank; i++) order[i] = i < rank - 2 ? i : rank - 1 - (i - (rank - 2));
    k = build(b, "permute", IN(k), ATTRS(A_INTS("order", order, rank)));
  }
  q = split_windows(b, bare ? bare : q, wide);
  k = k ? split_windows(b, k, wide) : NULL;
  v = split_windows(b, v, wide);
  if (s.mask) mask = build(b, "add", IN(mask, s.mask), NO_ATTRS);
  value *y = q && k && v && mask ? build(b, "attention", IN(q, k, v, mask),
                                         ATTRS(A_FLOAT("scale", s.scale * (bare ? c : 1)), A_BOOL("causal", 0)))
                                 : NULL;
  const tensor_type *to = &n->outputs[0]->type;
  return y && replace(n, build(b, "reshape", IN(y), ATTRS(A_INTS("shape", to->dims, to->rank))));
}

/* ---- what attention takes over from its operands ----------------------------------------------------------------- */

/* attention(q * c, k, v) -> attention(q, k, v) with scale * c; the same for k, and through a permute */
static bool absorb_scale(builder *b, node *n) {
  for (int i = 0; i < 2; i++) {
    double c = 0;
    const node *p = producer_of(node_in(n, i), "permute");
    value *x = scaled_value(p ? node_in(p, 0) : node_in(n, i), &c);
    if (!x) continue;
    if (p) x = build(b, "permute", IN(x), ATTRS({"order", *node_attr(p, "order")}));
    return replace(n, with_operands(b, n, i == 0 ? x : node_in(n, 0), i == 1 ? x : node_in(n, 1), node_in(n, 2),
                                    node_in(n, 3), node_float(n, "scale") * c, node_bool(n, "causal")));
  }
  return false;
}

/* x[..., H, S, E] in v = x with each head repeated: reshape(expand(reshape(x))) through [..., H, G, S, E] */
static value *repeated_heads(const value *v) {
  const int rank = v->type.rank;
  const node *join = producer_of(v, "reshape");
  const node *repeat = join && rank < KILN_MAX_RANK ? producer_of(node_in(join, 0), "expand") : NULL;
  const node *split = repeat ? producer_of(node_in(repeat, 0), "reshape") : NULL;
  value *x = split ? node_in(split, 0) : NULL;
  if (!x || x->type.rank != rank) return NULL;
  const tensor_type *thin = &split->outputs[0]->type, *wide = &repeat->outputs[0]->type;
  if (thin->rank != rank + 1 || wide->rank != rank + 1 || thin->dims[rank - 2] != 1) return NULL;
  const bool same =
      same_dims(x->type.dims, thin->dims, rank - 2) && same_dims(x->type.dims + rank - 2, thin->dims + rank - 1, 2) &&
      same_dims(wide->dims, thin->dims, rank - 2) && same_dims(wide->dims + rank - 1, thin->dims + rank - 1, 2);
  return same && same_dims(v->type.dims, x->type.dims, rank - 3) ? x : NULL;
}

/* Heads of keys and values that several heads of queries share need no copies. */
static bool shared_heads(builder *b, node *n) {
  value *k = repeated_heads(node_in(n, 1)), *v = repeated_heads(node_in(n, 2));
  if (!k || !v) return false;
  const int rank = k->type.rank;
  const dim heads = node_in(n, 0)->type.dims[node_in(n, 0)->type.rank - 3], shared = k->type.dims[rank - 3];
  if (v->type.rank != rank || shared != v->type.dims[rank - 3] || !dim_is_const(heads) || !dim_is_const(shared))
    return false;
  if (shared < 1 || heads % shared) return false;
  return replace(
      n, with_operands(b, n, node_in(n, 0), k, v, node_in(n, 3), node_float(n, "scale"), node_bool(n, "causal")));
}

typedef enum mask_kind { MASK_OTHER, MASK_NOTHING, MASK_CAUSAL } mask_kind;

/* Masks that keep all, or exactly what causal attention keeps. Added numbers below -1e30 leave nothing of any finite
 * score. */
static mask_kind constant_mask_kind(const value *mask) {
  const int rank = mask->type.rank;
  if (!mask->constant || mask->constant->packing || constant_is_missing(mask->constant)) return MASK_OTHER;
  const int64_t l = rank > 1 ? mask->type.dims[rank - 2] : 1, s = rank > 0 ? mask->type.dims[rank - 1] : 1;
  const tensor t = {.data = (void *)(uintptr_t)mask->constant->data, .dtype = mask->type.dtype};
  const int64_t count = (int64_t)(mask->constant->size / kiln_dtype_size(t.dtype));
  bool all = true, causal = l == s && l > 1;
  for (int64_t i = 0; i < count && (all || causal); i++) {
    const double x = ref_load(&t, i);
    const bool keep = t.dtype == KILN_BOOL ? x != 0 : x == 0, drop = t.dtype == KILN_BOOL ? x == 0 : x < -1e30;
    const bool future = i % s > i / s % l;
    all = all && keep;
    causal = causal && (future ? drop : keep);
  }
  return all ? MASK_NOTHING : causal ? MASK_CAUSAL : MASK_OTHER;
}

static bool constant_mask(builder *b, node *n) {
  const value *mask = node_in(n, 3);
  const mask_kind kind = mask ? constant_mask_kind(mask) : MASK_OTHER;
  if (kind == MASK_OTHER) return false;
  const tensor_type *q = &node_in(n, 0)->type, *k = &node_in(n, 1)->type;
  if (kind == MASK_CAUSAL &&
      (mask->type.dims[mask->type.rank - 1] != k->dims[k->rank - 2] || q->dims[q->rank - 2] != k->dims[k->rank - 2]))
    return false;
  return replace(n, with_operands(b, n, node_in(n, 0), node_in(n, 1), node_in(n, 2), NULL, node_float(n, "scale"),
                                  kind == MASK_CAUSAL || node_bool(n, "causal")));
}

#define QKV "input \"q\" %q : f32[1,2,3,4]\ninput \"k\" %k : f32[1,2,3,4]\ninput \"v\" %v : f32[1,2,3,4]\n"

const rule attention_patterns_rules[] = {
    {"flattened matmul", "reshape", unflatten_matmul,
     "kiln.graph 1\ninput \"a\" %a : f32[2,3,4,5]\ninput \"b\" %b : f32[2,3,5,2]\n%x = reshape(%a) {shape=[6, 4, 5]} : "
     "f32[6,4,5]\n"
     "%y = reshape(%b) {shape=[6, 5, 2]} : f32[6,5,2]\n%m = matmul(%x, %y) : f32[6,4,2]\n"
     "%r = reshape(%m) {shape=[2, 3, 4, 2]} : f32[2,3,4,2]\noutput \"y\" %r\n"},
    {"attention", "matmul", to_attention,
     "kiln.graph 1\nconst %s : f32[] = {0.5}\ninput \"q\" %q : f32[1,2,3,4]\ninput \"k\" %k : f32[1,2,5,4]\ninput "
     "\"v\" %v : f32[1,2,5,4]\n"
     "input \"m\" %m : f32[1,1,3,5]\n%p = matmul(%q, %k) {transpose_b=true} : f32[1,2,3,5]\n%a = mul(%p, %s) : "
     "f32[1,2,3,5]\n"
     "%b = add(%a, %m) : f32[1,2,3,5]\n%c = softmax(%b) {axis=3} : f32[1,2,3,5]\n%y = matmul(%c, %v) : "
     "f32[1,2,3,4]\noutput \"y\" %y\n"},
    {"attention of decomposed softmax", "matmul", to_attention,
     "kiln.graph 1\nconst %z : f32[] = {0}\nconst %low : f32[] = {-inf}\nconst %m : f32[3,3] = {0, -inf, 0, -inf, "
     "-inf, -inf, 0, 0, 0}\n" QKV "%p = matmul(%q, %k) {transpose_b=true} : f32[1,2,3,3]\n%a = add(%p, %m) : "
     "f32[1,2,3,3]\n%c = softmax(%a) {axis=3} : f32[1,2,3,3]\n"
     "%e = eq(%a, %low) : bool[1,2,3,3]\n%f = logical_not(%e) : bool[1,2,3,3]\n%g = any(%f) {axes=[3], keepdim=true} : "
     "bool[1,2,3,1]\n"
     "%h = logical_not(%g) : bool[1,2,3,1]\n%w = where(%h, %z, %c) : f32[1,2,3,3]\n%y = matmul(%w, %v) : "
     "f32[1,2,3,4]\noutput \"y\" %y\n"},
    {"attention of windows", "matmul", window_attention,
     "kiln.graph 1\nconst %s : f32[] = {0.5}\ninput \"q\" %q : f32[4,2,3,4]\ninput \"k\" %k : f32[4,2,3,4]\n"
     "input \"b\" %b : f32[1,2,3,3]\ninput \"m\" %m : f32[1,2,1,3,3]\n%t = mul(%q, %s) : f32[4,2,3,4]\n"
     "%p = matmul(%t, %k) {transpose_b=true} : f32[4,2,3,3]\n%a = add(%p, %b) : f32[4,2,3,3]\n"
     "%w = reshape(%a) {shape=[2, 2, 2, 3, 3]} : f32[2,2,2,3,3]\n%e = add(%w, %m) : f32[2,2,2,3,3]\n"
     "%j = reshape(%e) {shape=[4, 2, 3, 3]} : f32[4,2,3,3]\n%c = softmax(%j) {axis=3} : f32[4,2,3,3]\n"
     "%y = matmul(%c, %k) : f32[4,2,3,4]\noutput \"y\" %y\n"},
    {"attention scale", "attention", absorb_scale,
     "kiln.graph 1\nconst %s : f32[] = {0.5}\ninput \"q\" %q : f32[1,2,3,4]\n%a = mul(%q, %s) : f32[1,2,3,4]\n"
     "%y = attention(%a, %q, %q, none) {scale=0.5} : f32[1,2,3,4]\noutput \"y\" %y\n"},
    {"attention scale of permuted keys", "attention", absorb_scale,
     "kiln.graph 1\nconst %s : f32[] = {0.5}\ninput \"q\" %q : f32[1,2,3,4]\ninput \"k\" %k : f32[1,3,2,4]\n%m = "
     "mul(%s, %k) : f32[1,3,2,4]\n"
     "%a = permute(%m) {order=[0, 2, 1, 3]} : f32[1,2,3,4]\n%y = attention(%q, %a, %q, none) {scale=0.5} : "
     "f32[1,2,3,4]\noutput \"y\" %y\n"},
    {"attention shares heads", "attention", shared_heads,
     "kiln.graph 1\ninput \"q\" %q : f32[1,4,3,2]\ninput \"k\" %k : f32[1,2,3,2]\n%s = reshape(%k) {shape=[1, 2, 1, 3, "
     "2]} : f32[1,2,1,3,2]\n"
     "%e = expand(%s) {shape=[1, 2, 2, 3, 2]} : f32[1,2,2,3,2]\n%j = reshape(%e) {shape=[1, 4, 3, 2]} : f32[1,4,3,2]\n"
     "%y = attention(%q, %j, %j, none) {scale=0.5} : f32[1,4,3,2]\noutput \"y\" %y\n"},
    {"causal attention", "attention", constant_mask,
     "kiln.graph 1\nconst %m : f32[1,1,3,3] = {0, -3.4e38, -3.4e38, 0, 0, -inf, 0, 0, 0}\n" QKV
     "%y = attention(%q, %k, %v, %m) {scale=0.5} : f32[1,2,3,4]\noutput \"y\" %y\n"},
    {"attention without a mask", "attention", constant_mask,
     "kiln.graph 1\nconst %m : bool[3,3] = {1, 1, 1, 1, 1, 1, 1, 1, 1}\n" QKV
     "%y = attention(%q, %k, %v, %m) {scale=0.5} : f32[1,2,3,4]\noutput \"y\" %y\n"},
};
const size_t attention_patterns_rule_count = KILN_COUNT(attention_patterns_rules);
