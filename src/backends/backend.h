/* What a backend is. Compile side: which nodes it takes, with which kernels (tactics), and how constants are packed for
 * them; needs no device. Run side: the kernels themselves, called by runtime/program.c with concrete tensors. */
#ifndef KILN_BACKENDS_BACKEND_H
#define KILN_BACKENDS_BACKEND_H

#include "graph/graph.h"
#include "ops/op.h"

typedef struct backend backend;

typedef struct target { /* "cpu:avx512" */
  const backend *backend;
  char name[32];
  int isa;     /* cpu: a cpu_isa; cuda: 10 * major + minor of the compute capability */
  int ordinal; /* cuda: which GPU of this machine; not kept in files */
} target;

/* An accelerator that programs are bound to: a backend's own type, shared by all engines of the process that use it.
 * After an error that the hardware does not forget, every call on this device fails with KILN_DEVICE_ERROR; other
 * devices go on. */
typedef struct device device;

typedef struct device_info {
  const char *name;   /* "NVIDIA H100 80GB HBM3" */
  size_t cache_bytes; /* of the last level */
  bool present;       /* false: it only compiles */
} device_info;

/* What the runtime asks of an accelerator. Memory is freed by hand; a stream of NULL is the device's own. [any thread]
 */
typedef struct device_hooks {
  /* The target's device number `ordinal`. Counted: each open is closed once. */
  kiln_status (*open)(const target *t, int ordinal, device **out);
  void (*close)(device *d);
  int dlpack_type;
  int (*ordinal)(const device *d);
  device_info (*info)(const device *d);
  /* Makes the device current in this thread, and puts back what was. */
  kiln_status (*enter)(device *d);
  void (*leave)(device *d);
  /* Is it current in this thread, and alive? Then a graph that was launched before may be launched without entering. NULL: never. */
  bool (*current)(device *d);
  kiln_status (*allocate)(device *d, size_t bytes, const char *what, void **out);
  /* Nothing on the device uses it any more: it may be handed out again at once. */
  void (*release)(device *d, void *memory, size_t bytes);
  /* Between in_doubt(true) and in_doubt(false), what this thread releases may still be in use by work that nobody here can wait for
   * (graphs of callers): it is not handed out again before the driver has had it back. NULL: not needed. */
  void (*in_doubt)(device *d, bool on);
  kiln_status (*host_allocate)(device *d, size_t bytes, void **out); /* memory that copies fast */
  void (*host_release)(device *d, void *memory);
  /* The device's copy of bytes of the host that do not change, made on first use, and counted. */
  kiln_status (*constant)(device *d, const void *data, size_t bytes, void **out);
  void (*constant_release)(device *d, const void *data);
  size_t (*constant_bytes)(device *d);
  kiln_status (*stream_create)(device *d, void **out);
  void (*stream_destroy)(device *d, void *stream);
  kiln_status (*upload)(device *d, void *stream, void *to, const void *from, size_t bytes);
  kiln_status (*download)(device *d, void *stream, void *to, const void *from, size_t bytes);
  kiln_status (*copy)(device *d, void *stream, void *to, const void *from, size_t bytes);
  kiln_status (*synchronize)(device *d, void *stream);
  kiln_status (*finish_prepare)(device *d,
                                int threads); /* all prepares of a program are done: compile what they asked for */
  /* Between defer(true) and defer(false) finish_prepare does nothing in this thread: many programs are then compiled together. */
  void (*defer)(device *d, bool on);
  /* While it compiles, `progress` (NULL: nobody) is called by the thread that waits for it with the part that is done, 0..1. An error of it
   * ends the compilation with that error. */
  void (*watch)(device *d, kiln_status (*progress)(void *user, double part), void *user);
  /* A device of the target's architecture for compiling only: with the facts of GPU t->ordinal of this machine, if that is one. */
  kiln_status (*open_compiler)(const target *t, device **out);
  /* What was compiled on it so far, as bytes for `offer` (release with mem_free). */
  kiln_status (*compiled)(device *d, void **out_bytes, size_t *out_size);
  /* Compiled code that a program's kernels are looked for in before they are compiled, until it is withdrawn. Borrowed. Damaged code is
   * passed over. */
  kiln_status (*offer)(device *d, const void *bytes, size_t size);
  void (*withdraw)(device *d, const void *bytes);
  /* Is `memory` this device's? */
  bool (*owns)(device *d, const void *memory);
  kiln_status (*stream_check)(device *d, void *stream);         /* fails if it is another device's */
  kiln_status (*capturing)(device *d, void *stream, bool *out); /* by the caller */
  kiln_status (*capture_begin)(device *d, void *stream);
  kiln_status (*capture_end)(device *d, void *stream, bool keep, void **out_graph);
  kiln_status (*graph_launch)(device *d, void *graph, void *stream);
  void (*graph_destroy)(device *d, void *graph);
  /* A mark in a stream, and the seconds between two marks (waits for the later one). */
  kiln_status (*mark_create)(device *d, void **out);
  kiln_status (*fence_create)(device *d, void **out); /* a mark that has no time, and costs less */
  kiln_status (*fence_wait)(device *d, void *fence);  /* the host waits for it */
  void (*mark_destroy)(device *d, void *mark);
  kiln_status (*mark)(device *d, void *mark, void *stream);
  kiln_status (*mark_wait)(device *d, void *mark, void *stream); /* the stream goes on when the mark is reached */
  kiln_status (*seconds_between)(device *d, void *start, void *end, double *out);
} device_hooks;

/* What prepare may ask for. Called when a context binds shapes: tensors have shapes, strides and (for constants) data;
 * other data pointers are not yet valid. May allocate in `arena`, which lives as long as the bound shapes. */
typedef struct kernel_prep {
  kernel_args args;
  arena *arena;
  int threads;
  void *state;                 /* out: handed to run as args.state */
  size_t workspace_size;       /* out: bytes in all */
  device *device;              /* NULL: the host */
  const int64_t *offsets;      /* device: of in[], then out[]: bytes behind a multiple of 64; -1: unknown */
  const struct kernel *kernel; /* the row that is prepared */
} kernel_prep;

#define KERNEL_STRIDED_ALL 0xFFFFFFFFu

/* One kernel. Rows of one operator stand best first: the heuristic takes the first that is allowed, the tuner times
 * them all, conformance runs each. Names go into engine files and tactic caches: never reuse one for different
 * arithmetic. */
typedef struct kernel {
  const char *op;
  const char *name; /* "conv.igemm.avx512" */
  int isa;          /* smallest cpu_isa it needs; cuda: smallest compute capability, as in target.isa */
  int isa_max;      /* the newest one that it runs on; 0: all that follow */
  /* NULL or: may this node run here? Static facts only (ranks, dtypes, constant operands, epilogue); any shape within
   * the symbols' ranges must then work. On false *why is a static text ("weights are not constant"). */
  bool (*fits)(const node *n, const char **why);
  kiln_status (*prepare)(kernel_prep *p); /* optional */
  kiln_status (*run)(const kernel_args *a);
  uint32_t
      strided_in; /* bit i: operand i may have any strides (else it is made contiguous first); bit 31: and all after */
  uint32_t strided_out; /* same for results */
  uint32_t inplace; /* bit i: result 0 may be the memory of operand i, if that has the same size and layout and no later
                       use */
  bool epilogue;    /* takes nodes with an epilogue */
  int pack_operand; /* with `packing`: this constant operand is stored packed so */
  const char *packing; /* NULL: none */
  int variant;         /* tells rows that share functions apart: tile sizes, say */
  /* Rows that call a library of the machine: fails, with what to install, where it is missing. `instead`, a row of the same
   * operator, packing and strides, then runs in its place. The heuristic never chooses such rows, the tuner may. */
  kiln_status (*needs)(device *d);
  const char *instead;
} kernel;

/* A way to store a constant. `type` is the plain one. Undoing gives the very same bytes back. A packing without
 * `unpack` is made at load: files keep the plain form, and the first context of an engine makes this one, part by part
 * on all its threads. */
typedef struct packing {
  const char *name;                                   /* "gemm_b:32" */
  bool (*size)(const tensor_type *type, size_t *out); /* false: cannot pack this type */
  void (*pack)(const tensor_type *type, const void *plain, void *packed);
  void (*unpack)(const tensor_type *type, const void *packed, void *plain);
  int64_t (*parts)(const tensor_type *type); /* without `unpack`: into how many parts packing divides */
  void (*pack_part)(const tensor_type *type, const void *plain, void *packed, int64_t part);
} packing;

struct backend {
  const char *name;
  kiln_status (*parse_target)(const char *name, target *out); /* "cpu" picks this machine's best */
  /* Target-specific rewriting (layouts, fusion) of a clone of the portable graph; NULL: none. */
  kiln_status (*rewrite)(const target *t, graph *g);
  const kernel *const *kernels; /* NULL-terminated list of rows */
  const packing *packings;      /* ends with a NULL name */
  const device_hooks *device;   /* NULL: runs on the host */
};

const backend *backend_find(const char *name);
kiln_status target_parse(const char *name, target *out); /* NULL: "cpu" */
const packing *packing_find(const char *name);           /* in all backends */

/* Kernels of `t` for this node, best first; up to `max`. Reasons of refused rows are appended to `why` if not NULL. The
 * last one is always the reference kernel (a kernel row whose run calls op->ref), unless the operator has none. */
int backend_tactics(const target *t, const node *n, const kernel **out, int max, text *why);
const kernel *kernel_find(const char *op_name,
                          const char *kernel_name); /* "reference" gives the reference kernel row */
extern const kernel reference_kernel;

extern const backend backend_reference, backend_cpu, backend_cuda;

#endif
