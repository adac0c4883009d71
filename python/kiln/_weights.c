/* Weights of an Engine object: list, refit, strip. Python code (weights.py) has made addresses and layouts of them. */
#include "_kiln.h"

#include <stdlib.h>
#include <string.h>

static kiln_engine *engine_of(PyObject *object) {
  kiln_engine *engine = ((engine_object *)object)->engine;
  if (!engine)
    PyErr_SetString(PyExc_ValueError, "this Engine is empty; make one with Engine.build, Engine.open or Engine.load");
  return engine;
}

typedef struct given {
  const char **names;
  kiln_tensor *tensors;
  int64_t (*layouts)[2][KILN_MAX_RANK]; /* shapes and strides */
} given;

static void given_free(given *g) {
  free(g->names);
  free(g->tensors);
  free(g->layouts);
}

static bool numbers(PyObject *tuple, int64_t *out, int32_t *out_count) {
  const Py_ssize_t n = PyTuple_Check(tuple) ? PyTuple_GET_SIZE(tuple) : -1;
  if (n < 0) {
    PyErr_SetString(PyExc_TypeError, "a shape must be a tuple");
    return false;
  }
  *out_count = n > KILN_MAX_RANK ? KILN_MAX_RANK + 1 : (int32_t)n; /* more fit no weight */
  for (Py_ssize_t i = 0; i < n && i < KILN_MAX_RANK; i++) {
    out[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, i));
    if (out[i] == -1 && PyErr_Occurred()) return false;
  }
  return true;
}

/* (name, address, dtype, shape, strides) */
static bool read_row(PyObject *row, given *g, Py_ssize_t i) {
  PyObject *address, *shape, *strides;
  const char *dtype;
  int32_t rank = 0;
  kiln_tensor *t = &g->tensors[i];
  if (!PyTuple_Check(row) ||
      !PyArg_ParseTuple(row, "sO!sOO", &g->names[i], &PyLong_Type, &address, &dtype, &shape, &strides))
    return false;
  t->data = PyLong_AsVoidPtr(address);
  if (!t->data && PyErr_Occurred()) return false;
  t->device.type = KILN_DEVICE_CPU;
  for (int d = 0; d < KILN_DTYPE_COUNT; d++) {
    if (strcmp(kiln_dtype_name((kiln_dtype)d), dtype) == 0) kiln_tensor_set_dtype(t, (kiln_dtype)d);
  }
  if (!numbers(shape, g->layouts[i][0], &rank) || !numbers(strides, g->layouts[i][1], &t->ndim)) return false;
  t->ndim = rank;
  t->shape = g->layouts[i][0];
  t->strides = g->layouts[i][1];
  return true;
}

PyObject *engine_refit_py(PyObject *self, PyObject *rows) {
  kiln_engine *engine = engine_of(self);
  if (!engine) return NULL;
  if (!PyList_Check(rows)) {
    PyErr_SetString(PyExc_TypeError, "rows must be a list");
    return NULL;
  }
  const Py_ssize_t n = PyList_GET_SIZE(rows);
  given g = {calloc((size_t)n + 1, sizeof *g.names), calloc((size_t)n + 1, sizeof *g.tensors),
             calloc((size_t)n + 1, sizeof *g.layouts)};
  bool ready = g.names && g.tensors && g.layouts;
  if (!ready) PyErr_NoMemory();
  for (Py_ssize_t i = 0; i < n && ready; i++) ready = read_row(PyList_GET_ITEM(rows, i), &g, i);
  kiln_status status = KILN_OK;
  if (ready) {
    Py_BEGIN_ALLOW_THREADS status = kiln_engine_refit(engine, g.names, g.tensors, (size_t)n);
    Py_END_ALLOW_THREADS
  }
  given_free(&g);
  if (!ready) return NULL;
  if (status != KILN_OK) return kiln_raise(status);
  Py_RETURN_NONE;
}

PyObject *engine_refit_file_py(PyObject *self, PyObject *file) {
  kiln_engine *engine = engine_of(self);
  PyObject *path = NULL;
  if (!engine || !PyUnicode_FSConverter(file, &path)) return NULL;
  kiln_status status;
  Py_BEGIN_ALLOW_THREADS status = kiln_engine_refit_file(engine, PyBytes_AS_STRING(path));
  Py_END_ALLOW_THREADS Py_DECREF(path);
  if (status != KILN_OK) return kiln_raise(status);
  Py_RETURN_NONE;
}

PyObject *engine_weights_py(PyObject *self, PyObject *unused) {
  (void)unused;
  kiln_engine *engine = engine_of(self);
  if (!engine) return NULL;
  const size_t n = kiln_engine_weight_count(engine);
  PyObject *list = PyList_New((Py_ssize_t)n);
  for (size_t i = 0; list && i < n; i++) {
    kiln_weight_info w;
    const kiln_status status = kiln_engine_weight(engine, i, &w);
    if (status != KILN_OK) {
      Py_DECREF(list);
      return kiln_raise(status);
    }
    PyObject *shape = PyTuple_New(w.rank);
    for (int32_t d = 0; shape && d < w.rank; d++) {
      PyObject *size = PyLong_FromLongLong(w.shape[d]);
      if (size)
        PyTuple_SET_ITEM(shape, d, size);
      else
        Py_CLEAR(shape);
    }
    PyObject *row = shape ? Py_BuildValue("(ssNNNN)", w.name, kiln_dtype_name(w.dtype), shape, PyBool_FromLong(w.used),
                                          PyBool_FromLong(w.required), PyBool_FromLong(w.fixed))
                          : NULL;
    if (!row)
      Py_CLEAR(list);
    else
      PyList_SET_ITEM(list, (Py_ssize_t)i, row);
  }
  return list;
}

/* (seconds, cache or None, threads) */
PyObject *engine_tune_py(PyObject *self, PyObject *args) {
  kiln_engine *engine = engine_of(self);
  PyObject *cache = NULL, *path = NULL;
  kiln_build_options options = KILN_BUILD_OPTIONS_INIT;
  if (!engine || !PyArg_ParseTuple(args, "dOi", &options.tune_seconds, &cache, &options.threads)) return NULL;
  if (cache != Py_None && !PyUnicode_FSConverter(cache, &path)) return NULL;
  if (path) options.tactic_cache = PyBytes_AS_STRING(path);
  kiln_status status;
  Py_BEGIN_ALLOW_THREADS status = kiln_engine_tune(engine, &options);
  Py_END_ALLOW_THREADS Py_XDECREF(path);
  if (status != KILN_OK) return kiln_raise(status);
  Py_RETURN_NONE;
}

PyObject *engine_strip_py(PyObject *self, PyObject *unused) {
  (void)unused;
  kiln_engine *engine = engine_of(self);
  if (!engine) return NULL;
  engine_object *stripped = (engine_object *)Py_TYPE(self)->tp_alloc(Py_TYPE(self), 0);
  if (!stripped) return NULL;
  kiln_status status;
  Py_BEGIN_ALLOW_THREADS status = kiln_engine_strip(engine, &stripped->engine);
  Py_END_ALLOW_THREADS if (status != KILN_OK) {
    kiln_raise(status);
    Py_DECREF(stripped);
    return NULL;
  }
  return (PyObject *)stripped;
}

PyObject *engine_has_weights_py(PyObject *self, PyObject *unused) {
  (void)unused;
  kiln_engine *engine = engine_of(self);
  return engine ? PyBool_FromLong(kiln_engine_has_weights(engine)) : NULL;
}
