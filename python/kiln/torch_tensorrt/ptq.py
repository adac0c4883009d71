"""int8 calibrators, as ``torch_tensorrt.ptq`` had them: ``compile(..., enabled_precisions={torch.int8}, calibrator=...)``.

They measure ranges on sample data and keep them in a cache file; see :mod:`kiln.quantization` for what becomes of them.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable, Iterator
from typing import Any, Optional, Union

import torch

from kiln import checks
from kiln.quantization import Calibration

__all__ = ["CacheCalibrator", "CalibrationAlgo", "DataLoaderCalibrator"]


class CalibrationAlgo(enum.Enum):
    """How a range is chosen; LEGACY takes the 99.99th percentile of the magnitudes."""

    ENTROPY_CALIBRATION = "entropy"
    ENTROPY_CALIBRATION_2 = "entropy_2"
    LEGACY_CALIBRATION = "percentile"
    MINMAX_CALIBRATION = "minmax"


_RULES = {
    "dataloader": checks.Rule(lambda value: hasattr(value, "__iter__"), "iterable, batch by batch"),
    "cache_file": checks.optional(checks.PATH),
    "use_cache": checks.BOOL,
    "algo_type": checks.one_of(CalibrationAlgo),
}


class _Calibrator:
    data: Optional[Iterable[Any]] = None

    def __init__(self, name: str, **given: Any) -> None:
        given = {key: value for key, value in given.items() if key in _RULES}
        checks.check_all(name, given, _RULES)
        self.cache_file, self.use_cache, self.algo_type = given["cache_file"], given["use_cache"], given["algo_type"]
        self.data = given.get("dataloader")

    def calibration(self) -> Calibration:
        algorithm = self.algo_type.value.partition("_")[0]
        return Calibration(None if self.data is None else _Samples(self.data), algorithm, self.cache_file, self.use_cache)


class _Samples:
    """Batches as arguments in host memory; what comes after the model's inputs (labels) is left out by whoever calls the model."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for batch in self.batches:
            items = tuple(batch) if isinstance(batch, (list, tuple)) else (batch,)
            yield tuple(item.cpu() if isinstance(item, torch.Tensor) else item for item in items)


class DataLoaderCalibrator(_Calibrator):
    """Measures on the batches of a ``torch.utils.data.DataLoader`` (or anything that yields batches: a tensor, or a list whose first
    items are the model's inputs).

    Args:
        dataloader: the batches.
        cache_file: where the ranges are written, and read from with ``use_cache``.
        use_cache: take the ranges from ``cache_file`` if it is there.
        algo_type: a :class:`CalibrationAlgo`.
        device: accepted; samples are moved to where they are needed.
    """

    def __init__(
        self,
        dataloader: Iterable[Any],
        algo_type: CalibrationAlgo = CalibrationAlgo.ENTROPY_CALIBRATION_2,
        cache_file: Union[str, os.PathLike[str], None] = None,
        use_cache: bool = False,
        device: Any = None,
    ) -> None:
        super().__init__(
            "DataLoaderCalibrator", dataloader=dataloader, cache_file=cache_file, use_cache=use_cache, algo_type=algo_type
        )


class CacheCalibrator(_Calibrator):
    """Takes all ranges from a cache file."""

    def __init__(
        self, cache_file: Union[str, os.PathLike[str]], algo_type: CalibrationAlgo = CalibrationAlgo.ENTROPY_CALIBRATION_2
    ) -> None:
        checks.check("CacheCalibrator", "cache_file", cache_file, checks.PATH)
        super().__init__("CacheCalibrator", cache_file=cache_file, use_cache=True, algo_type=algo_type)
