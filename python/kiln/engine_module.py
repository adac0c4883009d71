"""The part of compiled ScriptModules that holds the engine, as TorchScript source: no ``from __future__`` here.

``__setstate__`` makes the engine, so each loaded or copied module has one of its own, which is freed with the module.
"""

import torch

__all__ = ["EngineModule", "PlainEngineModule", "StatefulEngineModule"]


class EngineModule(torch.nn.Module):
    kiln_engine: torch.Tensor

    def __init__(self, engine: torch.Tensor) -> None:
        super().__init__()
        self.kiln_engine = engine
        self.training = False

    @torch.jit.export
    def run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return torch.ops.kiln.execute(self.kiln_engine, inputs)

    @torch.jit.export
    def reset(self) -> None:
        torch.ops.kiln.reset(self.kiln_engine)

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return (self.kiln_engine, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.kiln_engine = torch.ops.kiln.load(state[0])
        self.training = state[1]


class StatefulEngineModule(EngineModule):
    @torch.jit.export
    def run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return torch.ops.kiln.execute_stateful(self.kiln_engine, inputs)


class PlainEngineModule(torch.nn.Module):
    """Not for TorchScript but for torch.export and torch.compile: the signature tells them the shapes of results."""

    def __init__(self, engine: torch.Tensor, signature: str) -> None:
        super().__init__()
        self.register_buffer("kiln_engine", engine)
        self.signature = signature
        self.training = False

    def run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return torch.ops.kiln.execute(self.kiln_engine, inputs, self.signature)
