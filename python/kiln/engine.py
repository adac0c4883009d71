"""kiln.Engine: a built model. Needs NumPy or PyTorch only to run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

from kiln import _kiln
from kiln._progress import Progress, shown
from kiln.weights import WeightInfo, Weights, rows_of

__all__ = ["Engine", "TensorInfo", "model_report", "ops_report"]

Path = Union[str, "os.PathLike[str]"]


class TensorInfo(NamedTuple):
    """One input or output of an engine.

    ``dtype`` is "f32", "i64", ... and "c64" or "c128" for complex tensors. A dimension with ``min_shape[i] == max_shape[i]`` is static; ``None`` in ``max_shape``
    means no upper bound; ``opt_shape`` is what the plan was made for.
    """

    name: str
    dtype: str
    min_shape: tuple[int, ...]
    opt_shape: tuple[int, ...]
    max_shape: tuple[Optional[int], ...]


def _profile_rows(inputs: list[tuple[Any, ...]]) -> tuple[list[tuple[Any, ...]], int]:
    """All inputs of profile 0, then all of profile 1, ..., and the number of profiles."""
    counts = [len(row[5]) if len(row) > 5 else 1 for row in inputs]
    count = max(counts, default=1)
    for i, own in enumerate(counts):
        if own not in (1, count):
            raise ValueError(f"input {i} has {own} optimization profiles, but another input has {count}")
    if count == 1:
        return [row[:5] for row in inputs], 1
    rows = []
    for k in range(count):
        for row, own in zip(inputs, counts):
            rows.append((*row[:2], *row[5][k if own > 1 else 0]) if len(row) > 5 else row)
    return rows, count


def _shared_dims(inputs: list[tuple[Any, ...]]) -> str:
    """Pairs of sizes with one name, as the C library takes them."""
    first: dict[str, str] = {}
    pairs = []
    for i, row in enumerate(inputs):
        for axis, name in (row[6] if len(row) > 6 else {}).items():
            at = f"{i}.{axis}"
            if name in first:
                pairs.append(f"{first[name]}={at}")
            first.setdefault(name, at)
    return ",".join(pairs)


class Engine(_kiln.Engine):
    """A built model: graph, weights and plan. It does not change, except that :meth:`refit` gives it other weights.

    Make one with :meth:`build`, :meth:`open` or :meth:`load`; call it with one array for each input. Inputs are
    ``torch.Tensor``, ``numpy.ndarray`` or anything with ``__dlpack__`` on the CPU, of the dtypes and shapes that
    :attr:`inputs` tells, with any strides; they are not copied. Outputs are new ``torch.Tensor`` if one of the inputs is,
    else ``numpy.ndarray``.

    Any number of threads may call one engine at once; each call in flight has a context (activations and threads) of its
    own, which is kept for later calls. Models with mutated buffers keep their state per context, so call those from one
    thread.
    """

    _call: Optional[_kiln.Runner] = None
    _names: Optional[frozenset[str]] = None

    @classmethod
    def build(
        cls,
        model: Union[Path, bytes, bytearray, memoryview],
        *,
        target: Optional[str] = None,
        precision: Optional[str] = None,
        inputs: Sequence[tuple[Any, ...]] = (),
        tune: float = 0.0,
        cache: Optional[Path] = None,
        threads: int = 0,
        progress: Progress = None,
        method: Optional[str] = None,
        metadata: Optional[dict[str, str]] = None,
        allow_host_fallback: bool = False,
    ) -> Engine:
        """Builds an engine from a model file of ``torch.export.save`` (.pt2) or ``torch.jit.save``: a path, or the file's bytes.

        Args:
            model: path or bytes.
            target: "cpu" (default: the best of this machine), "cpu:avx512", "cpu:avx2", "cpu:scalar", "reference", "cuda" (GPU 0 of
                this machine), "cuda:1" (another), or "cuda:sm_90" (one that need not be here).
            precision: "fp32"; on GPUs "tf32", "fp16", "bf16" too, maybe with patterns of what stays in fp32: "fp16:softmax,head*".
            inputs: (name or None for by position, dtype or None, min shape, opt shape, max shape), which may only
                narrow the ranges that the file carries. Two more entries are possible: the (min, opt, max) shapes of each optimization
                profile, and names of sizes that must be the same in each call, {axis: name}.
            tune: seconds to spend on timing candidates; 0 takes the heuristic choice.
            cache: file where the tuner's results are kept.
            threads: that the tuner assumes; 0 is one per core.
            progress: called as ``progress(stage, fraction)`` now and then; an exception in it cancels the build. True: a line on
                standard error.
            method: of a TorchScript file; default "forward".
            metadata: texts to keep in the engine, for :meth:`metadata`.
            allow_host_fallback: GPUs: operators without a kernel there run on the CPU; else the build lists them and fails.

        Raises:
            KilnError: the file is damaged, an operator is unsupported (all are listed), or an option is wrong.
        """
        rows, profiles = _profile_rows(list(inputs))
        shared = _shared_dims(list(inputs))
        if shared:
            metadata = {**(metadata or {}), "kiln.shared_dims": shared}
        with shown(progress) as call:
            return cls._build(
                model,
                target=target,
                precision=precision,
                inputs=rows,
                profiles=profiles,
                tune=tune,
                cache=None if cache is None else os.fspath(cache),
                threads=threads,
                progress=call,
                method=method,
                metadata=metadata,
                allow_host_fallback=allow_host_fallback,
            )

    @classmethod
    def open(cls, path: Path) -> Engine:
        """Maps an engine file. Weights are paged in on demand; the file must not change meanwhile."""
        return cls._open(path)

    @classmethod
    def load(cls, data: Union[bytes, bytearray, memoryview]) -> Engine:
        """Reads an engine from bytes that :meth:`serialize` or :meth:`save` made."""
        return cls._load(data)

    def save(self, path: Path) -> None:
        """Writes the engine file; ``path`` is either the old file or the complete new one."""
        self._save(path)

    def serialize(self) -> bytes:
        """The bytes that :meth:`save` would write."""
        return self._serialize()

    def verify(self) -> None:
        """Checks the weights' checksums, which loading skips to stay fast. Raises KilnError if they do not match."""
        self._verify()

    def refit(self, weights: Weights, *, strict: bool = True) -> None:
        """Gives the engine other weights, in place: those of another checkpoint of the same model, say.

        Folded, fused and packed weights are made again, so results are those of an engine built with the new weights. Calls that are
        in flight on other threads end with the old weights, later ones have the new ones, and none sees a mixture. Buffers that
        the model mutates keep their values until ``reset``.

        Args:
            weights: a state dict (torch tensors on any device, or NumPy arrays), an ``nn.Module``, or the path of a ``.safetensors``
                file. Weights that are not given keep their values; :attr:`weights` tells which ones must be given.
            strict: False ignores names that the engine lacks (not for files).

        Raises:
            KilnError: names that the engine lacks, wrong shapes or dtypes, missing weights: all are listed at once, and the engine is
                as it was.
        """
        if isinstance(weights, (str, bytes, os.PathLike)):
            self._refit_file(weights)
            return
        rows, kept = rows_of(self._weight_names(), weights, strict)
        self._refit(rows)
        del kept

    def tune(self, seconds: float = 60.0, *, cache: Optional[Path] = None, threads: int = 0) -> None:
        """Times the candidates of each kernel on this machine, in place, and keeps the fastest: for an engine that was built elsewhere.

        Later calls, those of runners and modules that exist too, use the new plan; :meth:`save` writes it.

        Args:
            seconds: to spend at most.
            cache: file where the tuner's results are kept.
            threads: that the tuner assumes; 0 is one per core.

        Raises:
            KilnError: the engine is for a GPU that this machine does not have.
        """
        self._tune(seconds, cache, threads)

    def _weight_names(self) -> frozenset[str]:
        if self._names is None:
            self._names = frozenset(info.name for info in self.weights)
        return self._names

    @property
    def weights(self) -> list[WeightInfo]:
        """The weights of the model by the names in its state dict, for :meth:`refit`; empty for an engine that cannot be refitted."""
        return [WeightInfo(*row) for row in self._weights()]

    @property
    def has_weights(self) -> bool:
        """False for what :meth:`strip` made, until :meth:`refit`."""
        return self._has_weights()

    def strip(self) -> Engine:
        """A copy without weights: small files for plans that are shipped apart from the checkpoint. It runs after a :meth:`refit`
        with all of them."""
        return self._strip()

    @property
    def inputs(self) -> list[TensorInfo]:
        """Names, dtypes and shapes of the inputs, in call order."""
        return [TensorInfo(*row) for row in self._io()[0]]

    @property
    def outputs(self) -> list[TensorInfo]:
        """Names, dtypes and shapes of the outputs."""
        return [TensorInfo(*row) for row in self._io()[1]]

    @property
    def optimization_profiles(self) -> list[list[TensorInfo]]:
        """The inputs of each optimization profile; one for an engine that was built without any."""
        return [[TensorInfo(*row) for row in rows] for rows in self._profiles()]

    @property
    def state_count(self) -> int:
        """How many mutated buffers a context keeps from call to call; 0 for most models."""
        return self._state_count()

    @property
    def target(self) -> str:
        """What the plan is for, such as "cpu:avx512"."""
        return self._target()

    def metadata(self, key: str) -> Optional[str]:
        """A text that the importer left, such as "torch.in_spec"; None if there is none."""
        return self._metadata(key)

    def report(self, what: str = "summary") -> str:
        """Text for people: "graph", "plan", "memory", "why", "summary" or "signature"."""
        return self._report(what)

    def runner(
        self,
        threads: int = 0,
        single: bool = False,
        fallback: Optional[Callable[..., Any]] = None,
        form: Optional[tuple[tuple[Optional[str], ...], tuple[Any, ...], Any, Optional[Callable[..., Any]]]] = None,
    ) -> _kiln.Runner:
        """A callable with contexts of its own, each using ``threads`` threads (0: one per core).

        With ``single`` the only output is returned itself, else a tuple. With ``fallback``, calls whose arguments are
        not exactly one ``torch.Tensor`` for each input go there.

        ``form`` tells how arguments and results nest: names of the arguments, what each is (the number of an input; ``None``, a float, bool or
        str for values that are equal; or tuples, lists and dicts of such), what the result is of the outputs' numbers (``None``: the tuple of them), and a function that makes the
        result of that tuple, or ``None``. ``run`` neither takes nor makes any of it.
        """
        return self._runner(threads=threads, single=single, fallback=fallback, form=form)

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """Runs once and returns a tuple with one array for each output."""
        if self._call is None:
            self._call = self._runner()
        return self._call(*inputs)

    def run_into(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Runs once and writes the results into ``outputs``: tensors or arrays of the right shapes and types, where the caller wants
        them (any strides; NumPy arrays contiguous). Nothing is allocated."""
        if self._call is None:
            self._call = self._runner()
        self._call.run_into(inputs, outputs)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).load, (self.serialize(),))

    def __repr__(self) -> str:
        ins, outs = self._io()
        return f"<kiln.Engine {self.target}: {len(ins)} inputs, {len(outs)} outputs>"


def model_report(path: Path, what: str = "summary") -> str:
    """A report on a model file without building it: "summary" or "graph". Lists unsupported operators."""
    return _kiln.model_report(path, what)


def ops_report(json: bool = False) -> str:
    """Operator coverage, as text or JSON."""
    return _kiln.ops_report(json)
