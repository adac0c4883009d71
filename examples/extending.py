"""Custom operators and a rewrite rule, each in about ten lines (docs/extending.md).

cc -O2 -shared -fPIC -Iinclude examples/plugin/scale.c -o scale.so
python examples/extending.py scale.so
"""

from __future__ import annotations

import sys

import torch

import kiln


# Operators as PyTorch knows them: what they compute, and the shapes of their results.
@torch.library.custom_op("mine::scale", mutates_args=())
def scale(x: torch.Tensor, k: float = 1.0) -> torch.Tensor:
    return x * k


@scale.register_fake
def _(x: torch.Tensor, k: float = 1.0) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("mine::quick_gelu", mutates_args=())
def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


@quick_gelu.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.ops.mine.scale(self.layer(x), 0.5)
        return torch.ops.mine.quick_gelu(y) + torch.sigmoid(y) * 3.0


def compare(what: str, compiled: torch.nn.Module, model: torch.nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        difference = (compiled(x).cpu() - model(x.cpu())).abs().max().item()
    print(f"{what}: difference from PyTorch: {difference:.1e}")
    assert difference < 1e-5


def main() -> None:
    model, x = Model().eval(), torch.randn(4, 16)

    # 1. A kernel in C, from a plugin; and a decomposition in Python.
    kiln.load_plugin(sys.argv[1])

    @kiln.register_decomposition(quick_gelu)
    def decomposed(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)

    compiled = kiln.compile(model, [x])
    compare("C kernel and decomposition", compiled, model, x)

    # 2. A rewrite rule: sigmoid(x) * 3 becomes a custom operator. (One that computes the same would be of use.)
    kiln.register_rule("scaled sigmoid", "%s = sigmoid(%x)\n%y = mul(%s, 3.0)", "%s = sigmoid(%x)\n%y = mine.scale(%s) {k=3.0}")
    rewritten = kiln.compile(model, [x])
    compare("rewrite rule", rewritten, model, x)
    assert rewritten.engine.report("graph").count("mine.scale(") == 2

    # 3. The same operator as CUDA text: engines for GPUs can be built anywhere, and run where there is one.
    source = """
    extern "C" __global__ void scale(const x_t *x, float k, out_t *y, long long n) {
      const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
      if (i < n) y[i] = (out_t)(k * (float)x[i]);
    }"""
    kiln.register_cuda_kernel(scale, source, dtypes="f32 f16 bf16")
    on_gpu = kiln.compile(model, [x], target="cuda" if torch.cuda.is_available() else "cuda:sm_90")
    if torch.cuda.is_available():
        compare("CUDA text", on_gpu, model, x.cuda())
    print("on a GPU:", *[line for line in on_gpu.engine.report("plan").splitlines() if "mine.scale(" in line], sep="\n")


if __name__ == "__main__":
    main()
