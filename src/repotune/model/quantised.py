"""A model's NF4 weights on this disk, so that the next run need not read and quantise it again.

    v1-<id>-<precision>/layer-000.safetensors   the parts of a layer's matrices, by name
    v1-<id>-<precision>/layer-000.sha256        of that file; written last

One file a layer, so that no more than a layer is in host memory at a time. It is a cache: a layer
that is missing or damaged is quantised again, and a disk that is full costs the cache, not the run:
what was written so far is removed, since the run may need that room. Ids change with a model's
files and place, so what no run asks for any more is removed in its turn.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from repotune.durable import write_durably, writing
from repotune.errors import DiskFull, RunError
from repotune.events import Emit, Notice
from repotune.kernels.nf4 import Nf4

VERSION = 1
"""Raised when what was kept before can no longer be read."""
KEPT = 4
"""Folders that stay, those that were used last: 3.3 GB each of a model of 7B."""
_FOLDER = re.compile(r"(?:v(\d+)-)?[0-9a-f]{32}-(?:bf16|fp16|fp32)")
_FILE = re.compile(r"layer-\d{3}\.(?:safetensors|sha256)|\.layer-\d{3}\.safetensors\.partial")
PARTS = ("packed", "scales", "group_scales", "offset")


class QuantisedLayers:
    """The layers in ``folder``, which is that of one base model in one precision.

    They are read, and kept for later runs if ``keeps``.
    """

    def __init__(self, folder: Path, emit: Emit, *, keeps: bool = True) -> None:
        self._folder, self._emit, self._keeps = folder, emit, keeps
        self._written: list[Path] = []

    @staticmethod
    def folder_name(weights_id: str, precision: str) -> str:
        """Of the layers made from those weights in ``precision``."""
        return f"v{VERSION}-{weights_id[:32]}-{precision}"

    def count(self) -> int:
        """How many layers are there; they may be damaged."""
        return sum(1 for _ in self._folder.glob("layer-*.sha256"))

    def remove_unused(self) -> None:
        """Remove what this version cannot read, and all but the folders that were used last.

        Only folders beside this one that have its kind of name, and in them only such files.
        """
        others = [one for one in self._folder.parent.glob("*") if _is_ours(one)]
        readable = sorted((one for one in others if _version(one) >= VERSION), key=_used)
        stay = {self._folder, *readable[-KEPT:]}
        freed = sum(_remove(one) for one in others if one not in stay)
        if freed:
            self._emit(
                Notice(
                    message=f"Removed {freed / 1e9:.1f} GB of 4-bit weights of other models, or of "
                    f"earlier versions, from {self._folder.parent}: the next run that needs some "
                    "of them makes them again."
                )
            )

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
        with suppress(OSError):  # a folder that is only read stays for others to keep
            os.utime(self._folder)
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


def _is_ours(folder: Path) -> bool:
    is_named_so = bool(_FOLDER.fullmatch(folder.name)) and not folder.is_symlink()
    return is_named_so and any(_FILE.fullmatch(path.name) for path in folder.glob("*"))


def _version(folder: Path) -> int:
    """0: from before versions had numbers."""
    match = _FOLDER.fullmatch(folder.name)
    return int(match[1] or 0) if match else 0


def _used(folder: Path) -> float:
    """When it was read or written last; 0 if it is gone meanwhile."""
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _remove(folder: Path) -> int:
    """Bytes of the files that went."""
    freed = 0
    for path in folder.glob("*"):
        # Of a run beside this one: Windows keeps what is open, and elsewhere it is read to its end.
        with suppress(OSError):
            size = path.stat().st_size
            if _FILE.fullmatch(path.name):
                path.unlink()
                freed += size
    with suppress(OSError):  # something else lies in it
        folder.rmdir()
    return freed
