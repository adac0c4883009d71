"""Timings of the matrix kernels against cuBLAS, cuDNN and scaled_dot_product_attention, at the shapes of the models of the tables."""

from __future__ import annotations

import ctypes
import math
import re
import time
from typing import Any

from harness import Gpu, compile_all, copies, data_attention, data_conv, timed
from plans import MMA_TILES, TMA_WAYS, WGMMA_TILES, Attention, AttentionWg, Conv, Depthwise, Gemm, GemmTma


def gemm_candidates(m: int, n: int, k: int, conv: Conv | None, only: str) -> list[Any]:
    """Tactics worth timing whose name matches `only`."""
    out: list[Any] = []
    for tile in MMA_TILES + WGMMA_TILES:
        tiles = math.ceil(m / tile.bm) * math.ceil(n / tile.bn)
        if tile.bm >= 2 * max(16, m) or tile.bn >= 2 * max(32, n):
            continue
        if tiles > 132 * 60 and tile.bm * tile.bn < 128 * 128:
            continue
        if m >= 2048 and not tile.math and tile.bm * tile.bn < 128 * 128:
            continue
        for split in (1, 2, 3, 4, 6, 8):
            if split > 1 and (tiles * split > 132 * 3 or math.ceil(k / tile.bk) < 2 * split):
                continue
            out.append(Gemm("f16", m, n, k, tile, split=split, cluster=True, conv=conv))
    if (conv.c if conv else k) % 8 == 0:
        for groups, bn, stages, ctas in TMA_WAYS:
            if groups * 64 < 2 * max(32, m) and bn < 2 * max(32, n):
                out.append(GemmTma("f16", m, n, k, groups, bn, stages, ctas, conv=conv))
                if m < 2048:
                    continue
                if groups == 2 and ctas == 1:
                    out.append(GemmTma("f16", m, n, k, groups, bn, stages, ctas, conv=conv, stagger=True))
                leave = 1 if n % 32 == 0 else 2
                for group_m in (8, 16, 32):
                    out.append(
                        GemmTma("f16", m, n, k, groups, bn, stages + 1 - leave, ctas, conv=conv, leave=leave, group_m=group_m)
                    )
    return [p for p in out if p.fits() and re.match(only, p.name())]


def gemm_cases(which: str) -> list[tuple[str, int, int, int, Conv | None]]:
    """Shapes of the models of the table."""
    linear = {
        "bert": [(128, 768, 2304), (128, 768, 768), (128, 768, 3072), (128, 3072, 768)],
        "vit": [(197, 768, 2304), (197, 768, 768), (197, 768, 3072), (197, 3072, 768)],
        "gpt2": [(512, 768, 2304), (512, 768, 3072), (512, 768, 50257)],
        "swin": [(3136, 96, 384), (784, 768, 192), (196, 384, 1536), (49, 768, 3072)],
        "decode": [(1, 2048, 2048), (1, 2048, 8192), (1, 8192, 2048)],
        "bert32": [(4096, 768, 2304), (4096, 768, 768), (4096, 768, 3072), (4096, 3072, 768)],
        "vit32": [(6304, 768, 2304), (6304, 768, 768), (6304, 768, 3072), (6304, 3072, 768)],
        "swin32": [(100352, 96, 384), (6272, 384, 1536)],
        "gpt2x32": [(16384, 768, 2304), (16384, 768, 768), (16384, 768, 3072), (16384, 3072, 768)],
        "logits32": [(16384, 768, 50257), (16384, 768, 50272)],
        "big": [(8192, 8192, 8192)],
    }
    convs = {
        "resnet": [
            Conv(1, 224, 224, 4, 64, 7, 2, 3),
            Conv(1, 56, 56, 64, 64, 1),
            Conv(1, 56, 56, 64, 64, 3, 1, 1),
            Conv(1, 56, 56, 64, 256, 1),
            Conv(1, 28, 28, 128, 128, 3, 1, 1),
            Conv(1, 28, 28, 512, 128, 1),
            Conv(1, 14, 14, 256, 256, 3, 1, 1),
            Conv(1, 14, 14, 1024, 256, 1),
            Conv(1, 14, 14, 256, 1024, 1),
            Conv(1, 7, 7, 512, 512, 3, 1, 1),
            Conv(1, 7, 7, 2048, 512, 1),
            Conv(1, 7, 7, 512, 2048, 1),
        ],
        "resnet32": [
            Conv(32, 224, 224, 4, 64, 7, 2, 3),
            Conv(32, 56, 56, 64, 64, 3, 1, 1),
            Conv(32, 56, 56, 64, 256, 1),
            Conv(32, 28, 28, 128, 128, 3, 1, 1),
            Conv(32, 14, 14, 256, 256, 3, 1, 1),
            Conv(32, 14, 14, 1024, 256, 1),
            Conv(32, 7, 7, 512, 512, 3, 1, 1),
        ],
        "mobile": [Conv(1, 112, 112, 16, 96, 1), Conv(1, 14, 14, 96, 576, 1), Conv(1, 7, 7, 320, 1280, 1)],
    }
    rows: list[tuple[str, int, int, int, Conv | None]] = []
    for name, shapes in linear.items():
        if re.fullmatch(which, name):
            rows += [(name, m, n, k, None) for m, k, n in shapes]
    for name, list_ in convs.items():
        if re.fullmatch(which, name):
            rows += [(name, c.n * c.oh * c.ow, c.o, c.k**2 * c.c, c) for c in list_]
    return rows


def command_time_gemm(g: Gpu, which: str, only: str, log: dict[str, Any], seconds: float) -> None:
    """Best tactics of each shape against cuBLAS and cuDNN."""
    torch, functional, start = g.torch, g.torch.nn.functional, time.time()
    rows = gemm_cases(which)
    plans = {i: gemm_candidates(m, n, k, c, only) for i, (_, m, n, k, c) in enumerate(rows)}
    for i, (_, m, n, k, c) in enumerate(rows):  # dependent launches of a few
        if m <= 512 and not only:
            plans[i] += [
                Gemm("f16", m, n, k, p.tile, split=p.split, cluster=True, conv=c, pdl=True)
                for p in plans[i]
                if isinstance(p, Gemm) and p.tile and p.tile.bm * p.tile.bn <= 64 * 128
            ]
    errors = compile_all([p for ps in plans.values() for p in ps], g.compiler, g.driver, "sm_90a")
    print(f"{sum(map(len, plans.values()))} tactics compiled in {time.time() - start:.1f} s, {len(errors)} failed", flush=True)
    for i, (name, m, n, k, c) in enumerate(rows):
        if time.time() - start > seconds:
            print("out of time")
            return
        reps = copies(n * k * 2)
        bias = g.random("f16", n)
        if c:
            x, w, bias = data_conv(g, "f16", c)
            a, nchw = x, x.permute(0, 3, 1, 2)
            cl = [w.clone(memory_format=torch.channels_last) for _ in range(reps)]
            bs = [t.permute(0, 2, 3, 1) for t in cl]
            peer = [lambda t=t: functional.conv2d(nchw, t, bias, c.stride, c.pad) for t in cl]  # noqa: B023
        else:
            a, bs = g.random("f16", m, k), [g.random("f16", n, k, scale=k**-0.5) for _ in range(reps)]
            peer = [lambda t=t: functional.linear(a, t, bias) for t in bs]  # noqa: B023
        out = torch.empty(m, n, device="cuda", dtype=torch.float16)
        want = peer[0]()
        if c:
            want = want.permute(0, 2, 3, 1)
        want = want.reshape(m, n).float()
        theirs = timed(g, peer)
        results: list[tuple[float, str]] = []
        for p in plans[i]:
            if p.kernel.function is None:
                continue
            out.fill_(float("nan"))
            g.product(p, a, bs[0], out, bias)
            err = ((out.float() - want).norm() / want.norm()).item()
            if not err < 2e-3:
                print(f"WRONG {name} {p.name()} {err:.2e}", flush=True)
                continue
            results.append((timed(g, [lambda p=p, t=t: g.product(p, a, t, out, bias) for t in bs]), p.name()))  # noqa: B023
        results.sort()
        flops, moved = 2.0 * m * n * k, 2.0 * (a.numel() + n * k + m * n)
        floor = max(flops / 747e12, moved / 2.97e12) * 1e6
        label = f"{c.h}x{c.w} {c.c}->{c.o} k{c.k}s{c.stride} b{c.n}" if c else f"{m}x{n}x{k}"
        plain = [r for r in results if not r[1].endswith("p")]
        if not results:
            continue
        best_plain = f"{plain[0][0]:8.2f} {plain[0][1]}" if plain else ""
        print(
            f"{name:9}{label:28} floor {floor:7.2f} peer {theirs:8.2f} best {results[0][0]:8.2f} {results[0][1]:32} {best_plain}",
            flush=True,
        )
        log.setdefault("gemm", []).append({"model": name, "shape": label, "floor": floor, "peer": theirs, "tactics": results})


def attention_cases() -> list[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Shapes of models, and tactics."""
    some = [
        {"wq": q, "wkv": kv, "bkv": b, "r16": r, "ctas": c}
        for q, kv, b, r, c in (
            (1, 4, 64, 1, 1),
            (1, 4, 128, 1, 1),
            (2, 2, 64, 1, 1),
            (2, 2, 128, 1, 1),
            (4, 2, 128, 1, 1),
            (4, 1, 64, 1, 1),
            (4, 1, 64, 1, 4),
            (4, 1, 32, 1, 4),
            (8, 1, 64, 1, 2),
            (8, 1, 32, 1, 2),
            (8, 1, 128, 1, 1),
            (7, 1, 112, 1, 1),
            (7, 1, 64, 1, 2),
            (4, 1, 64, 2, 2),
            (4, 1, 32, 2, 2),
        )
    ]
    decode = [{"wq": 1, "wkv": 4, "bkv": b, "split": s} for s in (1, 4, 8, 16, 32) for b in (64, 128)]
    return [
        ("bert", {"b": 1, "h": 12, "lq": 128, "lk": 128, "e": 64, "packed": True}, some),
        ("bert32", {"b": 32, "h": 12, "lq": 128, "lk": 128, "e": 64, "packed": True}, some),
        ("vit", {"b": 1, "h": 12, "lq": 197, "lk": 197, "e": 64, "packed": True}, some),
        ("vit32", {"b": 32, "h": 12, "lq": 197, "lk": 197, "e": 64, "packed": True}, some),
        ("swin", {"b": 64, "h": 3, "lq": 49, "lk": 49, "e": 32, "packed": True, "mask": "add"}, some),
        ("swin32", {"b": 2048, "h": 3, "lq": 49, "lk": 49, "e": 32, "packed": True, "mask": "add"}, some),
        ("gpt2", {"b": 1, "h": 12, "lq": 512, "lk": 512, "e": 64, "packed": True, "causal": True}, some),
        ("gpt2x32", {"b": 32, "h": 12, "lq": 512, "lk": 512, "e": 64, "packed": True, "causal": True}, some),
        ("llama", {"b": 1, "h": 32, "lq": 512, "lk": 512, "e": 64, "group": 4, "causal": True}, some),
        ("llama128", {"b": 1, "h": 32, "lq": 512, "lk": 512, "e": 128, "group": 4, "causal": True}, some[:12]),
        ("decode", {"b": 1, "h": 32, "lq": 1, "lk": 512, "e": 64, "group": 4}, decode),
        ("decode4k", {"b": 1, "h": 32, "lq": 1, "lk": 4096, "e": 128, "group": 4}, decode),
        ("long", {"b": 4, "h": 16, "lq": 2048, "lk": 2048, "e": 128, "causal": True}, some[1:]),
        ("long64", {"b": 4, "h": 16, "lq": 2048, "lk": 2048, "e": 64, "causal": True}, some[1:2]),
        ("full", {"b": 2, "h": 16, "lq": 2048, "lk": 2048, "e": 128}, some[1:2]),
        ("odd", {"b": 1, "h": 25, "lq": 1500, "lk": 1500, "e": 64, "causal": True}, some[1:2]),
    ]


def command_time_attention(g: Gpu, which: str, only: str, log: dict[str, Any]) -> None:
    """Against scaled_dot_product_attention."""
    functional = g.torch.nn.functional
    shapes = [(n, s, ts) for n, s, ts in attention_cases() if re.fullmatch(which, n)]
    cases = [(n, [Attention("f16", **s, **t) for t in ts]) for n, s, ts in shapes]
    ways = [(g, b, s) for g in (2, 3) for b in (64, 96, 128) for s in (2, 3)]
    for (_, plans), (_, shape, _) in zip(cases, shapes, strict=True):
        if shape["lq"] >= 64:
            for groups, b, s in ways:
                for section in (0, 33) if shape.get("causal") and s == 2 else (0,):
                    p = AttentionWg("f16", **shape, groups=groups, bkv=b, stages=s, section=section)
                    if p.kernel.smem <= 227 * 1024:
                        plans.append(p)
    cases = [(n, [p for p in ps if re.match(only, p.name())]) for n, ps in cases]
    errors = compile_all([p for _, ps in cases for p in ps], g.compiler, g.driver, "sm_90a")
    for e in errors[:5]:
        print(e)
    for name, plans in cases:
        p0 = plans[0]
        q, k, v, mask, out = data_attention(g, p0)
        kw = {"enable_gqa": True} if p0.group > 1 else {}
        peer = lambda: functional.scaled_dot_product_attention(q, k, v, mask, is_causal=p0.causal, **kw)  # noqa: B023, E731
        theirs, results, want = timed(g, [peer]), [], peer().float()
        for p in plans:
            if p.kernel.function is None or p.kernel.smem > 227 * 1024:
                continue
            out.fill_(float("nan"))
            g.attention(p, q, k, v, out, mask)
            err = ((out.float() - want).norm() / want.norm()).item()
            if not err < 2e-3:
                print(f"WRONG {name} {p.name()} {err:.2e}", flush=True)
                continue
            results.append((timed(g, [lambda p=p: g.attention(p, q, k, v, out, mask)]), p.name()))  # noqa: B023
        results.sort()
        flops = 2.0 * p0.b * p0.h * p0.lq * p0.lk * (p0.e + p0.ev) * (0.5 if p0.causal else 1)
        moved = 2.0 * (q.numel() + k.numel() + v.numel() + out.numel())
        floor = max(flops / 747e12, moved / 2.97e12) * 1e6
        print(
            f"attention {name:9} floor {floor:7.2f} peer {theirs:8.2f} " + "  ".join(f"{t:.2f} {n}" for t, n in results[:4]),
            flush=True,
        )
        log.setdefault("attention", []).append({"model": name, "floor": floor, "peer": theirs, "tactics": results})


def command_time_depthwise(g: Gpu, log: dict[str, Any]) -> None:
    """Against cuDNN."""
    functional = g.torch.nn.functional
    shapes = [
        (112, 32, 3, 1),
        (112, 96, 3, 2),
        (56, 144, 3, 1),
        (28, 192, 3, 1),
        (14, 576, 3, 1),
        (7, 960, 3, 1),
        (28, 240, 5, 1),
        (14, 672, 5, 1),
        (56, 96, 7, 1),
        (14, 384, 7, 1),
    ]
    cuts = ((1, 1, 8), (2, 1, 8), (4, 1, 8), (4, 1, 4), (4, 2, 4), (4, 2, 2), (7, 2, 2), (4, 4, 2), (2, 2, 4), (8, 1, 4))
    ways = [(px, py, t, v) for px, py, v in cuts for t in (64, 128)]
    for n in (1, 32):
        for size, c, k, s in shapes:
            conv = Conv(n, size, size, c, c, k, s, k // 2, 1, c)
            plans = [Depthwise("f16", conv, px, py, t, v) for px, py, t, v in ways]
            for e in compile_all(list(plans), g.compiler, g.driver, "sm_90a"):
                print(e)
            x, w, bias = data_conv(g, "f16", conv)
            packed, wl = w.reshape(c, -1).t().contiguous(), w.contiguous(memory_format=g.torch.channels_last)
            nchw = x.permute(0, 3, 1, 2)
            peer = lambda: functional.conv2d(nchw, wl, bias, s, k // 2, 1, c)  # noqa: B023, E731
            theirs, results, want = timed(g, [peer]), [], peer().permute(0, 2, 3, 1).float()
            out = g.torch.empty(want.shape, device="cuda", dtype=g.torch.float16)
            for p in plans:
                if p.kernel.function is None:
                    continue
                call = lambda p=p: g.launch(p, [x, packed, out, bias], ctypes.c_int(n))  # noqa: B023, E731
                out.fill_(float("nan"))
                call()
                if not ((out.float() - want).norm() / want.norm()).item() < 2e-3:
                    print("WRONG", p.name())
                    continue
                results.append((timed(g, [call]), p.name()))
            results.sort()
            floor = 2.0 * (x.numel() + out.numel()) / 2.97e12 * 1e6
            print(
                f"depthwise b{n} {size}x{size}x{c} k{k}s{s}  floor {floor:6.2f} peer {theirs:7.2f} "
                + "  ".join(f"{t:.2f} {m}" for t, m in results[:4]),
                flush=True,
            )
            log.setdefault("depthwise", []).append(
                {"shape": f"b{n} {size} {c} {k} {s}", "floor": floor, "peer": theirs, "tactics": results}
            )
