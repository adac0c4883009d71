/* The page of `kiln inspect --html`. */
#ifndef KILN_CLI_HTML_H
#define KILN_CLI_HTML_H

#include "cli.h"

/* One self-contained file: inputs and outputs, each step with its measured time, the reports. False with a message. */
bool html_write(const char *path, const char *title, const kiln_engine *engine);

#endif
