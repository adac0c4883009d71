/* Pointwise chains on the CPU: a block of pointwise nodes becomes a small register program, and the program runs over
 * tiles of up to PW_TILE elements that stay in L1, one vector loop per instruction. Registers hold floats (f32, f16,
 * bf16, bool as 0/1) or int64 (integers, bool as 0/1). Loops come from isa/pointwise.c, once per instruction set. */
#ifndef KILN_BACKENDS_CPU_POINTWISE_H
#define KILN_BACKENDS_CPU_POINTWISE_H

#include "backends/backend.h"

enum { PW_TILE = 1024, PW_TILE_MIN = 256, PW_LANES = 16, PW_OP_MAX = 128, PW_OPERANDS_MAX = 32 };

typedef enum pw_kind { PW_FLOAT = 0, PW_INT } pw_kind;

/* n is a multiple of PW_LANES; out may be x, y or z. `p` has room for 4. */
typedef void (*pw_fn)(void *out, const void *x, const void *y, const void *z, int64_t n, const double *p);
typedef void (*pw_load_fn)(void *out, const void *from, int64_t stride,
                           int64_t n); /* any n; converts to the register kind */
typedef void (*pw_store_fn)(void *to, int64_t stride, const void *from, int64_t n);

typedef struct pw_table {
  pw_fn op[2][PW_OP_MAX]; /* by kind of the operands, in the order of ops/pointwise_rows.h; NULL: none */
  pw_fn copy[2], nonzero[2];
  pw_fn int_to_float;
  pw_fn float_to_int[KILN_DTYPE_COUNT]; /* by integer dtype of the result */
  pw_fn wrap[KILN_DTYPE_COUNT];         /* rounds or wraps a register to what the dtype can hold; NULL: nothing to do */
  pw_load_fn load[2][KILN_DTYPE_COUNT]; /* NULL: cannot */
  pw_store_fn store[2][KILN_DTYPE_COUNT];
} pw_table;
extern const pw_table pw_table_scalar, pw_table_avx2, pw_table_avx512;
const pw_table *pw_table_of(int isa);

typedef struct pw_operand {
  int32_t arg;        /* index in kernel_args.in, or -1: a constant of the block, or PW_TILE_ARG */
  const tensor *type; /* shape, strides and dtype as prepare saw them */
  tensor constant;
  pw_kind kind;
  const void *filled; /* constants of one element: a whole register, made in prepare */
  int32_t reg;
} pw_operand;
enum { PW_TILE_ARG = -2 };

typedef struct pw_instr {
  pw_fn fn;
  int32_t out, in[3];
  double p[4];
} pw_instr;

typedef struct pw_program {
  const pw_table *table;
  pw_operand *operands;
  pw_instr *instrs;
  size_t *offset; /* of each register in a thread's scratch */
  pw_kind *kinds;
  int32_t n_operands, n_instrs, n_regs;
  int32_t result;
  kiln_dtype result_dtype;
  int64_t tile;   /* elements */
  size_t scratch; /* bytes for one thread, a multiple of 64 */
} pw_program;

/* Could a program be made of this node (a pointwise operator, `cast`, or `pointwise` with its body) or of this
 * block? */
bool pw_node_fits(const node *n, const char **why);
bool pw_block_fits(const block *b, const char **why);
/* `first_arg`: parameter i of the block is in[first_arg + i]; parameter 0 is the tile itself if `first_is_tile`, and
 * then parameter i >= 1 is in[first_arg + i - 1]. */
kiln_status pw_compile_block(kernel_prep *p, const pw_table *table, const block *b, int first_arg, bool first_is_tile,
                             pw_program **out);
kiln_status pw_compile_node(kernel_prep *p, const pw_table *table, const node *n, pw_program **out);

/* Inference may have had to assume that symbolic sizes agree; memory is read by these, so they are checked again. */
kiln_status pw_check_broadcast(const node *n, int operand, const tensor *t, const tensor *out);

/* Runs the instructions over n elements (padded to PW_LANES by the caller); regs[i] are register pointers, all set. */
void pw_execute(const pw_program *g, void *const *regs, int64_t n);

static inline bool pw_is_native(pw_kind kind, kiln_dtype dtype) {
  return dtype == (kind == PW_FLOAT ? KILN_F32 : KILN_I64);
}
static inline size_t pw_element(pw_kind kind) { return kind == PW_FLOAT ? sizeof(float) : sizeof(int64_t); }

#endif
