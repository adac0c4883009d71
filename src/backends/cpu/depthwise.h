/* Depthwise convolution (one input and one output channel in each group), channels last. */
#ifndef KILN_BACKENDS_CPU_DEPTHWISE_H
#define KILN_BACKENDS_CPU_DEPTHWISE_H

#include <stdint.h>

/* `count` neighbouring output pixels of one line whose windows do not hang over the line's ends. */
typedef struct depthwise_line {
  const float *const *x; /* `rows` lines of input: the pixel under window column 0 of the first output */
  const float *const *w; /* the same rows of weights: [kernel][channels] */
  int rows;
  int64_t kernel, stride, dilation;
  int64_t x_step, y_step; /* floats from pixel to pixel */
  int64_t w_step;         /* channels of a whole pixel */
  int64_t first;          /* channel: added to all pointers */
  const float *bias;      /* NULL: none */
  float *y;
  int64_t count, channels; /* of these, `channels` are done */
  float lo, hi;
} depthwise_line;

/* One output pixel: any list of places. */
typedef struct depthwise_pixel {
  const float *const *x, *const *w;
  int64_t taps;
  const float *bias;
  float *y;
  int64_t first, channels;
  float lo, hi;
} depthwise_pixel;

typedef struct depthwise_isa {
  void (*line)(const depthwise_line *l); /* at least 8 pixels, unless the window is a common one */
  void (*pixel)(const depthwise_pixel *p);
} depthwise_isa;
extern const depthwise_isa depthwise_isa_scalar, depthwise_isa_avx2, depthwise_isa_avx512;

static inline int depthwise_line_is_common(int64_t kernel, int64_t stride, int64_t dilation) {
  return (kernel == 3 || kernel == 5 || kernel == 7) && (stride == 1 || stride == 2) && dilation == 1;
}

#endif
