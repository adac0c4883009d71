"""``torch2trt.utils``: the network of converters as a graph for graphviz."""

from __future__ import annotations

from typing import Any

from kiln.torch2trt.network import ITensor, Network
from kiln.torch2trt.shapes import trt_num_inputs, trt_num_outputs

__all__ = ["trt_network_to_dot_graph", "trt_num_inputs", "trt_num_outputs"]


class _Dot:
    """The part of ``graphviz.Digraph`` that is needed where graphviz is not installed: ``source``, ``save``, ``str()``."""

    def __init__(self, source: str) -> None:
        self.source = source

    def save(self, filename: str) -> str:
        with open(filename, "w") as file:
            file.write(self.source)
        return filename

    def __str__(self) -> str:
        return self.source


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def trt_network_to_dot_graph(network: Network) -> Any:
    """What converters added, as a ``graphviz.Source`` (or, without graphviz, an object with its text as ``source``).

    It has the layers of converters only; ``module_trt.engine.report("graph")`` has all that the engine computes.
    """
    if not isinstance(network, Network):
        raise TypeError(f"network must be the network of a TRTModule, got {type(network).__name__}")
    lines = []
    for i, layer in enumerate(network.layers):
        lines.append(f"  layer_{i} [shape=box, label={_quoted(layer.name or f'layer {i}')}];")
        for value in vars(layer).values():
            for item in value if isinstance(value, (list, tuple)) else [value]:
                source = item._layer if isinstance(item, ITensor) else None
                if source in network.layers:
                    lines.append(f"  layer_{network.layers.index(source)} -> layer_{i};")
    text = "digraph network {\n" + "\n".join(lines) + "\n}\n"
    try:
        import graphviz
    except ImportError:
        return _Dot(text)
    return graphviz.Source(text)
