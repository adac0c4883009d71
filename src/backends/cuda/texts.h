/* Kernel texts of kernels/, put into the library when it is built. */
#ifndef KILN_BACKENDS_CUDA_TEXTS_H
#define KILN_BACKENDS_CUDA_TEXTS_H

extern const char cuda_text_matrix_common[], cuda_text_gemm[], cuda_text_gemm_tma[], cuda_text_wgmma[],
    cuda_text_gemm_simt[], cuda_text_attention[], cuda_text_attention_simt[], cuda_text_attention_wgmma[],
    cuda_text_depthwise[], cuda_text_conv_direct[], cuda_text_conv_stem[], cuda_text_rnn[], cuda_text_special_math[],
    cuda_text_linalg_math[], cuda_text_detection_math[];

#endif
