"""What this build can do, as ``torch_tensorrt.ENABLED_FEATURES`` says it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ENABLED_FEATURES"]


class FeatureSet(NamedTuple):
    torchscript_frontend: bool
    torch_tensorrt_runtime: bool
    dynamo_frontend: bool
    fx_frontend: bool
    refit: bool
    qdp_plugin: bool
    windows_cross_compile: bool
    tensorrt_rtx: bool
    trtllm_for_nccl: bool
    native_trt_collectives: bool


ENABLED_FEATURES = FeatureSet(
    torchscript_frontend=True,
    torch_tensorrt_runtime=True,
    dynamo_frontend=True,
    fx_frontend=True,
    refit=True,
    qdp_plugin=True,
    windows_cross_compile=True,
    tensorrt_rtx=False,
    trtllm_for_nccl=False,
    native_trt_collectives=False,
)
