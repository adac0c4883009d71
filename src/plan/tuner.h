/* Tuner: times the tactics of nodes on this machine and remembers the winners in a text file. */
#ifndef KILN_PLAN_TUNER_H
#define KILN_PLAN_TUNER_H

#include "backends/backend.h"
#include "engine/engine.h"

typedef struct tuner tuner;

kiln_status tuner_create(const target *t, const plan_options *options,
                         tuner **out_tuner); /* reads the cache file if there is one */
/* The best of `tactics` for `n` at the symbols' opt values: from the cache, or timed while the budget lasts, else
 * tactics[0]. The result is never slower in the timing than tactics[0]. */
const kernel *tuner_choose(tuner *t, node *n, const kernel *const *tactics, int count);
/* Devices: compiles the kernels of all tactics of these nodes together, as far as the budget allows. Failures show when a
 * tactic is timed. Called `parts` times, for the sizes of one optimization profile after another. */
void tuner_precompile(tuner *t, const block *b, int part, int parts);
/* Devices: should the heuristic's plan be taken instead of the tuned one, which turned out slower as a whole? Says so in `why`
 * (may be NULL). */
bool tuner_rejects(tuner *t, graph *tuned, graph *plain, text *why);
bool tuner_wants_comparison(const tuner *t);
/* Writes the cache file if anything was added. Destroys the tuner in any case. */
kiln_status tuner_finish(tuner *t);

#endif
