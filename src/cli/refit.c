/* kiln refit: an engine with the weights of a .safetensors file. */
#include <string.h>

#include "cli.h"

static void print_weights(const kiln_engine *engine) {
  const size_t n = kiln_engine_weight_count(engine);
  for (size_t i = 0; i < n; i++) {
    kiln_weight_info w;
    if (kiln_engine_weight(engine, i, &w) != KILN_OK) continue;
    printf("%s %s ", w.name, kiln_dtype_name(w.dtype));
    cli_print_shape(stdout, w.shape, w.rank);
    printf("%s%s%s\n", w.required ? " required" : "", w.fixed ? " fixed" : "", w.used ? "" : " unused");
  }
}

static int refit(const char *path, const char *weights, const char *output, bool strip) {
  kiln_engine *engine = NULL, *stripped = NULL;
  const double start = cli_now();
  if (kiln_engine_open(path, &engine) != KILN_OK) return cli_fail();
  kiln_status status = weights ? kiln_engine_refit_file(engine, weights) : KILN_OK;
  if (status == KILN_OK && strip) status = kiln_engine_strip(engine, &stripped);
  if (status == KILN_OK && output) status = kiln_engine_save(strip ? stripped : engine, output);
  const int result = status == KILN_OK ? CLI_OK : cli_fail();
  if (result == CLI_OK && output)
    printf("%s: %s, saved to %s in %.2f s\n", path, strip ? "without weights" : "other weights", output,
           cli_now() - start);
  if (result == CLI_OK && !output) print_weights(engine);
  kiln_engine_destroy(stripped);
  kiln_engine_destroy(engine);
  return result;
}

static int run(int argc, char **argv) {
  static const struct option options[] = {{"output", required_argument, NULL, 'o'},
                                          {"list", no_argument, NULL, 'l'},
                                          {"strip-weights", no_argument, NULL, 's'},
                                          {NULL, 0, NULL, 0}};
  const char *output = NULL;
  bool list = false, strip = false;
  int option;
  while ((option = getopt_long(argc, argv, "o:l", options, NULL)) != -1) {
    if (option == 'o')
      output = optarg;
    else if (option == 'l')
      list = true;
    else if (option == 's')
      strip = true;
    else
      return cli_usage(&cli_refit);
  }
  const int given = argc - optind, expected = list || strip ? 1 : 2;
  if (given != expected || (list && (strip || output))) {
    cli_error(CLI_USAGE, expected == 2 ? "expected ENGINE WEIGHTS.safetensors" : "expected one ENGINE");
    return cli_usage(&cli_refit);
  }
  return refit(argv[optind], expected == 2 ? argv[optind + 1] : NULL,
               list     ? NULL
               : output ? output
                        : argv[optind],
               strip);
}

const cli_command cli_refit = {
    "refit", "give an engine file other weights, or take them away",
    "Usage: kiln refit ENGINE WEIGHTS.safetensors [-o OUTPUT]\n"
    "       kiln refit --strip-weights ENGINE [-o OUTPUT]\n"
    "       kiln refit --list ENGINE\n\n"
    "Gives ENGINE the weights in WEIGHTS, whose names are those of the model's state_dict(), and writes OUTPUT\n"
    "(default: ENGINE itself). Weights that are not in the file stay as they are. ENGINE may be one without weights, "
    "of\n"
    "--strip-weights here or at `kiln build`; it then needs all of them.\n\nOptions:\n"
    "  -o, --output OUTPUT  the file to write\n"
    "  --strip-weights      take the weights out: a small file that runs after a refit\n"
    "  -l, --list           the weights with their types and shapes, and which ones a file must have (required)\n",
    run};
