/* int8 after training, while a model is imported: convolutions and linear layers take values rounded to int8, with the ranges of a
 * calibration cache that Python wrote (kiln/quantization.py, whose numbers these are).
 *
 * The cache is JSON: {"kiln_calibration": 1, "ranges": {name: magnitude that becomes 127}}. A name is that of the layer's input in a .pt2 file, and
 * the layer's number and operator in a TorchScript file ("0:aten::conv2d"). */
#ifndef KILN_IMPORT_CALIBRATION_H
#define KILN_IMPORT_CALIBRATION_H

#include "base/map.h"
#include "import/lower.h"

typedef struct calibration {
  const char *path;
  map ranges; /* name -> a range */
  arena arena;
  int32_t count, used; /* ranges */
  int32_t layers;      /* TorchScript: so far */
  struct script_layer *calls;
  map weights; /* .pt2: parameters and buffers -> the only operator that uses them, as its weight; "": others do, too */
} calibration;

kiln_status calibration_open(const char *path, calibration *out); /* on failure, too, `out` may be closed */
void calibration_close(calibration *c);
/* Not all ranges were used: the cache is of another model. */
kiln_status calibration_finish(const calibration *c);

/* The axis of the output channels if this is a layer whose weight (argument 1) is a floating-point constant; -1: it is not. */
int calibration_axis(lower_call *call);
/* Arguments 0 and 1 become the rounded ones, by the range of this name. */
kiln_status calibration_layer(calibration *c, lower_call *call, const char *name, int axis);
/* The same for the next call of a TorchScript method outside of branches and loops on data; nothing if it is no layer. */
kiln_status calibration_script_call(calibration *c, lower_call *call);

#endif
