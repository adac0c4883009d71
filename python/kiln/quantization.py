"""int8 after training: ranges from sample data, then convolutions and linear layers on values that int8 can hold.

Activations get one scale for each tensor, weights one for each output channel, all symmetric: ``round(x / scale)`` in [-127, 127]. The
result is a model in floats whose numbers are those of int8 inputs and weights with wide sums, so any target runs it; that says how
accurate a model is in int8. It does not run faster: kernels that multiply int8 are not in this version.
"""

from __future__ import annotations

import io
import json
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable, Optional, Union

import torch
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from kiln._kiln import KilnError

__all__ = ["ALGORITHMS", "Calibration", "quantize", "quantize_script"]

ALGORITHMS = ("minmax", "entropy", "percentile")
BINS = 2048
LEVELS = 127


def _error(text: str, status: str = "KILN_INVALID_ARGUMENT") -> KilnError:
    error = KilnError(text)
    error.status = status
    return error


# ---- Ranges --------------------------------------------------------------------------------------------------------------


class _Histogram:
    """Counts of magnitudes in equal bins from 0 to ``top``, which doubles when larger values come."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.top = 0.0
        self.largest = 0.0

    def add(self, x: torch.Tensor) -> None:
        values = x.detach().abs().flatten().to("cpu", torch.float32)
        values = values[torch.isfinite(values)]
        if not values.numel():
            return
        largest = float(values.max())
        self.largest = max(self.largest, largest)
        if largest == 0.0 and self.top == 0.0:
            return
        if self.top == 0.0:
            self.top = largest
        while self.top < largest:
            self.counts = torch.cat([self.counts.view(-1, 2).sum(1), torch.zeros(BINS // 2, dtype=torch.float64)])
            self.top *= 2
        self.counts += torch.histc(values, BINS, 0.0, self.top).to(torch.float64)

    def limit(self, algorithm: str) -> float:
        """The magnitude that becomes 127; larger ones are cut off."""
        if self.largest == 0.0 or algorithm == "minmax":
            return self.largest
        if algorithm == "percentile":
            total = self.counts.cumsum(0)
            index = int(torch.searchsorted(total, 0.9999 * total[-1]))
            return min(self.largest, (index + 1) * self.top / BINS)
        return min(self.largest, self._least_divergence() * self.top / BINS)

    def _least_divergence(self) -> int:
        """How many bins to keep so that the quantized distribution tells most about the true one (least Kullback-Leibler divergence)."""
        counts = self.counts.clone()
        counts[0] = counts[1]  # zeros are exact in any case and would outweigh all else
        used = int(torch.nonzero(counts).max()) + 1 if bool(counts.any()) else BINS
        first, best, best_at = LEVELS + 1, math.inf, used
        for n in range(first, max(used, first) + 1, 8):
            reference = counts[:n].clone()
            reference[-1] += counts[n:].sum()
            group = (torch.arange(n) * (LEVELS + 1)) // n
            filled = (counts[:n] > 0).to(torch.float64)
            zeros = torch.zeros(LEVELS + 1, dtype=torch.float64)
            sums, sizes = zeros.index_add(0, group, counts[:n]), zeros.index_add(0, group, filled)
            quantized = (sums / sizes.clamp(min=1))[group] * filled
            p, q = reference / reference.sum().clamp(min=1e-30), quantized / quantized.sum().clamp(min=1e-30)
            where = p > 0
            divergence = float((p[where] * (p[where] / q[where].clamp(min=1e-12)).log()).sum())
            if divergence < best:
                best, best_at = divergence, n
        return best_at


class Calibration:
    """Ranges of a model's activations: measured on data, or read from a cache file; kept there when they were measured.

    Args:
        data: the model's positional arguments, one tuple or list for each sample; None: the cache file has all that is needed.
        algorithm: "entropy" (cuts rare large values off where that tells least from the true distribution), "minmax", "percentile".
        cache_file: JSON text; read if it is there and ``use_cache``, written after measuring.

    Raises:
        ValueError: an argument is wrong; the text names it.
    """

    def __init__(
        self,
        data: Optional[Iterable[Sequence[Any]]] = None,
        algorithm: str = "entropy",
        cache_file: Union[str, os.PathLike[str], None] = None,
        use_cache: bool = True,
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
        if data is None and cache_file is None:
            raise ValueError("data: calibration needs samples, or a cache_file with the ranges of this model")
        self.data, self.algorithm, self.cache_file, self.use_cache = data, algorithm, cache_file, use_cache

    def read(self) -> Optional[dict[str, float]]:
        """The ranges of the cache file; None: there is no such file."""
        if self.cache_file is None or not self.use_cache or not Path(self.cache_file).exists():
            if self.data is None:
                raise _error(f"calibration: there is no cache file '{self.cache_file}', and no data to measure on", "KILN_IO_ERROR")
            return None
        try:
            stored = json.loads(Path(self.cache_file).read_text())
            if stored["kiln_calibration"] != 1:
                raise ValueError(f"version {stored['kiln_calibration']}")
            ranges = {str(name): float(value) for name, value in stored["ranges"].items()}
            if not all(math.isfinite(value) and value >= 0 for value in ranges.values()):
                raise ValueError("a range is negative or not finite")
            return ranges
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _error(
                f"calibration: '{self.cache_file}' is no calibration cache of Kiln ({error}); delete it to measure again",
                "KILN_INVALID_FILE",
            ) from None

    def write(self, ranges: dict[str, float]) -> None:
        if self.cache_file is None:
            return
        path = Path(self.cache_file)
        temporary = path.with_name(path.name + ".tmp")
        stored = {"kiln_calibration": 1, "algorithm": self.algorithm, "ranges": ranges}
        temporary.write_text(json.dumps(stored, indent=1, sort_keys=True))
        os.replace(temporary, path)

    def ranges(self, names: Sequence[str], measure: Callable[[dict[str, _Histogram], Sequence[Any]], Any]) -> dict[str, float]:
        """The range of each named value. ``measure(histograms, sample)`` runs the model once."""
        known = self.read()
        if known is not None and all(name in known for name in names):
            return known
        if self.data is None:
            missing = next(name for name in names if known is None or name not in known)
            raise _error(f"calibration: '{self.cache_file}' is of another model: it has no range for '{missing}'")
        histograms = {name: _Histogram() for name in names}
        samples = 0
        with torch.no_grad():
            for sample in self.data:
                measure(histograms, sample)
                samples += 1
        if not samples:
            raise ValueError("data: the calibration data set is empty")
        found = {name: histogram.limit(self.algorithm) for name, histogram in histograms.items()}
        self.write(found)
        return found


# ---- Weights -------------------------------------------------------------------------------------------------------------


def quantized_weight(weight: torch.Tensor, axis: int) -> torch.Tensor:
    """The weight rounded to int8 with a scale for each index of ``axis``, as floats."""
    others = [d for d in range(weight.dim()) if d != axis]
    scale = weight.detach().abs().amax(dim=others, keepdim=True) / LEVELS
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (weight.detach() / scale).round().clamp(-LEVELS, LEVELS) * scale


aten = torch.ops.aten
# Operator: axis of the weight's output channels.
_WEIGHT_AXIS = {
    aten.linear.default: 0,
    aten.conv1d.default: 0,
    aten.conv2d.default: 0,
    aten.conv3d.default: 0,
    aten.conv1d.padding: 0,
    aten.conv2d.padding: 0,
    aten.conv3d.padding: 0,
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 1,
    aten.conv_transpose3d.input: 1,
}
_SCRIPT_AXIS = {op._schema.name: axis for op, axis in _WEIGHT_AXIS.items()}
_SCRIPT_AXIS["aten::_convolution"] = 0


def _scale(limit: float) -> float:
    return limit / LEVELS if limit > 0 else 1.0


# ---- Exported programs -----------------------------------------------------------------------------------------------------


def _device(values: Iterable[Any]) -> Optional[torch.device]:
    return next((value.device for value in values if isinstance(value, torch.Tensor)), None)


def _moved(value: Any, device: Optional[torch.device]) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) and device is not None else value


def _values(program: torch.export.ExportedProgram, sample: Sequence[Any]) -> list[Any]:
    """What the graph's placeholders get."""
    device = _device([*program.state_dict.values(), *program.constants.values()])
    leaves = iter(_moved(leaf, device) for leaf in pytree.tree_leaves((tuple(sample), {})))
    values: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            values.append(next(leaves, None))
        elif spec.target in program.state_dict:
            values.append(program.state_dict[spec.target].detach())
        else:
            values.append(program.constants[str(spec.target)])
    return values


class _Watch(torch.fx.Interpreter):
    def __init__(self, graph: torch.fx.GraphModule, histograms: dict[str, _Histogram]) -> None:
        super().__init__(graph)
        self.histograms = histograms

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.histograms:
            self.histograms[n.name].add(value)
        return value


def quantize(program: torch.export.ExportedProgram, calibration: Calibration) -> torch.export.ExportedProgram:
    """A copy of a program in which convolutions and linear layers take int8 values. Weights that other operators use too, and layers
    whose weight is no parameter, stay as they are."""
    from kiln.compiler import _program_bytes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(io.BytesIO(_program_bytes(program)))  # copy.deepcopy() renames inputs
    graph = program.graph_module.graph
    specs = {s.arg.name: s for s in program.graph_signature.input_specs if s.kind in (InputKind.PARAMETER, InputKind.BUFFER)}
    chosen = []
    for node in graph.nodes:
        if node.op != "call_function" or node.target not in _WEIGHT_AXIS:
            continue
        x, weight = node.args[0], node.args[1]
        alone = isinstance(weight, torch.fx.Node) and all(
            user.target is node.target and user.args[1] is weight and user.args[0] is not weight for user in weight.users
        )
        if alone and weight.name in specs and specs[weight.name].target in program.state_dict:
            chosen.append((node, x, weight))
    names = list(dict.fromkeys(x.name for _, x, _ in chosen))
    ranges = calibration.ranges(
        names, lambda histograms, sample: _Watch(program.graph_module, histograms).run(*_values(program, sample))
    )
    made: dict[str, torch.fx.Node] = {}
    done: set[str] = set()
    for node, x, weight in chosen:
        if x.name not in made:
            made[x.name] = _rounded(graph, x, _scale(ranges[x.name]))
        node.replace_input_with(x, made[x.name])
        target = str(specs[weight.name].target)
        if target not in done:
            done.add(target)
            rounded = quantized_weight(program.state_dict[target], _WEIGHT_AXIS[node.target])
            program.state_dict[target] = torch.nn.Parameter(rounded, requires_grad=False)
    program.graph_module.recompile()
    return program


def _rounded(graph: torch.fx.Graph, x: torch.fx.Node, scale: float) -> torch.fx.Node:
    """Behind ``x``: its values on the int8 grid."""
    after, value = x, x
    while after.next.op == "placeholder":
        after = after.next
    for target, args in (
        (aten.mul.Tensor, (1.0 / scale,)),
        (aten.round.default, ()),
        (aten.clamp.default, (-LEVELS, LEVELS)),
        (aten.mul.Tensor, (scale,)),
    ):
        with graph.inserting_after(after):
            new = graph.call_function(target, (value, *args))
        new.meta = {key: item for key, item in x.meta.items() if key in ("val", "stack_trace", "nn_module_stack")}
        after = value = new
    return value


# ---- TorchScript ---------------------------------------------------------------------------------------------------------


def _sites(graph: Any) -> list[tuple[Any, Any, int]]:
    """(node, constant weight, axis) of the layers in a frozen graph, outside of branches and loops."""
    found = []
    for node in graph.nodes():
        axis = _SCRIPT_AXIS.get(node.kind())
        if axis is None:
            continue
        inputs = list(node.inputs())
        weight = inputs[1].node()
        if weight.kind() != "prim::Constant" or inputs[1].type().kind() != "TensorType" or not weight.hasAttribute("value"):
            continue
        if node.kind() == "aten::_convolution" and inputs[6].toIValue():
            axis = 1  # transposed
        if weight.t("value").is_floating_point():
            found.append((node, weight.t("value"), axis))
    return found


def _without_self(graph: Any) -> None:
    first = next(iter(graph.inputs()), None)
    if first is not None and first.type().kind() == "ClassType":
        if list(first.uses()):
            raise _error(
                "int8: the module cannot be frozen into a function, for it keeps state or calls itself; "
                "compile it from torch.export instead",
                "KILN_UNSUPPORTED",
            )
        graph.eraseInput(0)


def _function(graph: Any) -> torch.jit.ScriptFunction:
    _without_self(graph)
    return torch._C._create_function_from_graph("__torch__.kiln.quantized", graph)


def quantize_script(model: Any, calibration: Calibration, method: str = "forward") -> torch.jit.ScriptFunction:
    """The method of a ScriptModule as a function whose convolutions and linear layers take int8 values; layers in branches and loops stay
    as they are."""
    if isinstance(model, torch.jit.ScriptFunction):
        base = model.graph.copy()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kept = [] if method == "forward" else [method]
            frozen = torch.jit.freeze(model.eval(), preserved_attrs=kept, optimize_numerics=False)
        graph = frozen._c._get_method(method).graph
        torch._C._jit_pass_inline(graph)
        base = graph.copy()
    watched = base.copy()
    sites = _sites(watched)
    if not sites:
        return _function(base)
    _without_self(base)
    _without_self(watched)
    names = [f"{i}:{node.kind()}" for i, (node, _, _) in enumerate(sites)]
    activations = [next(iter(node.inputs())) for node, _, _ in sites]
    values = watched.create("prim::TupleConstruct", activations, 1)
    watched.appendNode(values)
    next(iter(values.outputs())).setType(torch._C.TupleType([value.type() for value in activations]))
    watched.eraseOutput(0)
    watched.registerOutput(next(iter(values.outputs())))
    run, n_arguments = _function(watched), len(list(base.inputs()))

    device = sites[0][1].device

    def measure(histograms: dict[str, _Histogram], sample: Sequence[Any]) -> None:
        for name, value in zip(names, run(*(_moved(item, device) for item in sample[:n_arguments]))):
            histograms[name].add(value)

    ranges = calibration.ranges(names, measure)
    for name, (node, weight, axis) in zip(names, _sites(base)):
        x = next(iter(node.inputs()))
        scale = _scale(ranges[name])
        base.setInsertPoint(node)
        for kind, values in (
            ("aten::mul", (1.0 / scale,)),
            ("aten::round", ()),
            ("aten::clamp", (-LEVELS, LEVELS)),
            ("aten::mul", (scale,)),
        ):
            made = base.create(kind, [x, *(base.insertConstant(value) for value in values)], 1)
            base.insertNode(made)
            x = next(iter(made.outputs()))
        node.replaceInput(0, x)
        node.replaceInput(1, base.insertConstant(quantized_weight(weight, axis)))
    return _function(base)
