/* Instruction sets by CPUID (and what the system saves of the registers), caches by sysconf. */
#include "base/cpu_features.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

static const char *const isa_names[ISA_COUNT] = {"scalar", "avx2", "avx512"};

static cpu_isa detect_isa(void) {
#if defined(__x86_64__) || defined(__i386__)
  unsigned a, b, c, d;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
  __builtin_cpu_init();
  if (!f16c || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return ISA_SCALAR;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return ISA_AVX512;
  }
  return ISA_AVX2;
#else
  return ISA_SCALAR;
#endif
}

cpu_isa cpu_best_isa(void) {
  static atomic_int decided = -1;
  int best = atomic_load_explicit(&decided, memory_order_relaxed);
  if (best >= 0) return (cpu_isa)best;
  best = (int)detect_isa();
  const char *wish = getenv("KILN_ISA");
  for (int isa = 0; wish != NULL && isa < best; isa++) {
    if (strcmp(wish, isa_names[isa]) == 0) best = isa;
  }
  atomic_store_explicit(&decided, best, memory_order_relaxed);
  return (cpu_isa)best;
}

const char *cpu_isa_name(cpu_isa isa) { return (unsigned)isa < ISA_COUNT ? isa_names[isa] : "unknown"; }

static size_t cache_bytes(int name, size_t guess) {
  const long bytes = name < 0 ? 0 : sysconf(name);
  return bytes > 0 ? (size_t)bytes : guess;
}

#ifdef _SC_LEVEL1_DCACHE_SIZE
#define CACHE_NAME(name) name
#else
#define CACHE_NAME(name) (-1)
#endif

size_t cpu_l1_bytes(void) { return cache_bytes(CACHE_NAME(_SC_LEVEL1_DCACHE_SIZE), (size_t)32 << 10); }
size_t cpu_l2_bytes(void) { return cache_bytes(CACHE_NAME(_SC_LEVEL2_CACHE_SIZE), (size_t)512 << 10); }
size_t cpu_l3_bytes(void) { return cache_bytes(CACHE_NAME(_SC_LEVEL3_CACHE_SIZE), (size_t)8 << 20); }
