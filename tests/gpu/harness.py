"""Plans on a GPU: compile, load, launch, compare with float64, time. Data and references come from PyTorch."""

from __future__ import annotations

import ctypes
import math
import os
import re
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import nvrtc
from plans import Attention, AttentionWg, Conv, Depthwise, Direct, Gemm, GemmTma, Plan, Stem


def runs_on(plan: Plan, arch: str) -> bool:
    """Is this text meant for this architecture?"""
    if isinstance(plan, GemmTma | AttentionWg) and arch != "sm_90a":
        return False
    if isinstance(plan, Gemm):
        if plan.tile and plan.tile.math and arch != "sm_90a":
            return False
        if plan.cluster and plan.split > 1 and int(re.sub(r"\D", "", arch)) < 90:
            return False
    return True


def compile_all(plans: list[Plan], compiler: nvrtc.Nvrtc, driver: nvrtc.Driver | None, arch: str) -> list[str]:
    """Compiles (and loads) all; equal texts once. Returns what failed."""
    by_text: dict[str, list[Plan]] = {}
    for p in plans:
        by_text.setdefault(p.kernel.text(), []).append(p)
    errors: list[str] = []

    def one(item: tuple[str, list[Plan]]) -> tuple[list[Plan], bytes, str]:
        text, users = item
        try:
            cubin, log = compiler.compile(text, arch, ("--ptxas-options=-v",))
        except RuntimeError as e:
            return users, b"", str(e)
        return users, cubin, log

    with ThreadPoolExecutor(max(1, min(14, (os.cpu_count() or 2)))) as pool:
        for users, cubin, log in pool.map(one, by_text.items()):
            if not cubin:
                errors.append(f"{users[0].name()}: {log[:600]}")
                continue
            for p in users:
                p.kernel.log = log
            if driver:
                function = driver.load(cubin, users[0].kernel.entry, users[0].kernel.smem)
                for p in users:
                    p.kernel.function = function
    return errors


class Gpu:
    """Data, launches and references with PyTorch."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.zeros(1, device="cuda")
        self.driver, self.compiler = nvrtc.Driver(), nvrtc.Nvrtc()
        self.types = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
        self.ws = torch.empty(64 << 20, dtype=torch.float32, device="cuda")
        self.counters = torch.zeros(1 << 16, dtype=torch.int32, device="cuda")
        self.held: list[Any] = []  # memory of tensor maps
        torch.manual_seed(1)

    def random(self, dtype: str, *shape: int, scale: float = 1.0) -> Any:
        return (self.torch.randn(*shape, device="cuda") * scale).to(self.types[dtype])

    def launch(self, p: Plan, tensors: list[Any], *numbers: Any, overlap: bool = False) -> None:
        args = [ctypes.c_void_p(t.data_ptr() if t is not None else 0) for t in tensors] + list(numbers)
        k = p.kernel
        stream = self.torch.cuda.current_stream().cuda_stream
        self.driver.launch(k.function, k.grid, k.threads, k.smem, stream, args, overlap)

    def gemm(self, p: Gemm, a: Any, b: Any, c: Any, bias: Any, residual: Any = None) -> None:
        extra = [ctypes.c_void_p(residual.data_ptr())] if residual is not None else []
        self.launch(p, [a, b, c, bias, self.ws, self.counters], ctypes.c_int(p.m), *extra, overlap=p.pdl)

    def tensor_map(self, dtype: str, t: Any, sizes: list[int], strides: list[int], box: list[int], image: Any = None) -> Any:
        """A tensor map of `t`; `image`: (lower, upper, steps) of an im2col map whose box is (channels, pixels)."""
        raw = (ctypes.c_ubyte * 192)()
        at = (ctypes.addressof(raw) + 63) // 64 * 64
        held = (ctypes.c_ubyte * 128).from_address(at)
        self.held.append(raw)
        n = len(sizes)
        u64, u32, i32 = ctypes.c_uint64 * n, ctypes.c_uint32 * n, ctypes.c_int * 2
        kind = {"f16": 6, "bf16": 9, "f32": 7}[dtype]
        head = [ctypes.c_void_p(at), kind, n, ctypes.c_void_p(t.data_ptr()), u64(*sizes), u64(*strides, 0)]
        tail = [0, 3, 2, 0]
        if image:
            lower, upper, steps = image
            args = [*head, i32(*lower), i32(*upper), box[0], box[1], u32(*steps), *tail]
            self.driver.check(self.driver.lib.cuTensorMapEncodeIm2col(*args), "im2col map")
        else:
            args = [*head, u32(*box), u32(*([1] * n)), *tail]
            self.driver.check(self.driver.lib.cuTensorMapEncodeTiled(*args), "tensor map")
        return held

    def gemm_tma(self, p: GemmTma, a: Any, b: Any, c: Any, bias: Any, residual: Any = None) -> None:
        s, row = p.size, 128 // p.size
        if p.conv:
            v = p.conv
            reach = v.dilation * (v.k - 1)
            image = ([-v.pad, -v.pad], [v.pad - reach, v.pad - reach], [1, v.stride, v.stride, 1])
            sizes, strides = [v.c, v.w, v.h, v.n], [v.c * s, v.w * v.c * s, v.h * v.w * v.c * s]
            map_a = self.tensor_map(p.dtype, a, sizes, strides, [row, p.bm], image)
        elif p.leave == 4:
            map_a = self.tensor_map(p.dtype, a, [p.k, 8, p.m // 8], [p.k * s, 8 * p.k * s], [row, 1, p.bm])
        else:
            map_a = self.tensor_map(p.dtype, a, [p.k, p.m], [p.k * s], [row, p.bm])
        if p.leave == 1:
            pitch = p.k * s
            steps = [pitch, 8 * pitch, 2 * pitch, 32 * pitch]
            map_b = self.tensor_map(p.dtype, b, [p.k, 2, 4, 4, p.n // 32], steps, [row, 2, 4, 4, p.bn // 32])
        else:
            map_b = self.tensor_map(p.dtype, b, [p.k, p.n], [p.k * s], [row, p.bn])
        extra = [ctypes.c_void_p(residual.data_ptr())] if residual is not None else []
        args = [map_a, map_b, ctypes.c_void_p(c.data_ptr()), ctypes.c_void_p(bias.data_ptr()), *extra]
        k, stream = p.kernel, self.torch.cuda.current_stream().cuda_stream
        self.driver.launch(k.function, k.grid, k.threads, k.smem, stream, args, p.pdl)

    def stem(self, p: Stem, x: Any, w: Any, out: Any, bias: Any) -> None:
        """`x` is channels last; `w` as PyTorch has it."""
        packed = self.torch.nn.functional.pad(w.permute(0, 2, 3, 1), (0, 4 - p.conv.c)).contiguous()
        image = x.permute(0, 3, 1, 2).contiguous() if p.planes else x
        self.launch(p, [image, packed, out, bias], ctypes.c_int(p.tiles), overlap=p.pdl)

    def product(self, p: Any, a: Any, b: Any, c: Any, bias: Any, residual: Any = None) -> None:
        """By whichever kernel the plan names."""
        (self.gemm_tma if isinstance(p, GemmTma) else self.gemm)(p, a, b, c, bias, residual)

    def attention(self, p: Attention, q: Any, k: Any, v: Any, o: Any, mask: Any) -> None:
        if isinstance(p, AttentionWg):
            maps = []
            for t, rows in ((q, 64), (k, p.bkv), (v, p.bkv)):
                b, h, n, e = t.shape
                steps = [t.stride(2) * 2, t.stride(1) * 2, t.stride(0) * 2]
                maps.append(self.tensor_map(p.dtype, t, [e, n, h, b], steps, [64, rows, 1, 1]))
            args = [*maps, ctypes.c_void_p(o.data_ptr()), ctypes.c_void_p(mask.data_ptr() if mask is not None else 0)]
            args += [ctypes.c_int(p.items), ctypes.c_int(p.section)]
            stream = self.torch.cuda.current_stream().cuda_stream
            self.driver.launch(p.kernel.function, p.kernel.grid, p.kernel.threads, p.kernel.smem, stream, args, True)
            return
        tail = [] if p.dtype == "f32" else [self.ws, self.counters]
        self.launch(p, [q, k, v, o, mask, *tail], ctypes.c_int(p.lk), overlap=p.pdl)


def data_conv(g: Gpu, dtype: str, c: Conv) -> tuple[Any, Any, Any]:
    """Image [N, H, W, C], filter [O, C/g, k, k], bias."""
    x = g.random(dtype, c.n, c.h, c.w, c.c)
    w = g.random(dtype, c.o, c.c // c.groups, c.k, c.k, scale=(c.c // c.groups * c.k**2) ** -0.5)
    return x, w, g.random(dtype, c.o)


def check_one(g: Gpu, p: Plan) -> float:
    """Relative error against float64."""
    torch = g.torch
    functional = torch.nn.functional
    if isinstance(p, Gemm | GemmTma) and not p.conv:
        b_kn, kind = getattr(p, "b_kn", False), getattr(p, "out", "") or p.dtype
        a, bias = g.random(p.dtype, p.batch, p.m, p.k), g.random(p.dtype, p.n)
        b = g.random(p.dtype, p.batch, p.k if b_kn else p.n, p.n if b_kn else p.k, scale=p.k**-0.5)
        out = torch.full((p.batch, p.m, p.n), float("nan"), device="cuda", dtype=g.types[kind])
        r = g.random(kind, p.batch, p.m, p.n) if p.relu_add else None
        ref = a.double() @ (b.double() if b_kn else b.double().transpose(1, 2)) + bias.double()
        for _ in range(2):  # the second run finds the counters that the first left
            g.product(p, a, b, out, bias, r)
    elif isinstance(p, Gemm | GemmTma | Depthwise | Direct | Stem):
        assert p.conv
        c = p.conv
        x, w, bias = data_conv(g, p.dtype, c)
        image = x.double().permute(0, 3, 1, 2)
        if isinstance(p, Direct) and p.transposed:
            w = g.random(p.dtype, c.c, c.o // c.groups, c.k, c.k, scale=(c.c * c.k**2) ** -0.5)
            ref = functional.conv_transpose2d(image, w.double(), bias.double(), c.stride, c.pad, 0, c.groups, c.dilation)
        else:
            ref = functional.conv2d(image, w.double(), bias.double(), c.stride, c.pad, c.dilation, c.groups)
        ref = ref.permute(0, 2, 3, 1)
        out = torch.full(tuple(ref.shape), float("nan"), device="cuda", dtype=g.types[p.dtype])
        r = g.random(p.dtype, *ref.shape) if isinstance(p, Gemm | GemmTma) and p.relu_add else None
        if isinstance(p, Gemm | GemmTma):
            packed = w.permute(0, 2, 3, 1).contiguous()
            for _ in range(2):
                g.product(p, x, packed, out, bias, r)
        elif isinstance(p, Stem):
            g.stem(p, x, w, out, bias)
        elif isinstance(p, Depthwise):
            g.launch(p, [x, w.reshape(c.c, -1).t().contiguous(), out, bias], ctypes.c_int(c.n))
        else:
            g.launch(p, [x, w, out, bias], ctypes.c_longlong(p.total))
    else:
        assert isinstance(p, Attention)
        q, k, v, mask, out = data_attention(g, p)
        m = mask
        if p.causal:
            keep = torch.ones(p.lq, p.lk, dtype=torch.bool, device="cuda").tril()
            m = keep if m is None else (m & keep if p.mask == "bool" else m.double().masked_fill(~keep, float("-inf")))
        if m is not None and m.dtype != torch.bool:
            m = m.double()
        kk, vv = (t.double().repeat_interleave(p.group, 1) for t in (k, v))
        ref = functional.scaled_dot_product_attention(q.double(), kk, vv, m)
        for _ in range(2):
            g.attention(p, q, k, v, out, mask)
        r = None
    if isinstance(p, Gemm | GemmTma) and p.relu_add and r is not None:
        ref = (ref + r.double()).relu()
    torch.cuda.synchronize()
    err = ((out.double() - ref).norm() / ref.norm()).item()
    return float("inf") if math.isnan(err) else err


def data_attention(g: Gpu, p: Attention) -> tuple[Any, Any, Any, Any, Any]:
    """Operands, mask and result of an attention."""
    torch, hkv = g.torch, p.h // p.group
    if p.packed:
        qkv = g.random(p.dtype, p.b, p.lq, 3, p.h, p.e)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = torch.full((p.b, p.lq, p.h, p.ev), float("nan"), device="cuda", dtype=g.types[p.dtype]).permute(0, 2, 1, 3)
    else:
        q, k = g.random(p.dtype, p.b, p.h, p.lq, p.e), g.random(p.dtype, p.b, hkv, p.lk, p.e)
        v = g.random(p.dtype, p.b, hkv, p.lk, p.ev)
        out = torch.full((p.b, p.h, p.lq, p.ev), float("nan"), device="cuda", dtype=g.types[p.dtype])
    mask = None
    if p.mask == "bool":
        mask = torch.rand(p.h, p.lq, p.lk, device="cuda") < 0.7
        mask[..., 0] = True
    elif p.mask == "add":
        mask = g.random(p.dtype, p.h, p.lq, p.lk)
    return q, k, v, mask, out


def timed(g: Gpu, calls: list[Callable[[], None]], want: int = 24) -> float:
    """Microseconds of one call, replayed as a CUDA graph over all of `calls`."""
    torch = g.torch
    rounds = max(1, math.ceil(want / len(calls)))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for c in calls[:2]:
            c()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for c in calls:
                c()
    graph.replay()
    times = []
    for _ in range(5):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        graph.replay()
        b.record()
        torch.cuda.synchronize()
        times.append(a.elapsed_time(b) * 1000 / (rounds * len(calls)))
    return statistics.median(times)


def copies(bytes_each: int) -> int:
    """So many weights in turn that they do not stay in the L2 cache."""
    return max(1, min(24, math.ceil(100e6 / bytes_each)))
