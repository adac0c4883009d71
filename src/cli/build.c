/* kiln build: a model file in, an engine file out. Also holds the options that build, inspect and diff share. */
#include <stdlib.h>
#include <string.h>

#include "build_options.h"
#include "cli.h"

void build_options_init(build_options *b) {
  memset(b, 0, sizeof *b);
  b->options = (kiln_build_options)KILN_BUILD_OPTIONS_INIT;
  b->options.progress = cli_progress;
}

/* The spec of NAME ("" or no '=': the next one by position), made if new. NULL with a message. */
static kiln_input_spec *spec_find(build_options *b, const char *text, int role, const char **out_value) {
  const char *equals = strchr(text, '=');
  *out_value = equals ? equals + 1 : text;
  const size_t length = equals ? (size_t)(equals - text) : 0;
  int position = 0;
  for (int i = 0; i < b->count; i++) {
    const char *name = b->specs[i].name;
    if (length && name && strlen(name) == length && memcmp(name, text, length) == 0) return &b->specs[i];
    if (!length && !name && position++ == b->positions[role]) {
      b->positions[role]++;
      return &b->specs[i];
    }
  }
  if (b->count == CLI_MAX_IO) {
    cli_error(CLI_USAGE, "more than %d inputs", CLI_MAX_IO);
    return NULL;
  }
  kiln_input_spec *spec = &b->specs[b->count];
  memset(spec, 0, sizeof *spec);
  spec->rank = -1;
  spec->dtype = KILN_DTYPE_COUNT;
  if (length) {
    char *name = strndup(text, length);
    if (!name) {
      cli_error(CLI_FAILED, "out of memory");
      return NULL;
    }
    spec->name = name;
  } else {
    b->positions[role]++;
  }
  b->count++;
  return spec;
}

/* role: 0 min, 1 opt, 2 max, 3 all of them */
static bool spec_parse(build_options *b, const char *text, int role) {
  const char *value;
  kiln_input_spec *spec = spec_find(b, text, role, &value);
  if (!spec) return false;
  const char *colon = role == 3 ? strchr(value, ':') : NULL;
  int64_t shape[KILN_MAX_RANK];
  int32_t rank;
  if (!cli_parse_shape(value, colon ? (size_t)(colon - value) : strlen(value), &rank, shape)) return false;
  if (colon) {
    if (!cli_spec_dtype(spec, colon + 1)) {
      cli_error(CLI_USAGE, "'%s' is no dtype; expected f32 f64 f16 bf16 i8 u8 i16 i32 i64 bool c64 or c128", colon + 1);
      return false;
    }
  }
  if (spec->rank >= 0 && spec->rank != rank) {
    cli_error(CLI_USAGE, "'%s' has %d dimensions, but another shape of the same input has %d", text, (int)rank,
              (int)spec->rank);
    return false;
  }
  spec->rank = rank;
  const int index = (int)(spec - b->specs);
  for (int r = 0; r < 3; r++) {
    if (role != r && role != 3) continue;
    memcpy(r == 0 ? spec->min : r == 1 ? spec->opt : spec->max, shape, sizeof shape);
    b->given[index] |= 1 << r;
  }
  return true;
}

/* NAME=VALUE: an argument that is no tensor. */
static bool constant_parse(build_options *b, const char *text) {
  const char *value;
  if (!strchr(text, '=') || *text == '=') {
    cli_error(CLI_USAGE, "'%s': expected NAME=VALUE", text);
    return false;
  }
  kiln_input_spec *spec = spec_find(b, text, 3, &value);
  if (!spec) return false;
  spec->constant = value;
  spec->rank = 0;
  b->given[spec - b->specs] = 7;
  return true;
}

/* ---- optimization profiles: NAME=MIN:OPT:MAX[,NAME=MIN:OPT:MAX...] ----------------------------------------------- */

/* The spec of one item: by name, or the next nameless one; the first profile makes it. */
static kiln_input_spec *profile_spec(build_options *b, const char *name, size_t length, int position, bool make) {
  int nameless = 0;
  for (int i = 0; i < b->count; i++) {
    const char *own = b->specs[i].name;
    if (length ? own && strlen(own) == length && memcmp(own, name, length) == 0 : !own && nameless++ == position)
      return &b->specs[i];
  }
  if (!make || b->count == CLI_MAX_IO) return NULL;
  kiln_input_spec *spec = &b->specs[b->count];
  memset(spec, 0, sizeof *spec);
  spec->rank = -1;
  spec->dtype = KILN_DTYPE_COUNT;
  if (length && !(spec->name = strndup(name, length))) return NULL;
  b->count++;
  return spec;
}

/* MIN:OPT:MAX in the first `length` characters of `text`. */
static bool profile_shapes(const char *text, size_t length, kiln_input_spec *out) {
  int64_t *const shapes[] = {out->min, out->opt, out->max};
  const char *end = text + length;
  for (int i = 0; i < 3; i++) {
    const char *colon = memchr(text, ':', (size_t)(end - text));
    int32_t rank;
    if ((colon != NULL) != (i < 2)) {
      cli_error(CLI_USAGE, "--profile: '%.*s' should be MIN:OPT:MAX, such as 1x8:4x8:16x8", (int)length, end - length);
      return false;
    }
    if (!cli_parse_shape(text, (size_t)((colon ? colon : end) - text), &rank, shapes[i])) return false;
    if (out->rank >= 0 && out->rank != rank) {
      cli_error(CLI_USAGE, "--profile: '%.*s' has %d dimensions, another shape of the same input has %d", (int)length,
                end - length, (int)rank, (int)out->rank);
      return false;
    }
    out->rank = rank;
    text = colon ? colon + 1 : end;
  }
  return true;
}

/* Profile k's shapes into `out`, which has a copy of b->specs; the first profile also makes the specs. */
static bool profile_parse(build_options *b, int k, kiln_input_spec *out) {
  int position = 0;
  for (const char *item = b->profiles[k]; item;) {
    const size_t length = strcspn(item, ",");
    const char *equals = memchr(item, '=', length), *shapes = equals ? equals + 1 : item;
    const size_t name = equals ? (size_t)(equals - item) : 0;
    kiln_input_spec *spec = profile_spec(b, item, name, position, k == 0);
    if (!spec) {
      cli_error(CLI_USAGE, "--profile '%s': every profile must be about the inputs of the first one", b->profiles[k]);
      return false;
    }
    position += name == 0;
    const ptrdiff_t index = spec - b->specs;
    if (k == 0) b->given[index] = 7;
    if (!profile_shapes(shapes, length - (size_t)(shapes - item), k == 0 ? spec : &out[index])) return false;
    item = item[length] ? item + length + 1 : NULL;
  }
  return true;
}

static bool profiles_finish(build_options *b) {
  if (!b->profile_count) return true;
  b->all = calloc((size_t)b->count * (size_t)b->profile_count + 1, sizeof *b->all);
  if (!b->all) {
    cli_error(CLI_FAILED, "out of memory");
    return false;
  }
  for (int k = 0; k < b->profile_count; k++) {
    kiln_input_spec *out = b->all + k * b->count;
    memcpy(out, b->specs, (size_t)b->count * sizeof *out);
    if (k > 0 && !profile_parse(b, k, out)) return false;
  }
  b->options.inputs = b->all;
  b->options.profile_count = (size_t)b->profile_count;
  return true;
}

int build_options_parse(build_options *b, int option, const char *value) {
  switch (option) {
    case OPT_INPUT:
      return spec_parse(b, value, 3) ? 1 : -1;
    case OPT_MIN:
      return spec_parse(b, value, 0) ? 1 : -1;
    case OPT_OPT:
      return spec_parse(b, value, 1) ? 1 : -1;
    case OPT_MAX:
      return spec_parse(b, value, 2) ? 1 : -1;
    case OPT_TARGET:
      b->options.target = value;
      return 1;
    case OPT_PRECISION:
      b->int8 = strcmp(value, "int8") == 0; /* layers by --calibration-cache, all else in fp32 */
      b->options.precision = b->int8 ? NULL : value;
      return 1;
    case OPT_TUNE:
      return cli_parse_seconds(value, "--tune", &b->options.tune_seconds) ? 1 : -1;
    case OPT_CONSTANT:
      return constant_parse(b, value) ? 1 : -1;
    case OPT_HOST_FALLBACK:
      b->options.allow_host_fallback = 1;
      return 1;
    case OPT_PROFILE:
      if (b->profile_count == CLI_MAX_PROFILES) {
        cli_error(CLI_USAGE, "more than %d profiles", CLI_MAX_PROFILES);
        return -1;
      }
      b->profiles[b->profile_count++] = value;
      return 1;
    case OPT_METHOD:
      b->options.method = value;
      return 1;
    case OPT_CALIBRATION_CACHE:
      b->options.calibration_cache = value;
      return 1;
    case OPT_CACHE:
      b->options.tactic_cache = value;
      return 1;
    case OPT_THREADS:
      return cli_parse_int(value, "--threads", 0, 1024, &b->options.threads) ? 1 : -1;
    default:
      return 0;
  }
}

bool build_options_finish(build_options *b) {
  if (b->int8 && !b->options.calibration_cache) {
    cli_error(
        CLI_USAGE,
        "--precision int8 needs --calibration-cache FILE, which Python writes: the cache_file of kiln.quantization, "
        "torch_tensorrt.ptq or torch2trt's DatasetCalibrator");
    return false;
  }
  if (b->profile_count && !profile_parse(b, 0, NULL)) return false;
  for (int i = 0; i < b->count; i++) {
    kiln_input_spec *s = &b->specs[i];
    const int given = b->given[i];
    if ((given & 5) != 5) {
      cli_error(CLI_USAGE, "input %s: give --input, or both --min and --max", s->name ? s->name : "(by position)");
      return false;
    }
    if (!(given & 2)) memcpy(s->opt, s->max, sizeof s->opt);
  }
  b->options.inputs = b->specs;
  b->options.input_count = (size_t)b->count;
  return profiles_finish(b);
}

void build_options_free(build_options *b) {
  for (int i = 0; i < b->count; i++) free((char *)(uintptr_t)b->specs[i].name);
  free(b->all);
  b->all = NULL;
  b->count = 0;
}

/* ---- The command ------------------------------------------------------------------------------------------------- */

static char *default_output(const char *model) {
  const char *slash = strrchr(model, '/'), *dot = strrchr(model, '.');
  const size_t stem = dot && (!slash || dot > slash + 1) && dot != model ? (size_t)(dot - model) : strlen(model);
  char *path = malloc(stem + sizeof ".kiln");
  if (path) {
    memcpy(path, model, stem);
    memcpy(path + stem, ".kiln", sizeof ".kiln");
  }
  return path;
}

/* What the importer had to leave out, one line each. */
static void print_notes(const kiln_engine *engine) {
  const char *notes = kiln_engine_metadata(engine, "kiln.import_notes");
  for (; notes && *notes; notes = strchr(notes, '\n') ? strchr(notes, '\n') + 1 : NULL)
    fprintf(stderr, "kiln: note: %.*s\n", (int)strcspn(notes, "\n"), notes);
}

static int build_and_save(const char *model, const char *output, const kiln_build_options *options, bool strip) {
  kiln_engine *engine = NULL, *stripped = NULL;
  const double start = cli_now();
  if (!cli_is_model(model)) {
    /* Give the library's own text for a missing or damaged file. */
    if (kiln_engine_build(model, options, &engine) != KILN_OK) return cli_fail();
  } else if (cli_open(model, options, &engine) != KILN_OK) {
    return cli_fail();
  }
  cli_progress_end();
  print_notes(engine);
  const double built = cli_now();
  int result = CLI_OK;
  if ((strip && kiln_engine_strip(engine, &stripped) != KILN_OK) ||
      kiln_engine_save(strip ? stripped : engine, output) != KILN_OK) {
    result = cli_fail();
  } else {
    printf("%s: built for %s in %.2f s, saved to %s in %.2f s\n", model, kiln_engine_target(engine), built - start,
           output, cli_now() - built);
  }
  kiln_engine_destroy(stripped);
  kiln_engine_destroy(engine);
  return result;
}

static int run(int argc, char **argv) {
  static const struct option options[] = {BUILD_OPTIONS,
                                          {"output", required_argument, NULL, 'o'},
                                          {"strip-weights", no_argument, NULL, 's'},
                                          {NULL, 0, NULL, 0}};
  build_options b;
  build_options_init(&b);
  char *output = NULL, *chosen = NULL;
  int result = CLI_USAGE, option;
  bool strip = false;
  while ((option = getopt_long(argc, argv, "o:", options, NULL)) != -1) {
    const int used = build_options_parse(&b, option, optarg);
    if (option == 'o')
      output = optarg;
    else if (option == 's')
      strip = true;
    else if (used < 0)
      goto done;
    else if (used == 0) {
      cli_usage(&cli_build);
      goto done;
    }
  }
  if (argc - optind != 1) {
    cli_error(CLI_USAGE, "expected one MODEL file, got %d", argc - optind);
    cli_usage(&cli_build);
    goto done;
  }
  if (!build_options_finish(&b)) goto done;
  if (!output) output = chosen = default_output(argv[optind]);
  result = output ? build_and_save(argv[optind], output, &b.options, strip) : cli_error(CLI_FAILED, "out of memory");
done:
  free(chosen);
  build_options_free(&b);
  return result;
}

const cli_command cli_build = {
    "build", "compile a model file (.pt2 of torch.export, .pt of TorchScript) into an engine file",
    "Usage: kiln build MODEL [-o ENGINE] [OPTIONS]\n\n"
    "Compiles MODEL, a .pt2 file written by torch.export.save or a .pt file written by torch.jit.save, and writes\n"
    "ENGINE (default: MODEL with the ending .kiln).\n"
    "ENGINE appears only when it is complete. NAME= may be left out: inputs then count by position.\n\nOptions:\n"
    "  -o, --output ENGINE         the file to write\n"
    "  --input NAME=SHAPE[:DTYPE]  fix an input's shape, such as x=1x3x224x224:f32\n"
    "  --min, --opt, --max NAME=SHAPE\n"
    "                              narrow the range of an input whose shape may vary; TorchScript: give that range\n"
    "  --profile NAME=MIN:OPT:MAX[,NAME=MIN:OPT:MAX...]\n"
    "                              once for each optimization profile: kernels are chosen for the opt shapes of each\n"
    "  --constant NAME=VALUE       TorchScript: fix an argument that is no tensor: 3, 0.5, true, none or 'text'\n"
    "  --method NAME               TorchScript: the method to compile (default: forward)\n"
    "  --target TARGET             cpu (default: the best of this machine), cpu:avx512, cpu:avx2, cpu:scalar,\n"
    "                              reference, cuda, cuda:1 (another GPU), cuda:sm_90 (one that need not be here)\n"
    "  --allow-host-fallback       GPUs: operators without a kernel there run on the CPU\n"
    "  --precision P               fp32 (default); GPUs: tf32, fp16, bf16, and fp16:PATTERN,.. to keep parts in fp32\n"
    "                              int8: fp32, and --calibration-cache\n"
    "  --calibration-cache FILE    layers on values rounded to int8, by the ranges of a cache that Python wrote\n"
    "  --tune SECONDS              time the candidates of each kernel within this budget (default: 0)\n"
    "  --cache FILE                remember what tuning found, and use it\n"
    "  --threads N                 that tuning assumes (default: one per core)\n"
    "  --strip-weights             leave the weights out: `kiln refit` puts them in\n",
    run};
