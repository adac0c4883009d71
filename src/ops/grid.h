/* Where grid_sample reads: shared by the reference kernel and backends. */
#ifndef KILN_OPS_GRID_H
#define KILN_OPS_GRID_H

#include <stdbool.h>
#include <stdint.h>

/* How one output position reads one dimension of the input: `count` input positions with weights. */
typedef struct taps {
  int count;
  int64_t at[4]; /* grid_sample: -1 is outside, and reads as 0 */
  double weight[4];
} taps;

typedef struct grid_axis {
  int64_t size;
  bool align_corners;
  char padding; /* z b r: first letter of the attribute */
} grid_axis;

/* `mode` is the first letter of the attribute; `coordinate` is -1 to 1 over the dimension. Any value is allowed. */
void grid_taps(const grid_axis *g, char mode, double coordinate, taps *t);

#endif
