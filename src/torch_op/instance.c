/* Engines, instances and their contexts, see instance.h. */
#include "torch_op/instance.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "torch_op/address_map.h"
#include "torch_op/blob.h"

enum {
  HEAD = 256, /* bytes at the start that are compared on every call: an engine file's header, with its checksums */
  KEPT_CONTEXTS = 32, /* idle contexts that an instance keeps */
  ERROR_TEXT = 4096
};

typedef struct engine { /* shared by all instances of the same bytes */
  kiln_engine *engine;
  blob bytes;
  char *signature;
  bool has_state, on_gpu;
  int references; /* under registry_lock */
  struct engine *next;
} engine;

struct instance {
  engine *engine;
  _Atomic(int) references;
  _Atomic(int) running;
  _Atomic(call_slot *) idle[KEPT_CONTEXTS];
  pthread_mutex_t one_caller; /* held during a call if the engine has state */
  void *published;
};

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static engine *engines;
static _Atomic(size_t) live_instances;

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static _Thread_local char error_buffer[ERROR_TEXT];

kiln_status instance_fail(kiln_status status, const char *format, ...) {
  va_list list;
  va_start(list, format);
  vsnprintf(error_buffer, sizeof error_buffer, format, list);
  va_end(list);
  return status;
}

static kiln_status library_failed(kiln_status status) { return instance_fail(status, "%s", kiln_last_error()); }

const char *instance_error(void) { return error_buffer; }

/* ---- engines ----------------------------------------------------------------------------------------------------- */

static void engine_free(engine *e) {
  if (!e) return;
  kiln_engine_destroy(e->engine);
  kiln_free(e->signature);
  if (e->bytes.data) blob_destroy(&e->bytes);
  free(e);
}

static engine *engine_find(const void *bytes, size_t size) {
  pthread_mutex_lock(&registry_lock);
  engine *e = engines;
  while (e && (e->bytes.size != size || memcmp(e->bytes.data, bytes, size) != 0)) e = e->next;
  if (e) e->references++;
  pthread_mutex_unlock(&registry_lock);
  return e;
}

static kiln_status engine_read(engine *e, const void *bytes, size_t size) {
  if (size == 0) return instance_fail(KILN_INVALID_FILE, "the engine tensor is empty");
  if (!blob_create(bytes, size, &e->bytes))
    return instance_fail(KILN_OUT_OF_MEMORY, "no memory for an engine of %zu bytes", size);
  kiln_status status = kiln_engine_load(e->bytes.data, size, &e->engine);
  if (status == KILN_OK) status = kiln_engine_verify(e->engine);
  if (status == KILN_OK) status = kiln_engine_report(e->engine, KILN_REPORT_SIGNATURE, &e->signature);
  if (status != KILN_OK) return library_failed(status);
  e->has_state = kiln_engine_state_count(e->engine) > 0;
  e->on_gpu = strncmp(kiln_engine_target(e->engine), "cuda", 4) == 0;
  return KILN_OK;
}

static kiln_status engine_create(const void *bytes, size_t size, engine **out) {
  engine *e = calloc(1, sizeof *e);
  if (!e) return instance_fail(KILN_OUT_OF_MEMORY, "no memory for an engine");
  e->references = 1;
  const kiln_status status = engine_read(e, bytes, size);
  if (status != KILN_OK) {
    engine_free(e);
    return status;
  }
  pthread_mutex_lock(&registry_lock);
  e->next = engines;
  engines = e;
  pthread_mutex_unlock(&registry_lock);
  *out = e;
  return KILN_OK;
}

static void engine_release(engine *e) {
  pthread_mutex_lock(&registry_lock);
  const bool last = --e->references == 0;
  if (last) {
    engine **at = &engines;
    while (*at != e) at = &(*at)->next;
    *at = e->next;
  }
  pthread_mutex_unlock(&registry_lock);
  if (last) engine_free(e);
}

bool instance_signature_by_size(size_t bytes, char *out, size_t room) {
  const char *found = NULL;
  bool unique = true;
  pthread_mutex_lock(&registry_lock);
  for (const engine *e = engines; e; e = e->next) {
    if (e->bytes.size != bytes) continue;
    unique = unique && (!found || strcmp(found, e->signature) == 0);
    found = e->signature;
  }
  const bool ok = found && unique && strlen(found) < room;
  if (ok) memcpy(out, found, strlen(found) + 1);
  pthread_mutex_unlock(&registry_lock);
  return ok;
}

void instance_counts(size_t *out_instances, size_t *out_engines) {
  size_t n = 0;
  pthread_mutex_lock(&registry_lock);
  for (const engine *e = engines; e; e = e->next) n++;
  pthread_mutex_unlock(&registry_lock);
  *out_engines = n;
  *out_instances = atomic_load(&live_instances);
}

/* ---- contexts ---------------------------------------------------------------------------------------------------- */

static void slot_free(call_slot *s) {
  if (!s) return;
  kiln_context_destroy(s->context);
  free(s->inputs);
  free(s->outputs);
  free(s->shapes);
  free(s->pairs);
  free(s);
}

/* The first caller's context uses all of PyTorch's threads; one that is made because others are busy uses its share. */
static int32_t thread_share(const instance *i) {
  uint32_t threads = 1;
  if (torch.torch_get_num_threads(&threads) != 0 || threads < 1) threads = 1;
  const int running = i->engine->has_state ? 1 : atomic_load(&i->running);
  const uint32_t share = threads / (uint32_t)(running > 1 ? running : 1);
  return share > 1 ? (int32_t)share : 1;
}

static kiln_status slot_create(const instance *i, int32_t device, call_slot **out) {
  const size_t n_in = kiln_engine_input_count(i->engine->engine) + 1,
               n_out = kiln_engine_output_count(i->engine->engine) + 1;
  call_slot *s = calloc(1, sizeof *s);
  if (!s) return instance_fail(KILN_OUT_OF_MEMORY, "no memory for a context");
  s->inputs = calloc(n_in, sizeof *s->inputs);
  s->outputs = calloc(n_out, sizeof *s->outputs);
  s->shapes = calloc(n_out, sizeof *s->shapes);
  s->pairs = calloc(n_in, sizeof *s->pairs);
  if (!s->inputs || !s->outputs || !s->shapes || !s->pairs) {
    slot_free(s);
    return instance_fail(KILN_OUT_OF_MEMORY, "no memory for a context");
  }
  const kiln_context_options options = {sizeof options, thread_share(i)};
  const kiln_status status = kiln_context_create_on(i->engine->engine, device, &options, &s->context);
  if (status != KILN_OK) {
    slot_free(s);
    return library_failed(status);
  }
  s->device = device;
  *out = s;
  return KILN_OK;
}

/* Puts a context among the idle ones; NULL, or the context if there is no room. */
static call_slot *put_idle(instance *i, call_slot *s) {
  for (int k = 0; s && k < KEPT_CONTEXTS; k++) {
    call_slot *none = NULL;
    if (!atomic_load_explicit(&i->idle[k], memory_order_relaxed) &&
        atomic_compare_exchange_strong_explicit(&i->idle[k], &none, s, memory_order_release, memory_order_relaxed))
      s = NULL;
  }
  return s;
}

static call_slot *take_idle(instance *i, int32_t device) {
  for (int k = 0; k < KEPT_CONTEXTS; k++) { /* in order, so that a single caller always gets the widest context */
    if (!atomic_load_explicit(&i->idle[k], memory_order_relaxed)) continue;
    call_slot *s = atomic_exchange_explicit(&i->idle[k], NULL, memory_order_acquire);
    if (s && s->device == device) return s;
    slot_free(put_idle(i, s)); /* another GPU's */
  }
  return NULL;
}

kiln_status instance_acquire(instance *i, int32_t device, call_slot **out) {
  atomic_fetch_add(&i->running, 1);
  if (i->engine->has_state) pthread_mutex_lock(&i->one_caller);
  if ((*out = take_idle(i, device))) return KILN_OK;
  const kiln_status status = slot_create(i, device, out);
  if (status != KILN_OK) {
    if (i->engine->has_state) pthread_mutex_unlock(&i->one_caller);
    atomic_fetch_sub(&i->running, 1);
  }
  return status;
}

void instance_give_back(instance *i, call_slot *s) {
  s = put_idle(i, s);
  if (i->engine->has_state) pthread_mutex_unlock(&i->one_caller);
  atomic_fetch_sub(&i->running, 1);
  slot_free(s);
}

void instance_reset(instance *i) {
  if (!i->engine->has_state) return;
  pthread_mutex_lock(&i->one_caller);
  for (int k = 0; k < KEPT_CONTEXTS; k++) {
    call_slot *s = atomic_load(&i->idle[k]);
    if (s) kiln_context_reset(s->context);
  }
  pthread_mutex_unlock(&i->one_caller);
}

/* ---- instances --------------------------------------------------------------------------------------------------- */

kiln_status instance_create(const void *bytes, size_t size, instance **out) {
  instance *i = calloc(1, sizeof *i);
  if (!i) return instance_fail(KILN_OUT_OF_MEMORY, "no memory for an engine");
  i->engine = engine_find(bytes, size);
  if (!i->engine) {
    const kiln_status status = engine_create(bytes, size, &i->engine);
    if (status != KILN_OK) {
      free(i);
      return status;
    }
  }
  pthread_mutex_init(&i->one_caller, NULL);
  atomic_init(&i->references, 1);
  atomic_fetch_add(&live_instances, 1);
  *out = i;
  return KILN_OK;
}

instance *instance_retain(instance *i) {
  atomic_fetch_add_explicit(&i->references, 1, memory_order_relaxed);
  return i;
}

void instance_release(instance *i) {
  if (!i || atomic_fetch_sub_explicit(&i->references, 1, memory_order_acq_rel) > 1) return;
  for (int k = 0; k < KEPT_CONTEXTS; k++) slot_free(atomic_load(&i->idle[k]));
  pthread_mutex_destroy(&i->one_caller);
  engine_release(i->engine);
  free(i);
  atomic_fetch_sub(&live_instances, 1);
}

const kiln_engine *instance_engine(const instance *i) { return i->engine->engine; }
bool instance_on_gpu(const instance *i) { return i->engine->on_gpu; }

kiln_status instance_publish(instance *i, void **out_data, size_t *out_size) {
  const blob *b = &i->engine->bytes;
  i->published = blob_copy(b);
  if (!i->published || !address_map_add(i->published, i)) {
    blob_copy_free(i->published, b->size);
    i->published = NULL;
    return instance_fail(KILN_OUT_OF_MEMORY, "no memory for an engine tensor of %zu bytes", b->size);
  }
  *out_data = i->published;
  *out_size = b->size;
  return KILN_OK;
}

void instance_withdraw(instance *i) {
  if (!i->published) return;
  address_map_remove(i->published);
  blob_copy_free(i->published, i->engine->bytes.size);
  i->published = NULL;
}

instance *instance_find(const void *data) { return address_map_find(data); }

bool instance_matches(const instance *i, const void *data, size_t size) {
  const blob *b = &i->engine->bytes;
  return size == b->size && memcmp(data, b->data, size < HEAD ? size : HEAD) == 0;
}

/* ---- tensors that kiln::load did not make ------------------------------------------------------------------------ */

enum {
  FOREIGN = 16, /* remembered at once */
  WINDOW =
      16 * 1024 /* bytes compared on each call besides the head, going round: any change is found sooner or later */
};

typedef struct foreign {
  instance *instance; /* NULL: free */
  const void *data;
  int32_t device, index;
  torch_tensor held; /* or NULL: keeps the address from being used again, where a comparison could not tell or state
                        would be mixed up */
  size_t window;
  uint64_t last_use;
} foreign;

static pthread_mutex_t foreign_lock = PTHREAD_MUTEX_INITIALIZER;
static foreign foreigners[FOREIGN];
static uint64_t foreign_clock;

/* Outside of the lock: freeing a tensor may run other people's code. */
static void foreign_free(const foreign *f) {
  if (f->held) torch.aoti_torch_delete_tensor_object(f->held);
  instance_release(f->instance);
}

static bool foreign_unchanged(foreign *f, const foreign_tensor *t) {
  if (t->device != torch.cpu) return true; /* held */
  const blob *b = &f->instance->engine->bytes;
  if (!instance_matches(f->instance, t->data, t->size)) return false;
  const size_t n = b->size - f->window < WINDOW ? b->size - f->window : WINDOW;
  if (memcmp((const char *)t->data + f->window, (const char *)b->data + f->window, n) != 0) return false;
  f->window = f->window + n == b->size ? 0 : f->window + n;
  return true;
}

static kiln_status foreign_load(foreign *f, const foreign_tensor *t) {
  torch_tensor copy = NULL;
  const void *bytes = t->data;
  foreign made = {.data = t->data, .device = t->device, .index = t->index};
  kiln_status status = t->device == torch.cpu ? KILN_OK : t->host(t->tensor, &copy, &bytes);
  if (status == KILN_OK) status = instance_create(bytes, t->size, &made.instance);
  if (copy) torch.aoti_torch_delete_tensor_object(copy);
  if (status != KILN_OK) return status;
  const bool hold = t->device != torch.cpu || made.instance->engine->has_state;
  if (hold && torch.aoti_torch_new_tensor_handle(t->tensor, &made.held) != 0) {
    instance_release(made.instance);
    return instance_fail(KILN_OUT_OF_MEMORY, "PyTorch could not make a tensor handle");
  }
  *f = made;
  return KILN_OK;
}

/* `out_dropped`: what made room, for the caller to free. */
static kiln_status foreign_find(const foreign_tensor *t, instance **out, foreign *out_dropped) {
  foreign *oldest = &foreigners[0], *f = NULL;
  for (int k = 0; k < FOREIGN && !f; k++) {
    foreign *x = &foreigners[k];
    if (x->instance && x->data == t->data && x->device == t->device && x->index == t->index) f = x;
    if (x->last_use < oldest->last_use) oldest = x;
  }
  if (!f || !foreign_unchanged(f, t)) {
    if (f) oldest = f;
    f = oldest;
    *out_dropped = *f;
    *f = (foreign){0};
    const kiln_status status = foreign_load(f, t);
    if (status != KILN_OK) return status;
  }
  f->last_use = ++foreign_clock;
  *out = instance_retain(f->instance);
  return KILN_OK;
}

kiln_status instance_find_foreign(const foreign_tensor *t, instance **out) {
  foreign dropped = {0};
  pthread_mutex_lock(&foreign_lock);
  const kiln_status status = foreign_find(t, out, &dropped);
  pthread_mutex_unlock(&foreign_lock);
  foreign_free(&dropped);
  return status;
}

void instance_clear_foreign(void) {
  foreign dropped[FOREIGN];
  pthread_mutex_lock(&foreign_lock);
  memcpy(dropped, foreigners, sizeof dropped);
  memset(foreigners, 0, sizeof foreigners);
  pthread_mutex_unlock(&foreign_lock);
  for (int k = 0; k < FOREIGN; k++) foreign_free(&dropped[k]);
}
