/* Many floats at once to 16-bit types: weights of half-precision engines. */
#ifndef KILN_BASE_HALVES_H
#define KILN_BASE_HALVES_H

#include <stddef.h>
#include <stdint.h>

/* Bit for bit what float_to_half and float_to_bf16 (ops/ref.h) give, except that finite numbers beyond the type's range (masks) become
 * its largest ones, not infinite. `in` and `out` do not overlap. */
void floats_to_f16(const float *in, uint16_t *out, size_t n);
void floats_to_bf16(const float *in, uint16_t *out, size_t n);

#endif
