/* JSON from strangers, over jansson. A jnode is a cursor that remembers how it was reached, so that errors name the
 * place
 * ("$.graph_module.graph.nodes[3].target: expected a string, found null"). A cursor points at the cursor it came from:
 * keep that one alive, unmoved and unchanged, while its descendants are in use. */
#ifndef KILN_FORMAT_JSON_H
#define KILN_FORMAT_JSON_H

#include "base/status.h"

typedef struct jdoc { /* zero-initialized is empty */
  void *root;
  const char *origin; /* borrowed: what errors call the document, "models/model.json" */
} jdoc;

typedef enum jkind { JNULL = 0, JBOOL, JINT, JFLOAT, JSTRING, JARRAY, JOBJECT } jkind;

typedef struct jnode {
  const void *value;
  const struct jnode *parent; /* NULL for the root */
  const char *key;            /* member name, or NULL: element `index` */
  size_t index;
  const jdoc *doc;
} jnode;

/* UTF-8 text; duplicate keys, nesting beyond 512, numbers that overflow and bytes after the end are refused, with line
 * and column. */
kiln_status jdoc_parse(const void *bytes, size_t size, const char *origin, jdoc *out_doc);
void jdoc_free(jdoc *doc);
jnode jdoc_root(const jdoc *doc);

jkind jnode_kind(const jnode *n);
static inline bool jnode_is(const jnode *n, jkind kind) { return jnode_kind(n) == kind; }
size_t jnode_count(const jnode *n); /* elements or members; 0 for all else */

/* The value itself, or KILN_INVALID_FILE. Strings live as long as the document and hold no NUL. */
kiln_status jnode_string(const jnode *n, const char **out);
kiln_status jnode_int(const jnode *n, int64_t *out);
kiln_status jnode_float(const jnode *n, double *out); /* takes integers too */
kiln_status jnode_bool(const jnode *n, bool *out);
kiln_status jnode_expect(const jnode *n, jkind kind);

/* Members. _find is false if `n` is no object, has no such member, or the member is null; _get fails then (null passes
 * _get). */
bool jnode_find(const jnode *n, const char *key, jnode *out);
kiln_status jnode_get(const jnode *n, const char *key, jnode *out);
kiln_status jnode_get_object(const jnode *n, const char *key, jnode *out);
kiln_status jnode_get_array(const jnode *n, const char *key, jnode *out);
kiln_status jnode_get_string(const jnode *n, const char *key, const char **out);
kiln_status jnode_get_int(const jnode *n, const char *key, int64_t *out);
kiln_status jnode_get_float(const jnode *n, const char *key, double *out);
kiln_status jnode_get_bool(const jnode *n, const char *key, bool *out);
/* Members in file order: set *iterator to NULL first; false at the end. out->key is the member's name. */
bool jnode_next(const jnode *n, void **iterator, jnode *out);
/* Array element. */
kiln_status jnode_at(const jnode *n, size_t index, jnode *out);

/* KILN_INVALID_FILE with the node's place in front. */
#define JNODE_FAIL(n, ...) error_is_set(jnode_fail((n), __FILE__, __LINE__, __VA_ARGS__))
kiln_status jnode_fail(const jnode *n, const char *file, int line, const char *fmt, ...) KILN_PRINTF(4, 5);

#endif
