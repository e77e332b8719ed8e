"""A model's NF4 weights on this disk, so that the next run need not read and quantise it again.

    <folder>/layer-000.safetensors      the parts of a layer's matrices, by name
    <folder>/layer-000.sha256           of that file; written last

One file a layer, so that no more than a layer is in host memory at a time. It is a cache: a layer
that is missing or damaged is quantised again, and a disk that is full costs the cache, not the run:
what was written so far is removed, since the run may need that room.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from repotune.durable import write_durably, writing
from repotune.errors import DiskFull, RunError
from repotune.events import Emit, Notice
from repotune.kernels.nf4 import Nf4

PARTS = ("packed", "scales", "group_scales", "offset")


class QuantisedLayers:
    """The layers in ``folder``, which is that of one base model in one precision.

    They are read, and kept for later runs if ``keeps``.
    """

    def __init__(self, folder: Path, emit: Emit, *, keeps: bool = True) -> None:
        self._folder, self._emit, self._keeps = folder, emit, keeps
        self._written: list[Path] = []

    def count(self) -> int:
        """How many layers are there; they may be damaged."""
        return sum(1 for _ in self._folder.glob("layer-*.sha256"))

    def read(self, layer: int, matrices: Mapping[str, Nf4]) -> bool:
        """Fill the matrices of ``layer``, given by name; False if they are not here."""
        path = self._path(layer)
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != path.with_suffix(".sha256").read_text("ascii"):
                return False
            tensors = safetensors.torch.load(data)
            for name, matrix in matrices.items():
                parts = [tensors[f"{name}.{part}"] for part in PARTS]
                if any(a.shape != b.shape for a, b in zip(parts, matrix.parts(), strict=True)):
                    return False
                matrix.copy_(Nf4(matrix.rows, matrix.columns, *parts))
        except (OSError, UnicodeDecodeError, SafetensorError, KeyError):
            return False
        return True

    def write(self, layer: int, matrices: Mapping[str, Nf4]) -> None:
        """Keep the matrices of ``layer``; the first time that fails, say so, and stop trying."""
        if not self._keeps:
            return
        tensors = {
            f"{name}.{part}": tensor.cpu()
            for name, one in matrices.items()
            for part, tensor in zip(PARTS, one.parts(), strict=True)
        }
        path, data = self._path(layer), safetensors.torch.save(tensors)
        partial, seal = path.with_name(f".{path.name}.partial"), path.with_suffix(".sha256")
        self._written += [partial, path, seal]
        try:
            with writing(path, note="; the run goes on without it", then="start it again"):
                self._folder.mkdir(parents=True, exist_ok=True)
                write_durably(partial, data)
                partial.replace(path)
                write_durably(seal, hashlib.sha256(data).hexdigest().encode("ascii"))
        except (DiskFull, RunError) as error:
            self._keeps = False
            for one in self._written:
                with suppress(OSError):
                    one.unlink()
            self._emit(Notice(message=str(error)))

    def _path(self, layer: int) -> Path:
        return self._folder / f"layer-{layer:03d}.safetensors"
