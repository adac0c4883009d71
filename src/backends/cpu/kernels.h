/* Every kernel file of the CPU backend exports arrays of rows, each ended by a row whose op is NULL; this is the one list of them.
 * Files of isa/ export one array per instruction set (`const kernel KERNEL(softmax_kernels)[]` is softmax_kernels_avx512[] and so
 * on); other files one array, named in CPU_PLAIN_GROUPS. Where groups share an operator, the group that stands first is better;
 * all rows of a wider instruction set come before those of a narrower one, and plain groups before scalar ones. */
#ifndef KILN_BACKENDS_CPU_KERNELS_H
#define KILN_BACKENDS_CPU_KERNELS_H

#include "backends/backend.h"

#define CPU_ISA_GROUPS(X) X(pointwise_kernels) X(cpu_gemm)
#define CPU_PLAIN_GROUPS(X)

#define CPU_DECLARE_ISA(name) extern const kernel name##_avx512[], name##_avx2[], name##_scalar[];
#define CPU_DECLARE_PLAIN(name) extern const kernel name[];
CPU_ISA_GROUPS(CPU_DECLARE_ISA)
CPU_PLAIN_GROUPS(CPU_DECLARE_PLAIN)
extern const packing cpu_packings[]; /* packing.c; ends with a NULL name */

#endif
