"""Custom operators, decompositions and rewrite rules from Python; plugins in C; what Torch-TensorRT's users write to extend it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kiln.torch_tensorrt.dynamo.conversion import (
    DYNAMO_ATEN_CONVERTERS,
    ConversionContext,
    ConverterPriority,
    dynamo_tensorrt_converter,
    has_static_shapes,
    impl,
)
from kiln.torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor, set_layer_name, to_numpy
from kiln.torch_tensorrt.dynamo.conversion.plugins import custom_op
from kiln.torch_tensorrt.dynamo.lowering import (
    ATEN_POST_LOWERING_PASSES,
    ATEN_PRE_LOWERING_PASSES,
    SubgraphBuilder,
    register_torch_trt_decomposition,
)
from kiln.torch_tensorrt.dynamo.lowering.passes import (
    _aten_lowering_pass,
    _pre_aten_lowering_pass,
    _remove_lowering_pass,
    dump_lowering_passes,
)

import kiln
import kiln.torch_tensorrt.kernels as ttk
from conftest import PACKAGES, ROOT
from kiln import torch_tensorrt
from kiln.torch2trt import trt
from kiln.torch_tensorrt.dynamo import SourceIR

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def define(name: str, meta: Any = None) -> Any:
    """A custom operator of PyTorch: k times its argument."""

    @torch.library.custom_op(name, mutates_args=())
    def op(x: torch.Tensor, k: float = 1.0) -> torch.Tensor:
        return x * k

    op.register_fake(meta or (lambda x, k=1.0: torch.empty_like(x)))
    return op


scale = define("mine::scale")
twice = define("extpy::twice")
plain = define("extpy::plain")


class Scaled(torch.nn.Module):
    def __init__(self, op: Any = None, k: float = 2.5) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 4, 3)
        self.op, self.k = op or torch.ops.mine.scale, k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(self.layer(x).relu(), self.k).transpose(1, 2) + 1


def check(compiled: Any, model: torch.nn.Module, *args: torch.Tensor) -> None:
    torch.testing.assert_close(compiled(*args), model(*args), rtol=1e-5, atol=1e-5)


# ---- Plugins in C ----------------------------------------------------------------------------------------------------

ROWS = r"""
#include <kiln/kiln_ext.h>
/* The sum of each row of x, times the product of a list; counts[i]: how many numbers. */
static kiln_status shape(kiln_shape_call *c) {
  if (c->inputs[0].rank != 2) return kiln_op_fail(&c->args, KILN_INVALID_ARGUMENT, "x must have two dimensions");
  c->outputs[0].rank = 1;
  c->outputs[1] = c->outputs[0];
  c->outputs[1].dtype = KILN_I64;
  return KILN_OK;
}
static kiln_status run(const kiln_op_call *c) {
  const float *x = c->inputs[0].data;
  const int64_t rows = c->inputs[0].shape[0], columns = c->inputs[0].shape[1], *list;
  const int32_t n = kiln_arg_ints(&c->args, "factors", &list);
  for (int64_t i = 0; i < rows; i++) {
    float sum = 0;
    for (int64_t j = 0; j < columns; j++) sum += x[i * columns + j];
    for (int32_t k = 0; k < n; k++) sum *= (float)list[k];
    ((float *)c->outputs[0].data)[i] = kiln_arg_int(&c->args, "negate") ? -sum : sum;
    ((int64_t *)c->outputs[1].data)[i] = columns;
  }
  return KILN_OK;
}
kiln_status kiln_plugin_init(const kiln_ext *ext) {
  const kiln_op_def rows = {.struct_size = sizeof rows,
                            .schema = "extpy::rows(Tensor x, int[] factors, *, bool negate=False) -> (Tensor, Tensor)",
                            .run = run, .shape = shape};
  const kiln_rule_def rule = {.struct_size = sizeof rule, .name = "double negation", .pattern = "%a = neg(%x)\n%y = neg(%a)",
                              .replacement = "%y = identity(%x)"};
  const kiln_status status = ext->register_op(&rows);
  return status == KILN_OK ? ext->register_rule(&rule) : status;
}
"""


def build_plugin(folder: Path, name: str, source: str) -> Path:
    (folder / f"{name}.c").write_text(source)
    command = ["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", f"-I{ROOT / 'include'}"]
    subprocess.run([*command, folder / f"{name}.c", "-o", folder / f"{name}.so"], check=True)
    return folder / f"{name}.so"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    path = build_plugin(folder, "scale", (ROOT / "examples/plugin/scale.c").read_text())
    kiln.load_plugin(path)
    return path


@needs_compiler
def test_c_kernel(plugin: Path) -> None:
    model, x = Scaled().eval(), torch.randn(2, 3, 8, 9)
    for target in ("cpu", "reference"):
        compiled = kiln.compile(model, [x], target=target)
        check(compiled, model, x)
        assert "mine.scale(" in compiled.engine.report("graph")
    spec = kiln.Input(min_shape=(1, 3, 5, 9), opt_shape=(2, 3, 8, 9), max_shape=(8, 3, 40, 9))
    compiled = kiln.compile(model, [spec])
    for shape in [(1, 3, 5, 9), (8, 3, 40, 9), (3, 3, 7, 9)]:
        check(compiled, model, torch.randn(shape))


@needs_compiler
def test_shape_function_lists_and_several_results(tmp_path: Path) -> None:
    kiln.load_plugin(build_plugin(tmp_path, "rows", ROWS))

    @torch.library.custom_op("extpy::rows", mutates_args=())
    def rows(x: torch.Tensor, factors: list[int], *, negate: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        total = x.sum(1)
        for factor in factors:
            total = total * factor
        return -total if negate else total, torch.full((x.shape[0],), x.shape[1])

    rows.register_fake(lambda x, factors, negate=False: (x.new_empty(x.shape[0]), x.new_empty(x.shape[0], dtype=torch.int64)))

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            total, count = torch.ops.extpy.rows(x.t() * 2, [2, 3], negate=True)
            return total + 1, count

    x = torch.randn(5, 4)
    compiled = kiln.compile(Model().eval(), [kiln.Input(min_shape=(2, 4), opt_shape=(5, 4), max_shape=(9, 4))])
    check(compiled, Model(), x)
    check(compiled, Model(), torch.randn(9, 4))

    class Negations(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.neg(torch.neg(x * 2)) + 1

    assert "neg(" not in kiln.compile(Negations().eval(), [x]).engine.report("graph")


@needs_compiler
def test_torchscript(plugin: Path) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor, k: float) -> torch.Tensor:
            return torch.ops.mine.scale(x + 1, k) * 2

    scripted = torch.jit.script(Model().eval())
    x = torch.randn(3, 4)
    compiled = kiln.compile(scripted, [x, 1.5])
    torch.testing.assert_close(compiled(x, 1.5), (x + 1) * 3)


@needs_compiler
def test_command_line_and_other_processes(plugin: Path, tmp_path: Path, build_folder: Path) -> None:
    model, x = Scaled().eval(), torch.randn(2, 3, 8, 9)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "model.pt2")
    np.save(tmp_path / "x.npy", x.numpy())

    def run(*args: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(build_folder / "kiln"), *map(str, args)], capture_output=True, text=True, check=False)

    engine = tmp_path / "model.kiln"
    failed = run("build", tmp_path / "model.pt2", "-o", engine)
    assert failed.returncode == 1
    assert "mine.scale.default, used 1 time" in failed.stderr
    built = run("build", "--plugin", plugin, tmp_path / "model.pt2", "-o", engine)
    assert built.returncode == 0, built.stderr
    missing = run("inspect", engine)
    assert missing.returncode == 1
    assert "`mine.scale`" in missing.stderr
    assert "load the plugin scale.so" in missing.stderr
    done = run("run", engine, "--input", f"x={tmp_path / 'x.npy'}", "--output", tmp_path, f"--plugin={plugin}")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(next(tmp_path.glob("output*.npy"))), model(x).numpy(), rtol=1e-5, atol=1e-5)
    assert run("ops", "--plugin").returncode == 2
    assert run("ops", "--plugin", tmp_path / "none.so").returncode == 1
    other = (
        "import sys, kiln\ntry:\n  kiln.Engine.open(sys.argv[1])\nexcept kiln.KilnError as error:\n  print(error.status, error)\n"
    )
    other += "kiln.load_plugin(sys.argv[2])\nprint(kiln.Engine.open(sys.argv[1]).target)\n"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    command = [sys.executable, "-c", other, str(engine), str(plugin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert text.startswith("KILN_UNSUPPORTED")
    assert "`mine.scale`" in text
    assert text.splitlines()[-1].startswith("cpu")


@needs_compiler
def test_plugins_that_fail(tmp_path: Path) -> None:
    with pytest.raises(kiln.KilnError, match="none"):
        kiln.load_plugin(tmp_path / "none.so")
    with pytest.raises(kiln.KilnError, match="no function kiln_plugin_init"):
        kiln.load_plugin(build_plugin(tmp_path, "empty", "int nothing;"))
    bad = "#include <kiln/kiln_ext.h>\nkiln_status kiln_plugin_init(const kiln_ext *ext) {\n"
    bad += 'const kiln_op_def d = {.struct_size = sizeof d, .schema = "x(Tensor"}; return ext->register_op(&d); }\n'
    with pytest.raises(kiln.KilnError, match=r"loading plugin .*bad.so"):
        kiln.load_plugin(build_plugin(tmp_path, "bad", bad))


@needs_compiler
def test_example(plugin: Path) -> None:
    command = [sys.executable, str(ROOT / "examples/extending.py"), str(plugin)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(PACKAGES)})
    assert result.returncode == 0, result.stderr
    assert "C kernel and decomposition" in result.stdout
    assert "rewrite rule" in result.stdout
    assert '"plugin.text"' in result.stdout or "CUDA text" in result.stdout


# ---- Without a kernel ------------------------------------------------------------------------------------------------


def test_operators_without_a_kernel_run_in_pytorch() -> None:
    x = torch.randn(2, 3, 8, 9)
    model = Scaled(torch.ops.extpy.plain).eval()
    with pytest.raises(kiln.KilnError, match=r"extpy.plain.default, used 1 time, first in .* at test_extend.py"):
        kiln.compile(model, [x])
    for registered in (False, True):  # with a kernel for GPUs, the CPU still has none
        if registered:
            kiln.register_cuda_kernel(plain, 'extern "C" __global__ void plain(const x_t *x, float k, out_t *y, long long n) {}')
        hybrid = torch_tensorrt.compile(model, inputs=[x], min_block_size=1)
        check(hybrid, model, x)
        reasons = hybrid.report.left["extpy::plain"][0]
        assert reasons == ("no kernel for the CPU is registered" if registered else "Kiln has no such operator")


# ---- CUDA text -------------------------------------------------------------------------------------------------------


def test_cuda_text_is_planned_without_a_gpu() -> None:
    op = define("extpy::on_gpu")
    kiln.register_cuda_kernel(
        op, 'template <class T> __device__ T id(T x) { return x; }\nextern "C" __global__ void __launch_bounds__(256) f(x_t *x) {}'
    )
    compiled = kiln.compile(Scaled(torch.ops.extpy.on_gpu).eval(), [torch.randn(2, 3, 8, 9)], target="cuda:sm_90")
    assert 'tactic "plugin.text"' in compiled.engine.report("plan")
    with pytest.raises(kiln.KilnError, match=r"no kernel for `extpy.on_gpu`"):
        kiln.compile(Scaled(torch.ops.extpy.on_gpu).eval(), [torch.randn(2, 3, 8, 9)])
    half = Scaled(torch.ops.extpy.on_gpu).half().eval()
    with pytest.raises(kiln.KilnError, match=r"no kernel for `extpy.on_gpu`"):  # it was registered for f32
        kiln.compile(half, [torch.randn(2, 3, 8, 9).half()], target="cuda:sm_90")


def test_bad_cuda_registrations() -> None:
    with pytest.raises(ValueError, match="2 __global__ functions"):
        kiln.register_cuda_kernel(scale, "__global__ void a() {}\n__global__ void b() {}")
    with pytest.raises(ValueError, match="PyTorch knows no operator"):
        kiln.register_cuda_kernel("extpy::nothing_here", "__global__ void a() {}")
    with pytest.raises(TypeError, match="mine::scale"):
        kiln.register_cuda_kernel(3, "__global__ void a() {}")
    with pytest.raises(ValueError, match="at most 3"):
        kiln.register_cuda_kernel(scale, "__global__ void a() {}", grid=["1", "1", "1", "1"])
    with pytest.raises(kiln.KilnError, match="dtypes"):
        kiln.register_cuda_kernel(scale, "__global__ void a() {}", dtypes="float")
    with pytest.raises(kiln.KilnError, match="block"):
        kiln.register_cuda_kernel(scale, "__global__ void a() {}", block=2048)

    @torch.library.custom_op("extpy::writes", mutates_args={"x"})
    def writes(x: torch.Tensor) -> None:
        x.add_(1)

    with pytest.raises(kiln.KilnError, match="written to"):
        kiln.register_cuda_kernel(writes, "__global__ void a() {}")


# ---- Decompositions --------------------------------------------------------------------------------------------------


def test_decomposition() -> None:
    op = define("extpy::decomposed")

    @kiln.register_decomposition(op)
    def decomposed(x: torch.Tensor, k: float = 1.0) -> torch.Tensor:
        table = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # becomes a constant of the program
        rows = x.reshape(x.shape[0], -1) * k  # of symbolic size
        return rows.reshape(x.shape) * table.sum() / 10.0

    model, x = Scaled(torch.ops.extpy.decomposed).eval(), torch.randn(2, 3, 8, 9)
    program = torch.export.export(model, (x,))
    before = str(program.graph)
    check(kiln.compile(program), model, x)
    assert str(program.graph) == before
    compiled = kiln.compile(model, [kiln.Input(min_shape=(1, 3, 8, 9), opt_shape=(2, 3, 8, 9), max_shape=(5, 3, 8, 9))])
    for n in (1, 5):
        check(compiled, model, torch.randn(n, 3, 8, 9))
    assert "extpy" not in compiled.engine.report("graph")


def test_decomposition_as_the_result_and_in_one_another() -> None:
    inner, outer = define("extpy::inner"), define("extpy::outer")
    kiln.register_decomposition(outer)(lambda x, k=1.0: torch.ops.extpy.inner(x, k) + 0)
    kiln.register_decomposition("extpy::inner")(lambda x, k=1.0: x * k)

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.extpy.outer(x, 3.0)

    x = torch.randn(3, 4)
    check(kiln.compile(Model().eval(), [x]), Model(), x)
    assert inner is not None


def test_bad_decompositions() -> None:
    for name, function, text in [
        ("extpy::wrong_shape", lambda x, k=1.0: x[:1], "size 1 in dimension 0, expected 3"),
        ("extpy::wrong_type", lambda x, k=1.0: x.double(), "float64"),
        ("extpy::raises", lambda x, k=1.0: x.nothing(), "nothing"),
        ("extpy::two", lambda x, k=1.0: (x, x), "2 results"),
        ("extpy::itself", lambda x, k=1.0: torch.ops.extpy.itself(x, k) + 0, "without end"),
    ]:
        op = define(name)
        kiln.register_decomposition(op)(function)
        packet = getattr(torch.ops.extpy, name.split("::")[1])

        class Model(torch.nn.Module):
            def forward(self, x: torch.Tensor, packet: Any = packet) -> torch.Tensor:
                return packet(x, 2.0)

        with pytest.raises(kiln.KilnError, match=text) as error:
            kiln.compile(Model().eval(), [torch.randn(3, 4)])
        assert error.value.status == "KILN_INVALID_ARGUMENT"


# ---- Rules -----------------------------------------------------------------------------------------------------------


def test_rule() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(x * 3.25, 1) + torch.softmax(x, 0)

    model, x = Model().eval(), torch.randn(3, 4)
    kiln.register_rule("test rule", "%a = mul(%x, 3.25)\n%y = softmax(%a) {axis=$axis}", "%y = softmax(%x) {axis=$axis}")
    try:
        compiled = kiln.compile(model, [x])
    finally:
        kiln.remove_rule("test rule")
    torch.testing.assert_close(compiled(x), torch.softmax(x, 1) + torch.softmax(x, 0))
    check(kiln.compile(model, [x]), model, x)
    with pytest.raises(kiln.KilnError, match=r"pattern, line 1.*expected an operator"):
        kiln.register_rule("bad", "%y = nothing(%x)", "%y = relu(%x)")
    with pytest.raises(TypeError, match="texts"):
        kiln.register_rule("bad", "%y = relu(%x)", None)  # type: ignore[arg-type]


# ---- Torch-TensorRT: converters --------------------------------------------------------------------------------------


@pytest.fixture
def converters() -> Iterator[None]:
    yield
    DYNAMO_ATEN_CONVERTERS.clear()


class Gelu(torch.nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.layer = torch.nn.Linear(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(torch.ops.extpy.twice(self.layer(x), 3.0), approximate=self.mode)


@pytest.mark.usefixtures("converters")
def test_converters() -> None:
    seen: list[str] = []

    @dynamo_tensorrt_converter(torch.ops.extpy.twice.default, supports_dynamic_shapes=True)
    def convert_twice(ctx: ConversionContext, target: Any, args: Any, kwargs: Any, name: str) -> Any:
        assert isinstance(args[0], trt.ITensor)
        factor = ctx.net.add_constant((1, 1), np.array([args[1]], dtype=np.float32))
        layer = ctx.net.add_elementwise(args[0], factor.get_output(0), trt.ElementWiseOperation.PROD)
        set_layer_name(layer, target, name, SourceIR.ATEN)
        seen.append("twice")
        return layer.get_output(0)

    @dynamo_tensorrt_converter(
        torch.ops.aten.gelu.default,
        capability_validator=lambda node, settings: node.kwargs.get("approximate") == "tanh",
        supports_dynamic_shapes=True,
        priority=ConverterPriority.HIGH,
        requires_output_allocator=True,
    )
    def convert_gelu(ctx: ConversionContext, target: Any, args: Any, kwargs: Any, name: str) -> Any:
        def mul(x: Any, y: Any) -> Any:
            return impl.elementwise.mul(ctx, target, name=name, source_ir=SourceIR.ATEN, lhs_val=x, rhs_val=y)

        def add(x: Any, y: Any) -> Any:
            return impl.elementwise.add(ctx, target, name=name, source_ir=SourceIR.ATEN, lhs_val=x, rhs_val=y)

        x = args[0]
        cubic = mul(x, add(mul(mul(x, 0.044715), x), 1.0))
        curve = impl.activation.tanh(ctx, target, name=name, source_ir=SourceIR.ATEN, input_val=mul(cubic, 0.7978845608))
        seen.append("gelu")
        return mul(mul(x, 0.5), add(curve, 1.0))

    x = torch.randn(5, 4)
    for mode, expected in (("tanh", ["twice", "gelu"]), ("none", ["twice"])):
        model = Gelu(mode).eval()
        seen.clear()
        compiled = torch_tensorrt.compile(model, arg_inputs=(x,), min_block_size=1)
        assert seen == expected
        assert isinstance(compiled, kiln.CompiledModule)
        check(compiled, model, x)
        spec = torch_tensorrt.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(9, 4))
        compiled = torch_tensorrt.compile(model, inputs=[spec], min_block_size=1)
        check(compiled, model, torch.randn(9, 4))


@pytest.mark.usefixtures("converters")
def test_converters_that_look_at_weights() -> None:
    @dynamo_tensorrt_converter(torch.ops.aten.linear.default, priority=ConverterPriority.HIGH)
    def convert(ctx: ConversionContext, target: Any, args: Any, kwargs: Any, name: str) -> Any:
        weight = to_numpy(args[1])
        assert weight is not None
        w = get_trt_tensor(ctx, np.ascontiguousarray(weight.T), f"{name}_weight")
        product = impl.matmul.matrix_multiply(ctx, target, SourceIR.ATEN, name, args[0], w)
        return impl.elementwise.add(ctx, target, SourceIR.ATEN, name, product, get_trt_tensor(ctx, args[2], "bias", min_rank=2))

    model, x = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()).eval(), torch.randn(5, 4)
    check(torch_tensorrt.compile(model, inputs=[x]), model, x)

    @dynamo_tensorrt_converter(torch.ops.aten.linear.default, priority=ConverterPriority.HIGH)
    def convert_arrays(ctx: ConversionContext, target: Any, args: Any, kwargs: Any, name: str) -> Any:
        weight = args[1] if isinstance(args[1], np.ndarray) else args[1].numpy()
        layer = ctx.net.add_constant(weight.shape, np.float32(weight))
        return impl.matmul.matrix_multiply(
            ctx, target, SourceIR.ATEN, name, args[0], layer.get_output(0), other_matrix_op=trt.MatrixOperation.TRANSPOSE
        )

    model = torch.nn.Linear(4, 8, bias=False).eval()
    compiled = torch_tensorrt.compile(model, inputs=[x])
    check(compiled, model, x)
    with pytest.raises(kiln.KilnError, match="weight"):  # its numbers are in the graph: no refit takes others
        compiled.refit({"weight": torch.zeros(8, 4)})


@pytest.mark.usefixtures("converters")
def test_converters_are_chosen_by_priority_and_shapes() -> None:
    def wrong(ctx: ConversionContext, target: Any, args: Any, kwargs: Any, name: str) -> Any:
        raise AssertionError("must not be called")

    dynamo_tensorrt_converter(torch.ops.aten.relu.default)(wrong)  # Kiln takes relu by itself
    dynamo_tensorrt_converter(torch.ops.aten.relu.default, enabled=False, priority=ConverterPriority.HIGH)(wrong)
    dynamo_tensorrt_converter(torch.ops.aten.sigmoid.default, priority=ConverterPriority.HIGH)(wrong)  # not for sizes that vary
    model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Sigmoid()).eval()
    spec = torch_tensorrt.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(9, 4))
    check(torch_tensorrt.compile(model, inputs=[spec]), model, torch.randn(3, 4))
    with pytest.raises(kiln.KilnError, match=r"the converter for aten.sigmoid.default failed at node sigmoid: AssertionError"):
        torch_tensorrt.compile(model, inputs=[torch.randn(3, 4)])
    # left to PyTorch by name
    x = torch.randn(3, 4)
    compiled = torch_tensorrt.compile(model, inputs=[x], torch_executed_ops=["aten::sigmoid"], min_block_size=1)
    check(compiled, model, x)
    nodes = [n for n in torch.export.export(model, (x,)).graph.nodes if n.op == "call_function"]
    assert all(has_static_shapes(node) for node in nodes)
    with pytest.raises(ValueError, match="several overloads"):
        dynamo_tensorrt_converter(torch.ops.aten.mean)
    with pytest.raises(TypeError, match="priority"):
        dynamo_tensorrt_converter(torch.ops.aten.relu.default, priority="HIGH")  # type: ignore[arg-type]


def test_plugins_made_from_operators() -> None:
    custom_op("extpy::twice", supports_dynamic_shapes=True)
    with pytest.raises(ValueError, match="knows no operator"):
        custom_op("extpy::no_such_thing")


# ---- Torch-TensorRT: lowering passes ---------------------------------------------------------------------------------


@pytest.fixture
def passes() -> Iterator[None]:
    yield
    ATEN_POST_LOWERING_PASSES.passes.clear()
    ATEN_PRE_LOWERING_PASSES.passes.clear()


def swap(module: torch.fx.GraphModule, old: Any, new: Any) -> torch.fx.GraphModule:
    for node in list(module.graph.nodes):
        if node.target is old:
            with SubgraphBuilder(module.graph, node) as b:
                node.replace_all_uses_with(b(new, node.args[0]))
                module.graph.erase_node(node)
    return module


@pytest.mark.usefixtures("passes")
def test_lowering_passes() -> None:
    seen: list[list[str]] = []

    @_aten_lowering_pass
    def relu_to_sigmoid(module: torch.fx.GraphModule, settings: Any) -> torch.fx.GraphModule:
        assert settings.min_block_size == 3
        seen.append([str(node.target) for node in module.graph.nodes if node.op == "call_function"])
        return swap(module, torch.ops.aten.relu.default, torch.ops.aten.sigmoid.default)

    @_aten_lowering_pass(index=0)
    def first(module: torch.fx.GraphModule, settings: Any) -> torch.fx.GraphModule:
        return module

    assert dump_lowering_passes() == "0: first\n1: relu_to_sigmoid"
    model, x = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()).eval(), torch.randn(5, 4)
    compiled = torch_tensorrt.compile(model, inputs=[x], min_block_size=3)
    assert "aten.addmm.default" in seen[0]  # composite operators are decomposed
    torch.testing.assert_close(compiled(x), torch.sigmoid(model[0](x)))
    spec = torch_tensorrt.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(9, 4))
    compiled = torch_tensorrt.compile(model, inputs=[spec], min_block_size=3)
    for n in (1, 9):
        y = torch.randn(n, 4)
        torch.testing.assert_close(compiled(y), torch.sigmoid(model[0](y)))
    _remove_lowering_pass(index=1)
    check(torch_tensorrt.compile(model, inputs=[x]), model, x)


@pytest.mark.usefixtures("passes")
def test_pre_lowering_passes_and_failures() -> None:
    @_pre_aten_lowering_pass
    def linear_stays(module: torch.fx.GraphModule, settings: Any) -> torch.fx.GraphModule:
        assert any(node.target is torch.ops.aten.linear.default for node in module.graph.nodes)
        return swap(module, torch.ops.aten.relu.default, torch.ops.aten.tanh.default)

    model, x = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()).eval(), torch.randn(5, 4)
    torch.testing.assert_close(torch_tensorrt.compile(model, inputs=[x])(x), torch.tanh(model[0](x)))

    @_aten_lowering_pass
    def broken(module: torch.fx.GraphModule, settings: Any) -> torch.fx.GraphModule:
        raise KeyError("oh")

    with pytest.raises(kiln.KilnError, match="lowering pass broken failed: KeyError"):
        torch_tensorrt.compile(model, inputs=[x])
    _remove_lowering_pass(index=0)
    _aten_lowering_pass(lambda module, settings: None)
    with pytest.raises(kiln.KilnError, match="must return a GraphModule"):
        torch_tensorrt.compile(model, inputs=[x])
    with pytest.raises(TypeError, match="index"):
        _aten_lowering_pass(3)  # type: ignore[arg-type]


@pytest.mark.usefixtures("passes", "converters")
def test_torch_compile_takes_passes_converters_and_what_is_left_to_pytorch() -> None:
    torch._dynamo.reset()
    built: list[str] = []

    @dynamo_tensorrt_converter(torch.ops.extpy.twice.default, supports_dynamic_shapes=True, priority=ConverterPriority.HIGH)
    def convert_twice(ctx: ConversionContext, target: Any, args: Any, kwargs: Any, name: str) -> Any:
        built.append(name)
        factor = ctx.net.add_constant((1, 1), np.array([args[1]], dtype=np.float32))
        return ctx.net.add_elementwise(args[0], factor.get_output(0), trt.ElementWiseOperation.PROD).get_output(0)

    @_aten_lowering_pass
    def gelu_to_tanh(module: torch.fx.GraphModule, settings: Any) -> torch.fx.GraphModule:
        assert settings.min_block_size == 1
        return swap(module, torch.ops.aten.gelu.default, torch.ops.aten.tanh.default)

    model = Gelu("none").eval()

    def expected(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.ops.extpy.twice(model.layer(x), 3.0))

    compiled = torch_tensorrt.compile(model, ir="torch_compile", min_block_size=1, require_full_compilation=True)
    x = torch.randn(5, 4)
    torch.testing.assert_close(compiled(x), expected(x))
    assert len(built) == 1
    model.layer.weight.mul_(2)
    torch.testing.assert_close(compiled(x), expected(x))  # built again: a converter may have looked at the weights
    assert len(built) == 2
    # by one engine for all sizes, too
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="torch_tensorrt", options={"min_block_size": 1})
    for n in (2, 3, 5, 7):
        y = torch.randn(n, 4)
        torch.testing.assert_close(compiled(y), expected(y))
    assert len(built) == 4


def test_torch_compile_leaves_operators_and_modules_to_pytorch() -> None:
    model, x = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Sigmoid()).eval(), torch.randn(5, 4)
    for settings in (
        {"torch_executed_ops": {"aten::relu"}},
        {"torch_executed_modules": ["1"]},
        {"torch_executed_modules": ["ReLU"]},
    ):
        torch._dynamo.reset()
        compiled = torch_tensorrt.compile(model, ir="torch_compile", min_block_size=1, **settings)
        with pytest.warns(UserWarning, match=r"to PyTorch: aten::relu: .*named in torch_executed_\w+"):
            check(compiled, model, x)
        torch._dynamo.reset()
        compiled = torch_tensorrt.compile(model, ir="torch_compile", min_block_size=1, require_full_compilation=True, **settings)
        with pytest.raises(Exception, match="require_full_compilation: some operators would run in PyTorch: aten::relu"):
            compiled(x)


def test_decompositions_by_the_other_name() -> None:
    op = define("extpy::by_trt_name")
    register_torch_trt_decomposition(torch.ops.extpy.by_trt_name.default)(lambda x, k=1.0: x * k)
    model, x = Scaled(torch.ops.extpy.by_trt_name).eval(), torch.randn(2, 3, 8, 9)
    check(torch_tensorrt.compile(model, inputs=[x]), model, x)
    assert op is not None


# ---- Torch-TensorRT: kernels (run in tests/gpu/test_extend.py) -------------------------------------------------------


def test_cuda_kernel_op_without_a_gpu() -> None:
    source = 'extern "C" __global__ void relu(const float *x, float k, int h, int w, float *y) {}'
    ttk.cuda_kernel_op(
        "extpy::ttk_relu",
        ttk.KernelSpec(
            kernel_source=source,
            kernel_name="relu",
            inputs=[ttk.InputDecl("x"), ttk.ScalarInput("k", float)],
            outputs=[ttk.OutputDecl("y", shape=ttk.ReduceDims("x", (1,), keepdim=True))],
            extras=[ttk.DimSize("x", 0), ttk.Numel("x")],
            geometry=ttk.Elementwise(block=(16, 16), layout="nd"),
        ),
    )

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.extpy.ttk_relu(x, 2.0) + 1

    spec = kiln.Input(min_shape=(2, 4, 5), opt_shape=(2, 4, 5), max_shape=(9, 4, 5))
    compiled = kiln.compile(Model().eval(), [spec], target="cuda:sm_90")
    signature = compiled.engine.report("signature")
    assert signature.count(",1,5]") == 1
    assert 'tactic "plugin.text"' in compiled.engine.report("plan")


def test_launch_functions_are_symbolic() -> None:
    def launch(inputs: list[Any], outputs: list[Any], tactic: int) -> Any:
        n = inputs[0].shape_expr.numel()
        params = ttk.trtp.KernelLaunchParams()
        params.grid_x = ttk.trtp.cdiv(n, 256)
        params.grid_y = 2 * outputs[0].shape_expr[-1] + 1
        params.block_x = 256
        extra = ttk.trtp.SymIntExprs(2)
        extra[0], extra[1] = ttk.trtp.SymInt32(n), ttk.trtp.SymInt32(7)
        return params, extra

    grid, block, shared, extras = ttk._launch_of(launch, ["x"], 1)
    assert grid == ["((x_size + 256 - 1) // 256)", "((2 * out0_end1) + 1)", "1"]
    assert (block, shared, extras) == ([256, 1, 1], 0, ["int:x_size", "int:7"])
    with pytest.raises(NotImplementedError, match="count from the end"):
        ttk._launch_of(lambda inputs, outputs, tactic: len(inputs[0].shape_expr), ["x"], 1)


def test_bad_kernel_specs() -> None:
    def spec(**changes: Any) -> ttk.KernelSpec:
        given: dict[str, Any] = {
            "kernel_source": "",
            "kernel_name": "f",
            "inputs": [ttk.InputDecl("x")],
            "outputs": [ttk.OutputDecl("y", shape=ttk.SameAs(0))],
            "geometry": ttk.Elementwise(),
        }
        return ttk.KernelSpec(**{**given, **changes})

    for changes, text in [
        ({"inputs": []}, "needs a tensor"),
        ({"inputs": [ttk.InputDecl("x"), ttk.InputDecl("x")]}, "twice"),
        ({"inputs": [ttk.InputDecl("x"), ttk.ScalarInput("k", str)]}, "py_type"),
        ({"outputs": None}, "outputs is needed"),
        ({"outputs": [ttk.OutputDecl("y", shape=ttk.SameAs("z"))]}, "no tensor input"),
        ({"outputs": [ttk.OutputDecl("y", shape=ttk.SameAs(0), dtype_from="z")]}, "dtype_from"),
        ({"extras": [ttk.Numel("z")]}, "names no tensor input"),
        ({"geometry": None}, "geometry is needed"),
        ({"geometry": ttk.Elementwise(block=(16, 16))}, "block"),
        ({"geometry": ttk.Elementwise(layout="round")}, "layout"),
        ({"geometry": ttk.Reduction(reduce_dims=())}, "reduce_dims"),
    ]:
        with pytest.raises(ValueError, match=text):
            ttk.cuda_kernel_op("extpy::bad_spec", spec(**changes))
    with pytest.raises(TypeError, match="Custom"):
        ttk.cuda_kernel_op("extpy::bad_spec", spec(geometry="flat"))
    with pytest.raises(ValueError, match="op_name"):
        ttk.cuda_kernel_op("bad_spec", spec())


PTX = """
.version 7.0
.target sm_80
.address_size 64
.visible .entry copy(.param .u64 x, .param .u32 n, .param .u64 y) { ret; }
"""


def test_compiled_kernels_are_planned_without_a_gpu() -> None:
    op = define("extpy::compiled")
    for number, source in enumerate((PTX, PTX.encode(), b"\x7fELF" + bytes(100), b"\x50\xed\x55\xba" + bytes(100))):
        kiln.register_cuda_kernel(op, source, kernel="copy" if number > 1 else None, arguments="x int:x_size out", grid="x_size")
        compiled = kiln.compile(Scaled(torch.ops.extpy.compiled).eval(), [torch.randn(2, 3, 8, 9)], target="cuda:sm_90")
        assert 'tactic "plugin.text"' in compiled.engine.report("plan")
    bad: list[tuple[Any, dict[str, Any], str]] = [
        (b"\x00\x01\x02", {"kernel": "copy"}, "3 bytes that are no PTX text, cubin or fatbin"),
        (PTX, {"kernel": "other"}, "the PTX has no kernel `other`"),
        (PTX.replace("{ ret; }", "{ ret; }\n.visible .entry second() { ret; }"), {}, "kernel: source has 2 kernels"),
        (b"\x7fELF" + bytes(100), {}, "kernel: source has 0 kernels"),
        (3, {}, "source must be"),
    ]
    for source, arguments, text in bad:
        with pytest.raises((kiln.KilnError, ValueError, TypeError), match=text):
            kiln.register_cuda_kernel(op, source, **arguments)


def test_ptx_op_without_a_gpu() -> None:
    def meta(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    def launch(inputs: Any, outputs: Any, tactic: int) -> Any:
        params, extra = ttk.trtp.KernelLaunchParams(), ttk.trtp.SymIntExprs(1)
        params.grid_x, params.block_x = ttk.trtp.cdiv(inputs[0].shape_expr.numel(), 128), 128
        extra[0] = ttk.trtp.SymInt32(inputs[0].shape_expr.numel())
        return params, extra

    ttk.ptx_op("extpy::ptx_copy", PTX.encode(), "copy", meta, None, launch, supports_dynamic_shapes=True)

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.extpy.ptx_copy(x) + 1

    compiled = kiln.compile(Model().eval(), [torch.randn(5)], target="cuda:sm_90")
    assert 'tactic "plugin.text"' in compiled.engine.report("plan")
    good = {"ptx": PTX, "kernel_name": "copy", "meta_fn": meta, "eager_fn": None, "aot_fn": launch}
    for name, value in {"ptx": 3, "kernel_name": None, "meta_fn": None, "eager_fn": "f", "aot_fn": None}.items():
        with pytest.raises(TypeError, match=f"ptx_op: {name} must be"):
            ttk.ptx_op("extpy::ptx_bad", **{**good, name: value})
