"""Programs of which Kiln takes a part."""

from __future__ import annotations

import pytest
import torch

import kiln
from kiln.partition import partition


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(8, 8)
        self.second = torch.nn.Linear(8, 8)

    def forward(self, x, options):
        y = torch.relu(self.first(x))
        z = y @ y.transpose(-1, -2)
        z = torch.nextafter(z, z).reshape(x.shape[0], -1)
        return {"y": torch.sigmoid(self.second(y)) * options["scale"], "z": z.sum(-1) + 1}


def exported(dynamic: bool) -> tuple[torch.nn.Module, torch.export.ExportedProgram]:
    torch.manual_seed(0)
    model = Model().eval()
    shapes = {"x": {0: torch.export.Dim.AUTO}, "options": {"scale": None}} if dynamic else None
    example = (torch.randn(3, 4, 8), {"scale": torch.tensor(2.0)})
    return model, torch.export.export(model, example, dynamic_shapes=shapes, strict=False)


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_rest_runs_in_pytorch(dynamic):
    model, program = exported(dynamic)
    module, report = partition(program)
    assert report.operators == 11 and sorted(report.engines) == [4, 6]
    assert list(report.left) == ["aten::nextafter"]
    assert "test_partition.py:" in report.reasons() and "90.9 %" in str(report)
    for n in (3, 5, 8) if dynamic else (3,):
        x, options = torch.randn(n, 4, 8), {"scale": torch.tensor(float(n))}
        got, expected = module(x, options), model(x, options)
        for key in expected:
            torch.testing.assert_close(got[key], expected[key], rtol=1e-4, atol=1e-4)


def test_what_the_user_keeps_in_pytorch():
    model, program = exported(False)
    args = (torch.randn(3, 4, 8), {"scale": torch.tensor(2.0)})
    names = (
        "aten::sigmoid",
        "aten.sigmoid.default",
        "torch.ops.aten.sigmoid.default",
        "torch.ops.aten.sigmoid",
        "aten::sigmoid.default",
    )
    for keep in (*names, torch.ops.aten.sigmoid.default, torch.ops.aten.sigmoid):
        module, report = partition(program, torch_executed_ops=[keep])
        assert report.left["aten::sigmoid"][0] == "named in torch_executed_ops"
        torch.testing.assert_close(module(*args)["y"], model(*args)["y"])
    for keep in ("second", "torch.nn.modules.linear.Linear"):
        _, report = partition(program, torch_executed_modules=[keep], dryrun=True)
        assert "in a module named in torch_executed_modules" in report.left["aten::linear"][0]


def test_small_pieces_stay():
    model, program = exported(False)
    module, report = partition(program, min_block_size=5)
    assert report.engines == [6] and "fewer than min_block_size=5" in report.reasons()
    args = (torch.randn(3, 4, 8), {"scale": torch.tensor(2.0)})
    torch.testing.assert_close(module(*args)["z"], model(*args)["z"], rtol=1e-4, atol=1e-4)
    _, nothing = partition(program, min_block_size=50)
    assert nothing.engines == [] and nothing.covered == 0


def test_a_cut_module_is_for_inference():
    module, _ = partition(exported(False)[1])
    with pytest.raises(kiln.KilnError, match="inference only"):
        module.train()
