/* The text form of graphs, written (docs/graph-text.md). Constants come first, in the order of their first use, so that
 * a value always stands before its uses and the reader needs one pass. */
#include <ctype.h>
#include <string.h>

#include "graph/graph.h"
#include "graph/number.h"
#include "ops/op.h"
#include "ops/ref.h"

typedef struct printer {
  const graph *g;
  text *out;
  size_t inline_bytes;
  map seen; /* constants that are written already */
  int64_t next_weight;
  bool named;
} printer;

static void print_indent(printer *p, int depth) {
  for (int i = 0; i < depth; i++) text_puts(p->out, "  ");
}

static void print_value(const value *v, text *out) {
  if (!v) {
    text_puts(out, "none");
    return;
  }
  text_putc(out, '%');
  if (!v->name) {
    text_printf(out, "%u", v->id);
    return;
  }
  bool plain = isalpha((unsigned char)v->name[0]) || v->name[0] == '_';
  for (const char *c = v->name; *c && plain; c++) plain = isalnum((unsigned char)*c) || *c == '_' || *c == '.';
  if (plain) {
    text_puts(out, v->name);
  } else {
    text_quote(out, v->name);
  }
}

/* ---- constants --------------------------------------------------------------------------------------------------- */

static void print_float_element(const tensor *t, int64_t i, text *out) {
  const double v = ref_load(t, i);
  if (v == v) {
    number_print(out, v, t->dtype != KILN_F64);
    return;
  }
  uint64_t bits = 0; /* a NaN has many; little-endian */
  const size_t size = kiln_dtype_size(t->dtype);
  memcpy(&bits, (const char *)t->data + (size_t)i * size, size);
  text_printf(out, "0x%llx", (unsigned long long)bits);
}

static void print_elements(const value *v, text *out) {
  const tensor t = {.data = (void *)(uintptr_t)v->constant->data, .dtype = v->type.dtype};
  const size_t count = v->constant->size / kiln_dtype_size(v->type.dtype);
  text_putc(out, '{');
  for (size_t i = 0; i < count; i++) {
    if (i) text_puts(out, ", ");
    if (dtype_is_float(v->type.dtype)) {
      print_float_element(&t, (int64_t)i, out);
    } else {
      text_printf(out, "%lld", (long long)ref_load_int(&t, (int64_t)i));
    }
  }
  text_putc(out, '}');
}

static void print_names(const constant *c, text *out) {
  if (c->fixed) text_puts(out, " fixed");
  for (const weight_name *n = c->names; n; n = n->next) {
    text_puts(out, " named ");
    text_quote(out, n->name);
  }
}

static void print_constant(printer *p, const value *v) {
  if (!v || !v->constant || map_get_number(&p->seen, v->id)) return;
  if (!map_put_number(&p->seen, v->id, (void *)(uintptr_t)v)) p->out->failed = true;
  const constant *c = v->constant;
  text_puts(p->out, "const ");
  print_value(v, p->out);
  text_puts(p->out, " : ");
  type_print(p->g, &v->type, p->out);
  text_puts(p->out, " = ");
  const bool named = p->named && c->names;
  if (!c->packing && c->size <= p->inline_bytes && !named && (c->data || !c->size)) {
    print_elements(v, p->out);
  } else if (p->named) {
    text_printf(p->out, "weight %lld", (long long)c->weight);
  } else {
    text_printf(p->out, "weight %lld", (long long)(c->weight >= 0 ? c->weight : p->next_weight++));
  }
  if (c->packing) {
    text_puts(p->out, " packed ");
    text_quote(p->out, c->packing);
  }
  if (named) print_names(c, p->out);
  text_putc(p->out, '\n');
}

static void print_block_constants(printer *p, const block *b) {
  for (const node *n = b->first; n; n = n->next) {
    for (int32_t i = 0; i < n->n_inputs; i++) print_constant(p, n->inputs[i].v);
    for (int32_t i = 0; i < n->n_blocks; i++) print_block_constants(p, n->blocks[i]);
    if (n->epilogue) print_block_constants(p, n->epilogue);
  }
  for (int32_t i = 0; i < b->n_results; i++) print_constant(p, b->results[i].v);
}

/* ---- nodes ------------------------------------------------------------------------------------------------------- */

static void print_attr(const graph *g, const attr *a, text *out) {
  switch (a->kind) {
    case ATTR_INT:
      dim_print(g->dims, a->u.i, out);
      break;
    case ATTR_FLOAT:
      number_print(out, a->u.f, false);
      break;
    case ATTR_BOOL:
      text_puts(out, a->u.i ? "true" : "false");
      break;
    case ATTR_STR:
      text_quote(out, a->u.s);
      break;
    case ATTR_DTYPE:
      text_puts(out, kiln_dtype_name((kiln_dtype)a->u.i));
      break;
    case ATTR_INTS:
    case ATTR_FLOATS:
      text_putc(out, '[');
      for (int32_t i = 0; i < a->count; i++) {
        if (i) text_puts(out, ", ");
        if (a->kind == ATTR_INTS) {
          dim_print(g->dims, a->u.ints[i], out);
        } else {
          number_print(out, a->u.floats[i], false);
        }
      }
      text_putc(out, ']');
      break;
    default:
      text_puts(out, "none");
      break;
  }
}

static void print_attrs(const graph *g, const node *n, text *out) {
  const op_schema *s = op_schema_of(n->op);
  int written = 0;
  for (int32_t i = 0; i < s->n_attrs; i++) {
    const attr *a = &n->attrs[i];
    if (attr_equal(a, &s->attrs[i].fallback)) continue;
    text_puts(out, written++ ? ", " : " {");
    text_puts(out, s->attrs[i].name);
    text_putc(out, '=');
    print_attr(g, a, out);
  }
  if (written) text_putc(out, '}');
}

void node_print(const graph *g, const node *n, text *out) {
  for (int32_t i = 0; i < n->n_outputs; i++) {
    if (i) text_puts(out, ", ");
    print_value(n->outputs[i], out);
  }
  text_puts(out, n->n_outputs ? " = " : "() = ");
  text_puts(out, n->op->name);
  text_putc(out, '(');
  for (int32_t i = 0; i < n->own_inputs; i++) {
    if (i) text_puts(out, ", ");
    print_value(n->inputs[i].v, out);
  }
  text_putc(out, ')');
  print_attrs(g, n, out);
  for (int32_t i = 0; i < n->n_outputs; i++) {
    text_puts(out, i ? ", " : " : ");
    type_print(g, &n->outputs[i]->type, out);
  }
  if (n->tactic) {
    text_puts(out, " tactic ");
    text_quote(out, n->tactic);
    for (int32_t i = 0; i < n->n_more_tactics; i++) {
      text_puts(out, " or ");
      text_quote(out, n->more_tactics[i]);
    }
  }
  if (n->timing) {
    text_puts(out, " timed ");
    text_quote(out, n->timing);
  }
  const bool source = n->source && *n->source;
  if (source || (n->path && *n->path)) {
    text_puts(out, " @ ");
    text_quote(out, n->path ? n->path : "");
    if (source) {
      text_putc(out, ' ');
      text_quote(out, n->source);
    }
  }
}

static void print_nodes(printer *p, const block *b, int depth);

/* `n`: the owner of an epilogue, whose further operands are bound to the block's parameters. */
static void print_block(printer *p, const block *b, const node *n, int depth) {
  print_indent(p, depth);
  text_puts(p->out, n ? "epilogue(" : "block(");
  for (int32_t i = 0; i < b->n_params; i++) {
    if (i) text_puts(p->out, ", ");
    print_value(b->params[i], p->out);
    text_puts(p->out, " : ");
    type_print(p->g, &b->params[i]->type, p->out);
    if (n && i > 0) {
      text_puts(p->out, " = ");
      print_value(node_in(n, n->own_inputs + i - 1), p->out);
    }
  }
  text_puts(p->out, ") {\n");
  print_nodes(p, b, depth + 1);
  print_indent(p, depth + 1);
  text_puts(p->out, "return");
  for (int32_t i = 0; i < b->n_results; i++) {
    text_puts(p->out, i ? ", " : " ");
    print_value(b->results[i].v, p->out);
  }
  text_putc(p->out, '\n');
  print_indent(p, depth);
  text_puts(p->out, "}\n");
}

static void print_nodes(printer *p, const block *b, int depth) {
  for (const node *n = b->first; n; n = n->next) {
    print_indent(p, depth);
    node_print(p->g, n, p->out);
    text_putc(p->out, '\n');
    if (n->epilogue) print_block(p, n->epilogue, n, depth + 1);
    for (int32_t i = 0; i < n->n_blocks; i++) print_block(p, n->blocks[i], NULL, depth + 1);
  }
}

/* ---- the graph --------------------------------------------------------------------------------------------------- */

static void print_bound(int64_t v, text *out) {
  if (v == DIM_UNBOUNDED || v == -DIM_UNBOUNDED) {
    text_puts(out, v < 0 ? "-inf" : "inf");
  } else {
    text_printf(out, "%lld", (long long)v);
  }
}

static void print_symbols(const dim_table *t, text *out) {
  for (int i = 0; i < dim_symbol_count(t); i++) {
    int64_t min, max, opt;
    dim_symbol_range(t, i, &min, &max, &opt);
    text_printf(out, "dim %s in [", dim_symbol_name(t, i));
    print_bound(min, out);
    text_puts(out, ", ");
    print_bound(max, out);
    text_printf(out, "] opt %lld\n", (long long)opt);
  }
}

static void print_name(const char *word, const char *name, text *out) {
  text_puts(out, word);
  text_putc(out, ' ');
  text_quote(out, name ? name : "");
  text_putc(out, ' ');
}

static void print_params(printer *p) {
  const graph *g = p->g;
  for (int32_t i = 0; i < g->body.n_params; i++) {
    const value *v = g->body.params[i];
    const graph_state *state = i >= g->n_inputs && i - g->n_inputs < g->n_states ? &g->states[i - g->n_inputs] : NULL;
    if (state) {
      print_name("state", state->name, p->out);
    } else {
      print_name("input", g->input_names && i < g->n_inputs ? g->input_names[i] : v->name, p->out);
    }
    print_value(v, p->out);
    text_puts(p->out, " : ");
    type_print(g, &v->type, p->out);
    if (state) {
      text_puts(p->out, " = ");
      print_value(state->initial, p->out);
    }
    text_putc(p->out, '\n');
  }
}

static void print_results(printer *p) {
  const graph *g = p->g;
  for (int32_t i = 0; i < g->body.n_results; i++) {
    if (i < g->n_outputs) {
      print_name("output", g->output_names ? g->output_names[i] : NULL, p->out);
    } else {
      print_name("update", i - g->n_outputs < g->n_states ? g->states[i - g->n_outputs].name : NULL, p->out);
    }
    print_value(g->body.results[i].v, p->out);
    text_putc(p->out, '\n');
  }
}

static void print_graph(printer p) {
  const graph *g = p.g;
  text *out = p.out;
  text_puts(out, "kiln.graph 1\n");
  for (int32_t i = 0; i < g->n_metadata; i++) {
    print_name("meta", g->metadata[i].name, out);
    text_quote(out, g->metadata[i].value.u.s);
    text_putc(out, '\n');
  }
  print_symbols(g->dims, out);
  for (int32_t i = 0; i < g->n_states; i++) print_constant(&p, g->states[i].initial);
  print_block_constants(&p, &g->body);
  for (const constant *c = p.named ? g->constants : NULL; c; c = c->next) {
    if (c->names) print_constant(&p, c->of);
  }
  print_params(&p);
  print_nodes(&p, &g->body, 0);
  print_results(&p);
  map_free(&p.seen);
}

void graph_print(const graph *g, size_t inline_bytes, text *out) {
  print_graph((printer){.g = g, .out = out, .inline_bytes = inline_bytes});
}

void graph_print_named(const graph *g, size_t inline_bytes, text *out) {
  print_graph((printer){.g = g, .out = out, .inline_bytes = inline_bytes, .named = true});
}
