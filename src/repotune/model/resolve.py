"""From the name that a user gives to a model on this disk."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from repotune.errors import ModelError
from repotune.events import Emit
from repotune.gguf_file import open_gguf
from repotune.model.shape import CONFIG_FILE, config_shape, gguf_shape, is_gguf, read_config
from repotune.model.starter import STARTER, starter_path
from repotune.model.weights import INDEX_FILE, PICKLES, weight_files
from repotune.records import ModelRef

HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)

SAMPLES: Final = 16
SAMPLE_BYTES: Final = 4096
"""Of each weight file so many pieces, evenly over it, are part of a model's digest."""


def resolve_model(
    name: str, *, revision: str | None, offline: bool, cache: Path | None, emit: Emit
) -> ModelRef:
    """Find the model ``name``: ``starter``, a folder, a .gguf file, or a hub id ``owner/name``.

    Only a hub id may open a connection: it is downloaded into ``cache`` (None: the hub library's
    own, which other programs share), unless ``offline``. ``revision`` is the hub's: a branch, a
    tag or a commit. The architecture is checked here, so that nothing else is done in vain.

    Raises ModelError for a model that is missing, damaged, unsafe or of another architecture,
    DownloadError when the hub fails, DiskFull when the download would not fit.
    """
    if name == STARTER:
        return _local(name, starter_path())
    path = Path(name).expanduser()
    if path.exists():
        return _local(name, path.absolute())
    if not HUB_ID.fullmatch(name):
        hint = f" Did you mean {STARTER}?" if get_close_matches(name.lower(), [STARTER]) else ""
        raise ModelError(
            f"{name} is neither a folder or .gguf file on this disk nor a hub id like "
            f"codellama/CodeLlama-7b-hf: check the spelling.{hint}"
        )
    # huggingface_hub takes 0.3 s to import, and a local model needs none of it.
    from repotune.model.hub import download

    folder, commit = download(name, revision=revision, offline=offline, cache=cache, emit=emit)
    return _folder(name, folder, commit)


def _local(name: str, path: Path) -> ModelRef:
    if path.is_dir():
        return _folder(name, path, None)
    if not is_gguf(path):
        raise ModelError(
            f"{path} is not a model: give a folder in Hugging Face layout or a .gguf file."
        )
    file = open_gguf(path)
    gguf_shape(file)
    digest = _digest([path], file.header)
    return ModelRef(name=name, revision=None, path=str(path), digest=digest)


def _folder(name: str, folder: Path, revision: str | None) -> ModelRef:
    _refuse_pickles(folder)
    config = read_config(folder)
    config_shape(config, folder / CONFIG_FILE)
    files = weight_files(folder)
    if (folder / INDEX_FILE).is_file():
        files.append(folder / INDEX_FILE)
    digest = _digest(files, (folder / CONFIG_FILE).read_bytes())
    return ModelRef(name=name, revision=revision, path=str(folder), digest=digest)


def _refuse_pickles(folder: Path) -> None:
    """Say so where a folder has weights, but only such as run code when they are read."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror}.") from None
    if any(name.endswith((".safetensors", INDEX_FILE)) for name in names):
        return
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        raise ModelError(
            f"{folder} has its weights only as pickle ({pickles[0]}), which can run code when it "
            "is read: use a copy of the model with .safetensors files."
        )


def _digest(files: Iterable[Path], description: bytes) -> str:
    """See ``ModelRef.digest``: quick, since of the weights themselves only samples are read.

    Another tuning of the same architecture changes nearly all numbers, so it changes those too. The
    samples come last: runs of before they were taken know all that stands before them.
    """
    sizes, samples = [], hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        sizes.append((path.name, size))
        try:
            with path.open("rb") as file:
                for sample in range(SAMPLES):
                    file.seek(size * sample // SAMPLES)
                    samples.update(file.read(SAMPLE_BYTES))
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}.") from None
    described = hashlib.sha256(json.dumps(sizes).encode() + description)
    return f"{described.hexdigest()}-{samples.hexdigest()}"


def weights_id(ref: ModelRef) -> str:
    """SHA-256 that changes with the very weight files: for what is derived from their contents.

    ``ref.digest`` tells models apart by samples of their numbers, so a single other one is missed.
    """
    path = Path(ref.path)
    files = [path] if path.is_file() else weight_files(path)
    # The hub's cache names a file's blob by its content; elsewhere size and time must do.
    places = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((ref.digest, ref.revision, places)).encode()).hexdigest()
