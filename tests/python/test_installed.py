"""What a pip-installed package has beside Python: headers for plugins, the C library, PyTorch's operators."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kiln
from conftest import ROOT

PLUGIN = """#include <kiln/kiln_ext.h>
static kiln_status run(const kiln_op_call *c) {
  const float *x = c->inputs[0].data;
  float *y = c->outputs[0].data;
  for (int64_t i = 0; i < kiln_elements(&c->outputs[0]); i++) y[i] = 3 * x[i];
  return KILN_OK;
}
kiln_status kiln_plugin_init(const kiln_ext *ext) {
  const kiln_op_def op = {.struct_size = sizeof op, .schema = "installed::triple(Tensor x) -> Tensor", .run = run};
  return ext->register_op(&op);
}
"""

PROGRAM = """#include <kiln/kiln.h>
#include <stdio.h>
int main(int argc, char **argv) {
  kiln_engine *engine = NULL;
  if (argc < 2 || kiln_engine_open(argv[1], &engine) != KILN_OK) return puts(kiln_last_error()), 1;
  printf("%zu inputs\\n", kiln_engine_input_count(engine));
  kiln_engine_destroy(engine);
  return 0;
}
"""

USE_PLUGIN = """
import sys, torch, kiln
assert kiln.include_dir().startswith(sys.argv[1]), kiln.include_dir()
op = torch.library.custom_op("installed::triple", lambda x: x * 3, mutates_args=(), schema="(Tensor x) -> Tensor")
op.register_fake(torch.empty_like)
kiln.load_plugin("triple.so")
class Model(torch.nn.Module):
    def forward(self, x):
        return torch.ops.installed.triple(x) + 1
fast, x = kiln.compile(Model().eval(), inputs=[torch.randn(5)]), torch.randn(5)
torch.testing.assert_close(fast(x), 3 * x + 1)
"""

# A process without the package, before and after it imports it all the same.
LOAD_LIBRARY = """
import sys, torch
torch.ops.load_library(sys.argv[1])
assert "kiln" not in sys.modules
y = torch.jit.load("model.ts")(torch.ones(2, 4))
torch.testing.assert_close(y, torch.load("expected.pt"))
sys.path.insert(0, sys.argv[2])
import kiln
torch.testing.assert_close(torch.jit.load("model.ts")(torch.ones(2, 4)), y)
fast = kiln.compile(torch.jit.script(torch.nn.ReLU().eval()), inputs=[torch.randn(3)])
torch.testing.assert_close(fast(-torch.ones(3)), torch.zeros(3))
"""


def run(command: list[str], folder: Path, **environment: str) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, build_folder: Path) -> Path:
    """The folder that a wheel would be unpacked to: what CMake installs for it, and the Python files."""
    folder = tmp_path_factory.mktemp("site")
    run(["cmake", "--install", str(build_folder), "--component", "python", "--prefix", str(folder)], folder)
    shutil.copytree(
        ROOT / "python" / "kiln",
        folder / "kiln",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("*.so", "*.c", "*.h", "__pycache__"),
    )
    return folder


def test_a_plugin_is_built_with_the_headers_of_the_package(package: Path, tmp_path: Path) -> None:
    (tmp_path / "triple.c").write_text(PLUGIN)
    ask = [sys.executable, "-c", "import kiln; print(kiln.include_dir())"]
    include = run(ask, tmp_path, PYTHONPATH=str(package)).strip()
    run(["cc", "-Wall", "-Werror", "-shared", "-fPIC", f"-I{include}", "triple.c", "-o", "triple.so"], tmp_path)
    run([sys.executable, "-c", USE_PLUGIN, str(package)], tmp_path, PYTHONPATH=str(package))


def test_the_torch_library_needs_no_package(package: Path, tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 4).eval()
    kiln.compile(torch.jit.script(model), inputs=[torch.randn(2, 4)]).save(str(tmp_path / "model.ts"))
    torch.save(model(torch.ones(2, 4)), tmp_path / "expected.pt")
    library = package / "kiln" / "lib" / "libkiln_torch.so.0"
    run([sys.executable, "-c", LOAD_LIBRARY, str(library), str(package)], tmp_path, PYTHONPATH="")


def test_a_c_program_is_built_with_the_library_of_the_package(package: Path, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(PROGRAM)
    kiln.save(kiln.compile(torch.nn.ReLU().eval(), inputs=[torch.randn(3)]), tmp_path / "relu.kiln")
    library = package / "kiln" / "lib" / "libkiln.so.0"
    folders = [f"-I{package / 'kiln' / 'include'}", f"-Wl,-rpath,{library.parent}"]
    run(["cc", "-Wall", "-Werror", "main.c", *folders, str(library), "-o", "main"], tmp_path)
    assert run([str(tmp_path / "main"), "relu.kiln"], tmp_path) == "1 inputs\n"


def test_the_wheel_leaves_none_of_it_out() -> None:
    pathspec = pytest.importorskip("pathspec")
    line = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("wheel.exclude = "))
    patterns = pathspec.PathSpec.from_lines("gitwildmatch", ast.literal_eval(line.partition("=")[2].partition("#")[0].strip()))
    for path in ("kiln/include/kiln/kiln.h", "kiln/include/kiln/kiln_ext.h", "kiln/lib/libkiln_torch.so.0", "kiln/paths.py"):
        assert not patterns.match_file(path), path
    assert patterns.match_file("kiln/_kiln.c") and patterns.match_file("kiln/_kiln.h")


def test_paths_of_this_process() -> None:
    assert (Path(kiln.include_dir()) / "kiln" / "kiln_ext.h").exists()
    with pytest.raises(ValueError, match="library_path: name must be one of 'kiln', 'kiln_torch'"):
        kiln.library_path("torch")
