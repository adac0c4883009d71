/* The extension's functions for custom operators and rewrite rules: kiln/extend.py makes them comfortable. */
#include "_kiln.h"

#include <kiln/kiln_ext.h>
#include <string.h>

static PyObject *done(kiln_status status) {
  if (status != KILN_OK) return kiln_raise(status);
  Py_RETURN_NONE;
}

static PyObject *load_plugin_py(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *path = NULL;
  if (!PyArg_ParseTuple(args, "O&", PyUnicode_FSConverter, &path)) return NULL;
  kiln_status status;
  Py_BEGIN_ALLOW_THREADS status = kiln_plugin_load(PyBytes_AS_STRING(path));
  Py_END_ALLOW_THREADS Py_DECREF(path);
  return done(status);
}

/* register_op(schema, shape_of_model, dtypes, source, name, arguments, (grid, grid, grid), (block, block, block), shared, image) */
static PyObject *register_op_py(PyObject *module, PyObject *args) {
  (void)module;
  kiln_op_def def = {.struct_size = sizeof def};
  kiln_cuda_kernel cuda = {0};
  unsigned long long shared = 0;
  const char *image = NULL;
  Py_ssize_t image_size = 0;
  if (!PyArg_ParseTuple(args, "sizzzz(zzz)(iii)K|z#", &def.schema, &def.shape_of_model, &def.dtypes, &cuda.source,
                        &cuda.name, &cuda.arguments, &cuda.grid[0], &cuda.grid[1], &cuda.grid[2], &cuda.block[0],
                        &cuda.block[1], &cuda.block[2], &shared, &image, &image_size))
    return NULL;
  cuda.shared = (size_t)shared;
  if (cuda.source || image) def.cuda = &cuda;
  def.cuda_image = image;
  def.cuda_image_size = (size_t)image_size;
  return done(kiln_op_register(&def));
}

static PyObject *register_rule_py(PyObject *module, PyObject *args) {
  (void)module;
  kiln_rule_def def = {.struct_size = sizeof def};
  if (!PyArg_ParseTuple(args, "szz", &def.name, &def.pattern, &def.replacement)) return NULL;
  return done(kiln_rule_register(&def));
}

static PyObject *op_kernels_py(PyObject *module, PyObject *name) {
  (void)module;
  const char *text = PyUnicode_AsUTF8(name);
  return text ? PyLong_FromLong(kiln_op_kernels(text)) : NULL;
}

PyMethodDef extend_methods[] = {
    {"load_plugin", load_plugin_py, METH_VARARGS, "load_plugin(path): loads a plugin of kiln/kiln_ext.h."},
    {"register_op", register_op_py, METH_VARARGS, "See kiln.register_op."},
    {"register_rule", register_rule_py, METH_VARARGS,
     "register_rule(name, pattern, replacement): see kiln.register_rule."},
    {"op_kernels", op_kernels_py, METH_O,
     "op_kernels(\"mine::scale\") -> int: 1 for a CPU kernel, 2 for a GPU one; -1: unknown."},
    {NULL, NULL, 0, NULL},
};
