/* What the files of the .pt2 importer share: the open archive and the names that the graph has defined so far. */
#ifndef KILN_IMPORT_EXPORT_INTERNAL_H
#define KILN_IMPORT_EXPORT_INTERNAL_H

#include <jansson.h>

#include "base/map.h"
#include "format/json.h"
#include "format/zip.h"
#include "import/aten.h"
#include "import/calibration.h"
#include "import/handles.h"

typedef struct scope { /* values by name in one graph of the file */
  map values;          /* name -> ivalue */
  const json_t *graph;
  struct scope *parent;
} scope;

/* Kinds in a scope beyond IV_*: a comparison of symbolic sizes that no range decides is IV_BOOL with u.i =
 * BOOL_UNKNOWN. */
enum { BOOL_UNKNOWN = -1 };

typedef struct weight { /* one entry of a weights or constants config */
  itensor *tensor;
  value *initial;
} weight;

typedef struct survey survey;
enum { PT2_MAX_SUBGRAPHS = 32 };

typedef struct pt2 {
  const char *origin;
  zip zip;
  jdoc documents[3];
  const json_t *model, *weights, *constants; /* roots of the documents */
  graph *graph;
  arena arena; /* of the import: handles, names */
  importer im;
  map weight_cache; /* "path@offset:sizes:strides" -> weight */
  map texts;        /* interned module paths and source lines, in the graph's arena */
  map states;       /* buffer name -> weight */
  builder b;
  survey *survey;
  int depth;        /* of subgraphs */
  bool doubt_types; /* tensor_values of this file are not compared with inference */
} pt2;

/* JSON access with texts: `what` names the object that lacks the key. */
kiln_status pt2_object(const json_t *parent, const char *key, const char *what, const json_t **out);
kiln_status pt2_array(const json_t *parent, const char *key, const char *what, const json_t **out);
kiln_status pt2_string(const json_t *parent, const char *key, const char *what, const char **out);
/* The only pair of a union object, {"as_int": 3}. */
kiln_status pt2_union(const json_t *object, const char *what, const char **out_kind, const json_t **out_value);

/* export_values.c */
kiln_dtype pt2_dtype(int64_t code); /* KILN_DTYPE_COUNT: none that Kiln has */
const char *pt2_dtype_name(int64_t code);
kiln_status pt2_define(pt2 *p, scope *s, const char *name, ivalue v);
const ivalue *pt2_lookup(const scope *s, const char *name);
kiln_status pt2_argument(pt2 *p, scope *s, const json_t *arg, ivalue *out);
kiln_status pt2_size(pt2 *p, const json_t *sym_int, bool create, dim *out);
kiln_status pt2_tensor_type(pt2 *p, const json_t *meta, const char *name, bool create, tensor_type *out);
/* Of a complex tensor, the type of its parts. */
kiln_status pt2_value_type(pt2 *p, const json_t *meta, const char *name, bool create, tensor_type *out,
                           bool *out_complex);
value *pt2_number_tensor(pt2 *p, const ivalue *v); /* rank-0 tensor of an int, float, bool; NULL: none of these */

/* export_weights.c */
kiln_status pt2_weight(pt2 *p, const char *name, bool constant, weight **out);

/* All names of all weights: tied ones have several, and some have no use. */
kiln_status pt2_name_weights(pt2 *p);

/* export_calibration.c: int8 layers. Which weights are of layers only; a layer's arguments are replaced. */
kiln_status pt2_note_weights(pt2 *p, const json_t *input_specs, const json_t *g);
kiln_status pt2_calibrate(pt2 *p, const json_t *entry, lower_call *call);

/* export_symbols.c: nodes on symbolic sizes, and nodes that only check. */
bool pt2_is_symbol_target(const char *target);
kiln_status pt2_symbol_node(pt2 *p, scope *s, const json_t *call, const char *target);

/* export_nodes.c */
bool pt2_is_supported(const char *target); /* is there a row, or anything else that takes it? */
/* Module path and "file.py:line" of a node's metadata, interned in the graph's arena; "" if unknown. */
void pt2_place(pt2 *p, const json_t *call, const char **out_path, const char **out_source);
kiln_status pt2_nodes(pt2 *p, scope *s);

/* export_guards.c: conditions on the sizes of the inputs, once the graph has these. */
kiln_status pt2_size_guards(pt2 *p, const json_t *program);

/* export_survey.c: everything that is not supported, in one text. */
kiln_status pt2_survey_create(pt2 *p);
void pt2_survey_free(pt2 *p);
kiln_status pt2_survey_operators(pt2 *p, const json_t *g);
/* Notes that this node was refused, for the reason in the error record, and defines its results as stand-ins. False:
 * the import cannot go on. */
bool pt2_skip_node(pt2 *p, scope *s, const json_t *entry, const char *target);
kiln_status pt2_survey_report(pt2 *p); /* KILN_OK if nothing was found */

#endif
