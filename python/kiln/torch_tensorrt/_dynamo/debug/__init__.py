"""``torch_tensorrt.dynamo.Debugger``: what a compilation leaves in a folder for looking at it."""

from __future__ import annotations

from kiln.torch_tensorrt._debugger import Debugger

__all__ = ["Debugger"]
