/* Registering custom operators, and the row functions that all of them share: inference, lowering, the reference kernel. */
#include "ops/custom.h"

#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/map.h"
#include "base/memory.h"
#include "ops/infer.h"
#include "ops/lowering.h"

/* Types that the model file gave, for operators without a shape function. A dot keeps them apart from arguments. */
#define TYPE_DTYPES "type.dtypes" /* "f32 i64" */
#define TYPE_RANKS "type.ranks"
#define TYPE_DIMS "type.dims"
enum { MAX_OPERANDS = 16, MAX_ATTRS = 32 };

typedef struct custom_group { /* all overloads of one name */
  const char *name;
  const aten_schema *const *list;
  int count;
} custom_group;

static struct {
  pthread_mutex_t lock;
  arena arena;
  map by_name;   /* "mine.scale" -> custom_op */
  map by_schema; /* "mine::scale" -> custom_group */
} customs = {.lock = PTHREAD_MUTEX_INITIALIZER};
static int custom_count; /* 0: look-ups need no lock */
static _Thread_local const char *current_library;

void custom_set_library(const char *name) { current_library = name; }

const custom_impl *custom_impl_of(const op *o) { return __atomic_load_n(&custom_of(o)->impl, __ATOMIC_ACQUIRE); }

/* ---- look-up ----------------------------------------------------------------------------------------------------- */

static void *look_up(const map *m, const char *name) {
  if (__atomic_load_n(&custom_count, __ATOMIC_ACQUIRE) == 0) return NULL;
  pthread_mutex_lock(&customs.lock);
  void *found = map_get(m, name);
  pthread_mutex_unlock(&customs.lock);
  return found;
}

const op *custom_find(const char *name) {
  const custom_op *o = look_up(&customs.by_name, name);
  return o ? &o->row : NULL;
}

int custom_find_schemas(const char *name, const aten_schema *const **out) {
  const custom_group *g = look_up(&customs.by_schema, name);
  if (!g) return 0;
  *out = g->list;
  return g->count;
}

/* ---- inference --------------------------------------------------------------------------------------------------- */

static kiln_status infer_like_first(node *n) {
  const value *first = NULL;
  for (int32_t i = 0; i < n->n_inputs && !first; i++) first = n->inputs[i].v;
  if (!first) return INFER_FAIL(n, "has no tensor argument to take the results' type from; give it a shape function");
  for (int32_t i = 0; i < n->n_outputs; i++) n->outputs[i]->type = first->type;
  return KILN_OK;
}

static kiln_status infer_of_model(node *n) {
  const attr *dtypes = custom_attr(n->op, n->attrs, TYPE_DTYPES), *ranks = custom_attr(n->op, n->attrs, TYPE_RANKS);
  const attr *dims = custom_attr(n->op, n->attrs, TYPE_DIMS);
  if (!dtypes || !ranks || !dims || dtypes->kind != ATTR_STR || ranks->kind != ATTR_INTS || dims->kind != ATTR_INTS)
    return INFER_FAIL(
        n, "the types of its results are not known here: only .pt2 files have them. Register it with a shape function");
  const char *at = dtypes->u.s;
  int32_t used = 0;
  for (int32_t i = 0; i < n->n_outputs; i++) {
    tensor_type t = {.rank = 0};
    const int64_t rank = i < ranks->count ? ranks->u.ints[i] : -1;
    if (rank < 0 || rank > KILN_MAX_RANK || rank > dims->count - used || !custom_parse_dtype(&at, &t.dtype))
      return INFER_FAIL(n, "the recorded type of result %d is damaged", (int)i);
    t.rank = (int32_t)rank;
    for (int32_t d = 0; d < t.rank; d++) {
      t.dims[d] = dims->u.ints[used++];
      if (dim_is_const(t.dims[d]) && t.dims[d] < 0)
        return INFER_FAIL(n, "the recorded type of result %d is damaged", (int)i);
    }
    n->outputs[i]->type = t;
  }
  return KILN_OK;
}

static kiln_shape shape_of(const value *v) {
  kiln_shape s = {.rank = -1};
  if (!v) return s;
  s.dtype = v->type.dtype;
  s.rank = v->type.rank;
  memcpy(s.dims, v->type.dims, sizeof s.dims);
  return s;
}

static kiln_status infer_by_function(graph *g, node *n, kiln_op_shape function) {
  kiln_shape in[CUSTOM_MAX_TENSORS], out[CUSTOM_MAX_RESULTS];
  const custom_call internal = {.graph = g, .node = n, .attrs = n->attrs};
  kiln_shape_call c = {.args = {&custom_argument_functions, &internal},
                       .inputs = in,
                       .outputs = out,
                       .input_count = n->n_inputs,
                       .output_count = n->n_outputs};
  if (n->n_inputs > CUSTOM_MAX_TENSORS || n->n_outputs > CUSTOM_MAX_RESULTS) return INFER_FAIL(n, "too many tensors");
  for (int32_t i = 0; i < n->n_inputs; i++) in[i] = shape_of(n->inputs[i].v);
  for (int32_t i = 0; i < n->n_outputs; i++) out[i] = n->n_inputs ? in[0] : (kiln_shape){.rank = 0};
  error_clear();
  const kiln_status status = function(&c);
  if (status != KILN_OK)
    return *error_text() ? error_note(status, __FILE__, __LINE__, "in the shape function of `%s`", n->op->name)
                         : INFER_FAIL(n, "its shape function failed");
  for (int32_t i = 0; i < n->n_outputs; i++) {
    if (out[i].rank < 0 || out[i].rank > KILN_MAX_RANK || (unsigned)out[i].dtype >= KILN_DTYPE_COUNT)
      return INFER_FAIL(n, "its shape function gave result %d no valid type", (int)i);
    for (int32_t d = 0; d < out[i].rank; d++)
      if (out[i].dims[d] == DIM_ERROR || (dim_is_const(out[i].dims[d]) && out[i].dims[d] < 0))
        return INFER_FAIL(n, "its shape function gave dimension %d of result %d no valid size", (int)d, (int)i);
    set_out(n, i, out[i].dtype, out[i].rank, out[i].dims);
  }
  return KILN_OK;
}

static kiln_status custom_infer(graph *g, node *n) {
  const custom_impl *impl = custom_impl_of(n->op);
  if (impl->shape) return infer_by_function(g, n, impl->shape);
  return impl->shape_of_model ? infer_of_model(n) : infer_like_first(n);
}

kiln_status custom_note(graph *g, const op *o) {
  char key[160];
  if (!(o->flags & OP_CUSTOM)) return KILN_OK;
  const int n = snprintf(key, sizeof key, "kiln.operator.%s", o->name);
  return n > 0 && (size_t)n < sizeof key ? graph_set_metadata(g, key, custom_of(o)->library) : KILN_OK;
}

/* ---- lowering ---------------------------------------------------------------------------------------------------- */

static bool attr_of(arena *a, attr_kind kind, const ivalue *v, attr *out) {
  const bool integer = v->kind == IV_INT || v->kind == IV_BOOL;
  *out = (attr){.kind = kind};
  switch (kind) {
    case ATTR_INT:
    case ATTR_BOOL:
      out->u.i = v->u.i;
      return integer;
    case ATTR_FLOAT:
      out->u.f = v->kind == IV_FLOAT ? v->u.f : (double)v->u.i;
      return v->kind == IV_FLOAT || (integer && dim_is_const(v->u.i));
    case ATTR_STR:
      out->u.s = v->u.s;
      return v->kind == IV_STR;
    case ATTR_DTYPE:
      out->u.i = v->u.i;
      return v->kind == IV_DTYPE && v->u.i >= 0;
    case ATTR_INTS:
    case ATTR_FLOATS:
      break;
    default:
      return false;
  }
  if (v->kind == IV_NONE || v->kind == IV_TENSOR || v->kind == IV_STR) return false;
  const ivalue *items = v->kind == IV_LIST ? v->u.items : v; /* a lone number is a list of one */
  const int32_t count = v->kind == IV_LIST ? v->count : 1;
  int64_t *ints = ARENA_ARRAY(a, int64_t, count + 1);
  double *floats = ARENA_ARRAY(a, double, count + 1);
  if (!ints || !floats) return false;
  out->count = count;
  for (int32_t i = 0; i < count; i++) {
    attr item;
    if (!attr_of(a, kind == ATTR_INTS ? ATTR_INT : ATTR_FLOAT, &items[i], &item)) return false;
    if (kind == ATTR_INTS) ints[i] = item.u.i;
    if (kind == ATTR_FLOATS) floats[i] = item.u.f;
  }
  if (kind == ATTR_INTS) out->u.ints = ints;
  if (kind == ATTR_FLOATS) out->u.floats = floats;
  return true;
}

static kiln_status lower_operands(lower_call *c, value **out, int *out_count) {
  int n = 0;
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    const aten_arg *a = &c->schema->args[i];
    if (!str_starts(a->type, "Tensor")) continue;
    if (c->args[i].kind == IV_LIST) {
      const int count = call_tensors(c, a->name, out + n, CUSTOM_MAX_TENSORS / 2 - n);
      if (count < 0) return LOWER_FAIL(c, "argument %s: too many tensors", a->name);
      n += count;
    } else {
      out[n++] = call_tensor(c, a->name);
    }
  }
  *out_count = n;
  return KILN_OK;
}

/* The types that the importer knows from the file. */
static kiln_status lower_types(lower_call *c, named_attr *attrs, int *n) {
  arena *a = &c->b.graph->arena;
  int64_t ranks[CUSTOM_MAX_RESULTS], dims[CUSTOM_MAX_RESULTS * KILN_MAX_RANK];
  int32_t n_dims = 0;
  text t = {0};
  for (int32_t i = 0; i < c->n_result_types; i++) {
    const tensor_type *type = &c->result_types[i];
    text_printf(&t, i ? " %s" : "%s", kiln_dtype_name(type->dtype));
    ranks[i] = type->rank;
    for (int32_t d = 0; d < type->rank; d++) dims[n_dims++] = type->dims[d];
  }
  const char *dtypes = t.failed || !t.data ? NULL : arena_strdup(a, t.data);
  text_free(&t);
  const int64_t *kept_ranks = arena_copy(a, ranks, (size_t)c->n_result_types * sizeof *ranks);
  const int64_t *kept_dims = arena_copy(a, dims, (size_t)(n_dims ? n_dims : 1) * sizeof *dims);
  if (!dtypes || !kept_ranks || !kept_dims) return KILN_NO_MEMORY("import");
  attrs[(*n)++] = (named_attr)A_STR(TYPE_DTYPES, dtypes);
  attrs[(*n)++] = (named_attr)A_INTS(TYPE_RANKS, kept_ranks, c->n_result_types);
  attrs[(*n)++] = (named_attr)A_INTS(TYPE_DIMS, kept_dims, n_dims);
  return KILN_OK;
}

static kiln_status custom_lower(lower_call *c) {
  const custom_op *o = custom_of(c->schema->op);
  value *operands[CUSTOM_MAX_TENSORS];
  named_attr attrs[MAX_ATTRS + 3];
  int n = 0, n_attrs = 0;
  KILN_TRY(lower_operands(c, operands, &n));
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    const aten_arg *a = &c->schema->args[i];
    const int at = op_attr_index(&o->row, a->name);
    if (at < 0 || c->args[i].kind == IV_NONE) continue;
    attrs[n_attrs].name = o->schema.attrs[at].name;
    if (!attr_of(&c->b.graph->arena, o->schema.attrs[at].kind, &c->args[i], &attrs[n_attrs++].value))
      return c->b.graph->arena.failed
                 ? KILN_NO_MEMORY("import")
                 : LOWER_FAIL(c, "argument %s: this value of a custom operator is not supported", a->name);
  }
  if (custom_impl_of(&o->row)->shape_of_model && c->n_result_types == o->schema.n_out &&
      c->n_result_types <= CUSTOM_MAX_RESULTS)
    KILN_TRY(lower_types(c, attrs, &n_attrs));
  KILN_TRY(custom_note(c->b.graph, &o->row));
  node *made = build_node(&c->b, o->row.name, n, operands, n_attrs, attrs);
  if (!made) return graph_check(c->b.graph);
  for (int32_t i = 0; i < made->n_outputs && i < c->n_results; i++) call_return(c, i, made->outputs[i]);
  return KILN_OK;
}

/* ---- registering ------------------------------------------------------------------------------------------------- */

/* The kind of attribute that an argument becomes; ATTR_NONE: it is dropped (devices, memory formats). */
static bool kind_of_type(const char *type, attr_kind *out, bool *optional) {
  static const struct {
    const char *type;
    attr_kind kind;
  } kinds[] = {{"int", ATTR_INT},       {"SymInt", ATTR_INT},        {"float", ATTR_FLOAT},      {"bool", ATTR_BOOL},
               {"str", ATTR_STR},       {"Scalar", ATTR_FLOAT},      {"ScalarType", ATTR_DTYPE}, {"int[]", ATTR_INTS},
               {"SymInt[]", ATTR_INTS}, {"float[]", ATTR_FLOATS},    {"bool[]", ATTR_INTS},      {"Device", ATTR_NONE},
               {"Layout", ATTR_NONE},   {"MemoryFormat", ATTR_NONE}, {"Generator", ATTR_NONE}};
  char base[24];
  size_t n = strlen(type);
  *optional = n > 0 && type[n - 1] == '?';
  if (*optional) n--;
  if (n >= sizeof base) return false;
  memcpy(base, type, n);
  base[n] = 0;
  char *open = strchr(base, '['); /* int[2] */
  if (open) memcpy(open, "[]", 3);
  for (size_t i = 0; i < KILN_COUNT(kinds); i++) {
    if (!str_eq(kinds[i].type, base)) continue;
    *out = kinds[i].kind;
    return true;
  }
  return false;
}

static kiln_status add_operand(custom_op *o, const aten_arg *a) {
  op_operand *list = o->schema.in;
  const bool many = strchr(a->type, '[') != NULL;
  if (!str_eq(a->type, "Tensor") && !str_eq(a->type, "Tensor?") && !str_eq(a->type, "Tensor[]"))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "argument %s: %s is not supported", a->name, a->type);
  if (o->schema.n_in == MAX_OPERANDS) return KILN_FAIL(KILN_INVALID_ARGUMENT, "more than %d tensors", MAX_OPERANDS);
  if (o->schema.n_in && list[o->schema.n_in - 1].variadic)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "argument %s: a list of tensors must be the last tensor argument", a->name);
  list[o->schema.n_in++] = (op_operand){a->name, many || str_eq(a->type, "Tensor?"), many};
  return KILN_OK;
}

static void set_fallback(op_attr *out, const aten_arg *a) {
  const ivalue *v = &a->fallback;
  if (!a->has_default || v->kind == IV_NONE || v->kind == IV_LIST) return;
  out->has_default = attr_of(&customs.arena, out->kind, v, &out->fallback);
}

static kiln_status make_schema(custom_op *o) {
  aten_schema *s = &o->aten;
  o->schema.op = &o->row;
  o->schema.in = ARENA_ARRAY(&customs.arena, op_operand, MAX_OPERANDS);
  o->schema.out = ARENA_ARRAY(&customs.arena, op_operand, CUSTOM_MAX_RESULTS);
  o->schema.attrs = ARENA_ARRAY(&customs.arena, op_attr, MAX_ATTRS + 3);
  if (!o->schema.in || !o->schema.out || !o->schema.attrs) return KILN_NO_MEMORY("custom operator");
  for (int32_t i = 0; i < s->n_args; i++) {
    const aten_arg *a = &s->args[i];
    op_attr made = {.name = a->name};
    if (a->written)
      return KILN_FAIL(KILN_INVALID_ARGUMENT,
                       "argument %s is written to; only operators without side effects are supported", a->name);
    if (str_starts(a->type, "Tensor")) {
      KILN_TRY(add_operand(o, a));
      continue;
    }
    if (!kind_of_type(a->type, &made.kind, &made.optional))
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "argument %s: type %s is not supported", a->name, a->type);
    if (made.kind == ATTR_NONE) continue;
    if (o->schema.n_attrs == MAX_ATTRS) return KILN_FAIL(KILN_INVALID_ARGUMENT, "more than %d arguments", MAX_ATTRS);
    set_fallback(&made, a);
    o->schema.attrs[o->schema.n_attrs++] = made;
  }
  if (s->returns_list || s->n_returns < 1 || s->n_returns > CUSTOM_MAX_RESULTS)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "its results must be 1 to %d tensors", CUSTOM_MAX_RESULTS);
  for (int32_t i = 0; i < s->n_returns; i++) o->schema.out[i] = (op_operand){.name = "out"};
  o->schema.n_out = s->n_returns;
  const struct {
    const char *name;
    attr_kind kind;
  } types[] = {{TYPE_DTYPES, ATTR_STR}, {TYPE_RANKS, ATTR_INTS}, {TYPE_DIMS, ATTR_INTS}};
  for (size_t i = 0; i < KILN_COUNT(types); i++)
    o->schema.attrs[o->schema.n_attrs++] = (op_attr){.name = types[i].name, .kind = types[i].kind, .optional = true};
  return KILN_OK;
}

static kiln_status make_op(const char *schema, custom_op **out) {
  custom_op *o = ARENA_NEW(&customs.arena, custom_op);
  if (!o || !(o->torch[0].schema = arena_strdup(&customs.arena, schema))) return KILN_NO_MEMORY("custom operator");
  o->torch[0].lower = custom_lower;
  KILN_TRY(aten_schema_parse(&customs.arena, &o->torch[0], &o->row, &o->aten));
  const char *colons = strstr(o->aten.name, "::");
  if (!colons || colons == o->aten.name || !colons[2])
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "expected a name such as mine::scale");
  const aten_schema *const *builtin = NULL;
  if (aten_find(o->aten.name, &builtin) > 0 && !(builtin[0]->op->flags & OP_CUSTOM))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is an operator of Kiln; choose another name", o->aten.name);
  o->row = (op){.name = arena_printf(&customs.arena, *o->aten.overload ? "%.*s.%s.%s" : "%.*s.%s",
                                     (int)(colons - o->aten.name), o->aten.name, colons + 2, o->aten.overload),
                .sig = "",
                .attrs = "",
                .flags = OP_CUSTOM,
                .infer = custom_infer,
                .torch = o->torch};
  o->library = arena_strdup(&customs.arena, current_library ? current_library : "");
  if (!o->row.name || !o->library) return KILN_NO_MEMORY("custom operator");
  KILN_TRY(make_schema(o));
  *out = o;
  return KILN_OK;
}

static const char *keep(const char *s, bool *failed) {
  if (!s) return NULL;
  const char *copy = arena_strdup(&customs.arena, s);
  *failed |= !copy;
  return copy;
}

/* Where a text stands in bytes that need not end with a zero; NULL: nowhere. */
static const char *find_text(const char *bytes, size_t size, const char *t) {
  const size_t n = strlen(t);
  for (size_t i = 0; n <= size && i <= size - n; i++)
    if (memcmp(bytes + i, t, n) == 0) return bytes + i;
  return NULL;
}

static kiln_status check_image(const kiln_op_def *def) {
  static const char elf[4] = "\177ELF", fatbin[4] = "\x50\xed\x55\xba";
  const char *bytes = def->cuda_image;
  const size_t size = def->cuda_image_size;
  if (!def->cuda || def->cuda->source)
    return KILN_FAIL(KILN_INVALID_ARGUMENT,
                     "cuda_image needs cuda, with source NULL: it has the kernel's name and launch");
  if (size > 16 && (memcmp(bytes, elf, 4) == 0 || memcmp(bytes, fatbin, 4) == 0)) return KILN_OK;
  if (!find_text(bytes, size, ".version") || !find_text(bytes, size, ".target"))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "cuda_image: %zu bytes that are no PTX text, cubin or fatbin", size);
  if (!def->cuda->name || !find_text(bytes, size, def->cuda->name))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "cuda_image: the PTX has no kernel `%s`",
                     def->cuda->name ? def->cuda->name : "NULL");
  return KILN_OK;
}

static kiln_status check_cuda(const kiln_op_def *def) {
  const kiln_cuda_kernel *k = def->cuda;
  if (def->cuda_image) KILN_TRY(check_image(def));
  if (!k) return KILN_OK;
  if ((!k->source && !def->cuda_image) || !k->name)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "cuda: source or name is NULL");
  for (int i = 0; i < 3; i++)
    if (k->block[i] < 0 || k->block[i] > 1024)
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "cuda: block[%d] is %d", i, k->block[i]);
  return KILN_OK;
}

static kiln_status check_dtypes(const char *list) {
  kiln_dtype d;
  if (str_eq(list, "any")) return KILN_OK;
  for (const char *at = list; *at; at += strspn(at, " "))
    if (!custom_parse_dtype(&at, &d))
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "dtypes \"%.60s\": expected names such as \"f32 f16\", or \"any\"", list);
  return KILN_OK;
}

static kiln_status keep_cuda(custom_impl *impl, const kiln_op_def *def) {
  bool failed = false;
  impl->has_cuda = true;
  impl->cuda = *def->cuda;
  impl->cuda.source = keep(def->cuda->source, &failed);
  impl->cuda.name = keep(def->cuda->name, &failed);
  impl->cuda.arguments = keep(def->cuda->arguments, &failed);
  for (int i = 0; i < 3; i++) impl->cuda.grid[i] = keep(def->cuda->grid[i], &failed);
  impl->image = NULL;
  impl->image_size = 0;
  if (def->cuda_image) {
    char *image = arena_alloc(&customs.arena, def->cuda_image_size + 1);
    if (!image) return KILN_NO_MEMORY("custom operator");
    memcpy(image, def->cuda_image, def->cuda_image_size);
    image[def->cuda_image_size] = 0; /* the driver takes PTX as a C string */
    impl->image = image;
    impl->image_size = def->cuda_image_size;
  }
  return failed ? KILN_NO_MEMORY("custom operator") : KILN_OK;
}

/* What the operator can do from now on. */
static kiln_status merge_impl(custom_op *o, const kiln_op_def *def) {
  custom_impl *impl = ARENA_NEW(&customs.arena, custom_impl);
  bool failed = !impl;
  if (failed) return KILN_NO_MEMORY("custom operator");
  if (o->impl) *impl = *o->impl;
  if (def->run) impl->run = def->run;
  if (def->run_cuda) impl->run_cuda = def->run_cuda;
  if (def->shape) impl->shape = def->shape;
  if (!o->impl) impl->shape_of_model = def->shape_of_model != 0;
  if (def->dtypes) impl->dtypes = keep(def->dtypes, &failed);
  if (def->cuda) KILN_TRY(keep_cuda(impl, def));
  if (!impl->dtypes) impl->dtypes = "f32";
  if (failed) return KILN_NO_MEMORY("custom operator");
  if (impl->run) __atomic_store_n(&o->row.ref, custom_ref, __ATOMIC_RELEASE);
  __atomic_store_n(&o->impl, impl, __ATOMIC_RELEASE);
  return KILN_OK;
}

static kiln_status add_to_group(custom_op *o) {
  const custom_group *old = map_get(&customs.by_schema, o->aten.name);
  custom_group *g = ARENA_NEW(&customs.arena, custom_group);
  const int count = old ? old->count : 0;
  const aten_schema **list = ARENA_ARRAY(&customs.arena, const aten_schema *, count + 1);
  if (!g || !list) return KILN_NO_MEMORY("custom operator");
  if (count) memcpy(list, old->list, (size_t)count * sizeof *list);
  list[count] = &o->aten;
  *g = (custom_group){o->aten.name, (const aten_schema *const *)list, count + 1};
  return map_put(&customs.by_schema, g->name, g) ? KILN_OK : KILN_NO_MEMORY("custom operator");
}

/* "int" and "SymInt" are one type here. */
static bool same_type(const char *a, const char *b) {
  return str_eq(a, b) || (str_starts(a, "SymInt") && str_starts(b, "int") && str_eq(a + 6, b + 3)) ||
         (str_starts(b, "SymInt") && str_starts(a, "int") && str_eq(b + 6, a + 3));
}

static bool same_default(const aten_arg *a, const aten_arg *b) {
  const ivalue *x = &a->fallback, *y = &b->fallback;
  if (a->has_default != b->has_default) return false;
  if (!a->has_default) return true;
  if (x->kind == IV_STR && y->kind == IV_STR) return str_eq(x->u.s, y->u.s);
  if (x->kind == IV_LIST || y->kind == IV_LIST) return x->kind == y->kind && x->count == y->count;
  if (x->kind == IV_NONE || y->kind == IV_NONE) return x->kind == y->kind;
  const double p = x->kind == IV_FLOAT ? x->u.f : (double)x->u.i, q = y->kind == IV_FLOAT ? y->u.f : (double)y->u.i;
  return p == q || (p != p && q != q);
}

/* Is it the same operator, however its text is written? */
static bool same_schema(const aten_schema *a, const aten_schema *b) {
  if (a->n_args != b->n_args || a->n_returns != b->n_returns) return false;
  for (int32_t i = 0; i < a->n_args; i++) {
    const aten_arg *x = &a->args[i], *y = &b->args[i];
    if (!str_eq(x->name, y->name) || !same_type(x->type, y->type) || !same_default(x, y)) return false;
  }
  return true;
}

static kiln_status register_locked(custom_op *made, const kiln_op_def *def) {
  custom_op *known = map_get(&customs.by_name, made->row.name);
  if (known && !same_schema(&known->aten, &made->aten))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "it is registered already, with the schema \"%s\"", known->torch[0].schema);
  KILN_TRY(merge_impl(known ? known : made, def));
  if (known) return KILN_OK;
  if (!map_put(&customs.by_name, made->row.name, made)) return KILN_NO_MEMORY("custom operator");
  const kiln_status status = add_to_group(made);
  if (status != KILN_OK) {
    (void)map_put(&customs.by_name, made->row.name, NULL); /* its place is there: this cannot fail */
    return status;
  }
  __atomic_add_fetch(&custom_count, 1, __ATOMIC_RELEASE);
  return KILN_OK;
}

/* One registration at a time: the arena is shared. Look-ups only take the inner lock. Plugins that were built before a field was added have
 * a smaller structure. */
kiln_status custom_register(const kiln_op_def *given) {
  static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
  custom_op *made = NULL;
  kiln_op_def whole = {0};
  const kiln_op_def *const def = &whole;
  if (!given || given->struct_size > sizeof whole || given->struct_size < offsetof(kiln_op_def, cuda_image))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "custom operator: struct_size is %zu, expected %zu",
                     given ? given->struct_size : 0, sizeof whole);
  memcpy(&whole, given, given->struct_size);
  if (!def->schema) return KILN_FAIL(KILN_INVALID_ARGUMENT, "custom operator: the schema is NULL");
  KILN_TRY(aten_init());
  pthread_mutex_lock(&one);
  kiln_status status = check_cuda(def);
  if (status == KILN_OK && def->dtypes) status = check_dtypes(def->dtypes);
  if (status == KILN_OK) status = make_op(def->schema, &made);
  if (status == KILN_OK) {
    pthread_mutex_lock(&customs.lock);
    status = register_locked(made, def);
    pthread_mutex_unlock(&customs.lock);
  }
  customs.arena.failed = false; /* memory may come back */
  pthread_mutex_unlock(&one);
  if (status == KILN_INTERNAL) status = KILN_INVALID_ARGUMENT; /* a schema that does not parse is no bug of ours here */
  return status == KILN_OK
             ? KILN_OK
             : error_note(status, __FILE__, __LINE__, "registering custom operator \"%.200s\"", def->schema);
}
