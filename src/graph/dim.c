/* Symbolic dimensions: interned canonical polynomials.
 *
 * An expression is a sum of terms, a term a coefficient times a product of atoms, an atom a symbol or one of floordiv,
 * mod, max, min of two dims or the rounded product of a dim and a double. Atoms and expressions are interned, terms stand in graded lexicographic order, and
 * atoms are ordered by structure (not by age), so equal integers of one table are equal expressions and a printed
 * expression reads back as itself. Two kinds of simplification: identities of integers, which always apply, and those
 * that need the symbols' ranges, which dim_parse leaves out (a text must read back as it was written even if ranges
 * have been narrowed since). Terms, degree, depth and tree size are limited; beyond a limit an operation fails with a
 * text. */
#include "graph/dim.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/map.h"
#include "base/memory.h"

#define MAX_TERMS 48
#define MAX_DEGREE 12
#define MAX_DEPTH 48
#define MAX_TREE 2048
#define MAX_ENTRIES (1 << 22)

typedef struct term {
  int64_t c;
  int32_t n;
  int32_t atoms[MAX_DEGREE]; /* sorted; an atom stands once for each power */
} term;

typedef struct poly {
  int32_t n;
  term terms[MAX_TERMS]; /* highest first; the constant, if any, is last */
} poly;

typedef enum atom_kind {
  ATOM_SYMBOL,
  ATOM_FLOORDIV,
  ATOM_MOD,
  ATOM_MAX,
  ATOM_MIN,
  ATOM_SCALE_FLOOR, /* of a times the double whose bits are b, in the order of dim_rounding */
  ATOM_SCALE_CEIL,
  ATOM_SCALE_ROUND
} atom_kind;

typedef struct atom {
  atom_kind kind;
  int32_t symbol;      /* index of a symbol */
  int32_t depth, tree; /* nesting, and nodes when written out */
  dim a, b;
  const char *name;
  int64_t min, max, opt;
} atom;

typedef struct entry {
  const term *terms;
  int32_t n, depth, tree;
} entry;

typedef struct hash_index { /* number of an item by hash; chains */
  int32_t *heads, *next;
  uint64_t *hash;
  int32_t count, capacity;
} hash_index;

struct dim_table {
  arena *arena;
  atom *atoms;
  entry *entries;
  int32_t *symbols; /* symbol -> atom */
  int32_t n_symbols, atom_capacity, entry_capacity, symbol_capacity;
  hash_index atom_index, entry_index;
  uint32_t fresh;
  bool raw; /* no simplification that needs ranges */
};

/* ---- failures, growing arrays, hash index ------------------------------------------------------------------------ */

typedef enum trouble { FINE = 0, NO_MEMORY, OVERFLOWS, TOO_LARGE, BY_ZERO } trouble;

static dim dim_trouble(trouble why) {
  switch (why) {
    case NO_MEMORY:
      (void)KILN_NO_MEMORY("symbolic dimensions");
      break;
    case OVERFLOWS:
      (void)KILN_FAIL(KILN_INVALID_ARGUMENT, "a dimension does not fit in 62 bits");
      break;
    case BY_ZERO:
      (void)KILN_FAIL(KILN_INVALID_ARGUMENT, "a dimension is divided by zero");
      break;
    default:
      (void)KILN_FAIL(
          KILN_UNSUPPORTED,
          "a symbolic dimension is too complicated (more than %d terms, %d factors, or %d nested divisions)", MAX_TERMS,
          MAX_DEGREE, MAX_DEPTH);
  }
  return DIM_ERROR;
}

static void *grow_array(arena *a, void *old, int32_t count, int32_t *capacity, size_t size) {
  if (count < *capacity) return old;
  const int32_t wanted = *capacity ? *capacity * 2 : 32;
  void *grown = arena_array(a, (size_t)wanted, size);
  if (!grown) return NULL;
  if (count) memcpy(grown, old, (size_t)count * size);
  *capacity = wanted;
  return grown;
}

static bool index_grow(arena *a, hash_index *ix) {
  const int32_t capacity = ix->capacity ? ix->capacity * 2 : 64;
  int32_t *heads = ARENA_ARRAY(a, int32_t, capacity), *next = ARENA_ARRAY(a, int32_t, capacity);
  uint64_t *hash = ARENA_ARRAY(a, uint64_t, capacity);
  if (!heads || !next || !hash) return false;
  memset(heads, 0xff, (size_t)capacity * sizeof *heads);
  for (int32_t i = 0; i < ix->count; i++) {
    const size_t slot = ix->hash[i] & (uint64_t)(capacity - 1);
    hash[i] = ix->hash[i];
    next[i] = heads[slot];
    heads[slot] = i;
  }
  *ix = (hash_index){heads, next, hash, ix->count, capacity};
  return true;
}

static int32_t index_first(const hash_index *ix, uint64_t h) {
  return ix->capacity ? ix->heads[h & (uint64_t)(ix->capacity - 1)] : -1;
}

static bool index_add(arena *a, hash_index *ix, uint64_t h) {
  if (ix->count == ix->capacity && !index_grow(a, ix)) return false;
  const size_t slot = h & (uint64_t)(ix->capacity - 1);
  ix->hash[ix->count] = h;
  ix->next[ix->count] = ix->heads[slot];
  ix->heads[slot] = ix->count++;
  return true;
}

kiln_status dim_table_create(arena *a, dim_table **out_table) {
  dim_table *t = ARENA_NEW(a, dim_table);
  if (!t) return KILN_NO_MEMORY("symbolic dimensions");
  t->arena = a;
  *out_table = t;
  return KILN_OK;
}

kiln_status dim_table_clone(const dim_table *from, arena *a, dim_table **out_table) {
  dim_table *t = arena_copy(a, from, sizeof *from);
  if (!t) return KILN_NO_MEMORY("symbolic dimensions");
  const int32_t atoms = from->atom_index.count, entries = from->entry_index.count;
  t->arena = a;
  t->atom_index = t->entry_index = (hash_index){0};
  t->atoms = ARENA_ARRAY(a, atom, from->atom_capacity);
  t->entries = ARENA_ARRAY(a, entry, from->entry_capacity);
  t->symbols = ARENA_ARRAY(a, int32_t, from->symbol_capacity);
  if (!t->atoms || !t->entries || !t->symbols) return KILN_NO_MEMORY("symbolic dimensions");
  for (int32_t i = 0; i < atoms; i++) {
    t->atoms[i] = from->atoms[i];
    if (from->atoms[i].name && !(t->atoms[i].name = arena_strdup(a, from->atoms[i].name)))
      return KILN_NO_MEMORY("symbolic dimensions");
    if (!index_add(a, &t->atom_index, from->atom_index.hash[i])) return KILN_NO_MEMORY("symbolic dimensions");
  }
  for (int32_t i = 0; i < entries; i++) {
    t->entries[i] = from->entries[i];
    t->entries[i].terms = arena_copy(a, from->entries[i].terms, (size_t)from->entries[i].n * sizeof(term));
    if (!t->entries[i].terms || !index_add(a, &t->entry_index, from->entry_index.hash[i]))
      return KILN_NO_MEMORY("symbolic dimensions");
  }
  if (from->n_symbols) memcpy(t->symbols, from->symbols, (size_t)from->n_symbols * sizeof *t->symbols);
  *out_table = t;
  return KILN_OK;
}

static const entry *dim_entry(const dim_table *t, dim d) {
  if (d == DIM_ERROR || dim_is_const(d)) return NULL;
  const int64_t i = d - (INT64_MIN + 1);
  return i < t->entry_index.count ? &t->entries[i] : NULL;
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

static int compare_int(int64_t a, int64_t b) { return (a > b) - (a < b); }
static int atom_compare(const dim_table *t, int32_t a, int32_t b);

/* Higher degree first, then the product with more of the first atom. */
static int monomial_compare(const dim_table *t, const term *a, const term *b) {
  if (a->n != b->n) return compare_int(b->n, a->n);
  for (int32_t i = 0; i < a->n; i++) {
    if (a->atoms[i] != b->atoms[i]) return atom_compare(t, a->atoms[i], b->atoms[i]);
  }
  return 0;
}

/* Interned, so two different ones differ somewhere; recursion follows the first difference only. */
static int dim_order(const dim_table *t, dim a, dim b) {
  if (a == b) return 0;
  if (dim_is_const(a) || dim_is_const(b))
    return dim_is_const(a) && dim_is_const(b) ? compare_int(a, b) : dim_is_const(a) ? 1 : -1;
  const entry *x = dim_entry(t, a), *y = dim_entry(t, b);
  for (int32_t i = 0; x && y && i < x->n && i < y->n; i++) {
    const int c = monomial_compare(t, &x->terms[i], &y->terms[i]);
    if (c) return c;
    if (x->terms[i].c != y->terms[i].c) return compare_int(x->terms[i].c, y->terms[i].c);
  }
  return x && y ? compare_int(x->n, y->n) : 0;
}

static int atom_compare(const dim_table *t, int32_t a, int32_t b) {
  if (a == b) return 0;
  const atom *x = &t->atoms[a], *y = &t->atoms[b];
  if (x->kind != y->kind) return compare_int(x->kind, y->kind);
  if (x->kind == ATOM_SYMBOL) return compare_int(x->symbol, y->symbol);
  const int c = dim_order(t, x->a, y->a);
  return c ? c : dim_order(t, x->b, y->b);
}

/* ---- polynomials ------------------------------------------------------------------------------------------------- */

static poly *poly_constant(poly *p, int64_t c) {
  p->n = c != 0;
  p->terms[0].c = c;
  p->terms[0].n = 0;
  return p;
}

static bool poly_load(const dim_table *t, dim d, poly *out) {
  if (dim_is_const(d)) return poly_constant(out, d) != NULL;
  const entry *e = dim_entry(t, d);
  if (!e) return false;
  out->n = e->n;
  memcpy(out->terms, e->terms, (size_t)e->n * sizeof(term));
  return true;
}

static int64_t poly_constant_term(const poly *p) {
  return p->n && p->terms[p->n - 1].n == 0 ? p->terms[p->n - 1].c : 0;
}

/* p += scale * m. */
static trouble poly_add_term(const dim_table *t, poly *p, const term *m, int64_t scale) {
  int64_t c;
  if (__builtin_mul_overflow(m->c, scale, &c)) return OVERFLOWS;
  if (!c) return FINE;
  int32_t low = 0, high = p->n;
  while (low < high) {
    const int32_t mid = (low + high) / 2;
    const int order = monomial_compare(t, &p->terms[mid], m);
    if (order == 0) {
      if (__builtin_add_overflow(p->terms[mid].c, c, &p->terms[mid].c)) return OVERFLOWS;
      if (p->terms[mid].c == 0) {
        p->n--;
        memmove(&p->terms[mid], &p->terms[mid + 1], (size_t)(p->n - mid) * sizeof(term));
      }
      return FINE;
    }
    if (order < 0) {
      low = mid + 1;
    } else {
      high = mid;
    }
  }
  if (p->n == MAX_TERMS) return TOO_LARGE;
  memmove(&p->terms[low + 1], &p->terms[low], (size_t)(p->n - low) * sizeof(term));
  p->terms[low] = *m;
  p->terms[low].c = c;
  p->n++;
  return FINE;
}

static trouble poly_add(const dim_table *t, poly *p, const poly *q, int64_t scale) {
  trouble why = FINE;
  for (int32_t i = 0; i < q->n && !why; i++) why = poly_add_term(t, p, &q->terms[i], scale);
  return why;
}

static trouble term_mul(const dim_table *t, const term *a, const term *b, term *out) {
  if (__builtin_mul_overflow(a->c, b->c, &out->c)) return OVERFLOWS;
  if (a->n + b->n > MAX_DEGREE) return TOO_LARGE;
  int32_t i = 0, k = 0;
  for (out->n = 0; i < a->n || k < b->n; out->n++) {
    const bool first = k == b->n || (i < a->n && atom_compare(t, a->atoms[i], b->atoms[k]) <= 0);
    out->atoms[out->n] = first ? a->atoms[i++] : b->atoms[k++];
  }
  return FINE;
}

/* p += m * q */
static trouble poly_add_product(const dim_table *t, poly *p, const term *m, const poly *q, int64_t scale) {
  trouble why = FINE;
  term product;
  for (int32_t i = 0; i < q->n && !why; i++) {
    why = term_mul(t, m, &q->terms[i], &product);
    if (!why) why = poly_add_term(t, p, &product, scale);
  }
  return why;
}

static trouble poly_mul(const dim_table *t, const poly *a, const poly *b, poly *out) {
  trouble why = FINE;
  out->n = 0;
  for (int32_t i = 0; i < a->n && !why; i++) why = poly_add_product(t, out, &a->terms[i], b, 1);
  return why;
}

/* out = a / b as monomials; false if b does not divide a. */
static bool term_divide(const term *a, const term *b, term *out) {
  if (a->c == INT64_MIN || b->c == INT64_MIN || a->c % b->c) return false;
  out->c = a->c / b->c;
  out->n = 0;
  int32_t k = 0;
  for (int32_t i = 0; i < a->n; i++) {
    if (k < b->n && a->atoms[i] == b->atoms[k]) {
      k++;
    } else {
      out->atoms[out->n++] = a->atoms[i];
    }
  }
  return k == b->n;
}

/* a = q * b + r by long division with b's leading term, as far as coefficients divide. */
static trouble poly_divide(const dim_table *t, const poly *a, const poly *b, poly *q, poly *r) {
  poly rest = *a;
  q->n = r->n = 0;
  for (int step = 0; rest.n > 0; step++) {
    term m;
    const term lead = rest.terms[0];
    trouble why;
    if (step < 256 && term_divide(&lead, &b->terms[0], &m)) {
      why = poly_add_term(t, q, &m, 1);
      if (!why) why = poly_add_product(t, &rest, &m, b, -1);
    } else {
      why = poly_add_term(t, r, &lead, 1);
      rest.n--;
      memmove(&rest.terms[0], &rest.terms[1], (size_t)rest.n * sizeof(term));
    }
    if (why) return why;
  }
  return FINE;
}

static int64_t gcd(int64_t a, int64_t b) { /* of absolute values; INT64_MIN gives 1 */
  if (a == INT64_MIN || b == INT64_MIN) return 1;
  if (a < 0) a = -a;
  if (b < 0) b = -b;
  while (b) {
    const int64_t r = a % b;
    a = b;
    b = r;
  }
  return a;
}

static int64_t poly_content(const poly *p, int64_t g, bool with_constant) {
  for (int32_t i = 0; i < p->n; i++) {
    if (p->terms[i].n || with_constant) g = gcd(g, p->terms[i].c);
  }
  return g;
}

static int64_t floor_div(int64_t a, int64_t b) { /* b > 0 */
  return a / b - (a % b < 0);
}

/* p = floor(p / g): exact for all but the constant term. */
static void poly_shrink(poly *p, int64_t g) {
  for (int32_t i = 0; i < p->n; i++) p->terms[i].c = floor_div(p->terms[i].c, g);
  if (p->n && p->terms[p->n - 1].c == 0) p->n--;
}

/* ---- ranges ------------------------------------------------------------------------------------------------------ */

#define INF DIM_UNBOUNDED

static bool is_inf(int64_t x) { return x >= INF || x <= -INF; }
static int64_t saturate(bool overflow, bool negative, int64_t x) {
  if (overflow) return negative ? -INF : INF;
  return x < -INF ? -INF : x;
}
static int64_t inf_mul(int64_t a, int64_t b) {
  if (a == 0 || b == 0) return 0;
  int64_t r = 0;
  const bool over = is_inf(a) || is_inf(b) || __builtin_mul_overflow(a, b, &r);
  return saturate(over, (a < 0) != (b < 0), r);
}
/* `down`: which way an unknown (inf - inf) goes. */
static int64_t inf_add(int64_t a, int64_t b, bool down) {
  if (is_inf(a) || is_inf(b)) {
    if (is_inf(a) && is_inf(b) && (a < 0) != (b < 0)) return down ? -INF : INF;
    return is_inf(a) ? a : b;
  }
  int64_t r = 0;
  const bool over = __builtin_add_overflow(a, b, &r);
  return saturate(over, a < 0, r);
}
static int64_t inf_floordiv(int64_t a, int64_t b) { /* b >= 1 */
  if (is_inf(a)) return a;
  if (is_inf(b)) return a < 0 ? -1 : 0;
  return floor_div(a, b);
}
static int64_t min4(int64_t a, int64_t b, int64_t c, int64_t d) {
  const int64_t x = a < b ? a : b, y = c < d ? c : d;
  return x < y ? x : y;
}
static int64_t max4(int64_t a, int64_t b, int64_t c, int64_t d) {
  const int64_t x = a > b ? a : b, y = c > d ? c : d;
  return x > y ? x : y;
}

typedef struct interval {
  int64_t min, max;
} interval;

static interval terms_range(const dim_table *t, const term *terms, int32_t n);

static interval dim_interval(const dim_table *t, dim d) {
  if (d == DIM_ERROR) return (interval){-INF, INF};
  if (dim_is_const(d)) return (interval){d, d};
  const entry *e = dim_entry(t, d);
  return e ? terms_range(t, e->terms, e->n) : (interval){-INF, INF};
}

/* The rounded product that is atom `kind`. False: too large. */
static bool scale_eval(atom_kind kind, int64_t a, int64_t bits, int64_t *out) {
  double factor, f;
  memcpy(&factor, &bits, sizeof factor);
  f = (double)a * factor;
  f = kind == ATOM_SCALE_FLOOR ? floor(f) : kind == ATOM_SCALE_CEIL ? ceil(f) : nearbyint(f);
  if (!(fabs(f) < 0x1p61)) return false;
  *out = (int64_t)f;
  return true;
}

static bool is_scale(atom_kind kind) { return kind >= ATOM_SCALE_FLOOR; }

/* Factors are positive, so that the order stays. */
static interval scale_range(const atom *x, interval a) {
  interval r = {-INF, INF};
  if (!is_inf(a.min) && !scale_eval(x->kind, a.min, x->b, &r.min)) r.min = -INF;
  if (!is_inf(a.max) && !scale_eval(x->kind, a.max, x->b, &r.max)) r.max = INF;
  return r;
}

static interval atom_range(const dim_table *t, int32_t index) {
  const atom *x = &t->atoms[index];
  if (x->kind == ATOM_SYMBOL) return (interval){x->min, x->max};
  const interval a = dim_interval(t, x->a), b = dim_interval(t, x->b);
  if (is_scale(x->kind)) return scale_range(x, a);
  switch (x->kind) {
    case ATOM_MAX:
      return (interval){a.min > b.min ? a.min : b.min, a.max > b.max ? a.max : b.max};
    case ATOM_MIN:
      return (interval){a.min < b.min ? a.min : b.min, a.max < b.max ? a.max : b.max};
    case ATOM_FLOORDIV:
      if (b.min < 1) break;
      return (interval){min4(inf_floordiv(a.min, b.min), inf_floordiv(a.min, b.max), inf_floordiv(a.max, b.min),
                             inf_floordiv(a.max, b.max)),
                        max4(inf_floordiv(a.min, b.min), inf_floordiv(a.min, b.max), inf_floordiv(a.max, b.min),
                             inf_floordiv(a.max, b.max))};
    case ATOM_MOD: {
      if (b.min < 1) break;
      const int64_t top = is_inf(b.max) ? INF : b.max - 1;
      return (interval){0, a.min >= 0 && a.max < top ? a.max : top};
    }
    default:
      break;
  }
  return (interval){-INF, INF};
}

static interval terms_range(const dim_table *t, const term *terms, int32_t n) {
  interval sum = {0, 0};
  for (int32_t i = 0; i < n; i++) {
    interval p = {terms[i].c, terms[i].c};
    for (int32_t k = 0; k < terms[i].n; k++) {
      const interval x = atom_range(t, terms[i].atoms[k]);
      const int64_t a = inf_mul(p.min, x.min), b = inf_mul(p.min, x.max), c = inf_mul(p.max, x.min),
                    d = inf_mul(p.max, x.max);
      p = (interval){min4(a, b, c, d), max4(a, b, c, d)};
    }
    sum = (interval){inf_add(sum.min, p.min, true), inf_add(sum.max, p.max, false)};
  }
  return sum;
}

void dim_range(const dim_table *t, dim d, int64_t *min, int64_t *max) {
  const interval r = dim_interval(t, d);
  *min = r.min;
  *max = r.max;
}

/* ---- interning --------------------------------------------------------------------------------------------------- */

static uint64_t terms_hash(const term *terms, int32_t n) {
  uint64_t h = (uint64_t)n;
  for (int32_t i = 0; i < n; i++) {
    h = hash_bytes(&terms[i].c, sizeof terms[i].c, h);
    h = hash_bytes(terms[i].atoms, (size_t)terms[i].n * sizeof terms[i].atoms[0], h + (uint64_t)terms[i].n);
  }
  return h;
}

static bool terms_equal(const term *a, const term *b, int32_t n) {
  for (int32_t i = 0; i < n; i++) {
    if (a[i].c != b[i].c || a[i].n != b[i].n ||
        memcmp(a[i].atoms, b[i].atoms, (size_t)a[i].n * sizeof a[i].atoms[0]) != 0)
      return false;
  }
  return true;
}

static trouble poly_intern(dim_table *t, const poly *p, dim *out) {
  if (p->n == 0 || (p->n == 1 && p->terms[0].n == 0)) {
    *out = poly_constant_term(p);
    return dim_is_const(*out) ? FINE : OVERFLOWS;
  }
  const uint64_t h = terms_hash(p->terms, p->n);
  for (int32_t i = index_first(&t->entry_index, h); i >= 0; i = t->entry_index.next[i]) {
    if (t->entry_index.hash[i] == h && t->entries[i].n == p->n && terms_equal(t->entries[i].terms, p->terms, p->n)) {
      *out = INT64_MIN + 1 + i;
      return FINE;
    }
  }
  entry e = {NULL, p->n, 0, 0};
  for (int32_t i = 0; i < p->n; i++) {
    e.tree++;
    for (int32_t k = 0; k < p->terms[i].n; k++) {
      const atom *x = &t->atoms[p->terms[i].atoms[k]];
      if (x->depth > e.depth) e.depth = x->depth;
      e.tree += x->tree;
    }
  }
  const int32_t count = t->entry_index.count;
  if (e.tree > MAX_TREE || count >= MAX_ENTRIES) return TOO_LARGE;
  entry *grown = grow_array(t->arena, t->entries, count, &t->entry_capacity, sizeof *grown);
  if (!grown) return NO_MEMORY;
  t->entries = grown;
  term *terms = ARENA_ARRAY(t->arena, term, p->n);
  if (!terms || !index_add(t->arena, &t->entry_index, h)) return NO_MEMORY;
  for (int32_t i = 0; i < p->n; i++) {
    terms[i].c = p->terms[i].c;
    terms[i].n = p->terms[i].n;
    memcpy(terms[i].atoms, p->terms[i].atoms, (size_t)p->terms[i].n * sizeof terms[i].atoms[0]);
  }
  e.terms = terms;
  t->entries[count] = e;
  *out = INT64_MIN + 1 + count;
  return FINE;
}

static trouble atom_add(dim_table *t, const atom *a, uint64_t hash, int32_t *out) {
  const int32_t count = t->atom_index.count;
  if (count >= MAX_ENTRIES) return TOO_LARGE;
  atom *grown = grow_array(t->arena, t->atoms, count, &t->atom_capacity, sizeof *grown);
  if (!grown) return NO_MEMORY;
  t->atoms = grown;
  if (!index_add(t->arena, &t->atom_index, hash)) return NO_MEMORY;
  t->atoms[count] = *a;
  *out = count;
  return FINE;
}

static void dim_extent(const dim_table *t, dim d, int32_t *depth, int32_t *tree) {
  const entry *e = dim_entry(t, d);
  if (!e) {
    *tree += 1;
    return;
  }
  if (e->depth > *depth) *depth = e->depth;
  *tree += e->tree;
}

/* p = the atom kind(a, b). */
static trouble poly_atom(dim_table *t, atom_kind kind, dim a, dim b, poly *p) {
  const int64_t key[3] = {(int64_t)kind, a, b};
  const uint64_t h = hash_bytes(key, sizeof key, 1);
  p->n = p->terms[0].n = 1;
  p->terms[0].c = 1;
  for (int32_t i = index_first(&t->atom_index, h); i >= 0; i = t->atom_index.next[i]) {
    if (t->atom_index.hash[i] == h && t->atoms[i].kind == kind && t->atoms[i].a == a && t->atoms[i].b == b) {
      p->terms[0].atoms[0] = i;
      return FINE;
    }
  }
  atom x = {.kind = kind, .a = a, .b = b, .symbol = -1, .tree = 1};
  dim_extent(t, a, &x.depth, &x.tree);
  dim_extent(t, b, &x.depth, &x.tree);
  x.depth++;
  if (x.depth > MAX_DEPTH || x.tree > MAX_TREE) return TOO_LARGE;
  return atom_add(t, &x, h, &p->terms[0].atoms[0]);
}

/* ---- symbols ----------------------------------------------------------------------------------------------------- */

static uint64_t name_hash(const char *name) { return hash_bytes(name, strlen(name), 2); }

static int32_t symbol_find(const dim_table *t, const char *name) {
  const uint64_t h = name_hash(name);
  for (int32_t i = index_first(&t->atom_index, h); i >= 0; i = t->atom_index.next[i]) {
    if (t->atom_index.hash[i] == h && t->atoms[i].kind == ATOM_SYMBOL && str_eq(t->atoms[i].name, name)) return i;
  }
  return -1;
}

static dim atom_dim(dim_table *t, int32_t index) {
  poly p;
  dim d;
  p.n = p.terms[0].n = 1;
  p.terms[0].c = 1;
  p.terms[0].atoms[0] = index;
  const trouble why = poly_intern(t, &p, &d);
  return why ? dim_trouble(why) : d;
}

static bool name_start(char c) { return isalpha((unsigned char)c) || c == '_'; }
static bool name_part(char c) { return isalnum((unsigned char)c) || c == '_' || c == '.'; }

dim dim_symbol(dim_table *t, const char *name, int64_t min, int64_t max) {
  const int32_t known = name ? symbol_find(t, name) : -1;
  if (known >= 0) return atom_dim(t, known);
  bool good = name && name_start(name[0]);
  for (size_t i = 0; good && name[i]; i++) good = name_part(name[i]) && i < 200;
  if (!good || min > max) {
    (void)KILN_FAIL(KILN_INVALID_ARGUMENT,
                    "symbol `%.200s` with range [%lld, %lld]: expected an identifier and min <= max", name ? name : "",
                    (long long)min, (long long)max);
    return DIM_ERROR;
  }
  atom x = {.kind = ATOM_SYMBOL, .symbol = t->n_symbols, .tree = 1, .min = min, .max = max};
  x.opt = max != DIM_UNBOUNDED ? max : min > 1 ? min : 1;
  x.name = arena_strdup(t->arena, name);
  int32_t *grown = grow_array(t->arena, t->symbols, t->n_symbols, &t->symbol_capacity, sizeof *grown);
  if (!x.name || !grown) return dim_trouble(NO_MEMORY);
  t->symbols = grown;
  int32_t index = 0;
  const trouble why = atom_add(t, &x, name_hash(name), &index);
  if (why) return dim_trouble(why);
  t->symbols[t->n_symbols++] = index;
  return atom_dim(t, index);
}

dim dim_find_symbol(const dim_table *t, const char *name) {
  const int32_t index = name ? symbol_find(t, name) : -1;
  if (index < 0) return DIM_ERROR;
  /* Interned when the symbol was made, so this finds it and changes nothing. */
  return atom_dim((dim_table *)(uintptr_t)t, index);
}

int dim_symbol_count(const dim_table *t) { return t->n_symbols; }

static atom *symbol_at(const dim_table *t, int index) {
  return index >= 0 && index < t->n_symbols ? &t->atoms[t->symbols[index]] : NULL;
}

const char *dim_symbol_name(const dim_table *t, int index) {
  const atom *x = symbol_at(t, index);
  return x ? x->name : NULL;
}

void dim_symbol_range(const dim_table *t, int index, int64_t *min, int64_t *max, int64_t *opt) {
  const atom *x = symbol_at(t, index);
  if (min) *min = x ? x->min : -DIM_UNBOUNDED;
  if (max) *max = x ? x->max : DIM_UNBOUNDED;
  if (opt) *opt = x ? x->opt : 1;
}

void dim_symbol_set_range(dim_table *t, int index, int64_t min, int64_t max, int64_t opt) {
  atom *x = symbol_at(t, index);
  if (!x) return;
  x->min = min;
  x->max = max;
  x->opt = opt;
}

int dim_symbol_index(const dim_table *t, dim d) {
  const entry *e = dim_entry(t, d);
  if (!e || e->n != 1 || e->terms[0].n != 1 || e->terms[0].c != 1) return -1;
  const atom *x = &t->atoms[e->terms[0].atoms[0]];
  return x->kind == ATOM_SYMBOL ? x->symbol : -1;
}

dim dim_fresh(dim_table *t, const char *prefix, int64_t min, int64_t max) {
  char name[64];
  do snprintf(name, sizeof name, "%.40s%u", prefix, t->fresh++);
  while (symbol_find(t, name) >= 0);
  return dim_symbol(t, name, min, max);
}

/* ---- arithmetic -------------------------------------------------------------------------------------------------- */

static dim dim_finish(dim_table *t, const poly *p, trouble why) {
  dim d = DIM_ERROR;
  if (!why) why = poly_intern(t, p, &d);
  return why ? dim_trouble(why) : d;
}

static dim dim_linear(dim_table *t, dim a, dim b, int64_t scale) {
  if (a == DIM_ERROR || b == DIM_ERROR) return DIM_ERROR;
  int64_t c;
  if (dim_is_const(a) && dim_is_const(b)) {
    const bool over = __builtin_mul_overflow(b, scale, &c) || __builtin_add_overflow(a, c, &c);
    return over || !dim_is_const(c) ? dim_trouble(OVERFLOWS) : c;
  }
  poly x, y;
  if (!poly_load(t, a, &x) || !poly_load(t, b, &y)) return dim_trouble(OVERFLOWS);
  const trouble why = poly_add(t, &x, &y, scale);
  return dim_finish(t, &x, why);
}

dim dim_add(dim_table *t, dim a, dim b) { return dim_linear(t, a, b, 1); }
dim dim_sub(dim_table *t, dim a, dim b) { return dim_linear(t, a, b, -1); }

dim dim_mul(dim_table *t, dim a, dim b) {
  if (a == DIM_ERROR || b == DIM_ERROR) return DIM_ERROR;
  int64_t c;
  if (dim_is_const(a) && dim_is_const(b))
    return __builtin_mul_overflow(a, b, &c) || !dim_is_const(c) ? dim_trouble(OVERFLOWS) : c;
  poly x, y, product;
  if (!poly_load(t, a, &x) || !poly_load(t, b, &y)) return dim_trouble(OVERFLOWS);
  const trouble why = poly_mul(t, &x, &y, &product);
  return dim_finish(t, &product, why);
}

dim dim_product(dim_table *t, const dim *dims, int count) {
  dim p = 1;
  for (int i = 0; i < count; i++) p = dim_mul(t, p, dims[i]);
  return p;
}

static bool poly_within(const dim_table *t, const poly *r, int64_t c) {
  if (t->raw && !(r->n == 1 && r->terms[0].n == 0)) return false;
  const interval x = terms_range(t, r->terms, r->n);
  return x.min >= 0 && x.max < c;
}

/* Is 0 <= r < b for sure? */
static bool poly_below(const dim_table *t, const poly *r, const poly *b) {
  if (t->raw || terms_range(t, r->terms, r->n).min < 0) return false;
  poly gap = *b;
  return !poly_add(t, &gap, r, -1) && terms_range(t, gap.terms, gap.n).min >= 1;
}

static bool poly_negate(poly *p) {
  for (int32_t i = 0; i < p->n; i++) {
    if (__builtin_mul_overflow(p->terms[i].c, (int64_t)-1, &p->terms[i].c)) return false;
  }
  return true;
}

/* x = c * q + r with all coefficients of r in [0, c). */
static trouble poly_split(const dim_table *t, const poly *x, int64_t c, poly *q, poly *r) {
  trouble why = FINE;
  q->n = r->n = 0;
  for (int32_t i = 0; i < x->n && !why; i++) {
    term m = x->terms[i];
    const int64_t whole = floor_div(m.c, c);
    m.c -= whole * c;
    why = poly_add_term(t, r, &m, 1);
    m.c = 1;
    if (!why) why = poly_add_term(t, q, &m, whole);
  }
  return why;
}

/* (x//a + k)//c = (x + k a)//(a c): out is x + k a, *c becomes a c. */
static bool poly_unnest(const dim_table *t, poly *r, int64_t *c) {
  const int64_t k = poly_constant_term(r);
  if (r->n != (k ? 2 : 1) || r->terms[0].n != 1 || r->terms[0].c != 1) return false;
  const atom *x = &t->atoms[r->terms[0].atoms[0]];
  int64_t divisor;
  if (x->kind != ATOM_FLOORDIV || !dim_is_const(x->b) || x->b <= 0 || __builtin_mul_overflow(x->b, *c, &divisor))
    return false;
  poly inner;
  term shift = {k, 0, {0}};
  if (!poly_load(t, x->a, &inner) || poly_add_term(t, &inner, &shift, x->b)) return false;
  *r = inner;
  *c = divisor;
  return true;
}

/* out = x // c, c > 0. */
static trouble poly_floordiv_constant(dim_table *t, const poly *x, int64_t c, poly *out, int depth) {
  poly r;
  trouble why = poly_split(t, x, c, out, &r);
  if (why || r.n == 0 || poly_within(t, &r, c)) return why;
  const int64_t g = poly_content(&r, c, false);
  if (g > 1) {
    poly_shrink(&r, g);
    c /= g;
  }
  poly rest;
  if (g > 1 || poly_unnest(t, &r, &c)) { /* simpler now: once more */
    if (depth > MAX_DEPTH) return TOO_LARGE;
    why = poly_floordiv_constant(t, &r, c, &rest, depth + 1);
  } else {
    dim a;
    why = poly_intern(t, &r, &a);
    if (!why) why = poly_atom(t, ATOM_FLOORDIV, a, c, &rest);
  }
  return why ? why : poly_add(t, out, &rest, 1);
}

/* out = x mod c, c > 0. */
static trouble poly_mod_constant(dim_table *t, const poly *x, int64_t c, poly *out) {
  poly q;
  trouble why = poly_split(t, x, c, &q, out);
  if (why || out->n == 0 || poly_within(t, out, c)) return why;
  /* (g p + k) mod (g c) = g ((p + k//g) mod c) + k mod g */
  const int64_t g = poly_content(out, c, false), k = poly_constant_term(out), low = k - floor_div(k, g) * g;
  poly r = *out;
  poly_shrink(&r, g);
  dim a;
  why = poly_intern(t, &r, &a);
  if (why) return why;
  if (dim_is_const(a)) {
    poly_constant(out, a * g + low);
    return FINE;
  }
  poly m;
  if (poly_within(t, &r, c / g)) {
    m = r;
  } else {
    why = poly_atom(t, ATOM_MOD, a, c / g, &m);
    if (why) return why;
  }
  const term rest = {low, 0, {0}};
  out->n = 0;
  why = poly_add(t, out, &m, g);
  return why ? why : poly_add_term(t, out, &rest, 1);
}

/* Divisor with symbols: long division; what remains becomes an atom. */
static trouble poly_divide_symbolic(dim_table *t, bool mod, const poly *x, const poly *y, poly *out) {
  poly q, r, b = *y;
  trouble why = poly_divide(t, x, &b, &q, &r);
  if (why) return why;
  const bool small = r.n == 0 || poly_below(t, &r, &b);
  int64_t g = 1;
  poly rest = r;
  if (!small) {
    g = poly_content(&r, poly_content(&b, 0, true), true);
    if (g > 1) {
      poly_shrink(&r, g);
      poly_shrink(&b, g);
    }
    dim dr, db;
    why = poly_intern(t, &r, &dr);
    if (!why) why = poly_intern(t, &b, &db);
    if (!why) why = poly_atom(t, mod ? ATOM_MOD : ATOM_FLOORDIV, dr, db, &rest);
    if (why) return why;
  }
  if (mod) {
    out->n = 0;
    return poly_add(t, out, &rest, g);
  }
  *out = q;
  return small ? FINE : poly_add(t, out, &rest, 1);
}

static dim dim_divide(dim_table *t, dim a, dim b, bool mod) {
  if (a == DIM_ERROR || b == DIM_ERROR) return DIM_ERROR;
  if (b == 0) return dim_trouble(BY_ZERO);
  poly x, y, out;
  if (!poly_load(t, a, &x) || !poly_load(t, b, &y)) return dim_trouble(OVERFLOWS);
  if (!dim_is_const(b)) {
    const trouble why = poly_divide_symbolic(t, mod, &x, &y, &out);
    return dim_finish(t, &out, why);
  }
  /* x // -c = -x // c and x mod -c = -(-x mod c) */
  const bool negative = b < 0;
  if (negative && !poly_negate(&x)) return dim_trouble(OVERFLOWS);
  trouble why = mod ? poly_mod_constant(t, &x, negative ? -b : b, &out)
                    : poly_floordiv_constant(t, &x, negative ? -b : b, &out, 0);
  if (!why && mod && negative && !poly_negate(&out)) why = OVERFLOWS;
  return dim_finish(t, &out, why);
}

dim dim_floordiv(dim_table *t, dim a, dim b) { return dim_divide(t, a, b, false); }
dim dim_mod(dim_table *t, dim a, dim b) { return dim_divide(t, a, b, true); }

/* a - b without interning; false if it cannot be said. */
static bool dim_gap(const dim_table *t, dim a, dim b, poly *out) {
  poly y;
  return a != DIM_ERROR && b != DIM_ERROR && poly_load(t, a, out) && poly_load(t, b, &y) && !poly_add(t, out, &y, -1);
}

static dim dim_extreme(dim_table *t, dim a, dim b, bool max) {
  if (a == DIM_ERROR || b == DIM_ERROR) return DIM_ERROR;
  if (a == b) return a;
  poly gap;
  if (dim_gap(t, a, b, &gap)) {
    const bool constant = gap.n == 1 && gap.terms[0].n == 0;
    if (constant || !t->raw) {
      const interval x = terms_range(t, gap.terms, gap.n);
      if (x.min >= 0) return max ? a : b;
      if (x.max <= 0) return max ? b : a;
    }
  }
  const bool swap = dim_order(t, a, b) > 0;
  poly p;
  const trouble why = poly_atom(t, max ? ATOM_MAX : ATOM_MIN, swap ? b : a, swap ? a : b, &p);
  return dim_finish(t, &p, why);
}

dim dim_max(dim_table *t, dim a, dim b) { return dim_extreme(t, a, b, true); }
dim dim_min(dim_table *t, dim a, dim b) { return dim_extreme(t, a, b, false); }

static dim scale_by_bits(dim_table *t, dim a, int64_t bits, dim_rounding how) {
  const atom_kind kind = (atom_kind)(ATOM_SCALE_FLOOR + (int)how);
  poly p;
  int64_t v;
  if (a == DIM_ERROR) return DIM_ERROR;
  if (dim_is_const(a)) return scale_eval(kind, a, bits, &v) ? v : dim_trouble(OVERFLOWS);
  const trouble why = poly_atom(t, kind, a, bits, &p);
  return dim_finish(t, &p, why);
}

dim dim_scale(dim_table *t, dim a, double factor, dim_rounding how) {
  int64_t bits;
  memcpy(&bits, &factor, sizeof bits);
  if (!(factor > 0 && factor < 0x1p40)) return dim_trouble(OVERFLOWS);
  for (int64_t q = 1; q <= 64 && how != DIM_ROUND; q *= 2) { /* exact in doubles, and more can be said of integers */
    const double p = factor * (double)q;
    if (p != floor(p)) continue;
    const dim product = dim_mul(t, a, (int64_t)p);
    return how == DIM_FLOOR ? dim_floordiv(t, product, q) : dim_sub(t, 0, dim_floordiv(t, dim_sub(t, 0, product), q));
  }
  return scale_by_bits(t, a, bits, how);
}

int dim_compare_equal(dim_table *t, dim a, dim b) {
  poly gap;
  if (a == b && a != DIM_ERROR) return 1;
  if (!dim_gap(t, a, b, &gap)) return -1;
  const interval x = terms_range(t, gap.terms, gap.n);
  if (x.min > 0 || x.max < 0) return 0;
  return x.min == 0 && x.max == 0 ? 1 : -1;
}

int dim_compare_le(dim_table *t, dim a, dim b) {
  poly gap;
  if (!dim_gap(t, b, a, &gap)) return -1;
  const interval x = terms_range(t, gap.terms, gap.n);
  return x.min >= 0 ? 1 : x.max < 0 ? 0 : -1;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

static bool atom_eval(const dim_table *t, int32_t index, const int64_t *symbols, int64_t *out) {
  const atom *x = &t->atoms[index];
  if (x->kind == ATOM_SYMBOL) {
    *out = symbols ? symbols[x->symbol] : x->opt;
    return *out != DIM_ERROR;
  }
  int64_t a, b;
  if (is_scale(x->kind)) return dim_eval(t, x->a, symbols, &a) && scale_eval(x->kind, a, x->b, out);
  if (!dim_eval(t, x->a, symbols, &a) || !dim_eval(t, x->b, symbols, &b)) return false;
  switch (x->kind) {
    case ATOM_MAX:
      *out = a > b ? a : b;
      return true;
    case ATOM_MIN:
      *out = a < b ? a : b;
      return true;
    default:
      break;
  }
  if (b == 0 || (a == INT64_MIN && b == -1)) return false;
  const bool adjust = a % b != 0 && (a % b < 0) != (b < 0);
  *out = x->kind == ATOM_FLOORDIV ? a / b - adjust : a % b + (adjust ? b : 0);
  return true;
}

/* `symbols` NULL: the opt values. */
bool dim_eval(const dim_table *t, dim d, const int64_t *symbols, int64_t *out) {
  if (d == DIM_ERROR) return false;
  if (dim_is_const(d)) {
    *out = d;
    return true;
  }
  const entry *e = dim_entry(t, d);
  if (!e) return false;
  int64_t sum = 0;
  for (int32_t i = 0; i < e->n; i++) {
    int64_t product = e->terms[i].c;
    for (int32_t k = 0; k < e->terms[i].n; k++) {
      int64_t x;
      if (!atom_eval(t, e->terms[i].atoms[k], symbols, &x) || __builtin_mul_overflow(product, x, &product))
        return false;
    }
    if (__builtin_add_overflow(sum, product, &sum)) return false;
  }
  *out = sum;
  return true;
}

int64_t dim_hint(const dim_table *t, dim d) {
  int64_t v;
  return dim_eval(t, d, NULL, &v) ? v : 1;
}

bool dim_as_affine(const dim_table *t, dim d, int *symbol, int64_t *coefficient, int64_t *constant) {
  const entry *e = dim_entry(t, d);
  if (!e || e->n > 2 || e->terms[0].n != 1 || (e->n == 2 && e->terms[1].n != 0)) return false;
  const atom *x = &t->atoms[e->terms[0].atoms[0]];
  if (x->kind != ATOM_SYMBOL) return false;
  *symbol = x->symbol;
  *coefficient = e->terms[0].c;
  *constant = e->n == 2 ? e->terms[1].c : 0;
  return true;
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

/* scale_floor(s0, 4599075939470750515): the second is the bits of a double. */
static const char *const scale_names[] = {"scale_floor", "scale_ceil", "scale_round"};

static void print_operand(const dim_table *t, dim d, text *out) {
  const bool plain = (dim_is_const(d) && d >= 0) || dim_symbol_index(t, d) >= 0;
  if (!plain) text_putc(out, '(');
  dim_print(t, d, out);
  if (!plain) text_putc(out, ')');
}

static void atom_print(const dim_table *t, int32_t index, bool alone, text *out) {
  const atom *x = &t->atoms[index];
  if (x->kind == ATOM_SYMBOL) {
    text_puts(out, x->name);
  } else if (x->kind == ATOM_MAX || x->kind == ATOM_MIN) {
    text_puts(out, x->kind == ATOM_MAX ? "max(" : "min(");
    dim_print(t, x->a, out);
    text_puts(out, ", ");
    dim_print(t, x->b, out);
    text_putc(out, ')');
  } else if (is_scale(x->kind)) {
    text_puts(out, scale_names[x->kind - ATOM_SCALE_FLOOR]);
    text_putc(out, '(');
    dim_print(t, x->a, out);
    text_printf(out, ", %lld)", (long long)x->b);
  } else {
    if (!alone) text_putc(out, '(');
    print_operand(t, x->a, out);
    text_puts(out, x->kind == ATOM_FLOORDIV ? "//" : " % ");
    print_operand(t, x->b, out);
    if (!alone) text_putc(out, ')');
  }
}

void dim_print(const dim_table *t, dim d, text *out) {
  const entry *e = dim_entry(t, d);
  if (!e) {
    if (d == DIM_ERROR || !dim_is_const(d)) {
      text_putc(out, '?');
    } else {
      text_printf(out, "%lld", (long long)d);
    }
    return;
  }
  for (int32_t i = 0; i < e->n; i++) {
    const term *m = &e->terms[i];
    const bool negative = m->c < 0;
    const uint64_t size = negative ? 0 - (uint64_t)m->c : (uint64_t)m->c;
    if (i) {
      text_puts(out, negative ? " - " : " + ");
    } else if (negative) {
      text_putc(out, '-');
    }
    if (size != 1 || m->n == 0) text_printf(out, "%llu", (unsigned long long)size);
    for (int32_t k = 0; k < m->n; k++) {
      if (k || size != 1) text_putc(out, '*');
      atom_print(t, m->atoms[k], m->n == 1 && m->c == 1, out);
    }
  }
}

typedef struct dim_reader {
  dim_table *t;
  const char *at;
  int depth;
} dim_reader;

/* The record has the reason already. */
static kiln_status dim_status(const dim_reader *r, dim d) {
  if (d != DIM_ERROR) return KILN_OK;
  return r->t->arena->failed ? KILN_OUT_OF_MEMORY : KILN_INVALID_ARGUMENT;
}

static void skip_space(dim_reader *r) {
  while (*r->at == ' ') r->at++;
}

static kiln_status read_sum(dim_reader *r, dim *out);

static kiln_status read_number(dim_reader *r, dim *out) {
  int64_t v = 0;
  for (; isdigit((unsigned char)*r->at); r->at++) {
    if (__builtin_mul_overflow(v, (int64_t)10, &v) || __builtin_add_overflow(v, (int64_t)(*r->at - '0'), &v))
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "number in a dimension is too large");
  }
  *out = v;
  return KILN_OK;
}

static kiln_status expect_char(dim_reader *r, char c) {
  skip_space(r);
  if (*r->at != c) return KILN_FAIL(KILN_INVALID_ARGUMENT, "expected `%c` in a dimension", c);
  r->at++;
  return KILN_OK;
}

static kiln_status read_extreme(dim_reader *r, bool max, dim *out) {
  dim a, b;
  KILN_TRY(expect_char(r, '('));
  KILN_TRY(read_sum(r, &a));
  KILN_TRY(expect_char(r, ','));
  KILN_TRY(read_sum(r, &b));
  KILN_TRY(expect_char(r, ')'));
  *out = dim_extreme(r->t, a, b, max);
  return dim_status(r, *out);
}

static kiln_status read_scale(dim_reader *r, dim_rounding how, dim *out) {
  dim a;
  int64_t bits = 0;
  KILN_TRY(expect_char(r, '('));
  KILN_TRY(read_sum(r, &a));
  KILN_TRY(expect_char(r, ','));
  skip_space(r);
  KILN_TRY(read_number(r, &bits));
  KILN_TRY(expect_char(r, ')'));
  if (bits <= 0 || bits >= 0x7ff0000000000000)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "expected the bits of a positive double in a dimension");
  *out = scale_by_bits(r->t, a, bits, how);
  return dim_status(r, *out);
}

static kiln_status read_name(dim_reader *r, dim *out) {
  const char *start = r->at;
  while (name_part(*r->at)) r->at++;
  const size_t n = (size_t)(r->at - start);
  char name[256];
  if (n >= sizeof name) return KILN_FAIL(KILN_INVALID_ARGUMENT, "name of a symbol is too long");
  memcpy(name, start, n);
  name[n] = 0;
  if (*r->at == '(' && (str_eq(name, "max") || str_eq(name, "min"))) return read_extreme(r, name[1] == 'a', out);
  for (int how = 0; *r->at == '(' && how < 3; how++)
    if (str_eq(name, scale_names[how])) return read_scale(r, (dim_rounding)how, out);
  *out = dim_find_symbol(r->t, name);
  if (*out == DIM_ERROR) return KILN_FAIL(KILN_INVALID_ARGUMENT, "there is no symbol `%s`", name);
  return KILN_OK;
}

static kiln_status read_factor(dim_reader *r, dim *out) {
  skip_space(r);
  bool negative = false;
  for (; *r->at == '-'; r->at++) negative = !negative;
  if (++r->depth > 2 * MAX_DEPTH + 8) return KILN_FAIL(KILN_INVALID_ARGUMENT, "a dimension is nested too deeply");
  if (isdigit((unsigned char)*r->at)) {
    KILN_TRY(read_number(r, out));
  } else if (name_start(*r->at)) {
    KILN_TRY(read_name(r, out));
  } else if (*r->at == '(') {
    r->at++;
    KILN_TRY(read_sum(r, out));
    KILN_TRY(expect_char(r, ')'));
  } else {
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "expected a number, a symbol or `(` in a dimension");
  }
  r->depth--;
  if (negative) *out = dim_sub(r->t, 0, *out);
  return dim_status(r, *out);
}

static kiln_status read_product(dim_reader *r, dim *out) {
  KILN_TRY(read_factor(r, out));
  for (;;) {
    skip_space(r);
    const char c = r->at[0];
    if (c == '/' && r->at[1] != '/') return KILN_FAIL(KILN_INVALID_ARGUMENT, "expected `//` in a dimension");
    if (c != '*' && c != '/' && c != '%') return KILN_OK;
    r->at += c == '/' ? 2 : 1;
    dim b;
    KILN_TRY(read_factor(r, &b));
    *out = c == '*' ? dim_mul(r->t, *out, b) : dim_divide(r->t, *out, b, c == '%');
    KILN_TRY(dim_status(r, *out));
  }
}

static kiln_status read_sum(dim_reader *r, dim *out) {
  KILN_TRY(read_product(r, out));
  for (;;) {
    skip_space(r);
    const char c = *r->at;
    if (c != '+' && c != '-') return KILN_OK;
    r->at++;
    dim b;
    KILN_TRY(read_product(r, &b));
    *out = dim_linear(r->t, *out, b, c == '+' ? 1 : -1);
    KILN_TRY(dim_status(r, *out));
  }
}

kiln_status dim_parse(dim_table *t, const char **cursor, dim *out) {
  dim_reader r = {t, *cursor, 0};
  const bool raw = t->raw;
  t->raw = true;
  const kiln_status status = read_sum(&r, out);
  t->raw = raw;
  *cursor = r.at;
  return status;
}
