/* Calls of operators: builtins first, then the schemas of the operator table.
 *
 * The file does not say which overload a call means. As PyTorch, we take the first schema whose arguments fit as they
 * are, then the first that fits with conversions (a number for a Tensor, an int for a float). */
#include <stdio.h>
#include <string.h>

#include "import/calibration.h"
#include "import/torchscript/grown.h"
#include "import/torchscript/interpreter.h"
#include "import/torchscript/quantized.h"

enum { NO_FIT = 0, LOOSE = 1, STRICT = 2, MAX_RESULTS = 16 };

/* ---- one argument ----------------------------------------------------------------------------------------------- */

static bool word_is(const char *type, size_t n, const char *word) {
  return strlen(word) == n && memcmp(type, word, n) == 0;
}

static ivalue iv(ivalue_kind kind, dim i) {
  ivalue v = {.kind = kind};
  v.u.i = i;
  return v;
}

static ivalue iv_tensor(itensor *t) {
  ivalue v = {.kind = IV_TENSOR};
  v.u.t = t;
  return v;
}

static int fit_number(interp *it, const char *type, size_t n, const ts_value *v, ivalue *out) {
  *out = v->kind == TSV_INT ? iv(IV_INT, v->u.i) : v->kind == TSV_BOOL ? iv(IV_BOOL, v->u.i) : iv(IV_FLOAT, 0);
  if (v->kind == TSV_FLOAT) out->u.f = v->u.f;
  if (word_is(type, n, "Scalar")) return STRICT;
  if (word_is(type, n, "Tensor")) return LOOSE;
  if (word_is(type, n, "int") || word_is(type, n, "SymInt"))
    return v->kind == TSV_INT ? STRICT : v->kind == TSV_BOOL ? LOOSE : NO_FIT;
  if (word_is(type, n, "float")) return v->kind == TSV_FLOAT ? STRICT : v->kind == TSV_INT ? LOOSE : NO_FIT;
  if (word_is(type, n, "bool")) return v->kind == TSV_BOOL ? STRICT : v->kind == TSV_INT ? LOOSE : NO_FIT;
  if (word_is(type, n, "ScalarType")) {
    const kiln_dtype d = v->kind == TSV_INT ? interp_dtype(v->u.i) : KILN_DTYPE_COUNT;
    *out = iv(IV_DTYPE, d == KILN_DTYPE_COUNT ? -1 : (int64_t)d);
    return v->kind == TSV_INT ? STRICT : NO_FIT;
  }
  if (word_is(type, n, "Layout") || word_is(type, n, "MemoryFormat")) {
    *out = (ivalue){.kind = word_is(type, n, "Layout") ? IV_LAYOUT : IV_NONE};
    return v->kind == TSV_INT ? STRICT : NO_FIT;
  }
  (void)it;
  return NO_FIT;
}

static int fit(interp *it, const char *type, size_t n, const ts_value *v, ivalue *out);

static int fit_list(interp *it, const char *type, size_t n, const ts_value *v, ivalue *out) {
  size_t open = n - 1;
  while (open > 0 && type[open] != '[') open--;
  const ts_list *l = interp_items(v);
  if (!l) { /* int[2] takes one int */
    const int f = n - open > 2 ? fit(it, type, open, v, out) : NO_FIT;
    return f == NO_FIT ? NO_FIT : LOOSE;
  }
  ivalue *items = ARENA_ARRAY(it->arena, ivalue, l->count ? l->count : 1);
  if (!items) return NO_FIT;
  int worst = STRICT;
  for (int i = 0; i < l->count && worst != NO_FIT; i++) {
    const int f = fit(it, type, open, &l->items[i], &items[i]);
    if (f < worst) worst = f;
  }
  *out = (ivalue){.kind = IV_LIST, .count = l->count};
  out->u.items = items;
  return worst;
}

/* Tensors of one element stand for numbers (ScalarImplicit) where they are known. */
static int fit_implicit(interp *it, const char *type, size_t n, const ts_value *v, ivalue *out) {
  const bool scalar = word_is(type, n, "Scalar"), integer = word_is(type, n, "int") || word_is(type, n, "SymInt");
  const bool number_wanted = scalar || integer || word_is(type, n, "float");
  value *x = number_wanted && !v->u.tensor->parts[0] ? lower_value(&it->b, v->u.tensor) : NULL;
  dim d;
  ts_value number;
  if (!x || x->type.rank != 0) return NO_FIT;
  const bool real = dtype_is_float(x->type.dtype);
  if (real ? integer || !interp_fold(it, x) : !interp_fold(it, x) && !interp_known_dim(it, x, &d)) return NO_FIT;
  const ts_type_kind kind = real ? TST_FLOAT : x->type.dtype == KILN_BOOL ? TST_BOOL : TST_INT;
  if (interp_scalar(it, x, kind, &number) != KILN_OK || number.kind == TSV_DATA) return NO_FIT;
  return fit_number(it, type, n, &number, out) == NO_FIT ? NO_FIT : LOOSE;
}

static int fit(interp *it, const char *type, size_t n, const ts_value *v, ivalue *out) {
  if (n > 0 && type[n - 1] == '?') {
    if (v->kind == TSV_NONE) {
      *out = (ivalue){.kind = IV_NONE};
      return STRICT;
    }
    n--;
  }
  if (n > 0 && type[n - 1] == ']') return fit_list(it, type, n, v, out);
  switch (v->kind) {
    case TSV_TENSOR:
      *out = iv_tensor(v->u.tensor);
      return word_is(type, n, "Tensor") ? STRICT : fit_implicit(it, type, n, v, out);
    case TSV_INT:
    case TSV_FLOAT:
    case TSV_BOOL:
      return fit_number(it, type, n, v, out);
    case TSV_STR:
      *out = (ivalue){.kind = IV_STR};
      out->u.s = v->u.s;
      if (word_is(type, n, "Device")) *out = (ivalue){.kind = IV_DEVICE};
      return word_is(type, n, "str") ? STRICT : word_is(type, n, "Device") ? LOOSE : NO_FIT;
    case TSV_DEVICE:
      *out = (ivalue){.kind = IV_DEVICE};
      return word_is(type, n, "Device") ? STRICT : NO_FIT;
    case TSV_NONE: /* Generator and the like are always absent */
      *out = (ivalue){.kind = IV_NONE};
      return word_is(type, n, "Generator") ? STRICT : NO_FIT;
    default:
      return NO_FIT;
  }
}

/* ---- all arguments ---------------------------------------------------------------------------------------------- */

/* The slots of args[] that the call gives; NO_FIT if the schema has no room for one. */
static int fit_schema(interp *it, const aten_schema *s, const ts_call *c, ivalue *args) {
  bool given[64] = {false};
  int worst = STRICT;
  for (int i = 0; i < c->n; i++) {
    int at = i;
    if (c->names && c->names[i]) {
      for (at = 0; at < s->n_args && !str_eq(s->args[at].name, c->names[i]);) at++;
    } else if (i < s->n_args && s->args[i].keyword_only) {
      return NO_FIT;
    }
    if (at >= s->n_args || at >= (int)KILN_COUNT(given) || given[at]) return NO_FIT;
    given[at] = true;
    const int f = fit(it, s->args[at].type, strlen(s->args[at].type), &c->args[i], &args[at]);
    if (f == NO_FIT) return NO_FIT;
    if (f < worst) worst = f;
  }
  for (int i = 0; i < s->n_args; i++) {
    if (given[i]) continue;
    if (!s->args[i].has_default) return NO_FIT;
    args[i] = s->args[i].fallback;
  }
  return worst;
}

typedef struct candidate {
  const aten_schema *schema;
  bool in_place;
} candidate;

/* All rows that a call of this name may mean, in-place forms included. */
static int find_candidates(const char *name, candidate *out, int max) {
  const aten_schema *const *list = NULL;
  char functional[128];
  int n = 0;
  const size_t length = strlen(name);
  for (int pass = 0; pass < 2; pass++) {
    int count = 0;
    if (pass == 0) {
      count = aten_find(name, &list);
    } else if (length > 7 && length < sizeof functional && name[length - 1] == '_' && name[length - 2] != '_') {
      memcpy(functional, name, length - 1);
      functional[length - 1] = 0;
      count = aten_find(functional, &list);
    } else if (length > 8 && str_starts(name + 6, "__i")) { /* __iand__ */
      snprintf(functional, sizeof functional, "aten::__%s", name + 9);
      count = length < 100 ? aten_find(functional, &list) : 0;
    }
    for (int i = 0; i < count && n < max; i++) {
      candidate c = {0};
      c.schema = aten_resolve(name, list[i]->overload, &c.in_place);
      bool known = !c.schema;
      for (int k = 0; k < n && !known; k++) known = out[k].schema == c.schema && out[k].in_place == c.in_place;
      if (!known) out[n++] = c;
    }
  }
  return n;
}

/* ---- numbers that are data -------------------------------------------------------------------------------------- */

static int category(kiln_dtype d) { return d == KILN_BOOL ? 0 : dtype_is_int(d) ? 1 : 2; }

/* Numbers weigh less than tensors: an int that is data takes the dtype of the tensor beside it, and so on. */
static kiln_status data_tensor(interp *it, const ts_call *c, const ts_value *v, ts_value *out) {
  value *x = v->u.data;
  kiln_dtype other = KILN_DTYPE_COUNT;
  for (int i = 0; i < c->n && other == KILN_DTYPE_COUNT; i++) {
    if (c->args[i].kind != TSV_TENSOR) continue;
    const value *t = lower_value(&it->b, c->args[i].u.tensor);
    if (!t) return interp_no_memory(it);
    other = t->type.dtype;
  }
  if (other != KILN_DTYPE_COUNT) {
    if (category(x->type.dtype) <= category(other))
      x = lower_cast(&it->b, x, other);
    else if (x->type.dtype == KILN_F64)
      x = lower_cast(&it->b, x, KILN_F32);
  }
  return interp_new_tensor(it, x, out);
}

static kiln_status replace_data(interp *it, const ts_call *c, ts_call *out) {
  bool any = false;
  *out = *c;
  for (int i = 0; i < c->n; i++) {
    any |= c->args[i].kind == TSV_DATA;
    const ts_list *l = interp_items(&c->args[i]);
    for (int k = 0; l && k < l->count && !any; k++) any = l->items[k].kind == TSV_DATA;
  }
  if (!any) return KILN_OK;
  out->args = ARENA_ARRAY(it->arena, ts_value, c->n);
  if (!out->args) return interp_no_memory(it);
  for (int i = 0; i < c->n; i++) {
    out->args[i] = c->args[i];
    if (c->args[i].kind == TSV_DATA) KILN_TRY(data_tensor(it, c, &c->args[i], &out->args[i]));
  }
  return KILN_OK;
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

static kiln_status from_ivalue(interp *it, const ivalue *v, ts_value *out) {
  switch (v->kind) {
    case IV_TENSOR: {
      const value *x = v->u.t->v;
      size_t bytes = 0;
      *out = of_tensor(v->u.t);
      if (!x || !type_is_static(&x->type) || (type_bytes(&x->type, &bytes) && bytes < (size_t)1 << 46)) return KILN_OK;
      return IT_FAIL(it, KILN_UNSUPPORTED, "a tensor of more bytes than memory can hold");
    }
    case IV_INT:
      *out = of_int(v->u.i);
      return KILN_OK;
    case IV_BOOL:
      *out = of_bool(v->u.i != 0);
      return KILN_OK;
    case IV_FLOAT:
      *out = of_float(v->u.f);
      return KILN_OK;
    case IV_STR:
      *out = of_string(v->u.s);
      return KILN_OK;
    case IV_DTYPE:
      *out = of_int(interp_dtype_code((kiln_dtype)v->u.i));
      return KILN_OK;
    case IV_LIST:
      KILN_TRY(interp_list_new(it, TSV_LIST, v->count, NULL, out));
      for (int32_t i = 0; i < v->count; i++) KILN_TRY(from_ivalue(it, &v->u.items[i], &out->u.list->items[i]));
      return KILN_OK;
    default:
      *out = of_none();
      return KILN_OK;
  }
}

static kiln_status run(interp *it, const candidate *chosen, ivalue *args, ts_value *out) {
  ivalue results[MAX_RESULTS];
  const aten_schema *s = chosen->schema;
  it->b.source = ts_source(it->a, interp_here(it), it->frame ? it->frame->line : 0);
  lower_call call = {.im = &it->a->im, .b = it->b, .schema = s, .args = args, .results = results};
  call.n_results = s->n_returns;
  call.in_place = chosen->in_place;
  if (call.n_results > MAX_RESULTS) return KILN_FAIL(KILN_INTERNAL, "%s has too many results", s->name);
  /* The method itself runs as one region (state.c): layers in branches and loops on data are left as they are. */
  if (call.im->calibration && it->regions == 1) KILN_TRY(calibration_script_call(call.im->calibration, &call));
  const kiln_status status = lower_run(&call);
  if (status != KILN_OK)
    return error_note(status, __FILE__, __LINE__, "importing %s at %s%s%s", s->name, it->b.source,
                      *it->b.path ? ", module " : "", it->b.path);
  if (call.n_results == 1) return from_ivalue(it, &results[0], out);
  KILN_TRY(interp_list_new(it, TSV_TUPLE, call.n_results, NULL, out));
  for (int32_t i = 0; i < call.n_results; i++) KILN_TRY(from_ivalue(it, &results[i], &out->u.list->items[i]));
  if (call.n_results == 0) *out = of_none();
  return KILN_OK;
}

static kiln_status no_overload(interp *it, const char *name, const ts_call *c) {
  text t = {0};
  bool data = false;
  for (int i = 0; i < c->n; i++) {
    text_printf(&t, "%s%s%s%s", i ? ", " : "", c->names && c->names[i] ? c->names[i] : "",
                c->names && c->names[i] ? "=" : "", interp_kind_name(&c->args[i]));
    data |= c->args[i].kind == TSV_DATA;
    const ts_list *l = interp_items(&c->args[i]);
    for (int k = 0; l && k < l->count; k++) data |= l->items[k].kind == TSV_DATA;
  }
  const kiln_status status = IT_FAIL(it, KILN_UNSUPPORTED,
                                     data ? "%s(%.300s): a number that depends on tensor data is not supported here"
                                          : "%s: no supported variant takes (%.300s)",
                                     name, t.data ? t.data : "");
  text_free(&t);
  return status;
}

/* f(..., out=t): f, and a write to t. */
static kiln_status call_with_out(interp *it, const char *qualified, const ts_call *c, int at, ts_value *out) {
  ts_value args[64];
  const char *names[64];
  const ts_value target = c->args[at];
  bool found = false;
  int n = 0;
  for (int i = 0; i < c->n; i++) {
    if (i == at) continue;
    names[n] = c->names[i];
    args[n++] = c->args[i];
  }
  const ts_call call = {.name = c->name, .n = n, .args = args, .names = names};
  KILN_TRY(interp_call_schema(it, qualified, &call, &found, out));
  if (target.kind == TSV_NONE) return KILN_OK;
  value *old = target.kind == TSV_TENSOR ? lower_value(&it->b, target.u.tensor) : NULL;
  value *made = out->kind == TSV_TENSOR ? lower_value(&it->b, out->u.tensor) : NULL;
  bool same = old && made && old->type.rank == made->type.rank;
  for (int i = 0; same && i < old->type.rank; i++)
    same = dim_compare_equal(it->g->dims, old->type.dims[i], made->type.dims[i]) == 1;
  if (!same)
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s(out=...): only a tensor of the result's shape is supported", qualified);
  KILN_TRY(lower_write(&it->b, target.u.tensor, made));
  *out = target;
  return KILN_OK;
}

/* squeeze_(x) and its like: the view that the functional form gave is what x is from now on. */
static kiln_status change_shape(interp *it, const char *qualified, const candidate *chosen, const ts_call *c,
                                ts_value *out) {
  const size_t n = strlen(chosen->schema->name);
  if (strncmp(qualified, chosen->schema->name, n) != 0 || qualified[n] != '_' || out->kind != TSV_TENSOR || c->n < 1 ||
      c->args[0].kind != TSV_TENSOR)
    return KILN_OK;
  if (it->scope && c->args[0].u.tensor->serial <= it->scope->serial)
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s of an input, or of a tensor from outside of a data-dependent branch",
                   qualified);
  if (!handle_become(&it->a->im, c->args[0].u.tensor, out->u.tensor)) return interp_no_memory(it);
  *out = c->args[0];
  return KILN_OK;
}

/* The constant that an argument is, if it could stand for a number. */
static constant *scalar_weight(const ts_value *v) {
  const value *x = v->kind == TSV_TENSOR ? v->u.tensor->v : NULL; /* NULL: a complex tensor */
  constant *c = x ? x->constant : NULL;
  return c && c->names && c->of->type.rank == 0 ? c : NULL;
}

/* The row that fits best, or -1. Rows that are only tried may look into weights; what the chosen one has looked into is fixed. */
static int choose(interp *it, const candidate *list, int n, const ts_call *c, ivalue *best) {
  ivalue args[64];
  bool fixed[64] = {false}, again = false;
  int chosen = -1;
  for (int i = 0; i < c->n; i++) fixed[i] = scalar_weight(&c->args[i]) && scalar_weight(&c->args[i])->fixed;
  for (int i = 0; i < n; i++) {
    const int f = fit_schema(it, list[i].schema, c, args);
    if (f == NO_FIT || (f == LOOSE && chosen >= 0)) continue;
    chosen = i;
    memcpy(best, args, (size_t)list[i].schema->n_args * sizeof *args);
    if (f == STRICT) break;
  }
  for (int i = 0; i < c->n; i++) {
    constant *w = scalar_weight(&c->args[i]);
    again = again || (w && w->fixed && !fixed[i]);
    if (w) w->fixed = fixed[i];
  }
  if (again && chosen >= 0) (void)fit_schema(it, list[chosen].schema, c, args);
  return chosen;
}

kiln_status interp_call_schema(interp *it, const char *qualified, const ts_call *c, bool *out_found, ts_value *out) {
  candidate list[48];
  ivalue best[64];
  ts_call call;
  const int n = find_candidates(qualified, list, (int)KILN_COUNT(list));
  *out_found = n > 0;
  if (n == 0) return KILN_OK;
  if (c->n > 64) return no_overload(it, qualified, c);
  for (int i = 0; i < c->n; i++)
    if (c->names && str_eq(c->names[i], "out")) return call_with_out(it, qualified, c, i, out);
  KILN_TRY(replace_data(it, c, &call));
  const int chosen = choose(it, list, n, &call, best);
  if (it->arena->failed) return interp_no_memory(it);
  if (chosen < 0) return no_overload(it, qualified, c);
  KILN_TRY(run(it, &list[chosen], best, out));
  return str_ends(qualified, "_") && !list[chosen].in_place ? change_shape(it, qualified, &list[chosen], &call, out)
                                                            : KILN_OK;
}

kiln_status interp_aten(interp *it, const char *name, int n, const ts_value *args, ts_value *out) {
  bool found = false;
  ts_value copy[8];
  if (n > (int)KILN_COUNT(copy)) return KILN_FAIL(KILN_INTERNAL, "%s: too many arguments", name);
  memcpy(copy, args, (size_t)n * sizeof *args);
  const ts_call call = {name, n, copy, NULL};
  KILN_TRY(interp_call_schema(it, name, &call, &found, out));
  return found ? KILN_OK : KILN_FAIL(KILN_INTERNAL, "%s has no row", name);
}

/* "add" -> "aten::add", "prim.dtype" -> "prim::dtype" */
static void qualify(const char *name, char *out, size_t size) {
  const char *dot = strchr(name, '.');
  if (dot)
    snprintf(out, size, "%.*s::%s", (int)(dot - name), name, dot + 1);
  else
    snprintf(out, size, "aten::%s", name);
}

kiln_status interp_call_operator(interp *it, const ts_call *c, ts_value *out) {
  char name[256];
  bool handled = false;
  if (strlen(c->name) > 200) return IT_FAIL(it, KILN_UNSUPPORTED, "operator %.100s is not supported", c->name);
  const char *plain = str_starts(c->name, "aten.") ? c->name + 5 : c->name;
  const ts_builtin_link *b = map_get(&it->builtins, plain);
  ts_call call = *c;
  call.name = plain;
  if (it->a->version < 8) KILN_TRY(interp_upgrade(it, &(ts_call){plain, c->n, c->args, c->names}, &call));
  if (grown_takes(&call)) return grown_call(it, &call, out);
  if (quantized_takes(&call)) return quantized_call(it, &call, out);
  for (const ts_builtin_link *l = b; l && !handled; l = l->next) KILN_TRY(l->fn(it, &call, out, &handled));
  if (handled) return KILN_OK;
  qualify(plain, name, sizeof name);
  KILN_TRY(interp_call_schema(it, name, &call, &handled, out));
  if (handled) return KILN_OK;
  if (b) return no_overload(it, name, c);
  return IT_FAIL(it, KILN_UNSUPPORTED, "operator %s is not supported", name);
}
