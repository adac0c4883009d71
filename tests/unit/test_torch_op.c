/* The operators for PyTorch against a small libtorch of the test's own: tensors, lists and strings are counted, and errors that are
 * thrown jump back here. So every handle must be freed exactly once, on every path, also when memory runs out. */
#include <kiln/kiln_torch.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/file.h"
#include "torch_op/address_map.h"
#include "torch_op/blob.h"
#include "torch_op/instance.h"
#include "torch_op/torch_abi.h"
#include "unit/expect.h"

/* ---- a libtorch ---------------------------------------------------------------------------------------------------- */

typedef struct storage {
  void *data, *user;
  void (*deleter)(void *data, void *user); /* NULL: free(data) */
  int references;
} storage;

struct torch_tensor_opaque {
  storage *storage;
  int64_t sizes[KILN_MAX_RANK + 1], strides[KILN_MAX_RANK + 1], rank;
  int32_t dtype;
};
struct torch_list_opaque {
  size_t n;
  torch_value items[32];
};

enum { CPU = 0, CUDA = 1, FLOAT = 6, BYTE = 0, KERNELS = 16 };
static int live; /* tensors, lists, strings */
static jmp_buf thrown;
static char thrown_text[8192];
static struct {
  char name[32];
  torch_kernel fn;
} kernels[KERNELS];
static int n_kernels, failing; /* failing: calls until an allocation of this libtorch fails; 0: none does */

#define EXPORT __attribute__((visibility("default")))

static torch_tensor tensor_new(storage *s, int64_t rank, const int64_t *sizes, int32_t dtype) {
  torch_tensor t = calloc(1, sizeof *t);
  int64_t stride = 1;
  t->storage = s;
  s->references++;
  t->rank = rank;
  t->dtype = dtype;
  for (int64_t d = rank - 1; d >= 0; d--) {
    t->sizes[d] = sizes[d];
    t->strides[d] = stride;
    stride *= sizes[d];
  }
  live++;
  return t;
}

static torch_tensor tensor_make(int64_t rank, const int64_t *sizes, int32_t dtype) {
  storage *s = calloc(1, sizeof *s);
  size_t bytes = dtype == BYTE ? 1 : 8;
  for (int64_t d = 0; d < rank; d++) bytes *= (size_t)sizes[d];
  s->data = calloc(1, bytes + 1);
  return tensor_new(s, rank, sizes, dtype);
}

static bool fails(void) { return failing > 0 && --failing == 0; }

EXPORT torch_error aoti_torch_library_init_fragment(const char *n, const char *f, uint32_t l, torch_library *out) {
  *out = (torch_library)(uintptr_t)1;
  return (void)n, (void)f, (void)l, 0;
}
EXPORT torch_error aoti_torch_library_init_impl(const char *n, const char *k, const char *f, uint32_t l,
                                                torch_library *out) {
  *out = (torch_library)(uintptr_t)(strcmp(k, "CPU") == 0 ? 2 : 3);
  return (void)n, (void)f, (void)l, 0;
}
EXPORT torch_error aoti_torch_library_def(torch_library self, const char *schema) {
  return (void)self, strchr(schema, '(') == NULL;
}
EXPORT torch_error torch_library_impl(torch_library self, const char *name, torch_kernel fn, uint64_t abi) {
  assert_int_equal(abi, TORCH_ABI_VERSION);
  if ((uintptr_t)self != 2) return 0;
  snprintf(kernels[n_kernels].name, sizeof kernels[n_kernels].name, "%s", name);
  kernels[n_kernels++].fn = fn;
  return 0;
}
EXPORT torch_error torch_new_list_reserve_size(size_t size, torch_list *out) {
  if (fails()) return 1;
  *out = calloc(1, sizeof **out);
  live++;
  return size > 32;
}
EXPORT torch_error torch_list_size(torch_list self, size_t *out) { return *out = self->n, 0; }
EXPORT torch_error torch_list_get_item(torch_list self, size_t i, torch_value *out) { return *out = self->items[i], 0; }
EXPORT torch_error torch_list_push_back(torch_list self, torch_value item) { return self->items[self->n++] = item, 0; }
EXPORT torch_error torch_delete_list(torch_list self) { return live--, free(self), 0; }
EXPORT torch_error torch_delete_string(torch_string self) { return live--, free(self), 0; }
EXPORT torch_error torch_get_num_threads(uint32_t *out) { return *out = 2, 0; }
EXPORT torch_error aoti_torch_get_data_ptr(torch_tensor t, void **out) { return *out = t->storage->data, 0; }
EXPORT torch_error aoti_torch_get_dim(torch_tensor t, int64_t *out) { return *out = t->rank, 0; }
EXPORT torch_error aoti_torch_get_numel(torch_tensor t, int64_t *out) {
  *out = 1;
  for (int64_t d = 0; d < t->rank; d++) *out *= t->sizes[d];
  return 0;
}
EXPORT torch_error aoti_torch_get_sizes(torch_tensor t, int64_t **out) { return *out = t->sizes, 0; }
EXPORT torch_error aoti_torch_get_strides(torch_tensor t, int64_t **out) { return *out = t->strides, 0; }
EXPORT torch_error aoti_torch_get_dtype(torch_tensor t, int32_t *out) { return *out = t->dtype, 0; }
EXPORT torch_error aoti_torch_get_device_type(torch_tensor t, int32_t *out) { return (void)t, *out = CPU, 0; }
EXPORT torch_error aoti_torch_get_device_index(torch_tensor t, int32_t *out) { return (void)t, *out = -1, 0; }
EXPORT torch_error aoti_torch_is_contiguous(torch_tensor t, bool *out) { return (void)t, *out = true, 0; }
EXPORT torch_error aoti_torch_empty_strided(int64_t rank, const int64_t *sizes, const int64_t *strides, int32_t dtype,
                                            int32_t device, int32_t index, torch_tensor *out) {
  (void)strides, (void)device, (void)index;
  if (fails()) return 1;
  *out = tensor_make(rank, sizes, dtype);
  return 0;
}
EXPORT torch_error aoti_torch_copy_(torch_tensor to, torch_tensor from, int32_t wait) {
  return (void)to, (void)from, wait;
}
EXPORT torch_error aoti_torch_new_tensor_handle(torch_tensor t, torch_tensor *out) {
  if (fails()) return 1;
  *out = tensor_new(t->storage, t->rank, t->sizes, t->dtype);
  return 0;
}
EXPORT torch_error aoti_torch_delete_tensor_object(torch_tensor t) {
  storage *s = t->storage;
  live--;
  free(t);
  if (--s->references > 0) return 0;
  if (s->deleter) {
    s->deleter(s->data, s->user);
  } else {
    free(s->data);
  }
  free(s);
  return 0;
}
EXPORT torch_error torch_from_blob(void *data, int64_t rank, const int64_t *sizes, const int64_t *strides,
                                   int64_t offset, int32_t dtype, int32_t device, int32_t index, torch_tensor *out,
                                   int32_t layout, const uint8_t *metadata, int64_t metadata_size,
                                   void (*deleter)(void *data, void *user), void *user) {
  (void)strides, (void)offset, (void)device, (void)index, (void)layout, (void)metadata, (void)metadata_size;
  if (fails()) return deleter(data, user), 1; /* as PyTorch does */
  storage *s = calloc(1, sizeof *s);
  s->data = data;
  s->deleter = deleter;
  s->user = user;
  *out = tensor_new(s, rank, sizes, dtype);
  return 0;
}
EXPORT void aoti_torch_check(bool ok, const char *function, const char *file, uint32_t line, const char *text) {
  (void)function, (void)file, (void)line;
  if (ok) return;
  snprintf(thrown_text, sizeof thrown_text, "%s", text);
  longjmp(thrown, 1);
}
EXPORT int32_t aoti_torch_device_type_cpu(void) { return CPU; }
EXPORT int32_t aoti_torch_device_type_cuda(void) { return CUDA; }
EXPORT int32_t aoti_torch_layout_strided(void) { return 0; }
EXPORT int32_t aoti_torch_dtype_float32(void) { return FLOAT; }
EXPORT int32_t aoti_torch_dtype_float64(void) { return 7; }
EXPORT int32_t aoti_torch_dtype_float16(void) { return 5; }
EXPORT int32_t aoti_torch_dtype_bfloat16(void) { return 15; }
EXPORT int32_t aoti_torch_dtype_complex32(void) { return 8; }
EXPORT int32_t aoti_torch_dtype_complex64(void) { return 9; }
EXPORT int32_t aoti_torch_dtype_complex128(void) { return 10; }
EXPORT int32_t aoti_torch_dtype_int8(void) { return 1; }
EXPORT int32_t aoti_torch_dtype_uint8(void) { return BYTE; }
EXPORT int32_t aoti_torch_dtype_int16(void) { return 2; }
EXPORT int32_t aoti_torch_dtype_int32(void) { return 3; }
EXPORT int32_t aoti_torch_dtype_int64(void) { return 4; }
EXPORT int32_t aoti_torch_dtype_bool(void) { return 11; }

/* ---- calls --------------------------------------------------------------------------------------------------------- */

static torch_kernel kernel_named(const char *name) {
  for (int k = 0; k < n_kernels; k++) {
    if (strcmp(kernels[k].name, name) == 0) return kernels[k].fn;
  }
  fail_msg("no kernel %s", name);
  return NULL;
}

static bool call(const char *name, torch_value *stack, uint64_t n) {
  if (setjmp(thrown)) return false;
  kernel_named(name)(stack, n, 1);
  return true;
}

static torch_value handle(torch_tensor t) {
  torch_tensor copy = tensor_new(t->storage, t->rank, t->sizes, t->dtype);
  return (torch_value)(uintptr_t)copy;
}

static torch_tensor load(torch_tensor bytes) { /* NULL: thrown */
  torch_value stack[1] = {handle(bytes)};
  return call("load", stack, 1) ? (torch_tensor)(uintptr_t)stack[0] : NULL;
}

static torch_list execute(torch_tensor engine, torch_tensor *inputs, size_t n) { /* NULL: thrown */
  torch_list list = calloc(1, sizeof *list);
  for (; list->n < n; list->n++) list->items[list->n] = handle(inputs[list->n]);
  torch_value stack[3] = {handle(engine), (torch_value)(uintptr_t)list, (torch_value)(uintptr_t)malloc(1)};
  live += 2;
  return call("execute", stack, 3) ? (torch_list)(uintptr_t)stack[0] : NULL;
}

static void delete_list(torch_list list) {
  for (size_t k = 0; list && k < list->n; k++) aoti_torch_delete_tensor_object((torch_tensor)(uintptr_t)list->items[k]);
  if (list) torch_delete_list(list);
}

/* An engine of a model of the corpus, and one input tensor for each of its inputs. */
typedef struct fixture {
  torch_tensor blob, inputs[4];
  size_t n;
} fixture;

static fixture fixture_make(void) {
  char path[512];
  file_map file;
  fixture f = {0};
  kiln_engine *e = NULL;
  void *bytes = NULL;
  size_t size = 0;
  snprintf(path, sizeof path, "%s/pt2/%s", KILN_FUZZ_CORPUS, "conv.pt2");
  expect_ok(file_map_open(path, &file));
  expect_ok(kiln_engine_build_memory(file.data, file.size, NULL, &e));
  expect_ok(kiln_engine_serialize(e, &bytes, &size));
  const int64_t n = (int64_t)size;
  f.blob = tensor_make(1, &n, BYTE);
  memcpy(f.blob->storage->data, bytes, size);
  f.n = kiln_engine_input_count(e);
  assert_true(f.n >= 1 && f.n <= 4);
  for (size_t i = 0; i < f.n; i++) {
    kiln_io_info info;
    expect_ok(kiln_engine_input(e, i, &info));
    assert_int_equal(info.dtype, KILN_F32);
    f.inputs[i] = tensor_make(info.rank, info.opt, FLOAT);
  }
  kiln_free(bytes);
  kiln_engine_destroy(e);
  file_map_close(&file);
  return f;
}

static void fixture_free(fixture *f) {
  aoti_torch_delete_tensor_object(f->blob);
  for (size_t i = 0; i < f->n; i++) aoti_torch_delete_tensor_object(f->inputs[i]);
  kiln_torch_clear_cache();
  size_t instances = 1, engines = 1;
  instance_counts(&instances, &engines);
  assert_int_equal(instances, 0);
  assert_int_equal(engines, 0);
  assert_int_equal(live, 0);
}

static int setup(void **state) {
  (void)state;
  return kiln_torch_register() != NULL;
}

static void test_calls(void **state) {
  (void)state;
  fixture f = fixture_make();
  torch_tensor a = load(f.blob), b = load(a); /* two instances of one engine, at different addresses */
  assert_non_null(a);
  assert_non_null(b);
  assert_ptr_not_equal(a->storage->data, b->storage->data);
  assert_memory_equal(a->storage->data, f.blob->storage->data, (size_t)f.blob->sizes[0]);
  torch_tensor all[3] = {a, b, f.blob};
  for (int k = 0; k < 9; k++) {
    torch_list out = execute(all[k % 3], f.inputs, f.n);
    assert_non_null(out);
    delete_list(out);
  }
  size_t instances = 0, engines = 0;
  instance_counts(&instances, &engines);
  assert_int_equal(instances, 3);
  assert_int_equal(engines, 1);
  aoti_torch_delete_tensor_object(a);
  aoti_torch_delete_tensor_object(b);
  fixture_free(&f);
}

static void test_wrong_calls(void **state) {
  (void)state;
  fixture f = fixture_make();
  torch_tensor engine = load(f.blob), twice[8];
  for (size_t k = 0; k < 8; k++) twice[k] = f.inputs[0];
  assert_null(execute(engine, twice, 8));
  assert_non_null(strstr(thrown_text, "got 8"));
  assert_null(execute(engine, twice, 0));
  twice[0] = f.blob;
  assert_null(execute(engine, twice, f.n));
  assert_null(execute(f.inputs[0], f.inputs, f.n));
  assert_non_null(strstr(thrown_text, "uint8"));
  char *bytes = engine->storage->data;
  bytes[9] ^= 1;
  assert_null(execute(engine, f.inputs, f.n));
  assert_non_null(strstr(thrown_text, "altered"));
  assert_null(load(engine));
  bytes[9] ^= 1;
  delete_list(execute(engine, f.inputs, f.n));
  aoti_torch_delete_tensor_object(engine);
  fixture_free(&f);
}

/* All of it, while this libtorch or Kiln runs out of memory at each allocation in turn. */
static bool everything(const fixture *f) {
  torch_tensor engine = load(f->blob);
  if (!engine) return false;
  torch_list out = execute(engine, (torch_tensor *)f->inputs, f->n), other = NULL;
  if (out) other = execute(f->blob, (torch_tensor *)f->inputs, f->n);
  const bool ok = out && other;
  delete_list(out);
  delete_list(other);
  aoti_torch_delete_tensor_object(engine);
  kiln_torch_clear_cache();
  return ok;
}

static void test_no_memory(void **state) {
  (void)state;
  fixture f = fixture_make();
  const int before = live;
  assert_true(everything(&f));
  int failures = 0;
  for (failing = 1; !everything(&f); failing = ++failures + 1) assert_int_equal(live, before);
  assert_in_range(failures, 4, 40); /* from_blob, lists, outputs */
  failing = 0;
  bool done = false;
  int n = 0;
  for (; !done; n++) {
    mem_test_fail_after(n);
    done = everything(&f);
    mem_test_fail_after(-1);
    assert_int_equal(live, before);
    if (!done) assert_non_null(strstr(thrown_text, "memory"));
    assert_true(n < 100000);
  }
  assert_true(n > 100);
  fixture_free(&f);
}

/* ---- the parts ----------------------------------------------------------------------------------------------------- */

static void test_blob(void **state) {
  (void)state;
  char bytes[10000];
  for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)(i * 7);
  blob b;
  assert_true(blob_create(bytes, sizeof bytes, &b));
  char *first = blob_copy(&b), *second = blob_copy(&b);
  first[5000] = 1;
  assert_memory_equal(b.data, bytes, sizeof bytes);
  assert_memory_equal(second, bytes, sizeof bytes);
  blob_destroy(&b);
  assert_memory_equal(second, bytes, sizeof bytes);
  blob_copy_free(first, sizeof bytes);
  blob_copy_free(second, sizeof bytes);
  assert_false(blob_create(bytes, 0, &b));
}

enum { KEYS = 3000, READERS = 2 };
static char keys[KEYS];
static atomic_bool stop;

static void *read_first_keys(void *unused) {
  (void)unused;
  uintptr_t wrong = 0;
  while (!atomic_load(&stop)) {
    for (size_t k = 2; k < 100; k++) wrong += address_map_find(&keys[k]) != &keys[k];
  }
  return (void *)wrong;
}

static void test_address_map(void **state) {
  (void)state;
  pthread_t readers[READERS];
  assert_null(address_map_find(&keys[0]));
  for (size_t k = 2; k < 100; k++) assert_true(address_map_add(&keys[k], &keys[k]));
  for (int r = 0; r < READERS; r++) assert_int_equal(pthread_create(&readers[r], NULL, read_first_keys, NULL), 0);
  for (int round = 0; round < 4; round++) {
    for (size_t k = 100; k < KEYS; k++) assert_true(address_map_add(&keys[k], &keys[k]));
    for (size_t k = 100; k < KEYS; k++) assert_ptr_equal(address_map_find(&keys[k]), &keys[k]);
    for (size_t k = 100; k < KEYS; k++) address_map_remove(&keys[k]);
    for (size_t k = 100; k < KEYS; k++) assert_null(address_map_find(&keys[k]));
  }
  atomic_store(&stop, true);
  for (int r = 0; r < READERS; r++) {
    void *wrong = NULL;
    pthread_join(readers[r], &wrong);
    assert_null(wrong);
  }
  for (size_t k = 2; k < 100; k++) address_map_remove(&keys[k]);
  address_map_remove(&keys[0]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_calls), cmocka_unit_test(test_wrong_calls),
                                     cmocka_unit_test(test_no_memory), cmocka_unit_test(test_blob),
                                     cmocka_unit_test(test_address_map)};
  return cmocka_run_group_tests(tests, setup, NULL);
}
