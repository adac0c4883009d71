/* What the commands of the `kiln` program share. The program uses kiln.h only, except for `diff --layers`. */
#ifndef KILN_CLI_CLI_H
#define KILN_CLI_CLI_H

#include <getopt.h>
#include <kiln/kiln.h>
#include <stdbool.h>
#include <stdio.h>

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };
enum { CLI_MAX_IO = 256 };

typedef struct cli_command {
  const char *name, *summary, *help;
  int (*run)(int argc, char **argv); /* argv[0] is the command's name */
} cli_command;

extern const cli_command cli_build, cli_run, cli_bench, cli_inspect, cli_diff, cli_ops, cli_refit, cli_tune,
    cli_torchtrtc;

/* Prints "kiln: ..." with the library's last error text. Returns CLI_FAILED. */
int cli_fail(void);
/* Prints "kiln: TEXT" and returns `code`; for CLI_USAGE also where to find help. */
int cli_error(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* For getopt_long's '?' and ':' (it has printed what was wrong). */
int cli_usage(const cli_command *command);

/* Whole-string numbers; false (with a message) unless in [min, max]. */
bool cli_parse_int(const char *text, const char *what, long min, long max, int *out);
bool cli_parse_seconds(const char *text, const char *what, double *out);

/* "1x3x224x224" or "1,3,224,224"; "" and "()" are rank 0. False with a message. */
bool cli_parse_shape(const char *text, size_t length, int32_t *out_rank, int64_t *out_shape);
int cli_dtype_from_name(const char *name); /* KILN_DTYPE_COUNT: unknown */
/* Also c64 and c128, as the dtype of their parts. */
bool cli_spec_dtype(kiln_input_spec *spec, const char *name);

/* A progress line on stderr when that is a terminal; pass as kiln_build_options.progress. */
int cli_progress(void *user, const char *stage, double fraction);
void cli_progress_end(void);

/* Is this file a model (a zip archive) rather than an engine? Missing files count as engines: opening them gives the
 * text. */
bool cli_is_model(const char *path);
/* Opens an engine, or builds a model with these options. */
kiln_status cli_open(const char *path, const kiln_build_options *options, kiln_engine **out_engine);

void cli_print_shape(FILE *file, const int64_t *shape, int rank);
void cli_print_bytes(FILE *file, double bytes); /* "12.3 MB" */

/* ---- Tensors that the program owns ------------------------------------------------------------------------------- */

typedef struct cli_tensor {
  kiln_tensor tensor; /* contiguous; shape points to `shape` */
  int64_t shape[KILN_MAX_RANK];
  size_t bytes;
} cli_tensor;

bool cli_tensor_create(cli_tensor *t, kiln_dtype dtype, int rank, const int64_t *shape); /* false with a message */
void cli_tensor_free(cli_tensor *t);
/* Uniform in [-1, 1) for floats, in [0, 2) for integers (valid as most indices); repeatable for one `seed`. */
void cli_tensor_fill(cli_tensor *t, uint64_t seed);
double cli_tensor_get(const kiln_tensor *t,
                      int64_t index); /* of a contiguous tensor, as double; complex types do not occur */
int64_t cli_tensor_numel(const kiln_tensor *t);

/* All inputs of `engine`: from "NAME=FILE.npy", "NAME=SHAPE" or without NAME by position; the rest random at their opt
 * shapes. */
bool cli_inputs_create(const kiln_engine *engine, int n_args, char *const *args, bool random, cli_tensor *out,
                       size_t *out_count);
void cli_inputs_free(cli_tensor *inputs, size_t count);

/* .npy files, versions 1 to 3, row-major or column-major, little endian. False with a message. */
bool npy_read(const char *path, cli_tensor *out);
/* `t` is contiguous; `is_complex`: its last dimension, of 2, holds the parts of complex numbers. */
bool npy_write(const char *path, const kiln_tensor *t, bool is_complex);

/* Finds `name` among the inputs; -1 with a message that lists them. */
int cli_input_index(const kiln_engine *engine, const char *name, size_t length);

/* ---- Timing ------------------------------------------------------------------------------------------------------ */

double cli_now(void);

#endif
