/* kiln tune: an engine file with the tactics that are fastest on this machine. */
#include "cli.h"

static int tune(const char *path, const char *output, const kiln_build_options *options) {
  kiln_engine *engine = NULL;
  const double start = cli_now();
  if (kiln_engine_open(path, &engine) != KILN_OK) return cli_fail();
  kiln_status status = kiln_engine_tune(engine, options);
  const double tuned = cli_now();
  if (status == KILN_OK) status = kiln_engine_save(engine, output);
  const int result = status == KILN_OK ? CLI_OK : cli_fail();
  if (result == CLI_OK)
    printf("%s: tuned for %s in %.2f s, saved to %s in %.2f s\n", path, kiln_engine_target(engine), tuned - start,
           output, cli_now() - tuned);
  kiln_engine_destroy(engine);
  return result;
}

static int run(int argc, char **argv) {
  static const struct option choices[] = {{"output", required_argument, NULL, 'o'},
                                          {"tune", required_argument, NULL, 't'},
                                          {"cache", required_argument, NULL, 'c'},
                                          {"threads", required_argument, NULL, 'n'},
                                          {NULL, 0, NULL, 0}};
  kiln_build_options options = KILN_BUILD_OPTIONS_INIT;
  const char *output = NULL;
  int option;
  options.tune_seconds = 60;
  while ((option = getopt_long(argc, argv, "o:", choices, NULL)) != -1) {
    if (option == 'o')
      output = optarg;
    else if (option == 'c')
      options.tactic_cache = optarg;
    else if (option == 't' ? !cli_parse_seconds(optarg, "--tune", &options.tune_seconds)
                           : option != 'n' || !cli_parse_int(optarg, "--threads", 0, 1024, &options.threads))
      return option == 't' || option == 'n' ? CLI_USAGE : cli_usage(&cli_tune);
  }
  if (argc - optind != 1) {
    cli_error(CLI_USAGE, "expected one ENGINE file, got %d", argc - optind);
    return cli_usage(&cli_tune);
  }
  return tune(argv[optind], output ? output : argv[optind], &options);
}

const cli_command cli_tune = {"tune", "choose an engine's kernels anew, by timing them on this machine",
                              "Usage: kiln tune ENGINE [-o OUTPUT] [OPTIONS]\n\n"
                              "Times the candidates of each kernel of ENGINE on this machine and writes OUTPUT "
                              "(default: ENGINE itself) with the\n"
                              "fastest, for engines that were built elsewhere. An engine for a GPU needs one of that "
                              "architecture. What was measured\n"
                              "is in `kiln inspect --plan`.\n\nOptions:\n"
                              "  -o, --output OUTPUT  the file to write\n"
                              "  --tune SECONDS       to spend at most (default: 60)\n"
                              "  --cache FILE         remember what tuning found, and use it\n"
                              "  --threads N          that tuning assumes (default: one per core)\n",
                              run};
