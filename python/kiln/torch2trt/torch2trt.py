"""``from torch2trt.torch2trt import *``, as users' converter files write."""

from __future__ import annotations

import torch

from kiln.torch2trt import converters, module, shapes, trt
from kiln.torch2trt.converters import *  # noqa: F403
from kiln.torch2trt.module import *  # noqa: F403
from kiln.torch2trt.shapes import *  # noqa: F403

__all__ = converters.__all__ + module.__all__ + shapes.__all__ + ["torch", "trt"]
