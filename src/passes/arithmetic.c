/* Small identities of pointwise operators. Only what holds bit for bit, for NaN, infinity and -0 too: x + 0 is not x
 * (it turns -0 into 0) unless the zero is negative or the numbers are integers. */
#include <math.h>
#include <string.h>

#include "ops/ref.h"
#include "passes/match.h"
#include "passes/rule_files.h"

/* Does `n` have an operand besides `except` from which its result gets its whole shape? */
static bool shaped_by_another(const node *n, int except) {
  const tensor_type *out = &n->outputs[0]->type;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    const tensor_type *t = i != except && node_in(n, i) ? &node_in(n, i)->type : NULL;
    if (t && t->rank == out->rank && memcmp(t->dims, out->dims, (size_t)out->rank * sizeof(dim)) == 0) return true;
  }
  return false;
}

static bool is_plain_pointwise(const node *n) {
  return (n->op->flags & OP_POINTWISE) && n->n_blocks == 0 && n->n_outputs == 1 && n->n_inputs > 1 &&
         strcmp(n->op->name, "pointwise") != 0;
}

static bool uniform_bytes(const value *v) {
  const size_t size = kiln_dtype_size(v->type.dtype);
  const char *data = v->constant->data;
  return data && v->constant->size > size && memcmp(data, data + size, v->constant->size - size) == 0;
}

/* A constant operand with the same number everywhere, as `full` and `full_like` leave: one element says as much. */
static bool uniform_constant(builder *b, node *n) {
  bool changed = false;
  if (!is_plain_pointwise(n)) return false;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    value *v = node_in(n, i);
    if (!v || !v->constant || v->constant->packing || !shaped_by_another(n, i) || !uniform_bytes(v)) continue;
    const tensor_type scalar = type_of(v->type.dtype, 0, NULL);
    value *one = graph_constant(b->graph, &scalar, v->constant->data);
    if (!one) return false;
    node_set_input(n, i, one);
    changed = true;
  }
  return changed;
}

/* The same for `full`, whose shape may be symbolic. */
static bool full_operand(builder *b, node *n) {
  if (!is_plain_pointwise(n)) return false;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    const node *f = producer_of(node_in(n, i), "full");
    if (!f || f->outputs[0]->type.rank == 0 || !shaped_by_another(n, i)) continue;
    value *one = graph_scalar(b->graph, f->outputs[0]->type.dtype, node_float(f, "value"));
    if (!one) return false;
    node_set_input(n, i, one);
    return true;
  }
  return false;
}

/* Pointwise operators broadcast by themselves. */
static bool expanded_operand(builder *b, node *n) {
  (void)b;
  if (!is_plain_pointwise(n)) return false;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    const node *e = producer_of(node_in(n, i), "expand");
    if (!e || !shaped_by_another(n, i)) continue;
    node_set_input(n, i, node_in(e, 0));
    return true;
  }
  return false;
}

/* op(x, c) with a constant c that changes nothing; `first` too where the operands may change places. */
static bool neutral(node *n, double c, bool commutes) {
  for (int i = 1; i >= (commutes ? 0 : 1); i--) {
    double got = 0;
    if (scalar_constant(node_in(n, i), &got) && got == c && signbit(got) == signbit(c))
      return replace(n, node_in(n, 1 - i));
  }
  return false;
}

static bool mul_one(builder *b, node *n) { return (void)b, neutral(n, 1, true); }
static bool div_one(builder *b, node *n) { return (void)b, neutral(n, 1, false); }
static bool add_zero(builder *b, node *n) {
  (void)b;
  return neutral(n, dtype_is_float(n->outputs[0]->type.dtype) ? -0.0 : 0.0, true);
}
static bool sub_zero(builder *b, node *n) { return (void)b, neutral(n, 0, false); }

/* neg(neg(x)), logical_not(logical_not(bool)) */
static bool twice(builder *b, node *n) {
  (void)b;
  const node *inner = producer_of(node_in(n, 0), n->op->name);
  return inner && replace(n, node_in(inner, 0));
}

/* The powers that PyTorch computes in another way: x^2 = x x, x^0.5 = sqrt(x), x^-0.5 = 1 / sqrt(x). */
static bool simple_power(builder *b, node *n) {
  double e = 0;
  if (!dtype_is_float(n->outputs[0]->type.dtype) || !scalar_constant(node_in(n, 1), &e)) return false;
  const char *name = e == 2 ? "square" : e == 0.5 ? "sqrt" : e == -0.5 ? "rsqrt" : NULL;
  if (e == 1) return replace(n, node_in(n, 0));
  return name && type_equal(&node_in(n, 0)->type, &n->outputs[0]->type) &&
         replace(n, build(b, name, IN(node_in(n, 0)), NO_ATTRS));
}

#define X23 "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n"
#define WITH(c, line) \
  "kiln.graph 1\nconst %c : f32[] = {" c "}\ninput \"x\" %x : f32[2,3]\n%y = " line " : f32[2,3]\noutput \"y\" %y\n"

const rule arithmetic_rules[] = {
    {"uniform constant", NULL, uniform_constant,
     "kiln.graph 1\nconst %c : f32[1,3] = {0.5, 0.5, 0.5}\ninput \"x\" %x : f32[2,3]\n%y = mul(%x, %c) : "
     "f32[2,3]\noutput \"y\" %y\n"},
    {"expanded operand", NULL, expanded_operand,
     "kiln.graph 1\ninput \"a\" %a : f32[3]\ninput \"x\" %x : f32[2,3]\n%e = expand(%a) {shape=[2, 3]} : f32[2,3]\n"
     "%y = sub(%x, %e) : f32[2,3]\noutput \"y\" %y\n"},
    {"full operand", NULL, full_operand,
     "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n%e = full() {shape=[2, 3], value=0.5, dtype=f32} : f32[2,3]\n"
     "%y = sub(%x, %e) : f32[2,3]\noutput \"y\" %y\n"},
    {"x*1", "mul", mul_one, WITH("1", "mul(%c, %x)")},
    {"x/1", "div", div_one, WITH("1", "div(%x, %c)")},
    {"x+(-0)", "add", add_zero, WITH("-0", "add(%x, %c)")},
    {"x-0", "sub", sub_zero, WITH("0", "sub(%x, %c)")},
    {"neg of neg", "neg", twice, X23 "%z = neg(%x) : f32[2,3]\n%y = neg(%z) : f32[2,3]\noutput \"y\" %y\n"},
    {"not of not", "logical_not", twice,
     X23 "%b = gt(%x, %x) : bool[2,3]\n%c = logical_not(%b) : bool[2,3]\n%y = logical_not(%c) : bool[2,3]\noutput "
         "\"y\" %y\n"},
    {"pow 2", "pow", simple_power, WITH("2", "pow(%x, %c)")},
};
const size_t arithmetic_rule_count = KILN_COUNT(arithmetic_rules);
