/* Every kernel file of the CPU backend exports arrays of rows, each ended by a row whose op is NULL; this is the one
 * list of them. Files of isa/ export one array per instruction set (`const kernel KERNEL(softmax_kernels)[]` is
 * softmax_kernels_avx512[] and so on); other files one array, named in CPU_PLAIN_GROUPS. Where groups share an
 * operator, the group that stands first is better; all rows of a wider instruction set come before those of a narrower
 * one, and plain groups before scalar ones. */
#ifndef KILN_BACKENDS_CPU_KERNELS_H
#define KILN_BACKENDS_CPU_KERNELS_H

#include "backends/backend.h"

/* clang-format off */
#define CPU_ISA_GROUPS(X) \
  X(pointwise_kernels) \
  X(softmax_kernels) \
  X(norm_kernels) \
  X(movement_kernels) \
  X(attention_kernels) \
  X(reduce_kernels) \
  X(pool_kernels) \
  X(resize_kernels) \
  X(sampling_kernels) \
  X(cpu_gemm) \
  X(cpu_grouped) \
  X(cpu_depthwise) \
  X(cpu_conv_by_size) \
  X(cpu_winograd) \
  X(cpu_conv) \
  X(cpu_rnn)
/* clang-format on */
#define CPU_PLAIN_GROUPS(X) X(index_kernels) X(sort_kernels)

#define CPU_DECLARE_ISA(name) extern const kernel name##_avx512[], name##_avx2[], name##_scalar[];
#define CPU_DECLARE_PLAIN(name) extern const kernel name[];
CPU_ISA_GROUPS(CPU_DECLARE_ISA)
CPU_PLAIN_GROUPS(CPU_DECLARE_PLAIN)
/* For files of isa/: CPU_ROW(.op = ..., .name = "softmax." CPU_ISA_NAME, ...) is a row for the set that the file is
 * compiled for. */
#if defined(KILN_ISA_avx512)
#define CPU_ISA_NAME "avx512"
#define CPU_ROW(...) \
  { .isa = 2 /* ISA_AVX512 */, __VA_ARGS__ }
#elif defined(KILN_ISA_avx2)
#define CPU_ISA_NAME "avx2"
#define CPU_ROW(...) \
  { .isa = 1 /* ISA_AVX2 */, __VA_ARGS__ }
#else
#define CPU_ISA_NAME "scalar"
#define CPU_ROW(...) \
  { .isa = 0 /* ISA_SCALAR */, __VA_ARGS__ }
#endif

/* For fits: all operands that are present, and all results, are f32. */
bool cpu_fits_f32(const node *n, const char **why);

extern const packing cpu_packings[]; /* packing.c; ends with a NULL name */

#endif
