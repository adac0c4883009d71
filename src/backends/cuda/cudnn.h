/* Convolutions by cuDNN 9, where it is installed: tactics that only the tuner chooses. */
#ifndef KILN_BACKENDS_CUDA_CUDNN_H
#define KILN_BACKENDS_CUDA_CUDNN_H

#include "backends/cuda/cublaslt.h"

/* Variants of rows from here on: cuDNN's heuristic's best engine that takes the convolution, the next one, ... */
enum { CUDNN_VARIANT = 200 };

/* A channels-last convolution in two dimensions; weights are [O, kh, kw, I / groups]. */
typedef struct cudnn_conv {
  kiln_dtype dtype;
  int64_t x[4], w[4], y[4];          /* N, C, H, W; O, I, kh, kw */
  int64_t pitch_x, pitch_y, pitch_r; /* from pixel to pixel, of the residual too */
  int64_t pad[2], pad_end[2], stride[2], dilation[2];
  bool has_bias;
} cudnn_conv;

typedef struct cudnn_plan {
  const cuda_cudnn *library; /* NULL: it has no engine for this */
  void *handle, *plan;       /* the device owns them */
  size_t workspace_at, workspace_bytes;
  int scale, shift, residual; /* operands, as in library_epilogue; 0: none */
  bool bias;
} cudnn_plan;

/* For rows: */
kiln_status cudnn_needs(device *d);
bool cudnn_fits(const node *n, const char **why);
void cudnn_close(device *d);

kiln_status cudnn_plan_make(kernel_prep *p, const cudnn_conv *c, cudnn_plan *out);
kiln_status cudnn_plan_run(const kernel_args *args, const cudnn_plan *plan, const void *x, const void *w,
                           const void *bias);

#endif
