/* Syntax of serialized TorchScript code (the .py files of code/ in an archive): a small subset of Python.
 *
 * PyTorch's printer (torch/csrc/jit/serialization/python_print.cpp) writes no operators but unary minus and complex
 * sums, no elif, break, continue, decorators, lambdas, comprehensions or slices; what it does not write is refused
 * here. */
#ifndef KILN_IMPORT_TORCHSCRIPT_AST_H
#define KILN_IMPORT_TORCHSCRIPT_AST_H

#include "base/arena.h"

typedef enum ts_expr_kind {
  TS_NAME,    /* s */
  TS_INT,     /* i */
  TS_FLOAT,   /* f; also the names inf and nan */
  TS_COMPLEX, /* f: the imaginary part; a: the real one, or NULL */
  TS_STR,     /* s */
  TS_TRUE,
  TS_FALSE,
  TS_NONE,
  TS_ATTR,  /* a . s */
  TS_CALL,  /* a ( items, names[k] = items[k] ); names[k] NULL for positional */
  TS_INDEX, /* a [ items[0] ] */
  TS_TUPLE,
  TS_LIST, /* items */
  TS_DICT, /* items: key, value, key, value */
  TS_NEG   /* - a */
} ts_expr_kind;

typedef struct ts_expr ts_expr;
struct ts_expr {
  ts_expr_kind kind;
  int line;
  int count;
  ts_expr *a;
  ts_expr **items;
  const char **names;
  const char *s;
  union {
    int64_t i;
    double f;
  } u;
};

typedef enum ts_stmt_kind {
  TS_ASSIGN, /* targets[count] = value; a tuple on the left has several targets, `unpack` tells `a, = v` from `a = v` */
  TS_DECLARE, /* targets[0] : type [= value] */
  TS_EXPR,    /* value */
  TS_RETURN,  /* value or NULL */
  TS_IF,      /* value, body, orelse */
  TS_WHILE,   /* value, body */
  TS_FOR,     /* targets[0] in value, body */
  TS_WITH,    /* value, body */
  TS_PASS,
  TS_DEF,  /* name, params, type: result annotation or NULL, body */
  TS_CLASS /* name, value: base or NULL, body */
} ts_stmt_kind;

typedef struct ts_param {
  const char *name;
  ts_expr *type;     /* NULL for self */
  ts_expr *fallback; /* default value or NULL */
} ts_param;

typedef struct ts_stmt ts_stmt;
struct ts_stmt {
  ts_stmt_kind kind;
  int line;
  const char *name;
  ts_expr **targets;
  int count;
  bool unpack;
  ts_expr *value, *type;
  ts_param *params;
  int n_params;
  ts_stmt *body, *orelse; /* lists through next */
  ts_stmt *next;
};

/* Parses one file. `name` is for error texts ("code/__torch__/model.py"). Everything is allocated in `a`. Nesting is
 * limited to 200. */
kiln_status ts_parse(arena *a, const char *name, const char *bytes, size_t size, ts_stmt **out);

#endif
