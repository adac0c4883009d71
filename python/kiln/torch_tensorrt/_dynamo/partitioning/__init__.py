"""``torch_tensorrt.dynamo.partitioning``: what runs in engines, without building any."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from kiln import checks, compiler
from kiln.partition import PartitionReport, partition
from kiln.torch_tensorrt._settings import note

__all__ = ["partition_report", "register_atomic_subgraph"]


def partition_report(
    program: torch.export.ExportedProgram,
    min_block_size: int = 1,
    torch_executed_ops: Collection[Any] = (),
    torch_executed_modules: Collection[str] = (),
) -> PartitionReport:
    """How ``compile`` would cut an exported program; the report of ``dryrun=True``."""
    checks.check("partition_report", "program", program, checks.instance(torch.export.ExportedProgram, "an ExportedProgram"))
    checks.check("partition_report", "min_block_size", min_block_size, checks.count(1))
    return partition(
        compiler.decompose(program),
        torch_executed_ops=torch_executed_ops,
        torch_executed_modules=torch_executed_modules,
        min_block_size=min_block_size,
        dryrun=True,
    )[1]


def register_atomic_subgraph(init_args: Any = (), is_core_aten: bool = False) -> Any:
    """Decorator; accepted: engines fuse over whatever they hold, and pieces are as large as they can be."""

    def register(kind: Any) -> Any:
        note("register_atomic_subgraph", "pieces are cut only at operators that run in PyTorch")
        return kind

    return register
