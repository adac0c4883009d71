/* Optimization profiles, see profiles.h. */
#include "graph/profiles.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static const char key[] = "kiln.optimization_profiles", shared_key[] = "kiln.shared_dims";

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static bool read_number(const char **at, char end, int64_t *out) {
  char *stop = NULL;
  if (**at < '0' || **at > '9') return false;
  *out = strtoll(*at, &stop, 10);
  if (*stop != end && end) return false;
  *at = end ? stop + 1 : stop;
  return dim_is_const(*out) && *out < DIM_UNBOUNDED;
}

static bool read_range(const graph *g, const char **at, profile_range *out) {
  int64_t input = 0, d = 0;
  if (!read_number(at, '.', &input) || !read_number(at, '=', &d) || !read_number(at, ':', &out->min) ||
      !read_number(at, ':', &out->opt) || !read_number(at, 0, &out->max))
    return false;
  if (input >= g->n_inputs || d >= g->body.params[input]->type.rank) return false;
  out->input = (int32_t)input;
  out->dim = (int32_t)d;
  return out->min <= out->opt && out->opt <= out->max;
}

static bool read_shared(const graph *g, const char **at, shared_size *out) {
  int64_t numbers[4];
  for (int i = 0; i < 4; i++) {
    if (!read_number(at, i == 3 ? 0 : i == 1 ? '=' : '.', &numbers[i])) return false;
  }
  for (int i = 0; i < 2; i++) {
    if (numbers[2 * i] >= g->n_inputs || numbers[2 * i + 1] >= g->body.params[numbers[2 * i]]->type.rank) return false;
    out->input[i] = (int32_t)numbers[2 * i];
    out->dim[i] = (int32_t)numbers[2 * i + 1];
  }
  return true;
}

static int32_t count_of(const char *s, char c) {
  int32_t n = 1;
  for (; *s; s++) n += *s == c;
  return n;
}

static bool read_profile(const graph *g, const char **at, size_profile *p) {
  for (;;) {
    if (!read_range(g, at, &p->ranges[p->n_ranges++])) return false;
    if (**at != ',') break;
    ++*at;
  }
  return true;
}

/* The symbols at the opt sizes; those of no range keep the value that they have. */
static void solve_opt(const graph *g, size_profile *p) {
  for (int i = 0; i < dim_symbol_count(g->dims); i++) dim_symbol_range(g->dims, i, NULL, NULL, &p->symbols[i]);
  for (int32_t i = 0; i < p->n_ranges; i++) {
    const profile_range *r = &p->ranges[i];
    const int s = dim_symbol_index(g->dims, g->body.params[r->input]->type.dims[r->dim]);
    if (s >= 0) p->symbols[s] = r->opt;
  }
}

static kiln_status read_all_shared(const graph *g, arena *a, profile_list *out) {
  const char *at = graph_metadata(g, shared_key);
  if (!at) return KILN_OK;
  const int32_t count = count_of(at, ',');
  out->shared = ARENA_ARRAY(a, shared_size, count);
  if (!out->shared) return KILN_NO_MEMORY("shared sizes");
  while (out->n_shared < count) {
    const bool last = out->n_shared + 1 == count;
    if (!read_shared(g, &at, &out->shared[out->n_shared]) || *at != (last ? 0 : ','))
      return KILN_FAIL(
          KILN_INVALID_FILE,
          "metadata `%s`: near `%.40s`: expected pairs of sizes of inputs, input.dimension=input.dimension, "
          "separated by commas",
          shared_key, at);
    out->n_shared++;
    at += !last;
  }
  return KILN_OK;
}

kiln_status profiles_read(const graph *g, arena *a, profile_list *out) {
  const char *at = graph_metadata(g, key);
  profile_list list = {.count = at ? count_of(at, ';') : 1, .declared = at != NULL};
  if (list.count > MAX_PROFILES)
    return KILN_FAIL(KILN_INVALID_FILE, "%d optimization profiles, at most %d are possible", (int)list.count,
                     MAX_PROFILES);
  const int32_t ranges = at ? count_of(at, ',') + list.count : 0;
  list.all = ARENA_ARRAY(a, size_profile, list.count);
  profile_range *room = ARENA_ARRAY(a, profile_range, ranges + 1);
  if (!list.all || !room) return KILN_NO_MEMORY("optimization profiles");
  for (int32_t k = 0; k < list.count; k++) {
    size_profile *p = &list.all[k];
    p->symbols = ARENA_ARRAY(a, int64_t, dim_symbol_count(g->dims) + 1);
    if (!p->symbols) return KILN_NO_MEMORY("optimization profiles");
    p->ranges = room;
    if (at && !read_profile(g, &at, p))
      return KILN_FAIL(KILN_INVALID_FILE, "metadata `%s`: damaged near `%.40s`", key, at);
    room += p->n_ranges;
    if (at && *at != (k + 1 < list.count ? ';' : 0))
      return KILN_FAIL(KILN_INVALID_FILE, "metadata `%s`: damaged near `%.40s`", key, at);
    if (at && *at) at++;
    solve_opt(g, p);
  }
  KILN_TRY(read_all_shared(g, a, &list));
  *out = list;
  return KILN_OK;
}

void profile_apply(graph *g, const size_profile *p) {
  for (int i = 0; i < dim_symbol_count(g->dims); i++) {
    int64_t min = 0, max = 0;
    dim_symbol_range(g->dims, i, &min, &max, NULL);
    dim_symbol_set_range(g->dims, i, min, max, p->symbols[i]);
  }
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

typedef struct seen_size { /* where a profile has said what a symbol's opt value is */
  int32_t input, dim;
  int64_t opt;
} seen_size;

static kiln_status check_one_size(const graph *g, seen_size *seen, size_t k, int32_t input, int32_t d, int64_t opt) {
  if (seen->input < 0) {
    *seen = (seen_size){input, d, opt};
    return KILN_OK;
  }
  if (seen->opt == opt) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_ARGUMENT,
                   "optimization profile %zu: input \"%s\", dimension %d and input \"%s\", dimension %d are one size "
                   "in the model, but "
                   "their opt sizes are %lld and %lld",
                   k, g->input_names[seen->input], (int)seen->dim, g->input_names[input], (int)d, (long long)seen->opt,
                   (long long)opt);
}

static kiln_status write_profile(const graph *g, const kiln_input_spec *inputs, size_t count, const int32_t *at,
                                 size_t k, seen_size *seen, text *out) {
  int written = 0;
  for (int i = 0; i < dim_symbol_count(g->dims); i++) seen[i].input = -1;
  for (size_t i = 0; i < count; i++) {
    if (at[i] < 0) continue;
    const tensor_type *type = &g->body.params[at[i]]->type;
    for (int32_t d = 0; d < type->rank; d++) {
      const int s = dim_symbol_index(g->dims, type->dims[d]);
      if (s < 0) continue; /* fixed, or it follows from others */
      KILN_TRY(check_one_size(g, &seen[s], k, at[i], d, inputs[i].opt[d]));
      text_printf(out, "%s%d.%d=%lld:%lld:%lld", written++ ? "," : "", (int)at[i], (int)d, (long long)inputs[i].min[d],
                  (long long)inputs[i].opt[d], (long long)inputs[i].max[d]);
    }
  }
  if (!written)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "optimization profile %zu: the model has no size that varies", k);
  return KILN_OK;
}

kiln_status profiles_write(graph *g, const kiln_input_spec *inputs, size_t count, const int32_t *at,
                           size_t n_profiles) {
  text t = {0};
  seen_size *seen = mem_calloc((size_t)dim_symbol_count(g->dims) + 1, sizeof *seen);
  kiln_status status = seen ? KILN_OK : KILN_NO_MEMORY("optimization profiles");
  for (size_t k = 0; k < n_profiles && status == KILN_OK; k++) {
    if (k) text_putc(&t, ';');
    status = write_profile(g, inputs + k * count, count, at, k, seen, &t);
  }
  if (status == KILN_OK && (t.failed || !t.data)) status = KILN_NO_MEMORY("optimization profiles");
  if (status == KILN_OK) status = graph_set_metadata(g, key, t.data);
  mem_free(seen);
  text_free(&t);
  return status;
}
