/* The list of operator families: one line here is all that a new family file needs. */
#ifndef KILN_OPS_FAMILIES_H
#define KILN_OPS_FAMILIES_H

#include "ops/op.h"

#define OP_FAMILIES(FAMILY) \
  FAMILY(ops_pointwise)     \
  FAMILY(ops_special)       \
  FAMILY(ops_view)          \
  FAMILY(ops_movement)      \
  FAMILY(ops_creation)      \
  FAMILY(ops_index)         \
  FAMILY(ops_reduce)        \
  FAMILY(ops_sort)          \
  FAMILY(ops_softmax)       \
  FAMILY(ops_conv)          \
  FAMILY(ops_matmul)        \
  FAMILY(ops_linalg)        \
  FAMILY(ops_grouped)       \
  FAMILY(ops_norm)          \
  FAMILY(ops_attention)     \
  FAMILY(ops_pool)          \
  FAMILY(ops_resize)        \
  FAMILY(ops_detection)     \
  FAMILY(ops_rnn)           \
  FAMILY(ops_control)       \
  FAMILY(ops_misc)

#define DECLARE(name) extern const op_family name;
OP_FAMILIES(DECLARE)
#undef DECLARE

#endif
