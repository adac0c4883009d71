/* The pointwise part of recurrent cells: `count` neighbouring hidden units of one batch row. */
#ifndef KILN_BACKENDS_CPU_RNN_H
#define KILN_BACKENDS_CPU_RNN_H

#include <stdbool.h>
#include <stdint.h>

typedef struct rnn_cell {
  const float *gate[4];  /* lstm i f g o; gru r z n (input part); rnn one; already with biases */
  const float *hidden_n; /* gru: hidden part of n, with its bias */
  const float *h;        /* gru: previous state */
  float *c;              /* lstm: cell state, in place */
  float *y;              /* new h */
  int64_t count;
  bool relu; /* rnn: relu instead of tanh */
} rnn_cell;

typedef struct rnn_isa {
  void (*lstm)(const rnn_cell *r);
  void (*gru)(const rnn_cell *r);
  void (*rnn)(const rnn_cell *r);
} rnn_isa;
extern const rnn_isa rnn_isa_scalar, rnn_isa_avx2, rnn_isa_avx512;

#endif
