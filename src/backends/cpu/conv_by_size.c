/* Convolutions of images whose sizes vary: Winograd's algorithm or the direct form, whichever is faster at the sizes of a run. Small
 * images have too few tiles to pay for the transformed weights, which are four times as large. Both forms of the weights stand in one
 * packed constant, [winograd:<NR>][gemm_b:<NR>], so this costs a quarter more memory than Winograd's alone; files have the plain form. */
#include <string.h>

#include "backends/cpu/conv.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/winograd.h"
#include "base/memory.h"

/* ---- Packing winograd+gemm_b:<NR> ---------------------------------------------------------------------------------- */

static int64_t panels_of(const tensor_type *type, int nr) { return (type->dims[0] + nr - 1) / nr; }

bool by_size_pack_size(const tensor_type *type, int nr, size_t *out) {
  size_t direct;
  if (!winograd_pack_size(type, nr, out)) return false;
  return gemm_packed_floats(type->dims[1] * 9, type->dims[0], nr, &direct) &&
         size_mul(direct, sizeof(float), &direct) && size_add(*out, direct, out);
}

int64_t by_size_pack_parts(const tensor_type *type, int nr) { return 2 * winograd_pack_parts(type, nr); }

void by_size_pack_part(const tensor_type *type, const void *plain, void *packed, int nr, int64_t part) {
  const int64_t panels = panels_of(type, nr), in = type->dims[1];
  size_t first;
  if (part < panels) {
    winograd_pack_part(type, plain, packed, nr, part);
    return;
  }
  if (!winograd_pack_size(type, nr, &first)) return;
  float *panel = (float *)(void *)((char *)packed + first) + (part - panels) * 9 * in * nr;
  gemm_pack_panel(plain, 1, 9, in * 9, 9, in, type->dims[0], nr, part - panels, panel);
}

void by_size_pack(const tensor_type *type, const void *plain, void *packed, int nr) {
  for (int64_t p = 0; p < by_size_pack_parts(type, nr); p++) by_size_pack_part(type, plain, packed, nr, p);
}

/* ---- Which --------------------------------------------------------------------------------------------------------- */

enum { FAR = 8 }; /* a size without an upper bound is taken to grow this many times */

static void range_of(const dim_table *dims, dim d, int64_t *low, int64_t *high) {
  const int64_t hint = dim_hint(dims, d);
  dim_range(dims, d, low, high);
  if (*high == DIM_UNBOUNDED || *high > hint * FAR) *high = hint * FAR;
  if (*low > hint) *low = hint;
}

/* Does the faster algorithm depend on the sizes that are possible here? */
static bool by_size_fits(const node *n, const char **why, double lanes) {
  if (!winograd_can(n, why)) return false;
  const tensor_type *w = &node_in(n, 1)->type, *y = &n->outputs[0]->type;
  const dim_table *dims = n->parent->graph->dims;
  int64_t low[3], high[3], hint[3];
  for (int i = 0; i < 3; i++) {
    range_of(dims, y->dims[i], &low[i], &high[i]);
    hint[i] = dim_hint(dims, y->dims[i]);
  }
  const bool likely = winograd_wins(w, hint, lanes);
  if (winograd_wins(w, low, lanes) == likely && winograd_wins(w, high, lanes) == likely) {
    *why = "one algorithm is faster at all sizes";
    return false;
  }
  return true;
}

/* ---- Running --------------------------------------------------------------------------------------------------------- */

typedef struct by_size_state {
  const kernel *chosen;
  void *inner;
  tensor *in;    /* operands with the weights' part of the packed constant; NULL: as they are */
  size_t offset; /* of that part */
} by_size_state;

static kiln_status by_size_prepare(kernel_prep *p, const kernel *winograd, const kernel *direct, int nr, double lanes) {
  const tensor *y = &p->args.out[0];
  const tensor_type *w = &node_in(p->args.node, 1)->type;
  by_size_state *s = ARENA_NEW(p->arena, by_size_state);
  if (!s) return KILN_NO_MEMORY("conv");
  s->chosen = winograd_wins(w, y->shape, lanes) ? winograd : direct;
  if (s->chosen == direct && p->args.in[1].packing) {
    s->in = ARENA_ARRAY(p->arena, tensor, p->args.n_in + 1);
    if (!s->in) return KILN_NO_MEMORY("conv");
    if (!winograd_pack_size(w, nr, &s->offset))
      return KILN_FAIL(KILN_INTERNAL, "conv: weights of this type are not packed so");
  }
  KILN_TRY(s->chosen->prepare(p));
  s->inner = p->state;
  p->state = s;
  return KILN_OK;
}

static kiln_status by_size_run(const kernel_args *a) {
  const by_size_state *s = a->state;
  kernel_args inner = *a;
  inner.state = s->inner;
  if (s->in) {
    memcpy(s->in, a->in, (size_t)a->n_in * sizeof *a->in);
    s->in[1].data = (char *)s->in[1].data + s->offset;
    inner.in = s->in;
  }
  return s->chosen->run(&inner);
}

#define BY_SIZE_ROWS(set, level, nr, lanes)                                                               \
  static bool by_size_fits_##set(const node *n, const char **why) { return by_size_fits(n, why, lanes); } \
  static kiln_status by_size_prepare_##set(kernel_prep *p) {                                              \
    return by_size_prepare(p, &cpu_winograd_##set[0], &cpu_conv_##set[0], nr, lanes);                     \
  }                                                                                                       \
  const kernel cpu_conv_by_size_##set[] = {                                                               \
      {.op = "conv",                                                                                      \
       .name = "conv.by_size." #set,                                                                      \
       .isa = level,                                                                                      \
       .fits = by_size_fits_##set,                                                                        \
       .prepare = by_size_prepare_##set,                                                                  \
       .run = by_size_run,                                                                                \
       .strided_in = 1,                                                                                   \
       .strided_out = 1,                                                                                  \
       .epilogue = true,                                                                                  \
       .pack_operand = 1,                                                                                 \
       .packing = "winograd+gemm_b:" #nr},                                                                \
      {.op = NULL},                                                                                       \
  };
BY_SIZE_ROWS(avx512, ISA_AVX512, 32, 32.0)
BY_SIZE_ROWS(avx2, ISA_AVX2, 16, 16.0)
BY_SIZE_ROWS(scalar, ISA_SCALAR, 4, 2.0)
