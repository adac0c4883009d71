/* Fourier transforms as products with constant matrices. */
#ifndef KILN_IMPORT_FOURIER_H
#define KILN_IMPORT_FOURIER_H

#include "import/complex.h"

kiln_status lower_fft_r2c(lower_call *c);
kiln_status lower_fft_c2r(lower_call *c);
kiln_status lower_fft_c2c(lower_call *c);
kiln_status lower_fft(lower_call *c); /* torch.fft.*: fft_rfft2 and the like */
kiln_status lower_stft(lower_call *c);
kiln_status lower_istft(lower_call *c);

#endif
