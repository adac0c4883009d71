/* PyTorch's tensors are read through the DLPack C exchange API: a struct of C functions that the tensor class publishes, so that no Python
 * code runs. New ones are made by the stable C ABI and PyTorch's own function that gives them a Python object, where it is exported
 * with the signature that is expected; else through DLPack too, which makes two more objects and takes 1.7 times as long. */
#define _GNU_SOURCE
#include "_torch_io.h"

#include <dlfcn.h>
#include <string.h>

#include "torch_op/torch_abi.h"

/* What is known of PyTorch once a tensor has been seen. Written once, under the GIL. */
static struct {
  const dl_exchange *exchange;
  PyTypeObject *tensor, *parameter;
  PyTypeObject *subclass;          /* the last subclass that was found to be plain */
  PyObject *is_grad_enabled;       /* torch.is_grad_enabled */
  PyObject *is_neg;                /* torch.Tensor.is_neg */
  PyObject *dispatch;              /* torch.Tensor.__torch_dispatch__, which plain subclasses inherit */
  bool (*records)(void);           /* the same as is_grad_enabled; NULL: not there */
  PyObject *(*wrap)(torch_tensor); /* a new reference to the object of a tensor; NULL: not there */
} known;

/* ---- Looking up ------------------------------------------------------------------------------------------------------- */

/* Does it do what its name says? It is not part of the stable ABI. */
static bool wraps(PyObject *(*wrap)(torch_tensor)) {
  const int64_t size = 3, stride = 1;
  torch_tensor made = NULL;
  void *data = NULL;
  kiln_tensor view;
  if (torch.aoti_torch_empty_strided(1, &size, &stride, torch.dtypes[KILN_F32], torch.cpu, -1, &made) != 0)
    return false;
  bool same = torch.aoti_torch_get_data_ptr(made, &data) == 0;
  PyObject *object = same ? wrap(made) : NULL;
  torch.aoti_torch_delete_tensor_object(made);
  same = object && Py_TYPE(object) == known.tensor && Py_REFCNT(object) == 1 &&
         known.exchange->view_from_object(object, &view) == 0 && view.data == data && view.ndim == 1 &&
         view.shape[0] == 3;
  Py_XDECREF(object);
  PyErr_Clear();
  return same;
}

static void find_functions(void) {
  void *cpu = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  void *python = dlopen("libtorch_python.so", RTLD_LAZY | RTLD_NOLOAD);
  void *records = cpu ? dlsym(cpu, "aoti_torch_grad_mode_is_enabled") : NULL;
  void *wrap = python ? dlsym(python, "_Z16THPVariable_WrapRKN2at10TensorBaseE") : NULL; /* (const at::TensorBase &) */
  PyObject *(*candidate)(torch_tensor) = NULL;
  memcpy(&known.records, &records, sizeof records);
  memcpy(&candidate, &wrap, sizeof wrap);
  if (candidate && !torch_abi_find() && wraps(candidate)) known.wrap = candidate;
  if (cpu) dlclose(cpu);
  if (python) dlclose(python);
}

int torch_find(void) {
  if (known.exchange) return 1;
  PyObject *name = PyUnicode_FromString("torch"), *module = name ? PyImport_GetModule(name) : NULL;
  Py_XDECREF(name);
  if (!module || module == Py_None) { /* None: a program that forbids the import */
    Py_XDECREF(module);
    return PyErr_Occurred() ? -1 : 0;
  }
  PyObject *tensor = PyObject_GetAttrString(module, "Tensor");
  PyObject *nn = tensor ? PyObject_GetAttrString(module, "nn") : NULL;
  PyObject *parameter = nn ? PyObject_GetAttrString(nn, "Parameter") : NULL;
  PyObject *grad = parameter ? PyObject_GetAttrString(module, "is_grad_enabled") : NULL;
  PyObject *neg = grad ? PyObject_GetAttrString(tensor, "is_neg") : NULL;
  PyObject *dispatch = neg ? PyObject_GetAttrString(tensor, "__torch_dispatch__") : NULL;
  PyObject *capsule = dispatch ? PyObject_GetAttrString(tensor, "__dlpack_c_exchange_api__") : NULL;
  const dl_exchange *exchange = capsule ? PyCapsule_GetPointer(capsule, "dlpack_exchange_api") : NULL;
  Py_XDECREF(capsule); /* the struct is static in PyTorch */
  Py_XDECREF(nn);
  Py_DECREF(module);
  if (exchange && exchange->version.major == 1 && exchange->view_from_object && PyType_Check(tensor) &&
      PyType_Check(parameter)) {
    known.tensor = (PyTypeObject *)tensor;
    known.parameter = (PyTypeObject *)parameter;
    known.is_grad_enabled = grad;
    known.is_neg = neg;
    known.dispatch = dispatch;
    known.exchange = exchange;
    find_functions();
    return 1;
  }
  Py_XDECREF(tensor);
  Py_XDECREF(parameter);
  Py_XDECREF(grad);
  Py_XDECREF(neg);
  Py_XDECREF(dispatch);
  kiln_raise_text(KILN_UNSUPPORTED,
                  "this PyTorch has no DLPack C exchange API of version 1; Kiln needs torch 2.11 or newer");
  return -1;
}

bool torch_known(void) { return known.exchange != NULL; }

/* ---- Tensors that are there ------------------------------------------------------------------------------------------- */

int torch_check(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  if (!known.exchange) {
    const int found = torch_find();
    if (found <= 0) return found;
  }
  if (type == known.tensor || type == known.parameter || type == known.subclass) return 1;
  if (!PyType_IsSubtype(type, known.tensor)) return 0;
  PyObject *dispatch = PyObject_GetAttrString((PyObject *)type, "__torch_dispatch__");
  if (!dispatch) return -1;
  const int plain = PyObject_RichCompareBool(dispatch, known.dispatch, Py_EQ);
  Py_DECREF(dispatch);
  if (plain < 0) return -1;
  if (!plain) {
    kiln_raise_text(KILN_INVALID_ARGUMENT,
                    "a %s stands for a tensor but has no memory of its own; call with a plain torch.Tensor",
                    type->tp_name);
    return -1;
  }
  Py_INCREF(type);
  Py_XDECREF(known.subclass);
  known.subclass = type;
  return 1;
}

bool torch_view(PyObject *tensor, kiln_tensor *out) { return known.exchange->view_from_object(tensor, out) == 0; }

int torch_records(void) {
  if (known.records) return known.records();
  PyObject *enabled = PyObject_CallNoArgs(known.is_grad_enabled);
  if (!enabled) return -1;
  Py_DECREF(enabled);
  return enabled == Py_True;
}

int torch_is_negative(PyObject *tensor) {
  PyObject *flag = PyObject_CallOneArg(known.is_neg, tensor);
  if (!flag) return -1;
  Py_DECREF(flag);
  return flag == Py_True;
}

void *torch_stream(int device) {
  void *stream = NULL;
  return known.exchange->stream(KILN_DEVICE_CUDA, device, &stream) == 0 ? stream : NULL;
}

/* ---- New tensors ------------------------------------------------------------------------------------------------------ */

static void raise_exchange_error(void *user, const char *kind, const char *message) {
  (void)user;
  if (!PyErr_Occurred()) PyErr_Format(PyExc_RuntimeError, "%s: %s", kind, message);
}

static PyObject *new_by_exchange(const kiln_tensor *prototype, void **out_data) {
  kiln_tensor wanted = *prototype;
  dl_managed *made = NULL;
  void *object = NULL;
  if (known.exchange->allocate(&wanted, &made, NULL, raise_exchange_error) != 0) return NULL;
  *out_data = (char *)made->tensor.data + made->tensor.byte_offset;
  return known.exchange->object_from_managed(made, &object) == 0 ? object : NULL;
}

/* PyTorch prints the reason of a failure, so that the exchange, which tells it, tries again. */
static PyObject *new_by_abi(const kiln_tensor *p, void **out_data) {
  int64_t strides[KILN_MAX_RANK], n = 1;
  const bool gpu = p->device.type == KILN_DEVICE_CUDA;
  torch_tensor made = NULL;
  PyObject *object = NULL;
  for (int32_t d = p->ndim - 1; d >= 0; d--) {
    strides[d] = n;
    n *= p->shape[d] > 1 ? p->shape[d] : 1;
  }
  if (torch.aoti_torch_empty_strided(p->ndim, p->shape, strides, torch.dtypes[kiln_tensor_get_dtype(p)],
                                     gpu ? torch.cuda : torch.cpu, gpu ? p->device.id : -1, &made) != 0)
    return NULL;
  if (torch.aoti_torch_get_data_ptr(made, out_data) == 0) object = known.wrap(made);
  torch.aoti_torch_delete_tensor_object(made);
  return object;
}

PyObject *torch_new(const kiln_tensor *prototype, void **out_data) {
  const bool direct = known.wrap && prototype->dtype.code != DL_COMPLEX;
  PyObject *object = direct ? new_by_abi(prototype, out_data) : NULL;
  if (!object && PyErr_Occurred()) return NULL;
  return object ? object : new_by_exchange(prototype, out_data);
}
