/* Engine: a portable graph, weights and one plan. However it came to be, an engine is the parsed form of the bytes of
 * an engine file: building makes those bytes, loading borrows them. Immutable and shared between threads. */
#ifndef KILN_ENGINE_ENGINE_H
#define KILN_ENGINE_ENGINE_H

#include <pthread.h>

#include "backends/backend.h"
#include "base/file.h"
#include "base/threads.h"
#include "graph/graph.h"
#include "graph/profiles.h"

/* The portable graph of a model file (told by content), optimized. The graph may borrow weights from `bytes`. */
kiln_status model_import(const void *bytes, size_t size, const char *origin, const kiln_build_options *options,
                         graph **out);

/* Makes the plan for `t` out of the portable graph: clone, rewrite, choose tactics, pack constants. Refused kernels and
 * reasons are appended to `why` if not NULL. */
typedef struct plan_options {
  double tune_seconds;
  const char *cache; /* path or NULL */
  int threads;
  kiln_progress_fn progress; /* may be NULL */
  void *progress_user;
  const graph *like;        /* NULL, or an earlier plan of the same model, whose tactics are taken where they fit */
  bool allow_host_fallback; /* devices: nodes without a kernel there get one of the CPU's */
} plan_options;
kiln_status plan_create(const graph *portable, const target *t, const plan_options *options, graph **out_plan,
                        text *why);

/* Replaces the constant operand that kernel `k` wants packed by its packed form, shared between readers in one plan.
 * Plans of plan_create have no data yet where the packing is made at load: plan_make_weights makes it, on `workers`
 * (may be NULL). */
kiln_status plan_pack_node(node *n, const kernel *k);
kiln_status plan_make_weights(graph *plan, pool *workers);

/* Compiles what a plan for a device runs at the opt shapes, for the engine file (plan->kernels): opening it needs no compiler. Without
 * a compiler the plan has none. `progress` may be NULL; an error of it ends the work. engine/kernels.c */
kiln_status plan_compile_kernels(graph *plan, const target *t, int threads,
                                 kiln_status (*progress)(void *user, double part), void *user);

/* The bytes of an engine file (64-byte aligned, release with mem_free_aligned). Numbers the constants of both
 * graphs, and of the portable one's source, which is written too if there is one. */
kiln_status engine_write(graph *portable, graph *plan, const target *t, const char *why, void **out_bytes,
                         size_t *out_size);
/* The same by several threads; NULL: by this one. */
kiln_status engine_write_on(graph *portable, graph *plan, const target *t, const char *why, pool *workers,
                            void **out_bytes, size_t *out_size);

/* Plans and writes an engine for an optimized graph, whose constants it numbers, and opens it. `o` may be NULL. `like`: an
 * earlier plan of the same model whose tactics are taken, or NULL. */
kiln_status engine_from_graph(graph *portable, const target *t, const kiln_build_options *o, kiln_engine **out);
kiln_status engine_from_graph_like(graph *portable, const target *t, const kiln_build_options *o, const graph *like,
                                   kiln_engine **out);

typedef struct weight_entry { /* as stored */
  uint64_t offset, size;
  uint32_t crc;
  uint32_t flags;   /* see engine_file.c */
  char packing[40]; /* "" : plain */
} weight_entry;

struct kiln_engine {
  const char *bytes; /* the file's; `owned`, `file` or the caller's */
  size_t size;
  void *owned;
  file_map file;
  const char *portable_text, *plan_text, *why;
  size_t portable_size, plan_size;
  const weight_entry *weights;
  size_t n_weights;
  const void *kernels; /* compiled code for devices, or NULL */
  size_t kernels_size;
  graph *plan;
  profile_list profiles; /* of the plan, in its arena */
  graph *replanned;      /* the portable graph that a plan made at load borrows constants from, or NULL */
  target target;
  const char *source_text;     /* the graph as it was imported */
  size_t source_size;          /* 0: it has none, and cannot take other weights */
  bool stripped;               /* of weights: it cannot run before it gets some */
  struct kiln_engine *newer;   /* of an engine that got other weights: what runs in its place; has no newer one */
  uint64_t generation;         /* atomic: how often it got other weights */
  int users;                   /* of the weights that are its own: contexts and calls in progress */
  pthread_mutex_t change_lock; /* held by whoever makes a newer version, so that none is made of one that is outdated */
  pthread_mutex_t refit_lock;  /* of `newer`, `users` and the listing */
  struct weight_row *listing;  /* of the weights by name; NULL: not made yet */
  size_t n_listing;
  uint64_t listed_generation;   /* atomic: 1 + that for which the listing tells what is required */
  graph *listed;                /* what the listing's names and types live in */
  void **unpacked;              /* plain forms that a new plan needed, by weight */
  int references;               /* atomic: handles and contexts */
  pthread_mutex_t weights_lock; /* of the next two */
  bool weights_made;
  size_t weights_made_bytes;
};

/* Takes over `owned` (mem_alloc_aligned) or `file` on success; `bytes` otherwise stay the caller's. */
kiln_status engine_open_bytes(const void *bytes, size_t size, void *owned, const file_map *file, kiln_engine **out);
/* Parses the portable graph, unpacking weights where needed. The engine keeps what that needs. */
kiln_status engine_portable(kiln_engine *e, graph **out);
/* The same with weights that have no data. */
kiln_status engine_portable_empty(const kiln_engine *e, graph **out);
kiln_engine *engine_retain(const kiln_engine *e);
size_t engine_weight_bytes(const kiln_engine *e); /* in the file, and made at load so far */
/* Makes the weights that files do not keep. [any thread] The first call does the work; contexts call it. */
kiln_status engine_make_weights(kiln_engine *e, pool *workers);

/* ---- other weights: engine/refit.c ---- */

/* What runs in the place of an engine that got other weights, or itself; and how often that has changed (may be NULL).
 * Give it back with engine_leave. [any thread] */
kiln_engine *engine_current(const kiln_engine *handle, uint64_t *out_generation);
void engine_leave(const kiln_engine *handle, kiln_engine *version);
/* `version` runs in the engine's place from now on. What ran before is handed back, to be destroyed, where it is a version
 * too. */
kiln_engine *engine_replace(kiln_engine *handle, kiln_engine *version);
/* Is GPU `ordinal` of this machine of another architecture than the engine's plan? Then `*out_native` is its target. */
bool engine_is_foreign(const kiln_engine *engine, int ordinal, target *out_native);
/* Plans the engine for that target, with the cost model's tactics, unless that has been done. [any thread] */
kiln_status engine_adapt(const kiln_engine *engine, const target *native);
/* One more engine_leave will come. */
kiln_engine *engine_hold(const kiln_engine *handle, kiln_engine *version);
/* Fails with what to do if the engine was stripped of its weights. */
kiln_status engine_check_weights(const kiln_engine *version);
/* The graph as it was imported. Constants that are not in the file in their original form have no data. */
kiln_status engine_source(kiln_engine *e, graph **out);
/* Tells constants of the portable graph, as parsed, where they came from (passes/origin.h): metadata of the source has it. */
#define ENGINE_ORIGINS "kiln.origins"
kiln_status engine_read_origins(const graph *source, graph *portable);
bool engine_has_weight(const kiln_engine *e, int64_t index); /* of the file, and not stripped */
void engine_drop_weights(kiln_engine *e);                    /* for ever; the plan still tells of inputs and outputs */
void engine_free_listing(kiln_engine *e);
/* The bytes of `e` without what a refit gives. */
kiln_status engine_write_stripped(const kiln_engine *e, void **out_bytes, size_t *out_size);

#endif
