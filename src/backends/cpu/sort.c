/* Sorts, top-k, and cumulative sums, products and extremes along an axis. Elements become 64-bit keys whose order as
 * unsigned numbers is the wanted one (NaN is the largest), so one stable merge sort serves all dtypes; top-k for small
 * k keeps a sorted list instead. */
#include <math.h>
#include <string.h>

#include "backends/cpu/kernels.h"
#include "backends/cpu/parallel.h"
#include "base/memory.h"

typedef struct sort_item {
  uint64_t key;
  int64_t index;
} sort_item;

typedef struct sort_job {
  int64_t outer, n, inner, k;
  bool descending;
  const tensor *x;
  tensor *values, *indices;
  sort_item *items; /* workspace: 2 * n for each thread */
} sort_job;

enum { TOPK_LIST = 128 };

static uint64_t sort_key(const tensor *x, int64_t at, bool descending) {
  uint64_t key;
  const uint64_t top = UINT64_C(1) << 63;
  switch (x->dtype) {
    case KILN_F32: {
      const float f = ((const float *)x->data)[at];
      uint32_t bits;
      memcpy(&bits, &f, sizeof bits);
      if (f == 0.0f) bits = 0; /* -0 is 0 */
      key = f != f ? UINT32_MAX : bits >> 31 ? ~bits : bits | 0x80000000u;
      if (descending) return UINT32_MAX - key;
      return key;
    }
    case KILN_I64:
      key = (uint64_t)((const int64_t *)x->data)[at] ^ top;
      break;
    case KILN_I32:
      key = (uint64_t)(int64_t)((const int32_t *)x->data)[at] ^ top;
      break;
    case KILN_I16:
      key = (uint64_t)(int64_t)((const int16_t *)x->data)[at] ^ top;
      break;
    case KILN_I8:
      key = (uint64_t)(int64_t)((const int8_t *)x->data)[at] ^ top;
      break;
    default:
      key = ((const uint8_t *)x->data)[at];
      break;
  }
  return descending ? ~key : key;
}

static void sort_merge(sort_item *at, sort_item *room, int64_t n) {
  sort_item *from = at, *to = room;
  for (int64_t width = 1; width < n; width *= 2) {
    for (int64_t begin = 0; begin < n; begin += 2 * width) {
      const int64_t middle = begin + width < n ? begin + width : n, end = middle + width < n ? middle + width : n;
      int64_t i = begin, k = middle;
      for (int64_t o = begin; o < end; ++o) {
        const bool right = k < end && (i >= middle || from[k].key < from[i].key);
        to[o] = right ? from[k++] : from[i++];
      }
    }
    sort_item *swap = from;
    from = to;
    to = swap;
  }
  if (from != at) memcpy(at, from, (size_t)n * sizeof *at);
}

/* The k smallest keys in order, earlier ones first among equals. */
static void sort_smallest(const sort_job *j, int64_t base, sort_item *list) {
  int64_t count = 0;
  for (int64_t i = 0; i < j->n; ++i) {
    const uint64_t key = sort_key(j->x, base + i * j->inner, j->descending);
    if (count == j->k && key >= list[count - 1].key) continue;
    int64_t at = count < j->k ? count++ : count - 1;
    for (; at > 0 && list[at - 1].key > key; --at) list[at] = list[at - 1];
    list[at] = (sort_item){key, i};
  }
}

static void sort_lines(void *user, int64_t begin, int64_t end, int worker) {
  const sort_job *j = user;
  sort_item *items = j->items + (int64_t)worker * 2 * j->n;
  const size_t size = kiln_dtype_size(j->x->dtype);
  for (int64_t u = begin; u < end; ++u) {
    const int64_t base = u / j->inner * j->n * j->inner + u % j->inner,
                  out = u / j->inner * j->k * j->inner + u % j->inner;
    if (j->k <= TOPK_LIST && j->k < j->n) {
      sort_smallest(j, base, items);
    } else {
      for (int64_t i = 0; i < j->n; ++i) items[i] = (sort_item){sort_key(j->x, base + i * j->inner, j->descending), i};
      sort_merge(items, items + j->n, j->n);
    }
    for (int64_t i = 0; i < j->k; ++i) {
      memcpy((char *)j->values->data + (size_t)(out + i * j->inner) * size,
             (const char *)j->x->data + (size_t)(base + items[i].index * j->inner) * size, size);
      ((int64_t *)j->indices->data)[out + i * j->inner] = items[i].index;
    }
  }
}

static void sort_extents(const kernel_args *a, int64_t *outer, int64_t *n, int64_t *inner) {
  const tensor *x = &a->in[0];
  const int64_t axis = arg_int(a, "axis");
  *outer = *n = *inner = 1;
  for (int64_t d = 0; d < x->rank; ++d) *(d < axis ? outer : d == axis ? n : inner) *= x->shape[d];
}

static kiln_status sort_prepare(kernel_prep *p) {
  int64_t outer, n, inner;
  size_t bytes;
  sort_extents(&p->args, &outer, &n, &inner);
  if (!size_mul((size_t)n, 2 * sizeof(sort_item), &bytes) || !size_mul(bytes, (size_t)p->threads, &p->workspace_size)) {
    return KILN_NO_MEMORY("sort workspace");
  }
  return KILN_OK;
}

static kiln_status sort_run(const kernel_args *a) {
  const bool topk = strcmp(a->node->op->name, "topk") == 0;
  sort_job j = {.x = &a->in[0], .values = &a->out[0], .indices = &a->out[1], .items = a->workspace};
  sort_extents(a, &j.outer, &j.n, &j.inner);
  j.descending = arg_bool(a, topk ? "largest" : "descending");
  j.k = topk ? arg_int(a, "k") : j.n;
  if (j.k > j.n || j.k < 0) {
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "topk: k is %lld, the axis has %lld", (long long)j.k, (long long)j.n);
  }
  if (j.k > 0) cpu_parallel(a->pool, j.outer * j.inner, 16 * j.n, sort_lines, &j);
  return KILN_OK;
}

static bool sort_fits(const node *n, const char **why) {
  const kiln_dtype d = n->inputs[0].v->type.dtype;
  if (d == KILN_F64 || d == KILN_F16 || d == KILN_BF16) return *why = "not f32 or integers", false;
  return true;
}

/* ---- Cumulative sums and products -------------------------------------------------------------------------------- */

typedef struct scan_job {
  int64_t n, inner;
  bool product, largest;
  const kernel_args *a;
} scan_job;

static void scan_lines(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const scan_job *j = user;
  const tensor *x = &j->a->in[0];
  for (int64_t u = begin; u < end; ++u) {
    const int64_t base = u / j->inner * j->n * j->inner + u % j->inner;
    if (x->dtype == KILN_F32) {
      double total = j->product ? 1.0 : 0.0;
      for (int64_t i = 0; i < j->n; ++i) {
        const double v = (double)((const float *)x->data)[base + i * j->inner];
        total = j->product ? total * v : total + v;
        ((float *)j->a->out[0].data)[base + i * j->inner] = (float)total;
      }
    } else {
      uint64_t total = j->product ? 1 : 0;
      for (int64_t i = 0; i < j->n; ++i) {
        const uint64_t v = ((const uint64_t *)x->data)[base + i * j->inner];
        total = j->product ? total * v : total + v;
        ((uint64_t *)j->a->out[0].data)[base + i * j->inner] = total;
      }
    }
  }
}

static kiln_status scan_run(const kernel_args *a) {
  int64_t outer;
  scan_job j = {.a = a, .product = strcmp(a->node->op->name, "cumprod") == 0};
  sort_extents(a, &outer, &j.n, &j.inner);
  if (tensor_numel(&a->in[0]) > 0) cpu_parallel(a->pool, outer * j.inner, 4 * j.n, scan_lines, &j);
  return KILN_OK;
}

static bool scan_fits(const node *n, const char **why) {
  const kiln_dtype d = n->inputs[0].v->type.dtype;
  if ((d != KILN_F32 && d != KILN_I64) || n->outputs[0]->type.dtype != d) return *why = "neither f32 nor i64", false;
  return true;
}

/* ---- Cumulative extremes ----------------------------------------------------------------------------------------- */

/* The larger key wins, the later of equal ones, and NaN wins over all. */
static uint64_t extreme_key(const scan_job *j, int64_t at) {
  const tensor *x = &j->a->in[0];
  if (x->dtype == KILN_F32 && isnan(((const float *)x->data)[at])) return UINT64_MAX;
  return sort_key(x, at, !j->largest);
}

static void extreme_lines(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const scan_job *j = user;
  const kernel_args *a = j->a;
  const size_t size = kiln_dtype_size(a->in[0].dtype);
  const char *x = a->in[0].data;
  char *values = a->out[0].data;
  int64_t *indices = a->out[1].data;
  for (int64_t u = begin; u < end; ++u) {
    const int64_t base = u / j->inner * j->n * j->inner + u % j->inner;
    uint64_t best_key = 0;
    int64_t best = 0;
    for (int64_t i = 0; i < j->n; ++i) {
      const int64_t at = base + i * j->inner;
      const uint64_t key = extreme_key(j, at);
      if (key >= best_key) {
        best_key = key;
        best = i;
      }
      memcpy(values + (size_t)at * size, x + (size_t)(base + best * j->inner) * size, size);
      indices[at] = best;
    }
  }
}

static kiln_status extreme_run(const kernel_args *a) {
  int64_t outer;
  scan_job j = {.a = a, .largest = strcmp(a->node->op->name, "cummax") == 0};
  sort_extents(a, &outer, &j.n, &j.inner);
  if (tensor_numel(&a->in[0]) > 0) cpu_parallel(a->pool, outer * j.inner, 6 * j.n, extreme_lines, &j);
  return KILN_OK;
}

/* ---- Ranges ------------------------------------------------------------------------------------------------------ */

static kiln_status arange_run(const kernel_args *a) {
  const tensor *y = &a->out[0];
  const double start = arg_float(a, "start"), step = arg_float(a, "step");
  for (int64_t i = 0, n = tensor_numel(y); i < n; ++i) {
    const double v = start + step * (double)i;
    if (y->dtype == KILN_F32)
      ((float *)y->data)[i] = (float)v;
    else
      ((int64_t *)y->data)[i] = v >= -0x1p63 && v < 0x1p63 ? (int64_t)v : INT64_MIN;
  }
  return KILN_OK;
}

static bool arange_fits(const node *n, const char **why) {
  const kiln_dtype d = n->outputs[0]->type.dtype;
  if (d != KILN_F32 && d != KILN_I64) return *why = "neither f32 nor i64", false;
  return true;
}

const kernel sort_kernels[] = {
    {.op = "sort", .name = "sort.merge", .fits = sort_fits, .prepare = sort_prepare, .run = sort_run},
    {.op = "topk", .name = "topk.merge", .fits = sort_fits, .prepare = sort_prepare, .run = sort_run},
    {.op = "cumsum", .name = "cumsum.line", .fits = scan_fits, .run = scan_run, .inplace = 1},
    {.op = "cumprod", .name = "cumprod.line", .fits = scan_fits, .run = scan_run, .inplace = 1},
    {.op = "cummax", .name = "cummax.line", .fits = sort_fits, .run = extreme_run},
    {.op = "cummin", .name = "cummin.line", .fits = sort_fits, .run = extreme_run},
    {.op = "arange", .name = "arange.plain", .fits = arange_fits, .run = arange_run},
    {.op = NULL},
};
