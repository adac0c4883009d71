/* Custom operators while they run: what their functions are given, and the reference kernel. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "ops/custom.h"
#include "ops/ref.h"

bool custom_parse_dtype(const char **at, kiln_dtype *out) {
  while (**at == ' ') (*at)++;
  const size_t length = strcspn(*at, " ");
  for (int d = 0; d < KILN_DTYPE_COUNT; d++) {
    const char *name = kiln_dtype_name((kiln_dtype)d);
    if (strlen(name) != length || memcmp(name, *at, length) != 0) continue;
    *out = (kiln_dtype)d;
    *at += length;
    return true;
  }
  return false;
}

const attr *custom_attr(const op *o, const attr *attrs, const char *name) {
  const int at = op_attr_index(o, name);
  return at < 0 ? NULL : &attrs[at];
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static const attr *call_attr(const void *internal, const char *name) {
  const custom_call *c = internal;
  return name ? custom_attr(c->node->op, c->attrs, name) : NULL;
}
static int64_t get_int(const void *c, const char *name) {
  const attr *a = call_attr(c, name);
  return a && (a->kind == ATTR_INT || a->kind == ATTR_BOOL || a->kind == ATTR_DTYPE) ? a->u.i : 0;
}
static double get_float(const void *c, const char *name) {
  const attr *a = call_attr(c, name);
  if (a && (a->kind == ATTR_INT || a->kind == ATTR_BOOL)) return (double)a->u.i;
  return a && a->kind == ATTR_FLOAT ? a->u.f : 0;
}
static const char *get_text(const void *c, const char *name) {
  const attr *a = call_attr(c, name);
  return a && a->kind == ATTR_STR ? a->u.s : NULL;
}
static int32_t get_ints(const void *c, const char *name, const int64_t **out) {
  const attr *a = call_attr(c, name);
  const bool there = a && a->kind == ATTR_INTS;
  *out = there ? a->u.ints : NULL;
  return there ? a->count : 0;
}
static int32_t get_floats(const void *c, const char *name, const double **out) {
  const attr *a = call_attr(c, name);
  const bool there = a && a->kind == ATTR_FLOATS;
  *out = there ? a->u.floats : NULL;
  return there ? a->count : 0;
}
static int is_given(const void *c, const char *name) {
  const attr *a = call_attr(c, name);
  return a && a->kind != ATTR_NONE;
}
static kiln_status fail_call(kiln_status status, const char *message) {
  return KILN_FAIL(status == KILN_OK ? KILN_INVALID_ARGUMENT : status, "%.400s", message ? message : "failed");
}

typedef struct each {
  void (*fn)(void *user, int64_t i);
  void *user;
} each;
static void run_each(void *user, int64_t i, int worker) {
  const each *e = user;
  (void)worker;
  e->fn(e->user, i);
}
static void run_parallel(const void *internal, int64_t count, void (*fn)(void *user, int64_t i), void *user) {
  const custom_call *c = internal;
  each e = {fn, user};
  pool_run(c->kernel && !c->kernel->device ? c->kernel->pool : NULL, count, run_each, &e);
}
static int64_t compute_dim(const void *internal, char operation, int64_t a, int64_t b) {
  const custom_call *c = internal;
  if (!c->graph) return DIM_ERROR;
  dim_table *t = c->graph->dims;
  switch (operation) {
    case '+':
      return dim_add(t, a, b);
    case '-':
      return dim_sub(t, a, b);
    case '*':
      return dim_mul(t, a, b);
    case '/':
      return dim_floordiv(t, a, b);
    case '%':
      return dim_mod(t, a, b);
    default:
      return DIM_ERROR;
  }
}

const kiln_argument_functions custom_argument_functions = {get_int,  get_float, get_text,     get_ints,   get_floats,
                                                           is_given, fail_call, run_parallel, compute_dim};

static void fill_tensor(kiln_tensor *out, const tensor *t, bool device, int ordinal) {
  *out = (kiln_tensor){.data = t->rank < 0 ? NULL : t->data,
                       .ndim = t->rank < 0 ? 0 : t->rank,
                       .shape = (int64_t *)(uintptr_t)t->shape,
                       .strides = (int64_t *)(uintptr_t)t->strides};
  out->device.type = device ? KILN_DEVICE_CUDA : KILN_DEVICE_CPU;
  out->device.id = ordinal;
  kiln_tensor_set_dtype(out, t->dtype);
}

kiln_status custom_call_fill(custom_call *c, const kernel_args *a) {
  if (a->n_in + a->n_out > CUSTOM_MAX_TENSORS)
    return KILN_FAIL(KILN_UNSUPPORTED, "`%s` with %d tensors", a->node->op->name, (int)(a->n_in + a->n_out));
  for (int32_t i = 0; i < a->n_in; i++) fill_tensor(&c->tensors[i], &a->in[i], a->device != NULL, 0);
  for (int32_t i = 0; i < a->n_out; i++) fill_tensor(&c->tensors[a->n_in + i], &a->out[i], a->device != NULL, 0);
  c->kernel = a;
  c->graph = NULL;
  c->node = a->node;
  c->attrs = a->attrs;
  c->call = (kiln_op_call){.args = {&custom_argument_functions, c},
                           .inputs = c->tensors,
                           .outputs = c->tensors + a->n_in,
                           .input_count = a->n_in,
                           .output_count = a->n_out,
                           .stream = a->stream};
  return KILN_OK;
}

kiln_status custom_run(const node *n, kiln_op_run function, const kiln_op_call *call) {
  error_clear();
  const kiln_status status = function(call);
  if (status == KILN_OK) return KILN_OK;
  if (!*error_text())
    return KILN_FAIL(status, "custom operator `%s` (%s at %s) failed", n->op->name, n->path, n->source);
  return error_note(status, __FILE__, __LINE__, "in custom operator `%s` (%s at %s)", n->op->name, n->path, n->source);
}

/* ---- the reference kernel ---------------------------------------------------------------------------------------- */

static bool dtype_listed(const char *list, kiln_dtype d) {
  if (!dtype_is_float(d) || str_eq(list, "any")) return true;
  kiln_dtype one;
  for (const char *at = list; custom_parse_dtype(&at, &one);)
    if (one == d) return true;
  return false;
}

bool custom_dtypes_fit(const node *n, const char **why) {
  const custom_impl *impl = custom_impl_of(n->op);
  bool fit = true;
  for (int32_t i = 0; i < n->n_inputs; i++)
    if (n->inputs[i].v) fit &= dtype_listed(impl->dtypes, n->inputs[i].v->type.dtype);
  for (int32_t i = 0; i < n->n_outputs; i++) fit &= dtype_listed(impl->dtypes, n->outputs[i]->type.dtype);
  if (!fit) *why = "it was registered for other element types (dtypes)";
  return fit;
}

static void copy_tensor(const tensor *from, const tensor *to) {
  for (ref_iter it = ref_begin(to->rank, to->shape); ref_valid(&it); ref_next(&it))
    ref_copy_element(from, ref_offset(from, &it), to, ref_offset(to, &it));
}

static kiln_status contiguous_tensor(arena *room, tensor *t, const tensor *from) {
  *t = *from;
  if (t->rank < 0 || !t->data || tensor_is_contiguous(t)) return KILN_OK;
  tensor_make_contiguous_strides(t);
  t->data = arena_array(room, (size_t)tensor_numel(t), kiln_dtype_size(t->dtype));
  return t->data ? KILN_OK : KILN_NO_MEMORY("custom operator");
}

/* Any strides, as for all reference kernels: the operator's own kernel works on copies where they are not contiguous. */
kiln_status custom_ref(const kernel_args *a) {
  tensor in[CUSTOM_MAX_TENSORS] = {{0}}, out[CUSTOM_MAX_RESULTS] = {{0}};
  arena room = {0};
  custom_call c;
  const char *why = NULL;
  kiln_status status = KILN_OK;
  if (a->n_in > CUSTOM_MAX_TENSORS || a->n_out > CUSTOM_MAX_RESULTS)
    return KILN_FAIL(KILN_UNSUPPORTED, "too many tensors");
  if (!custom_dtypes_fit(a->node, &why)) return KILN_FAIL(KILN_UNSUPPORTED, "`%s`: %s", a->node->op->name, why);
  kernel_args plain = *a;
  plain.in = in;
  plain.out = out;
  for (int32_t i = 0; i < a->n_in; i++) {
    KILN_GOTO(done, contiguous_tensor(&room, &in[i], &a->in[i]));
    if (in[i].data != a->in[i].data) copy_tensor(&a->in[i], &in[i]);
  }
  for (int32_t i = 0; i < a->n_out; i++) KILN_GOTO(done, contiguous_tensor(&room, &out[i], &a->out[i]));
  KILN_GOTO(done, custom_call_fill(&c, &plain));
  KILN_GOTO(done, custom_run(a->node, custom_impl_of(a->node->op)->run, &c.call));
  for (int32_t i = 0; i < a->n_out; i++)
    if (out[i].data != a->out[i].data) copy_tensor(&out[i], &a->out[i]);
done:
  arena_free(&room);
  return status;
}

/* ---- names in launch expressions ------------------------------------------------------------------------------------ */

static bool name_is(const char *name, size_t length, const char *expected) {
  return strlen(expected) == length && memcmp(name, expected, length) == 0;
}

const tensor *custom_tensor(const kernel_args *a, const char *name, size_t length) {
  const op_schema *s = &custom_of(a->node->op)->schema;
  for (int32_t i = 0; i < s->n_in && i < a->n_in; i++)
    if (name_is(name, length, s->in[i].name)) return &a->in[i];
  if (name_is(name, length, "out")) return &a->out[0];
  if (length == 4 && memcmp(name, "out", 3) == 0 && name[3] >= '0' && name[3] - '0' < a->n_out)
    return &a->out[name[3] - '0'];
  return NULL;
}

typedef struct names { /* the table under construction */
  dim_table *table;
  int64_t values[256];
  bool failed;
} names;

static void set_name(names *t, int64_t number, const char *fmt, ...) KILN_PRINTF(3, 4);
static void set_name(names *t, int64_t number, const char *fmt, ...) {
  char name[160];
  va_list ap;
  va_start(ap, fmt);
  const int n = vsnprintf(name, sizeof name, fmt, ap);
  va_end(ap);
  const int count = dim_symbol_count(t->table);
  if (n < 0 || n >= (int)sizeof name || count >= (int)KILN_COUNT(t->values)) return; /* then it has no name */
  const dim d = dim_symbol(t->table, name, -DIM_UNBOUNDED, DIM_UNBOUNDED);
  const int at = dim_symbol_index(t->table, d);
  t->failed |= d == DIM_ERROR;
  if (at >= 0) t->values[at] = number;
}

static void name_tensor(names *t, const char *name, const tensor *x) {
  if (x->rank < 0) return;
  set_name(t, tensor_numel(x), "%s_size", name);
  for (int i = 0; i < x->rank; i++) {
    set_name(t, x->shape[i], "%s_dim%d", name, i);
    set_name(t, x->shape[i], "%s_end%d", name, x->rank - i);
  }
}

kiln_status custom_names(arena *a, const kernel_args *args, dim_table **out_table, int64_t **out_values) {
  const op_schema *s = &custom_of(args->node->op)->schema;
  names t = {0};
  KILN_TRY(dim_table_create(a, &t.table));
  for (int32_t i = 0; i < s->n_in && i < args->n_in; i++) name_tensor(&t, s->in[i].name, &args->in[i]);
  name_tensor(&t, "out", &args->out[0]);
  for (int32_t i = 0; i < args->n_out; i++) {
    const char name[] = {'o', 'u', 't', (char)('0' + i), 0};
    name_tensor(&t, name, &args->out[i]);
  }
  for (int32_t i = 0; i < s->n_attrs; i++) {
    const attr *v = &args->attrs[i];
    if (v->kind == ATTR_INT || v->kind == ATTR_BOOL) set_name(&t, v->u.i, "%s", s->attrs[i].name);
  }
  *out_table = t.table;
  *out_values = arena_copy(a, t.values, sizeof t.values);
  return *out_values && !t.failed ? KILN_OK : KILN_NO_MEMORY("kernel");
}
