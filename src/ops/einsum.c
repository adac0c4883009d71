/* torch.einsum. Every axis of every operand gets a label; operands are contracted left to right, each pair as one
 * batched matrix product [batch, M, K] x [batch, K, N], where batch labels are in both and still needed, and K labels
 * are in both and not. */
#include "ops/einsum.h"

#include <ctype.h>
#include <string.h>

#include "ops/lowering.h"

enum { ELLIPSIS = 52, LABELS = ELLIPSIS + KILN_MAX_RANK, MAX_OPERANDS = 16 };

typedef struct term {
  value *v;
  int rank;
  int labels[KILN_MAX_RANK];
} term;

typedef uint64_t label_set; /* bit i: label i */

static label_set labels_of(const term *t) {
  label_set s = 0;
  for (int i = 0; i < t->rank; i++) s |= UINT64_C(1) << t->labels[i];
  return s;
}
static bool has(label_set s, int label) { return s >> label & 1; }

/* ---- parsing ----------------------------------------------------------------------------------------------------- */

static int letter_label(char ch) {
  return ch >= 'a' && ch <= 'z' ? ch - 'a' + 26 : ch >= 'A' && ch <= 'Z' ? ch - 'A' : -1;
}

/* Reads labels up to ',' or '-' or the end. `dots` is how many axes "..." stands for: label ELLIPSIS + 0 is the last of
 * them. */
static kiln_status parse_labels(lower_call *c, const char **cursor, int dots, int *labels, int *out_count) {
  int n = 0;
  const char *s = *cursor;
  for (; *s && *s != ',' && *s != '-'; s++) {
    if (*s == ' ') continue;
    const int letter = letter_label(*s);
    const bool ellipsis = strncmp(s, "...", 3) == 0;
    const int count = ellipsis ? dots : 1;
    if (letter < 0 && !ellipsis)
      return LOWER_FAIL(c, "argument equation: unexpected character '%c'", isprint((unsigned char)*s) ? *s : '?');
    if (n + count > KILN_MAX_RANK)
      return LOWER_FAIL(c, "argument equation: a term has more than %d labels", KILN_MAX_RANK);
    for (int i = 0; i < count; i++) labels[n++] = ellipsis ? ELLIPSIS + count - 1 - i : letter;
    if (ellipsis) s += 2;
  }
  *cursor = s;
  *out_count = n;
  return KILN_OK;
}

static int letters_before(const char *s) {
  int n = 0;
  for (; *s && *s != ',' && *s != '-'; s++) n += letter_label(*s) >= 0;
  return n;
}

/* Axes that carry one label twice become their diagonal (as the last axis). */
static kiln_status take_diagonals(lower_call *c, term *t) {
  for (int i = 0; i < t->rank; i++) {
    for (int k = i + 1; k < t->rank; k++) {
      if (t->labels[i] != t->labels[k]) continue;
      const int label = t->labels[i];
      t->v = build(&c->b, "diagonal", IN(t->v), ATTRS(A_INT("axis1", i), A_INT("axis2", k)));
      LOWER_NEED(c, t->v);
      int n = 0;
      for (int m = 0; m < t->rank; m++) {
        if (m != i && m != k) t->labels[n++] = t->labels[m];
      }
      t->labels[n++] = label;
      t->rank = n;
      i = -1;
      break;
    }
  }
  return KILN_OK;
}

static kiln_status parse(lower_call *c, int count, term *terms, term *result) {
  const char *s = call_str(c, "equation");
  if (!s) return LOWER_FAIL(c, "argument equation is missing");
  int seen[LABELS] = {0}, most_dots = 0;
  for (int i = 0; i < count; i++) {
    term *t = &terms[i];
    const int dots = t->v->type.rank - letters_before(s);
    KILN_TRY(parse_labels(c, &s, dots < 0 ? 0 : dots, t->labels, &t->rank));
    if (t->rank != t->v->type.rank)
      return LOWER_FAIL(c, "operand %d has %d dimensions, its term has %d labels", i, t->v->type.rank, t->rank);
    for (int k = 0; k < t->rank; k++) {
      seen[t->labels[k]]++;
      if (t->labels[k] >= ELLIPSIS && t->labels[k] - ELLIPSIS >= most_dots) most_dots = t->labels[k] - ELLIPSIS + 1;
    }
    KILN_TRY(take_diagonals(c, t));
    const bool last = i == count - 1;
    if (last ? *s == ',' : *s != ',')
      return LOWER_FAIL(c, "argument equation: the number of terms is not that of operands");
    if (*s == ',') s++;
  }
  if (s[0] == '-' && s[1] == '>') {
    s += 2;
    KILN_TRY(parse_labels(c, &s, most_dots, result->labels, &result->rank));
    if (*s) return LOWER_FAIL(c, "argument equation: unexpected text after the result");
    for (int i = 0; i < result->rank; i++) {
      if (!seen[result->labels[i]])
        return LOWER_FAIL(c, "argument equation: the result has a label that no operand has");
      for (int k = 0; k < i; k++) {
        if (result->labels[k] == result->labels[i])
          return LOWER_FAIL(c, "argument equation: the result has a label twice");
      }
    }
    return KILN_OK;
  }
  if (*s) return LOWER_FAIL(c, "argument equation: expected \"->\"");
  for (int i = most_dots - 1; i >= 0; i--) result->labels[result->rank++] = ELLIPSIS + i;
  for (int label = 0; label < ELLIPSIS; label++) { /* implicit result: labels that stand once, in order */
    if (seen[label] != 1) continue;
    if (result->rank == KILN_MAX_RANK) return LOWER_FAIL(c, "the result has more than %d dimensions", KILN_MAX_RANK);
    result->labels[result->rank++] = label;
  }
  return KILN_OK;
}

/* ---- contraction ------------------------------------------------------------------------------------------------- */

static int axis_of(const term *t, int label) {
  for (int i = 0; i < t->rank; i++) {
    if (t->labels[i] == label) return i;
  }
  return -1;
}

static dim size_of(const term *t, int label) {
  const int axis = axis_of(t, label);
  return axis < 0 || !t->v ? 1 : t->v->type.dims[axis];
}

/* Sums away the labels of `t` that are not in `keep`. */
static void sum_others(builder *b, term *t, label_set keep) {
  int64_t axes[KILN_MAX_RANK];
  int count = 0, n = 0;
  for (int i = 0; i < t->rank; i++) {
    if (has(keep, t->labels[i])) {
      t->labels[n++] = t->labels[i];
    } else {
      axes[count++] = i;
    }
  }
  t->rank = n;
  if (count) t->v = build(b, "sum", IN(t->v), ATTRS(A_INTS("axes", axes, count)));
}

/* Reorders the axes of `t` to `order`, which has its labels and maybe others; those get size 1. */
static value *arranged(builder *b, const term *t, const int *order, int count) {
  if (!t->v) return NULL;
  dim permutation[KILN_MAX_RANK], dims[LABELS];
  int n = 0;
  for (int i = 0; i < count; i++) {
    const int axis = axis_of(t, order[i]);
    if (axis >= 0) permutation[n++] = axis;
    dims[i] = size_of(t, order[i]);
  }
  return lower_reshape(b, lower_permute(b, t->v, n, permutation), count, dims);
}

typedef struct group { /* labels of one role, and the product of their sizes */
  int labels[KILN_MAX_RANK];
  int count;
  dim size;
} group;

static void group_add(builder *b, group *g, int label, dim size) {
  if (g->count == 0) g->size = 1;
  if (g->count < KILN_MAX_RANK) g->labels[g->count++] = label;
  g->size = dim_mul(b->graph->dims, g->size, size);
}

/* A label in both operands whose size is 1 in one of them: that operand is expanded. */
static void expand_shared(builder *b, term *t, const term *other) {
  if (!t->v) return;
  dim dims[KILN_MAX_RANK];
  bool differs = false;
  for (int i = 0; i < t->rank; i++) {
    dims[i] = t->v->type.dims[i];
    const dim theirs = size_of(other, t->labels[i]);
    if (dims[i] == 1 && theirs != 1) {
      dims[i] = theirs;
      differs = true;
    }
  }
  if (differs) t->v = lower_expand(b, t->v, t->rank, dims);
}

/* [batch, rows, columns], as one matrix product operand. */
static value *matrix(builder *b, const term *t, const group *batch, const group *rows, const group *columns) {
  int order[3 * KILN_MAX_RANK], n = 0;
  const group *const groups[3] = {batch, rows, columns};
  dim dims[3];
  if (!t->v) return NULL;
  for (int i = 0; i < 3; i++) {
    for (int k = 0; k < groups[i]->count; k++) order[n++] = groups[i]->labels[k];
    dims[i] = groups[i]->count ? groups[i]->size : 1;
  }
  dim permutation[KILN_MAX_RANK];
  for (int i = 0; i < n; i++) permutation[i] = axis_of(t, order[i]);
  return lower_reshape(b, lower_permute(b, t->v, n, permutation), 3, dims);
}

static kiln_status contract(lower_call *c, term *x, term *y, label_set needed) {
  builder *b = &c->b;
  const label_set in_x = labels_of(x), in_y = labels_of(y);
  sum_others(b, x, needed | in_y);
  sum_others(b, y, needed | in_x);
  expand_shared(b, x, y);
  expand_shared(b, y, x);
  group batch = {0}, m = {0}, n = {0}, k = {0};
  for (int i = 0; i < x->rank; i++) {
    const int label = x->labels[i];
    group_add(b, !has(in_y, label) ? &m : has(needed, label) ? &batch : &k, label, size_of(x, label));
  }
  for (int i = 0; i < y->rank; i++) {
    if (!has(in_x, y->labels[i])) group_add(b, &n, y->labels[i], size_of(y, y->labels[i]));
  }
  term r = {.rank = 0};
  if (batch.count + m.count + n.count > KILN_MAX_RANK)
    return LOWER_FAIL(c, "an intermediate result has more than %d dimensions", KILN_MAX_RANK);
  const group *const kept[3] = {&batch, &m, &n};
  dim dims[KILN_MAX_RANK];
  for (int g = 0; g < 3; g++) {
    for (int i = 0; i < kept[g]->count; i++) {
      const int label = kept[g]->labels[i];
      dims[r.rank] = g == 2 ? size_of(y, label) : size_of(x, label);
      r.labels[r.rank++] = label;
    }
  }
  if (k.count == 0) {
    r.v = lower_binary(b, "mul", arranged(b, x, r.labels, r.rank), arranged(b, y, r.labels, r.rank));
  } else {
    const int last = y->labels[y->rank - 1]; /* y has the k labels, so at least one */
    const bool transposed = has(in_x, last) && !has(needed, last);
    value *left = matrix(b, x, &batch, &m, &k);
    value *right = transposed ? matrix(b, y, &batch, &n, &k) : matrix(b, y, &batch, &k, &n);
    r.v = lower_reshape(b, build(b, "matmul", IN(left, right), ATTRS(A_BOOL("transpose_b", transposed))), r.rank, dims);
  }
  *x = r;
  return KILN_OK;
}

kiln_status lower_einsum(lower_call *c) {
  value *operands[MAX_OPERANDS];
  term terms[MAX_OPERANDS] = {{0}}, result = {0};
  const int count = call_tensors(c, "tensors", operands, MAX_OPERANDS);
  if (count < 1) return LOWER_FAIL(c, "expected 1 to %d operands", MAX_OPERANDS);
  for (int i = 0; i < count; i++) {
    LOWER_NEED(c, operands[i]);
    terms[i].v = operands[i];
  }
  KILN_TRY(parse(c, count, terms, &result));
  const label_set wanted = labels_of(&result);
  for (int i = 1; i < count; i++) {
    label_set needed = wanted;
    for (int k = i + 1; k < count; k++) needed |= labels_of(&terms[k]);
    KILN_TRY(contract(c, &terms[0], &terms[i], needed));
  }
  sum_others(&c->b, &terms[0], wanted);
  call_return(c, 0, arranged(&c->b, &terms[0], result.labels, result.rank));
  return KILN_OK;
}
