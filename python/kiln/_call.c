/* The call path: a Runner is a callable object that takes tensors and gives tensors.
 *
 * PyTorch's tensors are used where they lie, with their strides; outputs are allocated by PyTorch and written in place (_torch_io.c). NumPy
 * arrays come in through the buffer protocol, everything else through __dlpack__.
 *
 * A runner keeps a stack of idle contexts. A call takes one (or makes one) and gives it back, so threads never share
 * one and a single caller always gets the same. The GIL guards the stack; it is given up only around runs that are
 * known, from the last one, to be long enough to pay for it. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "_torch_io.h"

static PyObject *name_requires_grad, *name_is_conj, *name_resolve_conj, *name_dlpack, *name_empty;
static PyObject *numpy_module;

/* ---- Runner
 * ----------------------------------------------------------------------------------------------------------------- */

typedef struct held { /* what keeps one input's memory alive during a call */
  Py_buffer view;     /* obj NULL: none */
  PyObject *capsule, *resolved;
  int64_t shape[KILN_MAX_RANK],
      strides[KILN_MAX_RANK]; /* for buffers, whose strides count bytes, and complex tensors */
} held;

typedef struct pair_view { /* the shape and strides of a complex tensor of the caller as pairs of real numbers */
  int64_t shape[KILN_MAX_RANK], strides[KILN_MAX_RANK];
} pair_view;

typedef struct asked { /* the object that an input was in the last call, to compare only, and its memory */
  const void *object, *data;
} asked;

typedef struct slot { /* a context and the room that one call needs */
  kiln_context *context;
  kiln_tensor *inputs, *outputs;
  int64_t (*shapes)[KILN_MAX_RANK]; /* of outputs */
  PyObject **made;                  /* outputs of a call in progress */
  held *holds;
  bool holding; /* is there anything in `holds`? */
  asked *asked;
  pair_view *pairs; /* for outputs of the caller; NULL: no output is complex */
  double seconds;   /* that the last run took; 0: unknown */
  int device;       /* GPU engines: which one */
  int profile;      /* that the context was told */
  struct slot *next;
} slot;

typedef struct runner_object {
  PyObject_HEAD vectorcallfunc vectorcall;
  engine_object *engine;
  PyObject *fallback;
  form *form; /* NULL: arguments are one tensor after another, results a tuple */
  slot *idle;
  int threads;
  bool single;
  bool lenient; /* inputs may require grad: the caller knows that results have no history */
  bool gpu;     /* the engine runs on a GPU: tensors may be there */
  int device;   /* where the last call ran */
  int profile;  /* optimization profile of the next calls; -1: the best one */
  Py_ssize_t n_in, n_out;
  char *complex_io; /* is it complex: inputs, then outputs; NULL: none is */
} runner_object;

static bool complex_in(const runner_object *r, Py_ssize_t i) { return r->complex_io && r->complex_io[i]; }
static bool complex_out(const runner_object *r, Py_ssize_t i) { return r->complex_io && r->complex_io[r->n_in + i]; }

/* Runs shorter than this keep the GIL: giving it up and asking for it back costs more than it gains others. Calls of a GPU only enqueue
 * work; where one took longer because the machine was busy, the next one should not wait for other threads' turns as well. */
static const double long_run_seconds = 25e-6, long_gpu_run_seconds = 100e-6;

static void slot_destroy(slot *s) {
  kiln_context_destroy(s->context);
  free(s->inputs);
  free(s->outputs);
  free(s->shapes);
  free(s->made);
  free(s->holds);
  free(s->asked);
  free(s->pairs);
  free(s);
}

static slot *slot_create(const runner_object *r, int device) {
  slot *s = calloc(1, sizeof *s);
  if (!s) return (slot *)PyErr_NoMemory();
  const size_t n_in = (size_t)r->n_in + 1, n_out = (size_t)r->n_out + 1;
  s->inputs = calloc(n_in, sizeof *s->inputs);
  s->holds = calloc(n_in, sizeof *s->holds);
  s->outputs = calloc(n_out, sizeof *s->outputs);
  s->shapes = calloc(n_out, sizeof *s->shapes);
  s->made = calloc(n_out, sizeof *s->made);
  s->asked = calloc(n_in, sizeof *s->asked);
  if (r->complex_io) s->pairs = calloc(n_out, sizeof *s->pairs);
  if (!s->inputs || !s->holds || !s->outputs || !s->shapes || !s->made || !s->asked || (r->complex_io && !s->pairs)) {
    slot_destroy(s);
    return (slot *)PyErr_NoMemory();
  }
  const kiln_context_options options = {sizeof options, r->threads};
  kiln_status status;
  s->device = device;
  s->profile = -1;
  Py_BEGIN_ALLOW_THREADS status = kiln_context_create_on(r->engine->engine, device, &options, &s->context);
  Py_END_ALLOW_THREADS if (status != KILN_OK) {
    slot_destroy(s);
    return (slot *)kiln_raise(status);
  }
  return s;
}

/* The newest idle slot of this GPU, or a new one. */
static slot *slot_find(runner_object *r, int device) {
  for (slot **at = &r->idle; *at; at = &(*at)->next) {
    slot *s = *at;
    if (s->device != device) continue;
    *at = s->next;
    return s;
  }
  return slot_create(r, device);
}

static slot *slot_acquire(runner_object *r, int device) {
  slot *s = slot_find(r, device);
  if (!s || s->profile == r->profile) return s;
  const kiln_status status = kiln_context_set_optimization_profile(s->context, r->profile);
  if (status == KILN_OK) {
    s->profile = r->profile;
    return s;
  }
  s->next = r->idle;
  r->idle = s;
  return (slot *)kiln_raise(status);
}

static void slot_release(runner_object *r, slot *s) {
  for (Py_ssize_t i = 0; s->holding && i < r->n_in; i++) {
    held *h = &s->holds[i];
    if (h->view.obj) PyBuffer_Release(&h->view);
    h->view.obj = NULL;
    Py_CLEAR(h->capsule);
    Py_CLEAR(h->resolved);
  }
  s->holding = false;
  s->next = r->idle;
  r->idle = s;
}

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Complex tensors, which engines have as pairs of real numbers
 * ---------------------------------------------------------------- */

/* Inputs that are complex to the model, and only those, must be given as complex numbers. */
static bool read_complex(const runner_object *r, slot *s, Py_ssize_t index) {
  kiln_tensor *t = &s->inputs[index];
  held *h = &s->holds[index];
  kiln_io_info info;
  const bool is_complex = t->dtype.code == DL_COMPLEX;
  if (is_complex == complex_in(r, index)) {
    if (!is_complex || dl_as_pairs(t, h->shape, h->strides)) return true;
    kiln_raise_text(KILN_INVALID_ARGUMENT, "input %zd (%s): a complex tensor has at most %d dimensions", index,
                    kiln_engine_input(r->engine->engine, (size_t)index, &info) == KILN_OK ? info.name : "?",
                    KILN_MAX_RANK - 1);
    return false;
  }
  const char *name = kiln_engine_input(r->engine->engine, (size_t)index, &info) == KILN_OK ? info.name : "?";
  if (is_complex)
    kiln_raise_text(KILN_INVALID_ARGUMENT,
                    "input %zd (%s) is complex; pass torch.view_as_real(input) to a model that takes real numbers",
                    index, name);
  else
    kiln_raise_text(KILN_INVALID_ARGUMENT,
                    "input %zd (%s) is real, but the model takes complex numbers; pass torch.view_as_complex(input) of "
                    "pairs, or input.to(torch.complex64)",
                    index, name);
  return false;
}

/* ---- Input: PyTorch
 * ----------------------------------------------------------------------------------------------------------- */

static const char *input_name(const runner_object *r, Py_ssize_t index, kiln_io_info *info) {
  return kiln_engine_input(r->engine->engine, (size_t)index, info) == KILN_OK ? info->name : "?";
}

/* Autograd cannot see through an engine: say so instead of returning tensors without history. */
static bool torch_check_grad(const runner_object *r, PyObject *object, Py_ssize_t index) {
  if (r->lenient) return true;
  const int recording = torch_records();
  if (recording <= 0) return recording == 0;
  PyObject *flag = PyObject_GetAttr(object, name_requires_grad);
  if (!flag) return false;
  Py_DECREF(flag);
  if (flag != Py_True) return true;
  kiln_io_info info;
  kiln_raise_text(
      KILN_INVALID_ARGUMENT,
      "input %zd (%s) requires grad, but an engine computes inference only and has no backward; call it under "
      "torch.no_grad() or torch.inference_mode(), or pass input.detach()",
      index, input_name(r, index, &info));
  return false;
}

/* Views of the imaginary parts of complex numbers can be negated lazily: their strides are even. */
static bool may_be_negative(const kiln_tensor *t) {
  for (int32_t d = t->ndim - 1; t->strides && d >= 0; d--) {
    if (t->shape[d] > 1 && t->strides[d] % 2 != 0) return false;
  }
  return true;
}

/* Asking takes longer than all else that is done for an input: the last call's object is not asked again if its strides tell that it is
 * no such view, which only PyTorch's internals could deceive. */
static bool torch_check_negative(const runner_object *r, slot *s, PyObject *object, Py_ssize_t index) {
  const kiln_tensor *t = &s->inputs[index];
  asked *last = &s->asked[index];
  if (last->object == object && last->data == t->data && !may_be_negative(t)) return true;
  const int negative = torch_is_negative(object);
  if (negative < 0) return false;
  if (!negative) {
    *last = (asked){object, t->data};
    return true;
  }
  kiln_io_info info;
  kiln_raise_text(KILN_INVALID_ARGUMENT, "input %zd (%s) is a lazily negated view; pass input.resolve_neg()", index,
                  input_name(r, index, &info));
  return false;
}

/* A lazily conjugated view has the memory of what it conjugates. NULL: an exception. */
static PyObject *torch_resolve(slot *s, PyObject *object, Py_ssize_t index) {
  PyObject *flag = PyObject_CallMethodNoArgs(object, name_is_conj);
  if (!flag) return NULL;
  const bool lazy = flag == Py_True;
  Py_DECREF(flag);
  if (!lazy) return object;
  s->holding = true;
  s->holds[index].resolved = PyObject_CallMethodNoArgs(object, name_resolve_conj);
  return s->holds[index].resolved;
}

static bool read_torch(const runner_object *r, slot *s, PyObject *object, Py_ssize_t index) {
  kiln_tensor *t = &s->inputs[index];
  if (!torch_check_grad(r, object, index)) return false;
  if (complex_in(r, index) && !(object = torch_resolve(s, object, index))) return false;
  kiln_io_info info;
  if (!torch_view(object, t)) {
    kiln_raise_text(KILN_INVALID_ARGUMENT, "input %zd (%s) cannot be read in place; expected a dense tensor on the CPU",
                    index, input_name(r, index, &info));
    return false;
  }
  if (t->device.type != KILN_DEVICE_CPU && !(r->gpu && t->device.type == KILN_DEVICE_CUDA)) {
    kiln_raise_text(KILN_INVALID_ARGUMENT,
                    "input %zd (%s) is not on the CPU (DLPack device type %d), but the engine's target is %s; pass "
                    "input.cpu()",
                    index, input_name(r, index, &info), (int)t->device.type, kiln_engine_target(r->engine->engine));
    return false;
  }
  return read_complex(r, s, index) && torch_check_negative(r, s, object, index);
}

/* ---- Input: others
 * -------------------------------------------------------------------------------------------------------------- */

static bool read_buffer(const runner_object *r, slot *s, PyObject *object, Py_ssize_t index) {
  kiln_tensor *t = &s->inputs[index];
  held *h = &s->holds[index];
  kiln_io_info info;
  if (PyObject_GetBuffer(object, &h->view, PyBUF_STRIDES | PyBUF_FORMAT) < 0) {
    h->view.obj = NULL;
    kiln_raise_text(KILN_INVALID_ARGUMENT, "input %zd (%s): a %s cannot be read in place", index,
                    input_name(r, index, &info), Py_TYPE(object)->tp_name);
    return false;
  }
  const Py_buffer *v = &h->view;
  if (!dl_dtype_from_format(v->format, v->itemsize, t)) {
    kiln_raise_text(KILN_INVALID_ARGUMENT, "input %zd (%s): element type '%s' is not supported; expected dtype %s",
                    index, input_name(r, index, &info), v->format ? v->format : "B", kiln_dtype_name(info.dtype));
    return false;
  }
  bool ok = v->ndim <= KILN_MAX_RANK;
  for (int i = 0; ok && i < v->ndim; i++) {
    h->shape[i] = v->shape[i];
    h->strides[i] = v->strides[i] / v->itemsize;
    ok = v->strides[i] % v->itemsize == 0;
  }
  if (!ok || (uintptr_t)v->buf % (uintptr_t)v->itemsize != 0) {
    kiln_raise_text(
        KILN_INVALID_ARGUMENT,
        "input %zd (%s): expected at most %d dimensions and strides that are multiples of the element size; pass "
        "numpy.ascontiguousarray(input)",
        index, input_name(r, index, &info), KILN_MAX_RANK);
    return false;
  }
  t->data = v->buf;
  t->device.type = KILN_DEVICE_CPU;
  t->device.id = 0;
  t->ndim = v->ndim;
  t->shape = h->shape;
  t->strides = h->strides;
  t->byte_offset = 0;
  return read_complex(r, s, index);
}

static bool read_dlpack(const runner_object *r, slot *s, PyObject *object, Py_ssize_t index) {
  held *h = &s->holds[index];
  kiln_io_info info;
  h->capsule = PyObject_CallMethodNoArgs(object, name_dlpack);
  const kiln_tensor *t = NULL;
  if (h->capsule && PyCapsule_IsValid(h->capsule, "dltensor_versioned")) {
    const dl_managed *m = PyCapsule_GetPointer(h->capsule, "dltensor_versioned");
    if (m->version.major == 1) t = &m->tensor;
  } else if (h->capsule && PyCapsule_IsValid(h->capsule, "dltensor")) {
    t = &((const dl_managed_old *)PyCapsule_GetPointer(h->capsule, "dltensor"))->tensor;
  }
  if (!t || t->device.type != KILN_DEVICE_CPU) {
    kiln_raise_text(
        KILN_INVALID_ARGUMENT,
        "input %zd (%s): expected a torch.Tensor, a numpy.ndarray or an object with __dlpack__ on the CPU, got %s",
        index, input_name(r, index, &info), Py_TYPE(object)->tp_name);
    return false;
  }
  s->inputs[index] = *t; /* the capsule keeps it alive; never renamed, so its destructor releases it */
  return read_complex(r, s, index);
}

/* 1: read, and it is a PyTorch tensor; 0: read; -1: exception. */
static int read_input(const runner_object *r, slot *s, PyObject *object, Py_ssize_t index) {
  const int is_torch = torch_check(object);
  if (is_torch < 0) return -1;
  if (is_torch) return read_torch(r, s, object, index) ? 1 : -1;
  s->holding = true;
  const bool ok = PyObject_CheckBuffer(object) ? read_buffer(r, s, object, index) : read_dlpack(r, s, object, index);
  return ok ? 0 : -1;
}

/* ---- Outputs
 * ----------------------------------------------------------------------------------------------------------------------
 */

/* The first input on a GPU; NULL: all are on the host. */
static const kiln_tensor *gpu_input(const runner_object *r, const slot *s) {
  for (Py_ssize_t i = 0; r->gpu && i < r->n_in; i++) {
    if (s->inputs[i].device.type == KILN_DEVICE_CUDA) return &s->inputs[i];
  }
  return NULL;
}

static bool make_torch_outputs(const runner_object *r, slot *s) {
  const kiln_tensor *there = gpu_input(r, s);
  for (Py_ssize_t i = 0; i < r->n_out; i++) {
    kiln_tensor *t = &s->outputs[i];
    t->device.type = there ? KILN_DEVICE_CUDA : KILN_DEVICE_CPU;
    t->device.id = there ? there->device.id : 0;
    t->strides = NULL;
    t->byte_offset = 0;
    const kiln_tensor prototype =
        complex_out(r, i) ? dl_as_complex(t) : *t; /* as pairs: dense, as all that is made here */
    if (!(s->made[i] = torch_new(&prototype, &t->data))) {
      kiln_raise_text(KILN_OUT_OF_MEMORY, "PyTorch could not allocate output %zd", i);
      return false;
    }
  }
  return true;
}

static PyObject *take_torch_output(slot *s, Py_ssize_t i) {
  PyObject *made = s->made[i];
  s->made[i] = NULL;
  return made;
}

static void drop_torch_outputs(const runner_object *r, slot *s) {
  for (Py_ssize_t i = 0; i < r->n_out; i++) Py_CLEAR(s->made[i]);
}

static const char *numpy_dtype(kiln_dtype dtype) {
  switch (dtype) {
    case KILN_F32:
      return "float32";
    case KILN_F64:
      return "float64";
    case KILN_F16:
      return "float16";
    case KILN_I8:
      return "int8";
    case KILN_U8:
      return "uint8";
    case KILN_I16:
      return "int16";
    case KILN_I32:
      return "int32";
    case KILN_I64:
      return "int64";
    case KILN_BOOL:
      return "bool";
    default:
      return NULL;
  }
}

/* A new numpy.ndarray for output `i`, whose memory the output then points at. */
static PyObject *make_numpy_output(const runner_object *r, slot *s, Py_ssize_t i) {
  kiln_tensor *t = &s->outputs[i];
  const kiln_dtype dtype = kiln_tensor_get_dtype(t);
  const bool pairs = complex_out(r, i);
  const int ndim = t->ndim - pairs;
  const char *name = pairs ? (dtype == KILN_F32   ? "complex64"
                              : dtype == KILN_F64 ? "complex128"
                                                  : NULL)
                           : numpy_dtype(dtype);
  if (!name) {
    return kiln_raise_text(KILN_UNSUPPORTED, "output %zd is %s, which NumPy does not have; call with torch tensors", i,
                           kiln_dtype_name(dtype));
  }
  if (!numpy_module && !(numpy_module = PyImport_ImportModule("numpy"))) {
    return kiln_raise_text(KILN_INVALID_ARGUMENT,
                           "outputs are made as NumPy arrays when no input is a torch tensor, but NumPy is not "
                           "installed; pip install numpy");
  }
  PyObject *shape = PyTuple_New(ndim);
  for (int d = 0; shape && d < ndim; d++) {
    PyObject *size = PyLong_FromLongLong(s->shapes[i][d]);
    if (!size)
      Py_CLEAR(shape);
    else
      PyTuple_SET_ITEM(shape, d, size);
  }
  PyObject *dtype_name = shape ? PyUnicode_FromString(name) : NULL;
  PyObject *array = dtype_name ? PyObject_CallMethodObjArgs(numpy_module, name_empty, shape, dtype_name, NULL) : NULL;
  Py_XDECREF(shape);
  Py_XDECREF(dtype_name);
  Py_buffer view;
  if (!array || PyObject_GetBuffer(array, &view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0) {
    Py_XDECREF(array);
    return NULL;
  }
  t->data = view.buf; /* `array` stays alive, and nobody else can resize it yet */
  t->device.type = KILN_DEVICE_CPU;
  t->device.id = 0;
  t->strides = NULL;
  t->byte_offset = 0;
  PyBuffer_Release(&view);
  return array;
}

/* Runs are enqueued on PyTorch's current stream. */
static kiln_status follow_stream(const runner_object *r, slot *s) {
  const kiln_tensor *there = torch_known() ? gpu_input(r, s) : NULL;
  return there ? kiln_context_set_stream(s->context, torch_stream(there->device.id)) : KILN_OK;
}

static bool run_slot(const runner_object *r, slot *s) {
  kiln_status status = KILN_OK;
  const bool release = s->seconds == 0 || s->seconds > (r->gpu ? long_gpu_run_seconds : long_run_seconds);
  const double start = seconds_now();
  if (release) {
    Py_BEGIN_ALLOW_THREADS status =
        kiln_context_run(s->context, s->inputs, (size_t)r->n_in, s->outputs, (size_t)r->n_out);
    Py_END_ALLOW_THREADS
  } else {
    status = kiln_context_run(s->context, s->inputs, (size_t)r->n_in, s->outputs, (size_t)r->n_out);
  }
  s->seconds = seconds_now() - start;
  if (status != KILN_OK) kiln_raise(status);
  return status == KILN_OK;
}

/* Is there an output whose size depends on data? Its shape is known after the run. */
static bool has_open_sizes(const runner_object *r, const slot *s) {
  for (Py_ssize_t i = 0; i < r->n_out; i++) {
    for (int d = 0; d < s->outputs[i].ndim; d++) {
      if (s->shapes[i][d] < 0) return true;
    }
  }
  return false;
}

/* Runs into the engine's memory, and notes what it lent and the shapes. NULL: an error is set. Free with PyMem_Free. */
static kiln_tensor *run_lent(const runner_object *r, slot *s) {
  kiln_tensor *lent = PyMem_Calloc((size_t)r->n_out + 1, sizeof *lent);
  if (!lent) {
    PyErr_NoMemory();
    return NULL;
  }
  for (Py_ssize_t i = 0; i < r->n_out; i++) memset(&s->outputs[i], 0, sizeof s->outputs[i]);
  if (!run_slot(r, s)) {
    PyMem_Free(lent);
    return NULL;
  }
  for (Py_ssize_t i = 0; i < r->n_out; i++) {
    kiln_tensor *t = &s->outputs[i];
    lent[i] = *t; /* its shape is the context's, and lives until the next call */
    for (int d = 0; d < t->ndim; d++) s->shapes[i][d] = t->shape[d];
    t->shape = s->shapes[i];
    t->strides = NULL;
  }
  return lent;
}

/* What is lent is where the outputs are to be. */
static bool copy_lent(slot *s, const kiln_tensor *lent, Py_ssize_t i) {
  const kiln_status status = kiln_context_copy(s->context, &lent[i], &s->outputs[i]);
  if (status != KILN_OK) kiln_raise(status);
  return status == KILN_OK;
}

static bool run_into_torch_outputs(const runner_object *r, slot *s) {
  if (!has_open_sizes(r, s)) return make_torch_outputs(r, s) && run_slot(r, s);
  kiln_tensor *lent = run_lent(r, s);
  if (!lent) return false;
  bool made = make_torch_outputs(r, s);
  for (Py_ssize_t i = 0; made && i < r->n_out; i++) made = copy_lent(s, lent, i);
  PyMem_Free(lent);
  return made;
}

static PyObject *run_torch(const runner_object *r, slot *s) {
  PyObject *result = NULL;
  if (run_into_torch_outputs(r, s)) {
    if (r->single) {
      result = take_torch_output(s, 0);
    } else {
      result = PyTuple_New(r->n_out);
      for (Py_ssize_t i = 0; result && i < r->n_out; i++) {
        PyObject *item = take_torch_output(s, i);
        if (!item)
          Py_CLEAR(result);
        else
          PyTuple_SET_ITEM(result, i, item);
      }
    }
  }
  if (!result) drop_torch_outputs(r, s);
  return result;
}

static PyObject *run_numpy(const runner_object *r, slot *s) {
  kiln_tensor *lent = NULL;
  if (has_open_sizes(r, s) && !(lent = run_lent(r, s))) return NULL;
  PyObject *result = PyTuple_New(r->n_out);
  for (Py_ssize_t i = 0; result && i < r->n_out; i++) {
    PyObject *array = make_numpy_output(r, s, i);
    if (!array)
      Py_CLEAR(result);
    else
      PyTuple_SET_ITEM(result, i, array);
  }
  for (Py_ssize_t i = 0; result && lent && i < r->n_out; i++) {
    if (!copy_lent(s, lent, i)) Py_CLEAR(result);
  }
  const bool done = result && (lent || run_slot(r, s));
  PyMem_Free(lent);
  if (!done) {
    Py_XDECREF(result);
    return NULL;
  }
  if (!r->single) return result;
  PyObject *only = PyTuple_GET_ITEM(result, 0);
  Py_INCREF(only);
  Py_DECREF(result);
  return only;
}

/* Reads the inputs into a slot of the GPU that they are on. `*out_torch`: is one a PyTorch tensor? NULL: an exception. */
static slot *slot_with_inputs(runner_object *r, PyObject *const *args, Py_ssize_t n, bool *out_torch) {
  slot *s = slot_acquire(r, r->device);
  for (int attempt = 0; s; attempt++) {
    *out_torch = false;
    for (Py_ssize_t i = 0; i < n; i++) {
      const int kind = read_input(r, s, args[i], i);
      if (kind < 0) {
        slot_release(r, s);
        return NULL;
      }
      *out_torch |= kind > 0;
    }
    const kiln_tensor *there = gpu_input(r, s);
    const int device = there ? there->device.id : s->device;
    if (device == s->device || attempt) break; /* inputs on two GPUs: preparing says so */
    slot_release(r, s);
    s = slot_acquire(r, device);
  }
  if (s) r->device = s->device;
  return s;
}

/* `torch_outputs`: -1 makes outputs of the kind that the inputs are. */
static PyObject *runner_run(runner_object *r, PyObject *const *args, Py_ssize_t n, int torch_outputs) {
  if (n != r->n_in) {
    return kiln_raise_text(KILN_INVALID_ARGUMENT, "the engine takes %zd input%s, got %zd", r->n_in,
                           r->n_in == 1 ? "" : "s", n);
  }
  bool torch_seen = false;
  slot *s = slot_with_inputs(r, args, n, &torch_seen);
  if (!s) return NULL;
  PyObject *result = NULL;
  for (Py_ssize_t i = 0; i < r->n_out; i++) {
    memset(&s->outputs[i], 0, sizeof s->outputs[i]);
    s->outputs[i].shape = s->shapes[i];
  }
  kiln_status status = r->gpu ? follow_stream(r, s) : KILN_OK;
  if (status == KILN_OK) status = kiln_context_prepare(s->context, s->inputs, (size_t)n, s->outputs, (size_t)r->n_out);
  if (status != KILN_OK) {
    kiln_raise(status);
    goto done;
  }
  if (torch_outputs < 0) torch_outputs = n ? torch_seen : torch_find() > 0;
  if (PyErr_Occurred()) goto done;
  result = torch_outputs ? run_torch(r, s) : run_numpy(r, s);
done:
  slot_release(r, s);
  return result;
}

/* ---- The type
 * -----------------------------------------------------------------------------------------------------------------------
 */

/* All of them tensors of PyTorch whose memory is plain? */
static bool are_torch(PyObject *const *args, Py_ssize_t n) {
  for (Py_ssize_t i = 0; i < n; i++) {
    const int is_torch = torch_check(args[i]);
    if (is_torch < 0) PyErr_Clear(); /* fake tensors, while something traces; for others the fallback raises it again */
    if (is_torch <= 0) return false;
  }
  return true;
}

static PyObject *finish(const runner_object *r, PyObject *result) {
  return result && r->form && !r->single ? form_results(r->form, result) : result;
}

enum { FEW_INPUTS = 64 };

/* A call whose arguments nest, or have names. */
static PyObject *runner_call_form(runner_object *r, PyObject *const *args, size_t flags, PyObject *keywords) {
  PyObject *few[FEW_INPUTS], **inputs = few, *result = NULL;
  if (r->n_in > FEW_INPUTS && !(inputs = PyMem_Malloc((size_t)r->n_in * sizeof *inputs))) return PyErr_NoMemory();
  const bool fits = form_gather(r->form, args, PyVectorcall_NARGS(flags), keywords, inputs, r->n_in);
  const bool direct = fits && are_torch(inputs, r->n_in);
  if (direct) result = finish(r, runner_run(r, inputs, r->n_in, -1));
  for (Py_ssize_t i = 0; fits && i < r->n_in; i++) Py_DECREF(inputs[i]);
  if (inputs != few) PyMem_Free(inputs);
  return direct ? result : PyObject_Vectorcall(r->fallback, args, flags, keywords);
}

static PyObject *runner_vectorcall(PyObject *self, PyObject *const *args, size_t flags, PyObject *keywords) {
  runner_object *r = (runner_object *)self;
  const Py_ssize_t n = PyVectorcall_NARGS(flags);
  const bool plain = !keywords || PyTuple_GET_SIZE(keywords) == 0;
  if (!r->fallback) {
    if (plain) return runner_run(r, args, n, -1);
    return kiln_raise_text(KILN_INVALID_ARGUMENT, "an engine takes positional inputs only");
  }
  if (plain && n == r->n_in && (!r->form || form_is_flat(r->form)) && are_torch(args, n))
    return finish(r, runner_run(r, args, n, -1));
  if (r->form && !(plain && form_is_flat(r->form))) return runner_call_form(r, args, flags, keywords);
  return PyObject_Vectorcall(r->fallback, args, flags, keywords);
}

static PyObject *runner_run_py(PyObject *self, PyObject *inputs) {
  PyObject *fast = PySequence_Fast(inputs, "inputs must be a sequence of tensors");
  if (!fast) return NULL;
  PyObject *result = runner_run((runner_object *)self, PySequence_Fast_ITEMS(fast), PySequence_Fast_GET_SIZE(fast), -1);
  Py_DECREF(fast);
  return result;
}

/* Where one output goes: a PyTorch tensor, or a writable buffer, which `view` then holds. */
static bool read_output(const runner_object *r, slot *s, PyObject *object, Py_ssize_t index, Py_buffer *view) {
  kiln_tensor *t = &s->outputs[index];
  const bool pairs = complex_out(r, index);
  const int is_torch = torch_check(object);
  if (is_torch < 0) return false;
  if (is_torch) {
    PyObject *flag = PyObject_GetAttr(object, name_requires_grad);
    if (!flag) return false;
    const bool requires = flag == Py_True;
    Py_DECREF(flag);
    if (!requires && torch_view(object, t)) {
      if ((t->dtype.code == DL_COMPLEX) == pairs &&
          (!pairs || dl_as_pairs(t, s->pairs[index].shape, s->pairs[index].strides)))
        return true;
      kiln_raise_text(KILN_INVALID_ARGUMENT, "output %zd is %s in the model, the tensor given for it is not", index,
                      pairs ? "complex" : "real");
      return false;
    }
    kiln_raise_text(KILN_INVALID_ARGUMENT,
                    "output %zd: this tensor cannot be written in place; pass a dense one that does not %s", index,
                    "require grad");
    return false;
  }
  if (PyObject_GetBuffer(object, view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) {
    view->obj = NULL;
    kiln_raise_text(KILN_INVALID_ARGUMENT,
                    "output %zd: expected a torch.Tensor or a writable, contiguous numpy.ndarray, got %s", index,
                    Py_TYPE(object)->tp_name);
    return false;
  }
  bool same = view->ndim == t->ndim - pairs &&
              (size_t)view->itemsize == kiln_dtype_size(kiln_tensor_get_dtype(t)) * (pairs ? 2 : 1);
  for (int d = 0; same && d < view->ndim; d++) same = view->shape[d] == s->shapes[index][d];
  if (!same) {
    kiln_raise_text(KILN_INVALID_ARGUMENT, "output %zd: the array has not the output's shape and element size", index);
    return false;
  }
  t->data = view->buf;
  t->device.type = KILN_DEVICE_CPU;
  t->device.id = 0;
  t->strides = NULL;
  t->byte_offset = 0;
  return true;
}

static bool run_into(runner_object *r, slot *s, PyObject *const *outputs, Py_buffer *views) {
  for (Py_ssize_t i = 0; i < r->n_out; i++) {
    memset(&s->outputs[i], 0, sizeof s->outputs[i]);
    s->outputs[i].shape = s->shapes[i];
  }
  kiln_status status = r->gpu ? follow_stream(r, s) : KILN_OK;
  if (status == KILN_OK)
    status = kiln_context_prepare(s->context, s->inputs, (size_t)r->n_in, s->outputs, (size_t)r->n_out);
  if (status != KILN_OK) return kiln_raise(status), false;
  for (Py_ssize_t i = 0; i < r->n_out; i++) {
    if (!read_output(r, s, outputs[i], i, &views[i])) return false;
  }
  return run_slot(r, s);
}

static PyObject *runner_run_into_py(PyObject *self, PyObject *args) {
  runner_object *r = (runner_object *)self;
  PyObject *inputs, *outputs, *result = NULL;
  if (!PyArg_ParseTuple(args, "OO", &inputs, &outputs)) return NULL;
  PyObject *in = PySequence_Fast(inputs, "inputs must be a sequence of tensors");
  PyObject *out = in ? PySequence_Fast(outputs, "outputs must be a sequence of tensors") : NULL;
  Py_buffer *views = out ? PyMem_Calloc((size_t)r->n_out + 1, sizeof *views) : NULL;
  slot *s = NULL;
  bool seen = false;
  if (!out) {
  } else if (!views) {
    PyErr_NoMemory();
  } else if (PySequence_Fast_GET_SIZE(in) != r->n_in || PySequence_Fast_GET_SIZE(out) != r->n_out) {
    kiln_raise_text(KILN_INVALID_ARGUMENT, "the engine takes %zd inputs and gives %zd outputs, got %zd and %zd",
                    r->n_in, r->n_out, PySequence_Fast_GET_SIZE(in), PySequence_Fast_GET_SIZE(out));
  } else if ((s = slot_with_inputs(r, PySequence_Fast_ITEMS(in), r->n_in, &seen))) {
    if (run_into(r, s, PySequence_Fast_ITEMS(out), views)) result = (Py_INCREF(Py_None), Py_None);
    slot_release(r, s);
  }
  for (Py_ssize_t i = 0; views && i < r->n_out; i++) {
    if (views[i].obj) PyBuffer_Release(&views[i]);
  }
  PyMem_Free(views);
  Py_XDECREF(in);
  Py_XDECREF(out);
  return result;
}

static PyObject *runner_reset_py(PyObject *self, PyObject *unused) {
  (void)unused;
  for (slot *s = ((runner_object *)self)->idle; s; s = s->next) kiln_context_reset(s->context);
  Py_RETURN_NONE;
}

static PyObject *runner_memory_py(PyObject *self, PyObject *unused) {
  (void)unused;
  runner_object *r = (runner_object *)self;
  slot *s = slot_acquire(r, r->device);
  if (!s) return NULL;
  kiln_memory_info info = {0};
  kiln_context_memory(s->context, &info);
  slot_release(r, s);
  return Py_BuildValue("{s:n,s:n,s:n}", "weights", (Py_ssize_t)info.weights, "arena", (Py_ssize_t)info.arena, "state",
                       (Py_ssize_t)info.state);
}

static PyObject *profile_steps(const kiln_context *context) {
  PyObject *list = PyList_New(0);
  for (size_t i = 0; list && i < kiln_context_step_count(context); i++) {
    kiln_step_info info;
    const kiln_status status = kiln_context_step(context, i, &info);
    if (status != KILN_OK) {
      Py_DECREF(list);
      return kiln_raise(status);
    }
    PyObject *row = Py_BuildValue("{s:s,s:s,s:s,s:d,s:d,s:d}", "op", info.op, "tactic", info.tactic, "name", info.name,
                                  "seconds", info.seconds, "flops", info.flops, "bytes", info.bytes);
    if (!row || PyList_Append(list, row) < 0) Py_CLEAR(list);
    Py_XDECREF(row);
  }
  return list;
}

/* profile(True) starts, profile(False) stops and returns the steps. */
static PyObject *runner_profile_py(PyObject *self, PyObject *enable) {
  runner_object *r = (runner_object *)self;
  const int on = PyObject_IsTrue(enable);
  slot *s = on < 0 ? NULL : slot_acquire(r, r->device);
  if (!s) return NULL;
  kiln_context_profile(s->context, on);
  PyObject *result = on ? (Py_INCREF(Py_None), Py_None) : profile_steps(s->context);
  slot_release(r, s);
  return result;
}

/* set_profile(index): -1 is the best one for each call. Returns what it was. */
static PyObject *runner_set_profile_py(PyObject *self, PyObject *index) {
  runner_object *r = (runner_object *)self;
  const long k = PyLong_AsLong(index);
  const int old = r->profile;
  if (k == -1 && PyErr_Occurred()) return NULL;
  const long count = (long)kiln_engine_optimization_profile_count(r->engine->engine);
  if (k < -1 || k >= count) {
    PyErr_Format(PyExc_IndexError, "optimization profile %ld: the engine has %ld, counted from 0", k, count);
    return NULL;
  }
  r->profile = (int)k;
  return PyLong_FromLong(old);
}

static PyObject *runner_set_lenient_py(PyObject *self, PyObject *arg) {
  const int lenient = PyObject_IsTrue(arg);
  if (lenient < 0) return NULL;
  ((runner_object *)self)->lenient = lenient != 0;
  Py_RETURN_NONE;
}

/* The optimization profile of the last call's sizes; -1: none was made yet. */
static PyObject *runner_last_profile_py(PyObject *self, PyObject *unused) {
  (void)unused;
  const slot *s = ((runner_object *)self)->idle;
  return PyLong_FromLong(s ? kiln_context_optimization_profile(s->context) : -1);
}

static int runner_traverse(PyObject *self, visitproc visit, void *arg) {
  Py_VISIT(((runner_object *)self)->fallback);
  Py_VISIT((PyObject *)((runner_object *)self)->engine);
  return form_traverse(((runner_object *)self)->form, visit, arg);
}

static int runner_clear(PyObject *self) {
  Py_CLEAR(((runner_object *)self)->fallback);
  form_clear(((runner_object *)self)->form);
  return 0;
}

static void runner_dealloc(PyObject *self) {
  runner_object *r = (runner_object *)self;
  PyObject_GC_UnTrack(self);
  while (r->idle) {
    slot *next = r->idle->next;
    slot_destroy(r->idle);
    r->idle = next;
  }
  Py_CLEAR(r->fallback);
  free(r->complex_io);
  form_free(r->form);
  Py_XDECREF((PyObject *)r->engine); /* contexts keep the C engine alive; its bytes live in this object */
  Py_TYPE(self)->tp_free(self);
}

static PyMethodDef runner_methods[] = {
    {"run", runner_run_py, METH_O, "run(inputs) -> outputs: one call with a flat sequence of tensors."},
    {"run_into", runner_run_into_py, METH_VARARGS,
     "run_into(inputs, outputs): one call that writes into tensors of the caller."},
    {"reset", runner_reset_py, METH_NOARGS, "reset(): puts mutated buffers back to their values in the model."},
    {"memory", runner_memory_py, METH_NOARGS, "memory() -> dict: bytes of weights, arena and state."},
    {"profile", runner_profile_py, METH_O, "profile(True) starts timing steps; profile(False) stops and returns them."},
    {"set_profile", runner_set_profile_py, METH_O,
     "set_profile(index) -> old one: optimization profile of the next calls; -1: the best for each."},
    {"set_lenient", runner_set_lenient_py, METH_O, "set_lenient(True): inputs may require grad; results never do."},
    {"last_profile", runner_last_profile_py, METH_NOARGS,
     "last_profile() -> optimization profile of the last call; -1: none."},
    {NULL, NULL, 0, NULL},
};

/* What inspect.signature asks first: the module's parameters, which torch.export names its inputs by. */
static PyObject *runner_signature(PyObject *self, void *unused) {
  (void)unused;
  PyObject *fallback = ((runner_object *)self)->fallback;
  if (fallback && PyMethod_Check(fallback))
    return PyObject_GetAttrString(PyMethod_GET_SELF(fallback), "call_signature");
  PyErr_SetString(PyExc_AttributeError, "__signature__");
  return NULL;
}

/* Where the function is that takes over while something traces: torch.export names it. */
static PyObject *runner_code(PyObject *self, void *unused) {
  (void)unused;
  PyObject *fallback = ((runner_object *)self)->fallback;
  if (fallback && PyMethod_Check(fallback)) return PyObject_GetAttrString(PyMethod_GET_FUNCTION(fallback), "__code__");
  PyErr_SetString(PyExc_AttributeError, "__code__");
  return NULL;
}

static PyGetSetDef runner_getset[] = {
    {"__code__", runner_code, NULL, "Of the function that takes over while something traces.", NULL},
    {"__signature__", runner_signature, NULL, "Of the module that calls this.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject runner_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "kiln._kiln.Runner",
    .tp_basicsize = sizeof(runner_object),
    .tp_dealloc = runner_dealloc,
    .tp_vectorcall_offset = offsetof(runner_object, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_doc = "Callable that runs an engine; several threads may call it at once.",
    .tp_traverse = runner_traverse,
    .tp_clear = runner_clear,
    .tp_methods = runner_methods,
    .tp_getset = runner_getset,
};

static bool names_intern(void) {
  if (name_empty) return true;
  name_requires_grad = PyUnicode_InternFromString("requires_grad");
  name_dlpack = PyUnicode_InternFromString("__dlpack__");
  name_is_conj = PyUnicode_InternFromString("is_conj");
  name_resolve_conj = PyUnicode_InternFromString("resolve_conj");
  if (name_requires_grad && name_is_conj && name_resolve_conj && name_dlpack)
    name_empty = PyUnicode_InternFromString("empty");
  return name_empty != NULL;
}

/* False: out of memory. */
static bool note_complex(runner_object *r) {
  bool any = false;
  for (Py_ssize_t i = 0; i < r->n_in; i++) any |= kiln_engine_input_is_complex(r->engine->engine, (size_t)i) != 0;
  for (Py_ssize_t i = 0; i < r->n_out; i++) any |= kiln_engine_output_is_complex(r->engine->engine, (size_t)i) != 0;
  if (!any) return true;
  r->complex_io = calloc((size_t)(r->n_in + r->n_out), 1);
  for (Py_ssize_t i = 0; r->complex_io && i < r->n_in + r->n_out; i++)
    r->complex_io[i] = (char)(i < r->n_in ? kiln_engine_input_is_complex(r->engine->engine, (size_t)i)
                                          : kiln_engine_output_is_complex(r->engine->engine, (size_t)(i - r->n_in)));
  return r->complex_io != NULL;
}

PyObject *runner_create(engine_object *engine, int threads, bool single, PyObject *fallback, form *f) {
  const size_t n_in = kiln_engine_input_count(engine->engine), n_out = kiln_engine_output_count(engine->engine);
  const bool wrong = single && n_out != 1;
  if (wrong) PyErr_Format(PyExc_ValueError, "single=True needs an engine with one output; this one has %zu", n_out);
  runner_object *r = !wrong && names_intern() ? PyObject_GC_New(runner_object, &runner_type) : NULL;
  if (!r) {
    form_free(f);
    return NULL;
  }
  memset((char *)r + sizeof(PyObject), 0, sizeof *r - sizeof(PyObject));
  r->vectorcall = runner_vectorcall;
  Py_INCREF(engine);
  r->engine = engine;
  Py_XINCREF(fallback);
  r->fallback = fallback;
  r->form = f;
  r->threads = threads;
  r->profile = -1;
  r->gpu = strncmp(kiln_engine_target(r->engine->engine), "cuda", 4) == 0;
  r->device = kiln_engine_device(r->engine->engine);
  r->single = single;
  r->n_in = (Py_ssize_t)n_in;
  r->n_out = (Py_ssize_t)n_out;
  PyObject_GC_Track((PyObject *)r);
  if (!note_complex(r)) {
    Py_DECREF(r);
    return PyErr_NoMemory();
  }
  return (PyObject *)r;
}
