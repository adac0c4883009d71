/* Winograd's algorithm F(4x4, 3x3): transforms of tiles, and how its weights are stored. */
#ifndef KILN_BACKENDS_CPU_WINOGRAD_H
#define KILN_BACKENDS_CPU_WINOGRAD_H

#include "graph/graph.h"

enum { WINOGRAD_IN = 6, WINOGRAD_OUT = 4, WINOGRAD_PLANES = WINOGRAD_IN * WINOGRAD_IN };
enum { WINOGRAD_WEIGHTS = 16 }; /* output channels whose weights the vector code transforms at once */

typedef struct winograd_isa {
  /* The 6x6 pixels (channel 0 of each) -> value (i, j) of all channels at v + (i * 6 + j) * plane. */
  void (*input)(const float *const *x, int64_t channels, float *v, int64_t plane);
  /* The same places of m -> 4x4 pixels at y[16], with bias (or NULL), clamped to [lo, hi]. */
  void (*output)(const float *m, int64_t plane, int64_t channels, const float *bias, float *const *y, float lo,
                 float hi);
  /* Output panel `panel` of plain weights [out][in][9], into [36][out / nr][in][nr]. `nr` is a
   * multiple of WINOGRAD_WEIGHTS (scalar: of 4). */
  void (*weights)(const float *plain, int64_t out, int64_t in, int nr, int64_t panel, float *packed);
} winograd_isa;
extern const winograd_isa winograd_isa_scalar, winograd_isa_avx2, winograd_isa_avx512;

/* Packing winograd:<NR> of weights [O, I, 3, 3]: [36][O / NR][I][NR], transformed. The transform rounds, so it cannot
 * be undone: files have the plain weights, and this is made at load. Its parts are panels. */
bool winograd_pack_size(const tensor_type *type, int nr, size_t *out);
void winograd_pack(const tensor_type *type, const void *plain, void *packed, int nr);
int64_t winograd_pack_parts(const tensor_type *type, int nr);
void winograd_pack_part(const tensor_type *type, const void *plain, void *packed, int nr, int64_t part);

/* Is this a convolution that the algorithm can compute: 3x3, stride 1, constant weights? */
bool winograd_can(const node *n, const char **why);
/* Is it faster than the direct form, by an estimate, for an output of [batch, height, width]? */
bool winograd_wins(const tensor_type *weights, const int64_t *out, double lanes);

/* Packing winograd+gemm_b:<NR> (conv_by_size.c): both forms, one behind the other. */
bool by_size_pack_size(const tensor_type *type, int nr, size_t *out);
void by_size_pack(const tensor_type *type, const void *plain, void *packed, int nr);
int64_t by_size_pack_parts(const tensor_type *type, int nr);
void by_size_pack_part(const tensor_type *type, const void *plain, void *packed, int nr, int64_t part);

#endif
