"""The examples of README and docs, run as they stand.

Blocks of one page run in order in one folder: `python` in one interpreter, `c` compiled against libkiln, `sh` with `kiln` on the
path. A line `<!-- not run -->` before a block leaves it out (installing, for example).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import PACKAGES, ROOT

BLOCK = re.compile(r"(<!-- not run -->\n)?^```(python|c|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# c-api.md runs the file that getting-started.md writes.
PAGES = [
    ["README.md"],
    ["docs/getting-started.md", "docs/c-api.md"],
    ["docs/python.md"],
    ["docs/weights.md"],
    ["docs/cli.md"],
    ["docs/torch2trt.md"],
    ["docs/torch-tensorrt.md"],
    ["docs/extending.md"],
    ["docs/torchscript.md"],
]


def blocks(page: str) -> list[tuple[str, str]]:
    found = BLOCK.findall((ROOT / page).read_text())
    return [(language, text) for skip, language, text in found if not skip and "make " not in text]


def run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command[-1]}\n{result.stdout}{result.stderr}"


def run_block(language: str, text: str, folder: Path, build: Path, number: int) -> None:
    environment = {**os.environ, "PATH": f"{build}:{os.environ['PATH']}", "PYTHONPATH": str(PACKAGES)}
    environment["C_INCLUDE_PATH"] = str(ROOT / "include")  # where headers are once Kiln is installed
    if language == "c":
        source, program = folder / f"block{number}.c", folder / f"block{number}"
        source.write_text(text)
        flags = ["-Wall", "-Wextra", "-Werror", f"-I{ROOT}/include", f"-L{build}", "-lkiln", f"-Wl,-rpath,{build}"]
        run(["cc", "-std=c17", str(source), "-o", str(program), *flags], folder, environment)
        run([str(program)], folder, environment)
    elif language == "sh":
        run(["sh", "-euc", text], folder, environment)
    else:
        run([sys.executable, "-c", text], folder, environment)


@pytest.mark.parametrize("pages", PAGES, ids=lambda pages: Path(pages[0]).stem)
def test_examples_of(pages: list[str], tmp_path: Path, build_folder: Path) -> None:
    number = 0
    for page in pages:
        python = ""
        found = blocks(page)
        assert found, f"{page} has no examples"
        for i, (language, text) in enumerate(found):
            # Python blocks continue one another, so they run together, before the next block of another kind.
            if language == "python":
                python += text
                if i + 1 < len(found) and found[i + 1][0] == "python":
                    continue
                text = python
            run_block(language, text, tmp_path, build_folder, number)
            number += 1


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"
