/* Views of an archive's storages become constants. */
#include "import/stored_tensor.h"

#include <string.h>

#include "base/memory.h"
#include "base/text.h"

static kiln_status bad(const stored_tensor *t, const char *what) {
  return KILN_FAIL(KILN_INVALID_FILE, "%s: %s", t->what, what);
}

kiln_status stored_tensor_measure(stored_tensor *t) {
  bool overflow = false;
  t->numel = 1;
  t->reach = t->offset;
  for (int32_t i = 0; i < t->type.rank; i++) {
    const int64_t size = t->type.dims[i];
    int64_t span;
    overflow |= __builtin_mul_overflow(t->numel, size, &t->numel);
    overflow |= __builtin_mul_overflow(t->strides[i], size > 0 ? size - 1 : 0, &span);
    overflow |= __builtin_add_overflow(t->reach, span, &t->reach);
  }
  overflow |= __builtin_add_overflow(t->reach, 1, &t->reach);
  if (overflow || t->numel > INT64_MAX / 16 || t->reach > INT64_MAX / 16)
    return bad(t, "its sizes and strides overflow");
  if (t->numel == 0) t->reach = 0;
  return KILN_OK;
}

kiln_status stored_tensor_as_pairs(stored_tensor *t) {
  const int32_t rank = t->type.rank;
  if (rank == KILN_MAX_RANK)
    return KILN_FAIL(KILN_UNSUPPORTED, "%s is complex with %d dimensions; at most %d are supported", t->what, (int)rank,
                     KILN_MAX_RANK - 1);
  bool overflow = __builtin_mul_overflow(t->offset, 2, &t->offset);
  for (int32_t i = 0; i < rank; i++) overflow |= __builtin_mul_overflow(t->strides[i], 2, &t->strides[i]);
  if (overflow) return bad(t, "its sizes and strides overflow");
  t->type.dims[rank] = 2;
  t->strides[rank] = 1;
  t->type.rank = rank + 1;
  return stored_tensor_measure(t);
}

char *stored_tensor_key(const stored_tensor *t, arena *a) {
  text out = {0};
  text_printf(&out, "%s@%d:%lld", t->entry, (int)t->type.dtype, (long long)t->offset);
  for (int32_t i = 0; i < t->type.rank; i++)
    text_printf(&out, ":%lld*%lld", (long long)t->type.dims[i], (long long)t->strides[i]);
  char *key = out.failed ? NULL : arena_strdup(a, out.data);
  text_free(&out);
  return key;
}

static bool is_contiguous(const stored_tensor *t) {
  int64_t expected = 1;
  for (int32_t i = t->type.rank - 1; i >= 0; i--) {
    if (t->type.dims[i] != 1 && t->strides[i] != expected) return false;
    expected *= t->type.dims[i];
  }
  return true;
}

static void copy_strided(const stored_tensor *t, const char *from, char *to) {
  const size_t item = kiln_dtype_size(t->type.dtype);
  int64_t index[KILN_MAX_RANK] = {0};
  int64_t at = t->offset;
  for (int64_t n = 0; n < t->numel; n++) {
    memcpy(to, from + (size_t)at * item, item);
    to += item;
    for (int32_t i = t->type.rank - 1; i >= 0; i--) {
      at += t->strides[i];
      if (++index[i] < t->type.dims[i]) break;
      at -= t->strides[i] * t->type.dims[i];
      index[i] = 0;
    }
  }
}

kiln_status stored_tensor_constant(const stored_tensor *t, const zip *z, graph *g, value **out) {
  const void *data = "";
  size_t size = 0, needed;
  const size_t item = kiln_dtype_size(t->type.dtype);
  const zip_entry *e = zip_find(z, t->entry);
  if (!e && t->numel) return KILN_FAIL(KILN_INVALID_FILE, "%s: the archive has no entry %.200s", t->what, t->entry);
  /* Stored entries are used in place, so only compressed ones need the arena, which lives as long as the graph. */
  if (e) KILN_TRY_NOTE(zip_read(e, &g->arena, &data, &size), "reading %s", t->what);
  if (!size_mul((size_t)t->reach, item, &needed) || needed > size)
    return KILN_FAIL(KILN_INVALID_FILE, "%s: its sizes and strides reach over %zu bytes, but %.200s has %zu", t->what,
                     needed, t->entry, size);
  const char *start = t->numel ? (const char *)data + (size_t)t->offset * item : "";
  if (!t->numel || (is_contiguous(t) && (uintptr_t)start % item == 0)) {
    *out = graph_constant(g, &t->type, start);
    return *out ? KILN_OK : graph_check(g);
  }
  /* A stride of 0 lets few bytes stand for many: refuse what would blow up memory. */
  if (t->numel > (int64_t)(size / item) * 1024 + (1 << 20))
    return bad(t, "an expanded tensor that is far larger than its bytes");
  void *copy = mem_alloc_aligned((size_t)t->numel * item);
  if (!copy) return KILN_NO_MEMORY("weights");
  copy_strided(t, data, copy);
  *out = graph_constant_take(g, &t->type, copy);
  return *out ? KILN_OK : graph_check(g);
}
