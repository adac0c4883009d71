/* PyTorch's tensors to the call path: which objects are some, their memory, and new ones. With the GIL. */
#ifndef KILN_PYTHON_TORCH_IO_H
#define KILN_PYTHON_TORCH_IO_H

#include "_dlpack.h"
#include "_kiln.h"

/* Looks PyTorch up if the program has imported it. 1: known, 0: not imported, -1: exception. */
int torch_find(void);
bool torch_known(void);
/* 1: a tensor whose memory is plain, 0: no tensor, -1: exception. */
int torch_check(PyObject *object);
/* Lends a tensor's memory, shape and strides; false: an exception, or there is no such memory. */
bool torch_view(PyObject *tensor, kiln_tensor *out);
/* Does this thread record gradients? -1: exception. */
int torch_records(void);
/* Is it a lazily negated view? -1: exception. */
int torch_is_negative(PyObject *tensor);
/* PyTorch's current stream on that GPU. */
void *torch_stream(int device);
/* A new dense tensor of prototype's type, shape and device, whose memory `out_data` is then. NULL: an exception. */
PyObject *torch_new(const kiln_tensor *prototype, void **out_data);

#endif
