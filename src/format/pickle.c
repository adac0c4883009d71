/* Pickle virtual machine. It runs opcodes on a stack of values and calls nothing. What the machine makes is linear in
 * the size of the file, but shared values can form cycles and trees of exponential size: a walk at the end refuses
 * both, so that callers may recurse freely. Opcodes: CPython's Lib/pickletools.py. */
#include "format/pickle.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#define DEFAULT_MAX_VALUES ((size_t)16 << 20)
#define DEFAULT_MAX_BYTES ((size_t)2 << 30)
enum { DEFAULT_MAX_DEPTH = 256, NEWEST_PROTOCOL = 5, LONGEST_SHOWN = 200 };

enum opcode {
  OP_MARK = '(',
  OP_STOP = '.',
  OP_POP = '0',
  OP_POP_MARK = '1',
  OP_DUP = '2',
  OP_BINBYTES = 'B',
  OP_SHORT_BINBYTES = 'C',
  OP_BINFLOAT = 'G',
  OP_BININT = 'J',
  OP_BININT1 = 'K',
  OP_BININT2 = 'M',
  OP_NONE = 'N',
  OP_BINPERSID = 'Q',
  OP_REDUCE = 'R',
  OP_BINSTRING = 'T',
  OP_SHORT_BINSTRING = 'U',
  OP_BINUNICODE = 'X',
  OP_EMPTY_LIST = ']',
  OP_APPEND = 'a',
  OP_BUILD = 'b',
  OP_GLOBAL = 'c',
  OP_DICT = 'd',
  OP_APPENDS = 'e',
  OP_BINGET = 'h',
  OP_LONG_BINGET = 'j',
  OP_LIST = 'l',
  OP_BINPUT = 'q',
  OP_LONG_BINPUT = 'r',
  OP_SETITEM = 's',
  OP_TUPLE = 't',
  OP_SETITEMS = 'u',
  OP_EMPTY_DICT = '}',
  OP_EMPTY_TUPLE = ')',
  OP_PROTO = 0x80,
  OP_NEWOBJ = 0x81,
  OP_TUPLE1 = 0x85,
  OP_TUPLE2 = 0x86,
  OP_TUPLE3 = 0x87,
  OP_NEWTRUE = 0x88,
  OP_NEWFALSE = 0x89,
  OP_LONG1 = 0x8a,
  OP_LONG4 = 0x8b,
  OP_SHORT_BINUNICODE = 0x8c,
  OP_BINUNICODE8 = 0x8d,
  OP_BINBYTES8 = 0x8e,
  OP_NEWOBJ_EX = 0x92,
  OP_STACK_GLOBAL = 0x93,
  OP_MEMOIZE = 0x94,
  OP_FRAME = 0x95
};

typedef struct machine {
  const uint8_t *bytes;
  size_t size, at, op_at; /* op_at: where the current opcode began */
  const char *origin;
  pickle_options limits; /* with defaults filled in */
  arena *arena;
  pickle_value **stack;
  size_t *marks; /* heights of the stack */
  pickle_value **memo;
  size_t height, stack_capacity, n_marks, marks_capacity, memo_capacity, memo_count;
  size_t values, used_bytes;
  pickle_value *shared_none, *shared_yes, *shared_no;
} machine;

#define PICKLE_FAIL(m, ...) error_is_set(fail_at((m), __LINE__, __VA_ARGS__))
static kiln_status fail_at(const machine *m, int line, const char *fmt, ...) KILN_PRINTF(3, 4);
static kiln_status fail_at(const machine *m, int line, const char *fmt, ...) {
  char why[512];
  va_list args;
  va_start(args, fmt);
  vsnprintf(why, sizeof why, fmt, args);
  va_end(args);
  return error_raise(KILN_INVALID_FILE, __FILE__, line, "%s: pickle, byte %zu: %s", m->origin, m->op_at, why);
}

const char *pickle_kind_name(pickle_kind kind) {
  static const char *const names[] = {"None",      "a bool",  "an int",         "a float", "a string",
                                      "bytes",     "a tuple", "a list",         "a dict",  "a global",
                                      "an object", "a call",  "a persistent id"};
  return (size_t)kind < KILN_COUNT(names) ? names[kind] : "unknown";
}

/* ---- Memory and stack -------------------------------------------------------------------------------------------- */

static kiln_status take_memory(machine *m, size_t size, void **out) {
  if (size > m->limits.max_bytes - m->used_bytes) {
    return PICKLE_FAIL(m, "needs more than the allowed %zu bytes of memory", m->limits.max_bytes);
  }
  m->used_bytes += size;
  *out = arena_alloc(m->arena, size);
  return *out != NULL ? KILN_OK : KILN_NO_MEMORY(m->origin);
}

static kiln_status new_value(machine *m, pickle_kind kind, pickle_value **out) {
  if (m->values >= m->limits.max_values)
    return PICKLE_FAIL(m, "more than the allowed %zu values", m->limits.max_values);
  m->values++;
  void *memory;
  KILN_TRY(take_memory(m, sizeof(pickle_value), &memory));
  *out = memory;
  (*out)->kind = kind;
  return KILN_OK;
}

/* Makes *array hold at least `wanted` elements of `each` bytes. */
static kiln_status grow(const machine *m, void **array, size_t *capacity, size_t wanted, size_t each) {
  if (wanted <= *capacity) return KILN_OK;
  size_t next = *capacity < 64 ? 64 : *capacity * 2, bytes;
  if (next < wanted) next = wanted;
  if (!size_mul(next, each, &bytes)) return KILN_NO_MEMORY(m->origin);
  void *bigger = mem_realloc(*array, *capacity * each, bytes);
  if (bigger == NULL) return KILN_NO_MEMORY(m->origin);
  memset((char *)bigger + *capacity * each, 0, bytes - *capacity * each);
  *array = bigger;
  *capacity = next;
  return KILN_OK;
}

static kiln_status push(machine *m, pickle_value *v) {
  KILN_TRY(grow(m, (void **)&m->stack, &m->stack_capacity, m->height + 1, sizeof *m->stack));
  m->stack[m->height++] = v;
  return KILN_OK;
}

static size_t lowest(const machine *m) { return m->n_marks > 0 ? m->marks[m->n_marks - 1] : 0; }

static kiln_status need(const machine *m, size_t count) {
  if (m->height - lowest(m) >= count) return KILN_OK;
  return PICKLE_FAIL(m, "the stack is empty; the file is damaged");
}

static kiln_status pop(machine *m, pickle_value **out) {
  KILN_TRY(need(m, 1));
  *out = m->stack[--m->height];
  return KILN_OK;
}

static kiln_status push_mark(machine *m) {
  KILN_TRY(grow(m, (void **)&m->marks, &m->marks_capacity, m->n_marks + 1, sizeof *m->marks));
  /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): not NULL once grow() has made room */
  m->marks[m->n_marks++] = m->height;
  return KILN_OK;
}

/* Takes all above the last mark off the stack; *out points at them, and is valid until the next push. */
static kiln_status pop_mark(machine *m, pickle_value ***out, size_t *count) {
  if (m->n_marks == 0) return PICKLE_FAIL(m, "no mark on the stack; the file is damaged");
  const size_t mark = m->marks[--m->n_marks];
  *count = m->height - mark;
  *out = m->stack + mark;
  m->height = mark;
  return KILN_OK;
}

/* ---- Reading operands -------------------------------------------------------------------------------------------- */

static kiln_status take(machine *m, size_t count, const uint8_t **out) {
  if (count > m->size - m->at) return PICKLE_FAIL(m, "cut short: %zu bytes expected, %zu left", count, m->size - m->at);
  *out = m->bytes + m->at;
  m->at += count;
  return KILN_OK;
}

/* Unsigned little-endian number of `width` bytes. */
static kiln_status take_number(machine *m, size_t width, uint64_t *out) {
  const uint8_t *p;
  KILN_TRY(take(m, width, &p));
  *out = 0;
  for (size_t i = 0; i < width; i++) *out |= (uint64_t)p[i] << (8 * i);
  return KILN_OK;
}

static kiln_status push_int(machine *m, int64_t number) {
  pickle_value *v;
  KILN_TRY(new_value(m, PICKLE_INT, &v));
  v->u.i = number;
  return push(m, v);
}

static kiln_status read_int(machine *m, size_t width) {
  uint64_t number;
  KILN_TRY(take_number(m, width, &number));
  return push_int(m, width == 4 ? (int64_t)(int32_t)(uint32_t)number : (int64_t)number);
}

static kiln_status read_long(machine *m, size_t width) {
  uint64_t length, number;
  KILN_TRY(take_number(m, width, &length));
  if (length > 8) return PICKLE_FAIL(m, "an integer of %zu bytes; only 64-bit integers are read", (size_t)length);
  KILN_TRY(take_number(m, (size_t)length, &number));
  if (length > 0 && length < 8 && (number >> (8 * length - 1)) != 0) number |= UINT64_MAX << (8 * length);
  return push_int(m, (int64_t)number);
}

static kiln_status read_float(machine *m) {
  const uint8_t *p;
  KILN_TRY(take(m, 8, &p));
  uint64_t bits = 0;
  for (int i = 0; i < 8; i++) bits = bits << 8 | p[i]; /* big-endian, unlike the others */
  pickle_value *v;
  KILN_TRY(new_value(m, PICKLE_FLOAT, &v));
  memcpy(&v->u.f, &bits, sizeof bits);
  return push(m, v);
}

/* Well-formed UTF-8 without NUL; surrogates pass, as pickle writes them. */
static bool valid_text(const uint8_t *p, size_t length) {
  for (size_t i = 0; i < length;) {
    const uint8_t c = p[i++];
    const int more = c < 0x80                ? 0
                     : c >= 0xc2 && c < 0xe0 ? 1
                     : c >= 0xe0 && c < 0xf0 ? 2
                     : c >= 0xf0 && c < 0xf5 ? 3
                                             : -1;
    if (c == 0 || more < 0 || (size_t)more > length - i) return false;
    for (int k = 0; k < more; k++) {
      if ((p[i++] & 0xc0) != 0x80) return false;
    }
  }
  return true;
}

static kiln_status copy_text(machine *m, const uint8_t *p, size_t length, const char **out) {
  void *copy;
  KILN_TRY(take_memory(m, length + 1, &copy));
  memcpy(copy, p, length);
  *out = copy;
  return KILN_OK;
}

static kiln_status read_text(machine *m, size_t width, pickle_kind kind) {
  uint64_t length;
  const uint8_t *p;
  KILN_TRY(take_number(m, width, &length));
  if (length > m->size) return PICKLE_FAIL(m, "cut short: a text of %llu bytes", (unsigned long long)length);
  KILN_TRY(take(m, (size_t)length, &p));
  if (kind == PICKLE_STRING && !valid_text(p, (size_t)length))
    return PICKLE_FAIL(m, "a string that is not UTF-8, or has a NUL");
  pickle_value *v;
  KILN_TRY(new_value(m, kind, &v));
  v->u.s.length = (size_t)length;
  KILN_TRY(copy_text(m, p, (size_t)length, &v->u.s.data));
  return push(m, v);
}

/* None, True and False are one value each. */
static kiln_status push_shared(machine *m, pickle_value **slot, pickle_kind kind, bool b) {
  if (*slot == NULL) {
    KILN_TRY(new_value(m, kind, slot));
    if (kind == PICKLE_BOOL) (*slot)->u.b = b;
  }
  return push(m, *slot);
}

/* ---- Collections ------------------------------------------------------------------------------------------------- */

static kiln_status append_items(machine *m, pickle_value *v, pickle_value *const *items, size_t count) {
  if (count == 0) return KILN_OK;
  const size_t length = v->pairs ? 2 * v->count : v->count;
  if (count > v->capacity - length) {
    size_t capacity = v->capacity == 0 ? count : v->capacity * 2;
    if (capacity < length + count) capacity = length + count;
    void *bigger;
    KILN_TRY(take_memory(m, capacity * sizeof *items, &bigger));
    if (length > 0) memcpy(bigger, v->items, length * sizeof *items);
    v->items = bigger;
    v->capacity = capacity;
  }
  memcpy(v->items + length, items, count * sizeof *items);
  v->count += v->pairs ? count / 2 : count;
  return KILN_OK;
}

static kiln_status make_collection(machine *m, pickle_kind kind, pickle_value *const *items, size_t count) {
  if (kind == PICKLE_DICT && count % 2 != 0) return PICKLE_FAIL(m, "a dict with a key but no value");
  pickle_value *v;
  KILN_TRY(new_value(m, kind, &v));
  v->pairs = kind == PICKLE_DICT;
  KILN_TRY(append_items(m, v, items, count));
  return push(m, v);
}

static kiln_status make_marked(machine *m, pickle_kind kind) {
  pickle_value **items;
  size_t count;
  KILN_TRY(pop_mark(m, &items, &count));
  return make_collection(m, kind, items, count);
}

static kiln_status make_tuple(machine *m, size_t count) {
  KILN_TRY(need(m, count));
  m->height -= count;
  return make_collection(m, PICKLE_TUPLE, m->stack + m->height, count);
}

/* Adds to the list, dict, object or call on top of the stack. */
static kiln_status extend_top(machine *m, pickle_value *const *items, size_t count, bool pairs) {
  KILN_TRY(need(m, 1));
  pickle_value *target = m->stack[m->height - 1];
  const bool call = target->kind == PICKLE_OBJECT || target->kind == PICKLE_REDUCE;
  if (target->kind != (pairs ? PICKLE_DICT : PICKLE_LIST) &&
      !(call && (target->count == 0 || target->pairs == pairs))) {
    return PICKLE_FAIL(m, "cannot %s %s", pairs ? "set items of" : "append to", pickle_kind_name(target->kind));
  }
  if (pairs && count % 2 != 0) return PICKLE_FAIL(m, "a key without a value");
  target->pairs = pairs;
  return append_items(m, target, items, count);
}

static kiln_status extend_marked(machine *m, bool pairs) {
  pickle_value **items;
  size_t count;
  KILN_TRY(pop_mark(m, &items, &count));
  return extend_top(m, items, count, pairs);
}

static kiln_status extend_by(machine *m, size_t count, bool pairs) {
  KILN_TRY(need(m, count + 1));
  m->height -= count;
  return extend_top(m, m->stack + m->height, count, pairs);
}

/* ---- Globals, calls, memo ---------------------------------------------------------------------------------------- */

static bool matches(const char *pattern, const char *text) {
  const char *star = strchr(pattern, '*');
  if (star == NULL) return strcmp(pattern, text) == 0;
  const size_t before = (size_t)(star - pattern), after = strlen(star + 1), length = strlen(text);
  return length >= before + after && memcmp(pattern, text, before) == 0 &&
         memcmp(star + 1, text + length - after, after) == 0;
}

static kiln_status push_global(machine *m, const char *module, const char *name) {
  bool allowed = false;
  for (size_t i = 0; i < m->limits.n_globals && !allowed; i++) {
    allowed = matches(m->limits.globals[i].module, module) && matches(m->limits.globals[i].name, name);
  }
  if (!allowed) {
    return PICKLE_FAIL(m, "global '%.*s.%.*s' is not on the list of those that a model file may use; refused",
                       LONGEST_SHOWN, module, LONGEST_SHOWN, name);
  }
  pickle_value *v;
  KILN_TRY(new_value(m, PICKLE_GLOBAL, &v));
  v->u.global.module = module;
  v->u.global.name = name;
  return push(m, v);
}

static kiln_status read_line(machine *m, const char **out) {
  const uint8_t *begin = m->bytes + m->at;
  const uint8_t *end = m->at < m->size ? memchr(begin, '\n', m->size - m->at) : NULL;
  if (end == NULL) return PICKLE_FAIL(m, "cut short inside the name of a global");
  const size_t length = (size_t)(end - begin);
  if (!valid_text(begin, length)) return PICKLE_FAIL(m, "the name of a global is not UTF-8");
  m->at += length + 1;
  return copy_text(m, begin, length, out);
}

static kiln_status read_global(machine *m) {
  const char *module, *name;
  KILN_TRY(read_line(m, &module));
  KILN_TRY(read_line(m, &name));
  return push_global(m, module, name);
}

static kiln_status stack_global(machine *m) {
  KILN_TRY(need(m, 2));
  const pickle_value *name = m->stack[--m->height], *module = m->stack[--m->height];
  if (name->kind != PICKLE_STRING || module->kind != PICKLE_STRING) {
    return PICKLE_FAIL(m, "a global named by %s and %s; expected two strings", pickle_kind_name(module->kind),
                       pickle_kind_name(name->kind));
  }
  return push_global(m, module->u.s.data, name->u.s.data);
}

static kiln_status make_call(machine *m, pickle_kind kind, bool with_kwargs) {
  pickle_value *kwargs = NULL, *args, *callable, *v;
  if (with_kwargs) KILN_TRY(pop(m, &kwargs));
  KILN_TRY(pop(m, &args));
  KILN_TRY(pop(m, &callable));
  if (callable->kind != PICKLE_GLOBAL)
    return PICKLE_FAIL(m, "calls %s; expected a global", pickle_kind_name(callable->kind));
  if (kind == PICKLE_REDUCE && args->kind != PICKLE_TUPLE && m->limits.lone_arguments) {
    KILN_TRY(push(m, args));
    KILN_TRY(make_tuple(m, 1));
    KILN_TRY(pop(m, &args));
  }
  if (args->kind != PICKLE_TUPLE || (kwargs != NULL && kwargs->kind != PICKLE_DICT)) {
    return PICKLE_FAIL(m, "calls '%.*s' with %s; expected a tuple of arguments", LONGEST_SHOWN, callable->u.global.name,
                       pickle_kind_name(args->kind));
  }
  KILN_TRY(new_value(m, kind, &v));
  v->u.call.callable = callable;
  v->u.call.args = args;
  v->u.call.kwargs = kwargs;
  return push(m, v);
}

static kiln_status persistent_id(machine *m) {
  pickle_value *id, *v;
  KILN_TRY(pop(m, &id));
  KILN_TRY(new_value(m, PICKLE_PERSID, &v));
  v->u.call.args = id;
  return push(m, v);
}

static kiln_status build_object(machine *m) {
  pickle_value *state;
  KILN_TRY(pop(m, &state));
  KILN_TRY(need(m, 1));
  pickle_value *target = m->stack[m->height - 1];
  if (target->kind != PICKLE_OBJECT && target->kind != PICKLE_REDUCE) {
    return PICKLE_FAIL(m, "sets the state of %s; expected an object", pickle_kind_name(target->kind));
  }
  if (target->u.call.state != NULL) return PICKLE_FAIL(m, "sets the state of an object twice");
  target->u.call.state = state;
  return KILN_OK;
}

/* Writers number the memo 0, 1, 2...; as each number takes at least one byte of the file, a larger one is hostile. */
static kiln_status memo_put(machine *m, uint64_t index) {
  KILN_TRY(need(m, 1));
  if (index >= m->size) return PICKLE_FAIL(m, "memo number %llu is out of range", (unsigned long long)index);
  KILN_TRY(grow(m, (void **)&m->memo, &m->memo_capacity, (size_t)index + 1, sizeof *m->memo));
  /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): not NULL once grow() has made room */
  if (m->memo[index] == NULL) m->memo_count++;
  m->memo[index] = m->stack[m->height - 1];
  return KILN_OK;
}

static kiln_status memo_put_read(machine *m, size_t width) {
  uint64_t index;
  KILN_TRY(take_number(m, width, &index));
  return memo_put(m, index);
}

static kiln_status memo_get(machine *m, size_t width) {
  uint64_t index;
  KILN_TRY(take_number(m, width, &index));
  if (index >= m->memo_capacity || m->memo[index] == NULL) {
    return PICKLE_FAIL(m, "memo number %llu was never stored", (unsigned long long)index);
  }
  return push(m, m->memo[index]);
}

/* ---- The loop ---------------------------------------------------------------------------------------------------- */

static kiln_status discard_marked(machine *m) {
  pickle_value **items;
  size_t count;
  return pop_mark(m, &items, &count);
}

static kiln_status duplicate_top(machine *m) {
  KILN_TRY(need(m, 1));
  return push(m, m->stack[m->height - 1]);
}

static kiln_status read_protocol(machine *m) {
  uint64_t protocol;
  KILN_TRY(take_number(m, 1, &protocol));
  if (protocol <= NEWEST_PROTOCOL) return KILN_OK;
  return PICKLE_FAIL(m, "protocol %d; those up to %d are read", (int)protocol, NEWEST_PROTOCOL);
}

static kiln_status discard_top(machine *m) {
  pickle_value *ignored;
  return pop(m, &ignored);
}

static kiln_status run_opcode(machine *m, uint8_t op) {
  uint64_t ignored;
  switch (op) {
    case OP_PROTO:
      return read_protocol(m);
    case OP_FRAME:
      return take_number(m, 8, &ignored); /* a hint for streams */
    case OP_MARK:
      return push_mark(m);
    case OP_POP:
      return discard_top(m);
    case OP_POP_MARK:
      return discard_marked(m);
    case OP_DUP:
      return duplicate_top(m);
    case OP_NONE:
      return push_shared(m, &m->shared_none, PICKLE_NONE, false);
    case OP_NEWTRUE:
      return push_shared(m, &m->shared_yes, PICKLE_BOOL, true);
    case OP_NEWFALSE:
      return push_shared(m, &m->shared_no, PICKLE_BOOL, false);
    case OP_BININT:
      return read_int(m, 4);
    case OP_BININT1:
      return read_int(m, 1);
    case OP_BININT2:
      return read_int(m, 2);
    case OP_LONG1:
      return read_long(m, 1);
    case OP_LONG4:
      return read_long(m, 4);
    case OP_BINFLOAT:
      return read_float(m);
    case OP_SHORT_BINUNICODE:
      return read_text(m, 1, PICKLE_STRING);
    case OP_BINUNICODE:
      return read_text(m, 4, PICKLE_STRING);
    case OP_BINUNICODE8:
      return read_text(m, 8, PICKLE_STRING);
    case OP_SHORT_BINSTRING:
      return read_text(m, 1, PICKLE_STRING);
    case OP_BINSTRING:
      return read_text(m, 4, PICKLE_STRING);
    case OP_SHORT_BINBYTES:
      return read_text(m, 1, PICKLE_BYTES);
    case OP_BINBYTES:
      return read_text(m, 4, PICKLE_BYTES);
    case OP_BINBYTES8:
      return read_text(m, 8, PICKLE_BYTES);
    case OP_EMPTY_TUPLE:
      return make_tuple(m, 0);
    case OP_TUPLE1:
      return make_tuple(m, 1);
    case OP_TUPLE2:
      return make_tuple(m, 2);
    case OP_TUPLE3:
      return make_tuple(m, 3);
    case OP_TUPLE:
      return make_marked(m, PICKLE_TUPLE);
    case OP_EMPTY_LIST:
      return make_collection(m, PICKLE_LIST, NULL, 0);
    case OP_LIST:
      return make_marked(m, PICKLE_LIST);
    case OP_APPEND:
      return extend_by(m, 1, false);
    case OP_APPENDS:
      return extend_marked(m, false);
    case OP_EMPTY_DICT:
      return make_collection(m, PICKLE_DICT, NULL, 0);
    case OP_DICT:
      return make_marked(m, PICKLE_DICT);
    case OP_SETITEM:
      return extend_by(m, 2, true);
    case OP_SETITEMS:
      return extend_marked(m, true);
    case OP_GLOBAL:
      return read_global(m);
    case OP_STACK_GLOBAL:
      return stack_global(m);
    case OP_REDUCE:
      return make_call(m, PICKLE_REDUCE, false);
    case OP_NEWOBJ:
      return make_call(m, PICKLE_OBJECT, false);
    case OP_NEWOBJ_EX:
      return make_call(m, PICKLE_OBJECT, true);
    case OP_BUILD:
      return build_object(m);
    case OP_BINPERSID:
      return persistent_id(m);
    case OP_BINPUT:
      return memo_put_read(m, 1);
    case OP_LONG_BINPUT:
      return memo_put_read(m, 4);
    case OP_MEMOIZE:
      return memo_put(m, m->memo_count);
    case OP_BINGET:
      return memo_get(m, 1);
    case OP_LONG_BINGET:
      return memo_get(m, 4);
    default:
      return PICKLE_FAIL(m, "opcode 0x%02x is not one that PyTorch writes", op);
  }
}

static kiln_status run(machine *m, pickle_value **out) {
  KILN_TRY(grow(m, (void **)&m->stack, &m->stack_capacity, 1, sizeof *m->stack)); /* so that the stack is never NULL */
  for (;;) {
    const uint8_t *op;
    m->op_at = m->at;
    KILN_TRY(take(m, 1, &op));
    if (*op == OP_STOP) break;
    KILN_TRY(run_opcode(m, *op));
  }
  if (m->n_marks != 0 || m->height != 1) {
    return PICKLE_FAIL(m, "ends with %zu values and %zu marks on the stack; expected one value", m->height, m->n_marks);
  }
  if (m->at != m->size) return PICKLE_FAIL(m, "%zu bytes follow the end", m->size - m->at);
  *out = m->stack[0];
  return KILN_OK;
}

/* ---- The walk that refuses cycles and exponential trees ---------------------------------------------------------- */

typedef struct visit {
  pickle_value *v;
  size_t next; /* child to look at */
} visit;

enum { CALL_CHILDREN = 4 };

static bool is_call(const pickle_value *v) {
  return v->kind == PICKLE_OBJECT || v->kind == PICKLE_REDUCE || v->kind == PICKLE_PERSID;
}

static size_t child_count(const pickle_value *v) {
  return (v->pairs ? 2 * v->count : v->count) + (is_call(v) ? CALL_CHILDREN : 0);
}

static pickle_value *child_at(const pickle_value *v, size_t i) { /* may be NULL */
  if (!is_call(v)) return v->items[i];
  switch (i) {
    case 0:
      return v->u.call.callable;
    case 1:
      return v->u.call.args;
    case 2:
      return v->u.call.kwargs;
    case 3:
      return v->u.call.state;
    default:
      return v->items[i - CALL_CHILDREN];
  }
}

/* Depth-first over the graph of values. While a value's children are visited its walk is 0 and its depth 1 or more;
 * finished values have walk > 0; so meeting depth > 0 with walk == 0 is a cycle. */
static kiln_status check_tree(machine *m, pickle_value *root, visit *path) {
  const size_t largest = m->limits.max_values > SIZE_MAX / 16 ? SIZE_MAX : m->limits.max_values * 16;
  size_t height = 0;
  path[height++] = (visit){root, 0};
  root->depth = 1;
  size_t tree = 1;
  while (height > 0) {
    visit *top = &path[height - 1];
    pickle_value *v = top->v;
    if (top->next < child_count(v)) {
      pickle_value *child = child_at(v, top->next++);
      if (child == NULL || child->walk > 0) continue;
      if (child->depth > 0) return PICKLE_FAIL(m, "%s contains itself", pickle_kind_name(child->kind));
      if (height >= m->limits.max_depth) return PICKLE_FAIL(m, "nested deeper than %u", (unsigned)m->limits.max_depth);
      child->depth = 1;
      path[height++] = (visit){child, 0};
      continue;
    }
    tree = 1;
    for (size_t i = 0; i < child_count(v); i++) {
      const pickle_value *child = child_at(v, i);
      if (child == NULL) continue;
      tree += child->walk;
      if (tree > largest) return PICKLE_FAIL(m, "shared values unfold to more than %zu; refused as a bomb", largest);
      if (child->depth + 1 > v->depth) v->depth = child->depth + 1;
    }
    if (v->depth > m->limits.max_depth) return PICKLE_FAIL(m, "nested deeper than %u", (unsigned)m->limits.max_depth);
    v->walk = tree;
    height--;
  }
  return KILN_OK;
}

static kiln_status run_and_check(machine *m, const pickle_value **out_value) {
  pickle_value *root;
  KILN_TRY(run(m, &root));
  visit *path = mem_calloc(m->limits.max_depth, sizeof *path);
  if (path == NULL) return KILN_NO_MEMORY(m->origin);
  const kiln_status status = check_tree(m, root, path);
  mem_free(path);
  if (status == KILN_OK) *out_value = root;
  return status;
}

kiln_status pickle_parse(const void *bytes, size_t size, const char *origin, const pickle_options *options, arena *a,
                         const pickle_value **out_value) {
  machine m = {.bytes = bytes, .size = size, .origin = origin, .arena = a};
  if (options != NULL) m.limits = *options;
  if (m.limits.max_values == 0) m.limits.max_values = DEFAULT_MAX_VALUES;
  if (m.limits.max_bytes == 0) m.limits.max_bytes = DEFAULT_MAX_BYTES;
  if (m.limits.max_depth == 0) m.limits.max_depth = DEFAULT_MAX_DEPTH;
  const kiln_status status = run_and_check(&m, out_value);
  mem_free(m.stack);
  mem_free(m.marks);
  mem_free(m.memo);
  return status;
}

const pickle_value *pickle_get(const pickle_value *v, const char *key) {
  if (v == NULL || !v->pairs) return NULL;
  for (size_t i = v->count; i-- > 0;) { /* backwards: of two equal keys the later one counts */
    const pickle_value *k = v->items[2 * i];
    if (k->kind == PICKLE_STRING && strcmp(k->u.s.data, key) == 0) return v->items[2 * i + 1];
  }
  return NULL;
}

bool pickle_is_global(const pickle_value *v, const char *module, const char *name) {
  return v != NULL && v->kind == PICKLE_GLOBAL && strcmp(v->u.global.module, module) == 0 &&
         strcmp(v->u.global.name, name) == 0;
}
