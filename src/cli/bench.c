/* kiln bench: how fast an engine is here. Runs it again and again on one thread of control and reports the
 * distribution. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench_device.h"
#include "cli.h"

enum { MAX_RUNS = 1 << 20 };

typedef struct bench_result {
  size_t runs, warm;                         /* measured, and before */
  double min, median, p90, p99, mean, total; /* seconds */
  double load, first;
  double host; /* GPUs: median seconds until a run is enqueued */
  kiln_memory_info memory;
  double peak; /* bytes, of the process */
} bench_result;

static int compare_doubles(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double quantile(const double *sorted, size_t n, double q) {
  const size_t i = (size_t)(q * (double)n);
  return sorted[i < n ? i : n - 1];
}

static void summarize(kiln_context *context, double *times, size_t n, bench_result *r) {
  r->runs = n;
  for (size_t i = 0; i < n; i++) r->total += times[i];
  qsort(times, n, sizeof *times, compare_doubles);
  r->min = times[0];
  r->median = quantile(times, n, 0.5);
  r->p90 = quantile(times, n, 0.9);
  r->p99 = quantile(times, n, 0.99);
  r->mean = r->total / (double)n;
  kiln_context_memory(context, &r->memory);
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) == 0) r->peak = 1024.0 * (double)usage.ru_maxrss;
}

static bool measure_on_host(kiln_context *context, const kiln_tensor *in, size_t n_in, kiln_tensor *out, size_t n_out,
                            double seconds, double *times, bench_result *r) {
  const double start = cli_now();
  /* A fifth of the time warms up caches and clocks. */
  double begin = start;
  size_t n = 0;
  const double warm_end = start + seconds * 0.2, end = start + seconds;
  for (bool warm = true; n < MAX_RUNS;) {
    memset(out, 0, n_out * sizeof *out);
    if (kiln_context_run(context, in, n_in, out, n_out) != KILN_OK) return cli_fail(), false;
    const double now = cli_now();
    if (begin == start) r->first = now - begin;
    if (warm)
      r->warm++;
    else
      times[n++] = now - begin;
    begin = now;
    if (warm && now >= warm_end)
      warm = false;
    else if (!warm && now >= end)
      break;
  }
  summarize(context, times, n, r);
  return true;
}

/* On a GPU, whose clock tells. */
static bool measure_on_device(kiln_context *context, const kiln_tensor *in, size_t n_in, kiln_tensor *out, size_t n_out,
                              double seconds, double *times, bench_result *r) {
  double host[BENCH_BATCH] = {0}, warm_times[BENCH_BATCH];
  const double start = cli_now();
  size_t n = 0;
  if (!bench_device_runs(context, in, n_in, out, n_out, 1, warm_times, host)) return false;
  r->first = cli_now() - start;
  r->warm = 1;
  const double begin = cli_now(), warm_end = begin + seconds * 0.2, end = begin + seconds;
  while (n + BENCH_BATCH <= MAX_RUNS && (n == 0 || cli_now() < end)) {
    const bool warm = n == 0 && cli_now() < warm_end;
    if (!bench_device_runs(context, in, n_in, out, n_out, BENCH_BATCH, warm ? warm_times : times + n, host))
      return false;
    if (warm)
      r->warm += BENCH_BATCH;
    else
      n += BENCH_BATCH;
  }
  qsort(host, BENCH_BATCH, sizeof *host, compare_doubles);
  r->host = host[BENCH_BATCH / 2];
  summarize(context, times, n, r);
  return true;
}

static int slowest_first(const void *a, const void *b) {
  const double x = ((const kiln_step_info *)a)->seconds, y = ((const kiln_step_info *)b)->seconds;
  return (x < y) - (x > y);
}

/* In their order, or the slowest first. */
static void print_profile(const kiln_context *context, size_t runs, bool sorted) {
  double total = 0;
  size_t n = kiln_context_step_count(context), count = 0;
  kiln_step_info *steps = calloc(n + 1, sizeof *steps);
  for (size_t i = 0; steps && i < n; i++) {
    if (kiln_context_step(context, i, &steps[count]) == KILN_OK) total += steps[count++].seconds;
  }
  if (sorted && steps) qsort(steps, count, sizeof *steps, slowest_first);
  printf("\n%10s %6s %9s %8s  %-24s %s\n", "us", "%", "GFLOP/s", "GB/s", "tactic", "name");
  for (size_t i = 0; i < count; i++) {
    const kiln_step_info *s = &steps[i];
    const double one = s->seconds / (double)runs;
    printf("%10.2f %6.1f %9.1f %8.1f  %-24s %s\n", 1e6 * one, total > 0 ? 100 * s->seconds / total : 0,
           one > 0 ? 1e-9 * s->flops / one : 0, one > 0 ? 1e-9 * s->bytes / one : 0, s->tactic, s->name);
  }
  free(steps);
}

static void print_result(const char *path, const kiln_engine *engine, const bench_result *r) {
  printf("%s (%s)\n", path, kiln_engine_target(engine));
  printf("  median      %.4f ms\n  p99         %.4f ms\n  min         %.4f ms\n", 1e3 * r->median, 1e3 * r->p99,
         1e3 * r->min);
  if (r->host > 0) printf("  host        %.2f us until a run is enqueued; times are the GPU's\n", 1e6 * r->host);
  printf("  throughput  %.1f runs/s (%zu runs)\n  load        %.2f ms\n  first run   %.2f ms\n  memory      weights ",
         (double)r->runs / r->total, r->runs, 1e3 * r->load, 1e3 * r->first);
  cli_print_bytes(stdout, (double)r->memory.weights);
  printf(", arena ");
  cli_print_bytes(stdout, (double)r->memory.arena);
  printf(", state ");
  cli_print_bytes(stdout, (double)r->memory.state);
  printf(", process peak ");
  cli_print_bytes(stdout, r->peak);
  putchar('\n');
}

static void print_json_string(FILE *file, const char *s) {
  fputc('"', file);
  for (; *s; s++) {
    if (*s == '"' || *s == '\\')
      fprintf(file, "\\%c", *s);
    else if ((unsigned char)*s < 32)
      fprintf(file, "\\u%04x", (unsigned)*s);
    else
      fputc(*s, file);
  }
  fputc('"', file);
}

static bool write_json(const char *path, const char *name, const kiln_engine *engine, int threads,
                       const bench_result *r) {
  FILE *file = strcmp(path, "-") == 0 ? stdout : fopen(path, "w");
  if (!file) {
    cli_error(CLI_FAILED, "%s: %s", path, strerror(errno));
    return false;
  }
  fprintf(file, "{\"engine\": ");
  print_json_string(file, name);
  fprintf(file, ", \"target\": ");
  print_json_string(file, kiln_engine_target(engine));
  fprintf(
      file,
      ", \"threads\": %d, \"runs\": %zu, \"median_s\": %.9g, \"p90_s\": %.9g, \"p99_s\": %.9g, \"min_s\": %.9g, "
      "\"mean_s\": %.9g, "
      "\"runs_per_s\": %.9g, \"load_s\": %.9g, \"first_run_s\": %.9g, \"weights_bytes\": %zu, \"arena_bytes\": %zu, "
      "\"state_bytes\": %zu, \"peak_bytes\": %.0f, \"host_s\": %.9g}\n",
      threads, r->runs, r->median, r->p90, r->p99, r->min, r->mean, (double)r->runs / r->total, r->load, r->first,
      r->memory.weights, r->memory.arena, r->memory.state, r->peak, r->host);
  if ((file == stdout ? fflush(file) : fclose(file)) == 0) return true;
  cli_error(CLI_FAILED, "%s: %s", path, strerror(errno));
  return false;
}

typedef struct bench_options {
  double seconds;
  int threads, n_args;
  const char *json;
  bool profile, layers;
  int device;
  char *args[CLI_MAX_IO];
} bench_options;

static int bench_engine(const char *path, const kiln_engine *engine, const bench_options *o, double load) {
  const size_t n_out = kiln_engine_output_count(engine);
  cli_tensor *inputs = calloc(CLI_MAX_IO, sizeof *inputs);
  kiln_tensor *in = calloc(CLI_MAX_IO, sizeof *in), *out = calloc(n_out + 1, sizeof *out);
  double *times = malloc(MAX_RUNS * sizeof *times);
  kiln_context *context = NULL;
  size_t n_in = 0;
  bench_result r = {.load = load};
  const kiln_context_options options = {sizeof options, o->threads};
  int result = CLI_FAILED;
  if (!inputs || !in || !out || !times) {
    cli_error(CLI_FAILED, "out of memory");
  } else if (!cli_inputs_create(engine, o->n_args, o->args, true, inputs, &n_in)) {
    result = CLI_FAILED;
  } else if (kiln_context_create_on(engine, o->device, &options, &context) != KILN_OK) {
    cli_fail();
  } else {
    const bool on_device = bench_on_device(context);
    bool (*const measure)(kiln_context *, const kiln_tensor *, size_t, kiln_tensor *, size_t, double, double *,
                          bench_result *) = on_device ? measure_on_device : measure_on_host;
    for (size_t i = 0; i < n_in && !on_device; i++) in[i] = inputs[i].tensor;
    if ((!on_device || bench_device_inputs(context, inputs, n_in, in)) &&
        measure(context, in, n_in, out, n_out, o->seconds, times, &r)) {
      const bool json_only = o->json && strcmp(o->json, "-") == 0;
      result = CLI_OK;
      if (!json_only) print_result(path, engine, &r);
      if (o->json && !write_json(o->json, path, engine, o->threads, &r)) result = CLI_FAILED;
    }
    if (result == CLI_OK && o->profile) {
      bench_result unused = {0};
      kiln_context_profile(context, 1);
      if (measure(context, in, n_in, out, n_out, o->seconds, times, &unused))
        print_profile(context, unused.runs + unused.warm, o->layers);
    }
    if (on_device) bench_device_free(context, inputs, n_in, in);
  }
  kiln_context_destroy(context);
  if (inputs) cli_inputs_free(inputs, n_in);
  free(inputs);
  free(in);
  free(out);
  free(times);
  return result;
}

static int run(int argc, char **argv) {
  static const struct option options[] = {
      {"input", required_argument, NULL, 'i'},   {"seconds", required_argument, NULL, 's'},
      {"threads", required_argument, NULL, 't'}, {"json", required_argument, NULL, 'j'},
      {"profile", no_argument, NULL, 'p'},       {"layers", no_argument, NULL, 'l'},
      {"device", required_argument, NULL, 'd'},  {NULL, 0, NULL, 0}};
  bench_options o = {.seconds = 2};
  int option;
  while ((option = getopt_long(argc, argv, "i:s:t:j:pld:", options, NULL)) != -1) {
    if (option == 'i' && o.n_args < CLI_MAX_IO)
      o.args[o.n_args++] = optarg;
    else if (option == 'j')
      o.json = optarg;
    else if (option == 'p')
      o.profile = true;
    else if (option == 'l')
      o.profile = o.layers = true;
    else if (option == 'd') {
      if (!cli_parse_int(optarg, "--device", 0, 1023, &o.device)) return CLI_USAGE;
    } else if (option == 's') {
      if (!cli_parse_seconds(optarg, "--seconds", &o.seconds)) return CLI_USAGE;
    } else if (option == 't') {
      if (!cli_parse_int(optarg, "--threads", 0, 1024, &o.threads)) return CLI_USAGE;
    } else
      return cli_usage(&cli_bench);
  }
  if (argc - optind != 1) {
    cli_error(CLI_USAGE, "expected one ENGINE file, got %d", argc - optind);
    return cli_usage(&cli_bench);
  }
  const kiln_build_options build = {.struct_size = sizeof build, .progress = cli_progress, .threads = o.threads};
  kiln_engine *engine = NULL;
  const double start = cli_now();
  if (cli_open(argv[optind], &build, &engine) != KILN_OK) return cli_fail();
  const int result = bench_engine(argv[optind], engine, &o, cli_now() - start);
  kiln_engine_destroy(engine);
  return result;
}

const cli_command cli_bench = {
    "bench", "measure an engine: median, p99, throughput, memory",
    "Usage: kiln bench ENGINE [--seconds S] [--threads N] [--json FILE] [--input NAME=SHAPE ...] [--profile|--layers]\n"
    "                  [--device N]\n\n"
    "Runs ENGINE again and again on random inputs and prints the distribution of times. A model file is accepted too "
    "and is\n"
    "built first.\n\nOptions:\n"
    "  -s, --seconds S           how long to measure (default: 2)\n"
    "  -t, --threads N           that one run may use (default: one per core)\n"
    "  -j, --json FILE           write the figures as JSON; - prints them instead of the text\n"
    "  -i, --input NAME=SHAPE    an input's shape (default: the one the plan was made for); NAME=FILE.npy gives its "
    "data\n"
    "  -p, --profile             measure once more with a clock around each step, and print the steps\n"
    "  -l, --layers              the same, the slowest first\n"
    "  -d, --device N            which GPU, for engines that run on one; inputs lie there, and its clock is used "
    "(default: 0)\n",
    run};
