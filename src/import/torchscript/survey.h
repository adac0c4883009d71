/* Which operators a TorchScript file calls, found by reading its code, not by running it: branches that are never taken
 * count too. */
#ifndef KILN_IMPORT_TORCHSCRIPT_SURVEY_H
#define KILN_IMPORT_TORCHSCRIPT_SURVEY_H

#include "import/torchscript/module.h"

typedef struct ts_operator {
  const char *name; /* "aten::conv2d" */
  int64_t count;    /* calls in the program with all functions inlined, loops counted once */
  bool supported;
  const char *file; /* of the first call that was found */
  int line;
} ts_operator;

typedef struct ts_survey { /* in the archive's arena */
  ts_operator *operators;  /* by falling count */
  int32_t count;
} ts_survey;

/* The operators that calls of `root` reach; NULL: of any method of the root module. Names that work on lists, numbers
 * and strings only are left out unless they are not supported. */
kiln_status ts_survey_operators(ts_archive *a, const ts_function *root, ts_survey *out);
/* KILN_UNSUPPORTED with all operators that are not supported, their counts and places; KILN_OK if there is none. */
kiln_status ts_survey_unsupported(ts_archive *a, const ts_function *root);
/* Adds that list to the record of a failure that is on its way ("operator aten::foo is not supported"), if there is
 * more than the one that failed; the rest of the record stays. Returns `status`. */
kiln_status ts_survey_note(ts_archive *a, const ts_function *root, kiln_status status);

#endif
