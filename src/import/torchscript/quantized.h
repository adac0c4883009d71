/* Quantized tensors in TorchScript: a tensor of integers, and how to read them (ts_qtensor).
 *
 * Quantized operators become arithmetic on the integers, held in f32, where that is exact (linear, convolutions), else
 * on the real values; both end with PyTorch's rounding. quantized.c has what keeps to tensors, quantized_layers.c what
 * has packed parameters. */
#ifndef KILN_IMPORT_TORCHSCRIPT_QUANTIZED_H
#define KILN_IMPORT_TORCHSCRIPT_QUANTIZED_H

#include "import/torchscript/interpreter.h"

/* ---- For the interpreter
 * -------------------------------------------------------------------------------------------------- */

/* Is this call about quantized tensors: by its name ("quantized.linear", "quantize_per_tensor"), or by an argument? */
bool quantized_takes(const ts_call *c);
kiln_status quantized_call(interp *it, const ts_call *c, ts_value *out);
/* Does quantized_call know this name ("quantized::linear", "aten::dequantize")? */
bool quantized_exists(const char *qualified);
/* Methods of packed parameters, such as unpack(); sets *out_handled to false for all others. */
kiln_status quantized_method(interp *it, const ts_value *self, const char *name, ts_value *out, bool *out_handled);

/* ---- Shared by its two files
 * ------------------------------------------------------------------------------------------------ */

typedef struct quantized_params { /* how results are quantized; rank 0 each */
  itensor *scale, *zero_point;    /* f64 or f32; i64 */
  kiln_dtype dtype;               /* i8, u8 or i32 */
} quantized_params;

typedef kiln_status (*quantized_fn)(interp *it, const ts_call *c, ts_value *out);
typedef struct quantized_row {
  const char *name; /* "quantized.linear" */
  quantized_fn fn;
} quantized_row;
extern const quantized_row quantized_layer_rows[]; /* ends with a NULL name */

/* Argument `name` at position `at`, or None. */
ts_value quantized_arg(const ts_call *c, int at, const char *name);
/* It must be a quantized tensor. */
kiln_status quantized_tensor(interp *it, const ts_call *c, int at, const char *name, ts_qtensor **out);
/* Scale and zero point from arguments `at` and `at + 1`. */
kiln_status quantized_params_of(interp *it, const ts_call *c, int at, kiln_dtype dtype, quantized_params *out);
/* The scale (zero point) in f32, shaped to broadcast against a tensor of that rank with its channels at `axis`. */
value *quantized_scale(interp *it, const ts_qtensor *q, int rank, int axis);
value *quantized_zero(interp *it, const ts_qtensor *q, int rank, int axis);
/* integers - zero_point in f32: exact. */
value *quantized_steps(interp *it, const ts_qtensor *q);
/* The real values in f32. */
value *quantized_real(interp *it, const ts_qtensor *q);
/* round(scaled) + zero_point as integers, where scaled is in steps; and the same from real values. */
kiln_status quantized_from_steps(interp *it, value *scaled, const quantized_params *p, ts_value *out);
kiln_status quantized_from_real(interp *it, value *real, const quantized_params *p, ts_value *out);
/* Parameters that fit the values of x, as PyTorch chooses them for activations; u8 of 7 bits with `reduce_range`. */
kiln_status quantized_choose(interp *it, value *x, bool reduce_range, quantized_params *out);
/* aten::NAME on positional arguments, which are tensors or other values; its only result. */
kiln_status quantized_aten(interp *it, const char *name, int n, const ts_value *args, value **out);
kiln_status quantized_wrap(interp *it, value *v, ts_value *out); /* a plain tensor */

#endif
