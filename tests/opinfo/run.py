"""PyTorch's own operator database against Kiln: each operator's samples are captured by torch.export, built, run and compared.

    python tests/opinfo/run.py                               all operators, float32; prints a summary, writes results/float32.csv
    python tests/opinfo/run.py --dtype int64 --jobs 2
    python tests/opinfo/run.py --ops add softmax -v          some operators, each failing sample in full
    python tests/opinfo/run.py --ops add --update            some operators, whose rows in results/float32.csv are replaced
    python tests/opinfo/run.py --device cuda --jobs 14 --samples 6 --deadline 200      on a GPU; writes results/cuda_float32.csv

    python tests/opinfo/run.py --device cuda:sm_90           builds only: what a GPU's engines would lack

Operators run in worker processes, so that one that crashes is known by name. What an operator can come to:

    pass      every sample that torch.export captures is built and right
    refused   Kiln refuses some sample with a reason; all others are right
    export    torch.export captures no sample
    random    results are not determined by the inputs
    none      the database has no sample of this dtype (or only of types that Kiln lacks)
    wrong     a sample's result differs
    crash     the process died or hung
    left      the deadline came first

A table names its samples per operator, and PyTorch's version, in its first line. Exit status 1 if any is wrong or crashed. Needs the package `expecttest`, which PyTorch's testing module imports.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import select
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Optional

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results"
# Relative to the largest element, as sums of different order differ.
TOLERANCE = {"float32": 2e-5, "float64": 1e-10, "float16": 4e-3, "bfloat16": 3e-2, "complex64": 2e-5, "complex128": 1e-10}
# PyTorch's own results in float64 are off by that much for arguments over 5, or below 0 (found with 30 digits).
ROUGH = {"special.bessel_j0": 1e-6, "special.bessel_j1": 1e-6, "special.bessel_y0": 1e-6, "special.bessel_y1": 1e-6}
ROUGH["special.airy_ai"] = 1e-7
# Which of several equal elements these find is not defined: the elements are compared, not their places.
TIES = {"sort", "msort", "argsort", "topk", "kthvalue", "mode", "median", "nanmedian", "max", "min", "argmax", "argmin"}
SIGNS = {"svd", "linalg.svd", "linalg.eigh"}
# The database does not say so of all of these.
RANDOM = ("bernoulli", "multinomial", "normal", "rand", "uniform", "exponential", "geometric", "cauchy", "log_normal", "dropout")
UNDEFINED = ("empty", "new_empty", "empty_like", "empty_permuted", "empty_strided", "new_empty_strided", "resize_", "resize_as_")


# ---- One operator, in a worker -------------------------------------------------------------------------------------------------


def is_random(name: str) -> bool:
    short = name.rpartition(".")[2]
    return any(short.startswith(r) or short.endswith(f"_{r}") or r in short.split("_") for r in RANDOM) or short in UNDEFINED


def make_module(op: Any, leaves: list[Any], spec: Any) -> tuple[Any, tuple[Any, ...]]:
    import torch
    from torch.utils import _pytree as pytree

    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    class Call(torch.nn.Module):
        def forward(self, *inputs: Any) -> Any:
            filled = list(leaves)
            for i, tensor in zip(tensors, inputs):
                filled[i] = tensor
            args, kwargs = pytree.tree_unflatten(filled, spec)
            return op(*args, **kwargs)

    return Call().eval(), tuple(leaves[i].detach() for i in tensors)


def compare(name: str, expected: Any, found: Any) -> Optional[str]:
    import torch
    from torch.utils import _pytree as pytree

    wanted, got = pytree.tree_leaves(expected), pytree.tree_leaves(found)
    if len(wanted) != len(got):
        return f"{len(wanted)} results expected, {len(got)} found"
    for i, (w, g) in enumerate(zip(wanted, got)):
        if not isinstance(w, torch.Tensor):
            if repr(w) != repr(g):
                return f"result {i}: {w!r} expected, {g!r} found"
            continue
        if w.dtype != g.dtype or w.shape != g.shape:
            return f"result {i}: {w.dtype}{list(w.shape)} expected, {g.dtype}{list(g.shape)} found"
        if w.numel() == 0:
            continue
        tolerance = max(TOLERANCE.get(str(w.dtype).partition(".")[2], 0), ROUGH.get(name, 0))
        if w.is_complex():
            w, g = torch.view_as_real(w.resolve_conj()), torch.view_as_real(g.resolve_conj())
        if not w.dtype.is_floating_point:
            if not torch.equal(w, g):
                return f"result {i}: {int((w != g).sum())} of {w.numel()} elements differ"
            continue
        w, g = w.double(), g.double()
        finite = w.isfinite()
        if not torch.equal(finite, g.isfinite()) or not torch.equal(w[~finite].nan_to_num(), g[~finite].nan_to_num()):
            return f"result {i}: inf or nan in other places: {w.flatten()[:4].tolist()} expected, {g.flatten()[:4].tolist()} found"
        w, g = w[finite], g[finite]
        error = (w - g).abs()
        if w.numel() and not bool((error <= tolerance * w.abs() + tolerance * max(1e-3, w.abs().max().item())).all()):
            return f"result {i}: largest difference {error.max().item():.3g}, largest element {w.abs().max().item():.3g}"
    return None


def picked(name: str, results: Any, sample: Any) -> Any:
    """`results` with indices into the sample's input replaced by what they point at."""
    import torch
    from torch.utils import _pytree as pytree

    x = sample.input
    at = 1 if name in ("topk", "kthvalue") else 0  # where `dim` stands
    dim = sample.kwargs.get("dim", sample.args[at] if len(sample.args) > at else -1)
    if type(dim) is not int:
        return results

    def pick(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or leaf.dtype is not torch.int64 or not leaf.numel() or x.ndim == 0:
            return leaf
        if leaf.ndim == x.ndim and -x.ndim <= dim < x.ndim:
            return torch.take_along_dim(x, leaf, dim)
        if leaf.ndim == x.ndim - 1 and -x.ndim <= dim < x.ndim:
            return torch.take_along_dim(x, leaf.unsqueeze(dim), dim)
        return x.flatten()[leaf] if leaf.ndim == 0 else leaf

    return pytree.tree_map(pick, results)


def without_signs(name: str, results: Any) -> Any:
    """Signs (and more, for equal values) of singular and eigenvectors are not defined: what they multiply to is."""
    leaves = list(results) if isinstance(results, (tuple, list)) else [results]
    if len(leaves) == 3:
        u, s, v = leaves
        v = v if name == "svd" else v.mH
        k = s.shape[-1]
        around = [basis.mH @ basis for basis in (u, v)]
        return [s, (u[..., :k] * s.unsqueeze(-2)) @ v[..., :k].mH, *around]
    if len(leaves) == 2:
        values, vectors = leaves
        return [values, (vectors * values.unsqueeze(-2)) @ vectors.mH, vectors.mH @ vectors]
    return results


def eigen_pairs(x: Any, expected: Any, found: Any) -> tuple[Any, Any]:
    """Eigenvalues in any order, and vectors of any phase: the nearest values, what the matrix makes of the vectors, and their lengths."""
    import torch

    alone = isinstance(expected, torch.Tensor)
    wanted, got = (expected, found) if alone else (expected[0], found[0])
    near = wanted.clone()
    size = wanted.shape[-1]
    for w, g, n in zip(wanted.reshape(-1, size), got.reshape(-1, size), near.view(-1, size)):
        left = list(range(len(g)))
        for i in range(len(w)):
            n[i] = g[left.pop(int((g[left] - w[i]).abs().argmin()))]
    if alone:
        return [wanted], [near]
    vectors = found[1]
    made = x.to(vectors.dtype) @ vectors
    ones = torch.ones(vectors.shape[:-2] + vectors.shape[-1:])
    return [wanted, made, ones], [near, vectors * got.unsqueeze(-2), vectors.abs().square().sum(-2).float()]


def worst(wanted: Any, got: Any) -> float:
    """The largest difference of all results; infinite where only one is finite."""
    import torch
    from torch.utils import _pytree as pytree

    error = 0.0
    for w, g in zip(pytree.tree_leaves(wanted), pytree.tree_leaves(got)):
        if isinstance(w, torch.Tensor) and w.numel():
            if w.is_complex():
                w, g = torch.view_as_real(w.resolve_conj()), torch.view_as_real(g.to(w.dtype).resolve_conj())
            w, g = w.double(), g.double()
            same = (w == g) | (w.isnan() & g.isnan())
            difference = torch.where(same, 0.0, (w - g).abs()).nan_to_num(nan=float("inf"), posinf=float("inf"))
            error = max(error, difference.max().item())
    return error


def rounding(exact: Any, result: Any) -> float:
    """Half a unit in the last place of the result's dtype, at its largest element."""
    import torch

    if not isinstance(exact, torch.Tensor) or not exact.numel() or not (result.is_floating_point() or result.is_complex()):
        return 0.0
    return float(exact.abs().max()) * torch.finfo(result.dtype).eps / 2


def is_closer(module: Any, tensors: tuple[Any, ...], expected: Any, found: Any) -> bool:
    """Is `found` at least as near to the result in float64 as PyTorch's own?"""
    import torch
    from torch.utils import _pytree as pytree

    if not any(t.is_floating_point() or t.is_complex() for t in tensors):
        return False
    wide = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64}
    wide[torch.complex64] = torch.complex128
    try:
        exact = module(*[t.to(wide.get(t.dtype, t.dtype)) for t in tensors])
        leaves = [pytree.tree_leaves(results) for results in (exact, expected, found)]
        return all(worst(e, f) <= max(worst(e, w), rounding(e, w)) for e, w, f in zip(*leaves))
    except Exception:
        return False


def run_sample(name: str, op: Any, sample: Any, device: str) -> tuple[str, str]:
    """The samples, and PyTorch's results, are on the CPU whatever the device."""
    import torch
    from torch.utils import _pytree as pytree

    import kiln

    leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), sample.kwargs))
    leaves = [leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    if any(isinstance(leaf, torch.Tensor) and leaf.layout is not torch.strided for leaf in leaves):
        return "none", "sparse"
    module, tensors = make_module(op, leaves, spec)
    copies = [t.clone() for t in tensors]
    with torch.no_grad():
        try:
            expected = module(*copies)
        except Exception as error:
            return "none", f"PyTorch itself: {error}".splitlines()[0]
        if any(isinstance(leaf, torch.Tensor) and leaf.layout is not torch.strided for leaf in pytree.tree_leaves(expected)):
            return "none", "sparse result"
        try:
            program = torch.export.export(module, tensors, strict=False)
        except Exception as error:
            return "export", f"{type(error).__name__}: {error}".splitlines()[0][:200]
        try:
            compiled = kiln.compile(program, target=device, threads=1)
        except kiln.KilnError as error:
            return "refused", " | ".join(str(error).splitlines())[:300]
        if ":sm" in device:  # a GPU that need not be here
            return "pass", ""
        try:
            found = compiled(*[t.clone().to(device) for t in tensors])
            found = pytree.tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf, found)
        except (kiln.KilnError, RuntimeError) as error:
            return "wrong", "at run: " + " | ".join(str(error).splitlines())[:300]
        if name in ("linalg.eig", "linalg.eigvals") and sample.input.numel():
            expected, found = eigen_pairs(sample.input, expected, found)
        if name in SIGNS:
            expected, found = without_signs(name, expected), without_signs(name, found)
        ties = name.partition(".")[0] in TIES
        both = (picked(name, expected, sample), picked(name, found, sample)) if ties else (expected, found)
        reason = compare(name, *both)
        if reason and is_closer(module, tensors, expected, found):
            reason = None
    return ("wrong", reason) if reason else ("pass", "")


def run_operator(info: Any, dtype: Any, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    name = f"{info.name}.{info.variant_test_name}" if info.variant_test_name else info.name
    result: dict[str, Any] = {"op": name, "samples": 0, "passed": 0, "reason": ""}
    if dtype not in info.dtypes:
        return {**result, "outcome": "none", "reason": "dtype"}
    if is_random(info.name):
        return {**result, "outcome": "random"}
    torch.manual_seed(0)
    outcomes: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    try:
        samples = itertools.islice(info.sample_inputs("cpu", dtype, requires_grad=False), options.samples)
        for number, sample in enumerate(samples):
            outcome, reason = run_sample(info.name, info.op, sample, options.device)
            outcomes[outcome] += 1
            reasons.setdefault(outcome, f"sample {number}: {reason}" if outcome == "wrong" else reason)
    except Exception as error:
        outcomes["wrong"] += 1
        reasons.setdefault("wrong", f"{type(error).__name__}: {error}".splitlines()[0][:300])
    result["samples"], result["passed"] = sum(outcomes.values()), outcomes["pass"]
    for outcome in ("wrong", "refused", "pass", "export", "none"):
        if outcomes[outcome]:
            return {**result, "outcome": outcome, "reason": reasons[outcome]}
    return {**result, "outcome": "none"}


def work(options: argparse.Namespace) -> int:
    """Reads indices into the database, one a line; answers each with a line of JSON."""
    import torch

    warnings.filterwarnings("ignore")
    sys.path.append(str(ROOT / "python"))
    torch.set_num_threads(1)
    from torch.testing._internal.common_methods_invocations import op_db

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what operators print goes elsewhere
    print("ready", file=out, flush=True)  # imports count for no operator
    for line in sys.stdin:
        result = run_operator(op_db[int(line)], getattr(torch, options.dtype), options)
        print(json.dumps(result), file=out, flush=True)
        if options.device != "cpu" and "at run: " in result["reason"]:
            os._exit(0)  # what a kernel broke stays broken in this process
    return 0


# ---- All -----------------------------------------------------------------------------------------------------------------------


class Worker:
    def __init__(self, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--worker", "--dtype", options.dtype, "--device", options.device]
        command += ["--samples", str(options.samples)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.job: Optional[tuple[int, str]] = None
        self.text = b""  # read, but no whole line yet
        self.ready = False
        self.since = 0.0

    def lines(self) -> list[str]:
        """The lines that came, at once: a reader that buffers would keep the second of two from select()."""
        assert self.process.stdout
        *lines, self.text = (self.text + os.read(self.process.stdout.fileno(), 65536)).split(b"\n")
        return [line.decode() for line in lines]

    def give(self, index: int, name: str) -> None:
        assert self.process.stdin
        self.job, self.since = (index, name), time.monotonic()
        self.process.stdin.write(f"{index}\n".encode())
        self.process.stdin.flush()


def run_all(jobs: list[tuple[int, str]], options: argparse.Namespace) -> list[dict[str, Any]]:
    pending = list(reversed(jobs))
    workers = [Worker(options) for _ in range(min(options.jobs, len(jobs)))]
    results: list[dict[str, Any]] = []
    start = time.monotonic()
    while workers:
        if options.deadline and time.monotonic() - start > options.deadline:
            jobs_left = [w.job for w in workers if w.job] + list(pending)
            results += [{"op": name, "samples": 0, "passed": 0, "outcome": "left", "reason": ""} for _, name in jobs_left]
            break
        for worker in workers:
            if worker.job is None and pending:
                worker.give(*pending.pop())
        busy = [w for w in workers if w.job]
        if not busy:
            break
        ready, _, _ = select.select([w.process.stdout for w in busy], [], [], 1.0)
        for at, worker in enumerate(workers):
            if worker.job and worker.process.stdout in ready:
                lines = worker.lines()
                for line in lines:
                    if line == "ready":
                        worker.ready, worker.since = True, time.monotonic()
                        continue
                    results.append(json.loads(line))
                    worker.job = None
                    show(results[-1], options)
                    if options.device != "cpu" and "at run: " in results[-1]["reason"]:
                        worker.process.wait()
                        workers[at] = Worker(options)
                if lines:
                    continue
            limit = options.seconds if worker.ready else 300
            if worker.job and (worker.process.poll() is not None or time.monotonic() - worker.since > limit):
                worker.process.kill()
                how = f"exit status {worker.process.wait()}" if time.monotonic() - worker.since <= limit else f"over {limit:g} s"
                results.append({"op": worker.job[1], "samples": 0, "passed": 0, "outcome": "crash", "reason": how})
                show(results[-1], options)
                workers[at] = Worker(options)
    for worker in workers:
        worker.process.kill()
    return results


def show(result: dict[str, Any], options: argparse.Namespace) -> None:
    if options.verbose or result["outcome"] in ("wrong", "crash"):
        print(f"{result['op']:48s}{result['outcome']:9s}{result['passed']}/{result['samples']}  {result['reason']}", flush=True)


def torch_version() -> str:
    import torch

    return torch.__version__.partition("+")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", nargs="*")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", "--target", default="cpu", help="cpu, cuda, or another of Kiln's targets")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--samples", type=int, default=20, help="for each operator, the first so many")
    parser.add_argument("--seconds", type=float, default=120, help="for one operator")
    parser.add_argument("--deadline", type=float, help="seconds for all; the operators left are so listed")
    parser.add_argument("--output", help="CSV file; default results/[DEVICE_]DTYPE.csv when all operators ran")
    parser.add_argument("--update", action="store_true", help="with --ops: puts their rows into the table that is there")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options)
    from torch.testing._internal.common_methods_invocations import op_db

    names = [f"{o.name}.{o.variant_test_name}" if o.variant_test_name else o.name for o in op_db]
    jobs = [(i, name) for i, name in enumerate(names) if not options.ops or name in options.ops or op_db[i].name in options.ops]
    results = run_all(jobs, options)
    counts = Counter(r["outcome"] for r in results)
    judged = counts["pass"] + counts["refused"] + counts["wrong"] + counts["crash"]
    print(f"{options.dtype}, {options.device}: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.most_common()))
    if judged:
        print(f"{100 * counts['pass'] / judged:.1f} % of the {judged} operators that torch.export captures pass")
    prefix = "" if options.device == "cpu" else options.device.partition(":")[0] + "_"
    output = options.output or (None if options.ops and not options.update else str(RESULTS / f"{prefix}{options.dtype}.csv"))
    if output and options.update:
        with open(output, newline="") as file:
            head = file.readline()
            new = {r["op"] for r in results}
            results += [row for row in csv.DictReader(file) if row["op"] not in new]
        if f"at most {options.samples} samples, torch {torch_version()}\n" not in head:
            parser.error(f"{output} was made otherwise: {head.strip()}")
    if output:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        with open(output, "w", newline="") as file:
            file.write(f"# {options.device}, {options.dtype}, at most {options.samples} samples, torch {torch_version()}\n")
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["op", "outcome", "passed", "samples", "reason"])
            for r in sorted(results, key=lambda r: r["op"]):
                writer.writerow([r["op"], r["outcome"], r["passed"], r["samples"], r["reason"]])
    return 1 if counts["wrong"] or counts["crash"] else 0


if __name__ == "__main__":
    sys.exit(main())
