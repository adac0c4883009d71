/* Pickles as torch.save and TorchScript write them, read to a tree of values. Nothing is executed: calls stay in the
 * tree as PICKLE_REDUCE and PICKLE_OBJECT for the caller to interpret, and only globals on the caller's list may
 * occur. */
#ifndef KILN_FORMAT_PICKLE_H
#define KILN_FORMAT_PICKLE_H

#include "base/arena.h"
#include "base/status.h"

typedef enum pickle_kind {
  PICKLE_NONE = 0,
  PICKLE_BOOL,
  PICKLE_INT,
  PICKLE_FLOAT,
  PICKLE_STRING, /* UTF-8 */
  PICKLE_BYTES,
  PICKLE_TUPLE,
  PICKLE_LIST,
  PICKLE_DICT,
  PICKLE_GLOBAL, /* a class or function: text "module", text2 "name" */
  PICKLE_OBJECT, /* instance of `callable` made by __new__(*args); `state` is what __setstate__ gets, or NULL */
  PICKLE_REDUCE, /* callable(*args); `state` as above */
  PICKLE_PERSID  /* persistent id, in `args` */
} pickle_kind;

typedef struct pickle_value pickle_value;
struct pickle_value {
  pickle_kind kind;
  uint32_t depth; /* of the tree below, 1 for a leaf */
  size_t walk;    /* values met when walking it as a tree, itself included */
  union {
    bool b;
    int64_t i;
    double f;
    struct {
      const char *data; /* NUL follows; strings have none inside, bytes may */
      size_t length;
    } s;
    struct {
      const char *module, *name;
    } global;
    struct {
      pickle_value *callable; /* always PICKLE_GLOBAL */
      pickle_value *args;     /* tuple; the id for PICKLE_PERSID */
      pickle_value *kwargs;   /* dict or NULL */
      pickle_value *state;
    } call;
  } u;
  /* Elements of tuples and lists; key, value, key, value... of dicts (2 * count pointers). Calls and objects have here
   * what was appended to them (`pairs` tells which of the two, as for an OrderedDict). */
  pickle_value **items;
  size_t count, capacity;
  bool pairs;
};

typedef struct pickle_global {
  const char *module, *name; /* exact, or with one '*' that stands for any text */
} pickle_global;

typedef struct pickle_options {
  const pickle_global *globals;
  size_t n_globals;
  size_t max_values;   /* 0: 16 million values in the file; a walk of the result as a tree is held to 16 times that */
  size_t max_bytes;    /* 0: 2 GiB of memory */
  uint32_t max_depth;  /* 0: 256 */
  bool lone_arguments; /* TorchScript calls the class of an enum with its value; that becomes a tuple of one */
} pickle_options;

/* Reads one pickle (protocols 2 to 4). The result lives in `a`, shares what the file shares, and has no cycle. `origin`
 * is what errors call the file. */
kiln_status pickle_parse(const void *bytes, size_t size, const char *origin, const pickle_options *options, arena *a,
                         const pickle_value **out_value);
/* The value of a string key in a dict, or in what was set on an object; NULL if absent. */
const pickle_value *pickle_get(const pickle_value *v, const char *key);
bool pickle_is_global(const pickle_value *v, const char *module, const char *name);
const char *pickle_kind_name(pickle_kind kind);

#endif
