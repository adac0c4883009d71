/* Dimensions: constants or symbolic expressions, both in one int64_t.
 *
 * A dim below DIM_EXPRESSION is a handle into a dim_table; any other value is the constant itself (negative ones too:
 * they are used for sizes in shape arithmetic). Expressions are kept as canonical polynomials over atoms (symbols, and
 * floordiv/mod/max/min and rounded products of other dims) and interned, so two dims of one table are equal exactly if the integers are. */
#ifndef KILN_GRAPH_DIM_H
#define KILN_GRAPH_DIM_H

#include "base/arena.h"
#include "base/text.h"

typedef int64_t dim;
#define DIM_EXPRESSION ((int64_t)INT64_MIN / 2) /* handles: INT64_MIN + 1 + index */
#define DIM_ERROR INT64_MIN /* out of memory, overflow, division by 0: the error record says which */
#define DIM_UNBOUNDED INT64_MAX

typedef struct dim_table dim_table;

kiln_status dim_table_create(arena *a, dim_table **out_table); /* lives as long as the arena */
/* A copy in which all handles of `from` mean the same. */
kiln_status dim_table_clone(const dim_table *from, arena *a, dim_table **out_table);

static inline bool dim_is_const(dim d) { return d >= DIM_EXPRESSION; }

/* The symbol of this name, made with range [min, max] if new. Values outside are refused when a context binds its
 * shapes. */
dim dim_symbol(dim_table *t, const char *name, int64_t min, int64_t max);
dim dim_find_symbol(const dim_table *t, const char *name); /* DIM_ERROR if there is none (no error is raised) */
int dim_symbol_count(const dim_table *t);
const char *dim_symbol_name(const dim_table *t, int index);
void dim_symbol_range(const dim_table *t, int index, int64_t *min, int64_t *max, int64_t *opt);
void dim_symbol_set_range(dim_table *t, int index, int64_t min, int64_t max, int64_t opt);
int dim_symbol_index(const dim_table *t, dim d); /* -1 if `d` is not a plain symbol */
/* A fresh symbol for a size that is only known when a node has run. */
dim dim_fresh(dim_table *t, const char *prefix, int64_t min, int64_t max);

/* Arithmetic; DIM_ERROR in gives DIM_ERROR out. floordiv and mod round as Python does. */
dim dim_add(dim_table *t, dim a, dim b);
dim dim_sub(dim_table *t, dim a, dim b);
dim dim_mul(dim_table *t, dim a, dim b);
dim dim_floordiv(dim_table *t, dim a, dim b);
dim dim_mod(dim_table *t, dim a, dim b);
dim dim_max(dim_table *t, dim a, dim b);
dim dim_min(dim_table *t, dim a, dim b);
/* (double)a * factor, rounded as Python's math.floor, math.ceil and round (half to even) do; 0 < factor < 2^40. Not a fraction: doubles round. */
typedef enum dim_rounding { DIM_FLOOR, DIM_CEIL, DIM_ROUND } dim_rounding;
dim dim_scale(dim_table *t, dim a, double factor, dim_rounding how);
dim dim_product(dim_table *t, const dim *dims, int count);

/* Interval of possible values, from the symbols' ranges (DIM_UNBOUNDED: no upper bound; -DIM_UNBOUNDED: no lower). */
void dim_range(const dim_table *t, dim d, int64_t *min, int64_t *max);
/* Is a == b for all, no, or some values of the symbols: 1, 0, -1. Likewise a <= b. */
int dim_compare_equal(dim_table *t, dim a, dim b);
int dim_compare_le(dim_table *t, dim a, dim b);
/* Value at `symbols[index]`. False on division by zero or overflow, or if it needs a symbol whose value is DIM_ERROR (not
 * known yet). */
bool dim_eval(const dim_table *t, dim d, const int64_t *symbols, int64_t *out);
/* Value at the symbols' opt values. */
int64_t dim_hint(const dim_table *t, dim d);
/* If d = coefficient * symbol + constant with one symbol: its index and the two numbers. Used to solve for a symbol. */
bool dim_as_affine(const dim_table *t, dim d, int *symbol, int64_t *coefficient, int64_t *constant);

/* Text such as `4*s0 + 1` or `(s0 + 1)//2`; the parser reads what the printer writes: + - * // % max(,) min(,)
 * scale_floor(,) scale_ceil(,) scale_round(,), the last three with the bits of a double. */
void dim_print(const dim_table *t, dim d, text *out);
/* Parses one expression at *cursor and moves it; unknown symbols are an error. */
kiln_status dim_parse(dim_table *t, const char **cursor, dim *out);

#endif
