/* Recursive-descent parser of serialized TorchScript code, see ast.h. */
#include <math.h>
#include <string.h>

#include "base/text.h"
#include "import/torchscript/ast.h"
#include "import/torchscript/lexer.h"

enum { MAX_DEPTH = 200, MAX_LINKS = 1000, MAX_ITEMS = 1 << 20 };

typedef struct parser {
  arena *arena;
  ts_lexer lexer;
  ts_token token; /* the next one */
  int depth;
  int links; /* of a.b.c(...).d around the current token */
} parser;

static kiln_status parse_fail(const parser *p, const char *expected) {
  return KILN_FAIL(KILN_INVALID_FILE, "%s:%d: this is not serialized TorchScript: expected %s", p->lexer.name,
                   p->token.line, expected);
}

static kiln_status advance(parser *p) { return ts_lexer_next(&p->lexer, &p->token); }
static bool at_op(const parser *p, char op) { return p->token.kind == TOK_OP && p->token.op == op; }
static bool at_word(const parser *p, const char *word) {
  return p->token.kind == TOK_NAME && strcmp(p->token.text, word) == 0;
}

static kiln_status expect_op(parser *p, char op) {
  const char what[] = {'`', op, '`', 0};
  if (!at_op(p, op)) return parse_fail(p, what);
  return advance(p);
}

static kiln_status expect_name(parser *p, const char **out) {
  if (p->token.kind != TOK_NAME) return parse_fail(p, "a name");
  *out = p->token.text;
  return advance(p);
}

static kiln_status enter(parser *p) {
  if (++p->depth <= MAX_DEPTH) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_FILE, "%s:%d: code is nested more than %d levels deep", p->lexer.name, p->token.line,
                   MAX_DEPTH);
}

/* ---- expressions
 * ----------------------------------------------------------------------------------------------------------- */

static kiln_status parse_expr(parser *p, ts_expr **out);

static kiln_status expr_new(parser *p, ts_expr_kind kind, ts_expr **out) {
  ts_expr *e = ARENA_NEW(p->arena, ts_expr);
  if (!e) return KILN_NO_MEMORY("TorchScript code");
  e->kind = kind;
  e->line = p->token.line;
  *out = e;
  return KILN_OK;
}

typedef struct expr_list {
  ts_expr **items;
  const char **names;
  int count, capacity;
} expr_list;

static kiln_status list_add(parser *p, expr_list *l, ts_expr *e, const char *name) {
  if (l->count == l->capacity) {
    if (l->capacity >= MAX_ITEMS)
      return KILN_FAIL(KILN_INVALID_FILE, "%s:%d: a list with too many items", p->lexer.name, p->token.line);
    const int wanted = l->capacity ? l->capacity * 2 : 4;
    ts_expr **items = ARENA_ARRAY(p->arena, ts_expr *, wanted);
    const char **names = ARENA_ARRAY(p->arena, const char *, wanted);
    if (!items || !names) return KILN_NO_MEMORY("TorchScript code");
    if (l->count) memcpy(items, l->items, (size_t)l->count * sizeof *items);
    if (l->count) memcpy(names, l->names, (size_t)l->count * sizeof *names);
    l->items = items;
    l->names = names;
    l->capacity = wanted;
  }
  l->items[l->count] = e;
  l->names[l->count++] = name;
  return KILN_OK;
}

static void list_give(const expr_list *l, ts_expr *e) {
  e->items = l->items;
  e->names = l->names;
  e->count = l->count;
}

/* Items up to `close`, with an optional trailing comma; `keywords` allows name=value. Leaves the closing bracket to the
 * caller. */
static kiln_status parse_items(parser *p, char close, bool keywords, expr_list *l, bool *trailing) {
  *trailing = false;
  while (!at_op(p, close)) {
    ts_expr *e = NULL;
    const char *name = NULL;
    KILN_TRY(parse_expr(p, &e));
    if (keywords && at_op(p, '=') && e->kind == TS_NAME) {
      name = e->s;
      KILN_TRY(advance(p));
      KILN_TRY(parse_expr(p, &e));
    }
    KILN_TRY(list_add(p, l, e, name));
    *trailing = at_op(p, ',');
    if (!*trailing) break;
    KILN_TRY(advance(p));
  }
  return KILN_OK;
}

static kiln_status parse_bracketed(parser *p, char close, ts_expr_kind kind, ts_expr **out) {
  expr_list l = {0};
  bool trailing = false;
  ts_expr *e = NULL;
  KILN_TRY(expr_new(p, kind, &e));
  KILN_TRY(advance(p));
  KILN_TRY(parse_items(p, close, false, &l, &trailing));
  KILN_TRY(expect_op(p, close));
  list_give(&l, e);
  /* (a) is a, (a,) is a tuple */
  *out = kind == TS_TUPLE && l.count == 1 && !trailing ? l.items[0] : e;
  return KILN_OK;
}

static kiln_status parse_dict(parser *p, ts_expr **out) {
  expr_list l = {0};
  KILN_TRY(expr_new(p, TS_DICT, out));
  KILN_TRY(advance(p));
  while (!at_op(p, '}')) {
    ts_expr *key = NULL, *item = NULL;
    KILN_TRY(parse_expr(p, &key));
    KILN_TRY(expect_op(p, ':'));
    KILN_TRY(parse_expr(p, &item));
    KILN_TRY(list_add(p, &l, key, NULL));
    KILN_TRY(list_add(p, &l, item, NULL));
    if (!at_op(p, ',')) break;
    KILN_TRY(advance(p));
  }
  list_give(&l, *out);
  return expect_op(p, '}');
}

static kiln_status parse_word(parser *p, ts_expr **out) {
  static const struct {
    const char *word;
    ts_expr_kind kind;
  } words[] = {{"True", TS_TRUE}, {"False", TS_FALSE}, {"None", TS_NONE}, {"inf", TS_FLOAT}, {"nan", TS_FLOAT}};
  KILN_TRY(expr_new(p, TS_NAME, out));
  (*out)->s = p->token.text;
  for (size_t i = 0; i < KILN_COUNT(words); i++) {
    if (strcmp(words[i].word, p->token.text) == 0) {
      (*out)->kind = words[i].kind;
      (*out)->u.f = i == 4 ? (double)NAN : (double)INFINITY;
    }
  }
  return advance(p);
}

static kiln_status parse_atom(parser *p, ts_expr **out) {
  if (p->token.kind == TOK_NAME) return parse_word(p, out);
  if (at_op(p, '(')) return parse_bracketed(p, ')', TS_TUPLE, out);
  if (at_op(p, '[')) return parse_bracketed(p, ']', TS_LIST, out);
  if (at_op(p, '{')) return parse_dict(p, out);
  if (p->token.kind == TOK_STR) {
    KILN_TRY(expr_new(p, TS_STR, out));
    (*out)->s = p->token.text;
    (*out)->u.i = p->token.i;
    return advance(p);
  }
  if (p->token.kind == TOK_INT || p->token.kind == TOK_FLOAT || p->token.kind == TOK_IMAGINARY) {
    const ts_expr_kind kind = p->token.kind == TOK_INT ? TS_INT : p->token.kind == TOK_FLOAT ? TS_FLOAT : TS_COMPLEX;
    KILN_TRY(expr_new(p, kind, out));
    if (kind == TS_INT) (*out)->u.i = p->token.i;
    if (kind != TS_INT) (*out)->u.f = p->token.f;
    return advance(p);
  }
  return parse_fail(p, "an expression");
}

/* Attributes, calls and indices behind an atom. Whoever walks the result recurses along a.b.c as well, so their number
 * is bounded. */
static kiln_status parse_postfix(parser *p, ts_expr **out) {
  const int outer = p->links;
  KILN_TRY(parse_atom(p, out));
  for (;;) {
    ts_expr *e = NULL;
    if (++p->links > MAX_LINKS)
      return KILN_FAIL(KILN_INVALID_FILE, "%s:%d: an expression has more than %d parts in a row", p->lexer.name,
                       p->token.line, MAX_LINKS);
    if (at_op(p, '.')) {
      KILN_TRY(expr_new(p, TS_ATTR, &e));
      KILN_TRY(advance(p));
      KILN_TRY(expect_name(p, &e->s));
    } else if (at_op(p, '(') || at_op(p, '[')) {
      const bool call = at_op(p, '(');
      expr_list l = {0};
      bool trailing = false;
      KILN_TRY(expr_new(p, call ? TS_CALL : TS_INDEX, &e));
      KILN_TRY(advance(p));
      KILN_TRY(parse_items(p, call ? ')' : ']', call, &l, &trailing));
      KILN_TRY(expect_op(p, call ? ')' : ']'));
      list_give(&l, e);
      if (!call && e->count < 1) return parse_fail(p, "an index");
    } else {
      p->links = outer;
      return KILN_OK;
    }
    e->a = *out;
    *out = e;
  }
}

/* -1.5-2.j is (-1.5) - 2.j, and -2.j is imaginary. */
static kiln_status negate_complex(parser *p, ts_expr **out) {
  ts_expr *number = (*out)->a, *real = NULL;
  if (number->kind != TS_COMPLEX) return KILN_OK;
  *out = number;
  if (!number->a) {
    number->u.f = -number->u.f;
    return KILN_OK;
  }
  KILN_TRY(expr_new(p, TS_NEG, &real));
  real->a = number->a;
  number->a = real;
  return KILN_OK;
}

static kiln_status parse_expr(parser *p, ts_expr **out) {
  KILN_TRY(enter(p));
  if (at_op(p, '-')) {
    KILN_TRY(expr_new(p, TS_NEG, out));
    KILN_TRY(advance(p));
    KILN_TRY(parse_expr(p, &(*out)->a));
    KILN_TRY(negate_complex(p, out));
  } else {
    KILN_TRY(parse_postfix(p, out));
  }
  if (at_op(p, '+') || (at_op(p, '-') && (*out)->kind != TS_NEG)) { /* only in complex literals: 2.+3.j */
    ts_expr *right = NULL;
    const bool minus = at_op(p, '-');
    KILN_TRY(advance(p));
    KILN_TRY(parse_expr(p, &right));
    if (right->kind != TS_COMPLEX || right->a) return parse_fail(p, "an imaginary number");
    if (minus) right->u.f = -right->u.f;
    right->a = *out;
    *out = right;
  }
  p->depth--;
  return KILN_OK;
}

/* ---- statements
 * ---------------------------------------------------------------------------------------------------------------- */

static kiln_status parse_statement(parser *p, ts_stmt **out);

static kiln_status stmt_new(parser *p, ts_stmt_kind kind, ts_stmt **out) {
  ts_stmt *s = ARENA_NEW(p->arena, ts_stmt);
  if (!s) return KILN_NO_MEMORY("TorchScript code");
  s->kind = kind;
  s->line = p->token.line;
  *out = s;
  return KILN_OK;
}

static kiln_status end_line(parser *p) {
  if (p->token.kind == TOK_END) return KILN_OK;
  if (p->token.kind != TOK_NEWLINE) return parse_fail(p, "the end of the line");
  return advance(p);
}

/* `:` newline, and the indented lines below. */
static kiln_status parse_suite(parser *p, ts_stmt **out) {
  KILN_TRY(expect_op(p, ':'));
  KILN_TRY(end_line(p));
  if (p->token.kind != TOK_INDENT) return parse_fail(p, "an indented block");
  KILN_TRY(enter(p));
  KILN_TRY(advance(p));
  ts_stmt **tail = out;
  while (p->token.kind != TOK_DEDENT && p->token.kind != TOK_END) {
    KILN_TRY(parse_statement(p, tail));
    tail = &(*tail)->next;
  }
  p->depth--;
  return p->token.kind == TOK_DEDENT ? advance(p) : KILN_OK;
}

static kiln_status parse_params(parser *p, ts_stmt *s) {
  ts_param list[256];
  KILN_TRY(expect_op(p, '('));
  while (!at_op(p, ')')) {
    if (s->n_params == 256) return parse_fail(p, "at most 256 parameters");
    ts_param *x = &list[s->n_params++];
    *x = (ts_param){0};
    KILN_TRY(expect_name(p, &x->name));
    if (at_op(p, ':')) {
      KILN_TRY(advance(p));
      KILN_TRY(parse_expr(p, &x->type));
    }
    if (at_op(p, '=')) {
      KILN_TRY(advance(p));
      KILN_TRY(parse_expr(p, &x->fallback));
    }
    if (!at_op(p, ',')) break;
    KILN_TRY(advance(p));
  }
  s->params = arena_copy(p->arena, list, (size_t)s->n_params * sizeof *list);
  if (!s->params) return KILN_NO_MEMORY("TorchScript code");
  return expect_op(p, ')');
}

static kiln_status parse_def(parser *p, ts_stmt *s) {
  KILN_TRY(advance(p));
  KILN_TRY(expect_name(p, &s->name));
  KILN_TRY(parse_params(p, s));
  if (at_op(p, '>')) {
    KILN_TRY(advance(p));
    KILN_TRY(parse_expr(p, &s->type));
  }
  return parse_suite(p, &s->body);
}

static kiln_status parse_class(parser *p, ts_stmt *s) {
  KILN_TRY(advance(p));
  KILN_TRY(expect_name(p, &s->name));
  if (at_op(p, '(')) {
    KILN_TRY(advance(p));
    if (!at_op(p, ')')) KILN_TRY(parse_expr(p, &s->value));
    KILN_TRY(expect_op(p, ')'));
  }
  return parse_suite(p, &s->body);
}

static kiln_status parse_if(parser *p, ts_stmt *s) {
  KILN_TRY(advance(p));
  KILN_TRY(parse_expr(p, &s->value));
  KILN_TRY(parse_suite(p, &s->body));
  if (!at_word(p, "else")) return KILN_OK;
  KILN_TRY(advance(p));
  return parse_suite(p, &s->orelse);
}

static kiln_status parse_for(parser *p, ts_stmt *s) {
  KILN_TRY(advance(p));
  s->targets = ARENA_ARRAY(p->arena, ts_expr *, 1);
  if (!s->targets) return KILN_NO_MEMORY("TorchScript code");
  KILN_TRY(parse_postfix(p, &s->targets[0]));
  s->count = 1;
  if (!at_word(p, "in")) return parse_fail(p, "`in`");
  KILN_TRY(advance(p));
  KILN_TRY(parse_expr(p, &s->value));
  return parse_suite(p, &s->body);
}

/* The right side of an assignment: an expression, or a tuple without brackets. */
static kiln_status parse_value(parser *p, ts_expr **out) {
  expr_list l = {0};
  ts_expr *e = NULL;
  KILN_TRY(parse_expr(p, out));
  if (!at_op(p, ',')) return KILN_OK;
  KILN_TRY(expr_new(p, TS_TUPLE, &e));
  KILN_TRY(list_add(p, &l, *out, NULL));
  KILN_TRY(advance(p));
  while (p->token.kind != TOK_NEWLINE && p->token.kind != TOK_END) {
    ts_expr *item = NULL;
    KILN_TRY(parse_expr(p, &item));
    KILN_TRY(list_add(p, &l, item, NULL));
    if (!at_op(p, ',')) break;
    KILN_TRY(advance(p));
  }
  list_give(&l, e);
  *out = e;
  return KILN_OK;
}

/* An expression, an assignment or a declaration. */
static kiln_status parse_simple(parser *p, ts_stmt *s) {
  expr_list l = {0};
  for (;;) {
    ts_expr *e = NULL;
    KILN_TRY(parse_expr(p, &e));
    KILN_TRY(list_add(p, &l, e, NULL));
    if (!at_op(p, ',')) break;
    s->unpack = true;
    KILN_TRY(advance(p));
    if (at_op(p, '=')) break;
  }
  s->targets = l.items;
  s->count = l.count;
  if (at_op(p, ':') && l.count == 1) {
    s->kind = TS_DECLARE;
    KILN_TRY(advance(p));
    KILN_TRY(parse_expr(p, &s->type));
    if (at_op(p, '=')) {
      KILN_TRY(advance(p));
      KILN_TRY(parse_expr(p, &s->value));
    }
  } else if (at_op(p, '=')) {
    s->kind = TS_ASSIGN;
    KILN_TRY(advance(p));
    KILN_TRY(parse_value(p, &s->value));
  } else if (l.count == 1) {
    s->kind = TS_EXPR;
    s->value = l.items[0];
  } else {
    return parse_fail(p, "`=`");
  }
  return end_line(p);
}

static kiln_status parse_statement(parser *p, ts_stmt **out) {
  KILN_TRY(enter(p));
  ts_stmt *s = NULL;
  KILN_TRY(stmt_new(p, TS_EXPR, &s));
  *out = s;
  if (at_word(p, "def")) {
    s->kind = TS_DEF;
    KILN_TRY(parse_def(p, s));
  } else if (at_word(p, "class")) {
    s->kind = TS_CLASS;
    KILN_TRY(parse_class(p, s));
  } else if (at_word(p, "if")) {
    s->kind = TS_IF;
    KILN_TRY(parse_if(p, s));
  } else if (at_word(p, "while") || at_word(p, "with")) {
    s->kind = at_word(p, "while") ? TS_WHILE : TS_WITH;
    KILN_TRY(advance(p));
    KILN_TRY(parse_expr(p, &s->value));
    KILN_TRY(parse_suite(p, &s->body));
  } else if (at_word(p, "for")) {
    s->kind = TS_FOR;
    KILN_TRY(parse_for(p, s));
  } else if (at_word(p, "return")) {
    s->kind = TS_RETURN;
    KILN_TRY(advance(p));
    if (p->token.kind != TOK_NEWLINE && p->token.kind != TOK_END) KILN_TRY(parse_expr(p, &s->value));
    KILN_TRY(end_line(p));
  } else if (at_word(p, "pass")) {
    s->kind = TS_PASS;
    KILN_TRY(advance(p));
    KILN_TRY(end_line(p));
  } else {
    KILN_TRY(parse_simple(p, s));
  }
  p->depth--;
  return KILN_OK;
}

kiln_status ts_parse(arena *a, const char *name, const char *bytes, size_t size, ts_stmt **out) {
  parser p = {.arena = a};
  ts_lexer_start(&p.lexer, a, name, bytes, size);
  KILN_TRY(advance(&p));
  ts_stmt *first = NULL, **tail = &first;
  while (p.token.kind != TOK_END) {
    if (p.token.kind == TOK_NEWLINE) {
      KILN_TRY(advance(&p));
      continue;
    }
    KILN_TRY(parse_statement(&p, tail));
    tail = &(*tail)->next;
  }
  *out = first;
  return KILN_OK;
}
