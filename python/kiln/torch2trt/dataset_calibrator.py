"""``torch2trt.dataset_calibrator``."""

from __future__ import annotations

from kiln.torch2trt.calibration import DEFAULT_CALIBRATION_ALGORITHM, DatasetCalibrator

__all__ = ["DEFAULT_CALIBRATION_ALGORITHM", "DatasetCalibrator"]
