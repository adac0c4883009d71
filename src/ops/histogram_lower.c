/* aten::histc: counts of values in equal parts of a range, as ones that are added up at computed places. */
#include "ops/index_lower.h"
#include "ops/lowering.h"

/* The range: as given, or that of the data, one wider on each side if they are all the same. */
static void histogram_range(lower_call *c, value *x, value **low, value **high) {
  builder *b = &c->b;
  const double min = call_float(c, "min"), max = call_float(c, "max");
  if (min < max) {
    *low = lowering_scalar_like(b, x, min);
    *high = lowering_scalar_like(b, x, max);
    return;
  }
  const int64_t axis = 0;
  value *one = lowering_scalar_like(b, x, 1);
  value *least = build(b, "amin", IN(x), ATTRS(A_INTS("axes", &axis, 1)));
  value *most = build(b, "amax", IN(x), ATTRS(A_INTS("axes", &axis, 1)));
  value *flat = build(b, "eq", IN(least, most), NO_ATTRS);
  *low = build(b, "where", IN(flat, lower_binary(b, "sub", least, one), least), NO_ATTRS);
  *high = build(b, "where", IN(flat, lower_binary(b, "add", most, one), most), NO_ATTRS);
}

kiln_status lower_histc(lower_call *c) {
  value *x, *low, *high;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  const dim bins = call_int(c, "bins");
  if (!dim_is_const(bins) || bins < 1) return LOWER_FAIL(c, "argument bins must be a number of at least 1");
  if (call_float(c, "min") > call_float(c, "max")) return LOWER_FAIL(c, "argument max is less than min");
  const dim count = type_numel(b->graph, &x->type);
  x = lower_reshape(b, x, 1, &count);
  LOWER_NEED(c, x);
  const kiln_dtype dtype = x->type.dtype;
  histogram_range(c, x, &low, &high);
  LOWER_NEED(c, high);
  value *zero = lowering_scalar_like(b, x, 0);
  value *inside =
      lower_binary(b, "logical_and", build(b, "ge", IN(x, low), NO_ATTRS), build(b, "le", IN(x, high), NO_ATTRS));
  value *place = lower_binary(b, "mul", lower_binary(b, "sub", x, low), lowering_scalar_like(b, x, (double)bins));
  place = lower_binary(b, "div", place, lower_binary(b, "sub", high, low));
  place = lower_cast(b, build(b, "where", IN(inside, place, zero), NO_ATTRS), KILN_I64);
  LOWER_NEED(c, place);
  place = lower_binary(b, "minimum", place, lowering_scalar_like(b, place, (double)bins - 1));
  value *counts = build(b, "scatter", IN(lowering_full(b, dtype, 1, &bins, 0), place, lower_cast(b, inside, dtype)),
                        ATTRS(A_INT("axis", 0), A_STR("reduce", "add"), A_BOOL("include_self", true)));
  call_return(c, 0, counts);
  return KILN_OK;
}
