/* What this processor can do. Decided once; KILN_ISA=scalar|avx2|avx512 in the environment lowers it (for tests). */
#ifndef KILN_BASE_CPU_FEATURES_H
#define KILN_BASE_CPU_FEATURES_H

#include <stddef.h>

typedef enum cpu_isa { ISA_SCALAR = 0, ISA_AVX2, ISA_AVX512, ISA_COUNT } cpu_isa;

cpu_isa cpu_best_isa(void); /* AVX2 means AVX2+FMA+F16C; AVX512 means F, BW, DQ, VL */
const char *cpu_isa_name(cpu_isa isa);
/* Bytes; guesses of 32 KiB, 512 KiB, 8 MiB where the system does not say. Per core (L1, L2) and shared (L3). */
size_t cpu_l1_bytes(void);
size_t cpu_l2_bytes(void);
size_t cpu_l3_bytes(void);

#endif
