"""What feeds int8 calibration: torch2trt's DatasetCalibrator over :mod:`kiln.quantization`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Optional, Union

import torch

from kiln.quantization import Calibration
from kiln.torch2trt import trt
from kiln.torch2trt.dataset import Dataset, ListDataset
from kiln.torch2trt.flattener import Flattener

__all__ = ["DEFAULT_CALIBRATION_ALGORITHM", "DatasetCalibrator", "calibration_of"]

DEFAULT_CALIBRATION_ALGORITHM = trt.CalibrationAlgoType.ENTROPY_CALIBRATION_2
_ALGORITHMS = {
    trt.CalibrationAlgoType.ENTROPY_CALIBRATION: "entropy",
    trt.CalibrationAlgoType.ENTROPY_CALIBRATION_2: "entropy",
    trt.CalibrationAlgoType.MINMAX_CALIBRATION: "minmax",
    trt.CalibrationAlgoType.LEGACY_CALIBRATION: "percentile",
}


class DatasetCalibrator:
    """A data set, an algorithm and a cache file; ``torch2trt(int8_calib_dataset=)`` takes one, too.

    Args:
        dataset: whose items are the module's arguments.
        algorithm: LEGACY_CALIBRATION takes the 99.99th percentile of the magnitudes.
        cache_file: ranges are read from it if it is there, else written to it.
        flattener: how items nest; default: the dataset's.
    """

    def __init__(
        self,
        dataset: Any,
        algorithm: Any = DEFAULT_CALIBRATION_ALGORITHM,
        cache_file: Union[str, os.PathLike[str], None] = None,
        flattener: Optional[Flattener] = None,
    ) -> None:
        if algorithm not in _ALGORITHMS:
            names = ", ".join(f"CalibrationAlgoType.{member.name}" for member in _ALGORITHMS)
            raise ValueError(f"DatasetCalibrator: algorithm must be one of {names}, got {algorithm!r}")
        self.dataset = dataset if isinstance(dataset, Dataset) else _as_dataset(dataset)
        self.algorithm, self.cache_file, self.flattener = algorithm, cache_file, flattener

    def get_algorithm(self) -> Any:
        return self.algorithm

    def get_batch_size(self) -> int:
        return 1

    def samples(self, flattener: Flattener) -> Iterator[tuple[Any, ...]]:
        """Flat arguments of each item, in host memory."""
        for item in self.dataset:
            flat = (self.flattener or flattener).flatten(item)
            yield tuple(value.cpu() if isinstance(value, torch.Tensor) else value for value in flat)


def _as_dataset(dataset: Any) -> Dataset:
    """Anything with items, as torch2trt took before it had classes for that."""
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or isinstance(dataset, (str, bytes, dict)):
        raise TypeError(
            "torch2trt: int8_calib_dataset must be a Dataset, a DatasetCalibrator or a list of the module's arguments, "
            f"got {type(dataset).__name__}"
        )
    return ListDataset([dataset[i] for i in range(len(dataset))])


def calibration_of(dataset: Any, algorithm: Any, flattener: Flattener) -> Calibration:
    """What ``kiln.quantization`` takes."""
    given = dataset if isinstance(dataset, DatasetCalibrator) else DatasetCalibrator(dataset, algorithm)
    if not len(given.dataset):
        raise ValueError("torch2trt: int8_calib_dataset is empty")
    return Calibration(list(given.samples(flattener)), _ALGORITHMS[given.algorithm], given.cache_file)
