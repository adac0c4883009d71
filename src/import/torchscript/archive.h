/* Inside of the archive reader: what archive.c, classes.c, types.c, values.c, tensors.c and sources.c share. */
#ifndef KILN_IMPORT_TORCHSCRIPT_ARCHIVE_H
#define KILN_IMPORT_TORCHSCRIPT_ARCHIVE_H

#include "format/pickle.h"
#include "import/torchscript/module.h"

/* Where a piece of serialized code came from. */
typedef struct ts_range {
  uint64_t offset;   /* of the first byte of serialized code that it is about; it ends where the next one starts */
  const char *place; /* "model.py:17"; NULL: unknown */
} ts_range;

typedef struct ts_file {
  const char *name;   /* "code/__torch__/model.py" */
  const char *prefix; /* "__torch__.model" */
  const char *text;
  size_t size;
  ts_stmt *body;
  const char **places; /* by line; NULL until asked for. See sources.c */
  size_t *lines;       /* offset of each line, n_lines + 1 */
  int n_lines;
  ts_range *ranges;
  size_t n_ranges;
  bool ranges_read;
} ts_file;

typedef struct ts_definition { /* class or def at the top of a file */
  const ts_file *file;
  const ts_stmt *stmt;
} ts_definition;

/* Parses a file of code/ when first asked for; *out is NULL if the archive has no such file. */
kiln_status ts_file_load(ts_archive *a, const char *name, ts_file **out);
/* The definition of a qualified name, or NULL. */
kiln_status ts_definition_find(ts_archive *a, const char *qualified, const ts_definition **out);

/* One pickle of the archive. Its tensors lie in the folder `storages`. */
typedef struct ts_reader {
  ts_archive *a;
  const char *entry;    /* "data.pkl" */
  const char *storages; /* "data"; NULL: tensors have no bytes in the file, as in traced_inputs.pkl, only shapes */
  map seen;             /* pickle_value* -> ts_value*, so that what the file shares is shared */
  int depth;
  size_t values;     /* made so far: tuples that the pickle shares unfold */
  size_t path_bytes; /* of names for texts and of modules' paths */
} ts_reader;

/* Reads an entry to values; KILN_INVALID_FILE if it is absent. `storages` NULL: its tensors have no bytes in the file.
 */
kiln_status ts_pickle_read(ts_archive *a, const char *entry, const char *storages, ts_value *out);
/* `where` names the value in texts; `type` is the type that the value must have, or NULL. */
kiln_status ts_value_read(ts_reader *r, const pickle_value *p, const char *where, const ts_type *type, ts_value *out);

/* _rebuild_tensor_v2 and _rebuild_qtensor. */
kiln_status ts_tensor_read(ts_reader *r, const pickle_value *args, const char *where, ts_value *out);
kiln_status ts_qtensor_read(ts_reader *r, const pickle_value *args, const char *where, ts_value *out);
/* The state of an object of torch.classes. */
kiln_status ts_packed_read(ts_reader *r, const char *qualified, const pickle_value *state, const char *where,
                           ts_value *out);

kiln_status ts_object_new(ts_archive *a, const ts_class *c, ts_object **out);
kiln_status ts_list_new(ts_archive *a, int count, ts_list **out);
const char *ts_value_kind_name(ts_value_kind kind);

#endif
