"""kiln.torch2trt against PyTorch: scripts as torch2trt's users write them, with the import line changed."""

from __future__ import annotations

import dataclasses
import runpy
import threading
from typing import Optional

import numpy as np
import pytest
import torch

import kiln
from kiln.torch2trt import (
    CONVERTERS,
    ConversionContext,
    DatasetRecorder,
    Flattener,
    FolderDataset,
    IntWrapper,
    ListDataset,
    SizeWrapper,
    TensorBatchDataset,
    TRTModule,
    add_missing_trt_tensors,
    get_arg,
    infer_dynamic_axes,
    load_plugins,
    make_int_wrapper,
    make_size_wrapper,
    tensorrt_converter,
    torch2trt,
    torch_device_from_trt,
    torch_device_to_trt,
    torch_dim_to_trt_axes,
    torch_version,
    trt,
    trt_,
    trt_num_inputs,
    trt_num_outputs,
    trt_version,
    use_shape_wrapping,
)
from kiln.torch2trt.version_utils import Version


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.fc = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.fc(x.mean((2, 3)))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(autouse=True)
def no_grad_and_no_converters():
    torch.manual_seed(0)
    with torch.no_grad():
        yield
    CONVERTERS.clear()


def test_convert_save_and_load(tmp_path):
    model, x = Small().eval(), torch.randn(1, 3, 16, 16)
    converted = torch2trt(model, [x])
    close(converted(x), model(x))
    torch.save(converted.state_dict(), tmp_path / "model.pth")
    loaded = TRTModule()
    loaded.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    close(loaded(x), model(x))
    assert loaded.input_names == ["input_0"] and loaded.output_names == ["output_0"]
    (tmp_path / "model.engine").write_bytes(converted.engine.serialize())
    close(TRTModule(str(tmp_path / "model.engine"), ["image"], ["scores"])(x), model(x))


def test_inside_another_module(tmp_path):
    model, x = Small().eval(), torch.randn(1, 3, 16, 16)

    class Outer(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.head = torch.nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.inner(x))

    outer = Outer(torch2trt(model, [x]))
    torch.save(outer.state_dict(), tmp_path / "outer.pth")
    other = Outer(TRTModule())
    other.load_state_dict(torch.load(tmp_path / "outer.pth", weights_only=True))
    close(other(x), outer(x))
    assert other.inner.input_flattener is not None


def test_dynamic_shapes():
    model, x = Small().eval(), torch.randn(1, 3, 16, 16)
    by_batch = torch2trt(model, [x], max_batch_size=6)
    by_shapes = torch2trt(model, [x], min_shapes=[(1, 3, 8, 8)], opt_shapes=[(2, 3, 16, 16)], max_shapes=[(4, 3, 32, 32)])
    for shape in ((1, 3, 16, 16), (6, 3, 16, 16)):
        close(by_batch(y := torch.randn(shape)), model(y))
    for shape in ((1, 3, 8, 8), (3, 3, 24, 32), (4, 3, 32, 32)):
        close(by_shapes(y := torch.randn(shape)), model(y))
    with pytest.raises(kiln.KilnError, match=r'"input_0".* 7'):
        by_batch(torch.randn(7, 3, 16, 16))
    named = torch2trt(model, [x], input_names=["image"])
    with pytest.raises(kiln.KilnError, match='"image"'):
        named(torch.randn(1, 2, 16, 16))
    for name in ("for", "a.b", "self"):
        close(torch2trt(model, [x], input_names=[name])(x), model(x))


def test_dataset_gives_the_ranges():
    model = Small().eval()
    dataset = ListDataset([[torch.randn(1, 3, n, 2 * n)] for n in (8, 16, 12)])
    assert dataset.infer_dynamic_axes(flat=True) == [[2, 3]]
    assert dataset.median_numel_shapes(flat=True) == [(1, 3, 12, 24)]
    converted = torch2trt(model, dataset)
    for item in dataset:
        close(converted(*item), model(*item))


def test_nested_and_integer_inputs():
    class Nested(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(20, 4)

        def forward(self, pair, options):
            a, b = pair
            return {"sum": self.table(a) + b, "rest": [options["scale"] * b, (b, b.shape[0])]}

    model = Nested().eval()
    args = [(torch.randint(0, 20, (3,)), torch.randn(3, 4)), {"scale": torch.tensor(2.0)}]
    converted = torch2trt(model, args)
    got, expected = converted(*args), model(*args)
    close(got["sum"], expected["sum"])
    close(got["rest"][0], expected["rest"][0])
    assert isinstance(got["rest"][1], tuple) and got["rest"][1][1] is None  # not a tensor
    with pytest.raises(ValueError, match="scale"):
        converted(args[0], {"other": torch.tensor(2.0)})


def test_custom_converter_replaces_a_method():
    @tensorrt_converter("torch.nn.ReLU.forward")
    def convert_relu(ctx):
        input = ctx.method_args[1]
        layer = ctx.network.add_activation(input=input._trt, type=trt.ActivationType.TANH)  # so that it shows
        ctx.method_return._trt = layer.get_output(0)

    model, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval(), torch.randn(2, 4)
    converted = torch2trt(model, [x])
    close(converted(x), torch.tanh(model[0](x)))
    assert converted.network.num_layers == 1
    close(model(x), torch.relu(model[0](x)))  # nothing stays patched


def test_converters_of_every_kind_of_layer():
    weight, bias = torch.randn(6, 2, 3, 3), torch.randn(6)

    @tensorrt_converter("test_torch2trt.block")
    def convert_block(ctx):
        x = get_arg(ctx, "x", pos=0, default=None)
        net = ctx.network
        (tensor,) = add_missing_trt_tensors(net, [x])
        conv = net.add_convolution_nd(tensor, 6, (3, 3), weight.numpy(), bias.numpy())
        conv.stride_nd, conv.padding_nd, conv.num_groups = (2, 2), (1, 1), 2
        pool = net.add_pooling_nd(conv.get_output(0), trt.PoolingType.AVERAGE, (2, 2))
        pool.stride_nd = (2, 2)
        scale = net.add_scale(pool.get_output(0), trt.ScaleMode.CHANNEL, bias.numpy(), bias.numpy(), None)
        a, b = trt_(net, scale.get_output(0), 0.5)
        total = net.add_elementwise(a, b, trt.ElementWiseOperation.SUM).get_output(0)
        root = net.add_unary(net.add_unary(total, trt.UnaryOperation.ABS).get_output(0), trt.UnaryOperation.SQRT).get_output(0)
        shuffle = net.add_shuffle(root)
        shuffle.first_transpose, shuffle.reshape_dims = trt.Permutation([0, 2, 3, 1]), (0, -1, 6)
        soft = net.add_softmax(shuffle.get_output(0))
        soft.axes = torch_dim_to_trt_axes(-1, 3)
        mean = net.add_reduce(soft.get_output(0), trt.ReduceOperation.AVG, torch_dim_to_trt_axes(1), True).get_output(0)
        product = net.add_matrix_multiply(soft.get_output(0), trt.MatrixOperation.NONE, mean, trt.MatrixOperation.TRANSPOSE)
        both = net.add_concatenation([product.get_output(0), product.get_output(0)])
        both.axis = 2
        part = net.add_slice(both.get_output(0), (0, 1, 0), (1, 2, 2), (1, 2, 1)).get_output(0)
        ctx.method_return._trt = part

    class Block(torch.nn.Module):
        def forward(self, x):
            return block(x)

    x = torch.randn(1, 4, 16, 16)
    converted = torch2trt(Block().eval(), [x])
    close(converted(x), block(x, weight, bias))


def block(x, weight=None, bias=None):
    if weight is None:
        return x[:, 0, :2, :2]  # of the converted shape; the converter computes what stands below
    y = torch.nn.functional.conv2d(x, weight, bias, stride=2, padding=1, groups=2)
    y = torch.nn.functional.avg_pool2d(y, 2)
    y = y * bias.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1) + 0.5
    y = y.abs().sqrt().permute(0, 2, 3, 1).reshape(1, -1, 6).softmax(-1)
    y = y @ y.mean(1, True).transpose(1, 2)
    return torch.cat([y, y], 2)[:, 1:4:2]


G, S = trt.GatherMode, trt.ScatterMode
AT, ROWS = torch.tensor([[0, 2], [1, 0]]), torch.tensor([[1, 0, 2, 1], [0, 0, 1, 2]])
ONCE = torch.tensor([[1, 0, 2, 1], [0, 2, 1, 2]])


def const(net, *values, dtype=torch.int32):
    return net.add_constant((len(values),), torch.tensor(values, dtype=dtype)).get_output(0)


def attributes(layer, **values):
    for name, value in values.items():
        setattr(layer, name, value)
    return layer


def images(x):
    return x.reshape(1, 3, 4, 2)


# What a converter builds from the input (of 3 by 8), and the same in PyTorch.
LAYERS = {
    "gather": (lambda n, t: attributes(n.add_gather_v2(t, const(n, 2, 0), G.DEFAULT), axis=0), lambda x: x[[2, 0]]),
    "gather elements": (
        lambda n, t: attributes(n.add_gather_v2(t, n.add_constant((2, 4), ROWS).get_output(0), G.ELEMENT), axis=0),
        lambda x: torch.gather(x, 0, ROWS),
    ),
    "gather nd": (lambda n, t: n.add_gather_v2(t, n.add_constant((2, 2), AT).get_output(0), G.ND), lambda x: x[AT[:, 0], AT[:, 1]]),
    "scatter": (
        lambda n, t: attributes(
            n.add_scatter(
                t, n.add_constant((2, 4), ONCE).get_output(0), n.add_constant((2, 4), ONCE * 1.5).get_output(0), S.ELEMENT
            ),
            axis=0,
        ),
        lambda x: torch.scatter(x, 0, ONCE, ONCE * 1.5),
    ),
    "scatter nd": (
        lambda n, t: n.add_scatter(
            t, n.add_constant((2, 2), AT).get_output(0), n.add_constant((2,), torch.tensor([5.0, 6.0])).get_output(0), S.ND
        ),
        lambda x: torch.index_put(x, (AT[:, 0], AT[:, 1]), torch.tensor([5.0, 6.0])),
    ),
    "one hot": (
        lambda n, t: n.add_one_hot(
            n.add_cast(t, trt.int32).get_output(0), const(n, -1.0, 2.0, dtype=torch.float32), const(n, 3), -1
        ),
        lambda x: torch.nn.functional.one_hot(x.to(torch.int32).clamp(0, 2).to(torch.int64), 3) * 3.0 - 1.0,
    ),
    "cumulative": (
        lambda n, t: n.add_cumulative(t, const(n, 1), trt.CumulativeOperation.SUM, exclusive=True, reverse=True),
        lambda x: x.flip(1).cumsum(1).flip(1) - x,
    ),
    "fill": (
        lambda n, t: n.add_elementwise(
            t,
            attributes(n.add_fill((8,), trt.FillOperation.LINSPACE), alpha=1.0, beta=0.5).get_output(0),
            trt.ElementWiseOperation.SUM,
        ),
        lambda x: x + 1 + 0.5 * torch.arange(8),
    ),
    "quantize": (
        lambda n, t: attributes(
            n.add_dequantize(
                attributes(n.add_quantize(t, const(n, 0.1, 0.2, 0.4, dtype=torch.float32)), axis=0).get_output(0),
                const(n, 0.1, 0.2, 0.4, dtype=torch.float32),
            ),
            axis=0,
        ),
        lambda x: (x / torch.tensor([[0.1], [0.2], [0.4]])).round() * torch.tensor([[0.1], [0.2], [0.4]]),
    ),
    "product": (lambda n, t: n.add_reduce(t, trt.ReduceOperation.PROD, 3, False), lambda x: x.prod()),
    "lrn": (
        lambda n, t: n.add_lrn(attributes(n.add_shuffle(t), reshape_dims=(1, 3, 4, 2)).get_output(0), 3, 1e-2, 0.75, 1.0),
        lambda x: torch.nn.functional.local_response_norm(images(x), 3, 1e-2, 0.75, 1.0),
    ),
    "old convolution": (
        lambda n, t: attributes(
            n.add_convolution(
                attributes(n.add_shuffle(t), reshape_dims=(1, 3, 4, 2)).get_output(0),
                3,
                (2, 2),
                torch.full((3, 3, 2, 2), 0.5),
                None,
            ),
            stride=(2, 1),
            padding=(1, 1),
        ),
        lambda x: torch.nn.functional.conv2d(images(x), torch.full((3, 3, 2, 2), 0.5), stride=(2, 1), padding=1),
    ),
    "old pooling": (
        lambda n, t: attributes(
            n.add_pooling(attributes(n.add_shuffle(t), reshape_dims=(1, 3, 4, 2)).get_output(0), trt.PoolingType.MAX, (2, 2)),
            stride=(2, 2),
        ),
        lambda x: torch.nn.functional.max_pool2d(images(x), 2),
    ),
    "fully connected": (
        lambda n, t: n.add_fully_connected(
            attributes(n.add_shuffle(t), reshape_dims=(1, 3, 4, 2)).get_output(0),
            2,
            torch.linspace(-1, 1, 48),
            torch.tensor([1.0, 2.0]),
        ),
        lambda x: (x.reshape(1, -1) @ torch.linspace(-1, 1, 48).reshape(2, 24).t() + torch.tensor([1.0, 2.0]))[..., None, None],
    ),
    "grid sample": (
        lambda n, t: attributes(
            n.add_grid_sample(
                attributes(n.add_shuffle(t), reshape_dims=(1, 3, 4, 2)).get_output(0),
                n.add_constant((1, 2, 2, 2), torch.linspace(-1.2, 1.2, 8)).get_output(0),
            ),
            sample_mode=trt.SampleMode.CLAMP,
        ),
        lambda x: torch.nn.functional.grid_sample(
            images(x), torch.linspace(-1.2, 1.2, 8).reshape(1, 2, 2, 2), padding_mode="border", align_corners=False
        ),
    ),
}


def built(x):
    raise AssertionError("replaced by the test")


class Built(torch.nn.Module):
    def forward(self, x):
        return built(x)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, monkeypatch):
    make, truth = LAYERS[name]
    monkeypatch.setitem(globals(), "built", lambda x: truth(x) * 0)  # of the right shape; the converter computes the numbers

    @tensorrt_converter("test_torch2trt.built")
    def convert(ctx):
        ctx.method_return._trt = make(ctx.network, ctx.method_args[0]._trt).get_output(0)

    x = torch.rand(3, 8) * 2.9
    expected = truth(x)
    close(torch2trt(Built().eval(), [x])(x).to(expected.dtype), expected)


def test_layers_that_are_not_there():
    net = ConversionContext().network
    with pytest.raises(NotImplementedError, match=r"network.add_loop is not supported; known: .*add_scatter"):
        net.add_loop()
    tensor = net.add_constant((2,), torch.ones(2)).get_output(0)
    with pytest.raises(ValueError, match="add_cumulative: PROD is not supported"):
        net.add_cumulative(tensor, 0, trt.ElementWiseOperation.PROD, False, False)
    with pytest.raises(ValueError, match="add_fill: RANDOM_NORMAL"):
        net.add_fill((2,), trt.FillOperation.RANDOM_NORMAL)


def test_recorder_and_folders(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
    dataset = FolderDataset(tmp_path / "data")
    with DatasetRecorder(dataset, model[2]):
        for _ in range(3):
            model(torch.randn(2, 4))
    assert len(dataset) == 3 and len(FolderDataset(tmp_path / "data")) == 3
    assert dataset[1][0].shape == (2, 8)
    close(torch2trt(model[2], dataset)(dataset[2][0]), model[2](dataset[2][0]))


def test_tensor_batches():
    dataset = TensorBatchDataset()
    for _ in range(4):
        dataset.insert([torch.randn(1, 3), torch.zeros(1)])
    assert len(dataset) == 4 and dataset.shapes(flat=True)[0] == [(1, 3)] * 4
    with pytest.raises(IndexError):
        dataset[4]


def test_flattener_round_trip():
    value = {"a": [torch.ones(1), 3], "b": (torch.zeros(2), {"c": torch.ones(1, dtype=torch.int64)})}
    flattener = Flattener.from_value(value)
    assert flattener.size == 3
    again = Flattener.from_dict(flattener.dict())
    back = again.unflatten(again.flatten(value))
    assert back["a"][1] is None and back["b"][1]["c"].dtype is torch.int64 and isinstance(back["b"], tuple)


def test_arguments_that_do_nothing_say_so_once():
    model, x = torch.nn.Linear(2, 2).eval(), torch.randn(1, 2)
    with pytest.warns(UserWarning, match="DLA"):
        torch2trt(model, [x], default_device_type=trt.DeviceType.DLA)
    with pytest.warns(UserWarning, match="ONNX"):
        torch2trt(model, [x], use_onnx=True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"inputs": []}, "inputs"),
        ({"input_names": ["a", "b"]}, "input_names"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"min_shapes": [(1,), (2,)]}, "min_shapes"),
        ({"output_names": ["a", "b"]}, "output_names"),
    ],
)
def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        torch2trt(torch.nn.Linear(2, 2).eval(), **{"inputs": [torch.randn(1, 2)], **arguments})


def test_refusals():
    x = torch.randn(1, 2)
    with pytest.raises(kiln.KilnError, match="no engine"):
        TRTModule()(x)
    with pytest.raises(RuntimeError, match="engine"):
        TRTModule().load_state_dict({})


def test_served_from_four_threads():
    model, x = Small().eval(), torch.randn(1, 3, 16, 16)
    converted, expected, wrong = torch2trt(model, [x]), model(x), []

    def serve() -> None:
        with torch.no_grad():
            for _ in range(50):
                if not torch.allclose(converted(x), expected, rtol=1e-4, atol=1e-5):
                    wrong.append(1)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- Other names of torch2trt ----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Boxes:
    points: torch.Tensor
    scores: Optional[torch.Tensor] = None
    label: str = "box"


class OfBoxes(torch.nn.Module):
    def forward(self, boxes: Boxes, factor: torch.Tensor) -> Boxes:
        assert boxes.scores is not None
        return Boxes(boxes.points * factor, boxes.scores + 1)


def test_dataclasses(tmp_path):
    boxes, factor = Boxes(torch.randn(3, 4), torch.randn(3), "a"), torch.tensor(2.0)
    module = torch2trt(OfBoxes().eval(), [boxes, factor])
    torch.save(module.state_dict(), tmp_path / "m.pth")
    loaded = TRTModule()
    loaded.load_state_dict(torch.load(tmp_path / "m.pth"))
    for m in (module, loaded):
        result = m(boxes, factor)
        assert isinstance(result, Boxes)
        torch.testing.assert_close(result.points, boxes.points * 2)
        torch.testing.assert_close(result.scores, boxes.scores + 1)
        with pytest.raises(ValueError, match=r"value\[0\]: expected an object with .points"):
            m(factor, factor)
    # a file names the class; it is not imported for that
    flattener = Flattener.from_value(boxes)
    schema = {("dataclass", "no.such.module:Boxes"): None, **dict(list(flattener.schema.items())[1:])}
    result = Flattener.from_dict({"schema": schema, "size": 2}).unflatten([1, 2])
    assert (result.points, result.scores) == (1, 2)
    assert not isinstance(result, Boxes)


def test_files_of_converters_and_engines(tmp_path):
    (tmp_path / "user_converters.py").write_text(
        """
from torch2trt.torch2trt import *
from torch2trt.module_test import add_module_test

@tensorrt_converter("torch.nn.functional.softsign")
def convert_softsign(ctx):
    x = ctx.method_args[0]
    layer = ctx.network.add_activation(trt_(ctx.network, x), trt.ActivationType.SOFTSIGN)
    layer.name = "user's"
    set_layer_precision(ctx, layer)
    ctx.method_return._trt = layer.get_output(0)

@add_module_test(torch.float32, torch.device("cpu"), [(1, 5)])
def softsign():
    return torch.nn.Softsign()
""".replace("torch2trt.", "kiln.torch2trt.", 1).replace("from torch2trt.m", "from kiln.torch2trt.m")
    )
    from kiln.torch2trt.module_test import MODULE_TESTS
    from kiln.torch2trt.utils import trt_network_to_dot_graph

    namespace = runpy.run_path(str(tmp_path / "user_converters.py"))
    try:
        assert MODULE_TESTS[-1].run() < 1e-6
        x = torch.randn(2, 5)
        module = torch2trt(namespace["softsign"]().eval(), [x])
    finally:
        CONVERTERS.clear()
        MODULE_TESTS.clear()
    dot = trt_network_to_dot_graph(module.network).source
    assert dot.startswith("digraph") and "user's" in dot
    with pytest.raises(TypeError, match="network must be"):
        trt_network_to_dot_graph(3)
    with trt.Logger(trt.Logger.Severity.ERROR) as logger, trt.Runtime(logger) as runtime:
        assert trt.init_libnvinfer_plugins(logger, "")
        engine = runtime.deserialize_cuda_engine(module.engine.serialize())
        with pytest.raises(TypeError, match="serialized_engine must be the bytes"):
            runtime.deserialize_cuda_engine("engine.trt")
    assert trt_num_inputs(engine) == trt_num_outputs(engine) == 1
    again = TRTModule(engine=engine, input_names=["input_0"], output_names=["output_0"])
    torch.testing.assert_close(again(x), torch.nn.functional.softsign(x))


def test_small_helpers():
    assert torch_device_to_trt(torch.device("cuda")) is trt.TensorLocation.DEVICE
    assert torch_device_from_trt(trt.TensorLocation.HOST) == torch.device("cpu")
    with pytest.raises(TypeError, match="location must be one of"):
        torch_device_from_trt("cpu")
    with pytest.raises(TypeError, match="device"):
        torch_device_to_trt(torch.device("meta"))
    assert infer_dynamic_axes([(1, 2), (3,)], [(1, 4), (3,)]) == [[1], []]
    with pytest.raises(ValueError, match="max_shapes_flat"):
        infer_dynamic_axes([(1,)], [])
    with use_shape_wrapping(True):
        size = SizeWrapper((2, 3))
    assert size.numel() == 6 and isinstance(size[0], IntWrapper) and size._trt.value.tolist() == [2, 3]
    assert (load_plugins(), trt_version(), torch_version()) == (False, trt.__version__, torch.__version__)
    assert trt_version() >= "8.6" and trt_version() < "11" and Version("10.0.1") > "9.3" and Version("2.10.0+cpu") == "2.10"
    with pytest.raises(ValueError, match="no version"):
        Version("new") < "1.0"  # noqa: B015
    assert len(Flattener.from_value([x := torch.ones(1), {"a": x}])) == 2


def test_modules_in_training_mode():
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 4, 1), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.9))
    model[2].eval()
    x = torch.randn(2, 2, 5)
    with pytest.warns(UserWarning, match="Sequential is in training mode"):
        converted = torch2trt(model, [x])
    assert [m.training for m in model] == [True, True, False]
    close(converted(x), model.eval()(x))


def test_a_batch_that_the_model_fixes():
    class Fixed(torch.nn.Module):
        def forward(self, x):
            return x.view(1, 6) + 1

    x = torch.randn(1, 2, 3)
    with pytest.warns(UserWarning, match="max_batch_size has no effect"):
        converted = torch2trt(Fixed().eval(), [x], max_batch_size=4)
    close(converted(x), x.view(1, 6) + 1)
    with pytest.raises(kiln.KilnError, match="could not capture Fixed"):
        torch2trt(Fixed().eval(), [x], min_shapes=[(1, 2, 3)], max_shapes=[(4, 2, 3)])


class Parts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(4)
        self.norm.running_var += torch.arange(4) / 3
        self.norm.running_mean += torch.arange(4) / 5

    def forward(self, x):
        a, b = torch.chunk(self.norm(x), 2, 1)
        return (
            torch.flatten(a, 1),
            torch.roll(b, 1, 3),
            torch.nn.functional.interpolate(a, scale_factor=2),
            b[:, :1].expand(-1, 5, -1, -1),
        )


def test_converters_that_compute_with_numpy_and_sizes():
    """What users' converters do beside adding layers: numbers by NumPy, sizes by layers, lists that they change afterwards."""
    seen = []

    @tensorrt_converter("torch.nn.functional.batch_norm")
    def convert_norm(ctx):
        x, mean, variance, weight, bias = ctx.method_args[:5]
        scale = weight.detach().cpu().numpy() / np.sqrt(variance.detach().cpu().numpy() + 1e-5)
        shift = bias.detach().cpu().numpy() - mean.detach().cpu().numpy() * scale
        layer = ctx.network.add_scale_nd(x._trt, trt.ScaleMode.CHANNEL, shift, scale, np.ones_like(scale), 1)
        seen.append((ctx.current_module_name(), ctx.get_module_name(ctx.current_module()), ctx.torch2trt_kwargs["fp16_mode"]))
        ctx.method_return._trt = layer.get_output(0)

    @tensorrt_converter("torch.chunk")
    def convert_chunk(ctx):
        x = ctx.method_args[0]
        start = [0] * x.ndim
        for part in ctx.method_return:
            shape = make_size_wrapper(part.shape)
            layer = ctx.network.add_slice(x._trt, start=start, shape=(1,) * x.ndim, stride=[1] * x.ndim)
            layer.set_input(2, shape._trt)
            part._trt = layer.get_output(0)
            start[1] += part.shape[1]

    @tensorrt_converter("torch.flatten")
    def convert_flatten(ctx):
        x, net = ctx.method_args[0]._trt, ctx.network
        first = net.add_slice(net.add_shape(x).get_output(0), [0], [1], [1]).get_output(0)
        doubled = net.add_elementwise(first, IntWrapper(2)._trt, trt.ElementWiseOperation.PROD).get_output(0)
        halved = net.add_elementwise(doubled, IntWrapper(2)._trt, trt.ElementWiseOperation.FLOOR_DIV).get_output(0)
        rest = net.add_constant([1], np.array([-1], dtype=np.int64)).get_output(0)
        both = net.add_concatenation([halved, rest])
        both.axis = 0
        layer = net.add_shuffle(x)
        layer.set_input(1, both.get_output(0))
        ctx.method_return._trt = layer.get_output(0)

    @tensorrt_converter("torch.roll")
    def convert_roll(ctx):
        x = ctx.method_args[0]
        size = make_size_wrapper(x.size())
        layer = ctx.network.add_slice(x._trt, (0, 0, 0, -1), (1, 1, 1, 1), (1, 1, 1, 1))
        layer.set_input(2, size._trt)
        layer.mode = trt.SliceMode.WRAP
        assert isinstance(x.size(0), IntWrapper) and isinstance(size[3], IntWrapper)
        ctx.method_return._trt = layer.get_output(0)

    @tensorrt_converter("torch.nn.functional.interpolate")
    def convert_interpolate(ctx):
        x = ctx.method_args[0]
        layer = ctx.network.add_resize(x._trt)
        sizes = [x.size(0), x.size(1), x.size(2) * 2, make_int_wrapper(2) * x.size(3)]
        layer.set_input(1, make_size_wrapper(sizes)._trt)
        layer.resize_mode = trt.InterpolationMode.NEAREST
        layer.coordinate_transformation = trt.ResizeCoordinateTransformation.ASYMMETRIC
        ctx.method_return._trt = layer.get_output(0)

    @tensorrt_converter("torch.Tensor.expand")
    def convert_expand(ctx):
        x, result = ctx.method_args[0], ctx.method_return
        strides = [int(a == b) for a, b in zip(x.shape, result.shape)]
        ctx.method_return._trt = ctx.network.add_slice(x._trt, [0] * 4, tuple(result.shape), strides).get_output(0)

    @tensorrt_converter("torch.no_such_function")
    def convert_nothing(ctx):
        raise AssertionError

    model = Parts().eval()
    with pytest.warns(UserWarning, match="no_such_function is not used"):
        converted = torch2trt(model, [torch.randn(1, 4, 3, 6)], max_batch_size=3)
    assert seen[0] == ("norm", "norm", False)
    assert converted.network.num_layers >= 8 and converted.network.get_layer(0) is converted.network.layers[0]
    for batch in (1, 3):
        x = torch.randn(batch, 4, 3, 6)
        for got, expected in zip(converted(x), model(x)):
            close(got, expected)
    assert not hasattr(torch.SymInt, "_trt") and torch.ones(2).numpy().tolist() == [1, 1]


def test_folders_that_torch2trt_wrote(tmp_path):
    for i in (0, 2, 10):
        torch.save([torch.full((1,), float(i))], tmp_path / f"input_{i}.pth")
    dataset = FolderDataset(str(tmp_path))
    assert [item[0].item() for item in dataset] == [0, 2, 10]
    dataset.insert([torch.ones(1)])
    assert len(dataset) == 4 and dataset[2][0].item() == 1 and dataset.file_paths()[2].endswith("input_3.pth")
