"""CUDA graphs for small steps, whose kernels end before the host has launched the next one.

A pass over a row of the same size is the same launches on other numbers. Once a size has been seen
and its buffers are there, its launches are recorded, and from then on replayed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_NUMBERS = 2**24
"""Of a hidden state [T, D]. Larger passes keep the GPU busy by themselves: a graph of 8,192 tokens
of width 4,096 gains nothing."""
MAX_GRAPHS = 4
"""Each holds the memory that its operations allocate."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What differs from row to row, on the device."""

    input_ids: Tensor
    labels: Tensor
    positions: Tensor
    bounds: Tensor
    """Of documents, see ``kernels.Documents``."""
    scale: Tensor
    """[] fp32, the factor on the gradient."""

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order of the fields."""
        return self.input_ids, self.labels, self.positions, self.bounds, self.scale


@dataclass(slots=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    loss: Tensor


class Graphs:
    """Recorded passes by what makes their launches the same."""

    def __init__(self, *, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._recorded: dict[Hashable, _Recorded] = {}
        self._seen: set[Hashable] = set()
        self._refused: set[Hashable] = set()
        """Passes and names of work that could not be recorded."""
        self._warm: set[str] = set()
        self._fixed: dict[str, torch.cuda.CUDAGraph] = {}
        self._pool, self._fixed_pool = _new_pool(on_gpu), _new_pool(on_gpu)

    def clear(self, *, of_rows: bool = True) -> None:
        """Forget the recorded passes, or those of rows: the memory that they write to may go."""
        if not of_rows:
            self._fixed.clear()
            self._warm.clear()
            self._fixed_pool = _new_pool(self._on_gpu)
        self._recorded.clear()
        self._seen.clear()
        self._refused.clear()
        # The memory of graphs ends with the last of them.
        self._pool = _new_pool(self._on_gpu)

    def replay(self, name: str, work: Callable[[], None]) -> None:
        """``work()``, whose launches are always the same, by a graph from the second call on."""
        graph = self._fixed.get(name)
        if graph is None:
            if not self._on_gpu or name not in self._warm or name in self._refused:
                self._warm.add(name)
                work()
                return
            graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            try:
                with _recording(graph, self._fixed_pool):
                    work()
            except RuntimeError:
                # No memory, as in ``run``, or something that cannot be recorded, such as an
                # operation that waits: nothing was computed yet.
                self._refused.add(name)
                work()
                return
            self._fixed[name] = graph
        graph.replay()

    def run(self, key: Hashable, inputs: Inputs, compute: Callable[[Inputs], Tensor]) -> Tensor:
        """``compute(inputs)``, by a recorded graph from the second call with the same key on."""
        recorded = self._recorded.get(key)
        if recorded is None:
            is_new = key not in self._seen
            if is_new or key in self._refused or len(self._recorded) == MAX_GRAPHS:
                # The first time kernels are compiled and libraries choose theirs, unrecorded.
                self._seen.add(key)
                return compute(inputs)
            try:
                recorded = self._record(key, inputs, compute)
            except torch.OutOfMemoryError:
                # Recording takes memory of its own; nothing was computed yet.
                self._refused.add(key)
                return compute(inputs)
        for static, new in zip(recorded.inputs.tensors(), inputs.tensors(), strict=True):
            static.copy_(new)
        recorded.graph.replay()
        return recorded.loss.clone()  # the next replay writes over it

    def _record(
        self, key: Hashable, inputs: Inputs, compute: Callable[[Inputs], Tensor]
    ) -> _Recorded:
        static = Inputs(*(tensor.clone() for tensor in inputs.tensors()))
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with _recording(graph, self._pool):
            loss = compute(static)
        self._recorded[key] = _Recorded(graph, static, loss)
        return self._recorded[key]


@contextmanager
def _recording(graph: torch.cuda.CUDAGraph, pool: torch.cuda._POOL_HANDLE | None) -> Iterator[None]:
    """What is launched inside; where that fails, torch would go on in the stream of recordings."""
    stream = torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, pool=pool):
            yield
    finally:
        torch.cuda.set_stream(stream)


def _new_pool(on_gpu: bool) -> torch.cuda._POOL_HANDLE | None:
    """One memory for several graphs: none runs beside another, nor reads what it has left."""
    return torch.cuda.graph_pool_handle() if on_gpu else None
