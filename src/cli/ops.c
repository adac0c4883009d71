/* kiln ops: operator coverage, from the operator table itself. */
#include "cli.h"

static int run(int argc, char **argv) {
  static const struct option options[] = {{"json", no_argument, NULL, 'j'}, {NULL, 0, NULL, 0}};
  int json = 0, option;
  while ((option = getopt_long(argc, argv, "j", options, NULL)) != -1) {
    if (option != 'j') return cli_usage(&cli_ops);
    json = 1;
  }
  if (argc != optind) {
    cli_error(CLI_USAGE, "unexpected argument '%s'", argv[optind]);
    return cli_usage(&cli_ops);
  }
  char *text = NULL;
  if (kiln_ops_report(json, &text) != KILN_OK) return cli_fail();
  fputs(text, stdout);
  kiln_free(text);
  return CLI_OK;
}

const cli_command cli_ops = {"ops", "list the operators, the names they answer to, and their kernels",
                             "Usage: kiln ops [--json]\n\n"
                             "Prints operator coverage, generated from the operator table.\n\nOptions:\n"
                             "  -j, --json   as JSON\n",
                             run};
