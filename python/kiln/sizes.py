"""Sizes in exported programs: arithmetic on them that torch.export.save cannot write, and the conditions that they must meet."""

from __future__ import annotations

import copy
import functools
import math
import operator
import os
from typing import Any

import sympy
import torch

from kiln import rewrite

__all__ = ["size_guards", "writable"]

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_KILN = os.path.dirname(os.path.abspath(__file__)) + os.sep


def writable(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without the arithmetic on sizes that torch.export.save cannot write: sums of many, and rounding.

    Of rounded sizes files hold the expression besides, so that any operator with an integer result will do.
    """

    def unknown(node: torch.fx.Node) -> bool:
        rounded = node.target in (math.ceil, math.floor, round) and isinstance(node.meta.get("val"), torch.SymInt)
        return node.op == "call_function" and (node.target is torch.sym_sum or rounded)

    if not any(map(unknown, program.graph.nodes)):
        return program
    graph = copy.deepcopy(program.graph)
    for node in filter(unknown, list(graph.nodes)):
        with graph.inserting_before(node):
            if node.target is torch.sym_sum:
                terms = list(node.args[0])
                new = functools.reduce(lambda total, term: rewrite.call(graph, operator.add, total, term), terms)
            else:
                new = graph.call_function(torch.sym_int, (node.args[0],))
                new.meta.update(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    return rewrite.with_graph(program, graph)


def _asked_by_pytorch(guard: Any) -> bool:
    """Whether PyTorch's own code compared the sizes, for strides and checks that change no result, and not the model's."""
    frame = getattr(getattr(guard, "sloc", None), "framework_loc", None)
    file = getattr(frame, "filename", None)
    if file is None:
        return True
    if file.startswith(os.path.join(_TORCH, "_decomp")) and isinstance(guard.expr, sympy.Eq):
        return False  # the number of pieces that a tensor is cut into
    for root in (_TORCH, _KILN):
        if file.startswith(root):
            inner = file[len(root) :]
            return root == _KILN or inner.startswith(
                ("_", *(f"{folder}{os.sep}" for folder in ("export", "fx", "utils", "library")))
            )
    return False


def size_guards(program: torch.export.ExportedProgram) -> list[str]:
    """What sizes a program is right for, as torch.export writes it into files.

    Of a program that was captured here: "True" and what the model's own code asked. Else what its file says.
    """
    found = getattr(program, "_guards_code", None)
    convert = getattr(torch.export.exported_program, "_convert_guards_to_code", None)
    shapes = getattr(torch.export.exported_program, "_get_shape_env", lambda _: None)(program.graph_module)
    guards = getattr(shapes, "guards", None)
    if not found or not guards or convert is None:
        return list(found or [])
    try:
        shapes.guards = [guard for guard in guards if not _asked_by_pytorch(guard)]
        return ["True", *convert(program.graph_module)]
    finally:
        shapes.guards = guards
