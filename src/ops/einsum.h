/* torch.einsum as permutes, reshapes, products and sums. */
#ifndef KILN_OPS_EINSUM_H
#define KILN_OPS_EINSUM_H

#include "import/lower.h"

kiln_status lower_einsum(lower_call *c);

#endif
