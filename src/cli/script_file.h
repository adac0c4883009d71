/* TorchScript files around engines: what torch.jit.load reads (after `import kiln`, or with libkiln_torch in C++), made without PyTorch. */
#ifndef KILN_CLI_SCRIPT_FILE_H
#define KILN_CLI_SCRIPT_FILE_H

#include "cli.h"

/* Writes a file with a module whose forward takes the engine's inputs, each by its name, and gives its results, nested as the model's.
 * `path` is either the old file or the complete new one. CLI_OK, or CLI_FAILED with a message. */
int script_file_write(const kiln_engine *engine, const char *path);

#endif
