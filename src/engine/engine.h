/* Engine: a portable graph, weights and one plan; built from a model file, or read from an engine file. Immutable. */
#ifndef KILN_ENGINE_ENGINE_H
#define KILN_ENGINE_ENGINE_H

#include "backends/backend.h"
#include "base/file.h"
#include "graph/graph.h"

/* Imports (told by content), optimizes and plans. */
kiln_status engine_build(const void *bytes, size_t size, const char *origin, const kiln_build_options *options, kiln_engine **out);
/* Just the portable graph of a model file; `optimize` runs the portable passes. The graph may borrow from `bytes`. */
kiln_status model_import(const void *bytes, size_t size, const char *origin, graph **out);

/* Makes a plan graph for `t` out of the portable graph: clone, rewrite, choose tactics, pack constants. */
typedef struct plan_options {
  double tune_seconds;
  const char *cache;
  int threads;
  kiln_progress_fn progress;
  void *progress_user;
} plan_options;
kiln_status plan_create(const graph *portable, const target *t, const plan_options *options, graph **out_plan, text *why);

struct kiln_engine {
  graph *portable; /* weights may be stored packed: see engine_file.c */
  graph *plan;
  target target;
  char *why;
  file_map file; /* of kiln_engine_open */
  void *owned;   /* memory that graphs borrow from */
  int references; /* atomic: handles and contexts */
};

#endif
