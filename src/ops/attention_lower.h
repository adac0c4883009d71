/* Lowerings of PyTorch's fused transformer pieces (the fast path of nn.MultiheadAttention and
 * nn.TransformerEncoderLayer). */
#ifndef KILN_OPS_ATTENTION_LOWER_H
#define KILN_OPS_ATTENTION_LOWER_H

#include "ops/lowering.h"

kiln_status lower_native_multi_head_attention(lower_call *c);
kiln_status lower_transformer_encoder_layer(lower_call *c);
kiln_status lower_safe_softmax(lower_call *c);

#endif
