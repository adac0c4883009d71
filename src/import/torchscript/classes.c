/* Classes and functions of a TorchScript archive, read from the syntax of its code when first asked for.
 *
 * A class names others in its attributes, and they name it: so a class is known before its attributes are read, and
 * those are read from a list of what is still to do, not by recursion. */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "import/torchscript/archive.h"

#define CLASSES_PREFIX "__torch__.torch.classes."

/* ---- members ----------------------------------------------------------------------------------------------------- */

static bool is_name(const ts_expr *e, const char *s) { return e->kind == TS_NAME && str_eq(e->s, s); }

/* __annotations__["0"] = T: an attribute whose name is no identifier. */
static const char *annotated_name(const ts_stmt *s) {
  if (s->kind != TS_ASSIGN || s->count != 1 || s->targets[0]->kind != TS_INDEX) return NULL;
  const ts_expr *t = s->targets[0];
  return is_name(t->a, "__annotations__") && t->count == 1 && t->items[0]->kind == TS_STR ? t->items[0]->s : NULL;
}

static const char *declared_name(const ts_stmt *s) {
  if (s->kind == TS_DECLARE && s->targets[0]->kind == TS_NAME) return s->targets[0]->s;
  return annotated_name(s);
}

static const char *assigned_name(const ts_stmt *s) { /* of an enum's member */
  return s->kind == TS_ASSIGN && s->count == 1 && s->targets[0]->kind == TS_NAME ? s->targets[0]->s : NULL;
}

/* __parameters__, __buffers__ and their like: lists of names about other attributes. */
static bool is_list_of_names(const char *name) {
  return str_eq(name, "__parameters__") || str_eq(name, "__buffers__") || str_eq(name, "__forward_hooks__") ||
         str_eq(name, "__forward_pre_hooks__") || str_eq(name, "__attributes__") || str_eq(name, "__annotations__");
}

static bool is_final(const ts_expr *type) { return type->kind == TS_INDEX && is_name(type->a, "Final"); }

static kiln_status read_declared(ts_archive *a, const ts_class *c, const ts_stmt *s, const char *name,
                                 ts_attribute *out) {
  const ts_expr *type = s->kind == TS_DECLARE ? s->type : s->value;
  *out = (ts_attribute){.name = name};
  KILN_TRY(ts_type_resolve(a, c->file, type, &out->type));
  if (s->kind == TS_DECLARE) out->constant = s->value;
  if (is_final(type) && !out->constant)
    return TS_FAIL(a, KILN_INVALID_FILE, c->file, s->line, "constant `%.200s` has no value", name);
  return KILN_OK;
}

static kiln_status read_attributes(ts_archive *a, ts_class *c) {
  const bool is_enum = c->kind == TSC_ENUM;
  int count = 0;
  for (const ts_stmt *s = c->def->body; s; s = s->next) count += declared_name(s) != NULL || assigned_name(s) != NULL;
  ts_attribute *list = ARENA_ARRAY(&a->arena, ts_attribute, count ? count : 1);
  if (!list) return KILN_NO_MEMORY("classes");
  int32_t n = 0;
  for (const ts_stmt *s = c->def->body; s; s = s->next) {
    const char *name = declared_name(s), *assigned = assigned_name(s);
    if (name) {
      KILN_TRY(read_declared(a, c, s, name, &list[n++]));
    } else if (assigned && is_enum) {
      list[n++] = (ts_attribute){.name = assigned, .constant = s->value, .type = ts_type_simple(TST_ANY)};
    } else if (assigned && !is_list_of_names(assigned)) {
      return TS_FAIL(a, KILN_INVALID_FILE, c->file, s->line, "a class assigns to `%.200s`, which is not expected",
                     assigned);
    } else if (!assigned && s->kind != TS_DEF && s->kind != TS_PASS) {
      return TS_FAIL(a, KILN_INVALID_FILE, c->file, s->line, "a class holds only attributes and methods");
    }
  }
  c->attributes = list;
  c->n_attributes = n;
  return KILN_OK;
}

/* Marks what `__parameters__ = ["weight", ]` or `__buffers__` lists. */
static kiln_status mark_listed(ts_archive *a, ts_class *c, const map *by_name) {
  for (const ts_stmt *s = c->def->body; s; s = s->next) {
    const char *list = assigned_name(s);
    const bool parameters = str_eq(list, "__parameters__");
    if (!parameters && !str_eq(list, "__buffers__")) continue;
    for (int i = 0; s->value->kind == TS_LIST && i < s->value->count; i++) {
      const ts_expr *e = s->value->items[i];
      ts_attribute *named = e->kind == TS_STR ? map_get(by_name, e->s) : NULL;
      if (!named)
        return TS_FAIL(a, KILN_INVALID_FILE, c->file, s->line, "%s lists `%.200s`, which is no attribute", list,
                       e->kind == TS_STR ? e->s : "?");
      if (parameters) named->is_parameter = true;
      if (!parameters) named->is_buffer = true;
    }
  }
  return KILN_OK;
}

static kiln_status read_marks(ts_archive *a, ts_class *c) {
  map by_name = {0};
  kiln_status status = KILN_OK;
  for (int32_t i = 0; i < c->n_attributes && status == KILN_OK; i++) {
    if (map_has(&by_name, c->attributes[i].name))
      status = TS_FAIL(a, KILN_INVALID_FILE, c->file, c->def->line, "class %.200s has two attributes `%.200s`",
                       c->def->name, c->attributes[i].name);
    else if (!map_put(&by_name, c->attributes[i].name, &c->attributes[i]))
      status = KILN_NO_MEMORY("classes");
  }
  if (status == KILN_OK) status = mark_listed(a, c, &by_name);
  map_free(&by_name);
  return status;
}

static kiln_status read_methods(ts_archive *a, ts_class *c) {
  int32_t n = 0;
  for (const ts_stmt *s = c->def->body; s; s = s->next) n += s->kind == TS_DEF;
  c->methods = ARENA_ARRAY(&a->arena, ts_function, n ? n : 1);
  if (!c->methods) return KILN_NO_MEMORY("classes");
  for (const ts_stmt *s = c->def->body; s; s = s->next) {
    if (s->kind != TS_DEF) continue;
    if (s->n_params < 1)
      return TS_FAIL(a, KILN_INVALID_FILE, c->file, s->line, "method `%.200s` has no parameter `self`", s->name);
    c->methods[c->n_methods++] = (ts_function){.name = s->name, .file = c->file, .def = s, .owner = c};
  }
  return KILN_OK;
}

/* ---- classes ----------------------------------------------------------------------------------------------------- */

static ts_class_kind kind_of_base(const char *base) {
  if (str_eq(base, "Module")) return TSC_MODULE;
  if (str_eq(base, "NamedTuple")) return TSC_NAMEDTUPLE;
  if (str_eq(base, "Enum")) return TSC_ENUM;
  return TSC_CLASS;
}

static kiln_status class_new(ts_archive *a, const char *qualified, const ts_definition *d, ts_class **out) {
  ts_class *c = ARENA_NEW(&a->arena, ts_class);
  const char *name = arena_strdup(&a->arena, qualified);
  if (!c || !name) return KILN_NO_MEMORY("classes");
  c->name = name;
  c->kind = TSC_BUILTIN;
  if (d) {
    c->file = d->file->name;
    c->def = d->stmt;
    c->base = d->stmt->value && d->stmt->value->kind == TS_NAME ? d->stmt->value->s : "";
    c->kind = kind_of_base(c->base);
    KILN_TRY(read_methods(a, c));
  }
  if (!map_put(&a->classes, name, c)) return KILN_NO_MEMORY("classes");
  *out = c;
  return KILN_OK;
}

static kiln_status class_register(ts_archive *a, const char *qualified, ts_class **out) {
  *out = map_get(&a->classes, qualified);
  if (*out) return KILN_OK;
  if (str_starts(qualified, CLASSES_PREFIX)) {
    const ts_class *builtin = NULL;
    KILN_TRY(ts_class_builtin(a, qualified, &builtin));
    *out = map_get(&a->classes, qualified);
    return *out ? KILN_OK : KILN_FAIL(KILN_INTERNAL, "class %.200s is not registered", qualified);
  }
  const ts_definition *d = NULL;
  KILN_TRY(ts_definition_find(a, qualified, &d));
  if (!d || d->stmt->kind != TS_CLASS)
    return KILN_FAIL(KILN_INVALID_FILE, "the archive's code has no class `%.300s`", qualified);
  KILN_TRY(class_new(a, qualified, d, out));
  (*out)->next_unread = a->unread;
  a->unread = *out;
  return KILN_OK;
}

/* Reads the attributes of all classes that were named meanwhile; what they name joins the list. */
static kiln_status read_named(ts_archive *a) {
  if (a->reading_classes) return KILN_OK;
  a->reading_classes = true;
  kiln_status status = KILN_OK;
  while (a->unread && status == KILN_OK) {
    ts_class *c = a->unread;
    a->unread = c->next_unread;
    status = read_attributes(a, c);
    if (status == KILN_OK) status = read_marks(a, c);
    c->loaded = status == KILN_OK;
    if (status != KILN_OK) {
      c->next_unread = a->unread; /* the next one who asks meets the same failure */
      a->unread = c;
      status = error_note(status, __FILE__, __LINE__, "reading class %.200s", c->name);
    }
  }
  a->reading_classes = false;
  return status;
}

kiln_status ts_class_find(ts_archive *a, const char *qualified, const ts_class **out) {
  ts_class *c = NULL;
  KILN_TRY(class_register(a, qualified, &c));
  KILN_TRY(read_named(a));
  *out = c;
  return KILN_OK;
}

kiln_status ts_class_builtin(ts_archive *a, const char *qualified, const ts_class **out) {
  static const char *const linear[] = {"weight", "bias", NULL};
  static const char *const conv[] = {"weight",         "bias",   "stride",    "padding", "dilation",
                                     "output_padding", "groups", "transpose", NULL};
  static const char *const cell[] = {"w_ih", "w_hh", "b_ih", "b_hh", NULL};
  static const struct {
    const char *name;
    const char *const *attributes;
  } known[] = {{"quantized.LinearPackedParamsBase", linear},
               {"quantized.Conv1dPackedParamsBase", conv},
               {"quantized.Conv2dPackedParamsBase", conv},
               {"quantized.Conv3dPackedParamsBase", conv},
               {"rnn.CellParamsBase", cell}};
  ts_class *c = map_get(&a->classes, qualified);
  if (!c) {
    const size_t prefix = strlen(CLASSES_PREFIX);
    int k = 0;
    if (str_starts(qualified, CLASSES_PREFIX))
      while (k < (int)KILN_COUNT(known) && !str_eq(qualified + prefix, known[k].name)) k++;
    if (k == (int)KILN_COUNT(known) || !str_starts(qualified, CLASSES_PREFIX))
      return KILN_FAIL(KILN_UNSUPPORTED, "class `%.200s` is one of PyTorch's C++ classes that Kiln does not know",
                       qualified);
    KILN_TRY(class_new(a, qualified, NULL, &c));
    while (known[k].attributes[c->n_attributes]) c->n_attributes++;
    c->attributes = ARENA_ARRAY(&a->arena, ts_attribute, c->n_attributes);
    if (!c->attributes) return KILN_NO_MEMORY("classes");
    for (int32_t i = 0; i < c->n_attributes; i++)
      c->attributes[i] = (ts_attribute){.name = known[k].attributes[i], .type = ts_type_simple(TST_ANY)};
    c->base = "";
    c->loaded = true;
  }
  *out = c;
  return KILN_OK;
}

const ts_function *ts_class_method(const ts_class *c, const char *name) {
  for (int32_t i = 0; i < c->n_methods; i++)
    if (str_eq(c->methods[i].name, name)) return &c->methods[i];
  return NULL;
}

int ts_class_attribute(const ts_class *c, const char *name) {
  for (int32_t i = 0; i < c->n_attributes; i++)
    if (str_eq(c->attributes[i].name, name)) return i;
  return -1;
}

/* ---- functions --------------------------------------------------------------------------------------------------- */

kiln_status ts_function_find(ts_archive *a, const char *qualified, const ts_function **out) {
  ts_function *f = map_get(&a->functions, qualified);
  if (!f) {
    const ts_definition *d = NULL;
    KILN_TRY(ts_definition_find(a, qualified, &d));
    if (!d || d->stmt->kind != TS_DEF)
      return KILN_FAIL(KILN_INVALID_FILE, "the archive's code has no function `%.300s`", qualified);
    f = ARENA_NEW(&a->arena, ts_function);
    const char *key = arena_strdup(&a->arena, qualified);
    if (!f || !key) return KILN_NO_MEMORY("functions");
    *f = (ts_function){.name = d->stmt->name, .file = d->file->name, .def = d->stmt};
    if (!map_put(&a->functions, key, f)) return KILN_NO_MEMORY("functions");
  }
  *out = f;
  return KILN_OK;
}

ts_definition_kind ts_name_kind(ts_archive *a, const char *qualified) {
  if (!str_starts(qualified, "__torch__.")) return TS_DEFINES_NOTHING;
  if (map_has(&a->classes, qualified)) return TS_DEFINES_CLASS;
  const ts_definition *d = NULL;
  const kiln_status status = ts_definition_find(a, qualified, &d);
  if (status == KILN_OUT_OF_MEMORY) a->arena.failed = true; /* so that the next one who allocates says so */
  if (status != KILN_OK || !d) return TS_DEFINES_NOTHING;
  return d->stmt->kind == TS_CLASS ? TS_DEFINES_CLASS : TS_DEFINES_FUNCTION;
}

bool ts_name_exists(ts_archive *a, const char *qualified) { return ts_name_kind(a, qualified) != TS_DEFINES_NOTHING; }

kiln_status ts_function_params(ts_archive *a, const ts_function *f) {
  if (f->params || f->def->n_params == 0) return KILN_OK;
  const ts_type **types = ARENA_ARRAY(&a->arena, const ts_type *, f->def->n_params);
  if (!types) return KILN_NO_MEMORY("functions");
  for (int i = f->owner ? 1 : 0; i < f->def->n_params; i++) {
    const ts_param *p = &f->def->params[i];
    if (!p->type) { /* PyTorch takes what has no annotation for a tensor */
      types[i] = ts_type_simple(TST_TENSOR);
      continue;
    }
    KILN_TRY_NOTE(ts_type_resolve(a, f->file, p->type, &types[i]), "reading parameter %.100s of %.100s", p->name,
                  f->name);
  }
  ((ts_function *)(uintptr_t)f)->params = types; /* resolved late; functions are const to their users only */
  return KILN_OK;
}
