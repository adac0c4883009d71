/* A TorchScript archive: opening it, its code files, its named tensors, and how failures name their place. */
#include "import/torchscript/archive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"

enum { MAX_CODE = 32 << 20, MAX_PATH = 1024, MAX_MODULE_DEPTH = 300 };

/* ---- code files -------------------------------------------------------------------------------------------------- */

/* "code/__torch__/a/b.py" to "__torch__.a.b". */
static const char *module_of_file(ts_archive *a, const char *name) {
  const size_t n = strlen(name);
  if (n < 8 + 3) return "";
  char *prefix = arena_strndup(&a->arena, name + 5, n - 5 - 3);
  for (char *p = prefix; p && *p; p++)
    if (*p == '/') *p = '.';
  return prefix;
}

static kiln_status register_definitions(ts_archive *a, const ts_file *f) {
  for (const ts_stmt *s = f->body; s; s = s->next) {
    if (s->kind != TS_CLASS && s->kind != TS_DEF) continue; /* old versions also set op_version_set here */
    ts_definition *d = ARENA_NEW(&a->arena, ts_definition);
    const char *qualified = arena_printf(&a->arena, "%s.%s", f->prefix, s->name);
    if (!d || !qualified) return KILN_NO_MEMORY("TorchScript code");
    *d = (ts_definition){f, s};
    if (map_has(&a->definitions, qualified))
      return KILN_FAIL(KILN_INVALID_FILE, "%s:%d: %s is defined twice", f->name, s->line, s->name);
    if (!map_put(&a->definitions, qualified, d)) return KILN_NO_MEMORY("TorchScript code");
  }
  return KILN_OK;
}

kiln_status ts_file_load(ts_archive *a, const char *name, ts_file **out) {
  *out = map_get(&a->files, name);
  if (*out) return KILN_OK;
  const zip_entry *e = zip_find(&a->zip, name);
  if (!e) return KILN_OK;
  if (e->size > MAX_CODE - a->code_bytes)
    return KILN_FAIL(KILN_INVALID_FILE, "%.300s has %zu bytes of code; of all files at most %d bytes are read", name,
                     e->size, (int)MAX_CODE);
  a->code_bytes += e->size; /* counted again for a file that is damaged and asked for again */
  const void *bytes = NULL;
  ts_file *f = ARENA_NEW(&a->arena, ts_file);
  const char *copy = arena_strdup(&a->arena, name);
  if (!f || !copy) return KILN_NO_MEMORY("TorchScript code");
  f->name = copy;
  KILN_TRY_NOTE(zip_read(e, &a->arena, &bytes, &f->size), "reading %.300s", name);
  f->text = bytes;
  f->prefix = module_of_file(a, copy);
  if (!f->prefix) return KILN_NO_MEMORY("TorchScript code");
  KILN_TRY(ts_parse(&a->arena, copy, f->text, f->size, &f->body));
  KILN_TRY(register_definitions(a, f));
  if (!map_put(&a->files, copy, f)) return KILN_NO_MEMORY("TorchScript code");
  *out = f;
  return KILN_OK;
}

kiln_status ts_definition_find(ts_archive *a, const char *qualified, const ts_definition **out) {
  *out = map_get(&a->definitions, qualified);
  if (*out) return KILN_OK;
  const char *dot = strrchr(qualified, '.');
  char name[MAX_PATH];
  if (!dot || dot == qualified || (size_t)(dot - qualified) > sizeof name - 16) return KILN_OK;
  const int n = snprintf(name, sizeof name, "code/%.*s.py", (int)(dot - qualified), qualified);
  for (int i = 5; i < n - 3; i++)
    if (name[i] == '.') name[i] = '/';
  ts_file *f = NULL;
  KILN_TRY(ts_file_load(a, name, &f));
  if (f) *out = map_get(&a->definitions, qualified);
  return KILN_OK;
}

/* ---- named tensors ----------------------------------------------------------------------------------------------- */

typedef struct collector {
  ts_archive *a;
  ts_parameter *list;
  int32_t count, capacity;
  map visited;
} collector;

static kiln_status add_parameter(collector *c, ts_object *owner, int32_t slot, value *initial) {
  if (c->count == c->capacity) {
    const int32_t wanted = c->capacity ? c->capacity * 2 : 64;
    ts_parameter *grown = ARENA_ARRAY(&c->a->arena, ts_parameter, wanted);
    if (!grown) return KILN_NO_MEMORY("parameters");
    if (c->count) memcpy(grown, c->list, (size_t)c->count * sizeof *grown);
    c->list = grown;
    c->capacity = wanted;
  }
  const char *name = owner->cls->attributes[slot].name;
  const char *path = *owner->path ? arena_printf(&c->a->arena, "%s.%s", owner->path, name) : name;
  if (!path) return KILN_NO_MEMORY("parameters");
  c->list[c->count++] = (ts_parameter){path, owner, slot, initial};
  return KILN_OK;
}

/* Modules and packed parameters; they are reached through attributes only: PyTorch keeps none in lists or dicts. */
static bool has_tensors(const ts_class *c) { return c->kind == TSC_MODULE || c->kind == TSC_BUILTIN; }

static kiln_status collect(collector *c, ts_object *o, int depth) {
  if (depth > MAX_MODULE_DEPTH)
    return KILN_FAIL(KILN_INVALID_FILE, "modules are nested more than %d deep", MAX_MODULE_DEPTH);
  if (map_get_number(&c->visited, (uint64_t)(uintptr_t)o)) return KILN_OK;
  if (!map_put_number(&c->visited, (uint64_t)(uintptr_t)o, o)) return KILN_NO_MEMORY("parameters");
  if (!o->path) o->path = "";
  for (int32_t i = 0; i < o->n_attrs; i++) {
    const ts_value *v = &o->attrs[i];
    if (v->kind == TSV_TENSOR && v->u.tensor->v) KILN_TRY(add_parameter(c, o, i, v->u.tensor->v));
    if (v->kind == TSV_QTENSOR) KILN_TRY(add_parameter(c, o, i, v->u.qtensor->integers->v));
  }
  for (int32_t i = 0; i < o->n_attrs; i++) {
    const ts_value *v = &o->attrs[i];
    if (v->kind != TSV_OBJECT || !has_tensors(v->u.object->cls)) continue;
    if (!v->u.object->path || !*v->u.object->path) { /* packed parameters; modules have theirs from the file */
      const char *name = o->cls->attributes[i].name;
      v->u.object->path = *o->path ? arena_printf(&c->a->arena, "%s.%s", o->path, name) : name;
      if (!v->u.object->path) return KILN_NO_MEMORY("parameters");
    }
    KILN_TRY(collect(c, v->u.object, depth + 1));
  }
  return KILN_OK;
}

kiln_status ts_archive_collect(ts_archive *a) {
  collector c = {.a = a};
  const kiln_status status = collect(&c, a->root.u.object, 0);
  map_free(&c.visited);
  a->parameters = c.list;
  a->n_parameters = status == KILN_OK ? c.count : 0;
  return status;
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

bool ts_archive_detect(const void *bytes, size_t size) {
  zip z;
  if (size < 22 || zip_open(bytes, size, &z) != KILN_OK) return false;
  bool code = false;
  const bool data = zip_find(&z, "data.pkl") != NULL;
  for (size_t i = 0; i < z.count && !code; i++) code = str_starts(zip_short_name(&z, &z.entries[i]), "code/");
  zip_close(&z);
  return data && code;
}

/* The version of operators: "version" holds it, or, in files with newer ones, ".data/version". */
static kiln_status read_version(ts_archive *a) {
  const zip_entry *e = zip_find(&a->zip, "version");
  if (!e) e = zip_find(&a->zip, ".data/version");
  if (!e) return KILN_FAIL(KILN_INVALID_FILE, "the archive has no version record");
  const void *bytes = NULL;
  size_t size = 0;
  KILN_TRY(zip_read(e, &a->arena, &bytes, &size));
  const char *digits = bytes;
  size_t n = 0;
  for (; n < size && n < 9 && digits[n] >= '0' && digits[n] <= '9'; n++)
    a->version = a->version * 10 + (digits[n] - '0');
  if (n == 0) return KILN_FAIL(KILN_INVALID_FILE, "the archive's version record holds no number");
  return KILN_OK;
}

static kiln_status read_byteorder(ts_archive *a) {
  const zip_entry *e = zip_find(&a->zip, "byteorder");
  if (!e) return KILN_OK; /* before PyTorch 2.1: little */
  const void *bytes = NULL;
  size_t size = 0;
  KILN_TRY(zip_read(e, &a->arena, &bytes, &size));
  if (size >= 6 && memcmp(bytes, "little", 6) == 0) return KILN_OK;
  return KILN_FAIL(KILN_UNSUPPORTED,
                   "the file was written on a big-endian machine; save it again on a little-endian one");
}

static kiln_status read_constants(ts_archive *a) {
  if (!zip_find(&a->zip, "constants.pkl")) return KILN_OK;
  ts_value v = {0};
  KILN_TRY(ts_pickle_read(a, "constants.pkl", "constants", &v));
  if (v.kind != TSV_TUPLE && v.kind != TSV_LIST)
    return KILN_FAIL(KILN_INVALID_FILE, "constants.pkl holds %s; expected a tuple", ts_value_kind_name(v.kind));
  a->constants = v.u.list->items;
  a->n_constants = v.u.list->count;
  return KILN_OK;
}

static kiln_status read_all(ts_archive *a) {
  KILN_TRY(read_version(a));
  KILN_TRY(read_byteorder(a));
  KILN_TRY(ts_pickle_read(a, "data.pkl", "data", &a->root));
  if (a->root.kind != TSV_OBJECT || a->root.u.object->cls->kind != TSC_MODULE)
    return KILN_FAIL(KILN_INVALID_FILE, "data.pkl holds %s; expected a module", ts_value_kind_name(a->root.kind));
  KILN_TRY(read_constants(a));
  return ts_archive_collect(a);
}

kiln_status ts_archive_open(ts_archive *a, graph *g, const void *bytes, size_t size, const char *origin) {
  *a = (ts_archive){.origin = origin, .source_budget = 64 << 20};
  a->im.graph = g;
  a->im.arena = &a->arena;
  kiln_status status = zip_open(bytes, size, &a->zip);
  if (status != KILN_OK) return error_note(status, __FILE__, __LINE__, "reading %.300s", origin);
  status = read_all(a);
  if (status == KILN_OK && a->arena.failed) status = KILN_NO_MEMORY("TorchScript file");
  if (status == KILN_OK) return KILN_OK;
  status = error_note(status, __FILE__, __LINE__, "reading the TorchScript file %.300s", origin);
  ts_archive_close(a);
  return status;
}

void ts_archive_close(ts_archive *a) {
  map_free(&a->files);
  map_free(&a->classes);
  map_free(&a->functions);
  map_free(&a->definitions);
  map_free(&a->tensors);
  map_free(&a->types);
  map_free(&a->sources);
  zip_close(&a->zip);
  arena_free(&a->arena);
  *a = (ts_archive){0};
}

/* ---- traced inputs
 * ---------------------------------------------------------------------------------------------------- */

kiln_status ts_archive_traced_inputs(ts_archive *a, const char *method, ts_value *out) {
  *out = (ts_value){0};
  if (!zip_find(&a->zip, "traced_inputs.pkl")) return KILN_OK;
  ts_value v = {0};
  KILN_TRY(ts_pickle_read(a, "traced_inputs.pkl", NULL, &v));
  if (v.kind != TSV_DICT)
    return KILN_FAIL(KILN_INVALID_FILE, "traced_inputs.pkl holds %s; expected a dict", ts_value_kind_name(v.kind));
  const ts_dict *d = v.u.dict;
  for (int i = 0; i < d->count; i++) {
    if (d->keys[i].kind != TSV_STR || !str_eq(d->keys[i].u.s, method)) continue;
    if (d->values[i].kind != TSV_LIST)
      return KILN_FAIL(KILN_INVALID_FILE, "traced_inputs.pkl: inputs of %.100s are %s; expected a list", method,
                       ts_value_kind_name(d->values[i].kind));
    *out = d->values[i];
  }
  return KILN_OK;
}

/* ---- failures
 * --------------------------------------------------------------------------------------------------------- */

kiln_status ts_fail(ts_archive *a, kiln_status status, const char *file, int line, const char *c_file, int c_line,
                    const char *fmt, ...) {
  char why[2048];
  va_list args;
  va_start(args, fmt);
  vsnprintf(why, sizeof why, fmt, args);
  va_end(args);
  if (!file) return error_raise(status, c_file, c_line, "%s", why);
  const char *source = ts_source(a, file, line);
  if (!source) return KILN_NO_MEMORY("TorchScript file");
  if (str_starts(source, "code/")) return error_raise(status, c_file, c_line, "%s: %s", source, why);
  return error_raise(status, c_file, c_line, "%s: %s (%s:%d of the archive)", source, why, file, line);
}
