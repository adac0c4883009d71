/* Which optimization profile a call's sizes are for. */
#ifndef KILN_RUNTIME_CHOOSE_PROFILE_H
#define KILN_RUNTIME_CHOOSE_PROFILE_H

#include "runtime/context.h"

/* Checks sizes that were declared to be the same (the build's metadata "kiln.shared_dims"). Then: the profile that the caller chose, or of those that contain the sizes the one whose opt sizes are nearest. Fails with what is outside, where,
 * and of which profiles. Ranks must have been checked. */
kiln_status choose_profile(const kiln_context *c, const kiln_tensor *inputs, int32_t *out);

/* Whether the model's code takes the branch that it was captured with (graph/size_guards.h) at these sizes. */
kiln_status check_size_guards(const kiln_context *c, const kiln_tensor *inputs);

#endif
