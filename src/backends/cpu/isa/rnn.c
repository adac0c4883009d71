/* Cells of recurrent layers over vectors of hidden units. */
#include "backends/cpu/rnn.h"

#include "backends/cpu/simd/f32.h"

static void lstm(const rnn_cell *r) {
  for (int64_t j = 0; j < r->count; j += VF) {
    const vm m = vf_tail(r->count - j < VF ? r->count - j : VF);
    const vf i = vf_sigmoid(vf_load_mask(r->gate[0] + j, m)), f = vf_sigmoid(vf_load_mask(r->gate[1] + j, m));
    const vf g = vf_tanh(vf_load_mask(r->gate[2] + j, m)), o = vf_sigmoid(vf_load_mask(r->gate[3] + j, m));
    const vf c = vf_fma(f, vf_load_mask(r->c + j, m), vf_mul(i, g));
    vf_store_mask(r->c + j, m, c);
    vf_store_mask(r->y + j, m, vf_mul(o, vf_tanh(c)));
  }
}

/* h = n + z (h - n) */
static void gru(const rnn_cell *r) {
  for (int64_t j = 0; j < r->count; j += VF) {
    const vm m = vf_tail(r->count - j < VF ? r->count - j : VF);
    const vf reset = vf_sigmoid(vf_load_mask(r->gate[0] + j, m)), z = vf_sigmoid(vf_load_mask(r->gate[1] + j, m));
    const vf n = vf_tanh(vf_fma(reset, vf_load_mask(r->hidden_n + j, m), vf_load_mask(r->gate[2] + j, m)));
    vf_store_mask(r->y + j, m, vf_fma(z, vf_sub(vf_load_mask(r->h + j, m), n), n));
  }
}

static void plain(const rnn_cell *r) {
  for (int64_t j = 0; j < r->count; j += VF) {
    const vm m = vf_tail(r->count - j < VF ? r->count - j : VF);
    const vf v = vf_load_mask(r->gate[0] + j, m);
    vf_store_mask(r->y + j, m, r->relu ? vf_max(vf_zero(), v) : vf_tanh(v));
  }
}

const rnn_isa KERNEL(rnn_isa) = {lstm, gru, plain};
