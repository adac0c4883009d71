"""NVRTC and the CUDA driver through ctypes: compile kernel text, load it, launch it. No package but the NVRTC library is needed."""

from __future__ import annotations

import ctypes
import glob
import os
import sys
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[2] / "src" / "backends" / "cuda" / "kernels"


def find_library(stem: str) -> str:
    """Path of a shared library of the nvidia wheels beside this Python, else the name for the loader."""
    named = os.environ.get("KILN_CUDA_PATH")
    roots = [named] if named else []
    roots += [os.path.join(p, "nvidia") for p in sys.path]
    for root in roots:
        hits = sorted(glob.glob(os.path.join(root, "**", f"lib{stem}.so*"), recursive=True))
        if hits:
            return hits[-1]
    return f"lib{stem}.so"


class Nvrtc:
    """One NVRTC library."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(find_library("nvrtc"))

    def compile(self, text: str, arch: str, options: tuple[str, ...] = ()) -> tuple[bytes, str]:
        """The cubin and the log; raises with the log when the text does not compile."""
        lib, program = self.lib, ctypes.c_void_p()
        lib.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
        args = [f"--gpu-architecture={arch}", "--std=c++17", "-lineinfo", *options]
        array = (ctypes.c_char_p * len(args))(*[a.encode() for a in args])
        rc = lib.nvrtcCompileProgram(program, len(args), array)
        size = ctypes.c_size_t()
        lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        lib.nvrtcGetProgramLog(program, log)
        cubin = b""
        if rc == 0:
            lib.nvrtcGetCUBINSize(program, ctypes.byref(size))
            buffer = ctypes.create_string_buffer(size.value)
            lib.nvrtcGetCUBIN(program, buffer)
            cubin = buffer.raw
        lib.nvrtcDestroyProgram(ctypes.byref(program))
        if rc != 0:
            raise RuntimeError(f"{arch}: {log.value.decode(errors='replace')}")
        return cubin, log.value.decode(errors="replace")


class _Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int * 16)]


class _Config(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    ]


class Driver:
    """Loads cubins into the current (torch's) context and launches their functions."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL("libcuda.so.1")

    def check(self, rc: int, what: str) -> None:
        """Raises when a driver call failed."""
        if rc != 0:
            name = ctypes.c_char_p()
            self.lib.cuGetErrorName(rc, ctypes.byref(name))
            raise RuntimeError(f"{what}: {name.value.decode() if name.value else rc}")

    def load(self, cubin: bytes, name: str, shared: int) -> ctypes.c_void_p:
        """The function `name` with room for `shared` bytes of dynamic shared memory."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self.lib.cuModuleLoadData(ctypes.byref(module), cubin), "cuModuleLoadData")
        self.check(self.lib.cuModuleGetFunction(ctypes.byref(function), module, name.encode()), name)
        if shared > 48 * 1024:
            self.check(self.lib.cuFuncSetAttribute(function, 8, shared), "shared memory")
        return function

    def launch(
        self,
        function: ctypes.c_void_p,
        grid: tuple[int, int, int],
        block: int,
        shared: int,
        stream: int,
        args: list[ctypes._SimpleCData],
        overlap: bool = False,
    ) -> None:
        """Enqueues one launch; `overlap` asks for a programmatic dependent launch."""
        pointers = (ctypes.c_void_p * len(args))(*[ctypes.cast(ctypes.byref(a), ctypes.c_void_p) for a in args])
        attribute = _Attribute(6, 0, (ctypes.c_int * 16)(1))
        config = _Config(
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(block, 1, 1),
            shared,
            ctypes.c_void_p(stream),
            ctypes.pointer(attribute),
            1 if overlap else 0,
        )
        self.check(self.lib.cuLaunchKernelEx(ctypes.byref(config), function, pointers, None), "launch")


def text_of(*names: str) -> str:
    """Kernel files joined."""
    return "\n".join((KERNELS / name).read_text() for name in names)
