/* softmax(q k^T * scale + mask) v -> attention(q, k, v, mask), in the forms that models written with matmul leave. */
#include <math.h>
#include <string.h>

#include "passes/match.h"
#include "passes/rule_files.h"

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
    if (!n || !only_use(v) || n->epilogue) return false;
    if (strcmp(n->op->name, "matmul") == 0) {
      out->product = n;
      return true;
    }
    if (strcmp(n->op->name, "div") == 0 && scalar_constant(node_in(n, 1), &c) && c != 0) {
      out->scale /= c;
      v = node_in(n, 0);
    } else if (strcmp(n->op->name, "mul") == 0 && (scalar_constant(node_in(n, 1), &c) || scalar_constant(node_in(n, 0), &c))) {
      out->scale *= c;
      v = node_in(n, scalar_constant(node_in(n, 1), &c) ? 0 : 1);
    } else if (strcmp(n->op->name, "add") == 0 && !out->mask && out->scale == 1) {
      const int product = node_in(n, 0)->producer && only_use(node_in(n, 0)) ? 0 : 1; /* tried below; the other is the mask */
      out->mask = node_in(n, 1 - product);
      v = node_in(n, product);
      if (!type_equal(&v->type, &n->outputs[0]->type)) return false;
    } else {
      return false;
    }
  }
  return false;
}

/* matmul(softmax(scores), v) */
static bool to_attention(builder *b, node *n) {
  const node *soft = producer_of(node_in(n, 0), "softmax");
  scores s;
  if (!soft || !only_use(node_in(n, 0)) || n->epilogue || node_bool(n, "transpose_b")) return false;
  const int rank = soft->outputs[0]->type.rank;
  if (rank < 3 || node_int(soft, "axis") != rank - 1 || !find_scores(node_in(soft, 0), &s)) return false;
  value *q = node_in(s.product, 0), *k = node_in(s.product, 1), *v = node_in(n, 1);
  if (!node_bool(s.product, "transpose_b")) { /* k is given as [..., E, S] */
    dim order[KILN_MAX_RANK];
    for (int i = 0; i < k->type.rank; i++) order[i] = i < k->type.rank - 2 ? i : k->type.rank - 1 - (i - (k->type.rank - 2));
    k = build(b, "permute", IN(k), ATTRS(A_INTS("order", order, k->type.rank)));
  }
  if (!k || q->type.rank != rank || k->type.rank != rank || v->type.rank != rank || q->type.dtype != KILN_F32) return false;
  for (int i = 0; i < rank - 2; i++) { /* no broadcasting between heads here */
    if (q->type.dims[i] != k->type.dims[i] || k->type.dims[i] != v->type.dims[i]) return false;
  }
  if (k->type.dims[rank - 2] != v->type.dims[rank - 2] || (s.mask && s.mask->type.rank > rank)) return false;
  if (s.mask && s.mask->type.dtype != q->type.dtype) return false;
  return replace(n, build(b, "attention", IN(q, k, v, s.mask), ATTRS(A_FLOAT("scale", s.scale), A_BOOL("causal", 0))));
}

/* attention(q * c, k, v) -> attention(q, k, v) with scale * c, and the same for k */
static bool absorb_scale(builder *b, node *n) {
  for (int i = 0; i < 2; i++) {
    const node *m = producer_of(node_in(n, i), "mul");
    double c = 0;
    for (int k = 0; m && k < 2; k++) {
      if (!scalar_constant(node_in(m, k), &c) || !type_equal(&node_in(m, 1 - k)->type, &node_in(n, i)->type)) continue;
      value *in[4] = {node_in(n, 0), node_in(n, 1), node_in(n, 2), node_in(n, 3)};
      in[i] = node_in(m, 1 - k);
      return replace(n, build(b, "attention", 4, in, ATTRS(A_FLOAT("scale", node_float(n, "scale") * c), A_BOOL("causal", node_bool(n, "causal")))));
    }
  }
  return false;
}

const rule attention_patterns_rules[] = {
    {"attention", "matmul", to_attention,
     "kiln.graph 1\nconst %s : f32[] = {0.5}\ninput \"q\" %q : f32[1,2,3,4]\ninput \"k\" %k : f32[1,2,5,4]\ninput \"v\" %v : f32[1,2,5,4]\n"
     "input \"m\" %m : f32[1,1,3,5]\n%p = matmul(%q, %k) {transpose_b=true} : f32[1,2,3,5]\n%a = mul(%p, %s) : f32[1,2,3,5]\n"
     "%b = add(%a, %m) : f32[1,2,3,5]\n%c = softmax(%b) {axis=3} : f32[1,2,3,5]\n%y = matmul(%c, %v) : f32[1,2,3,4]\noutput \"y\" %y\n"},
    {"attention scale", "attention", absorb_scale,
     "kiln.graph 1\nconst %s : f32[] = {0.5}\ninput \"q\" %q : f32[1,2,3,4]\n%a = mul(%q, %s) : f32[1,2,3,4]\n"
     "%y = attention(%a, %q, %q, none) {scale=0.5} : f32[1,2,3,4]\noutput \"y\" %y\n"},
};
const size_t attention_patterns_rule_count = KILN_COUNT(attention_patterns_rules);
