/* Rewriting for GPUs: the CPU's layouts and fusion serve both (channels-last convolutions, epilogues, chains); what a kernel takes is asked
 * of this backend's rows. */
#include "backends/cpu/rewrite.h"
#include "backends/cuda/internal.h"

kiln_status cuda_rewrite(const target *t, graph *g) { return cpu_rewrite(t, g); }
