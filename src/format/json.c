/* JSON cursors over jansson's values. Errors walk the chain of cursors up to the root and print it as a path. */
#include "format/json.h"

#include <jansson.h>
#include <string.h>

#include "base/memory.h"

enum { DEEPEST = 512, LONGEST_PATH = 32, SHOWN_PATH = 512 };

/* jansson recurses up to a limit of its own (2048); ours is lower, and is checked before any value is made. Counting
 * brackets outside of strings is exact for well-formed texts, and jansson refuses the others. */
static kiln_status check_depth(const char *bytes, size_t size, const char *origin) {
  size_t depth = 0, line = 1;
  bool in_string = false;
  for (size_t i = 0; i < size; i++) {
    const char c = bytes[i];
    if (c == '\n') line++;
    if (in_string) {
      if (c == '\\') i++;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > DEEPEST) {
        return KILN_FAIL(KILN_INVALID_FILE, "%s: line %zu: JSON nested deeper than %d", origin, line, DEEPEST);
      }
    } else if ((c == ']' || c == '}') && depth > 0) {
      depth--;
    }
  }
  return KILN_OK;
}

kiln_status jdoc_parse(const void *bytes, size_t size, const char *origin, jdoc *out_doc) {
  KILN_TRY(check_depth(bytes, size, origin));
  json_error_t error;
  memset(&error, 0, sizeof error);
  json_t *root = json_loadb(bytes, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
  if (root == NULL) {
    if (json_error_code(&error) == json_error_out_of_memory) return KILN_NO_MEMORY(origin);
    return KILN_FAIL(KILN_INVALID_FILE, "%s: not valid JSON at line %d, column %d: %s", origin, error.line,
                     error.column, error.text[0] != '\0' ? error.text : "syntax error");
  }
  *out_doc = (jdoc){root, origin};
  return KILN_OK;
}

void jdoc_free(jdoc *doc) {
  json_decref(doc->root);
  *doc = (jdoc){0};
}

jnode jdoc_root(const jdoc *doc) { return (jnode){.value = doc->root, .doc = doc}; }

jkind jnode_kind(const jnode *n) {
  switch (json_typeof((const json_t *)n->value)) {
    case JSON_OBJECT:
      return JOBJECT;
    case JSON_ARRAY:
      return JARRAY;
    case JSON_STRING:
      return JSTRING;
    case JSON_INTEGER:
      return JINT;
    case JSON_REAL:
      return JFLOAT;
    case JSON_TRUE:
    case JSON_FALSE:
      return JBOOL;
    case JSON_NULL:
      break;
  }
  return JNULL;
}

size_t jnode_count(const jnode *n) {
  if (jnode_is(n, JARRAY)) return json_array_size(n->value);
  return jnode_is(n, JOBJECT) ? json_object_size(n->value) : 0;
}

static const char *kind_name(jkind kind) {
  static const char *const names[] = {"null",     "a boolean", "an integer", "a number",
                                      "a string", "an array",  "an object"};
  return names[kind];
}

/* "$.nodes[3].name"; the middle of very long paths is left out. */
static void print_path(const jnode *n, char *out, size_t size) {
  const jnode *chain[LONGEST_PATH];
  size_t depth = 0, used;
  for (; n->parent != NULL && depth < LONGEST_PATH; n = n->parent) chain[depth++] = n;
  used = (size_t)snprintf(out, size, "%s", n->parent != NULL ? "$..." : "$");
  while (depth > 0 && used < size) {
    const jnode *step = chain[--depth];
    const int more = step->key != NULL ? snprintf(out + used, size - used, ".%.100s", step->key)
                                       : snprintf(out + used, size - used, "[%zu]", step->index);
    if (more < 0) break;
    used += (size_t)more;
  }
}

kiln_status jnode_fail(const jnode *n, const char *file, int line, const char *fmt, ...) {
  char path[SHOWN_PATH], why[SHOWN_PATH];
  print_path(n, path, sizeof path);
  va_list args;
  va_start(args, fmt);
  vsnprintf(why, sizeof why, fmt, args);
  va_end(args);
  return error_raise(KILN_INVALID_FILE, file, line, "%s: %s: %s", n->doc->origin, path, why);
}

static kiln_status wrong_kind(const jnode *n, jkind expected) {
  return JNODE_FAIL(n, "expected %s, found %s", kind_name(expected), kind_name(jnode_kind(n)));
}

kiln_status jnode_expect(const jnode *n, jkind kind) { return jnode_is(n, kind) ? KILN_OK : wrong_kind(n, kind); }

kiln_status jnode_string(const jnode *n, const char **out) {
  if (!jnode_is(n, JSTRING)) return wrong_kind(n, JSTRING);
  *out = json_string_value(n->value);
  return KILN_OK;
}

kiln_status jnode_int(const jnode *n, int64_t *out) {
  if (!jnode_is(n, JINT)) return wrong_kind(n, JINT);
  *out = (int64_t)json_integer_value(n->value);
  return KILN_OK;
}

kiln_status jnode_float(const jnode *n, double *out) {
  if (!jnode_is(n, JFLOAT) && !jnode_is(n, JINT)) return wrong_kind(n, JFLOAT);
  *out = json_number_value(n->value);
  return KILN_OK;
}

kiln_status jnode_bool(const jnode *n, bool *out) {
  if (!jnode_is(n, JBOOL)) return wrong_kind(n, JBOOL);
  *out = json_is_true((const json_t *)n->value);
  return KILN_OK;
}

bool jnode_find(const jnode *n, const char *key, jnode *out) {
  const json_t *value = jnode_is(n, JOBJECT) ? json_object_get(n->value, key) : NULL;
  if (value == NULL || json_is_null(value)) return false;
  *out = (jnode){.value = value, .parent = n, .key = key, .doc = n->doc};
  return true;
}

kiln_status jnode_get(const jnode *n, const char *key, jnode *out) {
  KILN_TRY(jnode_expect(n, JOBJECT));
  const json_t *value = json_object_get(n->value, key);
  if (value == NULL) return JNODE_FAIL(n, "member '%s' is missing", key);
  *out = (jnode){.value = value, .parent = n, .key = key, .doc = n->doc};
  return KILN_OK;
}

static kiln_status get_kind(const jnode *n, const char *key, jkind kind, jnode *out) {
  jnode child;
  KILN_TRY(jnode_get(n, key, &child));
  KILN_TRY(jnode_expect(&child, kind));
  *out = child;
  return KILN_OK;
}

kiln_status jnode_get_object(const jnode *n, const char *key, jnode *out) { return get_kind(n, key, JOBJECT, out); }
kiln_status jnode_get_array(const jnode *n, const char *key, jnode *out) { return get_kind(n, key, JARRAY, out); }

kiln_status jnode_get_string(const jnode *n, const char *key, const char **out) {
  jnode child;
  KILN_TRY(jnode_get(n, key, &child));
  return jnode_string(&child, out);
}

kiln_status jnode_get_int(const jnode *n, const char *key, int64_t *out) {
  jnode child;
  KILN_TRY(jnode_get(n, key, &child));
  return jnode_int(&child, out);
}

kiln_status jnode_get_float(const jnode *n, const char *key, double *out) {
  jnode child;
  KILN_TRY(jnode_get(n, key, &child));
  return jnode_float(&child, out);
}

kiln_status jnode_get_bool(const jnode *n, const char *key, bool *out) {
  jnode child;
  KILN_TRY(jnode_get(n, key, &child));
  return jnode_bool(&child, out);
}

bool jnode_next(const jnode *n, void **iterator, jnode *out) {
  if (!jnode_is(n, JOBJECT)) return false;
  json_t *object = (json_t *)n->value; /* jansson's iterators take it non-const, and do not write */
  *iterator = *iterator == NULL ? json_object_iter(object) : json_object_iter_next(object, *iterator);
  if (*iterator == NULL) return false;
  *out = (jnode){
      .value = json_object_iter_value(*iterator), .parent = n, .key = json_object_iter_key(*iterator), .doc = n->doc};
  return true;
}

kiln_status jnode_at(const jnode *n, size_t index, jnode *out) {
  KILN_TRY(jnode_expect(n, JARRAY));
  const json_t *value = json_array_get(n->value, index);
  if (value == NULL) return JNODE_FAIL(n, "element %zu is missing: it has only %zu", index, json_array_size(n->value));
  *out = (jnode){.value = value, .parent = n, .index = index, .doc = n->doc};
  return KILN_OK;
}
