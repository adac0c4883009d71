/* Contexts and engines that were refitted, see engine/refit.c. */
#ifndef KILN_RUNTIME_ADOPT_H
#define KILN_RUNTIME_ADOPT_H

#include "runtime/context.h"

/* Has the engine got other weights since the context's last run? One load. */
bool context_is_outdated(const kiln_context *c);
/* Takes them. After a failure the context is as it was, but for bound shapes. */
kiln_status context_adopt(kiln_context *c);

#endif
