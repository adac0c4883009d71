/* Messages, numbers, shapes, progress and tensors for all commands. */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- Messages ---------------------------------------------------------------------------------------------------- */

static bool progress_shown;

void cli_progress_end(void) {
  if (progress_shown) fprintf(stderr, "\r\033[K");
  progress_shown = false;
}

int cli_progress(void *user, const char *stage, double fraction) {
  static double last;
  (void)user;
  if (!isatty(STDERR_FILENO)) return 0;
  const double now = cli_now();
  if (progress_shown && now - last < 0.05) return 0;
  last = now;
  progress_shown = true;
  fprintf(stderr, "\r\033[K%3.0f %%  %s", 100 * fraction, stage);
  fflush(stderr);
  return 0;
}

int cli_fail(void) {
  cli_progress_end();
  fflush(stdout);
  fprintf(stderr, "kiln: %s\n", kiln_last_error());
  return CLI_FAILED;
}

int cli_error(int code, const char *fmt, ...) {
  cli_progress_end();
  fflush(stdout);
  va_list list;
  va_start(list, fmt);
  fputs("kiln: ", stderr);
  vfprintf(stderr, fmt, list);
  fputc('\n', stderr);
  va_end(list);
  return code;
}

int cli_usage(const cli_command *command) {
  fprintf(stderr, "kiln: 'kiln %s --help' tells about the arguments\n", command->name);
  return CLI_USAGE;
}

/* ---- Numbers ----------------------------------------------------------------------------------------------------- */

bool cli_parse_int(const char *text, const char *what, long min, long max, int *out) {
  char *end;
  errno = 0;
  const long value = strtol(text, &end, 10);
  if (*text == '\0' || *end != '\0' || errno || value < min || value > max) {
    cli_error(CLI_USAGE, "%s must be a whole number from %ld to %ld, got '%s'", what, min, max, text);
    return false;
  }
  *out = (int)value;
  return true;
}

bool cli_parse_seconds(const char *text, const char *what, double *out) {
  char *end;
  const double value = strtod(text, &end);
  if (*text == '\0' || *end != '\0' || !(value >= 0) || value > 1e6) {
    cli_error(CLI_USAGE, "%s must be a number, 0 or more, got '%s'", what, text);
    return false;
  }
  *out = value;
  return true;
}

bool cli_parse_shape(const char *text, size_t length, int32_t *out_rank, int64_t *out_shape) {
  const char *p = text, *end = text + length;
  *out_rank = 0;
  if (length == 2 && memcmp(text, "()", 2) == 0) return true;
  while (p < end) {
    char *stop;
    errno = 0;
    const long long size = strtoll(p, &stop, 10);
    const bool number = *p >= '0' && *p <= '9' && stop <= end && !errno;
    if (!number || *out_rank == KILN_MAX_RANK || (stop < end && *stop != 'x' && *stop != ',') || stop + 1 == end) {
      cli_error(CLI_USAGE, "'%.*s' is no shape; expected sizes joined by 'x', such as 1x3x224x224 (at most %d)",
                (int)length, text, KILN_MAX_RANK);
      return false;
    }
    out_shape[(*out_rank)++] = size;
    p = stop < end ? stop + 1 : end;
  }
  return true;
}

int cli_dtype_from_name(const char *name) {
  int i = 0;
  while (i < KILN_DTYPE_COUNT && strcmp(name, kiln_dtype_name((kiln_dtype)i)) != 0) i++;
  return i;
}

bool cli_spec_dtype(kiln_input_spec *spec, const char *name) {
  spec->is_complex = strcmp(name, "c64") == 0 || strcmp(name, "c128") == 0;
  if (spec->is_complex)
    spec->dtype = name[1] == '6' ? KILN_F32 : KILN_F64;
  else
    spec->dtype = (kiln_dtype)cli_dtype_from_name(name);
  return spec->dtype != KILN_DTYPE_COUNT;
}

void cli_print_shape(FILE *file, const int64_t *shape, int rank) {
  fputc('[', file);
  for (int i = 0; i < rank; i++) {
    if (shape[i] == INT64_MAX)
      fprintf(file, "%s*", i ? "," : "");
    else
      fprintf(file, "%s%lld", i ? "," : "", (long long)shape[i]);
  }
  fputc(']', file);
}

void cli_print_bytes(FILE *file, double bytes) {
  static const char *const units[] = {"bytes", "kB", "MB", "GB"};
  int unit = 0;
  while (bytes >= 1000 && unit < 3) {
    bytes /= 1000;
    unit++;
  }
  fprintf(file, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

double cli_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Files ------------------------------------------------------------------------------------------------------- */

bool cli_is_model(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) return false;
  char magic[4] = {0};
  const bool zip = fread(magic, 1, sizeof magic, file) == sizeof magic && memcmp(magic, "PK\003\004", 4) == 0;
  fclose(file);
  return zip;
}

kiln_status cli_open(const char *path, const kiln_build_options *options, kiln_engine **out_engine) {
  const kiln_status status =
      cli_is_model(path) ? kiln_engine_build(path, options, out_engine) : kiln_engine_open(path, out_engine);
  cli_progress_end();
  return status;
}

/* ---- Tensors ----------------------------------------------------------------------------------------------------- */

int64_t cli_tensor_numel(const kiln_tensor *t) {
  int64_t n = 1;
  for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
  return n;
}

bool cli_tensor_create(cli_tensor *t, kiln_dtype dtype, int rank, const int64_t *shape) {
  memset(t, 0, sizeof *t);
  size_t bytes = kiln_dtype_size(dtype);
  for (int i = 0; i < rank; i++) {
    t->shape[i] = shape[i];
    if (shape[i] < 0 || __builtin_mul_overflow(bytes, (size_t)shape[i], &bytes)) {
      cli_error(CLI_FAILED, "a tensor is too large to hold in memory");
      return false;
    }
  }
  t->tensor.data = bytes < SIZE_MAX - 128 ? aligned_alloc(64, (bytes + 64) / 64 * 64) : NULL;
  if (!t->tensor.data) {
    cli_error(CLI_FAILED, "out of memory: a tensor of %zu bytes", bytes);
    return false;
  }
  t->bytes = bytes;
  t->tensor.device.type = KILN_DEVICE_CPU;
  t->tensor.ndim = rank;
  t->tensor.shape = t->shape;
  kiln_tensor_set_dtype(&t->tensor, dtype);
  return true;
}

void cli_tensor_free(cli_tensor *t) {
  free(t->tensor.data);
  memset(t, 0, sizeof *t);
}

static uint16_t half_from_float(float value) { /* of [-1, 1): no overflow; rounds towards zero, denormals become 0 */
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000, exponent = bits >> 23 & 0xff, mantissa = bits >> 13 & 0x3ff;
  return (uint16_t)(exponent <= 112 ? sign : sign | (exponent - 112) << 10 | mantissa);
}

void cli_tensor_fill(cli_tensor *t, uint64_t seed) {
  const kiln_dtype dtype = kiln_tensor_get_dtype(&t->tensor);
  const int64_t n = cli_tensor_numel(&t->tensor);
  uint64_t state = seed * 0x9e3779b97f4a7c15u + 0x1234567u;
  for (int64_t i = 0; i < n; i++) {
    state ^= state << 13; /* xorshift64 (Marsaglia, 2003) */
    state ^= state >> 7;
    state ^= state << 17;
    const float f = (float)(state >> 40) * (2.0f / 16777216.0f) - 1.0f;
    const int bit = (int)(state >> 63);
    uint32_t raw;
    memcpy(&raw, &f, 4);
    switch (dtype) {
      case KILN_F32:
        ((float *)t->tensor.data)[i] = f;
        break;
      case KILN_F64:
        ((double *)t->tensor.data)[i] = (double)f;
        break;
      case KILN_F16:
        ((uint16_t *)t->tensor.data)[i] = half_from_float(f);
        break;
      case KILN_BF16:
        ((uint16_t *)t->tensor.data)[i] = (uint16_t)(raw >> 16);
        break;
      case KILN_I16:
        ((int16_t *)t->tensor.data)[i] = (int16_t)bit;
        break;
      case KILN_I32:
        ((int32_t *)t->tensor.data)[i] = bit;
        break;
      case KILN_I64:
        ((int64_t *)t->tensor.data)[i] = bit;
        break;
      default:
        ((uint8_t *)t->tensor.data)[i] = (uint8_t)bit;
        break;
    }
  }
}

static double half_to_double(uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  double value;
  if (exponent == 31)
    value = mantissa ? NAN : INFINITY;
  else if (exponent == 0)
    value = ldexp((double)mantissa, -24);
  else
    value = ldexp((double)(mantissa + 1024), exponent - 25);
  return h & 0x8000 ? -value : value;
}

double cli_tensor_get(const kiln_tensor *t, int64_t i) {
  const void *data = (const char *)t->data + t->byte_offset;
  switch (kiln_tensor_get_dtype(t)) {
    case KILN_F32:
      return (double)((const float *)data)[i];
    case KILN_F64:
      return ((const double *)data)[i];
    case KILN_F16:
      return half_to_double(((const uint16_t *)data)[i]);
    case KILN_BF16: {
      const uint32_t raw = (uint32_t)((const uint16_t *)data)[i] << 16;
      float f;
      memcpy(&f, &raw, 4);
      return (double)f;
    }
    case KILN_I8:
      return ((const int8_t *)data)[i];
    case KILN_I16:
      return ((const int16_t *)data)[i];
    case KILN_I32:
      return ((const int32_t *)data)[i];
    case KILN_I64:
      return (double)((const int64_t *)data)[i];
    default:
      return ((const uint8_t *)data)[i];
  }
}

/* ---- Inputs ------------------------------------------------------------------------------------------------------ */

int cli_input_index(const kiln_engine *engine, const char *name, size_t length) {
  const size_t count = kiln_engine_input_count(engine);
  kiln_io_info info;
  for (size_t i = 0; i < count; i++) {
    if (kiln_engine_input(engine, i, &info) == KILN_OK && strlen(info.name) == length &&
        memcmp(info.name, name, length) == 0) {
      return (int)i;
    }
  }
  cli_error(CLI_FAILED, "the model has no input '%.*s'; its inputs are:", (int)length, name);
  for (size_t i = 0; i < count; i++) {
    if (kiln_engine_input(engine, i, &info) == KILN_OK) fprintf(stderr, "  %s\n", info.name);
  }
  return -1;
}

void cli_inputs_free(cli_tensor *inputs, size_t count) {
  for (size_t i = 0; i < count; i++) cli_tensor_free(&inputs[i]);
}

static bool input_from_text(const kiln_io_info *info, const char *text, uint64_t seed, cli_tensor *out) {
  const size_t length = strlen(text);
  if (length > 4 && strcmp(text + length - 4, ".npy") == 0) return npy_read(text, out);
  int64_t shape[KILN_MAX_RANK];
  int32_t rank;
  if (!cli_parse_shape(text, length, &rank, shape) || !cli_tensor_create(out, info->dtype, rank, shape)) return false;
  cli_tensor_fill(out, seed);
  return true;
}

static bool inputs_parse(const kiln_engine *engine, int n_args, char *const *args, cli_tensor *out, size_t count) {
  size_t position = 0;
  for (int a = 0; a < n_args; a++) {
    const char *equals = strchr(args[a], '='), *value = equals ? equals + 1 : args[a];
    int index = (int)position++;
    if (equals) index = cli_input_index(engine, args[a], (size_t)(equals - args[a]));
    if (index < 0) return false;
    if ((size_t)index >= count) {
      cli_error(CLI_FAILED, "the engine takes %zu inputs; '%s' is one too many", count, args[a]);
      return false;
    }
    if (out[index].tensor.data) {
      cli_error(CLI_USAGE, "input %d is given twice", index);
      return false;
    }
    kiln_io_info info;
    if (kiln_engine_input(engine, (size_t)index, &info) != KILN_OK) return cli_fail(), false;
    if (!input_from_text(&info, value, (uint64_t)index + 1, &out[index])) return false;
  }
  return true;
}

bool cli_inputs_create(const kiln_engine *engine, int n_args, char *const *args, bool random, cli_tensor *out,
                       size_t *out_count) {
  const size_t count = kiln_engine_input_count(engine);
  *out_count = 0;
  if (count > CLI_MAX_IO) {
    cli_error(CLI_FAILED, "the engine has %zu inputs; this program handles at most %d", count, CLI_MAX_IO);
    return false;
  }
  memset(out, 0, count * sizeof *out);
  *out_count = count;
  if (!inputs_parse(engine, n_args, args, out, count)) return false;
  for (size_t i = 0; i < count; i++) {
    kiln_io_info info;
    if (out[i].tensor.data) continue;
    if (kiln_engine_input(engine, i, &info) != KILN_OK) return cli_fail(), false;
    if (!random) {
      cli_error(CLI_USAGE, "input '%s' is missing; pass --input %s=FILE.npy", info.name, info.name);
      return false;
    }
    if (!cli_tensor_create(&out[i], info.dtype, info.rank, info.opt)) return false;
    cli_tensor_fill(&out[i], i + 1);
  }
  return true;
}
