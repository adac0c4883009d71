/* Orders of convolution weights that the GPU kernels read. */
#ifndef KILN_BACKENDS_CUDA_PACKING_H
#define KILN_BACKENDS_CUDA_PACKING_H

#include "backends/backend.h"

#define PACKING_OHWI "cuda_ohwi" /* [O, I, k...] as [O, k..., I] */
#define PACKING_HWO "cuda_hwo"   /* depthwise [O, 1, k...] as [k..., O] */
#define PACKING_OHW4 "cuda_ohw4" /* [O, I, k...] as [O, k..., 4], zeros for channels I..3; I is at most 3 */
#define PACKING_HWOI "cuda_hwoi" /* transposed [I, O, k...] as [k..., O, I] */

extern const packing cuda_packings[];

#endif
