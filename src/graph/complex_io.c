/* Complex inputs and outputs, see complex_io.h. */
#include "graph/complex_io.h"

#include <stdlib.h>
#include <string.h>

static const char key[] = "kiln.complex";

static bool listed(const graph *g, char role, int32_t index) {
  const char *s = graph_metadata(g, key);
  while (s && *s) {
    char *end = NULL;
    if (s[0] == role && s[1] >= '0' && s[1] <= '9' && strtol(s + 1, &end, 10) == index && (*end == ',' || *end == 0))
      return true;
    s = strchr(s, ',');
    if (s) s++;
  }
  return false;
}

static bool holds_pairs(const tensor_type *t) {
  return dtype_is_float(t->dtype) && t->dtype != KILN_BF16 && t->rank > 0 && t->dims[t->rank - 1] == 2;
}

bool graph_input_is_complex(const graph *g, int32_t index) {
  return index >= 0 && index < g->n_inputs && listed(g, 'i', index) && holds_pairs(&g->body.params[index]->type);
}

bool graph_output_is_complex(const graph *g, int32_t index) {
  return index >= 0 && index < g->n_outputs && listed(g, 'o', index) && holds_pairs(&g->body.results[index].v->type);
}

kiln_status graph_mark_complex(graph *g, char role, int32_t index) {
  const char *known = graph_metadata(g, key);
  char *list = arena_printf(&g->arena, "%s%s%c%d", known ? known : "", known ? "," : "", role, (int)index);
  return list ? graph_set_metadata(g, key, list) : KILN_NO_MEMORY("complex inputs and outputs");
}

void complex_type_print(const graph *g, const tensor_type *t, text *out) {
  tensor_type whole = *t;
  text parts = {0};
  whole.rank--;
  type_print(g, &whole, &parts);
  const char *sizes = parts.data ? strchr(parts.data, '[') : NULL;
  text_printf(out, "c%d%s", (int)kiln_dtype_size(t->dtype) * 16, sizes ? sizes : "");
  out->failed |= parts.failed;
  text_free(&parts);
}
