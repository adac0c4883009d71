/* The nodes of a .pt2 graph, one after another: each names an operator, its arguments, and the names of its results. */
#include <string.h>

#include "import/complex.h"
#include "import/export_internal.h"
#include "import/handles.h"

enum { MAX_TARGET = 200, MAX_RESULTS = 16, MAX_OPERANDS = 64 };
#define COND "torch.ops.higher_order.cond"
#define WHILE_LOOP "torch.ops.higher_order.while_loop"

/* ---- where a node comes from -------------------------------------------------------------------- */

static const char *intern(pt2 *p, const char *s, size_t length) {
  if (length == 0) return "";
  char *copy = arena_strndup(&p->arena, s, length);
  if (!copy) return "";
  const char *known = map_get(&p->texts, copy);
  if (known) return known;
  known = arena_strdup(&p->graph->arena, copy);
  if (!known || !map_put(&p->texts, copy, (void *)(uintptr_t)known)) return "";
  return known;
}

/* "key,path,type;key,path,type": the path of the last entry. */
static const char *module_path(pt2 *p, const char *stack) {
  const char *last = strrchr(stack, ';');
  const char *start = strchr(last ? last + 1 : stack, ',');
  if (!start++) return "";
  const char *end = strchr(start, ',');
  const size_t length = end ? (size_t)(end - start) : strlen(start);
  return *start == '_' || length > 500 ? "" : intern(p, start, length); /* _empty_nn_module_stack_...: made by a pass */
}

static bool contains(const char *s, size_t length, const char *part) {
  const size_t n = strlen(part);
  for (size_t i = 0; i + n <= length; i++)
    if (memcmp(s + i, part, n) == 0) return true;
  return false;
}

/* Of a Python traceback, the innermost line outside PyTorch: `File "/a/model.py", line 17, in forward` gives
 * "model.py:17". */
static const char *source_line(pt2 *p, const char *trace) {
  char best[160] = "";
  for (const char *s = trace; (s = strstr(s, "File \"")) != NULL;) {
    s += 6;
    const char *end = strchr(s, '"');
    if (!end) break;
    const size_t length = (size_t)(end - s);
    const char *name = s;
    for (const char *c = s; c < end; c++)
      if (*c == '/' || *c == '\\') name = c + 1;
    if (strncmp(end, "\", line ", 8) == 0 && !contains(s, length, "/torch/") && strncmp(s, "torch/", 6) != 0 &&
        *s != '<') {
      const char *digits = end + 8;
      size_t n = 0;
      while (digits[n] >= '0' && digits[n] <= '9') n++;
      if (n && n < 10 && (size_t)(end - name) < 120) {
        memcpy(best, name, (size_t)(end - name));
        best[end - name] = ':';
        memcpy(best + (end - name) + 1, digits, n);
        best[(size_t)(end - name) + 1 + n] = 0;
      }
    }
    s = end;
  }
  return intern(p, best, strlen(best));
}

void pt2_place(pt2 *p, const json_t *entry, const char **out_path, const char **out_source) {
  const json_t *meta = json_object_get(entry, "metadata");
  const char *stack = json_string_value(json_object_get(meta, "nn_module_stack"));
  const char *trace = json_string_value(json_object_get(meta, "stack_trace"));
  *out_path = stack ? module_path(p, stack) : "";
  *out_source = trace ? source_line(p, trace) : "";
}

/* ---- targets ------------------------------------------------------------------------------------ */

/* "torch.ops.aten.conv2d.default" to "aten::conv2d" and "default". */
static bool split_target(const char *target, char *name, const char **out_overload) {
  if (!str_starts(target, "torch.ops.") || strlen(target) >= MAX_TARGET) return false;
  const char *space = target + 10;
  const char *op_name = strchr(space, '.');
  const char *overload = op_name ? strchr(op_name + 1, '.') : NULL;
  if (!overload) return false;
  const size_t n = (size_t)(op_name - space), m = (size_t)(overload - op_name - 1);
  memcpy(name, space, n);
  memcpy(name + n, "::", 2);
  memcpy(name + n + 2, op_name + 1, m);
  name[n + 2 + m] = 0;
  *out_overload = overload + 1;
  return true;
}

static const aten_schema *resolve(const char *target, bool *in_place) {
  char name[MAX_TARGET + 4];
  const char *overload;
  return split_target(target, name, &overload) ? aten_resolve(name, overload, in_place) : NULL;
}

/* Higher-order operators whose subgraph is simply run, and where that subgraph stands among the arguments. */
static const struct {
  const char *target;
  int graph_argument;
} wrappers[] = {
    {"torch.ops.higher_order.wrap_with_set_grad_enabled", 1},
    {"torch.ops.higher_order.wrap_with_autocast", 4},
    {"torch.ops.higher_order.tag_activation_checkpoint", 0},
    {"torch.ops.higher_order.wrap_activation_checkpoint", 0},
    {"torch.ops.higher_order.wrap", 0},
};

static int wrapper_argument(const char *target) {
  for (size_t i = 0; i < KILN_COUNT(wrappers); i++)
    if (str_eq(target, wrappers[i].target)) return wrappers[i].graph_argument;
  return -1;
}

static bool is_item(const char *target) {
  return str_eq(target, "torch.ops.aten.item.default") || str_eq(target, "torch.ops.aten._local_scalar_dense.default");
}

bool pt2_is_supported(const char *target) {
  bool in_place;
  return pt2_is_symbol_target(target) || wrapper_argument(target) >= 0 || str_eq(target, COND) ||
         str_eq(target, WHILE_LOOP) || is_item(target) || resolve(target, &in_place) != NULL;
}

/* ---- calls -------------------------------------------------------------------------------------- */

static int argument_index(const aten_schema *schema, const char *name) {
  for (int32_t i = 0; i < schema->n_args; i++)
    if (str_eq(schema->args[i].name, name)) return i;
  return -1;
}

static kiln_status read_arguments(pt2 *p, scope *s, const json_t *entry, const aten_schema *schema, ivalue *args) {
  const json_t *inputs;
  bool given[64] = {false};
  KILN_TRY(pt2_array(entry, "inputs", "node", &inputs));
  for (size_t i = 0; i < json_array_size(inputs); i++) {
    const json_t *input = json_array_get(inputs, i);
    const char *name = json_string_value(json_object_get(input, "name"));
    int at = name && *name ? argument_index(schema, name) : i < (size_t)schema->n_args ? (int)i : -1;
    /* In-place forms call what they write `self`, also where the functional form says `input` (dropout). */
    if (at < 0 && i == 0 && str_eq(name, "self") && schema->n_args) at = 0;
    if (at < 0 || given[at])
      return KILN_FAIL(KILN_INVALID_FILE, "model.json: %s argument `%.60s`", at < 0 ? "the operator has no" : "twice",
                       name ? name : "?");
    given[at] = true;
    KILN_TRY_NOTE(pt2_argument(p, s, json_object_get(input, "arg"), &args[at]), "in argument %s",
                  schema->args[at].name);
  }
  for (int32_t i = 0; i < schema->n_args; i++) {
    if (given[i]) continue;
    if (!schema->args[i].has_default)
      return KILN_FAIL(KILN_INVALID_FILE, "model.json: argument %s is missing", schema->args[i].name);
    args[i] = schema->args[i].fallback;
  }
  return KILN_OK;
}

/* The file says each tensor's type too: what we inferred must not contradict it. */
static kiln_status check_type(pt2 *p, const scope *s, const char *name, itensor *t) {
  const json_t *meta = json_object_get(json_object_get(s->graph, "tensor_values"), name), *sizes;
  const value *v = lower_value(&p->b, t->parts[0] ? t->parts[0] : t);
  if (!v) return graph_check(p->graph);
  if (!meta) return KILN_OK;
  const json_int_t code = json_integer_value(json_object_get(meta, "dtype"));
  /* complex32 to complex128 stand three places after the types of their parts */
  const kiln_dtype dtype = t->parts[0] && code >= 9 && code <= 11 ? pt2_dtype(code - 3) : pt2_dtype(code);
  KILN_TRY(pt2_array(meta, "sizes", name, &sizes));
  bool same = dtype == v->type.dtype && json_array_size(sizes) == (size_t)v->type.rank;
  for (int32_t i = 0; same && i < v->type.rank; i++) {
    const json_t *size = json_object_get(json_array_get(sizes, (size_t)i), "as_int");
    if (json_is_integer(size)) same = dim_compare_equal(p->graph->dims, json_integer_value(size), v->type.dims[i]) != 0;
  }
  if (same || p->doubt_types) return KILN_OK;
  text ours = {0};
  char *theirs = json_dumps(sizes, JSON_COMPACT);
  type_print(p->graph, &v->type, &ours);
  const kiln_status status =
      KILN_FAIL(KILN_INVALID_FILE, "result `%s` would be %s, but the file says that it is %s %.300s", name,
                ours.data ? ours.data : "?", pt2_dtype_name(json_integer_value(json_object_get(meta, "dtype"))),
                theirs ? theirs : "?");
  free(theirs);
  text_free(&ours);
  return status;
}

static kiln_status define_tensor(pt2 *p, scope *s, const json_t *named, const ivalue *v) {
  const char *name;
  KILN_TRY(pt2_string(named, "name", "output", &name));
  if (v->kind == IV_NONE)
    return KILN_OK; /* an optional result that the operator does not compute; any use of it fails */
  if (v->kind != IV_TENSOR) return KILN_FAIL(KILN_INVALID_FILE, "model.json: output `%s` is no tensor", name);
  KILN_TRY(check_type(p, s, name, v->u.t));
  return pt2_define(p, s, name, *v);
}

static kiln_status define_tensors(pt2 *p, scope *s, const json_t *names, const ivalue *v) {
  const size_t n = json_array_size(names);
  if (v->kind == IV_NONE) return KILN_OK;
  if (v->kind != IV_LIST || (size_t)v->count != n)
    return KILN_FAIL(KILN_INVALID_FILE, "model.json: a list of %zu outputs where the operator gives %d", n,
                     v->kind == IV_LIST ? v->count : 1);
  for (size_t i = 0; i < n; i++) KILN_TRY(define_tensor(p, s, json_array_get(names, i), &v->u.items[i]));
  return KILN_OK;
}

/* Gives the results their names. */
static kiln_status define_results(pt2 *p, scope *s, const json_t *entry, const ivalue *results, int n) {
  const json_t *outputs;
  KILN_TRY(pt2_array(entry, "outputs", "node", &outputs));
  if (json_array_size(outputs) > (size_t)n)
    return KILN_FAIL(KILN_INVALID_FILE, "model.json: %zu outputs where the operator has %d", json_array_size(outputs),
                     n);
  for (size_t i = 0; i < json_array_size(outputs); i++) {
    const char *kind;
    const json_t *v;
    KILN_TRY(pt2_union(json_array_get(outputs, i), "output", &kind, &v));
    if (str_eq(kind, "as_none")) continue;
    if (str_eq(kind, "as_tensor")) {
      KILN_TRY(define_tensor(p, s, v, &results[i]));
    } else if (str_eq(kind, "as_tensors")) {
      KILN_TRY(define_tensors(p, s, v, &results[i]));
    } else if (str_eq(kind, "as_optional_tensor")) {
      const json_t *t = json_object_get(v, "as_tensor");
      if (t) KILN_TRY(define_tensor(p, s, t, &results[i]));
    } else if (str_starts(kind, "as_sym_")) {
      const char *name;
      KILN_TRY(pt2_string(v, "as_name", "output", &name));
      KILN_TRY(pt2_define(p, s, name, results[i]));
    } else {
      return KILN_FAIL(KILN_UNSUPPORTED, "outputs of kind `%.40s` are not supported", kind);
    }
  }
  return KILN_OK;
}

/* The types that the file gives to a custom operator's results. */
static kiln_status custom_types(pt2 *p, const scope *s, const json_t *entry, tensor_type *out, int32_t *out_count) {
  const json_t *outputs, *v;
  const char *kind, *name;
  KILN_TRY(pt2_array(entry, "outputs", "node", &outputs));
  const size_t n = json_array_size(outputs);
  for (size_t i = 0; i < n && n <= MAX_RESULTS; i++) {
    KILN_TRY(pt2_union(json_array_get(outputs, i), "output", &kind, &v));
    if (!str_eq(kind, "as_tensor")) return KILN_OK;
    KILN_TRY(pt2_string(v, "name", "output", &name));
    const json_t *meta = json_object_get(json_object_get(s->graph, "tensor_values"), name);
    if (!meta) return KILN_OK;
    KILN_TRY(pt2_tensor_type(p, meta, name, false, &out[i]));
    *out_count = (int32_t)(i + 1);
  }
  return KILN_OK;
}

static kiln_status operator_node(pt2 *p, scope *s, const json_t *entry, const char *target) {
  ivalue args[64], results[MAX_RESULTS];
  lower_call call = {.im = &p->im, .b = p->b, .args = args, .results = results};
  call.schema = resolve(target, &call.in_place);
  if (!call.schema) return KILN_FAIL(KILN_UNSUPPORTED, "%.*s is not supported", MAX_TARGET, target);
  if (call.schema->n_returns > MAX_RESULTS)
    return KILN_FAIL(KILN_INTERNAL, "%s has too many results", call.schema->name);
  call.n_results = call.schema->n_returns;
  KILN_TRY(read_arguments(p, s, entry, call.schema, args));
  tensor_type types[MAX_RESULTS];
  call.result_types = types;
  if (call.schema->op->flags & OP_CUSTOM) KILN_TRY(custom_types(p, s, entry, types, &call.n_result_types));
  if (p->im.calibration && p->depth == 0) KILN_TRY(pt2_calibrate(p, entry, &call));
  const kiln_status status = lower_run(&call);
  if (status == KILN_INVALID_ARGUMENT) return KILN_INVALID_FILE; /* shapes that do not fit: no caller's fault here */
  KILN_TRY(status);
  return define_results(p, s, entry, results, call.n_results);
}

/* ---- subgraphs ---------------------------------------------------------------------------------- */

typedef struct values {
  ivalue *items;
  int32_t count;
} values;

static kiln_status bind_inputs(pt2 *p, scope *inner, const values *given) {
  const json_t *names;
  KILN_TRY(pt2_array(inner->graph, "inputs", "subgraph", &names));
  if (json_array_size(names) != (size_t)given->count)
    return KILN_FAIL(KILN_INVALID_FILE, "model.json: a subgraph with %zu inputs is given %d", json_array_size(names),
                     given->count);
  for (int32_t i = 0; i < given->count; i++) {
    const char *kind;
    const json_t *name;
    KILN_TRY(pt2_union(json_array_get(names, (size_t)i), "subgraph input", &kind, &name));
    const char *s = json_string_value(json_object_get(name, str_eq(kind, "as_tensor") ? "name" : "as_name"));
    if (s) KILN_TRY(pt2_define(p, inner, s, given->items[i]));
  }
  return KILN_OK;
}

/* Runs the nodes of a subgraph where p->b points, and gives its outputs. */
static kiln_status run_subgraph(pt2 *p, scope *inner, const values *given, values *results) {
  const json_t *outputs;
  KILN_TRY(bind_inputs(p, inner, given));
  KILN_TRY(pt2_nodes(p, inner));
  KILN_TRY(pt2_array(inner->graph, "outputs", "subgraph", &outputs));
  const size_t n = json_array_size(outputs);
  if (n > MAX_RESULTS) return KILN_FAIL(KILN_UNSUPPORTED, "a subgraph with more than %d outputs", MAX_RESULTS);
  results->count = (int32_t)n;
  for (size_t i = 0; i < n; i++) KILN_TRY(pt2_argument(p, inner, json_array_get(outputs, i), &results->items[i]));
  return KILN_OK;
}

static kiln_status inline_subgraph(pt2 *p, scope *outer, const json_t *graph_argument, const values *given,
                                   values *results) {
  const json_t *g;
  KILN_TRY(pt2_object(json_object_get(graph_argument, "as_graph"), "graph", "subgraph", &g));
  if (p->depth == PT2_MAX_SUBGRAPHS)
    return KILN_FAIL(KILN_INVALID_FILE, "model.json: subgraphs are nested more than %d deep", PT2_MAX_SUBGRAPHS);
  scope inner = {.graph = g, .parent = outer};
  const builder saved = p->b;
  p->depth++;
  const kiln_status status = run_subgraph(p, &inner, given, results);
  p->depth--;
  p->b.path = saved.path;
  p->b.source = saved.source;
  map_free(&inner.values);
  return status;
}

/* Several results are one output of kind as_tensors, or several of kind as_tensor. */
static kiln_status define_all(pt2 *p, scope *s, const json_t *entry, const values *results) {
  const json_t *outputs;
  KILN_TRY(pt2_array(entry, "outputs", "node", &outputs));
  if (json_array_size(outputs) != 1 || !json_object_get(json_array_get(outputs, 0), "as_tensors"))
    return define_results(p, s, entry, results->items, results->count);
  ivalue list = {.kind = IV_LIST, .count = results->count};
  list.u.items = results->items;
  return define_results(p, s, entry, &list, 1);
}

static const json_t *argument_of(const json_t *inputs, size_t at) {
  return json_object_get(json_array_get(inputs, at), "arg");
}

static kiln_status check_autocast(const json_t *inputs) { /* arguments: device, dtype, enabled, cache */
  const char *device = json_string_value(json_object_get(argument_of(inputs, 0), "as_string"));
  if (json_is_false(json_object_get(argument_of(inputs, 2), "as_bool")) || str_eq(device, "cuda")) return KILN_OK;
  return KILN_FAIL(
      KILN_UNSUPPORTED,
      "torch.autocast(enabled=True) inside the model is not supported; export it in fp32, or decomposed with "
      "run_decompositions()");
}

static kiln_status wrapper_node(pt2 *p, scope *s, const json_t *entry, const char *target, size_t at) {
  const json_t *inputs;
  ivalue room[MAX_RESULTS];
  values given = {0}, results = {room, 0};
  KILN_TRY(pt2_array(entry, "inputs", "node", &inputs));
  if (str_ends(target, "wrap_with_autocast")) KILN_TRY(check_autocast(inputs));
  const size_t n = json_array_size(inputs);
  given.items = ARENA_ARRAY(&p->arena, ivalue, n + 1);
  if (!given.items) return KILN_NO_MEMORY("import");
  for (size_t i = at + 1; i < n; i++) KILN_TRY(pt2_argument(p, s, argument_of(inputs, i), &given.items[given.count++]));
  KILN_TRY(inline_subgraph(p, s, argument_of(inputs, at), &given, &results));
  return define_all(p, s, entry, &results);
}

/* ---- torch.cond and while_loop ----------------------------------------------------------------- */

/* What crosses the border of a branch or loop: complex tensors as pairs of real numbers. */
static value *crossing(pt2 *p, const ivalue *v) {
  return v->kind == IV_TENSOR && v->u.t->parts[0] ? complex_pack(&p->b, v->u.t) : pt2_number_tensor(p, v);
}

static kiln_status crossed(pt2 *p, value *v, bool is_complex, ivalue *out) {
  *out = (ivalue){.kind = IV_TENSOR};
  out->u.t = !v ? NULL : is_complex ? complex_unpack(&p->im, &p->b, v) : lower_tensor(&p->im, v);
  if (out->u.t) return KILN_OK;
  return graph_check(p->graph) != KILN_OK ? graph_check(p->graph) : KILN_NO_MEMORY("import");
}

static bool is_complex(const ivalue *v) { return v->kind == IV_TENSOR && v->u.t->parts[0]; }

/* A block of `owner` that runs a subgraph: its parameters stand for the first `like->count` of the subgraph's inputs, which are complex where
 * those are, and whose types are those of the owner's operands from `first` on; `rest` are values from outside. Notes which results are
 * complex, or (`again`) fails where they differ from what is noted. */
static kiln_status fill_block(pt2 *p, scope *s, const json_t *graph_argument, const node *owner, int first,
                              const values *like, const values *rest, bool *complexes, bool again, block *made) {
  ivalue room[MAX_RESULTS];
  value *results[MAX_RESULTS];
  const int32_t n_params = like->count, count = n_params + rest->count;
  values given = {ARENA_ARRAY(&p->arena, ivalue, count + 1), count}, got = {room, 0};
  if (!given.items) return KILN_NO_MEMORY("import");
  for (int32_t i = 0; i < n_params; i++) {
    value *param = graph_add_param(made, NULL, &node_in(owner, first + i)->type);
    KILN_TRY(crossed(p, param, is_complex(&like->items[i]), &given.items[i]));
  }
  for (int32_t i = 0; i < rest->count; i++) given.items[n_params + i] = rest->items[i];
  KILN_TRY(inline_subgraph(p, s, graph_argument, &given, &got));
  for (int32_t i = 0; i < got.count; i++) {
    if (again && complexes[i] != is_complex(&got.items[i]))
      return KILN_FAIL(KILN_UNSUPPORTED, "a result of a branch or loop is complex in one place and real in another");
    complexes[i] = is_complex(&got.items[i]);
    results[i] = crossing(p, &got.items[i]);
    if (!results[i])
      return graph_check(p->graph) != KILN_OK
                 ? graph_check(p->graph)
                 : KILN_FAIL(KILN_UNSUPPORTED, "a branch or loop gives something that is no tensor");
  }
  block_set_results(made, got.count, results);
  return graph_check(p->graph);
}

static kiln_status build_block(pt2 *p, scope *s, const json_t *graph_argument, node *owner, int first,
                               const values *like, const values *rest, bool *complexes, bool again) {
  block *made = graph_new_block(p->graph, owner);
  if (!made) return KILN_NO_MEMORY("import");
  const builder saved = p->b;
  p->b = builder_at_end(made);
  const kiln_status status = fill_block(p, s, graph_argument, owner, first, like, rest, complexes, again, made);
  p->b = saved;
  if (status != KILN_OK) return status;
  owner->blocks[owner->n_blocks++] = made;
  return KILN_OK;
}

/* A node with room for two blocks. */
static kiln_status control_node(pt2 *p, const char *op_name, int n_in, value *const *operands, size_t n_out,
                                node **out) {
  if (n_out > MAX_RESULTS) return KILN_FAIL(KILN_UNSUPPORTED, "`%s` with more than %d results", op_name, MAX_RESULTS);
  node *n = node_create(&p->b, op_find(op_name), n_in, operands, NO_ATTRS, (int)n_out);
  block **blocks = ARENA_ARRAY(&p->graph->arena, block *, 2);
  if (!n || !blocks) return graph_check(p->graph) != KILN_OK ? graph_check(p->graph) : KILN_NO_MEMORY("import");
  n->blocks = blocks;
  *out = n;
  return KILN_OK;
}

/* The tensors (or numbers) of a list argument. */
static kiln_status list_argument(pt2 *p, scope *s, const json_t *argument, const char *what, ivalue *list,
                                 value **out) {
  KILN_TRY(pt2_argument(p, s, argument, list));
  if (list->kind != IV_LIST || list->count > MAX_OPERANDS)
    return KILN_FAIL(KILN_UNSUPPORTED, "%s that are no list of at most %d", what, MAX_OPERANDS);
  for (int32_t i = 0; i < list->count; i++) {
    out[i] = crossing(p, &list->u.items[i]);
    if (!out[i])
      return graph_check(p->graph) != KILN_OK ? graph_check(p->graph)
                                              : KILN_FAIL(KILN_UNSUPPORTED, "%s of which one is no tensor", what);
  }
  return KILN_OK;
}

static kiln_status define_outputs(pt2 *p, scope *s, const json_t *entry, const node *n, const bool *complexes) {
  ivalue room[MAX_RESULTS];
  const values results = {room, n->n_outputs};
  for (int32_t i = 0; i < n->n_outputs; i++) KILN_TRY(crossed(p, n->outputs[i], complexes[i], &room[i]));
  return define_all(p, s, entry, &results);
}

static kiln_status cond_node(pt2 *p, scope *s, const json_t *entry) {
  const json_t *inputs, *outputs;
  ivalue room[MAX_RESULTS], condition, list;
  value *operands[MAX_OPERANDS + 1];
  values results = {room, 0};
  const values none = {0};
  bool complexes[MAX_RESULTS] = {false};
  node *n = NULL;
  KILN_TRY(pt2_array(entry, "inputs", "node", &inputs));
  if (json_array_size(inputs) != 4)
    return KILN_FAIL(KILN_INVALID_FILE, "model.json: cond needs a condition, two graphs and a list of operands");
  KILN_TRY(pt2_argument(p, s, argument_of(inputs, 0), &condition));
  KILN_TRY(list_argument(p, s, argument_of(inputs, 3), "operands of cond", &list, operands + 1));
  const values given = {list.u.items, list.count};
  if (condition.kind == IV_BOOL) { /* decided by sizes */
    KILN_TRY(inline_subgraph(p, s, argument_of(inputs, condition.u.i ? 1 : 2), &given, &results));
    return define_all(p, s, entry, &results);
  }
  operands[0] = pt2_number_tensor(p, &condition);
  if (!operands[0])
    return graph_check(p->graph) != KILN_OK ? graph_check(p->graph)
                                            : KILN_FAIL(KILN_UNSUPPORTED, "cond with a condition that is no tensor");
  KILN_TRY(pt2_array(json_object_get(json_object_get(argument_of(inputs, 1), "as_graph"), "graph"), "outputs",
                     "branch of cond", &outputs));
  KILN_TRY(control_node(p, "if", list.count + 1, operands, json_array_size(outputs), &n));
  for (int i = 0; i < 2; i++)
    KILN_TRY_NOTE(build_block(p, s, argument_of(inputs, (size_t)i + 1), n, 1, &given, &none, complexes, i > 0),
                  "in branch %d of cond", i);
  KILN_TRY(node_infer(n));
  return define_outputs(p, s, entry, n, complexes);
}

/* while_loop(condition, body, carried, others): both graphs get the carried values and the others. */
static kiln_status while_node(pt2 *p, scope *s, const json_t *entry) {
  const json_t *inputs;
  ivalue carried, others;
  value *operands[MAX_OPERANDS], *outside[MAX_OPERANDS];
  node *n = NULL;
  KILN_TRY(pt2_array(entry, "inputs", "node", &inputs));
  if (json_array_size(inputs) != 4)
    return KILN_FAIL(KILN_INVALID_FILE, "model.json: while_loop needs two graphs and two lists of values");
  KILN_TRY(list_argument(p, s, argument_of(inputs, 2), "values carried by while_loop", &carried, operands));
  /* Made here if they are pending views, not in a block. */
  KILN_TRY(list_argument(p, s, argument_of(inputs, 3), "values used by while_loop", &others, outside));
  const values rest = {others.u.items, others.count}, like = {carried.u.items, carried.count};
  bool complexes[2][MAX_RESULTS] = {{false}}; /* of the condition; of the body */
  KILN_TRY(control_node(p, "while", carried.count, operands, (size_t)carried.count, &n));
  for (int32_t i = 0; i < carried.count; i++) complexes[1][i] = is_complex(&carried.u.items[i]);
  for (int i = 0; i < 2; i++)
    KILN_TRY_NOTE(build_block(p, s, argument_of(inputs, (size_t)i), n, 0, &like, &rest, complexes[i], i > 0),
                  "in the %s of while_loop", i ? "body" : "condition");
  KILN_TRY(node_infer(n));
  return define_outputs(p, s, entry, n, complexes[1]);
}

/* ---- item -------------------------------------------------------------------------------------- */

/* The range of the unbacked symbol ("Symbol('u0', integer=True)") that the file gives `name`. */
static void item_range(const pt2 *p, const scope *s, const char *name, int64_t *min, int64_t *max) {
  const json_t *size = json_object_get(json_object_get(s->graph, "sym_int_values"), name);
  const char *expr = json_string_value(json_object_get(json_object_get(size, "as_expr"), "expr_str"));
  const char *start = expr ? strchr(expr, '\'') : NULL, *end = start ? strchr(start + 1, '\'') : NULL;
  char symbol[40];
  *min = -DIM_UNBOUNDED;
  *max = DIM_UNBOUNDED;
  if (!end || (size_t)(end - start) > sizeof symbol) return;
  memcpy(symbol, start + 1, (size_t)(end - start - 1));
  symbol[end - start - 1] = 0;
  const json_t *range = json_object_get(json_object_get(p->model, "range_constraints"), symbol);
  const json_t *low = json_object_get(range, "min_val"), *high = json_object_get(range, "max_val");
  if (json_is_integer(low) && json_integer_value(low) > INT64_MIN / 4) *min = json_integer_value(low);
  if (json_is_integer(high) && json_integer_value(high) < INT64_MAX / 4) *max = json_integer_value(high);
  if (*min > *max) *max = *min;
}

/* A number in a tensor that becomes a size or an index: a symbol that is known when the tensor is. */
static kiln_status item_node(pt2 *p, scope *s, const json_t *entry) {
  const json_t *inputs, *outputs;
  ivalue given, size = {.kind = IV_INT};
  const char *name;
  int64_t min, max;
  KILN_TRY(pt2_array(entry, "inputs", "node", &inputs));
  KILN_TRY(pt2_array(entry, "outputs", "node", &outputs));
  KILN_TRY(pt2_argument(p, s, argument_of(inputs, 0), &given));
  value *v = given.kind == IV_TENSOR ? lower_value(&p->b, given.u.t) : NULL;
  if (!v)
    return graph_check(p->graph) != KILN_OK ? graph_check(p->graph)
                                            : KILN_FAIL(KILN_INVALID_FILE, "model.json: item of no tensor");
  const json_t *out = json_object_get(json_array_get(outputs, 0), "as_sym_float");
  if (out && dtype_is_float(v->type.dtype)) { /* a tensor of no dimensions promotes as a Python number does */
    ivalue number = {.kind = IV_TENSOR};
    value *flat = lower_reshape(&p->b, v, 0, NULL);
    number.u.t = flat ? lower_tensor(&p->im, flat) : NULL;
    if (!number.u.t) return graph_check(p->graph) != KILN_OK ? graph_check(p->graph) : KILN_NO_MEMORY("import");
    KILN_TRY(pt2_string(out, "as_name", "output", &name));
    return pt2_define(p, s, name, number);
  }
  out = json_object_get(json_array_get(outputs, 0), "as_sym_int");
  const bool truth = !out && v->type.dtype == KILN_BOOL;
  if (truth) { /* 0 or 1: what torch.sym_ite(item, 1, 0) makes of it */
    out = json_object_get(json_array_get(outputs, 0), "as_sym_bool");
    v = lower_cast(&p->b, v, KILN_I64);
    if (!v) return graph_check(p->graph);
  }
  if (!out || (v->type.dtype != KILN_I64 && v->type.dtype != KILN_I32))
    return KILN_FAIL(
        KILN_UNSUPPORTED,
        "item() of a tensor of %s is not supported: only i64 and i32 can become sizes, and floats operands",
        kiln_dtype_name(v->type.dtype));
  KILN_TRY(pt2_string(out, "as_name", "output", &name));
  item_range(p, s, name, &min, &max);
  if (truth) min = 0, max = 1;
  size.u.i = dim_fresh(p->graph->dims, "item", min, max);
  if (size.u.i == DIM_ERROR) return KILN_NO_MEMORY("import");
  if (!build(&p->b, "data_size", IN(v), ATTRS(A_INT("size", size.u.i)))) return graph_check(p->graph);
  return pt2_define(p, s, name, size);
}

/* ---- all of them -------------------------------------------------------------------------------- */

static kiln_status run_node(pt2 *p, scope *s, const json_t *entry, const char *target) {
  const int graph_argument = wrapper_argument(target);
  if (graph_argument >= 0) return wrapper_node(p, s, entry, target, (size_t)graph_argument);
  if (str_eq(target, COND)) return cond_node(p, s, entry);
  if (str_eq(target, WHILE_LOOP)) return while_node(p, s, entry);
  if (is_item(target)) return item_node(p, s, entry);
  /* torch 2.11's fake kernel of lstm gives h and c a dimension too many, and what follows inherits it: types in such
   * files are no check on ours. */
  if (str_eq(target, "torch.ops.aten.lstm.input")) p->doubt_types = true;
  if (pt2_is_symbol_target(target)) return pt2_symbol_node(p, s, entry, target);
  return operator_node(p, s, entry, target);
}

static const char *node_name(const json_t *entry, size_t index, char *room, size_t size) {
  const char *name = json_string_value(json_object_get(entry, "name"));
  if (name) return name;
  snprintf(room, size, "number %zu", index);
  return room;
}

static kiln_status one_node(pt2 *p, scope *s, const json_t *entry, size_t index) {
  const char *target;
  char room[40];
  KILN_TRY(pt2_string(entry, "target", "node", &target));
  pt2_place(p, entry, &p->b.path, &p->b.source);
  const kiln_status status = run_node(p, s, entry, target);
  if (status == KILN_OK) return KILN_OK;
  if (status == KILN_UNSUPPORTED && pt2_skip_node(p, s, entry, target)) return KILN_OK;
  return error_note(status, __FILE__, __LINE__, "importing node %.100s (%.*s)%s%s%s%s",
                    node_name(entry, index, room, sizeof room), MAX_TARGET,
                    str_starts(target, "torch.ops.") ? target + 10 : target, *p->b.path ? " of module " : "", p->b.path,
                    *p->b.source ? " at " : "", p->b.source);
}

kiln_status pt2_nodes(pt2 *p, scope *s) {
  const json_t *nodes;
  KILN_TRY(pt2_array(s->graph, "nodes", "graph", &nodes));
  for (size_t i = 0; i < json_array_size(nodes); i++) KILN_TRY(one_node(p, s, json_array_get(nodes, i), i));
  return KILN_OK;
}
