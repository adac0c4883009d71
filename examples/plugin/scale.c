/* A custom operator in C: mine::scale(x, k) = k * x, and a rule that uses it. Build it without linking to anything of Kiln's:
 *   cc -O2 -shared -fPIC $(pkg-config --cflags kiln) scale.c -o scale.so */
#include <kiln/kiln_ext.h>

static kiln_status run(const kiln_op_call *call) {
  const float *x = call->inputs[0].data, k = (float)kiln_arg_float(&call->args, "k");
  float *y = call->outputs[0].data;
  const int64_t n = kiln_elements(&call->outputs[0]);
  for (int64_t i = 0; i < n; i++) y[i] = k * x[i];
  return KILN_OK;
}

kiln_status kiln_plugin_init(const kiln_ext *ext) {
  const kiln_op_def scale = {
      .struct_size = sizeof scale, .schema = "mine::scale(Tensor x, float k=1.0) -> Tensor", .run = run};
  return ext->register_op(&scale);
}
