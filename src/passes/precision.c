/* Precision: an f32 graph is turned into one that stores and multiplies f16 or bf16.
 *
 * The idea is that of autocast, decided once at build: matrix products, convolutions, attention and recurrences ("anchors") take 16-bit
 * operands; operators whose kernels compute in f32 inside (pointwise, norms, softmax, pools, movement, means) follow their operands; sums
 * that may leave the 16-bit range, powers and scans stay in f32; so does everything that no anchor feeds (positions, rotary tables,
 * masks). Casts are shared by all readers and fused into chains. Inputs and outputs keep their types. */
#include <fnmatch.h>
#include <string.h>

#include "base/halves.h"
#include "base/memory.h"
#include "passes/origin.h"
#include "passes/pass.h"

typedef enum precision_class { CLASS_KEEP, CLASS_FOLLOW, CLASS_ANCHOR } precision_class;

static bool listed(const char *name, const char *const *list) {
  for (; *list; list++) {
    if (strcmp(name, *list) == 0) return true;
  }
  return false;
}

static precision_class class_of(const op *o) {
  static const char *const anchors[] = {"conv", "linear", "matmul", "attention", "lstm", "gru", "rnn", NULL};
  static const char *const wide[] = {"exp",    "exp2", "expm1", "pow",   "reciprocal",  "rsqrt",
                                     "square", "log",  "log2",  "log10", "log1p",       "sinh",
                                     "cosh",   "tan",  "acosh", "cast",  "logical_not", NULL};
  static const char *const follow[] = {"softmax",
                                       "log_softmax",
                                       "layer_norm",
                                       "rms_norm",
                                       "group_norm",
                                       "batch_norm",
                                       "local_response_norm",
                                       "max_pool",
                                       "max_pool_index",
                                       "avg_pool",
                                       "adaptive_avg_pool",
                                       "adaptive_max_pool_index",
                                       "resize",
                                       "mean",
                                       "amax",
                                       "amin",
                                       "contiguous",
                                       "identity",
                                       "concat",
                                       "pad",
                                       "tile",
                                       "flip",
                                       "roll",
                                       "tril",
                                       "triu",
                                       "index_select",
                                       "gather",
                                       "index",
                                       "slice_scatter",
                                       "embedding",
                                       "topk",
                                       "sort",
                                       "max_index",
                                       "min_index",
                                       "argmax",
                                       "argmin",
                                       NULL};
  if (listed(o->name, anchors)) return CLASS_ANCHOR;
  if (listed(o->name, follow) || (o->flags & OP_VIEW)) return CLASS_FOLLOW;
  if ((o->flags & OP_POINTWISE) && !listed(o->name, wide)) return CLASS_FOLLOW;
  return CLASS_KEEP;
}

typedef struct precision_state {
  graph *graph;
  pool *workers; /* for large constants; may be NULL */
  kiln_dtype half;
  const char *exceptions; /* "a,b*": operators or module paths that stay in f32 */
  uint32_t n_values;
  char *narrowed;             /* by value id: was f32, is `half` now */
  value **half_of, **wide_of; /* by value id: the cast to `half`, and back */
} precision_state;

static bool is_excepted(const precision_state *s, const node *n) {
  char pattern[128];
  if (n->path && str_ends(n->path, EXACT_PATH)) return true;
  for (const char *at = s->exceptions; at && *at;) {
    const size_t length = strcspn(at, ",");
    if (length && length < sizeof pattern) {
      memcpy(pattern, at, length);
      pattern[length] = 0;
      if (fnmatch(pattern, n->op->name, 0) == 0 || fnmatch(pattern, n->path, 0) == 0) return true;
    }
    at += length + (at[length] == ',');
  }
  return false;
}

typedef struct narrowing {
  const float *from;
  uint16_t *to;
  int64_t count, parts;
  void (*convert)(const float *in, uint16_t *out, size_t n);
} narrowing;

static void narrow_part(void *user, int64_t part, int worker) {
  const narrowing *w = user;
  int64_t begin = 0, end = 0;
  (void)worker;
  range_split(w->count, w->parts, 64, part, &begin, &end);
  if (end > begin) w->convert(w->from + begin, w->to + begin, (size_t)(end - begin));
}

static value *with_origin(const value *from, value *made) {
  if (made) origin_note_cast(from->constant, made->constant);
  return made;
}

/* Finite numbers beyond the type's range (masks) become its largest ones, not infinite. */
static value *narrow_constant(precision_state *s, value *v) {
  enum { PART = 1 << 16 };
  tensor_type type = v->type;
  size_t bytes = 0;
  type.dtype = s->half;
  if (!type_bytes(&type, &bytes)) return NULL;
  if (constant_is_missing(v->constant)) return with_origin(v, graph_constant(s->graph, &type, NULL));
  void *data = mem_alloc_aligned(bytes ? bytes : 1);
  if (!data) {
    s->graph->failed = true;
    s->graph->failure = KILN_NO_MEMORY("weights of another precision");
    return NULL;
  }
  narrowing w = {.from = v->constant->data, .to = data, .count = (int64_t)(bytes / sizeof(uint16_t))};
  w.convert = s->half == KILN_F16 ? floats_to_f16 : floats_to_bf16;
  w.parts = (w.count + PART - 1) / PART;
  pool_run(s->workers, w.parts, narrow_part, &w);
  return with_origin(v, graph_constant_take(s->graph, &type, data));
}

/* A cast of `v` that stands right behind it, so that all its readers can share it. */
static value *cast_behind(precision_state *s, value *v, kiln_dtype to) {
  block *home = &s->graph->body;
  node *behind = v->producer ? v->producer->next : home->first;
  builder b = builder_at_end(home);
  b.before = behind;
  if (v->producer) {
    b.path = v->producer->path;
    b.source = v->producer->source;
  }
  return build(&b, "cast", IN(v), ATTRS(A_DTYPE("dtype", to)));
}

static value *as_half(precision_state *s, value *v) {
  if (v->id >= s->n_values) return v;
  if (s->narrowed[v->id] || v->type.dtype != KILN_F32) return v;
  if (!s->half_of[v->id])
    s->half_of[v->id] = v->constant && !v->constant->packing ? narrow_constant(s, v) : cast_behind(s, v, s->half);
  return s->half_of[v->id] ? s->half_of[v->id] : v;
}

static value *as_wide(precision_state *s, value *v) {
  if (v->id >= s->n_values || !s->narrowed[v->id]) return v;
  if (!s->wide_of[v->id]) s->wide_of[v->id] = cast_behind(s, v, KILN_F32);
  return s->wide_of[v->id] ? s->wide_of[v->id] : v;
}

static bool reads_half(const precision_state *s, const node *n) {
  for (int32_t i = 0; i < n->n_inputs; i++) {
    const value *v = n->inputs[i].v;
    if (v && v->id < s->n_values && s->narrowed[v->id]) return true;
  }
  return false;
}

/* Gathers of 16-bit weights (embeddings) halve their traffic: their tables are narrowed although no anchor feeds them. */
static bool narrows(const precision_state *s, const node *n) {
  if (is_excepted(s, n) || n->n_blocks || n->epilogue) return false;
  const precision_class c = class_of(n->op);
  if (c == CLASS_ANCHOR) return n->inputs[0].v && n->inputs[0].v->type.dtype == KILN_F32 ? true : reads_half(s, n);
  if (strcmp(n->op->name, "embedding") == 0)
    return n->inputs[0].v && n->inputs[0].v->constant && n->inputs[0].v->type.dtype == KILN_F32;
  return c == CLASS_FOLLOW && reads_half(s, n);
}

static kiln_status convert_node(precision_state *s, node *n) {
  const bool half = narrows(s, n);
  for (int32_t i = 0; i < n->n_inputs; i++) {
    value *v = n->inputs[i].v;
    if (!v) continue;
    value *wanted = half ? as_half(s, v) : as_wide(s, v);
    if (wanted != v) node_set_input(n, i, wanted);
  }
  KILN_TRY(graph_check(s->graph));
  if (!half) return KILN_OK;
  KILN_TRY(node_infer(n));
  for (int32_t i = 0; i < n->n_outputs; i++) {
    const value *v = n->outputs[i];
    if (v->id < s->n_values && v->type.dtype == s->half) s->narrowed[v->id] = 1;
  }
  return KILN_OK;
}

static kiln_status convert(precision_state *s) {
  block *b = &s->graph->body;
  for (node *n = b->first, *next; n; n = next) {
    next = n->next; /* casts behind n are new and need nothing */
    KILN_TRY(convert_node(s, n));
  }
  value **results = ARENA_ARRAY(&s->graph->arena, value *, b->n_results + 1);
  if (!results) return KILN_NO_MEMORY("precision");
  for (int32_t i = 0; i < b->n_results; i++) results[i] = as_wide(s, b->results[i].v);
  KILN_TRY(graph_check(s->graph));
  block_set_results(b, b->n_results, results);
  return graph_check(s->graph);
}

kiln_status pass_precision(graph *g, const char *precision) { return pass_precision_on(g, precision, NULL); }

kiln_status pass_precision_on(graph *g, const char *precision, pool *workers) {
  if (!precision || str_eq(precision, "fp32")) return KILN_OK;
  const size_t length = strcspn(precision, ":");
  precision_state s = {.graph = g,
                       .workers = workers,
                       .n_values = g->next_id,
                       .exceptions = precision[length] ? precision + length + 1 : NULL};
  if (length == 4 && memcmp(precision, "tf32", 4) == 0) return graph_set_metadata(g, "kiln.precision", "tf32");
  if (length == 4 && memcmp(precision, "fp16", 4) == 0)
    s.half = KILN_F16;
  else if (length == 4 && memcmp(precision, "bf16", 4) == 0)
    s.half = KILN_BF16;
  else
    return KILN_FAIL(KILN_INVALID_ARGUMENT,
                     "precision \"%.40s\": expected fp32, tf32, fp16 or bf16, maybe with operators or modules that "
                     "stay in fp32 behind a "
                     "colon: \"fp16:softmax,encoder.norm*\"",
                     precision);
  const size_t count = (size_t)s.n_values + 1;
  s.narrowed = mem_calloc(count, 1);
  s.half_of = mem_calloc(count, sizeof *s.half_of);
  s.wide_of = mem_calloc(count, sizeof *s.wide_of);
  kiln_status status = s.narrowed && s.half_of && s.wide_of ? convert(&s) : KILN_NO_MEMORY("precision");
  mem_free(s.narrowed);
  mem_free(s.half_of);
  mem_free(s.wide_of);
  if (status == KILN_OK) status = graph_set_metadata(g, "kiln.precision", s.half == KILN_F16 ? "fp16" : "bf16");
  if (status == KILN_OK) status = pass_dead_code(g);
  if (status == KILN_OK) status = pass_constant_fold(g, (size_t)1 << 16);
  if (status == KILN_OK) status = pass_dead_code(g);
  return status;
}
