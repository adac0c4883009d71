"""`make bench`: Kiln against PyTorch eager, torch.compile and the peers that are installed, in one interleaved run.

    python bench/run.py                              everything; writes bench/results/*.csv
    python bench/run.py --models resnet50 bert_base  some models
    python bench/run.py --contenders eager kiln      without torch.compile, whose compilation takes most of the time

Each model runs in a process of its own. Contenders take turns in short blocks until each has had its time; the first call of a
block is not counted (threads of the one before may still be spinning). The table shows medians in milliseconds, batch 1.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
import warnings
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "python")]
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

CONTENDERS = ["eager", "compile", "openvino", "onnxruntime", "kiln"]
BLOCK_SECONDS = 0.15


# ---- Contenders: each takes (module, example, threads) and returns a call, or None where it is not installed ------------


def make_eager(module: Any, example: tuple[Any, ...], threads: int) -> Callable[[], Any]:
    return lambda: module(*example)


def make_compile(module: Any, example: tuple[Any, ...], threads: int) -> Callable[[], Any]:
    import torch

    compiled = torch.compile(module)
    return lambda: compiled(*example)


def make_kiln(module: Any, example: tuple[Any, ...], threads: int) -> Callable[[], Any]:
    import kiln

    compiled = kiln.compile(module, inputs=example, threads=threads)
    return lambda: compiled(*example)


def make_openvino(module: Any, example: tuple[Any, ...], threads: int) -> Callable[[], Any]:
    import openvino
    from torch.utils import _pytree as pytree

    leaves = pytree.tree_leaves(example)
    model = openvino.convert_model(module, example_input=example, input=[tuple(leaf.shape) for leaf in leaves])
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(model, "CPU", options)
    request, arrays = compiled.create_infer_request(), [leaf.numpy() for leaf in leaves]
    return lambda: request.infer(arrays, share_inputs=True)


def make_onnxruntime(module: Any, example: tuple[Any, ...], threads: int) -> Callable[[], Any]:
    import onnxruntime
    import torch
    from torch.utils import _pytree as pytree

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        torch.onnx.export(module, example, path, dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {info.name: leaf.numpy() for info, leaf in zip(session.get_inputs(), pytree.tree_leaves(example))}
    return lambda: session.run(None, feed)


# ---- One model, in this process -------------------------------------------------------------------------------------------


def measure(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, call in calls.items():
            call()
            block = time.perf_counter() + BLOCK_SECONDS
            now = time.perf_counter()
            while now < block:
                start = now
                call()
                now = time.perf_counter()
                times[name].append(now - start)
    return times


def run_one(name: str, contenders: list[str], threads: int, seconds: float) -> dict[str, Any]:
    import torch

    from compare import relative_errors
    from models import MODELS

    torch.set_num_threads(threads)
    model = MODELS[name]
    module, example = model.module("full"), model.example("full", 1)
    calls: dict[str, Callable[[], Any]] = {}
    result: dict[str, Any] = {"model": name, "failed": {}, "setup": {}}
    with torch.no_grad():
        for contender in contenders:
            start = time.perf_counter()
            try:
                call = globals()[f"make_{contender}"](module, example, threads)
                call()
            except ModuleNotFoundError as error:
                if error.name and error.name.split(".")[0] in ("openvino", "onnxruntime", "onnx", "onnxscript"):
                    continue
                raise
            except Exception as error:
                result["failed"][contender] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                continue
            result["setup"][contender] = time.perf_counter() - start
            calls[contender] = call
        if "kiln" in calls:
            result["error"] = max(relative_errors(calls["kiln"](), module(*example)))
        times = measure(calls, seconds)
    result["median"] = {c: statistics.median(t) for c, t in times.items()}
    result["runs"] = {c: len(t) for c, t in times.items()}
    return result


# ---- Figures that are no comparison -----------------------------------------------------------------------------------------


# Linux counts the memory of the process that forked, too, until the new program starts: a small interpreter stands in between.
PEAK = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"


# A child's peak counts what its parent had in memory when it was started, so a small process starts it.
PEAK_SCRIPT = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = status
print(usage.ru_maxrss * 1024 if status == 0 else -1)
"""


def peak_bytes(command: list[str]) -> int:
    result = subprocess.run([sys.executable, "-S", "-c", PEAK_SCRIPT, *command], check=True, capture_output=True, text=True)
    peak = int(result.stdout)
    if peak < 0:
        raise RuntimeError(f"{command} failed: {result.stderr}")
    return peak


def best_of(call: Callable[[], Any], repeat: int = 5) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def figure_call_overhead(build: Path, folder: Path) -> list[tuple[str, float, str, str]]:
    import torch

    import kiln

    module = torch.nn.Linear(16, 16).eval()
    x = torch.randn(1, 16)
    fast = kiln.compile(module, inputs=[x], threads=1)
    with torch.no_grad():
        python_s = statistics.median(timeit.repeat(lambda: fast(x), number=20000, repeat=7)) / 20000
        eager_s = statistics.median(timeit.repeat(lambda: module(x), number=20000, repeat=7)) / 20000
    kiln.save(fast, folder / "linear.kiln")
    command = [str(build / "kiln"), "bench", str(folder / "linear.kiln"), "--threads", "1", "--seconds", "1", "--json", "-"]
    native = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [
        ("Linear(16,16) call from Python", 1e6 * python_s, "us", "<= 4"),
        ("Linear(16,16) call, PyTorch eager", 1e6 * eager_s, "us", ""),
        ("Linear(16,16) call from C", 1e6 * native["median_s"], "us", "<= 1"),
    ]


def figure_build_and_memory(build: Path, folder: Path) -> list[tuple[str, float, str, str]]:
    import torch

    import kiln
    from models import MODELS

    rows: list[tuple[str, float, str, str]] = []
    for name, limit in (("resnet50", 2.0), ("bert_base", 4.0)):
        model = MODELS[name]
        path = folder / f"{name}.pt2"
        with torch.no_grad():
            torch.export.save(torch.export.export(model.module("full"), model.example("full", 1), strict=False), path)
        engines: list[Any] = []
        seconds = best_of(lambda: engines.append(kiln.Engine.build(path)), 3)  # noqa: B023 - called at once
        rows.append((f"build {name} from .pt2", seconds, "s", f"<= {limit:g}"))
        engines[-1].save(folder / f"{name}.kiln")
    size = (folder / "resnet50.kiln").stat().st_size
    seconds = best_of(lambda: kiln.Engine.open(folder / "resnet50.kiln"))
    rows.append((f"load resnet50 engine ({size / 1e6:.0f} MB)", 1e3 * seconds, "ms", "<= 20"))
    runner = kiln.Engine.open(folder / "resnet50.kiln").runner(threads=2)
    runner(torch.zeros(1, 3, 224, 224))
    memory = runner.memory()
    limit_bytes = memory["weights"] + 1.3 * memory["arena"] + 10e6
    peak = peak_bytes([str(build / "examples" / "run_engine"), str(folder / "resnet50.kiln"), "2"])
    rows.append(("peak memory of run_engine, resnet50", peak / 1e6, "MB", f"<= {limit_bytes / 1e6:.0f}"))
    return rows


def figure_library_size(build: Path, folder: Path) -> list[tuple[str, float, str, str]]:
    library = next(p for p in sorted(build.glob("libkiln.so*")) if not p.is_symlink())
    stripped = folder / "libkiln.stripped"
    subprocess.run(["strip", "-o", str(stripped), str(library)], check=True)
    return [("libkiln.so, stripped", stripped.stat().st_size / 1e6, "MB", "")]


# ---- All ------------------------------------------------------------------------------------------------------------------------


def print_models(rows: list[dict[str, Any]], contenders: list[str]) -> None:
    shown = [c for c in contenders if any(c in row["median"] for row in rows)]
    print(f"\n{'model, ms':22s}" + "".join(f"{c:>12s}" for c in shown) + f"{'eager/kiln':>12s}{'error':>10s}")
    ratios: dict[str, list[float]] = {c: [] for c in shown if c != "kiln"}
    for row in rows:
        median = row["median"]
        cells = "".join(f"{1e3 * median[c]:12.3f}" if c in median else f"{'-':>12s}" for c in shown)
        kiln_s = median.get("kiln")
        ratio = f"{median['eager'] / kiln_s:11.2f}x" if kiln_s and "eager" in median else f"{'-':>12s}"
        error = f"{row['error']:10.1e}" if "error" in row else f"{'-':>10s}"
        print(f"{row['model']:22s}{cells}{ratio}{error}")
        for contender, reason in row["failed"].items():
            print(f"  {contender}: {reason}")
        for c, values in ratios.items():
            if kiln_s and c in median:
                values.append(median[c] / kiln_s)
    for c, values in ratios.items():
        if values:
            mean = math.exp(sum(map(math.log, values)) / len(values))
            slower = [row["model"] for row in rows if row["median"].get(c, 1) < row["median"].get("kiln", 0)]
            text = f"; slower on: {', '.join(slower)}" if slower else "; slower on none"
            print(f"geometric mean against {c}: {mean:.2f}x over {len(values)} models{text}")


def machine() -> str:
    names = {line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")}
    return f"{', '.join(sorted(names)) or 'unknown processor'}, {os.cpu_count()} CPUs"


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    print(f"wrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")


def run_in_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, "--threads", str(options.threads), "--seconds", str(options.seconds)]
    result = subprocess.run([*command, "--contenders", *options.contenders], capture_output=True, text=True, check=False)
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode or not lines:
        last = (result.stderr.strip().splitlines() or ["no output"])[-1]
        return {"model": name, "median": {}, "setup": {}, "runs": {}, "failed": {"process": f"exit {result.returncode}: {last}"}}
    return json.loads(lines[-1])


def figures(options: argparse.Namespace) -> list[tuple[str, float, str, str]]:
    rows: list[tuple[str, float, str, str]] = []
    build = Path(options.build)
    with tempfile.TemporaryDirectory() as folder:
        for figure in (figure_call_overhead, figure_build_and_memory, figure_library_size):
            rows += figure(build, Path(folder))
    for name, value, unit, limit in rows:
        print(f"  {name:44s}{value:10.2f} {unit:4s}{limit}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=None)
    parser.add_argument("--contenders", nargs="*", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each contender on each model")
    parser.add_argument("--build", default=str(ROOT / "build"), help="where CMake built")
    parser.add_argument("--output", default=str(ROOT / "bench" / "results"))
    parser.add_argument("--no-figures", action="store_true", help="only the table of models")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options.one, options.contenders, options.threads, options.seconds)))
        return 0
    from models import MODELS

    names = options.models if options.models is not None else list(MODELS)
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        parser.error(f"unknown models {unknown}; known: {', '.join(MODELS)}")
    print(f"{machine()}; {options.threads} threads, fp32, batch 1")
    rows = []
    for name in names:
        rows.append(run_in_process(name, options))
        print(".", end="", flush=True)
    print_models(rows, options.contenders)
    output = Path(options.output)
    flat = [
        [r["model"], *(r["median"].get(c, "") for c in options.contenders), r.get("error", ""), r["setup"].get("kiln", "")]
        for r in rows
    ]
    write_csv(output / "models.csv", ["model", *(f"{c}_s" for c in options.contenders), "error", "kiln_compile_s"], flat)
    if not options.no_figures:
        print("\nfigures")
        write_csv(output / "figures.csv", ["figure", "value", "unit", "limit"], [list(row) for row in figures(options)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
