/* Optimization profiles at run time, see choose_profile.h. */
#include "runtime/choose_profile.h"

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

kiln_status choose_profile(const kiln_context *c, const kiln_tensor *inputs, int32_t *out) {
  const profile_list *list = &c->engine->profiles;
  int32_t best = -1;
  double nearest = 0;
  *out = 0;
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
