/* Operators about neither numbers, containers, strings nor tensors: identity, exceptions, devices, gradient modes; and
 * the look-up of call arguments for all builtins. */
#include <stdio.h>
#include <string.h>

#include "import/torchscript/interpreter.h"
#include "import/torchscript/quantized.h"

const ts_value *interp_arg(const ts_call *c, int at, const char *name) {
  if (at < c->n && (!c->names || !c->names[at])) return &c->args[at];
  for (int i = 0; i < c->n; i++)
    if (c->names && c->names[i] && str_eq(c->names[i], name)) return &c->args[i];
  return NULL;
}

kiln_status interp_arg_int(interp *it, const ts_call *c, int at, const char *name, int64_t fallback, int64_t *out) {
  const ts_value *v = interp_arg(c, at, name);
  *out = fallback;
  if (!v || v->kind == TSV_NONE) return KILN_OK;
  if (v->kind != TSV_INT && v->kind != TSV_BOOL)
    return IT_FAIL(it, v->kind == TSV_DATA ? KILN_UNSUPPORTED : KILN_INVALID_FILE, "%s: argument %s is %s", c->name,
                   name, interp_kind_name(v));
  if (!dim_is_const(v->u.i))
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s: argument %s depends on the input's shape, which is not supported here",
                   c->name, name);
  *out = v->u.i;
  return KILN_OK;
}

static bool identical(const ts_value *x, const ts_value *y) {
  if (x->kind != y->kind) return false;
  switch (x->kind) {
    case TSV_NONE:
      return true;
    case TSV_TENSOR:
      return x->u.tensor == y->u.tensor;
    case TSV_INT:
    case TSV_BOOL:
      return x->u.i == y->u.i;
    case TSV_STR:
    case TSV_DEVICE:
      return str_eq(x->u.s, y->u.s);
    case TSV_LIST:
    case TSV_TUPLE:
    case TSV_DICT:
    case TSV_OBJECT:
      return x->u.object == y->u.object;
    default:
      return false;
  }
}

static kiln_status do_is(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (c->n != 2) return KILN_OK;
  *handled = true;
  for (int i = 0; i < 2; i++)
    if (c->args[i].kind == TSV_UNINITIALIZED) return IT_FAIL(it, KILN_INVALID_FILE, "an unset value is looked at");
  *out = of_bool(identical(&c->args[0], &c->args[1]) == str_eq(c->name, "__is__"));
  return KILN_OK;
}

/* The failure counts only if the program gets here for sure: branches on tensor data drop the side that raises. */
static kiln_status do_raise(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char *message = c->n > 0 && c->args[0].kind == TSV_STR ? c->args[0].u.s : "";
  const char *type = c->n > 1 && c->args[1].kind == TSV_STR ? c->args[1].u.s : "Exception";
  *handled = true;
  *out = of_none();
  it->raised = true;
  if (str_starts(type, "builtins.")) type += strlen("builtins.");
  return IT_FAIL(it, KILN_INVALID_ARGUMENT, "the model raises %.80s: %.400s", type, message);
}

static kiln_status do_nothing(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  (void)it, (void)c;
  *handled = true;
  *out = of_none();
  return KILN_OK;
}

static kiln_status do_print(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  (void)c;
  *handled = true;
  *out = of_none();
  interp_note(it, "%s: %s has no effect in an engine", ts_source(it->a, interp_here(it), it->frame->line), c->name);
  return KILN_OK;
}

static kiln_status do_false(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  (void)it, (void)c;
  *handled = true;
  *out = of_bool(false);
  return KILN_OK;
}

static kiln_status do_true(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  (void)it, (void)c;
  *handled = true;
  *out = of_bool(true);
  return KILN_OK;
}

static kiln_status do_device(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (c->n < 1 || (c->args[0].kind != TSV_STR && c->args[0].kind != TSV_DEVICE)) return KILN_OK;
  (void)it;
  *handled = true;
  *out = c->args[0];
  out->kind = TSV_DEVICE;
  return KILN_OK;
}

/* type and index of a device */
static kiln_status do_device_part(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (c->n != 1 || c->args[0].kind != TSV_DEVICE) return KILN_OK;
  const char *s = c->args[0].u.s, *colon = strchr(s, ':');
  *handled = true;
  if (str_eq(c->name, "prim.index")) {
    *out = of_none();
    return KILN_OK;
  }
  const char *type = arena_strndup(it->arena, s, colon ? (size_t)(colon - s) : strlen(s));
  if (!type) return interp_no_memory(it);
  *out = of_string(type);
  return KILN_OK;
}

/* The Optional's value. */
static kiln_status do_unwrap(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (c->n != 1) return KILN_OK;
  *handled = true;
  *out = c->args[0];
  if (out->kind != TSV_NONE) return KILN_OK;
  it->raised = true;
  return IT_FAIL(it, KILN_INVALID_ARGUMENT, "unwrapping null optional");
}

/* name and value of an enum's member */
static kiln_status do_enum_part(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (c->n != 1 || c->args[0].kind != TSV_ENUM) return KILN_OK;
  *handled = true;
  return interp_attribute_get(it, &c->args[0], str_ends(c->name, "name") ? "name" : "value", out);
}

const ts_builtin ts_builtins_misc[] = {{"__is__", do_is},
                                       {"__isnot__", do_is},
                                       {"prim.RaiseException", do_raise},
                                       {"warn", do_print},
                                       {"print", do_print},
                                       {"prim.Print", do_print},
                                       {"set_grad_enabled", do_nothing},
                                       {"is_grad_enabled", do_false},
                                       {"manual_seed", do_nothing},
                                       {"is_scripting", do_true},
                                       {"device", do_device},
                                       {"prim.type", do_device_part},
                                       {"prim.index", do_device_part},
                                       {"_unwrap_optional", do_unwrap},
                                       {"prim.unchecked_unwrap_optional", do_unwrap},
                                       {"prim.EnumName", do_enum_part},
                                       {"prim.EnumValue", do_enum_part},
                                       {"prim.name", do_enum_part},
                                       {"prim.value", do_enum_part},
                                       {"is_autocast_enabled", do_false},
                                       {"is_autocast_cpu_enabled", do_false},
                                       {"_C._get_tracing_state", do_nothing},
                                       {NULL, NULL}};

/* "aten::len" -> "len", "prim::dtype" -> "prim.dtype" */
bool ts_builtin_exists(const char *name) {
  const ts_builtin *const families[] = {ts_builtins_number, ts_builtins_list, ts_builtins_string, ts_builtins_tensor,
                                        ts_builtins_misc};
  char plain[200];
  const char *colons = strstr(name, "::");
  if (!colons || strlen(name) >= sizeof plain) return false;
  if (str_starts(name, "aten::"))
    snprintf(plain, sizeof plain, "%s", colons + 2);
  else
    snprintf(plain, sizeof plain, "%.*s.%s", (int)(colons - name), name, colons + 2);
  for (size_t f = 0; f < KILN_COUNT(families); f++)
    for (const ts_builtin *b = families[f]; b->name; b++)
      if (b->fn && str_eq(b->name, plain)) return true;
  return quantized_exists(name);
}
