"""The matrix kernels of the CUDA backend as plans: how a text is cut, its macros, and what a launch needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import nvrtc

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
            "BIAS_CONST": 1,
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
            d["EPILOGUE(v,z,row,col)"] = "add_relu(v, residual, C_AT((long long)z, row, col));"
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
    leave: int = 0  # as LEAVE of the text
    group_m: int = 8
    b_stays: bool = False
    split: int = 1  # blocks of a cluster that share k: leave is 3 then
    kernel: Kernel = field(init=False)

    def __post_init__(self) -> None:
        size = SIZE[self.dtype]
        if self.split > 1:
            self.leave = 3
        d: dict[str, Any] = {"LEAVE": self.leave, "GROUP_M": self.group_m, "SPLIT": self.split, "B_STAYS": int(self.b_stays)}
        if self.conv:
            c = self.conv
            self.m, self.n, self.k = c.n * c.oh * c.ow, c.o, c.k**2 * c.c
            d |= {"CONV_C": c.c, **c.macros()}
        shift = self.leave and self.ctas == 1 and (self.groups == 2 or (self.groups == 3 and self.bn > 128))
        threads = self.groups * 128 + (128 if shift else 32)
        d |= {
            "IN_TYPE": TYPES[self.dtype],
            "OUT_TYPE": TYPES[self.dtype],
            "BIAS_TYPE": TYPES[self.dtype],
            "HAS_BIAS": 1,
            "BIAS_CONST": 1,
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
            d["EPILOGUE(v,z,row,col)"] = "add_relu(v, residual, C_AT(0LL, row, col));"
            front = add_relu(self.dtype)
        self.bm = self.groups * 64
        stage = (self.bm + self.bn) * 128
        warp = (16 * 40 * 4, 0, 16 * (self.bn + 8) * 2, 0, 16 * (self.bn + 8) * 2)[self.leave]
        smem = self.stages * stage + self.groups * 4 * warp + self.stages * 16
        if self.b_stays:
            slices = self.conv.k**2 * math.ceil(self.conv.c / (128 // size)) if self.conv else math.ceil(self.k / (128 // size))
            smem += (slices - self.stages) * self.bn * 128 + 16
        tiles = math.ceil(self.m / self.bm) * math.ceil(self.n / self.bn)
        if self.leave == 4:
            tiles = 8 * math.ceil(self.m / 8 / self.bm) * math.ceil((self.n + 7) / self.bn)
        self.size = size
        files = ("wgmma.cu", "gemm_tma.cu")
        self.kernel = Kernel("kiln_gemm_tma", files, d, threads, smem, (min(tiles, 132 * self.ctas), 1, 1), front)
        if self.split > 1:
            self.kernel.grid = (tiles * self.split, 1, 1)

    def fits(self) -> bool:
        """Can this be launched at all?"""
        if (self.leave == 1 and self.n % 32 != 0) or (self.b_stays and self.n > self.bn):
            return False
        if self.leave == 4 and (self.m % 8 != 0 or self.conv):
            return False
        return self.kernel.smem <= 227 * 1024 // self.ctas - (1024 if self.ctas > 1 else 0)

    def name(self) -> str:
        marks = (
            ("s" if self.stagger else "") + ("", "n", "u", "", "a")[self.leave] + (f"g{self.group_m}" if self.group_m != 8 else "")
        )
        marks += "b" if self.b_stays else ""
        split = f"/{self.split}" if self.split > 1 else ""
        return f"tma{self.bm}x{self.bn}s{self.stages}c{self.ctas}{marks}{split}" + ("p" if self.pdl else "")


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
    blocks: int = 132
    section: int = 0  # heads whose parts lie beside each other; 0: all if causal

    def __post_init__(self) -> None:
        super().__post_init__()
        hd, hdv = (64 if x <= 64 else 128 for x in (self.e, self.ev))
        bq = self.groups * 64
        d = {k: v for k, v in self.kernel.defines.items() if k not in ("WARPS_Q", "WARPS_KV", "ROWS16", "SPLIT")}
        d |= {"HD": hd, "HDV": hdv, "BN": self.bkv, "GROUPS": self.groups, "STAGES": self.stages, "PDL": 1}
        smem = 2 * bq * hd * 2 + self.stages * self.bkv * (hd + hdv) * 2 + self.groups * 64 * (hdv + 8) * 2 + 32 + self.stages * 32
        self.items = math.ceil(self.lq / bq) * self.b * self.h
        self.section = self.section or (self.b * self.h if self.causal else 1)
        grid = (min(self.items, self.blocks), 1, 1)
        files = ("wgmma.cu", "attention_wgmma.cu")
        self.kernel = Kernel("kiln_attention_wgmma", files, d, self.groups * 128 + 128, smem, grid)

    def name(self) -> str:
        return f"wg{self.groups}b{self.bkv}s{self.stages}/{self.section}"


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
            "BIAS_CONST": 1,
            "VEC": v,
            "B_CONST": 1,
            "INDEX": "int",
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
            "BIAS_CONST": 1,
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


@dataclass
class Stem:
    """conv_stem.cu: an image [N, H, W, C] of one to three channels, also as NCHW."""

    dtype: str
    conv: Conv
    planes: bool = False
    blocks: int = 396
    pdl: bool = True
    kernel: Kernel = field(init=False)

    def __post_init__(self) -> None:
        c = self.conv
        d: dict[str, Any] = {
            "IN_TYPE": TYPES[self.dtype],
            "OUT_TYPE": TYPES[self.dtype],
            "BIAS_TYPE": TYPES[self.dtype],
            "HAS_BIAS": 1,
            "BIAS_CONST": 1,
            "PDL": int(self.pdl),
            "B_CONST": 1,
            "IN_C": c.c,
            "OUT_C": c.o,
            "X_N": c.h * c.w * c.c,
            "X_C": c.h * c.w if self.planes else 1,
            "X_H": c.w if self.planes else c.w * c.c,
            "X_W": 1 if self.planes else c.c,
            "C_AT(z,row,col)": f"((row) * {c.o}LL + (col))",
            **c.macros(),
        }
        quads = (c.k + 3) // 4
        patch = (7 * c.stride + c.k) * (15 * c.stride + quads * 4)
        smem = (c.k * quads * c.o * 4 + patch) * 8
        self.tiles = math.ceil(c.oh / 8) * math.ceil(c.ow / 16) * c.n
        self.kernel = Kernel("kiln_conv_stem", ("conv_stem.cu",), d, 128, smem, (min(self.tiles, self.blocks), 1, 1))

    def name(self) -> str:
        return f"stem{self.blocks}" + ("planes" if self.planes else "")


Plan = Stem | Gemm | GemmTma | Attention | Depthwise | Direct

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
    (3, 192, 4, 1),
    (1, 96, 4, 2),
    (2, 64, 4, 2),
    (4, 64, 5, 1),
    (4, 128, 4, 1),
]
