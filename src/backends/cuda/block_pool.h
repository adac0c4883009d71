/* Memory in pieces: large chunks of the driver's, from which blocks are handed out. What is given back is used again, up to a bound
 * of idle bytes, and all that the driver gives counts towards a limit. Knows no GPU: where chunks come from is the owner's. */
#ifndef KILN_BACKENDS_CUDA_BLOCK_POOL_H
#define KILN_BACKENDS_CUDA_BLOCK_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BLOCK_ALIGN = 512 };

typedef struct block_chunk block_chunk;

typedef struct block_pool {
  /* The owner's: 0, or a code of the driver. */
  int (*obtain)(void *user, size_t bytes, uint64_t *out);
  void (*give_back)(void *user, uint64_t at, size_t bytes);
  void *user;
  size_t granule;      /* the driver hands out multiples of it */
  size_t chunk_most;   /* chunks that blocks share are no larger */
  size_t keep;         /* idle bytes that stay */
  size_t limit;        /* of `held`; 0: none */
  bool direct;         /* each block is a chunk of its own, and nothing is kept: checkers of memory see every bound */
  block_chunk *chunks; /* the pool's */
  size_t held, used;   /* bytes of the driver's, and handed out of them */
} block_pool;

typedef enum block_result {
  BLOCK_OK,
  BLOCK_OVER_LIMIT, /* the limit does not allow it */
  BLOCK_REFUSED,    /* by the driver, with *out_code */
  BLOCK_NO_HOST     /* the pool's own lists found no memory */
} block_result;

/* A block of `bytes` (0 counts as 1), aligned to BLOCK_ALIGN. Chunks that lie idle go back to the driver first where memory is short. */
block_result block_pool_take(block_pool *p, size_t bytes, uint64_t *out, int *out_code);
/* Nothing uses it any more; or, `suspect`, something of the driver's queues still may: then it is not handed out again before the driver,
 * which waits for them, has had it back. False: it is no block of the pool. */
bool block_pool_put(block_pool *p, uint64_t at, bool suspect);
void block_pool_trim(block_pool *p);  /* gives back all idle chunks */
void block_pool_clear(block_pool *p); /* and those in use */

#endif
