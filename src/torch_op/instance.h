/* Instances: what a loaded engine tensor stands for. An instance has an engine, which it shares with every other
 * instance of the same bytes, and contexts of its own, so state (an LSTM's, say) belongs to it alone.
 *
 * A tensor made by kiln::load is found by its address, which no other tensor has while it lives: no lock. Any other
 * uint8 tensor with an engine's bytes (a constant of a frozen module that was saved and loaded again) goes through a
 * small cache that compares content. */
#ifndef KILN_TORCH_OP_INSTANCE_H
#define KILN_TORCH_OP_INSTANCE_H

#include <kiln/kiln.h>
#include <stdatomic.h>

#include "torch_op/torch_abi.h"

typedef struct pair_view { /* a complex tensor as one of pairs of real numbers */
  int64_t shape[KILN_MAX_RANK], strides[KILN_MAX_RANK];
} pair_view;

/* A context and the room that one call needs. One call at a time uses it. */
typedef struct call_slot {
  kiln_context *context;
  int32_t device; /* of an engine for GPUs; else 0 */
  kiln_tensor *inputs, *outputs;
  int64_t (*shapes)[KILN_MAX_RANK]; /* of outputs */
  pair_view *pairs;                 /* of complex inputs */
} call_slot;

typedef struct instance instance;

/* For an engine tensor's own bytes on the CPU. Fails if they are no engine, or damaged. The caller holds one reference.
 */
kiln_status instance_create(const void *bytes, size_t size, instance **out);
instance *instance_retain(instance *i);
void instance_release(instance *i); /* frees with the last reference; accepts NULL */

const kiln_engine *instance_engine(const instance *i);
bool instance_on_gpu(const instance *i); /* compiled for one */

/* Makes the tensor memory that stands for this instance and enters it into the table of addresses. */
kiln_status instance_publish(instance *i, void **out_data, size_t *out_size);
/* Takes it out again and frees it. */
void instance_withdraw(instance *i);
/* The published instance at this address; NULL if there is none. The caller holds the tensor, which keeps it alive. No
 * lock. */
instance *instance_find(const void *data);

/* The instance for a tensor that kiln::load did not make; loads it on the first call. `data` is the tensor's memory if
 * it is on the CPU, else `host` gives its bytes there. The caller gets a reference. */
typedef struct foreign_tensor {
  torch_tensor tensor;
  const void *data;
  size_t size;
  int32_t device, index;
  kiln_status (*host)(torch_tensor tensor, torch_tensor *out_copy, const void **out_data);
} foreign_tensor;
kiln_status instance_find_foreign(const foreign_tensor *t, instance **out);
/* Forgets all instances of foreign tensors that no call uses. */
void instance_clear_foreign(void);

/* Does this memory still begin like the engine that `i` was made from? */
bool instance_matches(const instance *i, const void *data, size_t size);

/* A context for one call on this GPU (0 on the CPU): an idle one, or a new one. Instances with state have only one, so
 * calls wait for each other. */
kiln_status instance_acquire(instance *i, int32_t device, call_slot **out);
void instance_give_back(instance *i, call_slot *s);
void instance_reset(instance *i);

/* The signature of the live engines whose tensors have this many bytes, copied to `out`; false if there is none or they
 * differ. */
bool instance_signature_by_size(size_t bytes, char *out, size_t room);
/* Live instances and engines, for tests. */
void instance_counts(size_t *out_instances, size_t *out_engines);

/* Sets the text of a failure of this layer; instance_error gives it, or else the library's own last text. */
kiln_status instance_fail(kiln_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *instance_error(void);

#endif
