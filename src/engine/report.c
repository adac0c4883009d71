/* Texts about engines and models, for people. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/engine.h"
#include "graph/complex_io.h"
#include "import/torchscript/torchscript.h"
#include "ops/op.h"
#include "runtime/program.h"

static void io_line(const graph *g, const char *what, int i, const char *name, const tensor_type *type, text *t) {
  text_printf(t, "  %s %d  %s  ", what, i, name);
  type_print(g, type, t);
  if (str_eq(what, "input") ? graph_input_is_complex(g, i) : str_eq(what, "output") && graph_output_is_complex(g, i)) {
    text_puts(t, ", complex: ");
    complex_type_print(g, type, t);
  }
  text_putc(t, '\n');
}

static void print_symbols(const graph *g, text *t) {
  for (int i = 0; i < dim_symbol_count(g->dims); i++) {
    int64_t min = 0, max = 0, opt = 0;
    dim_symbol_range(g->dims, i, &min, &max, &opt);
    text_printf(t, max == DIM_UNBOUNDED ? "  %s: at least %lld\n" : "  %s: %lld to %lld\n", dim_symbol_name(g->dims, i),
                (long long)min, (long long)max);
  }
}

typedef struct op_tally {
  const op *op;
  int count;
} op_tally;

static int by_count(const void *a, const void *b) {
  const op_tally *x = a, *y = b;
  return x->count != y->count ? y->count - x->count : strcmp(x->op->name, y->op->name);
}

static void count_block(const block *b, op_tally *counts, int *n) {
  for (const node *m = b->first; m; m = m->next) {
    int i = 0;
    while (i < *n && counts[i].op != m->op) i++;
    if (i == *n) counts[(*n)++] = (op_tally){m->op, 0};
    counts[i].count++;
    for (int32_t k = 0; k < m->n_blocks; k++) count_block(m->blocks[k], counts, n);
    if (m->epilogue) count_block(m->epilogue, counts, n);
  }
}

static kiln_status graph_summary(const graph *g, text *t) {
  for (int32_t i = 0; i < g->n_inputs; i++) io_line(g, "input", i, g->input_names[i], &g->body.params[i]->type, t);
  for (int32_t i = 0; i < g->n_outputs; i++)
    io_line(g, "output", i, g->output_names[i], &g->body.results[i].v->type, t);
  for (int32_t i = 0; i < g->n_states; i++)
    io_line(g, "state", i, g->states[i].name, &g->body.params[g->states[i].param]->type, t);
  print_symbols(g, t);
  op_tally *counts = mem_calloc((size_t)op_count() + 1, sizeof *counts);
  if (!counts) return KILN_NO_MEMORY("report");
  int n = 0;
  count_block(&g->body, counts, &n);
  qsort(counts, (size_t)n, sizeof *counts, by_count);
  text_puts(t, "operators:\n");
  for (int i = 0; i < n; i++) text_printf(t, "%6d  %s\n", counts[i].count, counts[i].op->name);
  mem_free(counts);
  return KILN_OK;
}

static kiln_status memory_report(const kiln_engine *e, text *t) {
  graph *g = e->plan;
  KILN_TRY(engine_check_weights(e));
  const int n = dim_symbol_count(g->dims);
  int64_t *symbols = mem_calloc((size_t)n + 1, sizeof *symbols);
  program *p = NULL;
  if (!symbols) return KILN_NO_MEMORY("report");
  for (int i = 0; i < n; i++) {
    int64_t min = 0, max = 0;
    dim_symbol_range(g->dims, i, &min, &max, &symbols[i]);
  }
  const kiln_status status = program_create(g, &e->target, symbols, cpu_count(), &p);
  if (status == KILN_OK) program_print_memory(p, t);
  program_destroy(p);
  mem_free(symbols);
  return status;
}

static void print_types(const graph *g, const block *b, bool inputs, text *t) {
  text_putc(t, '(');
  for (int32_t i = 0; i < (inputs ? g->n_inputs : g->n_outputs); i++) {
    const tensor_type *type = inputs ? &b->params[i]->type : &b->results[i].v->type;
    if (i) text_puts(t, ", ");
    if (inputs ? graph_input_is_complex(g, i) : graph_output_is_complex(g, i))
      complex_type_print(g, type, t);
    else
      type_print(g, type, t);
  }
  text_putc(t, ')');
}

static void print_signature(const graph *g, text *t) {
  print_types(g, &g->body, true, t);
  text_puts(t, " -> ");
  print_types(g, &g->body, false, t);
  for (int i = 0; i < dim_symbol_count(g->dims); i++) {
    int64_t min = 0, max = 0, opt = 0;
    dim_symbol_range(g->dims, i, &min, &max, &opt);
    text_printf(t, "; %lld<=%s", (long long)min, dim_symbol_name(g->dims, i));
    if (max != DIM_UNBOUNDED) text_printf(t, "<=%lld", (long long)max);
  }
}

/* Where there are several. */
static void print_profiles(const kiln_engine *e, text *t) {
  for (int32_t k = 0; k < e->profiles.count && e->profiles.declared; k++) {
    const size_profile *p = &e->profiles.all[k];
    text_printf(t, "optimization profile %d:", (int)k);
    for (int32_t i = 0; i < p->n_ranges; i++) {
      const profile_range *r = &p->ranges[i];
      text_printf(t, "%s %s[%d] %lld to %lld, opt %lld", i ? ";" : "", e->plan->input_names[r->input], (int)r->dim,
                  (long long)r->min, (long long)r->max, (long long)r->opt);
    }
    text_putc(t, '\n');
  }
}

static kiln_status fill_report(kiln_engine *e, kiln_report what, text *t) {
  switch (what) {
    case KILN_REPORT_GRAPH:
      text_append(t, e->portable_text, e->portable_size);
      return KILN_OK;
    case KILN_REPORT_PLAN:
      graph_print(e->plan, 64, t);
      return KILN_OK;
    case KILN_REPORT_WHY:
      text_puts(t, e->why);
      return KILN_OK;
    case KILN_REPORT_MEMORY:
      return memory_report(e, t);
    case KILN_REPORT_SUMMARY:
      text_printf(t, "engine for %s, %zu bytes, %zu weights of %zu bytes in all%s\n", e->target.name, e->size,
                  e->n_weights, engine_weight_bytes(e), e->stripped ? ", stripped: kiln refit puts them in" : "");
      KILN_TRY(graph_summary(e->plan, t));
      print_profiles(e, t);
      return KILN_OK;
    case KILN_REPORT_SIGNATURE:
      print_signature(e->plan, t);
      return KILN_OK;
    default:
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "there is no report %d", (int)what);
  }
}

static kiln_status finish(kiln_status status, text *t, char **out_text) {
  text_puts(t, "");
  if (status == KILN_OK) status = text_take(t, out_text);
  text_free(t);
  return status;
}

kiln_status kiln_engine_report(const kiln_engine *engine, kiln_report what, char **out_text) {
  if (!engine || !out_text) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", engine ? "out_text" : "engine");
  text t = {0};
  kiln_engine *now = engine_current(engine, NULL);
  const kiln_status status = fill_report(now, what, &t);
  engine_leave(engine, now);
  return finish(status, &t, out_text);
}

kiln_status kiln_model_report(const char *path, kiln_report what, char **out_text) {
  if (!path || !out_text) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", path ? "out_text" : "path");
  if (what != KILN_REPORT_GRAPH && what != KILN_REPORT_SUMMARY)
    return KILN_FAIL(KILN_INVALID_ARGUMENT,
                     "a model file has no plan yet: build an engine first, or ask for the graph or the summary");
  file_map file;
  graph *g = NULL;
  text t = {0};
  KILN_TRY(file_map_open(path, &file));
  const bool script = torchscript_detect(file.data, file.size);
  kiln_status status = KILN_OK;
  if (script && what == KILN_REPORT_SUMMARY) { /* of the file as it is: scripted methods have no graph without shapes */
    status = ops_init();
    if (status == KILN_OK) status = torchscript_describe(file.data, file.size, path, &t);
    file_map_close(&file);
    return finish(status, &t, out_text);
  }
  status = model_import(file.data, file.size, path, NULL, &g);
  if (status == KILN_OK && what == KILN_REPORT_GRAPH) graph_print(g, 64, &t);
  if (status == KILN_OK && what == KILN_REPORT_SUMMARY) status = graph_summary(g, &t);
  graph_destroy(g);
  file_map_close(&file);
  return finish(status, &t, out_text);
}
