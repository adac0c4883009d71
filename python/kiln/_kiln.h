/* What the files of the extension share: the Engine object (_kiln.c) and the Runner object (_call.c). */
#ifndef KILN_PYTHON_KILN_H
#define KILN_PYTHON_KILN_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <kiln/kiln.h>
#include <stdbool.h>

typedef struct engine_object {
  PyObject_HEAD kiln_engine *engine; /* NULL until built or loaded */
  Py_buffer view;                    /* the bytes that a loaded engine borrows; view.obj NULL: none */
  void *copy;                        /* or an aligned copy of them */
} engine_object;

extern PyTypeObject engine_type, runner_type;
extern PyObject *kiln_error_type;

typedef struct form form;

/* Sets KilnError with the library's last error text and status name. Returns NULL. */
PyObject *kiln_raise(kiln_status status);
/* Sets KilnError with this text; an exception that was set before becomes its cause. Returns NULL. */
PyObject *kiln_raise_text(kiln_status status, const char *format, ...);
/* A runner of this engine. `fallback` (may be NULL) is called with the same arguments when they are not exactly one
 * tensor for each input; `single` returns the only output itself instead of a tuple. `f`, which it takes, may be NULL: calls then have
 * one tensor after another. */
extern PyMethodDef torch_methods[];  /* _torch.c: functions of the module */
extern PyMethodDef form_methods[];   /* _form.c: likewise */
extern PyMethodDef extend_methods[]; /* _extend.c: likewise */
PyObject *runner_create(engine_object *engine, int threads, bool single, PyObject *fallback, form *f);

/* _form.c: how arguments and results nest. */
/* `names` (of arguments: str, or None where it has none) and `arguments` are tuples of one length. NULL: an exception is set. */
form *form_create(PyObject *names, PyObject *arguments, PyObject *results, PyObject *finish, Py_ssize_t n_in,
                  Py_ssize_t n_out);
void form_free(form *f);
void form_clear(form *f);
int form_traverse(form *f, visitproc visit, void *arg);
bool form_is_flat(const form *f); /* the arguments are the inputs, one by one */
/* The engine's inputs, references of the caller; false (and no exception): the arguments do not nest like that. */
bool form_gather(const form *f, PyObject *const *args, Py_ssize_t n, PyObject *keywords, PyObject **out,
                 Py_ssize_t n_out);
PyObject *form_results(const form *f, PyObject *outputs); /* takes the tuple of outputs */

/* _weights.c: methods of Engine. */
PyObject *engine_refit_py(PyObject *self, PyObject *rows);
PyObject *engine_refit_file_py(PyObject *self, PyObject *file);
PyObject *engine_weights_py(PyObject *self, PyObject *unused);
PyObject *engine_tune_py(PyObject *self, PyObject *args);
PyObject *engine_strip_py(PyObject *self, PyObject *unused);
PyObject *engine_has_weights_py(PyObject *self, PyObject *unused);

#endif
