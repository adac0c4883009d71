/* Tensor handles from the inside: for the importers and lower.c only. */
#ifndef KILN_IMPORT_HANDLES_H
#define KILN_IMPORT_HANDLES_H

#include "import/lower.h"

/* Depth is bounded because reading and writing recurse along the parents. */
enum { HANDLE_MAX_STEPS = 32, HANDLE_MAX_DEPTH = 256 };

struct itensor {
  itensor *base;   /* itself if it owns its value */
  itensor *parent; /* views: what `steps` start from */
  node **steps;    /* view nodes from the parent's value to `v` */
  int32_t n_steps;
  int32_t depth;    /* of parents above it */
  uint32_t version; /* bases: how often written; views: the base's version that `v` was computed from */
  value *v;
  importer *im;
  itensor *older;             /* the handle made before this one: all of an import are linked, see importer.handles */
  uint32_t serial;            /* counts them */
  struct itensor_link *links; /* tensors that may be the same memory, which is decided at run time only */
  itensor *next_stale;        /* of the worklist that marks them */
  itensor *parts[2];          /* complex tensors: the real and the imaginary part, and `v` is NULL; see complex.h */
  bool stale;                 /* one of them was written, so it is not known what this one holds: reading it fails */
};

typedef struct itensor_link {
  itensor *other; /* a base */
  struct itensor_link *next;
} itensor_link;

/* Notes that a and b may share memory. False when out of memory. */
bool handle_link(importer *im, itensor *a, itensor *b);

/* A handle for `v` as a view of `parent`; a fresh base if more than view nodes lie between parent->v (which must be up
 * to date) and `v`. NULL when out of memory. */
itensor *handle_view(importer *im, itensor *parent, value *v);

/* The strides that the tensor has in PyTorch: those of the views that it was made by, of a contiguous base. 1: they are in `out`
 * (KILN_MAX_RANK), 0: PyTorch copies on the way, -1: sizes or places that are not known now. */
int handle_strides(const itensor *t, int64_t *out);

/* Makes `t` what `view`, a view of t, is: squeeze_ and its like change a tensor's own shape. Other views of t stay what
 * they are. False when out of memory. */
bool handle_become(importer *im, itensor *t, const itensor *view);

/* x with its diagonal (as the operator of that name gives it) replaced by src. */
value *lower_diagonal_scatter(builder *b, value *x, value *src, int64_t offset, int axis1, int axis2);

#endif
