/* The options of `kiln build`, which inspect and diff take too when they are given a model. */
#ifndef KILN_CLI_BUILD_OPTIONS_H
#define KILN_CLI_BUILD_OPTIONS_H

#include "cli.h"

enum {
  OPT_INPUT = 256,
  OPT_MIN,
  OPT_OPT,
  OPT_MAX,
  OPT_TARGET,
  OPT_PRECISION,
  OPT_TUNE,
  OPT_CACHE,
  OPT_THREADS,
  OPT_CONSTANT,
  OPT_METHOD,
  OPT_HOST_FALLBACK,
  OPT_PROFILE,
  OPT_CALIBRATION_CACHE,
  OPT_OWN
};

#define BUILD_OPTIONS                                                                                         \
  {"input", required_argument, NULL, OPT_INPUT}, {"min", required_argument, NULL, OPT_MIN},                   \
      {"opt", required_argument, NULL, OPT_OPT}, {"max", required_argument, NULL, OPT_MAX},                   \
      {"target", required_argument, NULL, OPT_TARGET}, {"precision", required_argument, NULL, OPT_PRECISION}, \
      {"tune", required_argument, NULL, OPT_TUNE}, {"cache", required_argument, NULL, OPT_CACHE},             \
      {"constant", required_argument, NULL, OPT_CONSTANT}, {"method", required_argument, NULL, OPT_METHOD},   \
      {"allow-host-fallback", no_argument, NULL, OPT_HOST_FALLBACK},                                          \
      {"calibration-cache", required_argument, NULL, OPT_CALIBRATION_CACHE},                                  \
      {"profile", required_argument, NULL, OPT_PROFILE}, {                                                    \
    "threads", required_argument, NULL, OPT_THREADS                                                           \
  }

enum { CLI_MAX_PROFILES = 64 };

typedef struct build_options {
  kiln_build_options options;
  kiln_input_spec specs[CLI_MAX_IO];
  int given[CLI_MAX_IO]; /* bits: min, opt, max */
  int count;
  int positions[4];                       /* how many nameless shapes each option has seen */
  const char *profiles[CLI_MAX_PROFILES]; /* texts of --profile */
  int profile_count;
  bool int8;            /* --precision int8 */
  kiln_input_spec *all; /* of all profiles, or NULL */
} build_options;

void build_options_init(build_options *b);
/* 1: used, 0: not one of these, -1: wrong value (with a message). Strings are borrowed. */
int build_options_parse(build_options *b, int option, const char *value);
bool build_options_finish(build_options *b); /* false with a message */
void build_options_free(build_options *b);

#endif
