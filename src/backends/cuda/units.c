/* Kernels that are compiled together. NVRTC takes 25 ms for each program before it looks at the text, and one thread of the process at a time
 * does that: with many threads it bounds a build. So a few kernels go into one program, each in a namespace of its own and under a
 * name that has its key. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cuda/internal.h"

void cuda_shared_name(const cuda_function *f, char *out, size_t room) {
  snprintf(out, room, "%s_%.12s", f->entry, f->key);
}

/* The next line "#define NAME" from `at` on; NULL: there is none. */
static const char *next_macro(const char *at, size_t *length) {
  for (; (at = strstr(at, "#define")); at++) {
    const char *name = at + strlen("#define");
    if (*name != ' ' && *name != '\t') continue;
    name += strspn(name, " \t");
    *length = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");
    if (*length) return name;
  }
  return NULL;
}

static bool defines(const char *source, const char *name, size_t length) {
  size_t other = 0;
  for (const char *at = source; (at = next_macro(at, &other)); at += other) {
    if (other == length && memcmp(at, name, length) == 0) return true;
  }
  return false;
}

/* Bytes that the block's dynamic shared memory is aligned to; 0: there is none. */
static int alignment_of(const char *source) {
  static const char array[] = "extern __shared__", aligned[] = "__align__(";
  int most = 0;
  for (const char *at = source; (at = strstr(at, array)); at += sizeof array - 1) {
    const char *number = strstr(at, aligned);
    const int bytes = number && number - at < 24 ? atoi(number + sizeof aligned - 1) : 4;
    if (bytes > most) most = bytes;
  }
  return most;
}

/* Kernels of one kind may share a program. They differ in the architecture, and in that alignment: all kernels of a program would get
 * the largest, with shared memory for it. -1: it stands alone. That is for users' texts, and for those that define a macro of the
 * prelude anew, which could not be taken back for the next one. */
static int kind_of(const cuda_function *f) {
  size_t length = 0;
  const char *source = f->text + f->body;
  if (f->foreign) return -1;
  for (const char *at = source; (at = next_macro(at, &length)); at += length) {
    if (defines(cuda_prelude, at, length)) return -1;
  }
  return alignment_of(source) * 2 + (f->arch[strlen(f->arch) - 1] == 'a');
}

kiln_status cuda_unit_text(const cuda_unit *u, text *out) {
  text_puts(out, cuda_prelude);
  for (size_t i = 0; i < u->count; i++) {
    const cuda_function *f = u->functions[i];
    char name[96];
    size_t length = 0;
    cuda_shared_name(f, name, sizeof name);
    text_printf(out, "#define %s %s\nnamespace kiln_%zu {\n", f->entry, name, i);
    text_puts(out, f->text + f->body);
    text_printf(out, "\n}\n#undef %s\n", f->entry);
    for (const char *at = f->text + f->body; (at = next_macro(at, &length)); at += length)
      text_printf(out, "#undef %.*s\n", (int)length, at);
  }
  return out->failed ? KILN_NO_MEMORY("kernel text") : KILN_OK;
}

/* Those of `kind` into `count` units, each to the one that has least to do. */
static void deal(cuda_function *const *list, const int *kinds, size_t n, int kind, cuda_unit *units, size_t count) {
  for (size_t i = 0; i < n; i++) {
    if (kinds[i] != kind) continue;
    cuda_unit *least = &units[0];
    for (size_t k = 1; k < count; k++) {
      const bool room = units[k].count < CUDA_UNIT_MAX;
      if (room && (least->count == CUDA_UNIT_MAX || units[k].cost < least->cost)) least = &units[k];
    }
    least->functions[least->count++] = list[i];
    least->cost += strlen(list[i]->text + list[i]->body);
  }
}

/* How many units: one for each thread, so that none waits, but at least two kernels in each. */
static size_t units_for(size_t kernels, size_t cost, size_t all, int threads) {
  const size_t least = (kernels + CUDA_UNIT_MAX - 1) / CUDA_UNIT_MAX, most = (kernels + 1) / 2;
  const size_t wanted = (size_t)((double)threads * (double)cost / (double)(all ? all : 1) + 0.5);
  return wanted < least ? least : wanted > most ? most : wanted;
}

size_t cuda_units_make(cuda_function *const *list, size_t n, int threads, bool apart, int *kinds, cuda_unit *units) {
  size_t count = 0, all = 0;
  for (size_t i = 0; i < n; i++) {
    kinds[i] = apart ? -1 : kind_of(list[i]);
    all += strlen(list[i]->text + list[i]->body);
    if (kinds[i] < 0) units[count++] = (cuda_unit){.functions = {list[i]}, .count = 1, .cost = SIZE_MAX};
  }
  for (size_t i = 0; i < n; i++) { /* the first of each kind stands for it */
    size_t kernels = 0, cost = 0, earlier = 0;
    for (size_t k = 0; k < n && kinds[i] >= 0; k++) {
      if (kinds[k] != kinds[i]) continue;
      earlier += k < i;
      kernels++;
      cost += strlen(list[k]->text + list[k]->body);
    }
    if (kinds[i] < 0 || earlier) continue;
    const size_t of_kind = units_for(kernels, cost, all, threads);
    deal(list, kinds, n, kinds[i], units + count, of_kind);
    count += of_kind;
  }
  return count;
}
