/* Quantized layers: linear, convolutions, recurrent cells, whose weights lie in objects of torch.classes.
 *
 * FBGEMM's kernels sum products of integers, so we do: (q_x - z_x) * (q_w - z_w) in f32 is exact while sums stay below
 * 2^24. What follows is FBGEMM's requantization: (sum + bias / (s_x s_w)) * (s_x s_w / s_y), rounded. Dynamic layers
 * choose s_x, z_x from the data and end in f32. */
#include <stdio.h>
#include <string.h>

#include "import/torchscript/quantized.h"

#define CLASSES "__torch__.torch.classes.quantized."

/* ---- Packed parameters
 * --------------------------------------------------------------------------------------------------------- */

typedef struct packed {
  ts_value weight, bias; /* a quantized tensor, or a plain one (fp16 layers); a tensor or None */
  const ts_object *o;
} packed;

static kiln_status attribute(interp *it, const ts_object *o, const char *name, ts_value *out) {
  const int at = ts_class_attribute(o->cls, name);
  if (at < 0 || at >= o->n_attrs) return IT_FAIL(it, KILN_INVALID_FILE, "%s has no attribute %s", o->cls->name, name);
  *out = o->attrs[at];
  return KILN_OK;
}

static kiln_status packed_of(interp *it, const char *name, const ts_value *v, packed *out) {
  if (v->kind != TSV_OBJECT || v->u.object->cls->kind != TSC_BUILTIN)
    return IT_FAIL(it, KILN_INVALID_FILE, "%s: expected packed parameters, got %s", name, interp_kind_name(v));
  out->o = v->u.object;
  KILN_TRY(attribute(it, out->o, "weight", &out->weight));
  KILN_TRY(attribute(it, out->o, "bias", &out->bias));
  const bool bias_ok = out->bias.kind == TSV_NONE || out->bias.kind == TSV_TENSOR;
  if ((out->weight.kind != TSV_QTENSOR && out->weight.kind != TSV_TENSOR) || !bias_ok)
    return IT_FAIL(it, KILN_INVALID_FILE, "%s: the packed parameters hold %s", name, interp_kind_name(&out->weight));
  return KILN_OK;
}

static kiln_status packed_arg(interp *it, const ts_call *c, int at, const char *name, packed *out) {
  const ts_value v = quantized_arg(c, at, name);
  return packed_of(it, c->name, &v, out);
}

static kiln_status integer_weight(interp *it, const ts_call *c, const packed *p, ts_qtensor **out) {
  if (p->weight.kind != TSV_QTENSOR) return IT_FAIL(it, KILN_INVALID_FILE, "%s: the weight is not quantized", c->name);
  *out = p->weight.u.qtensor;
  return KILN_OK;
}

static kiln_status new_packed(interp *it, const char *cls, ts_object **out) {
  const ts_class *c;
  KILN_TRY(ts_class_builtin(it->a, cls, &c));
  ts_object *o = ARENA_NEW(it->arena, ts_object);
  if (!o) return interp_no_memory(it);
  o->cls = c;
  o->path = "";
  o->n_attrs = c->n_attributes;
  o->attrs = ARENA_ARRAY(it->arena, ts_value, o->n_attrs ? o->n_attrs : 1);
  if (!o->attrs) return interp_no_memory(it);
  *out = o;
  return KILN_OK;
}

static void put(ts_object *o, const char *name, ts_value v) {
  const int at = ts_class_attribute(o->cls, name);
  if (at >= 0 && at < o->n_attrs) o->attrs[at] = v;
}

static kiln_status linear_prepack(interp *it, const ts_call *c, ts_value *out) {
  ts_object *o;
  ts_value weight = quantized_arg(c, 0, "W");
  KILN_TRY(new_packed(it, CLASSES "LinearPackedParamsBase", &o));
  if (str_ends(c->name, "fp16") && weight.kind == TSV_TENSOR) { /* kept in half precision, used in single */
    value *w = lower_cast(&it->b, lower_value(&it->b, weight.u.tensor), KILN_F16);
    KILN_TRY(quantized_wrap(it, w ? lower_cast(&it->b, w, KILN_F32) : NULL, &weight));
  }
  put(o, "weight", weight);
  put(o, "bias", quantized_arg(c, 1, "B"));
  *out = (ts_value){.kind = TSV_OBJECT, .u = {.object = o}};
  return KILN_OK;
}

/* A list of ints with `first` before its items. */
static kiln_status longer_list(interp *it, const ts_value *v, int64_t first, ts_value *out) {
  const ts_list *l = interp_items(v);
  ts_value items[8] = {of_int(first)};
  if (!l || l->count > 7)
    return IT_FAIL(it, KILN_INVALID_FILE, "expected a short list of ints, got %s", interp_kind_name(v));
  for (int i = 0; i < l->count; i++) items[i + 1] = l->items[i];
  return interp_list_new(it, TSV_LIST, l->count + 1, items, out);
}

/* A quantized tensor through a view operator on its integers; its channels are at `axis` of the result. */
static kiln_status view_integers(interp *it, const char *name, const ts_qtensor *q, int64_t dim_arg, ts_value *out) {
  const ts_value args[2] = {of_tensor(q->integers), of_int(dim_arg)};
  ts_value v;
  KILN_TRY(interp_aten(it, name, 2, args, &v));
  ts_qtensor *r = ARENA_NEW(it->arena, ts_qtensor);
  if (!r || v.kind != TSV_TENSOR) return interp_no_memory(it);
  *r = *q;
  r->integers = v.u.tensor;
  *out = (ts_value){.kind = TSV_QTENSOR, .u = {.qtensor = r}};
  return KILN_OK;
}

/* convNd_prepack(weight, bias, stride, padding, dilation, groups), conv_transposeNd_prepack(weight, bias, stride,
 * padding, output_padding, dilation, groups). In one dimension PyTorch keeps two, the first of size 1. */
static kiln_status conv_prepack(interp *it, const ts_call *c, ts_value *out) {
  const bool transposed = str_starts(c->name, "quantized.conv_transpose");
  const char digit = c->name[strlen(transposed ? "quantized.conv_transpose" : "quantized.conv")];
  const int shift = transposed ? 1 : 0;
  ts_value weight = quantized_arg(c, 0, "weight"),
           lists[4] = {quantized_arg(c, 2, "stride"), quantized_arg(c, 3, "padding"),
                       quantized_arg(c, 4 + shift, "dilation"), of_none()};
  ts_object *o;
  if (transposed) lists[3] = quantized_arg(c, 4, "output_padding");
  if (weight.kind != TSV_QTENSOR) return IT_FAIL(it, KILN_INVALID_FILE, "%s: the weight is not quantized", c->name);
  if (digit == '1') {
    KILN_TRY(view_integers(it, "aten::unsqueeze", weight.u.qtensor, 2, &weight));
    for (int i = 0; i < 4; i++)
      if (lists[i].kind != TSV_NONE) KILN_TRY(longer_list(it, &lists[i], i == 0 || i == 2 ? 1 : 0, &lists[i]));
  }
  KILN_TRY(new_packed(it, digit == '3' ? CLASSES "Conv3dPackedParamsBase" : CLASSES "Conv2dPackedParamsBase", &o));
  if (lists[3].kind == TSV_NONE) {
    const ts_value zeros[3] = {of_int(0), of_int(0), of_int(0)};
    KILN_TRY(interp_list_new(it, TSV_LIST, digit == '3' ? 3 : 2, zeros, &lists[3]));
  }
  put(o, "weight", weight);
  put(o, "bias", quantized_arg(c, 1, "bias"));
  put(o, "stride", lists[0]);
  put(o, "padding", lists[1]);
  put(o, "dilation", lists[2]);
  put(o, "output_padding", lists[3]);
  put(o, "groups", quantized_arg(c, 5 + shift, "groups"));
  put(o, "transpose", of_bool(transposed));
  *out = (ts_value){.kind = TSV_OBJECT, .u = {.object = o}};
  return KILN_OK;
}

static kiln_status unpack_object(interp *it, const char *name, const ts_value *v, bool one_dimension, ts_value *out) {
  packed p;
  KILN_TRY(packed_of(it, name, v, &p));
  if (one_dimension && p.weight.kind == TSV_QTENSOR)
    KILN_TRY(view_integers(it, "aten::squeeze", p.weight.u.qtensor, 2, &p.weight));
  const ts_value items[2] = {p.weight, p.bias};
  return interp_list_new(it, TSV_TUPLE, 2, items, out);
}

static kiln_status unpack(interp *it, const ts_call *c, ts_value *out) {
  const ts_value v = quantized_arg(c, 0, "packed_weights");
  return unpack_object(it, c->name, &v, strstr(c->name, "1d_unpack") != NULL, out);
}

kiln_status quantized_method(interp *it, const ts_value *self, const char *name, ts_value *out, bool *out_handled) {
  *out_handled = self->kind == TSV_OBJECT && self->u.object->cls->kind == TSC_BUILTIN &&
                 (str_eq(name, "unpack") || str_eq(name, "bias"));
  if (!*out_handled) return KILN_OK;
  if (str_eq(name, "bias")) return attribute(it, self->u.object, "bias", out);
  return unpack_object(it, name, self, false, out);
}

/* ---- Arithmetic of layers
 * ---------------------------------------------------------------------------------------------------------- */

/* Where the sums of a layer have their channels, and what the sums are: results of `x` and the weight as integers. */
typedef struct sums {
  value *v;
  value *unit; /* s_x s_w: what one step of v is worth, shaped to broadcast */
  value *bias; /* likewise, or NULL */
} sums;

static value *times(interp *it, value *x, value *y) { return x && y ? lower_binary(&it->b, "mul", x, y) : NULL; }

static kiln_status finish_sums(interp *it, const ts_qtensor *x, const packed *p, int axis, sums *s) {
  const ts_qtensor *w = p->weight.u.qtensor;
  const int rank = s->v->type.rank;
  s->unit = times(it, quantized_scale(it, x, 0, -1), quantized_scale(it, w, rank, axis));
  s->bias = NULL;
  if (p->bias.kind == TSV_TENSOR) { /* as a parameter of channels */
    const ts_qtensor as_scale = {.scale = p->bias.u.tensor};
    s->bias = quantized_scale(it, &as_scale, rank, axis);
    if (!s->bias) return interp_no_memory(it);
  }
  return s->unit ? KILN_OK : interp_no_memory(it);
}

static kiln_status linear_sums(interp *it, const ts_call *c, const ts_qtensor *x, const packed *p, sums *s) {
  ts_value args[3] = {of_none(), of_none(), of_none()};
  ts_qtensor *w = NULL;
  KILN_TRY(integer_weight(it, c, p, &w));
  KILN_TRY(quantized_wrap(it, quantized_steps(it, x), &args[0]));
  KILN_TRY(quantized_wrap(it, quantized_steps(it, w), &args[1]));
  KILN_TRY(quantized_aten(it, "aten::linear", 3, args, &s->v));
  return finish_sums(it, x, p, s->v->type.rank - 1, s);
}

static kiln_status conv_sums(interp *it, const ts_call *c, const ts_qtensor *x, const packed *p, sums *s) {
  const char *name = c->name;
  const bool one = strstr(name, "conv1d") || strstr(name, "transpose1d");
  ts_value args[8], transposed;
  ts_qtensor *w = NULL;
  char aten[40];
  KILN_TRY(integer_weight(it, c, p, &w));
  KILN_TRY(attribute(it, p->o, "transpose", &transposed));
  KILN_TRY(quantized_wrap(it, quantized_steps(it, x), &args[0]));
  if (one) {
    const ts_value more[2] = {args[0], of_int(2)};
    KILN_TRY(interp_aten(it, "aten::unsqueeze", 2, more, &args[0]));
  }
  KILN_TRY(quantized_wrap(it, quantized_steps(it, w), &args[1]));
  args[2] = of_none();
  KILN_TRY(attribute(it, p->o, "stride", &args[3]));
  KILN_TRY(attribute(it, p->o, "padding", &args[4]));
  int n = 5;
  if (transposed.u.i) KILN_TRY(attribute(it, p->o, "output_padding", &args[n++]));
  if (transposed.u.i) KILN_TRY(attribute(it, p->o, "groups", &args[n++]));
  KILN_TRY(attribute(it, p->o, "dilation", &args[n++]));
  if (!transposed.u.i) KILN_TRY(attribute(it, p->o, "groups", &args[n++]));
  const bool three = str_ends(p->o->cls->name, "Conv3dPackedParamsBase");
  (void)snprintf(aten, sizeof aten, "aten::conv%s%cd", transposed.u.i ? "_transpose" : "", three ? '3' : '2');
  KILN_TRY(quantized_aten(it, aten, n, args, &s->v));
  if (one) {
    ts_value more[2] = {of_none(), of_int(2)};
    KILN_TRY(quantized_wrap(it, s->v, &more[0]));
    KILN_TRY(quantized_aten(it, "aten::squeeze", 2, more, &s->v));
  }
  return finish_sums(it, x, p, 1, s);
}

static kiln_status requantize(interp *it, const ts_call *c, const sums *s, const quantized_params *y, ts_value *out) {
  builder *b = &it->b;
  value *v = s->v, *scale = lower_cast(b, lower_value(b, y->scale), KILN_F32);
  if (s->bias) v = lower_binary(b, "add", v, lower_binary(b, "div", s->bias, s->unit));
  v = scale ? times(it, v, lower_binary(b, "div", s->unit, scale)) : NULL;
  if (str_ends(c->name, "_relu")) v = build(b, "relu", IN(v), NO_ATTRS);
  return quantized_from_steps(it, v, y, out);
}

static value *real_sums(interp *it, const ts_call *c, const sums *s) {
  value *v = times(it, s->v, s->unit);
  if (v && s->bias) v = lower_binary(&it->b, "add", v, s->bias);
  return v && strstr(c->name, "_relu") ? build(&it->b, "relu", IN(v), NO_ATTRS) : v;
}

static kiln_status static_layer(interp *it, const ts_call *c, ts_value *out) {
  const bool linear = str_starts(c->name, "quantized.linear");
  ts_qtensor *x;
  packed p;
  sums s;
  quantized_params y;
  KILN_TRY(quantized_tensor(it, c, 0, linear ? "X" : "qx", &x));
  KILN_TRY(packed_arg(it, c, 1, linear ? "W_prepack" : "packed_weight", &p));
  if (x->axis >= 0) return IT_FAIL(it, KILN_UNSUPPORTED, "%s: the input is quantized per channel", c->name);
  KILN_TRY(linear ? linear_sums(it, c, x, &p, &s) : conv_sums(it, c, x, &p, &s));
  KILN_TRY(quantized_params_of(it, c, 2, KILN_U8, &y));
  return requantize(it, c, &s, &y, out);
}

/* x quantized with parameters chosen from its values. */
static kiln_status quantize_input(interp *it, const ts_value *v, bool reduce_range, ts_qtensor **out) {
  quantized_params p;
  ts_value q;
  if (v->kind != TSV_TENSOR) return IT_FAIL(it, KILN_INVALID_FILE, "expected a tensor, got %s", interp_kind_name(v));
  value *x = lower_cast(&it->b, lower_value(&it->b, v->u.tensor), KILN_F32);
  KILN_TRY(quantized_choose(it, x, reduce_range, &p));
  KILN_TRY(quantized_from_real(it, x, &p, &q));
  *out = q.u.qtensor;
  return KILN_OK;
}

static bool is_true(const ts_value *v) { return v->kind == TSV_BOOL && v->u.i == 1; }

static kiln_status dynamic_linear_of(interp *it, const ts_call *c, const ts_value *x, const packed *p,
                                     bool reduce_range, value **out) {
  if (p->weight.kind == TSV_TENSOR) { /* fp16 */
    const ts_value args[3] = {*x, p->weight, p->bias};
    return quantized_aten(it, "aten::linear", 3, args, out);
  }
  ts_qtensor *q;
  sums s;
  KILN_TRY(quantize_input(it, x, reduce_range, &q));
  KILN_TRY(linear_sums(it, c, q, p, &s));
  *out = real_sums(it, c, &s);
  return *out ? KILN_OK : interp_no_memory(it);
}

static kiln_status dynamic_linear(interp *it, const ts_call *c, ts_value *out) {
  const ts_value x = quantized_arg(c, 0, "X"), reduce = quantized_arg(c, 2, "reduce_range");
  packed p;
  value *v;
  KILN_TRY(packed_arg(it, c, 1, "W_prepack", &p));
  KILN_TRY(dynamic_linear_of(it, c, &x, &p, is_true(&reduce), &v));
  if (p.weight.kind == TSV_TENSOR && strstr(c->name, "_relu")) v = build(&it->b, "relu", IN(v), NO_ATTRS);
  return quantized_wrap(it, v, out);
}

/* PyTorch's dynamic convolutions quantize their result as their input was, and give its real values. */
static kiln_status dynamic_conv(interp *it, const ts_call *c, ts_value *out) {
  const ts_value x = quantized_arg(c, 0, "qx"), reduce = quantized_arg(c, 2, "reduce_range");
  ts_qtensor *q;
  packed p;
  sums s;
  KILN_TRY(packed_arg(it, c, 1, "packed_weight", &p));
  KILN_TRY(quantize_input(it, &x, is_true(&reduce), &q));
  KILN_TRY(conv_sums(it, c, q, &p, &s));
  const quantized_params y = {q->scale, q->zero_point, KILN_U8};
  KILN_TRY(requantize(it, c, &s, &y, out));
  return quantized_wrap(it, quantized_real(it, out->u.qtensor), out);
}

/* ---- Recurrent layers
 * --------------------------------------------------------------------------------------------------------------- */

static kiln_status aten1(interp *it, const char *name, value *x, value **out) {
  ts_value v;
  KILN_TRY(quantized_wrap(it, x, &v));
  return quantized_aten(it, name, 1, &v, out);
}

static value *gate(interp *it, value *gates, int64_t index, int64_t width) {
  const int axis = gates ? gates->type.rank - 1 : 0;
  return build(&it->b, "slice", IN(gates),
               ATTRS(A_INT("axis", axis), A_INT("start", index * width), A_INT("end", (index + 1) * width)));
}

/* Gates of an LSTM in PyTorch's order: input, forget, cell, output. */
static kiln_status lstm_step(interp *it, value *gates, value **h, value **c) {
  value *part[4];
  const dim width = (*h)->type.dims[(*h)->type.rank - 1];
  if (!gates || !dim_is_const(width)) return interp_no_memory(it);
  for (int i = 0; i < 4; i++)
    KILN_TRY(aten1(it, i == 2 ? "aten::tanh" : "aten::sigmoid", gate(it, gates, i, width), &part[i]));
  value *kept = times(it, part[1], *c), *added = times(it, part[0], part[2]), *bounded;
  *c = kept && added ? lower_binary(&it->b, "add", kept, added) : NULL;
  KILN_TRY(aten1(it, "aten::tanh", *c, &bounded));
  *h = times(it, part[3], bounded);
  return *h ? KILN_OK : interp_no_memory(it);
}

/* Gates of a GRU: reset, update, new; each half of the gates has its bias in it. */
static kiln_status gru_step(interp *it, value *from_input, value *from_state, value **h) {
  value *part[2], *fresh;
  const dim width = (*h)->type.dims[(*h)->type.rank - 1];
  if (!from_input || !from_state || !dim_is_const(width)) return interp_no_memory(it);
  for (int i = 0; i < 2; i++) {
    value *x = gate(it, from_input, i, width), *y = gate(it, from_state, i, width);
    KILN_TRY(aten1(it, "aten::sigmoid", x && y ? lower_binary(&it->b, "add", x, y) : NULL, &part[i]));
  }
  value *x = gate(it, from_input, 2, width), *y = times(it, part[0], gate(it, from_state, 2, width));
  KILN_TRY(aten1(it, "aten::tanh", x && y ? lower_binary(&it->b, "add", x, y) : NULL, &fresh));
  value *difference = lower_binary(&it->b, "sub", *h, fresh);
  value *kept = times(it, difference, part[1]);
  *h = kept ? lower_binary(&it->b, "add", kept, fresh) : NULL;
  return *h ? KILN_OK : interp_no_memory(it);
}

/* One cell: gates from the input and from the state, each through a dynamic linear layer. */
static kiln_status cell_step(interp *it, const ts_call *call, bool lstm, value *from_input, const packed *hidden,
                             value **h, value **c) {
  value *from_state;
  ts_value state;
  KILN_TRY(quantized_wrap(it, *h, &state));
  KILN_TRY(dynamic_linear_of(it, call, &state, hidden, true, &from_state));
  if (!lstm) return gru_step(it, from_input, from_state, h);
  return lstm_step(it, lower_binary(&it->b, "add", from_input, from_state), h, c);
}

typedef struct recurrent {
  const ts_call *call;
  bool lstm;
  packed input, hidden;
  value *h, *c; /* [B, H] */
} recurrent;

static value *at_step(interp *it, value *x, int64_t t) {
  dim shape[KILN_MAX_RANK];
  value *v = build(&it->b, "slice", IN(x), ATTRS(A_INT("axis", 0), A_INT("start", t), A_INT("end", t + 1)));
  if (!v) return NULL;
  for (int i = 1; i < v->type.rank; i++) shape[i - 1] = v->type.dims[i];
  return lower_reshape(&it->b, v, v->type.rank - 1, shape);
}

static kiln_status stack(interp *it, const ts_value *items, int n, int64_t axis, value **out) {
  ts_value args[2] = {of_none(), of_int(axis)};
  KILN_TRY(interp_list_new(it, TSV_LIST, n, items, &args[0]));
  return quantized_aten(it, "aten::stack", 2, args, out);
}

/* One layer in one direction over x[T, B, I]; the input's gates are made for all steps at once, as PyTorch does on
 * CPUs. */
static kiln_status run_direction(interp *it, recurrent *r, const ts_value *x, bool backward, value **out) {
  value *gates;
  KILN_TRY(dynamic_linear_of(it, r->call, x, &r->input, true, &gates));
  const dim steps = gates->type.dims[0];
  if (!dim_is_const(steps) || steps < 1)
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s: the sequence's length must be fixed; give this input a static shape",
                   r->call->name);
  if (steps > 4096)
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s: sequences of more than 4096 steps are not supported", r->call->name);
  ts_value *outputs = ARENA_ARRAY(it->arena, ts_value, steps);
  if (!outputs) return interp_no_memory(it);
  for (int64_t i = 0; i < steps; i++) {
    const int64_t t = backward ? steps - 1 - i : i;
    KILN_TRY(cell_step(it, r->call, r->lstm, at_step(it, gates, t), &r->hidden, &r->h, &r->c));
    KILN_TRY(quantized_wrap(it, r->h, &outputs[t]));
  }
  return stack(it, outputs, (int)steps, 0, out);
}

static kiln_status cell_packed(interp *it, const ts_call *c, const ts_value *v, recurrent *r) {
  ts_value input, hidden;
  if (v->kind != TSV_OBJECT)
    return IT_FAIL(it, KILN_INVALID_FILE, "%s: parameters of a cell are %s", c->name, interp_kind_name(v));
  KILN_TRY(attribute(it, v->u.object, "w_ih", &input));
  KILN_TRY(attribute(it, v->u.object, "w_hh", &hidden));
  KILN_TRY(packed_of(it, c->name, &input, &r->input));
  return packed_of(it, c->name, &hidden, &r->hidden);
}

static kiln_status layer_state(interp *it, const ts_call *c, const ts_value *v, int64_t index, value **out) {
  const value *all = v->kind == TSV_TENSOR ? lower_value(&it->b, v->u.tensor) : NULL;
  if (!all || all->type.rank != 3 || !dim_is_const(all->type.dims[0]) || index >= all->type.dims[0])
    return IT_FAIL(it, KILN_INVALID_FILE, "%s: the first state must be [layers, batch, hidden] for each layer",
                   c->name);
  *out = at_step(it, lower_value(&it->b, v->u.tensor), index);
  return *out ? KILN_OK : interp_no_memory(it);
}

static kiln_status transpose_first(interp *it, ts_value *v) {
  const ts_value args[3] = {*v, of_int(0), of_int(1)};
  return interp_aten(it, "aten::transpose", 3, args, v);
}

enum { MAX_CELLS = 64 };

/* quantized_lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first), quantized_gru
 * likewise with one tensor for hx. */
static kiln_status recurrent_layers(interp *it, const ts_call *c, ts_value *out) {
  const ts_value states = quantized_arg(c, 1, "hx"), params = quantized_arg(c, 2, "params");
  const ts_value two = quantized_arg(c, 7, "bidirectional"), first = quantized_arg(c, 8, "batch_first");
  const int directions = is_true(&two) ? 2 : 1;
  recurrent r = {.call = c, .lstm = str_eq(c->name, "quantized_lstm")};
  const ts_list *hx = interp_items(&states), *cells = interp_items(&params);
  ts_value x = quantized_arg(c, 0, "input"), last_h[MAX_CELLS], last_c[MAX_CELLS];
  if (x.kind != TSV_TENSOR || !cells || (r.lstm ? !hx || hx->count != 2 : states.kind != TSV_TENSOR))
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s: packed sequences are not supported", c->name);
  if (cells->count < 1 || cells->count > MAX_CELLS || cells->count % directions)
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s: %d cells are not supported", c->name, cells->count);
  if (is_true(&first)) KILN_TRY(transpose_first(it, &x));
  for (int layer = 0; layer < cells->count / directions; layer++) {
    value *parts[2] = {NULL, NULL};
    for (int d = 0; d < directions; d++) {
      const int k = layer * directions + d;
      KILN_TRY(cell_packed(it, c, &cells->items[k], &r));
      KILN_TRY(layer_state(it, c, r.lstm ? &hx->items[0] : &states, k, &r.h));
      if (r.lstm) KILN_TRY(layer_state(it, c, &hx->items[1], k, &r.c));
      KILN_TRY(run_direction(it, &r, &x, d == 1, &parts[d]));
      KILN_TRY(quantized_wrap(it, r.h, &last_h[k]));
      if (r.lstm) KILN_TRY(quantized_wrap(it, r.c, &last_c[k]));
    }
    value *y = directions == 2 ? build(&it->b, "concat", IN(parts[0], parts[1]), ATTRS(A_INT("axis", 2))) : parts[0];
    KILN_TRY(quantized_wrap(it, y, &x));
  }
  if (is_true(&first)) KILN_TRY(transpose_first(it, &x));
  ts_value results[3] = {x, of_none(), of_none()};
  value *h, *cell = NULL;
  KILN_TRY(stack(it, last_h, cells->count, 0, &h));
  KILN_TRY(quantized_wrap(it, h, &results[1]));
  if (r.lstm) KILN_TRY(stack(it, last_c, cells->count, 0, &cell));
  if (r.lstm) KILN_TRY(quantized_wrap(it, cell, &results[2]));
  return interp_list_new(it, TSV_TUPLE, r.lstm ? 3 : 2, results, out);
}

/* quantized_lstm_cell_dynamic(input, [h, c], w_ih, w_hh, b_ih, b_hh), quantized_gru_cell_dynamic with a tensor for the
 * state. The biases are in the packed weights. */
static kiln_status recurrent_cell(interp *it, const ts_call *c, ts_value *out) {
  const ts_value x = quantized_arg(c, 0, "input"), states = quantized_arg(c, 1, "hx");
  recurrent r = {.call = c, .lstm = strstr(c->name, "lstm") != NULL};
  const ts_list *hx = interp_items(&states);
  const ts_value *h = r.lstm && hx && hx->count == 2 ? &hx->items[0] : &states,
                 *cell = h == &states ? NULL : &hx->items[1];
  ts_value results[2];
  value *gates;
  if (h->kind != TSV_TENSOR || (r.lstm && (!cell || cell->kind != TSV_TENSOR)))
    return IT_FAIL(it, KILN_INVALID_FILE, "%s: the state is %s", c->name, interp_kind_name(&states));
  KILN_TRY(packed_arg(it, c, 2, "w_ih", &r.input));
  KILN_TRY(packed_arg(it, c, 3, "w_hh", &r.hidden));
  r.h = lower_value(&it->b, h->u.tensor);
  if (cell) r.c = lower_value(&it->b, cell->u.tensor);
  if (!r.h || (cell && !r.c)) return interp_no_memory(it);
  KILN_TRY(dynamic_linear_of(it, c, &x, &r.input, true, &gates));
  KILN_TRY(cell_step(it, c, r.lstm, gates, &r.hidden, &r.h, &r.c));
  KILN_TRY(quantized_wrap(it, r.h, &results[0]));
  if (!r.lstm) {
    *out = results[0];
    return KILN_OK;
  }
  KILN_TRY(quantized_wrap(it, r.c, &results[1]));
  return interp_list_new(it, TSV_TUPLE, 2, results, out);
}

/* ---- Rows
 * -----------------------------------------------------------------------------------------------------------------------------
 */

const quantized_row quantized_layer_rows[] = {{"quantized.linear", static_layer},
                                              {"quantized.linear_relu", static_layer},
                                              {"quantized.linear_dynamic", dynamic_linear},
                                              {"quantized.linear_relu_dynamic", dynamic_linear},
                                              {"quantized.linear_dynamic_fp16", dynamic_linear},
                                              {"quantized.linear_relu_dynamic_fp16", dynamic_linear},
                                              {"quantized.linear_prepack", linear_prepack},
                                              {"quantized.linear_prepack_fp16", linear_prepack},
                                              {"quantized.linear_unpack", unpack},
                                              {"quantized.linear_unpack_fp16", unpack},
                                              {"quantized.conv1d", static_layer},
                                              {"quantized.conv1d_relu", static_layer},
                                              {"quantized.conv2d", static_layer},
                                              {"quantized.conv2d_relu", static_layer},
                                              {"quantized.conv3d", static_layer},
                                              {"quantized.conv3d_relu", static_layer},
                                              {"quantized.conv_transpose1d", static_layer},
                                              {"quantized.conv_transpose2d", static_layer},
                                              {"quantized.conv_transpose3d", static_layer},
                                              {"quantized.conv1d_dynamic", dynamic_conv},
                                              {"quantized.conv2d_dynamic", dynamic_conv},
                                              {"quantized.conv3d_dynamic", dynamic_conv},
                                              {"quantized.conv_transpose1d_dynamic", dynamic_conv},
                                              {"quantized.conv_transpose2d_dynamic", dynamic_conv},
                                              {"quantized.conv_transpose3d_dynamic", dynamic_conv},
                                              {"quantized.conv1d_prepack", conv_prepack},
                                              {"quantized.conv2d_prepack", conv_prepack},
                                              {"quantized.conv3d_prepack", conv_prepack},
                                              {"quantized.conv_transpose1d_prepack", conv_prepack},
                                              {"quantized.conv_transpose2d_prepack", conv_prepack},
                                              {"quantized.conv_transpose3d_prepack", conv_prepack},
                                              {"quantized.conv1d_unpack", unpack},
                                              {"quantized.conv2d_unpack", unpack},
                                              {"quantized.conv3d_unpack", unpack},
                                              {"quantized.conv_transpose1d_unpack", unpack},
                                              {"quantized.conv_transpose2d_unpack", unpack},
                                              {"quantized.conv_transpose3d_unpack", unpack},
                                              {"quantized_lstm", recurrent_layers},
                                              {"quantized_gru", recurrent_layers},
                                              {"quantized.quantized_lstm_cell_dynamic", recurrent_cell},
                                              {"quantized.quantized_gru_cell_dynamic", recurrent_cell},
                                              {NULL, NULL}};
