"""Whole model families against PyTorch: every architecture of transformers, timm and torchvision that can be made without a download.

    python tests/families/run.py                                 transformers on the CPU; continues results/transformers.csv
    python tests/families/run.py --suite timm --targets cpu cuda --jobs 12 --deadline 220
    python tests/families/run.py --only bert gpt2 --fresh -v     some families again; prints, writes nothing unless --output is given

Each model is made small, with random weights, captured by torch.export, built whole, and compared with PyTorch on two sets of inputs;
then once more with dimensions that may vary (batch, sequence length), where torch.export allows it, at other sizes. What comes of it:

    right     built whole, and every output is right
    wrong     an output differs
    refused   Kiln does not build it: `reason`
    crash     the process died; `hang`: it took too long
    export    torch.export does not capture it (in the column `captured`: no)
    model     the architecture cannot be made or run from a generated configuration: not judged
    random    two runs of PyTorch differ
    static    (only for varying dimensions) torch.export fixes all of them

Every model has a process of its own, forked from one that has imported the packages. Exit status 1 if any is wrong or crashed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import multiprocessing
import multiprocessing.connection
import os
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COLUMNS = [
    "family",
    "model",
    "target",
    "captured",
    "outcome",
    "error",
    "varying",
    "varying_outcome",
    "varying_error",
    "seconds",
    "reason",
]
TOLERANCE = 1e-4  # of the largest element of an output
MAGNIFIED = "PyTorch's own result is as far from that in float64"
Row = dict[str, Any]


# ---- Comparison ----------------------------------------------------------------------------------------------------------------


def tensors(results: Any) -> list[Any]:
    import torch
    from torch.utils import _pytree as pytree

    return [leaf for leaf in pytree.tree_leaves(results) if isinstance(leaf, torch.Tensor)]


def difference(expected: Any, found: Any) -> tuple[float, str]:
    """The largest difference, relative to the largest element of its output; and what is wrong in kind, if anything."""
    import torch

    wanted, got = tensors(expected), tensors(found)
    if len(wanted) != len(got):
        return float("inf"), f"{len(wanted)} outputs expected, {len(got)} found"
    worst = 0.0
    for i, (w, g) in enumerate(zip(wanted, got)):
        g = g.cpu()
        if w.dtype != g.dtype or w.shape != g.shape:
            return float("inf"), f"output {i}: {w.dtype}{list(w.shape)} expected, {g.dtype}{list(g.shape)} found"
        if not w.numel():
            continue
        if not (w.is_floating_point() or w.is_complex()):
            if not torch.equal(w, g):
                return float("inf"), f"output {i}: {int((w != g).sum())} of {w.numel()} elements differ"
            continue
        w, g = w.double(), g.double()
        finite = w.isfinite()
        if not torch.equal(finite, g.isfinite()):
            return float("inf"), f"output {i}: not finite in other places"
        w, g = w[finite], g[finite]
        if w.numel():
            worst = max(worst, (w - g).abs().max().item() / (w.abs().max().item() or 1.0))
    return worst, ""


def closer(model: Any, kwargs: dict[str, Any], expected: Any, found: Any) -> bool:
    """Is `found` about as near to the result in float64 as PyTorch's float32? Models may magnify rounding errors."""
    import copy

    import torch
    from torch.utils import _pytree as pytree

    try:
        double = copy.deepcopy(model).double()
        wide = pytree.tree_map(lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, kwargs)
        exact = [t.float() if t.is_floating_point() else t for t in tensors(double(**wide))]
        ours, why = difference(exact, found)
        theirs, _ = difference(exact, expected)
        return not why and ours <= 3 * theirs
    except Exception:
        return False


@contextlib.contextmanager
def first_of_equals() -> Iterator[None]:
    """Which of equal elements PyTorch's topk takes is not defined; in here it is the first ones, as Kiln does."""
    import torch

    def topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
        values, indices = torch.sort(x, dim=dim, descending=largest, stable=True)
        return torch.return_types.topk((values.narrow(dim, 0, k), indices.narrow(dim, 0, k)))

    kept = torch.topk, torch.Tensor.topk
    torch.topk = torch.Tensor.topk = topk
    try:
        yield
    finally:
        torch.topk, torch.Tensor.topk = kept


def compare_all(case: Any, program: Any, compiled: Any) -> tuple[str, float, str]:
    from torch.utils import _pytree as pytree

    model, tolerance = case.model, case.tolerance or TOLERANCE
    worst, reason, note = 0.0, "", ""
    for kwargs in case.sets:
        copy = pytree.tree_map(lambda x: x.clone() if hasattr(x, "clone") else x, kwargs)
        expected = model(**kwargs)
        found = compiled(**copy)
        error, why = difference(expected, found)
        odd = why or error > tolerance
        if odd and closer(model, kwargs, expected, found):
            note = MAGNIFIED
        elif odd:
            with first_of_equals():
                error_here, reason_here = difference(model(**kwargs), found)
            if not reason_here and error_here <= tolerance:
                worst, note = max(worst, error_here), "topk among equal elements"
                continue
            # Some models look at their inputs while they are captured: what was captured is what must be computed.
            error_here, reason_here = difference(program.module()(**kwargs), found)
            if reason_here or error_here > tolerance:
                reason = reason or why or f"relative error {error:.2g}"
            else:
                error, note = error_here, "what torch.export captured differs from the model"
        worst = max(worst, error)
    return ("wrong" if reason else "right"), worst, reason or note


# ---- One model, in a process of its own ------------------------------------------------------------------------------------------


def one_line(error: BaseException, limit: int = 400) -> str:
    text = " | ".join(line.strip() for line in str(error).splitlines() if line.strip())
    text = re.sub(r'[^\s"]*/site-packages/', "", text)
    return f"{type(error).__name__}: {text}"[:limit]


def varying_shapes(case: Any) -> dict[str, Any]:
    """dynamic_shapes of torch.export: what may vary, varies where the model lets it."""
    import torch

    shapes: dict[str, Any] = {}
    for name, value in case.sets[0].items():
        dims = case.varying.get(name, ())
        shapes[name] = dict.fromkeys(dims, torch.export.Dim.AUTO) if isinstance(value, torch.Tensor) and dims else None
    return shapes


def still_varying(program: Any, case: Any) -> dict[tuple[str, int], tuple[float, float]]:
    """(argument, dimension) of those that vary: the range that the model's code leaves them."""
    import torch

    def limits(size: Any) -> tuple[float, float]:
        if not isinstance(size, torch.SymInt) or size.node.expr.is_number:
            return 1, 1
        found = program.range_constraints.get(size.node.expr)
        return (float(found.lower), float(found.upper)) if found is not None else (2, float("inf"))

    names = [s.arg.name for s in program.graph_signature.input_specs if s.kind is torch.export.graph_signature.InputKind.USER_INPUT]
    values = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    dims = {(n, d): limits(s) for n in names if isinstance(values.get(n), torch.Tensor) for d, s in enumerate(values[n].shape)}
    return {key: (low, high) for key, (low, high) in dims.items() if low < high}


def runs(model: Any, kwargs: dict[str, Any]) -> bool:
    """Or is this size too large for the model?"""
    try:
        model(**kwargs)
    except Exception:
        return False
    return True


def run_model(suite: str, family: str, model_name: str, targets: list[str], options: argparse.Namespace, send: Any) -> None:
    import torch

    import kiln
    from kiln.compiler import capture

    sys.path.insert(0, str(HERE))
    import small_models

    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    row: Row = {"family": family, "model": model_name, "captured": ""}
    send([{**row, "target": t, "outcome": "model", "reason": "the process ended in PyTorch"} for t in targets])
    try:
        case = small_models.make(suite, family, model_name)
        model = case.model
        first, again = model(**case.sets[0]), model(**case.sets[0])
        for kwargs in case.sets[1:]:
            model(**kwargs)
    except Exception as error:
        if options.verbose > 1:
            traceback.print_exc()
        send([{**row, "target": t, "outcome": "model", "reason": one_line(error)} for t in targets])
        return
    if difference(first, again)[0] > 0:
        send([{**row, "target": t, "outcome": "random", "reason": ""} for t in targets])
        return
    del first, again
    if not tensors(model(**case.sets[0])):
        send([{**row, "target": t, "outcome": "model", "reason": "no tensors among the outputs"} for t in targets])
        return
    started = time.monotonic()
    send([{**row, "target": t, "captured": "no", "outcome": "export", "reason": "torch.export did not end"} for t in targets])
    try:
        program, _ = capture(model, (), dict(case.sets[0]), None)
    except Exception as error:
        if options.verbose > 1:
            traceback.print_exc()
        reason = one_line(error.__cause__ or error)
        send([{**row, "target": t, "captured": "no", "outcome": "export", "reason": reason} for t in targets])
        return
    row["captured"] = "yes"
    spent = time.monotonic() - started
    for target in targets:
        send([{**row, "target": target, "outcome": "crash", "reason": ""}])  # until there is more to say
        result = judge(kiln, case, program, target, options)
        send([{**row, "target": target, **result, "seconds": f"{spent + result.pop('seconds'):.1f}"}])
    targets = [t for t in targets if case.varying and (options.varying is None or t in options.varying)]
    if not targets:
        return
    varied: Optional[Any] = None
    result = {}
    try:
        varied, _ = capture(model, (), dict(case.sets[0]), varying_shapes(case))
        left = still_varying(varied, case)
        result["varying"] = " ".join(f"{name}.{d}" for name, d in sorted(left))
        if not left:
            varied, result["varying_outcome"] = None, "static"
    except Exception as error:
        result = {"varying_outcome": "export", "reason": one_line(error.__cause__ or error)}
    for target in targets:
        if not varied:
            send([{"target": target, **result}])
            continue
        send([{"target": target, **result, "varying_outcome": "crash"}])
        case.sets = [kwargs for kwargs in case.resized(left) if runs(model, kwargs)]
        if not case.sets:
            send([{"target": target, **result, "varying_outcome": "static"}])
            continue
        judged = judge(kiln, case, varied, target, options)
        send(
            [
                {
                    "target": target,
                    **result,
                    "varying_outcome": judged["outcome"],
                    "varying_error": judged.get("error", ""),
                    **({"reason": f"varying: {judged['reason']}"} if judged.get("reason") else {}),
                }
            ]
        )


def judge(kiln: Any, case: Any, program: Any, target: str, options: argparse.Namespace) -> Row:
    started = time.monotonic()
    try:
        compiled = kiln.compile(program, target=target, threads=options.threads)
    except kiln.KilnError as error:
        if options.verbose > 1:
            print(error, file=sys.stderr)
        return {"outcome": "refused", "reason": one_line(error), "seconds": time.monotonic() - started}
    except Exception as error:
        return {"outcome": "refused", "reason": f"not KilnError: {one_line(error)}", "seconds": time.monotonic() - started}
    try:
        outcome, error, reason = compare_all(case, program, compiled)
    except Exception as failure:
        outcome, error, reason = "wrong", float("inf"), f"at run time: {one_line(failure)}"
    return {"outcome": outcome, "error": f"{error:.1e}", "reason": reason, "seconds": time.monotonic() - started}


def child(pipe: Any, job: tuple[str, str], targets: list[str], options: argparse.Namespace) -> None:
    if options.verbose < 2:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
    run_model(options.suite, *job, targets, options, pipe.send)
    pipe.close()
    os._exit(0)  # without the time that a clean end takes


# ---- All -----------------------------------------------------------------------------------------------------------------------


class Job:
    def __init__(self, job: tuple[str, str], options: argparse.Namespace) -> None:
        context = multiprocessing.get_context("fork")
        self.job = job
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=child, args=(theirs, job, options.targets, options))
        self.process.start()
        theirs.close()
        self.since = time.monotonic()
        self.rows: dict[str, Row] = {}

    def receive(self) -> bool:
        """Takes what the process has to say; is there more to come?"""
        try:
            for row in self.pipe.recv():
                self.rows.setdefault(row["target"], {}).update(row)
        except (EOFError, OSError):
            return False
        return True

    def end(self, how: str = "") -> list[Row]:
        if how:
            self.process.kill()
        self.process.join()
        status = self.process.exitcode
        if not self.rows:
            self.rows = {"": {"family": self.job[0], "model": self.job[1], "target": "", "outcome": "crash"}}
        for row in self.rows.values():
            for key in ("outcome", "varying_outcome"):
                if row.get(key) == "crash":
                    row[key] = "hang" if how else "crash"
                    row["reason"] = how or f"exit status {status}"
            if how and row.get("outcome") in ("model", "export"):
                row["reason"] = f"PyTorch alone: {how}"
            row.setdefault("seconds", f"{time.monotonic() - self.since:.1f}")
            for column in COLUMNS:
                row.setdefault(column, "")
        return list(self.rows.values())


def run_all(jobs: list[tuple[str, str]], options: argparse.Namespace, report: Any) -> int:
    """Runs all jobs, or as many as the deadline allows; returns how many are left."""
    pending, running = list(reversed(jobs)), []
    end = time.monotonic() + options.deadline
    while pending or running:
        while pending and len(running) < options.jobs and time.monotonic() < end - 5:
            running.append(Job(pending.pop(), options))
        if not running:
            break
        ready = multiprocessing.connection.wait([j.pipe for j in running], timeout=1.0)
        for job in list(running):
            over = time.monotonic() > min(end, job.since + options.timeout)
            ended = job.pipe in ready and not job.receive()
            if ended or over:
                running.remove(job)
                late = time.monotonic() > end and not ended
                rows = job.end("" if ended else f"over {options.timeout:.0f} s" if not late else "the run's deadline")
                if late:
                    pending.append(job.job)
                else:
                    report(rows)
    return len(pending)


def read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in sorted(rows, key=lambda r: (r["family"], r["model"], r["target"])):
            writer.writerow({c: row.get(c, "") for c in COLUMNS})
    part.replace(path)


def summary(rows: list[Row]) -> list[str]:
    lines = []
    for target in sorted({r["target"] for r in rows if r["target"]}):
        mine = [r for r in rows if r["target"] == target]
        captured = [r for r in mine if r["captured"] == "yes"]
        counts = Counter(r["outcome"] for r in mine)
        lines.append(f"{target}: {len(mine)} models, " + ", ".join(f"{n} {o}" for o, n in counts.most_common()))
        if captured:
            built = sum(r["outcome"] in ("right", "wrong") for r in captured)
            lines.append(f"  {built} of {len(captured)} captured are built whole ({100 * built / len(captured):.1f} %)")
        varying = Counter(r.get("varying_outcome") for r in captured if r.get("varying_outcome"))
        if varying:
            lines.append("  varying dimensions: " + ", ".join(f"{n} {o}" for o, n in varying.most_common()))
    return lines


def markdown(suite: str, rows: list[Row]) -> list[str]:
    """The rows of docs/models.md: counts for each target, then what is not right, with reasons."""
    lines = []
    for target in sorted({r["target"] for r in rows if r["target"]}):
        mine = [r for r in rows if r["target"] == target]
        captured = [r for r in mine if r["captured"] == "yes"]
        built = [r for r in captured if r["outcome"] in ("right", "wrong")]
        right = [r for r in built if r["outcome"] == "right"]
        varied = [r for r in captured if r["varying_outcome"] not in ("", "static", "export")]
        varied_right = [r for r in varied if r["varying_outcome"] == "right"]
        worst = max((float(r["error"]) for r in right if MAGNIFIED not in r["reason"]), default=0.0)
        cells = [
            suite,
            target,
            len(mine),
            len(captured),
            len(built),
            len(right),
            f"{worst:.0e}",
            f"{len(varied_right)} of {len(varied)}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    reasons: dict[str, list[str]] = {}
    for r in rows:
        if r["outcome"] in ("refused", "wrong", "crash", "hang") or r["varying_outcome"] in ("refused", "wrong", "crash", "hang"):
            reasons.setdefault(r["reason"].partition(" | importing")[0], []).append(f"{r['family']} ({r['target']})")
    lines += [f"- {', '.join(families)}: {reason}" for reason, families in sorted(reasons.items(), key=lambda item: -len(item[1]))]
    return lines


def parse(arguments: Optional[list[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=["transformers", "timm", "torchvision"], default="transformers")
    parser.add_argument("--targets", nargs="+", default=["cpu"])
    parser.add_argument("--only", nargs="*", help="families")
    parser.add_argument("--outcome", nargs="*", help="again those that had this outcome")
    parser.add_argument("--fresh", action="store_true", help="run families again that the table already has")
    parser.add_argument(
        "--heads", action="store_true", help="transformers: also models with a head for each task, not only the base"
    )
    parser.add_argument("--varying", nargs="*", metavar="TARGET", help="targets to try varying dimensions on; default all")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one model")
    parser.add_argument("--deadline", type=float, default=1e9, help="seconds for all; what is left is done by the next run")
    parser.add_argument("--output", type=Path, help="the table; default results/SUITE.csv unless --only")
    parser.add_argument("--markdown", action="store_true", help="only print the table's rows of docs/models.md")
    parser.add_argument("--list", action="store_true", help="only list the models")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="all rows, not only bad ones; twice: errors in full")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    warnings.filterwarnings("ignore")
    sys.path[:0] = [str(HERE)]
    import small_models

    jobs = small_models.listing(options.suite, options.heads)
    if options.only:
        place = {family: i for i, family in enumerate(options.only)}
        jobs = sorted((j for j in jobs if j[0] in place), key=lambda j: place[j[0]])
    path = options.output or (None if options.only else HERE / "results" / f"{options.suite}.csv")
    rows = read_rows(path) if path else []
    if options.markdown:
        print("\n".join(markdown(options.suite, rows)))
        return 0
    if options.outcome is not None:
        again = {(r["family"], r["model"]) for r in rows if {r["outcome"], r["varying_outcome"]} & set(options.outcome)}
        jobs = [j for j in jobs if j in again]
    elif not options.fresh:
        done = {(r["family"], r["model"]) for r in rows}
        jobs = [j for j in jobs if j not in done]
    if options.list:
        print("\n".join(" ".join(j) for j in jobs))
        return 0
    new: list[Row] = []

    def report(some: list[Row]) -> None:
        nonlocal rows
        keys = {(r["family"], r["model"]) for r in some}
        rows = [r for r in rows if (r["family"], r["model"]) not in keys] + some
        new.extend(some)
        if path:
            write_rows(path, rows)
        for r in some:
            bad = {r["outcome"], r.get("varying_outcome")} & {"wrong", "refused", "crash", "hang"}
            if options.verbose or bad:
                text = [f"{r['family']:28s} {r['model']:44s} {r['target']:5s}", r["outcome"], r.get("error", "")]
                text += [
                    "varying:",
                    r.get("varying_outcome", ""),
                    r.get("varying_error", ""),
                    f"{r['seconds']} s",
                    r.get("reason", ""),
                ]
                print(f"[{len(new)}/{len(jobs)}]", " ".join(t for t in text if t)[:700], flush=True)

    import kiln.compiler  # noqa: F401  so that forked processes have it

    left = run_all(jobs, options, report)
    print("\n".join(summary(rows)))
    if left:
        print(f"{left} models are left for the next run")
    return int(any({r["outcome"], r.get("varying_outcome")} & {"wrong", "crash", "hang"} for r in new))


if __name__ == "__main__":
    sys.exit(main())
