/* kiln torchtrtc: Torch-TensorRT's compiler by its flags. A TorchScript file in, a TorchScript file with an engine in it (or an engine
 * file) out. Flags that configure TensorRT are taken, and a line says once why nothing needs to be set. */
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <kiln/kiln_ext.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli.h"
#include "script_file.h"

enum {
  OPT_DEBUGGABLE = 256,
  OPT_GPU_FALLBACK,
  OPT_FULL,
  OPT_CHECK_METHOD,
  OPT_DISABLE_TF32,
  OPT_SPARSE,
  OPT_GPU_ID,
  OPT_DLA_CORE,
  OPT_CAPABILITY,
  OPT_CALIBRATION,
  OPT_TEO,
  OPT_TEM,
  OPT_MBS,
  OPT_EMBED,
  OPT_TIMING_ITERS,
  OPT_WORKSPACE,
  OPT_DLA_MEMORY,
  OPT_ATOL,
  OPT_RTOL,
  OPT_NO_CHECK,
  OPT_TRUNCATE,
  OPT_SHAPE_TENSORS,
  OPT_SAVE_ENGINE,
  OPT_CUSTOM_OPS,
  OPT_CUSTOM_CONVERTERS,
  OPT_TUNE,
  OPT_CACHE
};

static const struct option options[] = {{"verbose", no_argument, NULL, 'v'},
                                        {"warnings", no_argument, NULL, 'w'},
                                        {"info", no_argument, NULL, 'i'},
                                        {"build-debuggable-engine", no_argument, NULL, OPT_DEBUGGABLE},
                                        {"allow-gpu-fallback", no_argument, NULL, OPT_GPU_FALLBACK},
                                        {"require-full-compilation", no_argument, NULL, OPT_FULL},
                                        {"check-method-support", required_argument, NULL, OPT_CHECK_METHOD},
                                        {"disable-tf32", no_argument, NULL, OPT_DISABLE_TF32},
                                        {"sparse-weights", no_argument, NULL, OPT_SPARSE},
                                        {"enable-precision", required_argument, NULL, 'p'},
                                        {"device-type", required_argument, NULL, 'd'},
                                        {"gpu-id", required_argument, NULL, OPT_GPU_ID},
                                        {"dla-core", required_argument, NULL, OPT_DLA_CORE},
                                        {"engine-capability", required_argument, NULL, OPT_CAPABILITY},
                                        {"calibration-cache-file", required_argument, NULL, OPT_CALIBRATION},
                                        {"teo", required_argument, NULL, OPT_TEO},
                                        {"torch-executed-op", required_argument, NULL, OPT_TEO},
                                        {"tem", required_argument, NULL, OPT_TEM},
                                        {"torch-executed-mod", required_argument, NULL, OPT_TEM},
                                        {"mbs", required_argument, NULL, OPT_MBS},
                                        {"min-block-size", required_argument, NULL, OPT_MBS},
                                        {"embed-engine", no_argument, NULL, OPT_EMBED},
                                        {"num-avg-timing-iters", required_argument, NULL, OPT_TIMING_ITERS},
                                        {"workspace-size", required_argument, NULL, OPT_WORKSPACE},
                                        {"dla-sram-size", required_argument, NULL, OPT_DLA_MEMORY},
                                        {"dla-local-dram-size", required_argument, NULL, OPT_DLA_MEMORY},
                                        {"dla-global-dram-size", required_argument, NULL, OPT_DLA_MEMORY},
                                        {"atol", required_argument, NULL, OPT_ATOL},
                                        {"rtol", required_argument, NULL, OPT_RTOL},
                                        {"no-threshold-check", no_argument, NULL, OPT_NO_CHECK},
                                        {"truncate-long-double", no_argument, NULL, OPT_TRUNCATE},
                                        {"truncate", no_argument, NULL, OPT_TRUNCATE},
                                        {"truncate-64bit", no_argument, NULL, OPT_TRUNCATE},
                                        {"allow-shape-tensors", no_argument, NULL, OPT_SHAPE_TENSORS},
                                        {"save-engine", no_argument, NULL, OPT_SAVE_ENGINE},
                                        {"custom-torch-ops", required_argument, NULL, OPT_CUSTOM_OPS},
                                        {"custom-converters", required_argument, NULL, OPT_CUSTOM_CONVERTERS},
                                        {"tune", required_argument, NULL, OPT_TUNE},
                                        {"cache", required_argument, NULL, OPT_CACHE},
                                        {NULL, 0, NULL, 0}};

typedef struct request {
  kiln_build_options build;
  kiln_input_spec specs[CLI_MAX_IO];
  const char *method; /* to be checked for operators that are missing */
  const char *device; /* NULL: a GPU if there is one */
  char target[32];
  int gpu, verbosity;
  bool f16, i8, no_tf32, embed, save_engine, no_check;
  double atol, rtol;
  uint64_t noted; /* one bit for each option that has been explained */
} request;

/* ---- Options that need not be set ----------------------------------------------------------------------------------- */

static void note(request *r, int option, const char *name, const char *why) {
  const uint64_t bit = UINT64_C(1) << (option - OPT_DEBUGGABLE);
  if (!(r->noted & bit)) fprintf(stderr, "kiln: note: --%s has no effect: %s\n", name, why);
  r->noted |= bit;
}

static const char *why_not_needed(int option) {
  switch (option) {
    case OPT_DEBUGGABLE:
      return "'kiln inspect' and 'kiln diff --layers' work on every engine";
    case OPT_GPU_FALLBACK:
      return "there is no DLA to fall back from";
    case OPT_FULL:
      return "the whole method becomes one engine in any case";
    case OPT_SPARSE:
      return "this version has no structured sparsity; sparse weights are computed like others";
    case OPT_TEO:
    case OPT_TEM:
    case OPT_MBS:
      return "the whole method becomes one engine; parts that run in PyTorch need Python: "
             "kiln.torch_tensorrt.compile(module, ...) has this setting";
    case OPT_TIMING_ITERS:
      return "the tuner (--tune SECONDS) decides how often it measures";
    case OPT_WORKSPACE:
      return "memory is planned when shapes are known, and no more is taken";
    case OPT_DLA_MEMORY:
      return "there is no DLA backend";
    case OPT_TRUNCATE:
      return "64-bit types are computed as such";
    case OPT_SHAPE_TENSORS:
      return "sizes are symbolic, and inputs that are shapes work in any case";
    default:
      return NULL;
  }
}

/* ---- Values --------------------------------------------------------------------------------------------------------- */

static bool one_of(const char *text, const char *const *names) {
  for (; *names; names++)
    if (strcasecmp(text, *names) == 0) return true;
  return false;
}

static const char *const f32_names[] = {"f32", "fp32", "float", "float32", NULL};
static const char *const f16_names[] = {"f16", "fp16", "half", "float16", "h", NULL};
static const char *const i8_names[] = {"i8", "int8", "char", NULL};

static kiln_dtype dtype_named(const char *text) {
  static const char *const f64[] = {"f64", "fp64", "double", "float64", NULL},
                           *const i32[] = {"i32", "int32", "int", NULL}, *const i64[] = {"i64", "int64", "long", NULL},
                           *const b[] = {"b", "bool", NULL}, *const bf16[] = {"bf16", "bfloat16", NULL},
                           *const u8[] = {"u8", "uint8", "byte", NULL};
  const struct {
    const char *const *names;
    kiln_dtype dtype;
  } all[] = {{f32_names, KILN_F32}, {f16_names, KILN_F16}, {i8_names, KILN_I8}, {f64, KILN_F64}, {i32, KILN_I32},
             {i64, KILN_I64},       {b, KILN_BOOL},        {bf16, KILN_BF16},   {u8, KILN_U8}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (one_of(text, all[i].names)) return all[i].dtype;
  return KILN_DTYPE_COUNT;
}

static bool parse_number(const char *text, const char *what, double *out) {
  char *end;
  *out = strtod(text, &end);
  if (*text && !*end && *out >= 0 && isfinite(*out)) return true;
  cli_error(CLI_USAGE, "--%s must be a number, 0 or more, got '%s'", what, text);
  return false;
}

static bool set_precision(request *r, const char *text) {
  if (one_of(text, f16_names))
    r->f16 = true;
  else if (one_of(text, i8_names))
    r->i8 = true;
  else if (!one_of(text, f32_names)) {
    cli_error(CLI_USAGE, "--enable-precision must be one of f32, f16, i8, got '%s'", text);
    return false;
  }
  return true;
}

static bool set_device(request *r, const char *text) {
  static const char *const known[] = {"gpu", "cuda", "cpu", NULL};
  if (strcasecmp(text, "dla") == 0) {
    cli_error(CLI_USAGE, "--device-type dla: Kiln has no DLA backend; use gpu or cpu");
    return false;
  }
  if (!one_of(text, known)) {
    cli_error(CLI_USAGE, "--device-type must be one of gpu, cpu, got '%s'", text);
    return false;
  }
  r->device = strcasecmp(text, "cpu") == 0 ? "cpu" : "cuda";
  return true;
}

static bool load_plugin(const char *path, const char *what) {
  if (kiln_plugin_load(path) == KILN_OK) return true;
  fprintf(stderr, "kiln: --%s takes a plugin of Kiln (kiln/kiln_ext.h), in C\n", what);
  cli_fail();
  return false;
}

/* ---- Input specifications: "(1,3,224,224)@f16%NHWC", "[(1,3);(4,3);(8,3)]@i64" ---------------------------------------- */

static bool spec_error(const char *text, const char *what) {
  cli_error(CLI_USAGE,
            "'%s' is no input specification: %s; expected \"(N,C,H,W)@DTYPE%%FORMAT\" or "
            "\"[(MIN);(OPT);(MAX)]@DTYPE%%FORMAT\"",
            text, what);
  return false;
}

/* "(1, 3, 224)"; moves *p behind it. */
static bool parse_sizes(const char **p, int32_t *rank, int64_t *sizes) {
  const char *s = *p;
  while (isspace((unsigned char)*s)) s++;
  if (*s++ != '(') return false;
  *rank = 0;
  while (isspace((unsigned char)*s)) s++;
  while (*s != ')') {
    char *end;
    errno = 0;
    const long long size = strtoll(s, &end, 10);
    if (end == s || errno || size < 0 || *rank == KILN_MAX_RANK) return false;
    sizes[(*rank)++] = size;
    for (s = end; isspace((unsigned char)*s); s++) {
    }
    if (*s == ',') {
      for (s++; isspace((unsigned char)*s); s++) {
      }
    } else if (*s != ')') {
      return false;
    }
  }
  for (s++; isspace((unsigned char)*s); s++) {
  }
  *p = s;
  return true;
}

static bool parse_format(const char *text, const char *name) {
  static const char *const formats[] = {"contiguous", "nchw", "linear", "channels_last", "nhwc", NULL};
  if (one_of(name, formats)) return true; /* engines take any strides and choose their own layouts */
  return spec_error(text, "the format must be contiguous, NCHW, linear, channels_last or NHWC");
}

static bool parse_spec(const char *text, kiln_input_spec *spec) {
  int64_t *const shapes[] = {spec->min, spec->opt, spec->max};
  const char *p = text;
  int32_t ranks[3];
  char dtype[16] = "";
  *spec = (kiln_input_spec){.dtype = KILN_DTYPE_COUNT};
  if (*p == '[') {
    p++;
    for (int i = 0; i < 3; i++) {
      if (!parse_sizes(&p, &ranks[i], shapes[i]) || *p++ != (i < 2 ? ';' : ']'))
        return spec_error(text, "a range has three shapes of sizes, 0 or more each");
    }
    if (ranks[0] != ranks[1] || ranks[1] != ranks[2])
      return spec_error(text, "the three shapes differ in their number of sizes");
    for (int32_t d = 0; d < ranks[0]; d++)
      if (spec->min[d] > spec->opt[d] || spec->opt[d] > spec->max[d]) return spec_error(text, "not min <= opt <= max");
  } else {
    if (!parse_sizes(&p, &ranks[0], spec->min)) return spec_error(text, "a shape has sizes of 0 or more, at most 8");
    memcpy(spec->opt, spec->min, sizeof spec->min);
    memcpy(spec->max, spec->min, sizeof spec->min);
  }
  spec->rank = ranks[0];
  if (*p == '@') {
    const size_t length = strcspn(++p, "%");
    if (length >= sizeof dtype) return spec_error(text, "unknown data type");
    memcpy(dtype, p, length);
    p += length;
    const bool is_complex = strcmp(dtype, "c64") == 0 || strcmp(dtype, "c128") == 0;
    if (is_complex)
      cli_spec_dtype(spec, dtype);
    else
      spec->dtype = dtype_named(dtype);
    if (spec->dtype == KILN_DTYPE_COUNT)
      return spec_error(text, "unknown data type (f32 f16 bf16 f64 i8 u8 i32 i64 bool c64 c128)");
  }
  if (*p == '%') return parse_format(text, p + 1);
  return *p ? spec_error(text, "something stands behind the shape") : true;
}

/* ---- The target --------------------------------------------------------------------------------------------------------- */

static bool has_gpu(void) {
  void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!driver) return false;
  int (*start)(unsigned) = NULL, (*count)(int *) = NULL, n = 0;
  *(void **)&start = dlsym(driver, "cuInit");
  *(void **)&count = dlsym(driver, "cuDeviceGetCount");
  return start && count && start(0) == 0 && count(&n) == 0 && n > 0; /* stays loaded: the library uses it */
}

static void choose_target(request *r) {
  const bool gpu = r->device ? strcmp(r->device, "cuda") == 0 : has_gpu();
  if (gpu) {
    snprintf(r->target, sizeof r->target, "cuda:%d", r->gpu);
    r->build.precision = r->f16 ? "fp16" : r->no_tf32 ? "fp32" : "tf32";
  } else {
    snprintf(r->target, sizeof r->target, "cpu");
    r->build.precision = "fp32";
    if (r->f16) fprintf(stderr, "kiln: note: -p f16 has no effect: engines compute in fp32 on a CPU\n");
  }
  r->build.target = r->target;
  if (r->i8 && !r->build.calibration_cache)
    fprintf(stderr,
            "kiln: note: -p i8 has no effect without --calibration-cache-file, which Python writes: "
            "torch_tensorrt.ptq.DataLoaderCalibrator(batches, cache_file=...)\n");
  if (!r->i8 && r->build.calibration_cache) {
    fprintf(stderr, "kiln: note: --calibration-cache-file has no effect without -p i8\n");
    r->build.calibration_cache = NULL;
  }
}

/* ---- Comparing ------------------------------------------------------------------------------------------------------------ */

typedef struct results {
  kiln_context *context;
  kiln_tensor tensors[CLI_MAX_IO];
  size_t count;
} results;

static bool results_run(const kiln_engine *e, const cli_tensor *inputs, size_t n, results *out) {
  kiln_tensor in[CLI_MAX_IO];
  memset(out, 0, sizeof *out);
  out->count = kiln_engine_output_count(e);
  if (n > CLI_MAX_IO || out->count > CLI_MAX_IO) {
    cli_error(CLI_FAILED, "more than %d inputs or outputs", CLI_MAX_IO);
    return false;
  }
  for (size_t i = 0; i < n; i++) in[i] = inputs[i].tensor;
  if (kiln_context_create(e, &out->context) == KILN_OK &&
      kiln_context_run(out->context, in, n, out->tensors, out->count) == KILN_OK)
    return true;
  cli_fail();
  return false;
}

/* The largest |a - b| - (atol + rtol |b|) is above 0: the deviation, else -1. */
static double deviation(const request *r, const kiln_tensor *a, const kiln_tensor *b) {
  double worst = -1;
  const int64_t n = cli_tensor_numel(b);
  if (cli_tensor_numel(a) != n) return INFINITY;
  for (int64_t i = 0; i < n; i++) {
    const double x = cli_tensor_get(a, i), y = cli_tensor_get(b, i), e = fabs(x - y);
    if (x == y || (isnan(x) && isnan(y)) || e <= r->atol + r->rtol * fabs(y)) continue;
    worst = fmax(worst, isnan(e) ? INFINITY : e);
  }
  return worst;
}

/* Against the reference backend, whose plain loops compute in double, on random inputs. As there: too large a deviation is a warning. */
static int check_numbers(const request *r, const char *model, const kiln_engine *engine) {
  kiln_build_options o = r->build;
  kiln_engine *truth = NULL;
  cli_tensor inputs[CLI_MAX_IO];
  results mine = {0}, theirs = {0};
  size_t n = 0;
  o.target = "reference";
  o.precision = "fp32";
  if (kiln_engine_build(model, &o, &truth) != KILN_OK) return cli_fail();
  int result = CLI_FAILED;
  if (cli_inputs_create(engine, 0, NULL, true, inputs, &n)) {
    if (results_run(engine, inputs, n, &mine) && results_run(truth, inputs, n, &theirs)) {
      double worst = -1;
      for (size_t i = 0; i < mine.count; i++) worst = fmax(worst, deviation(r, &mine.tensors[i], &theirs.tensors[i]));
      cli_progress_end();
      if (worst >= 0)
        fprintf(stderr, "kiln: warning: maximum numerical deviation %.3g exceeds the tolerances (atol %g, rtol %g)\n",
                worst, r->atol, r->rtol);
      else if (r->verbosity > 0)
        printf("numbers are within atol %g and rtol %g of the reference\n", r->atol, r->rtol);
      result = CLI_OK;
    }
    kiln_context_destroy(mine.context);
    kiln_context_destroy(theirs.context);
    cli_inputs_free(inputs, n);
  }
  kiln_engine_destroy(truth);
  return result;
}

/* ---- The command ------------------------------------------------------------------------------------------------------- */

static int check_method(const char *model, const char *method) {
  char *report = NULL;
  if (kiln_model_report(model, KILN_REPORT_SUMMARY, &report) != KILN_OK) return cli_fail();
  const char *missing = strstr(report, "\nnot supported:");
  if (missing)
    printf("%s: method %s is not supported:%s", model, method, missing + strlen("\nnot supported:"));
  else
    printf("%s: method %s is supported\n", model, method);
  const int result = missing ? CLI_FAILED : CLI_OK;
  kiln_free(report);
  return result;
}

static int write_result(const request *r, const kiln_engine *engine, const char *output) {
  if (!r->save_engine) return script_file_write(engine, output);
  return kiln_engine_save(engine, output) == KILN_OK ? CLI_OK : cli_fail();
}

static int embed(const request *r, const char *input, const char *output) {
  kiln_engine *engine = NULL;
  if (r->save_engine) return cli_error(CLI_USAGE, "--embed-engine and --save-engine exclude each other");
  if (cli_is_model(input))
    return cli_error(CLI_FAILED, "--embed-engine: '%s' is a model; expected an engine file", input);
  if (kiln_engine_open(input, &engine) != KILN_OK) return cli_fail();
  const int result = write_result(r, engine, output);
  kiln_engine_destroy(engine);
  return result;
}

static int compile(request *r, const char *input, const char *output) {
  kiln_engine *engine = NULL;
  choose_target(r);
  if (!cli_is_model(input)) {
    if (kiln_engine_build(input, &r->build, &engine) != KILN_OK)
      return cli_fail(); /* the library's text for such a file */
  } else if (cli_open(input, &r->build, &engine) != KILN_OK) {
    return cli_fail();
  }
  cli_progress_end();
  int result = CLI_OK;
  if (r->verbosity > 0) {
    char *report = NULL;
    if (kiln_engine_report(engine, r->verbosity > 1 ? KILN_REPORT_PLAN : KILN_REPORT_SUMMARY, &report) == KILN_OK)
      fputs(report, stdout);
    kiln_free(report);
  }
  const bool exact = strcmp(r->build.precision, "fp32") == 0;
  if (exact && !r->no_check) result = check_numbers(r, input, engine);
  if (result == CLI_OK) result = write_result(r, engine, output);
  if (result == CLI_OK) printf("%s: built for %s, saved to %s\n", input, kiln_engine_target(engine), output);
  kiln_engine_destroy(engine);
  return result;
}

enum { GO_ON = -1 };

/* GO_ON; else what to return, with a message. */
static int take(request *r, int option, int index) {
  static const char *const capabilities[] = {"standard", "safety", "dla_standalone", "default", "safe_gpu",
                                             "safe_dla", NULL};
  int number;
  const char *name = index >= 0 ? options[index].name : "";
  const char *why = why_not_needed(option);
  switch (option) {
    case 'v':
    case 'i':
      r->verbosity = option == 'v' ? 2 : 1;
      return GO_ON;
    case 'w':
      return GO_ON;
    case 'p':
      return set_precision(r, optarg) ? GO_ON : CLI_USAGE;
    case 'd':
      return set_device(r, optarg) ? GO_ON : CLI_USAGE;
    case OPT_CHECK_METHOD:
      r->method = optarg;
      return GO_ON;
    case OPT_DISABLE_TF32:
      r->no_tf32 = true;
      return GO_ON;
    case OPT_GPU_ID:
      return cli_parse_int(optarg, "--gpu-id", 0, 1023, &r->gpu) ? GO_ON : CLI_USAGE;
    case OPT_DLA_CORE:
      return cli_error(CLI_USAGE, "--dla-core: Kiln has no DLA backend; use --device-type gpu or cpu");
    case OPT_CAPABILITY:
      if (!one_of(optarg, capabilities))
        return cli_error(CLI_USAGE, "--engine-capability must be one of standard, safety, dla_standalone, got '%s'",
                         optarg);
      if (strcasecmp(optarg, "standard") != 0 && strcasecmp(optarg, "default") != 0)
        note(r, option, name, "there is one kind of engine");
      return GO_ON;
    case OPT_EMBED:
      r->embed = true;
      return GO_ON;
    case OPT_SAVE_ENGINE:
      r->save_engine = true;
      return GO_ON;
    case OPT_NO_CHECK:
      r->no_check = true;
      return GO_ON;
    case OPT_ATOL:
      return parse_number(optarg, name, &r->atol) ? GO_ON : CLI_USAGE;
    case OPT_RTOL:
      return parse_number(optarg, name, &r->rtol) ? GO_ON : CLI_USAGE;
    case OPT_CUSTOM_OPS:
    case OPT_CUSTOM_CONVERTERS:
      return load_plugin(optarg, name) ? GO_ON : CLI_FAILED;
    case OPT_TUNE:
      return cli_parse_seconds(optarg, "--tune", &r->build.tune_seconds) ? GO_ON : CLI_USAGE;
    case OPT_CALIBRATION:
      r->build.calibration_cache = optarg;
      return GO_ON;
    case OPT_CACHE:
      r->build.tactic_cache = optarg;
      return GO_ON;
    case OPT_MBS:
    case OPT_TIMING_ITERS:
      if (!cli_parse_int(optarg, name, 1, 1000000, &number)) return CLI_USAGE;
      break;
    case OPT_WORKSPACE:
    case OPT_DLA_MEMORY: {
      double bytes;
      if (!parse_number(optarg, name, &bytes)) return CLI_USAGE;
      break;
    }
    default:
      break;
  }
  if (!why) return cli_usage(&cli_torchtrtc);
  note(r, option, name, why);
  return GO_ON;
}

static int run(int argc, char **argv) {
  request *r = calloc(1, sizeof *r);
  if (!r) return cli_error(CLI_FAILED, "out of memory");
  r->build = (kiln_build_options)KILN_BUILD_OPTIONS_INIT;
  r->build.progress = cli_progress;
  r->build.inputs = r->specs;
  r->atol = 1e-8;
  r->rtol = 1e-5;
  int result = GO_ON, option, index = -1;
  while (result == GO_ON && (option = getopt_long(argc, argv, "vwip:d:", options, &index)) != -1) {
    result = take(r, option, index);
    index = -1;
  }
  const int n = argc - optind;
  for (int i = 2; result == GO_ON && i < n; i++) {
    if (r->build.input_count == CLI_MAX_IO)
      result = cli_error(CLI_USAGE, "more than %d inputs", CLI_MAX_IO);
    else if (!parse_spec(argv[optind + i], &r->specs[r->build.input_count++]))
      result = CLI_USAGE;
  }
  if (result == GO_ON && n < (r->method ? GO_ON : 2)) {
    cli_error(CLI_USAGE, "expected the input file, the output file and the inputs' shapes");
    result = cli_usage(&cli_torchtrtc);
  }
  if (result == GO_ON) {
    const char *input = argv[optind], *output = argv[optind + 1];
    result = r->method  ? check_method(input, r->method)
             : r->embed ? embed(r, input, output)
                        : compile(r, input, output);
  }
  free(r);
  return result;
}

const cli_command cli_torchtrtc = {
    "torchtrtc", "Torch-TensorRT's compiler by its flags: a TorchScript file with an engine in it",
    "Usage: kiln torchtrtc INPUT.ts OUTPUT [SHAPES...] [OPTIONS]\n\n"
    "Compiles the forward method of a TorchScript file (or a .pt2 file) and writes a TorchScript file that\n"
    "torch.jit.load reads after 'import kiln', or an engine file with --save-engine. No PyTorch is needed to write "
    "it.\n\n"
    "SHAPES, one for each input: \"(N,C,H,W)\" or \"[(MIN);(OPT);(MAX)]\", then @DTYPE (f32 f16 bf16 f64 i8 u8 i32 "
    "i64\n"
    "bool), then %FORMAT (contiguous, channels_last: accepted, engines take both).\n\nOptions:\n"
    "  -v, --verbose  -i, --info  -w, --warnings   how much to print\n"
    "  -p, --enable-precision P    f32 (default), f16; may be repeated. i8: with --calibration-cache-file\n"
    "  --calibration-cache-file F  the ranges that Python measured; layers take values rounded to int8\n"
    "  -d, --device-type D         gpu (default where there is one), cpu\n"
    "  --gpu-id N                  which GPU\n"
    "  --disable-tf32              compute f32 products in full on GPUs\n"
    "  --check-method-support M    only tell which operators of the file are missing\n"
    "  --embed-engine              INPUT is an engine file: put it into a TorchScript file\n"
    "  --save-engine               write an engine file instead\n"
    "  --atol X, --rtol X          tolerances of the check against reference kernels on random inputs, for f32 "
    "engines\n"
    "                              (default: 1e-8 and 1e-5); beyond them there is a warning\n"
    "  --no-threshold-check        leave that check out\n"
    "  --custom-torch-ops LIB, --custom-converters LIB\n"
    "                              load a plugin of Kiln\n"
    "  --tune SECONDS, --cache FILE  as for 'kiln build'\n\n"
    "Accepted, with a line that says why nothing needs to be set: --build-debuggable-engine --allow-gpu-fallback\n"
    "--require-full-compilation --sparse-weights --engine-capability --teo --tem --mbs\n"
    "--num-avg-timing-iters --workspace-size --dla-sram-size --dla-local-dram-size --dla-global-dram-size --truncate\n"
    "--allow-shape-tensors. There is no DLA.\n",
    run};
