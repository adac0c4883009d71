/* The runtime's way on a device, without one: a device whose memory is the host's, whose kernels are the reference kernels, and whose
 * graphs run their program. It checks that every address is where it must be. */
#include "engine_check.h"
#include "runtime/context.h"

/* ---- the device --------------------------------------------------------------------------------------------------- */

typedef struct block_of_memory {
  char *at;
  size_t bytes;
} block_of_memory;

struct device {
  int ordinal;
};
static device only = {3};
static block_of_memory blocks[512];
static int n_blocks, launches, captures, downloads;
static bool caller_captures;
static bool busy; /* has something been enqueued, and not waited for? */
static int doubts;
static kiln_context *running; /* whose graphs are launched */

static bool on_device(const void *p) {
  for (int i = 0; i < n_blocks; i++) {
    if ((const char *)p >= blocks[i].at && (const char *)p < blocks[i].at + blocks[i].bytes) return true;
  }
  return false;
}

static kiln_status fake_open(const target *t, int ordinal, device **out) {
  (void)t;
  if (ordinal != 3) return KILN_FAIL(KILN_INVALID_ARGUMENT, "there is no GPU %d", ordinal);
  *out = &only;
  return KILN_OK;
}
static void fake_close(device *d) { (void)d; }
static int fake_ordinal(const device *d) { return d->ordinal; }
static int enters;
static bool elsewhere; /* is another device current in this thread? */
static kiln_status fake_enter(device *d) {
  enters++;
  return d == &only ? KILN_OK : KILN_INTERNAL;
}
static bool fake_current(device *d) { return d == &only && !elsewhere; }
static void fake_leave(device *d) { (void)d; }

static kiln_status fake_allocate(device *d, size_t bytes, const char *what, void **out) {
  (void)d;
  assert_false(caller_captures);
  assert_true(n_blocks < (int)KILN_COUNT(blocks));
  *out = mem_alloc_aligned(bytes ? bytes : 1);
  if (!*out) return KILN_FAIL(KILN_OUT_OF_MEMORY, "%s needs %zu bytes", what, bytes);
  memset(*out, 0xa5, bytes);
  blocks[n_blocks++] = (block_of_memory){*out, bytes ? bytes : 1};
  return KILN_OK;
}
static void fake_in_doubt(device *d, bool on) {
  (void)d;
  doubts += on ? 1 : -1;
}
static void free_block(void *memory, size_t bytes) {
  for (int i = 0; memory && i < n_blocks; i++) {
    if (blocks[i].at != memory) continue;
    assert_int_equal(blocks[i].bytes, bytes ? bytes : 1);
    blocks[i] = blocks[--n_blocks];
    memset(memory, 0xee, bytes); /* what still reads it gets nonsense */
    mem_free_aligned(memory);
    return;
  }
  assert_null(memory);
}
static void fake_release(device *d, void *memory, size_t bytes) {
  (void)d;
  assert_true(!busy || doubts > 0 || !memory); /* else others would get what a run still uses */
  free_block(memory, bytes);
}
static kiln_status fake_host_allocate(device *d, size_t bytes, void **out) {
  (void)d;
  *out = mem_alloc_aligned(bytes ? bytes : 1);
  return *out ? KILN_OK : KILN_NO_MEMORY("pinned memory");
}
static void fake_host_release(device *d, void *memory) {
  (void)d;
  mem_free_aligned(memory);
}

typedef struct kept_constant {
  const void *host;
  void *there;
  size_t bytes;
  int references;
} kept_constant;
static kept_constant constants[64];

static kiln_status fake_constant(device *d, const void *data, size_t bytes, void **out) {
  kept_constant *c = constants;
  while (c->references && c->host != data) c++;
  if (!c->references) {
    KILN_TRY(fake_allocate(d, bytes, "a weight", &c->there));
    memcpy(c->there, data, bytes);
    c->host = data;
    c->bytes = bytes;
  }
  c->references++;
  *out = c->there;
  return KILN_OK;
}
static void fake_constant_release(device *d, const void *data) {
  kept_constant *c = constants;
  while (c->host != data || !c->references) c++;
  if (--c->references) return;
  fake_release(d, c->there, c->bytes);
  kept_constant *last = c;
  while (last[1].references) last++;
  *c = *last;
  *last = (kept_constant){0};
}
static size_t fake_constant_bytes(device *d) {
  (void)d;
  return 0;
}

static kiln_status fake_stream_create(device *d, void **out) {
  (void)d;
  *out = (void *)(uintptr_t)64;
  return KILN_OK;
}
static void fake_stream_destroy(device *d, void *stream) {
  (void)d;
  (void)stream;
}
static kiln_status fake_upload(device *d, void *stream, void *to, const void *from, size_t bytes) {
  (void)d;
  (void)stream;
  assert_true(!bytes || (on_device(to) && !on_device(from)));
  if (bytes) memcpy(to, from, bytes);
  return KILN_OK;
}
static kiln_status fake_download(device *d, void *stream, void *to, const void *from, size_t bytes) {
  (void)d;
  (void)stream;
  assert_true(!bytes || (on_device(from) && !on_device(to)));
  if (bytes) memcpy(to, from, bytes);
  downloads++;
  return KILN_OK;
}
static kiln_status fake_copy(device *d, void *stream, void *to, const void *from, size_t bytes) {
  (void)d;
  (void)stream;
  assert_true(!bytes || (on_device(from) && on_device(to)));
  if (bytes) memmove(to, from, bytes);
  return KILN_OK;
}
static kiln_status fake_synchronize(device *d, void *stream) {
  (void)d;
  (void)stream;
  assert_false(caller_captures);
  busy = false;
  return KILN_OK;
}
static kiln_status fake_finish_prepare(device *d, int threads) {
  (void)d;
  (void)threads;
  return KILN_OK;
}
static void fake_defer(device *d, bool on) {
  (void)d;
  (void)on;
}
static bool fake_owns(device *d, const void *memory) {
  (void)d;
  return on_device(memory);
}
static kiln_status fake_stream_check(device *d, void *stream) {
  (void)d;
  if (stream == (void *)(uintptr_t)77) return KILN_FAIL(KILN_INVALID_ARGUMENT, "the stream is not one of GPU 3");
  return KILN_OK;
}
static kiln_status fake_capturing(device *d, void *stream, bool *out) {
  (void)d;
  (void)stream;
  *out = caller_captures;
  return KILN_OK;
}
static kiln_status fake_capture_begin(device *d, void *stream) {
  (void)d;
  (void)stream;
  captures++;
  return KILN_OK;
}
static kiln_status fake_capture_end(device *d, void *stream, bool keep, void **out) {
  (void)d;
  (void)stream;
  static uintptr_t next = 1000;
  if (keep) *out = (void *)next++;
  return KILN_OK;
}
/* Runs the program for the addresses that it was captured with. */
static kiln_status fake_graph_launch(device *d, void *exec, void *stream) {
  (void)d;
  launches++;
  busy = true;
  for (int i = 0; i < DEVICE_GRAPHS; i++) {
    const device_graph *g = &running->bound->graphs.graphs[i];
    if (g->exec == exec) return program_launch(running->current, running->arena, g->externals, stream, false);
  }
  fail_msg("a graph is launched that is not one of the program's");
  return KILN_INTERNAL;
}
static void fake_graph_destroy(device *d, void *exec) {
  (void)d;
  (void)exec;
}
static kiln_status fake_mark_create(device *d, void **out) {
  (void)d;
  *out = NULL;
  return KILN_OK;
}
static kiln_status fake_fence_wait(device *d, void *fence) {
  (void)d;
  (void)fence;
  busy = false;
  return KILN_OK;
}
static void fake_mark_destroy(device *d, void *mark) {
  (void)d;
  (void)mark;
}
static kiln_status fake_mark(device *d, void *mark, void *stream) {
  (void)d;
  (void)mark;
  (void)stream;
  assert_false(caller_captures);
  return KILN_OK;
}
static kiln_status fake_seconds(device *d, void *start, void *end, double *out) {
  (void)d;
  (void)start;
  (void)end;
  *out = 0;
  return KILN_OK;
}

static const device_hooks hooks = {.open = fake_open,
                                   .close = fake_close,
                                   .dlpack_type = KILN_DEVICE_CUDA,
                                   .ordinal = fake_ordinal,
                                   .enter = fake_enter,
                                   .leave = fake_leave,
                                   .current = fake_current,
                                   .allocate = fake_allocate,
                                   .release = fake_release,
                                   .in_doubt = fake_in_doubt,
                                   .host_allocate = fake_host_allocate,
                                   .host_release = fake_host_release,
                                   .constant = fake_constant,
                                   .constant_release = fake_constant_release,
                                   .constant_bytes = fake_constant_bytes,
                                   .stream_create = fake_stream_create,
                                   .stream_destroy = fake_stream_destroy,
                                   .upload = fake_upload,
                                   .download = fake_download,
                                   .copy = fake_copy,
                                   .synchronize = fake_synchronize,
                                   .finish_prepare = fake_finish_prepare,
                                   .defer = fake_defer,
                                   .owns = fake_owns,
                                   .stream_check = fake_stream_check,
                                   .capturing = fake_capturing,
                                   .capture_begin = fake_capture_begin,
                                   .capture_end = fake_capture_end,
                                   .graph_launch = fake_graph_launch,
                                   .graph_destroy = fake_graph_destroy,
                                   .mark_create = fake_mark_create,
                                   .fence_create = fake_mark_create,
                                   .fence_wait = fake_fence_wait,
                                   .mark_destroy = fake_mark_destroy,
                                   .mark = fake_mark,
                                   .mark_wait = fake_mark,
                                   .seconds_between = fake_seconds};

static kiln_status copy_prepare(kernel_prep *p) {
  (void)p;
  return KILN_OK;
}
static kiln_status copy_run(const kernel_args *a) {
  assert_true(tensor_numel(&a->in[0]) == 0 || (on_device(a->in[0].data) && on_device(a->out[0].data)));
  return a->node->op->ref(a);
}
static const kernel copy_row = {.op = "contiguous",
                                .name = "copy.fake",
                                .prepare = copy_prepare,
                                .run = copy_run,
                                .strided_in = KERNEL_STRIDED_ALL,
                                .strided_out = KERNEL_STRIDED_ALL};
static const kernel *const rows[] = {&copy_row, &reference_kernel, NULL};
static const backend fake = {.name = "fake", .kernels = rows, .device = &hooks};

/* ---- engines on it ------------------------------------------------------------------------------------------------- */

static kiln_engine *open_engine(const char *source) {
  graph *g = NULL;
  expect_ok(graph_parse(source, strlen(source), NULL, NULL, &g));
  expect_ok(passes_portable(g, true));
  kiln_engine *e = check_engine(g, "reference");
  e->target.backend = &fake;
  e->target.ordinal = 3;
  graph_destroy(g);
  return e;
}

static kiln_context *open_context(kiln_engine *e) {
  expect_ok(kiln_context_create(e, &running));
  return running;
}

static kiln_tensor given(kiln_dtype dtype, int32_t rank, int64_t *shape, void *data) {
  kiln_tensor t = {.data = data, .ndim = rank, .shape = shape};
  t.device.type = KILN_DEVICE_CPU;
  kiln_tensor_set_dtype(&t, dtype);
  return t;
}

/* A copy of `t` on the device, with memory to release. */
static kiln_tensor there(kiln_tensor t) {
  size_t bytes = kiln_dtype_size(kiln_tensor_get_dtype(&t));
  void *memory = NULL;
  for (int d = 0; d < t.ndim; d++) bytes *= (size_t)t.shape[d];
  expect_ok(fake_allocate(&only, bytes, "test", &memory));
  if (t.data && bytes) memcpy(memory, t.data, bytes);
  t.data = memory;
  t.device.type = KILN_DEVICE_CUDA;
  t.device.id = 3;
  return t;
}
static void drop(const kiln_tensor *t) {
  for (int i = 0; i < n_blocks; i++) {
    if (blocks[i].at == t->data) {
      free_block(t->data, blocks[i].bytes);
      return;
    }
  }
}

static const char simple[] =
    "kiln.graph 1\ndim s in [1, 100] opt 4\nconst %w : f32[2] = {10, 20}\ninput \"x\" %x : f32[s,2]\n"
    "%a = add(%x, %w) : f32[s,2]\n%y = mul(%a, %x) : f32[s,2]\noutput \"y\" %y\n";

static void run_simple(kiln_context *c, int64_t s, bool inside, bool given_output) {
  float x[200], y[200];
  int64_t shape[2] = {s, 2};
  for (int i = 0; i < 200; i++) x[i] = (float)(i % 13) - 5;
  kiln_tensor in = given(KILN_F32, 2, shape, x), out = {0};
  if (inside) in = there(in);
  if (given_output) out = given(KILN_F32, 2, shape, y);
  if (given_output && inside) out = there(out);
  expect_ok(kiln_context_run(c, &in, 1, &out, 1));
  assert_int_equal(out.device.type == KILN_DEVICE_CUDA, inside);
  for (int64_t i = 0; i < 2 * s; i++) assert_true(((const float *)out.data)[i] == (x[i] + (i % 2 ? 20 : 10)) * x[i]);
  if (inside) drop(&in);
  if (inside && given_output) drop(&out);
}

static void tensors_anywhere(void **unused) {
  (void)unused;
  kiln_engine *e = open_engine(simple);
  assert_int_equal(kiln_engine_device(e), 3);
  kiln_context *c = open_context(e);
  for (int64_t s = 1; s < 40; s += 3) {
    for (int way = 0; way < 8; way++) run_simple(c, s, way & 1, way & 2);
  }
  assert_true(launches > 0 && captures > 0);
  expect_failure(kiln_context_set_stream(c, (void *)(uintptr_t)77), KILN_INVALID_ARGUMENT, "not one of GPU 3");
  expect_ok(kiln_context_set_stream(c, (void *)(uintptr_t)78));
  run_simple(c, 4, true, true);
  kiln_context_destroy(c);
  expect_failure(kiln_context_create_on(e, 1, NULL, &c), KILN_INVALID_ARGUMENT, "there is no GPU 1");
  kiln_engine_destroy(e);
  assert_int_equal(n_blocks, 0);
}

static void tensors_of_another_device(void **unused) {
  (void)unused;
  kiln_engine *e = open_engine(simple);
  kiln_context *c = open_context(e);
  int64_t shape[2] = {4, 2};
  float x[8] = {0};
  kiln_tensor in = there(given(KILN_F32, 2, shape, x)), out = {0};
  in.device.id = 2;
  expect_failure(kiln_context_run(c, &in, 1, &out, 1), KILN_INVALID_ARGUMENT, "device 2");
  in.device.id = 3;
  expect_ok(kiln_context_run(c, &in, 1, &out, 1));
  kiln_tensor copy = given(KILN_F32, 2, shape, x), back = there(copy);
  expect_failure(kiln_context_copy(c, &out, &copy), KILN_INVALID_ARGUMENT, "both");
  expect_ok(kiln_context_copy(c, &out, &back));
  assert_memory_equal(back.data, out.data, sizeof x);
  drop(&back);
  drop(&in);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  assert_int_equal(n_blocks, 0);
}

/* A caller who captures: only shapes that ran before, and what they use stays until the context goes. */
static void captures_by_the_caller(void **unused) {
  (void)unused;
  kiln_engine *e = open_engine(simple);
  kiln_context *c = open_context(e);
  int64_t shape[2] = {2, 2};
  float x[4] = {1, 2, 3, 4};
  kiln_tensor in = there(given(KILN_F32, 2, shape, x)), out = there(given(KILN_F32, 2, shape, NULL)), on_host;
  caller_captures = true;
  expect_failure(kiln_context_run(c, &in, 1, &out, 1), KILN_INVALID_ARGUMENT, "before the capture");
  caller_captures = false;
  expect_ok(kiln_context_run(c, &in, 1, &out, 1));
  caller_captures = true;
  expect_ok(kiln_context_run(c, &in, 1, &out, 1));
  on_host = given(KILN_F32, 2, shape, x);
  expect_failure(kiln_context_run(c, &on_host, 1, &out, 1), KILN_INVALID_ARGUMENT, "host memory");
  caller_captures = false;
  void *const old = c->arena;
  for (int64_t s = 3; s < 30; s += 2) run_simple(c, s, true, true); /* more shapes than are kept, and larger */
  assert_ptr_not_equal(old, c->arena);
  assert_true(on_device(old));
  drop(&in);
  drop(&out);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  assert_int_equal(n_blocks, 0);
}

static const char chain[] =
    "kiln.graph 1\ndim s in [0, 64] opt 8\ndim u in [0, inf] opt 4\ndim v in [0, 100] opt 4\ndim w in [0, inf] opt 4\n"
    "const %two : i64[] = {2}\ninput \"x\" %x : i64[s]\n"
    "%p = nonzero(%x) : i64[u,1]\n%i = reshape(%p) {shape=[u]} : i64[u]\n%a = index_select(%x, %i) {axis=0} : i64[u]\n"
    "%m = gt(%a, %two) : bool[u]\n%q = nonzero(%m) : i64[v,1]\n%j = reshape(%q) {shape=[v]} : i64[v]\n"
    "%b = index_select(%a, %j) {axis=0} : i64[v]\n%k = repeat_index(%b) : i64[w]\n"
    "%c = index_select(%b, %k) {axis=0} : i64[w]\n%sum = sum(%c) {axes=[0]} : i64[]\n%back = neg(%x) : i64[s]\n"
    "output \"c\" %c\noutput \"sum\" %sum\noutput \"back\" %back\noutput \"b\" %b\n";

static void sizes_from_data(void **unused) {
  (void)unused;
  kiln_engine *e = open_engine(chain);
  kiln_context *c = open_context(e);
  uint32_t random = 4;
  for (int round = 0; round < 120; round++) {
    int64_t x[16], shape = check_random(&random) % 16, expected[100], n = 0, sum = 0;
    for (int i = 0; i < 16; i++) x[i] = check_random(&random) % 6;
    kiln_tensor in = given(KILN_I64, 1, &shape, x), out[4] = {0};
    const bool inside = round % 2;
    if (inside) in = there(in);
    if (round % 3 == 0) out[2] = there(given(KILN_I64, 1, &shape, NULL));
    expect_ok(kiln_context_run(c, &in, 1, out, 4));
    for (int64_t i = 0; i < shape; i++) {
      assert_int_equal(((const int64_t *)out[2].data)[i], -x[i]);
      for (int64_t r = 0; x[i] > 2 && r < x[i]; r++, n++) sum += expected[n] = x[i];
    }
    assert_int_equal(out[0].shape[0], n);
    assert_int_equal(out[0].device.type == KILN_DEVICE_CUDA, inside);
    if (n) assert_memory_equal(out[0].data, expected, (size_t)n * sizeof *expected);
    assert_int_equal(*(const int64_t *)out[1].data, sum);
    if (inside) drop(&in);
    if (round % 3 == 0) drop(&out[2]);
  }
  int64_t x[2] = {1, 3}, two = 2;
  kiln_tensor in = there(given(KILN_I64, 1, &two, x)), out[4] = {0};
  expect_ok(kiln_context_run(c, &in, 1, out, 4));
  caller_captures = true;
  memset(out, 0, sizeof out);
  expect_failure(kiln_context_run(c, &in, 1, out, 4), KILN_UNSUPPORTED, "decides on the host");
  caller_captures = false;
  drop(&in);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  assert_int_equal(n_blocks, 0);
}

/* Callers with a few sets of addresses get a graph for each; those with more sets than graphs do not pay for one in each call. */
static void sets_of_addresses(void **unused) {
  (void)unused;
  kiln_engine *e = open_engine(simple);
  kiln_context *c = open_context(e);
  int64_t shape[2] = {2, 2};
  float x[4] = {1, 2, 3, 4};
  kiln_tensor in[DEVICE_GRAPHS + 2], out = there(given(KILN_F32, 2, shape, NULL));
  for (size_t i = 0; i < KILN_COUNT(in); i++) {
    x[0] = (float)i;
    in[i] = there(given(KILN_F32, 2, shape, x));
  }
  for (size_t sets = 3; sets <= KILN_COUNT(in); sets += KILN_COUNT(in) - 3) {
    const int before = captures;
    for (int turn = 0; turn < 20; turn++) {
      for (size_t i = 0; i < sets; i++) {
        expect_ok(kiln_context_run(c, &in[i], 1, &out, 1));
        assert_true(*(const float *)out.data == ((float)i + 10) * (float)i);
      }
    }
    assert_true(captures - before <= DEVICE_GRAPHS);
  }
  for (int turn = 0; turn < DEVICE_GRAPH_AGE + 2; turn++) expect_ok(kiln_context_run(c, &in[0], 1, &out, 1));
  const int before = captures; /* the others are old by now */
  kiln_tensor late = there(given(KILN_F32, 2, shape, x));
  for (int turn = 0; turn < 3; turn++) expect_ok(kiln_context_run(c, &late, 1, &out, 1));
  assert_int_equal(captures - before, 1);
  for (size_t i = 0; i < KILN_COUNT(in); i++) drop(&in[i]);
  drop(&late);
  drop(&out);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  assert_int_equal(n_blocks, 0);
}

static void run_and_check(kiln_context *c, const kiln_tensor *in, kiln_tensor *out) {
  float *x = in->data;
  const char *data = (const char *)in->data + in->byte_offset;
  const int64_t n = in->shape[0], step = in->strides ? in->strides[0] : 2, last = in->strides ? in->strides[1] : 1;
  static float next;
  for (int i = 0; i < 8; i++) x[i] = next += 1;
  expect_ok(kiln_context_run(c, in, 1, out, 1));
  for (int64_t i = 0; i < 2 * n; i++) {
    const float v = ((const float *)data)[i / 2 * step + i % 2 * last];
    assert_true(((const float *)out->data)[i] == (v + (i % 2 ? 20 : 10)) * v);
  }
}

/* Runs so often that there is a graph for these addresses, and tells how many of `n` more had to enter the device. */
static int count_entries(kiln_context *c, const kiln_tensor *in, kiln_tensor *out, int n) {
  for (int i = 0; i < 3; i++) run_and_check(c, in, out);
  const int before = enters, launched = launches;
  for (int i = 0; i < n; i++) run_and_check(c, in, out);
  assert_int_equal(launches - launched, n);
  return enters - before;
}

/* What repeats is compared and launched; whatever differs from the last run goes the long way, and is right. */
static void runs_like_the_last(void **unused) {
  (void)unused;
  kiln_engine *e = open_engine(simple);
  kiln_context *c = open_context(e);
  int64_t two[2] = {2, 2}, three[2] = {3, 2}, strides[2] = {2, 1}, across[2] = {1, 2};
  float x[8] = {0};
  int64_t room[2] = {4, 2};
  kiln_tensor in = there(given(KILN_F32, 2, room, x)), out = there(given(KILN_F32, 2, room, x));
  kiln_tensor other = there(given(KILN_F32, 2, room, x)), lent = {0};
  in.shape = out.shape = other.shape = two;
  assert_int_equal(count_entries(c, &in, &out, 5), 0);
  assert_int_equal(count_entries(c, &in, &other, 5), 0);
  run_and_check(c, &in, &out); /* its graph is still there */
  int64_t told[KILN_MAX_RANK] = {0};
  kiln_tensor prepared = {.shape = told};
  expect_ok(kiln_context_prepare(c, &in, 1, &prepared, 1));
  assert_int_equal(prepared.ndim, 2);
  assert_int_equal(kiln_tensor_get_dtype(&prepared), KILN_F32);
  assert_memory_equal(told, two, sizeof two);
  prepared = (kiln_tensor){.data = NULL};
  expect_ok(kiln_context_prepare(c, &in, 1, &prepared, 1));
  assert_int_equal(prepared.ndim, 2);
  kiln_tensor in3 = in, out3 = out;
  in3.shape = out3.shape = three;
  run_and_check(c, &in3, &out3);
  run_and_check(c, &in, &out);
  assert_int_equal(count_entries(c, &in3, &out3, 2), 0);
  kiln_tensor strided = in;
  strided.strides = strides;
  assert_int_equal(count_entries(c, &strided, &out, 2), 0);
  strided.strides = across;
  run_and_check(c, &strided, &out);
  run_and_check(c, &in, &out);
  kiln_tensor shifted = in; /* vectors cannot be read there */
  shifted.byte_offset = 4;
  assert_int_not_equal(count_entries(c, &shifted, &out, 2), 0);
  shifted.byte_offset = 16;
  assert_int_equal(count_entries(c, &shifted, &out, 2), 0);
  assert_int_equal(count_entries(c, &in, &out, 2), 0);
  run_and_check(c, &in, &lent);
  assert_ptr_not_equal(lent.data, out.data);
  assert_int_equal(count_entries(c, &in, &out, 2), 0);

  elsewhere = true;
  assert_int_equal(count_entries(c, &in, &out, 4), 4);
  elsewhere = false;
  expect_ok(kiln_context_set_stream(c, (void *)(uintptr_t)128));
  assert_int_equal(count_entries(c, &in, &out, 2), 0);
  kiln_context_profile(c, 1);
  run_and_check(c, &in, &out);
  kiln_context_profile(c, 0);
  assert_int_equal(count_entries(c, &in, &out, 2), 0);
  expect_ok(kiln_context_set_optimization_profile(c, 0));
  run_and_check(c, &in, &out);
  caller_captures = true;
  const int before = launches;
  run_and_check(c, &in, &out);
  assert_int_equal(launches, before);
  caller_captures = false;
  assert_int_equal(count_entries(c, &in, &out, 2), 0);

  kiln_tensor bad = in;
  bad.shape = NULL;
  assert_int_equal(kiln_context_run(c, &bad, 1, &out, 1), KILN_INVALID_ARGUMENT);
  bad = in;
  kiln_tensor_set_dtype(&bad, KILN_F16);
  assert_int_equal(kiln_context_run(c, &bad, 1, &out, 1), KILN_INVALID_ARGUMENT);
  bad = in;
  bad.data = NULL;
  assert_int_equal(kiln_context_run(c, &bad, 1, &out, 1), KILN_INVALID_ARGUMENT);
  bad = out;
  bad.shape = NULL;
  assert_int_equal(kiln_context_run(c, &in, 1, &bad, 1), KILN_INVALID_ARGUMENT);
  bad = out;
  bad.ndim = 1;
  assert_int_equal(kiln_context_run(c, &in, 1, &bad, 1), KILN_INVALID_ARGUMENT);
  assert_int_equal(kiln_context_run(c, &in, 0, &out, 1), KILN_INVALID_ARGUMENT);
  assert_int_equal(kiln_context_run(c, NULL, 1, &out, 1), KILN_INVALID_ARGUMENT);
  run_and_check(c, &in, &out);
  drop(&in);
  drop(&out);
  drop(&other);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  assert_int_equal(n_blocks, 0);
}

/* Two sets of addresses take turns, since the new state is where the one before the last was. */
static void states_like_the_last(void **unused) {
  (void)unused;
  kiln_engine *e = open_engine(
      "kiln.graph 1\nconst %z : f32[2] = {5, 6}\ninput \"x\" %x : f32[2]\nstate \"n\" %n : f32[2] = %z\n"
      "%m = add(%n, %x) : f32[2]\n%y = mul(%m, %x) : f32[2]\noutput \"y\" %y\nupdate \"n\" %m\n");
  kiln_context *c = open_context(e);
  int64_t shape[1] = {2};
  float x[2] = {2, 3}, n[2] = {5, 6};
  kiln_tensor in = there(given(KILN_F32, 1, shape, x)), out = there(given(KILN_F32, 1, shape, x));
  int before = 0;
  for (int i = 0; i < 30; i++) {
    if (i == 6) before = enters;
    if (i == 20) {
      kiln_context_reset(c);
      n[0] = 5;
      n[1] = 6;
      before = enters;
    }
    expect_ok(kiln_context_run(c, &in, 1, &out, 1));
    for (int k = 0; k < 2; k++) n[k] += x[k];
    for (int k = 0; k < 2; k++) assert_true(((const float *)out.data)[k] == n[k] * x[k]);
    if (i > 6) assert_int_equal(enters, before);
  }
  drop(&in);
  drop(&out);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  assert_int_equal(n_blocks, 0);
}

/* Some nodes have kernels of the CPU: their operands come to the host, constants are read there. */
static void steps_on_the_host(void **unused) {
  (void)unused;
  static const char source[] =
      "kiln.graph 1\ndim s in [1, 100] opt 4\nconst %w : f32[2,3] = {1, 0, 2, 0, 1, 3}\nconst %v : f32[2] = {10, 20}\n"
      "input \"x\" %x : f32[s,2]\n%t = permute(%x) {order=[1, 0]} : f32[2,s]\n%a = neg(%t) : f32[2,s]\n"
      "%b = permute(%a) {order=[1, 0]} : f32[s,2]\n%m = matmul(%b, %w) : f32[s,3]\n%k = add(%x, %v) : f32[s,2]\n"
      "%y = concat(%m, %k) {axis=1} : f32[s,5]\noutput \"y\" %y\n";
  kiln_engine *e = open_engine(source);
  int on_cpu = 0;
  for (node *n = e->plan->body.first; n; n = n->next) {
    target scalar;
    const kernel *tactics[32];
    expect_ok(target_parse("cpu:scalar", &scalar));
    const int count = backend_tactics(&scalar, n, tactics, 32, NULL);
    for (int i = 0; i < count && (strcmp(n->op->name, "neg") == 0 || strcmp(n->op->name, "add") == 0 ||
                                  strcmp(n->op->name, "pointwise") == 0);
         i++) {
      if (tactics[i]->packing || tactics[i] == &reference_kernel) continue;
      n->tactic = tactics[i]->name;
      on_cpu++;
      break;
    }
  }
  assert_true(on_cpu >= 2);
  kiln_context *c = open_context(e);
  assert_non_null(c);
  for (int round = 0; round < 6; round++) {
    int64_t s = 3 + round % 3, shape[2] = {s, 2};
    float x[10];
    for (int i = 0; i < 10; i++) x[i] = (float)(i * i % 7) - (float)round;
    kiln_tensor in = given(KILN_F32, 2, shape, x), out = {0};
    if (round % 2) in = there(in);
    downloads = 0;
    expect_ok(kiln_context_run(c, &in, 1, &out, 1));
    assert_true(downloads >= 2);
    const float *y = out.data;
    for (int64_t i = 0; i < s; i++) {
      const float a = x[2 * i], b = x[2 * i + 1];
      const float row[5] = {-a, -b, -2 * a - 3 * b, a + 10, b + 20};
      for (int k = 0; k < 5; k++) assert_true(fabsf(y[5 * i + k] - row[k]) < 1e-4f);
    }
    if (round % 2) drop(&in);
  }
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  assert_int_equal(n_blocks, 0);
}

static void branches_and_loops(void **unused) {
  (void)unused;
  static const char source[] =
      "kiln.graph 1\ninput \"x\" %x : f32[4]\ninput \"c\" %c : bool[]\n"
      "%y = if(%c, %x) : f32[4]\n  block(%a : f32[4]) {\n    %s = neg(%a) : f32[4]\n    return %s\n  }\n"
      "  block(%b : f32[4]) {\n    %t = add(%b, %b) : f32[4]\n    return %t\n  }\noutput \"y\" %y\n";
  kiln_engine *e = open_engine(source);
  kiln_context *c = open_context(e);
  for (int round = 0; round < 4; round++) {
    float x[4] = {1, 2, 3, 4};
    bool go = round % 2;
    int64_t four = 4;
    kiln_tensor in[2] = {there(given(KILN_F32, 1, &four, x)), there(given(KILN_BOOL, 0, NULL, &go))}, out = {0};
    expect_ok(kiln_context_run(c, in, 2, &out, 1));
    assert_true(((const float *)out.data)[2] == (go ? -3 : 6));
    caller_captures = true;
    out = (kiln_tensor){0};
    expect_failure(kiln_context_run(c, in, 2, &out, 1), KILN_UNSUPPORTED, "decides on the host");
    caller_captures = false;
    drop(&in[0]);
    drop(&in[1]);
  }
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  assert_int_equal(n_blocks, 0);
}

static kiln_status run_chain(kiln_engine *e, bool inside) {
  kiln_context *c = NULL;
  int64_t x[6] = {1, 3, 0, 5, 2, 4}, shape = 6;
  const kiln_context_options single = {sizeof single, 1};
  kiln_tensor in = given(KILN_I64, 1, &shape, x), out[4] = {0};
  void *memory = NULL;
  KILN_TRY(kiln_context_create_on(e, 3, &single, &c));
  running = c;
  kiln_status status = KILN_OK;
  if (inside && (status = fake_allocate(&only, sizeof x, "test", &memory)) == KILN_OK) {
    memcpy(memory, x, sizeof x);
    in.data = memory;
    in.device.type = KILN_DEVICE_CUDA;
    in.device.id = 3;
  }
  if (status == KILN_OK) status = kiln_context_run(c, &in, 1, out, 4);
  if (status == KILN_OK) assert_int_equal(out[0].shape[0], 12);
  fake_release(&only, memory, sizeof x);
  kiln_context_destroy(c);
  return status;
}

static void memory_runs_out(void **unused) {
  (void)unused;
  kiln_engine *e = open_engine(chain);
  for (int inside = 0; inside < 2; inside++) {
    expect_ok(run_chain(e, inside));
    const int64_t live = mem_test_live_blocks();
    kiln_status status = KILN_OUT_OF_MEMORY;
    for (int64_t n = 0; status != KILN_OK; n++) {
      mem_test_fail_after(n);
      status = run_chain(e, inside);
      const bool reached = mem_test_fail_left() <= 0;
      mem_test_fail_after(-1);
      if (status != KILN_OK) expect_failure(status, KILN_OUT_OF_MEMORY, "");
      assert_int_equal(mem_test_live_blocks(), live);
      assert_int_equal(n_blocks, 0);
      if (status == KILN_OK && reached) status = KILN_OUT_OF_MEMORY; /* what failed was optional: go on */
      assert_true(n < 20000);
    }
  }
  kiln_engine_destroy(e);
}

/* ---- other weights ------------------------------------------------------------------------------------------------- */

static float refit_weight[20];

static kiln_status give_weight(void *user, int64_t index, const tensor_type *type, const char *packed,
                               const void **out_data, size_t *out_size) {
  (void)user, (void)index, (void)type, (void)packed;
  *out_data = refit_weight;
  *out_size = sizeof refit_weight;
  return KILN_OK;
}

static kiln_engine *open_named(void) {
  static const char source[] =
      "kiln.graph 1\nconst %w : f32[20] = weight -1 named \"w\"\ninput \"x\" %x : f32[20]\n"
      "%d = mul(%w, %w) : f32[20]\n%a = add(%x, %w) : f32[20]\n%y = mul(%a, %d) : f32[20]\noutput \"y\" %y\n";
  target t;
  graph *g = NULL;
  kiln_engine *e = NULL;
  for (int i = 0; i < 20; i++) refit_weight[i] = (float)i;
  expect_ok(graph_parse(source, strlen(source), give_weight, NULL, &g));
  expect_ok(graph_clone(g, &g->source));
  expect_ok(passes_portable(g, true));
  expect_ok(target_parse("reference", &t));
  expect_ok(engine_from_graph(g, &t, NULL, &e));
  graph_destroy(g);
  e->target.backend = &fake;
  e->target.ordinal = 3;
  return e;
}

static void run_named(kiln_context *c, float first) {
  float x[20];
  int64_t shape[1] = {20};
  for (int i = 0; i < 20; i++) x[i] = (float)(i % 7);
  kiln_tensor in = there(given(KILN_F32, 1, shape, x)), out = {0};
  running = c;
  expect_ok(kiln_context_run(c, &in, 1, &out, 1));
  for (int i = 0; i < 20; i++) {
    const float w = first + (float)i;
    assert_true(((const float *)out.data)[i] == (x[i] + w) * (w * w));
  }
  drop(&in);
}

static void refit_named(kiln_engine *e, float first) {
  int64_t shape[1] = {20};
  float w[20];
  const char *name = "w";
  for (int i = 0; i < 20; i++) w[i] = first + (float)i;
  kiln_tensor t = given(KILN_F32, 1, shape, w);
  expect_ok(kiln_engine_refit(e, &name, &t, 1));
  e->newer->target.backend = &fake; /* its name is the reference's */
  e->newer->target.ordinal = 3;
}

/* A context lets go of what it has of the old weights on the device before it takes the new ones there; not in a capture. */
static void other_weights(void **state) {
  (void)state;
  kiln_engine *e = open_named();
  kiln_context *a = open_context(e), *b = open_context(e);
  for (int i = 0; i < 3; i++) run_named(a, 0);
  run_named(b, 0);
  const int held = n_blocks;
  refit_named(e, 100);
  run_named(a, 100);
  refit_named(e, 200);
  for (int i = 0; i < 3; i++) run_named(a, 200);
  run_named(b, 200);
  assert_int_equal(n_blocks, held);

  refit_named(e, 300);
  caller_captures = true;
  float x[20] = {0};
  int64_t shape[1] = {20};
  kiln_tensor in = given(KILN_F32, 1, shape, x), out = {0};
  expect_failure(kiln_context_run(b, &in, 1, &out, 1), KILN_INVALID_ARGUMENT, "got other weights since its last call");
  caller_captures = false;
  run_named(b, 300);
  kiln_context_destroy(b);
  kiln_context_destroy(a);
  kiln_engine_destroy(e);
  assert_int_equal(n_blocks, 0);
}

static int64_t at_start; /* the operator table stays */
static int start(void **unused) {
  (void)unused;
  if (ops_init() != KILN_OK) return -1;
  at_start = mem_test_live_blocks();
  return 0;
}
static int nothing_left(void **unused) {
  (void)unused;
  return mem_test_live_blocks() == at_start ? 0 : -1;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(tensors_anywhere, nothing_left),
      cmocka_unit_test_teardown(tensors_of_another_device, nothing_left),
      cmocka_unit_test_teardown(captures_by_the_caller, nothing_left),
      cmocka_unit_test_teardown(sets_of_addresses, nothing_left),
      cmocka_unit_test_teardown(runs_like_the_last, nothing_left),
      cmocka_unit_test_teardown(states_like_the_last, nothing_left),
      cmocka_unit_test_teardown(sizes_from_data, nothing_left),
      cmocka_unit_test_teardown(steps_on_the_host, nothing_left),
      cmocka_unit_test_teardown(branches_and_loops, nothing_left),
      cmocka_unit_test_teardown(memory_runs_out, nothing_left),
      cmocka_unit_test_teardown(other_weights, nothing_left),
  };
  return cmocka_run_group_tests_name("runtime on a device", tests, start, NULL);
}
