/* TorchScript archives as objects: values, types, classes, functions, and the module that the file holds.
 *
 * archive.c reads the zip, its pickles and its code into these; interpreter.c executes methods on them; survey.c lists
 * them. Everything lives in the arena of the ts_archive. A value is dynamically typed: serialized code is already
 * type-checked by PyTorch, so static types are needed only where a value does not tell (an empty list, an argument's
 * annotation). */
#ifndef KILN_IMPORT_TORCHSCRIPT_MODULE_H
#define KILN_IMPORT_TORCHSCRIPT_MODULE_H

#include "base/map.h"
#include "format/zip.h"
#include "import/handles.h"
#include "import/torchscript/ast.h"

typedef struct ts_archive ts_archive;
typedef struct ts_type ts_type;
typedef struct ts_class ts_class;
typedef struct ts_object ts_object;
typedef struct ts_list ts_list;
typedef struct ts_dict ts_dict;
typedef struct ts_value ts_value;

/* ---- Types
 * ---------------------------------------------------------------------------------------------------------------- */

typedef enum ts_type_kind {
  TST_ANY,
  TST_TENSOR,
  TST_INT,
  TST_FLOAT,
  TST_COMPLEX,
  TST_BOOL,
  TST_STR,
  TST_NONE,
  TST_NUMBER,
  TST_DEVICE,
  TST_LAYOUT,
  TST_OPTIONAL, /* items[0] */
  TST_LIST,     /* items[0] */
  TST_DICT,     /* items[0] key, items[1] value */
  TST_TUPLE,    /* items[count] */
  TST_UNION,    /* items[count] */
  TST_CLASS     /* cls: also NamedTuple and Enum */
} ts_type_kind;

struct ts_type {
  ts_type_kind kind;
  int count;
  const ts_type *const *items;
  const ts_class *cls;
};

/* The type that an annotation names ("Dict[str, Tensor]", "Optional[__torch__.m.Net]"). */
kiln_status ts_type_resolve(ts_archive *a, const char *file, const ts_expr *annotation, const ts_type **out);
void ts_type_print(const ts_type *t, text *out);

/* ---- Values
 * ---------------------------------------------------------------------------------------------------------------- */

typedef enum ts_value_kind {
  TSV_NONE = 0,
  TSV_UNINITIALIZED, /* uninitialized(T): may be passed on, not looked at */
  TSV_TENSOR,        /* tensor: a handle with PyTorch's aliasing */
  TSV_INT,           /* i, maybe a symbolic size */
  TSV_FLOAT,         /* f */
  TSV_BOOL,          /* i: 0 or 1 */
  TSV_DATA,   /* data: a scalar known only at run time, a rank-0 graph value; i64, f64 or bool tell int, float, bool */
  TSV_STR,    /* s */
  TSV_LIST,   /* list: shared, mutable */
  TSV_TUPLE,  /* list: never changed */
  TSV_DICT,   /* dict: shared, mutable, in order of insertion */
  TSV_OBJECT, /* object: a module or class instance; shared, mutable */
  TSV_NAMEDTUPLE, /* object, never changed */
  TSV_ENUM,       /* object: attrs[0] is the name (TSV_STR), attrs[1] the value; compared by name */
  TSV_DEVICE,     /* s */
  TSV_QTENSOR,    /* qtensor */
  TSV_FUNCTION,   /* function */
  TSV_METHOD,     /* method */
  TSV_RUN         /* run: an item of a list that stands for several, see grown.h */
} ts_value_kind;

typedef struct ts_function { /* def, of a class or of a file */
  const char *name;          /* "forward", "pad" */
  const char *file;          /* "code/__torch__/model.py" */
  const ts_stmt *def;
  const ts_class *owner;        /* NULL: a free function */
  const ts_type *const *params; /* one for each parameter of def, resolved when first asked for; self is NULL */
} ts_function;

struct ts_value {
  ts_value_kind kind;
  const ts_type *type; /* lists, dicts: the annotated type, or NULL if unknown */
  union {
    itensor *tensor;
    dim i;
    double f;
    value *data;
    const char *s;
    ts_list *list;
    ts_dict *dict;
    ts_object *object;
    struct ts_qtensor *qtensor;
    const ts_function *function;
    struct ts_method *method;
    struct ts_run *run;
  } u;
};

typedef struct ts_method { /* bound */
  ts_object *self;
  const ts_function *function;
} ts_method;

struct ts_list {
  ts_value *items;
  int count, capacity;
  bool grown; /* it may have items of kind TSV_RUN */
};

struct ts_dict { /* keys are str, int, float, bool or Tensor; `count` pairs */
  ts_value *keys, *values;
  int count, capacity;
};

struct ts_object {
  const ts_class *cls;
  ts_value *attrs;  /* one for each attribute of the class */
  const char *path; /* modules: "encoder.layer.0" ("" for the root); the first path that reaches it */
  int32_t n_attrs;
  const ts_value
      *state; /* what __setstate__ must still get, see ts_archive.pending; its attrs are TSV_UNINITIALIZED until then */
};

typedef struct ts_run { /* items that a loop appends to a list */
  itensor *tensor;      /* they follow one another along its first axis; NULL: they are not to be read */
  value *filled;        /* so many are there by now; NULL: all */
} ts_run;

typedef struct ts_qtensor {    /* a quantized tensor: integers and how to read them; real = (x - zero_point) * scale */
  itensor *integers;           /* i8 or u8 (i32 for qint32); its handle has the aliasing */
  itensor *scale, *zero_point; /* f32/f64 and i64/i32, rank 0 or, per channel, rank 1 */
  int32_t axis;                /* -1: per tensor */
} ts_qtensor;

/* ---- Classes
 * ----------------------------------------------------------------------------------------------------------------- */

typedef enum ts_class_kind { TSC_MODULE, TSC_CLASS, TSC_NAMEDTUPLE, TSC_ENUM, TSC_BUILTIN } ts_class_kind;

typedef struct ts_attribute {
  const char *name;
  const ts_type *type;
  bool is_parameter, is_buffer; /* __parameters__, __buffers__ */
  const ts_expr
      *constant; /* Final[...] = value, NamedTuple default, enum member: not NULL. Attributes and objects' slots have
                    the same indices: the slot of a Final constant or of an enum member is there, but unused */
} ts_attribute;

struct ts_class {
  const char *name; /* "__torch__.model.Net" */
  const char *file;
  ts_class_kind kind;
  ts_attribute *attributes; /* in order of declaration; slots of an object's attrs */
  int32_t n_attributes;
  ts_function *methods;
  int32_t n_methods;
  bool loaded;           /* attributes are read on first use, since classes may name each other */
  const ts_stmt *def;    /* NULL: TSC_BUILTIN */
  const char *base;      /* "Module", "NamedTuple", "Enum", "Interface", "" ...: as the file names it */
  ts_class *next_unread; /* classes.c: list of those not yet loaded */
};

/* By qualified name; KILN_INVALID_FILE names what is missing. Parsed when first asked for. */
kiln_status ts_class_find(ts_archive *a, const char *qualified, const ts_class **out);
kiln_status ts_function_find(ts_archive *a, const char *qualified, const ts_function **out);
/* Is there a class / function of this name? Does not fail. */
bool ts_name_exists(ts_archive *a, const char *qualified);
typedef enum ts_definition_kind { TS_DEFINES_NOTHING, TS_DEFINES_CLASS, TS_DEFINES_FUNCTION } ts_definition_kind;
ts_definition_kind ts_name_kind(ts_archive *a, const char *qualified);   /* does not fail either */
const ts_function *ts_class_method(const ts_class *c, const char *name); /* NULL: none */
int ts_class_attribute(const ts_class *c, const char *name);             /* index, or -1 */
kiln_status ts_function_params(ts_archive *a, const ts_function *f);     /* resolves f->params */
/* Member `index` of an enum as a TSV_ENUM. */
kiln_status ts_enum_member(ts_archive *a, const ts_class *c, int index, ts_value *out);
/* Objects of torch.classes.quantized become TSV_OBJECT of a TSC_BUILTIN class with these attributes, decoded from their
 * states: LinearPackedParamsBase: weight, bias. Conv1d/2d/3dPackedParamsBase: weight, bias, stride, padding, dilation,
 * output_padding (lists of int), groups (int), transpose (bool); of torch.classes.rnn CellParamsBase: w_ih, w_hh
 * (LinearPackedParamsBase), b_ih, b_hh. The class of that name, for the *_prepack operators to make such objects. */
kiln_status ts_class_builtin(ts_archive *a, const char *qualified, const ts_class **out);

/* ---- Archive
 * ------------------------------------------------------------------------------------------------------------------ */

typedef struct ts_parameter { /* a named tensor of the module tree: parameters, buffers and plain tensor attributes */
  const char *path;           /* "encoder.layer.0.weight" */
  ts_object *owner;
  int32_t attribute; /* slot in owner */
  value *initial;    /* the constant in the graph; the same for tensors that share storage and view */
} ts_parameter;

struct ts_archive {
  const char *origin; /* how texts name the file */
  zip zip;
  arena arena;
  importer im;   /* im.graph: where constants go */
  map files;     /* "code/__torch__/x.py" -> parsed statements and debug ranges (archive.c) */
  map classes;   /* qualified name -> ts_class* */
  map functions; /* qualified name -> ts_function* */
  ts_value root; /* TSV_OBJECT */
  ts_value *constants;
  int32_t n_constants;
  ts_parameter *parameters;
  int32_t n_parameters;
  int64_t version; /* of operators: the archive's version record */
  /* Objects whose class has __setstate__, in the order in which PyTorch would call it (an object comes after those in
   * its state): whoever runs methods first calls __setstate__(state) on each, sets object->state to NULL, then calls
   * ts_archive_collect. */
  ts_object **pending;
  int32_t n_pending;
  map definitions;  /* qualified name -> ts_definition (classes.c) */
  map tensors;      /* storage and view -> itensor* (tensors.c) */
  map types;        /* text of a type -> ts_type* (types.c) */
  map sources;      /* interned places (sources.c) */
  ts_class *unread; /* classes.c */
  bool reading_classes;
  size_t code_bytes;     /* of the files of code that were parsed */
  int64_t source_budget; /* bytes of source texts that may still be looked at: lists can repeat one line for ever */
};

/* Is this a zip with data.pkl and code/? torch.save files have data.pkl too, but no code. */
bool ts_archive_detect(const void *bytes, size_t size);
/* Reads everything but method bodies' meaning. `g` gets the constants, borrowed from `bytes` where they are contiguous
 * and aligned. */
kiln_status ts_archive_open(ts_archive *a, graph *g, const void *bytes, size_t size, const char *origin);
void ts_archive_close(ts_archive *a);
/* Lists a->parameters (again): every tensor attribute of the modules below the root. ts_archive_open has called it. */
kiln_status ts_archive_collect(ts_archive *a);
/* The example inputs that a traced file keeps for `method`: a TSV_LIST of its arguments without self. Their tensors
 * have types, but no contents: the handle's value is a parameter of no block of the graph. TSV_NONE: the file has none.
 */
kiln_status ts_archive_traced_inputs(ts_archive *a, const char *method, ts_value *out);

/* Types that need no annotation: TST_TENSOR, TST_INT, ...; those with items give List[Any] and the like. */
const ts_type *ts_type_simple(ts_type_kind kind);
const ts_type *ts_type_list_of(ts_archive *a, const ts_type *item); /* NULL: out of memory */
/* The same as ts_type_resolve for a text, such as "List[str]". */
kiln_status ts_type_parse(ts_archive *a, const char *annotation, const ts_type **out);

/* Does the interpreter handle calls of this name ("aten::len", "prim::RaiseException") without a row of the operator
 * table? */
bool ts_builtin_exists(const char *name);

/* Where serialized line `line` of `file` came from: "model.py:17" in the user's own source through the .debug_pkl
 * records, else "code/__torch__/model.py:42". Interned in the graph's arena. */
const char *ts_source(ts_archive *a, const char *file, int line);
/* KILN_INVALID_FILE / KILN_UNSUPPORTED with file:line, and the original source where it is known. */
#define TS_FAIL(a, status, file, line, ...) \
  error_is_set(ts_fail((a), (status), (file), (line), __FILE__, __LINE__, __VA_ARGS__))
kiln_status ts_fail(ts_archive *a, kiln_status status, const char *file, int line, const char *c_file, int c_line,
                    const char *fmt, ...) KILN_PRINTF(7, 8);

#endif
