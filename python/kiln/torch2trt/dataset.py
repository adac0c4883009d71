"""Datasets of example inputs: torch2trt takes shapes, ranges of shapes and calibration data from them."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Optional, Union

import torch

from kiln.torch2trt.flattener import Flattener

__all__ = ["Dataset", "DatasetRecorder", "FolderDataset", "ListDataset", "TensorBatchDataset"]

Shapes = list[tuple[int, ...]]


class Dataset:
    """Items are what a module is called with: a tuple or list of its positional arguments, which may nest."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError

    def insert(self, item: Any) -> None:
        raise NotImplementedError(f"{type(self).__name__} cannot take more items")

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def record(self, module: torch.nn.Module) -> DatasetRecorder:
        """``with dataset.record(module):`` inserts what the module is called with."""
        return DatasetRecorder(self, module)

    @property
    def flattener(self) -> Flattener:
        if not len(self):
            raise ValueError("the dataset is empty, so it does not tell how inputs nest")
        return Flattener.from_value(self[0])

    @property
    def num_inputs(self) -> int:
        return self.flattener.size

    def getitem_flat(self, index: int) -> list[torch.Tensor]:
        return self.flattener.flatten(self[index])

    def shapes_for_index(self, index: int, flat: bool = False) -> Any:
        shapes = [tuple(tensor.shape) for tensor in self.getitem_flat(index)]
        return shapes if flat else self.flattener.unflatten(shapes)

    def shapes(self, flat: bool = False) -> Any:
        """For each input, its shapes in all items."""
        items = [self.shapes_for_index(i, flat=True) for i in range(len(self))]
        columns = [list(column) for column in zip(*items)]
        return columns if flat else self.flattener.unflatten(columns)

    def item_numel(self, index: int) -> int:
        return sum(tensor.numel() for tensor in self.getitem_flat(index))

    def _pick(self, pick: Any, flat: bool) -> Any:
        result: Shapes = []
        for shapes in self.shapes(flat=True):
            if len({len(shape) for shape in shapes}) != 1:
                raise ValueError(f"an input has different numbers of dimensions in the dataset: {sorted(set(shapes))}")
            result.append(tuple(int(pick(sizes)) for sizes in zip(*shapes)))
        return result if flat else self.flattener.unflatten(result)

    def min_shapes(self, flat: bool = False) -> Any:
        return self._pick(min, flat)

    def max_shapes(self, flat: bool = False) -> Any:
        return self._pick(max, flat)

    def median_numel_shapes(self, flat: bool = False) -> Any:
        """The shapes of the item whose size is the median."""
        sizes = [self.item_numel(i) for i in range(len(self))]
        return self.shapes_for_index(sizes.index(statistics.median_low(sizes)), flat)

    def infer_dynamic_axes(self, flat: bool = False) -> Any:
        """For each input, the axes whose size is not the same in all items."""
        pairs = zip(self.min_shapes(flat=True), self.max_shapes(flat=True))
        axes = [[i for i, (low, high) in enumerate(zip(a, b)) if low != high] for a, b in pairs]
        return axes if flat else self.flattener.unflatten(axes)


class ListDataset(Dataset):
    def __init__(self, items: Optional[Sequence[Any]] = None) -> None:
        self.items = list(items) if items is not None else []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    def insert(self, item: Any) -> None:
        self.items.append(item)


class TensorBatchDataset(Dataset):
    """Items are slices of size 1 of tensors along axis 0."""

    def __init__(self, tensors: Optional[Sequence[torch.Tensor]] = None) -> None:
        self.tensors = list(tensors) if tensors is not None else None

    def __len__(self) -> int:
        return len(self.tensors[0]) if self.tensors else 0

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        if not self.tensors or index >= len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return [tensor[index : index + 1] for tensor in self.tensors]

    def insert(self, item: Sequence[torch.Tensor]) -> None:
        if self.tensors is None:
            self.tensors = list(item)
            return
        if len(item) != len(self.tensors):
            raise ValueError(f"expected {len(self.tensors)} tensors, got {len(item)}")
        self.tensors = [torch.cat((whole, part)) for whole, part in zip(self.tensors, item)]


class FolderDataset(Dataset):
    """Items are the ``.pth`` files of a folder, in the order of their names; the folder is made if it is not there."""

    def __init__(self, folder: Union[str, os.PathLike[str]]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def file_paths(self) -> list[str]:
        numbers = re.compile(r"(\d+)")  # so that input_10 comes after input_9

        def order(path: Path) -> list[Any]:
            return [int(part) if part.isdigit() else part for part in numbers.split(path.stem)]

        return [str(path) for path in sorted(self.folder.glob("*.pth"), key=order)]

    def __len__(self) -> int:
        return len(self.file_paths())

    def __getitem__(self, index: int) -> Any:
        paths = self.file_paths()
        if not -len(paths) <= index < len(paths):
            raise IndexError(f"item {index} of {len(paths)}")
        return torch.load(paths[index], weights_only=True)

    def insert(self, item: Any) -> None:
        number = len(self)
        while (self.folder / f"input_{number}.pth").exists():
            number += 1
        path = self.folder / f"input_{number}.pth"
        temporary = path.with_suffix(".pth.tmp")
        torch.save(item, temporary)
        os.replace(temporary, path)


class DatasetRecorder:
    """Inserts the positional arguments of each call of ``module`` into ``dataset`` while it is open."""

    def __init__(self, dataset: Dataset, module: torch.nn.Module) -> None:
        self.dataset = dataset
        self.module = module
        self.handle: Any = None

    def __enter__(self) -> DatasetRecorder:
        self.handle = self.module.register_forward_pre_hook(self._record)
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], traceback: Optional[TracebackType]
    ) -> None:
        self.handle.remove()
        self.handle = None

    def _record(self, module: torch.nn.Module, args: Any) -> None:
        self.dataset.insert(args)
