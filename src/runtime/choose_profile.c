/* Optimization profiles at run time, see choose_profile.h. */
#include "runtime/choose_profile.h"

#include "graph/size_guards.h"

/* The first size that lies outside; NULL: all are inside. */
static const profile_range *outside(const size_profile *p, const kiln_tensor *inputs) {
  for (int32_t i = 0; i < p->n_ranges; i++) {
    const profile_range *r = &p->ranges[i];
    const int64_t n = inputs[r->input].shape[r->dim];
    if (n < r->min || n > r->max) return r;
  }
  return NULL;
}

/* How far the sizes are from the opt ones: the product of the factors between them. */
static double distance(const size_profile *p, const kiln_tensor *inputs) {
  double d = 1;
  for (int32_t i = 0; i < p->n_ranges; i++) {
    const profile_range *r = &p->ranges[i];
    const double n = (double)inputs[r->input].shape[r->dim] + 1, opt = (double)r->opt + 1; /* sizes may be 0 */
    d *= n > opt ? n / opt : opt / n;
  }
  return d;
}

static void tell(const kiln_context *c, const kiln_tensor *inputs, int32_t k, const profile_range *r, text *t) {
  text_printf(t, "input %d (\"%s\"), dimension %d is %lld, outside optimization profile %d (%lld to %lld)",
              (int)r->input, c->engine->plan->input_names[r->input], (int)r->dim,
              (long long)inputs[r->input].shape[r->dim], (int)k, (long long)r->min, (long long)r->max);
}

static kiln_status wrong_sizes(const kiln_context *c, const kiln_tensor *inputs) {
  const profile_list *list = &c->engine->profiles;
  text t = {0};
  for (int32_t k = 0; k < list->count; k++) {
    if (c->wanted >= 0 && k != c->wanted) continue;
    if (t.length) text_puts(&t, "; ");
    tell(c, inputs, k, outside(&list->all[k], inputs), &t);
  }
  if (c->wanted >= 0) {
    text_puts(&t, ", which was set for this context");
    for (int32_t k = 0; k < list->count; k++) {
      if (outside(&list->all[k], inputs)) continue;
      text_printf(&t, "; profile %d contains these sizes", (int)k);
      break;
    }
  }
  const kiln_status status =
      KILN_FAIL(KILN_INVALID_ARGUMENT, "%s", t.data ? t.data : "sizes outside the optimization profiles");
  text_free(&t);
  return status;
}

static kiln_status check_shared(const kiln_context *c, const kiln_tensor *inputs) {
  const profile_list *list = &c->engine->profiles;
  for (int32_t i = 0; i < list->n_shared; i++) {
    const shared_size *s = &list->shared[i];
    const int64_t a = inputs[s->input[0]].shape[s->dim[0]], b = inputs[s->input[1]].shape[s->dim[1]];
    const char **names = c->engine->plan->input_names;
    if (a != b)
      return KILN_FAIL(
          KILN_INVALID_ARGUMENT,
          "input %d (\"%s\"), dimension %d is %lld, but input %d (\"%s\"), dimension %d is %lld: these two "
          "sizes were declared to be the same",
          (int)s->input[1], names[s->input[1]], (int)s->dim[1], (long long)b, (int)s->input[0], names[s->input[0]],
          (int)s->dim[0], (long long)a);
  }
  return KILN_OK;
}

kiln_status choose_profile(const kiln_context *c, const kiln_tensor *inputs, int32_t *out) {
  const profile_list *list = &c->engine->profiles;
  int32_t best = -1;
  double nearest = 0;
  *out = 0;
  KILN_TRY(check_shared(c, inputs));
  if (!list->declared) return KILN_OK; /* the symbols' ranges are checked in any case */
  for (int32_t k = 0; k < list->count; k++) {
    if ((c->wanted >= 0 && k != c->wanted) || outside(&list->all[k], inputs)) continue;
    const double d = distance(&list->all[k], inputs);
    if (best >= 0 && d >= nearest) continue;
    best = k;
    nearest = d;
  }
  if (best < 0) return wrong_sizes(c, inputs);
  *out = best;
  return KILN_OK;
}

kiln_status check_size_guards(const kiln_context *c, const kiln_tensor *inputs) {
  const graph *plan = c->engine->plan;
  return size_guards_enforce(graph_metadata(plan, SIZE_GUARDS_KEY), inputs, plan->n_inputs, plan->input_names);
}
