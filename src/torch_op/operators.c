/* Kiln's operators for PyTorch, in C through libtorch's stable C ABI:
 *
 *   kiln::load(Tensor blob) -> Tensor
 *       an engine tensor: the same bytes, and an engine that lives as long as it does
 *   kiln::execute(Tensor engine, Tensor[] inputs, str signature="") -> Tensor[]
 *   kiln::execute_stateful(Tensor(a!) engine, Tensor[] inputs, str signature="") -> Tensor[]
 *       the same for engines with state, so that no pass of PyTorch merges, drops or reorders calls
 *   kiln::reset(Tensor(a!) engine) -> ()
 *       puts the state back
 *
 * `signature` is for the fake kernel in Python, which sees tensors without data; it is ignored here.
 *
 * A kernel owns what is on its stack, and reports failures by a C++ exception that aoti_torch_check throws through it
 * (this file is compiled with -fexceptions): it frees everything first. */
#include <kiln/kiln_torch.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "torch_op/instance.h"
#include "torch_op/torch_abi.h"

enum { LARGEST_MESSAGE = 4608 };
static _Thread_local char message[LARGEST_MESSAGE];

/* The message is thread-local: nothing has to be freed after the throw. */
static void throw_error(const char *function) {
  snprintf(message, sizeof message, "%s: %s", function, instance_error());
  torch.aoti_torch_check(false, function, "kiln", 0, message);
}

static torch_tensor as_tensor(torch_value v) { return (torch_tensor)(uintptr_t)v; }
static torch_value from_pointer(const void *p) { return (torch_value)(uintptr_t)p; }
static kiln_status torch_failed(const char *what) {
  return instance_fail(KILN_INTERNAL, "PyTorch could not %s (its own message is on stderr)", what);
}

/* ---- engine tensors ---------------------------------------------------------------------------------------------- */

static kiln_status describe_blob(torch_tensor t, foreign_tensor *out) {
  int32_t dtype = 0;
  int64_t size = 0;
  bool contiguous = false;
  void *data = NULL;
  *out = (foreign_tensor){.tensor = t};
  if (torch.aoti_torch_get_dtype(t, &dtype) || torch.aoti_torch_get_numel(t, &size) ||
      torch.aoti_torch_is_contiguous(t, &contiguous) || torch.aoti_torch_get_device_type(t, &out->device) ||
      torch.aoti_torch_get_device_index(t, &out->index) || torch.aoti_torch_get_data_ptr(t, &data))
    return torch_failed("describe the engine tensor");
  if (dtype != torch.dtypes[KILN_U8] || !contiguous)
    return instance_fail(KILN_INVALID_ARGUMENT,
                         "an engine tensor must be a contiguous tensor of dtype uint8; was it converted?");
  out->data = data;
  out->size = (size_t)size;
  return KILN_OK;
}

/* A copy on the CPU of an engine tensor that was moved to another device, by map_location say. */
static kiln_status copy_to_host(torch_tensor t, torch_tensor *out_copy, const void **out_data) {
  const int64_t one = 1;
  int64_t size = 0;
  void *data = NULL;
  torch_tensor copy = NULL;
  if (torch.aoti_torch_get_numel(t, &size) != 0 ||
      torch.aoti_torch_empty_strided(1, &size, &one, torch.dtypes[KILN_U8], torch.cpu, -1, &copy) != 0)
    return torch_failed("allocate a copy of the engine on the CPU");
  if (torch.aoti_torch_copy_(copy, t, 0) != 0 || torch.aoti_torch_get_data_ptr(copy, &data) != 0) {
    torch.aoti_torch_delete_tensor_object(copy);
    return torch_failed("copy the engine to the CPU");
  }
  *out_copy = copy;
  *out_data = data;
  return KILN_OK;
}

/* The instance that an engine tensor stands for. *out_owned is set if the caller has to release it. */
static kiln_status find_instance(torch_tensor t, instance **out, instance **out_owned) {
  foreign_tensor blob;
  kiln_status status = describe_blob(t, &blob);
  if (status != KILN_OK) return status;
  instance *i = blob.device == torch.cpu ? instance_find(blob.data) : NULL;
  if (!i) {
    blob.host = copy_to_host;
    if ((status = instance_find_foreign(&blob, out_owned)) == KILN_OK) *out = *out_owned;
    return status;
  }
  if (!instance_matches(i, blob.data, blob.size))
    return instance_fail(KILN_INVALID_FILE, "the engine tensor was altered after it was loaded; load the module again");
  *out = i;
  return KILN_OK;
}

/* ---- kiln::load -------------------------------------------------------------------------------------------------- */

/* PyTorch calls this with the last reference to the engine tensor. */
static void engine_tensor_deleter(void *data, void *user) {
  (void)data;
  instance_withdraw(user);
  instance_release(user);
}

static kiln_status load_blob(torch_tensor t, torch_tensor *out) {
  foreign_tensor blob;
  torch_tensor copy = NULL;
  instance *i = NULL;
  void *data = NULL;
  size_t size = 0;
  const int64_t one = 1;
  kiln_status status = describe_blob(t, &blob);
  if (status == KILN_OK && blob.device != torch.cpu) status = copy_to_host(t, &copy, &blob.data);
  if (status == KILN_OK) status = instance_create(blob.data, blob.size, &i);
  if (copy) torch.aoti_torch_delete_tensor_object(copy);
  if (status != KILN_OK) return status;
  status = instance_publish(i, &data, &size);
  if (status == KILN_OK) {
    const int64_t count = (int64_t)size;
    instance_retain(i); /* the tensor's; a failing torch_from_blob has called the deleter or has never seen it */
    const torch_error error = torch.torch_from_blob(data, 1, &count, &one, 0, torch.dtypes[KILN_U8], torch.cpu, -1, out,
                                                    torch.strided, NULL, 0, engine_tensor_deleter, i);
    if (error != 0) {
      instance_withdraw(i);
      status = torch_failed("make the engine tensor");
    }
  }
  instance_release(i);
  return status;
}

static void kernel_load(torch_value *stack, uint64_t n_args, uint64_t n_results) {
  (void)n_args;
  (void)n_results;
  torch_tensor made = NULL;
  const kiln_status status = load_blob(as_tensor(stack[0]), &made);
  torch.aoti_torch_delete_tensor_object(as_tensor(stack[0]));
  if (status != KILN_OK) {
    throw_error("kiln::load");
    return;
  }
  stack[0] = from_pointer(made);
}

/* ---- kiln::execute ----------------------------------------------------------------------------------------------- */

static const char *device_name(int32_t type, int32_t index, char room[32]) {
  if (type == torch.cuda) {
    snprintf(room, 32, "cuda:%d", (int)index);
  } else {
    snprintf(room, 32, "PyTorch device type %d", (int)type);
  }
  return room;
}

static kiln_status wrong_device(const instance *i, size_t at, int32_t device, int32_t index) {
  char name[32];
  kiln_io_info info = {0};
  const bool named = kiln_engine_input(instance_engine(i), at, &info) == KILN_OK;
  return instance_fail(KILN_INVALID_ARGUMENT,
                       "input %zu (\"%s\") is on %s, but the engine was compiled for the target %s; pass input.cpu(), "
                       "or compile the model for "
                       "that device",
                       at, named ? info.name : "?", device_name(device, index, name),
                       kiln_engine_target(instance_engine(i)));
}

static bool set_dtype(kiln_tensor *t, int32_t code) {
  for (int k = 0; k < KILN_DTYPE_COUNT; k++) {
    if (torch.dtypes[k] != code) continue;
    kiln_tensor_set_dtype(t, (kiln_dtype)k);
    return true;
  }
  return false;
}

/* A complex tensor of so many dimensions becomes one of pairs of real numbers. False: it is none. */
static bool read_pairs(kiln_tensor *t, int32_t code, int64_t rank, pair_view *room) {
  for (int k = 0; k < KILN_DTYPE_COUNT; k++) {
    if (torch.complexes[k] != code || code < 0 || rank >= KILN_MAX_RANK) continue;
    for (int64_t d = 0; d < rank; d++) {
      room->shape[d] = t->shape[d];
      room->strides[d] = 2 * t->strides[d];
    }
    room->shape[rank] = 2;
    room->strides[rank] = 1;
    t->shape = room->shape;
    t->strides = room->strides;
    t->ndim = (int32_t)rank + 1;
    kiln_tensor_set_dtype(t, (kiln_dtype)k);
    return true;
  }
  return false;
}

/* Points `t` at the tensor's memory, shape and strides, which the handle lends. */
static kiln_status read_input(const instance *i, size_t at, torch_tensor handle, kiln_tensor *t, pair_view *room) {
  int64_t rank = 0;
  int32_t dtype = 0, device = 0, index = 0;
  *t = (kiln_tensor){.device = {KILN_DEVICE_CPU, 0}};
  if (torch.aoti_torch_get_device_type(handle, &device) != 0 || torch.aoti_torch_get_dim(handle, &rank) != 0 ||
      torch.aoti_torch_get_sizes(handle, &t->shape) != 0 || torch.aoti_torch_get_strides(handle, &t->strides) != 0 ||
      torch.aoti_torch_get_dtype(handle, &dtype) != 0 || torch.aoti_torch_get_data_ptr(handle, &t->data) != 0)
    return torch_failed("describe an input");
  if (device != torch.cpu) {
    torch.aoti_torch_get_device_index(handle, &index);
    if (device != torch.cuda || !instance_on_gpu(i)) return wrong_device(i, at, device, index);
    t->device.type = KILN_DEVICE_CUDA;
    t->device.id = index;
  }
  if (rank > KILN_MAX_RANK)
    return instance_fail(KILN_INVALID_ARGUMENT, "input %zu has %lld dimensions; at most %d are possible", at,
                         (long long)rank, KILN_MAX_RANK);
  const bool is_complex = kiln_engine_input_is_complex(instance_engine(i), at);
  if (is_complex && read_pairs(t, dtype, rank, room)) return KILN_OK;
  if (is_complex)
    return instance_fail(KILN_INVALID_ARGUMENT, "input %zu must be a complex tensor of at most %d dimensions", at,
                         KILN_MAX_RANK - 1);
  if (!set_dtype(t, dtype))
    return instance_fail(KILN_INVALID_ARGUMENT, "input %zu has PyTorch's dtype number %d, which engines do not take",
                         at, (int)dtype);
  t->ndim = (int32_t)rank;
  return KILN_OK;
}

enum { FEW = 16 };
typedef struct tensor_list { /* handles that came in a list; ours */
  torch_tensor *handles, few[FEW];
  size_t n;
} tensor_list;

/* Frees a list and, with `handles` NULL, the tensors in it; else moves them there. */
static void empty_list(torch_list list, torch_tensor *handles) {
  size_t n = 0;
  if (torch.torch_list_size(list, &n) != 0) n = 0;
  for (size_t k = 0; k < n; k++) {
    torch_value item = 0;
    if (torch.torch_list_get_item(list, k, &item) != 0) item = 0;
    if (handles) {
      handles[k] = as_tensor(item);
    } else if (item) {
      torch.aoti_torch_delete_tensor_object(as_tensor(item));
    }
  }
  torch.torch_delete_list(list);
}

static kiln_status take_inputs(torch_list list, tensor_list *out) {
  size_t n = 0;
  out->n = 0;
  out->handles = out->few;
  kiln_status status = torch.torch_list_size(list, &n) == 0 ? KILN_OK : torch_failed("count the inputs");
  if (status == KILN_OK && n > FEW && !(out->handles = malloc(n * sizeof(torch_tensor))))
    status = instance_fail(KILN_OUT_OF_MEMORY, "no memory for %zu inputs", n);
  empty_list(list, status == KILN_OK ? out->handles : NULL);
  if (status == KILN_OK) out->n = n;
  return status;
}

static void free_inputs(tensor_list *inputs) {
  for (size_t k = 0; k < inputs->n; k++) {
    if (inputs->handles[k]) torch.aoti_torch_delete_tensor_object(inputs->handles[k]);
  }
  if (inputs->handles != inputs->few) free(inputs->handles);
}

static kiln_status read_inputs(const instance *i, const tensor_list *inputs, kiln_tensor *out, pair_view *rooms) {
  const size_t wanted = kiln_engine_input_count(instance_engine(i));
  if (inputs->n != wanted)
    return instance_fail(KILN_INVALID_ARGUMENT, "the engine takes %zu input%s, got %zu", wanted, wanted == 1 ? "" : "s",
                         inputs->n);
  for (size_t k = 0; k < inputs->n; k++) {
    if (!inputs->handles[k]) return torch_failed("read an input");
    const kiln_status status = read_input(i, k, inputs->handles[k], &out[k], &rooms[k]);
    if (status != KILN_OK) return status;
  }
  return KILN_OK;
}

/* A new contiguous tensor of this output's shape and device, at the end of `list`; its memory becomes the output's. */
static kiln_status make_output(kiln_tensor *t, bool is_complex, torch_list list) {
  int64_t strides[KILN_MAX_RANK], n = 1;
  torch_tensor made = NULL;
  const int32_t rank = t->ndim - is_complex;
  for (int32_t d = rank - 1; d >= 0; d--) {
    strides[d] = n;
    n *= t->shape[d] > 1 ? t->shape[d] : 1;
  }
  const int32_t dtype = (is_complex ? torch.complexes : torch.dtypes)[kiln_tensor_get_dtype(t)];
  const bool gpu = t->device.type == KILN_DEVICE_CUDA;
  if (torch.aoti_torch_empty_strided(rank, t->shape, strides, dtype, gpu ? torch.cuda : torch.cpu,
                                     gpu ? t->device.id : -1, &made) != 0)
    return torch_failed("allocate an output");
  if (torch.aoti_torch_get_data_ptr(made, &t->data) != 0) {
    torch.aoti_torch_delete_tensor_object(made);
    return torch_failed("describe an output");
  }
  t->strides = NULL;
  t->byte_offset = 0;
  if (torch.torch_list_push_back(list, from_pointer(made)) != 0) return torch_failed("return an output");
  return KILN_OK;
}

/* Outputs whose size is known when the engine has run lie in the context's memory. */
static kiln_status copy_output(call_slot *s, const kiln_tensor *lent, bool is_complex, torch_list list) {
  kiln_tensor t = *lent;
  kiln_status status = make_output(&t, is_complex, list);
  if (status != KILN_OK) return status;
  status = kiln_context_copy(s->context, lent, &t);
  return status == KILN_OK ? KILN_OK : instance_fail(status, "%s", kiln_last_error());
}

static bool size_known(const kiln_tensor *t) {
  for (int32_t d = 0; d < t->ndim; d++) {
    if (t->shape[d] < 0) return false;
  }
  return true;
}

static kiln_status run(const instance *i, call_slot *s, bool on_gpu, torch_list *out) {
  const kiln_engine *e = instance_engine(i);
  const size_t n_in = kiln_engine_input_count(e), n_out = kiln_engine_output_count(e);
  bool known = true;
  for (size_t k = 0; k < n_out; k++) {
    s->outputs[k] = (kiln_tensor){.device = {KILN_DEVICE_CPU, 0}, .shape = s->shapes[k]};
    if (on_gpu) s->outputs[k].device.type = KILN_DEVICE_CUDA;
    if (on_gpu) s->outputs[k].device.id = s->device;
  }
  kiln_status status = kiln_context_prepare(s->context, s->inputs, n_in, s->outputs, n_out);
  if (status != KILN_OK) return instance_fail(status, "%s", kiln_last_error());
  if (torch.torch_new_list_reserve_size(n_out, out) != 0) return torch_failed("make the list of outputs");
  for (size_t k = 0; k < n_out; k++) known = known && size_known(&s->outputs[k]);
  for (size_t k = 0; known && k < n_out && status == KILN_OK; k++)
    status = make_output(&s->outputs[k], kiln_engine_output_is_complex(e, k) != 0, *out);
  if (status != KILN_OK) return status;
  status = kiln_context_run(s->context, s->inputs, n_in, s->outputs, n_out);
  if (status != KILN_OK) return instance_fail(status, "%s", kiln_last_error());
  for (size_t k = 0; !known && k < n_out && status == KILN_OK; k++)
    status = copy_output(s, &s->outputs[k], kiln_engine_output_is_complex(e, k) != 0, *out);
  return status;
}

/* The GPU of the first input that is on one: -1 if none is. */
static int32_t find_gpu(const tensor_list *inputs) {
  for (size_t k = 0; k < inputs->n; k++) {
    int32_t device = 0, index = 0;
    if (inputs->handles[k] && torch.aoti_torch_get_device_type(inputs->handles[k], &device) == 0 &&
        device == torch.cuda && torch.aoti_torch_get_device_index(inputs->handles[k], &index) == 0)
      return index;
  }
  return -1;
}

/* Runs on a GPU go where PyTorch's other work of this thread goes. */
static kiln_status follow_stream(call_slot *s) {
  void *stream = NULL;
  if (!torch.aoti_torch_get_current_cuda_stream || torch.aoti_torch_get_current_cuda_stream(s->device, &stream) != 0)
    return KILN_OK;
  const kiln_status status = kiln_context_set_stream(s->context, stream);
  return status == KILN_OK ? KILN_OK : instance_fail(status, "%s", kiln_last_error());
}

static kiln_status execute(torch_tensor engine, const tensor_list *inputs, torch_list *out) {
  instance *i = NULL, *owned = NULL;
  call_slot *s = NULL;
  kiln_status status = find_instance(engine, &i, &owned);
  const int32_t gpu = status == KILN_OK && instance_on_gpu(i) ? find_gpu(inputs) : -1;
  if (status == KILN_OK) status = instance_acquire(i, gpu < 0 ? 0 : gpu, &s);
  if (status == KILN_OK) {
    status = read_inputs(i, inputs, s->inputs, s->pairs);
    if (status == KILN_OK && gpu >= 0) status = follow_stream(s);
    if (status == KILN_OK) status = run(i, s, gpu >= 0, out);
    instance_give_back(i, s);
  }
  instance_release(owned);
  return status;
}

static void execute_on_stack(torch_value *stack, const char *name) {
  torch_list outputs = NULL;
  tensor_list inputs;
  kiln_status status = take_inputs((torch_list)(uintptr_t)stack[1], &inputs);
  if (status == KILN_OK) status = execute(as_tensor(stack[0]), &inputs, &outputs);
  free_inputs(&inputs);
  torch.aoti_torch_delete_tensor_object(as_tensor(stack[0]));
  torch.torch_delete_string((torch_string)(uintptr_t)stack[2]);
  if (status != KILN_OK) {
    if (outputs) empty_list(outputs, NULL);
    throw_error(name);
    return;
  }
  stack[0] = from_pointer(outputs);
}

static void kernel_execute(torch_value *stack, uint64_t n_args, uint64_t n_results) {
  (void)n_args;
  (void)n_results;
  execute_on_stack(stack, "kiln::execute");
}

static void kernel_execute_stateful(torch_value *stack, uint64_t n_args, uint64_t n_results) {
  (void)n_args;
  (void)n_results;
  execute_on_stack(stack, "kiln::execute_stateful");
}

static void kernel_reset(torch_value *stack, uint64_t n_args, uint64_t n_results) {
  (void)n_args;
  (void)n_results;
  instance *i = NULL, *owned = NULL;
  kiln_status status = find_instance(as_tensor(stack[0]), &i, &owned);
  if (status == KILN_OK) instance_reset(i);
  instance_release(owned);
  torch.aoti_torch_delete_tensor_object(as_tensor(stack[0]));
  if (status != KILN_OK) throw_error("kiln::reset");
}

/* ---- registration ------------------------------------------------------------------------------------------------ */

static const char *const schemas[] = {
    "load(Tensor blob) -> Tensor",
    "execute(Tensor engine, Tensor[] inputs, str signature=\"\") -> Tensor[]",
    "execute_stateful(Tensor(a!) engine, Tensor[] inputs, str signature=\"\") -> Tensor[]",
    "reset(Tensor(a!) engine) -> ()",
};
static const struct kernel_row {
  const char *name;
  torch_kernel fn;
} kernel_rows[] = {
    {"load", kernel_load},
    {"execute", kernel_execute},
    {"execute_stateful", kernel_execute_stateful},
    {"reset", kernel_reset},
};

/* What PyTorch's dispatcher refers to, for the rest of the process. */
static torch_library libraries[3];

static const char *register_operators(void) {
  static const char *const keys[] = {"CPU", "CUDA"};
  const char *missing = torch_abi_find();
  if (missing) return missing;
  if (torch.aoti_torch_library_init_fragment("kiln", __FILE__, __LINE__, &libraries[0]) != 0)
    return "PyTorch refused to open the operator namespace kiln";
  for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
    if (torch.aoti_torch_library_def(libraries[0], schemas[i]) != 0)
      return "PyTorch refused the operators' schemas: is another copy of Kiln's operators registered in this process?";
  }
  for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
    if (torch.aoti_torch_library_init_impl("kiln", keys[k], __FILE__, __LINE__, &libraries[1 + k]) != 0)
      return "PyTorch refused to open the operator namespace kiln";
    for (size_t i = 0; i < sizeof kernel_rows / sizeof *kernel_rows; i++) {
      if (torch.torch_library_impl(libraries[1 + k], kernel_rows[i].name, kernel_rows[i].fn, TORCH_ABI_VERSION) != 0)
        return "PyTorch refused an operator's kernel";
    }
  }
  return NULL;
}

const char *kiln_torch_register(void) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static bool registered, refused;
  static const char *failure;
  pthread_mutex_lock(&lock);
  if (!registered && !refused) {
    failure = register_operators();
    registered = failure == NULL;
    refused = failure && libraries[0]; /* PyTorch knows half of it: trying again cannot help */
  }
  pthread_mutex_unlock(&lock);
  return failure;
}

void kiln_torch_clear_cache(void) { instance_clear_foreign(); }
