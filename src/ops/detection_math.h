/* Boxes and regions of detection models, in the common part of C and CUDA C. DT is the type of the arithmetic. */
#ifndef KILN_OPS_DETECTION_MATH_H
#define KILN_OPS_DETECTION_MATH_H

#ifdef __CUDACC_RTC__
#define DET static __device__
#else
#include <math.h>
#define DET static inline
#define DT double
#endif

/* Samples along one side of a bin, where their number comes from the region's size: beyond this many they are spread over it. */
#define ROI_MAX_SAMPLES 4096

/* Is the share of what boxes a and b (x1 y1 x2 y2) have in common above the limit? */
DET int det_overlap(const DT *a, const DT *b, double limit) {
  const DT left = a[0] > b[0] ? a[0] : b[0], top = a[1] > b[1] ? a[1] : b[1];
  const DT right = a[2] < b[2] ? a[2] : b[2], bottom = a[3] < b[3] ? a[3] : b[3];
  const DT w = right > left ? right - left : 0, h = bottom > top ? bottom - top : 0;
  const DT common = w * h, first = (a[2] - a[0]) * (a[3] - a[1]), second = (b[2] - b[0]) * (b[3] - b[1]);
  return (double)(common / (first + second - common)) > limit;
}

/* One bin's side of a region: where samples begin, how far they stand apart, and how many there are. */
typedef struct det_side {
  DT start, step;
  long long count;
} det_side;

DET det_side det_bin(DT low, DT high, DT scale, long long bin, long long bins, long long sampling, int aligned) {
  const DT offset = aligned ? (DT)0.5 : (DT)0;
  const DT start = low * scale - offset;
  DT size = high * scale - offset - start;
  if (!aligned && size < 1) size = 1;
  det_side side;
  const DT one = size / (DT)bins, wanted = sampling > 0 ? (DT)sampling : ceil(one);
  side.count = wanted >= 1 ? wanted < ROI_MAX_SAMPLES ? (long long)wanted : ROI_MAX_SAMPLES : 0;
  side.step = side.count ? one / (DT)side.count : 0;
  side.start = start + one * (DT)bin + side.step / 2;
  return side;
}

/* The two places that a position reads along an axis of `size`, and the weight of the second; 0: outside. */
DET int det_places(DT at, long long size, long long *low, long long *high, DT *weight) {
  if (!(at >= -1 && at <= (DT)size) || size < 1) return 0;
  if (at < 0) at = 0;
  *low = (long long)at;
  if (*low >= size - 1) {
    *low = *high = size - 1;
    *weight = 0;
  } else {
    *high = *low + 1;
    *weight = at - (DT)*low;
  }
  return 1;
}

#endif
