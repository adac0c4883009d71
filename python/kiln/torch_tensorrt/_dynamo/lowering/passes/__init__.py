"""``torch_tensorrt.dynamo.lowering.passes``."""

from __future__ import annotations

from kiln.torch_tensorrt._lowering import (
    ATEN_POST_LOWERING_PASSES,
    ATEN_PRE_LOWERING_PASSES,
    _aten_lowering_pass,
    _pre_aten_lowering_pass,
    _remove_lowering_pass,
    clean_up_graph_after_modifications,
    dump_lowering_passes,
    post_lowering,
    pre_export_lowering,
)

__all__ = [
    "ATEN_POST_LOWERING_PASSES",
    "ATEN_PRE_LOWERING_PASSES",
    "_aten_lowering_pass",
    "_pre_aten_lowering_pass",
    "_remove_lowering_pass",
    "clean_up_graph_after_modifications",
    "dump_lowering_passes",
    "post_lowering",
    "pre_export_lowering",
]
