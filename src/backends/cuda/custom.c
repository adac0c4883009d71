/* Custom operators with a kernel as text (names for its tensors' types are put before it) or as code. Its launch is computed from the
 * expressions that it was registered with when shapes are bound. */
#include <stdio.h>
#include <string.h>

#include "backends/cuda/codegen.h"
#include "backends/cuda/internal.h"
#include "backends/custom.h"
#include "base/memory.h"
#include "ops/custom.h"

enum { MAX_PARAMETERS = 64 };

typedef union number {
  int i;
  long long l;
  float f;
  double d;
  bool b;
} number;

typedef struct custom_launch {
  const cuda_function *f;
  unsigned grid[3], block[3];
  size_t shared;
  int count;
  bool empty;
  bool is_pointer[MAX_PARAMETERS];
  int32_t tensor[MAX_PARAMETERS]; /* in[i], then out[i - n_in] */
  number numbers[MAX_PARAMETERS];
} custom_launch;

typedef struct launch_names {
  const kernel_args *args;
  dim_table *table;
  int64_t *values;
} launch_names;

/* ---- expressions ------------------------------------------------------------------------------------------------------ */

static kiln_status evaluate(const launch_names *n, const char *what, const char *expression, int64_t *out) {
  const char *at = expression;
  dim d = DIM_ERROR;
  const char *op_name = n->args->node->op->name;
  if (dim_parse(n->table, &at, &d) != KILN_OK || at[strspn(at, " ")])
    return KILN_FAIL(
        KILN_INVALID_ARGUMENT,
        "custom operator `%s`: %s \"%.80s\": expected an expression of x_size, x_dim0, x_end1 (x: a tensor, out: the "
        "result) and of the integer arguments, with + - * // %% max(,) min(,)",
        op_name, what, expression);
  if (!dim_eval(n->table, d, n->values, out))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "custom operator `%s`: %s \"%.80s\" has no value at these shapes", op_name,
                     what, expression);
  return KILN_OK;
}

static kiln_status set_geometry(const launch_names *n, const kiln_cuda_kernel *k, custom_launch *out) {
  for (int i = 0; i < 3; i++) {
    int64_t blocks = 1;
    out->block[i] = k->block[i] ? (unsigned)k->block[i] : i ? 1 : 256;
    if (k->grid[i])
      KILN_TRY(evaluate(n, "grid", k->grid[i], &blocks));
    else if (i == 0)
      blocks = cuda_div_up(tensor_numel(&n->args->out[0]), (int64_t)out->block[0]);
    if (blocks <= 0 || blocks > (i ? 65535 : INT32_MAX))
      return KILN_FAIL(KILN_INVALID_ARGUMENT,
                       "custom operator `%s`: grid[%d] is %lld blocks at these shapes, expected 1 to %d",
                       n->args->node->op->name, i, (long long)blocks, i ? 65535 : INT32_MAX);
    out->grid[i] = (unsigned)blocks;
  }
  if ((uint64_t)out->block[0] * out->block[1] * out->block[2] > 1024)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "custom operator `%s`: a block of %u x %u x %u threads: at most 1024",
                     n->args->node->op->name, out->block[0], out->block[1], out->block[2]);
  out->shared = k->shared;
  return KILN_OK;
}

/* ---- parameters ------------------------------------------------------------------------------------------------------- */

static kiln_status add_pointer(custom_launch *l, const kernel_args *a, const tensor *t) {
  if (l->count == MAX_PARAMETERS)
    return KILN_FAIL(KILN_UNSUPPORTED, "custom operator `%s`: too many parameters", a->node->op->name);
  const bool input = t >= a->in && t < a->in + a->n_in;
  l->is_pointer[l->count] = true;
  l->tensor[l->count++] = (int32_t)(input ? t - a->in : a->n_in + (t - a->out));
  return KILN_OK;
}

static kiln_status add_number(custom_launch *l, const kernel_args *a, const char *type, size_t length, double f,
                              int64_t i, bool real) {
  static const char *const types[] = {"int", "long", "float", "double", "bool"};
  int kind = 0;
  while (kind < 5 && !(strlen(types[kind]) == length && memcmp(types[kind], type, length) == 0)) kind++;
  if (kind == 5 || l->count == MAX_PARAMETERS)
    return KILN_FAIL(KILN_INVALID_ARGUMENT,
                     "custom operator `%s`: arguments: \"%.*s\" is no type; expected int, long, float, double or bool",
                     a->node->op->name, (int)length, type);
  number *n = &l->numbers[l->count];
  if (kind < 2 && real) i = (int64_t)f;
  if (kind == 0 && i != (int)i)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "custom operator `%s`: an int parameter would be %lld; make it long",
                     a->node->op->name, (long long)i);
  memset(n, 0, sizeof *n);
  if (kind == 0) n->i = (int)i;
  if (kind == 1) n->l = i;
  if (kind == 2) n->f = (float)(real ? f : (double)i);
  if (kind == 3) n->d = real ? f : (double)i;
  if (kind == 4) n->b = real ? f != 0 : i != 0;
  l->count++;
  return KILN_OK;
}

/* "x", or "float:k" */
static kiln_status add_word(custom_launch *l, const launch_names *n, const char *word, size_t length) {
  const kernel_args *a = n->args;
  char expression[200];
  const char *colon = memchr(word, ':', length);
  if (!colon) {
    const tensor *t = custom_tensor(a, word, length);
    return t ? add_pointer(l, a, t)
             : KILN_FAIL(KILN_INVALID_ARGUMENT, "custom operator `%s`: arguments: it has no tensor \"%.*s\"",
                         a->node->op->name, (int)length, word);
  }
  const size_t type_length = (size_t)(colon - word), rest = length - type_length - 1;
  if (rest >= sizeof expression)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "custom operator `%s`: arguments: too long", a->node->op->name);
  memcpy(expression, colon + 1, rest);
  expression[rest] = 0;
  const attr *real = custom_attr(a->node->op, a->attrs, expression);
  if (real && real->kind == ATTR_FLOAT) return add_number(l, a, word, type_length, real->u.f, 0, true);
  int64_t i = 0;
  KILN_TRY(evaluate(n, "arguments", expression, &i));
  return add_number(l, a, word, type_length, 0, i, false);
}

/* Without a list: the arguments as the schema has them, the results, the number of elements. */
static kiln_status add_all(custom_launch *l, const launch_names *n) {
  const kernel_args *a = n->args;
  const aten_schema *s = &custom_of(a->node->op)->aten;
  int next = 0;
  for (int32_t i = 0; i < s->n_args; i++) {
    const attr *v = custom_attr(a->node->op, a->attrs, s->args[i].name);
    if (str_starts(s->args[i].type, "Tensor")) {
      const bool list = strchr(s->args[i].type, '[') != NULL;
      for (int last = list ? a->n_in - 1 : next; next <= last && next < a->n_in; next++)
        KILN_TRY(add_pointer(l, a, &a->in[next]));
    } else if (v && v->kind == ATTR_FLOAT) {
      KILN_TRY(add_number(l, a, "float", 5, v->u.f, 0, true));
    } else if (v && v->kind == ATTR_BOOL) {
      KILN_TRY(add_number(l, a, "bool", 4, 0, v->u.i, false));
    } else if (v && (v->kind == ATTR_INT || v->kind == ATTR_DTYPE)) {
      KILN_TRY(add_number(l, a, "long", 4, 0, v->u.i, false));
    } else if (v) {
      return KILN_FAIL(
          KILN_INVALID_ARGUMENT,
          "custom operator `%s`: argument %s has no place among the kernel's parameters (None, a list or a text): name "
          "the parameters when registering it (arguments)",
          a->node->op->name, s->args[i].name);
    }
  }
  for (int i = 0; i < a->n_out; i++) KILN_TRY(add_pointer(l, a, &a->out[i]));
  return add_number(l, a, "long", 4, 0, tensor_numel(&a->out[0]), false);
}

static kiln_status add_parameters(custom_launch *l, const launch_names *n, const char *list) {
  if (!list) return add_all(l, n);
  for (const char *at = list + strspn(list, " "); *at; at += strspn(at, " ")) {
    const size_t length = strcspn(at, " ");
    KILN_TRY(add_word(l, n, at, length));
    at += length;
  }
  return KILN_OK;
}

/* ---- the row ---------------------------------------------------------------------------------------------------------- */

/* 16-bit floats as users expect them: to and from float by themselves. */
static const char half_types[] =
    "#define KILN_HALF(T, V) struct T { V v; T() = default; T(float f) : v(from_float<V>(f)) {}\\\n"
    "  operator float() const { return to_float(v); } };\n"
    "KILN_HALF(kiln_half, f16)\nKILN_HALF(kiln_bfloat, bf16)\n";

static const char *user_type(kiln_dtype d) {
  return d == KILN_F16 ? "kiln_half" : d == KILN_BF16 ? "kiln_bfloat" : cuda_type(d);
}

static const char *types_text(kernel_prep *p) {
  const op_schema *s = &custom_of(p->args.node->op)->schema;
  text t = {0};
  const char *kept = NULL;
  text_puts(&t, half_types);
  for (int32_t i = 0; i < s->n_in && i < p->args.n_in; i++)
    if (p->args.in[i].rank >= 0) text_printf(&t, "typedef %s %s_t;\n", user_type(p->args.in[i].dtype), s->in[i].name);
  text_printf(&t, "typedef %s out_t;\n", user_type(p->args.out[0].dtype));
  for (int32_t i = 0; i < p->args.n_out; i++)
    text_printf(&t, "typedef %s out%d_t;\n", user_type(p->args.out[i].dtype), (int)i);
  text_puts(&t, "#line 1\n"); /* the compiler's messages count the user's lines */
  return cuda_text_keep(p, &t, &kept) == KILN_OK ? kept : NULL;
}

/* ---- code that the user compiled ------------------------------------------------------------------------------------ */

enum { FUNCTION_MAX_DYNAMIC_SHARED = 8 };            /* CUfunction_attribute in cuda.h */
enum { JIT_ERROR_LOG = 5, JIT_ERROR_LOG_BYTES = 6 }; /* CUjit_option */

/* The user can change this code, so the driver's words about NVRTC do not apply. */
static const char *advice_on_given(int code) {
  switch (code) {
    case CU_INVALID_PTX:
      return "the driver cannot compile this PTX: its text has an error, or its .target is newer than this GPU";
    case CU_UNSUPPORTED_PTX:
      return "its PTX was made by a CUDA that is newer than the driver: make it with an older one, or install a newer "
             "driver";
    case CU_NO_BINARY:
      return "it has no code for this GPU: compile it for that architecture too, or give PTX, which the driver "
             "compiles";
    case CU_INVALID_IMAGE:
      return "it is not PTX, a cubin or a fatbin for this GPU, or it is damaged";
    default:
      return NULL;
  }
}

static kiln_status load_module(device *d, cuda_function *f, const void *image) {
  char log[400] = "";
  int options[] = {JIT_ERROR_LOG, JIT_ERROR_LOG_BYTES};
  void *values[] = {log, (void *)(uintptr_t)(sizeof log - 1)};
  const int code = d->driver->ModuleLoadDataEx(&f->module, image, 2, options, values);
  const char *advice = advice_on_given(code);
  if (!advice) return cuda_check(d, code, "loading its PTX, cubin or fatbin");
  size_t length = strnlen(log, sizeof log - 1);
  while (length && (log[length - 1] == '\n' || log[length - 1] == ' ')) length--;
  return KILN_FAIL(KILN_DEVICE_ERROR, "loading its PTX, cubin or fatbin on GPU %d (%s, sm_%d): %s (code %d)%s%.*s",
                   d->ordinal, d->facts.name, d->facts.arch, advice, code, length ? ": " : "", (int)length, log);
}

static kiln_status load_given(device *d, cuda_function *f, const void *image) {
  if (!d->driver) return KILN_OK;
  KILN_TRY(cuda_hooks.enter(d));
  kiln_status status = load_module(d, f, image);
  if (status == KILN_OK)
    status = cuda_check(d, d->driver->ModuleGetFunction(&f->handle, f->module, f->entry), "finding its kernel");
  if (status == KILN_OK && f->shared > 48 * 1024)
    status = cuda_check(d, d->driver->FuncSetAttribute(f->handle, FUNCTION_MAX_DYNAMIC_SHARED, (int)f->shared),
                        "raising shared memory");
  if (status != KILN_OK && f->module) (void)d->driver->ModuleUnload(f->module);
  cuda_hooks.leave(d);
  return status;
}

/* Once for each device; d->lock is held. Engine files do not keep such code: whoever opens them registers the operator first. */
static kiln_status given_locked(device *d, const custom_impl *impl, const char *key, cuda_function **out) {
  cuda_function *f = map_get(&d->function_index, key);
  if (!f) {
    if (!(f = mem_calloc(1, sizeof *f))) return KILN_NO_MEMORY("kernel");
    snprintf(f->key, sizeof f->key, "%s", key);
    snprintf(f->entry, sizeof f->entry, "%s", impl->cuda.name);
    f->shared = impl->cuda.shared;
    f->done = true;
    kiln_status status = load_given(d, f, impl->image);
    if (status == KILN_OK && !map_put(&d->function_index, f->key, f)) {
      if (f->module) (void)d->driver->ModuleUnload(f->module);
      status = KILN_NO_MEMORY("kernel");
    }
    if (status != KILN_OK) {
      mem_free(f);
      return status;
    }
    f->next = d->functions;
    d->functions = f;
  }
  *out = f;
  return KILN_OK;
}

static kiln_status use_given(kernel_prep *p, const custom_impl *impl, const cuda_function **out) {
  char key[40];
  device *d = p->device;
  cuda_function *f = NULL;
  const char *name = impl->cuda.name;
  if (!d) return KILN_FAIL(KILN_INTERNAL, "kernel `%s` is prepared without a device", name);
  if (strlen(name) >= sizeof f->entry)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "custom operator `%s`: the kernel's name has more than %zu characters",
                     p->args.node->op->name, sizeof f->entry - 1);
  const uint64_t code = hash_bytes(impl->image, impl->image_size, impl->cuda.shared + 1);
  snprintf(key, sizeof key, "%016llx%016llx", (unsigned long long)hash_bytes(name, strlen(name), code),
           (unsigned long long)hash_bytes(impl->image, impl->image_size, ~code));
  pthread_mutex_lock(&d->lock);
  const kiln_status status = given_locked(d, impl, key, &f);
  pthread_mutex_unlock(&d->lock);
  if (status != KILN_OK)
    return error_note(status, __FILE__, __LINE__, "custom operator `%s`, kernel `%s`", p->args.node->op->name, name);
  *out = f;
  return KILN_OK;
}

static kiln_status custom_prepare(kernel_prep *p) {
  const custom_impl *impl = custom_impl_of(p->args.node->op);
  const kiln_cuda_kernel *k = &impl->cuda;
  launch_names n = {.args = &p->args};
  custom_launch *l = ARENA_NEW(p->arena, custom_launch);
  if (!l) return KILN_NO_MEMORY("kernel");
  p->state = l;
  l->empty = true;
  for (int32_t i = 0; i < p->args.n_out; i++) l->empty &= tensor_numel(&p->args.out[i]) == 0;
  if (l->empty) return KILN_OK;
  KILN_TRY(custom_names(p->arena, &p->args, &n.table, &n.values));
  KILN_TRY(set_geometry(&n, k, l));
  KILN_TRY(add_parameters(l, &n, k->arguments));
  if (impl->image) return use_given(p, impl, &l->f);
  const char *types = types_text(p);
  if (!types) return KILN_NO_MEMORY("kernel text");
  const cuda_source source = {
      .entry = k->name, .defines = types, .text = k->source, .shared = k->shared, .foreign = true};
  return cuda_compile(p, &source, &l->f);
}

static kiln_status custom_text_run(const kernel_args *a) {
  const custom_launch *l = a->state;
  void *params[MAX_PARAMETERS + 1];
  if (l->empty) return KILN_OK;
  for (int i = 0; i < l->count; i++) {
    const int32_t t = l->tensor[i];
    params[i] = !l->is_pointer[i] ? (void *)(uintptr_t)&l->numbers[i]
                : t < a->n_in     ? (void *)&a->in[t].data
                                  : (void *)&a->out[t - a->n_in].data;
  }
  params[l->count] = NULL;
  return cuda_launch(a, &(cuda_launch_config){.function = l->f,
                                              .grid = {l->grid[0], l->grid[1], l->grid[2]},
                                              .block = {l->block[0], l->block[1], l->block[2]},
                                              .shared = l->shared,
                                              .params = params});
}

static bool custom_fits(const node *n, const char **why) {
  if (!custom_impl_of(n->op)->has_cuda) {
    *why = "it was registered without a CUDA kernel";
    return false;
  }
  return custom_dtypes_fit(n, why);
}

const kernel custom_cuda_text_kernel = {.op = "*",
                                        .name = "plugin.text",
                                        .isa = 80,
                                        .fits = custom_fits,
                                        .prepare = custom_prepare,
                                        .run = custom_text_run};
