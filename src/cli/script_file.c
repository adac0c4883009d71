/* TorchScript files around engines. The file is a zip archive of stored entries with 64-byte aligned data: a pickle of the module's
 * attributes, one of which is the engine's bytes as a tensor, and its code as TorchScript prints it. The code is what
 * python/kiln/engine_module.py and interface.py give, so modules from either side are the same to who loads them. */
#include "script_file.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { MAX_DEPTH = 32, MAX_ENTRIES = 16, ALIGNMENT = 64 };

/* ---- Zip --------------------------------------------------------------------------------------------------------- */

typedef struct zip_record {
  const char *name;
  uint32_t crc, size, offset;
} zip_record;

typedef struct zip_writer {
  FILE *file;
  const char *root; /* the archive's folder */
  uint64_t at;
  zip_record records[MAX_ENTRIES];
  int count;
} zip_writer;

static void put16(uint8_t *p, unsigned v) {
  p[0] = (uint8_t)v;
  p[1] = (uint8_t)(v >> 8);
}
static void put32(uint8_t *p, uint32_t v) {
  put16(p, v & 0xffff);
  put16(p + 2, v >> 16);
}

static void zip_put(zip_writer *z, const void *bytes, size_t size) {
  z->at += fwrite(bytes, 1, size, z->file); /* ferror tells at the end */
}

static uint32_t checksum(const void *bytes, size_t size) {
  uLong crc = crc32(0, NULL, 0);
  for (const uint8_t *p = bytes; size;) {
    const uInt part = size > (1u << 30) ? 1u << 30 : (uInt)size;
    crc = crc32(crc, p, part);
    p += part;
    size -= part;
  }
  return (uint32_t)crc;
}

static void entry_fields(uint8_t *p, const zip_record *r, size_t name_length, size_t extra) {
  put16(p, 0);           /* version needed */
  put16(p + 2, 1 << 11); /* names are UTF-8 */
  put32(p + 4, 0);       /* stored */
  put32(p + 6, 0);       /* no time */
  put32(p + 10, r->crc);
  put32(p + 14, r->size);
  put32(p + 18, r->size);
  put16(p + 22, (unsigned)name_length);
  put16(p + 24, (unsigned)extra);
}

/* `name` must outlive the writer. */
static void zip_add(zip_writer *z, const char *name, const void *bytes, size_t size) {
  static const uint8_t zeros[ALIGNMENT + 4];
  uint8_t header[30] = {'P', 'K', 3, 4}, padding[4] = {'F', 'B', 0, 0};
  const size_t length = strlen(z->root) + 1 + strlen(name);
  zip_record *r = &z->records[z->count++];
  *r = (zip_record){name, checksum(bytes, size), (uint32_t)size, (uint32_t)z->at};
  const uint64_t start = z->at + sizeof header + length + sizeof padding;
  const size_t fill = (ALIGNMENT - start % ALIGNMENT) % ALIGNMENT;
  entry_fields(header + 4, r, length, sizeof padding + fill);
  put16(padding + 2, (unsigned)fill);
  zip_put(z, header, sizeof header);
  zip_put(z, z->root, strlen(z->root));
  zip_put(z, "/", 1);
  zip_put(z, name, strlen(name));
  zip_put(z, padding, sizeof padding);
  zip_put(z, zeros, fill);
  zip_put(z, bytes, size);
}

static void zip_finish(zip_writer *z) {
  const uint64_t start = z->at;
  for (int i = 0; i < z->count; i++) {
    uint8_t header[46] = {'P', 'K', 1, 2};
    const zip_record *r = &z->records[i];
    entry_fields(header + 6, r, strlen(z->root) + 1 + strlen(r->name), 0);
    put32(header + 42, r->offset);
    zip_put(z, header, sizeof header);
    zip_put(z, z->root, strlen(z->root));
    zip_put(z, "/", 1);
    zip_put(z, r->name, strlen(r->name));
  }
  uint8_t end[22] = {'P', 'K', 5, 6};
  put16(end + 8, (unsigned)z->count);
  put16(end + 10, (unsigned)z->count);
  put32(end + 12, (uint32_t)(z->at - start));
  put32(end + 16, (uint32_t)start);
  zip_put(z, end, sizeof end);
}

/* ---- The pickle of the module ------------------------------------------------------------------------------------- */

static void pickle_text(FILE *f, const char *text) {
  uint8_t head[5] = {'X'};
  put32(head + 1, (uint32_t)strlen(text));
  fwrite(head, 1, sizeof head, f);
  fputs(text, f);
}

static void pickle_number(FILE *f, size_t value) {
  uint8_t head[11] = {0x8a, 8}; /* LONG1 of 8 bytes, little endian */
  for (int i = 0; i < 8; i++) head[2 + i] = (uint8_t)((uint64_t)value >> 8 * i);
  fwrite(head, 1, 10, f);
}

static void pickle_flag(FILE *f, const char *name, char opcode) {
  pickle_text(f, name);
  fputc(opcode, f);
}

/* {training: False, _is_full_backward_hook: None, engine: EngineModule((tensor, False))} */
static void pickle_module(FILE *f, size_t size) {
  fputs(
      "\x80\x02"
      "c__torch__.kiln.generated\nCompiled\n)\x81}(",
      f);
  pickle_flag(f, "training", '\x89');
  pickle_flag(f, "_is_full_backward_hook", 'N');
  pickle_text(f, "engine");
  fputs("c__torch__.kiln.engine_module\nEngineModule\n)\x81", f);
  fputs("ctorch._utils\n_rebuild_tensor_v2\n((", f);
  pickle_text(f, "storage");
  fputs("ctorch\nByteStorage\n", f);
  pickle_text(f, "0");
  pickle_text(f, "cpu");
  pickle_number(f, size);
  fputs("tQ", f);
  fwrite("K\x00(", 1, 3, f);
  pickle_number(f, size);
  fputs(
      "t(K\x01t\x89"
      "ccollections\nOrderedDict\n)RtR\x89\x86"
      "bub.",
      f);
}

/* ---- The code of the module --------------------------------------------------------------------------------------- */

static const char engine_code[] =
    "class EngineModule(Module):\n"
    "  __parameters__ = []\n"
    "  __buffers__ = []\n"
    "  training : bool\n"
    "  _is_full_backward_hook : NoneType\n"
    "  kiln_engine : Tensor\n"
    "  def __getstate__(self: __torch__.kiln.engine_module.EngineModule) -> Tuple[Tensor, bool]:\n"
    "    kiln_engine = self.kiln_engine\n"
    "    training = self.training\n"
    "    return (kiln_engine, training)\n"
    "  def __setstate__(self: __torch__.kiln.engine_module.EngineModule,\n"
    "    state: Tuple[Tensor, bool]) -> NoneType:\n"
    "    self.kiln_engine = ops.kiln.load((state)[0])\n"
    "    self.training = (state)[1]\n"
    "    return None\n"
    "  def reset(self: __torch__.kiln.engine_module.EngineModule) -> NoneType:\n"
    "    kiln_engine = self.kiln_engine\n"
    "    ops.kiln.reset(kiln_engine)\n"
    "    return None\n"
    "  def run(self: __torch__.kiln.engine_module.EngineModule,\n"
    "    inputs: List[Tensor]) -> List[Tensor]:\n"
    "    kiln_engine = self.kiln_engine\n"
    "    return ops.kiln.%s(kiln_engine, inputs)\n";

/* A text as a Python literal. */
static void print_literal(FILE *f, const char *text) {
  fputc('"', f);
  for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
    if (*p == '"' || *p == '\\')
      fprintf(f, "\\%c", *p);
    else if (*p < 32 || *p > 126)
      fprintf(f, "\\%03o", *p);
    else
      fputc(*p, f);
  }
  fputc('"', f);
}

static bool is_name(const char *text) {
  static const char *const taken[] = {"self",  "engine", "kiln_outputs", "None",   "True",   "False",    "and",
                                      "or",    "not",    "is",           "in",     "if",     "else",     "elif",
                                      "for",   "while",  "def",          "class",  "print",  "return",   "pass",
                                      "break", "del",    "raise",        "assert", "ops",    "torch",    "import",
                                      "from",  "as",     "with",         "lambda", "global", "continue", "CONSTANTS"};
  if (!isalpha((unsigned char)*text) && *text != '_') return false;
  for (const char *p = text; *p; p++)
    if (!isalnum((unsigned char)*p) && *p != '_') return false;
  for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
    if (strcmp(text, taken[i]) == 0) return false;
  return true;
}

/* The name of an argument: the input's, unless that is no name in TorchScript or an earlier input has it. */
static void print_argument(FILE *f, const kiln_engine *e, size_t index) {
  kiln_io_info info, other;
  bool usable =
      kiln_engine_input(e, index, &info) == KILN_OK && is_name(info.name) && strncmp(info.name, "input_", 6) != 0;
  for (size_t i = 0; usable && i < index; i++)
    usable = kiln_engine_input(e, i, &other) == KILN_OK && strcmp(other.name, info.name) != 0;
  if (usable)
    fputs(info.name, f);
  else
    fprintf(f, "input_%zu", index);
}

typedef struct result_writer {
  FILE *type, *value; /* the two texts grow together */
  const json_t *leaves;
  size_t at, outputs;
} result_writer;

/* Result number `at` of the model: an output, a number that an output holds, or a constant. */
static bool leaf_write(result_writer *w) {
  const json_t *leaf = json_array_get(w->leaves, w->at++), *v;
  static const char *const numbers[] = {"int", "float", "bool"};
  if ((v = json_object_get(leaf, "tensor"))) {
    if (!json_is_integer(v) || json_integer_value(v) < 0 || (size_t)json_integer_value(v) >= w->outputs) return false;
    fputs("Tensor", w->type);
    return fprintf(w->value, "(kiln_outputs)[%lld]", (long long)json_integer_value(v)) > 0;
  }
  for (int i = 0; i < 3; i++) {
    if (!(v = json_object_get(leaf, numbers[i]))) continue;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || (size_t)json_integer_value(v) >= w->outputs) return false;
    fputs(numbers[i], w->type);
    return fprintf(w->value, "%s((kiln_outputs)[%lld])", numbers[i], (long long)json_integer_value(v)) > 0;
  }
  v = json_object_get(leaf, "value");
  if (!leaf) return false;
  if (!v || json_is_null(v)) {
    fputs("NoneType", w->type);
    fputs("None", w->value);
  } else if (json_is_boolean(v)) {
    fputs("bool", w->type);
    fputs(json_is_true(v) ? "True" : "False", w->value);
  } else if (json_is_integer(v)) {
    fputs("int", w->type);
    fprintf(w->value, "%lld", (long long)json_integer_value(v));
  } else if (json_is_real(v)) {
    fputs("float", w->type);
    fprintf(w->value, "%.17g", json_real_value(v));
    if (json_real_value(v) == (double)(long long)json_real_value(v)) fputs(".", w->value);
  } else if (json_is_string(v)) {
    fputs("str", w->type);
    print_literal(w->value, json_string_value(v));
  } else {
    return false;
  }
  return true;
}

static bool result_write(result_writer *w, const json_t *spec, int depth);

/* The types of `n` children as one text, "A, B"; with `first` only the first one's, if all are the same. */
static bool children_write(result_writer *w, const json_t *children, const json_t *keys, int depth, bool *out_same) {
  const size_t n = json_array_size(children);
  char *first = NULL;
  FILE *types = w->type;
  bool ok = true;
  *out_same = true;
  for (size_t i = 0; ok && i < n; i++) {
    char *text = NULL;
    size_t length = 0;
    w->type = open_memstream(&text, &length);
    if (i) fputs(", ", w->value);
    if (keys) {
      print_literal(w->value, json_string_value(json_array_get(keys, i)));
      fputs(": ", w->value);
    }
    ok = w->type && result_write(w, json_array_get(children, i), depth + 1);
    if (w->type) ok = fclose(w->type) == 0 && ok;
    if (ok) fprintf(types, i ? ", %s" : "%s", text);
    if (ok && first) *out_same = *out_same && strcmp(first, text) == 0;
    if (first)
      free(text);
    else
      first = text;
  }
  free(first);
  w->type = types;
  return ok;
}

static bool keys_are_texts(const json_t *keys, size_t n) {
  bool ok = json_is_array(keys) && json_array_size(keys) == n;
  for (size_t i = 0; ok && i < n; i++) ok = json_is_string(json_array_get(keys, i));
  return ok;
}

/* A list or dictionary has one type of items in TorchScript; others become tuples. */
static bool container_write(result_writer *w, const json_t *spec, int depth) {
  const json_t *children = json_object_get(spec, "children_spec");
  const char *kind = json_string_value(json_object_get(spec, "type"));
  const char *context = json_string_value(json_object_get(spec, "context"));
  const size_t n = json_array_size(children), leaves = w->at;
  json_t *keys = context && strcmp(kind, "builtins.dict") == 0 ? json_loads(context, JSON_DECODE_ANY, NULL) : NULL;
  const bool dict = keys_are_texts(keys, n) && n, list = strcmp(kind, "builtins.list") == 0 && n;
  char *types = NULL, *values = NULL;
  size_t types_length = 0, values_length = 0;
  result_writer inner = *w;
  bool same = false, ok = false;
  for (int attempt = 0; attempt < 2 && !ok; attempt++) { /* the second one: as a tuple */
    const bool tuple = attempt || (!dict && !list);
    inner.at = leaves;
    inner.type = open_memstream(&types, &types_length);
    inner.value = open_memstream(&values, &values_length);
    ok = inner.type && inner.value && children_write(&inner, children, tuple || !dict ? NULL : keys, depth, &same);
    if (inner.type) ok = fclose(inner.type) == 0 && ok;
    if (inner.value) ok = fclose(inner.value) == 0 && ok;
    if (!ok) break;
    const int width = same && n ? (int)((strlen(types) - 2 * (n - 1)) / n) : 0; /* of one of n, joined by ", " */
    if (tuple) {
      fprintf(w->type, n ? "Tuple[%s]" : "Tuple[()]", types);
      fprintf(w->value, n ? "(%s%s)" : "()", values, n == 1 ? "," : "");
    } else if (same) {
      fprintf(w->type, dict ? "Dict[str, %.*s]" : "List[%.*s]", width, types);
      fprintf(w->value, dict ? "{%s}" : "[%s]", values);
    } else {
      ok = false;
    }
    free(types);
    free(values);
    types = values = NULL;
    if (!ok && tuple) break;
  }
  free(types);
  free(values);
  json_decref(keys);
  w->at = inner.at;
  return ok;
}

static bool result_write(result_writer *w, const json_t *spec, int depth) {
  const json_t *type = json_object_get(spec, "type");
  if (depth > MAX_DEPTH || !json_is_object(spec)) return false;
  if (!type || json_is_null(type)) return leaf_write(w);
  return json_is_string(type) && container_write(w, spec, depth);
}

/* Without metadata: the outputs as they are. */
static void flat_result(result_writer *w) {
  fputs(w->outputs == 1 ? "Tensor" : "List[Tensor]", w->type);
  fputs(w->outputs == 1 ? "(kiln_outputs)[0]" : "kiln_outputs", w->value);
}

/* "Tensor" and "(kiln_outputs)[0]", say; the caller frees both. False: out of memory, or the metadata is damaged. */
static bool result_texts(const kiln_engine *e, char **out_type, char **out_value) {
  const char *leaves = kiln_engine_metadata(e, "torch.outputs"), *spec = kiln_engine_metadata(e, "torch.out_spec");
  json_t *l = leaves ? json_loads(leaves, 0, NULL) : NULL, *s = spec ? json_loads(spec, 0, NULL) : NULL;
  size_t lengths[2];
  result_writer w = {.leaves = l, .outputs = kiln_engine_output_count(e)};
  w.type = open_memstream(out_type, &lengths[0]);
  w.value = open_memstream(out_value, &lengths[1]);
  bool ok = w.type && w.value;
  if (ok && json_is_array(l) && json_is_array(s))
    ok = result_write(&w, json_array_get(s, 1), 0) && w.at == json_array_size(l);
  else if (ok)
    flat_result(&w);
  if (w.type) ok = fclose(w.type) == 0 && ok;
  if (w.value) ok = fclose(w.value) == 0 && ok;
  json_decref(l);
  json_decref(s);
  return ok;
}

/* Inputs that the model wrote to get their new contents. */
static void mutations_write(FILE *f, const kiln_engine *e) {
  const char *text = kiln_engine_metadata(e, "torch.mutated_inputs");
  json_t *pairs = text ? json_loads(text, 0, NULL) : NULL;
  for (size_t i = 0; i < json_array_size(pairs); i++) {
    const json_t *in = json_object_get(json_array_get(pairs, i), "input");
    const json_t *out = json_object_get(json_array_get(pairs, i), "output");
    if (!json_is_integer(in) || !json_is_integer(out)) continue;
    if ((size_t)json_integer_value(in) >= kiln_engine_input_count(e)) continue;
    fprintf(f, "    kiln_%zu = torch.copy_(", i);
    print_argument(f, e, (size_t)json_integer_value(in));
    fprintf(f, ", (kiln_outputs)[%lld])\n", (long long)json_integer_value(out));
  }
  json_decref(pairs);
}

static bool code_write(FILE *f, const kiln_engine *e) {
  char *type = NULL, *value = NULL;
  const bool ok = result_texts(e, &type, &value);
  const size_t n = kiln_engine_input_count(e);
  if (ok) {
    fputs(
        "class Compiled(Module):\n  __parameters__ = []\n  __buffers__ = []\n  training : bool\n"
        "  _is_full_backward_hook : Optional[bool]\n  engine : __torch__.kiln.engine_module.EngineModule\n"
        "  def forward(self: __torch__.kiln.generated.Compiled",
        f);
    for (size_t i = 0; i < n; i++) {
      fputs(",\n    ", f);
      print_argument(f, e, i);
      fputs(": Tensor", f);
    }
    fprintf(f, ") -> %s:\n    engine = self.engine\n    kiln_outputs = (engine).run([", type);
    for (size_t i = 0; i < n; i++) {
      if (i) fputs(", ", f);
      print_argument(f, e, i);
    }
    fputs("], )\n", f);
    mutations_write(f, e);
    fprintf(f, "    return %s\n", value);
  }
  free(type);
  free(value);
  return ok;
}

/* ---- All ----------------------------------------------------------------------------------------------------------- */

/* "model" of "out/model.ts": the archive's folder, which torch.jit.save names so, too. */
static char *stem_of(const char *path) {
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strchr(name, '.');
  char *stem = strndup(name, dot && dot > name ? (size_t)(dot - name) : strlen(name));
  if (stem && !*stem) {
    free(stem);
    return strdup("archive");
  }
  return stem;
}

static int write_archive(FILE *file, const char *root, const char *code, size_t code_size, const void *bytes,
                         size_t size, bool state) {
  char module[1024], *pickle = NULL, id[48];
  size_t pickle_size = 0;
  FILE *f = open_memstream(&pickle, &pickle_size);
  if (f) pickle_module(f, size);
  if (!f || fclose(f) != 0) {
    free(pickle);
    return cli_error(CLI_FAILED, "out of memory");
  }
  zip_writer z = {.file = file, .root = root};
  const int length = snprintf(module, sizeof module, engine_code, state ? "execute_stateful" : "execute");
  zip_add(&z, "data/0", bytes, size);
  zip_add(&z, "data.pkl", pickle, pickle_size);
  zip_add(&z, "code/__torch__/kiln/generated.py", code, code_size);
  zip_add(&z, "code/__torch__/kiln/engine_module.py", module, (size_t)length);
  zip_add(&z, "constants.pkl", "\x80\x02).", 4);
  zip_add(&z, "version", "3\n", 2);
  zip_add(&z, "byteorder", "little", 6);
  snprintf(id, sizeof id, "%020u%010u%010u", z.records[0].crc, z.records[1].crc, z.records[2].crc);
  zip_add(&z, ".data/serialization_id", id, strlen(id));
  zip_finish(&z);
  free(pickle);
  return CLI_OK;
}

static int write_file(const char *path, const char *code, size_t code_size, const void *bytes, size_t size,
                      bool state) {
  const size_t length = strlen(path);
  char *temporary = malloc(length + sizeof ".tmp"), *root = stem_of(path);
  int result = CLI_FAILED;
  FILE *file = NULL;
  if (!temporary || !root) {
    cli_error(CLI_FAILED, "out of memory");
    goto done;
  }
  memcpy(temporary, path, length);
  memcpy(temporary + length, ".tmp", sizeof ".tmp");
  file = fopen(temporary, "wb");
  if (!file) {
    cli_error(CLI_FAILED, "cannot write '%s': %s", path, strerror(errno));
    goto done;
  }
  result = write_archive(file, root, code, code_size, bytes, size, state);
  const bool written = !ferror(file);
  if ((fclose(file) != 0 || !written) && result == CLI_OK)
    result = cli_error(CLI_FAILED, "cannot write '%s': %s", path, strerror(errno));
  if (result == CLI_OK && rename(temporary, path) != 0)
    result = cli_error(CLI_FAILED, "cannot write '%s': %s", path, strerror(errno));
  if (result != CLI_OK) unlink(temporary);
done:
  free(temporary);
  free(root);
  return result;
}

int script_file_write(const kiln_engine *engine, const char *path) {
  void *bytes = NULL;
  char *code = NULL;
  size_t size = 0, code_size = 0;
  if (kiln_engine_serialize(engine, &bytes, &size) != KILN_OK) return cli_fail();
  int result = CLI_FAILED;
  FILE *f = open_memstream(&code, &code_size);
  bool ok = f && code_write(f, engine);
  if (f) ok = fclose(f) == 0 && ok;
  if (size > (UINT32_C(1) << 31))
    result = cli_error(CLI_FAILED,
                       "an engine of %zu bytes is too large for a TorchScript file: save it with --save-engine", size);
  else if (!ok)
    result = cli_error(CLI_FAILED, "the engine's results have no TorchScript type: save it with --save-engine");
  else
    result = write_file(path, code, code_size, bytes, size, kiln_engine_state_count(engine) > 0);
  free(code);
  kiln_free(bytes);
  return result;
}
