"""The matrix kernels alone: every variant compiles for every architecture (no GPU needed), gives what PyTorch gives, and is timed
against cuBLAS, cuDNN and SDPA through PyTorch.

    python tests/gpu/kernels.py compile            # needs the NVRTC library only
    python tests/gpu/kernels.py check time [--out DIR]
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import nvrtc
from harness import Gpu, check_one, compile_all, runs_on
from plans import (
    MMA_TILES,
    TMA_WAYS,
    TYPES,
    WGMMA_TILES,
    Attention,
    AttentionWg,
    Conv,
    Depthwise,
    Direct,
    Gemm,
    GemmTma,
    Plan,
    Stem,
    Tile,
)
from timings import command_time_attention, command_time_depthwise, command_time_gemm

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90a", "sm_100")


def variants() -> list[tuple[str, Plan]]:
    """Every way through the texts, on small odd and even shapes."""
    out: list[tuple[str, Plan]] = []
    for dtype, tile in itertools.product(TYPES, MMA_TILES + WGMMA_TILES):
        out.append((f"gemm {dtype}", Gemm(dtype, 200, 264, 520, tile)))
    small, wide = Tile(64, 64, 64, 4, 2, 2), Tile(64, 64, 64, 6, 4, 1, 1, 3, 1)
    for dtype, kn, shape in itertools.product(TYPES, (False, True), ((77, 132, 68), (61, 70, 90), (33, 51, 129))):
        out.append((f"gemm {dtype} kn{kn}", Gemm(dtype, *shape, small, batch=3, b_kn=kn, relu_add=True)))
        out.append((f"simt {dtype} kn{kn}", Gemm(dtype, *shape, None, batch=3, b_kn=kn, relu_add=True)))
        if not kn:
            out.append((f"wgmma {dtype}", Gemm(dtype, *shape, wide, batch=3, relu_add=True)))
    for tile, cluster, pdl in itertools.product((small, wide, MMA_TILES[0], MMA_TILES[9]), (False, True), (False, True)):
        out.append(("split", Gemm("f16", 100, 200, 1030, tile, split=4, cluster=cluster, pdl=pdl)))
    for dtype, (groups, bn, stages, ctas) in itertools.product(TYPES, TMA_WAYS):
        out.append((f"tma {dtype}", GemmTma(dtype, 1000, 1032, 520, groups, bn, stages, ctas)))
    for dtype, way in itertools.product(TYPES, TMA_WAYS):
        out.append((f"tma n {dtype}", GemmTma(dtype, 1000, 992, 520, *way, leave=1, relu_add=True)))
        if dtype == "f16":
            out.append(("tma u f16", GemmTma(dtype, 1000, 1001, 520, way[0], way[1], min(way[2], 3), way[3], leave=2)))
    for way, n in itertools.product((TMA_WAYS[0], TMA_WAYS[6]), (1024, 32)):
        out.append(("tma n f16", GemmTma("f16", 1000, n, 520, *way, leave=1, stagger=way[0] == 2)))
    for dtype, way, (m, n) in itertools.product(
        ("f16", "bf16"), ((2, 256, 3, 1), (1, 64, 6, 2), (2, 192, 3, 1)), ((1000, 1001), (2048, 2047), (1096, 1030), (1024, 507))
    ):
        out.append((f"tma a {dtype}", GemmTma(dtype, m, n, 520, *way, leave=4, relu_add=m == 1096, stagger=way[1] == 192)))
    shapes = ((61, 37), (300, 2047), (130, 1030), (130, 1028), (1, 5))
    for dtype, way, (m, n) in itertools.product(("f16", "bf16"), ((2, 256, 3, 1), (1, 64, 6, 2)), shapes):
        out.append((f"tma u {dtype}", GemmTma(dtype, m, n, 520, *way, leave=2, relu_add=m == 130, stagger=way[0] == 2)))
    for dtype, shape in itertools.product(TYPES, ((77, 132, 72), (61, 72, 1096), (20000, 264, 64))):
        out.append((f"tma {dtype}", GemmTma(dtype, *shape, 2, 128, 4, 1, relu_add=True)))
    for dtype, way, split in itertools.product(TYPES, TMA_WAYS, (2, 4)):
        out.append((f"tma split {dtype}", GemmTma(dtype, 200, 264, 1030 // 8 * 8, *way, split=split, relu_add=way[0] == 2)))
    for dtype, n, leave in itertools.product(TYPES, (64, 61, 32), (0, 1)):
        if n == 64 or leave == 0:
            out.append((f"tma stays {dtype}", GemmTma(dtype, 20000, n, 200, 2, 64, 3, 1, leave=leave, b_stays=True)))
    for split, n in itertools.product((2, 3, 8), (61, 70, 132, 256)):
        out.append(("tma split f16", GemmTma("f16", 100, n, 1096, 2, 128, 4, 1, split=split, relu_add=n != 61)))
    out.append(("split simt", Gemm("f32", 100, 200, 1030, None, split=4)))
    out.append(("out f32", Gemm("f16", 100, 200, 128, small, out="f32")))
    convs = [
        Conv(2, 14, 15, 64, 96, 3, 1, 1),
        Conv(2, 15, 14, 24, 40, 3, 2, 1),
        Conv(1, 17, 17, 12, 10, 5, 2, 2, 2),
        Conv(1, 23, 21, 3, 32, 7, 2, 3),
        Conv(1, 23, 21, 4, 32, 7, 2, 3),
        Conv(2, 9, 9, 64, 128, 3, 1, 1, 1, 4),
        Conv(2, 9, 9, 64, 96, 1, 2, 0),
    ]
    for dtype, conv in itertools.product(TYPES, convs):
        for tile in (small, wide, None):
            out.append((f"conv {dtype}", Gemm(dtype, 0, 0, 0, tile, conv=conv, relu_add=True)))
        out.append((f"direct {dtype}", Direct(dtype, conv)))
    for dtype, conv in itertools.product(TYPES, (convs[0], convs[1], Conv(2, 17, 16, 80, 72, 3, 2, 2, 2), convs[6])):
        for groups, bn in ((2, 128), (1, 64)):
            out.append((f"tma conv {dtype}", GemmTma(dtype, 0, 0, 0, groups, bn, 4, 1, conv=conv, relu_add=True)))
            if conv.o % 32 == 0:
                out.append((f"tma conv {dtype}", GemmTma(dtype, 0, 0, 0, groups, bn, 4, 1, conv=conv, relu_add=True, leave=1)))
    out.append(("conv split", Gemm("f16", 0, 0, 0, small, conv=convs[0], split=3, cluster=True)))
    for conv in (convs[0], convs[1], convs[6]):
        out.append(("tma conv stays", GemmTma("f16", 0, 0, 0, 4, 96, 2, 1, conv=conv, leave=int(conv.o % 32 == 0), b_stays=True)))
        out.append(("tma conv split", GemmTma("f16", 0, 0, 0, 2, 128, 4, 1, conv=conv, split=2, relu_add=True)))
    out.append(("conv split", Gemm("bf16", 0, 0, 0, small, conv=convs[0], split=3)))
    for dtype in TYPES:
        out.append((f"transposed {dtype}", Direct(dtype, Conv(2, 7, 9, 16, 24, 3, 2, 1, 1, 2), transposed=True)))
        for c in (Conv(2, 14, 15, 40, 40, 3, 1, 1), Conv(2, 15, 15, 36, 36, 5, 2, 2), Conv(1, 13, 13, 7, 7, 3, 1, 2, 2)):
            c.groups = c.c
            for px, py in ((1, 1), (4, 1), (2, 2)):
                out.append((f"depthwise {dtype}", Depthwise(dtype, c, px, py)))
    stems = [
        Conv(2, 33, 47, 3, 64, 7, 2, 3),
        Conv(1, 20, 37, 3, 32, 3, 2, 1),
        Conv(2, 19, 33, 3, 64, 3, 1, 1),
        Conv(1, 64, 68, 3, 96, 4, 4),
    ]
    stems += [Conv(1, 17, 18, 1, 32, 5, 1, 2), Conv(1, 40, 41, 2, 64, 11, 4, 2)]
    for dtype, conv, planes in itertools.product(("f16", "bf16"), stems, (False, True)):
        out.append((f"stem {dtype}", Stem(dtype, conv, planes, 5)))
    heads: list[dict[str, Any]] = [
        {"lq": 197, "lk": 197, "e": 64},
        {"lq": 49, "lk": 49, "e": 32, "mask": "add", "wq": 4},
        {"lq": 130, "lk": 130, "e": 64, "mask": "bool", "wq": 2, "wkv": 2},
        {"lq": 300, "lk": 300, "e": 64, "causal": True, "r16": 2},
        {"lq": 65, "lk": 100, "e": 128, "causal": True},
        {"lq": 65, "lk": 100, "e": 256, "bkv": 32},
        {"lq": 33, "lk": 70, "e": 67, "ev": 45},
        {"lq": 20, "lk": 70, "e": 80, "ev": 40, "group": 3, "causal": True, "mask": "add"},
        {"lq": 1, "lk": 777, "e": 128, "group": 4, "wq": 1, "wkv": 4, "bkv": 128, "split": 5},
        {"lq": 1, "lk": 77, "e": 64, "wq": 1, "wkv": 4, "bkv": 64},
        {"lq": 197, "lk": 197, "e": 64, "packed": True, "wq": 2, "wkv": 2, "bkv": 128, "stages": 3},
    ]
    long: list[dict[str, Any]] = [
        {"lq": 197, "lk": 197, "e": 64, "packed": True, "bkv": 64},
        {"lq": 700, "lk": 700, "e": 64, "causal": True, "bkv": 128, "blocks": 5, "section": 3},
        {"lq": 300, "lk": 300, "e": 64, "causal": True, "bkv": 64, "groups": 3},
        {"lq": 130, "lk": 150, "e": 64, "mask": "add", "bkv": 128},
        {"lq": 130, "lk": 150, "e": 56, "ev": 40, "mask": "bool", "bkv": 64, "groups": 3, "blocks": 3},
        {"lq": 200, "lk": 260, "e": 128, "group": 2, "causal": True, "bkv": 64},
        {"lq": 100, "lk": 260, "e": 96, "ev": 128, "bkv": 96},
        {"lq": 300, "lk": 520, "e": 128, "bkv": 128, "causal": True, "blocks": 7},
    ]
    for dtype, h in itertools.product(("f16", "bf16"), long):
        out.append((f"attention wgmma {dtype}", AttentionWg(dtype, 2, 2 * h.get("group", 1), **h)))
    for dtype, h in itertools.product(TYPES, heads):
        out.append((f"attention {dtype}", Attention(dtype, 2, 4 * h.get("group", 1), **h)))
    return out


def command_compile(step: int = 1) -> int:
    """All variants for all architectures; or every step-th, others for each architecture."""
    compiler, bad = nvrtc.Nvrtc(), 0
    for i, arch in enumerate(ARCHITECTURES):
        start, plans = time.time(), [p for _, p in variants() if runs_on(p, arch)]
        plans = plans[i % step :: step]
        errors = compile_all(plans, compiler, None, arch)
        spills = sum("0 bytes spill stores" not in p.kernel.log for p in plans)
        print(f"{arch}: {len(plans)} variants, {len(errors)} failed, {spills} spill, {time.time() - start:.1f} s", flush=True)
        for e in errors[:5]:
            print("  ", e)
        bad += len(errors)
    return 1 if bad else 0


LIMIT = {"f16": 1.2e-3, "bf16": 9e-3, "f32": 4e-6}


def command_check(g: Gpu, log: dict[str, Any], which: str) -> int:
    """Every variant (whose name matches `which`) against float64."""
    all_plans = [(n, p) for n, p in variants() if runs_on(p, "sm_90a") and re.match(which, n)]
    start = time.time()
    errors = compile_all([p for _, p in all_plans], g.compiler, g.driver, "sm_90a")
    print(f"compiled {len(all_plans)} variants in {time.time() - start:.1f} s, {len(errors)} failed", flush=True)
    for e in errors[:8]:
        print("  ", e)
    bad, worst = len(errors), {}
    for name, p in all_plans:
        if p.kernel.function is None:
            continue
        limit = LIMIT[p.dtype]
        if p.dtype == "f32" and (isinstance(p, GemmTma) or (isinstance(p, Gemm) and p.tile)):
            limit = 6e-4  # tf32
        try:
            err = check_one(g, p)
        except RuntimeError as e:
            print(f"CRASH {name} {p.name()} {e}", flush=True)
            return 1
        worst[name] = max(worst.get(name, 0.0), err)
        if not err < limit:
            bad += 1
            shape = p.conv or (p.batch, p.m, p.n, p.k) if isinstance(p, Gemm | GemmTma) else getattr(p, "conv", None) or p
            print(f"WRONG {name} {p.name()} {shape} error {err:.2e}", flush=True)
    log["check"] = worst
    print(f"checked in {time.time() - start:.1f} s, {bad} wrong; worst " + str({k: f"{v:.1e}" for k, v in worst.items()}))
    return 1 if bad else 0


def main() -> int:
    """Does what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=["compile", "check", "gemm", "attention", "depthwise"])
    parser.add_argument("--step", type=int, default=1, help="compile every so many variants only")
    parser.add_argument("--variants", default="", help="regular expression of the variants to check")
    parser.add_argument("--models", default=".*", help="regular expression of the groups of shapes to time")
    parser.add_argument("--only", default="", help="regular expression of the matrix tactics to time")
    parser.add_argument("--seconds", type=float, default=200.0, help="budget of the matrix timings")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    status, log = 0, {}
    if "compile" in args.what:
        status |= command_compile(args.step)
    if set(args.what) - {"compile"}:
        g = Gpu()
        log["card"] = g.torch.cuda.get_device_name()
        print(log["card"])
        try:
            if "check" in args.what:
                status |= command_check(g, log, args.variants)
            if "attention" in args.what:
                command_time_attention(g, args.models, args.only, log)
            if "depthwise" in args.what:
                command_time_depthwise(g, log)
            if "gemm" in args.what:
                command_time_gemm(g, args.models, args.only, log, args.seconds)
        finally:
            if args.out:
                (args.out / "kernels.json").write_text(json.dumps(log))
    return status


if __name__ == "__main__":
    sys.exit(main())
