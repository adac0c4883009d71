"""``torch_tensorrt.dynamo._refit``."""

from __future__ import annotations

from kiln.torch_tensorrt._refit import refit_module_weights

__all__ = ["refit_module_weights"]
