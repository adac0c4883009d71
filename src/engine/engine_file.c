/* The engine file: header, texts of both graphs, weight table, weights.
 *
 *   0    "KILNENG\0"  version:u32  header_crc:u32  file_size:u64
 *   24   section[6] of {offset:u64 size:u64 crc:u32 pad:u32}: portable, plan, why, weight table, weight data, source
 *        (version 1 has no source)
 * Everything is little endian. Weights start at multiples of 64 in a section that starts at a multiple of 4096, so a
 * mapped file is used as it is. Loading checks every checksum but the weights' (kiln_engine_verify does), so its time
 * does not depend on their size. A weight is stored once, in the layout (packing) that the plan wants; the portable
 * graph's plain form is made from it on demand. Packings that cannot be undone are made when the first context is.
 * The source is the graph as it was imported, with the names of its weights: engine/refit.c makes the rest anew from it.
 * `weight -1` there means that the file does not have this weight in its original form. A stripped file has only those
 * weights that the source cannot do without and that no state dictionary gives. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/memory.h"
#include "engine/engine.h"
#include "graph/size_guards.h"

enum { ENGINE_VERSION = 2, INLINE_BYTES = 64, WEIGHT_ALIGN = 64, PAGE = 4096 };
enum { SECTION_PORTABLE, SECTION_PLAN, SECTION_WHY, SECTION_TABLE, SECTION_DATA, SECTION_SOURCE, SECTION_COUNT };
enum { SECTIONS_OF_VERSION_1 = SECTION_SOURCE };
enum { WEIGHT_STRIPPED = 1, WEIGHT_KEPT = 2 }; /* not in this file; in it also when it is stripped */
enum { WEIGHT_KERNELS = 4 }; /* no weight: the compiled kernels of a plan for a device (engine/kernels.c) */
enum { LITTLE_OF_ALL = 16 };
enum { SMALL_ORIGINAL = 1 << 16 }; /* bytes of originals that are kept beside what was made of them */
static const char magic[8] = "KILNENG";

typedef struct file_section {
  uint64_t offset, size;
  uint32_t crc, pad;
} file_section;

typedef struct file_header {
  char magic[8];
  uint32_t version, header_crc; /* crc of the header with this field 0 */
  uint64_t file_size;
  file_section sections[SECTION_COUNT];
} file_header;
_Static_assert(sizeof(file_header) == 24 + SECTION_COUNT * 24, "the header has no padding");

/* Headers of version 1 end before the last section. */
static size_t header_size(uint32_t version) {
  return sizeof(file_header) - (version == 1 ? (SECTION_COUNT - SECTIONS_OF_VERSION_1) * sizeof(file_section) : 0);
}
_Static_assert(sizeof(weight_entry) == 64, "weight entries are 64 bytes");

static uint32_t checksum(const void *bytes, size_t size) {
  return (uint32_t)crc32_z(crc32_z(0, NULL, 0), size ? bytes : (const void *)"", size);
}

static uint32_t header_checksum(const file_header *h) {
  file_header copy = *h;
  copy.header_crc = 0;
  return checksum(&copy, header_size(h->version));
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

typedef struct stored_weight {
  const constant *source;
  int64_t original; /* portable number, or -1 */
  uint64_t offset;
  uint32_t flags;
} stored_weight;

typedef struct writer {
  stored_weight *weights;
  constant kernels;
  size_t count, capacity;
  bool failed;
} writer;

/* What of a constant is stored: weights whose packing is made at load are stored plain. */
static const char *stored_packing(const constant *c) { return c->plain ? NULL : c->packing; }
static const void *stored_data(const constant *c) { return c->plain ? c->plain : c->data; }
static size_t stored_size(const constant *c) { return c->plain ? c->plain_size : c->size; }

static int64_t writer_find(const writer *w, int64_t original, const char *packing_name, bool any) {
  for (size_t i = 0; original >= 0 && i < w->count; i++) {
    if (w->weights[i].original == original && (any || str_eq(stored_packing(w->weights[i].source), packing_name)))
      return (int64_t)i;
  }
  return -1;
}

static int64_t writer_add(writer *w, const constant *c) {
  if (w->count == w->capacity) {
    const size_t wanted = w->capacity ? w->capacity * 2 : 256;
    stored_weight *grown = mem_realloc(w->weights, w->capacity * sizeof *grown, wanted * sizeof *grown);
    if (!grown) {
      w->failed = true;
      return 0;
    }
    w->weights = grown;
    w->capacity = wanted;
  }
  w->weights[w->count] = (stored_weight){c, c->weight, 0, 0};
  return (int64_t)w->count++;
}

typedef struct numbering {
  writer *w;
  bool plan;
} numbering;

static bool is_inline(const constant *c) { return c->size <= INLINE_BYTES && !c->packing; }

/* A constant is visited once for each use: `numbered` tells those that already carry their file number. */
#define NUMBERED ((int64_t)1 << 40)

static void number_constant(void *user, constant *c) {
  const numbering *n = user;
  if (is_inline(c) || c->weight >= NUMBERED) return;
  int64_t at = writer_find(n->w, c->weight, stored_packing(c), false);
  if (at < 0 && !n->plan) at = writer_find(n->w, c->weight, NULL, true); /* the packed form will be undone on demand */
  if (at < 0) at = writer_add(n->w, c);
  c->weight = NUMBERED + at;
}

static void finish_number(void *user, constant *c) {
  (void)user;
  if (c->weight >= NUMBERED) c->weight -= NUMBERED;
}

/* ---- originals --------------------------------------------------------------------------------------------------- */

typedef struct originals {
  writer *w;
  map portable; /* address of a plain weight of the portable graph -> its constant */
} originals;

static void note_portable(void *user, constant *c) {
  originals *o = user;
  if (is_inline(c) || c->weight < 0) return;
  if (!map_put_number(&o->portable, (uint64_t)(uintptr_t)c->data, c)) o->w->failed = true;
}

/* Must the file have its bytes, since no state dictionary has? */
static bool is_own(const constant *c) { return !c->names || c->fixed; }

static bool is_read(const graph *source, const constant *c) {
  bool read = c->of->uses != NULL || c->fixed;
  for (int32_t i = 0; i < source->n_states && !read; i++) read = source->states[i].initial == c->of;
  return read;
}

/* Where the portable graph has it as it was, or NULL. */
static const constant *find_same(const originals *o, const constant *c) {
  const constant *same = c->size ? map_get_number(&o->portable, (uint64_t)(uintptr_t)c->data) : NULL;
  return same && same->size == c->size ? same : NULL;
}

/* What went into others and is not in the file any more: kept if it is little in all, so that other weights can be given
 * without it. */
static bool keeps_all(const originals *o, const graph *source) {
  size_t lost = 0, all = 0;
  for (const constant *c = source->constants; c; c = c->next) {
    if (!is_read(source, c)) continue;
    all += c->size;
    lost += find_same(o, c) ? 0 : c->size;
  }
  return lost <= all / LITTLE_OF_ALL;
}

/* Numbers the constants of the source: those that went into the portable graph as they were are there already. */
static void number_originals(originals *o, graph *source) {
  const bool all = keeps_all(o, source);
  for (constant *c = source->constants; c; c = c->next) {
    const constant *same = find_same(o, c);
    const bool kept = is_own(c) || !dtype_is_float(c->of->type.dtype);
    if (!c->names && c->size <= INLINE_BYTES) continue;
    c->weight = -1;
    if (!c->data || !is_read(source, c)) continue; /* without data: the engine that this one was made of lacks it too */
    if (same) {
      c->weight = same->weight;
    } else if (kept || all || c->size <= SMALL_ORIGINAL) {
      c->weight = writer_add(o->w, c);
      if (!o->w->failed) o->w->weights[c->weight].original = -1;
    }
    if (kept && !o->w->failed) o->w->weights[c->weight].flags = WEIGHT_KEPT;
  }
}

/* What the portable graph has of weights that went into others, for refits that do not give all of them: "number:origin " for each, in
 * the source's metadata. */
static void note_origin(void *user, constant *c) {
  text *out = user;
  if (c->of->scratch || !c->origin || c->names || c->packing || c->weight < 0 || is_inline(c)) return;
  c->of->scratch = c->of; /* once */
  text_printf(out, "%lld:%llx ", (long long)c->weight, (unsigned long long)c->origin);
}

static void clear_scratch(void *user, constant *c) {
  (void)user;
  c->of->scratch = NULL;
}

static kiln_status note_origins(graph *portable) {
  text known = {0};
  text_puts(&known, "");
  graph_visit_constants(portable, clear_scratch, NULL);
  graph_visit_constants(portable, note_origin, &known);
  graph_visit_constants(portable, clear_scratch, NULL);
  kiln_status status = known.failed || !known.data ? KILN_NO_MEMORY("engine file") : KILN_OK;
  if (status == KILN_OK && (known.length || graph_metadata(portable->source, ENGINE_ORIGINS)))
    status = graph_set_metadata(portable->source, ENGINE_ORIGINS, known.data);
  text_free(&known);
  return status;
}

kiln_status engine_read_origins(const graph *source, graph *portable) {
  const char *at = graph_metadata(source, ENGINE_ORIGINS);
  map by_number = {0};
  for (constant *c = portable->constants; at && *at && c; c = c->next) {
    if (c->weight < 0 || map_put_number(&by_number, (uint64_t)c->weight, c)) continue;
    map_free(&by_number);
    return KILN_NO_MEMORY("origins of weights");
  }
  while (at && *at) {
    char *end = NULL;
    const unsigned long long number = strtoull(at, &end, 10);
    if (end == at || *end != ':') break; /* whatever it is, nothing is known of what comes then */
    at = end + 1;
    const unsigned long long origin = strtoull(at, &end, 16);
    constant *c = map_get_number(&by_number, number);
    if (end == at) break;
    if (c) c->origin = origin;
    at = *end == ' ' ? end + 1 : end;
  }
  map_free(&by_number);
  return KILN_OK;
}

static kiln_status print_source(graph *portable, writer *w, text *out) {
  originals o = {.w = w};
  if (!portable->source) return KILN_OK;
  KILN_TRY(note_origins(portable));
  graph_visit_constants(portable, note_portable, &o);
  number_originals(&o, portable->source);
  map_free(&o.portable);
  graph_print_named(portable->source, INLINE_BYTES, out);
  return w->failed || out->failed || !out->data ? KILN_NO_MEMORY("engine file") : KILN_OK;
}

static void add_kernels(writer *w, const graph *plan) {
  if (!plan->kernels_size) return;
  w->kernels = (constant){.data = plan->kernels, .size = plan->kernels_size, .weight = -1};
  const int64_t at = writer_add(w, &w->kernels);
  if (!w->failed) w->weights[at].flags = WEIGHT_KEPT | WEIGHT_KERNELS;
}

/* ---- layout ------------------------------------------------------------------------------------------------------ */

typedef struct layout {
  text portable, plan, source;
  file_header header;
  uint64_t data_size;
} layout;

static void place_section(file_header *h, int section, uint64_t *at, uint64_t size, uint64_t align) {
  *at = (*at + align - 1) / align * align;
  h->sections[section].offset = *at;
  h->sections[section].size = size;
  *at += size;
}

/* Weights are copied and summed in parts of this size, by as many threads as there are. */
enum { PART = 1 << 20 };

typedef struct weight_part {
  const char *from;
  char *to;
  size_t size;
  uint32_t crc;
} weight_part;

static size_t count_parts(size_t size) { return size / PART + (size % PART != 0); }

static void copy_part(void *user, int64_t i, int worker) {
  weight_part *p = (weight_part *)user + i;
  (void)worker;
  memcpy(p->to, p->from, p->size);
  p->crc = checksum(p->to, p->size);
}

static kiln_status fill_weights(char *data, const writer *w, weight_entry *table, pool *workers) {
  size_t n = 0, at = 0;
  for (size_t i = 0; i < w->count; i++) n += count_parts(stored_size(w->weights[i].source));
  weight_part *parts = mem_calloc(n + 1, sizeof *parts);
  if (!parts) return KILN_NO_MEMORY("engine file");
  for (size_t i = 0; i < w->count; i++) {
    const size_t size = stored_size(w->weights[i].source);
    for (size_t done = 0; done < size; done += PART)
      parts[at++] = (weight_part){.from = (const char *)stored_data(w->weights[i].source) + done,
                                  .to = data + w->weights[i].offset + done,
                                  .size = size - done < PART ? size - done : PART};
  }
  pool_run(workers, (int64_t)n, copy_part, parts);
  at = 0;
  for (size_t i = 0; i < w->count; i++) {
    const constant *c = w->weights[i].source;
    table[i] = (weight_entry){
        .offset = w->weights[i].offset, .size = stored_size(c), .crc = checksum("", 0), .flags = w->weights[i].flags};
    for (size_t k = 0; k < count_parts(stored_size(c)); k++, at++)
      table[i].crc = (uint32_t)crc32_combine(table[i].crc, parts[at].crc, (z_off_t)parts[at].size);
    if (stored_packing(c)) snprintf(table[i].packing, sizeof table[i].packing, "%s", stored_packing(c));
  }
  mem_free(parts);
  return KILN_OK;
}

static kiln_status fill_bytes(char *out, const layout *l, const writer *w, const char *why, pool *workers) {
  file_header h = l->header;
  const char *texts[] = {l->portable.data, l->plan.data, why};
  for (int i = 0; i < 3; i++) {
    memcpy(out + h.sections[i].offset, texts[i], h.sections[i].size);
  }
  if (l->source.length) memcpy(out + h.sections[SECTION_SOURCE].offset, l->source.data, l->source.length);
  KILN_TRY(fill_weights(out + h.sections[SECTION_DATA].offset, w,
                        (weight_entry *)(void *)(out + h.sections[SECTION_TABLE].offset), workers));
  for (int i = 0; i < SECTION_COUNT; i++) {
    if (i != SECTION_DATA) h.sections[i].crc = checksum(out + h.sections[i].offset, h.sections[i].size);
  }
  h.header_crc = header_checksum(&h);
  memcpy(out, &h, sizeof h);
  return KILN_OK;
}

static kiln_status lay_out(layout *l, graph *portable, graph *plan, const target *t, const char *why, writer *w) {
  KILN_TRY(graph_set_metadata(plan, "kiln.target", t->name));
  numbering in_plan = {w, true}, in_portable = {w, false};
  graph_visit_constants(plan, number_constant, &in_plan);
  graph_visit_constants(portable, number_constant, &in_portable);
  graph_visit_constants(plan, finish_number, NULL);
  graph_visit_constants(portable, finish_number, NULL);
  graph_print(portable, INLINE_BYTES, &l->portable);
  graph_print(plan, INLINE_BYTES, &l->plan);
  KILN_TRY(print_source(portable, w, &l->source));
  add_kernels(w, plan);
  if (w->failed || l->portable.failed || l->plan.failed || !l->portable.data || !l->plan.data)
    return KILN_NO_MEMORY("engine file");
  for (size_t i = 0; i < w->count; i++) {
    w->weights[i].offset = l->data_size;
    l->data_size += size_align(stored_size(w->weights[i].source), WEIGHT_ALIGN);
  }
  file_header *h = &l->header;
  memcpy(h->magic, magic, sizeof magic);
  h->version = ENGINE_VERSION;
  uint64_t at = sizeof *h;
  place_section(h, SECTION_PORTABLE, &at, l->portable.length, 64);
  place_section(h, SECTION_PLAN, &at, l->plan.length, 64);
  place_section(h, SECTION_WHY, &at, strlen(why) + 1, 64);
  place_section(h, SECTION_SOURCE, &at, l->source.length, 64);
  place_section(h, SECTION_TABLE, &at, w->count * sizeof(weight_entry), 64);
  place_section(h, SECTION_DATA, &at, l->data_size, PAGE);
  h->file_size = at;
  return KILN_OK;
}

kiln_status engine_write(graph *portable, graph *plan, const target *t, const char *why, void **out_bytes,
                         size_t *out_size) {
  return engine_write_on(portable, plan, t, why, NULL, out_bytes, out_size);
}

kiln_status engine_write_on(graph *portable, graph *plan, const target *t, const char *why, pool *workers,
                            void **out_bytes, size_t *out_size) {
  layout l = {0};
  writer w = {0};
  kiln_status status = lay_out(&l, portable, plan, t, why, &w);
  if (status == KILN_OK) {
    const size_t size = (size_t)l.header.file_size;
    char *bytes = mem_alloc_aligned(size);
    if (bytes) {
      memset(bytes, 0, (size_t)l.header.sections[SECTION_DATA].offset);
      for (size_t i = 0; i < w.count; i++) { /* gaps between weights */
        const uint64_t end = w.weights[i].offset + stored_size(w.weights[i].source);
        const uint64_t next = i + 1 < w.count ? w.weights[i + 1].offset : l.data_size;
        memset(bytes + l.header.sections[SECTION_DATA].offset + end, 0, (size_t)(next - end));
      }
      status = fill_bytes(bytes, &l, &w, why, workers);
      if (status == KILN_OK) {
        *out_bytes = bytes;
        *out_size = size;
      } else {
        mem_free_aligned(bytes);
      }
    } else {
      status = KILN_FAIL(KILN_OUT_OF_MEMORY, "out of memory: an engine of %zu bytes", size);
    }
  }
  mem_free(w.weights);
  text_free(&l.portable);
  text_free(&l.plan);
  text_free(&l.source);
  return status;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static kiln_status check_section(const char *bytes, size_t size, const file_section *s, const char *name, bool crc) {
  if (s->offset > size || s->size > size - s->offset || s->offset % 64 != 0)
    return KILN_FAIL(KILN_INVALID_FILE, "engine file: section `%s` lies outside the file", name);
  if (crc && checksum(bytes + s->offset, (size_t)s->size) != s->crc)
    return KILN_FAIL(KILN_INVALID_FILE, "engine file: section `%s` is damaged (its checksum is wrong)", name);
  return KILN_OK;
}

static kiln_status check_header(const void *bytes, size_t size, file_header *h) {
  if (size < 12 || memcmp(bytes, magic, sizeof magic) != 0)
    return KILN_FAIL(KILN_INVALID_FILE, "not a Kiln engine file (it should start with KILNENG)");
  memset(h, 0, sizeof *h);
  memcpy(h, bytes, size < sizeof *h ? size : sizeof *h);
  if (h->version > ENGINE_VERSION)
    return KILN_FAIL(
        KILN_INCOMPATIBLE,
        "the engine file has format version %u, this library reads up to %d: update Kiln or build the engine again",
        h->version, ENGINE_VERSION);
  if (h->version < 1 || size < header_size(h->version))
    return KILN_FAIL(KILN_INVALID_FILE, "engine file: the header is cut off");
  if (h->version == 1) memset(&h->sections[SECTIONS_OF_VERSION_1], 0, sizeof *h - header_size(1));
  if (header_checksum(h) != h->header_crc)
    return KILN_FAIL(KILN_INVALID_FILE, "engine file: the header is damaged (its checksum is wrong)");
  if (h->file_size != size)
    return KILN_FAIL(KILN_INVALID_FILE,
                     "engine file: it has %zu bytes but should have %llu: it was cut off or added to", size,
                     (unsigned long long)h->file_size);
  return KILN_OK;
}

static bool is_stripped(const weight_entry *w) { return (w->flags & WEIGHT_STRIPPED) != 0; }
/* Reports write out what is small. */
static bool may_strip(const weight_entry *w) { return w->size > INLINE_BYTES || *w->packing; }

static kiln_status check_weights(kiln_engine *e, const file_section *data) {
  for (size_t i = 0; i < e->n_weights; i++) {
    const weight_entry *w = &e->weights[i];
    if (!is_stripped(w) &&
        (w->offset % WEIGHT_ALIGN != 0 || w->offset > data->size || w->size > data->size - w->offset))
      return KILN_FAIL(KILN_INVALID_FILE, "engine file: weight %zu lies outside the file", i);
    if (!memchr(w->packing, 0, sizeof w->packing))
      return KILN_FAIL(KILN_INVALID_FILE, "engine file: weight %zu has no valid packing", i);
    if (is_stripped(w) && !may_strip(w))
      return KILN_FAIL(KILN_INVALID_FILE, "engine file: weight %zu cannot have been left out", i);
    e->stripped = e->stripped || is_stripped(w);
  }
  return KILN_OK;
}

static const char *weight_data(const kiln_engine *e, size_t i) {
  file_header h;
  memcpy(&h, e->bytes, sizeof h);
  return is_stripped(&e->weights[i]) ? NULL : e->bytes + h.sections[SECTION_DATA].offset + e->weights[i].offset;
}

/* The plan takes weights as they are stored. */
static kiln_status plan_weight(void *user, int64_t index, const tensor_type *type, const char *packing_name,
                               const void **out_data, size_t *out_size) {
  const kiln_engine *e = user;
  if (index < 0 || (uint64_t)index >= e->n_weights)
    return KILN_FAIL(KILN_INVALID_FILE, "there is no weight %lld", (long long)index);
  const weight_entry *w = &e->weights[index];
  const packing *p = packing_name ? packing_find(packing_name) : NULL;
  if (packing_name && !p)
    return KILN_FAIL(KILN_INCOMPATIBLE, "weight %lld has the unknown packing `%s`", (long long)index, packing_name);
  const char *stored = p && p->unpack ? packing_name : "";
  if (!str_eq(stored, w->packing))
    return KILN_FAIL(KILN_INVALID_FILE, "weight %lld is stored as `%s`, the plan wants `%s`", (long long)index,
                     w->packing, stored);
  if (p) {
    size_t expected = 0;
    if (!(p->unpack ? p->size(type, &expected) : type_bytes(type, &expected)) || expected != w->size)
      return KILN_FAIL(KILN_INVALID_FILE, "weight %lld has %llu bytes, expected %zu", (long long)index,
                       (unsigned long long)w->size, expected);
  }
  *out_data = weight_data(e, (size_t)index);
  *out_size = (size_t)w->size;
  return KILN_OK;
}

/* The portable graph takes them plain. */
static kiln_status portable_weight(void *user, int64_t index, const tensor_type *type, const char *packing_name,
                                   const void **out_data, size_t *out_size) {
  kiln_engine *e = user;
  if (index < 0 || (uint64_t)index >= e->n_weights || packing_name)
    return KILN_FAIL(KILN_INVALID_FILE, "there is no plain weight %lld", (long long)index);
  const weight_entry *w = &e->weights[index];
  if (!*w->packing) return plan_weight(user, index, type, NULL, out_data, out_size);
  const packing *p = packing_find(w->packing);
  size_t packed_size = 0, plain_size = 0;
  if (!p) return KILN_FAIL(KILN_INCOMPATIBLE, "weight %lld has the unknown packing `%s`", (long long)index, w->packing);
  if (!type_bytes(type, &plain_size) || !p->size(type, &packed_size) || packed_size != w->size)
    return KILN_FAIL(KILN_INVALID_FILE, "weight %lld has the wrong size for its type", (long long)index);
  *out_data = NULL;
  *out_size = plain_size;
  if (is_stripped(w)) return KILN_OK;
  if (!e->unpacked && !(e->unpacked = mem_calloc(e->n_weights, sizeof *e->unpacked))) return KILN_NO_MEMORY("weights");
  if (!e->unpacked[index]) {
    if (!(e->unpacked[index] = mem_alloc_aligned(plain_size ? plain_size : 1))) return KILN_NO_MEMORY("weights");
    p->unpack(type, weight_data(e, (size_t)index), e->unpacked[index]);
  }
  *out_data = e->unpacked[index];
  return KILN_OK;
}

kiln_status engine_portable(kiln_engine *e, graph **out) {
  KILN_TRY_NOTE(graph_parse(e->portable_text, e->portable_size, portable_weight, e, out),
                "reading the engine's portable graph");
  return KILN_OK;
}

static kiln_status no_weight(void *user, int64_t index, const tensor_type *type, const char *packing_name,
                             const void **out_data, size_t *out_size) {
  (void)user;
  *out_data = NULL;
  if (index < 0 || packing_name || !type_bytes(type, out_size))
    return KILN_FAIL(KILN_INVALID_FILE, "there is no plain weight %lld", (long long)index);
  return KILN_OK;
}

kiln_status engine_portable_empty(const kiln_engine *e, graph **out) {
  KILN_TRY_NOTE(graph_parse(e->portable_text, e->portable_size, no_weight, NULL, out),
                "reading the engine's portable graph");
  return KILN_OK;
}

/* The source takes what is there in its original form. */
static kiln_status source_weight(void *user, int64_t index, const tensor_type *type, const char *packing_name,
                                 const void **out_data, size_t *out_size) {
  const kiln_engine *e = user;
  *out_data = NULL;
  if (!type_bytes(type, out_size)) return KILN_FAIL(KILN_INVALID_FILE, "a weight has an impossible size");
  if (index == -1 && !packing_name) return KILN_OK;
  if (index < 0 || (uint64_t)index >= e->n_weights || packing_name)
    return KILN_FAIL(KILN_INVALID_FILE, "there is no original weight %lld", (long long)index);
  const weight_entry *w = &e->weights[index];
  if (!*w->packing && w->size == *out_size) *out_data = weight_data(e, (size_t)index);
  return KILN_OK;
}

kiln_status engine_source(kiln_engine *e, graph **out) {
  if (!e->source_size)
    return KILN_FAIL(
        KILN_UNSUPPORTED,
        "this engine does not have what it needs to take other weights: it was written by an older version "
        "of Kiln, or not built from a model; build it again");
  KILN_TRY_NOTE(graph_parse(e->source_text, e->source_size, source_weight, e, out), "reading the engine's source");
  return KILN_OK;
}

bool engine_has_weight(const kiln_engine *e, int64_t index) {
  return index >= 0 && (uint64_t)index < e->n_weights && !is_stripped(&e->weights[index]);
}

/* Weights whose packing is made at load were read plain. */
static kiln_status expect_packings(graph *plan) {
  for (constant *c = plan->constants; c; c = c->next) {
    const packing *p = c->packing ? packing_find(c->packing) : NULL;
    if (!p || p->unpack) continue;
    c->plain = c->data;
    c->plain_size = c->size;
    c->data = NULL;
    if (!p->size(&c->of->type, &c->size))
      return KILN_FAIL(KILN_INVALID_FILE, "weight %lld cannot have the packing `%s`", (long long)c->weight, c->packing);
  }
  return KILN_OK;
}

static kiln_status read_plan(kiln_engine *e, graph **out) {
  KILN_TRY_NOTE(graph_parse(e->plan_text, e->plan_size, plan_weight, e, out), "reading the engine's plan");
  const kiln_status status = expect_packings(*out);
  if (status != KILN_OK) graph_destroy(*out);
  return status;
}

/* A plan for a processor that is not this one is replaced by a new one, made from the portable graph. */
static kiln_status adopt_plan(kiln_engine *e) {
  graph *plan = NULL;
  KILN_TRY(read_plan(e, &plan));
  const char *name = graph_metadata(plan, "kiln.target");
  if (name && target_parse(name, &e->target) == KILN_OK) {
    e->plan = plan;
    return KILN_OK;
  }
  graph_destroy(plan);
  graph *portable = NULL;
  KILN_TRY(target_parse(NULL, &e->target));
  KILN_TRY(engine_portable(e, &portable));
  const plan_options options = {.threads = 0};
  if (e->stripped) { /* tells of inputs and outputs; it is planned when it gets weights */
    e->plan = portable;
    return KILN_OK;
  }
  e->replanned = portable; /* the plan borrows its constants */
  return plan_create(portable, &e->target, &options, &e->plan, NULL);
}

static kiln_status find_kernels(kiln_engine *e) {
  for (size_t i = 0; i < e->n_weights; i++) {
    const weight_entry *w = &e->weights[i];
    if (!(w->flags & WEIGHT_KERNELS) || is_stripped(w)) continue;
    e->kernels = weight_data(e, i);
    e->kernels_size = (size_t)w->size;
    if (checksum(e->kernels, e->kernels_size) != w->crc)
      return KILN_FAIL(KILN_INVALID_FILE, "engine file: the compiled kernels are damaged (their checksum is wrong)");
  }
  return KILN_OK;
}

static kiln_status engine_read(kiln_engine *e) {
  static const char *const names[] = {"portable graph", "plan", "why", "weight table", "weights", "source"};
  file_header h;
  KILN_TRY(check_header(e->bytes, e->size, &h));
  for (int i = 0; i < SECTION_COUNT; i++)
    KILN_TRY(check_section(e->bytes, e->size, &h.sections[i], names[i], i != SECTION_DATA));
  e->portable_text = e->bytes + h.sections[SECTION_PORTABLE].offset;
  e->portable_size = (size_t)h.sections[SECTION_PORTABLE].size;
  e->plan_text = e->bytes + h.sections[SECTION_PLAN].offset;
  e->plan_size = (size_t)h.sections[SECTION_PLAN].size;
  e->source_text = e->bytes + h.sections[SECTION_SOURCE].offset;
  e->source_size = (size_t)h.sections[SECTION_SOURCE].size;
  e->why = e->bytes + h.sections[SECTION_WHY].offset;
  const file_section *why = &h.sections[SECTION_WHY], *table = &h.sections[SECTION_TABLE];
  if (!why->size || e->why[why->size - 1] != 0 || table->size % sizeof(weight_entry) != 0)
    return KILN_FAIL(KILN_INVALID_FILE, "engine file: a section has an odd size");
  e->weights = (const weight_entry *)(const void *)(e->bytes + table->offset);
  e->n_weights = (size_t)table->size / sizeof(weight_entry);
  KILN_TRY(check_weights(e, &h.sections[SECTION_DATA]));
  KILN_TRY(find_kernels(e));
  KILN_TRY(adopt_plan(e));
  KILN_TRY_NOTE(profiles_read(e->plan, &e->plan->arena, &e->profiles), "reading the engine's plan");
  KILN_TRY_NOTE(size_guards_validate(e->plan), "reading the engine's plan");
  e->plan->kernels = e->kernels;
  e->plan->kernels_size = e->kernels_size;
  return KILN_OK;
}

kiln_status engine_open_bytes(const void *bytes, size_t size, void *owned, const file_map *file, kiln_engine **out) {
  KILN_TRY(ops_init());
  if ((uintptr_t)bytes % 8 != 0) return KILN_FAIL(KILN_INVALID_ARGUMENT, "engine bytes must be aligned to 8");
  kiln_engine *e = mem_calloc(1, sizeof *e);
  if (!e) return KILN_NO_MEMORY("engine");
  e->bytes = bytes;
  e->size = size;
  e->references = 1;
  pthread_mutex_init(&e->weights_lock, NULL);
  pthread_mutex_init(&e->refit_lock, NULL);
  pthread_mutex_init(&e->change_lock, NULL);
  const kiln_status status = engine_read(e);
  if (status != KILN_OK) {
    kiln_engine_destroy(e);
    return status;
  }
  e->owned = owned;
  if (file) e->file = *file;
  *out = e;
  return KILN_OK;
}

/* ---- stripping --------------------------------------------------------------------------------------------------- */

/* The table of a stripped file, in `out`; NULL only measures. */
static uint64_t strip_table(const kiln_engine *e, weight_entry *out) {
  uint64_t at = 0;
  for (size_t i = 0; i < e->n_weights; i++) {
    weight_entry w = e->weights[i];
    const bool keep = !is_stripped(&w) && ((w.flags & WEIGHT_KEPT) || !may_strip(&w));
    w.offset = keep ? at : 0;
    if (keep) at += size_align((size_t)w.size, WEIGHT_ALIGN);
    if (!keep) {
      w.flags |= WEIGHT_STRIPPED;
      w.crc = 0;
    }
    if (out) out[i] = w;
  }
  return at;
}

kiln_status engine_write_stripped(const kiln_engine *e, void **out_bytes, size_t *out_size) {
  file_header h, old;
  memset(&old, 0, sizeof old);
  memcpy(&old, e->bytes, sizeof old); /* of the newest version, since it has a source */
  h = old;
  uint64_t at = sizeof h;
  for (int i = 0; i < SECTION_COUNT; i++) {
    if (i != SECTION_DATA) place_section(&h, i, &at, old.sections[i].size, 64);
  }
  place_section(&h, SECTION_DATA, &at, strip_table(e, NULL), PAGE);
  h.file_size = at;
  char *bytes = mem_alloc_aligned((size_t)h.file_size);
  if (!bytes)
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "out of memory: an engine of %llu bytes", (unsigned long long)h.file_size);
  memset(bytes, 0, (size_t)h.file_size);
  for (int i = 0; i < SECTION_COUNT; i++) {
    if (i == SECTION_DATA) continue;
    memcpy(bytes + h.sections[i].offset, e->bytes + old.sections[i].offset, (size_t)old.sections[i].size);
  }
  weight_entry *table = (weight_entry *)(void *)(bytes + h.sections[SECTION_TABLE].offset);
  (void)strip_table(e, table);
  for (size_t i = 0; i < e->n_weights; i++) {
    if (!is_stripped(&table[i]) && table[i].size)
      memcpy(bytes + h.sections[SECTION_DATA].offset + table[i].offset, weight_data(e, i), (size_t)table[i].size);
  }
  h.sections[SECTION_TABLE].crc = checksum(table, (size_t)h.sections[SECTION_TABLE].size);
  h.header_crc = header_checksum(&h);
  memcpy(bytes, &h, sizeof h);
  *out_bytes = bytes;
  *out_size = (size_t)h.file_size;
  return KILN_OK;
}

/* ---- the rest of an engine's life -------------------------------------------------------------------------------- */

static kiln_status verify(const kiln_engine *e) {
  for (size_t i = 0; i < e->n_weights; i++) {
    if (!is_stripped(&e->weights[i]) && checksum(weight_data(e, i), (size_t)e->weights[i].size) != e->weights[i].crc)
      return KILN_FAIL(KILN_INVALID_FILE, "weight %zu is damaged (its checksum is wrong)", i);
  }
  return KILN_OK;
}

kiln_status kiln_engine_verify(const kiln_engine *engine) {
  if (!engine) return KILN_FAIL(KILN_INVALID_ARGUMENT, "engine is NULL");
  kiln_engine *e = engine_current(engine, NULL);
  const kiln_status status = verify(e);
  engine_leave(engine, e);
  return status;
}

kiln_engine *engine_retain(const kiln_engine *engine) {
  kiln_engine *e = (kiln_engine *)(uintptr_t)engine;
  __atomic_add_fetch(&e->references, 1, __ATOMIC_RELAXED);
  return e;
}

void kiln_engine_destroy(kiln_engine *e) {
  if (!e || __atomic_sub_fetch(&e->references, 1, __ATOMIC_ACQ_REL) > 0) return;
  kiln_engine_destroy(e->newer);
  engine_free_listing(e);
  engine_drop_weights(e);
  graph_destroy(e->plan);
  graph_destroy(e->replanned);
  pthread_mutex_destroy(&e->weights_lock);
  pthread_mutex_destroy(&e->refit_lock);
  pthread_mutex_destroy(&e->change_lock);
  mem_free(e);
}

void engine_drop_weights(kiln_engine *e) {
  for (constant *c = e->plan ? e->plan->constants : NULL; c; c = c->next) {
    if (!c->owned || !c->plain) continue; /* made at load */
    mem_free_aligned((void *)(uintptr_t)c->data);
    c->data = NULL;
    c->owned = false;
  }
  for (size_t i = 0; e->unpacked && i < e->n_weights; i++) mem_free_aligned(e->unpacked[i]);
  mem_free(e->unpacked);
  mem_free_aligned(e->owned);
  if (e->file.data) file_map_close(&e->file);
  e->unpacked = NULL;
  e->owned = NULL;
  e->file = (file_map){0};
}

kiln_status engine_make_weights(kiln_engine *e, pool *workers) {
  kiln_status status = KILN_OK;
  pthread_mutex_lock(&e->weights_lock);
  if (!e->weights_made) status = plan_make_weights(e->plan, workers);
  if (status == KILN_OK && !e->weights_made) {
    for (const constant *c = e->plan->constants; c; c = c->next) e->weights_made_bytes += c->plain ? c->size : 0;
    e->weights_made = true;
  }
  pthread_mutex_unlock(&e->weights_lock);
  return status;
}

size_t engine_weight_bytes(const kiln_engine *engine) {
  kiln_engine *e = (kiln_engine *)(uintptr_t)engine;
  pthread_mutex_lock(&e->weights_lock);
  size_t total = e->weights_made_bytes;
  pthread_mutex_unlock(&e->weights_lock);
  for (size_t i = 0; i < e->n_weights; i++)
    total += is_stripped(&e->weights[i]) || (e->weights[i].flags & WEIGHT_KERNELS) ? 0 : (size_t)e->weights[i].size;
  return total;
}
