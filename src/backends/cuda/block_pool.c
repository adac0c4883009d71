/* Memory in pieces, see block_pool.h. Each chunk has the list of its blocks in the order of their addresses; idle neighbours are one block.
 * Engines have hundreds of blocks, which come and go when engines and contexts do, so that plain lists are fast enough. */
#include "backends/cuda/block_pool.h"

#include "base/memory.h"

typedef enum block_state { BLOCK_IDLE, BLOCK_USED, BLOCK_SUSPECT } block_state;

typedef struct block {
  size_t offset, bytes;
  block_state state;
  struct block *next;
} block;

struct block_chunk {
  uint64_t at;
  size_t bytes, used; /* `used` of blocks that are handed out */
  bool suspect;       /* it has blocks that only the driver may hand out again */
  block *blocks;
  struct block_chunk *next;
};

/* ---- chunks ------------------------------------------------------------------------------------------------------ */

static void chunk_free(block_chunk *c) {
  for (block *b = c->blocks, *next; b; b = next) {
    next = b->next;
    mem_free(b);
  }
  mem_free(c);
}

static void chunk_give_back(block_pool *p, block_chunk **at) {
  block_chunk *c = *at;
  *at = c->next;
  p->held -= c->bytes;
  p->give_back(p->user, c->at, c->bytes);
  chunk_free(c);
}

static block_result chunk_new(block_pool *p, size_t bytes, block_chunk **out, int *out_code) {
  if (p->limit && (bytes > p->limit || p->held > p->limit - bytes)) return BLOCK_OVER_LIMIT;
  block_chunk *c = mem_calloc(1, sizeof *c);
  if (c) c->blocks = mem_calloc(1, sizeof *c->blocks);
  if (!c || !c->blocks) {
    mem_free(c);
    return BLOCK_NO_HOST;
  }
  *out_code = p->obtain(p->user, bytes, &c->at);
  if (*out_code) {
    chunk_free(c);
    return BLOCK_REFUSED;
  }
  c->bytes = c->blocks->bytes = bytes;
  c->next = p->chunks;
  p->chunks = c;
  p->held += bytes;
  *out = c;
  return BLOCK_OK;
}

void block_pool_trim(block_pool *p) {
  for (block_chunk **at = &p->chunks; *at;) {
    if ((*at)->used == 0)
      chunk_give_back(p, at);
    else
      at = &(*at)->next;
  }
}

void block_pool_clear(block_pool *p) {
  while (p->chunks) chunk_give_back(p, &p->chunks);
  p->used = 0;
}

/* ---- taking ------------------------------------------------------------------------------------------------------ */

/* The smallest idle block that is large enough. */
static block *find_idle(const block_pool *p, size_t bytes, block_chunk **out) {
  block *best = NULL;
  for (block_chunk *c = p->chunks; c; c = c->next) {
    if (c->bytes - c->used < bytes) continue;
    for (block *b = c->blocks; b; b = b->next) {
      if (b->state != BLOCK_IDLE || b->bytes < bytes || (best && best->bytes <= b->bytes)) continue;
      best = b;
      *out = c;
    }
  }
  return best;
}

/* What is left of the block becomes an idle one; without memory for that, the block is handed out whole. */
static uint64_t use_block(block_pool *p, block_chunk *c, block *b, size_t bytes) {
  block *rest = b->bytes > bytes ? mem_calloc(1, sizeof *rest) : NULL;
  if (rest) {
    *rest = (block){b->offset + bytes, b->bytes - bytes, BLOCK_IDLE, b->next};
    b->next = rest;
    b->bytes = bytes;
  }
  b->state = BLOCK_USED;
  c->used += b->bytes;
  p->used += b->bytes;
  return c->at + b->offset;
}

/* Up to a multiple of `to`; SIZE_MAX where that is too large. */
static size_t round_up(size_t bytes, size_t to) {
  const size_t over = bytes % to;
  if (!over) return bytes;
  return bytes > SIZE_MAX - (to - over) ? SIZE_MAX : bytes + (to - over);
}

/* Small blocks share chunks, that grow with what is held already: little is idle behind a small engine's weights. */
static size_t chunk_size(const block_pool *p, size_t bytes) {
  size_t size = p->held / 4 < p->chunk_most ? p->held / 4 : p->chunk_most;
  if (size < bytes || bytes > p->chunk_most / 2) size = bytes;
  return round_up(size, p->granule);
}

block_result block_pool_take(block_pool *p, size_t bytes, uint64_t *out, int *out_code) {
  block_chunk *c = NULL;
  *out_code = 0;
  bytes = round_up(bytes ? bytes : 1, BLOCK_ALIGN);
  block *b = p->direct ? NULL : find_idle(p, bytes, &c);
  if (!b) {
    const size_t wanted[] = {p->direct ? bytes : chunk_size(p, bytes), round_up(bytes, p->granule), bytes};
    block_result result = chunk_new(p, wanted[0], &c, out_code);
    for (int i = 1; i < 3 && (result == BLOCK_OVER_LIMIT || result == BLOCK_REFUSED); i++) {
      block_pool_trim(p);
      result = chunk_new(p, wanted[i], &c, out_code);
    }
    if (result != BLOCK_OK) return result;
    b = c->blocks;
  }
  *out = use_block(p, c, b, bytes);
  return BLOCK_OK;
}

/* ---- giving back ------------------------------------------------------------------------------------------------- */

static void merge_idle(block_chunk *c) {
  for (block *b = c->blocks; b && b->next;) {
    block *next = b->next;
    if (b->state != BLOCK_IDLE || next->state != BLOCK_IDLE) {
      b = next;
      continue;
    }
    b->bytes += next->bytes;
    b->next = next->next;
    mem_free(next);
  }
}

/* Bytes of chunks that have no block in use. */
static size_t idle_bytes(const block_pool *p) {
  size_t idle = 0;
  for (const block_chunk *c = p->chunks; c; c = c->next) idle += c->used == 0 ? c->bytes : 0;
  return idle;
}

bool block_pool_put(block_pool *p, uint64_t at, bool suspect) {
  block_chunk **link = &p->chunks;
  while (*link && (at < (*link)->at || at - (*link)->at >= (*link)->bytes)) link = &(*link)->next;
  block_chunk *c = *link;
  block *b = c ? c->blocks : NULL;
  while (b && c->at + b->offset != at) b = b->next;
  if (!b || b->state != BLOCK_USED) return false;
  c->used -= b->bytes;
  p->used -= b->bytes;
  b->state = suspect ? BLOCK_SUSPECT : BLOCK_IDLE;
  c->suspect = c->suspect || suspect;
  merge_idle(c);
  if (c->used == 0 && (p->direct || c->suspect || idle_bytes(p) > p->keep)) chunk_give_back(p, link);
  return true;
}
