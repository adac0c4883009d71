/* Lowerings of PyTorch operators on images that have no row of their own: unfold and fold, antialiased resizing, affine
 * grids. */
#ifndef KILN_OPS_SPATIAL_LOWER_H
#define KILN_OPS_SPATIAL_LOWER_H

#include "ops/lowering.h"

kiln_status lower_im2col(lower_call *c);
kiln_status lower_col2im(lower_call *c);
kiln_status lower_upsample_antialias(lower_call *c);     /* output_size, scales_h, scales_w */
kiln_status lower_upsample_antialias_vec(lower_call *c); /* output_size or scale_factors */
kiln_status lower_affine_grid(lower_call *c);
kiln_status lower_max_unpool(lower_call *c);

#endif
