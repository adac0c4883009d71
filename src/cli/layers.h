/* Engines that give every intermediate value, for `kiln diff --layers`. */
#ifndef KILN_CLI_LAYERS_H
#define KILN_CLI_LAYERS_H

#include <kiln/kiln.h>

/* Builds the model file with each value of its optimized portable graph as a further output, named after its operator
 * and module. Kernels that would be fused over such a value run apart, since it must be kept. */
kiln_status layers_build(const char *path, const kiln_build_options *options, kiln_engine **out_engine);

#endif
