"""The models of run.py: which there are, and how to make a small one of each with inputs that fit."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any, Optional

import torch

__all__ = ["Case", "listing", "make"]


@dataclasses.dataclass
class Case:
    """A model, sets of keyword arguments of one shape, and the dimensions of each that may vary, by name: "batch", "length"."""

    model: torch.nn.Module
    sets: list[dict[str, Any]]
    varying: dict[str, dict[int, str]] = dataclasses.field(default_factory=dict)
    tolerance: Optional[float] = None
    remake: Any = None  # (sizes) -> a set of arguments

    def resized(self, left: dict[tuple[str, int], tuple[float, float]]) -> Iterator[dict[str, Any]]:
        """Sets of arguments of other sizes, in the dimensions that `left` says vary, within their ranges."""
        names = {self.varying[name][d] for name, d in left if d in self.varying.get(name, {})}
        fixed = {n for dims in self.varying.values() for n in dims.values()} - names
        # A dimension that varies in some arguments only: those have no sizes in common.
        partly = {n for name, dims in self.varying.items() for d, n in dims.items() if (name, d) not in left} & names
        for sizes in ({"batch": 3, "length": 11}, {"batch": 4, "length": 24}):
            for (argument, d), (low, high) in left.items():
                n = self.varying.get(argument, {}).get(d)
                if n in sizes:
                    sizes[n] = int(min(max(sizes[n], low), high))
            yield self.remake({n: s for n, s in sizes.items() if n not in fixed | partly})


def shake(model: torch.nn.Module) -> torch.nn.Module:
    """Gives parameters and statistics that start as one number (norms, layer scales, heads) different ones, so that errors in them show."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point() and parameter.numel() > 1 and parameter.min() == parameter.max():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.add_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.mul_(0.75 + 0.5 * torch.rand(module.running_var.shape, generator=generator))
    return model


def listing(suite: str, heads: bool = False) -> list[tuple[str, str]]:
    """(family, model) of all models of a suite."""
    if suite == "transformers":
        import small_transformers

        return small_transformers.listing(heads)
    return timm_models() if suite == "timm" else torchvision_models()


def make(suite: str, family: str, name: str) -> Case:
    if suite == "transformers":
        import small_transformers

        return small_transformers.make(family, name)
    return make_classifier(suite, name)


# ---- Image classifiers -----------------------------------------------------------------------------------------------------------

# What the names of small models have in them, smallest first.
SMALL = (
    "atto",
    "femto",
    "pico",
    "xxs",
    "xxtiny",
    "nano",
    "xxsmall",
    "xs",
    "xtiny",
    "tiny",
    "mini",
    "_t_",
    "b0",
    "18",
    "small",
    "_s",
    "050",
)


def smallest(names: list[str]) -> str:
    """The one that is probably the smallest: making each to see would take minutes."""

    def key(name: str) -> tuple[int, int, str]:
        return next((i for i, mark in enumerate(SMALL) if mark in name), len(SMALL)), len(name), name

    return min(names, key=key)


def timm_models() -> list[tuple[str, str]]:
    import timm
    from timm.models import _registry

    modules: dict[str, list[str]] = {}
    for name in timm.list_models():
        module = _registry._model_to_module[name] if hasattr(_registry, "_model_to_module") else None
        modules.setdefault(module or timm.model_entrypoint(name).__module__.rpartition(".")[2], []).append(name)

    def candidates(names: list[str]) -> list[str]:
        """Those for images of 1024 pixels take PyTorch itself minutes on a CPU: SAM has one for 224, too."""
        names = [n for n in names if not n.startswith("test_")] or names
        configs = {n: timm.get_pretrained_cfg(n) for n in names}
        return [n for n, c in configs.items() if not c or max(c.input_size) < 1000] or names

    return sorted((family, smallest(candidates(names))) for family, names in modules.items())


def torchvision_models() -> list[tuple[str, str]]:
    import torchvision

    modules: dict[str, list[str]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        family = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        modules.setdefault(family, []).append(name)
    return sorted((family, smallest(names)) for family, names in modules.items())


def make_classifier(suite: str, name: str) -> Case:
    if suite == "timm":
        import timm

        model = timm.create_model(name, pretrained=False)
        shape = tuple(model.default_cfg.get("input_size", (3, 224, 224)))
    else:
        import torchvision

        model = torchvision.models.get_model(name, weights=None)
        shape = (3, 299, 299) if name == "inception_v3" else (3, 224, 224)
    model = shake(model.eval())
    generator = torch.Generator().manual_seed(2)
    # timm's models call it x, torchvision's do too, all but one
    parameter = next(iter(inspect.signature(model.forward).parameters))

    def remake(sizes: dict[str, int]) -> dict[str, Any]:
        return {parameter: torch.randn(sizes.get("batch", 2), *shape, generator=generator)}

    return Case(model, [remake({}), remake({})], {parameter: {0: "batch"}}, remake=remake)
