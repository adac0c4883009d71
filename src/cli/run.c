/* kiln run: one run of an engine, with inputs and outputs in .npy files. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli.h"

static void print_summary(const char *name, const kiln_tensor *t) {
  double low = INFINITY, high = -INFINITY, sum = 0;
  const int64_t n = cli_tensor_numel(t);
  for (int64_t i = 0; i < n; i++) {
    const double v = cli_tensor_get(t, i);
    low = fmin(low, v);
    high = fmax(high, v);
    sum += v;
  }
  printf("%s: %s", name, kiln_dtype_name(kiln_tensor_get_dtype(t)));
  cli_print_shape(stdout, t->shape, t->ndim);
  if (n) printf("  min %.6g  max %.6g  mean %.6g", low, high, sum / (double)n);
  putchar('\n');
}

static bool write_output(const char *folder, const char *name, const kiln_tensor *t, bool is_complex) {
  char path[4096];
  char safe[256];
  size_t n = 0;
  for (; name[n] && n + 1 < sizeof safe; n++) safe[n] = name[n] == '/' ? '_' : name[n];
  safe[n] = '\0';
  if (snprintf(path, sizeof path, "%s/%s.npy", folder, safe) >= (int)sizeof path) {
    cli_error(CLI_FAILED, "the path of output '%s' is too long", name);
    return false;
  }
  if (!npy_write(path, t, is_complex)) return false;
  printf("  wrote %s\n", path);
  return true;
}

static int run_engine(const kiln_engine *engine, kiln_context *context, const cli_tensor *inputs, size_t n_in,
                      const char *folder) {
  const size_t n_out = kiln_engine_output_count(engine);
  kiln_tensor *in = calloc(n_in + 1, sizeof *in), *out = calloc(n_out + 1, sizeof *out);
  int result = in && out ? CLI_OK : cli_error(CLI_FAILED, "out of memory");
  for (size_t i = 0; i < n_in && result == CLI_OK; i++) in[i] = inputs[i].tensor;
  if (result == CLI_OK && kiln_context_run(context, in, n_in, out, n_out) != KILN_OK) result = cli_fail();
  if (result == CLI_OK && folder && mkdir(folder, 0777) != 0) {
    struct stat info;
    if (stat(folder, &info) != 0 || !S_ISDIR(info.st_mode))
      result = cli_error(CLI_FAILED, "%s: not a folder that can be made", folder);
  }
  for (size_t i = 0; i < n_out && result == CLI_OK; i++) {
    kiln_io_info info;
    if (kiln_engine_output(engine, i, &info) != KILN_OK)
      result = cli_fail();
    else {
      print_summary(info.name, &out[i]);
      if (folder && !write_output(folder, info.name, &out[i], kiln_engine_output_is_complex(engine, i) != 0))
        result = CLI_FAILED;
    }
  }
  free(in);
  free(out);
  return result;
}

static int run(int argc, char **argv) {
  static const struct option options[] = {{"input", required_argument, NULL, 'i'},
                                          {"output", required_argument, NULL, 'o'},
                                          {"threads", required_argument, NULL, 't'},
                                          {NULL, 0, NULL, 0}};
  char *args[CLI_MAX_IO];
  const char *folder = NULL;
  int n_args = 0, option;
  kiln_context_options context_options = {sizeof context_options, 0};
  while ((option = getopt_long(argc, argv, "i:o:t:", options, NULL)) != -1) {
    if (option == 'i' && n_args < CLI_MAX_IO)
      args[n_args++] = optarg;
    else if (option == 'o')
      folder = optarg;
    else if (option == 't') {
      if (!cli_parse_int(optarg, "--threads", 0, 1024, &context_options.threads)) return CLI_USAGE;
    } else
      return cli_usage(&cli_run);
  }
  if (argc - optind != 1) {
    cli_error(CLI_USAGE, "expected one ENGINE file, got %d", argc - optind);
    return cli_usage(&cli_run);
  }
  kiln_engine *engine = NULL;
  kiln_context *context = NULL;
  cli_tensor *inputs = calloc(CLI_MAX_IO, sizeof *inputs);
  size_t n_in = 0;
  int result = CLI_FAILED;
  if (!inputs)
    cli_error(CLI_FAILED, "out of memory");
  else if (cli_open(argv[optind], NULL, &engine) != KILN_OK)
    cli_fail();
  else if (!cli_inputs_create(engine, n_args, args, false, inputs, &n_in))
    result = CLI_FAILED;
  else if (kiln_context_create_with(engine, &context_options, &context) != KILN_OK)
    cli_fail();
  else
    result = run_engine(engine, context, inputs, n_in, folder);
  kiln_context_destroy(context);
  kiln_engine_destroy(engine);
  if (inputs) cli_inputs_free(inputs, n_in);
  free(inputs);
  return result;
}

const cli_command cli_run = {
    "run", "run an engine once, with inputs and outputs in .npy files",
    "Usage: kiln run ENGINE --input NAME=FILE.npy ... [--output DIR] [--threads N]\n\n"
    "Runs ENGINE once and prints a summary of each output. A model file is accepted too and is built first.\n"
    "NAME= may be left out: inputs then count by position. NAME=SHAPE makes a random input.\n\nOptions:\n"
    "  -i, --input NAME=FILE.npy  one input\n"
    "  -o, --output DIR           write each output to DIR/NAME.npy (DIR is made if it is missing)\n"
    "  -t, --threads N            that the run may use (default: one per core)\n",
    run};
