/* Knobs and counters of the driver without a GPU, which tests find by the symbol `fake_driver`. */
#ifndef KILN_TESTS_DRIVER_H
#define KILN_TESTS_DRIVER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct fake_knobs {
  size_t room, taken; /* bytes of all GPUs and of pinned memory together */
  int allocations, frees;
  int broken; /* this GPU fails with an illegal address; -1: none */
  bool capture_fails;
  int refuses_code; /* what loading users' code answers; 0: it loads */
} fake_knobs;

#endif
