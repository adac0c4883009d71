"""The models that every release must compile: how to make each, what to call it with, and which sizes may vary.

`full` is the real size, `tiny` the same architecture with small widths. Weights are random with a fixed seed unless the model
comes from a package that ships trained ones (see trained.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import convnets
import kiln
import trained

LONGEST = 128


@dataclass(frozen=True)
class Model:
    """One model of the list.

    make(size)          the module in eval mode
    inputs(size, n, s)  positional arguments for batch n and, for sequences, length s
    ranges(size)        kiln.Input for each tensor, with batch 1..8 and length 8..128; None: static only
    """

    name: str
    make: Callable[[str], nn.Module]
    inputs: Callable[[str, int, int], tuple[Any, ...]]
    ranges: Callable[[str], Sequence[Any]] | None
    sequence: int = 0  # the length at batch 1; 0: not a sequence
    tolerance: float = 1e-4
    trained: bool = False
    sizes: tuple[str, ...] = ("full", "tiny")

    def module(self, size: str = "full") -> nn.Module:
        torch.manual_seed(0)
        with torch.no_grad():
            return self.make(size).eval()

    def example(self, size: str = "full", batch: int = 1, length: int | None = None) -> tuple[Any, ...]:
        torch.manual_seed(1 + batch)
        return self.inputs(size, batch, length or self.sequence)


MODELS: dict[str, Model] = {}


def _add(model: Model) -> None:
    MODELS[model.name] = model


# ---- Images ----------------------------------------------------------------------------------------------------------


def _image(name: str, full: Callable[[], nn.Module], tiny: Callable[[], nn.Module], side: int, small: int, **options: Any) -> None:
    def shape(size: str) -> tuple[int, int, int]:
        return (3, side, side) if size == "full" else (3, small, small)

    _add(
        Model(
            name,
            lambda size: convnets.randomize(full() if size == "full" else tiny()),
            lambda size, n, _: (torch.randn(n, *shape(size)),),
            lambda size: [kiln.Input(min_shape=(1, *shape(size)), opt_shape=(4, *shape(size)), max_shape=(8, *shape(size)))],
            **options,
        )
    )


_image("resnet18", lambda: convnets.ResNet((2, 2, 2, 2), False), lambda: convnets.ResNet((1, 1, 1, 1), False, 16, 10), 224, 64)
_image(
    "resnet50",
    lambda: convnets.ResNet((3, 4, 6, 3), True),
    lambda: convnets.ResNet((1, 1, 1, 1), True, 16, 10),
    224,
    64,
    tolerance=1e-3,
)
_image("mobilenet_v2", convnets.mobilenet_v2, lambda: convnets.mobilenet_v2(4), 224, 64)
_image("efficientnet_b0", convnets.efficientnet_b0, lambda: convnets.efficientnet_b0(4), 224, 64)
_image("vgg16", convnets.vgg16, lambda: convnets.vgg16(8, 2, 10), 224, 64)
_image("densenet121", convnets.densenet, lambda: convnets.densenet((2, 2), 8, 10), 224, 64, tolerance=1e-3)
_image("squeezenet", convnets.squeezenet, lambda: convnets.squeezenet(4, 10), 224, 64)
_image("unet", lambda: convnets.UNet(32, 4), lambda: convnets.UNet(8, 2), 256, 64)
_image("unet_bilinear", lambda: convnets.UNet(16, 3, bilinear=True), lambda: convnets.UNet(8, 2, bilinear=True), 128, 64)


class Features(nn.Module):
    """One output of a `transformers` model, by name."""

    def __init__(self, model: nn.Module, output: str = "last_hidden_state", **options: Any) -> None:
        super().__init__()
        self.model, self.output, self.options = model, output, options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self.model(x, **self.options), self.output)


def _vit(size: str) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    if size == "full":
        return Features(ViTForImageClassification(ViTConfig(num_labels=1000)), "logits")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return Features(ViTForImageClassification(ViTConfig(**small, image_size=64, num_labels=10)), "logits")


def _convnext(size: str) -> nn.Module:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    if size == "full":
        return Features(ConvNextForImageClassification(ConvNextConfig(num_labels=1000)), "logits")
    return Features(
        ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 2, 1], num_labels=10)), "logits"
    )


def _swin(size: str) -> nn.Module:
    from transformers import SwinConfig, SwinForImageClassification

    if size == "full":
        return Features(SwinForImageClassification(SwinConfig(num_labels=1000)), "logits")
    small = {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    return Features(SwinForImageClassification(SwinConfig(**small, num_labels=10)), "logits")


def _segformer(size: str) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    if size == "full":
        return Features(SegformerForSemanticSegmentation(SegformerConfig(num_labels=150)), "logits")
    config = SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16, num_labels=5
    )
    return Features(SegformerForSemanticSegmentation(config), "logits")


def _photo(name: str, make: Callable[[str], nn.Module], side: int = 224, small: int = 64, tolerance: float = 1e-4) -> None:
    def shape(size: str) -> tuple[int, int, int]:
        return (3, side, side) if size == "full" else (3, small, small)

    _add(
        Model(
            name,
            make,
            lambda size, n, _: (torch.randn(n, *shape(size)),),
            lambda size: [kiln.Input(min_shape=(1, *shape(size)), opt_shape=(4, *shape(size)), max_shape=(8, *shape(size)))],
            tolerance=tolerance,
        )
    )


_photo("vit_b16", _vit)
_photo("convnext_tiny", _convnext)
_photo("swin_tiny", _swin)
_photo("segformer_b0", _segformer, 256)


# ---- Text ------------------------------------------------------------------------------------------------------------


class Masked(nn.Module):
    """An encoder with a padding mask."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def _tokens(vocabulary: int, masked: bool, n: int, s: int) -> tuple[torch.Tensor, ...]:
    ids = torch.randint(1, vocabulary, (n, s))
    if not masked:
        return (ids,)
    mask = torch.ones(n, s, dtype=torch.int64)
    if n > 1:
        mask[-1, s // 2 :] = 0  # the last sentence is shorter
    return ids, mask


def _text(
    name: str,
    make: Callable[[str], nn.Module],
    vocabulary: dict[str, int],
    masked: bool,
    tolerance: float = 1e-4,
    **options: Any,
) -> None:
    ranged = kiln.Input(min_shape=(1, 8), opt_shape=(4, 64), max_shape=(8, LONGEST), dtype=torch.int64)
    _add(
        Model(
            name,
            make,
            lambda size, n, s: _tokens(vocabulary[size], masked, n, s),
            lambda size: [ranged] * (2 if masked else 1),
            sequence=LONGEST,
            tolerance=tolerance,
            **options,
        )
    )


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100}


def _bert(size: str) -> nn.Module:
    from transformers import BertConfig, BertModel

    return Masked(BertModel(BertConfig() if size == "full" else BertConfig(**SMALL)))


def _distilbert(size: str) -> nn.Module:
    from transformers import DistilBertConfig, DistilBertModel

    config = (
        DistilBertConfig() if size == "full" else DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=100)
    )
    return Masked(DistilBertModel(config))


def _gpt2(size: str) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config() if size == "full" else GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=100)
    return Features(GPT2LMHeadModel(config), "logits", use_cache=False)


def _t5(size: str) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    small = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 100}
    return Masked(T5EncoderModel(T5Config() if size == "full" else T5Config(**small)))


def _llama(size: str) -> nn.Module:
    from transformers import LlamaConfig, LlamaModel

    config = (
        LlamaConfig(
            hidden_size=1024,
            intermediate_size=2816,
            num_hidden_layers=2,
            num_attention_heads=16,
            num_key_value_heads=4,
            vocab_size=8000,
        )
        if size == "full"
        else LlamaConfig(**{**SMALL, "num_attention_heads": 4}, num_key_value_heads=2)
    )
    return Features(LlamaModel(config), use_cache=False)


_text("bert_base", _bert, {"full": 30522, "tiny": 100}, True)
_text("distilbert", _distilbert, {"full": 30522, "tiny": 100}, True)
_text("gpt2", _gpt2, {"full": 50257, "tiny": 100}, False)
_text("t5_encoder", _t5, {"full": 32128, "tiny": 100}, True)
_text("llama_block", _llama, {"full": 8000, "tiny": 100}, False)


# ---- Sound, sequences, tables ----------------------------------------------------------------------------------------


def _whisper(size: str) -> nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    small = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "max_source_positions": 100}
    tiny = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
    return Features(WhisperEncoder(WhisperConfig(**(tiny if size == "full" else small))))


def _frames(size: str) -> int:
    return 3000 if size == "full" else 200


_add(
    Model(
        "whisper_tiny_encoder",
        _whisper,
        lambda size, n, _: (torch.randn(n, 80, _frames(size)),),
        lambda size: [
            kiln.Input(min_shape=(1, 80, _frames(size)), opt_shape=(2, 80, _frames(size)), max_shape=(8, 80, _frames(size)))
        ],
    )
)


class Recurrent(nn.Module):
    """A recurrent network that gives all states, and the last ones of each layer."""

    def __init__(self, kind: type[nn.Module], width: int, hidden: int, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(width, hidden, batch_first=True, **options)

    def forward(self, x: torch.Tensor) -> Any:
        return self.rnn(x)


def _recurrent(name: str, kind: type[nn.Module], **options: Any) -> None:
    width = {"full": 256, "tiny": 8}
    _add(
        Model(
            name,
            lambda size: Recurrent(kind, width[size], 2 * width[size], **options),
            lambda size, n, s: (torch.randn(n, s, width[size]),),
            lambda size: [
                kiln.Input(min_shape=(1, 8, width[size]), opt_shape=(4, 64, width[size]), max_shape=(8, LONGEST, width[size]))
            ],
            sequence=64,
        )
    )


_recurrent("lstm", nn.LSTM, num_layers=2)
_recurrent("lstm_bidirectional", nn.LSTM, num_layers=1, bidirectional=True)
_recurrent("gru", nn.GRU, num_layers=2)


class Recommender(nn.Module):
    """DLRM (Naumov et al., 2019): embeddings of categories, an MLP over numbers, and their pairwise products."""

    def __init__(self, rows: int, dim: int, tables: int, dense: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, dim) for _ in range(tables))
        self.bottom = nn.Sequential(nn.Linear(dense, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim), nn.ReLU())
        pairs = (tables + 1) * tables // 2
        self.top = nn.Sequential(nn.Linear(dim + pairs, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, 1), nn.Sigmoid())
        rows_, columns = torch.tril_indices(tables + 1, tables + 1, -1)
        self.register_buffer("pairs", rows_ * (tables + 1) + columns, persistent=False)

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        x = self.bottom(numbers)
        vectors = torch.stack([x, *(table(categories[:, i]) for i, table in enumerate(self.tables))], 1)
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        return self.top(torch.cat([x, products.index_select(1, self.pairs)], 1))


_add(
    Model(
        "dlrm",
        lambda size: Recommender(10000, 64, 26, 13) if size == "full" else Recommender(50, 8, 4, 13),
        lambda size, n, _: (
            torch.randn(n, 13),
            torch.randint(0, 10000 if size == "full" else 50, (n, 26 if size == "full" else 4)),
        ),
        lambda size: [
            kiln.Input(min_shape=(1, 13), opt_shape=(4, 13), max_shape=(8, 13)),
            kiln.Input(
                min_shape=(1, 26 if size == "full" else 4),
                opt_shape=(4, 26 if size == "full" else 4),
                max_shape=(8, 26 if size == "full" else 4),
                dtype=torch.int64,
            ),
        ],
    )
)

_add(
    Model(
        "tcn",
        lambda size: convnets.randomize(convnets.tcn(*((64, 6) if size == "full" else (16, 3)))),
        lambda size, n, s: (torch.randn(n, 16, s),),
        lambda size: [kiln.Input(min_shape=(1, 16, 8), opt_shape=(4, 16, 64), max_shape=(8, 16, LONGEST))],
        sequence=LONGEST,
    )
)


# ---- Trained weights -------------------------------------------------------------------------------------------------


def _trained(
    name: str,
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    batch: tuple[int, int] = (1, 8),
    positive: bool = False,
    tolerance: float = 1e-4,
) -> None:
    def inputs(_: str, n: int, __: int) -> tuple[torch.Tensor, ...]:
        x = torch.randn(n, *shape)
        return (x.abs() if positive else x,)

    _add(
        Model(
            name,
            lambda size: make(),
            inputs,
            lambda size: [kiln.Input(min_shape=(batch[0], *shape), opt_shape=(4, *shape), max_shape=(batch[1], *shape))],
            tolerance=tolerance,
            trained=True,
            sizes=("full",),
        )
    )


_text("minilm", lambda size: trained.minilm(), {"full": 30522}, True, trained=True, sizes=("full",))
_trained("crepe_tiny", functools.partial(trained.crepe, "tiny"), (1024,))
_trained("crepe_full", functools.partial(trained.crepe, "full"), (1024,))
_trained("mtcnn_pnet", functools.partial(trained.mtcnn, "PNet"), (3, 48, 64))
_trained("mtcnn_rnet", functools.partial(trained.mtcnn, "RNet"), (3, 24, 24))
_trained("mtcnn_onet", functools.partial(trained.mtcnn, "ONet"), (3, 48, 48))
_trained("efficientnet_lite0", trained.efficientnet_lite0, (3, 224, 224))
_trained("resemblyzer", trained.resemblyzer, (160, 40), positive=True)


def _thai(size: str, n: int, s: int) -> tuple[Any, ...]:
    characters, syllables = torch.randint(1, 50, (n, s)), torch.randint(1, 400, (n, s))
    return ((torch.stack([characters, syllables], 1), torch.full((n,), s)),)


_add(
    Model(
        "attacut",
        lambda size: trained.attacut("sc"),
        _thai,
        lambda size: [
            (
                kiln.Input(min_shape=(1, 2, 8), opt_shape=(4, 2, 64), max_shape=(8, 2, LONGEST), dtype=torch.int64),
                kiln.Input(min_shape=(1,), opt_shape=(4,), max_shape=(8,), dtype=torch.int64),
            )
        ],
        sequence=LONGEST,
        trained=True,
        sizes=("full",),
    )
)
