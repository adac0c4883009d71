/* PyTorch functions that count or list places (torch_counts.c). */
#ifndef KILN_IMPORT_TORCH_COUNTS_H
#define KILN_IMPORT_TORCH_COUNTS_H

#include "import/lower.h"

kiln_status lower_mode(lower_call *c);
kiln_status lower_bincount(lower_call *c);
kiln_status lower_nonzero_static(lower_call *c);
kiln_status lower_pdist(lower_call *c);
kiln_status lower_embedding_renorm(lower_call *c);
kiln_status lower_linspace_between(lower_call *c);

#endif
