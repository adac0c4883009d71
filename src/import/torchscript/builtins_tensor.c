/* What TorchScript asks of tensors besides computing with them: sizes, types, elements as numbers; and tensors made
 * from numbers. */
#include <math.h>
#include <string.h>

#include "import/torchscript/interpreter.h"
#include "ops/ref.h"

enum { TOLIST_MAX = 1024 };

static itensor *tensor_arg(const ts_call *c) {
  return c->n > 0 && c->args[0].kind == TSV_TENSOR ? c->args[0].u.tensor : NULL;
}

static kiln_status type_of_arg(interp *it, const ts_call *c, const tensor_type **out) {
  const value *v = lower_value(&it->b, tensor_arg(c));
  if (!v) return interp_no_memory(it);
  *out = &v->type;
  return KILN_OK;
}

/* Of a complex tensor, the type of its parts. */
static kiln_status shape_of_arg(interp *it, const ts_call *c, const tensor_type **out) {
  itensor *t = tensor_arg(c);
  const value *v = lower_value(&it->b, t && t->parts[0] ? t->parts[0] : t);
  if (!v) return interp_no_memory(it);
  *out = &v->type;
  return KILN_OK;
}

/* ---- sizes ------------------------------------------------------------------------------------------------------ */

static kiln_status do_size(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const tensor_type *t;
  int64_t axis = 0;
  if (!tensor_arg(c)) return KILN_OK;
  KILN_TRY(shape_of_arg(it, c, &t));
  *handled = true;
  if (c->n == 1) {
    KILN_TRY(interp_list_new(it, TSV_LIST, t->rank, NULL, out));
    for (int i = 0; i < t->rank; i++) out->u.list->items[i] = of_int(t->dims[i]);
    return KILN_OK;
  }
  KILN_TRY(interp_arg_int(it, c, 1, "dim", 0, &axis));
  const int64_t at = axis < 0 ? axis + t->rank : axis;
  if (at < 0 || at >= t->rank)
    return IT_FAIL(it, KILN_INVALID_ARGUMENT, "size(): dimension %lld of a tensor that has %d", (long long)axis,
                   (int)t->rank);
  *out = of_int(t->dims[at]);
  return KILN_OK;
}

static kiln_status do_len(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const tensor_type *t;
  if (!tensor_arg(c)) return KILN_OK;
  KILN_TRY(shape_of_arg(it, c, &t));
  *handled = true;
  if (t->rank == 0) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "len() of a tensor without dimensions");
  *out = of_int(t->dims[0]);
  return KILN_OK;
}

static kiln_status do_stride(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const tensor_type *t;
  dim strides[KILN_MAX_RANK], next = 1;
  int64_t axis;
  if (!tensor_arg(c)) return KILN_OK;
  KILN_TRY(type_of_arg(it, c, &t));
  *handled = true;
  if (handle_strides(tensor_arg(c), strides) != 1) {
    if (tensor_arg(c)->base != tensor_arg(c))
      return IT_FAIL(it, KILN_UNSUPPORTED, "stride() of a view whose sizes are not fixed");
    for (int i = t->rank - 1; i >= 0; i--) {
      strides[i] = next;
      next = dim_mul(it->g->dims, next, t->dims[i]);
    }
  }
  if (c->n > 1) {
    KILN_TRY(interp_arg_int(it, c, 1, "dim", 0, &axis));
    if (axis < 0) axis += t->rank;
    if (axis < 0 || axis >= t->rank) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "stride(): dimension out of range");
    *out = of_int(strides[axis]);
    return KILN_OK;
  }
  KILN_TRY(interp_list_new(it, TSV_LIST, t->rank, NULL, out));
  for (int i = 0; i < t->rank; i++) out->u.list->items[i] = of_int(strides[i]);
  return KILN_OK;
}

static kiln_status do_is_contiguous(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const tensor_type *t;
  int64_t strides[KILN_MAX_RANK], expected = 1;
  if (!tensor_arg(c)) return KILN_OK;
  KILN_TRY(type_of_arg(it, c, &t));
  *handled = true;
  *out = of_bool(true);
  if (handle_strides(tensor_arg(c), strides) != 1) return KILN_OK;
  for (int i = t->rank - 1; i >= 0; i--) {
    if (t->dims[i] == 0) break;
    if (t->dims[i] != 1 && strides[i] != expected) *out = of_bool(false);
    expected *= t->dims[i];
  }
  return KILN_OK;
}

/* ---- properties ------------------------------------------------------------------------------------------------- */

static int64_t item_size(kiln_dtype d) {
  size_t n = 0;
  const tensor_type one = {d, 0, {0}};
  return type_bytes(&one, &n) ? (int64_t)n : 0;
}

static kiln_status do_property(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const tensor_type *t;
  if (!tensor_arg(c)) return KILN_OK;
  KILN_TRY(shape_of_arg(it, c, &t));
  const char *name = str_starts(c->name, "prim.") ? c->name + 5 : c->name;
  *handled = true;
  const bool is_complex = tensor_arg(c)->parts[0] != NULL;
  if (is_complex && (str_eq(name, "nbytes") || str_ends(name, "size") || str_eq(name, "storage_offset")))
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s of a complex tensor is not supported", name);
  if (str_eq(name, "dtype")) {
    *out = of_int(interp_dtype_code(t->dtype) + (is_complex ? 3 : 0)); /* float16 is 5, complex32 is 8, and so on */
  } else if (str_eq(name, "device")) {
    *out = (ts_value){.kind = TSV_DEVICE, .u = {.s = "cpu"}};
  } else if (str_eq(name, "dim") || str_eq(name, "ndim") || str_eq(name, "ndimension")) {
    *out = of_int(t->rank);
  } else if (str_eq(name, "numel")) {
    *out = of_int(type_numel(it->g, t));
  } else if (str_eq(name, "layout") || str_eq(name, "storage_offset")) {
    *out = of_int(0);
  } else if (str_eq(name, "get_device")) {
    *out = of_int(-1);
  } else if (str_eq(name, "itemsize") || str_eq(name, "element_size")) {
    *out = of_int(item_size(t->dtype));
  } else if (str_eq(name, "nbytes")) {
    *out = of_int(dim_mul(it->g->dims, type_numel(it->g, t), item_size(t->dtype)));
  } else if (str_eq(name, "is_floating_point")) {
    *out = of_bool(dtype_is_float(t->dtype) && !is_complex);
  } else if (str_eq(name, "is_signed")) {
    *out = of_bool(t->dtype != KILN_U8 && t->dtype != KILN_BOOL);
  } else if (str_eq(name, "grad")) {
    *out = of_none();
  } else if (str_eq(name, "data") || str_eq(name, "detach_") || str_eq(name, "pin_memory")) {
    *out = c->args[0];
  } else if (str_eq(name, "is_cpu") || str_eq(name, "is_leaf")) {
    *out = of_bool(true);
  } else if (str_eq(name, "is_complex")) {
    *out = of_bool(is_complex);
  } else { /* is_cuda, is_sparse, requires_grad ... */
    *out = of_bool(false);
  }
  return KILN_OK;
}

/* ---- elements --------------------------------------------------------------------------------------------------- */

static ts_type_kind python_type(kiln_dtype d) {
  return d == KILN_BOOL ? TST_BOOL : dtype_is_float(d) ? TST_FLOAT : TST_INT;
}

static kiln_status do_item(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  itensor *t = tensor_arg(c);
  if (!t) return KILN_OK;
  value *v = lower_value(&it->b, t);
  if (!v) return interp_no_memory(it);
  *handled = true;
  return interp_scalar(it, v, str_eq(c->name, "is_nonzero") ? TST_BOOL : python_type(v->type.dtype), out);
}

static kiln_status to_list(interp *it, const ts_value *v, int *left, ts_value *out) {
  ts_value parts;
  value *x = lower_value(&it->b, v->u.tensor);
  if (!x) return interp_no_memory(it);
  if (x->type.rank == 0) {
    if (--*left < 0) return IT_FAIL(it, KILN_UNSUPPORTED, "tolist() of more than %d elements", TOLIST_MAX);
    return interp_scalar(it, x, python_type(x->type.dtype), out);
  }
  if (!dim_is_const(x->type.dims[0]))
    return IT_FAIL(it, KILN_UNSUPPORTED, "tolist() of a tensor whose size is known at run time only");
  if (x->type.dims[0] > TOLIST_MAX)
    return IT_FAIL(it, KILN_UNSUPPORTED, "tolist() of more than %d elements", TOLIST_MAX);
  KILN_TRY(interp_aten(it, "aten::unbind", 2, (ts_value[]){*v, of_int(0)}, &parts));
  KILN_TRY(interp_list_new(it, TSV_LIST, parts.u.list->count, NULL, out));
  for (int i = 0; i < parts.u.list->count; i++)
    KILN_TRY(to_list(it, &parts.u.list->items[i], left, &out->u.list->items[i]));
  return KILN_OK;
}

static kiln_status do_tolist(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  int left = TOLIST_MAX;
  if (!tensor_arg(c)) return KILN_OK;
  *handled = true;
  return to_list(it, &c->args[0], &left, out);
}

static kiln_status axis_arg(interp *it, const ts_call *c, int rank, int64_t *out) {
  KILN_TRY(interp_arg_int(it, c, 1, "dim", 0, out));
  if (*out < 0) *out += rank;
  if (*out >= 0 && *out < rank) return KILN_OK;
  return IT_FAIL(it, KILN_INVALID_ARGUMENT, "%s(): dimension out of range", c->name);
}

/* x.select(dim, i) where i is data: a view at a place that is known at run time. */
static kiln_status do_select(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_value at;
  const tensor_type *t;
  int64_t axis;
  if (!tensor_arg(c) || c->n != 3 || c->args[2].kind != TSV_DATA) return KILN_OK;
  KILN_TRY(shape_of_arg(it, c, &t));
  KILN_TRY(axis_arg(it, c, t->rank, &axis));
  *handled = true;
  KILN_TRY(interp_new_tensor(it, interp_wrap_index(it, c->args[2].u.data, t->dims[axis]), &at));
  KILN_TRY(interp_aten(it, "aten::narrow", 4, (ts_value[]){c->args[0], of_int(axis), at, of_int(1)}, out));
  return interp_aten(it, "aten::squeeze", 2, (ts_value[]){*out, of_int(axis)}, out);
}

/* v = coefficient * atom + offset */
typedef struct linear {
  const value *atom;
  int64_t coefficient, offset;
} linear;

static linear linear_of(interp *it, const ts_value *number, value *v, int depth) {
  const linear itself = {v, 1, 0};
  dim d;
  if (number && number->kind == TSV_INT) return (linear){NULL, 0, number->u.i};
  if (!v || depth > 16) return itself;
  if (interp_known_dim(it, v, &d)) return (linear){NULL, 0, d};
  const node *n = v->producer;
  if (!n || n->n_inputs != 2) return itself;
  const bool add = str_eq(n->op->name, "add"), sub = str_eq(n->op->name, "sub"), mul = str_eq(n->op->name, "mul");
  if (!add && !sub && !mul) return itself;
  const linear x = linear_of(it, NULL, node_in(n, 0), depth + 1), y = linear_of(it, NULL, node_in(n, 1), depth + 1);
  const int64_t limit = (int64_t)1 << 30; /* sizes; products stay far from overflow */
  const int64_t all[] = {x.coefficient, x.offset, y.coefficient, y.offset};
  for (size_t i = 0; i < KILN_COUNT(all); i++)
    if (all[i] > limit || all[i] < -limit) return itself;
  if (mul && (!x.atom || !y.atom)) {
    const linear *k = x.atom ? &y : &x, *l = x.atom ? &x : &y;
    return (linear){l->atom, l->coefficient * k->offset, l->offset * k->offset};
  }
  const int64_t sign = sub ? -1 : 1;
  if (mul || (x.atom && y.atom && x.atom != y.atom)) return itself;
  return (linear){x.atom ? x.atom : y.atom, x.coefficient + sign * y.coefficient, x.offset + sign * y.offset};
}

/* x[start : end] where start is data and end - start is not. */
static kiln_status do_slice(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const tensor_type *t;
  int64_t axis, step;
  ts_value at;
  const ts_value *start = interp_arg(c, 2, "start"), *end = interp_arg(c, 3, "end");
  if (!tensor_arg(c) || !start || !end || (start->kind != TSV_DATA && end->kind != TSV_DATA)) return KILN_OK;
  KILN_TRY(shape_of_arg(it, c, &t));
  KILN_TRY(axis_arg(it, c, t->rank, &axis));
  KILN_TRY(interp_arg_int(it, c, 4, "step", 1, &step));
  *handled = true;
  const linear from = linear_of(it, start, start->kind == TSV_DATA ? start->u.data : NULL, 0),
               to = linear_of(it, end, end->kind == TSV_DATA ? end->u.data : NULL, 0);
  const int64_t length = to.offset - from.offset;
  if (start->kind != TSV_DATA || from.atom != to.atom || from.coefficient != to.coefficient || length < 0 || step != 1)
    return IT_FAIL(it, KILN_UNSUPPORTED, "a slice whose length depends on tensor data is not supported");
  KILN_TRY(interp_new_tensor(it, interp_wrap_index(it, start->u.data, t->dims[axis]), &at));
  return interp_aten(it, "aten::narrow", 4, (ts_value[]){c->args[0], of_int(axis), at, of_int(length)}, out);
}

/* equal and allclose give Python bools. */
static kiln_status do_equal(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  ts_value same;
  bool found = false;
  if (!tensor_arg(c) || c->n < 2 || c->args[1].kind != TSV_TENSOR) return KILN_OK;
  *handled = true;
  if (str_eq(c->name, "allclose")) {
    KILN_TRY(interp_call_schema(it, "aten::isclose", c, &found, &same));
  } else {
    const value *x = lower_value(&it->b, c->args[0].u.tensor), *y = lower_value(&it->b, c->args[1].u.tensor);
    if (!x || !y) return interp_no_memory(it);
    bool shapes = x->type.rank == y->type.rank;
    for (int i = 0; shapes && i < x->type.rank; i++)
      shapes = dim_compare_equal(it->g->dims, x->type.dims[i], y->type.dims[i]) != 0;
    *out = of_bool(false);
    if (!shapes) return KILN_OK;
    KILN_TRY(interp_aten(it, "aten::eq", 2, c->args, &same));
  }
  KILN_TRY(interp_aten(it, "aten::all", 1, &same, &same));
  return interp_scalar(it, lower_value(&it->b, same.u.tensor), TST_BOOL, out);
}

/* ---- tensors from numbers --------------------------------------------------------------------------------------- */

typedef struct filler {
  interp *it;
  ts_value *items; /* in row-major order */
  int n, capacity;
  dim shape[KILN_MAX_RANK];
  int rank;
} filler;

static kiln_status fill(filler *f, const ts_value *v, int depth) {
  const ts_list *l = interp_items(v);
  if (!l) {
    if (f->rank != depth || f->n == f->capacity)
      return IT_FAIL(f->it, KILN_INVALID_ARGUMENT, "tensor(): lists of different lengths");
    f->items[f->n++] = *v;
    return KILN_OK;
  }
  if (depth >= f->rank || f->shape[depth] != l->count)
    return IT_FAIL(f->it, KILN_INVALID_ARGUMENT, "tensor(): lists of different lengths");
  for (int i = 0; i < l->count; i++) KILN_TRY(fill(f, &l->items[i], depth + 1));
  return KILN_OK;
}

static void store(tensor *t, int64_t i, const ts_value *v) {
  if (v->kind == TSV_FLOAT)
    ref_store(t, i, v->u.f);
  else if (dtype_is_float(t->dtype))
    ref_store(t, i, (double)v->u.i);
  else
    ref_store_int(t, i, t->dtype == KILN_BOOL ? v->u.i != 0 : v->u.i);
}

static kiln_status constant_from(interp *it, const filler *f, kiln_dtype dtype, value **out) {
  const tensor_type type = type_of(dtype, f->rank, f->shape);
  int64_t *data = ARENA_ARRAY(it->arena, int64_t, f->n ? f->n : 1); /* 8 bytes are enough for any element */
  if (!data) return interp_no_memory(it);
  tensor t = {.data = data, .dtype = dtype, .rank = 1, .shape = {f->n}, .strides = {1}};
  for (int i = 0; i < f->n; i++) {
    ts_value v = f->items[i];
    if (v.kind == TSV_FLOAT && !dtype_is_float(dtype))
      v = dtype == KILN_BOOL ? of_bool(v.u.f != 0) : of_int((int64_t)fmax(-4e18, fmin(4e18, v.u.f)));
    store(&t, i, &v);
  }
  *out = graph_constant_copy(it->g, &type, data);
  return *out ? KILN_OK : interp_no_memory(it);
}

static kiln_status stack_from(interp *it, const filler *f, kiln_dtype dtype, value **out) {
  ts_value list, stacked;
  KILN_TRY(interp_list_new(it, TSV_LIST, f->n, NULL, &list));
  for (int i = 0; i < f->n; i++) {
    value *x;
    KILN_TRY(interp_number_tensor(it, &f->items[i], &x));
    KILN_TRY(interp_new_tensor(it, lower_cast(&it->b, x, dtype), &list.u.list->items[i]));
  }
  if (f->rank == 0) {
    *out = lower_value(&it->b, list.u.list->items[0].u.tensor);
    return *out ? KILN_OK : interp_no_memory(it);
  }
  KILN_TRY(interp_aten(it, "aten::stack", 2, (ts_value[]){list, of_int(0)}, &stacked));
  *out = lower_reshape(&it->b, lower_value(&it->b, stacked.u.tensor), f->rank, f->shape);
  return *out ? KILN_OK : interp_no_memory(it);
}

static kiln_status dtype_arg(interp *it, const ts_call *c, int at, kiln_dtype fallback, kiln_dtype *out) {
  const ts_value *v = interp_arg(c, at, "dtype");
  *out = fallback;
  if (!v || v->kind == TSV_NONE) return KILN_OK;
  *out = v->kind == TSV_INT ? interp_dtype(v->u.i) : KILN_DTYPE_COUNT;
  return *out == KILN_DTYPE_COUNT ? IT_FAIL(it, KILN_UNSUPPORTED, "%s(): a dtype that Kiln lacks", c->name) : KILN_OK;
}

static kiln_status make_tensor(interp *it, const ts_value *v, kiln_dtype dtype, value **out) {
  filler f = {.it = it, .capacity = 1};
  for (const ts_list *l = interp_items(v); l; l = l->count ? interp_items(&l->items[0]) : NULL) {
    if (f.rank == KILN_MAX_RANK || l->count > TS_MAX_ITEMS / f.capacity + 1)
      return IT_FAIL(it, KILN_UNSUPPORTED, "tensor() of more than %d numbers", TS_MAX_ITEMS);
    f.shape[f.rank++] = l->count;
    f.capacity *= l->count ? l->count : 1;
  }
  KILN_TRY(interp_charge(it, f.capacity));
  f.items = ARENA_ARRAY(it->arena, ts_value, f.capacity);
  if (!f.items) return interp_no_memory(it);
  KILN_TRY(fill(&f, v, 0));
  ts_type_kind type = f.n ? TST_BOOL : TST_FLOAT;
  bool known = true;
  for (int i = 0; i < f.n; i++) {
    if (f.items[i].kind == TSV_TENSOR)
      KILN_TRY(interp_scalar(it, lower_value(&it->b, f.items[i].u.tensor), TST_FLOAT, &f.items[i]));
    if (!interp_is_number(&f.items[i]))
      return IT_FAIL(it, KILN_INVALID_FILE, "tensor() of %s", interp_kind_name(&f.items[i]));
    const ts_type_kind t = interp_number_type(&f.items[i]);
    if (t == TST_FLOAT || (t == TST_INT && type == TST_BOOL)) type = t;
    known &= f.items[i].kind != TSV_DATA && (f.items[i].kind == TSV_FLOAT || dim_is_const(f.items[i].u.i));
  }
  if (dtype == KILN_DTYPE_COUNT) dtype = type == TST_BOOL ? KILN_BOOL : type == TST_INT ? KILN_I64 : KILN_F32;
  return known ? constant_from(it, &f, dtype, out) : stack_from(it, &f, dtype, out);
}

static kiln_status do_tensor(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  kiln_dtype dtype;
  value *v;
  if (c->n < 1) return KILN_OK;
  *handled = true;
  KILN_TRY(dtype_arg(it, c, 1, KILN_DTYPE_COUNT, &dtype));
  if (c->args[0].kind == TSV_TENSOR) {
    v = lower_value(&it->b, c->args[0].u.tensor);
    if (!v) return interp_no_memory(it);
    if (str_eq(c->name, "as_tensor") && (dtype == KILN_DTYPE_COUNT || dtype == v->type.dtype)) {
      *out = c->args[0];
      return KILN_OK;
    }
    return interp_new_tensor(it, dtype == KILN_DTYPE_COUNT ? v : lower_cast(&it->b, v, dtype), out);
  }
  KILN_TRY(make_tensor(it, &c->args[0], dtype, &v));
  return interp_new_tensor(it, v, out);
}

/* A number as a tensor: of shapes in traced models, so int() of it must find the size again. */
static kiln_status do_num_to_tensor(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  value *v;
  if (c->n < 1) return KILN_OK;
  *handled = true;
  if (c->args[0].kind == TSV_TENSOR) {
    *out = c->args[0];
    return KILN_OK;
  }
  KILN_TRY(interp_number_tensor(it, &c->args[0], &v));
  if (v->type.dtype == KILN_F64) v = lower_cast(&it->b, v, KILN_F32);
  return interp_new_tensor(it, v, out);
}

/* full, full_like and fill_ with a number that is data. */
static kiln_status do_full(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  kiln_dtype dtype;
  dim dims[KILN_MAX_RANK];
  const ts_list *size = c->n > 1 ? interp_items(&c->args[0]) : NULL;
  if (!size || c->args[1].kind != TSV_DATA || size->count > KILN_MAX_RANK) return KILN_OK;
  value *v = c->args[1].u.data;
  KILN_TRY(dtype_arg(it, c, 2, v->type.dtype == KILN_F64 ? KILN_F32 : v->type.dtype, &dtype));
  for (int i = 0; i < size->count; i++) {
    if (size->items[i].kind != TSV_INT) return KILN_OK;
    dims[i] = size->items[i].u.i;
  }
  *handled = true;
  return interp_new_tensor(it, lower_expand(&it->b, lower_cast(&it->b, v, dtype), size->count, dims), out);
}

static kiln_status do_full_like(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const tensor_type *t;
  kiln_dtype dtype;
  if (!tensor_arg(c) || c->n < 2 || c->args[1].kind != TSV_DATA) return KILN_OK;
  KILN_TRY(type_of_arg(it, c, &t));
  KILN_TRY(dtype_arg(it, c, 2, t->dtype, &dtype));
  *handled = true;
  value *v = lower_cast(&it->b, c->args[1].u.data, dtype);
  return interp_new_tensor(it, lower_expand(&it->b, v, t->rank, t->dims), out);
}

const ts_builtin ts_builtins_tensor[] = {{"size", do_size},
                                         {"prim.shape", do_size},
                                         {"len", do_len},
                                         {"stride", do_stride},
                                         {"dim", do_property},
                                         {"ndimension", do_property},
                                         {"numel", do_property},
                                         {"prim.ndim", do_property},
                                         {"prim.dtype", do_property},
                                         {"prim.device", do_property},
                                         {"prim.layout", do_property},
                                         {"prim.is_cuda", do_property},
                                         {"prim.is_cpu", do_property},
                                         {"prim.is_xla", do_property},
                                         {"prim.is_xpu", do_property},
                                         {"prim.is_mkldnn", do_property},
                                         {"prim.is_mps", do_property},
                                         {"prim.is_vulkan", do_property},
                                         {"prim.is_ipu", do_property},
                                         {"prim.is_meta", do_property},
                                         {"prim.is_sparse", do_property},
                                         {"prim.is_sparse_csr", do_property},
                                         {"prim.is_quantized", do_property},
                                         {"prim.is_nested", do_property},
                                         {"prim.is_ort", do_property},
                                         {"prim.is_maia", do_property},
                                         {"prim.is_hpu", do_property},
                                         {"prim.requires_grad", do_property},
                                         {"prim.grad", do_property},
                                         {"prim.data", do_property},
                                         {"prim.is_leaf", do_property},
                                         {"is_leaf", do_property},
                                         {"prim.itemsize", do_property},
                                         {"prim.nbytes", do_property},
                                         {"element_size", do_property},
                                         {"is_contiguous", do_is_contiguous},
                                         {"is_floating_point", do_property},
                                         {"is_complex", do_property},
                                         {"is_signed", do_property},
                                         {"is_conj", do_property},
                                         {"is_neg", do_property},
                                         {"is_inference", do_property},
                                         {"is_pinned", do_property},
                                         {"pin_memory", do_property},
                                         {"storage_offset", do_property},
                                         {"get_device", do_property},
                                         {"detach_", do_property},
                                         {"item", do_item},
                                         {"is_nonzero", do_item},
                                         {"ScalarImplicit", do_item},
                                         {"tolist", do_tolist},
                                         {"prim.tolist", do_tolist},
                                         {"select", do_select},
                                         {"slice", do_slice},
                                         {"equal", do_equal},
                                         {"allclose", do_equal},
                                         {"tensor", do_tensor},
                                         {"as_tensor", do_tensor},
                                         {"_list_to_tensor", do_tensor},
                                         {"prim.NumToTensor", do_num_to_tensor},
                                         {"scalar_tensor", do_tensor},
                                         {"full", do_full},
                                         {"full_like", do_full_like},
                                         {NULL, NULL}};
