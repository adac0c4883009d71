/* The extension module: the Engine object, which builds, loads, saves and describes engines, and the exception type.
 *
 * Only translation happens here; python/kiln/engine.py gives these calls their documented signatures. Everything that
 * takes long runs without the GIL. */
#include "_kiln.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

PyObject *kiln_error_type;

/* ---- Errors
 * ------------------------------------------------------------------------------------------------------------- */

PyObject *kiln_raise_text(kiln_status status, const char *format, ...) {
  PyObject *type = NULL, *cause = NULL, *trace = NULL;
  PyErr_Fetch(&type, &cause, &trace);
  if (type) {
    PyErr_NormalizeException(&type, &cause, &trace);
    if (trace && cause) PyException_SetTraceback(cause, trace);
  }
  va_list list;
  va_start(list, format);
  PyObject *text = PyUnicode_FromFormatV(format, list);
  va_end(list);
  PyObject *error = text ? PyObject_CallFunctionObjArgs(kiln_error_type, text, NULL) : NULL;
  PyObject *name = PyUnicode_FromString(kiln_status_name(status));
  if (error && name && PyObject_SetAttrString(error, "status", name) == 0) {
    if (cause) {
      PyException_SetCause(error, cause); /* takes the reference */
      cause = NULL;
    }
    PyErr_SetObject(kiln_error_type, error);
  }
  Py_XDECREF(name);
  Py_XDECREF(error);
  Py_XDECREF(text);
  Py_XDECREF(type);
  Py_XDECREF(cause);
  Py_XDECREF(trace);
  return NULL;
}

PyObject *kiln_raise(kiln_status status) {
  if (PyErr_Occurred()) return NULL; /* a progress callback raised: that is the reason */
  return kiln_raise_text(status, "%s", kiln_last_error());
}

/* ---- Building
 * ----------------------------------------------------------------------------------------------------------- */

static int dtype_from_name(const char *name, int *out_complex) {
  static const char *const complexes[] = {"c64", "c128", "c32"};
  static const kiln_dtype parts[] = {KILN_F32, KILN_F64, KILN_F16};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    if (strcmp(name, complexes[i]) != 0) continue;
    *out_complex = 1;
    return (int)parts[i];
  }
  for (int i = 0; i < KILN_DTYPE_COUNT; i++) {
    if (strcmp(name, kiln_dtype_name((kiln_dtype)i)) == 0) return i;
  }
  PyErr_Format(PyExc_ValueError,
               "dtype '%s' is unknown; expected one of f32 f64 f16 bf16 i8 u8 i16 i32 i64 bool c64 c128", name);
  return -1;
}

static int shape_from_sequence(PyObject *sequence, int64_t *out, const char *what) {
  PyObject *fast = PySequence_Fast(sequence, "a shape must be a sequence of integers");
  if (!fast) return -1;
  const Py_ssize_t n = PySequence_Fast_GET_SIZE(fast);
  int result = (int)n;
  if (n > KILN_MAX_RANK) {
    PyErr_Format(PyExc_ValueError, "%s has %zd dimensions; at most %d are supported", what, n, KILN_MAX_RANK);
    result = -1;
  }
  for (Py_ssize_t i = 0; i < n && result >= 0; i++) {
    out[i] = PyLong_AsLongLong(PySequence_Fast_GET_ITEM(fast, i));
    if (out[i] == -1 && PyErr_Occurred()) result = -1;
  }
  Py_DECREF(fast);
  return result;
}

/* Tuples (name or None, dtype name or None, min, opt, max). */
static int specs_from_list(PyObject *list, kiln_input_spec **out_specs, Py_ssize_t *out_count) {
  *out_specs = NULL;
  *out_count = 0;
  if (!list || list == Py_None) return 0;
  PyObject *fast = PySequence_Fast(list, "inputs must be a list of (name, dtype, min, opt, max) and (name, constant)");
  if (!fast) return -1;
  const Py_ssize_t n = PySequence_Fast_GET_SIZE(fast);
  kiln_input_spec *specs = calloc((size_t)n + 1, sizeof *specs);
  bool ok = specs != NULL;
  if (!ok) PyErr_NoMemory();
  for (Py_ssize_t i = 0; i < n && ok; i++) {
    PyObject *item = PySequence_Fast_GET_ITEM(fast, i), *min, *opt, *max;
    const char *dtype = NULL;
    specs[i].dtype = KILN_DTYPE_COUNT;
    if (PyTuple_Check(item) && PyTuple_GET_SIZE(item) == 2) { /* an argument that is no tensor: its text */
      ok = PyArg_ParseTuple(item, "ss", &specs[i].name, &specs[i].constant);
      continue;
    }
    ok = PyTuple_Check(item) && PyArg_ParseTuple(item, "zzOOO", &specs[i].name, &dtype, &min, &opt, &max);
    if (!ok && !PyErr_Occurred())
      PyErr_SetString(PyExc_TypeError, "each input must be a tuple (name, dtype, min, opt, max)");
    if (ok && dtype) {
      const int code = dtype_from_name(dtype, &specs[i].is_complex);
      ok = code >= 0;
      if (ok) specs[i].dtype = (kiln_dtype)code;
    }
    if (!ok) break;
    const int a = shape_from_sequence(min, specs[i].min, "min_shape"),
              b = shape_from_sequence(opt, specs[i].opt, "opt_shape");
    const int c = shape_from_sequence(max, specs[i].max, "max_shape");
    ok = a >= 0 && b >= 0 && c >= 0;
    if (ok && (a != b || a != c)) {
      PyErr_Format(PyExc_ValueError,
                   "input %zd: min_shape, opt_shape and max_shape have %d, %d and %d dimensions; they must agree", i, a,
                   b, c);
      ok = false;
    }
    specs[i].rank = a;
  }
  /* Names point into the tuples, which the caller's list keeps alive. */
  Py_DECREF(fast);
  if (!ok) {
    free(specs);
    return -1;
  }
  *out_specs = specs;
  *out_count = n;
  return 0;
}

/* Runs on the building thread, which gave up the GIL. Lets Ctrl-C through also when there is no callback. */
static int report_progress(void *user, const char *stage, double fraction) {
  PyObject *callback = user;
  const PyGILState_STATE gil = PyGILState_Ensure();
  bool failed = PyErr_CheckSignals() != 0;
  if (!failed && callback) {
    PyObject *result = PyObject_CallFunction(callback, "sd", stage, fraction);
    failed = result == NULL;
    Py_XDECREF(result);
  }
  PyGILState_Release(gil);
  return failed;
}

static PyObject *engine_new_empty(PyTypeObject *type) {
  engine_object *self = (engine_object *)type->tp_alloc(type, 0);
  return (PyObject *)self; /* tp_alloc zeroes */
}

/* {key: value} as kiln_build_options wants it; the strings stay the dictionary's. NULL: exception, or nothing to pass. */
static const char **metadata_from_dict(PyObject *dict) {
  if (!dict || dict == Py_None) return NULL;
  if (!PyDict_Check(dict)) {
    PyErr_SetString(PyExc_TypeError, "metadata must be a dict of strings");
    return NULL;
  }
  const char **list = calloc(2 * (size_t)PyDict_Size(dict) + 1, sizeof *list);
  if (!list) return (const char **)PyErr_NoMemory();
  PyObject *key, *value;
  Py_ssize_t at = 0;
  for (size_t n = 0; PyDict_Next(dict, &at, &key, &value); n += 2) {
    list[n] = PyUnicode_AsUTF8(key);
    list[n + 1] = list[n] ? PyUnicode_AsUTF8(value) : NULL;
    if (!list[n + 1]) {
      free(list);
      return NULL;
    }
  }
  return list;
}

static PyObject *engine_build_py(PyObject *cls, PyObject *args, PyObject *keywords) {
  static char *names[] = {
      "model",  "target",   "precision",           "inputs",   "tune", "cache", "threads", "progress",
      "method", "metadata", "allow_host_fallback", "profiles", NULL};
  PyObject *model, *inputs = NULL, *progress = NULL, *metadata = NULL;
  kiln_build_options options = KILN_BUILD_OPTIONS_INIT;
  int threads = 0, fallback = 0, profiles = 1; /* `inputs` has so many groups */
  if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|zzOdziOzOpi", names, &model, &options.target, &options.precision,
                                   &inputs, &options.tune_seconds, &options.tactic_cache, &threads, &progress,
                                   &options.method, &metadata, &fallback, &profiles)) {
    return NULL;
  }
  kiln_input_spec *specs;
  Py_ssize_t count;
  if (specs_from_list(inputs, &specs, &count) < 0) return NULL;
  const char **pairs = metadata_from_dict(metadata);
  if (PyErr_Occurred()) {
    free(specs);
    return NULL;
  }
  options.metadata = pairs;
  options.inputs = specs;
  if (profiles < 1) profiles = 1;
  options.profile_count = (size_t)profiles;
  options.input_count = (size_t)(count / profiles);
  options.threads = threads;
  options.allow_host_fallback = fallback;
  options.progress = report_progress;
  options.progress_user = progress == Py_None ? NULL : progress;
  engine_object *self = (engine_object *)engine_new_empty((PyTypeObject *)cls);
  PyObject *path = NULL;
  Py_buffer view = {0};
  bool ready = self != NULL;
  if (ready && PyObject_CheckBuffer(model)) {
    ready = PyObject_GetBuffer(model, &view, PyBUF_SIMPLE) == 0;
  } else if (ready) {
    ready = PyUnicode_FSConverter(model, &path) != 0;
  }
  kiln_status status = KILN_OK;
  if (ready) {
    Py_BEGIN_ALLOW_THREADS status = path
                                        ? kiln_engine_build(PyBytes_AS_STRING(path), &options, &self->engine)
                                        : kiln_engine_build_memory(view.buf, (size_t)view.len, &options, &self->engine);
    Py_END_ALLOW_THREADS if (status != KILN_OK) kiln_raise(status);
  }
  if (view.obj) PyBuffer_Release(&view);
  Py_XDECREF(path);
  free(specs);
  free(pairs);
  if (!ready || status != KILN_OK) {
    Py_XDECREF(self);
    return NULL;
  }
  return (PyObject *)self;
}

/* ---- Engine files
 * ------------------------------------------------------------------------------------------------------- */

static PyObject *engine_load_py(PyObject *cls, PyObject *data) {
  engine_object *self = (engine_object *)engine_new_empty((PyTypeObject *)cls);
  if (!self) return NULL;
  if (PyObject_GetBuffer(data, &self->view, PyBUF_SIMPLE) < 0) {
    Py_DECREF(self);
    return NULL;
  }
  const size_t size = (size_t)self->view.len;
  const void *bytes = self->view.buf;
  kiln_status status;
  if ((uintptr_t)bytes % 64 != 0 || !self->view.readonly) { /* a bytearray could change under the engine */
    self->copy = aligned_alloc(64, (size + 63) / 64 * 64 + 64);
    if (!self->copy) {
      Py_DECREF(self);
      return PyErr_NoMemory();
    }
    memcpy(self->copy, bytes, size);
    PyBuffer_Release(&self->view);
    bytes = self->copy;
  }
  Py_BEGIN_ALLOW_THREADS status = kiln_engine_load(bytes, size, &self->engine);
  Py_END_ALLOW_THREADS if (status != KILN_OK) {
    kiln_raise(status);
    Py_DECREF(self);
    return NULL;
  }
  return (PyObject *)self;
}

static PyObject *engine_open_py(PyObject *cls, PyObject *file) {
  PyObject *path = NULL;
  if (!PyUnicode_FSConverter(file, &path)) return NULL;
  engine_object *self = (engine_object *)engine_new_empty((PyTypeObject *)cls);
  kiln_status status = KILN_OK;
  if (self) {
    Py_BEGIN_ALLOW_THREADS status = kiln_engine_open(PyBytes_AS_STRING(path), &self->engine);
    Py_END_ALLOW_THREADS
  }
  Py_DECREF(path);
  if (status != KILN_OK) {
    kiln_raise(status);
    Py_CLEAR(self);
  }
  return (PyObject *)self;
}

static kiln_engine *engine_of(PyObject *object) {
  kiln_engine *engine = ((engine_object *)object)->engine;
  if (!engine)
    PyErr_SetString(PyExc_ValueError, "this Engine is empty; make one with Engine.build, Engine.open or Engine.load");
  return engine;
}

static PyObject *engine_save_py(PyObject *self, PyObject *file) {
  kiln_engine *engine = engine_of(self);
  PyObject *path = NULL;
  if (!engine || !PyUnicode_FSConverter(file, &path)) return NULL;
  kiln_status status;
  Py_BEGIN_ALLOW_THREADS status = kiln_engine_save(engine, PyBytes_AS_STRING(path));
  Py_END_ALLOW_THREADS Py_DECREF(path);
  if (status != KILN_OK) return kiln_raise(status);
  Py_RETURN_NONE;
}

static PyObject *engine_serialize_py(PyObject *self, PyObject *unused) {
  (void)unused;
  kiln_engine *engine = engine_of(self);
  if (!engine) return NULL;
  void *bytes = NULL;
  size_t size = 0;
  kiln_status status;
  Py_BEGIN_ALLOW_THREADS status = kiln_engine_serialize(engine, &bytes, &size);
  Py_END_ALLOW_THREADS if (status != KILN_OK) return kiln_raise(status);
  PyObject *result = PyBytes_FromStringAndSize(bytes, (Py_ssize_t)size);
  kiln_free(bytes);
  return result;
}

static PyObject *engine_verify_py(PyObject *self, PyObject *unused) {
  (void)unused;
  kiln_engine *engine = engine_of(self);
  if (!engine) return NULL;
  kiln_status status;
  Py_BEGIN_ALLOW_THREADS status = kiln_engine_verify(engine);
  Py_END_ALLOW_THREADS if (status != KILN_OK) return kiln_raise(status);
  Py_RETURN_NONE;
}

/* ---- Facts
 * -------------------------------------------------------------------------------------------------------------- */

static PyObject *shape_tuple(const int64_t *shape, int rank) {
  PyObject *tuple = PyTuple_New(rank);
  for (int i = 0; tuple && i < rank; i++) {
    PyObject *item = shape[i] == INT64_MAX ? (Py_INCREF(Py_None), Py_None) : PyLong_FromLongLong(shape[i]);
    if (!item)
      Py_CLEAR(tuple);
    else
      PyTuple_SET_ITEM(tuple, i, item);
  }
  return tuple;
}

typedef kiln_status (*io_fn)(const kiln_engine *, size_t profile, size_t index, kiln_io_info *);

static kiln_status get_input(const kiln_engine *engine, size_t profile, size_t index, kiln_io_info *out) {
  (void)profile;
  return kiln_engine_input(engine, index, out);
}

static kiln_status get_output(const kiln_engine *engine, size_t profile, size_t index, kiln_io_info *out) {
  (void)profile;
  return kiln_engine_output(engine, index, out);
}

/* Complex tensors as they are to Python: "c64", without the dimension of the pairs. */
static const char *complex_dtype_name(kiln_dtype part) {
  return part == KILN_F64 ? "c128" : part == KILN_F16 ? "c32" : "c64";
}

static PyObject *io_list(kiln_engine *engine, size_t count, io_fn get, size_t profile) {
  int (*const is_complex)(const kiln_engine *, size_t) =
      get == get_output ? kiln_engine_output_is_complex : kiln_engine_input_is_complex;
  PyObject *list = PyList_New((Py_ssize_t)count);
  for (size_t i = 0; list && i < count; i++) {
    kiln_io_info info;
    const kiln_status status = get(engine, profile, i, &info);
    if (status != KILN_OK) {
      Py_DECREF(list);
      return kiln_raise(status);
    }
    const char *dtype = kiln_dtype_name(info.dtype);
    if (is_complex(engine, i)) {
      dtype = complex_dtype_name(info.dtype);
      info.rank--;
    }
    PyObject *row = Py_BuildValue("(zsNNN)", info.name, dtype, shape_tuple(info.min, info.rank),
                                  shape_tuple(info.opt, info.rank), shape_tuple(info.max, info.rank));
    if (!row)
      Py_CLEAR(list);
    else
      PyList_SET_ITEM(list, (Py_ssize_t)i, row);
  }
  return list;
}

static PyObject *engine_io_py(PyObject *self, PyObject *unused) {
  (void)unused;
  kiln_engine *engine = engine_of(self);
  if (!engine) return NULL;
  PyObject *inputs = io_list(engine, kiln_engine_input_count(engine), get_input, 0);
  PyObject *outputs = inputs ? io_list(engine, kiln_engine_output_count(engine), get_output, 0) : NULL;
  if (!outputs) {
    Py_XDECREF(inputs);
    return NULL;
  }
  return Py_BuildValue("(NN)", inputs, outputs);
}

/* One list of inputs for each optimization profile. */
static PyObject *engine_profiles_py(PyObject *self, PyObject *unused) {
  (void)unused;
  kiln_engine *engine = engine_of(self);
  if (!engine) return NULL;
  const size_t count = kiln_engine_optimization_profile_count(engine);
  PyObject *list = PyList_New((Py_ssize_t)count);
  for (size_t k = 0; list && k < count; k++) {
    PyObject *inputs = io_list(engine, kiln_engine_input_count(engine), kiln_engine_optimization_profile_input, k);
    if (!inputs)
      Py_CLEAR(list);
    else
      PyList_SET_ITEM(list, (Py_ssize_t)k, inputs);
  }
  return list;
}

static PyObject *engine_metadata_py(PyObject *self, PyObject *key) {
  kiln_engine *engine = engine_of(self);
  const char *name = engine ? PyUnicode_AsUTF8(key) : NULL;
  if (!name) return NULL;
  const char *value = kiln_engine_metadata(engine, name);
  if (!value) Py_RETURN_NONE;
  return PyUnicode_DecodeUTF8(value, (Py_ssize_t)strlen(value), "replace");
}

static PyObject *engine_state_count_py(PyObject *self, PyObject *unused) {
  (void)unused;
  kiln_engine *engine = engine_of(self);
  return engine ? PyLong_FromSize_t(kiln_engine_state_count(engine)) : NULL;
}

static PyObject *engine_target_py(PyObject *self, PyObject *unused) {
  (void)unused;
  kiln_engine *engine = engine_of(self);
  return engine ? PyUnicode_FromString(kiln_engine_target(engine)) : NULL;
}

static int report_from_name(const char *name) {
  static const char *const names[] = {"graph", "plan", "memory", "why", "summary", "signature"};
  static const kiln_report kinds[] = {KILN_REPORT_GRAPH, KILN_REPORT_PLAN,    KILN_REPORT_MEMORY,
                                      KILN_REPORT_WHY,   KILN_REPORT_SUMMARY, KILN_REPORT_SIGNATURE};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (strcmp(name, names[i]) == 0) return (int)kinds[i];
  }
  PyErr_Format(PyExc_ValueError, "report '%s' is unknown; expected graph, plan, memory, why or summary", name);
  return -1;
}

static PyObject *text_result(kiln_status status, char *text) {
  if (status != KILN_OK) return kiln_raise(status);
  PyObject *result = PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
  kiln_free(text);
  return result;
}

static PyObject *engine_report_py(PyObject *self, PyObject *what) {
  kiln_engine *engine = engine_of(self);
  const char *name = engine ? PyUnicode_AsUTF8(what) : NULL;
  const int kind = name ? report_from_name(name) : -1;
  if (kind < 0) return NULL;
  char *text = NULL;
  kiln_status status;
  Py_BEGIN_ALLOW_THREADS status = kiln_engine_report(engine, (kiln_report)kind, &text);
  Py_END_ALLOW_THREADS return text_result(status, text);
}

static PyObject *engine_runner_py(PyObject *self, PyObject *args, PyObject *keywords) {
  static char *names[] = {"threads", "single", "fallback", "form", NULL};
  int threads = 0, single = 0;
  PyObject *fallback = Py_None, *form_args = Py_None;
  PyObject *argument_names, *arguments, *results, *finish;
  form *f = NULL;
  const kiln_engine *engine = engine_of(self);
  if (!engine) return NULL;
  if (!PyArg_ParseTupleAndKeywords(args, keywords, "|ipOO", names, &threads, &single, &fallback, &form_args))
    return NULL;
  if (form_args != Py_None) {
    if (fallback == Py_None || !PyTuple_Check(form_args)) {
      PyErr_SetString(PyExc_ValueError, "a form is a tuple, and needs a fallback");
      return NULL;
    }
    if (!PyArg_ParseTuple(form_args, "OOOO", &argument_names, &arguments, &results, &finish)) return NULL;
    f = form_create(argument_names, arguments, results, finish, (Py_ssize_t)kiln_engine_input_count(engine),
                    (Py_ssize_t)kiln_engine_output_count(engine));
    if (!f) return NULL;
  }
  return runner_create((engine_object *)self, threads, single != 0, fallback == Py_None ? NULL : fallback, f);
}

static void engine_dealloc(PyObject *object) {
  engine_object *self = (engine_object *)object;
  kiln_engine_destroy(self->engine);
  if (self->view.obj) PyBuffer_Release(&self->view);
  free(self->copy);
  Py_TYPE(object)->tp_free(object);
}

#define KEYWORDS(fn) ((PyCFunction)(void (*)(void))(fn))
static PyMethodDef engine_methods[] = {
    {"_build", KEYWORDS(engine_build_py), METH_VARARGS | METH_KEYWORDS | METH_CLASS, NULL},
    {"_load", engine_load_py, METH_O | METH_CLASS, NULL},
    {"_open", engine_open_py, METH_O | METH_CLASS, NULL},
    {"_save", engine_save_py, METH_O, NULL},
    {"_serialize", engine_serialize_py, METH_NOARGS, NULL},
    {"_verify", engine_verify_py, METH_NOARGS, NULL},
    {"_io", engine_io_py, METH_NOARGS, NULL},
    {"_profiles", engine_profiles_py, METH_NOARGS, NULL},
    {"_metadata", engine_metadata_py, METH_O, NULL},
    {"_state_count", engine_state_count_py, METH_NOARGS, NULL},
    {"_target", engine_target_py, METH_NOARGS, NULL},
    {"_report", engine_report_py, METH_O, NULL},
    {"_runner", KEYWORDS(engine_runner_py), METH_VARARGS | METH_KEYWORDS, NULL},
    {"_refit", engine_refit_py, METH_O, NULL},
    {"_tune", engine_tune_py, METH_VARARGS, NULL},
    {"_refit_file", engine_refit_file_py, METH_O, NULL},
    {"_weights", engine_weights_py, METH_NOARGS, NULL},
    {"_strip", engine_strip_py, METH_NOARGS, NULL},
    {"_has_weights", engine_has_weights_py, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject engine_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "kiln._kiln.Engine",
    .tp_basicsize = sizeof(engine_object),
    .tp_dealloc = engine_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_doc = "Base of kiln.Engine.",
    .tp_methods = engine_methods,
};

/* ---- Module
 * ------------------------------------------------------------------------------------------------------------- */

static PyObject *model_report_py(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *path = NULL;
  const char *what;
  if (!PyArg_ParseTuple(args, "O&s", PyUnicode_FSConverter, &path, &what)) return NULL;
  const int kind = report_from_name(what);
  char *text = NULL;
  kiln_status status = KILN_OK;
  if (kind >= 0) {
    Py_BEGIN_ALLOW_THREADS status = kiln_model_report(PyBytes_AS_STRING(path), (kiln_report)kind, &text);
    Py_END_ALLOW_THREADS
  }
  Py_DECREF(path);
  return kind < 0 ? NULL : text_result(status, text);
}

static PyObject *ops_report_py(PyObject *module, PyObject *json) {
  (void)module;
  const int as_json = PyObject_IsTrue(json);
  if (as_json < 0) return NULL;
  char *text = NULL;
  const kiln_status status = kiln_ops_report(as_json, &text);
  return text_result(status, text);
}

static PyObject *operator_supported_py(PyObject *module, PyObject *name) {
  (void)module;
  const char *text = PyUnicode_AsUTF8(name);
  return text ? PyBool_FromLong(kiln_operator_supported(text)) : NULL;
}

static PyObject *operator_takes_complex_py(PyObject *module, PyObject *name) {
  (void)module;
  const char *text = PyUnicode_AsUTF8(name);
  return text ? PyBool_FromLong(kiln_operator_takes_complex(text)) : NULL;
}

static PyMethodDef module_methods[] = {
    {"model_report", model_report_py, METH_VARARGS,
     "model_report(path, what) -> str: a report on a model file, without building it."},
    {"ops_report", ops_report_py, METH_O, "ops_report(json) -> str: operator coverage as text or JSON."},
    {"operator_supported", operator_supported_py, METH_O,
     "operator_supported(name) -> bool: is there a row for \"aten::add.Tensor\"?"},
    {"operator_takes_complex", operator_takes_complex_py, METH_O,
     "operator_takes_complex(name) -> bool: does that row take complex tensors, or make them?"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_def = {PyModuleDef_HEAD_INIT, .m_name = "kiln._kiln",
                                        .m_doc = "Kiln's C library for Python.", .m_size = -1,
                                        .m_methods = module_methods};

PyMODINIT_FUNC PyInit__kiln(void);
PyMODINIT_FUNC PyInit__kiln(void) {
  if (PyType_Ready(&engine_type) < 0 || PyType_Ready(&runner_type) < 0) return NULL;
  PyObject *module = PyModule_Create(&module_def);
  if (!module) return NULL;
  kiln_error_type = PyErr_NewExceptionWithDoc("kiln.KilnError",
                                              "Raised when the library fails. The text says what failed, where, and "
                                              "what to do; `status` is the C status name, such as "
                                              "\"KILN_UNSUPPORTED\".",
                                              PyExc_RuntimeError, NULL);
  Py_XINCREF(kiln_error_type);
  Py_INCREF(&engine_type);
  Py_INCREF(&runner_type);
  if (!kiln_error_type || PyModule_AddFunctions(module, torch_methods) < 0 ||
      PyModule_AddFunctions(module, extend_methods) < 0 || PyModule_AddFunctions(module, form_methods) < 0 ||
      PyModule_AddObject(module, "KilnError", kiln_error_type) < 0 ||
      PyModule_AddObject(module, "Engine", (PyObject *)&engine_type) < 0 ||
      PyModule_AddObject(module, "Runner", (PyObject *)&runner_type) < 0 ||
      PyModule_AddStringConstant(module, "__version__", kiln_version()) < 0) {
    Py_DECREF(module);
    return NULL;
  }
  return module;
}
