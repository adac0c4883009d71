/* How a module's arguments nest, and how its results do: `form` takes the tensors out of tuples, lists, dicts and keyword arguments, and
 * puts results together, without Python code. Whatever is not exactly as the form says goes the slow way, which explains it.
 *
 * A form is made of Python objects: an int stands for the engine's tensor of this number, None for None, tuples, lists and dicts (keys are
 * texts) for themselves. In arguments a float, bool or str stands for a value that is equal, and need not be given, nor need None.
 *
 * call_directly makes calls of a module reach its forward as nn.Module does, where no hook is in the way. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "_kiln.h"

enum { DEEPEST = 32 };

struct form {
  PyObject *names;     /* of arguments: a tuple of str or None; NULL: there are no forms of arguments */
  PyObject *arguments; /* a tuple, one entry for each name */
  PyObject *results;   /* NULL: the tuple of all outputs */
  PyObject *finish;    /* NULL, or makes the result of that tuple */
  bool flat;           /* arguments are the engine's inputs, one by one */
};

/* ---- Checking --------------------------------------------------------------------------------------------------------- */

static bool is_number_below(PyObject *x, Py_ssize_t n) {
  const Py_ssize_t at = PyLong_AsSsize_t(x);
  if (at >= 0 && at < n) return true;
  PyErr_Clear();
  return false;
}

static bool is_constant(PyObject *f) { return PyFloat_CheckExact(f) || PyBool_Check(f) || PyUnicode_CheckExact(f); }

/* Counts how often each tensor comes in `seen`. */
static bool is_form(PyObject *f, Py_ssize_t n, int *seen, int depth, bool constants) {
  if (depth > DEEPEST) return false;
  if (f == Py_None || (constants && is_constant(f))) return true;
  if (PyLong_CheckExact(f)) {
    if (!is_number_below(f, n)) return false;
    seen[PyLong_AsSsize_t(f)]++;
    return true;
  }
  if (PyDict_CheckExact(f)) {
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(f, &at, &key, &value);) {
      if (!PyUnicode_CheckExact(key) || !is_form(value, n, seen, depth + 1, constants)) return false;
    }
    return true;
  }
  if (!PyTuple_CheckExact(f) && !PyList_CheckExact(f)) return false;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(f); i++) {
    if (!is_form(PySequence_Fast_GET_ITEM(f, i), n, seen, depth + 1, constants)) return false;
  }
  return true;
}

static bool are_names(PyObject *names, Py_ssize_t n) {
  if (!PyTuple_CheckExact(names) || PyTuple_GET_SIZE(names) != n) return false;
  for (Py_ssize_t i = 0; i < n; i++) {
    PyObject *name = PyTuple_GET_ITEM(names, i);
    if (name != Py_None && !PyUnicode_CheckExact(name)) return false;
  }
  return true;
}

/* Each input must come once, or there would be garbage in what gather fills. */
static bool are_arguments(PyObject *names, PyObject *arguments, Py_ssize_t n_in, int *seen) {
  if (!PyTuple_CheckExact(arguments) || !are_names(names, PyTuple_GET_SIZE(arguments))) return false;
  if (!is_form(arguments, n_in, seen, 0, true)) return false;
  for (Py_ssize_t i = 0; i < n_in; i++) {
    if (seen[i] != 1) return false;
  }
  return true;
}

static bool is_flat(PyObject *arguments, Py_ssize_t n) {
  bool flat = PyTuple_GET_SIZE(arguments) == n;
  for (Py_ssize_t i = 0; flat && i < n; i++) {
    PyObject *x = PyTuple_GET_ITEM(arguments, i);
    flat = PyLong_CheckExact(x) && PyLong_AsSsize_t(x) == i;
  }
  return flat;
}

static PyObject *present(PyObject *x) {
  if (x == Py_None) x = NULL;
  Py_XINCREF(x);
  return x;
}

form *form_create(PyObject *names, PyObject *arguments, PyObject *results, PyObject *finish, Py_ssize_t n_in,
                  Py_ssize_t n_out) {
  int *seen = calloc((size_t)(n_in > n_out ? n_in : n_out) + 1, sizeof *seen);
  form *f = calloc(1, sizeof *f);
  bool good = seen && f && are_arguments(names, arguments, n_in, seen);
  if (good && results != Py_None) good = is_form(results, n_out, seen, 0, false);
  if (good && finish != Py_None) good = PyCallable_Check(finish);
  if (good) {
    *f = (form){present(names), present(arguments), present(results), present(finish), is_flat(arguments, n_in)};
  } else {
    free(f);
    if (!seen || !f)
      PyErr_NoMemory();
    else
      PyErr_SetString(PyExc_ValueError, "the form of the arguments or of the results is not one of this engine");
    f = NULL;
  }
  free(seen);
  return f;
}

void form_clear(form *f) {
  if (!f) return;
  Py_CLEAR(f->names);
  Py_CLEAR(f->arguments);
  Py_CLEAR(f->results);
  Py_CLEAR(f->finish);
}

void form_free(form *f) {
  form_clear(f);
  free(f);
}

int form_traverse(form *f, visitproc visit, void *arg) {
  if (!f) return 0;
  Py_VISIT(f->names);
  Py_VISIT(f->arguments);
  Py_VISIT(f->results);
  Py_VISIT(f->finish);
  return 0;
}

bool form_is_flat(const form *f) { return f->flat; }

/* ---- Arguments -------------------------------------------------------------------------------------------------------- */

static bool same_text(PyObject *a, PyObject *b) {
  return a == b || (PyUnicode_CheckExact(b) && PyUnicode_Compare(a, b) == 0);
}

/* Numbers and texts only: comparing them runs no code of others. */
static bool equals(PyObject *constant, PyObject *value) {
  const bool simple = PyUnicode_CheckExact(constant)
                          ? PyUnicode_CheckExact(value)
                          : PyLong_CheckExact(value) || PyFloat_CheckExact(value) || PyBool_Check(value);
  const int equal = simple ? PyObject_RichCompareBool(constant, value, Py_EQ) : 0;
  if (equal < 0) PyErr_Clear();
  return equal > 0;
}

static bool gather_dict(PyObject *f, PyObject *value, PyObject **out);

static bool gather_one(PyObject *f, PyObject *value, PyObject **out) {
  if (PyLong_CheckExact(f)) {
    Py_INCREF(value);
    out[PyLong_AsSsize_t(f)] = value;
    return true;
  }
  if (f == Py_None) return value == Py_None;
  if (is_constant(f)) return equals(f, value);
  if (PyDict_CheckExact(f)) return gather_dict(f, value, out);
  const bool alike = PyTuple_CheckExact(f) ? PyTuple_CheckExact(value) : PyList_CheckExact(value);
  if (!alike) return false;
  const Py_ssize_t n = PySequence_Fast_GET_SIZE(f);
  bool good = PySequence_Fast_GET_SIZE(value) == n;
  for (Py_ssize_t i = 0; good && i < n; i++)
    good = gather_one(PySequence_Fast_GET_ITEM(f, i), PySequence_Fast_GET_ITEM(value, i), out);
  return good;
}

static bool gather_dict(PyObject *f, PyObject *value, PyObject **out) {
  if (!PyDict_CheckExact(value) || PyDict_GET_SIZE(value) != PyDict_GET_SIZE(f)) return false;
  PyObject *name, *inner, *key, *item;
  for (Py_ssize_t at = 0, there = 0; PyDict_Next(f, &at, &name, &inner);) {
    if (!PyDict_Next(value, &there, &key, &item) || !same_text(name, key) || !gather_one(inner, item, out))
      return false;
  }
  return true;
}

/* The keyword argument of that name; NULL: it was not given. */
static PyObject *find_keyword(PyObject *name, PyObject *keywords, PyObject *const *values) {
  const Py_ssize_t n = keywords ? PyTuple_GET_SIZE(keywords) : 0;
  for (Py_ssize_t i = 0; name != Py_None && i < n; i++) {
    if (same_text(name, PyTuple_GET_ITEM(keywords, i))) return values[i];
  }
  return NULL;
}

bool form_gather(const form *f, PyObject *const *args, Py_ssize_t n, PyObject *keywords, PyObject **out,
                 Py_ssize_t n_out) {
  const Py_ssize_t wanted = PyTuple_GET_SIZE(f->arguments), given = n + (keywords ? PyTuple_GET_SIZE(keywords) : 0);
  Py_ssize_t found = 0;
  bool good = given <= wanted;
  for (Py_ssize_t i = 0; i < n_out; i++) out[i] = NULL;
  for (Py_ssize_t i = 0; good && i < wanted; i++) {
    PyObject *value = i < n ? args[i] : find_keyword(PyTuple_GET_ITEM(f->names, i), keywords, args + n);
    PyObject *inner = PyTuple_GET_ITEM(f->arguments, i);
    good = value ? gather_one(inner, value, out) : inner == Py_None || is_constant(inner);
    found += value != NULL;
  }
  good = good && found == given; /* else there are unknown names, or one came twice */
  for (Py_ssize_t i = 0; !good && i < n_out; i++) Py_CLEAR(out[i]);
  return good;
}

/* ---- Results ---------------------------------------------------------------------------------------------------------- */

static PyObject *build(PyObject *f, PyObject *outputs);

static PyObject *build_dict(PyObject *f, PyObject *outputs) {
  PyObject *made = PyDict_New(), *key, *inner;
  for (Py_ssize_t at = 0; made && PyDict_Next(f, &at, &key, &inner);) {
    PyObject *value = build(inner, outputs);
    if (!value || PyDict_SetItem(made, key, value) < 0) Py_CLEAR(made);
    Py_XDECREF(value);
  }
  return made;
}

static PyObject *build(PyObject *f, PyObject *outputs) {
  if (PyDict_CheckExact(f)) return build_dict(f, outputs);
  if (f == Py_None || PyLong_CheckExact(f)) {
    PyObject *x = f == Py_None ? f : PyTuple_GET_ITEM(outputs, PyLong_AsSsize_t(f));
    Py_INCREF(x);
    return x;
  }
  const bool list = PyList_CheckExact(f);
  const Py_ssize_t n = PySequence_Fast_GET_SIZE(f);
  PyObject *made = list ? PyList_New(n) : PyTuple_New(n);
  for (Py_ssize_t i = 0; made && i < n; i++) {
    PyObject *item = build(PySequence_Fast_GET_ITEM(f, i), outputs);
    if (!item)
      Py_CLEAR(made);
    else if (list)
      PyList_SET_ITEM(made, i, item);
    else
      PyTuple_SET_ITEM(made, i, item);
  }
  return made;
}

PyObject *form_results(const form *f, PyObject *outputs) {
  PyObject *made = outputs;
  if (f->finish) {
    made = PyObject_CallOneArg(f->finish, outputs);
  } else if (f->results) {
    made = build(f->results, outputs);
  } else {
    return outputs;
  }
  Py_DECREF(outputs);
  return made;
}

/* ---- Modules ---------------------------------------------------------------------------------------------------------- */

/* What nn.Module looks at in each call. Found with the first one, under the GIL. */
static struct {
  PyObject *type;   /* nn.Module */
  PyObject *module; /* its dict, where tools put another __call__ for a while */
  PyObject *call;   /* what is there otherwise */
  PyObject *global_hooks[4];
  PyObject *tracing;     /* torch._C._get_tracing_state */
  void **(*state)(void); /* what that function asks: a reference to a shared pointer; NULL: not there */
} nn;

static const char *const global_names[4] = {"_global_backward_pre_hooks", "_global_backward_hooks",
                                            "_global_forward_hooks", "_global_forward_pre_hooks"};
static const char *const own_names[5] = {"_forward_hooks", "_forward_pre_hooks", "_backward_hooks",
                                         "_backward_pre_hooks", "_compiled_call_impl"};
static PyObject *own_keys[5], *key_forward, *key_call;

static bool intern_keys(void) {
  for (int i = 0; i < 5; i++) {
    if (!own_keys[i] && !(own_keys[i] = PyUnicode_InternFromString(own_names[i]))) return false;
  }
  if (!key_call && !(key_call = PyUnicode_InternFromString("__call__"))) return false;
  if (!key_forward) key_forward = PyUnicode_InternFromString("forward");
  return key_forward != NULL;
}

/* 1: PyTorch traces, 0: it does not, -1: exception. */
static int is_tracing(void) {
  if (nn.state) return *nn.state() != NULL;
  PyObject *state = PyObject_CallNoArgs(nn.tracing);
  if (!state) return -1;
  Py_DECREF(state);
  return state != Py_None;
}

/* The function in C++ is not documented: it must say the same as the one in Python. */
static void find_state(void) {
  void *library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  void *symbol = library ? dlsym(library, "_ZN5torch3jit6tracer15getTracingStateEv") : NULL;
  void **(*state)(void) = NULL;
  memcpy(&state, &symbol, sizeof symbol);
  if (library) dlclose(library);
  const int traces = state ? is_tracing() : -1;
  if (traces >= 0 && (*state() != NULL) == traces) nn.state = state;
}

/* A PyTorch that is not as this file knows it leaves nn.tracing NULL: then all calls go its own way. */
static bool find_nn(void) {
  if (nn.call) return true;
  if (!intern_keys()) return false;
  PyObject *torch = PyImport_ImportModule("torch");
  PyObject *file = torch ? PyImport_ImportModule("torch.nn.modules.module") : NULL;
  PyObject *module = file ? PyObject_GetAttrString(file, "Module") : NULL;
  PyObject *call = module ? PyObject_GetAttr(module, key_call) : NULL;
  bool known = call && PyType_Check(module) && PyDict_Check(((PyTypeObject *)module)->tp_dict);
  for (int i = 0; known && i < 4; i++) {
    nn.global_hooks[i] = PyObject_GetAttrString(file, global_names[i]);
    known = nn.global_hooks[i] && PyDict_Check(nn.global_hooks[i]);
  }
  PyObject *c = known ? PyObject_GetAttrString(torch, "_C") : NULL;
  if (c) nn.tracing = PyObject_GetAttrString(c, "_get_tracing_state");
  if (nn.tracing) find_state();
  Py_XDECREF(c);
  Py_XDECREF(file);
  Py_XDECREF(torch);
  if (!call) {
    Py_XDECREF(module);
    return false;
  }
  PyErr_Clear();
  nn.type = module;
  nn.module = ((PyTypeObject *)module)->tp_dict;
  nn.call = call;
  return true;
}

/* No hooks, and no tracing? Where a tool puts another __call__ into nn.Module, the interpreter calls that. */
static bool is_plain(PyObject *dict) {
  if (!nn.tracing) return false;
  for (int i = 0; i < 4; i++) {
    if (PyDict_GET_SIZE(nn.global_hooks[i])) return false;
    PyObject *own = PyDict_GetItemWithError(dict, own_keys[i]);
    if (!own || !PyDict_Check(own) || PyDict_GET_SIZE(own)) return false;
  }
  PyObject *compiled = PyDict_GetItemWithError(dict, own_keys[4]);
  if (compiled && compiled != Py_None) return false;
  return is_tracing() == 0;
}

/* nn.Module.__call__(self, ...) */
static PyObject *call_as_module(PyObject *self, PyObject *args, PyObject *keywords) {
  PyObject *call = PyDict_GetItemWithError(nn.module, key_call);
  const Py_ssize_t n = PyTuple_GET_SIZE(args);
  PyObject *all = PyTuple_New(n + 1);
  if (!all) return NULL;
  Py_INCREF(self);
  PyTuple_SET_ITEM(all, 0, self);
  for (Py_ssize_t i = 0; i < n; i++) {
    PyObject *x = PyTuple_GET_ITEM(args, i);
    Py_INCREF(x);
    PyTuple_SET_ITEM(all, i + 1, x);
  }
  PyObject *result = PyObject_Call(call ? call : nn.call, all, keywords);
  Py_DECREF(all);
  return result;
}

static PyObject *module_call(PyObject *self, PyObject *args, PyObject *keywords) {
  if (!find_nn()) return NULL;
  PyObject *dict = PyObject_GenericGetDict(self, NULL);
  if (!dict) return NULL;
  const bool plain = is_plain(dict);
  PyObject *forward = plain ? PyDict_GetItemWithError(dict, key_forward) : NULL;
  PyObject *result = NULL;
  Py_XINCREF(forward);
  Py_DECREF(dict);
  if (PyErr_Occurred()) {
    Py_XDECREF(forward);
    return NULL;
  }
  if (!forward) return call_as_module(self, args, keywords);
  if (keywords && PyDict_GET_SIZE(keywords))
    result = PyObject_VectorcallDict(forward, &PyTuple_GET_ITEM(args, 0), (size_t)PyTuple_GET_SIZE(args), keywords);
  else
    result = PyObject_Vectorcall(forward, &PyTuple_GET_ITEM(args, 0), (size_t)PyTuple_GET_SIZE(args), NULL);
  Py_DECREF(forward);
  return result;
}

/* call_directly(cls): instances of this subclass of nn.Module are called without Python code where they have no hooks. The class's __call__
 * stays what it is, for tools that look at it. The interpreter undoes this where it changes nn.Module.__call__. */
static PyObject *call_directly_py(PyObject *unused, PyObject *type) {
  (void)unused;
  if (!find_nn()) return NULL;
  const bool fits = PyType_Check(type) && PyType_HasFeature((PyTypeObject *)type, Py_TPFLAGS_HEAPTYPE) &&
                    PyObject_IsSubclass(type, nn.type) > 0;
  if (!fits) {
    PyErr_SetString(PyExc_TypeError, "expected a subclass of torch.nn.Module");
    return NULL;
  }
  PyObject *call = PyObject_GetAttr(type, key_call);
  if (call == nn.call) ((PyTypeObject *)type)->tp_call = module_call;
  Py_XDECREF(call);
  if (!call) return NULL;
  Py_RETURN_NONE;
}

PyMethodDef form_methods[] = {
    {"call_directly", call_directly_py, METH_O,
     "call_directly(cls): calls instances of this nn.Module without Python code where they have no hooks."},
    {NULL, NULL, 0, NULL},
};
