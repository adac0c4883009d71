/* Geometry of channels-last convolutions, shared by the kernels. */
#ifndef KILN_BACKENDS_CPU_CONV_H
#define KILN_BACKENDS_CPU_CONV_H

#include "backends/cpu/gemm.h"

/* Sizes as of a 3-d convolution: missing leading dimensions are 1 (kernel 1, stride 1, no padding). */
typedef struct conv_geometry {
  int64_t batch, in_channels, out_channels, groups;
  int64_t in[3], out[3], kernel[3], stride[3], pad[3], dilation[3];
  int64_t taps;               /* of the whole window */
  int64_t x_batch, x_step[3]; /* strides of x in floats */
  int64_t y_batch, y_step[3];
} conv_geometry;

void conv_geometry_of(const kernel_args *a, conv_geometry *g);
/* Is the channel stride 1, so that kernels can read (or write) pixels in place? */
bool conv_pixels_contiguous(const tensor *t);
/* channels_last, f32, constant attributes that mean `transposed`. */
bool conv_fits_common(const node *n, bool transposed, const char **why);
/* Replaces the strides of x (y) in `g` by those of a contiguous tensor. */
void conv_geometry_dense_x(conv_geometry *g);
void conv_geometry_dense_y(conv_geometry *g);

#endif
