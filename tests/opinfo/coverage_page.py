"""docs/coverage.md: what Kiln computes, from the library's own operator table (`kiln ops --json`), the operator lists of lists/ and the
tables of results/ that run.py wrote.

    python tests/opinfo/coverage_page.py            writes the page
    python tests/opinfo/coverage_page.py --check    exit status 1 if it is not up to date
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PAGE = ROOT / "docs" / "coverage.md"

LISTS = {
    "core_aten": "the core ATen operators",
    "torch_tensorrt_dynamo": "what Torch-TensorRT converts from torch.export",
    "torch_tensorrt_ts": "what Torch-TensorRT converts from TorchScript",
    "torch2trt": "what torch2trt converts",
}
COLUMNS = ["float32", "float64", "float16", "bfloat16", "int64", "bool", "complex64", "cuda_float32", "cuda_float16"]

# Python's names for operators of ATen: where the last part of the name is not ATen's.
PYTHON_NAMES = {
    "__div__": "div",
    "__eq__": "eq",
    "__floordiv__": "floor_divide",
    "__getitem__": "index",
    "__gt__": "gt",
    "__iadd__": "add",
    "__idiv__": "div",
    "__ifloordiv__": "floor_divide",
    "__imod__": "remainder",
    "__imul__": "mul",
    "__ipow__": "pow",
    "__isub__": "sub",
    "__itruediv__": "div",
    "__lt__": "lt",
    "__matmul__": "matmul",
    "__mod__": "remainder",
    "__mul__": "mul",
    "__ne__": "ne",
    "__neg__": "neg",
    "__pow__": "pow",
    "__radd__": "add",
    "__rdiv__": "div",
    "__rmul__": "mul",
    "__rpow__": "pow",
    "__rsub__": "sub",
    "__rtruediv__": "div",
    "__sub__": "sub",
    "__truediv__": "div",
    "__add__": "add",
    "dropout2d": "feature_dropout",
    "dropout3d": "feature_dropout",
    "interpolate": "upsample_bilinear2d",
    "upsample": "upsample_bilinear2d",
    "normalize": "linalg_vector_norm",
    "softsign": "div",
    "tensor": "lift_fresh_copy",
    "forward": "reflection_pad2d",
    "add": "add",
    "truediv": "div",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "mul": "mul",
    "neg": "neg",
    "pow": "pow",
    "sub": "sub",
    "eq": "eq",
    "getitem": "select",
    "sym_min": "minimum",
    "sym_not": "logical_not",
}


def names_of(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]


def base(name: str) -> str:
    """aten::add_.Tensor -> add"""
    name = name.rpartition("::")[2].partition(".")[0]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def decomposes(name: str) -> bool:
    """Does PyTorch write it in terms of others (kiln.compile asks it to)?"""
    import torch

    table = {str(op).partition(".")[0].rpartition("::")[2].rpartition("aten.")[2] for op in torch.export.default_decompositions()}
    packet = getattr(torch.ops.aten, base(name), None)
    if packet is None or base(name).startswith("rand"):
        return False
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    return base(name) in table or any(
        getattr(packet, overload).has_kernel_for_dispatch_key(composite) for overload in packet.overloads()
    )


def covered(name: str, known: set[str]) -> bool:
    from kiln._kiln import operator_supported

    if "::" in name:
        return operator_supported(name) or ("." not in name and base(name) in known)
    if name.startswith("prims."):
        return name.split(".")[1] in ("broadcast_in_dim", "div", "sum") and {"expand", "div", "sum"} <= known
    last = name.rpartition(".")[2]
    mapped = PYTHON_NAMES.get(last, last[:-1] if last.endswith("_") else last)
    return mapped in known


def list_section(known: set[str]) -> list[str]:
    lines = ["## Against other lists", "", "| list | covered | of | not covered |", "|---|---|---|---|"]
    for stem, title in LISTS.items():
        names = names_of(HERE / "lists" / f"{stem}.txt")
        direct = [n for n in names if covered(n, known)]
        rest = [n for n in names if n not in set(direct)]
        by_torch = [n for n in rest if "::" in n and decomposes(n)]
        missing = [n for n in rest if n not in set(by_torch)]
        shown = ", ".join(f"`{n.removeprefix('aten::')}`" for n in missing) or "-"
        lines.append(f"| {title} | {len(names) - len(missing)} | {len(names)} | {shown} |")
    lines += [
        "",
        "Operators that training steps alone need (`*_backward`) and random numbers have no rows; `kiln.compile` leaves them to PyTorch "
        "where it may (see [torch-tensorrt.md](torch-tensorrt.md)).",
    ]
    return lines


def op_section(report: list[dict]) -> list[str]:
    lines = [
        "## Kiln's operators",
        "",
        "`cpu` and `cuda`: tuned kernels; `ref` is the plain one that takes any layout and dtype, `view` needs none. "
        "A GPU without a kernel refuses the operator unless `allow_host_fallback` is given.",
        "",
        "| operator | cpu | cuda | answers to |",
        "|---|---|---|---|",
    ]
    for row in report:
        cpu = str(row["cpu_kernels"]) if row["cpu_kernels"] else "ref" if row["reference"] else "view" if row["cuda"] else "-"
        cuda = str(row["cuda_kernels"]) if row["cuda_kernels"] else "view" if row["cuda"] else "-"
        answers = " ".join(name.removeprefix("aten::") for name in row["torch"])
        lines.append(f"| {row['name']} | {cpu} | {cuda} | {answers} |")
    return lines


def result_tables() -> dict[str, dict[str, dict[str, str]]]:
    tables = {}
    for column in COLUMNS:
        path = HERE / "results" / f"{column}.csv"
        if path.exists():
            with open(path, newline="") as file:
                lines = [line for line in file if not line.startswith("#")]
            tables[column] = {row["op"]: row for row in csv.DictReader(lines)}
    return tables


def heads() -> list[str]:
    """What each table says of itself."""
    firsts = [
        (HERE / "results" / f"{c}.csv").read_text().partition("\n")[0] for c in COLUMNS if (HERE / "results" / f"{c}.csv").exists()
    ]
    return [f"- {first[2:]}" for first in firsts if first.startswith("#")]


def result_section() -> list[str]:
    tables = result_tables()
    lines = [
        "## PyTorch's operator database",
        "",
        "Each operator's samples are captured by torch.export, built, run and compared (`tests/opinfo/run.py`). `yes`: all are right; "
        "`n/m`: so many are built and right, the others are refused; `no`: all are refused; empty: there is nothing to judge (the dtype "
        "does not exist, results are random, or torch.export does not capture it). The reasons stand in `tests/opinfo/results/`. "
        "Sums are over the operators that torch.export captures.",
        "",
    ]
    lines += ["The tables, as they were made:", "", *heads(), ""]
    lines += ["| dtype | pass | refused | wrong | crashed | share |", "|---|---|---|---|---|---|"]
    for column, table in tables.items():
        counts = {o: sum(row["outcome"] == o for row in table.values()) for o in ("pass", "refused", "wrong", "crash")}
        judged = sum(counts.values())
        share = f"{100 * counts['pass'] / judged:.1f} %" if judged else "-"
        name = column.replace("cuda_", "cuda, ")
        lines.append(f"| {name} | {counts['pass']} | {counts['refused']} | {counts['wrong']} | {counts['crash']} | {share} |")
    lines += [
        "",
        "| operator | " + " | ".join(c.replace("cuda_", "cuda ") for c in tables) + " |",
        "|---" * (len(tables) + 1) + "|",
    ]
    for op in sorted({op for table in tables.values() for op in table}):
        cells = []
        for table in tables.values():
            row = table.get(op)
            outcome = row["outcome"] if row else ""
            if row and outcome == "refused":
                outcome = "no" if row["passed"] == "0" else f"{row['passed']}/{row['samples']}"
            cells.append({"pass": "yes", "none": "", "random": "", "export": "", "left": ""}.get(outcome, outcome))
        if any(cells):
            lines.append(f"| {op} | " + " | ".join(cells) + " |")
    return lines


def render() -> str:

    import torch

    import kiln

    report = json.loads(kiln.ops_report(json=True))
    known = {base(name) for row in report for name in row["torch"]} | {"lift_fresh_copy", "getitem"}
    lines = [
        "# Coverage",
        "",
        "Made by `tests/opinfo/coverage_page.py`; a test keeps it true. `kiln ops` prints the operator table of a library.",
        "",
    ]
    lines += [f"Decompositions are those of PyTorch {'.'.join(torch.__version__.split('.')[:2])}.", ""]
    for section in (list_section(known), op_section(report), result_section()):
        lines += [*section, ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    sys.path.append(str(ROOT / "python"))
    page = render()
    if "--check" in sys.argv[1:]:
        same = PAGE.exists() and PAGE.read_text() == page
        print("up to date" if same else f"{PAGE} is not up to date: run {Path(__file__).name}")
        return 0 if same else 1
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
