/* Reads a .pt2 archive: opens it, checks its version, turns the signature into the graph's inputs, constants, states
 * and outputs, and lets export_nodes.c do the nodes between.
 *
 * A buffer starts as a constant. Only when all nodes are read is it known whether one was written (in place, or by a
 * mutation in the signature): then the constant becomes a state, a parameter whose first value it is. */
#include "import/export.h"

#include <string.h>

#include "graph/complex_io.h"
#include "import/complex.h"
#include "import/export_internal.h"
#include "import/sympy.h"

enum { SCHEMA_MAJOR = 8, SCHEMA_MINOR_OLDEST = 17, SCHEMA_MINOR_NEWEST = 20 };

typedef struct user_input {
  const char *name;
  int32_t tensor;        /* index among the graph's inputs, or -1: a constant */
  const json_t *literal; /* its Argument or ConstantValue */
  itensor *handle;
  value *param;
} user_input;

typedef struct io {
  user_input *inputs;
  int32_t n_inputs, n_tensors;
  value **results; /* outputs, then extra ones */
  const char **names;
  int32_t n_results, capacity;
  text outputs, mutated; /* JSON */
} io;

/* ---- archive ------------------------------------------------------------------------------------ */

static const zip_entry *find_model(const zip *z) {
  const zip_entry *first = zip_find(z, "models/model.json");
  for (size_t i = 0; i < z->count && !first; i++) {
    const char *name = zip_short_name(z, &z->entries[i]);
    if (str_starts(name, "models/") && str_ends(name, ".json")) first = &z->entries[i];
  }
  return first;
}

bool export_detect(const void *bytes, size_t size) {
  zip z = {0};
  if (size < 4 || memcmp(bytes, "PK", 2) != 0 || zip_open(bytes, size, &z) != KILN_OK) return false;
  const bool found = find_model(&z) != NULL;
  zip_close(&z);
  return found;
}

static kiln_status parse_document(pt2 *p, const zip_entry *e, jdoc *doc, const json_t **out_root) {
  const void *bytes;
  size_t size;
  KILN_TRY(zip_read(e, &p->arena, &bytes, &size));
  KILN_TRY(jdoc_parse(bytes, size, zip_short_name(&p->zip, e), doc));
  *out_root = doc->root;
  return json_is_object(*out_root) ? KILN_OK
                                   : KILN_FAIL(KILN_INVALID_FILE, "%s is no JSON object", zip_short_name(&p->zip, e));
}

/* data/weights/model_weights_config.json; absent when there is nothing to store. */
static kiln_status parse_config(pt2 *p, const char *model, const char *kind, jdoc *doc, const json_t **out_root) {
  char name[300];
  snprintf(name, sizeof name, "data/%s/%.200s_%s_config.json", kind, model, kind);
  const zip_entry *e = zip_find(&p->zip, name);
  return e ? parse_document(p, e, doc, out_root) : KILN_OK;
}

static kiln_status check_version(pt2 *p) {
  const json_t *version;
  KILN_TRY(pt2_object(p->model, "schema_version", "the program", &version));
  const json_t *major = json_object_get(version, "major"), *minor = json_object_get(version, "minor");
  const char *torch = json_string_value(json_object_get(p->model, "torch_version"));
  if (!json_is_integer(major) || !json_is_integer(minor))
    return KILN_FAIL(KILN_INVALID_FILE, "model.json: schema_version needs major and minor");
  /* A newer minor version only adds what old readers may skip. */
  if (json_integer_value(major) == SCHEMA_MAJOR && json_integer_value(minor) >= SCHEMA_MINOR_OLDEST) return KILN_OK;
  return KILN_FAIL(
      KILN_UNSUPPORTED,
      "the file has export schema %lld.%lld (torch %.40s); Kiln reads %d.%d to %d.%d (torch 2.11 to 2.14): export "
      "the model with one of these",
      (long long)json_integer_value(major), (long long)json_integer_value(minor), torch ? torch : "of unknown version",
      SCHEMA_MAJOR, SCHEMA_MINOR_OLDEST, SCHEMA_MAJOR, SCHEMA_MINOR_NEWEST);
}

static kiln_status check_byteorder(pt2 *p) {
  const zip_entry *e = zip_find(&p->zip, "byteorder");
  const void *bytes;
  size_t size;
  if (!e) return KILN_OK;
  KILN_TRY(zip_read(e, &p->arena, &bytes, &size));
  if (size == 6 && memcmp(bytes, "little", 6) == 0) return KILN_OK;
  return KILN_FAIL(KILN_UNSUPPORTED, "the file's weights are not little-endian");
}

static kiln_status open_archive(pt2 *p, const void *bytes, size_t size) {
  KILN_TRY(zip_open(bytes, size, &p->zip));
  const zip_entry *e = find_model(&p->zip);
  if (!e)
    return KILN_FAIL(KILN_INVALID_FILE, "a zip archive without models/model.json: not written by torch.export.save");
  KILN_TRY(check_byteorder(p));
  KILN_TRY(parse_document(p, e, &p->documents[0], &p->model));
  KILN_TRY(check_version(p));
  const char *name = zip_short_name(&p->zip, e) + strlen("models/");
  const char *model = arena_strndup(&p->arena, name, strlen(name) - strlen(".json"));
  if (!model) return KILN_NO_MEMORY("import");
  KILN_TRY(parse_config(p, model, "weights", &p->documents[1], &p->weights));
  return parse_config(p, model, "constants", &p->documents[2], &p->constants);
}

/* ---- symbols ------------------------------------------------------------------------------------ */

static kiln_status read_ranges(pt2 *p) {
  const json_t *ranges;
  KILN_TRY(pt2_object(p->model, "range_constraints", "the program", &ranges));
  for (void *it = json_object_iter((json_t *)(uintptr_t)ranges); it;
       it = json_object_iter_next((json_t *)(uintptr_t)ranges, it)) {
    const char *name = json_object_iter_key(it);
    const json_t *min = json_object_get(json_object_iter_value(it), "min_val"),
                 *max = json_object_get(json_object_iter_value(it), "max_val");
    int64_t low = json_is_integer(min) && json_integer_value(min) > 0 ? json_integer_value(min) : 0;
    /* Exports take 2 as the least size of what may vary, because 0 and 1 mean special cases to them; but PyTorch runs
     * these programs at 0 and 1, and so do we (torch.export checks lower bounds above 2 only). */
    if (low == 2) low = 0;
    int64_t high = json_is_integer(max) ? json_integer_value(max) : DIM_UNBOUNDED;
    if (high > INT64_MAX / 4) high = DIM_UNBOUNDED; /* sys.maxsize means the same */
    if (high < low)
      return KILN_FAIL(KILN_INVALID_FILE, "model.json: range_constraints: symbol `%.60s` has an empty range", name);
    const char *copy = arena_strdup(&p->graph->arena, name);
    if (!copy) return KILN_NO_MEMORY("import");
    if (*name != 's') continue; /* u0: known when a node has run; bound by that node */
    if (dim_symbol(p->graph->dims, copy, low, high) == DIM_ERROR)
      return error_note(dim_failure(), __FILE__, __LINE__, "in range_constraints of model.json");
  }
  return KILN_OK;
}

/* ---- inputs ------------------------------------------------------------------------------------- */

static const char *copy_name(pt2 *p, const char *name) { return arena_strdup(&p->graph->arena, name); }

static kiln_status define_weight(pt2 *p, scope *s, const json_t *spec, const char *key, bool from_constants,
                                 bool state) {
  const json_t *arg;
  const char *name, *arg_name;
  KILN_TRY(pt2_string(spec, key, "input spec", &name));
  KILN_TRY(pt2_object(spec, "arg", "input spec", &arg));
  KILN_TRY(pt2_string(arg, "name", "input spec", &arg_name));
  weight *w;
  KILN_TRY(pt2_weight(p, name, from_constants, &w));
  if (state && !map_put(&p->states, name, w)) return KILN_NO_MEMORY("import");
  ivalue v = {.kind = IV_TENSOR};
  v.u.t = w->tensor;
  return pt2_define(p, s, arg_name, v);
}

static kiln_status tensor_input(pt2 *p, scope *s, const json_t *argument, user_input *in, int32_t index) {
  KILN_TRY(pt2_string(argument, "name", "user input", &in->name));
  const json_t *meta = json_object_get(json_object_get(s->graph, "tensor_values"), in->name);
  tensor_type type;
  bool is_complex;
  if (!meta) return KILN_FAIL(KILN_INVALID_FILE, "model.json: input `%.100s` has no entry in tensor_values", in->name);
  KILN_TRY(pt2_value_type(p, meta, in->name, true, &type, &is_complex));
  if (is_complex && type.rank == KILN_MAX_RANK)
    return KILN_FAIL(KILN_UNSUPPORTED, "input `%.100s` is complex with %d dimensions, at most %d are possible",
                     in->name, (int)type.rank, KILN_MAX_RANK - 1);
  if (is_complex) {
    type.dims[type.rank++] = 2;
    KILN_TRY(graph_mark_complex(p->graph, 'i', index));
  }
  in->tensor = index;
  in->param = graph_add_param(&p->graph->body, copy_name(p, in->name), &type);
  if (in->param) in->handle = is_complex ? complex_unpack(&p->im, &p->b, in->param) : lower_tensor(&p->im, in->param);
  if (!in->handle) return graph_check(p->graph) != KILN_OK ? graph_check(p->graph) : KILN_NO_MEMORY("import");
  ivalue v = {.kind = IV_TENSOR};
  v.u.t = in->handle;
  return pt2_define(p, s, in->name, v);
}

static kiln_status user_input_spec(pt2 *p, scope *s, const json_t *spec, io *x) {
  const json_t *arg, *v;
  const char *kind;
  user_input *in = &x->inputs[x->n_inputs++];
  *in = (user_input){.name = "", .tensor = -1};
  KILN_TRY(pt2_object(spec, "arg", "user input", &arg));
  KILN_TRY(pt2_union(arg, "user input", &kind, &v));
  if (str_eq(kind, "as_tensor")) return tensor_input(p, s, v, in, x->n_tensors++);
  in->literal = arg;
  if (str_starts(kind, "as_sym_"))
    return KILN_FAIL(
        KILN_UNSUPPORTED,
        "input %d is a Python number that the export left open (`%.60s`); export it as a constant, or pass a tensor",
        x->n_inputs - 1,
        json_string_value(json_object_get(v, "as_name")) ? json_string_value(json_object_get(v, "as_name")) : "?");
  return KILN_OK;
}

static kiln_status input_spec(pt2 *p, scope *s, const json_t *spec, io *x) {
  const char *kind;
  const json_t *v;
  KILN_TRY(pt2_union(spec, "input spec", &kind, &v));
  if (str_eq(kind, "user_input")) return user_input_spec(p, s, v, x);
  if (str_eq(kind, "parameter")) return define_weight(p, s, v, "parameter_name", false, true);
  if (str_eq(kind, "buffer"))
    return define_weight(p, s, v, "buffer_name", json_is_false(json_object_get(v, "persistent")), true);
  if (str_eq(kind, "tensor_constant")) return define_weight(p, s, v, "tensor_constant_name", true, false);
  if (str_eq(kind, "constant_input")) {
    user_input *in = &x->inputs[x->n_inputs++];
    const char *name = json_string_value(json_object_get(v, "name"));
    *in = (user_input){.name = name ? name : "", .tensor = -1, .literal = json_object_get(v, "value")};
    return KILN_OK;
  }
  return KILN_FAIL(KILN_UNSUPPORTED, "inputs of kind `%.40s` (custom objects, effect tokens) are not supported", kind);
}

/* ---- metadata as JSON --------------------------------------------------------------------------- */

static void write_string(text *t, const char *s) {
  json_t *v = json_string(s);
  char *quoted = v ? json_dumps(v, JSON_ENCODE_ANY) : NULL;
  if (quoted)
    text_puts(t, quoted);
  else
    t->failed = true;
  free(quoted);
  json_decref(v);
}

/* A literal Argument or ConstantValue as a JSON value. */
static void write_literal(text *t, const json_t *argument) {
  const char *kind;
  const json_t *v;
  if (pt2_union(argument, "literal", &kind, &v) != KILN_OK || str_eq(kind, "as_none")) {
    text_puts(t, "null");
    return;
  }
  char *dumped = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
  const char *word = json_string_value(v);
  if (!dumped)
    t->failed = true;
  else if (str_eq(kind, "as_float") && word)
    text_puts(t, word); /* Infinity, NaN: as Python's json reads them */
  else
    text_puts(t, dumped);
  free(dumped);
}

static kiln_status set_text(pt2 *p, const char *key, text *t) {
  const kiln_status status =
      t->failed ? KILN_NO_MEMORY("import") : graph_set_metadata(p->graph, key, t->data ? t->data : "");
  text_free(t);
  return status;
}

static kiln_status inputs_metadata(pt2 *p, const io *x) {
  text t = {0};
  text_putc(&t, '[');
  for (int32_t i = 0; i < x->n_inputs; i++) {
    const user_input *in = &x->inputs[i];
    text_puts(&t, i ? ", {\"name\": " : "{\"name\": ");
    write_string(&t, in->name);
    if (in->tensor >= 0) {
      text_printf(&t, ", \"tensor\": %d}", in->tensor);
    } else {
      text_puts(&t, ", \"value\": ");
      write_literal(&t, in->literal);
      text_putc(&t, '}');
    }
  }
  text_putc(&t, ']');
  return set_text(p, "torch.inputs", &t);
}

static kiln_status treespecs(pt2 *p) {
  const json_t *gm = json_object_get(p->model, "graph_module");
  const json_t *calls = json_object_get(gm, "module_call_graph");
  for (size_t i = 0; i < json_array_size(calls); i++) {
    const json_t *call = json_array_get(calls, i), *signature = json_object_get(call, "signature");
    if (!str_eq(json_string_value(json_object_get(call, "fqn")), "") || !json_is_object(signature)) continue;
    const char *in = json_string_value(json_object_get(signature, "in_spec")),
               *out = json_string_value(json_object_get(signature, "out_spec"));
    if (in) KILN_TRY(graph_set_metadata(p->graph, "torch.in_spec", in));
    if (out) KILN_TRY(graph_set_metadata(p->graph, "torch.out_spec", out));
    const json_t *names = json_object_get(signature, "forward_arg_names");
    char *list = json_is_array(names) ? json_dumps(names, 0) : NULL;
    const kiln_status status = list ? graph_set_metadata(p->graph, "torch.arg_names", list) : KILN_OK;
    free(list);
    KILN_TRY(status);
  }
  const char *version = json_string_value(json_object_get(p->model, "torch_version"));
  return version ? graph_set_metadata(p->graph, "torch.version", version) : KILN_OK;
}

/* ---- outputs ------------------------------------------------------------------------------------ */

static kiln_status add_result(pt2 *p, io *x, value *v, const char *name, int32_t *out_index) {
  if (!v)
    return graph_check(p->graph) != KILN_OK ? graph_check(p->graph)
                                            : KILN_FAIL(KILN_INVALID_FILE, "model.json: an output has no value");
  if (x->n_results == x->capacity) return KILN_FAIL(KILN_INTERNAL, "more outputs than counted");
  *out_index = x->n_results;
  x->names[x->n_results] = name;
  x->results[x->n_results++] = v;
  return KILN_OK;
}

static value *output_value(pt2 *p, const ivalue *v) {
  return v->kind == IV_TENSOR && v->u.t->parts[0] ? complex_pack(&p->b, v->u.t) : pt2_number_tensor(p, v);
}

static kiln_status user_output(pt2 *p, scope *s, const json_t *spec, io *x, const char *name) {
  const json_t *arg, *v;
  const char *kind;
  ivalue r;
  int32_t index;
  KILN_TRY(pt2_object(spec, "arg", "user output", &arg));
  KILN_TRY(pt2_union(arg, "user output", &kind, &v));
  if (!str_eq(kind, "as_tensor") && !str_starts(kind, "as_sym_")) {
    text_puts(&x->outputs, "{\"value\": ");
    write_literal(&x->outputs, arg);
    text_putc(&x->outputs, '}');
    return KILN_OK;
  }
  KILN_TRY(pt2_argument(p, s, arg, &r));
  if (r.kind == IV_TENSOR && r.u.t->parts[0]) KILN_TRY(graph_mark_complex(p->graph, 'o', x->n_results));
  const char *label = r.kind == IV_INT            ? "int"
                      : r.kind == IV_BOOL         ? "bool"
                      : str_eq(kind, "as_tensor") ? "tensor"
                                                  : "float";
  KILN_TRY(add_result(p, x, output_value(p, &r), name, &index));
  text_printf(&x->outputs, "{\"%s\": %d}", label, index);
  return KILN_OK;
}

static kiln_status mutated_input(pt2 *p, io *x, int32_t i) {
  int32_t index;
  bool is_complex;
  value *v = complex_value_of(&p->b, x->inputs[i].handle, &is_complex);
  if (is_complex) KILN_TRY(graph_mark_complex(p->graph, 'o', x->n_results));
  KILN_TRY(add_result(p, x, v, arena_printf(&p->graph->arena, "new_%s", x->inputs[i].name), &index));
  text_printf(&x->mutated, "%s{\"input\": %d, \"output\": %d}", x->mutated.length ? ", " : "", x->inputs[i].tensor,
              index);
  return KILN_OK;
}

static kiln_status named_input(const io *x, const char *name, int32_t *out) {
  for (int32_t i = 0; i < x->n_inputs; i++) {
    if (x->inputs[i].tensor < 0 || !str_eq(x->inputs[i].name, name)) continue;
    *out = i;
    return KILN_OK;
  }
  return KILN_FAIL(KILN_INVALID_FILE, "model.json: output spec: there is no input `%.100s`", name);
}

/* Mutations of the signature become writes, as in-place nodes are, so that one place decides what is a state. */
static kiln_status mutation_output(pt2 *p, scope *s, const json_t *spec, const char *kind, io *x) {
  const json_t *arg;
  const char *name, *target;
  KILN_TRY(pt2_object(spec, "arg", kind, &arg));
  KILN_TRY(pt2_string(arg, "name", kind, &name));
  const ivalue *v = pt2_lookup(s, name);
  if (!v || v->kind != IV_TENSOR)
    return KILN_FAIL(KILN_INVALID_FILE, "model.json: output `%.100s` is not defined", name);
  if (str_eq(kind, "user_input_mutation")) {
    int32_t i = 0;
    KILN_TRY(pt2_string(spec, "user_input_name", kind, &target));
    KILN_TRY(named_input(x, target, &i));
    return complex_write(&p->b, x->inputs[i].handle, v->u.t);
  }
  KILN_TRY(pt2_string(spec, str_eq(kind, "buffer_mutation") ? "buffer_name" : "parameter_name", kind, &target));
  weight *w = map_get(&p->states, target);
  if (!w) return KILN_FAIL(KILN_INVALID_FILE, "model.json: output spec: there is no buffer `%.100s`", target);
  return complex_write(&p->b, w->tensor, v->u.t);
}

/* Names of outputs: keys of dicts and indices of sequences, from the root of the treespec; "output" for a lone
 * tensor. */
typedef struct namer {
  pt2 *p;
  const char **names;
  size_t n, capacity;
} namer;

static void name_leaves(namer *m, const json_t *spec, const char *prefix, int depth) {
  const json_t *children = json_object_get(spec, "children_spec");
  if (depth > 64) return;
  if (json_is_null(json_object_get(spec, "type"))) {
    if (m->n < m->capacity) m->names[m->n++] = *prefix ? prefix : "output";
    return;
  }
  const char *context = json_string_value(json_object_get(spec, "context"));
  json_t *keys = context ? json_loads(context, 0, NULL) : NULL;
  for (size_t i = 0; i < json_array_size(children); i++) {
    const char *key = json_string_value(json_array_get(keys, i));
    char number[24];
    snprintf(number, sizeof number, "%zu", i);
    const char *separator = *prefix ? "." : key ? "" : "output";
    const char *name =
        arena_printf(&m->p->graph->arena, "%s%s%s", prefix, separator, key && strlen(key) < 100 ? key : number);
    if (name) name_leaves(m, json_array_get(children, i), name, depth + 1);
  }
  json_decref(keys);
}

static kiln_status output_names(pt2 *p, size_t count, const char ***out) {
  namer m = {.p = p, .capacity = count, .names = ARENA_ARRAY(&p->arena, const char *, count + 1)};
  if (!m.names) return KILN_NO_MEMORY("import");
  const char *spec = graph_metadata(p->graph, "torch.out_spec");
  json_t *tree = spec ? json_loads(spec, 0, NULL) : NULL;
  if (json_array_size(tree) == 2) name_leaves(&m, json_array_get(tree, 1), "", 0);
  json_decref(tree);
  bool good = m.n == count;
  map seen = {0};
  for (size_t i = 0; i < m.n && good; i++) good = !map_has(&seen, m.names[i]) && map_put(&seen, m.names[i], &m);
  map_free(&seen);
  for (size_t i = 0; i < count && !good; i++) {
    m.names[i] = arena_printf(&p->graph->arena, "output%zu", i);
    if (!m.names[i]) return KILN_NO_MEMORY("import");
  }
  *out = m.names;
  return KILN_OK;
}

static kiln_status read_outputs(pt2 *p, scope *s, const json_t *specs, io *x) {
  const char **names = NULL;
  size_t users = 0, user = 0;
  for (size_t i = 0; i < json_array_size(specs); i++)
    users += json_object_get(json_array_get(specs, i), "user_output") != NULL;
  x->capacity = (int32_t)users + x->n_inputs;
  x->results = ARENA_ARRAY(&p->arena, value *, x->capacity + 1);
  x->names = ARENA_ARRAY(&p->graph->arena, const char *, x->capacity + 1);
  if (!x->results || !x->names) return KILN_NO_MEMORY("import");
  KILN_TRY(output_names(p, users, &names));
  text_putc(&x->outputs, '[');
  for (size_t i = 0; i < json_array_size(specs); i++) {
    const char *kind;
    const json_t *v;
    KILN_TRY(pt2_union(json_array_get(specs, i), "output spec", &kind, &v));
    if (str_eq(kind, "user_output")) {
      if (user) text_puts(&x->outputs, ", ");
      KILN_TRY(user_output(p, s, v, x, names[user]));
      user++;
    } else if (str_ends(kind, "_mutation")) {
      KILN_TRY(mutation_output(p, s, v, kind, x));
    } else {
      return KILN_FAIL(KILN_UNSUPPORTED,
                       "outputs of kind `%.40s` (of training graphs, or effect tokens) are not supported", kind);
    }
  }
  text_putc(&x->outputs, ']');
  for (int32_t i = 0; i < x->n_inputs; i++)
    if (x->inputs[i].handle && complex_version(x->inputs[i].handle) > 0) KILN_TRY(mutated_input(p, x, i));
  return KILN_OK;
}

/* ---- states ------------------------------------------------------------------------------------- */

typedef struct written {
  const char *name;
  weight *w;
} written;

/* Buffers in the order of the signature, so that files of one model give one graph. */
static kiln_status find_written(pt2 *p, const json_t *specs, written **out, int32_t *out_count) {
  int32_t n = 0;
  written *list = ARENA_ARRAY(&p->arena, written, json_array_size(specs) + 1);
  if (!list) return KILN_NO_MEMORY("import");
  for (size_t i = 0; i < json_array_size(specs); i++) {
    const json_t *spec = json_array_get(specs, i), *v;
    const char *kind, *name = NULL;
    KILN_TRY(pt2_union(spec, "input spec", &kind, &v));
    if (str_eq(kind, "buffer")) name = json_string_value(json_object_get(v, "buffer_name"));
    if (str_eq(kind, "parameter")) name = json_string_value(json_object_get(v, "parameter_name"));
    weight *w = name ? map_get(&p->states, name) : NULL;
    bool known = !w || complex_version(w->tensor) == 0;
    for (int32_t k = 0; k < n && !known; k++) known = list[k].w == w;
    if (!known) list[n++] = (written){name, w};
  }
  *out = list;
  *out_count = n;
  return KILN_OK;
}

static kiln_status finish_states(pt2 *p, const json_t *specs, io *x, value ***out_results, int32_t *out_count) {
  graph *g = p->graph;
  written *list = NULL;
  int32_t n = 0;
  KILN_TRY(find_written(p, specs, &list, &n));
  value **results = ARENA_ARRAY(&p->arena, value *, x->n_results + n + 1);
  g->states = ARENA_ARRAY(&g->arena, graph_state, n + 1);
  if (!results || !g->states) return KILN_NO_MEMORY("import");
  for (int32_t i = 0; i < x->n_results; i++) results[i] = x->results[i];
  for (int32_t i = 0; i < n; i++) {
    value *initial = list[i].w->initial;
    value *param = graph_add_param(&g->body, NULL, &initial->type);
    bool is_complex;
    value *last = complex_value_of(&p->b, list[i].w->tensor, &is_complex);
    const char *name = copy_name(p, list[i].name);
    if (!param || !last || !name) return graph_check(g) != KILN_OK ? graph_check(g) : KILN_NO_MEMORY("import");
    value_replace_uses(initial, param);
    for (int32_t k = 0; k < x->n_results + i; k++)
      if (results[k] == initial) results[k] = param;
    g->states[i] =
        (graph_state){.name = name, .param = x->n_tensors + i, .result = x->n_results + i, .initial = initial};
    results[x->n_results + i] = last == initial ? param : last;
  }
  g->n_states = n;
  *out_results = results;
  *out_count = x->n_results + n;
  return KILN_OK;
}

/* ---- the whole ---------------------------------------------------------------------------------- */

/* Nodes, and the end of it when any was not supported: what follows in the file is then not looked at. */
static kiln_status import_nodes(pt2 *p, scope *s) {
  const kiln_status status = pt2_nodes(p, s);
  if (status == KILN_OK || status == KILN_UNSUPPORTED || status == KILN_INVALID_FILE) KILN_TRY(pt2_survey_report(p));
  return status;
}

static kiln_status import_signature(pt2 *p, scope *s, io *x) {
  const json_t *gm, *signature, *inputs, *outputs;
  graph *g = p->graph;
  KILN_TRY(pt2_object(p->model, "graph_module", "the program", &gm));
  KILN_TRY(pt2_object(gm, "graph", "graph_module", &s->graph));
  KILN_TRY(pt2_object(gm, "signature", "graph_module", &signature));
  KILN_TRY(pt2_array(signature, "input_specs", "signature", &inputs));
  KILN_TRY(pt2_array(signature, "output_specs", "signature", &outputs));
  KILN_TRY(pt2_survey_create(p));
  KILN_TRY(pt2_survey_operators(p, s->graph));
  KILN_TRY(treespecs(p));
  KILN_TRY(read_ranges(p));
  x->inputs = ARENA_ARRAY(&p->arena, user_input, json_array_size(inputs) + 1);
  if (!x->inputs) return KILN_NO_MEMORY("import");
  for (size_t i = 0; i < json_array_size(inputs); i++) {
    const kiln_status status = input_spec(p, s, json_array_get(inputs, i), x);
    if (status == KILN_UNSUPPORTED) KILN_TRY(pt2_survey_report(p)); /* what the nodes lack says more */
    KILN_TRY(status);
  }
  if (p->im.calibration) KILN_TRY(pt2_note_weights(p, inputs, s->graph));
  KILN_TRY(import_nodes(p, s));
  p->b = builder_at_end(&g->body);
  KILN_TRY(read_outputs(p, s, outputs, x));
  KILN_TRY(pt2_name_weights(p));
  value **results = NULL;
  int32_t n = 0;
  KILN_TRY(finish_states(p, inputs, x, &results, &n));
  block_set_results(&g->body, n, results);
  g->n_inputs = x->n_tensors;
  g->n_outputs = x->n_results;
  g->output_names = x->names;
  g->input_names = ARENA_ARRAY(&g->arena, const char *, x->n_tensors + 1);
  if (!g->input_names) return KILN_NO_MEMORY("import");
  for (int32_t i = 0; i < x->n_inputs; i++)
    if (x->inputs[i].tensor >= 0) g->input_names[x->inputs[i].tensor] = x->inputs[i].param->name;
  KILN_TRY(inputs_metadata(p, x));
  KILN_TRY(graph_set_metadata(g, "torch.outputs", x->outputs.data ? x->outputs.data : "[]"));
  KILN_TRY(pt2_size_guards(p, p->model));
  if (x->mutated.length == 0) return graph_check(g);
  text t = {0};
  text_printf(&t, "[%s]", x->mutated.data);
  KILN_TRY(set_text(p, "torch.mutated_inputs", &t));
  return graph_check(g);
}

static void close_pt2(pt2 *p) {
  for (size_t i = 0; i < KILN_COUNT(p->documents); i++) jdoc_free(&p->documents[i]);
  map_free(&p->weight_cache);
  map_free(&p->texts);
  map_free(&p->states);
  pt2_survey_free(p);
  arena_free(&p->arena);
  zip_close(&p->zip);
}

static kiln_status import_into(pt2 *p, const void *bytes, size_t size) {
  scope s = {0};
  io x = {0};
  KILN_TRY(aten_init());
  KILN_TRY(open_archive(p, bytes, size));
  kiln_status status = import_signature(p, &s, &x);
  if (status == KILN_OK && (x.outputs.failed || x.mutated.failed)) status = KILN_NO_MEMORY("import");
  map_free(&s.values);
  text_free(&x.outputs);
  text_free(&x.mutated);
  return status;
}

static kiln_status import_archive(const void *bytes, size_t size, const char *origin, calibration *ranges,
                                  graph **out) {
  pt2 p = {.origin = origin};
  KILN_TRY(graph_create(&p.graph));
  p.im = (importer){.graph = p.graph, .arena = &p.arena, .calibration = ranges};
  p.b = builder_at_end(&p.graph->body);
  kiln_status status = import_into(&p, bytes, size);
  if (status == KILN_OK && ranges) status = calibration_finish(ranges);
  close_pt2(&p);
  if (status != KILN_OK) {
    graph_destroy(p.graph);
    return error_note(status, __FILE__, __LINE__, "importing %s", origin ? origin : "a model from memory");
  }
  *out = p.graph;
  return KILN_OK;
}

kiln_status export_import(const void *bytes, size_t size, const char *origin, graph **out) {
  return export_import_calibrated(bytes, size, origin, NULL, out);
}

kiln_status export_import_calibrated(const void *bytes, size_t size, const char *origin, const char *calibration_cache,
                                     graph **out) {
  calibration c = {0};
  kiln_status status = calibration_cache ? calibration_open(calibration_cache, &c) : KILN_OK;
  if (status == KILN_OK) status = import_archive(bytes, size, origin, calibration_cache ? &c : NULL, out);
  calibration_close(&c);
  return status;
}
