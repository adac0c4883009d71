"""``from torch2trt.torch2trt import *``, as users' converter files write."""

from __future__ import annotations

import torch

from kiln.torch2trt import converters, dataset, flattener, module, shapes, trt, version_utils
from kiln.torch2trt.calibration import DatasetCalibrator
from kiln.torch2trt.converters import *  # noqa: F403
from kiln.torch2trt.dataset import *  # noqa: F403
from kiln.torch2trt.flattener import *  # noqa: F403
from kiln.torch2trt.misc_utils import trt_int_dtype
from kiln.torch2trt.module import *  # noqa: F403
from kiln.torch2trt.shapes import *  # noqa: F403
from kiln.torch2trt.version_utils import *  # noqa: F403

try:
    import numpy as np
except ImportError:  # pragma: no cover - PyTorch works without
    np = None

_MODULES = (converters, dataset, flattener, module, shapes, version_utils)
__all__ = [name for part in _MODULES for name in part.__all__] + ["DatasetCalibrator", "np", "torch", "trt", "trt_int_dtype"]
