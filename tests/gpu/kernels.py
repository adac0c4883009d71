"""The matrix kernels alone: every variant compiles for every architecture (no GPU needed), gives what PyTorch gives, and is timed
against cuBLAS, cuDNN and SDPA through PyTorch.

    python tests/gpu/kernels.py compile            # needs the NVRTC library only
    python tests/gpu/kernels.py check time [--out DIR]
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import nvrtc

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90a", "sm_100")
TYPES = {"f16": "MX_F16", "bf16": "MX_BF16", "f32": "MX_F32"}
SIZE = {"f16": 2, "bf16": 2, "f32": 4}


@dataclass(frozen=True)
class Tile:
    """How gemm.cu is cut: see its macros."""

    bm: int
    bn: int
    bk: int
    stages: int
    wm: int
    wn: int
    wk: int = 1
    ctas: int = 1
    math: int = 0

    @property
    def threads(self) -> int:
        return self.wm * self.wn * self.wk * 32

    def smem(self, size: int) -> int:
        """Bytes of dynamic shared memory."""
        loop = self.stages * (self.bm + self.bn) * self.bk * size
        return max(loop, self.wk * self.bm * (self.bn + 8) * 4 + 16)

    def name(self) -> str:
        kind = "wg" if self.math else "mma"
        return f"{kind}{self.bm}x{self.bn}x{self.bk}s{self.stages}w{self.wm}{self.wn}{self.wk}c{self.ctas}"


MMA_TILES = [
    Tile(16, 32, 128, 4, 1, 1, 4, 4),
    Tile(16, 64, 64, 6, 1, 1, 4, 3),
    Tile(16, 64, 128, 4, 1, 2, 2, 2),
    Tile(16, 128, 64, 5, 1, 4, 1, 2),
    Tile(32, 32, 128, 4, 1, 1, 4, 3),
    Tile(32, 64, 64, 5, 1, 2, 2, 3),
    Tile(32, 64, 128, 3, 1, 2, 2, 2),
    Tile(64, 32, 64, 5, 2, 1, 2, 3),
    Tile(64, 64, 64, 4, 2, 2, 1, 3),
    Tile(64, 64, 64, 5, 2, 2, 2, 2),
    Tile(64, 64, 128, 3, 2, 2, 2, 2),
    Tile(64, 128, 64, 4, 2, 2, 1, 2),
    Tile(64, 128, 64, 4, 2, 4, 1, 2),
    Tile(128, 64, 64, 4, 2, 2, 1, 2),
    Tile(128, 64, 64, 3, 4, 2, 1, 2),
    Tile(128, 128, 64, 3, 2, 2, 1, 2),
    Tile(128, 128, 64, 3, 2, 4, 1, 2),
    Tile(128, 256, 64, 3, 2, 4, 1, 1),
]
WGMMA_TILES = [
    Tile(64, 64, 64, 6, 4, 1, 1, 3, 1),
    Tile(64, 128, 64, 4, 4, 1, 1, 2, 1),
    Tile(64, 256, 64, 5, 4, 1, 1, 1, 1),
    Tile(128, 64, 64, 4, 8, 1, 1, 2, 1),
    Tile(128, 96, 64, 4, 8, 1, 1, 2, 1),
    Tile(128, 128, 64, 3, 8, 1, 1, 2, 1),
    Tile(128, 128, 64, 6, 8, 1, 1, 1, 1),
    Tile(128, 192, 64, 5, 8, 1, 1, 1, 1),
    Tile(128, 256, 64, 4, 8, 1, 1, 1, 1),
    Tile(256, 128, 64, 4, 16, 1, 1, 1, 1),
]


def scaled(tile: Tile, size: int) -> Tile:
    """The same bytes for 4-byte elements."""
    return tile if size == 2 else Tile(**{**tile.__dict__, "bk": tile.bk // 2})


def vec(limit: int, *numbers: int) -> int:
    """Largest power of two up to `limit` that divides all."""
    v = limit
    while any(n % v for n in numbers):
        v //= 2
    return v


@dataclass
class Kernel:
    """A text to compile, and what launches of it need."""

    entry: str
    files: tuple[str, ...]
    defines: dict[str, Any]
    threads: int
    smem: int = 0
    grid: tuple[int, int, int] = (1, 1, 1)
    front: str = ""
    function: Any = None
    log: str = ""

    def text(self) -> str:
        lines = "".join(f"#define {k} {v}\n" for k, v in self.defines.items())
        return self.front + lines + nvrtc.text_of("matrix_common.cu", *self.files)


@dataclass
class Conv:
    """A 2-d convolution, channels last."""

    n: int
    h: int
    w: int
    c: int
    o: int
    k: int
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def oh(self) -> int:
        return (self.h + 2 * self.pad - self.dilation * (self.k - 1) - 1) // self.stride + 1

    @property
    def ow(self) -> int:
        return (self.w + 2 * self.pad - self.dilation * (self.k - 1) - 1) // self.stride + 1

    def macros(self) -> dict[str, Any]:
        s: dict[str, Any] = {"IMG_H": self.h, "IMG_W": self.w, "OUT_H": self.oh, "OUT_W": self.ow}
        for x in "HW":
            s |= {f"KERNEL_{x}": self.k, f"STRIDE_{x}": self.stride, f"PAD_{x}": self.pad, f"DILATION_{x}": self.dilation}
        return s


def add_relu(dtype: str) -> str:
    """Text of an epilogue: max(v + residual, 0)."""
    return (
        "template <int TYPE, int N> __device__ __forceinline__ void mx_load(const void *, long long, float *);\n"
        "template <int V> __device__ void add_relu(float (&v)[V], const void *p, long long at) {\n"
        f"  float r[V]; mx_load<{('f16', 'bf16', 'f32').index(dtype)}, V>(p, at, r);\n"
        "  for (int j = 0; j < V; j++) v[j] = fmaxf(v[j] + r[j], 0.0f);\n}\n"
    )


@dataclass
class Gemm:
    """One matrix product (or convolution) by gemm.cu or gemm_simt.cu (tile None)."""

    dtype: str
    m: int
    n: int
    k: int
    tile: Tile | None
    batch: int = 1
    b_kn: bool = False
    split: int = 1
    cluster: bool = False
    pdl: bool = False
    relu_add: bool = False
    conv: Conv | None = None
    out: str = ""
    simt: tuple[int, int, int, int, int] = (64, 64, 16, 4, 4)
    kernel: Kernel = field(init=False)

    def __post_init__(self) -> None:
        size, out = SIZE[self.dtype], self.out or self.dtype
        m, n, k, g = self.m, self.n, self.k, 1
        if self.conv:
            g = self.conv.groups
            m, n, k = self.conv.n * self.conv.oh * self.conv.ow, self.conv.o // g, self.conv.k**2 * self.conv.c // g
            self.m, self.n, self.k = m, n, k
        z = self.batch * g
        lda = self.conv.c if self.conv else k
        ldb, ldc = (n if self.b_kn else k), n * g
        per_tap = self.conv.c // g if self.conv else k
        d: dict[str, Any] = {
            "IN_TYPE": TYPES[self.dtype],
            "OUT_TYPE": TYPES[out],
            "BIAS_TYPE": TYPES[self.dtype],
            "HAS_BIAS": 1,
            "GEMM_M": m,
            "GEMM_N": n,
            "GEMM_K": k,
            "LDA": lda,
            "LDB": ldb,
            "B_KN": int(self.b_kn),
            "VEC_A": vec(16 // size, per_tap, lda),
            "VEC_B": vec(16 // size, n if self.b_kn else k),
            "SPLIT": self.split,
            "SPLIT_CLUSTER": int(self.cluster),
            "PDL": int(self.pdl),
            "B_CONST": 1,
            "CONV": int(self.conv is not None),
            "A_OFFSET(z)": f"(z) * {per_tap if self.conv else m * k}LL",
            "B_OFFSET(z)": f"(z) * {n * k}LL",
            "BIAS_OFFSET(z)": f"(z) * {n if self.conv else 0}",
            "C_AT(z,row,col)": f"((row) * {ldc}LL + (z) * {n if self.conv else m * n}LL + (col))",
        }
        if self.conv:
            d |= {"CONV_C": per_tap, **self.conv.macros()}
        width = 8
        if self.tile is None:
            bm, bn, bk, tm, tn = self.simt
            width = 4 if tn % 4 == 0 else tn
            d |= {"BM": bm, "BN": bn, "BK": bk, "TM": tm, "TN": tn}
            files: tuple[str, ...] = ("gemm_simt.cu",)
            entry, threads, smem = "kiln_gemm_simt", bm // tm * (bn // tn), 2 * bk * (bm + bn + 8) * 4 + 16
        else:
            t = self.tile = scaled(self.tile, size)
            bm, bn = t.bm, t.bn
            d |= {"MATH": t.math, "BM": bm, "BN": bn, "BK": t.bk, "STAGES": t.stages, "MIN_CTAS": t.ctas}
            d |= {"WARPS_M": t.wm, "WARPS_N": t.wn, "WARPS_K": t.wk}
            files = ("wgmma.cu", "gemm.cu") if t.math else ("gemm.cu",)
            entry, threads, smem = "kiln_gemm", t.threads, t.smem(size)
        d["VEC_C"] = vec(width, n, ldc)
        front = ""
        if self.relu_add:
            d["EPILOGUE_PARAMS"] = ", const void *residual"
            d["EPILOGUE(v,z,row,col)"] = "add_relu<VEC_C>(v, residual, C_AT((long long)z, row, col));"
            front = add_relu(out)
        tiles = math.ceil(m / bm) * math.ceil(n / bn)
        self.bm, self.bn = bm, bn
        self.kernel = Kernel(entry, files, d, threads, smem, (tiles * z, self.split, 1), front)

    def workspace(self) -> tuple[int, int]:
        """Floats of partial sums, and counters."""
        tiles = self.kernel.grid[0] * self.kernel.grid[2]
        return (tiles * self.split * self.bm * self.bn, tiles) if self.split > 1 and not self.cluster else (0, 0)

    def fits(self, size: int = 2) -> bool:
        """Can this be launched at all?"""
        slices = math.ceil(self.k / (self.tile.bk if self.tile else self.simt[2]))
        return self.kernel.smem <= 227 * 1024 and self.split <= slices

    def name(self) -> str:
        t = self.tile.name() if self.tile else "simt" + "x".join(map(str, self.simt))
        return t + (f"/{self.split}{'c' if self.cluster else 'w'}" if self.split > 1 else "") + ("p" if self.pdl else "")


@dataclass
class GemmTma:
    """One large matrix product or convolution by gemm_tma.cu."""

    dtype: str
    m: int
    n: int
    k: int
    groups: int = 2
    bn: int = 256
    stages: int = 4
    ctas: int = 1
    conv: Conv | None = None
    relu_add: bool = False
    pdl: bool = True
    batch: int = 1
    stagger: bool = False
    kernel: Kernel = field(init=False)

    def __post_init__(self) -> None:
        size = SIZE[self.dtype]
        d: dict[str, Any] = {}
        if self.conv:
            c = self.conv
            self.m, self.n, self.k = c.n * c.oh * c.ow, c.o, c.k**2 * c.c
            d = {"CONV_C": c.c, **c.macros()}
        threads = self.groups * 128 + 32
        d |= {
            "IN_TYPE": TYPES[self.dtype],
            "OUT_TYPE": TYPES[self.dtype],
            "BIAS_TYPE": TYPES[self.dtype],
            "HAS_BIAS": 1,
            "GEMM_M": self.m,
            "GEMM_N": self.n,
            "GEMM_K": self.k,
            "GROUPS": self.groups,
            "BN": self.bn,
            "STAGES": self.stages,
            "MIN_CTAS": self.ctas,
            "STAGGER": int(self.stagger),
            "VEC_C": vec(8, self.n),
            "PDL": int(self.pdl),
            "B_CONST": 1,
            "CONV": int(self.conv is not None),
            "C_AT(z,row,col)": f"((row) * {self.n}LL + (col))",
        }
        front = ""
        if self.relu_add:
            d["EPILOGUE_PARAMS"] = ", const void *residual"
            d["EPILOGUE(v,z,row,col)"] = "add_relu<VEC_C>(v, residual, C_AT(0LL, row, col));"
            front = add_relu(self.dtype)
        self.bm = self.groups * 64
        stage = (self.bm + self.bn) * 128
        smem = self.stages * stage + self.groups * 4 * 16 * 40 * 4 + self.stages * 16
        tiles = math.ceil(self.m / self.bm) * math.ceil(self.n / self.bn)
        self.size = size
        files = ("wgmma.cu", "gemm_tma.cu")
        self.kernel = Kernel("kiln_gemm_tma", files, d, threads, smem, (min(tiles, 132 * self.ctas), 1, 1), front)

    def fits(self) -> bool:
        """Can this be launched at all?"""
        return self.kernel.smem <= 227 * 1024 // self.ctas - (1024 if self.ctas > 1 else 0)

    def name(self) -> str:
        return f"tma{self.bm}x{self.bn}s{self.stages}c{self.ctas}{'s' if self.stagger else ''}" + ("p" if self.pdl else "")


@dataclass
class Attention:
    """Fused attention over contiguous [B, H, L, E] operands."""

    dtype: str
    b: int
    h: int
    lq: int
    lk: int
    e: int
    ev: int = 0
    group: int = 1
    causal: bool = False
    mask: str = ""  # "", "bool", "add"
    wq: int = 4
    wkv: int = 1
    r16: int = 1
    bkv: int = 64
    stages: int = 2
    split: int = 1
    ctas: int = 1
    packed: bool = False  # operands are views of [B, L, 3, H, E], the result of [B, L, H, E]
    pdl: bool = False
    kernel: Kernel = field(init=False)

    def __post_init__(self) -> None:
        self.ev = self.ev or self.e
        hkv = self.h // self.group
        up = lambda x: (x + 15) // 16 * 16  # noqa: E731
        hd, hdv, e, ev = up(self.e), up(self.ev), self.e, self.ev
        simt = self.dtype == "f32"
        if self.packed:
            row = 3 * self.h * e
            at = dict.fromkeys("QKV", f"((b) * {self.lq * row}LL + (h) * {e})")
            at["O"] = f"((b) * {self.lq * self.h * ev}LL + (h) * {ev})"
            rows = {"Q": row, "K": row, "V": row, "O": self.h * ev}
        else:
            at = {
                "Q": f"((b) * {self.h * self.lq * e}LL + (h) * {self.lq * e})",
                "K": f"((b) * {hkv * self.lk * e}LL + (h) * {self.lk * e})",
                "V": f"((b) * {hkv * self.lk * ev}LL + (h) * {self.lk * ev})",
                "O": f"((b) * {self.h * self.lq * ev}LL + (h) * {self.lq * ev})",
            }
            rows = {"Q": e, "K": e, "V": ev, "O": ev}
        d: dict[str, Any] = {
            "IN_TYPE": TYPES[self.dtype],
            "BATCH": self.b,
            "HEADS": hkv,
            "GROUP": self.group,
            "LEN_Q": self.lq,
            "LEN_K": self.lk,
            "DIM": e,
            "DIM_V": ev,
            "HD": hd,
            "HDV": hdv,
            "VEC_Q": vec(8, e),
            "VEC_K": vec(8, e),
            "VEC_V": vec(8, ev),
            "VEC_O": vec(8, ev),
            "MASK_KIND": {"": 0, "bool": 1, "add": 2}[self.mask],
            "MASK_TYPE": TYPES[self.dtype],
            "MASK_ROW": self.lk,
            "MASK_COL": 1,
            "MASK_AT(b,h)": f"((h) * {self.lq * self.lk}LL)",
            "CAUSAL": int(self.causal),
            "SCALE": f"{1 / math.sqrt(e)!r}f",
            "WARPS_Q": self.wq,
            "WARPS_KV": self.wkv,
            "ROWS16": self.r16,
            "BKV": self.bkv,
            "MIN_CTAS": self.ctas,
            "STAGES": self.stages,
            "SPLIT": self.split,
            "PDL": int(self.pdl),
        }
        for x in "QKVO":
            d |= {f"{x}_AT(b,h)": at[x], f"{x}_ROW": rows[x]}
        if simt:
            del d["BKV"]
            smem = (32 * (e + 1) * 2 + 32 * ev + 32 * 33) * 4
            grid = (math.ceil(self.group * self.lq / 32) * self.b * hkv, 1, 1)
            self.kernel = Kernel("kiln_attention_simt", ("attention_simt.cu",), d, 128, smem, grid)
            return
        bq = self.wq * self.r16 * 16
        kv = self.bkv * (hd + 8 + hdv + 8) * 2
        smem = max(bq * (hd + 8) * 2 + self.stages * kv, self.wkv * bq * (hdv + 6) * 4 + 16)
        grid = (math.ceil(self.group * self.lq / bq) * self.b * hkv, self.split, 1)
        self.bq, self.hdv = bq, hdv
        self.kernel = Kernel("kiln_attention", ("attention.cu",), d, self.wq * self.wkv * 32, smem, grid)

    def name(self) -> str:
        if self.dtype == "f32":
            return "simt"
        return f"q{self.wq}x{self.r16}kv{self.wkv}b{self.bkv}s{self.stages}c{self.ctas}/{self.split}"

    def workspace(self) -> tuple[int, int]:
        """Floats and counters."""
        blocks = self.kernel.grid[0] * self.kernel.grid[2]
        return (blocks * self.split * self.bq * (self.hdv + 2), blocks) if self.split > 1 else (0, 0)


@dataclass
class AttentionWg(Attention):
    """The same by attention_wgmma.cu."""

    groups: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        hd, hdv = (64 if x <= 64 else 128 for x in (self.e, self.ev))
        bq = self.groups * 64
        d = {k: v for k, v in self.kernel.defines.items() if k not in ("WARPS_Q", "WARPS_KV", "ROWS16", "SPLIT")}
        d |= {"HD": hd, "HDV": hdv, "BN": self.bkv, "GROUPS": self.groups, "STAGES": self.stages, "PDL": 1}
        smem = bq * hd * 2 + self.stages * self.bkv * (hd + hdv) * 2 + self.groups * 64 * (hdv + 8) * 2 + 8 + self.stages * 32
        grid = (math.ceil(self.lq / bq) * self.b * self.h, 1, 1)
        files = ("wgmma.cu", "attention_wgmma.cu")
        self.kernel = Kernel("kiln_attention_wgmma", files, d, self.groups * 128 + 32, smem, grid)

    def name(self) -> str:
        return f"wg{self.groups}b{self.bkv}s{self.stages}c{self.ctas}"


@dataclass
class Depthwise:
    """A depthwise convolution."""

    dtype: str
    conv: Conv
    px: int = 4
    py: int = 1
    threads: int = 128
    vector: int = 8
    pdl: bool = False
    kernel: Kernel = field(init=False)

    def __post_init__(self) -> None:
        c = self.conv
        v = vec(self.vector, c.c)
        d: dict[str, Any] = {
            "IN_TYPE": TYPES[self.dtype],
            "OUT_TYPE": TYPES[self.dtype],
            "BIAS_TYPE": TYPES[self.dtype],
            "HAS_BIAS": 1,
            "VEC": v,
            "PX": self.px,
            "PY": self.py,
            "CHANNELS": c.c,
            "X_PIXEL": c.c,
            "X_IMAGE": c.h * c.w * c.c,
            "Y_AT(row,col)": f"((row) * {c.c}LL + (col))",
            "THREADS": self.threads,
            "PDL": int(self.pdl),
            **c.macros(),
        }
        total = c.n * math.ceil(c.oh / self.py) * math.ceil(c.ow / self.px) * c.c // v
        self.kernel = Kernel("kiln_depthwise", ("depthwise.cu",), d, self.threads, 0, (math.ceil(total / self.threads), 1, 1))

    def name(self) -> str:
        return f"dw{self.px}x{self.py}v{self.vector}t{self.threads}"


@dataclass
class Direct:
    """conv_direct.cu on a channels-last 2-d convolution, also transposed."""

    dtype: str
    conv: Conv
    transposed: bool = False
    kernel: Kernel = field(init=False)

    def __post_init__(self) -> None:
        c, g = self.conv, self.conv.groups
        oh, ow = c.oh, c.ow
        if self.transposed:
            oh = (c.h - 1) * c.stride - 2 * c.pad + c.dilation * (c.k - 1) + 1
            ow = (c.w - 1) * c.stride - 2 * c.pad + c.dilation * (c.k - 1) + 1
        self.oh, self.ow = oh, ow
        gi, go, kk = c.c // g, c.o // g, c.k * c.k
        d: dict[str, Any] = {
            "IN_TYPE": TYPES[self.dtype],
            "OUT_TYPE": TYPES[self.dtype],
            "BIAS_TYPE": TYPES[self.dtype],
            "HAS_BIAS": 1,
            "TRANSPOSED": int(self.transposed),
            "IN_D": 1,
            "IN_H": c.h,
            "IN_W": c.w,
            "OUT_D": 1,
            "OUT_H": oh,
            "OUT_W": ow,
            "OUT_C": c.o,
            "GROUP_IN": gi,
            "GROUP_OUT": go,
            "X_N": c.h * c.w * c.c,
            "X_C": 1,
            "X_D": 0,
            "X_H": c.w * c.c,
            "X_W": c.c,
            "W_G": gi * go * kk,
            "W_O": kk if self.transposed else gi * kk,
            "W_I": go * kk if self.transposed else kk,
            "W_D": 0,
            "W_H": c.k,
            "W_W": 1,
            "Y_AT(n,c,d,h,w)": f"((((n) * {oh}LL + (h)) * {ow} + (w)) * {c.o} + (c))",
            "PAD_D": 0,
            "STRIDE_D": 1,
            "DILATION_D": 1,
            "KERNEL_D": 1,
        }
        for x in "HW":
            d |= {f"KERNEL_{x}": c.k, f"STRIDE_{x}": c.stride, f"PAD_{x}": c.pad, f"DILATION_{x}": c.dilation}
        self.total = c.n * oh * ow * c.o
        self.kernel = Kernel("kiln_conv_direct", ("conv_direct.cu",), d, 256, 0, (math.ceil(self.total / 256), 1, 1))

    def name(self) -> str:
        return "direct" + ("_t" if self.transposed else "")


Plan = Gemm | GemmTma | Attention | Depthwise | Direct

TMA_WAYS = [
    (2, 256, 4, 1),
    (2, 192, 5, 1),
    (2, 128, 6, 1),
    (2, 128, 3, 2),
    (1, 256, 4, 1),
    (1, 128, 4, 2),
    (1, 64, 6, 2),
    (1, 128, 3, 3),
    (2, 96, 4, 2),
    (3, 128, 4, 1),
    (1, 96, 4, 2),
]


# ---- Compiling --------------------------------------------------------------------------------------------------------------------


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
    for dtype, shape in itertools.product(TYPES, ((77, 132, 72), (61, 72, 1096), (20000, 264, 64))):
        out.append((f"tma {dtype}", GemmTma(dtype, *shape, 2, 128, 4, 1, relu_add=True)))
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
    out.append(("conv split", Gemm("f16", 0, 0, 0, small, conv=convs[0], split=3, cluster=True)))
    out.append(("conv split", Gemm("bf16", 0, 0, 0, small, conv=convs[0], split=3)))
    for dtype in TYPES:
        out.append((f"transposed {dtype}", Direct(dtype, Conv(2, 7, 9, 16, 24, 3, 2, 1, 1, 2), transposed=True)))
        for c in (Conv(2, 14, 15, 40, 40, 3, 1, 1), Conv(2, 15, 15, 36, 36, 5, 2, 2), Conv(1, 13, 13, 7, 7, 3, 1, 2, 2)):
            c.groups = c.c
            for px, py in ((1, 1), (4, 1), (2, 2)):
                out.append((f"depthwise {dtype}", Depthwise(dtype, c, px, py)))
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
        {"lq": 197, "lk": 197, "e": 64, "packed": True, "bkv": 64, "ctas": 2},
        {"lq": 300, "lk": 300, "e": 64, "causal": True, "bkv": 64, "groups": 3},
        {"lq": 130, "lk": 150, "e": 64, "mask": "add", "bkv": 128},
        {"lq": 130, "lk": 150, "e": 56, "ev": 40, "mask": "bool", "bkv": 64, "groups": 1},
        {"lq": 200, "lk": 260, "e": 128, "group": 2, "causal": True, "bkv": 64},
        {"lq": 100, "lk": 260, "e": 96, "ev": 128, "bkv": 96, "stages": 3},
    ]
    for dtype, h in itertools.product(("f16", "bf16"), long):
        out.append((f"attention wgmma {dtype}", AttentionWg(dtype, 2, 2 * h.get("group", 1), **h)))
    for dtype, h in itertools.product(TYPES, heads):
        out.append((f"attention {dtype}", Attention(dtype, 2, 4 * h.get("group", 1), **h)))
    return out


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


# ---- Running ----------------------------------------------------------------------------------------------------------------------


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
        else:
            map_a = self.tensor_map(p.dtype, a, [p.k, p.m], [p.k * s], [row, p.bm])
        map_b = self.tensor_map(p.dtype, b, [p.k, p.n], [p.k * s], [row, p.bn])
        extra = [ctypes.c_void_p(residual.data_ptr())] if residual is not None else []
        args = [map_a, map_b, ctypes.c_void_p(c.data_ptr()), ctypes.c_void_p(bias.data_ptr()), *extra]
        k, stream = p.kernel, self.torch.cuda.current_stream().cuda_stream
        self.driver.launch(k.function, k.grid, k.threads, k.smem, stream, args, p.pdl)

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
    elif isinstance(p, Gemm | GemmTma | Depthwise | Direct):
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


@dataclass
class Case:
    """A shape of a model."""

    name: str
    plans: list[Any]
    flops: float
    bytes: float


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
                if groups == 2 and ctas == 1 and m >= 2048:
                    out.append(GemmTma("f16", m, n, k, groups, bn, stages, ctas, conv=conv, stagger=True))
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
        "vit32": [(6304, 768, 3072), (6304, 3072, 768)],
        "swin32": [(100352, 96, 384), (6272, 384, 1536)],
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
        ("decode", {"b": 1, "h": 32, "lq": 1, "lk": 512, "e": 64, "group": 4}, decode),
        ("decode4k", {"b": 1, "h": 32, "lq": 1, "lk": 4096, "e": 128, "group": 4}, decode),
        ("long", {"b": 4, "h": 16, "lq": 2048, "lk": 2048, "e": 128, "causal": True}, some[1:]),
    ]


def command_time_attention(g: Gpu, log: dict[str, Any]) -> None:
    """Against scaled_dot_product_attention."""
    functional = g.torch.nn.functional
    cases = [(n, [Attention("f16", **s, **t) for t in ts]) for n, s, ts in attention_cases()]
    ways = [(g, b, s, c) for g in (1, 2, 3) for b in (64, 96, 128) for s, c in ((2, 1), (3, 1), (2, 2), (3, 2))]
    for (_, plans), (_, shape, _) in zip(cases, attention_cases(), strict=True):
        if shape["lq"] >= 64:
            for groups, b, s, c in ways:
                p = AttentionWg("f16", **shape, groups=groups, bkv=b, stages=s, ctas=c)
                if p.kernel.smem * c <= 226 * 1024 and not (shape["e"] > 64 and b > 96) and c * (groups + 1) <= 5:
                    plans.append(p)
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
                command_time_attention(g, log)
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
