"""A layer's saved tensors in host memory between forward and backward, copied beside the compute.

Sets of device buffers take turns: while one layer writes into its set, another is on its way to
pinned host memory on a stream of its own. The backward fetches a layer into one of two sets while
the layer above it is computing. A copy under matmuls costs nothing where the link is fast enough.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repotune.kernels import Buffers
from repotune.model.layer import Saved, map_saved

SETS = 3
"""One is written, one is read by the next layer, one is on its way: none waits for another."""
ARRIVALS = 2
"""In the backward one layer computes while the one below it arrives."""


class Offloader:
    """Parks ``Saved`` records by layer and brings them back."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._sets = [Buffers(dtype, device) for _ in range(SETS)]
        self._arrivals = [Buffers(dtype, device) for _ in range(ARRIVALS)]
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._host: dict[tuple[int, int], Tensor] = {}
        self._parked: dict[int, Saved] = {}
        """By layer, in pinned host memory."""
        self._fetched: dict[int, tuple[Saved, torch.cuda.Event]] = {}
        self._leaving: dict[int, tuple[torch.cuda.Event, Saved]] = {}
        """By set: when its tensors are copied, and the tensors, which must live until then."""

    def buffers(self, layer: int) -> Buffers:
        """The set that ``layer`` saves into, once what was in it before is on the host."""
        leaving = self._leaving.pop(layer % SETS, None)
        if leaving is not None:
            torch.cuda.current_stream(self._device).wait_event(leaving[0])
        return self._sets[layer % SETS]

    def park(self, layer: int, saved: Saved) -> None:
        """Copy ``saved`` to the host; its tensors may be written over after ``buffers``.

        Only what lies in one piece is copied: not q, k and v, nor gate and up.
        """
        assert saved.projected is None, "q, k and v are not offloaded"
        assert saved.gated is None, "gate and up are not offloaded"
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        place = iter(range(64))
        with torch.cuda.stream(self._stream):
            host = map_saved(saved, lambda one: self._to_host(layer, next(place), one))
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(self._stream)
        self._leaving[layer % SETS] = (copied, saved)
        self._parked[layer] = host

    def end_forward(self) -> None:
        """Give the sets' memory to the backward, which needs it for what it fetches."""
        for copied, _ in self._leaving.values():
            torch.cuda.current_stream(self._device).wait_event(copied)
        self._leaving.clear()
        for buffers in self._sets:
            buffers.clear()

    def end_backward(self) -> None:
        """Give the arrivals' memory to the next forward."""
        for buffers in self._arrivals:
            buffers.clear()

    def release(self) -> None:
        """Let go of all memory, the host's too; what a broken pass had parked is forgotten."""
        torch.cuda.synchronize(self._device)  # copies that are on their way end first
        self._parked.clear()
        self._fetched.clear()
        self.end_forward()
        self.end_backward()
        self._host.clear()

    def prefetch(self, layer: int) -> None:
        """Start to bring a parked layer back; nothing if it is not parked."""
        parked = self._parked.pop(layer, None)
        if parked is None:
            return
        buffers, place = self._arrivals[layer % ARRIVALS], iter(range(64))
        device = map_saved(parked, lambda one: self._landing(buffers, next(place), one))
        # The layer above the one that computes now read from the same memory.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for target, source in zip(tensors_of(device), tensors_of(parked), strict=True):
                if target is not source:
                    target.copy_(source, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._stream)
        self._fetched[layer] = (device, arrived)

    def fetch(self, layer: int) -> Saved:
        """The layer's tensors on the device again."""
        self.prefetch(layer)
        saved, arrived = self._fetched.pop(layer)
        torch.cuda.current_stream(self._device).wait_event(arrived)
        return saved

    def _landing(self, buffers: Buffers, place: int, parked: Tensor) -> Tensor:
        """Room on the device for a tensor of the host; itself, if it has stayed there."""
        if not parked.is_floating_point():
            return parked
        flat = buffers.take(str(place), parked.numel(), dtype=parked.dtype)
        return flat.as_strided(parked.size(), parked.stride())

    def _to_host(self, layer: int, place: int, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():  # a random state: nobody writes over it
            return tensor
        key = (layer, place)
        host = self._host.get(key)
        if host is None or (host.shape, host.stride()) != (tensor.shape, tensor.stride()):
            host = torch.empty_strided(
                tensor.size(), tensor.stride(), dtype=tensor.dtype, pin_memory=True
            )
            self._host[key] = host
        host.copy_(tensor, non_blocking=True)
        return host


def tensors_of(saved: Saved) -> list[Tensor]:
    """All tensors of a record, in the order of ``map_saved``."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_saved(saved, note)
    return found
