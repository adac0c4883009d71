/* From lines of serialized code to lines of the user's source, through the .debug_pkl records.
 *
 * A record is a pickle of ranges, (offset in the serialized code, range of the original source, tag), in order of
 * offset; each holds up to the next one. A range is (source, start, end), a source (text, file name, number of the
 * first line). Formats:
 *   ("FORMAT_WITH_STRING_TABLE", (line, line, ...), (range, ...))   texts are lists of indices into the table, names an
 * index (range, ...)                                                    texts are strings; older ranges have the tag in
 * the middle, or none For traced code the text is a Python stack, and the name and line are those of the innermost
 * frame outside of PyTorch. (torch/csrc/jit/serialization/source_range_serialization.cpp) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "import/torchscript/archive.h"

enum { MAX_DEBUG = 64 << 20, MAX_PLACE = 200 };

typedef struct debug_source { /* one source of a record */
  const char *name;
  int64_t first_line;
  const pickle_value *pieces; /* of its text */
  int64_t *ends; /* offset of the end of each of its lines; NULL until needed: ranges of traced code start at 0 */
  int64_t n_lines;
  const char *start; /* the place of offset 0, once it is known */
} debug_source;

typedef struct debug_reader {
  ts_archive *a;
  ts_file *file;
  arena scratch;
  const pickle_value *table; /* tuple of strings, or NULL */
  map sources;               /* pickle_value* -> debug_source* */
} debug_reader;

static bool is_tuple(const pickle_value *p, size_t count) { return p && p->kind == PICKLE_TUPLE && p->count >= count; }

static const char *string_at(const debug_reader *d, const pickle_value *p) {
  if (p->kind == PICKLE_STRING) return p->u.s.data;
  if (p->kind != PICKLE_INT || !d->table || p->u.i < 0 || (uint64_t)p->u.i >= d->table->count) return NULL;
  const pickle_value *s = d->table->items[p->u.i];
  return s->kind == PICKLE_STRING ? s->u.s.data : NULL;
}

/* ---- sources ----------------------------------------------------------------------------------------------------- */

/* Where the lines of a text in pieces end. False: out of memory. */
static bool find_lines(debug_reader *d, debug_source *s) {
  const pickle_value *pieces = s->pieces;
  const size_t count = pieces->kind == PICKLE_LIST ? pieces->count : 1;
  size_t n = 0;
  for (int pass = 0; pass < 2; pass++) {
    int64_t at = 0;
    n = 0;
    for (size_t i = 0; i < count && d->a->source_budget > 0; i++, d->a->source_budget--) {
      const char *c = string_at(d, pieces->kind == PICKLE_LIST ? pieces->items[i] : pieces);
      for (; c && *c && d->a->source_budget > 0; c++, d->a->source_budget--) {
        at++;
        if (*c != '\n') continue;
        if (pass) s->ends[n] = at;
        n++;
      }
    }
    if (pass) break;
    s->ends = ARENA_ARRAY(&d->scratch, int64_t, n + 1);
    if (!s->ends) return false;
  }
  s->n_lines = (int64_t)n;
  return true;
}

/* NULL with *failed unset: no source is known. */
static debug_source *source_of(debug_reader *d, const pickle_value *p, bool *failed) {
  debug_source *s = map_get_number(&d->sources, (uint64_t)(uintptr_t)p);
  if (s || !is_tuple(p, 3)) return s;
  s = ARENA_NEW(&d->scratch, debug_source);
  *failed = !s || !map_put_number(&d->sources, (uint64_t)(uintptr_t)p, s);
  if (*failed) return NULL;
  const pickle_value *pieces = p->items[0];
  if (pieces->kind == PICKLE_REDUCE && pieces->u.call.args->count == 1)
    pieces = pieces->u.call.args->items[0]; /* build_intlist */
  s->name = string_at(d, p->items[1]);
  s->first_line = p->items[2]->kind == PICKLE_INT ? p->items[2]->u.i : 0;
  s->pieces = pieces;
  return s;
}

static int64_t line_at(const debug_source *s, int64_t offset) { /* lines that end at or before offset */
  int64_t low = 0, high = s->n_lines;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (s->ends[middle] <= offset)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/* Of a Python stack, "/a/model.py(17): forward\n" and so on from the inside outwards, the first frame that is not in
 * PyTorch. */
static bool user_frame(debug_reader *d, const debug_source *s, const char **name, int *length, int64_t *line) {
  const pickle_value *p = s->pieces;
  const size_t count = p->kind == PICKLE_LIST ? p->count : 0;
  for (size_t i = 0; i < count && d->a->source_budget > 0; i++) {
    const char *frame = string_at(d, p->items[i]), *open = frame ? strrchr(frame, '(') : NULL;
    char *end = NULL;
    const long number = open ? strtol(open + 1, &end, 10) : 0;
    d->a->source_budget -= 1 + (frame ? (int64_t)strlen(frame) : 0);
    if (!open || number <= 0 || strncmp(end, "): ", 3) != 0) return false;
    const char *torch = strstr(frame, "/torch/");
    if ((torch && torch < open) || *frame == '<') continue;
    *name = frame;
    *length = (int)(open - frame < INT32_MAX ? open - frame : INT32_MAX);
    *line = number;
    return true;
  }
  return false;
}

static const char *base_name(const char *path, int length) {
  const char *base = path;
  for (int i = 0; i < length && path[i]; i++)
    if (path[i] == '/' || path[i] == '\\') base = path + i + 1;
  return base;
}

static const char *intern(ts_archive *a, const char *place) {
  const char *known = map_get(&a->sources, place);
  if (known) return known;
  char *copy = arena_strdup(&a->im.graph->arena, place);
  return copy && map_put(&a->sources, copy, copy) ? copy : NULL;
}

/* "model.py:17" of /home/me/model.py; of PyTorch's own files "torch/nn/functional.py:17". */
static const char *place_text(debug_reader *d, debug_source *s, int64_t offset) {
  if (!s->name || !*s->name || s->first_line < 0 || s->first_line > INT32_MAX) return NULL;
  if (d->a->source_budget <= 0) return NULL;
  if (offset <= 0 && s->start) return s->start; /* all of traced code */
  if (offset > 0 && !s->ends && !find_lines(d, s)) return NULL;
  const char *name = s->name, *own = strstr(name, "/torch/");
  int length = (int)strlen(name);
  int64_t line = s->first_line + (offset > 0 ? line_at(s, offset) : 0);
  d->a->source_budget -= length;
  if (own && offset <= 0 && user_frame(d, s, &name, &length, &line)) own = NULL;
  const char *shown = own ? own + 1 : base_name(name, length);
  char place[MAX_PLACE + 32];
  const int rest = length - (int)(shown - name);
  snprintf(place, sizeof place, "%.*s:%lld", rest < MAX_PLACE ? rest : MAX_PLACE, shown, (long long)line);
  const char *interned = intern(d->a, place);
  if (offset <= 0) s->start = interned;
  return interned;
}

/* ---- records ----------------------------------------------------------------------------------------------------- */

static kiln_status read_range(debug_reader *d, const pickle_value *record, ts_range *out) {
  *out = (ts_range){0};
  if (!is_tuple(record, 2) || record->items[0]->kind != PICKLE_INT || record->items[0]->u.i < 0) return KILN_OK;
  out->offset = (uint64_t)record->items[0]->u.i;
  const pickle_value *range = record->items[1];
  if (!is_tuple(range, 3) && record->count > 2) range = record->items[2];
  if (!is_tuple(range, 3) || range->items[1]->kind != PICKLE_INT) return KILN_OK;
  bool failed = false;
  debug_source *s = source_of(d, range->items[0], &failed);
  if (s) out->place = place_text(d, s, range->items[1]->u.i);
  if (failed || d->scratch.failed || d->a->im.graph->arena.failed) return KILN_NO_MEMORY("source places");
  return KILN_OK;
}

static int compare_ranges(const void *a, const void *b) {
  const ts_range *x = a, *y = b;
  return (x->offset > y->offset) - (x->offset < y->offset);
}

static kiln_status read_records(debug_reader *d, const pickle_value *root) {
  if (root->kind != PICKLE_TUPLE) return KILN_OK;
  if (root->count == 3 && root->items[0]->kind == PICKLE_STRING) {
    if (!is_tuple(root->items[1], 0) || !is_tuple(root->items[2], 0)) return KILN_OK;
    d->table = root->items[1];
    root = root->items[2];
  }
  ts_file *f = d->file;
  f->ranges = ARENA_ARRAY(&d->a->arena, ts_range, root->count ? root->count : 1);
  if (!f->ranges) return KILN_NO_MEMORY("source places");
  for (size_t i = 0; i < root->count; i++) KILN_TRY(read_range(d, root->items[i], &f->ranges[i]));
  bool sorted = true;
  for (size_t i = 1; i < root->count && sorted; i++) sorted = f->ranges[i - 1].offset <= f->ranges[i].offset;
  if (!sorted) qsort(f->ranges, root->count, sizeof *f->ranges, compare_ranges);
  f->n_ranges = root->count;
  return KILN_OK;
}

/* Damaged records are no reason to refuse a model: its places are then those of the archive's code. */
static void read_debug(ts_archive *a, ts_file *f) {
  static const pickle_global globals[] = {{"torch.jit._pickle", "build_intlist"}};
  const pickle_options options = {
      .globals = globals, .n_globals = KILN_COUNT(globals), .max_values = 4 << 20, .max_bytes = 1 << 30};
  debug_reader d = {.a = a, .file = f};
  f->ranges_read = true;
  char name[1200];
  const int n = snprintf(name, sizeof name, "%s.debug_pkl", f->name);
  const zip_entry *e = n > 0 && (size_t)n < sizeof name ? zip_find(&a->zip, name) : NULL;
  const void *bytes = NULL;
  size_t size = 0;
  const pickle_value *root = NULL;
  if (e && e->size <= MAX_DEBUG && zip_read(e, &d.scratch, &bytes, &size) == KILN_OK &&
      pickle_parse(bytes, size, name, &options, &d.scratch, &root) == KILN_OK && read_records(&d, root) != KILN_OK)
    f->n_ranges = 0;
  map_free(&d.sources);
  arena_free(&d.scratch);
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

static bool index_lines(ts_archive *a, ts_file *f) {
  if (f->lines) return true;
  int n = 1;
  for (size_t i = 0; i < f->size; i++) n += f->text[i] == '\n';
  f->lines = ARENA_ARRAY(&a->arena, size_t, n + 1);
  f->places = ARENA_ARRAY(&a->arena, const char *, n + 1);
  if (!f->lines || !f->places) return false;
  int line = 0;
  f->lines[line++] = 0;
  for (size_t i = 0; i < f->size; i++)
    if (f->text[i] == '\n') f->lines[line++] = i + 1;
  f->lines[n] = f->size;
  f->n_lines = n;
  return true;
}

/* The first known range that starts on the line: that of its outermost expression. Else the one that reaches into the
 * line. */
static const char *place_of_line(const ts_file *f, int line) {
  size_t start = f->lines[line - 1];
  const size_t end = f->lines[line];
  while (start < end && f->text[start] == ' ') start++;
  size_t low = 0, high = f->n_ranges;
  while (low < high) { /* ranges up to low start before the line */
    const size_t middle = low + (high - low) / 2;
    if (f->ranges[middle].offset < start)
      low = middle + 1;
    else
      high = middle;
  }
  for (size_t i = low; i < f->n_ranges && f->ranges[i].offset < end; i++)
    if (f->ranges[i].place) return f->ranges[i].place;
  return low > 0 ? f->ranges[low - 1].place : NULL;
}

const char *ts_source(ts_archive *a, const char *file, int line) {
  ts_file *f = file ? map_get(&a->files, file) : NULL;
  if (f && !index_lines(a, f)) return NULL;
  const bool known = f && line >= 1 && line <= f->n_lines;
  if (known && f->places[line - 1]) return f->places[line - 1];
  if (f && !f->ranges_read) read_debug(a, f);
  const char *place = known ? place_of_line(f, line) : NULL;
  if (!place) place = arena_printf(&a->im.graph->arena, "%s:%d", file ? file : "?", line);
  if (known) f->places[line - 1] = place;
  return place;
}
