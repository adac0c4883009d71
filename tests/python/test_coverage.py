"""docs/coverage.md says what the library's own tables say."""

import re
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "opinfo"))
import coverage_page as coverage  # noqa: E402


def section(page: str, title: str) -> str:
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0].strip()


def test_page_is_up_to_date() -> None:
    page, made = coverage.PAGE.read_text(), coverage.render()
    for title in ("Kiln's operators", "PyTorch's operator database"):
        assert section(page, title), title
        assert section(page, title) == section(made, title), f"run tests/opinfo/coverage_page.py: {title}"
    version = re.search(r"PyTorch (\d+\.\d+)", page)
    if version and torch.__version__.startswith(version[1] + "."):
        assert page == made, "run tests/opinfo/coverage_page.py"


def test_nothing_in_the_tables_is_wrong() -> None:
    tables = coverage.result_tables()
    assert {"float32", "cuda_float32"} <= set(tables)
    for column, table in tables.items():
        outcomes = [row["outcome"] for row in table.values()]
        assert len(outcomes) > 600, column
        assert not {"wrong", "crash"} & set(outcomes), column
    for column, share in (("float32", 0.75), ("cuda_float32", 0.65)):
        outcomes = [row["outcome"] for row in tables[column].values()]
        passed, refused = outcomes.count("pass"), outcomes.count("refused")
        assert passed >= share * (passed + refused), column
