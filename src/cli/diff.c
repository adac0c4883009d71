/* kiln diff: the error of an engine against the reference backend, on random or given inputs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "build_options.h"
#include "cli.h"
#include "layers.h"

typedef struct outputs { /* one run's results */
  kiln_engine *engine;
  kiln_context *context;
  kiln_tensor *tensors;
  size_t count;
} outputs;

static void outputs_free(outputs *o) {
  kiln_context_destroy(o->context);
  kiln_engine_destroy(o->engine);
  free(o->tensors);
}

static bool outputs_run(outputs *o, const cli_tensor *inputs, size_t n_in) {
  kiln_tensor *in = calloc(n_in + 1, sizeof *in);
  o->count = kiln_engine_output_count(o->engine);
  o->tensors = calloc(o->count + 1, sizeof *o->tensors);
  bool ok = in && o->tensors;
  if (!ok) cli_error(CLI_FAILED, "out of memory");
  for (size_t i = 0; ok && i < n_in; i++) in[i] = inputs[i].tensor;
  if (ok && (kiln_context_create(o->engine, &o->context) != KILN_OK ||
             kiln_context_run(o->context, in, n_in, o->tensors, o->count) != KILN_OK)) {
    cli_fail();
    ok = false;
  }
  free(in);
  return ok;
}

/* max |a - b| / max |b|, as the tests measure it; NaN where exactly one of the two is NaN or they are not equal
 * infinities. */
static bool compare(const char *name, const kiln_tensor *a, const kiln_tensor *b, double tolerance) {
  bool same = a->ndim == b->ndim && kiln_tensor_get_dtype(a) == kiln_tensor_get_dtype(b);
  for (int i = 0; same && i < a->ndim; i++) same = a->shape[i] == b->shape[i];
  if (!same) {
    printf("%-24s shapes or dtypes differ\n", name);
    return false;
  }
  const int64_t n = cli_tensor_numel(a);
  double worst = 0, scale = 0, sum = 0, squares = 0;
  int64_t where = 0, odd = 0;
  for (int64_t i = 0; i < n; i++) {
    const double x = cli_tensor_get(a, i), y = cli_tensor_get(b, i), e = fabs(x - y);
    if (x == y || (isnan(x) && isnan(y))) {
      if (isfinite(y)) scale = fmax(scale, fabs(y));
      if (isfinite(y)) squares += y * y;
      continue;
    }
    if (!isfinite(e)) {
      odd++;
      continue;
    }
    scale = fmax(scale, fabs(y));
    sum += e * e;
    squares += y * y;
    if (e > worst) {
      worst = e;
      where = i;
    }
  }
  const double relative = scale > 0 ? worst / scale : worst;
  const bool ok = relative <= tolerance && odd == 0;
  printf("%-24s ", name);
  cli_print_shape(stdout, b->shape, b->ndim);
  printf("  max error %.3g (relative %.3g, at %lld)  rms %.3g  relative L2 %.3g", worst, relative, (long long)where,
         n ? sqrt(sum / (double)n) : 0.0, squares > 0 ? sqrt(sum / squares) : sqrt(sum));
  if (odd) printf("  %lld not finite in one of the two", (long long)odd);
  printf("  %s\n", ok ? "ok" : "TOO LARGE");
  return ok;
}

static int diff_outputs(const outputs *mine, const outputs *truth, double tolerance) {
  if (mine->count != truth->count) {
    return cli_error(CLI_FAILED, "the engine has %zu outputs, the model %zu: they are not the same model", mine->count,
                     truth->count);
  }
  int result = CLI_OK;
  for (size_t i = 0; i < truth->count; i++) {
    kiln_io_info info;
    if (kiln_engine_output(truth->engine, i, &info) != KILN_OK) return cli_fail();
    if (!compare(info.name, &mine->tensors[i], &truth->tensors[i], tolerance)) result = CLI_FAILED;
  }
  return result;
}

static kiln_status build(const char *model, const kiln_build_options *options, bool layers, kiln_engine **out) {
  return layers ? layers_build(model, options, out) : kiln_engine_build(model, options, out);
}

typedef struct diff_options {
  const char *model, *engine; /* engine NULL: built too */
  int n_args;
  char **args;
  double tolerance;
  bool layers;
  const char *truth; /* target */
} diff_options;

static int diff(const diff_options *o, const build_options *b) {
  outputs mine = {0}, truth = {0};
  cli_tensor *inputs = calloc(CLI_MAX_IO, sizeof *inputs);
  size_t n_in = 0;
  int result = CLI_FAILED;
  kiln_build_options reference = b->options;
  reference.target = o->truth;
  reference.precision = NULL;
  if (!inputs)
    cli_error(CLI_FAILED, "out of memory");
  else if (build(o->model, &reference, o->layers, &truth.engine) != KILN_OK)
    cli_fail();
  else if ((o->engine ? kiln_engine_open(o->engine, &mine.engine)
                      : build(o->model, &b->options, o->layers, &mine.engine)) != KILN_OK)
    cli_fail();
  else {
    cli_progress_end();
    if (cli_inputs_create(truth.engine, o->n_args, o->args, true, inputs, &n_in) && outputs_run(&truth, inputs, n_in) &&
        outputs_run(&mine, inputs, n_in)) {
      printf("%s against %s in fp32, tolerance %.3g of each output's largest magnitude\n",
             kiln_engine_target(mine.engine), kiln_engine_target(truth.engine), o->tolerance);
      result = diff_outputs(&mine, &truth, o->tolerance);
    }
  }
  outputs_free(&mine);
  outputs_free(&truth);
  if (inputs) cli_inputs_free(inputs, n_in);
  free(inputs);
  return result;
}

static int run(int argc, char **argv) {
  enum { OPT_TOLERANCE = OPT_OWN, OPT_DATA, OPT_LAYERS, OPT_AGAINST };
  static const struct option options[] = {BUILD_OPTIONS,
                                          {"tolerance", required_argument, NULL, OPT_TOLERANCE},
                                          {"data", required_argument, NULL, OPT_DATA},
                                          {"layers", no_argument, NULL, OPT_LAYERS},
                                          {"against", required_argument, NULL, OPT_AGAINST},
                                          {NULL, 0, NULL, 0}};
  build_options b;
  build_options_init(&b);
  char *args[CLI_MAX_IO];
  diff_options o = {.args = args, .tolerance = 1e-4, .truth = "reference"};
  int option, result = CLI_USAGE;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    const int used = build_options_parse(&b, option, optarg);
    if (option == OPT_TOLERANCE) {
      if (!cli_parse_seconds(optarg, "--tolerance", &o.tolerance)) goto done;
    } else if (option == OPT_DATA && o.n_args < CLI_MAX_IO) {
      args[o.n_args++] = optarg;
    } else if (option == OPT_AGAINST) {
      o.truth = optarg;
    } else if (option == OPT_LAYERS) {
      o.layers = true;
    } else if (used <= 0) {
      if (used == 0) cli_usage(&cli_diff);
      goto done;
    }
  }
  if (argc - optind < 1 || argc - optind > 2) {
    cli_error(CLI_USAGE, "expected MODEL and maybe ENGINE, got %d files", argc - optind);
    cli_usage(&cli_diff);
    goto done;
  }
  o.model = argv[optind];
  o.engine = argc - optind == 2 ? argv[optind + 1] : NULL;
  if (o.engine && o.layers) {
    cli_error(CLI_USAGE, "--layers builds the model itself: an engine does not keep its intermediate values");
    goto done;
  }
  if (build_options_finish(&b)) result = diff(&o, &b);
done:
  build_options_free(&b);
  return result;
}

const cli_command cli_diff = {
    "diff", "compare an engine's results with the reference backend's",
    "Usage: kiln diff MODEL [ENGINE] [--layers] [--against TARGET] [--data NAME=FILE.npy ...] [--tolerance T]\n"
    "                 [BUILD OPTIONS]\n\n"
    "Builds MODEL in fp32 for the reference backend (plain loops in double precision), and for the target and\n"
    "precision, or opens ENGINE, runs both on the same inputs and prints the error of each output. Exit status 1\n"
    "if one is above the tolerance.\n\nOptions:\n"
    "  --against TARGET       compare with this target in fp32, such as cpu, which is faster (default: reference)\n"
    "  --layers               compare every intermediate value (fused kernels then run apart)\n"
    "  --data NAME=FILE.npy   an input's data, or NAME=SHAPE for random data of that shape (default: random)\n"
    "  --tolerance T          allowed error, relative to each output's largest magnitude (default: 1e-4)\n"
    "  and those of 'kiln build', such as --target cpu:avx2\n",
    run};
