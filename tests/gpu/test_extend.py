"""Custom operators on a GPU: kernels as CUDA text and as code, host functions that enqueue, Torch-TensorRT's ``kernels``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kiln
import kiln.torch_tensorrt.kernels as ttk
from kiln.torch_tensorrt.kernels import trtp

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
ROOT = Path(__file__).resolve().parents[2]


@torch.library.custom_op("gpuext::scale", mutates_args=())
def scale(x: torch.Tensor, k: float = 1.0) -> torch.Tensor:
    return x * k


@scale.register_fake
def _scale(x: torch.Tensor, k: float = 1.0) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("gpuext::row_sum", mutates_args=())
def row_sum(x: torch.Tensor) -> torch.Tensor:
    return x.sum(-1)


@row_sum.register_fake
def _row_sum(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[:-1])


SCALE = """
extern "C" __global__ void scale(const x_t *x, float k, out_t *y, long long n) {
  const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (i < n) y[i] = (out_t)(k * (float)x[i]);
}
"""
ROW_SUM = """
extern "C" __global__ void row_sum(const x_t *x, int d, out_t *y) {
  __shared__ float part[128];
  float s = 0;
  for (int j = threadIdx.x; j < d; j += blockDim.x) s += (float)x[(long long)blockIdx.x * d + j];
  part[threadIdx.x] = s;
  __syncthreads();
  for (int step = 64; step; step /= 2) {
    if (threadIdx.x < step) part[threadIdx.x] += part[threadIdx.x + step];
    __syncthreads();
  }
  if (threadIdx.x == 0) y[blockIdx.x] = (out_t)part[0];
}
"""


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(16, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(torch.ops.gpuext.scale(self.layer(x), 2.5))
        return torch.ops.gpuext.row_sum(y.transpose(-1, -2)) + 1


@pytest.fixture(scope="module")
def model() -> Model:
    kiln.register_cuda_kernel(scale, SCALE, dtypes="any")
    kiln.register_cuda_kernel(row_sum, ROW_SUM, arguments="x int:x_end1 out", grid="out_size", block=128, dtypes="any")
    return Model().eval()


def expected(model: Model, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.layer(x).mul(2.5).relu().transpose(-1, -2).sum(-1) + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_text(model: Model, dtype: torch.dtype) -> None:
    x = torch.randn(3, 7, 16)
    own = Model().eval()
    own.load_state_dict(model.state_dict())
    compiled = kiln.compile(own.to(dtype), [x.to(dtype)], target="cuda")
    got = compiled(x.to(dtype).cuda()).float().cpu()
    torch.testing.assert_close(
        got, expected(model, x), rtol=2e-2 if dtype is torch.float16 else 1e-4, atol=5e-2 if dtype is torch.float16 else 1e-4
    )
    for _ in range(4):  # the same from a captured graph
        torch.testing.assert_close(compiled(x.to(dtype).cuda()).float().cpu(), got)


def test_dynamic_shapes(model: Model) -> None:
    spec = kiln.Input(min_shape=(1, 2, 16), opt_shape=(4, 8, 16), max_shape=(9, 33, 16))
    compiled = kiln.compile(model, [spec], target="cuda")
    for shape in [(1, 2, 16), (9, 33, 16), (4, 8, 16), (5, 31, 16)]:
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x.cuda()).cpu(), expected(model, x), rtol=1e-4, atol=1e-4)


def test_files(model: Model, tmp_path: Path) -> None:
    x = torch.randn(3, 7, 16)
    kiln.save(kiln.compile(model, [x], target="cuda"), tmp_path / "model.kiln")
    torch.testing.assert_close(kiln.load(tmp_path / "model.kiln")(x.cuda()).cpu(), expected(model, x), rtol=1e-4, atol=1e-4)
    code = "import sys, kiln\ntry:\n  kiln.load(sys.argv[1])\nexcept kiln.KilnError as error:\n  print(error)"
    text = subprocess.run([sys.executable, "-c", code, tmp_path / "model.kiln"], capture_output=True, text=True, check=True).stdout
    assert "the custom operator `gpuext.scale` is needed" in text


def test_half_precision_of_a_float_model(model: Model) -> None:
    x = torch.randn(3, 7, 16)
    compiled = kiln.compile(model, [x], target="cuda", precision="fp16")
    torch.testing.assert_close(compiled(x.cuda()).cpu(), expected(model, x), rtol=3e-2, atol=5e-2)


def test_a_text_that_does_not_compile() -> None:
    @torch.library.custom_op("gpuext::broken", mutates_args=())
    def broken(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    broken.register_fake(lambda x: torch.empty_like(x))
    kiln.register_cuda_kernel(broken, 'extern "C" __global__ void broken(x_t *x) { nothing }', arguments="x")

    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.gpuext.broken(x)

    with pytest.raises(kiln.KilnError, match=r"broken.* does not compile"):
        kiln.compile(Broken().eval(), [torch.randn(4)], target="cuda")(torch.randn(4, device="cuda"))


PLUGIN = r"""
#include <dlfcn.h>
#include <kiln/kiln_ext.h>
static kiln_status run(const kiln_op_call *call) {
  static int (*copy)(unsigned long long, unsigned long long, size_t, void *);
  if (!copy) *(void **)&copy = dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuMemcpyDtoDAsync_v2");
  const int code = copy((unsigned long long)call->outputs[0].data, (unsigned long long)call->inputs[0].data,
                        sizeof(float) * (size_t)kiln_elements(&call->inputs[0]), call->stream);
  return code ? kiln_op_fail(&call->args, KILN_DEVICE_ERROR, "copying failed") : KILN_OK;
}
kiln_status kiln_plugin_init(const kiln_ext *ext) {
  const kiln_op_def copy = {.struct_size = sizeof copy, .schema = "gpuext::copy(Tensor x) -> Tensor", .run_cuda = run};
  return ext->register_op(&copy);
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_host_function_that_enqueues(tmp_path: Path) -> None:
    @torch.library.custom_op("gpuext::copy", mutates_args=())
    def copy(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    copy.register_fake(lambda x: torch.empty_like(x))
    (tmp_path / "copy.c").write_text(PLUGIN)
    command = ["cc", "-O2", "-shared", "-fPIC", f"-I{ROOT / 'include'}", tmp_path / "copy.c", "-o", tmp_path / "copy.so", "-ldl"]
    subprocess.run(command, check=True)
    kiln.load_plugin(tmp_path / "copy.so")

    class Copy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.gpuext.copy(x.transpose(0, 1) * 2) + 1

    x = torch.randn(5, 6)
    compiled = kiln.compile(Copy().eval(), [x], target="cuda")
    for _ in range(3):
        torch.testing.assert_close(compiled(x.cuda()).cpu(), x.t() * 2 + 1)


def test_cpu_kernels_beside_the_gpu(tmp_path: Path) -> None:
    plugin = tmp_path / "scale.so"
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", f"-I{ROOT / 'include'}", ROOT / "examples/plugin/scale.c", "-o", plugin], check=True
    )
    kiln.load_plugin(plugin)

    @torch.library.custom_op("mine::scale", mutates_args=())
    def on_cpu(x: torch.Tensor, k: float = 1.0) -> torch.Tensor:
        return x * k

    on_cpu.register_fake(lambda x, k=1.0: torch.empty_like(x))

    class Host(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.mine.scale(x + 1, 3.0) * 2

    x = torch.randn(5, 6)
    with pytest.raises(kiln.KilnError, match=r"no kernel for `mine.scale`"):
        kiln.compile(Host().eval(), [x], target="cuda")
    compiled = kiln.compile(Host().eval(), [x], target="cuda", allow_host_fallback=True)
    torch.testing.assert_close(compiled(x.cuda()).cpu(), (x + 1) * 6)


# ---- torch_tensorrt.kernels ------------------------------------------------------------------------------------------


def test_elementwise_with_a_scalar() -> None:
    source = """
    extern "C" __global__ void my_scale(const float *x, float alpha, int n, float *y) {
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i < n) y[i] = alpha * x[i];
    }"""
    ttk.cuda_kernel_op(
        "gpuext::ttk_scale",
        ttk.KernelSpec(
            kernel_source=source,
            kernel_name="my_scale",
            inputs=[ttk.InputDecl("x"), ttk.ScalarInput("alpha", float)],
            outputs=[ttk.OutputDecl("y", shape=ttk.SameAs("x"))],
            extras=[ttk.Numel("x")],
            geometry=ttk.Elementwise(block=(256,), layout="flat"),
        ),
    )
    x = torch.randn(33, 47, device="cuda")
    torch.testing.assert_close(torch.ops.gpuext.ttk_scale(x, 2.5), 2.5 * x)  # eagerly

    class Scale(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.gpuext.ttk_scale(x.relu(), 2.5)

    compiled = kiln.torch_tensorrt.compile(Scale().cuda().eval(), inputs=[x], min_block_size=1)
    assert isinstance(compiled, kiln.CompiledModule)
    torch.testing.assert_close(compiled(x), 2.5 * x.relu())


def test_many_dimensions_and_several_results() -> None:
    source = """
    extern "C" __global__ void both(const float *x, int h, int w, float *s, float *c) {
      int j = blockIdx.x * blockDim.x + threadIdx.x, i = blockIdx.y * blockDim.y + threadIdx.y;
      if (i >= h || j >= w) return;
      int at = (blockIdx.z * h + i) * w + j;
      s[at] = sinf(x[at]); c[at] = cosf(x[at]);
    }"""
    ttk.cuda_kernel_op(
        "gpuext::sin_cos",
        ttk.KernelSpec(
            kernel_source=source,
            kernel_name="both",
            inputs=[ttk.InputDecl("x")],
            outputs=[ttk.OutputDecl("s", shape=ttk.SameAs(0)), ttk.OutputDecl("c", shape=ttk.SameAs("x"))],
            extras=[ttk.DimSize("x", -2), ttk.DimSize("x", -1)],
            geometry=ttk.Elementwise(block=(16, 16), layout="nd"),
        ),
    )

    class Both(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            s, c = torch.ops.gpuext.sin_cos(x)
            return s * 2 + c

    for shape in [(33, 47), (2, 3, 33, 20)]:
        x = torch.randn(shape, device="cuda")
        compiled = kiln.compile(Both().eval(), [x.cpu()], target="cuda")
        torch.testing.assert_close(compiled(x), x.sin() * 2 + x.cos(), rtol=1e-5, atol=1e-5)


def test_reduction_and_override() -> None:
    ttk.cuda_kernel_op(
        "gpuext::ttk_row_sum",
        ttk.KernelSpec(
            kernel_source=ROW_SUM.replace("x_t", "float").replace("out_t", "float"),
            kernel_name="row_sum",
            inputs=[ttk.InputDecl("x")],
            outputs=[ttk.OutputDecl("y", shape=ttk.ReduceDims("x", (-1,)))],
            extras=[ttk.DimSize("x", -1)],
            geometry=ttk.Reduction(reduce_dims=(-1,), block_size=128),
        ),
    )

    def meta(x: torch.Tensor) -> torch.Tensor:
        return x.new_empty((x.numel() * 2,))

    def launch(inputs: list, outputs: list, tactic: int) -> tuple:
        n = inputs[0].shape_expr.numel()
        params = trtp.KernelLaunchParams()
        params.grid_x = trtp.cdiv(n, 256)
        params.block_x = 256
        extra = trtp.SymIntExprs(1)
        extra[0] = trtp.SymInt32(n)
        return params, extra

    source = """
    extern "C" __global__ void repeat2(const float *x, const int n, float *y) {
      const int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i < n) y[2 * i] = y[2 * i + 1] = x[i];
    }"""
    ttk.cuda_kernel_op(
        "gpuext::repeat2",
        ttk.KernelSpec(kernel_source=source, kernel_name="repeat2", inputs=[ttk.InputDecl("x")]),
        meta_fn=meta,
        aot_fn=launch,
    )

    class Rows(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.gpuext.repeat2(torch.ops.gpuext.ttk_row_sum(x))

    x = torch.randn(300, 65, device="cuda")
    compiled = kiln.compile(Rows().eval(), [x.cpu()], target="cuda")
    torch.testing.assert_close(compiled(x), x.sum(-1).repeat_interleave(2), rtol=1e-4, atol=1e-4)


# ---- code that is compiled already -----------------------------------------------------------------------------------

TWICE = """
.version 7.0
.target sm_80
.address_size 64
.visible .entry twice(.param .u64 x, .param .u32 n, .param .u64 y)
{
  .reg .pred %p;
  .reg .f32 %f<2>;
  .reg .b32 %r<5>;
  .reg .b64 %a<6>;
  mov.u32 %r0, %ctaid.x;
  mov.u32 %r1, %ntid.x;
  mov.u32 %r2, %tid.x;
  mad.lo.s32 %r3, %r0, %r1, %r2;
  ld.param.u32 %r4, [n];
  setp.ge.s32 %p, %r3, %r4;
  @%p bra DONE;
  ld.param.u64 %a0, [x];
  ld.param.u64 %a1, [y];
  cvta.to.global.u64 %a2, %a0;
  cvta.to.global.u64 %a3, %a1;
  mul.wide.s32 %a4, %r3, 4;
  add.s64 %a2, %a2, %a4;
  add.s64 %a3, %a3, %a4;
  ld.global.f32 %f0, [%a2];
  add.f32 %f1, %f0, %f0;
  st.global.f32 [%a3], %f1;
DONE:
  ret;
}
"""


@torch.library.custom_op("gpuext::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


twice.register_fake(torch.empty_like)


class Twice(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.gpuext.twice(x + 1) - 1


@pytest.mark.parametrize("kind", ["ptx", "cubin"])
def test_code(kind: str, tmp_path: Path) -> None:
    code: bytes = TWICE.encode()
    if kind == "cubin":
        import nvrtc

        major, minor = torch.cuda.get_device_capability()
        text = 'extern "C" __global__ void twice(const float *x, int n, float *y) {\n' + (
            "int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) y[i] = 2 * x[i]; }"
        )
        code = nvrtc.Nvrtc().compile(text, f"sm_{major}{minor}")[0]
    kiln.register_cuda_kernel(twice, code, kernel="twice", arguments="x int:x_size out", grid="(x_size + 255) // 256")
    spec = kiln.Input(min_shape=(1, 7), opt_shape=(64, 7), max_shape=(500, 7))
    compiled = kiln.compile(Twice().eval(), [spec], target="cuda")
    for n in (1, 64, 500):
        x = torch.randn(n, 7, device="cuda")
        torch.testing.assert_close(compiled(x), (x + 1) * 2 - 1)
    kiln.save(compiled, tmp_path / "twice.kiln")
    torch.testing.assert_close(kiln.load(tmp_path / "twice.kiln")(x), (x + 1) * 2 - 1)


def test_code_that_the_driver_refuses() -> None:
    x = torch.randn(8)
    for code, part in ((TWICE.replace("add.f32", "add.nothing"), "loading its PTX"), (TWICE.replace("sm_80", "sm_999"), "loading")):
        kiln.register_cuda_kernel(twice, code, arguments="x int:x_size out")
        with pytest.raises(kiln.KilnError, match=f"(?s){part}.*gpuext.twice"):
            kiln.compile(Twice().eval(), [x], target="cuda")(x.cuda())
    kiln.register_cuda_kernel(twice, TWICE, arguments="x int:x_size out")
    torch.testing.assert_close(kiln.compile(Twice().eval(), [x], target="cuda")(x.cuda()).cpu(), (x + 1) * 2 - 1)


def test_ptx_op() -> None:
    def meta(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    def launch(inputs: list, outputs: list, tactic: int) -> tuple:
        n = inputs[0].shape_expr.numel()
        params, extra = trtp.KernelLaunchParams(), trtp.SymIntExprs(1)
        params.grid_x, params.block_x, extra[0] = trtp.cdiv(n, 128), 128, trtp.SymInt32(n)
        return params, extra

    ttk.ptx_op("gpuext::ptx_twice", TWICE.encode(), "twice", meta, None, launch, supports_dynamic_shapes=True)
    x = torch.randn(33, 47, device="cuda")
    torch.testing.assert_close(torch.ops.gpuext.ptx_twice(x), 2 * x)

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.gpuext.ptx_twice(x.relu())

    compiled = kiln.torch_tensorrt.compile(Model().cuda().eval(), inputs=[x], min_block_size=1)
    assert isinstance(compiled, kiln.CompiledModule)
    torch.testing.assert_close(compiled(x), 2 * x.relu())
