/* What a TorchScript file holds, as text for `kiln inspect`: methods, example inputs, tensors, operators. */
#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "import/torchscript/method.h"
#include "import/torchscript/survey.h"
#include "import/torchscript/torchscript.h"

enum { MAX_DEPTH = 20, MAX_ITEMS = 8 };

/* ---- methods ----------------------------------------------------------------------------------------------------- */

static void print_default(const ts_expr *e, int depth, text *out) {
  if (depth > MAX_DEPTH) {
    text_puts(out, "...");
    return;
  }
  switch (e->kind) {
    case TS_INT:
      text_printf(out, "%" PRId64, e->u.i);
      return;
    case TS_FLOAT:
      text_printf(out, "%.17g", e->u.f);
      return;
    case TS_STR:
      text_quote(out, e->s);
      return;
    case TS_TRUE:
    case TS_FALSE:
    case TS_NONE:
      text_puts(out, e->kind == TS_TRUE ? "True" : e->kind == TS_FALSE ? "False" : "None");
      return;
    case TS_NEG:
      text_putc(out, '-');
      print_default(e->a, depth + 1, out);
      return;
    case TS_LIST:
    case TS_TUPLE:
      text_putc(out, e->kind == TS_LIST ? '[' : '(');
      for (int i = 0; i < e->count && i < MAX_ITEMS; i++) {
        if (i) text_puts(out, ", ");
        print_default(e->items[i], depth + 1, out);
      }
      text_puts(out, e->count > MAX_ITEMS ? ", ..." : "");
      text_putc(out, e->kind == TS_LIST ? ']' : ')');
      return;
    default:
      text_puts(out, "...");
  }
}

static kiln_status print_method(ts_archive *a, const ts_function *f, text *out) {
  KILN_TRY(ts_function_params(a, f));
  text_printf(out, "  %s(", f->name);
  for (int i = 1; i < f->def->n_params; i++) {
    const ts_param *p = &f->def->params[i];
    text_printf(out, i > 1 ? ", %s: " : "%s: ", p->name);
    ts_type_print(f->params[i], out);
    if (!p->fallback) continue;
    text_puts(out, " = ");
    print_default(p->fallback, 0, out);
  }
  text_puts(out, ")");
  const ts_type *result = NULL;
  if (f->def->type) KILN_TRY(ts_type_resolve(a, f->file, f->def->type, &result));
  if (result) text_puts(out, " -> ");
  if (result) ts_type_print(result, out);
  const char *place = f->def->body ? ts_source(a, f->file, f->def->body->line) : NULL;
  for (const ts_stmt *s = f->def->body; s && place && str_starts(place, "code/"); s = s->next)
    place = ts_source(a, f->file, s->line); /* the first statement whose origin is known */
  if (place && !str_starts(place, "code/")) text_printf(out, "   (%s)", place);
  text_putc(out, '\n');
  return KILN_OK;
}

static kiln_status print_methods(ts_archive *a, text *out) {
  const ts_class *c = a->root.u.object->cls;
  text_puts(out, "\nmethods\n");
  int n = 0;
  for (int32_t i = 0; i < c->n_methods; i++) {
    if (str_starts(c->methods[i].name, "__")) continue;
    KILN_TRY(print_method(a, &c->methods[i], out));
    n++;
  }
  if (n == 0) text_puts(out, "  none\n");
  return KILN_OK;
}

/* ---- example inputs ---------------------------------------------------------------------------------------------- */

/* Of a complex tensor: the type of a part, and that there are two. */
static void print_type(const ts_archive *a, const itensor *t, text *out) {
  type_print(a->im.graph, &(t->parts[0] ? t->parts[0] : t)->v->type, out);
  if (t->parts[0]) text_puts(out, " x 2, complex");
}

static void print_example(ts_archive *a, const ts_value *v, int depth, text *out) {
  const bool list = v->kind == TSV_LIST || v->kind == TSV_TUPLE;
  if (depth > MAX_DEPTH) {
    text_puts(out, "...");
  } else if (v->kind == TSV_TENSOR) {
    print_type(a, v->u.tensor, out);
  } else if (v->kind == TSV_INT || v->kind == TSV_BOOL) {
    text_printf(out, "%" PRId64, v->u.i);
  } else if (v->kind == TSV_FLOAT) {
    text_printf(out, "%.9g", v->u.f);
  } else if (v->kind == TSV_STR) {
    text_quote(out, v->u.s);
  } else if (list) {
    text_putc(out, v->kind == TSV_LIST ? '[' : '(');
    for (int i = 0; i < v->u.list->count; i++) {
      if (i) text_puts(out, ", ");
      print_example(a, &v->u.list->items[i], depth + 1, out);
    }
    text_putc(out, v->kind == TSV_LIST ? ']' : ')');
  } else if (v->kind == TSV_DICT) {
    text_putc(out, '{');
    for (int i = 0; i < v->u.dict->count; i++) {
      if (i) text_puts(out, ", ");
      print_example(a, &v->u.dict->keys[i], depth + 1, out);
      text_puts(out, ": ");
      print_example(a, &v->u.dict->values[i], depth + 1, out);
    }
    text_putc(out, '}');
  } else {
    text_puts(out, v->kind == TSV_NONE ? "None" : "?");
  }
}

static kiln_status print_examples(ts_archive *a, text *out) {
  const ts_class *c = a->root.u.object->cls;
  bool any = false;
  for (int32_t i = 0; i < c->n_methods; i++) {
    const ts_function *f = &c->methods[i];
    ts_value v = {0};
    KILN_TRY(ts_archive_traced_inputs(a, f->name, &v));
    if (v.kind != TSV_LIST) continue;
    if (!any) text_puts(out, "\ntraced with\n");
    any = true;
    text_printf(out, "  %s(", f->name);
    for (int k = 0; k < v.u.list->count; k++) {
      if (k) text_puts(out, ", ");
      if (k + 1 < f->def->n_params) text_printf(out, "%s = ", f->def->params[k + 1].name);
      print_example(a, &v.u.list->items[k], 0, out);
    }
    text_puts(out, ")\n");
  }
  return KILN_OK;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static void print_bytes(size_t bytes, text *out) {
  static const char *const units[] = {"bytes", "kB", "MB", "GB"};
  double n = (double)bytes;
  int unit = 0;
  for (; n >= 1000 && unit < 3; unit++) n /= 1000;
  text_printf(out, unit ? "%.1f %s" : "%.0f %s", n, units[unit]);
}

/* The path of a tensor that another parameter is, too; each constant counts once. */
static kiln_status print_tensors(ts_archive *a, text *out) {
  map seen = {0};
  text list = {0};
  size_t total = 0;
  int32_t distinct = 0;
  kiln_status status = KILN_OK;
  for (int32_t i = 0; i < a->n_parameters && status == KILN_OK; i++) {
    const ts_parameter *p = &a->parameters[i];
    const ts_attribute *at = &p->owner->cls->attributes[p->attribute];
    const ts_parameter *same = map_get_number(&seen, (uint64_t)(uintptr_t)p->initial);
    text_printf(&list, "  %-40s ", p->path);
    type_print(a->im.graph, &p->initial->type, &list);
    text_puts(&list, at->is_parameter ? "" : at->is_buffer ? "   buffer" : "   attribute");
    if (p->owner->attrs[p->attribute].kind == TSV_QTENSOR) text_puts(&list, "   quantized");
    if (same) text_printf(&list, "   same as %s", same->path);
    text_putc(&list, '\n');
    if (same) continue;
    distinct++;
    total += p->initial->constant ? p->initial->constant->size : 0;
    if (!map_put_number(&seen, (uint64_t)(uintptr_t)p->initial, (void *)(uintptr_t)p))
      status = KILN_NO_MEMORY("report");
  }
  map_free(&seen);
  text_printf(out, "\nparameters and buffers: %d tensor%s, ", distinct, distinct == 1 ? "" : "s");
  print_bytes(total, out);
  text_puts(out, "\n");
  if (list.failed) status = KILN_NO_MEMORY("report");
  if (list.data) text_puts(out, list.data);
  text_free(&list);
  return status;
}

/* Frozen modules keep their weights as constants. */
static void print_constants(ts_archive *a, text *out) {
  size_t total = 0;
  int32_t n = 0;
  for (int32_t i = 0; i < a->n_constants; i++) {
    if (a->constants[i].kind != TSV_TENSOR) continue;
    n++;
    const itensor *t = a->constants[i].u.tensor;
    size_t bytes = 0;
    if (type_bytes(&(t->parts[0] ? t->parts[0] : t)->v->type, &bytes)) total += bytes * (t->parts[0] ? 2 : 1);
  }
  if (!n) return;
  text_printf(out, "\nconstants of the code: %d tensor%s, ", n, n == 1 ? "" : "s");
  print_bytes(total, out);
  text_puts(out, "\n");
  for (int32_t i = 0; i < a->n_constants; i++) {
    if (a->constants[i].kind != TSV_TENSOR) continue;
    text_printf(out, "  c%-39d ", i);
    print_type(a, a->constants[i].u.tensor, out);
    text_putc(out, '\n');
  }
}

/* ---- operators --------------------------------------------------------------------------------------------------- */

static kiln_status print_operators(ts_archive *a, text *out) {
  ts_survey s = {0};
  KILN_TRY(ts_survey_operators(a, NULL, &s));
  int64_t calls = 0;
  int unsupported = 0;
  for (int32_t i = 0; i < s.count; i++) {
    calls += s.operators[i].count;
    unsupported += !s.operators[i].supported;
  }
  text_printf(out, "\noperators: %d, called %" PRId64 " times\n", (int)s.count, calls);
  for (int32_t i = 0; i < s.count; i++)
    text_printf(out, "  %-40s %8" PRId64 "%s\n", s.operators[i].name, s.operators[i].count,
                s.operators[i].supported ? "" : "   not supported");
  if (unsupported == 0) {
    text_puts(out, "\nall of them are supported\n");
    return KILN_OK;
  }
  text_printf(out, "\nnot supported: %d\n", unsupported);
  for (int32_t i = 0; i < s.count; i++) {
    const ts_operator *o = &s.operators[i];
    if (o->supported) continue;
    const char *place = ts_source(a, o->file, o->line);
    text_printf(out, "  %s, used %" PRId64 " time%s, first at %s\n", o->name, o->count, o->count == 1 ? "" : "s",
                place ? place : "?");
  }
  return KILN_OK;
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

/* Runs __setstate__ of the objects that have it: packed weights of quantized modules come out of it. A model whose
 * states cannot be restored can still be described. */
static kiln_status restore(ts_archive *a, text *out) {
  interp it;
  if (a->n_pending == 0) return KILN_OK;
  kiln_status status = interp_open(&it, a, a->im.graph);
  if (status == KILN_OK) status = method_restore(&it);
  interp_close(&it);
  if (status == KILN_OUT_OF_MEMORY) return status;
  if (status != KILN_OK) text_printf(out, "\nobjects whose state cannot be restored: %s\n", error_text());
  return ts_archive_collect(a);
}

static kiln_status describe(ts_archive *a, text *out) {
  text_printf(out, "TorchScript module %s, operators of version %" PRId64 "\n", a->root.u.object->cls->name,
              a->version);
  KILN_TRY(restore(a, out));
  KILN_TRY(print_methods(a, out));
  KILN_TRY(print_examples(a, out));
  KILN_TRY(print_tensors(a, out));
  print_constants(a, out);
  return print_operators(a, out);
}

kiln_status torchscript_describe(const void *bytes, size_t size, const char *origin, text *out) {
  graph *g = NULL;
  ts_archive a;
  KILN_TRY(graph_create(&g));
  kiln_status status = ts_archive_open(&a, g, bytes, size, origin);
  if (status == KILN_OK) {
    status = describe(&a, out);
    if (status != KILN_OK)
      status = error_note(status, __FILE__, __LINE__, "describing the TorchScript file %.300s", origin);
    ts_archive_close(&a);
  }
  graph_destroy(g);
  if (status == KILN_OK && out->failed) status = KILN_NO_MEMORY("report");
  return status;
}
