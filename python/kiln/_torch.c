/* The module's functions around PyTorch's operators (src/torch_op), which are linked into the extension: registration,
 * and what the fake kernels and tests ask for. */
#include <kiln/kiln_torch.h>

#include "_kiln.h"
#include "torch_op/instance.h"

static PyObject *torch_register_py(PyObject *module, PyObject *unused) {
  (void)module;
  (void)unused;
  const char *failure = kiln_torch_register();
  if (failure) return kiln_raise_text(KILN_UNSUPPORTED, "%s", failure);
  Py_RETURN_NONE;
}

static PyObject *torch_signature_py(PyObject *module, PyObject *size) {
  (void)module;
  const size_t bytes = PyLong_AsSize_t(size);
  if (bytes == (size_t)-1 && PyErr_Occurred()) return NULL;
  char text[4096];
  if (!instance_signature_by_size(bytes, text, sizeof text)) Py_RETURN_NONE;
  return PyUnicode_FromString(text);
}

static PyObject *torch_counts_py(PyObject *module, PyObject *unused) {
  (void)module;
  (void)unused;
  size_t instances = 0, engines = 0;
  instance_counts(&instances, &engines);
  return Py_BuildValue("(nn)", (Py_ssize_t)instances, (Py_ssize_t)engines);
}

static PyObject *torch_clear_py(PyObject *module, PyObject *unused) {
  (void)module;
  (void)unused;
  Py_BEGIN_ALLOW_THREADS kiln_torch_clear_cache();
  Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

PyMethodDef torch_methods[] = {
    {"torch_register", torch_register_py, METH_NOARGS,
     "torch_register(): registers kiln::load, kiln::execute, ... with the PyTorch that is loaded."},
    {"torch_signature", torch_signature_py, METH_O,
     "torch_signature(size) -> str or None: the signature of the live engines of this many bytes, if they agree."},
    {"torch_counts", torch_counts_py, METH_NOARGS,
     "torch_counts() -> (instances, engines): how many are alive, for tests."},
    {"torch_clear_cache", torch_clear_py, METH_NOARGS,
     "torch_clear_cache(): forgets engines of tensors that kiln::load did not make."},
    {NULL, NULL, 0, NULL},
};
