/* Tokens of serialized TorchScript code. */
#ifndef KILN_IMPORT_TORCHSCRIPT_LEXER_H
#define KILN_IMPORT_TORCHSCRIPT_LEXER_H

#include "base/arena.h"

typedef enum ts_token_kind {
  TOK_NAME,
  TOK_INT,
  TOK_FLOAT,
  TOK_IMAGINARY,
  TOK_STR, /* text, i, f */
  TOK_OP,  /* op: one of ()[]{}.,:=-+ and '>' for -> */
  TOK_NEWLINE,
  TOK_INDENT,
  TOK_DEDENT,
  TOK_END
} ts_token_kind;

typedef struct ts_token {
  ts_token_kind kind;
  int line;
  char op;
  const char *text; /* names and strings, in the arena; strings are unescaped */
  int64_t i;
  double f;
} ts_token;

enum { TS_MAX_INDENT = 100 };

typedef struct ts_lexer {
  arena *arena;
  const char *name;
  const char *at, *end;
  int line;
  int brackets; /* inside these, newlines are spaces */
  int indents[TS_MAX_INDENT];
  int depth;   /* of indents */
  int dedents; /* still to be handed out */
  bool line_start;
} ts_lexer;

void ts_lexer_start(ts_lexer *l, arena *a, const char *name, const char *bytes, size_t size);
kiln_status ts_lexer_next(ts_lexer *l, ts_token *out);

#endif
