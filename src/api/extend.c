/* kiln_ext.h: registering operators and rules, and loading plugins that do. */
#include <dlfcn.h>
#include <string.h>

#include "ops/custom.h"
#include "passes/custom_rules.h"

kiln_status kiln_op_register(const kiln_op_def *def) { return custom_register(def); }
kiln_status kiln_rule_register(const kiln_rule_def *def) { return custom_rule_register(def); }

int kiln_op_kernels(const char *name) {
  const aten_schema *const *list = NULL;
  const int n = name ? custom_find_schemas(name, &list) : 0;
  if (n == 0) return -1;
  const custom_impl *impl = custom_impl_of(list[0]->op);
  return (impl->run ? 1 : 0) | (impl->run_cuda || impl->has_cuda ? 2 : 0);
}

kiln_status kiln_plugin_load(const char *path) {
  static const kiln_ext ext = {KILN_EXT_VERSION, kiln_op_register, kiln_rule_register};
  if (!path) return KILN_FAIL(KILN_INVALID_ARGUMENT, "path is NULL");
  KILN_TRY(ops_init());
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *reason = dlerror();
    return KILN_FAIL(KILN_IO_ERROR, "plugin %.200s cannot be loaded: %.300s", path, reason ? reason : "unknown reason");
  }
  kiln_status (*init)(const kiln_ext *) = NULL;
  *(void **)(void *)&init = dlsym(library, "kiln_plugin_init");
  if (!init) {
    dlclose(library);
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "plugin %.200s has no function kiln_plugin_init: see kiln/kiln_ext.h",
                     path);
  }
  const char *slash = strrchr(path, '/');
  error_clear();
  custom_set_library(slash ? slash + 1 : path);
  const kiln_status status = init(&ext); /* stays loaded either way: what it registered before it failed is used */
  custom_set_library(NULL);
  if (status == KILN_OK) return KILN_OK;
  if (!*error_text()) return KILN_FAIL(status, "plugin %.200s: kiln_plugin_init failed", path);
  return error_note(status, __FILE__, __LINE__, "loading plugin %.200s", path);
}
