/* Operators of no family: identity, which also answers to what frameworks call without computing anything. */
#include "import/torch_misc.h"
#include "ops/infer.h"
#include "ops/ref.h"

static bool identity_view(const kernel_args *a, const tensor *in, tensor *out) {
  (void)a;
  *out = *in;
  return true;
}

static kiln_status identity_ref(const kernel_args *a) {
  const tensor *in = &a->in[0], *out = &a->out[0];
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it))
    ref_copy_element(in, tensor_offset(in, it.index), out, tensor_offset(out, it.index));
  return KILN_OK;
}

static const char *const cases_identity[] = {"x:f32[2,3]", "x:i64[]", "x:bool[4]", NULL};

static const op rows[] = {
    {.name = "identity",
     .sig = "x -> y",
     .attrs = "",
     .flags = OP_VIEW,
     .infer = infer_same,
     .ref = identity_ref,
     .view = identity_view,
     .torch = torch_misc,
     .cases = cases_identity},
};

OP_FAMILY(ops_misc, rows);
