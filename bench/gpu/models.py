"""Models of the GPU tables: name and batch to an fp32 module in eval mode and its example inputs, all on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Pick(nn.Module):
    """One tensor of what a transformers model returns."""

    def __init__(self, model: nn.Module, field: str = "last_hidden_state", **options: Any) -> None:
        super().__init__()
        self.model, self.field, self.options = model, field, options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self.model(x, **self.options), self.field)


class DecodeStep(nn.Module):
    """One token of a decoder against a cache of [layers, 2, batch, heads, length, head size]: last hidden state, and what the cache gains."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import transformers as tf

        past, length = tf.DynamicCache(), cache.shape[4]
        for i in range(cache.shape[0]):
            past.update(cache[i, 0], cache[i, 1], i)
        place = torch.full((1, 1), length, device=x.device)
        out = self.model(x, past_key_values=past, use_cache=True, position_ids=place, cache_position=place[0])
        gained = [torch.stack([layer.keys[:, :, length:], layer.values[:, :, length:]]) for layer in past.layers]
        return out.last_hidden_state, torch.stack(gained)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = [64, 128, 256, 512]

        def double(i: int, o: int) -> nn.Sequential:
            layers = []
            for k in (i, o):
                layers += [nn.Conv2d(k, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
            return nn.Sequential(*layers)

        self.down = nn.ModuleList([double(3, 64)] + [double(widths[i], widths[i + 1]) for i in range(3)])
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList([nn.ConvTranspose2d(widths[i + 1], widths[i], 2, 2) for i in range(3)])
        self.merge = nn.ModuleList([double(2 * widths[i], widths[i]) for i in range(3)])
        self.out = nn.Conv2d(64, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else self.pool(x))
            kept.append(x)
        for i in (2, 1, 0):
            x = self.merge[i](torch.cat([kept[i], self.up[i](x)], 1))
        return self.out(x)


def _calibrate(model: nn.Module) -> None:
    """Running statistics as after training: with random weights and none, activations vanish in deep models."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not norms:
        return
    for layer in norms:
        layer.train()
        layer.momentum = None
    with torch.no_grad():
        model(torch.randn(8, 3, 224, 224))
    model.eval()


def make(name: str, batch: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)

    def image(size: int = 224) -> tuple[torch.Tensor, ...]:
        return (torch.randn(batch, 3, size, size),)

    def ids(length: int, vocabulary: int) -> tuple[torch.Tensor, ...]:
        return (torch.randint(0, vocabulary, (batch, length)),)

    if name == "unet":
        return UNet().eval(), image(256)
    if name in ("bert_base", "gpt2", "llama1b", "llama1b_decode", "whisper_tiny", "segformer_b0"):
        import transformers as tf

        if name == "bert_base":
            return Pick(tf.BertModel(tf.BertConfig(attn_implementation="sdpa"))).eval(), ids(128, 30000)
        if name == "gpt2":
            return Pick(tf.GPT2LMHeadModel(tf.GPT2Config()), "logits", use_cache=False).eval(), ids(512, 50000)
        if name.startswith("llama1b"):
            config = tf.LlamaConfig(
                hidden_size=2048,
                intermediate_size=8192,
                num_hidden_layers=16,
                num_attention_heads=32,
                num_key_value_heads=8,
                vocab_size=32000,
            )
            model = tf.LlamaModel(config).eval()
            if name == "llama1b":
                return Pick(model, use_cache=False).eval(), ids(512, 32000)
            return DecodeStep(model).eval(), (*ids(1, 32000), torch.randn(16, 2, batch, 8, 512, 64))
        if name == "segformer_b0":
            return Pick(tf.SegformerForSemanticSegmentation(tf.SegformerConfig(num_labels=150)), "logits").eval(), image(512)
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        config = tf.WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
        return Pick(WhisperEncoder(config)).eval(), (torch.randn(batch, 80, 3000),)
    import torchvision.models as tv

    model = getattr(tv, name)(weights=None)
    for layer in model.modules():  # heads that torchvision starts at zero would hide errors
        if isinstance(layer, nn.Linear) and layer.weight.abs().max() == 0:
            nn.init.normal_(layer.weight, std=0.02)
    model.eval()
    _calibrate(model)
    return model, image()
